//! One server: what was asked of it, how it is, who may be sent to it, and its live side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use dashmap::DashMap;

use super::Time;
use super::counters::{Counter, Gauge, PerWorker, ServerCounters};
use super::limits::Pace;
use super::lookup::hasher;
use super::methods::{ByMethod, Responses};
use super::response_times::{ResponseTimes, Timed};
use super::trials::Trials;
use crate::sip::token::NameHash;

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
    Resting(Rest),
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
            Self::Resting(_) => "resting",
            Self::Down => "down",
            Self::Dead => "dead",
        }
    }
}

/// What it answered with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// A call: perhaps for that call's sake alone, as where its trunk is congested. A check is on its way.
    Call,
    /// A check, or somebody said so for it: it wants no new calls at all.
    Check,
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

/// All of it together: what routing asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerState {
    pub admin: Admin,
    pub health: Health,
    pub breaker: Circuit,
    /// A weight that was asked for at run time, instead of the configured one.
    pub weight: Option<u32>,
    /// The same for `max_calls`.
    pub max_calls: Option<u32>,
    /// Somebody wants no checks of it for now: its health stays as it is.
    pub unchecked: bool,
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

    /// Whether nothing but what calls met keeps new ones from it, and no check has said so yet.
    pub fn is_doubtful(self) -> bool {
        let doubt = matches!(self.health, Health::Suspect | Health::Resting(Rest::Call));
        doubt && self.admin == Admin::Ready && self.breaker == Circuit::Closed
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

/// What was seen of a server, for the health of it: by a worker, or [`Sign::Silent`] by who looks at its counters.
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
    /// How often its rows of failing answers began anew: whenever its breaker moves. The same writes it.
    pub rows_begun: Counter,
    /// Checks in a row that it did not pass. Whoever hears of them writes it.
    pub failed_checks: Counter,
    pub trials: Trials,
    signs: AtomicU8,
    /// Its calls: live pins that an INVITE opened. [`super::calls`] keeps it.
    pub calls: Gauge,
    /// About how many transactions are open at it, in 1/256; kept for `leasttransactions` alone.
    pub transactions: Gauge,
    /// When its `max_rate` would be used up by nothing any more ([`super::limits`] says how).
    rate: AtomicU64,
}

/// What is known of a server at one moment, summed over the workers. All of it only grows, but for the row of checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests to it that want an answer.
    pub asked: u64,
    /// Whatever came from it, and relayed connections that did no worse.
    pub said: u64,
    /// New calls that went to it.
    pub calls: u64,
    /// When the newest of them left that it answered in any way.
    pub answered: Time,
    /// Requests that could not be sent, ICMP errors, connections that it did not let in or broke off unanswered.
    pub errors: u64,
    /// Checks in a row that it did not pass.
    pub failed_checks: u64,
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

/// What was counted of a server since the start, for whoever shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests that were sent to it, in all and by method.
    pub requests: u64,
    pub by_method: ByMethod,
    /// Those of them that had been sent on before.
    pub retransmissions: u64,
    /// Those of them that opened something and were balanced, and the INVITEs among these.
    pub opened: u64,
    pub new_calls: u64,
    /// Its responses by first digit, 1xx first.
    pub responses: [u64; 6],
    /// Requests that it sent through us.
    pub sent: u64,
    /// As [`BreakerCounts::failed`], and those of them that are answers with a 5xx of `codes`.
    pub failed: u64,
    pub failing_5xx: u64,
    /// Requests that could not be sent to it, and ICMP errors.
    pub unreachable: u64,
    /// As [`BreakerCounts::rejected`].
    pub moved_on: u64,
    /// What left to it, and what came from it.
    pub bytes_to: u64,
    pub bytes_from: u64,
}

impl ServerLive {
    pub fn new(workers: usize) -> Self {
        Self {
            counters: PerWorker::new(workers),
            unanswered: Counter::default(),
            rows_begun: Counter::default(),
            failed_checks: Counter::default(),
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
        let one_more = |full_at| Pace::within(interval, RATE_BURST).one_more(full_at, now);
        self.rate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals { failed_checks: self.failed_checks.get(), ..Totals::default() };
        for of in self.counters.each() {
            totals.asked += of.asked.get();
            totals.said += of.sent.get() + of.flows_good.get() + of.responses.iter().map(Counter::get).sum::<u64>();
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

    pub fn counted(&self) -> Counted {
        let sum = |counter: fn(&ServerCounters) -> &Counter| self.counters.sum(counter);
        let BreakerCounts { total, failed, rejected } = self.breaker_counts();
        let by_method = ByMethod::sum(self.counters.each().map(|of| &of.requests));
        Counted {
            requests: by_method.all(),
            by_method,
            retransmissions: sum(|of| &of.retransmissions),
            opened: total,
            new_calls: sum(|of| &of.calls),
            responses: std::array::from_fn(|class| self.counters.sum(|of| &of.responses[class])),
            sent: sum(|of| &of.sent),
            failed,
            failing_5xx: sum(|of| &of.failing_5xx),
            unreachable: sum(|of| &of.failed) + sum(|of| &of.unreachable),
            moved_on: rejected,
            bytes_to: sum(|of| &of.bytes_to),
            bytes_from: sum(|of| &of.bytes_from),
        }
    }

    /// Its responses by method and code. Reads 3.2 KB for each worker: for who shows them, not for who looks often.
    pub fn responses(&self) -> Responses {
        Responses::sum(self.counters.each().map(|of| &of.responses_by_code))
    }

    /// How long it takes from a request to the first answer: 100 to INVITE, or what rings where it never says 100, and the
    /// final answer of anything else.
    pub fn response_times(&self) -> ResponseTimes {
        self.times(&[Timed::First, Timed::Other])
    }

    /// How long it takes to these responses.
    pub fn times(&self, which: &[Timed]) -> ResponseTimes {
        let each = || self.counters.each();
        ResponseTimes::sum(which.iter().flat_map(|timed| each().map(|of| &of.response_times[*timed as usize])))
    }

    /// How many calls and flows of relays it has.
    pub fn open(&self) -> u64 {
        self.calls.get().max(0) as u64 + self.flows()
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

/// The live sides of servers by name, for all snapshots. A server that a snapshot does not know, for it is gone or newer than
/// that one, may have calls in the table and flows nevertheless: whoever ends them finds here where they are counted, and
/// a server that comes back has what is left of them.
pub struct Lives(DashMap<NameHash, Arc<ServerLive>, ahash::RandomState>);

impl Default for Lives {
    fn default() -> Self {
        Self(DashMap::with_hasher(hasher()))
    }
}

impl Lives {
    /// A server's, for a snapshot that has it.
    pub fn of(&self, id: NameHash, workers: usize) -> Arc<ServerLive> {
        Arc::clone(&self.0.entry(id).or_insert_with(|| Arc::new(ServerLive::new(workers))))
    }

    /// That of a server which some snapshot has, or which has calls or flows.
    #[cold]
    pub fn get(&self, id: NameHash) -> Option<Arc<ServerLive>> {
        self.0.get(&id).map(|live| Arc::clone(&live))
    }

    /// Forgets those that no snapshot has any more, once their calls and flows have ended.
    pub fn forget_gone(&self) {
        self.0.retain(|_, live| Arc::strong_count(live) > 1 || live.calls.get() != 0 || live.flows() != 0);
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
            (with(Admin::Ready, Health::Resting(Rest::Call)), false, true, true),
            (with(Admin::Ready, Health::Resting(Rest::Check)), false, true, true),
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
    fn who_is_gone_is_forgotten_with_his_last_call_and_flow() {
        let (lives, id) = (Lives::default(), NameHash(7));
        let live = lives.of(id, 2);
        live.calls.add(1);
        live.counters.of(1).flows_opened.add(1);
        lives.forget_gone();
        drop(live);
        let left = || {
            lives.forget_gone();
            lives.get(id).expect("something of it is left")
        };
        left().calls.add(-1);
        left().counters.of(1).flows_closed.add(1);
        let back = lives.of(id, 2);
        lives.forget_gone();
        assert_eq!((back.flows(), lives.get(id).is_some()), (0, true), "a snapshot has it");
        drop(back);
        lives.forget_gone();
        assert!(lives.get(id).is_none());
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
