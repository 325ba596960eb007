//! Message after message in the bytes of a stream (RFC 3261 §18.3, docs/rules.md 23 and 24).
//!
//! Where whole messages came, reading one is all that is done to find its end. Of one that came in part is remembered
//! what it waits for, so that in whatever pieces it comes it is read four times at most: as it began, and with the end
//! of its start line, of its head, of its body. What is found never depends on the pieces.

use super::MAX_MESSAGE;
use super::header::{is_token, number};
use super::lines::{Line, find, has_unpaired_line_end};
use super::message::{Fault, Message};
use super::name::Name;

/// What the bytes of a stream begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole message, `0..end`, which was read. It may have a fault; its end is sure all the same.
    Message { end: usize },
    /// `len` bytes of line ends, to be skipped. `pings` of those that were begun end in them: each wants a CRLF back
    /// (RFC 5626 §4.4.1).
    KeepAlive { len: usize, pings: usize },
    /// Nothing that is whole: more bytes are needed, behind these.
    Incomplete,
    /// A message that is too large or has too many lines, `0..end`. What could be read of its head was read, and its end is
    /// that of the head, as after [`Frame::Broken`].
    TooLarge { end: usize },
    /// A message whose end cannot be told, nor whether there will be one. What could be read of its head was read, the fault is
    /// its fault, and its end is that of the head: so it is answered, where it has what an answer needs. Nothing can be
    /// found behind it: the connection is to be closed.
    Broken(Fault),
    /// Not SIP: the connection is to be closed.
    NotSip,
}

/// How far the bytes of one connection were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    awaited: Awaited,
    /// How much of a CRLFCRLF came, in octets. A stream has no pieces: two CRLF are a ping however they come, until a
    /// message stands between them.
    ping: u8,
    /// How often a message was read.
    #[cfg(test)]
    reads: usize,
}

/// What a message that came in part is looked at again for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// So many bytes.
    Bytes(u32),
    /// The end of the start line, which is not in the first so many bytes.
    LineEnd(u32),
    /// The empty line behind the head; it does not begin in the first so many bytes.
    EmptyLine(u32),
}

impl Default for Awaited {
    /// Anything.
    fn default() -> Self {
        Self::Bytes(0)
    }
}

const PING: [u8; 4] = *b"\r\n\r\n";

impl Framing {
    /// Looks at what came and was neither a message nor skipped; reads a message into `message`. One may have up to
    /// `max` bytes, at most [`MAX_MESSAGE`]. `bytes` may hold more than one: call again for what is behind.
    ///
    /// After [`Frame::Incomplete`] the next bytes must begin with the same ones. Each byte of line ends is given out
    /// once, so a flood of them costs one call for what was received at once.
    ///
    /// Hot path: nothing is allocated, and a message that is whole is read once.
    #[inline]
    pub fn next(&mut self, bytes: &[u8], message: &mut Message, max: usize) -> Frame {
        match bytes.first() {
            None => return Frame::Incomplete,
            Some(first) if matches!(first, b'\r' | b'\n') || self.ping % 2 == 1 => return self.skip_line_ends(bytes),
            Some(_) => {}
        }
        let max = max.min(MAX_MESSAGE);
        let front = &bytes[..bytes.len().min(max)];
        // In front of the limit nothing is worth waiting for any more.
        if !self.awaited.has_come(front) && front.len() < max {
            return Frame::Incomplete;
        }
        #[cfg(test)]
        {
            self.reads += 1;
        }
        let is_sip = message.read(front).is_ok();
        if is_sip && message.fault.is_none() && message.content_length.is_some() && message.is_framed(front) {
            return self.whole(message);
        }
        self.look_closer(front, message, is_sip, max)
    }

    fn skip_line_ends(&mut self, bytes: &[u8]) -> Frame {
        let (mut len, mut pings) = (0, 0);
        while bytes.get(len) == Some(&PING[usize::from(self.ping)]) {
            len += 1;
            self.ping = (self.ping + 1) % 4;
            pings += usize::from(self.ping == 0);
        }
        // A carriage return or a line feed alone ends no line.
        if len == 0 { Frame::NotSip } else { Frame::KeepAlive { len, pings } }
    }

    #[inline]
    fn whole(&mut self, message: &Message) -> Frame {
        (self.awaited, self.ping) = (Awaited::default(), 0);
        Frame::Message { end: message.end.into() }
    }

    /// What was read is not whole, or something is wrong with it. Nothing is decided before the head is there: what
    /// could be read for an answer would depend on how much of it came.
    #[cold]
    fn look_closer(&mut self, front: &[u8], message: &mut Message, is_sip: bool, max: usize) -> Frame {
        let full = front.len() == max;
        let Some(first_end) = find(front, 0, front.len(), b'\n') else {
            return match front.first() {
                Some(first) if is_token(*first) && !full => self.wait_for(Awaited::LineEnd(front.len() as u32)),
                _ => Frame::NotSip,
            };
        };
        if !is_sip {
            return Frame::NotSip;
        }
        let body = match find_body(front, first_end) {
            Ok(body) => body,
            Err(searched) if !full => return self.wait_for(Awaited::EmptyLine(searched as u32)),
            Err(_) => return broken(message, front.len(), Fault::TooLarge),
        };
        match measure(front, message, body) {
            Ok(end) if end > max => self.too_large(message, body, Fault::TooLarge, end),
            Ok(end) if end > front.len() => self.wait_for(Awaited::Bytes(end as u32)),
            Ok(_) => self.whole(message),
            Err(Fault::TooManyHeaders) => match measure_by_lines(front, body) {
                Some(end) => self.too_large(message, body, Fault::TooManyHeaders, end),
                None => broken(message, body, Fault::TooManyHeaders),
            },
            Err(fault) => broken(message, body, fault),
        }
    }

    fn too_large(&mut self, message: &mut Message, body: usize, fault: Fault, end: usize) -> Frame {
        broken(message, body, fault);
        self.awaited = Awaited::default();
        Frame::TooLarge { end }
    }

    fn wait_for(&mut self, awaited: Awaited) -> Frame {
        self.awaited = awaited;
        Frame::Incomplete
    }
}

impl Awaited {
    /// Whether it is there; if not, remembers what was searched.
    #[inline]
    fn has_come(&mut self, front: &[u8]) -> bool {
        match self {
            Self::Bytes(needed) => front.len() >= *needed as usize,
            Self::LineEnd(searched) => {
                let found = find(front, *searched as usize, front.len(), b'\n');
                *searched = front.len() as u32;
                found.is_some()
            }
            Self::EmptyLine(searched) => match find_body(front, *searched as usize) {
                Ok(_) => true,
                Err(behind) => {
                    *searched = behind as u32;
                    false
                }
            },
        }
    }
}

/// Where the body begins, behind the first empty line from a line's end on; else where the search goes on. A line feed
/// alone ends a line here: such a head is to be read too, for the answer that says so.
fn find_body(bytes: &[u8], from: usize) -> Result<usize, usize> {
    let mut at = from;
    while let Some(end) = find(bytes, at, bytes.len(), b'\n') {
        match bytes[end + 1..] {
            [b'\n', ..] => return Ok(end + 2),
            [b'\r', b'\n', ..] => return Ok(end + 3),
            [] | [b'\r'] => return Err(end),
            _ => at = end + 1,
        }
    }
    Err(bytes.len())
}

impl Message {
    /// Whether its head, which is whole, means the same to everybody who reads it from a stream: each line ends in CRLF,
    /// and Content-Length, where it is there, in one piece. What is sloppier may come as a datagram, which ends by itself.
    #[inline]
    pub fn is_framed(&self, bytes: &[u8]) -> bool {
        !has_unpaired_line_end(bytes, 0, self.body.into())
            && self.lines(Name::ContentLength).all(|line| !is_folded(bytes, line))
    }
}

/// Where the message of this head ends.
fn measure(bytes: &[u8], message: &Message, body: usize) -> Result<usize, Fault> {
    // Behind the last line stands the empty one alone; else they were too many, and not all of them were read.
    if body - message.lines.end() > 2 {
        return Err(Fault::TooManyHeaders);
    }
    if has_unpaired_line_end(bytes, 0, body) {
        return Err(Fault::LineEnd);
    }
    let length = message.content_length.ok_or(Fault::ContentLength)?;
    for line in message.lines(Name::ContentLength) {
        if is_folded(bytes, line) {
            return Err(Fault::ContentLength);
        }
        if number(line.value(bytes).of(bytes)) != Some(length) {
            return Err(Fault::DifferentContentLengths);
        }
    }
    Ok(body + length as usize)
}

/// The same where there are more lines than are read; `None` where the end is not sure.
fn measure_by_lines(bytes: &[u8], body: usize) -> Option<usize> {
    if has_unpaired_line_end(bytes, 0, body) {
        return None;
    }
    let (mut length, mut at, mut folded) = (None, 0, false);
    while let Some(end) = find(bytes, at, body, b'\n') {
        let line = &bytes[at..end - 1];
        // The line in front goes on.
        if folded && matches!(line.first(), Some(b' ' | b'\t')) {
            return None;
        }
        let (name, value) = line.split_at(line.iter().position(|b| *b == b':').unwrap_or(line.len()));
        folded = matches!(name.trim_ascii().to_ascii_lowercase().as_slice(), b"content-length" | b"l");
        if folded {
            let number = number(value.get(1..)?.trim_ascii())?;
            if length.replace(number).is_some_and(|other| other != number) {
                return None;
            }
        }
        at = end + 1;
    }
    Some(body + length? as usize)
}

/// Whether a line ends within a header (RFC 3261 §7.3.1).
#[inline]
fn is_folded(bytes: &[u8], line: Line) -> bool {
    find(bytes, line.colon_end.into(), line.span.end as usize - 1, b'\n').is_some()
}

/// The fault that ends the stream is the one to tell, whatever else is wrong.
fn broken(message: &mut Message, end_of_head: usize, fault: Fault) -> Frame {
    (message.body, message.end) = (end_of_head as u16, end_of_head as u16);
    message.fault = Some(fault);
    Frame::Broken(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "MESSAGE sip:b@b.example SIP/2.0\r\nVia: SIP/2.0/TCP a.example;branch=z9hG4bK1\r\n\
                        From: <sip:a@a.example>;tag=1\r\nTo: <sip:b@b.example>\r\nCall-ID: 1@a.example\r\n\
                        CSeq: 1 MESSAGE\r\n";

    fn with_body(len: usize) -> Vec<u8> {
        [format!("{HEAD}Content-Length: {len}\r\n\r\n").as_bytes(), &vec![b'x'; len]].concat()
    }

    /// Hands over one byte more each time, until something is found.
    fn creep(framing: &mut Framing, bytes: &[u8], max: usize) -> (usize, Frame) {
        let (mut message, mut came, mut frame) = (Message::default(), 0, Frame::Incomplete);
        while frame == Frame::Incomplete {
            came += 1;
            frame = framing.next(&bytes[..came], &mut message, max);
        }
        (came, frame)
    }

    #[test]
    fn a_message_that_came_whole_is_read_once() {
        let one = with_body(70);
        let many = one.repeat(1000);
        assert!(many.len() > MAX_MESSAGE);
        let (mut framing, mut message, mut at) = (Framing::default(), Message::default(), 0);
        while at < many.len() {
            assert_eq!(framing.next(&many[at..], &mut message, usize::MAX), Frame::Message { end: one.len() });
            assert_eq!(message.call_id.unwrap().of(&many[at..]), b"1@a.example");
            at += one.len();
        }
        assert_eq!(framing.reads, 1000);
    }

    /// As it began, and with its start line, with its head, with its body.
    #[test]
    fn the_largest_message_byte_by_byte_is_read_four_times() {
        let head = with_body(10_000).len() - 10_000;
        let bytes = with_body(MAX_MESSAGE - head);
        assert_eq!(bytes.len(), MAX_MESSAGE);
        let mut framing = Framing::default();
        assert_eq!(creep(&mut framing, &bytes, MAX_MESSAGE), (MAX_MESSAGE, Frame::Message { end: MAX_MESSAGE }));
        assert_eq!(framing.reads, 4);
    }

    /// Nothing but the two bytes that can begin an empty line is looked at again.
    #[test]
    fn the_largest_head_byte_by_byte_is_searched_once() {
        for line in ["X: y\r\n", "\r\r\n", "X\n \r\n"] {
            let bytes = [HEAD, &line.repeat(MAX_MESSAGE / line.len())].concat().into_bytes();
            let (mut framing, mut message) = (Framing::default(), Message::default());
            for came in 1..MAX_MESSAGE {
                assert_eq!(framing.next(&bytes[..came], &mut message, MAX_MESSAGE), Frame::Incomplete);
                match framing.awaited {
                    Awaited::LineEnd(searched) => assert_eq!(searched as usize, came),
                    Awaited::EmptyLine(searched) => assert!(searched as usize + 2 >= came),
                    Awaited::Bytes(_) => panic!("there is no empty line"),
                }
            }
            assert_eq!(framing.reads, 2);
            let last = framing.next(&bytes, &mut message, MAX_MESSAGE);
            assert_eq!((last, framing.reads), (Frame::Broken(Fault::TooLarge), 3));
        }
    }

    #[test]
    fn a_flood_of_line_ends_costs_one_call() {
        let bytes = b"\r\n".repeat(30_001);
        let (mut framing, mut message) = (Framing::default(), Message::default());
        let frame = framing.next(&bytes, &mut message, MAX_MESSAGE);
        assert_eq!(frame, Frame::KeepAlive { len: 60_002, pings: 15_000 });
        assert_eq!(framing.next(&[], &mut message, MAX_MESSAGE), Frame::Incomplete);
        assert_eq!(framing.reads, 0);
    }

    /// A message that grows too large is refused as soon as its head is there.
    #[test]
    fn what_is_too_large_is_not_waited_for() {
        let bytes = with_body(10_000_000);
        let head = bytes.len() - 10_000_000;
        let (came, frame) = creep(&mut Framing::default(), &bytes[..MAX_MESSAGE], MAX_MESSAGE);
        assert_eq!((came, frame), (head, Frame::TooLarge { end: bytes.len() }));
        let bytes = with_body(100);
        let len = bytes.len();
        assert_eq!(creep(&mut Framing::default(), &bytes, len), (len, Frame::Message { end: len }));
        assert_eq!(creep(&mut Framing::default(), &bytes, len - 1), (len - 100, Frame::TooLarge { end: len }));
        // A limit that shrinks meanwhile leaves nothing waiting.
        let (mut framing, mut message) = (Framing::default(), Message::default());
        assert_eq!(framing.next(&bytes[..len - 1], &mut message, len), Frame::Incomplete);
        assert_eq!(framing.next(&bytes[..len - 1], &mut message, len - 1), Frame::TooLarge { end: len });
        assert_eq!(framing.next(&bytes, &mut message, 0), Frame::NotSip);
    }
}
