//! Line ends, found 64 bytes at a time; and where the header lines of a message begin.

use wide::u8x32;

use super::message::Span;

/// The most header lines of one message. A call through six proxies with history and identity headers has about
/// sixty; beyond twice that it is an attack, and a fixed limit keeps the index inside the message.
pub const MAX_HEADERS: usize = 128;

const BLOCK: usize = 64;

/// The beginnings of all header lines, and of the line behind the last one.
#[derive(Clone, Debug)]
pub struct Lines {
    starts: [u16; MAX_HEADERS + 1],
    count: u8,
}

impl Default for Lines {
    fn default() -> Self {
        Self { starts: [0; MAX_HEADERS + 1], count: 0 }
    }
}

impl Lines {
    /// How many header lines there are.
    #[inline]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// A header line with its line end.
    #[inline]
    pub fn get(&self, index: usize) -> Span {
        Span { start: self.starts[index], end: self.starts[index + 1] }
    }

    /// All header lines.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        let starts = self.starts.get(..=self.count()).unwrap_or_default();
        starts.windows(2).map(|pair| Span { start: pair[0], end: pair[1] })
    }

    /// Notes where a line begins, and so where the one before ends. False where it would be one too many.
    #[inline(always)]
    pub fn begin(&mut self, index: usize, start: usize) -> bool {
        if index >= MAX_HEADERS {
            return false;
        }
        self.starts[index] = start as u16;
        true
    }

    /// Notes how many lines there are, and where the last one ends.
    #[inline]
    pub fn end(&mut self, count: usize, end: usize) {
        self.starts[count] = end as u16;
        self.count = count as u8;
    }
}

/// The positions behind line ends, one after the other.
pub struct LineEnds<'a> {
    bytes: &'a [u8],
    block: usize,
    /// The line ends of the block that were not given yet.
    ends: u64,
}

impl<'a> LineEnds<'a> {
    #[inline(always)]
    pub fn new(bytes: &'a [u8], from: usize) -> Self {
        Self { bytes, block: from, ends: line_ends(bytes, from) }
    }
}

impl Iterator for LineEnds<'_> {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        while self.ends == 0 {
            self.block += BLOCK;
            if self.block >= self.bytes.len() {
                return None;
            }
            self.ends = line_ends(self.bytes, self.block);
        }
        // Cannot overflow: a position in a message.
        let end = self.block.wrapping_add(self.ends.trailing_zeros() as usize + 1);
        self.ends &= self.ends - 1;
        Some(end)
    }
}

/// The line ends among the 64 bytes at `at`, as bits.
#[inline(always)]
fn line_ends(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(block) => line_ends_in(block),
        None => line_ends_in_rest(bytes, at),
    }
}

/// At the end of the message: looks at its last 64 bytes and forgets those before `at`.
fn line_ends_in_rest(bytes: &[u8], at: usize) -> u64 {
    let behind = bytes.len().saturating_sub(at);
    match bytes.last_chunk() {
        Some(_) if behind == 0 => 0,
        Some(block) => line_ends_in(block) >> (BLOCK - behind),
        None => {
            let mut block = [0; BLOCK];
            block[..behind].copy_from_slice(&bytes[bytes.len() - behind..]);
            line_ends_in(&block)
        }
    }
}

#[inline(always)]
fn line_ends_in(block: &[u8; BLOCK]) -> u64 {
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
    let is_lone = |at: usize| bytes[at] == b'\r' && bytes.get(at + 1) != Some(&b'\n');
    if end < at + 33 {
        return (at..end).any(is_lone);
    }
    // Each byte but the last with the one behind it.
    let (these, nexts) = (&bytes[at..end - 1], &bytes[at + 1..end]);
    let lone = |(this, next): (&[u8; 32], &[u8; 32])| {
        u8x32::new(*this).simd_eq(u8x32::splat(b'\r')) & !u8x32::new(*next).simd_eq(u8x32::splat(b'\n'))
    };
    let blocks = these.as_chunks().0.iter().zip(nexts.as_chunks().0);
    let mut any = blocks.map(lone).fold(u8x32::splat(0), |any, lone| any | lone);
    if let (Some(this), Some(next)) = (these.last_chunk(), nexts.last_chunk()) {
        any |= lone((this, next));
    }
    any.to_bitmask() != 0 || is_lone(end - 1)
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
        }
    }
}
