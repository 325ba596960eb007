//! How quickly servers answer: fixed histograms that one worker writes with a plain store.

use std::time::Duration;

use super::counters::Counter;

/// Four buckets for each doubling: what is read from them is at most a quarter too long.
const PER_DOUBLING: u32 = 4;
/// The first bucket ends here; nobody needs to tell faster servers apart.
const SHORTEST: u32 = 7;
pub const BUCKETS: usize = 64;

/// Answers by the time that they took: from 128 microseconds to 7.3 seconds, the last bucket holds the rest.
#[derive(Debug)]
pub struct Histogram([Counter; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Histogram {
    #[inline]
    pub fn add(&self, micros: u64) {
        self.0[bucket(micros)].add(1);
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

/// The histograms of all workers, summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseTimes([u64; BUCKETS]);

impl ResponseTimes {
    pub fn sum<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut sum = [0; BUCKETS];
        for Histogram(counters) in histograms {
            sum.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += counter.get());
        }
        Self(sum)
    }

    /// How many answers were timed.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What so many percent of the answers did not take longer than; `None` where nothing was timed.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let wanted = (self.count() * percent.min(100)).div_ceil(100).max(1);
        let mut seen = 0;
        let at = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        at.map(|at| Duration::from_micros(end(at)))
    }

    /// Each bucket's end and how many answers are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.0.iter().enumerate().map(|(at, count)| (Duration::from_micros(end(at)), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_in_the_bucket_that_ends_behind_it(micros in 0u64..7_000_000) {
            let at = bucket(micros);
            prop_assert!(micros < end(at) && (at == 0 || micros >= end(at - 1)));
            prop_assert!(end(at) <= 160.max(micros + micros / 4 + 1), "{micros} in a bucket up to {}", end(at));
        }

        #[test]
        fn percentiles_are_those_of_a_sorted_list(mut times in proptest::collection::vec(0u64..7_000_000, 1..200), percent in 1u64..=100) {
            let workers = [Histogram::default(), Histogram::default()];
            times.iter().enumerate().for_each(|(n, micros)| workers[n % 2].add(*micros));
            times.sort_unstable();
            let exact = times[(times.len() as u64 * percent).div_ceil(100) as usize - 1];
            let found = ResponseTimes::sum(workers.iter()).percentile(percent);
            prop_assert_eq!(found, Some(Duration::from_micros(end(bucket(exact)))));
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
