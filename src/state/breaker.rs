//! The breaker of one server: when new calls leave it though its checks pass, and how they come back.
//!
//! ```text
//!            `failures` in a row                   `open_for` is over, and the server is up
//!   closed ──────────────────────▶ open ──────────────────────────────────▶ half-open
//!     ▲                              ▲                                          │ │
//!     │                              └────────────── a trial call fails ────────┘ │
//!     └───────────────────────────────────────── `successes` trial calls succeed ─┘
//! ```
//!
//! Four things are failures, each in a row of its own:
//!
//! | failure | the row is broken by |
//! |---|---|
//! | a request that cannot be sent, an ICMP error, a connection that cannot be opened or that the server resets, of a relay before it said a word, of SIP with something unanswered | anything that the server says; a relayed connection that ended in order |
//! | a new call without any answer, not even a 100, for `answer_within` | any answer to a later new call |
//! | a final answer with one of `codes`, to what opens something | another final answer to such |
//! | a check that is not passed, where `checks` is set | one that is |
//!
//! Nothing is remembered of a single call: that an answer belongs to a new call, and when that one left, travels in our
//! Via. A callee who never answers is none of the three: his server says 100 or 408.
//!
//! Pure: one owner feeds it with what it sees, a few times a second; time comes in.

use std::fmt;

use super::Time;
use super::server::{Circuit, Totals};
use super::trials::Trial;
use crate::config;

/// Why a breaker moved, in words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// So many new calls in a row.
    Unanswered(u64),
    /// So many errors in a row.
    Unreachable(u64),
    /// So many answers in a row had one of `codes`.
    Failing(u32),
    /// So many checks in a row were not passed.
    Checks(u64),
    OpenForIsOver,
    /// So many trial calls.
    TrialsSucceeded(u32),
    TrialsUnanswered(u64),
    TrialFailed(u16),
    Reset,
    /// The configuration has no breaker any more.
    Removed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(calls) => write!(f, "{calls} new calls in a row got no answer at all"),
            Self::Unreachable(errors) => write!(f, "{errors} requests or connections in a row found nobody there"),
            Self::Failing(answers) => write!(f, "{answers} answers in a row were failures"),
            Self::Checks(checks) => write!(f, "{checks} checks in a row were not passed"),
            Self::OpenForIsOver => write!(f, "open_for is over"),
            Self::TrialsSucceeded(calls) => write!(f, "{calls} of the trial calls succeeded"),
            Self::TrialsUnanswered(calls) => write!(f, "{calls} of the trial calls got no answer at all"),
            Self::TrialFailed(status) => write!(f, "a trial call was answered with {status}"),
            Self::Reset => write!(f, "reset by hand"),
            Self::Removed => write!(f, "the configuration has no breaker any more"),
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: Circuit,
    pub to: Circuit,
    pub why: Why,
}

/// What a look led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Moved(Transition),
    /// It would open, but too much of its backend is taken away by breakers already. Said once in `open_for`.
    Held(Why),
}

/// What it may do now.
#[derive(Clone, Copy)]
pub struct Leave<'a> {
    /// No more than `max_open` would be taken away. Asked only when it would open.
    pub open: &'a dyn Fn() -> bool,
    /// The server would take new calls but for its breaker.
    pub half_open: bool,
}

/// One server's breaker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Breaker {
    circuit: Circuit,
    /// When it became so.
    since: Time,
    /// It opened, since it was closed last, for calls that nobody answered.
    missed_calls: bool,
    /// What the rows count from.
    base: Totals,
    /// When `failures` new calls were first seen without an answer.
    unanswered_at: Option<Time>,
    held_at: Option<Time>,
}

impl Breaker {
    /// Closed, with rows that count from what is known now.
    pub fn new(seen: &Totals) -> Self {
        Self { base: *seen, ..Self::default() }
    }

    pub fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// Whether anything that opens something may be a trial call. Who left INVITEs unanswered may still answer all else: of
    /// him INVITEs are asked, unless none comes for `open_for`.
    pub fn tries_all(&self, config: &config::Breaker, now: Time) -> bool {
        !self.missed_calls || now.since(self.since) >= config.open_for
    }

    /// Takes what is known of the server now.
    pub fn look(
        &mut self,
        seen: &Totals,
        trials: impl Iterator<Item = Trial>,
        config: &config::Breaker,
        leave: Leave<'_>,
        now: Time,
    ) -> Option<Step> {
        let (to, why) = match self.circuit {
            Circuit::Closed => {
                let why = self.failures(seen, config, now)?;
                if !(leave.open)() {
                    return self.hold(why, config, now);
                }
                (Circuit::Open, why)
            }
            Circuit::Open => {
                let over = leave.half_open && now.since(self.since) >= config.open_for;
                over.then_some((Circuit::HalfOpen, Why::OpenForIsOver))?
            }
            Circuit::HalfOpen => self.judge(seen, trials, config, now)?,
        };
        Some(Step::Moved(self.become_(to, why, seen, now)))
    }

    /// Closes it and forgets every row. `None` where it was closed.
    pub fn close(&mut self, why: Why, seen: &Totals, now: Time) -> Option<Transition> {
        let transition = self.become_(Circuit::Closed, why, seen, now);
        (transition.from != Circuit::Closed).then_some(transition)
    }

    /// The row that is long enough.
    fn failures(&mut self, seen: &Totals, config: &config::Breaker, now: Time) -> Option<Why> {
        if seen.said != self.base.said {
            (self.base.said, self.base.errors) = (seen.said, seen.errors);
        }
        // An answer to a call from before says nothing about what works now.
        if seen.answered > self.base.answered {
            (self.base.answered, self.base.calls) = (seen.answered, seen.calls);
            self.unanswered_at = None;
        }
        let failing = seen.failing_rows != self.base.failing_rows;
        self.base.failing_rows = seen.failing_rows;
        let checks = self.failed_checks(seen, config);
        let enough = u64::from(config.failures);
        let (errors, calls) = (grown(seen.errors, self.base.errors), grown(seen.calls, self.base.calls));
        if calls >= enough {
            self.unanswered_at.get_or_insert(now);
        }
        let late = self.unanswered_at.is_some_and(|since| now.since(since) >= config.answer_within);
        match () {
            () if errors >= enough => Some(Why::Unreachable(errors)),
            () if failing => Some(Why::Failing(config.failures)),
            () if checks >= enough => Some(Why::Checks(checks)),
            () if late => Some(Why::Unanswered(calls)),
            () => None,
        }
    }

    /// The row of checks, of which one that is passed begins another.
    fn failed_checks(&mut self, seen: &Totals, config: &config::Breaker) -> u64 {
        self.base.failed_checks = self.base.failed_checks.min(seen.failed_checks);
        if config.checks { seen.failed_checks - self.base.failed_checks } else { 0 }
    }

    fn hold(&mut self, why: Why, config: &config::Breaker, now: Time) -> Option<Step> {
        if self.held_at.is_some_and(|held| now.since(held) < config.open_for) {
            return None;
        }
        self.held_at = Some(now);
        Some(Step::Held(why))
    }

    /// Whether the trial calls decide it: one failure, or enough successes. With `codes` a provisional answer is a
    /// success only once it is plain that the failure does not come at once.
    fn judge(
        &mut self,
        seen: &Totals,
        trials: impl Iterator<Item = Trial>,
        config: &config::Breaker,
        now: Time,
    ) -> Option<(Circuit, Why)> {
        let errors = grown(seen.errors, self.base.errors);
        if errors > 0 {
            return Some((Circuit::Open, Why::Unreachable(errors)));
        }
        let checks = self.failed_checks(seen, config);
        if checks > 0 {
            return Some((Circuit::Open, Why::Checks(checks)));
        }
        let (mut succeeded, mut unanswered) = (0, 0);
        for trial in trials {
            let late = now.since(trial.sent) >= config.answer_within;
            match trial.status {
                Some(status) if config.codes.contains(&status) => {
                    return Some((Circuit::Open, Why::TrialFailed(status)));
                }
                Some(200..) => succeeded += 1,
                Some(_) => succeeded += u32::from(late || config.codes.is_empty()),
                None => unanswered += u64::from(late && trial.invite),
            }
        }
        match () {
            () if unanswered > 0 => Some((Circuit::Open, Why::TrialsUnanswered(unanswered))),
            () if succeeded >= config.successes => Some((Circuit::Closed, Why::TrialsSucceeded(succeeded))),
            () => None,
        }
    }

    fn become_(&mut self, to: Circuit, why: Why, seen: &Totals, now: Time) -> Transition {
        let from = self.circuit;
        let missed = self.missed_calls || matches!(why, Why::Unanswered(_) | Why::TrialsUnanswered(_));
        let missed_calls = missed && to != Circuit::Closed;
        *self = Self { circuit: to, since: now, missed_calls, base: *seen, unanswered_at: None, held_at: None };
        Transition { from, to, why }
    }
}

/// By how much a counter grew. Those of one server never fall; if they did, a row would begin anew, and no call be lost
/// with the process for it.
fn grown(now: u64, before: u64) -> u64 {
    now.saturating_sub(before)
}

#[cfg(test)]
mod tests;
