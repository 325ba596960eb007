//! Floods against live calls: whatever strangers send, a confirmed call finds its server by its Call-ID alone.

mod support;

use std::net::UdpSocket;
use std::time::Duration;

use support::calls::response;
use support::process::wait_for;
use support::wire::{SERVERS, Wire, heard, take};
use trunkline::net::udp::clock;

/// Pins that are asked for; the table holds 2,048.
const PINS: usize = 1_000;
const CALLS: usize = 300;
const FLOOD: usize = 30_000;
/// Outstanding at once: less than the kernel's buffers hold.
const WINDOW: usize = 100;

/// Calls whose server is not the one that the balance would choose: only the pin knows. They name another call in
/// Replaces, and its server gets them.
fn calls_of_one_server(wire: &Wire) -> (usize, Vec<(String, UdpSocket)>) {
    let first = wire.call(wire.client(), "the-first", &[]);
    let make = |number: usize| {
        let name = format!("call-{number}");
        let replaces = "Replaces: the-first;to-tag=t1;from-tag=f1";
        let call = wire.call(wire.client(), &name, &[replaces]);
        assert_eq!(call.server, first.server, "it follows the call that it replaces");
        (name, call.client)
    };
    (first.server, (0..CALLS).map(make).collect())
}

/// Sends so many INVITEs of fresh Call-IDs from many ports; the servers get each, and nobody answers.
fn flood(wire: &Wire) {
    let strangers: Vec<_> = (0..16).map(|_| wire.client()).collect();
    let mut at_servers = 0;
    for start in (0..FLOOD).step_by(WINDOW) {
        wire.expect(&[("requests_to_servers", WINDOW as u64)], "the flood", || {
            for number in start..start + WINDOW {
                let from = &strangers[number % strangers.len()];
                let invite = wire.request(from, "INVITE", &format!("flood-{number}"), number, &[]);
                from.send_to(&invite, wire.outside).unwrap();
            }
        });
        wait_for("the flood to reach the servers", || {
            at_servers += wire.servers.iter().filter_map(take).count();
            at_servers == start + WINDOW
        });
    }
}

/// Re-INVITEs without Route: the number of calls that reached this server.
fn calls_that_find(wire: &Wire, server: usize, calls: &[(String, UdpSocket)]) -> usize {
    let found = |(name, client): &&(String, UdpSocket)| {
        let lines = ["To: <sip:100@sip.example.ng>;tag=t1", "CSeq: 2 INVITE"];
        wire.reaches(client, &wire.request(client, "INVITE", name, 2, &lines)).0 == server
    };
    calls.iter().filter(found).count()
}

#[test]
fn a_flood_of_fresh_calls_evicts_no_confirmed_one() {
    let wire = Wire::new(31, PINS, "");
    let (server, calls) = calls_of_one_server(&wire);
    let evicted = || wire.setup.shared.workers.sum(|worker| &worker.pins_evicted);
    assert_eq!((calls_that_find(&wire, server, &calls), evicted()), (CALLS, 0), "before");
    flood(&wire);
    let (pins, confirmed) = wire.setup.shared.pins.count(clock());
    assert_eq!(confirmed, CALLS + 1, "of {pins} pins");
    assert!(pins > PINS && evicted() > FLOOD as u64 / 2, "the table was full: {pins} pins, {} evicted", evicted());
    assert_eq!(calls_that_find(&wire, server, &calls), CALLS, "after {FLOOD} fresh calls");
}

/// The control: calls that nobody answered do give way, so it is the confirmation that protects.
#[test]
fn a_flood_of_fresh_calls_evicts_unanswered_ones() {
    let wire = Wire::new(32, PINS, "");
    let first = wire.call(wire.client(), "the-first", &[]);
    let ring = |number: usize| {
        let (name, client) = (format!("call-{number}"), wire.client());
        let replaces = "Replaces: the-first;to-tag=t1;from-tag=f1";
        let (server, _) = wire.reaches(&client, &wire.request(&client, "INVITE", &name, 1, &[replaces]));
        assert_eq!(server, first.server);
        (name, client)
    };
    let calls: Vec<_> = (0..CALLS).map(ring).collect();
    assert_eq!(calls_that_find(&wire, first.server, &calls), CALLS, "before");
    // The table tells ages by the second.
    let rung = clock();
    wait_for("a younger second", || clock().since(rung) > Duration::from_secs(2));
    flood(&wire);
    let found = calls_that_find(&wire, first.server, &calls);
    assert!(found < CALLS * 2 / SERVERS, "{found} of {CALLS} unanswered calls outlived the flood");
}

/// Somebody who registered, or was called once, has a Via that the balancer sealed. It confirms his own call only.
#[test]
fn a_flood_of_answers_evicts_nobody() {
    let wire = Wire::new(33, PINS, "");
    let (server, calls) = calls_of_one_server(&wire);
    let phone = wire.client();
    let (registrar, text) = wire.reaches(&phone, &wire.request(&phone, "REGISTER", "registration", 1, &[]));
    let path = support::lines::user(support::lines::header(&text, "Path"));
    let route = format!("Route: <sip:{path}@{};lr>", wire.inside);
    let invite = wire.request(&wire.servers[registrar], "INVITE", "to-the-phone", 1, &[&route]);
    wire.expect(&[("requests_to_clients", 1)], "the call to the phone", || {
        wire.servers[registrar].send_to(&invite, wire.inside).unwrap();
    });
    let (at_phone, _) = heard(&phone, "the call");
    let answer = String::from_utf8(response(&at_phone, "200 OK", &[])).unwrap();
    for start in (0..FLOOD).step_by(WINDOW) {
        wire.expect(&[("forged_response", WINDOW as u64)], "answers of calls that nobody made", || {
            for number in start..start + WINDOW {
                let fresh = answer.replace("to-the-phone", &format!("fresh-{number}"));
                phone.send_to(fresh.as_bytes(), wire.outside).unwrap();
            }
        });
        wire.nobody_hears(&[&phone], "answers of calls that nobody made");
    }
    assert_eq!(calls_that_find(&wire, server, &calls), CALLS, "after {FLOOD} answers");
}
