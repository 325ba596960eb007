//! The little grammar that header values share (RFC 3261 §7.3, §20, §25.1).

use wide::u8x32;

use super::lines::{Line, find};
use super::message::{Span, Value};

/// Whether a byte may stand in a header value as blank: the line ends are those of folded lines (RFC 3261 §7.3.1).
#[inline]
pub fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// `start..end` without the blanks at both ends.
pub fn trim(bytes: &[u8], mut start: usize, mut end: usize) -> Span {
    while start < end && is_blank(bytes[start]) {
        start += 1;
    }
    while end > start && is_blank(bytes[end - 1]) {
        end -= 1;
    }
    Span::new(start, end)
}

/// The first position at or behind `at` that is no blank, at most `end`.
#[inline]
pub fn skip_blanks(bytes: &[u8], at: usize, end: usize) -> usize {
    // Hardly ever is there one: the loop stays out of the way.
    if at < end && bytes[at] <= b' ' { skip_blanks_slowly(bytes, at, end) } else { at }
}

fn skip_blanks_slowly(bytes: &[u8], mut at: usize, end: usize) -> usize {
    while at < end && is_blank(bytes[at]) {
        at += 1;
    }
    at
}

/// Just behind the quoted string that opens at `at`; `None` where it does not close before `end`.
pub fn skip_quoted(bytes: &[u8], at: usize, end: usize) -> Option<usize> {
    debug_assert_eq!(bytes[at], b'"');
    let mut at = at + 1;
    while at < end {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// Whether a byte may be in a token (RFC 3261 §25.1).
#[inline]
pub fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut token = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            let b = byte as u8;
            token[byte] = b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
            byte += 1;
        }
        token
    };
    TOKEN[byte as usize]
}

/// Just behind the longest token at `at`.
#[inline]
pub fn skip_token(bytes: &[u8], at: usize, end: usize) -> usize {
    let rest = bytes.get(at..end).unwrap_or_default();
    at + rest.iter().take_while(|byte| is_token(**byte)).count()
}

/// Finds the characters that structure a header value: `;` `,` `=` `"`, blanks and controls. Looks at 32 bytes at once
/// and remembers what it saw, so that each of them is found with a shift.
pub struct Marks<'a> {
    bytes: &'a [u8],
    end: usize,
    /// Where the 32 bytes begin that `seen` is about.
    block: usize,
    seen: u32,
}

impl<'a> Marks<'a> {
    /// Marks from `at` up to `end`.
    #[inline]
    pub fn new(bytes: &'a [u8], at: usize, end: usize) -> Self {
        Self { bytes, end, block: at, seen: Self::look(bytes, at) }
    }

    /// The first mark at or behind `at`, or the end. Positions must not go back.
    #[inline]
    pub fn next(&mut self, at: usize) -> usize {
        let mut at = at;
        while at < self.end {
            if at >= self.block + 32 {
                self.block = at;
                self.seen = Self::look(self.bytes, at);
            }
            match self.seen >> (at - self.block) {
                0 => at = self.block + 32,
                marks => return (at + marks.trailing_zeros() as usize).min(self.end),
            }
        }
        self.end
    }

    #[inline]
    fn look(bytes: &[u8], at: usize) -> u32 {
        match bytes.get(at..at + 32) {
            Some(block) => Self::marks(block.try_into().unwrap_or([0; 32])),
            None => Self::look_at_rest(&bytes[at.min(bytes.len())..]),
        }
    }

    #[cold]
    fn look_at_rest(rest: &[u8]) -> u32 {
        let mut block = [0; 32];
        block[..rest.len()].copy_from_slice(rest);
        Self::marks(block)
    }

    #[inline]
    fn marks(block: [u8; 32]) -> u32 {
        let block = u8x32::new(block);
        let is = |byte| block.simd_eq(u8x32::splat(byte));
        let blank = block.simd_eq(block.min(u8x32::splat(b' ')));
        (blank | is(b';') | is(b',') | is(b'=') | is(b'"')).to_bitmask()
    }
}

/// A decimal number of digits only, no sign, that fits; leading zeros are allowed.
#[inline]
pub fn number(digits: &[u8]) -> Option<u32> {
    leading_number(digits, 0, digits.len()).filter(|(_, stop)| *stop == digits.len()).map(|(value, _)| value)
}

/// A number of one to four digits, read in one piece: what nearly all are. `None` says only that it is not that.
#[inline(always)]
pub fn short_number(bytes: &[u8], at: usize, end: usize) -> Option<u32> {
    let length @ 1..=4 = end.wrapping_sub(at) else { return None };
    let last = u32::from_le_bytes(*bytes.get(..end)?.last_chunk()?);
    // What stands before the number counts as zeros.
    let digits = (last ^ u32::from_le_bytes(*b"0000")) & u32::MAX << (32 - 8 * length);
    if (digits | digits.wrapping_add(0x0606_0606)) & 0xf0f0_f0f0 != 0 {
        return None;
    }
    // Tens and ones, then hundreds and they; each factor has the one of what stands below it on top.
    let pairs = digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff;
    Some(pairs.wrapping_mul(100 << 16 | 1) >> 16)
}

/// The number that the digits at `at` make, and just behind them. `None` where there is none, or where it does not fit.
#[inline]
pub fn leading_number(bytes: &[u8], at: usize, end: usize) -> Option<(u32, usize)> {
    let text = bytes.get(at..end)?;
    let (mut value, mut len) = (0u32, 0);
    // So many digits always fit.
    while len < 9
        && let Some(digit @ 0..=9) = text.get(len).map(|byte| byte.wrapping_sub(b'0'))
    {
        (value, len) = (value.wrapping_mul(10).wrapping_add(u32::from(digit)), len + 1);
    }
    while let Some(digit @ 0..=9) = text.get(len).map(|byte| byte.wrapping_sub(b'0')) {
        (value, len) = (value.checked_mul(10)?.checked_add(u32::from(digit))?, len + 1);
    }
    (len > 0).then_some((value, at + len))
}

/// One `;name` or `;name=value` of a parameter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub name: Span,
    /// `None` without `=`; a quoted string with its quotes.
    pub value: Option<Span>,
}

/// Walks the parameters of a value: begins at or before a `;`, ends at whatever is no parameter. Names and values are
/// what stands between the marks; what characters they are made of is the reader's business who uses them.
pub struct Params<'a> {
    bytes: &'a [u8],
    marks: Marks<'a>,
    /// Where the next parameter would begin; behind the last one when the walk is over.
    pub at: usize,
    end: usize,
}

impl<'a> Params<'a> {
    pub fn new(bytes: &'a [u8], at: usize, end: usize) -> Self {
        Self { bytes, marks: Marks::new(bytes, at, end), at, end }
    }

    /// Goes on from a walk over what stands before.
    pub fn following(bytes: &'a [u8], marks: Marks<'a>, at: usize, end: usize) -> Self {
        Self { bytes, marks, at, end }
    }
}

impl Iterator for Params<'_> {
    type Item = Param;

    #[inline(always)]
    fn next(&mut self) -> Option<Param> {
        let (bytes, end) = (self.bytes, self.end);
        let at = skip_blanks(bytes, self.at, end);
        if at >= end || bytes[at] != b';' {
            return None;
        }
        let start = skip_blanks(bytes, at + 1, end);
        let stop = self.marks.next(start);
        let name = Span::new(start, stop);
        let equals = skip_blanks(bytes, stop, end);
        if equals >= end || bytes[equals] != b'=' {
            self.at = stop;
            return Some(Param { name, value: None });
        }
        let from = skip_blanks(bytes, equals + 1, end);
        let to = match bytes[..end].get(from) {
            Some(b'"') => skip_quoted(bytes, from, end)?,
            // A value may hold `=`, as base64 does.
            _ => self.value_end(from),
        };
        self.at = to;
        Some(Param { name, value: Some(Span::new(from, to)) })
    }
}

impl Params<'_> {
    #[inline]
    fn value_end(&mut self, from: usize) -> usize {
        let mut to = self.marks.next(from);
        while to < self.end && self.bytes[to] == b'=' {
            to = self.marks.next(to + 1);
        }
        to
    }
}

/// Walks the comma-separated values of one header line; commas inside quotes and `<>` do not count.
pub struct Values<'a> {
    bytes: &'a [u8],
    line: Span,
    at: usize,
    end: usize,
}

impl<'a> Values<'a> {
    /// The values of a header line of `bytes` whose name is known.
    #[inline]
    pub fn of_line(bytes: &'a [u8], line: Line) -> Self {
        Self { bytes, line: line.span, at: line.colon_end as usize, end: line.span.end as usize }
    }
}

impl Iterator for Values<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        while self.at < self.end {
            let start = self.at;
            let comma = end_of_value(self.bytes, start, self.end);
            self.at = comma + 1;
            let span = trim(self.bytes, start, comma);
            if !span.is_empty() {
                return Some(Value { span, line: self.line });
            }
        }
        None
    }
}

/// The comma that ends the value at `at`, or `end`.
pub fn end_of_value(bytes: &[u8], mut at: usize, end: usize) -> usize {
    let mut angle = false;
    while at < end {
        match bytes[at] {
            b'"' if !angle => match skip_quoted(bytes, at, end) {
                Some(behind) => {
                    at = behind;
                    continue;
                }
                None => return end,
            },
            b'<' => angle = true,
            b'>' => angle = false,
            b',' if !angle => return at,
            _ => {}
        }
        at += 1;
    }
    end
}

/// The URI and what follows it in a `name-addr` or `addr-spec` (RFC 3261 §25.1): From, To, Contact, Route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub uri: Span,
    /// Where the header's own parameters begin.
    pub params: usize,
    /// Where the value ends.
    pub end: usize,
}

impl Address {
    /// Reads the address in `span`. Without `<>` the parameters belong to the header (RFC 3261 §20.10). `None` where `<`
    /// or a quote does not close.
    pub fn parse(bytes: &[u8], span: Span) -> Option<Self> {
        let (mut at, end) = (span.start as usize, span.end as usize);
        if at < end && bytes[at] == b'"' {
            at = skip_quoted(bytes, at, end)?;
        }
        let (uri, params) = match find(bytes, at, end, b'<') {
            Some(open) => {
                let close = find(bytes, open, end, b'>')?;
                (trim(bytes, open + 1, close), close + 1)
            }
            None => {
                let params = find(bytes, at, end, b';').unwrap_or(end);
                (trim(bytes, at, params), params)
            }
        };
        let mut at = params;
        while let Some(quote) = find(bytes, at, end, b'"') {
            at = skip_quoted(bytes, quote, end)?;
        }
        Some(Self { uri, params, end })
    }

    /// The value of a header parameter: what any semicolon outside of quotes begins. What is in the others is not judged.
    pub fn param(&self, bytes: &[u8], name: &[u8]) -> Option<Param> {
        let mut at = self.params;
        while at < self.end {
            match bytes[at] {
                b'"' => at = skip_quoted(bytes, at, self.end)?,
                b';' => match Params::new(bytes, at, self.end).next() {
                    Some(param) if param.name.of(bytes).eq_ignore_ascii_case(name) => return Some(param),
                    _ => at += 1,
                },
                _ => at += 1,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_short_number_is_a_number(before in "[ -~]{4}", text in "[0-9]{0,5}|[ -~]{1,4}", behind in "[ -~]{0,4}") {
            let bytes = [&before, &text, &behind].map(|part| part.as_bytes()).concat();
            let end = 4 + text.len();
            let wanted = number(text.as_bytes()).filter(|_| text.len() <= 4);
            proptest::prop_assert_eq!(short_number(&bytes, 4, end), wanted);
        }
    }

    #[test]
    fn values_split_at_commas_that_are_outside_of_quotes_and_brackets() {
        let line = b"Route: \"a, b\" <sip:a,b;lr>;x=\"y,z\" , <sip:c>,,\r\n <sip:d>\r\n";
        let values: Vec<_> = Values::of_line(line, Line { span: Span::new(0, line.len()), colon_end: 6 })
            .map(|v| v.span.of(line))
            .collect();
        assert_eq!(values, [&b"\"a, b\" <sip:a,b;lr>;x=\"y,z\""[..], b"<sip:c>", b"<sip:d>"]);
    }

    #[test]
    fn an_address_knows_its_own_parameters_from_those_of_its_uri() {
        let text = b"\"A <b>\" <sip:a@b;tag=no>;x;tag=yes";
        let address = Address::parse(text, Span::new(0, text.len())).unwrap();
        assert_eq!(address.uri.of(text), b"sip:a@b;tag=no");
        assert_eq!(address.param(text, b"TAG").unwrap().value.unwrap().of(text), b"yes");
        let text = b"sip:a@b;tag=1";
        let address = Address::parse(text, Span::new(0, text.len())).unwrap();
        assert_eq!(address.uri.of(text), b"sip:a@b");
        assert_eq!(address.param(text, b"tag").unwrap().value.unwrap().of(text), b"1");
    }
}
