//! One call at one of its ends, as a state machine without sockets: bytes and time in, bytes out.
//!
//! ```text
//! caller:  Calling ──2xx──▶ Talking ──BYE──▶ Ending ──▶ Over        callee:  Ringing ──200──▶ Answered ──ACK──▶ Talking …
//! ```
//! The same machine serves the client that calls, the server that is called, the server that calls back and the phone
//! that is called back; a lone request (OPTIONS, REGISTER) is a call that ends with its first final answer. This file
//! holds what a call is and what time does to it; [`super::caller`] what responses do, [`super::callee`] what requests
//! do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::callee::Ringing;
use super::compose::{Asked, Local, sdp};
use super::dialog::Dialog;
use super::outgoing::Turn;
use super::plan::Plan;
use super::transaction::{NEVER, Pending, Unacknowledged};
use crate::sip::Method;
use crate::state::Time;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that its plan asks for happened.
    Answered,
    /// A final failure answered the first request.
    Refused(u16),
    /// The first request never got a final answer.
    Lost,
    /// Nor will it: the connection broke.
    Disconnected,
    /// It was established, then something inside it failed.
    Stranded(Strand),
}

/// What failed inside an established call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strand {
    /// An in-dialog request of ours got no final answer.
    NoAnswer,
    /// An in-dialog request of ours was refused.
    Refused(u16),
    /// Our 200 was never acknowledged.
    NoAck,
    /// The other end's BYE never came.
    NoBye,
    /// The other end rang off without the re-INVITE that was due from it.
    NoReinvite,
    /// A registered phone was not called.
    NotCalled,
    /// The connection broke while something was asked, or for good.
    Disconnected,
}

/// How long answers took; taken by the owner as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the meant start of the first INVITE to the first answer that is no 100.
    pub first: Option<Duration>,
    /// From a request to its final answer.
    pub last: Option<Duration>,
}

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first request is on its way.
    Calling,
    /// Called, not answered yet.
    Ringing(Ringing),
    /// Called and answered for good; the ACK is missing.
    Answered,
    /// Established since.
    Talking { since: Time },
    /// Our BYE is on its way.
    Ending,
    /// Registered, to be called until then.
    Expecting { until: Time },
    /// Ended; answers what the other end repeats, until then.
    Over { until: Time },
}

/// The ACK that a final answer got, sent again whenever that answer comes again.
#[derive(Clone, Debug)]
pub(super) struct Ack {
    /// The number in the branch of the INVITE.
    pub invite: u64,
    pub bytes: Vec<u8>,
    pub to: SocketAddr,
}

/// One call at one end.
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) dialog: Dialog,
    pub(super) local: Arc<Local>,
    pub(super) plan: Plan,
    pub(super) stage: Stage,
    /// Our request without final answer.
    pub(super) request: Option<Pending>,
    /// Our CANCEL without final answer.
    pub(super) cancel: Option<Pending>,
    /// Our final answer without ACK.
    pub(super) answer: Option<Unacknowledged>,
    pub(super) ack: Option<Ack>,
    /// The INVITE that we have not answered yet.
    pub(super) invite: Option<Received>,
    /// We have sent CANCEL.
    pub(super) cancelled: bool,
    /// Our re-INVITE was sent; theirs came.
    pub(super) reinvited: bool,
    pub(super) was_reinvited: bool,
    /// After a final answer to REGISTER: how long to wait for a call.
    pub(super) expects: Option<Duration>,
    pub timing: Timing,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub bytes: Vec<u8>,
    pub source: SocketAddr,
}

impl Received {
    /// An INVITE is answered later, when its datagram is gone.
    pub fn keep(asked: Asked<'_>) -> Self {
        Self { bytes: asked.bytes.to_vec(), source: asked.source }
    }
}

impl Call {
    pub(super) fn new(dialog: Dialog, local: Arc<Local>, plan: Plan, stage: Stage) -> Self {
        Self {
            dialog,
            local,
            plan,
            stage,
            request: None,
            cancel: None,
            answer: None,
            ack: None,
            invite: None,
            cancelled: false,
            reinvited: false,
            was_reinvited: false,
            expects: None,
            timing: Timing::default(),
        }
    }

    /// Whether the call has ended; it is still remembered.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over { .. })
    }

    /// Whether nothing about it need be remembered any more.
    pub fn is_forgotten(&self, now: Time) -> bool {
        matches!(self.stage, Stage::Over { until } if until <= now)
    }

    /// Whether a registered phone waits for its call.
    pub fn is_expecting(&self) -> bool {
        matches!(self.stage, Stage::Expecting { .. })
    }

    /// When [`Call::on_time`] wants to be called next.
    pub fn due(&self) -> Time {
        let transactions = [
            self.request.as_ref().map(Pending::due),
            self.cancel.as_ref().map(Pending::due),
            self.answer.as_ref().map(Unacknowledged::due),
        ];
        let own = match self.stage {
            Stage::Calling | Stage::Answered | Stage::Ending => NEVER,
            Stage::Ringing(ringing) => ringing.due(),
            Stage::Talking { since } => self.act_at(since),
            Stage::Expecting { until } | Stage::Over { until } => until,
        };
        transactions.into_iter().flatten().fold(own, Time::min)
    }

    /// When an established call wants to do its next step; while a request of ours is on its way, none.
    fn act_at(&self, since: Time) -> Time {
        match () {
            () if self.request.is_some() => NEVER,
            () if self.plan.reinvite && !self.reinvited => since + self.plan.hold / 2,
            () if self.plan.bye => since + self.plan.hold,
            () => since + self.plan.hold + self.plan.bye_within,
        }
    }

    /// Does what is due: repeats what was not answered, gives up, takes the next step.
    pub fn on_time(&mut self, turn: &mut Turn<'_>) -> Option<End> {
        if let Some(mut request) = self.request.take() {
            if request.on_time(turn) {
                return self.unanswered(turn);
            }
            self.request = Some(request);
        }
        if self.cancel.as_mut().is_some_and(|cancel| cancel.on_time(turn)) {
            // The INVITE has a deadline of its own.
            self.cancel = None;
        }
        if let Some(answer) = &mut self.answer
            && answer.on_time(turn)
        {
            return self.unacknowledged(turn);
        }
        match self.stage {
            Stage::Calling | Stage::Answered | Stage::Ending | Stage::Over { .. } => None,
            Stage::Ringing(_) => self.ring_or_answer(turn),
            Stage::Talking { since } if self.act_at(since) <= turn.now => self.act(turn),
            Stage::Talking { .. } => None,
            Stage::Expecting { until } if until <= turn.now => self.end(End::Stranded(Strand::NotCalled), turn),
            Stage::Expecting { .. } => None,
        }
    }

    /// The next step of an established call.
    fn act(&mut self, turn: &mut Turn<'_>) -> Option<End> {
        if self.plan.reinvite && !self.reinvited {
            self.reinvited = true;
            self.ask(Method::Invite, turn);
            return None;
        }
        if self.plan.bye {
            self.ring_off(turn);
            return None;
        }
        self.end(End::Stranded(Strand::NoBye), turn)
    }

    /// Sends BYE.
    pub(super) fn ring_off(&mut self, turn: &mut Turn<'_>) {
        self.stage = Stage::Ending;
        self.ask(Method::Bye, turn);
    }

    /// Sends a request inside the dialog.
    fn ask(&mut self, method: Method, turn: &mut Turn<'_>) {
        let body = if method == Method::Invite { sdp(0) } else { Vec::new() };
        self.ask_with(method, turn.now, &[], &body, turn);
    }

    /// Sends a request with further header lines and a body, meant to leave at `meant`.
    pub(super) fn ask_with(&mut self, method: Method, meant: Time, extra: &[u8], body: &[u8], turn: &mut Turn<'_>) {
        self.dialog.cseq += 1;
        let branch = turn.ids.fresh();
        turn.scratch.clear();
        self.dialog.request(method, branch, extra, body).write(&self.local, turn.scratch);
        self.request = Some(Pending::send(method, self.dialog.cseq, branch, self.dialog.next_hop, meant, turn));
    }

    /// A request of ours was given up.
    fn unanswered(&mut self, turn: &mut Turn<'_>) -> Option<End> {
        let end = match self.stage {
            Stage::Calling => End::Lost,
            _ => End::Stranded(Strand::NoAnswer),
        };
        self.end(end, turn)
    }

    /// A final answer of ours was never acknowledged.
    fn unacknowledged(&mut self, turn: &mut Turn<'_>) -> Option<End> {
        let status = self.answer.take()?.status;
        // The other end of a hop acknowledges a refusal (RFC 3261 §17.1.1.3): the caller, or who stands between.
        turn.traffic.without_ack += u64::from(status >= 300);
        let end = if status < 300 { End::Stranded(Strand::NoAck) } else { End::Refused(status) };
        self.end(end, turn)
    }

    /// Lets its requests go elsewhere than they would.
    pub fn go_by(&mut self, hop: impl FnOnce(SocketAddr) -> SocketAddr) {
        self.dialog.next_hop = hop(self.dialog.next_hop);
    }

    /// Where its requests without final answer went; answers over connections come from there (RFC 3261 §18.2.2).
    pub fn asked(&self) -> Option<SocketAddr> {
        self.request.as_ref().or(self.cancel.as_ref()).map(Pending::to)
    }

    /// The connection of the call broke. Nothing is heard any more of what was asked over it; what was not in the middle
    /// of something goes on, if there is another connection.
    pub fn disconnected(&mut self, for_good: bool, turn: &mut Turn<'_>) -> Option<End> {
        if self.request.is_none() && !for_good {
            return None;
        }
        match self.stage {
            Stage::Calling | Stage::Ringing(_) => self.end(End::Disconnected, turn),
            _ => self.end(End::Stranded(Strand::Disconnected), turn),
        }
    }

    /// The phone was called, and that call ended so.
    pub fn fulfil(&mut self, end: End, turn: &mut Turn<'_>) -> Option<End> {
        self.end(end, turn)
    }

    /// Ends the call, once.
    pub(super) fn end(&mut self, end: End, turn: &mut Turn<'_>) -> Option<End> {
        if self.is_over() {
            return None;
        }
        self.stage = Stage::Over { until: turn.now + turn.timers.linger() };
        (self.request, self.cancel, self.answer, self.invite) = (None, None, None, None);
        self.dialog.shrink();
        Some(end)
    }
}
