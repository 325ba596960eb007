//! Our own addresses and names.

use std::net::{IpAddr, SocketAddr};

use crate::config::Config;
use crate::config::admin::Http;
use crate::sip::DEFAULT_PORT;
use crate::sip::text::parse_ip;
use crate::sip::uri::Uri;
use crate::state::binds::{Host, Plan, RelayBind};
use crate::state::lookup::{AddressMap, Set, hasher};

/// Everything that means us.
pub(super) struct OwnAddresses {
    addresses: AddressMap,
    ips: Set<IpAddr>,
    ports: Set<u16>,
    aliases: Vec<Box<[u8]>>,
    relays: Vec<RelayBind>,
}

impl OwnAddresses {
    pub(super) fn new(config: &Config, host: &Host, plan: &Plan) -> Self {
        let mut own = Self {
            addresses: AddressMap::default(),
            ips: Set::with_hasher(hasher()),
            ports: Set::with_hasher(hasher()),
            aliases: Vec::new(),
            relays: plan.relays.clone(),
        };
        for relay in &plan.relays {
            own.ips.extend(Some(relay.ip).filter(|ip| !ip.is_unspecified()));
            own.ips.extend(host.interfaces.iter().filter(|_| relay.ip.is_unspecified()));
        }
        for bind in &plan.binds {
            own.ports.insert(bind.address.port());
            own.extend(bind.outer.as_ref().map(|outer| outer.address).filter(|outer| !outer.ip().is_unspecified()));
            if bind.is_wildcard() {
                let like = |ip: &&IpAddr| ip.is_ipv4() == bind.address.is_ipv4();
                own.extend(host.interfaces.iter().filter(like).map(|ip| SocketAddr::new(*ip, bind.address.port())));
            } else {
                own.extend([bind.address]);
            }
        }
        own.extend(plan.egresses.iter().flatten().map(|egress| egress.local));
        for alias in config.frontends.iter().flat_map(|frontend| &frontend.aliases).map(String::as_bytes) {
            let Some(ip) = parse_ip(alias) else {
                own.aliases.push(alias.into());
                continue;
            };
            let ports = own.ports.iter().copied().chain([DEFAULT_PORT, DEFAULT_PORT + 1]);
            let addresses: Vec<_> = ports.map(|port| SocketAddr::new(ip, port)).collect();
            own.extend(addresses);
        }
        // No server has business there (docs/rules.md 20).
        own.ips.extend(
            config.http.iter().flat_map(Http::listeners).map(|(at, _)| at.ip()).filter(|ip| !ip.is_unspecified()),
        );
        own
    }

    /// Whether an address and port are ours.
    #[inline]
    pub(super) fn has(&self, address: &SocketAddr) -> bool {
        self.addresses.get(address).is_some() || self.is_relay(*address)
    }

    /// Whether an address is ours, on any port.
    pub(super) fn has_ip(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip)
    }

    /// Whether a URI means us.
    pub(super) fn is_meant(&self, uri: &Uri, bytes: &[u8], came_to: SocketAddr) -> bool {
        match uri.ip(bytes) {
            Some(ip) => {
                let address = SocketAddr::new(ip, uri.port_or_default(bytes));
                address == came_to || self.has(&address)
            }
            None => {
                let host = uri.host.of(bytes);
                uri.port.is_none_or(|port| self.ports.contains(&port))
                    && self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(host))
            }
        }
    }

    /// Whether it is a port of a relay. There are few relays, and none of their ports is written down one by one.
    fn is_relay(&self, address: SocketAddr) -> bool {
        self.relays.iter().any(|relay| relay.serves(address)) && self.ips.contains(&address.ip())
    }

    fn extend(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        for address in addresses {
            self.addresses.insert(address, 0);
            self.ips.insert(address.ip());
        }
    }
}
