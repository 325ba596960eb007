//! Commands to a running Trunkline, by its runtime socket.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::client::{PATIENCE_TO_LOOK, ask, ask_within};
use crate::config::{RUNTIME_SOCKET, runtime_socket};

/// How often that is looked at which somebody waits for or watches.
const LOOK: Duration = Duration::from_secs(1);

/// Where the running Trunkline is found.
#[derive(Debug, clap::Args)]
pub struct Door {
    #[command(flatten)]
    pub(super) config: super::ConfigFile,
    /// Its runtime socket [default: what the configuration says].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// A server of a running Trunkline.
#[derive(Debug, clap::Args)]
pub struct Server {
    #[command(flatten)]
    door: Door,
    /// The server.
    #[arg(value_name = "BACKEND/SERVER", value_parser = server_name)]
    name: String,
}

/// What is written here ends up in a line of commands.
fn server_name(name: &str) -> Result<String, String> {
    match name.contains([' ', ';', '\\', '\n']) || !name.contains('/') {
        true => Err(format!("\"{name}\" is no server's name: write BACKEND/SERVER")),
        false => Ok(name.to_owned()),
    }
}

impl Door {
    /// As the configuration says, however faulty the rest of it is. Without any at the usual place it is the usual socket.
    pub(super) fn socket(&self) -> Result<PathBuf, String> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let file = &self.config.file;
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(runtime_socket(&text).unwrap_or_else(|| RUNTIME_SOCKET.into())),
            Err(_) if file == Path::new(super::CONFIG_FILE) => Ok(RUNTIME_SOCKET.into()),
            Err(error) => Err(format!("{}: {error}; --socket names the runtime socket itself", file.display())),
        }
    }

    pub(super) fn ask(&self, command: &str) -> Result<String, String> {
        ask(&self.socket()?, command)
    }

    /// What only shows something.
    fn look(&self, command: &str) -> Result<String, String> {
        ask_within(PATIENCE_TO_LOOK, &self.socket()?, command)
    }
}

/// What came of a reload: what changed, or why it was refused.
///
/// # Errors
/// Where nobody says.
pub(super) fn ask_reload(socket: &Path) -> Result<Result<String, String>, String> {
    ask(socket, "reload").map(|answer| match answer.split_once("\n--\n") {
        Some(("Success=1", done)) => Ok(done.to_owned()),
        Some((_, faults)) => Err(faults.trim_end().to_owned()),
        None => Err(answer),
    })
}

/// `trunkline reload`
pub fn reload(door: &Door) -> ExitCode {
    let reloaded = door.socket().and_then(|socket| ask_reload(&socket)).flatten();
    finish(reloaded.map(|done| eprint!("{done}")))
}

/// `trunkline status`: on stdout, for `grep` is a program too.
pub fn status(door: &Door, json: bool) -> ExitCode {
    let command = if json { "status json" } else { "status" };
    finish(door.look(command).map(|text| {
        // Whoever closes the pipe has read enough.
        let _ = put(&text);
    }))
}

/// `trunkline status --check`: the exit code is the verdict's. What went wrong is on stdout too: monitoring reads no other.
pub fn check(door: &Door) -> ExitCode {
    /// Nobody knows how it is.
    const UNKNOWN: u8 = 3;
    let verdict = door.look("status json").and_then(|answer| {
        let status: serde_json::Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        let word = |key: &str| status["verdict"][key].as_str().map(str::to_owned);
        word("level").zip(word("text")).ok_or_else(|| "the Trunkline that runs is older, and has no verdict".to_owned())
    });
    let (code, line) = match verdict {
        Ok((level, text)) => (code(&level), format!("{level}: {text}\n")),
        Err(error) => (UNKNOWN, format!("no answer: {error}\n")),
    };
    let _ = put(&line);
    ExitCode::from(code)
}

fn code(level: &str) -> u8 {
    match level {
        "good" | "idle" => 0,
        "warning" => 1,
        _ => 2,
    }
}

/// To stdout, at once.
///
/// # Errors
/// Where nobody reads it any more.
pub(super) fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Whether the other end of stdout is closed: a write would say so too, but there may be nothing to write for days.
fn nobody_reads() -> bool {
    let out = io::stdout();
    let mut asked = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let closed = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut asked, PollTimeout::ZERO).is_ok() && asked[0].revents().is_some_and(|found| found.intersects(closed))
}

/// Looks every second, until ^C, SIGTERM, or nobody reads what was seen: all of them are an end in order.
pub(super) fn each_second(mut look: impl AsyncFnMut() -> io::Result<()>) -> Result<(), String> {
    let runtime = super::runtime().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot wait for signals: {error}"));
        let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let mut second = interval(LOOK);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let looked = async {
                second.tick().await;
                look().await
            };
            let looked = tokio::select! {
                looked = looked => looked,
                _ = term.recv() => return Ok(()),
                _ = int.recv() => return Ok(()),
            };
            if looked.is_err() || nobody_reads() {
                return Ok(());
            }
        }
    })
}

/// `trunkline ready`, `trunkline maint`
pub fn set(server: &Server, state: &str) -> ExitCode {
    finish(set_state(server, state).map(|()| eprintln!("{} is {state}", server.name)))
}

/// `trunkline drain`: says how many calls remain; with `wait` until none does.
pub fn drain(server: &Server, wait: bool) -> ExitCode {
    finish(try_drain(server, wait))
}

fn try_drain(server: &Server, wait: bool) -> Result<(), String> {
    set_state(server, "drain")?;
    let name = &server.name;
    let mut told = None;
    loop {
        let answer = server.door.ask(&format!("show calls {name}"))?;
        let calls: usize = answer.trim().parse().map_err(|_| answer.trim_end().to_owned())?;
        if told.replace(calls) != Some(calls) {
            let remain = if calls == 1 { "1 call remains".to_owned() } else { format!("{calls} calls remain") };
            eprintln!("{name} gets no new calls; {remain}");
        }
        if !wait || calls == 0 {
            return Ok(());
        }
        #[allow(clippy::disallowed_methods, reason = "a person waits for calls to end, with ^C as deadline")]
        std::thread::sleep(LOOK);
    }
}

/// An answer to a change is empty or warns; anything else says why it was not made.
fn set_state(server: &Server, state: &str) -> Result<(), String> {
    let name = &server.name;
    let answer = server.door.ask(&format!("sip {state} {name}"))?;
    match answer.trim() {
        "" => Ok(()),
        warnings if warnings.starts_with("warning: ") => {
            eprintln!("{warnings}");
            Ok(())
        }
        said => Err(format!("{name}: {said} `trunkline status` lists the servers")),
    }
}

pub(super) fn finish(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
