//! Copies of the messages of calls that somebody follows. Workers put them, one reader takes them; no worker waits, and what
//! finds no room is counted as lost.

use std::mem::swap;
use std::net::{IpAddr, SocketAddr};
use std::ops::{BitOr, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::counters::{Counter, PerWorker};
use super::{Reason, Time};
use crate::config::follow::Sample;
use crate::sip::token::{Keys, NameHash};
use crate::sip::{Flow, Span, Transport};

/// What one worker keeps until the reader comes, a hundred times a second where it gets its time: a tenth of a second of
/// thirty thousand messages.
const STEPS: usize = 6_144;
const BYTES: usize = 4 << 20;

/// Who wants a call's messages; several may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted(u8);

impl Wanted {
    pub const LOG: Self = Self(1);
    pub const HEP: Self = Self(2);
    pub const TRACE: Self = Self(4);

    /// Whether this one is among them.
    pub fn by(self, who: Self) -> bool {
        self.0 & who.0 != 0
    }

    fn when(self, wanted: bool) -> Self {
        if wanted { self } else { Self::default() }
    }
}

impl BitOr for Wanted {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Which calls are followed, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub log: Option<Sample>,
    pub hep: Option<Sample>,
    /// By [`Keys::call`] of their Call-IDs; a few.
    pub traced: Vec<u64>,
}

impl Filter {
    /// Whether it follows nothing.
    pub fn is_off(&self) -> bool {
        self.log.is_none() && self.hep.is_none() && self.traced.is_empty()
    }

    fn wanted(&self, call: u64, client: Option<IpAddr>) -> Wanted {
        let has = |sample: &Option<Sample>| sample.as_ref().is_some_and(|sample| sample.has(call, client));
        Wanted::LOG.when(has(&self.log))
            | Wanted::HEP.when(has(&self.hep))
            | Wanted::TRACE.when(self.traced.contains(&call))
    }
}

/// Why a request went to this server and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Our token in its Route names it.
    Route,
    /// Its call is there.
    Call,
    /// The call that it replaces or joins is there.
    Replaces,
    /// Its key sticks to it.
    Stick,
    /// The balance says so.
    Balance,
    /// The balance again, for it could not be sent to another one.
    Failover,
}

impl Why {
    pub fn word(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Call => "call",
            Self::Replaces => "replaces",
            Self::Stick => "stick",
            Self::Balance => "balance",
            Self::Failover => "failover",
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A client's request went to a server.
    ToServer {
        server: NameHash,
        why: Why,
    },
    /// A client's response went to a server.
    BackToServer {
        server: NameHash,
    },
    /// A server's request or response went to a client.
    ToClient {
        server: NameHash,
    },
    /// It was answered by ourselves; with a reason it was refused.
    Answered {
        status: u16,
        reason: Option<Reason>,
    },
    Dropped(Reason),
}

/// From where to where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub transport: Transport,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

impl Ends {
    /// Of what comes by a flow.
    pub fn of(flow: &Flow) -> Self {
        Self { transport: flow.transport, from: flow.remote, to: flow.local }
    }
}

/// A message on its way through us.
pub struct Passing<'a> {
    pub at: Time,
    pub came: Ends,
    /// As it came, in two pieces.
    pub bytes: [&'a [u8]; 2],
    pub call_id: Span,
    pub fate: Fate,
    /// It was decided about before: what came is no news.
    pub again: bool,
    /// Whom the call is with, where that is known.
    pub client: Option<IpAddr>,
    /// What left.
    pub left: Option<(Ends, &'a [u8])>,
}

/// A message that came or left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub at: Time,
    pub call: u64,
    pub wanted: Wanted,
    pub ends: Ends,
    pub what: What,
    bytes: Range<usize>,
}

impl Step {
    /// It came before, and was decided about anew.
    pub fn is_repeated(&self) -> bool {
        matches!(self.what, What::Came { again: true, .. })
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Came { fate: Fate, again: bool },
    Left { fate: Fate },
}

/// Steps with their messages, in memory that is used again.
#[derive(Debug, Default)]
pub struct Steps {
    steps: Vec<Step>,
    bytes: Vec<u8>,
}

impl Steps {
    /// Room for what a worker keeps.
    pub fn with_room() -> Self {
        Self { steps: Vec::with_capacity(STEPS), bytes: Vec::with_capacity(BYTES) }
    }

    /// In the order in which they were put, each with its message.
    pub fn each(&self) -> impl Iterator<Item = (&Step, &[u8])> {
        self.steps.iter().map(|step| (step, &self.bytes[step.bytes.clone()]))
    }

    /// Puts one more.
    pub fn push(&mut self, step: &Step, bytes: &[u8]) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.steps.push(Step { bytes: begin..self.bytes.len(), ..step.clone() });
    }

    /// Its memory stays.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.bytes.clear();
    }

    fn has_room(&self, passing: &Passing<'_>) -> bool {
        let left = passing.left.map_or(0, |(_, bytes)| bytes.len());
        let len = passing.bytes.iter().map(|piece| piece.len()).sum::<usize>() + left;
        self.steps.len() + 2 <= self.steps.capacity() && self.bytes.len() + len <= self.bytes.capacity()
    }
}

/// One worker's.
#[derive(Debug, Default)]
struct Own {
    filter: Arc<Filter>,
    steps: Steps,
}

/// All of them.
#[derive(Debug)]
pub struct Taps {
    /// Somebody follows something.
    on: AtomicBool,
    own: PerWorker<Mutex<Own>>,
    lost: PerWorker<Counter>,
}

impl Taps {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self { on: AtomicBool::new(false), own: PerWorker::new(workers), lost: PerWorker::new(workers) }
    }

    /// Asked for each message: whether any call is followed.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Keeps a copy of a message if its call is followed. Of what came again only what left is kept.
    #[cold]
    pub fn put(&self, worker: usize, passing: &Passing<'_>, keys: &Keys) {
        let lost = || self.lost.of(worker).add(1);
        let Ok(mut own) = self.own.of(worker).try_lock() else { return lost() };
        let Own { filter, steps } = &mut *own;
        if !steps.has_room(passing) {
            return lost();
        }
        let begin = steps.bytes.len();
        passing.bytes.iter().for_each(|piece| steps.bytes.extend_from_slice(piece));
        let call = keys.call(passing.call_id.of(&steps.bytes[begin..]));
        let wanted = filter.wanted(call, passing.client);
        if wanted == Wanted::default() {
            return steps.bytes.truncate(begin);
        }
        let Passing { at, came, fate, again, .. } = *passing;
        let what = What::Came { fate, again };
        let came = Step { at, call, wanted, ends: came, what, bytes: begin..steps.bytes.len() };
        steps.steps.push(came.clone());
        if let Some((ends, bytes)) = passing.left {
            steps.push(&Step { ends, what: What::Left { fate }, ..came }, bytes);
        }
    }

    /// Follows these calls from now on. Memory is had while somebody follows, and given back after.
    pub fn set(&self, filter: Filter) {
        let (on, filter) = (!filter.is_off(), Arc::new(filter));
        for own in self.own.each() {
            let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
            own.filter = Arc::clone(&filter);
            if on == (own.steps.bytes.capacity() == 0) {
                own.steps = if on { Steps::with_room() } else { Steps::default() };
            }
        }
        self.on.store(on, Ordering::Relaxed);
    }

    /// What each worker kept, for the reader's own of each, which is empty.
    pub fn take(&self, read: &mut [Steps]) {
        for (own, read) in self.own.each().zip(read) {
            let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
            if !own.steps.steps.is_empty() {
                swap(&mut own.steps, read);
            }
        }
    }

    /// Messages of followed calls, or of what might have been such, that found no room.
    pub fn lost(&self) -> u64 {
        self.lost.sum(|counter| counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::token::SealKey;

    fn keys() -> Keys {
        Keys::new([1; 16], &[SealKey { id: 1, secret: [2; 16] }], 1).unwrap()
    }

    const CALL_ID: Span = Span { start: 9, end: 12 };

    fn passing<'a>(came: &'a [u8], left: &'a [u8]) -> Passing<'a> {
        let address = |last| SocketAddr::from(([192, 0, 2, last], 5060));
        let ends = Ends { transport: Transport::Udp, from: address(1), to: address(2) };
        Passing {
            at: Time(1),
            came: ends,
            bytes: came.split_at(came.len() / 2).into(),
            call_id: CALL_ID,
            fate: Fate::Dropped(Reason::NoServer),
            again: false,
            client: Some(address(1).ip()),
            left: Some((ends, left)),
        }
    }

    fn read(taps: &Taps) -> Vec<(Wanted, Vec<u8>)> {
        let mut read = [Steps::with_room(), Steps::with_room()];
        taps.take(&mut read);
        read.iter().flat_map(Steps::each).map(|(step, bytes)| (step.wanted, bytes.to_vec())).collect()
    }

    fn all() -> Option<Sample> {
        Some(Sample { percent: 100, clients: Vec::new() })
    }

    #[test]
    fn only_followed_calls_are_kept_and_for_whom() {
        let (taps, keys) = (Taps::new(2), keys());
        assert!(!taps.is_on());
        let [a, b] = [b"Call-ID: aaa, came", b"Call-ID: bbb, came"];
        taps.set(Filter { traced: vec![keys.call(b"bbb")], ..Filter::default() });
        assert!(taps.is_on());
        taps.put(0, &passing(a, b"a left"), &keys);
        taps.put(1, &passing(b, b"b left"), &keys);
        assert_eq!(read(&taps), [(Wanted::TRACE, b.to_vec()), (Wanted::TRACE, b"b left".to_vec())]);
        let elsewhere = Sample { percent: 100, clients: vec!["198.51.100.0/24".parse().unwrap()] };
        taps.set(Filter { log: all(), hep: Some(elsewhere), traced: Vec::new() });
        taps.put(0, &passing(a, b"a left"), &keys);
        assert_eq!(read(&taps), [(Wanted::LOG, a.to_vec()), (Wanted::LOG, b"a left".to_vec())]);
        assert_eq!(taps.lost(), 0);
        taps.set(Filter::default());
        assert!(!taps.is_on() && taps.own.each().all(|own| own.lock().unwrap().steps.bytes.capacity() == 0));
    }

    /// Nothing is allocated for it either.
    #[test]
    fn what_finds_no_room_is_lost_and_counted() {
        let (taps, keys) = (Taps::new(1), keys());
        taps.set(Filter { hep: all(), ..Filter::default() });
        let long = [b"Call-ID: aaa, ".to_vec(), vec![b'x'; 60_000]].concat();
        let fit = BYTES / (2 * long.len());
        (0..fit + 3).for_each(|_| taps.put(0, &passing(&long, &long), &keys));
        assert_eq!((read(&taps).len(), taps.lost()), (2 * fit, 3));
        (0..STEPS).for_each(|_| taps.put(0, &passing(b"Call-ID: aaa", b"left"), &keys));
        assert_eq!((read(&taps).len(), taps.lost() as usize), (STEPS, 3 + STEPS / 2));
        let reading = taps.own.of(0).lock().unwrap();
        taps.put(0, &passing(b"Call-ID: aaa", b"left"), &keys);
        assert_eq!((reading.steps.steps.capacity(), reading.steps.bytes.capacity()), (STEPS, BYTES));
        drop(reading);
        assert_eq!(taps.lost() as usize, 4 + STEPS / 2, "no worker waits for the reader");
    }
}
