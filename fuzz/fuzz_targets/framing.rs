//! Any stream in any pieces: what is framed is what the naive reader frames of the whole, and nothing is lost before it ends.
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/support/model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use trunkline::sip::MAX_MESSAGE;

fuzz_target!(|bytes: &[u8]| {
    let Some(([limit, pieces @ ..], stream)) = bytes.split_first_chunk::<8>() else { return };
    let max = if *limit == 0 { MAX_MESSAGE } else { usize::from(*limit) * 8 };
    let pieces = pieces.iter().map(|piece| 1 + usize::from(*piece)).cycle().take(stream.len());
    if let Err(difference) = model::framing::check_framing(stream, pieces, max) {
        panic!("{difference}");
    }
});
