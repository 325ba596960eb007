//! Servers that are written with a name: a real nameserver changes, fails and lies, and calls go on.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
use support::process::{Balancer, Process, global, output, program};
use support::regions::{DOMAIN, Net, answer, stop};
use tempfile::TempDir;
use trunkline::admin::client::ask;
use trunkline::load::{Answerer, CallReport, Generator, Mix, Timers};

const WORKERS: usize = 4;

/// Longer than any time to live here, on a shared machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// NSD with the zone example.ng, which the test rewrites.
struct Nameserver {
    at: SocketAddr,
    folder: TempDir,
    process: Option<Process>,
    serial: u32,
}

impl Nameserver {
    fn new(net: &Net) -> Self {
        let (at, folder) = (net.free(53), TempDir::new().unwrap());
        let path = folder.path().display();
        let config = format!(
            "server:\n ip-address: {}@{}\n server-count: 1\n username: \"\"\n zonesdir: \"{path}\"\n database: \"\"\n\
             \n pidfile: \"{path}/pid\"\n xfrdfile: \"{path}/xfrd\"\n zonelistfile: \"{path}/zones\"\n xfrdir: \"{path}\"\n \
             rrl-ratelimit: 0\nremote-control:\n control-enable: no\nzone:\n name: \"example.ng\"\n zonefile: \"zone\"\n",
            at.ip(),
            at.port()
        );
        std::fs::write(folder.path().join("nsd.conf"), config).unwrap();
        Self { at, folder, process: None, serial: 0 }
    }

    fn start(&mut self) {
        let config = self.folder.path().join("nsd.conf");
        let mut process = Process::start(Command::new("nsd").arg("-d").arg("-c").arg(config));
        process.line_with("nsd started");
        self.process = Some(process);
    }

    /// Ends it and its children.
    fn stop(&mut self) {
        let Some(process) = self.process.take() else { return };
        process.signal(SIGTERM);
        process.end();
    }

    fn write(&mut self, ttl: u32, records: &str) {
        self.serial += 1;
        let zone = format!(
            "$ORIGIN example.ng.\n$TTL {ttl}\n@ IN SOA ns h {} 3600 900 86400 1\n@ IN NS ns\nns IN A {}\n{records}",
            self.serial,
            self.at.ip()
        );
        std::fs::write(self.folder.path().join("new"), zone).unwrap();
        std::fs::rename(self.folder.path().join("new"), self.folder.path().join("zone")).unwrap();
    }

    fn change(&mut self, ttl: u32, records: &str) {
        self.write(ttl, records);
        if let Some(process) = &self.process {
            process.signal(SIGHUP);
        }
    }

    /// Without its zone it answers SERVFAIL.
    fn lose_zone(&mut self) {
        self.stop();
        std::fs::remove_file(self.folder.path().join("zone")).unwrap();
        self.start();
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Servers on one port, as those of one name are; the balancer's addresses are on it, too.
fn one_port(net: &Net, hosts: &[u8]) -> u16 {
    let free = |port: &u16| hosts.iter().all(|host| UdpSocket::bind((net.ip(*host), *port)).is_ok());
    std::iter::repeat_with(|| net.free(1).port()).find(free).unwrap()
}

fn records(net: &Net, hosts: impl IntoIterator<Item = u8>) -> String {
    hosts.into_iter().map(|host| format!("pbx IN A {}\n", net.ip(host))).collect()
}

fn config(net: &Net, nameserver: SocketAddr, port: u16, servers: &str) -> String {
    let [at, inside] = [1, 2].map(|host| net.ip(host));
    format!(
        "[dns]\nnameservers = \"{nameserver}\"\nttl_min = \"1s\"\nttl_max = \"2s\"\ntimeout = \"500ms\"\n\
         [[frontend]]\nname = \"sip\"\nbind = \"udp://{at}:{port}\"\ninside = \"{inside}\"\naliases = [\"{DOMAIN}\"]\n\
         send_to = [\"{}\"]\nbackend = \"pbx\"\n[[backend]]\nname = \"pbx\"\n{servers}",
        net.clients()
    )
}

fn server(name: &str, address: &str) -> String {
    format!("[[backend.server]]\nname = \"{name}\"\naddress = \"udp://{address}\"\n")
}

/// The balancer and calls through it.
struct Calls {
    balancer: Balancer,
    callers: Generator,
    servers: Answerer,
    /// So much of the log was looked at.
    mark: usize,
}

impl Calls {
    fn start(net: &Net, port: u16, servers: Answerer, text: &str) -> Self {
        let balancer = Balancer::start(WORKERS, text);
        let mut options = net.callers((net.ip(1), port).into(), 1_000_000, 300.0);
        options.habits.mix = Mix::parse("call=4,reinvite=1,server-bye=1").unwrap();
        options.duration = Duration::from_secs(600);
        let callers = Generator::start(options).unwrap();
        Self { balancer, callers, servers, mark: 0 }
    }

    /// Waits for something in the log that is new since the last time.
    fn log(&mut self, text: &str) {
        let (mut said, mark) = (String::new(), self.mark);
        let deadline = Instant::now() + DEADLINE;
        loop {
            said.clear();
            said += &self.balancer.process.said();
            if let Some(at) = said[mark..].find(text) {
                self.mark = mark + at + text.len();
                return;
            }
            assert!(Instant::now() < deadline, "no \"{text}\" in what follows:\n{}", &said[mark..]);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn said(&mut self, text: &str) -> usize {
        self.balancer.process.said().matches(text).count()
    }

    fn at(&self, host: usize) -> u64 {
        self.servers.servers()[host].counters.new_calls.get()
    }

    /// Waits for so many more calls.
    fn more(&self, calls: u64) {
        let begun = self.callers.report().total().started;
        until("calls to go on", || self.callers.report().total().started >= begun + calls);
    }

    /// These servers get new calls and no others.
    fn share(&self, hosts: &[usize]) {
        // What was on its way, to servers that were taken away, too: they read it in turn with what comes to the others.
        self.more(30);
        let read: Vec<_> = hosts.iter().map(|host| self.at(*host)).collect();
        until("calls to be read", || hosts.iter().zip(&read).all(|(host, read)| self.at(*host) > read + 5));
        let before: Vec<_> = (0..self.servers.servers().len()).map(|host| self.at(host)).collect();
        until("calls at all of them", || hosts.iter().all(|host| self.at(*host) > before[*host] + 10));
        for (host, before) in before.iter().enumerate().filter(|(host, _)| !hosts.contains(host)) {
            assert_eq!(self.at(host), *before, "new calls at server {host}, which is none now");
        }
    }

    fn ask(&self, command: &str) -> String {
        ask(&self.balancer.folder.path().join("admin.sock"), command).unwrap()
    }

    /// Every call has come to its end, at the server where it began.
    fn end(self) -> CallReport {
        self.callers.stop_starting();
        let report = self.callers.finish().unwrap();
        let answered = stop(self.servers);
        self.balancer.stop();
        let total = report.total();
        assert_eq!((total.lost, total.refused_total(), total.answered), (0, 0, total.started), "{report}\n{answered}");
        assert_eq!((report.misdirected, report.moved, report.not_sent), (0, 0, 0), "{report}");
        assert!(report.succeeded() && answered.succeeded() && answered.misdirected() == 0, "{report}\n{answered}");
        println!("{} calls: failed 0, misdirected 0", total.started);
        report
    }
}

fn answerers(net: &Net, port: u16) -> Answerer {
    let servers = [("a", 11), ("b", 12), ("c", 13), ("d", 14)].map(|(name, host)| (name, (net.ip(host), port).into()));
    answer(&servers, Timers::default())
}

/// The nameserver answers that it failed, and the log says so. While it changes nobody is there: where a question met that it
/// is well once more, and fails again.
fn fail(dns: &mut Nameserver, calls: &mut Calls, well: &str) {
    loop {
        dns.lose_zone();
        calls.log("the name does not resolve; what was known of it stays");
        if calls.said("Server Failure") + calls.said("SERVFAIL") > 0 {
            break;
        }
        dns.write(1, well);
        dns.stop();
        dns.start();
        calls.log("the name resolves again");
    }
}

/// What somebody asked of a server outlasts an answer without it.
fn keeps_what_was_asked(net: &Net, port: u16, dns: &mut Nameserver, calls: &mut Calls) {
    let drained = format!("pbx/pbx@{}:{port}", net.ip(13));
    calls.ask(&format!("set server {drained} state drain"));
    dns.change(1, &records(net, [11, 12, 14]));
    calls.log(&format!("server {drained} removed"));
    dns.change(1, &records(net, [11, 12, 13, 14]));
    calls.log(&format!("server {drained} added"));
    let status = calls.ask("status");
    assert!(status.lines().any(|line| line.contains(&drained) && line.contains("drain")), "{status}");
    calls.share(&[0, 1, 3]);
    calls.ask(&format!("set server {drained} state ready"));
    calls.share(&[0, 1, 2, 3]);
}

/// Addresses come and go; the nameserver dies, fails, forgets the name, lies, answers with a time to live of nothing and
/// with more addresses than there may be.
#[test]
fn calls_go_on_whatever_the_nameserver_does() {
    let net = Net(171);
    let port = one_port(&net, &[1, 2, 11, 12, 13, 14]);
    let mut dns = Nameserver::new(&net);
    dns.write(1, &records(&net, [11, 12]));
    dns.start();
    let name = format!("pbx.example.ng:{port}");
    let mut calls = Calls::start(&net, port, answerers(&net, port), &config(&net, dns.at, port, &server("pbx", &name)));
    calls.share(&[0, 1]);
    let line = |host: u8, what: &str| format!("server pbx/pbx@{}:{port} {what}", net.ip(host));

    dns.change(1, &records(&net, [14, 12, 13, 11]));
    calls.log(&line(13, "added"));
    calls.share(&[0, 1, 2, 3]);

    keeps_what_was_asked(&net, port, &mut dns, &mut calls);
    dns.change(1, &records(&net, [11, 13, 14]));
    calls.log(&line(12, "removed"));
    let told = calls.ask("set server pbx/pbx state drain");
    let names = told.starts_with("No such server: pbx/pbx is a name; its servers are pbx/pbx@");
    assert!(names && told.contains(&format!("pbx/pbx@{}:{port}", net.ip(13))), "{told}");
    let status = calls.ask("status");
    let leaves = |line: &str| line.contains(&format!("pbx/pbx@{}:{port}", net.ip(12))) && line.contains("leaving");
    assert!(status.lines().any(leaves), "{status}");
    calls.share(&[0, 2, 3]);

    dns.stop();
    calls.log("the name does not resolve");
    calls.share(&[0, 2, 3]);
    dns.start();
    calls.log("the name resolves again");
    fail(&mut dns, &mut calls, &records(&net, [11, 13, 14]));
    let told = calls.said("the name does not resolve");
    calls.share(&[0, 2, 3]);
    dns.write(1, "");
    dns.stop();
    dns.start();
    // NXDOMAIN is the same story: nothing is said twice.
    calls.more(900);
    assert_eq!(calls.said("the name does not resolve"), told);
    calls.share(&[0, 2, 3]);
    dns.change(1, &records(&net, [11, 13, 14]));
    calls.log("the name resolves again");
    dns.change(1, "");
    calls.log("there is no such name");
    calls.share(&[0, 2, 3]);

    let lies = records(&net, [1, 2])
        + "pbx IN A 0.0.0.0\npbx IN A 224.0.1.75\npbx IN A 255.255.255.255\npbx IN A 169.254.0.1\n";
    dns.change(1, &(records(&net, [11, 14]) + &lies));
    calls.log(&line(13, "removed"));
    calls.share(&[0, 3]);
    dns.change(1, &lies);
    calls.log("every address of the answer was refused: the last good ones stay");
    for why in
        ["it is this balancer's own", "no host has it", "it is a multicast address", "it is a link-local address"]
    {
        assert_eq!(calls.said(&format!("not a server: {why}")), 1, "{why}");
    }
    calls.share(&[0, 3]);

    // Behind most of these is nobody: they get no call, for none of their checks has passed.
    dns.change(0, &records(&net, [11, 12].into_iter().chain(20..127)));
    calls.log("there are more than 64 addresses");
    // It is said when the answer is read; its servers come with the reload that follows.
    let stays = |line: &&str| line.starts_with("pbx/pbx@") && !line.contains("leaving");
    until("64 servers of the name", || calls.ask("status").lines().filter(stays).count() == 64);
    calls.share(&[0, 1]);
    dns.change(0, &records(&net, [13]));
    calls.log(&line(13, "added"));
    calls.share(&[2]);
    assert_eq!(calls.said("a request found nobody there"), 0, "{}", calls.balancer.process.said());
    calls.end();
}

/// SRV records bring ports, priorities and weights.
#[test]
fn services_have_priorities_and_weights() {
    let net = Net(172);
    let port = one_port(&net, &[1, 2, 11, 12, 13, 14]);
    let mut dns = Nameserver::new(&net);
    let hosts: String = "abcd".chars().zip(11..).map(|(host, at)| format!("{host} IN A {}\n", net.ip(at))).collect();
    let srv = |records: &[(u16, u16, char)]| {
        let line = |(priority, weight, host): &(u16, u16, char)| {
            format!("_sip._udp IN SRV {priority} {weight} {port} {host}\n")
        };
        hosts.clone() + &records.iter().map(line).collect::<String>()
    };
    dns.write(1, &srv(&[(10, 40, 'a'), (10, 20, 'b'), (20, 100, 'c')]));
    dns.start();
    let text = config(&net, dns.at, port, &server("sbc", "example.ng"));
    let mut calls = Calls::start(&net, port, answerers(&net, port), &text);
    calls.share(&[0, 1]);
    calls.more(1_500);
    let (a, b) = (calls.at(0) as f64, calls.at(1) as f64);
    let deviation = ((a + b) * 2.0 / 9.0).sqrt();
    assert!((a - (a + b) * 2.0 / 3.0).abs() < 5.0 * deviation, "{a} and {b} calls are not two to one");
    assert_eq!(calls.at(2), 0, "the second priority is for when no other can");

    // The first priority goes: the second is the first now. A record whose host is nobody is no server.
    dns.change(1, &srv(&[(20, 100, 'c'), (20, 100, 'x')]));
    calls.log(&format!("sbc@{}:{port} removed", net.ip(12)));
    calls.share(&[2]);
    dns.change(1, &srv(&[(30, 0, 'c'), (20, 7, 'd')]));
    calls.log(&format!("sbc@{}:{port} added", net.ip(14)));
    calls.share(&[3]);
    calls.end();
}

/// Without a service the host's own addresses count, on SIP's port; and `route` asks for them itself.
#[test]
fn a_name_without_a_service_is_a_host() {
    let net = Net(173);
    let port = one_port(&net, &[1, 2]);
    let mut dns = Nameserver::new(&net);
    dns.write(60, &format!("@ IN A {}\n", net.ip(11)));
    dns.start();
    let folder = TempDir::new().unwrap();
    let key = trunkline::config::key::generate(*b"golden route key", [0x11; 16]);
    std::fs::write(folder.path().join("cluster.key"), key).unwrap();
    let file = folder.path().join("trunkline.toml");
    let text = global(&folder, WORKERS)
        + &config(&net, dns.at, port, &(server("sbc", "example.ng") + &server("none", "none.example.ng")));
    std::fs::write(&file, text).unwrap();
    let run = |arguments: &[&str]| {
        let output = output(Command::new(program()).args(arguments).arg("-c").arg(&file));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, server, why) = run(&["route", "--call-id", "x"]);
    assert_eq!((code, server), (Some(0), format!("pbx/sbc@{}:5060\n", net.ip(11))), "{why}");
    assert!(why.contains("pbx/none: udp://none.example.ng has no address that can be used"), "{why}");
    dns.stop();
    let (code, _, why) = run(&["route", "--call-id", "x"]);
    assert!(code == Some(1) && why.contains("pbx/sbc: udp://example.ng has no address"), "{code:?} {why}");
    let (code, _, said) = run(&["check"]);
    assert!(code == Some(0) && said.contains("2 name(s) to resolve when it runs"), "{said}");
}

/// A dead nameserver does not stop the start, nor the servers that have an address; a reload waits for its new names.
#[test]
fn a_name_that_does_not_resolve_stops_nobody() {
    let net = Net(174);
    let port = one_port(&net, &[1, 2, 11, 12, 13, 14]);
    let mut dns = Nameserver::new(&net);
    let literal = server("fixed", &format!("{}:{port}", net.ip(14)));
    let name = format!("pbx.example.ng:{port}");
    let text = config(&net, dns.at, port, &(literal.clone() + &server("pbx", &name)));
    let mut calls = Calls::start(&net, port, answerers(&net, port), &text);
    calls.log("the name does not resolve");
    let status = calls.ask("status");
    let shown = |line: &str| line.contains(&format!("udp://{name}")) && line.contains("no address");
    assert!(status.lines().any(shown), "{status}");
    let sentence = format!("warning: 1 of 2 servers take calls; pbx/pbx has no address (udp://{name})");
    assert!(status.contains(&sentence), "{status}");
    calls.share(&[3]);
    dns.write(1, &records(&net, [11, 12]));
    dns.start();
    calls.log("the name resolves again");
    calls.share(&[0, 1, 3]);
    let states = calls.ask("show servers state");
    assert_eq!(states.matches(&format!(" pbx.example.ng {port} ")).count(), 2, "{states}");

    // Its servers are there when the reload is done, and are the same for calls that run.
    dns.change(1, &(records(&net, [11, 12]) + &format!("late IN A {}\n", net.ip(13))));
    let text = global(&calls.balancer.folder, WORKERS)
        + &config(&net, dns.at, port, &(server("pbx", &name) + &server("late", &format!("late.example.ng:{port}"))));
    let file = calls.balancer.folder.path().join("trunkline.toml");
    std::fs::write(&file, &text).unwrap();
    until("the zone to be read", || {
        let said = calls.ask("reload");
        said.contains("reloaded") && !said.contains("has no address") && calls.ask("status").contains("pbx/late@")
    });
    calls.share(&[0, 1, 2]);

    // A name of which nothing comes takes a server away: whoever asked for it is told.
    std::fs::write(&file, text.replace("late.example", "latte.example")).unwrap();
    let said = calls.ask("reload");
    let warning = format!("  warning: pbx/late: udp://latte.example.ng:{port} has no address that can be used\n");
    assert!(said.contains(&warning), "{said}");
    calls.share(&[0, 1]);
    calls.end();
}

/// Between balancer and nameserver: counts the questions.
fn counted(net: &Net, nameserver: SocketAddr) -> (SocketAddr, Arc<AtomicU64>, Arc<AtomicBool>) {
    let (near, far) = (UdpSocket::bind((net.ip(54), 0)).unwrap(), UdpSocket::bind((net.ip(54), 0)).unwrap());
    let (at, count, ended) =
        (near.local_addr().unwrap(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counter, end) = (Arc::clone(&count), Arc::clone(&ended));
    near.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    far.set_read_timeout(Some(Duration::from_millis(2_400))).unwrap();
    std::thread::spawn(move || {
        let mut datagram = [0; 4096];
        while !end.load(Ordering::Relaxed) {
            let Ok((length, from)) = near.recv_from(&mut datagram) else { continue };
            counter.fetch_add(1, Ordering::Relaxed);
            far.send_to(&datagram[..length], nameserver).unwrap();
            if let Ok(length) = far.recv(&mut datagram) {
                near.send_to(&datagram[..length], from).unwrap();
            }
        }
    });
    (at, count, ended)
}

/// A time to live of nothing asks no more often than `ttl_min`, for two servers of one name, too.
#[test]
fn a_time_to_live_of_nothing_makes_no_storm() {
    let net = Net(175);
    let port = one_port(&net, &[1, 2]);
    let mut dns = Nameserver::new(&net);
    dns.write(0, &records(&net, [11]));
    dns.start();
    let (at, count, ended) = counted(&net, dns.at);
    let name = format!("pbx.example.ng:{port}");
    let begin = Instant::now();
    let text = config(&net, at, port, &(server("one", &name) + &server("two", &name)));
    // Who waits longer asks nobody twice on a busy machine.
    let text = text.replace("timeout = \"500ms\"", "timeout = \"5s\"");
    let balancer = Balancer::start(WORKERS, &text);
    until("five questions", || count.load(Ordering::Relaxed) >= 5);
    let (asked, seconds) = (count.load(Ordering::Relaxed), begin.elapsed().as_secs());
    assert!(asked <= seconds + 1, "{asked} questions in {seconds} seconds");
    ended.store(true, Ordering::Relaxed);
    balancer.stop();
}
