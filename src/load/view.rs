//! What other threads see of an answering server, and what they may ask of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::compose::METHODS;
use super::json::Object;
use super::ledger::Ledger;
use crate::sip::Transport;
use crate::state::counters::Counter;

/// How a server behaves. It keeps its calls and registrations through every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers.
    Normal,
    /// Reads everything and ignores it, as a process that hangs.
    Silent,
    /// Its socket is closed: the kernel answers with ICMP port unreachable, or ends connections, as for a process that
    /// died.
    Closed,
    /// Answers every INVITE and OPTIONS that belongs to no call with this status (300 to 699); its calls go on.
    Status(u16),
    /// Answers a new INVITE with 100 and nothing else.
    Only100,
    /// Ignores every INVITE that belongs to no call, and answers everything else, as a server whose database hangs.
    NoCalls,
}

/// Numbers that the server's thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests received, retransmissions included, in the order of [`METHODS`].
    pub requests: [Counter; METHODS.len()],
    /// INVITEs that began a call.
    pub new_calls: Counter,
    /// Requests of a transaction that had been seen before.
    pub retransmissions: Counter,
    /// In-dialog requests, CANCELs and ACKs of calls that this server does not have; over streams also answers that came by
    /// another connection than their request went.
    pub misdirected: Counter,
    /// Responses sent, retransmissions included.
    pub responses: Counter,
    /// Responses received to requests of its own.
    pub answers: Counter,
    /// Calls that went on or ended though nobody had acknowledged their 200.
    pub without_ack: Counter,
    /// Calls that have not ended, now.
    pub dialogs: Counter,
    /// Registered phones, now.
    pub registrations: Counter,
    /// Datagrams, and bytes of streams, that could not be read as SIP.
    pub malformed: Counter,
    /// Connections that are there, now.
    pub connections: Counter,
    /// Messages that neither the system nor a connection took.
    pub not_sent: Counter,
}

impl Counters {
    /// How many requests of a method were received; the name as on the wire.
    pub fn requests_of(&self, method: &str) -> u64 {
        let at = METHODS.iter().position(|name| *name == method);
        at.map_or(0, |at| self.requests[at].get())
    }
}

/// What became of a server's calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerBooks {
    /// Calls that came: `refused` are those that were cancelled.
    pub incoming: Ledger,
    /// Calls to registered phones.
    pub call_backs: Ledger,
}

/// One server, seen from outside.
#[derive(Debug)]
pub struct ServerView {
    pub name: String,
    pub transport: Transport,
    /// Where it listens, the port resolved.
    pub address: SocketAddr,
    pub counters: Counters,
    behaviour: AtomicU32,
    /// Calls to phones that were ordered and not begun.
    wanted: AtomicU32,
    books: Mutex<ServerBooks>,
}

const NORMAL: u32 = 0;
const SILENT: u32 = 1;
const CLOSED: u32 = 2;
const ONLY_100: u32 = 3;
const NO_CALLS: u32 = 4;

impl ServerView {
    /// A server that answers normally, over UDP.
    pub fn new(name: String, address: SocketAddr) -> Self {
        Self::over(Transport::Udp, name, address)
    }

    /// A server that answers normally.
    pub fn over(transport: Transport, name: String, address: SocketAddr) -> Self {
        Self {
            name,
            transport,
            address,
            counters: Counters::default(),
            behaviour: AtomicU32::new(NORMAL),
            wanted: AtomicU32::new(0),
            books: Mutex::default(),
        }
    }

    /// Changes what the server does from its next datagram on; the socket is closed or opened within a fiftieth of a
    /// second.
    pub fn behave(&self, behaviour: Behaviour) {
        let number = match behaviour {
            Behaviour::Normal => NORMAL,
            Behaviour::Silent => SILENT,
            Behaviour::Closed => CLOSED,
            Behaviour::Only100 => ONLY_100,
            Behaviour::NoCalls => NO_CALLS,
            Behaviour::Status(status) => u32::from(status.clamp(300, 699)),
        };
        self.behaviour.store(number, Ordering::Relaxed);
    }

    /// What it does now.
    pub fn behaviour(&self) -> Behaviour {
        match self.behaviour.load(Ordering::Relaxed) {
            NORMAL => Behaviour::Normal,
            SILENT => Behaviour::Silent,
            CLOSED => Behaviour::Closed,
            ONLY_100 => Behaviour::Only100,
            NO_CALLS => Behaviour::NoCalls,
            status => Behaviour::Status(status as u16),
        }
    }

    /// Orders this many calls to registered phones, one after the other through all of them. Where nobody is
    /// registered, nobody is called.
    pub fn call_back(&self, calls: u32) {
        self.wanted.fetch_add(calls, Ordering::Relaxed);
    }

    /// Takes the orders that have come since the last time.
    pub(super) fn take_wanted(&self) -> u32 {
        self.wanted.swap(0, Ordering::Relaxed)
    }

    /// What became of its calls, as of at most a tenth of a second ago.
    pub fn books(&self) -> ServerBooks {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn publish(&self, books: &ServerBooks) {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).clone_from(books);
    }

    /// Writes everything as members of a JSON object.
    pub(super) fn write(&self, object: &mut Object) {
        let Counters { requests, new_calls, retransmissions, misdirected, responses, answers, .. } = &self.counters;
        object.text("address", &self.address.to_string());
        object.object("requests", |object| {
            for (name, count) in METHODS.iter().zip(requests).filter(|(_, count)| count.get() > 0) {
                object.number(name, count.get());
            }
        });
        object.number("new_calls", new_calls.get()).number("retransmissions", retransmissions.get());
        object.number("misdirected", misdirected.get()).number("responses", responses.get());
        object.number("answers", answers.get()).number("dialogs", self.counters.dialogs.get());
        object.number("registrations", self.counters.registrations.get());
        object.number("malformed", self.counters.malformed.get());
        object.number("without_ack", self.counters.without_ack.get());
        object.number("not_sent", self.counters.not_sent.get());
        if self.transport != Transport::Udp {
            object.number("connections", self.counters.connections.get());
        }
        let books = self.books();
        object.object("incoming", |object| books.incoming.write(object));
        object.object("call_backs", |object| books.call_backs.write(object));
    }
}
