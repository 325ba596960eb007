//! The sockets.
pub mod mmsg;
