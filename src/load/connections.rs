//! The clients' side of TCP and TLS: which connection a call uses, and what becomes of calls whose connection breaks.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use super::crowd::Crowd;
use super::stream::End;
use super::streams::{MAX_STREAMS, Protection, Streams};
use crate::state::Time;
use crate::state::lookup::{Map, hasher};

/// How calls use connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// So many connections for each source, open from the beginning to the end, shared by all calls in turn.
    Shared(usize),
    /// Each call has a connection, closed after it.
    PerCall,
}

/// How clients reach whom they call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    #[default]
    Udp,
    Stream(StreamOptions),
}

/// How clients use TCP, or TLS over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    pub sharing: Sharing,
    /// A shared connection that broke is opened again; else its calls end, and no others are started on it.
    pub reconnect: bool,
    /// `None` is TCP.
    pub tls: Option<ClientTls>,
}

/// Whom clients believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The file of the authorities that the server's certificate must be from; `None` believes anybody.
    pub ca: Option<PathBuf>,
    /// The name that is asked for and must be in the certificate; `None` is the address.
    pub name: Option<String>,
}

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Those that were tried.
    pub opened: u64,
    /// Those of `opened` that were to replace a broken one.
    pub reopened: u64,
    /// Refused by the other end or by the system, or the handshake failed.
    pub failed: u64,
    /// Closed by the other end while they were wanted.
    pub broken: u64,
}

/// A call that has a connection of its own.
#[derive(Clone, Copy, Debug)]
struct Visit {
    at: Time,
    slot: usize,
    key: u64,
    /// The call was over when it was looked at last.
    was_over: bool,
}

/// The connections of all clients. A position of the crowd is a slot here.
pub struct Connections {
    streams: Streams,
    options: StreamOptions,
    to: SocketAddr,
    sources: Vec<IpAddr>,
    /// Calls with connections of their own, in the order in which they are looked at.
    visits: VecDeque<Visit>,
    /// The call whose connection is in a slot.
    seated: Map<usize, u64>,
    /// Twice as often as this they are looked at; so long a connection stays after its call, for what is on its way; and
    /// so long a client waits before it tries again to connect. T1, the estimate of a round trip (RFC 3261 §17.1.1.1).
    pause: Duration,
    /// Shared connections that are to be opened again, and when.
    again: Vec<(Time, usize)>,
    ready: Vec<usize>,
    connected: Connected,
    /// What could not be framed.
    malformed: u64,
}

impl Connections {
    /// Opens the shared connections, each a position of the crowd, in turn from each source.
    ///
    /// # Errors
    /// What is wrong with the options, or what the system refused.
    pub fn open(
        options: &StreamOptions,
        protection: Protection,
        to: SocketAddr,
        sources: Vec<IpAddr>,
        pause: Duration,
    ) -> Result<(Self, Vec<SocketAddr>), String> {
        let streams = Streams::new(protection).map_err(|error| format!("cannot wait for connections: {error}"))?;
        let mut connections = Self {
            streams,
            options: options.clone(),
            to,
            sources,
            visits: VecDeque::new(),
            seated: Map::with_hasher(hasher()),
            pause,
            again: Vec::new(),
            ready: Vec::new(),
            connected: Connected::default(),
            malformed: 0,
        };
        let shared = match options.sharing {
            Sharing::Shared(each) => each * connections.sources.len(),
            Sharing::PerCall => 0,
        };
        if shared > MAX_STREAMS || options.sharing == Sharing::Shared(0) {
            return Err(format!("{shared} connections: have from 1 to {MAX_STREAMS} of them, all sources together"));
        }
        let mut ports = Vec::new();
        for n in 0..shared {
            let from = connections.sources[n % connections.sources.len()];
            let (_, local) = connections.streams.connect(from, to).map_err(|error| explain(from, to, &error))?;
            ports.push(local);
        }
        Ok((connections, ports))
    }

    /// Starts a call, or counts that it cannot be started: a connection that takes no more, or is not there, holds nobody
    /// up.
    pub fn start(&mut self, crowd: &mut Crowd, meant: Time, now: Time) {
        let number = crowd.started();
        if let Sharing::Shared(each) = self.options.sharing {
            let slot = (number % (each * self.sources.len()) as u64) as usize;
            // What the crowd has said since the last time lies in front of it.
            let before = crowd.outgoing(slot).memory().len();
            if self.streams.has_room(slot, before) {
                crowd.start_at(slot, meant, now);
            } else {
                crowd.skip();
            }
            return;
        }
        let from = self.sources[(number % self.sources.len() as u64) as usize];
        let Ok((slot, local)) = self.streams.connect(from, self.to) else {
            self.connected.failed += 1;
            return crowd.skip();
        };
        crowd.seat(slot, local);
        match crowd.start_at(slot, meant, now) {
            Some(key) => {
                self.seated.insert(slot, key);
                self.visits.push_back(Visit { at: now + self.pause / 2, slot, key, was_over: false });
            }
            None => self.streams.close(slot),
        }
    }

    /// Closes connections whose call is over, and opens broken ones again.
    pub fn on_time(&mut self, crowd: &mut Crowd, now: Time) {
        while let Some(visit) = self.visits.front().copied()
            && visit.at <= now
        {
            self.visits.pop_front();
            if self.seated.get(&visit.slot) != Some(&visit.key) {
                continue;
            }
            let is_over = crowd.is_over(visit.key);
            match is_over && visit.was_over {
                true => self.streams.close(visit.slot),
                false => self.visits.push_back(Visit { at: now + self.pause / 2, was_over: is_over, ..visit }),
            }
        }
        for (at, slot) in std::mem::take(&mut self.again) {
            if at > now {
                self.again.push((at, slot));
                continue;
            }
            match self.streams.connect_in(slot, self.sources[slot % self.sources.len()], self.to) {
                Ok(local) => {
                    self.connected.reopened += 1;
                    crowd.move_to(slot, local);
                }
                Err(_) => {
                    self.connected.failed += 1;
                    self.again.push((now + self.pause, slot));
                }
            }
        }
    }

    /// When [`Connections::on_time`] has something to do.
    pub fn due(&self) -> Time {
        let visit = self.visits.front().map(|visit| visit.at);
        let again = self.again.iter().map(|(at, _)| *at);
        again.chain(visit).min().unwrap_or(super::transaction::NEVER)
    }

    /// What to wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.streams.fd()
    }

    /// Gives the crowd what came; says whether anything did. What it answers is sent before a connection that has ended
    /// is forgotten.
    pub fn receive(&mut self, crowd: &mut Crowd, now: Time) -> bool {
        let mut ready = std::mem::take(&mut self.ready);
        self.streams.look(&mut ready);
        for slot in &ready {
            self.streams.read(*slot, |bytes, source| crowd.receive(*slot, bytes, source, now));
        }
        let heard = !ready.is_empty();
        self.ready = ready;
        heard
    }

    /// Sends what the crowd wants to say, and tells it which connections broke.
    pub fn send(&mut self, crowd: &mut Crowd, now: Time) {
        for slot in crowd.take_talkative() {
            crowd.remember(slot);
            self.streams.send_by(slot, crowd.outgoing(slot));
        }
        let gone = self.streams.take_gone();
        if gone.is_empty() {
            return;
        }
        let mut broken = Vec::new();
        for (slot, _, end) in gone {
            match end {
                End::Closed => {}
                End::Failed => self.connected.failed += 1,
                End::Broken => self.connected.broken += 1,
                End::Malformed => {
                    self.connected.broken += 1;
                    self.malformed += 1;
                }
            }
            if end != End::Closed {
                broken.push(slot);
            }
            match self.options.sharing {
                Sharing::Shared(_) if self.options.reconnect => {
                    let at = if end == End::Failed { now + self.pause } else { now };
                    self.again.push((at, slot));
                }
                Sharing::Shared(_) => {}
                Sharing::PerCall => {
                    self.seated.remove(&slot);
                    self.streams.vacate(slot);
                }
            }
        }
        let may_return = self.options.reconnect && self.options.sharing != Sharing::PerCall;
        broken.sort_unstable();
        crowd.disconnected(&broken, !may_return, now);
    }

    /// Closes everything in order.
    pub fn close(&mut self) {
        self.streams.close_all(Duration::from_secs(1));
    }

    /// What became of connections so far.
    pub fn connected(&self) -> Connected {
        Connected { opened: self.streams.opened, ..self.connected }
    }

    /// Messages that no connection took.
    pub fn not_sent(&self) -> u64 {
        self.streams.not_sent
    }

    /// Connections with bytes that were no SIP.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

fn explain(from: IpAddr, to: SocketAddr, error: &io::Error) -> String {
    format!("cannot connect from {from} to {to}: {error}")
}
