//! What messages say of us on one of our addresses: texts that are the same in each, made once.

use std::net::SocketAddr;

use super::Transport;
use super::text::Text;
use super::via::COOKIE;

/// One of our addresses, as messages name it. A frontend has two: one that clients see and one that servers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub transport: Transport,
    pub address: SocketAddr,
    /// `host:port`, and the transport on a stream: what stands in a URI behind the `@`.
    pub uri: Text<64>,
    /// Our Via up to the token in its branch.
    pub via: Text<96>,
    /// Our Record-Route from behind its token on.
    pub route: Text<80>,
}

impl Side {
    pub fn of(transport: Transport, address: SocketAddr) -> Self {
        Self::told_as(transport, address, Text::host_port(address).as_bytes())
    }

    /// The same with a name in the place of its address: with the port at most 50 characters.
    pub fn named(transport: Transport, address: SocketAddr, name: &str) -> Self {
        let port = Text::<16>::number(u32::from(address.port()));
        Self::told_as(transport, address, &[name.as_bytes(), b":", port.as_bytes()].concat())
    }

    fn told_as(transport: Transport, address: SocketAddr, name: &[u8]) -> Self {
        let parameter = transport.in_uri().as_bytes();
        Self {
            transport,
            address,
            uri: Text::join(&[name, parameter]),
            via: Text::join(&[b"Via: SIP/2.0/", transport.in_via().as_bytes(), b" ", name, b";branch=", COOKIE]),
            route: Text::join(&[b"@", name, parameter, b";lr>\r\n"]),
        }
    }

    /// Whether two sides are one: then one Record-Route says it (RFC 5658 §3).
    pub fn is_same(&self, other: &Self) -> bool {
        self.uri.as_bytes() == other.uri.as_bytes()
    }
}
