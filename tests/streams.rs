//! SIP over TCP, end to end: real workers, real connections, five servers, in every mixture of transports.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use support::calls::response;
use support::core::config;
use support::process::wait_for;
use support::streams::{Messages, header, invite, serve_tcp, serve_udp};
use support::workers::{bound, free_port, prepare};
use trunkline::net::worker::{Setup, Workers};

const WORKERS: usize = 4;
const SERVERS: usize = 5;

/// Five servers behind a node.
struct Stage {
    balancer: SocketAddr,
    setup: Setup,
    workers: Option<Workers>,
    seen: Receiver<(usize, String)>,
}

impl Stage {
    fn new(net: u8, servers_speak: &str) -> Self {
        let (sender, seen) = channel();
        let (outside, inside) = (format!("127.{net}.1.1"), format!("127.{net}.2.1"));
        let port = free_port(&outside);
        let mut text = format!(
            "[[frontend]]\nname = \"f\"\nbind = [\"tcp://{outside}:{port}\", \"udp://{outside}:{port}\"]\ninside = \"{inside}\"\n\
             backend = \"b\"\nsend_to = [\"127.0.0.0/8\"]\n[[backend]]\nname = \"b\"\ncheck = {{ type = \"none\" }}\n"
        );
        for number in 0..SERVERS {
            let ip = format!("127.{net}.3.{}", number + 1);
            let address = match servers_speak {
                "tcp" => {
                    let listener = TcpListener::bind((ip.as_str(), 0)).unwrap();
                    let address = listener.local_addr().unwrap();
                    serve_tcp(listener, sender.clone(), number);
                    address
                }
                _ => {
                    let socket = bound(&format!("{ip}:0"));
                    let address = socket.local_addr().unwrap();
                    serve_udp(socket, sender.clone(), number);
                    address
                }
            };
            text += &format!(
                "[[backend.server]]\nname = \"s{number}\"\naddress = \"{servers_speak}://{address}\"\nsources = [\"{ip}\"]\n"
            );
        }
        let (setup, sockets) = prepare(&config(&text), WORKERS, 100_000);
        let workers = Some(Workers::start(&setup, sockets).unwrap());
        let balancer = SocketAddr::new(outside.parse().unwrap(), port);
        Self { balancer, setup, workers, seen }
    }

    fn open_connections(&self) -> u64 {
        self.setup.snapshot.load().frontends[0].open_connections()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.workers.take().unwrap().stop();
    }
}

/// Sends calls over one connection, all at once, and takes their answers. Says which server each call went to.
fn calls(stage: &Stage, stream: &TcpStream, calls: std::ops::Range<usize>) -> BTreeMap<String, usize> {
    let all: String = calls.clone().map(|call| invite(call, "TCP")).collect();
    (&*stream).write_all(all.as_bytes()).unwrap();
    let mut messages = Messages::of(stream);
    let mut answered = BTreeSet::new();
    for _ in calls.clone() {
        let answer = messages.next().expect("an answer");
        assert!(answer.starts_with("SIP/2.0 200 OK\r\n"), "{answer}");
        let via = header(&answer, "Via");
        let call = header(&answer, "Call-ID").to_owned();
        assert!(via.starts_with("SIP/2.0/TCP 192.168.1.2:5060;branch=z9hG4bK") && via.contains(";received="), "{via}");
        assert!(answered.insert(call), "twice: {answer}");
    }
    let seen: BTreeMap<_, _> = calls
        .map(|_| stage.seen.recv_timeout(Duration::from_secs(10)).expect("a request"))
        .map(|(server, request)| (header(&request, "Call-ID").to_owned(), server))
        .collect();
    assert_eq!(seen.keys().cloned().collect::<BTreeSet<_>>(), answered);
    seen
}

#[test]
fn the_calls_of_one_connection_are_split_over_tcp_servers_and_answered_on_it() {
    let stage = Stage::new(181, "tcp");
    let stream = TcpStream::connect(stage.balancer).unwrap();
    let seen = calls(&stage, &stream, 0..500);
    for server in 0..SERVERS {
        let share = seen.values().filter(|other| **other == server).count();
        assert!((50..200).contains(&share), "{share} calls of server {server}");
    }
    // A second connection, perhaps of another worker: the same calls keep their servers.
    let other = TcpStream::connect(stage.balancer).unwrap();
    let again = calls(&stage, &other, 0..500);
    assert_eq!(seen, again);
    drop((stream, other));
    wait_for("the clients' connections to be forgotten", || stage.open_connections() == 0);
}

#[test]
fn a_tcp_client_reaches_udp_servers() {
    let stage = Stage::new(182, "udp");
    let stream = TcpStream::connect(stage.balancer).unwrap();
    assert_eq!(calls(&stage, &stream, 0..200).len(), 200);
}

#[test]
fn a_udp_client_reaches_tcp_servers() {
    let stage = Stage::new(183, "tcp");
    let client = bound("127.183.9.1:0");
    for call in 0..200 {
        client.send_to(invite(call, "UDP;rport").replace("UDP;rport", "UDP").as_bytes(), stage.balancer).unwrap();
        let mut datagram = [0; 65_535];
        let (len, from) = client.recv_from(&mut datagram).expect("an answer");
        let answer = std::str::from_utf8(&datagram[..len]).unwrap();
        assert!(answer.starts_with("SIP/2.0 200 OK\r\n") && from == stage.balancer, "{answer} from {from}");
        assert_eq!(header(answer, "Call-ID"), format!("{call:x}@streams"));
    }
}

#[test]
fn a_server_s_request_reaches_the_client_over_its_own_connection() {
    let stage = Stage::new(184, "udp");
    // Of many connections each one's server finds its own, whichever worker has it.
    let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(stage.balancer).unwrap()).collect();
    let pbx = bound("127.184.3.1:0");
    for (number, client) in clients.iter().enumerate() {
        (&*client).write_all(invite(number, "TCP").as_bytes()).unwrap();
        let mut messages = Messages::of(client);
        let answer = messages.next().expect("an answer");
        let (_, request) = stage.seen.recv_timeout(Duration::from_secs(10)).unwrap();
        let routes: Vec<_> =
            request.split("\r\n").filter(|line| line.starts_with("Record-Route: ")).map(|line| &line[14..]).collect();
        assert!(routes.len() == 2 && routes[1].contains(";transport=tcp"), "{request}");
        let bye = format!(
            "BYE sip:a@192.168.1.2 SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKbye{number}\r\nMax-Forwards: 70\r\n\
             Route: {}\r\nRoute: {}\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n",
            pbx.local_addr().unwrap(),
            routes[0],
            routes[1],
            header(&answer, "To"),
            header(&answer, "From"),
            header(&answer, "Call-ID")
        );
        let inside = request.split("Via: SIP/2.0/UDP ").nth(1).unwrap().split(';').next().unwrap();
        pbx.send_to(bye.as_bytes(), inside).unwrap();
        let bye = messages.next().expect("the BYE");
        assert!(bye.starts_with("BYE sip:a@192.168.1.2 SIP/2.0\r\nVia: SIP/2.0/TCP "), "{bye}");
        (&*client).write_all(&response(&bye, "200 OK", &[])).unwrap();
        let mut datagram = [0; 65_535];
        let (len, _) = pbx.recv_from(&mut datagram).expect("its answer");
        assert!(datagram[..len].starts_with(b"SIP/2.0 200 OK\r\n"));
    }
}

#[test]
fn a_message_in_any_pieces_is_one_message() {
    let stage = Stage::new(185, "tcp");
    let stream = TcpStream::connect(stage.balancer).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut messages = Messages::of(&stream);
    let text = invite(1, "TCP");
    for cut in 1..text.len() {
        (&stream).write_all(&text.as_bytes()[..cut]).unwrap();
        (&stream).write_all(&text.as_bytes()[cut..]).unwrap();
    }
    for _ in 1..text.len() {
        assert!(messages.next().expect("an answer").starts_with("SIP/2.0 200 OK\r\n"));
    }
    (&stream).write_all(b"\r\n\r\n").unwrap();
    let mut pong = [0; 2];
    (&stream).read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"\r\n");
    for byte in text.as_bytes() {
        (&stream).write_all(&[*byte]).unwrap();
    }
    assert!(messages.next().expect("an answer").starts_with("SIP/2.0 200 OK\r\n"));
}

#[test]
fn what_cannot_be_framed_is_refused_and_the_connection_ends() {
    let stage = Stage::new(186, "tcp");
    let good = invite(1, "TCP");
    for (broken, answer) in [
        (good.replace("Content-Length: 0\r\n", ""), "SIP/2.0 400 "),
        (good.replace("Content-Length: 0", "Content-Length: 0\r\nContent-Length: 5"), "SIP/2.0 400 "),
        (good.replace("Content-Length: 0", "Content-Length: +0"), "SIP/2.0 400 "),
        (good.replace("Content-Length: 0", "Content-Length: 10000000"), "SIP/2.0 513 "),
        (good.replace("CSeq: 1 INVITE\r\n", "CSeq: 1 INVITE\n"), "SIP/2.0 400 "),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), ""),
    ] {
        let stream = TcpStream::connect(stage.balancer).unwrap();
        (&stream).write_all(broken.as_bytes()).unwrap();
        let mut said = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (&stream).read_to_string(&mut said).unwrap();
        assert!(said.starts_with(answer) && said.is_empty() == answer.is_empty(), "{broken}: {said}");
    }
    wait_for("all to be forgotten", || stage.open_connections() == 0);
}

#[test]
fn requests_on_a_connection_that_breaks_are_answered_with_503() {
    let (ip, port) = ("127.187.1.1", free_port("127.187.1.1"));
    let pbx = TcpListener::bind("127.187.3.1:0").unwrap();
    let text = format!(
        "[[frontend]]\nname = \"f\"\nbind = \"tcp://{ip}:{port}\"\ninside = \"127.187.2.1\"\nbackend = \"b\"\n[[backend]]\nname = \"b\"\n\
         check = {{ type = \"none\" }}\n[[backend.server]]\nname = \"s\"\naddress = \"tcp://{}\"\n",
        pbx.local_addr().unwrap()
    );
    let (setup, sockets) = prepare(&config(&text), WORKERS, 10_000);
    let workers = Workers::start(&setup, sockets).unwrap();
    let stream = TcpStream::connect((ip, port)).unwrap();
    let all: String = (0..10).map(|call| invite(call, "TCP")).collect();
    (&stream).write_all(all.as_bytes()).unwrap();
    let (server, _) = pbx.accept().unwrap();
    let mut requests = Messages::of(&server);
    let first: Vec<_> = (0..10).map(|_| requests.next().unwrap()).collect();
    // One is answered; the others are owed an answer.
    (&server).write_all(&response(&first[3], "200 OK", &[])).unwrap();
    let mut answers = Messages::of(&stream);
    assert!(answers.next().unwrap().starts_with("SIP/2.0 200 OK"));
    drop((server, requests));
    let calls: BTreeSet<_> = (0..9)
        .map(|_| answers.next().expect("an answer"))
        .inspect(|answer| assert!(answer.starts_with("SIP/2.0 503 "), "{answer}"))
        .map(|answer| header(&answer, "Call-ID").to_owned())
        .collect();
    assert!(calls.len() == 9 && !calls.contains("3@streams"), "{calls:?}");
    // And the next one finds a new connection.
    (&stream).write_all(invite(99, "TCP").as_bytes()).unwrap();
    let (server, _) = pbx.accept().unwrap();
    let request = Messages::of(&server).next().unwrap();
    (&server).write_all(&response(&request, "200 OK", &[])).unwrap();
    assert!(answers.next().unwrap().starts_with("SIP/2.0 200 OK"));
    drop((server, pbx));
    workers.stop();
}
