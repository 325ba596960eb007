//! What `tests/instructions.rs` counts under callgrind: what the functions `counted_…` do, call by call.
//! Arguments: how many servers, how many other calls.

mod scene;

use std::hint::black_box;

use scene::{Loaded, Scene, invite};
use trunkline::sip::Message;

#[inline(never)]
fn counted_parse(message: &mut Message, bytes: &[u8]) {
    black_box(message.read(black_box(bytes))).ok();
}

#[inline(never)]
fn counted_pass(scene: &mut Scene, loaded: &Loaded) {
    black_box(scene.pass(black_box(loaded)));
}

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u32>().ok());
    let (Some(servers), Some(calls)) = (numbers.next(), numbers.next()) else { return };
    let mut scene = Box::new(Scene::new(servers as usize, u64::from(calls)));
    counted_parse(&mut Box::default(), &invite());
    let request = scene.load_request();
    counted_pass(&mut scene, &request);
    let ringing = scene.load_response("SIP/2.0 180 Ringing");
    counted_pass(&mut scene, &ringing);
    let response = scene.load_response("SIP/2.0 200 OK");
    counted_pass(&mut scene, &response);
}
