//! Which key belongs to which server, for how long, and how surely.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Time;
use super::table::{Entry, FIRM, Inserted, Table};
use crate::sip::token::NameHash;

/// An entry's clock ticks once a second: 28 bits of it last for eight years.
const TICK: u64 = 1_000_000_000;
const CONFIRMED: u64 = FIRM;
const EXPIRY: u64 = (1 << 28) - 1;

/// What an entry says besides: for whoever writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u64);

impl Marks {
    pub const NONE: Self = Self(0);
    /// It is a call, and counted as one of its server's.
    pub const CALL: Self = Self(1 << 30);
    /// An INVITE of it may still be answered with 2xx.
    pub const OPEN: Self = Self(1 << 29);
    /// Its server opened it.
    pub const OWN: Self = Self(1 << 28);
    const ALL: u64 = Self::CALL.0 | Self::OPEN.0 | Self::OWN.0;

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn of(value: u64) -> Self {
        Self(value & Self::ALL)
    }
}

/// What a writing did to an entry. Whoever keeps books of the calls must hear of it: an entry that is a call comes and goes
/// only this way, and by [`StickTable::sweep`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Written {
    before: u64,
    after: u64,
    /// A live entry had to give way: this one where all others are surer.
    pub evicted: bool,
}

impl Written {
    /// The server that has a call less now.
    #[inline]
    pub fn lost(self) -> Option<NameHash> {
        call_of(self.before).filter(|_| self.moved_call())
    }

    /// The server that has a call more now.
    #[inline]
    pub fn gained(self) -> Option<NameHash> {
        call_of(self.after).filter(|_| self.moved_call())
    }

    /// Whether some server has a call more or less now.
    #[inline]
    pub fn moved_call(self) -> bool {
        (self.before | self.after) & Marks::CALL.0 != 0 && call_of(self.before) != call_of(self.after)
    }
}

/// The server of a value that is a call.
#[inline]
fn call_of(value: u64) -> Option<NameHash> {
    (value & Marks::CALL.0 != 0).then_some(NameHash((value >> 32) as u32))
}

/// A table of keys and servers, bounded and expiring. Entries are unconfirmed until an answer proves that somebody is
/// there; a full bucket gives up its oldest unconfirmed entry first, and no confirmed one for an unconfirmed, so a flood of
/// fresh keys evicts no live one.
pub struct StickTable {
    table: Table,
    /// How many keys it was made for.
    size: usize,
    /// The bucket where the next sweep begins.
    swept: AtomicUsize,
    /// Live entries that were seen since a sweep began at the first bucket; and all that were seen the last time.
    seen: AtomicUsize,
    used: AtomicUsize,
}

/// An entry as it is shown. Of its key only the keyed hash is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub key: u64,
    pub server: NameHash,
    pub confirmed: bool,
    /// When it expires, unless it is used before.
    pub until: Time,
}

/// Buckets that one sweep looks at: 16 MB of table. With one a second a table for a million calls is swept every two.
const SWEEP: usize = 131_072;

/// What a look at a key has shown: its entry, if it has one, alive or not. Who writes the key soon afterwards need not look
/// again.
#[derive(Clone, Copy, Debug)]
pub struct Seen(Option<Entry>);

impl Seen {
    /// The entry, if it lives.
    #[inline]
    pub fn alive(self, now: Time) -> Option<Stuck> {
        self.0.and_then(|entry| alive(entry, now))
    }
}

/// An entry that was found.
#[derive(Clone, Copy, Debug)]
pub struct Stuck {
    entry: Entry,
    pub server: NameHash,
    pub confirmed: bool,
    marks: Marks,
}

impl Stuck {
    /// How long it lives without being used.
    pub fn rest(&self, now: Time) -> Option<Duration> {
        let until = Time((self.entry.value & EXPIRY).saturating_mul(TICK));
        Some(until.since(now))
    }

    #[inline]
    pub fn is(&self, mark: Marks) -> bool {
        self.marks.0 & mark.0 == mark.0
    }
}

#[inline]
fn value(server: NameHash, confirmed: bool, marks: Marks, until: u64) -> u64 {
    u64::from(server.0) << 32 | if confirmed { CONFIRMED } else { 0 } | marks.0 | until.min(EXPIRY)
}

/// The tick in which a lifetime from now ends: nothing lives shorter than it should.
#[inline]
fn until(now: Time, life: Duration) -> u64 {
    (now + life).0.div_ceil(TICK)
}

impl StickTable {
    /// A table for so many keys.
    pub fn new(size: usize) -> Self {
        let [swept, seen, used] = Default::default();
        Self { table: Table::new(size), size, swept, seen, used }
    }

    /// Looks a key up.
    #[inline]
    pub fn find(&self, key: u64, now: Time) -> Option<Stuck> {
        self.look(key, now).0
    }

    /// Looks a key up for who may write it.
    #[inline]
    pub fn look(&self, key: u64, now: Time) -> (Option<Stuck>, Seen) {
        let seen = Seen(self.table.get(key));
        (seen.alive(now), seen)
    }

    /// Lets a found entry live at least `life` from now. Writes only where that adds a sixteenth of `life`: a call that
    /// is used often should not bounce a cache line between workers.
    #[inline]
    pub fn touch(&self, stuck: Stuck, now: Time, life: Duration) {
        let wanted = until(now, life);
        let slack = life.as_nanos() as u64 / TICK / 16;
        if stuck.entry.value & EXPIRY < wanted.saturating_sub(slack) {
            self.table.update(stuck.entry, stuck.entry.value & !EXPIRY | wanted.min(EXPIRY));
        }
    }

    /// Remembers that a key belongs to a server for `life`. An entry of the same server keeps its confirmation and its
    /// marks; one of another server is replaced.
    pub fn write(&self, key: u64, server: NameHash, marks: Marks, now: Time, life: Duration) -> Written {
        self.write_seen(key, self.look(key, now).1, server, marks, now, life)
    }

    /// The same where the key was looked at a moment ago.
    pub fn write_seen(
        &self,
        key: u64,
        seen: Seen,
        server: NameHash,
        marks: Marks,
        now: Time,
        life: Duration,
    ) -> Written {
        self.set(key, seen, now, |before| match before {
            Some(before) if before.server == server => {
                let longer = until(now, life).max(if before.confirmed { before.entry.value & EXPIRY } else { 0 });
                value(server, before.confirmed, before.marks.and(marks), longer)
            }
            _ => value(server, false, marks, until(now, life)),
        })
    }

    /// Remembers that a key belongs to a server, proven, for `life`. Marks stay where the server does.
    pub fn confirm(&self, key: u64, server: NameHash, marks: Marks, now: Time, life: Duration) -> Written {
        self.confirm_seen(key, self.look(key, now).1, server, marks, now, life)
    }

    /// The same where the key was looked at a moment ago.
    pub fn confirm_seen(
        &self,
        key: u64,
        seen: Seen,
        server: NameHash,
        marks: Marks,
        now: Time,
        life: Duration,
    ) -> Written {
        self.set(key, seen, now, |before| {
            let kept = before.filter(|before| before.server == server).map_or(Marks::NONE, |before| before.marks);
            value(server, true, kept.and(marks), until(now, life))
        })
    }

    /// Takes the proof and all marks but `keep` from a found entry, and lets it live no longer than `life`. Nothing is
    /// written where another thread changed it meanwhile.
    pub fn release(&self, stuck: Stuck, keep: Marks, now: Time, life: Duration) -> Option<Written> {
        let before = stuck.entry.value;
        let after = value(stuck.server, false, Marks(stuck.marks.0 & keep.0), until(now, life).min(before & EXPIRY));
        self.table.update(stuck.entry, after).then_some(Written { before, after, evicted: false })
    }

    /// Writes what `new` makes of the entry as it is. Where other threads change it all the time theirs stands: what this one
    /// knows is hardly newer. Beside an entry that is there no second one is inserted: a call would count twice.
    fn set(&self, key: u64, seen: Seen, now: Time, new: impl Fn(Option<Stuck>) -> u64) -> Written {
        const TRIES: usize = 4;
        let mut seen = seen.0;
        for _ in 0..TRIES {
            let Some(entry) = seen else { break };
            let after = new(alive(entry, now));
            if self.table.update(entry, after) {
                return Written { before: entry.value, after, evicted: false };
            }
            seen = self.table.get(key);
        }
        if seen.is_some() {
            return Written::default();
        }
        let (tick, after) = (now.0 / TICK, new(None));
        match self.table.insert(key, after, |value| rank(value, tick)) {
            Inserted::Free(before) => Written { before, after, evicted: false },
            Inserted::Evicted(before) => Written { before, after, evicted: true },
            // The new one gave way.
            Inserted::Nowhere => Written { evicted: true, ..Written::default() },
        }
    }

    /// Looks at the next part of the table for calls that have expired, and tells the server of each. Those of a server that
    /// nobody `knows` any more are no calls either. One thread sweeps.
    pub fn sweep(&self, now: Time, knows: impl Fn(NameHash) -> bool, mut expired: impl FnMut(NameHash)) {
        let (tick, all) = (now.0 / TICK, self.table.buckets_in_all());
        let from = self.swept.load(Ordering::Relaxed);
        let to = (from + SWEEP).min(all);
        self.swept.store(if to == all { 0 } else { to }, Ordering::Relaxed);
        let mut live = if from == 0 { 0 } else { self.seen.load(Ordering::Relaxed) };
        for entry in self.table.entries(from..to) {
            live += usize::from(entry.value & EXPIRY > tick);
            let over = |server: &NameHash| entry.value & EXPIRY <= tick || !knows(*server);
            if let Some(server) = call_of(entry.value).filter(over)
                && self.table.update(entry, entry.value & !Marks::CALL.0)
            {
                expired(server);
            }
        }
        (if to == all { &self.used } else { &self.seen }).store(live, Ordering::Relaxed);
    }

    /// Ends the entry of a key, or all; how many lived.
    pub fn clear(&self, key: Option<u64>, now: Time) -> usize {
        let end = |entry: Entry| alive(entry, now).is_some() && self.table.update(entry, entry.value & !EXPIRY);
        match key {
            Some(key) => usize::from(self.table.get(key).is_some_and(end)),
            None => self.table.entries(0..self.table.buckets_in_all()).filter(|entry| end(*entry)).count(),
        }
    }

    /// How many keys it was made for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many entries lived when it was swept last: a second ago, of a million keys or more a few seconds.
    pub fn in_use(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Every entry that lives, for whoever shows them. Walks the whole table.
    pub fn entries(&self, now: Time) -> impl Iterator<Item = Shown> {
        let tick = now.0 / TICK;
        self.table.pairs().filter(move |(_, value)| value & EXPIRY > tick).map(|(key, value)| Shown {
            key,
            server: NameHash((value >> 32) as u32),
            confirmed: value & CONFIRMED != 0,
            until: Time((value & EXPIRY) * TICK),
        })
    }

    /// The server of every entry that is a call and lives. Walks the whole table.
    pub fn calls(&self, now: Time) -> impl Iterator<Item = NameHash> {
        let tick = now.0 / TICK;
        self.table.values().filter(move |value| value & EXPIRY > tick).filter_map(call_of)
    }

    /// How many entries live, and how many of them are confirmed.
    pub fn count(&self, now: Time) -> (usize, usize) {
        let (mut all, mut confirmed) = (0, 0);
        self.each(now, |_, is_confirmed| {
            all += 1;
            confirmed += usize::from(is_confirmed);
        });
        (all, confirmed)
    }

    /// Every entry that lives: its server, and whether it is confirmed.
    pub fn each(&self, now: Time, mut entry: impl FnMut(NameHash, bool)) {
        let tick = now.0 / TICK;
        for value in self.table.values().filter(|value| value & EXPIRY > tick) {
            entry(NameHash((value >> 32) as u32), value & CONFIRMED != 0);
        }
    }
}

/// An entry that has not expired.
#[inline]
fn alive(entry: Entry, now: Time) -> Option<Stuck> {
    let alive = entry.value & EXPIRY > now.0 / TICK;
    alive.then_some(Stuck {
        entry,
        server: NameHash((entry.value >> 32) as u32),
        confirmed: entry.value & CONFIRMED != 0,
        marks: Marks::of(entry.value),
    })
}

/// The order in which entries give way: expired ones are free, then unconfirmed before confirmed, and of those the one
/// that expires first.
fn rank(value: u64, tick: u64) -> u64 {
    match value & EXPIRY {
        expiry if expiry <= tick => 0,
        expiry => value & CONFIRMED | expiry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::hash::Hasher;

    use proptest::prelude::*;

    const LAGOS: NameHash = NameHash(1);
    const ABUJA: NameHash = NameHash(2);

    fn key(n: u64) -> u64 {
        let mut hasher = siphasher::sip::SipHasher13::new();
        hasher.write(&n.to_be_bytes());
        hasher.finish()
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, u32, u64),
        Confirm(u64, u32, u64),
        Release(u64, u64),
        Touch(u64, u64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (key, server, life) = (0u64..12, 1u32..4, 1u64..60);
        prop_oneof![
            (key.clone(), server.clone(), life.clone()).prop_map(|(k, s, l)| Step::Write(k, s, l)),
            (key.clone(), server, life.clone()).prop_map(|(k, s, l)| Step::Confirm(k, s, l)),
            (key.clone(), life.clone()).prop_map(|(k, l)| Step::Release(k, l)),
            (key, life.clone()).prop_map(|(k, l)| Step::Touch(k, l)),
            life.prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a map that does the obvious. Touch may round down by a sixteenth of the lifetime.
        #[test]
        fn behaves_like_a_map_with_expiry(steps in proptest::collection::vec(step(), 1..80)) {
            let table = StickTable::new(1000);
            let mut model: HashMap<u64, (u32, bool, u64)> = HashMap::new();
            let mut now = 1;
            for step in steps {
                model.retain(|_, (_, _, until)| *until > now);
                match step {
                    Step::Write(k, s, life) => {
                        let _ = table.write(key(k), NameHash(s), Marks::NONE, at(now), seconds(life));
                        let entry = model.entry(k).or_insert((s, false, 0));
                        if entry.0 != s { *entry = (s, false, 0); }
                        entry.2 = if entry.1 { entry.2.max(now + life) } else { now + life };
                    }
                    Step::Confirm(k, s, life) => {
                        let _ = table.confirm(key(k), NameHash(s), Marks::NONE, at(now), seconds(life));
                        model.insert(k, (s, true, now + life));
                    }
                    Step::Release(k, life) => if let Some(stuck) = table.find(key(k), at(now)) {
                        let _ = table.release(stuck, Marks::NONE, at(now), seconds(life));
                        let entry = model.get_mut(&k).unwrap();
                        *entry = (entry.0, false, entry.2.min(now + life));
                    },
                    Step::Touch(k, life) => if let Some(stuck) = table.find(key(k), at(now)) {
                        table.touch(stuck, at(now), seconds(life));
                        let entry = model.get_mut(&k).unwrap();
                        let slack = seconds(life).as_nanos() as u64 / TICK / 16;
                        if entry.2 < now + life - slack { entry.2 = now + life; }
                    },
                    Step::Wait(time) => now += time,
                }
                model.retain(|_, (_, _, until)| *until > now);
                for k in 0..12 {
                    let found = table.find(key(k), at(now)).map(|stuck| (stuck.server.0, stuck.confirmed));
                    prop_assert_eq!(found, model.get(&k).map(|&(server, confirmed, _)| (server, confirmed)), "key {}", k);
                }
                let confirmed = model.values().filter(|entry| entry.1).count();
                prop_assert_eq!(table.count(at(now)), (model.len(), confirmed));
                let shown: HashMap<_, _> = table.entries(at(now)).map(|shown| (shown.key, shown)).collect();
                prop_assert_eq!(shown.len(), model.len());
                for (k, (server, confirmed, _)) in &model {
                    let shown = shown[&key(*k)];
                    prop_assert_eq!((shown.server.0, shown.confirmed), (*server, *confirmed));
                    prop_assert!(table.find(key(*k), Time(shown.until.0 - 1)).is_some());
                    prop_assert!(table.find(key(*k), shown.until).is_none());
                }
                table.sweep(at(now), |_| true, |_| ());
                prop_assert_eq!((table.in_use(), table.size()), (model.len(), 1000));
            }
        }
    }

    /// A table that takes several sweeps says what the last whole round has seen.
    #[test]
    fn used_entries_are_counted_round_by_round() {
        let table = StickTable::new(2_000_000);
        let rounds = table.table.buckets_in_all().div_ceil(SWEEP);
        assert!(rounds > 1);
        let sweep = |seconds| {
            (0..rounds).map(|_| (table.sweep(at(seconds), |_| true, |_| ()), table.in_use()).1).collect::<Vec<_>>()
        };
        for n in 0..10_000 {
            let _ = table.write(key(n), LAGOS, Marks::NONE, at(1), seconds(if n < 3_000 { 10 } else { 100 }));
        }
        let counted = |first: usize, then: usize| [vec![first; rounds - 1], vec![then]].concat();
        assert_eq!(sweep(2), counted(0, 10_000));
        assert_eq!(sweep(50), counted(10_000, 7_000));
        assert_eq!(sweep(500), counted(7_000, 0));
    }

    /// Calls that begin, are confirmed and end while a flood goes on, in a table of the size that rounds up least. All that may be
    /// evicted is what a confirmed call cannot stand beside: three in a million at the fill that docs/sizing.md advises.
    #[test]
    fn a_flood_evicts_no_call_that_was_confirmed_in_it() {
        const SIZE: u64 = 157_000;
        let table = StickTable::new(SIZE as usize);
        let (mut fresh, mut evicted) = (1_000_000_000.., 0);
        let calls = |from: u64| from.saturating_sub(SIZE * 3 / 4);
        for n in 0..SIZE * 3 {
            let now = at(1_000 + n / 1_000);
            let _ = table.write(key(n), LAGOS, Marks::NONE, now, seconds(180));
            for other in fresh.by_ref().take(10) {
                let _ = table.write(key(other), ABUJA, Marks::NONE, now, seconds(180));
            }
            let _ = table.confirm(key(n), LAGOS, Marks::NONE, now, seconds(7_200));
            // The oldest call ends.
            if let Some(over) = calls(n).checked_sub(1) {
                match table.find(key(over), now).filter(|stuck| stuck.confirmed) {
                    Some(stuck) => drop(table.release(stuck, Marks::NONE, now, seconds(32))),
                    None => evicted += 1,
                }
            }
        }
        assert!(evicted <= 1, "{evicted} of {}", SIZE * 9 / 4);
    }

    #[test]
    fn a_flood_of_fresh_keys_evicts_no_confirmed_one() {
        let table = StickTable::new(10_000);
        for n in 0..10_000 {
            let _ = table.confirm(key(n), LAGOS, Marks::NONE, at(1), seconds(7200));
        }
        for n in 10_000..500_000 {
            let _ = table.write(key(n), ABUJA, Marks::NONE, at(2), seconds(180));
        }
        assert!(
            (0..10_000)
                .all(|n| table.find(key(n), at(3)).is_some_and(|stuck| stuck.confirmed && stuck.server == LAGOS))
        );
    }
}
