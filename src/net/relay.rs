//! The trip of a relay's datagram: in by one socket, unread, out by another. One of these per worker.
//!
//! ```text
//! client ── port's socket ── recvmmsg ── proxy::relay ── sendmmsg ── flow's socket ── server
//! client ── port's socket ── sendmmsg ── relay_back   ── recvmmsg ── flow's socket ── server
//! ```
//! There may be thousands of sockets with a datagram each: they share one epoll instance, which the worker's runtime
//! watches as one thing. What goes out by one socket in a row leaves in one call: the answers of all servers to the
//! clients of one port, and everything of one client.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use arc_swap::ArcSwap;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::Socket;
use tokio::sync::Notify;

use super::mmsg::{BATCH, Inbox, Outbox, more_kernel_drops};
use super::socket::{Port, open_flow};
use super::udp::clock;
use crate::proxy::Memory;
use crate::proxy::relay::{Verdict, destination, end, relay, relay_back, sweep};
use crate::sip::{Flow, MAX_MESSAGE};
use crate::state::counters::{FrontendCounters, ServerCounters};
use crate::state::server::Sign;
use crate::state::{Reason, Shared, Snapshot, Time};

/// Sockets that are looked at in one turn.
const EVENTS: usize = 128;

/// Datagrams that are asked for first: most sockets of a relay have one. Where there are more, the next call asks for a
/// whole batch.
const FEW: usize = 4;

/// The sockets of flows are asked for drops in so many parts, one a second.
const PARTS: usize = 8;

/// Receives from one socket in a turn.
const IN_A_ROW: usize = 8;

/// The room for one datagram: no multiple of a page apart, so that the first lines of a batch do not fall into one set of
/// the cache.
const SLOT: usize = MAX_MESSAGE + 1 + 64;

/// One worker's relay.
pub struct Relay {
    snapshot: Arc<ArcSwap<Snapshot>>,
    epoll: Epoll,
    events: Vec<EpollEvent>,
    ports: Vec<Option<Port>>,
    /// By position in the flow table.
    flows: Vec<Option<FlowSocket>>,
    out: Out,
    inbox: Inbox,
    received: u64,
    /// Of the snapshot that the ports were last compared with.
    generation: u64,
    /// Seconds that it has lived.
    ticks: usize,
    woken: Arc<Notify>,
}

struct FlowSocket {
    socket: Socket,
    /// Where it is connected to.
    to: SocketAddr,
    /// The port that its client talks to.
    port: usize,
    /// What the kernel had dropped of it when it was asked last.
    drops: u32,
}

/// What is about to leave, all of it by one socket.
struct Out {
    memory: Memory,
    arena: Vec<u8>,
    /// Slots that hold what has not left.
    used: usize,
    outbox: Outbox,
    by: Option<By>,
}

/// The socket that something leaves by, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Flow { flow: usize, server: usize, frontend: usize },
    Port { port: usize, frontend: usize },
}

/// What is watched of a socket, and how its events name it: the lowest bit tells ports from flows. Edge-triggered: each
/// socket is read until it is empty, and the kernel need not look again whether it is.
fn watched(is_flow: bool, at: usize) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, (at as u64) << 1 | u64::from(is_flow))
}

impl Relay {
    /// For one worker; its sockets come by [`Relay::take`].
    ///
    /// # Errors
    /// Where the process has no open file left.
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        shared: Arc<Shared>,
        worker: usize,
        woken: Arc<Notify>,
    ) -> io::Result<Self> {
        Ok(Self {
            snapshot,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: vec![EpollEvent::empty(); EVENTS],
            ports: Vec::new(),
            flows: Vec::new(),
            out: Out {
                memory: Memory::new(shared, worker),
                arena: Vec::new(),
                used: 0,
                outbox: Outbox::default(),
                by: None,
            },
            inbox: Inbox::default(),
            received: 0,
            generation: 0,
            ticks: 0,
            woken,
        })
    }

    /// What can be waited for: readable when any socket is.
    ///
    /// # Errors
    /// Where the process has no open file left.
    pub fn watched(&self) -> io::Result<OwnedFd> {
        self.epoll.0.try_clone()
    }

    /// How many datagrams this worker's relay has received in all.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Serves these sockets too, and follows the snapshot.
    pub fn take(&mut self, ports: Vec<Port>) {
        self.keep_up();
        if !ports.is_empty() && self.out.arena.is_empty() {
            // Touched only where datagrams lie.
            self.out.arena = vec![0; BATCH * SLOT];
        }
        for port in ports {
            let at = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
            if let Err(error) = self.epoll.add(&port.socket, watched(false, at)) {
                tracing::error!(address = %port.bound, %error, "a relay's socket cannot be watched");
            }
            if at == self.ports.len() {
                self.ports.push(None);
            }
            self.ports[at] = Some(port);
        }
        self.keep_up();
    }

    /// Follows a change of the configuration: room for its flows, no socket that it does not name, no flow of one.
    fn keep_up(&mut self) {
        let snapshot = self.snapshot.load();
        let most = |frontend: &crate::state::snapshot::Frontend| frontend.config.relay().map(|relay| relay.max_flows);
        let size: usize = snapshot.frontends.iter().filter_map(most).sum();
        // A worker without sockets has no flows.
        if !self.ports.is_empty() {
            self.out.memory.flows.grow(size);
            self.flows.reserve_exact(size.saturating_sub(self.flows.len()));
        }
        for port in &mut self.ports {
            if port.as_ref().is_some_and(|port| snapshot.relay_at(port.bound).is_none()) {
                *port = None;
            }
        }
        for flow in 0..self.flows.len() {
            let port = self.flows[flow].as_ref().map(|flow| flow.port);
            match port.is_some_and(|port| self.ports[port].is_none()) {
                // Its place is the next port's, and its client does not know that one.
                true => {
                    end(flow, &snapshot, &mut self.out.memory);
                    self.flows[flow] = None;
                }
                false => self.follow(flow, &snapshot),
            }
        }
        self.generation = snapshot.generation;
    }

    /// A server may have another address now under its name: its flows go there.
    fn follow(&mut self, flow: usize, snapshot: &Snapshot) {
        let (Some(FlowSocket { to, port, .. }), Some(entry)) = (&self.flows[flow], self.out.memory.flows.get(flow))
        else {
            return;
        };
        let (to, port) = (*to, *port);
        let both = snapshot.server(entry.server).zip(snapshot.frontend(entry.frontend));
        let Some((server, frontend)) = both else { return };
        if destination(flow, server, snapshot, &self.out.memory) != Some(to)
            && self.open(flow, server, port, frontend, snapshot).is_none()
        {
            end(flow, snapshot, &mut self.out.memory);
        }
    }

    /// Once a second.
    pub fn tick(&mut self) {
        if self.ports.is_empty() {
            return;
        }
        let snapshot = self.snapshot.load();
        if self.generation != snapshot.generation {
            self.keep_up();
        }
        self.count_kernel_drops();
        let Self { flows, out, .. } = self;
        sweep(clock(), &snapshot, &mut out.memory, |flow| flows[flow] = None);
    }

    /// What the kernel dropped: of each port, and of a part of the flows, for there may be tens of thousands.
    fn count_kernel_drops(&mut self) {
        let Self { ports, flows, out, ticks, .. } = self;
        let counter = &out.memory.shared.workers.of(out.memory.worker).kernel_drops;
        for port in ports.iter_mut().flatten() {
            counter.add(more_kernel_drops(port.socket.as_fd(), &mut port.drops));
        }
        for flow in flows.iter_mut().skip(*ticks % PARTS).step_by(PARTS).flatten() {
            counter.add(more_kernel_drops(flow.socket.as_fd(), &mut flow.drops));
        }
        *ticks = ticks.wrapping_add(1);
    }

    /// Forgets what a panic left half-done. Events that were taken and not served are asked for again.
    pub fn recover(&mut self) {
        self.out.outbox.clear();
        (self.out.by, self.out.used) = (None, 0);
        self.events.resize(EVENTS, EpollEvent::empty());
        (0..self.ports.len()).for_each(|at| self.come_back(false, at));
        (0..self.flows.len()).for_each(|at| self.come_back(true, at));
    }

    /// What is left on a socket is for the next turn.
    #[cold]
    fn come_back(&self, is_flow: bool, at: usize) {
        let socket = match is_flow {
            true => self.flows[at].as_ref().map(|flow| &flow.socket),
            false => self.ports[at].as_ref().map(|port| &port.socket),
        };
        if let Some(socket) = socket
            && let Err(error) = self.epoll.modify(socket, &mut watched(is_flow, at))
        {
            tracing::error!(%error, "a relay's socket cannot be watched");
        }
    }

    /// Passes on what waits on at most [`EVENTS`] sockets. True where these were all.
    pub fn turn(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let (snapshot, now) = (self.snapshot.load(), clock());
        for event in &events[..count] {
            let (is_flow, at) = (event.data() & 1 == 1, (event.data() >> 1) as usize);
            let empty = match is_flow {
                false => self.hear_clients(at, now, &snapshot),
                true => self.hear_server(at, now, &snapshot),
            };
            if !empty {
                self.come_back(is_flow, at);
            }
        }
        self.flush(&snapshot);
        self.events = events;
        if std::mem::take(&mut self.out.memory.sign_left) {
            self.woken.notify_one();
        }
        count < EVENTS
    }

    /// What clients sent to a port. True where its queue is empty then.
    fn hear_clients(&mut self, at: usize, now: Time, snapshot: &Snapshot) -> bool {
        for turn in 0..IN_A_ROW {
            let most = self.room(turn, snapshot);
            let Some(port) = &self.ports[at] else { return true };
            let bound = port.bound;
            // What waits on a port that is about to be closed ends with it.
            let Some(relay) = snapshot.relay_at(bound) else { return true };
            let count = match self.out.receive(&mut self.inbox, &port.socket, bound.ip().is_unspecified(), most) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => continue,
            };
            self.received += count as u64;
            let frontend = snapshot.relays[relay].frontend as usize;
            self.out.counters(frontend, snapshot).received.add(count as u64);
            let slots = self.out.used;
            self.out.used += count;
            for n in 0..count {
                let Some(arrival) = self.inbox.arrival(n) else { continue };
                self.out.counters(frontend, snapshot).bytes_from_clients.add(arrival.len as u64);
                let local = SocketAddr::new(arrival.local.unwrap_or(bound.ip()), bound.port());
                let flow = Flow::of_datagrams(local, arrival.remote);
                let datagram = (slots + n) * SLOT..(slots + n) * SLOT + arrival.len;
                self.pass_on(&flow, (relay, at, frontend), datagram, now, snapshot);
            }
            if count < most {
                return true;
            }
        }
        false
    }

    fn pass_on(
        &mut self,
        flow: &Flow,
        (bind, port, frontend): (usize, usize, usize),
        datagram: Range<usize>,
        now: Time,
        snapshot: &Snapshot,
    ) {
        match relay(flow, bind, now, snapshot, &mut self.out.memory) {
            Verdict::Drop(reason) => self.out.count_drops(reason, 1, frontend, snapshot),
            Verdict::Relay { flow, server } => {
                self.leave_by(By::Flow { flow, server, frontend }, snapshot);
                self.out.outbox.push_connected(datagram);
            }
            Verdict::Open { flow, server } => {
                // The socket that is replaced may be the one that something waits for.
                self.flush(snapshot);
                match self.open(flow, server, port, frontend, snapshot) {
                    Some(()) => {
                        self.leave_by(By::Flow { flow, server, frontend }, snapshot);
                        self.out.outbox.push_connected(datagram);
                    }
                    None => {
                        end(flow, snapshot, &mut self.out.memory);
                        self.out.count_drops(Reason::FlowRefused, 1, frontend, snapshot);
                    }
                }
            }
        }
    }

    /// Opens the socket of a flow; `None` where the host refuses.
    #[cold]
    fn open(&mut self, flow: usize, server: usize, port: usize, frontend: usize, snapshot: &Snapshot) -> Option<()> {
        if flow >= self.flows.len() {
            self.flows.resize_with(flow + 1, || None);
        }
        self.flows[flow] = None;
        let to = destination(flow, server, snapshot, &self.out.memory)?;
        let config = &snapshot.frontends[frontend].config;
        let socket = open_flow(config.inside.like(to.ip()), to, config.dscp).ok()?;
        self.epoll.add(&socket, watched(true, flow)).ok()?;
        self.flows[flow] = Some(FlowSocket { socket, to, port, drops: 0 });
        Some(())
    }

    /// What the server of a flow sent. True where its queue is empty then.
    fn hear_server(&mut self, at: usize, now: Time, snapshot: &Snapshot) -> bool {
        for turn in 0..IN_A_ROW {
            let most = self.room(turn, snapshot);
            let Some(Some(FlowSocket { socket, port, .. })) = self.flows.get(at) else { return true };
            let port = *port;
            let count = match self.out.receive(&mut self.inbox, socket, false, most) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => {
                    // An ICMP error about the server; what is queued behind it is still to be read.
                    self.out.suspect(at, snapshot);
                    continue;
                }
            };
            self.received += count as u64;
            let Some((flow, server)) = relay_back(at, now, snapshot, &mut self.out.memory) else { return true };
            let bound = self.ports.get(port).and_then(Option::as_ref).map(|port| port.bound);
            let Some((bound, relay)) = bound.and_then(|bound| Some((bound, snapshot.relay_at(bound)?))) else {
                return true;
            };
            let frontend = snapshot.relays[relay].frontend as usize;
            self.out.counters(frontend, snapshot).received.add(count as u64);
            if let Some(server) = server {
                self.out.server(server, snapshot).relayed_from.add(count as u64);
            }
            self.leave_by(By::Port { port, frontend }, snapshot);
            let slots = self.out.used;
            self.out.used += count;
            let source: Option<IpAddr> = bound.ip().is_unspecified().then(|| flow.local.ip());
            for n in 0..count {
                let Some(arrival) = self.inbox.arrival(n) else { continue };
                if let Some(server) = server {
                    self.out.server(server, snapshot).bytes_from.add(arrival.len as u64);
                }
                let start = (slots + n) * SLOT;
                self.out.outbox.push(start..start + arrival.len, flow.remote, source);
            }
            if count < most {
                return true;
            }
        }
        false
    }
}

impl Relay {
    /// How many datagrams may be received now, the n-th time in a row from one socket; makes room for them.
    fn room(&mut self, turn: usize, snapshot: &Snapshot) -> usize {
        let wanted = if turn == 0 { FEW } else { BATCH };
        if self.out.used + wanted > BATCH {
            self.flush(snapshot);
        }
        if self.out.outbox.is_empty() {
            self.out.used = 0;
        }
        wanted
    }

    /// What is pushed next leaves by this socket.
    fn leave_by(&mut self, by: By, snapshot: &Snapshot) {
        if self.out.by != Some(by) {
            self.flush(snapshot);
            self.out.by = Some(by);
        }
    }

    /// Sends what waits. Its slots stay taken: a batch may still be on its way through them.
    fn flush(&mut self, snapshot: &Snapshot) {
        let Some(by) = self.out.by.take() else { return };
        let socket = match by {
            By::Flow { flow, .. } => self.flows[flow].as_ref().map(|flow| &flow.socket),
            By::Port { port, .. } => self.ports[port].as_ref().map(|port| &port.socket),
        };
        match socket {
            Some(socket) => self.out.send(by, socket, snapshot),
            None => self.out.count_drops(Reason::NoSocket, self.out.outbox.len(), by.frontend(), snapshot),
        }
        self.out.outbox.clear();
    }
}

impl Out {
    /// Receives into the slots behind those that are taken.
    fn receive(&mut self, inbox: &mut Inbox, socket: &Socket, pktinfo: bool, most: usize) -> io::Result<usize> {
        self.memory.shared.workers.of(self.memory.worker).receives.add(1);
        let used = self.used;
        let slot = |n: usize| (used + n) * SLOT..(used + n) * SLOT + MAX_MESSAGE;
        inbox.receive_some(socket.as_fd(), pktinfo, &mut self.arena, most, slot)
    }

    /// Sends everything, and counts it. The kernel tells an ICMP error of an earlier datagram instead of taking the next
    /// one: that one is sent again once.
    fn send(&mut self, by: By, socket: &Socket, snapshot: &Snapshot) {
        let (mut at, mut again) = (0, false);
        while at < self.outbox.len() {
            self.memory.shared.workers.of(self.memory.worker).sends.add(1);
            match self.outbox.send(socket.as_fd(), &self.arena, at) {
                Ok(sent) => {
                    self.count(by, sent, self.outbox.bytes(at..at + sent), snapshot);
                    (at, again) = (at + sent, false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Media that waits is worth nothing, and what comes in meanwhile would be lost instead.
                    return self.count_drops(Reason::SendBlocked, self.outbox.len() - at, by.frontend(), snapshot);
                }
                Err(_) if !again => {
                    if let By::Flow { flow, .. } = by {
                        self.suspect(flow, snapshot);
                    }
                    again = true;
                }
                Err(_) => {
                    self.count_drops(Reason::SendFailed, 1, by.frontend(), snapshot);
                    (at, again) = (at + 1, false);
                }
            }
        }
    }

    fn count(&self, by: By, datagrams: usize, bytes: usize, snapshot: &Snapshot) {
        let counters = self.counters(by.frontend(), snapshot);
        let (passed, passed_bytes) = match by {
            By::Flow { server, .. } => {
                let server = self.server(server, snapshot);
                server.relayed_to.add(datagrams as u64);
                server.bytes_to.add(bytes as u64);
                (&counters.relayed_to_servers, &counters.bytes_to_servers)
            }
            By::Port { .. } => (&counters.relayed_to_clients, &counters.bytes_to_clients),
        };
        passed.add(datagrams as u64);
        passed_bytes.add(bytes as u64);
    }

    fn count_drops(&self, reason: Reason, datagrams: usize, frontend: usize, snapshot: &Snapshot) {
        self.counters(frontend, snapshot).reasons.of(reason).add(datagrams as u64);
    }

    /// The server of a flow cannot be reached, an ICMP error says: its check decides.
    #[cold]
    fn suspect(&mut self, flow: usize, snapshot: &Snapshot) {
        self.memory.shared.workers.of(self.memory.worker).icmp.add(1);
        let server = self.memory.flows.get(flow).and_then(|entry| snapshot.server(entry.server));
        if let Some(server) = server {
            self.memory.sign(&snapshot.servers[server].live, Sign::Unreachable);
        }
    }

    fn counters<'a>(&self, frontend: usize, snapshot: &'a Snapshot) -> &'a FrontendCounters {
        snapshot.frontends[frontend].live.of(self.memory.worker)
    }

    fn server<'a>(&self, server: usize, snapshot: &'a Snapshot) -> &'a ServerCounters {
        snapshot.servers[server].live.counters.of(self.memory.worker)
    }
}

impl By {
    fn frontend(self) -> usize {
        match self {
            Self::Flow { frontend, .. } | Self::Port { frontend, .. } => frontend,
        }
    }
}
