//! Responses: our Via on top says which server, which way back; then it comes off (RFC 3261 §16.7, §16.11).

use std::net::SocketAddr;

use crate::config::Breaker;
use crate::sip::lines::Line;
use crate::sip::name::Name;
use crate::sip::token::{Branch, Direction, SendTime, TokenError, Way};
use crate::sip::{Method, Span, Transport, Via};
use crate::state::Reason;
use crate::state::server::{Circuit, Sign};
use crate::state::snapshot::Server;
use crate::state::stick_table::{Marks, Written};

use super::{Case, Hop, Passage, Verdict, may_send_to, unspecified};

/// Microseconds after which nobody waits for an answer any more, 64*T1 twice: what is older was not sent by this clock.
const LONGEST_WAIT: u64 = 64_000_000;

impl Case<'_> {
    pub(super) fn response(mut self, status: u16) -> Result<Verdict, Reason> {
        let (bytes, message, snapshot) = (self.received.bytes, self.received.message, self.snapshot);
        let Some(via) = &message.via else { return Err(Reason::Unanswerable) };
        if bytes.len() > self.frontend.config.limits.max_message {
            return Err(Reason::TooLong);
        }
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
        if message.fault.is_some() {
            return Err(Reason::Unanswerable);
        }
        let next_via = message.next_via.ok_or(Reason::OwnResponse)?;
        let server = snapshot.server(branch.server).ok_or(Reason::GoneServer)?;
        if branch.direction == Direction::ToServer && !snapshot.servers[server].sends_from(&self.received.flow.remote) {
            return Err(Reason::StrangerResponse);
        }
        let to = self.way_back(way.as_ref(), next_via)?;
        self.take_off(via, next_via);
        let call = call.ok_or(Reason::Unanswerable)?;
        let end = message.end as usize;
        let passage = match branch.direction {
            Direction::ToServer => {
                self.learn(server, way.as_ref(), via.time, call, status);
                Passage::ResponseToClient { server, status }
            }
            Direction::ToClient => {
                // What a client sends goes to configured servers only.
                let known = snapshot.server_at(&to.remote).is_some() || snapshot.servers[server].address == to.remote;
                if !known {
                    return Err(Reason::NoWayBack);
                }
                Passage::ResponseToServer { server }
            }
        };
        // Whoever hides more in a response than can be taken out of it is not understood by anybody.
        if self.edits.overflowed() {
            return Err(Reason::TooLong);
        }
        let owner = &snapshot.servers[server];
        let expire = snapshot.backends[owner.backend as usize].config.pin.expire;
        let (pins, method) = (&self.memory.shared.pins, self.method);
        let written = match branch.direction {
            Direction::ToClient if status >= 300 && method == Method::Invite => {
                pins.refused_by_client(call, owner.id, self.now)
            }
            Direction::ToClient if status >= 300 => Written::default(),
            _ => pins.answered(call, owner.id, method, status, self.now, expire),
        };
        snapshot.count_call(written, server, false);
        if owner.counts_transactions && branch.direction == Direction::ToServer && status >= 200 {
            snapshot.count_transaction(server, false);
        }
        Ok(Verdict::Forward { to, end, passage })
    }

    /// Where it goes: the way in our Via, else what the next Via says.
    fn way_back(&self, way: Option<&Way>, next_via: Span) -> Result<Hop, Reason> {
        let (bytes, snapshot) = (self.received.bytes, self.snapshot);
        let came_by = snapshot.binds[self.received.bind].frontend as usize;
        let ends;
        let (frontend, local, remote) = match way {
            Some(way) => (snapshot.frontend(way.frontend).unwrap_or(came_by), &way.local, &way.remote),
            None => {
                let next = Via::parse(bytes, next_via.start as usize, next_via.end as usize).map(|(via, _)| via);
                let remote = next.and_then(|via| via.response_address(bytes)).ok_or(Reason::NoWayBack)?;
                ends = (SocketAddr::new(unspecified(remote), 0), remote);
                (came_by, &ends.0, &ends.1)
            }
        };
        if !may_send_to(remote, snapshot) {
            return Err(Reason::BadDestination);
        }
        let bind = snapshot.bind_for(frontend, Transport::Udp, local).ok_or(Reason::NoSocket)?;
        let address = &snapshot.binds[bind].address;
        let local = if snapshot.binds[bind].is_wildcard() { local } else { address };
        Ok(Hop { bind, local: *local, remote: *remote })
    }

    /// Takes our via-parm off: its line, or its part of a line that it shares.
    fn take_off(&mut self, via: &Via, next_via: Span) {
        let line = self.received.message.via_line;
        let shared = next_via.start < line.end;
        self.edits.replace(if shared { Span { start: via.parm.start, end: next_via.start } } else { line });
    }

    /// What a server's answer teaches: a 2xx confirms the key's entry in the stick table; a 503 rests the server, and
    /// reaches the client as 500, for a carrier would leave the whole VIP alone (docs/rules.md 18, RFC 3261 §16.7 item 6).
    fn learn(&mut self, server: usize, way: Option<&Way>, time: Option<Span>, call: u64, status: u16) {
        let snapshot = self.snapshot;
        let server = &snapshot.servers[server];
        let backend = &snapshot.backends[server.backend as usize];
        if let (Some(table), Some(key), 200..300) = (&backend.stick, way.and_then(|way| way.stick), status) {
            let expire = backend.config.stick.as_ref().map_or(backend.config.pin.expire, |stick| stick.expire);
            let _ = table.confirm(key, server.id, Marks::NONE, self.now, expire);
        }
        self.judge(server, backend.config.breaker.as_ref(), time, call, status);
        if status != 503 {
            return;
        }
        self.memory.sign(&server.live, Sign::Said503);
        if !backend.config.pass_503 {
            let line_end = self.received.message.head;
            let start =
                self.received.bytes[..line_end as usize].iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(0);
            self.edits
                .replace(Span { start: start as u16, end: line_end })
                .put(b"SIP/2.0 500 Server Internal Error\r\n");
            self.cut_lines(Name::RetryAfter);
        }
    }

    /// Cuts every line of a name; those that follow each other in one piece, for pieces are few.
    fn cut_lines(&mut self, name: Name) {
        let message = self.received.message;
        let mut piece = Span::default();
        for Line { span, .. } in message.lines(name) {
            if !piece.is_empty() && piece.end != span.start {
                self.edits.replace(piece);
                piece = Span::default();
            }
            piece = Span { start: if piece.is_empty() { span.start } else { piece.start }, end: span.end };
        }
        if !piece.is_empty() {
            self.edits.replace(piece);
        }
    }

    /// What the time in our Via tells of its server: how quick it is, and what its breaker should know.
    #[inline(always)]
    fn judge(&mut self, server: &Server, breaker: Option<&Breaker>, time: Option<Span>, call: u64, status: u16) {
        let now = self.now.micros();
        let counters = server.live.counters.of(self.memory.worker);
        let invite = self.method == Method::Invite;
        // A final answer to INVITE is as quick as somebody picks up. Ringing is as quick as somebody's phone: it is the
        // first answer of a server that says no 100.
        let first = match status {
            100 => true,
            101..200 => counters.trying.get() == 0,
            _ => !invite,
        };
        if !first && breaker.is_none() {
            return;
        }
        counters.trying.add(u64::from(status == 100));
        let sent = time.and_then(|time| SendTime::read(time.of(self.received.bytes)));
        let age = sent.map_or(0, |sent| sent.age(now));
        if sent.is_some_and(|sent| sent.node != self.snapshot.node) || age > LONGEST_WAIT {
            return;
        }
        if first && sent.is_some() {
            counters.response_times.add(age);
        }
        // Of a server that rebuilds Vias from the fields it knows, nobody can say to what it answers; but it answers.
        if let Some(breaker) = breaker.filter(|_| sent.is_none_or(|sent| sent.opens)) {
            let left = now.saturating_sub(age);
            if invite && left > counters.answered.get() {
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
        if !breaker.codes.contains(&status) {
            return counters.failing_now.set(0);
        }
        // Until its ACK comes a failure is repeated.
        if counters.failing_now.get() > 0 && counters.failing_call.get() == call {
            return;
        }
        counters.failing.add(1);
        counters.failing_now.add(1);
        counters.failing_call.set(call);
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
