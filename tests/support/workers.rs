//! The real workers with real sockets, inside the test's own process.

use std::collections::HashMap;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::Socket;
use trunkline::config::Config;
use trunkline::net::inherit::Inherited;
use trunkline::net::tls::Tls;
use trunkline::net::worker::Setup;
use trunkline::net::{host, socket};
use trunkline::state::snapshot::Ingredients;
use trunkline::state::{Shared, Snapshot};

use super::core::golden_keys;
use super::process::nobody_begins;

/// Opens the sockets of a configuration for so many workers; nobody reads them yet.
pub fn prepare(config: &Config, workers: usize, pins: usize) -> (Setup, Vec<Vec<Socket>>) {
    let (host, states) = (host::ask(config, 1), HashMap::new());
    let ingredients = Ingredients { config, keys: golden_keys(), host: &host, states: &states, workers };
    let snapshot = Snapshot::build(&ingredients, None);
    let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (at, bind) in snapshot.binds.iter().enumerate() {
        let opened = socket::open(bind, workers, &snapshot.binds[..at], &mut Inherited::default()).unwrap();
        sockets.iter_mut().zip(opened.sockets).for_each(|(worker, socket)| worker.push(socket));
    }
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    let tls = Arc::new(Tls::load(config).unwrap());
    (Setup { snapshot, shared: Arc::new(Shared::new(pins, workers)), woken: Arc::default(), tls }, sockets)
}

/// A socket with room for hundreds of datagrams, and a deadline.
pub fn bound(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The default holds fewer datagrams than are outstanding here.
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    socket
}

/// A port that is free on this address, over UDP and TCP. Never one that the kernel gives to whoever asks for any: a server
/// that ends and comes back would find it taken. Tests that run side by side begin to look in different places.
pub fn free_port(ip: &str) -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let kernels = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u32 = kernels.split_whitespace().next().unwrap().parse().unwrap();
    let own = first - 10_000;
    // A prime, so that neighbours among processes are far apart.
    let start = std::process::id().wrapping_mul(7_919);
    let next = || GIVEN.fetch_add(1, Ordering::Relaxed);
    let mut ports = std::iter::repeat_with(|| (10_000 + start.wrapping_add(next()) % own) as u16).take(own as usize);
    let _alone = nobody_begins();
    let free = |port: &u16| UdpSocket::bind((ip, *port)).is_ok() && TcpListener::bind((ip, *port)).is_ok();
    ports.find(free).unwrap()
}
