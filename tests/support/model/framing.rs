//! What a stream means, told from all of its bytes at once; and what `Framing` finds in it, piece by piece.

use std::ops::Range;

use trunkline::sip::framing::{Frame, Framing};
use trunkline::sip::{Fault, MAX_MESSAGE, Message};

use super::grammar::{is_token, number};
use super::{Reading, logical_lines, long_form, text};

/// What was found in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// Where the messages are, and what was read of each.
    pub messages: Vec<(Range<usize>, Reading)>,
    pub pings: usize,
    /// Where what was found ends.
    pub end: usize,
    pub stop: Stop,
}

/// Why nothing more was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    Waits,
    /// With what was read for an answer.
    Broken(Box<Reading>),
    NotSip,
}

impl Framed {
    fn new() -> Self {
        Self { messages: Vec::new(), pings: 0, end: 0, stop: Stop::Waits }
    }

    /// How it ended, in few words.
    pub fn verdict(&self) -> String {
        let stop = match &self.stop {
            Stop::Waits => "waits".to_owned(),
            Stop::Broken(reading) => format!("{:?}", reading.fault.unwrap()),
            Stop::NotSip => "NotSip".to_owned(),
        };
        format!("{} {stop}", self.messages.len())
    }
}

/// What the stream means: the obviously right way.
pub fn naive(bytes: &[u8], max: usize) -> Framed {
    let max = max.min(MAX_MESSAGE);
    let mut framed = Framed::new();
    loop {
        let pairs = bytes[framed.end..].chunks(2).take_while(|pair| *pair == b"\r\n").count();
        framed.pings += pairs / 2;
        framed.end += pairs * 2;
        let mut rest = &bytes[framed.end..];
        if rest.starts_with(b"\r") {
            framed.end += 1;
            rest = &rest[1..];
            // A carriage return alone.
            if !rest.is_empty() {
                framed.stop = Stop::NotSip;
                return framed;
            }
        }
        if rest.is_empty() {
            return framed;
        }
        match first_message(&rest[..rest.len().min(max)], max) {
            Ok(reading) => {
                let start = framed.end;
                framed.end += reading.end;
                framed.messages.push((start..framed.end, reading));
            }
            Err(stop) => {
                framed.stop = stop;
                return framed;
            }
        }
    }
}

/// The message at the front of so many bytes as one may have.
fn first_message(front: &[u8], max: usize) -> Result<Reading, Stop> {
    let full = front.len() == max;
    let Some(line_end) = front.iter().position(|b| *b == b'\n') else {
        let hopeless = full || !is_token(char::from(front[0]));
        return Err(if hopeless { Stop::NotSip } else { Stop::Waits });
    };
    if Reading::naive(&front[..=line_end]).is_none() {
        return Err(Stop::NotSip);
    }
    let broken = |end: usize, fault| {
        let reading = Reading::naive(&front[..end]).unwrap();
        Stop::Broken(Box::new(Reading { body: end, end, fault: Some(fault), ..reading }))
    };
    let is_head = |end: &usize| front[..*end].ends_with(b"\n\n") || front[..*end].ends_with(b"\n\r\n");
    let Some(body) = (1..=front.len()).find(is_head) else {
        return Err(if full { broken(max, Fault::TooLarge) } else { Stop::Waits });
    };
    let length = body_length(&front[..body], line_end + 1).map_err(|fault| broken(body, fault))?;
    match body + length as usize {
        end if end > max => Err(broken(body, Fault::TooLarge)),
        end if end > front.len() => Err(Stop::Waits),
        end => Ok(Reading::naive(&front[..end]).unwrap()),
    }
}

fn body_length(head: &[u8], lines: usize) -> Result<u32, Fault> {
    let (lines, end) = logical_lines(head, lines);
    end?;
    let without_crlf = text(head).split("\r\n").collect::<Vec<_>>().join("|");
    if without_crlf.contains(['\r', '\n']) {
        return Err(Fault::LineEnd);
    }
    let of = |line: &super::Line| text(&head[line.start..line.end - 2]);
    let written: Vec<_> = lines.iter().filter(|line| long_form(&line.name) == "content-length").map(of).collect();
    let value = |line: &String| match line.split_once(':') {
        Some((_, value)) if !line.contains('\n') => number(value.trim_matches([' ', '\t'])),
        _ => None,
    };
    let folded = |line: &String| line.contains('\n');
    let length = written.first().and_then(value).ok_or(Fault::ContentLength)?;
    match written.iter().find(|line| value(line) != Some(length)) {
        Some(line) if folded(line) => Err(Fault::ContentLength),
        Some(_) => Err(Fault::DifferentContentLengths),
        None => Ok(length),
    }
}

/// What `Framing` finds where the stream comes in pieces of these lengths; what is behind the last comes at once.
pub fn in_pieces(bytes: &[u8], pieces: impl IntoIterator<Item = usize>, max: usize) -> Framed {
    let (mut framing, mut message) = (Framing::default(), Message::default());
    let (mut framed, mut came) = (Framed::new(), 0);
    for piece in pieces.into_iter().chain([bytes.len()]) {
        came = (came + piece).min(bytes.len());
        while framed.stop == Stop::Waits {
            let here = &bytes[framed.end..came];
            match framing.next(here, &mut message, max) {
                Frame::Incomplete => break,
                Frame::KeepAlive { len, pings } => {
                    assert!(0 < len && len <= here.len() && pings <= len.div_ceil(4), "{len} {pings}");
                    framed.end += len;
                    framed.pings += pings;
                }
                Frame::Message { end } => {
                    assert_eq!(end, usize::from(message.end));
                    let whole = framed.end..framed.end + end;
                    framed.end = whole.end;
                    framed.messages.push((whole, Reading::fast(here, &message)));
                }
                Frame::TooLarge { end } => {
                    let too_large = end > max.min(MAX_MESSAGE) && message.fault == Some(Fault::TooLarge);
                    assert!(too_large || message.fault == Some(Fault::TooManyHeaders));
                    framed.stop = Stop::Broken(Box::new(Reading::fast(&here[..message.end.into()], &message)));
                }
                Frame::Broken(fault) => {
                    assert_eq!(message.fault, Some(fault));
                    framed.stop = Stop::Broken(Box::new(Reading::fast(&here[..message.end.into()], &message)));
                }
                Frame::NotSip => framed.stop = Stop::NotSip,
            }
        }
    }
    framed
}

/// However the stream comes, what is found is what it means; and what is found is all there is, in its order.
pub fn check_framing(bytes: &[u8], pieces: impl IntoIterator<Item = usize>, max: usize) -> Result<Framed, String> {
    let wanted = naive(bytes, max);
    let mut at = 0;
    for (range, _) in &wanted.messages {
        let between = bytes.get(at..range.start).filter(|between| between.iter().all(|b| b"\r\n".contains(b)));
        if between.is_none() || range.is_empty() {
            return Err(format!("{wanted:#?} lost something of {:?}", text(bytes)));
        }
        at = range.end;
    }
    for (how, found) in [
        ("at once", in_pieces(bytes, [], max)),
        ("in pieces", in_pieces(bytes, pieces, max)),
        ("byte by byte", in_pieces(bytes, bytes.iter().map(|_| 1), max)),
    ] {
        if found != wanted {
            return Err(format!("{how} {found:#?}\nnaive {wanted:#?}\nof {:?}, at most {max}", text(bytes)));
        }
    }
    Ok(wanted)
}
