//! Responses: whose they are, who may send them, where they go (docs/rules.md 13 to 19).

mod support;

use support::calls::{feed, from_phone, from_server, request, response};
use support::core::{INSIDE, Node, OUTSIDE, Outcome, PHONE, SERVER, addr};
use support::lines::{header, headers, param};
use trunkline::config::key;
use trunkline::proxy::Passage;
use trunkline::state::server::Sign;
use trunkline::state::{Reason, Time};

const CONFIG: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "udp://203.0.113.10:5080"]
inside = "10.0.1.10"
backend = "pbx"

[[frontend]]
name = "wild"
bind = ["udp://0.0.0.0:5070"]
inside = "10.0.1.10"
backend = "pbx"

[[backend]]
name = "pbx"
pin = { size = 1000 }
[[backend.server]]
name = "k"
address = "udp://10.0.10.11:5060"
sources = ["10.0.10.11"]
[[backend.server]]
name = "m"
address = "udp://10.0.10.12:5060"
weight = 0
"#;

const SECOND: &str = "203.0.113.10:5080";
const URI: &str = "sip:100@example.org";

/// An INVITE of the phone as it reaches the server.
fn at_server(node: &mut Node, lines: &[&str]) -> String {
    from_phone(node, &request("INVITE", URI, lines), "requests_to_servers").text()
}

/// An INVITE that the server sent to the phone's address, as it reaches the phone.
fn at_phone(node: &mut Node, via: &str) -> String {
    let invite = request("INVITE", &format!("sip:bob@{PHONE}"), &[via]);
    from_server(node, &invite, "requests_to_clients").text()
}

/// The same text without our parameters beside the branch: what a server leaves that rebuilds Vias.
fn without_ours(text: &str) -> String {
    let via = header(text, "Via");
    text.replacen(&format!(";w={};s={}", param(via, "w"), param(via, "s")), "", 1)
}

#[test]
fn a_response_passes_only_from_a_source_of_the_server_that_the_request_went_to() {
    let mut node = Node::new(CONFIG);
    let ok = response(&at_server(&mut node, &[]), "200 OK", &[]);
    for (from, counter) in [
        (SERVER, "responses_to_clients"),
        ("10.0.10.11:61000", "responses_to_clients"),
        ("10.0.10.12:5060", "stranger_response"),
        ("10.0.10.13:5060", "stranger_response"),
        (PHONE, "stranger_response"),
        ("192.0.2.1:5060", "stranger_response"),
    ] {
        feed(&mut node, addr(from), addr(INSIDE), &ok, counter);
    }
}

#[test]
fn a_response_to_a_server_passes_from_anyone_and_reaches_configured_servers_only() {
    let mut node = Node::new(CONFIG);
    let ok = response(&at_phone(&mut node, "Via: SIP/2.0/UDP 10.0.10.11;branch=z9hG4bKk1"), "200 OK", &[]);
    for from in [PHONE, "192.0.2.1:9", "10.0.10.12:5060"] {
        let sent = feed(&mut node, addr(from), addr(OUTSIDE), &ok, "responses_to_servers");
        assert_eq!((sent.from(), sent.to()), (addr(INSIDE), addr(SERVER)));
    }
    // Without the way back the next Via says where; and that is no server.
    let text = without_ours(&String::from_utf8(ok).unwrap());
    let sent = feed(&mut node, addr(PHONE), addr(OUTSIDE), text.as_bytes(), "responses_to_servers");
    assert_eq!(sent.to(), addr(SERVER));
    let elsewhere = text.replacen("received=10.0.10.11", "received=192.0.2.1", 1);
    assert_ne!(text, elsewhere);
    feed(&mut node, addr(PHONE), addr(OUTSIDE), elsewhere.as_bytes(), "no_way_back");
}

#[test]
fn a_response_whose_top_via_is_not_ours_is_dropped() {
    let mut node = Node::new(CONFIG);
    let ok = String::from_utf8(response(&at_server(&mut node, &[]), "200 OK", &[])).unwrap();
    let branch = param(header(&ok, "Via"), "branch").to_owned();
    for other in ["z9hG4bKa1", "z9hG4bK", "abc", &branch[7..], &format!("{branch}a"), &branch[..40]] {
        let foreign = ok.replacen(&branch, other, 1);
        from_server(&mut node, foreign.as_bytes(), "foreign_response");
    }
    from_server(&mut node, ok.replacen(&format!(";branch={branch}"), "", 1).as_bytes(), "foreign_response");
    // Sent-by says nothing: a reload that changes `advertise` must not kill ringing calls.
    from_server(&mut node, ok.replacen(INSIDE, "other.example:99", 1).as_bytes(), "responses_to_clients");
    // Another cluster's branch has the form of ours.
    let text = key::generate([9; 16], [9; 16]);
    let mut other = Node::with_keys(CONFIG, key::parse(&text).unwrap_or_else(|_| panic!("good keys")));
    let theirs = response(&at_server(&mut other, &[]), "200 OK", &[]);
    from_server(&mut node, &theirs, "forged_response");
}

/// Each text that differs in one bit, so far as it still is a token's text.
fn flipped(text: &str) -> Vec<String> {
    let flip = |bit: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        String::from_utf8(bytes).ok()
    };
    (0..text.len() * 8).filter_map(flip).filter(|flipped| !flipped.eq_ignore_ascii_case(text)).collect()
}

#[test]
fn a_flipped_bit_in_our_via_never_sends_a_response_elsewhere() {
    let mut node = Node::new(CONFIG);
    let ok = String::from_utf8(response(&at_server(&mut node, &[]), "200 OK", &[])).unwrap();
    let via = header(&ok, "Via").to_owned();
    for branch in flipped(&param(&via, "branch")[7..]) {
        let forged = ok.replacen(&param(&via, "branch")[7..], &branch, 1);
        assert!(matches!(node.receive(addr(SERVER), addr(INSIDE), forged.as_bytes()), Outcome::Dropped(_)), "{branch}");
    }
    let mut forged = 0;
    for way in flipped(param(&via, "w")) {
        let changed = ok.replacen(param(&via, "w"), &way, 1);
        match node.receive(addr(SERVER), addr(INSIDE), changed.as_bytes()) {
            Outcome::Dropped(reason) => forged += usize::from(reason == Reason::ForgedResponse),
            // It has not even the form: as if it were not there.
            sent => assert_eq!(sent.to(), addr(PHONE), "{way}"),
        }
    }
    assert!(forged > 100, "{forged}");
}

#[test]
fn a_way_back_counts_only_beside_the_branch_that_it_was_sealed_with() {
    let mut node = Node::new(CONFIG);
    let first = at_server(&mut node, &[]);
    let second = at_server(&mut node, &["CSeq: 2 INVITE"]);
    let (own, other) = (param(header(&first, "Via"), "w"), param(header(&second, "Via"), "w"));
    let ok = String::from_utf8(response(&first, "200 OK", &[])).unwrap();
    from_server(&mut node, ok.replacen(own, other, 1).as_bytes(), "forged_response");
}

#[test]
fn without_a_way_back_the_next_via_says_where() {
    let mut node = Node::new(CONFIG);
    for (next, to) in [
        ("10.9.9.9:5090;received=198.51.100.7;rport=31234", "198.51.100.7:31234"),
        ("10.9.9.9:5090;received=198.51.100.7", "198.51.100.7:5090"),
        ("phone.example;received=198.51.100.7", "198.51.100.7:5060"),
        ("198.51.100.7", "198.51.100.7:5060"),
        ("198.51.100.7;maddr=192.0.2.1;rport", "198.51.100.7:5060"),
    ] {
        let own = without_ours(&at_server(&mut node, &[]));
        let ok = String::from_utf8(response(&own, "200 OK", &[])).unwrap();
        let stamped = headers(&ok, "Via").nth(1).unwrap().to_owned();
        let ok = ok.replacen(&stamped, &format!("SIP/2.0/UDP {next};branch=z9hG4bKa1"), 1);
        let sent = from_server(&mut node, ok.as_bytes(), "responses_to_clients");
        assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr(to)), "{next}");
    }
    let own = without_ours(&at_server(&mut node, &[]));
    let ok = String::from_utf8(response(&own, "200 OK", &[])).unwrap();
    let stamped = headers(&ok, "Via").nth(1).unwrap().to_owned();
    for next in ["phone.example", "198.51.100.7;rport=x", "1.2.3", "h;received=phone.example", "[::1", "1.2.3.4;;", ";"]
    {
        let ok = ok.replacen(&stamped, &format!("SIP/2.0/UDP {next}"), 1);
        from_server(&mut node, ok.as_bytes(), "no_way_back");
    }
}

#[test]
fn a_response_goes_to_nobody_who_must_not_get_one() {
    let mut node = Node::new(CONFIG);
    let own = without_ours(&at_server(&mut node, &[]));
    let ok = String::from_utf8(response(&own, "200 OK", &[])).unwrap();
    let stamped = headers(&ok, "Via").nth(1).unwrap().to_owned();
    for host in [
        "255.255.255.255",
        "224.0.0.1",
        "239.255.255.250:1900",
        "0.0.0.0",
        "0.9.9.9",
        "240.1.1.1",
        "[::]",
        "[ff02::1]",
        "[::ffff:255.255.255.255]",
        "203.0.113.10",
        "10.0.1.10:5060",
        "192.0.2.1:0",
        "192.0.2.1;rport=0",
        "192.0.2.1;received=224.0.0.1",
    ] {
        let ok = ok.replacen(&stamped, &format!("SIP/2.0/UDP {host};branch=z9hG4bKa1"), 1);
        from_server(&mut node, ok.as_bytes(), "bad_destination");
    }
}

#[test]
fn with_a_way_back_nothing_that_the_next_via_says_counts() {
    let mut node = Node::new(CONFIG);
    let ok = String::from_utf8(response(&at_server(&mut node, &[]), "200 OK", &[])).unwrap();
    for (there, instead) in [
        ("received=198.51.100.7", "received=192.0.2.66"),
        ("rport=31234", "rport=53"),
        (";rport=31234", ";maddr=192.0.2.66"),
        ("198.51.100.7:31234;branch=z9hG4bKa1", "255.255.255.255;branch=z9hG4bKa1"),
    ] {
        let changed = ok.replacen(there, instead, 1);
        assert_ne!(changed, ok);
        let sent = from_server(&mut node, changed.as_bytes(), "responses_to_clients");
        assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr(PHONE)));
    }
}

#[test]
fn a_response_with_only_our_via_is_for_us_and_goes_nowhere() {
    let mut node = Node::new(CONFIG);
    let ok = String::from_utf8(response(&at_server(&mut node, &[]), "200 OK", &[])).unwrap();
    let next = headers(&ok, "Via").nth(1).unwrap().to_owned();
    let alone = ok.replacen(&format!("Via: {next}\r\n"), "", 1);
    from_server(&mut node, alone.as_bytes(), "own_response");
    for nothing in ["Via:\r\n", "Via: ,\r\n", "v: \r\n , ,\r\n"] {
        let empty = ok.replacen(&format!("Via: {next}\r\n"), nothing, 1);
        from_server(&mut node, empty.as_bytes(), "own_response");
    }
    let own = header(&ok, "Via");
    let comma = alone.replacen(own, &format!("{own},"), 1);
    from_server(&mut node, comma.as_bytes(), "own_response");
}

#[test]
fn a_response_that_is_broken_is_dropped_even_if_it_is_ours() {
    let mut node = Node::new(CONFIG);
    let ok = String::from_utf8(response(&at_server(&mut node, &[]), "200 OK", &[])).unwrap();
    for (there, instead) in [
        ("CSeq: 1 INVITE", "CSeq: 9292394834772304023312 OPTIONS"),
        ("Content-Length: 0", "Content-Length: 1"),
        ("Call-ID: call-1@phone\r\n", ""),
        ("Content-Length: 0", "Content-Length: 0\r\nCall-ID: another"),
        ("\r\n\r\n", "\r\n"),
    ] {
        let changed = ok.replacen(there, instead, 1);
        assert_ne!(changed, ok);
        from_server(&mut node, changed.as_bytes(), "unanswerable");
    }
}

#[test]
fn a_response_of_a_server_that_is_no_longer_configured_is_dropped() {
    let mut node = Node::new(CONFIG);
    let ok = response(&at_server(&mut node, &[]), "200 OK", &[]);
    node.config.backends[0].servers.remove(0);
    node.renew();
    feed(&mut node, addr(SERVER), addr(INSIDE), &ok, "gone_server");
}

#[test]
fn a_client_without_rport_is_answered_at_its_sent_by_port_and_one_with_it_at_its_source() {
    let mut node = Node::new(CONFIG);
    for (via, to) in [
        ("198.51.100.7:5080;branch=z9hG4bKb", "198.51.100.7:5080"),
        ("198.51.100.7;branch=z9hG4bKb", "198.51.100.7:5060"),
        ("198.51.100.7:5080;branch=z9hG4bKb;rport", PHONE),
        ("198.51.100.7:5080;branch=z9hG4bKb;rport=9;received=192.0.2.66", PHONE),
        // Behind NAT: its own address is not where it sends from.
        ("192.168.1.20:5080;branch=z9hG4bKb", PHONE),
        ("phone.example:5080;branch=z9hG4bKb", PHONE),
        ("198.51.100.7:5080;branch=z9hG4bKb;received=192.0.2.66;maddr=192.0.2.67", "198.51.100.7:5080"),
    ] {
        let forwarded = at_server(&mut node, &[&format!("Via: SIP/2.0/UDP {via}")]);
        let sent = from_server(&mut node, &response(&forwarded, "180 Ringing", &[]), "responses_to_clients");
        assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr(to)), "{via}");
    }
}

#[test]
fn a_response_leaves_from_the_address_that_its_request_reached() {
    let mut node = Node::new(CONFIG);
    for ours in [OUTSIDE, SECOND, "192.0.2.200:5070", "192.0.2.201:5070"] {
        let invite = request("INVITE", URI, &[]);
        let forwarded = feed(&mut node, addr(PHONE), addr(ours), &invite, "requests_to_servers");
        let ok = response(&forwarded.text(), "200 OK", &[]);
        let sent = feed(&mut node, addr(SERVER), forwarded.from(), &ok, "responses_to_clients");
        assert_eq!((sent.from(), sent.to()), (addr(ours), addr(PHONE)));
    }
}

#[test]
fn a_503_reaches_the_client_as_500_without_retry_after_and_the_server_rests() {
    for pass in [false, true] {
        let mut node = Node::new(&CONFIG.replace("pin =", &format!("pass_503 = {pass}\npin =")));
        let forwarded = at_server(&mut node, &[]);
        let lines = ["Retry-After: 30", "X-Reason: full", "retry-after : 60\r\n (later)"];
        let answer = String::from_utf8(response(&forwarded, "503 Full", &lines)).unwrap();
        let sent = from_server(&mut node, answer.as_bytes(), "responses_to_clients");
        let own = format!("Via: {}\r\n", header(&answer, "Via"));
        let mut expected = answer.replacen(&own, "", 1);
        if !pass {
            expected = expected.replacen("503 Full", "500 Server Internal Error", 1);
            expected =
                expected.replacen("Retry-After: 30\r\n", "", 1).replacen("retry-after : 60\r\n (later)\r\n", "", 1);
        }
        assert_eq!(sent.text(), expected);
        let Outcome::Sent { passage: Passage::ResponseToClient { server, status, .. }, .. } = sent else {
            panic!("sent")
        };
        assert_eq!(status, 503, "it is counted as what it was");
        assert!(node.memory.sign_left);
        let signs: Vec<_> = node.snapshot.servers[server].live.take_signs().collect();
        assert_eq!(signs, [Sign::Said503]);
    }
}

/// Copies that are sent from here for a server that speaks TCP (docs/rules.md 26): what they say was said once.
#[test]
fn a_copy_of_a_503_says_nothing_new_about_its_server() {
    let breaker = "balance = \"leasttransactions\"\nbreaker = { failures = 5, codes = [503] }\npin =";
    let mut node = Node::new(&CONFIG.replace("pin =", breaker));
    let forwarded = at_server(&mut node, &[]);
    // Others are open, so that one taken twice shows.
    (0..20).for_each(|call| drop(at_server(&mut node, &[&format!("Call-ID: {call}@phone")])));
    let answer = response(&forwarded, "503 Full", &["Retry-After: 30"]);
    let sent = from_server(&mut node, &answer, "responses_to_clients");
    let told = |node: &Node| {
        let live = &node.snapshot.servers[0].live;
        (live.transactions.get(), live.counters.of(0).failing.get(), format!("{:?}", live.response_times()))
    };
    node.snapshot.servers[0].live.take_signs().for_each(drop);
    let before = told(&node);
    for _ in 0..10 {
        node.now = Time(node.now.micros() + 4_000_000);
        assert_eq!(node.again(addr(SERVER), addr(INSIDE), &answer), sent, "the client gets what it got before");
    }
    assert_eq!(told(&node), before);
    assert_eq!(node.snapshot.servers[0].live.take_signs().count(), 0);
}

/// More pieces than can be cut out of a message: a worker must not stumble over them.
#[test]
fn a_503_with_any_number_of_retry_after_is_read() {
    for count in [29, 30, 31, 32, 120] {
        let mut node = Node::new(CONFIG);
        let answer = response(&at_server(&mut node, &[]), "503 Full", &vec!["Retry-After: 30"; count]);
        let sent = from_server(&mut node, &answer, if count < 120 { "responses_to_clients" } else { "unanswerable" });
        if count < 120 {
            let text = sent.text();
            assert!(text.starts_with("SIP/2.0 500 ") && !text.contains("Retry-After"), "{text}");
        }
    }
    let mut node = Node::new(CONFIG);
    let apart = ["Retry-After: 30", "X-Reason: full"].repeat(40);
    let answer = response(&at_server(&mut node, &[]), "503 Full", &apart);
    from_server(&mut node, &answer, "too_long");
}

#[test]
fn no_other_failure_rests_a_server_or_loses_its_retry_after() {
    let mut node = Node::new(CONFIG);
    for status in ["404 Not Found", "480 Gone", "500 Oops", "504 Late", "600 Busy"] {
        let forwarded = at_server(&mut node, &[]);
        let answer = response(&forwarded, status, &["Retry-After: 30"]);
        let sent = from_server(&mut node, &answer, "responses_to_clients").text();
        assert!(sent.starts_with(&format!("SIP/2.0 {status}\r\n")) && sent.contains("Retry-After: 30\r\n"));
    }
    assert!(!node.memory.sign_left);
}

#[test]
fn overload_control_in_our_own_via_leaves_with_it_and_stays_in_the_others() {
    let mut node = Node::new(CONFIG);
    let forwarded = at_server(&mut node, &["Via: SIP/2.0/UDP 198.51.100.7;branch=z9hG4bKa;oc;oc-algo=\"loss\";rport"]);
    assert!(forwarded.contains(";oc;oc-algo=\"loss\";rport=31234"));
    let answer = String::from_utf8(response(&forwarded, "200 OK", &[])).unwrap();
    let own = header(&answer, "Via").to_owned();
    let answer = answer.replacen(&own, &format!("{own};oc=20;oc-validity=500"), 1);
    let sent = from_server(&mut node, answer.as_bytes(), "responses_to_clients").text();
    assert!(!sent.contains("oc=20") && sent.contains(";oc;oc-algo=\"loss\""));
}

#[test]
fn a_response_that_could_not_be_sent_is_dropped_and_a_request_tries_another_server() {
    let mut node = Node::new(&CONFIG.replace("weight = 0", "weight = 100"));
    let invite = request("INVITE", URI, &[]);
    let sent = node.receive(addr(PHONE), addr(OUTSIDE), &invite);
    let first = node.server_of(&sent);
    let route = format!("Route: {}", header(&sent.text(), "Record-Route"));
    let Outcome::Sent { passage, .. } = sent else { panic!("sent") };
    let again = node.undelivered(addr(PHONE), addr(OUTSIDE), &invite, passage);
    assert_ne!(node.server_of(&again), first);
    // A dialog with the first of them is not the business of the one that its call is pinned to now.
    let bytes = request("INFO", URI, &["To: <sip:100@sip.example.ng>;tag=t", &route]);
    let info = node.receive(addr(PHONE), addr(OUTSIDE), &bytes);
    assert_eq!(node.server_of(&info), first);
    let Outcome::Sent { passage, .. } = info else { panic!("sent") };
    assert_eq!(node.undelivered(addr(PHONE), addr(OUTSIDE), &bytes, passage).status(), Some(503));
    let Outcome::Sent { passage, .. } = again else { panic!("sent") };
    // What belongs to a call has no other server: that is 503 (RFC 3261 §16.9), and for an ACK silence.
    for (method, status) in [("BYE", Some(503)), ("ACK", None)] {
        let bytes = request(method, URI, &["To: <sip:100@sip.example.ng>;tag=t"]);
        let outcome = node.undelivered(addr(PHONE), addr(OUTSIDE), &bytes, passage);
        assert_eq!(outcome.status(), status, "{method}");
    }
    let mut node = Node::new(CONFIG);
    let ok = response(&at_server(&mut node, &[]), "200 OK", &[]);
    let Outcome::Sent { passage, .. } = node.receive(addr(SERVER), addr(INSIDE), &ok) else { panic!("sent") };
    let outcome = node.undelivered(addr(SERVER), addr(INSIDE), &ok, passage);
    assert_eq!(outcome, Outcome::Dropped(Reason::SendFailed));
}

/// A client that answers a server may write what it likes into the server's Via: nothing but our own connection, and where a
/// server is written to be, is reached by that. Other services of that host would take it for theirs.
#[test]
fn a_client_s_answer_reaches_no_other_port_of_a_server_s_host() {
    let by_ours = "tcp://10.0.10.11:5061";
    for (address, via, way) in [
        (by_ours, "TCP 10.0.10.11:6379", Some("10.0.10.11:5061")),
        (by_ours, "TCP 10.0.10.12:6379", None),
        (by_ours, "UDP 10.0.10.11:161", None),
        ("udp://10.0.10.11:5060", "UDP 10.0.10.11:161", None),
        ("udp://10.0.10.11:5060", "TCP 10.0.10.11:6379", None),
        ("udp://10.0.10.11:5060", "UDP 10.0.10.12:5060", Some("10.0.10.12:5060")),
        // Another host of the server's, at its own port.
        ("udp://10.0.10.11:5060", "UDP 10.0.10.14:5060", Some("10.0.10.14:5060")),
        ("udp://10.0.10.11:5060", "UDP 10.0.10.14:5061", None),
        // Over TLS nothing goes home in clear.
        (by_ours, "TLS 10.0.10.11:5061", None),
    ] {
        let config = CONFIG.replacen("udp://10.0.10.11:5060", address, 1);
        let config = config.replacen("sources = [\"10.0.10.11\"]", "sources = [\"10.0.10.11\", \"10.0.10.14\"]", 1);
        let mut node = Node::new(&config.replacen("[\"udp:", "[\"tcp://203.0.113.10:5060\", \"udp:", 1));
        let scheme = if address == by_ours { "TCP" } else { "UDP" };
        let written = format!("{scheme} 10.0.10.11:5060;branch=z9hG4bKs1");
        let invite = at_phone(&mut node, &format!("Via: SIP/2.0/{written}"));
        let answer = String::from_utf8(response(&without_ours(&invite), "200 OK", &[])).unwrap();
        let next = headers(&answer, "Via").nth(1).unwrap().to_owned();
        let answer = answer.replacen(&next, &format!("SIP/2.0/{via};branch=z9hG4bKs1"), 1);
        let outcome = node.receive(addr(PHONE), addr(OUTSIDE), answer.as_bytes());
        match way {
            Some(to) => assert_eq!(outcome.to(), addr(to), "{via}"),
            None => assert_eq!(outcome, Outcome::Dropped(Reason::NoWayBack), "{via}"),
        }
    }
}

/// What a client may send is limited; a server repeats our Via and Record-Route, and nobody could tell it that it says too much.
#[test]
fn a_server_s_messages_may_be_longer_than_a_client_s() {
    let limits = "backend = \"pbx\"\n[frontend.limits]\nmax_message = 1024\n";
    let mut node = Node::new(&CONFIG.replacen("backend = \"pbx\"\n", limits, 1));
    let long = format!("X-Long: {}", "x".repeat(1000));
    let sent = at_server(&mut node, &[]);
    from_server(&mut node, &response(&sent, "200 OK", &[&long]), "responses_to_clients");
    let invite =
        request("INVITE", &format!("sip:bob@{PHONE}"), &["Via: SIP/2.0/UDP 10.0.10.11;branch=z9hG4bKs1", &long]);
    let invite = from_server(&mut node, &invite, "requests_to_clients").text();
    from_phone(&mut node, &response(&invite, "200 OK", &[&long]), "too_long");
    assert_eq!(node.receive(addr(PHONE), addr(OUTSIDE), &request("INVITE", URI, &[&long])).status(), Some(513));
}

/// Its connection is gone with a restart, and a phone picks up (RFC 3261 §18.2.2): the server is told by the connection that
/// its requests go by, which asks for its certificate. Of others nobody could.
#[test]
fn an_answer_to_a_server_without_a_connection_goes_by_ours() {
    for (transport, port, way) in [
        ("TLS", 5061, Some("10.0.10.11:5061")),
        ("TLS", 40_000, Some("10.0.10.11:5061")),
        ("TCP", 5061, Some("10.0.10.11:5061")),
        ("WS", 5061, None),
    ] {
        let scheme = if transport == "TCP" { "tcp" } else { "tls" };
        let address = format!("address = \"{scheme}://10.0.10.11:5061\"");
        let mut node = Node::new(&CONFIG.replacen("address = \"udp://10.0.10.11:5060\"", &address, 1));
        let via = format!("Via: SIP/2.0/{transport} 10.0.10.11:{port};branch=z9hG4bKs1");
        let invite = at_phone(&mut node, &via);
        let answer = response(&without_ours(&invite), "200 OK", &[]);
        let outcome = node.receive(addr(PHONE), addr(OUTSIDE), &answer);
        let inside = node.snapshot.frontends[0].egress(0).unwrap().local;
        match way {
            Some(to) => {
                assert_eq!((outcome.to(), outcome.from()), (addr(to), inside), "{via}");
                assert_eq!(headers(&outcome.text(), "Via").count(), 1);
            }
            None => assert_eq!(outcome, Outcome::Dropped(Reason::NoWayBack), "{via}"),
        }
    }
}
