//! What is written into messages on their way: `received` and `rport` on the sender's Via, our own Via, Record-Route,
//! Max-Forwards, the source header.

use std::net::{IpAddr, SocketAddr};

use crate::sip::edit::Edits;
use crate::sip::header::{Address, Name};
use crate::sip::text::{self, Text};
use crate::sip::token::{Branch, Keys, SEALED_LEN_MAX, Sealed, SendTime, WAY_LEN_MAX, Way};
use crate::sip::via::COOKIE;
use crate::sip::{Flow, Message, Span, Transport, Uri, Via};

/// Hops for a message that says nothing (RFC 3261 §16.6 item 3).
const MAX_FORWARDS: &[u8] = b"Max-Forwards: 70\r\n";

/// Whether the sender is behind NAT (SIP.md 1): its sent-by is not its source address, or only the port differs though
/// it asked for `rport`, or it is the first hop and its Contact is a private address that it did not send from.
pub fn is_behind_nat(bytes: &[u8], message: &Message, via: &Via, source: SocketAddr) -> bool {
    if !via.is_sent_by(bytes, source.ip()) || via.rport.is_some() && via.sent_by_port() != source.port() {
        return true;
    }
    let first_hop = message.next_via.is_none() && !message.has(Name::RecordRoute);
    first_hop && contact_ip(bytes, message).is_some_and(|ip| is_private(ip) && ip != source.ip())
}

/// The address in the first Contact.
fn contact_ip(bytes: &[u8], message: &Message) -> Option<IpAddr> {
    let contact = message.values(bytes, Name::Contact).next()?;
    Uri::parse(bytes, Address::parse(bytes, contact.span)?.uri)?.ip(bytes)
}

/// Addresses that mean something only inside one network (RFC 1918, RFC 6598, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_link_local() || ip.is_loopback() || shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

/// Writes `received` and, where `rport` is there or `force`d, `rport` into the sender's Via (RFC 3581 §4); values that
/// the sender wrote give way. Returns where its responses go.
pub fn receive_via(edits: &mut Edits, via: &Via, source: SocketAddr, force: bool) -> SocketAddr {
    let ip = Text::ip(source.ip());
    let param_span = |name: Span, value: Option<Span>| Span { start: name.start, end: value.unwrap_or(name).end };
    let port = Text::number(u32::from(source.port()));
    if let Some(rport) = via.rport {
        edits.replace(param_span(rport.name, rport.value)).put(b"rport=").put(port.as_bytes());
    }
    match via.received {
        Some(received) => edits.replace(param_span(received.name, received.value)).put(b"received="),
        None => edits.insert(via.parm.end).put(b";received="),
    };
    edits.put(ip.as_bytes());
    match via.rport.is_some() || force {
        true => {
            if via.rport.is_none() {
                edits.insert(via.parm.end).put(b";rport=").put(port.as_bytes());
            }
            source
        }
        false => SocketAddr::new(source.ip(), via.sent_by_port()),
    }
}

/// Our own Via, for one transaction.
pub struct OwnVia<'a> {
    pub transport: Transport,
    pub sent_by: &'a [u8],
    pub branch: Branch,
    /// [`Keys::call`] of the Call-ID.
    pub call: u64,
    pub way: Way,
    pub time: SendTime,
}

impl OwnVia<'_> {
    /// Appends the header line.
    #[inline]
    pub fn put(&self, edits: &mut Edits, keys: &Keys) {
        let (branch, mac) = self.branch.seal(self.call, keys);
        let mut way = [0; WAY_LEN_MAX];
        let way_len = self.way.seal(mac, keys, &mut way);
        edits.put(b"Via: SIP/2.0/").put(self.transport.in_via().as_bytes()).put(b" ").put(self.sent_by);
        edits.put(b";branch=").put(COOKIE).put(&branch).put(b";w=").put(&way[..way_len]);
        edits.put(b";s=").put(&self.time.write()).put(b"\r\n");
    }
}

/// Appends our Record-Route: one line for each side, the one that faces the next hop first; one line where both sides
/// are one (RFC 5658 §3). Both carry the same token.
#[inline]
pub fn record_route(edits: &mut Edits, sealed: &Sealed, call: u64, keys: &Keys, next_side: &[u8], other_side: &[u8]) {
    let mut token = [0; SEALED_LEN_MAX];
    let token = {
        let len = sealed.seal(call, keys, &mut token);
        &token[..len]
    };
    edits.put(b"Record-Route: <sip:").put(token).put(b"@").put(next_side).put(b";lr>\r\n");
    if next_side != other_side {
        edits.put(b"Record-Route: <sip:").put(token).put(b"@").put(other_side).put(b";lr>\r\n");
    }
}

/// One hop less, in place; or the header where it is absent. The hop limit was checked before.
#[inline]
pub fn count_hop(edits: &mut Edits, message: &Message) {
    match message.max_forwards {
        Some((digits, hops)) => {
            edits.replace(digits).put(Text::number(u32::from(hops.saturating_sub(1))).as_bytes());
        }
        None => {
            edits.put(MAX_FORWARDS);
        }
    }
}

/// Appends the source header: transport, address and port of the client, which servers judge callers by.
pub fn source_header(edits: &mut Edits, prefix: &[u8], flow: &Flow) {
    edits.put(prefix).put(Text::host_port(flow.remote).as_bytes());
    edits.put(b";transport=").put(flow.transport.name().as_bytes()).put(b"\r\n");
}

/// Cuts every line of that header which somebody else wrote. False where one could hide from us: there are servers that
/// take a lone carriage return for a line end (sofia-sip does).
#[must_use]
pub fn cut_source_header(edits: &mut Edits, bytes: &[u8], message: &Message, name: &str) -> bool {
    for line in message.lines_named(bytes, name.as_bytes()) {
        edits.replace(line);
    }
    let head = &bytes[message.head as usize..message.body as usize];
    memchr::memchr_iter(b'\r', head).all(|at| head.get(at + 1) == Some(&b'\n'))
}

/// The address of a URI's host or of its `maddr` (RFC 3261 §19.1.1): where a request to it would go. `None` for names.
pub fn target(bytes: &[u8], uri: &Uri) -> Option<SocketAddr> {
    let maddr = uri.param(bytes, b"maddr").and_then(|maddr| text::parse_ip(maddr.value?.of(bytes)));
    Some(SocketAddr::new(maddr.or_else(|| uri.ip(bytes))?, uri.port_or_default()))
}
