//! System calls per message: counts, not times. A burst that is queued goes through in whole batches both ways.

mod support;

use std::net::SocketAddr;
use std::process::Command;

use nix::sys::signal::Signal;
use support::process::{Balancer, has_stopped, program, wait_for};
use support::workers::{bound, free_port};

const DATAGRAMS: usize = 640;

fn options(number: usize) -> String {
    format!(
        "OPTIONS sip:100@sim.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.2:5060;branch=z9hG4bK{number:x};rport\r\n\
         From: <sip:a@sim.example>;tag={number:x}\r\nTo: <sip:100@sim.example>\r\nCall-ID: {number:x}@burst\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// The process that strace started, by its parent.
fn traced(strace: u32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_queued_burst_costs_at_most_eleven_calls_each_way() {
    let (server, client, port) = (bound("127.0.3.51:0"), bound("127.0.1.51:0"), free_port("127.0.2.51"));
    let config = format!(
        "[[frontend]]\nname = \"f\"\nbind = \"udp://127.0.2.51:{port}\"\ninside = \"127.0.2.52\"\nbackend = \"b\"\n\
         [[backend]]\nname = \"b\"\ncheck = {{ type = \"none\" }}\n[[backend.server]]\nname = \"s\"\naddress = \"udp://{}\"\n",
        server.local_addr().unwrap()
    );
    // An independent witness counts, not the code that is counted.
    let trace = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=recvmmsg,sendmmsg", "-e", "abbrev=all", "-o"]).arg(trace.path()).arg(program());
    let balancer = Balancer::start_under(strace, 1, &config);
    let pid = traced(balancer.process.child.id()).expect("strace has a child");
    let process = nix::unistd::Pid::from_raw(pid);
    // Everything is queued before the worker sees any of it.
    nix::sys::signal::kill(process, Signal::SIGSTOP).unwrap();
    wait_for("the balancer stops", || has_stopped(pid));
    let calls = |name: &str| std::fs::read_to_string(trace.path()).unwrap().matches(name).count();
    let before = [calls("recvmmsg("), calls("sendmmsg(")];
    for number in 0..DATAGRAMS {
        client.send_to(options(number).as_bytes(), SocketAddr::new("127.0.2.51".parse().unwrap(), port)).unwrap();
    }
    nix::sys::signal::kill(process, Signal::SIGCONT).unwrap();
    let mut datagram = [0; 4096];
    for _ in 0..DATAGRAMS {
        server.recv(&mut datagram).expect("every datagram reached the server");
    }
    wait_for("the worker finds its socket empty", || calls("EAGAIN") > 0);
    let [receives, sends] = [calls("recvmmsg(") - before[0], calls("sendmmsg(") - before[1]];
    println!("{receives} recvmmsg and {sends} sendmmsg for {DATAGRAMS} datagrams");
    assert!(sends >= DATAGRAMS / 64 && receives <= 11 && sends <= 11, "{receives} recvmmsg, {sends} sendmmsg");
    nix::sys::signal::kill(process, Signal::SIGTERM).unwrap();
}
