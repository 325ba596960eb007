//! The wire format of SIP: what a balancer must read of a message, and how it changes one.
//!
//! Knows the grammar of RFC 3261 (with RFC 3581 `rport`, RFC 3327 `Path`, RFC 5118 IPv6 spellings), nothing of
//! servers, frontends or balancing. Deliberately absent: a header map, owned strings, bodies. A [`Message`] is a set
//! of positions in bytes that somebody else owns, so parsing allocates nothing and the bytes stay free to be edited.
//!
//! Reading order: [`datagram`] (is it SIP at all), [`name`] and [`lines`] (which headers are where), [`Message::parse`],
//! [`via`] and [`uri`] (the two grammars inside), [`token`] and [`side`] (what we write into messages to find our way
//! back), [`edit`] (changing the head in place), [`reply`] (messages made from nothing).

mod base32;
pub mod datagram;
pub mod edit;
pub mod header;
pub mod lines;
pub mod message;
pub mod name;
pub mod parser;
pub mod reply;
pub mod side;
mod siphash;
pub mod text;
pub mod token;
pub mod uri;
pub mod via;

pub use message::{CSeq, Fault, Message, Method, Span, StartLine};
pub use side::Side;
pub use uri::Uri;
pub use via::Via;

use std::net::SocketAddr;

/// The largest message that is accepted: the most that a UDP datagram carries, and what RFC 3261 §18.1.1 asks for.
pub const MAX_MESSAGE: usize = 65_535;

/// SIP's default port (RFC 3261 §19.1.2).
pub const DEFAULT_PORT: u16 = 5060;

/// A transport that SIP messages travel over (RFC 3261 §18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl Transport {
    /// The name in a Via header (RFC 3261 §20.42).
    pub fn in_via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// The name in a URI's `transport` parameter and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// "A transport-layer association between two hosts" (RFC 5626 §2): both ends' addresses and the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub transport: Transport,
    /// Our end: on a wildcard bind the address the datagram came to, never the wildcard.
    pub local: SocketAddr,
    /// The other end, as the kernel saw it.
    pub remote: SocketAddr,
}
