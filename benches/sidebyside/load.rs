//! The load: `trunkline load flood`, the same for all, and what it reports.

use std::error::Error;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::process::Program;
use super::{CLIENT, LOAD_CORE};

/// Requests without answer at any time in the closed loop.
pub const OUTSTANDING: u32 = 256;

/// The size of a request, bytes.
pub const SIZE: usize = 600;

/// Answers that are missing are waited for this long (the flood does); then some room.
const PATIENCE: Duration = Duration::from_secs(10);

/// How hard a balancer is pressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// A new request for every answer, [`OUTSTANDING`] in flight.
    Closed,
    /// So many requests a second, whatever comes back.
    Open(u32),
}

impl Load {
    pub fn title(self) -> String {
        match self {
            Self::Closed => format!("Closed loop, {OUTSTANDING} requests in flight"),
            Self::Open(rate) => format!("Open loop, {},000 requests a second", rate / 1000),
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Processor time of the balancer for each transaction, microseconds.
    pub micros: f64,
    /// The part of its core that the balancer used.
    pub busy: f64,
    /// Transactions a second.
    pub rate: f64,
    /// Requests that got no answer, or none that is good.
    pub missing: u64,
    pub p50: u64,
    pub p99: u64,
    /// kB
    pub memory: u64,
}

/// Presses one balancer for a while and reads the clocks of its processes before and after.
pub fn measure(
    balancer: &Program,
    front: SocketAddr,
    servers: &[SocketAddr],
    (load, time): (Load, Duration),
    folder: &Path,
) -> Result<Sample, Box<dyn Error>> {
    let output = folder.join("flood.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.args(["load", "flood", "--json", "--sockets", "1"]);
    command.args(["--clients", &format!("{CLIENT}/32"), "--size", &SIZE.to_string()]);
    command.args(["--to", &front.to_string(), "--for", &format!("{}ms", time.as_millis())]);
    command.args(servers.iter().flat_map(|server| ["--sink".to_owned(), server.to_string()]));
    match load {
        Load::Closed => command.args(["--outstanding", &OUTSTANDING.to_string()]),
        Load::Open(rate) => command.args(["--rate", &rate.to_string()]),
    };
    let before = balancer.cpu_time();
    let mut flood = Program::start("flood", &command, File::create(&output)?, LOAD_CORE, folder)?;
    // Its exit code is non-zero where something was lost; that is for the table.
    flood.ended(time + PATIENCE)?;
    let used = balancer.cpu_time() - before;
    let json = fs::read_to_string(&output)?;
    let number = |name: &str| number(&json, name).ok_or_else(|| format!("no {name} in {json}: {}", flood.said()));
    let (sent, answered) = (number("sent")?, number("answered")?);
    if !json.contains("\"balances\":true") || answered == 0.0 {
        return Err(format!("nothing was measured: {json}{}{}", flood.said(), balancer.said()).into());
    }
    Ok(Sample {
        micros: used.as_secs_f64() * 1e6 / answered,
        busy: used.as_secs_f64() / time.as_secs_f64(),
        rate: number("rate")?,
        missing: (sent - answered + number("not_sent")?) as u64,
        p50: number("p50_us")? as u64,
        p99: number("p99_us")? as u64,
        memory: balancer.peak_memory(),
    })
}

/// The number of a member in an object on one line.
pub fn number(json: &str, name: &str) -> Option<f64> {
    let rest = json.split_once(&format!("\"{name}\":"))?.1;
    rest[..rest.find([',', '}'])?].parse().ok()
}
