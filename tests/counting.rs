//! What is counted, beside what was sent: real workers and sockets, five servers, many clients, and a ledger that is kept
//! by who sends and receives. Every counter agrees, to the message and to the byte.

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use support::calls::{request, response};
use support::lines::{header, param};
use support::process::wait_for;
use support::workers::{bound, free_port, prepare};
use trunkline::net::worker::{Setup, Workers};
use trunkline::state::Snapshot;
use trunkline::state::methods::MethodClass;
use trunkline::state::response_times::Timed;

const WORKERS: usize = 4;
const SERVERS: usize = 5;
const CLIENTS: usize = 40;

/// By the word of a class.
type ByClass = BTreeMap<&'static str, u64>;

/// What reached a server, and what it said that reached a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ServerLedger {
    requests: ByClass,
    retransmissions: u64,
    responses: BTreeMap<(&'static str, String), u64>,
    /// 100, other 1xx and finals to INVITE, finals to the rest.
    timed: [u64; 4],
    /// Requests of its own.
    sent: u64,
    bytes_to: u64,
    bytes_from: u64,
}

/// What clients sent and got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ClientLedger {
    requests: ByClass,
    retransmissions: u64,
    responses: [u64; 6],
    bytes_from: u64,
    bytes_to: u64,
}

/// The node with its peers.
struct World {
    setup: Setup,
    workers: Option<Workers>,
    balancer: SocketAddr,
    clients: Vec<UdpSocket>,
    servers: Vec<UdpSocket>,
    of_servers: Vec<ServerLedger>,
    of_clients: ClientLedger,
    branches: u64,
}

/// A request at a server.
struct Arrived {
    server: usize,
    text: String,
    /// Where its answers go.
    via: SocketAddr,
}

fn class(text: &str) -> &'static str {
    match header(text, "CSeq").rsplit(' ').next().unwrap() {
        "INVITE" => "INVITE",
        "REGISTER" => "REGISTER",
        "OPTIONS" => "OPTIONS",
        "BYE" => "BYE",
        _ => "other",
    }
}

/// What waits at a socket.
fn take(socket: &UdpSocket) -> Option<(String, SocketAddr)> {
    let mut datagram = [0; 4096];
    let (length, from) = socket.recv_from(&mut datagram).ok()?;
    Some((String::from_utf8_lossy(&datagram[..length]).into_owned(), from))
}

impl World {
    fn new(net: u8) -> Self {
        let quiet = |ip: String| {
            let socket = bound(&ip);
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let servers: Vec<_> = (0..SERVERS).map(|n| quiet(format!("127.{net}.3.{}:0", n + 1))).collect();
        let clients = (0..CLIENTS).map(|n| quiet(format!("127.{net}.1.{}:0", n / 2 + 1))).collect();
        let (outside, inside) = (format!("127.{net}.2.1"), format!("127.{net}.2.2"));
        let balancer = SocketAddr::new(outside.parse().unwrap(), free_port(&outside));
        let mut text = format!(
            "[[frontend]]\nname = \"f\"\nbind = \"udp://{balancer}\"\ninside = \"{inside}\"\nbackend = \"b\"\n\
             send_to = [\"127.0.0.0/8\"]\n[frontend.limits]\nper_source_rate = \"1000000/s\"\n\
             [[backend]]\nname = \"b\"\ncheck = {{ type = \"none\" }}\n"
        );
        for (n, server) in servers.iter().enumerate() {
            let address = server.local_addr().unwrap();
            text += &format!("[[backend.server]]\nname = \"s{n}\"\naddress = \"udp://{address}\"\n");
        }
        let (setup, sockets) = prepare(&support::core::config(&text), WORKERS, 10_000);
        let workers = Some(Workers::start(&setup, sockets).unwrap());
        Self {
            setup,
            workers,
            balancer,
            clients,
            servers,
            of_servers: vec![ServerLedger::default(); SERVERS],
            of_clients: ClientLedger::default(),
            branches: 0,
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.setup.snapshot.load_full()
    }

    /// A request as a client writes it, of a transaction of its own.
    fn written(&mut self, method: &str, uri: &str, call: u64, cseq: u32, lines: &[&str]) -> Vec<u8> {
        self.branches += 1;
        let via = format!("Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKb{};rport", self.branches);
        let (call, cseq) = (format!("Call-ID: {call}@counting"), format!("CSeq: {cseq} {method}"));
        request(method, uri, &[&[via.as_str(), &call, &cseq], lines].concat())
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].send_to(bytes, self.balancer).unwrap();
        let ledger = &mut self.of_clients;
        ledger.bytes_from += bytes.len() as u64;
        if bytes.starts_with(b"SIP/2.0") {
            return;
        }
        *ledger.requests.entry(class(std::str::from_utf8(bytes).unwrap())).or_default() += 1;
    }

    /// Sends a request to whichever server gets it.
    fn ask(&mut self, client: usize, bytes: &[u8], again: bool) -> Arrived {
        self.send(client, bytes);
        let mut arrived = None;
        wait_for("the request to reach a server", || {
            let found = self.servers.iter().enumerate().find_map(|(n, server)| Some((n, take(server)?)));
            arrived = found.map(|(server, (text, via))| Arrived { server, text, via });
            arrived.is_some()
        });
        let arrived = arrived.unwrap();
        let ledger = &mut self.of_servers[arrived.server];
        *ledger.requests.entry(class(&arrived.text)).or_default() += 1;
        ledger.bytes_to += arrived.text.len() as u64;
        ledger.retransmissions += u64::from(again);
        self.of_clients.retransmissions += u64::from(again);
        arrived
    }

    /// A server answers, and the client gets it.
    fn answer(&mut self, arrived: &Arrived, client: usize, status: &str) -> String {
        let answer = response(&arrived.text, status, &[]);
        self.servers[arrived.server].send_to(&answer, arrived.via).unwrap();
        let ledger = &mut self.of_servers[arrived.server];
        ledger.bytes_from += answer.len() as u64;
        let code = match &status[..3] {
            "499" | "686" => format!("{}xx", &status[..1]),
            code => code.to_owned(),
        };
        let class = class(&arrived.text);
        *ledger.responses.entry((class, code)).or_default() += 1;
        match (class, &status[..3]) {
            ("INVITE", "100") => ledger.timed[0] += 1,
            ("INVITE", code) if code.starts_with('1') => ledger.timed[1] += 1,
            ("INVITE", _) => ledger.timed[2] += 1,
            (_, code) => ledger.timed[3] += u64::from(!code.starts_with('1')),
        }
        self.heard(client)
    }

    /// A response that a client gets.
    fn heard(&mut self, client: usize) -> String {
        let mut heard = None;
        wait_for("the client to hear something", || {
            heard = take(&self.clients[client]);
            heard.is_some()
        });
        let (text, _) = heard.unwrap();
        self.of_clients.bytes_to += text.len() as u64;
        let digit = text.strip_prefix("SIP/2.0 ").map(|rest| rest.as_bytes()[0] - b'1');
        if let Some(digit) = digit {
            self.of_clients.responses[usize::from(digit)] += 1;
        }
        text
    }

    /// A call: its INVITE comes twice where `again`; it is answered with these, and ended by the client or by the server.
    fn call(&mut self, n: u64, again: bool, statuses: &[&str]) {
        let (client, uri) = (n as usize % CLIENTS, "sip:100@sip.example.ng");
        let contact = format!("Contact: <sip:bob@{}>", self.clients[client].local_addr().unwrap());
        let invite = self.written("INVITE", uri, n, 1, &[&contact]);
        let arrived = self.ask(client, &invite, false);
        if again {
            assert_eq!(self.ask(client, &invite, true).server, arrived.server);
        }
        statuses.iter().for_each(|status| drop(self.answer(&arrived, client, status)));
        let accepted = statuses.last().is_some_and(|status| status.starts_with('2'));
        let ack = match accepted {
            true => self.written("ACK", uri, n, 1, &["To: <sip:100@sip.example.ng>;tag=t1"]),
            // The ACK to a failure is of the INVITE's transaction, and no copy of it.
            false => String::from_utf8(invite).unwrap().replace("INVITE", "ACK").into_bytes(),
        };
        assert_eq!(self.ask(client, &ack, false).server, arrived.server);
        match accepted {
            false => {}
            true if n.is_multiple_of(2) => {
                let bye = self.written("BYE", uri, n, 2, &["To: <sip:100@sip.example.ng>;tag=t1"]);
                let bye = self.ask(client, &bye, false);
                self.answer(&bye, client, "200 OK");
            }
            true => self.end_by_server(n, client, &arrived, &contact),
        }
    }

    /// The server of a call ends it: a request to the client, and what that says.
    fn end_by_server(&mut self, n: u64, client: usize, arrived: &Arrived, contact: &str) {
        let route = |line: &str| line.strip_prefix("Record-Route:").map(|value| format!("Route:{value}"));
        let routes: Vec<_> = arrived.text.lines().filter_map(route).collect();
        assert_eq!(routes.len(), 2);
        let via = format!("Via: SIP/2.0/UDP {};branch=z9hG4bKs{n}", self.servers[arrived.server].local_addr().unwrap());
        let call = format!("Call-ID: {n}@counting");
        let to = "To: <sip:bob@sip.example.ng>;tag=f1";
        let uri = contact.trim_start_matches("Contact: <").trim_end_matches('>');
        let bye = request("BYE", uri, &[&via, &routes[0], &routes[1], &call, "CSeq: 7 BYE", to]);
        self.servers[arrived.server].send_to(&bye, arrived.via).unwrap();
        let ledger = &mut self.of_servers[arrived.server];
        ledger.bytes_from += bye.len() as u64;
        ledger.sent += 1;
        let heard = self.heard(client);
        assert!(heard.starts_with("BYE "), "{heard}");
        self.send(client, &response(&heard, "200 OK", &[]));
        let mut ended = None;
        wait_for("the server to hear that its BYE is answered", || {
            ended = take(&self.servers[arrived.server]);
            ended.is_some()
        });
        self.of_servers[arrived.server].bytes_to += ended.unwrap().0.len() as u64;
    }

    /// What the node has counted for its servers.
    fn counted_of_servers(&self) -> Vec<ServerLedger> {
        let snapshot = self.snapshot();
        let counted = |n: usize| {
            let live = &snapshot.servers[n].live;
            let counted = live.counted();
            ServerLedger {
                requests: by_class(|class| counted.by_method.of(class)),
                retransmissions: counted.retransmissions,
                responses: live
                    .responses()
                    .each()
                    .map(|(class, code, n)| ((class.word(), code.to_string()), n))
                    .collect(),
                timed: Timed::ALL.map(|timed| live.times(&[timed]).count()),
                sent: counted.sent,
                bytes_to: counted.bytes_to,
                bytes_from: counted.bytes_from,
            }
        };
        (0..SERVERS).map(counted).collect()
    }

    fn counted_of_clients(&self) -> ClientLedger {
        let counted = self.snapshot().frontends[0].live.counted();
        ClientLedger {
            requests: by_class(|class| counted.requests.of(class)),
            retransmissions: counted.retransmissions,
            responses: counted.responses,
            bytes_from: counted.bytes_from_clients,
            bytes_to: counted.bytes_to_clients,
        }
    }
}

fn by_class(count: impl Fn(MethodClass) -> u64) -> ByClass {
    let counted = MethodClass::ALL.into_iter().map(|class| (class.word(), count(class)));
    counted.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn every_counter_agrees_with_what_was_sent() {
    const ROUNDS: u64 = 60;
    let mut world = World::new(45);
    let uri = "sip:100@sip.example.ng";
    for round in 0..ROUNDS {
        let (n, client) = (round * 10, round as usize % CLIENTS);
        world.call(n, false, &["100 Trying", "180 Ringing", "200 OK"]);
        world.call(n + 1, true, &["100 Trying", "180 Ringing", "183 Session Progress", "200 OK"]);
        world.call(n + 2, true, &["100 Trying", "486 Busy Here"]);
        world.call(
            n + 3,
            false,
            &["100 Trying", ["404 Not Found", "499 Strange", "686 Very", "503 Full"][round as usize % 4]],
        );
        // A challenge: what follows it is no copy of what it answers, though it has its Call-ID.
        for (cseq, status) in [(1, "401 Unauthorized"), (2, "200 OK")] {
            let register = world.written("REGISTER", "sip:sip.example.ng", n + 4, cseq, &[]);
            let arrived = world.ask(client, &register, false);
            if round % 3 == 0 {
                world.ask(client, &register, true);
            }
            world.answer(&arrived, client, status);
        }
        for (method, at, status) in [("OPTIONS", 5, "200 OK"), ("MESSAGE", 6, "202 Accepted"), ("INFO", 7, "481 Gone")]
        {
            let request = world.written(method, uri, n + at, 1, &[]);
            let arrived = world.ask(client, &request, false);
            world.answer(&arrived, client, status);
        }
        // To us, and answered by us.
        let ping = world.written("OPTIONS", &format!("sip:{}", world.balancer), n + 8, 1, &[]);
        world.send(client, &ping);
        assert!(world.heard(client).starts_with("SIP/2.0 200 "));
        let broken = world.written("OPTIONS", uri, n + 9, 1, &["Max-Forwards: many"]);
        world.send(client, &broken);
        assert!(world.heard(client).starts_with("SIP/2.0 400 "));
    }
    // A batch is counted when it has left.
    let agrees = || {
        (world.counted_of_clients(), world.counted_of_servers()) == (world.of_clients.clone(), world.of_servers.clone())
    };
    support::process::within(Duration::from_secs(5), agrees);
    assert_eq!(world.counted_of_clients(), world.of_clients);
    assert_eq!(world.counted_of_servers(), world.of_servers);
    let requests: u64 = world.of_clients.requests.values().sum();
    println!(
        "{requests} requests of clients, {} of them twice; {:?} responses by first digit; {} bytes in, {} bytes out; at the \
         servers {:?}",
        world.of_clients.retransmissions,
        world.of_clients.responses,
        world.of_clients.bytes_from,
        world.of_clients.bytes_to,
        world.of_servers.iter().map(|server| server.requests.values().sum::<u64>()).collect::<Vec<_>>()
    );
    assert!(world.of_servers.iter().all(|server| server.requests["INVITE"] > ROUNDS / 5 && server.sent > 0));
    let busy = world.snapshot().frontends[0].live.each().filter(|of| of.received.get() > 0).count();
    assert_eq!(busy, WORKERS, "all workers had some of it");
    world.workers.take().unwrap().stop();
}

/// Nothing comes in; the loops turn nevertheless, and stop when the workers do.
#[test]
fn every_worker_says_that_its_loop_turns() {
    let mut world = World::new(46);
    let shared = Arc::clone(&world.setup.shared);
    let turned = || shared.workers.each().map(|of| of.turned.get()).collect::<Vec<_>>();
    for _ in 0..2 {
        let before = turned();
        wait_for("every loop to turn once more", || turned().iter().zip(&before).all(|(now, before)| now > before));
    }
    world.workers.take().unwrap().stop();
    let (now, ended) = (trunkline::net::udp::clock(), turned());
    let since: Vec<_> = shared.since_turns(now).collect();
    let expected: Vec<_> = ended.iter().map(|turned| now.since(trunkline::state::Time(*turned))).collect();
    assert_eq!((since, turned()), (expected, ended));
}

/// What is malformed, forged or no SIP at all can be looked at; what is only refused is not kept.
#[test]
fn bad_messages_can_be_looked_at() {
    let mut world = World::new(47);
    let mut arrived = |call| {
        let ok = world.written("OPTIONS", "sip:100@sip.example.ng", call, 1, &[]);
        world.ask(0, &ok, false).text
    };
    let (one, other) = (arrived(1), arrived(2));
    let way = |text: &str| param(header(text, "Via"), "w").to_owned();
    let forged = String::from_utf8(response(&one, "200 OK", &[])).unwrap().replace(&way(&one), &way(&other));
    let mut with = |line| world.written("MESSAGE", "sip:100@sip.example.ng", 2, 1, &[line]);
    let many = with("Max-Forwards: many");
    let long = with(&format!("X-Long: {}\r\nMax-Forwards: -1", "x".repeat(2_000)));
    let bad: [(&str, Vec<u8>); 5] = [
        ("not_sip", b"GET / HTTP/1.1\r\nHost: sip.example.ng\r\n\r\n".to_vec()),
        ("junk", vec![0xf8; 40]),
        ("malformed", many),
        ("malformed", long),
        ("forged_response", forged.into_bytes()),
    ];
    let shared = Arc::clone(&world.setup.shared);
    assert_eq!(shared.bad_messages(), []);
    let source = world.clients[1].local_addr().unwrap();
    for (word, bytes) in &bad {
        // One worker keeps ten a second at most.
        wait_for(word, || {
            world.clients[1].send_to(bytes, world.balancer).unwrap();
            let all = shared.bad_messages();
            assert!(all.is_sorted_by_key(|message| message.about.at));
            all.iter().any(|message| {
                let about = message.about;
                (about.reason.word(), about.source, about.len) == (*word, source, bytes.len())
                    && about.frontend == trunkline::sip::token::NameHash::of("f")
                    && message.bytes == bytes[..bytes.len().min(1_024)]
            })
        });
    }
    let hops = world.written("MESSAGE", "sip:100@sip.example.ng", 3, 1, &["Max-Forwards: 0"]);
    world.send(2, &hops);
    assert!(world.heard(2).starts_with("SIP/2.0 483 "));
    let words: Vec<_> = shared.bad_messages().iter().map(|message| message.about.reason.word()).collect();
    assert!(words.iter().all(|word| bad.iter().any(|(bad, _)| bad == word)), "{words:?}");
    world.workers.take().unwrap().stop();
}
