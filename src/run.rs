//! The wiring: configuration and key to a snapshot, sockets, workers, checks; and the one who writes new snapshots.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};

use crate::config::{Backend, Config, Frontend, key};
use crate::net::check::{Changed, Checker, Target};
use crate::net::udp::clock;
use crate::net::worker::{Setup, Workers};
use crate::net::{host, socket};
use crate::sip::token::{Keys, NameHash};
use crate::state::binds::Host;
use crate::state::health::Silence;
use crate::state::server::{Health, ServerState, Sign};
use crate::state::slow_start::SlowStarts;
use crate::state::snapshot::Ingredients;
use crate::state::{Reason, Shared, Snapshot, snapshot};

/// State changes that may wait for the one who writes snapshots: each server is in at most one.
const CHANGES: usize = 1024;

/// How often the log says what was dropped and refused, where something was.
const TELL: Duration = Duration::from_secs(60);

/// How often old snapshots and silent servers are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why the balancer could not start, with what to do.
#[derive(Debug)]
pub enum StartError {
    /// The configuration or the key file is faulty: exit code 78.
    Config(String),
    /// The host refused something: exit code 1.
    Host(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Config(text) | Self::Host(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for StartError {}

/// Reads a configuration file.
///
/// # Errors
/// Every fault of it, ready to be printed.
pub fn read_config(path: &Path) -> Result<Config, StartError> {
    let text = fs::read_to_string(path).map_err(|error| {
        StartError::Config(format!("{}: {error}; name the configuration with -c\n", path.display()))
    })?;
    Config::parse(&text).map_err(|faults| {
        let count = match faults.len() {
            1 => "1 error".to_owned(),
            count => format!("{count} errors"),
        };
        StartError::Config(format!(
            "{}{}: {count}, nothing was changed\n",
            faults.render(&path.to_string_lossy(), &text),
            path.display()
        ))
    })
}

/// Reads the cluster key; `None` where there is no such file.
///
/// # Errors
/// Its faults, without the secrets.
pub fn read_keys(path: &Path) -> Result<Option<Keys>, StartError> {
    let name = path.to_string_lossy();
    match fs::read_to_string(path) {
        Ok(text) => key::parse(&text)
            .map(Some)
            .map_err(|faults| StartError::Config(faults.render_secret(&name, &text).to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StartError::Config(format!("{name}: {error}; it must be readable for this user\n"))),
    }
}

/// Reads the cluster key, or makes one where there is none.
///
/// # Errors
/// Those of [`read_keys`], and where a new file cannot be written.
pub fn read_or_make_keys(path: &Path) -> Result<Keys, StartError> {
    if let Some(keys) = read_keys(path)? {
        return Ok(keys);
    }
    let cannot = |error: &dyn fmt::Display| {
        let path = path.display();
        StartError::Config(format!(
            "{path}: cannot make a cluster key: {error}; set `cluster_key_file` in [global] to a file in a directory that this user may write\n"
        ))
    };
    let text = key::generate(random().map_err(|e| cannot(&e))?, random().map_err(|e| cannot(&e))?);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| cannot(&e))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| cannot(&e))?;
    tracing::info!(file = %path.display(), "made a new cluster key; every node of a pair needs this same file");
    key::parse(&text).map_err(|_| StartError::Config("a key of our own making cannot be read".into()))
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map(|()| bytes)
}

/// A running balancer. Lives in a tokio runtime, which carries checks and control; messages have threads of their own.
pub struct Balancer {
    config: Config,
    keys: Keys,
    host: Host,
    states: HashMap<NameHash, ServerState>,
    setup: Setup,
    /// Snapshots that a worker may still hold: the last drop of one must not fall on a worker.
    retired: Vec<Arc<Snapshot>>,
    workers: Workers,
    worker_count: usize,
    checkers: HashMap<NameHash, Checker>,
    silence: HashMap<NameHash, Silence>,
    slow_starts: SlowStarts,
    /// What the log has said of each [`Reason`].
    told: [u64; Reason::ALL.len()],
    changes: mpsc::Receiver<Changed>,
}

impl Balancer {
    /// Opens the sockets and starts workers and checks. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Where a socket or a thread is refused.
    pub fn start(config: Config, keys: Keys) -> Result<Self, StartError> {
        let refused = |error: &dyn fmt::Display| StartError::Host(format!("{error}\n"));
        let worker_count = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let node = u16::from_be_bytes(random().map_err(|e| refused(&e))?);
        let host = host::ask(&config, node);
        let states = HashMap::new();
        let snapshot = Snapshot::build(
            &Ingredients { config: &config, keys: keys.clone(), host: &host, states: &states, workers: worker_count },
            None,
        );
        let mut sockets: Vec<Vec<_>> = (0..worker_count).map(|_| Vec::new()).collect();
        for bind in &snapshot.binds {
            let opened = socket::open(bind, worker_count).map_err(|e| refused(&e))?;
            let frontend = &snapshot.frontends[bind.frontend as usize].config.name;
            tracing::info!(frontend, address = %bind.address, receive_buffer = opened.receive_buffer, "listening on UDP");
            for (worker, socket) in sockets.iter_mut().zip(opened.sockets) {
                worker.push(socket);
            }
        }
        let pins = config.backends.iter().map(|backend| backend.pin.size).sum();
        let setup = Setup {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            shared: Arc::new(Shared::new(pins, worker_count)),
            woken: Arc::new(Notify::new()),
        };
        let workers = Workers::start(&setup, sockets).map_err(|e| refused(&e))?;
        let (sender, changes) = mpsc::channel(CHANGES);
        let checkers = start_checks(&config, u64::from_be_bytes(random().map_err(|e| refused(&e))?), &sender);
        tracing::info!(workers = worker_count, key = format_args!("{:016x}", keys.fingerprint()), "started");
        Ok(Self {
            config,
            keys,
            host,
            states,
            setup,
            retired: Vec::new(),
            workers,
            worker_count,
            checkers,
            silence: HashMap::new(),
            slow_starts: SlowStarts::default(),
            told: [0; Reason::ALL.len()],
            changes,
        })
    }

    /// What the workers see: for whoever shows it.
    pub fn view(&self) -> (Arc<ArcSwap<Snapshot>>, Arc<Shared>) {
        (Arc::clone(&self.setup.snapshot), Arc::clone(&self.setup.shared))
    }

    /// Keeps the snapshots up to date, for ever.
    pub async fn serve(&mut self) {
        let (mut look, mut tell) = (tokio::time::interval(LOOK), tokio::time::interval(TELL));
        loop {
            tokio::select! {
                Some(changed) = self.changes.recv() => self.change(changed),
                () = self.setup.woken.notified() => self.pass_signs_on(),
                _ = tell.tick() => tell_drops(&self.setup.snapshot.load(), &mut self.told),
                _ = look.tick() => {
                    self.drop_retired();
                    self.suspect_silent();
                    self.keep_calls();
                }
            }
        }
    }

    /// Finishes what is in flight and ends.
    pub fn stop(mut self) {
        drop(self.checkers);
        self.workers.stop();
        tell_drops(&self.setup.snapshot.load(), &mut self.told);
    }

    /// A server's health changed: a new snapshot, and a line in the log.
    fn change(&mut self, Changed { id, transition }: Changed) {
        self.states.entry(id).or_default().health = transition.to;
        let snapshot = self.setup.snapshot.load();
        let name = snapshot.server(id).map_or("?", |at| snapshot.servers[at].name.as_str());
        let (from, to, reason) = (transition.from.word(), transition.to.word(), transition.why);
        match transition.to {
            Health::Down | Health::Dead => {
                tracing::warn!(server = name, from, to, after_checks = transition.checks, %reason, "server state");
            }
            _ => tracing::info!(server = name, from, to, after_checks = transition.checks, %reason, "server state"),
        }
        let backend = snapshot.server(id).map(|at| snapshot.servers[at].backend as usize);
        let was_empty = backend.is_some_and(|at| snapshot.backends[at].balance.is_empty());
        drop(snapshot);
        self.publish();
        let snapshot = self.setup.snapshot.load();
        let Some(backend) = backend.and_then(|at| snapshot.backends.get(at)) else { return };
        let name = &backend.config.name;
        match (was_empty, backend.balance.is_empty()) {
            (false, true) => tracing::error!(backend = name, "no server takes new calls"),
            (true, false) => tracing::info!(backend = name, "new calls are taken again"),
            _ => {}
        }
    }

    /// What is done once a second so that calls are counted as they are, and who starts slowly gets his next part.
    fn keep_calls(&mut self) {
        let now = clock();
        self.setup.snapshot.load().keep_calls(&self.setup.shared.pins, now);
        if self.slow_starts.apply(&self.config, &mut self.states, now) {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.slow_starts.apply(&self.config, &mut self.states, clock());
        let Self { config, keys, host, states, worker_count, .. } = self;
        let before = self.setup.snapshot.load_full();
        let ingredients = Ingredients { config, keys: keys.clone(), host, states, workers: *worker_count };
        let next = Snapshot::build(&ingredients, Some(&before));
        self.setup.snapshot.store(Arc::new(next));
        self.retired.push(before);
    }

    /// Workers left signs at servers: their checks follow them up. A server that is not checked has nobody who could
    /// take a suspicion back, so it stays as it is.
    fn pass_signs_on(&self) {
        let snapshot = self.setup.snapshot.load();
        for server in &snapshot.servers {
            for sign in server.live.take_signs() {
                if let Some(checker) = self.checkers.get(&server.id) {
                    checker.sign(sign);
                }
            }
        }
    }

    /// A server that answers nothing of what it gets is checked at once, whatever its interval.
    fn suspect_silent(&mut self) {
        let snapshot = self.setup.snapshot.load();
        for server in &snapshot.servers {
            let counters = &server.live.counters;
            let answers: u64 = (0..6).map(|class| counters.sum(|of| &of.responses[class])).sum();
            let said = answers + counters.sum(|of| &of.sent);
            if self.silence.entry(server.id).or_default().look(counters.sum(|of| &of.requests), said)
                && let Some(checker) = self.checkers.get(&server.id)
            {
                checker.sign(Sign::Silent);
            }
        }
    }

    fn drop_retired(&mut self) {
        let workers = &self.setup.shared.workers;
        let oldest = (0..self.worker_count).map(|worker| workers.of(worker).generation.get()).min().unwrap_or(u64::MAX);
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

fn start_checks(config: &Config, seed: u64, changes: &mpsc::Sender<Changed>) -> HashMap<NameHash, Checker> {
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
                seed: seed ^ u64::from(server.id.0) << 17,
            };
            (server.id, Checker::start(target, changes.clone()))
        })
        .collect()
}

/// The `inside` address that a backend's servers see, of the first frontend that uses it.
fn inside_for(config: &Config, backend: &Backend, server: IpAddr) -> Option<IpAddr> {
    let uses = |frontend: &&Frontend| {
        let of = |at: usize| config.backends[at].name == backend.name;
        of(frontend.backend) || frontend.routes.iter().any(|route| of(route.backend))
    };
    config.frontends.iter().filter(uses).find_map(|frontend| frontend.inside.like(server))
}
