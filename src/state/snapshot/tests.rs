//! What a snapshot promises: candidates by state, live sides and tables that survive, names that mean us.

use super::*;
use crate::config::key;
use crate::state::server::{Admin, Health, Rest};

const TEXT: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "udp://0.0.0.0:5070"]
inside = "10.0.1.10"
aliases = ["SIP.example.ng"]
backend = "b"

[[backend]]
name = "b"
stick = { on = "source" }

[[backend.region]]
name = "lagos"
weight = 70
clients = ["10.0.0.0/8"]

[[backend.region]]
name = "abuja"
weight = 30
clients = ["10.1.0.0/16"]

[[backend.server]]
name = "l1"
region = "lagos"
address = "udp://10.0.10.11:5060"

[[backend.server]]
name = "l2"
region = "lagos"
address = "udp://10.0.10.12:5060"

[[backend.server]]
name = "a1"
region = "abuja"
address = "udp://10.1.10.11:5060"

[[backend.server]]
name = "spare"
region = "abuja"
address = "udp://10.1.10.12:5060"
backup = true
"#;

fn keys() -> Keys {
    key::parse(&key::generate([1; 16], [2; 16])).unwrap_or_else(|_| panic!("generated keys are good"))
}

fn build(text: &str, states: &[(&str, ServerState)], previous: Option<&Snapshot>) -> Snapshot {
    let config = Config::good(text);
    let host = Host { interfaces: vec!["192.0.2.77".parse().unwrap()], ..Host::default() };
    let states = states.iter().map(|(name, state)| (NameHash::of(&format!("b/{name}")), *state)).collect();
    Snapshot::build(&Ingredients { config: &config, keys: keys(), host: &host, states: &states, workers: 2 }, previous)
}

fn health(health: Health) -> ServerState {
    ServerState { health, ..ServerState::default() }
}

/// The servers that 2,000 new calls reach.
fn reached(snapshot: &Snapshot) -> Vec<String> {
    let mut names: Vec<_> = (0..2000u32)
        .filter_map(|n| snapshot.backends[0].balance.pick(snapshot.keys.call(&n.to_be_bytes()), None))
        .map(|id| snapshot.servers[snapshot.server(NameHash(id)).unwrap()].name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn new_calls_reach_whom_the_states_allow() {
    let drain = ServerState { admin: Admin::Drain, ..ServerState::default() };
    let maint = ServerState { admin: Admin::Maint, ..ServerState::default() };
    let dead = health(Health::Dead);
    assert_eq!(reached(&build(TEXT, &[], None)), ["b/a1", "b/l1", "b/l2"]);
    assert_eq!(reached(&build(TEXT, &[("l1", drain), ("a1", health(Health::Resting(Rest::Call)))], None)), ["b/l2"]);
    assert_eq!(reached(&build(TEXT, &[("l1", dead), ("l2", dead), ("a1", dead)], None)), ["b/spare"]);
    let suspect = health(Health::Suspect);
    assert_eq!(reached(&build(TEXT, &[("l1", suspect), ("a1", dead)], None)), ["b/l2"], "who is suspected gets none");
    let lost = |spare| [("l1", suspect), ("l2", dead), ("a1", suspect), ("spare", spare)];
    assert_eq!(reached(&build(TEXT, &lost(ServerState::default()), None)), ["b/spare"]);
    assert_eq!(reached(&build(TEXT, &lost(dead), None)), ["b/a1", "b/l1"], "but where nobody else is there");
    assert_eq!(reached(&build(TEXT, &lost(suspect), None)), ["b/a1", "b/l1"]);
    let last = [("l1", dead), ("l2", dead), ("a1", health(Health::Resting(Rest::Check))), ("spare", suspect)];
    assert_eq!(reached(&build(TEXT, &last, None)), ["b/spare"], "who asked for a rest has it");
    let rests = health(Health::Resting(Rest::Call));
    let congested = |spare| [("l1", rests), ("l2", dead), ("a1", rests), ("spare", spare)];
    assert_eq!(reached(&build(TEXT, &congested(ServerState::default()), None)), ["b/spare"]);
    assert_eq!(reached(&build(TEXT, &congested(dead), None)), ["b/a1", "b/l1"], "one call's 503 refuses no other");
    assert!(
        build(TEXT, &last, None).backends[0].takes_new(suspect)
            && !build(TEXT, &[], None).backends[0].takes_new(suspect)
    );
    let open = ServerState { breaker: Circuit::Open, ..suspect };
    assert_eq!(reached(&build(TEXT, &[("l1", open), ("l2", open), ("a1", open), ("spare", dead)], None)), [""; 0]);
    let all = [("l1", dead), ("l2", dead), ("a1", maint), ("spare", dead)];
    assert_eq!(reached(&build(TEXT, &all, None)), [""; 0]);
    assert!(build(TEXT, &all, None).backends[0].lacks_servers());
    let leaving = ServerState { admin: Admin::Leaving, ..ServerState::default() };
    let gone = build(TEXT, &[("l1", leaving), ("l2", leaving), ("a1", leaving), ("spare", leaving)], None);
    assert!(gone.backends[0].balance.is_empty() && !gone.backends[0].lacks_servers(), "nobody should");
    let serving = |text: &str, states: &[(&str, ServerState)]| {
        let snapshot = build(text, states, None);
        let serves = snapshot.serving(&snapshot.backends[0]);
        let servers = snapshot.backends[0].config.servers.iter().filter(|server| serves(server));
        servers.map(|server| server.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(serving(TEXT, &[]), ["l1", "l2", "a1"], "nothing goes to a backup");
    assert_eq!(serving(TEXT, &all[..2]), ["a1"]);
    assert_eq!(serving(TEXT, &all[..3]), ["spare"]);
    let tried = ServerState { breaker: Circuit::HalfOpen, ..ServerState::default() };
    assert_eq!(
        serving(TEXT, &[("l1", tried), ("l2", dead), ("a1", dead)]),
        ["l1", "spare"],
        "trials keep nobody waiting"
    );
    let only_backups = "[[backend.region]]\nname = \"dr\"\n[[backend.server]]\nname = \"d1\"\nregion = \"dr\"\n\
                        backup = true\naddress = \"udp://10.3.10.11:5060\"\n";
    let recovery = TEXT.to_owned() + only_backups;
    assert_eq!(serving(&recovery, &[]), ["l1", "l2", "a1", "d1"], "a region that waits is not lost");
    assert_eq!(serving(&recovery, &[("d1", dead)]), ["l1", "l2", "a1"]);
    let removed = "[[backend.server]]\nname = \"d0\"\nregion = \"dr\"\naddress = \"udp://10.3.10.10:5060\"\n";
    let left = serving(&(recovery + removed), &[("d0", leaving)]);
    assert_eq!(left, ["l1", "l2", "a1", "d1"], "who leaves makes nobody wait");
    // The addresses of a removed frontend stay for longer than the last of its idle servers.
    let mut emptied = Config::good(TEXT);
    emptied.backends[0].servers.clear();
    let (host, states) = (Host::default(), HashMap::new());
    let emptied = Ingredients { config: &emptied, keys: keys(), host: &host, states: &states, workers: 1 };
    let emptied = Snapshot::build(&emptied, None);
    assert!(!emptied.backends[0].lacks_servers(), "nobody is wanted there any more");
    let hosts = ["10.0.10.11", "10.0.10.12", "10.1.10.11", "10.1.10.12"];
    let names = hosts
        .iter()
        .zip('a'..)
        .fold(TEXT.to_owned(), |text, (host, name)| text.replace(host, &format!("{name}.example.ng")));
    assert!(build(&names, &[], None).backends[0].lacks_servers(), "a name of which nothing came yet");
    let open = TEXT.replace("stick =", "when_all_down = \"forward\"\nstick =");
    assert_eq!(reached(&build(&open, &all, None)), ["b/l1", "b/l2"], "fails open, but not to what is in maintenance");
}

#[test]
fn a_region_without_weight_takes_those_that_prefer_it_whoever_else_is_there() {
    let dead = [("l1", health(Health::Dead)), ("l2", health(Health::Dead)), ("spare", health(Health::Dead))];
    let suspected = [("l1", health(Health::Suspect)), ("l2", health(Health::Suspect)), ("spare", health(Health::Dead))];
    // The last of two in its region is dead, too: what the others fall back to must not bring it back.
    let second = "\n[[backend.server]]\nname = \"a2\"\nregion = \"abuja\"\naddress = \"udp://10.1.10.13:5060\"\n";
    let spared = [("l1", health(Health::Dead)), ("l2", health(Health::Dead)), ("a2", health(Health::Dead))];
    let all = [&dead[..], &spared[2..]].concat();
    for (states, others, when) in [
        (&dead[..0], "b/l", "reject"),
        (&suspected, "b/l", "reject"),
        (&dead, "nobody", "reject"),
        (&spared, "b/spare", "reject"),
        (&all, "b/l", "forward"),
    ] {
        let text = TEXT.replace("weight = 30", "weight = 0") + second;
        let text = text.replace("\"spare\"\nregion = \"abuja\"", "\"spare\"\nregion = \"lagos\"");
        let text = text.replace("stick =", &format!("when_all_down = \"{when}\"\nstick ="));
        let states = &[states, &spared[2..]].concat();
        let snapshot = build(&text, states, None);
        let backend = &snapshot.backends[0];
        let of = |client: &str| {
            let prefers = backend.preferred_region(client.parse().unwrap());
            let of = |key: u32| backend.balance.pick(snapshot.keys.call(&key.to_be_bytes()), prefers);
            let name = |id| snapshot.servers[snapshot.server(NameHash(id)).unwrap()].name.as_str();
            let mut names: Vec<_> = (0..50).map(|key| of(key).map_or("nobody", name)).collect();
            names.sort_unstable();
            names.dedup();
            names.join(" ")
        };
        assert_eq!(of("10.1.2.3"), "b/a1", "{states:?}");
        assert!(of("192.0.2.3").starts_with(others), "{states:?}: {}", of("192.0.2.3"));
        assert_eq!(backend.lacks_servers(), others == "nobody", "{states:?}");
    }
}

#[test]
fn who_is_no_trial_call_goes_where_it_went_while_the_breaker_was_open() {
    let state = |breaker| [("l1", ServerState { breaker, ..ServerState::default() })];
    let closed = build(TEXT, &[], None);
    let open = build(TEXT, &state(Circuit::Open), Some(&closed));
    let half_open = build(TEXT, &state(Circuit::HalfOpen), Some(&open));
    assert_eq!(reached(&open), ["b/a1", "b/l2"]);
    let keys: Vec<u64> = (0..2000u32).map(|n| closed.keys.call(&n.to_be_bytes())).collect();
    let picks = |balance: &Balance| -> Vec<_> { keys.iter().map(|key| balance.pick(*key, None)).collect() };
    let [closed, open, half_open] = [&closed, &open, &half_open].map(|snapshot| &snapshot.backends[0]);
    assert_eq!(picks(&half_open.balance), picks(&closed.balance), "its own keys find it");
    assert_eq!(picks(half_open.settled()), picks(&open.balance));
    assert_eq!(half_open.settled().shared_tables(&open.balance), 3, "nothing is computed anew");
    assert_eq!(picks(open.settled()), picks(&open.balance), "where nobody tries there is one balance");
}

#[test]
fn live_sides_survive_a_new_generation_in_another_order() {
    let before = build(TEXT, &[], None);
    before.servers[0].live.counters.of(1).asked.add(7);
    let servers = TEXT.find("[[backend.server]]").unwrap();
    let second = servers + TEXT[servers + 1..].find("[[backend.server]]").unwrap() + 1;
    let third = second + TEXT[second + 1..].find("[[backend.server]]").unwrap() + 1;
    let reordered = [&TEXT[..servers], &TEXT[second..third], &TEXT[servers..second], &TEXT[third..]].concat();
    let after = build(&reordered, &[], Some(&before));
    let moved = after.server(before.servers[0].id).unwrap();
    assert_eq!((moved, after.servers[moved].name.as_str()), (1, "b/l1"));
    assert_eq!(after.servers[moved].live.counters.sum(|c| &c.asked), 7);
    assert!(Arc::ptr_eq(after.backends[0].stick.as_ref().unwrap(), before.backends[0].stick.as_ref().unwrap()));
    assert_eq!(after.backends[0].balance.shared_tables(&before.backends[0].balance), 3, "the order means nothing");
    assert_eq!(after.generation, 2);
}

/// How many of the three tables of the balance (regions, lagos, abuja) a change of the file leaves as they are.
#[test]
fn a_change_rebuilds_the_tables_that_it_touches_and_no_other() {
    let before = build(TEXT, &[], None);
    let kept = |from: &str, to: &str| {
        assert!(TEXT.contains(from), "{from}");
        let after = build(&TEXT.replace(from, to), &[], Some(&before));
        after.backends[0].balance.shared_tables(&before.backends[0].balance)
    };
    assert_eq!(kept("SIP.example.ng", "other.example.ng"), 3);
    assert_eq!(kept("udp://10.0.10.11:5060", "udp://10.0.10.99:5060"), 3, "who is chosen does not hang on addresses");
    assert_eq!(kept("weight = 70", "weight = 50"), 2, "the regions");
    assert_eq!(kept("udp://10.0.10.11:5060\"", "udp://10.0.10.11:5060\"\nweight = 7"), 2, "lagos");
    assert_eq!(kept("udp://10.1.10.11:5060\"", "udp://10.1.10.11:5060\"\nweight = 7"), 2, "abuja");
}

/// What was taken away and written again by reloads is of the size that was written last.
#[test]
fn a_stick_table_that_stays_says_its_size() {
    let with = |stick: &str| TEXT.replace("{ on = \"source\" }", stick);
    let small = with("{ on = \"source\", size = 5000 }");
    let stays = |snapshot: &Snapshot, text: &str| snapshot.backends[0].stick_stays_at(&Config::good(text).backends[0]);
    let without = build(&TEXT.replace("stick = { on = \"source\" }", ""), &[], Some(&build(TEXT, &[], None)));
    let begun = build(&small, &[], Some(&without));
    assert_eq!((stays(&begun, &small), stays(&begun, TEXT)), (None, Some(5000)));
    let reloaded = build(TEXT, &[], Some(&begun));
    assert_eq!((stays(&reloaded, TEXT), stays(&reloaded, &small)), (Some(5000), None));
    assert_eq!(stays(&begun, &with("{ on = \"from-user\", size = 7000 }")), None, "another table");
}

#[test]
fn a_stick_table_survives_but_for_another_kind_of_key() {
    let before = build(TEXT, &[], None);
    let survives = |stick: &str| {
        let after = build(&TEXT.replace("{ on = \"source\" }", stick), &[], Some(&before));
        Arc::ptr_eq(after.backends[0].stick.as_ref().unwrap(), before.backends[0].stick.as_ref().unwrap())
    };
    assert!(survives("{ on = \"source\", expire = \"5m\", size = 2000 }"));
    assert!(!survives("{ on = \"from-user\" }"));
}

#[test]
fn a_weight_of_run_time_counts_instead_of_the_file_s() {
    let weight = |weight| ServerState { weight, ..ServerState::default() };
    assert_eq!(reached(&build(TEXT, &[("l1", weight(Some(0)))], None)), ["b/a1", "b/l2"]);
    let file = TEXT.replace("udp://10.0.10.11:5060\"", "udp://10.0.10.11:5060\"\nweight = 0");
    assert_eq!(reached(&build(&file, &[], None)), ["b/a1", "b/l2"]);
    assert_eq!(reached(&build(&file, &[("l1", weight(Some(1)))], None)), ["b/a1", "b/l1", "b/l2"]);
}

#[test]
fn a_server_that_leaves_is_found_by_its_name_and_gives_way_by_its_address() {
    let leaving = ServerState { admin: Admin::Leaving, ..ServerState::default() };
    // As `l1` looks after it was renamed to `new`.
    let text = TEXT.to_owned()
        + "[[backend.server]]\nname = \"new\"\nregion = \"lagos\"\naddress = \"udp://10.0.10.13:5060\"\n";
    let mut config = Config::good(&text);
    for (old, new) in [(0, 4), (4, 0)] {
        let same = config.backends[0].servers[old].clone();
        let server = &mut config.backends[0].servers[new];
        (server.address, server.sources) = (same.address, same.sources);
        let states = [(same.id, leaving)].into();
        let host = Host::default();
        let ingredients = Ingredients { config: &config, keys: keys(), host: &host, states: &states, workers: 1 };
        let snapshot = Snapshot::build(&ingredients, None);
        assert_eq!(
            snapshot.server_at(&same.address, false),
            Some(new),
            "what comes from the address is the one's that stays"
        );
        assert_eq!(snapshot.server_reached_at(&same.address), Some(new));
        let at = snapshot.server(same.id).unwrap();
        assert!(
            snapshot.servers[at].sends_from(&same.address, false),
            "and the answers to the other's requests are good"
        );
        assert!(!reached(&snapshot).contains(&snapshot.servers[at].name));
    }
}

/// Sockets are known by their lanes: an address that stays keeps its own, whatever comes before it in the file.
#[test]
fn an_address_keeps_its_lane() {
    let lanes = |snapshot: &Snapshot| {
        let lane = |bind: &Bind| {
            assert_eq!(snapshot.bind_of_lane(bind.lane.into()).map(|at| &snapshot.binds[at]), Some(bind));
            (bind.address.port(), bind.lane)
        };
        snapshot.binds.iter().map(lane).collect::<Vec<_>>()
    };
    let before = build(TEXT, &[], None);
    assert_eq!(lanes(&before), [(5060, 0), (5070, 1), (5060, 2)], "the third is inside");
    let other =
        TEXT.replace("[\"udp://203.0.113.10:5060\", ", "[\"udp://203.0.113.10:5080\", \"udp://203.0.113.10:5090\", ");
    let after = build(&other, &[], Some(&before));
    assert_eq!(lanes(&after), [(5080, 3), (5090, 4), (5070, 1), (5080, 5)], "no lane is reused before it is closed");
    assert_eq!((after.bind_of_lane(0), after.bind_of_lane(2), after.bind_of_lane(99)), (None, None, None));
    assert_eq!(lanes(&build(TEXT, &[], Some(&after))), [(5060, 0), (5070, 1), (5060, 2)]);
}

#[test]
fn a_source_prefers_the_region_of_its_longest_network() {
    let snapshot = build(TEXT, &[], None);
    let region = |ip: &str| snapshot.backends[0].preferred_region(ip.parse().unwrap());
    assert_eq!(region("10.1.2.3"), Some(NameHash::of("abuja").0));
    assert_eq!(region("10.2.2.3"), Some(NameHash::of("lagos").0));
    assert_eq!(region("192.0.2.1"), None);
}

#[test]
fn knows_what_means_us() {
    let snapshot = build(
        &TEXT.replace("\"SIP.example.ng\"", "\"SIP.example.ng\", \"192.0.2.99\", \"[2001:db8:f::99]\""),
        &[],
        None,
    );
    let means_us = |text: &str| {
        let uri = Uri::parse(text.as_bytes(), crate::sip::Span::new(0, text.len())).unwrap();
        snapshot.means_us(&uri, text.as_bytes(), "198.51.100.1:5070".parse().unwrap())
    };
    for ours in [
        "sip:203.0.113.10",
        "sip:10.0.1.10:5060",
        "sip:sip.EXAMPLE.ng",
        "sip:sip.example.ng:5070",
        "sip:192.0.2.77:5070",
        "sip:198.51.100.1:5070",
        "sip:192.0.2.99",
        "sip:192.0.2.99:5070;lr",
        "sip:[2001:DB8:f:0::99]",
    ] {
        assert!(means_us(ours), "{ours}");
    }
    for other in [
        "sip:203.0.113.10:5061",
        "sip:192.0.2.77",
        "sip:example.ng",
        "sip:sip.example.ng:9999",
        "sip:10.0.10.11",
        "sip:192.0.2.99:9999",
        "sip:203.0.113.10;transport=tls",
    ] {
        assert!(!means_us(other), "{other}");
    }
}

#[test]
fn a_message_leaves_from_the_address_that_its_token_says() {
    let snapshot = build(TEXT, &[], None);
    let bind = |local: &str| {
        snapshot.bind_for(0, Transport::Udp, &local.parse().unwrap()).map(|at| snapshot.binds[at].address.to_string())
    };
    assert_eq!(bind("10.0.1.10:5060").as_deref(), Some("10.0.1.10:5060"));
    assert_eq!(bind("192.0.2.77:5070").as_deref(), Some("0.0.0.0:5070"));
    assert_eq!(bind("9.9.9.9:5060").as_deref(), Some("203.0.113.10:5060"), "not bound here: the frontend's first");
}

/// The kernel gives what comes to an address to the bind of that address, wherever a wildcard stands in the file.
#[test]
fn a_wildcard_does_not_answer_for_the_address_of_another_frontend() {
    let lan = "[[frontend]]\nname = \"lan\"\nbind = [\"udp://0.0.0.0:5090\", \"udp://192.0.2.78:5070\"]\ninside = \"10.0.1.11\"\n\
               backend = \"b\"\n\n[[backend]]";
    let snapshot = build(&TEXT.replacen("[[backend]]", lan, 1), &[], None);
    let bind = |frontend, local: &str| {
        let at = snapshot.bind_for(frontend, Transport::Udp, &local.parse().unwrap()).unwrap();
        snapshot.binds[at].address.to_string()
    };
    assert_eq!(bind(1, "192.0.2.78:5070"), "192.0.2.78:5070");
    assert_eq!(bind(0, "192.0.2.78:5070"), "192.0.2.78:5070");
    assert_eq!(bind(0, "192.0.2.77:5070"), "0.0.0.0:5070");
}
