//! How often one source may do something: the generic cell rate algorithm, one word per source.
//!
//! The word is the time at which the source's bucket would be full again. An event is let through while that time is
//! not further ahead than the burst allows (ITU-T I.371, Annex A).

use super::Time;
use super::table::Table;
use crate::config;
use crate::config::limits::PerSource;

/// Sources that are remembered at once: a frontend's whole public. Where an attacker's spoofed addresses are more, the
/// one that would be forgiven first makes room.
const SOURCES: usize = 98_304;

/// How often a source may do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds from one event to the next.
    interval: u64,
    /// How far ahead of the time a burst may run.
    tolerance: u64,
}

/// How much further ahead than a pace ever runs its time may be: workers read their clocks once a batch, one a little before
/// another.
const SKEW: u64 = 1_000_000_000;

impl Pace {
    /// One event every `interval` nanoseconds, with a burst of `burst`.
    pub const fn new(interval: u64, burst: u32) -> Self {
        Self { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1) as u64) }
    }

    /// One event every `interval` nanoseconds, and what comes within `burst` nanoseconds of that at once.
    pub const fn within(interval: u64, burst: u64) -> Self {
        Self { interval, tolerance: burst.saturating_sub(interval) }
    }

    /// When the bucket would be full again after one more event, if that is let through.
    #[inline]
    pub fn one_more(self, full_at: u64, now: Time) -> Option<u64> {
        let latest = now.0.saturating_add(self.tolerance);
        let full_at = match full_at > latest.saturating_add(self.interval).saturating_add(SKEW) {
            // It was written at a slower pace, before a reload.
            true => latest,
            false => full_at,
        };
        (full_at <= latest).then(|| full_at.max(now.0) + self.interval)
    }
}

/// What is counted of a source.
#[derive(Clone, Copy, Debug)]
pub enum Counted {
    /// What it opens; of a relay flows, or connections.
    New,
    Connections,
    Handshakes,
}

impl Counted {
    /// Under which key, of that of the source.
    #[inline]
    pub fn key(self, source: u64) -> u64 {
        source ^ [0, 0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f][self as usize]
    }
}

/// How often a source may do each, at one frontend; `None`: as often as it likes.
#[derive(Clone, Copy, Debug)]
pub struct Paces([Option<Pace>; 3]);

impl Paces {
    #[inline]
    pub fn of(&self, counted: Counted) -> Option<Pace> {
        self.0[counted as usize]
    }
}

impl From<&config::limits::Limits> for Paces {
    fn from(limits: &config::limits::Limits) -> Self {
        let pace = |limit: PerSource| Pace::new(limit.rate.interval(), limit.burst);
        Self([limits.per_source, limits.connections, limits.handshakes].map(|limit| limit.map(pace)))
    }
}

/// Events per source.
pub struct Limits {
    table: Table,
}

impl Default for Limits {
    fn default() -> Self {
        Self { table: Table::new(SOURCES) }
    }
}

impl Limits {
    /// Whether `source` may do it now.
    pub fn admit(&self, source: u64, now: Time, pace: Pace) -> bool {
        // A race with another worker is lost at most as often as there are workers; then the event is let through.
        for _ in 0..4 {
            let Some(entry) = self.table.get(source) else {
                let rank = |full_at: u64| if full_at <= now.0 { 0 } else { full_at };
                self.table.insert(source, now.0 + pace.interval, rank);
                return true;
            };
            let Some(full_at) = pace.one_more(entry.value, now) else { return false };
            if self.table.update(entry, full_at) {
                return true;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a bucket of tokens that fills by itself.
        #[test]
        fn admits_what_a_token_bucket_admits(
            waits in proptest::collection::vec(0u64..40, 1..200), interval in 1u64..20, burst in 1u32..20,
        ) {
            let limits = Limits::default();
            let (mut now, mut last) = (1_000, 1_000);
            let mut room = u64::from(burst) * interval;
            for wait in waits {
                now += wait;
                room = (room + (now - last)).min(u64::from(burst) * interval);
                last = now;
                let expected = room >= interval;
                if expected { room -= interval; }
                prop_assert_eq!(limits.admit(9, Time(now), Pace::new(interval, burst)), expected);
            }
        }
    }

    #[test]
    fn sources_do_not_share() {
        let limits = Limits::default();
        let pace = Pace::new(1_000, 1);
        assert!(limits.admit(2, Time(1), pace));
        assert!(!limits.admit(2, Time(2), pace));
        assert!(limits.admit(3, Time(2), pace));
    }
}
