//! How quickly servers answer: fixed histograms that one worker writes with a plain store.

use std::time::Duration;

use super::counters::Counter;
use crate::sip::Method;

/// Four buckets for each doubling: what is read from them is at most a quarter too long.
const PER_DOUBLING: u32 = 4;
/// The first bucket ends here; nobody needs to tell faster servers apart.
const SHORTEST: u32 = 7;
pub const BUCKETS: usize = 76;

/// Which responses are timed, each from its request. No request is remembered, so a response that comes once more is timed
/// once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// The first answer to an INVITE: 100, or what rings where the server has never said 100.
    First,
    /// What rings, or says that the call is on its way: 180 and other 1xx to an INVITE.
    Ringing,
    /// The final response to an INVITE: as quick as somebody picks up.
    Final,
    /// The final response to anything else.
    Other,
}

impl Timed {
    /// In the order of their numbers.
    pub const ALL: [Self; 4] = [Self::First, Self::Ringing, Self::Final, Self::Other];

    /// What a response with this method and status is, whoever sent it; nothing that is timed where no INVITE gets a 1xx.
    #[inline]
    pub fn of(method: Method, status: u16) -> Option<Self> {
        match (method == Method::Invite, status) {
            (true, ..=100) => Some(Self::First),
            (true, 101..200) => Some(Self::Ringing),
            (true, _) => Some(Self::Final),
            (false, 200..) => Some(Self::Other),
            (false, _) => None,
        }
    }

    /// What it is called.
    pub fn word(self) -> &'static str {
        match self {
            Self::First => "invite_first",
            Self::Ringing => "invite_ringing",
            Self::Final => "invite_final",
            Self::Other => "other_final",
        }
    }
}

/// Answers by the time that they took: from 128 microseconds to 58 seconds, the last bucket holds the rest.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    micros: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), micros: Counter::default() }
    }
}

impl Histogram {
    #[inline]
    pub fn add(&self, micros: u64) {
        self.buckets[bucket(micros)].add(1);
        self.micros.add(micros);
    }
}

/// The bucket of a time: its highest bit and the two below it.
#[inline]
fn bucket(micros: u64) -> usize {
    let micros = micros.max(1 << SHORTEST);
    let highest = micros.ilog2();
    let quarter = (micros >> (highest - 2)) as u32 & (PER_DOUBLING - 1);
    (((highest - SHORTEST) * PER_DOUBLING + quarter) as usize).min(BUCKETS - 1)
}

/// Where a bucket ends, in microseconds.
fn end(bucket: usize) -> u64 {
    let (doubling, quarter) = (bucket as u32 / PER_DOUBLING, bucket as u64 % u64::from(PER_DOUBLING));
    (u64::from(PER_DOUBLING) + quarter + 1) << (doubling + SHORTEST - 2)
}

/// Histograms of some kinds and of all workers, summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseTimes {
    buckets: [u64; BUCKETS],
    micros: u64,
}

impl Default for ResponseTimes {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], micros: 0 }
    }
}

impl ResponseTimes {
    pub fn sum<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut sum = Self::default();
        for Histogram { buckets, micros } in histograms {
            sum.buckets.iter_mut().zip(buckets).for_each(|(sum, counter)| *sum += counter.get());
            sum.micros += micros.get();
        }
        sum
    }

    /// What was timed after an earlier look at the same histograms. Nothing where they began anew in between.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            buckets: std::array::from_fn(|at| self.buckets[at].saturating_sub(earlier.buckets[at])),
            micros: self.micros.saturating_sub(earlier.micros),
        }
    }

    /// Adds another server's.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, n)| *sum += n);
        self.micros += other.micros;
    }

    /// How many answers were timed.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How long all of them took together.
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.micros)
    }

    /// What so many percent of the answers did not take longer than; `None` where nothing was timed.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let wanted = (self.count() * percent.min(100)).div_ceil(100).max(1);
        let mut seen = 0;
        let at = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        at.map(|at| Duration::from_micros(end(at)))
    }

    /// Each bucket's end and how many answers are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.buckets.iter().enumerate().map(|(at, count)| (Duration::from_micros(end(at)), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_in_the_bucket_that_ends_behind_it(micros in 0u64..58_000_000) {
            let at = bucket(micros);
            prop_assert!(micros < end(at) && (at == 0 || micros >= end(at - 1)));
            prop_assert!(end(at) <= 160.max(micros + micros / 4 + 1), "{micros} in a bucket up to {}", end(at));
        }

        #[test]
        fn percentiles_are_those_of_a_sorted_list(mut times in proptest::collection::vec(0u64..58_000_000, 1..200), percent in 1u64..=100) {
            let workers = [Histogram::default(), Histogram::default()];
            times.iter().enumerate().for_each(|(n, micros)| workers[n % 2].add(*micros));
            times.sort_unstable();
            let exact = times[(times.len() as u64 * percent).div_ceil(100) as usize - 1];
            let found = ResponseTimes::sum(workers.iter()).percentile(percent);
            prop_assert_eq!(found, Some(Duration::from_micros(end(bucket(exact)))));
        }

        /// What lies between two looks is what was added between them, and nothing of before.
        #[test]
        fn a_window_holds_what_was_timed_in_it(
            before in proptest::collection::vec(0u64..90_000_000, 0..100), within in proptest::collection::vec(0u64..90_000_000, 0..100),
        ) {
            let (all, model) = ([Histogram::default(), Histogram::default()], Histogram::default());
            let look = || ResponseTimes::sum(all.iter());
            before.iter().enumerate().for_each(|(n, micros)| all[n % 2].add(*micros));
            let earlier = look();
            within.iter().enumerate().for_each(|(n, micros)| all[n % 2].add(*micros));
            within.iter().for_each(|micros| model.add(*micros));
            let window = look().since(&earlier);
            prop_assert_eq!(&window, &ResponseTimes::sum([&model].into_iter()));
            prop_assert_eq!((window.count(), window.total()), (within.len() as u64, Duration::from_micros(within.iter().sum())));
            prop_assert_eq!(earlier.since(&look()).count(), 0);
        }
    }

    #[test]
    fn the_last_bucket_holds_the_rest_and_nothing_has_no_percentile() {
        let histogram = Histogram::default();
        assert_eq!(ResponseTimes::sum([&histogram].into_iter()).percentile(50), None);
        histogram.add(u64::MAX);
        let times = ResponseTimes::sum([&histogram].into_iter());
        assert_eq!((times.count(), times.buckets().last().unwrap().1), (1, 1));
    }
}
