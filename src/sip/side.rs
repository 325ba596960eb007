//! What messages say of us on one of our addresses: texts that are the same in each, made once.

use std::net::SocketAddr;

use super::text::Text;
use super::via::COOKIE;

/// One of our addresses, as messages name it. A frontend has two: one that clients see and one that servers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    pub address: SocketAddr,
    /// `host:port`.
    pub host_port: Text,
    /// Our Via up to the token in its branch.
    pub via: Text<96>,
    /// Our Record-Route from behind its token on.
    pub route: Text<64>,
}

impl Side {
    pub fn of(address: SocketAddr) -> Self {
        let host_port = Text::host_port(address);
        let name = host_port.as_bytes();
        Self {
            address,
            via: Text::join(&[b"Via: SIP/2.0/UDP ", name, b";branch=", COOKIE]),
            route: Text::join(&[b"@", name, b";lr>\r\n"]),
            host_port,
        }
    }
}
