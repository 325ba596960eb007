//! Smooth weighted round robin: an order of turns that is computed once and walked by all workers together.
//!
//! After any number of turns each candidate has had its share of them to less than one turn, and one that is twice as
//! heavy comes at every other place rather than twice in a row. The order is that of a fair schedule (Baruah and others,
//! "Proportionate progress", 1996): the n-th turn of a candidate may come from n/share on and must come before
//! (n+1)/share; of those that may, the one that must come first is next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU32, Ordering};

/// The longest order. Weights whose common period is longer are met to one turn in so many.
const LONGEST: u64 = 65_536;

/// Who is next.
#[derive(Debug)]
pub struct Turns {
    order: Box<[u16]>,
    /// The next turn: of calls, and of what opens no call. Else two kinds of requests that alternate would go to one half
    /// of the servers each.
    ///
    /// One for all workers, so that the split is exact whatever the kernel gives to which of them.
    next: [AtomicU32; 2],
}

impl Turns {
    /// For candidates of these weights, named by position; zero has no turn. `previous` says where it goes on.
    pub fn new(weights: &[u32], previous: Option<&Self>) -> Self {
        let next = |kind: usize| previous.map_or(0, |turns| turns.next[kind].load(Ordering::Relaxed));
        Self { order: order(weights), next: [AtomicU32::new(next(0)), AtomicU32::new(next(1))] }
    }

    /// Takes a turn.
    #[inline]
    pub fn take(&self, call: bool) -> Option<usize> {
        // The counter ends at 2^32: an order that does not divide that has one short round in four thousand million turns.
        let turn = self.next[usize::from(call)].fetch_add(1, Ordering::Relaxed) as usize;
        self.order.get(turn % self.order.len().max(1)).map(|at| *at as usize)
    }
}

fn order(weights: &[u32]) -> Box<[u16]> {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    // When the n-th turn of a weight may come, and when it must have come.
    let from = |n: u64, weight: u32| n * total / u64::from(weight);
    let before = |n: u64, weight: u32| ((n + 1) * total).div_ceil(u64::from(weight));
    let first = weights.iter().zip(0u16..).filter(|(weight, _)| **weight > 0);
    let mut waiting: BinaryHeap<_> = first.map(|(_, at)| Reverse((0, at, 0))).collect();
    let mut ready = BinaryHeap::new();
    let next = |turn: u64| {
        while let Some(Reverse((_, at, n))) = waiting.peek().copied().filter(|Reverse((from, ..))| *from <= turn) {
            waiting.pop();
            ready.push(Reverse((before(n, weights[at as usize]), at, n)));
        }
        let Reverse((_, at, n)) = ready.pop()?;
        waiting.push(Reverse((from(n + 1, weights[at as usize]), at, n + 1)));
        Some(at)
    };
    (0..total.min(LONGEST)).map_while(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The definition: after every single turn each has its share to less than one.
        #[test]
        fn everybody_has_its_share_after_every_turn(weights in proptest::collection::vec(0u32..30, 1..12)) {
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let order = order(&weights);
            prop_assert_eq!(order.len() as u64, total);
            let mut had = vec![0u64; weights.len()];
            for (at, turn) in order.iter().zip(1u64..) {
                had[*at as usize] += 1;
                for (had, weight) in had.iter().zip(&weights) {
                    // had - share in parts of `total`.
                    let off = (had * total).abs_diff(turn * u64::from(*weight));
                    prop_assert!(off < total, "{had} of {turn} turns with weight {weight} of {total}");
                }
            }
        }
    }

    #[test]
    fn heavy_ones_come_often_not_in_a_row() {
        let spelled = |weights: &[u32]| order(weights).iter().map(|at| at.to_string()).collect::<String>();
        assert_eq!(spelled(&[1, 1, 1]), "012");
        assert_eq!(spelled(&[2, 1, 1]), "0102");
        assert_eq!(spelled(&[0, 3, 0, 1]), "1113");
        assert_eq!(spelled(&[6, 1, 1]), "00010002");
        assert_eq!(spelled(&[0, 0]), "");
    }

    #[test]
    fn calls_and_the_rest_take_turns_of_their_own_and_go_on_behind_a_change() {
        let turns = Turns::new(&[1, 1], None);
        // A registration before each call: one turn for both, and each kind would see one server only.
        let taken: Vec<_> = (0..4).map(|_| (turns.take(false).unwrap(), turns.take(true).unwrap())).collect();
        assert_eq!(taken, [(0, 0), (1, 1), (0, 0), (1, 1)]);
        turns.take(true);
        let later = Turns::new(&[1, 1, 1], Some(&turns));
        assert_eq!((later.take(true), later.take(false)), (Some(2), Some(1)));
    }
}
