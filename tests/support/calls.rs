//! Requests and answers in canonical spelling, and what a node counts when it gets them.

use std::net::SocketAddr;

use super::core::{INSIDE, Node, OUTSIDE, Outcome, PHONE, SERVER, addr};
use trunkline::sip::FlowToken;
use trunkline::sip::token::{Keys, NameHash, SEALED_LEN_MAX, Sealed, SealedIn};
use trunkline::state::counters::{Counter, FrontendCounters};
use trunkline::state::{Reason, Snapshot};

/// The Call-ID of [`request`].
pub const CALL: &str = "call-1@phone";

/// A request. `lines` come first, in their order; each header that they do not have gets a plain value.
pub fn request(method: &str, uri: &str, lines: &[&str]) -> Vec<u8> {
    let mut text = format!("{method} {uri} SIP/2.0\r\n");
    let usual = [
        "Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKa1;rport".to_owned(),
        "Max-Forwards: 70".to_owned(),
        "From: <sip:bob@sip.example.ng>;tag=f1".to_owned(),
        "To: <sip:100@sip.example.ng>".to_owned(),
        format!("Call-ID: {CALL}"),
        format!("CSeq: 1 {method}"),
        "Content-Length: 0".to_owned(),
    ];
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let usual = usual.iter().filter(|usual| !lines.iter().any(|line| name(line) == name(usual)));
    lines.iter().for_each(|line| text += &format!("{line}\r\n"));
    usual.for_each(|line| text += &format!("{line}\r\n"));
    (text + "\r\n").into_bytes()
}

/// The answer of a naive server or phone to what reached it.
pub fn response(request: &str, status: &str, extra: &[&str]) -> Vec<u8> {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.split("\r\n").take_while(|line| !line.is_empty()) {
        match line.split(':').next() {
            Some("Via" | "From" | "Call-ID" | "CSeq" | "Record-Route") => text += &format!("{line}\r\n"),
            Some("To") if line.contains("tag=") => text += &format!("{line}\r\n"),
            Some("To") => text += &format!("{line};tag=t1\r\n"),
            _ => {}
        }
    }
    extra.iter().for_each(|line| text += &format!("{line}\r\n"));
    (text + "Content-Length: 0\r\n\r\n").into_bytes()
}

/// A token under the keys' own seal key, as text.
pub fn token(keys: &Keys, call_id: &str, sealed: &Sealed) -> String {
    let mut text = [0; SEALED_LEN_MAX];
    let len = sealed.seal(keys.call(call_id.as_bytes()), keys, &mut text);
    String::from_utf8_lossy(&text[..len]).into_owned()
}

/// What such a token says of a client behind NAT.
pub fn sealed(stands_in: SealedIn, server: &str, local: SocketAddr, remote: SocketAddr) -> Sealed {
    let flow = FlowToken::Ends { local, remote };
    Sealed { stands_in, server: NameHash::of(server), frontend: NameHash::of("sip"), flow, nat: true }
}

/// Every counter of every frontend.
pub fn counts(snapshot: &Snapshot) -> Vec<(String, u64)> {
    let mut counts = Vec::new();
    for frontend in &snapshot.frontends {
        let mut note = |word: &str, counter: &dyn Fn(&FrontendCounters) -> &Counter| {
            counts.push((word.to_owned(), frontend.live.sum(counter)));
        };
        note("received", &|c| &c.received);
        note("keepalives", &|c| &c.keepalives);
        note("stun", &|c| &c.stun);
        note("requests_to_servers", &|c| &c.requests_to_servers);
        note("responses_to_clients", &|c| &c.responses_to_clients);
        note("requests_to_clients", &|c| &c.requests_to_clients);
        note("responses_to_servers", &|c| &c.responses_to_servers);
        note("answered", &|c| &c.answered);
        for reason in Reason::ALL {
            note(reason.word(), &|c| c.reasons.of(*reason));
        }
    }
    counts
}

/// Feeds a datagram to the node; it must move this counter by one, and no other.
pub fn feed(node: &mut Node, from: SocketAddr, to: SocketAddr, bytes: &[u8], counter: &str) -> Outcome {
    let before = counts(&node.snapshot);
    let outcome = node.receive(from, to, bytes);
    let moved: Vec<_> = counts(&node.snapshot)
        .into_iter()
        .zip(before)
        .filter(|(after, before)| after.1 != before.1)
        .map(|(after, before)| (after.0, after.1 - before.1))
        .collect();
    assert_eq!(moved, [(counter.to_owned(), 1)], "{outcome:?}\nof {}", bytes.escape_ascii());
    outcome
}

/// The same from [`PHONE`].
pub fn from_phone(node: &mut Node, bytes: &[u8], counter: &str) -> Outcome {
    feed(node, addr(PHONE), addr(OUTSIDE), bytes, counter)
}

/// The same from [`SERVER`].
pub fn from_server(node: &mut Node, bytes: &[u8], counter: &str) -> Outcome {
    feed(node, addr(SERVER), addr(INSIDE), bytes, counter)
}
