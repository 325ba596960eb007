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
        let end = self.block + self.ends.trailing_zeros() as usize + 1;
        self.ends &= self.ends - 1;
        Some(end)
    }
}

/// The line ends among the 64 bytes at `at`, as bits.
#[inline(always)]
fn line_ends(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..at + BLOCK) {
        Some(block) => line_ends_in(block.try_into().unwrap_or(&[0; BLOCK])),
        None => line_ends_in_rest(&bytes[at.min(bytes.len())..]),
    }
}

fn line_ends_in_rest(rest: &[u8]) -> u64 {
    let mut block = [0; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    line_ends_in(&block)
}

#[inline(always)]
fn line_ends_in(block: &[u8; BLOCK]) -> u64 {
    let ends = |half: &[u8]| {
        let half = u8x32::new(half.try_into().unwrap_or([0; 32]));
        u64::from(half.simd_eq(u8x32::splat(b'\n')).to_bitmask())
    };
    ends(&block[..32]) | ends(&block[32..]) << 32
}

/// Whether a blank, or a control character, is in `at..end`: 32 bytes at a time.
#[inline]
pub fn has_blank(bytes: &[u8], at: usize, end: usize) -> bool {
    let mut block = at;
    while block < end {
        let Some(chunk) = bytes.get(block..block + 32) else { return bytes[block..end].iter().any(|b| *b <= b' ') };
        let chunk = u8x32::new(chunk.try_into().unwrap_or([0; 32]));
        let blanks = chunk.simd_eq(chunk.min(u8x32::splat(b' '))).to_bitmask();
        let inside = if end - block >= 32 { u32::MAX } else { (1 << (end - block)) - 1 };
        if blanks & inside != 0 {
            return true;
        }
        block += 32;
    }
    false
}
