//! What differs between two configurations, in words for the log and for whoever asked for a reload.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::net::SocketAddr;

use super::admin::Http;
use super::names::Named;
use super::{Backend, Bind, Config, Frontend, Server};

/// One line for each thing that differs, in the order of the configurations: what is new or changed, then what is gone.
pub fn difference(before: &Config, after: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let global = [
        ("cluster_key_file", before.cluster_key_file != after.cluster_key_file),
        ("dns", before.dns != after.dns),
        ("call_log", before.follow.log != after.follow.log),
        ("hep", before.follow.hep != after.follow.hep),
    ];
    lines.extend(global.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| format!("{key} changed")));
    http(&mut lines, before.http.as_ref(), after.http.as_ref());
    let named = |frontend: &Frontend| frontend.name.clone();
    by_name(&mut lines, "frontend", (&before.frontends, &after.frontends), named, |was, is, lines| {
        frontend(was, is, (before, after), lines);
    });
    let named = |backend: &Backend| backend.name.clone();
    by_name(&mut lines, "backend", (&before.backends, &after.backends), named, backend);
    for after in &after.backends {
        let before = before.backends.iter().find(|other| other.name == after.name);
        let names = before.map_or(&[][..], |before| &before.names);
        // Positions mean something in their own backend only.
        let (of_before, region) = (before.unwrap_or(after), |at: usize, of: &Backend| of.regions[at].name.clone());
        let named = |named: &Named| format!("{}/{} ({})", after.name, named.name, named.query);
        by_name(&mut lines, "server", (names, &after.names), named, |was, is, lines| {
            value(lines, "region", &region(was.region, of_before), &region(is.region, after));
            changed(
                lines,
                "keys",
                &Named { at: 0, region: 0, ..was.clone() },
                &Named { at: 0, region: 0, ..is.clone() },
            );
        });
        let servers = before.map_or(&[][..], |before| &before.servers);
        let named = |server: &Server| format!("{}/{}", after.name, server.name);
        by_name(&mut lines, "server", (servers, &after.servers), named, |was, is, lines| {
            value(lines, "region", &region(was.region, of_before), &region(is.region, after));
            server(was, is, lines);
        });
    }
    lines
}

/// What of a new configuration waits for a restart, and why: threads and the pin table are made once. (Stick tables come and go
/// with reloads: what is running knows their sizes.)
pub fn needs_restart(before: &Config, after: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    if before.workers != after.workers {
        lines.push(format!("workers stays at {}: a restart makes it {}", before.workers, after.workers));
    }
    if before.runtime_socket != after.runtime_socket {
        lines.push("runtime_socket stays where it is: a restart moves it".to_owned());
    }
    if before.state_dir != after.state_dir {
        lines.push("state_dir stays where it is: a restart moves it".to_owned());
    }
    let pins = |config: &Config| config.backends.iter().map(|backend| backend.pin.size).sum::<usize>();
    if pins(before) != pins(after) {
        let (before, after) = (pins(before), pins(after));
        lines.push(format!("the pin table stays at {before} calls: a restart makes it {after}"));
    }
    lines
}

/// What of a new configuration cannot be done before a restart, nor the rest of it without that: sockets of one mode are none
/// of the other, and neither are the calls and flows that know a frontend by its name.
pub fn refused(before: &Config, after: &Config) -> Vec<String> {
    let mode = |frontend: &Frontend| frontend.mode.word();
    let mut lines = Vec::new();
    for is in &after.frontends {
        for was in &before.frontends {
            let (mode, before) = (mode(is), mode(was));
            if is.id == was.id && mode != before {
                lines.push(format!(
                    "frontend {} is a {before} and cannot become a {mode} while it runs: give the {mode} another name, or restart",
                    is.name
                ));
                continue;
            }
            let pairs = is.binds.iter().flat_map(|is| was.binds.iter().map(move |was| (is, was)));
            for (is, was) in pairs.filter(|(is, was)| {
                // The sockets of an address that stays in its mode stay, and two proxies may overlap.
                let stays = mode == before && (is.address.ip() == was.address.ip() || mode == "proxy");
                is.overlaps(was) && !stays
            }) {
                lines.push(format!(
                    "{was} is a {before}'s, and {is} cannot become a {mode}'s while it is open: reload without {was} first \
                     (a proxy's address is closed 32 s later, and the log says so), or restart"
                ));
            }
        }
    }
    let binds = |config: &'_ Config| config.frontends.iter().flat_map(|of| of.binds.clone()).collect::<Vec<_>>();
    let (old, new) = (binds(before), binds(after));
    let leaving = || old.iter().filter(|was| !new.contains(was));
    let opening = new.iter().filter(|is| !old.contains(is));
    for (is, was) in opening.flat_map(|is| leaving().map(move |was| (is, was))) {
        if is.is_on_the_port_of(was) && is.transport != was.transport {
            lines.push(format!(
                "{was} cannot become {is} while it is open: reload without {was} first (its address is closed 32 s later, and \
                 the log says so), or restart"
            ));
        }
    }
    lines
}

/// Compares two lists by the names of their members: what is new, what is gone, and what `changed` says of the rest.
fn by_name<'a, T>(
    lines: &mut Vec<String>,
    kind: &str,
    (before, after): (&'a [T], &'a [T]),
    name: impl Fn(&T) -> String + Copy,
    changed: impl Fn(&T, &T, &mut Vec<String>),
) {
    let by_name = |members: &'a [T]| members.iter().map(|member| (name(member), member)).collect::<HashMap<_, _>>();
    let (old, new) = (by_name(before), by_name(after));
    for member in after {
        let own = name(member);
        match old.get(&own) {
            None => lines.push(format!("{kind} {own} added")),
            Some(other) => {
                let mut changes = Vec::new();
                changed(other, member, &mut changes);
                lines.extend(changes.into_iter().map(|change| format!("{kind} {own}: {change}")));
            }
        }
    }
    let gone = before.iter().map(name).filter(|name| !new.contains_key(name));
    lines.extend(gone.map(|name| format!("{kind} {name} removed")));
}

/// Notes `key was -> is` where the two differ.
fn value<T: PartialEq + Debug>(lines: &mut Vec<String>, key: &str, was: &T, is: &T) {
    if was != is {
        lines.push(format!("{key} {was:?} -> {is:?}"));
    }
}

/// Notes that a key differs whose value is too long for a line.
fn changed<T: PartialEq>(lines: &mut Vec<String>, key: &str, was: &T, is: &T) {
    if was != is {
        lines.push(format!("{key} changed"));
    }
}

/// Notes which members came and which went.
fn members<T: Eq + Hash>(lines: &mut Vec<String>, key: &str, was: &[T], is: &[T], word: impl Fn(&T) -> String) {
    let (old, new): (HashSet<_>, HashSet<_>) = (was.iter().collect(), is.iter().collect());
    lines
        .extend(is.iter().filter(|member| !old.contains(member)).map(|member| format!("{key} {} added", word(member))));
    let gone = was.iter().filter(|member| !new.contains(member));
    lines.extend(gone.map(|member| format!("{key} {} removed", word(member))));
}

fn http(lines: &mut Vec<String>, was: Option<&Http>, is: Option<&Http>) {
    for (key, of) in HTTP_ADDRESSES {
        let [was, is] = [was, is].map(|http| http.and_then(of).map_or("off".to_owned(), |at| at.to_string()));
        if was != is {
            lines.push(format!("admin: {key} {was} -> {is}"));
        }
    }
    let rest = |http: &Http| (http.users.clone(), http.identity);
    let (was, is) = (was.map(rest).unwrap_or_default(), is.map(rest).unwrap_or_default());
    // No hash of a password goes to the log.
    for (key, differs) in [("users", was.0 != is.0), ("compat", was.1 != is.1)] {
        lines.extend(differs.then(|| format!("admin: {key} changed")));
    }
}

/// The addresses of `[admin]` by their keys.
type Address = fn(&Http) -> Option<SocketAddr>;
const HTTP_ADDRESSES: [(&str, Address); 3] =
    [("stats", |http| http.stats), ("health", |http| http.health), ("metrics", |http| http.metrics)];

fn frontend(was: &Frontend, is: &Frontend, (before, after): (&Config, &Config), lines: &mut Vec<String>) {
    let backend = |config: &Config, at: usize| config.backends[at].name.clone();
    // Positions mean something in their own configuration only.
    let routes = |config: &Config, frontend: &Frontend| {
        let name =
            |route: &super::Route| (super::Route { backend: 0, ..route.clone() }, backend(config, route.backend));
        frontend.routes.iter().map(name).collect::<Vec<_>>()
    };
    members(lines, "bind", &was.binds, &is.binds, Bind::to_string);
    value(lines, "backend", &backend(before, was.backend), &backend(after, is.backend));
    changed(lines, "routes", &routes(before, was), &routes(after, is));
    changed(lines, "limits", &(&was.limits, &was.connections), &(&is.limits, &is.connections));
    changed(lines, "advertise", &was.advertise, &is.advertise);
    changed(lines, "inside", &was.inside, &is.inside);
    changed(lines, "tls", &was.tls, &is.tls);
    let rest = |frontend: &Frontend| Frontend {
        binds: Vec::new(),
        backend: 0,
        routes: Vec::new(),
        limits: is.limits.clone(),
        connections: is.connections.clone(),
        advertise: is.advertise,
        inside: is.inside,
        tls: None,
        ..frontend.clone()
    };
    changed(lines, "other keys", &rest(was), &rest(is));
}

fn backend(was: &Backend, is: &Backend, lines: &mut Vec<String>) {
    let weights = |backend: &Backend| {
        backend.regions.iter().map(|region| (region.name.clone(), region.weight)).collect::<Vec<_>>()
    };
    for (name, weight) in weights(is) {
        match weights(was).iter().find(|(other, _)| *other == name) {
            None => lines.push(format!("region {name} added with weight {weight}")),
            Some((_, before)) => value(lines, &format!("region {name} weight"), before, &weight),
        }
    }
    let gone = weights(was).into_iter().filter(|(name, _)| !is.regions.iter().any(|region| region.name == *name));
    lines.extend(gone.map(|(name, _)| format!("region {name} removed")));
    value(lines, "balance", &was.balance.word(), &is.balance.word());
    changed(lines, "check", &was.check, &is.check);
    changed(lines, "suspect", &was.suspect, &is.suspect);
    changed(lines, "breaker", &was.breaker, &is.breaker);
    changed(lines, "stick", &was.stick, &is.stick);
    changed(lines, "pin", &was.pin, &is.pin);
    changed(lines, "tls", &was.tls, &is.tls);
    let rest = |backend: &Backend| Backend {
        regions: Vec::new(),
        servers: Vec::new(),
        names: Vec::new(),
        balance: is.balance,
        check: None,
        suspect: is.suspect,
        breaker: None,
        stick: None,
        pin: is.pin,
        tls: is.tls.clone(),
        ..backend.clone()
    };
    let clients = |backend: &Backend| {
        let some = backend.regions.iter().filter(|region| !region.clients.is_empty());
        some.map(|region| (region.name.clone(), region.clients.clone())).collect::<Vec<_>>()
    };
    changed(lines, "other keys", &(rest(was), clients(was)), &(rest(is), clients(is)));
}

fn server(was: &Server, is: &Server, lines: &mut Vec<String>) {
    value(lines, "weight", &was.weight, &is.weight);
    let url = |server: &Server| format!("{}://{}", server.transport.name(), server.address);
    if url(was) != url(is) {
        lines.push(format!("address {} -> {}", url(was), url(is)));
    }
    value(lines, "max_calls", &was.max_calls, &is.max_calls);
    let rest = |server: &Server| Server {
        weight: 0,
        max_calls: 0,
        address: is.address,
        transport: is.transport,
        region: 0,
        // What nobody wrote follows the address.
        sources: server.sources.iter().filter(|source| source.written).copied().collect(),
        tls_name: server.tls_name.clone().filter(|name| *name != server.address.ip().to_string()),
        ..server.clone()
    };
    changed(lines, "other keys", &rest(was), &rest(is));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[[frontend]]
name = "sip"
bind = "udp://127.0.0.1:5060"
backend = "b"

[frontend.limits]
per_source_rate = "200/s"

[[backend]]
name = "b"
stick = { on = "source" }

[[backend.region]]
name = "lagos"
weight = 70

[[backend.server]]
name = "one"
region = "lagos"
address = "udp://127.0.0.2:5060"

[[backend.server]]
name = "two"
region = "lagos"
address = "udp://127.0.0.3:5060"
"#;

    fn after(changes: &[(&str, &str)]) -> Config {
        Config::good(&changes.iter().fold(TEXT.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        }))
    }

    #[test]
    fn what_differs_is_said_in_the_words_of_the_file() {
        let before = Config::good(TEXT);
        assert_eq!(difference(&before, &before), [""; 0]);
        for (changes, said) in [
            (&[("\"200/s\"", "\"100/s\"")][..], &["frontend sip: limits changed"][..]),
            (&[("weight = 70", "weight = 30")], &["backend b: region lagos weight 70 -> 30"]),
            (&[("0.3:5060\"", "0.3:5060\"\nweight = 7")], &["server b/two: weight 100 -> 7"]),
            (&[("0.3:5060\"", "0.3:5060\"\nmax_calls = 9")], &["server b/two: max_calls 0 -> 9"]),
            (&[("stick =", "balance = \"first\"\nstick =")], &["backend b: balance \"hash\" -> \"first\""]),
            (
                &[
                    ("weight = 70", "weight = 70\n[[backend.region]]\nname = \"abuja\""),
                    (
                        "region = \"lagos\"\naddress = \"udp://127.0.0.3",
                        "region = \"abuja\"\naddress = \"udp://127.0.0.3",
                    ),
                ],
                &["backend b: region abuja added with weight 1", "server b/two: region \"lagos\" -> \"abuja\""],
            ),
            (&[("0.3:5060", "0.3:5062")], &["server b/two: address udp://127.0.0.3:5060 -> udp://127.0.0.3:5062"]),
            (&[("\"two\"", "\"three\"")], &["server b/three added", "server b/two removed"]),
            (
                &[("0.1:5060", "0.1:5062")],
                &["frontend sip: bind udp://127.0.0.1:5062 added", "frontend sip: bind udp://127.0.0.1:5060 removed"],
            ),
            (&[("\"sip\"", "\"tel\"")], &["frontend tel added", "frontend sip removed"]),
            (&[("\"sip\"", "\"sip\"\nrecord_route = false")], &["frontend sip: other keys changed"]),
            (&[("\"source\"", "\"from-user\"")], &["backend b: stick changed"]),
            (
                &[
                    ("0.1:5060\"", "0.1:5060\"\nbind = \"tls://127.0.0.1:5061\"\ntls = { certificates = \"/c\" }"),
                    ("bind = \"udp", "# "),
                ],
                &[
                    "frontend sip: bind tls://127.0.0.1:5061 added",
                    "frontend sip: bind udp://127.0.0.1:5060 removed",
                    "frontend sip: tls changed",
                ],
            ),
            (
                &[("stick =", "tls = { verify = false }\nstick ="), ("udp://127.0.0.3:5060", "tls://127.0.0.3:5060")],
                &["backend b: tls changed", "server b/two: address udp://127.0.0.3:5060 -> tls://127.0.0.3:5060"],
            ),
            (&[("stick =", "spill_below = \"10%\"\nstick =")], &["backend b: other keys changed"]),
        ] {
            assert_eq!(difference(&before, &after(changes)), said);
        }
    }

    #[test]
    fn the_order_of_the_file_is_no_difference() {
        let second = TEXT.rfind("[[backend.server]]").unwrap();
        let first = TEXT.find("[[backend.server]]").unwrap();
        let reordered = [&TEXT[..first], &TEXT[second..], &TEXT[first..second]].concat();
        assert_eq!(difference(&Config::good(TEXT), &Config::good(&reordered)), [""; 0]);
    }

    #[test]
    fn an_address_changes_its_mode_in_no_reload() {
        let relay = |name: &str, bind: &str| {
            let ports = bind.rsplit(':').next().unwrap();
            let server = match ports.contains('-') {
                true => format!("\"udp://127.0.0.9\"\nports = \"{ports}\""),
                false => "\"udp://127.0.0.9:9000\"".to_owned(),
            };
            Config::good(&format!(
                "[[frontend]]\nname = \"{name}\"\nmode = \"relay\"\nbind = \"udp://{bind}\"\nbackend = \"b\"\n\
                 [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"one\"\naddress = {server}\n"
            ))
        };
        let (proxy, range) = (Config::good(TEXT), relay("rtp", "127.0.0.1:6000-6009"));
        for (before, after, said) in [
            (&proxy, relay("sip", "127.0.0.1:7000"), Some("frontend sip is a proxy and cannot become a relay")),
            (&range, after(&[("\"sip\"", "\"rtp\"")]), Some("frontend rtp is a relay and cannot become a proxy")),
            (
                &proxy,
                relay("rtp", "127.0.0.1:5060"),
                Some("udp://127.0.0.1:5060 is a proxy's, and udp://127.0.0.1:5060 cannot"),
            ),
            (&proxy, relay("rtp", "0.0.0.0:5000-5099"), Some("and udp://0.0.0.0:5000-5099 cannot become a relay's")),
            (&range, after(&[("0.1:5060", "0.1:6009")]), Some("udp://127.0.0.1:6000-6009 is a relay's, and")),
            (&range, relay("rtp", "0.0.0.0:6000"), Some("udp://0.0.0.0:6000 cannot become a relay's")),
            (&range, relay("other", "127.0.0.1:6005-6020"), None),
            (&range, relay("rtp", "[::1]:6000"), None),
            (&proxy, relay("rtp", "127.0.0.2:5060"), None),
            (
                &proxy,
                after(&[("127.0.0.1:5060", "0.0.0.0:5060"), ("127.0.0.2", "10.0.0.2"), ("127.0.0.3", "10.0.0.3")]),
                None,
            ),
        ] {
            let lines = refused(before, &after);
            assert_eq!(lines.len(), usize::from(said.is_some()), "{lines:?}");
            assert!(lines.iter().zip(said).all(|(line, said)| line.contains(said)), "{lines:?}: no {said:?}");
        }
    }

    #[test]
    fn a_port_changes_what_is_spoken_there_in_no_reload() {
        let listens = |bind: &str| {
            Config::good(&format!(
                "[[frontend]]\nname = \"sip\"\nbind = [\"tls://127.0.0.1:5090\", \"{bind}\"]\nbackend = \"b\"\n\
                 tls = {{ certificates = \"/c\" }}\n\
                 [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"one\"\naddress = \"udp://127.0.0.9:5060\"\n"
            ))
        };
        let tcp = "tcp://127.0.0.1:5061";
        for (was, is, said) in [
            (tcp, "tls://127.0.0.1:5061", true),
            ("tls://0.0.0.0:5061", "tcp://0.0.0.0:5061", true),
            (tcp, "tls://0.0.0.0:5061", true),
            (tcp, "tls://127.0.0.1:5063", false),
            (tcp, "tls://127.0.0.2:5061", false),
            (tcp, tcp, false),
            ("tcp://0.0.0.0:5090", "udp://127.0.0.1:5061", false),
        ] {
            let lines = refused(&listens(was), &listens(is));
            assert_eq!(lines.len(), usize::from(said), "{was} -> {is}: {lines:?}");
            assert!(lines.iter().all(|line| line.starts_with(&format!("{was} cannot become {is}"))), "{lines:?}");
        }
    }

    #[test]
    fn threads_and_tables_wait_for_a_restart() {
        let before = Config::good(TEXT);
        let more = after(&[
            ("\n[[frontend]]", "\n[global]\nworkers = 3\n[[frontend]]"),
            ("{ on = \"source\" }", "{ on = \"source\" }\npin = { size = 2_000_000 }"),
        ]);
        let lines = needs_restart(&before, &more);
        assert_eq!(
            lines,
            [
                "workers stays at 0: a restart makes it 3",
                "the pin table stays at 1000000 calls: a restart makes it 2000000",
            ]
        );
        assert_eq!(needs_restart(&before, &before), [""; 0]);
    }
}
