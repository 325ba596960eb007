//! Which call belongs to which server: one table for all backends, keyed by Call-ID.
//!
//! A pin's life follows the call's: opened unconfirmed, confirmed by a 2xx that makes a dialog, given back by a final
//! failure or a BYE. One that an INVITE opened is a **call**: it is counted for its server, once, until it is
//! given back or expires. Every change that moves such a count is told as [`Written`], and [`Pins::sweep`] finds those that
//! expire, so that the sum is what the table holds, whatever was lost on the way. Requests inside a dialog usually do not
//! need it (their Route carries a token); it is for what has no token: retransmissions, CANCEL, ACK to a non-2xx, clients
//! that lose Record-Route.

use std::collections::HashMap;
use std::time::Duration;

use super::Time;
use super::stick_table::{Marks, Seen, StickTable, Stuck, Written};
use crate::sip::Method;
use crate::sip::token::NameHash;

/// 64*T1: as long as a transaction may be retransmitted (RFC 3261 §17.1.1.2).
const TRANSACTION: Duration = Duration::from_secs(32);
/// Timer C: as long as an INVITE may ring (RFC 3261 §16.6 item 11).
const RINGING: Duration = Duration::from_secs(180);

/// What an INVITE opens.
const NEW_CALL: Marks = Marks::CALL.and(Marks::OPEN);

/// What a server has in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Confirmed: calls that were answered and did not end.
    pub calls: usize,
    /// The same with what may still become a call, or just was one.
    pub pins: usize,
}

/// The pins of all calls.
pub struct Pins {
    table: StickTable,
}

impl Pins {
    /// Pins for so many calls.
    pub fn new(size: usize) -> Self {
        Self { table: StickTable::new(size) }
    }

    /// The pin of a call.
    #[inline]
    pub fn find(&self, call: u64, now: Time) -> Option<Stuck> {
        self.table.find(call, now)
    }

    /// The pin of a call that a request may open ([`Pins::opened_seen`]).
    #[inline]
    pub fn look(&self, call: u64, now: Time) -> (Option<Stuck>, Seen) {
        self.table.look(call, now)
    }

    /// A request of a confirmed call passed: it lives `expire` longer.
    #[inline]
    pub fn used(&self, pin: Stuck, now: Time, expire: Duration) {
        if pin.confirmed {
            self.table.touch(pin, now, expire);
        }
    }

    /// A request that opens something went to this server.
    #[inline]
    pub fn opened(&self, call: u64, server: NameHash, method: Method, now: Time) -> Written {
        self.opened_seen(call, self.look(call, now).1, server, method, now, false)
    }

    /// The same where the call's pin was looked at a moment ago. It may also have come from the server.
    #[inline]
    pub fn opened_seen(
        &self,
        call: u64,
        seen: Seen,
        server: NameHash,
        method: Method,
        now: Time,
        by_server: bool,
    ) -> Written {
        let (life, marks) = match (method, by_server) {
            (Method::Invite, false) => (RINGING, NEW_CALL),
            (Method::Invite, true) => (RINGING, NEW_CALL.and(Marks::OWN)),
            _ => (TRANSACTION, Marks::NONE),
        };
        // What only follows, as a registration that is renewed again and again, must not keep its server for ever.
        if method != Method::Invite && seen.alive(now).is_some_and(|pin| pin.server == server) {
            return Written::default();
        }
        self.table.write_seen(call, seen, server, marks, now, life)
    }

    /// A call's server may not be sent to any more, and another one took over: from now on the call is that one's, so
    /// that what follows (a CANCEL, an ACK) finds it whatever health does next.
    pub fn moved(&self, call: u64, pin: Stuck, server: NameHash, now: Time, expire: Duration) -> Written {
        let marks = if pin.is(Marks::CALL) { NEW_CALL } else { Marks::NONE };
        match pin.confirmed {
            true => self.table.confirm(call, server, marks, now, expire),
            false => self.table.write(call, server, marks, now, TRANSACTION),
        }
    }

    /// A response passed: a 2xx that makes a dialog confirms the pin, ringing keeps it, the failure of an INVITE that was
    /// never confirmed and the end of a dialog give it back. A failure of anything else says nothing about the INVITE
    /// that rings beside it, nor does a challenge (the INVITE comes again, or nothing comes), nor the refusal of a BYE: that
    /// ended the call already. Where its dialog is not known any more nothing is counted, and the pin stays.
    pub fn answered(
        &self,
        call: u64,
        server: NameHash,
        method: Method,
        status: u16,
        now: Time,
        expire: Duration,
    ) -> Written {
        match (method, status) {
            (Method::Invite, 200..300) => self.confirm(call, server, NEW_CALL, now, expire),
            (Method::Subscribe | Method::Refer, 200..300) => self.confirm(call, server, Marks::NONE, now, expire),
            (Method::Invite, 101..200) => self.rings(call, server, now),
            // A refused re-INVITE ends no call, so what is confirmed stays.
            (Method::Invite, 300..) => self.ended(call, server, status, now),
            (Method::Bye, 200..300) => self.give_back(call, server, Marks::NONE, TRANSACTION, now, |_| true),
            // Who was restarted knows no dialog: RFC 3261 §12.2.1.2 ends it. It may have been the other dialog of a forked
            // call, so the pin stays where it is; but it is no call any more.
            (Method::Bye, 408 | 481) => self.give_back(call, server, Marks::NONE, expire, now, |pin| pin.confirmed),
            _ => Written::default(),
        }
    }

    /// An INVITE was refused. It is no call then, else whoever sends INVITEs without a password could fill a server; but it
    /// stays open, for it may have been another branch of a call that rings, or a late copy of what was said to the INVITE
    /// before this one. A challenge leaves the pin as long as it had, for the INVITE comes again.
    #[cold]
    fn ended(&self, call: u64, server: NameHash, status: u16, now: Time) -> Written {
        let life = if matches!(status, 401 | 407) { RINGING } else { TRANSACTION };
        self.give_back(call, server, Marks::OPEN.and(Marks::OWN), life, now, |pin| !pin.confirmed)
    }

    /// Whether a call is there, at this server. A client's answer counts for such a one: it begins none, for the Via that it
    /// shows may be as old as it likes.
    pub fn has(&self, call: u64, server: NameHash, now: Time) -> bool {
        self.find(call, now).is_some_and(|pin| pin.server == server)
    }

    /// A client refused an INVITE that a server sent. If the call was the server's own, that was it, unless another
    /// branch of it answers; a fork that a client refused is not the end of a caller's call at the server.
    pub fn refused_by_client(&self, call: u64, server: NameHash, now: Time) -> Written {
        let own = |pin: &Stuck| !pin.confirmed && pin.is(Marks::OWN);
        self.give_back(call, server, Marks::OPEN.and(Marks::OWN), TRANSACTION, now, own)
    }

    /// A call of another server stays there: two of them answer where one forwards to the other. A 200 that comes once
    /// more behind the BYE begins no new call.
    fn confirm(&self, call: u64, server: NameHash, marks: Marks, now: Time, expire: Duration) -> Written {
        let (pin, seen) = self.table.look(call, now);
        let over = |pin: Stuck| marks == NEW_CALL && !pin.confirmed && !pin.is(Marks::OPEN);
        match pin {
            Some(pin) if pin.server != server || over(pin) => Written::default(),
            _ => self.table.confirm_seen(call, seen, server, marks, now, expire),
        }
    }

    /// Timer C starts anew (RFC 3261 §16.7 item 2): a server says every minute that it rings (§13.3.1.1). What rings is a
    /// call, even if a late copy of a challenge said otherwise.
    fn rings(&self, call: u64, server: NameHash, now: Time) -> Written {
        match self.table.find(call, now).filter(|pin| pin.server == server && !pin.confirmed) {
            Some(pin) if pin.is(NEW_CALL) => self.table.touch(pin, now, RINGING),
            Some(pin) if pin.is(Marks::OPEN) => return self.rings_again(call, server, now),
            _ => {}
        }
        Written::default()
    }

    #[cold]
    fn rings_again(&self, call: u64, server: NameHash, now: Time) -> Written {
        self.table.write(call, server, NEW_CALL, now, RINGING)
    }

    fn give_back(
        &self,
        call: u64,
        server: NameHash,
        keep: Marks,
        life: Duration,
        now: Time,
        ends: impl Fn(&Stuck) -> bool,
    ) -> Written {
        // Where another worker wrote in between, its word is looked at: a call that is given back must not stay counted.
        const TRIES: usize = 4;
        let found = || self.table.find(call, now).filter(|pin| pin.server == server && ends(pin));
        let release = |_| Some(self.table.release(found()?, keep, now, life));
        (0..TRIES).map_while(release).flatten().next().unwrap_or_default()
    }

    /// Finds calls that expired, a part of the table each time, and tells the server of each; those of servers that nobody
    /// `knows` are counted no more.
    pub fn sweep(&self, now: Time, knows: impl Fn(NameHash) -> bool, expired: impl FnMut(NameHash)) {
        self.table.sweep(now, knows, expired);
    }

    /// The server of every call that is counted and lives. Walks the whole table.
    pub fn calls(&self, now: Time) -> impl Iterator<Item = NameHash> {
        self.table.calls(now)
    }

    /// How many confirmed calls each server has, and how many pins in all. Walks the whole table.
    pub fn by_server(&self, now: Time) -> HashMap<NameHash, Held> {
        let mut servers: HashMap<_, Held> = HashMap::new();
        self.table.each(now, |server, confirmed| {
            let held = servers.entry(server).or_default();
            held.pins += 1;
            held.calls += usize::from(confirmed);
        });
        servers
    }

    /// How many pins lived when they were swept last, and how many there may be ([`StickTable::in_use`]).
    pub fn in_use(&self) -> (usize, usize) {
        (self.table.in_use(), self.table.size())
    }

    /// How many pins live, and how many of them are confirmed calls. Walks the whole table.
    pub fn count(&self, now: Time) -> (usize, usize) {
        self.table.count(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: NameHash = NameHash(5);
    const EXPIRE: Duration = Duration::from_secs(7200);

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    fn alive(pins: &Pins, seconds: u64) -> bool {
        pins.find(77, at(seconds)).is_some()
    }

    #[test]
    fn an_unanswered_invite_is_remembered_while_it_may_ring() {
        let pins = Pins::new(1000);
        let _ = pins.opened(77, SERVER, Method::Invite, at(0));
        assert!(alive(&pins, 179) && !alive(&pins, 181));
        let _ = pins.opened(77, SERVER, Method::Register, at(200));
        assert!(alive(&pins, 231) && !alive(&pins, 233));
    }

    #[test]
    fn a_dialog_lives_until_its_bye_is_answered() {
        let pins = Pins::new(1000);
        let _ = pins.opened(77, SERVER, Method::Invite, at(0));
        let _ = pins.answered(77, SERVER, Method::Invite, 180, at(1), EXPIRE);
        assert!(!pins.find(77, at(1)).unwrap().confirmed, "ringing proves nothing");
        let _ = pins.answered(77, SERVER, Method::Invite, 200, at(2), EXPIRE);
        assert!(alive(&pins, 7000));
        let _ = pins.answered(77, SERVER, Method::Invite, 488, at(10), EXPIRE);
        assert!(alive(&pins, 7000), "a refused re-INVITE ends no call");
        pins.used(pins.find(77, at(7000)).unwrap(), at(7000), EXPIRE);
        assert!(alive(&pins, 14_000));
        let _ = pins.answered(77, NameHash(6), Method::Bye, 200, at(14_000), EXPIRE);
        assert!(alive(&pins, 14_100), "another server's answer says nothing about this call");
        let _ = pins.answered(77, SERVER, Method::Bye, 200, at(14_000), EXPIRE);
        assert!(alive(&pins, 14_031) && !alive(&pins, 14_033));
    }

    #[test]
    fn a_call_whose_dialog_nobody_knows_any_more_counts_no_more() {
        for (status, ends) in [(481, true), (408, true), (401, false), (500, false), (100, false)] {
            let pins = Pins::new(1000);
            let _ = pins.answered(77, SERVER, Method::Invite, 200, at(0), EXPIRE);
            let _ = pins.answered(77, NameHash(6), Method::Bye, status, at(10), EXPIRE);
            assert!(pins.find(77, at(10)).unwrap().confirmed, "another server's {status}");
            let _ = pins.answered(77, SERVER, Method::Bye, status, at(10), EXPIRE);
            assert_eq!(pins.calls(at(10)).count(), usize::from(!ends), "{status}");
            assert_eq!(pins.by_server(at(10))[&SERVER].calls, usize::from(!ends), "{status}");
            assert!(alive(&pins, 7199) && !alive(&pins, 7201), "another dialog of a forked call keeps its server");
        }
        let ringing = Pins::new(1000);
        let _ = ringing.opened(77, SERVER, Method::Invite, at(0));
        let _ = ringing.answered(77, SERVER, Method::Bye, 481, at(1), EXPIRE);
        assert_eq!(ringing.calls(at(1)).count(), 1, "a BYE that was too early ends no INVITE");
    }

    #[test]
    fn a_failed_invite_is_given_back() {
        let pins = Pins::new(1000);
        let _ = pins.opened(77, SERVER, Method::Invite, at(0));
        let _ = pins.answered(77, SERVER, Method::Invite, 486, at(10), EXPIRE);
        assert!(alive(&pins, 41) && !alive(&pins, 43));
    }

    #[test]
    fn counts_what_each_server_has() {
        let pins = Pins::new(1000);
        for call in 0..10 {
            let _ = pins.opened(call << 32 | 7, NameHash(call as u32 % 2), Method::Invite, at(0));
        }
        let _ = pins.answered(4 << 32 | 7, NameHash(0), Method::Invite, 200, at(1), EXPIRE);
        let held = pins.by_server(at(2));
        assert_eq!(held[&NameHash(0)], Held { calls: 1, pins: 5 });
        assert_eq!(held[&NameHash(1)], Held { calls: 0, pins: 5 });
        assert_eq!(pins.by_server(at(200))[&NameHash(0)], Held { calls: 1, pins: 1 });
    }

    #[test]
    fn a_2xx_makes_the_pin_that_a_node_never_wrote() {
        let pins = Pins::new(1000);
        let _ = pins.answered(77, SERVER, Method::Invite, 200, at(0), EXPIRE);
        assert_eq!(pins.find(77, at(1)).map(|pin| (pin.server, pin.confirmed)), Some((SERVER, true)));
    }
}
