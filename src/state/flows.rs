//! The flows of a relay: which client talks through which of our addresses with which server. Each worker has a table of
//! its own, for the kernel gives all datagrams of one client and port to one worker.
//!
//! Fixed in size and allocated once: a chain for each hash, all entries in one array, free ones in a chain of their own.

use std::time::Duration;

use super::Time;
use crate::sip::Flow;
use crate::sip::token::NameHash;

/// A flow that was never answered gives way to a new one where the table is full, once nothing came for this long: what
/// speaks, if only in one direction, keeps its place, and what a flood left behind does not.
const SILENT: Duration = Duration::from_secs(5);

/// Entries that are looked at for one that gives way: a refusal must not cost more where more flows are open.
const LOOKED_AT: usize = 8;

/// No entry. Others are named by their position and one.
const NONE: u32 = 0;

/// See the module's documentation.
#[derive(Default)]
pub struct FlowTable {
    /// Grows within what was allocated, so that pages are touched as flows come.
    entries: Vec<Entry>,
    /// First entry of each chain.
    heads: Box<[u32]>,
    /// First entry that was open and is no more.
    free: u32,
    size: usize,
    open: usize,
    /// Where the search for one that gives way goes on.
    hand: usize,
}

/// One flow.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The client, and the address of ours that it talks to.
    pub flow: Flow,
    pub frontend: NameHash,
    pub server: NameHash,
    /// When either side last sent.
    pub used: Time,
    /// Whether the server has ever sent.
    pub answered: bool,
    is_open: bool,
    hash: u32,
    next: u32,
}

impl Entry {
    /// Whether a new one may have its place: see [`SILENT`].
    pub fn gives_way(&self, now: Time) -> bool {
        !self.answered && now.since(self.used) >= SILENT
    }
}

impl FlowTable {
    /// A table for so many flows.
    pub fn new(size: usize) -> Self {
        let mut table = Self::default();
        table.grow(size);
        table
    }

    /// Makes room for so many flows, if they are more: a configuration changed. Positions stay.
    pub fn grow(&mut self, size: usize) {
        if size <= self.size {
            return;
        }
        self.entries.reserve_exact(size - self.entries.len());
        self.heads = vec![NONE; size.next_power_of_two()].into();
        self.size = size;
        for at in 0..self.entries.len() {
            if self.entries[at].is_open {
                let chain = self.chain(self.entries[at].hash);
                self.entries[at].next = std::mem::replace(&mut self.heads[chain], at as u32 + 1);
            }
        }
    }

    /// How many flows it can hold, and how many are open.
    pub fn size(&self) -> (usize, usize) {
        (self.size, self.open)
    }

    /// The flow of this client and address, by a keyed hash of both.
    #[inline]
    pub fn find(&self, hash: u64, flow: &Flow) -> Option<usize> {
        let mut at = *self.heads.get(self.chain(hash as u32))?;
        while at != NONE {
            let entry = &self.entries[at as usize - 1];
            if entry.hash == hash as u32 && entry.flow == *flow {
                return Some(at as usize - 1);
            }
            at = entry.next;
        }
        None
    }

    /// Opens a flow that is not there. `None` where the table is full.
    pub fn open(&mut self, hash: u64, flow: Flow, frontend: NameHash, server: NameHash, now: Time) -> Option<usize> {
        let hash = hash as u32;
        let chain = self.chain(hash);
        let next = *self.heads.get(chain)?;
        let entry = Entry { flow, frontend, server, used: now, answered: false, is_open: true, hash, next };
        let at = match self.free {
            NONE if self.entries.len() == self.size => return None,
            NONE => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
            free => {
                let at = free as usize - 1;
                self.free = self.entries[at].next;
                self.entries[at] = entry;
                at
            }
        };
        self.heads[chain] = at as u32 + 1;
        self.open += 1;
        Some(at)
    }

    /// An open flow.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&Entry> {
        self.entries.get(at).filter(|entry| entry.is_open)
    }

    /// An open flow, to note what happened to it.
    #[inline]
    pub fn get_mut(&mut self, at: usize) -> Option<&mut Entry> {
        self.entries.get_mut(at).filter(|entry| entry.is_open)
    }

    /// Ends an open flow.
    pub fn close(&mut self, at: usize) {
        let Some(&Entry { hash, next, .. }) = self.get(at) else { return };
        let (chain, closed) = (self.chain(hash), at as u32 + 1);
        if self.heads[chain] == closed {
            self.heads[chain] = next;
        } else {
            let mut before = self.heads[chain];
            while self.entries[before as usize - 1].next != closed {
                before = self.entries[before as usize - 1].next;
            }
            self.entries[before as usize - 1].next = next;
        }
        let entry = &mut self.entries[at];
        (entry.is_open, entry.next) = (false, self.free);
        self.free = closed;
        self.open -= 1;
    }

    /// Positions that may hold an open flow.
    pub fn positions(&self) -> std::ops::Range<usize> {
        0..self.entries.len()
    }

    /// A flow of this frontend that gives way to a new one. Looks at a few and goes on from there the
    /// next time.
    pub fn give_way(&mut self, frontend: NameHash, now: Time) -> Option<usize> {
        let count = self.entries.len();
        for _ in 0..LOOKED_AT.min(count) {
            self.hand = (self.hand + 1) % count;
            let entry = &self.entries[self.hand];
            if entry.is_open && entry.frontend == frontend && entry.gives_way(now) {
                return Some(self.hand);
            }
        }
        None
    }

    #[inline]
    fn chain(&self, hash: u32) -> usize {
        hash as usize & self.heads.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use proptest::prelude::*;

    const RTP: NameHash = NameHash(1);
    const OTHER: NameHash = NameHash(2);

    fn flow(n: u16) -> Flow {
        let (remote, local) = (([10, 0, 0, (n % 3) as u8], n), ([10, 9, 9, 9], 10_000 + n % 2));
        Flow::of_datagrams(local.into(), remote.into())
    }

    /// Few values, so that chains are long.
    fn hash(n: u16) -> u64 {
        u64::from(n % 5) * 0x9e37_79b9
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open(u16, bool),
        Close(u16),
        Use(u16, bool),
        GiveWay(bool),
        Grow,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u16..24, any::<bool>()).prop_map(|(n, other)| Step::Open(n, other)),
            2 => (0u16..24).prop_map(Step::Close),
            2 => (0u16..24, any::<bool>()).prop_map(|(n, answered)| Step::Use(n, answered)),
            1 => any::<bool>().prop_map(Step::GiveWay),
            1 => Just(Step::Grow),
            1 => (0u64..8).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a map that does the obvious.
        #[test]
        fn behaves_like_a_map_of_bounded_size(steps in proptest::collection::vec(step(), 1..200), size in 1usize..20) {
            let mut size = size;
            let mut table = FlowTable::new(size);
            let mut model: HashMap<u16, (NameHash, u64, bool)> = HashMap::new();
            let mut now = 1;
            for step in steps {
                match step {
                    Step::Open(n, _) if model.contains_key(&n) => {}
                    Step::Open(n, other) => {
                        let frontend = if other { OTHER } else { RTP };
                        let opened = table.open(hash(n), flow(n), frontend, NameHash(7), at(now));
                        prop_assert_eq!(opened.is_some(), model.len() < size);
                        if opened.is_some() { model.insert(n, (frontend, now, false)); }
                    }
                    Step::Close(n) => if let Some(position) = table.find(hash(n), &flow(n)) {
                        table.close(position);
                        model.remove(&n);
                    },
                    Step::Use(n, answered) => if let Some(position) = table.find(hash(n), &flow(n)) {
                        let entry = table.get_mut(position).unwrap();
                        (entry.used, entry.answered) = (at(now), entry.answered || answered);
                        let (_, used, was) = model.get_mut(&n).unwrap();
                        (*used, *was) = (now, *was || answered);
                    },
                    Step::GiveWay(other) => {
                        let frontend = if other { OTHER } else { RTP };
                        let may = |(of, used, answered): &(NameHash, u64, bool)| *of == frontend && !answered && now - used >= 5;
                        // All are looked at within so many tries, and none that is in use is ever named.
                        let found = (0..size.div_ceil(LOOKED_AT)).find_map(|_| table.give_way(frontend, at(now)));
                        prop_assert_eq!(found.is_some(), model.values().any(may));
                        if let Some(position) = found {
                            let n = table.get(position).unwrap().flow.remote.port();
                            prop_assert!(may(&model[&n]));
                            table.close(position);
                            model.remove(&n);
                        }
                    }
                    Step::Grow => {
                        size += 1;
                        table.grow(size);
                    }
                    Step::Wait(time) => now += time,
                }
                prop_assert_eq!(table.size(), (size, model.len()));
                for n in 0..24 {
                    let found = table.find(hash(n), &flow(n)).and_then(|position| table.get(position));
                    let found = found.map(|entry| (entry.frontend, entry.used.0 / 1_000_000_000, entry.answered));
                    prop_assert_eq!(found, model.get(&n).copied(), "flow {}", n);
                }
                let open = table.positions().filter(|position| table.get(*position).is_some()).count();
                prop_assert_eq!(open, model.len());
            }
        }
    }

    #[test]
    fn a_table_of_no_size_holds_nothing() {
        let mut table = FlowTable::default();
        assert_eq!(table.find(1, &flow(1)), None);
        assert_eq!(table.open(1, flow(1), RTP, NameHash(7), at(1)), None);
        assert_eq!(table.give_way(RTP, at(9)), None);
    }
}
