//! The calls of one owner: found by the hash of their Call-ID, woken when they are due. Bounded.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::Entry;

use super::call::Call;
use super::transaction::NEVER;
use crate::state::Time;
use crate::state::lookup::{Map, hasher};

/// A call and what its owner keeps beside it.
#[derive(Debug)]
pub struct Held<X> {
    pub call: Call,
    pub extra: X,
    /// The earliest alarm that is set for it.
    armed: Time,
}

/// A table of calls with one alarm clock. Alarms are not taken back: one that comes too early is set anew.
#[derive(Debug)]
pub struct Calls<X> {
    /// Boxed: when the table grows, it moves pointers, not calls, and nobody waits for it.
    held: Map<u64, Box<Held<X>>>,
    alarms: BinaryHeap<Reverse<(Time, u64)>>,
    limit: usize,
    /// Those that have not ended.
    open: usize,
}

impl<X> Calls<X> {
    /// A table for at most `limit` calls, ended ones that are still remembered included.
    pub fn new(limit: usize) -> Self {
        Self { held: Map::with_hasher(hasher()), alarms: BinaryHeap::new(), limit, open: 0 }
    }

    /// Whether no further call fits.
    pub fn is_full(&self) -> bool {
        self.held.len() >= self.limit
    }

    /// Calls that have not ended.
    pub fn open(&self) -> usize {
        self.open
    }

    /// All calls, ended ones included.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Adds a call; says whether it was added: not where another has the key.
    pub fn insert(&mut self, key: u64, call: Call, extra: X) -> bool {
        let Entry::Vacant(entry) = self.held.entry(key) else { return false };
        self.open += usize::from(!call.is_over());
        entry.insert(Box::new(Held { call, extra, armed: NEVER }));
        self.arm(key);
        true
    }

    /// Whether there is a call with this key.
    pub fn contains(&self, key: u64) -> bool {
        self.held.contains_key(&key)
    }

    /// Looks at a call.
    pub fn get(&self, key: u64) -> Option<&Held<X>> {
        self.held.get(&key).map(Box::as_ref)
    }

    /// All calls, ended ones included, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Held<X>> {
        self.held.values().map(Box::as_ref)
    }

    /// The keys of the calls that have not ended and that `which` chooses.
    pub fn open_keys(&self, which: impl Fn(&Held<X>) -> bool) -> Vec<u64> {
        let chosen = self.held.iter().filter(|(_, held)| !held.call.is_over() && which(held));
        chosen.map(|(key, _)| *key).collect()
    }

    /// Lets a call act, and sets its alarm and its place in the count afterwards.
    pub fn with<R>(&mut self, key: u64, act: impl FnOnce(&mut Held<X>) -> R) -> Option<R> {
        let held = self.held.get_mut(&key)?;
        let before = held.call.is_over();
        let result = act(held);
        self.open -= usize::from(!before && held.call.is_over());
        self.arm(key);
        Some(result)
    }

    /// When the next alarm rings.
    pub fn due(&self) -> Time {
        self.alarms.peek().map_or(NEVER, |Reverse((at, _))| *at)
    }

    /// The key of a call that is due; forgets calls whose time is over. Call it until it says `None`, and let each call
    /// act before the next.
    pub fn next_due(&mut self, now: Time) -> Option<u64> {
        while let Some(Reverse((at, key))) = self.alarms.peek().copied()
            && at <= now
        {
            self.alarms.pop();
            let Some(held) = self.held.get_mut(&key) else { continue };
            if held.armed == at {
                held.armed = NEVER;
            }
            if held.call.is_forgotten(now) {
                self.held.remove(&key);
            } else if held.call.due() <= now {
                return Some(key);
            } else {
                self.arm(key);
            }
        }
        None
    }

    fn arm(&mut self, key: u64) {
        let Some(held) = self.held.get_mut(&key) else { return };
        let due = held.call.due();
        if due < held.armed {
            held.armed = due;
            self.alarms.push(Reverse((due, key)));
        }
    }
}
