//! What is ours in Route and Request-URI, and where the rest of them leads: RFC 3261 §16.4 and §16.6, docs/rules.md 6 and 20.

mod support;

use std::net::SocketAddr;

use support::calls::{CALL, feed, from_phone, from_server, request, sealed, token};
use support::core::{INSIDE, Node, OUTSIDE, Outcome, PHONE, SERVER, addr};
use support::lines::headers;
use trunkline::config::key;
use trunkline::sip::token::{Keys, NameHash, SealKey, Sealed, SealedIn};

const CONFIG: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "udp://[2001:db8:f::10]:5060"]
advertise = "203.0.113.99"
inside = "10.0.1.10"
aliases = ["sip.example.ng"]
backend = "pbx"
send_to = ["10.0.77.0/24", "127.0.0.9"]

[[frontend]]
name = "wild"
bind = ["udp://0.0.0.0:5070"]
inside = "10.0.1.10"
backend = "pbx"

[[backend]]
name = "pbx"
pin = { size = 1000 }
[[backend.server]]
name = "k"
address = "udp://10.0.10.11:5060"
[[backend.server]]
name = "m"
address = "udp://10.0.10.12:5060"
"#;

const SERVERS: [(&str, &str); 2] = [("pbx/k", SERVER), ("pbx/m", "10.0.10.12:5060")];
const URI: &str = "sip:100@example.org";

fn record_route(server: &str) -> Sealed {
    sealed(SealedIn::RecordRoute, server, addr(OUTSIDE), addr(PHONE))
}

fn routes(outcome: &Outcome) -> Vec<String> {
    headers(&outcome.text(), "Route").map(str::to_owned).collect()
}

fn request_uri(outcome: &Outcome) -> String {
    outcome.text().split(' ').nth(1).unwrap().to_owned()
}

/// Feeds an INVITE of the phone with these Route lines; says what is left of them.
fn routes_left(node: &mut Node, lines: &[&str]) -> Vec<String> {
    let lines: Vec<_> = lines.iter().map(|line| format!("Route: {line}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    routes(&from_phone(node, &request("INVITE", URI, &lines), "requests_to_servers"))
}

#[test]
fn a_route_that_means_us_is_taken_off_in_every_spelling() {
    let mut node = Node::new(CONFIG);
    for ours in [
        "<sip:203.0.113.10;lr>",
        "<sip:203.0.113.10:5060;lr>",
        "<SIP:203.0.113.10;LR;x=\"y\">",
        "<sip:203.0.113.99;lr>",
        "<sip:10.0.1.10:5060;lr>",
        "<sip:sip.example.ng;lr>",
        "<sip:SIP.example.NG:5060;lr>",
        "<sip:someone@203.0.113.10;lr>",
        "<sip:[2001:db8:f::10];lr>",
        "<sip:[2001:DB8:F:0::0010]:5060;lr>",
        "\"us, \\\" <sip:x;lr>\" <sip:203.0.113.10;lr>;param=\"a,b\"",
        "us <sip:203.0.113.10;lr>",
        "sip:203.0.113.10;lr",
    ] {
        assert_eq!(routes_left(&mut node, &[ours]), [""; 0], "{ours}");
        assert_eq!(routes_left(&mut node, &[ours, "<sip:n.example;lr>"]), ["<sip:n.example;lr>"], "{ours}");
    }
}

#[test]
fn a_route_that_means_another_stays() {
    let mut node = Node::new(CONFIG);
    for another in [
        "<sip:203.0.113.10:5099;lr>",
        "<sip:203.0.113.11;lr>",
        "<sip:sip.example.ng:5099;lr>",
        "<sip:example.ng;lr>",
        "<sip:xsip.example.ng;lr>",
        "<sips:203.0.113.10;lr>",
        "<sip:[2001:db8:f::11];lr>",
        "<tel:+234>",
        "<sip:203.0.113.10;lr",
        "garbage",
    ] {
        assert_eq!(routes_left(&mut node, &[another]), [another]);
    }
}

#[test]
fn only_ours_at_the_front_are_taken_off_however_they_are_joined() {
    let mut node = Node::new(CONFIG);
    let (us, too, n) = ("<sip:203.0.113.10;lr>", "\"too\" <sip:10.0.1.10;lr>", "<sip:n.example;lr>");
    for (lines, left) in [
        (vec![format!("{us}, {too}")], vec![]),
        (vec![us.into(), too.into()], vec![]),
        (vec![format!("{us},{too} ,\t{n}")], vec![n.to_owned()]),
        (vec![us.into(), format!("{too}, {n}, {us}")], vec![format!("{n}, {us}")]),
        (vec![format!("{us}, {us}"), too.into(), n.into(), us.into()], vec![n.into(), us.into()]),
        (vec![n.into(), us.into()], vec![n.into(), us.into()]),
        (vec![format!("{n},{us}")], vec![format!("{n},{us}")]),
        (vec![format!("{us},"), n.into()], vec![n.to_owned()]),
    ] {
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        assert_eq!(routes_left(&mut node, &lines), left, "{lines:?}");
    }
}

#[test]
fn on_a_wildcard_the_address_that_a_message_came_to_is_ours() {
    let mut node = Node::new(CONFIG);
    let ours = addr("192.0.2.200:5070");
    let lines = ["Route: <sip:192.0.2.200:5070;lr>", "Route: <sip:192.0.2.201:5070;lr>"];
    let sent = feed(&mut node, addr(PHONE), ours, &request("INVITE", URI, &lines), "requests_to_servers");
    assert_eq!(routes(&sent), ["<sip:192.0.2.201:5070;lr>"]);
    let options = request("OPTIONS", "sip:192.0.2.200:5070", &[]);
    assert_eq!(feed(&mut node, addr(PHONE), ours, &options, "answered").status(), Some(200));
    let maddr = request("INVITE", "sip:1@example.org:5070;maddr=192.0.2.200", &[]);
    let sent = feed(&mut node, addr(PHONE), ours, &maddr, "requests_to_servers");
    assert_eq!(request_uri(&sent), "sip:1@example.org");
}

#[test]
fn a_token_decides_whatever_host_stands_behind_it() {
    for (name, address) in SERVERS {
        for host in ["203.0.113.10:5060", "203.0.113.99", "10.0.1.10:5060", "sip.example.ng", "elsewhere.example"] {
            let mut node = Node::new(CONFIG);
            let token = token(&node.keys, CALL, &record_route(name));
            for token in [token.clone(), token.to_ascii_uppercase()] {
                let route = format!("Route: <sip:{token}@{host};lr>");
                let bye = request("BYE", URI, &[&route, "To: <sip:100@sip.example.ng>;tag=t"]);
                let sent = from_phone(&mut node, &bye, "requests_to_servers");
                assert_eq!((sent.to(), routes(&sent).len()), (addr(address), 0), "{name} {host}");
            }
        }
    }
}

/// Keys that hold the golden ones' route secret and seal key, and seal with another.
fn other_seal(golden_too: bool) -> Keys {
    let mut seals = vec![SealKey { id: 9, secret: [9; 16] }];
    seals.extend(golden_too.then_some(SealKey { id: 1, secret: [0x11; 16] }));
    Keys::new(*b"golden route key", &seals, 9).unwrap()
}

#[test]
fn a_token_under_a_key_that_we_hold_no_longer_is_removed_and_the_pin_decides() {
    let mut node = Node::new(CONFIG);
    let pinned = from_phone(&mut node, &request("INVITE", URI, &[]), "requests_to_servers").to();
    for (name, _) in SERVERS {
        let token = token(&other_seal(false), CALL, &record_route(name));
        for host in ["203.0.113.10", "10.0.1.10:5060", "sip.example.ng"] {
            let route = format!("Route: <sip:{token}@{host};lr>");
            let bye = request("BYE", URI, &[&route, "To: <sip:100@sip.example.ng>;tag=t"]);
            let sent = from_phone(&mut node, &bye, "requests_to_servers");
            assert_eq!((sent.to(), routes(&sent).len()), (pinned, 0));
        }
        // Under a name that is not ours it is nobody's business.
        assert_eq!(routes_left(&mut node, &[&format!("<sip:{token}@n.example;lr>")]).len(), 1);
    }
}

#[test]
fn tokens_of_a_rotated_key_still_decide() {
    let mut node = Node::with_keys(CONFIG, other_seal(true));
    let golden = key::parse(&key::generate(*b"golden route key", [0x11; 16])).unwrap_or_else(|_| panic!("good keys"));
    for (name, address) in SERVERS {
        for keys in [&golden, &other_seal(false)] {
            let route = format!("Route: <sip:{}@{OUTSIDE};lr>", token(keys, CALL, &record_route(name)));
            let bye = request("BYE", URI, &[&route, "To: <sip:100@sip.example.ng>;tag=t"]);
            assert_eq!(from_phone(&mut node, &bye, "requests_to_servers").to(), addr(address));
        }
    }
}

#[test]
fn a_wrong_mac_under_a_key_that_we_hold_is_forbidden_where_the_route_is_ours() {
    let mut node = Node::new(CONFIG);
    let good = token(&node.keys, CALL, &record_route("pbx/k"));
    let with_first_changed = |at: usize| {
        let mut forged = good.clone().into_bytes();
        forged[at] = if forged[at] == b'a' { b'b' } else { b'a' };
        String::from_utf8(forged).unwrap()
    };
    // In the server's name, in the flow, in the MAC.
    for at in [6, 20, 30, 45] {
        let forged = with_first_changed(at);
        for host in ["203.0.113.10", "10.0.1.10:5060", "sip.example.ng", "203.0.113.99:5060"] {
            let route = format!("Route: <sip:{forged}@{host};lr>");
            let outcome = from_phone(&mut node, &request("BYE", URI, &[&route]), "forged_token");
            assert_eq!(outcome.status(), Some(403), "{at} {host}");
        }
        let elsewhere = format!("<sip:{forged}@n.example;lr>");
        assert_eq!(routes_left(&mut node, &[&elsewhere]), [elsewhere]);
        node.now.0 += 1_000_000_000;
    }
}

#[test]
fn a_record_route_token_of_another_call_is_forbidden() {
    let mut node = Node::new(CONFIG);
    let route = format!("Route: <sip:{}@{OUTSIDE};lr>", token(&node.keys, "another-call", &record_route("pbx/k")));
    assert_eq!(from_phone(&mut node, &request("BYE", URI, &[&route]), "forged_token").status(), Some(403));
    assert_eq!(from_server(&mut node, &request("BYE", URI, &[&route]), "forged_token").status(), Some(403));
    let ack = request("ACK", URI, &[&route]);
    assert!(matches!(from_phone(&mut node, &ack, "forged_token"), Outcome::Dropped(_)), "an ACK is never answered");
}

#[test]
fn a_path_token_from_a_client_is_removed_and_does_not_count() {
    let mut node = Node::new(CONFIG);
    let balanced = from_phone(&mut node, &request("INVITE", URI, &[]), "requests_to_servers").to();
    for (name, _) in SERVERS {
        let path = token(&node.keys, CALL, &sealed(SealedIn::Path, name, addr(OUTSIDE), addr(PHONE)));
        let route = format!("Route: <sip:{path}@{INSIDE};lr>");
        let sent = from_phone(&mut node, &request("INVITE", URI, &[&route]), "requests_to_servers");
        assert_eq!((sent.to(), routes(&sent).len()), (balanced, 0), "{name}");
    }
}

/// RFC 3261 §16.4: a strict router put our Record-Route into the Request-URI and the real one behind the last Route.
#[test]
fn a_strict_router_before_us_is_undone() {
    for (name, address) in SERVERS {
        let mut node = Node::new(CONFIG);
        let d = token(&node.keys, CALL, &record_route(name));
        let ours = format!("sip:{d}@203.0.113.10:5060;lr");
        let inside = format!("<sip:{d}@10.0.1.10:5060;lr>");
        for (lines, left) in [
            (vec!["<sip:u@10.0.10.50>".to_owned()], vec![]),
            (vec![inside.clone(), "<sip:u@10.0.10.50>".into()], vec![]),
            (vec![format!("{inside}, <sip:k.example;lr>"), "<sip:u@10.0.10.50>".into()], vec!["<sip:k.example;lr>"]),
            (vec!["<sip:a;lr>,<sip:b;lr> , <sip:u@10.0.10.50>".into()], vec!["<sip:a;lr>", "<sip:b;lr>"]),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| format!("Route: {line}")).collect();
            let mut lines: Vec<_> = lines.iter().map(String::as_str).collect();
            lines.push("To: <sip:100@sip.example.ng>;tag=t");
            let sent = from_phone(&mut node, &request("BYE", &ours, &lines), "requests_to_servers");
            assert_eq!((sent.to(), request_uri(&sent)), (addr(address), "sip:u@10.0.10.50".to_owned()), "{lines:?}");
            assert_eq!(routes(&sent), left, "{lines:?}");
        }
    }
}

#[test]
fn a_strict_router_behind_us_gets_its_own_uri_and_the_real_one_at_the_end() {
    let mut node = Node::new(CONFIG);
    let us = "<sip:203.0.113.10;lr>";
    for (lines, left) in [
        (vec![format!("{us}, \"s\" <sip:strict.example;x=y>")], vec!["<sip:100@example.org>"]),
        (vec!["<sip:strict.example;x=y>".to_owned()], vec!["<sip:100@example.org>"]),
        (
            vec![us.to_owned(), "<sip:strict.example;x=y>,<sip:n.example;lr>".into(), "<sip:o.example>".into()],
            vec!["<sip:n.example;lr>", "<sip:o.example>", "<sip:100@example.org>"],
        ),
    ] {
        let lines: Vec<_> = lines.iter().map(|line| format!("Route: {line}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let sent = from_phone(&mut node, &request("INVITE", URI, &lines), "requests_to_servers");
        assert_eq!(
            (request_uri(&sent), routes(&sent)),
            ("sip:strict.example;x=y".to_owned(), left.into_iter().map(str::to_owned).collect())
        );
    }
    // A server's request goes to the strict router itself.
    let bye = request("BYE", "sip:u@192.0.2.50", &["Route: <sip:192.0.2.7:5080>"]);
    let sent = from_server(&mut node, &bye, "requests_to_clients");
    assert_eq!((sent.to(), request_uri(&sent)), (addr("192.0.2.7:5080"), "sip:192.0.2.7:5080".to_owned()));
    assert_eq!(routes(&sent), ["<sip:u@192.0.2.50>"]);
}

/// A URI parameter may hold what a token may not (RFC 3261 §25.1 `param-unreserved`).
#[test]
fn odd_parameters_before_it_do_not_hide_lr_or_maddr() {
    let mut node = Node::new(CONFIG);
    for odd in ["x=a/b", "x=$(y)&z+:[]", "a/b", "x=%2F", "x=", "x=a=b", "x=,y", "x=\"y"] {
        let loose = format!("<sip:n.example;{odd};lr>");
        assert_eq!(routes_left(&mut node, &[&loose]), [loose]);
        let uri = format!("sip:1@example.org;{odd};maddr=203.0.113.10");
        let sent = from_phone(&mut node, &request("INVITE", &uri, &[]), "requests_to_servers");
        assert_eq!(request_uri(&sent), format!("sip:1@example.org;{odd}"));
    }
}

/// What would become the Request-URI must be one.
#[test]
fn a_strict_route_that_is_no_request_uri_is_refused() {
    let mut node = Node::new(CONFIG);
    let d = token(&node.keys, CALL, &record_route("pbx/k"));
    let ours = format!("sip:{d}@203.0.113.10:5060;lr");
    for bad in ["sip:u;x y@n.example", "sip:u@n.example;x=y\r\n SIP/2.0", "sip:<u@n.example", "sip:n.example?Subject=x"]
    {
        let route = format!("Route: <{bad}>");
        assert_eq!(from_phone(&mut node, &request("INVITE", URI, &[&route]), "malformed").status(), Some(400), "{bad}");
        assert_eq!(from_phone(&mut node, &request("BYE", &ours, &[&route]), "malformed").status(), Some(400), "{bad}");
    }
}

#[test]
fn an_maddr_that_is_ours_is_stripped_with_the_port_and_transport_it_stood_for() {
    let mut node = Node::new(CONFIG);
    for (written, left) in [
        ("sip:1@example.org;maddr=203.0.113.10", "sip:1@example.org"),
        ("sip:1@example.org:5060;transport=udp;maddr=203.0.113.10;x=y", "sip:1@example.org;x=y"),
        ("sip:1@example.org;x=y;MADDR=203.0.113.99;Transport=UDP", "sip:1@example.org;x=y"),
        ("sip:[2001:db8::5]:5060;maddr=[2001:db8:f::10]", "sip:[2001:db8::5]"),
        ("sip:1@example.org:5099;maddr=203.0.113.10", "sip:1@example.org:5099;maddr=203.0.113.10"),
        ("sip:1@example.org;maddr=203.0.113.11", "sip:1@example.org;maddr=203.0.113.11"),
        ("sip:1@example.org;maddr", "sip:1@example.org;maddr"),
        ("sip:maddr=203.0.113.10@example.org", "sip:maddr=203.0.113.10@example.org"),
    ] {
        let sent = from_phone(&mut node, &request("INVITE", written, &[]), "requests_to_servers");
        assert_eq!(request_uri(&sent), left);
    }
}

#[test]
fn a_server_s_request_goes_to_the_address_it_names() {
    let mut node = Node::new(CONFIG);
    for (uri, lines, to) in [
        ("sip:u@192.0.2.50", vec![], "192.0.2.50:5060"),
        ("sip:u@192.0.2.50:5080;transport=udp", vec![], "192.0.2.50:5080"),
        ("sip:u@name.example;maddr=192.0.2.51", vec![], "192.0.2.51:5060"),
        ("sip:u@name.example", vec!["Route: <sip:192.0.2.52;lr>"], "192.0.2.52:5060"),
        ("sip:u@192.0.2.50", vec!["Route: <sip:10.0.1.10;lr>, <sip:192.0.2.53:5090;lr>"], "192.0.2.53:5090"),
        ("sip:u@[2001:db8::77]", vec![], "[2001:db8::77]:5060"),
        ("sip:u@[2001:db8::77]:5081", vec![], "[2001:db8::77]:5081"),
        ("sip:u@10.0.77.3", vec![], "10.0.77.3:5060"),
        ("sip:u@127.0.0.9:5062", vec![], "127.0.0.9:5062"),
    ] {
        let sent = from_server(&mut node, &request("INVITE", uri, &lines), "requests_to_clients");
        assert_eq!(sent.to(), addr(to), "{uri}");
        let from = if addr(to).is_ipv4() { OUTSIDE } else { "[2001:db8:f::10]:5060" };
        assert_eq!(sent.from(), addr(from), "from the first frontend's bind of the family");
    }
}

#[test]
fn a_server_s_request_may_not_turn_us_against_the_inside() {
    let mut node = Node::new(CONFIG);
    for host in [
        "127.0.0.1",
        "127.1.2.3:9999",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254:80",
        "[fe80::1]",
        "224.0.1.75",
        "239.1.2.3",
        "[ff02::1]",
        "203.0.113.10",
        "203.0.113.10:22",
        "203.0.113.99",
        "10.0.1.10:5060",
        "10.0.1.10:8080",
        "[2001:db8:f::10]:161",
        "10.0.10.11",
        "10.0.10.12:5060",
        "10.0.10.12:22",
        "[::ffff:10.0.10.12]",
    ] {
        let direct = request("INVITE", &format!("sip:u@{host}"), &[]);
        assert_eq!(from_server(&mut node, &direct, "forbidden_target").status(), Some(403), "{host}");
        let maddr = request("INVITE", &format!("sip:u@192.0.2.1:5099;maddr={}", host.split("]:").next().unwrap()), &[]);
        if !host.contains(':') {
            assert_eq!(from_server(&mut node, &maddr, "forbidden_target").status(), Some(403), "maddr {host}");
        }
        // A Route to ourselves is taken off; one to another is followed.
        let route = format!("Route: <sip:{host};lr>");
        let routed = request("INVITE", "sip:u@name.example", &[&route]);
        let refused = node.receive(addr(SERVER), addr(INSIDE), &routed);
        assert!(matches!(refused.status(), Some(403 | 404)), "{host}: {refused:?}");
        node.now.0 += 1_000_000_000;
    }
}

#[test]
fn a_server_s_request_to_nowhere_or_to_a_name_is_unknown() {
    let mut node = Node::new(CONFIG);
    for host in ["0.0.0.0", "0.1.2.3", "255.255.255.255", "240.0.0.1", "192.0.2.1:0", "[::]"] {
        let bye = request("BYE", &format!("sip:u@{host}"), &[]);
        assert_eq!(from_server(&mut node, &bye, "bad_destination").status(), Some(404), "{host}");
    }
    for uri in ["sip:u@name.example", "sips:u@name.example", "tel:+2348012345", "sip:u@1.2.3", "sip:[::1:junk]"] {
        assert_eq!(from_server(&mut node, &request("BYE", uri, &[]), "unknown_target").status(), Some(404), "{uri}");
    }
}

/// The server hears at once, and asks elsewhere (RFC 3261 §16.9).
#[test]
fn a_server_s_request_that_no_socket_of_ours_can_send_is_answered() {
    let mut node = Node::new(&CONFIG.replace(", \"udp://[2001:db8:f::10]:5060\"", ""));
    let invite = request("INVITE", "sip:u@[2001:db8::77]", &[]);
    assert_eq!(from_server(&mut node, &invite, "no_socket").status(), Some(503));
}

/// The token's flow, or what the message says: by whether the client is behind NAT, and whether it says an address.
#[test]
fn a_token_leads_to_the_flow_where_only_the_flow_reaches_the_client() {
    let mut node = Node::new(CONFIG);
    let path = |nat: bool| Sealed { nat, ..sealed(SealedIn::Path, "pbx/k", addr(OUTSIDE), addr(PHONE)) };
    for (nat, uri, more, to) in [
        (true, "sip:u@192.0.2.50", "", PHONE),
        (true, "sip:u@127.0.0.1", "", PHONE),
        (true, "sip:u@192.0.2.50", ", <sip:192.0.2.60;lr>", PHONE),
        (false, "sip:u@192.0.2.50", "", "192.0.2.50:5060"),
        (false, "sip:u@192.0.2.50", ", <sip:192.0.2.60;lr>", "192.0.2.60:5060"),
        (false, "sip:u@name.example", "", PHONE),
        (false, "sip:u@192.0.2.50", ", <sip:name.example;lr>", PHONE),
        (false, "sip:u@203.0.113.10", "", PHONE),
        (false, "sip:u@10.0.1.10:5060", "", PHONE),
        (false, "tel:+234", "", PHONE),
    ] {
        let route = format!("Route: <sip:{}@{INSIDE};lr>{more}", token(&node.keys, "any", &path(nat)));
        let sent = from_server(&mut node, &request("INVITE", uri, &[&route]), "requests_to_clients");
        assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr(to)), "{nat} {uri}{more}");
    }
    let route = format!("Route: <sip:{}@{INSIDE};lr>", token(&node.keys, "any", &path(false)));
    let inside = request("INVITE", "sip:u@10.0.10.12:22", &[&route]);
    assert_eq!(from_server(&mut node, &inside, "forbidden_target").status(), Some(403));
}

/// A trunk behind NAT that never registered, and names an address of its own network: from a public address only the flow leads there.
#[test]
fn a_called_client_that_names_an_address_of_its_own_network_is_reached_by_its_flow() {
    let mut node = Node::new(CONFIG);
    let lan = "192.168.7.5:5060";
    for (flow, contact, more, to) in [
        (PHONE, lan, "", PHONE),
        (PHONE, "100.64.1.2:5060", "", PHONE),
        (PHONE, lan, ", <sip:192.168.7.9;lr>", "192.168.7.9:5060"),
        ("10.9.9.9:5060", lan, "", lan),
    ] {
        let sealed = Sealed { nat: false, ..sealed(SealedIn::RecordRoute, "pbx/k", addr(OUTSIDE), addr(flow)) };
        let route = format!("Route: <sip:{}@{INSIDE};lr>{more}", token(&node.keys, CALL, &sealed));
        let ack = request("ACK", &format!("sip:u@{contact}"), &[&route, "To: <sip:100@sip.example.ng>;tag=t1"]);
        assert_eq!(from_server(&mut node, &ack, "requests_to_clients").to(), addr(to), "{flow} {contact}{more}");
    }
}

/// Without rport, responses go to the port of sent-by (RFC 3261 §18.2.2), whatever port it sends from; so does what its server asks.
#[test]
fn a_client_that_listens_at_another_port_than_it_sends_from_is_asked_where_it_listens() {
    let mut node = Node::new(CONFIG);
    let (sends, listens) = (addr("198.51.100.7:41000"), addr("198.51.100.7:5070"));
    for (lines, nat) in [
        (vec![format!("Via: SIP/2.0/UDP {listens};branch=z9hG4bKb1")], false),
        (vec![format!("Via: SIP/2.0/UDP {listens};branch=z9hG4bKb2;rport"), "Call-ID: 2@phone".into()], true),
    ] {
        let mut lines: Vec<_> = lines.iter().map(String::as_str).collect();
        lines.push("Contact: <sip:gw@gw.example.com>");
        let sent = feed(&mut node, sends, addr(OUTSIDE), &request("INVITE", URI, &lines), "requests_to_servers");
        let server = sent.to();
        let recorded: Vec<_> = headers(&sent.text(), "Record-Route").map(|route| format!("Route: {route}")).collect();
        let mut lines = vec!["To: <sip:100@sip.example.ng>;tag=t1", "CSeq: 2 BYE"];
        lines.extend(recorded.iter().map(String::as_str));
        if nat {
            lines.push("Call-ID: 2@phone");
        }
        let bye = node.receive(server, addr(INSIDE), &request("BYE", "sip:gw@gw.example.com", &lines));
        assert_eq!(bye.to(), if nat { sends } else { listens });
    }
}

#[test]
fn a_token_of_a_frontend_that_is_gone_leaves_by_the_first_that_is_left() {
    let mut node = Node::new(CONFIG);
    let mut sealed = sealed(SealedIn::Path, "pbx/k", addr("203.0.113.77:5060"), addr(PHONE));
    sealed.frontend = NameHash::of("gone");
    let route = format!("Route: <sip:{}@{INSIDE};lr>", token(&node.keys, "any", &sealed));
    let sent = from_server(&mut node, &request("INVITE", URI, &[&route]), "requests_to_clients");
    assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr(PHONE)));
}

/// Whoever is not a configured server only ever reaches configured servers.
#[test]
fn a_stranger_s_request_goes_to_a_server_whatever_it_names() {
    let mut node = Node::new(CONFIG);
    let path = token(&node.keys, CALL, &sealed(SealedIn::Path, "pbx/k", addr(OUTSIDE), addr("192.0.2.66:5060")));
    let strangers: [SocketAddr; 3] = [addr(PHONE), addr("10.0.10.11:5061"), addr("10.0.10.13:5060")];
    for from in strangers {
        for (uri, route) in [
            ("sip:u@192.0.2.50", "<sip:192.0.2.60;lr>".to_owned()),
            ("sip:u@127.0.0.1", format!("<sip:{path}@{INSIDE};lr>")),
            ("sip:u@10.0.1.10;maddr=192.0.2.1", "<sip:192.0.2.60>".to_owned()),
        ] {
            let route = format!("Route: {route}");
            let sent = feed(&mut node, from, addr(OUTSIDE), &request("INVITE", uri, &[&route]), "requests_to_servers");
            assert!(SERVERS.iter().any(|(_, address)| addr(address) == sent.to()), "{uri}");
        }
    }
}

/// A gateway beside a server, with its address: where we know its flow nobody makes us turn against the inside.
#[test]
fn who_called_from_a_server_s_host_hears_its_dialog() {
    let mut node = Node::new(CONFIG);
    let gateway = addr("10.0.10.12:5080");
    let via = format!("Via: SIP/2.0/UDP {gateway};branch=z9hG4bKg1");
    let invite = request("INVITE", URI, &[&via, &format!("Contact: <sip:g@{gateway}>")]);
    let sent = node.receive(gateway, addr(OUTSIDE), &invite);
    let recorded: Vec<_> = headers(&sent.text(), "Record-Route").map(|route| format!("Route: {route}")).collect();
    let mut lines = vec!["To: <sip:100@sip.example.ng>;tag=t1", "CSeq: 2 BYE"];
    lines.extend(recorded.iter().map(String::as_str));
    let server = sent.to();
    let bye = node.receive(server, addr(INSIDE), &request("BYE", &format!("sip:g@{gateway}"), &lines));
    assert_eq!((bye.to(), bye.from()), (gateway, addr(OUTSIDE)));
    // Another port there is none that we sealed.
    let other = node.receive(server, addr(INSIDE), &request("BYE", "sip:g@10.0.10.12:5081", &lines));
    assert_eq!(other.status(), Some(403));
}

/// Where clients are spoken to over UDP alone and servers over TCP, nobody is asked by TCP from the inside address.
#[test]
fn what_only_servers_are_spoken_to_by_is_tried_by_datagrams() {
    let config = "[[frontend]]\nname = \"sip\"\nbind = \"udp://203.0.113.10:5060\"\ninside = \"10.0.1.10\"\nbackend = \"pbx\"\n\
        [[backend]]\nname = \"pbx\"\n[[backend.server]]\nname = \"k\"\naddress = \"udp://10.0.10.11:5060\"\n\
        [[backend.server]]\nname = \"t\"\naddress = \"tcp://10.0.10.12:5060\"\n";
    let mut node = Node::new(config);
    let invite = request("INVITE", "sip:u@192.0.2.50;transport=tcp", &["Via: SIP/2.0/UDP 10.0.10.11;branch=z9hG4bKs1"]);
    let sent = from_server(&mut node, &invite, "requests_to_clients");
    assert_eq!((sent.from(), sent.to()), (addr(OUTSIDE), addr("192.0.2.50:5060")));
}
