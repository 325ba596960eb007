//! The balancer's loop: health, signs, commands, and a new snapshot for each of them that changes something.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::{Balancer, Basis};
use crate::admin::{Request, View, Who, Wish};
use crate::net::check::Changed;
use crate::net::udp::clock;
use crate::sip::token::NameHash;
use crate::state::server::{Admin, Health, ServerState, Sign};
use crate::state::snapshot::Ingredients;
use crate::state::{Reason, Shared, Snapshot, snapshot};

/// How often the log says what was dropped and refused, where something was.
const TELL: Duration = Duration::from_secs(60);

/// How often servers and old snapshots are looked at: a breaker's news should not wait for long.
const LOOK: Duration = Duration::from_millis(250);

/// How often it is looked whether what a reload removed can go: the pin table is walked for that.
const LET_GO: Duration = Duration::from_secs(5);

/// Why a server that leaves gets no new calls, in maintenance too, and what brings it back.
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
        let (snapshot, shared) = self.view();
        View::new(snapshot, shared, self.worker_count, Arc::clone(&self.text))
    }

    /// Keeps the snapshots up to date, for ever.
    pub async fn serve(&mut self) {
        let (mut look, mut tell) = (tokio::time::interval(LOOK), tokio::time::interval(TELL));
        let mut let_go = tokio::time::interval(LET_GO);
        loop {
            tokio::select! {
                Some(changed) = self.changes.recv() => self.change(changed),
                () = self.setup.woken.notified() => self.pass_signs_on(),
                Some(request) = self.requests.recv() => self.carry_out(request).await,
                Some(resolved) = self.names.next() => self.resolved(resolved).await,
                _ = let_go.tick() => self.let_go().await,
                _ = tell.tick() => tell_drops(&self.setup.snapshot.load(), &mut self.told),
                _ = look.tick() => {
                    self.drop_retired();
                    self.look();
                    self.keep_calls();
                }
            }
        }
    }

    /// Finishes what is in flight and ends.
    pub fn stop(mut self) {
        drop(self.checks);
        self.workers.stop();
        tell_drops(&self.setup.snapshot.load(), &mut self.told);
    }

    /// A server's health changed: a new snapshot, and a line in the log.
    pub(super) fn change(&mut self, Changed { id, transition }: Changed) {
        let snapshot = self.setup.snapshot.load();
        // A check may have found something before it heard that its server is gone.
        let Some(at) = snapshot.server(id) else { return };
        // Nor is it known of one that is not checked any more: nobody would take it back.
        if snapshot.backends[usize::from(snapshot.servers[at].backend)].config.check.is_none() {
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
        drop(snapshot);
        self.note_state(id, |state| state.health = transition.to);
    }

    /// Changes what was found out about a server; where its backend has nobody left, or has somebody again, the log says so.
    pub(super) fn note_state(&mut self, id: NameHash, change: impl FnOnce(&mut ServerState)) {
        let snapshot = self.setup.snapshot.load();
        let Some(backend) = snapshot.server(id).map(|at| snapshot.servers[at].backend as usize) else { return };
        let was_empty = snapshot.backends[backend].balance.is_empty();
        drop(snapshot);
        self.set_state(id, change);
        let snapshot = self.setup.snapshot.load();
        let backend = &snapshot.backends[backend];
        let name = &backend.config.name;
        match (was_empty, backend.balance.is_empty()) {
            (false, true) => tracing::error!(backend = name, "no server takes new calls"),
            (true, false) => tracing::info!(backend = name, "new calls are taken again"),
            _ => {}
        }
    }

    /// Changes a server's state; the workers see it from their next batch on.
    fn set_state(&mut self, id: NameHash, change: impl FnOnce(&mut ServerState)) {
        let state = self.basis.states.entry(id).or_default();
        let before = *state;
        change(state);
        if (state.admin, state.health) != (before.admin, before.health) {
            state.since = clock();
        }
        self.slow_starts.apply(&self.basis.config, &mut self.basis.states, clock());
        self.renew();
    }

    /// What is done once a second so that calls are counted as they are, and who starts slowly gets his next part.
    fn keep_calls(&mut self) {
        let now = clock();
        self.setup.snapshot.load().keep_calls(&self.setup.shared.pins, now);
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
        self.retired.push(self.setup.snapshot.swap(Arc::new(next)));
    }

    /// Does what somebody wishes, and answers.
    async fn carry_out(&mut self, Request { who, wish, answer }: Request) {
        let answered = match wish {
            Wish::Reload => self.reload(&who).await,
            Wish::Admin { server, admin } => self.set_admin(&who, server, admin),
            Wish::Weight { server, weight } => self.set_weight(&who, server, weight),
            Wish::CloseBreaker { server } => self.reset_breaker(&who, server),
        };
        // Whoever asked may have gone.
        let _ = answer.send(answered);
    }

    fn set_admin(&mut self, who: &Who, id: NameHash, admin: Admin) -> Result<String, String> {
        let (name, before) = self.named(id)?;
        if self.basis.leaving.has_server(id) && admin != Admin::Maint {
            return Err(REMOVED.into());
        }
        tracing::info!(%who, server = name, from = before.admin.word(), to = admin.word(), "administrative state");
        self.set_state(id, |state| state.admin = admin);
        Ok(String::new())
    }

    /// `None` gives it back the weight of the file.
    fn set_weight(&mut self, who: &Who, id: NameHash, weight: Option<u32>) -> Result<String, String> {
        let (name, before) = self.named(id)?;
        if self.basis.leaving.has_server(id) {
            return Err(REMOVED.into());
        }
        tracing::info!(%who, server = name, from = ?before.weight, to = ?weight, "weight at run time");
        self.set_state(id, |state| state.weight = weight);
        Ok(String::new())
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
        self.retired.retain(|snapshot| snapshot.generation >= oldest);
    }
}

/// Says what was dropped and refused since the last time, by reason. A counter that nobody reads is no help to who
/// wonders why a carrier's calls do not arrive.
fn tell_drops(snapshot: &Snapshot, told: &mut [u64; Reason::ALL.len()]) {
    let mut words = String::new();
    for (reason, told) in Reason::ALL.iter().zip(told).filter(|(reason, _)| **reason != Reason::AckAbsorbed) {
        let dropped = |frontend: &snapshot::Frontend| frontend.live.sum(|counters| counters.reasons.of(*reason));
        let now: u64 = snapshot.frontends.iter().map(dropped).sum();
        if now > *told {
            words += &format!(" {}={}", reason.word(), now - *told);
        }
        *told = now;
    }
    if !words.is_empty() {
        tracing::warn!("dropped or refused:{words}");
    }
}

#[cfg(test)]
mod tests;
