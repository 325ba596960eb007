//! From the file to the [`Config`]: names become positions, and everything that only shows when two sections are seen
//! together is judged here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::fault::{Faults, suggestion};
use super::file::{BackendSection, File, FrontendSection, ServerSection, is_header_name};
use super::names::{self, Named, Query};
use super::read::At;
use super::relay::Written;
use super::tls::FrontendTls;
use super::value::{self, ServerAddress, Source, is_one_host};
use super::{
    Addresses, Backend, Bind, CheckKind, Config, Frontend, Mode, Region, Route, Server, admin, is_relayed, relay,
    streams, tls,
};
use crate::sip::Transport;
use crate::sip::token::NameHash;

/// `sun_path` of unix(7) holds 108 octets with the zero at its end, and the socket is made under a longer name first.
const LONGEST_SOCKET: usize = 100;

/// Headers that Trunkline writes or reads itself, and none that a client's address may be put into.
const OWN_HEADERS: &[&str] = &[
    "via",
    "v",
    "from",
    "f",
    "to",
    "t",
    "call-id",
    "i",
    "cseq",
    "route",
    "record-route",
    "path",
    "contact",
    "m",
    "max-forwards",
    "content-length",
    "l",
    "supported",
    "k",
];

/// Ties names together and judges the whole. The result means something only if no fault was noted.
pub fn resolve(file: File, faults: &mut Faults) -> Config {
    let backend_names: Vec<_> = file.backends.iter().map(|backend| backend.name.clone()).collect();
    good_names("backend", &backend_names, faults);
    distinct("server", &server_names(&file.backends), faults);
    let has_address = |server: &&ServerSection| matches!(server.address.value, ServerAddress::Address { .. });
    let places_of = |backend: &BackendSection| {
        backend.servers.iter().filter(has_address).map(|server| server.name.at).collect::<Vec<_>>()
    };
    let server_places: Vec<_> = file.backends.iter().map(places_of).collect();
    let unread: Vec<_> = file.backends.iter().map(|backend| backend.unread_server).collect();
    let mut by_name = file.backends.iter().flat_map(|backend| &backend.servers).filter(|server| !has_address(server));
    if let Some(server) = by_name.nth(names::MOST_NAMES) {
        let what = format!("more than {} servers are written with a name", names::MOST_NAMES);
        faults.push(server.address.at, what, "write addresses, or one name for many servers");
    }
    let headers: Vec<_> = file.backends.iter().map(|backend| backend.send_proxy.as_ref().map(|sent| sent.at)).collect();
    let unsaid: Vec<_> = file.backends.iter().map(|backend| (backend.at, backend.check_unsaid)).collect();
    let mut backends: Vec<_> = file.backends.into_iter().map(|section| backend(section, faults)).collect();
    good_names("frontend", &file.frontends.iter().map(|frontend| frontend.name.clone()).collect::<Vec<_>>(), faults);
    for (what, example, empty) in
        [("frontend", "[[frontend]]", file.frontends.is_empty()), ("backend", "[[backend]]", backends.is_empty())]
    {
        if empty {
            faults.push(
                0,
                format!("there is no {what}"),
                format!("add {example}; conf/minimal.toml shows the least that works"),
            );
        }
    }
    distinct_binds(&file.frontends, faults);
    if let Some(path) = &file.runtime_socket
        && (!path.value.starts_with('/') || path.value.len() > LONGEST_SOCKET)
    {
        let what = format!("`runtime_socket` cannot be \"{}\"", path.value);
        faults.push(path.at, what, format!("write a path from / on of at most {LONGEST_SOCKET} octets"));
    }
    if let Some(path) = file.state_dir.as_ref().filter(|path| !path.value.starts_with('/')) {
        faults.push(path.at, format!("`state_dir` cannot be \"{}\"", path.value), "write a path from / on");
    }
    relay::judge_count(&file.frontends, faults);
    let written = Written { backends: &backends, places: &server_places, unread: &unread };
    let sections = file.frontends.into_iter();
    let frontends: Vec<_> = sections.map(|section| frontend(section, &backend_names, written, faults)).collect();
    not_ourselves(&frontends, written, faults);
    settle_relayed(&mut backends, &unsaid, &frontends, faults);
    distinct_sources(&backends, &server_places.concat(), faults);
    one_client_each(&backends, &headers, &frontends, faults);
    file.http.iter().for_each(|http| admin::distinct(http, &frontends, faults));
    Config {
        workers: file.workers,
        cluster_key_file: file.cluster_key_file.into(),
        runtime_socket: file.runtime_socket.map(|path| path.value.into()),
        state_dir: file.state_dir.map(|path| path.value.into()),
        http: file.http.map(|http| http.value),
        follow: file.follow,
        dns: file.dns,
        frontends,
        backends,
    }
}

/// Servers whom nobody but relays of connections knows send no requests, so several may have one address; and a check of theirs
/// that nobody wrote only connects: what they speak is nobody's business here. `unsaid`: where each backend is written, and whether
/// nobody wrote what its check asks.
fn settle_relayed(backends: &mut [Backend], unsaid: &[(usize, bool)], frontends: &[Frontend], faults: &mut Faults) {
    for ((at, backend), (place, unsaid)) in backends.iter_mut().enumerate().zip(unsaid) {
        let relayed = is_relayed(at, frontends);
        if relayed {
            backend.servers.iter_mut().for_each(|server| server.sources.retain(|source| source.written));
        }
        let Some(check) = &mut backend.check else {
            if backend.breaker.as_ref().is_some_and(|breaker| breaker.checks) {
                let what = format!("the breaker of \"{}\" counts checks, and its servers have none", backend.name);
                faults.push(*place, what, "take `checks` away, or write `[backend.check]`");
            }
            continue;
        };
        if relayed && *unsaid {
            check.kind = CheckKind::Tcp;
        }
        let udp = backend.servers.iter().find(|server| server.transport == Transport::Udp);
        if let (CheckKind::Tcp | CheckKind::Http(_), Some(server)) = (&check.kind, udp) {
            let what = format!("the check of \"{}\" connects, and server \"{}\" is udp://", backend.name, server.name);
            faults.push(*place, what, "write `check = { type = \"options\" }`");
        }
    }
}

/// A header of the PROXY protocol names one client: of connections that all clients share it could name none.
fn one_client_each(backends: &[Backend], headers: &[Option<usize>], frontends: &[Frontend], faults: &mut Faults) {
    for ((at, backend), header) in backends.iter().enumerate().zip(headers) {
        let mut others = frontends.iter().filter(|of| !of.relays_streams() && of.backends().contains(&at));
        if let (Some(place), Some(frontend)) = (header, others.next()) {
            let what = format!(
                "`send_proxy` of \"{}\", and frontend \"{}\" is no relay of connections",
                backend.name, frontend.name
            );
            faults.push(*place, what, "a proxy tells servers by `source_header`; give the relay a backend of its own");
        }
    }
}

/// Names must be there, plain, and distinct.
fn good_names(what: &str, names: &[At<String>], faults: &mut Faults) {
    names.iter().for_each(|name| plain(what, name, faults));
    distinct(what, names, faults);
}

fn plain(what: &str, name: &At<String>, faults: &mut Faults) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.value.len() > 64 || !name.value.chars().all(plain) {
        let remedy = "write at most 64 letters, digits, `-`, `_` and `.`";
        faults.push(name.at, format!("\"{}\" is no name for a {what}", name.value), remedy);
    }
}

/// The servers of all backends, by the names that tokens have for them.
fn server_names(backends: &[BackendSection]) -> Vec<At<String>> {
    let of = |backend: &BackendSection, server: &ServerSection| At {
        value: format!("{}/{}", backend.name.value, server.name.value),
        at: server.name.at,
    };
    let all = backends.iter().flat_map(|backend| backend.servers.iter().map(move |server| (backend, server)));
    all.filter(|(_, server)| !server.name.value.is_empty()).map(|(backend, server)| of(backend, server)).collect()
}

/// Names are unlike each other, and unlike in their hashes, by which tokens call them.
fn distinct(what: &str, names: &[At<String>], faults: &mut Faults) {
    let mut by_hash: HashMap<NameHash, &str> = HashMap::new();
    for name in names.iter().filter(|name| !name.value.is_empty()) {
        match by_hash.insert(NameHash::of(&name.value), &name.value) {
            Some(other) if other == name.value => {
                faults.push(name.at, format!("there are two {what}s \"{other}\""), "give one of them another name");
            }
            Some(other) => {
                let what = format!(
                    "the names \"{other}\" and \"{}\" have one hash, and tokens could not tell them apart",
                    name.value
                );
                faults.push(name.at, what, "change one of them by a letter");
            }
            None => {}
        }
    }
}

fn distinct_binds(frontends: &[FrontendSection], faults: &mut Faults) {
    let binds: Vec<_> = frontends.iter().flat_map(|of| of.binds.iter().map(move |bind| (of, bind))).collect();
    for (at, (_, bind)) in binds.iter().enumerate() {
        let same = |other: &Bind| {
            // A port of TCP is one port, whatever is spoken there.
            (other.transport == Transport::Udp) == (bind.value.transport == Transport::Udp)
                && other.address.ip() == bind.value.address.ip()
                && other.ports.overlaps(bind.value.ports)
        };
        if let Some((owner, other)) = binds[..at].iter().find(|(_, other)| same(&other.value)) {
            let first = bind.value.ports.first.max(other.value.ports.first);
            let address = SocketAddr::new(bind.value.address.ip(), first);
            faults.push(
                bind.at,
                format!("{address} is bound twice, by \"{}\" before", owner.name.value),
                "give each bind an address or a port of its own",
            );
        }
    }
}

/// A request that a server sends must name one server. `places` are those of the servers, backend by backend.
fn distinct_sources(backends: &[Backend], places: &[usize], faults: &mut Faults) {
    let mut owners: HashMap<(bool, IpNet, Option<u16>), (&Backend, &Server)> = HashMap::new();
    let servers = backends.iter().flat_map(|backend| backend.servers.iter().map(move |server| (backend, server)));
    for ((backend, server), at) in servers.zip(places) {
        for source in &server.sources {
            // What was written counts for datagrams and for streams.
            let places = source.places(server.transport);
            let before = places.filter_map(|place| owners.insert(place, (backend, server)));
            if let Some((of, owner)) = before.last() {
                let names = (format!("{}/{}", of.name, owner.name), format!("{}/{}", backend.name, server.name));
                let (what, remedy) = match (owner.address == server.address, of.name == backend.name) {
                    (false, _) => one_source(source, &names),
                    (true, true) => one_address(&names, "write it once; a larger `weight` gives it more calls"),
                    (true, false) => one_address(
                        &names,
                        "a server stands in one backend only: let frontends and routes share that backend",
                    ),
                };
                faults.push(*at, what, remedy);
            }
        }
    }
}

fn one_source(source: &Source, (one, other): &(String, String)) -> (String, &'static str) {
    let port = source.port.map_or(String::new(), |port| format!(" port {port}"));
    let what = format!("requests from {}{port} could be {one}'s or {other}'s", source.net);
    (what, "write `sources` that only one server sends from")
}

fn one_address((one, other): &(String, String), remedy: &'static str) -> (String, &'static str) {
    (format!("{one} and {other} have the same address"), remedy)
}

/// The position of a name, or a fault with what was probably meant.
fn position(what: &str, wanted: &At<String>, names: &[At<String>], faults: &mut Faults) -> usize {
    if let Some(at) = names.iter().position(|name| name.value == wanted.value) {
        return at;
    }
    let remedy = match suggestion(&wanted.value, names.iter().map(|name| name.value.as_str())) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None if names.is_empty() => format!("add a {what} of that name"),
        None => format!(
            "the {what}s are {}",
            names.iter().map(|name| format!("\"{}\"", name.value)).collect::<Vec<_>>().join(", ")
        ),
    };
    faults.push(wanted.at, format!("there is no {what} \"{}\"", wanted.value), remedy);
    0
}

fn aliases(section: &FrontendSection, faults: &mut Faults) -> Vec<String> {
    for alias in section.aliases.iter().filter(|alias| !is_host(&alias.value)) {
        let what = format!("`aliases` cannot hold \"{}\"", alias.value);
        faults.push(alias.at, what, "write a host name or an address, without scheme, port or `*`");
    }
    let told = section.tls.iter().filter_map(|tls| tls.value.name.clone());
    section.aliases.iter().map(|alias| alias.value.clone()).chain(told).collect()
}

fn addresses(key: &str, written: &[At<IpAddr>], faults: &mut Faults) -> Addresses {
    let mut addresses = Addresses::default();
    for address in written {
        if !is_one_host(address.value) {
            faults.push(
                address.at,
                format!("`{key}` cannot be {}", address.value),
                "write an address that a message can come from",
            );
        }
        if let Err(wanted) = value::socket_takes(address.value) {
            faults.push(address.at, format!("`{key}` is not {wanted}"), format!("write {wanted}"));
        }
        let slot = if address.value.is_ipv4() { &mut addresses.v4 } else { &mut addresses.v6 };
        if slot.replace(address.value).is_some() {
            faults.push(
                address.at,
                format!("`{key}` has two addresses of one family"),
                "write at most one IPv4 and one IPv6 address",
            );
        }
    }
    addresses
}

fn frontend(section: FrontendSection, names: &[At<String>], written: Written<'_>, faults: &mut Faults) -> Frontend {
    if section.binds.is_empty() && !section.unread_bind {
        faults.push(
            section.at,
            format!("frontend \"{}\" listens nowhere", section.name.value),
            "add `bind = [\"udp://0.0.0.0:5060\"]`",
        );
    }
    // What could not be read may be what is missing.
    if !section.unread_bind {
        tls::judge_frontend(&section, faults);
    }
    if let Some(header) = &section.source_header
        && (!is_header_name(&header.value) || OWN_HEADERS.contains(&header.value.to_ascii_lowercase().as_str()))
    {
        faults.push(
            header.at,
            format!("`source_header` cannot be \"{}\"", header.value),
            "write a header of its own such as \"X-Trunkline-Source\"",
        );
    }
    let backend_of = |wanted: &Option<At<String>>, faults: &mut Faults| {
        wanted.as_ref().map_or(0, |wanted| position("backend", wanted, names, faults))
    };
    let backend = backend_of(&section.backend, faults);
    let routes: Vec<_> = section
        .routes
        .iter()
        .map(|route| Route {
            methods: route.methods.clone(),
            clients: route.clients.clone(),
            hosts: route.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            backend: backend_of(&route.backend, faults),
        })
        .collect();
    let frontend = Frontend {
        id: NameHash::of(&section.name.value),
        mode: section.mode.clone(),
        advertise: addresses("advertise", &section.advertise, faults),
        inside: addresses("inside", &section.inside, faults),
        aliases: aliases(&section, faults),
        binds: section.binds.iter().map(|bind| bind.value).collect(),
        backend,
        routes,
        record_route: section.record_route,
        path: section.path,
        force_rport: section.force_rport,
        send_to: section.send_to.clone(),
        source_header: section.source_header.as_ref().map(|header| header.value.clone()),
        dscp: section.dscp,
        limits: section.limits.clone(),
        connections: section.connections.clone(),
        tls: section
            .tls
            .as_ref()
            .map(|tls| FrontendTls { carries_sip: section.mode == Mode::Proxy, ..tls.value.clone() }),
        accept_proxy: section.accept_proxy.clone(),
        name: section.name.value.clone(),
        leaves: false,
    };
    relay::judge(&section, &frontend, written, faults);
    if frontend.is_proxy() && !section.unread_bind {
        reachable(&frontend, section.at, written.backends, faults);
    }
    frontend
}

/// A host as it stands in a URI (RFC 3261 §25.1).
fn is_host(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    !text.is_empty() && (text.chars().all(name) || address.parse::<IpAddr>().is_ok())
}

/// Every server needs an address of ours of its own family to be reached from.
fn reachable(frontend: &Frontend, at: usize, backends: &[Backend], faults: &mut Faults) {
    for backend in frontend.backends().into_iter().filter_map(|at| backends.get(at)) {
        for server in &backend.servers {
            if !frontend.reaches(server.address.ip()) {
                let family = if server.address.is_ipv4() { "IPv4" } else { "IPv6" };
                faults.push(
                    at,
                    format!(
                        "frontend \"{}\" has no {family} address to reach {}/{} from",
                        frontend.name, backend.name, server.name
                    ),
                    format!("add an {family} address to `inside` or `bind`"),
                );
            }
        }
    }
}

/// A server at an address of ours would be sent its own messages. A relay's servers are judged with its ports.
fn not_ourselves(frontends: &[Frontend], written: Written<'_>, faults: &mut Faults) {
    for (backend, places) in written.backends.iter().zip(written.places) {
        for (server, at) in backend.servers.iter().zip(places).filter(|(server, _)| server.ports.is_none()) {
            let mut proxies = frontends.iter().filter(|frontend| frontend.is_proxy());
            if let Some(frontend) = proxies.find(|frontend| is_at(frontend, server)) {
                let (what, name) = (format!("{}/{}", backend.name, server.name), &frontend.name);
                let what = format!("server {what} is this balancer itself: its address is one of frontend \"{name}\"");
                faults.push(*at, what, "write the address of a SIP server, or bind another one");
            }
        }
    }
}

/// Whether a server's address is what a frontend binds, what it tells clients, or what servers see of it.
fn is_at(frontend: &Frontend, server: &Server) -> bool {
    let (ip, port) = (server.address.ip(), server.address.port());
    let same = |bind: &&Bind| (bind.transport == Transport::Udp) == (server.transport == Transport::Udp);
    let binds = || frontend.binds.iter().filter(same);
    // `inside` has the port of the first bind.
    let inside = binds().next().filter(|bind| bind.address.port() == port).and_then(|_| frontend.inside.like(ip));
    let bound = |bind: &Bind| {
        let every = bind.address.ip().is_unspecified() && ip.is_loopback() && bind.address.is_ipv4() == ip.is_ipv4();
        bind.ports.contains(port) && (every || bind.address.ip() == ip || frontend.advertise.like(ip) == Some(ip))
    };
    inside == Some(ip) || binds().any(bound)
}

fn backend(section: BackendSection, faults: &mut Faults) -> Backend {
    let name = &section.name.value;
    let mut regions_named: Vec<_> = section.regions.iter().map(|region| region.name.clone()).collect();
    good_names("region", &regions_named, faults);
    let region_places: Vec<_> = regions_named.iter().map(|name| name.at).collect();
    let mut regions: Vec<_> = section
        .regions
        .into_iter()
        .map(|region| Region {
            id: NameHash::of(&region.name.value),
            name: region.name.value,
            weight: region.weight,
            clients: region.clients,
        })
        .collect();
    if regions.is_empty() {
        // One region that is never spoken of: a single site needs no names.
        regions.push(Region { name: name.clone(), id: NameHash::of(name), weight: 1, clients: Vec::new() });
        regions_named.clear();
    }
    section.servers.iter().for_each(|server| plain("server", &server.name, faults));
    let (mut servers, mut named, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for written in section.servers {
        let region = region_of(&written, &regions_named, faults);
        match written.address.value.clone() {
            ServerAddress::Address { transport, address, has_port } => {
                places.push(written.name.at);
                servers.push(server(written, name, region, (transport, address, has_port), faults));
            }
            ServerAddress::Name(query) => named.push(self::named(written, query, region, servers.len(), faults)),
        }
    }
    // What could not be read may be what is missing.
    if !section.unread_server {
        judge_backend(name, section.at, (&regions, &region_places), &servers, &named, faults);
        tls::judge_backend(name, section.tls.as_ref(), (&servers, &named), faults);
        streams::judge_backend(name, section.timeout.as_ref(), (&servers, &named), faults);
    }
    relay::judge_backend(name, (&servers, &named), &places, faults);
    Backend {
        name: section.name.value,
        balance: section.balance,
        pin: section.pin,
        stick: section.stick,
        check: section.check,
        suspect: section.suspect,
        breaker: section.breaker,
        when_all_down: section.when_all_down,
        spill_below: section.spill_below,
        in_dialog_failover: section.in_dialog_failover,
        pass_503: section.pass_503,
        tls: section.tls.map_or_else(Default::default, |tls| tls.value),
        timeout: section.timeout.map_or_else(Default::default, |timeout| timeout.value),
        send_proxy: section.send_proxy.map(|version| version.value),
        regions,
        servers,
        names: named,
        leaves: false,
    }
}

/// The position of the region that a server is in.
fn region_of(section: &ServerSection, regions: &[At<String>], faults: &mut Faults) -> usize {
    match &section.region {
        Some(region) => position("region", region, regions, faults),
        None if regions.is_empty() => 0,
        None => {
            faults.push(
                section.name.at,
                format!("server \"{}\" is in no region", section.name.value),
                "add `region`: this backend has regions",
            );
            0
        }
    }
}

/// A server with a name: what belongs to one address cannot be said of it.
fn named(section: ServerSection, query: Query, region: usize, at: usize, faults: &mut Faults) -> Named {
    let tls_name = tls::name(section.tls_name.as_ref(), query.transport, (&query.host, section.address.at), faults);
    let remedy = "remove it, or write a server for each address";
    if let Some(source) = section.sources.first() {
        faults.push(source.at, "`sources` with a name: each of its addresses sends from itself", remedy);
    }
    if let Some(ports) = &section.ports {
        faults.push(ports.at, "`ports` with a name: a part of a range is one address's", remedy);
    }
    let ServerSection { weight, max_calls, max_rate, slow_start, backup, .. } = section;
    Named { name: section.name.value, query, at, region, tls_name, weight, max_calls, max_rate, slow_start, backup }
}

fn server(
    section: ServerSection,
    backend: &str,
    region: usize,
    (transport, address, has_port): (Transport, SocketAddr, bool),
    faults: &mut Faults,
) -> Server {
    let host = address.ip().to_string();
    let tls_name = tls::name(section.tls_name.as_ref(), transport, (&host, section.address.at), faults);
    let ports = section.ports.as_ref().map(|ports| ports.value);
    if let Some(part) = section.ports.as_ref().filter(|_| has_port) {
        let what = format!("server \"{}\" has `ports` and a port in its address", section.name.value);
        faults.push(part.at, what, "write the address without a port: each datagram keeps the port it came to");
    }
    let mut sources: Vec<_> = section.sources.iter().map(|source| source.value).collect();
    if sources.is_empty() && ports.is_none() {
        sources.push(Source::of(transport, address));
    }
    Server {
        id: NameHash::of(&format!("{backend}/{}", section.name.value)),
        name: section.name.value,
        region,
        transport,
        address: SocketAddr::new(address.ip(), ports.map_or(address.port(), |ports| ports.first)),
        ports,
        sources,
        tls_name,
        weight: section.weight,
        max_calls: section.max_calls,
        max_rate: section.max_rate,
        slow_start: section.slow_start,
        backup: section.backup,
    }
}

fn judge_backend(
    name: &str,
    at: usize,
    (regions, places): (&[Region], &[usize]),
    servers: &[Server],
    named: &[Named],
    faults: &mut Faults,
) {
    let weights: Vec<_> = servers.iter().map(|s| s.weight).chain(named.iter().map(|n| n.weight)).collect();
    if weights.is_empty() {
        return faults.push(
            at,
            format!("backend \"{name}\" has no server"),
            "add [[backend.server]] with `name` and `address`",
        );
    }
    let regions_of = servers.iter().map(|s| s.region).chain(named.iter().map(|n| n.region));
    // Who prefers a region is served there whatever it weighs.
    let serves = |region: &Region| region.weight > 0 || !region.clients.is_empty();
    let somebody = weights.iter().zip(regions_of).any(|(weight, region)| *weight > 0 && serves(&regions[region]));
    if !somebody || regions.iter().all(|region| region.weight == 0) {
        faults.push(
            at,
            format!("in backend \"{name}\" no server with a weight is in a region with one: nobody may serve"),
            "give at least one region and one server in it a weight",
        );
    }
    for (at_region, region) in regions.iter().enumerate() {
        let mut used = servers.iter().map(|s| s.region).chain(named.iter().map(|n| n.region));
        if !used.any(|region| region == at_region) {
            faults.push(
                places.get(at_region).copied().unwrap_or(at),
                format!("region \"{}\" of backend \"{name}\" has no server", region.name),
                "remove the region or add a server to it",
            );
        }
    }
}
