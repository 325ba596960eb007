//! Weighted rendezvous hashing, precomputed into a table.
//!
//! Each row gives every candidate the score `-log2(u) / weight`, where `u` in (0, 1] is a keyed hash of row and
//! candidate; the lowest score wins (Thaler and Ravishankar's highest random weight with the weighting of Schindelhauer
//! and Schomaker). A candidate that leaves gives up its own rows and no other; one that comes takes rows in proportion
//! to its weight; nothing moves between the rest. Scores are fixed-point integers: floating point could differ
//! between two nodes.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

/// Rows of a table. A share's standard deviation is sqrt(p(1-p)/rows): 0.18 points at 70 %, so that any key holds the
/// bar of one point. The number never depends on the candidates, else a new server would move every key.
pub const ROWS: usize = 65_536;

/// The largest weight: 1,000 regions' worth of weight 1,000 in units of 1/65536 fits.
pub const MAX_WEIGHT: u32 = u32::MAX;

const NOBODY: u16 = u16::MAX;

/// Somebody who may win a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Stable identity, the same on every node: a hash of the name.
    pub id: u32,
    /// Zero never wins.
    pub weight: u32,
}

/// The winner of every row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Sorted by identity, without those of weight zero.
    candidates: Vec<Candidate>,
    /// Position of the winner in `candidates`.
    winners: Vec<u16>,
    /// The winner's score, kept so that a change is scored against it alone.
    scores: Vec<u64>,
}

impl Table {
    /// Those that may be picked, with their weights.
    pub fn weights(&self) -> impl Iterator<Item = Candidate> {
        self.candidates.iter().copied()
    }

    /// The table for `candidates`: `previous` itself where nothing changed, else a new one in which only the rows that
    /// the change can touch are scored anew. `domain` keeps equal identities of different kinds apart.
    pub fn renew(
        key: &[u8; 16],
        domain: &[u8; 8],
        candidates: &[Candidate],
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let mut wanted: Vec<_> = candidates.iter().copied().filter(|candidate| candidate.weight > 0).collect();
        wanted.sort_unstable();
        debug_assert!(wanted.len() < NOBODY as usize && wanted.windows(2).all(|pair| pair[0].id != pair[1].id));
        let scorer = Scorer::new(key, domain);
        match previous {
            Some(previous) if previous.candidates == wanted => Arc::clone(previous),
            Some(previous) => Arc::new(previous.changed_to(wanted, &scorer)),
            None => Arc::new(Self::empty().changed_to(wanted, &scorer)),
        }
    }

    fn empty() -> Self {
        Self { candidates: Vec::new(), winners: vec![NOBODY; ROWS], scores: vec![u64::MAX; ROWS] }
    }

    /// The identity of the winner of a row.
    #[inline]
    pub fn pick(&self, row: u16) -> Option<u32> {
        self.candidates.get(self.winners[row as usize] as usize).map(|candidate| candidate.id)
    }

    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Whether somebody may win a row of it.
    pub fn holds(&self, id: u32) -> bool {
        self.candidates.binary_search_by_key(&id, |candidate| candidate.id).is_ok()
    }

    /// Scores the rows that differ. A candidate that kept or raised its weight still beats everybody it beat before,
    /// so its rows are contested only by those that came or rose.
    fn changed_to(&self, candidates: Vec<Candidate>, scorer: &Scorer) -> Self {
        let position = |id: u32| candidates.binary_search_by_key(&id, |candidate| candidate.id).ok();
        let weight_before = |id: u32| {
            self.candidates
                .binary_search_by_key(&id, |candidate| candidate.id)
                .map_or(0, |at| self.candidates[at].weight)
        };
        // Where each former candidate stands now, if it is no weaker than before.
        let kept: Vec<_> = self
            .candidates
            .iter()
            .map(|before| position(before.id).filter(|&at| candidates[at].weight >= before.weight))
            .collect();
        let risen: Vec<_> =
            (0..candidates.len()).filter(|&at| candidates[at].weight > weight_before(candidates[at].id)).collect();
        let mut table = Self { winners: vec![NOBODY; ROWS], scores: vec![u64::MAX; ROWS], candidates };
        for row in 0..ROWS {
            let before = self.winners[row] as usize;
            match kept.get(before).copied().flatten() {
                Some(winner) => {
                    let same = table.candidates[winner].weight == self.candidates[before].weight;
                    let score = if same { Some(self.scores[row]) } else { None };
                    table.contest(row, Some((winner, score)), risen.iter().copied(), scorer);
                }
                None => table.contest(row, None, 0..table.candidates.len(), scorer),
            }
        }
        table
    }

    /// Finds the winner of a row among its holder, whose score may be known, and the challengers.
    fn contest(
        &mut self,
        row: usize,
        holder: Option<(usize, Option<u64>)>,
        challengers: impl Iterator<Item = usize>,
        scorer: &Scorer,
    ) {
        let mut best = Best::NOBODY;
        if let Some((at, known)) = holder {
            let candidate = self.candidates[at];
            match known {
                Some(score) => best.take(score, candidate, at, 0),
                None => best.enter(scorer.hash(row, candidate.id), candidate, at),
            }
        }
        for at in challengers {
            let candidate = self.candidates[at];
            best.enter(scorer.hash(row, candidate.id), candidate, at);
        }
        (self.scores[row], self.winners[row]) = (best.score, best.at);
    }
}

/// The best candidate of a row so far.
struct Best {
    score: u64,
    id: u32,
    at: u16,
    weight: u32,
    /// A candidate that is no heavier and whose hash lies below this cannot win: no score is needed to know. Zero where
    /// the hash of the best is not known.
    hash: u64,
}

impl Best {
    const NOBODY: Self = Self { score: u64::MAX, id: u32::MAX, at: NOBODY, weight: 0, hash: 0 };

    #[inline]
    fn enter(&mut self, hash: u64, candidate: Candidate, at: usize) {
        if hash < self.hash && candidate.weight <= self.weight {
            return;
        }
        self.contend(hash, candidate, at);
    }

    /// Hardly ever called: the best of so many candidates changes only about ln(so many) times.
    #[inline(never)]
    fn contend(&mut self, hash: u64, candidate: Candidate, at: usize) {
        let score = score(hash, candidate.weight);
        if (score, candidate.id) < (self.score, self.id) {
            self.take(score, candidate, at, hash);
        }
    }

    fn take(&mut self, score: u64, candidate: Candidate, at: usize, hash: u64) {
        *self = Self { score, id: candidate.id, at: at as u16, weight: candidate.weight, hash };
    }
}

/// Hashes rows and candidates under one key.
struct Scorer {
    hasher: SipHasher13,
}

impl Scorer {
    fn new(key: &[u8; 16], domain: &[u8; 8]) -> Self {
        let mut hasher = SipHasher13::new_with_key(key);
        hasher.write(domain);
        Self { hasher }
    }

    #[inline]
    fn hash(&self, row: usize, id: u32) -> u64 {
        // Goes on from where the domain was hashed; in one piece, which is a third of what a stream costs.
        self.hasher.hash(&((row as u64) << 32 | u64::from(id)).to_be_bytes())
    }
}

/// `-log2((hash + 1) / 2^64) / weight` in fixed point; the lower, the better.
fn score(hash: u64, weight: u32) -> u64 {
    // The largest logarithm is 64, seven bits.
    const SHIFT: u32 = 64 - 7 - LOG_BITS;
    let log = match hash.checked_add(1) {
        Some(u) => (64 << LOG_BITS) - log2(u),
        None => 0,
    };
    (log << SHIFT) / u64::from(weight)
}

/// Fractional bits of [`log2`].
const LOG_BITS: u32 = 48;

/// `log2(u)` with 48 fractional bits, exact to a few units in the last place; the same on every machine.
///
/// The mantissa is divided by the largest of 128 table steps below it, and the quotient's logarithm, less than
/// log2(1 + 1/128), comes from five terms of its series.
fn log2(u: u64) -> u64 {
    debug_assert!(u > 0);
    let exponent = u.ilog2();
    // 1.0 <= mantissa < 2.0 in units of 2^-63.
    let mantissa = u << (63 - exponent);
    let step = (mantissa >> 56) as usize & 127;
    // mantissa / (1 + step/128) - 1, in units of 2^-63.
    let base = 128 + step as u64;
    // (mantissa << 7) / base in two steps of 64 bits: the first division leaves a rest below 256.
    let quotient = ((mantissa / base) << 7) + ((mantissa % base) << 7) / base;
    let x = quotient - (1 << 63);
    (u64::from(exponent) << LOG_BITS) + LOG_STEPS[step] + series(x)
}

/// `log2(1 + x)` for a small `x` in units of 2^-63: (x - x²/2 + x³/3 - ...) / ln 2, with 48 fractional bits.
const fn series(x: u64) -> u64 {
    const LOG2_E: u128 = 0x1_7154_7652_b82f_e177; // log2(e) in units of 2^-64
    let mut power = x;
    let mut sum = x;
    let mut term = 2;
    while term <= 7 {
        power = ((power as u128 * x as u128) >> 63) as u64;
        // The first term is the largest by far: the sum never falls below zero.
        sum = if term % 2 == 0 { sum - power / term } else { sum + power / term };
        term += 1;
    }
    // 2^-63 times 2^-64 down to 2^-48.
    (((sum >> 15) as u128 * (LOG2_E >> 16)) >> 48) as u64
}

/// `log2(1 + step/128)` with 48 fractional bits, each from the one before it by the series.
static LOG_STEPS: [u64; 128] = {
    let mut steps = [0; 128];
    let mut step = 1;
    while step < 128 {
        // (128 + step) / (127 + step) = 1 + 1 / (127 + step)
        steps[step] = steps[step - 1] + series((1u64 << 63) / (127 + step as u64));
        step += 1;
    }
    steps
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_integer_logarithm_is_the_real_one(u in 1u64..) {
            let real = (u as f64).log2();
            let ours = log2(u) as f64 / (1u64 << LOG_BITS) as f64;
            prop_assert!((real - ours).abs() < 1e-10, "log2({u}) = {real}, not {ours}");
        }

        #[test]
        fn a_higher_hash_is_never_worse(a: u64, b: u64, weight in 1u32..) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(score(high, weight) <= score(low, weight));
        }
    }

    #[test]
    fn the_logarithm_is_monotone_where_a_table_step_begins() {
        for step in 0..128u64 {
            for exponent in 8..64 {
                let edge = (1u64 << (exponent - 1)) + (step << (exponent - 8));
                for u in edge.saturating_sub(2).max(1)..edge + 2 {
                    assert!(log2(u) <= log2(u + 1), "{u}");
                }
            }
        }
    }

    #[test]
    fn extremes_have_scores() {
        assert_eq!(score(u64::MAX, 1), 0);
        assert!(score(0, 1) > score(1, 1));
        assert!(score(0, u32::MAX) < score(0, 1));
    }
}
