//! What a state machine wants to send by one socket, until the loop around it sends it.

use std::net::SocketAddr;
use std::ops::Range;

use super::compose::{Asked, Local, Response};
use super::ids::Ids;
use super::plan::Timers;
use crate::sip::Transport;
use crate::state::Time;

/// Datagrams in the order they shall leave, one behind the other in one piece of memory. Bounded by whoever fills it:
/// one batch of arrivals or timers makes a few datagrams each.
#[derive(Debug, Default)]
pub struct Outgoing {
    memory: Vec<u8>,
    datagrams: Vec<(Range<usize>, SocketAddr)>,
    /// It is among those of [`Desk::take_talkative`].
    listed: bool,
}

impl Outgoing {
    /// Queues one datagram.
    pub fn push(&mut self, to: SocketAddr, bytes: &[u8]) {
        let start = self.memory.len();
        self.memory.extend_from_slice(bytes);
        self.datagrams.push((start..self.memory.len(), to));
    }

    /// The bytes that the ranges of [`Outgoing::datagrams`] lie in.
    pub fn memory(&self) -> &[u8] {
        &self.memory
    }

    /// Where each datagram lies and where it goes, first to last.
    pub fn datagrams(&self) -> &[(Range<usize>, SocketAddr)] {
        &self.datagrams
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.datagrams.clear();
    }
}

/// Messages on the wire, injected losses not considered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages that a state machine sent, retransmissions included.
    pub sent: u64,
    /// Those of `sent` that had been sent before.
    pub retransmitted: u64,
    /// Those of `sent` that are responses.
    pub responses: u64,
    /// Datagrams that could be read as SIP.
    pub received: u64,
    /// Calls that went on or ended though nobody had acknowledged their 200.
    pub without_ack: u64,
}

/// What the calls of one owner share: where they write to, and what is counted of it.
#[derive(Debug)]
pub struct Desk {
    pub timers: Timers,
    /// What all messages here travel by: over streams nothing is sent again that the transport carries.
    pub transport: Transport,
    pub ids: Ids,
    /// One for each socket, or each connection.
    pub outgoing: Vec<Outgoing>,
    pub traffic: Traffic,
    talkative: Vec<usize>,
    scratch: Vec<u8>,
}

impl Desk {
    /// A desk for this many sockets, over UDP.
    pub fn new(timers: Timers, ids: Ids, sockets: usize) -> Self {
        let outgoing = (0..sockets).map(|_| Outgoing::default()).collect();
        let (transport, traffic) = (Transport::Udp, Traffic::default());
        Self { timers, transport, ids, outgoing, traffic, talkative: Vec::new(), scratch: Vec::new() }
    }

    /// The same for another transport.
    pub fn over(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// The sockets that were lent out since it was asked last: only there can be something to send. Who has few may look at
    /// all of them instead.
    pub fn take_talkative(&mut self) -> Vec<usize> {
        for socket in &self.talkative {
            self.outgoing[*socket].listed = false;
        }
        std::mem::take(&mut self.talkative)
    }

    /// Lends it to a call on this socket.
    pub fn turn(&mut self, socket: usize, now: Time) -> Turn<'_> {
        if !std::mem::replace(&mut self.outgoing[socket].listed, true) {
            self.talkative.push(socket);
        }
        Turn {
            now,
            timers: &self.timers,
            reliable: self.transport != Transport::Udp,
            ids: &mut self.ids,
            out: &mut self.outgoing[socket],
            traffic: &mut self.traffic,
            scratch: &mut self.scratch,
        }
    }
}

/// What a call is lent while it acts: the time, and where its messages go.
pub struct Turn<'a> {
    /// The time of the batch.
    pub now: Time,
    pub timers: &'a Timers,
    /// Whether the transport loses nothing (RFC 3261 §17.1.1.2).
    pub reliable: bool,
    pub ids: &'a mut Ids,
    /// The messages of the call's own socket.
    pub out: &'a mut Outgoing,
    pub traffic: &'a mut Traffic,
    /// Where messages are written before they are queued; reused.
    pub scratch: &'a mut Vec<u8>,
}

impl Turn<'_> {
    /// Sends a message for the first time.
    pub fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.traffic.sent += 1;
        self.out.push(to, bytes);
    }

    /// Sends a response that was written into the scratch memory.
    pub fn respond(&mut self, to: SocketAddr) {
        self.traffic.sent += 1;
        self.traffic.responses += 1;
        self.out.push(to, self.scratch);
    }

    /// Answers a request without remembering anything: the same answer each time it comes. What cannot be answered
    /// (RFC 3261 §8.2.6 copies fields that it lacks) is not.
    pub fn answer(&mut self, response: &Response<'_>, request: Asked<'_>, local: &Local) {
        self.scratch.clear();
        if let Some(to) = response.write(request, local, self.scratch) {
            self.respond(to);
        }
    }

    /// Sends a message that was sent before.
    pub fn send_again(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.traffic.retransmitted += 1;
        self.send(to, bytes);
    }
}
