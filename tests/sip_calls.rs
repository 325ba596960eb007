//! Calls that take their time or an unusual way: forks, challenges, long ringing, two passes through us, dead servers.

mod support;

use std::time::Duration;
use support::calls::{CALL, request, response, sealed, token};
use support::core::{INSIDE, Node, OUTSIDE, Outcome, PHONE, SERVER, addr};
use support::lines::headers;
use trunkline::sip::token::{Sealed, SealedIn};
use trunkline::state::Reason;
use trunkline::state::counters::{Counter, ServerCounters};
use trunkline::state::server::{Admin, Circuit, Health, ServerState};

const CONFIG: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "udp://[2001:db8:f::10]:5060"]
inside = "10.0.1.10"
aliases = ["sip.example.ng"]
backend = "pbx"

[[backend]]
name = "pbx"
pin = { size = 1000 }
[[backend.server]]
name = "k"
address = "udp://10.0.10.11:5060"
[[backend.server]]
name = "m"
address = "udp://10.0.10.12:5060"
"#;
const B: &str = "192.0.2.77:40000";
const URI: &str = "sip:100@sip.example.ng";
const TOTAG: &str = "To: <sip:100@sip.example.ng>;tag=t1";

fn drain() -> ServerState {
    ServerState { admin: Admin::Drain, ..ServerState::default() }
}
fn state(health: Health) -> ServerState {
    ServerState { health, ..ServerState::default() }
}
fn wait(node: &mut Node, seconds: u64) {
    node.now = node.now + Duration::from_secs(seconds);
}
/// How many calls are counted.
fn calls(node: &Node) -> i64 {
    node.snapshot.servers.iter().map(|server| server.live.calls.get()).sum()
}
fn phone(node: &mut Node, bytes: &[u8]) -> Outcome {
    node.receive(addr(PHONE), addr(OUTSIDE), bytes)
}

/// Every server fails its checks, and calls are sent all the same: what follows a call, and who sticks, finds the same server.
#[test]
fn what_is_sent_to_the_dead_all_the_same_stays_with_them() {
    for stick in ["", "stick = { on = \"source\" }\n"] {
        let pin = format!("balance = \"roundrobin\"\nwhen_all_down = \"forward\"\n{stick}pin = {{ size = 1000 }}");
        let mut node = Node::new(&CONFIG.replace("pin = { size = 1000 }", &pin));
        ["pbx/k", "pbx/m"].iter().for_each(|name| node.set(name, state(Health::Dead)));
        let server = phone(&mut node, &request("INVITE", URI, &[])).to();
        for method in ["INVITE", "CANCEL", "ACK", "INVITE"] {
            assert_eq!(phone(&mut node, &request(method, URI, &[])).to(), server, "{method}, {stick}");
        }
        let other = phone(&mut node, &request("INVITE", URI, &["Call-ID: other"])).to();
        assert_eq!(other == server, !stick.is_empty(), "{stick}");
    }
}

/// Who sticks to a server whose breaker is half-open tries it like anybody else, though the backend fails open to the others.
#[test]
fn who_sticks_to_a_half_open_server_asks_for_a_trial() {
    let stick = "when_all_down = \"forward\"\nstick = { on = \"source\" }\npin = { size = 1000 }";
    let mut node = Node::new(&CONFIG.replace("pin = { size = 1000 }", stick));
    node.set("pbx/m", ServerState { admin: Admin::Maint, ..ServerState::default() });
    let k = phone(&mut node, &request("INVITE", URI, &[])).to();
    node.set("pbx/k", ServerState { breaker: Circuit::HalfOpen, ..ServerState::default() });
    assert_eq!(phone(&mut node, &request("INVITE", URI, &["Call-ID: other"])).to(), k, "it fails open");
    let turned_away =
        node.snapshot.servers.iter().map(|server| server.live.counters.sum(|of| &of.rejected)).sum::<u64>();
    assert_eq!(turned_away, 1, "no trial call may go yet");
}

/// A's INVITE went to K; K forks it to phones B and C through us; B is busy at once, C rings on.
#[test]
fn one_busy_fork_does_not_unpin_the_callers_call() {
    let mut node = Node::new(CONFIG);
    let sent = phone(&mut node, &request("INVITE", URI, &[]));
    let (k, name) = (sent.to(), node.server_of(&sent));
    let p = token(&node.keys, "any", &sealed(SealedIn::Path, &name, addr(OUTSIDE), addr(B)));
    let fork = request(
        "INVITE",
        "sip:b@192.168.7.7",
        &[&format!("Via: SIP/2.0/UDP {k};branch=z9hG4bKforkB"), &format!("Route: <sip:{p}@{INSIDE};lr>")],
    );
    let at_b = node.receive(k, addr(INSIDE), &fork);
    assert_eq!(at_b.to(), addr(B));
    let busy = node.receive(addr(B), addr(OUTSIDE), &response(&at_b.text(), "486 Busy Here", &[]));
    assert_eq!(busy.to(), k);
    wait(&mut node, 40);
    node.set(&name, drain());
    let cancel = phone(&mut node, &request("CANCEL", URI, &[]));
    assert_eq!(cancel.to(), k, "the CANCEL must reach the server that has the INVITE");
}

#[test]
fn a_refused_update_does_not_unpin_the_ringing_invite() {
    let mut node = Node::new(CONFIG);
    let sent = phone(&mut node, &request("INVITE", URI, &[]));
    let (k, name) = (sent.to(), node.server_of(&sent));
    let update =
        request("UPDATE", URI, &[TOTAG, "CSeq: 2 UPDATE", "Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKu;rport"]);
    let update = phone(&mut node, &update);
    assert_eq!(update.to(), k);
    node.receive(k, addr(INSIDE), &response(&update.text(), "491 Request Pending", &[]));
    wait(&mut node, 40);
    node.set(&name, drain());
    assert_eq!(phone(&mut node, &request("CANCEL", URI, &[])).to(), k);
}

/// The INVITE comes again with the same Call-ID (RFC 3261 §8.1.3, RFC 4028 §7.3); as well it may be another branch of it.
#[test]
fn a_late_copy_of_a_refusal_does_not_unpin_the_second_invite() {
    for refusal in ["401 Unauthorized", "422 Session Interval Too Small", "302 Moved Temporarily", "486 Busy Here"] {
        let mut node = Node::new(CONFIG);
        let sent = phone(&mut node, &request("INVITE", URI, &[]));
        let (k, name) = (sent.to(), node.server_of(&sent));
        let refused = response(&sent.text(), refusal, &[]);
        node.receive(k, addr(INSIDE), &refused);
        let second = ["CSeq: 2 INVITE", "Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKa2;rport"];
        let again = phone(&mut node, &request("INVITE", URI, &second));
        assert_eq!(again.to(), k, "{refusal}");
        node.receive(k, addr(INSIDE), &refused); // retransmitted: the ACK was late
        node.receive(k, addr(INSIDE), &response(&again.text(), "180 Ringing", &[]));
        wait(&mut node, 40);
        node.set(&name, drain());
        let cancel = ["CSeq: 2 CANCEL", second[1]];
        assert_eq!(phone(&mut node, &request("CANCEL", URI, &cancel)).to(), k, "{refusal}");
        node.receive(k, addr(INSIDE), &response(&again.text(), "200 OK", &[]));
        assert_eq!(calls(&node), 1, "{refusal}: it crossed the CANCEL");
    }
}

/// RFC 3261 §16.7 item 2: a provisional response begins timer C anew; §13.3.1.1: a UAS sends one every minute.
#[test]
fn a_call_that_says_every_minute_that_it_rings_stays_pinned() {
    let mut node = Node::new(CONFIG);
    let sent = phone(&mut node, &request("INVITE", URI, &[]));
    let (k, name) = (sent.to(), node.server_of(&sent));
    for _ in 0..4 {
        wait(&mut node, 60);
        node.receive(k, addr(INSIDE), &response(&sent.text(), "183 Session Progress", &[]));
    }
    node.set(&name, drain());
    assert_eq!(phone(&mut node, &request("CANCEL", URI, &[])).to(), k);
}

/// The server does not Record-Route (Kamailio's default for REFER): A and B are both ours.
#[test]
fn only_the_route_of_this_pass_is_taken_off() {
    let mut node = Node::new(CONFIG);
    let refer = phone(&mut node, &request("REFER", URI, &[]));
    let (k, name) = (refer.to(), node.server_of(&refer));
    let text = refer.text();
    let rr_a: Vec<_> = headers(&text, "Record-Route").collect();
    let p = token(&node.keys, "any", &sealed(SealedIn::Path, &name, addr(OUTSIDE), addr(B)));
    let on = request(
        "REFER",
        "sip:b@192.168.7.7",
        &[
            &format!("Via: SIP/2.0/UDP {k};branch=z9hG4bKk"),
            &format!("Route: <sip:{p}@{INSIDE};lr>"),
            &format!("Record-Route: {}", rr_a[0]),
            &format!("Record-Route: {}", rr_a[1]),
        ],
    );
    let at_b = node.receive(k, addr(INSIDE), &on).text();
    let set: Vec<_> = headers(&at_b, "Record-Route").collect();
    assert_eq!(set.len(), 4);
    // B's NOTIFY: its route set is what it saw, in order (it was the callee).
    let notify =
        request("NOTIFY", "sip:bob@192.168.1.20", &[&format!("Route: {}", set.join(", ")), TOTAG, "CSeq: 7 NOTIFY"]);
    let sent = node.receive(addr(B), addr(OUTSIDE), &notify);
    assert_eq!(sent.to(), k);
    let text = sent.text();
    assert_eq!(
        headers(&text, "Route").flat_map(|r| r.split(", ")).collect::<Vec<_>>(),
        rr_a,
        "K needs them to reach A"
    );
}

#[test]
fn an_invite_with_replaces_does_not_go_to_a_dead_server() {
    let mut node = Node::new(CONFIG);
    let sent = phone(&mut node, &request("INVITE", URI, &[]));
    let (k, name) = (sent.to(), node.server_of(&sent));
    node.receive(k, addr(INSIDE), &response(&sent.text(), "200 OK", &[]));
    node.set(&name, state(Health::Dead));
    let replaces = ["Call-ID: second", &format!("Replaces: {CALL};to-tag=t1;from-tag=f1")];
    let first = phone(&mut node, &request("INVITE", URI, &replaces));
    let again = phone(&mut node, &request("INVITE", URI, &replaces));
    assert_ne!((first.to(), again.to()), (k, k), "a new call, sent to a dead server, and each retransmission too");
}

const LIMITED: &str = "backend = \"pbx\"\n[frontend.limits]\nper_source_rate = \"1/s\"\nper_source_burst = 1\n";

#[test]
fn what_follows_a_pinned_call_is_not_limited() {
    let mut node = Node::new(&CONFIG.replacen("backend = \"pbx\"\n", LIMITED, 1));
    phone(&mut node, &request("INVITE", URI, &[]));
    let mut lost = vec![];
    for (what, bytes) in [
        ("PRACK without Route", request("PRACK", URI, &[TOTAG, "CSeq: 2 PRACK"])),
        ("BYE without Route, early dialog", request("BYE", URI, &[TOTAG, "CSeq: 3 BYE"])),
    ] {
        if phone(&mut node, &bytes) == Outcome::Dropped(Reason::RateLimited) {
            lost.push(what);
        }
    }
    assert_eq!(lost, [""; 0]);
}

#[test]
fn a_token_whose_server_is_in_maintenance_is_not_limited() {
    let mut node = Node::new(&CONFIG.replacen("backend = \"pbx\"\n", LIMITED, 1));
    node.set("pbx/k", ServerState { admin: Admin::Maint, ..ServerState::default() });
    let d = token(&node.keys, CALL, &sealed(SealedIn::RecordRoute, "pbx/k", addr(OUTSIDE), addr(PHONE)));
    let bye = request("BYE", URI, &[TOTAG, &format!("Route: <sip:{d}@{OUTSIDE};lr>")]);
    phone(&mut node, &bye);
    assert_ne!(phone(&mut node, &bye), Outcome::Dropped(Reason::RateLimited));
}

/// RFC 3261 §16.9: a failed send of a request counts as 503 for it.
#[test]
fn a_request_to_a_client_that_cannot_be_sent_is_503() {
    let mut node = Node::new(CONFIG);
    let invite = request("INVITE", "sip:u@192.0.2.50", &[]);
    let sent = node.receive(addr(SERVER), addr(INSIDE), &invite);
    let Outcome::Sent { passage, .. } = sent else { panic!() };
    let outcome = node.undelivered(addr(SERVER), addr(INSIDE), &invite, passage);
    assert_eq!(outcome.status(), Some(503), "{outcome:?}");
}

/// A phone that registers every 30 s leaves a drained server.
#[test]
fn short_registrations_leave_a_drained_server() {
    let mut node = Node::new(CONFIG);
    let first = phone(&mut node, &request("REGISTER", "sip:sip.example.ng", &[]));
    let name = node.server_of(&first);
    node.receive(first.to(), addr(INSIDE), &response(&first.text(), "200 OK", &[]));
    node.set(&name, drain());
    let mut last = first.to();
    for n in 2..20 {
        wait(&mut node, 30);
        let again = phone(
            &mut node,
            &request(
                "REGISTER",
                "sip:sip.example.ng",
                &[
                    &format!("CSeq: {n} REGISTER"),
                    &format!("Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKr{n};rport"),
                ],
            ),
        );
        last = again.to();
        node.receive(last, addr(INSIDE), &response(&again.text(), "200 OK", &[]));
    }
    assert_ne!(last, first.to(), "nine minutes after the drain");
}

/// A registered Contact of the other family, client not behind NAT: the flow is known and works.
#[test]
fn a_contact_of_the_other_family_is_reached_by_a_bind_of_that_family_else_by_the_flow() {
    let v4 = CONFIG.replace(", \"udp://[2001:db8:f::10]:5060\"", "");
    for (config, from, to) in [(CONFIG, "[2001:db8:f::10]:5060", "[2001:db8::77]:5060"), (&v4, OUTSIDE, B)] {
        let mut node = Node::new(config);
        let path = Sealed { nat: false, ..sealed(SealedIn::Path, "pbx/k", addr(OUTSIDE), addr(B)) };
        let p = token(&node.keys, "any", &path);
        let invite = request("INVITE", "sip:u@[2001:db8::77]", &[&format!("Route: <sip:{p}@{INSIDE};lr>")]);
        let out = node.receive(addr(SERVER), addr(INSIDE), &invite);
        assert_eq!((out.from(), out.to(), out.status()), (addr(from), addr(to), None));
    }
}

/// A carrier must hear 503, or it goes on trying.
#[test]
fn a_trusted_carrier_hears_503_for_every_call_while_nobody_is_usable() {
    let text = CONFIG.replacen(
        "backend = \"pbx\"\n",
        "backend = \"pbx\"\n[frontend.limits]\ntrusted = [\"198.51.100.0/24\"]\n",
        1,
    );
    let mut node = Node::new(&text);
    node.set("pbx/k", state(Health::Dead));
    node.set("pbx/m", state(Health::Dead));
    let silent = (0..200)
        .filter(|n| {
            let call = format!("Call-ID: c{n}");
            matches!(phone(&mut node, &request("INVITE", URI, &[&call])), Outcome::Dropped(_))
        })
        .count();
    assert_eq!(silent, 0);
}

#[test]
fn a_server_hears_every_refusal() {
    let mut node = Node::new(CONFIG);
    let silent = (0..200)
        .filter(|n| {
            let call = format!("Call-ID: c{n}");
            matches!(
                node.receive(addr(SERVER), addr(INSIDE), &request("INVITE", "sip:u@name.example", &[&call])),
                Outcome::Dropped(_)
            )
        })
        .count();
    assert_eq!(silent, 0);
}

/// A BYE that finds no dialog, or is challenged, ends none (forked call: two dialogs with one Call-ID).
#[test]
fn a_challenged_bye_does_not_end_the_call() {
    let mut node = Node::new(CONFIG);
    let sent = phone(&mut node, &request("INVITE", URI, &[]));
    let (k, name) = (sent.to(), node.server_of(&sent));
    node.receive(k, addr(INSIDE), &response(&sent.text(), "200 OK", &[]));
    let bye = phone(&mut node, &request("BYE", URI, &["To: <sip:100@sip.example.ng>;tag=otherfork", "CSeq: 2 BYE"]));
    node.receive(k, addr(INSIDE), &response(&bye.text(), "481 No Dialog", &[]));
    wait(&mut node, 60);
    node.set(&name, drain());
    let info = phone(&mut node, &request("INFO", URI, &[TOTAG, "CSeq: 3 INFO"]));
    assert_eq!(info.to(), k);
}

/// Whatever is answered, and where nobody answers: a phone that has lost its network, a server that is gone (RFC 3261 §15.1.1).
#[test]
fn who_rings_off_has_no_call_any_more() {
    for (by_server, answer) in [(false, None), (true, None), (true, Some("481 No Dialog")), (false, Some("200 OK"))] {
        let mut node = Node::new(CONFIG);
        let sent = phone(&mut node, &request("INVITE", URI, &[]));
        let k = sent.to();
        node.receive(k, addr(INSIDE), &response(&sent.text(), "200 OK", &[]));
        assert_eq!(calls(&node), 1);
        let (ends, other) = match by_server {
            true => ([k, addr(INSIDE)], [addr(PHONE), addr(OUTSIDE)]),
            false => ([addr(PHONE), addr(OUTSIDE)], [k, addr(INSIDE)]),
        };
        let uri = if by_server { format!("sip:bob@{PHONE}") } else { URI.to_owned() };
        let bye = request("BYE", &uri, &[TOTAG, "CSeq: 2 BYE"]);
        for _ in 0..2 {
            let sent = node.receive(ends[0], ends[1], &bye);
            assert_eq!((sent.to(), calls(&node)), (other[0], 0), "by the server: {by_server}");
            if let Some(answer) = answer {
                assert_eq!(node.receive(other[0], other[1], &response(&sent.text(), answer, &[])).to(), ends[0]);
            }
            assert_eq!(calls(&node), 0, "by the server: {by_server}, {answer:?}");
        }
    }
}

/// Who rings off and is refused has rung off all the same: the call of a server that is gone does not count until its pin
/// expires. The pin stays, for another dialog of a fork may be there.
#[test]
fn a_bye_that_reaches_nobody_ends_the_call() {
    let mut node = Node::new(CONFIG);
    let sent = phone(&mut node, &request("INVITE", URI, &[]));
    let (k, name) = (sent.to(), node.server_of(&sent));
    node.receive(k, addr(INSIDE), &response(&sent.text(), "200 OK", &[]));
    assert_eq!(calls(&node), 1);
    let maint = ServerState { admin: Admin::Maint, ..ServerState::default() };
    for name in ["pbx/k", "pbx/m"] {
        node.set(name, maint);
    }
    let refused = phone(&mut node, &request("OPTIONS", URI, &["Call-ID: other@x"]));
    assert_eq!((refused.status(), calls(&node)), (Some(503), 1), "what is no BYE ends nothing");
    let bye = request("BYE", URI, &[TOTAG, "CSeq: 2 BYE"]);
    assert_eq!((phone(&mut node, &bye).status(), calls(&node)), (Some(503), 0));
    assert_eq!((phone(&mut node, &bye).status(), calls(&node)), (Some(503), 0), "once");
    node.set(&name, ServerState::default());
    assert_eq!(phone(&mut node, &request("INFO", URI, &[TOTAG, "CSeq: 3 INFO"])).to(), k);
}

/// A phone keeps the Vias of all that its server ever asked: whoever shows them again later begins no call with them.
#[test]
fn an_old_answer_of_a_client_begins_no_call() {
    let mut node = Node::new(CONFIG);
    let ask = |node: &mut Node, method: &str, call: &str| {
        let lines = ["Via: SIP/2.0/UDP 10.0.10.11:5060;branch=z9hG4bKk1".to_owned(), format!("Call-ID: {call}")];
        node.receive(
            addr(SERVER),
            addr(INSIDE),
            &request(method, &format!("sip:bob@{PHONE}"), &lines.each_ref().map(String::as_str)),
        )
    };
    let ping = ask(&mut node, "OPTIONS", "ping");
    let answer = response(&ping.text().replace("CSeq: 1 OPTIONS", "CSeq: 1 INVITE"), "200 OK", &[]);
    for seconds in [0, 3_000] {
        wait(&mut node, seconds);
        assert_eq!(phone(&mut node, &answer).to(), addr(SERVER), "a response goes home");
        assert_eq!(
            (
                calls(&node),
                node.memory.shared.pins.find(node.keys.call(b"ping"), node.now).is_some_and(|pin| pin.confirmed)
            ),
            (0, false)
        );
    }
    let invite = ask(&mut node, "INVITE", "ring");
    phone(&mut node, &response(&invite.text(), "200 OK", &[]));
    assert_eq!(calls(&node), 1, "what rings is a call when it is answered");
}

/// What comes from a denied network is not taken, whatever it is; a server there is a server.
#[test]
fn who_is_denied_answers_nothing() {
    let denied = "backend = \"pbx\"\n[frontend.limits]\ndeny = [\"198.51.100.0/24\", \"10.0.10.12/32\"]\n";
    let mut node = Node::new(&CONFIG.replacen("backend = \"pbx\"\n", denied, 1));
    for from in [PHONE, "10.0.10.12:5060", B] {
        let via = format!("Via: SIP/2.0/UDP {SERVER};branch=z9hG4bKk{}", from.len());
        let ping = node.receive(addr(SERVER), addr(INSIDE), &request("OPTIONS", &format!("sip:bob@{PHONE}"), &[&via]));
        let answer = node.receive(addr(from), addr(OUTSIDE), &response(&ping.text(), "200 OK", &[]));
        match from {
            PHONE => assert_eq!(answer, Outcome::Dropped(Reason::Denied)),
            _ => assert_eq!(answer.to(), addr(SERVER), "{from}"),
        }
    }
}

/// A token is a dialog's. What has no To tag is in none: it is limited, and goes where new calls go.
#[test]
fn nothing_is_opened_by_a_token_or_beside_a_call() {
    let mut node = Node::new(&CONFIG.replacen("backend = \"pbx\"\n", LIMITED, 1));
    let sent = phone(&mut node, &request("INVITE", URI, &[]));
    let (k, name) = (sent.to(), node.server_of(&sent));
    node.receive(k, addr(INSIDE), &response(&sent.text(), "200 OK", &[]));
    let d = token(&node.keys, CALL, &sealed(SealedIn::RecordRoute, &name, addr(OUTSIDE), addr(PHONE)));
    let route = format!("Route: <sip:{d}@{OUTSIDE};lr>");
    let empty = "To: <sip:100@sip.example.ng>;tag=";
    for method in ["INVITE", "REGISTER", "MESSAGE"] {
        for lines in [&[route.as_str()][..], &[], &[route.as_str(), empty], &[empty, "X-One: more"]] {
            let via = format!("Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bK{method}{};rport", lines.len());
            let outcome = phone(&mut node, &request(method, URI, &[&[via.as_str()], lines].concat()));
            assert_eq!(outcome, Outcome::Dropped(Reason::RateLimited), "{method} {lines:?}");
        }
    }
    for method in ["ACK", "CANCEL", "BYE"] {
        let outcome = phone(&mut node, &request(method, URI, &["Call-ID: nobody's"]));
        assert_eq!(outcome, Outcome::Dropped(Reason::RateLimited), "{method} that follows nothing");
    }
    assert_eq!(phone(&mut node, &request("BYE", URI, &[TOTAG, &route])).to(), k, "the dialog goes on");
    let tagless = phone(&mut node, &request("BYE", URI, &[&route, "CSeq: 7 BYE"]));
    assert_eq!(tagless.to(), k, "even where the other end never had a tag");
    // Its pin expires, and its server takes no new calls.
    wait(&mut node, 100_000);
    node.set(&name, drain());
    let outcome = phone(&mut node, &request("INVITE", URI, &[&route]));
    assert!(outcome.status().is_none() && outcome.to() != k, "{outcome:?}");
    assert!(!outcome.text().contains("Route: <sip:d"), "our Route is off: {}", outcome.text());
}

/// A tag has at least one character (RFC 3261 §25.1): what has none opens a call, and the whole of it comes this way.
#[test]
fn an_empty_tag_is_none() {
    let mut node = Node::new(CONFIG);
    let sent = phone(&mut node, &request("INVITE", URI, &["To: <sip:100@sip.example.ng>;tag="]));
    assert_eq!(headers(&sent.text(), "Record-Route").count(), 2);
    assert_eq!(calls(&node), 1);
}

/// Two parsers could take different ones, and find a dialog or none.
#[test]
fn parties_that_differ_are_refused() {
    let mut node = Node::new(CONFIG);
    for (name, other) in [("To", "To: <sip:100@sip.example.ng>"), ("From", "f: <sip:bob@sip.example.ng>;tag=f2")] {
        let text = String::from_utf8(request("INVITE", URI, &[TOTAG])).unwrap();
        let twice = text.replacen("CSeq:", &format!("{other}\r\nCSeq:"), 1);
        assert_eq!(phone(&mut node, twice.as_bytes()).status(), Some(400), "{name}");
        let own = text.lines().find(|line| line.starts_with(name)).unwrap();
        let same = text.replacen("CSeq:", &format!("{own}\r\nCSeq:"), 1);
        assert_eq!(phone(&mut node, same.as_bytes()).status(), None, "{name} said twice");
    }
}

/// The caller is called back by the server that it called: both passes have the same token.
#[test]
fn only_the_route_of_one_pass_is_taken_off_where_both_have_the_same() {
    let mut node = Node::new(CONFIG);
    let lines = [&format!("Via: SIP/2.0/UDP {PHONE};branch=z9hG4bKc"), &format!("Contact: <sip:c@{PHONE}>")];
    let refer = phone(&mut node, &request("REFER", URI, &lines.map(String::as_str)));
    let k = refer.to();
    let text = refer.text();
    let rr: Vec<_> = headers(&text, "Record-Route").collect();
    let via = format!("Via: SIP/2.0/UDP {k};branch=z9hG4bKk");
    let recorded = rr.iter().map(|rr| format!("Record-Route: {rr}"));
    let lines: Vec<_> = std::iter::once(via).chain(recorded).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let on = node.receive(k, addr(INSIDE), &request("REFER", &format!("sip:c@{PHONE}"), &lines)).text();
    let set: Vec<_> = headers(&on, "Record-Route").collect();
    assert_eq!(set.len(), 4, "{on}");
    let route = format!("Route: {}", set.join(", "));
    let via = format!("Via: SIP/2.0/UDP {PHONE};branch=z9hG4bKn");
    let notify = request("NOTIFY", "sip:c@198.51.100.7:31234", &[&via, &route, TOTAG, "CSeq: 7 NOTIFY"]);
    let sent = phone(&mut node, &notify).text();
    assert_eq!(headers(&sent, "Route").flat_map(|route| route.split(", ")).collect::<Vec<_>>(), rr);
}

/// Who asks within a dialog, or through a phone's registration, asks its other end, whatever address that names.
#[test]
fn options_with_a_token_of_ours_is_not_for_us() {
    let mut node = Node::new(CONFIG);
    let sent = phone(&mut node, &request("INVITE", URI, &[]));
    let (k, name) = (sent.to(), node.server_of(&sent));
    let d = token(&node.keys, CALL, &sealed(SealedIn::RecordRoute, &name, addr(OUTSIDE), addr(PHONE)));
    let lines = [&format!("Route: <sip:{d}@{OUTSIDE};lr>"), TOTAG, "CSeq: 2 OPTIONS"];
    assert_eq!(phone(&mut node, &request("OPTIONS", &format!("sip:{OUTSIDE}"), &lines)).to(), k);
    let p = token(&node.keys, "any", &sealed(SealedIn::Path, &name, addr(OUTSIDE), addr(B)));
    let lines = [&format!("Via: SIP/2.0/UDP {k};branch=z9hG4bKp"), &format!("Route: <sip:{p}@{INSIDE};lr>")];
    let lines = lines.map(String::as_str);
    assert_eq!(node.receive(k, addr(INSIDE), &request("OPTIONS", &format!("sip:{INSIDE}"), &lines)).to(), addr(B));
}

/// One caller's calls go to one server, however the number is written (RFC 3966).
#[test]
fn a_tel_uri_is_a_user() {
    let stick = "pin = { size = 1000 }\nbalance = \"roundrobin\"\nstick = { on = \"from-user\", expire = \"10m\" }";
    let mut node = Node::new(&CONFIG.replacen("pin = { size = 1000 }", stick, 1));
    let froms = [
        "tel:+2348012345678",
        "tel:+2348012345678;phone-context=ng",
        "sip:+2348012345678@sip.example.ng",
        "tel:+2348012345678",
    ];
    let homes = froms.iter().enumerate().map(|(n, from)| {
        let via = format!("Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKt{n};rport");
        let lines = [via, format!("From: <{from}>;tag=f{n}"), format!("Call-ID: tel-{n}")];
        phone(&mut node, &request("INVITE", URI, &lines.each_ref().map(String::as_str))).to()
    });
    assert_eq!(homes.collect::<std::collections::HashSet<_>>().len(), 1);
}

/// Who has an address of a network of IPv6 has all of them.
#[test]
fn a_network_of_ipv6_is_one_source() {
    let mut node = Node::new(&CONFIG.replacen("backend = \"pbx\"\n", LIMITED, 1));
    let mut open = |from: &str, n: u32| {
        let lines = [format!("Via: SIP/2.0/UDP [2001:db8:1::1];branch=z9hG4bKv{n};rport"), format!("Call-ID: v6-{n}")];
        let bytes = request("INVITE", URI, &lines.each_ref().map(String::as_str));
        node.receive(addr(from), addr("[2001:db8:f::10]:5060"), &bytes)
    };
    assert!(matches!(open("[2001:db8:1::1]:5060", 1), Outcome::Sent { .. }));
    assert_eq!(open("[2001:db8:1::ffff:2]:5061", 2), Outcome::Dropped(Reason::RateLimited));
    assert!(matches!(open("[2001:db8:1:1::1]:5060", 3), Outcome::Sent { .. }), "another network");
}

/// What an operator writes as an address is that address in every spelling.
#[test]
fn a_route_finds_an_ipv6_host_in_any_spelling() {
    let route = "\n[[frontend.route]]\nhosts = [\"2001:db8::77\", \"192.0.2.9\"]\nbackend = \"other\"\n\n[[backend]]\nname = \"other\"\n\
                 [[backend.server]]\nname = \"o\"\naddress = \"udp://10.0.10.13:5060\"\n\n[[backend]]";
    let mut node = Node::new(&CONFIG.replacen("\n[[backend]]", route, 1));
    for (uri, at_other) in
        [("sip:1@[2001:DB8:0::77]", true), ("sip:1@192.0.2.9", true), ("sip:1@[2001:db8::78]", false)]
    {
        let outcome = phone(&mut node, &request("OPTIONS", uri, &[&format!("Call-ID: {}", uri.len())]));
        assert_eq!(node.server_of(&outcome) == "other/o", at_other, "{uri}: {outcome:?}");
    }
}

/// Nobody is turned against where we are looked at, whoever registers such a Contact.
#[test]
fn a_server_is_not_sent_to_an_address_of_admin() {
    let text = format!("[admin]\nstats = \"10.0.9.9:8404\"\n{CONFIG}");
    let mut node = Node::new(&text);
    for (to, status) in [("10.0.9.9:5060", Some(403)), ("10.0.9.8:5060", None)] {
        let via = format!("Via: SIP/2.0/UDP {SERVER};branch=z9hG4bKa{to}");
        let outcome = node.receive(addr(SERVER), addr(INSIDE), &request("INVITE", &format!("sip:b@{to}"), &[&via]));
        assert_eq!(outcome.status(), status, "{to}: {outcome:?}");
    }
}

/// Frontends may share a backend: a call is counted where it came in.
#[test]
fn a_call_counts_at_its_own_frontend() {
    let other = "203.0.113.10:5090";
    let second = format!(
        "[[frontend]]\nname = \"second\"\nbind = \"udp://{other}\"\ninside = \"10.0.1.10\"\n\
         aliases = [\"sip.example.ng\"]\nbackend = \"pbx\"\n[[backend]]"
    );
    let mut node = Node::new(&CONFIG.replacen("[[backend]]", &second, 1));
    for method in ["INVITE", "REGISTER", "INVITE"] {
        let asked = String::from_utf8(request(method, URI, &[])).unwrap().replace(CALL, method);
        let sent = node.receive(addr(PHONE), addr(other), asked.as_bytes());
        assert!(matches!(sent, Outcome::Sent { .. }), "{sent:?}");
    }
    let counted = |at: usize| {
        let live = &node.snapshot.frontends[at].live;
        (live.sum(|of| &of.calls), live.sum(|of| &of.balanced))
    };
    let of_servers = |counter: fn(&ServerCounters) -> &Counter| -> u64 {
        node.snapshot.servers.iter().map(|server| server.live.counters.sum(counter)).sum()
    };
    let all = (of_servers(|of| &of.calls), of_servers(|of| &of.balanced));
    assert!(all.0 > 0 && all.1 > all.0, "{all:?}");
    assert_eq!([counted(0), counted(1)], [(0, 0), all]);
}
