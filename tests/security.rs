//! Tokens on the wire: what is forged, replayed or sent by the wrong one reaches nobody, and is counted by its name.

mod support;

use std::net::UdpSocket;

use support::calls::{CALL, request, response};
use support::lines::{header, param, user};
use support::wire::{Call, Wire, bits, flips, heard, take, via};

const ROOMY: usize = 10_000;

/// Where a flipped bit leaves something that has not the form of a sealed token, or names a key that we do not hold, it
/// is no token: it is taken off and the rest of the request decides (docs/rules.md 6). All else is a wrong MAC.
fn is_no_token(place: Option<(usize, u8)>) -> bool {
    match place {
        // The filling of the last character; the version; the id of the key.
        None | Some((0, 1..) | (1, _)) => true,
        // Another form of flow than its length has, or none that there is: of the flags only the NAT's stands apart.
        Some((2, bit)) => bit != 1,
        Some(_) => false,
    }
}

/// The branch of our Via, behind the cookie.
fn branch(text: &str) -> &str {
    param(header(text, "Via"), "branch").strip_prefix("z9hG4bK").unwrap()
}

fn ringing(forwarded: &str) -> String {
    String::from_utf8(response(forwarded, "180 Ringing", &[])).unwrap()
}

/// A request of a server to a phone: INVITE to its registered flow. Returns what the phone got.
fn called(wire: &Wire, phone: &UdpSocket, call_id: &str) -> (usize, String) {
    let (server, path) = registered(wire, phone);
    let invite = server_request(wire, "INVITE", &path, call_id, 1);
    wire.expect(&[("requests_to_clients", 1)], "the call to the phone", || {
        wire.servers[server].send_to(&invite, wire.inside).unwrap();
    });
    (server, heard(phone, "the call").0)
}

/// Registers a phone: its registrar, and the token in the Path.
fn registered(wire: &Wire, phone: &UdpSocket) -> (usize, String) {
    let (server, text) = wire.reaches(phone, &wire.request(phone, "REGISTER", "registration", 1, &[]));
    (server, user(header(&text, "Path")).to_owned())
}

/// A server's request with this token in its Route. Its URI is an address that we may never be sent to.
fn server_request(wire: &Wire, method: &str, token: &str, call_id: &str, number: usize) -> Vec<u8> {
    let third = wire.third.local_addr().unwrap();
    let route = format!("Route: <sip:{token}@{};lr>", wire.inside);
    let (via, call) = (via(&wire.servers[0], number), format!("Call-ID: {call_id}"));
    request(method, &format!("sip:bob@{third}"), &[&via, &route, &call])
}

fn bye(wire: &Wire, from: &UdpSocket, call_id: &str, token: &str) -> Vec<u8> {
    let route = format!("Route: <sip:{token}@{};lr>", wire.outside);
    wire.request(from, "BYE", call_id, 2, &[&route, "To: <sip:100@sip.example.ng>;tag=t1", "CSeq: 2 BYE"])
}

#[test]
fn no_flipped_bit_in_our_via_lets_a_response_pass() {
    let wire = Wire::new(21, ROOMY, "");
    let client = wire.client();
    let (server, forwarded) = wire.reaches(&client, &wire.request(&client, "INVITE", CALL, 1, &[]));
    let phone = wire.client();
    let (_, at_phone) = called(&wire, &phone, "to-the-phone");
    for (text, from, to) in [(&forwarded, &wire.servers[server], wire.inside), (&at_phone, &phone, wire.outside)] {
        let (genuine, token) = (ringing(text), branch(text));
        for flip in flips(token) {
            let counter = match flip.place {
                None | Some((0, 1..)) => "foreign_response",
                Some(_) => "forged_response",
            };
            wire.swallowed(from, to, genuine.replace(token, &flip.text).as_bytes(), counter);
        }
        assert!(take(&client).is_none() && take(&phone).is_none());
    }
    // The way back beside it: either forged, or no way back at all, and then the next Via says where (docs/rules.md 9).
    let way = param(header(&forwarded, "Via"), "w");
    for flip in flips(way) {
        let text = ringing(&forwarded).replace(way, &flip.text);
        if flip.place.is_some_and(|(byte, _)| byte > 0) {
            wire.swallowed(&wire.servers[server], wire.inside, text.as_bytes(), "forged_response");
            continue;
        }
        wire.expect(&[("responses_to_clients", 1)], &text, || {
            wire.servers[server].send_to(text.as_bytes(), wire.inside).unwrap();
        });
        heard(&client, "a response without a way of ours goes where the client's stamped Via says");
        wire.nobody_hears(&[&client, &phone], &text);
    }
}

#[test]
fn a_forged_token_in_a_route_is_refused_and_reaches_nobody() {
    let wire = Wire::new(22, ROOMY, "");
    let Call { client, server, forwarded } = &wire.call(wire.client(), CALL, &[]);
    let token = user(header(forwarded, "Record-Route"));
    for flip in flips(token) {
        let from = wire.client();
        let text = bye(&wire, &from, CALL, &flip.text);
        match is_no_token(flip.place) {
            true => assert_eq!(wire.reaches(&from, &text).0, *server, "the pin decides"),
            false => wire.refused(&from, wire.outside, &text, "forged_token", "403"),
        }
    }
    // The same of a server: what is no token leaves it with its Request-URI, and that is the inside.
    let phone = wire.client();
    let (registrar, path) = registered(&wire, &phone);
    for (token, call_id) in [(token, CALL), (&path, "to-the-phone")] {
        for (number, flip) in flips(token).enumerate() {
            let from = wire.of_server(registrar, number);
            let text = server_request(&wire, "BYE", &flip.text, call_id, number);
            let counter = if is_no_token(flip.place) { "forbidden_target" } else { "forged_token" };
            // Refusals go to the source port, for the Via asks for it.
            wire.refused(&from, wire.inside, &text, counter, "403");
        }
    }
    assert!(take(client).is_none() && take(&phone).is_none());
    let genuine = wire.reaches(client, &bye(&wire, client, CALL, token));
    assert_eq!(genuine.0, *server, "the genuine one still counts");
}

/// Random texts of a token's length. `seed` says which.
fn random(seed: u64, len: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"abcdefghijklmnopqrstuvwxyz234567"[(state >> 20) as usize % 32] as char
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_guessed_token_is_nothing() {
    let wire = Wire::new(23, ROOMY, "");
    let call = wire.call(wire.client(), CALL, &[]);
    let (token, genuine) = (branch(&call.forwarded), ringing(&call.forwarded));
    let mut forged = 0;
    for seed in 0..300 {
        // Half of them with the version and the kind that ours have.
        let guess = random(seed, token.len());
        let guess = if seed % 2 == 0 { guess } else { token[..2].to_owned() + &guess[2..] };
        // Version 1 in the first seven bits, and nothing in the two that fill up the last character.
        let formed = bits(&guess, 0) << 2 | bits(&guess, 1) >> 3 == 0x10 >> 1 && bits(&guess, 33).is_multiple_of(4);
        forged += u32::from(formed);
        let counter = if formed { "forged_response" } else { "foreign_response" };
        let text = genuine.replace(token, &guess);
        wire.swallowed(&wire.servers[call.server], wire.inside, text.as_bytes(), counter);
        let len = call.token().len();
        // With the version, the kind, the key and the flags of ours, or without.
        let sealed = random(seed + 1_000, len);
        let sealed = if seed % 2 == 0 { sealed } else { call.token()[..5].to_owned() + &sealed[5..len - 1] + "a" };
        let from = wire.client();
        let text = bye(&wire, &from, CALL, &sealed);
        match seed % 2 {
            0 => assert_eq!(wire.reaches(&from, &text).0, call.server, "the pin decides"),
            _ => wire.refused(&from, wire.outside, &text, "forged_token", "403"),
        }
    }
    assert!(forged > 20, "{forged} guesses had the form");
    assert!(take(&call.client).is_none());
}

#[test]
fn a_genuine_token_under_another_call_id_is_a_forged_one() {
    let wire = Wire::new(24, ROOMY, "");
    let call = wire.call(wire.client(), CALL, &[]);
    let from = wire.client();
    let stolen = bye(&wire, &from, "another-call", call.token());
    wire.refused(&from, wire.outside, &stolen, "forged_token", "403");
    let phone = wire.client();
    let (registrar, path) = registered(&wire, &phone);
    let text = server_request(&wire, "BYE", call.token(), "another-call", 1);
    wire.refused(&wire.of_server(call.server, 0), wire.inside, &text, "forged_token", "403");
    // A registration's token serves every call, and only servers: from a client it names nobody.
    let calls = |name: &str| {
        let text = server_request(&wire, "INVITE", &path, name, 1);
        wire.expect(&[("requests_to_clients", 1)], name, || {
            wire.servers[registrar].send_to(&text, wire.inside).unwrap();
        });
        heard(&phone, "the call").0
    };
    let forwarded = ["first", "second"].map(calls);
    assert!(forwarded.iter().all(|text| text.starts_with("INVITE ")));
    let route = format!("Route: <sip:{path}@{};lr>", wire.outside);
    for number in 0..20 {
        let (from, name) = (wire.client(), format!("path-{number}"));
        let chosen = wire.reaches(&from, &wire.request(&from, "MESSAGE", &name, 1, &[&route])).0;
        assert_eq!(chosen, wire.by_hash(&name), "as if it had no Route");
    }
    wire.nobody_hears(&[&call.client, &phone, &from], "a stolen token");
}

/// Whoever was once called by a server has a Via that its responses pass with. Under Call-IDs of its own making it
/// would confirm a pin with each, and confirmed pins crowd out the calls of others.
#[test]
fn a_via_of_one_call_answers_no_other_call() {
    let wire = Wire::new(25, 1_000, "");
    let phone = wire.client();
    let (server, at_phone) = called(&wire, &phone, "to-the-phone");
    let answer = String::from_utf8(response(&at_phone, "200 OK", &[])).unwrap();
    for number in 0..100 {
        let other = answer.replace("to-the-phone", &format!("fresh-{number}"));
        wire.swallowed(&phone, wire.outside, other.as_bytes(), "forged_response");
    }
    let confirmed = wire.setup.shared.pins.count(trunkline::net::udp::clock()).1;
    assert_eq!(confirmed, 0, "calls that nobody made");
    // A server's answers too.
    let client = wire.client();
    let (at, forwarded) = wire.reaches(&client, &wire.request(&client, "INVITE", CALL, 1, &[]));
    let other = ringing(&forwarded).replace(CALL, "another-call");
    wire.swallowed(&wire.servers[at], wire.inside, other.as_bytes(), "forged_response");
    wire.expect(&[("responses_to_servers", 1)], "the genuine answer", || {
        phone.send_to(answer.as_bytes(), wire.outside).unwrap();
    });
    assert!(heard(&wire.servers[server], "the genuine answer").0.starts_with("SIP/2.0 200 "));
}

#[test]
fn a_response_from_a_stranger_reaches_nobody() {
    let wire = Wire::new(26, ROOMY, "");
    let client = wire.client();
    let (server, forwarded) = wire.reaches(&client, &wire.request(&client, "INVITE", CALL, 1, &[]));
    let genuine = response(&forwarded, "200 OK", &[]);
    let another = &wire.servers[(server + 1) % wire.servers.len()];
    for stranger in [&wire.client(), &client, another, &wire.third] {
        for to in [wire.inside, wire.outside] {
            wire.swallowed(stranger, to, &genuine, "stranger_response");
        }
    }
    let text = String::from_utf8(genuine).unwrap();
    let ours = header(&text, "Via").to_owned();
    let without = text.replacen(&format!("Via: {ours}\r\n"), "", 1);
    let only_ours = text.replacen(&format!("Via: {}\r\n", header(&without, "Via")), "", 1);
    let server = &wire.servers[server];
    for from in [server, another, &wire.client()] {
        wire.swallowed(from, wire.inside, without.as_bytes(), "foreign_response");
    }
    wire.swallowed(server, wire.inside, only_ours.as_bytes(), "own_response");
    wire.nobody_hears(&[&client], "the strangers' responses");
    server.send_to(text.as_bytes(), wire.inside).unwrap();
    assert!(heard(&client, "the server's own").0.starts_with("SIP/2.0 200 "));
}
