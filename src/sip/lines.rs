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
}

impl Line {
    /// The whole value, without blanks around it.
    #[inline(always)]
    pub fn value(self, bytes: &[u8]) -> Span {
        self.usual_value(bytes).unwrap_or_else(|| trim(bytes, self.colon_end as usize, self.span.end as usize))
    }

    /// A value that is not empty, and that no blanks stand around but the usual one.
    #[inline(always)]
    pub(super) fn usual_value(self, bytes: &[u8]) -> Option<Span> {
        let (start, end) = self.usual_ends(bytes)?;
        (start < end && bytes[start] > b' ' && bytes[end - 1] > b' ').then(|| Span::new(start, end))
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

/// Lines are known by their place. The first one of a name stands at the name's, the others behind these as they come.
const PLACES: usize = 256;

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
    /// Of the line at each place: where it begins, where it ends (at 0 where there is none, or no end), where its colon does.
    /// Apart, so that all that are the first of their name are forgotten with two stores.
    starts: [u16; PLACES],
    ends: [u16; PLACES],
    colon_ends: [u16; PLACES],
    /// The names of those that are not the first of theirs.
    names: [Name; PLACES],
    /// Where the next of these goes.
    free: u8,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            head: 0,
            end: 0,
            again: 0,
            letters: 0,
            starts: [0; PLACES],
            ends: [0; PLACES],
            colon_ends: [0; PLACES],
            names: [Name::Other; PLACES],
            free: Name::COUNT as u8,
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

    #[inline(always)]
    fn at(&self, place: u8) -> Line {
        let place = place as usize;
        let span = Span { start: self.starts[place], end: self.ends[place] };
        Line { span, colon_end: self.colon_ends[place] }
    }

    /// The first header line of a name.
    #[inline(always)]
    pub fn first(&self, name: Name) -> Option<Line> {
        let line = self.at(name as u8);
        (line.span.end != 0).then_some(line)
    }

    /// The value of the first header line of a name; `None`, too, where that is empty.
    #[inline(always)]
    pub fn value(&self, bytes: &[u8], name: Name) -> Option<Span> {
        let line = self.first(name)?;
        line.usual_value(bytes).or_else(|| Some(line.value(bytes)).filter(|value| !value.is_empty()))
    }

    /// The header lines of a name, first to last.
    #[inline]
    pub fn of(&self, name: Name) -> impl Iterator<Item = Line> + '_ {
        let others = Name::COUNT as u8..if self.has_again(name.bit()) { self.free } else { 0 };
        let others = others.filter(move |place| self.names[*place as usize] == name).map(|place| self.at(place));
        self.first(name).into_iter().chain(others.filter(|line| line.span.end != 0))
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

    /// Finds the lines from `head` on, just behind a line end, in place of what was found before, and says where the body
    /// begins.
    ///
    /// # Errors
    /// [`Fault::NoEndOfHead`] or [`Fault::TooManyHeaders`]; what was found until there stays.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], head: usize) -> Result<usize, Fault> {
        debug_assert!(head > 0 && bytes[head - 1] == b'\n');
        self.ends[..Name::COUNT].fill(0);
        (self.again, self.letters, self.free) = (0, 0, Name::COUNT as u8);
        self.head = head as u16;
        let walk = self.note_usual(bytes, Walk { start: head as u32, room: MAX_HEADERS as u32 + 1 });
        if !bytes[walk.start as usize..].starts_with(b"\r\n") {
            return self.read_on(bytes, walk);
        }
        self.end = walk.start as u16;
        Ok(walk.start as usize + 2)
    }

    /// Goes on where the usual stopped.
    #[cold]
    #[inline(never)]
    fn read_on(&mut self, bytes: &[u8], mut walk: Walk) -> Result<usize, Fault> {
        let body = loop {
            match self.note_odd(bytes, walk) {
                Ok(Odd::Noted(next)) => walk = self.note_usual(bytes, next),
                Ok(Odd::EndsAt(body)) => break Ok(body),
                Err(fault) => break Err(fault),
            }
        };
        self.end = walk.start as u16;
        body
    }

    /// Notes one line after the other, and stops before what wants a closer look. Where a line ends the next one begins,
    /// and its name lies in the same window. Hardly anything is called in here: the loop lives in registers.
    #[inline(never)]
    fn note_usual(&mut self, bytes: &[u8], walk: Walk) -> Walk {
        let Walk { mut start, mut room } = walk;
        // A line begins behind each line end, the first one behind that of the start line.
        let mut block = start.wrapping_sub(1);
        let (mut letters, mut place) = (self.letters, Name::Other as usize);
        let mut tail;
        let room = 'blocks: loop {
            let window: &[u8; WINDOW] = match chunk_at(bytes, block as usize) {
                Some(window) => window,
                // The line that was begun last has no end.
                None if block as usize >= bytes.len() => break room.wrapping_add(1),
                // The last window has zeros behind the message. Of one that is shorter the lines are looked at one by one.
                None => {
                    let Some(last) = bytes.last_chunk::<{ WINDOW - 1 }>() else { break room };
                    tail = [0; 2 * WINDOW - 1];
                    tail[..last.len()].copy_from_slice(last);
                    match chunk_at(&tail, block as usize + last.len() - bytes.len()) {
                        Some(window) => window,
                        None => break room,
                    }
                }
            };
            let mut ends = line_ends(window);
            while ends != 0 {
                let behind = ends.trailing_zeros() as usize + 1;
                start = block.wrapping_add(behind as u32);
                self.ends[place] = start as u16;
                let Some(text) = window[behind..behind + name::WIDTH].first_chunk() else { break 'blocks room };
                let letters_of = name::letters(text);
                let found = match name::long(text, letters_of) {
                    None => match name::other(text, letters_of) {
                        Some(found) => found,
                        None => break 'blocks room,
                    },
                    found => found,
                };
                letters |= letter_bit(letters_of as u8);
                place = match found {
                    Some((name, length)) => self.begin(start, start.wrapping_add(length.into()), name),
                    None => Name::Other as usize,
                };
                (ends, room) = (ends & (ends - 1), room.wrapping_sub(1));
                if room == 0 {
                    break 'blocks 0;
                }
            }
            block = block.wrapping_add(BLOCK as u32);
        };
        self.letters = letters;
        Walk { start, room }
    }

    /// Finds a place for a line whose end is not known yet.
    #[inline(always)]
    fn begin(&mut self, start: u32, colon_end: u32, name: Name) -> usize {
        let place = if self.has(name) { self.begin_again(name).into() } else { name as usize };
        (self.starts[place], self.colon_ends[place]) = (start as u16, colon_end as u16);
        place
    }

    /// The same for a name that is there. Out of the loop, which it would cost registers.
    #[cold]
    #[inline(never)]
    fn begin_again(&mut self, name: Name) -> u8 {
        self.again |= name.bit();
        let place = self.free;
        // There are never more than MAX_HEADERS.
        self.free = place.wrapping_add(1);
        (self.names[place as usize], self.ends[place as usize]) = (name, 0);
        place
    }

    /// What stops the usual: a line that continues the one before (RFC 3261 §7.3.1), a blank before a colon, the last
    /// bytes of a message, an end of the head without carriage return.
    fn note_odd(&mut self, bytes: &[u8], walk: Walk) -> Result<Odd, Fault> {
        let (start, mut room) = (walk.start as usize, walk.room);
        let continues = match bytes.get(start..).unwrap_or_default() {
            [b'\r', b'\n', ..] => return Ok(Odd::EndsAt(start + 2)),
            [b'\n', ..] => return Ok(Odd::EndsAt(start + 1)),
            [b' ' | b'\t', ..] => start > self.head.into(),
            _ => false,
        };
        if !continues && room <= 1 && start < bytes.len() {
            return Err(Fault::TooManyHeaders);
        }
        // The line that was begun last may have no end.
        let end = find(bytes, start, bytes.len(), b'\n').ok_or(Fault::NoEndOfHead)? + 1;
        if continues {
            self.lengthen(start, end);
        } else {
            self.letters |= letter_bit(bytes[start]);
            if let Some((name, colon_end)) = name::identify(bytes, start) {
                let place = self.begin(start as u32, colon_end as u32, name);
                self.ends[place] = end as u16;
            }
            room -= 1;
        }
        Ok(Odd::Noted(Walk { start: end as u32, room }))
    }

    /// The line that ends here, the last one, goes on, if its name is one of ours. Folds are not counted as lines are, so
    /// little is looked at: of those behind the first of their name only the last one can be it.
    fn lengthen(&mut self, end: usize, new_end: usize) {
        let (first, others) = self.ends.split_at_mut(Name::COUNT);
        let last = (self.free as usize).checked_sub(Name::COUNT + 1).map(|last| &mut others[last]);
        // Where the lines without a name of ours end, nobody asks.
        let named = &mut first[Name::Other as usize + 1..];
        if let Some(found) = named.iter_mut().chain(last).find(|other| usize::from(**other) == end) {
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

/// How far the lines were noted: where the next one begins, and for how many there is room, the empty one at the end of the
/// head among them.
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

/// A block, and behind it as much as says the name of a line that begins behind its last byte.
const WINDOW: usize = BLOCK + 1 + name::WIDTH;

/// So many bytes at a position.
#[inline(always)]
pub(super) fn chunk_at<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    // Of a position in a message the compiler knows that nothing overflows.
    bytes.get(at as u32 as usize..at as u32 as usize + N)?.first_chunk()
}

/// The last bytes, fewer than so many, and zeros behind them.
#[cold]
fn rest_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let (mut rest, found) = ([0; N], bytes.get(at..).unwrap_or_default());
    let len = found.len().min(N);
    rest[..len].copy_from_slice(&found[..len]);
    rest
}

/// The line ends of a window's block, as bits.
#[inline(always)]
fn line_ends(window: &[u8; WINDOW]) -> u64 {
    let (halves, _) = window.as_chunks::<32>();
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
            None => wanted(u8x32::new(rest_at(bytes, block))).to_bitmask(),
        };
        if found != 0 {
            return Some(block + found.trailing_zeros() as usize).filter(|found| *found < end);
        }
        block += 32;
    }
    None
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
        let angle = (block & u8x32::splat(!2)).simd_eq(u8x32::splat(b'<'));
        block.simd_eq(block.min(u8x32::splat(b' '))) | angle | block.simd_eq(u8x32::splat(b'?'))
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
        _ => wanted(u8x32::new(rest_at(these, 0)), u8x32::new(rest_at(nexts, 0))),
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
