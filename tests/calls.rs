//! Ten thousand calls of our own clients to our own servers through the real process: none fails, none leaves its server.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use support::regions::{Net, SERVERS, answer, assert_shares};
use trunkline::load::{AnswerReport, CallReport, Generator, GeneratorOptions, ServerView, Timers, Weather};

/// Of twelve starts eight are calls, one of them cancelled, and two are phones that are called.
const MIX: &str = "call=3,server-bye=2,reinvite=1,server-reinvite=1,cancel=1,phone=2,options=1,register=1";
const ROUND: u64 = 12;

/// Runs clients with public and, beside them, clients with private addresses through one balancer.
fn run(net: &Net, timers: Timers, options: impl Fn(SocketAddr) -> GeneratorOptions) -> (Vec<CallReport>, AnswerReport) {
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let answerer = answer(&named, timers);
    let (balancer, at) = net.balance(&addresses, "", "");
    let clients = [false, true].map(|nat| {
        let mut options = options(at);
        options.habits.nat = nat;
        (options.timers, options.seed) = (timers, options.seed + u64::from(nat));
        Generator::start(options).unwrap()
    });
    let reports = clients.map(|clients| clients.finish().unwrap()).into();
    balancer.stop();
    (reports, answerer.stop().unwrap())
}

/// Checks that everything that was started came to its end, at the server where it began.
fn assert_kept(reports: &[CallReport], answered: &AnswerReport, starts: u64) {
    for report in reports {
        assert!(report.succeeded() && report.total().answered == starts, "{report}\n{answered}");
        assert_eq!((report.misdirected, report.moved, report.not_sent), (0, 0, 0), "{report}");
    }
    assert!(answered.succeeded() && answered.misdirected() == 0, "{answered}");
    // A call that began at two servers would be more than one in these books.
    let rounds = starts * reports.len() as u64 / ROUND;
    let (incoming, to_phones) = answered.totals();
    let booked = (incoming.started, incoming.answered, incoming.refused_total(), to_phones.answered);
    assert_eq!(booked, (rounds * 8, rounds * 7, rounds, rounds * 2), "{answered}");
}

#[test]
fn ten_thousand_calls_keep_their_servers() {
    let net = Net(41);
    let starts = 500 * ROUND;
    let (reports, answered) = run(&net, Timers::default(), |at| net.callers(at, MIX, starts, 400.0));
    assert_kept(&reports, &answered, starts);
    let new_calls = |server: &Arc<ServerView>| (server.name.clone(), server.counters.new_calls.get());
    assert_shares(&answered.servers.iter().map(new_calls).collect::<Vec<_>>());
}

#[test]
fn calls_survive_loss_duplicates_and_reordering() {
    let net = Net(42);
    let starts = 50 * ROUND;
    let (reports, answered) = run(&net, Timers::from_t1(Duration::from_millis(200)), |at| GeneratorOptions {
        weather: Weather { lose: 0.05, duplicate: 0.05, reorder: 0.05 },
        ..net.callers(at, MIX, starts, 120.0)
    });
    assert_kept(&reports, &answered, starts);
    for report in &reports {
        let damage = report.damage;
        assert!(damage.lost > 100 && damage.duplicated > 100 && damage.delayed > 100, "{report}");
    }
}
