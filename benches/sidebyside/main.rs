//! Side by side: what a transaction costs Trunkline, and what it costs others, in one interleaved run.
//!
//! `benches/run` starts it; docs/performance.md says what is measured and keeps the result.
#![allow(clippy::disallowed_methods, reason = "it measures time, and waits for processes with a deadline")]

mod contestant;
mod forwarder;
mod load;
mod media;
mod process;
mod relay;
mod rounds;
mod streams;
mod table;
mod talk;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use contestant::{ALL, Running};
use load::{Load, Sample, measure};
use process::{STOPPED, free, pin};
use tempfile::TempDir;

/// The generator and the servers have one core, the balancer under test the other.
const LOAD_CORE: usize = 0;
const BALANCER_CORE: usize = 1;

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 81);
const SERVERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(127, 0, 3, 81), Ipv4Addr::new(127, 0, 3, 82), Ipv4Addr::new(127, 0, 3, 83)];

const LOADS: [Load; 4] = [Load::Closed, Load::Open(5_000), Load::Open(20_000), Load::Open(50_000)];

/// What can be measured alone, by its word on the command line.
const ALL_PARTS: [&str; 4] = ["calls", "relay", "streams", "relayed"];

/// How much is measured.
struct Plan {
    /// Rounds, the first of them to warm up.
    rounds: usize,
    closed: Duration,
    open: Duration,
    /// Whether docs/performance.md gets the result.
    keep: bool,
}

const FULL: Plan =
    Plan { rounds: 7, closed: Duration::from_millis(2000), open: Duration::from_millis(1200), keep: true };
const QUICK: Plan =
    Plan { rounds: 4, closed: Duration::from_millis(700), open: Duration::from_millis(300), keep: false };

/// Long enough that every contestant has touched its memory.
const WARM_UP: Duration = Duration::from_millis(200);

/// One round: for each of [`LOADS`] the samples of [`ALL`].
pub type Round = Vec<[Sample; ALL.len()]>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [forwarder::WORD, ..] => forwarder::run(&arguments[1..]).map(|()| true),
        [media::WORD, ..] => media::run(&arguments[1..]).map(|()| true),
        [talk::WORD, ..] => talk::run(&arguments[1..]).map(|()| true),
        [] => run(&FULL, &ALL_PARTS),
        ["--quick"] => run(&QUICK, &ALL_PARTS),
        [part] if ALL_PARTS.contains(part) => run(&FULL, &[part]),
        [part, "--quick"] if ALL_PARTS.contains(part) => run(&QUICK, &[part]),
        _ => {
            eprintln!(
                "usage: benches/run [calls|relay|streams|relayed] [--quick]\n  calls    only SIP over UDP\n  relay    only media\n  \
                 streams  only SIP over TCP, and handshakes of TLS\n  relayed  only connections that pass unread\n  --quick  within three minutes, and docs/performance.md \
                 stays as it is"
            );
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("side by side: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and shows; true where the bars are met.
fn run(plan: &Plan, parts: &[&str]) -> Result<bool, Box<dyn Error>> {
    watch_signals()?;
    pin(LOAD_CORE)?;
    let folder = TempDir::new()?;
    let mut missed = Vec::new();
    for part in parts {
        missed.extend(match *part {
            "calls" => side_by_side(plan, folder.path())?,
            "relay" => relay::run(plan, folder.path())?,
            "relayed" => streams::run_relayed(plan, folder.path())?,
            _ => streams::run(plan, folder.path())?,
        });
    }
    for bar in &missed {
        eprintln!("bar missed, closed loop: {bar}");
    }
    Ok(missed.is_empty())
}

/// Calls: says which bars were missed.
fn side_by_side(plan: &Plan, folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut rounds = Vec::new();
    for number in 0..plan.rounds {
        let what = if number == 0 { "to warm up" } else { "counts" };
        eprintln!("round {} of {}, {what}", number + 1, plan.rounds);
        let round = round(plan, number % 2 == 1, folder)?;
        if number > 0 {
            rounds.push(round);
        }
    }
    let (text, missed) = table::write(&rounds)?;
    println!("{text}");
    if plan.keep {
        table::MARK.keep(&text)?;
    }
    Ok(missed)
}

/// Everybody is started anew, and under each load they have their turns close to each other; every other round in the
/// opposite order.
fn round(plan: &Plan, backwards: bool, folder: &Path) -> Result<Round, Box<dyn Error>> {
    let servers: Vec<SocketAddr> = SERVERS.into_iter().map(free).collect::<Result<_, _>>()?;
    let start = |who: contestant::Contestant| who.start(&servers, folder);
    let running: Vec<Running> = ALL.into_iter().map(start).collect::<Result<_, _>>()?;
    let press = |who: &Running, load, time| measure(&who.program, who.front, &servers, (load, time), folder);
    for who in &running {
        press(who, Load::Closed, WARM_UP)?;
    }
    let mut round = Vec::new();
    for load in LOADS {
        let time = if load == Load::Closed { plan.closed } else { plan.open };
        let mut samples = [None; ALL.len()];
        for turn in 0..ALL.len() {
            let turn = if backwards { ALL.len() - 1 - turn } else { turn };
            let sample = press(&running[turn], load, time)?;
            let name = ALL[turn].name();
            eprintln!("  {:<40}{name:<16}{:6.2} us{:9.0}/s", load.title(), sample.micros, sample.rate);
            samples[turn] = Some(sample);
        }
        round.push(samples.map(|sample| sample.expect("everybody had a turn")));
    }
    Ok(round)
}

/// SIGINT and SIGTERM end the measurement in order, so that no child outlives it.
fn watch_signals() -> Result<(), Box<dyn Error>> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        STOPPED.store(true, Ordering::Relaxed);
    });
    Ok(())
}
