//! `Message::parse` against a parser that is obviously right (`support::model`): on messages of which we know what they
//! mean, on such messages after damage, and on any bytes.

mod support;

use proptest::prelude::*;
use support::generate::{Dice, Made, MadeVia, Wish, request, response};
use support::model::{Reading, ViaReading, check_agreement, check_spans, unfold};
use trunkline::sip::name::Name;
use trunkline::sip::{Fault, Message, Method};

fn dice() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

fn make(dice: &[u8]) -> Made {
    let mut dice = Dice::new(dice);
    let is_response = dice.once_in(3);
    if is_response { response(&mut dice, &Wish::default()) } else { request(&mut dice, &Wish::default()) }
}

/// Text with single blanks.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a via-parm was made to mean, and what was read of it.
fn same_via(made: &MadeVia, read: &ViaReading) -> bool {
    let MadeVia { transport, host, port, branch, rport, received } = made.clone();
    let wanted = ViaReading {
        transport,
        host,
        port,
        branch,
        rport,
        received: received.map(Some),
        parm: read.parm.clone(),
        response_address: read.response_address,
        ..ViaReading::default()
    };
    wanted == *read
}

fn check_meaning(made: &Made) -> Result<(), TestCaseError> {
    let bytes = &made.bytes[..];
    let message = Message::parse(bytes).map_err(|_| TestCaseError::fail("not SIP"))?;
    prop_assert_eq!(message.fault, None);
    prop_assert_eq!(check_spans(bytes, &message), Ok(()));
    let read = Reading::fast(bytes, &message);
    match &made.uri {
        Some(uri) => prop_assert_eq!(&read.request, &Some((made.method.clone(), uri.clone()))),
        None => prop_assert_eq!(read.status, made.status),
    }
    prop_assert_eq!(message.method(), Method::parse(made.method.as_bytes()));
    prop_assert!(same_via(&made.vias[0], &read.via.unwrap()));
    let next = read.next_via.map(|next| ViaReading::naive(&next).unwrap().0);
    prop_assert_eq!(next.is_some(), made.vias.len() > 1);
    prop_assert!(next.is_none_or(|next| same_via(&made.vias[1], &next)));
    prop_assert_eq!(message.values(bytes, Name::Via).count(), made.vias.len());
    let routes: Vec<_> = message.values(bytes, Name::Route).map(|v| plain(&unfold(v.span.of(bytes)))).collect();
    prop_assert_eq!(routes, made.routes.iter().map(|route| latin(route)).collect::<Vec<_>>());
    prop_assert_eq!(read.call_id.as_ref(), Some(&made.call_id));
    prop_assert_eq!(read.cseq, Some((made.cseq, made.method.clone())));
    prop_assert_eq!((&read.from_tag, &read.to_tag), (&made.from_tag, &made.to_tag));
    prop_assert_eq!(read.max_forwards, made.max_forwards);
    prop_assert_eq!(read.content_length, made.has_length.then_some(made.body.len() as u32));
    prop_assert_eq!(&bytes[read.body..read.end], &made.body[..]);
    prop_assert_eq!(bytes.len() - read.end, made.junk);
    Ok(())
}

/// Non-ASCII text as the model shows it: one character for each byte, single blanks.
fn latin(value: &str) -> String {
    plain(&unfold(value.as_bytes()))
}

/// One act of damage, steered by two numbers.
fn damage(bytes: &mut Vec<u8>, (kind, at, with): (u8, u16, u8)) {
    const JUNK: [&[u8]; 20] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b",",
        b";",
        b"\"",
        b"<",
        b">",
        b":",
        b"=",
        b"\\",
        b"\0",
        b"/",
        b"[",
        b"]",
        b"\r\n ",
        b"\r\n\r\n",
        b"@",
    ];
    let at = usize::from(at) % (bytes.len() + 1);
    let line_start = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let line_end = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n + 1);
    let line = bytes[line_start..line_end].to_vec();
    match kind % 9 {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, JUNK[usize::from(with) % JUNK.len()].iter().copied())),
        2 if at < bytes.len() => bytes[at] = with,
        3 => drop(bytes.drain(line_start..line_end)),
        4 => drop(bytes.splice(line_start..line_start, line)),
        5 if line_end < bytes.len() => bytes[line_start..].rotate_left(line.len()),
        6 => drop(bytes.drain(at..bytes.len().min(at + usize::from(with % 12)))),
        7 => bytes.insert(at, with),
        8 => drop(bytes.splice(line_start..line_start, LINES[usize::from(with) % LINES.len()].iter().copied())),
        _ => {}
    }
}

/// Header lines that meet others of their name, or are broken.
const LINES: [&[u8]; 16] = [
    b"Via: SIP/2.0/UDP a.example;branch=z9hG4bKq\r\n",
    b"Via:\r\n",
    b"v: ,\r\n",
    b"Via: SIP/2.0/UDP a;;,;\r\n",
    b"Call-ID: other\r\n",
    b"CSeq: 1 INVITE\r\n",
    b"Content-Length: 4294967296\r\n",
    b"l: 1\r\n",
    b"Max-Forwards: 256\r\n",
    b"To: \"open <sip:a@b>\r\n",
    b"f: <>\r\n",
    b" : folded\r\n",
    b"\r\r\n",
    b": nameless\r\n",
    b"Route: , <sip:a;lr>,, \"\\\"<\" <sip:b>\r\n",
    b"CSeq: 4294967296 INVITE\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_field_means_what_was_written(dice in dice()) {
        let made = make(&dice);
        check_meaning(&made).map_err(|error| TestCaseError::fail(format!("{error}\n{}", made.bytes.escape_ascii())))?;
    }

    #[test]
    fn damaged_messages_are_read_as_the_naive_parser_reads_them(
        dice in dice(), acts in proptest::collection::vec(any::<(u8, u16, u8)>(), 1..6),
    ) {
        let mut bytes = make(&dice).bytes;
        acts.into_iter().for_each(|act| damage(&mut bytes, act));
        prop_assert_eq!(check_agreement(&bytes), Ok(()));
    }

    #[test]
    fn any_bytes_are_read_as_the_naive_parser_reads_them(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(check_agreement(&bytes), Ok(()));
    }

    /// Denser in what matters than any bytes are.
    #[test]
    fn any_heads_of_sip_letters_are_read_alike(
        lines in proptest::collection::vec("(Via|v|To|f|Call-ID|CSeq|Route|l|Max-Forwards|X)[ \t]?:[ \t\r\nSIP/2.0UDPa;:,=<>\"\\\\\\[\\]0-9@]{0,40}", 0..12),
    ) {
        let bytes = format!("OPTIONS sip:a SIP/2.0\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes();
        prop_assert_eq!(check_agreement(&bytes), Ok(()));
    }
}

#[test]
fn the_largest_datagram_is_read_to_its_last_byte_and_a_larger_one_is_not() {
    let head = b"MESSAGE sip:a@b.example SIP/2.0\r\nVia: SIP/2.0/UDP a\r\nf: <sip:a>\r\nt: <sip:b>\r\ni: 1\r\nCSeq: 1 MESSAGE\r\n";
    let filled = |len: usize| [&head[..], b"X: ", &vec![b'x'; len - head.len() - 7], b"\r\n\r\n"].concat();
    let message = Message::parse(&filled(65_535)).unwrap();
    assert_eq!((message.fault, message.body, message.end), (None, 65_535, 65_535));
    assert!(Message::parse(&filled(65_536)).is_err());
    assert_eq!(check_agreement(&filled(65_535)), Ok(()));
}

#[test]
fn as_many_header_lines_as_there_is_room_for_are_read_and_one_more_is_a_fault() {
    let fixed = "v: SIP/2.0/UDP a\r\nf: <sip:a>\r\nt: <sip:b>\r\ni: 1\r\nCSeq: 1 BYE\r\n";
    for (more, fault) in [(123, None), (124, Some(Fault::TooManyHeaders))] {
        let text = format!("BYE sip:a@b.example SIP/2.0\r\n{fixed}{}\r\n", "X: y\r\n".repeat(more));
        assert_eq!(Message::parse(text.as_bytes()).unwrap().fault, fault);
        assert_eq!(check_agreement(text.as_bytes()), Ok(()));
    }
    // The end of the head is missing; what continues the last line is no line more.
    for (behind, fault) in [
        ("", Fault::NoEndOfHead),
        (" y", Fault::NoEndOfHead),
        ("\ty\r\n", Fault::NoEndOfHead),
        (" y\r\n y", Fault::NoEndOfHead),
        ("X", Fault::TooManyHeaders),
        ("X : y\r\n", Fault::TooManyHeaders),
        (" y\r\nX: y", Fault::TooManyHeaders),
    ] {
        let text = format!("BYE sip:a@b.example SIP/2.0\r\n{fixed}{}{behind}", "X: y\r\n".repeat(123));
        assert_eq!(Message::parse(text.as_bytes()).unwrap().fault, Some(fault), "{behind:?}");
        assert_eq!(check_agreement(text.as_bytes()), Ok(()), "{behind:?}");
    }
}

/// What the parsers disagreed about once, or both read wrongly.
#[test]
fn messages_that_were_misread_once_are_read_right() {
    let message = |line: &str| {
        format!(
            "BYE sip:a@b.example SIP/2.0\r\nVia: SIP/2.0/UDP a\r\n{line}f: <sip:a>\r\nt: <sip:b>\r\ni: 1\r\nCSeq: 1 BYE\r\n\r\n"
        )
    };
    for bytes in [
        message("").replace("SIP/2.0/UDP", "SIP/2.0/ UDP"),
        message("").replace("SIP/2.0/UDP", "SIP/2.0 /UDP"),
        message("Via:\r\n"),
        message("Via:\r\nVia: , SIP/2.0/UDP c\r\n"),
        message("").replace("UDP a", "UDP a,"),
        message("").replace("UDP a", "UDP a, ,SIP/2.0/UDP c"),
        message("").replace("UDP a", "UDP a;;"),
        message("").replace("UDP a", "UDP [::1,SIP/2.0/UDP b]"),
        message("").replace("UDP a", "UDP [::1 \"]"),
        message("").replace("t: <sip:b>", "t: \"<sip:b>"),
        message("").replace("f: <sip:a>", "f: <sip:a"),
        message("").replace("t: <sip:b>", "t: <sip:b>;x=a/b;tag=1"),
        message("").replace("t: <sip:b>", "t: <sip:b> junk ;x junk=\";tag=no\" ; tag = 1 junk"),
        message("").replace("t: <sip:b>", "t: <sip:b>;x=\"open;tag=1"),
        message("").replace("SIP/2.0\r\nVia", "SIP/2.0\r\n ;tag=x\r\nVia"),
        message("").replace("SIP/2.0\r\nVia", "SIP/2.0 \t\r\nVia"),
        message("").replace("SIP/2.0\r\nVia", "SIP/2.0\r\r\nVia"),
        message("").replace("b.example", "b.example?Subject=x"),
        message("").replace("a@b.example", "a?b=c@b.example"),
        message("").replace("a@b.example", "a>;@b.example"),
        message("").replace("BYE", "REGISTERED"),
        message("").replace("BYE", "SUBSCRIBES"),
        message("").replace("UDP a", "UDP a=b;rport"),
        message("").replace("UDP a", "UDP a;=b;rport"),
        message("").replace("UDP a", "UDP a;branch\r\n =\r\n z9hG4bK1"),
        message("Route: <sip:a>\r\n") + "Route: <sip:b>",
    ] {
        assert_eq!(check_agreement(bytes.as_bytes()), Ok(()));
    }
}

/// Lines are found by blocks of bytes: a message means the same wherever these end in it, and wherever it ends.
#[test]
fn a_message_is_read_alike_wherever_its_lines_and_its_end_are() {
    for filler in 0..70 {
        let head = format!(
            "BYE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nv: SIP/2.0/UDP b\r\nX: {}\r\nf: <sip:a>\r\n\
             t: <sip:b>\r\ni: 1\r\nRoute: <sip:a>\r\nRoute:\r\n <sip:b>\r\nCSeq: 1 BYE\r\n\r\n",
            "x".repeat(filler)
        );
        for end in 0..head.len() {
            assert_eq!(check_agreement(&head.as_bytes()[..end]), Ok(()));
        }
        for body in 0..100 {
            assert_eq!(check_agreement((head.clone() + &"\n:".repeat(body)).as_bytes()), Ok(()));
        }
    }
}
