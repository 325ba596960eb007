//! Everything that plays: five answering servers in three regions, the balancer before them, the clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::script::Event;
use crate::config::{Config, key};
use crate::load::{
    Answerer, AnswererOptions, Behaviour, CallReport, Carrier, Generator, GeneratorOptions, Habits, Listen, Manner,
    Mix, Timers, Weather,
};
use crate::run::{Balancer, StartError};
use crate::state::Snapshot;

/// A region of the cluster that the demo shows.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub name: &'static str,
    pub weight: u32,
    pub servers: usize,
}

/// Three regions, five servers.
pub const REGIONS: [Region; 3] = [
    Region { name: "lagos", weight: 70, servers: 3 },
    Region { name: "abuja", weight: 15, servers: 1 },
    Region { name: "asaba", weight: 15, servers: 1 },
];

/// Clients, balancer (outside and inside) and servers have networks of their own, as in a real deployment.
const CLIENTS: &str = "127.0.1.0/24";
const CLIENT_SOCKETS: usize = 64;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);
const INSIDE: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 2);

/// Calls of all kinds that need both ends to reach each other; a CANCEL is left out, for its call may end unanswered.
const MIX: &str = "call=6,server-bye=3,reinvite=1";
const HOLD: Duration = Duration::from_secs(1);

/// What plays.
pub struct Stage {
    pub servers: Answerer,
    clients: Generator,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where clients send to.
    pub address: SocketAddr,
    /// Where the stats page is.
    pub stats: SocketAddr,
    /// Which regions were killed.
    pub killed: [bool; REGIONS.len()],
}

impl Stage {
    /// Starts servers, balancer and clients. The balancer is apart: somebody must serve it.
    ///
    /// # Errors
    /// What the system refused.
    pub async fn start(rate: f64, length: Duration) -> Result<(Self, Balancer), String> {
        let servers = Answerer::start(&AnswererOptions { servers: cast(), ..AnswererOptions::default() })?;
        let address = SocketAddr::new(IpAddr::V4(OUTSIDE), free_port()?);
        let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 8404));
        let (stats, balancer) = match balance(address, usual, &servers).await {
            Ok(balancer) => (usual, balancer),
            // Somebody has the usual place of the stats page: another demo, perhaps.
            Err(_) => {
                let other = free_tcp_address()?;
                (other, balance(address, other, &servers).await?)
            }
        };
        let (snapshot, _) = balancer.view();
        let clients = Generator::start(options(address, rate, length)?)?;
        Ok((Self { servers, clients, snapshot, address, stats, killed: [false; REGIONS.len()] }, balancer))
    }

    /// Lets something happen to a region. A killed server's socket is closed, as when its process had died; its calls
    /// are still there when it comes back.
    pub fn play(&mut self, event: Event) {
        let (at, behaviour) = match event {
            Event::Kill(at) => (at, Behaviour::Closed),
            Event::Revive(at) => (at, Behaviour::Normal),
        };
        self.killed[at] = behaviour == Behaviour::Closed;
        for server in self.servers.servers().iter().filter(|server| region_of(&server.name) == at) {
            server.behave(behaviour);
        }
    }

    /// The clients' books, a tenth of a second old at most.
    pub fn report(&self) -> CallReport {
        self.clients.report()
    }

    /// Whether every call has ended.
    pub fn is_finished(&self) -> bool {
        self.clients.is_finished()
    }

    /// No new calls; the ones that are there come to their end.
    pub fn last_call(&self) {
        self.clients.stop_starting();
    }

    /// Hangs up on everybody.
    pub fn abort(&self) {
        self.clients.abort();
    }

    /// Ends clients and servers; the clients' last books.
    ///
    /// # Errors
    /// Where a thread did not end in order.
    pub fn end(self) -> Result<CallReport, String> {
        let report = self.clients.finish()?;
        self.servers.stop()?;
        Ok(report)
    }
}

/// A server's name without its backend's.
pub fn own_name(server: &str) -> &str {
    server.rsplit('/').next().unwrap_or(server)
}

/// The region of a server, by its name.
pub fn region_of(server: &str) -> usize {
    let server = own_name(server);
    REGIONS.iter().position(|region| server.starts_with(region.name)).unwrap_or_default()
}

/// Every server with an address of its own, 127.0.3.1 and on; the kernel chooses ports.
fn cast() -> Vec<(String, Listen)> {
    let names = REGIONS.iter().flat_map(|region| (1..=region.servers).map(move |n| format!("{}-{n}", region.name)));
    names.zip(1..).map(|(name, n)| (name, Listen::udp((Ipv4Addr::new(127, 0, 3, n), 0).into()))).collect()
}

/// A port that is free on both of the balancer's addresses.
fn free_port() -> Result<u16, String> {
    let refused = |error| format!("no free UDP port on {OUTSIDE} and {INSIDE}: {error}");
    for _ in 0..16 {
        let outside = UdpSocket::bind((OUTSIDE, 0)).map_err(refused)?;
        let port = outside.local_addr().map_err(refused)?.port();
        if UdpSocket::bind((INSIDE, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(refused(std::io::ErrorKind::AddrInUse.into()))
}

/// Starts the balancer, with the stats page at this address.
async fn balance(address: SocketAddr, stats: SocketAddr, servers: &Answerer) -> Result<Balancer, String> {
    let text = config(address, stats, servers);
    let config = Config::parse(&text)
        .map_err(|faults| format!("{}this is a bug of the demo, please report it", faults.render("demo", &text)))?;
    let mut secrets = [[0; 16]; 2];
    for secret in &mut secrets {
        getrandom::fill(secret).map_err(|error| format!("no random numbers: {error}"))?;
    }
    let keys = key::parse(&key::generate(secrets[0], secrets[1])).map_err(|_| "a key of our own cannot be read")?;
    Balancer::start(config, keys, None).await.map_err(|error: StartError| error.to_string())
}

/// An address of loopback that nobody listens at.
fn free_tcp_address() -> Result<SocketAddr, String> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    address.map_err(|error| format!("no free TCP port for the stats page: {error}"))
}

/// The configuration: an operator's, but with quick checks, for nobody likes to wait in a demo.
fn config(address: SocketAddr, stats: SocketAddr, servers: &Answerer) -> String {
    let mut text = format!(
        "[admin]\nstats = \"{stats}\"\nhealth = \"off\"\nmetrics = \"{stats}\"\n\n[[frontend]]\nname = \"demo\"\nbind = \"udp://{address}\"\ninside = \"{INSIDE}\"\nbackend = \"cluster\"\n\
         send_to = [\"127.0.0.0/8\"]\n\n\
         [[backend]]\nname = \"cluster\"\npin = {{ expire = \"10m\", size = 200_000 }}\n\
         check = {{ interval = \"1s\", timeout = \"500ms\", fast_interval = \"200ms\", rise = 2, fall = 2 }}\n"
    );
    for Region { name, weight, .. } in REGIONS {
        text += &format!("\n[[backend.region]]\nname = \"{name}\"\nweight = {weight}\n");
    }
    for server in servers.servers() {
        let region = REGIONS[region_of(&server.name)].name;
        let (name, address) = (&server.name, server.address);
        text +=
            &format!("\n[[backend.server]]\nname = \"{name}\"\nregion = \"{region}\"\naddress = \"udp://{address}\"\n");
    }
    text
}

fn options(to: SocketAddr, rate: f64, length: Duration) -> Result<GeneratorOptions, String> {
    let clients = CLIENTS.parse().map_err(|_| "the clients' network cannot be read")?;
    let habits = Habits {
        to,
        domain: to.to_string(),
        mix: Mix::parse(MIX)?,
        hold: HOLD,
        nat: true,
        body: 0,
        call_back_after: Duration::ZERO,
        limit: Manner::default().limit,
    };
    Ok(GeneratorOptions {
        habits,
        timers: Timers::default(),
        rate,
        count: u64::MAX,
        duration: length,
        clients,
        sockets: CLIENT_SOCKETS,
        carrier: Carrier::Udp,
        weather: Weather::default(),
        seed: 1,
    })
}
