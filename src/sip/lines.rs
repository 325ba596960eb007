//! The header lines of a message: where they begin, which names they have. Line ends are found 64 bytes at a time.

use wide::u8x32;

use super::header::trim;
use super::message::{Fault, Span};
use super::name::{self, Name};

/// The most header lines of one message. A call through six proxies with history and identity headers has about
/// sixty; beyond twice that it is an attack, and a fixed limit keeps the index inside the message.
pub const MAX_HEADERS: usize = 128;

/// One header line of a name that routing reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The whole line with its line end.
    pub span: Span,
    /// Just behind the colon.
    pub colon_end: u16,
    pub name: Name,
}

impl Line {
    /// The whole value, without blanks around it.
    #[inline(always)]
    pub fn value(self, bytes: &[u8]) -> Span {
        match self.usual_ends(bytes) {
            Some((start, end)) if start < end && bytes[start] > b' ' && bytes[end - 1] > b' ' => Span::new(start, end),
            _ => trim(bytes, self.colon_end as usize, self.span.end as usize),
        }
    }

    /// What stands between a space behind the colon and CRLF: what nearly everybody writes. More blanks may be in it, and
    /// nothing else.
    #[inline(always)]
    pub(super) fn usual_ends(self, bytes: &[u8]) -> Option<(usize, usize)> {
        let (start, end) = (self.colon_end as usize, self.span.end as usize);
        // In the order of comparisons that costs least.
        let is_inside = start + 3 <= end && end <= bytes.len();
        (is_inside && bytes[start] == b' ' && bytes[end - 2..end] == *b"\r\n").then_some((start + 1, end - 2))
    }

    /// Whether there is a value.
    #[inline(always)]
    pub(super) fn has_value(self, bytes: &[u8]) -> bool {
        let start = self.colon_end as usize;
        bytes.get(start + 1).is_some_and(|byte| *byte > b' ') && start + 1 < self.span.end as usize
            || !self.value(bytes).is_empty()
    }
}

/// The header lines of the names that routing reads; of all others only with which letters they begin.
#[derive(Clone, Debug)]
pub struct Lines {
    /// Where the first one begins, and where the last one ends.
    head: u16,
    end: u16,
    /// The names that stand more than once, as bits.
    again: u32,
    /// The letters, in any case, that lines begin with, those of other names too: their lowest five bits as bits.
    letters: u32,
    /// The first line of each name: where it begins, where it ends (at 0 where the name is not there), where its colon does.
    /// Apart, so that all of them are forgotten with two stores.
    starts: [u16; Name::COUNT],
    ends: [u16; Name::COUNT],
    colon_ends: [u16; Name::COUNT],
    /// The lines behind the first one of their name, and how many they are.
    rest: [Line; MAX_HEADERS],
    rest_len: u32,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            head: 0,
            end: 0,
            again: 0,
            letters: 0,
            starts: [0; Name::COUNT],
            ends: [0; Name::COUNT],
            colon_ends: [0; Name::COUNT],
            rest: [Line::default(); MAX_HEADERS],
            rest_len: 0,
        }
    }
}

impl Lines {
    /// Whether a header of this name is present.
    #[inline]
    pub fn has(&self, name: Name) -> bool {
        self.ends[name as usize] != 0
    }

    /// Whether one of these names, as bits, stands more than once.
    #[inline]
    pub fn has_again(&self, names: u32) -> bool {
        self.again & names != 0
    }

    /// The first header line of a name.
    #[inline(always)]
    pub fn first(&self, name: Name) -> Option<Line> {
        let at = name as usize;
        let span = Span { start: self.starts[at], end: self.ends[at] };
        (span.end != 0).then_some(Line { span, colon_end: self.colon_ends[at], name })
    }

    /// The value of the first header line of a name; `None`, too, where that is empty.
    #[inline(always)]
    pub fn value(&self, bytes: &[u8], name: Name) -> Option<Span> {
        self.first(name).map(|line| line.value(bytes)).filter(|value| !value.is_empty())
    }

    /// The header lines of a name, first to last.
    #[inline]
    pub fn of(&self, name: Name) -> impl Iterator<Item = Line> + '_ {
        let rest = if self.has_again(name.bit()) { &self.rest[..self.rest_len as usize] } else { &[] };
        self.first(name).into_iter().chain(rest.iter().copied().filter(move |line| line.name == name))
    }

    /// Whether a header line may begin with this letter, whatever its name.
    #[inline]
    pub fn may_begin_with(&self, letter: u8) -> bool {
        self.letters & letter_bit(letter) != 0
    }

    /// Every header line, whatever its name, with those that continue it.
    pub fn all<'l>(&self, bytes: &'l [u8]) -> impl Iterator<Item = Span> + use<'l> {
        All { bytes, at: self.head.into(), end: self.end.into() }
    }

    /// Where the last line ends.
    pub(super) fn end(&self) -> usize {
        self.end.into()
    }

    /// Finds the lines from `head` on, in place of what was found before, and says where the body begins.
    ///
    /// # Errors
    /// [`Fault::NoEndOfHead`] or [`Fault::TooManyHeaders`]; what was found until there stays.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], head: usize) -> Result<usize, Fault> {
        self.ends = [0; Name::COUNT];
        (self.again, self.letters, self.rest_len) = (0, 0, 0);
        let mut walk = Walk { start: head as u32, room: MAX_HEADERS as u32 };
        let body = loop {
            walk = self.note_usual(bytes, walk);
            match bytes.get(walk.start as usize..) {
                Some([b'\r', b'\n', ..]) => break Ok(walk.start as usize + 2),
                _ => match self.note_odd(bytes, head, walk) {
                    Ok(Odd::Noted(next)) => walk = next,
                    Ok(Odd::EndsAt(body)) => break Ok(body),
                    Err(fault) => break Err(fault),
                },
            }
        };
        (self.head, self.end) = (head as u16, walk.start as u16);
        body
    }

    /// Notes one line after the other, and stops before what wants a closer look. Nothing is called in here: the loop
    /// lives in registers.
    #[inline(never)]
    fn note_usual(&mut self, bytes: &[u8], walk: Walk) -> Walk {
        let Walk { mut start, mut room } = walk;
        let mut letters = self.letters;
        let mut block = start;
        'blocks: while room > 0
            && let Some(mut ends) = line_ends_at(bytes, block)
        {
            while ends != 0 {
                let Some(text) = chunk_at(bytes, start) else { break 'blocks };
                let end = block.wrapping_add(ends.trailing_zeros()).wrapping_add(1);
                let letters_of = name::letters(text);
                let found = match name::long(text, letters_of) {
                    None => match name::other(text, letters_of) {
                        Some(found) => found,
                        None => break 'blocks,
                    },
                    found => found,
                };
                letters |= letter_bit(letters_of as u8);
                if let Some((name, length)) = found {
                    let span = Span { start: start as u16, end: end as u16 };
                    self.note(span, start.wrapping_add(u32::from(length)) as u16, name);
                }
                (start, ends, room) = (end, ends & (ends - 1), room.wrapping_sub(1));
                if room == 0 {
                    break 'blocks;
                }
            }
            block = block.wrapping_add(BLOCK as u32);
        }
        self.letters = letters;
        Walk { start, room }
    }

    #[inline(always)]
    fn note(&mut self, span: Span, colon_end: u16, name: Name) {
        if self.has(name) {
            self.again |= name.bit();
            // Never more than there are lines.
            self.rest[self.rest_len as usize % MAX_HEADERS] = Line { span, colon_end, name };
            self.rest_len = self.rest_len.wrapping_add(1);
            return;
        }
        let at = name as usize;
        (self.starts[at], self.ends[at], self.colon_ends[at]) = (span.start, span.end, colon_end);
    }

    /// What stops the usual: a line that continues the one before (RFC 3261 §7.3.1), a blank before a colon, the last
    /// bytes of a message, an end of the head without carriage return.
    #[cold]
    fn note_odd(&mut self, bytes: &[u8], head: usize, walk: Walk) -> Result<Odd, Fault> {
        let (start, mut room) = (walk.start as usize, walk.room);
        let continues = match bytes.get(start) {
            Some(b'\n') => return Ok(Odd::EndsAt(start + 1)),
            Some(b' ' | b'\t') => start > head,
            _ => false,
        };
        if !continues && room == 0 && start < bytes.len() {
            return Err(Fault::TooManyHeaders);
        }
        // The line that was begun last may have no end.
        let end = find(bytes, start, bytes.len(), b'\n').ok_or(Fault::NoEndOfHead)? + 1;
        if continues {
            self.lengthen(start, end);
        } else {
            self.letters |= letter_bit(bytes[start]);
            if let Some((name, colon_end)) = name::identify(bytes, start) {
                self.note(Span::new(start, end), colon_end as u16, name);
            }
            room -= 1;
        }
        Ok(Odd::Noted(Walk { start: end as u32, room }))
    }

    /// The line that ends here, the last one, goes on, if its name is one of ours. Folds are not counted as lines are, so
    /// little is looked at: of those behind the first of their name only the last one can be it.
    fn lengthen(&mut self, end: usize, new_end: usize) {
        let last = (self.rest_len as usize).checked_sub(1).and_then(|last| self.rest.get_mut(last));
        let last = last.map(|line| &mut line.span.end);
        if let Some(found) = self.ends.iter_mut().chain(last).find(|other| usize::from(**other) == end) {
            *found = new_end as u16;
        }
    }
}

/// A letter, in any case, as a bit. Other bytes may share it.
#[inline(always)]
fn letter_bit(letter: u8) -> u32 {
    1 << (letter & 31)
}

/// The header lines that lie between two positions, each with those that continue it.
struct All<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl Iterator for All<'_> {
    type Item = Span;

    #[inline]
    fn next(&mut self) -> Option<Span> {
        let start = self.at;
        while self.at < self.end {
            self.at = find(self.bytes, self.at, self.end, b'\n').map_or(self.end, |at| at + 1);
            if !matches!(self.bytes[..self.end].get(self.at), Some(b' ' | b'\t')) {
                return Some(Span::new(start, self.at));
            }
        }
        (start < self.end).then(|| Span::new(start, self.end))
    }
}

/// How far the lines were noted: where the next one begins, and for how many there is room.
#[derive(Clone, Copy)]
struct Walk {
    start: u32,
    room: u32,
}

/// What a closer look saw.
enum Odd {
    Noted(Walk),
    /// The body begins here.
    EndsAt(usize),
}

const BLOCK: usize = 64;

/// So many bytes at a position. Of one in a message, so that the compiler knows that nothing overflows.
#[inline(always)]
fn chunk_at<const N: usize>(bytes: &[u8], at: u32) -> Option<&[u8; N]> {
    bytes.get(at as usize..at as usize + N)?.first_chunk()
}

/// The line ends in the block at a position, as bits; `None` behind the last one, and in a message that is shorter than a
/// block.
#[inline(always)]
fn line_ends_at(bytes: &[u8], at: u32) -> Option<u64> {
    match chunk_at(bytes, at) {
        Some(block) => Some(line_ends(block)),
        None => rest_line_ends_at(bytes, at as usize),
    }
}

/// The same in less than a block: the last block ends with the message; what was seen of it before does not count again.
#[cold]
fn rest_line_ends_at(bytes: &[u8], at: usize) -> Option<u64> {
    let rest = bytes.len().checked_sub(at).filter(|rest| *rest > 0)?;
    Some(line_ends(bytes.last_chunk()?) >> (BLOCK - rest))
}

/// The line ends of a block, as bits.
#[inline(always)]
fn line_ends(block: &[u8; BLOCK]) -> u64 {
    let (halves, _) = block.as_chunks::<32>();
    let ends = |half: [u8; 32]| u64::from(u8x32::new(half).simd_eq(u8x32::splat(b'\n')).to_bitmask());
    ends(halves[0]) | ends(halves[1]) << 32
}

/// The first place in `at..end` whose byte is wanted, 32 bytes at a time: what stands in a header is too short for the
/// general search, which costs sixty instructions before it looks at the first byte.
#[inline(always)]
fn find_where(bytes: &[u8], at: usize, end: usize, wanted: impl Fn(u8x32) -> u8x32) -> Option<usize> {
    let mut block = at;
    while block < end {
        let found = match bytes.get(block..).and_then(|rest| rest.first_chunk::<32>()) {
            Some(bytes) => wanted(u8x32::new(*bytes)).to_bitmask(),
            None => wanted(rest_at(bytes, block)).to_bitmask(),
        };
        if found != 0 {
            return Some(block + found.trailing_zeros() as usize).filter(|found| *found < end);
        }
        block += 32;
    }
    None
}

/// The last bytes, fewer than 32, and zeros behind them.
#[cold]
fn rest_at(bytes: &[u8], at: usize) -> u8x32 {
    let (mut block, rest) = ([0; 32], bytes.get(at..).unwrap_or_default());
    block[..rest.len()].copy_from_slice(rest);
    u8x32::new(block)
}

/// The first place of a byte in `at..end`.
#[inline(always)]
pub fn find(bytes: &[u8], at: usize, end: usize, byte: u8) -> Option<usize> {
    find_where(bytes, at, end, |block| block.simd_eq(u8x32::splat(byte)))
}

/// The first place of a blank or a control character in `at..end`.
#[inline(always)]
pub fn find_blank(bytes: &[u8], at: usize, end: usize) -> Option<usize> {
    find_where(bytes, at, end, |block| block.simd_eq(block.min(u8x32::splat(b' '))))
}

/// The first place in `at..end` of what a Request-URI hardly ever holds: blanks, controls, `<`, `>` and `?`.
#[inline(always)]
pub fn find_uri_mark(bytes: &[u8], at: usize, end: usize) -> Option<usize> {
    find_where(bytes, at, end, |block| {
        let is = |byte| block.simd_eq(u8x32::splat(byte));
        block.simd_eq(block.min(u8x32::splat(b' '))) | is(b'<') | is(b'>') | is(b'?')
    })
}

/// Whether a carriage return in `at..end` has no line feed behind it.
pub fn has_lone_return(bytes: &[u8], at: usize, end: usize) -> bool {
    let is = |block: u8x32, byte| block.simd_eq(u8x32::splat(byte));
    has_pair(&bytes[at..end], |this, next| is(this, b'\r') & !is(next, b'\n'))
        || bytes[at..end].last() == Some(&b'\r') && bytes.get(end) != Some(&b'\n')
}

/// Whether a carriage return in `at..end` has no line feed behind it there, or a line feed no carriage return before it.
#[inline]
pub fn has_unpaired_line_end(bytes: &[u8], at: usize, end: usize) -> bool {
    let is = |block: u8x32, byte| block.simd_eq(u8x32::splat(byte));
    let text = &bytes[at..end];
    has_pair(text, |this, next| is(this, b'\r') ^ is(next, b'\n'))
        || text.first() == Some(&b'\n')
        || text.last() == Some(&b'\r')
}

/// Whether a byte and the one behind it are wanted, 64 pairs at a time; two zeros must not be.
#[inline(always)]
fn has_pair(text: &[u8], wanted: impl Fn(u8x32, u8x32) -> u8x32) -> bool {
    let (Some((_, nexts)), Some((_, these))) = (text.split_first(), text.split_last()) else { return false };
    let wanted_in = |this: &[u8; 32], next: &[u8; 32]| wanted(u8x32::new(*this), u8x32::new(*next));
    let (blocks, next_blocks) = (these.as_chunks::<BLOCK>().0, nexts.as_chunks::<BLOCK>().0);
    let mut any = u8x32::ZERO;
    for (this, next) in blocks.iter().zip(next_blocks) {
        for (this, next) in this.as_chunks().0.iter().zip(next.as_chunks().0) {
            any |= wanted_in(this, next);
        }
    }
    // What is behind the last whole block; some of it was looked at before.
    let (rest, next_rest) = (&these[these.len() - these.len() % BLOCK..], &nexts[nexts.len() - nexts.len() % BLOCK..]);
    any |= match (rest.first_chunk(), next_rest.first_chunk()) {
        (Some(this), Some(next)) => wanted_in(this, next),
        _ => u8x32::ZERO,
    };
    any |= match (these.last_chunk(), nexts.last_chunk()) {
        (Some(this), Some(next)) => wanted_in(this, next),
        _ => wanted(rest_at(these, 0), rest_at(nexts, 0)),
    };
    any.to_bitmask() != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_found_by_blocks_is_what_a_loop_finds(text in "[ab \\r\\n]{0,150}", at in 0usize..150, end in 0usize..150) {
            let bytes = text.as_bytes();
            let end = end.min(bytes.len());
            let at = at.min(end);
            let first = |wanted: &dyn Fn(u8) -> bool| (at..end).find(|n| wanted(bytes[*n]));
            prop_assert_eq!(find(bytes, at, end, b'a'), first(&|b| b == b'a'));
            prop_assert_eq!(find_blank(bytes, at, end), first(&|b| b <= b' '));
            let lone = (at..end).any(|n| bytes[n] == b'\r' && bytes.get(n + 1) != Some(&b'\n'));
            prop_assert_eq!(has_lone_return(bytes, at, end), lone);
            let paired = bytes[at..end].escape_ascii().to_string().replace("\\r\\n", "");
            let unpaired = paired.contains("\\r") || paired.contains("\\n");
            prop_assert_eq!(has_unpaired_line_end(bytes, at, end), unpaired);
        }
    }
}
