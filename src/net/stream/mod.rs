//! Connections: each is owned by one worker, and served by one task on its runtime.
//!
//! ```text
//! bytes of a connection ── framing ── decide ── edit ── the output of the connection that it leaves by, or an outbox
//! ```
//! A connection that is idle holds no buffer: what comes is read into one buffer of the worker, and only the beginning of a
//! message that is not whole stays behind. To servers each worker has one connection, shared by all clients. What belongs on
//! another worker's connection goes to that worker, which alone writes to it.
//!
//! [`serve`] holds the tasks, `relay` those of mode `relay`, `header` what stands before all that, [`under_way`] how many are
//! told apart at once, [`table`] what a worker knows of its connections and reads from them, `outgoing` what leaves by them,
//! `buffer` what it holds of their bytes, [`unanswered`] what is owed for requests whose connection breaks, [`retransmit`] what
//! left in a datagram and is sent again.

mod buffer;
mod header;
mod outgoing;
mod relay;
pub mod retransmit;
pub mod serve;
pub mod table;
pub mod unanswered;
pub mod under_way;

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use std::time::Duration;

use crate::net::udp::clock;
use crate::sip::token::NameHash;
use crate::sip::{ConnectionId, Flow};
use crate::state::Time;
use crate::state::connections::End;
use buffer::{Buffer, Held};
use outgoing::Waiting;
use unanswered::{Request, Unanswered};

/// What may wait to be written to a client: what a carrier is owed in the second that a lost segment costs. Where so much
/// waits that it seems to take nothing it is not read from any more: it should ask nothing.
const MOST_QUEUED: usize = 8 << 20;
const MOST_QUEUED_READ: usize = 512 << 10;

/// What may wait to be written to a server: beyond that its requests go elsewhere.
const MOST_QUEUED_TO_SERVER: usize = 1 << 20;

/// How long output may stand still before the connection is closed.
const LONGEST_STILL: Duration = Duration::from_secs(20);

/// From the first byte of a message to its last; and to the first byte from who connected.
const LONGEST_MESSAGE: Duration = Duration::from_secs(30);

/// How long a client's handshake of TLS may take.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);

/// How long who speaks for somebody else may take to say for whom.
const LONGEST_HEADER: Duration = Duration::from_secs(5);

/// How long the other end may take to close its side after we have closed ours. What it still sends is read and thrown away:
/// else our last answer might never reach it (RFC 9293 §3.6.1).
const LONGEST_CLOSE: Duration = Duration::from_secs(2);

/// Connections that one worker has opened to others than servers.
const MOST_PEERS: usize = 1000;

/// A message for a connection of another worker.
pub struct Parcel {
    pub to: ConnectionId,
    pub bytes: Vec<u8>,
    waiting: Waiting,
    /// What answers it where that connection never opens.
    request: Option<Box<Request>>,
}

/// Parcels that may wait for one worker.
pub const PARCELS: usize = 4096;

/// What a connection has come to whose task is dropped, where that had found no end for it.
fn end_of_dropped(end: End) -> End {
    if end == End::Stopped && std::thread::panicking() { End::Panicked } else { end }
}

/// Who opened a connection, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opened {
    ByClient,
    ByServer,
    ToServer(NameHash),
    /// To somebody who is no server.
    ToPeer,
}

impl Opened {
    fn by_us(self) -> bool {
        matches!(self, Self::ToServer(_) | Self::ToPeer)
    }

    /// Whether it is one of those that the other end may have so many of.
    fn counts_for_source(self) -> bool {
        !matches!(self, Self::ToServer(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    /// What is in its output is written, then it is closed.
    Closing(End),
    /// It takes nothing any more; what it said before is read.
    Broken,
    /// Nothing more is done for it.
    Over(End),
}

/// One connection of this worker.
pub struct Connection {
    pub id: ConnectionId,
    pub flow: Flow,
    /// The lane of the bind that it came to, or that its messages name, and whose that is.
    pub lane: usize,
    pub frontend: NameHash,
    opened: Opened,
    state: Cell<State>,
    /// Whether it has been open.
    was_open: Cell<bool>,
    output: RefCell<Buffer>,
    waker: RefCell<Option<Waker>>,
    unanswered: RefCell<Unanswered>,
    /// What is in its output while it is not open.
    waiting: RefCell<Vec<Waiting>>,
    /// When something was read, and since when a message is not whole, or the first one did not begin.
    heard: Cell<Time>,
    begun: Cell<Option<Time>>,
    /// Since when output stands still.
    still: Cell<Option<Time>>,
    /// Since when nothing is left to be written to it, and the other end is to close its side.
    written: Cell<Option<Time>>,
}

impl Connection {
    fn new(
        flow: Flow,
        id: ConnectionId,
        (lane, frontend): (usize, NameHash),
        opened: Opened,
        queued: Held,
        now: Time,
    ) -> Self {
        let ours = opened.by_us();
        Self {
            id,
            flow,
            lane,
            frontend,
            opened,
            state: Cell::new(if ours { State::Opening } else { State::Open }),
            was_open: Cell::new(!ours),
            output: RefCell::new(Buffer::new(queued)),
            waker: RefCell::default(),
            unanswered: RefCell::default(),
            waiting: RefCell::default(),
            heard: Cell::new(now),
            begun: Cell::new((!ours).then_some(now)),
            still: Cell::new(None),
            written: Cell::new(None),
        }
    }

    /// Where it leads, if we opened it to a server.
    pub fn server(&self) -> Option<NameHash> {
        match self.opened {
            Opened::ToServer(server) => Some(server),
            _ => None,
        }
    }

    /// Whether a server is at the other end.
    fn is_of_server(&self) -> bool {
        matches!(self.opened, Opened::ToServer(_) | Opened::ByServer)
    }

    /// Puts a message behind what waits to be written. False where that is too much already, or the connection is closing.
    fn put(&self, bytes: &[u8]) -> bool {
        let mut output = self.output.borrow_mut();
        let most = if self.is_of_server() { MOST_QUEUED_TO_SERVER } else { MOST_QUEUED };
        if output.len() + bytes.len() > most || self.is_closing() {
            return false;
        }
        let put = output.put(bytes);
        if put {
            self.wake();
        }
        put
    }

    /// Lets its task look again.
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Its task is to be woken.
    fn sleep(&self, cx: &Context<'_>) {
        self.waker.replace(Some(cx.waker().clone()));
    }

    fn is_closing(&self) -> bool {
        matches!(self.state.get(), State::Closing(_) | State::Broken | State::Over(_))
    }

    /// Writes what waits, then closes.
    fn close(&self, end: End) {
        if !self.is_closing() {
            self.state.set(State::Closing(end));
            self.wake();
        }
    }

    /// Everything is written: the other end has a moment for its goodbye.
    fn note_written(&self) {
        self.written.set(self.written.get().or_else(|| Some(clock())));
    }

    fn break_off(&self, now: Time) {
        self.written.set(Some(now));
        self.state.set(State::Broken);
        self.output.borrow_mut().clear();
    }

    fn closes_too_long(&self, now: Time) -> bool {
        self.written.get().is_some_and(|since| now.since(since) > LONGEST_CLOSE)
    }

    /// Ends it as it is.
    fn give_up(&self, end: End) {
        self.state.set(State::Over(end));
        self.wake();
    }

    /// Whether it is not to be read from. A server always is: it may have its hands full of answers, and take nothing before
    /// somebody takes those.
    fn is_clogged(&self) -> bool {
        !self.is_of_server() && self.output.borrow().len() > MOST_QUEUED_READ
    }

    /// Why it has lived long enough, where it may be silent for so long. What we do not read is no silence of the other end's.
    fn overdue(&self, now: Time, idle: Duration) -> Option<End> {
        if self.is_clogged() {
            self.heard.set(now);
            self.begun.set(self.begun.get().map(|_| now));
        }
        let longer = |since: Option<Time>, most| since.is_some_and(|since| now.since(since) > most);
        match () {
            () if longer(self.still.get(), LONGEST_STILL) => Some(End::SlowReader),
            () if longer(self.begun.get(), LONGEST_MESSAGE) => Some(End::SlowMessage),
            () if now.since(self.heard.get()) > idle => Some(End::Idle),
            () => None,
        }
    }
}
