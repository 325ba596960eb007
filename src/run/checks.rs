//! The checks of all servers, kept like the configuration.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::{Config, Frontend, Server};
use crate::net::check::{Checker, News, Target};
use crate::net::tls::{Tls, server_name};
use crate::sip::token::NameHash;
use crate::state::server::{ServerState, Sign};

/// The running checks.
pub(super) struct Checks {
    running: HashMap<NameHash, Checker>,
    seed: u64,
    tls: Arc<Tls>,
    news: mpsc::Sender<News>,
}

impl Checks {
    /// None yet. What is found goes to `news`.
    pub(super) fn new(seed: u64, tls: Arc<Tls>, news: mpsc::Sender<News>) -> Self {
        Self { running: HashMap::new(), seed, tls, news }
    }

    /// Passes on what a worker saw of a server. One that is not checked has nobody who could take a suspicion back, so
    /// it stays as it is.
    pub(super) fn sign(&self, server: NameHash, sign: Sign) {
        if let Some(checker) = self.running.get(&server) {
            checker.sign(sign);
        }
    }

    /// Ends the checks that the configuration has not.
    pub(super) fn end_others(&mut self, config: &Config, states: &HashMap<NameHash, ServerState>) {
        let targets = self.targets(config, states);
        self.running.retain(|id, _| targets.contains_key(id));
    }

    /// Ends the check of one server; it may be started again.
    pub(super) fn forget(&mut self, server: NameHash) {
        self.running.remove(&server);
    }

    /// Starts those that do not run yet, which know their server's health, and changes those that run otherwise.
    pub(super) fn start(&mut self, config: &Config, states: &HashMap<NameHash, ServerState>) {
        for (id, target) in self.targets(config, states) {
            let health = states.get(&id).map(|state| state.health).unwrap_or_default();
            match self.running.entry(id) {
                Entry::Occupied(checker) => checker.get().change(target),
                Entry::Vacant(none) => {
                    none.insert(Checker::start(target, health, Arc::clone(&self.tls), self.news.clone()));
                }
            }
        }
    }

    fn targets(&self, config: &Config, states: &HashMap<NameHash, ServerState>) -> HashMap<NameHash, Target> {
        let mut targets = HashMap::new();
        for (at, backend) in config.backends.iter().enumerate() {
            let Some(check) = &backend.check else { continue };
            let checked = |server: &&Server| !states.get(&server.id).is_some_and(|state| state.unchecked);
            for server in backend.servers.iter().filter(checked) {
                let target = Target {
                    id: server.id,
                    name: format!("{}/{}", backend.name, server.name),
                    transport: server.transport,
                    address: server.address,
                    tls: server_name(server).map(|name| (name, backend.name.clone())),
                    connect: backend.timeout.connect,
                    send_proxy: backend.send_proxy,
                    inside: inside_for(config, at, server.address.ip()),
                    check: check.clone(),
                    seed: self.seed ^ u64::from(server.id.0) << 17,
                };
                targets.insert(server.id, target);
            }
        }
        targets
    }
}

/// The `inside` address that a backend's servers see, of the first frontend that uses it.
fn inside_for(config: &Config, backend: usize, server: IpAddr) -> Option<IpAddr> {
    let uses = |frontend: &&Frontend| frontend.backends().contains(&backend);
    config.frontends.iter().filter(uses).find_map(|frontend| frontend.inside.like(server))
}
