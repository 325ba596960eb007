//! Servers that are written with a name: what the DNS is asked for them, and which servers its answers make.
//!
//! Each address is a server of its own, `name@address`, and that is its identity: tokens, pins, health and counters hang
//! on it, never on the place in an answer. An address that vanishes leaves as a server does that a reload removes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::{Backend, Config, Frontend, Rate, Server, Source, is_one_host, is_relayed};
use crate::sip::Transport;
use crate::sip::token::NameHash;

/// Servers with a name in one file: each asks for itself.
pub const MOST_NAMES: usize = 1_000;

/// Addresses of one name; what one UDP answer holds, with room to spare.
pub const MOST_ADDRESSES: usize = 64;

/// The largest weight of a server, to which those of SRV records are scaled.
const LARGEST_WEIGHT: u32 = 256;

/// Addresses that one line of the log names.
const SHOWN: usize = 8;

/// A server as it is written, with a name for its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub query: Query,
    /// How many servers with an address are written before it.
    pub at: usize,
    /// Position of its region.
    pub region: usize,
    /// As [`Server::tls_name`]; where none is written, the name that is asked for (RFC 5922 §7.1).
    pub tls_name: Option<String>,
    /// Of each address, where no SRV record says another.
    pub weight: u32,
    /// What follows is of each address, too.
    pub max_calls: u32,
    pub max_rate: Option<Rate>,
    pub slow_start: Duration,
    pub backup: bool,
}

impl Named {
    /// Whether it has a server in a backend that [`expand`] made.
    pub fn has_servers(&self, backend: &Backend) -> bool {
        backend.servers.iter().any(|server| server.of_name() == Some(&self.name))
    }
}

impl Backend {
    /// The names that have no server.
    pub fn unresolved(&self) -> impl Iterator<Item = &Named> {
        self.names.iter().filter(|named| !named.has_servers(self))
    }

    /// Whether somebody in a region is no backup, of the servers that stay.
    pub fn has_primaries(&self, region: usize, stays: impl Fn(&Server) -> bool) -> bool {
        self.servers.iter().any(|server| server.region == region && !server.backup && stays(server))
            || self.names.iter().any(|named| named.region == region && !named.backup)
    }

    /// What is to be said of each.
    pub fn without_address(&self) -> impl Iterator<Item = String> {
        self.unresolved().map(|n| format!("{}/{}: {} has no address that can be used", self.name, n.name, n.query))
    }
}

/// What the DNS is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    pub transport: Transport,
    pub host: String,
    /// Without one the service is asked for first (RFC 3263 §4.2).
    pub port: Option<u16>,
}

impl Query {
    /// The name of the SRV records, where no port is written.
    pub fn service(&self) -> Option<String> {
        let service = match self.transport {
            Transport::Udp => "_sip._udp",
            Transport::Tcp => "_sip._tcp",
            Transport::Tls => "_sips._tcp",
        };
        self.port.is_none().then(|| format!("{service}.{}", self.host))
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport.name(), self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// What an SRV record says of its target (RFC 2782).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Srv {
    pub priority: u16,
    pub weight: u16,
}

/// One host of an answer, and what came of asking for its addresses of one family.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub srv: Option<Srv>,
    pub v6: bool,
    /// `None`: nobody could say. Those that it had stay.
    pub addresses: Option<Vec<IpAddr>>,
}

/// One address of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub address: SocketAddr,
    /// Whose address it is.
    pub host: String,
    pub srv: Option<Srv>,
}

/// The last good answer to each query.
pub type Answers = HashMap<Query, Vec<Member>>;

/// The addresses of an answer, each once, in an order that does not depend on the answer's. `before` are those of the
/// last one, for hosts that nobody could ask for.
pub fn members(targets: &[Target], before: &[Member]) -> Vec<Member> {
    let mut members = Vec::new();
    for Target { host, port, srv, v6, addresses } in targets {
        let member = |address| Member { address, host: host.clone(), srv: *srv };
        match addresses {
            // An IPv4 address in IPv6's clothes is that address.
            Some(ips) => members.extend(ips.iter().map(|ip| member(SocketAddr::new(ip.to_canonical(), *port)))),
            None => {
                let kept = before.iter().filter(|member| member.host == *host).map(|member| member.address);
                members.extend(kept.filter(|kept| kept.port() == *port && kept.is_ipv6() == *v6).map(member));
            }
        }
    }
    let order = |member: &Member| (member.srv.map(|srv| (srv.priority, u16::MAX - srv.weight)), member.address);
    members.sort_by_key(order);
    let mut seen = HashSet::new();
    members.retain(|member| seen.insert(member.address));
    members
}

/// Addresses of a name that cannot be servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// "backend/server".
    pub server: String,
    pub addresses: Vec<SocketAddr>,
    pub why: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, address) in self.addresses.iter().take(SHOWN).enumerate() {
            write!(f, "{}{address}", if at == 0 { "" } else { ", " })?;
        }
        let more = self.addresses.len().saturating_sub(SHOWN);
        if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
    }
}

/// The configuration with a server for each address that its names have, and the addresses that were refused. `own` says
/// which addresses are the balancer's.
pub fn expand(file: &Config, answers: &Answers, own: &dyn Fn(SocketAddr) -> bool) -> (Config, Vec<Refused>) {
    let mut expansion = Expansion { own, taken: HashSet::new(), ids: HashSet::new(), refused: Vec::new() };
    for (at, backend) in file.backends.iter().enumerate() {
        let relayed = is_relayed(at, &file.frontends);
        for server in &backend.servers {
            expansion.ids.insert(server.id);
            let own = (!relayed).then(|| exactly(server.address));
            own.iter().chain(&server.sources).for_each(|source| expansion.take(server.transport, source));
        }
    }
    let mut config = file.clone();
    for (at, backend) in config.backends.iter_mut().enumerate() {
        let reach = Reach::of(file, at);
        let mut written = std::mem::take(&mut backend.servers).into_iter();
        let mut placed = 0;
        for named in &backend.names {
            backend.servers.extend(written.by_ref().take(named.at - placed));
            placed = named.at;
            let members = answers.get(&named.query).map_or(&[][..], Vec::as_slice);
            backend.servers.extend(expansion.servers(&backend.name, named, members, &reach));
        }
        backend.servers.extend(written);
    }
    (config, expansion.refused)
}

/// From where a backend's servers can be reached.
struct Reach<'a> {
    frontends: Vec<&'a Frontend>,
    /// Whether one of them speaks from a loopback address.
    loopback: bool,
    /// Its servers send no requests, so another backend may have their addresses too.
    relayed: bool,
}

impl<'a> Reach<'a> {
    fn of(config: &'a Config, backend: usize) -> Self {
        let frontends: Vec<_> =
            config.frontends.iter().filter(|frontend| frontend.backends().contains(&backend)).collect();
        let ips = |frontend: &&Frontend| {
            let inside = [frontend.inside.v4, frontend.inside.v6].into_iter().flatten();
            frontend.binds.iter().map(|bind| bind.address.ip()).chain(inside).any(|ip| ip.is_loopback())
        };
        Self { loopback: frontends.iter().any(ips), relayed: is_relayed(backend, &config.frontends), frontends }
    }
}

struct Expansion<'a> {
    own: &'a dyn Fn(SocketAddr) -> bool,
    /// Who is known by it has it: over streams or over datagrams.
    taken: HashSet<(bool, IpNet, Option<u16>)>,
    ids: HashSet<NameHash>,
    refused: Vec<Refused>,
}

impl Expansion<'_> {
    fn servers(&mut self, backend: &str, named: &Named, members: &[Member], reach: &Reach<'_>) -> Vec<Server> {
        let mut accepted: Vec<(_, Server)> = Vec::new();
        for member in members {
            let (address, transport) = (member.address, named.query.transport);
            let name = format!("{}@{address}", named.name);
            let id = NameHash::of(&format!("{backend}/{name}"));
            // Where it listens, and where it sends from.
            let own = [exactly(address), Source::of(transport, address)];
            let why = if accepted.len() == MOST_ADDRESSES {
                Some("there are more than 64 addresses")
            } else if self.ids.contains(&id) {
                Some("its name has the hash of another server's")
            } else if !reach.relayed && own.iter().any(|source| self.has(transport, source)) {
                Some("another server has it")
            } else {
                self.judge(address, reach)
            };
            if let Some(why) = why {
                self.refuse(backend, named, address, why);
                continue;
            }
            self.ids.insert(id);
            if !reach.relayed {
                own.iter().for_each(|source| self.take(transport, source));
            }
            let sources = if reach.relayed { Vec::new() } else { own[1..].to_vec() };
            let Named { region, weight, max_calls, max_rate, slow_start, backup, .. } = *named;
            let server = Server {
                name,
                id,
                region,
                transport,
                address,
                ports: None,
                sources,
                tls_name: named.tls_name.clone(),
                weight,
                max_calls,
                max_rate,
                slow_start,
                backup,
            };
            accepted.push((member.srv, server));
        }
        shape(&mut accepted);
        accepted.into_iter().map(|(_, server)| server).collect()
    }

    fn has(&self, transport: Transport, source: &Source) -> bool {
        source.places(transport).any(|place| self.taken.contains(&place))
    }

    fn take(&mut self, transport: Transport, source: &Source) {
        self.taken.extend(source.places(transport));
    }

    /// Why an address can never be a server's.
    fn judge(&self, address: SocketAddr, reach: &Reach<'_>) -> Option<&'static str> {
        let ip = address.ip();
        if ip.is_multicast() {
            Some("it is a multicast address")
        } else if !is_one_host(ip) || address.port() == 0 {
            Some("no host has it")
        } else if is_link_local(ip) {
            Some("it is a link-local address")
        } else if (self.own)(address) {
            Some("it is this balancer's own")
        } else if ip.is_loopback() && !reach.loopback {
            Some("it is a loopback address, and no frontend speaks from one")
        } else if !reach.frontends.iter().all(|frontend| frontend.reaches(ip)) {
            Some("a frontend has no address of its family")
        } else {
            None
        }
    }

    fn refuse(&mut self, backend: &str, named: &Named, address: SocketAddr, why: &'static str) {
        let server = format!("{backend}/{}", named.name);
        match self.refused.iter_mut().find(|refused| refused.server == server && refused.why == why) {
            Some(refused) => refused.addresses.push(address),
            None => self.refused.push(Refused { server, addresses: vec![address], why }),
        }
    }
}

/// Weights and priorities of SRV records: weights as parts of the largest where one is beyond a server's, and every
/// priority but the lowest number is for when no other can (RFC 2782: "MUST attempt to contact the target host with the
/// lowest-numbered priority it can reach").
fn shape(servers: &mut [(Option<Srv>, Server)]) {
    let srvs = || servers.iter().filter_map(|(srv, _)| *srv);
    let first = srvs().map(|srv| srv.priority).min();
    let largest = srvs().map(|srv| u32::from(srv.weight)).max().unwrap_or_default();
    for (srv, server) in servers {
        let Some(srv) = srv else { continue };
        let weight = u32::from(srv.weight);
        let scaled = if largest > LARGEST_WEIGHT { (weight * LARGEST_WEIGHT + largest / 2) / largest } else { weight };
        // A weight of 0 in the file wants no new calls; in a record it is a very small share, and all of it alone.
        server.weight = if server.weight == 0 { 0 } else { scaled.max(1) };
        server.backup |= Some(srv.priority) != first;
    }
}

/// Where it listens.
fn exactly(address: SocketAddr) -> Source {
    Source { net: IpNet::from(address.ip()), port: Some(address.port()), written: false }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Whether an address is one that a configuration listens on or calls its own; `here` are the addresses of this node.
pub fn is_own(config: &Config, here: &[IpAddr], address: SocketAddr) -> bool {
    let ip = address.ip();
    config.frontends.iter().any(|frontend| {
        frontend.binds.iter().filter(|bind| bind.ports.contains(address.port())).any(|bind| {
            let wildcard = bind.address.ip().is_unspecified() && (ip.is_loopback() || here.contains(&ip));
            let told = [frontend.advertise.like(ip), frontend.inside.like(ip)].contains(&Some(ip));
            wildcard || told || bind.address.ip() == ip
        })
    })
}

/// The port of a target that is a host.
pub fn port_of(query: &Query) -> u16 {
    query.port.unwrap_or(query.transport.default_port())
}

#[cfg(test)]
mod tests;
