//! Any datagram, from a client, a server or a stranger, through the whole decision: what leaves can be read, holds what
//! came, is not much longer, and goes only where such a message may go.
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/support/core.rs"]
mod core;
#[allow(dead_code)]
#[path = "../../tests/support/model/mod.rs"]
mod model;

use std::cell::RefCell;
use std::net::SocketAddr;

use core::{Node, Outcome, addr};
use libfuzzer_sys::fuzz_target;
use model::Reading;
use trunkline::proxy::Passage;
use trunkline::sip::edit::HEADROOM;
use trunkline::sip::token::{Branch, Direction};
use trunkline::sip::{Fault, Message, Method, StartLine};
use trunkline::state::{Reason, Time};

const CONFIG: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "udp://[2001:db8:f::10]:5060"]
inside = "10.0.1.10"
aliases = ["sip.example.ng", "sip.lagos.example"]
backend = "pbx"
source_header = "X-Src"
[frontend.limits]
deny_user_agent = ["scanner"]

[[frontend]]
name = "wild"
bind = "udp://0.0.0.0:5070"
inside = "10.0.1.10"
backend = "pbx"
send_to = ["10.9.0.0/16"]
source_header = "X-Src"

[[backend]]
name = "pbx"
pin = { size = 1000, expire = "1m" }
[[backend.server]]
name = "k"
address = "udp://10.0.10.11:5060"
sources = ["10.0.10.11"]
[[backend.server]]
name = "m"
address = "udp://10.0.10.12:5060"
"#;

const SERVERS: [&str; 2] = ["10.0.10.11:5060", "10.0.10.12:5060"];

/// Who sends, and to which address of ours.
const ROADS: [(&str, &str); 8] = [
    ("198.51.100.7:31234", "203.0.113.10:5060"),
    ("10.0.10.11:5060", "10.0.1.10:5060"),
    ("10.0.10.12:5060", "10.0.1.10:5060"),
    ("[2001:db8::9]:5060", "[2001:db8:f::10]:5060"),
    ("192.0.2.1:5060", "192.0.2.200:5070"),
    ("10.0.10.11:49152", "203.0.113.10:5060"),
    ("10.0.10.12:5061", "203.0.113.10:5060"),
    ("203.0.113.10:5060", "10.0.1.10:5060"),
];

/// A node whose memory is as good as empty for each message: what it remembered has expired.
const LATER: u64 = 300_000_000_000;

thread_local! {
    static NODE: RefCell<Node> = RefCell::new(Node::new(CONFIG));
}

struct Case<'a> {
    bytes: &'a [u8],
    message: Message,
    from: SocketAddr,
    from_server: bool,
}

fuzz_target!(|input: &[u8]| {
    let Some((&road, bytes)) = input.split_first() else { return };
    let (from, to) = ROADS[usize::from(road) % ROADS.len()];
    let (from, to) = (addr(from), addr(to));
    let (first, second, from_server) = NODE.with_borrow_mut(|node| {
        node.now = Time((node.now.0 + LATER) & (u64::MAX >> 2));
        let from_server = node.snapshot.server_at(&from, false).is_some();
        (node.receive(from, to, bytes), node.receive(from, to, bytes), from_server)
    });
    assert_eq!(carried_out(&first), carried_out(&second), "the same message, the same verdict");
    let Ok(message) = Message::parse(bytes) else {
        return assert_eq!(first, Outcome::Dropped(Reason::NotSip));
    };
    let case = Case { bytes, message, from, from_server };
    match first {
        Outcome::Dropped(_) => {}
        Outcome::Answered { to, reason, bytes, .. } => case.check_answer(to, reason, &bytes),
        Outcome::Sent { to, passage, bytes, .. } => case.check_sent(to, passage, &bytes),
    }
});

/// What the world sees of a verdict; that a second one follows the pin of the first is told by the passage alone.
fn carried_out(outcome: &Outcome) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    match outcome {
        Outcome::Sent { from, to, bytes, .. } | Outcome::Answered { from, to, bytes, .. } => Some((*from, *to, bytes)),
        Outcome::Dropped(_) => None,
    }
}

impl Case<'_> {
    /// Back to the address it came from, never to a response or an ACK, and hardly longer than what it answers.
    fn check_answer(&self, to: SocketAddr, reason: Option<Reason>, answer: &[u8]) {
        assert!(matches!(self.message.start, StartLine::Request { .. }) && self.message.method() != Method::Ack);
        assert_eq!(to.ip(), self.from.ip());
        assert!(answer.len() < self.bytes.len() + 400, "{} for {}", answer.len(), self.bytes.len());
        let read = Message::parse(answer).expect("an answer is SIP");
        // What is copied of a broken message may be what is broken.
        assert!(read.fault.is_none() || self.message.fault.is_some(), "{}", answer.escape_ascii());
        let to = |bytes: &[u8]| Reading::naive(bytes).and_then(|reading| reading.to).expect("To");
        let (asked, answered) = (to(self.bytes), to(answer));
        let tag = answered.strip_prefix(asked.as_str()).expect("To is copied");
        assert_eq!(tag.starts_with(";tag="), self.message.to_tag(self.bytes).is_none(), "{answered}");
        assert_eq!(read.status(), reason.map_or(Some(200), |reason| reason.answer().map(|(status, _)| status)));
    }

    fn check_sent(&self, to: SocketAddr, passage: Passage, sent: &[u8]) {
        assert_eq!(self.message.fault, None, "what is wrong is not passed on");
        assert!(sent.len() <= self.bytes.len() + HEADROOM);
        let read = Message::parse(sent).expect("it is SIP still");
        // Of a response the next Via is on top now, and nobody judged it where ours said the way.
        let unjudged = self.message.status().is_some() && read.fault == Some(Fault::Via);
        // Our own lines come on top of as many as are read at all.
        let allowed = unjudged || read.fault == Some(Fault::TooManyHeaders);
        assert!(read.fault.is_none() || allowed, "{:?} of {}", read.fault, sent.escape_ascii());
        if read.fault == Some(Fault::TooManyHeaders) {
            return;
        }
        self.check_kept(sent);
        let is_server = SERVERS.iter().any(|server| addr(server) == to) || to.ip() == addr(SERVERS[0]).ip();
        match passage {
            Passage::RequestToServer { .. } => {
                assert!(!self.from_server && SERVERS.iter().any(|server| addr(server) == to));
                self.check_own_via(sent, &read, Direction::ToServer);
                let sources = read.lines_named(sent, b"X-Src").count();
                assert_eq!(sources, 1, "one source header, ours: {}", sent.escape_ascii());
            }
            Passage::RequestToClient { .. } => {
                assert!(self.from_server && !is_inside(to), "{to}");
                self.check_own_via(sent, &read, Direction::ToClient);
                assert_eq!(read.lines_named(sent, b"X-Src").count(), 0);
            }
            Passage::ResponseToClient { .. } => assert!(self.from_server && sent.len() < self.bytes.len()),
            Passage::ResponseToServer { .. } => assert!(is_server && sent.len() < self.bytes.len(), "{to}"),
        }
    }

    /// What nobody had to change is what it was.
    fn check_kept(&self, sent: &[u8]) {
        let (before, after) = (Reading::naive(self.bytes).expect("SIP"), Reading::naive(sent).expect("SIP"));
        assert_eq!(self.bytes[before.body..before.end], sent[after.body..after.end]);
        assert_eq!(after.end, sent.len());
        let identity = |reading: &Reading| {
            let Reading { call_id, cseq_text, from, to, content_length, .. } = reading.clone();
            (call_id, cseq_text, from, to, content_length, reading.request.clone().map(|(method, _)| method))
        };
        assert_eq!(identity(&before), identity(&after));
        let hops = |reading: &Reading| reading.max_forwards;
        match before.request.is_some() {
            true => assert_eq!(hops(&after), Some(hops(&before).map_or(70, |hops| hops - 1))),
            false => assert_eq!(hops(&after), hops(&before)),
        }
        let (vias_before, vias_after) = (&before.lists[0].1, &after.lists[0].1);
        match before.request.is_some() {
            true => assert_eq!(vias_before[1..], vias_after[2..]),
            false => assert_eq!(vias_before[1..], vias_after[..]),
        }
    }

    fn check_own_via(&self, sent: &[u8], read: &Message, direction: Direction) {
        let via = read.via.expect("our Via");
        let call_id = read.call_id.expect("a Call-ID").of(sent);
        let token = via.branch_id(sent).expect("a branch");
        let opened = NODE.with_borrow(|node| Branch::open(token, node.keys.call(call_id), &node.keys));
        assert_eq!(opened.expect("our branch").0.direction, direction);
        assert_eq!(via.parm.start as usize, read.head as usize + b"Via: ".len());
    }
}

/// Where a server's request must not go: to ourselves, to servers, to this host, to nobody or to everybody.
fn is_inside(to: SocketAddr) -> bool {
    let own = ["203.0.113.10", "10.0.1.10", "2001:db8:f::10", "10.0.10.11", "10.0.10.12"];
    let ip = to.ip().to_canonical();
    own.iter().any(|own| addr(own).ip() == ip)
        || ip.is_loopback()
        || ip.is_multicast()
        || ip.is_unspecified()
        || to.port() == 0
}
