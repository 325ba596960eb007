//! HAProxy's families, those of its own exporter in version 2.6: its names, labels and units.

use super::Exposition;
use crate::admin::haproxy::fields::Field;
use crate::admin::haproxy::stat::{Kind, Row, Value, Wanted, rows, status_of};
use crate::admin::picture::{Count, Picture};

/// A family: HAProxy's column, what stands behind `haproxy_frontend_` and so on, its type, what it must be divided by to
/// be in Prometheus' units, and of what it is told: f(rontends), b(ackends), s(ervers).
type Family = (Field, &'static str, &'static str, f64, &'static str);

const SECONDS: f64 = 1000.0;

#[rustfmt::skip]
const FAMILIES: &[Family] = {
    use Field::*;
    &[
        (qcur, "current_queue", "gauge", 1.0, "bs"),
        (qmax, "max_queue", "gauge", 1.0, "bs"),
        (scur, "current_sessions", "gauge", 1.0, "fbs"),
        (smax, "max_sessions", "gauge", 1.0, "fbs"),
        (slim, "limit_sessions", "gauge", 1.0, "fbs"),
        (stot, "sessions_total", "counter", 1.0, "fbs"),
        (bin, "bytes_in_total", "counter", 1.0, "fbs"),
        (bout, "bytes_out_total", "counter", 1.0, "fbs"),
        (dreq, "requests_denied_total", "counter", 1.0, "fb"),
        (dresp, "responses_denied_total", "counter", 1.0, "fbs"),
        (ereq, "request_errors_total", "counter", 1.0, "f"),
        (econ, "connection_errors_total", "counter", 1.0, "bs"),
        (eresp, "response_errors_total", "counter", 1.0, "bs"),
        (wretr, "retry_warnings_total", "counter", 1.0, "bs"),
        (wredis, "redispatch_warnings_total", "counter", 1.0, "bs"),
        (weight, "weight", "gauge", 1.0, "bs"),
        (uweight, "uweight", "gauge", 1.0, "bs"),
        (act, "active_servers", "gauge", 1.0, "b"),
        (bck, "backup_servers", "gauge", 1.0, "b"),
        (chkfail, "check_failures_total", "counter", 1.0, "s"),
        (chkdown, "check_up_down_total", "counter", 1.0, "bs"),
        (lastchg, "check_last_change_seconds", "gauge", 1.0, "bs"),
        (downtime, "downtime_seconds_total", "counter", 1.0, "bs"),
        (qlimit, "queue_limit", "gauge", 1.0, "s"),
        (throttle, "current_throttle", "gauge", 1.0, "s"),
        (lbtot, "loadbalanced_total", "counter", 1.0, "bs"),
        (rate, "current_session_rate", "gauge", 1.0, "fbs"),
        (rate_lim, "limit_session_rate", "gauge", 1.0, "f"),
        (rate_max, "max_session_rate", "gauge", 1.0, "fbs"),
        (check_code, "check_code", "gauge", 1.0, "s"),
        (check_duration, "check_duration_seconds", "gauge", SECONDS, "s"),
        (req_rate_max, "http_requests_rate_max", "gauge", 1.0, "f"),
        (req_tot, "http_requests_total", "counter", 1.0, "fb"),
        (cli_abrt, "client_aborts_total", "counter", 1.0, "bs"),
        (srv_abrt, "server_aborts_total", "counter", 1.0, "bs"),
        (comp_in, "http_comp_bytes_in_total", "counter", 1.0, "fb"),
        (comp_out, "http_comp_bytes_out_total", "counter", 1.0, "fb"),
        (comp_byp, "http_comp_bytes_bypassed_total", "counter", 1.0, "fb"),
        (comp_rsp, "http_comp_responses_total", "counter", 1.0, "fb"),
        (lastsess, "last_session_seconds", "gauge", 1.0, "bs"),
        (qtime, "queue_time_average_seconds", "gauge", SECONDS, "bs"),
        (ctime, "connect_time_average_seconds", "gauge", SECONDS, "bs"),
        (rtime, "response_time_average_seconds", "gauge", SECONDS, "bs"),
        (ttime, "total_time_average_seconds", "gauge", SECONDS, "bs"),
        (conn_rate_max, "connections_rate_max", "gauge", 1.0, "f"),
        (conn_tot, "connections_total", "counter", 1.0, "f"),
        (intercepted, "intercepted_requests_total", "counter", 1.0, "f"),
        (dcon, "denied_connections_total", "counter", 1.0, "f"),
        (dses, "denied_sessions_total", "counter", 1.0, "f"),
        (wrew, "failed_header_rewriting_total", "counter", 1.0, "fbs"),
        (connect, "connection_attempts_total", "counter", 1.0, "bs"),
        (reuse, "connection_reuses_total", "counter", 1.0, "bs"),
        (cache_lookups, "http_cache_lookups_total", "counter", 1.0, "fb"),
        (cache_hits, "http_cache_hits_total", "counter", 1.0, "fb"),
        (srv_icur, "idle_connections_current", "gauge", 1.0, "s"),
        (src_ilim, "idle_connections_limit", "gauge", 1.0, "s"),
        (qtime_max, "max_queue_time_seconds", "gauge", SECONDS, "bs"),
        (ctime_max, "max_connect_time_seconds", "gauge", SECONDS, "bs"),
        (rtime_max, "max_response_time_seconds", "gauge", SECONDS, "bs"),
        (ttime_max, "max_total_time_seconds", "gauge", SECONDS, "bs"),
        (eint, "internal_errors_total", "counter", 1.0, "fbs"),
        (idle_conn_cur, "unsafe_idle_connections_current", "gauge", 1.0, "s"),
        (safe_conn_cur, "safe_idle_connections_current", "gauge", 1.0, "s"),
        (used_conn_cur, "used_connections_current", "gauge", 1.0, "s"),
        (need_conn_est, "need_connections_current", "gauge", 1.0, "s"),
    ]
};

/// Its responses by first digit; what SIP has beyond HTTP's is `other`.
const CODES: [(Field, &str); 6] = [
    (Field::hrsp_1xx, "1xx"),
    (Field::hrsp_2xx, "2xx"),
    (Field::hrsp_3xx, "3xx"),
    (Field::hrsp_4xx, "4xx"),
    (Field::hrsp_5xx, "5xx"),
    (Field::hrsp_other, "other"),
];

pub(super) fn render(text: &mut Exposition, picture: &Picture, version: &str) {
    process(text, picture, version);
    let rows = rows(picture, &Wanted::default());
    for (kind, scope, letter) in
        [(Kind::Frontend, "frontend", 'f'), (Kind::Backend, "backend", 'b'), (Kind::Server, "server", 's')]
    {
        let rows: Vec<_> = rows.iter().filter(|row| row.kind == kind).collect();
        if rows.is_empty() {
            continue;
        }
        status(text, scope, &rows);
        for (field, suffix, family, divisor, _) in FAMILIES.iter().filter(|family| family.4.contains(letter)) {
            let name = format!("haproxy_{scope}_{suffix}");
            text.family(&name, family, &format!("HAProxy's column {}.", field.name()));
            for row in &rows {
                let value = row.value(*field).map_or(f64::NAN, |value| value / divisor);
                text.sample(&name, &labels(row, kind), value);
            }
        }
        responses(text, scope, &rows);
    }
    check_status(text, picture);
    aggregates(text, picture);
    aliases(text, picture);
}

fn labels(row: &Row, kind: Kind) -> Vec<(&'static str, &str)> {
    match kind {
        Kind::Server => vec![("proxy", row.proxy()), ("server", row.name())],
        Kind::Frontend | Kind::Backend => vec![("proxy", row.proxy())],
    }
}

/// One sample for each state that there is: 1 for that in which it is.
fn status(text: &mut Exposition, scope: &str, rows: &[&Row]) {
    let name = format!("haproxy_{scope}_status");
    text.gauge(&name, "Whether it is in this state.");
    for row in rows {
        let status = row.words(Field::status);
        let is = |state: &str| match state {
            "UP" => status.starts_with("UP") || status == "OPEN" || status == "no check",
            "DOWN" => status.starts_with("DOWN"),
            other => status == other,
        };
        let states: &[&str] =
            if row.kind == Kind::Server { &["DOWN", "UP", "MAINT", "DRAIN", "NOLB"] } else { &["DOWN", "UP"] };
        for state in states {
            let mut labels = labels(row, row.kind);
            labels.push(("state", state));
            text.sample(&name, &labels, f64::from(u8::from(is(state))));
        }
    }
}

fn responses(text: &mut Exposition, scope: &str, rows: &[&Row]) {
    let name = format!("haproxy_{scope}_http_responses_total");
    text.counter(&name, "SIP responses by first digit.");
    for row in rows {
        for (field, code) in CODES {
            let Some(value) = row.value(field) else { continue };
            let mut labels = labels(row, row.kind);
            labels.push(("code", code));
            text.sample(&name, &labels, value);
        }
    }
}

/// HAProxy's words for how a check ended.
const CHECKS: &[&str] = &[
    "HANA", "SOCKERR", "L4OK", "L4TOUT", "L4CON", "L6OK", "L6TOUT", "L6RSP", "L7TOUT", "L7RSP", "L7OK", "L7OKC",
    "L7STS", "PROCERR", "PROCTOUT", "PROCOK",
];

/// How the last check of each server ended, and how many servers of a backend are like that.
fn check_status(text: &mut Exposition, picture: &Picture) {
    let rows = rows(picture, &Wanted { kinds: Some(4), ..Wanted::default() });
    let is = |row: &Row, status: &str| row.words(Field::check_status) == status;
    text.gauge("haproxy_server_check_status", "Whether the last check ended so.");
    for row in &rows {
        for status in CHECKS {
            let labels = [("proxy", row.proxy()), ("server", row.name()), ("state", status)];
            text.sample("haproxy_server_check_status", &labels, f64::from(u8::from(is(row, status))));
        }
    }
    text.gauge("haproxy_backend_agg_check_status", "Servers whose last check ended so.");
    for backend in &picture.backends {
        for status in CHECKS {
            let own = rows.iter().filter(|row| row.proxy() == backend.name && is(row, status));
            let labels = [("proxy", backend.name.as_str()), ("state", status)];
            text.sample("haproxy_backend_agg_check_status", &labels, own.count() as f64);
        }
    }
}

/// How many servers of a backend are in each state.
fn aggregates(text: &mut Exposition, picture: &Picture) {
    for name in ["haproxy_backend_agg_server_status", "haproxy_backend_agg_server_check_status"] {
        text.gauge(name, "Servers of the backend in this state.");
        for backend in &picture.backends {
            for state in ["DOWN", "UP", "MAINT", "DRAIN", "NOLB"] {
                let is = |status: String| status.starts_with(state) || state == "UP" && status == "no check";
                let count = backend.servers.iter().filter(|server| is(status_of(server))).count();
                text.sample(name, &[("proxy", &backend.name), ("state", state)], count as f64);
            }
        }
    }
    text.gauge("haproxy_sticktable_size", "Keys that a stick table has room for.");
    for (backend, stick) in stick_tables(picture) {
        text.sample("haproxy_sticktable_size", &[("name", backend), ("type", stick.on)], stick.size as f64);
    }
    text.gauge("haproxy_sticktable_used", "Keys that are in a stick table.");
    for (backend, stick) in stick_tables(picture) {
        text.sample("haproxy_sticktable_used", &[("name", backend), ("type", stick.on)], stick.used as f64);
    }
}

fn stick_tables(picture: &Picture) -> impl Iterator<Item = (&str, &crate::admin::picture::StickUsed)> {
    picture.backends.iter().filter_map(|backend| Some((backend.name.as_str(), backend.stick.as_ref()?)))
}

fn process(text: &mut Exposition, picture: &Picture, version: &str) {
    let node = &picture.node;
    let sum = |count: Count| picture.counted(count) as f64;
    let (open, most) = picture.open();
    text.gauge("haproxy_process_build_info", "Whose surface this is.");
    text.sample("haproxy_process_build_info", &[("version", version)], 1.0);
    let rates = &picture.rates;
    for (name, kind, value) in [
        ("nbthread", "gauge", node.workers as f64),
        ("nbproc", "gauge", 1.0),
        ("relative_process_id", "gauge", 1.0),
        ("uptime_seconds", "gauge", node.uptime.as_secs() as f64),
        ("start_time_seconds", "gauge", node.started_at as f64),
        ("max_fds", "gauge", crate::admin::haproxy::info::open_files() as f64),
        ("max_sockets", "gauge", crate::admin::haproxy::info::open_files() as f64),
        ("max_connections", "gauge", most as f64),
        ("hard_max_connections", "gauge", most as f64),
        ("current_connections", "gauge", open as f64),
        ("connections_total", "counter", sum(Count::Connections)),
        ("requests_total", "counter", sum(Count::Requests)),
        ("current_connection_rate", "gauge", rates.connections.now),
        ("max_connection_rate", "gauge", rates.connections.most),
        ("current_session_rate", "gauge", rates.calls.now),
        ("max_session_rate", "gauge", rates.calls.most),
        ("current_tasks", "gauge", node.workers as f64),
        ("stopping", "gauge", f64::from(u8::from(node.stopping))),
        ("jobs", "gauge", node.workers as f64 + open as f64),
        ("listeners", "gauge", picture.frontends.iter().map(|f| f.binds.len()).sum::<usize>() as f64),
        ("bytes_out_total", "counter", sum(Count::BytesIn) + sum(Count::BytesOut)),
    ] {
        text.one(&format!("haproxy_process_{name}"), kind, "As HAProxy has it of itself.", value);
    }
    text.one("haproxy_process_idle_time_percent", "gauge", "HAProxy's; nobody measures it here.", 100.0);
    // What there is nothing of here, or nobody counts, and dashboards ask for.
    for name in NONE {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let help = match name.contains("ssl") {
            true => "HAProxy's; TLS is not counted apart here.",
            false => "HAProxy's; there is no such thing here.",
        };
        text.one(&format!("haproxy_process_{name}"), kind, help, 0.0);
    }
}

const NONE: &[&str] = &[
    "active_peers",
    "busy_polling_enabled",
    "bytes_out_rate",
    "connected_peers",
    "current_backend_ssl_key_rate",
    "current_frontend_ssl_key_rate",
    "current_run_queue",
    "current_ssl_connections",
    "current_ssl_rate",
    "current_zlib_memory",
    "dropped_logs_total",
    "failed_resolutions",
    "frontend_ssl_reuse",
    "http_comp_bytes_in_total",
    "http_comp_bytes_out_total",
    "limit_connection_rate",
    "limit_http_comp",
    "limit_session_rate",
    "limit_ssl_rate",
    "max_backend_ssl_key_rate",
    "max_frontend_ssl_key_rate",
    "max_memory_bytes",
    "max_pipes",
    "max_ssl_connections",
    "max_ssl_rate",
    "max_zlib_memory",
    "pipes_free_total",
    "pipes_used_total",
    "pool_allocated_bytes",
    "pool_failures_total",
    "pool_used_bytes",
    "recv_logs_total",
    "spliced_bytes_out_total",
    "ssl_cache_lookups_total",
    "ssl_cache_misses_total",
    "ssl_connections_total",
    "unstoppable_jobs",
];

/// Names that alert rules of before use.
fn aliases(text: &mut Exposition, picture: &Picture) {
    let backends = &picture.backends;
    text.gauge("haproxy_backend_up", "Whether somebody of the backend takes new calls.");
    for backend in backends {
        text.sample(
            "haproxy_backend_up",
            &[("backend", &backend.name), ("proxy", &backend.name)],
            if backend.up { 1.0 } else { 0.0 },
        );
    }
    text.counter("haproxy_backend_down_total", "How often the backend had nobody left.");
    for backend in backends {
        text.sample(
            "haproxy_backend_down_total",
            &[("backend", &backend.name), ("proxy", &backend.name)],
            backend.downs as f64,
        );
    }
    text.gauge("haproxy_backend_response_time", "Milliseconds until half of the answers came: the slowest server's.");
    for backend in backends {
        let slowest = backend.servers.iter().filter_map(|server| server.times.p50).max();
        let value = slowest.map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0);
        text.sample("haproxy_backend_response_time", &[("backend", &backend.name), ("proxy", &backend.name)], value);
    }
    text.gauge("haproxy_frontend_connections", "Connections of clients that are open.");
    for frontend in &picture.frontends {
        let labels = [("frontend", frontend.name.as_str()), ("proxy", frontend.name.as_str())];
        text.sample("haproxy_frontend_connections", &labels, frontend.open as f64);
    }
}

impl Row {
    /// A number, where there is one.
    fn value(&self, field: Field) -> Option<f64> {
        match self.cell(field)? {
            Value::Number(n) => Some(*n as f64),
            Value::Text(_) => None,
        }
    }

    fn words(&self, field: Field) -> &str {
        match self.cell(field) {
            Some(Value::Text(words)) => words,
            _ => "",
        }
    }

    fn proxy(&self) -> &str {
        self.words(Field::pxname)
    }

    fn name(&self) -> &str {
        self.words(Field::svname)
    }
}
