//! `Framing` against a reading of the whole stream that is obviously right (`support::model::framing`): messages,
//! keepalives and what is neither, in any pieces; and what an attacker would make two readers disagree about.

mod support;

use proptest::prelude::*;
use support::generate::{Dice, Wish, request, response};
use support::model::framing::{Stop, check_framing, in_pieces, naive};
use trunkline::sip::{Fault, MAX_MESSAGE, Message};

/// Messages of every spelling, as often in CRLF and with a length that is right as streams want them.
fn message(dice: &mut Dice<'_>) -> Vec<u8> {
    let wish = Wish::default();
    let made = if dice.once_in(3) { response(dice, &wish) } else { request(dice, &wish) };
    let mut bytes = made.bytes;
    let junk = if dice.once_in(8) { 0 } else { made.junk };
    bytes.truncate(bytes.len() - junk);
    if dice.once_in(8) {
        return bytes;
    }
    let head = bytes.len() - made.body.len();
    let mut text: String = bytes[..head].iter().map(|b| char::from(*b)).collect();
    text = text.replace("\r\n", "\n").trim_start().replace('\n', "\r\n");
    if !made.has_length {
        text = text.replacen("\r\n", &format!("\r\nContent-Length: {}\r\n", made.body.len()), 1);
    }
    let head = text.chars().map(|c| c as u8).collect::<Vec<_>>();
    [&head[..], &made.body].concat()
}

/// What may stand between messages, and now and then what may not.
fn between(dice: &mut Dice<'_>) -> &'static [u8] {
    match dice.once_in(20) {
        false => dice.pick(&[b"", b"", b"\r\n", b"\r\n\r\n", b"\r\n\r\n\r\n", b"\r\n\r\n\r\n\r\n\r\n"]),
        true => dice.pick(&[b"\n", b"\r", b"\0\0", b"\r\n ", b"x"]),
    }
}

fn stream(dice: &[u8]) -> Vec<u8> {
    let mut dice = Dice::new(dice);
    let mut bytes = Vec::new();
    for _ in 0..=dice.roll(5) {
        bytes.extend_from_slice(between(&mut dice));
        bytes.extend(message(&mut dice));
    }
    bytes.extend_from_slice(between(&mut dice));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_means_the_same_in_any_pieces(
        dice in proptest::collection::vec(any::<u8>(), 0..900),
        pieces in proptest::collection::vec(1usize..400, 0..40),
        max in prop_oneof![Just(MAX_MESSAGE), 100usize..1500],
    ) {
        let bytes = stream(&dice);
        prop_assert_eq!(check_framing(&bytes, pieces, max).err(), None);
    }

    #[test]
    fn a_damaged_stream_means_the_same_in_any_pieces(
        dice in proptest::collection::vec(any::<u8>(), 0..900),
        damage in proptest::collection::vec((any::<u16>(), "[\r\n \t:0-9la-]{0,3}|\r\nl: [0-9]{1,2}|\r\n\r\n"), 1..4),
        pieces in proptest::collection::vec(1usize..400, 0..40),
    ) {
        let mut bytes = stream(&dice);
        for (at, with) in damage {
            let at = usize::from(at) % (bytes.len() + 1);
            let end = bytes.len().min(at + with.len() / 2);
            bytes.splice(at..end, with.bytes());
        }
        prop_assert_eq!(check_framing(&bytes, pieces, MAX_MESSAGE).err(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    /// A datagram that is good may go on by a stream if whoever reads the stream finds it there.
    #[test]
    fn what_is_framed_is_what_a_stream_may_carry(
        dice in proptest::collection::vec(any::<u8>(), 0..300),
        line in prop_oneof![Just(""), Just("X: y\r\n z\r\n"), Just("X: y\n"), Just("l: 0\r\n"), Just("l: 0\r\n \r\n"), Just("l:\r\n 0\r\n"), Just("l: 0\n")],
    ) {
        let mut bytes = message(&mut Dice::new(&dice));
        bytes.drain(..bytes.iter().position(|b| !b"\r\n".contains(b)).unwrap());
        let head = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        bytes.splice(head..head, line.bytes());
        let message = Message::parse(&bytes).unwrap();
        let whole = message.fault.is_none() && message.content_length.is_some() && message.is_framed(&bytes);
        let found = naive(&bytes, MAX_MESSAGE);
        let first = found.messages.first().map(|(range, _)| range.end);
        prop_assert_eq!(whole.then_some(usize::from(message.end)), first.filter(|_| message.fault.is_none()));
    }
}

const FIELDS: &str = "Via: SIP/2.0/TCP 198.51.100.7:5060;branch=z9hG4bK1\r\nFrom: <sip:a@a.example>;tag=1\r\n\
                      To: <sip:b@b.example>\r\nCall-ID: 1@a.example\r\nCSeq: 1 MESSAGE\r\n";

/// A request with these lines behind the usual ones, and what follows the empty line.
fn with(lines: &str, behind: &str) -> String {
    format!("MESSAGE sip:b@b.example SIP/2.0\r\n{FIELDS}{lines}\r\n{behind}")
}

fn verdict(stream: &str) -> String {
    match check_framing(stream.as_bytes(), [7; 300], MAX_MESSAGE) {
        Ok(framed) => framed.verdict(),
        Err(difference) => panic!("{difference}"),
    }
}

#[test]
fn messages_and_pings_are_the_same_wherever_the_stream_is_cut() {
    let one = with("Content-Length: 4\r\n", "\r\n\r\n");
    let answer = format!("SIP/2.0 200 OK\r\n{FIELDS}l: 0\r\n\r\n");
    let stream = ["\r\n", &one, "\r\n\r\n", &answer, &one, "\r\n\r\n\r\n", &answer, "\r\n\r\n\r\n\r\n", &one].concat();
    let bytes = stream.as_bytes();
    let wanted = naive(bytes, MAX_MESSAGE);
    assert_eq!((wanted.verdict().as_str(), wanted.pings, wanted.end), ("5 waits", 4, bytes.len()));
    assert!(wanted.messages.iter().all(|(_, reading)| reading.fault.is_none()));
    for cut in 0..=bytes.len() {
        assert_eq!(in_pieces(bytes, [cut], MAX_MESSAGE), wanted, "cut at {cut}");
        // And where only so much came at all.
        check_framing(&bytes[..cut], [], MAX_MESSAGE).unwrap();
    }
    for size in 1..80 {
        assert_eq!(in_pieces(bytes, std::iter::repeat_n(size, bytes.len()), MAX_MESSAGE), wanted, "pieces of {size}");
    }
}

#[test]
fn a_ping_is_a_ping_in_whatever_pieces_it_comes() {
    for (pieces, pings) in [
        (&["\r\n\r\n"][..], 1),
        (&["\r\n", "\r\n"], 1),
        (&["\r", "\n", "\r", "\n"], 1),
        (&["\r\n\r", "\n\r\n\r\n\r"], 2),
        (&["\r\n"], 0),
        (&["\r\n\r"], 0),
    ] {
        let found = in_pieces(pieces.concat().as_bytes(), pieces.iter().map(|piece| piece.len()), MAX_MESSAGE);
        assert_eq!((found.pings, found.end, found.stop), (pings, pieces.concat().len(), Stop::Waits), "{pieces:?}");
    }
    // Half a ping before a message and half behind it is none.
    let around = ["\r\n", &with("Content-Length: 0\r\n", ""), "\r\n"].concat();
    assert_eq!(in_pieces(around.as_bytes(), [], MAX_MESSAGE).pings, 0);
}

/// Two readers that disagree where a message ends see different messages behind it. Each stream goes on with a request
/// that one of them would take for a body, or a body that one of them would take for a request.
#[test]
fn nothing_is_framed_that_others_could_frame_otherwise() {
    let smuggled = with("Content-Length: 0\r\n", "");
    let len = smuggled.len();
    for (lines, wanted) in [
        // What is plain.
        ("Content-Length: 0\r\n".to_owned(), "2 waits"),
        (format!("Content-Length: {len}\r\n"), "1 waits"),
        (format!("l: {len}\r\n"), "1 waits"),
        (format!("CONTENT-LENGTH \t: \t000{len} \t\r\n"), "1 waits"),
        (format!("l: {len}\r\nContent-Length: {len}\r\n"), "1 waits"),
        // Two lengths.
        (format!("Content-Length: 0\r\nContent-Length: {len}\r\n"), "0 DifferentContentLengths"),
        (format!("Content-Length: {len}\r\nl: 0\r\n"), "0 DifferentContentLengths"),
        (format!("Content-Length: {len}\r\nContent-Length:\r\n"), "0 DifferentContentLengths"),
        (format!("Content-Length: {len}, {len}\r\n"), "0 ContentLength"),
        // None, or no number.
        (String::new(), "0 ContentLength"),
        ("Content-Length:\r\n".to_owned(), "0 ContentLength"),
        ("Content-Length\r\n".to_owned(), "0 ContentLength"),
        (format!("Content-Length: +{len}\r\n"), "0 ContentLength"),
        ("Content-Length: -1\r\n".to_owned(), "0 ContentLength"),
        (format!("Content-Length: 0x{len:x}\r\n"), "0 ContentLength"),
        (format!("Content-Length: {len}.0\r\n"), "0 ContentLength"),
        (format!("Content-Length: \"{len}\"\r\n"), "0 ContentLength"),
        (format!("Content-Length: {len};x\r\n"), "0 ContentLength"),
        (format!("Content-Length: {len}\0\r\n"), "0 ContentLength"),
        (format!("Content-Length: {}\r\n", 1u64 << 32), "0 ContentLength"),
        (format!("Content-Length: {}\r\n", "9".repeat(40)), "0 ContentLength"),
        (format!("Content_Length: {len}\r\n"), "0 ContentLength"),
        (format!("Content-Length\x0b: {len}\r\n"), "0 ContentLength"),
        // Folded.
        (format!("Content-Length:\r\n {len}\r\n"), "0 ContentLength"),
        (format!("Content-Length: 1\r\n\t{len}\r\n"), "0 ContentLength"),
        (format!("Content-Length: {len}\r\n \r\n"), "0 ContentLength"),
        (format!("Content-Length\r\n : {len}\r\n"), "0 ContentLength"),
        (format!("Content-Length: {len}\r\nl:\r\n {len}\r\n"), "0 ContentLength"),
        (format!("X: y\r\n Content-Length: {len}\r\n"), "0 ContentLength"),
        // A name without its colon is none (RFC 3261 §25.1: HCOLON knows no line end), so these have one length.
        (format!("Content-Length: 0\r\nContent-Length\r\n : {len}\r\n"), "2 waits"),
        (format!("Content-Length: 0\r\nX: y\r\n Content-Length: {len}\r\n"), "2 waits"),
        // Too large.
        ("Content-Length: 10000000\r\n".to_owned(), "0 TooLarge"),
        ("Content-Length: 4294967295\r\n".to_owned(), "0 TooLarge"),
        // Line ends that are none to some.
        (format!("Content-Length: {len}\n"), "0 LineEnd"),
        (format!("X: y\nContent-Length: {len}\r\n"), "0 LineEnd"),
        (format!("X: y\rContent-Length: 0\r\nContent-Length: {len}\r\n"), "0 LineEnd"),
        (format!("X: y\r\r\nContent-Length: {len}\r\n"), "0 LineEnd"),
        (format!("Content-Length: {len}\r\r\n"), "0 LineEnd"),
        (format!("Content-Length: {len}\r\n\r\r\n"), "0 LineEnd"),
        (format!("Content-Length: {len}\r\n\n"), "0 LineEnd"),
        (format!("Content-Length: {len}\r\n\r"), "0 LineEnd"),
        // More lines than are read.
        (format!("{}Content-Length: {len}\r\n", "X: y\r\n".repeat(130)), "0 TooManyHeaders"),
        (format!("Content-Length: {len}\r\n{}", "X: y\r\n".repeat(130)), "0 TooManyHeaders"),
    ] {
        assert_eq!(verdict(&with(&lines, &smuggled)), wanted, "{lines:?}");
    }
}

#[test]
fn what_is_not_sip_ends_the_stream_at_once() {
    let one = with("Content-Length: 0\r\n", "");
    for (junk, wanted) in [
        ("\u{16}\u{3}\u{1}", "NotSip"),
        ("\0", "NotSip"),
        (" ", "NotSip"),
        ("\n", "NotSip"),
        ("\r\r", "NotSip"),
        ("\r ", "NotSip"),
        ("@", "NotSip"),
        ("GET / HTTP/1.1\r\n", "NotSip"),
        ("SIP/2.0 99 Early\r\n", "NotSip"),
        ("MESSAGE\r\n", "NotSip"),
        // Anything could still become of these.
        ("GET / HTTP/1.1", "waits"),
        ("SIP/2.0 200 OK\r", "waits"),
        ("jaK", "waits"),
    ] {
        assert_eq!(verdict(junk), format!("0 {wanted}"), "{junk:?}");
        assert_eq!(verdict(&format!("{one}{junk}")), format!("1 {wanted}"), "{junk:?}");
    }
    let endless = "A".repeat(MAX_MESSAGE);
    assert_eq!(naive(endless.as_bytes(), MAX_MESSAGE), in_pieces(endless.as_bytes(), [], MAX_MESSAGE));
    assert_eq!(in_pieces(endless.as_bytes(), [], MAX_MESSAGE).stop, Stop::NotSip);
    assert_eq!(in_pieces(&endless.as_bytes()[1..], [], MAX_MESSAGE).stop, Stop::Waits);
}

/// What is wrong elsewhere is answered, and the stream goes on: where the message ends is sure.
#[test]
fn a_message_with_another_fault_is_framed() {
    let good = with("Content-Length: 4\r\n", "abcd");
    for (bad, fault) in [
        (good.replace("CSeq: 1 MESSAGE", "CSeq: 1 BYE"), Fault::MethodMismatch),
        (good.replace("Via: SIP/2.0/TCP", "Via: SIP"), Fault::Via),
        (good.replace("Call-ID: 1@a.example\r\n", ""), Fault::CallId),
        (good.replace(" SIP/2.0\r\n", " SIP/7.0\r\n"), Fault::Version),
        (good.replace("sip:b@b.example SIP", "sip:b@b.example  SIP"), Fault::RequestLine),
        (good.replace("CSeq", "Max-Forwards: 300\r\nCSeq"), Fault::MaxForwards),
    ] {
        let stream = [&bad[..], &good, &bad].concat();
        let found = check_framing(stream.as_bytes(), [50; 30], MAX_MESSAGE).unwrap();
        let faults: Vec<_> = found.messages.iter().map(|(_, reading)| reading.fault).collect();
        assert_eq!((faults, found.stop), (vec![Some(fault), None, Some(fault)], Stop::Waits));
    }
}

/// What an answer needs was read, however the stream came.
#[test]
fn what_breaks_a_stream_can_be_answered_where_its_headers_could_be_read() {
    for (lines, fault) in [
        ("", Fault::ContentLength),
        ("Content-Length: 99999\r\n", Fault::TooLarge),
        ("Content-Length: 3\n", Fault::LineEnd),
        (&"X: y\r\n".repeat(200), Fault::TooManyHeaders),
        (&"Subject: long\r\n".repeat(6000), Fault::TooLarge),
    ] {
        let stream = with(lines, "abc");
        let found = check_framing(stream.as_bytes(), [100; 10], MAX_MESSAGE).unwrap();
        let Stop::Broken(reading) = found.stop else { panic!("{:?}", found.stop) };
        assert_eq!(reading.fault, Some(fault));
        assert_eq!(reading.call_id.as_deref(), Some("1@a.example"));
        assert_eq!(reading.cseq, Some((1, "MESSAGE".to_owned())));
        assert!(reading.via.is_some() && reading.from.is_some() && reading.to.is_some());
    }
}
