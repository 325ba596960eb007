//! Trunkline: a SIP-aware load balancer. Calls over UDP travel through it to a weighted cluster and back, in both
//! directions, and keep their server through retransmissions, restarts and failovers.
//!
//! One package, floors; a folder imports only from floors below its own:
//!
//! ```text
//! roof     main  cli  run  demo            starts and stops
//! floor 6  admin  load                     speaks with people and tests
//! floor 5  net                             does I/O
//! ---------------------------------------- below this line: deterministic, no I/O, no clock, no tokio
//! floor 4  proxy                           decides
//! floor 3  state                           remembers
//! floor 2  config                          what was asked
//! floor 1  sip  balance                    protocol, arithmetic
//! ```
//! Below the line nothing opens a socket, reads a clock or rolls dice: `cargo check --lib --no-default-features` builds
//! those floors alone, and a simulation of a million calls replays from its seed.

#![deny(unsafe_code)]

#[cfg(feature = "io")]
pub mod admin;
pub mod balance;
pub mod config;
#[cfg(feature = "io")]
pub mod demo;
#[cfg(feature = "io")]
pub mod load;
#[cfg(feature = "io")]
pub mod net;
pub mod proxy;
#[cfg(feature = "io")]
pub mod run;
pub mod sip;
pub mod state;

#[cfg(feature = "io")]
pub mod cli;
