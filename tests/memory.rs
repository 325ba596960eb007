//! How much memory the real process has: at rest, and with a million pinned calls (memory is bounded by configuration).

mod support;

use std::net::UdpSocket;

use support::nigeria::{Nigeria, file};
use support::process::Balancer;
use support::workers::bound;

const CALLS: usize = 1_000_000;
/// Outstanding at once: less than the kernel's buffers hold, so that none is lost.
const WINDOW: usize = 200;
const MEGABYTE: u64 = 1 << 20;

/// What an idle node may have resident.
const IDLE: u64 = 25 * MEGABYTE;
/// What a million calls may add: sixteen bytes for each of two million slots, and the workers' buffers.
const PINNED: u64 = 64 * MEGABYTE;
/// What they must add, or nothing was pinned: a key and a value for each.
const PINS: u64 = 16 * CALLS as u64;

/// A figure of /proc/PID/status, in bytes.
fn status(balancer: &Balancer, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", balancer.process.child.id())).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn resident(balancer: &Balancer, when: &str) -> u64 {
    let [all, anonymous, file] = ["VmRSS:", "RssAnon:", "RssFile:"].map(|name| status(balancer, name));
    println!("{when}: {} KB resident, {} KB anonymous, {} KB of files", all >> 10, anonymous >> 10, file >> 10);
    all
}

fn invite(number: usize) -> String {
    format!(
        "INVITE sip:100@sip.example.ng SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.2:5060;branch=z9hG4bK{number:x};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:a@sip.example.ng>;tag={number:x}\r\nTo: <sip:100@sip.example.ng>\r\n\
         Call-ID: {number:016x}@memory\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Takes what waits at the servers, until it is so much.
fn take(servers: &[UdpSocket], mut count: usize) {
    let mut datagram = [0; 4096];
    support::process::wait_for("the INVITEs to reach the servers", || {
        for server in servers {
            while server.recv(&mut datagram).is_ok() {
                assert!(datagram.starts_with(b"INVITE "));
                count = count.checked_sub(1).expect("each INVITE arrives once");
            }
        }
        count == 0
    });
}

/// Opens this many calls; every one reaches a server, which does not answer.
fn open(nigeria: &Nigeria, clients: &[UdpSocket], calls: std::ops::Range<usize>) {
    let (outside, _) = nigeria.addresses(1);
    for start in calls.clone().step_by(WINDOW) {
        let end = calls.end.min(start + WINDOW);
        for number in start..end {
            clients[number % clients.len()].send_to(invite(number).as_bytes(), outside).unwrap();
        }
        take(&nigeria.servers, end - start);
    }
}

#[test]
fn an_idle_node_is_small_and_a_million_calls_add_what_the_pin_table_says() {
    let (nigeria, text) = (Nigeria::new(61), file());
    assert!(text.contains("size = 1_000_000"), "the table of the production file holds a million pins");
    let balancer = nigeria.start(1, 4, &text);
    nigeria.servers.iter().for_each(|server| server.set_nonblocking(true).unwrap());
    let clients: Vec<_> = (0..32).map(|n| bound(&format!("127.61.1.{}:0", 1 + n))).collect();
    let idle = resident(&balancer, "idle");
    assert!(idle < IDLE, "{idle} bytes at rest");
    open(&nigeria, &clients, 0..CALLS);
    let full = resident(&balancer, "with a million calls");
    let added = full - idle;
    println!("a million calls added {} KB", added >> 10);
    assert!((PINS..PINNED).contains(&added), "{added} bytes for {CALLS} calls");
    // Every page of the table is touched by now. Buffers are touched when many datagrams wait, which may be once more: what
    // grows with calls grows each time.
    let (mut before, mut grown) = (full, Vec::new());
    let grows = (4..8).all(|quarter| {
        open(&nigeria, &clients, quarter * CALLS / 4..(quarter + 1) * CALLS / 4);
        let now = resident(&balancer, "with a quarter more");
        grown.push(now.saturating_sub(before));
        before = now;
        grown.last() >= Some(&MEGABYTE)
    });
    assert!(!grows, "{grown:?} bytes more: nothing grows with calls");
    balancer.stop();
}
