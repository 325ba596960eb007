//! Ten thousand calls of our own clients to our own servers through the real process: none fails, none leaves its server.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::regions::{Net, ROUND, SERVERS, answer, assert_kept, stop};
use trunkline::load::{AnswerReport, CallReport, Generator, GeneratorOptions, Timers, Weather};

/// Runs clients with public and, beside them, clients with private addresses through one balancer.
fn run(net: &Net, timers: Timers, options: impl Fn(SocketAddr) -> GeneratorOptions) -> (Vec<CallReport>, AnswerReport) {
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let answerer = answer(&named, timers);
    let (balancer, at) = net.balance(&addresses, "");
    let clients = [false, true].map(|nat| {
        let mut options = options(at);
        options.habits.nat = nat;
        (options.timers, options.seed) = (timers, options.seed + u64::from(nat));
        Generator::start(options).unwrap()
    });
    let reports = clients.map(|clients| clients.finish().unwrap()).into();
    let answered = stop(answerer);
    balancer.stop();
    (reports, answered)
}

#[test]
fn ten_thousand_calls_keep_their_servers() {
    let net = Net(41);
    let starts = 500 * ROUND;
    let (reports, answered) = run(&net, Timers::default(), |at| net.callers(at, starts, 400.0));
    assert_kept(&reports, &answered, starts);
    assert_eq!(answered.totals().0.refused_total(), starts * 2 / ROUND, "each cancelled call was at one server");
}

#[test]
fn calls_survive_loss_duplicates_and_reordering() {
    let net = Net(42);
    let starts = 50 * ROUND;
    let (reports, answered) = run(&net, Timers::from_t1(Duration::from_millis(200)), |at| GeneratorOptions {
        weather: Weather { lose: 0.05, duplicate: 0.05, reorder: 0.05 },
        ..net.callers(at, starts, 120.0)
    });
    assert_kept(&reports, &answered, starts);
    assert_eq!(answered.totals().0.refused_total(), starts * 2 / ROUND, "each cancelled call was at one server");
    for report in &reports {
        let damage = report.damage;
        assert!(damage.lost > 100 && damage.duplicated > 100 && damage.delayed > 100, "{report}");
    }
}
