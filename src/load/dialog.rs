//! A dialog as one of its ends sees it (RFC 3261 §12): enough to write requests inside it.

use std::net::SocketAddr;

use super::compose::{Asked, Request, address_of};
use crate::sip::header::Address;
use crate::sip::name::Name;
use crate::sip::{Message, Method, Span, Uri};

/// One end's view of a dialog, or of a request that may make one.
#[derive(Clone, Debug)]
pub struct Dialog {
    pub call_id: Vec<u8>,
    /// Our From value with our tag.
    local: Vec<u8>,
    /// Our tag, in hexadecimal.
    pub local_tag: [u8; 16],
    /// Our To value, with the other end's tag once the dialog exists.
    remote: Vec<u8>,
    /// Whole Route lines, in the order of our requests.
    routes: Vec<u8>,
    /// The Request-URI: the other end's Contact once the dialog exists.
    target: Vec<u8>,
    /// Where requests go.
    pub next_hop: SocketAddr,
    /// The number of our last request.
    pub cseq: u32,
    /// The number of the other end's last INVITE.
    pub remote_cseq: u32,
}

/// What the first request of a dialog needs to know.
#[derive(Clone, Debug)]
pub struct Opening {
    pub call_id: Vec<u8>,
    /// Our address of record, a URI.
    pub from: String,
    /// The number that becomes our tag.
    pub tag: u64,
    /// The other end's address of record, a URI.
    pub to: String,
    /// The Request-URI.
    pub target: Vec<u8>,
    /// Whole Route lines that the first request carries (a Path, RFC 3327 §5.1).
    pub routes: Vec<u8>,
    pub next_hop: SocketAddr,
}

impl Dialog {
    /// The calling end before anything was sent.
    pub fn open(opening: Opening) -> Self {
        let Opening { call_id, from, tag, to, target, routes, next_hop } = opening;
        let local_tag = tag_text(tag);
        let local = [b"<", from.as_bytes(), b">;tag=", &local_tag].concat();
        let remote = format!("<{to}>").into_bytes();
        Self { call_id, local, local_tag, remote, routes, target, next_hop, cseq: 0, remote_cseq: 0 }
    }

    /// The called end, from an INVITE (RFC 3261 §12.1.1); `None` where a field is missing.
    pub fn called(asked: Asked<'_>, tag: u64) -> Option<Self> {
        let Asked { bytes, message, source } = asked;
        let contact = contact(bytes, message)?;
        let local_tag = tag_text(tag);
        let mut routes = Vec::new();
        for value in message.values(bytes, Name::RecordRoute) {
            write_route(value.span.of(bytes), &mut routes);
        }
        let uri = Uri::parse(bytes, contact)?;
        // Without a route the Contact is where to go, but for a client that is one hop away: it may be behind NAT.
        let unrouted = if message.next_via.is_some() { address_of(bytes, &uri) } else { None };
        Some(Self {
            call_id: message.call_id?.of(bytes).to_vec(),
            local: [message.to(bytes)?.of(bytes), b";tag=", &local_tag].concat(),
            local_tag,
            remote: message.from(bytes)?.of(bytes).to_vec(),
            next_hop: first_hop(&routes).or(unrouted).unwrap_or(source),
            routes,
            target: contact.of(bytes).to_vec(),
            cseq: 0,
            remote_cseq: message.cseq?.number,
        })
    }

    /// The calling end learns from a 2xx to its INVITE who answered and by which way (RFC 3261 §12.1.2).
    pub fn establish(&mut self, bytes: &[u8], message: &Message) {
        if let Some(to) = message.to(bytes) {
            self.remote = to.of(bytes).to_vec();
        }
        self.routes.clear();
        let values: Vec<_> = message.values(bytes, Name::RecordRoute).collect();
        values.iter().rev().for_each(|value| write_route(value.span.of(bytes), &mut self.routes));
        let asked = self.target.clone();
        self.refresh(bytes, message);
        // Who answers under the URI that was called is reached as it was reached: it may be behind NAT.
        let target = Uri::parse(&self.target, Span::new(0, self.target.len())).filter(|_| self.target != asked);
        let direct = target.and_then(|uri| address_of(&self.target, &uri));
        self.next_hop = first_hop(&self.routes).or(direct).unwrap_or(self.next_hop);
    }

    /// A Contact in a re-INVITE or its 2xx is the new target (RFC 3261 §12.2).
    pub fn refresh(&mut self, bytes: &[u8], message: &Message) {
        if let Some(contact) = contact(bytes, message) {
            self.target = contact.of(bytes).to_vec();
        }
    }

    /// Keeps only what recognises requests that come late: an ended call needs no more.
    pub fn shrink(&mut self) {
        for text in [&mut self.call_id, &mut self.local, &mut self.remote, &mut self.routes, &mut self.target] {
            *text = Vec::new();
        }
    }

    /// A request of this dialog. An ACK or a CANCEL repeats the number of its INVITE, others take the next one before.
    pub fn request<'a>(&'a self, method: Method, branch: u64, extra: &'a [u8], body: &'a [u8]) -> Request<'a> {
        Request {
            method,
            uri: &self.target,
            branch,
            routes: &self.routes,
            from: &self.local,
            to: &self.remote,
            call_id: &self.call_id,
            cseq: self.cseq,
            extra,
            body,
        }
    }
}

/// A tag's text.
pub fn tag_text(tag: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (n, digit) in text.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(tag >> (60 - 4 * n)) as usize & 15];
    }
    text
}

/// Writes a Route line with a value of Record-Route or Path.
pub fn write_route(value: &[u8], routes: &mut Vec<u8>) {
    for part in [b"Route: ", value, b"\r\n"] {
        routes.extend_from_slice(part);
    }
}

/// Where requests with these Route lines go: the first one's host. Only loose routers are known (RFC 3261 §12.2.1.1),
/// and names are not resolved.
pub fn first_hop(routes: &[u8]) -> Option<SocketAddr> {
    let line = routes.split(|byte| *byte == b'\n').next()?.strip_prefix(b"Route: ")?;
    let address = Address::parse(line, Span::new(0, line.len()))?;
    address_of(line, &Uri::parse(line, address.uri)?)
}

/// The URI of the first Contact.
pub fn contact(bytes: &[u8], message: &Message) -> Option<Span> {
    let value = message.values(bytes, Name::Contact).next()?;
    Some(Address::parse(bytes, value.span)?.uri)
}
