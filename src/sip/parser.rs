//! Bytes to [`Message`]: one walk over the head, a few fields read, nothing allocated.
//!
//! First [`super::lines`] finds which headers are where, then the values of those that route are read. What routing does not
//! need is never judged (RFC 3261 §16.3 item 1): it passes as it came.

use super::header::{
    Address, Marks, is_blank, leading_number, number, short_number, skip_blanks, skip_quoted, skip_token,
};
use super::lines::{Line, find, find_blank, find_uri_mark};
use super::message::{CSeq, Fault, Message, Method, Span, StartLine};
use super::name::Name;
use super::via::Via;

/// Headers that two parsers could take from different lines where there are two.
const ONCE: u32 = Name::CallId.bit() | Name::CSeq.bit() | Name::ContentLength.bit() | Name::From.bit() | Name::To.bit();

/// A datagram whose first line is neither a request's nor a status line: it cannot be answered and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSip;

impl Message {
    /// Reads a datagram into a new message.
    ///
    /// # Errors
    /// Those of [`Message::read`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NotSip> {
        let mut message = Self::default();
        message.read(bytes)?;
        Ok(message)
    }

    /// Reads a datagram, in place of what this message was before.
    ///
    /// Hot path: no allocation. A message with a [`Fault`] still carries every field that could be read, for the
    /// answer that says so.
    ///
    /// # Errors
    /// [`NotSip`] if the first line is not SIP's, or the datagram is longer than [`super::MAX_MESSAGE`].
    #[inline]
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), NotSip> {
        let begin = begin(bytes)?;
        (self.body, self.end, self.fault) = (bytes.len() as u16, bytes.len() as u16, None);
        let head = match self.read_usual_request_line(bytes, begin) {
            Some(head) => head,
            None => {
                let head = find(bytes, begin, bytes.len(), b'\n').ok_or(NotSip)? + 1;
                self.read_start_line(bytes, begin, without_line_end(bytes, begin, head))?;
                head
            }
        };
        self.head = head as u16;
        // A line that continues the first one would continue ours, which are written between the two.
        if let Some(b' ' | b'\t') = bytes.get(head) {
            self.fail(Fault::RequestLine);
        }
        match self.lines.read(bytes, head) {
            Ok(body) => self.body = body as u16,
            Err(fault) => self.fail(fault),
        }
        self.read_values(bytes);
        self.require_fields(bytes);
        self.measure_body(bytes.len());
        Ok(())
    }

    /// Notes a fault if it is the first.
    #[cold]
    fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// A request line as nearly all are, and where it ends: what [`Message::read_start_line`] would read, looked at once.
    #[inline]
    fn read_usual_request_line(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let (method, length) = Method::begin(bytes, at)?;
        let name = Span::new(at, at + length);
        let uri = name.end as usize + 1;
        let end = find_uri_mark(bytes, uri, bytes.len())?;
        if bytes[name.end as usize] != b' ' || end == uri || !bytes[end..].starts_with(b" SIP/2.0\r\n") {
            return None;
        }
        self.start = StartLine::Request { method, name, uri: Span::new(uri, end) };
        Some(end + 10)
    }

    /// Reads the first line: a status line, or a request line, perhaps with something wrong.
    #[inline]
    fn read_start_line(&mut self, bytes: &[u8], at: usize, end: usize) -> Result<(), NotSip> {
        let line = &bytes[at..end];
        // The version may be in any case (RFC 3261 §7.1).
        if let [b'S' | b's', _, _, b'/', ..] = line
            && line[..4].eq_ignore_ascii_case(b"SIP/")
        {
            return self.read_status_line(line);
        }
        let (method, name_end) = match Method::begin(bytes, at).filter(|(_, len)| bytes.get(at + len) == Some(&b' ')) {
            Some((method, length)) => (method, at + length),
            None => (Method::Other, skip_token(bytes, at, end)),
        };
        if name_end == at || bytes[..end].get(name_end) != Some(&b' ') {
            return Err(NotSip);
        }
        let version = match line.strip_suffix(b" SIP/2.0") {
            Some(before) => at + before.len(),
            None => at + self.odd_version(line)?,
        };
        let uri = Span::new((name_end + 1).min(version), version);
        // Exactly one space between method, URI and version (RFC 3261 §7.1).
        if !is_request_uri(bytes, uri) {
            self.fail(Fault::RequestLine);
        }
        self.start = StartLine::Request { method, name: Span::new(at, name_end), uri };
        Ok(())
    }

    /// A line that does not end as request lines do: another version or another case. Where the version's space is.
    #[cold]
    fn odd_version(&mut self, line: &[u8]) -> Result<usize, NotSip> {
        let whole = line.iter().rposition(|byte| !is_blank(*byte)).map_or(line, |last| &line[..=last]);
        let space = memchr::memrchr(b' ', whole).ok_or(NotSip)?;
        let written = &whole[space + 1..];
        match written.get(..4) {
            Some(name) if name.eq_ignore_ascii_case(b"SIP/") && written.len() > 4 => {}
            _ => return Err(NotSip),
        }
        if !written.eq_ignore_ascii_case(b"SIP/2.0") {
            self.fail(Fault::Version);
        } else if whole.len() < line.len() {
            // Blanks behind the version (RFC 4475 §3.1.2.10).
            self.fail(Fault::RequestLine);
        }
        Ok(space)
    }

    /// `SIP/2.0 200 OK`: the status is 100 to 699.
    #[inline]
    fn read_status_line(&mut self, line: &[u8]) -> Result<(), NotSip> {
        let code = match line.split_at_checked(8) {
            Some((version, rest)) if version.eq_ignore_ascii_case(b"SIP/2.0 ") => rest,
            _ => return Err(NotSip),
        };
        let status = match code {
            [a @ b'1'..=b'6', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] if rest.is_empty() || rest[0] == b' ' => {
                u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
            }
            _ => return Err(NotSip),
        };
        self.start = StartLine::Response { status };
        Ok(())
    }

    /// Reads the values that route.
    #[inline]
    fn read_values(&mut self, bytes: &[u8]) {
        self.next_via = None;
        match self.lines.first(Name::Via) {
            Some(line) => self.read_via(bytes, line),
            None => self.via = None,
        }
        // What is read the usual way is stored at once: brought together with the other way first, it went over the stack.
        self.call_id = self.lines.first(Name::CallId).and_then(|line| line.usual_value(bytes));
        if self.call_id.is_none() {
            self.call_id = self.lines.value(bytes, Name::CallId);
        }
        let cseq = self.lines.first(Name::CSeq);
        self.cseq = cseq.and_then(|line| usual_cseq(bytes, line));
        if self.cseq.is_none() {
            self.cseq = cseq.and_then(|line| odd_cseq(bytes, line));
        }
        self.max_forwards = None;
        if let Some(line) = self.lines.first(Name::MaxForwards) {
            match usual_number(bytes, line).or_else(|| odd_number(bytes, line)) {
                Some((hops @ 0..256, digits)) => self.max_forwards = Some((digits, hops as u8)),
                _ => self.fail(Fault::MaxForwards),
            }
        }
        self.content_length = None;
        if let Some(line) = self.lines.first(Name::ContentLength) {
            let number = usual_number(bytes, line).or_else(|| odd_number(bytes, line));
            self.content_length = number.map(|(length, _)| length);
            if self.content_length.is_none() {
                self.fail(Fault::ContentLength);
            }
        }
        if self.lines.has_again(ONCE) {
            self.compare_again(bytes);
        }
    }

    /// Looks whether what stands more than once, and may only once, says the same each time.
    #[cold]
    fn compare_again(&mut self, bytes: &[u8]) {
        let values = |name: Name| self.lines.of(name).map(|line| line.value(bytes));
        let cseqs = self.lines.of(Name::CSeq).map(|line| cseq(bytes, line));
        let cseqs = cseqs.map(|cseq| cseq.map(|cseq| (cseq.number, cseq.name.of(bytes))));
        let same = [
            (all_same(values(Name::CallId).map(|value| value.of(bytes))), Fault::DifferentCallIds),
            (all_same(cseqs), Fault::DifferentCSeqs),
            (all_same(values(Name::From).map(|value| value.of(bytes))), Fault::DifferentFroms),
            (all_same(values(Name::To).map(|value| value.of(bytes))), Fault::DifferentTos),
            (
                all_same(values(Name::ContentLength).map(|value| number(value.of(bytes)))),
                Fault::DifferentContentLengths,
            ),
        ];
        for (_, fault) in same.into_iter().filter(|(same, _)| !same) {
            self.fail(fault);
        }
    }

    /// Reads the top via-parm, and where the next one is: on its line, or on another one.
    #[inline]
    fn read_via(&mut self, bytes: &[u8], line: Line) {
        let via = self.via.insert(Via::default());
        if line.usual_ends(bytes).and_then(|(start, end)| via.read_usual(bytes, Span::new(start, end))).is_none() {
            let value = line.value(bytes);
            let Some((read, stop)) = Via::parse(bytes, value.start as usize, value.end as usize) else {
                self.via = None;
                return self.fail(Fault::Via);
            };
            self.via = Some(read);
            self.next_via = next_value(bytes, stop, value.end as usize);
        }
        if self.next_via.is_none() && self.lines.has_again(Name::Via.bit()) {
            let found = self.lines.of(Name::Via).skip(1).find_map(|line| {
                let value = line.value(bytes);
                next_value(bytes, value.start as usize, value.end as usize)
            });
            self.next_via = found;
        }
    }

    /// The fields that RFC 3261 §8.1.1 makes mandatory, so far as an answer or a route needs them.
    #[inline]
    fn require_fields(&mut self, bytes: &[u8]) {
        let parties = [Name::From, Name::To].map(|name| self.lines.first(name));
        if let (Some(_), Some(_), Some(cseq)) = (&self.via, self.call_id, self.cseq)
            && parties.iter().all(|line| line.is_some_and(|line| line.has_value(bytes)))
        {
            if let StartLine::Request { method, name, .. } = self.start
                && (method != cseq.method || method == Method::Other && name.of(bytes) != cseq.name.of(bytes))
            {
                self.fail(Fault::MethodMismatch);
            }
        } else {
            self.fail_for_missing(bytes);
        }
    }

    #[cold]
    fn fail_for_missing(&mut self, bytes: &[u8]) {
        let missing = match () {
            () if self.via.is_none() => Fault::Via,
            () if self.call_id.is_none() => Fault::CallId,
            () if self.cseq.is_none() => Fault::CSeq,
            () if self.from(bytes).is_none() => Fault::From,
            () => Fault::To,
        };
        self.fail(missing);
    }

    /// Finds the message's end by Content-Length (RFC 3261 §18.3).
    #[inline]
    fn measure_body(&mut self, len: usize) {
        let Some(length) = self.content_length else { return };
        match self.body as usize + length as usize {
            end if end <= len => self.end = end as u16,
            _ => self.fail(Fault::ShortBody),
        }
    }
}

/// Where the start line begins: empty lines before it are ignored (RFC 3261 §7.5).
#[inline]
fn begin(bytes: &[u8]) -> Result<usize, NotSip> {
    match bytes.first() {
        Some(first) if *first > b' ' && bytes.len() <= super::MAX_MESSAGE => Ok(0),
        _ if bytes.len() > super::MAX_MESSAGE => Err(NotSip),
        _ => bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).ok_or(NotSip),
    }
}

/// What stands behind commas and blanks, up to `end`, where no blank is before; `None` where nothing does: an empty value is
/// no via-parm.
#[inline]
fn next_value(bytes: &[u8], mut at: usize, end: usize) -> Option<Span> {
    while at < end && (bytes[at] == b',' || is_blank(bytes[at])) {
        at += 1;
    }
    (at < end).then(|| Span::new(at, end))
}

/// Whether a text may stand as Request-URI: one word, not in brackets, without headers. Which URI it is, is not judged.
#[inline]
pub fn is_request_uri(bytes: &[u8], uri: Span) -> bool {
    let (start, end) = (uri.start as usize, uri.end as usize);
    match find_uri_mark(bytes, start, end) {
        None => start < end,
        Some(_) => find_blank(bytes, start, end).is_none() && !has_odd_mark(uri.of(bytes)),
    }
}

/// Brackets (RFC 4475 §3.1.2.7), or headers of a SIP URI, which no Request-URI may carry (RFC 3261 §19.1.1, RFC 4475
/// §3.1.2.11): a server could believe them, a Route for one. A user part may hold `?`.
#[cold]
fn has_odd_mark(uri: &[u8]) -> bool {
    let is_sip = |scheme: &[u8]| uri.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let host = memchr::memchr(b'@', uri).map_or(0, |at| at + 1);
    let headers = memchr::memchr(b'?', &uri[host..]).is_some() && (is_sip(b"sip:") || is_sip(b"sips:"));
    headers || memchr::memchr2(b'<', b'>', uri).is_some()
}

/// Where a line's text ends.
#[inline]
fn without_line_end(bytes: &[u8], start: usize, end: usize) -> usize {
    if end >= start + 2 && bytes[end - 2] == b'\r' { end - 2 } else { end - 1 }
}

/// `number method`; the number is less than 2^31 (RFC 3261 §8.1.1.5).
fn cseq(bytes: &[u8], line: Line) -> Option<CSeq> {
    usual_cseq(bytes, line).or_else(|| odd_cseq(bytes, line))
}

/// As nearly all write it, with a method that is told apart.
#[inline(always)]
fn usual_cseq(bytes: &[u8], line: Line) -> Option<CSeq> {
    let (start, end) = line.usual_ends(bytes)?;
    let (mut number, mut stop) = (0u32, start);
    while let Some(digit @ 0..=9) = bytes.get(stop).map(|byte| byte.wrapping_sub(b'0')) {
        number = number.wrapping_mul(10).wrapping_add(u32::from(digit));
        stop = stop.wrapping_add(1);
    }
    let at = stop.wrapping_add(1);
    let (method, length) = Method::begin(bytes, at)?;
    // So many digits always fit.
    let so = (1..=9).contains(&stop.wrapping_sub(start)) && bytes[stop] == b' ' && at.wrapping_add(length) == end;
    so.then_some(CSeq { number, method, name: Span::new(at, end) })
}

/// What is written in another way, or has a method that is not told apart.
#[cold]
fn odd_cseq(bytes: &[u8], line: Line) -> Option<CSeq> {
    let value = line.value(bytes);
    let (at, end) = (value.start as usize, value.end as usize);
    let (number, stop) = leading_number(bytes, at, end)?;
    let from = skip_blanks(bytes, stop, end);
    let name = Span::new(from, end);
    let method = Method::parse(name.of(bytes));
    let is_token = method != Method::Other || skip_token(bytes, from, end) == end;
    (from > stop && from < end && number < 1 << 31 && is_token).then_some(CSeq { number, method, name })
}

/// The number of a few digits that is the whole value of a line, and its digits.
#[inline(always)]
fn usual_number(bytes: &[u8], line: Line) -> Option<(u32, Span)> {
    let (start, end) = line.usual_ends(bytes)?;
    Some((short_number(bytes, start, end)?, Span::new(start, end)))
}

/// Any number that is the whole value of a line, and its digits.
#[cold]
fn odd_number(bytes: &[u8], line: Line) -> Option<(u32, Span)> {
    let digits = line.value(bytes);
    Some((number(digits.of(bytes))?, digits))
}

fn all_same<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    let first = values.next();
    values.all(|value| Some(value) == first)
}

impl Message {
    /// The value of From.
    #[inline]
    pub fn from(&self, bytes: &[u8]) -> Option<Span> {
        self.lines.value(bytes, Name::From)
    }

    /// The value of To.
    #[inline]
    pub fn to(&self, bytes: &[u8]) -> Option<Span> {
        self.lines.value(bytes, Name::To)
    }

    /// The tag of From, which tells callers apart.
    pub fn from_tag<'m>(&self, bytes: &'m [u8]) -> Option<&'m [u8]> {
        tag(bytes, self.from(bytes)?)
    }

    /// The tag of To: a request that has one is inside a dialog.
    pub fn to_tag<'m>(&self, bytes: &'m [u8]) -> Option<&'m [u8]> {
        tag(bytes, self.to(bytes)?)
    }
}

/// The tag in the value of From or To.
#[inline]
fn tag(bytes: &[u8], value: Span) -> Option<&[u8]> {
    usual_tag(bytes, value).unwrap_or_else(|| {
        let address = Address::parse(bytes, value)?;
        // At least one character (RFC 3261 §25.1).
        Some(address.param(bytes, b"tag")?.value?.of(bytes)).filter(|tag| !tag.is_empty())
    })
}

/// What many write: a URI in brackets, nothing else or the tag alone behind it. `None` says only that it is not that.
#[inline]
fn usual_tag(bytes: &[u8], value: Span) -> Option<Option<&[u8]>> {
    let (start, end) = (value.start as usize, value.end as usize);
    if bytes[start] == b'<' && find(bytes, start, end, b'>')? + 1 == end {
        return Some(None);
    }
    let name = if bytes[start] == b'"' { skip_quoted(bytes, start, end)? } else { start };
    let open = find(bytes, name, end, b'<')?;
    let behind = find(bytes, open, end, b'>')? + 1;
    match &bytes[behind..end] {
        [] => Some(None),
        [b';', b't', b'a', b'g', b'=', tag @ ..] if !tag.is_empty() => {
            let from = behind + 5;
            (Marks::new(bytes, from, end).next(from) == end).then_some(Some(tag))
        }
        _ => None,
    }
}
