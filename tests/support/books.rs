//! Which calls a node should count for which server, by the rules as they are told to people: a plain map, one entry for a
//! Call-ID, no flags in words, nothing shared.

use std::collections::HashMap;

use trunkline::proxy::Passage;

/// Seconds.
const RINGS: u64 = 180;
const TRANSACTION: u64 = 32;
const CALL: u64 = 2 * 60 * 60;
const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Entry {
    server: usize,
    /// The second in which it is forgotten.
    until: u64,
    confirmed: bool,
    /// It is a call of its server.
    counted: bool,
    /// An INVITE of it may still be answered with 2xx.
    open: bool,
}

/// One node's memory of calls.
#[derive(Default)]
pub struct Books {
    entries: HashMap<u32, Entry>,
}

fn from_now(now: u64, life: u64) -> u64 {
    (now + life * SECOND).div_ceil(SECOND)
}

impl Entry {
    /// It is used: it lives on, but nothing is written for less than a sixteenth of the time.
    fn touch(&mut self, now: u64, life: u64) {
        if self.until < from_now(now, life) - life / 16 {
            self.until = from_now(now, life);
        }
    }

    fn over(&mut self, now: u64) {
        self.until = self.until.min(from_now(now, TRANSACTION));
        (self.confirmed, self.counted, self.open) = (false, false, false);
    }
}

impl Books {
    fn alive(&mut self, call: u32, now: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&call).filter(|entry| entry.until > now / SECOND)
    }

    /// A message passed. `opens`: it has no To tag and is no ACK or CANCEL; `by_token`: its Route said which server.
    pub fn passed(&mut self, call: u32, method: &str, passage: Passage, opens: bool, by_token: bool, now: u64) {
        let before = self.alive(call, now).copied();
        match passage {
            Passage::RequestToServer { server, .. } => {
                match self.alive(call, now) {
                    Some(entry) if (by_token || entry.server == server) && entry.confirmed => entry.touch(now, CALL),
                    Some(entry) if by_token || entry.server == server => {}
                    Some(entry) => {
                        // Its own server may not have it any more.
                        let life = if entry.confirmed { CALL } else { TRANSACTION };
                        *entry = Entry { server, until: from_now(now, life), open: entry.counted, ..*entry };
                    }
                    None => {}
                }
                if opens {
                    self.opened(call, server, method, now);
                }
            }
            Passage::RequestToClient { server, .. } => match before {
                Some(entry) if entry.server == server && entry.confirmed => {
                    self.alive(call, now).unwrap().touch(now, CALL);
                }
                _ => assert!(!opens, "servers open no calls here"),
            },
            Passage::ResponseToClient { .. } | Passage::ResponseToServer { .. } => {}
        }
        if method == "BYE" {
            self.hung_up(call, now);
        }
    }

    fn opened(&mut self, call: u32, server: usize, method: &str, now: u64) {
        let is_call = method == "INVITE";
        let until = from_now(now, if is_call { RINGS } else { TRANSACTION });
        match self.alive(call, now).filter(|entry| entry.server == server) {
            Some(entry) if is_call => {
                entry.until = if entry.confirmed { entry.until.max(until) } else { until };
                (entry.counted, entry.open) = (true, true);
            }
            Some(_) => {}
            None => {
                let entry = Entry { server, until, confirmed: false, counted: is_call, open: is_call };
                self.entries.insert(call, entry);
            }
        }
    }

    /// An answer passed that belongs to a request of `server`, or to one that it got.
    pub fn answered(&mut self, call: u32, method: &str, status: u16, server: usize, now: u64) {
        let begun = Entry { server, until: from_now(now, CALL), confirmed: true, counted: true, open: true };
        let entry = self.alive(call, now);
        match (method, status, entry) {
            ("INVITE", 200..300, None) => drop(self.entries.insert(call, begun)),
            (_, _, None) => {}
            (_, _, Some(entry)) if entry.server != server => {}
            // A 200 once more behind the BYE begins nothing.
            ("INVITE", 200..300, Some(entry)) if entry.confirmed || entry.open => *entry = begun,
            ("INVITE", 101..200, Some(entry)) if !entry.confirmed && entry.open => {
                match entry.counted {
                    true => entry.touch(now, RINGS),
                    false => entry.until = from_now(now, RINGS),
                }
                entry.counted = true;
            }
            ("INVITE", 401 | 407, Some(entry)) if !entry.confirmed => entry.counted = false,
            // Another branch of it may still ring.
            ("INVITE", 300.., Some(entry)) if !entry.confirmed => {
                (entry.counted, entry.until) = (false, entry.until.min(from_now(now, TRANSACTION)));
            }
            ("BYE", 200..300, Some(entry)) => entry.over(now),
            // A dialog that nobody knows: no call, but another one of a forked call may be there.
            ("BYE", 408 | 481, Some(entry)) if entry.confirmed => {
                (entry.confirmed, entry.counted, entry.open) = (false, false, false);
            }
            _ => {}
        }
    }

    /// Somebody sent a BYE of it: it is no call, but another one of a forked call may be there.
    pub fn hung_up(&mut self, call: u32, now: u64) {
        if let Some(entry) = self.alive(call, now).filter(|entry| entry.confirmed) {
            (entry.confirmed, entry.counted, entry.open) = (false, false, false);
        }
    }

    /// How many calls each of so many servers should have.
    pub fn calls(&mut self, servers: usize, now: u64) -> Vec<i64> {
        self.entries.retain(|_, entry| entry.until > now / SECOND);
        let count = |server| self.entries.values().filter(|entry| entry.counted && entry.server == server).count();
        (0..servers).map(|server| count(server) as i64).collect()
    }
}
