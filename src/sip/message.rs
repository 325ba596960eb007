//! What routing needs to know of one SIP message, as positions in its bytes.

use super::Via;
use super::header::{Name, Values};

/// A half-open range of bytes in a message. Sixteen bits suffice: no message is longer than [`super::MAX_MESSAGE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u16,
    pub end: u16,
}

impl Span {
    /// The range `start..end`; both must be positions in one message.
    pub fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= super::MAX_MESSAGE);
        Self { start: start as u16, end: end as u16 }
    }

    /// The bytes of `message` that this range names.
    #[inline]
    pub fn of(self, message: &[u8]) -> &[u8] {
        &message[self.start as usize..self.end as usize]
    }

    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// A request's method. Only those that routing tells apart have a name (RFC 3261 §7.1 wants unknown ones passed on).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Cancel,
    Register,
    Options,
    Subscribe,
    Notify,
    Publish,
    Message,
    Refer,
    Other,
}

impl Method {
    /// Reads a method; methods are case-sensitive (RFC 3261 §7.1).
    pub fn parse(text: &[u8]) -> Self {
        match text {
            b"INVITE" => Self::Invite,
            b"ACK" => Self::Ack,
            b"BYE" => Self::Bye,
            b"CANCEL" => Self::Cancel,
            b"REGISTER" => Self::Register,
            b"OPTIONS" => Self::Options,
            b"SUBSCRIBE" => Self::Subscribe,
            b"NOTIFY" => Self::Notify,
            b"PUBLISH" => Self::Publish,
            b"MESSAGE" => Self::Message,
            b"REFER" => Self::Refer,
            _ => Self::Other,
        }
    }
}

/// The first line of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartLine {
    Request { method: Method, name: Span, uri: Span },
    Response { status: u16 },
}

/// `CSeq: number method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq {
    pub number: u32,
    pub method: Method,
    pub name: Span,
}

/// Why a message that is recognisably SIP cannot be routed. Each is answered with 400 and the phrase of
/// [`Fault::phrase`], but for [`Fault::Version`], which is 505 (RFC 3261 §21.4.1, §21.5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    RequestLine,
    Version,
    NoEndOfHead,
    TooManyHeaders,
    Via,
    CallId,
    CSeq,
    From,
    To,
    MaxForwards,
    ContentLength,
    DifferentCallIds,
    DifferentCSeqs,
    DifferentContentLengths,
    MethodMismatch,
    ShortBody,
}

impl Fault {
    /// The reason phrase of the answer: says what is wrong in words that a log reader understands.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::RequestLine => "Bad Request-Line",
            Self::Version => "Version Not Supported",
            Self::NoEndOfHead => "Header Fields Without End",
            Self::TooManyHeaders => "Too Many Header Fields",
            Self::Via => "Missing Or Bad Via",
            Self::CallId => "Missing Or Bad Call-ID",
            Self::CSeq => "Missing Or Bad CSeq",
            Self::From => "Missing Or Bad From",
            Self::To => "Missing Or Bad To",
            Self::MaxForwards => "Bad Max-Forwards",
            Self::ContentLength => "Bad Content-Length",
            Self::DifferentCallIds => "Different Call-IDs",
            Self::DifferentCSeqs => "Different CSeqs",
            Self::DifferentContentLengths => "Different Content-Lengths",
            Self::MethodMismatch => "CSeq Method Differs From Request-Line",
            Self::ShortBody => "Body Shorter Than Content-Length",
        }
    }
}

/// The most header lines of one message. A call through six proxies with history and identity headers has about
/// sixty; beyond twice that it is an attack, and a fixed limit keeps the index below inside the struct.
pub const MAX_HEADERS: usize = 128;

/// Positions of the fields that route a message. Borrows nothing and owns nothing; valid for the bytes it was
/// parsed from until they are edited.
#[derive(Clone, Debug)]
pub struct Message {
    pub start: StartLine,
    /// Where the first header line begins: the place where inserted lines go.
    pub head: u16,
    /// Where the body begins, behind the empty line.
    pub body: u16,
    /// Where the message ends: `Content-Length` octets behind `body`, or the end of the datagram. What follows in the
    /// datagram is no part of it (RFC 3261 §18.3).
    pub end: u16,
    /// The top via-parm and the rest of the Via stack.
    pub via: Option<Via>,
    /// Where the second via-parm begins and its header line's value ends: `None` where the top one is the only one.
    pub next_via: Option<Span>,
    /// The whole line of the top via-parm with its line end.
    pub via_line: Span,
    pub call_id: Option<Span>,
    pub cseq: Option<CSeq>,
    /// The value of CSeq as it is written, readable or not: what an answer copies.
    pub cseq_text: Option<Span>,
    /// The values of From and To, and their tags.
    pub from: Option<Span>,
    pub from_tag: Option<Span>,
    pub to: Option<Span>,
    pub to_tag: Option<Span>,
    /// The digits of Max-Forwards and their number.
    pub max_forwards: Option<(Span, u8)>,
    pub content_length: Option<u32>,
    /// The first thing that is wrong with it.
    pub fault: Option<Fault>,
    /// Start of every header line, `line_count` of them, and behind the last the position of the empty line.
    pub(super) lines: [u16; MAX_HEADERS + 1],
    pub(super) names: [Name; MAX_HEADERS],
    pub(super) line_count: u8,
    /// The first line of each name, plus one; zero where there is none.
    pub(super) first: [u8; Name::COUNT],
}

impl Message {
    /// The method of a request; of a response, that of the request it answers (its CSeq).
    pub fn method(&self) -> Method {
        match self.start {
            StartLine::Request { method, .. } => method,
            StartLine::Response { .. } => self.cseq.map_or(Method::Other, |cseq| cseq.method),
        }
    }

    /// The status of a response.
    pub fn status(&self) -> Option<u16> {
        match self.start {
            StartLine::Request { .. } => None,
            StartLine::Response { status } => Some(status),
        }
    }

    /// The Request-URI of a request.
    pub fn request_uri(&self) -> Option<Span> {
        match self.start {
            StartLine::Request { uri, .. } => Some(uri),
            StartLine::Response { .. } => None,
        }
    }

    /// Whether a header of this name is present.
    #[inline]
    pub fn has(&self, name: Name) -> bool {
        self.first[name as usize] != 0
    }

    /// The header lines of a name, first to last.
    pub fn lines(&self, name: Name) -> impl Iterator<Item = Span> + use<'_> {
        let from = match self.first[name as usize] {
            0 => self.line_count as usize,
            first => first as usize - 1,
        };
        (from..self.line_count as usize).filter(move |&i| self.names[i] == name).map(|i| self.line(i))
    }

    /// The comma-separated values of all headers of a name, first to last.
    pub fn values<'m>(&'m self, bytes: &'m [u8], name: Name) -> impl Iterator<Item = Value> + use<'m> {
        self.lines(name).flat_map(move |line| Values::of_line(bytes, line))
    }

    /// The header lines whose name is `name`, compared without case; for names that only the configuration knows.
    pub fn lines_named<'m>(&'m self, bytes: &'m [u8], name: &'m [u8]) -> impl Iterator<Item = Span> + use<'m> {
        let first = name.first().map_or(0, |b| b | 0x20);
        (0..self.line_count as usize).map(|i| self.line(i)).filter(move |line| {
            bytes[line.start as usize] | 0x20 == first && super::header::value_after(line.of(bytes), name).is_some()
        })
    }

    fn line(&self, index: usize) -> Span {
        Span { start: self.lines[index], end: self.lines[index + 1] }
    }
}

/// One value of a header that may hold several, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// The value without surrounding blanks.
    pub span: Span,
    /// Its header line with the line end.
    pub line: Span,
}
