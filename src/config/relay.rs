//! What mode `relay` asks of a configuration: its own keys, the keys that mean nothing in it, and whose part of a range
//! each port is.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::fault::Faults;
use super::file::FrontendSection;
use super::names::Named;
use super::read::{At, Section};
use super::{Backend, Bind, Check, Frontend, Mode, Ports, Relay, Server, StickOn};
use crate::sip::Transport;

/// As long as a NAT before the client keeps its own mapping at least (RFC 4787, REQ-5).
const DEFAULT_IDLE: Duration = Duration::from_secs(120);
const IDLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
/// RTP and RTCP of 5,000 calls; with a range of 10,000 ports it stays below the open files that a unit usually has.
const DEFAULT_MAX_FLOWS: u64 = 10_000;
/// Each flow takes a port of the address that servers see, and an address has no more.
const MAX_FLOWS: RangeInclusive<u64> = 1..=60_000;
/// Ports that all relays may bind together: half of an address's, so that flows find one, too. Each is an open file.
const PORTS: usize = 32_768;

/// Keys of `[[frontend]]` that change messages, or need them read.
const FRONTEND_KEYS: &[&str] =
    &["advertise", "aliases", "record_route", "path", "force_rport", "send_to", "source_header"];
const LIMITS_KEYS: &[&str] = &["deny_user_agent", "max_message"];
/// Keys that are about connections, and those that are about flows: in each section, and what to do about it.
const OF_CONNECTIONS: (&[&str], &[&str]) =
    (&["tls", "accept_proxy"], &["max_connections", "max_connections_per_source", "per_source_handshake_rate", "ban"]);
const OF_FLOWS: (&[&str], &[&str]) = (&["idle"], &["max_flows"]);
pub const ROUTE_KEYS: &[&str] = &["methods", "hosts"];

/// The mode of a frontend with these binds, with what only `relay` knows. Refuses the keys of the other mode.
pub fn mode(section: &Section<'_, '_>, limits: Option<&Section<'_, '_>>, binds: &[At<Bind>]) -> Mode {
    let is_relay = section.word("mode", false, &[("proxy", false), ("relay", true)]);
    let of_streams = binds.first().is_some_and(|bind| bind.value.transport != Transport::Udp);
    if is_relay {
        refuse(section, FRONTEND_KEYS);
        limits.inspect(|limits| refuse(limits, LIMITS_KEYS));
        if let Some((limits, at)) =
            limits.and_then(|limits| Some((limits, limits.place("per_source_connection_rate")?)))
        {
            let what = "`per_source_connection_rate` is of SIP: what a relay counts of a source is `per_source_rate`";
            limits.fault(at, what, "write `per_source_rate`");
        }
        let (of_others, kind, instead) = match of_streams {
            true => (OF_FLOWS, "datagrams", "`timeout` of the backend says how long a connection may be silent"),
            false => (OF_CONNECTIONS, "connections", "remove it, or write a tcp:// or tls:// address in `bind`"),
        };
        refuse_other(section, of_others.0, kind, instead);
        limits.inspect(|limits| refuse_other(limits, of_others.1, kind, instead));
        if of_streams {
            return Mode::RelayStreams;
        }
    }
    let max_flows = limits.map(|limits| max_flows(limits));
    if !is_relay {
        if let Some((limits, at)) = limits.and_then(|limits| Some((limits, limits.place("max_flows")?))) {
            let what = "`max_flows` belongs to mode \"relay\": a proxy keeps no flows";
            limits.fault(at, what, "remove it, or write `mode = \"relay\"`");
        }
        return Mode::Proxy;
    }
    let idle = section.optional::<Duration>("idle");
    if let Some(idle) = idle.as_ref().filter(|idle| !IDLE.contains(&idle.value)) {
        section.fault(idle.at, "`idle` is no time that a flow can be kept for", "write one from \"1s\" to \"24h\"");
    }
    Mode::Relay(Relay {
        idle: idle.map_or(DEFAULT_IDLE, |idle| idle.value),
        max_flows: max_flows.unwrap_or(DEFAULT_MAX_FLOWS as usize),
    })
}

fn max_flows(limits: &Section<'_, '_>) -> usize {
    limits.number("max_flows", DEFAULT_MAX_FLOWS, MAX_FLOWS) as usize
}

/// Keys that would be ignored are faults.
pub fn refuse(section: &Section<'_, '_>, keys: &[&str]) {
    for key in keys {
        if let Some(at) = section.place(key) {
            let what = format!("`{key}` means nothing in mode \"relay\", which reads no message and changes none");
            section.fault(at, what, "remove it, or write `mode = \"proxy\"`");
        }
    }
}

/// The same for keys that are about another kind of relay.
fn refuse_other(section: &Section<'_, '_>, keys: &[&str], kind: &str, instead: &str) {
    for key in keys {
        if let Some(at) = section.place(key) {
            section.fault(at, format!("`{key}` is about {kind}, and this relay has none"), instead);
        }
    }
}

/// The backends as they are written: where their servers stand, and in which of them one could not be read.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    pub backends: &'a [Backend],
    pub places: &'a [Vec<usize>],
    pub unread: &'a [bool],
}

/// Servers with `ports` have no port that could be asked with OPTIONS.
pub fn no_check(section: Option<Section<'_, '_>>) -> Option<Check> {
    let section = section?;
    if section.optional::<String>("type").is_none_or(|kind| kind.value != "none") {
        section.fault(
            section.at(),
            "servers with `ports` speak no SIP there, and OPTIONS would find all of them dead",
            "write `check = { type = \"none\" }`, or nothing",
        );
    }
    None
}

/// What shows in one backend: who has a part, and that no port has two owners. `places` are those of the servers.
pub fn judge_backend(name: &str, (servers, named): (&[Server], &[Named]), places: &[usize], faults: &mut Faults) {
    let Some(first) = servers.iter().position(|server| server.ports.is_some()) else { return };
    for named in named {
        let what = format!(
            "{name}/{} has `ports`, and {name}/{} is a name, which can have none",
            servers[first].name, named.name
        );
        faults.push(places[first], what, "write the addresses of the name, each with `ports`");
    }
    for (at, (server, place)) in servers.iter().zip(places).enumerate() {
        let Some(ports) = server.ports else {
            let what = format!("server {name}/{} has no `ports`, and others of its backend have", server.name);
            faults.push(*place, what, "add `ports = \"10000-10099\"`, its own part of the frontend's range");
            continue;
        };
        let before = servers[..at].iter().find(|other| other.ports.is_some_and(|other| other.overlaps(ports)));
        if let Some(other) = before {
            let what = format!("ports {ports} of {name}/{} are partly those of {name}/{}", server.name, other.name);
            faults.push(*place, what, "give each port to one server");
        }
    }
}

/// What shows when a frontend is seen together with its backends.
pub fn judge(section: &FrontendSection, frontend: &Frontend, written: Written<'_>, faults: &mut Faults) {
    let Written { backends, places, unread } = written;
    for at in frontend.backends().into_iter().filter(|at| *at < backends.len()) {
        let (backend, places) = (&backends[at], &places[at]);
        let has_parts = backend.servers.iter().any(|server| server.ports.is_some());
        match (frontend.relay().is_some(), has_parts) {
            (false, true) if frontend.relays_streams() => faults.push(
                section.at,
                format!(
                    "frontend \"{}\" relays connections, and servers of \"{}\" have `ports`",
                    frontend.name, backend.name
                ),
                "give each server an address and a port",
            ),
            (false, false) if frontend.relays_streams() => {
                section.binds.iter().for_each(|bind| judge_loop(bind.at, bind.value, backend, faults));
            }
            // What could not be read may be what is missing.
            _ if section.unread_bind || unread[at] => {}
            (true, true) => judge_parts(section, frontend, backend, places, faults),
            (true, false) => judge_without_parts(section, backend, faults),
            (false, true) => faults.push(
                section.at,
                format!("frontend \"{}\" is a proxy, and servers of \"{}\" have `ports`", frontend.name, backend.name),
                "write `mode = \"relay\"`, or servers with an address and a port",
            ),
            (false, false) => {}
        }
        judge_breaker(section, frontend, backend, faults);
        let reads = backend.stick.as_ref().filter(|stick| !matches!(stick.on, StickOn::Source { .. }));
        if !frontend.is_proxy() && reads.is_some() {
            let what = format!("a relay reads no message, and backend \"{}\" sticks by what is in it", backend.name);
            faults.push(section.at, what, "write `stick = { on = \"source\" }` in the backend, or nothing");
        }
    }
    if !frontend.is_proxy() {
        judge_transports(section, frontend, backends, faults);
    }
    if frontend.relay().is_none() {
        for bind in section.binds.iter().filter(|bind| bind.value.ports.count() > 1) {
            faults.push(
                bind.at,
                "a range of ports is for mode \"relay\" of udp://",
                "write one port, or `mode = \"relay\"`",
            );
        }
    }
}

/// What a breaker counts must be there to be seen.
fn judge_breaker(section: &FrontendSection, frontend: &Frontend, backend: &Backend, faults: &mut Faults) {
    let Some(breaker) = backend.breaker.as_ref().filter(|_| !frontend.is_proxy()) else { return };
    let (name, failures) = (&backend.name, breaker.failures);
    if frontend.relay().is_some() {
        let what = format!("a relay sees no answers, and the breaker of \"{name}\" waits for {failures} that fail");
        faults.push(section.at, what, "take `breaker` away, or give the relay a backend of its own");
    } else if !breaker.codes.is_empty() {
        let what = format!("a relay reads no answers, and the breaker of \"{name}\" has `codes` of some");
        faults.push(section.at, what, "take `codes` away; `checks = true` counts checks, those of HTTP too");
    }
}

/// A relay passes datagrams on, or connections, and turns neither into the other.
fn judge_transports(section: &FrontendSection, frontend: &Frontend, backends: &[Backend], faults: &mut Faults) {
    let of_streams = frontend.relays_streams();
    let is_other = |transport: Transport| (transport != Transport::Udp) != of_streams;
    let (kind, ours) = if of_streams { ("connections", "tcp:// or tls://") } else { ("datagrams", "udp://") };
    for bind in section.binds.iter().filter(|bind| is_other(bind.value.transport)) {
        let what =
            format!("this relay is of {kind}, by its first bind, and this one is {}://", bind.value.transport.name());
        faults.push(bind.at, what, "give it a frontend of its own");
    }
    for backend in frontend.backends().into_iter().filter_map(|at| backends.get(at)) {
        let servers = backend.servers.iter().map(|server| (&server.name, server.transport));
        let mut all = servers.chain(backend.names.iter().map(|named| (&named.name, named.query.transport)));
        if let Some((name, transport)) = all.find(|(_, transport)| is_other(*transport)) {
            let what = format!(
                "frontend \"{}\" relays {kind}, and server \"{name}\" is {}://",
                frontend.name,
                transport.name()
            );
            faults.push(section.at, what, format!("give the relay a backend whose servers are {ours}"));
        }
    }
}

/// Every port that is bound has a server, and every server's port is bound.
fn judge_parts(
    section: &FrontendSection,
    frontend: &Frontend,
    backend: &Backend,
    places: &[usize],
    faults: &mut Faults,
) {
    let parts = || backend.servers.iter().zip(places).filter_map(|(server, at)| Some((server, server.ports?, *at)));
    let bound = |port: u16| frontend.binds.iter().any(|bind| bind.ports.contains(port));
    for (server, ports, at) in parts() {
        if let Some(first) = ports.iter().find(|port| !bound(*port)) {
            let what = format!(
                "port {first} of {}/{} is none that frontend \"{}\" binds",
                backend.name, server.name, frontend.name
            );
            faults.push(at, what, "write `ports` inside the frontend's range, or a longer range in `bind`");
        }
    }
    let owned = |port: &u16| parts().any(|(_, ports, _)| ports.contains(*port));
    for bind in &section.binds {
        let without: Vec<_> = bind.value.ports.iter().filter(|port| !owned(port)).collect();
        if let [first, ..] = without[..] {
            let next = |pair: &[u16]| pair[0] + 1 != pair[1];
            let last = without[without.windows(2).position(next).unwrap_or(without.len() - 1)];
            let what = format!("no server of \"{}\" has ports {} of this bind", backend.name, Ports { first, last });
            faults.push(bind.at, what, "give them to a server's `ports`, or bind fewer");
        }
        judge_loop(bind.at, bind.value, backend, faults);
    }
}

/// Without parts the balance chooses, and what comes to any port goes to the server's one.
fn judge_without_parts(section: &FrontendSection, backend: &Backend, faults: &mut Faults) {
    for bind in &section.binds {
        if bind.value.ports.count() > 1 {
            let what =
                format!("a range of ports is bound, and no server of \"{}\" says which are its own", backend.name);
            faults.push(bind.at, what, "add `ports = \"10000-10099\"` to each server, its part of the range");
        }
        judge_loop(bind.at, bind.value, backend, faults);
    }
}

/// A server that is the relay's own socket would get its own datagrams for ever.
fn judge_loop(at: usize, bind: Bind, backend: &Backend, faults: &mut Faults) {
    let reached = |server: &Server| server.ports.unwrap_or(Ports::one(server.address.port()));
    // A relay of datagrams refuses what comes from a port of its own.
    let (ip, of_all) = (bind.address.ip(), bind.address.ip().is_unspecified() && bind.transport != Transport::Udp);
    let is_here = |server: &Server| server.address.ip() == ip || of_all && server.address.ip().is_loopback();
    let own = |server: &&Server| is_here(server) && reached(server).overlaps(bind.ports);
    if let Some(server) = backend.servers.iter().find(own) {
        let what = format!("server {}/{} is this balancer itself", backend.name, server.name);
        faults.push(at, what, "write the address of a server, or bind another one");
    }
}

/// How many ports all relays bind.
pub fn judge_count(frontends: &[FrontendSection], faults: &mut Faults) {
    let relays = frontends.iter().filter(|frontend| matches!(frontend.mode, Mode::Relay(_)));
    let mut bound = 0;
    for bind in relays.flat_map(|frontend| &frontend.binds) {
        let before = bound;
        bound += bind.value.ports.count();
        if before <= PORTS && bound > PORTS {
            let what = format!("with this bind relays have {bound} ports, each an open socket");
            faults.push(bind.at, what, format!("bind at most {PORTS} in all: a call needs four"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    const GOOD: &str = r#"
[[frontend]]
name = "rtp"
mode = "relay"
bind = ["udp://10.0.1.10:10000-10199", "udp://[2001:db8::1]:10000-10199"]
inside = "10.0.1.10"
backend = "media"
idle = "90s"
dscp = "ef"

[frontend.limits]
max_flows = 500
deny = ["192.0.2.0/24"]
per_source_rate = "50/s"

[[backend]]
name = "media"

[[backend.server]]
name = "relay-1"
address = "udp://10.0.10.21"
ports = "10000-10099"

[[backend.server]]
name = "relay-2"
address = "udp://10.0.10.22"
ports = "10100-10199"

[[frontend]]
name = "sip"
bind = "udp://10.0.1.10:5060"
backend = "pbx"

[[backend]]
name = "pbx"

[[backend.server]]
name = "pbx-1"
address = "udp://10.0.10.11:5060"
"#;

    fn faults(text: &str) -> String {
        Config::parse(text).map_or_else(|faults| faults.render("f", text).to_string(), |_| String::new())
    }

    #[test]
    fn every_key_arrives() {
        let config = Config::good(GOOD);
        let (rtp, media) = (&config.frontends[0], &config.backends[0]);
        assert_eq!(rtp.relay().map(|relay| (relay.idle.as_secs(), relay.max_flows)), Some((90, 500)));
        assert_eq!(rtp.binds[0].ports.to_string(), "10000-10199");
        assert_eq!(media.servers[1].ports.map(|ports| (ports.first, ports.last)), Some((10_100, 10_199)));
        assert_eq!(media.servers[1].address, "10.0.10.22:10100".parse().unwrap());
        assert!(media.check.is_none(), "there is nobody who could be asked");
        assert_eq!(config.frontends[1].relay(), None);
        let files = config.open_files(4);
        assert_eq!((files.ports, files.flows), (400, 500));
        let plain = Config::good(&GOOD.replace("idle = \"90s\"", "").replace("max_flows = 500", ""));
        assert_eq!(
            plain.frontends[0].relay().map(|relay| (relay.idle.as_secs(), relay.max_flows)),
            Some((120, 10_000))
        );
    }

    /// What is changed in the good file, to what; what is wrong then, and what to do.
    const FAULTY: &[[&str; 4]] = &[
        ["idle = \"90s\"", "idle = \"100ms\"", "`idle` is no time that a flow can be kept for", "from \"1s\""],
        ["max_flows = 500", "max_flows = 0", "`max_flows` is 0", "a number from 1 to 60000"],
        ["dscp = \"ef\"", "record_route = false", "`record_route` means nothing in mode \"relay\"", "remove it"],
        ["dscp = \"ef\"", "path = \"off\"", "`path` means nothing", "mode = \"proxy\""],
        ["dscp = \"ef\"", "source_header = \"X-S\"", "`source_header` means nothing", "remove it"],
        ["dscp = \"ef\"", "advertise = \"203.0.113.1\"", "`advertise` means nothing", "remove it"],
        ["deny =", "deny_user_agent = [\"x\"]\ndeny =", "`deny_user_agent` means nothing", "remove it"],
        ["max_flows = 500", "max_message = 2000", "`max_message` means nothing", "remove it"],
        [
            "[[backend]]\nname = \"media\"",
            "[[frontend.route]]\nmethods = [\"INVITE\"]\nbackend = \"media\"\n[[backend]]\nname = \"media\"",
            "`methods` means nothing",
            "remove it",
        ],
        ["mode = \"relay\"", "", "`max_flows` belongs to mode \"relay\"", "write `mode = \"relay\"`"],
        ["mode = \"relay\"", "", "a range of ports is for mode \"relay\"", "write one port"],
        ["mode = \"relay\"", "", "is a proxy, and servers of \"media\" have `ports`", "mode = \"relay\""],
        ["5060\"\nbackend", "5060-5063\"\nbackend", "a range of ports is for mode \"relay\"", "write one port"],
        ["10.0.10.21\"", "10.0.10.21:10000\"", "has `ports` and a port in its address", "without a port"],
        ["ports = \"10000-10099\"", "", "media/relay-1 has no `ports`, and others", "add `ports"],
        ["\"10100-10199\"", "\"10099-10199\"", "ports 10099-10199 of media/relay-2 are partly those", "one server"],
        ["\"10100-10199\"", "\"10100-10200\"", "port 10200 of media/relay-2 is none that frontend", "longer range"],
        ["\"10100-10199\"", "\"10110-10198\"", "no server of \"media\" has ports 10100-10109", "bind fewer"],
        ["\"10000-10099\"", "\"10099-10000\"", "`ports` is not ports such as", "lower one first"],
        ["\"10000-10099\"", "10000", "`ports` is not ports such as", "\"10000-10099\""],
        ["10:10000-10199", "10:10199-10000", "in `bind` is not an address", "the lower port first"],
        ["10:10000-10199", "10:10000-70000", "in `bind` is not an address", "an address such as"],
        [
            "[2001:db8::1]:10000",
            "10.0.1.10:10150",
            "10.0.1.10:10150 is bound twice, by \"rtp\"",
            "an address or a port",
        ],
        ["udp://10.0.1.10:5060", "udp://10.0.1.10:10007", "10.0.1.10:10007 is bound twice", "an address or a port"],
        ["10.0.10.21", "10.0.1.10", "server media/relay-1 is this balancer itself", "another one"],
        [
            "backend = \"media\"\nidle",
            "backend = \"pbx\"\nidle",
            "no server of \"pbx\" says which are its own",
            "add `ports",
        ],
        [
            "[[backend]]\nname = \"media\"",
            "[[backend]]\nname = \"media\"\nstick = { on = \"from-user\" }",
            "a relay reads no message, and backend \"media\" sticks by what is in it",
            "on = \"source\"",
        ],
        [
            "[[backend]]\nname = \"media\"",
            "[[backend]]\nname = \"media\"\ncheck = { interval = \"5s\" }",
            "OPTIONS would find all of them dead",
            "type = \"none\"",
        ],
        [
            "[[backend]]\nname = \"media\"",
            "[[backend]]\nname = \"media\"\nbreaker = {}",
            "a relay sees no answers, and the breaker of \"media\"",
            "a backend of its own",
        ],
        ["10.0.1.10:10000-10199", "10.0.1.10:1024-65535", "with this bind relays have 64512 ports", "at most 32768"],
    ];

    #[test]
    fn what_makes_no_sense_is_told() {
        for [from, to, what, remedy] in FAULTY {
            assert!(GOOD.contains(from), "{from}");
            let found = faults(&GOOD.replacen(from, to, 1));
            let fault = found.split("f:").find(|fault| fault.contains(what));
            assert!(fault.is_some_and(|fault| fault.contains(remedy)), "{to}: {what}: {remedy}\n{found}");
        }
        assert_eq!(faults(&GOOD.replace("name = \"media\"", "name = \"media\"\ncheck = { type = \"none\" }")), "");
        assert_eq!(faults(&GOOD.replace("name = \"media\"", "name = \"media\"\nstick = { on = \"source\" }")), "");
    }
}
