//! How many calls a server has and may have: counted by what passes, held by `max_calls` and `max_rate`, in the core without
//! sockets.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use support::calls::{counts, request, response};
use support::core::{INSIDE, Node, OUTSIDE, Outcome, PHONE, addr};
use trunkline::proxy::{Memory, Received, Verdict, decide};
use trunkline::sip::edit::Edits;
use trunkline::sip::token::NameHash;
use trunkline::sip::{Flow, Message};
use trunkline::state::server::{Health, ServerState};
use trunkline::state::snapshot::Ingredients;
use trunkline::state::{Reason, Snapshot, Time};

const URI: &str = "sip:100@sip.example.ng";
const ALGORITHMS: [&str; 6] = ["hash", "roundrobin", "leastconn", "leasttransactions", "random2", "first"];

/// Three servers; `backend` and `server` are lines for each of them.
fn config(backend: &str, server: &str) -> String {
    let mut text = format!(
        "[[frontend]]\nname = \"sip\"\nbind = \"udp://203.0.113.10:5060\"\ninside = \"10.0.1.10\"\nbackend = \"b\"\n\
         [[backend]]\nname = \"b\"\n{backend}\n"
    );
    for n in 1..=3 {
        text += &format!("[[backend.server]]\nname = \"s{n}\"\naddress = \"udp://10.0.10.1{n}:5060\"\n{server}\n");
    }
    text
}

struct Calls {
    node: Node,
}

impl Calls {
    fn new(backend: &str, server: &str) -> Self {
        Self { node: Node::new(&config(backend, server)) }
    }

    fn request(&mut self, method: &str, call: u32, more: &[&str]) -> Outcome {
        let (call, branch) = (format!("Call-ID: c{call}"), format!("z9hG4bK{call}{method}{}", more.len()));
        let via = format!("Via: SIP/2.0/UDP 198.51.100.7:31234;branch={branch};rport");
        let bytes = request(method, URI, &[&[call.as_str(), &via], more].concat());
        self.node.receive(addr(PHONE), addr(OUTSIDE), &bytes)
    }

    fn invite(&mut self, call: u32) -> Outcome {
        self.request("INVITE", call, &[])
    }

    /// The server that a request reached answers it.
    fn answer(&mut self, sent: &Outcome, status: &str) {
        let outcome = self.node.receive(sent.to(), addr(INSIDE), &response(&sent.text(), status, &[]));
        assert_eq!(outcome.to(), addr(PHONE));
    }

    /// How many calls each server has.
    fn calls(&self) -> [i64; 3] {
        ["b/s1", "b/s2", "b/s3"].map(|name| self.node.snapshot.calls_of(NameHash::of(name)).unwrap())
    }

    /// The file is another one now.
    fn reload(&mut self, text: &str) {
        self.node.config = support::core::config(text);
        self.node.renew();
    }

    fn wait(&mut self, seconds: u64) {
        self.node.now = self.node.now + Duration::from_secs(seconds);
        self.node.snapshot.keep_calls(&self.node.memory.shared.pins, self.node.now);
    }
}

/// Refused, by this reason and by no other counter.
fn assert_refused(calls: &mut Calls, call: u32, reason: Reason) {
    let before: HashMap<_, _> = counts(&calls.node.snapshot).into_iter().collect();
    let outcome = calls.invite(call);
    assert_eq!(outcome.status(), Some(503), "{outcome:?}");
    let after = counts(&calls.node.snapshot).into_iter();
    let moved: Vec<_> = after.filter(|(name, count)| before[name] != *count).map(|(name, _)| name).collect();
    assert_eq!(moved, [reason.word()]);
}

#[test]
fn a_call_is_counted_once_and_given_back_by_its_end() {
    let mut calls = Calls::new("balance = \"first\"", "");
    let rings = calls.invite(1);
    assert_eq!(calls.calls(), [1, 0, 0]);
    calls.invite(1);
    calls.answer(&rings, "180 Ringing");
    calls.answer(&rings, "200 OK");
    calls.answer(&rings, "200 OK");
    assert_eq!(calls.calls(), [1, 0, 0], "copies count nothing");
    let tag = "To: <sip:100@sip.example.ng>;tag=t1";
    let again = calls.request("INVITE", 1, &[tag, "CSeq: 2 INVITE"]);
    calls.answer(&again, "488 Not Acceptable Here");
    assert_eq!(calls.calls(), [1, 0, 0], "a refused re-INVITE ends no call");
    let bye = calls.request("BYE", 1, &[tag, "CSeq: 3 BYE"]);
    assert_eq!(calls.calls(), [0, 0, 0], "whatever is answered");
    calls.answer(&bye, "200 OK");
    assert_eq!(calls.calls(), [0, 0, 0]);
    calls.answer(&bye, "200 OK");
    calls.answer(&rings, "200 OK");
    assert_eq!(calls.calls(), [0, 0, 0], "a 200 once more behind the BYE begins nothing");
    let busy = calls.invite(2);
    calls.answer(&busy, "486 Busy Here");
    calls.answer(&busy, "486 Busy Here");
    assert_eq!(calls.calls(), [0, 0, 0]);
}

#[test]
fn what_opens_no_call_is_not_counted_and_not_limited() {
    let mut calls = Calls::new("balance = \"first\"", "max_calls = 1");
    for call in 0..5 {
        let registered = calls.request("REGISTER", call, &[]);
        assert_eq!(calls.node.server_of(&registered), "b/s1");
    }
    assert_eq!(calls.calls(), [0, 0, 0]);
    for call in 10..13 {
        calls.invite(call);
    }
    assert_eq!(calls.calls(), [1, 1, 1]);
    assert!(matches!(calls.request("REGISTER", 20, &[]), Outcome::Sent { .. }), "full of calls, not of registrations");
}

#[test]
fn a_call_that_nobody_ends_is_given_back_when_it_expires() {
    let mut calls = Calls::new("balance = \"first\"\npin = { expire = \"10m\" }", "");
    calls.invite(1);
    let up = calls.invite(2);
    calls.answer(&up, "200 OK");
    calls.wait(179);
    assert_eq!(calls.calls(), [2, 0, 0]);
    calls.wait(3);
    assert_eq!(calls.calls(), [1, 0, 0], "it rang for three minutes and nobody answered");
    calls.wait(600);
    assert_eq!(calls.calls(), [0, 0, 0]);
}

#[test]
fn a_challenged_invite_is_no_call_until_it_comes_again() {
    let mut calls = Calls::new("balance = \"first\"", "max_calls = 1");
    let first = calls.invite(1);
    calls.answer(&first, "401 Unauthorized");
    assert_eq!(calls.calls(), [0, 0, 0]);
    let second = calls.request("INVITE", 1, &["CSeq: 2 INVITE"]);
    assert_eq!((calls.node.server_of(&second).as_str(), calls.calls()), ("b/s1", [1, 0, 0]));
    calls.answer(&first, "401 Unauthorized");
    calls.answer(&second, "180 Ringing");
    assert_eq!(calls.calls(), [1, 0, 0], "a late copy of the challenge ends nothing");
    calls.answer(&first, "401 Unauthorized");
    calls.answer(&second, "200 OK");
    assert_eq!(calls.calls(), [1, 0, 0]);
    // Without a password nobody fills a server.
    for call in 2..100 {
        let stranger = calls.invite(call);
        calls.answer(&stranger, "401 Unauthorized");
    }
    assert_eq!(calls.calls(), [1, 0, 0]);
}

#[test]
fn a_server_s_own_call_is_its_call_until_the_phone_refuses_it() {
    let mut calls = Calls::new("balance = \"first\"", "max_calls = 1");
    let (s2, phone) = (addr("10.0.10.12"), addr(PHONE));
    let via = "Via: SIP/2.0/UDP 10.0.10.12:5060;branch=z9hG4bKs2";
    let out = calls.node.receive(s2, addr(INSIDE), &request("INVITE", &format!("sip:bob@{PHONE}"), &[via]));
    assert_eq!((out.to(), calls.calls()), (phone, [0, 1, 0]));
    let busy = calls.node.receive(phone, addr(OUTSIDE), &response(&out.text(), "486 Busy Here", &[]));
    assert_eq!((busy.to(), calls.calls()), (s2, [0, 0, 0]));
    // Another branch of it is answered: it is a call again.
    calls.node.receive(phone, addr(OUTSIDE), &response(&out.text(), "200 OK", &[]));
    assert_eq!(calls.calls(), [0, 1, 0]);
}

#[test]
fn a_server_s_own_call_that_reached_nobody_is_no_call() {
    let mut calls = Calls::new("balance = \"first\"", "max_calls = 1");
    let s2 = addr("10.0.10.12");
    let via = "Via: SIP/2.0/UDP 10.0.10.12:5060;branch=z9hG4bKs2";
    let invite = request("INVITE", &format!("sip:bob@{PHONE}"), &[via]);
    let Outcome::Sent { passage, .. } = calls.node.receive(s2, addr(INSIDE), &invite) else { panic!("not sent") };
    assert_eq!(calls.calls(), [0, 1, 0]);
    let refused = calls.node.undelivered(s2, addr(INSIDE), &invite, passage);
    assert_eq!((refused.status(), calls.calls()), (Some(503), [0, 0, 0]));
}

#[test]
fn a_call_that_moves_is_counted_where_it_went() {
    let mut calls = Calls::new("balance = \"first\"", "");
    calls.invite(1);
    calls.node.set("b/s1", ServerState { health: Health::Dead, ..ServerState::default() });
    let again = calls.invite(1);
    assert_eq!((calls.node.server_of(&again).as_str(), calls.calls()), ("b/s2", [0, 1, 0]));
}

#[test]
fn a_call_that_could_not_be_sent_is_counted_nowhere() {
    let mut calls = Calls::new("balance = \"first\"", "max_calls = 1");
    let Outcome::Sent { passage, .. } = calls.invite(1) else { panic!("not sent") };
    let bytes = request("INVITE", URI, &["Call-ID: c1", "Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKc1;rport"]);
    let moved = calls.node.undelivered(addr(PHONE), addr(OUTSIDE), &bytes, passage);
    assert_eq!((calls.node.server_of(&moved).as_str(), calls.calls()), ("b/s2", [0, 1, 0]));
    for name in ["b/s1", "b/s3"] {
        calls.node.set(name, ServerState { health: Health::Dead, ..ServerState::default() });
    }
    let Outcome::Sent { passage, .. } = moved else { panic!("not sent") };
    let refused = calls.node.undelivered(addr(PHONE), addr(OUTSIDE), &bytes, passage);
    assert_eq!((refused.status(), calls.calls()), (Some(503), [0, 0, 0]));
}

#[test]
fn who_is_suspected_is_asked_where_nobody_else_is_left() {
    let mut calls = Calls::new("balance = \"first\"", "max_calls = 1");
    calls.node.set("b/s3", ServerState { health: Health::Dead, ..ServerState::default() });
    calls.node.set("b/s2", ServerState { health: Health::Suspect, ..ServerState::default() });
    let Outcome::Sent { passage, .. } = calls.invite(1) else { panic!("not sent") };
    let bytes = request("INVITE", URI, &["Call-ID: c1", "Via: SIP/2.0/UDP 198.51.100.7:31234;branch=z9hG4bKc1;rport"]);
    let moved = calls.node.undelivered(addr(PHONE), addr(OUTSIDE), &bytes, passage);
    assert_eq!((calls.node.server_of(&moved).as_str(), calls.calls()), ("b/s2", [0, 1, 0]));
    calls.node.set("b/s1", ServerState { health: Health::Suspect, ..ServerState::default() });
    let second = calls.invite(2);
    assert_eq!(calls.node.server_of(&second), "b/s1", "nothing but suspects");
}

#[test]
fn what_is_refused_after_the_choice_is_counted_nowhere() {
    let mut calls = Calls::new("balance = \"first\"", "max_calls = 1");
    // With what must be added it is no datagram any more.
    let long = format!("X-Long: {}", "x".repeat(65_000));
    let refused = calls.request("INVITE", 1, &[&long]);
    assert_eq!((refused.status(), calls.calls()), (Some(513), [0, 0, 0]));
    calls.wait(0);
    assert_eq!(calls.node.memory.shared.pins.calls(calls.node.now).count(), 0);
}

/// Every algorithm fills all servers to the brim, none beyond; then it says why it refuses.
#[test]
fn max_calls_is_never_passed_and_the_refusal_has_a_name() {
    for algorithm in ALGORITHMS {
        let mut calls = Calls::new(&format!("balance = \"{algorithm}\""), "max_calls = 7");
        let mut sent = Vec::new();
        for call in 0..21 {
            sent.push(calls.invite(call));
            assert!(matches!(sent.last(), Some(Outcome::Sent { .. })), "{algorithm}: call {call} has room");
            assert!(calls.calls().iter().all(|calls| *calls <= 7), "{algorithm}: {:?}", calls.calls());
        }
        assert_refused(&mut calls, 100, Reason::ServersFull);
        assert_eq!(calls.calls(), [7, 7, 7], "{algorithm}");
        calls.answer(&sent[3], "486 Busy Here");
        assert!(matches!(calls.invite(101), Outcome::Sent { .. }), "{algorithm}: one has ended");
        assert_refused(&mut calls, 102, Reason::ServersFull);
        for name in ["b/s1", "b/s2", "b/s3"] {
            calls.node.set(name, ServerState { health: Health::Dead, ..ServerState::default() });
        }
        assert_refused(&mut calls, 103, Reason::NoServer);
    }
}

#[test]
fn a_full_server_keeps_its_calls_and_its_stick_entries_spill() {
    let mut calls = Calls::new("balance = \"hash\"\nstick = { on = \"source\" }", "max_calls = 2");
    let first = calls.invite(1);
    let own = calls.node.server_of(&first);
    let second = calls.invite(2);
    assert_eq!(calls.node.server_of(&second), own, "by the source");
    let third = calls.invite(3);
    assert_ne!(calls.node.server_of(&third), own, "it is full");
    calls.answer(&first, "200 OK");
    let again = calls.invite(1);
    assert_eq!(calls.node.server_of(&again), own, "its own call is its own");
}

#[test]
fn max_rate_limits_new_calls_and_spills() {
    let mut calls = Calls::new("balance = \"first\"", "max_rate = \"10/s\"");
    // A tenth of a second's worth each.
    for name in ["b/s1", "b/s2", "b/s3"] {
        let sent = calls.invite(calls.calls().iter().sum::<i64>() as u32);
        assert_eq!(calls.node.server_of(&sent), name);
    }
    assert_refused(&mut calls, 50, Reason::ServersFull);
    assert!(matches!(calls.request("REGISTER", 60, &[]), Outcome::Sent { .. }));
    calls.node.now = calls.node.now + Duration::from_millis(100);
    let sent = calls.invite(51);
    assert_eq!(calls.node.server_of(&sent), "b/s1");
    assert_eq!(calls.calls(), [2, 1, 1], "who was over his rate counts nothing");
}

#[test]
fn an_early_answer_counts_for_leasttransactions() {
    let mut calls = Calls::new("balance = \"leasttransactions\"", "");
    // s1 answers at once, the others think.
    let mut served = HashMap::new();
    for call in 0..100 {
        let sent = calls.request("OPTIONS", call, &[]);
        let name = calls.node.server_of(&sent);
        if name == "b/s1" {
            calls.answer(&sent, "200 OK");
        }
        *served.entry(name).or_insert(0) += 1;
    }
    assert_eq!(served, HashMap::from([("b/s1".to_owned(), 98), ("b/s2".to_owned(), 1), ("b/s3".to_owned(), 1)]));
    // Nobody will answer those; they are forgotten.
    (0..200).for_each(|_| calls.wait(1));
    let open = |server: &trunkline::state::snapshot::Server| server.live.transactions.get();
    assert!(calls.node.snapshot.servers.iter().all(|server| open(server) == 0));
}

#[test]
fn a_limit_that_a_reload_takes_away_is_gone() {
    for algorithm in ALGORITHMS {
        let backend = format!("balance = \"{algorithm}\"");
        // With the others' seats closed, or only the first one's.
        for full in [3, 1] {
            let mut calls = Calls::new(&backend, "max_calls = 1");
            (0..full).for_each(|call| drop(calls.invite(call)));
            assert_eq!(calls.calls().iter().sum::<i64>(), i64::from(full), "{algorithm}");
            calls.reload(&config(&backend, ""));
            for call in 10..40 {
                let outcome = calls.invite(call);
                assert!(matches!(outcome, Outcome::Sent { .. }), "{algorithm}, {full} were full: {outcome:?}");
                if algorithm == "first" {
                    assert_eq!(calls.node.server_of(&outcome), "b/s1", "{full} were full");
                }
            }
        }
    }
}

/// The seat of a server that was full opens with the reload: others' calls may spill to it.
#[test]
fn calls_spill_to_who_was_full_before_a_reload_took_his_limit_away() {
    for algorithm in ALGORITHMS {
        let backend = format!("balance = \"{algorithm}\"");
        let mut calls = Calls::new(&backend, "max_calls = 1");
        (0..3).for_each(|call| drop(calls.invite(call)));
        calls.reload(&config(&backend, "").replace(".11:5060\"\n", ".11:5060\"\nmax_rate = \"1/m\"\n"));
        let took: Vec<_> = (10..40).map(|call| calls.invite(call)).collect();
        assert!(took.iter().all(|outcome| matches!(outcome, Outcome::Sent { .. })), "{algorithm}");
        assert_eq!(calls.calls()[0], 2, "{algorithm}: one within its rate");
    }
}

/// A worker that is in the middle of a batch has the old snapshot still, and its limits.
#[test]
fn who_knows_the_limit_of_before_closes_nobody_for_good() {
    let mut calls = Calls::new("balance = \"first\"", "max_calls = 1");
    let Node { keys, host, states, snapshot, .. } = &calls.node;
    let wanted = support::core::config(&config("balance = \"first\"", ""));
    let ingredients = Ingredients { config: &wanted, keys: keys.clone(), host, states, workers: 1 };
    let next = Snapshot::build(&ingredients, Some(snapshot));
    assert!(snapshot.take_call(0, calls.node.now), "it fills the server");
    calls.node.snapshot = next;
    calls.wait(1);
    let sent = calls.invite(1);
    assert_eq!(calls.node.server_of(&sent), "b/s1");
}

/// A server in maintenance that is removed goes at once, and its calls stay in the table for a while: it may be back before
/// they end.
#[test]
fn who_goes_and_comes_back_has_the_calls_that_the_table_holds() {
    let whole = config("balance = \"leastconn\"", "");
    let (without, _) = whole.rsplit_once("[[backend.server]]").unwrap();
    // How many looks for calls that are nobody's come in between.
    for sweeps in [0, 1] {
        let mut calls = Calls::new("balance = \"leastconn\"", "");
        let sent: Vec<_> = (0..30).map(|call| calls.invite(call)).collect();
        sent.iter().for_each(|sent| calls.answer(sent, "200 OK"));
        assert_eq!(calls.calls(), [10, 10, 10]);
        calls.reload(without);
        assert_eq!(calls.node.snapshot.calls_of(NameHash::of("b/s3")), None);
        // One of them is heard of at another server.
        let pin = |calls: &Calls, call: u32| {
            let key = calls.node.snapshot.keys.call(format!("c{call}").as_bytes());
            calls.node.memory.shared.pins.find(key, calls.node.now).unwrap().server
        };
        let of_s3 = (0..30).find(|call| pin(&calls, *call) == NameHash::of("b/s3")).unwrap();
        calls.invite(of_s3);
        (0..sweeps).for_each(|_| calls.wait(1));
        calls.reload(&whole);
        let held = calls.node.memory.shared.pins.calls(calls.node.now).filter(|id| *id == NameHash::of("b/s3")).count();
        assert_eq!((calls.calls()[2], held < 9), (held as i64, sweeps > 0), "after {sweeps} sweeps");
        (0..8).for_each(|_| calls.wait(7_300));
        assert_eq!(calls.node.memory.shared.pins.calls(calls.node.now).count(), 0);
        assert_eq!(calls.calls(), [0, 0, 0], "after {sweeps} sweeps");
    }
}

/// A worker that has the snapshot of before takes a place in the table from a call of a server that it does not know.
#[test]
fn who_does_not_know_a_server_yet_counts_its_calls_nevertheless() {
    let whole = config("balance = \"first\"", "");
    let (without, _) = whole.rsplit_once("[[backend.server]]").unwrap();
    let mut calls = Calls::new("balance = \"first\"", "");
    calls.reload(without);
    let Node { keys, host, snapshot, .. } = &calls.node;
    let wanted = support::core::config(&whole);
    let dead = |name| (NameHash::of(name), ServerState { health: Health::Dead, ..ServerState::default() });
    let states = ["b/s1", "b/s2"].map(dead).into();
    let ingredients = Ingredients { config: &wanted, keys: keys.clone(), host, states: &states, workers: 1 };
    let next = Snapshot::build(&ingredients, Some(snapshot));
    let before = std::mem::replace(&mut calls.node.snapshot, next);
    let sent = calls.invite(1);
    assert_eq!((calls.node.server_of(&sent).as_str(), calls.calls()), ("b/s3", [0, 0, 1]));
    let next = std::mem::replace(&mut calls.node.snapshot, before);
    calls.invite(1);
    calls.node.snapshot = next;
    assert_eq!(calls.calls(), [1, 0, 0]);
}

#[test]
fn a_rate_that_a_reload_raises_counts_at_once() {
    let with = |limits: &str, server: &str| {
        let limits = format!("backend = \"b\"\n[frontend.limits]\n{limits}\n");
        config("", server).replacen("backend = \"b\"\n", &limits, 1)
    };
    let source = |rate| (with(&format!("per_source_rate = \"{rate}\""), ""), 20);
    let server = |rate| (with("", &format!("max_rate = \"{rate}\"")), 3);
    for ((slow, most), (fast, _)) in [(source("10/m"), source("200/s")), (server("1/m"), server("100/s"))] {
        let mut calls = Calls::new("", "");
        calls.reload(&slow);
        let sent = |calls: &mut Calls, from: u32| {
            (from..from + 100).filter(|call| matches!(calls.invite(*call), Outcome::Sent { .. })).count()
        };
        assert_eq!((sent(&mut calls, 0), sent(&mut calls, 100)), (most, 0));
        calls.reload(&fast);
        assert!(sent(&mut calls, 200) > 0, "not as if nothing had been used, but now");
        calls.wait(1);
        assert!(sent(&mut calls, 300) >= 20, "and from now on at its pace");
    }
}

/// Four workers at once against one limit: no two of them give the same place away, and what all of them count together
/// is what the table holds.
#[test]
fn four_workers_never_pass_the_limit_and_lose_no_count() {
    const MAX: i64 = 50;
    const ROUNDS: u32 = 20_000;
    for algorithm in ["hash", "leastconn", "first"] {
        let node = Node::new(&config(&format!("balance = \"{algorithm}\""), &format!("max_calls = {MAX}")));
        let (snapshot, shared, most) = (&node.snapshot, &node.memory.shared, AtomicI64::new(0));
        std::thread::scope(|scope| {
            for worker in 0..4u32 {
                let most = &most;
                scope.spawn(move || {
                    // All workers count as the node's one: only the counters of messages would suffer.
                    let mut memory = Memory::new(Arc::clone(shared), 0);
                    let mut edits = Edits::default();
                    let mut running = std::collections::VecDeque::new();
                    for n in 0..ROUNDS {
                        let id = format!("Call-ID: w{worker}-{n}");
                        let bytes = request("INVITE", URI, &[&id]);
                        let message = Message::parse(&bytes).unwrap();
                        let flow = Flow::of_datagrams(addr(OUTSIDE), addr(PHONE));
                        let received = Received { bytes: &bytes, message: &message, flow: &flow, bind: 0, peer: None };
                        let now = Time(1_000_000_000_000);
                        match decide(received, now, snapshot, &mut memory, &mut edits) {
                            Verdict::Forward { .. } => running.push_back(snapshot.keys.call(&id.as_bytes()[9..])),
                            Verdict::Answer { reason, .. } => assert_eq!(reason, Some(Reason::ServersFull)),
                            Verdict::Drop(reason) => assert_eq!(reason, Reason::AnswerLimited),
                        }
                        for server in &snapshot.servers {
                            most.fetch_max(server.live.calls.get(), Ordering::Relaxed);
                        }
                        if running.len() > 40 {
                            let call = running.pop_front().unwrap();
                            let pin = shared.pins.find(call, now).unwrap();
                            let method = trunkline::sip::Method::Invite;
                            let ended = shared.pins.answered(call, pin.server, method, 486, now, Duration::ZERO);
                            snapshot.count_call(ended, snapshot.server(pin.server).unwrap(), false);
                        }
                    }
                });
            }
        });
        let counted: Vec<_> = snapshot.servers.iter().map(|server| server.live.calls.get()).collect();
        let mut held = vec![0; 3];
        for id in shared.pins.calls(Time(1_000_000_000_000)) {
            held[snapshot.server(id).unwrap()] += 1;
        }
        assert_eq!(counted, held, "{algorithm}");
        assert_eq!(most.into_inner(), MAX, "{algorithm}: full, and not more");
    }
}
