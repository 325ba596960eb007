//! All clients of one run: what they start, what they answer, what became of it. No sockets, no clock.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::books::Books;
use super::call::{Call, End};
use super::caller::First;
use super::calls::{Calls, Held};
use super::compose::{Asked, Local, Response, SERVER_HEADER, address_of, sdp};
use super::dialog::{Opening, tag_text};
use super::ids::{call_key, hash, hex};
use super::outgoing::{Desk, Outgoing, Traffic, Turn};
use super::plan::{Mix, Plan, Scenario, Side, Wish};
use crate::sip::{Message, Method, Uri};
use crate::state::Time;
use crate::state::lookup::{Map, hasher};

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Where they send what has no route yet: the balancer.
    pub to: SocketAddr,
    /// The host of their Request-URIs and addresses of record.
    pub domain: String,
    pub mix: Mix,
    /// From the establishment of a call to its BYE.
    pub hold: Duration,
    /// They are behind NAT: private addresses in Via and Contact, and `rport`.
    pub nat: bool,
    /// The size of an INVITE's body, bytes.
    pub body: usize,
    /// From a phone's registration to the call that it asks for.
    pub call_back_after: Duration,
    /// The most calls at a time, ended ones that are still remembered included.
    pub limit: usize,
}

/// Addresses that were sent to and may therefore answer; beyond it new ones are strangers.
const KNOWN: usize = 1024;

/// What is kept beside a call.
#[derive(Debug)]
struct Client {
    /// The position of its socket, or of its connection.
    port: usize,
    /// Whose turn that position had: calls that have a connection each use positions one after the other.
    tenant: u32,
    /// `None` for a call that came to a phone.
    scenario: Option<Scenario>,
    /// The server that answered its first request, in the books' list.
    server: Option<usize>,
    /// For a phone its number; for a call that came to one, that one's.
    phone: Option<u64>,
}

/// A socket, or a connection.
#[derive(Clone, Copy, Debug)]
struct Port {
    address: SocketAddr,
    /// Grows with every connection that the position is given to.
    tenant: u32,
}

/// All clients.
pub struct Crowd {
    habits: Habits,
    ports: Vec<Port>,
    calls: Calls<Client>,
    /// The registrations of phones by the number in their name.
    phones: Map<u64, u64>,
    known: Vec<SocketAddr>,
    desk: Desk,
    body: Vec<u8>,
    started: u64,
    pub books: Books,
}

/// The user part of phones, before their number.
const PHONE: &str = "phone-";

impl Crowd {
    /// Clients on sockets with these addresses, who write at a desk with as many sockets.
    pub fn new(habits: Habits, ports: Vec<SocketAddr>, desk: Desk) -> Self {
        Self {
            calls: Calls::new(habits.limit),
            phones: Map::with_hasher(hasher()),
            known: Vec::new(),
            desk,
            ports: ports.into_iter().map(|address| Port { address, tenant: 0 }).collect(),
            body: sdp(habits.body),
            started: 0,
            books: Books::default(),
            habits,
        }
    }

    /// Calls that have not ended.
    pub fn open(&self) -> usize {
        self.calls.open()
    }

    /// How many starts there were, those that did not happen included.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// When [`Crowd::on_time`] wants to be called next.
    pub fn due(&self) -> Time {
        self.calls.due()
    }

    /// What a socket shall send. Whoever sends it clears it; [`Crowd::remember`] comes before.
    pub fn outgoing(&mut self, port: usize) -> &mut Outgoing {
        &mut self.desk.outgoing[port]
    }

    /// The sockets that something was written for since it was asked last, or may have been.
    pub fn take_talkative(&mut self) -> Vec<usize> {
        self.desk.take_talkative()
    }

    /// Notes where a socket is about to send: answers may come from there.
    pub fn remember(&mut self, port: usize) {
        for (_, to) in self.desk.outgoing[port].datagrams() {
            if !self.known.contains(to) && self.known.len() < KNOWN {
                self.known.push(*to);
            }
        }
    }

    /// Gives a position to a new connection from this address, whose calls are others than those of the one before.
    pub fn seat(&mut self, port: usize, address: SocketAddr) {
        while self.ports.len() <= port {
            self.ports.push(Port { address, tenant: 0 });
            self.desk.outgoing.push(Outgoing::default());
        }
        self.ports[port] = Port { address, tenant: self.ports[port].tenant.wrapping_add(1) };
        self.desk.outgoing[port].clear();
    }

    /// The connection of a position was opened anew, from this address; its calls go on.
    pub fn move_to(&mut self, port: usize, address: SocketAddr) {
        self.ports[port].address = address;
    }

    /// Starts the next client on the next socket, meant to have started at `meant`.
    pub fn start(&mut self, meant: Time, now: Time) {
        let port = (self.started % self.ports.len() as u64) as usize;
        self.start_at(port, meant, now);
    }

    /// Counts a start that cannot happen.
    pub fn skip(&mut self) {
        self.started += 1;
        self.books.not_started += 1;
    }

    /// Starts the next client on this socket or connection; gives the key of its call.
    pub fn start_at(&mut self, port: usize, meant: Time, now: Time) -> Option<u64> {
        if self.calls.is_full() {
            self.skip();
            return None;
        }
        let number = self.started;
        self.started += 1;
        let scenario = self.habits.mix.pick(number);
        let id = self.desk.ids.fresh();
        let local = Arc::new(self.local(scenario, number, id, port));
        let (opening, plan) = (self.opening(scenario, id, &local), self.plan(scenario, number));
        let (method, extra, body) = self.request(scenario, number);
        let expects = matches!(scenario, Scenario::Phone).then(|| self.phone_patience());
        let key = hash(&opening.call_id);
        let first = First { method, meant, extra: &extra, body: if body { &self.body } else { &[] }, expects };
        let mut turn = self.desk.turn(port, now);
        let call = Call::start(opening, local, plan, &first, &mut turn);
        self.books.scenarios[scenario as usize].started += 1;
        let phone = (scenario == Scenario::Phone).then_some(id);
        let tenant = self.ports[port].tenant;
        self.calls.insert(key, call, Client { port, tenant, scenario: Some(scenario), server: None, phone });
        if let Some(number) = phone {
            self.phones.insert(number, key);
        }
        Some(key)
    }

    /// Whether a call has ended, that to a phone which asked for one included.
    pub fn is_over(&self, key: u64) -> bool {
        self.calls.get(key).is_none_or(|held| held.call.is_over())
    }

    /// Connections, in the order of their positions, broke: what is asked over them will not be answered. Without others in their place (`for_good`) all of
    /// their calls end.
    pub fn disconnected(&mut self, ports: &[usize], for_good: bool, now: Time) {
        let at_home = |held: &Held<Client>| self.is_at_home(&held.extra, held.extra.port);
        for key in self.calls.open_keys(|held| ports.binary_search(&held.extra.port).is_ok() && at_home(held)) {
            self.act(key, now, |held, turn| held.call.disconnected(for_good, turn));
        }
    }

    fn is_at_home(&self, client: &Client, port: usize) -> bool {
        client.port == port && client.tenant == self.ports[port].tenant
    }

    /// Who the client says it is.
    fn local(&self, scenario: Scenario, number: u64, id: u64, port: usize) -> Local {
        let sent_by = match self.habits.nat {
            false => self.ports[port].address,
            true => {
                let host = Ipv4Addr::new(192, 168, (number / 254 % 256) as u8, (number % 254) as u8 + 1);
                SocketAddr::from((host, crate::sip::DEFAULT_PORT))
            }
        };
        let prefix = if scenario == Scenario::Phone { PHONE } else { "load-" };
        let (transport, user) = (self.desk.transport, format!("{prefix}{id:016x}"));
        Local { transport, sent_by, rport: self.habits.nat, user, server: None }
    }

    fn opening(&self, scenario: Scenario, id: u64, local: &Local) -> Opening {
        let domain = &self.habits.domain;
        let own = format!("sip:{}@{domain}", local.user);
        let service = format!("sip:service@{domain}");
        let registers = matches!(scenario, Scenario::Register | Scenario::Phone);
        let (to, target) = if registers { (own.clone(), format!("sip:{domain}")) } else { (service.clone(), service) };
        Opening {
            call_id: format!("{id:016x}@{}", local.sent_by.ip()).into_bytes(),
            from: own,
            tag: id,
            to,
            target: target.into_bytes(),
            routes: Vec::new(),
            next_hop: self.habits.to,
        }
    }

    fn plan(&self, scenario: Scenario, number: u64) -> Plan {
        let wish = scenario.wish(self.habits.hold, number);
        let plan = Plan::of(&wish, Side::Caller, &self.desk.timers);
        Plan { cancel: scenario == Scenario::Cancel, ..plan }
    }

    /// The method of the first request, its further headers, and whether it has a body.
    fn request(&self, scenario: Scenario, number: u64) -> (Method, Vec<u8>, bool) {
        let mut wish = scenario.wish(self.habits.hold, number);
        match scenario {
            Scenario::Options => (Method::Options, Vec::new(), false),
            Scenario::Message => (Method::Message, Vec::new(), false),
            Scenario::Register => (Method::Register, b"Expires: 600\r\n".to_vec(), false),
            Scenario::Phone => {
                wish.call_back = Some(self.habits.call_back_after);
                (Method::Register, [b"Expires: 600\r\n".to_vec(), wish.line()].concat(), false)
            }
            Scenario::Cancel => {
                // Rings for longer than we wait for what becomes of the CANCEL, which may be sent as late as an answer comes.
                wish.answer_after = Some(self.desk.timers.give_up() * 2);
                (Method::Invite, wish.line(), true)
            }
            Scenario::Call | Scenario::ServerBye | Scenario::Reinvite | Scenario::ServerReinvite => {
                (Method::Invite, wish.line(), true)
            }
        }
    }

    /// How long a registered phone waits until the call to it is over: everything in it may take its full time.
    fn phone_patience(&self) -> Duration {
        self.habits.call_back_after + self.habits.hold + self.desk.timers.give_up() * 4
    }

    /// Repeats and gives up what is due.
    pub fn on_time(&mut self, now: Time) {
        while let Some(key) = self.calls.next_due(now) {
            self.act(key, now, |held, turn| held.call.on_time(turn));
        }
    }

    /// A datagram came to a socket.
    pub fn receive(&mut self, port: usize, bytes: &[u8], source: SocketAddr, now: Time) {
        let message = match Message::parse(bytes) {
            Ok(message) if message.fault.is_none() => message,
            _ => return self.books.malformed += 1,
        };
        if !self.known.contains(&source) {
            self.books.foreign += 1;
            return;
        }
        self.desk.traffic.received += 1;
        let Some(key) = call_key(bytes, &message) else { return };
        let at_home = self.calls.get(key).is_none_or(|held| self.is_at_home(&held.extra, port));
        match message.status() {
            Some(_) if !at_home => self.books.misdirected += 1,
            Some(status) => self.on_response(key, status, bytes, &message, now),
            None => self.on_request(key, port, at_home, Asked { bytes, message: &message, source }, now),
        }
    }

    fn on_response(&mut self, key: u64, status: u16, bytes: &[u8], message: &Message, now: Time) {
        if message.next_via.is_some() {
            self.books.malformed += 1;
        } else if !self.calls.contains(key) {
            self.books.stray += 1;
        } else {
            if status >= 200 {
                self.note_server(key, bytes, message);
            }
            self.act(key, now, |held, turn| held.call.on_response(bytes, message, turn));
        }
    }

    /// Books which server answered, or that it is another one than before.
    fn note_server(&mut self, key: u64, bytes: &[u8], message: &Message) {
        let Some(line) = message.lines_named(bytes, SERVER_HEADER).next() else { return };
        let Ok(name) = std::str::from_utf8(line.value(bytes).of(bytes)) else { return };
        let server = self.books.server(name);
        let before = self.calls.with(key, |held| held.extra.server.replace(server)).flatten();
        match before {
            None => self.books.servers[server].1 += 1,
            Some(before) if before != server => self.books.moved += 1,
            Some(_) => {}
        }
    }

    fn on_request(&mut self, key: u64, port: usize, at_home: bool, asked: Asked<'_>, now: Time) {
        let owned = self.calls.get(key).map(|held| at_home && held.call.owns(asked.bytes, asked.message));
        if owned == Some(true) {
            return self.act(key, now, |held, turn| held.call.on_request(asked, turn));
        }
        let fresh = owned.is_none() && asked.message.to_tag(asked.bytes).is_none();
        match asked.message.method() {
            // The ACK to an answer that nothing was kept of.
            Method::Ack => {}
            Method::Invite if fresh => self.on_invite(key, port, asked, now),
            Method::Cancel => self.refuse(481, port, asked, now),
            _ if fresh => self.refuse(200, port, asked, now),
            _ => {
                self.books.misdirected += 1;
                self.refuse(481, port, asked, now);
            }
        }
    }

    /// A call to a phone.
    fn on_invite(&mut self, key: u64, port: usize, asked: Asked<'_>, now: Time) {
        let Some(number) = phone_number(asked) else { return self.refuse(404, port, asked, now) };
        if self.calls.is_full() {
            return self.refuse(503, port, asked, now);
        }
        let phone = self.phones.get(&number).and_then(|key| self.calls.get(*key));
        if phone.is_some_and(|phone| !self.is_at_home(&phone.extra, port)) {
            // It reached a socket, but another phone's.
            self.books.misdirected += 1;
        }
        let wish = Wish::read(asked.bytes, asked.message).unwrap_or_default();
        let plan = Plan::of(&wish, Side::Callee, &self.desk.timers);
        let sent_by = asked.message.request_uri().and_then(|uri| Uri::parse(asked.bytes, uri));
        let sent_by = sent_by.and_then(|uri| address_of(asked.bytes, &uri));
        let local = Arc::new(Local {
            transport: self.desk.transport,
            sent_by: sent_by.unwrap_or(self.ports[port].address),
            rport: self.habits.nat,
            user: format!("{PHONE}{number:016x}"),
            server: None,
        });
        let mut turn = self.desk.turn(port, now);
        if let Some(call) = Call::called(asked, local, plan, &mut turn) {
            self.books.incoming.started += 1;
            let tenant = self.ports[port].tenant;
            self.calls.insert(key, call, Client { port, tenant, scenario: None, server: None, phone: Some(number) });
        }
    }

    /// Answers without remembering anything.
    fn refuse(&mut self, status: u16, port: usize, asked: Asked<'_>, now: Time) {
        let (transport, sent_by) = (self.desk.transport, self.ports[port].address);
        let local = Local { transport, sent_by, rport: false, user: "load".into(), server: None };
        let tag = asked.message.call_id.map_or(0, |call_id| hash(call_id.of(asked.bytes)));
        let mut turn = self.desk.turn(port, now);
        turn.answer(&Response::plain(status, tag_text(tag)), asked, &local);
    }

    /// Lets a call act and books what comes of it.
    fn act(&mut self, key: u64, now: Time, act: impl FnOnce(&mut Held<Client>, &mut Turn<'_>) -> Option<End>) {
        let Self { calls, desk, books, .. } = self;
        let done = calls.with(key, |held| {
            let end = act(held, &mut desk.turn(held.extra.port, now));
            books.time(&mut held.call);
            end.map(|end| (end, held.extra.scenario, held.extra.phone))
        });
        if let Some((end, scenario, phone)) = done.flatten() {
            self.book(end, scenario, phone, now);
        }
    }

    /// Books an end. The call that came to a phone is what the phone had registered for, so that ends too.
    fn book(&mut self, end: End, scenario: Option<Scenario>, phone: Option<u64>, now: Time) {
        match scenario {
            Some(scenario) => self.books.scenarios[scenario as usize].note(end),
            None => self.books.incoming.note(end),
        }
        let Some(key) = phone.and_then(|number| self.phones.remove(&number)) else { return };
        let Self { calls, desk, books, .. } = self;
        let fulfilled = calls.with(key, |held| held.call.fulfil(end, &mut desk.turn(held.extra.port, now)));
        if let Some(end) = fulfilled.flatten() {
            books.scenarios[Scenario::Phone as usize].note(end);
        }
    }

    /// Books everything that has not ended as unfinished: the run is over.
    pub fn close(&mut self) {
        for held in self.calls.all().filter(|held| !held.call.is_over()) {
            match held.extra.scenario {
                Some(scenario) => self.books.scenarios[scenario as usize].unfinished += 1,
                None => self.books.incoming.unfinished += 1,
            }
        }
    }

    /// Messages sent and received so far.
    pub fn traffic(&self) -> Traffic {
        self.desk.traffic
    }
}

/// The number of the phone that an INVITE is for.
fn phone_number(asked: Asked<'_>) -> Option<u64> {
    let uri = Uri::parse(asked.bytes, asked.message.request_uri()?)?;
    hex(uri.user?.of(asked.bytes).strip_prefix(PHONE.as_bytes())?)
}
