//! Mode `relay` through the real process: media both ways, strangers, bounds, every size of datagram.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::media::{MediaServer, at_pace, drain, free_range, open, wait_readable};
use support::process::{Balancer, has_stopped, is_bound, output, program, read_and_dropped, wait_for};
use support::workers::{bound, free_port};
use trunkline::admin::client::ask;

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A range on one address with a media server for each half of it.
struct Range {
    ip: String,
    first: u16,
    count: u16,
    servers: [String; 2],
}

impl Range {
    /// On loopback addresses of the test's own; a free range of them.
    fn new(net: u8, count: u16) -> Self {
        let ip = |last: u8| format!("127.{net}.2.{last}");
        let (front, servers) = (ip(1), [ip(21), ip(22)]);
        let first = free_range(&[&front, &servers[0], &servers[1]], count);
        Self { ip: front, first, count, servers }
    }

    fn half(&self, server: usize) -> (u16, u16) {
        let middle = self.first + self.count / 2;
        if server == 0 { (self.first, middle - 1) } else { (middle, self.first + self.count - 1) }
    }

    fn config(&self, relay: &str, limits: &str) -> String {
        let last = self.first + self.count - 1;
        let mut text = format!(
            "[[frontend]]\nname = \"rtp\"\nmode = \"relay\"\nbind = \"udp://{}:{}-{last}\"\nbackend = \"media\"\n{relay}\n\
             [frontend.limits]\n{limits}\n[[backend]]\nname = \"media\"\n",
            self.ip, self.first
        );
        for (n, ip) in self.servers.iter().enumerate() {
            let (low, high) = self.half(n);
            text +=
                &format!("[[backend.server]]\nname = \"m{n}\"\naddress = \"udp://{ip}\"\nports = \"{low}-{high}\"\n");
        }
        text
    }

    fn port(&self, at_range: u16) -> SocketAddr {
        at(&self.ip, self.first + at_range)
    }

    fn start_servers(&self) -> [MediaServer; 2] {
        [0, 1].map(|n| {
            let (low, high) = self.half(n);
            MediaServer::start(n as u8, (low..=high).map(|port| at(&self.servers[n], port)).collect())
        })
    }
}

/// Two hundred calls' worth of RTP: every datagram arrives once, at the server whose port it is, and its echo at the
/// client that sent it, from the address that the client talks to.
#[test]
fn two_hundred_streams_lose_nothing_and_stay_with_their_servers() {
    const STREAMS: u16 = 200;
    const DATAGRAMS: u32 = 200;
    let range = Range::new(81, STREAMS);
    let servers = range.start_servers();
    let mut balancer = Balancer::start(4, &range.config("inside = \"127.81.2.2\"", "max_flows = 1000"));
    let clients: Vec<_> = (0..STREAMS).map(|n| open(at(&format!("127.81.1.{}", 1 + n % 40), 0))).collect();
    let mut home = vec![0u32; clients.len()];
    let mut take = |longest: Duration| {
        for stream in wait_readable(&clients, longest) {
            drain(&clients[stream], |echo, from| {
                assert_eq!(from, range.port(stream as u16), "from the port that the client talks to");
                let (server, rest) = (echo[0], &echo[1..]);
                assert_eq!(usize::from(server), stream / usize::from(STREAMS / 2), "stream {stream} keeps its server");
                let [number, sequence] = [&rest[..4], &rest[4..8]].map(|b| u32::from_be_bytes(b.try_into().unwrap()));
                assert_eq!(
                    (number as usize, sequence, rest.len()),
                    (stream, home[stream], 172),
                    "in order, its own, whole"
                );
                home[stream] += 1;
            });
        }
        home.iter().sum::<u32>()
    };
    let send = |sequence: u32| {
        for (number, client) in (0u32..).zip(&clients) {
            let mut datagram = [0x80; 172];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            datagram[4..8].copy_from_slice(&sequence.to_be_bytes());
            client.send_to(&datagram, range.port(number as u16)).unwrap();
        }
    };
    at_pace(DATAGRAMS, Duration::from_millis(20), send, |left| {
        take(left);
    });
    let all = u32::from(STREAMS) * DATAGRAMS;
    wait_for("every echo", || take(Duration::from_millis(20)) == all);
    for heard in servers.map(MediaServer::stop) {
        for port in heard {
            let [(from, count)] = port.into_iter().collect::<Vec<_>>()[..] else {
                panic!("one source for each stream")
            };
            assert_eq!((from.ip(), count), (at("127.81.2.2", 0).ip(), u64::from(DATAGRAMS)));
        }
    }
    balancer.process.signal(Signal::SIGTERM);
    balancer.process.line_with("stopped");
    assert!(!balancer.process.said().contains("dropped or refused"), "{}", balancer.process.said());
}

#[test]
fn a_stranger_neither_hears_a_stream_nor_takes_it_over() {
    let range = Range::new(82, 8);
    let balancer = Balancer::start(4, &range.config("", ""));
    let (client, stranger) = (bound("127.82.1.1:0"), bound("127.82.1.66:0"));
    let server = bound(&format!("{}:{}", range.servers[0], range.first));
    let mut datagram = [0; 100];
    let mut hear = |socket: &UdpSocket, what: &str| {
        let (length, from) = socket.recv_from(&mut datagram).unwrap_or_else(|error| panic!("{what}: {error}"));
        (datagram[..length].to_vec(), from)
    };
    client.send_to(b"client", range.port(0)).unwrap();
    let (_, flow) = hear(&server, "the client's datagram");
    for round in 0..20u8 {
        // He sends to the client's port at our side, and to the port that the server sees, which he has guessed.
        stranger.send_to(b"stranger", range.port(0)).unwrap();
        let (what, other) = hear(&server, "the stranger's");
        assert!(what == b"stranger" && other != flow, "a source of his own: the server can tell them apart");
        stranger.send_to(b"forged", flow).unwrap();
        server.send_to(&[round], flow).unwrap();
        assert_eq!(hear(&client, "the server's"), (vec![round], range.port(0)), "and nothing of the stranger's");
        server.send_to(b"to the stranger", other).unwrap();
        assert_eq!(hear(&stranger, "the answer to himself").0, b"to the stranger");
        client.send_to(&[round], range.port(0)).unwrap();
        assert_eq!(hear(&server, "the client goes on"), (vec![round], flow));
    }
    for socket in [&client, &stranger, &server] {
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv_from(&mut datagram).is_err(), "nobody got anything else");
    }
    balancer.stop();
}

#[test]
fn a_full_table_refuses_by_name_and_an_idle_flow_makes_room() {
    let range = Range::new(83, 8);
    let servers = range.start_servers();
    let mut balancer = Balancer::start(4, &range.config("idle = \"1s\"", "max_flows = 2"));
    let clients = ["127.83.1.1:0", "127.83.1.2:0", "127.83.1.3:0"].map(bound);
    let mut datagram = [0; 10];
    for (client, port) in clients[..2].iter().zip([0, 7]) {
        client.send_to(b"x", range.port(port)).unwrap();
        client.recv(&mut datagram).unwrap();
    }
    // Refused while the first two go on, let in once they are silent.
    clients[2].set_nonblocking(true).unwrap();
    for _ in 0..50 {
        for (client, port) in clients.iter().zip([0, 7, 2]) {
            client.send_to(b"x", range.port(port)).unwrap();
        }
        clients[..2].iter().for_each(|client| assert_eq!(client.recv(&mut datagram).unwrap(), 2));
        assert!(clients[2].recv(&mut datagram).is_err());
    }
    wait_for("the idle flows end", || {
        clients[2].send_to(b"x", range.port(2)).unwrap();
        !wait_readable(std::slice::from_ref(&clients[2]), Duration::from_millis(20)).is_empty()
    });
    balancer.process.signal(Signal::SIGTERM);
    balancer.process.line_with("stopped");
    let said = balancer.process.said();
    let counts = said.split("flows_full=").skip(1).filter_map(|rest| rest.split_whitespace().next());
    let refused: u32 = counts.map(|count| count.parse::<u32>().unwrap()).sum();
    assert!(refused >= 50, "{said}");
    servers.into_iter().for_each(|server| drop(server.stop()));
}

/// More than a worker takes from one socket in a turn waits there before it looks: nothing may be left behind.
#[test]
fn what_waits_on_one_socket_is_passed_on_whole_and_in_order() {
    const WAITING: u32 = 1000;
    let range = Range::new(91, 2);
    let balancer = Balancer::start(4, &range.config("", ""));
    let server = bound(&at(&range.servers[0], range.first).to_string());
    let client = bound("127.91.1.1:0");
    let mut datagram = [0; 10];
    client.send_to(b"first", range.port(0)).unwrap();
    let (_, flow) = server.recv_from(&mut datagram).unwrap();
    for (from, to, by) in [(&client, &server, range.port(0)), (&server, &client, flow)] {
        balancer.process.signal(Signal::SIGSTOP);
        wait_for("it stops", || has_stopped(balancer.process.child.id() as i32));
        for n in 0..WAITING {
            from.send_to(&n.to_be_bytes(), by).unwrap();
        }
        balancer.process.signal(Signal::SIGCONT);
        for n in 0..WAITING {
            assert_eq!(to.recv(&mut datagram).unwrap_or_else(|error| panic!("{n}: {error}")), 4);
            assert_eq!(datagram[..4], n.to_be_bytes());
        }
    }
    balancer.stop();
}

/// A datagram that finds a full buffer is in no other count: the kernel's is shown.
#[test]
fn what_the_kernel_drops_is_counted() {
    let range = Range::new(115, 2);
    let balancer = Balancer::start(4, &range.config("", ""));
    let client = bound("127.115.1.1:0");
    balancer.process.signal(Signal::SIGSTOP);
    wait_for("it stops", || has_stopped(balancer.process.child.id() as i32));
    for _ in 0..60_000 {
        client.send_to(b"nobody reads this", range.port(0)).unwrap();
    }
    balancer.process.signal(Signal::SIGCONT);
    let dropped = read_and_dropped(range.port(0));
    assert!(dropped > 0, "the buffer was full");
    let socket = balancer.folder.path().join("admin.sock");
    let counted = || {
        let activity = ask(&socket, "show activity").unwrap();
        activity.lines().find_map(|line| line.strip_prefix("kernel_drops: ")).unwrap().parse::<u64>().unwrap()
    };
    wait_for("all of it to be counted", || counted() == dropped);
    balancer.stop();
}

#[test]
fn every_size_passes_unchanged_both_ways() {
    let range = Range::new(84, 8);
    let servers = range.start_servers();
    let balancer = Balancer::start(4, &range.config("", ""));
    let client = bound("127.84.1.1:0");
    let mut datagram = vec![0; 65_536];
    let sizes =
        (0..70).chain([160, 172, 500, 1_199, 1_472, 1_473, 4_095, 4_096, 9_000, 16_384, 32_768, 65_000, 65_506]);
    for (n, size) in sizes.enumerate() {
        let sent: Vec<u8> = (0..size).map(|byte: usize| (byte * 7 + n) as u8).collect();
        let port = (n % 8) as u16;
        client.send_to(&sent, range.port(port)).unwrap();
        let (length, from) = client.recv_from(&mut datagram).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
        assert_eq!((from, length), (range.port(port), size + 1), "{size} bytes");
        assert!(datagram[1..length] == sent[..], "{size} bytes came back changed");
    }
    // The most that UDP carries, one way; and what looks like SIP, STUN or a keepalive is nothing to a relay.
    client.send_to(&vec![7; 65_507], range.port(0)).unwrap();
    for text in [&b"\r\n\r\n"[..], b"OPTIONS sip:x SIP/2.0\r\n\r\n", b"\0\x01\0\0\x21\x12\xa4\x42abcdefghijkl", b"jaK"]
    {
        client.send_to(text, range.port(0)).unwrap();
        let (length, _) = client.recv_from(&mut datagram).unwrap();
        assert_eq!(&datagram[1..length], text);
    }
    let heard = servers.map(MediaServer::stop);
    let first: u64 = heard[0][0].values().sum();
    assert_eq!(first, 11 + 1 + 4, "the largest reached the server, too");
    balancer.stop();
}

#[test]
fn wildcards_and_both_families_answer_from_the_address_that_was_asked() {
    for (bind, asked, server, client) in [
        ("0.0.0.0", "127.85.2.1", "127.85.2.21:0", "127.85.1.1:0"),
        ("[::]", "::1", "[::1]:0", "[::1]:0"),
        // A relay has a socket on each side: they need not be of one family.
        ("[::1]", "::1", "127.85.2.22:0", "[::1]:0"),
    ] {
        let (server, client) = (bound(server), bound(client));
        let port = free_port(bind.trim_matches(['[', ']']));
        let balancer = Balancer::start(
            4,
            &format!(
                "[[frontend]]\nname = \"f\"\nmode = \"relay\"\nbind = \"udp://{bind}:{port}\"\nbackend = \"b\"\n\
                 [[backend]]\nname = \"b\"\ncheck = {{ type = \"none\" }}\n[[backend.server]]\nname = \"s\"\naddress = \"udp://{}\"\n",
                server.local_addr().unwrap()
            ),
        );
        let asked = SocketAddr::new(asked.parse::<IpAddr>().unwrap(), port);
        let mut datagram = [0; 100];
        client.send_to(b"hello", asked).unwrap();
        let (length, flow) = server.recv_from(&mut datagram).expect("it came");
        assert_eq!(&datagram[..length], b"hello");
        server.send_to(b"hello yourself", flow).unwrap();
        let (length, from) = client.recv_from(&mut datagram).expect("it came back");
        assert_eq!((&datagram[..length], from), (&b"hello yourself"[..], asked));
        balancer.stop();
    }
}

/// Five servers, forty sources with five sockets each, four workers: a source's flows go together.
#[test]
fn a_source_s_flows_go_to_one_of_five_servers() {
    let port = free_port("127.86.2.1");
    let addresses: Vec<_> =
        (1..=5).map(|n| at(&format!("127.86.3.{n}"), free_port(&format!("127.86.3.{n}")))).collect();
    let servers: Vec<_> = (0..).zip(&addresses).map(|(n, address)| MediaServer::start(n, vec![*address])).collect();
    let mut config = format!(
        "[[frontend]]\nname = \"f\"\nmode = \"relay\"\nbind = \"udp://127.86.2.1:{port}\"\nbackend = \"b\"\n\
         [[backend]]\nname = \"b\"\nstick = {{ on = \"source\" }}\ncheck = {{ type = \"none\" }}\n"
    );
    for (n, address) in addresses.iter().enumerate() {
        config += &format!("[[backend.server]]\nname = \"s{n}\"\naddress = \"udp://{address}\"\n");
    }
    let balancer = Balancer::start(4, &config);
    let mut used = [0; 5];
    for source in 1..=40 {
        let answers = (0..5).map(|_| {
            let client = bound(&format!("127.86.1.{source}:0"));
            client.send_to(b"who", ("127.86.2.1", port)).unwrap();
            let mut datagram = [0; 10];
            assert_eq!(client.recv(&mut datagram).expect("an answer"), 4);
            datagram[0]
        });
        let answers: Vec<_> = answers.collect();
        assert!(answers.iter().all(|server| *server == answers[0]), "source {source}: {answers:?}");
        used[usize::from(answers[0])] += 1;
    }
    assert!(used.iter().all(|sources| *sources > 0), "{used:?}");
    let heard: u64 = servers.into_iter().flat_map(MediaServer::stop).flat_map(|port| port.into_values()).sum();
    assert_eq!(heard, 200);
    balancer.stop();
}

/// A SIP server behind a relay is checked as everywhere; when it dies its flows go to the other one.
#[test]
fn the_flows_of_a_dead_server_move() {
    let servers = ["127.87.3.1:0", "127.87.3.2:0"].map(bound);
    let addresses = servers.each_ref().map(|server| server.local_addr().unwrap());
    let port = free_port("127.87.2.1");
    let mut balancer = Balancer::start(
        4,
        &format!(
            "[[frontend]]\nname = \"f\"\nmode = \"relay\"\nbind = \"udp://127.87.2.1:{port}\"\nbackend = \"b\"\n[[backend]]\n\
             name = \"b\"\ncheck = {{ interval = \"500ms\", timeout = \"200ms\", fast_interval = \"200ms\", fall = 2 }}\n\
             [[backend.server]]\nname = \"s0\"\naddress = \"udp://{}\"\n[[backend.server]]\nname = \"s1\"\naddress = \"udp://{}\"\n",
            addresses[0], addresses[1]
        ),
    );
    servers.iter().for_each(|server| server.set_nonblocking(true).unwrap());
    let client = bound("127.87.1.1:0");
    /// Answers what checks ask; says whether the client was heard.
    fn serve(server: &UdpSocket) -> bool {
        let mut heard = false;
        drain(server, |datagram, from| match datagram.starts_with(b"OPTIONS ") {
            true => {
                let text = std::str::from_utf8(datagram).unwrap();
                server.send_to(&support::calls::response(text, "200 OK", &[]), from).unwrap();
            }
            false => heard = datagram == b"media",
        });
        heard
    }
    let mut first = None;
    wait_for("the client's first server", || {
        client.send_to(b"media", ("127.87.2.1", port)).unwrap();
        first = servers.iter().position(serve).or(first);
        first.is_some()
    });
    let first = first.unwrap();
    let mut servers = servers.map(Some);
    servers[first] = None;
    let other = servers[1 - first].as_ref().unwrap();
    wait_for("the flow to move", || {
        client.send_to(b"media", ("127.87.2.1", port)).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        serve(other)
    });
    balancer.process.turns(&format!("b/s{first}"), "dead");
    balancer.stop();
}

#[test]
fn ten_thousand_ports_open_and_check_says_what_they_need() {
    let range = Range::new(88, 10_000);
    let config = range.config("", "max_flows = 2000");
    let balancer = Balancer::start(4, &config);
    let file = balancer.folder.path().join("trunkline.toml");
    let servers = [(0, 0), (1, range.count - 1)]
        .map(|(n, port)| MediaServer::start(n, vec![at(&range.servers[usize::from(n)], range.first + port)]));
    let client = bound("127.88.1.1:0");
    for (server, port) in [(0, 0), (1, range.count - 1)] {
        client.send_to(b"x", range.port(port)).unwrap();
        let mut datagram = [0; 10];
        assert_eq!(client.recv(&mut datagram).expect("an answer"), 2);
        assert_eq!(datagram[0], server);
    }
    servers.into_iter().for_each(|server| drop(server.stop()));
    let Balancer { process, folder: _folder } = balancer;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.end().0, Some(0));
    // A shell whose limit is lower than what is needed, and a process that may not raise it.
    let shell = |command: &str| {
        let script = format!("ulimit -n 4096 && exec setpriv --bounding-set -sys_resource \"$0\" {command} -c \"$1\"");
        output(Command::new("sh").args(["-c", &script]).arg(program()).arg(&file))
    };
    let stderr = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let check = shell("check");
    let said = stderr(&check);
    assert!(check.status.success() && said.contains("10000 ports, 2000 flows"), "{said}");
    assert!(said.contains("this process may have 4096: raise LimitNOFILE="), "{said}");
    let run = shell("run");
    assert_eq!(run.status.code(), Some(1), "{}", stderr(&run));
    assert!(stderr(&run).contains("raise LimitNOFILE="), "at start, not under load: {}", stderr(&run));
    let check = output(Command::new(program()).arg("check").arg("-c").arg(&file));
    assert!(stderr(&check).contains("LimitNOFILE= of the unit must allow it"), "{}", stderr(&check));
}

/// A reload adds ports and takes them away again; streams on the others lose nothing.
#[test]
fn ports_come_and_go_by_reload_and_other_streams_go_on() {
    let range = Range::new(92, 8);
    let part = |count: u16| Range { ip: range.ip.clone(), count, servers: range.servers.clone(), ..range };
    let (small, large) = (part(4), part(8));
    // The servers listen on every port of the large range, whichever part is whose.
    let servers = [0, 1].map(|n| {
        let ports = large.first..large.first + large.count;
        MediaServer::start(n, ports.map(|port| at(&large.servers[usize::from(n)], port)).collect())
    });
    let mut balancer = Balancer::start(4, &small.config("", "max_flows = 100"));
    let file = balancer.folder.path().join("trunkline.toml");
    let head = std::fs::read_to_string(&file).unwrap().split("[[frontend]]").next().unwrap().to_owned();
    let clients: Vec<_> = (0..2).map(|n| open(at(&format!("127.92.1.{}", 1 + n), 0))).collect();
    let mut home = [0u32; 2];
    let mut sent = 0;
    // Says which server each stream heard last.
    let mut stream = |times: u32| {
        let mut last = [0; 2];
        for _ in 0..times {
            // Port 0 is the first server's throughout, port 3 is the second's at first and then the first's.
            for (client, port) in clients.iter().zip([0, 3]) {
                client.send_to(b"media", range.port(port)).unwrap();
            }
            sent += 1;
            wait_for("the echoes", || {
                for at in wait_readable(&clients, Duration::from_millis(20)) {
                    drain(&clients[at], |echo, _| (home[at], last[at]) = (home[at] + 1, echo[0]));
                }
                home == [sent; 2]
            });
        }
        last
    };
    let ask = |port: u16| {
        let client = bound("127.92.1.9:0");
        client.send_to(b"x", range.port(port)).unwrap();
        let mut datagram = [0; 10];
        client.recv(&mut datagram).map(|_| datagram[0])
    };
    stream(20);
    for round in 0..5 {
        for (shape, last) in [(&large, Some(1)), (&small, None)] {
            std::fs::write(&file, head.clone() + &shape.config("", "max_flows = 100")).unwrap();
            balancer.process.signal(Signal::SIGHUP);
            balancer.process.line_with("reloaded");
            stream(20);
            match last {
                Some(server) => assert_eq!(ask(7).ok(), Some(server), "round {round}: the new port"),
                None => wait_for("the port to close", || !is_bound(range.port(7))),
            }
        }
    }
    // Each server at the other's address, under its own name: its flows follow it.
    let swapped =
        Range { servers: [range.servers[1].clone(), range.servers[0].clone()], ip: range.ip.clone(), ..small };
    assert_eq!((ask(0).ok(), ask(3).ok()), (Some(0), Some(1)), "before");
    std::fs::write(&file, head.clone() + &swapped.config("", "max_flows = 100")).unwrap();
    balancer.process.signal(Signal::SIGHUP);
    balancer.process.line_with("reloaded");
    assert_eq!(stream(20), [1, 0], "whom the streams heard last");
    std::fs::write(&file, head.clone() + &small.config("", "max_flows = 100")).unwrap();
    balancer.process.signal(Signal::SIGHUP);
    balancer.process.line_with("reloaded");
    stream(20);
    assert_eq!(ask(3).ok(), Some(1), "a new flow goes to whose the port is now");
    // Too many ports, and one that is another's: nothing changes.
    let other = bound(&range.port(6).to_string());
    std::fs::write(&file, head + &large.config("", "max_flows = 100")).unwrap();
    balancer.process.signal(Signal::SIGHUP);
    let refused = balancer.process.line_with("nothing was changed");
    assert!(refused.contains("refused"), "{refused}");
    stream(20);
    drop(other);
    servers.into_iter().for_each(|server| drop(server.stop()));
    balancer.stop();
}

/// A relay of one port before one server, and what a reload of another text says.
struct OnePort {
    balancer: Balancer,
    server: UdpSocket,
}

impl OnePort {
    fn text(bind: SocketAddr, mode: &str, server: &UdpSocket) -> String {
        let server = server.local_addr().unwrap();
        format!(
            "[[frontend]]\nname = \"one\"\nmode = \"{mode}\"\nbind = \"udp://{bind}\"\nbackend = \"b\"\n\
             [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"udp://{server}\"\n"
        )
    }

    /// One worker: a new socket takes the place of the one that was closed.
    fn start(bind: SocketAddr, mode: &str, server: &str) -> Self {
        let server = bound(server);
        Self { balancer: Balancer::start(1, &Self::text(bind, mode, &server)), server }
    }

    fn reload(&self, text: &str) -> String {
        let file = self.balancer.folder.path().join("trunkline.toml");
        std::fs::write(file, support::process::global(&self.balancer.folder, 1) + text).unwrap();
        ask(&self.balancer.folder.path().join("admin.sock"), "reload").unwrap()
    }
}

/// The flows of a port end with it: nobody hears their servers from another one.
#[test]
fn a_removed_port_takes_its_flows_with_it() {
    let [old, new] = [(); 2].map(|()| at("127.93.2.1", free_port("127.93.2.1")));
    let one = OnePort::start(old, "relay", "127.93.2.21:0");
    let client = bound("127.93.1.1:0");
    client.send_to(b"x", old).unwrap();
    let mut datagram = [0; 10];
    let (_, flow) = one.server.recv_from(&mut datagram).unwrap();
    one.server.connect(flow).unwrap();
    one.server.send(b"before").unwrap();
    assert_eq!(client.recv_from(&mut datagram).unwrap(), (6, old));
    let said = one.reload(&OnePort::text(new, "relay", &one.server));
    assert!(said.starts_with("Success=1"), "{said}");
    one.server.send(b"after").unwrap();
    let refused = one.server.recv(&mut datagram).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the flow's socket is closed");
    client.set_nonblocking(true).unwrap();
    assert!(client.recv_from(&mut datagram).is_err(), "from {new}");
    one.balancer.stop();
}

/// An address does not change its mode while the process runs, nor does a frontend: the answer says so, and nothing changes.
#[test]
fn an_address_that_changes_its_mode_waits_for_a_restart() {
    let [old, new] = [(); 2].map(|()| at("127.94.2.1", free_port("127.94.2.1")));
    let wildcard = at("0.0.0.0", old.port());
    for (mode, other) in [("proxy", "relay"), ("relay", "proxy")] {
        let one = OnePort::start(old, mode, "127.94.2.21:0");
        let named = |bind, mode| OnePort::text(bind, mode, &one.server).replace("\"one\"", "\"two\"");
        let address = format!("udp://{old} is a {mode}'s, and ");
        for (text, what) in [
            (OnePort::text(old, other, &one.server), "frontend one is a"),
            (OnePort::text(new, other, &one.server), "frontend one is a"),
            (named(old, other), &address),
            (named(wildcard, other), &address),
        ] {
            let said = one.reload(&text);
            assert!(said.contains(what) && said.contains("restart") && said.contains("nothing was changed"), "{said}");
            assert!(!said.contains("another process"), "{said}");
        }
        let said = one.reload(&named(new, other));
        assert!(said.starts_with("Success=1"), "another name at another address: {said}");
        one.balancer.stop();
    }
}

#[test]
fn route_says_whose_a_port_is_and_where_a_source_goes() {
    let range = Range::new(89, 8);
    let balancer = Balancer::start(1, &range.config("", ""));
    let file = balancer.folder.path().join("trunkline.toml");
    let route = |file: &std::path::Path, arguments: &[&str]| {
        let output = output(Command::new(program()).arg("route").args(arguments).arg("-c").arg(file));
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let port = (range.first + 5).to_string();
    let (code, server, why) = route(&file, &["--port", &port]);
    assert_eq!((code, server.as_str()), (Some(0), "media/m1\n"), "{why}");
    assert!(why.contains(&format!("server media/m1 at {}:{port}", range.servers[1])), "{why}");
    let (code, _, why) = route(&file, &["--source", "10.1.2.3"]);
    assert!(code == Some(1) && why.contains("a port decides in backend \"media\": give --port"), "{why}");
    let (code, _, why) = route(&file, &["--port", "1"]);
    assert!(code == Some(1) && why.contains("port 1 is no server's"), "{why}");
    assert_eq!(route(&file, &[]).0, Some(2));
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, _) = text.split_once("[[frontend]]").unwrap();
    let plain = balancer.folder.path().join("plain.toml");
    let rest = "[[frontend]]\nname = \"f\"\nmode = \"relay\"\nbind = \"udp://127.0.0.1:7000\"\nbackend = \"b\"\n[[backend]]\n\
                name = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"udp://127.0.0.2:7000\"\n";
    std::fs::write(&plain, head.to_owned() + rest).unwrap();
    let (code, server, why) = route(&plain, &["--source", "10.1.2.3"]);
    assert_eq!((code, server.as_str()), (Some(0), "b/s\n"), "{why}");
    assert!(why.contains("of source 10.1.2.3"), "{why}");
    balancer.stop();
}

/// A figure of /proc/PID/status, in bytes.
fn resident(balancer: &Balancer) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", balancer.process.child.id())).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Flows come and go; what they leave behind is nothing.
#[test]
fn memory_is_flat_while_flows_come_and_go() {
    const FLOWS: usize = 200;
    let range = Range::new(90, 8);
    let servers = range.start_servers();
    let balancer = Balancer::start(4, &range.config("idle = \"1s\"", &format!("max_flows = {FLOWS}")));
    let folder = format!("/proc/{}/fd", balancer.process.child.id());
    let is_socket = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_link(entry.unwrap().path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
    };
    let sockets = || std::fs::read_dir(&folder).unwrap().filter_map(|entry| is_socket(entry).then_some(())).count();
    let round = || {
        let clients: Vec<_> = (0..FLOWS).map(|n| open(at(&format!("127.90.1.{}", 1 + n % 40), 0))).collect();
        let mut home = 0;
        for _ in 0..20 {
            for (n, client) in clients.iter().enumerate() {
                client.send_to(&[7; 1000], range.port((n % 8) as u16)).unwrap();
            }
            home += FLOWS;
            let mut came = 0;
            wait_for("the echoes", || {
                wait_readable(&clients, Duration::from_millis(20))
                    .iter()
                    .for_each(|at| drain(&clients[*at], |_, _| came += 1));
                came == FLOWS
            });
        }
        let open = sockets();
        wait_for("the flows to end", || sockets() == open - FLOWS);
        home
    };
    let sent: usize = (0..2).map(|_| round()).sum();
    let before = resident(&balancer);
    let sent = sent + (0..3).map(|_| round()).sum::<usize>();
    let grown = resident(&balancer).saturating_sub(before);
    println!("{sent} datagrams each way, {} flows: {grown} bytes more resident", FLOWS * 5);
    assert!(grown < 1 << 20, "{grown} bytes more");
    servers.into_iter().for_each(|server| drop(server.stop()));
    balancer.stop();
}
