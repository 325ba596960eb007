//! Connections of mode `relay`: each client's leads to a server by one of its own, and what comes goes on unread. TLS ends and
//! begins here where the bind or the server says tls://; where both say tcp:// it goes through like anything else.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::buffer::{Buffer, SHARE};
use super::end_of_dropped;
use super::serve::{Ends, Opening, READS_IN_A_ROW, open, shake_hands};
use super::table::READ;
use crate::config::RELAYED_FILES;
use crate::net::udp::{Engine, clock};
use crate::net::{host, socket};
use crate::proxy;
use crate::sip::proxy_protocol::{self, Proxied};
use crate::sip::token::NameHash;
use crate::sip::{Flow, Transport};
use crate::state::connections::End;
use crate::state::counters::{FrontendCounters, PerWorker};
use crate::state::server::{ServerLive, Sign};
use crate::state::{Reason, Shared};

/// Servers that are tried for one connection, one after another, as HAProxy does by default (`retries 3`).
const TRIES: usize = 4;
/// Where all of them refused there is a pause before the first is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How soon it is looked whether a full server has room, for as long as a connection may take; each time twice as late.
const LOOK: Duration = Duration::from_millis(50);

/// What a half-open breaker hears of a connection that went well.
const SUCCESS: u16 = 200;
/// The ends of a connection.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// Takes a client's connection in, or closes it.
pub(super) fn welcome(stream: TcpStream, lane: usize, engine: &Rc<RefCell<Engine>>, ends: Ends) {
    if let Some(relayed) = Relayed::new(lane, engine, ends)
        && socket::wait_for_reader(&stream).is_ok()
    {
        tokio::task::spawn_local(relayed.serve(stream));
    }
}

impl Engine {
    /// Holds the end of a connection against its client, where that is an offence.
    fn hold_against(&mut self, frontend: NameHash, client: IpAddr, end: End) {
        let snapshot = Arc::clone(self.snapshot.load());
        if let Some(at) = snapshot.frontend(frontend) {
            let frontend = &snapshot.frontends[at];
            proxy::hold_end_against(end, client, frontend, clock(), &snapshot, &self.tools.memory);
        }
    }

    /// Whether connections to this lane are relayed.
    pub fn relays(&mut self, lane: usize) -> bool {
        let snapshot = self.snapshot.load();
        let frontend = snapshot.bind_of_lane(lane).map(|at| usize::from(snapshot.binds[at].frontend));
        frontend.is_some_and(|at| snapshot.frontends[at].config.relays_streams())
    }
}

/// A client's connection, counted for as long as it lives.
struct Relayed {
    engine: Rc<RefCell<Engine>>,
    shared: Arc<Shared>,
    worker: usize,
    flow: Flow,
    /// What servers are told of it, where they are.
    proxied: Proxied,
    /// Its frontend hears headers of the PROXY protocol, so its servers may believe them.
    hears_headers: bool,
    /// It may not begin with one: its server could take it for ours.
    suspected: bool,
    frontend: NameHash,
    live: Arc<PerWorker<FrontendCounters>>,
    /// Counted there as a flow.
    server: Option<(NameHash, Arc<ServerLive>)>,
    /// As a half-open breaker of its server knows it.
    name: u64,
    end: End,
}

/// A connection to a server.
enum ToServer {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

impl Relayed {
    fn new(lane: usize, engine: &Rc<RefCell<Engine>>, Ends { local, remote, proxied }: Ends) -> Option<Self> {
        let mut used = engine.borrow_mut();
        let snapshot = Arc::clone(used.snapshot.load());
        let bind = &snapshot.binds[snapshot.bind_of_lane(lane)?];
        let flow = Flow { transport: bind.transport, local, remote, connection: None };
        let frontend = &snapshot.frontends[usize::from(bind.frontend)];
        used.admit(&flow, false, frontend, &snapshot)?;
        let (shared, worker) = (Arc::clone(&used.tools.memory.shared), used.tools.memory.worker);
        drop(used);
        Some(Self {
            engine: Rc::clone(engine),
            shared,
            worker,
            flow,
            hears_headers: !frontend.config.accept_proxy.is_empty(),
            suspected: false,
            proxied: proxied.unwrap_or(Proxied { source: remote, destination: local }),
            frontend: frontend.config.id,
            live: Arc::clone(&frontend.live),
            name: proxy::relay::hash_of(&flow, &snapshot),
            server: None,
            end: End::Stopped,
        })
    }

    async fn serve(mut self, stream: TcpStream) {
        self.end = match self.flow.transport {
            Transport::Tls => match shake_hands(stream, self.frontend, self.flow.remote, &self.engine).await {
                Ok(stream) => self.lead(stream).await,
                Err(end) => end,
            },
            Transport::Tcp | Transport::Udp => self.lead(stream).await,
        };
        self.engine.borrow_mut().hold_against(self.frontend, self.flow.remote.ip(), self.end);
    }

    async fn lead(&mut self, client: impl AsyncRead + AsyncWrite + Unpin) -> End {
        match self.open_server().await {
            Ok((ToServer::Plain(server), idle)) => self.pass(client, server, |server| (server, true), idle).await,
            Ok((ToServer::Secured(server), idle)) => {
                self.pass(client, *server, |server| (server.get_ref().0, false), idle).await
            }
            Err(end) => {
                turn_away(client).await;
                end
            }
        }
    }

    /// A connection to the first server that lets us in, and how long both ends of it may be silent. Nothing of the client was
    /// read yet, so no byte is lost with one that does not.
    async fn open_server(&mut self) -> Result<(ToServer, Duration), End> {
        let (mut tried, mut full_until, mut look) = (Vec::new(), None, LOOK);
        for _ in 0..TRIES {
            let chosen = loop {
                match self.choose(&tried) {
                    Err(Reason::ServersFull) if full_until.is_none_or(|until| clock() < until) => {
                        full_until.get_or_insert_with(|| clock() + self.patience());
                        sleep(look).await;
                        look = (look * 2).min(PAUSE);
                    }
                    Err(Reason::NoServer) if !tried.is_empty() => {
                        tried.clear();
                        sleep(PAUSE).await;
                    }
                    chosen => break chosen,
                }
            };
            let chosen = chosen
                .map_err(|reason| if reason == Reason::ServersFull { End::ServersFull } else { End::NoServer })?;
            match chosen.open().await {
                Ok(stream) => {
                    self.came_about(chosen.id);
                    return Ok((stream, chosen.idle));
                }
                Err(error) if host::has_no_file(&error) => return Err(End::NoFiles),
                // Nobody is to blame for an address or a network that this node has lost.
                Err(error) if host::lost_its_place(&error) || !host::has(chosen.local.ip()) => {}
                Err(_) => self.refused(),
            }
            tried.push(chosen.id);
        }
        Err(End::Refused)
    }

    /// How long it may take to get in somewhere.
    fn patience(&self) -> Duration {
        let snapshot = Arc::clone(self.engine.borrow_mut().snapshot.load());
        let frontend = snapshot.frontend(self.frontend).map(|at| &snapshot.frontends[at].config);
        frontend.map_or(Duration::ZERO, |frontend| snapshot.backends[frontend.backend].config.timeout.connect)
    }

    /// A server that was not tried yet; the connection is counted as its own.
    fn choose(&mut self, tried: &[NameHash]) -> Result<Chosen, Reason> {
        self.leave_server();
        let mut engine = self.engine.borrow_mut();
        let snapshot = Arc::clone(engine.snapshot.load());
        let frontend = &snapshot.frontends[snapshot.frontend(self.frontend).ok_or(Reason::NoServer)?];
        let at = proxy::relay::server_for(&self.flow, frontend, tried, clock(), &snapshot, self.worker)?;
        let server = &snapshot.servers[at];
        let any =
            if server.address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let local = SocketAddr::new(frontend.config.inside.like(server.address.ip()).unwrap_or(any), 0);
        let config = &snapshot.backends[usize::from(server.backend)].config;
        let chosen = Chosen {
            id: server.id,
            local,
            address: server.address,
            transport: server.transport,
            opening: engine.opening(server.transport, Some(server), frontend.config.dscp, &snapshot),
            idle: config.timeout.client.min(config.timeout.server),
            header: config.send_proxy.map(|version| proxy_protocol::write(version, Some(self.proxied))),
        };
        let counters = server.live.counters.of(self.worker);
        counters.flows_opened.add(1);
        counters.balanced.add(1);
        snapshot.told_of_flow(server.id);
        drop(engine);
        self.server = Some((chosen.id, Arc::clone(&server.live)));
        self.suspected = self.hears_headers && chosen.header.is_none();
        Ok(chosen)
    }

    fn came_about(&self, server: NameHash) {
        let snapshot = Arc::clone(self.engine.borrow_mut().snapshot.load());
        if let Some(at) = snapshot.frontend(self.frontend) {
            proxy::relay::opened(&self.flow, &snapshot.frontends[at], server, clock(), &snapshot);
        }
    }

    /// The server did not let us in: its check looks at it at once.
    fn refused(&self) {
        self.failed();
        let mut engine = self.engine.borrow_mut();
        let Some((_, live)) = &self.server else { return };
        engine.tools.memory.sign(live, Sign::Unreachable);
        engine.wake();
    }

    /// A connection failed at its server, for the breaker of that. A reset alone is no reason to suspect it: whoever greets a
    /// server with nonsense may have earned one.
    fn failed(&self) {
        if let Some((_, live)) = &self.server {
            live.counters.of(self.worker).unreachable.add(1);
        }
    }

    /// The server said something, or took in order what wanted no answer: its breaker counts on that.
    fn went_well(&self) {
        let Some((_, live)) = &self.server else { return };
        live.counters.of(self.worker).flows_good.add(1);
        live.trials.answered(self.name, SUCCESS);
    }

    /// The connection is not its server's any more.
    fn leave_server(&mut self) {
        let Some((id, live)) = self.server.take() else { return };
        live.counters.of(self.worker).flows_closed.add(1);
        // While the worker itself is torn down its engine may be in use.
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.snapshot.load().told_of_flow(id);
        }
    }

    /// Passes on what comes from either side, until both are done. `socket`: that of the server, and whether there is nothing
    /// above it.
    async fn pass<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut client: impl AsyncRead + AsyncWrite + Unpin,
        mut server: S,
        socket: fn(&S) -> (&TcpStream, bool),
        idle: Duration,
    ) -> End {
        let held = self.engine.borrow().streams.queued.clone();
        let (mut there, mut back) = (Way::new(Buffer::new(held.clone())), Way::new(Buffer::new(held)));
        there.judged = !self.suspected;
        there.to_socket = socket(&server).1;
        back.to_socket = self.flow.transport != Transport::Tls;
        let (mut last, mut gone, mut hung_up) = (clock(), [false; 2], false);
        let mut silence = Box::pin(sleep(idle));
        let end = poll_fn(|cx| {
            let mut scratch = self.scratch();
            let before = (there.moved, back.moved);
            // Whichever way shows it first: who wrote to a client that is gone, or who read of it.
            match step(&mut there, &mut back, (&mut client, &mut server), &mut scratch, cx) {
                Some(Gone::Sender) => gone[CLIENT] = true,
                Some(Gone::Receiver) => gone[SERVER] = true,
                None => {}
            }
            match step(&mut back, &mut there, (&mut server, &mut client), &mut scratch, cx) {
                Some(Gone::Sender) => gone[SERVER] = true,
                Some(Gone::Receiver) => gone[CLIENT] = true,
                None => {}
            }
            self.engine.borrow_mut().streams.scratch = scratch;
            there.breaks |= gone != [false; 2];
            if before != (there.moved, back.moved) {
                last = clock();
                self.count(there.moved - before.0, back.moved - before.1);
            }
            hung_up |= back.ended && !there.ended;
            if before.1 == 0 && back.moved > 0 {
                self.went_well();
            }
            if there.forged {
                return Poll::Ready(End::ForgedProxyHeader);
            }
            if there.over && back.over {
                return Poll::Ready(if gone == [false; 2] { End::Closed } else { End::Broken });
            }
            while silence.as_mut().poll(cx).is_ready() {
                let silent = clock().since(last);
                if silent >= idle {
                    return Poll::Ready(End::Idle);
                }
                silence.set(sleep(idle - silent));
            }
            Poll::Pending
        })
        .await;
        match end {
            End::Broken if gone[SERVER] && !gone[CLIENT] && back.moved == 0 => self.failed(),
            // Whoever hangs up on a question has not answered it, and nobody asked says nothing.
            End::Closed if back.moved == 0 && there.moved > 0 && !hung_up => self.went_well(),
            _ => {}
        }
        // Whoever breaks off takes nothing more: its server learns that at once, as from HAProxy.
        if there.breaks {
            let _ = SockRef::from(socket(&server).0).set_linger(Some(Duration::ZERO));
        }
        end
    }

    fn scratch(&self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.engine.borrow_mut().streams.scratch);
        if scratch.len() < READ {
            scratch.resize(READ, 0);
        }
        scratch
    }

    /// Bytes that left.
    fn count(&self, to_server: u64, to_client: u64) {
        let frontend = self.live.of(self.worker);
        frontend.bytes_from_clients.add(to_server);
        frontend.bytes_to_servers.add(to_server);
        frontend.bytes_to_clients.add(to_client);
        if let Some((_, server)) = &self.server {
            let server = server.counters.of(self.worker);
            server.bytes_to.add(to_server);
            server.bytes_from.add(to_client);
        }
        self.engine.borrow_mut().received += 1;
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.leave_server();
        let counters = self.live.of(self.worker);
        counters.connections_closed.add(1);
        counters.connection_ends.of(end_of_dropped(self.end)).add(1);
        self.shared.connections.release(self.frontend, self.flow.remote);
        self.shared.connections.give_room_back(RELAYED_FILES);
    }
}

/// A server, and how it is connected to.
struct Chosen {
    id: NameHash,
    local: SocketAddr,
    address: SocketAddr,
    transport: Transport,
    opening: Opening,
    idle: Duration,
    /// What the connection begins with.
    header: Option<Vec<u8>>,
}

impl Chosen {
    async fn open(&self) -> io::Result<ToServer> {
        let Opening { dscp, within, tls } = &self.opening;
        let opened = async {
            let mut stream = open(self.local, self.address, *dscp).await?;
            socket::wait_for_reader(&stream)?;
            if let Some(header) = &self.header {
                // In one piece, for Kamailio looks once.
                stream.write_all(header).await?;
            }
            Ok(match tls {
                Some((config, name)) => {
                    let connector = TlsConnector::from(Arc::clone(config));
                    ToServer::Secured(Box::new(connector.connect(name.clone(), stream).await?))
                }
                // Never in clear what was to be secret.
                None if self.transport == Transport::Tls => return Err(io::ErrorKind::InvalidInput.into()),
                None => ToServer::Plain(stream),
            })
        };
        timeout(*within, opened).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// One of the two ways of a connection.
struct Way {
    /// What was read and not written yet; nothing more is read before it is.
    pending: Buffer,
    /// The sender has closed its side; what is pending goes on, then this side is closed.
    ended: bool,
    /// It broke off: this side is not closed in order either.
    breaks: bool,
    /// Nothing goes this way any more.
    over: bool,
    /// It is no header of the PROXY protocol that begins it, or one is allowed; until that is known nothing goes on.
    judged: bool,
    forged: bool,
    /// What was written may lie in a record of TLS.
    unflushed: bool,
    /// It leads to a bare socket, which closing ends in order too.
    to_socket: bool,
    moved: u64,
}

/// Which end of a way is gone.
enum Gone {
    Sender,
    Receiver,
}

impl Way {
    fn new(pending: Buffer) -> Self {
        Self {
            pending,
            ended: false,
            breaks: false,
            over: false,
            judged: true,
            forged: false,
            unflushed: false,
            to_socket: false,
            moved: 0,
        }
    }

    fn pump(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        is_last: bool,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Gone>> {
        for _ in 0..READS_IN_A_ROW {
            // Nothing follows that could make a header of it.
            self.judged |= self.ended && !self.forged;
            while self.judged && !self.pending.is_empty() {
                let len = ready!(write(to, &self.pending, cx))?;
                self.pending.take(len);
                self.moved += len as u64;
                self.unflushed = true;
            }
            if self.ended {
                // Where the other way has ended in order both are closed now: one system call less for each connection.
                if !(self.breaks || is_last && self.to_socket) {
                    // Whoever is gone needs not be told.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                }
                return Poll::Ready(Ok(()));
            }
            let most = if self.pending.has_room(READ) { READ } else { SHARE - self.pending.len() };
            let mut room = ReadBuf::new(&mut scratch[..most]);
            match Pin::new(&mut *from).poll_read(cx, &mut room) {
                Poll::Pending => {
                    if self.unflushed && Pin::new(&mut *to).poll_flush(cx).map_err(|_| Gone::Receiver)?.is_ready() {
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
                // TLS without its own goodbye: whether something is missing is told by what it carries.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => self.ended = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Gone::Sender)),
                Poll::Ready(Ok(())) if room.filled().is_empty() => self.ended = true,
                Poll::Ready(Ok(())) => {
                    let bytes = room.filled();
                    if !self.judged {
                        // So much there is room for.
                        let _ = self.pending.put(bytes);
                        self.judge();
                        if self.forged {
                            return Poll::Ready(Err(Gone::Sender));
                        }
                        continue;
                    }
                    let written = match write(to, bytes, cx) {
                        Poll::Ready(written) => written?,
                        Poll::Pending => 0,
                    };
                    self.unflushed = true;
                    self.moved += written as u64;
                    // So much there is room for.
                    let _ = self.pending.put(&bytes[written..]);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Way {
    /// Looks whether it begins with a header of the PROXY protocol.
    fn judge(&mut self) {
        self.forged = proxy_protocol::begins(&self.pending) == Some(true);
        self.judged = proxy_protocol::begins(&self.pending) == Some(false);
    }
}

fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) | Err(_) => Poll::Ready(Err(Gone::Receiver)),
        Ok(len) => Poll::Ready(Ok(len)),
    }
}

/// Closes a connection that has no server. What its client has said already is taken, or it would see a reset.
async fn turn_away(mut client: impl AsyncRead + AsyncWrite + Unpin) {
    poll_fn(|cx| {
        // Not held while anybody waits: this is part of every relayed connection.
        let mut thrown_away = [0; 4096];
        let _ = Pin::new(&mut client).poll_shutdown(cx);
        for _ in 0..READS_IN_A_ROW {
            let mut room = ReadBuf::new(&mut thrown_away);
            match Pin::new(&mut client).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) if !room.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// Goes on with one way; whoever is gone ends the other too. Says who broke off.
fn step(
    way: &mut Way,
    other: &mut Way,
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    scratch: &mut [u8],
    cx: &mut Context<'_>,
) -> Option<Gone> {
    if way.over {
        return None;
    }
    let is_last = other.over && other.ended && !other.breaks;
    let Poll::Ready(passed) = way.pump(from, to, is_last, scratch, cx) else { return None };
    match passed {
        // What it had sent goes on.
        Err(Gone::Sender) => {
            (way.ended, other.over) = (true, true);
            cx.waker().wake_by_ref();
        }
        Ok(()) | Err(Gone::Receiver) => way.over = true,
    }
    passed.err()
}
