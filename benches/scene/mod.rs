//! What the benchmarks measure: a node with so many servers and calls, and one message's way through it, from bytes as
//! they were received to bytes as they leave, without sockets.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use trunkline::config::{Config, key};
use trunkline::proxy::{Memory, Received, Verdict, decide};
use trunkline::sip::datagram::{Datagram, classify};
use trunkline::sip::edit::{Edits, HEADROOM};
use trunkline::sip::token::{Branch, Keys};
use trunkline::sip::{Flow, MAX_MESSAGE, Message, Method};
use trunkline::state::binds::Host;
use trunkline::state::snapshot::Ingredients;
use trunkline::state::{Shared, Snapshot, Time};

/// An INVITE of 900 bytes with the headers and the offer of a usual phone behind NAT.
pub fn invite() -> Vec<u8> {
    let body = "v=0\r\no=bob 2890844526 2890844526 IN IP4 192.168.1.20\r\ns=-\r\nc=IN IP4 192.168.1.20\r\nt=0 0\r\n\
                m=audio 16384 RTP/AVP 9 8 0 18 101\r\na=rtpmap:9 G722/8000\r\na=rtpmap:8 PCMA/8000\r\n\
                a=rtpmap:0 PCMU/8000\r\na=rtpmap:18 G729/8000\r\na=fmtp:18 annexb=no\r\n\
                a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=maxptime:40\r\n\
                a=rtcp:16385 IN IP4 192.168.1.20\r\na=sendrecv\r\n";
    let text = format!(
        "INVITE sip:+2348012345678@sip.example.ng SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bK7f3a9c1d5b2e4c60;rport\r\n\
         Max-Forwards: 70\r\n\
         From: \"Bob\" <sip:bob@sip.example.ng>;tag=9f8b7a6c\r\n\
         To: <sip:+2348012345678@sip.example.ng>\r\n\
         Call-ID: 84NmQ3ZDYxOGE5MzQ2ZTQyZjYyYzQ0YmQ3\r\n\
         CSeq: 1 INVITE\r\n\
         Contact: <sip:bob@192.168.1.20:5060>\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, REFER, NOTIFY\r\n\
         Supported: replaces\r\n\
         User-Agent: Phone 5.4\r\n\
         Content-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // To the byte, so that figures of different days compare.
    let padded = text.replace("Phone 5.4", &format!("Phone 5.4{}", "x".repeat(900 - text.len())));
    assert_eq!(padded.len(), 900);
    padded.into_bytes()
}

/// A node and the messages that pass through it.
pub struct Scene {
    pub snapshot: Snapshot,
    memory: Memory,
    message: Message,
    edits: Edits,
    buffer: Vec<u8>,
    saved: Vec<u8>,
    request: Vec<u8>,
    /// A request as it reached its server, for the responses to it.
    forwarded: Vec<u8>,
    /// How many calls were made: each has a Call-ID of its own, and comes late enough for the limit of its source.
    calls: u32,
}

/// A received message that lies in the scene's buffer.
pub struct Loaded {
    pub len: usize,
    pub flow: Flow,
    /// Position of the bind that it came to.
    pub bind: usize,
}

const CLIENT: &str = "198.51.100.7:31234";
const OUTSIDE: &str = "203.0.113.10:5060";
const INSIDE: &str = "10.0.1.10:5060";

/// A configuration with so many servers in three regions.
pub fn config(servers: usize) -> Config {
    let mut text = String::from(
        "[[frontend]]\nname = \"sip\"\nbind = \"udp://203.0.113.10:5060\"\ninside = \"10.0.1.10\"\nbackend = \"b\"\n\
         source_header = \"X-Trunkline-Source\"\n[frontend.limits]\nper_source_rate = \"1000000/s\"\nper_source_burst = 1000000\n\
         [[backend]]\nname = \"b\"\npin = { size = 1_000_000 }\n",
    );
    for (region, weight) in [("lagos", 70), ("abuja", 15), ("asaba", 15)] {
        text += &format!("[[backend.region]]\nname = \"{region}\"\nweight = {weight}\n");
    }
    for n in 0..servers {
        let region = ["lagos", "abuja", "asaba"][n % 3];
        text += &format!(
            "[[backend.server]]\nname = \"s{n}\"\nregion = \"{region}\"\naddress = \"udp://10.1.{}.{}:5060\"\n",
            n / 250,
            n % 250 + 1
        );
    }
    Config::parse(&text).unwrap_or_else(|faults| panic!("{}", faults.render("scene", &text)))
}

pub fn keys() -> Keys {
    key::parse(&key::generate([7; 16], [9; 16])).unwrap_or_else(|_| panic!("generated keys are good"))
}

pub fn snapshot(config: &Config) -> Snapshot {
    let (host, states) = (Host::default(), HashMap::new());
    Snapshot::build(&Ingredients { config, keys: keys(), host: &host, states: &states, workers: 1 }, None)
}

pub const NOW: Time = Time(1_000_000_000_000);

impl Scene {
    /// With so many servers, and so many other calls pinned.
    pub fn new(servers: usize, calls: u64) -> Self {
        let snapshot = snapshot(&config(servers));
        let shared = Shared::new(1_000_000, 1);
        for call in 0..calls {
            let server = &snapshot.servers[call as usize % servers];
            let _ = shared.pins.answered(
                snapshot.keys.call(&call.to_be_bytes()),
                server.id,
                Method::Invite,
                200,
                NOW,
                std::time::Duration::from_secs(7200),
            );
        }
        let mut scene = Self {
            memory: Memory::new(Arc::new(shared), 0),
            snapshot,
            message: Message::default(),
            edits: Edits::default(),
            buffer: vec![0; HEADROOM + MAX_MESSAGE],
            saved: vec![0; MAX_MESSAGE],
            request: invite(),
            forwarded: Vec::new(),
            calls: 0,
        };
        let request = scene.load_request();
        let (at, _) = scene.pass(&request);
        scene.forwarded = scene.buffer[at].to_vec();
        scene
    }

    /// The INVITE of a new call, which no pin knows: the dearest request that is usual.
    pub fn load_request(&mut self) -> Loaded {
        self.calls += 1;
        self.load_request_of(self.calls - 1)
    }

    /// The INVITE of the first call once more.
    pub fn load_request_again(&mut self) -> Loaded {
        self.load_request_of(0)
    }

    fn load_request_of(&mut self, call: u32) -> Loaded {
        let id = self.request.windows(4).position(|window| window == b"YmQ3").unwrap_or_default() - 4;
        let digits = format!("{call:08x}");
        self.buffer[HEADROOM..HEADROOM + self.request.len()].copy_from_slice(&self.request);
        self.buffer[HEADROOM + id..HEADROOM + id + digits.len()].copy_from_slice(digits.as_bytes());
        Loaded { len: self.request.len(), flow: flow(OUTSIDE, CLIENT.parse().unwrap()), bind: 0 }
    }

    /// A response of the server that the first call went to.
    pub fn load_response(&mut self, status_line: &str) -> Loaded {
        let response = answer(&self.forwarded, status_line);
        self.buffer[HEADROOM..HEADROOM + response.len()].copy_from_slice(&response);
        let message = Message::parse(&response).unwrap();
        let token = message.via.unwrap().branch_id(&response).unwrap();
        let call = self.snapshot.keys.call(message.call_id.unwrap().of(&response));
        let (branch, _) = Branch::open(token, call, &self.snapshot.keys).unwrap();
        let server = &self.snapshot.servers[self.snapshot.server(branch.server).unwrap()];
        Loaded { len: response.len(), flow: flow(INSIDE, server.address), bind: 1 }
    }

    /// What the data path does with a datagram that was received, up to the bytes that leave. This is what is measured.
    #[inline(never)]
    pub fn pass(&mut self, loaded: &Loaded) -> (std::ops::Range<usize>, SocketAddr) {
        self.read(loaded);
        match self.decide(loaded) {
            Verdict::Forward { to, end, .. } => (self.edit(end), to.datagram().unwrap().remote),
            other => panic!("not forwarded: {other:?}"),
        }
    }

    /// The first step: looks whether it is SIP and reads it.
    #[inline]
    pub fn read(&mut self, loaded: &Loaded) {
        let bytes = &self.buffer[HEADROOM..HEADROOM + loaded.len];
        assert!(classify(bytes) == Datagram::Sip);
        self.message.read(bytes).unwrap();
    }

    /// The second: decides about what was read.
    #[inline]
    pub fn decide(&mut self, loaded: &Loaded) -> Verdict {
        let bytes = &self.buffer[HEADROOM..HEADROOM + loaded.len];
        let received = Received { bytes, message: &self.message, flow: &loaded.flow, bind: loaded.bind, peer: None };
        decide(received, self.now(), &self.snapshot, &mut self.memory, &mut self.edits)
    }

    /// As many microseconds after the start as calls were made: the configured rate.
    fn now(&self) -> Time {
        Time(NOW.0 + u64::from(self.calls) * 1_000)
    }

    /// The third: changes its head; `end` is the verdict's.
    #[inline]
    pub fn edit(&mut self, end: usize) -> std::ops::Range<usize> {
        self.edits.apply(&mut self.buffer, HEADROOM..HEADROOM + end, &mut self.saved).message
    }
}

fn flow(local: &str, remote: SocketAddr) -> Flow {
    Flow::of_datagrams(local.parse().unwrap(), remote)
}

/// A response to a request as a server makes it: the headers that RFC 3261 §8.2.6.2 wants copied, and its own.
pub fn answer(request: &[u8], status_line: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    let mut out = status_line.as_bytes().to_vec();
    out.extend_from_slice(b"\r\n");
    for line in text.split("\r\n").take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        match name {
            "Via" | "Record-Route" | "From" | "Call-ID" | "CSeq" => {
                out.extend_from_slice(format!("{line}\r\n").as_bytes())
            }
            "To" => out.extend_from_slice(format!("{line};tag=server-tag-1\r\n").as_bytes()),
            _ => {}
        }
    }
    out.extend_from_slice(b"Contact: <sip:10.1.0.1:5060>\r\nAllow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\nServer: pbx\r\nContent-Length: 0\r\n\r\n");
    out
}
