//! Running a command of the load from a terminal or a script: signals, orders from stdin, the report at the end.

use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::answerer::Answerer;
use super::args::{AnswerArgs, CallArgs, FloodArgs, LoadCommand};
use super::flood::Flood;
use super::generator::Generator;
use super::report::Report;
use super::view::{Behaviour, ServerView};
use crate::net::udp::clock;

/// How soon the end of a run is noticed.
const LOOK: u16 = 20;

/// Runs a command and prints its report: the table to stderr, with `--json` the object to stdout. True means that
/// everything was answered and the books balance. The first SIGINT or SIGTERM ends the starts of `call`, the second
/// cuts it off; `answer` and `flood` end with the first.
///
/// Call it before other threads are started: it blocks those signals, and threads that are there would still take them.
///
/// # Errors
/// What is wrong with the options, or what the system refused.
pub fn run(command: &LoadCommand) -> Result<bool, String> {
    let signals = Signals::take()?;
    let (report, json) = match command {
        LoadCommand::Call(args) => (call(args, &signals)?, args.json),
        LoadCommand::Answer(args) => (answer(args, &signals)?, args.json),
        LoadCommand::Flood(args) => (flood(args, &signals)?, args.json),
    };
    eprintln!("{report}");
    if json {
        // Somebody who no longer reads the result does not want it.
        let _ = writeln!(io::stdout(), "{}", report.json());
    }
    Ok(report.succeeded())
}

fn call(args: &CallArgs, signals: &Signals) -> Result<Report, String> {
    let generator = Generator::start(args.options())?;
    let mut told = 0;
    while !generator.is_finished() {
        told += u32::from(signals.wait());
        match told {
            0 => {}
            1 => generator.stop_starting(),
            _ => generator.abort(),
        }
    }
    generator.finish().map(|report| Report::Call(Box::new(report)))
}

fn answer(args: &AnswerArgs, signals: &Signals) -> Result<Report, String> {
    let answerer = Answerer::start(&args.options())?;
    for server in answerer.servers() {
        eprintln!("{} answers on {}://{}", server.name, server.transport.name(), server.address);
    }
    if args.control {
        let servers = answerer.servers().to_vec();
        // Ends with the process: a line that never comes cannot be waited for.
        std::thread::Builder::new()
            .name("load-orders".into())
            .spawn(move || obey(io::stdin().lock(), &servers))
            .map_err(|error| format!("cannot start a thread for --control: {error}"))?;
    }
    let end = args.duration.map(|duration| clock() + duration);
    while end.is_none_or(|end| clock() < end) && !signals.wait() {}
    answerer.stop().map(Report::Answer)
}

fn flood(args: &FloodArgs, signals: &Signals) -> Result<Report, String> {
    let flood = Flood::open(args.options())?;
    for address in flood.sinks() {
        eprintln!("a sink answers on udp://{address}");
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| flood.run(args.to, &stop));
        while !running.is_finished() {
            if signals.wait() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        running.join().map_err(|_| "the thread of the flood panicked; this is a bug, please report it")?
    })
    .map(Report::Flood)
}

/// Reads orders line by line; what is no order is said so and ignored.
fn obey(lines: impl BufRead, servers: &[Arc<ServerView>]) {
    for line in lines.lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
        if let Err(error) = order(&line, servers) {
            eprintln!("{error}");
        }
    }
}

/// Carries out `NAME WHAT`.
fn order(line: &str, servers: &[Arc<ServerView>]) -> Result<(), String> {
    let wanted =
        || format!("`{line}`: write NAME normal|silent|closed|only100|no-calls|STATUS, or NAME call-back COUNT");
    let mut words = line.split_whitespace();
    let (name, what) = (words.next().ok_or_else(wanted)?, words.next().ok_or_else(wanted)?);
    let meant: Vec<_> = servers.iter().filter(|server| name == "all" || server.name == name).collect();
    if meant.is_empty() {
        return Err(format!("`{line}`: there is no server {name}"));
    }
    if what == "call-back" {
        let calls = words.next().unwrap_or("1").parse().map_err(|_| wanted())?;
        meant.iter().for_each(|server| server.call_back(calls));
        return Ok(());
    }
    let behaviour = match what {
        "normal" => Behaviour::Normal,
        "silent" => Behaviour::Silent,
        "closed" => Behaviour::Closed,
        "only100" => Behaviour::Only100,
        "no-calls" => Behaviour::NoCalls,
        status => match status.parse() {
            Ok(status @ 300..=699) => Behaviour::Status(status),
            _ => return Err(wanted()),
        },
    };
    meant.iter().for_each(|server| server.behave(behaviour));
    Ok(())
}

/// SIGINT and SIGTERM as something that can be waited for.
struct Signals(SignalFd);

impl Signals {
    fn take() -> Result<Self, String> {
        let cannot = |error| format!("cannot wait for signals: {error}");
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        mask.thread_block().map_err(cannot)?;
        SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self).map_err(cannot)
    }

    /// Waits a moment; says whether a signal came.
    fn wait(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, PollTimeout::from(LOOK));
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_reach_the_servers_they_name() {
        let view = |name: &str| Arc::new(ServerView::new(name.into(), "127.0.0.1:1".parse().unwrap()));
        let servers = [view("a"), view("b")];
        obey("a silent\nb 503\n\nnonsense\n".as_bytes(), &servers);
        assert_eq!((servers[0].behaviour(), servers[1].behaviour()), (Behaviour::Silent, Behaviour::Status(503)));
        obey("a no-calls\n".as_bytes(), &servers);
        assert_eq!(servers[0].behaviour(), Behaviour::NoCalls);
        obey("all normal\nb call-back 3\n".as_bytes(), &servers);
        assert_eq!((servers[0].behaviour(), servers[1].behaviour()), (Behaviour::Normal, Behaviour::Normal));
        assert_eq!((servers[0].take_wanted(), servers[1].take_wanted()), (0, 3));
        for wrong in ["c normal", "a", "a 200", "a call-back many"] {
            assert!(order(wrong, &servers).is_err(), "{wrong}");
        }
    }
}
