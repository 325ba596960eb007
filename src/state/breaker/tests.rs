use super::*;

use std::time::Duration;

use proptest::prelude::*;

const fn ms(millis: u64) -> Time {
    Time(millis * 1_000_000)
}

fn usual() -> config::Breaker {
    config::Breaker {
        failures: 5,
        successes: 2,
        open_for: Duration::from_secs(30),
        half_open_max: 3,
        answer_within: Duration::from_secs(5),
        codes: Vec::new(),
        checks: false,
        max_open: 50,
    }
}

/// A breaker, what it is shown, and the clock.
struct Bench {
    breaker: Breaker,
    config: config::Breaker,
    seen: Totals,
    trials: Vec<Trial>,
    now: u64,
    may_open: bool,
    is_up: bool,
}

impl Bench {
    fn new(config: config::Breaker) -> Self {
        let (breaker, seen, trials) = Default::default();
        Self { breaker, config, seen, trials, now: 1_000, may_open: true, is_up: true }
    }

    /// A look, so many milliseconds after the last one.
    fn look(&mut self, after: u64) -> Option<Step> {
        self.now += after;
        let leave = Leave { open: &|| self.may_open, half_open: self.is_up };
        self.breaker.look(&self.seen, self.trials.iter().copied(), &self.config, leave, ms(self.now))
    }

    fn to(&mut self, after: u64) -> Option<(Circuit, Why)> {
        match self.look(after) {
            Some(Step::Moved(Transition { to, why, .. })) => Some((to, why)),
            _ => None,
        }
    }

    /// Open, by errors.
    fn opened(config: config::Breaker) -> Self {
        let mut bench = Self::new(config);
        bench.seen.errors = 1_000;
        assert_eq!(bench.to(250), Some((Circuit::Open, Why::Unreachable(1_000))));
        bench
    }

    /// Half-open.
    fn trying(config: config::Breaker) -> Self {
        let mut bench = Self::opened(config);
        assert_eq!(bench.to(30_000), Some((Circuit::HalfOpen, Why::OpenForIsOver)));
        bench
    }

    fn trial(&mut self, status: Option<u16>) {
        self.trials.push(Trial { invite: true, sent: ms(self.now), status });
    }
}

#[test]
fn errors_in_a_row_open_it_at_once_and_a_word_in_between_breaks_the_row() {
    let mut bench = Bench::new(usual());
    bench.seen.errors = 4;
    assert_eq!(bench.look(250), None);
    (bench.seen.errors, bench.seen.said) = (6, 1);
    assert_eq!(bench.look(250), None, "it spoke");
    bench.seen.errors = 10;
    assert_eq!(bench.look(250), None);
    bench.seen.errors = 11;
    assert_eq!(bench.to(250), Some((Circuit::Open, Why::Unreachable(5))));
}

#[test]
fn checks_count_where_that_was_chosen_and_one_that_is_passed_breaks_their_row() {
    let mut bench = Bench::new(usual());
    bench.seen.failed_checks = 100;
    assert_eq!(bench.look(250), None, "nobody asked for it");
    let mut bench = Bench::new(config::Breaker { checks: true, ..usual() });
    for row in [4, 0, 4] {
        bench.seen.failed_checks = row;
        assert_eq!(bench.look(250), None);
    }
    bench.seen.failed_checks = 5;
    assert_eq!(bench.to(250), Some((Circuit::Open, Why::Checks(5))));
    assert_eq!(bench.to(30_000), Some((Circuit::HalfOpen, Why::OpenForIsOver)));
    assert_eq!(bench.look(250), None, "what was before counts no more");
    bench.seen.failed_checks = 6;
    assert_eq!(bench.to(250), Some((Circuit::Open, Why::Checks(1))));
    bench.seen.failed_checks = 0;
    assert_eq!(bench.to(30_000), Some((Circuit::HalfOpen, Why::OpenForIsOver)));
    bench.seen.failed_checks = 1;
    assert_eq!(bench.to(250), Some((Circuit::Open, Why::Checks(1))), "one is enough of a new row too");
}

#[test]
fn new_calls_without_any_answer_open_it_though_the_server_speaks() {
    let mut bench = Bench::new(usual());
    (bench.seen.calls, bench.seen.answered, bench.seen.said) = (100, ms(900), 500);
    assert_eq!(bench.look(250), None);
    bench.seen.calls = 104;
    assert_eq!(bench.look(10_000), None, "four are few");
    bench.seen.calls = 105;
    assert_eq!(bench.look(250), None, "the fifth may still be answered");
    for _ in 0..19 {
        // Its calls go on, and an old one is answered at last.
        (bench.seen.said, bench.seen.answered) = (bench.seen.said + 7, ms(899));
        assert_eq!(bench.look(250), None);
    }
    assert_eq!(bench.to(250), Some((Circuit::Open, Why::Unanswered(5))));
}

#[test]
fn one_answer_to_a_later_call_breaks_the_row() {
    let mut bench = Bench::new(usual());
    for n in 1..1_000 {
        // Each second nine of ten calls get nothing, as with a callee that is called again and again.
        (bench.seen.calls, bench.seen.answered) = (n * 10, ms(bench.now));
        assert_eq!(bench.look(1_000), None);
    }
}

#[test]
fn a_row_of_codes_opens_it() {
    let mut bench = Bench::new(config::Breaker { codes: vec![500], ..usual() });
    (bench.seen.said, bench.seen.failing_rows) = (900, 1);
    assert_eq!(bench.to(250), Some((Circuit::Open, Why::Failing(5))));
}

#[test]
fn open_it_waits_and_for_a_server_that_is_down_it_waits_longer() {
    let mut bench = Bench::opened(usual());
    bench.seen.errors += 100;
    assert_eq!(bench.look(29_999), None);
    bench.is_up = false;
    assert_eq!(bench.look(60_000), None);
    bench.is_up = true;
    assert_eq!(bench.to(250), Some((Circuit::HalfOpen, Why::OpenForIsOver)));
}

#[test]
fn two_good_trial_calls_close_it_and_old_failures_are_forgotten() {
    let mut bench = Bench::trying(usual());
    bench.trial(Some(180));
    bench.trial(None);
    assert_eq!(bench.look(250), None, "one is not two");
    bench.trials[1].status = Some(486);
    assert_eq!(bench.to(250), Some((Circuit::Closed, Why::TrialsSucceeded(2))));
    bench.seen.errors += 4;
    assert_eq!(bench.look(250), None, "the row begins anew");
}

#[test]
fn one_bad_trial_call_opens_it_again_for_the_whole_time() {
    let mut silent = Bench::trying(usual());
    silent.trial(Some(200));
    silent.trial(None);
    assert_eq!(silent.look(4_999), None);
    assert_eq!(silent.to(1), Some((Circuit::Open, Why::TrialsUnanswered(1))));
    silent.trials.clear();
    assert_eq!(silent.look(29_999), None);
    assert_eq!(silent.to(1).map(|(to, _)| to), Some(Circuit::HalfOpen));
    let mut dead = Bench::trying(usual());
    dead.seen.errors += 1;
    assert_eq!(dead.to(250), Some((Circuit::Open, Why::Unreachable(1))));
}

#[test]
fn the_silence_of_what_is_no_invite_is_no_failure_and_its_answer_a_success() {
    let mut bench = Bench::trying(usual());
    (0..2).for_each(|_| bench.trials.push(Trial { invite: false, sent: ms(bench.now), status: None }));
    assert_eq!(bench.look(60_000), None);
    bench.trials.iter_mut().for_each(|trial| trial.status = Some(404));
    assert_eq!(bench.to(250), Some((Circuit::Closed, Why::TrialsSucceeded(2))));
}

#[test]
fn who_missed_calls_is_tried_by_calls_unless_none_comes() {
    let all = |bench: &Bench, after: u64| bench.breaker.tries_all(&bench.config, ms(bench.now + after));
    let bench = Bench::trying(usual());
    assert!(all(&bench, 0), "opened by errors");
    let mut bench = Bench::new(usual());
    bench.seen.calls = 5;
    assert_eq!((bench.look(250), bench.to(5_000).map(|(to, _)| to)), (None, Some(Circuit::Open)));
    bench.look(30_000);
    assert_eq!((all(&bench, 0), all(&bench, 29_999), all(&bench, 30_000)), (false, false, true));
    bench.seen.errors += 1;
    assert_eq!(bench.to(250), Some((Circuit::Open, Why::Unreachable(1))));
    bench.look(30_000);
    assert!(!all(&bench, 0), "the calls of before are still unanswered");
    (0..2).for_each(|_| bench.trial(Some(100)));
    assert_eq!(bench.to(250).map(|(to, _)| to), Some(Circuit::Closed));
    assert!(bench.breaker.close(Why::Reset, &bench.seen, ms(bench.now)).is_none() && all(&bench, 0));
}

#[test]
fn with_codes_a_trial_call_counts_when_its_final_answer_comes_or_late() {
    let codes = config::Breaker { codes: vec![500, 503], successes: 1, ..usual() };
    let mut bench = Bench::trying(codes.clone());
    bench.trial(Some(100));
    assert_eq!(bench.look(4_999), None, "the failure may come behind it");
    assert_eq!(bench.to(1), Some((Circuit::Closed, Why::TrialsSucceeded(1))));
    for (status, to) in [(500, Circuit::Open), (404, Circuit::Closed), (200, Circuit::Closed)] {
        let mut bench = Bench::trying(codes.clone());
        bench.trial(Some(status));
        assert_eq!(bench.to(250).map(|(to, _)| to), Some(to), "{status}");
    }
}

#[test]
fn what_may_not_open_says_so_once() {
    let mut bench = Bench::new(usual());
    bench.may_open = false;
    bench.seen.errors = 5;
    assert_eq!(bench.look(250), Some(Step::Held(Why::Unreachable(5))));
    assert_eq!((0..100).filter_map(|_| bench.look(250)).count(), 0);
    assert_eq!(bench.look(5_000), Some(Step::Held(Why::Unreachable(5))), "and again after open_for");
    bench.may_open = true;
    assert_eq!(bench.to(250).map(|(to, _)| to), Some(Circuit::Open));
}

#[test]
fn counters_that_fall_move_nothing() {
    let mut closed = Bench::new(usual());
    (closed.seen.calls, closed.seen.errors) = (100, 100);
    closed.breaker = Breaker::new(&closed.seen);
    closed.seen = Totals::default();
    assert_eq!(closed.look(250), None);
    let mut trying = Bench::trying(usual());
    trying.seen = Totals::default();
    assert_eq!(trying.look(250), None);
}

#[test]
fn it_is_closed_by_hand() {
    let mut bench = Bench::opened(usual());
    let transition = bench.breaker.close(Why::Reset, &bench.seen, ms(bench.now));
    assert_eq!(transition, Some(Transition { from: Circuit::Open, to: Circuit::Closed, why: Why::Reset }));
    assert_eq!((bench.look(250), bench.breaker.close(Why::Reset, &bench.seen, ms(bench.now))), (None, None));
}

/// What happens at a server, in order.
#[derive(Clone, Copy, Debug)]
enum Event {
    Wait(u64),
    Call,
    /// The newest call that waits for an answer gets one; the oldest.
    AnswerNewest,
    AnswerOldest,
    Word,
    Error,
    Row,
    /// A trial call, and what it is answered with; 0 for nothing.
    Trial(u16),
    Look,
    Up(bool),
    MayOpen(bool),
    Reset,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1u64..4_000).prop_map(Event::Wait),
        6 => Just(Event::Call),
        1 => Just(Event::AnswerNewest),
        2 => Just(Event::AnswerOldest),
        1 => Just(Event::Word),
        3 => Just(Event::Error),
        1 => Just(Event::Row),
        3 => prop_oneof![Just(0), Just(100), Just(200), Just(500)].prop_map(Event::Trial),
        10 => Just(Event::Look),
        1 => any::<bool>().prop_map(Event::Up),
        1 => any::<bool>().prop_map(Event::MayOpen),
        1 => Just(Event::Reset),
    ]
}

/// The naive breaker: it keeps everything that happened since its last move, and reads it anew at each look.
struct Model {
    circuit: Circuit,
    since: u64,
    /// The events of each look since then, with the time of the look; the last one is not looked at yet.
    looks: Vec<(Vec<(u64, Event)>, u64)>,
}

impl Model {
    fn become_(&mut self, to: Circuit, now: u64) {
        (self.circuit, self.since, self.looks) = (to, now, vec![(Vec::new(), 0)]);
    }

    /// Where it goes at a look.
    fn expected(
        &self,
        config: &config::Breaker,
        newest_before: Option<u64>,
        (is_up, may_open): (bool, bool),
        now: u64,
    ) -> Option<Circuit> {
        match self.circuit {
            Circuit::Closed => (self.wants_to_open(config, newest_before) && may_open).then_some(Circuit::Open),
            Circuit::Open => (is_up && now - self.since >= 30_000).then_some(Circuit::HalfOpen),
            Circuit::HalfOpen => {
                let all = || self.looks.iter().flat_map(|(events, _)| events);
                let trial = |(sent, event): &(u64, Event)| match event {
                    Event::Trial(status) => Some((now - sent >= 5_000, *status)),
                    _ => None,
                };
                let trials: Vec<_> = all().filter_map(trial).collect();
                let bad = all().any(|(_, event)| matches!(event, Event::Error))
                    || trials.iter().any(|trial| matches!(trial, (_, 500) | (true, 0)));
                let good = trials.iter().filter(|trial| matches!(trial, (_, 200) | (true, 100))).count();
                if bad { Some(Circuit::Open) } else { (good >= 2).then_some(Circuit::Closed) }
            }
        }
    }

    /// Whether a closed breaker has seen enough.
    fn wants_to_open(&self, config: &config::Breaker, newest_answered_before: Option<u64>) -> bool {
        let (mut errors, mut calls, mut enough_at) = (0, 0, None);
        let mut newest = newest_answered_before;
        let mut last_row = false;
        let mut late = false;
        for (events, at) in &self.looks {
            let count = |wanted: fn(&Event) -> bool| events.iter().filter(|(_, event)| wanted(event)).count() as u32;
            let words = count(|event| matches!(event, Event::Word | Event::AnswerNewest));
            errors = if words > 0 { 0 } else { errors + count(|event| matches!(event, Event::Error)) };
            let answered =
                events.iter().filter(|(_, event)| matches!(event, Event::AnswerNewest)).map(|(sent, _)| *sent);
            match answered.max() {
                Some(sent) if newest.is_none_or(|newest| sent > newest) => {
                    (newest, calls, enough_at) = (Some(sent), 0, None);
                }
                _ => calls += count(|event| matches!(event, Event::Call)),
            }
            if calls >= config.failures {
                enough_at.get_or_insert(*at);
            }
            last_row = count(|event| matches!(event, Event::Row)) > 0;
            late = enough_at.is_some_and(|since| at - since >= config.answer_within.as_millis() as u64);
        }
        errors >= config.failures || last_row || late
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever happens, and whenever it is looked at: the breaker moves when the naive one does, to the same state.
    #[test]
    fn moves_as_a_naive_one_does(events in proptest::collection::vec(event(), 1..250)) {
        let config = config::Breaker { codes: vec![500], failures: 3, ..usual() };
        let mut bench = Bench::new(config.clone());
        let mut model = Model { circuit: Circuit::Closed, since: 0, looks: vec![(Vec::new(), 0)] };
        let (mut waiting, mut newest_before): (Vec<u64>, Option<u64>) = (Vec::new(), None);
        let mut answered: Vec<u64> = Vec::new();
        for event in events {
            let now = bench.now;
            let mut note = |sent: u64, event: Event| model.looks.last_mut().unwrap().0.push((sent, event));
            match event {
                Event::Wait(millis) => bench.now += millis,
                Event::Up(up) => bench.is_up = up,
                Event::MayOpen(may) => bench.may_open = may,
                Event::Call => {
                    bench.seen.calls += 1;
                    waiting.push(now);
                    note(now, Event::Call);
                }
                Event::AnswerNewest | Event::AnswerOldest => {
                    if waiting.is_empty() { continue }
                    let newest = matches!(event, Event::AnswerNewest);
                    let sent = if newest { waiting.pop().unwrap() } else { waiting.remove(0) };
                    bench.seen.said += 1;
                    bench.seen.answered = bench.seen.answered.max(ms(sent));
                    answered.push(sent);
                    note(sent, Event::AnswerNewest);
                }
                Event::Word => { bench.seen.said += 1; note(now, Event::Word); }
                Event::Error => { bench.seen.errors += 1; note(now, Event::Error); }
                Event::Row => { bench.seen.failing_rows += 1; note(now, Event::Row); }
                Event::Trial(status) => {
                    if model.circuit == Circuit::HalfOpen && bench.trials.len() < 3 {
                        bench.trial((status > 0).then_some(status));
                        note(now, Event::Trial(status));
                    }
                }
                Event::Reset => {
                    bench.breaker.close(Why::Reset, &bench.seen, ms(now));
                    bench.trials.clear();
                    newest_before = answered.iter().copied().max();
                    model.become_(Circuit::Closed, now);
                }
                Event::Look => {
                    let moved = bench.to(0).map(|(to, _)| to);
                    model.looks.last_mut().unwrap().1 = now;
                    let expected = model.expected(&config, newest_before, (bench.is_up, bench.may_open), now);
                    prop_assert_eq!(moved, expected);
                    match expected {
                        Some(to) => {
                            newest_before = answered.iter().copied().max();
                            bench.trials.clear();
                            model.become_(to, now);
                        }
                        None => model.looks.push((Vec::new(), 0)),
                    }
                }
            }
        }
    }

    /// A server that answers each new call within four seconds keeps its calls, whenever it is looked at.
    #[test]
    fn who_answers_in_time_is_never_left(
        calls in proptest::collection::vec((0u64..400, 1u64..4_000), 1..300), look in 1u64..900,
    ) {
        let mut bench = Bench::new(usual());
        let mut at = bench.now;
        let calls: Vec<_> = calls.into_iter().map(|(gap, answer)| { at += gap; (at, at + answer) }).collect();
        while bench.now < at + 10_000 {
            let now = bench.now + look;
            bench.seen.calls = calls.iter().filter(|(sent, _)| *sent <= now).count() as u64;
            let answered = calls.iter().filter(|(_, answered)| *answered <= now).map(|(sent, _)| ms(*sent));
            bench.seen.answered = answered.max().unwrap_or_default();
            prop_assert_eq!(bench.look(look), None);
        }
    }

    /// Once a server answers no new call any more, it is left: five calls, five seconds, and two looks later.
    #[test]
    fn who_answers_no_new_call_is_left(
        calls in proptest::collection::vec((1u64..1_000, 1u64..4_000), 20..100), dies in 0usize..10, look in 1u64..900,
    ) {
        let mut bench = Bench::new(usual());
        let mut at = bench.now;
        let calls: Vec<_> = calls.into_iter().map(|(gap, answer)| { at += gap; (at, at + answer) }).collect();
        let last_answer = calls[..dies].iter().map(|(_, answered)| *answered).max().unwrap_or_default();
        let fifth = calls[dies..].iter().filter(|(sent, _)| *sent > last_answer + look).nth(4);
        prop_assume!(fifth.is_some());
        let latest = fifth.unwrap().0 + 5_000 + 2 * look;
        let mut left = false;
        while !left && bench.now < latest {
            let now = bench.now + look;
            bench.seen.calls = calls.iter().filter(|(sent, _)| *sent <= now).count() as u64;
            let answered = calls[..dies].iter().filter(|(_, answered)| *answered <= now).map(|(sent, _)| ms(*sent));
            bench.seen.answered = answered.max().unwrap_or_default();
            left = bench.look(look).is_some();
        }
        prop_assert!(left);
    }
}
