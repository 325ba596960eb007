//! The newest messages that nobody could read, or that were forged: what HAProxy's `show errors` shows.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use super::counters::{Counter, Reason};
use super::{Shared, Time};
use crate::sip::token::NameHash;

/// Messages that each worker keeps, and the most that it keeps of one: a head, mostly.
const MESSAGES: usize = 16;
const KEPT: usize = 1024;

/// Between two of them lies so much time at least: who floods us with junk pays nobody's attention with it.
const APART: Duration = Duration::from_millis(100);

/// What is known of a message beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    pub at: Time,
    /// The frontend that it came to.
    pub frontend: NameHash,
    pub source: SocketAddr,
    pub reason: Reason,
    /// How long it was, or what was read of it on a stream; bytes.
    pub len: usize,
}

/// One of them, for whoever shows it. Its bytes are a stranger's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadMessage {
    pub about: About,
    /// Its beginning: 1,024 bytes at most.
    pub bytes: Vec<u8>,
}

/// One worker's, in memory that is there from the start.
#[derive(Debug)]
pub struct BadMessages {
    ring: Mutex<Ring>,
    /// Nothing more is kept before.
    next: Counter,
}

#[derive(Debug)]
struct Ring {
    slots: [(Option<About>, Vec<u8>); MESSAGES],
    /// The slot that is written next: the oldest.
    oldest: usize,
}

impl Default for BadMessages {
    fn default() -> Self {
        let slots = std::array::from_fn(|_| (None, Vec::with_capacity(KEPT)));
        Self { ring: Mutex::new(Ring { slots, oldest: 0 }), next: Counter::default() }
    }
}

impl BadMessages {
    /// Keeps a message, unless one was kept a moment ago or somebody reads them just now: nobody is waited for.
    #[cold]
    pub fn keep(&self, about: About, bytes: &[u8]) {
        if about.at.0 < self.next.get() {
            return;
        }
        let Ok(mut ring) = self.ring.try_lock() else { return };
        self.next.set((about.at + APART).0);
        let Ring { slots, oldest } = &mut *ring;
        let (slot, kept) = &mut slots[*oldest];
        *slot = Some(about);
        kept.clear();
        kept.extend_from_slice(&bytes[..bytes.len().min(KEPT)]);
        *oldest = (*oldest + 1) % MESSAGES;
    }

    fn read(&self) -> Vec<BadMessage> {
        // A thread that panicked while it had them left whole entries or one that is half new.
        let ring = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let kept =
            |(about, bytes): &(Option<About>, Vec<u8>)| about.map(|about| BadMessage { about, bytes: bytes.clone() });
        ring.slots.iter().filter_map(kept).collect()
    }
}

impl Reason {
    /// Whether somebody may want to see what it was.
    #[inline]
    pub fn is_bad_message(self) -> bool {
        use Reason::{ForgedResponse, ForgedToken, Junk, Malformed, NotSip, Unanswerable, Version};
        matches!(self, Junk | NotSip | Unanswerable | Malformed | Version | ForgedToken | ForgedResponse)
    }
}

impl Shared {
    /// The newest bad messages of all workers, the oldest first.
    pub fn bad_messages(&self) -> Vec<BadMessage> {
        let mut all: Vec<_> = self.bad.each().flat_map(BadMessages::read).collect();
        all.sort_by_key(|message| message.about.at);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    use proptest::prelude::*;

    fn about(at: u64, len: usize) -> About {
        let source = SocketAddr::from(([192, 0, 2, 1], 5060));
        About { at: Time(at * 1_000_000), frontend: NameHash(1), source, reason: Reason::Malformed, len }
    }

    proptest! {
        #[test]
        fn the_newest_are_kept_as_in_a_queue(steps in proptest::collection::vec((0u64..250, 0usize..3, 0usize..3_000), 0..80)) {
            let shared = Shared::new(1, 3);
            let mut model: [VecDeque<(u64, usize)>; 3] = Default::default();
            let mut now = 1_000;
            for (wait, worker, len) in steps {
                // No two at one time, so that there is one order.
                now += wait + 1;
                let bytes: Vec<_> = (0..len).map(|n| (n as u64 * now) as u8).collect();
                shared.bad.of(worker).keep(about(now, len), &bytes);
                let kept = &mut model[worker];
                if kept.back().is_none_or(|(last, _)| now >= last + 100) {
                    kept.push_back((now, len));
                    if kept.len() > 16 { kept.pop_front(); }
                }
            }
            let mut expected: Vec<_> = model.into_iter().flatten().collect();
            expected.sort_unstable();
            let found = shared.bad_messages();
            prop_assert_eq!(found.len(), expected.len());
            for (found, (at, len)) in found.iter().zip(expected) {
                prop_assert_eq!(found.about, about(at, len));
                prop_assert_eq!(found.bytes.len(), len.min(1_024));
                prop_assert!(found.bytes.iter().enumerate().all(|(n, byte)| *byte == (n as u64 * at) as u8));
            }
            for worker in shared.bad.each() {
                prop_assert!(worker.ring.lock().unwrap().slots.iter().all(|(_, bytes)| bytes.capacity() == KEPT), "nothing is allocated");
            }
        }
    }

    #[test]
    fn who_reads_makes_no_worker_wait() {
        let messages = BadMessages::default();
        let reading = messages.ring.lock().unwrap();
        messages.keep(about(1, 1), b"a");
        drop(reading);
        assert_eq!(messages.read(), []);
        messages.keep(about(2, 1), b"b");
        assert_eq!(messages.read(), [BadMessage { about: about(2, 1), bytes: b"b".to_vec() }]);
    }
}
