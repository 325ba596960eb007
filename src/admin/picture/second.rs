//! What one look cannot know: rates, largest values, the last minutes. Somebody calls [`Seconds::tick`] once a second.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;

use super::gone::{Gone, Whose};
use super::{Causes, Count, Percentiles, Rate, Rates, Tally};
use crate::sip::token::NameHash;
use crate::state::response_times::ResponseTimes;
use crate::state::{Shared, Snapshot, Time};

/// Ten minutes.
const HISTORY: usize = 600;
/// How many seconds a region's part is judged by.
const MINUTE: usize = 60;
/// Response times are those of so many seconds at least.
const WINDOW: u64 = 30;

/// The number under which a backend's seconds are kept: names of backends and of servers are apart.
pub(super) fn backend_id(name: &str) -> NameHash {
    NameHash::of(&format!("backend {name}"))
}

/// One second of the whole, for a curve.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Second {
    pub calls: f64,
    pub active_calls: f64,
    pub requests: f64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub failures: f64,
    pub retransmissions: f64,
    pub kernel_drops: f64,
}

/// What is watched of one frontend, backend or server.
#[derive(Debug, Default)]
struct Watched {
    before: Tally,
    rates: Rates,
    /// What it opened until each of the last seconds: the oldest first.
    opened: VecDeque<u64>,
    /// A backend's parts of the calls, and since when these are so.
    shares: Option<(Vec<(u32, f64)>, Time)>,
    /// Response times until the last two windows began.
    windows: [Option<ResponseTimes>; 2],
    /// The tick that saw it last.
    seen: u64,
}

/// All that is remembered from second to second.
#[derive(Debug, Default)]
pub struct Seconds {
    ticks: u64,
    at: Time,
    watched: HashMap<NameHash, Watched>,
    whole: Watched,
    gone: Gone,
    last_times: Percentiles,
    history: VecDeque<Second>,
    /// Kernel drops at the last tick.
    drops: u64,
}

impl Seconds {
    /// A second has gone by.
    pub fn tick(&mut self, snapshot: &Snapshot, shared: &Shared, now: Time) {
        let elapsed = now.since(self.at).as_secs_f64();
        // The first tick has nothing to compare with.
        let elapsed = if self.ticks == 0 { f64::INFINITY } else { elapsed.max(0.001) };
        (self.ticks, self.at) = (self.ticks + 1, now);
        self.gone.look(snapshot);
        // Sums grow by what was counted since: those who come and go bring and take nothing.
        let (mut whole, mut active, mut all_times) = (self.whole.before, 0, ResponseTimes::default());
        let begins = self.ticks % WINDOW == 1;
        for frontend in &snapshot.frontends {
            let tally = self.gone.last(true, frontend.config.id);
            let more = self.watch(frontend.config.id, &tally, 0, elapsed);
            for count in [Count::Requests, Count::Connections, Count::Retransmissions, Count::Unserved] {
                whole[count] += more[count];
            }
        }
        for backend in &snapshot.backends {
            let id = backend_id(&backend.config.name);
            let (before, mut calls) = (self.watched.get(&id).map(|watched| watched.before).unwrap_or_default(), 0);
            let mut sum = before;
            for server in &backend.config.servers {
                let Some(at) = snapshot.server(server.id) else { continue };
                let live = &snapshot.servers[at].live;
                let tally = self.gone.last(false, server.id);
                let own = live.open();
                sum += &self.watch(server.id, &tally, own, elapsed);
                let times = live.response_times();
                if begins && let Some(watched) = self.watched.get_mut(&server.id) {
                    watched.begin_window(times.clone());
                }
                all_times.add(&times);
                calls += own;
            }
            self.watch(id, &sum, calls, elapsed);
            self.watched.entry(id).or_default().share(backend.balance.shares(), now);
            for count in [Count::Calls, Count::Opened, Count::Failed, Count::Failing5xx, Count::Responses5xx] {
                whole[count] += sum[count] - before[count];
            }
            active += calls;
        }
        let ticks = self.ticks;
        self.watched.retain(|_, watched| watched.seen == ticks);
        if begins {
            self.whole.begin_window(all_times.clone());
        }
        self.last_times = self.whole.times(&all_times);
        self.keep(&whole, active, shared, elapsed);
    }

    /// What was counted since the tick before. Who is seen for the first time may have been here already: what was counted then says
    /// nothing about this second.
    fn watch(&mut self, id: NameHash, tally: &Tally, active: u64, elapsed: f64) -> Tally {
        let watched = self.watched.entry(id).or_insert_with(|| Watched { before: *tally, ..Watched::default() });
        watched.seen = self.ticks;
        let more = tally.since(&watched.before);
        watched.tick(tally, active, elapsed);
        more
    }

    /// The second of the whole.
    fn keep(&mut self, whole: &Tally, active: u64, shared: &Shared, elapsed: f64) {
        let before = self.whole.before;
        self.whole.tick(whole, active, elapsed);
        let drops = shared.workers.sum(|of| &of.kernel_drops);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed;
        let Percentiles { p50, p95, p99 } = self.last_times;
        let ms = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64() * 1000.0);
        // A 5xx that `codes` call a failure is counted twice; counters are read one after another.
        let failures = |tally: &Tally| {
            let failed = tally[Count::Failed] + tally[Count::Responses5xx] + tally[Count::Unserved];
            failed.saturating_sub(tally[Count::Failing5xx])
        };
        let second = Second {
            calls: self.whole.rates.calls.now,
            active_calls: active as f64,
            requests: self.whole.rates.requests.now,
            p50_ms: ms(p50),
            p95_ms: ms(p95),
            p99_ms: ms(p99),
            failures: rate(failures(whole), failures(&before)),
            retransmissions: rate(whole[Count::Retransmissions], before[Count::Retransmissions]),
            kernel_drops: rate(drops, self.drops),
        };
        self.drops = drops;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(second);
    }

    /// `clear counters`: what is shown begins anew, largest values always, all that was counted until this moment where `all` is
    /// asked for.
    pub fn clear(&mut self, all: bool, snapshot: &Snapshot) {
        for watched in self.watched.values_mut().chain([&mut self.whole]) {
            for rate in watched.rates.each() {
                rate.most = rate.now;
            }
        }
        if all {
            self.gone.look(snapshot);
            self.gone.clear();
        }
    }

    /// Before something of this snapshot is shown.
    pub fn look(&mut self, snapshot: &Snapshot) {
        self.gone.look(snapshot);
    }

    /// What servers counted that are gone, of a backend or of one of its regions.
    pub fn left(&self, backend: NameHash, region: Option<NameHash>) -> Tally {
        self.gone.tally(|whose| match whose {
            Whose::Region(of, its) => of == backend && region.is_none_or(|region| region == its),
            Whose::Process => false,
        })
    }

    /// What frontends counted that are gone.
    pub fn left_of_frontends(&self) -> Tally {
        self.gone.tally(|whose| whose == Whose::Process)
    }

    /// What a frontend or a server counted ever, and what until it was cleared.
    pub fn counted(&self, is_frontend: bool, id: NameHash) -> (Tally, Tally) {
        (self.gone.last(is_frontend, id), self.gone.cleared(is_frontend, id))
    }

    /// What a frontend had dropped and refused until it was cleared, and which connections had ended.
    pub fn cleared_causes(&self, id: NameHash) -> Causes {
        self.gone.cleared_causes(id)
    }

    pub fn rates(&self, id: NameHash) -> Rates {
        self.watched.get(&id).map(|watched| watched.rates).unwrap_or_default()
    }

    /// What a server opened in the last minute.
    pub fn opened_last_minute(&self, id: NameHash) -> u64 {
        self.watched.get(&id).map_or(0, |watched| match (watched.opened.front(), watched.opened.back()) {
            (Some(first), Some(last)) => last.saturating_sub(*first),
            _ => 0,
        })
    }

    /// Whether a backend's regions should have had these parts of the calls for a whole minute.
    pub fn is_settled(&self, id: NameHash, shares: &[(u32, f64)], now: Time) -> bool {
        let known = self.watched.get(&id).and_then(|watched| watched.shares.as_ref());
        known.is_some_and(|(same, since)| same == shares && now.since(*since).as_secs() >= MINUTE as u64)
    }

    pub fn whole(&self) -> Rates {
        self.whole.rates
    }

    /// How quickly all servers answered in the last window.
    pub fn times(&self) -> Percentiles {
        self.last_times
    }

    /// The same of one server, which has this sum now.
    pub fn times_of(&self, id: NameHash, now: &ResponseTimes) -> Percentiles {
        self.watched.get(&id).map_or_else(|| Percentiles::of(now), |watched| watched.times(now))
    }

    /// The last ten minutes, oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Second> {
        self.history.iter()
    }
}

impl Watched {
    /// A second has gone by: what is counted by now, and what is active.
    fn tick(&mut self, tally: &Tally, active: u64, elapsed: f64) {
        let rates = &mut self.rates;
        for (rate, count) in [
            (&mut rates.calls, Count::Calls),
            (&mut rates.opened, Count::Opened),
            (&mut rates.requests, Count::Requests),
            (&mut rates.connections, Count::Connections),
        ] {
            rate.set(tally[count].saturating_sub(self.before[count]) as f64 / elapsed);
        }
        rates.active.set(active as f64);
        if self.opened.len() > MINUTE {
            self.opened.pop_front();
        }
        self.opened.push_back(tally[Count::Opened]);
        self.before = *tally;
    }

    /// The parts of a backend's regions as they are now. The first were always so.
    fn share(&mut self, shares: Vec<(u32, f64)>, now: Time) {
        match &mut self.shares {
            None => self.shares = Some((shares, Time::default())),
            Some((before, _)) if *before == shares => {}
            changed => *changed = Some((shares, now)),
        }
    }

    fn begin_window(&mut self, times: ResponseTimes) {
        self.windows = [self.windows[1].take(), Some(times)];
    }

    /// Of the answers since the older window began.
    fn times(&self, now: &ResponseTimes) -> Percentiles {
        let begun = self.windows.iter().flatten().next();
        Percentiles::of(&begun.map_or_else(|| now.clone(), |begun| now.since(begun)))
    }
}

impl Rate {
    fn set(&mut self, now: f64) {
        *self = Self { now, most: self.most.max(now) };
    }
}

impl Rates {
    fn each(&mut self) -> [&mut Rate; 5] {
        [&mut self.calls, &mut self.opened, &mut self.requests, &mut self.connections, &mut self.active]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::gone;
    use super::*;
    use crate::state::Reason;

    fn tally(opened: u64) -> Tally {
        let mut tally = Tally::default();
        tally[Count::Opened] = opened;
        tally
    }

    #[test]
    fn a_second_s_rate_is_what_came_in_it_and_the_largest_stays() {
        let mut watched = Watched::default();
        watched.tick(&tally(1000), 5, f64::INFINITY);
        assert_eq!(watched.rates.opened, Rate::default(), "what was before says nothing about a second");
        watched.tick(&tally(1300), 7, 1.0);
        watched.tick(&tally(1400), 6, 2.0);
        assert_eq!(watched.rates.opened, Rate { now: 50.0, most: 300.0 });
        assert_eq!(watched.rates.active, Rate { now: 6.0, most: 7.0 });
    }

    #[test]
    fn a_minute_is_the_last_one() {
        let mut seconds = Seconds::default();
        let id = NameHash(1);
        for second in 0..200 {
            let watched = seconds.watched.entry(id).or_default();
            watched.tick(&tally(second * 10), 0, 1.0);
        }
        assert_eq!(seconds.opened_last_minute(id), 600);
        assert_eq!(seconds.opened_last_minute(NameHash(2)), 0);
    }

    #[test]
    fn parts_are_settled_when_they_were_so_for_a_minute() {
        let at = |second: u64| Time((1000 + second) * 1_000_000_000);
        let (mut seconds, id) = (Seconds::default(), NameHash(1));
        let share = |seconds: &mut Seconds, part, second| {
            seconds.watched.entry(id).or_default().share(vec![(7, part)], at(second));
            seconds.is_settled(id, &[(7, part)], at(second))
        };
        assert!(share(&mut seconds, 0.7, 0), "nothing has changed since the start");
        assert!(!share(&mut seconds, 1.0, 5) && !share(&mut seconds, 1.0, 64) && share(&mut seconds, 1.0, 65));
        assert!(!seconds.is_settled(id, &[(7, 0.9)], at(65)), "they changed a moment ago");
        assert!(!seconds.is_settled(NameHash(2), &[], at(65)));
    }

    #[test]
    fn what_is_cleared_begins_anew_at_once() {
        let (mut seconds, second) = (Seconds::default(), |n: u64| Time(n * 1_000_000_000));
        let snapshot = gone::tests::snapshot(gone::tests::TEXT, None);
        let shared = Shared::new(64, 1);
        let (frontend, server) = (&snapshot.frontends[0], &snapshot.servers[0]);
        let opened = |n| server.live.counters.of(0).balanced.add(n);
        let shown = |seconds: &Seconds| {
            let (ever, cleared) = seconds.counted(false, server.id);
            ever.since(&cleared)[Count::Opened]
        };
        seconds.tick(&snapshot, &shared, second(1));
        opened(10);
        seconds.tick(&snapshot, &shared, second(2));
        opened(5);
        frontend.live.of(0).reasons.of(Reason::Junk).add(3);
        seconds.clear(false, &snapshot);
        seconds.look(&snapshot);
        assert_eq!((seconds.rates(server.id).opened.most, shown(&seconds)), (10.0, 15));
        opened(2);
        seconds.clear(true, &snapshot);
        seconds.look(&snapshot);
        assert_eq!(shown(&seconds), 0, "what came after the last second, too");
        assert_eq!(seconds.cleared_causes(frontend.config.id), Causes::of(&frontend.live), "and its reasons");
        opened(1);
        seconds.look(&snapshot);
        assert_eq!(
            (shown(&seconds), seconds.counted(false, server.id).0[Count::Opened]),
            (1, 18),
            "not what it counted ever"
        );
    }

    /// With TEXT's server `one` there is `two`, which goes and comes.
    #[test]
    fn what_comes_back_makes_no_rates_of_its_whole_life() {
        let (mut seconds, second) = (Seconds::default(), |n: u64| Time(n * 1_000_000_000));
        let (text, more) = (gone::tests::TEXT, gone::tests::SECOND);
        let both = gone::tests::snapshot(&(text.to_owned() + more), None);
        let shared = Shared::new(64, 1);
        let two = Arc::clone(&both.servers[1].live);
        seconds.tick(&both, &shared, second(1));
        two.counters.of(0).balanced.add(500);
        seconds.tick(&both, &shared, second(2));
        seconds.clear(true, &both);
        let (one, id) = (gone::tests::snapshot(text, Some(&both)), both.servers[1].id);
        seconds.tick(&one, &shared, second(3));
        two.counters.of(0).balanced.add(40);
        // It came back as it was; its backend goes and comes, too.
        let other = gone::tests::snapshot(&text.replace("\"b\"", "\"c\""), Some(&one));
        for (snapshot, at) in [(&both, 4), (&other, 5), (&both, 6)] {
            seconds.clear(false, snapshot);
            seconds.tick(snapshot, &shared, second(at));
            for id in [id, backend_id("b")] {
                assert_eq!(seconds.rates(id).opened, Rate::default(), "second {at}");
            }
            assert_eq!(seconds.whole().opened, Rate::default(), "second {at}");
        }
        let (ever, cleared) = seconds.counted(false, id);
        assert_eq!((ever[Count::Opened], cleared[Count::Opened]), (540, 500), "what was cleared stays so");
        two.counters.of(0).balanced.add(7);
        seconds.tick(&both, &shared, second(7));
        assert_eq!((seconds.rates(id).opened.now, seconds.whole().opened.most), (7.0, 7.0));
    }

    #[test]
    fn response_times_are_those_of_the_last_windows() {
        use crate::state::response_times::Histogram;
        let (histogram, mut watched) = (Histogram::default(), Watched::default());
        let sum = || ResponseTimes::sum([&histogram].into_iter());
        (0..1000).for_each(|_| histogram.add(1_000_000));
        watched.begin_window(sum());
        watched.begin_window(sum());
        (0..10).for_each(|_| histogram.add(1000));
        let times = watched.times(&sum());
        assert!(times.p99.is_some_and(|p99| p99.as_millis() < 2), "{times:?}");
        assert_eq!(Watched::default().times(&sum()).p50.map(|p50| p50.as_secs()), Some(1));
    }
}
