//! From files to a running balancer.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};

use super::checks::Checks;
use super::leaving::Leaving;
use super::names::Names;
use super::{Balancer, Basis, StartError};
use crate::config::{Config, OpenFiles, fingerprint, key};
use crate::net::worker::{Setup, Workers};
use crate::net::{host, socket};
use crate::sip::token::Keys;
use crate::state::slow_start::SlowStarts;
use crate::state::watch::Watch;
use crate::state::{Reason, Shared, Snapshot};

/// State changes that may wait for the one who writes snapshots: each server is in at most one.
const CHANGES: usize = 1024;

/// Commands that may wait for the same one: a person gives one at a time, a program a few.
const REQUESTS: usize = 16;

/// Where a configuration was read, and [`fingerprint`] of its text.
#[derive(Clone, Debug)]
pub struct Source {
    pub file: PathBuf,
    pub text: u64,
}

impl Source {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Every fault of it, ready to be printed.
    pub fn read(path: &Path) -> Result<(Config, Self), StartError> {
        let text = fs::read_to_string(path).map_err(|error| {
            StartError::Config(format!("{}: {error}; name the configuration with -c\n", path.display()))
        })?;
        let config = Config::parse(&text).map_err(|faults| {
            let count = match faults.len() {
                1 => "1 error".to_owned(),
                count => format!("{count} errors"),
            };
            StartError::Config(format!(
                "{}{}: {count}, nothing was changed\n",
                faults.render(&path.to_string_lossy(), &text),
                path.display()
            ))
        })?;
        Ok((config, Self { file: path.to_owned(), text: fingerprint(&text) }))
    }
}

/// The configuration of [`Source::read`] alone.
///
/// # Errors
/// Every fault of it, ready to be printed.
pub fn read_config(path: &Path) -> Result<Config, StartError> {
    Source::read(path).map(|(config, _)| config)
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

pub(super) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map(|()| bytes)
}

/// Each port of a relay's range, and each flow, is an open file: too few would be found out under load.
///
/// # Errors
/// What to do where the host does not allow so many.
pub(super) fn allow_open_files(config: &Config, workers: usize) -> Result<(), String> {
    let Some(files) = config.open_files(workers) else { return Ok(()) };
    host::allow_open_files(files.all).map_err(|_| too_few_files(files))
}

/// What to do where a process may not open so many files.
pub fn too_few_files(files: OpenFiles) -> String {
    let (OpenFiles { all, ports, flows }, most) = (files, host::most_open_files());
    format!(
        "relays may have {all} files open ({ports} ports, {flows} flows), and this process may have {most}: \
         raise LimitNOFILE= in the unit (`ulimit -Hn` in a shell), or lower `max_flows` in [frontend.limits]"
    )
}

/// Opens the sockets of relays that the generation before had not, for each worker a list.
///
/// # Errors
/// Where one is refused.
pub(super) fn open_relays(
    snapshot: &Snapshot,
    before: Option<&Snapshot>,
    workers: usize,
) -> Result<Vec<Vec<socket::Port>>, socket::OpenError> {
    let mut all: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    let is_open = |bound| before.is_some_and(|before| before.relay_at(bound).is_some());
    for relay in &snapshot.relays {
        let opened = socket::open_relay(relay, workers, is_open)?;
        if opened.iter().any(|ports| !ports.is_empty()) {
            let frontend = &snapshot.frontends[relay.frontend as usize].config.name;
            tracing::info!(frontend, ip = %relay.ip, ports = %relay.ports, "relaying UDP");
        }
        all.iter_mut().zip(opened).for_each(|(ports, opened)| ports.extend(opened));
    }
    Ok(all)
}

impl Balancer {
    /// Asks for the names of servers, opens the sockets, and starts workers and checks. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Where a socket or a thread is refused.
    pub async fn start(file: Config, keys: Keys, source: Option<Source>) -> Result<Self, StartError> {
        let refused = |error: &dyn fmt::Display| StartError::Host(format!("{error}\n"));
        let worker_count = match file.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        allow_open_files(&file, worker_count).map_err(|e| refused(&e))?;
        let node = u16::from_be_bytes(random().map_err(|e| refused(&e))?);
        let mut names = Names::new(u64::from_be_bytes(random().map_err(|e| refused(&e))?));
        let wanted = names.resolve(&file).await;
        let basis = Basis {
            host: host::ask(&wanted, node),
            file,
            config: wanted.clone(),
            wanted,
            leaving: Leaving::default(),
            keys,
            states: HashMap::new(),
        };
        let snapshot = basis.build(worker_count, None);
        let mut sockets: Vec<Vec<_>> = (0..worker_count).map(|_| Vec::new()).collect();
        for bind in &snapshot.binds {
            let opened = socket::open(bind, worker_count).map_err(|e| refused(&e))?;
            let frontend = &snapshot.frontends[bind.frontend as usize].config.name;
            tracing::info!(frontend, address = %bind.address, receive_buffer = opened.receive_buffer, "listening on UDP");
            for (worker, socket) in sockets.iter_mut().zip(opened.sockets) {
                worker.push(socket);
            }
        }
        let ports = open_relays(&snapshot, None, worker_count).map_err(|e| refused(&e))?;
        let pins = basis.config.backends.iter().map(|backend| backend.pin.size).sum();
        let setup = Setup {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            shared: Arc::new(Shared::new(pins, worker_count)),
            woken: Arc::new(Notify::new()),
        };
        let workers = Workers::start(&setup, sockets).map_err(|e| refused(&e))?;
        workers.give(ports);
        let (sender, changes) = mpsc::channel(CHANGES);
        let (door, requests) = mpsc::channel(REQUESTS);
        let mut checks = Checks::new(u64::from_be_bytes(random().map_err(|e| refused(&e))?), sender);
        checks.start(&basis.config, &basis.states);
        let key = format_args!("{:016x}", basis.keys.fingerprint());
        tracing::info!(workers = worker_count, key, "started");
        Ok(Self {
            first: basis.wanted.clone(),
            basis,
            text: Arc::new(AtomicU64::new(source.as_ref().map_or(0, |source| source.text))),
            source,
            setup,
            retired: Vec::new(),
            workers,
            worker_count,
            checks,
            names,
            changes,
            requests,
            door,
            watch: Watch::default(),
            slow_starts: SlowStarts::default(),
            told: [0; Reason::ALL.len()],
        })
    }
}
