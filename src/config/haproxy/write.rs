//! The same in our words.

use std::fmt::Write;

use super::asks::Request;
use super::edge::{Bind, Edge, Proxy, Says, Server, Stats, USUAL, USUAL_ERRORS};
use crate::config::streams::DEFAULT_MAX_CONNECTIONS;

/// The whole file.
pub fn write(edge: &Edge) -> String {
    let mut text = String::from(
        "# Made by `trunkline import` from haproxy.cfg: `trunkline check` says what is still wrong with it.\n",
    );
    if let Some(workers) = edge.workers {
        let _ = write!(text, "\n[global]\nworkers = {workers}\n");
    }
    if let Some(stats) = &edge.stats {
        text += &admin(stats);
    }
    for proxy in &edge.proxies {
        if !proxy.binds.is_empty() {
            text += &frontend(proxy, edge);
        }
        if !proxy.servers.is_empty() {
            text += &backend(proxy, edge);
        }
    }
    text
}

fn admin(stats: &Stats) -> String {
    let mut text = "\n[admin]\n".to_owned();
    if let Some(bind) = &stats.bind {
        let _ = writeln!(text, "stats = {}", quoted(bind));
    }
    let role = if stats.may_change { "admin" } else { "viewer" };
    for name in &stats.users {
        // Without a hash the file is refused, and that line says what to do.
        let _ = write!(
            text,
            "\n[[admin.users]]\nname = {}\nrole = \"{role}\"\n# password_hash = what `trunkline hash-password` prints\n",
            quoted(name)
        );
    }
    text
}

fn frontend(proxy: &Proxy, edge: &Edge) -> String {
    let Proxy { name, says, binds, routes, .. } = proxy;
    let is_sip = proxy.is_sip();
    let mut text = format!("\n[[frontend]]\nname = {}\n", quoted(name));
    if !is_sip {
        text += "mode = \"relay\"\n";
    }
    let address = |bind: &Bind| {
        let scheme = if bind.certificates.is_some() { "tls" } else { "tcp" };
        quoted(&format!("{scheme}://{}:{}", bind.address, bind.port))
    };
    let all: Vec<_> = binds.iter().map(address).collect();
    let _ = writeln!(text, "bind = [{}]", all.join(", "));
    let backend = proxy.leads_to();
    let _ = writeln!(text, "backend = {}", quoted(backend));
    // Once both sides have spoken it is HAProxy's time for silence of either, and the backend's.
    let with_servers = edge.proxies.iter().find(|other| other.name == backend && !other.servers.is_empty());
    let tunnel = with_servers.and_then(|of| of.says.tunnel.as_ref());
    if let Some(idle) = tunnel.or(says.client.as_ref()).filter(|_| is_sip) {
        let _ = writeln!(text, "idle = {}", quoted(idle));
    }
    if binds.iter().any(|bind| bind.accept_proxy) {
        text += "# accept_proxy = [\"10.0.0.0/24\"]       # the networks of who sends the header\n";
    }
    if let Some(bind) = binds.iter().find(|bind| bind.certificates.is_some()) {
        text += &tls(bind);
    }
    let mut limits = String::new();
    if let Some(most) = says.maxconn {
        let _ = writeln!(limits, "max_connections = {most}");
    }
    // HAProxy has no such limit without a rule: clients behind a large NAT, or behind another balancer, are one source.
    let most_at_once = says.most_at_once.or(says.maxconn).unwrap_or(DEFAULT_MAX_CONNECTIONS);
    let _ = writeln!(limits, "max_connections_per_source = {most_at_once}");
    if let (Some(most), Some(over)) = (says.most_in_time, says.counted_over) {
        limits += &rate(most, over, is_sip);
    }
    if !says.deny.is_empty() {
        let nets: Vec<_> = says.deny.iter().map(|net| quoted(net)).collect();
        let _ = writeln!(limits, "deny = [{}]", nets.join(", "));
    }
    let _ = write!(text, "\n[frontend.limits]\n{limits}");
    for (net, backend) in routes.iter().filter(|(_, backend)| edge.has_servers(backend)) {
        let _ = write!(text, "\n[[frontend.route]]\nclients = [{}]\nbackend = {}\n", quoted(net), quoted(backend));
    }
    text
}

/// So many connections of one source in so many milliseconds.
fn rate(most: u64, over: u64, is_sip: bool) -> String {
    let a_minute = (most.saturating_mul(60_000) / over).clamp(1, 1_000_000);
    let burst = most.min(1_000_000);
    match is_sip {
        true => format!("per_source_connection_rate = \"{a_minute}/m\"\nper_source_connection_burst = {burst}\n"),
        false => format!("per_source_rate = \"{a_minute}/m\"\nper_source_burst = {burst}\n"),
    }
}

fn tls(bind: &Bind) -> String {
    let mut text = "\n[frontend.tls]\n".to_owned();
    let certificates = bind.certificates.as_deref().unwrap_or_default().trim_end_matches('/');
    let _ = writeln!(text, "certificates = {}", quoted(certificates));
    if let Some(version) = bind.min_version {
        let _ = writeln!(text, "min_version = \"{version}\"");
    }
    if let Some((ca, asked)) = &bind.client_ca {
        let _ = writeln!(text, "client_auth = \"{asked}\"\nclient_ca = {}", quoted(ca));
    }
    text
}

fn backend(proxy: &Proxy, edge: &Edge) -> String {
    let Proxy { name, says, servers, .. } = proxy;
    let is_sip = edge.is_sip(name);
    let mut text = format!("\n[[backend]]\nname = {}\n", quoted(name));
    let _ = writeln!(text, "balance = \"{}\"", says.balance.unwrap_or("roundrobin"));
    text += &stick(says, is_sip);
    let client = edge.frontends_of(name).find_map(|of| of.says.client.as_ref()).or(says.client.as_ref());
    text += &times(says, client, is_sip);
    text += &check(says, servers, is_sip);
    text += &breaker(servers);
    if let Some(version) = servers.iter().find_map(|server| server.send_proxy).filter(|_| !is_sip) {
        let _ = writeln!(text, "send_proxy = \"{version}\"");
    }
    if let Some(server) = servers.iter().find(|server| server.tls) {
        let trust = match (&server.ca, server.anybody) {
            (Some(ca), false) => format!("ca = {}\n", quoted(ca)),
            (_, true) => {
                "verify = false                       # whoever gets between can read everything: write `ca`\n"
                    .to_owned()
            }
            (None, false) => String::new(),
        };
        let _ = write!(text, "\n[backend.tls]\n{trust}");
    }
    let some_are_weighed = servers.iter().any(|server| server.weight.is_some());
    servers.iter().for_each(|server| text += &self::server(server, some_are_weighed));
    text
}

fn stick(says: &Says, is_sip: bool) -> String {
    // A relay's `hash` is by source.
    if !(says.sticks && (says.stick.is_some() || is_sip) || says.sticks_by_balance && is_sip) {
        return String::new();
    }
    let (size, expire) = says.stick.clone().unwrap_or_default();
    let size = size.map_or(String::new(), |size| format!(", size = {size}"));
    let expire = expire.map_or(String::new(), |expire| format!(", expire = {}", quoted(&expire)));
    format!("stick = {{ on = \"source\"{size}{expire} }}\n")
}

/// `client`: the clients' time, which is their frontend's there; here it is a relay's backend's.
fn times(says: &Says, client: Option<&String>, is_sip: bool) -> String {
    let tunnel = says.tunnel.as_ref();
    let client = tunnel.or(client).filter(|_| !is_sip);
    let server = tunnel.or(says.server.as_ref());
    let all = [("connect", says.connect.as_ref()), ("server", server), ("client", client)];
    let all: Vec<_> = all.into_iter().filter_map(|(key, time)| Some(format!("{key} = {}", quoted(time?)))).collect();
    if all.is_empty() { String::new() } else { format!("timeout = {{ {} }}\n", all.join(", ")) }
}

fn check(says: &Says, servers: &[Server], is_sip: bool) -> String {
    let Some(server) = servers.iter().find(|server| server.checked) else {
        return "check = { type = \"none\" }\n".to_owned();
    };
    let asks = &says.asks;
    let reached = |server: &Server| server.tls || !server.check_ssl;
    let mut parts = match asks.is_http && servers.iter().all(reached) {
        true => request(&asks.http.said),
        false if asks.options.said || is_sip => vec!["type = \"options\"".to_owned()],
        false => vec!["type = \"tcp\"".to_owned()],
    };
    let interval = server.interval.clone().unwrap_or_else(|| USUAL.0.to_owned());
    parts.push(format!("interval = {}", quoted(&interval)));
    // HAProxy waits as long as it is to the next one.
    parts.push(format!("timeout = {}", quoted(says.check_timeout.as_ref().unwrap_or(&interval))));
    parts.extend(server.fast_interval.as_ref().map(|fast| format!("fast_interval = {}", quoted(fast))));
    parts.push(format!("rise = {}, fall = {}", server.rise.unwrap_or(USUAL.1), server.fall.unwrap_or(USUAL.2)));
    format!("check = {{ {} }}\n", parts.join(", "))
}

fn request(asked: &Request) -> Vec<String> {
    let or = |written: &Option<String>, usual: &str| quoted(written.as_deref().unwrap_or(usual));
    let mut parts = vec![
        "type = \"http\"".to_owned(),
        format!("method = {}", or(&asked.method, "OPTIONS")),
        format!("path = {}", or(&asked.path, "/")),
    ];
    parts.extend(asked.host.as_ref().map(|host| format!("host = {}", quoted(host))));
    parts.extend(
        asked
            .status
            .as_ref()
            .map(|status| format!("expect = [{}]", status.split(',').map(quoted).collect::<Vec<_>>().join(", "))),
    );
    parts.extend(asked.text.as_ref().map(|text| format!("body = {}", quoted(text))));
    parts
}

/// What live connections say of servers.
fn breaker(servers: &[Server]) -> String {
    let Some(server) = servers.iter().find(|server| server.observed) else { return String::new() };
    let failures = server.error_limit.unwrap_or(USUAL_ERRORS).clamp(1, 1_000);
    let checks = if server.observed_by_answers && server.checked { ", checks = true" } else { "" };
    format!("breaker = {{ failures = {failures}{checks} }}\n")
}

/// Who says nothing of its weight has 1 there, and 100 here.
fn server(server: &Server, some_are_weighed: bool) -> String {
    let scheme = if server.tls { "tls" } else { "tcp" };
    let mut text = format!(
        "\n[[backend.server]]\nname = {}\naddress = {}\n",
        quoted(&server.name),
        quoted(&format!("{scheme}://{}", server.address))
    );
    if let Some(name) = server.tls_name.as_ref().filter(|_| server.tls) {
        let _ = writeln!(text, "tls_name = {}", quoted(name));
    }
    let weight = server.weight.or(some_are_weighed.then_some(1));
    match weight {
        _ if server.disabled => {
            let of_file = weight.map_or(String::new(), |weight| format!("; {weight} in haproxy.cfg"));
            let _ = writeln!(text, "weight = 0                           # disabled{of_file}");
        }
        Some(weight) => {
            let _ = writeln!(text, "weight = {weight}");
        }
        None => {}
    }
    if let Some(most) = server.max_calls {
        let _ = writeln!(text, "max_calls = {most}");
    }
    if let Some(time) = &server.slow_start {
        let _ = writeln!(text, "slow_start = {}", quoted(time));
    }
    if server.backup {
        text += "backup = true\n";
    }
    text
}

/// As TOML has texts: whatever stands in the other file ends none of ours.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
