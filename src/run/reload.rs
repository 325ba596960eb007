//! A new configuration for a running balancer. Everything is validated and opened before anything is touched.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::control::LOOK;
use super::start::{Source, allow_open_files, open_binds, open_relays, room_for_servers};
use super::{Balancer, Basis, read_keys, service};
use crate::admin::Who;
use crate::config::difference::{difference, needs_restart, refused};
use crate::config::{Backend, Config};
use crate::net::inherit::Inherited;
use crate::net::tls::{Material, News};
use crate::net::udp::clock;
use crate::net::worker::Order;
use crate::sip::Transport;
use crate::sip::token::Keys;
use crate::state::Snapshot;
use crate::state::binds::Bind;

/// Longer than a disk that works needs for hundreds of certificates.
const PATIENCE: Duration = Duration::from_secs(5);

impl Balancer {
    /// Reads the configuration again and takes it, whole or not at all. The outcome, in words, is for whoever asked; the
    /// log has it too.
    pub(super) async fn reload(&mut self, who: &Who) -> Result<String, String> {
        let before = self.name_of_source();
        self.note_reload(Some(who));
        let mut read = String::new();
        let outcome = self.try_reload(who, &mut read).await;
        self.note_reload(None);
        let after = if outcome.is_ok() { self.name_of_source() } else { read };
        if let Err(faults) = &outcome {
            tracing::error!(%who, "reload refused, nothing was changed");
            faults.lines().for_each(|line| tracing::error!("{line}"));
        }
        self.journal.reloaded(who, [before, after], &outcome);
        if outcome.is_ok() {
            self.keep(who).await;
        }
        outcome
    }

    /// `read`: the name of what the file holds, once somebody knows.
    async fn try_reload(&mut self, who: &Who, read: &mut String) -> Result<String, String> {
        let Some(before) = self.source.clone() else {
            return Err("this configuration came from no file\n".to_owned());
        };
        let (file, source, keys) = self.read_anew(before.clone(), read).await?;
        let material = self.prepare_tls(&file).await?;
        let wanted = self.resolve(&file).await;
        let mut lines = difference(&self.basis.wanted, &wanted);
        let mut warnings = needs_restart(&self.first, &wanted);
        warnings.extend(tables_that_stay(&self.setup.snapshot.load(), &wanted));
        // The file is good, but who had another name before leaves, and nobody takes his place yet.
        warnings.extend(wanted.backends.iter().flat_map(Backend::without_address));
        let mut refused = refused(&self.basis.config, &wanted);
        // Before anything is compared server by server.
        refused.extend(room_for_servers(&wanted).err().map(|error| error.trim_end().to_owned()));
        if !refused.is_empty() {
            self.names.ask(&self.basis.file);
            return Err(format!("{}\nnothing was changed\n", refused.join("\n")));
        }
        let http = match self.http.prepare(file.http.as_ref()) {
            Ok(http) => http,
            Err(error) => {
                self.names.ask(&self.basis.file);
                return Err(format!("{error}\nnothing was changed\n"));
            }
        };
        let mut leaving = self.basis.leaving.clone();
        leaving.note(&wanted, &self.basis.config, &self.basis.states, clock());
        lines.extend(seals(&self.basis.keys, &keys));
        let basis = self.basis.next(file, wanted, keys, leaving);
        let applied = self.apply(basis, Some(material)).await;
        self.names.ask(&self.basis.file);
        lines.extend(applied?);
        self.http.put(http);
        warnings.extend(self.tls.warnings().into_iter().chain(source.warnings.iter().cloned()));
        self.text.store(source.text, Ordering::Relaxed);
        self.shown.tell(self.http.node().auth.identity(), &source.content);
        self.shown.following().set(&self.basis.file.follow);
        let (was, is) = (before.name(), source.name());
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

    /// What a thread of its own reads. Meanwhile what checks find and workers see counts.
    ///
    /// # Errors
    /// `what` is not read in five seconds: in words for whoever asked for the reload.
    pub(super) async fn read_from_disk<T: Send + 'static>(
        &mut self,
        what: &str,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let mut read = pin!(tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(read)));
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                read = &mut read => return match read {
                    Err(_) => Err(format!("{what}: the disk does not answer; nothing was changed\n")),
                    Ok(read) => read.map_err(|error| format!("{what}: {error}; nothing was changed\n")),
                },
                Some(news) = self.news.recv() => self.take(news),
                () = self.setup.woken.notified() => self.pass_signs_on(),
                _ = look.tick() => self.look(),
            }
        }
    }

    /// The configuration and the keys as they are written now.
    async fn read_anew(&mut self, before: Source, read: &mut String) -> Result<(Config, Source, Keys), String> {
        let path = before.file.clone();
        let name = path.display().to_string();
        let anew = move || -> Result<_, String> {
            if !path.exists() {
                // Whoever sent a signal can name no other.
                return Err(format!("{}: the file is gone; ", path.display()));
            }
            let (file, source) = Source::read(&path).map_err(|error| error.to_string())?;
            let keys = read_keys(&file.cluster_key_file).map_err(|error| error.to_string());
            Ok((file, source, keys))
        };
        let (on_disk, anew) = self.read_from_disk(&name, move || (before.name_on_disk(), anew())).await?;
        *read = on_disk;
        let (file, source, keys) = anew.map_err(|error| format!("{error}nothing was changed\n"))?;
        let keys = self.same_route(&file, keys)?;
        Ok((file, source, keys))
    }

    /// The keys as the file has them now. Seals may rotate; the `route` secret must stay what it is.
    fn same_route(&self, wanted: &Config, read: Result<Option<Keys>, String>) -> Result<Keys, String> {
        let path = wanted.cluster_key_file.display();
        let unchanged = "nothing was changed\n";
        match read {
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
    /// more, and with certificates where these are others. Nothing was touched where it fails. Says which certificates, and
    /// which addresses that servers see, are others now.
    pub(super) async fn apply(&mut self, mut basis: Basis, tls: Option<Material>) -> Result<Vec<String>, String> {
        let mut slow_starts = self.slow_starts.clone();
        slow_starts.apply(&basis.config, &mut basis.states, clock());
        let previous = self.setup.snapshot.load_full();
        room_for_servers(&basis.config)?;
        let next = basis.build(self.worker_count, Some(&previous));
        let (opened, closed) = (only_in(&next, &previous), only_in(&previous, &next));
        let (marked, moved) = (marked(&previous, &next), moved(&previous, &next));
        let unchanged = |error: &dyn std::fmt::Display| format!("{error}; nothing was changed\n");
        let room = allow_open_files(&basis.config, self.worker_count).map_err(|error| unchanged(&error))?;
        let nothing = &mut Inherited::default();
        let mut ports =
            open_relays(&next, Some(&previous), self.worker_count, nothing).map_err(|error| unchanged(&error))?;
        let mut sockets = open_binds(&next, &opened, &previous.binds, self.worker_count, nothing)
            .map_err(|error| unchanged(&error))?;
        service::keep(&opened, &sockets, &ports);
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
        service::forget(&closed, &previous, &next);
        // Before anybody shakes hands at a new address.
        let news = self.tls.put(tls, &basis.config);
        (self.basis, self.slow_starts) = (basis, slow_starts);
        self.setup.shared.connections.set_room(room);
        self.publish(next);
        self.workers
            .tell(|worker| {
                let served = opened.iter().cloned().map(Order::Serve);
                let closed = closed.iter().cloned().map(Order::Close);
                let relayed = std::iter::once(Order::Relay(std::mem::take(&mut ports[worker])));
                served.chain(closed).chain(marked.iter().cloned().map(Order::Mark)).chain(relayed).collect()
            })
            .await;
        self.checks.end_others(&self.basis.config, &self.basis.states);
        // What the ended checks found is known before others begin with it.
        self.take_all();
        self.checks.start(&self.basis.config, &self.basis.states);
        let taken = news.into_iter().filter_map(|news| if let News::Taken(what) = news { Some(what) } else { None });
        Ok(taken.chain(moved).collect())
    }
}

/// Stick tables that hold what is wanted, but not as much of it.
fn tables_that_stay(snapshot: &Snapshot, wanted: &Config) -> Vec<String> {
    let stays = |wanted: &Backend| {
        let before = snapshot.backends.iter().find(|before| before.config.name == wanted.name)?;
        let (stays, is) = (before.stick_stays_at(wanted)?, wanted.stick.as_ref()?.size);
        Some(format!("the stick table of {} stays at {stays} keys: a restart makes it {is}", wanted.name))
    };
    wanted.backends.iter().filter_map(stays).collect()
}

/// Which seals are accepted and which is used, where that is otherwise now.
fn seals(before: &Keys, after: &Keys) -> Option<String> {
    let ((ids, used), (_, was_used)) = (after.seals(), before.seals());
    let same = before.fingerprint() == after.fingerprint() && used == was_used;
    let ids = || ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ");
    (!same).then(|| format!("cluster key: seals changed: {} accepted, {used} used", ids()))
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
        for (transport, is) in frontend.seen().filter(|is| before.seen().all(|was| was != *is)) {
            let gone = |(other, was): &(Transport, SocketAddr)| {
                *other == transport && was.is_ipv4() == is.is_ipv4() && frontend.seen().all(|is| is != (*other, *was))
            };
            let was = before.seen().find(gone);
            lines.extend(was.map(|(_, was)| format!("frontend {}: servers see {was} -> {is}", frontend.config.name)));
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
