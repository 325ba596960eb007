//! Trunkline
pub mod balance;
pub mod sip;
