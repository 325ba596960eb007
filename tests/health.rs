//! What the real process notices of servers while calls are running.

mod support;

use std::collections::BTreeSet;
use std::net::UdpSocket;

use support::calls::response;
use support::process::{DEADLINE, wait_for};
use support::regions::{Net, SERVERS, answer};
use trunkline::load::{Behaviour, Generator, Mix, Timers};

/// Checks wait longer than calls do: what is noticed first is noticed by these.
const SELDOM: &str = "check = { interval = \"5s\", timeout = \"4s\", fast_interval = \"200ms\" }";

/// A server with a congested trunk: 503 for every call that goes there, 200 for all else, checks too.
fn congested(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut datagram = [0; 65_535];
        while let Ok((len, from)) = socket.recv_from(&mut datagram) {
            let request = String::from_utf8(datagram[..len].to_vec()).unwrap();
            let status = if request.contains(" sip:234") { "503 Service Unavailable" } else { "200 OK" };
            if !request.starts_with("ACK") {
                socket.send_to(&response(&request, status, &[]), from).unwrap();
            }
        }
    });
}

#[test]
fn a_congested_trunk_refuses_no_other_call() {
    let net = Net(114);
    let addresses = net.servers();
    addresses.iter().for_each(|address| congested(UdpSocket::bind(address).unwrap()));
    let (mut balancer, at) = net.balance(&addresses, "");
    let client = UdpSocket::bind((net.ip(130), 0)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    // The status of a call's answer.
    let call = |number: usize, user: &str| {
        let invite = format!(
            "INVITE sip:{user}@sip.example.ng SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK{number};rport\r\n\
             From: <sip:a@sip.example.ng>;tag={number}\r\nTo: <sip:{user}@sip.example.ng>\r\nCall-ID: {number}@congested\r\n\
             CSeq: 1 INVITE\r\nContact: <sip:a@{at}>\r\nContent-Length: 0\r\n\r\n",
            at = client.local_addr().unwrap()
        );
        client.send_to(invite.as_bytes(), at).unwrap();
        let mut answer = [0; 4_096];
        let len = client.recv(&mut answer).unwrap();
        String::from_utf8(answer[8..len.min(11)].to_vec()).unwrap()
    };
    for number in (0..400).step_by(2) {
        assert_eq!(call(number, "23480"), "500", "rule 18");
        assert_eq!(call(number + 1, "100"), "200", "call {number}");
    }
    let mut resting = BTreeSet::new();
    while resting.len() < SERVERS.len() {
        let line = balancer.process.line_with("answered a request with 503");
        resting.extend(SERVERS.iter().position(|(name, _)| line.contains(name)));
    }
    balancer.stop();
}

#[test]
fn a_server_that_hangs_is_suspected_by_its_silence_and_no_call_is_lost() {
    let net = Net(71);
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().zip(addresses).map(|((name, _), address)| (*name, address)).collect();
    let servers = answer(&named, Timers::default());
    let (mut balancer, at) = net.balance(&addresses, SELDOM);
    let mut options = net.callers(at, 6_000, 300.0);
    options.habits.mix = Mix::parse("call=1").unwrap();
    let calls = Generator::start(options).unwrap();
    wait_for("calls to run", || calls.report().total().answered > 100);
    let hung = servers.server("lagos-2").unwrap();
    hung.behave(Behaviour::Silent);
    let suspected = balancer.process.turns("pbx/lagos-2", "suspect");
    assert!(suspected.contains("answers none of the requests"), "{suspected}");
    balancer.process.turns("pbx/lagos-2", "dead");
    let sent = hung.counters.new_calls.get();
    hung.behave(Behaviour::Normal);
    balancer.process.turns("pbx/lagos-2", "up");
    wait_for("it gets calls again", || hung.counters.new_calls.get() > sent);
    let report = calls.finish().unwrap();
    let total = report.total();
    assert_eq!((total.lost, total.refused_total()), (0, 0), "{report}");
    servers.stop().unwrap();
    balancer.stop();
}
