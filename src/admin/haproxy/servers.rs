//! `show servers state`: HAProxy's format 1.

use std::fmt::Write;

use crate::admin::haproxy::stat::health;
use crate::admin::picture::{Picture, Server};
use crate::sip::Transport;
use crate::state::server::{Admin, Health, Rest, ServerState};

const COLUMNS: &str = "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
    srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state \
    bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr \
    srv_agent_port";

/// The state of every server, or of one backend's.
pub fn state(picture: &Picture, backend: Option<&str>) -> String {
    let mut text = format!("1\n# {COLUMNS}\n");
    for of in picture.servers().filter(|of| backend.is_none_or(|backend| backend == of.backend)) {
        let (op, admin) = (operational(of.state), administrative(of.state.admin));
        let (status, result) = check_result(of);
        let check = if of.check.is_some() { 6 } else { 0 };
        let _ = writeln!(
            text,
            "{} {} {} {} {} {op} {admin} {} {} {} {status} {result} {} {check} 0 0 0 {} {} - {} 0 - - 0",
            of.backend_iid,
            of.backend,
            of.sid,
            of.name,
            of.address.ip(),
            of.weight,
            of.initial,
            of.unchanged.as_secs(),
            // Where HAProxy checks nobody its default `rise` stays there.
            if of.check.is_some() { health(of) } else { 2 },
            of.host.as_deref().unwrap_or("-"),
            of.address.port(),
            u32::from(of.transport == Transport::Tls),
        );
    }
    text
}

/// 0 stopped, 2 running, 3 stopping: alive, but it takes no new calls.
fn operational(state: ServerState) -> u32 {
    match (state.admin, state.health) {
        (Admin::Maint, _) | (_, Health::Down | Health::Dead) => 0,
        (_, Health::Resting(_) | Health::Suspect) => 3,
        (_, Health::Up) => 2,
    }
}

/// Bits: 1 maintenance, 8 drain, both because somebody said so.
fn administrative(admin: Admin) -> u32 {
    match admin {
        Admin::Ready => 0,
        Admin::Maint => 1,
        Admin::Drain | Admin::Leaving => 8,
    }
}

/// HAProxy's numbers of a check's status and result.
fn check_result(of: &Server) -> (u32, u32) {
    let (initial, no_answer, passed, passed_but, refused) = (1, 12, 15, 16, 17);
    match of.state.health {
        _ if of.check.is_none() => (initial, 0),
        Health::Up | Health::Suspect | Health::Resting(Rest::Call) => (passed, 3),
        Health::Resting(Rest::Check) => (passed_but, 4),
        Health::Down => (refused, 2),
        Health::Dead => (no_answer, 2),
    }
}

/// `show servers conn`: connections to servers are few, long-lived and not counted apart.
pub fn connections(picture: &Picture, backend: Option<&str>) -> String {
    let mut text = "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb \
                    idle_lim idle_cur idle_per_thr[1]\n"
        .to_owned();
    for of in picture.servers().filter(|of| backend.is_none_or(|backend| backend == of.backend)) {
        let (ip, port) = (of.address.ip(), of.address.port());
        let _ = writeln!(text, "{} {}/{} {ip} {port} - 5000 0 0 0 0 0 -1 0 0", of.full_name(), of.backend_iid, of.sid);
    }
    text
}
