//! Names of header fields: those that routing reads, and how a line's name is told (RFC 3261 §7.3.1, §7.3.3, §20).

use wide::u8x16;

/// The headers that routing reads. Everything else passes unread; [`Name::Other`] stands where there is none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Name {
    #[default]
    Other,
    Via,
    CallId,
    CSeq,
    From,
    To,
    Route,
    RecordRoute,
    MaxForwards,
    ContentLength,
    Contact,
    ProxyRequire,
    Supported,
    UserAgent,
    RetryAfter,
    /// Replaces, Join (RFC 3891, RFC 3911) and Target-Dialog (RFC 4538): each names another call.
    OtherCall,
}

impl Name {
    pub(super) const COUNT: usize = Self::OtherCall as usize + 1;

    /// The name as a bit of a set.
    #[inline(always)]
    pub(super) const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Long and compact forms in lower case. Of two that begin with the same three letters the one that is met more often
/// comes first.
const NAMES: [(&[u8], Name); 24] = [
    (b"via", Name::Via),
    (b"from", Name::From),
    (b"to", Name::To),
    (b"call-id", Name::CallId),
    (b"cseq", Name::CSeq),
    (b"content-length", Name::ContentLength),
    (b"contact", Name::Contact),
    (b"max-forwards", Name::MaxForwards),
    (b"record-route", Name::RecordRoute),
    (b"route", Name::Route),
    (b"user-agent", Name::UserAgent),
    (b"supported", Name::Supported),
    (b"proxy-require", Name::ProxyRequire),
    (b"retry-after", Name::RetryAfter),
    (b"replaces", Name::OtherCall),
    (b"join", Name::OtherCall),
    (b"target-dialog", Name::OtherCall),
    (b"v", Name::Via),
    (b"f", Name::From),
    (b"t", Name::To),
    (b"i", Name::CallId),
    (b"m", Name::Contact),
    (b"l", Name::ContentLength),
    (b"k", Name::Supported),
];

/// Text as words, to be compared in any case; no other byte may pass for `-`, so only letters are folded.
#[derive(Clone, Copy)]
pub(super) struct Word {
    text: u64,
    mask: u64,
    fold: u64,
}

impl Word {
    /// Up to eight bytes of `text` from `from` on.
    pub(super) const fn new(text: &[u8], from: usize) -> Self {
        let mut word = Self { text: 0, mask: 0, fold: 0 };
        let mut at = 0;
        while at < 8 && from + at < text.len() {
            let byte = text[from + at];
            word.text |= (byte as u64) << (8 * at);
            word.mask |= 0xff << (8 * at);
            if byte.is_ascii_lowercase() {
                word.fold |= 0x20 << (8 * at);
            }
            at += 1;
        }
        word
    }

    #[inline(always)]
    pub(super) const fn is(self, word: u64) -> bool {
        (word | self.fold) & self.mask == self.text
    }
}

/// `is!(word, "via:")`: whether the word begins so. A macro, because the masks must be constants.
macro_rules! is {
    ($word:expr, $text:literal) => {{
        const WORD: $crate::sip::name::Word = $crate::sip::name::Word::new($text, 0);
        WORD.is($word)
    }};
}
pub(super) use is;

/// The longest name with its colon is looked at in one piece.
pub(super) const WIDTH: usize = 16;

/// A name in its long form with its colon, to be compared in any case; of what stands behind, nothing is compared.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Long {
    text: [u8; WIDTH],
    fold: [u8; WIDTH],
    /// With the colon.
    len: u8,
    name: Name,
    /// Where among the others another name stands that begins with the same three letters; nobody's stands at 0.
    next: u8,
}

impl Long {
    /// Nobody's name: what is folded cannot be 0.
    const NONE: Self = Self { text: [0; WIDTH], fold: [0xff; WIDTH], len: 0, name: Name::Other, next: 0 };

    const fn new(text: &[u8], name: Name) -> Self {
        // Behind the colon every byte is folded to the same.
        let mut long = Self { text: [0xff; WIDTH], len: text.len() as u8 + 1, name, ..Self::NONE };
        let mut at = 0;
        while at <= text.len() {
            long.text[at] = if at < text.len() { text[at] } else { b':' };
            // No other byte may pass for `-`.
            long.fold[at] = if long.text[at].is_ascii_lowercase() { 0x20 } else { 0 };
            at += 1;
        }
        long
    }

    /// Whether a line begins with it.
    #[inline(always)]
    fn begins(&self, line: u8x16) -> bool {
        (line | u8x16::new(self.fold)).simd_eq(u8x16::new(self.text)).to_bitmask() == 0xffff
    }
}

/// Slots that [`slot`] chooses from, and how many names stand behind another one, with nobody's.
const SLOTS: usize = 32;
const MORE: usize = 2;

/// Every long form, found by its first three letters; and those that begin like another one.
static LONG: ([Long; SLOTS], [Long; MORE]) = {
    let (mut first, mut more) = ([Long::NONE; SLOTS], [Long::NONE; MORE]);
    let (mut n, mut behind) = (0, 1);
    while n < NAMES.len() {
        let (text, name) = NAMES[n];
        n += 1;
        if text.len() == 1 {
            continue;
        }
        let third = if text.len() == 2 { b':' } else { text[2] };
        let at = slot(u32::from_le_bytes([text[0], text[1], third, 0]));
        if first[at].len == 0 {
            first[at] = Long::new(text, name);
            continue;
        }
        // One slot must not serve two beginnings, nor three names.
        let is_like = first[at].text[0] == text[0] && first[at].text[1] == text[1] && first[at].text[2] == text[2];
        assert!(is_like && first[at].next == 0);
        first[at].next = behind as u8;
        more[behind] = Long::new(text, name);
        behind += 1;
    }
    (first, more)
};

/// The compact forms, by their letter's place in the alphabet.
const COMPACT: [Name; 32] = {
    let mut table = [Name::Other; 32];
    let mut n = 0;
    while n < NAMES.len() {
        if let ([letter], name) = NAMES[n] {
            table[(*letter & 31) as usize] = name;
        }
        n += 1;
    }
    table
};

/// Where names stand that begin with these three letters, in any case. The factor was searched for: it separates them.
#[inline(always)]
const fn slot(letters: u32) -> usize {
    (((letters & 0x1f_1f1f) * 685) >> 14) as usize % SLOTS
}

/// The first four bytes of a line, the first one lowest. Read once and handed on: of what is in a vector the compiler reads
/// a byte by way of memory.
#[inline(always)]
pub(super) fn letters(line: &[u8; WIDTH]) -> u32 {
    line.first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

/// The name in its long form that a line begins with, and how long it is with its colon. `letters` are its [`letters`].
///
/// Hot path: one look into a table, or two.
#[inline(always)]
pub(super) fn long(line: &[u8; WIDTH], letters: u32) -> Option<(Name, u8)> {
    let first = &LONG.0[slot(letters)];
    let line = u8x16::new(*line);
    // What was compared holds no line end, so it lies within the line.
    if first.begins(line) {
        return Some((first.name, first.len));
    }
    let second = &LONG.1[first.next as usize % MORE];
    second.begins(line).then_some((second.name, second.len))
}

/// The same of a line that begins with none of them: a compact form, or, inside, `None` for a name that is none of ours.
/// `None` where that wants a closer look: a blank begins the line, or stands before the colon.
#[inline(always)]
pub(super) fn other(line: &[u8; WIDTH], letters: u32) -> Option<Option<(Name, u8)>> {
    let letter = letters as u8;
    let line = u8x16::new(*line);
    let blanks = line.simd_eq(line.min(u8x16::splat(b' '))).to_bitmask();
    let colons = line.simd_eq(u8x16::splat(b':')).to_bitmask();
    // Up to the first colon; everything where there is none.
    if blanks & (colons ^ colons.wrapping_sub(1)) != 0 {
        return None;
    }
    if colons & 0b11 != 0b10 || !letter.is_ascii_alphabetic() {
        return Some(None);
    }
    let compact = COMPACT[(letter & 31) as usize];
    Some((compact != Name::Other).then_some((compact, 2)))
}

/// Reads the name of the header line at `at`, wherever that is and with blanks before its colon (RFC 3261 §7.3.1): which
/// one, and where its value begins (just behind the colon). `None` for a name that is none of ours.
#[cold]
pub(super) fn identify(bytes: &[u8], at: usize) -> Option<(Name, usize)> {
    NAMES.iter().find_map(|(text, name)| Some((*name, at + value_after(&bytes[at..], text)?)))
}

/// Where the value begins if the line's name is `name`, compared without case; blanks may stand before the colon.
pub fn value_after(line: &[u8], name: &[u8]) -> Option<usize> {
    if !line.get(..name.len())?.eq_ignore_ascii_case(name) {
        return None;
    }
    let mut at = name.len();
    while matches!(line.get(at)?, b' ' | b'\t') {
        at += 1;
    }
    (line[at] == b':').then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_found_in_any_case_and_form() {
        for (line, want) in [
            (&b"Via: x"[..], Name::Via),
            (b"v:x", Name::Via),
            (b"VIA \t : x", Name::Via),
            (b"cAlL-iD: x", Name::CallId),
            (b"i:x", Name::CallId),
            (b"Content-Length: 0", Name::ContentLength),
            (b"Content-Type: a/b", Name::Other),
            (b"Record-Route: <sip:a>", Name::RecordRoute),
            (b"Target-Dialog: x", Name::OtherCall),
            (b"To: x", Name::To),
            (b"Tox: x", Name::Other),
            (b"Via", Name::Other),
            (b"Call\rID: x", Name::Other),
            (b": x", Name::Other),
        ] {
            let found = identify(line, 0).map_or(Name::Other, |(name, _)| name);
            assert_eq!(found, want, "{}", String::from_utf8_lossy(line));
        }
    }

    proptest! {
        /// Whatever stands there: the table finds what comparing with every name finds.
        #[test]
        fn the_table_finds_what_comparing_finds(
            name in prop_oneof![proptest::sample::select(&NAMES[..]).prop_map(|(name, _)| name.to_vec()), "[ -~\r]{1,15}".prop_map(String::into_bytes)],
            damage in proptest::option::of((0usize..15, any::<u8>())),
            upper: u16,
            behind in "(:|[ \t]{1,3}:|[a-z -]{1,3}:|)[ -~]{16,20}",
        ) {
            let mut line: Vec<u8> = name.iter().enumerate().map(|(n, byte)| if upper >> n & 1 == 1 { byte.to_ascii_uppercase() } else { *byte }).collect();
            if let Some((at, byte)) = damage && at < line.len() {
                line[at] = byte;
            }
            line.extend_from_slice(behind.as_bytes());
            let line = line.as_slice();
            let text = line.first_chunk().unwrap();
            let found = long(text, letters(text)).map(Some).or_else(|| other(text, letters(text)));
            if let Some(found) = found {
                prop_assert_eq!(found.map(|(name, length)| (name, length as usize)), identify(line, 0));
            }
        }
    }
}
