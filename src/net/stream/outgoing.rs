//! Messages on their way out by connections, the connections that are opened for them, and what is owed when one ends.

use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;

use super::serve::{self, Opening};
use super::table::{leads_to, request_key};
use super::unanswered::{Came, Request, owed_for};
use super::{Connection, MOST_PEERS, Opened, Parcel, State};
use crate::config::streams::Timeout;
use crate::net::tls::server_name;
use crate::net::udp::{Engine, Leaving, Origin, clock, slot};
use crate::proxy::{self, Hop, Memory, Passage, Peer, Received, Verdict};
use crate::sip::token::NameHash;
use crate::sip::{ConnectionId, Flow, Method, Transport};
use crate::state::connections::End;
use crate::state::server::Sign;
use crate::state::snapshot::Server;
use crate::state::tap::Why;
use crate::state::{Reason, Snapshot, Time};

/// How long nobody tries to connect to a server that refused.
const BACK_OFF: Duration = Duration::from_secs(1);

/// How often a request that was never written goes elsewhere: each of its connections may take `timeout.connect`, of five
/// seconds, and nobody waits longer than 32 s for the first answer (RFC 3261 §17.1.1.2, Timer B). A phone must not ring for
/// who has gone.
const MOST_TRIES: u8 = 5;

/// What connection is wanted.
struct Wanted {
    id: ConnectionId,
    transport: Transport,
    /// As messages name it: its port is where we listen.
    local: SocketAddr,
    remote: SocketAddr,
    bind: usize,
    /// Position of the server that it leads to.
    server: Option<usize>,
}

/// What became of a request whose connection is gone.
#[derive(Clone, Copy)]
enum Fate {
    /// It was never written. Whether its server is to blame.
    Unwritten { server: usize, blamed: bool },
    /// It was never written, and its server is elsewhere by now: what an address was silent about says nothing of it.
    Moved,
    /// This server may have read it.
    Unknown(Option<NameHash>),
}

/// A message that waits for a connection to be opened, or for another worker: it is counted when it leaves.
pub(super) struct Waiting {
    leaving: Leaving,
    len: usize,
    /// That by which its verdict was found.
    snapshot: Arc<Snapshot>,
    /// It is decided about anew where its connection is never opened.
    is_kept: bool,
}

impl Waiting {
    fn left(&self, memory: &mut Memory) {
        self.leaving.count(self.len, &self.snapshot, memory);
    }

    /// It never leaves. What is kept counts as what becomes of it then.
    fn lost(&self, memory: &Memory) {
        if !self.is_kept {
            self.leaving.count_drop(Reason::SendFailed, &self.snapshot, memory);
        }
    }
}

/// What became of a message that was to leave.
enum Put {
    Leaves,
    /// It waits for this connection to be opened.
    Waits {
        connection: Rc<Connection>,
        is_kept: bool,
    },
    Refused,
}

impl Put {
    fn leaves_if(put: bool) -> Self {
        if put { Self::Leaves } else { Self::Refused }
    }
}

impl Engine {
    /// Puts a message into the output of the connection that it leaves by; it is in the slot of its origin.
    pub(in crate::net) fn put_to(&mut self, to: Hop, bytes: Range<usize>, leaving: Leaving, snapshot: &Arc<Snapshot>) {
        let len = bytes.len();
        if let Some(passage) = leaving.passage() {
            self.streams.retransmissions.passed(passage);
        }
        let put = match to {
            Hop::Datagram(_) => Put::Refused,
            Hop::Connection(id) => match self.tools.memory.ids.owner(id) {
                Some(worker) if worker == self.tools.memory.worker => match self.streams.open.get(&id).map(Rc::clone) {
                    Some(connection) if connection.state.get() == State::Opening => {
                        self.put_to_opening(connection, bytes, &leaving, snapshot)
                    }
                    Some(connection) => Put::leaves_if(connection.put(&self.tools.arena[bytes])),
                    None => Put::Refused,
                },
                Some(worker) => return self.send_parcel(worker, id, bytes, leaving, snapshot),
                None => Put::Refused,
            },
            Hop::Server(server) => self.put_to_server(server, bytes, &leaving, snapshot),
            Hop::Peer(peer) => match self.connect_to_peer(&peer, snapshot) {
                Some(connection) => self.put_to_opening(connection, bytes, &leaving, snapshot),
                None => Put::Refused,
            },
        };
        match put {
            Put::Leaves => leaving.count(len, snapshot, &mut self.tools.memory),
            Put::Refused => self.failed.push(leaving),
            Put::Waits { connection, is_kept } => {
                let snapshot = Arc::clone(snapshot);
                connection.waiting.borrow_mut().push(Waiting { leaving, len, snapshot, is_kept });
            }
        }
    }

    /// A message for a connection of another worker, which counts it.
    fn send_parcel(
        &mut self,
        worker: usize,
        to: ConnectionId,
        bytes: Range<usize>,
        leaving: Leaving,
        snapshot: &Arc<Snapshot>,
    ) {
        let request = self.request_of(&leaving, usize::from(snapshot.binds[leaving.origin.bind].lane));
        let (len, is_kept) = (bytes.len(), request.is_some());
        let waiting = Waiting { leaving, len, snapshot: Arc::clone(snapshot), is_kept };
        let parcel = Parcel { to, bytes: self.tools.arena[bytes].to_vec(), waiting, request };
        let refused = match self.streams.workers.get(worker) {
            Some(letters) => match letters.try_send(parcel) {
                Ok(()) => return,
                Err(TrySendError::Full(parcel) | TrySendError::Closed(parcel)) => parcel,
            },
            None => parcel,
        };
        self.failed.push(refused.waiting.leaving);
    }

    fn put_to_server(&mut self, server: usize, bytes: Range<usize>, leaving: &Leaving, snapshot: &Snapshot) -> Put {
        let Some(connection) = self.connection_to(server, leaving.origin.bind, snapshot) else { return Put::Refused };
        if connection.state.get() == State::Opening {
            return self.put_to_opening(connection, bytes, leaving, snapshot);
        }
        let put = connection.put(&self.tools.arena[bytes]);
        if put {
            // It may be read before the connection breaks: only its head is needed, to answer it.
            self.remember(&connection, leaving, self.tools.message.body.into(), snapshot);
        }
        Put::leaves_if(put)
    }

    /// To a connection that may never be open: what waits is kept whole, to go elsewhere or to be answered. What cannot be kept
    /// is not put.
    fn put_to_opening(
        &mut self,
        connection: Rc<Connection>,
        bytes: Range<usize>,
        leaving: &Leaving,
        snapshot: &Snapshot,
    ) -> Put {
        let has_room = connection.unanswered.borrow().has_room(leaving.origin.len);
        if !has_room || !connection.put(&self.tools.arena[bytes]) {
            return Put::Refused;
        }
        let is_kept = self.remember(&connection, leaving, leaving.origin.len, snapshot);
        Put::Waits { connection, is_kept }
    }

    /// Remembers so much of a request as is needed when its connection ends before its answer came; says whether it was not
    /// remembered already.
    fn remember(&self, connection: &Connection, leaving: &Leaving, keep: usize, snapshot: &Snapshot) -> bool {
        let Origin { slot: n, bind, .. } = leaving.origin;
        let Some(Verdict::Forward { passage, .. }) = &leaving.verdict else { return false };
        let (transaction, method, balanced) = match *passage {
            Passage::RequestToServer { transaction, method, balanced, .. } if method != Method::Ack => {
                (request_key(transaction, method), method, balanced)
            }
            Passage::RequestToClient { .. } => (connection.unanswered.borrow().number(), Method::Invite, false),
            _ => return false,
        };
        let original = self.tools.original(n, leaving.saved, keep);
        let until = self.streams.looked + owed_for(method);
        let came = Came { balanced, ..came(&leaving.origin, usize::from(snapshot.binds[bind].lane), until) };
        connection.unanswered.borrow_mut().put(transaction, original, came)
    }

    /// A server's request, for a worker whose connection to the client may yet prove impossible.
    fn request_of(&self, leaving: &Leaving, lane: usize) -> Option<Box<Request>> {
        let Origin { slot: n, len, .. } = leaving.origin;
        let Some(Verdict::Forward { passage: Passage::RequestToClient { .. }, .. }) = &leaving.verdict else {
            return None;
        };
        let bytes = self.tools.original(n, leaving.saved, len).concat();
        let until = self.streams.looked + owed_for(Method::Invite);
        Some(Box::new(Request { transaction: 0, bytes, came: came(&leaving.origin, lane, until) }))
    }

    /// What another worker has for a connection of ours. What one that ended meanwhile does not take is answered or dropped.
    pub fn deliver(&mut self, parcel: Parcel) {
        let Parcel { to, bytes, waiting, request } = parcel;
        self.received += 1;
        if let Some(passage) = waiting.leaving.passage() {
            self.streams.retransmissions.passed(passage);
        }
        let connection = self.streams.open.get(&to).map(Rc::clone);
        let has_room = |connection: &Rc<Connection>| {
            let len = request.as_ref().map_or(0, |request| request.bytes.len());
            connection.state.get() != State::Opening || connection.unanswered.borrow().has_room(len)
        };
        if let Some(connection) = connection.filter(has_room).filter(|connection| connection.put(&bytes)) {
            if connection.state.get() != State::Opening {
                return waiting.left(&mut self.tools.memory);
            }
            if let Some(Request { bytes, came, .. }) = request.map(|request| *request) {
                let mut unanswered = connection.unanswered.borrow_mut();
                let number = unanswered.number();
                unanswered.put(number, [&bytes, &[]], came);
            }
            connection.waiting.borrow_mut().push(waiting);
            return;
        }
        waiting.lost(&self.tools.memory);
        if let Some(request) = request {
            let (now, snapshot) = (clock(), Arc::clone(self.snapshot.load()));
            self.settle_unanswered(&request, Fate::Unknown(None), now, &snapshot);
            self.finish(now, &snapshot);
        }
    }

    /// This worker's connection to a server, opened where there is none; `None` where it refused a moment ago.
    fn connection_to(&mut self, server: usize, bind: usize, snapshot: &Snapshot) -> Option<Rc<Connection>> {
        let server_at = server;
        let server = &snapshot.servers[server];
        if let Some(connection) = self.streams.to_servers.get(&server.id)
            && (connection.flow.transport, connection.flow.remote) == (server.transport, server.address)
            && !connection.is_closing()
        {
            return Some(Rc::clone(connection));
        }
        let now = clock();
        if self.streams.refused.get(&server.id).is_some_and(|until| now < *until) {
            return None;
        }
        let frontend = &snapshot.frontends[snapshot.binds[bind].frontend as usize];
        let egress = frontend.egress(server_at)?;
        let wanted = Wanted {
            id: self.tools.memory.ids.take(),
            transport: server.transport,
            local: egress.local,
            remote: server.address,
            bind: egress.bind as usize,
            server: Some(server_at),
        };
        let connection = self.connect(&wanted, snapshot);
        self.streams.to_servers.insert(server.id, Rc::clone(&connection));
        Some(connection)
    }

    /// `None` where there are too many of them.
    fn connect_to_peer(&mut self, peer: &Peer, snapshot: &Snapshot) -> Option<Rc<Connection>> {
        let Peer { id, bind, remote } = *peer;
        let at = &snapshot.binds[bind];
        let frontend = &snapshot.frontends[usize::from(at.frontend)].config;
        let most = frontend.connections.most_of_source;
        // Where answers go is what a stranger wrote into his Via: he should not take them all.
        let registry = &self.tools.memory.shared.connections;
        if self.streams.peers >= MOST_PEERS || !registry.admit(frontend.id, remote, most) {
            return None;
        }
        self.streams.peers += 1;
        let local = at.host.unwrap_or(at.address);
        Some(self.connect(&Wanted { id, transport: at.transport, local, remote, bind, server: None }, snapshot))
    }

    fn connect(&mut self, wanted: &Wanted, snapshot: &Snapshot) -> Rc<Connection> {
        let Wanted { id, transport, local, remote, bind, server } = *wanted;
        let bind = &snapshot.binds[bind];
        let frontend = &snapshot.frontends[bind.frontend as usize];
        let flow = Flow { transport, local, remote, connection: Some(id) };
        let place = (usize::from(bind.lane), frontend.config.id);
        let server = server.map(|server| &snapshot.servers[server]);
        let opening = self.opening(transport, server, bind.dscp, snapshot);
        let opened = server.map_or(Opened::ToPeer, |server| Opened::ToServer(server.id));
        let queued = if server.is_some() { &self.streams.of_servers } else { &self.streams.queued };
        let connection = Rc::new(Connection::new(flow, id, place, opened, queued.clone(), clock()));
        let registry = &self.tools.memory.shared.connections;
        match server {
            Some(_) => registry.insert(id, connection.known()),
            None => registry.insert_peer(id, connection.known()),
        }
        self.streams.open.insert(id, Rc::clone(&connection));
        if let Some(engine) = self.streams.engine.upgrade() {
            tokio::task::spawn_local(serve::connect(Rc::clone(&connection), engine, opening));
        }
        connection
    }

    /// How a connection is opened, to a server or to somebody else.
    pub(super) fn opening(
        &self,
        transport: Transport,
        server: Option<&Server>,
        dscp: Option<u8>,
        snapshot: &Snapshot,
    ) -> Opening {
        let backend = server.map(|server| &snapshot.backends[usize::from(server.backend)].config);
        let tls = server.zip(backend).filter(|_| transport == Transport::Tls).and_then(|(server, backend)| {
            let written = backend.servers.iter().find(|written| written.id == server.id)?;
            Some((self.streams.tls.client_config(&backend.name)?, server_name(written)?))
        });
        let within = backend.map_or(Timeout::default().connect, |backend| backend.timeout.connect);
        Opening { dscp, within, tls }
    }

    /// A connection is open: what was put to it leaves.
    pub fn opened(&mut self, connection: &Connection) {
        for waiting in connection.waiting.take() {
            waiting.left(&mut self.tools.memory);
        }
        if connection.server().is_none() {
            // Who is no server owes us nothing.
            connection.unanswered.borrow_mut().clear();
        }
    }

    /// Forgets a connection that has ended, and sees to what was asked over it.
    pub fn ended(&mut self, connection: &Rc<Connection>, end: End) {
        if self.streams.open.remove(&connection.id).is_none() {
            return;
        }
        let snapshot = Arc::clone(self.snapshot.load());
        let shared = Arc::clone(&self.tools.memory.shared);
        shared.connections.close(connection.id);
        let of_client = connection.opened == Opened::ByClient;
        if of_client {
            shared.connections.give_room_back(1);
        }
        let now = clock();
        if let Some(frontend) = snapshot.frontend(connection.frontend) {
            let (frontend, memory) = (&snapshot.frontends[frontend], &self.tools.memory);
            frontend.live.of(memory.worker).connections_closed.add(u64::from(of_client));
            proxy::count_end(end, connection.flow.remote.ip(), frontend, now, &snapshot, memory);
        }
        if connection.opened.counts_for_source() {
            shared.connections.release(connection.frontend, connection.flow.remote);
        }
        self.streams.peers -= usize::from(connection.opened == Opened::ToPeer);
        let server = connection.server().and_then(|id| self.leave_server(id, connection, end, now, &snapshot));
        let fate = match server.filter(|_| !connection.was_open.get()) {
            Some((server, true)) => Fate::Unwritten { server, blamed: !is_ours(end) },
            Some((_, false)) => Fate::Moved,
            None => Fate::Unknown(connection.server()),
        };
        for waiting in connection.waiting.take() {
            waiting.lost(&self.tools.memory);
        }
        // Of a node that stops, servers may yet answer by a connection to the next.
        if self.streams.stopping && connection.was_open.get() {
            return;
        }
        let requests = connection.unanswered.borrow_mut().take();
        for request in requests {
            match snapshot.bind_of_lane(request.came.lane) {
                // Its next copy comes to who has the address now, and a 503 would end a call.
                Some(bind) if end == End::NoPlace && request.came.flow.connection.is_none() => {
                    proxy::count_drop(Reason::SendFailed, bind, &snapshot, &self.tools.memory);
                }
                _ => self.settle_unanswered(&request, fate, now, &snapshot),
            }
        }
        self.finish(now, &snapshot);
    }

    /// It is no way to this server any more; says where that is in the snapshot, and whether it is still at this address.
    fn leave_server(
        &mut self,
        id: NameHash,
        connection: &Connection,
        end: End,
        now: Time,
        snapshot: &Snapshot,
    ) -> Option<(usize, bool)> {
        if self.streams.to_servers.get(&id).is_some_and(|other| other.id == connection.id) {
            self.streams.to_servers.remove(&id);
        }
        let server = snapshot.server(id)?;
        let live = &snapshot.servers[server].live;
        let is_there = leads_to(connection, &snapshot.servers[server]);
        let kept_out = is_there && !connection.was_open.get() && !is_ours(end);
        if kept_out {
            self.streams.refused.insert(id, now + BACK_OFF);
        }
        // A reset counts for a breaker; who closes in order may have forgotten what nobody waits for.
        let broke_off = is_there && end == End::Broken && !connection.unanswered.borrow().is_empty();
        if kept_out || broke_off {
            live.counters.of(self.tools.memory.worker).unreachable.add(1);
        }
        if kept_out {
            self.tools.memory.sign(live, Sign::Unreachable);
        }
        Some((server, is_there))
    }

    /// A request that was put to a connection which is gone: where that was never open it goes elsewhere; what may have
    /// been written is not sent again, and is answered.
    fn settle_unanswered(&mut self, request: &Request, fate: Fate, now: Time, snapshot: &Arc<Snapshot>) {
        let Request { bytes, came: Came { flow, lane, peer, balanced, tries, .. }, transaction } = request;
        let Some(bind) = snapshot.bind_of_lane(*lane) else { return };
        let n = self.free_slot(now, snapshot);
        let (len, data) = (bytes.len(), slot(n).start..slot(n).start + bytes.len());
        let tools = &mut self.tools;
        tools.arena[data.clone()].copy_from_slice(bytes);
        let bytes = &tools.arena[data];
        if tools.message.read(bytes).is_err() {
            return;
        }
        let received = Received { bytes, message: &tools.message, flow, bind, peer: *peer };
        let verdict = match fate {
            Fate::Unwritten { server, blamed } if *tries < MOST_TRIES => {
                let (method, balanced, why, transaction) = (tools.message.method(), false, Why::Failover, *transaction);
                let passage = Passage::RequestToServer { server, balanced, why, method, transaction };
                proxy::undelivered(received, passage, blamed, now, snapshot, &mut tools.memory, &mut tools.edits)
            }
            Fate::Unwritten { server, .. } => {
                let by = Some(snapshot.servers[server].id);
                proxy::unanswered(received, by, now, snapshot, &mut tools.memory, &mut tools.edits)
            }
            Fate::Moved if *tries < MOST_TRIES => {
                proxy::admitted(received, *balanced, now, snapshot, &mut tools.memory, &mut tools.edits)
            }
            Fate::Moved => proxy::unanswered(received, None, now, snapshot, &mut tools.memory, &mut tools.edits),
            Fate::Unknown(by) => proxy::unanswered(received, by, now, snapshot, &mut tools.memory, &mut tools.edits),
        };
        let origin = Origin { bind, slot: n, flow: *flow, len, peer: *peer, tries: tries.saturating_add(1) };
        self.carry_out(verdict, origin, snapshot);
    }
}

/// Whether a connection could not be opened for our own sake: that we have no descriptor left, or not its address, says
/// nothing about the server.
fn is_ours(end: End) -> bool {
    matches!(end, End::NoFiles | End::NoPlace)
}

/// How what leaves came.
fn came(origin: &Origin, lane: usize, until: Time) -> Came {
    Came { flow: origin.flow, lane, peer: origin.peer, until, balanced: false, tries: origin.tries }
}
