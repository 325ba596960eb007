//! Header names, compact forms, and the little grammar that values share (RFC 3261 §7.3, §20, §25.1).

use super::message::{Span, Value};

/// The headers that routing reads. Everything else is [`Name::Other`] and passes unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Name {
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
}

/// Spellings by first letter, long form and compact form (RFC 3261 §7.3.3). A line whose first letter has no entry is
/// settled with one look.
const SPELLINGS: [&[(&[u8], Name)]; 26] = {
    let mut table: [&[(&[u8], Name)]; 26] = [&[]; 26];
    table[letter(b'c')] = &[
        (b"call-id", Name::CallId),
        (b"cseq", Name::CSeq),
        (b"contact", Name::Contact),
        (b"content-length", Name::ContentLength),
    ];
    table[letter(b'f')] = &[(b"from", Name::From), (b"f", Name::From)];
    table[letter(b'i')] = &[(b"i", Name::CallId)];
    table[letter(b'j')] = &[(b"join", Name::OtherCall)];
    table[letter(b'k')] = &[(b"k", Name::Supported)];
    table[letter(b'l')] = &[(b"l", Name::ContentLength)];
    table[letter(b'm')] = &[(b"max-forwards", Name::MaxForwards), (b"m", Name::Contact)];
    table[letter(b'p')] = &[(b"proxy-require", Name::ProxyRequire)];
    table[letter(b'r')] = &[
        (b"route", Name::Route),
        (b"record-route", Name::RecordRoute),
        (b"retry-after", Name::RetryAfter),
        (b"replaces", Name::OtherCall),
    ];
    table[letter(b's')] = &[(b"supported", Name::Supported)];
    table[letter(b't')] = &[(b"to", Name::To), (b"t", Name::To), (b"target-dialog", Name::OtherCall)];
    table[letter(b'u')] = &[(b"user-agent", Name::UserAgent)];
    table[letter(b'v')] = &[(b"via", Name::Via), (b"v", Name::Via)];
    table
};

const fn letter(lower: u8) -> usize {
    (lower - b'a') as usize
}

/// Reads the name of a header line: which one, and where its value begins (just behind the colon). The offset means
/// nothing for [`Name::Other`].
#[inline]
pub fn identify(line: &[u8]) -> (Name, usize) {
    let Some(&first) = line.first() else { return (Name::Other, 0) };
    let index = (first | 0x20).wrapping_sub(b'a') as usize;
    let Some(spellings) = SPELLINGS.get(index) else { return (Name::Other, 0) };
    for &(spelling, name) in *spellings {
        // Rejects most lines by the one byte behind the name, before comparing any.
        if let Some(b':' | b' ' | b'\t') = line.get(spelling.len())
            && let Some(value) = value_after(line, spelling)
        {
            return (name, value);
        }
    }
    (Name::Other, 0)
}

/// Where the value begins if the line's name is `name`, compared without case; blanks may stand before the colon.
#[inline]
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

/// Whether a byte may stand in a header value as blank: the line ends are those of folded lines (RFC 3261 §7.3.1).
#[inline]
pub fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// `start..end` without the blanks at both ends.
#[inline]
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
pub fn skip_blanks(bytes: &[u8], mut at: usize, end: usize) -> usize {
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

/// Characters of `token` (RFC 3261 §25.1), and of `host` with `[`, `]` and `:` (RFC 5118 §4.5 wants them tolerated).
const TOKEN: u8 = 1;
const HOST: u8 = 2;
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric()
            || matches!(b, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
        {
            class[byte] |= TOKEN;
        }
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':') {
            class[byte] |= HOST;
        }
        byte += 1;
    }
    class
};

/// Just behind the longest token at `at`.
#[inline]
pub fn skip_token(bytes: &[u8], mut at: usize, end: usize) -> usize {
    while at < end && CLASS[bytes[at] as usize] & TOKEN != 0 {
        at += 1;
    }
    at
}

/// Just behind the longest run of a token's and a host's characters at `at`: what a parameter's value may be.
#[inline]
pub fn skip_value(bytes: &[u8], mut at: usize, end: usize) -> usize {
    while at < end && CLASS[bytes[at] as usize] != 0 {
        at += 1;
    }
    at
}

/// A decimal number of digits only, no sign, at most nine digits behind leading zeros.
pub fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u64::from(digit - b'0');
        if value > u64::from(u32::MAX) {
            return None;
        }
    }
    Some(value as u32)
}

/// One `;name` or `;name=value` of a parameter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub name: Span,
    /// `None` without `=`; a quoted string with its quotes.
    pub value: Option<Span>,
}

/// Walks the parameters of a value: begins at or before a `;`, ends at whatever is no parameter.
pub struct Params<'a> {
    bytes: &'a [u8],
    /// Where the next parameter would begin; behind the last one when the walk is over.
    pub at: usize,
    end: usize,
}

impl<'a> Params<'a> {
    pub fn new(bytes: &'a [u8], at: usize, end: usize) -> Self {
        Self { bytes, at, end }
    }
}

impl Iterator for Params<'_> {
    type Item = Param;

    #[inline]
    fn next(&mut self) -> Option<Param> {
        let (bytes, end) = (self.bytes, self.end);
        let at = skip_blanks(bytes, self.at, end);
        if at >= end || bytes[at] != b';' {
            return None;
        }
        let start = skip_blanks(bytes, at + 1, end);
        let stop = skip_token(bytes, start, end);
        let name = Span::new(start, stop);
        let equals = skip_blanks(bytes, stop, end);
        if equals >= end || bytes[equals] != b'=' {
            self.at = stop;
            return Some(Param { name, value: None });
        }
        let from = skip_blanks(bytes, equals + 1, end);
        let to = match bytes[..end].get(from) {
            Some(b'"') => skip_quoted(bytes, from, end)?,
            _ => skip_value(bytes, from, end),
        };
        self.at = to;
        Some(Param { name, value: Some(Span::new(from, to)) })
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
    /// The values of a whole header line of `bytes`.
    pub fn of_line(bytes: &'a [u8], line: Span) -> Self {
        let colon = memchr::memchr(b':', line.of(bytes)).unwrap_or(line.len().saturating_sub(1));
        Self { bytes, line, at: line.start as usize + colon + 1, end: line.end as usize }
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
        let (uri, params) = match memchr::memchr(b'<', &bytes[at..end]) {
            Some(open) => {
                let open = at + open;
                let close = open + memchr::memchr(b'>', &bytes[open..end])?;
                (trim(bytes, open + 1, close), close + 1)
            }
            None => {
                let params = memchr::memchr(b';', &bytes[at..end]).map_or(end, |semicolon| at + semicolon);
                (trim(bytes, at, params), params)
            }
        };
        let mut at = params;
        while let Some(quote) = memchr::memchr(b'"', &bytes[at..end]) {
            at = skip_quoted(bytes, at + quote, end)?;
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
            (b"", Name::Other),
            (b": x", Name::Other),
        ] {
            assert_eq!(identify(line).0, want, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn values_split_at_commas_that_are_outside_of_quotes_and_brackets() {
        let line = b"Route: \"a, b\" <sip:a,b;lr>;x=\"y,z\" , <sip:c>,,\r\n <sip:d>\r\n";
        let values: Vec<_> = Values::of_line(line, Span::new(0, line.len())).map(|v| v.span.of(line)).collect();
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
