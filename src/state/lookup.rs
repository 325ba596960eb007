//! Lookups by address that cost the same for one server and for a thousand.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config::Source;

/// Maps keyed by configured addresses and names. Fixed seeds: the keys are the operator's, and a generation must not
/// depend on chance.
pub type Map<K, V> = HashMap<K, V, ahash::RandomState>;
pub type Set<K> = HashSet<K, ahash::RandomState>;

pub fn hasher() -> ahash::RandomState {
    ahash::RandomState::with_seeds(1, 2, 3, 4)
}

/// A set of networks as sorted, disjoint ranges.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Networks {
    pub fn new<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut networks = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => networks.v4.push((net.network().into(), net.broadcast().into())),
                IpNet::V6(net) => networks.v6.push((net.network().into(), net.broadcast().into())),
            }
        }
        merge(&mut networks.v4);
        merge(&mut networks.v6);
        networks
    }

    #[inline]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => in_ranges(&self.v4, ip.into()),
            IpAddr::V6(ip) => in_ranges(&self.v6, ip.into()),
        }
    }
}

fn merge<T: Ord + Copy>(ranges: &mut Vec<(T, T)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let overlap = next.0 <= before.1;
        if overlap {
            before.1 = before.1.max(next.1);
        }
        overlap
    });
}

#[inline]
fn in_ranges<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let behind = ranges.partition_point(|range| range.0 <= value);
    behind > 0 && value <= ranges[behind - 1].1
}

/// Who sends from an address: servers by what they send from, the most specific first (SIP.md 20).
#[derive(Clone, Debug)]
pub struct Sources {
    exact: Map<(IpAddr, u16), u16>,
    /// Networks by prefix length, longest first; there are only a few lengths.
    nets: Vec<(IpNet, Map<IpAddr, u16>)>,
}

impl Sources {
    /// From sources and the position of the server that sends from them.
    pub fn new<'a>(sources: impl IntoIterator<Item = (&'a Source, u16)>) -> Self {
        let mut all = Self { exact: Map::with_hasher(hasher()), nets: Vec::new() };
        for (source, server) in sources {
            let host = source.net.prefix_len() == source.net.max_prefix_len();
            if let Some(port) = source.port.filter(|_| host) {
                all.exact.insert((source.net.addr(), port), server);
            } else {
                all.level(source.net).insert(source.net.network(), server);
            }
        }
        all.nets.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        all
    }

    fn level(&mut self, net: IpNet) -> &mut Map<IpAddr, u16> {
        let same =
            |level: &IpNet| level.prefix_len() == net.prefix_len() && level.max_prefix_len() == net.max_prefix_len();
        let at = match self.nets.iter().position(|(level, _)| same(level)) {
            Some(at) => at,
            None => {
                self.nets.push((net, Map::with_hasher(hasher())));
                self.nets.len() - 1
            }
        };
        &mut self.nets[at].1
    }

    /// The server that sends from this address.
    #[inline]
    pub fn find(&self, remote: SocketAddr) -> Option<u16> {
        if let Some(server) = self.exact.get(&(remote.ip(), remote.port())) {
            return Some(*server);
        }
        let of_level = |(level, servers): &(IpNet, Map<IpAddr, u16>)| {
            if level.addr().is_ipv4() != remote.is_ipv4() {
                return None;
            }
            let network = IpNet::new(remote.ip(), level.prefix_len()).ok()?.network();
            servers.get(&network).copied()
        };
        self.nets.iter().find_map(of_level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net() -> impl Strategy<Value = IpNet> {
        // Few bits, so that networks overlap and addresses hit.
        (0u32..16, 24u8..=32).prop_map(|(low, prefix)| {
            IpNet::new(IpAddr::from((0x0a00_0000 | low).to_be_bytes()), prefix).unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn networks_contain_what_one_of_them_contains(nets in proptest::collection::vec(net(), 0..8), low in 0u32..20) {
            let ip = IpAddr::from((0x0a00_0000 | low).to_be_bytes());
            prop_assert_eq!(Networks::new(&nets).contains(ip), nets.iter().any(|net| net.contains(&ip)));
        }

        #[test]
        fn the_most_specific_source_wins(sources in proptest::collection::vec((net(), proptest::option::of(5060u16..5063)), 0..8), low in 0u32..20, port in 5060u16..5063) {
            // A port belongs to a host, and no two sources are equal: the configuration refuses both.
            let mut distinct: Vec<Source> = Vec::new();
            for (net, port) in sources {
                let source = Source { net, port: port.filter(|_| net.prefix_len() == 32) };
                if !distinct.contains(&source) { distinct.push(source); }
            }
            let remote = SocketAddr::new(IpAddr::from((0x0a00_0000 | low).to_be_bytes()), port);
            let naive = distinct.iter().enumerate()
                .filter(|(_, s)| s.net.contains(&remote.ip()) && s.port.is_none_or(|p| p == port))
                .max_by_key(|(_, s)| (s.port.is_some(), s.net.prefix_len())).map(|(at, _)| at as u16);
            let found = Sources::new(distinct.iter().zip(0..)).find(remote);
            prop_assert_eq!(found, naive);
        }
    }
}
