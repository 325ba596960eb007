//! Any datagram: the parser reads it as the naive one does, and every position it names lies inside.
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/support/model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use trunkline::sip::datagram::classify;

fuzz_target!(|bytes: &[u8]| {
    let _ = classify(bytes);
    if let Err(difference) = model::check_agreement(bytes) {
        panic!("{difference}");
    }
});
