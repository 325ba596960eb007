//! A region's servers: who may be chosen, and what each algorithm needs to choose among them. Servers have seats, the
//! positions that the configuration gives them in their region.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::leastconn::Fewest;
use super::roundrobin::Turns;
use super::{Algorithm, Candidate, Region, Table};

/// How many rows of a key's table are tried when its own winner is full, before the servers are looked at in order.
const ROW_TRIES: u16 = 16;
/// How many servers are then looked at: those that are open and refuse nevertheless are over their rate.
const SEAT_TRIES: usize = 32;
/// How many rows are drawn for the second candidate of `random2`, who should be another than the first.
const DRAWS: u16 = 4;
/// From one row of a key to the next: odd, so that all rows come before one comes again.
const STEP: u16 = 0x9e37;

/// See the module's documentation.
#[derive(Debug)]
pub struct Pool {
    /// The identity of the region.
    pub id: u32,
    algorithm: Algorithm,
    pub table: Arc<Table>,
    members: Vec<Candidate>,
    /// Seats by identity.
    seats: Vec<(u32, u16)>,
    /// One bit for each seat whose server is not full.
    open: Box<[AtomicU64]>,
    turns: Turns,
    fewest: Fewest,
}

impl Pool {
    /// A pool like this region. Turns go on where those of `previous` were; loads must be [set](Self::set) anew.
    pub fn new(algorithm: Algorithm, region: &Region, table: Arc<Table>, previous: Option<&Self>) -> Self {
        let members = region.servers.clone();
        let of = |wanted: &[Algorithm]| -> Vec<u32> {
            let weights = members.iter().map(|member| member.weight);
            weights.filter(|_| wanted.contains(&algorithm)).collect()
        };
        let turns = Turns::new(&of(&[Algorithm::RoundRobin]), previous.map(|pool| &pool.turns));
        let fewest = Fewest::new(&of(&[Algorithm::LeastConn, Algorithm::LeastTransactions, Algorithm::Random2]));
        let mut seats: Vec<_> = members.iter().map(|member| member.id).zip(0..).collect();
        seats.sort_unstable();
        let open: Box<[_]> = (0..members.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let pool = Self { id: region.id, algorithm, table, members, seats, open, turns, fewest };
        (0..pool.members.len()).for_each(|seat| pool.set(seat, Some(0)));
        pool
    }

    /// Whether it is one like this.
    pub fn is_like(&self, algorithm: Algorithm, region: &Region) -> bool {
        (self.algorithm, self.id) == (algorithm, region.id) && self.members == region.servers
    }

    /// The server of a seat has this load, or it is full (`None`).
    pub fn set(&self, seat: usize, load: Option<u32>) {
        let Some(member) = self.members.get(seat) else { return };
        let (word, bit) = (&self.open[seat / 64], 1 << (seat % 64));
        let opens = load.is_some() && member.weight > 0;
        if opens != (word.load(Ordering::Relaxed) & bit != 0) {
            match opens {
                true => word.fetch_or(bit, Ordering::Relaxed),
                false => word.fetch_and(!bit, Ordering::Relaxed),
            };
        }
        if self.algorithm.asks_for_load() {
            self.fewest.set(seat, load);
        }
    }

    /// The algorithm's choice. What opens no call is not counted, so `leastconn` places it by hash: else all of it would go
    /// to the server that happens to have the fewest calls.
    #[inline]
    pub fn choose(&self, row: u16, call: bool) -> Option<u32> {
        let seat = match self.algorithm {
            Algorithm::Hash => return self.table.pick(row),
            Algorithm::LeastConn if !call => return self.table.pick(row),
            Algorithm::RoundRobin => self.turns.take(call),
            Algorithm::LeastConn | Algorithm::LeastTransactions => self.fewest.choose(),
            Algorithm::Random2 => return self.less_loaded(self.two(row)?),
            Algorithm::First => self.next_open(0),
        };
        // Limits are for calls: the rest is taken by a full server too.
        let by_hash = || self.table.pick(row).filter(|_| !call);
        seat.map(|seat| self.members[seat].id).or_else(by_hash)
    }

    /// The two candidates of `random2`; the same one twice where it is hardly possible to find another.
    pub fn two(&self, row: u16) -> Option<[u32; 2]> {
        let first = self.table.pick(row)?;
        let draws = (1..=DRAWS).filter_map(|n| self.table.pick(row.wrapping_add(STEP.wrapping_mul(n))));
        Some([first, draws.into_iter().find(|other| *other != first).unwrap_or(first)])
    }

    fn less_loaded(&self, [first, second]: [u32; 2]) -> Option<u32> {
        let less = self.fewest.is_less(self.seat(second)?, self.seat(first)?);
        Some(if less { second } else { first })
    }

    /// Another server than the algorithm's choice, which `takes` refused: for `first` the next in order, else those that
    /// other rows of the same key name, which spreads a full server's share by weight and alike on all nodes; at last any.
    pub fn another(&self, row: u16, takes: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        if self.open.iter().all(|word| word.load(Ordering::Relaxed) == 0) {
            return None;
        }
        let by_rows = self.algorithm != Algorithm::First;
        let rows = (1..=ROW_TRIES).filter(|_| by_rows).map(|n| row.wrapping_add(STEP.wrapping_mul(n)));
        let found = rows.filter_map(|row| self.table.pick(row)).find(|id| takes(*id));
        let start = if by_rows { row as usize % self.members.len() } else { 0 };
        found.or_else(|| self.open_from(start).take(SEAT_TRIES).find(|id| takes(*id)))
    }

    /// The servers that are not full, from a seat on and around.
    fn open_from(&self, start: usize) -> impl Iterator<Item = u32> {
        let after = |seat: usize| self.next_open(seat + 1);
        let behind = std::iter::successors(self.next_open(start), move |seat| after(*seat));
        let before = std::iter::successors(self.next_open(0), move |seat| after(*seat));
        behind.chain(before.take_while(move |seat| *seat < start)).map(|seat| self.members[seat].id)
    }

    /// The first open seat from this one on.
    fn next_open(&self, from: usize) -> Option<usize> {
        let mut mask = u64::MAX << (from % 64);
        for (word, at) in self.open.iter().zip(0..).skip(from / 64) {
            let bits = word.load(Ordering::Relaxed) & mask;
            if bits != 0 {
                return Some(at * 64 + bits.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    fn seat(&self, id: u32) -> Option<usize> {
        let at = self.seats.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.seats[at].1.into())
    }

    #[inline]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whom it may choose.
    pub fn candidates(&self) -> impl Iterator<Item = u32> {
        self.members.iter().filter(|member| member.weight > 0).map(|member| member.id)
    }
}
