//! Which server a client's request goes to. The first that applies: the token in its Route, the pin of its call, the
//! stick table of its backend, the balance.

use crate::balance::Balance;
use crate::config::{Stick, StickOn};
use crate::sip::header::{Address, trim};
use crate::sip::name::Name;
use crate::sip::text::parse_ip;
use crate::sip::token::NameHash;
use crate::sip::{Method, Span, Uri};
use crate::state::server::{Circuit, ServerState};
use crate::state::snapshot::Backend;
use crate::state::stick_table::{Marks, Seen, StickTable, Stuck};
use crate::state::tap::Why;
use crate::state::{Reason, Snapshot};
use std::net::IpAddr;

use super::request::Identity;
use super::route::Routed;
use super::{Case, Memory};

/// A server for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub server: usize,
    /// Whether it opens something and nothing but the balance or the stick table spoke for this server.
    pub balanced: bool,
    /// The key of its entry in the backend's stick table.
    pub stick: Option<u64>,
    pub why: Why,
    /// What was seen of the call's pin, if it was looked at.
    pub pin: Option<Seen>,
    /// The call is counted at the server already, for it has `max_calls`.
    pub reserved: bool,
}

impl<'a> Case<'a> {
    /// # Errors
    /// [`Reason::RateLimited`] for what opens something too often, [`Reason::NoServer`] where nobody is usable,
    /// [`Reason::ServersFull`] where all who are have their limit.
    pub(super) fn choose(
        &mut self,
        identity: &Identity<'_>,
        routed: &Routed,
        failed: Option<usize>,
    ) -> Result<Choice, Reason> {
        // It is a dialog's, and what opens something is in none: nobody chooses a server by a token, nor goes past limits; and
        // a CANCEL goes where its INVITE went. BYE and ACK have no To tag where the other end never sent one (RFC 3261 §12.1.1).
        let in_dialog = self.in_dialog || matches!(self.method, Method::Ack | Method::Bye);
        let token = routed.token.filter(|_| in_dialog);
        let following = |server, why, pin| Choice { server, balanced: false, stick: None, why, pin, reserved: false };
        if let Some(server) = token.and_then(|token| self.keeping(token.server, true)).filter(|_| failed.is_none()) {
            if let Some(pin) = self.memory.shared.pins.find(identity.call, self.now) {
                self.touch_pin(pin);
            }
            return Ok(following(server, Why::Route, None));
        }
        let (pin, seen) = self.memory.shared.pins.look(identity.call, self.now);
        let confirmed = pin.is_some_and(|pin| pin.confirmed);
        let belongs = token.is_some() || pin.is_some() && !self.opens();
        if !belongs && failed.is_none() && !self.is_admitted {
            self.admit_rate()?;
        }
        // It is its server's alone: another's 481 would end a dialog that a 503 leaves as it is.
        if failed.is_some() && token.is_some() && self.in_dialog {
            return Err(Reason::NoServer);
        }
        let kept = pin.and_then(|pin| Some((pin, self.keeping(pin.server, pin.confirmed)?)));
        if let Some((pin, server)) = kept.filter(|(_, server)| failed != Some(*server)) {
            self.touch_pin(pin);
            return Ok(following(server, Why::Call, Some(seen)));
        }
        if failed.is_some() && (confirmed || !self.opens()) {
            return Err(Reason::NoServer);
        }
        let other_call = self.other_call();
        if let Some(server) =
            other_call.and_then(|call| self.pinned_elsewhere(call)).filter(|server| failed != Some(*server))
        {
            return Ok(following(server, Why::Replaces, Some(seen)));
        }
        let key = other_call.unwrap_or(identity.call);
        let choice = Choice { pin: Some(seen), ..self.balance(key, identity.call, failed)? };
        if let Some(pin) = pin {
            let server = &self.snapshot.servers[choice.server];
            let expire = self.snapshot.backends[server.backend as usize].config.pin.expire;
            let moved = self.memory.shared.pins.moved(identity.call, pin, server.id, self.now, expire);
            self.snapshot.count_call(moved, choice.server, false);
            // What was seen of it is no more.
            return Ok(Choice { pin: None, ..choice });
        }
        Ok(choice)
    }

    /// The position of a server that keeps what is its own.
    fn keeping(&self, id: NameHash, confirmed: bool) -> Option<usize> {
        let at = self.snapshot.server(id)?;
        let server = &self.snapshot.servers[at];
        self.snapshot.backends[server.backend as usize].is_kept(server, confirmed).then_some(at)
    }

    /// What opens something pins its call to the server. `reserved`: it was counted there already.
    #[inline]
    pub(super) fn open_pin(&self, call: u64, seen: Option<Seen>, server: usize, by_server: bool, reserved: bool) {
        if !self.opens() {
            return;
        }
        let Memory { shared, worker, .. } = &*self.memory;
        let (id, seen) = (self.snapshot.servers[server].id, seen.unwrap_or_else(|| shared.pins.look(call, self.now).1));
        let opened = shared.pins.opened_seen(call, seen, id, self.method, self.now, by_server);
        if opened.evicted {
            shared.workers.of(*worker).pins_evicted.add(1);
        }
        self.snapshot.count_call(opened, server, reserved);
    }

    /// A call ends here, before its server heard of it.
    pub(super) fn end_call(&self, call: u64, server: usize) {
        let failed = &self.snapshot.servers[server];
        let (pins, expire) =
            (&self.memory.shared.pins, self.snapshot.backends[failed.backend as usize].config.pin.expire);
        let written = pins.answered(call, failed.id, self.method, 503, self.now, expire);
        self.snapshot.count_call(written, server, false);
    }

    /// Who rings off has rung off, whatever is answered and whether anybody hears it (RFC 3261 §15.1.1): its call counts no
    /// more, as where a dialog is not known (481).
    pub(super) fn hang_up(&self, call: u64) {
        let pins = &self.memory.shared.pins;
        let Some(pin) = pins.find(call, self.now) else { return };
        let Some(server) = self.snapshot.server(pin.server) else { return };
        let backend = &self.snapshot.backends[self.snapshot.servers[server].backend as usize];
        let written = pins.answered(call, pin.server, Method::Bye, 481, self.now, backend.config.pin.expire);
        self.snapshot.count_call(written, server, false);
    }

    /// The call is in use: its pin lives on.
    pub(super) fn touch_pin(&self, pin: Stuck) {
        if pin.confirmed
            && let Some(at) = self.snapshot.server(pin.server)
        {
            let backend = &self.snapshot.backends[self.snapshot.servers[at].backend as usize];
            self.memory.shared.pins.used(pin, self.now, backend.config.pin.expire);
        }
    }

    /// The call that Replaces, Join or Target-Dialog names: it is the same server's business (RFC 3891 §3).
    fn other_call(&self) -> Option<u64> {
        let (bytes, message) = (self.received.bytes, self.received.message);
        if !message.has(Name::OtherCall) {
            return None;
        }
        let line = message.lines(Name::OtherCall).next()?;
        let (start, end) = (line.colon_end as usize, line.span.end as usize);
        let end = memchr::memchr2(b';', b',', &bytes[start..end]).map_or(end, |n| start + n);
        Some(self.snapshot.keys.call(trim(bytes, start, end).of(bytes)))
    }

    fn pinned_elsewhere(&self, call: u64) -> Option<usize> {
        let pin = self.memory.shared.pins.find(call, self.now)?;
        // It opens a call of its own: a dead server does not get it, whatever it keeps.
        self.keeping(pin.server, false)
    }

    /// The backend by the frontend's rules. ACK and CANCEL count as the INVITE that they follow.
    fn backend(&self) -> &'a Backend {
        let (bytes, message, frontend) = (self.received.bytes, self.received.message, &self.frontend.config);
        let position = match frontend.routes.is_empty() {
            true => frontend.backend,
            false => {
                let method = match message.start {
                    _ if matches!(self.method, Method::Ack | Method::Cancel) => &b"INVITE"[..],
                    crate::sip::StartLine::Request { name, .. } => name.of(bytes),
                    crate::sip::StartLine::Response { .. } => &[],
                };
                let uri = message.request_uri().and_then(|uri| Uri::parse(bytes, uri));
                let host = uri.map_or(&[][..], |uri| uri.host.of(bytes));
                let ip = self.received.flow.remote.ip();
                let applies = |route: &&crate::config::Route| {
                    (route.methods.is_empty() || route.methods.iter().any(|m| m.as_bytes() == method))
                        && (route.clients.is_empty() || route.clients.iter().any(|net| net.contains(&ip)))
                        && (route.hosts.is_empty() || route.hosts.iter().any(|h| is_same_host(h.as_bytes(), host)))
                };
                frontend.routes.iter().find(applies).map_or(frontend.backend, |route| route.backend)
            }
        };
        &self.snapshot.backends[position]
    }

    /// The stick table's server, else the balance's.
    fn balance(&mut self, key: u64, call: u64, failed: Option<usize>) -> Result<Choice, Reason> {
        let backend = self.backend();
        let stick = backend.stick().and_then(|(table, stick)| Some((table, self.stick_key(stick)?, stick.expire)));
        let key = stick.map_or(key, |(_, key, _)| key);
        let stuck = stick.and_then(|(table, key, _)| self.stuck(table, key));
        let (server, why) = match stuck.filter(|server| failed != Some(*server) && self.takes(*server)) {
            Some(server) => (server, Why::Stick),
            None => (self.balanced(backend, key, call, failed)?, Why::Balance),
        };
        let why = if failed.is_some() { Why::Failover } else { why };
        let chosen = &self.snapshot.servers[server];
        if let Some((table, key, expire)) = stick.filter(|_| self.opens()) {
            let _ = table.write(key, chosen.id, Marks::NONE, self.now, expire);
        }
        let reserved = self.opens_call() && chosen.max_calls > 0;
        Ok(Choice { server, balanced: self.opens(), stick: stick.map(|(_, key, _)| key), why, pin: None, reserved })
    }

    /// Whether it opens what limits are for and `leastconn` counts.
    fn opens_call(&self) -> bool {
        self.method == Method::Invite && self.opens()
    }

    /// Whether a server takes this request: a new call only within its limits.
    fn takes(&self, server: usize) -> bool {
        !self.opens_call() || self.snapshot.take_call(server, self.now)
    }

    /// The server that a key sticks to: if it takes new calls, or this is a request of a call that it already has.
    fn stuck(&self, table: &StickTable, key: u64) -> Option<usize> {
        let stuck = table.find(key, self.now)?;
        let at = self.keeping(stuck.server, stuck.confirmed)?;
        let server = &self.snapshot.servers[at];
        (!self.opens() || self.snapshot.backends[usize::from(server.backend)].is_sent_new(server)).then_some(at)
    }

    /// What the balance says of a key; another server than the one that failed, that is full, or whose breaker has enough
    /// trial calls. What opens nothing and has lost its pin goes where a hash says: there is no better guess, and it is
    /// the same each time.
    fn balanced(&mut self, backend: &Backend, key: u64, call: u64, failed: Option<usize>) -> Result<usize, Reason> {
        let snapshot = self.snapshot;
        let prefer = backend.preferred_region(self.received.flow.remote.ip());
        let position = |id| snapshot.server(NameHash(id));
        if !self.opens() {
            return backend.balance.pick(key, prefer).and_then(position).ok_or(Reason::NoServer);
        }
        let is_call = self.opens_call();
        if let Some(settled) = &backend.settled
            && let Some(first) = backend.balance.first(key, prefer, is_call).and_then(position)
            && failed != Some(first)
        {
            if !self.lets_through(first, call) {
                snapshot.servers[first].live.counters.of(self.memory.worker).rejected.add(1);
            } else if self.takes(first) {
                return Ok(first);
            }
            self.take_trial_back();
            return self.settled(settled, key, prefer, failed);
        }
        self.settled(backend.settled(), key, prefer, failed)
    }

    /// The same among those whose breakers are closed.
    fn settled(
        &self,
        balance: &Balance,
        key: u64,
        prefer: Option<u32>,
        failed: Option<usize>,
    ) -> Result<usize, Reason> {
        let mut offered = None;
        let takes = |id| {
            offered = self.snapshot.server(NameHash(id));
            offered.is_some_and(|server| failed != Some(server) && self.takes(server))
        };
        match balance.find(key, prefer, self.opens_call(), takes).and(offered) {
            Some(server) => Ok(server),
            None if failed.is_none() && !balance.is_empty() => Err(Reason::ServersFull),
            None => self.spare(failed).ok_or(Reason::NoServer),
        }
    }

    /// A backup of a server that failed, or one that is only in doubt, where that was the last of the others and no snapshot
    /// says so yet: over TCP nobody repeats a request.
    #[cold]
    #[inline(never)]
    fn spare(&self, failed: Option<usize>) -> Option<usize> {
        let failed = failed?;
        let backend = &self.snapshot.backends[usize::from(self.snapshot.servers[failed].backend)];
        let first = |is_wanted: &dyn Fn(bool, ServerState) -> bool| {
            let known = backend.config.servers.iter().filter_map(|of| Some((of, self.snapshot.server(of.id)?)));
            let mut wanted = known.filter(|(of, at)| {
                let state = self.snapshot.servers[*at].state;
                is_wanted(of.backup, state) && state.weight.unwrap_or(of.weight) > 0
            });
            wanted.find(|(_, at)| failed != *at && self.takes(*at)).map(|(_, at)| at)
        };
        first(&|backup, state| backup && state.takes_new()).or_else(|| first(&|_, state| state.is_doubtful()))
    }

    /// The request is no trial call after all.
    pub(super) fn take_trial_back(&mut self) {
        if let Some((server, place)) = self.trial.take() {
            self.snapshot.servers[server].live.trials.take_back(place);
        }
    }

    /// Whether a server's breaker lets this request through, which opens something: where it is half-open, as a trial call.
    /// Of what is no INVITE silence tells nothing: over UDP it gets no 100 in its first seconds, and where nobody answers no
    /// 408 (RFC 4320 §4).
    #[inline]
    fn lets_through(&mut self, at: usize, call: u64) -> bool {
        let server = &self.snapshot.servers[at];
        if server.state.breaker != Circuit::HalfOpen {
            return true;
        }
        let place = server.live.trials.let_through(call, self.opens_call(), self.now);
        self.trial = place.map(|place| (at, place));
        self.trial.is_some()
    }

    /// The key that a backend's calls stick by; the Call-ID where the request has none of it.
    fn stick_key(&self, stick: &Stick) -> Option<u64> {
        let (bytes, message) = (self.received.bytes, self.received.message);
        let user = |party: Option<Span>| -> Option<&[u8]> {
            let uri = Address::parse(bytes, party?)?.uri;
            tel_number(uri.of(bytes)).or_else(|| Some(Uri::parse(bytes, uri)?.user?.of(bytes)))
        };
        let text = match &stick.on {
            StickOn::Source { v6_prefix } => {
                return Some(self.snapshot.keys.source(masked(self.received.flow.remote.ip(), *v6_prefix)));
            }
            StickOn::FromUser => user(message.from(bytes))?,
            StickOn::ToUser => user(message.to(bytes))?,
            StickOn::Header(name) => {
                let line = message.lines_named(bytes, name.as_bytes()).next()?;
                line.value(bytes).of(bytes)
            }
        };
        (!text.is_empty()).then(|| self.snapshot.keys.call(text))
    }
}

/// The number of a `tel` URI, which has no host (RFC 3966 §3): it is the user of a SIP URI for it (RFC 3261 §19.1.6).
fn tel_number(uri: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = uri.split_at_checked(4)?;
    let number = rest.split(|byte| *byte == b';').next()?;
    scheme.eq_ignore_ascii_case(b"tel:").then_some(number)
}

/// The key of what somebody typed: an address, a user, a header's value, whatever this backend's calls stick by.
pub fn stick_key_of(stick: &Stick, typed: &str, snapshot: &Snapshot) -> Option<u64> {
    match &stick.on {
        StickOn::Source { v6_prefix } => Some(snapshot.keys.source(masked(typed.parse().ok()?, *v6_prefix))),
        _ => Some(snapshot.keys.call(typed.as_bytes())),
    }
}

/// An IPv6 address without what is behind the prefix; IPv4 as it is.
pub(super) fn masked(ip: IpAddr, v6_prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V6(ip) if v6_prefix < 128 => IpAddr::from((u128::from(ip) & !(u128::MAX >> v6_prefix)).to_be_bytes()),
        ip => ip,
    }
}

/// Where a new call of this key and source goes, as `trunkline route` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub server: usize,
    /// The region that the weights alone give the key.
    pub by_weight: Option<u32>,
    /// The region that the source prefers.
    pub preferred: Option<u32>,
    /// Among whom the algorithm chooses, by position. For `hash` it is decided; else it hangs on the calls before it.
    pub candidates: Vec<usize>,
}

/// Chooses a server for a key as a request without token, pin and entry in a stick table would. The server is the one for
/// the first call of all.
pub fn explain(snapshot: &Snapshot, backend: usize, key: u64, source: Option<IpAddr>) -> Option<Explanation> {
    let backend = &snapshot.backends[backend];
    let preferred = source.and_then(|ip| backend.preferred_region(ip));
    let position = |id| snapshot.server(NameHash(id));
    let server = backend.balance.find(key, preferred, true, |_| true).and_then(position)?;
    let candidates = backend.balance.candidates(key, preferred).into_iter().filter_map(position).collect();
    Some(Explanation { server, by_weight: backend.balance.region(key), preferred, candidates })
}

/// Whether a host of the configuration is the one in a URI. An IPv6 address has many texts.
fn is_same_host(wanted: &[u8], host: &[u8]) -> bool {
    let same_ip = || parse_ip(wanted).is_some_and(|ip| parse_ip(host) == Some(ip));
    wanted.eq_ignore_ascii_case(host) || host.starts_with(b"[") && same_ip()
}
