//! A new configuration for a running balancer. Everything is validated and opened before anything is touched.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use super::start::{Source, allow_open_files, open_relays};
use super::{Balancer, Basis, read_keys};
use crate::admin::Who;
use crate::config::difference::{difference, needs_restart};
use crate::net::socket;
use crate::net::udp::clock;
use crate::net::worker::Order;
use crate::sip::token::Keys;
use crate::state::Snapshot;
use crate::state::binds::Bind;

/// Servers in one snapshot, those that leave included: positions are 16 bits wide.
const MOST_SERVERS: usize = 65_000;

impl Balancer {
    /// Reads the configuration again and takes it, whole or not at all. The outcome, in words, is for whoever asked; the
    /// log has it too.
    pub(super) async fn reload(&mut self, who: &Who) -> Result<String, String> {
        let outcome = self.try_reload(who).await;
        if let Err(faults) = &outcome {
            tracing::error!(%who, "reload refused, nothing was changed");
            faults.lines().for_each(|line| tracing::error!("{line}"));
        }
        outcome
    }

    async fn try_reload(&mut self, who: &Who) -> Result<String, String> {
        let Some(before) = self.source.clone() else {
            return Err("this configuration came from no file\n".to_owned());
        };
        let (file, source) = Source::read(&before.file).map_err(|error| error.to_string())?;
        let keys = self.new_keys(&file)?;
        let wanted = self.resolve(&file).await;
        let mut lines = difference(&self.basis.wanted, &wanted);
        let warnings = needs_restart(&self.first, &wanted);
        let mut leaving = self.basis.leaving.clone();
        leaving.note(&wanted, &self.basis.config, &self.basis.states, clock());
        lines.extend(
            (keys.fingerprint() != self.basis.keys.fingerprint()).then(|| "cluster key: seals changed".to_owned()),
        );
        let applied = self.apply(self.basis.next(file, wanted, keys, leaving)).await;
        self.names.ask(&self.basis.file);
        lines.extend(applied?);
        self.text.store(source.text, Ordering::Relaxed);
        let (was, is) = (format!("{:016x}", before.text), format!("{:016x}", source.text));
        let mut text = format!("{}: reloaded, {}\n", source.file.display(), count(lines.len()));
        tracing::info!(%who, changes = lines.len(), was, is, "reloaded");
        for line in lines {
            tracing::info!("changed: {line}");
            text += &format!("  {line}\n");
        }
        for warning in warnings {
            tracing::warn!("{warning}");
            text += &format!("  warning: {warning}\n");
        }
        self.source = Some(source);
        Ok(text)
    }

    /// The keys as the file has them now. Seals may rotate; the `route` secret must stay what it is.
    fn new_keys(&self, wanted: &crate::config::Config) -> Result<Keys, String> {
        let path = wanted.cluster_key_file.display();
        let unchanged = "nothing was changed\n";
        match read_keys(&wanted.cluster_key_file) {
            Err(error) => Err(format!("{error}{unchanged}")),
            Ok(None) => {
                Err(format!("{path}: there is no cluster key any more; put the one of this pair there; {unchanged}"))
            }
            Ok(Some(keys)) if keys.rendezvous() != self.basis.keys.rendezvous() => Err(format!(
                "{path}: its `route` secret is another one, and every running call hangs on the old one; \
                 a restart takes the new one; {unchanged}"
            )),
            Ok(Some(keys)) => Ok(keys),
        }
    }

    /// Makes the next snapshot from a new basis, with the sockets that it needs and without those that it needs no
    /// more. Nothing was touched where it fails. Says which addresses that servers see are others now.
    pub(super) async fn apply(&mut self, mut basis: Basis) -> Result<Vec<String>, String> {
        self.slow_starts.apply(&basis.config, &mut basis.states, clock());
        let previous = self.setup.snapshot.load_full();
        let next = basis.build(self.worker_count, Some(&previous));
        if next.servers.len() > MOST_SERVERS {
            let leaving = "wait until some of them have left, or reload less";
            return Err(format!("more than {MOST_SERVERS} servers, those included that leave: {leaving}\n"));
        }
        let (opened, closed) = (only_in(&next, &previous), only_in(&previous, &next));
        let (marked, moved) = (marked(&previous, &next), moved(&previous, &next));
        let unchanged = |error: &dyn std::fmt::Display| format!("{error}; nothing was changed\n");
        allow_open_files(&basis.config, self.worker_count).map_err(|error| unchanged(&error))?;
        let mut ports = open_relays(&next, Some(&previous), self.worker_count).map_err(|error| unchanged(&error))?;
        let mut sockets = self.open(&opened, &next)?;
        self.workers
            .tell(|worker| {
                opened
                    .iter()
                    .cloned()
                    .zip(sockets[worker].drain(..))
                    .map(|(bind, socket)| Order::Open(bind, socket))
                    .collect()
            })
            .await;
        // Every worker hears nobody before the first looks whether its queue is empty.
        self.workers.tell(|_| closed.iter().cloned().map(Order::Shut).collect()).await;
        self.workers.tell(|_| closed.iter().cloned().map(Order::Drain).collect()).await;
        self.basis = basis;
        self.publish(next);
        self.workers
            .tell(|worker| {
                let served = opened.iter().cloned().map(Order::Serve);
                let closed = closed.iter().cloned().map(Order::Close);
                let relayed = std::iter::once(Order::Relay(std::mem::take(&mut ports[worker])));
                served.chain(closed).chain(marked.iter().cloned().map(Order::Mark)).chain(relayed).collect()
            })
            .await;
        self.checks.end_others(&self.basis.config);
        // What the ended checks found is known before others begin with it.
        while let Ok(changed) = self.changes.try_recv() {
            self.change(changed);
        }
        self.checks.start(&self.basis.config, &self.basis.states);
        Ok(moved)
    }

    /// One socket of each new bind for each worker, by worker.
    fn open(&self, binds: &[Bind], next: &Snapshot) -> Result<Vec<Vec<socket2::Socket>>, String> {
        let mut sockets: Vec<Vec<_>> = (0..self.worker_count).map(|_| Vec::new()).collect();
        let before = self.setup.snapshot.load().binds.clone();
        for (at, bind) in binds.iter().enumerate() {
            let own = [&before, &binds[..at]].concat();
            let opened = socket::open(bind, self.worker_count, &own)
                .map_err(|error| format!("{error}; nothing was changed\n"))?;
            let frontend = &next.frontends[bind.frontend as usize].config.name;
            tracing::info!(frontend, address = %bind.address, receive_buffer = opened.receive_buffer, "listening on UDP");
            sockets.iter_mut().zip(opened.sockets).for_each(|(worker, socket)| worker.push(socket));
        }
        Ok(sockets)
    }
}

/// The binds that one snapshot has and another has not.
fn only_in(one: &Snapshot, other: &Snapshot) -> Vec<Bind> {
    one.binds.iter().filter(|bind| other.bind_of_lane(bind.lane.into()).is_none()).cloned().collect()
}

/// The binds of both whose traffic class is another one now.
fn marked(previous: &Snapshot, next: &Snapshot) -> Vec<Bind> {
    let before = |bind: &Bind| previous.bind_of_lane(bind.lane.into()).map(|at| previous.binds[at].dscp);
    next.binds.iter().filter(|bind| before(bind).is_some_and(|dscp| dscp != bind.dscp)).cloned().collect()
}

/// What servers see of each frontend that they saw otherwise before: running calls know the old address.
fn moved(previous: &Snapshot, next: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for frontend in &next.frontends {
        let Some(before) = previous.frontend(frontend.config.id).map(|at| &previous.frontends[at]) else { continue };
        for is in frontend.seen().filter(|is| before.seen().all(|was| was != *is)) {
            let gone = |was: &SocketAddr| was.is_ipv4() == is.is_ipv4() && frontend.seen().all(|other| other != *was);
            let was = before.seen().find(gone);
            lines.extend(was.map(|was| format!("frontend {}: servers see {was} -> {is}", frontend.config.name)));
        }
    }
    lines
}

fn count(changes: usize) -> String {
    match changes {
        0 => "nothing differs".to_owned(),
        1 => "1 change".to_owned(),
        changes => format!("{changes} changes"),
    }
}
