//! What a worker knows of its connections, and what its engine does with them.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::buffer::{Buffer, Held};
use super::retransmit::Retransmissions;
use super::unanswered::LONGEST_RINGING;
use super::under_way::{Place, UnderWay};
use super::{Connection, Opened, Parcel, State};
use crate::config::streams::Timeout;
use crate::net::mmsg::BATCH;
use crate::net::tls::Tls;
use crate::net::udp::{Engine, Origin, clock, slot};
use crate::proxy::{self, Passage, Received, Verdict};
use crate::sip::framing::{Frame, Framing};
use crate::sip::token::NameHash;
use crate::sip::{ConnectionId, Flow, MAX_MESSAGE, Method};
use crate::state::connections::{self, End};
use crate::state::lookup::{Map, hasher};
use crate::state::server::Health;
use crate::state::snapshot::{Frontend, Server};
use crate::state::{Reason, Snapshot, Time};

/// What is read from a connection at once, and room for it behind what has begun.
pub(super) const READ: usize = 64 * 1024;
const SCRATCH: usize = MAX_MESSAGE + READ;

/// The largest message of a server that is read to its end and dropped. Behind what claims to be larger still, nothing is
/// believed to begin.
const MOST_SKIPPED: usize = 1 << 20;

/// How long a dead server's connection may say nothing before who waits for its answers is told.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// The connections of one worker.
pub struct Streams {
    pub open: Map<ConnectionId, Rc<Connection>>,
    pub(super) to_servers: Map<NameHash, Rc<Connection>>,
    /// Servers that refused, and until when nobody asks again.
    pub(super) refused: Map<NameHash, Time>,
    /// Every worker's letter box, by worker.
    pub(super) workers: Vec<mpsc::Sender<Parcel>>,
    pub(super) scratch: Vec<u8>,
    /// Slots of the arena that hold messages of this batch.
    used: usize,
    /// What the buffers of all connections hold.
    begun: Held,
    pub(super) queued: Held,
    /// The same, both ways, of connections to and from servers: nobody takes room from those.
    pub(super) of_servers: Held,
    pub(super) tls: Arc<Tls>,
    pub(super) under_way: UnderWay,
    /// How many we opened to others than servers.
    pub(super) peers: usize,
    pub(super) retransmissions: Retransmissions,
    /// When connections were looked at last: a second ago at most.
    pub(super) looked: Time,
    /// The worker is about to end: what is not settled is another's.
    pub stopping: bool,
    /// For tasks that it starts.
    pub engine: Weak<RefCell<Engine>>,
}

impl Streams {
    pub fn new(workers: Vec<mpsc::Sender<Parcel>>, tls: Arc<Tls>) -> Self {
        Self {
            open: Map::with_hasher(hasher()),
            to_servers: Map::with_hasher(hasher()),
            refused: Map::with_hasher(hasher()),
            workers,
            scratch: Vec::new(),
            used: 0,
            begun: Held::default(),
            queued: Held::default(),
            of_servers: Held::default(),
            stopping: false,
            tls,
            under_way: UnderWay::default(),
            peers: 0,
            retransmissions: Retransmissions::default(),
            looked: clock(),
            engine: Weak::new(),
        }
    }
}

/// What came of a connection and is not whole.
pub struct Input {
    framing: Framing,
    begun: Buffer,
    /// So many bytes belong to a message that was too large.
    skip: usize,
    /// Our side is closed.
    pub parted: bool,
}

impl Engine {
    /// Lets somebody's connection in, or says no by closing it. However many clients there are, servers may come: what they
    /// ask for belongs to calls that are there.
    pub fn accept(&mut self, lane: usize, local: SocketAddr, remote: SocketAddr) -> Option<Rc<Connection>> {
        let snapshot = Arc::clone(self.snapshot.load());
        let at = snapshot.bind_of_lane(lane)?;
        let bind = &snapshot.binds[at];
        let id = self.tools.memory.ids.take();
        let flow = Flow { transport: bind.transport, local, remote, connection: Some(id) };
        let frontend = &snapshot.frontends[bind.frontend as usize];
        let is_server = snapshot.server_at(&remote, true).is_some();
        self.admit(&flow, is_server, frontend, &snapshot)?;
        let connection = Rc::new(Connection::new(
            flow,
            id,
            (lane, frontend.config.id),
            if is_server { Opened::ByServer } else { Opened::ByClient },
            if is_server { &self.streams.of_servers } else { &self.streams.queued }.clone(),
            clock(),
        ));
        self.tools.memory.shared.connections.insert(id, connection.known());
        self.streams.open.insert(id, Rc::clone(&connection));
        Some(connection)
    }

    /// Counts a connection that is let in, or why it is not.
    pub(super) fn admit(&self, flow: &Flow, is_server: bool, frontend: &Frontend, snapshot: &Snapshot) -> Option<()> {
        let memory = &self.tools.memory;
        let (registry, limits) = (&memory.shared.connections, &frontend.config.connections);
        let (ip, now) = (flow.remote.ip(), clock());
        let in_time = || match is_server {
            true => Ok(()),
            false => proxy::admit_connection(ip, frontend, now, snapshot, memory),
        };
        let full = || frontend.open_connections() >= limits.most || !registry.has_room();
        let refused = match proxy::admit_source(flow, is_server, frontend, snapshot) {
            Err(_) => Some(End::Denied),
            Ok(()) if !is_server && !frontend.config.has_streams() => Some(End::Denied),
            Ok(()) if !is_server && full() => Some(End::TooMany),
            Ok(()) => match in_time() {
                Err(end) => Some(end),
                Ok(()) if !registry.admit(frontend.config.id, flow.remote, limits.most_of_source) => {
                    Some(End::TooManyOfSource)
                }
                Ok(()) => None,
            },
        };
        if let Some(end) = refused {
            proxy::count_end(end, ip, frontend, now, snapshot, memory);
            return None;
        }
        if !is_server {
            frontend.live.of(memory.worker).connections.add(1);
            registry.take_room(frontend.config.files_of_connection());
        }
        Some(())
    }

    /// What a new connection reads into.
    pub fn input(&self, connection: &Connection) -> Input {
        let held = if connection.is_of_server() { &self.streams.of_servers } else { &self.streams.begun };
        Input { framing: Framing::default(), begun: Buffer::new(held.clone()), skip: 0, parted: false }
    }

    /// What a handshake with a client of this frontend needs; it is under way until what is beside it is dropped.
    ///
    /// # Errors
    /// Why there is none.
    pub fn begin_handshake(&mut self, frontend: NameHash, source: IpAddr) -> Result<(Arc<ServerConfig>, Place), End> {
        let snapshot = Arc::clone(self.snapshot.load());
        let at = snapshot.frontend(frontend).map(|at| &snapshot.frontends[at]);
        let memory = &self.tools.memory;
        if at.is_some_and(|at| !proxy::admit_handshake(source, at, clock(), &snapshot, memory)) {
            return Err(End::TooManyHandshakesOfSource);
        }
        let config = self.streams.tls.server_config(frontend).ok_or(End::BadHandshake)?;
        Ok((config, self.streams.under_way.begin(Some(source))?))
    }

    /// Reads what came and does what it asks for. Ready with the reason where the connection is at its end.
    pub fn read<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        cx: &mut Context<'_>,
        connection: &Rc<Connection>,
        input: &mut Input,
    ) -> Poll<Option<End>> {
        let mut scratch = std::mem::take(&mut self.streams.scratch);
        scratch.resize(SCRATCH, 0);
        // What has begun is shorter than a message may be.
        let before = input.begun.len().min(MAX_MESSAGE);
        scratch[..before].copy_from_slice(&input.begun[..before]);
        let mut room = ReadBuf::new(&mut scratch[before..before + READ]);
        let read = Pin::new(io).poll_read(cx, &mut room).map_ok(|()| room.filled().len());
        let result = match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Some(End::Closed)),
            // TLS without its own goodbye: the message that it might have cut off is told by its length.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Some(End::Closed)),
            Poll::Ready(Err(_)) => Poll::Ready(Some(End::Broken)),
            Poll::Ready(Ok(len)) => {
                let bytes = &scratch[..before + len];
                let (taken, end) = self.messages(bytes, connection, input);
                input.begun.clear();
                let kept = input.begun.put(&bytes[taken..]);
                Poll::Ready(end.or((!kept).then_some(End::NoRoom)))
            }
        };
        self.streams.scratch = scratch;
        result
    }

    /// Message after message. Says how far it came, and why the connection must end.
    fn messages(&mut self, bytes: &[u8], connection: &Rc<Connection>, input: &mut Input) -> (usize, Option<End>) {
        let snapshot = Arc::clone(self.snapshot.load());
        let shared = Arc::clone(&self.tools.memory.shared);
        shared.workers.of(self.tools.memory.worker).generation.set(snapshot.generation);
        let Some(bind) = bind_of(connection, &snapshot) else { return (bytes.len(), Some(End::Unbound)) };
        let frontend = &snapshot.frontends[snapshot.binds[bind].frontend as usize];
        let counters = frontend.live.of(self.tools.memory.worker);
        let now = clock();
        connection.heard.set(now);
        // What servers say is no stranger's, and all clients of the connection would pay for it.
        let max = if connection.is_of_server() { MAX_MESSAGE } else { frontend.config.limits.max_message };
        let (mut at, mut end) = (input.skip.min(bytes.len()), None);
        input.skip -= at;
        while end.is_none() {
            let frame = input.framing.next(&bytes[at..], &mut self.tools.message, max);
            match frame {
                Frame::Message { end: len } => {
                    self.message(&bytes[at..at + len], bind, connection, now, &snapshot);
                    at += len;
                }
                Frame::KeepAlive { len, pings } => {
                    counters.received.add(1);
                    counters.keepalives.add(1);
                    (0..pings).for_each(|_| {
                        connection.put(b"\r\n");
                    });
                    at += len;
                }
                Frame::Incomplete => break,
                Frame::TooLarge { end } if connection.is_of_server() && end <= MOST_SKIPPED => {
                    counters.received.add(1);
                    counters.reasons.of(Reason::TooLong).add(1);
                    input.skip = end - end.min(bytes.len() - at);
                    at += end - input.skip;
                }
                Frame::TooLarge { .. } | Frame::Broken(_) => {
                    let head = usize::from(self.tools.message.end);
                    self.message(&bytes[at..at + head], bind, connection, now, &snapshot);
                    (at, end) = (bytes.len(), Some(End::NotFramed));
                }
                Frame::NotSip => {
                    counters.received.add(1);
                    counters.reasons.of(Reason::NotSip).add(1);
                    let came = (bind, connection.flow.remote);
                    proxy::keep_bad(Reason::NotSip, &bytes[at..], came, now, &snapshot, &self.tools.memory);
                    (at, end) = (bytes.len(), Some(End::NotSip));
                }
            }
        }
        // A message that stands behind whole ones has only begun.
        let since = connection.begun.get().filter(|_| at == 0).unwrap_or(now);
        connection.begun.set((at < bytes.len()).then_some(since));
        self.finish(now, &snapshot);
        (at, end)
    }

    /// One message, which was read already.
    fn message(&mut self, bytes: &[u8], bind: usize, connection: &Connection, now: Time, snapshot: &Arc<Snapshot>) {
        let n = self.free_slot(now, snapshot);
        let data = slot(n).start..slot(n).start + bytes.len();
        self.tools.arena[data.clone()].copy_from_slice(bytes);
        self.received += 1;
        let live = &snapshot.frontends[snapshot.binds[bind].frontend as usize].live;
        live.of(self.tools.memory.worker).received.add(1);
        let tools = &mut self.tools;
        // Who has moved may answer what it was asked, and is known by its address for what it asks.
        let peer = connection.server().filter(|id| {
            let server = snapshot.server(*id).map(|server| &snapshot.servers[server]);
            tools.message.status().is_some() || server.is_some_and(|server| leads_to(connection, server))
        });
        let (bytes, message, flow) = (&tools.arena[data], &tools.message, &connection.flow);
        let received = Received { bytes, message, flow, bind, peer };
        let verdict = proxy::decide(received, now, snapshot, &mut tools.memory, &mut tools.edits);
        if let Verdict::Forward { passage: Passage::ResponseToClient { transaction, status: 200.., .. }, .. } = verdict
        {
            connection.unanswered.borrow_mut().answered(request_key(transaction, message.method()));
        }
        let origin = Origin { bind, slot: n, flow: *flow, len: bytes.len(), peer, tries: 0 };
        self.carry_out(verdict, origin, snapshot);
    }

    /// A slot of the arena for one more message.
    pub(super) fn free_slot(&mut self, now: Time, snapshot: &Arc<Snapshot>) -> usize {
        if self.streams.used == BATCH {
            // What is about to be sent lies in them; the message on the table does not.
            let message = self.tools.message.clone();
            self.finish(now, snapshot);
            self.tools.message = message;
        }
        self.streams.used += 1;
        self.streams.used - 1
    }

    /// Sends what is in the outboxes, and decides anew about what could not be sent.
    pub(super) fn finish(&mut self, now: Time, snapshot: &Arc<Snapshot>) {
        self.settle(now, snapshot);
        self.streams.used = 0;
    }

    /// Writes what waits, then closes. Whoever has something for it from now on looks for another way.
    pub fn close_connection(&self, connection: &Connection, end: End) {
        connection.close(end);
        self.tools.memory.shared.connections.close(connection.id);
    }

    /// Nothing can be written to it any more: what it said is read to its end.
    pub fn break_off(&self, connection: &Connection, now: Time) {
        connection.break_off(now);
        self.tools.memory.shared.connections.close(connection.id);
    }

    /// Once a second: ends what has lived long enough.
    pub fn end_overdue(&mut self) {
        let now = clock();
        self.streams.looked = now;
        let snapshot = Arc::clone(self.snapshot.load());
        for connection in self.streams.open.values() {
            // What waits for it to be opened goes elsewhere if it is not.
            if connection.state.get() != State::Opening {
                connection.unanswered.borrow_mut().forget_overdue(now);
            }
            let unbound = bind_of(connection, &snapshot).is_none().then_some(End::Unbound);
            let overdue = connection.overdue(now, may_be_silent(connection, &snapshot)).or(unbound);
            match (connection.state.get(), overdue) {
                // Whoever waits for its answers is told, and asks elsewhere.
                _ if is_dead(connection, now, &snapshot) => connection.give_up(End::Broken),
                (State::Closing(end), _) if connection.closes_too_long(now) => connection.give_up(end),
                (State::Broken, _) if connection.closes_too_long(now) => connection.give_up(End::Broken),
                // What stands in its way is not written either when it closes.
                (_, Some(End::SlowReader)) => connection.give_up(End::SlowReader),
                (_, Some(end)) => self.close_connection(connection, end),
                (_, None) => {}
            }
        }
    }
}

/// The bind that messages of a connection belong to. One to a server outlives the frontend that opened it: it is all clients'.
fn bind_of(connection: &Connection, snapshot: &Snapshot) -> Option<usize> {
    snapshot.bind_of_lane(connection.lane).or_else(|| {
        let server = snapshot.server(connection.server()?)?;
        let reaches = |frontend: &Frontend| frontend.egress(server).map(|egress| egress.bind as usize);
        snapshot.frontends.iter().find_map(reaches)
    })
}

/// Whether it leads to where this server is now: a reload or its name may have moved it.
pub(super) fn leads_to(connection: &Connection, server: &Server) -> bool {
    (connection.flow.transport, connection.flow.remote) == (server.transport, server.address)
}

/// Whether a connection leads to a server that is dead, and was silent when it was asked.
fn is_dead(connection: &Connection, now: Time, snapshot: &Snapshot) -> bool {
    let server = connection.server().and_then(|server| snapshot.server(server));
    server.is_some_and(|server| snapshot.servers[server].state.health == Health::Dead)
        && !connection.unanswered.borrow().is_empty()
        && now.since(connection.heard.get()) > LONGEST_SILENCE
}

/// How long nothing may be heard of a connection. One to a server is kept while that has calls: it may have no other way to
/// us; and while it owes an answer, as long as anybody may let a call ring.
fn may_be_silent(connection: &Connection, snapshot: &Snapshot) -> Duration {
    let server = connection.server().map(|server| snapshot.server(server));
    match server {
        // Its frontend may have another name since.
        None => bind_of(connection, snapshot).map_or(Duration::MAX, |bind| {
            let frontend = &snapshot.frontends[usize::from(snapshot.binds[bind].frontend)];
            frontend.config.connections.idle
        }),
        // A server that is gone has nothing more to say.
        Some(None) => Timeout::default().server,
        Some(Some(server)) => {
            let server = &snapshot.servers[server];
            let idle = snapshot.backends[usize::from(server.backend)].config.timeout.server;
            match () {
                () if server.live.calls.get() > 0 && leads_to(connection, server) => Duration::MAX,
                () if !connection.unanswered.borrow().is_empty() => idle.max(LONGEST_RINGING),
                () => idle,
            }
        }
    }
}

/// A CANCEL is of its INVITE's transaction, and has an answer of its own (RFC 3261 §9.1).
pub(super) fn request_key(transaction: u64, method: Method) -> u64 {
    transaction ^ u64::from(method == Method::Cancel)
}

impl Connection {
    /// What every worker may know of it.
    pub(super) fn known(&self) -> connections::Connection {
        let Flow { transport, local, remote, .. } = self.flow;
        connections::Connection { transport, local, remote, frontend: self.frontend, server: self.server() }
    }

    /// Writes what waits. An error is the other end's.
    pub fn write<W: tokio::io::AsyncWrite + Unpin>(&self, io: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.output.borrow_mut();
        let mut written = 0;
        let result = loop {
            if written == output.len() {
                break Pin::new(&mut *io).poll_flush(cx);
            }
            match Pin::new(&mut *io).poll_write(cx, &output[written..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(len)) => written += len,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        output.take(written);
        // TLS may hold what the kernel does not take.
        let waits = !output.is_empty() || result.is_pending();
        let still = waits.then(|| if written > 0 { clock() } else { self.still.get().unwrap_or_else(clock) });
        self.still.set(still);
        result
    }
}
