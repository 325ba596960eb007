//! Trunkline
pub mod balance;
pub mod config;
pub mod proxy;
pub mod sip;
pub mod state;
