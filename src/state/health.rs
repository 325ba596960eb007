//! The health of one server: outcomes of checks and signs of workers go in, transitions come out.
//!
//! One owner writes it (the roof); workers only leave signs. Nothing here asks a clock or sends a packet.

use std::fmt;
use std::time::Duration;

use super::Time;
use super::server::{Health, Rest, Sign};
use crate::config::{Check, CheckKind, Suspect};

/// Failed checks that make a suspect dead: the sign was the first warning, so `fall` would be too patient.
const SUSPECT_FALL: u32 = 2;
/// A live 503 rests a server at least this long, although a check may pass at once: OPTIONS is answered by servers that
/// have no channel left.
const LIVE_REST: Duration = Duration::from_secs(1);
/// The longest Retry-After that is believed: a mistaken "one day" must not take a server away for a day.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// A check in a hurry waits no longer than this, whatever `timeout` says.
const FAST_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a server answers what it is sent. Its counters are looked at every now and then; the message path does
/// nothing for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence {
    /// What it had been asked, and had said, when it last said something.
    asked: u64,
    said: u64,
    /// When it was first seen to owe an answer.
    since: Option<Time>,
    /// What it had been asked at the last look, and when that had last become more.
    newest: (u64, Time),
}

/// What it has not answered for so long it owes no more: nobody waits for that (64*T1, RFC 3261 §17.1).
const FORGOTTEN: Duration = Duration::from_secs(32);

impl Silence {
    /// From now on.
    pub fn new(asked: u64, said: u64) -> Self {
        Self { asked, said, since: None, newest: (asked, Time::default()) }
    }

    /// Takes how many requests that want an answer were sent to it and how many messages came from it, ever. True where
    /// it owes `unanswered` answers and has said nothing for `after`; then the count begins anew.
    ///
    /// A request that is sent again is counted again: who is answered does not repeat.
    pub fn look(&mut self, asked: u64, said: u64, suspect: &Suspect, now: Time) -> bool {
        if said != self.said {
            *self = Self::new(asked, said);
        } else if asked > self.asked {
            let (before, grew) = self.newest;
            if asked > before {
                if now.since(grew) > FORGOTTEN {
                    *self = Self::new(before, said);
                }
                self.newest = (asked, now);
            }
            let since = *self.since.get_or_insert(now);
            if asked - self.asked >= suspect.unanswered.into() && now.since(since) >= suspect.after {
                *self = Self::new(asked, said);
                return true;
            }
        }
        false
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It let us in, and nothing more was asked.
    Connected,
    /// An answer of HTTP, and whether it holds the text that it must.
    Http { status: u16, has_text: bool },
    /// A final answer, with the Retry-After that it carried.
    Answered { status: u16, retry_after: Option<Duration> },
    /// Nothing within the timeout.
    Silent,
    /// An ICMP error, no connection, or the kernel would not send.
    Unreachable,
    /// There is a connection, and TLS does not come about: a certificate that is not trusted, or not its own.
    Untrusted,
}

/// Why a state changed, in words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Check(Outcome),
    Sign(Sign),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(Outcome::Answered { status, .. }) => write!(f, "check answered {status}"),
            Self::Check(Outcome::Http { has_text: false, .. }) => write!(f, "check was answered without the text"),
            Self::Check(Outcome::Http { status, .. }) => write!(f, "check answered {status} (HTTP)"),
            Self::Check(Outcome::Connected) => write!(f, "check connected"),
            Self::Check(Outcome::Silent) => write!(f, "check was not answered in time"),
            Self::Check(Outcome::Untrusted) => write!(f, "check could not shake hands (TLS)"),
            Self::Check(Outcome::Unreachable) => write!(f, "check found nobody there"),
            Self::Sign(Sign::Unreachable) => write!(f, "a request found nobody there"),
            Self::Sign(Sign::Said503) => write!(f, "answered a request with 503"),
            Self::Sign(Sign::Silent) => write!(f, "answers none of the requests that it gets"),
            Self::Sign(Sign::Failing) => write!(f, "answers with failures"),
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: Health,
    pub to: Health,
    pub why: Why,
    /// How many checks in a row said so.
    pub checks: u32,
}

/// When to check next, and how long to wait for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// From the start of the last check on.
    pub after: Duration,
    pub timeout: Duration,
}

/// What an outcome means.
enum Meaning {
    Alive,
    Resting(Option<Duration>),
    Failed(Health),
}

/// One server's health.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monitor {
    health: Health,
    failures: u32,
    successes: u32,
    /// What a check was told.
    rests_until: Time,
    /// The rest after a call's 503.
    spared_until: Time,
    /// Something says that it may be gone: two checks decide. Who rests goes on resting meanwhile.
    suspected: bool,
    /// It was down or dead before it wanted a rest: `rise` good answers bring it up, as they would have.
    recovers: bool,
}

impl Monitor {
    /// For a server of which this is known already.
    pub fn new(health: Health) -> Self {
        Self { health, suspected: health == Health::Suspect, ..Self::default() }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// A check ended.
    pub fn observe(&mut self, outcome: Outcome, check: &Check, now: Time) -> Option<Transition> {
        let to = match meaning(outcome, check) {
            Meaning::Alive => self.alive(check, now),
            Meaning::Resting(retry_after) => {
                (self.failures, self.successes, self.suspected) = (0, 0, false);
                self.recovers |= matches!(self.health, Health::Down | Health::Dead);
                let rest = retry_after.unwrap_or_default().min(LONGEST_REST);
                self.rests_until = self.rests_until.max(now + rest);
                Health::Resting(Rest::Check)
            }
            Meaning::Failed(how) => self.failed(how, check),
        };
        self.become_(to, Why::Check(outcome))
    }

    /// A worker left a sign. Without a check to follow it up it means nothing: it could never be taken back.
    pub fn sign(&mut self, sign: Sign, now: Time) -> Option<Transition> {
        let to = match (sign, self.health) {
            (Sign::Unreachable | Sign::Silent, Health::Up | Health::Resting(_)) if !self.suspected => {
                (self.failures, self.suspected) = (0, true);
                // A suspect may be asked where nobody else is there; who told a check that it wants a rest is not.
                if self.health == Health::Up { Health::Suspect } else { self.health }
            }
            (Sign::Said503, Health::Up | Health::Resting(_) | Health::Suspect) => {
                self.spared_until = now + LIVE_REST;
                match self.health {
                    Health::Resting(_) => self.health,
                    // It lives, but the check that is on its way says so for sure.
                    _ => Health::Resting(Rest::Call),
                }
            }
            _ => self.health,
        };
        self.become_(to, Why::Sign(sign))
    }

    /// When the next check starts: at once for a suspect, soon while things are changing, else by the interval. Whoever seems
    /// to fail is asked in a hurry; but no server is down for being slow: what would take it down, and what brings it
    /// back, has the whole timeout.
    pub fn next(&self, check: &Check) -> Next {
        let changing = match self.health {
            Health::Up => self.failures > 0,
            Health::Suspect | Health::Resting(_) => true,
            Health::Down | Health::Dead => self.successes > 0,
        };
        let is_down = matches!(self.health, Health::Down | Health::Dead);
        let hurries = !is_down && (self.suspected || self.failures > 0 && self.failures + 1 < check.fall);
        Next {
            after: if changing { check.fast_interval } else { check.interval },
            timeout: if hurries { check.timeout.min(FAST_TIMEOUT) } else { check.timeout },
        }
    }

    /// How long after a sign the first check starts: at once, but after a live 503 the server has its rest first.
    pub fn first_check_after(&self, sign: Sign) -> Duration {
        match sign {
            Sign::Said503 => LIVE_REST,
            Sign::Unreachable | Sign::Silent | Sign::Failing => Duration::ZERO,
        }
    }

    fn alive(&mut self, check: &Check, now: Time) -> Health {
        (self.failures, self.suspected) = (0, false);
        self.successes = self.successes.saturating_add(1);
        match self.health {
            Health::Down | Health::Dead if self.successes < check.rise => self.health,
            Health::Resting(_) if self.recovers && self.successes < check.rise => self.health,
            // A rest that was asked for outlasts a suspicion in between.
            _ if now < self.rests_until => Health::Resting(Rest::Check),
            _ if now < self.spared_until => Health::Resting(Rest::Call),
            _ => Health::Up,
        }
    }

    fn failed(&mut self, how: Health, check: &Check) -> Health {
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        let enough = if self.suspected { SUSPECT_FALL } else { check.fall };
        match self.health {
            // Down tells by its last check whether anybody is there at all.
            Health::Down | Health::Dead => how,
            _ if self.failures >= enough => how,
            health => health,
        }
    }

    fn become_(&mut self, to: Health, why: Why) -> Option<Transition> {
        let from = std::mem::replace(&mut self.health, to);
        let checks = self.failures.max(self.successes);
        if to != from {
            (self.failures, self.successes) = (0, 0);
        }
        self.recovers &= to != Health::Up;
        (to != from).then_some(Transition { from, to, why, checks })
    }
}

/// Whether a server counts as alive by a check that ended so.
pub fn passes(outcome: Outcome, check: &Check) -> bool {
    !matches!(meaning(outcome, check), Meaning::Failed(_))
}

fn meaning(outcome: Outcome, check: &Check) -> Meaning {
    match outcome {
        Outcome::Answered { status, retry_after } if check.resting_codes.contains(&status) => {
            Meaning::Resting(retry_after)
        }
        Outcome::Answered { status, .. } if check.down_codes.contains(&status) => Meaning::Failed(Health::Down),
        Outcome::Http { status, has_text } => match &check.kind {
            CheckKind::Http(http) if has_text && http.expects(status) => Meaning::Alive,
            _ => Meaning::Failed(Health::Down),
        },
        Outcome::Connected | Outcome::Answered { .. } => Meaning::Alive,
        Outcome::Silent | Outcome::Unreachable | Outcome::Untrusted => Meaning::Failed(Health::Dead),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY_CALL: Health = Health::Resting(Rest::Call);
    const BY_CHECK: Health = Health::Resting(Rest::Check);

    fn check() -> Check {
        Check {
            kind: CheckKind::Options,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            fast_interval: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            max_forwards: 70,
            down_codes: vec![408, 500],
            resting_codes: vec![503],
        }
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after: None }
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    /// Feeds outcomes, one a second, and returns the states.
    fn walk(monitor: &mut Monitor, outcomes: &[Outcome]) -> Vec<Health> {
        let step = |(second, outcome): (usize, &Outcome)| {
            monitor.observe(*outcome, &check(), at(100 + second as u64));
            monitor.health()
        };
        outcomes.iter().enumerate().map(step).collect()
    }

    #[test]
    fn who_answers_nothing_is_silent_and_who_is_asked_nothing_is_not() {
        let suspect = Suspect { unanswered: 5, after: Duration::from_secs(2) };
        let mut silence = Silence::default();
        let mut look = |second, asked, said| silence.look(asked, said, &suspect, at(second));
        assert!(!look(1, 100, 90) && !look(2, 200, 190), "it answers");
        assert!(!look(3, 300, 190) && !look(4, 301, 190), "for two seconds nobody can say");
        assert!(look(5, 302, 190), "two seconds without a word");
        assert!(!look(6, 303, 190) && !look(10, 306, 190), "the count begins anew, and four requests are few");
        assert!(look(11, 307, 190), "the fifth is one too many");
        assert!(!(12..70).any(|second| look(second, 307, 190)), "nobody asked");
        assert!(!look(70, 400, 190) && !look(71, 500, 191), "it said something");
        assert!(!look(72, 600, 191) && !look(73, 700, 191) && look(74, 700, 191));
        assert!(!look(80, 704, 191), "four");
        assert!(
            !look(113, 705, 191) && !look(114, 708, 191),
            "nobody waits for the four of half a minute ago any more"
        );
        assert!(look(115, 709, 191), "but for these five");
    }

    #[test]
    fn a_rest_is_no_short_way_up() {
        let mut monitor = Monitor::new(Health::Dead);
        let found = walk(&mut monitor, &[answered(503), answered(200), answered(200), answered(503), answered(200)]);
        assert_eq!(found, [BY_CHECK, BY_CHECK, Health::Up, BY_CHECK, Health::Up], "`rise` is 2");
    }

    #[test]
    fn a_rest_outlasts_a_suspicion_and_two_checks_end_it() {
        let busy = Outcome::Answered { status: 503, retry_after: Some(Duration::from_secs(30)) };
        let mut monitor = Monitor::default();
        monitor.observe(busy, &check(), at(10));
        assert_eq!(monitor.sign(Sign::Unreachable, at(11)), None);
        assert_eq!(monitor.sign(Sign::Said503, at(11)), None);
        assert_eq!(monitor.observe(answered(200), &check(), at(12)), None);
        assert_eq!(monitor.observe(answered(200), &check(), at(39)), None);
        assert_eq!(monitor.observe(answered(200), &check(), at(40)).map(|t| t.to), Some(Health::Up));
        assert_eq!(monitor.sign(Sign::Failing, at(41)), None, "the breaker's business");
        monitor.observe(busy, &check(), at(50));
        monitor.sign(Sign::Unreachable, at(51));
        assert_eq!(monitor.observe(Outcome::Silent, &check(), at(51)), None);
        monitor.sign(Sign::Unreachable, at(51));
        assert_eq!(monitor.observe(Outcome::Silent, &check(), at(52)).map(|t| t.to), Some(Health::Dead));
    }

    #[test]
    fn a_suspect_that_answers_with_503_has_its_rest() {
        let mut monitor = Monitor::default();
        monitor.sign(Sign::Silent, at(1));
        assert_eq!(monitor.sign(Sign::Said503, at(2)).map(|t| t.to), Some(BY_CALL));
        assert_eq!(walk(&mut monitor, &[Outcome::Silent, Outcome::Silent]), [BY_CALL, Health::Dead]);
    }

    #[test]
    fn falls_after_fall_failures_and_rises_after_rise_successes() {
        use Health::{Dead, Up};
        let mut monitor = Monitor::default();
        assert_eq!(walk(&mut monitor, &[Outcome::Silent, answered(200), Outcome::Silent, Outcome::Silent]), [Up; 4]);
        assert_eq!(walk(&mut monitor, &[Outcome::Unreachable, answered(200), answered(404)]), [Dead, Dead, Up]);
    }

    #[test]
    fn an_answer_of_failure_is_down_and_silence_is_dead() {
        let mut monitor = Monitor::default();
        assert_eq!(walk(&mut monitor, &[answered(500); 3])[2], Health::Down);
        assert_eq!(walk(&mut monitor, &[Outcome::Silent])[0], Health::Dead);
        assert_eq!(walk(&mut monitor, &[answered(408)])[0], Health::Down);
        assert_eq!(walk(&mut monitor, &[answered(401), answered(501)]), [Health::Down, Health::Up]);
    }

    #[test]
    fn a_suspect_is_settled_by_two_checks() {
        let mut monitor = Monitor::default();
        let transition = monitor.sign(Sign::Unreachable, at(1)).unwrap();
        assert_eq!((transition.from, transition.to), (Health::Up, Health::Suspect));
        assert_eq!(monitor.sign(Sign::Unreachable, at(1)), None, "said once");
        assert_eq!(monitor.next(&check()).timeout, Duration::from_secs(1));
        assert_eq!(walk(&mut monitor, &[Outcome::Silent, Outcome::Silent]), [Health::Suspect, Health::Dead]);
        let mut monitor = Monitor::default();
        monitor.sign(Sign::Unreachable, at(1));
        assert_eq!(walk(&mut monitor, &[answered(200)]), [Health::Up]);
    }

    #[test]
    fn a_503_rests_and_retry_after_is_honoured_up_to_a_minute() {
        let mut monitor = Monitor::default();
        let busy = |seconds| Outcome::Answered { status: 503, retry_after: Some(Duration::from_secs(seconds)) };
        monitor.observe(busy(5), &check(), at(10));
        assert_eq!(monitor.health(), BY_CHECK);
        monitor.observe(answered(200), &check(), at(14));
        assert_eq!(monitor.health(), BY_CHECK);
        monitor.observe(answered(200), &check(), at(15));
        assert_eq!(monitor.health(), Health::Up);
        monitor.observe(busy(86_400), &check(), at(20));
        monitor.observe(answered(200), &check(), at(81));
        assert_eq!(monitor.health(), Health::Up);
    }

    #[test]
    fn a_live_503_rests_for_a_second() {
        let mut monitor = Monitor::default();
        assert_eq!(monitor.sign(Sign::Said503, at(10)).map(|t| t.to), Some(BY_CALL));
        monitor.observe(answered(200), &check(), Time(10_500_000_000));
        assert_eq!(monitor.health(), BY_CALL);
        monitor.observe(answered(200), &check(), at(11));
        assert_eq!(monitor.health(), Health::Up);
    }

    #[test]
    fn a_check_says_whether_a_503_was_one_calls_or_everybodys() {
        let mut monitor = Monitor::default();
        monitor.sign(Sign::Said503, at(10));
        assert_eq!(monitor.observe(answered(503), &check(), at(11)).map(|t| (t.from, t.to)), Some((BY_CALL, BY_CHECK)));
        assert_eq!(monitor.sign(Sign::Said503, at(12)), None, "what a check said stands until a check says otherwise");
        let soon = Time(12_500_000_000);
        assert_eq!(
            monitor.observe(answered(200), &check(), soon).map(|t| t.to),
            Some(BY_CALL),
            "calls prolong no check's"
        );
        assert_eq!(monitor.observe(answered(200), &check(), at(13)).map(|t| t.to), Some(Health::Up));
    }

    /// Checks that are answered after so long, or not where they do not wait for it.
    fn walk_slowly(monitor: &mut Monitor, answers_after: Duration, checks: usize) -> Vec<Health> {
        let slow = |second| {
            let waits = monitor.next(&check()).timeout >= answers_after;
            monitor.observe(if waits { answered(200) } else { Outcome::Silent }, &check(), at(second));
            monitor.health()
        };
        (100..).map(slow).take(checks).collect()
    }

    #[test]
    fn who_is_slow_but_in_time_comes_up_and_stays_up() {
        use Health::{Dead, Suspect, Up};
        let slow = Duration::from_millis(1500);
        let mut monitor = Monitor::new(Dead);
        walk(&mut monitor, &[Outcome::Silent]);
        assert_eq!(walk_slowly(&mut monitor, slow, 3), [Dead, Up, Up]);
        assert_eq!(walk(&mut monitor, &[Outcome::Silent]), [Up], "one is lost");
        assert_eq!(walk_slowly(&mut monitor, slow, 3), [Up; 3]);
        monitor.sign(Sign::Silent, at(1));
        assert_eq!(walk_slowly(&mut monitor, slow, 4), [Suspect, Dead, Dead, Up], "who answers no calls must be quick");
        assert_eq!(walk_slowly(&mut monitor, Duration::from_secs(6), 3), [Up, Up, Dead]);
    }

    #[test]
    fn checks_hurry_while_things_change() {
        let mut monitor = Monitor::default();
        let slow = Next { after: Duration::from_secs(10), timeout: Duration::from_secs(5) };
        let fast = Next { after: Duration::from_secs(1), timeout: Duration::from_secs(1) };
        assert_eq!(monitor.next(&check()), slow);
        walk(&mut monitor, &[Outcome::Silent]);
        assert_eq!(monitor.next(&check()), fast);
        walk(&mut monitor, &[Outcome::Silent]);
        let patient = Next { timeout: slow.timeout, ..fast };
        assert_eq!(monitor.next(&check()), patient, "the third takes it down");
        walk(&mut monitor, &[Outcome::Silent]);
        assert_eq!((monitor.health(), monitor.next(&check())), (Health::Dead, slow));
        walk(&mut monitor, &[answered(200)]);
        assert_eq!(monitor.next(&check()), patient);
    }
}
