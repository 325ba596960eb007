//! Changing the head of a message in place.
//!
//! A message is received with [`HEADROOM`] free bytes before it. [`Edits`] collects replacements by position while the
//! decision is made; [`Edits::apply`] then rewrites the head so that it ends where the untouched rest begins. The body
//! never moves, and what leaves is one contiguous slice: five pieces cost the kernel 6 % more than one (measured).

use std::ops::Range;

use super::message::Span;
use super::text::Text;

/// Free bytes before a received message, and the most text that edits may insert. The largest set of inserts (IPv6 on
/// both sides: Via 260, two Record-Routes 2 x 160, Path and Supported 180, source header 120) is below 1,000.
pub const HEADROOM: usize = 1536;

/// Room behind the texts, so that one may be written with what lies behind its end.
const SLACK: usize = 192;

/// [`Edits::used`] once something did not fit: nothing fits any more.
const OVERFLOWED: usize = HEADROOM + SLACK + 1;

/// The most replacements in one message. A request needs eight; the rest is for copies of the source header.
const MAX_SPLICES: usize = 32;

/// The longest text that is written over another: the digits of Max-Forwards.
const MAX_OVER: usize = 3;

/// One replacement: `span` of the message gives way to `text` of the pool. The end of the one that is being written to
/// is not noted yet: it is what is used of the pool.
#[derive(Clone, Copy, Default)]
struct Splice {
    span: Span,
    text: Span,
}

/// The changes to one message, in order of position. Reused from message to message: clearing costs nothing.
pub struct Edits {
    splices: [Splice; MAX_SPLICES],
    count: usize,
    /// The splice that [`Edits::put`] writes to.
    current: usize,
    pool: [u8; HEADROOM + SLACK],
    /// How much of the pool is used. More than [`HEADROOM`]: the changes did not fit.
    used: usize,
    /// How many bytes of the message are replaced.
    replaced: usize,
    /// What is written over where it stands.
    over: Option<(Span, [u8; MAX_OVER])>,
}

/// What [`Edits::apply`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The edited message in the buffer.
    pub message: Range<usize>,
    /// How many bytes from the original start on were saved; copying them back restores the original.
    pub saved: usize,
}

impl Default for Edits {
    fn default() -> Self {
        Self {
            splices: [Splice::default(); MAX_SPLICES],
            count: 0,
            current: 0,
            pool: [0; HEADROOM + SLACK],
            used: 0,
            replaced: 0,
            over: None,
        }
    }
}

impl Edits {
    /// Forgets all changes.
    #[inline]
    pub fn clear(&mut self) {
        (self.count, self.used, self.replaced) = (0, 0, 0);
        self.over = None;
    }

    /// Replaces `span` by what [`Edits::put`] appends until the next call; an empty span inserts, no text cuts. Spans
    /// must not overlap; an insertion stands before what is cut at its place, of two insertions the earlier call's.
    #[inline]
    pub fn replace(&mut self, span: Span) -> &mut Self {
        if self.count == MAX_SPLICES {
            self.used = OVERFLOWED;
            return self;
        }
        self.splices[self.current].text.end = self.used as u16;
        let mut at = self.count;
        // Mostly it is behind all others.
        while let Some(before) = at.checked_sub(1).map(|before| self.splices[before])
            && before.span.end > span.start
        {
            self.splices[at] = before;
            at -= 1;
        }
        let start = self.used as u16;
        self.splices[at] = Splice { span, text: Span { start, end: start } };
        self.current = at;
        self.count += 1;
        self.replaced += span.len();
        self
    }

    /// Cuts `span`; if the replacement begun last is a cut, or nothing yet, that ends there, in one piece with it: pieces
    /// are few.
    #[inline]
    pub fn cut(&mut self, span: Span) {
        let behind = self.splices[..self.count].get(self.current + 1).copied();
        match self.splices[..self.count].get_mut(self.current) {
            // Nor may an insertion stand between them.
            Some(Splice { span: last, text })
                if last.end == span.start
                    && text.start as usize == self.used
                    && behind.is_none_or(|behind| behind.span.start > span.start) =>
            {
                last.end = span.end;
                self.replaced += span.len();
            }
            _ => {
                self.replace(span);
            }
        }
    }

    /// Inserts at a position.
    #[inline]
    pub fn insert(&mut self, at: u16) -> &mut Self {
        self.replace(Span { start: at, end: at })
    }

    /// Writes a short text over another where that is as long; else replaces it. Of one text only; [`Edits::copy`] does not
    /// know of it.
    #[inline]
    pub fn write_over(&mut self, span: Span, text: &Text<16>) {
        if self.over.is_none() && span.len() <= MAX_OVER && span.len() == text.as_bytes().len() {
            self.over = text.whole().0.first_chunk().map(|text| (span, *text));
        } else {
            self.replace(span).put_text(text);
        }
    }

    /// Appends text to the replacement begun last.
    #[inline]
    pub fn put(&mut self, text: &[u8]) -> &mut Self {
        match self.pool.get_mut(self.used..self.used + text.len()) {
            Some(room) => {
                room.copy_from_slice(text);
                self.used += text.len();
            }
            None => self.used = OVERFLOWED,
        }
        self
    }

    /// Appends a short text: all its bytes are copied, for that is a few wide moves, and those behind its end are
    /// overwritten by what comes next.
    #[inline]
    pub fn put_text<const N: usize>(&mut self, text: &Text<N>) -> &mut Self {
        self.put_led(b"", text)
    }

    /// Appends fixed bytes and a short text behind them.
    #[inline(always)]
    pub fn put_led<const L: usize, const N: usize>(&mut self, lead: &[u8; L], text: &Text<N>) -> &mut Self {
        const { assert!(L + N <= SLACK) };
        let (bytes, len) = text.whole();
        match self.pool.get_mut(self.used..).and_then(|room| room.get_mut(..L + N)) {
            Some(room) => {
                room[..L].copy_from_slice(lead);
                room[L..].copy_from_slice(bytes);
                self.used += L + len;
            }
            None => self.used = OVERFLOWED,
        }
        self
    }

    /// Appends what `write` writes into its room and says the length of.
    #[inline(always)]
    pub fn put_with<const N: usize>(&mut self, write: impl FnOnce(&mut [u8; N]) -> usize) -> &mut Self {
        const { assert!(N <= SLACK) };
        match self.pool.get_mut(self.used..).and_then(|room| room.first_chunk_mut()) {
            Some(room) => self.used += write(room),
            None => self.used = OVERFLOWED,
        }
        self
    }

    /// The changes, in order of position: what is replaced, and by what.
    #[inline(always)]
    fn changes(&self) -> impl Iterator<Item = (Span, &[u8])> {
        let change = |(at, splice): (usize, &Splice)| {
            let end = if at == self.current { self.used } else { splice.text.end as usize };
            (splice.span, &self.pool[splice.text.start as usize..end])
        };
        self.splices[..self.count].iter().enumerate().map(change)
    }

    /// Whether the changes did not fit: the message must be refused, not half changed.
    #[inline]
    pub fn overflowed(&self) -> bool {
        self.used > HEADROOM
    }

    /// By how much the message grows.
    #[inline]
    pub fn growth(&self) -> isize {
        self.used as isize - self.replaced as isize
    }

    /// Copies `span` of `original` with the changes inside it to the front of `out`; says how long it is, or `None`
    /// where `out` is too short. A change counts as inside if it begins in the span.
    #[inline]
    pub fn copy(&self, original: &[u8], span: Span, out: &mut [u8]) -> Option<usize> {
        let (mut from, mut to) = (span.start as usize, 0);
        for (replaced, text) in self.changes() {
            if !(span.start..span.end.max(span.start + 1)).contains(&replaced.start) {
                continue;
            }
            to = append(out, to, &original[from..replaced.start as usize])?;
            to = append(out, to, text)?;
            from = replaced.end as usize;
        }
        append(out, to, &original[from..span.end as usize])
    }

    /// Rewrites the message that stands in `buffer` at `at`, at least [`HEADROOM`] bytes behind its start.
    ///
    /// The head up to the last change is saved to `saved` first, so that a message that could not be sent can be
    /// decided anew. Hot path: moves the head up to there twice, nothing else.
    #[inline]
    pub fn apply(&self, buffer: &mut [u8], at: Range<usize>, saved: &mut [u8]) -> Edited {
        debug_assert!(!self.overflowed() && at.start >= HEADROOM);
        let head = self.splices[..self.count].last().map_or(0, |last| last.span.end as usize);
        let changed = self.over.map_or(head, |(span, _)| head.max(span.end as usize));
        saved[..changed].copy_from_slice(&buffer[at.start..at.start + changed]);
        let start = (at.start as isize - self.growth()) as usize;
        let (mut from, mut to) = (0, start);
        for (replaced, text) in self.changes() {
            for piece in [&saved[from..replaced.start as usize], text] {
                if !piece.is_empty() {
                    buffer[to..to + piece.len()].copy_from_slice(piece);
                    to += piece.len();
                }
            }
            from = replaced.end as usize;
        }
        debug_assert_eq!(to, at.start + head);
        if let Some((span, text)) = self.over {
            let at = at.start + span.start as usize;
            let at =
                if span.start as usize >= head { at } else { (at as isize - self.growth_behind(span.start)) as usize };
            buffer[at..].iter_mut().zip(text).take(span.len()).for_each(|(byte, new)| *byte = new);
        }
        Edited { message: start..at.end, saved: changed }
    }

    /// By how much the message grows behind a position: so far is moved what stands there.
    fn growth_behind(&self, at: u16) -> isize {
        let behind = self.changes().filter(|(replaced, _)| replaced.start >= at);
        behind.map(|(replaced, text)| text.len() as isize - replaced.len() as isize).sum()
    }
}

#[inline]
fn append(out: &mut [u8], at: usize, bytes: &[u8]) -> Option<usize> {
    let end = at + bytes.len();
    out.get_mut(at..end)?.copy_from_slice(bytes);
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The obviously right way: a new vector.
    fn naive(original: &[u8], changes: &[(Span, Vec<u8>)]) -> Vec<u8> {
        let mut sorted: Vec<_> = changes.to_vec();
        sorted.sort_by_key(|(span, _)| span.start);
        let (mut out, mut from) = (Vec::new(), 0);
        for (span, text) in sorted {
            out.extend_from_slice(&original[from..span.start as usize]);
            out.extend_from_slice(&text);
            from = span.end as usize;
        }
        out.extend_from_slice(&original[from..]);
        out
    }

    /// A message and changes at positions that do not overlap, in any order.
    fn case() -> impl Strategy<Value = (Vec<u8>, Vec<(Span, Vec<u8>)>)> {
        let cuts = proptest::collection::btree_set(0usize..400, 0..20);
        let texts = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 10);
        (proptest::collection::vec(any::<u8>(), 400..600), cuts, texts, any::<u64>()).prop_map(
            |(message, cuts, texts, seed)| {
                let cuts: Vec<_> = cuts.into_iter().collect();
                let mut changes: Vec<_> =
                    cuts.chunks_exact(2).zip(texts).map(|(cut, text)| (Span::new(cut[0], cut[1]), text)).collect();
                let by = if changes.is_empty() { 0 } else { seed as usize % changes.len() };
                changes.rotate_left(by);
                (message, changes)
            },
        )
    }

    fn edits(changes: &[(Span, Vec<u8>)]) -> Edits {
        let mut edits = Edits::default();
        for (span, text) in changes {
            edits.replace(*span).put(&text[..text.len() / 2]).put(&text[text.len() / 2..]);
        }
        edits
    }

    proptest! {
        #[test]
        fn editing_in_place_is_building_anew((message, changes) in case()) {
            let edits = edits(&changes);
            let mut buffer = [vec![0; HEADROOM], message.clone(), vec![0xee; 16]].concat();
            let mut saved = vec![0; 700];
            let at = HEADROOM..HEADROOM + message.len();
            let edited = edits.apply(&mut buffer, at.clone(), &mut saved);
            let expected = naive(&message, &changes);
            prop_assert_eq!(&buffer[edited.message.clone()], &expected[..]);
            prop_assert_eq!(edited.message.len() as isize, message.len() as isize + edits.growth());
            let mut out = vec![0; 2000];
            let copied = edits.copy(&message, Span::new(0, message.len()), &mut out).unwrap();
            prop_assert_eq!(&out[..copied], &expected[..]);
            // Behind the last change nothing was touched, and what was saved restores the original.
            prop_assert_eq!(&buffer[at.end..], &[0xee; 16]);
            buffer[at.start..at.start + edited.saved].copy_from_slice(&saved[..edited.saved]);
            prop_assert_eq!(&buffer[at], &message[..]);
        }
    }

    #[test]
    fn changes_at_one_place_stand_in_the_order_they_were_made() {
        let mut edits = Edits::default();
        edits.insert(3).put(b"one,");
        edits.insert(3).put(b"two,");
        edits.replace(Span::new(3, 4));
        let mut out = [0; 32];
        let len = edits.copy(b"abcXdef", Span::new(0, 7), &mut out).unwrap();
        assert_eq!(&out[..len], b"abcone,two,def");
    }

    #[test]
    fn an_insertion_stands_before_what_is_cut_at_its_place() {
        let mut edits = Edits::default();
        edits.replace(Span::new(3, 5)).put(b"new,");
        edits.insert(3).put(b"one,");
        let mut buffer = [&[0; HEADROOM][..], b"abcXYdef"].concat();
        let edited = edits.apply(&mut buffer, HEADROOM..HEADROOM + 8, &mut [0; 8]);
        assert_eq!(&buffer[edited.message], b"abcone,new,def");
        let mut out = [0; 32];
        let len = edits.copy(b"abcXYdef", Span::new(0, 8), &mut out).unwrap();
        assert_eq!(&out[..len], b"abcone,new,def");
    }

    #[test]
    fn digits_are_written_over_where_their_number_stays() {
        let message = b"via, 70; route, end";
        for (cut, value, wanted, saved) in [
            (Span::new(0, 3), 69, &b"VIA*, 69; route, end"[..], 7),
            (Span::new(9, 14), 69, b"via, 69; VIA*, end", 14),
            (Span::new(0, 3), 9, b"VIA*, 9; route, end", 7),
        ] {
            let mut edits = Edits::default();
            edits.replace(cut).put(b"VIA*");
            edits.write_over(Span::new(5, 7), &Text::<16>::octet(value));
            let mut buffer = [&[0; HEADROOM][..], message].concat();
            let mut kept = [0; 32];
            let edited = edits.apply(&mut buffer, HEADROOM..HEADROOM + message.len(), &mut kept);
            assert_eq!(buffer[edited.message], *wanted);
            assert_eq!(edited.saved, saved);
            buffer[HEADROOM..HEADROOM + saved].copy_from_slice(&kept[..saved]);
            assert_eq!(buffer[HEADROOM..], *message);
        }
    }

    #[test]
    fn cuts_that_follow_each_other_are_one_piece() {
        let cut = |changes: &dyn Fn(&mut Edits)| {
            let mut edits = Edits::default();
            changes(&mut edits);
            let mut buffer = [&[0; HEADROOM][..], b"abcdefgh"].concat();
            let edited = edits.apply(&mut buffer, HEADROOM..HEADROOM + 8, &mut [0; 8]);
            (String::from_utf8(buffer[edited.message].to_vec()).unwrap(), edits.count)
        };
        let two = |edits: &mut Edits| [(2, 3), (3, 5)].iter().for_each(|(from, to)| edits.cut(Span::new(*from, *to)));
        assert_eq!(cut(&two), ("abfgh".into(), 1));
        let apart = |edits: &mut Edits| [(2, 3), (4, 5)].iter().for_each(|(from, to)| edits.cut(Span::new(*from, *to)));
        assert_eq!(cut(&apart), ("abdfgh".into(), 2));
        let behind_a_text = |edits: &mut Edits| {
            edits.replace(Span::new(1, 2)).put(b"X");
            two(edits);
        };
        assert_eq!(cut(&behind_a_text), ("aXfgh".into(), 2));
        let around_an_insertion = |edits: &mut Edits| {
            edits.insert(3).put(b"X");
            two(edits);
        };
        assert_eq!(cut(&around_an_insertion), ("abXfgh".into(), 3));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let mut edits = Edits::default();
        edits.insert(0).put(&[0; HEADROOM]);
        assert!(!edits.overflowed());
        edits.put(&[0]);
        assert!(edits.overflowed());
        edits.clear();
        for _ in 0..=MAX_SPLICES {
            edits.insert(0);
        }
        assert!(edits.overflowed());
    }
}
