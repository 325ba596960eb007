//! Calls over streams, on a clock of their own; and connections by themselves, on the loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::End;
use crate::load::call::{Call, End as CallEnd, Strand};
use crate::load::caller::First;
use crate::load::compose::{Asked, Response};
use crate::load::crowd::{Crowd, Habits};
use crate::load::dialog::tag_text;
use crate::load::ids::Ids;
use crate::load::ledger::Ledger;
use crate::load::outgoing::Desk;
use crate::load::plan::{Mix, Plan, Scenario, Side, Timers};
use crate::load::server::{Manner, Server};
use crate::load::socket::wait_for;
use crate::load::streams::{Protection, Streams};
use crate::load::tests::{
    INVITE, T0, addr, answer, at, called, caller, desk, opening, over, pass, plan, request, respond, sent, wire,
};
use crate::load::view::ServerView;
use crate::sip::{Message, Method, Transport};

/// The same desk over a stream.
fn stream_desk() -> Desk {
    desk().over(Transport::Tcp)
}

#[test]
fn over_a_stream_nothing_is_repeated_but_a_2xx_and_deadlines_stay() {
    for method in [Method::Invite, Method::Options] {
        let mut desk = stream_desk();
        let mut call = caller(&mut desk, method, plan(Side::Caller));
        let first = sent(&mut desk).remove(0);
        // A provisional answer does not begin what never began.
        if method == Method::Options {
            assert_eq!(respond(&mut call, &mut desk, at(100), &answer(&first, 100, "")), None);
        }
        assert_eq!(pass(&mut call, &mut desk, at(31_999)), (vec![], None));
        assert_eq!(pass(&mut call, &mut desk, at(32_000)), (vec![], Some(CallEnd::Lost)), "timers B and F");
    }
    let mut desk = stream_desk();
    let mut call = called(&mut desk, plan(Side::Callee));
    sent(&mut desk);
    let (times, end) = pass(&mut call, &mut desk, at(60_000));
    assert_eq!((times.len(), end), (10, Some(CallEnd::Stranded(Strand::NoAck))), "a 2xx may travel by UDP further on");

    let mut desk = stream_desk();
    let mut call = called(&mut desk, Plan { answer_after: Some(Duration::from_secs(9)), ..plan(Side::Callee) });
    let cancel = wire(&INVITE.replacen("INVITE", "CANCEL", 1).replace("1 INVITE", "1 CANCEL"));
    request(&mut call, &mut desk, at(0), &cancel);
    sent(&mut desk);
    assert_eq!(pass(&mut call, &mut desk, at(60_000)), (vec![], Some(CallEnd::Refused(487))), "timer H, without G");
}

#[test]
fn over_a_stream_messages_name_it_and_answers_go_where_requests_came_from() {
    let mut desk = stream_desk();
    let first = First { method: Method::Invite, meant: T0, extra: &[], body: &[], expects: None };
    Call::start(opening(), over(Transport::Tls), plan(Side::Caller), &first, &mut desk.turn(0, T0));
    let invite = sent(&mut desk).remove(0);
    assert!(invite.contains("\r\nVia: SIP/2.0/TLS 192.0.2.1:5060;branch=z9hG4bK"), "{invite}");
    assert!(invite.contains("\r\nContact: <sip:u@192.0.2.1:5060;transport=tls>\r\n"), "{invite}");
    let bytes = wire(&INVITE.replace("UDP", "TCP"));
    let message = Message::parse(&bytes).unwrap();
    let asked = Asked { bytes: &bytes, message: &message, source: addr("192.0.2.9:40000") };
    let to = Response::plain(200, tag_text(1)).write(asked, &over(Transport::Tcp), &mut Vec::new());
    assert_eq!(to, Some(addr("192.0.2.9:40000")), "not to the Via's port");
}

#[test]
fn a_broken_connection_ends_what_was_asked_over_it() {
    let mut desk = stream_desk();
    let mut call = caller(&mut desk, Method::Invite, plan(Side::Caller));
    let invite = sent(&mut desk).remove(0);
    let mut talking = call.clone();
    assert_eq!(call.disconnected(false, &mut desk.turn(0, T0)), Some(CallEnd::Disconnected));
    assert_eq!(call.disconnected(true, &mut desk.turn(0, T0)), None, "it ends once");
    respond(&mut talking, &mut desk, at(10), &answer(&invite, 200, "Contact: <sip:them@192.0.2.50>"));
    assert_eq!(talking.disconnected(false, &mut desk.turn(0, at(20))), None, "nothing was asked");
    let end = talking.clone().disconnected(true, &mut desk.turn(0, at(20)));
    assert_eq!(end, Some(CallEnd::Stranded(Strand::Disconnected)));
    talking.on_time(&mut desk.turn(0, at(1010)));
    assert_eq!(talking.disconnected(false, &mut desk.turn(0, at(1020))), end, "its BYE was on the way");
    let mut ledger = Ledger { started: 2, ..Ledger::default() };
    [CallEnd::Disconnected, CallEnd::Stranded(Strand::Disconnected)].into_iter().for_each(|end| ledger.note(end));
    assert!(ledger.balances() && (ledger.lost, ledger.disconnected, ledger.failed()) == (1, 1, 2), "{ledger:?}");
}

#[test]
fn what_comes_by_another_call_s_connection_is_misdirected() {
    let habits = Habits {
        to: addr("192.0.2.9:5060"),
        domain: "h".into(),
        mix: Mix::only(Scenario::Call),
        hold: Duration::from_secs(1),
        nat: false,
        body: 0,
        call_back_after: Duration::ZERO,
        limit: 10,
    };
    let mut crowd =
        Crowd::new(habits, Vec::new(), Desk::new(Timers::default(), Ids::of_run(1), 0).over(Transport::Tcp));
    let start = |crowd: &mut Crowd, port: usize, address: &str| {
        crowd.seat(port, addr(address));
        crowd.start_at(port, T0, T0).unwrap();
        crowd.remember(port);
        let out = crowd.outgoing(port);
        let invite = String::from_utf8(out.memory().to_vec()).unwrap();
        out.clear();
        invite
    };
    let first = start(&mut crowd, 0, "192.0.2.1:4000");
    start(&mut crowd, 1, "192.0.2.1:4001");
    assert_eq!(crowd.take_talkative(), [0, 1]);
    let ringing = answer(&first, 180, "");
    crowd.receive(0, &ringing, addr("192.0.2.9:5060"), at(1));
    assert_eq!(crowd.books.misdirected, 0);
    crowd.receive(1, &ringing, addr("192.0.2.9:5060"), at(2));
    assert_eq!(crowd.books.misdirected, 1, "by the connection of another call");
    crowd.disconnected(&[0], true, at(3));
    assert_eq!((crowd.open(), crowd.books.scenarios[0].disconnected), (1, 1), "the other one goes on");
    start(&mut crowd, 0, "192.0.2.1:4002");
    crowd.receive(0, &ringing, addr("192.0.2.9:5060"), at(4));
    assert_eq!(crowd.books.misdirected, 2, "by a connection that took its place");
    crowd.disconnected(&[0, 1], false, at(5));
    assert_eq!((crowd.open(), crowd.books.scenarios[0].disconnected), (0, 3));
}

#[test]
fn an_answer_by_another_connection_than_its_request_is_misdirected() {
    let view = Arc::new(ServerView::over(Transport::Tcp, "s".into(), addr("192.0.2.9:5060")));
    let mut server = Server::new(Arc::clone(&view), Manner::default(), desk(), T0);
    let phone = addr("192.0.2.1:4000");
    let register = wire(
        "REGISTER sip:h SIP/2.0\nVia: SIP/2.0/TCP 10.1.1.1;branch=z9hG4bK1\nFrom: <sip:b@h>;tag=1\nTo: <sip:b@h>\n\
         Call-ID: r\nCSeq: 1 REGISTER\nContact: <sip:b@10.1.1.1;transport=tcp>\nContent-Length: 0",
    );
    server.receive(&register, phone, T0);
    server.outgoing().clear();
    view.call_back(1);
    server.on_time(at(1));
    let out = server.outgoing();
    assert_eq!(out.datagrams()[0].1, phone, "the phone is called over its own connection");
    let invite = String::from_utf8(out.memory().to_vec()).unwrap();
    out.clear();
    let ok = answer(&invite, 200, "Contact: <sip:b@10.1.1.1;transport=tcp>");
    server.receive(&ok, addr("192.0.2.1:4001"), at(2));
    assert_eq!((view.counters.misdirected.get(), server.outgoing().datagrams().len()), (1, 0), "and not acknowledged");
    server.receive(&ok, phone, at(3));
    assert_eq!((view.counters.misdirected.get(), server.outgoing().datagrams().len()), (1, 1));
    server.outgoing().clear();

    // Another call to it is lost with its connection, and with no other.
    view.call_back(1);
    server.on_time(at(4));
    server.disconnected(vec![addr("192.0.2.1:4001")], at(5));
    server.publish();
    assert_eq!(view.books().call_backs.disconnected, 0);
    server.disconnected(vec![phone, addr("192.0.2.1:4001")], at(6));
    server.publish();
    let books = view.books().call_backs;
    assert_eq!((books.started, books.lost, books.disconnected), (2, 1, 1));
}

/// Looks at connections until something holds.
fn until(streams: &mut Streams, got: &mut Vec<Vec<u8>>, mut holds: impl FnMut(&mut Streams, &[Vec<u8>]) -> bool) {
    let mut ready = Vec::new();
    // A fiftieth of a second each: ten seconds.
    for _ in 0..500 {
        streams.look(&mut ready);
        ready.iter().for_each(|slot| streams.read(*slot, |bytes, _| got.push(bytes.to_vec())));
        if holds(streams, got) {
            return;
        }
        wait_for(streams.fd(), Duration::from_millis(20));
    }
    panic!("it never held");
}

fn listening() -> (Streams, SocketAddr) {
    let mut streams = Streams::new(Protection::default()).unwrap();
    let address = streams.listen(addr("127.0.22.20:0")).unwrap();
    (streams, address)
}

#[test]
fn messages_come_whole_pings_are_answered_and_junk_ends_a_connection() {
    let (mut streams, address) = listening();
    let mut peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (mut got, message) = (Vec::new(), wire(&INVITE.replace("UDP", "TCP")));
    let three = message.repeat(3);
    let cut = message.len() + 7;
    peer.write_all(&three[..cut]).unwrap();
    until(&mut streams, &mut got, |_, got| got.len() == 1);
    peer.write_all(&three[cut..]).unwrap();
    until(&mut streams, &mut got, |_, got| got.len() == 3);
    assert!(got.iter().all(|bytes| *bytes == message));
    peer.write_all(b"\r\n\r\n").unwrap();
    peer.set_nonblocking(true).unwrap();
    until(&mut streams, &mut got, |_, _| peer.peek(&mut [0; 8]).is_ok());
    peer.set_nonblocking(false).unwrap();
    let mut pong = [0; 2];
    peer.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"\r\n");
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut gone = Vec::new();
    until(&mut streams, &mut got, |streams, _| {
        gone.extend(streams.take_gone());
        !gone.is_empty()
    });
    assert_eq!((gone[0].2, got.len()), (End::Malformed, 3));
    assert_eq!(peer.read(&mut pong).unwrap_or(0), 0, "closed");
    streams.vacate(gone[0].0);
    assert!(streams.is_empty());
}

#[test]
fn an_answer_goes_by_the_connection_that_asked_or_by_none() {
    let (mut streams, address) = listening();
    let mut peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    until(&mut streams, &mut Vec::new(), |streams, _| streams.len() == 1);
    let mut desk = stream_desk();
    let (there, gone) = (peer.local_addr().unwrap(), addr("127.0.22.21:1"));
    let mut turn = desk.turn(0, T0);
    for to in [there, gone] {
        turn.send(to, b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    streams.send(address.ip(), &mut desk.outgoing[0]);
    assert_eq!((streams.not_sent, streams.len()), (1, 1), "no connection is opened for an answer");
    let mut answer = [0; 14];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"SIP/2.0 200 OK");
    // For a request it is, and nobody is there.
    desk.turn(0, T0).send(gone, b"BYE sip:a@b SIP/2.0\r\n");
    streams.send(address.ip(), &mut desk.outgoing[0]);
    let mut ends = Vec::new();
    until(&mut streams, &mut Vec::new(), |streams, _| {
        ends.extend(streams.take_gone());
        !ends.is_empty()
    });
    assert_eq!(ends[0].1, gone);
    assert_eq!(ends[0].2, End::Failed);
}
