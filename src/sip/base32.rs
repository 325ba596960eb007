//! Lower-case base32 without padding (RFC 4648 §6): what may stand in a branch and survives being compared without case.
//! Sixteen characters at a time: two groups of eight characters, five bytes each.

use wide::bytemuck::cast;
use wide::{i8x16, i16x8, u8x16, u16x8, u32x4, u64x2};

/// Length of the base32 text of so many bytes, without padding.
pub const fn text_len(raw: usize) -> usize {
    (raw * 8).div_ceil(5)
}

/// How many bytes a text of this length holds.
pub const fn raw_len(text: usize) -> usize {
    text * 5 / 8
}

/// Room for the text of so many bytes as it is written: in whole steps.
pub const fn room_len(raw: usize) -> usize {
    text_len(raw).next_multiple_of(STEP)
}

/// How many characters are written or read at once.
const STEP: usize = 16;

/// Writes bytes as base32, sixteen characters at a time for as long as `text` has room. The bytes come as words, the first
/// byte on top, for what makes them has them in registers; those that are not there are zero. What belongs to the text
/// are the first [`text_len`] characters.
#[inline(always)]
pub fn encode<const N: usize>(raw: &[u64; N], text: &mut [u8]) {
    let word = |at: usize| raw.get(at).copied().unwrap_or_default();
    let group = |n: usize| {
        let (at, shift) = (GROUP * n / 64, (GROUP * n % 64) as u32);
        // What of the group stands in the next word; two shifts, for that may be nothing.
        (word(at) << shift | word(at + 1) >> 1 >> (63 - shift)) >> (64 - GROUP)
    };
    for (step, text) in text.as_chunks_mut::<STEP>().0.iter_mut().enumerate() {
        *text = letters(spread(u64x2::new([group(2 * step), group(2 * step + 1)]))).to_array();
    }
}

/// Bits of eight characters.
const GROUP: usize = 40;

/// Two groups of forty bits as sixteen bytes of five bits each: halved three times.
#[inline(always)]
fn spread(bits: u64x2) -> u8x16 {
    let twenties: u32x4 = cast(bits >> 20 | (bits & u64x2::splat(0xf_ffff)) << 32);
    let tens: u16x8 = cast(twenties >> 10 | (twenties & u32x4::splat(0x3ff)) << 16);
    cast(tens >> 5 | (tens & u16x8::splat(0x1f)) << 8)
}

/// The other way round, the forty bits of a group on top of a word.
#[inline(always)]
fn gather(values: u8x16) -> [u64; 2] {
    let values: u16x8 = cast(values);
    let tens: i16x8 = cast((values & u16x8::splat(0x1f)) << 5 | values >> 8);
    let twenties: u64x2 = cast(tens.dot(i16x8::new([1024, 1, 1024, 1, 1024, 1, 1024, 1])));
    let groups: u64x2 = twenties << 44 | twenties >> 32 << 24;
    groups.to_array()
}

/// Bytes of 0 to 31 as the characters `a` to `z` and `2` to `7`.
#[inline(always)]
fn letters(values: u8x16) -> u8x16 {
    const GAP: u8 = b'a' + 26 - b'2';
    let values: i8x16 = cast(values);
    let gap = values.simd_gt(i8x16::splat(25)) & i8x16::splat(GAP as i8);
    cast(values + i8x16::splat(b'a' as i8) - gap)
}

/// Reads base32 in either case, into words as [`encode`] takes them, and says how many bytes that are. `None` where a
/// character is none of the alphabet, a bit that belongs to no byte is set (one value has one text), or it does not fit.
#[inline(always)]
pub fn decode<const N: usize>(text: &[u8]) -> Option<([u64; N], usize)> {
    let len = raw_len(text.len());
    let (mut raw, mut wrong) = ([0; N], u8x16::ZERO);
    let mut read = |step: usize, text: [u8; STEP]| {
        let text = u8x16::new(text);
        // Letters, and only they, have the bit 0x40: their case is 0x20.
        let letter: u8x16 = cast(cast::<_, u16x8>(text & u8x16::splat(0x40)) >> 1);
        let lower = text | letter;
        let is_letter = letter.simd_eq(u8x16::splat(0x20));
        let values = lower - u8x16::splat(b'2' - 26) - (is_letter & u8x16::splat(b'a' - (b'2' - 26)));
        let values = values & u8x16::splat(0x1f);
        // A character of the alphabet is what its value reads as again.
        wrong |= letters(values) ^ lower;
        for (group, n) in gather(values).into_iter().zip(2 * step..) {
            let (at, shift) = (GROUP * n / 64, (GROUP * n % 64) as u32);
            if let Some(word) = raw.get_mut(at) {
                *word |= group >> shift;
            }
            if let Some(word) = raw.get_mut(at + 1) {
                *word |= group << 1 << (63 - shift);
            }
        }
    };
    // In a loop over the steps alone: with the rest in it, it would not be unrolled.
    let (steps, rest) = text.as_chunks::<STEP>();
    for (step, text) in steps.iter().enumerate() {
        read(step, *text);
    }
    if !rest.is_empty() {
        let mut last = [b'a'; STEP];
        last[..rest.len()].copy_from_slice(rest);
        read(steps.len(), last);
    }
    let behind = raw.get(len / 8)? << (8 * (len % 8));
    let good = wrong == u8x16::ZERO && behind == 0 && text_len(len) == text.len();
    good.then_some((raw, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(raw: &[u8]) -> String {
        let mut words = [0; 8];
        raw.iter().zip(0..).for_each(|(byte, n)| words[n / 8] |= u64::from(*byte) << (56 - n % 8 * 8));
        let mut room = [0; 96];
        encode(&words, &mut room);
        String::from_utf8(room[..text_len(raw.len())].to_vec()).unwrap()
    }

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let (words, len) = decode::<8>(text)?;
        Some(words.iter().flat_map(|word| word.to_be_bytes()).take(len).collect())
    }

    /// Bit by bit.
    fn naive(raw: &[u8]) -> String {
        let bit = |n: usize| raw.get(n / 8).map_or(0, |byte| byte >> (7 - n % 8) & 1);
        let value = |n: usize| (0..5).fold(0, |value, m| value << 1 | bit(5 * n + m));
        (0..text_len(raw.len())).map(|n| b"abcdefghijklmnopqrstuvwxyz234567"[value(n) as usize] as char).collect()
    }

    proptest! {
        #[test]
        fn reads_back_in_either_case(raw in proptest::collection::vec(any::<u8>(), 0..60)) {
            let text = encoded(&raw);
            prop_assert_eq!(&text, &naive(&raw));
            prop_assert_eq!(decoded(text.as_bytes()), Some(raw.clone()));
            prop_assert_eq!(decoded(text.to_ascii_uppercase().as_bytes()), Some(raw));
        }

        /// One value has one text: what decodes encodes to the same again.
        #[test]
        fn no_two_texts_mean_the_same(text in "[a-z2-7]{0,40}") {
            if let Some(raw) = decoded(text.as_bytes()) {
                prop_assert_eq!(encoded(&raw), text);
            }
        }
    }

    #[test]
    fn every_byte_but_those_of_the_alphabet_is_refused() {
        for byte in 0..=255u8 {
            let good = matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'2'..=b'7');
            for at in 0..24 {
                let mut text = *b"mzabc234mzabc234mzabc234";
                text[at] = byte;
                assert_eq!(decoded(&text).is_some(), good, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn refuses_other_characters_and_lengths() {
        for text in ["a", "aaa", "a1", "aab", "a=", "aa\u{e9}"] {
            assert_eq!(decoded(text.as_bytes()), None, "{text}");
        }
        assert_eq!(decode::<3>(&[b'a'; 40]), None, "it does not fit");
    }
}
