//! How much memory a connection takes that has said something and is silent: the real process, between a thousand and eight
//! thousand of them.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use support::pki::Pki;
use support::process::{Balancer, wait_for};
use support::regions::{Net, SERVERS, answer, answer_over, stop};
use trunkline::load::{AnswererOptions, Timers};
use trunkline::sip::Transport;

const FEW: usize = 1_000;
const MANY: usize = 8_000;
const KILOBYTE: u64 = 1024;

fn options(number: usize, transport: &str) -> String {
    format!(
        "OPTIONS sip:sip.example.ng SIP/2.0\r\nVia: SIP/2.0/{transport} 192.168.1.2:5061;branch=z9hG4bK{number:x}\r\n\
         From: <sip:a@sip.example.ng>;tag={number:x}\r\nTo: <sip:sip.example.ng>\r\nCall-ID: {number:x}@memory\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Asks and is answered.
fn ask(stream: &mut (impl Read + Write), number: usize, transport: &str) {
    stream.write_all(options(number, transport).as_bytes()).unwrap();
    stream.flush().unwrap();
    let (mut said, mut room) = (Vec::new(), [0; 2048]);
    while !said.ends_with(b"\r\n\r\n") {
        let len = stream.read(&mut room).unwrap();
        assert!(len > 0, "the connection ended after {}", said.escape_ascii());
        said.extend_from_slice(&room[..len]);
    }
    assert!(said.starts_with(b"SIP/2.0 200 OK"), "{}", said.escape_ascii());
}

fn resident(balancer: &Balancer) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", balancer.process.child.id())).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * KILOBYTE
}

/// How many connections it has an open file for, whatever their state.
fn connections(balancer: &Balancer) -> usize {
    const LISTENING: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let connected = fields.filter(|fields| fields[3] != LISTENING);
    let sockets: BTreeSet<_> = connected.map(|fields| format!("socket:[{}]", fields[9])).collect();
    let files = fs::read_dir(format!("/proc/{}/fd", balancer.process.child.id())).unwrap();
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    links.filter(|link| sockets.contains(link.to_string_lossy().as_ref())).count()
}

/// Everything that a stranger may try, by as many connections, which are gone before they are answered or wait for the end.
fn wave(at: SocketAddr) {
    let good = options(1, "TCP");
    let length = "Content-Length: 0";
    let tries = [
        good.clone(),
        good.repeat(20),
        good[..good.len() / 2].to_owned(),
        good.replace(length, "Content-Length: 10000000"),
        good.replace(length, "Content-Length: 60000") + &"x".repeat(40_000),
        good.replace(length, "Content-Length: 0\r\nContent-Length: 7"),
        good.replace(length, "Content-Length:\r\n 0"),
        good.replace("\r\n", "\n"),
        good.replace("Content-Length: 0\r\n", ""),
        "\r\n".repeat(2000) + &good,
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "\0".repeat(70_000),
        format!("OPTIONS sip:{} SIP/2.0\r\n", "a".repeat(70_000)),
        String::new(),
    ];
    for text in tries {
        let streams: Vec<_> = (0..30).map(|_| TcpStream::connect(at).unwrap()).collect();
        for (number, mut stream) in streams.into_iter().enumerate() {
            // It may have been closed in the middle of it.
            let _ = stream.write_all(text.as_bytes());
            if number % 3 == 0 {
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
    }
}

/// What each of the connections beyond the first thousand takes.
fn marginal<S: Read + Write>(net: &Net, transport: &str, tls: &str, open: impl Fn(SocketAddr) -> S) -> u64 {
    let (addresses, at) = (net.servers(), net.free(1));
    let scheme = transport.to_lowercase();
    let mut config = format!(
        "[[frontend]]\nname = \"f\"\nbind = \"{scheme}://{at}\"\ninside = \"{}\"\nbackend = \"pbx\"\n\
         limits = {{ max_connections_per_source = {MANY} }}\n{tls}\n[[backend]]\nname = \"pbx\"\npin = {{ size = 1000 }}\n",
        net.ip(2)
    );
    for ((name, _), address) in SERVERS.iter().zip(addresses) {
        config += &format!("[[backend.server]]\nname = \"{name}\"\naddress = \"udp://{address}\"\n");
    }
    let named: Vec<_> = SERVERS.iter().zip(addresses).map(|((name, _), address)| (*name, address)).collect();
    let servers = answer(&named, Timers::default());
    let balancer = Balancer::start(4, &config);
    let mut streams = Vec::new();
    let mut grow = |to: usize| {
        while streams.len() < to {
            let mut stream = open(at);
            ask(&mut stream, streams.len(), transport);
            streams.push(stream);
        }
        resident(&balancer)
    };
    let (few, many) = (grow(FEW), grow(MANY));
    println!("{transport}: {few} bytes with {FEW} connections, {many} with {MANY}");
    drop(streams);
    balancer.stop();
    stop(servers);
    (many - few) / (MANY - FEW) as u64
}

#[test]
fn a_silent_tcp_connection_takes_less_than_eight_kilobytes() {
    let each = marginal(&Net(58), "TCP", "", |at| TcpStream::connect(at).unwrap());
    println!("{each} bytes each");
    assert!((200..=8 * KILOBYTE).contains(&each), "{each} bytes");
}

#[test]
fn a_silent_tls_connection_takes_less_than_forty_kilobytes() {
    let pki = Pki::new();
    let certificate = pki.path("sip.pem");
    pki.put(&certificate, &pki.pem("sip", "DNS:sip.example.ng"));
    let config = pki.trusting();
    let each = marginal(&Net(59), "TLS", &format!("tls = {{ certificates = {certificate:?} }}"), |at| {
        let name = ServerName::try_from("sip.example.ng").unwrap();
        let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
        StreamOwned::new(connection, TcpStream::connect(at).unwrap())
    });
    println!("{each} bytes each");
    assert!((200..=40 * KILOBYTE).contains(&each), "{each} bytes");
}

#[test]
fn whatever_strangers_try_leaves_nothing_behind() {
    let net = Net(74);
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().zip(addresses).map(|((name, _), address)| (*name, address)).collect();
    let servers = answer_over(Transport::Tcp, &named, AnswererOptions::default());
    let (balancer, at) = net.balance_by(["tcp", "tcp"], &addresses, ["", "check = { type = \"none\" }", ""]);
    // Each worker opens a connection to each server, which stays.
    let most = 4 * SERVERS.len();
    let waves = |count: usize| {
        for _ in 0..count {
            wave(at);
            wait_for("all of its connections to be closed", || connections(&balancer) <= most);
        }
        resident(&balancer)
    };
    // Until the allocator has what it keeps.
    let mut before = waves(5);
    // 8,400 connections: a hundred bytes of each would be seen. What is left behind grows each time, what a crowded moment
    // takes once.
    let keeps_nothing = (0..4).any(|_| {
        let after = waves(20);
        let grown = after.saturating_sub(std::mem::replace(&mut before, after));
        println!("{grown} bytes more");
        grown < 800 * KILOBYTE
    });
    assert!(keeps_nothing, "it grew each time");
    balancer.stop();
    stop(servers);
}
