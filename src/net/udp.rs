//! The trip of a batch: receive, decide, send. One engine per worker; a datagram never leaves its thread.
//!
//! ```text
//! recvmmsg ── classify ── parse ── decide ── edit in place ── outbox of the socket it leaves by ── sendmmsg
//! ```
//! One recvmmsg and one sendmmsg per socket and batch, one clock reading per batch, the snapshot loaded once per batch.

use std::cell::LazyCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use nix::time::{ClockId, clock_gettime};
use socket2::Socket;
use tokio::sync::Notify;

use super::host;
use super::mmsg::{Arrival, BATCH, Inbox, Outbox, more_kernel_drops, take_error};
use super::stream::table::Streams;
use crate::proxy::{self, Datagram as To, Hop, Memory, Passage, Received, Verdict};
use crate::sip::datagram::{Datagram, classify, stun_answer};
use crate::sip::edit::{Edits, HEADROOM};
use crate::sip::token::NameHash;
use crate::sip::{Flow, MAX_MESSAGE, Message};
use crate::state::binds::Bind;
use crate::state::counters::FrontendCounters;
use crate::state::server::Sign;
use crate::state::{Reason, Shared, Snapshot, Time};

/// A slot: headroom, the datagram, and room for what the head was or for an answer of our own. Slots are no multiple of
/// a page apart, so that the first lines of a batch's messages do not all fall into one set of the cache.
const DATA: usize = HEADROOM;
const SPARE: usize = DATA + MAX_MESSAGE;
const SLOT: usize = SPARE + MAX_MESSAGE;

/// Errors that are taken from a socket's error queue at once; a queue that is left full makes the socket deaf.
const ERRORS_AT_ONCE: usize = 256;

/// How often a datagram is tried again because the kernel had to say something about others.
const TRIES: u8 = 4;

/// The most batches that are read from a socket before it is closed: more than any receive buffer holds.
const BATCHES_TO_DRAIN: usize = 4096;

/// What whoever changes the sockets sees to ([`super::worker::Workers::tell`]).
const OPEN: &str = "a socket is opened before a snapshot names its lane, and closed after";

/// CLOCK_MONOTONIC, in nanoseconds.
pub fn clock() -> Time {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from).unwrap_or_default();
    Time(now.as_nanos() as u64)
}

/// One worker's data path.
pub struct Engine {
    pub(super) snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    /// By the number that binds have in every snapshot.
    lanes: Vec<Option<Lane>>,
    pub(super) tools: Tools,
    inbox: Inbox,
    /// What could not be sent in this batch.
    pub(super) failed: Vec<Leaving>,
    pub(super) received: u64,
    pub(super) streams: Streams,
    /// Wakes whoever keeps the health of servers.
    woken: Arc<Notify>,
}

/// What deciding needs, apart from what it decides about.
pub(super) struct Tools {
    pub memory: Memory,
    /// The message on the table. Reused: its line index alone is longer than what is read of most messages.
    pub message: Message,
    pub edits: Edits,
    pub arena: Box<[u8]>,
}

impl Tools {
    /// The first bytes of a slot's message as it came in, of which so many were saved before it was edited.
    pub fn original(&self, n: usize, saved: usize, len: usize) -> [&[u8]; 2] {
        let (data, saved) = (slot(n).start, saved.min(len));
        [&self.arena[n * SLOT + SPARE..][..saved], &self.arena[data + saved..data + len]]
    }
}

/// One socket and what is about to leave by it.
struct Lane {
    /// Whoever waits for it shares it: a second descriptor could be refused when the snapshot names it already.
    socket: Rc<Socket>,
    wildcard: bool,
    outbox: Outbox,
    /// One for each datagram in the outbox.
    leaving: Vec<Leaving>,
    kernel_drops: u32,
}

/// Why something leaves.
pub(super) struct Leaving {
    /// `None` for an answer to STUN, which is counted already.
    pub verdict: Option<Verdict>,
    /// What it is the answer to, or made of.
    pub origin: Origin,
    /// How much of the message's head was saved before the edit.
    pub saved: usize,
    /// It was refused for this node's own sake: nobody that it was for is to blame.
    pub ours: bool,
    /// It is sent again from here until it is answered.
    pub kept: bool,
}

impl Leaving {
    /// The kernel does not send it: dropped by name where its sender repeats it and need not hear of it, else given back, to be
    /// decided about anew. What was lost for want of room could have been lost anywhere on its way: all that came by datagrams
    /// comes again, or is sent again from here: elsewhere it would be a second request beside one that may have arrived.
    fn refused(mut self, refusal: Refusal, snapshot: &Snapshot, memory: &Memory) -> Option<Self> {
        let again = self.kept || self.origin.flow.connection.is_none();
        let (comes_again, reason) = match refusal {
            Refusal::NoRoom => (again, Reason::SendBlocked),
            Refusal::Unknown | Refusal::NoAddress => (again, Reason::SendFailed),
            Refusal::NoNetwork => (again && self.is_within_a_call(), Reason::SendFailed),
            Refusal::Own => (false, Reason::SendFailed),
        };
        if comes_again {
            self.count_drop(reason, snapshot, memory);
            return None;
        }
        self.ours = matches!(refusal, Refusal::NoRoom | Refusal::Unknown | Refusal::NoAddress);
        Some(self)
    }

    /// Whether it is a request within a call. When this node has lost a network, the next copy comes to whoever has it now, and
    /// a 503 in between would end the call; what opens something is tried elsewhere.
    fn is_within_a_call(&self) -> bool {
        match self.passage() {
            Some(Passage::RequestToServer { balanced, .. }) => !balanced,
            passage => matches!(passage, Some(Passage::RequestToClient { .. })),
        }
    }
}

/// Why the kernel does not send something.
#[derive(Clone, Copy)]
enum Refusal {
    /// A queue of this host was full, or memory was short.
    NoRoom,
    /// It keeps telling of others: whose error it is nobody knows.
    Unknown,
    /// This node has lost the address that it leaves by: each other server would be asked from there too, and its next copy
    /// comes to who has the address now.
    NoAddress,
    /// This node has lost the network that it leaves by.
    NoNetwork,
    /// It cannot be sent there.
    Own,
}

/// Where a message lies, how long it is, and how it came.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub slot: usize,
    pub len: usize,
    /// Position of the bind that it came to.
    pub bind: usize,
    pub flow: Flow,
    /// Whose connection it came by, where we opened that to a server.
    pub peer: Option<NameHash>,
    /// How often it was decided about anew.
    pub tries: u8,
}

pub(super) fn slot(n: usize) -> Range<usize> {
    n * SLOT + DATA..n * SLOT + SPARE
}

impl Engine {
    /// For one worker: its own socket of each bind, in the order of the snapshot's binds.
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        shared: Arc<Shared>,
        worker: usize,
        sockets: Vec<Socket>,
        streams: Streams,
        woken: Arc<Notify>,
    ) -> Self {
        let mut snapshot = Cache::new(snapshot);
        let binds = snapshot.load().binds.clone();
        let mut engine = Self {
            lanes: Vec::new(),
            snapshot,
            tools: Tools {
                memory: Memory::new(shared, worker),
                message: Message::default(),
                edits: Edits::default(),
                arena: vec![0; BATCH * SLOT].into_boxed_slice(),
            },
            inbox: Inbox::default(),
            failed: Vec::with_capacity(BATCH),
            received: 0,
            streams,
            woken,
        };
        for (socket, bind) in sockets.into_iter().zip(&binds) {
            engine.open(bind, socket);
        }
        engine
    }

    /// The binds that it has sockets of.
    pub fn binds(&mut self) -> Vec<Bind> {
        let binds = self.snapshot.load().binds.clone();
        let is_open = |bind: &Bind| matches!(self.lanes.get(usize::from(bind.lane)), Some(Some(_)));
        binds.into_iter().filter(is_open).collect()
    }

    /// Takes a socket. It must be here before a snapshot names its lane.
    pub fn open(&mut self, bind: &Bind, socket: Socket) {
        let (lane, wildcard) = (usize::from(bind.lane), bind.is_wildcard());
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, || None);
        }
        self.lanes[lane] = Some(Lane {
            socket: Rc::new(socket),
            wildcard,
            outbox: Outbox::default(),
            leaving: Vec::with_capacity(BATCH),
            kernel_drops: 0,
        });
    }

    /// Reads what is queued on a socket: nobody will read it any more. Whoever floods it does not keep it open.
    pub fn drain(&mut self, lane: usize) {
        let _ = (0..BATCHES_TO_DRAIN).any(|_| self.batch(lane));
    }

    /// Closes a socket that no snapshot names any more.
    pub fn close(&mut self, lane: usize) {
        self.lanes[lane] = None;
    }

    /// A socket, to wait on. It is closed when nobody has it any more.
    pub fn socket(&self, lane: usize) -> Rc<Socket> {
        Rc::clone(&self.lanes[lane].as_ref().expect(OPEN).socket)
    }

    /// Receives one batch from a socket, decides and sends. True where the socket was found empty.
    pub fn batch(&mut self, lane: usize) -> bool {
        let shared = Arc::clone(&self.tools.memory.shared);
        let own = shared.workers.of(self.tools.memory.worker);
        own.receives.add(1);
        let from = self.lanes[lane].as_ref().expect(OPEN);
        let received = self.inbox.receive(from.socket.as_fd(), from.wildcard, &mut self.tools.arena, slot);
        // Behind the messages: what they answer may have been decided by another worker's newer snapshot.
        let snapshot = Arc::clone(self.snapshot.load());
        own.generation.set(snapshot.generation);
        let Some(bind) = snapshot.bind_of_lane(lane) else { return true };
        let count = match received {
            Ok(count) => count,
            Err(error) => {
                // An ICMP error of an earlier send is told here; the queue behind it is still to be read.
                let empty = error.kind() == io::ErrorKind::WouldBlock;
                drain_errors(from.socket.as_fd(), &snapshot, &mut self.tools.memory);
                self.wake();
                return empty;
            }
        };
        self.received += count as u64;
        let now = clock();
        for n in 0..count {
            if let Some(arrival) = self.inbox.arrival(n) {
                self.datagram(bind, n, arrival, now, &snapshot);
            }
        }
        self.settle(now, &snapshot);
        count < BATCH
    }

    /// Sends what is in the outboxes, and decides anew about what could not be sent.
    pub(super) fn settle(&mut self, now: Time, snapshot: &Arc<Snapshot>) {
        self.flush(snapshot);
        if !self.failed.is_empty() {
            self.decide_failed_anew(now, snapshot);
        }
        self.wake();
    }

    fn flush(&mut self, snapshot: &Snapshot) {
        for lane in self.lanes.iter_mut().flatten().filter(|lane| !lane.outbox.is_empty()) {
            lane.flush(snapshot, &mut self.tools, &mut self.failed);
        }
    }

    /// What the kernel refused goes elsewhere, is answered, or dropped by name. What it refuses again is dropped.
    #[cold]
    fn decide_failed_anew(&mut self, now: Time, snapshot: &Arc<Snapshot>) {
        let mut failed = self.take_failed();
        for leaving in failed.drain(..) {
            let Some(Verdict::Forward { passage, .. }) = leaving.verdict else {
                leaving.count_drop(Reason::SendFailed, snapshot, &self.tools.memory);
                continue;
            };
            self.decide_anew(&leaving, snapshot, |received, memory, edits| {
                proxy::undelivered(received, passage, !leaving.ours, now, snapshot, memory, edits)
            });
        }
        // Streams say at once what they do not take; sockets when they are flushed.
        failed.append(&mut self.failed);
        self.failed = failed;
        self.flush(snapshot);
        for leaving in self.take_failed() {
            match leaving.verdict {
                // Nobody repeats what was sent over a stream.
                Some(Verdict::Forward { passage: Passage::RequestToServer { server, .. }, .. })
                    if leaving.origin.flow.connection.is_some() =>
                {
                    let by = Some(snapshot.servers[server].id);
                    self.decide_anew(&leaving, snapshot, |received, memory, edits| {
                        proxy::unanswered(received, by, now, snapshot, memory, edits)
                    });
                }
                _ => leaving.count_drop(Reason::SendFailed, snapshot, &self.tools.memory),
            }
        }
        self.flush(snapshot);
        for leaving in self.take_failed() {
            leaving.count_drop(Reason::SendFailed, snapshot, &self.tools.memory);
        }
    }

    /// What could not be sent, whose fate is decided now.
    fn take_failed(&mut self) -> Vec<Leaving> {
        let failed = std::mem::take(&mut self.failed);
        failed.iter().for_each(|leaving| self.let_go(leaving));
        failed
    }

    /// Makes a slot's message what it was when it came in, and carries out what is decided about it now.
    fn decide_anew(
        &mut self,
        leaving: &Leaving,
        snapshot: &Arc<Snapshot>,
        decide: impl FnOnce(Received<'_>, &mut Memory, &mut Edits) -> Verdict,
    ) {
        let Leaving { origin, saved, .. } = leaving;
        let Origin { slot: n, bind, flow, len, peer, .. } = *origin;
        let Tools { memory, message, edits, arena } = &mut self.tools;
        let (slots, spare) = arena.split_at_mut(n * SLOT + SPARE);
        let data = slot(n);
        slots[data.start..data.start + saved].copy_from_slice(&spare[..*saved]);
        let bytes = &slots[data.start..data.start + len];
        let Ok(()) = message.read(bytes) else { return };
        let verdict = decide(Received { bytes, message, flow: &flow, bind, peer }, memory, edits);
        self.carry_out(verdict, Origin { tries: origin.tries.saturating_add(1), ..*origin }, snapshot);
    }

    /// Whoever keeps the health hears of signs that were left.
    pub(super) fn wake(&mut self) {
        if std::mem::take(&mut self.tools.memory.sign_left) {
            self.woken.notify_one();
        }
    }

    /// One datagram of the batch: to an outbox, or counted and forgotten.
    fn datagram(&mut self, at: usize, n: usize, arrival: Arrival, now: Time, snapshot: &Arc<Snapshot>) {
        let bind = &snapshot.binds[at];
        let local = SocketAddr::new(arrival.local.unwrap_or(bind.address.ip()), bind.address.port());
        let flow = Flow::of_datagrams(local, arrival.remote);
        let live = &snapshot.frontends[bind.frontend as usize].live;
        let counters: &FrontendCounters = live.of(self.tools.memory.worker);
        counters.received.add(1);
        let data = slot(n);
        let drop = |reason| counters.reasons.of(reason).add(1);
        if arrival.truncated {
            return drop(Reason::TooLong);
        }
        let Tools { memory, message, edits, arena } = &mut self.tools;
        let (slots, spare) = arena.split_at_mut(data.end);
        let bytes = &slots[data.start..data.start + arrival.len];
        match classify(bytes) {
            Datagram::KeepAlive => counters.keepalives.add(1),
            Datagram::Junk => {
                drop(Reason::Junk);
                proxy::keep_bad(Reason::Junk, bytes, (at, flow.remote), now, snapshot, memory);
            }
            Datagram::StunBinding => {
                let frontend = &snapshot.frontends[bind.frontend as usize];
                if let Err(reason) = proxy::admit_source(&flow, false, frontend, snapshot) {
                    return drop(reason);
                }
                counters.stun.add(1);
                let len = stun_answer(bytes, flow.remote, spare);
                let origin = Origin { slot: n, len: arrival.len, bind: at, flow, peer: None, tries: 0 };
                let leaving = Leaving { verdict: None, origin, saved: 0, ours: false, kept: false };
                let to = Hop::Datagram(To { bind: at, local, remote: flow.remote });
                self.push(to, data.end..data.end + len, leaving, snapshot);
            }
            Datagram::Sip => match message.read(bytes) {
                Err(_) => {
                    drop(Reason::NotSip);
                    proxy::keep_bad(Reason::NotSip, bytes, (at, flow.remote), now, snapshot, memory);
                }
                Ok(()) => {
                    let received = Received { bytes, message, flow: &flow, bind: at, peer: None };
                    let verdict = proxy::decide(received, now, snapshot, memory, edits);
                    let origin = Origin { slot: n, len: arrival.len, bind: at, flow, peer: None, tries: 0 };
                    self.carry_out(verdict, origin, snapshot);
                }
            },
        }
    }

    /// Puts what a verdict about the message on the table says into an outbox; counts a drop.
    pub(super) fn carry_out(&mut self, verdict: Verdict, origin: Origin, snapshot: &Arc<Snapshot>) {
        let left = prepare(&verdict, origin.slot, origin.len, &mut self.tools);
        if self.tools.memory.shared.taps.is_on() {
            self.tools.tap(&verdict, &origin, left.as_ref(), snapshot);
        }
        match left {
            Some((to, datagram, saved)) => {
                let leaving = Leaving { verdict: Some(verdict), origin, saved, ours: false, kept: false };
                self.push(to, datagram, leaving, snapshot);
            }
            None => {
                let dropped = match verdict {
                    Verdict::Drop(reason) => reason,
                    _ => Reason::TooLarge,
                };
                proxy::count_drop(dropped, origin.bind, snapshot, &self.tools.memory);
            }
        }
    }

    /// Into the outbox of the socket that it leaves by, or into the output of a connection.
    fn push(&mut self, to: Hop, datagram: Range<usize>, mut leaving: Leaving, snapshot: &Arc<Snapshot>) {
        let Hop::Datagram(to) = to else { return self.put_to(to, datagram, leaving, snapshot) };
        leaving.kept = leaving.origin.flow.connection.is_some() && self.keep(&leaving, snapshot);
        let lane = usize::from(snapshot.binds[to.bind].lane);
        self.lanes[lane].as_mut().expect(OPEN).push(to, datagram, leaving);
    }

    /// What all workers have received that were told to stop; this one's relay so much.
    pub fn received_by_all(&self, relayed: u64) -> u64 {
        let Memory { shared, worker, .. } = &self.tools.memory;
        shared.workers.of(*worker).stopping.set(self.received + relayed);
        shared.workers.sum(|of| &of.stopping)
    }

    /// Forgets what a panic left half-done.
    pub fn recover(&mut self) {
        for lane in self.lanes.iter_mut().flatten() {
            lane.outbox.clear();
            lane.leaving.clear();
        }
        self.failed.clear();
    }

    /// Once a second: says that this worker lives, publishes the generation even where nothing comes in, and reads what the
    /// kernel dropped.
    pub fn tick(&mut self) {
        let generation = self.snapshot.load().generation;
        let own = self.tools.memory.shared.workers.of(self.tools.memory.worker);
        own.generation.set(generation);
        own.turned.set(clock().0);
        for lane in self.lanes.iter_mut().flatten() {
            own.kernel_drops.add(more_kernel_drops(lane.socket.as_fd(), &mut lane.kernel_drops));
        }
    }
}

/// Makes the datagram of a verdict in the slot: where it goes, where it lies, how much of the head was saved. `None` for
/// a drop, and for an answer that does not fit.
fn prepare(verdict: &Verdict, n: usize, len: usize, tools: &mut Tools) -> Option<(Hop, Range<usize>, usize)> {
    let base = n * SLOT;
    let (buffer, spare) = tools.arena[base..base + SLOT].split_at_mut(SPARE);
    match verdict {
        Verdict::Drop(_) => None,
        Verdict::Answer { to, answer, .. } => {
            let request = &buffer[DATA..DATA + len];
            let len = answer.write(request, &tools.message, &tools.edits, spare)?;
            Some((*to, base + SPARE..base + SPARE + len, 0))
        }
        Verdict::Forward { to, end, .. } => {
            let edited = tools.edits.apply(buffer, DATA..DATA + end, spare);
            Some((*to, base + edited.message.start..base + edited.message.end, edited.saved))
        }
    }
}

/// Takes what is in a socket's error queue; says whether anything was. An ICMP error about a server is a sign for its health.
fn drain_errors(socket: BorrowedFd<'_>, snapshot: &Snapshot, memory: &mut Memory) -> bool {
    for n in 0..ERRORS_AT_ONCE {
        let Some((remote, error)) = take_error(socket) else { return n > 0 };
        memory.shared.workers.of(memory.worker).icmp.add(1);
        // That the path is narrow (RFC 4443 §3.2) says nothing about who is at its end: the kernel learns it, and cuts the next.
        let is_about_path = error.raw_os_error() == Some(libc::EMSGSIZE);
        if let Some(server) = remote.filter(|_| !is_about_path).and_then(|remote| snapshot.server_reached_at(&remote)) {
            let live = &snapshot.servers[server].live;
            live.counters.of(memory.worker).unreachable.add(1);
            memory.sign(live, Sign::Unreachable);
        }
    }
    true
}

impl Leaving {
    /// How it passes; `None` for an answer of our own.
    pub fn passage(&self) -> Option<&Passage> {
        match &self.verdict {
            Some(Verdict::Forward { passage, .. }) => Some(passage),
            _ => None,
        }
    }

    /// It left, as so many bytes.
    pub fn count(&self, len: usize, snapshot: &Snapshot, memory: &mut Memory) {
        if let Some(verdict) = &self.verdict {
            proxy::count(verdict, len, self.origin.bind, snapshot, memory);
        }
    }

    pub fn count_drop(&self, reason: Reason, snapshot: &Snapshot, memory: &Memory) {
        if self.verdict.is_some() {
            proxy::count_drop(reason, self.origin.bind, snapshot, memory);
        }
    }
}

impl Lane {
    fn push(&mut self, to: To, datagram: Range<usize>, leaving: Leaving) {
        let source: Option<IpAddr> = (self.wildcard && !to.local.ip().is_unspecified()).then(|| to.local.ip());
        self.outbox.push(datagram, to.remote, source);
        self.leaving.push(leaving);
    }

    /// Sends everything; what could not be sent is left in `failed`.
    ///
    /// After an ICMP error of an earlier send, of any worker, the kernel refuses the next datagram, whoever it is for: that one
    /// is sent again. What is refused while nothing is said about others is its own error, and the rest goes on behind it.
    fn flush(&mut self, snapshot: &Snapshot, tools: &mut Tools, failed: &mut Vec<Leaving>) {
        let (mut at, mut tries, mut told) = (0, 0, false);
        // The kernel says of an address that has left what it says of a network that is gone (`ip_route_output_key_hash_rcu`).
        let own = || self.socket.local_addr().ok()?.as_socket();
        let is_here = LazyCell::new(|| own().is_none_or(|own| host::has(own.ip())));
        let mut leaving = self.leaving.drain(..);
        while at < self.outbox.len() {
            tools.memory.shared.workers.of(tools.memory.worker).sends.add(1);
            match self.outbox.send(self.socket.as_fd(), &tools.arena, at) {
                Ok(sent) => {
                    for (n, leaving) in (at..at + sent).zip(leaving.by_ref()) {
                        leaving.count(self.outbox.bytes(n..n + 1), snapshot, &mut tools.memory);
                    }
                    (at, tries) = (at + sent, 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Waiting for room would let the receive queue overflow instead.
                    let lost = |leaving: Leaving| leaving.refused(Refusal::NoRoom, snapshot, &tools.memory);
                    failed.extend(leaving.by_ref().filter_map(lost));
                    break;
                }
                Err(error) if tries < TRIES && !host::had_no_room(&error) => {
                    told = drain_errors(self.socket.as_fd(), snapshot, &mut tools.memory);
                    // With nothing said about others, one more try: it may have been said in between.
                    tries = if told { tries + 1 } else { TRIES };
                }
                Err(error) => {
                    let refusal = match () {
                        () if host::had_no_room(&error) => Refusal::NoRoom,
                        () if told => Refusal::Unknown,
                        () if host::lost_its_place(&error) && *is_here => Refusal::NoNetwork,
                        () if host::lost_its_place(&error) => Refusal::NoAddress,
                        () => Refusal::Own,
                    };
                    failed.extend(leaving.next().and_then(|one| one.refused(refusal, snapshot, &tools.memory)));
                    (at, tries, told) = (at + 1, 0, false);
                }
            }
        }
        drop(leaving);
        self.outbox.clear();
    }
}
