//! Numbers that no other run of any process uses, and the texts that carry them.

use crate::sip::{Message, Via};
use crate::state::lookup;

/// What our branches begin with, behind the magic cookie of RFC 3261 §8.1.1.7.
pub const BRANCH_MARK: &str = "z9hG4bKtl";

/// Numbers that are unique among all runs: a random half for the run, a counted half.
///
/// A server remembers calls for half a minute after their end, so two runs in a row must not share a Call-ID.
#[derive(Clone, Debug)]
pub struct Ids {
    run: u32,
    next: u32,
}

impl Ids {
    /// Numbers of a new run.
    ///
    /// # Errors
    /// Where the kernel gives no random numbers.
    pub fn new() -> Result<Self, String> {
        let mut run = [0; 4];
        getrandom::fill(&mut run).map_err(|error| format!("no random number for the Call-IDs of this run: {error}"))?;
        Ok(Self::of_run(u32::from_ne_bytes(run)))
    }

    /// Numbers of a run with a number of its own: for runs that shall be repeatable.
    pub fn of_run(run: u32) -> Self {
        Self { run, next: 0 }
    }

    /// The next number; after 2^32 they repeat.
    pub fn fresh(&mut self) -> u64 {
        self.next = self.next.wrapping_add(1);
        u64::from(self.run) << 32 | u64::from(self.next)
    }

    /// The half that all numbers of this run share.
    pub fn run(&self) -> u32 {
        self.run
    }
}

/// The number in a branch of ours; `None` for somebody else's branch.
pub fn branch_number(bytes: &[u8], via: &Via) -> Option<u64> {
    let digits = via.branch?.of(bytes).strip_prefix(BRANCH_MARK.as_bytes())?;
    hex(digits)
}

/// Exactly sixteen hexadecimal digits.
pub fn hex(digits: &[u8]) -> Option<u64> {
    if digits.len() != 16 {
        return None;
    }
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | u64::from((*digit as char).to_digit(16)?)))
}

/// A 64-bit hash: tables are keyed by it instead of by text.
pub fn hash(text: &[u8]) -> u64 {
    lookup::hasher().hash_one(text)
}

/// The key of a message's call; `None` without Call-ID.
pub fn call_key(bytes: &[u8], message: &Message) -> Option<u64> {
    Some(hash(message.call_id?.of(bytes)))
}
