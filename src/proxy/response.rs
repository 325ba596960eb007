//! Responses: our Via on top says which server, which way back; then it comes off (RFC 3261 §16.7, §16.11).

use std::net::SocketAddr;

use crate::config::Breaker;
use crate::sip::name::Name;
use crate::sip::token::{Branch, Direction, SendTime, TokenError, Way};
use crate::sip::{FlowToken, Method, Span, Transport, Via};
use crate::state::Reason;
use crate::state::response_times::Timed;
use crate::state::server::{Circuit, Sign};
use crate::state::snapshot::Server;
use crate::state::stick_table::{Marks, Written};

use super::{Case, Datagram, Hop, Passage, Peer, Received, Verdict, may_send_to, unspecified};

/// Microseconds after which nobody waits for an answer any more, 64*T1 twice: what is older was not sent by this clock.
const LONGEST_WAIT: u64 = 64_000_000;
/// The same for who waits until somebody picks up: Timer C (RFC 3261 §16.6 item 11), once more.
const LONGEST_RING: u64 = 360_000_000;

impl Case<'_> {
    pub(super) fn response(mut self, status: u16) -> Result<Verdict, Reason> {
        let (bytes, message, snapshot) = (self.received.bytes, self.received.message, self.snapshot);
        let Some(via) = &message.via else { return Err(Reason::Unanswerable) };
        let token = via.branch_id(bytes).ok_or(Reason::ForeignResponse)?;
        let call = message.call_id.map(|id| snapshot.keys.call(id.of(bytes)));
        // Without a Call-ID nobody can tell whose it is.
        let forged = if call.is_some() { Reason::ForgedResponse } else { Reason::Unanswerable };
        let (branch, raw) = Branch::read(token, call.unwrap_or_default()).ok_or(Reason::ForeignResponse)?;
        let way = match via.way {
            Some(way) => match Way::open(way.of(bytes), &raw, &snapshot.keys) {
                Ok(way) => Some(way),
                Err(TokenError::Forged) => return Err(forged),
                Err(_) => None,
            },
            None => None,
        };
        // A server that rebuilds Vias from the fields it knows: the next Via is stamped by us and says enough. Then the
        // branch must prove itself; else the way's MAC covers it.
        if way.is_none() && !raw.is_sealed(&snapshot.keys) {
            return Err(forged);
        }
        let None = message.fault else { return Err(Reason::Unanswerable) };
        let next_via = message.next_via.ok_or(Reason::OwnResponse)?;
        let server = snapshot.server(branch.server).ok_or(Reason::GoneServer)?;
        match branch.direction {
            Direction::ToServer if !self.is_from(&snapshot.servers[server]) => return Err(Reason::StrangerResponse),
            Direction::ToServer => self.came_from_server(server),
            Direction::ToClient if self.is_denied() => return Err(Reason::Denied),
            Direction::ToClient if bytes.len() > self.frontend.config.limits.max_message => {
                return Err(Reason::TooLong);
            }
            Direction::ToClient => self.came_from_client(),
        }
        let came_by = snapshot.binds[self.received.bind].frontend as usize;
        let frontend = way.as_ref().and_then(|way| snapshot.frontend(way.frontend)).unwrap_or(came_by);
        let asked = (branch.direction == Direction::ToClient).then_some(server);
        let to = self.way_back(way.as_ref(), next_via, frontend, asked)?;
        if to.datagram().is_none() {
            self.fit_for_stream()?;
        }
        self.take_off(via, next_via);
        let call = call.ok_or(Reason::Unanswerable)?;
        let end = message.end as usize;
        let passage = match branch.direction {
            Direction::ToServer => {
                self.learn(server, way.as_ref(), via.time, call, status);
                self.hide_503(server, status);
                Passage::ResponseToClient {
                    server,
                    frontend,
                    method: self.method,
                    status,
                    transaction: branch.transaction,
                }
            }
            Direction::ToClient => {
                // What a client sends goes to configured servers only.
                if !self.leads_to_server(&to, &snapshot.servers[server], way.is_some()) {
                    return Err(Reason::NoWayBack);
                }
                Passage::ResponseToServer { server, method: self.method, status, transaction: branch.transaction }
            }
        };
        // Whoever hides more in a response than can be taken out of it is not understood by anybody.
        if self.edits.overflowed() {
            return Err(Reason::TooLong);
        }
        self.note(server, branch.direction, call, status);
        Ok(Verdict::Forward { to, end, passage })
    }

    /// What it says about its call, and about how busy its server is.
    #[inline(always)]
    fn note(&mut self, server: usize, direction: Direction, call: u64, status: u16) {
        if self.is_admitted {
            return;
        }
        let snapshot = self.snapshot;
        let owner = &snapshot.servers[server];
        let expire = snapshot.backends[owner.backend as usize].config.pin.expire;
        let (pins, method) = (&self.memory.shared.pins, self.method);
        let written = match direction {
            Direction::ToClient if status >= 300 && method == Method::Invite => {
                pins.refused_by_client(call, owner.id, self.now)
            }
            Direction::ToClient if status >= 300 || !pins.has(call, owner.id, self.now) => Written::default(),
            _ => pins.answered(call, owner.id, method, status, self.now, expire),
        };
        snapshot.count_call(written, server, false);
        if owner.counts_transactions && direction == Direction::ToServer && status >= 200 {
            snapshot.count_transaction(server, false);
        }
    }

    /// Whether it is this server that speaks.
    fn is_from(&self, server: &Server) -> bool {
        let Received { flow, peer, .. } = self.received;
        peer == Some(server.id) || server.sends_from(&flow.remote, flow.connection.is_some())
    }

    /// Whether nothing is taken from who sends it, who is no server.
    fn is_denied(&self) -> bool {
        self.frontend.deny.contains(self.received.flow.remote.ip()) && self.received.server(self.snapshot).is_none()
    }

    /// Whether this is the way to a configured server: to this one, mostly. What is not `sealed` may have been written by the
    /// client, into the server's Via: it is believed where a server is written to be, not at every port of its host.
    fn leads_to_server(&self, to: &Hop, server: &Server, sealed: bool) -> bool {
        let is_server = |remote: &SocketAddr, streams| self.snapshot.server_at(remote, streams).is_some();
        // It may have several hosts, with the one port.
        let is_own =
            |remote: &SocketAddr, streams| remote.port() == server.address.port() && server.sends_from(remote, streams);
        let is_written = |remote: &SocketAddr, streams| {
            is_own(remote, streams) || self.snapshot.server_written_at(remote, streams).is_some()
        };
        match to {
            Hop::Datagram(to) if !sealed => is_written(&to.remote, false),
            Hop::Datagram(to) => is_server(&to.remote, false) || server.address == to.remote,
            Hop::Connection(id) => self.memory.shared.connections.get(*id).is_some_and(|connection| {
                connection.server.is_some()
                    || is_server(&connection.remote, true)
                    || server.address == connection.remote
            }),
            Hop::Server(_) => true,
            Hop::Peer(to) => is_written(&to.remote, true),
        }
    }

    /// Where it goes, from a frontend: the way in our Via, else what the next Via says. `asked`: the server that it answers.
    fn way_back(
        &mut self,
        way: Option<&Way>,
        next_via: Span,
        frontend: usize,
        asked: Option<usize>,
    ) -> Result<Hop, Reason> {
        let (bytes, snapshot) = (self.received.bytes, self.snapshot);
        let ends;
        let (local, remote) = match way.map(|way| &way.flow) {
            Some(FlowToken::Ends { local, remote }) => (local, remote),
            Some(FlowToken::Connection(id)) if self.memory.shared.connections.get(*id).is_some() => {
                return Ok(Hop::Connection(*id));
            }
            _ => {
                let next = Via::parse(bytes, next_via.start as usize, next_via.end as usize).map(|(via, _)| via);
                let next = next.ok_or(Reason::NoWayBack)?;
                if !next.transport.of(bytes).eq_ignore_ascii_case(Transport::Udp.in_via().as_bytes()) {
                    return self.connect_back(&next, frontend, asked);
                }
                let remote = next.response_address(bytes).ok_or(Reason::NoWayBack)?;
                ends = (SocketAddr::new(unspecified(remote), 0), remote);
                (&ends.0, &ends.1)
            }
        };
        if !may_send_to(remote, snapshot) {
            return Err(Reason::BadDestination);
        }
        let bind = snapshot.bind_for(frontend, Transport::Udp, local).ok_or(Reason::NoSocket)?;
        let address = &snapshot.binds[bind].address;
        let local = if snapshot.binds[bind].is_wildcard() { local } else { address };
        Ok(Hop::Datagram(Datagram { bind, local: *local, remote: *remote }))
    }

    /// The connection that the request came by is gone: a new one to where it came from, at the port of sent-by
    /// (RFC 3261 §18.2.2); to a server the one that its requests go by. Nobody else has a certificate that we could ask for,
    /// so there is no such way over TLS.
    #[cold]
    fn connect_back(&mut self, next: &Via, frontend: usize, asked: Option<usize>) -> Result<Hop, Reason> {
        let bytes = self.received.bytes;
        let over = |by: Transport| next.transport.of(bytes).eq_ignore_ascii_case(by.in_via().as_bytes());
        let source = next.response_address(bytes).ok_or(Reason::NoWayBack)?;
        let remote = SocketAddr::new(source.ip(), next.sent_by_port());
        let is_way = |at: &usize| {
            let Server { transport, address, .. } = &self.snapshot.servers[*at];
            let leads_there = match transport {
                Transport::Udp => false,
                // From whichever port it asked; never in clear what came by TLS.
                Transport::Tcp => over(Transport::Tcp) && address.ip() == remote.ip(),
                // Which of its hosts asked does not matter: it is told by its certificate's name.
                Transport::Tls => over(Transport::Tls),
            };
            leads_there && self.frontend.egress(*at).is_some()
        };
        if let Some(server) = asked.filter(is_way) {
            return Ok(Hop::Server(server));
        }
        if !over(Transport::Tcp) {
            return Err(Reason::NoWayBack);
        }
        self.connect_to(remote, frontend)
    }

    /// Over TCP to somebody who is no server: by the connection that leads there, or by a new one.
    pub(super) fn connect_to(&mut self, remote: SocketAddr, frontend: usize) -> Result<Hop, Reason> {
        if !may_send_to(&remote, self.snapshot) {
            return Err(Reason::BadDestination);
        }
        if let Some(id) = self.memory.shared.connections.peer(Transport::Tcp, remote) {
            return Ok(Hop::Connection(id));
        }
        let local = SocketAddr::new(unspecified(remote), 0);
        let bind = self.snapshot.bind_for(frontend, Transport::Tcp, &local).ok_or(Reason::NoSocket)?;
        Ok(Hop::Peer(Peer { id: self.memory.ids.take(), bind, remote }))
    }

    /// Takes our via-parm off: its line, or its part of a line that it shares.
    fn take_off(&mut self, via: &Via, next_via: Span) {
        let line = self.received.message.via_line().filter(|line| next_via.start >= line.end);
        self.edits.replace(line.unwrap_or(Span { start: via.parm.start, end: next_via.start }));
    }

    /// What a server's answer teaches: a 2xx confirms the key's entry in the stick table; a 503 rests the server.
    fn learn(&mut self, server: usize, way: Option<&Way>, time: Option<Span>, call: u64, status: u16) {
        if self.is_admitted {
            return;
        }
        let snapshot = self.snapshot;
        let server = &snapshot.servers[server];
        let backend = &snapshot.backends[server.backend as usize];
        if let (Some((table, stick)), Some(key), 200..300) = (backend.stick(), way.and_then(|way| way.stick), status) {
            let _ = table.confirm(key, server.id, Marks::NONE, self.now, stick.expire);
        }
        self.judge(server, backend.config.breaker.as_ref(), time, call, status);
        if status == 503 {
            self.memory.sign(&server.live, Sign::Said503);
        }
    }

    /// A 503 reaches the client as 500, for a carrier would leave the whole VIP alone (docs/rules.md 18, RFC 3261 §16.7
    /// item 6).
    fn hide_503(&mut self, server: usize, status: u16) {
        let backend = &self.snapshot.backends[self.snapshot.servers[server].backend as usize];
        if status != 503 || backend.config.pass_503 {
            return;
        }
        let line_end = self.received.message.head;
        let start =
            self.received.bytes[..line_end as usize].iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(0);
        self.edits.replace(Span { start: start as u16, end: line_end }).put(b"SIP/2.0 500 Server Internal Error\r\n");
        self.received.message.lines(Name::RetryAfter).for_each(|line| self.edits.cut(line.span));
    }

    /// What the time in our Via tells of its server: how quick it is, and what its breaker should know.
    #[inline(always)]
    fn judge(&mut self, server: &Server, breaker: Option<&Breaker>, time: Option<Span>, call: u64, status: u16) {
        let now = self.now.micros();
        let counters = server.live.counters.of(self.memory.worker);
        let timed = Timed::of(self.method, status);
        if timed.is_none() && breaker.is_none() {
            return;
        }
        counters.trying.add(u64::from(timed == Some(Timed::First)));
        let sent = time.and_then(|time| SendTime::read(time.of(self.received.bytes)));
        let age = sent.map_or(0, |sent| sent.age(now));
        let longest = if timed == Some(Timed::Final) { LONGEST_RING } else { LONGEST_WAIT };
        if sent.is_some_and(|sent| sent.node != self.snapshot.node) || age > longest {
            return;
        }
        if let Some(timed) = timed.filter(|_| sent.is_some()) {
            let times = &counters.response_times;
            times[timed as usize].add(age);
            // Ringing is as quick as somebody's phone; but it is the first answer of a server that says no 100.
            if timed == Timed::Ringing && counters.trying.get() == 0 {
                times[Timed::First as usize].add(age);
            }
        }
        // Of a server that rebuilds Vias from the fields it knows, nobody can say to what it answers; but it answers.
        if let Some(breaker) = breaker.filter(|_| age <= LONGEST_WAIT && sent.is_none_or(|sent| sent.opens)) {
            let left = now.saturating_sub(age);
            if self.method == Method::Invite && left > counters.answered.get() {
                counters.answered.set(left);
            }
            self.feed(server, breaker, call, status);
        }
    }

    /// An answer to what opens something, for a breaker.
    #[inline(never)]
    fn feed(&mut self, server: &Server, breaker: &Breaker, call: u64, status: u16) {
        let counters = server.live.counters.of(self.memory.worker);
        let is_trial = server.state.breaker == Circuit::HalfOpen && server.live.trials.answered(call, status);
        if status < 200 {
            return;
        }
        let begun = server.live.rows_begun.get();
        if counters.failing_since.get() != begun || !breaker.codes.contains(&status) {
            counters.failing_now.set(0);
            counters.failing_since.set(begun);
        }
        if !breaker.codes.contains(&status) {
            return;
        }
        // Until its ACK comes a failure is repeated, among those of others: of a longer row the newest are known.
        let (calls, row) = (&counters.failing_calls, counters.failing_now.get() as usize);
        if calls.iter().take(row).any(|other| other.get() == call) {
            return;
        }
        calls[row % calls.len()].set(call);
        counters.failing.add(1);
        counters.failing_5xx.add(u64::from(status / 100 == 5));
        counters.failing_now.add(1);
        let row = counters.failing_now.get() >= u64::from(breaker.failures);
        if row {
            counters.failing_now.set(0);
            counters.failing_rows.add(1);
        }
        if row || is_trial {
            self.memory.sign(&server.live, Sign::Failing);
        }
    }
}
