//! Which sockets there are, and from which of them each server is reached.
//!
//! A frontend has two sides: `advertise` is what clients are told, `inside` what servers see. Each configured bind is a
//! socket; `inside` becomes one too, on the port of the frontend's bind, unless a bind already is that address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::config::{Addresses, Config, Frontend, Ports, Server};
use crate::sip::token::NameHash;
use crate::sip::{Side, Transport};

/// What only the host that runs us can tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    pub interfaces: Vec<IpAddr>,
    /// The address that the host's routing table uses towards each server.
    pub routes: HashMap<IpAddr, IpAddr>,
    /// The addresses that it uses towards anybody: what clients are told of a wildcard bind without `advertise`.
    pub outside: Addresses,
    /// Tells this process's send times from another node's.
    pub node: u16,
}

/// One address with a socket on every worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The number of its socket on every worker, which it keeps for as long as its address is configured.
    pub lane: u16,
    /// Whose it is: messages that come to it are this frontend's.
    pub frontend: u16,
    pub transport: Transport,
    pub address: SocketAddr,
    pub dscp: Option<u8>,
    /// What clients are told; `None` on a wildcard without `advertise` and name: the address the message came to.
    pub outer: Option<Side>,
    /// The host's address towards anybody, where this is a wildcard: for messages that no local address was named for.
    pub host: Option<SocketAddr>,
}

impl Bind {
    /// Whether it listens on every address, so that the address a datagram came to must be asked for.
    pub fn is_wildcard(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    /// Whether a message from this local address can leave here.
    #[inline]
    pub fn serves(&self, transport: Transport, local: &SocketAddr) -> bool {
        let ip = match (&self.address, local) {
            (SocketAddr::V4(own), SocketAddr::V4(local)) => own.ip() == local.ip() || own.ip().is_unspecified(),
            (SocketAddr::V6(own), SocketAddr::V6(local)) => own.ip() == local.ip() || own.ip().is_unspecified(),
            _ => false,
        };
        ip && self.address.port() == local.port() && self.transport == transport
    }
}

/// The addresses that a relay listens on: one for each port of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayBind {
    pub frontend: u16,
    pub ip: IpAddr,
    pub ports: Ports,
    pub dscp: Option<u8>,
}

impl RelayBind {
    /// Whether a datagram to this address comes here.
    pub fn serves(&self, local: SocketAddr) -> bool {
        let ip = self.ip == local.ip() || self.ip.is_unspecified() && self.ip.is_ipv4() == local.is_ipv4();
        ip && self.ports.contains(local.port())
    }
}

/// How a frontend reaches a server: from this bind, with this source address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    pub bind: u16,
    /// What the server sees: source, Via, Record-Route, Path.
    pub local: SocketAddr,
    /// The same as messages name it.
    pub side: Side,
}

/// The binds of a configuration, and for each frontend and each server (all backends in order) its egress.
pub struct Plan {
    pub binds: Vec<Bind>,
    /// In order of address and port.
    pub relays: Vec<RelayBind>,
    pub egresses: Vec<Vec<Egress>>,
    /// By frontend, then by server: position in `egresses`, or [`UNREACHABLE`].
    pub egress_of: Vec<Vec<u16>>,
}

/// The addresses that servers see of each frontend.
pub type Seen = HashMap<NameHash, Vec<(Transport, SocketAddr)>>;

/// A server that this frontend has no address to reach from.
pub const UNREACHABLE: u16 = u16::MAX;

impl Plan {
    /// `before` are the binds of the generation before: an address that was bound keeps its lane. `seen` is what servers
    /// saw of each frontend: that stays for as long as one of its binds has the port.
    pub fn new(config: &Config, host: &Host, before: &[Bind], seen: &Seen) -> Self {
        let mut plan = Self { binds: Vec::new(), relays: relays(config), egresses: Vec::new(), egress_of: Vec::new() };
        let each = || config.frontends.iter().enumerate();
        // A relay of datagrams has sockets of its own kind, and one of connections opens them from whatever port is free.
        for (position, frontend) in each().filter(|(_, frontend)| frontend.relay().is_none()) {
            for bind in &frontend.binds {
                plan.bind(host, position, frontend, (bind.transport, bind.address));
            }
        }
        plan.egresses.resize(config.frontends.len(), Vec::new());
        plan.egress_of.resize(config.frontends.len(), Vec::new());
        for (position, frontend) in each().filter(|(_, frontend)| frontend.is_proxy()) {
            for inside in [frontend.inside.v4, frontend.inside.v6].into_iter().flatten() {
                for transport in transports(config, frontend) {
                    let port = port_for(config, frontend, seen, (transport, inside));
                    plan.bind(host, position, frontend, (transport, SocketAddr::new(inside, port)));
                }
            }
            let mut egresses = Vec::new();
            let servers = config.backends.iter().flat_map(|backend| &backend.servers);
            let of = servers.map(|server| plan.reach(config, (host, seen), position, server, &mut egresses)).collect();
            (plan.egresses[position], plan.egress_of[position]) = (egresses, of);
        }
        plan.number_lanes(before);
        plan
    }

    /// A new address takes the lowest lane that is not in use, nor was until now.
    fn number_lanes(&mut self, before: &[Bind]) {
        let mut free = (0..u16::MAX).filter(|lane| before.iter().all(|bind| bind.lane != *lane));
        for bind in &mut self.binds {
            let same = |other: &&Bind| other.transport == bind.transport && other.address == bind.address;
            let kept = before.iter().find(same).map(|other| other.lane);
            bind.lane = kept.or_else(|| free.next()).unwrap_or(u16::MAX);
        }
    }

    /// The bind of an address, made if it is not there.
    fn bind(
        &mut self,
        host: &Host,
        frontend: usize,
        config: &Frontend,
        (transport, address): (Transport, SocketAddr),
    ) -> usize {
        let same = |bind: &Bind| bind.transport == transport && bind.address == address;
        if let Some(at) = self.binds.iter().position(same) {
            return at;
        }
        let own = (!address.ip().is_unspecified()).then_some(address);
        let outer = config.advertise.like(address.ip()).map(|ip| SocketAddr::new(ip, address.port())).or(own);
        let host = own.is_none().then(|| host.outside.like(address.ip())).flatten();
        let host = host.map(|ip| SocketAddr::new(ip, address.port()));
        self.binds.push(Bind {
            host,
            lane: 0,
            frontend: frontend as u16,
            transport,
            address,
            dscp: config.dscp,
            outer: match config.tls.as_ref().and_then(|tls| tls.name.as_ref()) {
                Some(name) if transport == Transport::Tls => {
                    Some(Side::named(transport, outer.unwrap_or(address), name))
                }
                _ => outer.map(|address| Side::of(transport, address)),
            },
        });
        self.binds.len() - 1
    }

    /// How a frontend reaches a server's address: from `inside` if it is given, else from the address that the host
    /// would use.
    fn reach(
        &mut self,
        config: &Config,
        (host, seen): (&Host, &Seen),
        position: usize,
        server: &Server,
        egresses: &mut Vec<Egress>,
    ) -> u16 {
        let (frontend, transport, server) = (&config.frontends[position], server.transport, server.address.ip());
        let fixed = frontend
            .binds
            .iter()
            .map(|bind| bind.address.ip())
            .find(|ip| ip.is_ipv4() == server.is_ipv4() && !ip.is_unspecified());
        let ip = frontend.inside.like(server).or_else(|| host.routes.get(&server).copied()).or(fixed);
        let Some(ip) = ip else { return UNREACHABLE };
        let local = SocketAddr::new(ip, port_for(config, frontend, seen, (transport, ip)));
        let own =
            |bind: &&Bind| bind.frontend as usize == position && bind.transport == transport && bind.address == local;
        let bind =
            match self.binds.iter().find(own).or_else(|| self.binds.iter().find(|bind| bind.serves(transport, &local)))
            {
                Some(bind) => self.binds.iter().position(|other| other == bind).unwrap_or_default(),
                None => self.bind(host, position, frontend, (transport, local)),
            };
        let egress = Egress { bind: bind as u16, local, side: Side::of(transport, local) };
        let at = egresses.iter().position(|other| *other == egress).unwrap_or_else(|| {
            egresses.push(egress);
            egresses.len() - 1
        });
        at as u16
    }
}

/// The transports in which a frontend speaks to servers.
fn transports(config: &Config, frontend: &Frontend) -> Vec<Transport> {
    let backends = frontend.backends().into_iter().filter_map(|at| config.backends.get(at));
    let mut transports: Vec<_> = backends.flat_map(|backend| &backend.servers).map(|server| server.transport).collect();
    transports.sort_unstable();
    transports.dedup();
    transports
}

/// The port that servers see: the one they saw, where one of this frontend's binds still has it; else of its first bind
/// of the transport and family, else of any of the transport, else of the first frontend's; where nobody listens to the
/// transport, that of its first bind that is TLS as this is, or is not, else the transport's own.
fn port_for(config: &Config, frontend: &Frontend, seen: &Seen, (transport, ip): (Transport, IpAddr)) -> u16 {
    type Bind = crate::config::Bind;
    let speaks = |bind: &&Bind| bind.transport == transport;
    let own = || frontend.binds.iter().filter(speaks);
    let mut kept =
        seen.get(&frontend.id).into_iter().flatten().filter(|local| (local.0, local.1.ip()) == (transport, ip));
    if let Some((_, local)) = kept.find(|(_, local)| own().any(|bind| bind.address.port() == local.port())) {
        return local.port();
    }
    let like = |bind: &&Bind| bind.address.is_ipv4() == ip.is_ipv4();
    let others = || config.frontends.iter().filter(|frontend| frontend.is_proxy());
    let first = || others().flat_map(|frontend| &frontend.binds).find(speaks);
    let secure = |transport| transport == Transport::Tls;
    let sibling = || frontend.binds.iter().find(|bind| secure(bind.transport) == secure(transport));
    let bind = own().find(like).or_else(|| own().next()).or_else(first).or_else(sibling);
    bind.map_or(transport.default_port(), |bind| bind.address.port())
}

fn relays(config: &Config) -> Vec<RelayBind> {
    let of = |(frontend, at): (&Frontend, u16)| {
        let bind = move |bind: &crate::config::Bind| (at, bind.address.ip(), bind.ports);
        let dscp = frontend.dscp;
        let binds: Vec<_> = frontend.relay().map_or(Vec::new(), |_| frontend.binds.iter().map(bind).collect());
        binds.into_iter().map(move |(frontend, ip, ports)| RelayBind { frontend, ip, ports, dscp })
    };
    let mut relays: Vec<_> = config.frontends.iter().zip(0..).flat_map(of).collect();
    relays.sort_by_key(|relay| (relay.ip, relay.ports));
    relays
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, host: &Host) -> Plan {
        let servers =
            "[[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"udp://10.0.10.11:5060\"\n";
        let text = format!("{text}\n{servers}");
        Plan::new(&Config::good(&text), host, &[], &Seen::new())
    }

    fn host() -> Host {
        let route = |server: &str, local: &str| (server.parse().unwrap(), local.parse().unwrap());
        Host { routes: [route("10.0.10.11", "10.0.1.99")].into(), ..Host::default() }
    }

    fn addresses(plan: &Plan) -> Vec<String> {
        plan.binds.iter().map(|bind| bind.address.to_string()).collect()
    }

    /// A side that no bind of the file speaks is made.
    #[test]
    fn servers_are_reached_by_a_transport_that_no_client_speaks() {
        for (bind, server, seen) in [
            ("tcp://10.0.1.10:5070", "udp", "10.0.1.99:5070"),
            ("tls://10.0.1.10:5061", "udp", "10.0.1.99:5060"),
            ("udp://10.0.1.10:5060", "tcp", "10.0.1.99:5060"),
            ("udp://10.0.1.10:5060", "tls", "10.0.1.99:5061"),
        ] {
            let tls = if bind.starts_with("tls") { "[frontend.tls]\ncertificates = \"/etc/c\"\n" } else { "" };
            let text = format!(
                "[[frontend]]\nname = \"f\"\nbind = \"{bind}\"\nbackend = \"b\"\n{tls}\
                 [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"{server}://10.0.10.11:5060\"\n"
            );
            let plan = Plan::new(&Config::good(&text), &host(), &[], &Seen::new());
            assert_eq!(plan.binds.len(), 2, "{bind}");
            assert_eq!(plan.egresses[0][0].local, seen.parse().unwrap(), "{bind}");
            assert_eq!(plan.binds[usize::from(plan.egresses[0][0].bind)].transport.name(), server);
        }
    }

    #[test]
    fn inside_is_a_socket_of_its_own_on_the_frontend_s_port() {
        let plan = plan(
            "[[frontend]]\nname = \"f\"\nbind = \"udp://203.0.113.10:5062\"\ninside = \"10.0.1.10\"\nbackend = \"b\"",
            &host(),
        );
        assert_eq!(addresses(&plan), ["203.0.113.10:5062", "10.0.1.10:5062"]);
        let egress = &plan.egresses[0][plan.egress_of[0][0] as usize];
        assert_eq!((egress.bind, egress.side.uri.as_bytes()), (1, &b"10.0.1.10:5062"[..]));
    }

    #[test]
    fn without_inside_the_host_s_route_decides() {
        let one = plan("[[frontend]]\nname = \"f\"\nbind = \"udp://10.0.1.99:5060\"\nbackend = \"b\"", &host());
        assert_eq!((addresses(&one), one.egresses[0][0].bind), (vec!["10.0.1.99:5060".to_owned()], 0));
        let wild = plan("[[frontend]]\nname = \"f\"\nbind = \"udp://0.0.0.0:5060\"\nbackend = \"b\"", &host());
        assert_eq!(
            (addresses(&wild), wild.egresses[0][0].local.to_string()),
            (vec!["0.0.0.0:5060".to_owned()], "10.0.1.99:5060".to_owned())
        );
        let other = plan("[[frontend]]\nname = \"f\"\nbind = \"udp://203.0.113.10:5060\"\nbackend = \"b\"", &host());
        assert_eq!(addresses(&other), ["203.0.113.10:5060", "10.0.1.99:5060"]);
    }

    #[test]
    fn two_frontends_share_one_inside_address() {
        let text = "[[frontend]]\nname = \"f\"\nbind = \"udp://1.1.1.1:5060\"\ninside = \"10.0.1.10\"\nbackend = \"b\"\n\
                    [[frontend]]\nname = \"g\"\nbind = \"udp://1.1.1.2:5060\"\ninside = \"10.0.1.10\"\nbackend = \"b\"\nadvertise = \"9.9.9.9\"";
        let plan = plan(text, &host());
        assert_eq!(addresses(&plan), ["1.1.1.1:5060", "1.1.1.2:5060", "10.0.1.10:5060"]);
        assert_eq!((plan.egresses[0][0].bind, plan.egresses[1][0].bind), (2, 2));
        assert_eq!(
            plan.binds[1].outer.as_ref().map(|outer| outer.address.to_string()).as_deref(),
            Some("9.9.9.9:5060")
        );
    }
}
