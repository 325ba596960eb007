//! Retransmissions of what came by a stream and left in a datagram. Its sender relies on TCP and sends nothing twice, and a
//! datagram may get lost, or reach a server that has just died. So copies are sent from here, as the sender would send them over
//! UDP (RFC 3261 §17.1.1.2, §17.1.2.2, §17.2.1): each is decided about anew. Bounded.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use crate::net::udp::{Engine, Leaving, Origin, clock, slot};
use crate::proxy::{self, Hop, Passage, Received, Verdict};
use crate::sip::token::NameHash;
use crate::sip::{Flow, Method};
use crate::state::lookup::{Map, hasher};
use crate::state::{Snapshot, Time};

/// How often it is looked for what is due. Times are counted in it: who puts something in needs no clock.
pub const STEP: Duration = Duration::from_millis(250);

/// RFC 3261's T1 and T2 (500 ms and 4 s), in steps.
const T1: u64 = 2;
const T2: u64 = 16;

/// How long anything is sent again: 64*T1 (Timers B, F and H).
const LONGEST: u64 = 64 * T1;

/// The most bytes that a worker keeps: those of some eight thousand messages. What finds no room is not sent again.
const MOST_BYTES: usize = 8 << 20;

/// The largest buffer that is used again, and how many.
const MOST_REUSED: usize = 4096;
const MOST_FREE: usize = 1024;

/// What of a transaction it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Invite,
    Request,
    /// A CANCEL is of its INVITE's transaction, and has an answer of its own (RFC 3261 §9.1).
    Cancel,
    /// A final answer to an INVITE that is no 2xx. Those are sent again by who picked up, over whatever (§13.3.1.4).
    Refusal,
}

/// Which message.
pub type Key = (u64, Part);

/// How it came.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    pub flow: Flow,
    pub lane: usize,
    pub peer: Option<NameHash>,
}

struct Copy {
    bytes: Vec<u8>,
    came: Came,
    /// When it is sent again, how long after that once more, and from when on never, in steps.
    due: u64,
    wait: u64,
    until: u64,
}

/// What one worker sends again.
pub struct Retransmissions {
    copies: Map<Key, Copy>,
    /// The soonest first; with some that are not due then any more.
    order: BinaryHeap<Reverse<(u64, Key)>>,
    step: u64,
    bytes: usize,
    /// Buffers of what was answered, for what is to come.
    free: Vec<Vec<u8>>,
}

impl Default for Retransmissions {
    fn default() -> Self {
        let copies = Map::with_hasher(hasher());
        Self { copies, order: BinaryHeap::new(), step: 0, bytes: 0, free: Vec::new() }
    }
}

impl Retransmissions {
    /// What is to be sent again of a message that passes like this, until it is answered.
    pub fn key(passage: &Passage) -> Option<Key> {
        match *passage {
            Passage::RequestToServer { method, transaction, .. }
            | Passage::RequestToClient { method, transaction, .. } => part_of(method).map(|part| (transaction, part)),
            Passage::ResponseToClient { method: Method::Invite, status: 300.., transaction, .. }
            | Passage::ResponseToServer { method: Method::Invite, status: 300.., transaction, .. } => {
                Some((transaction, Part::Refusal))
            }
            _ => None,
        }
    }

    /// Keeps a message that is about to leave. False where there is no room.
    pub fn put(&mut self, key: Key, parts: [&[u8]; 2], came: Came) -> bool {
        if let Some(copy) = self.copies.get_mut(&key) {
            // Its sender may have another connection by now.
            copy.came = came;
            return true;
        }
        if key.1 == Part::Cancel {
            // Whoever takes a call back that nobody has answered yet does not want it to ring.
            self.forget((key.0, Part::Invite));
        }
        let len = parts.map(<[u8]>::len).iter().sum::<usize>();
        if self.bytes + len > MOST_BYTES {
            return false;
        }
        let mut bytes = self.free.pop().unwrap_or_default();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        self.bytes += len;
        // This step may be over in a moment.
        let (due, until) = (self.step + T1 + 1, self.step + LONGEST);
        self.copies.insert(key, Copy { bytes, came, due, wait: 2 * T1, until });
        self.order.push(Reverse((due, key)));
        true
    }

    /// A message passed over a stream: it may be what somebody waits for.
    pub fn passed(&mut self, passage: &Passage) {
        if self.copies.is_empty() {
            return;
        }
        match *passage {
            Passage::ResponseToClient { method, status, transaction, .. }
            | Passage::ResponseToServer { method, status, transaction, .. } => {
                let Some(part) = part_of(method) else { return };
                match self.copies.get_mut(&(transaction, part)) {
                    // It has arrived, and its answer takes as long as it takes (§17.1.2.2).
                    Some(copy) if status < 200 && part != Part::Invite => copy.wait = T2,
                    _ => self.forget((transaction, part)),
                }
            }
            Passage::RequestToServer { method: Method::Ack, transaction, .. }
            | Passage::RequestToClient { method: Method::Ack, transaction, .. } => {
                self.forget((transaction, Part::Refusal));
            }
            _ => {}
        }
    }

    /// It is not sent again.
    pub fn forget(&mut self, key: Key) {
        let Some(Copy { mut bytes, .. }) = self.copies.remove(&key) else { return };
        self.bytes -= bytes.len();
        if bytes.capacity() <= MOST_REUSED && self.free.len() < MOST_FREE {
            bytes.clear();
            self.free.push(bytes);
        }
    }

    /// [`STEP`] is over. Says whether anything may be due.
    pub fn step(&mut self) -> bool {
        self.step += 1;
        !self.order.is_empty()
    }

    /// One that is to be sent again now.
    pub fn next_due(&mut self) -> Option<Key> {
        while let Some(Reverse((due, key))) = self.order.peek().copied().filter(|Reverse((due, _))| *due <= self.step) {
            self.order.pop();
            let Some(copy) = self.copies.get_mut(&key).filter(|copy| copy.due == due) else { continue };
            if self.step >= copy.until {
                self.forget(key);
                continue;
            }
            let most = if key.1 == Part::Invite { LONGEST } else { T2 };
            copy.due = (self.step + copy.wait.min(most)).min(copy.until);
            copy.wait = (2 * copy.wait).min(most);
            self.order.push(Reverse((copy.due, key)));
            return Some(key);
        }
        None
    }

    /// A message as it came in.
    pub fn get(&self, key: Key) -> Option<(&[u8], Came)> {
        self.copies.get(&key).map(|copy| (&copy.bytes[..], copy.came))
    }
}

impl Engine {
    /// Keeps what came by a stream and is about to leave in a datagram. Says whether it is sent again.
    pub(in crate::net) fn keep(&mut self, leaving: &Leaving, snapshot: &Snapshot) -> bool {
        let Some(key) = leaving.passage().and_then(Retransmissions::key) else { return false };
        let Origin { slot: n, len, bind, flow, peer, .. } = leaving.origin;
        let came = Came { flow, lane: usize::from(snapshot.binds[bind].lane), peer };
        self.streams.retransmissions.put(key, self.tools.original(n, leaving.saved, len), came)
    }

    /// What did not leave is not sent again.
    pub(in crate::net) fn let_go(&mut self, leaving: &Leaving) {
        if let Some(key) = leaving.passage().and_then(Retransmissions::key) {
            self.streams.retransmissions.forget(key);
        }
    }

    /// Once every [`STEP`]: sends again what nobody has answered.
    pub fn retransmit(&mut self) {
        if !self.streams.retransmissions.step() {
            return;
        }
        let (now, snapshot) = (clock(), Arc::clone(self.snapshot.load()));
        while let Some(key) = self.streams.retransmissions.next_due() {
            self.send_again(key, now, &snapshot);
        }
        self.finish(now, &snapshot);
    }

    /// Decides about one of them as about the next copy: its server may be another one by now. What does not leave in a
    /// datagram any more is not sent again, nor is a client's INVITE whose connection has ended: a phone would ring for nobody.
    /// What else a stream carried arrives though it ended behind it: a BYE, a refusal.
    fn send_again(&mut self, key: Key, now: Time, snapshot: &Arc<Snapshot>) {
        let n = self.free_slot(now, snapshot);
        let Some((bytes, Came { flow, lane, peer })) = self.streams.retransmissions.get(key) else { return };
        let is_wanted = key.1 != Part::Invite
            || peer.is_some()
            || flow.connection.is_some_and(|id| self.streams.open.contains_key(&id));
        let Some(bind) = snapshot.bind_of_lane(lane).filter(|_| is_wanted) else {
            return self.streams.retransmissions.forget(key);
        };
        let (len, data) = (bytes.len(), slot(n).start..slot(n).start + bytes.len());
        let tools = &mut self.tools;
        tools.arena[data.clone()].copy_from_slice(bytes);
        let bytes = &tools.arena[data];
        if tools.message.read(bytes).is_err() {
            return;
        }
        let live = &snapshot.frontends[usize::from(snapshot.binds[bind].frontend)].live;
        live.of(tools.memory.worker).received.add(1);
        let received = Received { bytes, message: &tools.message, flow: &flow, bind, peer };
        let verdict = proxy::admitted(received, false, now, snapshot, &mut tools.memory, &mut tools.edits);
        if !matches!(verdict, Verdict::Forward { to: Hop::Datagram(_), .. }) {
            self.streams.retransmissions.forget(key);
        }
        self.carry_out(verdict, Origin { bind, slot: n, flow, len, peer, tries: 1 }, snapshot);
    }
}

fn part_of(method: Method) -> Option<Part> {
    match method {
        Method::Ack => None,
        Method::Invite => Some(Part::Invite),
        Method::Cancel => Some(Part::Cancel),
        _ => Some(Part::Request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came() -> Came {
        let flow = Flow::of_datagrams(([10, 0, 0, 1], 5060).into(), ([10, 0, 0, 2], 5060).into());
        Came { flow, lane: 0, peer: None }
    }

    fn answer(method: Method, status: u16) -> Passage {
        Passage::ResponseToServer { server: 0, method, status, transaction: 7 }
    }

    /// At which steps it is sent again, where this passes at that step.
    fn times(part: Part, passes: Option<(u64, Passage)>) -> Vec<u64> {
        let (mut kept, mut times) = (Retransmissions::default(), Vec::new());
        kept.put((7, part), [b"head", b"body"], came());
        for step in 1..=200 {
            kept.step();
            if let Some((_, passage)) = passes.as_ref().filter(|(at, _)| *at == step) {
                kept.passed(passage);
            }
            while let Some(key) = kept.next_due() {
                assert_eq!(kept.get(key).unwrap().0, b"headbody");
                times.push(step);
            }
        }
        assert!(kept.copies.is_empty() && kept.order.is_empty() && kept.bytes == 0 && kept.free.len() == 1);
        times
    }

    /// RFC 3261's Timers A, E and G, and the ends that B, F and H set.
    #[test]
    fn copies_leave_at_the_times_of_the_rfc() {
        assert_eq!(times(Part::Invite, None), [3, 7, 15, 31, 63, 127]);
        let others = [3, 7, 15, 31, 47, 63, 79, 95, 111, 127];
        for part in [Part::Request, Part::Cancel, Part::Refusal] {
            assert_eq!(times(part, None), others);
        }
    }

    #[test]
    fn an_answer_ends_them() {
        let at = |step, method, status| Some((step, answer(method, status)));
        assert_eq!(times(Part::Invite, at(4, Method::Invite, 180)), [3]);
        assert_eq!(times(Part::Invite, at(4, Method::Invite, 486)), [3]);
        assert_eq!(times(Part::Request, at(8, Method::Bye, 200)), [3, 7]);
        assert_eq!(times(Part::Cancel, at(2, Method::Cancel, 481)), [0; 0]);
        // Somebody thinks about it.
        assert_eq!(times(Part::Request, at(2, Method::Message, 100)), [3, 19, 35, 51, 67, 83, 99, 115]);
        let ack = Passage::RequestToClient { server: 0, frontend: 0, method: Method::Ack, transaction: 7 };
        assert_eq!(times(Part::Refusal, Some((8, ack))), [3, 7]);
        // What is about another part of the transaction does not.
        assert_eq!(times(Part::Cancel, at(4, Method::Invite, 487)).len(), 10);
        assert_eq!(times(Part::Refusal, at(4, Method::Invite, 487)).len(), 10);
        assert_eq!(times(Part::Invite, Some((4, ack))).len(), 6);
    }

    #[test]
    fn what_finds_no_room_is_not_kept() {
        let mut kept = Retransmissions::default();
        let message = vec![b'x'; 60_000];
        for transaction in 0..1000 {
            let has_room = transaction < (MOST_BYTES / 60_000) as u64;
            assert_eq!(kept.put((transaction, Part::Invite), [&message, &[]], came()), has_room);
        }
        assert_eq!((kept.copies.len(), kept.bytes), (MOST_BYTES / 60_000, MOST_BYTES / 60_000 * 60_000));
        kept.forget((0, Part::Invite));
        kept.put((2000, Part::Invite), [&message, &[]], came());
        assert!(kept.get((2000, Part::Invite)).is_some() && kept.get((999, Part::Invite)).is_none());
        // Where there is none for a CANCEL, its INVITE ends all the same.
        assert!(!kept.put((1, Part::Cancel), [&message, &message], came()) && kept.get((1, Part::Invite)).is_none());
    }
}
