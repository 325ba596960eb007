//! Times of the deterministic core, part by part. For figures that compare between machines see `instructions`.

mod scene;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use scene::{NOW, Scene, invite, keys};
use trunkline::balance::{Algorithm, Balance, Candidate, Region, SpillBelow};
use trunkline::proxy::Verdict;
use trunkline::sip::token::NameHash;
use trunkline::sip::{Message, Method};
use trunkline::state::pins::Pins;

const SERVERS: usize = 3;
const CALLS: u64 = 1_000;
const EXPIRE: Duration = Duration::from_secs(7200);

fn parse(c: &mut Criterion) {
    let (bytes, mut message) = (invite(), Box::<Message>::default());
    c.bench_function("parse/invite", |b| b.iter(|| message.read(black_box(&bytes)).is_ok()));
}

/// Each step by itself. The request is one of a call that was answered: that of a new call is in `whole`.
fn steps(c: &mut Criterion) {
    let mut scene = Scene::new(SERVERS, CALLS);
    let answered = scene.load_response("SIP/2.0 200 OK");
    scene.pass(&answered);
    let request = scene.load_request_again();
    scene.read(&request);
    c.bench_function("decide/request", |b| b.iter(|| scene.decide(black_box(&request))));
    let Verdict::Forward { end, .. } = scene.decide(&request) else { panic!("not forwarded") };
    c.bench_function("edit/request", |b| b.iter(|| scene.edit(black_box(end))));
    let response = scene.load_response("SIP/2.0 200 OK");
    scene.read(&response);
    c.bench_function("decide/response", |b| b.iter(|| scene.decide(black_box(&response))));
}

/// From bytes to bytes, with the copy that stands for what the kernel does.
fn whole(c: &mut Criterion) {
    let mut scene = Scene::new(SERVERS, CALLS);
    c.bench_function("whole/request", |b| {
        b.iter(|| {
            let request = scene.load_request();
            scene.pass(&request)
        });
    });
}

fn regions(servers: u32) -> Vec<Region> {
    let servers = (0..servers).map(|id| Candidate { id, weight: 100 }).collect();
    vec![Region { id: 1, weight: 100, total: 100, servers }]
}

fn table(c: &mut Criterion) {
    let (keys, spill) = (keys(), SpillBelow(50));
    let build = |regions: &[Region], before| Balance::build(keys.rendezvous(), Algorithm::Hash, regions, spill, before);
    let mut group = c.benchmark_group("table");
    group.sample_size(10);
    let (all, one_less) = (regions(100), regions(99));
    group.bench_function("build/100_servers", |b| b.iter(|| build(black_box(&all), None)));
    let balance = build(&all, None);
    group.bench_function("build/one_of_100_leaves", |b| b.iter(|| build(black_box(&one_less), Some(&balance))));
    let mut key = 0u64;
    group.bench_function("pick", |b| {
        b.iter(|| {
            key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
            balance.pick(black_box(key), None)
        });
    });
}

/// A choice, and what it costs to tell it that a call began and ended.
fn algorithms(c: &mut Criterion) {
    let (keys, spill) = (keys(), SpillBelow(50));
    let mut group = c.benchmark_group("find");
    for servers in [3, 1_000] {
        let regions = regions(servers);
        for (word, algorithm) in Algorithm::ALL {
            let balance = Balance::build(keys.rendezvous(), algorithm, &regions, spill, None);
            let mut key = 0u64;
            group.bench_function(format!("{word}/{servers}_servers"), |b| {
                b.iter(|| {
                    key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let server = balance.find(black_box(key), None, true, |_| true);
                    if algorithm.asks_for_load() {
                        let seat = server.unwrap_or_default() as usize;
                        balance.set(0, seat, Some(1));
                        balance.set(0, seat, Some(0));
                    }
                    server
                });
            });
        }
    }
}

fn pins(c: &mut Criterion) {
    let (pins, server) = (Pins::new(1_000_000), NameHash(7));
    let mut key = 0u64;
    let mut next = move || {
        key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
        key
    };
    c.bench_function("pins/find", |b| b.iter(|| pins.find(next(), NOW)));
    c.bench_function("pins/open", |b| b.iter(|| pins.opened(next(), server, Method::Invite, NOW)));
    c.bench_function("pins/confirm", |b| b.iter(|| pins.answered(next(), server, Method::Invite, 200, NOW, EXPIRE)));
}

criterion_group!(core, parse, steps, whole, table, algorithms, pins);
criterion_main!(core);
