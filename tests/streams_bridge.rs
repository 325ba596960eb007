//! One side over TCP, the other over UDP: who relies on TCP sends nothing twice, so we do, where a datagram may get lost.

mod support;

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

use support::calls::response;
use support::core::{config, golden_keys};
use support::streams::{Messages, header, invite};
use support::workers::{bound, free_port, prepare};
use trunkline::net::host;
use trunkline::net::worker::{Setup, Workers};
use trunkline::state::Snapshot;
use trunkline::state::server::{Health, ServerState};
use trunkline::state::snapshot::Ingredients;

const WORKERS: usize = 4;

/// A node in 127.`net`.0.0/16, with two servers over UDP behind one frontend, and one over TCP behind another.
struct Bridge {
    to_udp: SocketAddr,
    to_tcp: SocketAddr,
    servers: [UdpSocket; 2],
    listener: TcpListener,
    client: UdpSocket,
    text: String,
    setup: Setup,
    workers: Option<Workers>,
}

impl Bridge {
    fn new(net: u8) -> Self {
        let servers = [1, 2].map(|host| bound(&format!("127.{net}.3.{host}:0")));
        let listener = TcpListener::bind((format!("127.{net}.3.3"), 0)).unwrap();
        let outside = format!("127.{net}.1.1");
        let ports = [free_port(&outside), free_port(&outside)];
        let mut text = String::new();
        for (backend, port) in ["udp", "tcp"].iter().zip(ports) {
            text += &format!(
                "[[frontend]]\nname = \"{backend}\"\nbind = [\"udp://{outside}:{port}\", \"tcp://{outside}:{port}\"]\n\
                 inside = \"127.{net}.2.1\"\nsend_to = [\"127.{net}.0.0/16\"]\nbackend = \"{backend}\"\n\
                 [[backend]]\nname = \"{backend}\"\ncheck = {{ type = \"none\" }}\n"
            );
            let addresses = match *backend {
                "udp" => servers.iter().map(|server| server.local_addr().unwrap()).collect(),
                _ => vec![listener.local_addr().unwrap()],
            };
            for (number, address) in addresses.iter().enumerate() {
                let ip = address.ip();
                text += &format!(
                    "[[backend.server]]\nname = \"s{number}\"\naddress = \"{backend}://{address}\"\nsources = [\"{ip}\"]\n"
                );
            }
        }
        let (setup, sockets) = prepare(&config(&text), WORKERS, 100_000);
        let workers = Some(Workers::start(&setup, sockets).unwrap());
        let [to_udp, to_tcp] = ports.map(|port| format!("{outside}:{port}").parse().unwrap());
        let client = bound(&format!("127.{net}.9.1:0"));
        Self { to_udp, to_tcp, servers, listener, client, text, setup, workers }
    }

    /// Which of the two servers over UDP got a message, and from where.
    fn heard(&self) -> (usize, String, SocketAddr) {
        let mut datagram = [0; 65_535];
        for server in &self.servers {
            server.set_nonblocking(true).unwrap();
        }
        let mut found = None;
        support::process::wait_for("a datagram at a server", || {
            let mut each = self.servers.iter().enumerate();
            found = each.find_map(|(n, server)| server.recv_from(&mut datagram).ok().map(|(len, from)| (n, len, from)));
            found.is_some()
        });
        let (n, len, from) = found.unwrap();
        (n, String::from_utf8(datagram[..len].to_vec()).unwrap(), from)
    }

    /// Both servers over UDP are dead or alive from now on.
    fn renew(&self, dead: usize) {
        let (config, before) = (config(&self.text), self.setup.snapshot.load_full());
        let state = ServerState { health: Health::Dead, ..ServerState::default() };
        let port = self.servers[dead].local_addr().unwrap();
        let id = before.servers.iter().find(|server| server.address == port).unwrap().id;
        let (host, states) = (host::ask(&config, 1), HashMap::from([(id, state)]));
        let ingredients =
            Ingredients { config: &config, keys: golden_keys(), host: &host, states: &states, workers: WORKERS };
        self.setup.snapshot.store(Arc::new(Snapshot::build(&ingredients, Some(&before))));
    }

    fn hear(&self) -> (String, SocketAddr) {
        let mut datagram = [0; 65_535];
        let (len, from) = self.client.recv_from(&mut datagram).expect("a datagram");
        (String::from_utf8(datagram[..len].to_vec()).unwrap(), from)
    }

    /// A call of the client over UDP to the server over TCP: that server's connection, and the INVITE as it got there.
    fn call_over_tcp(&self) -> (TcpStream, Messages, String) {
        self.client.send_to(invite(1, "UDP").as_bytes(), self.to_tcp).unwrap();
        let (stream, _) = self.listener.accept().unwrap();
        let mut messages = Messages::of(&stream);
        let invited = messages.next().unwrap();
        (stream, messages, invited)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
    }
}

fn branch(message: &str) -> &str {
    let (_, rest) = header(message, "Via").split_once("branch=").unwrap();
    rest.split(';').next().unwrap()
}

/// What a server asks of who sent this INVITE.
fn request_of_server(invited: &str, method: &str) -> String {
    let routes: String = invited
        .split("\r\n")
        .filter_map(|line| line.strip_prefix("Record-Route: "))
        .map(|route| format!("Route: {route}\r\n"))
        .collect();
    format!(
        "{method} {} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKs1\r\nMax-Forwards: 70\r\n{routes}\
         From: {};tag=t1\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n",
        header(invited, "Contact").trim_matches(['<', '>']),
        header(invited, "To"),
        header(invited, "From"),
        header(invited, "Call-ID"),
    )
}

/// A request outside of calls.
fn message(call: usize, transport: &str) -> String {
    invite(call, transport).replace("INVITE", "MESSAGE")
}

/// The INVITE until the server has it, the MESSAGE until it is answered, and nothing of what came by UDP: its client does.
#[test]
fn what_came_over_tcp_is_sent_again_until_a_server_over_udp_answers() {
    let bridge = Bridge::new(230);
    let mut client = TcpStream::connect(bridge.to_udp).unwrap();
    let mut answers = Messages::of(&client);
    bridge.client.send_to(message(9, "UDP").as_bytes(), bridge.to_udp).unwrap();
    assert_eq!(header(&bridge.heard().1, "Call-ID"), "9@streams");
    client.write_all(invite(1, "TCP").as_bytes()).unwrap();
    let (first, invited, _) = bridge.heard();
    let (second, copy, from) = bridge.heard();
    assert_eq!((first, branch(&invited), &copy[..6]), (second, branch(&copy), "INVITE"));
    bridge.servers[second].send_to(&response(&copy, "180 Ringing", &[]), from).unwrap();
    assert!(answers.next().unwrap().starts_with("SIP/2.0 180 "));
    client.write_all(message(2, "TCP").as_bytes()).unwrap();
    let copies: Vec<_> = (0..3).map(|_| bridge.heard()).collect();
    assert!(copies.iter().all(|(n, copy, _)| *n == copies[0].0 && branch(copy) == branch(&copies[0].1)));
    assert!(copies[0].1.starts_with("MESSAGE") && branch(&copies[0].1) != branch(&invited));
    let (n, copy, from) = &copies[2];
    bridge.servers[*n].send_to(&response(copy, "200 OK", &[]), *from).unwrap();
    assert!(answers.next().unwrap().starts_with("SIP/2.0 200 "));
    // The next that a server hears is the next request.
    client.write_all(message(3, "TCP").as_bytes()).unwrap();
    assert_eq!(header(&bridge.heard().1, "Call-ID"), "3@streams");
    assert_eq!(header(&bridge.heard().1, "Call-ID"), "3@streams");
}

/// The server is dead before it answers: the next copy goes to another one, whose answer is the only one.
#[test]
fn a_call_over_tcp_is_not_lost_with_a_server_over_udp() {
    let bridge = Bridge::new(231);
    let mut client = TcpStream::connect(bridge.to_udp).unwrap();
    let mut answers = Messages::of(&client);
    client.write_all(invite(1, "TCP").as_bytes()).unwrap();
    let (first, ..) = bridge.heard();
    bridge.renew(first);
    let (second, copy, from) = loop {
        let heard = bridge.heard();
        if heard.0 != first {
            break heard;
        }
    };
    assert_eq!(header(&copy, "Call-ID"), "1@streams");
    bridge.servers[second].send_to(&response(&copy, "486 Busy Here", &[]), from).unwrap();
    assert!(answers.next().unwrap().starts_with("SIP/2.0 486 "));
    client.write_all(message(2, "TCP").as_bytes()).unwrap();
    let (_, request, from) = bridge.heard();
    bridge.servers[second].send_to(&response(&request, "200 OK", &[]), from).unwrap();
    assert_eq!(header(&answers.next().unwrap(), "Call-ID"), "2@streams");
}

/// Its BYE would be lost else, and the client's session with it.
#[test]
fn a_server_s_request_over_tcp_is_sent_again_until_the_client_answers() {
    let bridge = Bridge::new(232);
    let (mut server, mut messages, invited) = bridge.call_over_tcp();
    server.write_all(&response(&invited, "200 OK", &["Contact: <sip:pbx@127.0.0.1>"])).unwrap();
    assert!(bridge.hear().0.starts_with("SIP/2.0 200 "));
    server.write_all(request_of_server(&invited, "BYE").as_bytes()).unwrap();
    let (lost, _) = bridge.hear();
    let (copy, from) = bridge.hear();
    assert_eq!((&copy[..4], branch(&copy)), ("BYE ", branch(&lost)));
    bridge.client.send_to(&response(&copy, "200 OK", &[]), from).unwrap();
    let answer = messages.next().unwrap();
    assert_eq!(header(&answer, "CSeq"), "1 BYE", "{answer}");
}

/// Over TCP the server sends its 486 once (RFC 3261 §17.2.1); over UDP it is sent until there is an ACK.
#[test]
fn a_refusal_over_tcp_is_sent_again_until_the_client_has_it() {
    let bridge = Bridge::new(233);
    let (mut server, mut messages, invited) = bridge.call_over_tcp();
    server.write_all(&response(&invited, "486 Busy Here", &[])).unwrap();
    let refusals = [0; 3].map(|_| bridge.hear().0);
    assert!(refusals.iter().all(|refusal| refusal == &refusals[0] && refusal.starts_with("SIP/2.0 486 ")));
    let ack = invite(1, "UDP")
        .replace("INVITE", "ACK")
        .replace("To: <sip:100@sim.example>", "To: <sip:100@sim.example>;tag=t1");
    bridge.client.send_to(ack.as_bytes(), bridge.to_tcp).unwrap();
    assert!(messages.next().unwrap().starts_with("ACK "));
    // The fourth copy would come among those of what nobody answers.
    server.write_all(request_of_server(&invited, "MESSAGE").as_bytes()).unwrap();
    assert!([0; 4].map(|_| bridge.hear().0).iter().all(|heard| heard.starts_with("MESSAGE ")));
}

/// What TCP carried arrives though its sender closes behind it, and so does this.
#[test]
fn a_refusal_is_sent_again_when_its_server_has_hung_up() {
    let bridge = Bridge::new(234);
    let (mut server, messages, invited) = bridge.call_over_tcp();
    server.write_all(&response(&invited, "486 Busy Here", &[])).unwrap();
    server.shutdown(std::net::Shutdown::Both).unwrap();
    drop((server, messages));
    let refusals = [0; 3].map(|_| bridge.hear().0);
    assert!(refusals.iter().all(|refusal| refusal.starts_with("SIP/2.0 486 ")), "{refusals:?}");
}
