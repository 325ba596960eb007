//! Every limit of connections by its name: what it ends, that it is counted, and that others are served meanwhile.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustls::ClientConnection;
use socket2::{Domain, Socket, Type};
use support::core::config;
use support::pki::Pki;
use support::process::{wait_for, wait_longer};
use support::regions::Net;
use support::streams::{Messages, connect_from, invite, is_closed, serve_tcp};
use support::workers::{free_port, prepare};
use trunkline::net::udp::clock;
use trunkline::net::worker::{Setup, Workers};
use trunkline::state::connections::End;

/// A node with one TCP server, which answers everything.
struct Node {
    at: SocketAddr,
    server: IpAddr,
    inside: SocketAddr,
    setup: Setup,
    workers: Option<Workers>,
    /// What the server was asked.
    _asked: Receiver<(usize, String)>,
}

impl Node {
    /// In 127.`net`.0.0/16, with a bind of this transport, and these keys of the frontend and of its limits.
    fn new(net: u8, workers: usize, transport: &str, [frontend, limits]: [&str; 2]) -> Self {
        let [outside, inside, server] = [1, 2, 3].map(|host| format!("127.{net}.{host}.1"));
        let port = free_port(&outside);
        let listener = TcpListener::bind((server.as_str(), 0)).unwrap();
        let text = format!(
            "[[frontend]]\nname = \"f\"\nbind = \"{transport}://{outside}:{port}\"\ninside = \"{inside}\"\nbackend = \"b\"\n\
             {frontend}\n[frontend.limits]\n{limits}\n[[backend]]\nname = \"b\"\ncheck = {{ type = \"none\" }}\n\
             [[backend.server]]\nname = \"s\"\naddress = \"tcp://{}\"\n",
            listener.local_addr().unwrap()
        );
        let (asked, _asked) = channel();
        serve_tcp(listener, asked, 0);
        let (setup, sockets) = prepare(&config(&text), workers, 10_000);
        let started = Some(Workers::start(&setup, sockets).unwrap());
        let [at, inside] = [outside, inside].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        Self { at, server: server.parse().unwrap(), inside, setup, workers: started, _asked }
    }

    /// One worker that speaks TLS, with a certificate of this authority.
    fn of_tls(net: u8, pki: &Pki) -> Self {
        let folder = pki.path("certs");
        fs::create_dir(&folder).unwrap();
        pki.put(&folder.join("sip.pem"), &pki.pem("sip", "DNS:sip.example.ng"));
        Self::new(net, 1, "tls", [&format!("[frontend.tls]\ncertificates = {folder:?}"), ""])
    }

    fn ended(&self, end: End) -> u64 {
        self.setup.snapshot.load().frontends[0].live.sum(|live| live.connection_ends.of(end))
    }

    fn open(&self) -> u64 {
        self.setup.snapshot.load().frontends[0].open_connections()
    }

    fn wait_for_open(&self, count: u64) {
        wait_for(&format!("{count} open connections"), || self.open() == count);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.workers.take().unwrap().stop();
    }
}

fn is_served(stream: &TcpStream) -> bool {
    (&*stream).write_all(invite(1, "TCP").as_bytes()).is_ok()
        && Messages::of(stream).next().is_some_and(|answer| answer.starts_with("SIP/2.0 200 OK\r\n"))
}

/// OPTIONS to ourselves, as a server sends it.
fn knock(server: IpAddr, inside: SocketAddr) -> String {
    let stream = connect_from(server, inside);
    let options =
        invite(7, "TCP").replace("INVITE", "OPTIONS").replace("sip:100@sim.example SIP", &format!("sip:{inside} SIP"));
    (&stream).write_all(options.as_bytes()).unwrap();
    Messages::of(&stream).next().unwrap_or_default()
}

#[test]
fn too_many_are_not_let_in_but_servers_are() {
    let node = Node::new(190, 4, "tcp", ["", "max_connections = 2"]);
    let clients = [(); 2].map(|()| TcpStream::connect(node.at).unwrap());
    assert!(clients.iter().all(is_served));
    assert!(is_closed(&TcpStream::connect(node.at).unwrap()));
    assert_eq!((node.ended(End::TooMany), node.open()), (1, 2));
    assert!(knock(node.server, node.inside).starts_with("SIP/2.0 200 OK\r\n"));
    drop(clients);
    node.wait_for_open(0);
    assert!(is_served(&TcpStream::connect(node.at).unwrap()));
}

#[test]
fn too_many_of_one_source_leave_others_their_place() {
    let node = Node::new(191, 4, "tcp", ["", "max_connections_per_source = 2"]);
    let [one, other] = ["127.191.9.1", "127.191.9.2"].map(|ip| ip.parse().unwrap());
    let clients = [(); 2].map(|()| connect_from(one, node.at));
    assert!(clients.iter().all(is_served));
    assert!(is_closed(&connect_from(one, node.at)));
    assert_eq!(node.ended(End::TooManyOfSource), 1);
    assert!(is_served(&connect_from(other, node.at)));
    drop(clients);
    node.wait_for_open(0);
    assert!(is_served(&connect_from(one, node.at)));
}

#[test]
fn who_is_denied_is_not_let_in() {
    let node = Node::new(192, 4, "tcp", ["", "deny = [\"127.192.9.0/24\"]"]);
    assert!(is_closed(&connect_from("127.192.9.1".parse().unwrap(), node.at)));
    assert!(is_served(&connect_from("127.192.8.1".parse().unwrap(), node.at)));
    assert_eq!(node.ended(End::Denied), 1);
}

#[test]
fn where_only_servers_are_spoken_to_only_servers_are_let_in() {
    let node = Node::new(193, 4, "udp", ["", ""]);
    assert!(knock(node.server, node.inside).starts_with("SIP/2.0 200 OK\r\n"));
    assert!(is_closed(&connect_from("127.193.9.1".parse().unwrap(), node.inside)));
    assert_eq!(node.ended(End::Denied), 1);
}

#[test]
fn who_asks_nothing_or_half_a_question_is_let_go() {
    let node = Node::new(194, 4, "tcp", ["", ""]);
    let [mute, half, other] = [(); 3].map(|()| TcpStream::connect(node.at).unwrap());
    let text = invite(1, "TCP");
    assert!(is_served(&half) && is_served(&other));
    (&half).write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
    assert!(is_closed(&mute) && is_closed(&half));
    drop((mute, half));
    wait_for("both to be counted", || node.ended(End::SlowMessage) == 2);
    assert!(is_served(&other), "who asked nothing more may be silent");
}

#[test]
fn who_is_silent_for_long_is_let_go() {
    let node = Node::new(195, 4, "tcp", ["idle = \"10s\"", ""]);
    let stream = TcpStream::connect(node.at).unwrap();
    assert!(is_served(&stream) && is_closed(&stream));
    wait_for("it to be counted", || node.ended(End::Idle) == 1);
    node.wait_for_open(0);
}

/// Answers pile up until it is not read from any more, so its requests pile up at its own end; then it is closed.
#[test]
fn who_takes_no_answers_is_read_from_no_more_and_then_let_go() {
    let node = Node::new(196, 4, "tcp", ["", ""]);
    let (deaf, other) = (TcpStream::connect(node.at).unwrap(), TcpStream::connect(node.at).unwrap());
    deaf.set_nonblocking(true).unwrap();
    let text = invite(1, "TCP");
    let mut written = 0_usize;
    // Message after message, each whole, whatever part of it the last write took.
    wait_longer("it to be let go", || {
        loop {
            match (&deaf).write(&text.as_bytes()[written % text.len()..]) {
                Ok(len) => written += len,
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    });
    wait_for("it to be counted", || node.ended(End::SlowReader) == 1);
    // What the kernel holds of both directions, and what we hold; not all that it would ever say.
    let most = 64 << 20;
    assert!(written < most, "{written} bytes were read of it");
    assert!(is_served(&other));
    drop(deaf);
    node.wait_for_open(1);
}

#[test]
fn what_is_no_sip_is_counted() {
    let node = Node::new(197, 4, "tcp", ["", ""]);
    let [web, torn] = [(); 2].map(|()| TcpStream::connect(node.at).unwrap());
    (&web).write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    (&torn).write_all(invite(1, "TCP").replace("Length: 0", "Length: -1").as_bytes()).unwrap();
    assert!(is_closed(&web));
    let mut answer = String::new();
    (&torn).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("SIP/2.0 400 ") && answer.matches("SIP/2.0 ").count() == 1, "{answer}");
    wait_for("both to be counted", || (node.ended(End::NotSip), node.ended(End::NotFramed)) == (1, 1));
    node.wait_for_open(0);
}

/// Whoever wonders why a carrier gets no further finds it in the log.
#[test]
fn the_log_says_which_limits_were_reached() {
    let net = Net(75);
    let addresses = net.servers();
    let limits = "limits = { max_connections = 3 }";
    let (mut balancer, at) = net.balance_by(["tcp", "udp"], &addresses, [limits, "check = { type = \"none\" }", ""]);
    let let_in = [(); 3].map(|()| TcpStream::connect(at).unwrap());
    // Each worker takes connections for itself: before these were, others would be let in. We answer this ourselves.
    let options =
        invite(1, "TCP").replace("INVITE", "OPTIONS").replace("sip:100@sim.example SIP", &format!("sip:{at} SIP"));
    for mut stream in &let_in {
        stream.write_all(options.as_bytes()).unwrap();
        assert!(Messages::of(stream).next().is_some());
    }
    (0..5).for_each(|_| assert!(is_closed(&TcpStream::connect(at).unwrap())));
    balancer.process.signal(Signal::SIGTERM);
    // It may have said some of them in its first minute's line, which comes as soon as it has begun.
    let mut told = 0;
    while told < 5 {
        let line = balancer.process.line_with(" too_many=");
        let words = line.split_once(" too_many=").unwrap().1;
        told += words.split(' ').next().unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(told, 5);
    assert_eq!(balancer.process.end().0, Some(0));
}

/// How a client begins that believes this authority.
fn client_hello(pki: &Pki) -> Vec<u8> {
    let mut client = ClientConnection::new(pki.trusting(), "sip.example.ng".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// A worker shakes a thousand hands at once, and each for ten seconds: who only holds out the hand keeps nobody out for
/// long, and who does not even do that keeps nobody out at all.
#[test]
fn handshakes_have_a_bound_in_number_and_in_time() {
    const MOST: usize = 1000;
    let (pki, net) = (Pki::new(), 198);
    let node = Node::of_tls(net, &pki);
    let source = |n: usize| IpAddr::from([127, net, 9 + (n / 250) as u8, n as u8 % 250 + 1]);
    let hello = client_hello(&pki);
    let begin = |stream: &TcpStream| drop((&*stream).write_all(&hello));
    let mute: Vec<_> = (0..MOST).map(|n| connect_from(source(n), node.at)).collect();
    let idle: Vec<_> = (0..MOST).map(|n| connect_from(source(n), node.at)).collect();
    node.wait_for_open(2 * MOST as u64);
    // One octet of a handshake is none yet (RFC 8446 §5.1).
    mute.iter().for_each(|stream| drop((&*stream).write_all(&[22])));
    idle.iter().for_each(begin);
    let one_more = connect_from(source(MOST), node.at);
    begin(&one_more);
    wait_for("one to be too many", || node.ended(End::TooManyHandshakes) == 1);
    // These were answered, and said nothing more.
    idle.iter().for_each(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    assert!(mute.iter().all(is_closed));
    let ended = || node.ended(End::SlowHandshake) + node.ended(End::TooManyHandshakes);
    wait_for("all to be counted", || ended() == 2 * MOST as u64 + 1);
    let plain = TcpStream::connect(node.at).unwrap();
    (&plain).write_all(invite(1, "TCP").as_bytes()).unwrap();
    wait_for("what is no handshake to be counted", || node.ended(End::BadHandshake) == 1);
    node.wait_for_open(0);
}

/// Whoever asks much, closes his side and reads the answers slowly has all of them: the two seconds for his own goodbye begin
/// behind the last.
#[test]
fn answers_that_wait_are_written_before_the_goodbye() {
    const ASKED: usize = 12_000;
    let node = Node::new(229, 1, "tcp", ["", ""]);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(&node.at.into()).unwrap();
    let mut client: TcpStream = socket.into();
    let at = node.at;
    let one = move |call| {
        invite(call, "TCP").replace("INVITE", "OPTIONS").replace("sip:100@sim.example SIP", &format!("sip:{at} SIP"))
    };
    let mut asking = client.try_clone().unwrap();
    let asks = std::thread::spawn(move || {
        (0..ASKED).for_each(|call| asking.write_all(one(call).as_bytes()).unwrap());
        asking.shutdown(Shutdown::Write).unwrap();
    });
    let (mut heard, mut room) = (Vec::new(), vec![0; 200 << 10]);
    let mut last = clock();
    loop {
        let read = client.read(&mut room).expect("more, or the end");
        heard.extend_from_slice(&room[..read]);
        if read == 0 {
            break;
        }
        // 400 KB a second.
        let pause = Duration::from_millis(read as u64 / 400);
        wait_for("the next piece", || clock().since(last) >= pause);
        last = clock();
    }
    asks.join().unwrap();
    let answers = heard.windows(12).filter(|part| part == b"SIP/2.0 200 ").count();
    assert_eq!(answers, ASKED);
    wait_for("its end to be counted", || node.ended(End::Closed) == 1);
}

/// Who shakes a thousand hands and says nothing more has no more of them than are left for everybody else.
#[test]
fn one_source_leaves_places_for_handshakes_of_others() {
    let (pki, net) = (Pki::new(), 225);
    let node = Node::of_tls(net, &pki);
    let hello = client_hello(&pki);
    let begun = |n: usize| {
        let stream = connect_from(IpAddr::from([127, net, 9, n as u8]), node.at);
        (&stream).write_all(&hello).unwrap();
        stream
    };
    let idle: Vec<_> = (0..600).map(|_| begun(1)).collect();
    wait_for("what is too much of one", || node.ended(End::TooManyHandshakes) == 100);
    let mut other = begun(2);
    assert!(other.read(&mut [0; 64]).is_ok_and(|read| read > 0), "its handshake goes on");
    drop(idle);
    wait_for("one and the other to end", || node.ended(End::BadHandshake) == 500);
}

/// Each read ends within a message, for as long as it is busy: none of the messages was slow.
#[test]
fn who_is_always_within_a_message_is_not_slow() {
    let node = Node::new(189, 1, "tcp", ["", ""]);
    let stream = TcpStream::connect(node.at).unwrap();
    let (mut messages, text) = (Messages::of(&stream), invite(1, "TCP"));
    let (first, second) = text.split_at(text.len() / 2);
    (&stream).write_all(first.as_bytes()).unwrap();
    // Longer than one message may take.
    let begun = clock();
    wait_longer("half a minute to pass", || {
        (&stream).write_all((second.to_owned() + first).as_bytes()).unwrap();
        assert!(messages.next().is_some_and(|answer| answer.starts_with("SIP/2.0 200 OK\r\n")));
        clock().since(begun) > Duration::from_secs(33)
    });
    assert_eq!(node.ended(End::SlowMessage), 0);
}

/// Beginnings of messages fill what a worker may hold of them; who asks whole questions is answered nevertheless.
#[test]
fn who_begins_more_than_there_is_room_for_is_let_go_and_nobody_else() {
    let node = Node::new(188, 1, "tcp", ["", ""]);
    let good = TcpStream::connect(node.at).unwrap();
    let begun = invite(1, "TCP").replace("Length: 0", "Length: 60000") + &"x".repeat(58_000);
    let source = |n: usize| IpAddr::from([127, 188, 9, (n / 500) as u8 + 1]);
    // Of 58,000 bytes there is room for some 2,300 in 128 MB.
    let begun_by = (0..2600).map(|n| {
        let stream = connect_from(source(n), node.at);
        (&stream).write_all(begun.as_bytes()).unwrap();
        stream
    });
    let begun_by: Vec<_> = begun_by.collect();
    wait_for("some to be let go", || node.ended(End::NoRoom) > 100);
    assert!(node.open() > 2000, "{}", node.open());
    assert!(is_served(&good) && is_served(&TcpStream::connect(node.at).unwrap()));
    drop(begun_by);
    node.wait_for_open(1);
}
