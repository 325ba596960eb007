//! The picture as the stats page reads it. Names here are the page's: `src/admin/page/picture.ts`.

use std::time::Duration;

use serde_json::{Value, json};

use super::haproxy::stat::words_of;
use super::picture::verdict::verdict;
use super::picture::{Backend, Count, Frontend, Picture, Rates, Region, Server};
use super::roles::Role;
use crate::state::Reason;
use crate::state::connections::End;
use crate::state::health::Outcome;
use crate::state::records::Checked;

/// The whole.
pub fn picture(picture: &Picture) -> Value {
    let node = &picture.node;
    let verdict = verdict(picture);
    let now = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs_f64(picture.made_at));
    let certificate = |of: &crate::net::tls::Certificate| json!({"name": of.names.join(", "), "file": of.file.display().to_string(), "days": of.days_left(now)});
    json!({
        "made_at": picture.made_at,
        "number": picture.number,
        "verdict": {"level": verdict.level.word(), "text": verdict.text},
        "node": {
            "name": node.name, "version": env!("CARGO_PKG_VERSION"), "pid": node.pid,
            "uptime_seconds": node.uptime.as_secs(), "workers": node.workers,
            "configuration": format!("{:016x}", node.configuration), "stopping": node.stopping,
            "roles": roles(picture),
        },
        "reload": {"done": picture.reloads.done, "failed": picture.reloads.failed, "last": picture.reloads.last},
        "now": picture.last_second,
        "pins": {"used": picture.pins.used, "size": picture.pins.size, "evicted": picture.pins.evicted},
        "drops": counted(Reason::ALL.iter().zip(picture.reasons).map(|(reason, n)| (reason.word(), n))),
        "certificates": picture.certificates.iter().map(certificate).collect::<Vec<_>>(),
        "frontends": picture.frontends.iter().map(frontend).collect::<Vec<_>>(),
        "backends": picture.backends.iter().map(|of| backend(of, picture)).collect::<Vec<_>>(),
    })
}

/// What this node is in its pair.
pub(super) fn roles(picture: &Picture) -> Value {
    let role = |of: &Role| json!({"instance": of.instance, "state": of.state.word(), "since": of.since});
    picture.node.roles.iter().map(role).collect()
}

/// Those that are not nothing.
fn counted(all: impl Iterator<Item = (&'static str, u64)>) -> Value {
    all.filter(|(_, n)| *n > 0).map(|(word, n)| (word.to_owned(), json!(n))).collect::<serde_json::Map<_, _>>().into()
}

fn frontend(of: &Frontend) -> Value {
    let (tally, rates) = (&of.tally, &of.rates);
    json!({
        "name": of.name, "mode": of.mode, "binds": of.binds, "status": "OPEN",
        "connections": of.open, "connections_total": tally[Count::Connections],
        "requests": tally[Count::Requests], "requests_per_second": rates.requests.now,
        "calls_per_second": rates.calls.now, "responses": tally.responses(), "methods": counted(tally.methods()),
        "retransmissions": tally[Count::Retransmissions],
        "bytes_in": tally[Count::BytesIn], "bytes_out": tally[Count::BytesOut],
        "refused": tally[Count::Refused], "dropped": tally[Count::Dropped],
        "reasons": counted(Reason::ALL.iter().zip(of.causes.reasons).map(|(reason, n)| (reason.word(), n))),
        "ends": counted(End::ALL.iter().zip(of.causes.ends).map(|(end, n)| (end.word(), n))),
    })
}

fn backend(of: &Backend, picture: &Picture) -> Value {
    let taking = of.servers.iter().filter(|server| server.takes_new).count();
    json!({
        "name": of.name, "mode": of.mode, "balance": of.balance, "status": if of.up { "UP" } else { "DOWN" },
        "spill_below": of.spill_below, "when_all_down": if of.forwards_when_down { "forward" } else { "reject" },
        "up": taking, "servers_total": of.servers.len() + of.nameless.len(), "calls": of.calls,
        "calls_per_second": of.rates.calls.now,
        "regions": of.regions.iter().map(|region| self::region(region, of)).collect::<Vec<_>>(),
        "servers": of.servers.iter().map(|server| self::server(server, picture)).collect::<Vec<_>>(),
    })
}

fn percent(part: f64) -> f64 {
    part * 100.0
}

fn region(of: &Region, backend: &Backend) -> Value {
    let actual = of.actual();
    let lost: Vec<_> = backend.regions.iter().filter(|r| r.servers > 0 && r.up == 0).map(|r| r.name.as_str()).collect();
    let is_other = (of.expected - of.target).abs() > 0.0005;
    let reason = match (is_other, lost.is_empty()) {
        (false, _) => None,
        (true, false) => Some(format!("no server of {} takes calls", lost.join(", "))),
        (true, true) => Some("too few of a region's servers take calls: its part is smaller with them".to_owned()),
    };
    let own = || backend.servers.iter().filter(|server| server.region == of.name);
    let quickest =
        own().filter_map(|server| server.last_check().filter(|check| check.passed)).map(|check| check.took).min();
    json!({
        "name": of.name, "weight": of.weight, "target_percent": percent(of.target),
        "expected_percent": percent(of.expected), "actual_percent": actual.map(percent),
        "deviation_points": actual.map(|actual| percent(actual - of.expected)),
        "calls_counted": of.opened_in_all, "judged": of.deviates().is_some(), "deviates": of.deviates(), "reason": reason,
        "up": of.up, "servers": of.servers, "availability_percent": percent(of.availability),
        "check_ms": quickest.map(ms),
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn server(of: &Server, picture: &Picture) -> Value {
    let (tally, Rates { calls, requests, .. }) = (&of.tally, of.rates);
    let mut row = json!({
        "name": of.name, "region": of.region, "address": of.uri(), "backup": of.backup,
        "state": state_word(of), "level": of.level().word(),
        "admin": of.state.admin.word(), "health": of.state.health.word(), "takes_new": of.takes_new,
        "why": of.why(), "since_seconds": of.unchanged.as_secs(), "downtime_seconds": of.downtime.as_secs(),
        "weight": of.weight, "weight_configured": of.initial,
        "throttle_percent": (of.state.held_back > 0).then(|| 100 - of.state.held_back),
        "calls": of.calls, "max_calls": of.max_calls, "calls_total": tally[Count::Calls],
        "calls_per_second": calls.now, "max_rate": of.max_rate,
        "requests": tally[Count::Requests], "requests_per_second": requests.now,
    });
    let rest = json!({
        "methods": counted(tally.methods()), "responses": tally.responses(),
        "codes": codes(of),
        "failed": tally[Count::Failed], "unreachable": tally[Count::Unreachable],
        "retransmissions": tally[Count::Retransmissions],
        "p50_ms": of.times.p50.map(ms), "p95_ms": of.times.p95.map(ms), "p99_ms": of.times.p99.map(ms),
        "bytes_in": tally[Count::BytesIn], "bytes_out": tally[Count::BytesOut],
        "check": check(of, picture), "breaker": breaker(of),
    });
    if let (Value::Object(row), Value::Object(rest)) = (&mut row, rest) {
        row.extend(rest);
    }
    row
}

/// One that is on its way up or down says so.
fn state_word(of: &Server) -> &'static str {
    match (of.state_word(), of.record.as_ref().and_then(|record| record.checks.back())) {
        ("up", Some(last)) if !last.passed => "going down",
        ("down" | "dead", Some(last)) if last.passed => "going up",
        (word, _) => word,
    }
}

/// Its responses by method and code.
fn codes(of: &Server) -> Value {
    let code = |(method, code, n): (crate::state::methods::MethodClass, crate::state::methods::Code, u64)| json!({"method": method.word(), "code": code.to_string(), "count": n});
    of.responses.each().map(code).collect::<Vec<_>>().into()
}

fn check(of: &Server, picture: &Picture) -> Value {
    let (Some((rise, fall)), Some(record)) = (of.check, &of.record) else { return Value::Null };
    let ago = |checked: &Checked| picture.made.since(checked.at).as_secs();
    let word = |checked: &Checked| match checked.outcome {
        Outcome::Answered { status, .. } | Outcome::Http { status, has_text: true } => {
            format!("{status} in {:.1} ms", ms(checked.took))
        }
        outcome => words_of(outcome),
    };
    let one = |checked: &Checked| json!({"ok": checked.passed, "word": word(checked), "ago_seconds": ago(checked)});
    let Some(last) = record.checks.back() else { return Value::Null };
    let status = match last.outcome {
        Outcome::Answered { status, .. } | Outcome::Http { status, .. } => Some(status),
        _ => None,
    };
    json!({
        "word": word(last), "ok": last.passed, "status": status, "ms": ms(last.took), "ago_seconds": ago(last),
        "failed_total": record.failed_checks, "down_total": record.downs, "rise": rise, "fall": fall,
        "last": record.checks.iter().map(one).collect::<Vec<_>>(),
    })
}

fn breaker(of: &Server) -> Value {
    let Some(breaker) = of.breaker else { return Value::Null };
    json!({
        "state": breaker.circuit.word(), "closes_in_seconds": of.breaker_rests().map(|rest| rest.as_secs()),
        "trials_done": breaker.trials_done, "trials": breaker.half_open_max, "failures": breaker.failures,
        "total": breaker.counts.total, "failed": breaker.counts.failed, "rejected": breaker.counts.rejected,
    })
}

impl Server {
    /// How its last check ended.
    fn last_check(&self) -> Option<&Checked> {
        self.record.as_ref()?.checks.back()
    }
}
