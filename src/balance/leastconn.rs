//! Who has the fewest calls for its weight, known at any moment: a tournament over all of a region's servers.
//!
//! Each server has a key; every node of a binary tree holds the winner of its two children, the lowest key. Who wins is
//! read at the root. A key that changes is carried up, one comparison for each level: ten of them for a thousand servers.
//!
//! Workers change keys at once and without waiting for each other. Then a node may hold yesterday's winner until the next
//! change below it, and whoever keeps the calls sets all keys anew once a second. One worker alone is always exact.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The key of a server that takes nothing.
const CLOSED: u64 = u64::MAX;
/// The lower bits of a key say when the server was last chosen: of equals the one that waits longest wins.
const STAMP_BITS: u32 = 24;
const STAMP: u64 = (1 << STAMP_BITS) - 1;
/// Loads are compared in 1/65536: for weights up to 256 no two that differ look alike.
const LOAD_BITS: u32 = 16;

/// Weights of more bits (SRV records have such, and `slow_start` writes in hundredths) are taken coarser: else a call more
/// or less would not show in the load.
const WEIGHT_BITS: u32 = 12;

/// The tournament, and the load of each server.
#[derive(Debug)]
pub struct Fewest {
    /// Divided by what they have in common.
    weights: Box<[u32]>,
    keys: Box<[AtomicU64]>,
    /// Winners, from 1 for the root; the children of n are 2n and 2n+1, and behind the last node come the servers.
    tree: Box<[AtomicU16]>,
    stamp: AtomicU32,
}

impl Fewest {
    /// For servers of these weights, named by position. All are closed until their loads are [set](Self::set).
    pub fn new(weights: &[u32]) -> Self {
        let common = weights.iter().fold(0, |common, weight| gcd(common, *weight)).max(1);
        let largest = weights.iter().max().map_or(1, |weight| weight / common).max(1);
        let coarser = (largest.ilog2() + 1).saturating_sub(WEIGHT_BITS);
        let fewest = Self {
            weights: weights.iter().map(|weight| ((weight / common) >> coarser).max(u32::from(*weight > 0))).collect(),
            keys: weights.iter().map(|_| AtomicU64::new(CLOSED)).collect(),
            tree: (0..weights.len().next_power_of_two()).map(|_| AtomicU16::new(0)).collect(),
            stamp: AtomicU32::new(0),
        };
        // Nobody's winner may be somebody from elsewhere.
        (1..fewest.tree.len()).rev().for_each(|node| fewest.play(node));
        fewest
    }

    /// A server has so many calls, or `None`: it takes none. One of weight zero never does.
    #[inline]
    pub fn set(&self, at: usize, load: Option<u32>) {
        let before = self.keys[at].load(Ordering::Relaxed);
        let key = match (load, self.weights[at]) {
            (None, _) | (_, 0) => CLOSED,
            // What it would be with one more: so that of three idle servers the heaviest is first.
            (Some(load), weight) => {
                let load = ((u64::from(load) + 1) << LOAD_BITS) / u64::from(weight);
                let stamp = if before == CLOSED { 0 } else { before & STAMP };
                load.min((CLOSED >> STAMP_BITS) - 1) << STAMP_BITS | stamp
            }
        };
        if key != before {
            self.put(at, key);
        }
    }

    /// The server with the fewest calls for its weight; of equals the one that was not chosen for the longest time. It
    /// counts as chosen now.
    #[inline]
    pub fn choose(&self) -> Option<usize> {
        let at = self.winner(1);
        let key = self.key(at);
        if key == CLOSED {
            return None;
        }
        let stamp = u64::from(self.stamp.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        self.put(at, key & !STAMP | stamp & STAMP);
        Some(at)
    }

    /// Whether a server has fewer calls for its weight than another.
    pub fn is_less(&self, at: usize, other: usize) -> bool {
        self.key(at) >> STAMP_BITS < self.key(other) >> STAMP_BITS
    }

    fn put(&self, at: usize, key: u64) {
        self.keys[at].store(key, Ordering::Relaxed);
        let mut node = (self.tree.len() + at) / 2;
        while node > 0 {
            self.play(node);
            node /= 2;
        }
    }

    /// Sets a node's winner.
    fn play(&self, node: usize) {
        let (left, right) = (self.winner(2 * node), self.winner(2 * node + 1));
        let winner = if self.key(right) < self.key(left) { right } else { left };
        self.tree[node].store(winner as u16, Ordering::Relaxed);
    }

    #[inline]
    fn winner(&self, node: usize) -> usize {
        self.tree.get(node).map_or_else(|| node - self.tree.len(), |winner| winner.load(Ordering::Relaxed).into())
    }

    #[inline]
    fn key(&self, at: usize) -> u64 {
        self.keys.get(at).map_or(CLOSED, |key| key.load(Ordering::Relaxed))
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is asked for, and nothing else: look at everybody.
    fn naive(weights: &[u32], loads: &[Option<u32>], chosen: &[u32]) -> Option<usize> {
        let open = (0..weights.len()).filter(|&at| weights[at] > 0 && loads[at].is_some());
        open.min_by(|&a, &b| {
            let load = |at: usize| u64::from(loads[at].unwrap_or_default()) + 1;
            let (left, right) = (load(a) * u64::from(weights[b]), load(b) * u64::from(weights[a]));
            left.cmp(&right).then(chosen[a].cmp(&chosen[b])).then(a.cmp(&b))
        })
    }

    proptest! {
        #[test]
        fn is_what_a_look_at_everybody_finds(
            weights in proptest::collection::vec(0u32..=256, 1..40),
            steps in proptest::collection::vec((any::<prop::sample::Index>(), 0u32..10), 1..400),
        ) {
            let fewest = Fewest::new(&weights);
            let (mut loads, mut chosen) = (vec![None; weights.len()], vec![0; weights.len()]);
            prop_assert_eq!(fewest.choose(), None, "closed until somebody says how it is");
            for ((index, what), n) in steps.into_iter().zip(1..) {
                let at = index.index(weights.len());
                match what {
                    // Call ends, server closes or opens, and mostly calls begin.
                    0..=2 => loads[at] = loads[at].map(|load: u32| load.saturating_sub(1)),
                    3 => { loads[at] = None; chosen[at] = 0; }
                    4 => loads[at] = loads[at].or(Some(0)),
                    _ => {
                        let expected = naive(&weights, &loads, &chosen);
                        prop_assert_eq!(fewest.choose(), expected);
                        let Some(at) = expected else { continue };
                        chosen[at] = n;
                        loads[at] = loads[at].map(|load| load + 1);
                        fewest.set(at, loads[at]);
                    }
                }
                fewest.set(at, loads[at]);
            }
        }
    }

    #[test]
    fn calls_that_never_end_are_split_by_weight() {
        let weights = [100, 200, 100, 0];
        let (fewest, mut loads) = (Fewest::new(&weights), [0; 4]);
        (0..4).for_each(|at| fewest.set(at, Some(0)));
        for _ in 0..100_000 {
            let at = fewest.choose().unwrap();
            loads[at] += 1;
            fewest.set(at, Some(loads[at]));
        }
        assert_eq!(loads, [25_000, 50_000, 25_000, 0]);
    }

    #[test]
    fn large_weights_are_met_too() {
        let (fewest, mut loads) = (Fewest::new(&[6_553_500, 2_184_501, 1]), [0; 3]);
        (0..3).for_each(|at| fewest.set(at, Some(0)));
        for _ in 0..10_000 {
            let at = fewest.choose().unwrap();
            loads[at] += 1;
            fewest.set(at, Some(loads[at]));
        }
        assert!(loads[0].abs_diff(7_500) < 10 && loads[1].abs_diff(2_500) < 10 && loads[2] < 10, "{loads:?}");
    }

    #[test]
    fn equals_take_turns() {
        let fewest = Fewest::new(&[7, 7, 7]);
        (0..3).for_each(|at| fewest.set(at, Some(4)));
        assert_eq!((0..6).map(|_| fewest.choose().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    }
}
