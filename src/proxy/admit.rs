//! Cheap refusals first: who may not speak at all, and what ends here (RFC 3261 §16.3).

use std::net::IpAddr;

use crate::sip::name::Name;
use crate::sip::{Flow, Method, Uri};
use crate::state::snapshot::Frontend;
use crate::state::{Reason, Snapshot};

use super::{Case, may_send_to};

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
        if bytes.len() > self.frontend.config.limits.max_message {
            return Err(Reason::TooLarge);
        }
        if message.max_forwards.is_some_and(|(_, hops)| hops == 0) {
            return Err(Reason::TooManyHops);
        }
        // No extension that asks something of a proxy is known to us, so any tag is one too many. In ACK and CANCEL it must
        // be ignored (RFC 3261 §8.2.2.3).
        if message.has(Name::ProxyRequire)
            && !matches!(self.method, Method::Ack | Method::Cancel)
            && message.values(bytes, Name::ProxyRequire).next().is_some()
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

    /// Over its rate? Trusted networks are not counted.
    pub(super) fn admit_rate(&self) -> Result<(), Reason> {
        let frontend = self.frontend;
        let Some(pace) = frontend.pace else { return Ok(()) };
        let ip = self.received.flow.remote.ip();
        let source = frontend.rate_key(self.snapshot.keys.source(ip));
        let admitted = frontend.trusted.contains(ip) || self.memory.shared.sources.admit(source, self.now, pace);
        if admitted { Ok(()) } else { Err(Reason::RateLimited) }
    }
}
