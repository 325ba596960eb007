//! Identities of what passes the whole core: what nobody had to change is byte-identical, what was changed is what a
//! naive editor would have written, and an answer that a naive peer makes of it comes home as that answer.

mod support;

use std::cell::RefCell;
use std::net::SocketAddr;

use proptest::prelude::*;
use support::core::{INSIDE, Node, Outcome, SERVER, addr};
use support::generate::{Dice, Made, MadeVia, Wish, request};
use support::lines::{Pieces, TO, VIA, bytes_of, header, headers, is_named, param, parts, stamped, user, with_value};
use support::model::{Reading, text};
use trunkline::proxy::Passage;
use trunkline::sip::token::{Branch, Direction, NameHash, SEALED_LEN_MAX, Sealed, SealedIn, SendTime, Way};
use trunkline::sip::{FlowToken, Message};

const CONFIG: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "udp://[2001:db8:f::10]:5060"]
inside = "10.0.1.10"
backend = "pbx"
source_header = "X-Trunkline-Source"

[[backend]]
name = "pbx"
pin = { size = 1000 }
[[backend.server]]
name = "k"
address = "udp://10.0.10.11:5060"
sources = ["10.0.10.11"]
"#;

const SOURCE_HEADER: &[&str] = &["x-trunkline-source"];

/// Clients and the address of ours that they talk to.
const CLIENTS: [(&str, &str); 4] = [
    ("198.51.100.7:31234", "203.0.113.10:5060"),
    ("192.168.1.20:5060", "203.0.113.10:5060"),
    ("[2001:db8::1]:5060", "[2001:db8:f::10]:5060"),
    ("[2001:db8::1]:61000", "[2001:db8:f::10]:5060"),
];

/// Own Routes at the front of a client's request: the lines as written, and what is left of them.
const OWN_ROUTES: [(&[&str], &[&str]); 5] = [
    (&[], &[]),
    (&["<sip:203.0.113.10;lr>"], &[]),
    (&["\"us, too\" <sip:10.0.1.10:5060;lr>,  <sip:203.0.113.10;lr>;x=y"], &[]),
    (
        &["<sip:203.0.113.10;lr>", "<sip:10.0.1.10;lr>,<sip:n.example;lr>, <sip:203.0.113.10;lr>"],
        &["<sip:n.example;lr>, <sip:203.0.113.10;lr>"],
    ),
    (&["<sip:n.example;lr>"], &["<sip:n.example;lr>"]),
];

thread_local! {
    /// One node for all cases of a test: its tables are too large to be made anew each time. Each case is a second later.
    static NODE: RefCell<Node> = RefCell::new(Node::new(CONFIG));
}

fn with_node<T>(run: impl FnOnce(&mut Node) -> T) -> T {
    NODE.with_borrow_mut(|node| {
        node.now.0 += 1_000_000_000;
        run(node)
    })
}

fn dice() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

/// A request of a client on its way.
struct Trip {
    client: SocketAddr,
    ours: SocketAddr,
    made: Made,
    routes_left: &'static [&'static str],
}

fn trip(dice: &[u8], methods: &'static [&'static str]) -> Trip {
    let mut dice = Dice::new(dice);
    let (client, ours) = dice.pick(&CLIENTS);
    let (routes, routes_left) = dice.pick(&OWN_ROUTES);
    let mut lines: Vec<_> = routes.iter().map(|route| ("Route", (*route).to_owned())).collect();
    lines.extend((0..dice.roll(4) / 2).map(|_| ("X-TRUNKLINE-source", "sip:1.2.3.4:5".to_owned())));
    let wish = Wish { methods, least_hops: 1, lines, no_routes: true };
    Trip { client: addr(client), ours: addr(ours), made: request(&mut dice, &wish), routes_left }
}

/// Whether a client is behind NAT, by docs/rules.md 1; there is no Contact here.
fn is_behind_nat(via: &MadeVia, client: SocketAddr) -> bool {
    let host = via.host.trim_matches(['[', ']']).parse().ok();
    host != Some(client.ip()) || via.rport.is_some() && via.port.unwrap_or(5060) != client.port()
}

/// Where a request's answers go, by RFC 3581 and docs/rules.md 1.
fn home(via: &MadeVia, source: SocketAddr, force: bool) -> SocketAddr {
    let by_source = force || via.rport.is_some();
    SocketAddr::new(source.ip(), if by_source { source.port() } else { via.port.unwrap_or(5060) })
}

fn wants_record_route(made: &Made) -> bool {
    match made.method.as_str() {
        "REGISTER" | "ACK" | "CANCEL" | "OPTIONS" | "MESSAGE" | "PUBLISH" => false,
        "NOTIFY" => true,
        _ => made.to_tag.is_none(),
    }
}

/// The message less what is inserted, as a naive editor makes it: Via stamped, a hop less, own Routes and foreign source
/// headers gone, octets behind the message cut.
fn naively_edited(made: &Made, source: SocketAddr, force: bool, routes_left: &[&str]) -> Pieces {
    let mut pieces = Pieces::of(&made.bytes);
    let via = pieces.find(VIA).unwrap();
    pieces.lines[via] = stamped(&pieces.lines[via], source, force);
    if let (Some(at), Some(hops)) = (pieces.find(&["max-forwards"]), made.max_forwards) {
        pieces.lines[at] = with_value(&pieces.lines[at], |_| (hops - 1).to_string());
    }
    pieces.lines.retain(|line| !is_named(line, SOURCE_HEADER));
    let mut left = routes_left.iter();
    let routes = pieces.named(&["route"]).len();
    let mut seen = 0;
    pieces.lines.retain_mut(|line| {
        if !is_named(line, &["route"]) {
            return true;
        }
        seen += 1;
        let keep = seen > routes - routes_left.len();
        if keep {
            let value = left.next().unwrap();
            *line = with_value(line, |_| (*value).to_owned());
        }
        keep
    });
    pieces.rest.truncate(pieces.rest.len() - made.junk);
    pieces
}

fn fail(what: &str, bytes: &[u8]) -> TestCaseError {
    TestCaseError::fail(format!("{what}: {}", bytes.escape_ascii()))
}

/// Takes the `count` lines that were inserted off the message; what is left must be `expected`.
fn inserted(sent: &[u8], count: usize, expected: &Pieces) -> Result<Vec<String>, TestCaseError> {
    let mut pieces = Pieces::of(sent);
    if pieces.lines.len() < count {
        return Err(fail("too few lines", sent));
    }
    let rest = pieces.lines.split_off(count);
    let inserted = std::mem::replace(&mut pieces.lines, rest);
    prop_assert_eq!(text(&pieces.joined()), text(&expected.joined()), "in {}", sent.escape_ascii());
    let line = |line: &Vec<u8>| text(line).strip_suffix("\r\n").map(str::to_owned);
    inserted.iter().map(line).collect::<Option<_>>().ok_or_else(|| fail("line ends", sent))
}

/// Our Via: the branch, the way back and the time in it.
fn own_via(line: &str, node: &Node, call_id: &str, sent_by: &str) -> Result<(Branch, Way), TestCaseError> {
    let value = line.strip_prefix("Via: SIP/2.0/UDP ").ok_or_else(|| fail("no Via", line.as_bytes()))?;
    prop_assert_eq!(value.split(';').next(), Some(sent_by));
    prop_assert_eq!(value.split(';').count(), 4, "no rport, nothing else");
    let branch = param(value, "branch").strip_prefix("z9hG4bK").unwrap();
    let (branch, mac) = Branch::open(branch.as_bytes(), node.keys.call(call_id.as_bytes()), &node.keys).unwrap();
    prop_assert_eq!(branch.server, NameHash::of("pbx/k"));
    let time = SendTime::read(param(value, "s").as_bytes()).unwrap();
    prop_assert_eq!((time.node, time.micros), (7, node.now.micros()));
    Ok((branch, Way::open(param(value, "w").as_bytes(), &mac, &node.keys).unwrap()))
}

/// One of our URIs in Record-Route or Path: its token and what stands behind it.
fn own_uri(line: &str, name: &str, call_id: &str, node: &Node) -> (Sealed, String) {
    let value = header(line, name);
    let call = node.keys.call(&bytes_of(call_id));
    let token = user(value);
    (Sealed::open(token.as_bytes(), call, &node.keys).unwrap(), value[5 + token.len()..].to_owned())
}

/// The client's request at the server: returns what was sent.
fn check_request_to_server(node: &mut Node, trip: &Trip) -> Result<(Vec<u8>, Way), TestCaseError> {
    let Trip { client, ours, made, routes_left } = trip;
    let outcome = node.receive(*client, *ours, &made.bytes);
    let Outcome::Sent { from, to, passage, bytes } = outcome else {
        return Err(fail(&format!("{outcome:?}"), &made.bytes));
    };
    prop_assert_eq!((from, to), (addr(INSIDE), addr(SERVER)));
    let to_the_server = matches!(passage, Passage::RequestToServer { server: 0, .. });
    prop_assert!(to_the_server);
    let nat = is_behind_nat(&made.vias[0], *client);
    let (record_route, register) = (wants_record_route(made), made.method == "REGISTER");
    let count = 2 + if record_route || register { 2 } else { 0 } + usize::from(made.max_forwards.is_none());
    let expected = naively_edited(made, *client, nat, routes_left);
    let lines = inserted(&bytes, count, &expected)?;
    let (branch, way) = own_via(&lines[0], node, &made.call_id, INSIDE)?;
    prop_assert_eq!(branch.direction, Direction::ToServer);
    let remote = home(&made.vias[0], *client, nat);
    prop_assert_eq!(
        way,
        Way { frontend: NameHash::of("sip"), flow: FlowToken::Ends { local: *ours, remote }, stick: None }
    );
    let mut rest = &lines[1..];
    if record_route || register {
        let stands_in = if register { SealedIn::Path } else { SealedIn::RecordRoute };
        // Who is behind NAT hears us where it sends from, others where they hear responses.
        let flow = if nat { FlowToken::Ends { local: *ours, remote: *client } } else { way.flow };
        let sealed = Sealed { stands_in, server: branch.server, frontend: way.frontend, flow, nat };
        let name = if register { "Path" } else { "Record-Route" };
        prop_assert_eq!(own_uri(&rest[0], name, &made.call_id, node), (sealed, format!("@{INSIDE};lr>")));
        match register {
            true => prop_assert_eq!(&rest[1], "Supported: path"),
            false => prop_assert_eq!(own_uri(&rest[1], name, &made.call_id, node), (sealed, format!("@{ours};lr>"))),
        }
        rest = &rest[2..];
    }
    prop_assert_eq!(&rest[0], &format!("X-Trunkline-Source: sip:{client};transport=udp"));
    prop_assert_eq!(rest.get(1).map(String::as_str), made.max_forwards.is_none().then_some("Max-Forwards: 70"));
    Ok((bytes, way))
}

/// A response as a naive server makes it (RFC 3261 §8.2.6.2), the Vias one by one or joined in one line; and the same
/// with our via-parm taken out by hand.
fn answer(dice: &mut Dice<'_>, request: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let pieces = Pieces::of(request);
    let start = dice.pick(&["SIP/2.0 200 OK\r\n", "SIP/2.0 100 \r\n", "SIP/2.0 487 gone\n", "\r\nSIP/2.0 603\r\n"]);
    let vias: Vec<_> = pieces.named(VIA).iter().map(|line| parts(line).1).collect();
    let joined = dice.once_in(2) && vias.len() > 1;
    let comma = dice.pick(&[", ", ",", " ,\r\n\t"]);
    let (before, own, mut after) = match joined {
        true => ("v: ", format!("{}{comma}", vias[0]), format!("{}\r\n", vias[1..].join(comma))),
        false => ("", format!("Via : {}\r\n", vias[0]), String::new()),
    };
    if !joined {
        after = vias[1..].iter().map(|via| format!("VIA:{via}\r\n")).collect();
    }
    let copied = |names: &[&str]| pieces.named(names).iter().map(|line| text(line)).collect::<String>();
    let to = text(pieces.named(TO)[0]);
    let tag = if Reading::naive(request).unwrap().to_tag.is_none() { ";tag=st" } else { "" };
    let early = dice.pick(&["", "X-First: 1\r\n", "Server: k\n"]);
    let body = dice.pick(&["", "v=0\r\n\r\nVia: SIP/2.0/UDP x\r\n"]);
    let rest = copied(&["from", "f"])
        + &format!("{}{tag}{}", to.trim_end(), &to[to.trim_end().len()..])
        + &copied(&["call-id", "i"])
        + &copied(&["cseq"])
        + &copied(&["record-route"])
        + &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let whole = format!("{start}{early}{before}{own}{after}{rest}");
    (bytes_of(&whole), bytes_of(&format!("{start}{early}{before}{after}{rest}")))
}

/// A message of another method that belongs to this INVITE: its Via, Call-ID, From, Request-URI and CSeq number.
fn sibling(invite: &[u8], method: &str, to_tag: bool) -> Vec<u8> {
    let mut pieces = Pieces::of(invite);
    pieces.start = bytes_of(&text(&pieces.start).replacen("INVITE", method, 1));
    let cseq = pieces.find(&["cseq"]).unwrap();
    pieces.lines[cseq] = with_value(&pieces.lines[cseq], |value| value.replace("INVITE", method));
    if to_tag {
        let to = pieces.find(TO).unwrap();
        pieces.lines[to] = with_value(&pieces.lines[to], |value| format!("{value};tag=answered"));
    }
    pieces.joined()
}

fn branch_of(sent: &[u8]) -> String {
    param(&text(&Pieces::of(sent).lines[0]), "branch").to_owned()
}

/// A client's request to the server, and its answer home.
fn check_from_client(node: &mut Node, dice: &[u8], answers: &[u8]) -> Result<(), TestCaseError> {
    let trip = trip(dice, &[]);
    let (sent, way) = check_request_to_server(node, &trip)?;
    let message = Message::parse(&sent).unwrap();
    prop_assert_eq!(message.fault, None);
    prop_assert_eq!(message.max_forwards.unwrap().1, trip.made.max_forwards.map_or(70, |hops| hops - 1));
    let (response, expected) = answer(&mut Dice::new(answers), &sent);
    let outcome = node.receive(addr(SERVER), addr(INSIDE), &response);
    let Outcome::Sent { from, to, bytes, passage } = outcome else {
        return Err(fail(&format!("{outcome:?}"), &response));
    };
    prop_assert_eq!(way.flow, FlowToken::Ends { local: from, remote: to });
    prop_assert_eq!(from, trip.ours);
    let status = Message::parse(&response).unwrap().status().unwrap();
    let seen =
        |seen: &Passage| matches!(seen, Passage::ResponseToClient { server: 0, status: seen, .. } if *seen == status);
    prop_assert!(seen(&passage), "{passage:?}");
    prop_assert_eq!(text(&bytes), text(&expected));
    Ok(())
}

/// A server's request to a client behind NAT, and its answer home.
fn check_from_server(node: &mut Node, dice: &[u8], answers: &[u8]) -> Result<(), TestCaseError> {
    let mut dice = Dice::new(dice);
    let (client, ours) = dice.pick(&CLIENTS);
    let (client, ours) = (addr(client), addr(ours));
    let flow = FlowToken::Ends { local: ours, remote: client };
    let frontend = NameHash::of("sip");
    let sealed = Sealed { stands_in: SealedIn::Path, server: NameHash::of("pbx/k"), frontend, flow, nat: true };
    let mut token = [0; SEALED_LEN_MAX];
    let len = sealed.seal(0, &node.keys, &mut token);
    let mut lines = vec![("Route", format!("<sip:{}@{INSIDE};lr>", text(&token[..len])))];
    lines.extend((0..dice.roll(2)).map(|_| ("X-Trunkline-Source", "sip:9.9.9.9:9".to_owned())));
    let made = request(&mut dice, &Wish { methods: &[], least_hops: 1, lines, no_routes: true });
    let outcome = node.receive(addr(SERVER), addr(INSIDE), &made.bytes);
    let Outcome::Sent { from, to, bytes, passage } = outcome else {
        return Err(fail(&format!("{outcome:?}"), &made.bytes));
    };
    prop_assert_eq!((from, to), (ours, client));
    let is_to_client = matches!(passage, Passage::RequestToClient { server: 0, frontend: 0, .. });
    prop_assert!(is_to_client);
    let count = 1 + if wants_record_route(&made) { 2 } else { 0 } + usize::from(made.max_forwards.is_none());
    let lines = inserted(&bytes, count, &naively_edited(&made, addr(SERVER), false, &[]))?;
    let (branch, way) = own_via(&lines[0], node, &made.call_id, &ours.to_string())?;
    let remote = home(&made.vias[0], addr(SERVER), false);
    prop_assert_eq!(branch.direction, Direction::ToClient);
    prop_assert_eq!(way, Way { frontend, flow: FlowToken::Ends { local: addr(INSIDE), remote }, stick: None });
    if wants_record_route(&made) {
        let sealed = Sealed { stands_in: SealedIn::RecordRoute, ..sealed };
        for (line, side) in lines[1..].iter().zip([ours.to_string(), INSIDE.to_owned()]) {
            prop_assert_eq!(own_uri(line, "Record-Route", &made.call_id, node), (sealed, format!("@{side};lr>")));
        }
    }
    let (response, expected) = answer(&mut Dice::new(answers), &bytes);
    // The client may answer from anywhere.
    let outcome = node.receive(SocketAddr::new(client.ip(), 9), ours, &response);
    let Outcome::Sent { from, to, bytes, .. } = outcome else {
        return Err(fail(&format!("{outcome:?}"), &response));
    };
    prop_assert_eq!((from, to), (addr(INSIDE), remote));
    prop_assert_eq!(text(&bytes), text(&expected));
    Ok(())
}

/// An INVITE, again, its CANCEL and the ACK to a failure of it; and requests that only look like them.
fn check_branches(node: &mut Node, dice: &[u8]) -> Result<(), TestCaseError> {
    let trip = trip(dice, &["INVITE"]);
    let mut send = |bytes: &[u8]| match node.receive(trip.client, trip.ours, bytes) {
        Outcome::Sent { bytes, .. } => Ok(bytes),
        other => Err(fail(&format!("{other:?}"), bytes)),
    };
    let first = send(&trip.made.bytes)?;
    prop_assert_eq!(&send(&trip.made.bytes)?, &first, "a retransmission in the same moment is the same");
    let branch = branch_of(&first);
    let cancel = sibling(&trip.made.bytes, "CANCEL", false);
    prop_assert_eq!(branch_of(&send(&cancel)?), branch.clone());
    let ack = sibling(&trip.made.bytes, "ACK", trip.made.to_tag.is_none());
    prop_assert_eq!(branch_of(&send(&ack)?), branch.clone());
    // Another Call-ID or CSeq is another transaction even under the same branch.
    for name in [&["call-id", "i"][..], &["cseq"]] {
        let mut other = Pieces::of(&trip.made.bytes);
        for line in other.lines.iter_mut().filter(|line| is_named(line, name)) {
            *line = with_value(line, |value| format!("1{value}"));
        }
        if Message::parse(&other.joined()).unwrap().fault.is_none() {
            prop_assert_ne!(branch_of(&send(&other.joined())?), branch.clone());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_s_request_reaches_the_server_changed_only_where_it_must_be_and_its_answer_comes_home(
        dice in dice(), answers in dice(),
    ) {
        with_node(|node| check_from_client(node, &dice, &answers))?;
    }

    #[test]
    fn a_server_s_request_reaches_the_client_s_flow_and_its_answer_comes_home(dice in dice(), answers in dice()) {
        with_node(|node| check_from_server(node, &dice, &answers))?;
    }

    #[test]
    fn retransmission_cancel_and_ack_carry_their_invite_s_branch_whatever_via_it_has(dice in dice()) {
        with_node(|node| check_branches(node, &dice))?;
    }
}

const REQUEST: &str = "INVITE sip:100@example.org SIP/2.0\r\n{first}Via: SIP/2.0/UDP 198.51.100.7;branch=z9hG4bKa\r\n\
    Max-Forwards: 9\r\nFrom: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\r\n";

/// The insertion and the cut are at one place then.
#[test]
fn a_first_header_line_that_is_cut_makes_room_for_ours() {
    for first in ["X-Trunkline-Source: sip:1.2.3.4\r\n", "Route: <sip:203.0.113.10;lr>\r\n"] {
        let mut node = Node::new(CONFIG);
        let (client, ours) = CLIENTS[0];
        let with = node.receive(addr(client), addr(ours), REQUEST.replace("{first}", first).as_bytes());
        let without = node.receive(addr(client), addr(ours), REQUEST.replace("{first}", "").as_bytes());
        assert_eq!(with.text(), without.text(), "{first}");
    }
}

/// A server that takes a lone carriage return for a line end, as sofia-sip does, would see the header that we cut.
#[test]
fn a_client_cannot_hide_a_source_header_behind_a_lone_carriage_return() {
    for first in ["Subject: x\rX-Trunkline-Source: sip:1.2.3.4:5\r\n", "\rX-Trunkline-Source: sip:1.2.3.4:5\r\n"] {
        let mut node = Node::new(CONFIG);
        let (client, ours) = CLIENTS[0];
        let outcome = node.receive(addr(client), addr(ours), REQUEST.replace("{first}", first).as_bytes());
        assert_eq!(outcome.status(), Some(400), "{first:?}");
    }
}

/// Nor by continuing the line that we write last.
#[test]
fn a_client_cannot_continue_our_source_header() {
    let mut node = Node::new(CONFIG);
    let (client, ours) = CLIENTS[0];
    let request = REQUEST.replace("{first}", " ,sip:1.2.3.4:5;transport=udp\r\n");
    assert_eq!(node.receive(addr(client), addr(ours), request.as_bytes()).status(), Some(400));
}

#[test]
fn only_one_source_header_arrives_however_many_were_sent() {
    let mut node = Node::new(CONFIG);
    let (client, ours) = CLIENTS[0];
    let copies = "x-trunkline-SOURCE\t: sip:1.2.3.4,\r\n sip:5.6.7.8\r\n".repeat(12);
    let text = node.receive(addr(client), addr(ours), REQUEST.replace("{first}", &copies).as_bytes()).text();
    assert_eq!(headers(&text, "X-Trunkline-Source").collect::<Vec<_>>(), ["sip:198.51.100.7:31234;transport=udp"]);
    assert!(!text.contains("1.2.3.4") && !text.contains("5.6.7.8"));
}
