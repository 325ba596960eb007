//! The header lines of a message: where they begin, which names they have. Line ends are found 64 bytes at a time.

use wide::u8x32;

use super::header::trim;
use super::message::{Fault, Span};
use super::name::{self, Name};

/// The most header lines of one message. A call through six proxies with history and identity headers has about
/// sixty; beyond twice that it is an attack, and a fixed limit keeps the index inside the message.
pub const MAX_HEADERS: usize = 128;

/// One header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The whole line with its line end.
    pub span: Span,
    pub name: Name,
    /// Just behind the colon. Means nothing for [`Name::Other`].
    pub colon_end: u16,
}

impl Line {
    /// The whole value, without blanks around it. Means nothing for [`Name::Other`].
    #[inline(always)]
    pub fn value(self, bytes: &[u8]) -> Span {
        trim(bytes, self.colon_end as usize, self.span.end as usize)
    }
}

/// The header lines: where each begins, which name it has, where the name ends; and the first one of each name.
#[derive(Clone, Debug)]
pub struct Lines {
    /// One more than there are lines: where the last one ends. As long as a byte counts, here and below: an index then
    /// needs no check.
    starts: [u16; 256],
    colon_ends: [u16; 256],
    names: [Name; 256],
    count: u8,
    /// The first line of each name, plus one; zero where there is none. Means nothing for [`Name::Other`].
    first: [u8; Name::COUNT],
    /// The names that stand more than once, as bits.
    again: u32,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            starts: [0; 256],
            colon_ends: [0; 256],
            names: [Name::Other; 256],
            count: 0,
            first: [0; Name::COUNT],
            again: 0,
        }
    }
}

impl Lines {
    /// Whether a header of this name is present.
    #[inline]
    pub fn has(&self, name: Name) -> bool {
        self.first[name as usize] != 0
    }

    /// Whether one of these names, as bits, stands more than once.
    #[inline]
    pub fn has_again(&self, names: u32) -> bool {
        self.again & names != 0
    }

    /// The first header line of a name.
    #[inline(always)]
    pub fn first(&self, name: Name) -> Option<Line> {
        match self.first[name as usize] {
            0 => None,
            first => Some(self.get(first.wrapping_sub(1))),
        }
    }

    /// The header lines of a name, first to last.
    #[inline]
    pub fn of(&self, name: Name) -> impl Iterator<Item = Line> + '_ {
        let from = match self.first[name as usize] {
            0 => self.count,
            first => first - 1,
        };
        (from..self.count).map(|index| self.get(index)).filter(move |line| line.name == name)
    }

    /// The header lines that begin with this byte; letters in lower case stand for both.
    #[inline]
    pub fn beginning_with<'l>(&'l self, bytes: &'l [u8], first: u8) -> impl Iterator<Item = Line> + use<'l> {
        let starts = self.starts.iter().zip(0..self.count);
        let so = starts.filter(move |(start, _)| bytes.get(**start as usize).is_some_and(|byte| byte | 0x20 == first));
        so.map(|(_, index)| self.get(index))
    }

    /// Where the last line ends.
    pub(super) fn end(&self) -> usize {
        self.starts[self.count as usize].into()
    }

    #[inline(always)]
    fn get(&self, index: u8) -> Line {
        let (this, next) = (index as usize, index.wrapping_add(1) as usize);
        Line {
            span: Span { start: self.starts[this], end: self.starts[next] },
            name: self.names[this],
            colon_end: self.colon_ends[this],
        }
    }

    /// Finds the lines from `head` on, in place of what was found before, and says where the body begins.
    ///
    /// # Errors
    /// [`Fault::NoEndOfHead`] or [`Fault::TooManyHeaders`]; what was found until there stays.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], head: usize) -> Result<usize, Fault> {
        (self.first, self.again) = ([0; Name::COUNT], 0);
        let mut walk = Walk { start: head, count: 0 };
        let body = loop {
            walk = self.note_usual(bytes, walk);
            match bytes.get(walk.start..) {
                Some([b'\r', b'\n', ..]) => break Ok(walk.start + 2),
                _ => match self.note_odd(bytes, head, walk) {
                    Ok(Odd::Noted(next)) => walk = next,
                    Ok(Odd::EndsAt(body)) => break Ok(body),
                    Err(fault) => break Err(fault),
                },
            }
        };
        self.starts[walk.count as usize] = walk.start as u16;
        self.count = walk.count;
        body
    }

    /// Notes one line after the other, and stops before what wants a closer look. Nothing is called in here: the loop
    /// lives in registers.
    #[inline(never)]
    fn note_usual(&mut self, bytes: &[u8], walk: Walk) -> Walk {
        let Walk { mut start, mut count } = walk;
        let mut ends = LineEnds::new(bytes, start);
        while let Some(line) = bytes.get(start..).and_then(|rest| rest.first_chunk())
            && (count as usize) < MAX_HEADERS
            && let Some((name, length)) = name::usual(line)
            && let Some(end) = ends.next(bytes)
        {
            self.note(count, start, name, start.wrapping_add(length));
            (start, count) = (end, count.wrapping_add(1));
        }
        Walk { start, count }
    }

    #[inline(always)]
    fn note(&mut self, index: u8, start: usize, name: Name, colon_end: usize) {
        let at = index as usize;
        (self.starts[at], self.colon_ends[at], self.names[at]) = (start as u16, colon_end as u16, name);
        match &mut self.first[name as usize % Name::COUNT] {
            none @ 0 => *none = index.wrapping_add(1),
            _ => self.again |= name.bit(),
        }
    }

    /// What stops the usual: a line that continues the one before (RFC 3261 §7.3.1), a blank before a colon, the last
    /// bytes of a message, an end of the head without carriage return.
    #[cold]
    fn note_odd(&mut self, bytes: &[u8], head: usize, walk: Walk) -> Result<Odd, Fault> {
        let Walk { start, mut count } = walk;
        let continues = match bytes.get(start) {
            Some(b'\n') => return Ok(Odd::EndsAt(start + 1)),
            Some(b' ' | b'\t') => start > head,
            _ => false,
        };
        if !continues && count as usize == MAX_HEADERS && start < bytes.len() {
            return Err(Fault::TooManyHeaders);
        }
        // The line that was begun last may have no end.
        let end = find(bytes, start, bytes.len(), b'\n').ok_or(Fault::NoEndOfHead)?;
        if !continues {
            let (name, colon_end) = name::identify(bytes, start);
            self.note(count, start, name, colon_end);
            count += 1;
        }
        Ok(Odd::Noted(Walk { start: end + 1, count }))
    }
}

/// How far the lines were noted: where the next one begins, and how many there are.
#[derive(Clone, Copy)]
struct Walk {
    start: usize,
    count: u8,
}

/// What a closer look saw.
enum Odd {
    Noted(Walk),
    /// The body begins here.
    EndsAt(usize),
}

const BLOCK: usize = 64;

/// The positions behind line ends, one after the other.
struct LineEnds<'a> {
    /// The blocks that were not looked at.
    blocks: std::slice::Iter<'a, [u8; BLOCK]>,
    /// Behind the block that `ends` is about.
    behind: usize,
    /// The line ends that were not given yet, as bits.
    ends: u64,
}

impl<'a> LineEnds<'a> {
    #[inline(always)]
    fn new(bytes: &'a [u8], from: usize) -> Self {
        let (blocks, _) = bytes.get(from..).unwrap_or_default().as_chunks();
        Self { blocks: blocks.iter(), behind: from, ends: 0 }
    }

    /// The line ends in what is no whole block, as if it were one: the last block ends with the message, and what was
    /// seen of it before does not count again.
    #[inline(always)]
    fn rest(&self, bytes: &[u8]) -> Option<u64> {
        let left = bytes.len().checked_sub(self.behind).filter(|left| (1..BLOCK).contains(left))?;
        Some(line_ends(bytes.last_chunk()?) >> (BLOCK - left))
    }

    /// The next one; `None` behind the last, and in a message that is shorter than a block.
    #[inline(always)]
    fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        while self.ends == 0 {
            match self.blocks.next() {
                Some(block) => self.ends = line_ends(block),
                None => self.ends = self.rest(bytes)?,
            }
            self.behind = self.behind.wrapping_add(BLOCK);
        }
        // Cannot overflow: a position in a message.
        let end = self.behind.wrapping_add(self.ends.trailing_zeros() as usize).wrapping_sub(BLOCK - 1);
        self.ends &= self.ends - 1;
        Some(end)
    }
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

/// Whether a byte and the one behind it are wanted, 32 pairs at a time; two zeros must not be.
#[inline(always)]
fn has_pair(text: &[u8], wanted: impl Fn(u8x32, u8x32) -> u8x32) -> bool {
    let (Some((_, nexts)), Some((_, these))) = (text.split_first(), text.split_last()) else { return false };
    let (blocks, next_blocks) = (these.as_chunks::<32>().0, nexts.as_chunks::<32>().0);
    let pairs = blocks.iter().zip(next_blocks).map(|(this, next)| wanted(u8x32::new(*this), u8x32::new(*next)));
    let last = match (these.last_chunk(), nexts.last_chunk()) {
        (Some(this), Some(next)) => wanted(u8x32::new(*this), u8x32::new(*next)),
        _ => wanted(rest_at(these, 0), rest_at(nexts, 0)),
    };
    pairs.fold(last, |any, found| any | found).to_bitmask() != 0
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
