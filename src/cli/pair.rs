//! The two commands that keepalived runs on each node of a pair.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::door;
use crate::admin::client::connect;
use crate::admin::{local, roles};
use crate::config::RUNTIME_SOCKET;
use crate::load::values;

/// How often a check asks.
const AGAIN: Duration = Duration::from_millis(100);

/// Where the running one is found. No configuration is read for it: a file that is being written, or that names a socket of
/// tomorrow, must move no address.
#[derive(Debug, clap::Args)]
pub struct Running {
    /// Its runtime socket; the configuration is not asked.
    #[arg(long, value_name = "PATH", default_value = RUNTIME_SOCKET)]
    socket: PathBuf,
}

/// `trunkline check-local`
#[derive(Debug, clap::Args)]
pub struct CheckLocal {
    #[command(flatten)]
    running: Running,
    /// Go on asking for so long: the death of the process is seen at once, not when keepalived asks again a second later.
    #[arg(long = "for", value_name = "TIME", default_value = "800ms", value_parser = values::duration)]
    lasting: Duration,
    /// How long an answer may take before the process counts as hanging.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::duration)]
    patience: Duration,
}

/// `trunkline role`
#[derive(Debug, clap::Args)]
pub struct RoleArguments {
    #[command(flatten)]
    running: Running,
    /// INSTANCE or GROUP: these four keepalived adds to its notify command.
    #[arg(requires = "name")]
    kind: Option<String>,
    #[arg(requires = "state")]
    name: Option<String>,
    /// MASTER, BACKUP, FAULT, STOP, or DELETED where it is no instance of this node any more.
    #[arg(value_parser = told)]
    state: Option<Told>,
    priority: Option<String>,
}

/// What keepalived tells of an instance.
#[derive(Clone, Copy, Debug)]
enum Told {
    State(roles::State),
    /// With `notify_deleted`: a reload of keepalived took the instance away.
    Deleted,
}

fn told(word: &str) -> Result<Told, String> {
    match roles::State::of(word) {
        Some(state) => Ok(Told::State(state)),
        None if word == "DELETED" => Ok(Told::Deleted),
        None => Err(format!("\"{word}\" is no state: MASTER, BACKUP, FAULT, STOP or DELETED")),
    }
}

/// Silent where all is well: keepalived runs it each second.
pub fn check_local(check: &CheckLocal) -> ExitCode {
    door::finish(watch(check))
}

#[allow(clippy::disallowed_methods, reason = "keepalived waits for the end of it, with a timeout of its own")]
fn watch(check: &CheckLocal) -> Result<(), String> {
    let (socket, until) = (local::socket(&check.running.socket), Instant::now() + check.lasting);
    loop {
        ask(&socket, check.patience)?;
        if Instant::now() + AGAIN >= until {
            return Ok(());
        }
        std::thread::sleep(AGAIN);
    }
}

/// # Errors
/// What is wrong with the process.
fn ask(path: &Path, patience: Duration) -> Result<(), String> {
    let mut told = String::new();
    let asked = connect(path, patience).and_then(|mut socket| socket.read_to_string(&mut told)).map(|_| told);
    match asked {
        Ok(told) if told == local::WELL => Ok(()),
        Ok(told) if told.is_empty() => Err(format!("{}: it ended", path.display())),
        Ok(told) => Err(told.trim_end().to_owned()),
        Err(error) => Err(match error.kind() {
            ErrorKind::WouldBlock => format!("{}: no answer within {} ms", path.display(), patience.as_millis()),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                format!(
                    "{}: nobody listens there: Trunkline does not run, or has another runtime socket",
                    path.display()
                )
            }
            _ => format!("{}: {error}", path.display()),
        }),
    }
}

/// Without arguments: what this node is, an instance a line.
pub fn role(arguments: &RoleArguments) -> ExitCode {
    let folder = roles::folder(&arguments.running.socket);
    let (Some(instance), Some(state)) = (&arguments.name, &arguments.state) else {
        let roles = roles::read(&folder);
        if roles.is_empty() {
            eprintln!("{}: nothing was told yet; keepalived's `notify` tells it", folder.display());
        }
        let lines = roles.into_iter().map(|role| format!("{} {}\n", role.instance, role.state.word()));
        // Whoever closes the pipe has read enough.
        let _ = door::put(&lines.collect::<String>());
        return ExitCode::SUCCESS;
    };
    door::finish(match state {
        Told::State(state) => roles::write(&folder, instance, *state),
        Told::Deleted => roles::forget(&folder, instance),
    })
}
