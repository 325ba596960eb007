//! Sockets that outlive the process: systemd keeps them in its descriptor store (sd_notify(3), FDSTORE), and hands them to
//! whom it starts in our place. What comes meanwhile waits in their queues. One of the two rooms with `unsafe`.
//!
//! A socket is known again by what it is, its kind and its address, not by its name: the name is only what the store
//! is told to forget it by. Outside of systemd nothing here does anything.

#![allow(unsafe_code, reason = "one of the two rooms where the laws of the house allow it; the block gives its reason")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState::{Custom, FdName, FdStore, FdStoreRemove};
use socket2::{Socket, Type};

use crate::sip::Transport;

/// Descriptors in one message: the kernel takes 253 (SCM_MAX_FD).
const AT_ONCE: usize = 250;

/// The sockets of the process before, until they are asked for.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, Type, String, Socket)>);

impl Inherited {
    /// What systemd handed over, the first time that it is asked for. What is no socket of an Internet address is closed.
    ///
    /// # Errors
    /// Where the environment is not what systemd makes of it.
    pub fn take() -> io::Result<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Self::default());
        }
        let known = |(fd, name): (i32, String)| {
            // SAFETY: sd_listen_fds(3): from 3 on these are ours, they are open, and TAKEN says that nobody had them before.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            let address = socket.local_addr().ok()?.as_socket()?;
            Some((address, socket.r#type().ok()?, name, socket))
        };
        Ok(Self(sd_notify::listen_fds_with_names()?.filter_map(known).collect()))
    }

    /// The sockets of this kind and address, up to as many as are wanted. One that had another name, for it did TLS before, gets
    /// the one of today when it is kept.
    pub fn of(&mut self, transport: Transport, address: SocketAddr, most: usize) -> Vec<Socket> {
        let mut wanted = most;
        let is_it = |(at, kind, _, _): &mut (SocketAddr, Type, String, Socket)| {
            let is_it = wanted > 0 && *at == address && *kind == type_of(transport);
            wanted -= usize::from(is_it);
            is_it
        };
        let today = name(transport, address);
        let taken = self.0.extract_if(.., is_it).map(|(.., name, socket)| {
            if name != today {
                forget_name(&name);
            }
            socket
        });
        taken.collect()
    }

    /// Lets go what nobody asked for, and says whose it was. What has an heir under the same name must be kept anew.
    pub fn forget(self) -> Vec<SocketAddr> {
        self.0.iter().for_each(|(.., name, _)| forget_name(name));
        self.0.into_iter().map(|(address, ..)| address).collect()
    }
}

/// Lets systemd keep these sockets of one address. What is kept already stays as it is.
pub fn keep(transport: Transport, address: SocketAddr, sockets: &[impl AsFd]) {
    let name = name(transport, address);
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    // An ICMP error in its queue makes a socket readable as an error, and without FDPOLL=0 systemd would close it for that.
    let state = [FdStore, FdName(&name), Custom("FDPOLL=0")];
    for sockets in sockets.chunks(AT_ONCE) {
        if let Err(error) = sd_notify::notify_with_fds(&state, sockets) {
            tracing::warn!(%address, %error, "systemd does not keep this socket: a restart loses what comes to it meanwhile");
        }
    }
}

/// Lets systemd close its copies of the sockets of an address: as long as it has them, the kernel gives them datagrams.
pub fn forget(transport: Transport, address: SocketAddr) {
    forget_name(&name(transport, address));
}

fn forget_name(name: &str) {
    if let Err(error) = sd_notify::notify(&[FdStoreRemove, FdName(name)]) {
        tracing::warn!(socket = name, %error, "systemd still keeps a socket that is not used any more");
    }
}

fn type_of(transport: Transport) -> Type {
    match transport {
        Transport::Udp => Type::DGRAM,
        Transport::Tcp | Transport::Tls => Type::STREAM,
    }
}

/// Colons separate names in the environment.
fn name(transport: Transport, address: SocketAddr) -> String {
    format!("{}-{address}", transport.name()).replace(':', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_colon() {
        assert_eq!(name(Transport::Udp, "10.0.0.5:5060".parse().unwrap()), "udp-10.0.0.5_5060");
        assert_eq!(name(Transport::Tls, "[2001:db8::1]:5061".parse().unwrap()), "tls-[2001_db8__1]_5061");
    }

    #[test]
    fn a_socket_is_known_by_kind_and_address() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = udp.local_addr().unwrap();
        let both = [udp.try_clone().unwrap(), udp].map(Socket::from);
        let mut inherited = Inherited(both.into_iter().map(|s| (at, Type::DGRAM, "udp".to_owned(), s)).collect());
        assert!(inherited.of(Transport::Tcp, at, 4).is_empty());
        assert!(inherited.of(Transport::Udp, "127.0.0.1:1".parse().unwrap(), 4).is_empty());
        assert_eq!(inherited.of(Transport::Udp, at, 1).len(), 1);
        assert_eq!(inherited.of(Transport::Udp, at, 4).len(), 1);
        assert!(inherited.forget().is_empty());
    }
}
