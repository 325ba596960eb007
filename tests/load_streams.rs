//! The load over TCP and TLS: the generator and the answering servers against each other, and through workers.

mod support;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::core::config;
use support::pki::{ECDSA, Pki, Wanted};
use support::process::{output, program, spawn, wait_for};
use support::workers::{free_port, prepare};
use trunkline::load::{
    AnswerReport, Answerer, AnswererOptions, Behaviour, CallReport, Carrier, ClientTls, Generator, GeneratorOptions,
    Habits, Listen, Manner, Mix, Scenario, ServerTls, Sharing, StreamOptions, Timers, Weather,
};
use trunkline::net::worker::Workers;
use trunkline::sip::Transport;

/// One of each in turn; of a round nine starts, four of them calls that stay and one that is cancelled.
const EVERY: &str = "call,server-bye,reinvite,server-reinvite,cancel,options,message,register,phone";
const ROUND: u64 = 9;

fn stream(sharing: Sharing) -> StreamOptions {
    StreamOptions { sharing, reconnect: false, tls: None }
}

fn options(to: SocketAddr, stream: StreamOptions, count: u64) -> GeneratorOptions {
    GeneratorOptions {
        habits: Habits {
            to,
            domain: "sip.example.ng".into(),
            mix: Mix::parse(EVERY).unwrap(),
            hold: Duration::from_millis(50),
            nat: true,
            body: 300,
            call_back_after: Duration::ZERO,
            limit: 10_000,
        },
        // Nobody gives up or repeats an answer while a machine is busy; connections of calls stay T1 longer.
        timers: Timers { t1: Duration::from_secs(2), ..Timers::default() },
        rate: 500.0,
        count,
        duration: Duration::from_secs(60),
        clients: "127.0.21.0/24".parse().unwrap(),
        sockets: 4,
        carrier: Carrier::Stream(stream),
        weather: Weather::default(),
        seed: 1,
    }
}

fn answer(servers: &[(&str, &str)], transport: Transport, certificate: Option<ServerTls>) -> Answerer {
    answer_as(servers, transport, certificate, Manner::default())
}

fn answer_as(
    servers: &[(&str, &str)],
    transport: Transport,
    certificate: Option<ServerTls>,
    manner: Manner,
) -> Answerer {
    let listen = |address: &str| Listen { transport, address: address.parse().unwrap() };
    let servers = servers.iter().map(|(name, address)| ((*name).to_owned(), listen(address))).collect();
    // They repeat a 2xx over streams, too.
    let timers = Timers { t1: Duration::from_secs(2), ..Timers::default() };
    Answerer::start(&AnswererOptions { servers, manner, certificate, timers, ..AnswererOptions::default() }).unwrap()
}

fn call(options: GeneratorOptions) -> CallReport {
    Generator::start(options).unwrap().finish().unwrap()
}

/// Ends the servers when their last call has ended and all clients are gone.
fn stop(servers: Answerer) -> AnswerReport {
    let all = |of: fn(&trunkline::load::view::Counters) -> u64| {
        servers.servers().iter().map(|server| of(&server.counters)).sum::<u64>()
    };
    wait_for("the last calls to end at their servers", || all(|of| of.dialogs.get()) == 0);
    wait_for("all connections to be forgotten", || all(|of| of.connections.get()) == 0);
    servers.stop().unwrap()
}

/// Everything that was started came to its end at both ends, nothing was said twice, nothing went astray.
fn assert_clean(report: &CallReport, answered: &AnswerReport, count: u64) {
    assert!(report.succeeded() && report.total().answered == count, "{report}\n{answered}");
    assert_eq!((report.traffic.retransmitted, report.not_sent, report.stray), (0, 0, 0), "{report}");
    assert!(answered.succeeded(), "{answered}");
    let (incoming, call_backs) = answered.totals();
    let rounds = count / ROUND;
    let booked = (incoming.started, incoming.answered, incoming.refused_total(), call_backs.answered);
    assert_eq!(booked, (rounds * 5, rounds * 4, rounds, rounds), "{answered}");
}

#[test]
fn every_scenario_completes_over_tcp_however_connections_are_used() {
    for (sharing, connections) in [(Sharing::Shared(1), 4), (Sharing::Shared(5), 20), (Sharing::PerCall, 450)] {
        let servers = answer(&[("a", "127.0.22.1:0")], Transport::Tcp, None);
        let report = call(options(servers.servers()[0].address, stream(sharing), 450));
        let answered = stop(servers);
        assert_clean(&report, &answered, 450);
        let connected = report.connected.unwrap();
        assert_eq!(
            (connected.opened, connected.failed, connected.broken),
            (connections, 0, 0),
            "{sharing:?}: {report}"
        );
    }
}

#[test]
fn one_connection_carries_all_calls() {
    let servers = answer(&[("a", "127.0.22.2:0")], Transport::Tcp, None);
    let to = servers.servers()[0].address;
    let report = call(GeneratorOptions { sockets: 1, ..options(to, stream(Sharing::Shared(1)), 900) });
    assert_clean(&report, &stop(servers), 900);
    assert_eq!(report.connected.unwrap().opened, 1);
}

#[test]
fn every_scenario_completes_over_tls() {
    let pki = Pki::new();
    pki.put(&pki.path("sip.pem"), &pki.pem("sip", "DNS:sip.example.ng"));
    let shown = ServerTls { certificate: pki.path("sip.pem"), key: None };
    let servers = answer(&[("a", "127.0.22.3:0")], Transport::Tls, Some(shown));
    let to = servers.servers()[0].address;
    let tls = ClientTls { ca: Some(pki.path("root.ca")), name: Some("sip.example.ng".into()) };
    for sharing in [Sharing::Shared(2), Sharing::PerCall] {
        let carrier = StreamOptions { tls: Some(tls.clone()), ..stream(sharing) };
        let report = call(options(to, carrier, 450));
        assert!(report.succeeded() && report.total().answered == 450, "{report}");
        assert_eq!((report.traffic.retransmitted, report.not_sent), (0, 0), "{report}");
        assert_eq!(report.connected.unwrap().failed, 0, "{report}");
    }
    // Who expects somebody else, or believes other authorities, connects with nobody; who believes anybody does.
    pki.authority("other", None);
    for (wrong, answered) in [
        (ClientTls { name: Some("pbx.example.ng".into()), ..tls.clone() }, 0),
        (ClientTls { ca: Some(pki.path("other.ca")), ..tls.clone() }, 0),
        (ClientTls { ca: None, name: None }, 9),
    ] {
        let report = call(options(to, StreamOptions { tls: Some(wrong), ..stream(Sharing::PerCall) }, 9));
        let (total, connected) = (report.total(), report.connected.unwrap());
        assert!(report.balances() && total.answered == answered, "{report}");
        assert_eq!((total.lost, total.disconnected, connected.failed), (9 - answered, 9 - answered, 9 - answered));
    }
    let answered = stop(servers);
    assert!(answered.succeeded(), "{answered}");
    let (incoming, call_backs) = answered.totals();
    assert_eq!((incoming.answered, incoming.refused_total(), call_backs.answered), (404, 101, 101), "{answered}");
}

/// Calls that hold until their server is killed, on few connections.
fn holding(to: SocketAddr, reconnect: bool) -> GeneratorOptions {
    let mut options = options(to, StreamOptions { reconnect, ..stream(Sharing::Shared(1)) }, 100);
    (options.habits.mix, options.habits.hold) = (Mix::only(Scenario::Call), Duration::from_secs(2));
    options.timers.t1 = Duration::from_millis(100);
    options
}

fn wait_for_calls(generator: &Generator, servers: &Answerer, calls: u64) {
    wait_for("all calls to be established", || servers.servers()[0].books().incoming.started == calls);
    wait_for("all calls to be open", || generator.report().open == calls);
}

#[test]
fn calls_end_with_their_connection_and_later_ones_are_not_started() {
    let servers = answer(&[("a", "127.0.22.4:0")], Transport::Tcp, None);
    let view = &servers.servers()[0];
    let mut options = holding(view.address, false);
    (options.count, options.rate, options.habits.hold) = (400, 100.0, Duration::from_secs(60));
    let generator = Generator::start(options).unwrap();
    wait_for("some calls", || generator.report().response.count >= 100);
    view.behave(Behaviour::Closed);
    let report = generator.finish().unwrap();
    let total = report.total();
    assert!(report.balances() && !report.succeeded(), "{report}");
    assert_eq!(total.started + report.not_started, 400, "{report}");
    assert!(total.started >= 100 && report.not_started > 0, "{report}");
    // A call that had just begun is lost, one that was established is stranded; each with its connection.
    assert_eq!(total.lost, total.disconnected, "{report}");
    assert_eq!(total.stranded.get("disconnected").copied().unwrap_or(0) + total.lost, total.started, "{report}");
    let connected = report.connected.unwrap();
    assert_eq!((connected.opened, connected.broken, connected.failed), (4, 4, 0), "{report}");
    assert!(servers.stop().unwrap().balances());
}

#[test]
fn calls_go_on_over_a_connection_that_is_opened_again() {
    let servers = answer(&[("a", "127.0.22.5:0")], Transport::Tcp, None);
    let view = &servers.servers()[0];
    let generator = Generator::start(holding(view.address, true)).unwrap();
    wait_for_calls(&generator, &servers, 100);
    // Nobody is in the middle of something: all are talking, and ring off over new connections.
    view.behave(Behaviour::Closed);
    wait_for("the connections to break", || generator.report().connected.unwrap().broken == 4);
    view.behave(Behaviour::Normal);
    let report = generator.finish().unwrap();
    assert!(report.succeeded() && report.total().answered == 100, "{report}");
    let connected = report.connected.unwrap();
    assert!(connected.reopened >= 4 && connected.broken == 4, "{report}");
    assert_eq!(connected.opened, 4 + connected.reopened, "{report}");
    let answered = stop(servers);
    assert!(answered.succeeded() && answered.totals().0.answered == 100, "{answered}");
}

#[test]
fn nobody_there_is_counted_and_holds_nobody_up() {
    let to = SocketAddr::new("127.0.22.6".parse().unwrap(), free_port("127.0.22.6"));
    for sharing in [Sharing::Shared(1), Sharing::PerCall] {
        let report = call(options(to, stream(sharing), 90));
        let total = report.total();
        assert!(report.balances() && total.started + report.not_started == 90, "{report}");
        assert_eq!((total.answered, total.lost, total.disconnected), (0, total.started, total.started), "{report}");
        assert_eq!(report.connected.unwrap().failed, if sharing == Sharing::PerCall { 90 } else { 4 }, "{report}");
    }
}

#[test]
fn a_connection_that_takes_nothing_more_refuses_starts_and_stays_bounded() {
    // Somebody who lets in and never reads.
    let deaf = TcpListener::bind("127.0.22.7:0").unwrap();
    let mut options = options(deaf.local_addr().unwrap(), stream(Sharing::Shared(1)), 3000);
    (options.sockets, options.habits.body, options.rate) = (1, 50_000, 100_000.0);
    options.habits.mix = Mix::only(Scenario::Call);
    let generator = Generator::start(options).unwrap();
    wait_for("all starts", || generator.report().total().started + generator.report().not_started == 3000);
    generator.abort();
    let report = generator.finish().unwrap();
    // What the kernel's buffers and ours hold: some megabytes of 150.
    assert!(report.balances() && report.total().started < 500 && report.not_started > 2500, "{report}");
    assert_eq!((report.total().unfinished, report.not_sent), (report.total().started, 0), "{report}");
}

const NAMES: [&str; 5] = ["s0", "s1", "s2", "s3", "s4"];

/// 900 starts through workers: over few connections, and each over one of its own.
fn through_workers(net: u8, reuse: bool) -> AnswerReport {
    let addresses: Vec<_> = (1..=5).map(|host| format!("127.0.{net}.{host}:0")).collect();
    let named: Vec<_> = NAMES.iter().zip(&addresses).map(|(name, address)| (*name, address.as_str())).collect();
    let servers = answer_as(&named, Transport::Tcp, None, Manner { reuse, ..Manner::default() });
    let (outside, inside) = (&format!("127.0.{net}.11"), format!("127.0.{net}.12"));
    let port = free_port(outside);
    let mut text = format!(
        "[[frontend]]\nname = \"f\"\nbind = \"tcp://{outside}:{port}\"\ninside = \"{inside}\"\naliases = [\"sip.example.ng\"]\n\
         backend = \"b\"\nsend_to = [\"127.0.0.0/8\"]\n[[backend]]\nname = \"b\"\ncheck = {{ type = \"none\" }}\n"
    );
    for server in servers.servers() {
        let (name, address) = (&server.name, server.address);
        text += &format!(
            "[[backend.server]]\nname = \"{name}\"\naddress = \"tcp://{address}\"\nsources = [\"{}\"]\n",
            address.ip()
        );
    }
    let (setup, sockets) = prepare(&config(&text), 4, 100_000);
    let workers = Workers::start(&setup, sockets).unwrap();
    let to = SocketAddr::new(outside.parse().unwrap(), port);
    for (sharing, connections) in [(Sharing::Shared(1), 4), (Sharing::PerCall, 450)] {
        let report = call(options(to, stream(sharing), 450));
        assert!(report.succeeded() && report.total().answered == 450, "{sharing:?}: {report}");
        assert_eq!((report.misdirected, report.moved, report.not_sent), (0, 0, 0), "{report}");
        assert_eq!(report.connected.unwrap().opened, connections, "{report}");
        // Each source has one connection, or each call: all servers have their share of them.
        assert!(report.servers.len() == 5 && report.servers.iter().all(|(_, calls)| *calls > 40), "{report}");
    }
    let open = || servers.servers().iter().map(|server| server.counters.dialogs.get()).sum::<u64>();
    wait_for("the last calls to end at their servers", || open() == 0);
    workers.stop();
    stop(servers)
}

/// Each call that was answered was so once, each that was cancelled was cancelled where it rang, each phone was called.
fn assert_once(answered: &AnswerReport) {
    assert!(answered.succeeded(), "{answered}");
    let (incoming, call_backs) = answered.totals();
    assert_eq!((incoming.answered, incoming.refused_total(), call_backs.answered), (400, 100, 100), "{answered}");
}

#[test]
fn the_calls_of_a_connection_are_split_over_five_servers_and_come_back_over_it() {
    assert_once(&through_workers(23, false));
}

#[test]
fn servers_may_call_over_the_balancer_s_own_connections() {
    assert_once(&through_workers(24, true));
}

/// `trunkline load` with these words; its result as text.
fn load(words: &str) -> (bool, String) {
    let output = output(Command::new(program()).arg("load").args(words.split_whitespace()));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn the_commands_do_the_same() {
    let pki = Pki::new();
    let (chain, key) =
        pki.certificate("sip", &Wanted { authority: "root", names: "IP:127.0.22.9", key: ECDSA, days: "30" });
    pki.put(&pki.path("chain.pem"), &chain);
    pki.put(&pki.path("own.key"), &key);
    let address = format!("127.0.22.9:{}", free_port("127.0.22.9"));
    let mut server = Command::new(program());
    server
        .args(["load", "answer", "--server", &format!("a=tls://{address}")])
        .args(["--cert", pki.path("chain.pem").to_str().unwrap(), "--key", pki.path("own.key").to_str().unwrap()])
        .stderr(Stdio::piped());
    let mut server = spawn(&mut server).unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), format!("a answers on tls://{address}"));
    let ca = pki.path("root.ca");
    let call = format!("call --to {address} --transport tls --rate 200 --count 40 --hold 50ms --t1 100ms --json");
    let (ok, said) = load(&format!("{call} --connections per-call --mix call,phone --ca {}", ca.display()));
    assert!(ok && said.contains("\"answered\":40,") && said.contains("\"opened\":40,"), "{said}");
    let (ok, said) = load(&format!("{call} --sockets 1 --insecure"));
    assert!(ok && said.contains("\"answered\":40,") && said.contains("\"opened\":1,"), "{said}");
    let (ok, said) = load(&format!("{call} --ca {} --lose 1", ca.display()));
    assert!(!ok && said.contains("losses, duplicates and delays are for UDP"), "{said}");
    server.kill().unwrap();
    server.wait().unwrap();
}
