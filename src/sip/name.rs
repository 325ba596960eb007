//! Names of header fields: those that routing reads, and how a line's name is told (RFC 3261 §7.3.1, §7.3.3, §20).

use wide::u8x16;

/// The headers that routing reads. Everything else is [`Name::Other`] and passes unread.
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

/// Long and compact forms in lower case. Of two that begin with the same two letters the one that is met more often
/// comes first.
const NAMES: [(&[u8], Name); 24] = [
    (b"via", Name::Via),
    (b"from", Name::From),
    (b"to", Name::To),
    (b"call-id", Name::CallId),
    (b"cseq", Name::CSeq),
    (b"contact", Name::Contact),
    (b"content-length", Name::ContentLength),
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
const WIDTH: usize = 16;

/// A name in its long form with its colon, to be compared in any case; of what stands behind, nothing is compared.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Long {
    text: [u8; WIDTH],
    mask: [u8; WIDTH],
    fold: [u8; WIDTH],
    /// One bit for each letter.
    letters: u16,
    /// With the colon.
    len: u8,
    name: Name,
    /// Where the next name stands that begins with the same two letters; 0 where there is none.
    next: u8,
}

impl Long {
    /// Nobody's name: what is masked cannot be 1.
    const NONE: Self = Self {
        text: [1; WIDTH],
        mask: [0; WIDTH],
        fold: [0; WIDTH],
        letters: u16::MAX,
        len: 0,
        name: Name::Other,
        next: 0,
    };

    const fn new(text: &[u8], name: Name) -> Self {
        let len = text.len();
        let mut long = Self { text: [0; WIDTH], letters: (1 << len) - 1, len: len as u8 + 1, name, ..Self::NONE };
        let mut at = 0;
        while at <= len {
            long.text[at] = if at < len { text[at] } else { b':' };
            long.mask[at] = 0xff;
            // No other byte may pass for `-`.
            long.fold[at] = if long.text[at].is_ascii_lowercase() { 0x20 } else { 0 };
            at += 1;
        }
        long
    }

    /// Which bytes of a line are as they should be.
    #[inline(always)]
    fn alike(&self, line: u8x16) -> u16 {
        let text = (line | u8x16::new(self.fold)) & u8x16::new(self.mask);
        text.simd_eq(u8x16::new(self.text)).to_bitmask() as u16
    }
}

/// Slots that [`slot`] chooses from; names that begin like another one stand behind.
const SLOTS: usize = 32;

/// Every long form, found by its first two letters.
static LONG: [Long; 2 * SLOTS] = {
    let mut table = [Long::NONE; 2 * SLOTS];
    let (mut n, mut free) = (0, SLOTS);
    while n < NAMES.len() {
        let (text, name) = NAMES[n];
        n += 1;
        if text.len() == 1 {
            continue;
        }
        let mut at = slot(u16::from_le_bytes([text[0], text[1]]));
        if table[at].len != 0 {
            // One slot must not serve two beginnings.
            assert!(table[at].text[0] == text[0] && table[at].text[1] == text[1]);
            while table[at].next != 0 {
                at = table[at].next as usize;
            }
            table[at].next = free as u8;
            at = free;
            free += 1;
        }
        table[at] = Long::new(text, name);
    }
    table
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

/// Where names stand that begin with these two letters, in any case. The factor was searched for: it separates them.
#[inline(always)]
const fn slot(letters: u16) -> usize {
    (((letters as u32 & 0x1f1f) * 39) >> 6) as usize % SLOTS
}

/// The name of a line of which this is the beginning, and how long it is with its colon; the length means nothing for
/// [`Name::Other`]. `None` where that wants a closer look: a blank begins the line, or stands before the colon.
///
/// Hot path: one look into a table.
#[inline(always)]
pub(super) fn usual(line: &[u8; WIDTH]) -> Option<(Name, usize)> {
    let start = line.first_chunk().map_or(0, |two| u16::from_le_bytes(*two));
    // Not a letter behind the first: a compact form, or none of ours.
    if start as u8 <= b' ' || start >> 8 <= u16::from(b':') {
        return match line {
            [letter, b':', ..] if letter.is_ascii_alphabetic() => Some((COMPACT[(letter & 31) as usize], 2)),
            [..=b' ', ..] | [_, b' ' | b'\t', ..] => None,
            _ => Some((Name::Other, 0)),
        };
    }
    let mut long = &LONG[slot(start)];
    let text = u8x16::new(*line);
    loop {
        let alike = long.alike(text);
        // What was compared holds no line end, so it lies within the line.
        if alike == u16::MAX {
            return Some((long.name, long.len as usize));
        }
        if alike & long.letters == long.letters
            && matches!(line[long.letters.trailing_ones() as usize % WIDTH], b' ' | b'\t')
        {
            return None;
        }
        if long.next == 0 {
            return Some((Name::Other, 0));
        }
        long = &LONG[long.next as usize % LONG.len()];
    }
}

/// Reads the name of the header line at `at`, wherever that is and with blanks before its colon (RFC 3261 §7.3.1): which
/// one, and where its value begins (just behind the colon). The position means nothing for [`Name::Other`].
#[cold]
pub(super) fn identify(bytes: &[u8], at: usize) -> (Name, usize) {
    let own = |(text, name): &(&[u8], Name)| Some((*name, at + value_after(&bytes[at..], text)?));
    NAMES.iter().find_map(own).unwrap_or((Name::Other, at))
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
            assert_eq!(identify(line, 0).0, want, "{}", String::from_utf8_lossy(line));
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
            let (wanted, colon_end) = identify(&line, 0);
            if let Some((found, length)) = usual(line.first_chunk().unwrap()) {
                prop_assert_eq!(found, wanted);
                prop_assert!(found == Name::Other || length == colon_end);
            }
        }
    }
}
