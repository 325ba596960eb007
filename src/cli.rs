//! The command line. What is for people goes to stderr, what is for programs to stdout.

mod door;
mod events;
mod pages;
mod pair;
mod watch;

use std::io::{self, BufRead, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::admin::runtime_socket::RuntimeSocket;
use crate::admin::{Request, Who, Wish, local, roles};
use crate::balance::Algorithm;
use crate::config::{Backend, Config, Frontend, OpenFiles, RUNTIME_SOCKET, StickOn};
use crate::demo::DemoArgs;
use crate::load;
use crate::load::args::LoadCommand;
use crate::net::host;
use crate::net::tls::Tls;
use crate::proxy::explain;
use crate::proxy::relay::source_key;
use crate::run::{
    Balancer, Source, StartError, read_config, read_keys, read_or_make_keys, read_tls, too_few_files, with_addresses,
};
use crate::sip::token::Keys;
use crate::state::Snapshot;
use crate::state::snapshot::Ingredients;

/// EX_CONFIG of sysexits(3): a configuration with which nothing can start.
const BAD_CONFIG: u8 = 78;

/// Where the configuration is, unless -c says otherwise.
const CONFIG_FILE: &str = "/etc/trunkline/trunkline.toml";

/// A SIP-aware load balancer.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Balance calls until SIGTERM.
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// How the log on stderr looks.
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log: LogFormat,
    },
    /// Let the running Trunkline read its configuration again, and say what changed.
    Reload(door::Door),
    /// Show the servers of the running Trunkline, under one sentence that says how it is.
    ///
    /// Exit code 0: it answered, however it is. 1: it did not. With --check the code says how it is.
    Status {
        #[command(flatten)]
        door: door::Door,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        /// Again every second until ^C: in place on a terminal, with what changed marked; as blocks of lines elsewhere.
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        /// Only the sentence. Exit code 0: good. 1: warning. 2: bad. 3: no answer. As monitoring plugins have it.
        #[arg(long, conflicts_with_all = ["json", "watch"])]
        check: bool,
    },
    /// Show what happened in the running Trunkline, one event a line: the newest 500 since it started.
    Events {
        #[command(flatten)]
        door: door::Door,
        /// The last ten, then new ones as they come, until ^C; also those of a Trunkline that was restarted.
        #[arg(long, short)]
        follow: bool,
        /// Each as a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Follow one call: each of its messages as it passes, and what became of it, until ^C.
    Trace {
        #[command(flatten)]
        door: door::Door,
        /// Its Call-ID.
        #[arg(value_name = "CALL-ID")]
        call_id: String,
    },
    /// Say whether this node should have the addresses of its pair: what keepalived's `vrrp_script` runs.
    ///
    /// Exit code 0: this process is well. 1: it is gone, hangs or stops. Servers that are down are no fault of this node.
    CheckLocal(pair::CheckLocal),
    /// Say what this node is in its pair, or with arguments write it down: what keepalived's `notify` runs.
    Role(pair::RoleArguments),
    /// Give a server no new calls; it keeps those that it has.
    Drain {
        #[command(flatten)]
        server: door::Server,
        /// Wait until its last call has ended.
        #[arg(long)]
        wait: bool,
    },
    /// Give a server calls again.
    Ready(door::Server),
    /// Give a server nothing any more: its calls go to others.
    Maint(door::Server),
    /// Say everything that is wrong with a configuration.
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Say which server a new call or a relay's new flow would go to, and why.
    Route {
        #[command(flatten)]
        config: ConfigFile,
        /// The Call-ID, or whatever the backend sticks by. A relay goes by the source instead.
        #[arg(long, required_unless_present_any = ["source", "port"])]
        call_id: Option<String>,
        /// The client's address.
        #[arg(long)]
        source: Option<IpAddr>,
        /// The port of a relay's range that a datagram comes to.
        #[arg(long)]
        port: Option<u16>,
        /// The backend, where it is not the first frontend's.
        #[arg(long)]
        backend: Option<String>,
    },
    /// Show a cluster of five servers in three regions, on loopback, with 1,000 calls per second.
    Demo(DemoArgs),
    /// Make calls, or answer them: a SIP load generator and answering server.
    #[command(subcommand)]
    Load(Box<LoadCommand>),
    /// Turn a password (read from stdin) into what `password_hash` of a user takes.
    HashPassword,
    /// Print what makes a shell complete commands and options.
    Completions {
        /// Whose: the package has those of bash, zsh and fish.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages.
    #[command(hide = true)]
    Man {
        /// The folder that they are written to.
        folder: PathBuf,
    },
    /// Print the version.
    Version,
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration.
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = CONFIG_FILE)]
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Runs the program.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config, log } => run(&config.file, log),
        Command::Reload(door) => door::reload(&door),
        Command::Status { door, check: true, .. } => door::check(&door),
        Command::Status { door, watch: true, .. } => watch::watch(&door),
        Command::Status { door, json, .. } => door::status(&door, json),
        Command::Events { door, follow: false, json } => events::show(&door, json),
        Command::Events { door, follow: true, json } => events::follow(&door, json),
        Command::Trace { door, call_id } => events::trace(&door, &call_id),
        Command::CheckLocal(check) => pair::check_local(&check),
        Command::Role(role) => pair::role(&role),
        Command::Drain { server, wait } => door::drain(&server, wait),
        Command::Ready(server) => door::set(&server, "ready"),
        Command::Maint(server) => door::set(&server, "maint"),
        Command::Check { config } => check(&config.file),
        Command::Route { config, call_id, source, port, backend } => {
            route(&config.file, &Asked { call_id, source, port, backend })
        }
        Command::Demo(args) => finish(crate::demo::run(args)),
        Command::Load(command) => finish(load::command::run(&command)),
        Command::HashPassword => hash_password(),
        Command::Completions { shell } => finish(pages::complete(Arguments::command(), shell)),
        Command::Man { folder } => finish(pages::write_manual(Arguments::command(), &folder)),
        Command::Version => {
            println!("trunkline {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

/// Says what went wrong; the exit code tells whose fault it was.
fn fail(error: &StartError) -> ExitCode {
    eprint!("{error}");
    match error {
        StartError::Config(_) => ExitCode::from(BAD_CONFIG),
        StartError::Host(_) => ExitCode::FAILURE,
    }
}

/// Whether somebody wants none (no-color.org).
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn start_log(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let color = io::stderr().is_terminal() && !no_color();
    let builder =
        tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter).with_ansi(color).with_target(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

fn run(file: &Path, log: LogFormat) -> ExitCode {
    start_log(log);
    let (config, source) = match Source::read(file) {
        Ok(read) => read,
        Err(error) => return fail(&error),
    };
    let keys = match read_or_make_keys(&config.cluster_key_file) {
        Ok(keys) => keys,
        Err(error) => return fail(&error),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    runtime.block_on(async {
        match serve(config, keys, source).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| StartError::Host(format!("cannot start a runtime: {error}\n")))
}

/// Balances until a signal says to stop.
async fn serve(config: Config, keys: Keys, source: Source) -> Result<(), StartError> {
    // Before anything is opened: a signal that comes early must find somebody who listens.
    let listen = |kind| signal(kind).map_err(|error| StartError::Host(format!("cannot wait for signals: {error}\n")));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (mut hup, mut usr2) = (listen(SignalKind::hangup())?, listen(SignalKind::user_defined2())?);
    // Nothing hangs on it, but whoever sends it out of habit must not end the process.
    let _usr1 = listen(SignalKind::user_defined1())?;
    let runtime_socket = open_runtime_sockets(config.runtime_socket.as_deref())?;
    let mut balancer = tokio::select! {
        started = Balancer::start(config, keys, Some(source)) => started?,
        // Names may take a while.
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    };
    let requests = balancer.door();
    if let Some([commands, checks]) = runtime_socket {
        balancer.follow_roles(roles::folder(commands.path()));
        tokio::spawn(commands.serve(balancer.show(), requests.clone()));
        tokio::spawn(checks.tell_faults(balancer.show()));
    }
    let why = {
        let serve = balancer.serve();
        tokio::pin!(serve);
        loop {
            tokio::select! {
                () = &mut serve => {}
                _ = term.recv() => break "SIGTERM",
                _ = int.recv() => break "SIGINT",
                _ = hup.recv() => reload(&requests, "SIGHUP"),
                _ = usr2.recv() => reload(&requests, "SIGUSR2"),
            }
        }
    };
    tracing::info!(signal = why, "stopping");
    tokio::select! {
        () = balancer.leave() => {}
        // Whoever asks twice will not wait.
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    balancer.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// The log has what came of it.
fn reload(requests: &mpsc::Sender<Request>, signal: &'static str) {
    let (answer, _) = oneshot::channel();
    let request = Request { who: Who::Signal(signal), wish: Wish::Reload, answer };
    if requests.try_send(request).is_err() {
        tracing::warn!(signal, "so many commands are waiting that this one is not taken");
    }
}

/// The socket of the configuration must be had; without one the usual place is tried. Beside it stands the one of local checks.
fn open_runtime_sockets(path: Option<&Path>) -> Result<Option<[RuntimeSocket; 2]>, StartError> {
    let usual = Path::new(RUNTIME_SOCKET);
    if path.is_none() {
        // Whoever may not make the directory is told so below.
        let _ = std::fs::create_dir(usual.parent().unwrap_or(usual));
    }
    let at = path.unwrap_or(usual);
    let opened = RuntimeSocket::open(at).and_then(|commands| Ok([commands, RuntimeSocket::open(&local::socket(at))?]));
    match (opened, path) {
        (Ok(sockets), _) => Ok(Some(sockets)),
        (Err(error), Some(_)) => Err(StartError::Host(format!("{error}\n"))),
        (Err(error), None) => {
            tracing::warn!("no runtime socket: {error}; `runtime_socket` in [global] names another place");
            Ok(None)
        }
    }
}

fn check(file: &Path) -> ExitCode {
    let (config, source) = match Source::read(file) {
        Ok(read) => read,
        Err(error) => {
            eprint!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let (keys, tls) = (read_keys(&config.cluster_key_file), read_tls(&config));
    let warnings = tls.as_ref().map(Tls::warnings).unwrap_or_default();
    source.warnings.iter().chain(&warnings).for_each(|warning| eprintln!("warning: {warning}"));
    let keys = match (keys, tls) {
        (Ok(keys), Ok(_)) => keys,
        (keys, tls) => {
            let errors = [keys.err(), tls.err()];
            errors.iter().flatten().for_each(|error| eprint!("{error}"));
            return ExitCode::FAILURE;
        }
    };
    let key = match keys {
        Some(keys) => format!("cluster key {:016x}", keys.fingerprint()),
        None => format!("{} will be made at the first start", config.cluster_key_file.display()),
    };
    let servers: usize = config.backends.iter().map(|backend| backend.servers.len()).sum();
    let (frontends, backends) = (config.frontends.len(), config.backends.len());
    let text = format_args!("configuration {:016x}", source.text);
    let names = match config.queries().count() {
        0 => String::new(),
        names => format!(", {names} name(s) to resolve when it runs"),
    };
    let counts = format_args!("{frontends} frontend(s), {backends} backend(s), {servers} server(s){names}");
    eprintln!("{}: good ({counts}; {text}; {key})", file.display());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if config.workers == 0 { workers } else { config.workers };
    match config.open_files(workers) {
        files if files.all > host::most_open_files() => eprintln!("{}", too_few_files(files)),
        OpenFiles { flows: 0, .. } => {}
        OpenFiles { all, ports, flows, .. } => eprintln!(
            "relays may have {all} files open ({ports} ports, {flows} flows): LimitNOFILE= of the unit must allow it"
        ),
    }
    ExitCode::SUCCESS
}

/// What `route` is asked about.
struct Asked {
    call_id: Option<String>,
    source: Option<IpAddr>,
    port: Option<u16>,
    backend: Option<String>,
}

fn route(file: &Path, asked: &Asked) -> ExitCode {
    match find_route(file, asked) {
        Ok((server, why)) => {
            eprint!("{why}");
            println!("{server}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a backend's calls or flows go where their source says: those of a relay, and of `stick = { on = "source" }`.
fn goes_by_source(config: &Config, backend: usize) -> bool {
    let relays = |frontend: &Frontend| frontend.relay().is_some() && frontend.backends().contains(&backend);
    let stick = config.backends[backend].stick.as_ref();
    stick.is_some_and(|stick| matches!(stick.on, StickOn::Source { .. })) || config.frontends.iter().any(relays)
}

/// The server's name, and the reasons as lines.
fn find_route(file: &Path, asked: &Asked) -> Result<(String, String), StartError> {
    let source = asked.source;
    let file = read_config(file)?;
    let config = match file.queries().count() {
        0 => file,
        _ => runtime()?.block_on(with_addresses(&file)),
    };
    let Some(keys) = read_keys(&config.cluster_key_file)? else {
        let path = config.cluster_key_file.display();
        return Err(StartError::Config(format!(
            "{path}: there is no cluster key, and without it no call has a server; `trunkline run` makes one\n"
        )));
    };
    let position = match &asked.backend {
        None => config.frontends[0].backend,
        Some(name) => config.backends.iter().position(|backend| backend.name == *name).ok_or_else(|| {
            let names: Vec<_> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
            StartError::Config(format!("there is no backend \"{name}\"; the backends are {}\n", names.join(", ")))
        })?,
    };
    let (host, states) = (host::ask(&config, 0), std::collections::HashMap::new());
    let snapshot =
        Snapshot::build(&Ingredients { config: &config, keys, host: &host, states: &states, workers: 1 }, None);
    if snapshot.backends[position].has_parts() {
        return find_owner(&snapshot, position, asked.port);
    }
    let (key, of) = match (&asked.call_id, source) {
        (Some(call_id), _) => (snapshot.keys.call(call_id.as_bytes()), format!("\"{call_id}\"")),
        (None, Some(_)) if !goes_by_source(&config, position) => {
            let name = &config.backends[position].name;
            let error = format!("calls of \"{name}\" do not go by their source: give --call-id beside it\n");
            return Err(StartError::Config(error));
        }
        (None, Some(ip)) => (source_key(ip, &snapshot.backends[position], &snapshot), format!("source {ip}")),
        (None, None) => {
            let name = &config.backends[position].name;
            let error = format!("no server of \"{name}\" has `ports`: give --call-id, or --source for a relay\n");
            return Err(StartError::Config(error));
        }
    };
    let backend = &config.backends[position];
    let unresolved: String = backend.without_address().map(|line| line + "\n").collect();
    let found = explain(&snapshot, position, key, source)
        .ok_or_else(|| StartError::Config(unresolved.clone() + "no server of this backend has a weight\n"))?;
    let server = &snapshot.servers[found.server];
    let region_name =
        |id: u32| backend.regions.iter().find(|region| region.id.0 == id).map_or("?", |region| region.name.as_str());
    let mut why = unresolved + &format!("key {key:016x} of {of}, with every server up\n");
    if let Some(id) = found.preferred {
        why += &format!(
            "region {} because it prefers clients from {}\n",
            region_name(id),
            source.map_or(String::new(), |ip| ip.to_string())
        );
    } else if let Some(id) = found.by_weight {
        let weights: Vec<_> =
            backend.regions.iter().map(|region| format!("{} {}", region.name, region.weight)).collect();
        why += &format!("region {} by weight ({})\n", region_name(id), weights.join(", "));
    }
    why += &explain_algorithm(backend, &snapshot, &found.candidates);
    why += &format!("server {} at {}\n", server.name, server.address);
    Ok((server.name.clone(), why))
}

/// What the algorithm does with a key, as far as it can be said without knowing what runs now.
fn explain_algorithm(backend: &Backend, snapshot: &Snapshot, candidates: &[usize]) -> String {
    let server = |at: &usize| {
        let server = &snapshot.servers[*at];
        let weight = backend.servers.iter().find(|other| other.id == server.id).map_or(0, |other| other.weight);
        match server.max_calls {
            0 => format!("{} (weight {weight})", server.name),
            max => format!("{} (weight {weight}, max_calls {max})", server.name),
        }
    };
    let among = candidates.iter().map(server).collect::<Vec<_>>().join(", ");
    let rule = match backend.balance {
        Algorithm::Hash => return "balance hash: the key decides\n".into(),
        Algorithm::RoundRobin => "turn by turn among",
        Algorithm::LeastConn => "the fewest calls for its weight among",
        Algorithm::LeastTransactions => "about the fewest open transactions for its weight among",
        Algorithm::Random2 => "of the key's two candidates the one with fewer calls for its weight:",
        Algorithm::First => "the first that has less than its max_calls of",
    };
    format!("balance {}: {rule} {among}; below, where the first call of all goes\n", backend.balance.word())
}

/// The server whose a relay's port is.
fn find_owner(snapshot: &Snapshot, backend: usize, port: Option<u16>) -> Result<(String, String), StartError> {
    let backend = &snapshot.backends[backend];
    let name = &backend.config.name;
    let error = |text: String| StartError::Config(text + "\n");
    let port = port.ok_or_else(|| error(format!("a port decides in backend \"{name}\": give --port")))?;
    let owner =
        backend.owner(port).ok_or_else(|| error(format!("port {port} is no server's in backend \"{name}\"")))?;
    let server = &snapshot.servers[owner];
    let part = server.ports.map_or(String::new(), |ports| ports.to_string());
    let (name, to) = (&server.name, SocketAddr::new(server.address.ip(), port));
    Ok((name.clone(), format!("port {port} is in {part}, the part of {name}\nserver {name} at {to}\n")))
}

/// Ends a command that either succeeded, failed, or could not be tried.
fn finish(outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn hash_password() -> ExitCode {
    let hashed = read_password().map_err(|error| error.to_string()).and_then(|password| {
        Argon2::default()
            .hash_password(password.as_bytes())
            .map(|hash| hash.to_string())
            .map_err(|error| error.to_string())
    });
    match hashed {
        Ok(hash) => {
            println!("{hash}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("no hash was made: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One line from stdin; from a terminal without showing it.
fn read_password() -> io::Result<String> {
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    let mut password = String::new();
    if stdin.is_terminal() {
        eprint!("Password: ");
        io::stderr().flush()?;
        let shown = tcgetattr(&stdin)?;
        let mut hidden = shown.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSANOW, &hidden)?;
        let read = stdin.lock().read_line(&mut password);
        tcsetattr(&stdin, SetArg::TCSANOW, &shown)?;
        eprintln!();
        read?;
    } else {
        stdin.lock().read_line(&mut password)?;
    }
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    match password.is_empty() {
        true => Err(io::Error::other("the password is empty; give it as one line on stdin")),
        false => Ok(password),
    }
}
