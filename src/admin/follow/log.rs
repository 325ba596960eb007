//! One line of the log for each call: whose it was, which server it went to and why there, and what came of it.
//!
//! A call is known by its Call-ID and by which side opened it: a server that calls on to somebody else with the same Call-ID
//! makes a leg of its call, not another one.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::name;
use crate::config::Rate;
use crate::sip::token::NameHash;
use crate::sip::{Message, Method};
use crate::state::tap::{Fate, Step, What};
use crate::state::{Reason, Snapshot, Time};

/// Calls that may ring at once and are waited for; of more the outcome is not told.
const CALLS: usize = 50_000;
/// Nobody answers after Timer C (RFC 3261 §16.6 item 11).
const UNANSWERED: Duration = Duration::from_secs(185);
/// Whoever is asked for a password and knows one tries again sooner, and what repeats an INVITE that was answered comes sooner
/// (64*T1).
const SETTLED: Duration = Duration::from_secs(32);
/// How often it is looked for calls that are over.
const SWEEP: Duration = Duration::from_secs(1);
/// How often it is said how many have no line.
const SAY: Duration = Duration::from_secs(60);
/// Of what others wrote so much is shown: a Call-ID in octets, a phrase in letters.
const LONGEST_CALL_ID: usize = 128;
const LONGEST_PHRASE: usize = 60;
/// Of the lines of a window one in so many may be about what nobody lets in: strangers must not push customers out.
const STRANGERS: u32 = 10;
/// Calls of strangers that were told lately: they are repeated.
const TOLD: usize = 256;

/// Calls that wait for their outcome, and lines that were written.
#[derive(Debug, Default)]
pub(super) struct CallLog {
    calls: HashMap<u64, Call>,
    rate: Option<Rate>,
    /// The window of the rate: since when, how many, and how many of them about strangers.
    since: Time,
    lines: u32,
    strangers: u32,
    /// Calls of strangers that were told.
    told: VecDeque<u64>,
    /// Lines that would have been too many, and calls that were.
    left_out: u64,
    crowded_out: u64,
    swept: Time,
    said: Time,
}

#[derive(Debug)]
struct Call {
    began: Time,
    call_id: String,
    from: SocketAddr,
    by: Opener,
    server: Option<NameHash>,
    why: &'static str,
    cseq: u32,
    answer: Answer,
}

impl Call {
    /// Whether this is its caller, who was asked for a password and comes with it.
    fn is_tried_again(&self, step: &Step, cseq: u32) -> bool {
        matches!(self.answer, Answer::Challenge(_)) && cseq > self.cseq && self.from == step.ends.from
    }
}

/// Who opened a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opener {
    Client,
    Server,
}

/// How an INVITE was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    None,
    /// With a question for a password.
    Challenge(u16),
    /// And the line is written.
    Final,
}

impl CallLog {
    /// Writes so many lines at most; `None`: none, and what waits for its outcome is forgotten.
    pub fn set(&mut self, rate: Option<Rate>) {
        self.rate = rate;
        if rate.is_none() {
            self.calls.clear();
        }
    }

    /// One message of a followed call: requests as they came, responses as they left.
    pub fn step(&mut self, step: &Step, bytes: &[u8], message: &Message, snapshot: &Snapshot) {
        if message.method() != Method::Invite {
            return;
        }
        match (step.what, message.status()) {
            (What::Came { fate, again }, None) if message.to_tag(bytes).is_none() => {
                self.invite(step, bytes, message, (fate, again), snapshot);
            }
            (What::Left { fate: Fate::ToClient { .. } }, Some(status @ 200..)) => {
                self.response(step, Opener::Client, (status, &phrase(bytes, message)), message, snapshot);
            }
            (What::Left { fate: Fate::BackToServer { .. } }, Some(status @ 200..)) => {
                self.response(step, Opener::Server, (status, &phrase(bytes, message)), message, snapshot);
            }
            _ => {}
        }
    }

    fn invite(
        &mut self,
        step: &Step,
        bytes: &[u8],
        message: &Message,
        (fate, again): (Fate, bool),
        snapshot: &Snapshot,
    ) {
        let cseq = message.cseq.map_or(0, |cseq| cseq.number);
        let id = message.call_id.map_or(&[][..], |id| id.of(bytes));
        let call_id = || String::from_utf8_lossy(&id[..id.len().min(LONGEST_CALL_ID)]).into_owned();
        match fate {
            Fate::ToServer { server, why } => {
                self.sent(step, Opener::Client, cseq, (server, why.word()), call_id);
            }
            Fate::ToClient { server } => self.sent(step, Opener::Server, cseq, (server, "it called"), call_id),
            Fate::BackToServer { .. } => {}
            // What is repeated, or anybody sends with this Call-ID, says nothing about a call that has its server, unless
            // that one could not be reached, or the caller was asked for a password and comes with it.
            _ if self
                .calls
                .get(&step.call)
                .is_some_and(|call| !call.is_tried_again(step, cseq) && (!again || call.cseq != cseq)) => {}
            Fate::Answered { status, reason: Some(reason) }
                if again || is_ours(reason) || self.may_tell_stranger(step.call) =>
            {
                self.refused(step, cseq, &format!("{status} {}, said here", reason.word()), call_id, snapshot);
            }
            Fate::Dropped(reason) if again || self.may_tell_stranger(step.call) => {
                self.refused(step, cseq, &format!("dropped: {}", reason.word()), call_id, snapshot);
            }
            Fate::Answered { .. } | Fate::Dropped(_) => {}
        }
    }

    /// An INVITE was sent on.
    fn sent(
        &mut self,
        step: &Step,
        by: Opener,
        cseq: u32,
        (server, why): (NameHash, &'static str),
        call_id: impl Fn() -> String,
    ) {
        let known = self.calls.get_mut(&step.call);
        if let Some(call) = known {
            if call.by != by || call.cseq == cseq && call.answer != Answer::None || call.cseq > cseq {
                return;
            }
            // With another server there is another reason; the first one stands for what is repeated, and for what
            // comes again with a password.
            if call.server != Some(server) {
                (call.server, call.why) = (Some(server), why);
            } else if call.answer == Answer::Final {
                call.why = why;
            }
            if call.cseq < cseq {
                (call.cseq, call.began, call.answer) = (cseq, step.at, Answer::None);
            }
        } else if self.calls.len() < CALLS {
            let (began, from, answer, server) = (step.at, step.ends.from, Answer::None, Some(server));
            self.calls.insert(step.call, Call { began, call_id: call_id(), from, by, server, why, cseq, answer });
        } else {
            self.crowded_out += 1;
        }
    }

    /// It ended here.
    fn refused(&mut self, step: &Step, cseq: u32, outcome: &str, call_id: impl Fn() -> String, snapshot: &Snapshot) {
        let (began, from, answer) = (step.at, step.ends.from, Answer::None);
        let by = Opener::Client;
        let new = || Call { began, call_id: call_id(), from, by, server: None, why: "-", cseq, answer };
        self.calls.entry(step.call).or_insert_with(new);
        self.finish(step.call, step.at, outcome, snapshot);
        // Nobody waits for it: who floods us takes no room.
        if self.calls.get(&step.call).is_some_and(|call| call.server.is_none()) {
            self.calls.remove(&step.call);
        }
    }

    /// Of what strangers send a few lines are enough: counters have the rest.
    fn may_tell_stranger(&mut self, call: u64) -> bool {
        let most = self.rate.map_or(0, |rate| (rate.events / STRANGERS).max(1));
        if self.strangers >= most || self.told.contains(&call) {
            return false;
        }
        self.strangers += 1;
        self.told.push_back(call);
        if self.told.len() > TOLD {
            self.told.pop_front();
        }
        true
    }

    fn response(
        &mut self,
        step: &Step,
        by: Opener,
        (status, phrase): (u16, &str),
        message: &Message,
        snapshot: &Snapshot,
    ) {
        let cseq = message.cseq.map_or(0, |cseq| cseq.number);
        let waits = |call: &&mut Call| call.by == by && call.cseq == cseq && call.answer == Answer::None;
        let Some(call) = self.calls.get_mut(&step.call).filter(waits) else { return };
        match status {
            401 | 407 => (call.began, call.answer) = (step.at, Answer::Challenge(status)),
            _ => self.finish(step.call, step.at, phrase, snapshot),
        }
    }

    /// Again and again: what will get no answer any more, and what was left out.
    pub fn look(&mut self, now: Time, snapshot: &Snapshot) {
        let Some(rate) = self.rate else { return };
        if now.since(self.swept) >= SWEEP {
            self.swept = now;
            let waits = |call: &Call| if call.answer == Answer::None { UNANSWERED } else { SETTLED };
            self.give_up(|call| now.since(call.began) > waits(call), "no final answer", now, snapshot);
        }
        if now.since(self.since) >= rate.per {
            (self.since, self.lines, self.strangers) = (now, 0, 0);
        }
        if now.since(self.said) >= SAY {
            self.said = now;
            self.say_left_out();
        }
    }

    /// Nothing more comes: says what is still open, and what was left out.
    pub fn end(&mut self, now: Time, snapshot: &Snapshot) {
        self.give_up(|_| true, "still ringing when this process stopped", now, snapshot);
        self.say_left_out();
    }

    fn give_up(&mut self, over: impl Fn(&Call) -> bool, unanswered: &str, now: Time, snapshot: &Snapshot) {
        let over = self.calls.iter().filter(|(_, call)| over(call));
        for (id, answer) in over.map(|(id, call)| (*id, call.answer)).collect::<Vec<_>>() {
            match answer {
                Answer::None => self.finish(id, now, unanswered, snapshot),
                Answer::Challenge(status) => self.finish(id, now, &format!("{status}, and no other try"), snapshot),
                Answer::Final => {}
            }
            self.calls.remove(&id);
        }
    }

    fn say_left_out(&mut self) {
        let (left_out, crowded_out) = (std::mem::take(&mut self.left_out), std::mem::take(&mut self.crowded_out));
        if left_out > 0 {
            tracing::info!(calls = left_out, "calls that have no line: there were more than `rate` in [call_log]");
        }
        if crowded_out > 0 {
            tracing::info!(calls = crowded_out, "calls that have no line: {CALLS} others wait for their outcome");
        }
    }

    fn finish(&mut self, call: u64, at: Time, outcome: &str, snapshot: &Snapshot) {
        let Some(call) = self.calls.get_mut(&call).filter(|call| call.answer != Answer::Final) else { return };
        let Call { began, ref call_id, from, server, why, .. } = *call;
        (call.began, call.answer) = (at, Answer::Final);
        if self.rate.is_none_or(|rate| self.lines >= rate.events) {
            self.left_out += 1;
            return;
        }
        self.lines += 1;
        let server = server.map_or("-", |server| name(server, snapshot));
        let after_ms = format_args!("{:.1}", at.since(began).as_secs_f64() * 1000.0);
        // Strangers wrote the Call-ID and servers the phrase: quoted, with what is no letter escaped.
        tracing::info!(call_id, %from, server, why, outcome, %after_ms, "call");
    }
}

/// Whether it is we who could not take a good call.
fn is_ours(reason: Reason) -> bool {
    matches!(reason, Reason::NoServer | Reason::ServersFull)
}

/// Status and phrase of a response.
fn phrase(bytes: &[u8], message: &Message) -> String {
    let line = bytes[..usize::from(message.head).min(bytes.len())].trim_ascii();
    let text = String::from_utf8_lossy(line);
    text.split_once(' ').map_or("", |(_, rest)| rest).chars().take(LONGEST_PHRASE).collect()
}
