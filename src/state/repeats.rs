//! Which requests a worker has sent on before.

use crate::sip::Method;

/// Requests that are remembered at most: half a megabyte for each worker. Nobody makes room for another but by chance: at ten
/// thousand requests a second one of twenty-five is forgotten before it could come again (T1, RFC 3261 §17.1.1.1), at two
/// thousand one of a hundred and thirty.
const REQUESTS: usize = 1 << 17;

/// The requests that passed lately, each by a number of 32 bits at a place that its hash says. What comes again comes by the
/// same flow and so to the same worker: there is nothing to share.
pub struct Repeats(Box<[u32]>);

impl Default for Repeats {
    fn default() -> Self {
        Self(vec![0; REQUESTS].into_boxed_slice())
    }
}

impl Repeats {
    /// A request of this transaction was sent; whether one was before, as far as is remembered.
    #[inline]
    pub fn again(&mut self, transaction: u64, method: Method) -> bool {
        let (place, number) = place(transaction, method);
        std::mem::replace(&mut self.0[place], number) == number
    }

    /// It was not sent after all.
    #[cold]
    pub fn forget(&mut self, transaction: u64, method: Method) {
        let (place, number) = place(transaction, method);
        if self.0[place] == number {
            self.0[place] = 0;
        }
    }
}

/// Where it is remembered, and as what: never 0. A CANCEL and the ACK to a failure are of their INVITE's transaction
/// (RFC 3261 §9.1, §17.1.1.3) and no copy of it.
#[inline]
fn place(transaction: u64, method: Method) -> (usize, u32) {
    let hash = transaction ^ (method as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash as usize % REQUESTS, (hash >> 32) as u32 | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::Hasher;

    use proptest::prelude::*;

    fn transaction(n: u64) -> u64 {
        let mut hasher = siphasher::sip::SipHasher13::new();
        hasher.write_u64(n);
        hasher.finish()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Sent(u64, Method),
        Forgotten(u64, Method),
    }

    fn step() -> impl Strategy<Value = Step> {
        let method = prop_oneof![Just(Method::Invite), Just(Method::Ack), Just(Method::Cancel), Just(Method::Register)];
        prop_oneof![
            4 => (0u64..20, method.clone()).prop_map(|(n, method)| Step::Sent(n, method)),
            1 => (0u64..20, method).prop_map(|(n, method)| Step::Forgotten(n, method)),
        ]
    }

    proptest! {
        #[test]
        fn few_requests_are_remembered_as_in_a_set(steps in proptest::collection::vec(step(), 0..100)) {
            let (mut repeats, mut model) = (Repeats::default(), HashSet::new());
            for step in steps {
                match step {
                    Step::Sent(n, method) => {
                        prop_assert_eq!(repeats.again(transaction(n), method), !model.insert((n, method)));
                    }
                    Step::Forgotten(n, method) => {
                        repeats.forget(transaction(n), method);
                        model.remove(&(n, method));
                    }
                }
            }
        }
    }

    /// A flood makes nothing look repeated, and as many requests as come in half a second are mostly known again.
    #[test]
    fn a_million_different_requests_are_none_that_came_before() {
        const HALF_A_SECOND: u64 = 5_000;
        let mut repeats = Repeats::default();
        assert_eq!((0..1_000_000).filter(|n| repeats.again(transaction(*n), Method::Invite)).count(), 0);
        let newest = 1_000_000 - HALF_A_SECOND..1_000_000;
        let known = newest.filter(|n| repeats.again(transaction(*n), Method::Invite)).count();
        assert!(known > 4_700, "{known} of {HALF_A_SECOND}");
    }
}
