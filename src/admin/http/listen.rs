//! The listeners: who is let in, and for how long. Whoever opens many connections, sends slowly, or reads slowly is let go.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::auth::source;
use super::{Node, Peer, router};
use crate::admin::OpenError;
use crate::config::admin::{CONNECTIONS, Http, Serves};

/// Connections at a time of one source: more than a browser opens (6), and enough for what polls behind one address.
const CONNECTIONS_OF_SOURCE: usize = 64;
/// Those that wait to be let in.
const BACKLOG: i32 = 128;
/// For the head of a request, from the end of the one before: who needs longer is slow on purpose, or has nothing to say.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Headers of one request, and the octets of its head: a browser sends twenty in one or two thousand.
const HEADERS: usize = 64;
const LONGEST_HEAD: usize = 16 * 1024;
/// Whoever does not take what was sent for so long is gone.
const UNREAD: Duration = Duration::from_secs(20);
/// An answer that is being made when its listener closes is sent before.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// All listeners of `[admin]`. They close when this is dropped.
pub struct Doors {
    node: Arc<Node>,
    doors: HashMap<SocketAddr, Door>,
}

/// One listener.
struct Door {
    serves: Serves,
    /// Taken anew for each request: a reload may change what an open connection is answered.
    router: Arc<ArcSwap<Router>>,
    /// Whoever listens to it ends when it is gone.
    _open: watch::Sender<()>,
}

/// What a new configuration needs, opened; nothing is served yet.
pub struct Prepared {
    http: Option<Http>,
    opened: Vec<(SocketAddr, TcpListener)>,
}

impl Doors {
    /// None yet.
    pub fn new(node: Node) -> Self {
        Self { node: Arc::new(node), doors: HashMap::new() }
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Opens what this configuration has and the one before had not.
    ///
    /// # Errors
    /// Where an address is refused; nothing was changed.
    pub fn prepare(&self, http: Option<&Http>) -> Result<Prepared, OpenError> {
        let wanted = http.map(Http::listeners).unwrap_or_default();
        let fresh = wanted.keys().filter(|at| !self.doors.contains_key(at));
        let open = |at: &SocketAddr| {
            let listener = listen(*at)
                .map_err(|error| OpenError(format!("[admin] {at}: {error}; {}", self.remedy(*at, &error))))?;
            Ok((*at, listener))
        };
        Ok(Prepared { http: http.cloned(), opened: fresh.map(open).collect::<Result<_, _>>()? })
    }

    /// What is to be done where an address cannot be had.
    fn remedy(&self, at: SocketAddr, error: &std::io::Error) -> String {
        let is_used = error.kind() == std::io::ErrorKind::AddrInUse;
        let overlaps = |door: &&SocketAddr| {
            let is_wild = door.ip().is_unspecified() || at.ip().is_unspecified();
            door.port() == at.port() && (is_wild || door.ip() == at.ip())
        };
        match self.doors.keys().find(overlaps).filter(|_| is_used) {
            // Both are open while one takes the place of the other.
            Some(own) => format!("this process has {own} open itself: take another port, or restart"),
            None => "write another address, or see who has it: `ss -ltnp`".to_owned(),
        }
    }

    /// Closes what is not wanted any more, and serves what is new. Others are not touched.
    pub fn put(&mut self, Prepared { http, opened }: Prepared) {
        let wanted = http.as_ref().map(Http::listeners).unwrap_or_default();
        self.node.auth.change(http.as_ref());
        self.doors.retain(|at, _| {
            let stays = wanted.contains_key(at);
            if !stays {
                tracing::info!(address = %at, "HTTP closed");
            }
            stays
        });
        for (at, door) in &mut self.doors {
            let serves = wanted[at];
            if door.serves != serves {
                door.serves = serves;
                door.router.store(Arc::new(router(serves, &self.node)));
            }
        }
        for (at, listener) in opened {
            let serves = wanted[&at];
            let router = Arc::new(ArcSwap::from_pointee(router(serves, &self.node)));
            let (open, closed) = watch::channel(());
            tokio::spawn(serve(listener, Arc::clone(&router), Arc::clone(&self.node), closed));
            tracing::info!(address = %at, stats = serves.stats, health = serves.health, metrics = serves.metrics, "HTTP");
            self.doors.insert(at, Door { serves, router, _open: open });
        }
    }
}

fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // A floating address may be on the other node now.
    match at {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    // Those that are let in inherit it.
    socket.set_tcp_user_timeout(Some(UNREAD))?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Lets in whoever comes, until the door is gone.
async fn serve(listener: TcpListener, router: Arc<ArcSwap<Router>>, node: Arc<Node>, mut closed: watch::Receiver<()>) {
    let (room, mut connections) = (Arc::new(Room::default()), JoinSet::new());
    loop {
        tokio::select! {
            _ = closed.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match Room::place(&room, from.ip()) {
                    Some(place) => {
                        let (router, closed) = (Arc::clone(&router), closed.clone());
                        connections.spawn(async move {
                            converse(stream, from, router, closed).await;
                            drop(place);
                        });
                    }
                    None => drop(node.refused.fetch_add(1, Ordering::Relaxed)),
                },
                Err(error) => {
                    tracing::warn!(%error, "HTTP accepts nobody for a second");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
        }
    }
    drop(listener);
    let _ = timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await;
}

/// One connection.
async fn converse(stream: TcpStream, from: SocketAddr, router: Arc<ArcSwap<Router>>, mut closed: watch::Receiver<()>) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(from));
        let router: Router = router.load().as_ref().clone();
        TowerToHyperService::new(router).call(request.map(Body::new))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_headers(HEADERS).max_buf_size(LONGEST_HEAD);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // Whoever is cut off, or speaks no HTTP, was told so where that could be done.
        _ = &mut connection => return,
        _ = closed.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Who is in, by source.
#[derive(Default)]
struct Room(Mutex<HashMap<IpAddr, usize>>);

/// A place in a room, which is free again when it is dropped.
struct Place {
    room: Arc<Room>,
    source: IpAddr,
}

impl Room {
    /// `None` where it is full, or where this source has too many.
    fn place(room: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let source = source(from);
        let mut inside = room.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = inside.get(&source).copied().unwrap_or_default();
        if own >= CONNECTIONS_OF_SOURCE || inside.values().sum::<usize>() >= CONNECTIONS {
            return None;
        }
        inside.insert(source, own + 1);
        Some(Place { room: Arc::clone(room), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = inside.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                inside.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_places_and_gets_them_back() {
        let room = Arc::new(Room::default());
        let from = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x7f00_0000 + n));
        let mut places: Vec<_> = (0..CONNECTIONS_OF_SOURCE).map(|_| Room::place(&room, from(1)).unwrap()).collect();
        assert!(Room::place(&room, from(1)).is_none() && Room::place(&room, from(2)).is_some());
        places.pop();
        places.push(Room::place(&room, from(1)).expect("the place that came free"));
        let others = (2..).map_while(|n| Room::place(&room, from(n)));
        places.extend(others);
        assert_eq!(places.len(), CONNECTIONS);
        // One network of IPv6 is one source.
        drop(places);
        let v6 = |n: u128| IpAddr::from(std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | n));
        let places: Vec<_> = (1..).map_while(|n| Room::place(&room, v6(n))).collect();
        assert_eq!(places.len(), CONNECTIONS_OF_SOURCE);
        drop(places);
        assert!(room.0.lock().unwrap().is_empty());
    }
}
