//! Lower-case base32 without padding (RFC 4648 §6): what may stand in a branch and survives being compared without case.

/// Length of the base32 text of so many bytes, without padding.
pub const fn text_len(raw: usize) -> usize {
    (raw * 8).div_ceil(5)
}

/// How many bytes a text of this length holds.
pub const fn raw_len(text: usize) -> usize {
    text * 5 / 8
}

/// Writes `raw` as base32; `text` must have [`text_len`] of it.
#[inline(always)]
pub fn encode(raw: &[u8], text: &mut [u8]) {
    debug_assert_eq!(text.len(), text_len(raw.len()));
    let (groups, rest) = raw.as_chunks::<5>();
    let (texts, last) = text.as_chunks_mut::<8>();
    for (group, text) in groups.iter().zip(texts) {
        encode_group(group, text);
    }
    if !rest.is_empty() {
        let (mut group, mut digits) = ([0; 5], [0; 8]);
        group[..rest.len()].copy_from_slice(rest);
        encode_group(&group, &mut digits);
        last.copy_from_slice(&digits[..last.len()]);
    }
}

/// Writes so many groups of five bytes as eight digits each: for a text that is cut afterwards.
#[inline(always)]
pub fn encode_groups(raw: &[u8], text: &mut [u8], groups: usize) {
    for (group, text) in raw.as_chunks().0.iter().zip(text.as_chunks_mut().0).take(groups) {
        encode_group(group, text);
    }
}

/// The same byte eight times.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Eight digits at once: the bits are spread to a byte each, then each byte becomes its letter.
#[inline(always)]
fn encode_group(group: &[u8; 5], text: &mut [u8; 8]) {
    let bits = u64::from_be_bytes([0, 0, 0, group[0], group[1], group[2], group[3], group[4]]);
    *text = letters(spread(bits)).to_be_bytes();
}

/// Forty bits as eight bytes of five bits each.
#[inline(always)]
fn spread(bits: u64) -> u64 {
    let halves = bits << 12 & 0x000f_ffff_0000_0000 | bits & 0xf_ffff;
    let tens = (halves & 0x000f_fc00_000f_fc00) << 6 | halves & 0x0000_03ff_0000_03ff;
    (tens & 0x03e0_03e0_03e0_03e0) << 3 | tens & 0x001f_001f_001f_001f
}

/// The other way round.
#[inline(always)]
fn gather(values: u64) -> u64 {
    let tens = values >> 3 & 0x03e0_03e0_03e0_03e0 | values & 0x001f_001f_001f_001f;
    let halves = tens >> 6 & 0x000f_fc00_000f_fc00 | tens & 0x0000_03ff_0000_03ff;
    halves >> 12 & 0x00ff_fff0_0000 | halves & 0xf_ffff
}

/// Bytes of 0 to 31 as the characters `a` to `z` and `2` to `7`.
#[inline(always)]
fn letters(values: u64) -> u64 {
    // The top bit of a byte says that its value is 26 or more.
    let digits = values.wrapping_add(each(128 - 26)) >> 7 & each(1);
    values.wrapping_add(each(b'a')).wrapping_sub(digits.wrapping_mul(u64::from(b'a' + 26 - b'2')))
}

/// Reads base32 into `raw`, which must have [`raw_len`] of the text. False where a character is none of the alphabet
/// or a bit that belongs to no byte is set: one value has one text.
#[inline(always)]
pub fn decode(text: &[u8], raw: &mut [u8]) -> bool {
    debug_assert_eq!(raw.len(), raw_len(text.len()));
    if text_len(raw.len()) != text.len() {
        return false;
    }
    let (texts, rest) = text.as_chunks::<8>();
    let (groups, last) = raw.as_chunks_mut::<5>();
    let mut good = true;
    for (text, group) in texts.iter().zip(groups) {
        good &= decode_group(text, group);
    }
    if !rest.is_empty() {
        let (mut digits, mut group) = ([b'a'; 8], [0; 5]);
        digits[..rest.len()].copy_from_slice(rest);
        good &= decode_group(&digits, &mut group);
        last.copy_from_slice(&group[..last.len()]);
        good &= group[last.len()..].iter().all(|byte| *byte == 0);
    }
    good
}

/// Eight digits as forty bits, for a text that we wrote: of another one it makes anything.
#[inline(always)]
pub fn decode_trusted(text: &[u8; 8]) -> u64 {
    gather(values(u64::from_be_bytes(*text)))
}

/// Letters and digits as what they stand for. Letters, and only they, have the bit 0x40; in either case they count from
/// 1, digits from 18.
#[inline(always)]
fn values(text: u64) -> u64 {
    let is_letter = text >> 6 & each(1);
    (text & each(0x1f)).wrapping_add(each(8)).wrapping_sub(is_letter.wrapping_mul(9)) & each(0x1f)
}

/// False where a character is none of the alphabet: then what was read does not read as the text again.
#[inline(always)]
fn decode_group(text: &[u8; 8], group: &mut [u8; 5]) -> bool {
    let text = u64::from_be_bytes(*text);
    let values = values(text);
    group.copy_from_slice(&gather(values).to_be_bytes()[3..]);
    letters(values) == text | (text >> 6 & each(1)) << 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_in_either_case(raw in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut text = vec![0; text_len(raw.len())];
            encode(&raw, &mut text);
            let mut back = vec![0; raw_len(text.len())];
            prop_assert!(decode(&text, &mut back));
            prop_assert_eq!(&back, &raw);
            prop_assert!(decode(&text.to_ascii_uppercase(), &mut back));
            prop_assert_eq!(back, raw);
        }

        /// One value has one text: what decodes encodes to the same again.
        #[test]
        fn no_two_texts_mean_the_same(text in "[a-z2-7]{0,40}") {
            let mut raw = vec![0; raw_len(text.len())];
            if decode(text.as_bytes(), &mut raw) {
                let mut again = vec![0; text_len(raw.len())];
                encode(&raw, &mut again);
                prop_assert_eq!(again, text.into_bytes());
            }
        }
    }

    #[test]
    fn every_byte_but_those_of_the_alphabet_is_refused() {
        for byte in 0..=255u8 {
            let good = matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'2'..=b'7');
            for at in 0..8 {
                let mut text = *b"mzabc234";
                text[at] = byte;
                assert_eq!(decode(&text, &mut [0; 5]), good, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn refuses_other_characters_and_lengths() {
        for text in ["a", "aaa", "a1", "aab", "a=", "aa\u{e9}"] {
            assert!(!decode(text.as_bytes(), &mut vec![0; raw_len(text.len())]), "{text}");
        }
    }
}
