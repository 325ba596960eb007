//! One server: what was asked of it, how it is, who may be sent to it, and its live side.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::Time;
use super::counters::{Counter, Gauge, PerWorker, ServerCounters};
use super::response_times::ResponseTimes;
use super::trials::Trials;

/// What the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admin {
    #[default]
    Ready,
    /// Keeps its calls, gets no new ones.
    Drain,
    /// Gets nothing.
    Maint,
    /// A reload removed it from the configuration: it keeps its calls until they end.
    Leaving,
}

impl Admin {
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
            Self::Leaving => "leaving",
        }
    }
}

/// How it is, as far as we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Also before the first check.
    #[default]
    Up,
    /// Silent, or an ICMP error came: a check is on its way.
    Suspect,
    /// It said 503: no new calls.
    Resting,
    /// Down, but it answers.
    Down,
    /// Down, and nothing comes from it.
    Dead,
}

impl Health {
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Resting => "resting",
            Self::Down => "down",
            Self::Dead => "dead",
        }
    }
}

/// How its breaker is: [`super::breaker`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Circuit {
    #[default]
    Closed,
    /// No new calls.
    Open,
    /// A few trial calls.
    HalfOpen,
}

impl Circuit {
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// All three together: what routing asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerState {
    pub admin: Admin,
    pub health: Health,
    pub breaker: Circuit,
    /// A weight that was asked for at run time, instead of the configured one.
    pub weight: Option<u32>,
    /// How much of its weight `slow_start` holds back, percent.
    pub held_back: u8,
    /// When `admin` or `health` changed last; nothing where they never did.
    pub since: Time,
}

impl ServerState {
    /// Whether it takes new calls.
    pub fn takes_new(self) -> bool {
        self.is_well() && self.breaker == Circuit::Closed
    }

    /// Whether it takes trial calls, and those only.
    pub fn takes_trials(self) -> bool {
        self.is_well() && self.breaker == Circuit::HalfOpen
    }

    /// Whether it would take new calls but for its breaker.
    pub fn is_well(self) -> bool {
        self.admin == Admin::Ready && self.health == Health::Up
    }

    /// Whether it keeps what is its own. What was never confirmed leaves a dead server; a confirmed dialog leaves it
    /// only where the servers share dialogs.
    pub fn keeps(self, confirmed: bool, in_dialog_failover: bool) -> bool {
        match (self.admin, self.health) {
            (Admin::Maint, _) => false,
            (_, Health::Dead) => confirmed && !in_dialog_failover,
            _ => true,
        }
    }
}

/// What a worker saw of a server, for the health of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Sign {
    /// An ICMP error, or the kernel refused to send. ICMP can be forged: a check decides.
    Unreachable = 1,
    /// It answered a live request with 503.
    Said503 = 2,
    /// It was sent requests for seconds and answered none.
    Silent = 4,
    /// So many answers in a row had one of its breaker's codes that the breaker should look at once.
    Failing = 8,
}

/// What `max_rate` lets through at once, in nanoseconds of the rate.
const RATE_BURST: u64 = 100_000_000;

/// The live side of a server: survives every snapshot.
#[derive(Debug)]
pub struct ServerLive {
    pub counters: PerWorker<ServerCounters>,
    /// New calls that the breaker found unanswered. Whoever keeps the breaker writes it.
    pub unanswered: Counter,
    pub trials: Trials,
    signs: AtomicU8,
    /// Its calls: live pins that an INVITE opened. [`super::calls`] keeps it.
    pub calls: Gauge,
    /// About how many transactions are open at it, in 1/256; kept for `leasttransactions` alone.
    pub transactions: Gauge,
    /// When its `max_rate` would be used up by nothing any more ([`super::limits`] says how).
    rate: AtomicU64,
}

/// What is known of a server at one moment, summed over the workers. All of it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests to it that want an answer.
    pub asked: u64,
    /// Whatever came from it.
    pub said: u64,
    /// New calls that went to it.
    pub calls: u64,
    /// When the newest of them left that it answered in any way.
    pub answered: Time,
    /// Requests that could not be sent, and ICMP errors.
    pub errors: u64,
    /// How often a worker saw as many failing answers in a row as open a breaker.
    pub failing_rows: u64,
}

/// What a breaker counts, for whoever shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerCounts {
    /// Requests that opened something here.
    pub total: u64,
    /// Those that failed, as far as anybody saw: errors, `codes`, and new calls that its breaker found unanswered.
    pub failed: u64,
    /// Those that went elsewhere because it was half-open.
    pub rejected: u64,
}

impl ServerLive {
    pub fn new(workers: usize) -> Self {
        Self {
            counters: PerWorker::new(workers),
            unanswered: Counter::default(),
            trials: Trials::default(),
            signs: AtomicU8::new(0),
            calls: Gauge::default(),
            transactions: Gauge::default(),
            rate: AtomicU64::new(0),
        }
    }

    /// Whether one more new call is within its `max_rate`, one every `interval` nanoseconds: then it is counted. A tenth of
    /// a second's worth may come at once, so that an even stream is let through.
    pub fn admit(&self, now: Time, interval: u64) -> bool {
        let one_more = |full_at: u64| {
            (full_at <= now.0.saturating_add(RATE_BURST.saturating_sub(interval)))
                .then(|| full_at.max(now.0) + interval)
        };
        self.rate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for of in self.counters.each() {
            totals.asked += of.asked.get();
            totals.said += of.sent.get() + of.responses.iter().map(Counter::get).sum::<u64>();
            totals.calls += of.calls.get();
            totals.answered = totals.answered.max(Time(of.answered.get() * 1000));
            totals.errors += of.failed.get() + of.unreachable.get();
            totals.failing_rows += of.failing_rows.get();
        }
        totals
    }

    pub fn breaker_counts(&self) -> BreakerCounts {
        let sum = |counter: fn(&ServerCounters) -> &Counter| self.counters.sum(counter);
        let errors = sum(|of| &of.failed) + sum(|of| &of.unreachable);
        BreakerCounts {
            total: sum(|of| &of.balanced),
            failed: errors + sum(|of| &of.failing) + self.unanswered.get(),
            rejected: sum(|of| &of.rejected),
        }
    }

    /// How long it takes from a request to the first answer: 100, or the final answer of anything but INVITE.
    pub fn response_times(&self) -> ResponseTimes {
        ResponseTimes::sum(self.counters.each().map(|of| &of.response_times))
    }

    /// How many flows of relays it has.
    pub fn flows(&self) -> u64 {
        let opened = self.counters.sum(|counters| &counters.flows_opened);
        opened.saturating_sub(self.counters.sum(|counters| &counters.flows_closed))
    }

    /// Leaves a sign for the one who keeps the health. True if it was not there yet: then that one should be woken.
    pub fn sign(&self, sign: Sign) -> bool {
        // A plain load first: under a storm of errors the cache line stays shared.
        self.signs.load(Ordering::Relaxed) & sign as u8 == 0
            && self.signs.fetch_or(sign as u8, Ordering::Relaxed) & sign as u8 == 0
    }

    /// Takes all signs that were left.
    pub fn take_signs(&self) -> impl Iterator<Item = Sign> {
        let signs = self.signs.swap(0, Ordering::Relaxed);
        let all = [Sign::Unreachable, Sign::Said503, Sign::Silent, Sign::Failing];
        all.into_iter().filter(move |&sign| signs & sign as u8 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of who takes what, row by row.
    #[test]
    fn who_takes_what() {
        let with = |admin, health| ServerState { admin, health, ..ServerState::default() };
        let breaker = |breaker| ServerState { breaker, ..ServerState::default() };
        for (state, new, confirmed, unconfirmed) in [
            (with(Admin::Ready, Health::Up), true, true, true),
            (with(Admin::Drain, Health::Up), false, true, true),
            (with(Admin::Ready, Health::Resting), false, true, true),
            (with(Admin::Ready, Health::Suspect), false, true, true),
            (with(Admin::Ready, Health::Down), false, true, true),
            (with(Admin::Ready, Health::Dead), false, true, false),
            (with(Admin::Drain, Health::Dead), false, true, false),
            (with(Admin::Maint, Health::Up), false, false, false),
            (breaker(Circuit::Open), false, true, true),
            (breaker(Circuit::HalfOpen), false, true, true),
            (with(Admin::Leaving, Health::Up), false, true, true),
            (with(Admin::Leaving, Health::Dead), false, true, false),
        ] {
            assert_eq!(
                (state.takes_new(), state.keeps(true, false), state.keeps(false, false)),
                (new, confirmed, unconfirmed),
                "{state:?}"
            );
        }
        assert!(!with(Admin::Ready, Health::Dead).keeps(true, true), "servers that share dialogs take over");
        assert!(breaker(Circuit::HalfOpen).takes_trials() && !breaker(Circuit::Open).takes_trials());
        assert!(!ServerState { health: Health::Suspect, ..breaker(Circuit::HalfOpen) }.takes_trials());
    }

    #[test]
    fn a_rate_lets_a_tenth_of_a_second_s_worth_through_at_once() {
        const MS: u64 = 1_000_000;
        let (live, interval) = (ServerLive::new(1), 10 * MS);
        let admitted = |at: u64| (0..100).filter(|_| live.admit(Time(at * MS), interval)).count();
        assert_eq!(admitted(5_000), 10, "100/s");
        assert_eq!((admitted(5_009), admitted(5_010), admitted(5_050)), (0, 1, 4));
        let later: usize = (0..1_000).map(|ms| admitted(10_000 + ms)).sum();
        assert!((100..=110).contains(&later), "{later} in a second");
        let slow = ServerLive::new(1);
        assert!(slow.admit(Time(MS), 500 * MS) && !slow.admit(Time(500 * MS), 500 * MS), "2/s");
        assert!(slow.admit(Time(501 * MS), 500 * MS));
    }

    #[test]
    fn a_sign_wakes_once_until_it_is_taken() {
        let live = ServerLive::new(1);
        assert!(live.sign(Sign::Unreachable));
        assert!(!live.sign(Sign::Unreachable));
        assert!(live.sign(Sign::Said503));
        assert_eq!(live.take_signs().collect::<Vec<_>>(), [Sign::Unreachable, Sign::Said503]);
        assert!(live.sign(Sign::Unreachable));
    }
}
