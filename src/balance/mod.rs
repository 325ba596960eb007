//! Choosing: weights and 64-bit keys in, a server out. Knows nothing of SIP, health or addresses.
//!
//! Two steps, whatever the algorithm: the key finds a region by weighted rendezvous hashing, then the algorithm finds a
//! server inside it. So a region's share, `spill_below` and preferred regions mean the same for all, and two nodes agree on
//! the region. For `hash` the second step is of the first one's kind: tables that [`Balance::build`] computes when
//! something changes, integer arithmetic on keyed hashes, so that nodes with one configuration agree to the bit.
//!
//! | | the choice | costs |
//! |---|---|---|
//! | `hash` | [`rendezvous`]: the key's row | two loads |
//! | `roundrobin` | [`roundrobin`]: the next turn | one addition that all workers share |
//! | `leastconn`, `leasttransactions` | [`leastconn`]: the root of a tournament | carrying a change up, one comparison per level |
//! | `random2` | two rows of the key, the less loaded | two searches by identity |
//! | `first` | [`pool`]: the first bit that is set | a word for 64 servers |
//!
//! Who is chosen may be full: whoever asks says whether he takes it, and is given another.

mod leastconn;
mod pool;
mod rendezvous;
mod roundrobin;

pub use rendezvous::{Candidate, MAX_WEIGHT, Table};

use std::sync::Arc;

use pool::Pool;

/// How a server is found inside a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    Hash,
    RoundRobin,
    LeastConn,
    LeastTransactions,
    Random2,
    First,
}

impl Algorithm {
    pub const ALL: [(&str, Self); 6] = [
        ("hash", Self::Hash),
        ("roundrobin", Self::RoundRobin),
        ("leastconn", Self::LeastConn),
        ("leasttransactions", Self::LeastTransactions),
        ("random2", Self::Random2),
        ("first", Self::First),
    ];

    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, algorithm)| *algorithm == self).map_or("?", |(word, _)| word)
    }

    /// Whether it wants to know how busy servers are.
    #[inline]
    pub fn asks_for_load(self) -> bool {
        matches!(self, Self::LeastConn | Self::LeastTransactions | Self::Random2)
    }
}

/// How often a region by weight is drawn when the key's own is full, before they are looked at in order: another than one
/// with 70 % of the weight is found but for one key in sixty thousand.
const REGION_DRAWS: u64 = 32;
/// How many regions are remembered as asked.
const ASKED: usize = 8;
/// How many servers a key is offered in all: a thousand that are over their rate are not asked one by one.
const OFFERS: u32 = 256;

/// A region's servers, and the share of the backend that it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Stable identity: the hash of the region's name.
    pub id: u32,
    /// The weight as configured.
    pub weight: u32,
    /// The summed weight of all its servers, usable or not, backups left out.
    pub total: u32,
    /// Its servers in the order of the configuration; one that takes no new calls has no weight.
    pub servers: Vec<Candidate>,
}

/// One backend's tables.
#[derive(Clone, Debug)]
pub struct Balance {
    regions: Arc<Table>,
    /// In the order of the regions given to [`Balance::build`].
    pools: Vec<Arc<Pool>>,
}

/// Below this part of a region's server weight its share shrinks, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillBelow(pub u32);

impl Balance {
    /// Computes the tables; those whose input equals that of `previous` are shared with it, the others rescored only in
    /// the rows that the change can touch. In pools that are not shared every server has no load yet.
    pub fn build(
        key: &[u8; 16],
        algorithm: Algorithm,
        regions: &[Region],
        spill: SpillBelow,
        previous: Option<&Self>,
    ) -> Self {
        let shares: Vec<_> =
            regions.iter().map(|region| Candidate { id: region.id, weight: share(region, spill) }).collect();
        let pool = |region: &Region| {
            let before = previous.and_then(|p| p.pools.iter().find(|pool| pool.id == region.id));
            if let Some(before) = before.filter(|before| before.is_like(algorithm, region)) {
                return Arc::clone(before);
            }
            let table = Table::renew(key, b"server\0\0", &region.servers, before.map(|pool| &pool.table));
            Arc::new(Pool::new(algorithm, region, table, before.map(|pool| &**pool)))
        };
        let regions_table = Table::renew(key, b"region\0\0", &shares, previous.map(|p| &p.regions));
        Self { regions: regions_table, pools: regions.iter().map(pool).collect() }
    }

    /// The server of a key by hash alone: the identity that its candidate was given. With `prefer`, that region (by its
    /// identity) if it has a usable server. `None` where there is no candidate at all.
    #[inline]
    pub fn pick(&self, key: u64, prefer: Option<u32>) -> Option<u32> {
        self.pool_for(key, prefer)?.table.pick(server_row(key))
    }

    /// The algorithm's choice for a key, whether it has room or not.
    pub fn first(&self, key: u64, prefer: Option<u32>, call: bool) -> Option<u32> {
        self.pool_for(key, prefer)?.choose(server_row(key), call)
    }

    /// The algorithm's server for a key that `takes` takes. `call`: it opens a call, so it is one that is counted. Where
    /// the first choice is refused others of the region are offered, then other regions by weight; `None` where nobody
    /// takes it.
    #[inline]
    pub fn find(&self, key: u64, prefer: Option<u32>, call: bool, mut takes: impl FnMut(u32) -> bool) -> Option<u32> {
        let pool = self.pool_for(key, prefer)?;
        let row = server_row(key);
        let chosen = if pool.algorithm() == Algorithm::Hash { pool.table.pick(row) } else { pool.choose(row, call) };
        match chosen.filter(|id| takes(*id)) {
            Some(found) => Some(found),
            None => self.another(key, pool, call, &mut takes),
        }
    }

    #[cold]
    fn another(&self, key: u64, full: &Pool, call: bool, takes: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        let mut offers = OFFERS;
        let mut takes = |id| {
            offers = offers.saturating_sub(1);
            offers > 0 && takes(id)
        };
        let row = server_row(key);
        if let Some(found) = full.another(row, &mut takes) {
            return Some(found);
        }
        let keys = (1..REGION_DRAWS).map(|n| key.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let by_weight = keys.filter_map(|key| self.pool_of(self.region(key)?));
        let others = by_weight.chain(self.pools.iter().map(|pool| &**pool).filter(|pool| self.regions.holds(pool.id)));
        // The regions that were asked, as far as there is room to remember them.
        let (mut asked, mut next) = ([full.id; ASKED], 0);
        for pool in others {
            if asked.contains(&pool.id) {
                continue;
            }
            asked[next % ASKED] = pool.id;
            next += 1;
            let chosen = pool.choose(row, call).filter(|id| takes(*id));
            if let Some(found) = chosen.or_else(|| pool.another(row, &mut takes)) {
                return Some(found);
            }
        }
        None
    }

    /// The load of the server in a seat of a region (both by position), or that it is full (`None`).
    #[inline]
    pub fn set(&self, region: usize, seat: usize, load: Option<u32>) {
        self.pools[region].set(seat, load);
    }

    /// The region that the weights alone give a key.
    pub fn region(&self, key: u64) -> Option<u32> {
        self.regions.pick((key >> 48) as u16)
    }

    /// Among whom the algorithm chooses for a key.
    pub fn candidates(&self, key: u64, prefer: Option<u32>) -> Vec<u32> {
        let Some(pool) = self.pool_for(key, prefer) else { return Vec::new() };
        match pool.algorithm() {
            Algorithm::Random2 => pool.two(server_row(key)).map(Vec::from).unwrap_or_default(),
            _ => pool.candidates().collect(),
        }
    }

    /// Whether there is no candidate at all.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// The part of new keys that each region gets now, from 0 to 1: nothing where it has no usable server.
    pub fn shares(&self) -> Vec<(u32, f64)> {
        let weights = || self.regions.weights();
        let all: f64 = weights().map(|region| f64::from(region.weight)).sum();
        weights().map(|region| (region.id, f64::from(region.weight) / all)).collect()
    }

    /// How many tables this shares with another generation.
    pub fn shared_tables(&self, other: &Self) -> usize {
        let regions = usize::from(Arc::ptr_eq(&self.regions, &other.regions));
        let same =
            |pool: &&Arc<Pool>| other.pools.iter().any(|o| o.id == pool.id && Arc::ptr_eq(&o.table, &pool.table));
        regions + self.pools.iter().filter(same).count()
    }

    /// The region of a key: the preferred one if it has a usable server, else by weight.
    #[inline]
    fn pool_for(&self, key: u64, prefer: Option<u32>) -> Option<&Pool> {
        let preferred = prefer.and_then(|id| self.pool_of(id)).filter(|pool| !pool.table.is_empty());
        preferred.or_else(|| self.pool_of(self.region(key)?))
    }

    #[inline]
    fn pool_of(&self, region: u32) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.id == region).map(|pool| &**pool)
    }
}

/// The part of a key that finds a server; the region has another, which says nothing about this one.
#[inline]
fn server_row(key: u64) -> u16 {
    (key >> 32) as u16
}

/// A region's effective weight, in 1/65536 of the configured unit. Full while it has a usable server, shrinking in
/// proportion once less than `spill` of its server weight is usable; nothing without a usable server.
fn share(region: &Region, spill: SpillBelow) -> u32 {
    const UNIT: u64 = 65_536;
    let usable: u64 = region.servers.iter().map(|server| u64::from(server.weight)).sum();
    let whole = u64::from(region.weight) * UNIT;
    let needed = u64::from(region.total) * u64::from(spill.0);
    let share = match usable * 100 {
        0 => 0,
        usable if usable >= needed => whole,
        usable => (whole * usable / needed).max(1),
    };
    share as u32
}

#[cfg(test)]
mod tests;
