//! What a reload removed, until it is gone: servers keep their calls, addresses what is in flight.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Away, Balancer, Basis};
use crate::config::leaving::{Stays, has_bind, has_server, with_leaving};
use crate::config::{Backend, Bind, Config, Server};
use crate::net::host;
use crate::net::udp::clock;
use crate::sip::token::{Keys, NameHash};
use crate::state::Time;
use crate::state::pins::Held;
use crate::state::server::{Admin, Health, ServerState};

/// An address is served so much longer than it is configured: 64*T1, as long as a transaction may be retransmitted
/// (RFC 3261 §17.1.1.2).
const FLIGHT: Duration = Duration::from_secs(32);

/// Servers and addresses that the file has not any more, and when they were removed.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving {
    servers: HashMap<NameHash, Time>,
    binds: HashMap<Bind, Time>,
    /// The servers that were there when this process began, or took addresses over, and when that was: they may have calls of
    /// the process before it, or of another node, which tokens bring here and no pin knows.
    first: HashSet<NameHash>,
    began: Time,
}

impl Leaving {
    /// From now on calls come that began elsewhere.
    fn begin(&mut self, config: &Config, began: Time) {
        let servers = config.backends.iter().flat_map(|backend| &backend.servers);
        (self.first, self.began) = (servers.map(|server| server.id).collect(), began);
    }

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
        let proxies = before.frontends.iter().filter(|frontend| frontend.is_proxy());
        for bind in proxies.flat_map(|frontend| &frontend.binds) {
            if !has_bind(wanted, bind) {
                self.binds.entry(*bind).or_insert(now);
            }
        }
    }

    /// The configuration with what leaves.
    pub(super) fn with(&self, wanted: &Config, before: &Config) -> Config {
        let (server, bind) = (|id| self.has_server(id), |bind: &Bind| self.binds.contains_key(bind));
        with_leaving(wanted, before, &Stays { server: &server, bind: &bind })
    }

    /// Forgets what can go: servers that have no calls and flows, nor can have any that nobody counts, or were removed longer
    /// ago than a pin lives; addresses whose time is over.
    fn let_go(&mut self, config: &Config, is_held: impl Fn(NameHash) -> bool, (counted, now): (Time, Time)) {
        self.servers.retain(|id, since| {
            let backend = config.backends.iter().find(|b| b.servers.iter().any(|server| server.id == *id));
            let expire = backend.map_or(Duration::ZERO, |backend| backend.pin.expire);
            let has_unknown = self.first.contains(id) && now.since(self.began) < expire;
            // Who was removed since the calls were counted may have got one that was not.
            (is_held(*id) || has_unknown || *since >= counted) && now.since(*since) < expire
        });
        self.binds.retain(|_, since| now.since(*since) < FLIGHT);
    }
}

impl Balancer {
    /// Begins to look who still has calls of those whom a reload removed. Millions of pins take a while to walk, and neither
    /// checks nor commands wait for that.
    pub(super) fn count_calls_of_leaving(&mut self) {
        if !self.basis.leaving.is_empty() && self.walks.is_empty() {
            let shared = Arc::clone(&self.setup.shared);
            let began = clock();
            self.walks.spawn_blocking(move || (began, shared.pins.by_server(began)));
        }
    }

    /// Lets go of what a reload removed and what is not needed any more; `held`: who had calls when that walk began.
    pub(super) async fn let_go(&mut self, (began, held): (Time, HashMap<NameHash, Held>)) {
        let now = clock();
        let mut leaving = self.basis.leaving.clone();
        let snapshot = self.setup.snapshot.load_full();
        let has_flows = |id| snapshot.server(id).is_some_and(|at| snapshot.servers[at].live.flows() > 0);
        let is_held = |id| held.contains_key(&id) || has_flows(id);
        leaving.let_go(&self.basis.config, is_held, (began, now));
        let gone = |id: &&NameHash| !leaving.has_server(**id);
        let names: Vec<_> = self.basis.leaving.servers.keys().filter(gone).map(|id| self.name_of(*id)).collect();
        let binds = self.basis.leaving.binds.keys().filter(|bind| !leaving.binds.contains_key(bind));
        let addresses: Vec<_> = binds.map(|bind| bind.address).collect();
        if names.is_empty() && addresses.is_empty() {
            return;
        }
        match self.leave_only(leaving).await {
            Ok(()) => {
                names.iter().for_each(|server| tracing::info!(server, "the removed server is gone"));
                addresses.iter().for_each(|address| tracing::info!(%address, "the removed address is closed"));
            }
            Err(error) => tracing::warn!("what a reload removed cannot go yet: {error}"),
        }
    }

    /// A removed server goes at once: in maintenance it has no calls to keep, and its address may be another's.
    pub(super) async fn forget(&mut self, id: NameHash) -> Result<String, String> {
        let (server, mut leaving) = (self.name_of(id), self.basis.leaving.clone());
        leaving.servers.remove(&id);
        self.leave_only(leaving).await?;
        tracing::info!(server, "the removed server is gone");
        Ok(String::new())
    }

    /// The same configuration, with no more than this that leaves.
    async fn leave_only(&mut self, leaving: Leaving) -> Result<(), String> {
        let Basis { file, wanted, keys, .. } = &self.basis;
        let basis = self.basis.next(file.clone(), wanted.clone(), keys.clone(), leaving);
        let moved = self.apply(basis, None).await?;
        moved.iter().for_each(|line| tracing::warn!("changed: {line}"));
        Ok(())
    }
}

impl Basis {
    /// What the first snapshot is made of. `node` tells this process from another.
    pub(super) fn first(file: Config, wanted: Config, keys: Keys, node: u16) -> Self {
        let mut leaving = Leaving::default();
        leaving.begin(&wanted, clock());
        Self {
            file,
            config: wanted.clone(),
            leaving,
            keys,
            host: host::ask(&wanted, node),
            wanted,
            states: HashMap::new(),
            away: HashMap::new(),
        }
    }

    /// Addresses of another node are this one's now, and its calls with them.
    pub(super) fn takes_over(&mut self, now: Time) {
        self.leaving.begin(&self.config, now);
    }

    /// What the next snapshots are made of: the states of servers survive, but for what the new configuration says of
    /// them.
    pub(super) fn next(&self, file: Config, wanted: Config, keys: Keys, leaving: Leaving) -> Self {
        let config = leaving.with(&wanted, &self.config);
        let mut host = host::ask(&config, self.host.node);
        // A route that is missing at this moment comes again, with the next network.
        self.host.routes.iter().for_each(|(ip, from)| _ = host.routes.entry(*ip).or_insert(*from));
        let away = self.away(&file, &wanted);
        let (mut states, now) = (HashMap::new(), clock());
        for backend in &config.backends {
            for server in &backend.servers {
                let mut state = self.states.get(&server.id).copied().unwrap_or_default();
                let (was, is) = (weight_of(&self.wanted, server.id), weight_of(&wanted, server.id));
                state.weight = state.weight.filter(|_| was == is);
                let most = |config| server_of(config, server.id).map(|server| server.max_calls);
                state.max_calls = state.max_calls.filter(|_| most(&self.wanted) == most(&wanted));
                let before = state.admin;
                match (leaving.has_server(server.id), state.admin) {
                    (true, Admin::Ready | Admin::Drain) => state.admin = Admin::Leaving,
                    (false, Admin::Leaving) => state.admin = Admin::Ready,
                    _ => {}
                }
                // An answer that has it again says nothing about what somebody asked of it.
                if let Some(away) = self.away.get(&server.id).filter(|_| has_server(&wanted, server.id)) {
                    state.admin = away.state.admin;
                    state.weight = away.state.weight.filter(|_| away.weight == server.weight);
                    state.max_calls = away.state.max_calls.filter(|_| away.max_calls == server.max_calls);
                }
                // One that is new is as old as this.
                if state.admin != before || !has_server(&self.config, server.id) {
                    state.since = now;
                }
                if backend.check.is_none() {
                    state.health = Health::default();
                }
                states.insert(server.id, state);
            }
            self.distrust(backend, &mut states, now);
        }
        Self { file, wanted, config, leaving, keys, host, states, away }
    }

    /// What was asked of addresses that `wanted` has not, and that the names of `file` may bring again.
    fn away(&self, file: &Config, wanted: &Config) -> HashMap<NameHash, Away> {
        let mut away = self.away.clone();
        let servers = self.wanted.backends.iter().flat_map(|of| of.servers.iter().map(|server| (&of.name, server)));
        for (backend, server) in servers {
            let state = self.states.get(&server.id).copied().unwrap_or_default();
            let is_asked = matches!(state.admin, Admin::Drain | Admin::Maint)
                || state.weight.is_some()
                || state.max_calls.is_some();
            if let Some(name) = server.of_name().filter(|_| is_asked) {
                let (backend, name) = (backend.clone(), name.to_owned());
                let Server { weight, max_calls, .. } = *server;
                away.insert(server.id, Away { state, weight, max_calls, backend, name });
            }
        }
        let has_name = |away: &Away| {
            let same = file.backends.iter().find(|backend| backend.name == away.backend);
            same.is_some_and(|backend| backend.names.iter().any(|named| named.name == away.name))
        };
        away.retain(|id, away| has_name(away) && !has_server(wanted, *id));
        away
    }

    /// An address that the DNS brings shows first that somebody is there: it gets no new calls before its first check,
    /// as long as others can take them.
    fn distrust(&self, backend: &Backend, states: &mut HashMap<NameHash, ServerState>, now: Time) {
        let known = |server: &&Server| self.states.contains_key(&server.id) || has_server(&self.config, server.id);
        let takes = |state: ServerState| state.takes_new() || state.is_doubtful();
        let may_take = |server: &Server| server.weight > 0 && takes(states[&server.id]);
        if backend.check.is_none() || !backend.servers.iter().filter(known).any(may_take) {
            return;
        }
        for server in backend.servers.iter().filter(|server| server.of_name().is_some() && !known(server)) {
            let state = ServerState { health: Health::Suspect, since: now, ..states[&server.id] };
            states.insert(server.id, state);
        }
    }
}

/// What a configuration says of a server.
pub(super) fn server_of(config: &Config, id: NameHash) -> Option<&Server> {
    config.backends.iter().flat_map(|backend| &backend.servers).find(|server| server.id == id)
}

/// The weight that a configuration gives a server.
pub(super) fn weight_of(config: &Config, id: NameHash) -> Option<u32> {
    server_of(config, id).map(|server| server.weight)
}
