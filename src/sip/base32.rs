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

/// Room for the text of so many bytes as it is written: in whole steps. The bytes themselves need no more.
pub const fn room_len(raw: usize) -> usize {
    text_len(raw).next_multiple_of(STEP_TEXT)
}

/// How many characters a step writes, and how many bytes of `raw` it reads: it looks at three more.
const STEP_TEXT: usize = 16;
const STEP_RAW: usize = 10;
const LOOK: usize = STEP_RAW + 3;

/// Writes `raw` as base32, sixteen characters at a time for as long as `text` has room; `raw` must be at least three bytes
/// longer than what that takes. What belongs to the text are the first [`text_len`] characters: the bit behind the last
/// byte must be zero up to there.
#[inline(always)]
pub fn encode(raw: &[u8], text: &mut [u8]) {
    for (step, text) in text.as_chunks_mut::<STEP_TEXT>().0.iter_mut().enumerate() {
        let Some(raw) = raw.get(STEP_RAW * step..).and_then(|raw| raw.first_chunk::<LOOK>()) else { return };
        let group = |at: usize| u64::from_be_bytes(raw[at..at + 8].try_into().unwrap_or_default()) >> 24;
        *text = letters(spread(u64x2::new([group(0), group(5)]))).to_array();
    }
}

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

/// Reads base32 into `raw`, in either case, and says how many bytes that are. `None` where a character is none of the
/// alphabet, a bit that belongs to no byte is set (one value has one text), or it does not fit; `raw` must have room for
/// three bytes more than whole steps of ten.
#[inline(always)]
pub fn decode<const N: usize>(text: &[u8], raw: &mut [u8; N]) -> Option<usize> {
    let len = raw_len(text.len());
    let (steps, rest) = text.as_chunks::<STEP_TEXT>();
    let mut last = [b'a'; STEP_TEXT];
    last[..rest.len()].copy_from_slice(rest);
    let mut wrong = u8x16::ZERO;
    for (step, text) in steps.iter().chain([&last]).enumerate() {
        let room = raw.get_mut(STEP_RAW * step..).and_then(|raw| raw.first_chunk_mut::<LOOK>())?;
        let text = u8x16::new(*text);
        // Letters, and only they, have the bit 0x40: their case is 0x20.
        let letter: u8x16 = cast(cast::<_, u16x8>(text & u8x16::splat(0x40)) >> 1);
        let lower = text | letter;
        let is_letter = letter.simd_eq(u8x16::splat(0x20));
        let values = lower - u8x16::splat(b'2' - 26) - (is_letter & u8x16::splat(b'a' - (b'2' - 26)));
        let values = values & u8x16::splat(0x1f);
        // A character of the alphabet is what its value reads as again.
        wrong |= letters(values) ^ lower;
        let [first, second] = gather(values);
        room[..8].copy_from_slice(&first.to_be_bytes());
        room[5..].copy_from_slice(&second.to_be_bytes());
    }
    let rest = raw.get(len..)?.first_chunk::<4>()?;
    let good = wrong == u8x16::ZERO && u32::from_be_bytes(*rest) == 0 && text_len(len) == text.len();
    good.then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(raw: &[u8]) -> String {
        let mut room = [0; 96];
        encode(&[raw, &[0; 80]].concat(), &mut room);
        String::from_utf8(room[..text_len(raw.len())].to_vec()).unwrap()
    }

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut raw = [0xff; 80];
        let len = decode(text, &mut raw)?;
        Some(raw[..len].to_vec())
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
        assert_eq!(decode(&[b'a'; 40], &mut [0; 28]), None, "it does not fit");
    }
}
