//! The tasks of connections: letting in, opening, and serving until the end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::table::Input;
use super::{Connection, LONGEST_HANDSHAKE, State, end_of_dropped, header, relay};
use crate::net::udp::{Engine, clock};
use crate::net::{host, socket};
use crate::sip::Transport;
use crate::sip::proxy_protocol::Proxied;
use crate::sip::token::NameHash;
use crate::state::connections::End;

/// Reads from one connection before the others have their turn.
pub(super) const READS_IN_A_ROW: usize = 4;

/// How long nobody is let in where the process has no descriptor left: else it would try without rest.
const PAUSE: Duration = Duration::from_millis(100);

/// Lets clients in, for ever.
pub async fn listen(engine: Rc<RefCell<Engine>>, lane: usize) -> io::Result<()> {
    let socket = engine.borrow().socket(lane);
    // Whoever is let in by it inherits that.
    socket.set_tcp_nodelay(true)?;
    let listener = loop {
        match socket.try_clone().and_then(|socket| TcpListener::from_std(socket.into())) {
            Ok(listener) => break listener,
            // No descriptor is left, and what is served already must not end for it.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    drop(socket);
    // Who listens at one address need not ask at which somebody came.
    let own = listener.local_addr().ok().filter(|own| !own.ip().is_unspecified());
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Who came has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(local) = own.or_else(|| stream.local_addr().ok()) else { continue };
        let begins_with_header = engine.borrow_mut().header_from(lane, remote.ip());
        match begins_with_header {
            true => drop(tokio::task::spawn_local(header::hear(stream, lane, Rc::clone(&engine), (local, remote)))),
            false => take_in(stream, lane, &engine, Ends { local, remote, proxied: None }),
        }
    }
}

/// Who is at the ends of a connection that comes.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub local: SocketAddr,
    /// Who it is for, where somebody else opened it.
    pub remote: SocketAddr,
    /// What the one who opened it said, if he was asked.
    pub proxied: Option<Proxied>,
}

/// Serves a client's connection from here on, or closes it.
pub(super) fn take_in(stream: TcpStream, lane: usize, engine: &Rc<RefCell<Engine>>, ends: Ends) {
    if engine.borrow_mut().relays(lane) {
        return relay::welcome(stream, lane, engine, ends);
    }
    let connection = engine.borrow_mut().accept(lane, ends.local, ends.remote);
    if let Some(connection) = connection {
        let served = Served { connection, engine: Rc::clone(engine), end: End::Stopped };
        tokio::task::spawn_local(welcome(stream, served));
    }
}

/// Serves a client, after its handshake where it speaks TLS.
async fn welcome(stream: TcpStream, mut served: Served) {
    if served.connection.flow.transport != Transport::Tls {
        return serve(stream, served).await;
    }
    match shake_hands(stream, served.connection.frontend, served.connection.flow.remote, &served.engine).await {
        Ok(stream) => {
            served.connection.begun.set(Some(clock()));
            serve(stream, served).await;
        }
        Err(end) => served.end = end,
    }
}

/// Shakes hands with a client. Until its first message is there it is a connection among others, and takes no place among the
/// handshakes.
pub(super) async fn shake_hands(
    stream: TcpStream,
    frontend: NameHash,
    remote: SocketAddr,
    engine: &Rc<RefCell<Engine>>,
) -> Result<TlsStream<TcpStream>, End> {
    let shaken = async {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(|_| End::BadHandshake)?;
        let (config, _under_way) = engine.borrow_mut().begin_handshake(frontend, remote.ip())?;
        begun.into_stream(config).await.map_err(|_| End::BadHandshake)
    };
    timeout(LONGEST_HANDSHAKE, shaken).await.map_err(|_| End::SlowHandshake)?
}

/// How a connection is opened.
pub struct Opening {
    pub dscp: Option<u8>,
    pub within: Duration,
    /// Who the other end must be, where it is to be TLS.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Opens a connection and serves it.
pub async fn connect(connection: Rc<Connection>, engine: Rc<RefCell<Engine>>, opening: Opening) {
    let Opening { dscp, within, tls } = opening;
    let mut served = Served { connection: Rc::clone(&connection), engine, end: End::Refused };
    let opened = async {
        let stream = open(connection.flow.local, connection.flow.remote, dscp).await?;
        socket::keep_asking(&stream)?;
        Ok(stream)
    };
    served.end = match tls {
        // Never in clear what was to be secret.
        None if connection.flow.transport == Transport::Tls => return,
        None => match wanted(&connection, within, opened).await {
            Ok(stream) => return served.opened(stream).await,
            Err(end) => end,
        },
        Some((config, name)) => {
            let shaken = async { TlsConnector::from(config).connect(name, opened.await?).await };
            match wanted(&connection, within, shaken).await {
                Ok(stream) => return served.opened(stream).await,
                Err(end) => end,
            }
        }
    };
}

/// What opens a connection, for as long as somebody wants it and as it may take.
async fn wanted<S>(
    connection: &Connection,
    within: Duration,
    opened: impl Future<Output = io::Result<S>>,
) -> Result<S, End> {
    let unwanted = poll_fn(|cx| {
        connection.sleep(cx);
        match connection.state.get() {
            State::Over(end) | State::Closing(end) => Poll::Ready(end),
            State::Opening | State::Open | State::Broken => Poll::Pending,
        }
    });
    tokio::select! {
        end = unwanted => Err(end),
        opened = timeout(within, opened) => match opened {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if host::has_no_file(&error) => Err(End::NoFiles),
            // It may have left while nobody answered.
            _ if !host::has(connection.flow.local.ip()) => Err(End::NoPlace),
            _ => Err(End::Refused),
        },
    }
}

/// From the address that servers know us by, and a port that the kernel chooses.
///
/// # Errors
/// The kernel's, and the other end's.
pub async fn open(local: SocketAddr, remote: SocketAddr, dscp: Option<u8>) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket::prepare_stream(&socket, local, dscp)?;
    let stream = socket.connect(remote).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that is being served. When that ends, however it ends, the worker forgets it.
struct Served {
    connection: Rc<Connection>,
    engine: Rc<RefCell<Engine>>,
    end: End,
}

impl Served {
    /// It is open now.
    async fn opened(mut self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        if self.connection.is_closing() {
            return;
        }
        self.connection.state.set(State::Open);
        self.connection.was_open.set(true);
        self.engine.borrow_mut().opened(&self.connection);
        self.end = End::Stopped;
        serve(stream, self).await;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // While the worker itself is torn down its engine may be in use; then nothing is left to be told.
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.ended(&self.connection, end_of_dropped(self.end));
        }
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, mut served: Served) {
    let mut input = served.engine.borrow().input(&served.connection);
    served.end = poll_fn(|cx| turn(&mut stream, &served, &mut input, cx)).await;
}

/// Writes and reads as far as the other end lets us.
fn turn<S>(stream: &mut S, served: &Served, input: &mut Input, cx: &mut Context<'_>) -> Poll<End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Served { connection, engine, .. } = served;
    connection.sleep(cx);
    for _ in 0..READS_IN_A_ROW {
        match connection.state.get() {
            State::Over(end) => return Poll::Ready(end),
            State::Closing(end) => {
                let Ok(()) = ready!(connection.write(stream, cx)) else { return Poll::Ready(End::Broken) };
                connection.note_written();
                return part(stream, input, end, cx).map(|()| end);
            }
            State::Broken => {}
            State::Opening | State::Open => match connection.write(stream, cx) {
                // What it said before it went may lie here still: an answer that somebody waits for.
                Poll::Ready(Err(_)) => engine.borrow().break_off(connection, clock()),
                _ if connection.is_clogged() => return Poll::Pending,
                _ => {}
            },
        }
        let read = engine.borrow_mut().read(stream, cx, connection, input);
        match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => {}
            Poll::Ready(Some(_)) if connection.state.get() == State::Broken => return Poll::Ready(End::Broken),
            Poll::Ready(Some(End::Broken)) => return Poll::Ready(End::Broken),
            // What the other end asked before it closed its side is answered as far as the answer is here.
            Poll::Ready(Some(end)) => engine.borrow().close_connection(connection, end),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Closes our side, and waits for the other end to close its own where it has not.
fn part<S>(stream: &mut S, input: &mut Input, end: End, cx: &mut Context<'_>) -> Poll<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !input.parted {
        // An end that is gone has nothing to be told.
        let _ = ready!(Pin::new(&mut *stream).poll_shutdown(cx));
        input.parted = true;
    }
    if end == End::Closed {
        return Poll::Ready(());
    }
    let mut thrown_away = [0; 4096];
    for _ in 0..READS_IN_A_ROW {
        let mut room = ReadBuf::new(&mut thrown_away);
        match ready!(Pin::new(&mut *stream).poll_read(cx, &mut room)) {
            Ok(()) if !room.filled().is_empty() => {}
            _ => return Poll::Ready(()),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}
