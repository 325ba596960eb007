//! Copies for whoever follows a call: made when a message has been decided about, before it leaves. What the kernel or a
//! connection then refuses is decided anew, and seen once more.

use std::ops::Range;

use super::udp::{Origin, Tools, clock};
use crate::proxy::{Datagram, Hop, Passage, Peer, Verdict};
use crate::sip::Transport;
use crate::state::Snapshot;
use crate::state::tap::{Ends, Fate, Passing};

impl Tools {
    /// The message on the table, and what of it leaves to where.
    #[cold]
    pub(super) fn tap(
        &self,
        verdict: &Verdict,
        origin: &Origin,
        left: Option<&(Hop, Range<usize>, usize)>,
        snapshot: &Snapshot,
    ) {
        let Some(call_id) = self.message.call_id else { return };
        let left =
            left.map(|(hop, bytes, saved)| (self.ends(hop, origin, snapshot), &self.arena[bytes.clone()], *saved));
        let fate = fate(verdict, snapshot);
        let flow = &origin.flow;
        let of_server = origin.peer.is_some() || snapshot.server_at(&flow.remote, flow.connection.is_some()).is_some();
        // The end that is no server.
        let client = match fate {
            Fate::ToClient { .. } => left.map(|(ends, ..)| ends.to),
            Fate::Answered { .. } | Fate::Dropped(_) if of_server => None,
            _ => Some(flow.remote),
        };
        let passing = Passing {
            at: clock(),
            came: Ends::of(flow),
            bytes: self.original(origin.slot, left.map_or(0, |(.., saved)| saved), origin.len),
            call_id,
            fate,
            again: origin.tries > 0,
            client: client.map(|client| client.ip()),
            left: left.map(|(ends, bytes, _)| (ends, bytes)),
        };
        self.memory.shared.taps.put(self.memory.worker, &passing, &snapshot.keys);
    }

    /// From where to where something leaves. Connections that we open are shown with the address that they are opened for, in
    /// both directions, whatever port the kernel chose.
    fn ends(&self, hop: &Hop, origin: &Origin, snapshot: &Snapshot) -> Ends {
        let (transport, from, to) = match *hop {
            Hop::Datagram(Datagram { local, remote, .. }) => (Transport::Udp, local, remote),
            Hop::Connection(id) => match self.memory.shared.connections.get(id) {
                Some(connection) => (connection.transport, connection.local, connection.remote),
                // It closed a moment ago: it is the one that the message came by, or nobody knows.
                None => (origin.flow.transport, origin.flow.local, origin.flow.remote),
            },
            Hop::Server(at) => {
                let server = &snapshot.servers[at];
                let frontend = &snapshot.frontends[snapshot.binds[origin.bind].frontend as usize];
                let local = frontend.egress(at).map_or(server.address, |egress| egress.local);
                (server.transport, local, server.address)
            }
            Hop::Peer(Peer { bind, remote, .. }) => {
                let bind = &snapshot.binds[bind];
                (Transport::Tcp, bind.host.unwrap_or(bind.address), remote)
            }
        };
        Ends { transport, from, to }
    }
}

fn fate(verdict: &Verdict, snapshot: &Snapshot) -> Fate {
    let id = |at: usize| snapshot.servers[at].id;
    match *verdict {
        Verdict::Drop(reason) => Fate::Dropped(reason),
        Verdict::Answer { ref answer, reason, .. } => Fate::Answered { status: answer.status, reason },
        Verdict::Forward { passage, .. } => match passage {
            Passage::RequestToServer { server, why, .. } => Fate::ToServer { server: id(server), why },
            Passage::ResponseToServer { server, .. } => Fate::BackToServer { server: id(server) },
            Passage::RequestToClient { server, .. } | Passage::ResponseToClient { server, .. } => {
                Fate::ToClient { server: id(server) }
            }
        },
    }
}
