//! The parts of the load by themselves, on a clock of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::books::Books;
use super::call::{Call, End, Strand};
use super::caller::First;
use super::calls::Calls;
use super::compose::{Asked, Local, Request, Response};
use super::crowd::{Crowd, Habits};
use super::dialog::{Dialog, Opening, tag_text};
use super::ids::Ids;
use super::json::Object;
use super::ledger::Ledger;
use super::outgoing::Desk;
use super::plan::{Mix, Plan, Scenario, Side, Timers, Wish};
use super::report::{CallReport, Report};
use crate::sip::{Message, Method, Transport};
use crate::state::Time;

pub(super) const T0: Time = Time(5_000_000_000);

pub(super) fn at(millis: u64) -> Time {
    T0 + Duration::from_millis(millis)
}

pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn wire(text: &str) -> Vec<u8> {
    let lines: Vec<_> = text.trim().lines().map(str::trim_start).collect();
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

pub(super) fn desk() -> Desk {
    Desk::new(Timers::default(), Ids::of_run(1), 1)
}

fn local() -> Arc<Local> {
    over(Transport::Udp)
}

pub(super) fn over(transport: Transport) -> Arc<Local> {
    let (sent_by, user, server) = (addr("192.0.2.1:5060"), "u".into(), Some("s1".into()));
    Arc::new(Local { transport, sent_by, rport: false, user, server })
}

/// Everything that was queued, as text; the queue is empty afterwards.
pub(super) fn sent(desk: &mut Desk) -> Vec<String> {
    let out = &mut desk.outgoing[0];
    let text = |range: &std::ops::Range<usize>| String::from_utf8(out.memory()[range.clone()].to_vec()).unwrap();
    let sent = out.datagrams().iter().map(|(range, _)| text(range)).collect();
    out.clear();
    sent
}

pub(super) fn opening() -> Opening {
    Opening {
        call_id: b"c1@192.0.2.1".to_vec(),
        from: "sip:u@example.test".into(),
        tag: 7,
        to: "sip:service@example.test".into(),
        target: b"sip:service@example.test".to_vec(),
        routes: Vec::new(),
        next_hop: addr("192.0.2.9:5060"),
    }
}

/// A caller that holds for a second and rings off, or what `plan` makes of it.
pub(super) fn caller(desk: &mut Desk, method: Method, plan: Plan) -> Call {
    let first = First { method, meant: T0, extra: &[], body: &[], expects: None };
    Call::start(opening(), local(), plan, &first, &mut desk.turn(0, T0))
}

pub(super) fn plan(side: Side) -> Plan {
    Plan::of(&Wish { hold: Duration::from_secs(1), ..Wish::default() }, side, &Timers::default())
}

/// Lets time pass up to `end` and says when something was sent and how the call ended.
pub(super) fn pass(call: &mut Call, desk: &mut Desk, end: Time) -> (Vec<u64>, Option<End>) {
    let mut times = Vec::new();
    while call.due() <= end {
        let now = call.due();
        let ended = call.on_time(&mut desk.turn(0, now));
        times.extend(sent(desk).iter().map(|_| now.since(T0).as_millis() as u64));
        if ended.is_some() {
            return (times, ended);
        }
    }
    (times, None)
}

/// An answer to the last request among `requests`.
pub(super) fn answer(request: &str, status: u16, extra: &str) -> Vec<u8> {
    let line = |name: &str| request.lines().find(|line| line.starts_with(name)).unwrap();
    let to = if line("To:").contains("tag=") { "" } else { ";tag=theirs" };
    let copied = [line("Via:"), line("From:"), line("Call-ID:"), line("CSeq:")].join("\n");
    wire(
        &format!("SIP/2.0 {status} x\n{copied}\n{}{to}\n{extra}\nContent-Length: 0", line("To:")).replace("\n\n", "\n"),
    )
}

pub(super) fn respond(call: &mut Call, desk: &mut Desk, now: Time, response: &[u8]) -> Option<End> {
    let message = Message::parse(response).unwrap();
    assert_eq!(message.fault, None, "{}", String::from_utf8_lossy(response));
    call.on_response(response, &message, &mut desk.turn(0, now))
}

pub(super) fn request(call: &mut Call, desk: &mut Desk, now: Time, request: &[u8]) -> Option<End> {
    let message = Message::parse(request).unwrap();
    assert_eq!(message.fault, None, "{}", String::from_utf8_lossy(request));
    call.on_request(Asked { bytes: request, message: &message, source: addr("192.0.2.9:5060") }, &mut desk.turn(0, now))
}

#[test]
fn an_invite_is_repeated_by_timer_a_and_lost_by_timer_b() {
    let mut desk = desk();
    let mut call = caller(&mut desk, Method::Invite, plan(Side::Caller));
    assert_eq!(sent(&mut desk).len(), 1);
    let (times, end) = pass(&mut call, &mut desk, at(60_000));
    assert_eq!(times, [500, 1500, 3500, 7500, 15_500, 31_500]);
    assert_eq!(end, Some(End::Lost));
    assert_eq!(desk.traffic.retransmitted, 6);
    // It is remembered for a while, and only once ended.
    assert!(call.is_over() && !call.is_forgotten(at(60_000)) && call.is_forgotten(at(70_000)));
}

#[test]
fn another_request_is_repeated_at_t2_at_most() {
    let mut desk = desk();
    let mut call = caller(&mut desk, Method::Options, plan(Side::Caller));
    sent(&mut desk);
    let (times, end) = pass(&mut call, &mut desk, at(60_000));
    assert_eq!(times, [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!(end, Some(End::Lost));
}

#[test]
fn a_provisional_answer_ends_the_repetition_and_gives_it_patience() {
    let mut desk = desk();
    let mut call = caller(&mut desk, Method::Invite, plan(Side::Caller));
    let invite = sent(&mut desk).remove(0);
    assert_eq!(respond(&mut call, &mut desk, at(100), &answer(&invite, 180, "")), None);
    assert_eq!(call.timing.first, Some(Duration::from_millis(100)));
    let (times, end) = pass(&mut call, &mut desk, at(60_000));
    assert_eq!((times, end), (vec![], Some(End::Lost)));
}

#[test]
fn a_route_set_is_reversed_at_the_caller_and_kept_in_order_at_the_called() {
    let routes = "Record-Route: <sip:first@192.0.2.21:5070;lr>, <sip:second@192.0.2.22;lr>\nRecord-Route: <sip:third@192.0.2.23;lr>";
    let mut desk = desk();
    let mut call = caller(&mut desk, Method::Invite, plan(Side::Caller));
    let invite = sent(&mut desk).remove(0);
    let ok = answer(&invite, 200, &format!("{routes}\nContact: <sip:them@192.0.2.50:5080>"));
    respond(&mut call, &mut desk, at(10), &ok);
    assert_eq!(desk.outgoing[0].datagrams()[0].1, addr("192.0.2.23:5060"), "sent to the nearest of them");
    let ack = sent(&mut desk).remove(0);
    let order: Vec<_> = ack.lines().filter(|line| line.starts_with("Route")).collect();
    assert_eq!(
        order,
        [
            "Route: <sip:third@192.0.2.23;lr>",
            "Route: <sip:second@192.0.2.22;lr>",
            "Route: <sip:first@192.0.2.21:5070;lr>"
        ]
    );
    assert!(ack.starts_with("ACK sip:them@192.0.2.50:5080 SIP/2.0\r\n"), "{ack}");
    assert!(ack.contains("To: <sip:service@example.test>;tag=theirs\r\n"), "{ack}");

    let invite = wire(&format!(
        "INVITE sip:u@h SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.21;branch=z9hG4bK1\n{routes}\nContact: <sip:c@10.1.1.1>\nFrom: <sip:c@h>;tag=1\nTo: <sip:u@h>\nCall-ID: c\nCSeq: 1 INVITE\nContent-Length: 0"
    ));
    let message = Message::parse(&invite).unwrap();
    let asked = Asked { bytes: &invite, message: &message, source: addr("192.0.2.21:5070") };
    let dialog = Dialog::called(asked, 9).unwrap();
    assert_eq!(dialog.next_hop, addr("192.0.2.21:5070"));
    let bye = String::from_utf8(dialog.request(Method::Bye, 1, &[], &[]).bytes(&local())).unwrap();
    let order: Vec<_> = bye.lines().filter_map(|line| line.strip_prefix("Route: <sip:")).map(|r| &r[..5]).collect();
    assert_eq!(order, ["first", "secon", "third"]);
    assert!(bye.starts_with("BYE sip:c@10.1.1.1 SIP/2.0\r\n") && bye.contains("To: <sip:c@h>;tag=1\r\n"), "{bye}");
}

#[test]
fn the_ack_to_a_2xx_is_sent_again_and_so_is_that_to_a_refusal() {
    let mut desk = desk();
    let mut call = caller(&mut desk, Method::Invite, plan(Side::Caller));
    let invite = sent(&mut desk).remove(0);
    let ok = answer(&invite, 200, "Contact: <sip:them@192.0.2.50>");
    assert_eq!(respond(&mut call, &mut desk, at(10), &ok), None);
    let ack = sent(&mut desk);
    respond(&mut call, &mut desk, at(20), &ok);
    assert_eq!(sent(&mut desk), ack, "the same ACK");
    let branch = |text: &str| text.split("branch=").nth(1).unwrap()[..25].to_owned();
    assert_ne!(branch(&ack[0]), branch(&invite), "the ACK to a 2xx is a transaction of its own");

    let mut call = caller(&mut desk, Method::Invite, plan(Side::Caller));
    let invite = sent(&mut desk).remove(0);
    let busy = answer(&invite, 486, "");
    assert_eq!(respond(&mut call, &mut desk, at(10), &busy), Some(End::Refused(486)));
    let ack = sent(&mut desk);
    assert_eq!(respond(&mut call, &mut desk, at(20), &busy), None, "it ends once");
    assert_eq!(sent(&mut desk), ack, "the same ACK");
    assert_eq!(branch(&ack[0]), branch(&invite), "the ACK to a refusal belongs to its INVITE");
    assert!(ack[0].contains(";tag=theirs"), "with the answer's To");
}

#[test]
fn a_late_answer_to_cancel_is_no_second_answer_to_its_invite() {
    let mut desk = desk();
    let mut call = caller(&mut desk, Method::Invite, Plan { cancel: true, ..plan(Side::Caller) });
    let invite = sent(&mut desk).remove(0);
    respond(&mut call, &mut desk, at(10), &answer(&invite, 180, ""));
    let cancel = sent(&mut desk).remove(0);
    assert!(cancel.starts_with("CANCEL sip:service@example.test SIP/2.0\r\n") && cancel.contains("CSeq: 1 CANCEL"));
    assert_eq!(respond(&mut call, &mut desk, at(20), &answer(&invite, 487, "")), Some(End::Answered));
    assert_eq!(sent(&mut desk).len(), 1, "the ACK");
    respond(&mut call, &mut desk, at(30), &answer(&cancel, 200, ""));
    assert_eq!(sent(&mut desk), [""; 0], "nothing more");
}

#[test]
fn a_bye_that_is_refused_or_unanswered_strands_the_call() {
    for refused in [true, false] {
        let mut desk = desk();
        let mut call = caller(&mut desk, Method::Invite, plan(Side::Caller));
        let invite = sent(&mut desk).remove(0);
        respond(&mut call, &mut desk, at(0), &answer(&invite, 200, "Contact: <sip:them@192.0.2.50>"));
        assert_eq!(call.due(), at(1000), "it holds");
        assert_eq!(call.on_time(&mut desk.turn(0, at(1000))), None);
        let bye = sent(&mut desk).remove(1);
        assert!(bye.starts_with("BYE sip:them@192.0.2.50 SIP/2.0\r\n") && bye.contains("CSeq: 2 BYE"), "{bye}");
        let end = match refused {
            true => respond(&mut call, &mut desk, at(1010), &answer(&bye, 481, "")),
            false => pass(&mut call, &mut desk, at(60_000)).1,
        };
        let strand = if refused { Strand::Refused(481) } else { Strand::NoAnswer };
        assert_eq!(end, Some(End::Stranded(strand)));
    }
}

pub(super) const INVITE: &str = "INVITE sip:u@192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK1\nVia: SIP/2.0/UDP 10.1.1.1;branch=z9hG4bK0\nContact: <sip:c@10.1.1.1>\nFrom: <sip:c@h>;tag=1\nTo: <sip:u@h>\nCall-ID: c\nCSeq: 1 INVITE\nContent-Length: 0";

pub(super) fn called(desk: &mut Desk, plan: Plan) -> Call {
    let invite = wire(INVITE);
    let message = Message::parse(&invite).unwrap();
    let asked = Asked { bytes: &invite, message: &message, source: addr("192.0.2.9:5060") };
    Call::called(asked, local(), plan, &mut desk.turn(0, T0)).unwrap()
}

/// A request of the caller of [`INVITE`] inside the dialog.
fn inside(call: &Call, method: &str, number: u32) -> Vec<u8> {
    let tag = String::from_utf8(call.dialog.local_tag.to_vec()).unwrap();
    let text = INVITE.replace("To: <sip:u@h>", &format!("To: <sip:u@h>;tag={tag}"));
    let text = text.replacen("INVITE", method, 1).replace("CSeq: 1 INVITE", &format!("CSeq: {number} {method}"));
    wire(&text.replace("z9hG4bK1", &format!("z9hG4bK{method}{number}")))
}

#[test]
fn a_200_is_repeated_until_its_ack_and_stranded_without() {
    let mut desk = desk();
    let mut call = called(&mut desk, plan(Side::Callee));
    let mut ok = sent(&mut desk);
    assert!(ok.remove(0).starts_with("SIP/2.0 180 "), "it rings before it is answered");
    assert!(ok.len() == 1 && ok[0].starts_with("SIP/2.0 200 OK\r\n"), "{ok:?}");
    assert_eq!(ok[0].lines().filter(|line| line.starts_with("Via")).count(), 2);
    let again = request(&mut call, &mut desk, at(10), &wire(INVITE));
    assert_eq!((again, sent(&mut desk)), (None, ok), "the INVITE again gets the same answer");
    let (times, end) = pass(&mut call.clone(), &mut desk, at(60_000));
    assert_eq!(times, [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!(end, Some(End::Stranded(Strand::NoAck)));
    assert_eq!(request(&mut call.clone(), &mut desk, at(900), &inside(&call, "BYE", 2)), Some(End::Answered));
    assert_eq!(desk.traffic.without_ack, 1, "it may have been overtaken, and counts");

    let ack = inside(&call, "ACK", 1);
    assert_eq!(request(&mut call, &mut desk, at(20), &ack), None);
    let (times, end) = pass(&mut call, &mut desk, at(60_000));
    assert_eq!((times.len(), end), (0, None), "acknowledged");
    let (_, end) = pass(&mut call, &mut desk, at(200_000));
    assert_eq!(end, Some(End::Stranded(Strand::NoBye)), "and the BYE never came");
}

#[test]
fn a_reinvite_or_a_bye_that_overtakes_the_ack_counts_as_one() {
    let mut desk = desk();
    let mut call = called(&mut desk, Plan { awaits_reinvite: true, ..plan(Side::Callee) });
    sent(&mut desk);
    let reinvite = inside(&call, "INVITE", 2);
    request(&mut call, &mut desk, at(10), &reinvite);
    let ok = sent(&mut desk);
    assert!(ok.len() == 1 && ok[0].contains("CSeq: 2 INVITE"), "{ok:?}");
    request(&mut call, &mut desk, at(20), &reinvite);
    assert_eq!(sent(&mut desk), ok, "the re-INVITE again gets the same answer");
    let ack = inside(&call, "ACK", 2);
    request(&mut call, &mut desk, at(25), &ack);
    request(&mut call, &mut desk, at(26), &reinvite);
    assert_eq!(sent(&mut desk), [""; 0], "acknowledged: what comes again is late");
    let bye = inside(&call, "BYE", 3);
    assert_eq!(request(&mut call, &mut desk, at(30), &bye), Some(End::Answered));
    let first = sent(&mut desk);
    assert_eq!(request(&mut call, &mut desk, at(40), &bye), None);
    assert_eq!(sent(&mut desk), first, "the BYE again gets the same answer, and the call ends once");

    let mut early = called(&mut desk, Plan { awaits_reinvite: true, ..plan(Side::Callee) });
    let bye = inside(&early, "BYE", 2);
    assert_eq!(request(&mut early, &mut desk, at(30), &bye), Some(End::Stranded(Strand::NoReinvite)));
}

#[test]
fn a_ringing_call_can_be_cancelled_and_is_not_answered_then() {
    let mut desk = desk();
    let ringing = Plan { answer_after: Some(Duration::from_secs(9)), trying: true, ..plan(Side::Callee) };
    let mut call = called(&mut desk, ringing);
    let answers = sent(&mut desk);
    assert!(answers[0].starts_with("SIP/2.0 100 ") && answers[1].starts_with("SIP/2.0 180 "), "{answers:?}");
    let cancel = wire(&INVITE.replacen("INVITE", "CANCEL", 1).replace("1 INVITE", "1 CANCEL"));
    assert_eq!(request(&mut call, &mut desk, at(10), &cancel), None);
    let answers = sent(&mut desk);
    assert!(answers[0].starts_with("SIP/2.0 200 ") && answers[0].contains("CSeq: 1 CANCEL"), "{answers:?}");
    assert!(answers[1].starts_with("SIP/2.0 487 ") && answers[1].contains("CSeq: 1 INVITE"), "{answers:?}");
    assert_eq!(pass(&mut call, &mut desk, at(400)), (vec![], None));
    let ack = inside(&call, "ACK", 1);
    assert_eq!(request(&mut call, &mut desk, at(410), &ack), Some(End::Refused(487)));
}

#[test]
fn a_response_stamps_the_top_via_and_goes_where_it_says() {
    for (via, stamped, to) in [
        ("SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK1", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK1", "192.0.2.9:5060"),
        (
            "SIP/2.0/UDP 10.1.1.1:5080;rport;branch=z9hG4bK1",
            "SIP/2.0/UDP 10.1.1.1:5080;rport=31234;branch=z9hG4bK1;received=192.0.2.9",
            "192.0.2.9:31234",
        ),
        (
            "SIP/2.0/UDP 10.1.1.1:5080;branch=z9hG4bK1",
            "SIP/2.0/UDP 10.1.1.1:5080;branch=z9hG4bK1;received=192.0.2.9",
            "192.0.2.9:5080",
        ),
    ] {
        let bytes = wire(&INVITE.replace("SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK1", via));
        let message = Message::parse(&bytes).unwrap();
        let asked = Asked { bytes: &bytes, message: &message, source: addr("192.0.2.9:31234") };
        let mut out = Vec::new();
        let went = Response::plain(200, tag_text(1)).write(asked, &local(), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(went, Some(addr(to)), "{via}");
        assert_eq!(text.lines().find(|line| line.starts_with("Via")).unwrap(), format!("Via: {stamped}"));
    }
}

#[test]
fn a_wish_travels_in_a_header() {
    let wish = Wish {
        bye: Side::Callee,
        reinvite: Some(Side::Caller),
        hold: Duration::from_millis(1500),
        answer_after: Some(Duration::from_secs(3)),
        call_back: Some(Duration::ZERO),
    };
    let extra = wish.line();
    let mut bytes = Vec::new();
    let dialog = Dialog::open(opening());
    Request { extra: &extra, ..dialog.request(Method::Invite, 1, &[], &[]) }.write(&local(), &mut bytes);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(Wish::read(&bytes, &message), Some(wish));
    let plan = Plan::of(&wish, Side::Callee, &Timers::default());
    assert!(plan.bye && !plan.reinvite && plan.awaits_reinvite, "{plan:?}");
    for (text, want) in [("X-Load: what=ever", None), ("X-Load: hold=soon", None), ("X-Loaded: hold=1", None)] {
        let bytes = wire(&format!("{INVITE}\n{text}").replace("\nContent-Length: 0", ""));
        assert_eq!(Wish::read(&bytes, &Message::parse(&bytes).unwrap()), want, "{text}");
    }
}

#[test]
fn a_table_of_calls_wakes_and_forgets_them_and_has_an_end() {
    let mut desk = desk();
    let mut calls = Calls::new(2);
    for key in [1, 2] {
        assert!(!calls.is_full());
        let options = caller(&mut desk, Method::Options, plan(Side::Caller));
        assert!(calls.insert(key, options, ()));
    }
    assert!(calls.is_full() && calls.open() == 2 && calls.due() == at(500));
    assert!(!calls.insert(1, caller(&mut desk, Method::Options, plan(Side::Caller)), ()), "the key is taken");
    let mut ends = 0;
    let mut now = T0;
    while !calls.is_empty() {
        now = calls.due().max(now);
        while let Some(key) = calls.next_due(now) {
            ends += usize::from(calls.with(key, |held| held.call.on_time(&mut desk.turn(0, now))).flatten().is_some());
        }
    }
    assert_eq!((ends, calls.open()), (2, 0));
    assert_eq!(now, at(32_000) + Timers::default().linger());
}

#[test]
fn the_ledger_sees_what_is_missing() {
    let mut ledger = Ledger { started: 4, ..Ledger::default() };
    for end in [End::Answered, End::Refused(503), End::Lost] {
        ledger.note(end);
    }
    assert!(!ledger.balances() && !ledger.is_clean());
    ledger.note(End::Stranded(Strand::Refused(481)));
    assert!(ledger.balances() && !ledger.is_clean());
    assert_eq!((ledger.failed(), ledger.stranded_by_status.get(&481)), (3, Some(&1)));
    ledger.note(End::Answered);
    assert!(!ledger.balances(), "one end too many");
    let mut object = Object::default();
    ledger.write(object.text("name", "a \"b\"\n"));
    assert_eq!(
        object.finish(),
        r#"{"name":"a \"b\"\u000a","started":4,"answered":2,"refused":1,"lost":1,"disconnected":0,"stranded":1,"unfinished":0,"refused_by_status":{"503":1},"stranded_by_reason":{"refused":1},"stranded_by_status":{"481":1}}"#
    );
}

#[test]
fn a_report_fails_when_anything_went_astray() {
    let mut books = Books::default();
    books.scenarios[0] = Ledger { started: 1, answered: 1, ..Ledger::default() };
    assert!(CallReport::of(&books).succeeded());
    let report = Report::Call(Box::new(CallReport::of(&books)));
    assert!(report.json().starts_with(r#"{"kind":"call","#) && report.json().ends_with(r#""succeeded":true}"#));
    for spoil in [
        |report: &mut CallReport| report.misdirected = 1,
        |report: &mut CallReport| report.moved = 1,
        |report: &mut CallReport| report.foreign = 1,
        |report: &mut CallReport| report.malformed = 1,
        |report: &mut CallReport| report.not_started = 1,
        |report: &mut CallReport| report.incoming.started = 1,
        |report: &mut CallReport| report.scenarios[3].started = 1,
        |report: &mut CallReport| report.scenarios[0] = Ledger::default(),
    ] {
        let mut report = CallReport::of(&books);
        spoil(&mut report);
        assert!(!report.succeeded(), "{report}");
    }
}

/// A crowd of two sockets that has started one call, and its INVITE.
fn crowd(scenario: Scenario) -> (Crowd, String) {
    let habits = Habits {
        to: addr("192.0.2.9:5060"),
        domain: "example.test".into(),
        mix: Mix::only(scenario),
        hold: Duration::from_secs(1),
        nat: true,
        body: 500,
        call_back_after: Duration::ZERO,
        limit: 10,
    };
    let ports = vec![addr("198.51.100.1:4001"), addr("198.51.100.2:4002")];
    let mut crowd = Crowd::new(habits, ports, Desk::new(Timers::default(), Ids::of_run(2), 2));
    crowd.start(T0, T0);
    crowd.remember(0);
    let first = String::from_utf8(crowd.outgoing(0).memory().to_vec()).unwrap();
    crowd.outgoing(0).clear();
    (crowd, first)
}

#[test]
fn a_client_behind_nat_says_where_it_is_not() {
    let (_, invite) = crowd(Scenario::Call);
    assert!(
        invite.contains("\r\nVia: SIP/2.0/UDP 192.168.0.1:5060;branch=z9hG4bKtl0000000200000002;rport\r\n"),
        "{invite}"
    );
    assert!(invite.contains("Contact: <sip:load-0000000200000001@192.168.0.1:5060>\r\n"), "{invite}");
    let message = Message::parse(invite.as_bytes()).unwrap();
    assert_eq!((message.fault, message.content_length), (None, Some(500)));
}

#[test]
fn what_comes_from_a_stranger_or_to_another_socket_is_counted_and_changes_nothing() {
    let (mut crowd, invite) = crowd(Scenario::Call);
    let ok = answer(&invite, 200, "X-Server: a\nContact: <sip:them@192.0.2.50>");
    crowd.receive(0, &ok, addr("192.0.2.66:5060"), at(10));
    assert_eq!((crowd.books.foreign, crowd.books.setup.len()), (1, 0));
    crowd.receive(1, &ok, addr("192.0.2.9:5060"), at(10));
    assert_eq!((crowd.books.misdirected, crowd.books.setup.len()), (1, 0));
    crowd.receive(0, b"SIP/2.0 200 OK\r\n\r\n", addr("192.0.2.9:5060"), at(10));
    let two = String::from_utf8(ok.clone()).unwrap().replacen(
        "\r\nFrom",
        "\r\nVia: SIP/2.0/UDP x;branch=z9hG4bKx\r\nFrom",
        1,
    );
    crowd.receive(0, two.as_bytes(), addr("192.0.2.9:5060"), at(10));
    assert_eq!((crowd.books.malformed, crowd.books.setup.len()), (2, 0));
    crowd.receive(0, &ok, addr("192.0.2.9:5060"), at(10));
    assert_eq!((crowd.books.setup.len(), crowd.books.servers.clone()), (1, vec![("a".into(), 1)]));
    let moved = String::from_utf8(ok).unwrap().replace("X-Server: a", "X-Server: b");
    crowd.receive(0, moved.as_bytes(), addr("192.0.2.9:5060"), at(20));
    assert_eq!((crowd.books.moved, crowd.open()), (1, 1));
    // A request for a dialog that nobody has.
    let bye = wire(&INVITE.replace("INVITE", "BYE").replace("To: <sip:u@h>", "To: <sip:u@h>;tag=x"));
    crowd.receive(0, &bye, addr("192.0.2.9:5060"), at(30));
    assert_eq!(crowd.books.misdirected, 2);
    let answers = String::from_utf8(crowd.outgoing(0).memory().to_vec()).unwrap();
    assert!(answers.contains("SIP/2.0 481 "), "{answers}");
    // A request for a dialog that the client at another socket has.
    let line = |name: &str| invite.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let from = line("From:").replace("From:", "To:");
    let bye = INVITE.replace("INVITE", "BYE").replace("To: <sip:u@h>", &from).replace("Call-ID: c", &line("Call-ID:"));
    crowd.receive(1, &wire(&bye), addr("192.0.2.9:5060"), at(40));
    assert_eq!((crowd.books.misdirected, crowd.open()), (3, 1));
    crowd.receive(0, &wire(&bye), addr("192.0.2.9:5060"), at(50));
    assert_eq!((crowd.books.misdirected, crowd.open()), (3, 0), "at its own socket it ends the call");
}

#[test]
fn a_call_to_a_phone_at_another_socket_is_misdirected() {
    let (mut crowd, register) = crowd(Scenario::Phone);
    let phone = register.split("sip:phone-").nth(1).unwrap()[..16].to_owned();
    let invite = wire(&INVITE.replace("sip:u@192.0.2.1", &format!("sip:phone-{phone}@192.168.0.1")));
    crowd.receive(1, &invite, addr("192.0.2.9:5060"), at(10));
    assert_eq!((crowd.books.misdirected, crowd.books.incoming.started), (1, 1));
    let strange = wire(&INVITE.replace("Call-ID: c", "Call-ID: d"));
    crowd.receive(0, &strange, addr("192.0.2.9:5060"), at(10));
    assert_eq!(crowd.books.incoming.started, 1, "nobody of that name");
}

#[test]
fn more_servers_than_are_told_apart_are_counted_as_others() {
    let mut books = Books::default();
    (0..3000).for_each(|n| {
        let at = books.server(&format!("s{n}"));
        books.servers[at].1 += 1;
    });
    assert_eq!(books.servers.len(), 1024);
    assert_eq!(books.servers[1023], ("others".into(), 3000 - 1023));
}
