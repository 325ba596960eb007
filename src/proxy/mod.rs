//! The decision: one SIP message in, one verdict out. RFC 3261 §16 as a stateless proxy (§16.11), with what a balancer
//! adds to it.
//!
//! Deterministic: the same message, time, snapshot and memory give the same verdict and the same edits. No I/O, no
//! clock, no logging; bad input is a verdict, never an error.
//!
//! ```text
//! decide ── response ─────────────── response.rs   our Via says where it goes
//!        └─ request ── admit.rs      cheap refusals first
//!                   ├─ route.rs      what is ours in Route and Request-URI
//!                   ├─ request.rs    from a client: to the server that choose.rs finds
//!                   ├─ outbound.rs   from a server: to the client
//!                   └─ refuse.rs     answers of our own
//! ```
//! [`mod@count`] keeps the books: who sent what, what it ended as. [`stamp`] writes what all of them add: Via, Record-Route, `received` and `rport`. [`relay`] is the other mode: it reads
//! nothing.

mod admit;
mod choose;
mod count;
mod outbound;
mod refuse;
pub mod relay;
mod request;
mod response;
mod route;
mod stamp;

pub use admit::{admit_connection, admit_handshake, admit_source};
pub use choose::{Explanation, explain, stick_key_of};
pub use count::{count, count_drop, count_end, hold_end_against, keep_bad};

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::config::is_one_host;
use crate::sip::edit::Edits;
use crate::sip::reply::Answer;
use crate::sip::token::NameHash;
use crate::sip::{ConnectionId, Flow, Message, Method, StartLine};
use crate::state::flows::FlowTable;
use crate::state::repeats::Repeats;
use crate::state::server::{ServerLive, Sign};
use crate::state::snapshot::Frontend;
use crate::state::tap::Why;
use crate::state::{Reason, Shared, Snapshot, Time};

/// A message as it came in.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    pub bytes: &'a [u8],
    pub message: &'a Message,
    pub flow: &'a Flow,
    /// Position of the bind that it came to.
    pub bind: usize,
    /// Whose connection it came by, where we opened that to a server.
    pub peer: Option<NameHash>,
}

impl Received<'_> {
    /// The position of the server that sent it.
    #[inline]
    fn server(&self, snapshot: &Snapshot) -> Option<usize> {
        match self.peer {
            None => snapshot.server_at(&self.flow.remote, self.flow.connection.is_some()),
            Some(server) => snapshot.server(server),
        }
    }
}

/// What a worker remembers from message to message, and its door to what all share.
pub struct Memory {
    pub shared: Arc<Shared>,
    pub worker: usize,
    /// The flows of relays; of no size where there are none.
    pub flows: FlowTable,
    /// A sign was left that nobody has seen yet: whoever keeps the health should be woken.
    pub sign_left: bool,
    pub ids: Ids,
    pub repeats: Repeats,
}

/// The numbers of this worker's connections: every worker of a process has its own.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    /// The process's number.
    instance: NonZeroU32,
    next: u32,
    /// So many workers there are.
    step: u32,
}

impl Ids {
    /// For the worker of this position among so many.
    pub fn new(instance: NonZeroU32, worker: usize, workers: usize) -> Self {
        Self { instance, next: worker as u32, step: workers as u32 }
    }

    /// A number that no connection of this process has.
    pub fn take(&mut self) -> ConnectionId {
        let serial = self.next;
        // Four thousand million connections later the first is long gone.
        self.next = serial.checked_add(self.step).unwrap_or(serial % self.step);
        ConnectionId::new(self.instance, serial)
    }

    /// The worker whose a connection is; `None` where it is another process's.
    #[inline]
    pub fn owner(&self, id: ConnectionId) -> Option<usize> {
        (id.instance() == self.instance.get()).then(|| (id.serial() % self.step) as usize)
    }
}

impl Memory {
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let ids = Ids::new(shared.instance, worker, shared.workers.workers());
        Self { shared, worker, flows: FlowTable::default(), sign_left: false, ids, repeats: Repeats::default() }
    }

    /// Leaves a sign for whoever keeps the health of this server.
    pub fn sign(&mut self, live: &ServerLive, sign: Sign) {
        self.sign_left |= live.sign(sign);
    }
}

/// Where a message goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    Datagram(Datagram),
    /// Over a connection that is open, whoever owns it.
    Connection(ConnectionId),
    /// Over this worker's own connection to the server of this position; opened where there is none.
    Server(usize),
    /// Over a connection to be opened.
    Peer(Peer),
}

impl Hop {
    /// A datagram's ends; `None` on a stream.
    pub fn datagram(&self) -> Option<&Datagram> {
        match self {
            Self::Datagram(datagram) => Some(datagram),
            _ => None,
        }
    }
}

/// Somebody who is no server and is to be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The number that the connection will have.
    pub id: ConnectionId,
    /// Position of the bind whose address it should come from.
    pub bind: usize,
    pub remote: SocketAddr,
}

/// From where to where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Position of the bind that it leaves from.
    pub bind: usize,
    /// Its source address; the bind's own but on a wildcard.
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// In which direction a message passes, and past which server (its position).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    RequestToServer {
        server: usize,
        /// Whether it opened something and was balanced, rather than following a call.
        balanced: bool,
        why: Why,
        method: Method,
        /// What tells it from others, and its response with it.
        transaction: u64,
    },
    ResponseToClient {
        server: usize,
        /// Position of the client's frontend: a response may come by the address of another one.
        frontend: usize,
        method: Method,
        status: u16,
        transaction: u64,
    },
    RequestToClient {
        server: usize,
        frontend: usize,
        method: Method,
        transaction: u64,
    },
    ResponseToServer {
        server: usize,
        method: Method,
        status: u16,
        transaction: u64,
    },
}

/// What to do with one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply the edits, send what is left up to `end` of the original.
    Forward {
        to: Hop,
        end: usize,
        passage: Passage,
    },
    /// Send an answer of our own; the edits hold the stamps of its top Via. With a reason it is a refusal.
    Answer {
        to: Hop,
        answer: Answer,
        reason: Option<Reason>,
        /// It was a server who asked.
        to_server: bool,
    },
    Drop(Reason),
}

/// One message on the table: what it is, what it is judged by, and the pen.
struct Case<'a> {
    received: Received<'a>,
    now: Time,
    snapshot: &'a Snapshot,
    /// The frontend that the message came to.
    frontend: &'a Frontend,
    /// [`Message::method`]: asked for again and again.
    method: Method,
    memory: &'a mut Memory,
    edits: &'a mut Edits,
    /// Whether it is a request that a server sent.
    from_server: bool,
    /// Whether it is a request with a To tag. Known once it is seen to be well formed.
    in_dialog: bool,
    /// It was let in and counted before.
    is_admitted: bool,
    /// It is a trial call of a half-open breaker: the server, and its place there.
    trial: Option<(usize, usize)>,
}

impl<'a> Case<'a> {
    fn new(
        received: Received<'a>,
        now: Time,
        snapshot: &'a Snapshot,
        memory: &'a mut Memory,
        edits: &'a mut Edits,
    ) -> Self {
        edits.clear();
        let frontend = &snapshot.frontends[snapshot.binds[received.bind].frontend as usize];
        let method = received.message.method();
        Self {
            received,
            now,
            snapshot,
            frontend,
            method,
            memory,
            edits,
            from_server: false,
            in_dialog: false,
            is_admitted: false,
            trial: None,
        }
    }

    #[inline(always)]
    fn decide(self) -> Verdict {
        match self.received.message.start {
            StartLine::Response { status } => self.response(status).unwrap_or_else(Verdict::Drop),
            StartLine::Request { .. } => self.request(None),
        }
    }
}

/// Decides about one message. `edits` is cleared first.
///
/// Hot path: no allocation, no lock, every lookup constant in the number of servers and calls.
pub fn decide(
    received: Received<'_>,
    now: Time,
    snapshot: &Snapshot,
    memory: &mut Memory,
    edits: &mut Edits,
) -> Verdict {
    let verdict = Case::new(received, now, snapshot, memory, edits).decide();
    if let Verdict::Drop(reason) | Verdict::Answer { reason: Some(reason), .. } = verdict {
        keep_bad(reason, received.bytes, (received.bind, received.flow.remote), now, snapshot, memory);
    }
    verdict
}

/// Decides anew about a message that could not be sent: a request that opens something goes to another server, another
/// request is answered with 503 (RFC 3261 §16.9), the rest is dropped. `received` is the message as it came in. The server is
/// `blamed` where it may be its fault.
pub fn undelivered(
    received: Received<'_>,
    passage: Passage,
    blamed: bool,
    now: Time,
    snapshot: &Snapshot,
    memory: &mut Memory,
    edits: &mut Edits,
) -> Verdict {
    let server = match passage {
        Passage::RequestToServer { server, .. } => server,
        Passage::RequestToClient { .. } => return Case::new(received, now, snapshot, memory, edits).unsent(),
        Passage::ResponseToClient { .. } | Passage::ResponseToServer { .. } => {
            return Verdict::Drop(Reason::SendFailed);
        }
    };
    let failed = &snapshot.servers[server];
    if blamed {
        failed.live.counters.of(memory.worker).failed.add(1);
        memory.sign(&failed.live, Sign::Unreachable);
    }
    Case::new(received, now, snapshot, memory, edits).request(Some(server))
}

/// Decides anew about what was let in: a request that waited for a server which is elsewhere by now, and a message that is sent
/// again because nobody answers. A request goes where its call is; a response teaches nothing twice. `balanced`: as it was found
/// to be when it came, if it never left.
pub fn admitted(
    received: Received<'_>,
    balanced: bool,
    now: Time,
    snapshot: &Snapshot,
    memory: &mut Memory,
    edits: &mut Edits,
) -> Verdict {
    let case = Case { is_admitted: true, ..Case::new(received, now, snapshot, memory, edits) };
    let mut verdict = case.decide();
    if let Verdict::Forward { passage: Passage::RequestToServer { balanced: again, .. }, .. } = &mut verdict {
        *again |= balanced;
    }
    verdict
}

/// Decides about a request that was put to a connection which ended before the answer came: a server may have read it, so it
/// is not sent again, and is answered with 503 (RFC 3261 §16.9, docs/rules.md 26). So is a server's to whom nobody could be
/// connected. Where it was repeated meanwhile and went to another server than `by`, that one answers.
pub fn unanswered(
    received: Received<'_>,
    by: Option<NameHash>,
    now: Time,
    snapshot: &Snapshot,
    memory: &mut Memory,
    edits: &mut Edits,
) -> Verdict {
    let case = Case::new(received, now, snapshot, memory, edits);
    match case.received.server(snapshot) {
        Some(_) => case.unsent(),
        None => case.lost(by),
    }
}

/// "Any address" of the family: the kernel chooses.
fn unspecified(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::from([0; 4]),
        SocketAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

/// Whether a datagram may be sent there at all: not to broadcast, multicast, nowhere, or ourselves (RFC 4475 §3.3.10).
#[inline]
fn may_send_to(address: &SocketAddr, snapshot: &Snapshot) -> bool {
    let canonical;
    let address = match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => {
            canonical = SocketAddr::new(v6.ip().to_canonical(), v6.port());
            &canonical
        }
    };
    is_one_host(address.ip()) && address.port() != 0 && !snapshot.is_own(address)
}
