//! Checks over TCP and TLS by the real process: who lets nobody in, who is not whom we asked for, and who is back.

mod support;

use std::fs;

use nix::sys::signal::Signal;
use support::pki::Pki;
use support::regions::{Net, SERVERS, answer_over};
use trunkline::load::{AnswererOptions, Behaviour, Generator, Mix, ServerTls};
use trunkline::sip::Transport;

const OFTEN: &str = "check = { interval = \"1s\", timeout = \"1s\", fall = 2, rise = 1, fast_interval = \"200ms\" }";

#[test]
fn a_tcp_server_that_lets_nobody_in_is_found_out_and_comes_back() {
    let net = Net(72);
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().zip(addresses).map(|((name, _), address)| (*name, address)).collect();
    let servers = answer_over(Transport::Tcp, &named, AnswererOptions::default());
    let (mut balancer, at) = net.balance_by(["udp", "tcp"], &addresses, ["", OFTEN, ""]);
    let gone = servers.server("lagos-2").unwrap();
    gone.behave(Behaviour::Closed);
    let dead = balancer.process.turns("pbx/lagos-2", "dead");
    assert!(dead.contains("nobody there"), "{dead}");
    // The others have all calls meanwhile.
    let mut options = net.callers(at, 200, 200.0);
    options.habits.mix = Mix::parse("call=1").unwrap();
    let report = Generator::start(options.clone()).unwrap().finish().unwrap();
    assert!(report.succeeded() && report.total().answered == 200, "{report}");
    assert_eq!(gone.counters.new_calls.get(), 0);
    gone.behave(Behaviour::Normal);
    balancer.process.turns("pbx/lagos-2", "up");
    let report = Generator::start(options).unwrap().finish().unwrap();
    assert!(report.succeeded() && gone.counters.new_calls.get() > 0, "{report}");
    servers.stop().unwrap();
    balancer.stop();
}

#[test]
fn a_tls_server_that_is_somebody_else_is_down_and_the_log_says_why() {
    let (net, pki) = (Net(73), Pki::new());
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().zip(addresses).map(|((name, _), address)| (*name, address)).collect();
    pki.put(&pki.path("pbx.pem"), &pki.pem("pbx", "DNS:pbx.example.ng"));
    let certificate = Some(ServerTls { certificate: pki.path("pbx.pem"), key: None });
    let servers = answer_over(Transport::Tls, &named, AnswererOptions { certificate, ..AnswererOptions::default() });
    let backend = format!("{OFTEN}\n[backend.tls]\nca = {:?}\n", pki.path("root.ca"));
    let each = "tls_name = \"other.example.ng\"";
    let (mut balancer, _) = net.balance_by(["udp", "tls"], &addresses, ["", &backend, each]);
    let why = balancer.process.line_with("check: ");
    assert!(why.contains("other.example.ng") && why.contains("pbx.example.ng"), "{why}");
    for _ in SERVERS {
        let dead = balancer.process.line_with("to=\"dead\"");
        assert!(dead.contains("TLS"), "{dead}");
    }
    // Asked for by its name, each is believed.
    let file = balancer.folder.path().join("trunkline.toml");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("other.example.ng", "pbx.example.ng")).unwrap();
    balancer.process.signal(Signal::SIGHUP);
    for _ in SERVERS {
        balancer.process.line_with("to=\"up\"");
    }
    servers.stop().unwrap();
    balancer.stop();
}
