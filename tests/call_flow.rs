//! "One call, byte by byte": a phone behind NAT, Trunkline, a server, another agent; both directions, with the exact
//! bytes that leave. And the registration that lets the phone be called.

mod support;

use support::core::{INSIDE, Node, OUTSIDE, Outcome, PHONE, SERVER, addr, wire};
use trunkline::sip::FlowToken;
use trunkline::sip::token::{Branch, Direction, NameHash, Sealed, SealedIn};

const CONFIG: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060"]
advertise = "203.0.113.10"
inside = "10.0.1.10"
aliases = ["sip.example.ng"]
backend = "opensips"
source_header = "X-Trunkline-Source"

[[backend]]
name = "opensips"
[[backend.server]]
name = "k"
address = "udp://10.0.10.11:5060"
"#;

const CALL: &str = "call-1@phone";

/// The value of the first header of a name.
fn header<'a>(text: &'a str, name: &str) -> &'a str {
    headers(text, name).next().unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

fn headers<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    text.split("\r\n")
        .take_while(|line| !line.is_empty())
        .filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A parameter of a header value.
fn param<'a>(value: &'a str, name: &str) -> &'a str {
    value
        .split(';')
        .find_map(|param| param.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The user part of `<sip:user@...>`.
fn user(uri: &str) -> &str {
    uri.trim_start_matches("<sip:").split('@').next().unwrap()
}

fn invite() -> Vec<u8> {
    wire(
        "INVITE sip:100@sip.example.ng SIP/2.0
         Via: SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bKa1;rport
         Max-Forwards: 70
         From: <sip:bob@sip.example.ng>;tag=f1
         To: <sip:100@sip.example.ng>
         Call-ID: call-1@phone
         CSeq: 1 INVITE
         Contact: <sip:bob@192.168.1.20>
         X-Trunkline-Source: sip:1.2.3.4:5;transport=udp
         Content-Type: application/sdp
         Content-Length: 3

         v=0
",
    )
}

fn response(request: &str, status: &str, to_tag: &str) -> Vec<u8> {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.split("\r\n").take_while(|line| !line.is_empty()) {
        match line.split(':').next() {
            Some("Via" | "From" | "Call-ID" | "CSeq" | "Record-Route") => text += &format!("{line}\r\n"),
            Some("To") if line.contains("tag=") => text += &format!("{line}\r\n"),
            Some("To") => text += &format!("{line};tag={to_tag}\r\n"),
            _ => {}
        }
    }
    (text + "Content-Length: 0\r\n\r\n").into_bytes()
}

#[test]
fn an_invite_goes_to_the_server_with_exactly_these_lines() {
    let mut node = Node::new(CONFIG);
    let sent = node.receive(addr(PHONE), addr(OUTSIDE), &invite());
    assert_eq!((sent.from(), sent.to()), (addr(INSIDE), addr(SERVER)));
    let text = sent.text();
    let via = header(&text, "Via");
    let branch = param(via, "branch").strip_prefix("z9hG4bK").unwrap();
    let (d, way, time) = (user(header(&text, "Record-Route")), param(via, "w"), param(via, "s"));
    let expected = wire(&format!(
        "INVITE sip:100@sip.example.ng SIP/2.0
         Via: SIP/2.0/UDP 10.0.1.10:5060;branch=z9hG4bK{branch};w={way};s={time}
         Record-Route: <sip:{d}@10.0.1.10:5060;lr>
         Record-Route: <sip:{d}@203.0.113.10:5060;lr>
         X-Trunkline-Source: sip:198.51.100.7:31234;transport=udp
         Via: SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bKa1;rport=31234;received=198.51.100.7
         Max-Forwards: 69
         From: <sip:bob@sip.example.ng>;tag=f1
         To: <sip:100@sip.example.ng>
         Call-ID: call-1@phone
         CSeq: 1 INVITE
         Contact: <sip:bob@192.168.1.20>
         Content-Type: application/sdp
         Content-Length: 3

         v=0
"
    ));
    assert_eq!(text, String::from_utf8(expected).unwrap());
    assert_eq!((branch.len(), d.len(), time.len()), (34, 50, 13));
    let (opened, _) = Branch::open(branch.as_bytes(), node.keys.call(CALL.as_bytes()), &node.keys).unwrap();
    assert_eq!((opened.direction, opened.server), (Direction::ToServer, NameHash::of("opensips/k")));
    let sealed = Sealed::open(d.as_bytes(), node.keys.call(CALL.as_bytes()), &node.keys).unwrap();
    assert_eq!(sealed.flow, FlowToken::Ends { local: addr(OUTSIDE), remote: addr(PHONE) });
    assert!(sealed.nat && sealed.stands_in == SealedIn::RecordRoute);
}

#[test]
fn responses_go_home_with_our_via_taken_off() {
    let mut node = Node::new(CONFIG);
    let forwarded = node.receive(addr(PHONE), addr(OUTSIDE), &invite()).text();
    for status in ["100 Trying", "180 Ringing", "200 OK"] {
        let answer = response(&forwarded, status, "t1");
        let sent = node.receive(addr(SERVER), addr(INSIDE), &answer);
        assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr(PHONE)), "{status}");
        let answer = String::from_utf8(answer).unwrap();
        let own = answer.split_inclusive("\r\n").nth(1).unwrap();
        assert_eq!(sent.text(), answer.replacen(own, "", 1), "nothing but our Via is gone");
    }
}

#[test]
fn retransmission_cancel_and_ack_carry_the_branch_of_their_invite() {
    let mut node = Node::new(CONFIG);
    let first = node.receive(addr(PHONE), addr(OUTSIDE), &invite()).text();
    let again = node.receive(addr(PHONE), addr(OUTSIDE), &invite()).text();
    assert_eq!(first, again, "a retransmission in the same moment is identical");
    let branch = |text: &str| param(header(text, "Via"), "branch").to_owned();
    let invite = String::from_utf8(invite()).unwrap();
    let cancel = invite.replacen("INVITE", "CANCEL", 1).replace("1 INVITE", "1 CANCEL");
    let cancel = node.receive(addr(PHONE), addr(OUTSIDE), cancel.as_bytes());
    assert_eq!((cancel.to(), branch(&cancel.text())), (addr(SERVER), branch(&first)));
    let ack =
        invite.replacen("INVITE", "ACK", 1).replace("1 INVITE", "1 ACK").replace("ng>\r\nCall", "ng>;tag=t1\r\nCall");
    assert!(ack.contains("tag=t1"));
    let ack = node.receive(addr(PHONE), addr(OUTSIDE), ack.as_bytes());
    assert_eq!((ack.to(), branch(&ack.text())), (addr(SERVER), branch(&first)));
    // The ACK to a 2xx is a transaction of its own.
    let end_to_end = invite.replacen("INVITE", "ACK", 1).replace("1 INVITE", "1 ACK").replace("z9hG4bKa1", "z9hG4bKa2");
    let end_to_end = node.receive(addr(PHONE), addr(OUTSIDE), end_to_end.as_bytes());
    assert_ne!(branch(&end_to_end.text()), branch(&first));
}

/// The route set as the phone sees it: its own order of the Record-Routes.
fn dialog(node: &mut Node) -> String {
    let forwarded = node.receive(addr(PHONE), addr(OUTSIDE), &invite()).text();
    user(header(&forwarded, "Record-Route")).to_owned()
}

#[test]
fn the_phone_s_requests_inside_the_dialog_go_to_the_token_s_server() {
    let mut node = Node::new(CONFIG);
    let d = dialog(&mut node);
    for method in ["ACK", "BYE", "INVITE"] {
        let request = wire(&format!(
            "{method} sip:u@10.0.10.50 SIP/2.0
             Via: SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bKa7;rport
             Route: <sip:{d}@203.0.113.10:5060;lr>
             Route: <sip:{d}@10.0.1.10:5060;lr>, <sip:10.0.10.11;lr>
             Max-Forwards: 70
             From: <sip:bob@sip.example.ng>;tag=f1
             To: <sip:100@sip.example.ng>;tag=t1
             Call-ID: call-1@phone
             CSeq: 2 {method}
             Content-Length: 0
"
        ));
        let sent = node.receive(addr(PHONE), addr(OUTSIDE), &request);
        assert_eq!((sent.from(), sent.to()), (addr(INSIDE), addr(SERVER)));
        let text = sent.text();
        assert_eq!(headers(&text, "Route").collect::<Vec<_>>(), ["<sip:10.0.10.11;lr>"]);
        assert_eq!(headers(&text, "Record-Route").count(), 0, "no Record-Route inside a dialog");
    }
}

#[test]
fn the_server_s_requests_inside_the_dialog_go_to_the_phone_s_flow() {
    let mut node = Node::new(CONFIG);
    let d = dialog(&mut node);
    for method in ["BYE", "INVITE"] {
        let request = wire(&format!(
            "{method} sip:bob@192.168.1.20 SIP/2.0
             Via: SIP/2.0/UDP 10.0.10.11;branch=z9hG4bKk1
             Route: <sip:{d}@10.0.1.10:5060;lr>,<sip:{d}@203.0.113.10:5060;lr>
             Max-Forwards: 69
             From: <sip:100@sip.example.ng>;tag=t1
             To: <sip:bob@sip.example.ng>;tag=f1
             Call-ID: call-1@phone
             CSeq: 7 {method}
             X-Trunkline-Source: sip:10.0.10.50:5060;transport=udp
             Content-Length: 0
"
        ));
        let sent = node.receive(addr(SERVER), addr(INSIDE), &request);
        assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr(PHONE)));
        let text = sent.text();
        let via = header(&text, "Via");
        let (branch, way, time) = (param(via, "branch"), param(via, "w"), param(via, "s"));
        let expected = wire(&format!(
            "{method} sip:bob@192.168.1.20 SIP/2.0
             Via: SIP/2.0/UDP 203.0.113.10:5060;branch={branch};w={way};s={time}
             Via: SIP/2.0/UDP 10.0.10.11;branch=z9hG4bKk1;received=10.0.10.11
             Max-Forwards: 68
             From: <sip:100@sip.example.ng>;tag=t1
             To: <sip:bob@sip.example.ng>;tag=f1
             Call-ID: call-1@phone
             CSeq: 7 {method}
             Content-Length: 0
"
        ));
        assert_eq!(text, String::from_utf8(expected).unwrap());
        // The phone's answer finds the server; the phone may answer from anywhere.
        let answer = node.receive(addr("198.51.100.7:40000"), addr(OUTSIDE), &response(&text, "200 OK", "f1"));
        assert_eq!((answer.from(), answer.to()), (addr(INSIDE), addr(SERVER)));
        assert_eq!(
            headers(&answer.text(), "Via").collect::<Vec<_>>(),
            ["SIP/2.0/UDP 10.0.10.11;branch=z9hG4bKk1;received=10.0.10.11"]
        );
    }
}

fn register(node: &mut Node, extra: &str) -> String {
    let request = wire(&format!(
        "REGISTER sip:sip.example.ng SIP/2.0
         Via: SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bKr1;rport
         Max-Forwards: 70
         From: <sip:bob@sip.example.ng>;tag=r1
         To: <sip:bob@sip.example.ng>
         Call-ID: reg-1@phone
         CSeq: 1 REGISTER
         Contact: <sip:bob@192.168.1.20>{extra}
         Content-Length: 0
"
    ));
    node.receive(addr(PHONE), addr(OUTSIDE), &request).text()
}

#[test]
fn a_registration_carries_a_path_and_the_phone_is_called_through_it() {
    let mut node = Node::new(CONFIG);
    let registered = register(&mut node, "");
    let path = header(&registered, "Path");
    let p = user(path).to_owned();
    assert_eq!(path, format!("<sip:{p}@10.0.1.10:5060;lr>"));
    assert_eq!(headers(&registered, "Supported").collect::<Vec<_>>(), ["path"]);
    assert_eq!(headers(&registered, "Record-Route").count(), 0);
    let invite = wire(&format!(
        "INVITE sip:bob@192.168.1.20 SIP/2.0
         Via: SIP/2.0/UDP 10.0.10.11;branch=z9hG4bKk9;rport
         Route: <sip:{p}@10.0.1.10:5060;lr>
         Record-Route: <sip:10.0.10.11;lr>
         Max-Forwards: 60
         From: <sip:carol@sip.example.ng>;tag=c1
         To: <sip:bob@sip.example.ng>
         Call-ID: other-call@carol
         CSeq: 1 INVITE
         Content-Length: 0
"
    ));
    let sent = node.receive(addr(SERVER), addr(INSIDE), &invite);
    assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr(PHONE)));
    let text = sent.text();
    let routes: Vec<_> = headers(&text, "Record-Route").collect();
    let d = user(routes[0]).to_owned();
    let expected = [
        format!("<sip:{d}@203.0.113.10:5060;lr>"),
        format!("<sip:{d}@10.0.1.10:5060;lr>"),
        "<sip:10.0.10.11;lr>".to_owned(),
    ];
    assert_eq!(routes, expected);
    assert_eq!(headers(&text, "Route").count(), 0);
    let sealed = Sealed::open(d.as_bytes(), node.keys.call(b"other-call@carol"), &node.keys).unwrap();
    assert_eq!((sealed.server, sealed.nat), (NameHash::of("opensips/k"), true));
    assert!(matches!(sealed.flow, FlowToken::Ends { remote, .. } if remote == addr(PHONE)));
    // The phone hangs up: its route set is the Record-Route reversed by nobody, for it was the callee.
    let bye = wire(&format!(
        "BYE sip:carol@10.0.10.50 SIP/2.0
         Via: SIP/2.0/UDP 192.168.1.20:5060;branch=z9hG4bKb9;rport
         Route: {}, {}, {}
         From: <sip:bob@sip.example.ng>;tag=b1
         To: <sip:carol@sip.example.ng>;tag=c1
         Call-ID: other-call@carol
         CSeq: 1 BYE
",
        routes[0], routes[1], routes[2]
    ));
    let sent = node.receive(addr(PHONE), addr(OUTSIDE), &bye);
    assert_eq!(sent.to(), addr(SERVER));
    assert_eq!(header(&sent.text(), "Route"), "<sip:10.0.10.11;lr>");
    assert_eq!(header(&sent.text(), "Max-Forwards"), "70", "added where it was absent");
}

#[test]
fn an_outbound_client_gets_ob_only_from_its_first_hop() {
    let mut node = Node::new(CONFIG);
    let text = register(&mut node, ";reg-id=1;+sip.instance=\"<urn:uuid:1>\"\r\nSupported: path, outbound");
    assert!(header(&text, "Path").ends_with("@10.0.1.10:5060;lr;ob>"));
    assert_eq!(headers(&text, "Supported").collect::<Vec<_>>(), ["path, outbound"]);
    let text = register(&mut node, ";reg-id=1\r\nVia: SIP/2.0/UDP 192.168.1.1:5060;branch=z9hG4bKx");
    assert!(header(&text, "Path").ends_with("@10.0.1.10:5060;lr>"));
}

#[test]
fn a_second_node_with_the_same_key_brings_everything_home() {
    let (mut first, mut second) = (Node::new(CONFIG), Node::new(CONFIG));
    let forwarded = first.receive(addr(PHONE), addr(OUTSIDE), &invite()).text();
    let sent = second.receive(addr(SERVER), addr(INSIDE), &response(&forwarded, "200 OK", "t1"));
    assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr(PHONE)));
    let again = second.receive(addr(PHONE), addr(OUTSIDE), &invite()).text();
    assert_eq!(again, forwarded, "the branch, and all else, is that of the first node");
    let other = trunkline::config::key::generate([9; 16], [9; 16]);
    let mut other = Node::with_keys(CONFIG, trunkline::config::key::parse(&other).unwrap_or_else(|_| panic!()));
    assert!(matches!(
        other.receive(addr(SERVER), addr(INSIDE), &response(&forwarded, "200 OK", "t1")),
        Outcome::Dropped(_)
    ));
}
