//! From files to a running balancer.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use socket2::Socket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::certificates::{read_tls, tell_warnings};
use super::checks::Checks;
use super::control::tell_empty;
use super::names::Names;
use super::warnings::warnings;
use super::{Balancer, Basis, StartError, service};
use crate::admin::View;
use crate::admin::follow::Follower;
use crate::admin::http::{Doors, Node};
use crate::admin::journal::{Journal, Kind};
use crate::config::{Config, OpenFiles, fingerprint, key};
use crate::net::inherit::Inherited;
use crate::net::udp::clock;
use crate::net::worker::{Setup, Workers};
use crate::net::{host, socket};
use crate::sip::token::Keys;
use crate::state::binds::Bind;
use crate::state::slow_start::SlowStarts;
use crate::state::watch::Watch;
use crate::state::{Shared, Snapshot};

/// State changes that may wait for the one who writes snapshots: each server is in at most one.
const CHANGES: usize = 1024;

/// Commands that may wait for the same one: a person gives one at a time, a program a few.
const REQUESTS: usize = 16;

/// A list for each worker.
type ByWorker<T> = Vec<Vec<T>>;

/// Where a configuration was read, and [`fingerprint`] of its text.
#[derive(Clone, Debug)]
pub struct Source {
    pub file: PathBuf,
    pub text: u64,
    /// The text itself, for who asks what is in force.
    pub content: Arc<str>,
    /// What may be a slip in it, one line each.
    pub warnings: Vec<String>,
}

impl Source {
    /// Reads a configuration file, and looks at what it names.
    ///
    /// # Errors
    /// Every fault of it, ready to be printed.
    pub fn read(path: &Path) -> Result<(Config, Self), StartError> {
        let text = fs::read_to_string(path).map_err(|error| StartError::Config(unreadable(path, &error)))?;
        Self::of(path, text)
    }

    /// The same for a text that is to stand in this file.
    ///
    /// # Errors
    /// Every fault of it, ready to be printed.
    pub fn of(path: &Path, text: String) -> Result<(Config, Self), StartError> {
        let name = path.display();
        let config = Config::parse(&text).map_err(|faults| {
            let count = match faults.len() {
                1 => "1 error".to_owned(),
                count => format!("{count} errors"),
            };
            StartError::Config(format!("{}{name}: {count}\n", faults.render(&path.to_string_lossy(), &text)))
        })?;
        let warnings = warnings(path, &text, &config);
        let (file, text, content) = (path.to_owned(), fingerprint(&text), text.into());
        Ok((config, Self { file, text, content, warnings }))
    }

    /// The name of what the file holds now; nothing where nobody can read it.
    pub(super) fn name_on_disk(&self) -> String {
        fs::read(&self.file).map_or_else(|_| String::new(), |text| format!("{:016x}", fingerprint(text)))
    }

    /// Its text's name, as it is shown.
    pub fn name(&self) -> String {
        format!("{:016x}", self.text)
    }
}

/// What to do about a configuration that cannot be read.
fn unreadable(path: &Path, error: &io::Error) -> String {
    let name = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("{name}: {error}; name the configuration with -c\n"),
        io::ErrorKind::PermissionDenied => format!("{name}: this user may not read it\n"),
        io::ErrorKind::IsADirectory => format!("{name}: it is a directory; name a file in it\n"),
        io::ErrorKind::InvalidData => format!("{name}: it is no text: TOML is UTF-8\n"),
        _ => format!("{name}: {error}\n"),
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

/// Bytes that nobody can guess.
///
/// # Errors
/// Where the kernel has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map(|()| bytes)
}

/// Numbers that no other process has.
fn seed<const N: usize>() -> Result<[u8; N], StartError> {
    random().map_err(|error| StartError::Host(format!("{error}\n")))
}

/// Each socket is an open file, and so is each flow of a relay: too few would be found out under load, by checks that find
/// nobody. Says how many are left for the connections of clients.
///
/// # Errors
/// What to do where the host does not allow so many.
pub(super) fn allow_open_files(config: &Config, workers: usize) -> Result<usize, String> {
    let files = config.open_files(workers);
    service::tell_too_many(files.listening);
    let room = host::allow_open_files(files.all, files.connections).map_err(|_| too_few_files(files))?;
    if room < files.connections {
        let OpenFiles { all, connections, .. } = files;
        tracing::warn!(
            connections,
            room,
            "frontends may have more connections than there may be open files: more than `room` are not let in; raise \
             LimitNOFILE= to {} in the unit, or lower `max_connections`",
            all + connections
        );
    }
    Ok(room)
}

/// Positions of servers in a snapshot are 16 bits wide.
const MOST_SERVERS: usize = 65_000;

/// Whether one snapshot can have all servers of a configuration: those that leave and those that names bring count, too.
///
/// # Errors
/// What to do where there are too many.
pub fn room_for_servers(config: &Config) -> Result<(), String> {
    let servers: usize = config.backends.iter().map(|backend| backend.servers.len()).sum();
    if servers <= MOST_SERVERS {
        return Ok(());
    }
    Err(format!(
        "{servers} servers, more than {MOST_SERVERS}, which is the most; those count that leave and each address of a name: \
         write fewer, or wait until some have left\n"
    ))
}

/// What to do where a process may not open so many files.
pub fn too_few_files(files: OpenFiles) -> String {
    let (OpenFiles { all, ports, flows, .. }, most) = (files, host::most_open_files());
    let (of_relays, or) = match flows {
        0 => (String::new(), ""),
        _ => (format!(" ({ports} ports, {flows} flows)"), ", or lower `max_flows` in [frontend.limits]"),
    };
    format!(
        "this configuration may have {all} files open{of_relays}, and this process may have {most}: \
         raise LimitNOFILE= in the unit (`ulimit -Hn` in a shell){or}"
    )
}

/// Opens one socket of each of these binds of a snapshot for each worker, by worker, those first that are inherited. `before`
/// are those that are open.
///
/// # Errors
/// Where one is refused.
pub(super) fn open_binds(
    snapshot: &Snapshot,
    binds: &[Bind],
    before: &[Bind],
    workers: usize,
    inherited: &mut Inherited,
) -> Result<ByWorker<Socket>, socket::OpenError> {
    let mut all: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (at, bind) in binds.iter().enumerate() {
        let opened = socket::open(bind, workers, &[before, &binds[..at]].concat(), inherited)?;
        let frontend = &snapshot.frontends[bind.frontend as usize].config.name;
        let (transport, receive_buffer) = (bind.transport.name(), opened.receive_buffer);
        tracing::info!(frontend, transport, address = %bind.address, receive_buffer, "listening");
        all.iter_mut().zip(opened.sockets).for_each(|(sockets, socket)| sockets.push(socket));
    }
    Ok(all)
}

/// Opens the sockets of relays that the generation before had not, for each worker a list.
///
/// # Errors
/// Where one is refused.
pub(super) fn open_relays(
    snapshot: &Snapshot,
    before: Option<&Snapshot>,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<ByWorker<socket::Port>, socket::OpenError> {
    let mut all: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    let is_open = |bound| before.is_some_and(|before| before.relay_at(bound).is_some());
    for relay in &snapshot.relays {
        let opened = socket::open_relay(relay, workers, is_open, inherited)?;
        if opened.iter().any(|ports| !ports.is_empty()) {
            let frontend = &snapshot.frontends[relay.frontend as usize].config.name;
            tracing::info!(frontend, ip = %relay.ip, ports = %relay.ports, "relaying UDP");
        }
        all.iter_mut().zip(opened).for_each(|(ports, opened)| ports.extend(opened));
    }
    Ok(all)
}

/// Opens what a snapshot needs, by worker: the sockets of binds and those of relays. Those of the process before go on.
///
/// # Errors
/// Where one is refused.
fn open_all(
    snapshot: &Snapshot,
    workers: usize,
) -> Result<(ByWorker<Socket>, ByWorker<socket::Port>), socket::OpenError> {
    let mut inherited = service::inherited();
    let sockets = open_binds(snapshot, &snapshot.binds, &[], workers, &mut inherited)?;
    let ports = open_relays(snapshot, None, workers, &mut inherited)?;
    // In this order: sockets of workers that are no more have the name of those that stay.
    service::let_go(inherited);
    service::keep(&snapshot.binds, &sockets, &ports);
    Ok((sockets, ports))
}

/// What happened begins here.
fn begin_journal(setup: &Setup) -> Arc<Journal> {
    let journal = Arc::new(Journal::default());
    journal.records().look(&setup.snapshot.load(), clock());
    journal.note(Kind::Start, "", None, format!("trunkline {} started", env!("CARGO_PKG_VERSION")));
    journal
}

/// What is shown of it.
fn show(setup: &Setup, workers: usize, text: &Arc<AtomicU64>, journal: &Arc<Journal>) -> View {
    let (snapshot, shared) = (Arc::clone(&setup.snapshot), Arc::clone(&setup.shared));
    View::new(snapshot, shared, workers, Arc::clone(text), Arc::clone(journal), Arc::clone(&setup.tls))
}

fn tell_started(workers: usize, keys: &Keys, shown: &View) {
    let key = format_args!("{:016x}", keys.fingerprint());
    tracing::info!(workers, key, "started");
    service::ready();
    service::feed_watchdog(shown.clone());
}

/// How many threads carry messages.
fn threads(file: &Config) -> usize {
    match file.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

impl Balancer {
    /// Asks for the names of servers, opens the sockets, and starts workers and checks. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Where certificates are faulty, or a socket or a thread is refused.
    pub async fn start(file: Config, keys: Keys, source: Option<Source>) -> Result<Self, StartError> {
        let refused = |error: &dyn fmt::Display| StartError::Host(format!("{error}\n"));
        let worker_count = threads(&file);
        let tls = Arc::new(read_tls(&file)?);
        tell_warnings(&tls);
        source.iter().flat_map(|source| &source.warnings).for_each(|warning| tracing::warn!("{warning}"));
        let room = allow_open_files(&file, worker_count).map_err(|e| refused(&e))?;
        let node = u16::from_be_bytes(seed()?);
        let instance = NonZeroU32::new(u32::from_be_bytes(seed()?)).unwrap_or(NonZeroU32::MAX);
        let mut names = Names::new(u64::from_be_bytes(seed()?));
        let wanted = names.resolve(&file).await;
        room_for_servers(&wanted).map_err(StartError::Config)?;
        let basis = Basis::first(file, wanted, keys, node);
        let snapshot = basis.build(worker_count, None);
        tell_empty(None, &snapshot);
        let (sockets, ports) = open_all(&snapshot, worker_count).map_err(|e| refused(&e))?;
        let pins = basis.config.backends.iter().map(|backend| backend.pin.size).sum();
        let shared = Shared { instance, ..Shared::new(pins, worker_count) };
        shared.connections.set_room(room);
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let setup = Setup { snapshot, shared: Arc::new(shared), woken: Arc::default(), tls: Arc::clone(&tls) };
        let (door, requests) = mpsc::channel(REQUESTS);
        let text = Arc::new(AtomicU64::new(source.as_ref().map_or(0, |source| source.text)));
        let journal = begin_journal(&setup);
        let shown = show(&setup, worker_count, &text, &journal);
        let mut http = Doors::new(Node::new(&shown, &door, seed()?));
        let opened = http.prepare(basis.file.http.as_ref()).map_err(|e| refused(&e))?;
        let workers = Workers::start(&setup, sockets).map_err(|e| refused(&e))?;
        workers.give(ports);
        http.put(opened);
        shown.tell(http.node().auth.identity(), source.as_ref().map_or("", |source| &source.content));
        let follower = Follower::start(&shown, &basis.file.follow);
        let (sender, news) = mpsc::channel(CHANGES);
        let mut checks = Checks::new(u64::from_be_bytes(seed()?), Arc::clone(&tls), sender);
        checks.start(&basis.config, &basis.states);
        tell_started(worker_count, &basis.keys, &shown);
        Ok(Self {
            follower,
            first: basis.wanted.clone(),
            basis,
            text,
            source,
            setup,
            retired: Vec::new(),
            workers,
            worker_count,
            checks,
            names,
            tls,
            looks: JoinSet::new(),
            walks: JoinSet::new(),
            news,
            requests,
            door,
            watch: Watch::default(),
            slow_starts: SlowStarts::default(),
            shown,
            journal,
            http,
            told: super::told::Told::default(),
            roles: None,
            sentence: String::new(),
            kept: None,
        })
    }
}
