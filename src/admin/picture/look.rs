//! Makes the picture: reads the snapshot, the counters and the records, each once.

use std::process;
use std::sync::Arc;
use std::time::Duration;

use super::second::Seconds;
use super::{
    Backend, BreakerShown, Causes, Count, Frontend, Nameless, Node, Picture, PinsUsed, Rate, Region, Server, StickUsed,
    Sums, Tally,
};
use crate::admin::follow::Following;
use crate::admin::journal::Journal;
use crate::admin::roles::Role;
use crate::admin::{unix_now, view::Place};
use crate::config::{self, StickOn, WhenAllDown};
use crate::state::counters::{Counter, FrontendCounters, PerWorker, WorkerCounters};
use crate::state::records::Records;
use crate::state::response_times::Timed;
use crate::state::server::Admin;
use crate::state::{Reason, Shared, Snapshot, Time, snapshot};

/// HAProxy's own proxies have the first number; those of the configuration begin with this one.
const FIRST_IID: usize = 2;

/// The numbers of frontends and of backends: by their positions in the file, frontends first, and behind all of them what leaves.
/// When that is gone, nobody who stays has another number.
pub(in crate::admin) fn numbers(snapshot: &Snapshot) -> (Vec<usize>, Vec<usize>) {
    let frontends = snapshot.frontends.iter().map(|of| of.config.leaves);
    let leaves: Vec<bool> = frontends.chain(snapshot.backends.iter().map(|of| of.config.leaves)).collect();
    let staying = leaves.iter().filter(|leaves| !**leaves).count();
    let (mut stays, mut behind) = (FIRST_IID.., FIRST_IID + staying..);
    let mut numbers: Vec<_> =
        leaves.iter().filter_map(|leaves| if *leaves { &mut behind } else { &mut stays }.next()).collect();
    let backends = numbers.split_off(snapshot.frontends.len());
    (numbers, backends)
}

/// What a picture is made from.
pub(in crate::admin) struct Scene<'a> {
    pub place: &'a Place,
    pub snapshot: &'a Snapshot,
    pub shared: &'a Shared,
    pub journal: &'a Journal,
    pub following: &'a Following,
    pub seconds: &'a Seconds,
    pub now: Time,
    pub number: u64,
    pub stopping: bool,
    pub roles: Arc<Vec<Role>>,
}

impl Scene<'_> {
    /// Looks at everything.
    pub fn picture(&self) -> Picture {
        let Self { place, snapshot, shared, journal, following, seconds, now, number, stopping, roles } = self;
        let (of_frontends, of_backends) = numbers(snapshot);
        let mut frontends: Vec<_> =
            snapshot.frontends.iter().zip(of_frontends).map(|(f, iid)| self.frontend(f, iid)).collect();
        let records = journal.records();
        let backends = snapshot.backends.iter().zip(of_backends);
        let backends: Vec<_> = backends.map(|(backend, iid)| self.backend(backend, iid, &records)).collect();
        drop(records);
        self.give_active(&mut frontends, &backends);
        let mut reasons = [0; Reason::ALL.len()];
        for frontend in &frontends {
            reasons.iter_mut().zip(frontend.causes.reasons).for_each(|(sum, n)| *sum += n);
        }
        let (pins_used, pins_size) = shared.pins.in_use();
        let sum = |counter: fn(&WorkerCounters) -> &Counter| shared.workers.sum(counter);
        Picture {
            number: *number,
            made_at: unix_now(),
            made: *now,
            node: Node {
                name: place.node.clone(),
                pid: process::id(),
                uptime: now.since(place.started),
                started_at: place.started_at,
                workers: place.workers,
                configuration: place.configuration(),
                stopping: *stopping,
                roles: Arc::clone(roles),
            },
            reloads: journal.reloads(),
            certificates: place.tls.certificates(),
            pins: PinsUsed { used: pins_used as u64, size: pins_size as u64, evicted: sum(|of| &of.pins_evicted) },
            sums: Sums {
                receives: sum(|of| &of.receives),
                sends: sum(|of| &of.sends),
                kernel_drops: sum(|of| &of.kernel_drops),
                icmp: sum(|of| &of.icmp),
                copies_lost: shared.taps.lost(),
                hep_sent: following.hep_sent.get(),
                hep_failed: following.hep_failed.get(),
                banned: shared.bans.len() as u64,
            },
            left: seconds.left_of_frontends(),
            reasons,
            frontends,
            backends,
            rates: seconds.whole(),
            last_second: seconds.history().last().copied().unwrap_or_default(),
            times: seconds.times(),
        }
    }

    /// Calls that go on belong to servers. They are shown at the first frontend that names their backend too, so that the sums
    /// over frontends and over backends are the same.
    fn give_active(&self, frontends: &mut [Frontend], backends: &[Backend]) {
        for (at, backend) in backends.iter().enumerate() {
            let names = |of: &snapshot::Frontend| of.config.backends().contains(&at);
            let Some(first) = self.snapshot.frontends.iter().position(names) else { continue };
            let (sum, active) = (&mut frontends[first].rates.active, backend.rates.active);
            *sum = Rate { now: sum.now + active.now, most: sum.most + active.most };
        }
    }

    fn frontend(&self, of: &snapshot::Frontend, iid: usize) -> Frontend {
        let config = &of.config;
        let most_flows = config.relay().map_or(0, |relay| relay.max_flows as u64);
        let flows = || sum(&of.live, |of| &of.flows_opened).saturating_sub(sum(&of.live, |of| &of.flows_closed));
        let ((ever, cleared), causes_ever) = (self.seconds.counted(true, config.id), Causes::of(&of.live));
        Frontend {
            id: config.id,
            iid,
            name: config.name.clone(),
            mode: config.mode.word(),
            binds: config.binds.iter().map(ToString::to_string).collect(),
            open: of.open_connections() + flows(),
            most_open: most_flows + if config.has_streams() { config.connections.most } else { 0 },
            tally: ever.since(&cleared),
            causes: causes_ever.since(&self.seconds.cleared_causes(config.id)),
            ever,
            causes_ever,
            rates: self.seconds.rates(config.id),
        }
    }

    fn backend(&self, of: &snapshot::Backend, iid: usize, records: &Records) -> Backend {
        let config = &of.config;
        let id = super::second::backend_id(&config.name);
        let servers: Vec<_> = config
            .servers
            .iter()
            .zip(1..)
            .filter_map(|(server, sid)| self.server(of, server, (iid, sid), records))
            .collect();
        let mut tally = self.seconds.left(id, None);
        servers.iter().for_each(|server| tally += &server.tally);
        let uptime = records.backend(&config.name);
        let uses = |frontend: &&snapshot::Frontend| frontend.config.backends().iter().any(|at| self.is(*at, config));
        let is_relay = self.snapshot.frontends.iter().find(uses).is_some_and(|f| !f.config.is_proxy());
        let named = |named: &config::Named| Nameless {
            name: named.name.clone(),
            region: config.regions.get(named.region).map_or_else(String::new, |region| region.name.clone()),
            query: named.query.to_string(),
            weight: named.weight,
        };
        Backend {
            id,
            iid,
            name: config.name.clone(),
            mode: if is_relay { "relay" } else { "proxy" },
            balance: config.balance.word(),
            forwards_when_down: config.when_all_down == WhenAllDown::Forward,
            spill_below: config.spill_below,
            up: !of.lacks_servers(),
            unchanged: uptime.map_or(Duration::ZERO, |uptime| uptime.unchanged(self.now)),
            downs: uptime.map_or(0, |uptime| uptime.downs()),
            downtime: uptime.map_or(Duration::ZERO, |uptime| uptime.downtime(self.now)),
            calls: servers.iter().map(|server| server.calls).sum(),
            tally,
            rates: self.seconds.rates(id),
            regions: self.regions(of, &servers, records),
            stick: of.stick().map(|(table, stick)| StickUsed {
                on: word_of(&stick.on),
                size: table.size() as u64,
                used: table.in_use() as u64,
            }),
            nameless: config.unresolved().map(named).collect(),
            servers,
        }
    }

    fn is(&self, at: usize, backend: &config::Backend) -> bool {
        self.snapshot.backends.get(at).is_some_and(|other| other.config.name == backend.name)
    }

    fn regions(&self, of: &snapshot::Backend, servers: &[Server], records: &Records) -> Vec<Region> {
        let config = &of.config;
        let weights: u32 = config.regions.iter().map(|region| region.weight).sum();
        let shares = of.balance.shares();
        let id = super::second::backend_id(&config.name);
        let settled = self.seconds.is_settled(id, &shares, self.now);
        let serves = self.snapshot.serving(of);
        let last_minute = |server: &Server| self.seconds.opened_last_minute(server.id);
        let in_all = servers.iter().map(last_minute).sum();
        let region = |(region, at): (&config::Region, usize)| {
            let own = || servers.iter().filter(|server| server.region == region.name);
            let stays = |server: &&Server| server.state.admin != Admin::Leaving;
            // Backups are part of a region that has nobody else.
            let counts = |backup: bool| !backup || !self.snapshot.has_primaries(of, at);
            let nameless = config.unresolved().filter(|named| named.region == at && counts(named.backup)).count();
            let mut tally = self.seconds.left(id, Some(region.id));
            own().for_each(|server| tally += &server.tally);
            Region {
                id: region.id,
                name: region.name.clone(),
                weight: region.weight,
                target: f64::from(region.weight) / f64::from(weights.max(1)),
                expected: shares.iter().find(|(id, _)| *id == region.id.0).map_or(0.0, |(_, share)| *share),
                settled,
                opened: own().map(last_minute).sum(),
                opened_in_all: in_all,
                up: config.servers.iter().filter(|server| server.region == at && serves(server)).count(),
                servers: own().filter(stays).filter(|server| counts(server.backup)).count() + nameless,
                availability: records.region(&config.name, region.id).map_or(1.0, |up| up.availability(self.now)),
                tally,
            }
        };
        config.regions.iter().zip(0..).map(region).collect()
    }

    fn server(
        &self,
        of: &snapshot::Backend,
        config: &config::Server,
        (backend_iid, sid): (usize, usize),
        records: &Records,
    ) -> Option<Server> {
        let backend = &of.config;
        let known = &self.snapshot.servers[self.snapshot.server(config.id)?];
        let (state, live) = (known.state, &known.live);
        let record = records.server(config.id).cloned();
        let (counts, (ever, cleared)) = (live.breaker_counts(), self.seconds.counted(false, config.id));
        let weight = state.weight.unwrap_or(config.weight);
        Some(Server {
            id: config.id,
            sid,
            backend: backend.name.clone(),
            backend_iid,
            name: config.name.clone(),
            region: backend.regions.get(config.region).map_or_else(String::new, |region| region.name.clone()),
            transport: config.transport,
            address: config.address,
            host: host_of(backend, config),
            backup: config.backup,
            state,
            check: backend.check.as_ref().filter(|_| !state.unchecked).map(|check| (check.rise, check.fall)),
            breaker: backend.breaker.as_ref().map(|breaker| BreakerShown {
                circuit: state.breaker,
                unchanged: record.as_ref().map_or(Duration::ZERO, |record| record.circuit.unchanged(self.now)),
                counts,
                failures: breaker.failures,
                half_open_max: breaker.half_open_max,
                trials_done: live.trials.calls().filter(|trial| trial.status.is_some_and(|of| of >= 200)).count(),
                open_for: breaker.open_for,
            }),
            weight,
            takes_new: (of.takes_new(state) || state.takes_trials()) && weight > 0,
            initial: config.weight,
            calls: live.open(),
            max_calls: known.max_calls,
            max_rate: if known.rate_interval == 0 { 0.0 } else { 1e9 / known.rate_interval as f64 },
            tally: ever.since(&cleared),
            ever,
            rates: self.seconds.rates(config.id),
            times: self.seconds.times_of(config.id, &live.response_times()),
            unchanged: self.now.since(state.since.max(self.place.started)),
            downtime: record.as_ref().map_or(Duration::ZERO, |record| record.uptime.downtime(self.now)),
            histograms: Timed::ALL.map(|timed| live.times(&[timed])),
            responses: live.responses(),
            record,
        })
    }
}

fn sum(live: &PerWorker<FrontendCounters>, counter: fn(&FrontendCounters) -> &Counter) -> u64 {
    live.sum(counter)
}

const UNSERVED: [Reason; 2] = [Reason::NoServer, Reason::ServersFull];
const DENIED: [Reason; 3] = [Reason::Denied, Reason::Scanner, Reason::RateLimited];
const MALFORMED: [Reason; 5] = [Reason::Malformed, Reason::NotSip, Reason::Junk, Reason::TooLong, Reason::Unanswerable];

/// What was counted of a frontend.
pub(super) fn frontend_tally(live: &PerWorker<FrontendCounters>) -> Tally {
    let of = |counter| sum(live, counter);
    let reasons = |reasons: &[Reason]| reasons.iter().map(|reason| live.sum(|l| l.reasons.of(*reason))).sum();
    let (counted, mut refused, mut dropped) = (live.counted(), 0, 0);
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::AckAbsorbed) {
        *if reason.answer().is_some() { &mut refused } else { &mut dropped } += live.sum(|l| l.reasons.of(*reason));
    }
    let mut tally = Tally::default();
    for (count, n) in [
        (Count::Calls, of(|l| &l.calls)),
        (Count::Opened, of(|l| &l.balanced)),
        (Count::Received, of(|l| &l.received)),
        (Count::Sent, of(|l| &l.requests_to_clients)),
        (Count::BytesIn, counted.bytes_from_clients),
        (Count::BytesOut, counted.bytes_to_clients),
        (Count::Retransmissions, counted.retransmissions),
        (Count::Connections, of(|l| &l.connections) + of(|l| &l.flows_opened)),
        (Count::Refused, refused),
        (Count::Unserved, reasons(&UNSERVED)),
        (Count::Dropped, dropped),
        (Count::Denied, reasons(&DENIED)),
        (Count::Malformed, reasons(&MALFORMED)),
    ] {
        tally[count] = n;
    }
    tally.set_methods(&counted.requests);
    tally.set_responses(counted.responses);
    tally
}

/// What was counted of a server.
pub(super) fn server_tally(live: &crate::state::server::ServerLive) -> Tally {
    let counted = live.counted();
    let mut tally = Tally::default();
    for (count, n) in [
        (Count::Opened, counted.opened),
        (Count::Calls, counted.new_calls),
        (Count::Sent, counted.sent),
        (Count::BytesIn, counted.bytes_to),
        (Count::BytesOut, counted.bytes_from),
        (Count::Retransmissions, counted.retransmissions),
        (Count::Failed, counted.failed),
        (Count::Failing5xx, counted.failing_5xx),
        (Count::Unreachable, counted.unreachable),
        (Count::Rejected, counted.moved_on),
        (Count::Connections, live.counters.sum(|of| &of.flows_opened)),
    ] {
        tally[count] = n;
    }
    tally.set_methods(&counted.by_method);
    tally.set_responses(counted.responses);
    tally
}

fn host_of(backend: &config::Backend, server: &config::Server) -> Option<String> {
    let name = server.of_name()?;
    Some(backend.names.iter().find(|named| named.name == name)?.query.host.clone())
}

/// HAProxy's name of a stick table's key type.
fn word_of(on: &StickOn) -> &'static str {
    match on {
        StickOn::Source { .. } => "ip",
        StickOn::FromUser | StickOn::ToUser | StickOn::Header(_) => "string",
    }
}

#[cfg(test)]
mod tests {
    use super::super::gone::tests::{SECOND, TEXT, leaving, snapshot};
    use super::*;

    #[test]
    fn numbers_are_the_file_s_whatever_leaves_beside_it() {
        let gone = TEXT.replace("\"f\"", "\"g\"").replace("\"b\"", "\"c\"").replace(":5060", ":5070");
        let stays = snapshot(TEXT, None);
        assert_eq!(numbers(&stays), (vec![2], vec![3]));
        let both = leaving(&(TEXT.to_owned() + SECOND), &(gone + TEXT));
        let names = |snapshot: &Snapshot| snapshot.backends.iter().map(|of| of.config.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&both), ["b", "c"]);
        assert_eq!(numbers(&both), (vec![2, 4], vec![3, 5]), "frontend g was 3 once, and c was 4");
    }
}
