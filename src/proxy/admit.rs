//! Cheap refusals first: who may not speak at all, and what ends here (RFC 3261 §16.3).

use std::net::IpAddr;

use crate::config::limits::Offence;
use crate::sip::name::Name;
use crate::sip::reply::is_understood;
use crate::sip::{Flow, Method, Transport, Uri};
use crate::state::bans::Offender;
use crate::state::connections::End;
use crate::state::limits::Counted;
use crate::state::snapshot::Frontend;
use crate::state::{Reason, Snapshot, Time};

use super::{Case, Memory, may_send_to};

/// Schemes that a server may know what to do with.
const SCHEMES: [&[u8]; 4] = [b"sip:", b"sips:", b"tel:", b"urn:"];

/// Who is not even answered, whatever it says; `is_server` is known better than any list.
///
/// # Errors
/// [`Reason::BadSource`] or [`Reason::Denied`].
pub fn admit_source(flow: &Flow, is_server: bool, frontend: &Frontend, snapshot: &Snapshot) -> Result<(), Reason> {
    let one_host = match flow.local.ip() {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_multicast(),
    };
    match () {
        () if !one_host || !may_send_to(&flow.remote, snapshot) => Err(Reason::BadSource),
        () if !is_server && frontend.deny.contains(flow.remote.ip()) => Err(Reason::Denied),
        () => Ok(()),
    }
}

impl Case<'_> {
    /// Who sends a request and is not even answered.
    pub(super) fn admit_sender(&self, is_server: bool) -> Result<(), Reason> {
        admit_source(self.received.flow, is_server, self.frontend, self.snapshot)?;
        if !is_server && self.is_scanner() { Err(Reason::Scanner) } else { Ok(()) }
    }

    fn is_scanner(&self) -> bool {
        let parts = &self.frontend.config.limits.deny_user_agent;
        let bytes = self.received.bytes;
        let denied = |line: &[u8]| {
            let agent = memchr::memchr(b':', line).map_or(line, |colon| &line[colon..]);
            let holds =
                |part: &String| agent.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()));
            parts.iter().any(holds)
        };
        !parts.is_empty() && self.received.message.lines(Name::UserAgent).any(|line| denied(line.span.of(bytes)))
    }

    /// The checks that a readable request may still fail.
    pub(super) fn admit_request(&self) -> Result<(), Reason> {
        let (bytes, message) = (self.received.bytes, self.received.message);
        // A limit for clients: a server repeats what we wrote, and its answers can be refused to nobody.
        if !self.from_server && bytes.len() > self.frontend.config.limits.max_message {
            return Err(Reason::TooLarge);
        }
        if message.max_forwards.is_some_and(|(_, hops)| hops == 0) {
            return Err(Reason::TooManyHops);
        }
        // In ACK and CANCEL it must be ignored (RFC 3261 §8.2.2.3).
        if message.has(Name::ProxyRequire)
            && !matches!(self.method, Method::Ack | Method::Cancel)
            && message.values(bytes, Name::ProxyRequire).any(|tag| !is_understood(tag.span.of(bytes)))
        {
            return Err(Reason::UnknownExtension);
        }
        self.admit_scheme()
    }

    /// A scheme that cannot be routed is our business only where the URI is addressed to us (docs/rules.md 30).
    fn admit_scheme(&self) -> Result<(), Reason> {
        let bytes = self.received.bytes;
        let span = self.received.message.request_uri().unwrap_or_default();
        let uri = span.of(bytes);
        // What nearly everybody writes.
        if uri.starts_with(b"sip:") {
            return Ok(());
        }
        if SCHEMES.iter().any(|scheme| uri.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        {
            return Ok(());
        }
        let Some(colon) = uri.iter().position(|b| *b == b':') else { return Ok(()) };
        let slashes = if uri[colon + 1..].starts_with(b"//") { 2 } else { 0 };
        let rest = Uri::behind_scheme(bytes, span.start as usize + colon + 1 + slashes, span.end as usize, false);
        match rest.is_some_and(|uri| self.snapshot.means_us(&uri, bytes, self.received.flow.local)) {
            true => Err(Reason::UnknownScheme),
            false => Ok(()),
        }
    }

    /// Whether it may open something new now.
    pub(super) fn admit_rate(&self) -> Result<(), Reason> {
        admit_new(self.received.flow, self.frontend, self.now, self.snapshot, self.memory)
    }
}

/// Whether a source may open something new now. Trusted networks are never asked.
///
/// # Errors
/// [`Reason::Banned`] or [`Reason::RateLimited`].
#[inline]
pub fn admit_new(
    flow: &Flow,
    frontend: &Frontend,
    now: Time,
    snapshot: &Snapshot,
    memory: &Memory,
) -> Result<(), Reason> {
    // Where there are bans, too, or nothing to ask, it is looked at apart: a frontend with a pace alone pays for that alone.
    let Some(pace) = frontend.only_pace else { return admit_otherwise(flow, frontend, now, snapshot, memory) };
    let ip = flow.remote.ip();
    let source = frontend.rate_key(snapshot.source_key(ip));
    let admitted = frontend.trusted.contains(ip) || memory.shared.sources.admit(source, now, pace);
    if admitted { Ok(()) } else { Err(Reason::RateLimited) }
}

#[inline(never)]
fn admit_otherwise(
    flow: &Flow,
    frontend: &Frontend,
    now: Time,
    snapshot: &Snapshot,
    memory: &Memory,
) -> Result<(), Reason> {
    let (ip, proven) = (flow.remote.ip(), flow.transport != Transport::Udp);
    if frontend.ban.is_none() || frontend.trusted.contains(ip) {
        return Ok(());
    }
    if memory.shared.bans.find(frontend.config.id, ip, proven, now).is_some() {
        return Err(Reason::Banned);
    }
    match is_in_time(Counted::New, ip, frontend, now, snapshot, memory) {
        true => Ok(()),
        false => Err(Reason::RateLimited),
    }
}

/// Whether a client may connect now. Servers and trusted networks always may.
///
/// # Errors
/// [`End::Banned`] or [`End::RateLimited`].
pub fn admit_connection(
    ip: IpAddr,
    frontend: &Frontend,
    now: Time,
    snapshot: &Snapshot,
    memory: &Memory,
) -> Result<(), End> {
    let is_relay = frontend.config.relays_streams();
    let counted = if is_relay { Counted::New } else { Counted::Connections };
    // What is said by SIP's connections is judged one by one, for a call that is up may come back by a new one; but who breaks
    // handshakes says nothing.
    let ban = || frontend.ban.and_then(|_| memory.shared.bans.find(frontend.config.id, ip, true, now));
    let banned = || ban().is_some_and(|ban| is_relay || ban.why == Offence::BadHandshake);
    match () {
        () if is_above_suspicion(ip, frontend, snapshot) => Ok(()),
        () if banned() => Err(End::Banned),
        () if !is_in_time(counted, ip, frontend, now, snapshot, memory) => Err(End::RateLimited),
        () => Ok(()),
    }
}

/// Whether a client may shake hands now: the same.
pub fn admit_handshake(ip: IpAddr, frontend: &Frontend, now: Time, snapshot: &Snapshot, memory: &Memory) -> bool {
    is_above_suspicion(ip, frontend, snapshot) || is_in_time(Counted::Handshakes, ip, frontend, now, snapshot, memory)
}

fn is_in_time(
    counted: Counted,
    ip: IpAddr,
    frontend: &Frontend,
    now: Time,
    snapshot: &Snapshot,
    memory: &Memory,
) -> bool {
    let key = || counted.key(frontend.rate_key(snapshot.source_key(ip)));
    frontend.paces.of(counted).is_none_or(|pace| memory.shared.sources.admit(key(), now, pace))
}

/// Holds something against a source, `proven` where it came by a connection. Who was let in by a list of ours is never banned.
#[cold]
pub fn hold_against(
    (source, proven): (IpAddr, bool),
    offence: Offence,
    frontend: &Frontend,
    now: Time,
    snapshot: &Snapshot,
    memory: &Memory,
) {
    let Some(rule) = frontend.ban else { return };
    if !is_above_suspicion(source, frontend, snapshot) {
        let key = frontend.rate_key(snapshot.source_key(source));
        memory.shared.bans.note(Offender { frontend: frontend.config.id, source, key, proven }, offence, rule, now);
    }
}

fn is_above_suspicion(ip: IpAddr, frontend: &Frontend, snapshot: &Snapshot) -> bool {
    frontend.trusted.contains(ip) || frontend.accept_proxy.contains(ip) || snapshot.is_server_ip(ip)
}
