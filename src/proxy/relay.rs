//! Mode `relay`: datagrams and connections go through unread and unchanged. A connection has one server for as long as it
//! lives. A client's flow of datagrams is its address and the address of ours that
//! it talks to; each has a server and, towards it, a socket of its own, so what comes back by that socket is for that
//! client. A stranger who sends to the same port has a flow of his own: there is nothing that he could take over.

use std::net::{IpAddr, SocketAddr};

use super::admit::admit_new;
use super::choose::masked;
use super::{Memory, may_send_to};
use crate::config::{Stick, StickOn};
use crate::sip::Flow;
use crate::sip::token::NameHash;
use crate::state::binds::RelayBind;
use crate::state::flows::Entry;
use crate::state::snapshot::{Backend, Frontend, Server};
use crate::state::stick_table::{Marks, StickTable};
use crate::state::{Reason, Snapshot, Time};

/// What to do with one datagram of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it by the socket of this flow.
    Relay {
        flow: usize,
        server: usize,
    },
    /// The same; the flow is new or has a new server, and needs a socket first.
    Open {
        flow: usize,
        server: usize,
    },
    Drop(Reason),
}

/// Decides about a datagram that came from a client to a relay (its position). A flow keeps its server unless that one is
/// dead or in maintenance: there are no dialogs, so the next one takes over.
pub fn relay(flow: &Flow, relay: usize, now: Time, snapshot: &Snapshot, memory: &mut Memory) -> Verdict {
    let frontend = &snapshot.frontends[snapshot.relays[relay].frontend as usize];
    let hash = hash_of(flow, snapshot);
    let found = memory.flows.find(hash, flow);
    if let Some((at, entry)) = found.and_then(|at| Some((at, memory.flows.get_mut(at)?))) {
        entry.used = now;
        if let Some(server) = keeping(entry.server, snapshot) {
            return Verdict::Relay { flow: at, server };
        }
    }
    match found {
        Some(at) => move_flow(at, flow, frontend, now, snapshot, memory),
        None => open(hash, flow, frontend, now, snapshot, memory),
    }
    .unwrap_or_else(Verdict::Drop)
}

/// A datagram came from the server of a flow: whom it is for, from which address of ours, and which server it was.
/// `None` where the flow is closed.
pub fn relay_back(flow: usize, now: Time, snapshot: &Snapshot, memory: &mut Memory) -> Option<(Flow, Option<usize>)> {
    let entry = memory.flows.get_mut(flow)?;
    entry.used = now;
    let first = !std::mem::replace(&mut entry.answered, true);
    let entry = *entry;
    if first && let Some((table, key, stick)) = stick_of(&entry, snapshot) {
        let _ = table.confirm(key, entry.server, Marks::NONE, now, stick.expire);
    }
    Some((entry.flow, snapshot.server(entry.server)))
}

/// Where a flow's datagrams go: its server, at the port that they came to where the server has a part of the range.
pub fn destination(flow: usize, server: usize, snapshot: &Snapshot, memory: &Memory) -> Option<SocketAddr> {
    let (entry, server) = (memory.flows.get(flow)?, &snapshot.servers[server]);
    let port = server.ports.map_or(server.address.port(), |_| entry.flow.local.port());
    Some(SocketAddr::new(server.address.ip(), port))
}

/// Ends a flow, as one for which the host has no socket.
pub fn end(at: usize, snapshot: &Snapshot, memory: &mut Memory) {
    let Some(entry) = memory.flows.get(at) else { return };
    if let Some(frontend) = snapshot.frontend(entry.frontend) {
        snapshot.frontends[frontend].live.of(memory.worker).flows_closed.add(1);
    }
    count_closed(entry.server, snapshot, memory);
    memory.flows.close(at);
}

/// Ends the flows that are idle, denied, or not this snapshot's any more, and says which those were; and where a frontend is
/// full, those that would give way to a new one: that may come to another worker, which knows none of them. Once a second:
/// what else a flow in use keeps alive is touched here, not for each datagram.
pub fn sweep(now: Time, snapshot: &Snapshot, memory: &mut Memory, mut closed: impl FnMut(usize)) {
    // Whether it is full before the first of its flows is ended. Most are of one frontend.
    let mut summed = None;
    for at in memory.flows.positions() {
        let Some(entry) = memory.flows.get(at).copied() else { continue };
        let frontend = snapshot.frontend(entry.frontend).filter(|at| {
            let is_bound = |relay: &RelayBind| relay.frontend as usize == *at && relay.serves(entry.flow.local);
            snapshot.relays.iter().any(is_bound)
        });
        let frontend = frontend.map(|at| &snapshot.frontends[at]);
        let relay = frontend.and_then(|frontend| Some((frontend, frontend.config.relay()?)));
        let idle = relay.is_some_and(|(_, relay)| now.since(entry.used) >= relay.idle);
        let denied = relay.is_some_and(|(frontend, _)| frontend.deny.contains(entry.flow.remote.ip()));
        if let Some((frontend, _)) = relay
            && summed.is_none_or(|(of, _)| of != entry.frontend)
        {
            summed = Some((entry.frontend, is_full(frontend)));
        }
        let gives_way = !idle && entry.gives_way(now) && summed == Some((entry.frontend, true));
        if let Some((frontend, _)) = relay {
            let counters = frontend.live.of(memory.worker);
            counters.flows_expired.add(u64::from(idle));
            counters.flows_evicted.add(u64::from(gives_way));
        }
        if idle || denied || gives_way || relay.is_none() {
            end(at, snapshot, memory);
            closed(at);
        } else if let Some((table, key, stick)) = stick_of(&entry, snapshot)
            && let Some(stuck) = table.find(key, now).filter(|stuck| stuck.server == entry.server)
        {
            table.touch(stuck, now, stick.expire);
        }
    }
}

/// The position of a server that keeps its flows.
#[inline]
fn keeping(id: NameHash, snapshot: &Snapshot) -> Option<usize> {
    let is_kept = |server: &Server| snapshot.backends[usize::from(server.backend)].is_kept(server, false);
    snapshot.server(id).filter(|at| is_kept(&snapshot.servers[*at]))
}

/// The flow's server is dead: another one takes over, and it is answered when that one has answered.
#[cold]
fn move_flow(
    at: usize,
    flow: &Flow,
    frontend: &Frontend,
    now: Time,
    snapshot: &Snapshot,
    memory: &mut Memory,
) -> Result<Verdict, Reason> {
    // Nothing is lost for want of room: limits are for what is new.
    let server = choose(flow, frontend, |at| has_room(at, now, snapshot), now, snapshot)
        .or_else(|_| choose(flow, frontend, |_| true, now, snapshot))?;
    if let Some(entry) = memory.flows.get_mut(at) {
        let before = std::mem::replace(&mut entry.server, snapshot.servers[server].id);
        entry.answered = false;
        count_closed(before, snapshot, memory);
        count_opened(server, snapshot, memory);
    }
    Ok(Verdict::Open { flow: at, server })
}

#[cold]
fn open(
    hash: u64,
    flow: &Flow,
    frontend: &Frontend,
    now: Time,
    snapshot: &Snapshot,
    memory: &mut Memory,
) -> Result<Verdict, Reason> {
    let ip = flow.remote.ip();
    if !may_send_to(&flow.remote, snapshot) {
        return Err(Reason::BadSource);
    }
    if frontend.deny.contains(ip) {
        return Err(Reason::Denied);
    }
    admit_new(flow, frontend, now, snapshot, memory)?;
    let server = choose(flow, frontend, |at| has_room(at, now, snapshot), now, snapshot)
        .map_err(|reason| full_or(reason, flow, frontend, |_| true, snapshot))?;
    let to = &snapshot.servers[server];
    if to.address.ip() == ip && to.ports.map_or(to.address.port(), |_| flow.local.port()) == flow.remote.port() {
        // It would answer itself for ever.
        return Err(Reason::BadSource);
    }
    make_room(frontend, now, snapshot, memory)?;
    let (id, server_id) = (frontend.config.id, to.id);
    let at = memory.flows.open(hash, *flow, id, server_id, now).ok_or(Reason::FlowsFull)?;
    frontend.live.of(memory.worker).flows_opened.add(1);
    count_opened(server, snapshot, memory);
    Ok(Verdict::Open { flow: at, server })
}

/// Room for one more flow of a frontend, of all workers together. Two workers that look at once may both take the last.
fn make_room(frontend: &Frontend, now: Time, snapshot: &Snapshot, memory: &mut Memory) -> Result<(), Reason> {
    let (size, open) = memory.flows.size();
    if !is_full(frontend) && open < size {
        return Ok(());
    }
    let at = memory.flows.give_way(frontend.config.id, now).ok_or(Reason::FlowsFull)?;
    frontend.live.of(memory.worker).flows_evicted.add(1);
    end(at, snapshot, memory);
    Ok(())
}

/// Whether as many flows of a frontend are open as may be, of all workers together.
fn is_full(frontend: &Frontend) -> bool {
    let most = frontend.config.relay().map_or(0, |relay| relay.max_flows as u64);
    let opened = frontend.live.sum(|counters| &counters.flows_opened);
    let closed = frontend.live.sum(|counters| &counters.flows_closed);
    opened.saturating_sub(closed) >= most
}

/// A server has one flow more.
fn count_opened(server: usize, snapshot: &Snapshot, memory: &Memory) {
    let server = &snapshot.servers[server];
    server.live.counters.of(memory.worker).flows_opened.add(1);
    snapshot.told_of_flow(server.id);
}

/// A server has one flow less.
fn count_closed(server: NameHash, snapshot: &Snapshot, memory: &Memory) {
    if let Some(live) = snapshot.live(server) {
        live.counters.of(memory.worker).flows_closed.add(1);
        snapshot.told_of_flow(server);
    }
}

/// Whether a server may have one flow more; if so, it counts as one of `max_rate`.
fn has_room(at: usize, now: Time, snapshot: &Snapshot) -> bool {
    let Server { max_calls, rate_interval, live, .. } = &snapshot.servers[at];
    (*max_calls == 0 || live.open() < u64::from(*max_calls)) && (*rate_interval == 0 || live.admit(now, *rate_interval))
}

/// Why nobody was found: those of the backend that are left are full, or nobody is left.
fn full_or(
    reason: Reason,
    flow: &Flow,
    frontend: &Frontend,
    is_left: impl Fn(usize) -> bool,
    snapshot: &Snapshot,
) -> Reason {
    let backend = backend(frontend, flow.remote.ip(), snapshot);
    let is_full = |id| snapshot.server(NameHash(id)).is_some_and(&is_left);
    // Whose a port is has said so already.
    match backend.has_parts() || backend.settled().find(0, None, true, is_full).is_none() {
        true => reason,
        false => Reason::ServersFull,
    }
}

/// The server for a client's new connection, none of those that were `tried` for it.
///
/// # Errors
/// [`Reason::ServersFull`] where those that are left have their limit, [`Reason::NoServer`] where nobody is left.
pub fn server_for(
    flow: &Flow,
    frontend: &Frontend,
    tried: &[NameHash],
    now: Time,
    snapshot: &Snapshot,
    worker: usize,
) -> Result<usize, Reason> {
    let is_left = |at: usize| !tried.contains(&snapshot.servers[at].id);
    let has_room = |at: usize| has_room(at, now, snapshot);
    let chosen = match tried {
        [] => trial(flow, frontend, has_room, now, snapshot, worker),
        _ => None,
    };
    let chosen = match chosen {
        Some(trial) => Ok(trial),
        None => choose(flow, frontend, |at| is_left(at) && has_room(at), now, snapshot),
    };
    // While a check looks whether one that refused lives, and nobody else is there, it is asked all the same.
    let id = &backend(frontend, flow.remote.ip(), snapshot).config.name;
    let is_in_doubt = |at: &usize| {
        let Server { state, backend, .. } = &snapshot.servers[*at];
        let is_here = snapshot.backends[usize::from(*backend)].config.name == *id;
        is_here && state.is_doubtful() && is_left(*at) && has_room(*at)
    };
    let doubtful = || (0..snapshot.servers.len()).find(is_in_doubt);
    chosen
        .or_else(|reason| doubtful().ok_or(reason))
        .map_err(|reason| full_or(reason, flow, frontend, is_left, snapshot))
}

/// The server whose half-open breaker lets a new connection try it: one that the balance would ask first, of a source that
/// sticks to nobody. Elsewhere go the others, and those that were turned away are counted.
fn trial(
    flow: &Flow,
    frontend: &Frontend,
    has_room: impl Fn(usize) -> bool,
    now: Time,
    snapshot: &Snapshot,
    worker: usize,
) -> Option<usize> {
    let ip = flow.remote.ip();
    let backend = backend(frontend, ip, snapshot);
    backend.settled.as_ref()?;
    let key = source_key(ip, backend, snapshot);
    let sticks = |(table, _): (&StickTable, _)| table.find(key, now).and_then(|stuck| snapshot.server(stuck.server));
    if backend.stick().and_then(sticks).is_some_and(|at| backend.is_sent_new(&snapshot.servers[at])) {
        return None;
    }
    let first = backend.balance.first(key, backend.preferred_region(ip), true);
    let at = first.and_then(|id| snapshot.server(NameHash(id)))?;
    let Server { state, live, .. } = &snapshot.servers[at];
    if !state.takes_trials() {
        return None;
    }
    let Some(place) = live.trials.let_through(hash_of(flow, snapshot), false, now) else {
        live.counters.of(worker).rejected.add(1);
        return None;
    };
    // Last, for it counts as one of `max_rate`.
    if !has_room(at) {
        live.trials.take_back(place);
        return None;
    }
    Some(at)
}

/// A connection to a server came about: its source sticks to it.
pub fn opened(flow: &Flow, frontend: &Frontend, server: NameHash, now: Time, snapshot: &Snapshot) {
    let ip = flow.remote.ip();
    let backend = backend(frontend, ip, snapshot);
    if let Some((table, stick)) = backend.stick() {
        let _ = table.confirm(source_key(ip, backend, snapshot), server, Marks::NONE, now, stick.expire);
    }
}

/// The server whose port it is; else the one that the source sticks to; else the balance's, by source: one that `takes` it.
fn choose(
    flow: &Flow,
    frontend: &Frontend,
    takes: impl Fn(usize) -> bool,
    now: Time,
    snapshot: &Snapshot,
) -> Result<usize, Reason> {
    let ip = flow.remote.ip();
    let backend = backend(frontend, ip, snapshot);
    let state = |at: usize| snapshot.servers[at].state;
    if backend.has_parts() {
        // Nobody else has these ports.
        let may = |at: &usize| state(*at).takes_new() || state(*at).is_doubtful();
        let owner = backend.owner(flow.local.port()).filter(may).ok_or(Reason::NoServer)?;
        return if takes(owner) { Ok(owner) } else { Err(Reason::ServersFull) };
    }
    let key = source_key(ip, backend, snapshot);
    let stick = backend.stick();
    let stuck = stick.and_then(|(table, _)| table.find(key, now)).and_then(|stuck| snapshot.server(stuck.server));
    let server = match stuck.filter(|at| backend.is_sent_new(&snapshot.servers[*at]) && takes(*at)) {
        Some(server) => server,
        // How a flow of datagrams ends nobody learns; connections that try a half-open breaker were chosen before.
        None => backend
            .settled()
            .find(key, backend.preferred_region(ip), true, |id| snapshot.server(NameHash(id)).is_some_and(&takes))
            .and_then(|id| snapshot.server(NameHash(id)))
            .ok_or(Reason::NoServer)?,
    };
    if let Some((table, stick)) = stick {
        let _ = table.write(key, snapshot.servers[server].id, Marks::NONE, now, stick.expire);
    }
    Ok(server)
}

/// The backend by the frontend's rules: only the source can be asked.
fn backend<'a>(frontend: &Frontend, ip: IpAddr, snapshot: &'a Snapshot) -> &'a Backend {
    let applies = |route: &&crate::config::Route| route.clients.iter().any(|net| net.contains(&ip));
    let route = frontend.config.routes.iter().find(applies);
    &snapshot.backends[route.map_or(frontend.config.backend, |route| route.backend)]
}

/// A source's flows go together, whether they are remembered or only hashed.
pub fn source_key(ip: IpAddr, backend: &Backend, snapshot: &Snapshot) -> u64 {
    let prefix = match backend.config.stick.as_ref().map(|stick| &stick.on) {
        Some(StickOn::Source { v6_prefix }) => *v6_prefix,
        _ => 128,
    };
    snapshot.keys.source(masked(ip, prefix))
}

/// The stick table that a flow's source is in, its key there, and for how long.
fn stick_of<'a>(entry: &Entry, snapshot: &'a Snapshot) -> Option<(&'a StickTable, u64, &'a Stick)> {
    let frontend = &snapshot.frontends[snapshot.frontend(entry.frontend)?];
    let ip = entry.flow.remote.ip();
    let backend = backend(frontend, ip, snapshot);
    let (table, stick) = backend.stick()?;
    Some((table, source_key(ip, backend, snapshot), stick))
}

/// What a flow, or a connection that is a trial of a breaker, is known by. Keyed, so that nobody outside can aim at a chain of
/// the table.
pub fn hash_of(flow: &Flow, snapshot: &Snapshot) -> u64 {
    let mut bytes = [0; 36];
    let mut end = 0;
    for address in [flow.remote, flow.local] {
        let mut put = |part: &[u8]| {
            bytes[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        };
        match address.ip() {
            IpAddr::V4(ip) => put(&ip.octets()),
            IpAddr::V6(ip) => put(&ip.octets()),
        }
        put(&address.port().to_be_bytes());
    }
    snapshot.keys.call(&bytes[..end])
}
