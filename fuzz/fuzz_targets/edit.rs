//! Any changes to any bytes: in place they give what building anew gives, and the original comes back from what was saved.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::sip::edit::{Edits, HEADROOM};
use trunkline::sip::{MAX_MESSAGE, Span};

/// What stands behind the message in the buffer, and must stay.
const BEHIND: [u8; 16] = [0xee; 16];

/// A replacement as the fuzzer writes it: blanks to skip, bytes to cut, text to write, where in the calls it comes.
struct Change {
    span: Span,
    text: Vec<u8>,
    rank: u8,
}

/// Changes that do not overlap. Insertions may share a place, and stand where something is cut.
fn changes(steps: &[u8], len: usize) -> Vec<Change> {
    let mut at = 0;
    let of = |step: &[u8; 4]| {
        let start = (at + usize::from(step[0] % 32)).min(len);
        let end = (start + usize::from(step[1] % 24)).min(len);
        at = end;
        Change { span: Span::new(start, end), text: vec![step[2]; usize::from(step[2])], rank: step[3] }
    };
    steps.as_chunks::<4>().0.iter().map(of).collect()
}

/// The obviously right way: a new vector. An insertion stands before what is cut at its place.
fn naive(message: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut sorted: Vec<_> = changes.iter().collect();
    sorted.sort_by_key(|change| (change.span.start, !change.span.is_empty()));
    let (mut out, mut from) = (Vec::new(), 0);
    for change in sorted {
        out.extend_from_slice(&message[from..change.span.start as usize]);
        out.extend_from_slice(&change.text);
        from = change.span.end as usize;
    }
    out.extend_from_slice(&message[from..]);
    out
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let (steps, message) = rest.split_at((usize::from(count % 40) * 4).min(rest.len() / 4 * 4));
    if message.len() > MAX_MESSAGE {
        return;
    }
    let mut changes = changes(steps, message.len());
    changes.sort_by_key(|change| change.rank);
    let mut edits = Edits::default();
    for change in &changes {
        let (first, second) = change.text.split_at(change.text.len() / 2);
        edits.replace(change.span).put(first).put(second);
    }
    let inserted: usize = changes.iter().map(|change| change.text.len()).sum();
    assert_eq!(edits.overflowed(), inserted > HEADROOM || changes.len() > 32);
    if edits.overflowed() {
        return;
    }
    let expected = naive(message, &changes);
    let mut out = vec![0; expected.len()];
    let whole = Span::new(0, message.len());
    // What is inserted at the very end begins behind the span.
    let at_end = changes.iter().any(|change| change.span.start == whole.end);
    if !at_end || message.is_empty() {
        assert_eq!(edits.copy(message, whole, &mut out), Some(expected.len()));
        assert_eq!(out, expected);
        assert!(expected.is_empty() || edits.copy(message, whole, &mut out[1..]).is_none());
    }
    let mut buffer = [&[0; HEADROOM][..], message, &BEHIND].concat();
    let at = HEADROOM..HEADROOM + message.len();
    let mut saved = vec![0; message.len()];
    let edited = edits.apply(&mut buffer, at.clone(), &mut saved);
    assert_eq!(buffer[edited.message.clone()], expected);
    assert_eq!(edited.message.len() as isize, message.len() as isize + edits.growth());
    assert_eq!(buffer[at.end..], BEHIND);
    buffer[at.start..at.start + edited.saved].copy_from_slice(&saved[..edited.saved]);
    assert_eq!(buffer[at], *message);
});
