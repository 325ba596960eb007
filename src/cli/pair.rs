//! The two commands that keepalived runs on each node of a pair.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::door::{self, Door};
use crate::admin::{local, roles};
use crate::load::values;

/// How often a check asks.
const AGAIN: Duration = Duration::from_millis(100);

/// `trunkline check-local`
#[derive(Debug, clap::Args)]
pub struct CheckLocal {
    #[command(flatten)]
    door: Door,
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
    door: Door,
    /// What keepalived adds to its notify command: INSTANCE or GROUP, the name, the state, the priority.
    #[arg(value_name = "KIND NAME STATE [PRIORITY]", num_args = 3..=4)]
    told: Vec<String>,
}

/// Silent where all is well: keepalived runs it each second.
pub fn check_local(check: &CheckLocal) -> ExitCode {
    door::finish(check.door.socket().and_then(|socket| {
        let socket = local::socket(&socket);
        #[allow(clippy::disallowed_methods, reason = "keepalived waits for the end of it, with a timeout of its own")]
        let until = Instant::now() + check.lasting;
        loop {
            ask(&socket, check.patience)?;
            #[allow(clippy::disallowed_methods, reason = "the same")]
            if Instant::now() + AGAIN >= until {
                return Ok(());
            }
            #[allow(clippy::disallowed_methods, reason = "the same")]
            std::thread::sleep(AGAIN);
        }
    }))
}

/// # Errors
/// What is wrong with the process.
fn ask(path: &Path, patience: Duration) -> Result<(), String> {
    let asked = || {
        let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // It is the limit of connect(2) too: a process that hangs lets nobody in.
        socket.set_write_timeout(Some(patience))?;
        socket.set_read_timeout(Some(patience))?;
        socket.connect(&SockAddr::unix(path)?)?;
        let mut told = String::new();
        socket.read_to_string(&mut told).map(|_| told)
    };
    match asked() {
        Ok(told) if told == local::WELL => Ok(()),
        Ok(told) if told.is_empty() => Err(format!("{}: it ended", path.display())),
        Ok(told) => Err(told.trim_end().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(format!("{}: no answer within {} ms", path.display(), patience.as_millis()))
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Without arguments: what this node is, an instance a line.
pub fn role(arguments: &RoleArguments) -> ExitCode {
    door::finish(arguments.door.socket().and_then(|socket| {
        let folder = roles::folder(&socket);
        let [_, instance, state, ..] = arguments.told.as_slice() else {
            let lines =
                roles::read(&folder).into_iter().map(|role| format!("{} {}\n", role.instance, role.state.word()));
            // Whoever closes the pipe has read enough.
            let _ = door::put(&lines.collect::<String>());
            return Ok(());
        };
        let state =
            roles::State::of(state).ok_or_else(|| format!("\"{state}\" is no state: MASTER, BACKUP, FAULT or STOP"))?;
        roles::write(&folder, instance, state)
    }))
}
