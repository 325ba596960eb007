//! SIPp on both sides of the real process: clients and servers that are not ours echo Record-Route and follow Route.
//!
//! A server of SIPp takes every message that is out of place for a failure: a request of a call that it does not have
//! begins a new call, whose first message is none of those that a call may begin with.

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::Signal;
use support::process::{Process, is_bound, wait_for};
use support::regions::{Net, SERVERS, assert_shares};
use tempfile::TempDir;

/// The scenarios of the clients, and how many calls each makes: two thousand together.
const CLIENTS: [(&str, u64); 7] = [
    ("call", 500),
    ("reinvite", 300),
    ("server_bye", 300),
    ("cancel", 300),
    ("lossy", 200),
    ("twice", 200),
    ("phone", 200),
];

/// SIPp's clients give a call up after seconds, by timers that begin at a tenth of one: three tests at once on two cores are a
/// load that they take for loss.
static ALONE: Mutex<()> = Mutex::new(());

/// The calls last as long as it takes to start this many.
const SECONDS: u64 = 10;

/// A SIPp process with a scenario of ours, and the files that it writes.
struct Sipp {
    process: Process,
    statistics: PathBuf,
    errors: PathBuf,
    name: String,
}

impl Sipp {
    fn start(scenario: &str, name: &str, folder: &Path, local: SocketAddr, arguments: &[String]) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/sipp/{scenario}.xml"));
        let [statistics, errors] = ["csv", "errors"].map(|end| folder.join(format!("{name}.{end}")));
        let mut command = Command::new("sipp");
        command.arg("-sf").arg(file).args(["-i", &local.ip().to_string(), "-p", &local.port().to_string()]);
        // Loose: our Via carries the time of sending, so what is sent again is not the same in every byte.
        command.args(["-nostdin", "-rtcheck", "loose", "-timeout", "90s", "-timeout_error"]);
        // Else a BYE of nobody's call is answered with 200.
        command.args(["-default_behaviors", "abortunexp"]);
        command.arg("-trace_stat").arg("-stf").arg(&statistics).arg("-trace_err").arg("-error_file").arg(&errors);
        let process = Process::start(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()));
        Self { process, statistics, errors, name: name.to_owned() }
    }

    /// Waits for the end, and checks that nothing failed. Returns how many calls there were.
    fn end(self) -> u64 {
        let Self { process, statistics, errors, name } = self;
        let (code, _) = process.end();
        let errors = std::fs::read_to_string(errors).unwrap_or_default();
        let errors = errors.lines().take(60).collect::<Vec<_>>().join("\n");
        let statistics = read_statistics(&statistics);
        assert_eq!(code, Some(0), "{name}: {statistics:?}\n{errors}");
        let count = |column: &str| statistics.get(column).copied().unwrap_or_default();
        for column in ["FailedCall(C)", "OutOfCallMsgs(C)", "CurrentCall"] {
            assert_eq!(count(column), 0, "{name}: {column}\n{errors}");
        }
        assert_eq!(count("SuccessfulCall(C)"), count("TotalCallCreated"), "{name}\n{errors}");
        assert!(name != "lossy" || count("Retransmissions(C)") > 0, "nothing got lost: {statistics:?}");
        count("SuccessfulCall(C)")
    }
}

/// The last line of the statistics by column; what is no number, and what is nothing, is left out.
fn read_statistics(file: &Path) -> HashMap<String, u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = [text.lines().next(), text.lines().last()].map(Option::unwrap_or_default);
    let [names, values] = lines.map(|line| line.split(';'));
    names
        .zip(values)
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn two_thousand_calls_of_sipp_keep_their_servers() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (net, folder) = (Net(43), TempDir::new().unwrap());
    let addresses = net.servers();
    let servers = SERVERS.iter().zip(addresses).map(|((name, _), address)| {
        let server = Sipp::start("server", name, folder.path(), address, &[]);
        wait_for(name, || is_bound(address));
        server
    });
    let servers: Vec<_> = servers.collect();
    // Checks would be calls in the servers' books.
    let (balancer, at) = net.balance(&addresses, "check = { type = \"none\" }");
    let clients = CLIENTS.iter().zip(200..).map(|((scenario, calls), host)| {
        // A socket for each call: as many source ports as calls.
        let (calls, rate) = (calls.to_string(), (calls / SECONDS).to_string());
        let arguments = ["-t", "un", "-max_socket", "600", "-l", "600", "-m", &calls, "-r", &rate, &at.to_string()]
            .map(str::to_owned);
        Sipp::start(scenario, scenario, folder.path(), net.free(host), &arguments)
    });
    let clients: Vec<_> = clients.collect();
    let made: u64 = clients.into_iter().map(Sipp::end).sum();
    assert_eq!(made, 2000);
    balancer.stop();
    // It ends when its calls have.
    servers.iter().for_each(|server| server.process.signal(Signal::SIGUSR1));
    let counts: Vec<_> = servers.into_iter().map(|server| (server.name.clone(), server.end())).collect();
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), made, "{counts:?}");
    assert_shares(&counts);
}

/// Five thousand calls over TCP: all over one connection, or each over its own. Servers speak what is said.
fn five_thousand_calls_over_tcp(net: &Net, client: &str, servers_speak: &str) {
    const CALLS: u64 = 5000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, addresses) = (TempDir::new().unwrap(), net.servers());
    let transport = if servers_speak == "tcp" { "t1" } else { "u1" };
    let servers = SERVERS.iter().zip(addresses).map(|((name, _), address)| {
        let server = Sipp::start("server", name, folder.path(), address, &["-t".to_owned(), transport.to_owned()]);
        wait_for(name, || is_bound(address));
        server
    });
    let servers: Vec<_> = servers.collect();
    let (balancer, at) = net.balance_by(["tcp", servers_speak], &addresses, ["", "check = { type = \"none\" }", ""]);
    let arguments =
        ["-t", client, "-max_socket", "6000", "-l", "900", "-m", &CALLS.to_string(), "-r", "500", &at.to_string()]
            .map(str::to_owned);
    let made = Sipp::start("call", "client", folder.path(), net.free(200), &arguments).end();
    assert_eq!(made, CALLS);
    balancer.stop();
    servers.iter().for_each(|server| server.process.signal(Signal::SIGUSR1));
    let counts: Vec<_> = servers.into_iter().map(|server| (server.name.clone(), server.end())).collect();
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), made, "{counts:?}");
    assert_shares(&counts);
}

#[test]
fn calls_of_one_tcp_connection_are_split() {
    five_thousand_calls_over_tcp(&Net(54), "t1", "tcp");
}

#[test]
fn calls_with_a_tcp_connection_each_are_split() {
    five_thousand_calls_over_tcp(&Net(55), "tn", "udp");
}
