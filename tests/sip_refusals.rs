//! What ends at us: refusals, answers of our own, silence (docs/rules.md 1, 3 to 5, 12, 27 to 32).

mod support;

use support::calls::{feed, from_phone, request, response};
use support::core::{INSIDE, Node, OUTSIDE, Outcome, PHONE, SERVER, addr};
use support::lines::{header, headers, param};
use trunkline::sip::Message;
use trunkline::sip::datagram::{Datagram, classify};
use trunkline::state::server::{Admin, Health, ServerState};

const CONFIG: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "udp://[2001:db8:f::10]:5060"]
inside = "10.0.1.10"
aliases = ["sip.example.ng"]
backend = "pbx"

[frontend.limits]
per_source_rate = "10/s"
per_source_burst = 1000
deny = ["192.0.2.128/25"]
deny_user_agent = ["friendly-scanner", "sipVicious"]

[[backend]]
name = "pbx"
pin = { size = 1000 }
[[backend.server]]
name = "k"
address = "udp://10.0.10.11:5060"
"#;

const URI: &str = "sip:100@example.org";

/// Replaces a part of a message that must be there.
fn with(bytes: &[u8], there: &str, instead: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains(there), "{text}");
    text.replacen(there, instead, 1).into_bytes()
}

#[test]
fn a_request_whose_hops_are_used_up_is_refused_and_options_is_answered() {
    let mut node = Node::new(CONFIG);
    for (method, status) in [("INVITE", 483), ("BYE", 483), ("CANCEL", 483), ("REGISTER", 483)] {
        let bytes = request(method, URI, &["Max-Forwards: 0"]);
        assert_eq!(from_phone(&mut node, &bytes, "too_many_hops").status(), Some(status), "{method}");
    }
    let options = request("OPTIONS", URI, &["Max-Forwards: 000"]);
    assert_eq!(from_phone(&mut node, &options, "answered").status(), Some(200));
    let ack = request("ACK", URI, &["Max-Forwards: 0"]);
    assert!(matches!(from_phone(&mut node, &ack, "too_many_hops"), Outcome::Dropped(_)));
}

#[test]
fn every_hop_counts_down_and_who_says_nothing_gets_seventy() {
    let mut node = Node::new(CONFIG);
    for (written, left) in [("1", "0"), ("70", "69"), ("0068", "67"), ("255", "254"), ("100", "99"), ("10", "9")] {
        let bytes = request("INVITE", URI, &[&format!("Max-Forwards: {written}")]);
        let sent = from_phone(&mut node, &bytes, "requests_to_servers").text();
        assert_eq!(headers(&sent, "Max-Forwards").collect::<Vec<_>>(), [left]);
    }
    let absent = with(&request("INVITE", URI, &[]), "Max-Forwards: 70\r\n", "");
    let sent = from_phone(&mut node, &absent, "requests_to_servers").text();
    assert_eq!(headers(&sent, "Max-Forwards").collect::<Vec<_>>(), ["70"]);
    for bad in ["256", "-1", "", "+7", "7 7", "99999999999999999999"] {
        let bytes = request("INVITE", URI, &[&format!("Max-Forwards: {bad}")]);
        let answer = from_phone(&mut node, &bytes, "malformed").text();
        assert!(answer.starts_with("SIP/2.0 400 Bad Max-Forwards\r\n"), "{bad}: {answer}");
    }
}

#[test]
fn what_asks_something_of_a_proxy_is_refused_with_the_names_of_it() {
    let mut node = Node::new(CONFIG);
    let lines = ["Proxy-Require: sec-agree, foo", "Require: bar", "proxy-require : Privacy,baz"];
    let answer = from_phone(&mut node, &request("INVITE", URI, &lines), "unknown_extension");
    assert_eq!(answer.status(), Some(420));
    let text = answer.text();
    let tags: Vec<_> = headers(&text, "Unsupported").flat_map(|line| line.split(',').map(str::trim)).collect();
    assert_eq!(tags, ["sec-agree", "foo", "baz"]);
    // Nobody could be told, or nothing is asked (RFC 3261 §8.2.2.3).
    for (method, line) in
        [("ACK", "Proxy-Require: foo"), ("CANCEL", "Proxy-Require: foo"), ("INVITE", "Proxy-Require:")]
    {
        from_phone(&mut node, &request(method, URI, &[line]), "requests_to_servers");
    }
    // A carrier's anonymous call, and a PBX that registers all its numbers at once: the server sees to them.
    for (method, line) in [("INVITE", "Proxy-Require: privacy"), ("REGISTER", "Proxy-Require: gin, PRIVACY")] {
        let sent = from_phone(&mut node, &request(method, URI, &[line, "Call-ID: another"]), "requests_to_servers");
        assert!(sent.text().contains(line));
    }
}

#[test]
fn an_answer_is_not_much_longer_than_what_it_answers() {
    let mut node = Node::new(CONFIG);
    let many = format!("Proxy-Require: {}", ["a"; 2000].join(","));
    let bytes = request("INVITE", URI, &[&many]);
    let Outcome::Answered { bytes: answer, .. } = from_phone(&mut node, &bytes, "unknown_extension") else {
        panic!("answered")
    };
    assert!(answer.len() < bytes.len() + 200, "{} for {}", answer.len(), bytes.len());
}

#[test]
fn an_answer_copies_what_it_must_and_has_one_to_tag_of_its_own() {
    let mut node = Node::new(CONFIG);
    let lines = [
        "v: SIP/2.0/UDP 10.9.9.9:5099;rport;branch=z9hG4bKq ,\r\n SIP/2.0/TCP h.example",
        "X: y",
        "Via: SIP/2.0/TLS i.example",
        "Max-Forwards: 0",
    ];
    let bytes = request("INVITE", URI, &lines);
    let first = from_phone(&mut node, &bytes, "too_many_hops");
    node.now.0 += 60_000_000_000;
    let again = from_phone(&mut node, &bytes, "too_many_hops");
    assert_eq!(first, again, "a stateless server answers a retransmission alike");
    assert_eq!((first.from(), first.to()), (addr(OUTSIDE), addr(PHONE)));
    let text = first.text();
    let tag = param(header(&text, "To"), "tag");
    let expected = format!(
        "SIP/2.0 483 Too Many Hops\r\n\
         v: SIP/2.0/UDP 10.9.9.9:5099;rport=31234;branch=z9hG4bKq;received=198.51.100.7 ,\r\n SIP/2.0/TCP h.example\r\n\
         Via: SIP/2.0/TLS i.example\r\n\
         From: <sip:bob@sip.example.ng>;tag=f1\r\n\
         To: <sip:100@sip.example.ng>;tag={tag}\r\n\
         Call-ID: call-1@phone\r\n\
         CSeq: 1 INVITE\r\n\
         Content-Length: 0\r\n\r\n"
    );
    assert_eq!(text, expected);
    let other = from_phone(&mut node, &with(&bytes, "CSeq: 1", "CSeq: 2"), "too_many_hops").text();
    assert_ne!(param(header(&other, "To"), "tag"), tag);
    let tagged = with(&bytes, "100@sip.example.ng>", "100@sip.example.ng>;tag=there");
    assert_eq!(
        header(&from_phone(&mut node, &tagged, "too_many_hops").text(), "To"),
        "<sip:100@sip.example.ng>;tag=there"
    );
}

#[test]
fn the_ack_to_an_answer_of_ours_ends_here_and_its_cancel_goes_on() {
    let mut node = Node::new(CONFIG);
    let invite = request("INVITE", URI, &["Proxy-Require: foo"]);
    let refused = from_phone(&mut node, &invite, "unknown_extension").text();
    let ack =
        with(&request("ACK", URI, &[]), "To: <sip:100@sip.example.ng>", &format!("To: {}", header(&refused, "To")));
    assert!(matches!(from_phone(&mut node, &ack, "ack_absorbed"), Outcome::Dropped(_)));
    // Another's ACK has another tag, another transaction, or none.
    let tag = param(header(&refused, "To"), "tag");
    from_phone(&mut node, &with(&ack, tag, "another"), "requests_to_servers");
    from_phone(&mut node, &with(&ack, "CSeq: 1", "CSeq: 2"), "requests_to_servers");
    from_phone(&mut node, &with(&ack, "z9hG4bKa1", "z9hG4bKa2"), "requests_to_servers");
    from_phone(&mut node, &request("ACK", URI, &[]), "requests_to_servers");
    let cancel = from_phone(&mut node, &request("CANCEL", URI, &[]), "requests_to_servers");
    assert_eq!(cancel.to(), addr(SERVER));
}

#[test]
fn an_ack_is_never_answered_and_a_response_neither() {
    let mut node = Node::new(CONFIG);
    for (line, counter) in [
        ("Max-Forwards: 0", "too_many_hops"),
        ("CSeq: 1 INVITE", "unanswerable"),
        ("Call-ID: a\r\nCall-ID: b", "unanswerable"),
    ] {
        let ack = request("ACK", URI, &[line]);
        assert!(matches!(from_phone(&mut node, &ack, counter), Outcome::Dropped(_)), "{line}");
    }
    let ack = with(&request("ACK", URI, &[]), "SIP/2.0", "SIP/3.0");
    assert!(matches!(from_phone(&mut node, &ack, "version"), Outcome::Dropped(_)));
    node.set("pbx/k", ServerState { admin: Admin::Maint, ..ServerState::default() });
    assert!(matches!(from_phone(&mut node, &request("ACK", URI, &[]), "no_server"), Outcome::Dropped(_)));
    let stray = response(&String::from_utf8(request("INVITE", URI, &[])).unwrap(), "200 OK", &[]);
    assert!(matches!(from_phone(&mut node, &stray, "foreign_response"), Outcome::Dropped(_)));
}

#[test]
fn what_can_be_answered_is_answered_and_the_rest_is_dropped_by_name() {
    let mut node = Node::new(CONFIG);
    for (there, instead, phrase) in [
        ("Call-ID: call-1@phone", "Call-ID: a\r\ni: b", "Different Call-IDs"),
        ("CSeq: 1 INVITE", "CSeq: 1 INVITE\r\nCSeq: 2 INVITE", "Different CSeqs"),
        ("CSeq: 1 INVITE", "CSeq: 1 INVITE\r\nCSeq: 1 BYE", "Different CSeqs"),
        ("Content-Length: 0", "Content-Length: 0\r\nl: 1", "Different Content-Lengths"),
        ("Content-Length: 0", "Content-Length: 7", "Body Shorter Than Content-Length"),
        ("Content-Length: 0", "Content-Length: -1", "Missing Or Bad Content-Length"),
        ("Content-Length: 0", "Content-Length: 4294967296", "Missing Or Bad Content-Length"),
        ("CSeq: 1 INVITE", "CSeq: 1 BYE", "CSeq Method Differs From Request-Line"),
        ("CSeq: 1 INVITE", "CSeq: 36893488147419103232 INVITE", "Missing Or Bad CSeq"),
        ("CSeq: 1 INVITE", "CSeq: one", "Missing Or Bad CSeq"),
        ("sip:100@example.org", "<sip:100@example.org>", "Bad Request-Line"),
        ("sip:100@example.org", "sip:100@example.org ;lr", "Bad Request-Line"),
    ] {
        let answer = from_phone(&mut node, &with(&request("INVITE", URI, &[]), there, instead), "malformed").text();
        assert!(answer.starts_with(&format!("SIP/2.0 400 {phrase}\r\n")), "{instead}: {answer}");
        assert_eq!(Message::parse(answer.as_bytes()).unwrap().status(), Some(400));
    }
    for (there, instead) in [
        ("Call-ID: call-1@phone\r\n", ""),
        ("CSeq: 1 INVITE\r\n", ""),
        ("CSeq: 1 INVITE", "CSeq:"),
        ("From: <sip:bob@sip.example.ng>;tag=f1\r\n", ""),
        ("To: <sip:100@sip.example.ng>\r\n", ""),
        ("Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKa1;rport\r\n", ""),
        ("SIP/2.0/UDP 198.51.100.7", "HTTP/2.0/UDP 198.51.100.7"),
        ("branch=z9hG4bKa1", "branch=z9hG4bKa1;branch=z9hG4bKa1"),
    ] {
        let broken = with(&request("INVITE", URI, &[]), there, instead);
        assert!(matches!(from_phone(&mut node, &broken, "unanswerable"), Outcome::Dropped(_)), "{instead}");
    }
}

#[test]
fn what_routing_does_not_need_is_not_judged() {
    let mut node = Node::new(CONFIG);
    for line in [
        "Contact: <<<>>,,\"",
        "Date: yesterday",
        ": nameless",
        "no colon at all",
        "Subject: \u{0}\u{7f}",
        "Call-ID: call-1@phone\r\nCall-ID: call-1@phone",
        "CSeq: 1 INVITE\r\nCSeq: 01  INVITE",
        "Content-Length: 0\r\nContent-Length: 00",
    ] {
        let sent = from_phone(&mut node, &request("INVITE", URI, &[line]), "requests_to_servers").text();
        assert!(sent.contains(&format!("{line}\r\n")), "{line}");
    }
    for method in ["PING", "x-method", "!", "INVITE2"] {
        from_phone(&mut node, &request(method, URI, &[]), "requests_to_servers");
    }
}

#[test]
fn another_version_is_505_and_another_scheme_is_416_only_where_it_means_us() {
    let mut node = Node::new(CONFIG);
    let newer = with(&request("INVITE", URI, &[]), " SIP/2.0", " SIP/7.0");
    assert_eq!(from_phone(&mut node, &newer, "version").status(), Some(505));
    for uri in ["http://203.0.113.10:5060", "soap.beep://sip.example.ng", "h323:a@203.0.113.10"] {
        let outcome = from_phone(&mut node, &request("INVITE", uri, &[]), "unknown_scheme");
        assert_eq!(outcome.status(), Some(416), "{uri}");
    }
    for uri in ["tel:+234", "urn:service:sos", "http://example.org", "opaque:stuff", "soap.beep://203.0.113.11"] {
        from_phone(&mut node, &request("INVITE", uri, &[]), "requests_to_servers");
    }
}

#[test]
fn a_request_that_would_not_fit_into_a_datagram_is_513() {
    let mut node = Node::new(CONFIG);
    let padded = |len: usize| {
        let bytes = request("MESSAGE", URI, &["X: y"]);
        with(&bytes, "X: y", &format!("X: {}", "y".repeat(len - bytes.len() + 1)))
    };
    let sent = from_phone(&mut node, &padded(65_000), "requests_to_servers");
    let Outcome::Sent { bytes, .. } = sent else { panic!("sent") };
    let growth = bytes.len() - 65_000;
    from_phone(&mut node, &padded(65_507 - growth), "requests_to_servers");
    assert_eq!(from_phone(&mut node, &padded(65_507 - growth + 1), "too_large").status(), Some(513));
    assert_eq!(from_phone(&mut node, &padded(65_507), "too_large").status(), Some(513));
}

#[test]
fn options_to_us_is_answered_while_a_server_is_usable() {
    let mut node = Node::new(CONFIG);
    let ours = [
        "sip:203.0.113.10",
        "sip:203.0.113.10:5060;transport=udp",
        "sip:sip.example.ng",
        "sip:10.0.1.10",
        "sip:[2001:db8:f::10]",
    ];
    for uri in ours {
        let text = from_phone(&mut node, &request("OPTIONS", uri, &[]), "answered").text();
        assert!(text.starts_with("SIP/2.0 200 OK\r\n"), "{uri}");
        assert!(header(&text, "Allow").contains("INVITE") && header(&text, "Accept") == "application/sdp");
        let checked = feed(&mut node, addr(SERVER), addr(INSIDE), &request("OPTIONS", uri, &[]), "answered");
        assert_eq!(checked.status(), Some(200), "a server may ask too");
    }
    for (uri, line) in [
        ("sip:100@203.0.113.10", "X: y"),
        ("sip:203.0.113.10:5099", "X: y"),
        ("sip:203.0.113.10", "Route: <sip:203.0.113.10;lr>, <sip:n.example;lr>"),
    ] {
        from_phone(&mut node, &request("OPTIONS", uri, &[line]), "requests_to_servers");
    }
    from_phone(&mut node, &request("OPTIONS", "sip:203.0.113.10", &["Route: <sip:sip.example.ng;lr>"]), "answered");
    node.set("pbx/k", ServerState { health: Health::Down, ..ServerState::default() });
    for uri in ours {
        let text = from_phone(&mut node, &request("OPTIONS", uri, &[]), "no_server").text();
        assert!(text.starts_with("SIP/2.0 503 ") && headers(&text, "Retry-After").next().is_none(), "{uri}");
    }
}

/// A region without weight takes those that prefer it: they should not believe that nobody is there.
#[test]
fn options_to_us_says_what_an_invite_would_meet() {
    let regions = "[[backend.region]]\nname = \"far\"\n[[backend.region]]\nname = \"own\"\nweight = 0\n\
                   clients = [\"198.51.100.0/24\"]\n[[backend.server]]\nname = \"o\"\nregion = \"own\"\n\
                   address = \"udp://10.0.10.12:5060\"\n[[backend.server]]\nregion = \"far\"\n";
    let mut node = Node::new(&CONFIG.replace("[[backend.server]]\n", regions));
    node.set("pbx/k", ServerState { health: Health::Dead, ..ServerState::default() });
    for (client, status, counter) in [(PHONE, 200, "requests_to_servers"), ("192.0.2.3:5060", 503, "no_server")] {
        let options = node.receive(addr(client), addr(OUTSIDE), &request("OPTIONS", "sip:203.0.113.10", &[]));
        assert_eq!(options.status(), Some(status), "{client}");
        let invite = request("INVITE", URI, &[&format!("Call-ID: {client}")]);
        feed(&mut node, addr(client), addr(OUTSIDE), &invite, counter);
    }
}

#[test]
fn where_nobody_is_usable_a_request_is_503_without_retry_after() {
    let mut node = Node::new(CONFIG);
    node.set("pbx/k", ServerState { health: Health::Down, ..ServerState::default() });
    for method in ["INVITE", "REGISTER", "BYE", "MESSAGE"] {
        let text = from_phone(&mut node, &request(method, URI, &[]), "no_server").text();
        assert!(text.starts_with("SIP/2.0 503 Service Unavailable\r\n"), "{method}");
        assert_eq!(headers(&text, "Retry-After").next(), None);
    }
}

#[test]
fn error_answers_are_limited_for_each_source() {
    let mut node = Node::new(CONFIG);
    let bad = request("BYE", URI, &["Max-Forwards: 0"]);
    for _ in 0..40 {
        assert_eq!(from_phone(&mut node, &bad, "too_many_hops").status(), Some(483));
    }
    assert!(matches!(from_phone(&mut node, &bad, "answer_limited"), Outcome::Dropped(_)));
    // From another port it is the same source; another address is another.
    feed(&mut node, addr("198.51.100.7:9"), addr(OUTSIDE), &bad, "answer_limited");
    feed(&mut node, addr("198.51.100.8:9"), addr(OUTSIDE), &bad, "too_many_hops");
    node.now.0 += 50_000_000;
    from_phone(&mut node, &bad, "too_many_hops");
    from_phone(&mut node, &bad, "answer_limited");
}

/// What one frontend allows in a burst must not be held against the source at another.
#[test]
fn each_frontend_keeps_its_own_count_of_a_source() {
    let other = "[[frontend]]\nname = \"other\"\nbind = \"udp://203.0.113.20:5060\"\ninside = \"10.0.1.20\"\nbackend = \"pbx\"\n\
                 [frontend.limits]\nper_source_rate = \"10/s\"\nper_source_burst = 2\n\n[[backend]]";
    let mut node = Node::new(&CONFIG.replacen("[[backend]]", other, 1));
    for _ in 0..50 {
        from_phone(&mut node, &request("INVITE", URI, &[]), "requests_to_servers");
    }
    for counter in ["requests_to_servers", "requests_to_servers", "rate_limited"] {
        feed(&mut node, addr(PHONE), addr("203.0.113.20:5060"), &request("INVITE", URI, &[]), counter);
    }
}

#[test]
fn whoever_opens_too_much_is_dropped_and_what_belongs_to_a_call_passes() {
    let mut node = Node::new(&CONFIG.replace("burst = 1000", "burst = 2"));
    for counter in ["requests_to_servers", "requests_to_servers", "rate_limited"] {
        from_phone(&mut node, &request("INVITE", URI, &[]), counter);
    }
    from_phone(&mut node, &request("OPTIONS", "sip:203.0.113.10", &[]), "rate_limited");
    from_phone(&mut node, &request("OPTIONS", URI, &["Max-Forwards: 0"]), "rate_limited");
    for method in ["ACK", "CANCEL"] {
        from_phone(&mut node, &request(method, URI, &[]), "requests_to_servers");
    }
    node.now.0 += 100_000_000;
    from_phone(&mut node, &request("INVITE", URI, &[]), "requests_to_servers");
}

#[test]
fn scanners_and_those_whom_the_operator_denies_get_silence() {
    let mut node = Node::new(CONFIG);
    for agent in ["friendly-scanner", "x FRIENDLY-SCANNER/1.0", "SIPVicious", "ok\r\nUSER-AGENT : sipvicious"] {
        let bytes = request("OPTIONS", "sip:203.0.113.10", &[&format!("User-Agent: {agent}")]);
        assert!(matches!(from_phone(&mut node, &bytes, "scanner"), Outcome::Dropped(_)), "{agent}");
        let broken = with(&bytes, "Max-Forwards: 70", "Max-Forwards: 999");
        assert!(matches!(from_phone(&mut node, &broken, "scanner"), Outcome::Dropped(_)), "{agent}");
    }
    from_phone(&mut node, &request("INVITE", URI, &["User-Agent: phone"]), "requests_to_servers");
    from_phone(&mut node, &request("INVITE", URI, &["X-Agent: friendly-scanner"]), "requests_to_servers");
    for (from, counter) in [("192.0.2.129:5060", "denied"), ("192.0.2.127:5060", "requests_to_servers")] {
        feed(&mut node, addr(from), addr(OUTSIDE), &request("INVITE", URI, &[]), counter);
    }
}

#[test]
fn nobody_is_heard_who_cannot_be_answered() {
    let mut node = Node::new(CONFIG);
    for from in ["255.255.255.255:5060", "224.0.0.5:5060", "0.0.0.0:5060", "198.51.100.7:0", OUTSIDE, INSIDE] {
        for method in ["INVITE", "OPTIONS"] {
            feed(&mut node, addr(from), addr(OUTSIDE), &request(method, URI, &[]), "bad_source");
        }
    }
    // The answer would go to a port that nobody has.
    let nowhere = ["Via: SIP/2.0/UDP 198.51.100.7:0;branch=z9hG4bKa", "Max-Forwards: 0"];
    from_phone(&mut node, &request("INVITE", URI, &nowhere), "bad_destination");
    from_phone(&mut node, &request("INVITE", URI, &nowhere[..1]), "bad_destination");
}

#[test]
fn what_the_client_wrote_of_its_own_address_is_overwritten() {
    let mut node = Node::new(CONFIG);
    let via = "Via: SIP/2.0/UDP 198.51.100.7:31234;received=192.0.2.66;rport=53;branch=z9hG4bKa";
    let sent = from_phone(&mut node, &request("INVITE", URI, &[via]), "requests_to_servers").text();
    assert_eq!(
        headers(&sent, "Via").nth(1),
        Some("SIP/2.0/UDP 198.51.100.7:31234;received=198.51.100.7;rport=31234;branch=z9hG4bKa")
    );
    let v6 = "Via: SIP/2.0/UDP [2001:db8::9]:5060;received=[2001:db8::66];branch=z9hG4bKa";
    let invite = request("INVITE", URI, &[v6]);
    let from = addr("[2001:db8::9]:5060");
    let sent = feed(&mut node, from, addr("[2001:db8:f::10]:5060"), &invite, "requests_to_servers").text();
    assert_eq!(
        headers(&sent, "Via").nth(1),
        Some("SIP/2.0/UDP [2001:db8::9]:5060;received=2001:db8::9;branch=z9hG4bKa")
    );
}

#[test]
fn datagrams_that_are_no_sip_are_known_before_anybody_parses_them() {
    for (bytes, what) in [
        (&b"\r\n\r\n"[..], Datagram::KeepAlive),
        (b"\0\0\0\0", Datagram::KeepAlive),
        (b"jaK", Datagram::KeepAlive),
        (b"", Datagram::KeepAlive),
        (b"GET / HTTP/1.1", Datagram::Junk),
        (b"\xf9sigcomp sigcomp sigcomp", Datagram::Junk),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Datagram::Sip),
    ] {
        assert_eq!(classify(bytes), what);
    }
    let mut node = Node::new(CONFIG);
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"SIP/2.0 99 x\r\n\r\n",
        b"SIP/2.0 42949673 x\r\n\r\n",
        b"no line end at all here",
    ] {
        assert_eq!(node.receive(addr(PHONE), addr(OUTSIDE), bytes), Outcome::Dropped(trunkline::state::Reason::NotSip));
    }
}
