//! Bytes to [`Message`]: one walk over the head, a few fields read, nothing allocated.
//!
//! The walk goes from line end to line end at vector speed and looks at a line's first letter; only lines that route
//! are read further. What routing does not need is never judged (RFC 3261 §16.3 item 1): it passes as it came.

use memchr::memchr;

use super::header::{self, Address, Name, is_blank, number, skip_blanks, skip_token, trim};
use super::message::{CSeq, Fault, MAX_HEADERS, Message, Method, Span, StartLine};
use super::via::Via;

/// A datagram whose first line is neither a request's nor a status line: it cannot be answered and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSip;

impl Message {
    /// Reads a datagram.
    ///
    /// Hot path: no allocation. A message with a [`Fault`] still carries every field that could be read, for the
    /// answer that says so.
    ///
    /// # Errors
    /// [`NotSip`] if the first line is not SIP's, or the datagram is longer than [`super::MAX_MESSAGE`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NotSip> {
        if bytes.len() > super::MAX_MESSAGE {
            return Err(NotSip);
        }
        // Empty lines before the start line are ignored (RFC 3261 §7.5).
        let begin = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).ok_or(NotSip)?;
        let line_end = begin + memchr(b'\n', &bytes[begin..]).ok_or(NotSip)?;
        let (start, fault) = start_line(bytes, begin, without_cr(bytes, begin, line_end))?;
        let mut message = Self {
            start,
            head: line_end as u16 + 1,
            body: bytes.len() as u16,
            end: bytes.len() as u16,
            via: None,
            next_via: None,
            via_line: Span::default(),
            call_id: None,
            cseq: None,
            cseq_text: None,
            from: None,
            from_tag: None,
            to: None,
            to_tag: None,
            max_forwards: None,
            content_length: None,
            fault,
            lines: [0; MAX_HEADERS + 1],
            names: [Name::Other; MAX_HEADERS],
            line_count: 0,
            first: [0; Name::COUNT],
        };
        // A line that continues the first one would continue ours, which are written between the two.
        if let Some(b' ' | b'\t') = bytes.get(message.head as usize) {
            message.fail(Fault::RequestLine);
        }
        message.read_head(bytes);
        message.require_fields(bytes);
        message.measure_body(bytes);
        Ok(message)
    }

    /// Notes a fault if it is the first.
    #[cold]
    fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Walks the header lines up to the empty one.
    fn read_head(&mut self, bytes: &[u8]) {
        let mut at = self.head as usize;
        loop {
            match bytes.get(at) {
                Some(b'\n') => {
                    self.body = at as u16 + 1;
                    break;
                }
                Some(b'\r') if bytes.get(at + 1) == Some(&b'\n') => {
                    self.body = at as u16 + 2;
                    break;
                }
                Some(_) => {}
                None => return self.head_without_end(at),
            }
            let Some(mut end) = memchr(b'\n', &bytes[at..]).map(|n| at + n + 1) else {
                return self.head_without_end(at);
            };
            // A line that begins with a blank continues the one before (RFC 3261 §7.3.1).
            while let Some(b' ' | b'\t') = bytes.get(end) {
                match memchr(b'\n', &bytes[end..]) {
                    Some(n) => end += n + 1,
                    None => return self.head_without_end(at),
                }
            }
            if self.line_count as usize == MAX_HEADERS {
                return self.too_many_headers(at);
            }
            self.read_line(bytes, at, end);
            at = end;
        }
        self.lines[self.line_count as usize] = at as u16;
    }

    #[cold]
    fn head_without_end(&mut self, at: usize) {
        self.lines[self.line_count as usize] = at as u16;
        self.fail(Fault::NoEndOfHead);
    }

    #[cold]
    fn too_many_headers(&mut self, at: usize) {
        self.lines[self.line_count as usize] = at as u16;
        self.fail(Fault::TooManyHeaders);
    }

    /// Notes one header line and reads its value if it routes.
    #[inline]
    fn read_line(&mut self, bytes: &[u8], at: usize, end: usize) {
        let (name, value) = header::identify(&bytes[at..end]);
        let index = self.line_count as usize;
        self.lines[index] = at as u16;
        self.names[index] = name;
        self.line_count += 1;
        if name == Name::Other {
            return;
        }
        let again = self.first[name as usize] != 0;
        if !again {
            self.first[name as usize] = self.line_count;
        }
        let from = at + value;
        match name {
            Name::Via => self.read_via(bytes, Span::new(at, end), from, again),
            Name::CallId => self.read_call_id(bytes, trim(bytes, from, end), again),
            Name::CSeq => self.read_cseq(bytes, trim(bytes, from, end), again),
            Name::ContentLength => self.read_content_length(bytes, trim(bytes, from, end), again),
            Name::From if !again => {
                (self.from, self.from_tag) = self.read_party(bytes, trim(bytes, from, end), Fault::From);
            }
            Name::To if !again => {
                (self.to, self.to_tag) = self.read_party(bytes, trim(bytes, from, end), Fault::To);
            }
            Name::MaxForwards if !again => {
                let digits = trim(bytes, from, end);
                match number(digits.of(bytes)).map(u8::try_from) {
                    Some(Ok(hops)) => self.max_forwards = Some((digits, hops)),
                    _ => self.fail(Fault::MaxForwards),
                }
            }
            _ => {}
        }
    }

    #[inline]
    fn read_via(&mut self, bytes: &[u8], line: Span, from: usize, again: bool) {
        let end = line.end as usize;
        if again {
            // Behind the top via-parm only the position of the next one is of interest.
            if self.next_via.is_none() {
                self.next_via = next_value(bytes, from, end);
            }
            return;
        }
        self.via_line = line;
        let value = trim(bytes, from, end);
        match Via::parse(bytes, value.start as usize, value.end as usize) {
            None => self.fail(Fault::Via),
            Some((via, stop)) => {
                self.via = Some(via);
                self.next_via = next_value(bytes, stop, value.end as usize);
            }
        }
    }

    /// From or To: the value and its tag. One that nobody can read is a fault; its value stays, for the answer copies it.
    #[inline]
    fn read_party(&mut self, bytes: &[u8], value: Span, fault: Fault) -> (Option<Span>, Option<Span>) {
        match Address::parse(bytes, value) {
            _ if value.is_empty() => (None, None),
            Some(address) if !address.uri.is_empty() => {
                let tag = address.param(bytes, b"tag").and_then(|tag| tag.value);
                (Some(value), tag)
            }
            _ => {
                self.fail(fault);
                (Some(value), None)
            }
        }
    }

    fn read_call_id(&mut self, bytes: &[u8], value: Span, again: bool) {
        match self.call_id {
            Some(first) if first.of(bytes) != value.of(bytes) => self.fail(Fault::DifferentCallIds),
            _ if value.is_empty() => self.fail(Fault::CallId),
            _ if !again => self.call_id = Some(value),
            _ => {}
        }
    }

    fn read_cseq(&mut self, bytes: &[u8], value: Span, again: bool) {
        if !again && !value.is_empty() {
            self.cseq_text = Some(value);
        }
        let Some(cseq) = cseq(bytes, value) else { return self.fail(Fault::CSeq) };
        match self.cseq {
            Some(first) if first.number != cseq.number || first.name.of(bytes) != cseq.name.of(bytes) => {
                self.fail(Fault::DifferentCSeqs);
            }
            _ if !again => self.cseq = Some(cseq),
            _ => {}
        }
    }

    fn read_content_length(&mut self, bytes: &[u8], value: Span, again: bool) {
        match (number(value.of(bytes)), self.content_length) {
            (None, _) => self.fail(Fault::ContentLength),
            (Some(length), Some(first)) if length != first => self.fail(Fault::DifferentContentLengths),
            (Some(length), _) if !again => self.content_length = Some(length),
            _ => {}
        }
    }

    /// The fields that RFC 3261 §8.1.1 makes mandatory, so far as an answer or a route needs them.
    fn require_fields(&mut self, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        let missing = match () {
            () if self.via.is_none() => Fault::Via,
            () if self.call_id.is_none() => Fault::CallId,
            () if self.cseq.is_none() => Fault::CSeq,
            () if self.from.is_none() => Fault::From,
            () if self.to.is_none() => Fault::To,
            () => match (self.start, self.cseq) {
                (StartLine::Request { name, .. }, Some(cseq)) if name.of(bytes) != cseq.name.of(bytes) => {
                    Fault::MethodMismatch
                }
                _ => return,
            },
        };
        self.fail(missing);
    }

    /// Finds the message's end by Content-Length (RFC 3261 §18.3).
    fn measure_body(&mut self, bytes: &[u8]) {
        let Some(length) = self.content_length else { return };
        match self.body as usize + length as usize {
            end if end <= bytes.len() => self.end = end as u16,
            _ => self.fail(Fault::ShortBody),
        }
    }
}

/// What stands behind commas and blanks; `None` where nothing does: an empty value is no via-parm.
#[inline]
fn next_value(bytes: &[u8], mut at: usize, end: usize) -> Option<Span> {
    while at < end && (bytes[at] == b',' || is_blank(bytes[at])) {
        at += 1;
    }
    (at < end).then(|| trim(bytes, at, end))
}

/// `end` without a carriage return before it.
fn without_cr(bytes: &[u8], start: usize, end: usize) -> usize {
    if end > start && bytes[end - 1] == b'\r' { end - 1 } else { end }
}

/// Reads the first line in `at..end`: a status line, or a request line, perhaps with something wrong.
fn start_line(bytes: &[u8], at: usize, end: usize) -> Result<(StartLine, Option<Fault>), NotSip> {
    let line = &bytes[at..end];
    if line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"SIP/") {
        return status_line(line).map(|status| (StartLine::Response { status }, None));
    }
    let name_end = skip_token(bytes, at, end);
    if name_end == at || bytes[..end].get(name_end) != Some(&b' ') {
        return Err(NotSip);
    }
    let whole = trim(bytes, name_end, end).end as usize;
    let version = bytes[at..whole].iter().rposition(|&b| b == b' ').map_or(name_end, |n| at + n);
    let name = Span::new(at, name_end);
    let uri = Span::new((name_end + 1).min(version), version);
    let method = Method::parse(name.of(bytes));
    let written = &bytes[version + 1..whole.max(version + 1)];
    let fault = match () {
        () if written.len() < 5 || !written[..4].eq_ignore_ascii_case(b"SIP/") => return Err(NotSip),
        () if !written.eq_ignore_ascii_case(b"SIP/2.0") => Some(Fault::Version),
        // Exactly one space between method, URI and version (RFC 3261 §7.1); RFC 4475 §3.1.2.8 to .11.
        () if whole < end || !is_request_uri(uri.of(bytes)) => Some(Fault::RequestLine),
        () => None,
    };
    Ok((StartLine::Request { method, name, uri }, fault))
}

/// Whether a text may stand as Request-URI: one word, not in brackets, without headers. Which URI it is, is not judged.
#[inline]
pub fn is_request_uri(uri: &[u8]) -> bool {
    !uri.is_empty() && !uri.iter().any(|&b| is_blank(b) || matches!(b, b'<' | b'>')) && !has_headers(uri)
}

/// Whether a SIP URI carries headers, which no Request-URI may (RFC 3261 §19.1.1, RFC 4475 §3.1.2.12): a server could
/// believe them, a Route for one. A user part may hold `?`.
#[inline]
fn has_headers(uri: &[u8]) -> bool {
    let is_sip = |scheme: &[u8]| uri.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let host = memchr(b'@', uri).map_or(0, |at| at + 1);
    memchr(b'?', &uri[host..]).is_some() && (is_sip(b"sip:") || is_sip(b"sips:"))
}

/// `SIP/2.0 200 OK`: the status, 100 to 699.
fn status_line(line: &[u8]) -> Result<u16, NotSip> {
    let rest = line.get(7..).filter(|_| line[..7].eq_ignore_ascii_case(b"SIP/2.0")).ok_or(NotSip)?;
    match rest {
        [b' ', a @ b'1'..=b'6', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] if rest.is_empty() || rest[0] == b' ' => {
            Ok(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => Err(NotSip),
    }
}

/// `number method`; the number is less than 2^31 (RFC 3261 §8.1.1.5).
fn cseq(bytes: &[u8], value: Span) -> Option<CSeq> {
    let (start, end) = (value.start as usize, value.end as usize);
    let stop = start + bytes[start..end].iter().take_while(|b| b.is_ascii_digit()).count();
    let number = number(&bytes[start..stop]).filter(|&n| n < 1 << 31)?;
    let from = skip_blanks(bytes, stop, end);
    let to = skip_token(bytes, from, end);
    if from == stop || to == from || to != end {
        return None;
    }
    let name = Span::new(from, to);
    Some(CSeq { number, method: Method::parse(name.of(bytes)), name })
}
