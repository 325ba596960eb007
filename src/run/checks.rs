//! The checks of all servers, kept like the configuration.

use std::collections::HashMap;
use std::net::IpAddr;

use tokio::sync::mpsc;

use crate::config::{Backend, Config, Frontend};
use crate::net::check::{Changed, Checker, Target};
use crate::sip::token::NameHash;
use crate::state::server::{ServerState, Sign};

/// The running checks.
pub(super) struct Checks {
    running: HashMap<NameHash, Checker>,
    seed: u64,
    changes: mpsc::Sender<Changed>,
}

impl Checks {
    /// None yet. What is found goes to `changes`.
    pub(super) fn new(seed: u64, changes: mpsc::Sender<Changed>) -> Self {
        Self { running: HashMap::new(), seed, changes }
    }

    /// Passes on what a worker saw of a server. One that is not checked has nobody who could take a suspicion back, so
    /// it stays as it is.
    pub(super) fn sign(&self, server: NameHash, sign: Sign) {
        if let Some(checker) = self.running.get(&server) {
            checker.sign(sign);
        }
    }

    /// Ends the checks that the configuration has not, or not so.
    pub(super) fn end_others(&mut self, config: &Config) {
        let targets = self.targets(config);
        self.running.retain(|id, checker| targets.get(id) == Some(checker.target()));
    }

    /// Starts those that do not run yet; each knows its server's health.
    pub(super) fn start(&mut self, config: &Config, states: &HashMap<NameHash, ServerState>) {
        for (id, target) in self.targets(config) {
            let health = states.get(&id).map(|state| state.health).unwrap_or_default();
            let changes = &self.changes;
            self.running.entry(id).or_insert_with(|| Checker::start(target, health, changes.clone()));
        }
    }

    fn targets(&self, config: &Config) -> HashMap<NameHash, Target> {
        let checked = config.backends.iter().filter_map(|backend| Some((backend, backend.check.as_ref()?)));
        let servers =
            checked.flat_map(|(backend, check)| backend.servers.iter().map(move |server| (backend, check, server)));
        servers
            .map(|(backend, check, server)| {
                let target = Target {
                    id: server.id,
                    address: server.address,
                    inside: inside_for(config, backend, server.address.ip()),
                    check: check.clone(),
                    seed: self.seed ^ u64::from(server.id.0) << 17,
                };
                (server.id, target)
            })
            .collect()
    }
}

/// The `inside` address that a backend's servers see, of the first frontend that uses it.
fn inside_for(config: &Config, backend: &Backend, server: IpAddr) -> Option<IpAddr> {
    let uses = |frontend: &&Frontend| {
        let of = |at: usize| config.backends[at].name == backend.name;
        of(frontend.backend) || frontend.routes.iter().any(|route| of(route.backend))
    };
    config.frontends.iter().filter(uses).find_map(|frontend| frontend.inside.like(server))
}
