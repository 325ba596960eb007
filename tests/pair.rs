//! Two nodes with Debian's keepalived and the files of packaging/keepalived, between clients and five servers, in network
//! namespaces: the node with the addresses fails in five ways, in turn, under 300 calls/s with 5,000 dialogs.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use support::calls::request;
use support::netns::Namespace;
use support::process::{Process, global, output, program, wait_for, wait_longer};
use support::regions::{DOMAIN, Net, REGIONS, SERVERS, answer, named, stop};
use tempfile::TempDir;
use trunkline::admin::roles::{self, State};
use trunkline::load::{Answerer, Generator, GeneratorOptions, Mix, Timers};

const WORKERS: usize = 4;
/// What packaging/keepalived gives the pair.
const VIP: &str = "203.0.113.10:5060";
const RATE: f64 = 300.0;
const DIALOGS: u64 = 5_000;
/// docs/pair.md has a tenth of a second to 1.3; a machine that others use may stand still for two, here and there.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);
/// A little longer than it takes to have so many.
const HOLD: Duration = Duration::from_secs(18);

/// Two switches that the hosts hang on: `br0` outside, `br1` inside.
struct Lan {
    switch: Namespace,
}

impl Lan {
    fn new() -> Self {
        let bridges = ["link add br0 type bridge", "link add br1 type bridge", "link set br0 up", "link set br1 up"];
        Self { switch: Namespace::new("sw", &bridges) }
    }

    /// Gives a host an interface, and returns the name of its port.
    fn plug(&self, host: &Namespace, interface: &str, bridge: &str, addresses: &[String]) -> String {
        let port = format!("{}-{interface}", host.name.split('-').nth(1).unwrap());
        self.switch.ip(&format!("link add {port} type veth peer name {interface} netns {}", host.name));
        self.switch.ip(&format!("link set {port} master {bridge}"));
        self.switch.ip(&format!("link set {port} up"));
        host.ip(&format!("link set {interface} up"));
        for address in addresses {
            host.ip(&format!("addr add {address}/24 dev {interface}"));
        }
        port
    }
}

/// A node of the pair.
struct Node {
    space: Namespace,
    ports: [String; 2],
    folder: TempDir,
    balancer: Option<Process>,
    keepalived: Option<Process>,
}

impl Node {
    fn new(lan: &Lan, name: &str, host: u8) -> Self {
        let space = Namespace::new(name, &[]);
        let ports = [("eth0", "br0", "203.0.113"), ("eth1", "br1", "10.0.1")]
            .map(|(interface, bridge, net)| lan.plug(&space, interface, bridge, &[format!("{net}.{host}")]));
        let folder = TempDir::new().unwrap();
        let key = trunkline::config::key::generate(*b"golden route key", [0x11; 16]);
        std::fs::write(folder.path().join("cluster.key"), key).unwrap();
        std::fs::write(folder.path().join("trunkline.toml"), global(&folder, WORKERS) + &config()).unwrap();
        // The packaged file, with the program and the socket of this test, and its user; where the sources lie may be anybody's to write.
        let packaged = format!("{}/packaging/keepalived/node-{name}.conf", env!("CARGO_MANIFEST_DIR"));
        let socket = folder.path().join("admin.sock").display().to_string();
        let mut text = std::fs::read_to_string(packaged).unwrap();
        for (packaged, here) in [
            ("/usr/bin/trunkline check-local", format!("{} check-local --socket {socket}", program().display())),
            ("/usr/bin/trunkline role", format!("{} role --socket {socket}", program().display())),
            ("enable_script_security\n", "\n".to_owned()),
            ("script_user trunkline", "script_user root".to_owned()),
        ] {
            assert!(text.contains(packaged), "{packaged}");
            text = text.replace(packaged, &here);
        }
        std::fs::write(folder.path().join("keepalived.conf"), text).unwrap();
        Self { space, ports, folder, balancer: None, keepalived: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start_balancer(&mut self) {
        let mut command = self.space.command(program());
        let mut process = Process::start(command.arg("run").arg("-c").arg(self.path("trunkline.toml")));
        process.line_with("started");
        self.balancer = Some(process);
    }

    fn start_keepalived(&mut self) {
        let mut command = self.space.command("keepalived");
        command.args(["--dont-fork", "--vrrp", "--log-console", "--log-detail", "--use-file"]);
        command.arg(self.path("keepalived.conf")).arg("--pid").arg(self.path("keepalived.pid"));
        self.keepalived = Some(Process::start(command.arg("--vrrp_pid").arg(self.path("vrrp.pid"))));
    }

    /// What keepalived's notify said of it last.
    fn state(&self) -> Option<State> {
        roles::read(&roles::folder(&self.path("admin.sock"))).first().map(|role| role.state)
    }

    /// Ends keepalived's two processes at once, and leaves the addresses where they are: nobody is there to take them away.
    fn kill_keepalived(&mut self) {
        for file in ["keepalived.pid", "vrrp.pid"] {
            let pid: i32 = std::fs::read_to_string(self.path(file)).unwrap().trim().parse().unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), SIGKILL).unwrap();
            std::fs::remove_file(self.path(file)).unwrap();
        }
        self.keepalived = None;
    }

    fn kill_balancer(&mut self) {
        self.balancer.take().unwrap().signal(SIGKILL);
    }

    fn stop_keepalived(&mut self) {
        let process = self.keepalived.take().unwrap();
        process.signal(SIGTERM);
        process.end();
    }
}

/// One configuration for both nodes.
fn config() -> String {
    let mut text = format!(
        "[[frontend]]\nname = \"sip\"\nbind = \"udp://{VIP}\"\ninside = \"10.0.1.10\"\naliases = [\"{DOMAIN}\"]\n\
         send_to = [\"203.0.113.0/24\"]\nbackend = \"pbx\"\n[frontend.limits]\ntrusted = [\"203.0.113.0/24\"]\n\
         [[backend]]\nname = \"pbx\"\ncheck = {{ type = \"options\", interval = \"1s\" }}\n"
    );
    for (name, weight) in REGIONS {
        let _ = write!(text, "[[backend.region]]\nname = \"{name}\"\nweight = {weight}\n");
    }
    for ((name, region), address) in SERVERS.iter().zip(servers()) {
        let _ = write!(
            text,
            "[[backend.server]]\nname = \"{name}\"\nregion = \"{region}\"\naddress = \"udp://{address}\"\n"
        );
    }
    text
}

fn servers() -> [SocketAddr; 5] {
    [101, 102, 103, 104, 105].map(|host| format!("10.0.1.{host}:5060").parse().unwrap())
}

/// Asks fifty times a second whether the pair answers, each time something new.
struct Probe {
    answers: Arc<Mutex<Vec<Instant>>>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Probe {
    fn start(client: &Namespace) -> Self {
        let (answers, end) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let socket = client.enter(|| UdpSocket::bind("203.0.113.100:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let thread = std::thread::spawn({
            let (answers, end) = (Arc::clone(&answers), Arc::clone(&end));
            move || {
                for number in 0_u64.. {
                    if end.load(Ordering::Relaxed) {
                        return;
                    }
                    let via = format!("Via: SIP/2.0/UDP 203.0.113.100:5060;branch=z9hG4bK{number};rport");
                    let lines = [format!("Call-ID: {number}@probe"), via];
                    let datagram = request("OPTIONS", &format!("sip:100@{DOMAIN}"), &[&lines[0], &lines[1]]);
                    // While nobody has the address, the host says so.
                    let _ = socket.send_to(&datagram, VIP);
                    let until = Instant::now() + Duration::from_millis(20);
                    while Instant::now() < until {
                        if socket.recv(&mut [0; 2000]).is_ok() {
                            answers.lock().unwrap().push(Instant::now());
                        }
                    }
                }
            }
        });
        Self { answers, end, thread }
    }

    /// The longest time without an answer since then, until now.
    fn silence_since(&self, then: Instant) -> Duration {
        let answers = self.answers.lock().unwrap();
        let since = std::iter::once(then).chain(answers.iter().copied().filter(|at| *at > then));
        let times: Vec<_> = since.chain([Instant::now()]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    fn stop(self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Everything that runs.
struct Pair {
    nodes: [Node; 2],
    lan: Lan,
    probe: Probe,
    calls: Generator,
    answerer: Answerer,
}

impl Pair {
    fn active(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.state() == Some(State::Master))
    }

    /// Lets the node with the addresses fail, waits until the other one has them and calls flow, and heals it: then it waits
    /// for its turn.
    fn fail(&mut self, how: &str, fault: impl FnOnce(&Lan, &mut Node), heal: impl FnOnce(&Lan, &mut Node)) {
        wait_longer("5,000 dialogs", || {
            self.answerer.servers().iter().map(|server| server.counters.dialogs.get()).sum::<u64>() >= DIALOGS
        });
        let failing = self.active().expect("a node that has the addresses");
        let at = Instant::now();
        fault(&self.lan, &mut self.nodes[failing]);
        wait_for("the other node to have the addresses", || self.nodes[1 - failing].state() == Some(State::Master));
        let (moved, started) = (at.elapsed(), self.started());
        wait_for("a second of calls", || self.started() > started + RATE as u64);
        let silence = self.probe.silence_since(at);
        println!("{how}: the other node has the addresses after {moved:?}; no answer for {silence:?}");
        assert!(silence < LONGEST_SILENCE, "{how}: no answer for {silence:?}");
        heal(&self.lan, &mut self.nodes[failing]);
        wait_for("who comes back to take nothing and wait for its turn", || {
            let [healed, other] = [failing, 1 - failing].map(|node| self.nodes[node].state());
            healed == Some(State::Backup) && other == Some(State::Master)
        });
    }

    fn started(&self) -> u64 {
        self.calls.report().total().started
    }
}

fn callers(client: &Namespace, change: impl FnOnce(&mut GeneratorOptions)) -> Generator {
    let mut options = Net(0).callers(VIP.parse().unwrap(), 1_000_000, RATE);
    options.clients = "203.0.113.101/32".parse().unwrap();
    options.habits.limit = 200_000;
    change(&mut options);
    client.enter(|| Generator::start(options).unwrap())
}

/// The pair, its clients and its servers; and phones, which register now, behind NAT, and are called when the addresses have
/// moved several times.
fn start() -> (Pair, Generator) {
    let lan = Lan::new();
    let (client, inside) = (Namespace::new("client", &[]), Namespace::new("pbx", &[]));
    lan.plug(&client, "eth0", "br0", &["203.0.113.100".into(), "203.0.113.101".into()]);
    lan.plug(&inside, "eth0", "br1", &servers().map(|server| server.ip().to_string()));
    let answerer = inside.enter(|| answer(&named(&servers()), Timers::default()));
    let mut nodes = [("a", 11), ("b", 12)].map(|(name, host)| Node::new(&lan, name, host));
    for node in &mut nodes {
        node.start_balancer();
        node.start_keepalived();
        wait_longer("a role", || matches!(node.state(), Some(State::Master | State::Backup)));
        // Here the scripts are root's, who may do anything; there they are not, and keepalived's umask is 0177.
        let folder = std::fs::metadata(roles::folder(&node.path("admin.sock"))).unwrap();
        assert_eq!(folder.permissions().mode() & 0o700, 0o700, "its owner can write the next role");
    }
    wait_longer("a node with the addresses", || nodes.iter().any(|node| node.state() == Some(State::Master)));
    // Both know that the servers are up before anybody calls.
    let good = |node: &Node| {
        let status = output(Command::new(program()).args(["status", "--socket"]).arg(node.path("admin.sock")));
        String::from_utf8(status.stdout).unwrap().contains("good: All 5 servers")
    };
    wait_for("servers that are up, from both nodes", || nodes.iter().all(good));
    let probe = Probe::start(&client);
    let calls = callers(&client, |options| {
        options.habits.mix = Mix::parse("call=3,server-bye=3,reinvite=2,server-reinvite=2").unwrap();
        options.habits.hold = HOLD;
    });
    let phones = callers(&client, |options| {
        (options.count, options.rate) = (500, 50.0);
        options.habits.mix = Mix::parse("phone=1").unwrap();
        options.habits.nat = true;
        options.habits.call_back_after = Duration::from_secs(35);
    });
    (Pair { nodes, lan, probe, calls, answerer }, phones)
}

#[test]
fn a_node_dies_in_five_ways_and_no_call_is_lost() {
    let (mut pair, phones) = start();
    pair.fail("kill -9 trunkline", |_, node| node.kill_balancer(), |_, node| node.start_balancer());
    pair.fail("stop keepalived", |_, node| node.stop_keepalived(), |_, node| node.start_keepalived());
    pair.fail(
        "cut the clients' link",
        |lan, node| lan.switch.ip(&format!("link set {} down", node.ports[0])),
        |lan, node| lan.switch.ip(&format!("link set {} up", node.ports[0])),
    );
    pair.fail(
        "freeze trunkline",
        |_, node| node.balancer.as_ref().unwrap().signal(SIGSTOP),
        |_, node| node.balancer.as_ref().unwrap().signal(SIGCONT),
    );
    pair.fail(
        "lose the node",
        |lan, node| {
            node.ports.iter().for_each(|port| lan.switch.ip(&format!("link set {port} down")));
            node.kill_keepalived();
            node.kill_balancer();
        },
        |lan, node| {
            for (interface, address) in [("eth0", "203.0.113.10"), ("eth1", "10.0.1.10")] {
                node.space.ip(&format!("addr flush dev {interface} to {address}/32"));
            }
            node.ports.iter().for_each(|port| lan.switch.ip(&format!("link set {port} up")));
            node.start_balancer();
            node.start_keepalived();
        },
    );

    let Pair { calls, probe, answerer, mut nodes, .. } = pair;
    calls.stop_starting();
    let reports = [calls.finish().unwrap(), phones.finish().unwrap()];
    probe.stop();
    let answered = stop(answerer);
    for node in &mut nodes {
        println!("{}", node.balancer.as_mut().unwrap().said());
    }
    for report in reports {
        let total = report.total();
        assert_eq!((total.lost, total.refused_total(), total.answered), (0, 0, total.started), "{report}\n{answered}");
        assert!(report.succeeded(), "{report}");
        assert_eq!((report.misdirected, report.moved), (0, 0), "{report}");
        println!("{report}");
    }
    assert!(answered.succeeded() && answered.misdirected() == 0, "{answered}");
}
