//! Real workers with five servers behind them, clients with addresses of their own, and a third party that must hear
//! nothing. What comes in is counted, and whoever hears of it is told.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use socket2::SockRef;
use trunkline::net::worker::{Setup, Workers};
use trunkline::proxy::explain;

use super::calls::{counts, request, response};
use super::lines::{header, user};
use super::process::wait_for;
use super::workers::{bound, free_port, prepare};

pub const WORKERS: usize = 4;
pub const SERVERS: usize = 5;

/// The scene. Its addresses are those of 127.`net`.0.0/16.
pub struct Wire {
    pub outside: SocketAddr,
    pub inside: SocketAddr,
    pub servers: Vec<UdpSocket>,
    pub third: UdpSocket,
    pub setup: Setup,
    workers: Option<Workers>,
    net: u8,
    clients: Cell<u16>,
}

/// A confirmed call: who made it, the position of its server, and the INVITE that this one got.
pub struct Call {
    pub client: UdpSocket,
    pub server: usize,
    pub forwarded: String,
}

impl Call {
    /// Our token in the Record-Route of this call.
    pub fn token(&self) -> &str {
        user(header(&self.forwarded, "Record-Route"))
    }
}

impl Wire {
    /// A confirmed call lives shorter than an INVITE may ring: what is left in a full table is not left by its age.
    /// `pins` is the size of the pin table, `frontend` more lines of the frontend.
    pub fn new(net: u8, pins: usize, frontend: &str) -> Self {
        // Limits are per address: a server that is refused two hundred times in a row must send from many.
        let servers: Vec<_> = (0..SERVERS).map(|n| bound(&format!("127.{net}.{}.1:0", 10 + n))).collect();
        let outside = format!("127.{net}.2.1");
        let port = free_port(&outside);
        let mut text = format!(
            "[[frontend]]\nname = \"sip\"\nbind = \"udp://{outside}:{port}\"\ninside = \"127.{net}.2.2\"\nbackend = \"b\"\n\
             source_header = \"X-Source\"\n{frontend}\n[[backend]]\nname = \"b\"\npin = {{ size = {pins}, expire = \"2m\" }}\n"
        );
        for (n, server) in servers.iter().enumerate() {
            let address = server.local_addr().unwrap();
            text += &format!(
                "[[backend.server]]\nname = \"s{n}\"\naddress = \"udp://{address}\"\nsources = [\"127.{net}.{}.0/24\"]\n",
                10 + n
            );
        }
        let (setup, sockets) = prepare(&super::core::config(&text), WORKERS, pins);
        let workers = Some(Workers::start(&setup, sockets).unwrap());
        let third = bound(&format!("127.{net}.4.1:0"));
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
        let (outside, inside) = (at(&outside), at(&format!("127.{net}.2.2")));
        Self { outside, inside, servers, third, setup, workers, net, clients: Cell::new(0) }
    }

    /// A client, each from an address and a port of its own: refusals are limited per address, and the kernel spreads
    /// ports over the workers.
    pub fn client(&self) -> UdpSocket {
        let n = self.clients.replace(self.clients.get() + 1);
        bound(&format!("127.{}.{}.{}:0", self.net, 100 + n / 250, 1 + n % 250))
    }

    /// Another socket of a server's, from the n-th address of its network.
    pub fn of_server(&self, server: usize, n: usize) -> UdpSocket {
        bound(&format!("127.{}.{}.{}:0", self.net, 10 + server, 2 + n % 250))
    }

    /// Every counter of the frontend, and those of the workers and servers that say something went wrong.
    fn counts(&self) -> Vec<(String, u64)> {
        let snapshot = self.setup.snapshot.load();
        let mut counts = counts(&snapshot);
        let workers = &self.setup.shared.workers;
        counts.push(("icmp".into(), workers.sum(|c| &c.icmp)));
        counts.push(("kernel_drops".into(), workers.sum(|c| &c.kernel_drops)));
        let failed = snapshot.servers.iter().map(|server| server.live.counters.sum(|c| &c.failed)).sum();
        counts.push(("failed".into(), failed));
        counts
    }

    /// What this sends must move these counters by so much, and no other one.
    pub fn expect(&self, expected: &[(&str, u64)], what: &str, send: impl FnOnce()) {
        let of = |counts: &[(String, u64)], word: &str| counts.iter().find(|(w, _)| w == word).unwrap().1;
        let before = self.counts();
        send();
        let total: u64 = expected.iter().map(|(_, n)| n).sum();
        // What leaves is counted when it has left: then whoever gets it has it.
        wait_for(what, || {
            let now = self.counts();
            let ends: u64 = now[1..now.len() - 3].iter().map(|(_, n)| n).sum();
            assert_eq!(now[0].0, "received");
            now[0].1 == of(&before, "received") + total && ends == now[0].1
        });
        let after = self.counts();
        let moved: Vec<_> = after[1..]
            .iter()
            .map(|(word, n)| (word.as_str(), n - of(&before, word)))
            .filter(|(_, moved)| *moved > 0)
            .collect();
        let mut expected: Vec<_> = expected.iter().copied().filter(|(_, n)| *n > 0).collect();
        expected.sort_by_key(|(word, _)| after.iter().position(|(w, _)| w == word));
        assert_eq!(moved, expected, "{what}");
    }

    /// Sends one datagram that nobody may hear of; it moves one counter.
    pub fn swallowed(&self, from: &UdpSocket, to: SocketAddr, bytes: &[u8], counter: &str) {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
        self.expect(&[(counter, 1)], &what, || assert_eq!(from.send_to(bytes, to).unwrap(), bytes.len()));
        self.nobody_hears(&[from], &what);
    }

    /// Sends one request that is refused with this status: its sender hears it, and nobody else anything.
    pub fn refused(&self, from: &UdpSocket, to: SocketAddr, bytes: &[u8], counter: &str, status: &str) {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
        self.expect(&[(counter, 1)], &what, || assert_eq!(from.send_to(bytes, to).unwrap(), bytes.len()));
        let (answer, source) = heard(from, "the refusal");
        assert_eq!((&answer[..12], source), (format!("SIP/2.0 {status} ").as_str(), to), "{what}");
        self.nobody_hears(&[from], &what);
    }

    /// Sends one request that a server gets, once: which one, and what.
    pub fn reaches(&self, from: &UdpSocket, bytes: &[u8]) -> (usize, String) {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
        self.expect(&[("requests_to_servers", 1)], &what, || {
            from.send_to(bytes, self.outside).unwrap();
        });
        let mut found = None;
        wait_for(&what, || {
            found = self.servers.iter().enumerate().find_map(|(n, server)| Some((n, take(server)?)));
            found.is_some()
        });
        self.nobody_hears(&[from], &what);
        found.unwrap()
    }

    /// Nothing waits at any server, at the third party, or at these.
    pub fn nobody_hears(&self, others: &[&UdpSocket], what: &str) {
        for socket in self.servers.iter().chain([&self.third]).chain(others.iter().copied()) {
            let heard = take(socket);
            assert!(heard.is_none(), "{} heard {heard:?} of {what}", socket.local_addr().unwrap());
        }
    }

    /// A request of this client with its own Via. `number` makes its branch.
    pub fn request(&self, from: &UdpSocket, method: &str, call_id: &str, number: usize, lines: &[&str]) -> Vec<u8> {
        let (via, call) = (via(from, number), format!("Call-ID: {call_id}"));
        request(method, "sip:100@sip.example.ng", &[&[via.as_str(), call.as_str()], lines].concat())
    }

    /// The server that the balance has for a Call-ID.
    pub fn by_hash(&self, call_id: &str) -> usize {
        let snapshot = self.setup.snapshot.load();
        let found = explain(&snapshot, 0, snapshot.keys.call(call_id.as_bytes()), None).expect("a server");
        let address = snapshot.servers[found.server].address;
        self.servers.iter().position(|server| server.local_addr().unwrap() == address).unwrap()
    }

    /// Makes a call that its server answers with 200.
    pub fn call(&self, client: UdpSocket, call_id: &str, lines: &[&str]) -> Call {
        let invite = self.request(&client, "INVITE", call_id, 1, lines);
        let (server, forwarded) = self.reaches(&client, &invite);
        let answer = response(&forwarded, "200 OK", &[]);
        self.expect(&[("responses_to_clients", 1)], "the answer", || {
            self.servers[server].send_to(&answer, self.inside).unwrap();
        });
        let (text, from) = heard(&client, "the answer");
        assert!(text.starts_with("SIP/2.0 200 ") && from == self.outside, "{text}");
        Call { client, server, forwarded }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.workers.take().into_iter().for_each(Workers::stop);
    }
}

/// The Via of a client behind NAT: its sent-by is not where it sends from.
pub fn via(from: &UdpSocket, number: usize) -> String {
    let port = from.local_addr().unwrap().port();
    format!("Via: SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bKc{port}x{number};rport")
}

/// What a socket gets, as text.
pub fn heard(socket: &UdpSocket, what: &str) -> (String, SocketAddr) {
    let mut datagram = vec![0; 65_535];
    let (length, from) = socket.recv_from(&mut datagram).unwrap_or_else(|error| panic!("{what}: {error}"));
    (String::from_utf8_lossy(&datagram[..length]).into_owned(), from)
}

/// What already waits at a socket.
pub fn take(socket: &UdpSocket) -> Option<String> {
    let mut datagram = vec![0; 65_535];
    SockRef::from(socket).set_nonblocking(true).unwrap();
    let received = socket.recv_from(&mut datagram);
    SockRef::from(socket).set_nonblocking(false).unwrap();
    let (length, _) = received.ok()?;
    Some(String::from_utf8_lossy(&datagram[..length]).into_owned())
}

/// The IP address of a socket.
pub fn ip(socket: &UdpSocket) -> IpAddr {
    socket.local_addr().unwrap().ip()
}

/// A token with one bit flipped.
pub struct Flip {
    /// The byte of what the text encodes, and the bit in it; `None` for the bits that fill up the last character.
    pub place: Option<(usize, u8)>,
    pub text: String,
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The five bits that a character of a token stands for.
pub fn bits(text: &str, at: usize) -> usize {
    ALPHABET.iter().position(|c| *c == text.as_bytes()[at]).expect("base32")
}

/// Every text that differs from a token in one bit of what its characters say.
pub fn flips(token: &str) -> impl Iterator<Item = Flip> + '_ {
    (0..token.len() * 5).map(|bit| {
        let mut text = token.as_bytes().to_vec();
        text[bit / 5] = ALPHABET[bits(token, bit / 5) ^ 16 >> (bit % 5)];
        let place = (bit < token.len() * 5 / 8 * 8).then_some((bit / 8, 7 - (bit % 8) as u8));
        Flip { place, text: String::from_utf8(text).unwrap() }
    })
}
