//! What each proxy of haproxy.cfg says, and what becomes of each line.

use std::net::IpAddr;

use super::edge::{Bind, Edge, Proxy, Says, Server};
use super::lines::{Line, Section, duration, millis};
use super::{Fate, Told, told, whole};

/// Ports of one `bind` with a range.
const MOST_PORTS: u16 = 100;

/// All sections, one after another: `defaults` count for what follows, or for what names them.
pub fn gather(sections: &[Section]) -> (Edge, Vec<Told>) {
    let (mut edge, mut lines) = (Edge::default(), Vec::new());
    let mut defaults: Vec<(&str, Says)> = vec![("", Says::default())];
    for section in sections {
        let (from, fate) = match section.head.after("from") {
            None => (defaults.last(), Fate::Translated),
            Some(name) => match defaults.iter().rfind(|(other, _)| *other == name) {
                Some(found) => (Some(found), Fate::Translated),
                None => (
                    None,
                    Fate::ByHand(format!(
                        "no `defaults` before it is named `{name}`: its times and checks are missing"
                    )),
                ),
            },
        };
        let from = from.map(|(_, says)| says.inherited()).unwrap_or_default();
        let head = told(&section.head, fate);
        match section.kind() {
            "global" => {
                lines.push(head);
                lines.extend(section.lines.iter().map(|line| told(line, global(line, &mut edge))));
            }
            "defaults" => {
                lines.push(head);
                // Those that follow begin anew, unless they name others.
                let says = if section.head.has("from") { from } else { Says::default() };
                let mut proxy = Proxy { says, ..Proxy::default() };
                lines.extend(section.lines.iter().map(|line| told(line, say(line, &mut proxy, &mut edge))));
                let name = if section.head.word(1) == "from" { "" } else { section.head.word(1) };
                defaults.push((name, proxy.says));
            }
            "frontend" | "backend" | "listen" => {
                lines.push(head);
                let name = section.head.word(1).to_owned();
                let mut proxy = Proxy { name, line: section.head.number, says: from, ..Proxy::default() };
                lines.extend(section.lines.iter().map(|line| told(line, say(line, &mut proxy, &mut edge))));
                keep(proxy, &mut edge);
            }
            kind => {
                let fate = || match kind {
                    "peers" => {
                        Fate::ByHand("tables are not shared; a pair needs none for calls: docs/pair.md".to_owned())
                    }
                    "userlist" => Fate::ByHand("write `users` in [admin], with `trunkline hash-password`".to_owned()),
                    "resolvers" => Fate::ByHand("write [dns] where the system's nameservers are not those".to_owned()),
                    "mailers" | "ring" | "log-forward" => {
                        Fate::NotNeeded("alerts are Prometheus' (docs/monitoring.md), logs the journal's")
                    }
                    _ => Fate::ByHand(format!("`{kind}` has no equal here")),
                };
                lines.push(told(&section.head, fate()));
                lines.extend(section.lines.iter().map(|line| told(line, fate())));
            }
        }
    }
    whole::leave(sections, &edge, &mut lines);
    (edge, lines)
}

/// The page is at the first address of a section that is there for it alone; passwords that came over TLS are to go over no
/// network.
fn keep(proxy: Proxy, edge: &mut Edge) {
    let carries = !proxy.is_stats || !proxy.servers.is_empty() || proxy.says.default_backend.is_some();
    if carries {
        edge.proxies.push(proxy);
    } else if let Some(bind) = proxy.binds.first() {
        let address = if bind.certificates.is_some() { "127.0.0.1" } else { &bind.address };
        edge.stats.get_or_insert_default().bind.get_or_insert_with(|| format!("{address}:{}", bind.port));
        edge.pages.push(proxy);
    }
}

fn global(line: &Line, edge: &mut Edge) -> Fate {
    match line.word(0) {
        "nbthread" => match line.word(1).parse() {
            Ok(threads) => {
                edge.workers = Some(threads);
                Fate::Translated
            }
            Err(_) => Fate::ByHand("write `workers` in [global]".to_owned()),
        },
        "maxconn" | "ulimit-n" => Fate::NotNeeded("LimitNOFILE= of the unit, and `max_connections` of each frontend"),
        "daemon" | "master-worker" | "pidfile" | "user" | "group" | "chroot" | "uid" | "gid" => {
            Fate::NotNeeded("the unit's")
        }
        "stats" => Fate::NotNeeded("the runtime socket is there without a word, at /run/trunkline/admin.sock"),
        "log" | "log-send-hostname" | "log-tag" => Fate::NotNeeded("the journal has the log"),
        word if word.starts_with("ssl-") => Fate::ByHand(
            "write `min_version` in [frontend.tls]; ciphers are those that are thought safe today".to_owned(),
        ),
        word if word.starts_with("tune.") || word == "spread-checks" => {
            Fate::NotNeeded("nothing of it has to be tuned here")
        }
        "nbproc" | "cpu-map" | "node" | "description" | "hard-stop-after" => {
            Fate::NotNeeded("one process, a worker for each core")
        }
        word => Fate::ByHand(format!("`{word}` has no equal here")),
    }
}

/// A line of a proxy, or of `defaults`.
fn say(line: &Line, proxy: &mut Proxy, edge: &mut Edge) -> Fate {
    let by_hand = |what: &str| Fate::ByHand(what.to_owned());
    let says = &mut proxy.says;
    match line.word(0) {
        "bind" => return bind(line, proxy),
        "server" => return server(line, proxy),
        "timeout" => return timeout(line, says),
        "option" => return option(line, says),
        "stats" => return stats(line, proxy, edge),
        "stick-table" => return stick_table(line, says),
        "http-check" | "tcp-check" => return says.asks.rule(line),
        "acl" | "use_backend" | "tcp-request" => return rule(line, proxy),
        "default-server" => {
            says.each.extend(line.words[1..].iter().cloned());
            let unknown = options(&line.words[1..], &mut Server::default());
            return translated_but(without_equal(&unknown).into_iter());
        }
        "mode" => match line.word(1) {
            "http" if !proxy.is_stats => {
                return by_hand(
                    "connections pass unread (mode \"relay\"): what it does to requests is a web server's business",
                );
            }
            _ => {}
        },
        "default_backend" => says.default_backend = Some(line.word(1).to_owned()),
        "maxconn" => match line.word(1).parse() {
            Ok(most) => says.maxconn = Some(most),
            Err(_) => return by_hand("write `max_connections` in [frontend.limits]"),
        },
        "balance" => {
            says.sticks_by_balance = line.word(1) == "source";
            says.balance = match line.word(1) {
                "roundrobin" | "static-rr" => Some("roundrobin"),
                "leastconn" => Some("leastconn"),
                "first" => Some("first"),
                "random" => Some("random2"),
                "source" => Some("hash"),
                _ => None,
            };
            if says.balance.is_none() {
                return Fate::ByHand(format!("`balance {}`: choose one of docs/balance.md", line.word(1)));
            }
        }
        "stick" if line.word(1) == "on" && line.word(2) == "src" && !line.has("table") => says.sticks = true,
        "stick" => {
            return by_hand("`stick = { on = ... }` knows sources, users and headers of SIP: docs/configuration.md");
        }
        "retries" | "fullconn" | "id" | "enabled" => return Fate::NotNeeded("others are tried without a word"),
        "log" | "log-format" | "error-log-format" | "unique-id-format" => {
            return Fate::NotNeeded("the journal has the log");
        }
        "description" | "hash-type" | "maxlife" => return Fate::NotNeeded("nothing hangs on it"),
        "errorfile" | "errorloc" | "http-errors" => return Fate::NotNeeded("nothing answers for a server here"),
        "disabled" => return by_hand("leave it out, or `trunkline maint` its servers"),
        "server-template" => {
            return by_hand(
                "write one [[backend.server]] with the name as `address`: each of its addresses is a server",
            );
        }
        word => return Fate::ByHand(format!("`{word}` has no equal here")),
    }
    Fate::Translated
}

fn timeout(line: &Line, says: &mut Says) -> Fate {
    let Some(time) = duration(line.word(2)) else { return Fate::ByHand(format!("`{}` is no time", line.word(2))) };
    let place = match line.word(1) {
        "connect" => &mut says.connect,
        "client" => &mut says.client,
        "server" => &mut says.server,
        "check" => &mut says.check_timeout,
        "queue" => return Fate::NotNeeded("who waits for a full server waits as long as `connect`"),
        "tunnel" => &mut says.tunnel,
        "client-fin" | "server-fin" | "http-request" | "http-keep-alive" | "tarpit" => {
            return Fate::NotNeeded(
                "silence of either side ends a connection after the shorter of `client` and `server`",
            );
        }
        other => return Fate::ByHand(format!("`timeout {other}` has no equal here")),
    };
    *place = Some(time);
    Fate::Translated
}

fn option(line: &Line, says: &mut Says) -> Fate {
    match line.word(1) {
        "tcp-check" => {
            says.asks.connects();
            Fate::Translated
        }
        "httpchk" => says.asks.httpchk(line),
        kind @ ("external-check" | "ldap-check" | "mysql-check" | "pgsql-check" | "redis-check" | "smtpchk"
        | "spop-check" | "ssl-hello-chk") => {
            says.asks.connects();
            Fate::ByHand(format!("`{kind}` has no equal here: its checks only connect"))
        }
        "tcpka" | "clitcpka" | "srvtcpka" => Fate::NotNeeded(
            "a connection where nothing moves ends by `timeout`, one of SIP's that is not answered after 30 s",
        ),
        "allbackups" => {
            says.all_backups = true;
            Fate::Translated
        }
        "redispatch" | "splice-auto" | "splice-request" | "splice-response" | "tcp-smart-accept"
        | "tcp-smart-connect" => Fate::NotNeeded("so it is without a word"),
        "tcplog"
        | "httplog"
        | "dontlognull"
        | "dontlog-normal"
        | "log-health-checks"
        | "logasap"
        | "contstats"
        | "log-separate-errors" => Fate::NotNeeded("the journal has the log, and states are logged once"),
        "forwardfor"
        | "httpclose"
        | "http-server-close"
        | "http-keep-alive"
        | "http-buffer-request"
        | "abortonclose" => {
            Fate::ByHand("nobody reads HTTP here; `send_proxy` tells servers the client's address".to_owned())
        }
        other => Fate::ByHand(format!("`option {other}` has no equal here")),
    }
}

fn stick_table(line: &Line, says: &mut Says) -> Fate {
    if !matches!(line.after("type"), Some("ip" | "ipv6")) {
        return Fate::ByHand("tables have sources; for calls write `stick` by user or header".to_owned());
    }
    let size = line.after("size").map(|size| {
        let (digits, unit) = size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
        let times = match unit {
            "k" | "K" => 1 << 10,
            "m" | "M" => 1 << 20,
            "g" | "G" => 1 << 30,
            _ => 1,
        };
        digits.parse::<u64>().ok()?.checked_mul(times)
    });
    if size == Some(None) {
        return Fate::ByHand("nobody can read its size".to_owned());
    }
    let size = size.flatten();
    says.stick = Some((size, line.after("expire").and_then(duration)));
    let counts = line.after("store").unwrap_or_default();
    let over = counts.split(',').find_map(|one| one.strip_prefix("conn_rate(")?.strip_suffix(')'));
    says.counted_over = over.and_then(millis);
    match counts.split(',').all(|one| one.is_empty() || one.starts_with("conn_rate(") || one == "conn_cur") {
        true => Fate::Translated,
        false => {
            Fate::ByHand("the table is there; what it counts is `per_source_rate` in [frontend.limits]".to_owned())
        }
    }
}

/// `src_conn_rate gt 20`, and the like of what is tracked: the word, and how many are not rejected. Nothing where another table
/// counts.
fn counted<'a>(line: &'a Line, proxy: &Proxy) -> Option<(&'a str, u64)> {
    let [what, than, many] = alone(line)? else { return None };
    let (what, of) = what.strip_suffix(')').and_then(|what| what.split_once('(')).unwrap_or((what, ""));
    let (by, what) =
        ["src_", "sc0_", "sc1_", "sc2_", "sc_"].iter().find_map(|by| Some((*by, what.strip_prefix(by)?)))?;
    // The first of `sc_` is a number.
    let table = if by == "sc_" { of.split_once(',').map_or("", |(_, table)| table) } else { of };
    if !["", proxy.name.as_str()].contains(&table) || by != "src_" && proxy.says.tracks_elsewhere {
        return None;
    }
    let many: u64 = many.parse().ok()?;
    let most = match than.as_str() {
        "gt" => many,
        "ge" => many.checked_sub(1)?,
        _ => return None,
    };
    (most > 0).then_some((what, most))
}

/// What stands in the one condition of a rule: others beside it would make it another rule.
fn alone(line: &Line) -> Option<&[String]> {
    let begin = line.words.iter().position(|word| word == "if")?;
    let (open, rest) = line.words.get(begin + 1..)?.split_first()?;
    let (close, inside) = rest.split_last()?;
    (open == "{" && close == "}" && !inside.iter().any(|word| word == "}")).then_some(inside)
}

fn stats(line: &Line, proxy: &mut Proxy, edge: &mut Edge) -> Fate {
    proxy.is_stats = true;
    let stats = edge.stats.get_or_insert_default();
    match line.word(1) {
        "uri" if line.word(2) != "/stats" => return Fate::ByHand("the page is at /stats".to_owned()),
        "enable" | "uri" | "refresh" | "realm" | "show-legends" | "show-node" | "show-desc" | "hide-version" => {}
        "admin" if line.text.ends_with("if TRUE") => stats.may_change = true,
        "admin" => return Fate::ByHand("a user's `role` says what it may do; where from, a firewall".to_owned()),
        "auth" => {
            stats.users.extend(line.word(2).split_once(':').map(|(name, _)| name.to_owned()));
            return Fate::ByHand(
                "its password: `trunkline hash-password` prints what `password_hash` takes".to_owned(),
            );
        }
        other => return Fate::ByHand(format!("`stats {other}` has no equal here")),
    }
    Fate::Translated
}

/// Rules about sources are translated; what looks into what passes is not.
fn rule(line: &Line, proxy: &mut Proxy) -> Fate {
    let sources = || -> Option<Vec<String>> {
        let (first, nets) = alone(line)?.split_first()?;
        let all = nets.iter().all(|net| net.parse::<ipnet::IpNet>().is_ok() || net.parse::<IpAddr>().is_ok());
        (first == "src" && all && !nets.is_empty()).then(|| nets.to_vec())
    };
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    match (words.as_slice(), sources()) {
        (["use_backend", backend, "if", ..], Some(nets)) => {
            proxy.routes.extend(nets.into_iter().map(|net| (net, (*backend).to_owned())));
            Fate::Translated
        }
        (["tcp-request", "connection", "reject", "if", ..], Some(nets)) => {
            proxy.says.deny.extend(nets);
            Fate::Translated
        }
        (["tcp-request", "connection", "reject", "if", ..], None) => match counted(line, proxy) {
            Some(("conn_rate", most)) if proxy.says.counted_over.is_some() => {
                proxy.says.most_in_time = Some(most);
                Fate::Translated
            }
            Some(("conn_cur", most)) => {
                proxy.says.most_at_once = Some(most);
                Fate::Translated
            }
            _ => Fate::ByHand(
                "write what of it is about sources into [frontend.limits], and whom it spares into `trusted`"
                    .to_owned(),
            ),
        },
        (["tcp-request", "connection", word, "src", "table", table, ..], _)
            if word.starts_with("track-sc") && *table != proxy.name =>
        {
            proxy.says.tracks_elsewhere = true;
            Fate::ByHand("another table counts: write what it limits into [frontend.limits]".to_owned())
        }
        (["tcp-request", "connection", word, "src", ..], _) if word.starts_with("track-sc") => {
            Fate::NotNeeded("sources are counted without a word")
        }
        (["tcp-request", "inspect-delay", ..], _) => Fate::NotNeeded("nothing waits for the first byte"),
        (["acl", ..], _) => {
            Fate::ByHand("write the networks where the rule is: `clients` of [[frontend.route]], `deny`".to_owned())
        }
        _ => {
            Fate::ByHand("rules are about sources, and for SIP about methods and hosts: [[frontend.route]]".to_owned())
        }
    }
}

fn bind(line: &Line, proxy: &mut Proxy) -> Fate {
    // Without `verify` it asks nobody for a certificate, whatever authorities it knows.
    let asked = line.after("verify").filter(|asked| *asked != "none");
    let mut found = Bind {
        line: line.number,
        address: String::new(),
        port: 0,
        certificates: line.after("crt").map(str::to_owned),
        client_ca: line.after("ca-file").zip(asked).map(|(ca, asked)| (ca.to_owned(), asked.to_owned())),
        min_version: line.after("ssl-min-ver").filter(|version| *version == "TLSv1.3").map(|_| "1.3"),
        accept_proxy: line.has("accept-proxy"),
    };
    let (mut unknown, mut words) = (Vec::new(), line.words.iter().skip(2));
    while let Some(word) = words.next() {
        match word.as_str() {
            "ssl" | "accept-proxy" => {}
            "crt" if found.certificates.as_ref() != words.clone().next() => {
                unknown.push(format!("crt {}", words.next().map_or("", String::as_str)));
            }
            "verify" if asked.is_some() && found.client_ca.is_none() => {
                unknown.push(format!("verify {}", words.next().map_or("", String::as_str)));
            }
            "crt" | "ca-file" | "verify" | "ssl-min-ver" | "name" | "id" => drop(words.next()),
            other => unknown.push(other.to_owned()),
        }
    }
    let of_tls = |bind: &Bind| (bind.certificates.clone(), bind.client_ca.clone(), bind.min_version, bind.accept_proxy);
    if proxy.binds.first().is_some_and(|first| of_tls(first) != of_tls(&found)) {
        return Fate::ByHand("it is not like the first: write a frontend of its own for it".to_owned());
    }
    if line.has("ssl") && found.certificates.is_none() {
        return Fate::ByHand("`ssl` without `crt`: write [frontend.tls] with `certificates`".to_owned());
    }
    for text in line.word(1).split(',') {
        let text = text.trim_start_matches("ipv4@").trim_start_matches("ipv6@");
        let Some((host, ports)) = text.rsplit_once(':') else {
            return Fate::ByHand(format!("`{text}` is no address with a port"));
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            return Fate::ByHand(format!("`{text}` is no address with a port"));
        };
        if last < first || last - first >= MOST_PORTS {
            return Fate::ByHand("so many ports: write those that are used".to_owned());
        }
        found.address = match host.trim_matches(['[', ']']) {
            "" | "*" => "0.0.0.0".to_owned(),
            v6 if v6.contains(':') => format!("[{v6}]"),
            v4 => v4.to_owned(),
        };
        for port in first..=last {
            proxy.binds.push(Bind { port, ..found.clone() });
        }
    }
    let old = line.after("ssl-min-ver").is_some_and(|version| !["TLSv1.2", "TLSv1.3"].contains(&version));
    let all = [
        (
            found.accept_proxy,
            "`accept_proxy` must name the networks of who sends the header: 0.0.0.0/0 would believe everybody",
        ),
        (
            line.has("ca-file") && asked.is_none(),
            "`ca-file` without `verify` asks no client for a certificate: write `client_auth` where it should",
        ),
        (old, "nothing older than TLS 1.2 is spoken, whatever `ssl-min-ver` says"),
    ];
    translated_but(those(all).chain(without_equal(&unknown)))
}

fn server(line: &Line, proxy: &mut Proxy) -> Fate {
    let mut found = Server {
        line: line.number,
        name: line.word(1).to_owned(),
        address: line.word(2).to_owned(),
        ..Server::default()
    };
    if !found.address.contains(':') {
        return Fate::ByHand("an address with its port is wanted".to_owned());
    }
    // What stands there was told with its own line, and counts for those that follow, unless they say otherwise.
    options(&proxy.says.each, &mut found);
    let unknown = options(line.words.get(3..).unwrap_or_default(), &mut found);
    let trusts = |server: &Server| (server.ca.clone(), server.anybody);
    let other = proxy.servers.iter().any(|other| other.tls && found.tls && trusts(other) != trusts(&found));
    let unlike = proxy.servers.first().is_some_and(|first| found.is_unlike(first));
    let asks_inside = found.check_ssl && !found.tls && proxy.says.asks.is_http;
    let all = [
        (other, "[backend.tls] says whom all its servers must be: give it a backend of its own"),
        (
            unlike,
            "checks, breaker and `send_proxy` are the backend's: the first server's count; give this one a backend of its own",
        ),
        (asks_inside, "its check only connects: behind tcp:// nobody asks over TLS (docs/from-haproxy.md)"),
        (found.disabled, "`disabled` became `weight = 0`: no new calls; `trunkline maint` takes it out wholly"),
    ];
    proxy.servers.push(found);
    translated_but(those(all).chain(without_equal(&unknown)))
}

/// The reasons that are so.
pub fn those<const N: usize>(all: [(bool, &str); N]) -> impl Iterator<Item = String> {
    all.into_iter().filter(|(is_so, _)| *is_so).map(|(_, reason)| reason.to_owned())
}

/// What of a line is left to somebody, all of it.
pub fn translated_but(left: impl Iterator<Item = String>) -> Fate {
    let left: Vec<_> = left.collect();
    if left.is_empty() { Fate::Translated } else { Fate::ByHand(left.join("; ")) }
}

pub fn without_equal(unknown: &[String]) -> Option<String> {
    (!unknown.is_empty()).then(|| format!("but for `{}`, which has no equal here", unknown.join(" ")))
}

/// What a server's words say; returns those that nobody knows.
fn options(words: &[String], server: &mut Server) -> Vec<String> {
    let (mut unknown, mut words) = (Vec::new(), words.iter());
    while let Some(word) = words.next() {
        let mut next = || words.next().map_or("", String::as_str);
        match word.as_str() {
            "check" => server.checked = true,
            "backup" => server.backup = true,
            "ssl" => server.tls = true,
            "send-proxy" => server.send_proxy = Some("v1"),
            "send-proxy-v2" => server.send_proxy = Some("v2"),
            "weight" => server.weight = next().parse().ok(),
            "maxconn" => server.max_calls = next().parse().ok(),
            "slowstart" => server.slow_start = duration(next()),
            "inter" => server.interval = duration(next()),
            "fastinter" => server.fast_interval = duration(next()),
            "rise" => server.rise = next().parse().ok(),
            "fall" => server.fall = next().parse().ok(),
            "ca-file" => server.ca = Some(next().to_owned()),
            "verify" => server.anybody = next() == "none",
            "sni" => match next() {
                text if text.starts_with("str(") && text.ends_with(')') => {
                    server.tls_name = Some(text[4..text.len() - 1].to_owned());
                }
                of_call => unknown.push(format!("sni {of_call}")),
            },
            "error-limit" => server.error_limit = next().parse().ok(),
            "observe" => {
                let layer = next();
                server.observed = true;
                server.observed_by_answers = layer == "layer7";
            }
            "on-error" => match next() {
                "mark-down" | "sudden-death" | "fail-check" => {}
                other => unknown.push(format!("on-error {other}")),
            },
            "on-marked-down" | "on-marked-up" => unknown.push(format!("{word} {}", next())),
            // Without a word, or nothing that anybody misses.
            "check-ssl" => server.check_ssl = true,
            "check-send-proxy" => {}
            "enabled" => server.disabled = false,
            "disabled" => server.disabled = true,
            "no-check" => server.checked = false,
            "downinter" | "maxqueue" | "minconn" => unknown.push(format!("{word} {}", next())),
            "id" | "resolvers" | "init-addr" | "resolve-prefer" | "pool-max-conn" => drop(next().len()),
            _ => unknown.push(word.clone()),
        }
    }
    unknown
}
