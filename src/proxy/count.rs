//! What is counted: a message when it comes, and a verdict when it was carried out. And which are kept to be looked at.

use std::net::{IpAddr, SocketAddr};

use crate::sip::{Method, Transport};
use crate::state::bad_messages::About;
use crate::state::connections::End;
use crate::state::counters::{Counter, FrontendCounters, ServerCounters};
use crate::state::snapshot::Frontend;
use crate::state::{Reason, Snapshot, Time};

use super::admit::hold_against;
use super::{Case, Memory, Passage, Verdict};

impl Case<'_> {
    /// A request came, for the first time.
    #[inline]
    pub(super) fn request_came(&self, server: Option<usize>) {
        match server {
            Some(server) => self.came_from_server(server),
            None => {
                self.counters().requests_from_clients.of(self.method).add(1);
                self.came_from_client();
            }
        }
    }

    #[inline]
    pub(super) fn came_from_server(&self, server: usize) {
        let live = &self.snapshot.servers[server].live;
        live.counters.of(self.memory.worker).bytes_from.add(self.received.bytes.len() as u64);
    }

    #[inline]
    pub(super) fn came_from_client(&self) {
        self.counters().bytes_from_clients.add(self.received.bytes.len() as u64);
    }

    fn counters(&self) -> &FrontendCounters {
        self.frontend.live.of(self.memory.worker)
    }
}

/// Counts a verdict that was carried out, about a message that came to this bind: what left has so many bytes.
pub fn count(verdict: &Verdict, len: usize, bind: usize, snapshot: &Snapshot, memory: &mut Memory) {
    let worker = memory.worker;
    let of = |frontend: usize| snapshot.frontends[frontend].live.of(worker);
    let server = |at: usize| snapshot.servers[at].live.counters.of(worker);
    let (len, counters) = (len as u64, of(snapshot.binds[bind].frontend as usize));
    match *verdict {
        Verdict::Drop(reason) => count_drop(reason, bind, snapshot, memory),
        Verdict::Answer { reason, ref answer, to_server, .. } => {
            match reason {
                Some(reason) => counters.reasons.of(reason).add(1),
                None => counters.answered.add(1),
            }
            if !to_server {
                count_to_client(counters, answer.status, len);
            }
        }
        Verdict::Forward { passage, .. } => match passage {
            Passage::RequestToServer { server: at, balanced, method, transaction, .. } => {
                let again = u64::from(memory.repeats.again(transaction, method));
                counters.requests_to_servers.add(1);
                counters.retransmissions.add(again);
                counters.bytes_to_servers.add(len);
                counters.balanced.add(u64::from(balanced));
                counters.calls.add(u64::from(balanced && method == Method::Invite));
                server(at).retransmissions.add(again);
                count_to_server(server(at), method, balanced, len);
            }
            Passage::ResponseToClient { server: at, frontend, method, status, .. } => {
                counters.responses_to_clients.add(1);
                count_to_client(of(frontend), status, len);
                let server = server(at);
                by_digit(&server.responses, status);
                if let Some(of_code) = server.responses_by_code.of(method, status) {
                    of_code.add(1);
                }
            }
            Passage::RequestToClient { server: at, frontend, .. } => {
                counters.requests_to_clients.add(1);
                of(frontend).bytes_to_clients.add(len);
                server(at).sent.add(1);
            }
            Passage::ResponseToServer { server: at, .. } => {
                counters.responses_to_servers.add(1);
                counters.bytes_to_servers.add(len);
                server(at).bytes_to.add(len);
            }
        },
    }
}

/// Counts a message that came to this bind and ends here without an answer.
pub fn count_drop(reason: Reason, bind: usize, snapshot: &Snapshot, memory: &Memory) {
    let frontend = &snapshot.frontends[snapshot.binds[bind].frontend as usize];
    frontend.live.of(memory.worker).reasons.of(reason).add(1);
}

/// A response left to a client.
fn count_to_client(frontend: &FrontendCounters, status: u16, len: u64) {
    by_digit(&frontend.to_clients, status);
    frontend.bytes_to_clients.add(len);
}

/// One more by the first digit of its status.
fn by_digit(counters: &[Counter; 6], status: u16) {
    if let Some(of_digit) = counters.get(usize::from(status / 100).wrapping_sub(1)) {
        of_digit.add(1);
    }
}

/// A request left to a server.
fn count_to_server(server: &ServerCounters, method: Method, balanced: bool, len: u64) {
    server.requests.of(method).add(1);
    server.bytes_to.add(len);
    server.asked.add(u64::from(method != Method::Ack));
    server.balanced.add(u64::from(balanced));
    server.calls.add(u64::from(balanced && method == Method::Invite));
}

/// A connection from a source ended, or was not let in.
pub fn count_end(end: End, source: IpAddr, frontend: &Frontend, now: Time, snapshot: &Snapshot, memory: &Memory) {
    frontend.live.of(memory.worker).connection_ends.of(end).add(1);
    hold_end_against(end, source, frontend, now, snapshot, memory);
}

/// The same of one that is counted elsewhere.
pub fn hold_end_against(
    end: End,
    source: IpAddr,
    frontend: &Frontend,
    now: Time,
    snapshot: &Snapshot,
    memory: &Memory,
) {
    if let Some(offence) = end.offence() {
        hold_against((source, true), offence, frontend, now, snapshot, memory);
    }
}

/// Keeps the beginning of a message that was dropped or refused for this reason, or its source, where somebody may want to
/// know: who looks for what is wrong with a phone. It came to a bind from a source.
pub fn keep_bad(
    reason: Reason,
    bytes: &[u8],
    (bind, source): (usize, SocketAddr),
    now: Time,
    snapshot: &Snapshot,
    memory: &Memory,
) {
    let frontend = || &snapshot.frontends[snapshot.binds[bind].frontend as usize];
    if reason.is_about_source() {
        memory.shared.refused.of(memory.worker).note(source.ip(), frontend().config.id, reason, now);
    }
    if let Some(offence) = reason.offence() {
        let proven = snapshot.binds[bind].transport != Transport::Udp;
        hold_against((source.ip(), proven), offence, frontend(), now, snapshot, memory);
    }
    if reason.is_bad_message() {
        let frontend = frontend().config.id;
        let about = About { at: now, frontend, source, reason, len: bytes.len() };
        memory.shared.bad.of(memory.worker).keep(about, bytes);
    }
}
