//! Thousands of calls of our own clients to our own servers through the real process, over every transport on either
//! side: none fails, none leaves its server, and the calls of one connection go to all servers.
//!
//! Clients over TCP and TLS listen nowhere: what servers ask of them (BYE, re-INVITE, calls to registered phones) reaches
//! them over their own connection or not at all.

mod support;

use std::fs;

use support::pki::Pki;
use support::regions::{Net, ROUND, SERVERS, answer_over, assert_kept, stop};
use trunkline::load::{
    AnswererOptions, CallReport, Carrier, ClientTls, Generator, GeneratorOptions, ServerTls, Sharing, StreamOptions,
    Weather,
};
use trunkline::sip::Transport;

/// So many starts are 5,000 calls, a thousand of them to phones.
const STARTS: u64 = 500 * ROUND;

/// Certificates for both sides of the balancer.
struct Certificates {
    pki: Pki,
    /// The lines of `[frontend.tls]`.
    frontend: String,
    /// The lines of `[backend.tls]`.
    backend: String,
}

impl Certificates {
    fn new() -> Self {
        let pki = Pki::new();
        let folder = pki.path("certs");
        fs::create_dir(&folder).unwrap();
        pki.put(&folder.join("sip.pem"), &pki.pem("sip", "DNS:sip.example.ng"));
        pki.put(&pki.path("pbx.pem"), &pki.pem("pbx", "DNS:pbx.example.ng"));
        let frontend = format!("[frontend.tls]\ncertificates = {folder:?}\n");
        let backend = format!("[backend.tls]\nca = {:?}\n", pki.path("root.ca"));
        Self { pki, frontend, backend }
    }

    fn client(&self) -> ClientTls {
        ClientTls { ca: Some(self.pki.path("root.ca")), name: Some("sip.example.ng".into()) }
    }

    fn server(&self) -> ServerTls {
        ServerTls { certificate: self.pki.path("pbx.pem"), key: None }
    }
}

/// What clients speak, what servers speak, how many clients there are and how they use connections, and how many starts
/// a second there are: all come to a good end, and each server has its share.
fn calls(net: &Net, transports: [Transport; 2], clients: (usize, Sharing), rate: f64) -> CallReport {
    calls_in(Weather::default(), net, transports, clients, (STARTS, rate))
}

/// The same over a network that loses datagrams of clients.
fn calls_in(
    weather: Weather,
    net: &Net,
    [outside, inside]: [Transport; 2],
    (clients, sharing): (usize, Sharing),
    (starts, rate): (u64, f64),
) -> CallReport {
    let certificates = Certificates::new();
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let certificate = (inside == Transport::Tls).then(|| certificates.server());
    let answerer = answer_over(inside, &named, AnswererOptions { certificate, ..AnswererOptions::default() });
    let frontend = if outside == Transport::Tls { certificates.frontend.as_str() } else { "" };
    let (backend, each) = match inside {
        Transport::Tls => (certificates.backend.as_str(), "tls_name = \"pbx.example.ng\""),
        _ => ("", ""),
    };
    let names = [outside, inside].map(Transport::name);
    let (balancer, at) = net.balance_by(names, &addresses, [frontend, backend, each]);
    let tls = (outside == Transport::Tls).then(|| certificates.client());
    let carrier = match outside {
        Transport::Udp => Carrier::Udp,
        _ => Carrier::Stream(StreamOptions { sharing, reconnect: false, tls }),
    };
    let options = GeneratorOptions { carrier, sockets: clients, weather, ..net.callers(at, starts, rate) };
    let report = Generator::start(options).unwrap().finish().unwrap();
    let answered = stop(answerer);
    balancer.stop();
    assert_kept(std::slice::from_ref(&report), &answered, starts);
    assert_eq!(answered.totals().0.refused_total(), starts / ROUND, "each cancelled call was at one server");
    if outside != Transport::Udp {
        let connected = report.connected.unwrap();
        let wanted = if sharing == Sharing::PerCall { starts } else { clients as u64 };
        assert_eq!((connected.opened, connected.failed, connected.broken), (wanted, 0, 0), "{report}");
    }
    report
}

#[test]
fn the_calls_of_one_tcp_connection_go_to_all_servers() {
    calls(&Net(67), [Transport::Tcp, Transport::Tcp], (1, Sharing::Shared(1)), 400.0);
}

#[test]
fn calls_with_a_tcp_connection_each() {
    calls(&Net(68), [Transport::Tcp, Transport::Tcp], (100, Sharing::PerCall), 400.0);
}

#[test]
fn the_calls_of_one_tls_connection_go_to_all_udp_servers() {
    calls(&Net(69), [Transport::Tls, Transport::Udp], (1, Sharing::Shared(1)), 400.0);
}

#[test]
fn calls_with_a_tls_connection_each_to_tls_servers() {
    calls(&Net(70), [Transport::Tls, Transport::Tls], (100, Sharing::PerCall), 250.0);
}

#[test]
fn clients_over_udp_call_servers_over_tcp() {
    calls(&Net(71), [Transport::Udp, Transport::Tcp], (100, Sharing::PerCall), 400.0);
}

/// Servers over TCP repeat nothing that is lost on its way to a client.
#[test]
fn clients_over_udp_on_a_bad_network_call_servers_over_tcp() {
    let weather = Weather { lose: 0.03, duplicate: 0.03, reorder: 0.03 };
    let transports = [Transport::Udp, Transport::Tcp];
    let report = calls_in(weather, &Net(118), transports, (100, Sharing::PerCall), (60 * ROUND, 120.0));
    assert!(report.damage.lost > 100, "{report}");
}
