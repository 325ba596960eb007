//! Connections to servers: shared by all clients, so nothing that one of them does may cost the others anything.

mod support;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use support::calls::response;
use support::core::{config, golden_keys};
use support::process::{Balancer, wait_for};
use support::streams::{Messages, connect_from, header, invite, is_closed, serve_tcp};
use support::workers::{bound, free_port, prepare};
use trunkline::net::host;
use trunkline::net::udp::clock;
use trunkline::net::worker::{Setup, Workers};
use trunkline::sip::Method;
use trunkline::sip::token::NameHash;
use trunkline::state::connections::End;
use trunkline::state::counters::{Counter, FrontendCounters};
use trunkline::state::server::{Health, ServerState};
use trunkline::state::snapshot::Ingredients;
use trunkline::state::{Reason, Snapshot};

const WORKERS: usize = 4;

/// A node in 127.`net`.0.0/16 before servers of the test's own.
struct Node {
    udp: SocketAddr,
    tcp: SocketAddr,
    inside: SocketAddr,
    text: String,
    setup: Setup,
    workers: Option<Workers>,
}

impl Node {
    fn new(net: u8, workers: usize, servers: &[SocketAddr]) -> Self {
        Self::of(net, workers, file(net, servers))
    }

    fn of(net: u8, workers: usize, text: String) -> Self {
        let (setup, sockets) = prepare(&config(&text), workers, 100_000);
        let started = Some(Workers::start(&setup, sockets).unwrap());
        let inside = format!("127.{net}.2.1").parse::<IpAddr>().unwrap();
        let binds = config(&text).frontends[0].binds.clone();
        let at = |transport| binds.iter().find(|bind| bind.transport.name() == transport).unwrap().address;
        let (udp, tcp) = (at("udp"), at("tcp"));
        Self { udp, tcp, inside: SocketAddr::new(inside, tcp.port()), text, setup, workers: started }
    }

    /// Goes on with another configuration of the same addresses, and these states of servers.
    fn renew(&self, text: &str, states: &HashMap<NameHash, ServerState>) {
        let (config, before) = (config(text), self.setup.snapshot.load_full());
        let host = host::ask(&config, 1);
        let ingredients = Ingredients { config: &config, keys: golden_keys(), host: &host, states, workers: WORKERS };
        self.setup.snapshot.store(Arc::new(Snapshot::build(&ingredients, Some(&before))));
    }

    /// Waits until a connection of frontend "a" was closed by its other end.
    fn notices_the_end(&self) {
        let closed = || self.setup.snapshot.load().frontends[0].live.sum(|live| live.connection_ends.of(End::Closed));
        wait_for("it to be noticed", || closed() == 1);
    }

    /// What frontend "a" counts.
    fn sum(&self, counter: fn(&FrontendCounters) -> &Counter) -> u64 {
        self.setup.snapshot.load().frontends[0].live.sum(counter)
    }

    fn dropped(&self, reason: Reason) -> u64 {
        self.setup.snapshot.load().frontends[0].live.sum(|live| live.reasons.of(reason))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
    }
}

/// Frontend "a" speaks UDP and TCP to clients; frontend "z" beside it has another port.
fn file(net: u8, servers: &[SocketAddr]) -> String {
    let outside = format!("127.{net}.1.1");
    let (port, other) = (free_port(&outside), free_port(&outside));
    let frontend = |name: &str, port: u16| {
        format!(
            "[[frontend]]\nname = \"{name}\"\nbind = [\"udp://{outside}:{port}\", \"tcp://{outside}:{port}\"]\n\
             inside = \"127.{net}.2.1\"\nsend_to = [\"127.{net}.0.0/16\"]\nbackend = \"b\"\n"
        )
    };
    let mut text = frontend("a", port) + &frontend("z", other);
    text += "[[backend]]\nname = \"b\"\ncheck = { type = \"none\" }\ntimeout = { connect = \"1s\" }\n";
    for (number, server) in servers.iter().enumerate() {
        text += &format!(
            "[[backend.server]]\nname = \"s{number}\"\naddress = \"tcp://{server}\"\nsources = [\"{}\"]\n",
            server.ip()
        );
    }
    text
}

fn listen(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Whoever connects next.
fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    wait_for("a connection", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (stream, from) = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    (stream, from)
}

/// A server that nobody can connect to, nor is refused by: its backlog is full, and the kernel answers no further SYN.
fn full_backlog(ip: &str) -> ((Socket, TcpStream), SocketAddr) {
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::new(ip.parse().unwrap(), 0).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    ((full, TcpStream::connect(address).unwrap()), address)
}

fn ask(client: &UdpSocket, node: &Node, call: usize) {
    client.send_to(invite(call, "UDP").as_bytes(), node.udp).unwrap();
}

fn hear(client: &UdpSocket) -> String {
    let mut datagram = [0; 65_535];
    let (len, _) = client.recv_from(&mut datagram).expect("an answer");
    String::from_utf8(datagram[..len].to_vec()).unwrap()
}

/// Whether nothing comes and nobody closes it for so long.
fn stays_open(stream: &TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    (&*stream).read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A request that a server sends into the dialog of an INVITE that it got.
fn from_server(invite: &str, method: &str, branch: usize) -> String {
    let routes: String = invite
        .split("\r\n")
        .filter_map(|line| line.strip_prefix("Record-Route: "))
        .map(|route| format!("Route: {route}\r\n"))
        .collect();
    let contact = header(invite, "Contact").trim_matches(['<', '>']);
    format!(
        "{method} {contact} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKs{branch}\r\nMax-Forwards: 70\r\n{routes}\
         From: {};tag=t1\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {branch} {method}\r\nContent-Length: 0\r\n\r\n",
        header(invite, "To"),
        header(invite, "From"),
        header(invite, "Call-ID")
    )
}

/// Where a datagram ends, a stream goes on: what stands behind the head of an answer would be the server's next request,
/// sent by us.
#[test]
fn what_an_answer_hides_never_becomes_a_message_on_a_server_s_connection() {
    let (listener, address) = listen("127.199.3.1");
    let node = Node::new(199, 1, &[address]);
    let client = bound("127.199.9.1:0");
    ask(&client, &node, 1);
    let (server, _) = accept(&listener);
    let mut messages = Messages::of(&server);
    let invited = messages.next().unwrap();
    let hidden = "INVITE sip:+1900@pbx SIP/2.0\r\nX-Source: forged\r\n\r\n";
    for (number, lines) in ["", "Content-Length: 0\n", "Content-Length:\r\n 0\r\n"].iter().enumerate() {
        (&server).write_all(from_server(&invited, "MESSAGE", number + 1).as_bytes()).unwrap();
        let request = hear(&client);
        let answer = String::from_utf8(response(&request, "200 OK", &[])).unwrap();
        let answer = answer.replace("Content-Length: 0\r\n", lines) + hidden;
        client.send_to(answer.as_bytes(), node.udp).unwrap();
    }
    let only = messages.next().unwrap();
    let framed = only.contains(&format!("Content-Length: {}\r\n", hidden.len()));
    assert!(framed && only.ends_with(&format!("\r\n\r\n{hidden}")), "{only}");
    wait_for("the others to be dropped", || node.dropped(Reason::Malformed) == 2);
    // And the connection is as good as before.
    ask(&client, &node, 2);
    let next = messages.next().unwrap();
    assert!(next.starts_with("INVITE sip:100@sim.example ") && header(&next, "Call-ID") == "2@streams", "{next}");
}

#[test]
fn an_answer_that_is_too_large_costs_its_own_request_alone() {
    let (listener, address) = listen("127.200.3.1");
    let node = Node::new(200, 1, &[address]);
    let (one, other) = (bound("127.200.9.1:0"), bound("127.200.9.2:0"));
    ask(&one, &node, 1);
    ask(&other, &node, 2);
    let (server, _) = accept(&listener);
    let mut messages = Messages::of(&server);
    let asked = [messages.next().unwrap(), messages.next().unwrap()];
    let of = |call: &str| asked.iter().find(|request| header(request, "Call-ID") == call).unwrap();
    let large = String::from_utf8(response(of("1@streams"), "200 OK", &[])).unwrap();
    let large = large.replace("Content-Length: 0", "Content-Length: 200000") + &"x".repeat(200_000);
    (&server).write_all(large.as_bytes()).unwrap();
    (&server).write_all(&response(of("2@streams"), "200 OK", &[])).unwrap();
    assert!(hear(&other).starts_with("SIP/2.0 200 OK\r\n"));
    assert_eq!(node.dropped(Reason::TooLong), 1);
    // A head whose echo nobody could read is not asked for.
    let huge = invite(3, "UDP").replace("Max", &format!("X-Pad: {}\r\nMax", "y".repeat(40_000)));
    let huge = huge.replace("CSeq", &format!("X-Pad: {}\r\nCSeq", "y".repeat(40_000)));
    one.send_to(huge.as_bytes(), node.udp).unwrap();
    assert!(hear(&one).starts_with("SIP/2.0 513 "));
}

/// A client's many lines come back in the answer, with the server's own behind them.
#[test]
fn an_answer_with_too_many_lines_costs_its_own_request_alone() {
    let (listener, address) = listen("127.210.3.1");
    let node = Node::new(210, 1, &[address]);
    let (one, other) = (bound("127.210.9.1:0"), bound("127.210.9.2:0"));
    ask(&one, &node, 1);
    ask(&other, &node, 2);
    let (server, _) = accept(&listener);
    let mut messages = Messages::of(&server);
    let asked = [messages.next().unwrap(), messages.next().unwrap()];
    let of = |call: &str| asked.iter().find(|request| header(request, "Call-ID") == call).unwrap();
    let many = String::from_utf8(response(of("1@streams"), "200 OK", &["X: y\r\n".repeat(200).trim_end()])).unwrap();
    (&server)
        .write_all(many.replace("Content-Length: 0\r\n\r\n", "Content-Length: 5\r\n\r\nhello").as_bytes())
        .unwrap();
    (&server).write_all(&response(of("2@streams"), "200 OK", &[])).unwrap();
    assert!(hear(&other).starts_with("SIP/2.0 200 OK\r\n"));
    assert_eq!(node.dropped(Reason::TooLong), 1);
}

/// It reads nothing before somebody has taken its answer: were it not read from while requests wait for it, both would wait.
/// What is too much for it is refused at once.
#[test]
fn a_server_that_writes_before_it_reads_serves_everybody() {
    const CLIENTS: usize = 8;
    const CALLS: usize = 600;
    let (listener, address) = listen("127.201.3.1");
    socket2::SockRef::from(&listener).set_recv_buffer_size(1 << 16).unwrap();
    let node = Node::new(201, 1, &[address]);
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let (mut messages, mut out) = (Messages::of(&stream), stream);
                out.set_read_timeout(None).unwrap();
                while let Some(request) = messages.next() {
                    let body = "x".repeat(20_000);
                    let progress = String::from_utf8(response(&request, "183 Session Progress", &[])).unwrap();
                    let progress = progress.replace("Content-Length: 0", "Content-Length: 20000") + &body;
                    let both = [progress.as_bytes(), &response(&request, "200 OK", &[])].concat();
                    out.write_all(&both).unwrap();
                }
            });
        }
    });
    let clients = (0..CLIENTS).map(|client| {
        let stream = TcpStream::connect(node.tcp).unwrap();
        std::thread::spawn(move || {
            let out = stream.try_clone().unwrap();
            let pad = format!("X-Pad: {}\r\nCSeq", "y".repeat(1500));
            let writer = std::thread::spawn(move || {
                for call in 0..CALLS {
                    let text = invite(client * CALLS + call, "TCP").replace("CSeq", &pad);
                    (&out).write_all(text.as_bytes()).unwrap();
                }
            });
            let mut messages = Messages::of(&stream);
            let answers = std::iter::from_fn(|| messages.next());
            let finals = answers.filter(|answer| !answer.starts_with("SIP/2.0 183 ")).take(CALLS);
            let served = finals.map(|answer| answer.starts_with("SIP/2.0 200 ")).collect::<Vec<_>>();
            writer.join().unwrap();
            served
        })
    });
    let clients: Vec<_> = clients.collect();
    let served: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(served.iter().all(|served| served.len() == CALLS), "{:?}", served.iter().map(Vec::len).collect::<Vec<_>>());
    let good = served.iter().flatten().filter(|served| **served).count();
    assert!(good > CLIENTS * CALLS / 8, "{good}");
    assert_eq!(accepted.load(Ordering::Relaxed), 1, "it did not break");
}

/// They have heard 100 and repeat nothing: each is told, however many came from one address.
#[test]
fn everybody_who_waits_is_told_when_a_server_s_connection_breaks() {
    const CALLS: usize = 200;
    let (listener, address) = listen("127.202.3.1");
    let node = Node::new(202, 1, &[address]);
    let client = bound("127.202.9.1:0");
    (0..CALLS).for_each(|call| ask(&client, &node, call));
    let (server, _) = accept(&listener);
    let mut messages = Messages::of(&server);
    (0..CALLS).for_each(|_| assert!(messages.next().unwrap().starts_with("INVITE ")));
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop((messages, listener));
    drop(server);
    for _ in 0..CALLS {
        let answer = hear(&client);
        assert!(answer.starts_with("SIP/2.0 503 "), "{answer}");
    }
    let errors = node.setup.snapshot.load().servers[0].live.totals().errors;
    assert_eq!(errors, 1, "its breaker counts the connection, once");
}

/// What waits for a connection that never opens goes to the next server, however much it is.
#[test]
fn nothing_is_lost_that_waits_for_a_connection_which_never_opens() {
    const CALLS: usize = 1000;
    let (_full, address) = full_backlog("127.203.3.1");
    let (listener, healthy) = listen("127.203.3.2");
    let (asked, _asked) = channel();
    serve_tcp(listener, asked, 0);
    let node = Node::new(203, 1, &[address, healthy]);
    let stream = TcpStream::connect(node.tcp).unwrap();
    let pad = format!("X-Pad: {}\r\nCSeq", "y".repeat(1500));
    let out = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for call in 0..CALLS {
            (&out).write_all(invite(call, "TCP").replace("CSeq", &pad).as_bytes()).unwrap();
        }
    });
    let mut messages = Messages::of(&stream);
    let good = (0..CALLS).map(|_| messages.next().expect("an answer")).filter(|a| a.starts_with("SIP/2.0 200 OK"));
    assert_eq!(good.count(), CALLS);
    writer.join().unwrap();
}

#[test]
fn a_frontend_that_goes_leaves_its_connections_to_servers_to_the_others() {
    let (listener, address) = listen("127.204.3.1");
    let node = Node::new(204, 1, &[address]);
    let client = bound("127.204.9.1:0");
    let other = config(&node.text).frontends[1].binds[0].address;
    ask(&client, &node, 1);
    let (server, _) = accept(&listener);
    let mut messages = Messages::of(&server);
    let first = messages.next().unwrap();
    (&server).write_all(&response(&first, "200 OK", &[])).unwrap();
    assert!(hear(&client).starts_with("SIP/2.0 200 OK"));
    client.send_to(invite(2, "UDP").as_bytes(), other).unwrap();
    let ringing = messages.next().unwrap();
    let without_first = &node.text[node.text.rfind("[[frontend]]").unwrap()..];
    node.renew(without_first, &HashMap::new());
    // Two looks at what has lived long enough.
    assert!(stays_open(&server, Duration::from_millis(2500)));
    (&server).write_all(&response(&ringing, "200 OK", &[])).unwrap();
    assert!(hear(&client).starts_with("SIP/2.0 200 OK"));
}

#[test]
fn a_server_that_is_asked_for_over_tls_from_now_on_hears_nothing_more_in_clear() {
    let (listener, address) = listen("127.205.3.1");
    let node = Node::new(205, 1, &[address]);
    let client = bound("127.205.9.1:0");
    ask(&client, &node, 1);
    let (server, _) = accept(&listener);
    assert!(Messages::of(&server).next().is_some());
    node.renew(&node.text.replace(&format!("tcp://{address}"), &format!("tls://{address}")), &HashMap::new());
    ask(&client, &node, 2);
    // Whoever has no certificate to ask for opens nothing at all: that is known by the next reload.
    assert!(hear(&client).starts_with("SIP/2.0 503 "));
    assert!(stays_open(&server, Duration::from_millis(100)));
}

#[test]
fn who_waits_for_a_dead_and_silent_server_is_told() {
    let (listener, address) = listen("127.206.3.1");
    let node = Node::new(206, 1, &[address]);
    let client = bound("127.206.9.1:0");
    ask(&client, &node, 1);
    let (server, _) = accept(&listener);
    assert!(Messages::of(&server).next().is_some());
    let dead = ServerState { health: Health::Dead, ..ServerState::default() };
    let id = node.setup.snapshot.load().servers[0].id;
    node.renew(&node.text, &[(id, dead)].into());
    assert!(hear(&client).starts_with("SIP/2.0 503 "));
    assert!(is_closed(&server));
}

/// It went to another server meanwhile, where it rings.
#[test]
fn a_call_that_was_repeated_elsewhere_is_not_ended_with_the_connection_of_its_first_server() {
    let (listener, address) = listen("127.211.3.1");
    let second = bound("127.211.3.2:0");
    let text = file(211, &[address])
        + &format!(
            "[[backend.server]]\nname = \"s1\"\naddress = \"udp://{}\"\nbackup = true\n",
            second.local_addr().unwrap()
        );
    let node = Node::of(211, 1, text);
    let client = bound("127.211.9.1:0");
    ask(&client, &node, 1);
    let (server, _) = accept(&listener);
    assert!(Messages::of(&server).next().is_some());
    let dead = ServerState { health: Health::Dead, ..ServerState::default() };
    let id = node.setup.snapshot.load().servers[0].id;
    node.renew(&node.text, &[(id, dead)].into());
    ask(&client, &node, 1);
    let repeated = hear(&second);
    second.send_to(&response(&repeated, "180 Ringing", &[]), node.inside).unwrap();
    assert!(hear(&client).starts_with("SIP/2.0 180 "));
    drop((server, listener));
    second.send_to(&response(&repeated, "200 OK", &[]), node.inside).unwrap();
    // Nothing came between.
    assert!(hear(&client).starts_with("SIP/2.0 200 "));
}

/// What waits for a connection that is not open yet goes elsewhere as soon as its server is known to be dead.
#[test]
fn what_waits_for_a_dead_server_s_connection_goes_elsewhere() {
    let (full, address) = full_backlog("127.212.3.1");
    let (listener, healthy) = listen("127.212.3.2");
    let (asked, _asked) = channel();
    serve_tcp(listener, asked, 0);
    let text = file(212, &[address, healthy]).replace("connect = \"1s\"", "connect = \"60s\"");
    let node = Node::of(212, 1, text);
    let client = bound("127.212.9.1:0");
    (0..20).for_each(|call| ask(&client, &node, call));
    let dead = ServerState { health: Health::Dead, ..ServerState::default() };
    let id = node.setup.snapshot.load().servers[0].id;
    node.renew(&node.text, &[(id, dead)].into());
    for _ in 0..20 {
        let answer = hear(&client);
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
    }
    drop(full);
}

/// The connection may be another worker's, and not open yet.
#[test]
fn every_server_whose_request_reaches_nobody_is_told_whichever_worker_has_the_connection() {
    const REQUESTS: usize = 40;
    let (listener, address) = listen("127.213.3.1");
    let node = Node::new(213, WORKERS, &[address]);
    let (full, nobody) = full_backlog("127.213.9.1");
    let servers = (0..REQUESTS).map(|number| {
        let server = connect_from(address.ip(), node.inside);
        let request =
            invite(number, "TCP").replace("sip:100@sim.example SIP", &format!("sip:x@{nobody};transport=tcp SIP"));
        (&server).write_all(request.as_bytes()).unwrap();
        server
    });
    let servers: Vec<_> = servers.collect();
    for server in &servers {
        let answer = Messages::of(server).next().expect("an answer");
        assert!(answer.starts_with("SIP/2.0 503 "), "{answer}");
    }
    drop((listener, full));
}

#[test]
fn a_server_that_has_moved_is_no_server_any_more_where_it_was() {
    let (listener, address) = listen("127.214.3.1");
    let (_elsewhere, other) = listen("127.214.3.2");
    let node = Node::new(214, 1, &[address]);
    let client = bound("127.214.9.1:0");
    ask(&client, &node, 1);
    let (server, _) = accept(&listener);
    let mut messages = Messages::of(&server);
    let invited = messages.next().unwrap();
    let moved =
        node.text.replace(&address.to_string(), &other.to_string()).replace(&address.ip().to_string(), "127.214.3.2");
    node.renew(&moved, &HashMap::new());
    // What it was asked it may answer; what it asks is a stranger's, whom nothing is sent for.
    (&server).write_all(&response(&invited, "200 OK", &[])).unwrap();
    assert!(hear(&client).starts_with("SIP/2.0 200 OK"));
    (&server).write_all(from_server(&invited, "MESSAGE", 1).as_bytes()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(client.recv_from(&mut [0; 100]).is_err(), "nothing comes");
}

#[test]
fn a_server_whose_request_reaches_nobody_is_told() {
    let (listener, address) = listen("127.207.3.1");
    let node = Node::new(207, 1, &[address]);
    let server = connect_from(address.ip(), node.inside);
    let nobody = free_port("127.207.9.1");
    let request =
        invite(1, "TCP").replace("sip:100@sim.example SIP", &format!("sip:x@127.207.9.1:{nobody};transport=tcp SIP"));
    (&server).write_all(request.as_bytes()).unwrap();
    let answer = Messages::of(&server).next().expect("an answer");
    assert!(answer.starts_with("SIP/2.0 503 "), "{answer}");
    // What is to be secret goes to nobody whom we cannot know.
    let secret = request.replace("sip:x@", "sips:x@").replace(";transport=tcp", "");
    (&server).write_all(secret.replace("=z9hG4bK1", "=z9hG4bK2").as_bytes()).unwrap();
    let answer = Messages::of(&server).next().expect("an answer");
    assert!(answer.starts_with("SIP/2.0 404 "), "{answer}");
    drop(listener);
}

/// Each connection has its worker; here all answers come in by one of them, for longer than another one waits for what is its own.
#[test]
fn answers_cross_from_worker_to_worker_while_they_end() {
    // A worker ends when nothing came for 100 ms: where this test, the server or another worker was held up for that long it
    // says nothing.
    const LONGEST_GAP: Duration = Duration::from_millis(50);
    for attempt in 1.. {
        let (answered, gap) = answer_while_workers_end();
        if answered == CLIENTS {
            return;
        }
        assert!(gap > LONGEST_GAP && attempt < 10, "{answered} of {CLIENTS}, nothing came for no longer than {gap:?}");
    }
}

const CLIENTS: usize = 40;

/// How many clients were answered while workers ended, and the longest time that their count of what came stood still.
fn answer_while_workers_end() -> (usize, Duration) {
    let (listener, address) = listen("127.208.3.1");
    let mut node = Node::new(208, WORKERS, &[address]);
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(node.tcp).unwrap()).collect();
    for (call, client) in clients.iter().enumerate() {
        (&*client).write_all(invite(call, "TCP").as_bytes()).unwrap();
    }
    let (asked, requests) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let asked = asked.clone();
            std::thread::spawn(move || {
                let mut messages = Messages::of(&stream);
                while let Some(request) = messages.next() {
                    let _ = asked.send((request, stream.try_clone().unwrap()));
                }
            });
        }
    });
    let asked: Vec<_> = (0..CLIENTS).map(|_| requests.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
    let workers = node.workers.take().unwrap();
    let stopped = std::thread::spawn(move || workers.stop());
    let received = || node.setup.shared.workers.sum(|of| &of.stopping);
    let (mut seen, mut last, mut gap) = (received(), clock(), Duration::ZERO);
    for (request, _) in &asked {
        (&asked[0].1).write_all(&response(request, "200 OK", &[])).unwrap();
        // So that workers are ending while answers still come.
        #[allow(clippy::disallowed_methods, reason = "it sets the pace, and waits for nothing")]
        std::thread::sleep(Duration::from_millis(10));
        let (received, now) = (received(), clock());
        gap = gap.max(now.since(last));
        if std::mem::replace(&mut seen, received) != received {
            last = now;
        }
    }
    let answered = |client: &&TcpStream| Messages::of(client).next().is_some_and(|answer| answer.contains(" 200 OK"));
    let answered = clients.iter().filter(answered).count();
    stopped.join().unwrap();
    (answered, gap)
}

/// It may have no other way to us: a server behind a firewall, or one that wants a certificate which no bind has.
#[test]
fn a_connection_lives_while_its_server_has_calls() {
    let (listener, address) = listen("127.209.3.1");
    let text = file(209, &[address]).replace("connect = \"1s\"", "server = \"10s\"");
    let at = config(&text).frontends[0].binds[0].address;
    let balancer = Balancer::start(1, &text);
    let client = bound("127.209.9.1:0");
    client.send_to(invite(1, "UDP").as_bytes(), at).unwrap();
    let (server, _) = accept(&listener);
    let mut messages = Messages::of(&server);
    let invited = messages.next().unwrap();
    (&server).write_all(&response(&invited, "200 OK", &["Contact: <sip:pbx@127.0.0.1>"])).unwrap();
    assert!(hear(&client).starts_with("SIP/2.0 200 OK"));
    assert!(stays_open(&server, Duration::from_secs(13)));
    (&server).write_all(from_server(&invited, "BYE", 1).as_bytes()).unwrap();
    assert!(hear(&client).starts_with("BYE "));
    balancer.stop();
}

/// The last one that is no backup dies, and nobody has found that yet: who calls by TCP calls once.
#[test]
fn a_backup_takes_what_the_last_of_the_others_lets_fall() {
    let (gone, address) = listen("127.215.3.1");
    drop(gone);
    let (listener, spare) = listen("127.215.3.2");
    let (asked, _asked) = channel();
    serve_tcp(listener, asked, 0);
    let text = file(215, &[address, spare]) + "backup = true\n";
    let node = Node::of(215, WORKERS, text);
    let client = bound("127.215.9.1:0");
    (0..20).for_each(|call| ask(&client, &node, call));
    for _ in 0..20 {
        let answer = hear(&client);
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
    }
}

/// A phone picks up after its server's connection broke: by a new one, from the address that servers know us by.
#[test]
fn an_answer_reaches_a_server_whose_connection_is_gone() {
    let (listener, address) = listen("127.216.3.1");
    let node = Node::new(216, 1, &[address]);
    let client = bound("127.216.9.1:0");
    ask(&client, &node, 1);
    let (server, _) = accept(&listener);
    let mut messages = Messages::of(&server);
    let invited = messages.next().unwrap();
    (&server).write_all(&response(&invited, "200 OK", &[])).unwrap();
    assert!(hear(&client).starts_with("SIP/2.0 200 OK"));
    let asked = from_server(&invited, "INFO", 1).replace("TCP 127.0.0.1;", &format!("TCP {address};"));
    (&server).write_all(asked.as_bytes()).unwrap();
    let info = hear(&client);
    assert!(info.starts_with("INFO "), "{info}");
    drop((server, messages));
    node.notices_the_end();
    client.send_to(&response(&info, "200 OK", &[]), node.udp).unwrap();
    let (again, from) = accept(&listener);
    assert_eq!(from.ip(), node.inside.ip());
    let answer = Messages::of(&again).next().expect("the answer");
    assert!(answer.starts_with("SIP/2.0 200 OK") && header(&answer, "CSeq") == "1 INFO", "{answer}");
}

/// Their address stays, and whoever it belongs to now.
#[test]
fn a_frontend_that_has_another_name_keeps_its_connections() {
    let (listener, address) = listen("127.217.3.1");
    let (asked, seen) = channel();
    serve_tcp(listener, asked, 0);
    let node = Node::new(217, 1, &[address]);
    let client = TcpStream::connect(node.tcp).unwrap();
    let mut messages = Messages::of(&client);
    (&client).write_all(invite(1, "TCP").as_bytes()).unwrap();
    assert!(messages.next().unwrap().starts_with("SIP/2.0 200 OK"));
    let (_, invited) = seen.recv().unwrap();
    node.renew(&node.text.replace("name = \"a\"", "name = \"other\""), &HashMap::new());
    // Two looks at what has lived long enough.
    assert!(stays_open(&client, Duration::from_millis(2500)));
    let server = connect_from(address.ip(), node.inside);
    (&server).write_all(from_server(&invited, "INFO", 1).as_bytes()).unwrap();
    let info = messages.next().expect("a request of the server");
    assert!(info.starts_with("INFO "), "{info}");
}

/// Nobody rings for who has long gone (RFC 3261 §17.1.1.2).
#[test]
fn what_finds_no_connection_anywhere_is_refused_in_time() {
    let full = ["127.218.3.1", "127.218.3.2"].map(full_backlog);
    let node = Node::new(218, 1, &[full[0].1, full[1].1]);
    let client = bound("127.218.9.1:0");
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    ask(&client, &node, 1);
    let answer = hear(&client);
    assert!(answer.starts_with("SIP/2.0 503 "), "{answer}");
}

/// A VIP that has left: nobody that it was for is to blame, and the copy comes to who has the address now.
#[test]
fn nobody_is_blamed_for_an_address_that_is_not_here() {
    let (_listener, address) = listen("127.219.3.1");
    let text = file(219, &[address]).replace("inside = \"127.219.2.1\"", "inside = \"192.0.2.219\"");
    let node = Node::of(219, 1, text);
    let client = bound("127.219.9.1:0");
    ask(&client, &node, 1);
    wait_for("it to be dropped", || node.dropped(Reason::SendFailed) == 1);
    let stream = TcpStream::connect(node.tcp).unwrap();
    (&stream).write_all(invite(2, "TCP").as_bytes()).unwrap();
    let answer = Messages::of(&stream).next().expect("an answer: nobody repeats it");
    assert!(answer.starts_with("SIP/2.0 503 "), "{answer}");
    let totals = node.setup.snapshot.load().servers[0].live.totals();
    assert_eq!((totals.errors, node.dropped(Reason::SendFailed)), (0, 1));
}

/// It was asked for more when it reset the connection; what it had answered before is no less true.
#[test]
fn what_a_server_said_before_it_reset_its_connection_is_heard() {
    const CALLS: usize = 2000;
    // As many as lie in a receive buffer: a reset takes with it what is not sent yet.
    const ANSWERED: usize = 60;
    let (listener, address) = listen("127.220.3.1");
    let node = Node::new(220, 1, &[address]);
    let stream = TcpStream::connect(node.tcp).unwrap();
    let out = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        (0..CALLS).for_each(|call| (&out).write_all(invite(call, "TCP").as_bytes()).unwrap());
    });
    let (server, _) = accept(&listener);
    drop(listener);
    let mut requests = Messages::of(&server);
    let answers: Vec<u8> = (0..ANSWERED).flat_map(|_| response(&requests.next().unwrap(), "200 OK", &[])).collect();
    (&server).write_all(&answers).unwrap();
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop((requests, server));
    let mut messages = Messages::of(&stream);
    let answers: Vec<_> = (0..CALLS).map(|_| messages.next().expect("an answer")).collect();
    writer.join().unwrap();
    let good = answers.iter().filter(|answer| answer.starts_with("SIP/2.0 200 OK")).count();
    assert_eq!(good, ANSWERED);
}

/// The call goes on when a trunk has closed what was idle, or this node was restarted (RFC 3261 §18.1.1).
#[test]
fn a_dialog_reaches_a_trunk_whose_connection_is_gone() {
    let (listener, address) = listen("127.221.3.1");
    let (trunk, carrier) = listen("127.221.9.1");
    let node = Node::new(221, 1, &[address]);
    let server = connect_from(address.ip(), node.inside);
    let invite = invite(1, "TCP").replace("sip:100@sim.example SIP", &format!("sip:x@{carrier};transport=tcp SIP"));
    (&server).write_all(invite.as_bytes()).unwrap();
    let (first, _) = accept(&trunk);
    let invited = Messages::of(&first).next().expect("the INVITE");
    (&first).write_all(&response(&invited, "200 OK", &[])).unwrap();
    assert!(Messages::of(&server).next().expect("the 200").starts_with("SIP/2.0 200 OK"));
    drop(first);
    node.notices_the_end();
    let contact = format!("BYE {}", header(&invited, "Contact").trim_matches(['<', '>']));
    let bye = |uri: String| from_server(&invited, "BYE", 2).replace(&contact, &format!("BYE {uri}"));
    // A name, and who does not say that he speaks TCP: nothing but the flow led there.
    for nowhere in ["sip:x@carrier.example".to_owned(), format!("sip:x@{carrier}")] {
        (&server).write_all(bye(nowhere).as_bytes()).unwrap();
        let refused = Messages::of(&server).next().expect("an answer");
        assert!(refused.starts_with("SIP/2.0 430 "), "{refused}");
    }
    (&server).write_all(bye(format!("sip:x@{carrier};transport=tcp")).as_bytes()).unwrap();
    let (second, _) = accept(&trunk);
    let heard = Messages::of(&second).next().expect("the BYE");
    assert!(heard.starts_with("BYE "), "{heard}");
    drop(listener);
}

/// What an address was silent about says nothing of the server that was there: what waits goes where that is now.
#[test]
fn a_server_that_was_moved_is_not_blamed_for_its_old_address() {
    let (_full, nobody) = full_backlog("127.227.3.1");
    let (listener, address) = listen("127.227.3.2");
    let node = Node::new(227, 1, &[nobody]);
    let (asked, _asked) = channel();
    serve_tcp(listener, asked, 0);
    let client = bound("127.227.9.1:0");
    ask(&client, &node, 1);
    wait_for("a connection to be opened", || node.sum(|live| &live.received) == 1);
    node.renew(&node.text.replace(&nobody.to_string(), &address.to_string()), &HashMap::new());
    assert!(hear(&client).starts_with("SIP/2.0 200 OK"));
    assert_eq!(node.setup.snapshot.load().servers[0].live.totals().errors, 0);
    wait_for("the answer to be counted", || node.sum(|live| &live.responses_to_clients) == 1);
    let counted =
        [node.sum(|live| &live.requests_to_servers), node.sum(|live| &live.balanced), node.sum(|live| &live.calls)];
    let came = node.setup.snapshot.load().frontends[0].live.sum(|live| live.requests_from_clients.of(Method::Invite));
    assert_eq!((counted, came), ([1; 3], 1), "it came once, and left once");
}

/// Nothing counts as sent before it can be: what waited for a connection that was never opened counts where it went, and once.
#[test]
fn what_waits_for_a_connection_is_counted_where_it_leaves() {
    const CALLS: usize = 40;
    let refuses = SocketAddr::new("127.228.3.1".parse().unwrap(), free_port("127.228.3.1"));
    let (listener, address) = listen("127.228.3.2");
    let node = Node::new(228, 2, &[refuses, address]);
    let (asked, _asked) = channel();
    serve_tcp(listener, asked, 1);
    let clients: Vec<_> = (0..CALLS).map(|_| bound("127.228.9.1:0")).collect();
    clients.iter().enumerate().for_each(|(call, client)| ask(client, &node, call));
    clients.iter().for_each(|client| assert!(hear(client).starts_with("SIP/2.0 200 OK")));
    let calls = CALLS as u64;
    wait_for("everything to be counted", || node.sum(|live| &live.responses_to_clients) == calls);
    let requests =
        [node.sum(|live| &live.requests_to_servers), node.sum(|live| &live.balanced), node.sum(|live| &live.calls)];
    assert_eq!((node.sum(|live| &live.received), requests), (2 * calls, [calls; 3]));
    let snapshot = node.setup.snapshot.load();
    let of_servers = [0, 1].map(|at| snapshot.servers[at].live.counters.sum(|of| of.requests.of(Method::Invite)));
    assert_eq!(of_servers, [0, calls]);
    assert!(snapshot.servers[0].live.totals().errors > 0, "it was tried");
}

/// It called us: the port that it came from is no more than a connection's, whether it asks for `rport` or not.
#[test]
fn a_dialog_reaches_a_trunk_that_called_and_whose_connection_is_gone() {
    let (listener, address) = listen("127.226.3.1");
    let (trunk, carrier) = listen("127.226.9.1");
    let node = Node::new(226, 1, &[address]);
    let first = connect_from(carrier.ip(), node.tcp);
    let text = invite(1, "TCP");
    let via = header(&text, "Via").to_owned();
    let branch = via.split(";branch=").nth(1).unwrap().split(';').next().unwrap();
    let text = text.replacen(&via, &format!("SIP/2.0/TCP {carrier};branch={branch};rport"), 1);
    let contact = header(&text, "Contact").to_owned();
    let text = text.replacen(&contact, &format!("<sip:x@{carrier};transport=tcp>"), 1);
    (&first).write_all(text.as_bytes()).unwrap();
    let (server, _) = accept(&listener);
    let invited = Messages::of(&server).next().expect("the INVITE");
    (&server).write_all(&response(&invited, "200 OK", &[])).unwrap();
    assert!(Messages::of(&first).next().expect("the 200").starts_with("SIP/2.0 200 OK"));
    drop(first);
    node.notices_the_end();
    (&server).write_all(from_server(&invited, "BYE", 2).as_bytes()).unwrap();
    let (second, _) = accept(&trunk);
    let heard = Messages::of(&second).next().expect("the BYE");
    assert!(heard.starts_with("BYE "), "{heard}");
}
