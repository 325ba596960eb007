//! Requests that were written to a server's connection and have no final answer yet: if the connection breaks, each is owed
//! one (docs/rules.md 26). Bounded; the oldest are forgotten first.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sip::token::NameHash;
use crate::sip::{Flow, Method};
use crate::state::Time;
use crate::state::lookup::{Map, hasher};

/// The most bytes of requests that are kept for one connection: some five hundred.
const MOST_BYTES: usize = 512 * 1024;

/// So many answered requests may stay in the order beside as many as there are others.
const SPARE: usize = 64;

/// The largest buffer that is used again.
const MOST_REUSED: usize = 4096;

/// How long anybody waits for the answer to what is no INVITE: 64*T1, Timer F (RFC 3261 §17.1.2.2).
const LONGEST_WAIT: Duration = Duration::from_secs(32);

/// How long somebody may let a call ring: longer than anybody does.
pub const LONGEST_RINGING: Duration = Duration::from_secs(10 * 60);

/// How long a server may owe an answer.
pub fn owed_for(method: Method) -> Duration {
    if method == Method::Invite { LONGEST_RINGING } else { LONGEST_WAIT }
}

/// A request as it came in.
#[derive(Debug)]
pub struct Request {
    pub transaction: u64,
    pub bytes: Vec<u8>,
    pub came: Came,
}

/// How a request came.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    pub flow: Flow,
    pub lane: usize,
    pub peer: Option<NameHash>,
    /// Until when it is owed an answer. A copy of what was answered already never is: who has answered a call over TCP takes
    /// its INVITE again in silence (RFC 6026 §7.1).
    pub until: Time,
    /// Whether it was balanced: it counts as such when it leaves.
    pub balanced: bool,
    /// How often it was decided about anew.
    pub tries: u8,
}

/// The requests of one connection.
pub struct Unanswered {
    /// By transaction, with the number under which it is in `order`.
    requests: Map<u64, (u64, Request)>,
    /// Number and transaction, oldest first. Those that were answered stay until there are as many of them as of others: a
    /// call that rings may wait for very long among requests that do not.
    order: VecDeque<(u64, u64)>,
    next: u64,
    bytes: usize,
    /// Buffers of requests that were answered, for those to come.
    free: Vec<Vec<u8>>,
}

impl Default for Unanswered {
    fn default() -> Self {
        let requests = Map::with_hasher(hasher());
        Self { requests, order: VecDeque::new(), next: 0, bytes: 0, free: Vec::new() }
    }
}

impl Unanswered {
    /// Remembers a request. False for a retransmission, which is remembered already.
    pub fn put(&mut self, transaction: u64, parts: [&[u8]; 2], came: Came) -> bool {
        if self.requests.contains_key(&transaction) {
            return false;
        }
        let len = parts.map(<[u8]>::len).iter().sum::<usize>();
        while !self.has_room(len) && !self.is_empty() {
            self.forget_oldest();
        }
        let mut bytes = self.free.pop().unwrap_or_default();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        self.bytes += len;
        self.order.push_back((self.next, transaction));
        self.requests.insert(transaction, (self.next, Request { transaction, bytes, came }));
        self.next += 1;
        true
    }

    /// Whether so many bytes more are remembered without forgetting others.
    pub fn has_room(&self, len: usize) -> bool {
        self.bytes + len <= MOST_BYTES
    }

    /// Its final answer came.
    pub fn answered(&mut self, transaction: u64) {
        let Some((_, request)) = self.requests.remove(&transaction) else { return };
        self.recycle(request);
        self.forget_answered();
    }

    /// Nobody waits any more for what should have been answered by now.
    pub fn forget_overdue(&mut self, now: Time) {
        let Self { requests, bytes, .. } = self;
        requests.retain(|_, (_, request)| {
            let is_owed = now < request.came.until;
            *bytes -= if is_owed { 0 } else { request.bytes.len() };
            is_owed
        });
        self.forget_answered();
    }

    fn forget_answered(&mut self) {
        let Self { requests, order, .. } = self;
        if order.len() > 2 * requests.len() + SPARE {
            order.retain(|(number, transaction)| requests.get(transaction).is_some_and(|(own, _)| own == number));
        }
    }

    /// A name for a request whose transaction nobody asks for.
    pub fn number(&self) -> u64 {
        self.next
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn forget_oldest(&mut self) {
        let Some((number, transaction)) = self.order.pop_front() else { return };
        if self.requests.get(&transaction).is_some_and(|(own, _)| *own == number)
            && let Some((_, oldest)) = self.requests.remove(&transaction)
        {
            self.recycle(oldest);
            self.forget_answered();
        }
    }

    fn recycle(&mut self, Request { mut bytes, .. }: Request) {
        self.bytes -= bytes.len();
        // What was large is rare: to keep it for small ones would be a waste.
        if bytes.capacity() <= MOST_REUSED {
            bytes.clear();
            self.free.push(bytes);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// All of them, in the order in which they came.
    pub fn take(&mut self) -> impl Iterator<Item = Request> + use<> {
        let Self { mut requests, order, .. } = std::mem::take(self);
        order.into_iter().filter_map(move |(number, transaction)| {
            requests.get(&transaction).filter(|(own, _)| *own == number)?;
            requests.remove(&transaction).map(|(_, request)| request)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn came() -> Came {
        let flow = Flow::of_datagrams(([10, 0, 0, 1], 5060).into(), ([10, 0, 0, 2], 5060).into());
        Came { flow, lane: 0, peer: None, until: Time(u64::MAX), balanced: true, tries: 0 }
    }

    proptest! {
        /// Beside a list that is searched from end to end.
        #[test]
        fn what_is_left_is_what_was_not_answered(steps in proptest::collection::vec((any::<bool>(), 0u64..40, 1usize..60_000), 0..600)) {
            let (mut unanswered, mut model) = (Unanswered::default(), Vec::<(u64, usize)>::new());
            for (put, transaction, len) in steps {
                let at = model.iter().position(|(other, _)| *other == transaction);
                match (put, at) {
                    (true, None) => {
                        while model.iter().map(|(_, len)| len).sum::<usize>() + len > MOST_BYTES {
                            model.remove(0);
                        }
                        model.push((transaction, len));
                    }
                    (false, Some(at)) => { model.remove(at); }
                    _ => {}
                }
                match put {
                    true => prop_assert_eq!(unanswered.put(transaction, [&vec![7; len], &[]], came()), at.is_none()),
                    false => unanswered.answered(transaction),
                }
            }
            prop_assert!(unanswered.order.len() <= 2 * model.len() + SPARE + 1);
            let left: Vec<_> = unanswered.take().map(|request| (request.transaction, request.bytes.len())).collect();
            prop_assert_eq!(left, model);
        }
    }

    #[test]
    fn what_nobody_waits_for_is_owed_to_nobody() {
        let (mut unanswered, now) = (Unanswered::default(), Time(1_000_000_000));
        for (transaction, method) in [(1, Method::Options), (2, Method::Invite), (3, Method::Bye)] {
            unanswered.put(transaction, [b"1234567", b""], Came { until: now + owed_for(method), ..came() });
        }
        unanswered.forget_overdue(now + Duration::from_secs(31));
        assert_eq!((unanswered.requests.len(), unanswered.bytes), (3, 21));
        unanswered.forget_overdue(now + Duration::from_secs(32));
        assert_eq!((unanswered.requests.len(), unanswered.bytes), (1, 7));
        unanswered.forget_overdue(now + Duration::from_secs(600));
        assert!(unanswered.is_empty() && unanswered.bytes == 0);
    }

    /// A call that rings among requests that are answered at once.
    #[test]
    fn one_that_waits_keeps_nothing_behind_it() {
        let mut unanswered = Unanswered::default();
        unanswered.put(1, [b"INVITE", b""], came());
        for transaction in 2..100_000 {
            unanswered.put(transaction, [b"OPTIONS", b""], came());
            unanswered.answered(transaction);
        }
        assert!(unanswered.order.capacity() <= 4 * SPARE && unanswered.free.len() == 1);
        assert_eq!(unanswered.take().map(|request| request.transaction).collect::<Vec<_>>(), [1]);
    }
}
