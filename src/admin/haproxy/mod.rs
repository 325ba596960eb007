//! HAProxy's words and columns, as version 2.6 has them: what people's tools read of a balancer. All of it is made from
//! one [`Picture`](super::picture::Picture).
//!
//! `fields` names the columns, `stat` fills them, `dump` writes them (CSV, typed, JSON); `info` is `show info`, `servers`
//! is `show servers state`.

pub mod dump;
pub mod fields;
pub mod info;
pub mod servers;
pub mod stat;
