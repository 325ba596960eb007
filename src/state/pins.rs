//! Which call belongs to which server: one table for all backends, keyed by Call-ID.
//!
//! A pin's life follows the call's: opened unconfirmed, confirmed by a 2xx that makes a dialog, given back by a final
//! failure or an answered BYE. Requests inside a dialog usually do not need it (their Route carries a token); it is for
//! what has no token: retransmissions, CANCEL, ACK to a non-2xx, clients that lose Record-Route.

use std::collections::HashMap;
use std::time::Duration;

use super::Time;
use super::stick_table::{Seen, StickTable, Stuck};
use super::table::Inserted;
use crate::sip::Method;
use crate::sip::token::NameHash;

/// 64*T1: as long as a transaction may be retransmitted (RFC 3261 §17.1.1.2).
const TRANSACTION: Duration = Duration::from_secs(32);
/// Timer C: as long as an INVITE may ring (RFC 3261 §16.6 item 11).
const RINGING: Duration = Duration::from_secs(180);

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

    /// A request that opens something went to this server, or came from it. True where a live pin had to give way.
    #[inline]
    pub fn opened(&self, call: u64, server: NameHash, method: Method, now: Time) -> bool {
        self.opened_seen(call, self.look(call, now).1, server, method, now)
    }

    /// The same where the call's pin was looked at a moment ago.
    #[inline]
    pub fn opened_seen(&self, call: u64, seen: Seen, server: NameHash, method: Method, now: Time) -> bool {
        let life = if method == Method::Invite { RINGING } else { TRANSACTION };
        // What only follows, as a registration that is renewed again and again, must not keep its server for ever.
        if method != Method::Invite && self.table.find(call, now).is_some_and(|pin| pin.server == server) {
            return false;
        }
        matches!(self.table.write_seen(call, seen, server, now, life), Inserted::Evicted(_))
    }

    /// A call's server may not be sent to any more, and another one took over: from now on the call is that one's, so
    /// that what follows (a CANCEL, an ACK) finds it whatever health does next.
    pub fn moved(&self, call: u64, pin: Stuck, server: NameHash, now: Time, expire: Duration) {
        match pin.confirmed {
            true => self.table.confirm(call, server, now, expire),
            false => self.table.write(call, server, now, TRANSACTION),
        };
    }

    /// A response passed: a 2xx that makes a dialog confirms the pin, ringing keeps it, the failure of an INVITE that was
    /// never confirmed and the end of a dialog give it back. A failure of anything else says nothing about the INVITE
    /// that rings beside it, nor does a challenge (the INVITE comes again), nor a BYE that was refused.
    pub fn answered(&self, call: u64, server: NameHash, method: Method, status: u16, now: Time, expire: Duration) {
        match (method, status) {
            (Method::Invite | Method::Subscribe | Method::Refer, 200..300) => self.confirm(call, server, now, expire),
            (Method::Bye, 200..300) => self.give_back(call, server, now, true),
            (Method::Invite, 101..200) => self.rings(call, server, now),
            (Method::Invite, 401 | 407) => {}
            // A refused re-INVITE ends no call, so what is confirmed stays.
            (Method::Invite, 300..) => self.give_back(call, server, now, false),
            _ => {}
        }
    }

    /// A call of another server stays there: two of them answer where one forwards to the other.
    fn confirm(&self, call: u64, server: NameHash, now: Time, expire: Duration) {
        let (pin, seen) = self.table.look(call, now);
        if pin.is_none_or(|pin| pin.server == server) {
            self.table.confirm_seen(call, seen, server, now, expire);
        }
    }

    /// Timer C starts anew (RFC 3261 §16.7 item 2): a server says every minute that it rings (§13.3.1.1).
    fn rings(&self, call: u64, server: NameHash, now: Time) {
        if let Some(pin) = self.table.find(call, now).filter(|pin| pin.server == server && !pin.confirmed) {
            self.table.touch(pin, now, RINGING);
        }
    }

    fn give_back(&self, call: u64, server: NameHash, now: Time, confirmed: bool) {
        if let Some(pin) = self.table.find(call, now).filter(|pin| pin.server == server && pin.confirmed <= confirmed) {
            self.table.release(pin, now, TRANSACTION);
        }
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
        pins.opened(77, SERVER, Method::Invite, at(0));
        assert!(alive(&pins, 179) && !alive(&pins, 181));
        pins.opened(77, SERVER, Method::Register, at(200));
        assert!(alive(&pins, 231) && !alive(&pins, 233));
    }

    #[test]
    fn a_dialog_lives_until_its_bye_is_answered() {
        let pins = Pins::new(1000);
        pins.opened(77, SERVER, Method::Invite, at(0));
        pins.answered(77, SERVER, Method::Invite, 180, at(1), EXPIRE);
        assert!(!pins.find(77, at(1)).unwrap().confirmed, "ringing proves nothing");
        pins.answered(77, SERVER, Method::Invite, 200, at(2), EXPIRE);
        assert!(alive(&pins, 7000));
        pins.answered(77, SERVER, Method::Invite, 488, at(10), EXPIRE);
        assert!(alive(&pins, 7000), "a refused re-INVITE ends no call");
        pins.used(pins.find(77, at(7000)).unwrap(), at(7000), EXPIRE);
        assert!(alive(&pins, 14_000));
        pins.answered(77, NameHash(6), Method::Bye, 200, at(14_000), EXPIRE);
        assert!(alive(&pins, 14_100), "another server's answer says nothing about this call");
        pins.answered(77, SERVER, Method::Bye, 200, at(14_000), EXPIRE);
        assert!(alive(&pins, 14_031) && !alive(&pins, 14_033));
    }

    #[test]
    fn a_failed_invite_is_given_back() {
        let pins = Pins::new(1000);
        pins.opened(77, SERVER, Method::Invite, at(0));
        pins.answered(77, SERVER, Method::Invite, 486, at(10), EXPIRE);
        assert!(alive(&pins, 41) && !alive(&pins, 43));
    }

    #[test]
    fn counts_what_each_server_has() {
        let pins = Pins::new(1000);
        for call in 0..10 {
            pins.opened(call << 32 | 7, NameHash(call as u32 % 2), Method::Invite, at(0));
        }
        pins.answered(4 << 32 | 7, NameHash(0), Method::Invite, 200, at(1), EXPIRE);
        let held = pins.by_server(at(2));
        assert_eq!(held[&NameHash(0)], Held { calls: 1, pins: 5 });
        assert_eq!(held[&NameHash(1)], Held { calls: 0, pins: 5 });
        assert_eq!(pins.by_server(at(200))[&NameHash(0)], Held { calls: 1, pins: 1 });
    }

    #[test]
    fn a_2xx_makes_the_pin_that_a_node_never_wrote() {
        let pins = Pins::new(1000);
        pins.answered(77, SERVER, Method::Invite, 200, at(0), EXPIRE);
        assert_eq!(pins.find(77, at(1)).map(|pin| (pin.server, pin.confirmed)), Some((SERVER, true)));
    }
}
