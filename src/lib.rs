//! Trunkline
pub mod balance;
pub mod config;
#[cfg(feature = "io")]
pub mod net;
pub mod proxy;
pub mod sip;
pub mod state;
