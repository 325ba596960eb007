//! Trunkline
pub mod balance;
pub mod config;
pub mod sip;
pub mod state;
