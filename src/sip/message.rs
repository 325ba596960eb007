//! What routing needs to know of one SIP message, as positions in its bytes.

use super::Via;
use super::header::Values;
use super::lines::{Line, Lines};
use super::name::{Name, value_after};

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
    /// The method whose name the text at `at` begins with, and its length: those that are told apart, by one word. What
    /// stands behind it is the caller's to look at.
    #[inline]
    pub(super) fn begin(bytes: &[u8], at: usize) -> Option<(Self, usize)> {
        const fn word(text: &[u8]) -> u64 {
            let (mut word, mut at) = (0, 0);
            while at < text.len() {
                word |= (text[at] as u64) << (8 * at);
                at += 1;
            }
            word
        }
        let read = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        // Methods are case-sensitive (RFC 3261 §7.1).
        macro_rules! is {
            ($text:literal) => {
                read & (u64::MAX >> (64 - 8 * $text.len())) == const { word($text) }
            };
        }
        match () {
            () if is!(b"INVITE") => Some((Self::Invite, 6)),
            () if is!(b"ACK") => Some((Self::Ack, 3)),
            () if is!(b"BYE") => Some((Self::Bye, 3)),
            () if is!(b"OPTIONS") => Some((Self::Options, 7)),
            () if is!(b"REGISTER") => Some((Self::Register, 8)),
            () if is!(b"CANCEL") => Some((Self::Cancel, 6)),
            () if is!(b"NOTIFY") => Some((Self::Notify, 6)),
            () if is!(b"REFER") => Some((Self::Refer, 5)),
            () if is!(b"MESSAGE") => Some((Self::Message, 7)),
            () if is!(b"PUBLISH") => Some((Self::Publish, 7)),
            () => {
                let rest = bytes.get(at..at + 9)?;
                (rest == b"SUBSCRIBE").then_some((Self::Subscribe, 9))
            }
        }
    }

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
/// [`Fault::phrase`], but for [`Fault::Version`], which is 505, and [`Fault::TooLarge`], which is 513 (RFC 3261 §21.4.1,
/// §21.5.6, §21.5.7).
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
    DifferentFroms,
    DifferentTos,
    DifferentContentLengths,
    MethodMismatch,
    ShortBody,
    /// On a stream: a line feed or a carriage return alone.
    LineEnd,
    /// On a stream: larger than a message may be.
    TooLarge,
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
            Self::ContentLength => "Missing Or Bad Content-Length",
            Self::DifferentCallIds => "Different Call-IDs",
            Self::DifferentCSeqs => "Different CSeqs",
            Self::DifferentFroms => "Different From Headers",
            Self::DifferentTos => "Different To Headers",
            Self::DifferentContentLengths => "Different Content-Lengths",
            Self::MethodMismatch => "CSeq Method Differs From Request-Line",
            Self::ShortBody => "Body Shorter Than Content-Length",
            Self::LineEnd => "Line End Other Than CRLF",
            Self::TooLarge => "Message Too Large",
        }
    }
}

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
    pub call_id: Option<Span>,
    pub cseq: Option<CSeq>,
    /// The digits of Max-Forwards and their number.
    pub max_forwards: Option<(Span, u8)>,
    pub content_length: Option<u32>,
    /// The first thing that is wrong with it.
    pub fault: Option<Fault>,
    pub(super) lines: Lines,
}

impl Default for Message {
    /// Nothing read yet.
    fn default() -> Self {
        Self {
            start: StartLine::Response { status: 0 },
            head: 0,
            body: 0,
            end: 0,
            via: None,
            next_via: None,
            call_id: None,
            cseq: None,
            max_forwards: None,
            content_length: None,
            fault: None,
            lines: Lines::default(),
        }
    }
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
        self.lines.has(name)
    }

    /// The value of CSeq as it is written, readable or not: what an answer copies.
    pub fn cseq_text(&self, bytes: &[u8]) -> Option<Span> {
        self.lines.value(bytes, Name::CSeq)
    }

    /// The header lines of a name, first to last.
    #[inline]
    pub fn lines(&self, name: Name) -> impl Iterator<Item = Line> + '_ {
        self.lines.of(name)
    }

    /// The whole line of the top via-parm with its line end.
    #[inline]
    pub fn via_line(&self) -> Option<Span> {
        self.lines.first(Name::Via).map(|line| line.span)
    }

    /// The comma-separated values of all headers of a name, first to last.
    #[inline]
    pub fn values<'m>(&'m self, bytes: &'m [u8], name: Name) -> impl Iterator<Item = Value> + use<'m> {
        self.lines(name).flat_map(move |line| Values::of_line(bytes, line))
    }

    /// Whether a header of this name may be there; false where none begins with its letter.
    #[inline]
    pub fn may_have(&self, name: &[u8]) -> bool {
        name.first().is_some_and(|letter| self.lines.may_begin_with(*letter))
    }

    /// The header lines whose name is `name`, compared without case; for names that only the configuration knows.
    pub fn lines_named<'m>(&'m self, bytes: &'m [u8], name: &'m [u8]) -> impl Iterator<Item = Line> + use<'m> {
        let lines = self.may_have(name).then(|| self.lines.all(bytes)).into_iter().flatten();
        lines.filter_map(move |span| {
            let colon_end = span.start + value_after(span.of(bytes), name)? as u16;
            Some(Line { span, colon_end })
        })
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
