//! The thread of the clients: starts them when it is time, whatever the answers do, and carries their datagrams.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;

use super::connections::{Carrier, Connections, StreamOptions};
use super::crowd::{Crowd, Habits};
use super::datagrams::{self, Datagrams};
use super::ids::Ids;
use super::lossy::Weather;
use super::outgoing::Desk;
use super::plan::Timers;
use super::report::CallReport;
use super::socket::{self, Port};
use super::streams::Protection;
use super::tls;
use crate::net::udp::clock;
use crate::sip::Transport;
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
    /// Sockets, at most [`MAX_SOCKETS`]; with TCP and TLS the sources of connections.
    pub sockets: usize,
    /// UDP, or how TCP and TLS are used.
    pub carrier: Carrier,
    /// The bad network between the clients and everybody else; over UDP.
    pub weather: Weather,
    /// What the fates of datagrams in it follow from.
    pub seed: u64,
}

/// The most sockets of one generator: each is a descriptor, and a process has 1,024 by default.
pub const MAX_SOCKETS: usize = 512;

/// The most starts before arrivals are looked at again: after a pause, what was missed is started in pieces.
const STARTS_AT_ONCE: u32 = 256;

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
        let sources = sources(options.clients, options.sockets)?;
        if !(options.rate > 0.0 && options.rate <= 1e6) {
            return Err(format!("a rate of {} starts per second: write one above 0, up to 1000000", options.rate));
        }
        let desk = |sockets| Ok::<_, String>(Desk::new(options.timers, Ids::new()?, sockets));
        let habits = options.habits.clone();
        let (crowd, opened) = match &options.carrier {
            Carrier::Udp => {
                let ports = datagrams::open(&sources)?;
                let addresses = ports.iter().map(|port| port.address).collect();
                (Crowd::new(habits, addresses, desk(ports.len())?), Opened::Ports(ports))
            }
            Carrier::Stream(stream) => {
                if !options.weather.is_fair() {
                    return Err("losses, duplicates and delays are for UDP: a connection has none".into());
                }
                let (connections, addresses) = connect(stream, &options, sources)?;
                let transport = if stream.tls.is_some() { Transport::Tls } else { Transport::Tcp };
                let desk = desk(addresses.len())?.over(transport);
                (Crowd::new(habits, addresses, desk), Opened::Connections(Box::new(connections)))
            }
        };
        let order = Arc::new(AtomicU8::new(RUN));
        let live = Arc::new(Mutex::new(CallReport::default()));
        let (ordered, published) = (Arc::clone(&order), Arc::clone(&live));
        // What the batched system calls work on stays in the thread that made it.
        let run = move || {
            let network = opened.network(&options);
            Run::new(options, crowd, network, ordered, published).serve();
        };
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
fn sources(clients: IpNet, sockets: usize) -> Result<Vec<IpAddr>, String> {
    if !(1..=MAX_SOCKETS).contains(&sockets) {
        return Err(format!("{sockets} sockets: write a number from 1 to {MAX_SOCKETS}"));
    }
    // `hosts` leaves out network and broadcast address; a single address is its own host.
    let addresses: Vec<IpAddr> = clients.hosts().take(sockets).collect();
    Ok((0..sockets).map(|n| addresses[n % addresses.len()]).collect())
}

fn connect(
    stream: &StreamOptions,
    options: &GeneratorOptions,
    sources: Vec<IpAddr>,
) -> Result<(Connections, Vec<SocketAddr>), String> {
    let to = options.habits.to;
    let protection = match &stream.tls {
        None => Protection::default(),
        Some(tls) => Protection { client: Some(tls::client(tls, to.ip())?), server: None },
    };
    Connections::open(stream, protection, to, sources, options.timers.t1)
}

/// What was opened before the thread that uses it began.
enum Opened {
    Ports(Vec<Port>),
    Connections(Box<Connections>),
}

impl Opened {
    fn network(self, options: &GeneratorOptions) -> Network {
        match self {
            Self::Ports(ports) => Network::Datagrams(Box::new(Datagrams::new(ports, options.weather, options.seed))),
            Self::Connections(connections) => Network::Connections(connections),
        }
    }
}

/// What carries the messages of all clients.
enum Network {
    Datagrams(Box<Datagrams>),
    Connections(Box<Connections>),
}

/// What the thread owns.
struct Run {
    options: GeneratorOptions,
    crowd: Crowd,
    network: Network,
    order: Arc<AtomicU8>,
    live: Arc<Mutex<CallReport>>,
    begin: Time,
    last_start: Time,
    /// When something came last.
    heard: Time,
    published: Time,
}

impl Run {
    fn new(
        options: GeneratorOptions,
        crowd: Crowd,
        network: Network,
        order: Arc<AtomicU8>,
        live: Arc<Mutex<CallReport>>,
    ) -> Self {
        let begin = clock();
        Self { options, crowd, network, order, live, begin, last_start: begin, heard: begin, published: begin }
    }

    fn serve(mut self) {
        loop {
            let now = clock();
            self.start_due(now);
            self.crowd.on_time(now);
            self.send(now);
            if self.is_over(now) {
                break;
            }
            self.wait(now);
            let now = clock();
            self.receive(now);
            self.send(now);
            if now.since(self.published) >= PUBLISH {
                self.publish(now);
            }
        }
        self.crowd.close();
        self.publish(clock());
        if let Network::Connections(connections) = &mut self.network {
            connections.close();
        }
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
            match &mut self.network {
                Network::Datagrams(_) => self.crowd.start(meant, now),
                Network::Connections(connections) => connections.start(&mut self.crowd, meant, now),
            }
            self.last_start = now;
        }
    }

    fn is_over(&self, now: Time) -> bool {
        let aborted = self.order.load(Ordering::Relaxed) == ABORT;
        aborted || (!self.has_more() && self.crowd.open() == 0 && now >= self.heard + self.farewell())
    }

    /// How long it must be quiet before the end: where datagrams get lost, the servers may still want to hear something
    /// again; where something was repeated, its second answer may still be on its way.
    fn farewell(&self) -> Duration {
        match (self.options.weather.is_fair(), self.crowd.traffic().retransmitted) {
            (false, _) => self.options.timers.t2 * 5 / 4,
            (true, 0) => Duration::ZERO,
            (true, _) => self.options.timers.t1,
        }
    }

    /// Waits while there is nothing to do.
    fn wait(&mut self, now: Time) {
        let start = if self.has_more() { self.meant(self.crowd.started()).since(now) } else { LONGEST_WAIT };
        let pause = self.crowd.due().since(now).min(start).min(LONGEST_WAIT);
        match &mut self.network {
            Network::Datagrams(datagrams) => datagrams.wait(datagrams.patience().unwrap_or(pause).min(pause)),
            Network::Connections(connections) => {
                socket::wait_for(connections.fd(), connections.due().since(now).min(pause));
            }
        }
    }

    fn receive(&mut self, now: Time) {
        let heard = match &mut self.network {
            Network::Datagrams(datagrams) => datagrams.receive(&mut self.crowd, now),
            Network::Connections(connections) => connections.receive(&mut self.crowd, now),
        };
        if heard {
            self.heard = now;
        }
    }

    fn send(&mut self, now: Time) {
        match &mut self.network {
            Network::Datagrams(datagrams) => datagrams.send(&mut self.crowd, now),
            Network::Connections(connections) => {
                connections.on_time(&mut self.crowd, now);
                connections.send(&mut self.crowd, now);
            }
        }
    }

    fn publish(&mut self, now: Time) {
        self.published = now;
        let mut report = CallReport {
            elapsed: now.since(self.begin),
            starting: self.last_start.since(self.begin) + Duration::from_secs_f64(1.0 / self.options.rate),
            rate: self.options.rate,
            traffic: self.crowd.traffic(),
            open: self.crowd.open() as u64,
            ..CallReport::of(&self.crowd.books)
        };
        match &self.network {
            Network::Datagrams(datagrams) => {
                (report.damage, report.not_sent) = (datagrams.damage(), datagrams.not_sent());
            }
            Network::Connections(connections) => {
                (report.connected, report.not_sent) = (Some(connections.connected()), connections.not_sent());
                report.malformed += connections.malformed();
            }
        }
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}
