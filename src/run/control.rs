//! The balancer's loop: health, signs, commands, and a new snapshot for each of them that changes something.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::leaving::{server_of, weight_of};
use super::{Balancer, Basis};
use crate::admin::journal::{Change, Kind};
use crate::admin::{Request, View, Who, Wish};
use crate::config::is_relayed;
use crate::net::check::News;
use crate::net::udp::clock;
use crate::sip::token::NameHash;
use crate::state::health::Transition;
use crate::state::server::{Admin, Health, ServerState, Sign};
use crate::state::snapshot::Ingredients;
use crate::state::{Shared, Snapshot, snapshot};

/// How often the log says what was dropped and refused, where something was.
const TELL: Duration = Duration::from_secs(60);

/// How often servers and old snapshots are looked at: a breaker's news should not wait for long.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// How often calls that have expired are looked for; [`Snapshot::keep_calls`] is made for this pace.
const KEEP_CALLS: Duration = Duration::from_secs(1);

/// How often it is looked whether what a reload removed can go: the pin table is walked for that.
const LET_GO: Duration = Duration::from_secs(5);

/// How often it is looked whether certificates have changed: who renews them need tell nobody.
const LOOK_AT_CERTIFICATES: Duration = Duration::from_secs(30);

/// Why a server that leaves gets no new calls, and what brings it back.
const REMOVED: &str = "This server was removed from the configuration: write it there again and reload.";

impl Basis {
    /// The next generation of routing state.
    pub(super) fn build(&self, workers: usize, previous: Option<&Snapshot>) -> Snapshot {
        let Self { config, keys, host, states, .. } = self;
        Snapshot::build(&Ingredients { config, keys: keys.clone(), host, states, workers }, previous)
    }
}

impl Balancer {
    /// What the workers see: for whoever shows it.
    pub fn view(&self) -> (Arc<ArcSwap<Snapshot>>, Arc<Shared>) {
        (Arc::clone(&self.setup.snapshot), Arc::clone(&self.setup.shared))
    }

    /// Where wishes come in.
    pub fn door(&self) -> mpsc::Sender<Request> {
        self.door.clone()
    }

    /// What commands show.
    pub fn show(&self) -> View {
        self.shown.clone()
    }

    /// Keeps the snapshots up to date, for ever.
    pub async fn serve(&mut self) {
        let [mut look, mut keep_calls, mut let_go, mut tell, mut certificates] =
            [LOOK, KEEP_CALLS, LET_GO, TELL, LOOK_AT_CERTIFICATES].map(tokio::time::interval);
        loop {
            tokio::select! {
                Some(news) = self.news.recv() => self.take(news),
                () = self.setup.woken.notified() => self.pass_signs_on(),
                Some(request) = self.requests.recv() => self.carry_out(request).await,
                Some(resolved) = self.names.next() => self.resolved(resolved).await,
                _ = let_go.tick() => self.count_calls_of_leaving(),
                Some(Ok(counted)) = self.walks.join_next() => self.let_go(counted).await,
                _ = certificates.tick() => self.look_at_certificates(),
                Some(looked) = self.looks.join_next() => self.take_certificates(looked),
                _ = tell.tick() => {
                    self.told.tell(&self.setup.snapshot.load());
                    self.sum_up_bans();
                }
                _ = keep_calls.tick() => {
                    self.keep_calls();
                    self.read_roles();
                    self.tell_sentence();
                }
                _ = look.tick() => {
                    self.drop_retired();
                    self.look();
                    self.tell_bans();
                }
            }
        }
    }

    /// Finishes what is in flight and ends. Whoever asks meanwhile whether we are ready is told that we are not.
    pub async fn stop(mut self) {
        self.shown.stop();
        self.setup.shared.looked.set(u64::MAX);
        // Whoever wishes for something is told that it is too late.
        drop((self.checks, self.requests));
        let workers = self.workers;
        let ended = tokio::task::spawn_blocking(move || workers.stop()).await;
        if let Err(error) = ended {
            tracing::error!(%error, "the workers did not end in order");
        }
        self.follower.end().await;
        self.told.tell(&self.setup.snapshot.load());
        self.journal.flush();
    }

    /// A check ended, or a server's health changed.
    pub(super) fn take(&mut self, News { id, checked, transition }: News) {
        if let Some(checked) = checked {
            self.journal.records().checked(id, checked);
            if let Some(live) = self.setup.snapshot.load().live(id) {
                live.failed_checks.set(if checked.passed { 0 } else { live.failed_checks.get() + 1 });
            }
        }
        if let Some(transition) = transition {
            self.change(id, transition);
        }
    }

    /// What ended checks have found.
    pub(super) fn take_all(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            self.take(news);
        }
    }

    /// A server's health changed: a new snapshot, and a line in the log.
    pub(super) fn change(&mut self, id: NameHash, transition: Transition) {
        let snapshot = self.setup.snapshot.load();
        // A check may have found something before it heard that its server is gone.
        let Some(at) = snapshot.server(id) else { return };
        // Nor is it known of one that is not checked any more: nobody would take it back.
        let (backend, state) = (usize::from(snapshot.servers[at].backend), snapshot.servers[at].state);
        if state.unchecked || snapshot.backends[backend].config.check.is_none() {
            return;
        }
        let name = snapshot.servers[at].name.as_str();
        let (from, to, reason) = (transition.from.word(), transition.to.word(), transition.why);
        match transition.to {
            Health::Down | Health::Dead => {
                tracing::warn!(server = name, from, to, after_checks = transition.checks, %reason, "server state");
            }
            _ => tracing::info!(server = name, from, to, after_checks = transition.checks, %reason, "server state"),
        }
        self.journal.records().changed(id, transition);
        self.journal.note(Kind::Health, name, None, format!("{from} -> {to}: {reason}"));
        drop(snapshot);
        self.set_state(id, |state| state.health = transition.to);
    }

    /// Changes a server's state; the workers see it from their next batch on.
    pub(super) fn set_state(&mut self, id: NameHash, change: impl FnOnce(&mut ServerState)) {
        let state = self.basis.states.entry(id).or_default();
        let before = *state;
        change(state);
        if (state.admin, state.health) != (before.admin, before.health) {
            state.since = clock();
        }
        self.slow_starts.apply(&self.basis.config, &mut self.basis.states, clock());
        self.renew();
    }

    /// Once a second: calls are counted as they are, and who starts slowly gets his next part.
    fn keep_calls(&mut self) {
        let now = clock();
        self.setup.snapshot.load().keep_calls(&self.setup.shared.pins, now);
        self.shown.tick();
        if self.slow_starts.apply(&self.basis.config, &mut self.basis.states, now) {
            self.renew();
        }
    }

    /// A new snapshot of the same configuration.
    fn renew(&mut self) {
        let previous = self.setup.snapshot.load_full();
        self.publish(self.basis.build(self.worker_count, Some(&previous)));
    }

    pub(super) fn publish(&mut self, next: Snapshot) {
        for (backend, words) in tell_empty(Some(&self.setup.snapshot.load()), &next) {
            self.journal.note(Kind::Health, &backend, None, words.to_owned());
        }
        self.journal.records().look(&next, clock());
        self.retired.push(self.setup.snapshot.swap(Arc::new(next)));
    }

    /// Does what somebody wishes, and answers.
    async fn carry_out(&mut self, Request { who, wish, answer }: Request) {
        let answered = match wish {
            Wish::Reload => self.reload(&who).await,
            Wish::Admin { server, admin } => self.set_admin(&who, server, admin).await,
            Wish::Weight { server, weight } => self.set_weight(&who, server, weight),
            Wish::MaxCalls { server, most } => self.set_max_calls(&who, server, most),
            Wish::Check { server, on } => self.set_check(&who, server, on),
            Wish::ClearTable { backend, key } => self.clear_table(&who, &backend, key),
            Wish::Unban { source } => self.unban(&who, source),
            Wish::CloseBreaker { server } => self.reset_breaker(&who, server),
            Wish::Health { server, health } => self.set_health(&who, server, health),
        };
        // Whoever asked may have gone.
        let _ = answer.send(answered);
    }

    async fn set_admin(&mut self, who: &Who, id: NameHash, admin: Admin) -> Result<String, String> {
        let (name, before) = self.named(id)?;
        let leaves = self.basis.leaving.has_server(id);
        if leaves && admin != Admin::Maint {
            return Err(REMOVED.into());
        }
        if before.admin == admin && !leaves {
            return Ok(String::new());
        }
        tracing::info!(%who, server = name, from = before.admin.word(), to = admin.word(), "administrative state");
        let (from, to) = (before.admin.word().to_owned(), admin.word().to_owned());
        let words = format!("{from} -> {to}");
        self.journal.changed(who, &Change { kind: Kind::Admin, of: &name, what: "state", from, to }, words);
        let lost = if before.admin == Admin::Maint || admin != Admin::Maint { 0 } else { self.calls_of(id) };
        let lost = match lost {
            0 => String::new(),
            1 => "warning: 1 call loses its server; a drain first would have kept it\n".to_owned(),
            lost => format!("warning: {lost} calls lose their server; a drain first would have kept them\n"),
        };
        if leaves {
            return Ok(self.forget(id).await? + &lost);
        }
        Ok(self.change_by_hand(id, |state| state.admin = admin) + &lost)
    }

    /// Changes a server's state for somebody, who is warned where its backend has nobody left now.
    fn change_by_hand(&mut self, id: NameHash, change: impl FnOnce(&mut ServerState)) -> String {
        let Some(backend) = self.backend_of(id) else { return String::new() };
        let is_empty = |balancer: &Self| balancer.setup.snapshot.load().backends[backend].lacks_servers();
        let was_empty = is_empty(self);
        self.set_state(id, change);
        match !was_empty && is_empty(self) {
            true => {
                let snapshot = self.setup.snapshot.load();
                format!("warning: no server of {} takes new calls now\n", snapshot.backends[backend].config.name)
            }
            false => String::new(),
        }
    }

    fn backend_of(&self, id: NameHash) -> Option<usize> {
        let snapshot = self.setup.snapshot.load();
        snapshot.server(id).map(|at| usize::from(snapshot.servers[at].backend))
    }

    /// The calls and the flows that a server has.
    fn calls_of(&self, id: NameHash) -> u64 {
        let snapshot = self.setup.snapshot.load();
        let Some(server) = snapshot.server(id).map(|at| &snapshot.servers[at]) else { return 0 };
        // Connections of a relay stay until they end.
        match is_relayed(server.backend.into(), &self.basis.config.frontends) {
            true => 0,
            false => server.live.open(),
        }
    }

    /// As if a check had found it so. Its check begins anew with it: the next one may find otherwise.
    fn set_health(&mut self, who: &Who, id: NameHash, health: Health) -> Result<String, String> {
        let (name, before) = self.named(id)?;
        let (from, to) = (before.health.word().to_owned(), health.word().to_owned());
        let words = format!("{from} -> {to}: said by hand");
        tracing::info!(%who, server = name, from = before.health.word(), to = health.word(), "health by hand");
        self.journal.changed(who, &Change { kind: Kind::Admin, of: &name, what: "health", from, to }, words);
        self.checks.forget(id);
        // What the check had found before it ended is not newer than this.
        self.take_all();
        self.journal.records().said(id);
        self.set_state(id, |state| state.health = health);
        self.checks.start(&self.basis.config, &self.basis.states);
        Ok(String::new())
    }

    /// `None` gives it back the weight of the file.
    fn set_weight(&mut self, who: &Who, id: NameHash, weight: Option<u32>) -> Result<String, String> {
        let (name, before) = self.named(id)?;
        if self.basis.leaving.has_server(id) {
            return Err(REMOVED.into());
        }
        let of_file = weight_of(&self.basis.config, id).unwrap_or_default();
        let (from, to) = (before.weight.unwrap_or(of_file), weight.unwrap_or(of_file));
        if from == to {
            return Ok(String::new());
        }
        tracing::info!(%who, server = name, from, to, "weight at run time");
        let (from, to, words) = (from.to_string(), to.to_string(), format!("{from} -> {to}"));
        self.journal.changed(who, &Change { kind: Kind::Weight, of: &name, what: "weight", from, to }, words);
        Ok(self.change_by_hand(id, |state| state.weight = weight))
    }

    /// `None` gives it back the limit of the file.
    fn set_max_calls(&mut self, who: &Who, id: NameHash, most: Option<u32>) -> Result<String, String> {
        let (name, before) = self.named(id)?;
        let of_file = server_of(&self.basis.config, id).map_or(0, |server| server.max_calls);
        let (from, to) = (before.max_calls.unwrap_or(of_file), most.unwrap_or(of_file));
        if from == to {
            return Ok(String::new());
        }
        tracing::info!(%who, server = name, from, to, "max_calls at run time");
        let (from, to, words) = (from.to_string(), to.to_string(), format!("max_calls {from} -> {to}"));
        self.journal.changed(who, &Change { kind: Kind::Limit, of: &name, what: "max_calls", from, to }, words);
        Ok(self.change_by_hand(id, |state| state.max_calls = most))
    }

    fn set_check(&mut self, who: &Who, id: NameHash, on: bool) -> Result<String, String> {
        let (name, before) = self.named(id)?;
        let backend = self.backend_of(id).map(|at| &self.basis.config.backends[at]);
        if backend.is_some_and(|backend| backend.check.is_none()) {
            let cannot = "Health check was not configured on this server, cannot enable.";
            return if on { Err(cannot.to_owned()) } else { Ok(String::new()) };
        }
        if before.unchecked != on {
            return Ok(String::new());
        }
        tracing::info!(%who, server = name, on, "checks");
        let word = |on| if on { "on" } else { "off" };
        let (from, to, words) = (word(!on).to_owned(), word(on).to_owned(), format!("checks {}", word(on)));
        self.journal.changed(who, &Change { kind: Kind::Admin, of: &name, what: "checks", from, to }, words);
        self.set_state(id, |state| state.unchecked = !on);
        self.checks.end_others(&self.basis.config, &self.basis.states);
        self.checks.start(&self.basis.config, &self.basis.states);
        Ok(String::new())
    }

    /// Whom a key sticks to is forgotten; calls keep their pins.
    fn clear_table(&self, who: &Who, backend: &str, key: Option<u64>) -> Result<String, String> {
        let snapshot = self.setup.snapshot.load();
        let of = snapshot.backends.iter().find(|of| of.config.name == backend);
        let (table, _) = of.and_then(|of| of.stick()).ok_or("No such table")?;
        let cleared = table.clear(key, clock());
        if cleared == 0 {
            return Ok(String::new());
        }
        let words = format!("{cleared} entries of the stick table cleared");
        tracing::info!(%who, backend, cleared, "stick table cleared");
        let (from, to) = (cleared.to_string(), "0".to_owned());
        self.journal.changed(who, &Change { kind: Kind::Admin, of: backend, what: "stick table", from, to }, words);
        Ok(String::new())
    }

    /// For the log; nothing where there is no such server any more.
    pub(super) fn name_of(&self, id: NameHash) -> String {
        self.named(id).map_or_else(|_| String::new(), |(name, _)| name)
    }

    fn named(&self, id: NameHash) -> Result<(String, ServerState), String> {
        let snapshot = self.setup.snapshot.load();
        let at = snapshot.server(id).ok_or("No such server.")?;
        Ok((snapshot.servers[at].name.clone(), snapshot.servers[at].state))
    }

    /// Workers left signs at servers: their checks follow them up, and breakers are looked at.
    pub(super) fn pass_signs_on(&mut self) {
        let snapshot = self.setup.snapshot.load_full();
        let mut failing = false;
        for server in &snapshot.servers {
            for sign in server.live.take_signs() {
                match sign {
                    Sign::Failing => failing = true,
                    sign => self.checks.sign(server.id, sign),
                }
            }
        }
        if failing {
            self.look();
        }
    }

    fn drop_retired(&mut self) {
        let workers = &self.setup.shared.workers;
        let running = (0..self.worker_count).filter(|worker| self.workers.is_running(*worker));
        let oldest = running.map(|worker| workers.of(worker).generation.get()).min().unwrap_or(u64::MAX);
        // Where messages wait that were decided about by it, a worker would be the one that frees it.
        self.retired.retain(|snapshot| snapshot.generation >= oldest || Arc::strong_count(snapshot) > 1);
    }
}

/// Where a backend has nobody left for new calls, or has somebody again, the log says so, whoever did it; and the events, to
/// which these words go.
pub(super) fn tell_empty(before: Option<&Snapshot>, next: &Snapshot) -> Vec<(String, &'static str)> {
    const EMPTY: &str = "no server takes new calls";
    const AGAIN: &str = "new calls are taken again";
    let mut told = Vec::new();
    let is_empty = |backend: &snapshot::Backend| backend.lacks_servers();
    let was_empty = |name: &str| {
        let mut backends = before.into_iter().flat_map(|before| &before.backends);
        backends.find(|backend| backend.config.name == name).is_some_and(is_empty)
    };
    // Most snapshots keep their backends where they were.
    let same =
        |at: usize, name: &str| before.and_then(|before| before.backends.get(at)).filter(|b| b.config.name == name);
    for (at, backend) in next.backends.iter().enumerate() {
        let name = backend.config.name.as_str();
        match (same(at, name).map_or_else(|| was_empty(name), is_empty), is_empty(backend)) {
            (false, true) => {
                tracing::error!(backend = name, "{EMPTY}");
                told.push((name.to_owned(), EMPTY));
            }
            (true, false) => {
                tracing::info!(backend = name, "{AGAIN}");
                told.push((name.to_owned(), AGAIN));
            }
            _ => {}
        }
    }
    told
}

#[cfg(test)]
mod tests;
