//! Commands to a running Trunkline, by its runtime socket.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::client::ask;
use crate::config::{RUNTIME_SOCKET, runtime_socket};

/// How often a drain that is waited for is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Where the running Trunkline is found.
#[derive(Debug, clap::Args)]
pub struct Door {
    #[command(flatten)]
    config: super::ConfigFile,
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
    #[arg(value_name = "BACKEND/SERVER")]
    name: String,
}

impl Door {
    /// As the configuration says, however faulty the rest of it is. Without any at the usual place it is the usual socket.
    fn socket(&self) -> Result<PathBuf, String> {
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

    fn ask(&self, command: &str) -> Result<String, String> {
        ask(&self.socket()?, command)
    }
}

/// `trunkline reload`
pub fn reload(door: &Door) -> ExitCode {
    let reloaded = door.ask("reload").and_then(|answer| match answer.split_once("\n--\n") {
        Some(("Success=1", done)) => Ok(done.to_owned()),
        Some((_, faults)) => Err(faults.trim_end().to_owned()),
        None => Err(answer),
    });
    finish(reloaded.map(|done| eprint!("{done}")))
}

/// `trunkline status`: on stdout, for `grep` is a program too.
pub fn status(door: &Door, json: bool) -> ExitCode {
    let command = if json { "status json" } else { "status" };
    finish(door.ask(command).map(|text| print!("{text}")))
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

/// An answer to a change is empty; anything else says why it was not made.
fn set_state(server: &Server, state: &str) -> Result<(), String> {
    let name = &server.name;
    // What is written here ends up in a line of commands.
    if name.contains([' ', ';', '\\', '\n']) {
        return Err(format!("\"{name}\" is no server's name: write BACKEND/SERVER"));
    }
    let answer = server.door.ask(&format!("set server {name} state {state}"))?;
    match answer.trim() {
        "" => Ok(()),
        said => Err(format!("{name}: {said} `trunkline status` lists the servers")),
    }
}

fn finish(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
