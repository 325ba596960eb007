//! The sockets: everything that does I/O for messages.
//!
//! ```text
//!  datagrams queued on a socket
//!      │  mmsg      one recvmmsg into slots with headroom, the clock read once
//!      ▼
//!  sip::datagram::classify, sip::Message::parse        what it is
//!      ▼
//!  proxy::decide                                       what to do
//!      ▼
//!  sip::edit                                           the head rewritten in its slot
//!      │  mmsg      one sendmmsg for each socket that something leaves by
//!      ▼
//!  on the wire, and counted
//! ```
//! [`worker`] holds the threads, [`udp`] the trip above, [`relay`] the shorter one of mode `relay`, [`socket`] opens what they use, [`check`] asks servers whether
//! they are alive, `tap` copies messages of calls that somebody follows, [`host`] asks this machine for its addresses, [`tls`] has
//! the certificates, [`inherit`] sockets that outlive the process. `unsafe` is in [`mmsg`] and [`inherit`] alone.

pub mod check;
pub mod host;
pub mod inherit;
pub mod mmsg;
pub mod relay;
pub mod resolve;
pub mod socket;
pub mod stream;
mod tap;
pub mod tls;
pub mod udp;
pub mod worker;
