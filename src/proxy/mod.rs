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
//! [`stamp`] writes what all of them add: Via, Record-Route, `received` and `rport`. [`relay`] is the other mode: it reads
//! nothing.

mod admit;
mod choose;
mod outbound;
mod refuse;
pub mod relay;
mod request;
mod response;
mod route;
mod stamp;

pub use admit::admit_source;
pub use choose::{Explanation, explain};

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::sip::edit::Edits;
use crate::sip::reply::Answer;
use crate::sip::{Flow, Message, Method, StartLine};
use crate::state::flows::FlowTable;
use crate::state::server::{ServerLive, Sign};
use crate::state::snapshot::Frontend;
use crate::state::{Reason, Shared, Snapshot, Time};

/// A message as it came in.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    pub bytes: &'a [u8],
    pub message: &'a Message,
    pub flow: &'a Flow,
    /// Position of the bind that it came to.
    pub bind: usize,
}

/// What a worker remembers from message to message, and its door to what all share.
pub struct Memory {
    pub shared: Arc<Shared>,
    pub worker: usize,
    /// The flows of relays; of no size where there are none.
    pub flows: FlowTable,
    /// A sign was left that nobody has seen yet: whoever keeps the health should be woken.
    pub sign_left: bool,
}

impl Memory {
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self { shared, worker, flows: FlowTable::default(), sign_left: false }
    }

    /// Leaves a sign for whoever keeps the health of this server.
    pub fn sign(&mut self, live: &ServerLive, sign: Sign) {
        self.sign_left |= live.sign(sign);
    }
}

/// Where a message goes, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
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
        method: Method,
    },
    ResponseToClient {
        server: usize,
        status: u16,
    },
    RequestToClient {
        server: usize,
    },
    ResponseToServer {
        server: usize,
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
    /// Whether it is a request with a To tag. Known once it is seen to be well formed.
    in_dialog: bool,
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
        Self { received, now, snapshot, frontend, method, memory, edits, in_dialog: false, trial: None }
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
    let case = Case::new(received, now, snapshot, memory, edits);
    match received.message.start {
        StartLine::Response { status } => case.response(status).unwrap_or_else(Verdict::Drop),
        StartLine::Request { .. } => case.request(None),
    }
}

/// Decides anew about a message that could not be sent: a request that opens something goes to another server, another
/// request is answered with 503 (RFC 3261 §16.9), the rest is dropped. `received` is the message as it came in.
pub fn undelivered(
    received: Received<'_>,
    passage: Passage,
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
    failed.live.counters.of(memory.worker).failed.add(1);
    memory.sign(&failed.live, Sign::Unreachable);
    Case::new(received, now, snapshot, memory, edits).request(Some(server))
}

/// Counts a verdict that was carried out: a message when it left, a drop when it was decided.
pub fn count(verdict: &Verdict, bind: usize, snapshot: &Snapshot, memory: &Memory) {
    let frontend = &snapshot.frontends[snapshot.binds[bind].frontend as usize];
    let counters = frontend.live.of(memory.worker);
    let server = |at: usize| snapshot.servers[at].live.counters.of(memory.worker);
    match *verdict {
        Verdict::Drop(reason) | Verdict::Answer { reason: Some(reason), .. } => counters.reasons.of(reason).add(1),
        Verdict::Answer { reason: None, .. } => counters.answered.add(1),
        Verdict::Forward { passage: Passage::RequestToServer { server: at, balanced, method }, .. } => {
            counters.requests_to_servers.add(1);
            server(at).requests.add(1);
            server(at).asked.add(u64::from(method != Method::Ack));
            server(at).balanced.add(u64::from(balanced));
            server(at).calls.add(u64::from(balanced && method == Method::Invite));
        }
        Verdict::Forward { passage: Passage::ResponseToClient { server: at, status }, .. } => {
            counters.responses_to_clients.add(1);
            if let Some(class) = server(at).responses.get((status / 100) as usize - 1) {
                class.add(1);
            }
        }
        Verdict::Forward { passage: Passage::RequestToClient { server: at }, .. } => {
            counters.requests_to_clients.add(1);
            server(at).sent.add(1);
        }
        Verdict::Forward { passage: Passage::ResponseToServer { .. }, .. } => counters.responses_to_servers.add(1),
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
    let somebody = match address {
        // 0/8 is "this network", 240/4 is reserved and holds the broadcast address (RFC 1122 §3.2.1.3).
        SocketAddr::V4(v4) => !matches!(v4.ip().octets()[0], 0 | 224..),
        SocketAddr::V6(v6) => !v6.ip().is_unspecified() && !v6.ip().is_multicast(),
    };
    somebody && address.port() != 0 && !snapshot.is_own(address)
}
