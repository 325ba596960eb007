//! The thread of the answering servers: one or many, each on its own address.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;

use super::connections::ClientTls;
use super::ids::Ids;
use super::json::Object;
use super::ledger::Ledger;
use super::outgoing::Desk;
use super::plan::Timers;
use super::report::{write_header, write_reasons, write_row, write_verdict};
use super::server::{Manner, Server};
use super::socket::{Port, Reader, Writer, wait};
use super::stream::End;
use super::streams::{Protection, Streams};
use super::tls::{self, ServerTls};
use super::view::{Behaviour, ServerView};
use crate::net::udp::clock;
use crate::sip::Transport;
use crate::state::Time;

/// Which servers, and how they answer.
#[derive(Clone, Debug, Default)]
pub struct AnswererOptions {
    /// Name and address of each; port 0 takes a free one. At most [`MAX_SERVERS`], names differ.
    pub servers: Vec<(String, Listen)>,
    pub manner: Manner,
    pub timers: Timers,
    /// What servers show over TLS.
    pub certificate: Option<ServerTls>,
    /// Whom servers believe that call over TLS.
    pub trust: ClientTls,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub transport: Transport,
    pub address: SocketAddr,
}

impl Listen {
    /// On UDP.
    pub fn udp(address: SocketAddr) -> Self {
        Self { transport: Transport::Udp, address }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport.name(), self.address)
    }
}

/// The most servers of one answerer: each is a descriptor, and a process has 1,024 by default.
pub const MAX_SERVERS: usize = 512;

/// Batches from one socket before the others have their turn.
const BATCHES_IN_A_ROW: usize = 4;

/// How often what other threads see is renewed, and how soon an order is obeyed.
const PUBLISH: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// The running servers.
pub struct Answerer {
    servers: Vec<Arc<ServerView>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Answerer {
    /// Opens the sockets and starts answering in a thread of its own.
    ///
    /// # Errors
    /// What is wrong with the options, or what the system refused.
    pub fn start(options: &AnswererOptions) -> Result<Self, String> {
        check_names(&options.servers)?;
        let (mut places, mut servers) = (Vec::new(), Vec::new());
        let tls = options.certificate.as_ref().map(tls::server).transpose()?;
        for (name, listen) in &options.servers {
            let door = Door::new(options, listen, tls.as_ref()).map_err(|error| format!("server {name}: {error}"))?;
            let (open, address) = door.open(listen.address).map_err(|error| format!("server {name}: {error}"))?;
            let view = Arc::new(ServerView::over(listen.transport, name.clone(), address));
            let desk = Desk::new(options.timers, Ids::new()?, 1);
            let server = Server::new(Arc::clone(&view), options.manner, desk, clock());
            places.push(Place { server, door, open: Some(open), view: Arc::clone(&view) });
            servers.push(view);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // What the batched system calls work on stays in the thread that made it.
        let run = move || Run::new(places, stopped).serve();
        let thread = std::thread::Builder::new().name("load-answer".into()).spawn(run);
        let thread = thread.map_err(|error| format!("cannot start a thread for the servers: {error}"))?;
        Ok(Self { servers, stop, thread })
    }

    /// All servers, in the order of the options.
    pub fn servers(&self) -> &[Arc<ServerView>] {
        &self.servers
    }

    /// The server with this name.
    pub fn server(&self, name: &str) -> Option<&Arc<ServerView>> {
        self.servers.iter().find(|server| server.name == name)
    }

    /// Ends the servers.
    ///
    /// # Errors
    /// Where the thread did not end in order.
    pub fn stop(self) -> Result<AnswerReport, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the thread of the servers panicked; this is a bug, please report it")?;
        Ok(AnswerReport { servers: self.servers })
    }
}

fn check_names(servers: &[(String, Listen)]) -> Result<(), String> {
    if !(1..=MAX_SERVERS).contains(&servers.len()) {
        return Err(format!("{} servers: name from 1 to {MAX_SERVERS}, each as NAME=ADDRESS:PORT", servers.len()));
    }
    let twice = servers.iter().enumerate().find(|(n, (name, _))| servers[..*n].iter().any(|(other, _)| other == name));
    match twice {
        Some((_, (name, _))) => Err(format!("two servers have the name {name}: the counts are kept by name")),
        None => Ok(()),
    }
}

/// How the sockets of a server are opened, again after it was closed.
enum Door {
    Udp,
    Stream(Protection),
}

/// What a server hears and speaks by.
enum Open {
    Port(Port),
    Streams(Box<Streams>),
}

/// A server and its sockets; none while the server is closed.
struct Place {
    server: Server,
    view: Arc<ServerView>,
    door: Door,
    open: Option<Open>,
}

impl Door {
    fn new(options: &AnswererOptions, listen: &Listen, shown: Option<&Arc<ServerConfig>>) -> Result<Self, String> {
        match listen.transport {
            Transport::Udp => Ok(Self::Udp),
            Transport::Tcp => Ok(Self::Stream(Protection::default())),
            Transport::Tls => {
                let shown = shown.ok_or_else(|| format!("{listen}: what shall it show? write --cert FILE"))?;
                // Whoever it calls is asked for by name, or by its own address: that of the other end is in no certificate.
                let client = tls::client(&options.trust, listen.address.ip())?;
                Ok(Self::Stream(Protection { client: Some(client), server: Some(Arc::clone(shown)) }))
            }
        }
    }

    fn open(&self, address: SocketAddr) -> Result<(Open, SocketAddr), String> {
        match self {
            Self::Udp => Port::open(address).map(|port| {
                let bound = port.address;
                (Open::Port(port), bound)
            }),
            Self::Stream(protection) => {
                let opened = Streams::new(protection.clone()).and_then(|mut streams| {
                    let bound = streams.listen(address)?;
                    Ok((Open::Streams(Box::new(streams)), bound))
                });
                opened.map_err(|error| format!("tcp://{address}: {error}; `ss -lntp` tells who listens where"))
            }
        }
    }
}

impl Open {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Port(port) => port.socket().as_fd(),
            Self::Streams(streams) => streams.fd(),
        }
    }
}

impl Place {
    /// Sends what the server wants to say, and tells it which connections broke.
    fn send(&mut self, writer: &mut Writer, now: Time) {
        match &mut self.open {
            None => {}
            Some(Open::Port(port)) => self.view.counters.not_sent.add(writer.send(port, self.server.outgoing())),
            Some(Open::Streams(streams)) => {
                streams.send(self.view.address.ip(), self.server.outgoing());
                let gone = streams.take_gone();
                gone.iter().for_each(|(slot, ..)| streams.vacate(*slot));
                let malformed = gone.iter().filter(|(.., end)| *end == End::Malformed).count();
                self.view.counters.malformed.add(malformed as u64);
                self.server.disconnected(gone.into_iter().map(|(_, end, _)| end).collect(), now);
            }
        }
    }

    /// Sockets follow the behaviour of their server. One that cannot be opened again is tried until it can.
    fn open_and_close(&mut self, now: Time) {
        match (self.view.behaviour() == Behaviour::Closed, self.open.is_some()) {
            (true, true) => {
                if let Some(Open::Streams(streams)) = self.open.take() {
                    self.server.disconnected(streams.others(), now);
                }
            }
            (false, false) => self.open = self.door.open(self.view.address).ok().map(|(open, _)| open),
            _ => {}
        }
    }

    fn publish(&self) {
        if let Some(Open::Streams(streams)) = &self.open {
            self.view.counters.connections.set(streams.len() as u64);
            self.view.counters.not_sent.set(streams.not_sent);
        }
        self.server.publish();
    }
}

/// What the thread owns.
struct Run {
    places: Vec<Place>,
    stop: Arc<AtomicBool>,
    reader: Reader,
    writer: Writer,
    published: Time,
}

impl Run {
    fn new(places: Vec<Place>, stop: Arc<AtomicBool>) -> Self {
        Self { places, stop, reader: Reader::default(), writer: Writer::default(), published: clock() }
    }

    fn serve(mut self) {
        let mut ready = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let now = clock();
            let mut due = now + LONGEST_WAIT;
            for place in &mut self.places {
                place.open_and_close(now);
                place.server.on_time(now);
                place.send(&mut self.writer, now);
                due = due.min(place.server.due());
            }
            wait(self.places.iter().map(|place| place.open.as_ref().map(Open::fd)), due.since(now), &mut ready);
            self.receive(&ready);
            if now.since(self.published) >= PUBLISH {
                self.published = now;
                self.places.iter().for_each(Place::publish);
            }
        }
        self.places.iter_mut().for_each(|place| place.server.close());
    }

    fn receive(&mut self, ready: &[usize]) {
        for &at in ready {
            match &self.places[at].open {
                None => {}
                Some(Open::Port(_)) => self.receive_datagrams(at),
                Some(Open::Streams(_)) => self.receive_streams(at),
            }
        }
    }

    fn receive_datagrams(&mut self, at: usize) {
        let Place { server, view, open: Some(Open::Port(port)), .. } = &mut self.places[at] else { return };
        for _ in 0..BATCHES_IN_A_ROW {
            let count = self.reader.receive(port);
            let now = clock();
            for (bytes, source) in (0..count).filter_map(|n| self.reader.datagram(n)) {
                server.receive(bytes, source, now);
            }
            view.counters.not_sent.add(self.writer.send(port, server.outgoing()));
            if count == 0 {
                break;
            }
        }
    }

    fn receive_streams(&mut self, at: usize) {
        let Place { server, open: Some(Open::Streams(streams)), .. } = &mut self.places[at] else { return };
        let (mut ready, now) = (Vec::new(), clock());
        streams.look(&mut ready);
        for slot in ready {
            streams.read(slot, |bytes, source| server.receive(bytes, source, now));
        }
        self.places[at].send(&mut self.writer, now);
    }
}

/// One call of so many may miss its ACK.
const MOST_WITHOUT_ACK: u64 = 4;

/// What the servers report at the end.
#[derive(Clone, Debug)]
pub struct AnswerReport {
    pub servers: Vec<Arc<ServerView>>,
}

impl AnswerReport {
    /// Requests for calls that the server which got them does not have, all servers together.
    pub fn misdirected(&self) -> u64 {
        self.servers.iter().map(|server| server.counters.misdirected.get()).sum()
    }

    /// The books of calls that came and of calls to phones, all servers together.
    pub fn totals(&self) -> (Ledger, Ledger) {
        let (mut incoming, mut call_backs) = (Ledger::default(), Ledger::default());
        for books in self.servers.iter().map(|server| server.books()) {
            incoming.add(&books.incoming);
            call_backs.add(&books.call_backs);
        }
        (incoming, call_backs)
    }

    /// Calls that went on or ended though nobody had acknowledged their final answer, all servers together.
    pub fn without_ack(&self) -> u64 {
        self.servers.iter().map(|server| server.counters.without_ack.get()).sum()
    }

    /// Whether the books balance, no request came to the wrong server, no call that came was stranded or given up, ACKs
    /// arrive, and every phone that was called answered. Cancelled calls and those that the end cut off are no failures.
    pub fn succeeded(&self) -> bool {
        let (incoming, call_backs) = self.totals();
        let kept = incoming.lost + incoming.stranded_total() + call_backs.failed() == 0;
        // A few are lost or overtaken; of so many somebody loses them.
        let acknowledged = self.without_ack() * MOST_WITHOUT_ACK <= incoming.answered + incoming.refused_total();
        self.balances() && self.misdirected() == 0 && kept && acknowledged
    }

    /// Whether every call is in exactly one column.
    pub fn balances(&self) -> bool {
        let (incoming, call_backs) = self.totals();
        incoming.balances() && call_backs.balances()
    }

    pub(super) fn write(&self, object: &mut Object) {
        let (incoming, call_backs) = self.totals();
        object.text("kind", "answer").truth("balances", self.balances()).number("misdirected", self.misdirected());
        object.object("incoming", |object| incoming.write(object));
        object.object("call_backs", |object| call_backs.write(object));
        object.object("servers", |object| {
            for server in &self.servers {
                object.object(&server.name, |object| server.write(object));
            }
        });
    }
}

impl fmt::Display for AnswerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_header(f)?;
        for server in &self.servers {
            let books = server.books();
            write_row(f, &server.name, &books.incoming)?;
            if books.call_backs.started > 0 {
                write_row(f, "  to phones", &books.call_backs)?;
            }
        }
        let (incoming, call_backs) = self.totals();
        write_reasons(f, &incoming)?;
        write_reasons(f, &call_backs)?;
        let sum = |of: fn(&ServerView) -> u64| self.servers.iter().map(|server| of(server)).sum::<u64>();
        let again = sum(|server| server.counters.retransmissions.get());
        let malformed = sum(|server| server.counters.malformed.get());
        let (misdirected, not_sent) = (self.misdirected(), sum(|server| server.counters.not_sent.get()));
        writeln!(
            f,
            "{misdirected} misdirected, {again} retransmissions seen, {malformed} malformed, {not_sent} not sent"
        )?;
        writeln!(f, "{} calls without ACK", self.without_ack())?;
        write_verdict(f, self.balances(), self.succeeded())
    }
}
