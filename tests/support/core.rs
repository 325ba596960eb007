//! A node without sockets: the deterministic core, fed with datagrams by hand.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use trunkline::config::{Config, key};
use trunkline::proxy::{self, Hop, Memory, Passage, Received, Verdict};
use trunkline::sip::edit::{Edits, HEADROOM};
use trunkline::sip::token::{Keys, NameHash};
use trunkline::sip::{Flow, MAX_MESSAGE, Message, Transport};
use trunkline::state::binds::Host;
use trunkline::state::server::ServerState;
use trunkline::state::snapshot::Ingredients;
use trunkline::state::{Reason, Shared, Snapshot, Time};

/// A client, our addresses towards clients and servers, and a server, where a test has no need of others.
pub const PHONE: &str = "198.51.100.7:31234";
pub const OUTSIDE: &str = "203.0.113.10:5060";
pub const INSIDE: &str = "10.0.1.10:5060";
pub const SERVER: &str = "10.0.10.11:5060";

/// What became of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Sent { from: SocketAddr, to: SocketAddr, passage: Passage, bytes: Vec<u8> },
    Answered { from: SocketAddr, to: SocketAddr, reason: Option<Reason>, bytes: Vec<u8> },
    Dropped(Reason),
}

impl Outcome {
    /// The text that left, or a panic that shows what happened instead.
    pub fn text(&self) -> String {
        match self {
            Self::Sent { bytes, .. } | Self::Answered { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
            Self::Dropped(reason) => panic!("dropped: {}", reason.word()),
        }
    }

    pub fn to(&self) -> SocketAddr {
        match self {
            Self::Sent { to, .. } | Self::Answered { to, .. } => *to,
            Self::Dropped(reason) => panic!("dropped: {}", reason.word()),
        }
    }

    pub fn from(&self) -> SocketAddr {
        match self {
            Self::Sent { from, .. } | Self::Answered { from, .. } => *from,
            Self::Dropped(reason) => panic!("dropped: {}", reason.word()),
        }
    }

    /// The status of an answer of our own.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { bytes, .. } => std::str::from_utf8(&bytes[8..11]).ok()?.parse().ok(),
            _ => None,
        }
    }
}

/// One node.
pub struct Node {
    pub config: Config,
    pub keys: Keys,
    pub host: Host,
    pub states: HashMap<NameHash, ServerState>,
    pub snapshot: Snapshot,
    pub memory: Memory,
    pub now: Time,
    edits: Edits,
    buffer: Vec<u8>,
    saved: Vec<u8>,
}

/// The golden test key of all tests.
pub fn golden_keys() -> Keys {
    key::parse(&key::generate(*b"golden route key", [0x11; 16])).unwrap_or_else(|_| panic!("generated keys are good"))
}

/// Reads a configuration or shows its faults.
pub fn config(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|faults| panic!("{}", faults.render("test", text)))
}

impl Node {
    pub fn new(text: &str) -> Self {
        Self::with_keys(text, golden_keys())
    }

    pub fn with_keys(text: &str, keys: Keys) -> Self {
        let config = config(text);
        let (host, states) = (Host { node: 7, ..Host::default() }, HashMap::new());
        let shared = Shared::new(config.backends.iter().map(|b| b.pin.size).sum(), 1);
        let ingredients = Ingredients { config: &config, keys: keys.clone(), host: &host, states: &states, workers: 1 };
        let snapshot = Snapshot::build(&ingredients, None);
        Self {
            memory: Memory::new(Arc::new(shared), 0),
            snapshot,
            config,
            keys,
            host,
            states,
            now: Time(1_000_000_000_000),
            edits: Edits::default(),
            buffer: vec![0; HEADROOM + MAX_MESSAGE],
            saved: vec![0; MAX_MESSAGE],
        }
    }

    /// Builds the next snapshot from what `config` and `states` say now.
    pub fn renew(&mut self) {
        let Self { config, keys, host, states, .. } = self;
        let ingredients = Ingredients { config, keys: keys.clone(), host, states, workers: 1 };
        self.snapshot = Snapshot::build(&ingredients, Some(&self.snapshot));
    }

    /// Sets the state of "backend/server".
    pub fn set(&mut self, server: &str, state: ServerState) {
        self.states.insert(NameHash::of(server), state);
        self.renew();
    }

    /// The name of the server that a request went to or came from.
    pub fn server_of(&self, outcome: &Outcome) -> String {
        let Outcome::Sent { passage, .. } = outcome else { panic!("not sent: {outcome:?}") };
        let (Passage::RequestToServer { server, .. }
        | Passage::ResponseToClient { server, .. }
        | Passage::RequestToClient { server, .. }
        | Passage::ResponseToServer { server, .. }) = passage;
        self.snapshot.servers[*server].name.clone()
    }

    /// A datagram from `from` to our address `to`.
    pub fn receive(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Outcome {
        self.judge(from, to, bytes, proxy::decide)
    }

    /// A copy of one that was received before, sent again from here.
    pub fn again(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Outcome {
        self.judge(from, to, bytes, |received, now, snapshot, memory, edits| {
            proxy::admitted(received, false, now, snapshot, memory, edits)
        })
    }

    /// The same datagram after the kernel refused to send it.
    pub fn undelivered(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], passage: Passage) -> Outcome {
        self.judge(from, to, bytes, |received, now, snapshot, memory, edits| {
            proxy::undelivered(received, passage, true, now, snapshot, memory, edits)
        })
    }

    fn judge(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
        decide: impl FnOnce(Received<'_>, Time, &Snapshot, &mut Memory, &mut Edits) -> Verdict,
    ) -> Outcome {
        let bind =
            self.snapshot.binds.iter().position(|bind| bind.serves(Transport::Udp, &to)).expect("a bind of ours");
        let flow = Flow::of_datagrams(to, from);
        let Ok(message) = Message::parse(bytes) else { return Outcome::Dropped(Reason::NotSip) };
        let received = Received { bytes, message: &message, flow: &flow, bind, peer: None };
        let verdict = decide(received, self.now, &self.snapshot, &mut self.memory, &mut self.edits);
        let outcome = self.carry_out(&verdict, bytes, &message);
        let len = match &outcome {
            Outcome::Sent { bytes, .. } | Outcome::Answered { bytes, .. } => bytes.len(),
            Outcome::Dropped(_) => 0,
        };
        proxy::count(&verdict, len, bind, &self.snapshot, &mut self.memory);
        outcome
    }

    /// What a verdict makes of a message.
    fn carry_out(&mut self, verdict: &Verdict, bytes: &[u8], message: &Message) -> Outcome {
        let snapshot = &self.snapshot;
        let ends = |hop: Hop| match hop {
            Hop::Datagram(to) => (to.local, to.remote),
            // Its own connection: from where the server sees us.
            Hop::Server(at) => (snapshot.frontends[0].egress(at).unwrap().local, snapshot.servers[at].address),
            other => panic!("neither a datagram nor to a server: {other:?}"),
        };
        match *verdict {
            Verdict::Drop(reason) => Outcome::Dropped(reason),
            Verdict::Answer { to, ref answer, reason, .. } => {
                let mut out = vec![0; MAX_MESSAGE];
                let len = answer.write(bytes, message, &self.edits, &mut out).expect("the answer fits");
                let (from, to) = ends(to);
                Outcome::Answered { from, to, reason, bytes: out[..len].to_vec() }
            }
            Verdict::Forward { to, end, passage } => {
                self.buffer[HEADROOM..HEADROOM + end].copy_from_slice(&bytes[..end]);
                let edited = self.edits.apply(&mut self.buffer, HEADROOM..HEADROOM + end, &mut self.saved);
                let bytes = self.buffer[edited.message].to_vec();
                let (from, to) = ends(to);
                Outcome::Sent { from, to, passage, bytes }
            }
        }
    }
}

/// An address from its text.
pub fn addr(text: &str) -> SocketAddr {
    match text.parse::<SocketAddr>() {
        Ok(address) => address,
        Err(_) => SocketAddr::new(text.parse::<IpAddr>().unwrap_or_else(|_| panic!("{text} is no address")), 5060),
    }
}

/// SIP text with `\n` line ends and an indented layout, as bytes on the wire.
pub fn wire(text: &str) -> Vec<u8> {
    let lines: Vec<_> = text.trim_start_matches('\n').lines().map(str::trim_start).collect();
    let mut wire = lines.join("\r\n");
    if !wire.contains("\r\n\r\n") {
        wire.push_str("\r\n\r\n");
    }
    wire.into_bytes()
}
