//! The command line. What is for people goes to stderr, what is for programs to stdout.

mod backup;
mod door;
mod events;
mod import;
mod kept;
mod key;
mod pages;
mod pair;
mod route;
mod watch;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::admin::runtime_socket::RuntimeSocket;
use crate::admin::state_dir::StateDir;
use crate::admin::{Request, Who, Wish, local, roles};
use crate::config::{Config, OpenFiles, RUNTIME_SOCKET, STATE_DIR};
use crate::demo::DemoArgs;
use crate::load;
use crate::load::args::LoadCommand;
use crate::net::host;
use crate::net::tls::Tls;
use crate::run::{
    Balancer, Source, StartError, leave, read_keys, read_or_make_keys, read_tls, room_for_servers, too_few_files,
};
use crate::sip::token::Keys;

/// EX_CONFIG of sysexits(3): a configuration with which nothing can start.
const BAD_CONFIG: u8 = 78;

/// Who reads a file is waited for so long when everything else has ended: its disk may hang.
const LAST_READS: Duration = Duration::from_secs(2);

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
    /// List the configurations that were accepted, oldest first.
    History {
        #[command(flatten)]
        place: kept::Place,
        /// Each as a JSON object, in a list.
        #[arg(long)]
        json: bool,
    },
    /// Show what differs between two configurations that were accepted, or between one of them and the file.
    ///
    /// Exit code 0: nothing. 1: something. 2: they could not be compared. As diff(1) has it.
    Diff {
        #[command(flatten)]
        place: kept::Place,
        /// The number of the first, as `history` has it [default: the newest].
        #[arg(value_name = "N")]
        from: Option<u64>,
        /// The number of the second [default: the file as it is now].
        #[arg(value_name = "M")]
        to: Option<u64>,
    },
    /// Write a configuration that was accepted over the file, to the byte, and let the running Trunkline take it.
    Rollback {
        #[command(flatten)]
        door: door::Door,
        #[command(flatten)]
        folder: kept::Folder,
        /// Its number, as `history` has it.
        #[arg(value_name = "N")]
        number: u64,
        /// Write the file only: nobody runs, or nobody shall take it yet.
        #[arg(long)]
        no_reload: bool,
    },
    /// Write the configuration and all that it names, the history and the audit log into one file, which holds secrets.
    Backup {
        #[command(flatten)]
        config: ConfigFile,
        /// A file that is not there yet, or - for stdout.
        #[arg(value_name = "TO")]
        to: PathBuf,
    },
    /// Put what `backup` wrote in its place, whole or not at all.
    Restore {
        /// The file, or - for stdin.
        #[arg(value_name = "FROM")]
        from: PathBuf,
        /// Below this folder, to look at it.
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
        /// Over files that are others, too.
        #[arg(long)]
        force: bool,
    },
    /// Show the cluster key's fingerprints, rotate its seals, or take the other node's.
    #[command(subcommand)]
    ClusterKey(key::KeyCommand),
    /// Say everything that is wrong with a configuration.
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Print haproxy.cfg as a configuration of ours, and say what became of each line.
    ///
    /// Exit code 0: every line is translated, or not needed. 1: it cannot be read. 3: some lines are left to do by hand.
    Import {
        /// The file, or - for stdin.
        #[arg(value_name = "HAPROXY.CFG")]
        file: PathBuf,
    },
    /// Say which server a new call or a relay's new flow would go to, and why.
    Route {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        asked: route::Asked,
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
        Command::History { place, json } => kept::history(&place, json),
        Command::Diff { place, from, to } => kept::diff(&place, from, to),
        Command::Rollback { door, folder, number, no_reload } => kept::rollback(&door, &folder, number, no_reload),
        Command::Backup { config, to } => backup::backup(&config, &to),
        Command::Restore { from, root, force } => backup::restore(&from, &root, force),
        Command::ClusterKey(command) => key::run(&command),
        Command::Check { config } => check(&config.file),
        Command::Import { file } => import::run(&file),
        Command::Route { config, asked } => route::route(&config.file, &asked),
        Command::Demo(args) => finish(crate::demo::run(args)),
        Command::Load(command) => match command.check() {
            Ok(()) => finish(load::command::run(&command)),
            Err(wrong) => Arguments::command().error(ErrorKind::ArgumentConflict, wrong).exit(),
        },
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

/// The same as words without their last line end.
fn words(error: &StartError) -> String {
    error.to_string().trim_end().to_owned()
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
    let ended = runtime.block_on(serve(config, keys, source));
    runtime.shutdown_timeout(LAST_READS);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
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
    let state_dir = open_state_dir(config.state_dir.as_deref());
    let mut balancer = tokio::select! {
        started = Balancer::start(config, keys, Some(source)) => started?,
        // Names may take a while.
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    };
    if let Some(folder) = state_dir {
        balancer.keep_in(folder).await;
    }
    let requests = balancer.door();
    if let Some([commands, checks]) = runtime_socket {
        balancer.follow_roles(roles::folder(commands.path()));
        tokio::spawn(commands.serve(balancer.show(), requests.clone()));
        tokio::spawn(checks.tell_faults(balancer.show()));
    }
    let shown = balancer.show();
    let why = {
        let serve = balancer.serve();
        tokio::pin!(serve);
        let why = loop {
            tokio::select! {
                () = &mut serve => {}
                _ = term.recv() => break "SIGTERM",
                _ = int.recv() => break "SIGINT",
                _ = hup.recv() => reload(&requests, "SIGHUP"),
                _ = usr2.recv() => reload(&requests, "SIGUSR2"),
            }
        };
        tracing::info!(signal = why, "stopping");
        tokio::select! {
            () = leave(&shown) => {}
            () = &mut serve => {}
            // Whoever asks twice will not wait.
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        why
    };
    balancer.ends(&Who::Signal(why));
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

/// Calls do not hang on a history: where its folder cannot be had they go on without one.
fn open_state_dir(path: Option<&Path>) -> Option<StateDir> {
    let opened = StateDir::open(path.unwrap_or(Path::new(STATE_DIR)));
    opened
        .inspect_err(|error| {
            tracing::error!(
                "no history of configurations and no audit log: {error}; `state_dir` in [global] names another place"
            );
        })
        .ok()
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
    let keys = match (keys, tls, room_for_servers(&config)) {
        (Ok(keys), Ok(_), Ok(())) => keys,
        (keys, tls, room) => {
            let errors = [keys.err(), tls.err(), room.map_err(StartError::Config).err()];
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
    if let Some(port) = privileged_port(&config) {
        eprintln!(
            "port {port} is for the privileged: the unit needs AmbientCapabilities=CAP_NET_BIND_SERVICE and the same in \
             CapabilityBoundingSet="
        );
    }
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

/// A port of the configuration that this host lets only the privileged have.
fn privileged_port(config: &Config) -> Option<u16> {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
    let first = first.and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    let of_calls = config.frontends.iter().flat_map(|frontend| &frontend.binds).map(|bind| bind.ports.first);
    let of_http = config.http.iter().flat_map(|http| http.listeners().into_keys()).map(|at| at.port());
    of_calls.chain(of_http).find(|port| *port < first)
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
