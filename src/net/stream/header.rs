//! The header of the PROXY protocol, which stands before everything else of a connection that somebody opened for a client. It
//! is read of those networks that the frontend names, and of nobody else.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::LONGEST_HEADER;
use super::serve::{Ends, take_in};
use crate::net::udp::{Engine, clock};
use crate::proxy;
use crate::sip::proxy_protocol::{self, Header, LONGEST, Proxied};
use crate::state::connections::End;

/// Waits for the header of a connection, and takes it in for whom that names.
pub(super) async fn hear(
    stream: TcpStream,
    lane: usize,
    engine: Rc<RefCell<Engine>>,
    (local, remote): (SocketAddr, SocketAddr),
) {
    let under_way = engine.borrow().streams.under_way.begin(None);
    let heard = match under_way {
        Ok(_under_way) => timeout(LONGEST_HEADER, read(stream)).await.unwrap_or(Err(End::NoProxyHeader)),
        Err(end) => Err(end),
    };
    match heard {
        Ok((stream, proxied)) => {
            let remote = proxied.map_or(remote, |proxied| proxied.source);
            take_in(stream, lane, &engine, Ends { local, remote, proxied });
        }
        Err(end) => engine.borrow_mut().count_end(lane, remote.ip(), end),
    }
}

/// Takes the header off, and not a byte more.
async fn read(mut stream: TcpStream) -> Result<(TcpStream, Option<Proxied>), End> {
    let (mut taken, mut room) = (Vec::new(), [0; LONGEST]);
    loop {
        let most = LONGEST - taken.len();
        let seen = stream.peek(&mut room[..most]).await.map_err(|_| End::NoProxyHeader)?;
        let (len, proxied) = match proxy_protocol::read(&[&taken, &room[..seen]].concat()) {
            Header::Whole { len, proxied } => (len - taken.len(), Some(proxied)),
            Header::Incomplete if seen > 0 => (seen, None),
            Header::Incomplete | Header::Broken | Header::Absent => return Err(End::NoProxyHeader),
        };
        stream.read_exact(&mut room[..len]).await.map_err(|_| End::NoProxyHeader)?;
        match proxied {
            Some(proxied) => return Ok((stream, proxied)),
            None => taken.extend_from_slice(&room[..len]),
        }
    }
}

impl Engine {
    /// Whether connections to this lane from there begin with a header.
    pub(super) fn header_from(&mut self, lane: usize, source: IpAddr) -> bool {
        let snapshot = self.snapshot.load();
        let frontend = snapshot.bind_of_lane(lane).map(|at| usize::from(snapshot.binds[at].frontend));
        frontend.is_some_and(|at| snapshot.frontends[at].accept_proxy.contains(source))
    }

    /// Counts a connection that was turned away before it was taken in.
    fn count_end(&mut self, lane: usize, source: IpAddr, end: End) {
        let snapshot = Arc::clone(self.snapshot.load());
        let Some(at) = snapshot.bind_of_lane(lane) else { return };
        let frontend = &snapshot.frontends[usize::from(snapshot.binds[at].frontend)];
        proxy::count_end(end, source, frontend, clock(), &snapshot, &self.tools.memory);
    }
}
