//! Who is shut out for a while: sources that offended again and again. What belongs to a call that is up passes; a banned
//! source opens nothing new.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::Time;
use super::connections::End;
use super::counters::Reason;
use super::limits::{Limits, Pace};
use super::lookup::hasher;
use crate::config::limits::{Ban as Configured, Offence};
use crate::sip::token::NameHash;

/// Sources that are banned at once, some hundred bytes each. Where more should be, the others are only limited: forged
/// sources must not drive out those that were found before, and have half of the places.
const MOST: usize = 10_000;
/// Tells what a source did by connections from what came in its name by datagrams.
const PROVEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A frontend's, ready to be asked.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What a source may commit before it is banned.
    pace: Pace,
    lasts: u64,
    /// A bit for each [`Offence`].
    offences: u8,
}

impl From<&Configured> for Rule {
    fn from(ban: &Configured) -> Self {
        let interval = ban.within.as_nanos() as u64 / u64::from(ban.after);
        let offences = ban.offences.iter().fold(0, |all, offence| all | 1 << *offence as u8);
        Self { pace: Pace::new(interval, ban.after - 1), lasts: ban.lasts.as_nanos() as u64, offences }
    }
}

/// A source that is banned at one frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    pub since: Time,
    pub until: Time,
    pub why: Offence,
    /// It offended by connections, so it is who it says: connections of it are judged by it too. A datagram's source may be
    /// anybody's word, and shuts out datagrams alone.
    pub proven: bool,
    /// The log has it.
    told: bool,
}

/// Who offended.
#[derive(Clone, Copy, Debug)]
pub struct Offender {
    pub frontend: NameHash,
    pub source: IpAddr,
    /// What the source is counted by.
    pub key: u64,
    /// By a connection.
    pub proven: bool,
}

/// All of them.
pub struct Bans {
    /// Keyed by numbers that nobody outside chooses, and addresses of which there are [`MOST`].
    banned: DashMap<(NameHash, IpAddr), Ban, ahash::RandomState>,
    /// As many as are in there: nearly always nobody, and then nobody looks.
    many: AtomicUsize,
    /// Offences, per source.
    offences: Limits,
}

impl Default for Bans {
    fn default() -> Self {
        Self { banned: DashMap::with_hasher(hasher()), many: AtomicUsize::new(0), offences: Limits::default() }
    }
}

impl Bans {
    /// The ban of a source at a frontend. `proven`: it comes by a connection.
    pub fn find(&self, frontend: NameHash, source: IpAddr, proven: bool, now: Time) -> Option<Ban> {
        if self.is_empty() {
            return None;
        }
        let ban = *self.banned.get(&(frontend, who(source)))?;
        (ban.until > now && (ban.proven || !proven)).then_some(ban)
    }

    /// A source committed something. True where it is banned from now on.
    #[cold]
    pub fn note(&self, offender: Offender, offence: Offence, rule: Rule, now: Time) -> bool {
        let Offender { frontend, source, key, proven } = offender;
        if rule.offences & 1 << offence as u8 == 0 {
            return false;
        }
        let key = key ^ if proven { PROVEN } else { 0 };
        let one_too_many = !self.offences.admit(key, now, rule.pace);
        if !one_too_many && self.is_empty() {
            return false;
        }
        let until = Time(now.0.saturating_add(rule.lasts));
        let ban = Ban { since: now, until, why: offence, proven, told: false };
        // Looked at before the shard is locked: an entry's lock must be no other worker's second.
        let full = self.len() >= if proven { MOST } else { MOST / 2 };
        match self.banned.entry((frontend, who(source))) {
            // Who goes on while it is banned is banned for longer, by its own hand alone.
            Entry::Occupied(mut known) if known.get().until > now => {
                let known = known.get_mut();
                if proven || !known.proven {
                    known.until = until;
                    if one_too_many {
                        (known.why, known.proven) = (offence, proven);
                    }
                }
                false
            }
            // It is over, and nobody has looked since.
            Entry::Occupied(mut known) => {
                if one_too_many {
                    known.insert(ban);
                }
                one_too_many
            }
            Entry::Vacant(place) => {
                let banned = one_too_many && !full;
                if banned {
                    place.insert(ban);
                    self.many.fetch_add(1, Ordering::Relaxed);
                }
                banned
            }
        }
    }

    /// Forgets those that are over, and says those that it has not said yet.
    pub fn sweep(&self, now: Time) -> Vec<(NameHash, IpAddr, Ban)> {
        let (mut new, mut over) = (Vec::new(), 0);
        if self.is_empty() {
            return new;
        }
        self.banned.retain(|(frontend, source), ban| {
            if !std::mem::replace(&mut ban.told, true) {
                new.push((*frontend, *source, *ban));
            }
            let stays = ban.until > now;
            over += usize::from(!stays);
            stays
        });
        self.many.fetch_sub(over, Ordering::Relaxed);
        new
    }

    /// Ends the bans of a source at all frontends, and says how many those were.
    pub fn lift(&self, source: IpAddr) -> usize {
        let (source, mut lifted) = (who(source), 0);
        self.banned.retain(|(_, banned), _| {
            let stays = *banned != source;
            lifted += usize::from(!stays);
            stays
        });
        self.many.fetch_sub(lifted, Ordering::Relaxed);
        lifted
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.many.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them; those that end last first.
    pub fn all(&self, now: Time) -> Vec<(NameHash, IpAddr, Ban)> {
        let each = self.banned.iter().map(|ban| (ban.key().0, ban.key().1, *ban));
        let mut all: Vec<_> = each.filter(|(_, _, ban)| ban.until > now).collect();
        all.sort_by_key(|(_, source, ban)| (std::cmp::Reverse(ban.until), *source));
        all
    }
}

/// A network of IPv6 is one source: whoever has an address of it has all.
pub fn who(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & u128::MAX << 64)),
        ip => ip,
    }
}

impl Reason {
    /// What may be held against who sent it.
    pub fn offence(self) -> Option<Offence> {
        match self {
            Self::Scanner => Some(Offence::Scanner),
            Self::NotSip => Some(Offence::NotSip),
            Self::Malformed => Some(Offence::Malformed),
            Self::ForgedToken | Self::ForgedResponse => Some(Offence::ForgedToken),
            Self::RateLimited => Some(Offence::RateLimited),
            _ => None,
        }
    }
}

impl End {
    /// The same; what is no SIP, or whose end cannot be told, was held against it when it was read.
    pub fn offence(self) -> Option<Offence> {
        match self {
            Self::ForgedProxyHeader => Some(Offence::ForgedProxyHeader),
            Self::BadHandshake | Self::SlowHandshake => Some(Offence::BadHandshake),
            Self::RateLimited | Self::TooManyHandshakesOfSource => Some(Offence::RateLimited),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const FRONTEND: NameHash = NameHash(1);

    fn rule(after: u32) -> Rule {
        let (within, lasts) = (Duration::from_secs(60), Duration::from_secs(600));
        Rule::from(&Configured { after, within, lasts, offences: vec![Offence::Scanner, Offence::RateLimited] })
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    fn v4(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    fn offender(n: u32, proven: bool) -> Offender {
        Offender { frontend: FRONTEND, source: v4(n), key: u64::from(n), proven }
    }

    #[test]
    fn so_many_offences_within_a_time_shut_a_source_out_for_another() {
        let bans = Bans::default();
        let note = |n, offence, now| bans.note(offender(n, false), offence, rule(3), at(now));
        let has = |n, now| bans.find(FRONTEND, v4(n), false, at(now)).is_some();
        assert_eq!([100, 101].map(|now| note(1, Offence::Scanner, now)), [false; 2]);
        assert!((0..100).all(|_| !note(1, Offence::Malformed, 101)), "not held against anybody here");
        assert!(!has(1, 101));
        assert!(note(1, Offence::RateLimited, 102) && has(1, 102));
        assert!(bans.find(NameHash(2), v4(1), false, at(102)).is_none() && !has(2, 102));
        assert!(has(1, 701) && !has(1, 702));
        let told = bans.sweep(at(103));
        assert_eq!((told.len(), told[0].1, told[0].2.why), (1, v4(1), Offence::RateLimited));
        assert_eq!((bans.sweep(at(104)), bans.len()), (Vec::new(), 1), "it is told once");
        assert!(!note(1, Offence::Scanner, 400) && has(1, 999), "who goes on stays out");
        assert!(bans.sweep(at(1_000)).is_empty() && bans.is_empty() && bans.all(at(1_000)).is_empty());
        for now in (2_000..3_000).step_by(31) {
            assert!(!note(2, Offence::Scanner, now), "two a minute are none too many");
        }
    }

    #[test]
    fn what_came_in_somebody_s_name_by_datagrams_shuts_out_no_connection_of_his() {
        let bans = Bans::default();
        let note = |proven, now| bans.note(offender(1, proven), Offence::Scanner, rule(2), at(now));
        let find = |proven, now| bans.find(FRONTEND, v4(1), proven, at(now));
        assert!(!note(false, 1) && note(false, 1));
        assert!(find(false, 2).is_some() && find(true, 2).is_none());
        assert!(!note(true, 3) && find(true, 3).is_none(), "one by a connection is one");
        assert!(!note(true, 3) && find(true, 3).is_some(), "two are two");
        assert!((0..9).all(|_| !note(false, 500)) && find(true, 604).is_none(), "and datagrams make it no longer");
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_whom_somebody_forgives_is_free() {
        let bans = Bans::default();
        let [one, other, stranger] = ["2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1"].map(|ip| ip.parse().unwrap());
        let note = || {
            let offender = Offender { frontend: FRONTEND, source: one, key: 7, proven: true };
            bans.note(offender, Offence::Scanner, rule(2), at(1))
        };
        let has = |ip| bans.find(FRONTEND, ip, true, at(2)).is_some();
        assert!(!note() && note() && has(other) && !has(stranger));
        assert_eq!((bans.lift(stranger), bans.lift(other), bans.len()), (0, 1, 0));
        assert!(!has(one));
    }

    #[test]
    fn there_are_no_more_than_that() {
        let bans = Bans::default();
        let ban = |n: u32, proven| {
            let note = || bans.note(offender(n, proven), Offence::Scanner, rule(2), at(1));
            note() || note()
        };
        assert_eq!((0..20_000).filter(|n| ban(*n, false)).count(), MOST / 2);
        assert_eq!((20_000..40_000).filter(|n| ban(*n, true)).count(), MOST - MOST / 2);
        let has = |n| bans.find(FRONTEND, v4(n), false, at(2)).is_some();
        assert!(has(0) && has(20_000) && !has(39_999));
        bans.sweep(at(10_000));
        assert!(bans.is_empty() && ban(50_000, false));
    }
}
