//! The thread of the clients: starts them when it is time, whatever the answers do, and carries their datagrams.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;

use super::crowd::{Crowd, Habits};
use super::ids::Ids;
use super::lossy::{LONGEST_DELAY, Lossy, Weather};
use super::outgoing::{Desk, Outgoing};
use super::plan::Timers;
use super::report::CallReport;
use super::socket::{Port, Reader, Writer, wait};
use crate::net::udp::clock;
use crate::state::Time;

/// What to start, how fast, from where.
#[derive(Clone, Debug)]
pub struct GeneratorOptions {
    pub habits: Habits,
    pub timers: Timers,
    /// Starts per second; the times of all starts are fixed before the first.
    pub rate: f64,
    /// Starts end after this many.
    pub count: u64,
    /// Starts end after this time.
    pub duration: Duration,
    /// Addresses that the sockets are bound to, in turn.
    pub clients: IpNet,
    /// Sockets, at most [`MAX_SOCKETS`].
    pub sockets: usize,
    /// The bad network between the clients and everybody else.
    pub weather: Weather,
    /// What the fates of datagrams in it follow from.
    pub seed: u64,
}

/// The most sockets of one generator: each is a descriptor, and a process has 1,024 by default.
pub const MAX_SOCKETS: usize = 512;

/// The most starts before arrivals are looked at again: after a pause, what was missed is started in pieces.
const STARTS_AT_ONCE: u32 = 256;

/// Batches from one socket before the others have their turn.
const BATCHES_IN_A_ROW: usize = 4;

/// How often the live report is renewed.
const PUBLISH: Duration = Duration::from_millis(100);

/// The longest wait: so fast is an order to stop obeyed.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// Orders to a generator; each includes those before.
const RUN: u8 = 0;
const STOP_STARTING: u8 = 1;
const ABORT: u8 = 2;

/// A running generator.
pub struct Generator {
    order: Arc<AtomicU8>,
    live: Arc<Mutex<CallReport>>,
    thread: JoinHandle<()>,
}

impl Generator {
    /// Opens the sockets and starts the clients in a thread of their own.
    ///
    /// # Errors
    /// What is wrong with the options, or what the system refused.
    pub fn start(options: GeneratorOptions) -> Result<Self, String> {
        let ports = open_ports(options.clients, options.sockets)?;
        if !(options.rate > 0.0 && options.rate <= 1e6) {
            return Err(format!("a rate of {} starts per second: write one above 0, up to 1000000", options.rate));
        }
        let desk = Desk::new(options.timers, Ids::new()?, ports.len());
        let crowd = Crowd::new(options.habits.clone(), ports.iter().map(|port| port.address).collect(), desk);
        let order = Arc::new(AtomicU8::new(RUN));
        let live = Arc::new(Mutex::new(CallReport::default()));
        let (ordered, published) = (Arc::clone(&order), Arc::clone(&live));
        // What the batched system calls work on stays in the thread that made it.
        let run = move || Run::new(options, crowd, ports, ordered, published).serve();
        let thread = std::thread::Builder::new().name("load-call".into()).spawn(run);
        let thread = thread.map_err(|error| format!("cannot start a thread for the clients: {error}"))?;
        Ok(Self { order, live, thread })
    }

    /// Starts nothing more; what was started goes on to its end.
    pub fn stop_starting(&self) {
        self.order.fetch_max(STOP_STARTING, Ordering::Relaxed);
    }

    /// Ends at once; what goes on is booked as unfinished.
    pub fn abort(&self) {
        self.order.fetch_max(ABORT, Ordering::Relaxed);
    }

    /// Whether everything has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// The report as it stood at most a tenth of a second ago.
    pub fn report(&self) -> CallReport {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end and gives the final report.
    ///
    /// # Errors
    /// Where the thread did not end in order.
    pub fn finish(self) -> Result<CallReport, String> {
        self.thread.join().map_err(|_| "the thread of the clients panicked; this is a bug, please report it")?;
        Ok(self.live.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The n-th socket is bound to the n-th address of the network, from the front again where those are fewer.
fn open_ports(clients: IpNet, sockets: usize) -> Result<Vec<Port>, String> {
    if !(1..=MAX_SOCKETS).contains(&sockets) {
        return Err(format!("{sockets} sockets: write a number from 1 to {MAX_SOCKETS}"));
    }
    // `hosts` leaves out network and broadcast address; a single address is its own host.
    let addresses: Vec<IpAddr> = clients.hosts().take(sockets).collect();
    (0..sockets).map(|n| Port::open(SocketAddr::new(addresses[n % addresses.len()], 0))).collect()
}

/// A datagram on its way to or from a socket.
type Datagram = (usize, SocketAddr, Vec<u8>);

/// What the thread owns.
struct Run {
    options: GeneratorOptions,
    crowd: Crowd,
    ports: Vec<Port>,
    order: Arc<AtomicU8>,
    live: Arc<Mutex<CallReport>>,
    reader: Reader,
    writer: Writer,
    arriving: Lossy<Datagram>,
    leaving: Lossy<Datagram>,
    /// What a bad network lets pass of one socket's datagrams.
    passed: Outgoing,
    begin: Time,
    last_start: Time,
    /// The last datagram that came.
    heard: Time,
    published: Time,
}

impl Run {
    fn new(
        options: GeneratorOptions,
        crowd: Crowd,
        ports: Vec<Port>,
        order: Arc<AtomicU8>,
        live: Arc<Mutex<CallReport>>,
    ) -> Self {
        let (weather, seed, begin) = (options.weather, options.seed, clock());
        Self {
            crowd,
            ports,
            order,
            live,
            reader: Reader::default(),
            writer: Writer::default(),
            arriving: Lossy::new(weather, seed),
            leaving: Lossy::new(weather, !seed),
            passed: Outgoing::default(),
            begin,
            last_start: begin,
            heard: begin,
            published: begin,
            options,
        }
    }

    fn serve(mut self) {
        let mut ready = Vec::new();
        loop {
            let now = clock();
            self.start_due(now);
            self.crowd.on_time(now);
            self.send(now);
            if self.is_over(now) {
                break;
            }
            wait(self.ports.iter().map(Some), self.pause(now), &mut ready);
            let now = clock();
            self.receive(&ready, now);
            self.send(now);
            if now.since(self.published) >= PUBLISH {
                self.publish(now);
            }
        }
        self.crowd.close();
        self.publish(clock());
    }

    /// When the n-th start is meant to be.
    fn meant(&self, n: u64) -> Time {
        self.begin + Duration::from_secs_f64(n as f64 / self.options.rate)
    }

    /// Whether there is another start to come.
    fn has_more(&self) -> bool {
        let next = self.crowd.started();
        self.order.load(Ordering::Relaxed) == RUN
            && next < self.options.count
            && self.meant(next) < self.begin + self.options.duration
    }

    fn start_due(&mut self, now: Time) {
        for _ in 0..STARTS_AT_ONCE {
            let meant = self.meant(self.crowd.started());
            if meant > now || !self.has_more() {
                return;
            }
            self.crowd.start(meant, now);
            self.last_start = now;
        }
    }

    fn is_over(&self, now: Time) -> bool {
        let aborted = self.order.load(Ordering::Relaxed) == ABORT;
        aborted || (!self.has_more() && self.crowd.open() == 0 && now >= self.heard + self.farewell())
    }

    /// How long it must be quiet before the end: where datagrams get lost, the servers may still want to hear something
    /// again.
    fn farewell(&self) -> Duration {
        if self.options.weather.is_fair() { Duration::ZERO } else { self.options.timers.t2 * 5 / 4 }
    }

    /// How long there is nothing to do.
    fn pause(&self, now: Time) -> Duration {
        let start = if self.has_more() { self.meant(self.crowd.started()).since(now) } else { LONGEST_WAIT };
        let holding = self.arriving.is_holding() || self.leaving.is_holding();
        let held = if holding { LONGEST_DELAY / 16 } else { LONGEST_WAIT };
        self.crowd.due().since(now).min(start).min(held).min(LONGEST_WAIT)
    }

    fn receive(&mut self, ready: &[usize], now: Time) {
        for &port in ready {
            for _ in 0..BATCHES_IN_A_ROW {
                let count = self.reader.receive(&self.ports[port]);
                for (bytes, source) in (0..count).filter_map(|n| self.reader.datagram(n)) {
                    self.heard = now;
                    for _ in 0..self.arriving.pass(now, || (port, source, bytes.to_vec())) {
                        self.crowd.receive(port, bytes, source, now);
                    }
                }
                if count == 0 {
                    break;
                }
            }
        }
        while let Some((port, source, bytes)) = self.arriving.released(now) {
            self.crowd.receive(port, &bytes, source, now);
        }
    }

    fn send(&mut self, now: Time) {
        for (n, port) in self.ports.iter().enumerate() {
            self.crowd.remember(n);
            let outgoing = self.crowd.outgoing(n);
            if self.options.weather.is_fair() {
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

    fn publish(&mut self, now: Time) {
        self.published = now;
        let mut damage = self.arriving.damage;
        damage.add(self.leaving.damage);
        let report = CallReport {
            elapsed: now.since(self.begin),
            starting: self.last_start.since(self.begin) + Duration::from_secs_f64(1.0 / self.options.rate),
            rate: self.options.rate,
            traffic: self.crowd.traffic(),
            damage,
            not_sent: self.writer.not_sent,
            open: self.crowd.open() as u64,
            ..CallReport::of(&self.crowd.books)
        };
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}
