//! A network without sockets and without a clock: clients, servers and, if wanted, the deciding core between them.
//! Everything follows from the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use trunkline::load::crowd::Crowd;
use trunkline::load::ids::Ids;
use trunkline::load::lossy::Lossy;
use trunkline::load::outgoing::{Desk, Outgoing};
use trunkline::load::server::Server;
use trunkline::load::{CallReport, Habits, Ledger, Manner, Mix, Scenario, ServerView, Timers, Weather};
use trunkline::state::Time;

use crate::core::{INSIDE, Node, OUTSIDE, Outcome};

/// How long a datagram takes.
const HOP: Duration = Duration::from_millis(1);

/// The longest that a simulation may take, on its own clock: an hour. Whatever hangs fails a test.
const LONGEST: Duration = Duration::from_secs(3600);

/// A datagram on its way: from, to, bytes.
type Packet = (SocketAddr, SocketAddr, Vec<u8>);

pub struct Sim {
    pub now: Time,
    pub crowd: Crowd,
    clients: Vec<SocketAddr>,
    servers: Vec<(Server, Arc<ServerView>)>,
    node: Option<Node>,
    flying: BinaryHeap<Reverse<(Time, u64, Packet)>>,
    weather: Lossy<Packet>,
    flown: u64,
    /// Reasons why the balancer dropped something.
    pub dropped: BTreeMap<&'static str, u64>,
    /// What begins so never arrives.
    pub swallows: &'static str,
    begin: Time,
}

/// What a simulation consists of.
pub struct Setup {
    pub mix: Mix,
    pub nat: bool,
    pub weather: Weather,
    pub seed: u64,
    pub manner: Manner,
    /// Name and address of each server.
    pub servers: Vec<(&'static str, &'static str)>,
    pub node: Option<Node>,
    pub timers: Timers,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            mix: Mix::only(Scenario::Call),
            nat: false,
            weather: Weather::default(),
            seed: 1,
            manner: Manner::default(),
            servers: vec![("a", "10.0.10.11:5060")],
            node: None,
            timers: Timers::default(),
        }
    }
}

/// One of each scenario in turn.
pub fn every_scenario() -> Mix {
    Mix::parse(&Scenario::ALL.map(Scenario::word).join(",")).expect("all are scenarios")
}

impl Sim {
    pub fn new(setup: Setup) -> Self {
        let Setup { mix, nat, weather, seed, manner, servers, node, timers } = setup;
        let begin = Time(1_000_000_000_000);
        let clients: Vec<SocketAddr> =
            (0..8).map(|n| SocketAddr::from(([198, 51, 100, 1 + n as u8], 30_000 + n))).collect();
        let to = if node.is_some() { OUTSIDE } else { servers[0].1 }.parse().unwrap();
        let hold = Duration::from_secs(10);
        let domain = "sip.example.ng".into();
        let habits = Habits { to, domain, mix, hold, nat, body: 0, call_back_after: hold, limit: 1_000_000 };
        let desk =
            |n: u64| Desk::new(timers, Ids::of_run((seed << 8 | n) as u32), if n == 0 { clients.len() } else { 1 });
        let crowd = Crowd::new(habits, clients.clone(), desk(0));
        let server = |(n, (name, address)): (usize, &(&str, &str))| {
            let view = Arc::new(ServerView::new((*name).into(), address.parse().unwrap()));
            (Server::new(Arc::clone(&view), manner, desk(n as u64 + 1), begin), view)
        };
        let servers = servers.iter().enumerate().map(server).collect();
        let (flying, dropped) = (BinaryHeap::new(), BTreeMap::new());
        let weather = Lossy::new(weather, seed);
        Self { now: begin, crowd, clients, servers, node, flying, weather, flown: 0, dropped, swallows: "", begin }
    }

    /// A server as others see it.
    pub fn view(&self, name: &str) -> &ServerView {
        &self.servers.iter().find(|(_, view)| view.name == name).expect("a server of this name").1
    }

    /// Starts clients, one every `every`, and goes on until all have ended and nothing flies.
    pub fn run(&mut self, starts: u64, every: Duration) {
        let mut next = self.now;
        let mut left = starts;
        while left > 0 || self.crowd.open() > 0 || !self.flying.is_empty() {
            if left > 0 && next <= self.now {
                self.crowd.start(next, self.now);
                (left, next) = (left - 1, next + every);
                self.collect();
            }
            let start = if left > 0 { next } else { Time(u64::MAX) };
            self.step(start);
            assert!(self.now.since(self.begin) < LONGEST, "{} calls hang", self.crowd.open());
        }
    }

    /// Lets time pass without new starts.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step(until);
        }
    }

    /// Goes to the next thing that happens, at most to `until`, and lets it happen.
    fn step(&mut self, until: Time) {
        let flight = self.flying.peek().map_or(Time(u64::MAX), |Reverse((at, ..))| *at);
        let servers = self.servers.iter().map(|(server, _)| server.due()).min().unwrap_or(until);
        self.now = until.min(flight).min(servers).min(self.crowd.due()).max(self.now);
        while let Some(Reverse((at, ..))) = self.flying.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, _, packet))) = self.flying.pop() else { break };
            self.arrive(packet);
            self.collect();
        }
        self.crowd.on_time(self.now);
        for (server, _) in &mut self.servers {
            server.on_time(self.now);
            server.publish();
        }
        self.collect();
    }

    fn arrive(&mut self, (from, to, bytes): Packet) {
        if !self.swallows.is_empty() && bytes.starts_with(self.swallows.as_bytes()) {
            return;
        }
        if let Some(client) = self.clients.iter().position(|client| *client == to) {
            self.crowd.receive(client, &bytes, from, self.now);
        } else if let Some((server, _)) = self.servers.iter_mut().find(|(_, view)| view.address == to) {
            server.receive(&bytes, from, self.now);
        } else if let Some(node) =
            self.node.as_mut().filter(|_| [OUTSIDE, INSIDE].map(|at| at.parse()).contains(&Ok(to)))
        {
            node.now = self.now;
            match node.receive(from, to, &bytes) {
                Outcome::Sent { from, to, bytes, .. } | Outcome::Answered { from, to, bytes, .. } => {
                    self.fly((from, to, bytes));
                }
                Outcome::Dropped(reason) => *self.dropped.entry(reason.word()).or_default() += 1,
            }
        } else {
            panic!("{from} sent to {to}, where nobody is:\n{}", String::from_utf8_lossy(&bytes));
        }
    }

    /// Takes what everybody wants to send.
    fn collect(&mut self) {
        let mut leaving = Vec::new();
        for client in 0..self.clients.len() {
            self.crowd.remember(client);
            take(self.crowd.outgoing(client), self.clients[client], &mut leaving);
        }
        for (server, view) in &mut self.servers {
            take(server.outgoing(), view.address, &mut leaving);
        }
        leaving.into_iter().for_each(|packet| self.fly(packet));
    }

    fn fly(&mut self, packet: Packet) {
        for _ in 0..self.weather.pass(self.now, || packet.clone()) {
            self.put(packet.clone());
        }
        // What is held back leaves 30 ms later, behind what leaves meanwhile.
        while let Some(held) = self.weather.released(Time(u64::MAX)) {
            self.flown += 1;
            self.flying.push(Reverse((self.now + HOP * 30, self.flown, held)));
        }
    }

    fn put(&mut self, packet: Packet) {
        self.flown += 1;
        self.flying.push(Reverse((self.now + HOP, self.flown, packet)));
    }

    /// A datagram from outside of the simulation's clients.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.put((from, to, bytes));
    }

    /// What the clients report.
    pub fn report(&mut self) -> CallReport {
        self.crowd.close();
        CallReport { traffic: self.crowd.traffic(), ..CallReport::of(&self.crowd.books) }
    }

    /// The books of all servers: calls that came, calls to phones.
    pub fn server_books(&mut self) -> (Ledger, Ledger) {
        let (mut incoming, mut call_backs) = (Ledger::default(), Ledger::default());
        for (server, view) in &mut self.servers {
            server.close();
            incoming.add(&view.books().incoming);
            call_backs.add(&view.books().call_backs);
        }
        (incoming, call_backs)
    }

    /// Misdirected requests of all servers.
    pub fn misdirected(&self) -> u64 {
        self.servers.iter().map(|(_, view)| view.counters.misdirected.get()).sum()
    }
}

fn take(outgoing: &mut Outgoing, from: SocketAddr, leaving: &mut Vec<Packet>) {
    for (range, to) in outgoing.datagrams() {
        leaving.push((from, *to, outgoing.memory()[range.clone()].to_vec()));
    }
    outgoing.clear();
}
