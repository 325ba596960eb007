//! What responses do to a call: the client side of its transactions (RFC 3261 §13.2, §17.1).

use std::sync::Arc;
use std::time::Duration;

use super::call::{Ack, Call, End, Stage, Strand};
use super::compose::Local;
use super::dialog::{Dialog, Opening};
use super::ids::branch_number;
use super::outgoing::Turn;
use super::plan::Plan;
use super::transaction::Pending;
use crate::sip::{Message, Method};
use crate::state::Time;

/// What a call begins with.
#[derive(Clone, Debug)]
pub struct First<'a> {
    /// INVITE, or the method of a lone request.
    pub method: Method,
    /// When it was meant to be sent.
    pub meant: Time,
    /// Further whole header lines.
    pub extra: &'a [u8],
    pub body: &'a [u8],
    /// After the final answer to a REGISTER: how long to wait for a call.
    pub expects: Option<Duration>,
}

impl Call {
    /// Begins a call, or sends a lone request.
    pub fn start(opening: Opening, local: Arc<Local>, plan: Plan, first: &First<'_>, turn: &mut Turn<'_>) -> Self {
        let mut call = Self::new(Dialog::open(opening), local, plan, Stage::Calling);
        call.expects = first.expects;
        call.ask_with(first.method, first.meant, first.extra, first.body, turn);
        call
    }

    /// A response that names this call.
    pub fn on_response(&mut self, bytes: &[u8], message: &Message, turn: &mut Turn<'_>) -> Option<End> {
        let (status, method) = (message.status()?, message.method());
        let branch = branch_number(bytes, message.via.as_ref()?)?;
        if self.cancel.as_ref().is_some_and(|cancel| cancel.is_answered_by(branch, method)) {
            if status >= 200 {
                self.cancel = None;
            }
            return None;
        }
        let Some(mut request) = self.request.take_if(|request| request.is_answered_by(branch, method)) else {
            // Not for the answer to a CANCEL, which has its INVITE's branch and may come late.
            if method == Method::Invite && status >= 200 {
                self.repeat_ack(branch, turn);
            }
            return None;
        };
        let took = turn.now.since(request.meant);
        if matches!(self.stage, Stage::Calling) && request.is_invite() && request.is_first_news(status) {
            self.timing.first = Some(took);
        }
        if status < 200 {
            self.on_provisional(request, turn);
            return None;
        }
        self.timing.last = Some(took);
        match method {
            Method::Invite => self.on_invite_answered(&request, status, bytes, message, turn),
            _ => self.on_answered(status, turn),
        }
    }

    /// The request is known to have arrived. A call that is to be cancelled is now (not before: RFC 3261 §9.1).
    fn on_provisional(&mut self, mut request: Pending, turn: &mut Turn<'_>) {
        request.provisional(turn.now, turn.timers);
        if self.plan.cancel && !self.cancelled {
            self.cancelled = true;
            request.cancelled(turn.now, turn.timers);
            turn.scratch.clear();
            self.dialog.request(Method::Cancel, request.branch, &[], &[]).write(&self.local, turn.scratch);
            let (cseq, branch, to) = (request.cseq, request.branch, request.to());
            self.cancel = Some(Pending::send(Method::Cancel, cseq, branch, to, turn.now, turn));
        } else if self.cancelled {
            request.cancelled(turn.now, turn.timers);
        }
        self.request = Some(request);
    }

    /// A final answer to our INVITE.
    fn on_invite_answered(
        &mut self,
        invite: &Pending,
        status: u16,
        bytes: &[u8],
        message: &Message,
        turn: &mut Turn<'_>,
    ) -> Option<End> {
        self.cancel = None;
        if status >= 300 {
            self.acknowledge_refusal(invite, bytes, message, turn);
            return match self.stage {
                Stage::Calling if status == 487 && self.cancelled => self.end(End::Answered, turn),
                Stage::Calling => self.end(End::Refused(status), turn),
                _ => self.end(End::Stranded(Strand::Refused(status)), turn),
            };
        }
        match self.stage {
            Stage::Calling => self.dialog.establish(bytes, message),
            _ => self.dialog.refresh(bytes, message),
        }
        self.acknowledge(invite.branch, turn);
        if matches!(self.stage, Stage::Calling) {
            self.stage = Stage::Talking { since: turn.now };
            if self.plan.cancel {
                // The answer was faster than the CANCEL: then BYE ends it (RFC 3261 §9.1).
                self.ring_off(turn);
            }
        }
        None
    }

    /// Sends the ACK to a 2xx: a request of its own, by the route set (RFC 3261 §13.2.2.4).
    fn acknowledge(&mut self, invite: u64, turn: &mut Turn<'_>) {
        let branch = turn.ids.fresh();
        turn.scratch.clear();
        self.dialog.request(Method::Ack, branch, &[], &[]).write(&self.local, turn.scratch);
        let ack = Ack { invite, bytes: turn.scratch.clone(), to: self.dialog.next_hop };
        turn.send(ack.to, &ack.bytes);
        self.ack = Some(ack);
    }

    /// Sends the ACK to a refusal: the INVITE's branch, route and target, the answer's To (RFC 3261 §17.1.1.3).
    fn acknowledge_refusal(&mut self, invite: &Pending, bytes: &[u8], message: &Message, turn: &mut Turn<'_>) {
        let Some(to) = message.to(bytes) else { return };
        turn.scratch.clear();
        let mut request = self.dialog.request(Method::Ack, invite.branch, &[], &[]);
        request.to = to.of(bytes);
        request.write(&self.local, turn.scratch);
        let ack = Ack { invite: invite.branch, bytes: turn.scratch.clone(), to: invite.to() };
        turn.send(ack.to, &ack.bytes);
        self.ack = Some(ack);
    }

    /// A final answer to an INVITE came again, so its ACK was lost. Other answers that come again say nothing new.
    fn repeat_ack(&self, branch: u64, turn: &mut Turn<'_>) {
        if let Some(ack) = &self.ack
            && ack.invite == branch
        {
            turn.send_again(ack.to, &ack.bytes);
        }
    }

    /// A final answer to a BYE or to a lone request.
    fn on_answered(&mut self, status: u16, turn: &mut Turn<'_>) -> Option<End> {
        match self.stage {
            Stage::Calling if status >= 300 => self.end(End::Refused(status), turn),
            Stage::Calling => match self.expects {
                Some(within) => {
                    self.stage = Stage::Expecting { until: turn.now + within };
                    None
                }
                None => self.end(End::Answered, turn),
            },
            _ if status >= 300 => self.end(End::Stranded(Strand::Refused(status)), turn),
            _ if self.plan.awaits_reinvite && !self.was_reinvited => self.end(End::Stranded(Strand::NoReinvite), turn),
            _ => self.end(End::Answered, turn),
        }
    }
}
