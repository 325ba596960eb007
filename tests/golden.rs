//! The promises of the production file under the golden key: shares, least movement, and nodes that agree, whatever
//! the order of the file, through a restart.

mod support;

use std::collections::HashMap;
use std::net::UdpSocket;

use support::calls::{request, response};
use support::core::{Node, golden_keys};
use support::lines::{header, headers};
use support::nigeria::{NAMES, Nigeria, Picks, file, reordered, without};
use support::process::wait_for;
use support::wire::{heard, via};
use support::workers::bound;
use trunkline::proxy::explain;
use trunkline::state::server::{Health, ServerState};

const CALLS: usize = 100_000;

fn call_id(number: usize) -> String {
    format!("{number:x}-a84b4c76e66710@pc33.sip.example.ng")
}

/// Which server each of the first `count` Call-IDs goes to, by name.
fn picks(node: &Node, count: usize) -> Vec<&str> {
    let keys = golden_keys();
    let pick = |number| {
        let found = explain(&node.snapshot, 0, keys.call(call_id(number).as_bytes()), None).expect("a server");
        node.snapshot.servers[found.server].name.strip_prefix("opensips/").unwrap()
    };
    (0..count).map(pick).collect()
}

/// The same as positions among the servers' names.
fn positions(picks: &[&str]) -> Vec<usize> {
    picks.iter().map(|pick| NAMES.iter().position(|name| name == pick).unwrap()).collect()
}

/// The percentage of the servers whose name begins so.
fn share(picks: &[&str], name: &str) -> f64 {
    picks.iter().filter(|pick| pick.starts_with(name)).count() as f64 * 100.0 / picks.len() as f64
}

#[test]
fn the_production_file_splits_seventy_fifteen_fifteen() {
    let (text, dead) = (file(), ServerState { health: Health::Dead, ..ServerState::default() });
    let mut node = Node::new(&text);
    let shares = |node: &Node| {
        let picks = picks(node, CALLS);
        ["lagos", "abuja", "asaba"].map(|region| share(&picks, region))
    };
    let all = shares(&node);
    println!("Lagos {:.3}, Abuja {:.3}, Asaba {:.3}", all[0], all[1], all[2]);
    for (actual, expected) in all.iter().zip([70.0, 15.0, 15.0]) {
        assert!((actual - expected).abs() < 0.5, "{all:?}");
    }
    NAMES[..3].iter().for_each(|lagos| node.set(&format!("opensips/{lagos}"), dead));
    let rest = shares(&node);
    println!("without Lagos: Abuja {:.3}, Asaba {:.3}", rest[1], rest[2]);
    assert!(rest[0] == 0.0 && rest[1..].iter().all(|share| (share - 50.0).abs() < 0.5), "{rest:?}");
}

#[test]
fn a_server_taken_out_of_the_file_or_dead_moves_its_own_calls_and_no_other() {
    let (text, dead) = (file(), ServerState { health: Health::Dead, ..ServerState::default() });
    let mut node = Node::new(&text);
    let before: Vec<String> = picks(&node, CALLS).into_iter().map(str::to_owned).collect();
    for gone in NAMES {
        let own = before.iter().filter(|pick| *pick == gone).count();
        let name = format!("opensips/{gone}");
        node.set(&name, dead);
        let removed = Node::new(&without(&text, gone));
        for (after, how) in [(picks(&node, CALLS), "dead"), (picks(&removed, CALLS), "removed")] {
            let moved = |(before, after): &(&String, &&str)| before != after;
            let (strangers, moved): (Vec<_>, Vec<_>) =
                before.iter().zip(&after).filter(moved).partition(|(before, _)| *before != gone);
            println!("{gone} {how}: {own} calls of its own, {} moved, {} of others", moved.len(), strangers.len());
            assert_eq!((moved.len(), strangers.len()), (own, 0), "{gone} {how}");
        }
        node.set(&name, ServerState::default());
        assert!(own > CALLS / 10, "{gone} had {own}");
    }
}

/// Sends a MESSAGE with each of these Call-IDs to the n-th node; says who got which.
fn drive(nigeria: &Nigeria, node: u8, client: &UdpSocket, calls: usize) -> Picks {
    const WINDOW: usize = 50;
    let (outside, _) = nigeria.addresses(node);
    let mut picks = Picks::new();
    for start in (0..calls).step_by(WINDOW) {
        for number in start..start + WINDOW {
            let call = format!("Call-ID: {}", call_id(number));
            let message = request("MESSAGE", "sip:100@sip.example.ng", &[&via(client, number), &call]);
            client.send_to(&message, outside).unwrap();
        }
        wait_for("the messages to reach the servers", || {
            let arrived = nigeria.arrived();
            picks.extend(arrived.into_iter().map(|(server, text)| (header(&text, "Call-ID").to_owned(), server)));
            picks.len() == start + WINDOW
        });
    }
    picks
}

#[test]
fn two_processes_agree_on_every_call_whatever_the_order_of_their_files() {
    const KEYS: usize = 5_000;
    let (nigeria, text) = (Nigeria::new(51), file());
    let files = [(1, text.clone()), (4, text.clone()), (2, reordered(&text))];
    assert_ne!(files[2].1, text);
    let nodes: Vec<_> =
        files.iter().zip(1..).map(|((workers, text), node)| nigeria.start(node, *workers, text)).collect();
    let client = bound("127.51.1.1:0");
    let picks: Vec<_> = (1..).zip(&nodes).map(|(node, _)| drive(&nigeria, node, &client, KEYS)).collect();
    let core = Node::new(&text);
    let predicted = positions(&self::picks(&core, KEYS));
    for (node, picks) in picks.iter().enumerate() {
        let disagree = (0..KEYS).filter(|number| picks[&call_id(*number)] != predicted[*number]).count();
        println!("process {node}: {disagree} of {KEYS} calls are elsewhere than predicted");
        assert_eq!((picks.len(), disagree), (KEYS, 0));
    }
    nodes.into_iter().for_each(support::process::Balancer::stop);
}

/// Sends a request of this client and says which server got it, and what.
fn through(nigeria: &Nigeria, client: &UdpSocket, bytes: &[u8]) -> (usize, String) {
    client.send_to(bytes, nigeria.addresses(1).0).unwrap();
    let mut arrived = Vec::new();
    wait_for("the request to reach a server", || {
        arrived.extend(nigeria.arrived());
        !arrived.is_empty()
    });
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    arrived.remove(0)
}

fn invite(client: &UdpSocket, call_id: &str, lines: &[&str]) -> Vec<u8> {
    let (via, call) = (via(client, 1), format!("Call-ID: {call_id}"));
    request("INVITE", "sip:100@sip.example.ng", &[&[via.as_str(), call.as_str()], lines].concat())
}

/// The server answers what it got, and the client hears it.
fn answer(nigeria: &Nigeria, (server, forwarded): &(usize, String), status: &str, client: &UdpSocket) {
    let (outside, inside) = nigeria.addresses(1);
    nigeria.servers[*server].send_to(&response(forwarded, status, &[]), inside).unwrap();
    let (text, from) = heard(client, status);
    assert!(text.starts_with(&format!("SIP/2.0 {status}\r\n")) && from == outside, "{text}");
}

fn bye(client: &UdpSocket, call_id: &str, routes: &[String]) -> Vec<u8> {
    let (via, call) = (via(client, 9), format!("Call-ID: {call_id}"));
    let routes: Vec<_> = routes.iter().rev().map(|route| format!("Route: {route}")).collect();
    let mut lines = vec![via.as_str(), &call, "To: <sip:100@sip.example.ng>;tag=t1", "CSeq: 2 BYE"];
    lines.extend(routes.iter().map(String::as_str));
    request("BYE", "sip:100@10.0.10.50", &lines)
}

#[test]
fn a_restarted_process_with_a_reordered_file_honours_the_tokens_of_the_first() {
    let (nigeria, text) = (Nigeria::new(52), file());
    let first = nigeria.start(1, 4, &text);
    let [client, elsewhere] = ["127.52.1.1:0", "127.52.1.2:0"].map(bound);
    // Calls that are not where their Call-IDs would have them: only pin and token know.
    let core = Node::new(&text);
    let by_hash: HashMap<String, usize> = (0..200).map(call_id).zip(positions(&picks(&core, 200))).collect();
    let other = through(&nigeria, &client, &invite(&client, &call_id(0), &[]));
    assert_eq!(other.0, by_hash[&call_id(0)]);
    answer(&nigeria, &other, "200 OK", &client);
    let replaces = format!("Replaces: {};to-tag=t1;from-tag=f1", call_id(0));
    let mut displaced = (1..200).map(call_id).filter(|call_id| by_hash[call_id] != other.0);
    let [answered, ringing] = [(); 2].map(|()| displaced.next().expect("most calls are elsewhere"));
    let [at_answered, at_ringing] = [&answered, &ringing].map(|name| {
        let arrived = through(&nigeria, &client, &invite(&client, name, &[&replaces]));
        assert_eq!(arrived.0, other.0, "it follows the call that it replaces");
        arrived
    });
    answer(&nigeria, &at_answered, "200 OK", &client);
    answer(&nigeria, &at_ringing, "180 Ringing", &client);
    first.stop();

    let second = nigeria.start(1, 2, &reordered(&text));
    let routes: Vec<_> = headers(&at_answered.1, "Record-Route").map(str::to_owned).collect();
    assert_eq!(routes.len(), 2);
    let lost = through(&nigeria, &elsewhere, &bye(&elsewhere, &answered, &[]));
    assert_eq!(lost.0, by_hash[&answered], "without a token nobody knows: the second process has no pins");
    let arrived = through(&nigeria, &elsewhere, &bye(&elsewhere, &answered, &routes));
    assert_eq!(arrived.0, other.0, "the token's server");
    assert_eq!(headers(&arrived.1, "Route").count(), 0);
    answer(&nigeria, &arrived, "200 OK", &elsewhere);
    answer(&nigeria, &at_ringing, "200 OK", &client);
    second.stop();
}
