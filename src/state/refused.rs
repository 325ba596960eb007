//! Who was refused lately: sources that a list denies or that are over their rate, for whoever asks why a carrier's calls
//! do not arrive.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use super::counters::Reason;
use super::{Shared, Time};
use crate::sip::token::NameHash;

/// Sources that each worker remembers; who is refused oftenest comes again soonest.
const SOURCES: usize = 64;

/// What was refused of one source at one frontend, for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub source: IpAddr,
    pub frontend: NameHash,
    pub reason: Reason,
    /// How many messages, and when the last came.
    pub messages: u64,
    pub last: Time,
}

/// One worker's, on two sheets: who reads holds one at a time, so that the worker finds the other free and never waits.
#[derive(Debug)]
pub struct RefusedSources([Mutex<Vec<Refused>>; 2]);

impl Default for RefusedSources {
    fn default() -> Self {
        Self([(); 2].map(|()| Mutex::new(Vec::with_capacity(SOURCES))))
    }
}

impl RefusedSources {
    /// One more message of a source.
    #[cold]
    pub fn note(&self, source: IpAddr, frontend: NameHash, reason: Reason, now: Time) {
        let Some(mut all) = self.0.iter().find_map(|sheet| sheet.try_lock().ok()) else { return };
        let is_it = |of: &&mut Refused| (of.source, of.frontend, of.reason) == (source, frontend, reason);
        if let Some(known) = all.iter_mut().find(is_it) {
            known.messages += 1;
            known.last = now;
            return;
        }
        let new = Refused { source, frontend, reason, messages: 1, last: now };
        if all.len() < SOURCES {
            all.push(new);
        } else if let Some(oldest) = all.iter_mut().min_by_key(|of| of.last) {
            *oldest = new;
        }
    }
}

impl Reason {
    /// Whether it is about who sends, not about what was sent.
    #[inline]
    pub fn is_about_source(self) -> bool {
        matches!(self, Self::Denied | Self::Scanner | Self::RateLimited | Self::Banned)
    }
}

impl Shared {
    /// Who was refused lately, by all workers; the newest first.
    pub fn refused_sources(&self) -> Vec<Refused> {
        let mut all: HashMap<_, Refused> = HashMap::new();
        for sheet in self.refused.each().flat_map(|of| &of.0) {
            for one in sheet.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let sum = all.entry((one.source, one.frontend, one.reason)).or_insert(Refused { messages: 0, ..*one });
                sum.messages += one.messages;
                sum.last = sum.last.max(one.last);
            }
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_by_key(|of| std::cmp::Reverse(of.last));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_sources_are_known_and_their_messages_counted() {
        let (shared, frontend) = (Shared::new(1, 2), NameHash(1));
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..100 {
            for worker in [0, 1] {
                shared.refused.of(worker).note(source(n), frontend, Reason::RateLimited, Time(u64::from(2 * n) + 1));
            }
            shared.refused.of(1).note(source(7), frontend, Reason::Denied, Time(u64::from(2 * n) + 2));
        }
        let all = shared.refused_sources();
        assert_eq!((all[0].source, all[0].reason, all[0].messages), (source(7), Reason::Denied, 100));
        assert_eq!((all[1].source, all[1].reason, all[1].messages), (source(99), Reason::RateLimited, 2));
        // One worker has a place less for it.
        assert_eq!(all.len(), SOURCES + 1);
        assert!(all.iter().all(|of| of.reason == Reason::Denied || of.source >= source(100 - SOURCES as u32)));
    }

    #[test]
    fn what_comes_while_somebody_reads_is_noted() {
        let (shared, source) = (Shared::new(1, 1), IpAddr::from([192, 0, 2, 1]));
        let note = |now| shared.refused.of(0).note(source, NameHash(1), Reason::Denied, Time(now));
        note(1);
        let reading = shared.refused.of(0).0[0].lock().unwrap();
        note(2);
        drop(reading);
        note(3);
        let all = shared.refused_sources();
        assert_eq!(all.iter().map(|of| (of.messages, of.last)).collect::<Vec<_>>(), [(3, Time(3))]);
    }
}
