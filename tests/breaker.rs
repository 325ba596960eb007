//! Breakers in the whole core, in virtual time: a scripted server, what its breaker makes of it, and where calls go.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use support::calls::{request, response};
use support::core::{INSIDE, Node, OUTSIDE, Outcome, PHONE, addr};
use support::lines::{header, param};
use trunkline::proxy::Passage;
use trunkline::sip::token::NameHash;
use trunkline::state::Time;
use trunkline::state::breaker::{Step, Transition, Why};
use trunkline::state::response_times::Timed;
use trunkline::state::server::{Admin, BreakerCounts, Circuit, Health, ServerState};
use trunkline::state::watch::{News, Watch};

const URI: &str = "sip:100@sip.example.ng";
const OURS: &str = "pbx/a";

/// Four servers of one weight.
fn config(keys: &str) -> String {
    let mut text = format!(
        "[[frontend]]\nname = \"sip\"\nbind = \"udp://{OUTSIDE}\"\ninside = \"10.0.1.10\"\nsource_header = \"X-Source\"\n\
         backend = \"pbx\"\n[[backend]]\nname = \"pbx\"\npin = {{ size = 100_000 }}\n{keys}\n"
    );
    for (name, host) in [("a", 11), ("b", 12), ("c", 13), ("d", 14)] {
        text += &format!("[[backend.server]]\nname = \"{name}\"\naddress = \"udp://10.0.10.{host}:5060\"\n");
    }
    text
}

/// One new call: its number, where it went, and what arrived there.
#[derive(Clone)]
struct Call {
    number: u64,
    server: String,
    at: SocketAddr,
    bytes: Vec<u8>,
    arrived: String,
}

/// A node that looks at its servers four times a second.
struct World {
    node: Node,
    watch: Watch,
    calls: u64,
    /// When each breaker moved, since the beginning.
    moves: Vec<(Duration, String, Transition)>,
    held: Vec<Why>,
    silent: Vec<String>,
    begin: Time,
}

impl World {
    fn new(keys: &str) -> Self {
        let node = Node::new(&config(keys));
        let begin = node.now;
        let (watch, moves, held, silent) = Default::default();
        let mut world = Self { node, watch, calls: 0, moves, held, silent, begin };
        world.look();
        world
    }

    fn name(&self, id: NameHash) -> String {
        self.node.snapshot.servers[self.node.snapshot.server(id).unwrap()].name.clone()
    }

    fn look(&mut self) {
        self.node.snapshot.servers.iter().for_each(|server| drop(server.live.take_signs()));
        for (id, news) in self.watch.look(&self.node.snapshot, self.node.now) {
            let name = self.name(id);
            match news {
                News::Silent => self.silent.push(name),
                News::Breaker(Step::Held(why)) => self.held.push(why),
                News::Breaker(Step::Moved(transition)) => self.moved(id, transition),
            }
        }
    }

    fn moved(&mut self, id: NameHash, transition: Transition) {
        self.moves.push((self.node.now.since(self.begin), self.name(id), transition));
        self.node.states.entry(id).or_default().breaker = transition.to;
        self.node.renew();
    }

    fn circuit(&self, server: &str) -> Circuit {
        let at = self.node.snapshot.server(NameHash::of(server)).unwrap();
        self.node.snapshot.servers[at].state.breaker
    }

    fn counts(&self, server: &str) -> BreakerCounts {
        let at = self.node.snapshot.server(NameHash::of(server)).unwrap();
        self.node.snapshot.servers[at].live.breaker_counts()
    }

    /// Time passes, and servers are looked at.
    fn wait(&mut self, millis: u64) {
        for _ in 0..millis / 250 {
            self.node.now = self.node.now + Duration::from_millis(250);
            self.look();
        }
    }

    fn invite(&mut self, lines: &[&str]) -> (u64, Vec<u8>, Outcome) {
        self.send("INVITE", lines)
    }

    /// A request that opens something.
    fn send(&mut self, method: &str, lines: &[&str]) -> (u64, Vec<u8>, Outcome) {
        self.calls += 1;
        let (call_id, via) = (format!("Call-ID: call-{}@phone", self.calls), branch(self.calls));
        let lines: Vec<&str> = [&call_id[..], &via].into_iter().chain(lines.iter().copied()).collect();
        let bytes = request(method, URI, &lines);
        let outcome = self.node.receive(addr(PHONE), addr(OUTSIDE), &bytes);
        (self.calls, bytes, outcome)
    }

    /// A new call.
    fn call(&mut self) -> Call {
        let (number, bytes, outcome) = self.invite(&[]);
        let (server, at, arrived) = (self.node.server_of(&outcome), outcome.to(), outcome.text());
        Call { number, server, at, bytes, arrived }
    }

    /// New calls until one goes to this server; the others are answered.
    fn call_to(&mut self, server: &str) -> Call {
        for _ in 0..1_000 {
            let call = self.call();
            if call.server == server {
                return call;
            }
            self.answer(&call, "180 Ringing");
        }
        panic!("no call goes to {server}");
    }

    /// The server's answer to a call.
    fn answer(&mut self, call: &Call, status: &str) {
        let answer = response(&call.arrived, status, &[]);
        let outcome = self.node.receive(call.at, addr(INSIDE), &answer);
        assert!(matches!(outcome, Outcome::Sent { passage: Passage::ResponseToClient { .. }, .. }), "{outcome:?}");
    }

    /// A request inside an established call.
    fn inside(&mut self, method: &str, call: &Call) -> Call {
        self.calls += 1;
        let lines = [
            format!("Call-ID: call-{}@phone", call.number),
            "To: <sip:100@sip.example.ng>;tag=t1".into(),
            branch(self.calls),
        ];
        let bytes = request(method, URI, &lines.each_ref().map(|line| &line[..]));
        let outcome = self.node.receive(addr(PHONE), addr(OUTSIDE), &bytes);
        let (server, at, arrived) = (self.node.server_of(&outcome), outcome.to(), outcome.text());
        Call { server, at, arrived, bytes, number: call.number }
    }

    /// The walk of a server's breaker, without times.
    fn walk(&self, server: &str) -> Vec<(Circuit, Why)> {
        let of_server = self.moves.iter().filter(|(_, name, _)| name == server);
        of_server.map(|(_, _, transition)| (transition.to, transition.why)).collect()
    }
}

fn branch(number: u64) -> String {
    format!("Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKb{number};rport")
}

/// What the scripted server does with new calls, and when it began.
const SCRIPT: [(u64, bool); 3] = [(0, true), (10, false), (60, true)];

#[test]
fn the_walk_of_a_breaker_under_a_scripted_server() {
    let mut world = World::new("breaker = {}");
    let established: Vec<Call> = (0..40).map(|_| world.call()).filter(|call| call.server == OURS).collect();
    for call in &established {
        world.answer(call, "200 OK");
    }
    let mut own = established.iter().cycle();
    // Ten new calls a second, and its own calls go on.
    let mut sent: BTreeMap<usize, u64> = BTreeMap::new();
    for tenth in 0..1000 {
        let answers = SCRIPT.iter().rfind(|(from, _)| from * 10 <= tenth).unwrap().1;
        let call = world.call();
        if call.server == OURS {
            *sent.entry(world.moves.len()).or_default() += 1;
        }
        if call.server != OURS || answers {
            world.answer(&call, "180 Ringing");
        }
        let again = world.inside("INVITE", own.next().unwrap());
        assert_eq!(again.server, OURS, "its own calls always pass");
        world.answer(&again, "200 OK");
        world.node.now = world.node.now + Duration::from_millis(100);
        if tenth % 5 == 4 {
            world.look();
        }
    }
    println!("{:>8}  {:<9}  {:>10}  why", "seconds", "breaker", "new calls");
    println!("{:>8}  {:<9}  {:>10}", "0.0", "closed", sent.get(&0).unwrap_or(&0));
    for (n, (at, _, Transition { to, why, .. })) in world.moves.iter().enumerate() {
        println!("{:>8.1}  {:<9}  {:>10}  {why}", at.as_secs_f64(), to.word(), sent.get(&(n + 1)).unwrap_or(&0));
    }
    let BreakerCounts { total, failed, rejected } = world.counts(OURS);
    println!("{total} requests that opened something, {failed} failed, {rejected} rejected while half-open");
    let states: Vec<_> = world.walk(OURS).into_iter().map(|(to, _)| to).collect();
    assert_eq!(
        states,
        [Circuit::Open, Circuit::HalfOpen, Circuit::Open, Circuit::HalfOpen, Circuit::Closed],
        "dead from 10 to 60 seconds; the first trial calls find it so"
    );
    let calls = |n: usize| sent.get(&n).copied().unwrap_or_default();
    assert_eq!((calls(1), calls(3)), (0, 0), "open: not one new call");
    assert_eq!(calls(2), 3, "half-open: three and no more");
    assert!((2..=3).contains(&calls(4)), "two that are answered close it");
    assert!(calls(5) > 30, "closed: its share again");
    assert!(rejected > 0 && failed >= 5, "{rejected} {failed}");
    assert!(world.silent.is_empty(), "it spoke all the time");
    let opened_at = world.moves[0].0;
    assert!((15..=20).contains(&opened_at.as_secs()), "five calls, five seconds and a look: {opened_at:?}");
}

#[test]
fn one_callee_that_always_times_out_opens_nothing() {
    // The server speaks for it, soon or at last; even the code of the timeout is no failure unless it is chosen.
    for (first, last) in [("100 Trying", Some("408 Request Timeout")), ("100 Trying", None), ("180 Ringing", None)] {
        let mut world = World::new("breaker = { failures = 1, codes = [500, 503] }");
        for _ in 0..50 {
            let call = world.call_to(OURS);
            world.answer(&call, first);
            world.wait(32_000);
            if let Some(last) = last {
                world.answer(&call, last);
            }
        }
        assert_eq!((world.moves.len(), world.counts(OURS).failed), (0, 0), "{first} {last:?}");
    }
    // One call is one, as often as it is repeated.
    let mut world = World::new("breaker = {}");
    let call = world.call_to(OURS);
    for _ in 0..30 {
        world.node.receive(addr(PHONE), addr(OUTSIDE), &call.bytes);
        world.wait(1_000);
    }
    assert_eq!(world.moves.len(), 0);
    // A server that forwards without a word: the other calls break the row.
    let mut world = World::new("breaker = {}");
    for n in 0..200 {
        let call = world.call_to(OURS);
        if n % 4 == 0 {
            world.answer(&call, "486 Busy Here");
        }
        world.wait(1_000);
    }
    assert_eq!(world.moves.len(), 0);
}

#[test]
fn codes_open_it_in_a_row_and_a_failure_that_is_repeated_is_one() {
    let mut world = World::new("breaker = { codes = [500, 503], failures = 3 }");
    let one = world.call_to(OURS);
    for _ in 0..20 {
        world.answer(&one, "500 Oops");
    }
    for status in ["503 Full", "486 Busy Here", "500 Oops", "503 Full", "100 Trying", "404 Not Found"] {
        let call = world.call_to(OURS);
        world.answer(&call, status);
    }
    world.wait(1_000);
    assert_eq!((world.moves.len(), world.counts(OURS).failed), (0, 4));
    world.node.memory.sign_left = false;
    for _ in 0..3 {
        let call = world.call_to(OURS);
        world.answer(&call, "500 Oops");
    }
    assert!(world.node.memory.sign_left, "control is woken");
    world.look();
    assert_eq!(world.walk(OURS), [(Circuit::Open, Why::Failing(3))]);
    // A trial call that fails opens it again, at once.
    world.wait(30_000);
    assert_eq!(world.circuit(OURS), Circuit::HalfOpen);
    let trial = world.call_to(OURS);
    world.answer(&trial, "100 Trying");
    world.wait(1_000);
    assert_eq!(world.circuit(OURS), Circuit::HalfOpen);
    world.node.memory.sign_left = false;
    world.answer(&trial, "503 Full");
    assert!(world.node.memory.sign_left);
    world.look();
    assert_eq!(world.walk(OURS)[2], (Circuit::Open, Why::TrialFailed(503)));
    let live = &world.node.snapshot.servers[world.node.snapshot.server(NameHash::of(OURS)).unwrap()].live;
    assert_eq!(live.trials.let_through(1, true, world.node.now), None, "not by a snapshot of before, either");
}

/// Refuses to send five new calls to a server, as the kernel does after ICMP errors; each goes elsewhere.
fn break_off(world: &mut World, server: &str) {
    for _ in 0..5 {
        let call = world.call_to(server);
        let at = world.node.snapshot.server(NameHash::of(server)).unwrap();
        let passage = Passage::RequestToServer {
            server: at,
            balanced: true,
            why: trunkline::state::tap::Why::Balance,
            method: trunkline::sip::Method::Invite,
            transaction: 0,
        };
        let outcome = world.node.undelivered(addr(PHONE), addr(OUTSIDE), &call.bytes, passage);
        assert_ne!(world.node.server_of(&outcome), server);
    }
}

#[test]
fn no_more_than_half_of_the_weight_is_taken_away_and_a_hand_gives_it_back() {
    let mut world = World::new("breaker = {}");
    for server in ["pbx/a", "pbx/b", "pbx/c"] {
        break_off(&mut world, server);
        world.look();
    }
    let states = ["pbx/a", "pbx/b", "pbx/c", "pbx/d"].map(|server| world.circuit(server));
    assert_eq!(states, [Circuit::Open, Circuit::Open, Circuit::Closed, Circuit::Closed]);
    assert_eq!(world.held, [Why::Unreachable(5)], "said once");
    let reset = |world: &mut World| {
        let (id, now) = (NameHash::of("pbx/a"), world.node.now);
        let transition = world.watch.reset(id, &world.node.snapshot, now);
        transition.into_iter().for_each(|transition| world.moved(id, transition));
        transition
    };
    assert_eq!(reset(&mut world).map(|transition| transition.why), Some(Why::Reset));
    assert_eq!(reset(&mut world), None, "it is closed");
    world.wait(250);
    assert_eq!(world.circuit("pbx/c"), Circuit::Open, "now there is room for it");
    let mut all = World::new("breaker = { max_open = \"100%\" }\nwhen_all_down = \"forward\"");
    for server in ["pbx/a", "pbx/b", "pbx/c"] {
        break_off(&mut all, server);
        all.look();
    }
    assert_eq!(["pbx/a", "pbx/b", "pbx/c"].map(|server| all.circuit(server)), [Circuit::Open; 3]);
}

#[test]
fn failures_of_two_calls_that_are_repeated_in_turn_are_two() {
    let mut world = World::new("breaker = { codes = [500] }");
    let calls = [world.call_to(OURS), world.call_to(OURS), world.call_to(OURS)];
    for _ in 0..10 {
        calls.iter().for_each(|call| world.answer(call, "500 Oops"));
        world.wait(500);
    }
    assert_eq!((world.moves.len(), world.counts(OURS).failed), (0, 3));
    for _ in 0..2 {
        let call = world.call_to(OURS);
        world.answer(&call, "500 Oops");
    }
    world.wait(250);
    assert_eq!(world.walk(OURS), [(Circuit::Open, Why::Failing(5))]);
}

#[test]
fn a_breaker_that_closed_has_forgotten_its_rows_of_codes() {
    let mut world = World::new("breaker = { codes = [500] }");
    let fail = |world: &mut World, calls| {
        for _ in 0..calls {
            let call = world.call_to(OURS);
            world.answer(&call, "500 Oops");
        }
        world.wait(250);
    };
    fail(&mut world, 4);
    assert_eq!(world.moves.len(), 0, "four are no row");
    break_off(&mut world, OURS);
    world.look();
    let (id, now) = (NameHash::of(OURS), world.node.now);
    let closed = world.watch.reset(id, &world.node.snapshot, now).expect("it was open");
    world.moved(id, closed);
    fail(&mut world, 4);
    assert_eq!(world.circuit(OURS), Circuit::Closed, "four are no row now either");
    fail(&mut world, 1);
    assert_eq!(world.walk(OURS).last(), Some(&(Circuit::Open, Why::Failing(5))));
}

#[test]
fn a_breaker_that_leaves_the_configuration_closes() {
    let mut world = World::new("breaker = {}");
    break_off(&mut world, OURS);
    world.look();
    assert_eq!(world.circuit(OURS), Circuit::Open);
    world.node.config = support::core::config(&config(""));
    world.node.renew();
    world.look();
    assert_eq!(world.walk(OURS)[1], (Circuit::Closed, Why::Removed));
}

#[test]
fn a_breaker_that_is_asked_for_later_knows_nothing_of_before() {
    let mut world = World::new("");
    break_off(&mut world, OURS);
    (0..50).for_each(|_| drop(world.call_to(OURS)));
    world.wait(60_000);
    world.node.config = support::core::config(&config("breaker = {}"));
    world.node.renew();
    world.wait(60_000);
    assert_eq!(world.moves.len(), 0);
    (0..5).for_each(|_| drop(world.call_to(OURS)));
    world.wait(6_000);
    assert_eq!(world.walk(OURS), [(Circuit::Open, Why::Unanswered(5))]);
}

#[test]
fn a_server_that_was_removed_and_added_again_between_two_looks_is_another() {
    let mut world = World::new("breaker = {}");
    let again = |world: &mut World| {
        let config = world.node.config.clone();
        world.node.config.backends[0].servers.retain(|server| server.id != NameHash::of(OURS));
        world.node.states.remove(&NameHash::of(OURS));
        world.node.renew();
        world.node.config = config;
        world.node.renew();
    };
    for _ in 0..20 {
        let call = world.call_to(OURS);
        world.answer(&call, "180 Ringing");
    }
    world.wait(250);
    again(&mut world);
    world.wait(250);
    break_off(&mut world, OURS);
    world.look();
    assert_eq!(world.walk(OURS), [(Circuit::Open, Why::Unreachable(5))]);
    again(&mut world);
    let reset = world.watch.reset(NameHash::of(OURS), &world.node.snapshot, world.node.now);
    assert_eq!(reset, None, "the breaker of before is not its own");
    world.wait(60_000);
    assert_eq!(world.moves.len(), 1, "it is closed and its rows are empty");
    break_off(&mut world, OURS);
    world.look();
    assert_eq!(world.walk(OURS)[1..], [(Circuit::Open, Why::Unreachable(5))]);
}

/// Half-open at server a; the others as they are said to be.
fn half_open(keys: &str, others: Health) -> World {
    let mut world = World::new(keys);
    break_off(&mut world, OURS);
    world.wait(30_500);
    assert_eq!(world.circuit(OURS), Circuit::HalfOpen);
    for server in ["pbx/b", "pbx/c", "pbx/d"] {
        world.node.set(server, ServerState { health: others, ..ServerState::default() });
    }
    world
}

#[test]
fn a_reload_while_half_open_that_asks_for_more_trial_calls_gets_them() {
    let mut world = half_open("breaker = {}", Health::Up);
    let trial = |world: &mut World| {
        let call = world.call_to(OURS);
        world.answer(&call, "180 Ringing");
    };
    trial(&mut world);
    world.node.config = support::core::config(&config("breaker = { half_open_max = 5, successes = 5 }"));
    world.node.renew();
    world.wait(250);
    (0..4).for_each(|_| trial(&mut world));
    world.wait(250);
    assert_eq!(world.walk(OURS).last(), Some(&(Circuit::Closed, Why::TrialsSucceeded(5))));
}

/// A MESSAGE to a phone that is gone stays without any answer, which says nothing of the server.
#[test]
fn what_is_no_invite_may_be_a_trial_call_and_its_silence_proves_nothing() {
    let mut world = half_open("breaker = {}", Health::Up);
    let silent = |world: &mut World| {
        let ways = ["MESSAGE", "SUBSCRIBE", "OPTIONS"].into_iter().cycle().take(120);
        let outcomes: Vec<_> = ways.map(|method| world.send(method, &[]).2).collect();
        outcomes.iter().filter(|outcome| world.node.server_of(outcome) == OURS).count()
    };
    assert_eq!((silent(&mut world), silent(&mut world)), (3, 0), "no more than half_open_max");
    world.wait(4_750);
    assert_eq!(silent(&mut world), 0, "their answers may still come");
    world.wait(250);
    assert_eq!((silent(&mut world), world.circuit(OURS)), (3, Circuit::HalfOpen), "their places are free again");
    world.wait(5_000);
    for _ in 0..2 {
        let trial = world.call_to(OURS);
        world.answer(&trial, "180 Ringing");
    }
    world.wait(250);
    assert_eq!(world.circuit(OURS), Circuit::Closed);
}

/// Everything but new calls works: registrations do not bring the calls back.
#[test]
fn who_ignores_calls_is_tried_by_calls() {
    let mut world = World::new("breaker = {}");
    (0..5).for_each(|_| drop(world.call_to(OURS)));
    world.wait(40_000);
    assert_eq!(world.walk(OURS)[0], (Circuit::Open, Why::Unanswered(5)));
    assert_eq!(world.circuit(OURS), Circuit::HalfOpen);
    for _ in 0..40 {
        let (_, _, outcome) = world.send("REGISTER", &[]);
        assert_ne!(world.node.server_of(&outcome), OURS);
    }
    // But where nobody calls any more they do.
    world.wait(30_000);
    let outcomes: Vec<_> = (0..40).map(|_| world.send("REGISTER", &[]).2).collect();
    assert_eq!(outcomes.iter().filter(|outcome| world.node.server_of(outcome) == OURS).count(), 3);
}

/// Nobody calls there: a breaker opens and closes by registrations alone.
#[test]
fn a_registrar_s_breaker_closes_by_what_it_answers() {
    let register = |world: &mut World| {
        let (_, _, outcome) = world.send("REGISTER", &[]);
        let answer = |outcome: &Outcome, status| response(&outcome.text(), status, &[]);
        if let Outcome::Sent { to, .. } = &outcome {
            world.node.receive(*to, addr(INSIDE), &answer(&outcome, "401 Unauthorized"));
        }
        world.wait(250);
        outcome
    };
    for (keys, failing) in [("breaker = {}", 1), ("breaker = { max_open = \"100%\" }", 4)] {
        let mut world = World::new(keys);
        for server in &world.node.snapshot.servers[..failing] {
            server.live.counters.of(0).unreachable.add(5);
        }
        world.look();
        assert_eq!(world.moves.len(), failing, "{keys}");
        let refused = (failing == 4).then_some(503);
        assert_eq!(register(&mut world).status(), refused);
        world.wait(30_000);
        for _ in 0..100 {
            let outcome = register(&mut world);
            assert!(matches!(outcome, Outcome::Sent { .. }), "{keys}: {outcome:?}");
        }
        let servers = ["pbx/a", "pbx/b", "pbx/c", "pbx/d"];
        assert_eq!(servers.map(|server| world.circuit(server)), [Circuit::Closed; 4], "{keys}");
    }
}

#[test]
fn an_answer_with_one_of_codes_fails_any_trial_call() {
    let mut world = half_open("breaker = { codes = [500] }", Health::Up);
    let outcomes: Vec<_> = (0..100).map(|_| world.send("REGISTER", &[]).2).collect();
    let is_trial = |outcome: &&Outcome| world.node.server_of(outcome) == OURS;
    let outcome = outcomes.iter().find(is_trial).expect("one of them is a trial");
    world.node.receive(outcome.to(), addr(INSIDE), &response(&outcome.text(), "500 Oops", &[]));
    world.wait(250);
    assert_eq!(world.walk(OURS).last(), Some(&(Circuit::Open, Why::TrialFailed(500))));
}

#[test]
fn the_last_server_that_takes_new_calls_keeps_them() {
    let usual = ServerState::default();
    for gone in [
        ServerState { admin: Admin::Drain, ..usual },
        ServerState { admin: Admin::Maint, ..usual },
        ServerState { health: Health::Down, ..usual },
        ServerState { weight: Some(0), ..usual },
    ] {
        let mut world = World::new("breaker = {}");
        ["pbx/b", "pbx/c"].iter().for_each(|server| world.node.set(server, gone));
        break_off(&mut world, OURS);
        world.look();
        assert_eq!(world.circuit(OURS), Circuit::Open, "one of two");
        let at = world.node.snapshot.server(NameHash::of("pbx/d")).unwrap();
        for _ in 0..5 {
            let call = world.call_to("pbx/d");
            let passage = Passage::RequestToServer {
                server: at,
                balanced: true,
                why: trunkline::state::tap::Why::Balance,
                method: trunkline::sip::Method::Invite,
                transaction: 0,
            };
            world.node.undelivered(addr(PHONE), addr(OUTSIDE), &call.bytes, passage);
        }
        world.look();
        assert_eq!(
            (world.circuit("pbx/d"), &world.held[..]),
            (Circuit::Closed, &[Why::Unreachable(5)][..]),
            "{gone:?}"
        );
        world.node.set("pbx/b", usual);
        world.wait(250);
        assert_eq!(world.circuit("pbx/d"), Circuit::Closed, "two of three are too many");
        world.node.set("pbx/c", usual);
        world.wait(250);
        assert_eq!(world.circuit("pbx/d"), Circuit::Open, "two of four");
    }
}

#[test]
fn where_only_trial_calls_may_go_the_rest_is_refused_or_sent_anyway() {
    let keys = "breaker = { max_open = \"100%\" }";
    let mut world = half_open(keys, Health::Down);
    let statuses: Vec<_> = (0..5).map(|_| world.invite(&[]).2.status()).collect();
    assert_eq!(statuses, [None, None, None, Some(503), Some(503)]);
    let mut world = half_open(&format!("{keys}\nwhen_all_down = \"forward\""), Health::Down);
    assert!((0..5).all(|_| world.invite(&[]).2.status().is_none()));
}

#[test]
fn a_trial_call_that_is_refused_gives_its_place_back_and_a_retransmission_takes_none() {
    let mut world = half_open("breaker = {}", Health::Up);
    for _ in 0..30 {
        // A lone carriage return may hide a header: refused when its server has been chosen.
        let (_, _, outcome) = world.invite(&["Subject: a\rX-Source: sip:10.0.0.1"]);
        assert_eq!(outcome.status(), Some(400));
    }
    let trial = world.call_to(OURS);
    for _ in 0..10 {
        let again = world.node.receive(addr(PHONE), addr(OUTSIDE), &trial.bytes);
        assert_eq!(world.node.server_of(&again), OURS);
    }
    world.answer(&trial, "180 Ringing");
    let second = world.call_to(OURS);
    world.answer(&second, "180 Ringing");
    world.wait(250);
    assert_eq!(world.circuit(OURS), Circuit::Closed);
}

#[test]
fn backups_take_the_calls_that_are_no_trials() {
    let text = config("breaker = { max_open = \"100%\" }");
    let backup = |name: &str| format!("name = \"{name}\"\nbackup = true\n");
    let text =
        ["b", "c", "d"].iter().fold(text, |text, name| text.replace(&format!("name = \"{name}\"\n"), &backup(name)));
    let mut world = World::new("");
    world.node = Node::new(&text);
    world.look();
    for _ in 0..5 {
        let call = world.call();
        assert_eq!(call.server, OURS);
        let passage = Passage::RequestToServer {
            server: 0,
            balanced: true,
            why: trunkline::state::tap::Why::Balance,
            method: trunkline::sip::Method::Invite,
            transaction: 0,
        };
        world.node.undelivered(addr(PHONE), addr(OUTSIDE), &call.bytes, passage);
    }
    world.look();
    let ours = |world: &mut World| {
        let calls: Vec<_> = (0..60).map(|_| world.call()).collect();
        calls.iter().for_each(|call| world.answer(call, "100 Trying"));
        calls.iter().filter(|call| call.server == OURS).count()
    };
    assert_eq!(ours(&mut world), 0, "the backups serve");
    world.wait(30_500);
    assert_eq!((world.circuit(OURS), ours(&mut world)), (Circuit::HalfOpen, 3));
}

#[test]
fn silence_is_told_apart_from_having_nothing_to_say() {
    let mut world = World::new("suspect = { unanswered = 5, after = \"2s\" }");
    // The last thing that they said were answers, and only ACKs followed.
    let calls: Vec<_> = (0..40).map(|_| world.call()).collect();
    calls.iter().for_each(|call| world.answer(call, "486 Busy Here"));
    world.look();
    for call in calls {
        let ack = request("ACK", URI, &[&format!("Call-ID: call-{}@phone", call.number), &branch(call.number)]);
        assert_eq!(world.node.receive(addr(PHONE), addr(OUTSIDE), &ack).to(), call.at);
    }
    world.wait(60_000);
    assert_eq!(world.silent, [""; 0]);
    for _ in 0..5 {
        world.call_to(OURS);
        world.wait(250);
    }
    world.wait(1_500);
    assert_eq!(world.silent, [OURS]);
}

/// 100, ringing and the end of an INVITE are told apart, and from what answers anything else. A look at two moments shows
/// what was timed between them.
#[test]
fn response_times_are_told_apart_by_what_is_answered() {
    let mut world = World::new("");
    let answers: [&[(u64, &str)]; 3] = [
        &[(10, "100 Trying"), (90, "180 Ringing"), (400, "183 Session Progress"), (1_500, "200 OK")],
        &[(20, "100 Trying"), (200, "486 Busy Here")],
        &[(70_000, "180 Ringing"), (10_000, "200 OK")],
    ];
    let times = |world: &World, timed| {
        let at = world.node.snapshot.server(NameHash::of(OURS)).unwrap();
        world.node.snapshot.servers[at].live.times(&[timed])
    };
    let mut earlier = Timed::ALL.map(|timed| times(&world, timed));
    // In each window, of each kind: how many, and milliseconds together.
    let expected = [
        [(1, 10), (2, 100 + 500), (1, 2_000), (0, 0)],
        [(1, 20), (0, 0), (1, 220), (0, 0)],
        // Nobody waits that long for what rings, but it may be picked up then.
        [(0, 0), (0, 0), (1, 80_000), (0, 0)],
    ];
    for (statuses, expected) in answers.iter().zip(expected) {
        let call = world.call_to(OURS);
        for (millis, status) in *statuses {
            world.node.now = world.node.now + Duration::from_millis(*millis);
            world.answer(&call, status);
        }
        for ((timed, earlier), expected) in Timed::ALL.into_iter().zip(&mut earlier).zip(expected) {
            let now = times(&world, timed);
            let window = now.since(earlier);
            assert_eq!((window.count(), window.total().as_millis()), expected, "{}", timed.word());
            *earlier = now;
        }
    }
    let options = request("OPTIONS", URI, &["Call-ID: other@phone"]);
    let sent = world.node.receive(addr(PHONE), addr(OUTSIDE), &options);
    let server = world.node.server_of(&sent);
    world.node.now = world.node.now + Duration::from_millis(30);
    for status in ["100 Trying", "200 OK"] {
        let answer = response(&sent.text(), status, &[]);
        world.node.receive(sent.to(), addr(INSIDE), &answer);
    }
    let at = world.node.snapshot.server(NameHash::of(&server)).unwrap();
    let other = world.node.snapshot.servers[at].live.times(&[Timed::Other]);
    assert_eq!((other.count(), other.total().as_millis()), (1, 30), "its 100 is no final response");
}

#[test]
fn response_times_are_those_of_first_answers() {
    let mut world = World::new("");
    let mut times = |statuses: &[(u64, &str)], spoil: fn(&str) -> String| {
        let call = world.call_to(OURS);
        let call = Call { arrived: spoil(&call.arrived), ..call };
        for (millis, status) in statuses {
            world.node.now = world.node.now + Duration::from_millis(*millis);
            world.answer(&call, status);
        }
        let at = world.node.snapshot.server(NameHash::of(OURS)).unwrap();
        let times = world.node.snapshot.servers[at].live.response_times();
        (times.count(), times.percentile(100).unwrap_or_default().as_millis() as u64)
    };
    let whole = |text: &str| text.to_owned();
    let upper =
        |text: &str| text.replace(param(header(text, "Via"), "s"), &param(header(text, "Via"), "s").to_uppercase());
    assert_eq!(times(&[(40, "180 Ringing")], whole), (1, 40), "this server says no 100; a bucket ends at 40.96 ms");
    assert_eq!(times(&[(70, "100 Trying"), (900, "180 Ringing"), (3_000, "200 OK")], upper), (2, 81));
    assert_eq!(times(&[(5_000, "180 Ringing"), (5_000, "486 Busy")], whole), (2, 81), "ringing is no first answer now");
    let another_node = |text: &str| {
        let time = trunkline::sip::token::SendTime { node: 8, opens: true, micros: 1_000_000_000 };
        let other = String::from_utf8(time.write().to_vec()).unwrap();
        text.replace(param(header(text, "Via"), "s"), &other)
    };
    assert_eq!(times(&[(5_000, "100 Trying")], another_node), (2, 81));
    assert_eq!(times(&[(65_000, "100 Trying")], whole), (2, 81), "nobody waits that long");
    let without = |text: &str| text.replace(&format!(";s={}", param(header(text, "Via"), "s")), "");
    assert_eq!(times(&[(5_000, "100 Trying")], without), (2, 81));
}
