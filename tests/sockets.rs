//! The real process and real sockets: steering over workers, source addresses, ICMP errors, sends that fail.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::http::{admin, get};
use support::netns::Namespace;
use support::process::{Balancer, output, program, wait_for};
use support::workers::{bound, free_port, prepare};
use trunkline::net::worker::{Order, Workers};

fn request(method: &str, number: usize, extra: &str) -> Vec<u8> {
    format!(
        "{method} sip:100@sim.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.2:5060;branch=z9hG4bK{number:x};rport\r\n\
         From: <sip:a@sim.example>;tag={number:x}\r\nTo: <sip:100@sim.example>\r\nCall-ID: {number:x}@sockets\r\n\
         CSeq: 1 {method}\r\n{extra}Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn answer(request: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(request).unwrap();
    let copied = |line: &&str| {
        ["Via:", "From:", "To:", "Call-ID:", "CSeq:", "Record-Route:"].iter().any(|name| line.starts_with(name))
    };
    let head: String = text.split_inclusive("\r\n").filter(copied).collect();
    format!("SIP/2.0 200 OK\r\n{head}Content-Length: 0\r\n\r\n").into_bytes()
}

fn config(bind: &str, inside: &str, servers: &[String], check: &str) -> String {
    let mut text = format!(
        "[[frontend]]\nname = \"f\"\nbind = {bind}\n{inside}\nbackend = \"b\"\n[[backend]]\nname = \"b\"\ncheck = {check}\n"
    );
    for (number, server) in servers.iter().enumerate() {
        text += &format!("[[backend.server]]\nname = \"s{number}\"\naddress = \"udp://{server}\"\n");
    }
    text
}

const UNCHECKED: &str = "{ type = \"none\" }";
const SELDOM: &str = "{ interval = \"60s\", timeout = \"20s\" }";

fn receive(socket: &UdpSocket, what: &str) -> (Vec<u8>, SocketAddr) {
    let mut datagram = [0; 65_535];
    let (length, from) = socket.recv_from(&mut datagram).unwrap_or_else(|error| panic!("{what}: {error}"));
    (datagram[..length].to_vec(), from)
}

/// All responses of a server share one 4-tuple: without steering one worker would get them all.
#[test]
fn one_server_s_responses_are_spread_and_one_client_s_requests_are_not() {
    const WORKERS: usize = 4;
    let (server, client, port) = (bound("127.0.3.61:0"), bound("127.0.1.61:0"), free_port("127.0.2.61"));
    let servers = [server.local_addr().unwrap().to_string()];
    let config = config(&format!("\"udp://127.0.2.61:{port}\""), "inside = \"127.0.2.62\"", &servers, UNCHECKED);
    let (setup, sockets) = prepare(&support::core::config(&config), WORKERS, 10_000);
    let workers = Workers::start(&setup, sockets).unwrap();
    let balancer = SocketAddr::new("127.0.2.61".parse().unwrap(), port);
    for number in 0..400 {
        client.send_to(&request("OPTIONS", number, ""), balancer).unwrap();
        let (forwarded, via) = receive(&server, "the request");
        server.send_to(&answer(&forwarded), via).unwrap();
        receive(&client, "the response");
    }
    let snapshot = setup.snapshot.load();
    let live = &snapshot.frontends[0].live;
    let by_worker =
        |counter: fn(&trunkline::state::counters::FrontendCounters) -> &trunkline::state::counters::Counter| {
            (0..WORKERS).map(|worker| counter(live.of(worker)).get()).collect::<Vec<_>>()
        };
    // A batch is counted when it has left.
    let passed = || by_worker(|counters| &counters.responses_to_clients);
    wait_for("the last response to be counted", || passed().iter().sum::<u64>() == 400);
    let responses = passed();
    let requests = by_worker(|counters| &counters.requests_to_servers);
    workers.stop();
    assert!(responses.iter().all(|count| *count > 50), "{responses:?}");
    assert_eq!(requests.iter().filter(|count| **count > 0).count(), 1, "one flow, one worker: {requests:?}");
}

/// A 200 that overtakes its 180, or a 487 the 200 to its CANCEL, is out of order: SIPp for one gives up such a call.
#[test]
fn the_responses_of_a_transaction_stay_with_one_worker() {
    const RESPONSES: u64 = 8;
    for (balancer, server, client) in [
        ("127.0.2.63", "127.0.3.63:0", "127.0.1.63:0"),
        ("[::1]", "[::1]:0", "[::1]:0"),
        ("127.1.1.1", "127.0.3.64:0", "127.0.1.64:0"),
    ] {
        let (server, client, port) = (bound(server), bound(client), free_port(balancer.trim_matches(['[', ']'])));
        let servers = [server.local_addr().unwrap().to_string()];
        let config = config(&format!("\"udp://{balancer}:{port}\""), "", &servers, UNCHECKED);
        let (setup, sockets) = prepare(&support::core::config(&config), 4, 10_000);
        let workers = Workers::start(&setup, sockets).unwrap();
        let to: SocketAddr = format!("{balancer}:{port}").parse().unwrap();
        let snapshot = setup.snapshot.load();
        let counts = || (0..4).map(|worker| snapshot.frontends[0].live.of(worker).responses_to_clients.get());
        for number in 0..100 {
            client.send_to(&request("INVITE", number, ""), to).unwrap();
            let (forwarded, via) = receive(&server, "the request");
            let ok = String::from_utf8(answer(&forwarded)).unwrap();
            for status in ["180 Ringing", "183 Session Progress", "486 Busy Here", "200 OK"].iter().cycle().take(8) {
                server.send_to(ok.replace("200 OK", status).as_bytes(), via).unwrap();
                receive(&client, "the response");
            }
            let passed = (number as u64 + 1) * RESPONSES;
            wait_for("all responses to be counted", || counts().sum::<u64>() == passed);
            let counts: Vec<_> = counts().collect();
            assert!(counts.iter().all(|count| count % RESPONSES == 0), "spread over workers: {counts:?}");
        }
        let counts: Vec<_> = counts().collect();
        workers.stop();
        assert!(counts.iter().all(|count| *count >= 8 * RESPONSES), "transactions are spread: {counts:?}");
    }
}

/// What was queued when a socket was told to go is carried out; what comes then finds nobody.
#[test]
fn a_socket_that_goes_is_read_empty_and_hears_nobody() {
    const WORKERS: usize = 4;
    const QUEUED: usize = 300;
    let (server, port) = (bound("127.0.3.65:0"), free_port("127.0.2.65"));
    let servers = [server.local_addr().unwrap().to_string()];
    let config = config(&format!("\"udp://127.0.2.65:{port}\""), "", &servers, UNCHECKED);
    let (setup, sockets) = prepare(&support::core::config(&config), WORKERS, 10_000);
    let to = SocketAddr::new("127.0.2.65".parse().unwrap(), port);
    let clients: Vec<_> = (0..16).map(|_| bound("127.0.1.65:0")).collect();
    for number in 0..QUEUED {
        clients[number % clients.len()].send_to(&request("OPTIONS", number, ""), to).unwrap();
    }
    let workers = Workers::start(&setup, sockets).unwrap();
    let binds = setup.snapshot.load().binds.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // In one go, and before the workers have looked at their sockets for the first time.
    let bind = &binds[0];
    runtime.block_on(workers.tell(|_| vec![Order::Shut(bind.clone()), Order::Drain(bind.clone())]));
    clients[0].connect(to).unwrap();
    clients[0].send(&request("OPTIONS", QUEUED, "")).unwrap();
    let refused = clients[0].recv(&mut [0; 2000]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the sender hears that nobody is there");
    runtime.block_on(workers.tell(|_| vec![Order::Close(bind.clone())]));
    // Only when none is left can the address be had without SO_REUSEPORT.
    wait_for("the sockets to be closed", || UdpSocket::bind(to).is_ok());
    for number in 0..QUEUED {
        receive(&server, &format!("request {number} of those that were queued"));
    }
    server.set_nonblocking(true).unwrap();
    assert!(server.recv(&mut [0; 2000]).is_err(), "no more than was queued");
    workers.stop();
}

/// As conf/single-site.toml has it.
#[test]
fn a_wildcard_stands_beside_an_inside_address() {
    let (server, client, port) = (bound("127.0.3.78:0"), bound("127.0.1.78:0"), free_port("0.0.0.0"));
    let servers = [server.local_addr().unwrap().to_string()];
    let config = config(&format!("\"udp://0.0.0.0:{port}\""), "inside = \"127.0.2.78\"", &servers, UNCHECKED);
    let balancer = Balancer::start(4, &config);
    let asked: SocketAddr = format!("127.0.2.79:{port}").parse().unwrap();
    client.send_to(&request("OPTIONS", 1, ""), asked).unwrap();
    let (forwarded, from) = receive(&server, "the request");
    assert_eq!(from, format!("127.0.2.78:{port}").parse().unwrap());
    server.send_to(&answer(&forwarded), from).unwrap();
    assert_eq!(receive(&client, "the response").1, asked);
    balancer.stop();
}

#[test]
fn a_wildcard_answers_from_the_address_that_was_asked() {
    for (family, wildcard, asked, server) in
        [(4, "0.0.0.0", "127.0.2.77", "127.0.3.77:0"), (6, "[::]", "[::1]", "[::1]:0")]
    {
        let (server, port) = (bound(server), free_port(wildcard.trim_matches(['[', ']'])));
        let client = bound(if family == 4 { "127.0.1.77:0" } else { "[::1]:0" });
        let config =
            config(&format!("\"udp://{wildcard}:{port}\""), "", &[server.local_addr().unwrap().to_string()], UNCHECKED);
        let balancer = Balancer::start(4, &config);
        let asked: SocketAddr = format!("{asked}:{port}").parse().unwrap();
        client.send_to(&request("OPTIONS", 1, ""), asked).unwrap();
        let (forwarded, via) = receive(&server, "the request");
        let text = String::from_utf8(forwarded.clone()).unwrap();
        assert!(
            text.contains(&format!("\r\nVia: SIP/2.0/UDP {via};")),
            "our Via names the address it came from\n{text}"
        );
        server.send_to(&answer(&forwarded), via).unwrap();
        assert_eq!(receive(&client, "the response").1, asked);
        // An answer of our own, and STUN, too.
        let ours = String::from_utf8(request("OPTIONS", 2, "")).unwrap().replace("100@sim.example", &asked.to_string());
        client.send_to(ours.as_bytes(), asked).unwrap();
        let (own, from) = receive(&client, "our own answer");
        assert!(own.starts_with(b"SIP/2.0 200 OK\r\n") && from == asked, "{}", String::from_utf8_lossy(&own));
        client.send_to(b"\0\x01\0\0\x21\x12\xa4\x42abcdefghijkl", asked).unwrap();
        let (stun, from) = receive(&client, "the STUN answer");
        assert!(stun.starts_with(&[1, 1]) && from == asked);
        balancer.stop();
    }
}

/// A lane that is closed although the snapshot names it: whatever is to leave by it makes the worker panic.
#[test]
fn a_panic_costs_its_batch_and_nobody_hears_what_was_another_s() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    let port = free_port("127.0.2.222");
    let [one, other] = ["127.0.2.222", "127.0.2.223"].map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
    let bind = format!("[\"udp://{one}\", \"udp://{other}\", \"tcp://{one}\"]");
    let config = config(&bind, "inside = \"127.0.2.224\"", &["127.0.3.222:5060".to_owned()], UNCHECKED);
    let (setup, sockets) = prepare(&support::core::config(&config), 1, 1_000);
    let workers = Workers::start(&setup, sockets).unwrap();
    let inside =
        setup.snapshot.load().binds.iter().find(|bind| bind.address.ip().to_string() == "127.0.2.224").cloned();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(workers.tell(|_| inside.iter().cloned().map(Order::Close).collect()));

    let options = |number: usize, at: SocketAddr| {
        String::from_utf8(request("OPTIONS", number, ""))
            .unwrap()
            .replace("sip:100@sim.example SIP", &format!("sip:{at} SIP"))
    };
    let id = |answer: &str| {
        let id = answer
            .split("Call-ID: ")
            .nth(1)
            .and_then(|rest| rest.split('@').next())
            .unwrap_or_else(|| panic!("{answer}"));
        usize::from_str_radix(id, 16).unwrap()
    };
    let (x, y) = (bound("127.0.1.222:0"), bound("127.0.1.223:0"));
    x.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut stream = TcpStream::connect(one).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for round in 0..50 {
        for n in 0..30 {
            let number = round * 1_000 + n * 10;
            x.send_to(options(number, one).as_bytes(), one).unwrap();
            y.send_to(options(number + 1, other).as_bytes(), other).unwrap();
            if n == 20 {
                x.send_to(&request("INVITE", number + 2, ""), one).unwrap();
            }
        }
        // What was in the batch is lost, perhaps the first of these too.
        let (last, mut answer) = (round * 1_000 + 900, [0; 4_096]);
        let mut sent = 0;
        wait_for("what follows a panic to be answered", || {
            // Where nothing is left to hear, the last was lost as well.
            let heard = x.recv(&mut answer);
            if sent == 0 || heard.is_err() {
                x.send_to(options(last, one).as_bytes(), one).unwrap();
                sent += 1;
            }
            heard.is_ok_and(|length| {
                let number = id(std::str::from_utf8(&answer[..length]).unwrap());
                assert_eq!(number % 10, 0, "x heard what was y's");
                number == last
            })
        });
        y.send_to(options(last + 1, other).as_bytes(), other).unwrap();
        while {
            let number = id(std::str::from_utf8(&receive(&y, "an answer of y").0).unwrap());
            assert_eq!(number % 10, 1, "y heard what was x's");
            number != last + 1
        } {}
        stream.write_all(options(last + 5, one).replace("/UDP", "/TCP").as_bytes()).unwrap();
        let length = stream.read(&mut answer).expect("the connection stays");
        assert_eq!(id(std::str::from_utf8(&answer[..length]).unwrap()), last + 5);
    }
    assert!(PANICS.load(Ordering::Relaxed) >= 50, "{PANICS:?}");
    workers.stop();
}

/// The port of a socket that was closed: the kernel answers with ICMP.
fn nobody(ip: &str) -> String {
    UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_dead_server_is_suspected_by_icmp_and_retransmissions_go_to_the_other() {
    let (alive, client, port) = (bound("127.0.3.81:0"), bound("127.0.1.81:0"), free_port("127.0.2.81"));
    alive.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let servers = [nobody("127.0.3.82"), alive.local_addr().unwrap().to_string()];
    let check = "{ interval = \"60s\", timeout = \"200ms\", fast_interval = \"200ms\" }";
    let config = config(&format!("\"udp://127.0.2.81:{port}\""), "inside = \"127.0.2.82\"", &servers, check);
    let mut balancer = Balancer::start(4, &config);
    let to: SocketAddr = format!("127.0.2.81:{port}").parse().unwrap();
    // Each call is sent until the living server has it, as a client would retransmit; half of them began at the dead one.
    let mut datagram = [0; 4096];
    for number in 0..40 {
        let wanted = format!("Call-ID: {number:x}@sockets");
        wait_for(&wanted, || {
            client.send_to(&request("INVITE", number, ""), to).unwrap();
            match alive.recv_from(&mut datagram) {
                Ok((length, via)) => {
                    let datagram = &datagram[..length];
                    if datagram.starts_with(b"OPTIONS sip:127") {
                        alive.send_to(&answer(datagram), via).unwrap();
                    }
                    String::from_utf8_lossy(datagram).contains(&wanted)
                }
                Err(_) => false,
            }
        });
    }
    let line = balancer.process.turns("b/s0", "suspect");
    assert!(line.contains("a request found nobody there"), "{line}");
    let line = balancer.process.turns("b/s0", "dead");
    assert!(line.contains("from=\"suspect\""), "{line}");
    balancer.stop();
}

/// The kernel refuses to send to the first server at once: no route. The request goes to the other, nothing is lost.
#[test]
fn what_cannot_be_sent_goes_elsewhere_at_once() {
    let namespace = Namespace::new(
        "unreachable",
        &[
            "addr add 10.99.0.1/32 dev lo",
            "addr add 10.99.0.2/32 dev lo",
            "addr add 10.99.0.5/32 dev lo",
            "route add unreachable 10.99.7.0/24",
        ],
    );
    let config = config(
        "\"udp://10.99.0.1:5060\"",
        "inside = \"10.99.0.1\"",
        &["10.99.7.7:5060".to_owned(), "10.99.0.2:5060".to_owned()],
        UNCHECKED,
    );
    let balancer = Balancer::start_under(namespace.command(program()), 4, &config);
    namespace.enter(|| {
        let (server, client) = (bound("10.99.0.2:5060"), bound("10.99.0.5:0"));
        for number in 0..200 {
            client.send_to(&request("INVITE", number, ""), "10.99.0.1:5060").unwrap();
            let (forwarded, via) = receive(&server, "the request, though its first server cannot be reached");
            let text = String::from_utf8(forwarded.clone()).unwrap();
            assert!(
                text.contains(&format!("Call-ID: {number:x}@sockets")) && text.matches("Via:").count() == 2,
                "{text}"
            );
            assert!(
                text.contains("Max-Forwards: 70\r\n"),
                "decided anew from the original, not from the edited one\n{text}"
            );
            server.send_to(&answer(&forwarded), via).unwrap();
            receive(&client, "the response");
        }
    });
    balancer.stop();
}

/// Answers and returns what comes to a server next, but for checks, which it answers too.
fn answered(server: &UdpSocket) -> String {
    loop {
        let (request, via) = receive(server, "a request");
        server.send_to(&answer(&request), via).unwrap();
        if !request.starts_with(b"OPTIONS ") {
            return String::from_utf8(request).unwrap();
        }
    }
}

/// Its client hears nothing.
fn assert_not_refused(client: &UdpSocket) {
    let refused = client.recv(&mut [0; 2000]).map(|_| "an answer");
    assert!(refused.is_err(), "the call would be over for its client");
}

/// The address that servers see leaves this node, as a VIP does. What comes in that moment is not refused, and no server is
/// blamed: its copy goes to the node that has the address, here the same one when it has come back.
#[test]
fn nothing_is_refused_and_nobody_blamed_for_an_address_that_left() {
    let addresses = [
        "addr add 10.98.0.1/32 dev lo",
        "addr add 10.98.0.2/32 dev lo",
        "addr add 10.98.0.3/32 dev lo",
        "addr add 10.98.0.5/32 dev lo",
    ];
    let namespace = Namespace::new("lost", &addresses);
    let config = config("\"udp://10.98.0.1:5060\"", "inside = \"10.98.0.3\"", &["10.98.0.2:5060".to_owned()], SELDOM);
    let mut balancer = Balancer::start_under(namespace.command(program()), 4, &config);
    let (server, client) = namespace.enter(|| (bound("10.98.0.2:5060"), bound("10.98.0.5:0")));
    client.send_to(&request("INVITE", 1, ""), "10.98.0.1:5060").unwrap();
    assert!(answered(&server).starts_with("INVITE "));
    let (ok, _) = receive(&client, "its answer");
    let ok = String::from_utf8(ok).unwrap();
    let bye = bye(&ok);
    namespace.ip("addr del 10.98.0.3/32 dev lo");
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for number in 2..5 {
        client.send_to(bye.as_bytes(), "10.98.0.1:5060").unwrap();
        client.send_to(&request("INVITE", number, ""), "10.98.0.1:5060").unwrap();
        assert_not_refused(&client);
    }
    namespace.ip("addr add 10.98.0.3/32 dev lo");
    client.send_to(bye.as_bytes(), "10.98.0.1:5060").unwrap();
    assert!(answered(&server).starts_with("BYE "));
    client.send_to(&request("INVITE", 2, ""), "10.98.0.1:5060").unwrap();
    assert!(answered(&server).starts_with("INVITE "));
    assert!(!balancer.process.said().contains("suspect"), "{}", balancer.process.said());
    balancer.stop();
}

/// The interface towards the server has a full queue: the kernel says so to those who ask for errors. Somewhere else on the
/// way the datagram would have been lost without a word, so it is lost here: nobody is refused, the server is not blamed.
#[test]
fn what_finds_a_full_queue_is_lost_and_nobody_is_to_blame() {
    const ROUNDS: usize = 20;
    let lo = ["addr add 10.97.1.1/32 dev lo", "addr add 10.97.1.5/32 dev lo"];
    let (namespace, pbx) = (Namespace::new("full", &lo), Namespace::new("full-pbx", &[]));
    namespace.ip(&format!("link add eth0 type veth peer name eth0 netns {}", pbx.name));
    for (host, address) in [(&namespace, "10.97.0.1"), (&pbx, "10.97.0.2")] {
        host.ip(&format!("addr add {address}/24 dev eth0"));
        host.ip("link set eth0 up");
    }
    // What asks for an address would find the queue full, too.
    pbx.ip("link set eth0 address 02:00:00:00:97:02");
    namespace.ip("neigh replace 10.97.0.2 lladdr 02:00:00:00:97:02 dev eth0");
    let looked_at: SocketAddr = "10.97.1.1:8080".parse().unwrap();
    let config = admin(looked_at)
        + &config(
            "[\"udp://10.97.1.1:5060\", \"tcp://10.97.1.1:5060\"]",
            "inside = \"10.97.0.1\"",
            &["10.97.0.2:5060".to_owned()],
            SELDOM,
        );
    let server = pbx.enter(|| bound("10.97.0.2:5060"));
    let mut balancer = Balancer::start_under(namespace.command(program()), 4, &config);
    let client = namespace.enter(|| bound("10.97.1.5:0"));
    let next = || answered(&server);
    let send = |message: &[u8]| client.send_to(message, "10.97.1.1:5060").unwrap();
    send(&request("INVITE", 1, ""));
    assert!(next().starts_with("INVITE "));
    let bye = bye(&String::from_utf8(receive(&client, "its answer").0).unwrap());
    let queue = |of: &str| {
        let status = output(namespace.command("tc").args(of.split(' '))).status;
        assert!(status.success(), "tc {of}");
    };
    queue("qdisc add dev eth0 root pfifo limit 0");
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    for number in 0..ROUNDS {
        send(&request("INVITE", 2 + number, ""));
        send(bye.as_bytes());
        assert_not_refused(&client);
    }
    let metrics = || namespace.enter(|| get(looked_at, "/metrics"));
    let lost = format!("trunkline_dropped_total{{proxy=\"f\",reason=\"send_blocked\"}} {}\n", 2 * ROUNDS);
    wait_for("what was lost to be counted", || metrics().contains(&lost));
    queue("qdisc del dev eth0 root");
    send(bye.as_bytes());
    assert!(next().starts_with("BYE "));
    send(&request("INVITE", 2, ""));
    assert!(next().starts_with("INVITE "));
    // What came by a stream is sent again from here: neither lost nor refused.
    let mut phone = namespace.enter(|| TcpStream::connect("10.97.1.1:5060")).unwrap();
    queue("qdisc add dev eth0 root pfifo limit 0");
    phone.write_all(&request("INVITE", 100, "")).unwrap();
    wait_for("it to be counted", || !metrics().contains(&lost));
    queue("qdisc del dev eth0 root");
    let late = next();
    assert!(late.starts_with("INVITE ") && late.contains("Call-ID: 64@"), "{late}");
    let mut first = [0; 15];
    phone.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    phone.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"SIP/2.0 200 OK\r", "nothing was said before the server's answer");
    assert!(!balancer.process.said().contains("suspect"), "{}", balancer.process.said());
    balancer.stop();
}

/// A router says of an IPv6 path that it is narrow (RFC 4443 §3.2): the kernel learns it, and sends the next one in fragments. The
/// server is there.
#[test]
fn who_is_behind_a_narrow_path_is_not_suspected() {
    let (namespace, router) = (Namespace::new("narrow", &[]), Namespace::new("narrow-router", &[]));
    namespace.ip(&format!("link add eth0 type veth peer name eth0 netns {}", router.name));
    router.ip("link add far type veth peer name end");
    router.ip("link set far mtu 1280");
    for name in ["far", "end", "eth0"] {
        router.ip(&format!("link set {name} up"));
    }
    let forwards = output(router.command("sysctl").args(["-w", "net.ipv6.conf.all.forwarding=1"])).status;
    assert!(forwards.success(), "sysctl");
    router.ip("addr add fd97:1::2/64 dev eth0 nodad");
    router.ip("addr add fd97:2::1/64 dev far nodad");
    router.ip("neigh replace fd97:2::2 lladdr 02:00:00:00:97:02 dev far");
    namespace.ip("link set eth0 up");
    for address in ["fd97:1::1/64", "fd97:1::5/64"] {
        namespace.ip(&format!("addr add {address} dev eth0 nodad"));
    }
    namespace.ip("route add fd97:2::/64 via fd97:1::2");
    namespace.ip("addr add 10.97.3.1/32 dev lo");
    let looked_at: SocketAddr = "10.97.3.1:8080".parse().unwrap();
    let config = admin(looked_at)
        + &config("\"udp://[fd97:1::1]:5060\"", "", &["[fd97:2::2]:5060".to_owned()], "{ type = \"none\" }");
    let balancer = Balancer::start_under(namespace.command(program()), 4, &config);
    let client = namespace.enter(|| bound("[fd97:1::5]:0"));
    let long = format!("X-Long: {}\r\n", "x".repeat(1_100));
    let metrics = || namespace.enter(|| get(looked_at, "/metrics"));
    wait_for("word of the narrow path", || {
        client.send_to(&request("INVITE", 1, &long), "[fd97:1::1]:5060").unwrap();
        !metrics().contains("trunkline_icmp_errors_total 0\n")
    });
    let said = metrics();
    let unreachable = said.lines().find(|line| line.starts_with("trunkline_server_unreachable_total{"));
    assert!(unreachable.is_some_and(|line| line.ends_with(" 0")), "{unreachable:?}");
    balancer.stop();
}

/// The BYE of a call's client that got this answer to its INVITE.
fn bye(ok: &str) -> String {
    let route = ok.lines().find_map(|line| line.strip_prefix("Record-Route: ")).expect("our way back");
    let bye = String::from_utf8(request("BYE", 1, &format!("Route: {route}\r\n"))).unwrap();
    bye.replace("To: <sip:100@sim.example>", "To: <sip:100@sim.example>;tag=t")
        .replace("branch=z9hG4bK1", "branch=z9hG4bK2")
}

/// A datagram larger than the path's MTU is fragmented, not lost; what fits no datagram is refused.
#[test]
fn large_messages_pass_and_too_large_ones_are_told() {
    let (server, client, port) = (bound("127.0.3.91:0"), bound("127.0.1.91:0"), free_port("127.0.2.91"));
    let servers = [server.local_addr().unwrap().to_string()];
    let config = config(&format!("\"udp://127.0.2.91:{port}\""), "inside = \"127.0.2.92\"", &servers, UNCHECKED);
    let balancer = Balancer::start(4, &config);
    let to: SocketAddr = format!("127.0.2.91:{port}").parse().unwrap();
    for length in [1_400, 9_000, 60_000, 65_000] {
        let padding = format!("X-Padding: {}\r\n", "x".repeat(length));
        client.send_to(&request("MESSAGE", length, &padding), to).unwrap();
        let (forwarded, _) = receive(&server, "a large message");
        assert!(
            forwarded.len() > length && forwarded.windows(padding.len()).any(|window| window == padding.as_bytes())
        );
    }
    let padding = format!("X-Padding: {}\r\n", "x".repeat(65_507 - request("MESSAGE", 1, "").len() - 13));
    let largest = request("MESSAGE", 1, &padding);
    assert_eq!(largest.len(), 65_507, "the most that UDP carries");
    client.send_to(&largest, to).unwrap();
    let (refused, _) = receive(&client, "the refusal of what would not fit with our Via");
    assert!(refused.starts_with(b"SIP/2.0 513 "), "{}", String::from_utf8_lossy(&refused[..60]));
    balancer.stop();
}
