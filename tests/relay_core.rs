//! Mode `relay` without sockets: whose a datagram is, against a model that does the obvious, and who is refused.

mod support;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use support::core::{Node, addr};
use trunkline::proxy::relay::{Verdict, destination, end, relay, relay_back, sweep};
use trunkline::sip::Flow;
use trunkline::sip::token::NameHash;
use trunkline::state::Reason;
use trunkline::state::counters::{Counter, FrontendCounters};
use trunkline::state::flows::FlowTable;
use trunkline::state::server::{Admin, Health, ServerState};

const IDLE: u64 = 30;
const MOST: usize = 6;

/// Two media servers, each with half of the range.
fn media(limits: &str) -> Node {
    node(&format!(
        "[[frontend]]\nname = \"rtp\"\nmode = \"relay\"\nbind = [\"udp://192.0.2.1:10000-10003\", \"udp://0.0.0.0:10004-10007\"]\n\
         backend = \"media\"\nidle = \"{IDLE}s\"\n[frontend.limits]\nmax_flows = {MOST}\n{limits}\n[[backend]]\nname = \"media\"\n\
         [[backend.server]]\nname = \"a\"\naddress = \"udp://10.0.10.21\"\nports = \"10000-10003\"\n\
         [[backend.server]]\nname = \"b\"\naddress = \"udp://10.0.10.22\"\nports = \"10004-10007\"\n"
    ))
}

/// One port, five servers in two regions.
fn five(extra: &str) -> Node {
    let servers: String = (1..=5)
        .map(|n| {
            let region = if n < 4 { "lagos" } else { "abuja" };
            format!(
                "[[backend.server]]\nname = \"s{n}\"\nregion = \"{region}\"\naddress = \"udp://10.0.10.{n}:7000\"\n"
            )
        })
        .collect();
    node(&format!(
        "[[frontend]]\nname = \"f\"\nmode = \"relay\"\nbind = \"udp://192.0.2.1:7000\"\nbackend = \"b\"\n\
         [[backend]]\nname = \"b\"\n{extra}\n[[backend.region]]\nname = \"lagos\"\nweight = 60\n\
         [[backend.region]]\nname = \"abuja\"\nweight = 40\nclients = [\"198.51.100.0/24\"]\n{servers}"
    ))
}

fn node(text: &str) -> Node {
    let mut node = Node::new(text);
    node.memory.flows = FlowTable::new(2000);
    node
}

fn flow(remote: &str, port: u16) -> Flow {
    let local = SocketAddr::new("192.0.2.1".parse().unwrap(), port);
    Flow::of_datagrams(local, addr(remote))
}

/// The decision about one datagram of a client.
fn decide(node: &mut Node, flow: Flow) -> Verdict {
    let bound = |ip: IpAddr| node.snapshot.relay_at(SocketAddr::new(ip, flow.local.port()));
    let bind = bound(flow.local.ip()).or_else(|| bound([0, 0, 0, 0].into())).expect("a port of the relay");
    relay(&flow, bind, node.now, &node.snapshot, &mut node.memory)
}

/// The server that a client's datagram goes to; "" and the reason where it goes nowhere.
fn server(node: &mut Node, flow: Flow) -> (String, Option<Reason>) {
    match decide(node, flow) {
        Verdict::Relay { server, .. } | Verdict::Open { server, .. } => {
            (node.snapshot.servers[server].name.clone(), None)
        }
        Verdict::Drop(reason) => (String::new(), Some(reason)),
    }
}

fn counted(node: &Node, counter: fn(&FrontendCounters) -> &Counter) -> u64 {
    node.snapshot.frontends[0].live.sum(counter)
}

fn wait(node: &mut Node, seconds: u64) {
    node.now = node.now + Duration::from_secs(seconds);
}

fn dead() -> ServerState {
    ServerState { health: Health::Dead, ..ServerState::default() }
}

fn asked(admin: Admin) -> ServerState {
    ServerState { admin, ..ServerState::default() }
}

#[test]
fn each_port_is_its_server_s_and_keeps_its_number() {
    let mut node = media("");
    for (port, name, to) in [
        (10_000, "media/a", "10.0.10.21:10000"),
        (10_003, "media/a", "10.0.10.21:10003"),
        (10_004, "media/b", "10.0.10.22:10004"),
        (10_007, "media/b", "10.0.10.22:10007"),
    ] {
        let Verdict::Open { flow, server } = decide(&mut node, flow("198.51.100.7:4000", port)) else {
            panic!("{port}")
        };
        assert_eq!(node.snapshot.servers[server].name, name);
        assert_eq!(destination(flow, server, &node.snapshot, &node.memory), Some(addr(to)));
    }
}

#[test]
fn a_stranger_at_the_same_port_has_a_flow_of_his_own() {
    let mut node = media("");
    let (client, stranger) = (flow("198.51.100.7:4000", 10_000), flow("203.0.113.66:666", 10_000));
    let Verdict::Open { flow: first, .. } = decide(&mut node, client) else { panic!() };
    let Verdict::Open { flow: second, .. } = decide(&mut node, stranger) else { panic!() };
    // Also the client's own address from another port, and the client at another address of ours.
    let Verdict::Open { flow: third, .. } = decide(&mut node, flow("198.51.100.7:4001", 10_000)) else { panic!() };
    assert!(first != second && third != first && third != second);
    assert_eq!(decide(&mut node, client), Verdict::Relay { flow: first, server: 0 });
    for (at, whose) in [(first, client), (second, stranger)] {
        let back = relay_back(at, node.now, &node.snapshot, &mut node.memory);
        assert_eq!(back, Some((whose, Some(0))), "what the server says to one is for that one");
    }
}

#[test]
fn a_source_s_flows_go_to_one_server_and_sources_to_all() {
    let mut node = five("");
    let mut used: HashMap<String, usize> = HashMap::new();
    for host in 0..200 {
        let of = |node: &mut Node, port: u16| server(node, flow(&format!("203.0.113.{host}:{port}"), 7000)).0;
        let first = of(&mut node, 4000);
        assert!((4001..4005).all(|port| of(&mut node, port) == first), "host {host}");
        *used.entry(first).or_default() += 1;
    }
    assert!(used.len() == 5 && used.values().all(|count| *count > 15), "{used:?}");
    let preferred = server(&mut node, flow("198.51.100.9:4000", 7000)).0;
    assert!(["b/s4", "b/s5"].contains(&preferred.as_str()), "the region that prefers these clients: {preferred}");
}

#[test]
fn flows_leave_a_dead_server_and_stay_on_a_draining_one() {
    let mut node = five("");
    let client = flow("203.0.113.9:4000", 7000);
    let first = server(&mut node, client).0;
    node.set(&first, asked(Admin::Drain));
    assert_eq!(server(&mut node, client).0, first, "drain: the flow ends by itself");
    let other = server(&mut node, flow("203.0.113.9:4001", 7000)).0;
    assert_ne!(other, first, "drain: nothing new");
    for state in [dead(), asked(Admin::Maint)] {
        node.set(&first, ServerState::default());
        wait(&mut node, 3600);
        sweep(node.now, &node.snapshot, &mut node.memory, |_| {});
        assert_eq!(server(&mut node, client).0, first);
        node.set(&first, state);
        let Verdict::Open { server: at, .. } = decide(&mut node, client) else { panic!("a new socket is needed") };
        let next = node.snapshot.servers[at].name.clone();
        assert_ne!(next, first, "{state:?}");
        assert!(matches!(decide(&mut node, client), Verdict::Relay { server, .. } if server == at), "it has moved");
        node.set(&first, ServerState::default());
        assert_eq!(server(&mut node, client).0, next, "and does not move back");
    }
    (1..=5).for_each(|n| node.set(&format!("b/s{n}"), dead()));
    assert_eq!(server(&mut node, client).1, Some(Reason::NoServer));
}

#[test]
fn flows_that_are_sent_to_the_dead_all_the_same_stay_with_them() {
    for stick in ["", "stick = { on = \"source\" }\n"] {
        let mut node = five(&format!("balance = \"roundrobin\"\nwhen_all_down = \"forward\"\n{stick}"));
        (1..=5).for_each(|n| node.set(&format!("b/s{n}"), dead()));
        let client = flow("203.0.113.9:4000", 7000);
        let Verdict::Open { server, .. } = decide(&mut node, client) else { panic!("it is sent") };
        let again = decide(&mut node, client);
        assert!(matches!(again, Verdict::Relay { server: at, .. } if at == server), "{again:?}, {stick}");
        let Verdict::Open { server: beside, .. } = decide(&mut node, flow("203.0.113.9:4001", 7000)) else {
            panic!("new")
        };
        assert_eq!(beside == server, !stick.is_empty(), "{stick}");
    }
}

#[test]
fn who_goes_and_comes_back_has_the_flows_that_are_open() {
    let mut node = five("");
    let config = node.config.clone();
    (0..200).for_each(|host| drop(server(&mut node, flow(&format!("203.0.113.{host}:4000"), 7000))));
    let has = |node: &Node| -> Vec<u64> { node.snapshot.servers.iter().map(|server| server.live.flows()).collect() };
    let before = has(&node);
    assert_eq!(before.iter().sum::<u64>(), 200);
    node.config.backends[0].servers.remove(0);
    node.renew();
    // Some of its flows move while it is away, and some of all end.
    (0..20).for_each(|host| drop(server(&mut node, flow(&format!("203.0.113.{host}:4000"), 7000))));
    (100..150).for_each(|at| end(at, &node.snapshot, &mut node.memory));
    node.config = config;
    node.renew();
    assert_eq!(has(&node).iter().sum::<u64>(), 150);
    assert!(0 < has(&node)[0] && has(&node)[0] < before[0], "{before:?} {:?}", has(&node));
    (0..200).for_each(|at| end(at, &node.snapshot, &mut node.memory));
    assert_eq!(has(&node), [0; 5]);
    (0..200).for_each(|host| drop(server(&mut node, flow(&format!("203.0.113.{host}:4000"), 7000))));
    assert_eq!(has(&node), before);
}

#[test]
fn the_stick_table_remembers_where_a_source_was() {
    let mut node = five("stick = { on = \"source\", expire = \"60s\" }");
    let first = server(&mut node, flow("203.0.113.9:4000", 7000)).0;
    node.set(&first, dead());
    let second = server(&mut node, flow("203.0.113.9:4001", 7000)).0;
    node.set(&first, ServerState::default());
    assert_ne!(first, second);
    assert_eq!(
        server(&mut node, flow("203.0.113.9:4002", 7000)).0,
        second,
        "new flows follow the source's last server"
    );
    // A flow in use keeps its source in the table.
    for _ in 0..10 {
        wait(&mut node, 30);
        assert_eq!(server(&mut node, flow("203.0.113.9:4002", 7000)).0, second);
        sweep(node.now, &node.snapshot, &mut node.memory, |_| {});
    }
    assert_eq!(server(&mut node, flow("203.0.113.9:4003", 7000)).0, second);
    wait(&mut node, 3600);
    sweep(node.now, &node.snapshot, &mut node.memory, |_| {});
    assert_eq!(server(&mut node, flow("203.0.113.9:4004", 7000)).0, first, "forgotten: the balance decides again");
}

#[test]
fn while_all_are_suspected_a_source_stays_and_a_port_has_its_server() {
    let mut node = five("stick = { on = \"source\" }");
    let of = |node: &mut Node, port: u16| server(node, flow(&format!("203.0.113.9:{port}"), 7000)).0;
    let first = of(&mut node, 4000);
    node.set(&first, dead());
    let second = of(&mut node, 4001);
    let suspect = ServerState { health: Health::Suspect, ..ServerState::default() };
    (1..=5).for_each(|n| node.set(&format!("b/s{n}"), suspect));
    assert_eq!(of(&mut node, 4002), second, "the hash speaks for {first}");
    node.set(&first, ServerState::default());
    assert_eq!(of(&mut node, 4003), first, "one is above suspicion");
    let mut node = media("");
    node.set("media/a", suspect);
    assert_eq!(server(&mut node, flow("198.51.100.7:4000", 10_000)).0, "media/a", "nobody else has its port");
    node.set("media/a", asked(Admin::Drain));
    assert_eq!(server(&mut node, flow("198.51.100.7:4001", 10_000)).1, Some(Reason::NoServer));
}

/// What servers may have, and how busy they are, is the same for flows of datagrams as for connections and calls.
#[test]
fn limits_and_algorithms_count_flows_at_once() {
    let clients =
        |from: usize, to: usize| (from..to).map(|n| flow(&format!("203.0.113.{}:{}", n % 250, 4_000 + n), 7_000));
    let spread = |node: &mut Node, flows: &mut dyn Iterator<Item = Flow>| {
        let mut found: HashMap<String, usize> = HashMap::new();
        flows.for_each(|flow| {
            let (name, reason) = server(node, flow);
            *found.entry(reason.map_or(name, |reason| reason.word().to_owned())).or_default() += 1;
        });
        found
    };
    let limited = |limit: &str, balance: &str| {
        let all = "[[backend.server]]\nname = \"s1\"\naddress = \"udp://10.0.10.1:7000\"\nLIMIT\n\
                   [[backend.server]]\nname = \"s2\"\naddress = \"udp://10.0.10.2:7000\"\nLIMIT\n";
        node(&format!(
            "[[frontend]]\nname = \"f\"\nmode = \"relay\"\nbind = \"udp://192.0.2.1:7000\"\nbackend = \"b\"\n\
             [[backend]]\nname = \"b\"\nbalance = \"{balance}\"\n{}",
            all.replace("LIMIT", limit)
        ))
    };
    let mut full = limited("max_calls = 5", "hash");
    let found = spread(&mut full, &mut clients(0, 100));
    assert_eq!((found["b/s1"], found["b/s2"], found["servers_full"]), (5, 5, 90));
    // What is there goes on although its server is gone and the other one is full.
    full.set("b/s1", dead());
    assert_eq!(spread(&mut full, &mut clients(0, 10))["b/s2"], 10);
    let found = spread(&mut limited("max_calls = 5", "first"), &mut clients(0, 8));
    assert_eq!((found["b/s1"], found["b/s2"]), (5, 3), "first fills one after another");
    let found = spread(&mut limited("", "leastconn"), &mut clients(0, 100));
    assert_eq!((found["b/s1"], found["b/s2"]), (50, 50), "each flow is known to the next one's choice");
    let found = spread(&mut limited("max_rate = \"10/s\"", "hash"), &mut clients(0, 100));
    assert!(found["servers_full"] > 90, "{found:?}");
}

#[test]
fn who_is_refused_and_why() {
    let mut node = media(
        "deny = [\"203.0.113.0/24\"]\nper_source_rate = \"1/m\"\nper_source_burst = 2\ntrusted = [\"10.7.0.0/16\"]",
    );
    for (remote, port, reason) in [
        ("203.0.113.5:4000", 10_000, Some(Reason::Denied)),
        ("0.0.0.0:4000", 10_000, Some(Reason::BadSource)),
        ("198.51.100.7:0", 10_000, Some(Reason::BadSource)),
        // Ourselves, and the server itself: they would answer each other for ever.
        ("192.0.2.1:10002", 10_000, Some(Reason::BadSource)),
        ("10.0.10.21:10000", 10_000, Some(Reason::BadSource)),
        ("10.0.10.21:10002", 10_000, None),
        ("198.51.100.7:4000", 10_000, None),
        ("198.51.100.7:4001", 10_000, None),
        ("198.51.100.7:4002", 10_000, Some(Reason::RateLimited)),
        // A flow that is open is not counted again.
        ("198.51.100.7:4001", 10_000, None),
        ("10.7.0.1:1", 10_005, None),
        ("10.7.0.1:2", 10_005, None),
        ("10.7.0.1:3", 10_005, None),
        ("10.7.0.1:4", 10_005, Some(Reason::FlowsFull)),
    ] {
        assert_eq!(server(&mut node, flow(remote, port)).1, reason, "{remote} to {port}");
    }
    node.set("media/b", asked(Admin::Drain));
    assert_eq!(
        server(&mut node, flow("10.7.0.9:1", 10_006)).1,
        Some(Reason::NoServer),
        "no other server has this port"
    );
    assert_eq!(server(&mut node, flow("10.7.0.1:1", 10_005)).1, None);
}

#[test]
fn a_denied_source_s_flows_end_at_the_next_look() {
    let mut node = media("");
    assert_eq!(server(&mut node, flow("203.0.113.5:4000", 10_000)).1, None);
    node.config.frontends[0].limits.deny = vec!["203.0.113.0/24".parse().unwrap()];
    node.renew();
    let mut closed = 0;
    sweep(node.now, &node.snapshot, &mut node.memory, |_| closed += 1);
    assert_eq!((closed, server(&mut node, flow("203.0.113.5:4000", 10_000)).1), (1, Some(Reason::Denied)));
}

/// Which worker has a flow is for its port to say, and whoever is refused may be another's.
#[test]
fn where_a_frontend_is_full_what_a_flood_left_ends_in_every_worker() {
    let mut node = media("");
    let mut closed = 0;
    let mut look = |node: &mut Node| {
        sweep(node.now, &node.snapshot, &mut node.memory, |_| closed += 1);
        closed
    };
    let open = |node: &mut Node, n: u16| server(node, flow(&format!("198.51.100.7:{n}"), 10_000)).1;
    (1..MOST as u16).for_each(|n| assert_eq!(open(&mut node, n), None));
    wait(&mut node, 5);
    assert_eq!(look(&mut node), 0, "there is room");
    assert_eq!(open(&mut node, MOST as u16), None);
    assert_eq!(look(&mut node), MOST - 1, "all that have been silent for five seconds");
    assert_eq!(counted(&node, |c| &c.flows_evicted), MOST as u64 - 1);
}

#[test]
fn flows_of_ports_that_a_reload_took_away_end() {
    let mut node = media("");
    for port in [10_000, 10_004] {
        assert_eq!(server(&mut node, flow("203.0.113.5:4000", port)).1, None);
    }
    node.config.frontends[0].binds.truncate(1);
    node.renew();
    let mut closed = 0;
    sweep(node.now, &node.snapshot, &mut node.memory, |_| closed += 1);
    assert_eq!((closed, node.memory.flows.size().1), (1, 1));
    assert_eq!((counted(&node, |c| &c.flows_opened), counted(&node, |c| &c.flows_closed)), (2, 1));
}

/// What the model knows of a flow.
#[derive(Clone, Copy, Debug)]
struct Known {
    used: u64,
    answered: bool,
}

#[derive(Clone, Debug)]
enum Step {
    FromClient(u16, u16),
    FromServer(u16, u16),
    State(bool, ServerState),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (client, port) = (0u16..4, 10_000u16..10_008);
    let state = prop_oneof![
        3 => Just(ServerState::default()),
        1 => Just(dead()),
        1 => Just(asked(Admin::Drain)),
        1 => Just(asked(Admin::Maint))
    ];
    prop_oneof![
        6 => (client.clone(), port.clone()).prop_map(|(client, port)| Step::FromClient(client, port)),
        3 => (client, port).prop_map(|(client, port)| Step::FromServer(client, port)),
        1 => (any::<bool>(), state).prop_map(|(which, state)| Step::State(which, state)),
        1 => (0u64..20).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_map_of_clients_and_ports(steps in proptest::collection::vec(step(), 1..150)) {
        let mut node = media("");
        let mut model: HashMap<(u16, u16), Known> = HashMap::new();
        let (mut now, mut states) = (0, [ServerState::default(); 2]);
        let of = |(client, port): (u16, u16)| flow(&format!("198.51.100.7:{}", 4000 + client), port);
        for step in steps {
            match step {
                Step::FromClient(client, port) => {
                    let key = (client, port);
                    let owner = usize::from(port >= 10_004);
                    let verdict = decide(&mut node, of(key));
                    let open: Vec<_> = node.memory.flows.positions().filter_map(|at| node.memory.flows.get(at)).copied().collect();
                    if let Some(known) = model.get_mut(&key) {
                        known.used = now;
                        let expected = states[owner].keeps(false, false);
                        prop_assert_eq!(matches!(verdict, Verdict::Relay { server, .. } if server == owner), expected);
                        prop_assert_eq!(verdict == Verdict::Drop(Reason::NoServer), !expected);
                    } else if !states[owner].takes_new() {
                        prop_assert_eq!(verdict, Verdict::Drop(Reason::NoServer));
                    } else {
                        let gone: Vec<_> = model.keys().filter(|key| !open.iter().any(|entry| entry.flow == of(**key))).copied().collect();
                        let may = |known: &Known| !known.answered && now - known.used >= 5;
                        let full = model.len() == MOST;
                        let refused = full && !model.values().any(may);
                        prop_assert_eq!(verdict == Verdict::Drop(Reason::FlowsFull), refused);
                        prop_assert_eq!(gone.len(), usize::from(full && !refused), "one gives way where it must");
                        for key in gone {
                            prop_assert!(may(&model[&key]), "{:?} was in use", model[&key]);
                            model.remove(&key);
                        }
                        if !refused {
                            prop_assert!(matches!(verdict, Verdict::Open { server, .. } if server == owner), "{:?}", verdict);
                            model.insert(key, Known { used: now, answered: false });
                        }
                    }
                }
                Step::FromServer(client, port) => if let Some(known) = model.get_mut(&(client, port)) {
                    let wanted = of((client, port));
                    let at = node.memory.flows.positions().find(|at| node.memory.flows.get(*at).is_some_and(|e| e.flow == wanted));
                    let back = relay_back(at.unwrap(), node.now, &node.snapshot, &mut node.memory);
                    prop_assert_eq!(back.map(|(flow, _)| flow), Some(wanted));
                    *known = Known { used: now, answered: true };
                },
                Step::State(which, state) => {
                    states[usize::from(which)] = state;
                    node.set(if which { "media/b" } else { "media/a" }, state);
                }
                Step::Wait(seconds) => {
                    now += seconds;
                    wait(&mut node, seconds);
                    let mut ended = 0;
                    sweep(node.now, &node.snapshot, &mut node.memory, |_| ended += 1);
                    let (before, full) = (model.len(), model.len() == MOST);
                    let gives_way = |known: &Known| full && !known.answered && now - known.used >= 5;
                    model.retain(|_, known| now - known.used < IDLE && !gives_way(known));
                    prop_assert_eq!(ended, before - model.len());
                }
            }
            let (opened, closed) = (counted(&node, |c| &c.flows_opened), counted(&node, |c| &c.flows_closed));
            prop_assert_eq!((node.memory.flows.size().1, (opened - closed) as usize), (model.len(), model.len()));
        }
    }
}

#[test]
fn names_are_what_flows_remember() {
    let mut node = five("");
    let client = flow("203.0.113.9:4000", 7000);
    let first = server(&mut node, client).0;
    // The same servers in another order: positions change, the flow's server does not.
    node.config.backends[0].servers.reverse();
    node.renew();
    assert_eq!(server(&mut node, client).0, first);
    assert_eq!(node.memory.flows.get(0).map(|entry| entry.server), Some(NameHash::of(&first)));
}
