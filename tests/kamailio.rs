//! Kamailio behind the real process, as registrar and proxy; and in front of it, as the proxy of a carrier: over UDP, TCP and
//! TLS.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::pki::{ECDSA, Pki, Wanted};
use support::process::{Process, connections_to, is_bound, wait_for};
use support::regions::{DOMAIN, Edge, Net, ROUND, SERVERS, answer, answer_as, assert_kept, stop};
use tempfile::TempDir;
use trunkline::load::{
    AnswererOptions, Carrier, ClientTls, Generator, Listen, ServerTls, Sharing, StreamOptions, Timers,
};
use trunkline::sip::Transport;

/// Calls of each kind of clients.
const STARTS: u64 = 70 * ROUND;

/// A Kamailio with a configuration of ours.
struct Kamailio {
    process: Process,
    _folder: TempDir,
}

impl Kamailio {
    /// Starts it on an address, over UDP and beside that over what Trunkline speaks with it, and waits until it listens there.
    /// `define` is a name and a value for the configuration.
    fn start(config: &str, address: SocketAddr, speaks: Transport, define: &str, certificates: &Certificates) -> Self {
        let folder = TempDir::new().unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kamailio").join(config);
        let mut command = Command::new("kamailio");
        command.args(["-DD", "-E", "-m", "64", "-M", "8", "-l", &format!("udp:{address}"), "-A", define]);
        if speaks != Transport::Udp {
            command.args(["-l", &format!("{}:{address}", speaks.name()), "-A", &format!("SOURCE={}", address.ip())]);
        }
        if speaks == Transport::Tls {
            let tls = folder.path().join("tls.cfg");
            std::fs::write(&tls, certificates.for_kamailio()).unwrap();
            command.args(["-A", &format!("TLS_CONFIG={tls:?}")]);
        }
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

/// What everybody shows and believes over TLS: one certificate of ours, and one of all servers.
struct Certificates(Pki);

impl Certificates {
    fn new(servers: &[SocketAddr]) -> Self {
        let pki = Pki::new();
        pki.put(&pki.path("sip.pem"), &pki.pem("sip", &format!("DNS:{DOMAIN}")));
        let names: Vec<_> = servers.iter().map(|address| format!("IP:{}", address.ip())).collect();
        pki.certificate("pbx", &Wanted { authority: "root", names: &names.join(","), key: ECDSA, days: "30" });
        Self(pki)
    }

    /// Our own tables, where we speak TLS with clients and with servers.
    fn for_us(&self, outside: Transport, inside: Transport) -> [String; 2] {
        let [own, root] = ["sip.pem", "root.ca"].map(|name| self.0.path(name));
        let tables = [format!("[frontend.tls]\ncertificates = {own:?}\n"), format!("[backend.tls]\nca = {root:?}\n")];
        let mut speaks = [outside, inside].into_iter();
        tables.map(|table| if speaks.next() == Some(Transport::Tls) { table } else { String::new() })
    }

    /// What Kamailio's module `tls` reads.
    fn for_kamailio(&self) -> String {
        let [own, key, root] = ["pbx", "pbx.key", "root.ca"].map(|name| self.0.path(name).display().to_string());
        format!(
            "[server:default]\nmethod = TLSv1.2+\ncertificate = {own}\nprivate_key = {key}\n\
             [client:default]\nmethod = TLSv1.2+\nverify_certificate = yes\nrequire_certificate = yes\nca_list = {root}\n"
        )
    }

    /// What clients and servers of ours want.
    fn for_clients(&self) -> ClientTls {
        ClientTls { ca: Some(self.0.path("root.ca")), name: Some(DOMAIN.into()) }
    }

    fn for_servers(&self) -> AnswererOptions {
        let shown = ServerTls { certificate: self.0.path("pbx"), key: Some(self.0.path("pbx.key")) };
        AnswererOptions { certificate: Some(shown), trust: self.for_clients(), ..AnswererOptions::default() }
    }
}

/// Phones register through Trunkline at a Kamailio, which stores their Path, and are called from behind it: Kamailio
/// looks them up, and sends to Trunkline, which sends to the flow that the phone registered by. Clients speak UDP and
/// `outside`, servers `inside`.
fn behind(net: &Net, outside: Transport, inside: Transport) {
    let addresses = net.servers();
    let certificates = Certificates::new(&addresses);
    let mut answering = addresses.map(|address| Listen { transport: inside, address });
    // Two servers are a Kamailio, and the answering one is the PBX behind it.
    let mut kamailios = Vec::new();
    for (at, host) in [(0, 21), (3, 22)] {
        answering[at] = Listen::udp(net.free(host));
        let define = format!("PBX={}", answering[at].address);
        kamailios.push(Kamailio::start("server.cfg", addresses[at], inside, &define, &certificates));
    }
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(answering).collect();
    let answerer = answer_as(&named, certificates.for_servers());
    let [towards_clients, towards_servers] = certificates.for_us(outside, inside);
    let edge = Edge {
        outside: if outside == Transport::Udp { &["udp"] } else { &["udp", outside.name()] },
        inside: inside.name(),
        frontend: &towards_clients,
        // Patient: a server that is taken for dead on a busy machine loses the calls that ring.
        backend: &format!("check = {{ interval = \"5s\", timeout = \"5s\", fall = 100 }}\n{towards_servers}"),
        each: "",
    };
    let (mut balancer, at) = net.balance_as(&addresses, &edge);
    let clients = [Transport::Udp, outside].into_iter().zip([false, true]).map(|(transport, nat)| {
        let mut options = net.callers(at, STARTS, 70.0);
        options.habits.nat = nat;
        let tls = (transport == Transport::Tls).then(|| certificates.for_clients());
        if transport != Transport::Udp {
            options.carrier = Carrier::Stream(StreamOptions { sharing: Sharing::Shared(1), reconnect: false, tls });
        }
        Generator::start(options).unwrap()
    });
    let clients: Vec<_> = clients.collect();
    let reports: Vec<_> = clients.into_iter().map(|clients| clients.finish().unwrap()).collect();
    // Shown where the test fails.
    reports.iter().for_each(|report| println!("{report}"));
    println!("{}", balancer.process.said());
    let answered = stop(answerer);
    balancer.stop();
    drop(kamailios);
    // A call that is cancelled before Kamailio has sent it on never comes to the PBX: those are not counted here.
    assert_kept(&reports, &answered, STARTS);
}

#[test]
fn kamailio_behind_trunkline() {
    behind(&Net(44), Transport::Udp, Transport::Udp);
}

#[test]
fn kamailio_behind_trunkline_over_tcp() {
    behind(&Net(60), Transport::Tcp, Transport::Tcp);
}

#[test]
fn kamailio_behind_trunkline_over_tls() {
    behind(&Net(61), Transport::Tls, Transport::Tls);
}

/// All calls of a carrier come from one address, record-routed; calls to its phones go back by its own Path. Over a stream
/// all of that is one connection, which the carrier opened.
fn in_front(net: &Net, speaks: Transport) {
    let (addresses, front) = (net.servers(), net.free(250));
    let certificates = Certificates::new(&[front]);
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let answerer = answer(&named, Timers::default());
    let [frontend, _] = certificates.for_us(speaks, Transport::Udp);
    let (balancer, at) =
        net.balance_as(&addresses, &Edge { outside: &[speaks.name()], frontend: &frontend, ..Edge::default() });
    let define = format!("NEXT={at};transport={}", speaks.name());
    let kamailio = Kamailio::start("front.cfg", front, speaks, &define, &certificates);
    let report = Generator::start(net.callers(front, STARTS, 70.0)).unwrap().finish().unwrap();
    let answered = stop(answerer);
    let connections = connections_to(at);
    assert_eq!(connections.len(), usize::from(speaks != Transport::Udp), "{connections:?}");
    balancer.stop();
    drop(kamailio);
    assert_kept(&[report], &answered, STARTS);
}

#[test]
fn kamailio_in_front_of_trunkline() {
    in_front(&Net(45), Transport::Udp);
}

#[test]
fn kamailio_in_front_of_trunkline_over_tls() {
    in_front(&Net(62), Transport::Tls);
}
