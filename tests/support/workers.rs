//! The real workers with real sockets, inside the test's own process.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::Socket;
use trunkline::config::Config;
use trunkline::net::worker::Setup;
use trunkline::net::{host, socket};
use trunkline::state::snapshot::Ingredients;
use trunkline::state::{Shared, Snapshot};

use super::core::golden_keys;

/// Opens the sockets of a configuration for so many workers; nobody reads them yet.
pub fn prepare(config: &Config, workers: usize, pins: usize) -> (Setup, Vec<Vec<Socket>>) {
    let (host, states) = (host::ask(config, 1), HashMap::new());
    let ingredients = Ingredients { config, keys: golden_keys(), host: &host, states: &states, workers };
    let snapshot = Snapshot::build(&ingredients, None);
    let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (at, bind) in snapshot.binds.iter().enumerate() {
        let opened = socket::open(bind, workers, &snapshot.binds[..at]).unwrap();
        sockets.iter_mut().zip(opened.sockets).for_each(|(worker, socket)| worker.push(socket));
    }
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    (Setup { snapshot, shared: Arc::new(Shared::new(pins, workers)), woken: Arc::default() }, sockets)
}

/// A socket with room for hundreds of datagrams, and a deadline.
pub fn bound(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The default holds fewer datagrams than are outstanding here.
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    socket
}

/// A port that is free on this address now.
pub fn free_port(ip: &str) -> u16 {
    UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap().port()
}
