//! One generation of routing state: what was configured, tied to who is usable now. Immutable; swapped whole.

mod candidates;
mod own;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use self::candidates::{Reach, candidates};
use self::own::OwnAddresses;
use super::bans::{Rule, who};
use super::binds::{Bind, Egress, Host, Plan, RelayBind, Seen, UNREACHABLE};
use super::calls::load;
use super::counters::{FrontendCounters, PerWorker};
use super::limits::{Counted, Pace, Paces};
use super::lookup::{AddressMap, Networks, Positions, Set, Sources, hasher};
use super::server::{Admin, Circuit, Lives, ServerLive, ServerState};
use super::stick_table::StickTable;
use crate::balance::{Algorithm, Balance, Region, SpillBelow};
use crate::config::{self, Config, Ports, Source, Stick};
use crate::sip::token::{Keys, NameHash};
use crate::sip::uri::Uri;
use crate::sip::{Side, Transport};

/// Everything that a decision reads. Positions in it (of frontends, binds, servers) mean something only together with
/// this very snapshot.
pub struct Snapshot {
    pub generation: u64,
    pub keys: Keys,
    /// Tells this process's send times from another node's.
    pub node: u16,
    pub frontends: Vec<Frontend>,
    pub binds: Vec<Bind>,
    /// In order of address and port.
    pub relays: Vec<RelayBind>,
    /// By lane: position in `binds`, or [`NO_BIND`].
    bind_of_lane: Vec<u16>,
    pub backends: Vec<Backend>,
    /// Of all backends, in order.
    pub servers: Vec<Server>,
    by_id: Positions,
    frontend_by_id: Positions,
    sources: Sources,
    /// The same over streams.
    stream_sources: Sources,
    own: OwnAddresses,
    server_ips: Set<IpAddr>,
    server_addresses: AddressMap,
    pub(super) lives: Arc<Lives>,
}

/// A frontend as the message path sees it.
pub struct Frontend {
    pub config: config::Frontend,
    pub live: Arc<PerWorker<FrontendCounters>>,
    pub deny: Networks,
    pub trusted: Networks,
    /// Whose connections begin with a header of the PROXY protocol.
    pub accept_proxy: Networks,
    pub paces: Paces,
    rate_salt: u64,
    pub ban: Option<Rule>,
    /// How often a source may open something new, where nothing else is asked of it.
    pub only_pace: Option<Pace>,
    pub send_to: Networks,
    /// The source header with its colon, ready to be written.
    pub source_header: Option<Box<[u8]>>,
    egresses: Vec<Egress>,
    egress_of: Vec<u16>,
}

impl Frontend {
    /// Under which key a source's rate is kept: what one frontend allows says nothing about another.
    #[inline]
    pub fn rate_key(&self, source: u64) -> u64 {
        source ^ self.rate_salt
    }

    /// How many connections clients have open to it.
    pub fn open_connections(&self) -> u64 {
        let opened = self.live.sum(|live| &live.connections);
        opened.saturating_sub(self.live.sum(|live| &live.connections_closed))
    }

    /// How it reaches a server.
    #[inline]
    pub fn egress(&self, server: usize) -> Option<&Egress> {
        let at = *self.egress_of.get(server)?;
        (at != UNREACHABLE).then(|| &self.egresses[at as usize])
    }

    /// The addresses that servers see of it.
    pub fn seen(&self) -> impl Iterator<Item = (Transport, SocketAddr)> {
        self.egresses.iter().map(|egress| (egress.side.transport, egress.local))
    }
}

/// A backend as the message path sees it.
pub struct Backend {
    pub config: config::Backend,
    pub balance: Balance,
    /// The balance without those that take trial calls only, where there are such.
    pub settled: Option<Balance>,
    /// `stick`'s table, where stickiness is not by Call-ID.
    stick: Option<Arc<StickTable>>,
    /// Source networks that prefer a region, the longest prefix first.
    clients: Vec<(IpNet, u32)>,
    /// Whose each port of a relay's range is, in order of ports.
    parts: Vec<(Ports, u16)>,
    /// Whether new calls go to servers that are in doubt, for nobody else takes them.
    asks_doubtful: bool,
    /// Who is sent new calls though it takes none: it fails open to them. In order; the names' hashes.
    opened_to: Vec<u32>,
    /// Whether all of its servers leave.
    leaves: bool,
}

impl Backend {
    /// The region that a source prefers.
    #[inline]
    pub fn preferred_region(&self, source: IpAddr) -> Option<u32> {
        self.clients.iter().find(|(net, _)| net.contains(&source)).map(|(_, region)| *region)
    }

    /// Whether a server of it that is so may be sent a new call.
    #[inline]
    pub fn takes_new(&self, state: ServerState) -> bool {
        state.takes_new() || self.asks_doubtful && state.is_doubtful()
    }

    /// Whether a server is sent new calls, wanted or not.
    #[inline]
    pub fn is_sent_new(&self, server: &Server) -> bool {
        self.takes_new(server.state) || self.fails_open_to(server)
    }

    /// Whether a server keeps what is its own. Who is sent new calls although it seems dead has them: its transactions and
    /// flows must not wander from one such to the next.
    #[inline]
    pub fn is_kept(&self, server: &Server, confirmed: bool) -> bool {
        server.state.keeps(confirmed, self.config.in_dialog_failover) || self.fails_open_to(server)
    }

    fn fails_open_to(&self, server: &Server) -> bool {
        self.opened_to.binary_search(&server.id.0).is_ok()
    }

    /// Whether nobody takes new calls although somebody should.
    pub fn lacks_servers(&self) -> bool {
        self.balance.is_empty() && !self.leaves
    }

    /// The balance of those that take every new call.
    #[inline]
    pub fn settled(&self) -> &Balance {
        self.settled.as_ref().unwrap_or(&self.balance)
    }

    /// Tells the balance how busy a server is; `None`: it is full.
    pub(super) fn tell(&self, server: &Server, load: Option<u32>) {
        for balance in [Some(&self.balance), self.settled.as_ref()].into_iter().flatten() {
            balance.set(server.region.into(), server.seat.into(), load);
        }
    }

    /// Whether each port that comes in belongs to one server.
    pub fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The position of the server whose a port is.
    #[inline]
    pub fn owner(&self, port: u16) -> Option<usize> {
        let behind = self.parts.partition_point(|(ports, _)| ports.first <= port);
        let (ports, server) = self.parts.get(behind.checked_sub(1)?)?;
        ports.contains(port).then_some(*server as usize)
    }

    /// How many keys its stick table has room for, where the wanted configuration keeps the table and asks for another size.
    pub fn stick_stays_at(&self, wanted: &config::Backend) -> Option<usize> {
        let (table, stick) = self.stick()?;
        let wanted = wanted.stick.as_ref().filter(|wanted| wanted.on == stick.on)?;
        (wanted.size != table.size()).then_some(table.size())
    }

    /// Its stick table, and what its keys are and for how long.
    #[inline]
    pub fn stick(&self) -> Option<(&StickTable, &Stick)> {
        self.stick.as_deref().zip(self.config.stick.as_ref())
    }
}

/// A server as the message path sees it.
#[derive(Debug)]
pub struct Server {
    pub id: NameHash,
    /// "backend/server".
    pub name: String,
    pub backend: u16,
    /// Position of its region in the backend.
    pub region: u16,
    /// Position of it in the region.
    pub seat: u16,
    /// Whether the balance must hear of its calls: the algorithm counts them, or a server of the backend has `max_calls`.
    pub tells_load: bool,
    pub counts_transactions: bool,
    /// The most calls at once; 0 is no limit.
    pub max_calls: u32,
    /// Nanoseconds between two new calls; 0 is no limit.
    pub rate_interval: u64,
    pub address: SocketAddr,
    pub ports: Option<Ports>,
    pub transport: Transport,
    pub state: ServerState,
    pub live: Arc<ServerLive>,
    /// The generation from which on it has been there.
    pub since: u64,
    sources: Vec<Source>,
    /// The first of its sources that is an address and a port: nearly always there is no other.
    source: Option<SocketAddr>,
}

impl Server {
    /// Whether it sends from this address, over datagrams or over streams.
    #[inline]
    pub fn sends_from(&self, remote: &SocketAddr, streams: bool) -> bool {
        self.source.as_ref() == Some(remote) || self.has_source(remote, streams)
    }

    fn has_source(&self, remote: &SocketAddr, streams: bool) -> bool {
        let is = |source: &Source| {
            source.counts_for(self.transport, streams)
                && source.port.is_none_or(|port| port == remote.port())
                && if source.net.prefix_len() == source.net.max_prefix_len() {
                    source.net.addr() == remote.ip()
                } else {
                    source.net.contains(&remote.ip())
                }
        };
        self.sources.iter().any(is)
    }
}

/// What a new snapshot is made of.
pub struct Ingredients<'a> {
    pub config: &'a Config,
    pub keys: Keys,
    pub host: &'a Host,
    /// The state of each server; one that is not listed is up and ready.
    pub states: &'a HashMap<NameHash, ServerState>,
    pub workers: usize,
}

impl Snapshot {
    /// Builds the next generation. From `previous` come the live sides of servers, frontends and stick tables, and the
    /// tables of the balance that nothing changed.
    pub fn build(ingredients: &Ingredients<'_>, previous: Option<&Self>) -> Self {
        let Ingredients { config, keys, host, states, workers } = ingredients;
        let generation = previous.map_or(1, |p| p.generation + 1);
        let lives = previous.map_or_else(Arc::default, |p| Arc::clone(&p.lives));
        let seen = |p: &Self| p.frontends.iter().map(|f| (f.config.id, f.seen().collect())).collect();
        let plan = Plan::new(config, host, previous.map_or(&[], |p| &p.binds), &previous.map_or_else(Seen::new, seen));
        let servers: Vec<_> = config
            .backends
            .iter()
            .zip(0..)
            .flat_map(|(backend, at)| backend.servers.iter().map(move |server| (backend, at, server)))
            .map(|(backend, at, server)| {
                let before = previous.and_then(|p| Some(&p.servers[p.server(server.id)?]));
                Server {
                    id: server.id,
                    name: format!("{}/{}", backend.name, server.name),
                    backend: at,
                    region: server.region as u16,
                    seat: seat_of(backend, server),
                    tells_load: tells_load(backend, states),
                    counts_transactions: backend.balance == Algorithm::LeastTransactions,
                    max_calls: max_calls(server, states),
                    rate_interval: server.max_rate.map_or(0, |rate| rate.interval()),
                    address: server.address,
                    ports: server.ports,
                    transport: server.transport,
                    state: states.get(&server.id).copied().unwrap_or_default(),
                    live: lives.of(server.id, *workers),
                    since: before.map_or(generation, |server| server.since),
                    source: server.sources.iter().find_map(Source::address),
                    sources: server.sources.clone(),
                }
            })
            .collect();
        let positions = |ids: &mut dyn Iterator<Item = NameHash>| {
            let mut positions = Positions::default();
            ids.zip(0..).for_each(|(id, at)| positions.insert(id.0.into(), at));
            positions
        };
        // A server that leaves gives way where one that stays has its address: the last of equals is kept.
        let leaves = |server: &Server| server.state.admin == Admin::Leaving;
        let mut by_stay: Vec<(&Server, u16)> = servers.iter().zip(0..).collect();
        by_stay.sort_by_key(|(server, _)| !leaves(server));
        let mut server_ips = Set::with_hasher(hasher());
        server_ips.extend(servers.iter().map(|server| server.address.ip()));
        let mut server_addresses = AddressMap::default();
        for (server, at) in &by_stay {
            server_addresses.insert(server.address, *at);
        }
        Self {
            generation,
            node: host.node,
            by_id: positions(&mut servers.iter().map(|server| server.id)),
            frontend_by_id: positions(&mut config.frontends.iter().map(|frontend| frontend.id)),
            sources: sources(&by_stay, false),
            stream_sources: sources(&by_stay, true),
            own: OwnAddresses::new(config, host, &plan),
            server_ips,
            server_addresses,
            backends: config.backends.iter().zip(0..).map(|(b, at)| backend(b, at, &servers, keys, previous)).collect(),
            frontends: frontends(config, &plan, *workers, previous),
            bind_of_lane: by_lane(&plan.binds),
            binds: plan.binds,
            relays: plan.relays,
            keys: keys.clone(),
            servers,
            lives,
        }
    }

    /// The position of a server.
    #[inline]
    pub fn server(&self, id: NameHash) -> Option<usize> {
        self.by_id.get(id.0.into()).map(usize::from)
    }

    /// Its name, as the log and the page have it.
    pub fn server_name(&self, id: NameHash) -> Option<&str> {
        self.server(id).map(|at| self.servers[at].name.as_str())
    }

    /// The live side of a server that may be in another snapshot only.
    #[inline]
    pub fn live(&self, id: NameHash) -> Option<Arc<ServerLive>> {
        self.server(id).map_or_else(|| self.lives.get(id), |at| Some(Arc::clone(&self.servers[at].live)))
    }

    /// What a frontend is called, if it is there.
    pub fn frontend_name(&self, id: NameHash) -> Option<&str> {
        self.frontend(id).map(|at| self.frontends[at].config.name.as_str())
    }

    /// The position of a frontend.
    #[inline]
    pub fn frontend(&self, id: NameHash) -> Option<usize> {
        self.frontend_by_id.get(id.0.into()).map(usize::from)
    }

    /// The position of the bind that a lane serves; `None` where it is about to be closed.
    #[inline]
    pub fn bind_of_lane(&self, lane: usize) -> Option<usize> {
        self.bind_of_lane.get(lane).filter(|at| **at != NO_BIND).map(|at| *at as usize)
    }

    /// The position of the server that sends from an address, over datagrams or over streams.
    #[inline]
    pub fn server_at(&self, remote: &SocketAddr, streams: bool) -> Option<usize> {
        let sources = if streams { &self.stream_sources } else { &self.sources };
        sources.find(remote).map(usize::from)
    }

    /// The position of the server that is written with this very address and port: it is reached there, or sends from there.
    pub fn server_written_at(&self, remote: &SocketAddr, streams: bool) -> Option<usize> {
        let sources = if streams { &self.stream_sources } else { &self.sources };
        self.server_reached_at(remote).or_else(|| sources.find_exact(remote).map(usize::from))
    }

    /// Whether a server does its part of a backend as it is now: it takes new calls, and a backup only where its region has no
    /// other servers, or where they would come to it.
    pub fn serving<'a>(&'a self, backend: &'a Backend) -> impl Fn(&config::Server) -> bool + 'a {
        let config = &backend.config;
        let state =
            |server: &config::Server| self.server(server.id).map(|at| self.servers[at].state).unwrap_or_default();
        let weighs = move |server: &config::Server| state(server).weight.unwrap_or(server.weight) > 0;
        // As `candidates` has it: trial calls alone keep no backup waiting, nor do regions without weight.
        let is_first = |server: &config::Server| {
            !server.backup
                && weighs(server)
                && config.regions[server.region].weight > 0
                && backend.takes_new(state(server))
        };
        let backups_serve = !config.servers.iter().any(is_first);
        move |server| {
            let state = state(server);
            let counts = !server.backup || backups_serve || !self.has_primaries(backend, server.region);
            counts && weighs(server) && (backend.takes_new(state) || state.takes_trials())
        }
    }

    /// Whether somebody in a region is no backup; who leaves does not count.
    pub fn has_primaries(&self, backend: &Backend, region: usize) -> bool {
        let leaves = |at: usize| self.servers[at].state.admin == Admin::Leaving;
        backend.config.has_primaries(region, |server| !self.server(server.id).is_some_and(leaves))
    }

    /// The position of the server that is reached at an address.
    pub fn server_reached_at(&self, address: &SocketAddr) -> Option<usize> {
        self.server_addresses.get(address).map(usize::from)
    }

    /// Whether an address is a server's, on any port.
    pub fn is_server_ip(&self, ip: IpAddr) -> bool {
        self.server_ips.contains(&ip)
    }

    /// The key of a source in the tables of limits and bans.
    #[inline]
    pub fn source_key(&self, ip: IpAddr) -> u64 {
        self.keys.source(who(ip))
    }

    /// Whether an address and port are ours.
    #[inline]
    pub fn is_own(&self, address: &SocketAddr) -> bool {
        self.own.has(address)
    }

    /// Whether an address is ours, on any port.
    pub fn is_own_ip(&self, ip: IpAddr) -> bool {
        self.own.has_ip(ip)
    }

    /// Whether a URI's host and port mean us: bind, advertise, inside, alias, or the address that the message came to
    /// (docs/rules.md 6).
    pub fn means_us(&self, uri: &Uri, bytes: &[u8], came_to: SocketAddr) -> bool {
        self.own.is_meant(uri, bytes, came_to)
    }

    /// The position of the relay that has a socket on this address, as it is bound.
    #[inline]
    pub fn relay_at(&self, bound: SocketAddr) -> Option<usize> {
        let behind = self.relays.partition_point(|relay| (relay.ip, relay.ports.first) <= (bound.ip(), bound.port()));
        let at = behind.checked_sub(1)?;
        let relay = &self.relays[at];
        (relay.ip == bound.ip() && relay.ports.contains(bound.port())).then_some(at)
    }

    /// What clients are told of us on a bind; `local` is the address that the message came to or leaves from.
    #[inline]
    pub fn outer_side(&self, bind: usize, local: SocketAddr) -> Cow<'_, Side> {
        match &self.binds[bind].outer {
            Some(side) => Cow::Borrowed(side),
            None => Cow::Owned(Side::of(self.binds[bind].transport, local)),
        }
    }

    /// The bind of a frontend that a message from `local` leaves from: its own, else its first of the transport
    /// (docs/rules.md 20).
    #[inline]
    pub fn bind_for(&self, frontend: usize, transport: Transport, local: &SocketAddr) -> Option<usize> {
        let of_frontend = |bind: &Bind| bind.frontend as usize == frontend && bind.transport == transport;
        self.bind_at(transport, local, of_frontend).or_else(|| {
            self.binds.iter().position(|bind| of_frontend(bind) && bind.address.is_ipv4() == local.is_ipv4())
        })
    }

    /// The bind of an address of ours: its own, where there is one, as it is for what comes to it; else a wildcard, one that is
    /// `preferred` first.
    #[inline]
    pub fn bind_at(
        &self,
        transport: Transport,
        local: &SocketAddr,
        preferred: impl Fn(&Bind) -> bool,
    ) -> Option<usize> {
        let serves = |bind: &Bind| bind.serves(transport, local);
        let own = self.binds.iter().position(|bind| serves(bind) && !bind.is_wildcard());
        own.or_else(|| self.binds.iter().position(|bind| serves(bind) && preferred(bind)))
            .or_else(|| self.binds.iter().position(serves))
    }
}

/// Who sends from where, over datagrams or over streams.
fn sources(servers: &[(&Server, u16)], streams: bool) -> Sources {
    let of = |(server, at): &(&'_ Server, u16)| {
        let at = *at;
        let sources = server.sources.iter().filter(|source| source.counts_for(server.transport, streams));
        sources.map(|source| (*source, at)).collect::<Vec<_>>()
    };
    let all: Vec<_> = servers.iter().flat_map(of).collect();
    Sources::new(all.iter().map(|(source, at)| (source, *at)))
}

/// The position of a server among those of its region.
fn seat_of(backend: &config::Backend, server: &config::Server) -> u16 {
    let before = backend.servers.iter().take_while(|other| other.id != server.id);
    before.filter(|other| other.region == server.region).count() as u16
}

/// A lane without a bind.
const NO_BIND: u16 = u16::MAX;

fn by_lane(binds: &[Bind]) -> Vec<u16> {
    let lanes = binds.iter().map(|bind| usize::from(bind.lane) + 1).max().unwrap_or_default();
    let mut by_lane = vec![NO_BIND; lanes];
    for (bind, at) in binds.iter().zip(0..) {
        by_lane[usize::from(bind.lane)] = at;
    }
    by_lane
}

fn frontends(config: &Config, plan: &Plan, workers: usize, previous: Option<&Snapshot>) -> Vec<Frontend> {
    let of = |(frontend, at): (&config::Frontend, usize)| {
        let before = previous.and_then(|p| Some(&p.frontends[p.frontend(frontend.id)?]));
        let live = before.map_or_else(|| Arc::new(PerWorker::new(workers)), |frontend| Arc::clone(&frontend.live));
        Frontend {
            live,
            deny: Networks::new(&frontend.limits.deny),
            trusted: Networks::new(&frontend.limits.trusted),
            accept_proxy: Networks::new(&frontend.accept_proxy),
            paces: Paces::from(&frontend.limits),
            rate_salt: u64::from(frontend.id.0) * 0x1_0000_0001,
            ban: frontend.limits.ban.as_ref().map(Rule::from),
            only_pace: Paces::from(&frontend.limits).of(Counted::New).filter(|_| frontend.limits.ban.is_none()),
            send_to: Networks::new(&frontend.send_to),
            source_header: frontend.source_header.as_ref().map(|name| format!("{name}: sip:").into_bytes().into()),
            egresses: plan.egresses[at].clone(),
            egress_of: plan.egress_of[at].clone(),
            config: frontend.clone(),
        }
    };
    config.frontends.iter().zip(0..).map(of).collect()
}

fn backend(
    backend: &config::Backend,
    at: u16,
    servers: &[Server],
    keys: &Keys,
    previous: Option<&Snapshot>,
) -> Backend {
    let before = previous.and_then(|p| p.backends.iter().find(|other| other.config.name == backend.name));
    let state = |id| servers.iter().find(|server| server.id == id).map(|server| server.state).unwrap_or_default();
    let stick = backend.stick.as_ref().map(|stick| {
        // The table keeps its size, for it holds what is wanted; other keys would mean nothing in it.
        let same = |b: &&Backend| b.config.stick.as_ref().is_some_and(|before| before.on == stick.on);
        let kept = before.filter(same).and_then(|b| b.stick.clone());
        kept.unwrap_or_else(|| Arc::new(StickTable::new(stick.size)))
    });
    let mut clients: Vec<_> =
        backend.regions.iter().flat_map(|region| region.clients.iter().map(|net| (*net, region.id.0))).collect();
    clients.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
    let build = |regions: &[Region], like: Option<&Balance>| {
        Balance::build(keys.rendezvous(), backend.balance, regions, SpillBelow(backend.spill_below), like)
    };
    let (regions, reach) = candidates(backend, state);
    let takes = |id| state(id).takes_new() || state(id).takes_trials();
    let chosen = regions.iter().flat_map(|region| &region.servers).filter(|server| server.weight > 0);
    let mut opened_to: Vec<u32> = chosen.map(|server| server.id).collect();
    opened_to.retain(|id| reach == Reach::Anybody && !takes(NameHash(*id)));
    opened_to.sort_unstable();
    let balance = build(&regions, before.map(|b| &b.balance));
    let tries = backend.servers.iter().any(|server| state(server.id).takes_trials());
    let without_trials = |id| match state(id) {
        state if state.takes_trials() => ServerState { breaker: Circuit::Open, ..state },
        state => state,
    };
    let settled = tries.then(|| build(&candidates(backend, without_trials).0, before.map(Backend::settled)));
    // The part of one that leaves is another's now, or nobody's.
    let is_ours = |server: &Server| {
        server.state.admin != Admin::Leaving && backend.servers.iter().any(|other| other.id == server.id)
    };
    let owners = servers.iter().zip(0..).filter_map(|(server, at)| Some((server.ports?, at, server)));
    let mut parts: Vec<_> = owners.filter(|(_, _, server)| is_ours(server)).map(|(ports, at, _)| (ports, at)).collect();
    parts.sort_unstable();
    // A name without an address has no servers, and should have some. What is left of a backend that was removed may have
    // none: the addresses of its frontend are open for longer.
    let leaves =
        backend.names.is_empty() && backend.servers.iter().all(|server| state(server.id).admin == Admin::Leaving);
    let asks_doubtful = reach == Reach::Doubtful;
    let built =
        Backend { config: backend.clone(), balance, settled, stick, clients, parts, asks_doubtful, opened_to, leaves };
    // Everybody, for a pool may be shared with a snapshot whose servers had limits.
    for server in servers.iter().filter(|server| server.backend == at) {
        built.tell(server, load(server, &built));
    }
    built
}

fn max_calls(server: &config::Server, states: &HashMap<NameHash, ServerState>) -> u32 {
    states.get(&server.id).and_then(|state| state.max_calls).unwrap_or(server.max_calls)
}

fn tells_load(backend: &config::Backend, states: &HashMap<NameHash, ServerState>) -> bool {
    backend.balance.asks_for_load() || backend.servers.iter().any(|server| max_calls(server, states) > 0)
}

#[cfg(test)]
mod tests;
