//! What the real process notices of servers while calls are running.

mod support;

use support::process::wait_for;
use support::regions::{Net, SERVERS, answer};
use trunkline::load::{Behaviour, Generator, Mix, Timers};

/// Checks wait longer than calls do: what is noticed first is noticed by these.
const SELDOM: &str = "check = { interval = \"5s\", timeout = \"4s\", fast_interval = \"200ms\" }";

#[test]
fn a_server_that_hangs_is_suspected_by_its_silence_and_no_call_is_lost() {
    let net = Net(71);
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().zip(addresses).map(|((name, _), address)| (*name, address)).collect();
    let servers = answer(&named, Timers::default());
    let (mut balancer, at) = net.balance(&addresses, SELDOM);
    let mut options = net.callers(at, 6_000, 300.0);
    options.habits.mix = Mix::parse("call=1").unwrap();
    let calls = Generator::start(options).unwrap();
    wait_for("calls to run", || calls.report().total().answered > 100);
    let hung = servers.server("lagos-2").unwrap();
    hung.behave(Behaviour::Silent);
    let suspected = balancer.process.turns("pbx/lagos-2", "suspect");
    assert!(suspected.contains("answers none of the requests"), "{suspected}");
    balancer.process.turns("pbx/lagos-2", "dead");
    let sent = hung.counters.new_calls.get();
    hung.behave(Behaviour::Normal);
    balancer.process.turns("pbx/lagos-2", "up");
    wait_for("it gets calls again", || hung.counters.new_calls.get() > sent);
    let report = calls.finish().unwrap();
    let total = report.total();
    assert_eq!((total.lost, total.refused_total()), (0, 0), "{report}");
    servers.stop().unwrap();
    balancer.stop();
}
