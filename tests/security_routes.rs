//! Requests and answers of strangers that try to steer: Route, Request-URI, Via. Clients reach servers only, and answers
//! go where the request came from.

mod support;

use std::net::{SocketAddr, UdpSocket};

use support::calls::{request, response};
use support::lines::header;
use support::wire::{Wire, heard, take, via};
use support::workers::bound;

/// Places that nobody outside may send us to: a third party, a server, ourselves on both sides, this host, everybody.
fn forbidden(wire: &Wire, this_host: &UdpSocket) -> Vec<SocketAddr> {
    let sockets =
        [&wire.third, &wire.servers[0], &wire.servers[4], this_host].map(|socket| socket.local_addr().unwrap());
    let everybody = ["255.255.255.255:5060", "224.0.1.75:5060", "169.254.169.254:80", "0.0.0.0:5060"];
    sockets.into_iter().chain([wire.outside, wire.inside]).chain(everybody.map(|text| text.parse().unwrap())).collect()
}

/// The ways to name a place in a request: its Request-URI and its Route lines.
fn ways(wire: &Wire, to: SocketAddr) -> Vec<(String, Vec<String>)> {
    let (ip, port, us) = (to.ip(), to.port(), wire.outside);
    let plain = "sip:100@sip.example.ng".to_owned();
    let routes = [
        vec![format!("<sip:{to};lr>")],
        vec![format!("<sip:x@{to};lr>, <sip:{us};lr>")],
        vec![format!("<sip:{us};lr>"), format!("<sip:{to};lr>")],
        vec![format!("<sip:sip.example.org:{port};lr;maddr={ip}>")],
        vec![format!("<sip:{us};lr;maddr={ip}>")],
        // A strict router, which becomes the Request-URI.
        vec![format!("<sip:x@{to}>")],
        vec![format!("<sip:{us};lr>, <sip:x@{to}>")],
        vec![format!("<sips:{to};lr;transport=tcp>")],
    ];
    let uris = [
        format!("sip:x@{to}"),
        format!("sip:{to};lr"),
        format!("sip:x@sip.example.org:{port};maddr={ip}"),
        format!("sip:x@{us};maddr={ip}"),
        format!("sips:{to};transport=tcp"),
    ];
    let by_route = routes.into_iter().map(|lines| (plain.clone(), lines));
    by_route.chain(uris.into_iter().map(|uri| (uri, Vec::new()))).collect()
}

fn steered(from: &UdpSocket, call_id: &str, method: &str, uri: &str, routes: &[String]) -> Vec<u8> {
    let mut lines = vec![via(from, 1), format!("Call-ID: {call_id}")];
    lines.extend(routes.iter().map(|route| format!("Route: {route}")));
    request(method, uri, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn whatever_a_client_s_request_names_only_its_call_s_server_gets_it() {
    let wire = Wire::new(71, 10_000, "");
    let this_host = bound("127.0.0.1:0");
    let mut number = 0;
    for to in forbidden(&wire, &this_host) {
        for (uri, routes) in ways(&wire, to) {
            for method in ["INVITE", "BYE", "REGISTER"] {
                number += 1;
                let (client, call_id) = (wire.client(), format!("steered-{number}"));
                let text = steered(&client, &call_id, method, &uri, &routes);
                let (server, _) = wire.reaches(&client, &text);
                assert_eq!(server, wire.by_hash(&call_id), "{}", text.escape_ascii());
            }
        }
    }
    assert!(number > 350 && take(&this_host).is_none());
}

#[test]
fn a_server_s_request_is_not_sent_to_the_inside_to_ourselves_or_to_everybody() {
    let wire = Wire::new(72, 10_000, "");
    let (this_host, mut number) = (bound("127.0.0.1:0"), 0);
    for to in forbidden(&wire, &this_host) {
        for (uri, routes) in ways(&wire, to) {
            let from = wire.of_server(1, number);
            number += 1;
            let text = steered(&from, &format!("steered-{number}"), "INVITE", &uri, &routes);
            // Routes of ours are taken off, whatever `maddr` stands behind them, and what is left is a name.
            let own = |value: &str| {
                [wire.outside, wire.inside]
                    .iter()
                    .any(|own| value.contains(&format!("{own};")) || value.contains(&format!("@{own}>")))
            };
            let only_ours = routes.iter().flat_map(|line| line.split(", ")).all(own);
            match to.ip().to_string().as_str() {
                _ if only_ours && !routes.is_empty() => {
                    wire.refused(&from, wire.inside, &text, "unknown_target", "404")
                }
                // Nobody has such an address: there is nothing to forbid.
                "0.0.0.0" | "255.255.255.255" => wire.refused(&from, wire.inside, &text, "bad_destination", "404"),
                _ => wire.refused(&from, wire.inside, &text, "forbidden_target", "403"),
            }
        }
    }
    assert!(take(&this_host).is_none());
}

/// Vias of a client that would like its answers to go to somebody else.
fn spoofed(third: SocketAddr) -> [String; 8] {
    let (ip, port) = (third.ip(), third.port());
    [
        format!("SIP/2.0/UDP 192.168.1.20;branch=z9hG4bKs;received={ip};rport={port}"),
        format!("SIP/2.0/UDP {third};branch=z9hG4bKs;rport"),
        format!("SIP/2.0/UDP {third};branch=z9hG4bKs"),
        format!("SIP/2.0/UDP {third};branch=z9hG4bKs;maddr={ip};ttl=1"),
        format!("SIP/2.0/UDP {third};maddr={ip};received={ip};rport={port};branch=z9hG4bKs"),
        format!("SIP/2.0/UDP 192.168.1.20:{port};rport={port};received=\"{ip}\";branch=z9hG4bKs"),
        format!("SIP/2.0/UDP 192.168.1.20;branch=z9hG4bKs;rport\r\nVia: SIP/2.0/UDP {third};branch=z9hG4bKt"),
        format!("SIP/2.0/UDP 192.168.1.20;branch=z9hG4bKs, SIP/2.0/UDP {third};branch=z9hG4bKt;received={ip}"),
    ]
}

#[test]
fn answers_go_where_the_request_came_from_whatever_its_via_says() {
    let wire = Wire::new(73, 10_000, "");
    for (number, spoofed) in spoofed(wire.third.local_addr().unwrap()).iter().enumerate() {
        let (client, via) = (wire.client(), format!("Via: {spoofed}"));
        let call = format!("Call-ID: spoofed-{number}");
        let lines = [via.as_str(), &call];
        let no_hops = request("INVITE", "sip:100@sip.example.ng", &[&lines[..], &["Max-Forwards: 0"]].concat());
        wire.refused(&client, wire.outside, &no_hops, "too_many_hops", "483");
        let (server, forwarded) = wire.reaches(&client, &request("INVITE", "sip:100@sip.example.ng", &lines));
        let stamped = format!("received={}", client.local_addr().unwrap().ip());
        assert!(forwarded.contains(&stamped), "{forwarded}");
        // With the way in our Via, and from a server that lost it.
        let answer = String::from_utf8(response(&forwarded, "200 OK", &[])).unwrap();
        let way = header(&forwarded, "Via").find(";w=").map(|at| &header(&forwarded, "Via")[at..]).expect("our way");
        for answer in [answer.clone(), answer.replace(way, "")] {
            wire.expect(&[("responses_to_clients", 1)], &answer, || {
                wire.servers[server].send_to(answer.as_bytes(), wire.inside).unwrap();
            });
            assert_eq!(heard(&client, "the answer").1, wire.outside);
            wire.nobody_hears(&[&client], &answer);
        }
    }
}

/// Where nobody asks for the source port it is the sent-by port, of the source's own address.
#[test]
fn a_client_chooses_the_port_of_its_answers_and_never_the_address() {
    let wire = Wire::new(74, 10_000, "force_rport = \"never\"");
    let (client, third) = (wire.client(), wire.third.local_addr().unwrap());
    let beside = bound(&format!("{}:{}", client.local_addr().unwrap().ip(), third.port()));
    let lines =
        [format!("Via: SIP/2.0/UDP {third};branch=z9hG4bKs;maddr={}", third.ip()), "Max-Forwards: 0".to_owned()];
    let text = request("INVITE", "sip:100@sip.example.ng", &[&lines[0], &lines[1]]);
    wire.expect(&[("too_many_hops", 1)], "a Via of a third party", || {
        client.send_to(&text, wire.outside).unwrap();
    });
    assert!(heard(&beside, "the refusal").0.starts_with("SIP/2.0 483 "));
    wire.nobody_hears(&[&client, &beside], "a Via of a third party");
}
