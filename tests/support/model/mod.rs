//! A SIP parser that is obviously right, and slow: text is split into lines, lines are unfolded, values are strings.
//! `Message::parse` must read every datagram as this one does. Bytes become characters one to one (Latin-1), so that a
//! position means the same in both worlds.

pub mod framing;
mod grammar;

use std::net::{IpAddr, SocketAddr};

use grammar::{Cursor, address, comma_separated, is_token, number, params_of};
use trunkline::sip::name::Name;
use trunkline::sip::{Fault, MAX_MESSAGE, Message, Span, StartLine, Via};

/// What a parser read in a datagram, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Method and Request-URI of a request.
    pub request: Option<(String, String)>,
    pub status: Option<u16>,
    pub head: usize,
    pub body: usize,
    pub end: usize,
    pub via: Option<ViaReading>,
    pub via_line: (usize, usize),
    pub next_via: Option<String>,
    pub call_id: Option<String>,
    pub cseq: Option<(u32, String)>,
    pub cseq_text: Option<String>,
    pub from: Option<String>,
    pub from_tag: Option<String>,
    pub to: Option<String>,
    pub to_tag: Option<String>,
    pub max_forwards: Option<u8>,
    pub content_length: Option<u32>,
    pub fault: Option<Fault>,
    /// For each name of [`LISTS`] its header lines, and the values in them.
    pub lists: Vec<(usize, Vec<String>)>,
}

/// One via-parm as text; a parameter without value is `Some(None)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViaReading {
    pub parm: String,
    pub transport: String,
    pub host: String,
    pub port: Option<u16>,
    pub branch: Option<String>,
    pub received: Option<Option<String>>,
    pub rport: Option<Option<String>>,
    pub way: Option<String>,
    pub time: Option<String>,
    pub response_address: Option<SocketAddr>,
}

/// The most header lines of one message.
const MAX_HEADERS: usize = 128;

/// The headers whose values somebody walks through, with their spellings.
pub const LISTS: [(Name, &[&str]); 7] = [
    (Name::Via, &["via", "v"]),
    (Name::Route, &["route"]),
    (Name::RecordRoute, &["record-route"]),
    (Name::Contact, &["contact", "m"]),
    (Name::Supported, &["supported", "k"]),
    (Name::ProxyRequire, &["proxy-require"]),
    (Name::UserAgent, &["user-agent"]),
];

/// Bytes as characters of the same number.
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

/// Line ends become blanks: what a folded value means (RFC 3261 §7.3.1).
pub fn unfold(bytes: &[u8]) -> String {
    text(bytes).replace(['\r', '\n'], " ")
}

impl Reading {
    /// What `Message::parse` read.
    pub fn fast(bytes: &[u8], message: &Message) -> Self {
        let of = |span: Span| unfold(span.of(bytes));
        let list = |(name, _): &(Name, &[&str])| {
            (message.lines(*name).count(), message.values(bytes, *name).map(|value| of(value.span)).collect())
        };
        Self {
            request: match message.start {
                StartLine::Request { name, uri, .. } => Some((text(name.of(bytes)), text(uri.of(bytes)))),
                StartLine::Response { .. } => None,
            },
            status: message.status(),
            head: message.head.into(),
            body: message.body.into(),
            end: message.end.into(),
            via: message.via.map(|via| ViaReading::fast(bytes, &via)),
            via_line: message.via_line().map_or((0, 0), |line| (line.start.into(), line.end.into())),
            next_via: message.next_via.map(of),
            call_id: message.call_id.map(of),
            cseq: message.cseq.map(|cseq| (cseq.number, of(cseq.name))),
            cseq_text: message.cseq_text(bytes).map(of),
            from: message.from(bytes).map(of),
            from_tag: message.from_tag(bytes).map(unfold),
            to: message.to(bytes).map(of),
            to_tag: message.to_tag(bytes).map(unfold),
            max_forwards: message.max_forwards.map(|(_, hops)| hops),
            content_length: message.content_length,
            fault: message.fault,
            lists: LISTS.iter().map(list).collect(),
        }
    }

    /// What is written there; `None` where the first line is not SIP's.
    pub fn naive(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_MESSAGE {
            return None;
        }
        let begin = bytes.iter().position(|b| !b"\r\n".contains(b))?;
        let first = bytes[begin..].split_inclusive(|b| *b == b'\n').next().filter(|line| line.ends_with(b"\n"))?;
        let mut reading = start_line(&text(first))?;
        reading.head = begin + first.len();
        (reading.body, reading.end) = (bytes.len(), bytes.len());
        let (lines, head_end) = logical_lines(bytes, reading.head);
        if bytes.get(reading.head).is_some_and(|b| b" \t".contains(b)) {
            reading.fail(Fault::RequestLine);
        }
        match head_end {
            Ok(body) => reading.body = body,
            Err(fault) => reading.fail(fault),
        }
        lines.iter().filter(|line| matches!(line.name.as_str(), "via" | "v")).for_each(|line| reading.read_via(line));
        lines.iter().filter(|line| line.first).for_each(|line| reading.read(line));
        reading.compare(&lines);
        reading.require();
        if let Some(length) = reading.content_length {
            match reading.body + length as usize {
                end if end <= bytes.len() => reading.end = end,
                _ => reading.fail(Fault::ShortBody),
            }
        }
        reading.lists = LISTS.iter().map(|(_, spellings)| list(&lines, spellings)).collect();
        Some(reading)
    }

    /// The first fault counts.
    fn fail(&mut self, fault: Fault) {
        self.fault = self.fault.or(Some(fault));
    }

    /// The first line of a name is the one that counts.
    fn read(&mut self, line: &Line) {
        let value = Some(line.value.clone()).filter(|value| !value.is_empty());
        match line.name.as_str() {
            "call-id" | "i" => self.call_id = value,
            "cseq" => (self.cseq, self.cseq_text) = (cseq(&line.value), value),
            "content-length" | "l" => self.content_length = number(&line.value),
            "from" | "f" => (self.from, self.from_tag) = (value, tag(&line.value)),
            "to" | "t" => (self.to, self.to_tag) = (value, tag(&line.value)),
            "max-forwards" => {
                self.max_forwards = number(&line.value).and_then(|hops| hops.try_into().ok());
                if self.max_forwards.is_none() {
                    self.fail(Fault::MaxForwards);
                }
            }
            _ => {}
        }
    }

    /// What may stand once must mean the same wherever it stands.
    fn compare(&mut self, lines: &[Line]) {
        if self.content_length.is_none() && lines.iter().any(|line| long_form(&line.name) == "content-length") {
            self.fail(Fault::ContentLength);
        }
        for (name, fault) in [
            ("call-id", Fault::DifferentCallIds),
            ("cseq", Fault::DifferentCSeqs),
            ("from", Fault::DifferentFroms),
            ("to", Fault::DifferentTos),
            ("content-length", Fault::DifferentContentLengths),
        ] {
            let meaning = |line: &Line| match name {
                "cseq" => format!("{:?}", cseq(&line.value)),
                "content-length" => format!("{:?}", number(&line.value)),
                _ => line.value.clone(),
            };
            let meanings = lines.iter().filter(|line| long_form(&line.name) == name).map(meaning);
            if meanings.collect::<std::collections::HashSet<_>>().len() > 1 {
                self.fail(fault);
            }
        }
    }

    fn read_via(&mut self, line: &Line) {
        let below = |rest: &str| {
            let rest = rest.trim_start_matches([' ', '\t', ',']);
            (!rest.is_empty()).then(|| rest.to_owned())
        };
        if !line.first {
            if self.via.is_some() {
                self.next_via = self.next_via.take().or_else(|| below(&line.value));
            }
            return;
        }
        self.via_line = (line.start, line.end);
        match ViaReading::naive(&line.value) {
            None => self.fail(Fault::Via),
            Some((via, rest)) => (self.via, self.next_via) = (Some(via), below(&rest)),
        }
    }

    fn require(&mut self) {
        let method = self.request.as_ref().map(|(method, _)| method);
        let missing = [
            (self.via.is_none(), Fault::Via),
            (self.call_id.is_none(), Fault::CallId),
            (self.cseq.is_none(), Fault::CSeq),
            (self.from.is_none(), Fault::From),
            (self.to.is_none(), Fault::To),
            (method.is_some_and(|m| self.cseq.as_ref().is_some_and(|(_, name)| name != m)), Fault::MethodMismatch),
        ];
        if let Some((_, fault)) = missing.into_iter().find(|(is_missing, _)| *is_missing) {
            self.fail(fault);
        }
    }
}

/// One header line, its continuations included.
pub struct Line {
    pub start: usize,
    pub end: usize,
    /// Lower case.
    pub name: String,
    /// Unfolded, no blanks around it.
    value: String,
    /// No line before it has this name, in either form.
    first: bool,
}

/// The header lines from `head` on, and where the body begins or what is wrong instead.
pub fn logical_lines(bytes: &[u8], head: usize) -> (Vec<Line>, Result<usize, Fault>) {
    let mut pieces = bytes[head..].split_inclusive(|b| *b == b'\n').peekable();
    let (mut lines, mut start) = (Vec::<Line>::new(), head);
    loop {
        let Some(piece) = pieces.next() else { return (lines, Err(Fault::NoEndOfHead)) };
        if piece == b"\n" || piece == b"\r\n" {
            return (lines, Ok(start + piece.len()));
        }
        // What continues the last one and has no end is left over here, and is no line more.
        let is_blank = |piece: &[u8]| piece.starts_with(b" ") || piece.starts_with(b"\t");
        if lines.len() == MAX_HEADERS && !is_blank(piece) {
            return (lines, Err(Fault::TooManyHeaders));
        }
        let mut end = start + piece.len();
        if !bytes[..end].ends_with(b"\n") {
            return (lines, Err(Fault::NoEndOfHead));
        }
        // What continues it and has no end is none of it, as a line without end is none.
        let continues = |next: &&[u8]| is_blank(next) && next.ends_with(b"\n");
        while let Some(more) = pieces.next_if(continues) {
            end += more.len();
        }
        let whole = text(&bytes[start..end]);
        let (name, value) = whole.split_once(':').unwrap_or((&whole, ""));
        let name = name.trim_end_matches([' ', '\t']).to_ascii_lowercase();
        let value = value.replace(['\r', '\n'], " ").trim_matches([' ', '\t']).to_owned();
        let first = !lines.iter().any(|line| long_form(&line.name) == long_form(&name));
        lines.push(Line { start, end, name, value, first });
        start = end;
    }
}

pub fn long_form(name: &str) -> &str {
    [("v", "via"), ("i", "call-id"), ("l", "content-length"), ("f", "from"), ("t", "to")]
        .iter()
        .find(|(compact, _)| *compact == name)
        .map_or(name, |(_, long)| long)
}

/// How many lines have one of these names, and the comma-separated values in them.
fn list(lines: &[Line], spellings: &[&str]) -> (usize, Vec<String>) {
    let of_name: Vec<_> = lines.iter().filter(|line| spellings.contains(&line.name.as_str())).collect();
    (of_name.len(), of_name.iter().flat_map(|line| comma_separated(&line.value)).collect())
}

fn start_line(line: &str) -> Option<Reading> {
    let line = line.strip_suffix('\n')?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    let is_sip = |text: &str| text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("SIP/"));
    if is_sip(line) {
        let rest = line.get(7..).filter(|_| line[..7].eq_ignore_ascii_case("SIP/2.0"))?.strip_prefix(' ')?;
        let code = rest.split(' ').next().filter(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()))?;
        let status = code.parse().ok().filter(|status| (100..700).contains(status))?;
        return Some(Reading { status: Some(status), ..Reading::default() });
    }
    let (method, rest) = line.split_once(' ')?;
    if method.is_empty() || !method.chars().all(is_token) {
        return None;
    }
    let trimmed = rest.trim_end_matches([' ', '\t', '\r']);
    let (uri, version) = trimmed.rsplit_once(' ').unwrap_or(("", trimmed));
    if version.len() < 5 || !is_sip(version) {
        return None;
    }
    let bad_uri = uri.is_empty() || uri.contains(|c| c <= ' ' || "<>".contains(c)) || has_headers(uri);
    let fault = match () {
        () if !version.eq_ignore_ascii_case("SIP/2.0") => Some(Fault::Version),
        () if bad_uri || trimmed != rest => Some(Fault::RequestLine),
        () => None,
    };
    Some(Reading { request: Some((method.to_owned(), uri.to_owned())), fault, ..Reading::default() })
}

/// Whether a SIP URI carries headers, which no Request-URI may (RFC 3261 §19.1.1). A user part may hold `?`.
fn has_headers(uri: &str) -> bool {
    let lower = uri.to_ascii_lowercase();
    let is_sip = lower.starts_with("sip:") || lower.starts_with("sips:");
    is_sip && uri.split_once('@').map_or(uri, |(_, behind)| behind).contains('?')
}

fn cseq(value: &str) -> Option<(u32, String)> {
    let (digits, method) = value.split_once([' ', '\t'])?;
    let method = method.trim_start_matches([' ', '\t']);
    let number = number(digits).filter(|n| *n < 1 << 31)?;
    (!method.is_empty() && method.chars().all(is_token)).then(|| (number, method.to_owned()))
}

/// The tag in the value of From or To; none where nobody can read it.
fn tag(value: &str) -> Option<String> {
    let (_, params) = address(value)?;
    params_of(&params).into_iter().find(|(name, _)| name.eq_ignore_ascii_case("tag"))?.1.filter(|tag| !tag.is_empty())
}

impl ViaReading {
    fn fast(bytes: &[u8], via: &Via) -> Self {
        let of = |span: Span| unfold(span.of(bytes));
        Self {
            parm: of(via.parm),
            transport: of(via.transport),
            host: of(via.host),
            port: via.port,
            branch: via.branch.map(of),
            received: via.received.map(|param| param.value.map(of)),
            rport: via.rport.map(|param| param.value.map(of)),
            way: via.way.map(of),
            time: via.time.map(of),
            response_address: via.response_address(bytes),
        }
    }

    /// Reads the first via-parm of an unfolded value; also what follows it.
    pub fn naive(value: &str) -> Option<(Self, String)> {
        let mut cursor = Cursor::new(value);
        cursor.blanks();
        let before = cursor.rest.len();
        let protocol = cursor.token();
        let version = cursor.blanks().eat('/')?.blanks().token();
        let transport = cursor.blanks().eat('/')?.blanks().up_to_mark();
        if !protocol.eq_ignore_ascii_case("SIP") || version.is_empty() || transport.is_empty() || !cursor.at_blank() {
            return None;
        }
        let host = cursor.blanks().host()?;
        let mut via = Self { transport, host, ..Self::default() };
        let mut ahead = cursor.clone();
        if ahead.blanks().eat(':').is_some() {
            ahead.blanks();
            via.port = Some(u16::try_from(number(&ahead.up_to_mark())?).ok()?);
            cursor = ahead;
        } else if !cursor.up_to_mark().is_empty() {
            return None;
        }
        for (name, value) in cursor.params() {
            via.note(&name.to_ascii_lowercase(), value)?;
        }
        via.parm = value[value.len() - before..value.len() - cursor.rest.len()].to_owned();
        let rest = cursor.rest.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
        via.response_address = via.where_responses_go();
        Some((via, rest.to_owned()))
    }

    fn note(&mut self, name: &str, value: Option<String>) -> Option<()> {
        let twice = match name {
            "" => true,
            "branch" => std::mem::replace(&mut self.branch, value).is_some(),
            "w" => std::mem::replace(&mut self.way, value).is_some(),
            "s" => std::mem::replace(&mut self.time, value).is_some(),
            "received" => self.received.replace(value).is_some(),
            "rport" => self.rport.replace(value).is_some(),
            _ => false,
        };
        (!twice).then_some(())
    }

    /// RFC 3261 §18.2.2 and RFC 3581 §4.
    fn where_responses_go(&self) -> Option<SocketAddr> {
        let host = self.received.clone().flatten().unwrap_or_else(|| self.host.clone());
        let port = match self.rport.clone().flatten() {
            Some(digits) => u16::try_from(number(&digits)?).ok()?,
            None => self.port.unwrap_or(5060),
        };
        let ip = match host.strip_prefix('[') {
            Some(inner) => IpAddr::V6(inner.strip_suffix(']')?.parse().ok()?),
            None => host.parse().ok()?,
        };
        Some(SocketAddr::new(ip, port))
    }
}

/// Every position in a message lies in it, and in the part of it where it belongs.
pub fn check_spans(bytes: &[u8], message: &Message) -> Result<(), String> {
    let (head, body, end) = (message.head as usize, message.body as usize, message.end as usize);
    let check = |right: bool, what: &str| if right { Ok(()) } else { Err(format!("{what}: {message:?}")) };
    check(head <= body && body <= end && end <= bytes.len(), "head, body, end")?;
    if let StartLine::Request { name, uri, .. } = message.start {
        check(name.end <= uri.start && uri.start <= uri.end && uri.end as usize <= head, "start line")?;
    }
    let inside = |span: Span| head <= span.start as usize && span.start <= span.end && span.end as usize <= body;
    let via = message.via.into_iter().flat_map(|via| {
        let params = [via.received, via.rport].into_iter().flatten().flat_map(|p| [Some(p.name), p.value]);
        let spans = [Some(via.parm), Some(via.transport), Some(via.host), via.branch, via.way, via.time];
        spans.into_iter().chain(params).flatten().collect::<Vec<_>>()
    });
    let line = message.via_line().unwrap_or_default();
    for span in via {
        check(inside(span) && span.start >= line.start && span.end <= line.end, "Via")?;
    }
    let fields = [message.next_via, message.call_id, message.from(bytes), message.to(bytes)];
    let cseq = message.cseq.map(|cseq| cseq.name);
    for span in fields
        .into_iter()
        .chain([cseq, message.cseq_text(bytes), message.max_forwards.map(|(digits, _)| digits)])
        .flatten()
    {
        check(inside(span), "a field")?;
    }
    for (name, _) in LISTS {
        let mut last = head;
        for line in message.lines(name).map(|line| line.span) {
            check(inside(line) && line.start as usize >= last, "a line")?;
            last = line.end as usize;
        }
        for value in message.values(bytes, name) {
            let in_line = value.line.start <= value.span.start && value.span.end <= value.line.end;
            check(inside(value.span) && in_line && !value.span.is_empty(), "a value")?;
        }
    }
    Ok(())
}

/// Both parsers agree about these bytes.
pub fn check_agreement(bytes: &[u8]) -> Result<(), String> {
    let (fast, naive) = (Message::parse(bytes).ok(), Reading::naive(bytes));
    if let Some(message) = &fast {
        check_spans(bytes, message)?;
    }
    let fast = fast.map(|message| Reading::fast(bytes, &message));
    match fast == naive {
        true => Ok(()),
        false => Err(format!("fast {fast:#?}\nnaive {naive:#?}\nof {:?}", text(bytes))),
    }
}
