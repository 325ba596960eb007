//! The connections of one owner: opened, let in, waited for together. Bounded.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::libc::EINPROGRESS;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};

use super::outgoing::Outgoing;
use super::stream::{End, Stream};
use crate::net::host::{allow_open_files, most_open_files};
use crate::state::lookup::{Map, hasher};

/// The most connections of one owner.
pub const MAX_STREAMS: usize = 60_000;

/// Files that a process is allowed: those connections, and what else it has open.
const FILES: usize = MAX_STREAMS + 4_096;

/// Connections that are looked at at once.
const EVENTS: usize = 256;

/// What is read at once.
const ROOM: usize = 64 * 1024;

/// Connections that the kernel keeps until we let them in.
const BACKLOG: i32 = 4_096;

/// The listening socket's number among the events.
const LISTENER: u64 = u64::MAX;

/// How connections that we open, and those that we let in, are protected; none for TCP.
#[derive(Clone, Default)]
pub struct Protection {
    /// And who the other end must be.
    pub client: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub server: Option<Arc<ServerConfig>>,
}

/// A connection and what the system is asked to tell about it.
struct Slot {
    stream: Stream,
    asked: EpollFlags,
}

/// Connections, each in a slot of its own.
pub struct Streams {
    epoll: Epoll,
    listener: Option<TcpListener>,
    protection: Protection,
    slots: Vec<Option<Slot>>,
    vacant: Vec<usize>,
    /// Where each other end is.
    ends: Map<SocketAddr, usize>,
    events: Vec<EpollEvent>,
    room: Vec<u8>,
    gone: Vec<(usize, SocketAddr, End)>,
    /// Slots that something was queued for.
    touched: Vec<usize>,
    /// Connections that were opened or let in.
    pub opened: u64,
    /// Messages that no connection took.
    pub not_sent: u64,
}

impl Streams {
    /// Without connections.
    ///
    /// # Errors
    /// What the system refused.
    pub fn new(protection: Protection) -> io::Result<Self> {
        // Where the host allows fewer, a connection that cannot be opened is counted.
        let _ = allow_open_files(FILES.min(most_open_files()), 0);
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listener: None,
            protection,
            slots: Vec::new(),
            vacant: Vec::new(),
            ends: Map::with_hasher(hasher()),
            events: vec![EpollEvent::empty(); EVENTS],
            room: vec![0; ROOM],
            gone: Vec::new(),
            touched: Vec::new(),
            opened: 0,
            not_sent: 0,
        })
    }

    /// Lets others in at this address; says which it is, the port resolved.
    ///
    /// # Errors
    /// What the system refused.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A server that ends and comes back finds its address though connections of its former life are dying.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        self.epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let bound = listener.local_addr()?;
        self.listener = Some(listener);
        Ok(bound)
    }

    /// Opens a connection from any port of this address; says in which slot it is and from where. It need not be there
    /// yet to be written to.
    ///
    /// # Errors
    /// What the system refused at once.
    pub fn connect(&mut self, from: IpAddr, to: SocketAddr) -> io::Result<(usize, SocketAddr)> {
        if self.len() >= MAX_STREAMS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let slot = self.vacancy();
        match self.connect_in(slot, from, to) {
            Ok(local) => Ok((slot, local)),
            Err(error) => {
                self.vacant.push(slot);
                Err(error)
            }
        }
    }

    /// The same in a slot whose connection is gone and which was not vacated.
    ///
    /// # Errors
    /// What the system refused at once.
    pub fn connect_in(&mut self, slot: usize, from: IpAddr, to: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // The port is chosen when it is known where to: so one may serve many destinations.
        let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
        socket.bind(&SocketAddr::new(from, 0).into())?;
        if let Err(error) = socket.connect(&to.into())
            && error.raw_os_error() != Some(EINPROGRESS)
        {
            return Err(error);
        }
        let socket = TcpStream::from(socket);
        let local = socket.local_addr()?;
        let tls = match &self.protection.client {
            None => None,
            Some((config, name)) => {
                let tls = rustls::ClientConnection::new(Arc::clone(config), name.clone());
                Some(tls.map_err(io::Error::other)?.into())
            }
        };
        self.insert(slot, Stream::new(socket, to, tls))?;
        Ok(local)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The other ends of all of them.
    pub fn others(&self) -> Vec<SocketAddr> {
        self.ends.keys().copied().collect()
    }

    /// What to wait for: it can be read when something happened to a connection.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Lets in who wants in, writes what waited, and fills `ready` with the slots where something came.
    pub fn look(&mut self, ready: &mut Vec<usize>) {
        ready.clear();
        let count = self.epoll.wait(&mut self.events, EpollTimeout::ZERO).unwrap_or(0);
        for n in 0..count {
            let (data, flags) = (self.events[n].data(), self.events[n].events());
            if data == LISTENER {
                self.let_in();
                continue;
            }
            let slot = data as usize;
            if flags.contains(EpollFlags::EPOLLOUT) {
                self.write(slot);
            }
            if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                ready.push(slot);
            }
        }
    }

    /// Reads what came over a connection: each whole message, and where it came from.
    pub fn read(&mut self, slot: usize, mut each: impl FnMut(&[u8], SocketAddr)) {
        let Some(Some(Slot { stream, .. })) = self.slots.get_mut(slot) else { return };
        let remote = stream.remote;
        let read = stream.read(&mut self.room, |message| each(message, remote));
        match read {
            Ok(()) => self.write(slot),
            Err(end) => self.end(slot, end),
        }
    }

    /// Whether a connection is there and has room for the requests of a new call, behind so many bytes.
    pub fn has_room(&self, slot: usize, before: usize) -> bool {
        matches!(self.slots.get(slot), Some(Some(Slot { stream, .. })) if stream.has_room(before))
    }

    /// Sends all messages by one connection, wherever they are meant to go: it leads there. Clears them.
    pub fn send_by(&mut self, slot: usize, outgoing: &mut Outgoing) {
        if outgoing.is_empty() {
            return;
        }
        for (range, _) in outgoing.datagrams() {
            self.put(slot, &outgoing.memory()[range.clone()]);
        }
        outgoing.clear();
        self.write(slot);
    }

    /// Sends each message by the connection to where it goes; for a request one is opened from this address if there is
    /// none. Clears them.
    pub fn send(&mut self, from: IpAddr, outgoing: &mut Outgoing) {
        for (range, to) in outgoing.datagrams() {
            let bytes = &outgoing.memory()[range.clone()];
            let slot = match self.ends.get(to) {
                Some(slot) => Some(*slot),
                // Whoever asked and is gone does not wait for answers.
                None if bytes.starts_with(b"SIP/") => None,
                None => self.connect(from, *to).ok().map(|(slot, _)| slot),
            };
            match slot {
                Some(slot) => {
                    self.put(slot, bytes);
                    self.touched.push(slot);
                }
                None => self.not_sent += 1,
            }
        }
        outgoing.clear();
        // All that goes to one end leaves at once: what is written already is not written again.
        while let Some(slot) = self.touched.pop() {
            self.write(slot);
        }
    }

    fn put(&mut self, slot: usize, bytes: &[u8]) {
        let slot = self.slots.get_mut(slot).and_then(Option::as_mut);
        let put = slot.is_some_and(|slot| slot.stream.put(bytes));
        self.not_sent += u64::from(!put);
    }

    /// Closes a connection when what waits is written and the other end has read it.
    pub fn close(&mut self, slot: usize) {
        if let Some(Some(Slot { stream, .. })) = self.slots.get_mut(slot) {
            stream.close();
            self.write(slot);
        }
    }

    /// The connections that have ended since it was asked last: slot, other end, how. Whoever asks vacates their slots, or
    /// fills them again.
    pub fn take_gone(&mut self) -> Vec<(usize, SocketAddr, End)> {
        std::mem::take(&mut self.gone)
    }

    /// Gives the slot of a connection that is gone to others.
    pub fn vacate(&mut self, slot: usize) {
        self.vacant.push(slot);
    }

    /// Closes all connections in order, and gives the other ends so long to do the same.
    pub fn close_all(&mut self, longest: Duration) {
        (0..self.slots.len()).for_each(|slot| self.close(slot));
        let end = crate::net::udp::clock() + longest;
        let mut ready = Vec::new();
        while !self.is_empty() && crate::net::udp::clock() < end {
            super::socket::wait_for(self.fd(), Duration::from_millis(20));
            self.look(&mut ready);
            ready.iter().for_each(|slot| self.read(*slot, |_, _| {}));
            self.take_gone().iter().for_each(|(slot, ..)| self.vacate(*slot));
        }
    }

    fn let_in(&mut self) {
        while let Some(Ok((socket, remote))) = self.listener.as_ref().map(TcpListener::accept) {
            // Who is not let in sees his connection end.
            let _ = self.let_in_one(socket, remote);
        }
    }

    fn let_in_one(&mut self, socket: TcpStream, remote: SocketAddr) -> io::Result<()> {
        if self.len() >= MAX_STREAMS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let tls = match &self.protection.server {
            None => None,
            Some(config) => Some(rustls::ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?.into()),
        };
        let slot = self.vacancy();
        let inserted = self.insert(slot, Stream::new(socket, remote, tls));
        if inserted.is_err() {
            self.vacant.push(slot);
        }
        inserted
    }

    /// A slot that is taken from the vacant ones.
    fn vacancy(&mut self) -> usize {
        self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }

    fn insert(&mut self, slot: usize, stream: Stream) -> io::Result<()> {
        let asked = interest(&stream);
        self.epoll.add(stream.socket(), EpollEvent::new(asked, slot as u64))?;
        self.ends.insert(stream.remote, slot);
        self.slots[slot] = Some(Slot { stream, asked });
        self.opened += 1;
        Ok(())
    }

    /// Writes what a connection takes, and asks to be told when it takes more.
    fn write(&mut self, at: usize) {
        let Some(Some(slot)) = self.slots.get_mut(at) else { return };
        if let Err(end) = slot.stream.write() {
            return self.end(at, end);
        }
        let wanted = interest(&slot.stream);
        if wanted != slot.asked {
            slot.asked = wanted;
            // It is one that was added, so it can be changed.
            let _ = self.epoll.modify(slot.stream.socket(), &mut EpollEvent::new(wanted, at as u64));
        }
    }

    fn end(&mut self, at: usize, end: End) {
        let Some(Slot { stream, .. }) = self.slots[at].take() else { return };
        // Closing the socket takes it out of what is waited for.
        if self.ends.get(&stream.remote) == Some(&at) {
            self.ends.remove(&stream.remote);
        }
        self.gone.push((at, stream.remote, end));
    }
}

fn interest(stream: &Stream) -> EpollFlags {
    match stream.wants_write() {
        true => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        false => EpollFlags::EPOLLIN,
    }
}
