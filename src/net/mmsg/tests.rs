//! Through real loopback sockets: what the kernel overwrites must be primed anew.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::*;

const SLOT: usize = 70_000;

fn socket(address: &str) -> UdpSocket {
    UdpSocket::bind(address).unwrap()
}

fn slot(n: usize) -> Range<usize> {
    n * SLOT..(n + 1) * SLOT
}

/// Receives until `count` datagrams came, each as its bytes and arrival.
fn receive(inbox: &mut Inbox, socket: &UdpSocket, pktinfo: bool, count: usize) -> Vec<(Vec<u8>, Arrival)> {
    let mut memory = vec![0; BATCH * SLOT];
    let mut all = Vec::new();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while all.len() < count {
        assert!(std::time::Instant::now() < deadline, "{} of {count} came", all.len());
        match inbox.receive(socket.as_fd(), pktinfo, &mut memory, slot) {
            Ok(n) => all.extend((0..n).map(|n| {
                let arrival = inbox.arrival(n).unwrap();
                (memory[slot(n)][..arrival.len].to_vec(), arrival)
            })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    all
}

#[test]
fn a_batch_goes_out_and_comes_in_whole() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (a, b) = (socket(address), socket(address));
        let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
        let memory: Vec<u8> = (0..BATCH as u8).flat_map(|n| vec![n; usize::from(n) + 1]).collect();
        let mut at = 0;
        for n in 0..BATCH {
            outbox.push(at..at + n + 1, b.local_addr().unwrap(), None);
            at += n + 1;
        }
        assert_eq!(outbox.send(a.as_fd(), &memory, 0).unwrap(), BATCH);
        for (n, (bytes, arrival)) in receive(&mut inbox, &b, false, BATCH).into_iter().enumerate() {
            assert_eq!(bytes, vec![n as u8; n + 1]);
            assert_eq!((arrival.remote, arrival.local, arrival.truncated), (a.local_addr().unwrap(), None, false));
        }
    }
}

/// The defect of nix's wrapper: after a datagram without control message a slot would never get one again.
#[test]
fn slots_get_their_control_messages_after_datagrams_without() {
    let wildcard = socket("0.0.0.0:0");
    nix::sys::socket::setsockopt(&wildcard, nix::sys::socket::sockopt::Ipv4PacketInfo, &true).unwrap();
    let plain = socket("127.0.0.1:0");
    let sender = socket("127.0.0.1:0");
    let mut inbox = Inbox::default();
    for round in 0..3u8 {
        sender.send_to(&[round], plain.local_addr().unwrap()).unwrap();
        assert_eq!(receive(&mut inbox, &plain, false, 1)[0].1.local, None);
        let to = SocketAddr::new("127.0.0.77".parse().unwrap(), wildcard.local_addr().unwrap().port());
        sender.send_to(&[round], to).unwrap();
        let (bytes, arrival) = receive(&mut inbox, &wildcard, true, 1).remove(0);
        assert_eq!((bytes, arrival.local), (vec![round], Some("127.0.0.77".parse().unwrap())));
    }
}

#[test]
fn a_wildcard_socket_sends_from_the_address_it_is_told() {
    for (wildcard, source, receiver) in [("0.0.0.0:0", "127.0.0.99", "127.0.0.1:0"), ("[::]:0", "::1", "[::1]:0")] {
        let (wildcard, receiver) = (socket(wildcard), socket(receiver));
        let mut outbox = Outbox::default();
        outbox.push(0..2, receiver.local_addr().unwrap(), Some(source.parse().unwrap()));
        outbox.push(0..2, receiver.local_addr().unwrap(), None);
        assert_eq!(outbox.send(wildcard.as_fd(), b"hi", 0).unwrap(), 2);
        let came = receive(&mut Inbox::default(), &receiver, false, 2);
        assert_eq!(came[0].1.remote.ip(), source.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn a_datagram_longer_than_its_slot_is_told() {
    let (a, b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    a.send_to(&[7; 100], b.local_addr().unwrap()).unwrap();
    let mut memory = vec![0; BATCH * 10];
    let mut inbox = Inbox::default();
    let received = inbox.receive(b.as_fd(), false, &mut memory, |n| n * 10..(n + 1) * 10).unwrap();
    assert_eq!((received, inbox.arrival(0).map(|a| (a.len, a.truncated))), (1, Some((10, true))));
    // The largest that UDP carries fits.
    a.send_to(&[7; 65_507], b.local_addr().unwrap()).unwrap();
    assert_eq!(receive(&mut inbox, &b, false, 1)[0].0.len(), 65_507);
}

#[test]
fn an_icmp_error_in_the_middle_of_a_batch_costs_nobody_else_a_datagram() {
    let sender = socket("127.0.0.1:0");
    nix::sys::socket::setsockopt(&sender, nix::sys::socket::sockopt::Ipv4RecvErr, &true).unwrap();
    let (good, gone) = (socket("127.0.0.1:0"), socket("127.0.0.1:0").local_addr().unwrap());
    let mut outbox = Outbox::default();
    for n in 0..BATCH {
        outbox.push(n..n + 1, if n == 20 { gone } else { good.local_addr().unwrap() }, None);
    }
    let memory: Vec<u8> = (0..BATCH as u8).collect();
    let (mut at, mut errors) = (0, Vec::new());
    while at < outbox.len() {
        match outbox.send(sender.as_fd(), &memory, at) {
            Ok(sent) => at += sent,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
                while let Some(error) = take_error(sender.as_fd()) {
                    errors.push(error);
                }
            }
        }
    }
    while let Some(error) = take_error(sender.as_fd()) {
        errors.push(error);
    }
    let [(remote, error)] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((*remote, error.raw_os_error()), (Some(gone), Some(libc::ECONNREFUSED)));
    let came: Vec<u8> =
        receive(&mut Inbox::default(), &good, false, BATCH - 1).into_iter().map(|(bytes, _)| bytes[0]).collect();
    assert_eq!(came, memory.iter().copied().filter(|n| *n != 20).collect::<Vec<_>>());
}

#[test]
fn the_kernel_s_drops_are_counted() {
    let (a, b) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    nix::sys::socket::setsockopt(&b, nix::sys::socket::sockopt::RcvBuf, &4096).unwrap();
    assert_eq!(kernel_drops(b.as_fd()), Some(0));
    for _ in 0..100 {
        a.send_to(&[0; 1000], b.local_addr().unwrap()).unwrap();
    }
    let mut inbox = Inbox::default();
    let mut memory = vec![0; BATCH * SLOT];
    let received = inbox.receive(b.as_fd(), false, &mut memory, slot).unwrap();
    assert_eq!(kernel_drops(b.as_fd()), Some(100 - received as u32));
}
