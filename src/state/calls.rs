//! Books of how many calls each server has, and what balancing and limits make of them.
//!
//! A call is a pin that an INVITE opened ([`super::pins`]). The count changes with the entry in the table and in no other way:
//! who wrote the entry counts, whatever message made him write. Calls that nobody ends are found once a second by
//! [`Snapshot::keep_calls`], a part of the table each time.

use super::Time;
use super::pins::Pins;
use super::snapshot::{Backend, Server, Snapshot};
use super::stick_table::Written;
use crate::balance::Algorithm;
use crate::sip::token::NameHash;

/// One open transaction, in units of [`super::server::ServerLive::transactions`].
const TRANSACTION: i64 = 256;
/// The part of them that is forgotten each second, for what was lost is never answered: after 32 s, as long as a
/// transaction may be retransmitted (RFC 3261 §17.1.2.2), a third of a lost one is left.
const FORGOTTEN: i64 = 32;

impl Snapshot {
    /// Counts what a writing to the pins changed: mostly at this `server`. `reserved`: it was counted there before, by
    /// [`Snapshot::take_call`].
    #[inline]
    pub fn count_call(&self, written: Written, server: usize, reserved: bool) {
        if !written.moved_call() && !reserved {
            return;
        }
        let (gained, lost, here) = (written.gained(), written.lost(), Some(self.servers[server].id));
        let by = i64::from(gained == here) - i64::from(lost == here) - i64::from(reserved);
        if by != 0 {
            self.count(server, by);
        }
        if gained.is_some() && gained != here || lost.is_some() && lost != here {
            self.count_elsewhere(gained.filter(|_| gained != here), lost.filter(|_| lost != here));
        }
    }

    /// Another server's call moved here, or its entry gave way.
    #[cold]
    fn count_elsewhere(&self, gained: Option<NameHash>, lost: Option<NameHash>) {
        for (server, by) in [(gained, 1), (lost, -1)] {
            if let Some(id) = server {
                self.count_of(id, by);
            }
        }
    }

    /// Counts for a server that may be gone, or be in a newer snapshot only.
    fn count_of(&self, id: NameHash, by: i64) {
        match self.server(id) {
            Some(server) => self.count(server, by),
            None => self.live(id).into_iter().for_each(|live| live.calls.add(by)),
        }
    }

    /// Whether a server has room for one more call. One with `max_calls` counts it at once, so that no two workers give
    /// away the same place: the call must be counted with `reserved` then, or given back.
    #[inline]
    pub fn take_call(&self, server: usize, now: Time) -> bool {
        let Server { max_calls, rate_interval, live, .. } = &self.servers[server];
        if (*max_calls, *rate_interval) == (0, 0) {
            return true;
        }
        if *max_calls > 0 && !live.calls.add_below(i64::from(*max_calls)) {
            return false;
        }
        if *rate_interval > 0 && !live.admit(now, *rate_interval) {
            if *max_calls > 0 {
                live.calls.add(-1);
            }
            return false;
        }
        if *max_calls > 0 {
            self.tell_balance(server);
        }
        true
    }

    #[inline]
    fn count(&self, server: usize, by: i64) {
        let at = &self.servers[server];
        at.live.calls.add(by);
        if at.tells_load {
            self.tell_balance(server);
        }
    }

    /// A transaction began at a server that [counts them](Server::counts_transactions), or ended there.
    pub fn count_transaction(&self, server: usize, began: bool) {
        let transactions = &self.servers[server].live.transactions;
        match began {
            true => transactions.add(TRANSACTION),
            false => transactions.take(TRANSACTION),
        }
        self.tell_balance(server);
    }

    /// A relay's connection to a server began, or ended.
    pub fn told_of_flow(&self, id: NameHash) {
        if let Some(server) = self.server(id).filter(|at| self.servers[*at].tells_load) {
            self.tell_balance(server);
        }
    }

    /// Tells the balance how busy a server is.
    fn tell_balance(&self, server: usize) {
        let server = &self.servers[server];
        let backend = &self.backends[server.backend as usize];
        backend.tell(server, load(server, backend));
    }

    /// To be called once a second, by one thread: finds calls that have expired, forgets transactions that nobody
    /// answered, counts what the tables hold, and puts right what two workers told the balance at once, or one whose
    /// snapshot is of before.
    pub fn keep_calls(&self, pins: &Pins, now: Time) {
        pins.sweep(now, |id| self.server(id).is_some(), |id| self.count_of(id, -1));
        self.lives.forget_gone();
        for (table, _) in self.backends.iter().filter_map(Backend::stick) {
            // Nothing in it is a call: this counts.
            table.sweep(now, |_| true, |_| ());
        }
        for (at, server) in self.servers.iter().enumerate() {
            let transactions = &server.live.transactions;
            transactions.take(transactions.get() / FORGOTTEN + 1);
            self.tell_balance(at);
        }
    }

    /// How many calls a server has.
    pub fn calls_of(&self, id: NameHash) -> Option<i64> {
        Some(self.servers[self.server(id)?].live.calls.get())
    }
}

/// The load by the backend's algorithm; `None` for a server that is full.
pub(super) fn load(server: &Server, backend: &Backend) -> Option<u32> {
    // Flows are a relay's calls.
    let calls = server.live.open();
    if server.max_calls > 0 && calls >= u64::from(server.max_calls) {
        return None;
    }
    let load = match backend.config.balance {
        Algorithm::LeastTransactions => (server.live.transactions.get() / TRANSACTION).max(0) as u64,
        _ => calls,
    };
    Some(load.min(u64::from(u32::MAX)) as u32)
}
