//! What a reload removed, until it is gone: servers keep their calls, addresses what is in flight.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Balancer, Basis};
use crate::config::leaving::{Stays, has_bind, has_server, with_leaving};
use crate::config::{Backend, Bind, Config, Server};
use crate::net::udp::clock;
use crate::sip::token::NameHash;
use crate::state::Time;
use crate::state::server::{Admin, Health, ServerState};

/// An address is served so much longer than it is configured: 64*T1, as long as a transaction may be retransmitted
/// (RFC 3261 §17.1.1.2).
const FLIGHT: Duration = Duration::from_secs(32);

/// Servers and addresses that the file has not any more, and when they were removed.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving {
    servers: HashMap<NameHash, Time>,
    binds: HashMap<Bind, Time>,
}

impl Leaving {
    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.binds.is_empty()
    }

    /// Whether this server is in the file no more, whatever was done to it since.
    pub(super) fn has_server(&self, id: NameHash) -> bool {
        self.servers.contains_key(&id)
    }

    /// Notes what `wanted` has not and the configuration before had. What is in maintenance has no calls to keep.
    pub(super) fn note(
        &mut self,
        wanted: &Config,
        before: &Config,
        states: &HashMap<NameHash, ServerState>,
        now: Time,
    ) {
        self.servers.retain(|id, _| !has_server(wanted, *id));
        self.binds.retain(|bind, _| !has_bind(wanted, bind));
        let maint = |id: NameHash| states.get(&id).is_some_and(|state| state.admin == Admin::Maint);
        for server in before.backends.iter().flat_map(|backend| &backend.servers) {
            if !has_server(wanted, server.id) && !maint(server.id) {
                self.servers.entry(server.id).or_insert(now);
            }
        }
        let proxies = before.frontends.iter().filter(|frontend| frontend.relay().is_none());
        for bind in proxies.flat_map(|frontend| &frontend.binds) {
            if !has_bind(wanted, bind) {
                self.binds.entry(*bind).or_insert(now);
            }
        }
    }

    /// The configuration with what leaves.
    pub(super) fn with(&self, wanted: &Config, before: &Config) -> Config {
        let (server, bind) = (|id| self.servers.contains_key(&id), |bind: &Bind| self.binds.contains_key(bind));
        with_leaving(wanted, before, &Stays { server: &server, bind: &bind })
    }

    /// Forgets what can go: servers without calls and flows, in maintenance, or removed longer ago than a pin lives; addresses
    /// whose time is over.
    fn let_go(
        &mut self,
        config: &Config,
        states: &HashMap<NameHash, ServerState>,
        is_held: impl Fn(NameHash) -> bool,
        now: Time,
    ) {
        self.servers.retain(|id, since| {
            let backend = config.backends.iter().find(|b| b.servers.iter().any(|server| server.id == *id));
            let expire = backend.map_or(Duration::ZERO, |backend| backend.pin.expire);
            let maint = states.get(id).is_some_and(|state| state.admin == Admin::Maint);
            is_held(*id) && now.since(*since) < expire && !maint
        });
        self.binds.retain(|_, since| now.since(*since) < FLIGHT);
    }
}

impl Balancer {
    /// Lets go of what a reload removed and what is not needed any more.
    pub(super) async fn let_go(&mut self) {
        if self.basis.leaving.is_empty() {
            return;
        }
        let (now, shared) = (clock(), Arc::clone(&self.setup.shared));
        // Millions of pins take a while to walk, and checks must not wait for that.
        let Ok(held) = tokio::task::spawn_blocking(move || shared.pins.by_server(now)).await else { return };
        let mut leaving = self.basis.leaving.clone();
        let snapshot = self.setup.snapshot.load_full();
        let has_flows = |id| snapshot.server(id).is_some_and(|at| snapshot.servers[at].live.flows() > 0);
        let is_held = |id| held.contains_key(&id) || has_flows(id);
        leaving.let_go(&self.basis.config, &self.basis.states, is_held, now);
        let gone = |id: &&NameHash| !leaving.servers.contains_key(id);
        let names: Vec<_> = self.basis.leaving.servers.keys().filter(gone).map(|id| self.name_of(*id)).collect();
        let binds = self.basis.leaving.binds.keys().filter(|bind| !leaving.binds.contains_key(bind));
        let addresses: Vec<_> = binds.map(|bind| bind.address).collect();
        if names.is_empty() && addresses.is_empty() {
            return;
        }
        let Basis { file, wanted, keys, .. } = &self.basis;
        let basis = self.basis.next(file.clone(), wanted.clone(), keys.clone(), leaving);
        match self.apply(basis).await {
            Ok(moved) => {
                moved.iter().for_each(|line| tracing::warn!("changed: {line}"));
                names.iter().for_each(|server| tracing::info!(server, "the removed server is gone"));
                addresses.iter().for_each(|address| tracing::info!(%address, "the removed address is closed"));
            }
            Err(error) => tracing::warn!("what a reload removed cannot go yet: {error}"),
        }
    }

    pub(super) fn name_of(&self, id: NameHash) -> String {
        let snapshot = self.setup.snapshot.load();
        snapshot.server(id).map_or_else(String::new, |at| snapshot.servers[at].name.clone())
    }
}

impl Basis {
    /// What the next snapshots are made of: the states of servers survive, but for what the new configuration says of
    /// them.
    pub(super) fn next(&self, file: Config, wanted: Config, keys: crate::sip::token::Keys, leaving: Leaving) -> Self {
        let config = leaving.with(&wanted, &self.config);
        let host = crate::net::host::ask(&config, self.host.node);
        let (mut states, now) = (HashMap::new(), clock());
        for backend in &config.backends {
            for server in &backend.servers {
                let mut state = self.states.get(&server.id).copied().unwrap_or_default();
                let (was, is) = (weight_of(&self.wanted, server.id), weight_of(&wanted, server.id));
                state.weight = state.weight.filter(|_| was == is);
                let before = state.admin;
                match (leaving.servers.contains_key(&server.id), state.admin) {
                    (true, Admin::Ready | Admin::Drain) => state.admin = Admin::Leaving,
                    (false, Admin::Leaving) => state.admin = Admin::Ready,
                    _ => {}
                }
                if state.admin != before {
                    state.since = now;
                }
                if backend.check.is_none() {
                    state.health = Default::default();
                }
                states.insert(server.id, state);
            }
            self.distrust(backend, &mut states, now);
        }
        Self { file, wanted, config, leaving, keys, host, states }
    }
}

impl Basis {
    /// An address that the DNS brings shows first that somebody is there: it gets no new calls before its first check,
    /// as long as others can take them.
    fn distrust(&self, backend: &Backend, states: &mut HashMap<NameHash, ServerState>, now: Time) {
        let known = |server: &&Server| self.states.contains_key(&server.id) || has_server(&self.config, server.id);
        let takes_new = |server: &Server| server.weight > 0 && states[&server.id].takes_new();
        if backend.check.is_none() || !backend.servers.iter().filter(known).any(takes_new) {
            return;
        }
        for server in backend.servers.iter().filter(|server| server.is_of_name() && !known(server)) {
            let state = ServerState { health: Health::Suspect, since: now, ..ServerState::default() };
            states.insert(server.id, state);
        }
    }
}

/// The weight that a configuration gives a server.
fn weight_of(config: &Config, id: NameHash) -> Option<u32> {
    let mut servers = config.backends.iter().flat_map(|backend| &backend.servers);
    servers.find(|server| server.id == id).map(|server| server.weight)
}
