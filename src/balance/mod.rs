//! Choosing: weights and 64-bit keys in, a server out. Knows nothing of SIP, health or addresses.
//!
//! `hash` is two steps of weighted rendezvous hashing: the key finds a region, then a server inside it. Both steps are
//! looked up in tables that [`Balance::build`] computes when something changes; [`Balance::pick`] is two loads.
//! Everything is integer arithmetic on keyed hashes, so two nodes with one configuration agree to the bit.

mod rendezvous;

pub use rendezvous::{Candidate, MAX_WEIGHT, Table};

use std::sync::Arc;

/// A region's servers that take new calls, and the share of the backend that it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Stable identity: the hash of the region's name.
    pub id: u32,
    /// The weight as configured.
    pub weight: u32,
    /// The summed weight of all its servers, usable or not, backups left out.
    pub total: u32,
    /// Its usable servers.
    pub servers: Vec<Candidate>,
}

/// One backend's tables.
#[derive(Clone, Debug)]
pub struct Balance {
    regions: Arc<Table>,
    /// The table of each region, in the order of the regions given to [`Balance::build`].
    servers: Vec<(u32, Arc<Table>)>,
}

/// Below this part of a region's server weight its share shrinks, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillBelow(pub u32);

impl Balance {
    /// Computes the tables; those whose input equals that of `previous` are shared with it, the others rescored only in
    /// the rows that the change can touch.
    pub fn build(key: &[u8; 16], regions: &[Region], spill: SpillBelow, previous: Option<&Self>) -> Self {
        let shares: Vec<_> =
            regions.iter().map(|region| Candidate { id: region.id, weight: share(region, spill) }).collect();
        let servers = regions
            .iter()
            .map(|region| {
                let before = previous.and_then(|p| p.servers.iter().find(|(id, _)| *id == region.id));
                (region.id, Table::renew(key, b"server\0\0", &region.servers, before.map(|(_, table)| table)))
            })
            .collect();
        Self { regions: Table::renew(key, b"region\0\0", &shares, previous.map(|p| &p.regions)), servers }
    }

    /// The server of a key: the identity that its candidate was given. With `prefer`, that region (by its identity) if
    /// it has a usable server. `None` where there is no candidate at all.
    #[inline]
    pub fn pick(&self, key: u64, prefer: Option<u32>) -> Option<u32> {
        // Two steps, two independent parts of the key.
        let (region_row, server_row) = ((key >> 48) as u16, (key >> 32) as u16);
        let preferred = prefer.and_then(|id| self.table_of(id)).and_then(|table| table.pick(server_row));
        preferred.or_else(|| self.table_of(self.regions.pick(region_row)?)?.pick(server_row))
    }

    /// The region that the weights alone give a key.
    pub fn region(&self, key: u64) -> Option<u32> {
        self.regions.pick((key >> 48) as u16)
    }

    /// Whether there is no candidate at all.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// How many tables this shares with another generation.
    pub fn shared_tables(&self, other: &Self) -> usize {
        let regions = usize::from(Arc::ptr_eq(&self.regions, &other.regions));
        let same =
            |(id, table): &&(u32, Arc<Table>)| other.servers.iter().any(|(i, t)| i == id && Arc::ptr_eq(t, table));
        regions + self.servers.iter().filter(same).count()
    }

    #[inline]
    fn table_of(&self, region: u32) -> Option<&Table> {
        self.servers.iter().find(|(id, _)| *id == region).map(|(_, table)| &**table)
    }
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
