//! A hash table of 64-bit keys and values that many threads read and write without waiting for each other.
//!
//! Fixed buckets of eight entries, allocated once; each key has two buckets it may stand in, which fills the table
//! to three fifths before any bucket overflows. A key's hash must be keyed: the table uses the key's bits as they are.
//!
//! An entry is a key word and a value word. Who replaces an entry takes its slot first (key word to [`BUSY`]), writes
//! the value, then the new key; who reads looks at the key before and after the value. So nobody sees one entry's key
//! with another's value, and a thread that is stopped half-way blocks one slot and nobody.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Entries of one bucket: their keys fill one cache line, their values the next.
const SLOTS: usize = 8;
const WORDS: usize = 2 * SLOTS;

/// A key goes to its second bucket only where more slots than these of its first one are taken. Slots are filled from the
/// front and are never empty again: while this one is empty, nothing is in the second that should be in the first.
const FILLED: usize = SLOTS / 2;

const EMPTY: u64 = 0;
const BUSY: u64 = 1;

/// See the module's documentation.
pub struct Table {
    /// Buckets of keys and values, one bucket more than used so that they can begin at a cache line.
    words: Box<[AtomicU64]>,
    first: usize,
    mask: usize,
}

/// An entry that was found: its place and its value at that moment.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    word: usize,
    pub value: u64,
}

/// An entry of this rank or more gives way only to one that is as firm.
pub const FIRM: u64 = 1 << 31;

/// The rank of a slot that another thread is about to fill: it never gives way.
const BUSY_RANK: u64 = u64::MAX;

/// A slot that may be taken.
struct Candidate {
    rank: u64,
    /// How many slots of its bucket are free.
    free: usize,
    word: usize,
    holder: u64,
}

/// What an insertion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// Into a slot that was as good as free. The value that was in it is for who keeps books of the entries.
    Free(u64),
    /// In place of another entry, with this value.
    Evicted(u64),
    /// Nowhere: other threads took every slot that was looked at, or what is there is firmer.
    Nowhere,
}

impl Table {
    /// A table for so many entries; memory is 16 bytes for each of 1.67 to 3.33 times that many slots, touched page by
    /// page as it fills.
    pub fn new(entries: usize) -> Self {
        let buckets = (entries * 5 / 3).div_ceil(SLOTS).next_power_of_two();
        let words: Box<[AtomicU64]> = bytemuck::zeroed_slice_box((buckets + 1) * WORDS);
        // Words are 8 bytes apart, so a cache line begins within the first eight of them.
        let first = words.as_ptr().align_offset(64).min(WORDS);
        Self { words, first, mask: buckets - 1 }
    }

    /// Where the two buckets of a key begin.
    #[inline]
    fn buckets(&self, key: u64) -> [usize; 2] {
        // Neither overflows: it is a place in the table.
        let place = |hash: usize| self.first.wrapping_add((hash & self.mask).wrapping_mul(WORDS));
        [key as usize, (key >> 32) as usize].map(place)
    }

    /// Keys that would mean "empty" or "busy" move away: that two of 2^64 keys are one changes nothing.
    #[inline]
    fn proper(key: u64) -> u64 {
        key.max(BUSY + 1)
    }

    /// Looks a key up.
    #[inline]
    pub fn get(&self, key: u64) -> Option<Entry> {
        let key = Self::proper(key);
        let [first, second] = self.buckets(key);
        match self.get_in(first, key) {
            // What is not there usually costs one cache line, then: half of what a new call waits for.
            None if self.bucket(first)[FILLED].load(Ordering::Acquire) == EMPTY => None,
            None => self.get_in(second, key),
            found => found,
        }
    }

    #[inline(always)]
    fn get_in(&self, bucket: usize, key: u64) -> Option<Entry> {
        let slots = self.bucket(bucket);
        let slot = (0..SLOTS).find(|slot| slots[*slot].load(Ordering::Acquire) == key)?;
        let value = slots[SLOTS + slot].load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        // Taken by another key meanwhile: then it is not there.
        (slots[slot].load(Ordering::Relaxed) == key).then_some(Entry { word: bucket + SLOTS + slot, value })
    }

    /// The words of a bucket.
    #[inline(always)]
    fn bucket(&self, at: usize) -> &[AtomicU64; WORDS] {
        self.words[at..].first_chunk().expect("a bucket more than used")
    }

    /// Replaces the value of a found entry unless it changed meanwhile.
    #[inline]
    pub fn update(&self, entry: Entry, value: u64) -> bool {
        self.words[entry.word].compare_exchange(entry.value, value, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Inserts a key that is not there. Where no slot is free the entry of the lowest rank gives way in the bucket that has fewer
    /// firm ones; `rank` says 0 for an entry that is as good as free.
    pub fn insert(&self, key: u64, value: u64, rank: impl Fn(u64) -> u64) -> Inserted {
        const TRIES: usize = 4;
        let key = Self::proper(key);
        for _ in 0..TRIES {
            let limit = if rank(value) < FIRM { FIRM } else { BUSY_RANK };
            let Some((word, holder)) = self.place(key, limit, &rank) else { return Inserted::Nowhere };
            if self.words[word].compare_exchange(holder, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            fence(Ordering::Release);
            // An update of the entry that gives way comes before this or fails: nothing that was written goes unseen.
            let before = self.words[word + SLOTS].swap(value, Ordering::Relaxed);
            self.words[word].store(key, Ordering::Release);
            let free = holder == EMPTY || rank(before) == 0;
            return if free { Inserted::Free(before) } else { Inserted::Evicted(before) };
        }
        Inserted::Nowhere
    }

    /// The best slot for a new key, of a rank below `limit`, and who holds it: a free one in the first bucket where it is not
    /// half full, else in the emptier one, else the lowest rank in the one that has fewer firm entries. By the lowest rank in both
    /// a flood of others would fill some buckets with firm ones and leave none to give way.
    fn place(&self, key: u64, limit: u64, rank: &impl Fn(u64) -> u64) -> Option<(usize, u64)> {
        let [first, second] = self.buckets(key);
        let mut best = self.candidate(first, rank);
        if best.free < SLOTS - FILLED {
            let other = self.candidate(second, rank);
            let is_better = match (best.free, other.free) {
                (0, 0) => (self.firm(second, rank), other.rank) < (self.firm(first, rank), best.rank),
                (free, others) => others > free,
            };
            if is_better {
                best = other;
            }
        }
        (best.rank < limit).then_some((best.word, best.holder))
    }

    /// How many entries of a bucket are firm.
    fn firm(&self, bucket: usize, rank: &impl Fn(u64) -> u64) -> usize {
        let words = self.bucket(bucket);
        let is_firm = |slot: &usize| rank(words[SLOTS + slot].load(Ordering::Relaxed)) >= FIRM;
        (0..SLOTS).filter(is_firm).count()
    }

    /// The slot of a bucket that gives way first.
    #[inline(always)]
    fn candidate(&self, bucket: usize, rank: &impl Fn(u64) -> u64) -> Candidate {
        let words = self.bucket(bucket);
        let mut best = Candidate { rank: BUSY_RANK, free: 0, word: bucket, holder: BUSY };
        for slot in 0..SLOTS {
            let holder = words[slot].load(Ordering::Relaxed);
            let rank = match holder {
                // Slots are filled from the front, so all behind it are empty too.
                EMPTY if best.rank == 0 => return Candidate { free: best.free + SLOTS - slot, ..best },
                EMPTY => return Candidate { rank: 0, free: SLOTS - slot, word: bucket + slot, holder },
                BUSY => BUSY_RANK,
                _ => rank(words[SLOTS + slot].load(Ordering::Relaxed)),
            };
            best.free += usize::from(rank == 0);
            if rank < best.rank {
                best = Candidate { rank, word: bucket + slot, holder, ..best };
            }
        }
        best
    }

    /// Every value that is there: for counting, not for the message path.
    pub fn values(&self) -> impl Iterator<Item = u64> {
        self.entries(0..self.buckets_in_all()).map(|entry| entry.value)
    }

    /// Every key with its value, each pair as it was at one moment. Walks the whole table.
    pub fn pairs(&self) -> impl Iterator<Item = (u64, u64)> {
        (0..self.buckets_in_all()).flat_map(|bucket| {
            let at = self.first + bucket * WORDS;
            (at..at + SLOTS).filter_map(|word| {
                let key = self.words[word].load(Ordering::Acquire);
                let value = self.words[word + SLOTS].load(Ordering::Relaxed);
                fence(Ordering::Acquire);
                (key > BUSY && self.words[word].load(Ordering::Relaxed) == key).then_some((key, value))
            })
        })
    }

    pub fn buckets_in_all(&self) -> usize {
        self.mask + 1
    }

    /// The entries of some buckets.
    pub fn entries(&self, buckets: Range<usize>) -> impl Iterator<Item = Entry> {
        buckets.flat_map(move |bucket| {
            let at = self.first + bucket * WORDS;
            (at..at + SLOTS)
                .filter(|&word| self.words[word].load(Ordering::Relaxed) > BUSY)
                .map(|word| word + SLOTS)
                .map(|word| Entry { word, value: self.words[word].load(Ordering::Relaxed) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hasher;

    fn key(n: u64) -> u64 {
        let mut hasher = siphasher::sip::SipHasher13::new();
        hasher.write(&n.to_be_bytes());
        hasher.finish()
    }

    #[test]
    fn holds_as_many_entries_as_it_was_made_for() {
        for entries in [1_000, 78_000, 131_072, 157_000] {
            let table = Table::new(entries);
            for n in 0..entries as u64 {
                assert_eq!(table.insert(key(n), n, |_| 1), Inserted::Free(0), "entry {n} of {entries}");
            }
            assert!((0..entries as u64).all(|n| table.get(key(n)).map(|entry| entry.value) == Some(n)));
            assert_eq!(table.values().count(), entries);
            let pairs: std::collections::HashMap<_, _> = table.pairs().collect();
            assert!(pairs.len() == entries && (0..entries as u64).all(|n| pairs[&key(n)] == n));
        }
    }

    #[test]
    fn a_full_bucket_gives_up_the_lowest_rank() {
        let table = Table::new(1);
        let slots = SLOTS as u64;
        for n in 0..slots {
            assert_eq!(table.insert(key(n), 100 + n, |value| value), Inserted::Free(0));
        }
        assert_eq!(table.insert(key(99), 500, |value| value), Inserted::Evicted(100));
        assert!(table.get(key(0)).is_none() && table.get(key(99)).is_some());
        // Rank 0 counts as free.
        assert_eq!(table.insert(key(98), 501, |value| if value == 105 { 0 } else { value }), Inserted::Free(105));
        assert!(table.get(key(5)).is_none());
    }

    #[test]
    fn an_update_of_what_changed_meanwhile_fails() {
        let table = Table::new(16);
        table.insert(0, 7, |_| 1);
        let entry = table.get(0).unwrap();
        assert!(table.update(entry, 8));
        assert!(!table.update(entry, 9));
        assert_eq!(table.get(0).unwrap().value, 8);
    }

    /// Every value carries its key: a reader that got another's value would see it.
    #[test]
    fn no_thread_ever_sees_one_entry_s_key_with_another_s_value() {
        let table = Table::new(64);
        let value_of = |key: u64, version: u64| key << 32 >> 32 | version << 32;
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..200_000u64 {
                        let key = key(round * 31 % 400 + thread);
                        match table.get(key) {
                            Some(entry) => {
                                assert_eq!(entry.value as u32, key as u32, "foreign value");
                                table.update(entry, value_of(key, round));
                            }
                            None => {
                                table.insert(key, value_of(key, round), |value| value >> 32);
                            }
                        }
                    }
                });
            }
        });
    }
}
