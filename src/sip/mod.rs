//! The wire format of SIP: what a balancer must read of a message, and how it changes one.
//!
//! Knows the grammar of RFC 3261 (with RFC 3581 `rport`, RFC 3327 `Path`, RFC 5118 IPv6 spellings), nothing of
//! servers, frontends or balancing. Deliberately absent: a header map, owned strings, bodies. A [`Message`] is a set
//! of positions in bytes that somebody else owns, so parsing allocates nothing and the bytes stay free to be edited.
//!
//! Reading order: [`datagram`] (is it SIP at all), [`name`] and [`lines`] (which headers are where), [`Message::parse`],
//! [`framing`] (where a stream's messages end), [`via`] and [`uri`] (the two grammars inside), [`token`] and [`side`]
//! (what we write into messages to find our way back), [`edit`] (changing the head in place), [`reply`] (messages made
//! from nothing). [`proxy_protocol`] is no SIP: it is what may stand before the first message of a connection.

mod base32;
pub mod datagram;
pub mod edit;
pub mod framing;
pub mod header;
pub mod lines;
pub mod message;
pub mod name;
pub mod parser;
pub mod proxy_protocol;
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
use std::num::{NonZeroU32, NonZeroU64};

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

    /// Where it is listened to, where nobody says otherwise (RFC 3261 §19.1.2).
    pub fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => DEFAULT_PORT,
            Self::Tls => DEFAULT_PORT + 1,
        }
    }

    /// What a URI that is reached by it says beside host and port. UDP goes without saying (RFC 3263 §4.1).
    pub fn in_uri(self) -> &'static str {
        match self {
            Self::Udp => "",
            Self::Tcp => ";transport=tcp",
            Self::Tls => ";transport=tls",
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

/// "A transport-layer association between two hosts" (RFC 5626 §2): both ends' addresses, and the connection on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    pub transport: Transport,
    /// Our end: on a wildcard bind the address the message came to, never the wildcard.
    pub local: SocketAddr,
    /// The other end, as the kernel saw it.
    pub remote: SocketAddr,
    /// On a stream; datagrams have none.
    pub connection: Option<ConnectionId>,
}

impl Flow {
    /// Of datagrams between two addresses.
    pub fn of_datagrams(local: SocketAddr, remote: SocketAddr) -> Self {
        Self { transport: Transport::Udp, local, remote, connection: None }
    }

    /// What finds it again.
    #[inline]
    pub fn token(&self) -> FlowToken {
        match self.connection {
            None => FlowToken::Ends { local: self.local, remote: self.remote },
            Some(connection) => FlowToken::Connection(connection),
        }
    }
}

/// Names one connection of one process: a number that the process chose at random when it started, and a serial number.
/// Matched whole, so that neither a process that was started again nor the peer node takes another's connection for its
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(NonZeroU64);

impl ConnectionId {
    pub fn new(instance: NonZeroU32, serial: u32) -> Self {
        // The upper half is not zero, so the whole is not.
        Self(NonZeroU64::new(u64::from(instance.get()) << 32 | u64::from(serial)).unwrap_or(NonZeroU64::MAX))
    }

    pub fn from_bits(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }

    pub fn bits(self) -> u64 {
        self.0.get()
    }

    /// The number of its process.
    pub fn instance(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    /// Its number among the connections of its process.
    pub fn serial(self) -> u32 {
        self.0.get() as u32
    }
}

/// What a token keeps of a flow, to find it again: "flow token" in RFC 5626 §5.2. Of a connection its number alone: another
/// one between the same addresses is another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowToken {
    Ends { local: SocketAddr, remote: SocketAddr },
    Connection(ConnectionId),
}
