//! SipHash-1-3 (Aumasson and Bernstein), by words. Own code because for the short texts of a message the byte interface
//! of a general hasher costs as much as the rounds; a property test holds it to the crate's.

/// The state under a key: cheap to copy, so it is the key.
#[derive(Clone, Copy, Debug)]
pub struct SipHash {
    v: [u64; 4],
}

impl SipHash {
    pub fn new(key: &[u8; 16]) -> Self {
        let word = |at: usize| u64::from_le_bytes(key[at..at + 8].try_into().unwrap_or_default());
        let (k0, k1) = (word(0), word(8));
        // The constants of SipHash: "somepseudorandomlygeneratedbytes".
        Self {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    /// The hash of these bytes.
    #[inline(always)]
    pub fn hash(self, bytes: &[u8]) -> u64 {
        self.words(bytes).finish(rest(bytes) | (bytes.len() as u64) << 56)
    }

    /// The hash of the first `len` bytes of these words, each with its first byte on top; behind them all must be zero.
    #[inline(always)]
    pub fn hash_words(self, words: &[u64], len: usize) -> u64 {
        let hash = words.iter().take(len / 8).fold(self, |hash, word| hash.word(word.swap_bytes()));
        hash.finish(words.get(len / 8).map_or(0, |rest| rest.swap_bytes()) | (len as u64) << 56)
    }

    /// A text among others, filled with zeros to whole words: its length must go in too.
    #[inline(always)]
    pub fn text(self, bytes: &[u8]) -> Self {
        let hash = self.words(bytes);
        if bytes.len().is_multiple_of(8) { hash } else { hash.word(rest(bytes)) }
    }

    /// The whole words of these bytes.
    #[inline(always)]
    fn words(self, bytes: &[u8]) -> Self {
        bytes.as_chunks().0.iter().fold(self, |hash, word| hash.word(u64::from_le_bytes(*word)))
    }

    /// Eight bytes more.
    #[inline(always)]
    pub fn word(mut self, word: u64) -> Self {
        self.v[3] ^= word;
        self.round();
        self.v[0] ^= word;
        self
    }

    /// The hash, with a last word.
    #[inline(always)]
    pub fn finish(self, last: u64) -> u64 {
        let mut hash = self.word(last);
        hash.v[2] ^= 0xff;
        hash.round();
        hash.round();
        hash.round();
        hash.v[0] ^ hash.v[1] ^ hash.v[2] ^ hash.v[3]
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }
}

/// The bytes behind the last whole word, the first of them lowest.
#[inline(always)]
fn rest(bytes: &[u8]) -> u64 {
    let len = bytes.len() % 8;
    match bytes.last_chunk() {
        // Two shifts, for there may be nothing behind it.
        Some(last) => u64::from_le_bytes(*last) >> 8 >> (56 - 8 * len),
        None => bytes.iter().rfold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    proptest! {
        #[test]
        fn hashes_as_the_crate_does(key: [u8; 16], bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(SipHash::new(&key).hash(&bytes), SipHasher13::new_with_key(&key).hash(&bytes));
        }

        #[test]
        fn words_are_hashed_as_their_bytes(key: [u8; 16], bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut words = [0; 8];
            bytes.iter().zip(0..).for_each(|(byte, n)| words[n / 8] |= u64::from(*byte) << (56 - n % 8 * 8));
            let hash = SipHash::new(&key);
            prop_assert_eq!(hash.hash_words(&words, bytes.len()), hash.hash(&bytes));
        }

        #[test]
        fn a_text_is_hashed_as_if_zeros_stood_behind_it(key: [u8; 16], bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut filled = bytes.clone();
            filled.resize(bytes.len().next_multiple_of(8), 0);
            let hash = SipHash::new(&key);
            prop_assert_eq!(hash.text(&bytes).finish((filled.len() as u64) << 56), hash.hash(&filled));
        }
    }
}
