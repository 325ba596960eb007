//! What requests do to a call: the server side of its transactions (RFC 3261 §13.3, §15, §17.2).

use std::net::SocketAddr;
use std::sync::Arc;

use super::call::{Call, End, Received, Stage, Strand};
use super::compose::{Asked, Local, Response, sdp};
use super::dialog::Dialog;
use super::outgoing::Turn;
use super::plan::Plan;
use super::transaction::{NEVER, Pending, Unacknowledged};
use crate::sip::{Message, Method};
use crate::state::Time;

/// When a call that rings does what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ringing {
    /// When to send 180; once sent, never.
    pub ring_at: Time,
    pub answer_at: Time,
    /// When to forget a call that is neither answered nor cancelled.
    pub until: Time,
    /// 180 was sent.
    pub rung: bool,
}

impl Ringing {
    fn new(plan: &Plan, turn: &Turn<'_>) -> Self {
        let after = |delay: Option<_>| delay.map_or(NEVER, |delay| turn.now + delay);
        // A phone rings before it is answered.
        let answer_after = plan.answer_after.map(|after| after.max(plan.ring_after.unwrap_or_default()));
        Self {
            ring_at: after(plan.ring_after),
            answer_at: after(answer_after),
            until: turn.now + answer_after.unwrap_or_default() + turn.timers.patience * 2,
            rung: false,
        }
    }

    pub fn due(&self) -> Time {
        self.ring_at.min(self.answer_at).min(self.until)
    }
}

impl Call {
    /// Begins with an INVITE; `None` where it lacks what a dialog needs.
    pub fn called(asked: Asked<'_>, local: Arc<Local>, plan: Plan, turn: &mut Turn<'_>) -> Option<Self> {
        let dialog = Dialog::called(asked, turn.ids.fresh())?;
        let mut call = Self::new(dialog, local, plan, Stage::Ringing(Ringing::new(&plan, turn)));
        call.invite = Some(Received::keep(asked));
        if plan.trying {
            call.respond_to_invite(100, turn);
        }
        call.ring_or_answer(turn);
        Some(call)
    }

    /// Whether a request belongs to this dialog: its To tag is ours. Before there is a dialog it has none.
    pub fn owns(&self, bytes: &[u8], message: &Message) -> bool {
        message.to_tag(bytes).is_none_or(|tag| tag == self.dialog.local_tag)
    }

    /// A request that this call owns.
    pub fn on_request(&mut self, asked: Asked<'_>, turn: &mut Turn<'_>) -> Option<End> {
        match asked.message.method() {
            Method::Ack => return self.on_ack(asked.message, turn),
            Method::Bye => return self.on_bye(asked, turn),
            Method::Cancel => self.on_cancel(asked, turn),
            Method::Invite if asked.message.to_tag(asked.bytes).is_none() => self.on_invite_again(asked.message, turn),
            Method::Invite => self.on_reinvite(asked, turn),
            _ => self.respond(200, asked, turn),
        }
        None
    }

    /// Rings and answers when it is time; gives up a call that nobody ends.
    pub(super) fn ring_or_answer(&mut self, turn: &mut Turn<'_>) -> Option<End> {
        let Stage::Ringing(mut ringing) = self.stage else { return None };
        if ringing.ring_at <= turn.now {
            (ringing.ring_at, ringing.rung) = (NEVER, true);
            self.stage = Stage::Ringing(ringing);
            self.respond_to_invite(180, turn);
        }
        if ringing.answer_at <= turn.now {
            self.answer_invite(200, turn);
            return None;
        }
        if ringing.until <= turn.now { self.end(End::Lost, turn) } else { None }
    }

    /// The ACK to a final answer.
    fn on_ack(&mut self, message: &Message, turn: &mut Turn<'_>) -> Option<End> {
        let number = message.cseq?.number;
        let status = self.answer.take_if(|answer| answer.cseq == number)?.status;
        if !matches!(self.stage, Stage::Answered) {
            return None;
        }
        if status >= 300 {
            return self.end(End::Refused(status), turn);
        }
        self.stage = Stage::Talking { since: turn.now };
        None
    }

    /// CANCEL is answered for itself; an INVITE that still rings is refused (RFC 3261 §9.2).
    fn on_cancel(&mut self, asked: Asked<'_>, turn: &mut Turn<'_>) {
        self.respond(200, asked, turn);
        if matches!(self.stage, Stage::Ringing(_)) {
            self.answer_invite(487, turn);
        }
    }

    /// The other end rings off. Its BYE may overtake its ACK; that it does so again and again, the report says.
    fn on_bye(&mut self, asked: Asked<'_>, turn: &mut Turn<'_>) -> Option<End> {
        turn.traffic.without_ack += u64::from(matches!(self.stage, Stage::Answered));
        self.respond(200, asked, turn);
        match self.stage {
            Stage::Ringing(_) => {
                self.answer_invite(487, turn);
                None
            }
            Stage::Calling | Stage::Expecting { .. } | Stage::Over { .. } => None,
            Stage::Answered | Stage::Talking { .. } | Stage::Ending => {
                match self.plan.awaits_reinvite && !self.was_reinvited {
                    true => self.end(End::Stranded(Strand::NoReinvite), turn),
                    false => self.end(End::Answered, turn),
                }
            }
        }
    }

    /// The INVITE that began the call came again: it gets what it got.
    fn on_invite_again(&mut self, message: &Message, turn: &mut Turn<'_>) {
        match (&self.answer, self.stage) {
            (Some(answer), _) if message.cseq.is_some_and(|cseq| cseq.number == answer.cseq) => answer.repeat(turn),
            (None, Stage::Ringing(ringing)) if ringing.rung => self.respond_to_invite(180, turn),
            (None, Stage::Ringing(_)) if self.plan.trying => self.respond_to_invite(100, turn),
            _ => {}
        }
    }

    /// An INVITE inside the dialog (RFC 3261 §14.2).
    fn on_reinvite(&mut self, asked: Asked<'_>, turn: &mut Turn<'_>) {
        let Some(number) = asked.message.cseq.map(|cseq| cseq.number) else { return };
        if self.is_over() {
            return self.respond(481, asked, turn);
        }
        if number <= self.dialog.remote_cseq {
            return match &self.answer {
                Some(answer) if answer.cseq == number => answer.repeat(turn),
                _ => {}
            };
        }
        if self.request.as_ref().is_some_and(Pending::is_invite) {
            return self.respond(491, asked, turn);
        }
        self.dialog.remote_cseq = number;
        self.dialog.refresh(asked.bytes, asked.message);
        self.was_reinvited = true;
        if matches!(self.stage, Stage::Answered) {
            // The ACK before it was overtaken or lost; that there was one is clear now.
            turn.traffic.without_ack += 1;
            self.stage = Stage::Talking { since: turn.now };
        }
        self.invite = Some(Received::keep(asked));
        self.send_answer(200, turn);
    }

    /// The final answer to the INVITE that began the call.
    fn answer_invite(&mut self, status: u16, turn: &mut Turn<'_>) {
        self.stage = Stage::Answered;
        self.send_answer(status, turn);
    }

    /// Sends a final answer to the INVITE in hand, and again until it is acknowledged.
    fn send_answer(&mut self, status: u16, turn: &mut Turn<'_>) {
        let Some(to) = self.write_answer(status, turn) else { return };
        let cseq = self.dialog.remote_cseq;
        self.answer = Some(Unacknowledged::send(status, cseq, to, turn));
        self.invite = None;
    }

    /// Sends a provisional answer to the INVITE in hand.
    fn respond_to_invite(&self, status: u16, turn: &mut Turn<'_>) {
        if let Some(to) = self.write_answer(status, turn) {
            turn.respond(to);
        }
    }

    /// Writes an answer to the INVITE in hand into the turn's scratch memory and says where it goes.
    fn write_answer(&self, status: u16, turn: &mut Turn<'_>) -> Option<SocketAddr> {
        let Received { bytes, source } = self.invite.as_ref()?;
        let message = Message::parse(bytes).ok()?;
        let body = if status == 200 { sdp(0) } else { Vec::new() };
        let response = Response { dialog: true, body: &body, ..Response::plain(status, self.dialog.local_tag) };
        turn.scratch.clear();
        response.write(Asked { bytes, message: &message, source: *source }, &self.local, turn.scratch)
    }

    /// Answers a request that needs no memory.
    fn respond(&self, status: u16, asked: Asked<'_>, turn: &mut Turn<'_>) {
        turn.answer(&Response::plain(status, self.dialog.local_tag), asked, &self.local);
    }
}
