//! What several tests share. Each test binary uses a part of it.
#![allow(dead_code, reason = "every test binary compiles all of it and uses a part")]

pub mod books;
pub mod calls;
pub mod core;
pub mod generate;
#[cfg(feature = "io")]
pub mod haproxy;
#[cfg(feature = "io")]
pub mod http;
pub mod lines;
#[cfg(feature = "io")]
pub mod media;
pub mod model;
pub mod netns;
#[cfg(feature = "io")]
pub mod nigeria;
#[cfg(feature = "io")]
pub mod pki;
pub mod process;
#[cfg(feature = "io")]
pub mod regions;
#[cfg(feature = "io")]
pub mod streams;
#[cfg(feature = "io")]
pub mod tap;
#[cfg(feature = "io")]
pub mod tls_peers;
#[cfg(feature = "io")]
pub mod wire;
#[cfg(feature = "io")]
pub mod workers;
