//! What is remembered of servers, regions and backends for whoever looks later: since when, how often and how long they
//! were down, why, and how their last checks ended. Nothing here decides anything. One owner writes it (the roof).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::health::{Outcome, Transition};
use super::server::{Admin, Circuit, Health, ServerState};
use super::{Snapshot, Time};
use crate::sip::token::NameHash;

/// So many checks are remembered of a server: a row of dots on a screen.
const CHECKS: usize = 20;

/// Since when something is up or down, and how long it was down in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uptime {
    begun: Time,
    up: bool,
    changed: Time,
    downs: u64,
    down: Duration,
}

impl Uptime {
    /// Up from now on, as whoever is new is taken to be.
    pub fn new(now: Time) -> Self {
        Self { begun: now, up: true, changed: now, downs: 0, down: Duration::ZERO }
    }

    /// It is up or down now.
    pub fn set(&mut self, up: bool, now: Time) {
        if up == self.up {
            return;
        }
        if up {
            self.down += now.since(self.changed);
        } else {
            self.downs += 1;
        }
        (self.up, self.changed) = (up, now);
    }

    pub fn is_up(&self) -> bool {
        self.up
    }

    /// How often it went down.
    pub fn downs(&self) -> u64 {
        self.downs
    }

    /// How long it has been as it is.
    pub fn unchanged(&self, now: Time) -> Duration {
        now.since(self.changed)
    }

    /// How long it was down in all, until now.
    pub fn downtime(&self, now: Time) -> Duration {
        if self.up { self.down } else { self.down + now.since(self.changed) }
    }

    /// The part of the time that it was up, from 0 to 1.
    pub fn availability(&self, now: Time) -> f64 {
        let all = now.since(self.begun).as_secs_f64();
        if all == 0.0 { 1.0 } else { 1.0 - self.downtime(now).as_secs_f64() / all }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    pub outcome: Outcome,
    /// Whether the server counts as alive by it.
    pub passed: bool,
    pub at: Time,
    /// From the question to the answer, or until nobody waited any more.
    pub took: Duration,
}

/// What is remembered of one server.
#[derive(Clone, Debug)]
pub struct ServerRecord {
    /// Up means that it is not in maintenance and not down by its health.
    pub uptime: Uptime,
    /// Up means that its breaker is not open.
    pub circuit: Uptime,
    /// How often its health took it down: maintenance is no failure.
    pub downs: u64,
    /// The newest last, at most twenty.
    pub checks: VecDeque<Checked>,
    pub failed_checks: u64,
    pub passed_checks: u64,
    /// Checks of the same kind in a row, since somebody last said what its health is.
    pub in_a_row: u32,
    /// Why its health is what it is.
    pub last: Option<Transition>,
}

impl ServerRecord {
    fn new(now: Time) -> Self {
        Self {
            uptime: Uptime::new(now),
            circuit: Uptime::new(now),
            downs: 0,
            checks: VecDeque::with_capacity(CHECKS),
            failed_checks: 0,
            passed_checks: 0,
            in_a_row: 0,
            last: None,
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Records {
    servers: HashMap<NameHash, ServerRecord>,
    backends: HashMap<NameHash, Uptime>,
    /// By backend and region.
    regions: HashMap<(NameHash, NameHash), Uptime>,
}

impl Records {
    /// A new snapshot is in force: who is up in it, and who is not in it any more.
    pub fn look(&mut self, snapshot: &Snapshot, now: Time) {
        self.servers.retain(|id, _| snapshot.server(*id).is_some());
        let of = |name: &str| NameHash::of(name);
        let has = |id: NameHash| snapshot.backends.iter().any(|backend| of(&backend.config.name) == id);
        self.backends.retain(|id, _| has(*id));
        self.regions.retain(|(backend, _), _| has(*backend));
        for server in &snapshot.servers {
            let record = self.servers.entry(server.id).or_insert_with(|| ServerRecord::new(now));
            record.uptime.set(is_up(server.state), now);
            record.circuit.set(server.state.breaker != Circuit::Open, now);
        }
        for backend in &snapshot.backends {
            let id = of(&backend.config.name);
            self.backends.entry(id).or_insert_with(|| Uptime::new(now)).set(!backend.lacks_servers(), now);
            let usable = snapshot.serving(backend);
            for (at, region) in backend.config.regions.iter().enumerate() {
                let serves = backend.config.servers.iter().any(|server| server.region == at && usable(server));
                self.regions.entry((id, region.id)).or_insert_with(|| Uptime::new(now)).set(serves, now);
            }
        }
    }

    /// A check of a server ended.
    pub fn checked(&mut self, id: NameHash, checked: Checked) {
        let Some(record) = self.servers.get_mut(&id) else { return };
        let before = record.checks.back().map(|last| last.passed);
        record.in_a_row = if before == Some(checked.passed) { record.in_a_row.saturating_add(1) } else { 1 };
        match checked.passed {
            true => record.passed_checks += 1,
            false => record.failed_checks += 1,
        }
        if record.checks.len() == CHECKS {
            record.checks.pop_front();
        }
        record.checks.push_back(checked);
    }

    /// Somebody said what a server's health is: checks begin to count anew.
    pub fn said(&mut self, id: NameHash) {
        if let Some(record) = self.servers.get_mut(&id) {
            record.in_a_row = 0;
        }
    }

    /// `clear counters all`: how often something failed or went down is counted anew. How long stays, as with HAProxy.
    pub fn clear(&mut self) {
        for record in self.servers.values_mut() {
            (record.downs, record.failed_checks, record.passed_checks) = (0, 0, 0);
        }
        self.backends.values_mut().for_each(|uptime| uptime.downs = 0);
    }

    /// A server's health changed.
    pub fn changed(&mut self, id: NameHash, transition: Transition) {
        let Some(record) = self.servers.get_mut(&id) else { return };
        let is_down = |health| matches!(health, Health::Down | Health::Dead);
        if is_down(transition.to) && !is_down(transition.from) {
            record.downs += 1;
        }
        record.last = Some(transition);
    }

    pub fn server(&self, id: NameHash) -> Option<&ServerRecord> {
        self.servers.get(&id)
    }

    pub fn backend(&self, name: &str) -> Option<&Uptime> {
        self.backends.get(&NameHash::of(name))
    }

    pub fn region(&self, backend: &str, region: NameHash) -> Option<&Uptime> {
        self.regions.get(&(NameHash::of(backend), region))
    }
}

/// As HAProxy counts downtime: in maintenance nobody is served either.
fn is_up(state: ServerState) -> bool {
    state.admin != Admin::Maint && !matches!(state.health, Health::Down | Health::Dead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    proptest! {
        /// Against a list of what it was in each second.
        #[test]
        fn downtime_is_the_sum_of_the_seconds_down(seconds in proptest::collection::vec(any::<bool>(), 1..60)) {
            let mut uptime = Uptime::new(at(0));
            for (second, up) in seconds.iter().enumerate() {
                uptime.set(*up, at(second as u64));
            }
            let now = at(seconds.len() as u64);
            let down = seconds.iter().filter(|up| !**up).count() as u64;
            let falls = std::iter::once(&true).chain(&seconds).zip(&seconds).filter(|(before, up)| **before && !**up);
            prop_assert_eq!(uptime.downtime(now), Duration::from_secs(down));
            prop_assert_eq!(uptime.downs(), falls.count() as u64);
            let part = 1.0 - down as f64 / seconds.len() as f64;
            prop_assert!((uptime.availability(now) - part).abs() < 1e-9);
        }
    }

    #[test]
    fn the_last_twenty_checks_are_kept_and_all_are_counted() {
        let mut records = Records::default();
        let id = NameHash(7);
        records.servers.insert(id, ServerRecord::new(at(0)));
        for n in 0..50 {
            let passed = n % 10 != 9;
            records.checked(id, Checked { outcome: Outcome::Silent, passed, at: at(n), took: Duration::ZERO });
        }
        let record = records.server(id).unwrap();
        assert_eq!((record.checks.len(), record.checks[0].at, record.checks[19].at), (20, at(30), at(49)));
        assert_eq!((record.passed_checks, record.failed_checks, record.in_a_row), (45, 5, 1));
        records.checked(NameHash(8), record.checks[0]);
        assert!(records.server(NameHash(8)).is_none(), "who is not there is not remembered");
        let mut backend = Uptime::new(at(0));
        backend.set(false, at(5));
        records.backends.insert(NameHash::of("b"), backend);
        records.clear();
        let (record, backend) = (records.server(id).unwrap(), records.backend("b").unwrap());
        assert_eq!((record.passed_checks, record.failed_checks, record.downs, backend.downs()), (0, 0, 0, 0));
        assert_eq!((record.checks.len(), record.in_a_row, backend.downtime(at(9))), (20, 1, Duration::from_secs(4)));
    }
}
