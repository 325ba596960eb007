//! Requests: what ends here, and those of clients, which go to a server (RFC 3261 §16.4 to §16.6).

use crate::config::{ForceRport, Path};
use crate::sip::edit::Edits;
use crate::sip::header::Address;
use crate::sip::name::Name;
use crate::sip::text::Text;
use crate::sip::token::{
    Branch, Direction, Keys, NameHash, SEALED_LEN_MAX, Sealed, SealedIn, SendTime, TAG_LEN, Transaction, Way,
};
use crate::sip::{Fault, FlowToken, Method, Side, StartLine, Transport, Uri, Via};
use crate::state::Reason;
use crate::state::snapshot::{Frontend, Snapshot};
use crate::state::stick_table::Written;

use super::choose::Choice;
use super::route::{Routed, take_own};
use super::{Case, Datagram, Hop, Passage, Received, Verdict, may_send_to, stamp};

/// The most that UDP carries: 65,535 octets less the headers of IP and UDP.
pub const MAX_DATAGRAM: usize = 65_507;

/// The most that the head of a request to a stream's server may have. Its answer repeats most of it, and what is too long to
/// be read would end a connection that all clients share.
const MAX_HEAD: u16 = 32 * 1024;

/// What tells one transaction from another, and where its answers go.
pub(super) struct Identity<'a> {
    pub via: &'a Via,
    /// [`crate::sip::token::Keys::call`] of the Call-ID.
    pub call: u64,
    pub transaction: u64,
    pub source: &'a stamp::Source<'a>,
    /// The sender is behind NAT: only its flow reaches it.
    pub nat: bool,
    /// Answers go to the source port though the sender did not ask for it.
    pub force_rport: bool,
}

impl<'a> Identity<'a> {
    /// `None` where the request lacks what identifies it: then it cannot be answered either.
    #[inline(always)]
    fn of(
        received: Received<'a>,
        source: &'a stamp::Source<'a>,
        from_server: bool,
        frontend: &Frontend,
        keys: &Keys,
    ) -> Option<Self> {
        let (bytes, message) = (received.bytes, received.message);
        let (via, call_id) = (message.via.as_ref()?, message.call_id?);
        // Where nothing is wrong with it, all of them are there.
        let lacks =
            || message.from(bytes).is_none() || message.to(bytes).is_none() || message.cseq_text(bytes).is_none();
        if message.fault.is_some() && lacks() {
            return None;
        }
        let call = keys.call(call_id.of(bytes));
        let branch = via.branch_id(bytes);
        // A branch names the transaction (RFC 3261 §17.2.3); the tag is for those of RFC 2543, who have none (§16.11).
        let from_tag = if branch.is_some() { None } else { message.from_tag(bytes) };
        let transaction = keys.transaction(&Transaction {
            call,
            branch: branch.unwrap_or_default(),
            sent_by: via.host.of(bytes),
            sent_by_port: via.sent_by_port(),
            // Without a number it is a fault, and only the tag of our answer hangs on this.
            cseq: message.cseq.map_or(0, |cseq| cseq.number),
            from_tag: from_tag.unwrap_or_default(),
            uri: message.request_uri()?.of(bytes),
        });
        let nat = !from_server && stamp::is_behind_nat(bytes, message, via, source, received.flow.connection.is_some());
        let force_rport = match frontend.config.force_rport {
            ForceRport::Auto => nat,
            ForceRport::Always => !from_server,
            ForceRport::Never => false,
        };
        Some(Self { via, call, transaction, source, nat, force_rport })
    }
}

impl Case<'_> {
    /// A request; `failed` is a server that it could not be sent to a moment ago.
    pub(super) fn request(mut self, failed: Option<usize>) -> Verdict {
        let server = self.received.server(self.snapshot);
        self.from_server = server.is_some();
        if failed.is_none() && !self.is_admitted {
            self.request_came(server);
        }
        if let Err(reason) = self.admit_sender(server.is_some()) {
            return Verdict::Drop(reason);
        }
        let source = stamp::Source::new(&self.received.flow.remote);
        let identity = Identity::of(self.received, &source, server.is_some(), self.frontend, &self.snapshot.keys);
        if let Some(fault) = self.received.message.fault {
            return self.refuse(identity.as_ref(), reason_of(fault), Some(fault.phrase()));
        }
        let Some(identity) = identity else { return Verdict::Drop(Reason::Unanswerable) };
        self.in_dialog = self.received.message.to_tag(self.received.bytes).is_some();
        if self.is_ack_to_us(&identity) {
            return Verdict::Drop(Reason::AckAbsorbed);
        }
        let passed = self.pass(&identity, server, failed);
        if self.method == Method::Bye {
            self.hang_up(identity.call);
        }
        match passed {
            Ok(Some(verdict)) => verdict,
            Ok(None) => self.answer_options(&identity),
            Err(reason) => {
                self.take_trial_back();
                // We end a call that had a server and could not be sent to it: it is that one's no more.
                if let Some(failed) = failed.filter(|_| self.opens()) {
                    self.end_call(identity.call, failed);
                }
                self.refuse(Some(&identity), reason, None)
            }
        }
    }

    /// A client's request that may have reached this server, and whose answer will not come.
    pub(super) fn lost(mut self, by: Option<NameHash>) -> Verdict {
        let source = stamp::Source::new(&self.received.flow.remote);
        let identity = Identity::of(self.received, &source, false, self.frontend, &self.snapshot.keys);
        self.in_dialog = self.received.message.to_tag(self.received.bytes).is_some();
        if let Some(identity) = identity.as_ref().filter(|_| self.opens())
            && let Some(pin) = self.memory.shared.pins.find(identity.call, self.now)
        {
            if by.is_some_and(|by| by != pin.server) {
                return Verdict::Drop(Reason::NoServer);
            }
            if let Some(server) = self.snapshot.server(pin.server) {
                self.end_call(identity.call, server);
            }
        }
        // It was let in, and heard a 100 perhaps: whoever is told nothing now waits for as long as a call may ring.
        self.refusal(identity.as_ref(), Reason::NoServer, None)
    }

    /// A server's request that could not be sent to its client (RFC 3261 §16.9).
    pub(super) fn unsent(mut self) -> Verdict {
        self.from_server = true;
        let source = stamp::Source::new(&self.received.flow.remote);
        let identity = Identity::of(self.received, &source, true, self.frontend, &self.snapshot.keys);
        self.in_dialog = self.received.message.to_tag(self.received.bytes).is_some();
        if let Some(identity) = identity.as_ref().filter(|_| self.method == Method::Invite && self.opens())
            && let Some(server) = self.received.server(self.snapshot)
        {
            let (pins, id) = (&self.memory.shared.pins, self.snapshot.servers[server].id);
            // It was its call when it was sent on: what is answered here for the client ends it as the client's own answer does.
            self.snapshot.count_call(pins.refused_by_client(identity.call, id, self.now), server, false);
        }
        self.refuse(identity.as_ref(), Reason::NoServer, None)
    }

    /// Routes a request that is well formed. `None`: it is OPTIONS, and for us.
    fn pass(
        &mut self,
        identity: &Identity<'_>,
        server: Option<usize>,
        failed: Option<usize>,
    ) -> Result<Option<Verdict>, Reason> {
        let is_options = self.method == Method::Options;
        match self.admit_request() {
            // RFC 3261 §16.3 item 3: OPTIONS that may go no further is for whom it reached.
            Err(Reason::TooManyHops) if is_options => {
                if server.is_none() {
                    self.admit_rate()?;
                }
                return Ok(None);
            }
            checked => checked?,
        }
        let routed = take_own(self.received, identity.call, server.is_some(), self.snapshot, self.edits)?;
        // What a token leads elsewhere is for whom that is, though it may name us: a server that has our address in its Contact.
        if is_options && routed.token.is_none() && routed.next.is_none() && self.is_for_us(&routed) {
            if server.is_none() {
                self.admit_rate()?;
            }
            return Ok(None);
        }
        let verdict = match server {
            Some(server) => self.forward_to_client(identity, &routed, server)?,
            None => self.forward_to_server(identity, &routed, failed)?,
        };
        Ok(Some(verdict))
    }

    /// Whether what is about to leave fits into a datagram: asked before anything is remembered of it.
    pub(super) fn fits(&self) -> Result<(), Reason> {
        let end = self.received.message.end as isize;
        match self.edits.overflowed() || end + self.edits.growth() > MAX_DATAGRAM as isize {
            true => Err(Reason::TooLarge),
            false => Ok(()),
        }
    }

    /// Where the responses to a request go.
    pub(super) fn home(&self, identity: &Identity<'_>) -> Result<FlowToken, Reason> {
        let flow = self.received.flow;
        if flow.connection.is_some() {
            return Ok(flow.token());
        }
        let remote = stamp::home(identity.via, identity.source, identity.force_rport);
        // Where it came from was looked at when it came.
        match remote == flow.remote || may_send_to(&remote, self.snapshot) {
            true => Ok(FlowToken::Ends { local: flow.local, remote }),
            false => Err(Reason::BadDestination),
        }
    }

    /// Makes sure that whoever reads it from a stream finds its end: there Content-Length is mandatory (RFC 3261 §20.14), and
    /// what would break the framing must not poison a connection that many share.
    pub(super) fn fit_for_stream(&mut self) -> Result<(), Reason> {
        let (bytes, message) = (self.received.bytes, self.received.message);
        if message.body > MAX_HEAD && matches!(message.start, StartLine::Request { .. }) {
            return Err(Reason::TooLarge);
        }
        if self.received.flow.connection.is_none() && !message.is_framed(bytes) {
            return Err(Reason::Malformed);
        }
        if message.content_length.is_none() {
            let length = Text::<16>::number(u32::from(message.end - message.body));
            self.edits.insert(message.head).put_led(b"Content-Length: ", &length).put(b"\r\n");
        }
        Ok(())
    }

    /// The ACK to an answer of ours carries the To tag that we gave (RFC 3261 §8.2.7: it is ignored).
    fn is_ack_to_us(&self, identity: &Identity<'_>) -> bool {
        let message = self.received.message;
        self.method == Method::Ack
            && message
                .to_tag(self.received.bytes)
                .is_some_and(|tag| tag.len() == TAG_LEN && tag == self.snapshot.keys.tag(identity.transaction))
    }

    /// Whether the Request-URI means us and nobody at us.
    fn is_for_us(&self, routed: &Routed) -> bool {
        let bytes = self.received.bytes;
        Uri::parse(bytes, routed.request_uri)
            .is_some_and(|uri| uri.user.is_none() && self.snapshot.means_us(&uri, bytes, self.received.flow.local))
    }

    /// Whether a request opens something: it has no To tag and is no ACK or CANCEL, which follow their INVITE.
    pub(super) fn opens(&self) -> bool {
        !self.in_dialog && !matches!(self.method, Method::Ack | Method::Cancel)
    }

    pub(super) fn send_time(&self) -> SendTime {
        SendTime { node: self.snapshot.node, opens: self.opens(), micros: self.now.micros() }
    }

    /// Whether a Record-Route goes on it (docs/rules.md 10): on what makes a dialog, and on NOTIFY (RFC 6665 §4.4.1).
    pub(super) fn wants_record_route(&self) -> bool {
        match self.method {
            Method::Register | Method::Ack | Method::Cancel | Method::Options | Method::Message | Method::Publish => {
                false
            }
            Method::Notify => true,
            _ => !self.in_dialog,
        }
    }

    /// A client's request to its server.
    fn forward_to_server(
        &mut self,
        identity: &Identity<'_>,
        routed: &Routed,
        failed: Option<usize>,
    ) -> Result<Verdict, Reason> {
        if failed.is_some() {
            self.memory.repeats.forget(identity.transaction, self.method);
        }
        let choice = self.choose(identity, routed, failed)?;
        let written = self.write_to_server(identity, &choice);
        if written.is_err() && choice.reserved {
            self.snapshot.count_call(Written::default(), choice.server, true);
        }
        written
    }

    /// A request on its way to the server that was chosen; nothing is remembered of what is refused.
    fn write_to_server(&mut self, identity: &Identity<'_>, choice: &Choice) -> Result<Verdict, Reason> {
        let Choice { server, balanced, stick, why, pin, reserved } = *choice;
        let (received, snapshot, frontend) = (self.received, self.snapshot, self.frontend);
        let chosen = &snapshot.servers[server];
        let egress = frontend.egress(server).ok_or(Reason::NoServer)?;
        let home = self.home(identity)?;
        if chosen.transport != Transport::Udp {
            self.fit_for_stream()?;
        }
        if let Some(name) = &frontend.config.source_header
            && !stamp::cut_source_header(self.edits, received.bytes, received.message, name)
        {
            return Err(Reason::Malformed);
        }
        self.edits.insert(received.message.head);
        let own_via = stamp::OwnVia {
            branch: Branch { direction: Direction::ToServer, server: chosen.id, transaction: identity.transaction },
            call: identity.call,
            way: Way { frontend: frontend.config.id, flow: home, stick },
            time: self.send_time(),
        };
        own_via.put(self.edits, &egress.side, &snapshot.keys);
        self.put_routes(identity, home, chosen.id, &egress.side);
        if let Some(prefix) = &frontend.source_header {
            stamp::source_header(self.edits, prefix, identity.source, received.flow.transport);
        }
        stamp::count_hop(self.edits, received.message);
        stamp::receive_via(self.edits, identity.via, identity.source, identity.force_rport);
        self.fits()?;
        self.open_pin(identity.call, pin, server, false, reserved);
        if chosen.counts_transactions && self.method != Method::Ack {
            snapshot.count_transaction(server, true);
        }
        Ok(Verdict::Forward {
            to: match chosen.transport {
                Transport::Udp => {
                    Hop::Datagram(Datagram { bind: egress.bind as usize, local: egress.local, remote: chosen.address })
                }
                Transport::Tcp | Transport::Tls => Hop::Server(server),
            },
            end: received.message.end as usize,
            passage: Passage::RequestToServer {
                server,
                balanced,
                why,
                method: self.method,
                transaction: identity.transaction,
            },
        })
    }

    /// Record-Route or Path with the client's flow: who is behind NAT hears us where it sends from, others where they hear
    /// responses.
    fn put_routes(&mut self, identity: &Identity<'_>, home: FlowToken, server: NameHash, inside: &Side) {
        let (received, snapshot, frontend) = (self.received, self.snapshot, self.frontend);
        let flow = if identity.nat { received.flow.token() } else { home };
        let sealed = |stands_in| Sealed { stands_in, server, frontend: frontend.config.id, flow, nat: identity.nat };
        if frontend.config.record_route && self.wants_record_route() {
            let outside = snapshot.outer_side(received.bind, received.flow.local);
            let sealed = sealed(SealedIn::RecordRoute);
            stamp::record_route(self.edits, &sealed, identity.call, &snapshot.keys, inside, &outside);
        } else if self.method == Method::Register {
            put_path(self.edits, received, frontend.config.path, &sealed(SealedIn::Path), snapshot, inside);
        }
    }
}

/// What a request with a fault is refused for.
fn reason_of(fault: Fault) -> Reason {
    match fault {
        Fault::Version => Reason::Version,
        Fault::TooLarge => Reason::TooLarge,
        _ => Reason::Malformed,
    }
}

/// `Path` on REGISTER (RFC 3327), with `ob` where the client asked for outbound and we are its first hop (RFC 5626 §5.1:
/// else the registrar answers 439).
fn put_path(
    edits: &mut Edits,
    received: Received<'_>,
    path: Path,
    sealed: &Sealed,
    snapshot: &Snapshot,
    inside: &Side,
) {
    let (bytes, message) = (received.bytes, received.message);
    let supports =
        |tag: &[u8]| message.values(bytes, Name::Supported).any(|value| value.span.of(bytes).eq_ignore_ascii_case(tag));
    let supported = supports(b"path");
    if path == Path::Off || path == Path::Supported && !supported {
        return;
    }
    let with_reg_id = |value: crate::sip::message::Value| {
        Address::parse(bytes, value.span).is_some_and(|contact| contact.param(bytes, b"reg-id").is_some())
    };
    let outbound = message.next_via.is_none() && message.values(bytes, Name::Contact).any(with_reg_id);
    let mut token = [0; SEALED_LEN_MAX];
    // A Path token is not bound to a call: the calls that it will bring have Call-IDs of their own.
    let len = sealed.seal(0, &snapshot.keys, &mut token);
    edits.put(b"Path: <sip:").put(&token[..len]).put(b"@").put_text(&inside.uri).put(b";lr");
    edits.put(if outbound { b";ob>\r\n" } else { b">\r\n" });
    if !supported {
        edits.put(b"Supported: path\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3261 §21.4.1, §21.5.6, §21.5.7.
    #[test]
    fn a_fault_is_answered_with_the_status_that_its_phrase_is_about() {
        for (fault, answer) in [
            (Fault::TooLarge, (513, Fault::TooLarge.phrase())),
            (Fault::Version, (505, Fault::Version.phrase())),
            (Fault::LineEnd, (400, "Bad Request")),
            (Fault::ContentLength, (400, "Bad Request")),
        ] {
            assert_eq!(reason_of(fault).answer(), Some(answer));
        }
    }
}
