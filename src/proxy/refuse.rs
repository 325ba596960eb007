//! Answers of our own, as a stateless server: no 1xx, no retransmission, a To tag that is the same each time
//! (RFC 3261 §8.2.7). An ACK or a response is never answered.

use crate::sip::Method;
use crate::sip::reply::{Answer, Extra};
use crate::state::Reason;
use crate::state::limits::Pace;

use super::request::Identity;
use super::{Case, Datagram, Hop, Verdict, may_send_to, stamp};

/// Refusals per source: twenty a second with a burst of forty. Enough for a phone that repeats a dozen bad requests,
/// too few to make a reflector of us.
const REFUSALS: Pace = Pace::new(50_000_000, 40);

impl Case<'_> {
    /// The verdict on a request that is refused: its answer, or a drop where it cannot or should not be answered.
    pub(super) fn refuse(
        self,
        identity: Option<&Identity<'_>>,
        reason: Reason,
        phrase: Option<&'static str>,
    ) -> Verdict {
        let remote = self.received.flow.remote;
        let source = self.snapshot.source_key(remote.ip());
        // Servers and carriers are no reflectors, and a call that they hear nothing of is not tried elsewhere.
        // Nor is who has a connection: the address is its own, and nobody repeats what was sent over it.
        let known = self.received.flow.connection.is_some()
            || self.received.server(self.snapshot).is_some()
            || self.frontend.trusted.contains(remote.ip());
        let answered = identity.is_some() && self.method != Method::Ack && reason.answer().is_some();
        if answered && !known && !self.memory.shared.answers.admit(source, self.now, REFUSALS) {
            return Verdict::Drop(Reason::AnswerLimited);
        }
        self.refusal(identity, reason, phrase)
    }

    /// The same, whoever asks and however often.
    pub(super) fn refusal(
        self,
        identity: Option<&Identity<'_>>,
        reason: Reason,
        phrase: Option<&'static str>,
    ) -> Verdict {
        let Some((status, usual)) = reason.answer() else { return Verdict::Drop(reason) };
        let Some(identity) = identity.filter(|_| self.method != Method::Ack) else {
            return Verdict::Drop(if reason == Reason::Malformed { Reason::Unanswerable } else { reason });
        };
        let extra = if reason == Reason::UnknownExtension { Extra::Unsupported } else { Extra::None };
        self.answer(identity, (status, phrase.unwrap_or(usual)), extra, Some(reason))
    }

    /// OPTIONS for us: what we can do if anybody behind us can do it (docs/rules.md 28).
    pub(super) fn answer_options(self, identity: &Identity<'_>) -> Verdict {
        let backend = &self.snapshot.backends[self.frontend.config.backend];
        let prefer = backend.preferred_region(self.received.flow.remote.ip());
        match backend.balance.pick(identity.call, prefer).is_none() {
            true => self.refuse(Some(identity), Reason::NoServer, None),
            false => self.answer(identity, (200, "OK"), Extra::Capabilities, None),
        }
    }

    /// An answer that leaves from the address the request came to, its top Via stamped.
    fn answer(
        self,
        identity: &Identity<'_>,
        (status, phrase): (u16, &'static str),
        extra: Extra,
        reason: Option<Reason>,
    ) -> Verdict {
        let flow = self.received.flow;
        self.edits.clear();
        let remote = stamp::home(identity.via, identity.source, identity.force_rport);
        stamp::receive_via(self.edits, identity.via, identity.source, identity.force_rport);
        let to = match flow.connection {
            Some(connection) => Hop::Connection(connection),
            None if may_send_to(&remote, self.snapshot) => {
                Hop::Datagram(Datagram { bind: self.received.bind, local: flow.local, remote })
            }
            None => return Verdict::Drop(Reason::BadDestination),
        };
        Verdict::Answer {
            to,
            answer: Answer { status, reason: phrase, tag: self.snapshot.keys.tag(identity.transaction), extra },
            reason,
            to_server: self.from_server,
        }
    }
}
