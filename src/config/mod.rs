//! What the operator asked for, made impossible to misread.
//!
//! Text goes in, a [`Config`] comes out, or every fault of the text at once: where it is, what is wrong, what to write
//! instead. This floor opens no file and asks no clock; the roof reads the text. Start with [`mod@file`] for the keys,
//! their defaults and limits; [`resolve`] ties names to each other; [`key`] is the format of `cluster.key`.

pub mod admin;
mod check;
pub mod difference;
mod dns;
pub mod fault;
pub mod file;
pub mod follow;
mod habits;
pub mod haproxy;
pub mod key;
pub mod leaving;
pub mod limits;
pub mod names;
mod read;
mod relay;
mod resolve;
pub mod streams;
pub mod tls;
mod value;
pub mod warnings;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::balance::Algorithm;
use crate::sip::Transport;
use crate::sip::proxy_protocol::Version;
use crate::sip::token::NameHash;
use admin::Http;
pub use check::{Check, CheckKind, HttpCheck};
use follow::Follow;
use limits::Limits;
pub use names::Named;
use names::Query;
use streams::{Connections, Timeout};
use tls::{BackendTls, FrontendTls};

pub use dns::Dns;
pub use fault::{Fault, Faults};
pub use value::{Rate, Source, is_one_host};

/// Where commands come in where `runtime_socket` says nothing else.
pub const RUNTIME_SOCKET: &str = "/run/trunkline/admin.sock";

/// Where the history and the audit log are where `state_dir` says nothing else.
pub const STATE_DIR: &str = "/var/lib/trunkline";

/// A configuration without faults.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    pub cluster_key_file: PathBuf,
    /// Where commands come in; `None` where nothing is written: then it is [`RUNTIME_SOCKET`], if that can be had.
    pub runtime_socket: Option<PathBuf>,
    /// Where the history and the audit log are; `None` where nothing is written: then it is [`STATE_DIR`], if that can be had.
    pub state_dir: Option<PathBuf>,
    /// Where people look in over HTTP; `None`: nowhere.
    pub http: Option<Http>,
    pub follow: Follow,
    pub dns: Dns,
    pub frontends: Vec<Frontend>,
    pub backends: Vec<Backend>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Every [`Fault`] of the text, in order of position.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let (file, mut faults) = file::File::parse(text);
        let config = resolve::resolve(file, &mut faults);
        if faults.is_empty() { Ok(config) } else { Err(faults.in_order()) }
    }

    /// The files and folders that it names and that come with no package: the cluster key, certificates, keys, authorities.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.cluster_key_file.clone()];
        self.frontends.iter().filter_map(|frontend| frontend.tls.as_ref()).for_each(|tls| files.extend(tls.files()));
        self.backends.iter().for_each(|backend| files.extend(backend.tls.files()));
        files
    }

    /// Everything that is asked of the DNS.
    pub fn queries(&self) -> impl Iterator<Item = &Query> {
        self.backends.iter().flat_map(|backend| &backend.names).map(|named| &named.query)
    }

    /// Whether servers can be reached by IPv4, and by IPv6.
    pub fn families(&self) -> (bool, bool) {
        let any = |ip: IpAddr| self.frontends.iter().any(|frontend| frontend.reaches(ip));
        (any(Ipv4Addr::UNSPECIFIED.into()), any(Ipv6Addr::UNSPECIFIED.into()))
    }
}

impl Config {
    /// How many files a process with so many workers has open at most.
    pub fn open_files(&self, workers: usize) -> OpenFiles {
        /// The standard streams, commands, and what the threads wait with.
        const BASE: usize = 64;
        /// Connections that a server opens itself: those in use open one, and one more before the other is closed.
        const OWN: usize = 4;
        let relays = || self.frontends.iter().filter_map(|frontend| Some((frontend, frontend.relay()?)));
        let sockets = |ports: Ports| if ports.count() == 1 { workers } else { ports.count() };
        let ports: usize = relays().flat_map(|(frontend, _)| &frontend.binds).map(|bind| sockets(bind.ports)).sum();
        let flows = relays().map(|(_, relay)| relay.max_flows).sum();
        // `inside` may be two addresses more.
        let others = self.frontends.iter().filter(|frontend| frontend.relay().is_none());
        // Who lets clients in has a descriptor of its own.
        let listeners =
            others.clone().flat_map(|frontend| &frontend.binds).filter(|bind| bind.transport != Transport::Udp);
        let second = listeners.count() * workers;
        let proxies: usize = others.map(|frontend| (frontend.binds.len() + 2) * workers).sum();
        // A socket for each check, and where it is no UDP each worker's connection.
        let each = |transport| if transport == Transport::Udp { 1 } else { 1 + workers + OWN };
        let most = |backend: &Backend| {
            let servers = backend.servers.iter().map(|server| each(server.transport)).sum::<usize>();
            servers + backend.names.iter().map(|name| names::MOST_ADDRESSES * each(name.query.transport)).sum::<usize>()
        };
        let servers = self.backends.iter().map(most).sum::<usize>();
        // As many as clients may have.
        let each = |frontend: &Frontend| frontend.connections.most as usize * frontend.files_of_connection();
        let connections = self.frontends.iter().filter(|frontend| frontend.has_streams()).map(each).sum();
        let visitors = self.http.as_ref().map_or(0, |http| http.listeners().len() * (1 + admin::CONNECTIONS));
        let all = BASE + visitors + 8 * workers + servers + proxies + second + ports + flows;
        OpenFiles { all, ports, flows, listening: proxies + ports, connections }
    }
}

/// What a configuration needs of the host ([`Config::open_files`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    pub all: usize,
    /// Of these for the ports of relays and for their flows.
    pub ports: usize,
    pub flows: usize,
    /// Of these what a restart must not lose: the sockets of binds and the ports of relays.
    pub listening: usize,
    /// Beside all these, for the connections of clients. Where the host has not so many, fewer are let in.
    pub connections: usize,
}

/// Names a text: the log and `trunkline check` show it, so that one can tell which configuration runs. It finds what broke by
/// itself, not what somebody forged.
pub fn fingerprint(text: impl AsRef<[u8]>) -> u64 {
    use std::hash::Hasher;
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(text.as_ref());
    hasher.finish()
}

/// The socket that a configuration names, however faulty the rest of it is.
pub fn runtime_socket(text: &str) -> Option<PathBuf> {
    file::File::parse(text).0.runtime_socket.map(|path| path.value.into())
}

/// The state folder that a configuration names, however faulty the rest of it is.
pub fn state_dir(text: &str) -> Option<PathBuf> {
    file::File::parse(text).0.state_dir.map(|path| path.value.into())
}

/// The file of the cluster key that a configuration names, however faulty the rest of it is; the usual one where it names none.
pub fn cluster_key_file(text: &str) -> PathBuf {
    file::File::parse(text).0.cluster_key_file.into()
}

/// One address for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Option<IpAddr>,
    pub v6: Option<IpAddr>,
}

impl Addresses {
    /// The address of the same family as `like`.
    pub fn like(&self, like: IpAddr) -> Option<IpAddr> {
        if like.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// What clients talk to.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    pub name: String,
    pub id: NameHash,
    pub mode: Mode,
    pub binds: Vec<Bind>,
    /// What clients are told: Via and Record-Route towards them.
    pub advertise: Addresses,
    /// What servers see: source, Via, Record-Route and Path towards them.
    pub inside: Addresses,
    /// Names that mean us in Route and Request-URI.
    pub aliases: Vec<String>,
    /// Position of the default backend.
    pub backend: usize,
    pub routes: Vec<Route>,
    pub record_route: bool,
    pub path: Path,
    pub force_rport: ForceRport,
    /// Inside networks that servers may reach through us.
    pub send_to: Vec<IpNet>,
    pub source_header: Option<String>,
    /// The upper six bits of the IP header's traffic class.
    pub dscp: Option<u8>,
    pub limits: Limits,
    pub connections: Connections,
    /// Where a bind is tls://.
    pub tls: Option<FrontendTls>,
    /// Networks whose connections begin with a header of the PROXY protocol, which is believed.
    pub accept_proxy: Vec<IpNet>,
    /// Whether it is here only because what is in flight there comes to an end.
    pub leaves: bool,
}

impl Frontend {
    /// Whether it has an address of the same family to reach this one from.
    pub fn reaches(&self, ip: IpAddr) -> bool {
        self.inside.like(ip).is_some() || self.binds.iter().any(|bind| bind.address.is_ipv4() == ip.is_ipv4())
    }

    /// Whether one of its addresses is tcp:// or tls://.
    pub fn has_streams(&self) -> bool {
        self.binds.iter().any(|bind| bind.transport != Transport::Udp)
    }

    /// Whether one of its addresses is tls://.
    pub fn has_tls(&self) -> bool {
        self.binds.iter().any(|bind| bind.transport == Transport::Tls)
    }

    /// Whether it reads messages.
    pub fn is_proxy(&self) -> bool {
        self.mode == Mode::Proxy
    }

    /// The bounds of its flows; `None` where it has none: of a proxy, and of a relay of connections.
    pub fn relay(&self) -> Option<&Relay> {
        match &self.mode {
            Mode::Relay(relay) => Some(relay),
            Mode::Proxy | Mode::RelayStreams => None,
        }
    }

    /// Whether it passes connections on, unread.
    pub fn relays_streams(&self) -> bool {
        self.mode == Mode::RelayStreams
    }

    /// How many open files a client's connection needs.
    pub fn files_of_connection(&self) -> usize {
        if self.relays_streams() { RELAYED_FILES } else { 1 }
    }

    /// The positions of the backends that it may choose: the default and those of its routes, each once.
    pub fn backends(&self) -> BTreeSet<usize> {
        std::iter::once(self.backend).chain(self.routes.iter().map(|route| route.backend)).collect()
    }
}

/// A relayed connection is one from a client and one to a server.
pub const RELAYED_FILES: usize = 2;

/// What a frontend does with what comes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A stateless SIP proxy.
    Proxy,
    /// Datagrams go through unread and unchanged, each client's by a flow of its own.
    Relay(Relay),
    /// Connections go through unread, each client's by one of its own to a server.
    RelayStreams,
}

impl Mode {
    /// As it is written.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Relay(_) | Self::RelayStreams => "relay",
        }
    }
}

/// The bounds of a relay's flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// A flow ends when neither side has sent for this long.
    pub idle: Duration,
    /// Flows that may be open at once.
    pub max_flows: usize,
}

/// One listening address, or one for each port of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bind {
    pub transport: Transport,
    /// With its first port.
    pub address: SocketAddr,
    pub ports: Ports,
}

impl Bind {
    /// Whether a datagram, or a connection, could be for both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.transport == other.transport && self.is_on_the_port_of(other)
    }

    /// Whether they have a port in common. One of TCP is one port, whatever is spoken there.
    pub fn is_on_the_port_of(&self, other: &Self) -> bool {
        let (ip, other_ip) = (self.address.ip(), other.address.ip());
        let family = ip.is_ipv4() == other_ip.is_ipv4();
        let meet = ip == other_ip || family && (ip.is_unspecified() || other_ip.is_unspecified());
        let kind = (self.transport == Transport::Udp) == (other.transport == Transport::Udp);
        meet && kind && self.ports.overlaps(other.ports)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, address, ports } = self;
        write!(f, "{}://{address}", transport.name())?;
        if ports.count() > 1 { write!(f, "-{}", ports.last) } else { Ok(()) }
    }
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// When REGISTER gets a Path (RFC 3327 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Off,
    /// Only where the client lists `path` in Supported.
    Supported,
    /// Always, adding `Supported: path` where it lacks.
    Always,
}

/// Whether nobody but relays of connections knows a backend (its position).
pub fn is_relayed(backend: usize, frontends: &[Frontend]) -> bool {
    let mut users = frontends.iter().filter(|frontend| frontend.backends().contains(&backend)).peekable();
    users.peek().is_some() && users.all(Frontend::relays_streams)
}

/// When answers go to the source port though the client did not ask for it (RFC 3581).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForceRport {
    /// For clients that are behind NAT.
    Auto,
    Always,
    Never,
}

/// A rule that picks another backend: all conditions that are given must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub methods: Vec<String>,
    pub clients: Vec<IpNet>,
    /// Hosts of the Request-URI, lower case.
    pub hosts: Vec<String>,
    pub backend: usize,
}

/// Servers with one algorithm and one check.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub name: String,
    pub balance: Algorithm,
    pub pin: Pin,
    pub stick: Option<Stick>,
    /// `None`: not checked, always up.
    pub check: Option<Check>,
    pub suspect: Suspect,
    /// `None`: no breakers.
    pub breaker: Option<Breaker>,
    pub when_all_down: WhenAllDown,
    /// In percent of a region's server weight.
    pub spill_below: u32,
    /// Whether another server may take the dialogs of a dead one.
    pub in_dialog_failover: bool,
    /// Whether a server's 503 reaches clients as 503.
    pub pass_503: bool,
    /// Towards those servers that are tls://.
    pub tls: BackendTls,
    pub timeout: Timeout,
    /// Which header of the PROXY protocol a relay's connections to its servers begin with.
    pub send_proxy: Option<Version>,
    pub regions: Vec<Region>,
    /// Those with an address; after [`names::expand`] also those that the DNS has for [`Backend::names`].
    pub servers: Vec<Server>,
    pub names: Vec<Named>,
    /// Whether it is here only because servers or frontends leave.
    pub leaves: bool,
}

impl Backend {
    /// Whether one of its servers is tls://.
    pub fn has_tls(&self) -> bool {
        let names = self.names.iter().map(|named| named.query.transport);
        self.servers.iter().map(|server| server.transport).chain(names).any(|transport| transport == Transport::Tls)
    }
}

/// The memory of which call belongs to which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// How long a confirmed pin outlives its last use.
    pub expire: Duration,
    /// Calls.
    pub size: usize,
}

/// The memory of which key belongs to which server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stick {
    pub on: StickOn,
    pub expire: Duration,
    pub size: usize,
}

/// What new calls of one backend are kept together by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickOn {
    /// The source address; of an IPv6 address the given number of leading bits.
    Source {
        v6_prefix: u8,
    },
    FromUser,
    ToUser,
    /// A header, by its name as configured.
    Header(String),
}

/// When a server's silence makes it suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// So many requests without an answer, and not a word from it.
    pub unanswered: u32,
    /// For so long.
    pub after: Duration,
}

/// When new calls leave a server though its checks pass, and how they come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// So many failures in a row open it.
    pub failures: u32,
    /// So many good trial calls close it again.
    pub successes: u32,
    /// From opening to the first trial call.
    pub open_for: Duration,
    /// So many trial calls, and no more, until it is decided.
    pub half_open_max: u32,
    /// A new call without any answer, not even a 100, has failed after so long.
    pub answer_within: Duration,
    /// Final statuses that are failures of the server.
    pub codes: Vec<u16>,
    /// So is a check that is not passed.
    pub checks: bool,
    /// The most of a backend's weight that may be taken away by breakers, percent.
    pub max_open: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAllDown {
    /// Answer 503.
    Reject,
    /// Send anyway.
    Forward,
}

/// A weighted group of a backend's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub name: String,
    pub id: NameHash,
    pub weight: u32,
    /// Sources that prefer this region.
    pub clients: Vec<IpNet>,
}

/// One member of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    /// Hash of "backend/server".
    pub id: NameHash,
    /// Position of its region.
    pub region: usize,
    pub transport: Transport,
    /// Where there are `ports`, with the first of them.
    pub address: SocketAddr,
    /// Its part of a relay's range: what comes to one of these ports goes to the same port of this server.
    pub ports: Option<Ports>,
    pub sources: Vec<Source>,
    /// The name or address that its certificate must be for, where it is tls://.
    pub tls_name: Option<String>,
    pub weight: u32,
    /// The most calls at once; 0 is no limit.
    pub max_calls: u32,
    /// The most new calls.
    pub max_rate: Option<Rate>,
    /// How long its weight rises when it comes back.
    pub slow_start: Duration,
    pub backup: bool,
}

impl Server {
    /// The name that it is an address of; no written name looks like one.
    pub fn of_name(&self) -> Option<&str> {
        self.name.split_once('@').map(|(name, _)| name)
    }
}

#[cfg(test)]
impl Config {
    /// Reads a configuration that a test wants to be good, or shows its faults.
    pub fn good(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|faults| panic!("{}", faults.render("test", text)))
    }
}

#[cfg(test)]
mod tests;
