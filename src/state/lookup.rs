//! Lookups by address that cost the same for one server and for a thousand.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::BitAnd;

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

/// Positions by number: open addressing, at most half full, so that a look is a multiplication and a comparison or two.
/// The numbers are the operator's (addresses, hashes of names): nobody outside can make them collide.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    /// A power of two of them; [`Positions::FREE`] stands for no number.
    slots: Vec<(u64, u16)>,
    count: usize,
}

impl Positions {
    const FREE: u64 = u64::MAX;

    pub fn insert(&mut self, number: u64, position: u16) {
        debug_assert!(number != Self::FREE);
        if 2 * (self.count + 1) > self.slots.len() {
            let room = (2 * self.slots.len()).max(4);
            let before = std::mem::replace(&mut self.slots, vec![(Self::FREE, 0); room]);
            self.count = 0;
            before.into_iter().filter(|slot| slot.0 != Self::FREE).for_each(|slot| self.insert(slot.0, slot.1));
        }
        let mut at = self.first(number);
        while self.slots[at].0 != Self::FREE && self.slots[at].0 != number {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.count += usize::from(self.slots[at].0 == Self::FREE);
        self.slots[at] = (number, position);
    }

    #[inline]
    pub fn get(&self, number: u64) -> Option<u16> {
        let mut at = self.first(number);
        loop {
            match *self.slots.get(at)? {
                (found, position) if found == number => return Some(position),
                (Self::FREE, _) => return None,
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }

    /// Where a number is looked for first: by the upper bits of a product, which all of the number's bits have a part in.
    #[inline]
    fn first(&self, number: u64) -> usize {
        (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & self.slots.len().wrapping_sub(1)
    }
}

/// Positions by address and port.
#[derive(Clone, Debug)]
pub struct AddressMap {
    v4: Positions,
    v6: Map<(u128, u16), u16>,
}

impl Default for AddressMap {
    fn default() -> Self {
        Self { v4: Positions::default(), v6: Map::with_hasher(hasher()) }
    }
}

impl AddressMap {
    pub fn insert(&mut self, address: SocketAddr, position: u16) {
        match address {
            SocketAddr::V4(address) => self.v4.insert(packed(*address.ip(), address.port()), position),
            SocketAddr::V6(address) => {
                self.v6.insert(((*address.ip()).into(), address.port()), position);
            }
        }
    }

    #[inline]
    pub fn get(&self, address: &SocketAddr) -> Option<u16> {
        match address {
            SocketAddr::V4(address) => self.v4.get(packed(*address.ip(), address.port())),
            SocketAddr::V6(address) => self.v6.get(&((*address.ip()).into(), address.port())).copied(),
        }
    }
}

#[inline]
fn packed(ip: Ipv4Addr, port: u16) -> u64 {
    u64::from(u32::from(ip)) << 16 | u64::from(port)
}

/// Servers by the networks they send from: one map for each prefix length, longest first; there are only a few lengths.
type Levels<N> = Vec<(N, Map<N, u16>)>;

/// Who sends from an address: servers by what they send from, the most specific first (docs/rules.md 20).
#[derive(Clone, Debug)]
pub struct Sources {
    exact: AddressMap,
    v4: Levels<u32>,
    v6: Levels<u128>,
}

impl Sources {
    /// From sources and the position of the server that sends from them.
    pub fn new<'a>(sources: impl IntoIterator<Item = (&'a Source, u16)>) -> Self {
        let mut all = Self { exact: AddressMap::default(), v4: Vec::new(), v6: Vec::new() };
        for (source, server) in sources {
            if let Some(address) = source.address() {
                all.exact.insert(address, server);
                continue;
            }
            match source.net {
                IpNet::V4(net) => add(&mut all.v4, net.netmask().into(), net.network().into(), server),
                IpNet::V6(net) => add(&mut all.v6, net.netmask().into(), net.network().into(), server),
            }
        }
        all
    }

    /// The server that is written to send from this address and port.
    pub fn find_exact(&self, remote: &SocketAddr) -> Option<u16> {
        self.exact.get(remote)
    }

    /// The server that sends from this address.
    #[inline]
    pub fn find(&self, remote: &SocketAddr) -> Option<u16> {
        match (self.exact.get(remote), remote) {
            (Some(server), _) => Some(server),
            (None, SocketAddr::V4(remote)) => in_levels(&self.v4, (*remote.ip()).into()),
            (None, SocketAddr::V6(remote)) => in_levels(&self.v6, (*remote.ip()).into()),
        }
    }
}

fn add<N: Ord + Hash>(levels: &mut Levels<N>, mask: N, network: N, server: u16) {
    // A longer prefix has the larger mask.
    let at = levels.binary_search_by(|(other, _)| mask.cmp(other)).unwrap_or_else(|at| {
        levels.insert(at, (mask, Map::with_hasher(hasher())));
        at
    });
    levels[at].1.insert(network, server);
}

#[inline]
fn in_levels<N: Copy + Eq + Hash + BitAnd<Output = N>>(levels: &Levels<N>, ip: N) -> Option<u16> {
    levels.iter().find_map(|(mask, servers)| servers.get(&(ip & *mask)).copied())
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
        fn positions_are_a_map(entries in proptest::collection::vec((0u64..40, any::<u16>()), 0..60)) {
            let (mut positions, mut model) = (Positions::default(), HashMap::new());
            // Numbers as addresses are: they differ in some bits only.
            let number = |n: u64| (n & 7) << 40 | n >> 3;
            for (n, position) in entries {
                positions.insert(number(n), position);
                model.insert(number(n), position);
                for n in 0..40 {
                    prop_assert_eq!(positions.get(number(n)), model.get(&number(n)).copied());
                }
            }
        }

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
                let source = Source { net, port: port.filter(|_| net.prefix_len() == 32), written: true };
                if !distinct.contains(&source) { distinct.push(source); }
            }
            let remote = SocketAddr::new(IpAddr::from((0x0a00_0000 | low).to_be_bytes()), port);
            let naive = distinct.iter().enumerate()
                .filter(|(_, s)| s.net.contains(&remote.ip()) && s.port.is_none_or(|p| p == port))
                .max_by_key(|(_, s)| (s.port.is_some(), s.net.prefix_len())).map(|(at, _)| at as u16);
            let found = Sources::new(distinct.iter().zip(0..)).find(&remote);
            prop_assert_eq!(found, naive);
        }
    }
}
