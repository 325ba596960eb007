//! The algorithms and limits of the real process: four workers, five servers in three regions, counted at the servers.

mod support;

use std::net::SocketAddr;

use support::process::{Balancer, wait_for};
use support::regions::{Edge, Net, WORKERS, answer, assert_shares, named, stop};
use trunkline::load::{AnswerReport, Answerer, Behaviour, Generator, GeneratorOptions, Mix, Timers};

/// Servers of ours and a balancer before them; `each` are lines for every server.
fn start(net: &Net, backend: &str, each: &str) -> (Answerer, Balancer, SocketAddr) {
    let addresses = net.servers();
    let servers = answer(&named(&addresses), Timers::default());
    let (balancer, at) = net.balance_with(&addresses, backend, each);
    (servers, balancer, at)
}

/// Calls of half a second and nothing else.
fn calls(net: &Net, at: SocketAddr, count: u64, rate: f64) -> GeneratorOptions {
    let mut options = net.callers(at, count, rate);
    options.habits.mix = Mix::parse("call=1").unwrap();
    options
}

/// New calls by server.
fn split(report: &AnswerReport) -> Vec<(String, u64)> {
    report.servers.iter().map(|server| (server.name.clone(), server.counters.new_calls.get())).collect()
}

/// Runs so many calls, of which none may fail, and says where they went.
fn run(net: &Net, backend: &str, each: &str, count: u64, rate: f64) -> Vec<(String, u64)> {
    run_on(net, start(net, backend, each), count, rate)
}

/// The same on these servers and this balancer.
fn run_on(
    net: &Net,
    (servers, balancer, at): (Answerer, Balancer, SocketAddr),
    count: u64,
    rate: f64,
) -> Vec<(String, u64)> {
    let report = Generator::start(calls(net, at, count, rate)).unwrap().finish().unwrap();
    let answered = stop(servers);
    balancer.stop();
    assert!(report.succeeded() && report.total().answered == count, "{report}\n{answered}");
    assert_eq!((report.misdirected, answered.misdirected()), (0, 0), "{report}\n{answered}");
    let split = split(&answered);
    println!("{split:?}");
    assert_eq!(split.iter().map(|(_, calls)| calls).sum::<u64>(), count, "each call was at one server");
    split
}

/// The fewest and the most calls of Lagos' servers, which share its part of the calls.
fn lagos(split: &[(String, u64)]) -> (u64, u64) {
    let here = split.iter().filter(|(name, _)| name.starts_with("lagos")).map(|(_, calls)| *calls);
    (here.clone().min().unwrap(), here.max().unwrap())
}

#[test]
fn roundrobin_is_exact_over_all_workers() {
    let split = run(&Net(81), "balance = \"roundrobin\"", "", 2_000, 400.0);
    assert_shares(&split);
    let (fewest, most) = lagos(&split);
    assert!(most - fewest <= 1, "{split:?}");
}

#[test]
fn leastconn_and_its_kin_split_evenly_inside_a_region() {
    // Calls of one length: nobody gets far ahead. Chance alone would be off by some 40 of 470.
    for (net, algorithm, off) in [(82, "leastconn", 15), (83, "leasttransactions", 60), (84, "random2", 60)] {
        let split = run(&Net(net), &format!("balance = \"{algorithm}\""), "", 2_000, 400.0);
        assert_shares(&split);
        let (fewest, most) = lagos(&split);
        assert!(most - fewest <= off, "{split:?}");
    }
}

#[test]
fn first_fills_servers_in_order_and_spills_what_is_full() {
    // About 75 calls at once, 52 of them in Lagos: one server has room for all of them.
    let first = "balance = \"first\"";
    let split = run(&Net(85), first, "max_calls = 1000", 600, 150.0);
    let of = |split: &[(String, u64)], wanted: &str| split.iter().find(|(name, _)| name == wanted).unwrap().1;
    assert_eq!((of(&split, "lagos-2"), of(&split, "lagos-3")), (0, 0), "{split:?}");
    // Or for 30: the next one takes the rest, and nothing fails. The last one takes what a busy machine makes of it.
    let net = Net(86);
    let addresses = net.servers();
    let (config, at) = net.config(&addresses, &Edge { backend: first, each: "max_calls = 30", ..Edge::default() });
    let (before, last) = config.split_at(config.find("\"lagos-3\"").unwrap());
    let config = format!("{before}{}", last.replace("max_calls = 30", "max_calls = 1000"));
    let servers = answer(&named(&addresses), Timers::default());
    let split = run_on(&net, (servers, Balancer::start(WORKERS, &config), at), 600, 150.0);
    assert!(
        of(&split, "lagos-1") > of(&split, "lagos-2") && of(&split, "lagos-2") > of(&split, "lagos-3"),
        "{split:?}"
    );
    assert!(of(&split, "lagos-2") > 50, "{split:?}");
}

#[test]
fn max_calls_holds_over_all_workers_and_what_is_refused_is_named() {
    const MAX: u64 = 20;
    for (net, algorithm) in [(87, "hash"), (88, "leastconn")] {
        let net = Net(net);
        let (servers, balancer, at) = start(&net, &format!("balance = \"{algorithm}\""), &format!("max_calls = {MAX}"));
        // More than the hundred that there is room for.
        let mut options = calls(&net, at, 1_000, 500.0);
        options.habits.hold = std::time::Duration::from_secs(1);
        let running = Generator::start(options).unwrap();
        let mut most = [0; 5];
        let ended = || running.report().total();
        wait_for("all calls to end", || {
            for (most, server) in most.iter_mut().zip(servers.servers()) {
                *most = server.counters.dialogs.get().max(*most);
            }
            let total = ended();
            total.answered + total.refused_total() >= 1_000
        });
        let report = running.finish().unwrap();
        let answered = stop(servers);
        let total = report.total();
        println!(
            "{algorithm}: at most {most:?} at once, {} answered, {} refused",
            total.answered,
            total.refused_total()
        );
        assert_eq!(most, [MAX; 5], "full, and not more");
        assert_eq!((total.lost, total.answered + total.refused_total()), (0, 1_000), "{report}\n{answered}");
        assert!(total.refused_total() > 100, "{report}");
        balancer.process.signal(nix::sys::signal::Signal::SIGTERM);
        let mut process = balancer.process;
        let said = process.line_with("servers_full=");
        assert!(!said.contains("no_server="), "{said}");
    }
}

#[test]
fn a_server_that_comes_back_starts_slowly() {
    let net = Net(89);
    let check =
        "check = { interval = \"1s\", timeout = \"500ms\", fast_interval = \"200ms\" }\nbalance = \"roundrobin\"";
    let (servers, mut balancer, at) = start(&net, check, "slow_start = \"15s\"");
    let running = Generator::start(calls(&net, at, 60_000, 300.0)).unwrap();
    wait_for("calls to run", || running.report().total().answered > 100);
    let [back, other] = ["lagos-2", "lagos-1"].map(|name| servers.server(name).unwrap());
    back.behave(Behaviour::Closed);
    balancer.process.turns("pbx/lagos-2", "dead");
    back.behave(Behaviour::Normal);
    balancer.process.turns("pbx/lagos-2", "up");
    // How many calls it gets while the other one gets so many.
    let while_other_gets = |count: u64| {
        let (from, seen) = (other.counters.new_calls.get(), back.counters.new_calls.get());
        wait_for("calls go on", || other.counters.new_calls.get() >= from + count);
        back.counters.new_calls.get() - seen
    };
    let at_first = while_other_gets(100);
    let mut later = 0;
    wait_for("it has its share again", || {
        later = while_other_gets(100);
        later >= 98
    });
    println!("beside 100 calls of its neighbour: {at_first} at first, {later} in the end");
    assert!((1..=50).contains(&at_first), "{at_first}");
    running.stop_starting();
    let report = running.finish().unwrap();
    assert_eq!((report.total().lost, report.total().refused_total()), (0, 0), "{report}");
    servers.stop().unwrap();
    balancer.stop();
}
