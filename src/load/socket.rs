//! UDP sockets, read and written in batches.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

use super::outgoing::Outgoing;
use crate::net::mmsg::{BATCH, Inbox, Outbox};
use crate::sip::MAX_MESSAGE;

/// What is asked for as buffers: a second of a test's traffic while the reader is descheduled.
const BUFFER: usize = 4 * 1024 * 1024;

/// The room for one arrival: any UDP datagram.
const SLOT: usize = MAX_MESSAGE + 1;

/// One socket on an address of its own.
#[derive(Debug)]
pub struct Port {
    socket: Socket,
    /// The address that it is bound to, the port resolved.
    pub address: SocketAddr,
}

impl Port {
    /// Opens a socket on this address; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system refused, and what to do.
    pub fn open(address: SocketAddr) -> Result<Self, String> {
        let opened = || {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
                // Without CAP_NET_ADMIN net.core.rmem_max is the limit; less is a smaller buffer, no error.
                socket.set_recv_buffer_size(BUFFER)?;
            }
            socket.set_send_buffer_size(BUFFER)?;
            socket.bind(&address.into())?;
            let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
            Ok(Self { socket, address: bound })
        };
        opened().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "udp://{address}: another process has this address; `ss -lnpu 'sport = :{}'` tells which",
                address.port()
            ),
            io::ErrorKind::AddrNotAvailable => {
                format!("udp://{address}: this machine has no such address; `ip addr` lists those it has")
            }
            _ => format!("udp://{address}: {error}"),
        })
    }

    /// The socket, for options and for calls of other batches.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// Receives batches into memory of its own.
pub struct Reader {
    inbox: Inbox,
    memory: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        // Pages that no datagram reaches are never touched: the memory is zeroed by the system when it is.
        Self { inbox: Inbox::default(), memory: vec![0; BATCH * SLOT] }
    }
}

impl Reader {
    /// Receives what is queued on a socket, at most a batch, and says how many. An error is no datagram: the sockets
    /// do not ask for ICMP errors, and whatever else comes shows in the ledger.
    pub fn receive(&mut self, port: &Port) -> usize {
        let slot = |n: usize| n * SLOT..(n + 1) * SLOT;
        self.inbox.receive(port.socket.as_fd(), false, &mut self.memory, slot).unwrap_or(0)
    }

    /// The n-th datagram of the last batch and where it came from; `None` for a strange address family.
    pub fn datagram(&self, n: usize) -> Option<(&[u8], SocketAddr)> {
        let arrival = self.inbox.arrival(n)?;
        Some((&self.memory[n * SLOT..n * SLOT + arrival.len], arrival.remote))
    }
}

/// Sends what state machines queued.
#[derive(Default)]
pub struct Writer {
    outbox: Outbox,
    /// Datagrams that the system did not take: a full buffer, or no way to the destination.
    pub not_sent: u64,
}

impl Writer {
    /// Sends all datagrams of `outgoing` and clears it; says how many the system did not take.
    pub fn send(&mut self, port: &Port, outgoing: &mut Outgoing) -> u64 {
        let before = self.not_sent;
        for batch in outgoing.datagrams().chunks(BATCH) {
            self.outbox.clear();
            for (range, to) in batch {
                self.outbox.push(range.clone(), *to, None);
            }
            self.not_sent += send_all(&mut self.outbox, port, outgoing.memory());
        }
        outgoing.clear();
        self.not_sent - before
    }
}

/// Sends a whole outbox; says how many datagrams the system refused. Each is tried once: a later one may go elsewhere.
pub fn send_all(outbox: &mut Outbox, port: &Port, memory: &[u8]) -> u64 {
    let (mut at, mut refused) = (0, 0);
    while at < outbox.len() {
        match outbox.send(port.socket.as_fd(), memory, at) {
            Ok(sent) => at += sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                refused += 1;
                at += 1;
            }
        }
    }
    refused
}

/// Waits until something can be read, at most this long.
pub fn wait_for(fd: BorrowedFd<'_>, longest: Duration) {
    // An interrupted wait is a short one.
    let _ = ppoll(&mut [PollFd::new(fd, PollFlags::POLLIN)], Some(TimeSpec::from_duration(longest)), None);
}

/// Waits until one of these can be read, at most this long; fills `ready` with the positions of those that can. Closed
/// ones (`None`) are left out.
pub fn wait<'a>(sockets: impl Iterator<Item = Option<BorrowedFd<'a>>>, longest: Duration, ready: &mut Vec<usize>) {
    ready.clear();
    let (mut positions, mut fds) = (Vec::new(), Vec::new());
    for (position, socket) in sockets.enumerate() {
        if let Some(socket) = socket {
            positions.push(position);
            fds.push(PollFd::new(socket, PollFlags::POLLIN));
        }
    }
    // An interrupted wait is a short one.
    let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(longest)), None);
    let readable = fds.iter().zip(positions).filter(|(fd, _)| fd.any().unwrap_or(false));
    ready.extend(readable.map(|(_, position)| position));
}
