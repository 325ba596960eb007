//! The books: everything that was started ends in exactly one column.

use std::collections::BTreeMap;

use super::call::{End, Strand};
use super::json::Object;

/// How often each status came. Bounded: there are six hundred.
pub type Statuses = BTreeMap<u16, u64>;

/// What became of calls and lone requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub started: u64,
    /// Everything that was planned happened.
    pub answered: u64,
    /// A final failure answered the first request.
    pub refused: Statuses,
    /// The first request got no final answer in time.
    pub lost: u64,
    /// Those of `lost` whose connection broke.
    pub disconnected: u64,
    /// Established, then something in it failed: by the reason's word.
    pub stranded: BTreeMap<&'static str, u64>,
    /// The statuses of those stranded because an in-dialog request was refused.
    pub stranded_by_status: Statuses,
    /// Still going on when the run was cut short.
    pub unfinished: u64,
}

impl Ledger {
    /// Books an end.
    pub fn note(&mut self, end: End) {
        match end {
            End::Answered => self.answered += 1,
            End::Refused(status) => *self.refused.entry(status).or_default() += 1,
            End::Lost => self.lost += 1,
            End::Disconnected => {
                self.lost += 1;
                self.disconnected += 1;
            }
            End::Stranded(strand) => {
                *self.stranded.entry(strand.word()).or_default() += 1;
                if let Strand::Refused(status) = strand {
                    *self.stranded_by_status.entry(status).or_default() += 1;
                }
            }
        }
    }

    /// Those that were refused, whatever the status.
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Those that were stranded, whatever the reason.
    pub fn stranded_total(&self) -> u64 {
        self.stranded.values().sum()
    }

    /// What failed: refused, lost or stranded.
    pub fn failed(&self) -> u64 {
        self.refused_total() + self.lost + self.stranded_total()
    }

    /// Those in a column other than `started`.
    pub fn ended(&self) -> u64 {
        self.answered + self.failed() + self.unfinished
    }

    /// Whether everything started is in exactly one column.
    pub fn balances(&self) -> bool {
        self.started == self.ended()
    }

    /// Whether it balances and nothing failed or was cut off.
    pub fn is_clean(&self) -> bool {
        self.balances() && self.answered == self.started
    }

    /// Adds the books of another.
    pub fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.answered += other.answered;
        self.lost += other.lost;
        self.disconnected += other.disconnected;
        self.unfinished += other.unfinished;
        add_all(&mut self.refused, &other.refused);
        add_all(&mut self.stranded, &other.stranded);
        add_all(&mut self.stranded_by_status, &other.stranded_by_status);
    }

    /// The columns as members of a JSON object.
    pub fn write(&self, object: &mut Object) {
        object.number("started", self.started).number("answered", self.answered);
        object.number("refused", self.refused_total()).number("lost", self.lost);
        object
            .number("disconnected", self.disconnected)
            .number("stranded", self.stranded_total())
            .number("unfinished", self.unfinished);
        object.counts("refused_by_status", &self.refused);
        object.counts("stranded_by_reason", &self.stranded);
        object.counts("stranded_by_status", &self.stranded_by_status);
    }
}

fn add_all<K: Ord + Copy>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    from.iter().for_each(|(key, count)| *to.entry(*key).or_default() += count);
}

impl Strand {
    /// The word for it in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::Refused(_) => "refused",
            Self::NoAck => "no_ack",
            Self::NoBye => "no_bye",
            Self::NoReinvite => "no_reinvite",
            Self::NotCalled => "not_called",
            Self::Disconnected => "disconnected",
        }
    }
}
