//! What is said of a snapshot, without a process.

use std::collections::HashMap;

use super::*;
use crate::config::{Config, key};
use crate::net::host;
use crate::sip::token::NameHash;
use crate::state::server::{Health, ServerState};
use crate::state::snapshot::Ingredients;

const TEXT: &str = "[[frontend]]\nname = \"f\"\nbind = \"udp://127.0.0.1:5060\"\nbackend = \"one\"\n\
    [[frontend.route]]\nmethods = [\"REGISTER\"]\nbackend = \"two\"\n\
    [[backend]]\nname = \"one\"\nbreaker = {}\n[[backend.server]]\nname = \"a\"\naddress = \"udp://127.0.3.1\"\n\
    [[backend.server]]\nname = \"b\"\naddress = \"udp://127.0.3.2\"\n\
    [[backend]]\nname = \"two\"\n[[backend.server]]\nname = \"c\"\naddress = \"udp://127.0.3.3\"\n\
    [[backend]]\nname = \"unused\"\n[[backend.server]]\nname = \"d\"\naddress = \"udp://127.0.3.4\"\n";

/// The report where these servers are so, in the tenth second.
fn report(text: &str, states: &[(&str, ServerState)], turned: &[u64]) -> Report {
    report_at(10, text, states, turned, 10)
}

/// The same at a second in which servers were looked at last in another.
fn report_at(now: u64, text: &str, states: &[(&str, ServerState)], turned: &[u64], looked: u64) -> Report {
    let config = Config::good(text);
    let keys = key::parse(&key::generate(*b"golden route key", [0x22; 16])).unwrap();
    let states: HashMap<_, _> = states.iter().map(|(name, state)| (NameHash::of(name), *state)).collect();
    let host = host::ask(&config, 0);
    let workers = turned.len();
    let snapshot = Snapshot::build(&Ingredients { config: &config, keys, host: &host, states: &states, workers }, None);
    let shared = Shared::new(1_000, workers);
    let second = |n: u64| n * 1_000_000_000;
    turned.iter().enumerate().for_each(|(worker, at)| shared.workers.of(worker).turned.set(second(*at)));
    shared.looked.set(second(looked));
    Report::look(&snapshot, &shared, Time(second(1)), Time(second(now)))
}

fn component(report: &Report, name: &str) -> (Status, String) {
    let component = &report.components[name];
    (component.status, component.error.clone().unwrap_or_default())
}

fn dead(name: &str) -> (&str, ServerState) {
    (name, ServerState { health: Health::Dead, ..ServerState::default() })
}

#[test]
fn all_is_well_where_workers_turn_and_servers_take_calls() {
    let report = report(TEXT, &[], &[9, 10]);
    assert!(report.alive && report.ready);
    let names: Vec<_> = report.components.keys().map(String::as_str).collect();
    assert_eq!(names, ["backend/one", "backend/two", "backend/unused", "control", "sockets", "worker-0", "worker-1"]);
    assert!(report.components.values().all(|component| component.status == Status::Healthy));
    let breakers: Vec<_> = report.circuit_breakers.iter().map(|(name, of)| (name.as_str(), of.state)).collect();
    assert_eq!(breakers, [("one/a", "closed"), ("one/b", "closed")], "of those that have one");
}

#[test]
fn a_worker_that_stands_still_is_no_life() {
    let report_of = |turned: &[u64]| report(TEXT, &[], turned);
    assert!(report_of(&[5, 10]).alive);
    let still = report_of(&[10, 4]);
    assert!(!still.alive && !still.ready);
    assert_eq!(component(&still, "worker-1"), (Status::Unhealthy, "stands still for 6 s".to_owned()));
    assert!(!report_of(&[0]).alive, "one that never turned, nine seconds after the start");
}

#[test]
fn who_looks_at_no_server_is_no_life() {
    assert!(report_at(40, TEXT, &[], &[40], 10).alive, "a long reload");
    let blind = report_at(41, TEXT, &[], &[41], 10);
    assert!(!blind.alive && !blind.ready);
    assert_eq!(component(&blind, "control"), (Status::Unhealthy, "looks at no server for 31 s".to_owned()));
    assert!(report_at(30, TEXT, &[], &[30], 0).alive, "29 seconds after the start");
}

#[test]
fn one_backend_with_one_server_is_enough_to_be_ready() {
    let one_left = report(TEXT, &[dead("one/a"), dead("two/c")], &[10]);
    assert!(one_left.alive && one_left.ready);
    assert_eq!(component(&one_left, "backend/one"), (Status::Degraded, "1 of 2 servers take new calls".to_owned()));
    assert_eq!(component(&one_left, "backend/two"), (Status::Unhealthy, "0 of 1 servers take new calls".to_owned()));
    let down = [dead("one/a"), dead("one/b"), dead("two/c")];
    let none = report(TEXT, &down, &[10]);
    assert!(none.alive && !none.ready, "what no frontend uses does not count");
    let unresolved = report(&TEXT.replace("127.0.3.2", "b.example.ng"), &[], &[10]);
    let said = component(&unresolved, "backend/one");
    assert_eq!(said, (Status::Degraded, "1 of 2 servers take new calls".to_owned()), "a name without an address");
    let open = TEXT.replace("name = \"two\"\n[[", "name = \"two\"\nwhen_all_down = \"forward\"\n[[");
    assert!(report(&open, &down, &[10]).ready, "who sends anyway is ready");
}
