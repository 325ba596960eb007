//! One answering server, without socket and clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::call::{Call, End};
use super::caller::First;
use super::calls::{Calls, Held};
use super::compose::{Asked, Local, Response, method_index, sdp};
use super::dialog::{Opening, tag_text};
use super::ids::{call_key, hash};
use super::outgoing::{Desk, Outgoing, Turn};
use super::plan::{Plan, Side, Wish};
use super::registrar::Registrar;
use super::transaction::NEVER;
use super::view::{Behaviour, ServerBooks, ServerView};
use crate::sip::{Message, Method, Transport};
use crate::state::Time;
use crate::state::lookup::{Set, hasher};

/// How servers answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Manner {
    /// An INVITE gets a 100 at once.
    pub trying: bool,
    /// From an INVITE to its 180.
    pub ring_after: Duration,
    /// From an INVITE to its 200, where the INVITE does not wish otherwise.
    pub answer_after: Duration,
    /// Share of the calls without wishes in which the server sends BYE, and in which it sends a re-INVITE; 0 to 1.
    pub bye_share: f64,
    pub reinvite_share: f64,
    /// How long those, and calls to phones, are held.
    pub hold: Duration,
    /// Calls to registered phones per second; 0 for none.
    pub call_back_rate: f64,
    /// Over TCP and TLS: what a call says to the host that its request came from goes over that connection. Else it goes
    /// where its route says, over a connection of our own.
    pub reuse: bool,
    /// The most calls of one server, ended ones that are still remembered included; and the most registrations.
    pub limit: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            trying: false,
            ring_after: Duration::ZERO,
            answer_after: Duration::ZERO,
            bye_share: 0.0,
            reinvite_share: 0.0,
            hold: Duration::from_secs(1),
            call_back_rate: 0.0,
            reuse: false,
            limit: 200_000,
        }
    }
}

/// How long a caller without wishes may talk.
const LONGEST_CALL: Duration = Duration::from_secs(60 * 60);

/// Transactions that are recognised when they come again: at 2,000 requests a second, those of half a minute.
const RECENT: usize = 65_536;

/// Whether a call came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// One server.
pub struct Server {
    view: Arc<ServerView>,
    manner: Manner,
    local: Arc<Local>,
    desk: Desk,
    calls: Calls<Way>,
    registrar: Registrar,
    recent: Recent,
    /// Calls that phones asked for: when, to whom, and what shall happen in them.
    promised: BinaryHeap<Reverse<(Time, u64, Promise)>>,
    /// When the next call of [`Manner::call_back_rate`] is due.
    call_back_at: Time,
    /// Calls to phones so far.
    call_backs: u64,
    books: ServerBooks,
}

/// A wish, in an order that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Promise {
    phone_rings_off: bool,
    hold: Duration,
}

impl Server {
    /// A server that writes at a desk with one socket.
    pub fn new(view: Arc<ServerView>, manner: Manner, desk: Desk, now: Time) -> Self {
        let (transport, sent_by) = (view.transport, view.address);
        let (user, server) = ("server".into(), Some(view.name.clone()));
        Self {
            local: Arc::new(Local { transport, sent_by, rport: false, user, server }),
            desk: desk.over(transport),
            calls: Calls::new(manner.limit),
            registrar: Registrar::new(manner.limit),
            recent: Recent::default(),
            promised: BinaryHeap::new(),
            call_back_at: if manner.call_back_rate > 0.0 { now } else { NEVER },
            call_backs: 0,
            books: ServerBooks::default(),
            manner,
            view,
        }
    }

    /// What it wants to send. Whoever sends it clears it.
    pub fn outgoing(&mut self) -> &mut Outgoing {
        &mut self.desk.outgoing[0]
    }

    /// When [`Server::on_time`] wants to be called next.
    pub fn due(&self) -> Time {
        let promised = self.promised.peek().map_or(NEVER, |Reverse((at, ..))| *at);
        self.calls.due().min(promised).min(self.call_back_at)
    }

    /// Repeats and gives up what is due, and calls phones.
    pub fn on_time(&mut self, now: Time) {
        while let Some(key) = self.calls.next_due(now) {
            self.act(key, now, |held, turn| held.call.on_time(turn));
        }
        while let Some(Reverse((at, phone, promise))) = self.promised.peek().copied()
            && at <= now
        {
            self.promised.pop();
            self.call(phone, promise, now);
        }
        let mut wanted = self.view.take_wanted();
        if self.call_back_at <= now {
            self.call_back_at = self.call_back_at + Duration::from_secs_f64(1.0 / self.manner.call_back_rate);
            wanted += 1;
        }
        for _ in 0..wanted {
            let Some(phone) = self.registrar.next(now) else { break };
            let promise = Promise { phone_rings_off: self.call_backs % 2 == 1, hold: self.manner.hold };
            self.call(phone, promise, now);
        }
        if self.is_mute() {
            self.outgoing().clear();
        }
    }

    /// Brings what other threads see up to date.
    pub fn publish(&self) {
        let counters = &self.view.counters;
        counters.responses.set(self.desk.traffic.responses);
        counters.without_ack.set(self.desk.traffic.without_ack);
        counters.dialogs.set(self.calls.open() as u64);
        counters.registrations.set(self.registrar.len() as u64);
        self.view.publish(&self.books);
    }

    /// Books the calls that have not ended as unfinished: the run is over.
    pub fn close(&mut self) {
        for held in self.calls.all().filter(|held| !held.call.is_over()) {
            self.books.ledger(held.extra).unfinished += 1;
        }
        self.publish();
    }

    /// A datagram came.
    pub fn receive(&mut self, bytes: &[u8], source: SocketAddr, now: Time) {
        if self.is_mute() {
            return;
        }
        let message = match Message::parse(bytes) {
            Ok(message) if message.fault.is_none() => message,
            _ => return self.view.counters.malformed.add(1),
        };
        let Some(key) = call_key(bytes, &message) else { return };
        match message.status() {
            Some(_) if self.is_astray(key, source) => self.view.counters.misdirected.add(1),
            Some(_) => {
                self.view.counters.answers.add(1);
                self.act(key, now, |held, turn| held.call.on_response(bytes, &message, turn));
            }
            None => self.on_request(key, Asked { bytes, message: &message, source }, now),
        }
    }

    /// Connections to these ends broke: what was asked over them will not be answered. The calls themselves go on, over
    /// other connections.
    pub fn disconnected(&mut self, mut ends: Vec<SocketAddr>, now: Time) {
        if ends.is_empty() {
            return;
        }
        ends.sort_unstable();
        let asked = |held: &Held<Way>| held.call.asked().is_some_and(|to| ends.binary_search(&to).is_ok());
        for key in self.calls.open_keys(asked) {
            self.act(key, now, |held, turn| held.call.disconnected(false, turn));
        }
    }

    /// Whether an answer came over another connection than its request went (RFC 3261 §18.2.2).
    fn is_astray(&self, key: u64, source: SocketAddr) -> bool {
        let asked = || self.calls.get(key).and_then(|held| held.call.asked());
        self.view.transport != Transport::Udp && asked().is_some_and(|to| to != source)
    }

    /// Whether the server neither hears nor speaks.
    fn is_mute(&self) -> bool {
        matches!(self.view.behaviour(), Behaviour::Silent | Behaviour::Closed)
    }

    fn on_request(&mut self, key: u64, asked: Asked<'_>, now: Time) {
        let Asked { bytes, message, .. } = asked;
        let (method, counters) = (message.method(), &self.view.counters);
        counters.requests[method_index(method)].add(1);
        let again = !self.recent.note(bytes, message, method);
        if again {
            counters.retransmissions.add(1);
        }
        if self.calls.get(key).is_some_and(|held| held.call.owns(bytes, message)) {
            return self.act(key, now, |held, turn| held.call.on_request(asked, turn));
        }
        let tag = self.tag(key);
        let fresh = message.to_tag(bytes).is_none_or(|to_tag| to_tag == tag);
        match method {
            // To a refusal that nothing was kept of: it has the branch of its INVITE (RFC 3261 §17.1.1.3).
            Method::Ack if self.recent.has(bytes, message, Method::Invite) => {}
            Method::Ack => counters.misdirected.add(1),
            Method::Register => self.on_register(asked, again, now),
            Method::Invite if fresh && !self.calls.contains(key) => self.on_invite(key, asked, now),
            Method::Options if fresh => self.answer(self.asked_status().unwrap_or(200), asked, now),
            Method::Cancel | Method::Bye => self.refuse_misdirected(asked, now),
            _ if fresh => self.answer(200, asked, now),
            _ => self.refuse_misdirected(asked, now),
        }
    }

    fn refuse_misdirected(&mut self, asked: Asked<'_>, now: Time) {
        self.view.counters.misdirected.add(1);
        self.answer(481, asked, now);
    }

    /// The status that the behaviour asks for.
    fn asked_status(&self) -> Option<u16> {
        match self.view.behaviour() {
            Behaviour::Status(status) => Some(status),
            _ => None,
        }
    }

    /// The To tag of answers that nothing is kept of: the same each time (RFC 3261 §8.2.7), and no other server's.
    fn tag(&self, key: u64) -> [u8; 16] {
        tag_text(key ^ hash(self.view.name.as_bytes()))
    }

    /// Answers without remembering anything.
    fn answer(&mut self, status: u16, asked: Asked<'_>, now: Time) {
        self.answer_with(status, &[], asked, now);
    }

    fn answer_with(&mut self, status: u16, extra: &[u8], asked: Asked<'_>, now: Time) {
        let Some(key) = call_key(asked.bytes, asked.message) else { return };
        // A SUBSCRIBE makes a dialog without further memory of it here.
        let dialog = asked.message.method() == Method::Subscribe;
        let response = Response { extra, dialog, ..Response::plain(status, self.tag(key)) };
        self.desk.turn(0, now).answer(&response, asked, &self.local);
    }

    /// A new call.
    fn on_invite(&mut self, key: u64, asked: Asked<'_>, now: Time) {
        if let Some(status) = self.asked_status() {
            return self.answer(status, asked, now);
        }
        if self.view.behaviour() == Behaviour::NoCalls {
            return;
        }
        if self.calls.is_full() {
            return self.answer(503, asked, now);
        }
        let plan = self.plan(key, asked);
        let call = Call::called(asked, Arc::clone(&self.local), plan, &mut self.desk.turn(0, now));
        let Some(mut call) = call else { return self.answer(400, asked, now) };
        call.go_by(|next_hop| self.hop(next_hop, asked.source));
        self.view.counters.new_calls.add(1);
        self.books.incoming.started += 1;
        self.calls.insert(key, call, Way::In);
    }

    /// Where to send what shall go to `next_hop`, of somebody who came from `source`.
    fn hop(&self, next_hop: SocketAddr, source: SocketAddr) -> SocketAddr {
        if self.manner.reuse && next_hop.ip() == source.ip() { source } else { next_hop }
    }

    /// What the server does in a call: its part of the caller's wish, or what its manner asks for.
    fn plan(&self, key: u64, asked: Asked<'_>) -> Plan {
        let manner = &self.manner;
        let (wish, bye_within) = match Wish::read(asked.bytes, asked.message) {
            Some(wish) => (wish, None),
            None => (self.own_wish(key), Some(LONGEST_CALL)),
        };
        let plan = Plan::of(&wish, Side::Callee, &self.desk.timers);
        let plan = Plan {
            trying: manner.trying,
            ring_after: Some(manner.ring_after),
            answer_after: Some(wish.answer_after.unwrap_or(manner.answer_after)),
            bye_within: bye_within.unwrap_or(plan.bye_within),
            ..plan
        };
        match self.view.behaviour() {
            Behaviour::Only100 => Plan { trying: true, ring_after: None, answer_after: None, ..plan },
            _ => plan,
        }
    }

    /// For callers without wishes: by share, from the Call-ID.
    fn own_wish(&self, key: u64) -> Wish {
        let hits = |share: f64, salt: u64| (hash(&(key ^ salt).to_be_bytes()) as f64 / u64::MAX as f64) < share;
        Wish {
            bye: if hits(self.manner.bye_share, 1) { Side::Callee } else { Side::Caller },
            reinvite: hits(self.manner.reinvite_share, 2).then_some(Side::Callee),
            hold: self.manner.hold,
            ..Wish::default()
        }
    }

    /// A phone registers, and may ask to be called.
    fn on_register(&mut self, asked: Asked<'_>, again: bool, now: Time) {
        let registered = match self.registrar.register(asked, now) {
            Ok(registered) => registered,
            Err(status) => return self.answer(status, asked, now),
        };
        self.answer_with(200, &registered.lines, asked, now);
        let wish = Wish::read(asked.bytes, asked.message);
        if let (Some(key), Some(Wish { bye, hold, call_back: Some(after), .. })) = (registered.key, wish)
            && !again
            && self.promised.len() < self.manner.limit
        {
            let promise = Promise { phone_rings_off: bye == Side::Callee, hold };
            self.promised.push(Reverse((now + after, key, promise)));
        }
    }

    /// Calls a phone by the way that it registered.
    fn call(&mut self, phone: u64, promise: Promise, now: Time) {
        let Some(binding) = self.registrar.get(phone, now) else { return };
        if self.calls.is_full() {
            return;
        }
        self.call_backs += 1;
        let id = self.desk.ids.fresh();
        let opening = Opening {
            call_id: format!("{id:016x}@{}", self.view.address.ip()).into_bytes(),
            from: format!("sip:{}@{}", self.view.name, self.view.address),
            tag: id,
            to: binding.aor.clone(),
            target: binding.contact.clone(),
            routes: binding.routes.clone(),
            next_hop: self.hop(binding.next_hop, binding.source),
        };
        let bye = if promise.phone_rings_off { Side::Callee } else { Side::Caller };
        let wish = Wish { bye, hold: promise.hold, ..Wish::default() };
        let plan = Plan::of(&wish, Side::Caller, &self.desk.timers);
        let first = First { method: Method::Invite, meant: now, extra: &wish.line(), body: &sdp(0), expects: None };
        let key = hash(&opening.call_id);
        let call = Call::start(opening, Arc::clone(&self.local), plan, &first, &mut self.desk.turn(0, now));
        self.books.call_backs.started += 1;
        self.calls.insert(key, call, Way::Out);
    }

    /// Lets a call act and books what comes of it.
    fn act(&mut self, key: u64, now: Time, act: impl FnOnce(&mut Held<Way>, &mut Turn<'_>) -> Option<End>) {
        let Self { calls, desk, books, .. } = self;
        let done = calls.with(key, |held| act(held, &mut desk.turn(0, now)).map(|end| (end, held.extra)));
        if let Some((end, way)) = done.flatten() {
            books.ledger(way).note(end);
        }
    }
}

impl ServerBooks {
    fn ledger(&mut self, way: Way) -> &mut super::ledger::Ledger {
        match way {
            Way::In => &mut self.incoming,
            Way::Out => &mut self.call_backs,
        }
    }
}

/// The last transactions, the oldest forgotten first.
#[derive(Debug)]
struct Recent {
    known: Set<u64>,
    order: VecDeque<u64>,
}

impl Default for Recent {
    fn default() -> Self {
        Self { known: Set::with_hasher(hasher()), order: VecDeque::new() }
    }
}

impl Recent {
    /// Notes a request; says whether its transaction is new. One without branch is always new.
    fn note(&mut self, bytes: &[u8], message: &Message, method: Method) -> bool {
        let Some(key) = Self::key(bytes, message, method) else { return true };
        if !self.known.insert(key) {
            return false;
        }
        if self.order.len() == RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(key);
        true
    }

    /// Whether a request of this method with the same branch was noted.
    fn has(&self, bytes: &[u8], message: &Message, method: Method) -> bool {
        Self::key(bytes, message, method).is_some_and(|key| self.known.contains(&key))
    }

    fn key(bytes: &[u8], message: &Message, method: Method) -> Option<u64> {
        let branch = message.via.as_ref()?.branch_id(bytes)?;
        Some(hash(branch).wrapping_add(method_index(method) as u64))
    }
}
