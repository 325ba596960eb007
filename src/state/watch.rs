//! What can be seen of servers by looking at their counters a few times a second: silence, and what breakers count. The
//! message path does nothing for it but count.

use std::collections::HashMap;

use super::breaker::{Breaker, Leave, Step, Transition, Why};
use super::health::Silence;
use super::server::{Admin, Circuit, ServerLive, Totals};
use super::snapshot::Server;
use super::{Snapshot, Time};
use crate::config::{self, Backend};
use crate::sip::token::NameHash;

/// What was seen of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It answers nothing of what it gets: it should be checked at once.
    Silent,
    /// Its breaker moved, or was kept from it. A move belongs into the next snapshot.
    Breaker(Step),
}

/// The silence and the breaker of every server. One owner looks.
#[derive(Debug, Default)]
pub struct Watch {
    servers: HashMap<NameHash, Watched>,
}

#[derive(Debug)]
struct Watched {
    /// From which generation on that server has been there: one that was removed and added again is another.
    since: u64,
    silence: Silence,
    breaker: Breaker,
}

impl Watched {
    /// From now on: what a server did before says nothing.
    fn new(server: &Server, seen: &Totals) -> Self {
        server.live.rows_begun.add(1);
        let (silence, breaker) = (Silence::new(seen.asked, seen.said), Breaker::new(seen));
        Self { since: server.since, silence, breaker }
    }

    /// Whether it was this very server, not one of its name from before.
    fn is_of(&self, server: &Server) -> bool {
        self.since == server.since
    }
}

impl Watch {
    /// Looks at every server of a snapshot.
    pub fn look(&mut self, snapshot: &Snapshot, now: Time) -> Vec<(NameHash, News)> {
        self.servers.retain(|id, watched| snapshot.server(*id).is_some_and(|at| watched.is_of(&snapshot.servers[at])));
        let mut news = Vec::new();
        for config in snapshot.backends.iter().map(|backend| &backend.config) {
            for (at, server) in config.servers.iter().enumerate() {
                let Some(position) = snapshot.server(server.id) else { continue };
                let known = &snapshot.servers[position];
                let seen = known.live.totals();
                // Out of the map, so that the others' breakers can be asked.
                let mut watched = self.servers.remove(&server.id).unwrap_or_else(|| Watched::new(known, &seen));
                if watched.silence.look(seen.asked, seen.said, &config.suspect, now) {
                    news.push((server.id, News::Silent));
                }
                if let Some(step) = self.look_at_breaker(&mut watched.breaker, (config, at), snapshot, &seen, now) {
                    news.push((server.id, News::Breaker(step)));
                }
                self.servers.insert(server.id, watched);
            }
        }
        news
    }

    fn look_at_breaker(
        &self,
        breaker: &mut Breaker,
        (backend, at): (&Backend, usize),
        snapshot: &Snapshot,
        seen: &Totals,
        now: Time,
    ) -> Option<Step> {
        let server = &snapshot.servers[snapshot.server(backend.servers[at].id)?];
        let live = &server.live;
        let step = match &backend.breaker {
            None => breaker.close(Why::Removed, seen, now).map(Step::Moved),
            Some(config) => {
                let most = WHOLE * u64::from(config.max_open) / 100;
                let room = || self.open_share_with(backend, at, snapshot) <= most;
                let leave = Leave { open: &room, half_open: server.state.is_well() };
                if breaker.circuit() == Circuit::HalfOpen {
                    // A reload may ask for more successes than the places of before can bring.
                    live.trials.allow(config.half_open_max, breaker.tries_all(config, now));
                    live.trials.give_up_silent(now, config.answer_within);
                }
                breaker.look(seen, live.trials.calls(), config, leave, now)
            }
        };
        if let Some(Step::Moved(transition)) = step {
            note(live, transition, backend);
        }
        step
    }

    /// Closes a server's breaker by hand. `None` where it is closed already, or there is no such server.
    pub fn reset(&mut self, id: NameHash, snapshot: &Snapshot, now: Time) -> Option<Transition> {
        let server = &snapshot.servers[snapshot.server(id)?];
        let watched = self.servers.get_mut(&id).filter(|watched| watched.is_of(server))?;
        let transition = watched.breaker.close(Why::Reset, &server.live.totals(), now)?;
        note(&server.live, transition, &snapshot.backends[server.backend as usize].config);
        Some(transition)
    }

    /// The part of a backend's weight that its breakers take away once this server's is open too. What health or the
    /// operator took away is no part of it: who is left has all the calls.
    fn open_share_with(&self, backend: &Backend, at: usize, snapshot: &Snapshot) -> u64 {
        let is_open = |id: &NameHash| self.servers.get(id).is_some_and(|w| w.breaker.circuit() != Circuit::Closed);
        let weight = |(n, server): (usize, &config::Server)| {
            let state = snapshot.server(server.id).map(|at| snapshot.servers[at].state).unwrap_or_default();
            // One that is open and down comes back as one that is open.
            let stands = state.is_well() || state.admin == Admin::Ready && is_open(&server.id);
            if n == at || stands { state.weight.unwrap_or(server.weight) } else { 0 }
        };
        let weights: Vec<u32> = backend.servers.iter().enumerate().map(weight).collect();
        let backup = backend.servers[at].backup;
        let of_kind = backend.servers.iter().enumerate().filter(|(_, server)| server.backup == backup);
        let open = of_kind.filter(|(n, server)| *n == at || is_open(&server.id));
        open.map(|(n, _)| share(backend, &weights, n)).sum()
    }
}

/// Everything, in the unit of [`share`].
const WHOLE: u64 = 1_000_000;

/// A server's part of the new calls where servers have these weights: of its region's share the part that its weight
/// gives it. Backups share what backups get.
fn share(backend: &Backend, weights: &[u32], at: usize) -> u64 {
    let server = &backend.servers[at];
    let all = || backend.servers.iter().zip(weights);
    let alike = || all().filter(|(other, weight)| other.backup == server.backup && **weight > 0);
    let serves = |region: usize| alike().any(|(other, _)| other.region == region);
    let regions = backend.regions.iter().enumerate().filter(|(region, _)| serves(*region));
    let all_regions: u64 = regions.map(|(_, region)| u64::from(region.weight)).sum();
    let in_region =
        alike().filter(|(other, _)| other.region == server.region).map(|(_, weight)| u64::from(*weight)).sum();
    let part = |of: u32, all: u64| (WHOLE * u64::from(of)).checked_div(all).unwrap_or_default();
    part(backend.regions[server.region].weight, all_regions) * part(weights[at], in_region) / WHOLE
}

/// Opens or closes the places of trial calls before a snapshot speaks of them, and counts who got no answer. The workers'
/// rows of failing answers begin anew.
fn note(live: &ServerLive, Transition { to, why, .. }: Transition, backend: &Backend) {
    live.rows_begun.add(1);
    match (to, &backend.breaker) {
        (Circuit::HalfOpen, Some(breaker)) => live.trials.begin(breaker.half_open_max, false),
        _ => live.trials.end(),
    }
    if let Why::Unanswered(calls) | Why::TrialsUnanswered(calls) = why {
        live.unanswered.add(calls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Three regions of 70, 15 and 15 with two servers in the first, and a backup.
    fn backend() -> Backend {
        let mut text =
            "[[frontend]]\nname = \"f\"\nbind = \"udp://1.1.1.1:5060\"\nbackend = \"b\"\n[[backend]]\nname = \"b\"\n"
                .to_owned();
        for (region, weight) in [("lagos", 70), ("abuja", 15), ("asaba", 15)] {
            text += &format!("[[backend.region]]\nname = \"{region}\"\nweight = {weight}\n");
        }
        for (n, (region, weight, backup)) in [
            ("lagos", 100, false),
            ("lagos", 50, false),
            ("abuja", 0, false),
            ("abuja", 7, false),
            ("asaba", 1, false),
            ("asaba", 9, true),
        ]
        .into_iter()
        .enumerate()
        {
            text += &format!(
                "[[backend.server]]\nname = \"s{n}\"\nregion = \"{region}\"\naddress = \"udp://1.1.2.{n}\"\nweight = {weight}\nbackup = {backup}\n"
            );
        }
        Config::good(&text).backends.remove(0)
    }

    #[test]
    fn a_server_s_share_is_its_part_of_its_region_s_part() {
        let backend = backend();
        let mut weights: Vec<_> = backend.servers.iter().map(|server| server.weight).collect();
        let shares: Vec<_> = (0..6).map(|at| share(&backend, &weights, at)).collect();
        assert_eq!(shares, [466_666, 233_333, 0, 150_000, 150_000, 1_000_000], "a backup is all that backups have");
        (weights[0], weights[3]) = (0, 0);
        let shares: Vec<_> = (0..6).map(|at| share(&backend, &weights, at)).collect();
        assert_eq!(shares, [0, 823_529, 0, 0, 176_470, 1_000_000], "who is gone has no part");
    }
}
