//! What is written into messages on their way: `received` and `rport` on the sender's Via, our own Via, Record-Route,
//! Max-Forwards, the source header.

use std::net::{IpAddr, SocketAddr};

use crate::sip::edit::Edits;
use crate::sip::header::{Address, Param};
use crate::sip::lines::has_lone_return;
use crate::sip::name::Name;
use crate::sip::text::{self, Text};
use crate::sip::token::{BRANCH_LEN, Branch, Keys, SEALED_LEN_MAX, Sealed, SendTime, TIME_LEN, WAY_LEN_MAX, Way};
use crate::sip::{Message, Side, Span, Transport, Uri, Via};

/// Hops for a message that says nothing (RFC 3261 §16.6 item 3).
const MAX_FORWARDS: &[u8] = b"Max-Forwards: 70\r\n";

/// The sender's address and port: as they are, and as text.
pub struct Source<'a> {
    pub address: &'a SocketAddr,
    ip: Text<48>,
    port: Text<16>,
}

impl<'a> Source<'a> {
    #[inline]
    pub fn new(address: &'a SocketAddr) -> Self {
        Self { address, ip: Text::<48>::ip(address.ip()), port: Text::port(address.port()) }
    }

    /// Whether sent-by names its address. An IPv4 address has one text; of IPv6 there are many.
    #[inline]
    fn is_sent_by(&self, bytes: &[u8], via: &Via) -> bool {
        match self.address {
            SocketAddr::V4(_) => via.host.of(bytes) == self.ip.as_bytes(),
            SocketAddr::V6(_) => via.is_sent_by(bytes, self.address.ip()),
        }
    }
}

/// Whether the sender is behind NAT (docs/rules.md 1): its sent-by is not its source address, or only the port differs though
/// it asked for `rport`, or it is the first hop and its Contact is a private address that it did not send from. A stream comes
/// from a port of its own, whoever sends by it (RFC 3261 §18.1.1), so the port says something of datagrams alone.
pub fn is_behind_nat(bytes: &[u8], message: &Message, via: &Via, source: &Source<'_>, by_stream: bool) -> bool {
    let other_port = || !by_stream && via.rport.is_some() && via.sent_by_port() != source.address.port();
    if !source.is_sent_by(bytes, via) || other_port() {
        return true;
    }
    let first_hop = message.next_via.is_none() && !message.has(Name::RecordRoute);
    first_hop && contact_ip(bytes, message).is_some_and(|ip| is_private(ip) && ip != source.address.ip())
}

/// The address in the first Contact.
fn contact_ip(bytes: &[u8], message: &Message) -> Option<IpAddr> {
    let contact = message.values(bytes, Name::Contact).next()?;
    Uri::parse(bytes, Address::parse(bytes, contact.span)?.uri)?.ip(bytes)
}

/// Addresses that mean something only inside one network (RFC 1918, RFC 6598, RFC 4193).
pub fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_link_local() || ip.is_loopback() || shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

/// Where the responses to a request go (RFC 3261 §18.2.2, RFC 3581 §4): to its source, and to the port there if `rport` is
/// there or `force`d, else to that of sent-by.
#[inline]
pub fn home(via: &Via, source: &Source<'_>, force: bool) -> SocketAddr {
    match via.rport.is_some() || force {
        true => *source.address,
        false => SocketAddr::new(source.address.ip(), via.sent_by_port()),
    }
}

/// Writes `received` and, where `rport` is there or `force`d, `rport` into the sender's Via (RFC 3581 §4); values that
/// the sender wrote give way.
pub fn receive_via(edits: &mut Edits, via: &Via, source: &Source<'_>, force: bool) {
    let param_span = |param: Param| Span { start: param.name.start, end: param.value.unwrap_or(param.name).end };
    let rport = via.rport.map(param_span);
    if let Some(rport) = rport {
        edits.replace(rport).put_led(b"rport=", &source.port);
    }
    match via.received {
        Some(received) => edits.replace(param_span(received)).put_led(b"received=", &source.ip),
        // Most write `rport` last: one change, then, instead of two at one place.
        None if rport.is_some_and(|rport| rport.end == via.parm.end) => edits.put_led(b";received=", &source.ip),
        None => edits.insert(via.parm.end).put_led(b";received=", &source.ip),
    };
    if rport.is_none() && force {
        edits.insert(via.parm.end).put_led(b";rport=", &source.port);
    }
}

/// Our own Via, for one transaction.
pub struct OwnVia {
    pub branch: Branch,
    /// [`Keys::call`] of the Call-ID.
    pub call: u64,
    pub way: Way,
    pub time: SendTime,
}

/// Room for what stands in our Via from its token on.
const VIA_ROOM: usize = BRANCH_LEN + 3 + WAY_LEN_MAX + 3 + TIME_LEN + 2;

impl OwnVia {
    /// Appends the header line; `side` is what the next hop sees of us.
    #[inline]
    pub fn put(&self, edits: &mut Edits, side: &Side, keys: &Keys) {
        let (branch, raw) = self.branch.seal(self.call, keys);
        edits.put_text(&side.via).put_with(|room: &mut [u8; VIA_ROOM]| {
            let (head, rest) = room.split_at_mut(BRANCH_LEN + 3);
            head[..BRANCH_LEN].copy_from_slice(&branch);
            head[BRANCH_LEN..].copy_from_slice(b";w=");
            let way = rest.first_chunk_mut().map_or(0, |room| self.way.seal(&raw, keys, room));
            let time = &mut rest[way..way + 3 + TIME_LEN + 2];
            time[..3].copy_from_slice(b";s=");
            time[3..3 + TIME_LEN].copy_from_slice(&self.time.write());
            time[3 + TIME_LEN..].copy_from_slice(b"\r\n");
            head.len() + way + time.len()
        });
    }
}

/// Appends our Record-Route: one line for each side, the one that faces the next hop first; one line where both sides
/// are one (RFC 5658 §3). Both carry the same token.
#[inline]
pub fn record_route(edits: &mut Edits, sealed: &Sealed, call: u64, keys: &Keys, next_side: &Side, other_side: &Side) {
    const LEAD: &[u8] = b"Record-Route: <sip:";
    let mut line = [0; LEAD.len() + SEALED_LEN_MAX];
    line[..LEAD.len()].copy_from_slice(LEAD);
    let len = line[LEAD.len()..].first_chunk_mut().map_or(0, |room| LEAD.len() + sealed.seal(call, keys, room));
    let mut put = |side: &Side| {
        let put_line = |room: &mut _| {
            *room = line;
            len
        };
        edits.put_with(put_line).put_text(&side.route);
    };
    put(next_side);
    if !next_side.is_same(other_side) {
        put(other_side);
    }
}

/// One hop less, in place; or the header where it is absent. The hop limit was checked before.
#[inline]
pub fn count_hop(edits: &mut Edits, message: &Message) {
    match message.max_forwards {
        Some((digits, hops)) => {
            edits.write_over(digits, &Text::<16>::octet(hops.saturating_sub(1)));
        }
        None => {
            edits.put(MAX_FORWARDS);
        }
    }
}

/// Appends the source header: transport, address and port of the client, which servers judge callers by.
pub fn source_header(edits: &mut Edits, prefix: &[u8], source: &Source<'_>, transport: Transport) {
    edits.put(prefix);
    match source.address {
        SocketAddr::V4(_) => edits.put_text(&source.ip).put_led(b":", &source.port),
        SocketAddr::V6(_) => edits.put_led(b"[", &source.ip).put_led(b"]:", &source.port),
    };
    edits.put(match transport {
        Transport::Udp => b";transport=udp\r\n",
        Transport::Tcp => b";transport=tcp\r\n",
        Transport::Tls => b";transport=tls\r\n",
    });
}

/// Cuts every line of that header which somebody else wrote. False where one could hide from us: there are servers that
/// take a lone carriage return for a line end (sofia-sip does).
#[must_use]
pub fn cut_source_header(edits: &mut Edits, bytes: &[u8], message: &Message, name: &str) -> bool {
    if message.may_have(name.as_bytes()) {
        for line in message.lines_named(bytes, name.as_bytes()) {
            edits.replace(line.span);
        }
    }
    !has_lone_return(bytes, message.head as usize, message.body as usize)
}

/// The address of a URI's host or of its `maddr` (RFC 3261 §19.1.1): where a request to it would go. `None` for names.
pub fn target(bytes: &[u8], uri: &Uri) -> Option<SocketAddr> {
    let maddr = uri.param(bytes, b"maddr").and_then(|maddr| text::parse_ip(maddr.value?.of(bytes)));
    Some(SocketAddr::new(maddr.or_else(|| uri.ip(bytes))?, uri.port_or_default(bytes)))
}
