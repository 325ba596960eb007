//! The clients' side of UDP: their sockets, and the bad network that may lie in front of them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use super::crowd::Crowd;
use super::lossy::{Damage, LONGEST_DELAY, Lossy, Weather};
use super::outgoing::Outgoing;
use super::socket::{Port, Reader, Writer, wait};
use crate::state::Time;

/// Batches from one socket before the others have their turn.
const BATCHES_IN_A_ROW: usize = 4;

/// A datagram on its way to or from a socket.
type Datagram = (usize, SocketAddr, Vec<u8>);

/// The sockets of all clients. A position of the crowd is one of them.
pub struct Datagrams {
    ports: Vec<Port>,
    reader: Reader,
    writer: Writer,
    is_fair: bool,
    arriving: Lossy<Datagram>,
    leaving: Lossy<Datagram>,
    /// What a bad network lets pass of one socket's datagrams.
    passed: Outgoing,
    ready: Vec<usize>,
}

impl Datagrams {
    /// With these sockets.
    pub fn new(ports: Vec<Port>, weather: Weather, seed: u64) -> Self {
        Self {
            ports,
            reader: Reader::default(),
            writer: Writer::default(),
            is_fair: weather.is_fair(),
            arriving: Lossy::new(weather, seed),
            leaving: Lossy::new(weather, !seed),
            passed: Outgoing::default(),
            ready: Vec::new(),
        }
    }

    /// How long to wait at most before a datagram that is held back may go on.
    pub fn patience(&self) -> Option<Duration> {
        (self.arriving.is_holding() || self.leaving.is_holding()).then_some(LONGEST_DELAY / 16)
    }

    /// Waits until something comes, at most this long.
    pub fn wait(&mut self, longest: Duration) {
        wait(self.ports.iter().map(|port| Some(port.socket().as_fd())), longest, &mut self.ready);
    }

    /// Gives the crowd what came; says whether anything did.
    pub fn receive(&mut self, crowd: &mut Crowd, now: Time) -> bool {
        let mut heard = false;
        for &port in &self.ready {
            for _ in 0..BATCHES_IN_A_ROW {
                let count = self.reader.receive(&self.ports[port]);
                for (bytes, source) in (0..count).filter_map(|n| self.reader.datagram(n)) {
                    heard = true;
                    for _ in 0..self.arriving.pass(now, || (port, source, bytes.to_vec())) {
                        crowd.receive(port, bytes, source, now);
                    }
                }
                if count == 0 {
                    break;
                }
            }
        }
        while let Some((port, source, bytes)) = self.arriving.released(now) {
            crowd.receive(port, &bytes, source, now);
        }
        heard
    }

    /// Sends what the crowd wants to say.
    pub fn send(&mut self, crowd: &mut Crowd, now: Time) {
        for (n, port) in self.ports.iter().enumerate() {
            crowd.remember(n);
            let outgoing = crowd.outgoing(n);
            if self.is_fair {
                self.writer.send(port, outgoing);
                continue;
            }
            for (range, to) in outgoing.datagrams() {
                let bytes = &outgoing.memory()[range.clone()];
                for _ in 0..self.leaving.pass(now, || (n, *to, bytes.to_vec())) {
                    self.passed.push(*to, bytes);
                }
            }
            outgoing.clear();
            self.writer.send(port, &mut self.passed);
        }
        while let Some((n, to, bytes)) = self.leaving.released(now) {
            self.passed.push(to, &bytes);
            self.writer.send(&self.ports[n], &mut self.passed);
        }
    }

    /// What the bad network did.
    pub fn damage(&self) -> Damage {
        let mut damage = self.arriving.damage;
        damage.add(self.leaving.damage);
        damage
    }

    /// Datagrams that the system did not take.
    pub fn not_sent(&self) -> u64 {
        self.writer.not_sent
    }
}

/// Opens a socket on each of these addresses.
///
/// # Errors
/// What the system refused.
pub fn open(sources: &[IpAddr]) -> Result<Vec<Port>, String> {
    sources.iter().map(|source| Port::open(SocketAddr::new(*source, 0))).collect()
}
