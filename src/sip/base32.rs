//! Lower-case base32 without padding (RFC 4648 §6): what may stand in a branch and survives being compared without case.

/// Length of the base32 text of so many bytes, without padding.
pub const fn text_len(raw: usize) -> usize {
    (raw * 8).div_ceil(5)
}

/// How many bytes a text of this length holds.
pub const fn raw_len(text: usize) -> usize {
    text * 5 / 8
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const NO_DIGIT: u8 = 0xff;
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 32 {
        digits[ALPHABET[value] as usize] = value as u8;
        digits[ALPHABET[value].to_ascii_uppercase() as usize] = value as u8;
        value += 1;
    }
    digits
};

/// Writes `raw` as base32; `text` must have [`text_len`] of it.
#[inline]
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

#[inline]
fn encode_group(group: &[u8; 5], text: &mut [u8; 8]) {
    let bits = u64::from_be_bytes([0, 0, 0, group[0], group[1], group[2], group[3], group[4]]);
    for (i, digit) in text.iter_mut().enumerate() {
        *digit = ALPHABET[(bits >> (35 - 5 * i) & 31) as usize];
    }
}

/// Reads base32 into `raw`, which must have [`raw_len`] of the text. False where a character is none of the alphabet
/// or a bit that belongs to no byte is set: one value has one text.
#[inline]
pub fn decode(text: &[u8], raw: &mut [u8]) -> bool {
    debug_assert_eq!(raw.len(), raw_len(text.len()));
    if text_len(raw.len()) != text.len() {
        return false;
    }
    let (texts, rest) = text.as_chunks::<8>();
    let (groups, last) = raw.as_chunks_mut::<5>();
    let mut bad = 0;
    for (text, group) in texts.iter().zip(groups) {
        bad |= decode_group(text, group);
    }
    if !rest.is_empty() {
        let (mut digits, mut group) = ([b'a'; 8], [0; 5]);
        digits[..rest.len()].copy_from_slice(rest);
        bad |= decode_group(&digits, &mut group);
        last.copy_from_slice(&group[..last.len()]);
        bad |= group[last.len()..].iter().fold(0, |all, byte| all | byte.min(&1) << 7);
    }
    bad & 0x80 == 0
}

/// Returns a byte whose top bit is set where a character is none of the alphabet.
#[inline]
fn decode_group(text: &[u8; 8], group: &mut [u8; 5]) -> u8 {
    let (mut bits, mut bad) = (0u64, 0u8);
    for digit in text {
        let value = DIGITS[*digit as usize];
        bad |= value;
        bits = bits << 5 | u64::from(value & 31);
    }
    group.copy_from_slice(&bits.to_be_bytes()[3..]);
    bad
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
    fn refuses_other_characters_and_lengths() {
        for text in ["a", "aaa", "a1", "aab", "a=", "aa\u{e9}"] {
            assert!(!decode(text.as_bytes(), &mut vec![0; raw_len(text.len())]), "{text}");
        }
    }
}
