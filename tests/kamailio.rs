//! Kamailio behind the real process, as registrar and proxy; and in front of it, as the proxy of a carrier.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::process::{Process, is_bound, wait_for};
use support::regions::{Net, ROUND, SERVERS, answer, assert_kept, stop};
use tempfile::TempDir;
use trunkline::load::{Generator, Timers};

/// A Kamailio with a configuration of ours.
struct Kamailio {
    process: Process,
    _folder: TempDir,
}

impl Kamailio {
    /// Starts it on an address, and waits until it listens there. `define` is a name and a value for the configuration.
    fn start(config: &str, address: SocketAddr, define: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kamailio").join(config);
        let mut command = Command::new("kamailio");
        command.args(["-DD", "-E", "-m", "64", "-M", "8", "-l", &format!("udp:{address}"), "-A", define]);
        command.arg("-Y").arg(folder.path()).arg("-f").arg(file).stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Process::start(&mut command);
        wait_for(config, || {
            assert!(process.child.try_wait().unwrap().is_none(), "{config}: it has ended:\n{}", process.said());
            is_bound(address)
        });
        Self { process, _folder: folder }
    }
}

impl Drop for Kamailio {
    /// It ends its children when it is told to; killed, it would leave them.
    fn drop(&mut self) {
        self.process.signal(Signal::SIGTERM);
        let _ = self.process.child.wait();
    }
}

/// Phones register through Trunkline at a Kamailio, which stores their Path, and are called from behind it: Kamailio
/// looks them up, and sends to Trunkline, which sends to the flow that the phone registered by.
#[test]
fn kamailio_behind_trunkline() {
    let (net, starts) = (Net(44), 70 * ROUND);
    let addresses = net.servers();
    // Two servers are a Kamailio, and the answering one is the PBX behind it.
    let mut answering = addresses;
    let mut kamailios = Vec::new();
    for (at, host) in [(0, 21), (3, 22)] {
        answering[at] = net.free(host);
        kamailios.push(Kamailio::start("server.cfg", addresses[at], &format!("PBX={}", answering[at])));
    }
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(answering).collect();
    let answerer = answer(&named, Timers::default());
    let (balancer, at) = net.balance(&addresses, "check = { interval = \"1s\", timeout = \"1s\" }");
    let clients = [false, true].map(|nat| {
        let mut options = net.callers(at, starts, 70.0);
        options.habits.nat = nat;
        Generator::start(options).unwrap()
    });
    let reports = clients.map(|clients| clients.finish().unwrap());
    let answered = stop(answerer);
    balancer.stop();
    drop(kamailios);
    // A call that is cancelled before Kamailio has sent it on never comes to the PBX: those are not counted here.
    assert_kept(&reports, &answered, starts);
}

/// All calls of a carrier come from one address, record-routed; calls to its phones go back by its own Path.
#[test]
fn kamailio_in_front_of_trunkline() {
    let (net, starts) = (Net(45), 70 * ROUND);
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let answerer = answer(&named, Timers::default());
    let (balancer, at) = net.balance(&addresses, "");
    let front = net.free(250);
    let kamailio = Kamailio::start("front.cfg", front, &format!("NEXT={at}"));
    let report = Generator::start(net.callers(front, starts, 70.0)).unwrap().finish().unwrap();
    let answered = stop(answerer);
    balancer.stop();
    drop(kamailio);
    assert_kept(&[report], &answered, starts);
}
