//! Instructions per message, counted by callgrind: the same on every machine, whatever else it does. The limits are the
//! bars of the project; passing one fails the run.
#![allow(unused_qualifications, reason = "what the macros write is not ours")]

mod scene;

use std::hint::black_box;

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use scene::{Loaded, Scene, invite};
use trunkline::sip::Message;

/// Instructions that one benchmark may take.
fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    LibraryBenchmarkConfig::default().tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)])).clone()
}

/// The first search of a process asks the processor what it can; that is not the message's.
#[inline(never)]
fn warm_invite() -> (Vec<u8>, Box<Message>) {
    let bytes = invite();
    let mut message = Box::<Message>::default();
    assert!(message.read(&bytes).is_ok());
    (bytes, message)
}

#[library_benchmark(config = at_most(1_500))]
#[bench::invite_of_900_bytes(warm_invite())]
fn parse((bytes, mut message): (Vec<u8>, Box<Message>)) -> Box<Message> {
    black_box(message.read(black_box(&bytes))).ok();
    message
}

fn request(servers: usize, calls: u64) -> (Box<Scene>, Loaded) {
    let mut scene = Box::new(Scene::new(servers, calls));
    let loaded = scene.load_request();
    (scene, loaded)
}

fn response(servers: usize, calls: u64, status_line: &str) -> (Box<Scene>, Loaded) {
    let mut scene = Box::new(Scene::new(servers, calls));
    let loaded = scene.load_response(status_line);
    (scene, loaded)
}

// The INVITE of a new call.
#[library_benchmark(config = at_most(4_000))]
#[bench::three_servers_one_thousand_calls(request(3, 1_000))]
#[bench::three_servers_one_million_calls(request(3, 1_000_000))]
#[bench::one_thousand_servers(request(1_000, 1_000))]
fn whole_request((mut scene, loaded): (Box<Scene>, Loaded)) -> Box<Scene> {
    black_box(scene.pass(black_box(&loaded)));
    scene
}

// 200 confirms the call's pin; 180 leaves it as it is.
#[library_benchmark(config = at_most(2_000))]
#[bench::three_servers_one_thousand_calls(response(3, 1_000, "SIP/2.0 200 OK"))]
#[bench::three_servers_one_million_calls(response(3, 1_000_000, "SIP/2.0 200 OK"))]
#[bench::one_thousand_servers(response(1_000, 1_000, "SIP/2.0 200 OK"))]
#[bench::ringing(response(3, 1_000, "SIP/2.0 180 Ringing"))]
fn whole_response((mut scene, loaded): (Box<Scene>, Loaded)) -> Box<Scene> {
    black_box(scene.pass(black_box(&loaded)));
    scene
}

library_benchmark_group!(name = messages, benchmarks = [parse, whole_request, whole_response]);
main!(library_benchmark_groups = messages);
