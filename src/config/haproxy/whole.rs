//! What of a line only the whole file says: which backends are SIP's, which sections are the stats page's, where rules lead.

use std::collections::BTreeSet;

use super::edge::{Edge, Proxy};
use super::gather::{those, translated_but};
use super::lines::{Line, Section};
use super::{Fate, Told};

/// Adds to what is told of lines what is left to somebody for these reasons.
pub fn leave(sections: &[Section], edge: &Edge, told: &mut [Told]) {
    let mut put = |number: usize, left: &str| {
        if let Some(told) = told.iter_mut().find(|told| told.number == number) {
            let before = if let Fate::ByHand(before) = &told.fate { Some(before.clone()) } else { None };
            told.fate = translated_but(before.into_iter().chain([left.to_owned()]));
        }
    };
    for section in sections {
        let name = section.head.word(1);
        // What `defaults` say of servers may be said of these.
        let is_sip = match section.kind() {
            "backend" | "listen" => edge.is_sip(name),
            "defaults" => edge.proxies.iter().any(Proxy::is_sip),
            _ => false,
        };
        for line in &section.lines {
            if is_sip {
                of_sip(line).for_each(|left| put(line.number, &left));
            }
            if matches!(line.word(0), "use_backend" | "default_backend") && !edge.has_servers(line.word(1)) {
                put(line.number, "no backend of that name has servers here; the stats page has an address of its own");
            }
        }
    }
    for proxy in edge.proxies.iter().filter(|proxy| !proxy.says.all_backups) {
        for backup in proxy.servers.iter().filter(|server| server.backup).skip(1) {
            put(
                backup.line,
                "without `option allbackups` the first living backup serves alone there; here all of them do",
            );
        }
    }
    for beside in edge.proxies.iter().filter(|proxy| proxy.is_stats && !proxy.binds.is_empty()) {
        put(beside.line, "the stats page has an address of its own here: `stats` in [admin]");
    }
    for (page, at) in edge.pages.iter().zip(0..) {
        let sections = sections.iter().filter(|section| section.head.number == page.line);
        sections.flat_map(|section| of_page(section, page, at == 0)).for_each(|(line, left)| put(line, left));
    }
}

/// What servers of SIP have not, or not so.
fn of_sip(line: &Line) -> impl Iterator<Item = String> {
    let is_of_servers = matches!(line.word(0), "server" | "default-server");
    // Whoever expects a header there must hear of it.
    let header = line.has("send-proxy") || line.has("send-proxy-v2");
    those([
        (
            header,
            "no PROXY header: a proxy tells the client by `source_header`; turn it off at the server, or use mode \"relay\"",
        ),
        (
            is_of_servers && line.has("maxconn"),
            "`maxconn` became `max_calls`: connections with a queue there, calls here, and one more gets 503",
        ),
    ])
}

/// What the stats page has not of a section that is there for it alone: the lines, and what is left of each. There is one page.
fn of_page<'a>(section: &'a Section, page: &'a Proxy, is_first: bool) -> impl Iterator<Item = (usize, &'static str)> {
    let lines = |is_so: fn(&&Line) -> bool| section.lines.iter().filter(is_so).map(|line| line.number);
    let limits = lines(|line| line.word(0) == "maxconn" || line.word(0) == "tcp-request" && line.has("reject"));
    let is_tls = page.binds.first().filter(|bind| bind.certificates.is_some());
    let first = is_tls.map(|bind| {
        (bind.line, "the page has no TLS here, so it is on loopback: put what speaks TLS before it (docs/stats.md)")
    });
    let others: BTreeSet<_> = page.binds.iter().skip(1).map(|bind| bind.line).collect();
    let others = others.into_iter().map(|at| (at, "the page has one address, the first"));
    let limits = limits.map(|at| (at, "the page has no limits: close its address to others (docs/firewall.md)"));
    let again = (!is_first).then_some((
        section.head.number,
        "there is one page, at the first one's address: look what its users may with what this one says",
    ));
    again.into_iter().chain(first.into_iter().chain(others).chain(limits).filter(move |_| is_first))
}
