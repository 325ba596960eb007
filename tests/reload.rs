//! A configuration that changes while calls are running: the real process, five servers, and nothing is lost.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::process::{Balancer, Process, is_bound, output, program, wait_for, wait_longer};
use support::regions::{DOMAIN, Net, REGIONS, SERVERS, answer, stop};
use trunkline::admin::client::ask;
use trunkline::load::{
    AnswerReport, Answerer, Behaviour, CallReport, Generator, GeneratorOptions, Mix, ServerView, Timers,
};

const WORKERS: usize = 4;

/// A configuration that can be changed in a word.
#[derive(Clone)]
struct Shape {
    net: u8,
    at: SocketAddr,
    servers: [SocketAddr; 5],
    weights: [u32; 5],
    regions: [u32; 3],
    absent: Option<usize>,
    guests: Vec<SocketAddr>,
    rate: u32,
}

impl Shape {
    fn new(net: &Net) -> Self {
        Self {
            net: net.0,
            at: net.free(1),
            servers: net.servers(),
            weights: [100; 5],
            regions: REGIONS.map(|(_, share)| share as u32),
            absent: None,
            guests: Vec::new(),
            rate: 50_000,
        }
    }

    fn frontend(&self, name: &str, at: SocketAddr) -> String {
        let Self { net, rate, .. } = self;
        format!(
            "[[frontend]]\nname = \"{name}\"\nbind = \"udp://{at}\"\ninside = \"127.0.{net}.2\"\naliases = [\"{DOMAIN}\"]\n\
             send_to = [\"127.0.{net}.128/25\"]\nbackend = \"pbx\"\n[frontend.limits]\nper_source_rate = \"{rate}/s\"\n"
        )
    }

    fn text(&self) -> String {
        let mut text = self.frontend("sip", self.at);
        for guest in &self.guests {
            text += &self.frontend(&format!("guests-{}", guest.port()), *guest);
        }
        text += "[[backend]]\nname = \"pbx\"\npin = { expire = \"10m\", size = 500_000 }\n";
        let present = || SERVERS.iter().enumerate().filter(|(at, _)| self.absent != Some(*at));
        let here = |name: &str| present().any(|(_, (_, region))| *region == name);
        for ((name, _), weight) in REGIONS.iter().zip(self.regions).filter(|((name, _), _)| here(name)) {
            text += &format!("[[backend.region]]\nname = \"{name}\"\nweight = {weight}\n");
        }
        for (at, (name, region)) in present() {
            let (address, weight) = (self.servers[at], self.weights[at]);
            text += &format!(
                "[[backend.server]]\nname = \"{name}\"\nregion = \"{region}\"\naddress = \"udp://{address}\"\nweight = {weight}\n"
            );
        }
        text
    }
}

/// A frontend and a backend with so many servers; with this letter no two names have one hash.
fn crowd(at: SocketAddr, servers: usize) -> String {
    let server = |n: usize| {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n as u32 + 1);
        format!("[[backend.server]]\nname = \"a{n}\"\naddress = \"udp://{ip}:5060\"\n")
    };
    let head = format!(
        "[[frontend]]\nname = \"sip\"\nbind = \"udp://{at}\"\nbackend = \"pbx\"\n\
         [[backend]]\nname = \"pbx\"\ncheck = {{ type = \"none\" }}\n"
    );
    head + &(0..servers).map(server).collect::<String>()
}

/// Positions in a snapshot are 16 bits wide: who has more is told so, by a check and by a reload.
#[test]
fn more_servers_than_a_snapshot_has_room_for_are_refused() {
    const MANY: usize = 65_536;
    let at = Net(215).free(1);
    let running = Running::start(&crowd(at, 1));
    running.write(&crowd(at, MANY));
    let said = running.ask("reload");
    assert!(said.contains("65536 servers, more than 65000"), "{said}");
    assert!(running.ask("show info").contains("Uptime"), "it goes on");
    let check = output(Command::new(program()).args(["check", "-c"]).arg(running.path("trunkline.toml")));
    let said = String::from_utf8(check.stderr).unwrap();
    assert_eq!((check.status.code(), said.contains("65536 servers, more than 65000")), (Some(1), true), "{said}");
    running.balancer.stop();
}

/// A running balancer and its file.
struct Running {
    balancer: Balancer,
    head: String,
}

impl Running {
    fn start(text: &str) -> Self {
        Self::of(Balancer::start(WORKERS, text))
    }

    fn of(balancer: Balancer) -> Self {
        let head = support::process::global(&balancer.folder, WORKERS);
        Self { balancer, head }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.balancer.folder.path().join(name)
    }

    fn ask(&self, command: &str) -> String {
        ask(&self.path("admin.sock"), command).unwrap()
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path("trunkline.toml"), self.head.clone() + text).unwrap();
    }

    /// Writes the file and reloads it; what was said.
    fn reload(&self, text: &str) -> String {
        self.write(text);
        let said = self.ask("reload");
        assert!(said.starts_with("Success=1\n--\n"), "{said}");
        said
    }

    /// A command of the command line: exit code, stdout and stderr.
    fn command(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let file = self.path("trunkline.toml");
        let output = output(Command::new(program()).args(arguments).arg("-c").arg(file));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn name_of_configuration(&self) -> String {
        let status = self.ask("status json");
        status.split("\"configuration\":\"").nth(1).unwrap()[..16].to_owned()
    }
}

fn servers(shape: &Shape) -> Answerer {
    let named: Vec<_> = SERVERS.iter().zip(shape.servers).map(|((name, _), address)| (*name, address)).collect();
    answer(&named, Timers::default())
}

fn calls(net: &Net, to: SocketAddr, count: u64, rate: f64, mix: &str) -> Generator {
    let mut options: GeneratorOptions = net.callers(to, count, rate);
    options.habits.mix = Mix::parse(mix).unwrap();
    // Those of the last half minute are remembered.
    options.habits.limit = 200_000;
    Generator::start(options).unwrap()
}

/// Two hundred calls that are established now, and last so long.
fn established(net: &Net, to: SocketAddr, answerer: &Answerer, hold: Duration) -> Generator {
    let mut options = net.callers(to, 200, 400.0);
    (options.habits.mix, options.habits.hold) = (Mix::parse("call=1,server-bye=1").unwrap(), hold);
    let callers = Generator::start(options).unwrap();
    let established = || answerer.servers().iter().map(|server| server.counters.dialogs.get()).sum::<u64>();
    wait_for("all calls to be established", || started(&callers) == 200 && established() == 200);
    callers
}

fn started(calls: &Generator) -> u64 {
    calls.report().total().started
}

/// Waits until what was on its way to this server has come, and is read: in turn with what comes to the others.
fn settle(callers: &Generator, answerer: &Answerer, server: usize) {
    let begun = started(callers);
    wait_for("what was on its way to it", || started(callers) > begun + 1_000);
    let others = || answerer.servers().iter().enumerate().filter(|(n, _)| *n != server);
    let of_others = || others().map(|(_, other)| other.counters.new_calls.get()).sum::<u64>();
    let read = of_others();
    wait_for("it to be read", || of_others() > read + 100);
}

/// All calls came to their end, at the server where they began.
fn assert_kept(reports: &[&CallReport], answered: &AnswerReport) {
    for report in reports {
        let total = report.total();
        assert_eq!((total.lost, total.refused_total(), total.answered), (0, 0, total.started), "{report}\n{answered}");
        assert!(report.succeeded(), "{report}");
        assert_eq!((report.misdirected, report.moved, report.not_sent), (0, 0, 0), "{report}");
    }
    assert!(answered.succeeded() && answered.misdirected() == 0, "{answered}");
}

/// What one side sent, retransmissions included, is what the other has received: not one datagram is missing. Only for
/// calls in which servers send no requests; what else they are asked are checks.
fn assert_all_arrived(reports: &[&CallReport], answered: &AnswerReport) {
    let at_servers =
        |what: &dyn Fn(&ServerView) -> u64| answered.servers.iter().map(|server| what(server)).sum::<u64>();
    let checks = at_servers(&|server| server.counters.requests_of("OPTIONS"));
    let requests = at_servers(&|server| server.counters.requests.iter().map(|of| of.get()).sum());
    let (sent, received) = (|r: &&CallReport| r.traffic.sent, |r: &&CallReport| r.traffic.received);
    assert_eq!(reports.iter().map(sent).sum::<u64>(), requests - checks, "datagrams to the servers\n{answered}");
    let responses = at_servers(&|server| server.counters.responses.get());
    assert_eq!(reports.iter().map(received).sum::<u64>(), responses - checks, "datagrams to the clients\n{answered}");
}

/// Five hundred reloads while 2,000 calls a second are made: weights, servers, limits and frontends change, and each server
/// is drained and returned in turn.
#[test]
fn five_hundred_reloads_lose_nothing() {
    const RELOADS: usize = 500;
    const CALLS: u64 = 90_000;
    let net = Net(91);
    let mut shape = Shape::new(&net);
    let guests: Vec<_> = (0..4).map(|_| net.free(1)).collect();
    let answerer = servers(&shape);
    let running = Running::start(&shape.text());
    let pid = running.balancer.process.child.id();
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let callers = calls(&net, shape.at, CALLS, 2_000.0, "call=4,reinvite=1");
    wait_for("every worker to be there", || started(&callers) > 1_000);
    let before = descriptors();
    let mut guest_calls = None;
    let mut drained = None::<(usize, u64)>;
    for n in 0..RELOADS {
        // One that is removed and comes back is ready: the drained one stays.
        let other = |at: usize| (at + usize::from(drained.is_some_and(|(server, _)| server == at % 5))) % 5;
        match n % 10 {
            0 | 5 => shape.weights[n % 5] = 50 + (n * 7 % 100) as u32,
            1 => shape.absent = Some(other(n / 10 + 2)),
            2 | 7 => shape.absent = None,
            3 => shape.regions[n % 3] = 10 + (n % 80) as u32,
            4 => shape.rate = 50_000 + n as u32,
            6 => shape.absent = Some(other(n / 10 + 3)),
            // The first of them stays for the calls that are made through it.
            8 if n < 150 => shape.guests = guests[..1 + n / 10 % 4].to_vec(),
            9 if n < 150 => shape.guests.truncate(1),
            _ => shape.guests.clear(),
        }
        let said = running.reload(&shape.text());
        assert!(n % 10 != 1 || said.contains("removed"), "{said}");
        match n {
            8 => guest_calls = Some(calls(&net, guests[0], 400, 200.0, "call")),
            // Every hundred reloads another server is drained, and the state survives fifty of them.
            _ if n % 100 == 20 => {
                let server = n / 100 % 5;
                let (code, _, said) = running.command(&["drain", &format!("pbx/{}", SERVERS[server].0)]);
                assert!(code == Some(0) && said.contains("gets no new calls") && said.contains("remain"), "{said}");
                settle(&callers, &answerer, server);
                drained = Some((server, answerer.servers()[server].counters.new_calls.get()));
            }
            _ if n % 100 == 70 => {
                let (server, before) = drained.take().unwrap();
                let view = &answerer.servers()[server];
                assert_eq!(view.counters.new_calls.get(), before, "{} got calls while it was drained", view.name);
                let (code, _, said) = running.command(&["ready", &format!("pbx/{}", view.name)]);
                assert_eq!((code, said), (Some(0), format!("pbx/{} is ready\n", view.name)));
                wait_for("it gets calls again", || view.counters.new_calls.get() > before);
            }
            _ => {}
        }
        wait_for("calls between two reloads", || started(&callers) >= CALLS / RELOADS as u64 * (n as u64 + 1));
    }
    let guest_report = guest_calls.unwrap().finish().unwrap();
    let report = callers.finish().unwrap();
    wait_longer("the addresses of removed frontends to be closed", || !guests.iter().any(|guest| is_bound(*guest)));
    assert!(is_bound(shape.at));
    wait_for("descriptors to be given back, those of checks too", || descriptors() <= before);
    let answered = stop(answerer);
    running.balancer.stop();
    assert_eq!(report.total().started + guest_report.total().started, CALLS + 400);
    assert_kept(&[&report, &guest_report], &answered);
    assert_all_arrived(&[&report, &guest_report], &answered);
    let traffic = [&report, &guest_report].map(|report| report.traffic.sent + report.traffic.received);
    println!(
        "{RELOADS} reloads in {:.1} s, {} calls, {} datagrams to and from clients: lost 0, failed calls 0, misdirected 0",
        report.starting.as_secs_f64(),
        CALLS + 400,
        traffic.iter().sum::<u64>()
    );
}

/// The same where servers send requests, too: BYE, re-INVITE, calls to phones.
#[test]
fn requests_of_servers_find_their_way_through_reloads() {
    let net = Net(92);
    let mut shape = Shape::new(&net);
    let answerer = servers(&shape);
    let running = Running::start(&shape.text());
    let mix = "call=2,server-bye=2,reinvite=1,server-reinvite=1,phone=2,register=1";
    let callers = calls(&net, shape.at, 6_000, 400.0, mix);
    for n in 0..100 {
        shape.absent = (n % 2 == 0).then_some(n / 2 % 5);
        running.reload(&shape.text());
        wait_for("calls between two reloads", || started(&callers) >= 50 * (n as u64 + 1));
    }
    let report = callers.finish().unwrap();
    let answered = stop(answerer);
    running.balancer.stop();
    assert_kept(&[&report], &answered);
}

/// Calls that run when their frontend or their server is removed come to their end, and what is gone then leaves.
#[test]
fn what_is_removed_keeps_its_calls_and_then_goes() {
    let net = Net(93);
    let mut shape = Shape::new(&net);
    let guest = net.free(1);
    shape.guests = vec![guest];
    let answerer = servers(&shape);
    let short = |shape: &Shape| shape.text().replace("expire = \"10m\"", "expire = \"45s\"");
    let mut running = Running::start(&short(&shape));
    let callers = established(&net, guest, &answerer, Duration::from_secs(6));
    (shape.guests, shape.absent) = (Vec::new(), Some(0));
    let said = running.reload(&short(&shape));
    assert!(said.contains("frontend guests-") && said.contains("server pbx/lagos-1 removed"), "{said}");
    for server in answerer.servers() {
        let calls = running.ask(&format!("show calls pbx/{}", server.name));
        assert_eq!(calls.trim(), server.counters.dialogs.get().to_string(), "{}", server.name);
    }
    let (code, table, _) = running.command(&["status"]);
    assert!(
        code == Some(0) && table.lines().any(|line| line.contains("lagos-1") && line.contains("leaving")),
        "{table}"
    );
    let report = callers.finish().unwrap();
    let answered = stop(answerer);
    assert_kept(&[&report], &answered);
    // Pins of ended calls live for 32 s more.
    for gone in ["the removed server is gone", "the removed address is closed"] {
        wait_longer(gone, || running.balancer.process.said().contains(gone));
    }
    assert!(!is_bound(guest) && !running.ask("status").contains("lagos-1"));
    running.balancer.stop();
}

/// Tokens bring the calls of before a restart to their server, and no pin says that it has them.
#[test]
fn what_is_removed_after_a_restart_keeps_the_calls_of_before() {
    let net = Net(113);
    let mut shape = Shape::new(&net);
    let answerer = servers(&shape);
    let Running { balancer: Balancer { process, folder }, .. } = Running::start(&shape.text());
    let callers = established(&net, shape.at, &answerer, Duration::from_secs(14));
    process.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(process.end().0, Some(0));
    let mut process =
        Process::start(Command::new(program()).arg("run").arg("-c").arg(folder.path().join("trunkline.toml")));
    process.line_with("started");
    let mut running = Running::of(Balancer { process, folder });
    shape.absent = Some(0);
    assert!(running.reload(&shape.text()).contains("server pbx/lagos-1 removed"));
    assert_eq!(running.ask("show calls pbx/lagos-1").trim(), "0", "nobody knows of them");
    let report = callers.finish().unwrap();
    let answered = stop(answerer);
    assert_kept(&[&report], &answered);
    assert!(!running.balancer.process.said().contains("the removed server is gone"));
    running.balancer.stop();
}

/// A wildcard takes an address's place: both are there for a while, and when the address goes, what is sent to it finds the
/// wildcard. The traffic class changes on sockets that stay.
#[test]
fn a_wildcard_takes_the_place_of_an_address() {
    let net = Net(98);
    let shape = Shape::new(&net);
    let answerer = servers(&shape);
    let mut running = Running::start(&shape.text());
    let callers = calls(&net, shape.at, 12_000, 250.0, "call=4,reinvite=1");
    wait_for("calls to run", || started(&callers) > 100);
    let classes = || {
        let output = output(Command::new("ss").args(["-uanH", "--tos", "src", &net.ip(2).to_string()]));
        String::from_utf8(output.stdout).unwrap().matches("tos:0xa0").count()
    };
    assert_eq!(classes(), 0);
    let wildcard = format!("0.0.0.0:{}", shape.at.port());
    let text = shape.text().replace(&shape.at.to_string(), &wildcard).replace("aliases", "dscp = \"cs5\"\naliases");
    assert!(running.reload(&text).contains(&format!("bind udp://{wildcard} added")));
    assert_eq!(classes(), WORKERS, "inside stays, with another traffic class");
    wait_longer("the address to be closed", || !is_bound(shape.at));
    assert!(!callers.is_finished(), "under load");
    let report = callers.finish().unwrap();
    let answered = stop(answerer);
    assert!(!running.balancer.process.said().contains("may be lost"));
    running.balancer.stop();
    assert_kept(&[&report], &answered);
    assert_all_arrived(&[&report], &answered);
}

/// A disk that hangs, here a pipe that nobody writes to: the reload is refused, and whoever looks or changes something goes on.
#[test]
fn a_disk_that_hangs_refuses_a_reload_and_nothing_else() {
    let shape = Shape::new(&Net(187));
    let running = Running::start(&shape.text());
    let (file, kept) = (running.path("trunkline.toml"), running.path("kept.toml"));
    std::fs::rename(&file, &kept).unwrap();
    assert!(output(Command::new("mkfifo").arg(&file)).status.success());
    let said = running.ask("reload");
    assert!(said.contains("the disk does not answer; nothing was changed"), "{said}");
    assert_eq!(running.ask("set server pbx/lagos-1 weight 50;get weight pbx/lagos-1").trim(), "50 (initial 100)");
    std::fs::rename(&kept, &file).unwrap();
    let said = running.ask("reload");
    assert!(said.contains("reloaded, nothing differs"), "{said}");
    running.balancer.stop();
}

/// A file with every fault that there is, one that is no TOML, a key that is broken, gone or another pair's, an address
/// that another process has: each says what is wrong, to the caller and in the log, and changes nothing.
#[test]
fn a_broken_configuration_under_load_says_why_and_touches_nothing() {
    let net = Net(94);
    let shape = Shape::new(&net);
    let answerer = servers(&shape);
    let mut running = Running::start(&shape.text());
    let callers = calls(&net, shape.at, 4_000, 400.0, "call=4,reinvite=1");
    wait_for("calls to run", || started(&callers) > 100);
    let (name, servers) = (running.name_of_configuration(), running.ask("show backend;get weight pbx/lagos-1"));
    let key = std::fs::read_to_string(running.path("cluster.key")).unwrap();
    let other = trunkline::config::key::generate(*b"another route ke", [0x11; 16]);
    let taken = std::net::UdpSocket::bind((net.ip(1), 0)).unwrap();
    let mut in_use = shape.clone();
    in_use.guests = vec![taken.local_addr().unwrap()];
    let faulty = include_str!("data/faulty.toml").replace("[global]", "[globe]");
    let cases = [
        (faulty.as_str(), key.as_str(), &["there is no backend \"opensip\"", "unknown key `wieght`", " errors"][..]),
        ("[[frontend]]\nname = sip\n[[backend]\n", &key, &["not TOML"]),
        ("", &key, &["there is no frontend", "there is no backend"]),
        (&shape.text().replace("weight = 100", "weight = 0"), &key, &["nobody may serve"]),
        (&shape.text(), "nonsense", &["not TOML", "cluster.key:1"]),
        (&shape.text(), "", &["there is no cluster key any more"]),
        (&shape.text(), &other, &["its `route` secret is another one"]),
        (&in_use.text(), &key, &["another process listens there"]),
    ];
    for (text, key, expected) in cases {
        running.write(text);
        match key {
            "" => std::fs::remove_file(running.path("cluster.key")).unwrap(),
            key => std::fs::write(running.path("cluster.key"), key).unwrap(),
        }
        let (code, stdout, stderr) = running.command(&["reload"]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        for words in expected.iter().chain(&["nothing was changed"]) {
            assert!(stderr.contains(words), "no {words}: {stderr}");
        }
        assert_eq!(running.name_of_configuration(), name);
        assert_eq!(running.ask("show backend;get weight pbx/lagos-1"), servers);
        running.balancer.process.signal(nix::sys::signal::Signal::SIGHUP);
        running.balancer.process.line_with("who=SIGHUP");
        running.balancer.process.line_with(expected[0]);
    }
    std::fs::remove_file(running.path("trunkline.toml")).unwrap();
    let (code, _, stderr) = running.command(&["reload", "--socket", running.path("admin.sock").to_str().unwrap()]);
    assert!(code == Some(1) && stderr.ends_with("trunkline.toml: the file is gone; nothing was changed\n"), "{stderr}");
    std::fs::write(running.path("cluster.key"), key).unwrap();
    assert!(running.reload(&shape.text()).contains("nothing differs"));
    let report = callers.finish().unwrap();
    let answered = stop(answerer);
    running.balancer.stop();
    assert_kept(&[&report], &answered);
    assert_all_arrived(&[&report], &answered);
}

/// Frontends that need more open files than the process may have are refused before anything is touched, and those that it
/// may have cost a descriptor for each worker and address.
#[test]
fn more_frontends_than_open_files_are_refused_and_calls_go_on() {
    /// There are descriptors for their sockets, but none to spare.
    const MANY: usize = 12;
    let net = Net(99);
    let mut shape = Shape::new(&net);
    let answerer = servers(&shape);
    let mut shell = Command::new("sh");
    let script = "ulimit -n 200 && exec setpriv --bounding-set -sys_resource \"$@\"";
    shell.args(["-c", script, "sh"]).arg(program());
    let mut running = Running::of(Balancer::start_under(shell, WORKERS, &shape.text()));
    let pid = running.balancer.process.child.id();
    let sockets = || {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let is_socket = |link: std::path::PathBuf| link.to_string_lossy().starts_with("socket:");
        files.filter(|file| std::fs::read_link(file.as_ref().unwrap().path()).is_ok_and(is_socket)).count()
    };
    let callers = calls(&net, shape.at, 2_000, 400.0, "call=4,reinvite=1");
    wait_for("calls to run", || started(&callers) > 100);
    let name = running.name_of_configuration();
    shape.guests = (0..MANY).map(|_| net.free(1)).collect();
    running.write(&shape.text());
    let (code, _, stderr) = running.command(&["reload"]);
    assert_eq!(code, Some(1), "{stderr}");
    for words in ["this process may have 200", "raise LimitNOFILE=", "nothing was changed"] {
        assert!(stderr.contains(words), "no {words}: {stderr}");
    }
    assert_eq!(running.name_of_configuration(), name);
    assert!(!shape.guests.iter().any(|guest| is_bound(*guest)));
    let report = callers.finish().unwrap();
    let before = sockets();
    shape.guests.truncate(2);
    running.reload(&shape.text());
    // Each has an address outside and one inside.
    wait_for("their sockets and no more", || sockets() == before + 2 * 2 * WORKERS);
    let guests = calls(&net, shape.guests[1], 100, 400.0, "call").finish().unwrap();
    let answered = stop(answerer);
    let said = running.balancer.process.said();
    assert!(!said.contains("worker cannot"), "{said}");
    running.balancer.stop();
    assert_kept(&[&report, &guests], &answered);
    assert_all_arrived(&[&report, &guests], &answered);
}

/// A dead server is dead after a reload, too, without a moment in which it gets calls, and rises as it would have.
#[test]
fn health_survives_a_reload() {
    let net = Net(97);
    let mut shape = Shape::new(&net);
    let answerer = servers(&shape);
    let check =
        "check = { interval = \"500ms\", timeout = \"5s\", fast_interval = \"200ms\", fall = 2 }\n[[backend.region]]";
    let text = |shape: &Shape| shape.text().replacen("[[backend.region]]", check, 1);
    let mut running = Running::start(&text(&shape));
    answerer.server("lagos-1").unwrap().behave(Behaviour::Closed);
    running.balancer.process.turns("pbx/lagos-1", "dead");
    shape.weights = [90; 5];
    let slower = text(&shape).replace("500ms", "600ms");
    for text in [&text(&shape), &slower, &slower.replace("fall = 2", "fall = 3")] {
        running.reload(text);
        let status = running.ask("status json");
        let dead = format!("\"address\":\"{}\",\"health\":\"dead\"", shape.servers[0]);
        assert!(status.contains(&dead) && status.matches("\"health\":\"up\"").count() == 4, "{status}");
    }
    answerer.server("lagos-1").unwrap().behave(Behaviour::Normal);
    let line = running.balancer.process.turns("pbx/lagos-1", "up");
    assert!(line.contains("after_checks=2"), "{line}");
    answerer.server("lagos-2").unwrap().behave(Behaviour::Closed);
    running.balancer.process.turns("pbx/lagos-2", "dead");
    let unchecked = text(&shape).replace("check = {", "check = { type = \"none\",");
    running.reload(&unchecked);
    assert!(!running.ask("status json").contains("dead"), "who is not checked is up");
    running.balancer.stop();
}

/// What a reload cannot do is said, and the rest is done.
#[test]
fn what_waits_for_a_restart_is_said() {
    let net = Net(95);
    let mut shape = Shape::new(&net);
    let mut running = Running::start(&shape.text());
    let rotated = trunkline::config::key::generate(*b"golden route key", [0x22; 16]);
    std::fs::write(running.path("cluster.key"), rotated).unwrap();
    assert!(running.reload(&shape.text()).contains("1 change\n  cluster key: seals changed: 1 accepted, 1 used\n"));
    shape.weights[0] = 7;
    running.head = running.head.replace("workers = 4", "workers = 2");
    let said = running.reload(&shape.text().replace("500_000", "600_000"));
    for words in [
        "server pbx/lagos-1: weight 100 -> 7",
        "warning: workers stays at 4: a restart makes it 2",
        "warning: the pin table stays at 500000 calls: a restart makes it 600000",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let pid = running.balancer.process.child.id();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let workers = threads.filter(|thread| {
        let name = thread.as_ref().unwrap().path().join("comm");
        std::fs::read_to_string(name).unwrap().starts_with("worker-")
    });
    assert_eq!(workers.count(), WORKERS);
    running.balancer.process.line_with("changed: server pbx/lagos-1: weight 100 -> 7");
    running.balancer.stop();
}

/// Signals that other balancers know must not end this one.
#[test]
fn sigusr2_reloads_and_sigusr1_does_nothing() {
    use nix::sys::signal::Signal::{SIGHUP, SIGUSR1, SIGUSR2};
    let net = Net(96);
    let mut running = Running::start(&Shape::new(&net).text());
    let process: &mut Process = &mut running.balancer.process;
    process.signal(SIGUSR1);
    for (signal, word) in [(SIGUSR2, "who=SIGUSR2"), (SIGHUP, "who=SIGHUP")] {
        process.signal(signal);
        assert!(process.line_with("reloaded").contains(word));
    }
    assert!(Path::new(&format!("/proc/{}", process.child.id())).exists());
    running.balancer.stop();
}
