//! Who may be chosen for a new call.

use crate::balance::{Candidate, Region};
use crate::config::{self, WhenAllDown};
use crate::sip::token::NameHash;
use crate::state::server::{Admin, ServerState};

/// How fine `slow_start` cuts weights.
const WHOLE: u32 = 100;

/// A server's weight as far as `slow_start` lets it have it. In hundredths where a server of the backend starts slowly, so
/// that even a weight of one has parts.
fn weight(backend: &config::Backend, server: &config::Server, state: ServerState) -> u32 {
    let weight = state.weight.unwrap_or(server.weight);
    match backend.servers.iter().all(|server| server.slow_start.is_zero()) {
        true => weight,
        false => weight * (WHOLE - u32::from(state.held_back).min(WHOLE - 1)),
    }
}

/// How far a backend had to go for somebody who takes new calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Well,
    /// To those that are in doubt.
    Doubtful,
    /// To everybody who is not in maintenance: it fails open.
    Anybody,
}

/// Who may be chosen for a new call, region by region: the servers that take new calls; where there are none, the
/// backups that do; where there are none either, who is in doubt: nothing but a check may say that nobody is there, for ICMP
/// can be forged, nor that it wants no calls, for a 503 may be meant for the one call that it answered; else, where the
/// backend fails open, everybody who is not in maintenance. Beside them stands who wants trial calls. And how far
/// that was.
pub(super) fn candidates(backend: &config::Backend, state: impl Fn(NameHash) -> ServerState) -> (Vec<Region>, Reach) {
    type Who<'a> = &'a dyn Fn(&config::Server) -> bool;
    let regions = |among: Who<'_>, wanted: &dyn Fn(ServerState) -> bool| -> Vec<Region> {
        let of = |(region, at): (&config::Region, usize)| {
            let members = backend.servers.iter().filter(|server| server.region == at && among(server));
            let total = members.map(|server| weight(backend, server, ServerState::default())).sum();
            let candidate = |server: &config::Server| {
                let state = state(server.id);
                let usable = among(server) && wanted(state);
                Candidate { id: server.id.0, weight: if usable { weight(backend, server, state) } else { 0 } }
            };
            let here = backend.servers.iter().filter(|server| server.region == at);
            Region { id: region.id.0, weight: region.weight, total, servers: here.map(candidate).collect() }
        };
        backend.regions.iter().zip(0..).map(of).collect()
    };
    let primary: Who<'_> = &|server| !server.backup;
    let backup: Who<'_> = &|server| server.backup;
    // Who prefers a region without weight is served there, however the others fare: their backups are none of its business.
    let usual = regions(primary, &|state| state.takes_new() || state.takes_trials());
    let beside = |others: Vec<Region>| -> Vec<Region> {
        let serves = |region: &Region| region.weight == 0 && region.servers.iter().any(|server| server.weight > 0);
        others.into_iter().zip(&usual).map(|(other, own)| if serves(own) { own.clone() } else { other }).collect()
    };
    let anybody = |regions: &[Region]| {
        regions.iter().any(|region| region.weight > 0 && region.servers.iter().any(|server| server.weight > 0))
    };
    for reach in [Reach::Well, Reach::Doubtful] {
        let wanted = |state: ServerState| state.takes_new() || reach == Reach::Doubtful && state.is_doubtful();
        let or_trials = |state: ServerState| wanted(state) || state.takes_trials();
        if anybody(&regions(primary, &wanted)) {
            return (beside(regions(primary, &or_trials)), reach);
        }
        if anybody(&regions(backup, &wanted)) {
            let spare = regions(&|server| server.backup || state(server.id).takes_trials(), &or_trials);
            return (beside(spare), reach);
        }
    }
    match backend.when_all_down {
        // Regions without weight still take those that prefer them.
        WhenAllDown::Reject => {
            let spare = |server: &config::Server| !server.backup || state(server.id).takes_trials();
            (regions(&spare, &|state| state.takes_new() || state.takes_trials()), Reach::Well)
        }
        WhenAllDown::Forward => (beside(regions(primary, &|state| state.admin == Admin::Ready)), Reach::Anybody),
    }
}
