//! What can be shown of a running balancer. Everything is read where it lives; nothing here touches the message path.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use crate::config::{Backend, Server};
use crate::net::udp::clock;
use crate::sip::token::NameHash;
use crate::state::server::{Admin, Circuit, Health, ServerState};
use crate::state::{Shared, Snapshot, Time};

/// The door to what is shown.
#[derive(Clone)]
pub struct View {
    snapshot: Arc<ArcSwap<Snapshot>>,
    shared: Arc<Shared>,
    workers: usize,
    text: Arc<AtomicU64>,
    started: Time,
    started_at: u64,
}

/// One server as it is shown.
#[derive(Clone, Debug)]
pub struct ServerRow {
    pub id: NameHash,
    /// Position of its backend, from 1, and its own there.
    pub backend_id: usize,
    pub server_id: usize,
    pub backend: String,
    pub name: String,
    pub region: String,
    pub address: SocketAddr,
    /// The name that the DNS has this address for.
    pub host: Option<String>,
    pub state: ServerState,
    pub checked: bool,
    /// What a passed check makes of `srv_check_health`: HAProxy counts from the last failure up.
    pub check_health: u32,
    pub weight: u32,
    /// The weight of the file.
    pub initial: u32,
    /// Calls that were answered and did not end.
    pub calls: usize,
    /// Seconds since `state` changed.
    pub since: u64,
}

impl ServerRow {
    /// How it is in words: `up`, or `up, drain`, or `up, breaker open`.
    pub fn word(&self) -> String {
        let ServerState { admin, health, breaker, .. } = self.state;
        let mut word = health.word().to_owned();
        if admin != Admin::Ready {
            word += &format!(", {}", admin.word());
        }
        if breaker != Circuit::Closed {
            word += &format!(", breaker {}", breaker.word());
        }
        word
    }
}

impl View {
    /// What `workers` threads see; `text` names the configuration.
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, shared: Arc<Shared>, workers: usize, text: Arc<AtomicU64>) -> Self {
        #[allow(clippy::disallowed_methods, reason = "HAProxy's tools want the date of the start")]
        let started_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { snapshot, shared, workers, text, started: clock(), started_at }
    }

    /// The server of a name such as `backend/server`.
    ///
    /// # Errors
    /// In HAProxy's words.
    pub fn server(&self, name: &str) -> Result<ServerRow, String> {
        let (backend, _) = name.split_once('/').ok_or("Require 'backend/server'.")?;
        let snapshot = self.snapshot.load();
        if !snapshot.backends.iter().any(|other| other.config.name == backend) {
            return Err("No such backend.".to_owned());
        }
        let rows = self.rows();
        rows.into_iter()
            .find(|row| name == format!("{}/{}", row.backend, row.name))
            .ok_or_else(|| "No such server.".into())
    }

    /// Whether there is a backend of this name.
    pub fn has_backend(&self, name: &str) -> bool {
        self.backends().iter().any(|backend| backend == name)
    }

    pub fn backends(&self) -> Vec<String> {
        self.snapshot.load().backends.iter().map(|backend| backend.config.name.clone()).collect()
    }

    /// All servers, by backend, without their calls.
    pub fn rows(&self) -> Vec<ServerRow> {
        let (snapshot, now) = (self.snapshot.load(), clock());
        let mut rows = Vec::new();
        for (backend, backend_id) in snapshot.backends.iter().zip(1..) {
            for (config, server_id) in backend.config.servers.iter().zip(1..) {
                let Some(at) = snapshot.server(config.id) else { continue };
                let state = snapshot.servers[at].state;
                let check = backend.config.check.as_ref();
                rows.push(ServerRow {
                    id: config.id,
                    backend_id,
                    server_id,
                    backend: backend.config.name.clone(),
                    name: config.name.clone(),
                    region: backend.config.regions.get(config.region).map_or_else(String::new, |r| r.name.clone()),
                    address: config.address,
                    host: host_of(&backend.config, config),
                    state,
                    checked: check.is_some(),
                    check_health: check.map_or(0, |check| check.rise + check.fall - 1),
                    weight: state.weight.unwrap_or(config.weight),
                    initial: config.weight,
                    calls: 0,
                    since: now.since(state.since.max(self.started)).as_secs(),
                });
            }
        }
        rows
    }

    /// The same with their calls, and the flows of relays. Walks the pin table, which may take a tenth of a second where it holds millions.
    pub async fn rows_with_calls(&self) -> Vec<ServerRow> {
        let shared = Arc::clone(&self.shared);
        let held = tokio::task::spawn_blocking(move || shared.pins.by_server(clock())).await.unwrap_or_default();
        let (mut rows, snapshot) = (self.rows(), self.snapshot.load());
        for row in &mut rows {
            let flows = snapshot.server(row.id).map_or(0, |at| snapshot.servers[at].live.flows());
            row.calls = held.get(&row.id).map_or(0, |held| held.calls) + flows as usize;
        }
        rows
    }

    /// `show info`: the lines of HAProxy's that mean something here, in its order.
    pub fn info(&self) -> String {
        let uptime = clock().since(self.started).as_secs();
        let receives = self.shared.workers.sum(|worker| &worker.receives);
        format!(
            "Name: HAProxy\nVersion: {}\nRelease_date: {RELEASED}\nNbthread: {}\nNbproc: 1\nProcess_num: 1\nPid: {}\n\
             Uptime: {}\nUptime_sec: {uptime}\nCumReq: {receives}\nnode: {}\nStopping: 0\nListeners: {}\n\
             Build info: trunkline {} (speaks HAProxy's runtime API)\nStart_time_sec: {}\n",
            self.version(),
            self.workers,
            process::id(),
            days(uptime),
            node(),
            self.snapshot.load().binds.len(),
            env!("CARGO_PKG_VERSION"),
            self.started_at,
        )
    }

    /// The HAProxy whose surface this is, and ours behind it: HAProxy's tools want two numbers in front.
    pub fn version(&self) -> String {
        format!("2.6.0-trunkline{}", env!("CARGO_PKG_VERSION"))
    }

    /// `show servers state`: HAProxy's format 1.
    pub fn servers_state(&self, backend: Option<&str>) -> String {
        let mut text = format!("1\n# {}\n", STATE_COLUMNS.join(" "));
        for row in self.rows().iter().filter(|row| backend.is_none_or(|backend| backend == row.backend)) {
            let (op, admin) = (operational(row.state), administrative(row.state.admin));
            let (status, result) = check_result(row);
            let health = if op == 2 { row.check_health } else { 0 };
            let check = if row.checked { 6 } else { 0 };
            let _ = writeln!(
                text,
                "{} {} {} {} {} {op} {admin} {} {} {} {status} {result} {health} {check} 0 0 0 {} {} - 0 0 - - 0",
                row.backend_id,
                row.backend,
                row.server_id,
                row.name,
                row.address.ip(),
                row.weight,
                row.initial,
                row.since,
                row.host.as_deref().unwrap_or("-"),
                row.address.port(),
            );
        }
        text
    }

    /// `status`: a table for people.
    pub async fn table(&self) -> String {
        let heads = ["server", "region", "address", "state", "for", "weight", "calls"].map(str::to_owned);
        let mut lines = vec![heads];
        for row in self.rows_with_calls().await {
            let weight = match row.weight == row.initial {
                true => row.weight.to_string(),
                false => format!("{} (file: {})", row.weight, row.initial),
            };
            lines.push([
                format!("{}/{}", row.backend, row.name),
                row.region.clone(),
                row.address.to_string(),
                row.word(),
                short(row.since),
                weight,
                row.calls.to_string(),
            ]);
        }
        for backend in &self.snapshot.load().backends {
            let names = backend.config.names.iter().filter(|named| named.servers(&backend.config).next().is_none());
            lines.extend(names.map(|named| {
                let region = backend.config.regions.get(named.region).map_or("", |region| region.name.as_str());
                let name = format!("{}/{}", backend.config.name, named.name);
                let [none, weight] = ["-".to_owned(), named.weight.to_string()];
                [name, region.into(), named.query.to_string(), "no address".into(), none.clone(), weight, none]
            }));
        }
        let mut text = format!(
            "trunkline {}, pid {}, up {}, {} workers, configuration {:016x}\n\n",
            env!("CARGO_PKG_VERSION"),
            process::id(),
            short(clock().since(self.started).as_secs()),
            self.workers,
            self.text.load(Ordering::Relaxed),
        );
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default();
        let widths: [usize; 7] = std::array::from_fn(width);
        for line in &lines {
            let cells: String = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
            text += cells.trim_end();
            text.push('\n');
        }
        text
    }

    /// The same for programs. Names and addresses need no quoting: the configuration allows plain letters only.
    pub async fn json(&self) -> String {
        let row = |row: ServerRow| {
            format!(
                "{{\"backend\":\"{}\",\"server\":\"{}\",\"region\":\"{}\",\"address\":\"{}\",\"health\":\"{}\",\
                 \"admin\":\"{}\",\"breaker\":\"{}\",\"since_seconds\":{},\"weight\":{},\"initial_weight\":{},\"calls\":{}}}",
                row.backend,
                row.name,
                row.region,
                row.address,
                row.state.health.word(),
                row.state.admin.word(),
                row.state.breaker.word(),
                row.since,
                row.weight,
                row.initial,
                row.calls,
            )
        };
        let rows: Vec<_> = self.rows_with_calls().await.into_iter().map(row).collect();
        format!(
            "{{\"version\":\"{}\",\"pid\":{},\"uptime_seconds\":{},\"workers\":{},\"configuration\":\"{:016x}\",\
             \"servers\":[{}]}}\n",
            env!("CARGO_PKG_VERSION"),
            process::id(),
            clock().since(self.started).as_secs(),
            self.workers,
            self.text.load(Ordering::Relaxed),
            rows.join(","),
        )
    }
}

fn host_of(backend: &Backend, server: &Server) -> Option<String> {
    let (name, _) = server.name.split_once('@')?;
    Some(backend.names.iter().find(|named| named.name == name)?.query.host.clone())
}

/// When this version came out, as HAProxy writes it.
const RELEASED: &str = "2026/11/21";

const STATE_COLUMNS: [&str; 25] = [
    "be_id",
    "be_name",
    "srv_id",
    "srv_name",
    "srv_addr",
    "srv_op_state",
    "srv_admin_state",
    "srv_uweight",
    "srv_iweight",
    "srv_time_since_last_change",
    "srv_check_status",
    "srv_check_result",
    "srv_check_health",
    "srv_check_state",
    "srv_agent_state",
    "bk_f_forced_id",
    "srv_f_forced_id",
    "srv_fqdn",
    "srv_port",
    "srvrecord",
    "srv_use_ssl",
    "srv_check_port",
    "srv_check_addr",
    "srv_agent_addr",
    "srv_agent_port",
];

/// 0 stopped, 2 running, 3 stopping: alive, but it takes no new calls.
fn operational(state: ServerState) -> u32 {
    match (state.admin, state.health) {
        (Admin::Maint, _) | (_, Health::Down | Health::Dead) => 0,
        (_, Health::Resting | Health::Suspect) => 3,
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
fn check_result(row: &ServerRow) -> (u32, u32) {
    let (initial, no_answer, passed, passed_but, refused) = (1, 12, 15, 16, 17);
    match row.state.health {
        _ if !row.checked => (initial, 0),
        Health::Up | Health::Suspect => (passed, 3),
        Health::Resting => (passed_but, 4),
        Health::Down => (refused, 2),
        Health::Dead => (no_answer, 2),
    }
}

/// As HAProxy writes it: `0d 1h02m03s`.
fn days(seconds: u64) -> String {
    format!("{}d {}h{:02}m{:02}s", seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// The two largest units: `3s`, `2m 3s`, `1h 2m`, `4d 1h`.
fn short(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// This machine's name.
fn node() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!([3, 123, 3_723, 349_200].map(short), ["3s", "2m 3s", "1h 2m", "4d 1h"]);
        assert_eq!(days(93_784), "1d 2h03m04s");
    }
}
