//! What is frozen and what is alive.
//!
//! A [`Snapshot`] is one generation of routing state: immutable, shared by all workers, replaced whole. [`Shared`] is
//! what outlives every snapshot: pins, stick tables, source limits, counters. Both are only data and arithmetic on it;
//! time comes in as [`Time`], and nothing here waits for another thread.
//!
//! | survives a new snapshot | does not |
//! |---|---|
//! | pins, stick tables, source limits, bans, calls of servers, bad messages, refused sources, the lanes of addresses | tables of the balance that a change touched |
//! | counters and signs of servers and frontends | positions of servers, frontends, binds |
//!
//! Start with [`table`] (the fixed buckets under pins, stick tables and limits), then [`snapshot`].

pub mod bad_messages;
pub mod bans;
pub mod binds;
pub mod breaker;
pub mod calls;
pub mod connections;
pub mod counters;
pub mod flows;
pub mod health;
pub mod limits;
pub mod lookup;
pub mod methods;
pub mod pins;
pub mod records;
pub mod refused;
pub mod repeats;
pub mod response_times;
pub mod server;
pub mod shared;
pub mod slow_start;
pub mod snapshot;
pub mod stick_table;
mod table;
pub mod tap;
pub mod trials;
pub mod watch;

pub use counters::Reason;
pub use shared::Shared;
pub use snapshot::Snapshot;

use std::time::Duration;

/// CLOCK_MONOTONIC in nanoseconds, read once per batch by whoever does I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    pub fn micros(self) -> u64 {
        self.0 / 1000
    }

    /// Time since an earlier one; nothing if it was later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_nanos() as u64))
    }
}
