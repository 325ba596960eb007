//! The load generator and the answering servers against each other: in a simulated network, with and without the
//! deciding core between them, and over sockets on the loopback.

#[path = "support/core.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod core;
#[path = "support/sim.rs"]
mod sim;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use core::{Node, wire};
use sim::{Setup, Sim, every_scenario};
use trunkline::load::flood::FloodOptions;
use trunkline::load::{
    Answerer, AnswererOptions, Behaviour, CallReport, Carrier, Flood, Generator, GeneratorOptions, Habits, Listen,
    Manner, Mix, Scenario, Timers, Weather,
};
use trunkline::net::udp::clock;

const BAD_WEATHER: Weather = Weather { lose: 0.05, duplicate: 0.05, reorder: 0.05 };

const REGIONS: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060"]
inside = "10.0.1.10"
aliases = ["sip.example.ng"]
backend = "opensips"

[[backend]]
name = "opensips"
[[backend.region]]
name = "lagos"
weight = 70
[[backend.region]]
name = "abuja"
weight = 15
[[backend.region]]
name = "asaba"
weight = 15
[[backend.server]]
name = "lagos-1"
region = "lagos"
address = "udp://10.0.10.11:5060"
[[backend.server]]
name = "abuja-1"
region = "abuja"
address = "udp://10.0.10.12:5060"
[[backend.server]]
name = "asaba-1"
region = "asaba"
address = "udp://10.0.10.13:5060"
"#;

fn regions() -> Vec<(&'static str, &'static str)> {
    vec![("lagos-1", "10.0.10.11:5060"), ("abuja-1", "10.0.10.12:5060"), ("asaba-1", "10.0.10.13:5060")]
}

/// Asserts that everything that was started was answered, at both ends, and nothing went astray.
fn assert_clean(sim: &mut Sim, starts: u64) -> CallReport {
    sim.pass(Duration::from_secs(60));
    let report = sim.report();
    assert!(report.succeeded(), "{report}\n{:?}", sim.dropped);
    assert_eq!(report.total().answered, starts);
    let (incoming, call_backs) = sim.server_books();
    let phones = report.scenario(Scenario::Phone).started;
    assert_eq!((call_backs.started, call_backs.answered), (phones, phones), "{call_backs:?}");
    let cancelled = report.scenario(Scenario::Cancel).started;
    assert_eq!(incoming.started, incoming.answered + cancelled, "{incoming:?}");
    assert_eq!(incoming.refused_total(), cancelled, "{incoming:?}");
    assert_eq!(sim.misdirected(), 0);
    report
}

#[test]
fn every_scenario_completes_between_clients_and_a_server() {
    for (nat, trying) in [(false, false), (true, true)] {
        let manner = Manner { trying, ring_after: Duration::from_millis(200), ..Manner::default() };
        let mut sim = Sim::new(Setup { mix: every_scenario(), nat, manner, ..Setup::default() });
        sim.run(900, Duration::from_millis(10));
        let report = assert_clean(&mut sim, 900);
        assert!(Scenario::ALL.iter().all(|scenario| report.scenario(*scenario).answered == 100), "{report}");
        assert_eq!(report.traffic.retransmitted, 0, "nothing was lost, so nothing was sent twice");
        // A final answer to each request but ACK; 180 to every call, or 100 and then no 180 to those that are cancelled.
        let counters = &sim.view("a").counters;
        let requests: u64 = counters.requests.iter().map(|count| count.get()).sum();
        let provisional = if trying { 500 + 400 } else { 500 };
        assert_eq!(counters.responses.get(), requests - counters.requests_of("ACK") + provisional, "{report}");
        assert_eq!((counters.requests_of("INVITE"), counters.new_calls.get()), (600, 500));
    }
}

#[test]
fn every_scenario_survives_losses_duplicates_and_reordering() {
    for seed in 1..=5 {
        let mut sim = Sim::new(Setup { mix: every_scenario(), weather: BAD_WEATHER, seed, ..Setup::default() });
        sim.run(900, Duration::from_millis(10));
        let report = assert_clean(&mut sim, 900);
        assert!(report.traffic.retransmitted > 100, "seed {seed}: the weather was bad: {report}");
    }
}

#[test]
fn every_scenario_survives_bad_weather_through_the_balancer_and_behind_nat() {
    for (seed, nat) in [(1, true), (2, false), (3, true)] {
        let (node, servers) = (Some(Node::new(REGIONS)), regions());
        let setup = Setup { mix: every_scenario(), nat, weather: BAD_WEATHER, seed, servers, node, ..Setup::default() };
        let mut sim = Sim::new(setup);
        sim.run(900, Duration::from_millis(10));
        assert_clean(&mut sim, 900);
    }
}

/// What never arrives is missed, whoever could have gone on without it.
#[test]
fn what_a_balancer_swallows_is_seen() {
    for trying in [false, true] {
        let manner = Manner { trying, ring_after: Duration::from_millis(100), ..Manner::default() };
        let mix = || Mix::only(Scenario::Cancel);
        let mut sim = Sim::new(Setup { mix: mix(), manner, ..Setup::default() });
        sim.swallows = "CANCEL";
        sim.run(30, Duration::from_millis(10));
        let report = sim.report();
        assert_eq!((report.total().lost, report.total().answered), (30, 0), "{report}");

        let mut sim = Sim::new(Setup { mix: mix(), manner, ..Setup::default() });
        sim.swallows = "ACK";
        sim.run(30, Duration::from_millis(10));
        sim.pass(Duration::from_secs(60));
        assert_eq!(sim.view("a").counters.without_ack.get(), 30, "nobody acknowledged a refusal");
    }
}

#[test]
fn the_servers_shares_are_seen_by_name() {
    let (node, servers) = (Some(Node::new(REGIONS)), regions());
    let mut sim = Sim::new(Setup { servers, node, ..Setup::default() });
    sim.run(4000, Duration::from_millis(1));
    let report = assert_clean(&mut sim, 4000);
    let shares: Vec<(&str, f64)> = report.servers.iter().map(|(name, n)| (name.as_str(), *n as f64 / 40.0)).collect();
    let near = |at: usize, name: &str, percent: f64| shares[at].0 == name && (shares[at].1 - percent).abs() < 3.0;
    assert!(near(0, "abuja-1", 15.0) && near(1, "asaba-1", 15.0) && near(2, "lagos-1", 70.0), "{shares:?}");
    for (name, calls) in &report.servers {
        assert_eq!(sim.view(name).counters.new_calls.get(), *calls, "{name} says the same");
    }
}

#[test]
fn servers_ring_off_and_reinvite_by_share_where_the_caller_has_no_wishes() {
    // A plain INVITE, as from another client.
    let manner = Manner { bye_share: 1.0, reinvite_share: 1.0, hold: Duration::from_secs(1), ..Manner::default() };
    let mut sim = Sim::new(Setup { manner, ..Setup::default() });
    let (client, server): (SocketAddr, SocketAddr) =
        ("198.51.100.1:30000".parse().unwrap(), "10.0.10.11:5060".parse().unwrap());
    // One call of our own makes the server's address known to the clients.
    sim.run(1, Duration::from_secs(1));
    sim.inject(client, server, invite("strange", "z9hG4bKs1", client));
    sim.pass(Duration::from_millis(100));
    sim.inject(client, server, wire("ACK sip:server@10.0.10.11 SIP/2.0\nVia: SIP/2.0/UDP 198.51.100.1:30000;branch=z9hG4bKs2\nFrom: <sip:a@b>;tag=1\nTo: <sip:c@d>\nCall-ID: strange\nCSeq: 1 ACK\n"));
    sim.pass(Duration::from_secs(60));
    // The clients know no such dialog and refuse the re-INVITE: it had been sent, inside a dialog, to the Contact.
    let (incoming, _) = sim.server_books();
    assert_eq!(incoming.stranded_by_status.get(&481), Some(&1), "{incoming:?}");
    assert_eq!(sim.report().misdirected, 1);
}

fn invite(call_id: &str, branch: &str, client: SocketAddr) -> Vec<u8> {
    wire(&format!(
        "INVITE sip:service@test SIP/2.0
         Via: SIP/2.0/UDP {client};branch={branch}
         Max-Forwards: 70
         From: <sip:a@test>;tag=1
         To: <sip:service@test>
         Call-ID: {call_id}
         CSeq: 1 INVITE
         Contact: <sip:a@{client}>
         Content-Length: 0
"
    ))
}

// ---- over sockets -------------------------------------------------------------------------------------------------

/// Timers for tests: what takes 32 s by RFC 3261 takes a third of a second.
fn quick() -> Timers {
    Timers::from_t1(Duration::from_millis(5))
}

fn answerer(names: &[&str], timers: Timers) -> Answerer {
    let servers = names.iter().map(|name| ((*name).to_owned(), Listen::udp("127.0.3.1:0".parse().unwrap()))).collect();
    Answerer::start(&AnswererOptions { servers, timers, ..AnswererOptions::default() }).unwrap()
}

fn options(to: SocketAddr, mix: Mix, count: u64, timers: Timers) -> GeneratorOptions {
    GeneratorOptions {
        habits: Habits {
            to,
            domain: to.to_string(),
            mix,
            hold: Duration::from_millis(20),
            nat: false,
            body: 0,
            call_back_after: Duration::ZERO,
            limit: 10_000,
        },
        timers,
        rate: 500.0,
        count,
        duration: Duration::from_secs(60),
        clients: "127.0.1.0/24".parse().unwrap(),
        sockets: 4,
        carrier: Carrier::Udp,
        weather: Weather::default(),
        seed: 1,
    }
}

fn call(options: GeneratorOptions) -> CallReport {
    Generator::start(options).unwrap().finish().unwrap()
}

/// Waits for a condition; the deadline is a failure, not a measure.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = clock() + Duration::from_secs(10);
    while !condition() {
        assert!(clock() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn over_sockets_every_scenario_completes() {
    let answerer = answerer(&["a"], Timers::default());
    let report = call(options(answerer.servers()[0].address, every_scenario(), 450, Timers::default()));
    assert!(report.succeeded(), "{report}");
    assert_eq!((report.total().answered, report.incoming.answered), (450, 50));
    let answered = answerer.stop().unwrap();
    assert!(answered.succeeded(), "{answered}");
    assert_eq!(answered.servers[0].counters.requests_of("CANCEL"), 50);
}

#[test]
fn over_sockets_every_scenario_survives_bad_weather() {
    let timers = Timers::from_t1(Duration::from_millis(40));
    let answerer = answerer(&["a"], timers);
    let options = options(answerer.servers()[0].address, every_scenario(), 450, timers);
    let report = call(GeneratorOptions { weather: BAD_WEATHER, seed: 7, ..options });
    assert!(report.succeeded(), "{report}");
    assert!(report.damage.lost > 0 && report.damage.duplicated > 0 && report.damage.delayed > 0, "{report}");
    let answered = answerer.stop().unwrap();
    assert!(answered.succeeded(), "{answered}");
}

#[test]
fn the_clients_stay_until_the_servers_have_heard_everything() {
    let timers = Timers::from_t1(Duration::from_millis(40));
    let answerer = answerer(&["a"], timers);
    let options = options(answerer.servers()[0].address, Mix::only(Scenario::ServerBye), 100, timers);
    // Seven INVITEs are lost in a row once in ten million calls; at twice the loss it was one run of two hundred in which
    // somebody gave up, as he should.
    let weather = Weather { lose: 0.1, ..Weather::default() };
    let report = call(GeneratorOptions { weather, rate: 5000.0, ..options });
    assert!(report.succeeded(), "{report}");
    // The last thing in a call is the 200 to the server's BYE: where it got lost, the BYE comes again.
    let answered = answerer.stop().unwrap();
    assert!(answered.succeeded() && answered.totals().0.answered == 100, "{answered}");
}

/// A client by hand.
struct Hand(UdpSocket);

impl Hand {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.1.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Sends a request and gives the first answer that is no 1xx.
    fn ask(&self, to: SocketAddr, request: &[u8]) -> String {
        self.0.send_to(request, to).unwrap();
        loop {
            let mut bytes = [0; 4096];
            let len = self.0.recv(&mut bytes).expect("an answer");
            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
            if !text.starts_with("SIP/2.0 1") {
                return text;
            }
        }
    }

    fn in_dialog(&self, method: &str, number: u32, answer: &str) -> Vec<u8> {
        let line = |name: &str| answer.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        let head = format!(
            "{method} sip:server@test SIP/2.0\nVia: SIP/2.0/UDP {};branch=z9hG4bK{method}{number}",
            self.address()
        );
        let [from, to, call_id] = [line("From:"), line("To:"), line("Call-ID:")];
        wire(&format!(
            "{head}\nMax-Forwards: 70\n{from}\n{to}\n{call_id}\nCSeq: {number} {method}\nContent-Length: 0\n"
        ))
    }
}

#[test]
fn a_request_that_reaches_the_wrong_server_is_refused_and_counted_as_misdirected() {
    // Timers so slow that the 200 is not repeated between the lines.
    let answerer = answerer(&["right", "wrong"], Timers::from_t1(Duration::from_secs(30)));
    let [right, wrong] = [0, 1].map(|n| answerer.servers()[n].clone());
    let hand = Hand::new();
    let accepted = hand.ask(right.address, &invite("stray-1", "z9hG4bKi1", hand.address()));
    assert!(accepted.starts_with("SIP/2.0 200 OK") && accepted.contains("X-Server: right"), "{accepted}");
    hand.0.send_to(&hand.in_dialog("ACK", 1, &accepted), right.address).unwrap();

    let refused = hand.ask(wrong.address, &hand.in_dialog("BYE", 2, &accepted));
    assert!(refused.starts_with("SIP/2.0 481 ") && refused.contains("X-Server: wrong"), "{refused}");
    assert_eq!(wrong.counters.misdirected.get(), 1);
    let refused = hand.ask(wrong.address, &hand.in_dialog("INVITE", 3, &accepted));
    assert!(refused.starts_with("SIP/2.0 481 "), "{refused}");
    // The ACK to that refusal belongs to it and is not misdirected once more; the ACK of another call is.
    hand.0.send_to(&hand.in_dialog("ACK", 3, &accepted).replace_branch("ACK3", "INVITE3"), wrong.address).unwrap();
    hand.0.send_to(&hand.in_dialog("ACK", 4, &accepted), wrong.address).unwrap();
    until("both ACKs were counted", || wrong.counters.requests_of("ACK") == 2);
    until("the strange ACK was counted", || wrong.counters.misdirected.get() == 3);

    let ended = hand.ask(right.address, &hand.in_dialog("BYE", 2, &accepted));
    assert!(ended.starts_with("SIP/2.0 200 OK"), "{ended}");
    // The right call with somebody else's To tag is another dialog.
    let other = String::from_utf8(hand.in_dialog("BYE", 9, &accepted)).unwrap().replace("\r\nCall-ID", "0\r\nCall-ID");
    let refused = hand.ask(right.address, other.as_bytes());
    assert!(refused.starts_with("SIP/2.0 481 "), "{refused}");
    assert_eq!(right.counters.misdirected.get(), 1);
    // It comes again: answered alike, counted as a retransmission, and no misdirected request.
    let again = hand.ask(right.address, &hand.in_dialog("BYE", 2, &accepted));
    assert_eq!(again, ended);
    assert_eq!((right.counters.misdirected.get(), right.counters.retransmissions.get()), (1, 1));
    let report = answerer.stop().unwrap();
    assert_eq!(report.misdirected(), 4);
    assert!(!report.succeeded() && report.balances(), "{report}");
}

trait ReplaceBranch {
    fn replace_branch(self, from: &str, to: &str) -> Vec<u8>;
}

impl ReplaceBranch for Vec<u8> {
    fn replace_branch(self, from: &str, to: &str) -> Vec<u8> {
        String::from_utf8(self).unwrap().replace(&format!("z9hG4bK{from}"), &format!("z9hG4bK{to}")).into_bytes()
    }
}

#[test]
fn calls_to_a_silent_server_are_lost_and_counted_as_lost() {
    let answerer = answerer(&["a"], quick());
    answerer.servers()[0].behave(Behaviour::Silent);
    let report = call(options(answerer.servers()[0].address, every_scenario(), 90, quick()));
    let total = report.total();
    assert_eq!((total.started, total.lost, total.answered), (90, 90, 0), "{report}");
    assert!(report.balances() && !report.succeeded());
    // At most 7 times for an INVITE and 11 for another request (T2 = 8 * T1, RFC 3261 §17.1): on a busy machine fewer.
    assert!(report.traffic.retransmitted >= 90 && report.traffic.sent <= 50 * 7 + 40 * 11, "{report}");
    assert_eq!(answerer.servers()[0].counters.new_calls.get(), 0);
}

#[test]
fn a_closed_server_refuses_by_icmp_and_answers_again_when_it_is_back() {
    let answerer = answerer(&["a"], quick());
    let server = answerer.servers()[0].clone();
    server.behave(Behaviour::Closed);
    let probe = UdpSocket::bind("127.0.1.1:0").unwrap();
    probe.connect(server.address).unwrap();
    probe.set_nonblocking(true).unwrap();
    let refused = |kind| kind == Some(ErrorKind::ConnectionRefused);
    until("ICMP says that the port is closed", || refused(probe.send(b"\r\n\r\n").err().map(|error| error.kind())));
    let report = call(options(server.address, Mix::only(Scenario::Call), 20, quick()));
    assert_eq!((report.total().lost, report.total().started), (20, 20), "{report}");

    server.behave(Behaviour::Normal);
    until("the port is open", || {
        let sent = probe.send(b"\r\n\r\n").err().map(|error| error.kind());
        let received = probe.recv(&mut [0; 16]).err().map(|error| error.kind());
        !refused(sent) && !refused(received)
    });
    let report = call(options(server.address, Mix::only(Scenario::Call), 20, Timers::default()));
    assert!(report.succeeded(), "{report}");
}

#[test]
fn a_status_is_a_refusal_by_that_status_and_leaves_established_calls_alone() {
    let timers = Timers::default();
    let answerer = answerer(&["a"], timers);
    let server = answerer.servers()[0].clone();
    let mut established = options(server.address, Mix::only(Scenario::Reinvite), 50, timers);
    (established.habits.hold, established.rate) = (Duration::from_secs(2), 10_000.0);
    let before = Generator::start(established).unwrap();
    // More, where some have already sent what belongs to their re-INVITE.
    until("all calls are established", || server.counters.requests_of("ACK") >= 50);
    server.behave(Behaviour::Status(503));
    let report = call(options(server.address, Mix::parse("call,options").unwrap(), 40, timers));
    assert_eq!(report.total().refused.get(&503), Some(&40), "{report}");
    assert_eq!((report.total().started, report.total().refused_total()), (40, 40));
    assert!(report.balances() && !report.succeeded());
    let before = before.finish().unwrap();
    assert!(before.succeeded(), "{before}");
    assert_eq!(server.counters.misdirected.get(), 0, "the ACK to a refusal is not misdirected");
}

#[test]
fn a_server_that_only_tries_loses_the_call() {
    let answerer = answerer(&["a"], quick());
    answerer.servers()[0].behave(Behaviour::Only100);
    let report = call(options(answerer.servers()[0].address, Mix::parse("call=3,cancel").unwrap(), 20, quick()));
    assert_eq!(report.scenario(Scenario::Call).lost, 15, "{report}");
    // A 100 is a provisional answer too: CANCEL goes out and ends the call.
    assert_eq!(report.scenario(Scenario::Cancel).answered, 5, "{report}");
    assert_eq!(report.setup.count, 5, "a 100 is no answer worth measuring; the 487s are");
}

#[test]
fn a_server_calls_registered_phones_when_ordered_to() {
    let answerer = answerer(&["a"], Timers::default());
    let server = answerer.servers()[0].clone();
    let mut phones = options(server.address, Mix::only(Scenario::Phone), 10, Timers::default());
    // They ask to be called in a minute; who ends before that has been called by order.
    phones.habits.call_back_after = Duration::from_secs(60);
    let generator = Generator::start(phones).unwrap();
    until("all phones are registered", || server.counters.registrations.get() == 10);
    server.call_back(10);
    let report = generator.finish().unwrap();
    assert!(report.succeeded(), "{report}");
    assert_eq!((report.incoming.started, report.scenario(Scenario::Phone).answered), (10, 10));
    let answered = answerer.stop().unwrap();
    assert_eq!(answered.totals().1.answered, 10, "{answered}");
}

#[test]
fn a_run_that_is_cut_off_books_what_went_on() {
    let answerer = answerer(&["a"], Timers::default());
    let mut long = options(answerer.servers()[0].address, Mix::only(Scenario::Call), 30, Timers::default());
    long.habits.hold = Duration::from_secs(600);
    let generator = Generator::start(long).unwrap();
    until("all calls are established", || answerer.servers()[0].counters.requests_of("ACK") == 30);
    generator.abort();
    let report = generator.finish().unwrap();
    assert_eq!((report.total().started, report.total().unfinished), (30, 30), "{report}");
    assert!(report.balances() && !report.succeeded());
    let answered = answerer.stop().unwrap();
    assert_eq!(answered.totals().0.unfinished, 30, "{answered}");
}

#[test]
fn starts_that_find_the_table_full_are_counted_and_fail_the_run() {
    let answerer = answerer(&["a"], Timers::default());
    let mut many = options(answerer.servers()[0].address, Mix::only(Scenario::Options), 30, Timers::default());
    many.habits.limit = 10;
    let report = call(many);
    assert_eq!((report.total().answered, report.not_started), (10, 20), "{report}");
    assert!(!report.succeeded());
}

#[test]
fn a_flood_gets_an_answer_to_every_request() {
    for rate in [None, Some(20_000.0)] {
        let sinks = vec!["127.0.3.1:0".parse().unwrap(), "127.0.3.2:0".parse().unwrap()];
        let duration = Duration::from_millis(300);
        let flood = Flood::open(FloodOptions { sinks, rate, duration, ..FloodOptions::default() }).unwrap();
        let to = flood.sinks()[1];
        let report = flood.run(Some(to), &AtomicBool::new(false)).unwrap();
        assert!(report.succeeded(), "{report}");
        assert_eq!((report.answered, report.echoed), (report.sent, report.sent), "{report}");
        assert_eq!((report.lost, report.duplicates, report.stray, report.latency.count), (0, 0, 0, report.sent));
        assert!(report.sent >= 256, "{report}");
        if rate.is_some() {
            assert!(report.sent <= 6000, "an open loop keeps to its rate: {report}");
        }
    }
}

#[test]
fn a_flood_that_nobody_answers_is_lost() {
    let deaf = UdpSocket::bind("127.0.3.1:0").unwrap();
    let duration = Duration::from_millis(50);
    let flood = Flood::open(FloodOptions { outstanding: 32, sockets: 4, duration, ..FloodOptions::default() }).unwrap();
    let report = flood.run(Some(deaf.local_addr().unwrap()), &AtomicBool::new(false)).unwrap();
    assert_eq!((report.sent, report.lost, report.answered), (32, 32, 0), "{report}");
    assert!(report.balances() && !report.succeeded());
}

#[test]
fn a_flood_tells_refusals_duplicates_and_strangers_apart() {
    let server = UdpSocket::bind("127.0.3.1:0").unwrap();
    let to = server.local_addr().unwrap();
    let duration = Duration::from_millis(50);
    let options = FloodOptions { outstanding: 4, sockets: 1, duration, ..FloodOptions::default() };
    let answers = std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        for status in ["200 OK", "503 No", "200 OK", "404 No"] {
            let (len, from) = server.recv_from(&mut bytes).unwrap();
            assert_eq!(len, 600, "the size that was asked for");
            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
            let answer = format!("SIP/2.0 {status}{}", &text[text.find("\r\n").unwrap()..]);
            for _ in 0..if status == "200 OK" { 2 } else { 1 } {
                server.send_to(answer.as_bytes(), from).unwrap();
            }
            server.send_to(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bKother\r\n\r\n", from).unwrap();
        }
    });
    let report = Flood::open(options).unwrap().run(Some(to), &AtomicBool::new(false)).unwrap();
    answers.join().unwrap();
    // Each answer makes room for another request, and those are not answered.
    assert_eq!((report.sent, report.answered, report.refused_total(), report.lost), (8, 2, 2, 4), "{report}");
    assert_eq!((report.duplicates, report.stray), (2, 4), "{report}");
    assert_eq!((report.refused.get(&503), report.refused.get(&404)), (Some(&1), Some(&1)));
    assert!(report.balances() && !report.succeeded());
}
