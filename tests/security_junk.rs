//! What is no SIP, or too much of it: nobody behind us hears of it, and nobody is answered at length.

mod support;

use std::net::UdpSocket;

use support::wire::{Wire, heard, take};
use support::workers::bound;

/// The most that UDP carries.
const LONGEST: usize = 65_507;

/// Bytes without pattern, none of which is a letter in the first place.
fn random(seed: u64, len: usize, first: u8) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    let mut bytes: Vec<u8> = (0..len).map(|_| next()).collect();
    bytes[0] = first;
    bytes
}

fn lengths() -> impl Iterator<Item = usize> {
    let doubled = (6..16).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1]);
    (1..64).chain(doubled).chain([60_000, LONGEST - 1, LONGEST]).filter(|len| *len <= LONGEST)
}

#[test]
fn random_bytes_of_every_length_are_dropped_by_name_and_answered_to_nobody() {
    let wire = Wire::new(41, 1_000, "");
    assert_eq!((lengths().min(), lengths().max()), (Some(1), Some(LONGEST)));
    for (seed, len) in lengths().enumerate() {
        let client = wire.client();
        // A letter, a digit, what could be UTF-8, SigComp, STUN's first octet.
        for first in [b'I', b'S', b'7', 0xc3, 0xf8, 0xff, 0, 1] {
            let sip_like = !matches!(first, 0 | 1 | 0xf8..) && len >= 20;
            let counter = match (sip_like, first) {
                (true, _) => "not_sip",
                (false, 0) if len == 1 => "keepalives",
                _ => "junk",
            };
            wire.swallowed(&client, wire.outside, &random(seed as u64, len, first), counter);
        }
    }
}

#[test]
fn keep_alives_are_swallowed_and_stun_is_answered_to_who_asks() {
    let wire = Wire::new(42, 1_000, "[frontend.limits]\ndeny = [\"127.42.5.0/24\"]");
    let client = wire.client();
    let blanks: Vec<u8> = b"\r\n\r\n".repeat(LONGEST / 4);
    for bytes in [&b""[..], b"\r\n", b"\r\n\r\n", b"\0", b"\0\0\0\0", b"jaK", b"jaK\0", b"   ", &blanks] {
        wire.swallowed(&client, wire.outside, bytes, "keepalives");
        wire.swallowed(&wire.servers[0], wire.inside, bytes, "keepalives");
    }
    let binding = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    wire.expect(&[("stun", 1)], "a binding request", || {
        client.send_to(&binding, wire.outside).unwrap();
    });
    let mut answer = [0; 100];
    let (length, from) = client.recv_from(&mut answer).expect("the answer");
    assert_eq!((length, from, &answer[..2], &answer[8..20]), (32, wire.outside, &[1, 1][..], &[7; 12][..]));
    // Who is denied hears nothing at all.
    let denied = bound("127.42.5.1:0");
    wire.swallowed(&denied, wire.outside, &binding, "denied");
    // A wrong cookie, a wrong length, an indication, a response: no request.
    for (at, value) in [(4, 0), (3, 4), (0, 1), (1, 0x11)] {
        let mut other = binding.clone();
        other[at] = value;
        wire.swallowed(&client, wire.outside, &other, "junk");
    }
    wire.nobody_hears(&[&client, &denied], "STUN");
}

/// An INVITE with these lines behind what an answer copies.
fn bulky(wire: &Wire, from: &UdpSocket, number: usize, lines: &str) -> String {
    let text = String::from_utf8(wire.request(from, "INVITE", &format!("bulky-{number}"), number, &[])).unwrap();
    text.replacen("Content-Length: 0\r\n", &format!("{lines}Content-Length: 0\r\n"), 1)
}

#[test]
fn bulky_messages_pass_whole() {
    let wire = Wire::new(43, 1_000, "");
    let long = |name: &str| format!("{name}: {}\r\n", "x".repeat(60_000));
    let vias = format!("Via: {}\r\n", ["SIP/2.0/UDP h"].repeat(4_000).join(","));
    let routes = format!("Route: {}\r\n", vec![format!("<sip:{};lr>", wire.outside); 2_000].join(","));
    for (number, lines) in [long("Subject"), long("X-Any"), long("Via"), vias, routes].iter().enumerate() {
        let client = wire.client();
        let (_, text) = wire.reaches(&client, bulky(&wire, &client, number, lines).as_bytes());
        let ours = lines.starts_with("Route");
        assert_eq!(text.contains(lines.as_str()), !ours, "what is not ours passes as it came: {}", &lines[..20]);
    }
}

#[test]
fn bulky_messages_are_refused_in_no_more_bytes_than_they_have() {
    let wire = Wire::new(44, 1_000, "");
    let vias = ["SIP/2.0/UDP h"].repeat(4_000).join(",");
    let refused = [
        ("malformed", "400", "a:b\r\n".repeat(10_000)),
        ("malformed", "400", "Via: SIP/2.0/UDP h\r\n".repeat(3_000)),
        ("malformed", "400", "X-Source: sip:10.0.0.1\r\n".repeat(1_000)),
        ("too_large", "513", "X-Source: sip:10.0.0.1\r\n".repeat(60)),
        ("too_large", "513", format!("X-Any: {}\r\n", "x".repeat(LONGEST - 400))),
        ("too_many_hops", "483", format!("Via: {vias}\r\n")),
        ("unknown_extension", "420", format!("Proxy-Require: {}\r\n", ["x"].repeat(20_000).join(","))),
    ];
    for (number, (counter, status, lines)) in refused.iter().enumerate() {
        let client = wire.client();
        let hops = if *counter == "too_many_hops" { "Max-Forwards: 0" } else { "Max-Forwards: 70" };
        let request = bulky(&wire, &client, number, lines).replacen("Max-Forwards: 70", hops, 1);
        wire.expect(&[(counter, 1)], &lines[..20], || {
            assert_eq!(client.send_to(request.as_bytes(), wire.outside).unwrap(), request.len());
        });
        let (answer, from) = heard(&client, "the refusal");
        let begin = format!("SIP/2.0 {status} ");
        assert!(answer.starts_with(&begin) && from == wire.outside, "{status} for {}", &lines[..20]);
        assert!(answer.len() <= request.len() + 100, "{} bytes for {}", answer.len(), request.len());
        wire.nobody_hears(&[&client], "a bulky request");
    }
    // In front of what an answer copies: then nothing can be answered.
    let client = wire.client();
    let text = bulky(&wire, &client, 100, "").replacen("Via:", &("a:b\r\n".repeat(10_000) + "Via:"), 1);
    wire.swallowed(&client, wire.outside, text.as_bytes(), "unanswerable");
}

/// What a spoofer could make of us: the longest answers to the shortest requests that get one.
#[test]
fn no_answer_is_much_longer_than_what_asked_for_it() {
    let wire = Wire::new(45, 1_000, "");
    let at = wire.outside;
    let shortest = |method: &str, uri: &str, more: &str| {
        format!("{method} {uri} SIP/2.0\r\nv:SIP/2.0/UDP h\r\nf:a:a\r\nt:a:a\r\ni:1\r\nCSeq:1 {method}\r\n{more}\r\n")
    };
    let asks = [
        ("answered", shortest("OPTIONS", &format!("sip:{at}"), "")),
        ("answered", shortest("OPTIONS", "sip:a", "Max-Forwards:0\r\n")),
        ("answered", shortest("OPTIONS", &format!("sip:{at}"), &format!("a:{}\r\n", "x".repeat(70)))),
        ("too_many_hops", shortest("A", "sip:a", "Max-Forwards:0\r\n")),
        ("unknown_extension", shortest("A", "sip:a", "Proxy-Require:a\r\n")),
        ("malformed", shortest("A", "sip:a", "i:2\r\n")),
        ("unknown_scheme", shortest("A", &format!("x:{at}"), "")),
    ];
    let mut worst = 0.0f64;
    for (counter, ask) in asks {
        let client = wire.client();
        wire.expect(&[(counter, 1)], &ask, || {
            client.send_to(ask.as_bytes(), at).unwrap();
        });
        let (answer, _) = heard(&client, "the answer");
        let factor = answer.len() as f64 / ask.len() as f64;
        println!("{counter}: {} bytes for {}: {factor:.2}", answer.len(), ask.len());
        worst = worst.max(factor);
        assert!(take(&client).is_none(), "one answer");
    }
    wire.nobody_hears(&[], "short requests");
    assert!(worst < 2.5, "{worst:.2} times");
}
