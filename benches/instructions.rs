//! Instructions per message, counted by callgrind: the same on every machine, whatever else it does. The limits are the
//! bars of the project; passing one fails the run.
#![allow(unused_qualifications, reason = "what the macros write is not ours")]

mod scene;

use std::hint::black_box;

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use scene::{Scene, invite};
use trunkline::sip::Message;

/// Instructions that one benchmark may take.
fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    LibraryBenchmarkConfig::default().tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)])).clone()
}

/// The first search of a process asks the processor what it can; that is not the message's.
#[inline(never)]
fn warm_invite() -> Vec<u8> {
    let bytes = invite();
    assert!(Message::parse(&bytes).is_ok());
    bytes
}

#[library_benchmark(config = at_most(1_500))]
#[bench::invite_of_900_bytes(warm_invite())]
fn parse(bytes: Vec<u8>) -> u16 {
    black_box(Message::parse(black_box(&bytes))).map_or(0, |message| message.end)
}

fn request(servers: usize, calls: u64) -> (Scene, usize, trunkline::sip::Flow) {
    let mut scene = Scene::new(servers, calls);
    let (len, flow) = scene.load_request();
    (scene, len, flow)
}

fn response(servers: usize, calls: u64) -> (Scene, usize, trunkline::sip::Flow) {
    let mut scene = Scene::new(servers, calls);
    let (len, flow) = scene.load_response();
    (scene, len, flow)
}

#[library_benchmark(config = at_most(4_000))]
#[bench::three_servers_one_thousand_calls(request(3, 1_000))]
#[bench::three_servers_one_million_calls(request(3, 1_000_000))]
#[bench::one_thousand_servers(request(1_000, 1_000))]
fn whole_request((mut scene, len, flow): (Scene, usize, trunkline::sip::Flow)) -> Scene {
    black_box(scene.pass(black_box(len), black_box(&flow), 0));
    scene
}

#[library_benchmark(config = at_most(2_000))]
#[bench::three_servers_one_thousand_calls(response(3, 1_000))]
#[bench::three_servers_one_million_calls(response(3, 1_000_000))]
#[bench::one_thousand_servers(response(1_000, 1_000))]
fn whole_response((mut scene, len, flow): (Scene, usize, trunkline::sip::Flow)) -> Scene {
    black_box(scene.pass(black_box(len), black_box(&flow), 1));
    scene
}

library_benchmark_group!(name = messages, benchmarks = [parse, whole_request, whole_response]);
main!(library_benchmark_groups = messages);
