//! recvmmsg, sendmmsg, the error queue, and what else a socket needs that no safe wrapper offers: one of the two rooms with `unsafe`.
//!
//! nix 0.31 wraps both calls, but never restores `msg_controllen` and `msg_namelen` between calls, shares one control
//! message among all datagrams of a send, and allocates; quinn-udp sets DF. So the two calls are made here, on arrays
//! that are allocated once. Every header is primed anew before it is given to the kernel, which overwrites them.

#![allow(
    unsafe_code,
    reason = "one of the two rooms where the laws of the house allow it; each block gives its reason"
)]

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Datagrams per call. The gain per datagram is flat beyond 32; 64 halves the calls of a burst once more and costs only
/// address space.
pub const BATCH: usize = 64;

/// Room for one `in_pktinfo` or `in6_pktinfo` with its header.
const CONTROL: usize = 64;

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// What recvmmsg fills: names, lengths and control messages of up to [`BATCH`] datagrams. The datagrams themselves lie
/// in memory of the caller.
pub struct Inbox {
    headers: Box<[libc::mmsghdr]>,
    iovecs: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
}

/// Where a datagram came from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub len: usize,
    pub remote: SocketAddr,
    /// The address that it was sent to, where pktinfo was asked for.
    pub local: Option<IpAddr>,
    /// Longer than its slot: the rest is lost.
    pub truncated: bool,
}

impl Default for Inbox {
    fn default() -> Self {
        // SAFETY: all four are plain C structs for which all-zero bytes are a valid value.
        unsafe {
            Self {
                headers: (0..BATCH).map(|_| zeroed()).collect(),
                iovecs: (0..BATCH).map(|_| zeroed()).collect(),
                names: (0..BATCH).map(|_| zeroed()).collect(),
                controls: (0..BATCH).map(|_| zeroed()).collect(),
            }
        }
    }
}

impl Inbox {
    /// Receives what is queued, at most [`BATCH`] datagrams, the n-th into `memory[slots(n)]`; says how many.
    ///
    /// # Errors
    /// Those of recvmmsg(2): [`io::ErrorKind::WouldBlock`] where nothing is queued; an ICMP error of an earlier send.
    ///
    /// # Panics
    /// If a slot does not lie in `memory`.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        pktinfo: bool,
        memory: &mut [u8],
        slots: impl Fn(usize) -> Range<usize>,
    ) -> io::Result<usize> {
        self.receive_some(socket, pktinfo, memory, BATCH, slots)
    }

    /// The same for at most `most` datagrams: where few are expected, fewer headers are primed.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    ///
    /// # Panics
    /// If a slot does not lie in `memory`, or `most` is more than [`BATCH`].
    pub fn receive_some(
        &mut self,
        socket: BorrowedFd<'_>,
        pktinfo: bool,
        memory: &mut [u8],
        most: usize,
        slots: impl Fn(usize) -> Range<usize>,
    ) -> io::Result<usize> {
        for n in 0..most {
            let slot = &mut memory[slots(n)];
            self.iovecs[n] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            let header = &mut self.headers[n].msg_hdr;
            header.msg_name = ptr::from_mut(&mut self.names[n]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &mut self.iovecs[n];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[n].0.as_mut_ptr().cast();
            header.msg_controllen = if pktinfo { CONTROL } else { 0 };
            header.msg_flags = 0;
        }
        // SAFETY: every header points to a name, an iovec and a control buffer of this struct, which outlive the call,
        // and every iovec to a slice of `memory`, borrowed mutably for the call; the slots were bounds-checked above.
        let received = unsafe {
            let headers = self.headers[..most].as_mut_ptr();
            libc::recvmmsg(socket.as_raw_fd(), headers, most as libc::c_uint, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        if received < 0 { Err(io::Error::last_os_error()) } else { Ok(received as usize) }
    }

    /// The n-th datagram of the last [`Inbox::receive`]; `None` where its address is of no family we know.
    pub fn arrival(&self, n: usize) -> Option<Arrival> {
        let header = &self.headers[n];
        Some(Arrival {
            len: header.msg_len as usize,
            remote: read_name(&self.names[n])?,
            local: read_pktinfo(&header.msg_hdr),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }
}

/// What sendmmsg takes: up to [`BATCH`] datagrams, each with its own destination and, if asked for, its own source.
pub struct Outbox {
    headers: Box<[libc::mmsghdr]>,
    iovecs: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    datagrams: Vec<Range<usize>>,
}

impl Default for Outbox {
    fn default() -> Self {
        // SAFETY: as in `Inbox::default`.
        unsafe {
            Self {
                headers: (0..BATCH).map(|_| zeroed()).collect(),
                iovecs: (0..BATCH).map(|_| zeroed()).collect(),
                names: (0..BATCH).map(|_| zeroed()).collect(),
                controls: (0..BATCH).map(|_| zeroed()).collect(),
                datagrams: Vec::with_capacity(BATCH),
            }
        }
    }
}

impl Outbox {
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    pub fn clear(&mut self) {
        self.datagrams.clear();
    }

    /// Queues the datagram that lies at `datagram` in the memory given to [`Outbox::send`]; `source` where the socket
    /// is bound to a wildcard.
    ///
    /// # Panics
    /// If [`BATCH`] datagrams are queued already.
    pub fn push(&mut self, datagram: Range<usize>, to: SocketAddr, source: Option<IpAddr>) {
        let n = self.datagrams.len();
        let header = &mut self.headers[n].msg_hdr;
        header.msg_namelen = write_name(&mut self.names[n], to);
        header.msg_controllen = match source {
            None => 0,
            Some(source) => write_pktinfo(&mut self.controls[n], source),
        };
        self.datagrams.push(datagram);
    }

    /// Queues a datagram for the peer of a connected socket: the kernel has its route already.
    ///
    /// # Panics
    /// As [`Outbox::push`].
    pub fn push_connected(&mut self, datagram: Range<usize>) {
        let header = &mut self.headers[self.datagrams.len()].msg_hdr;
        (header.msg_namelen, header.msg_controllen) = (0, 0);
        self.datagrams.push(datagram);
    }

    /// How long some of the queued datagrams are together, in bytes.
    pub fn bytes(&self, which: Range<usize>) -> usize {
        self.datagrams[which].iter().map(ExactSizeIterator::len).sum()
    }

    /// Sends the queued datagrams from the n-th on, as many as the kernel takes, and says how many those were.
    ///
    /// # Errors
    /// Those of sendmmsg(2), about the n-th datagram alone.
    ///
    /// # Panics
    /// If a queued datagram does not lie in `memory`.
    pub fn send(&mut self, socket: BorrowedFd<'_>, memory: &[u8], from: usize) -> io::Result<usize> {
        let count = self.datagrams.len();
        for n in from..count {
            let datagram = &memory[self.datagrams[n].clone()];
            self.iovecs[n] = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
            let header = &mut self.headers[n].msg_hdr;
            header.msg_name = ptr::from_mut(&mut self.names[n]).cast();
            header.msg_iov = &mut self.iovecs[n];
            header.msg_iovlen = 1;
            header.msg_control = match header.msg_controllen {
                0 => ptr::null_mut(),
                _ => self.controls[n].0.as_mut_ptr().cast(),
            };
        }
        // SAFETY: the headers from `from` to `count` were filled above with pointers to this struct and to `memory`,
        // both borrowed for the call; sendmmsg does not write through the iovecs.
        let sent = unsafe {
            let headers = self.headers[from..count].as_mut_ptr();
            libc::sendmmsg(socket.as_raw_fd(), headers, (count - from) as libc::c_uint, libc::MSG_DONTWAIT)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

/// Takes one error from the socket's error queue: where the datagram had been sent, and the error. `None` where the
/// queue is empty or the error names no destination.
pub fn take_error(socket: BorrowedFd<'_>) -> Option<(Option<SocketAddr>, io::Error)> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = [0u64; 64];
    // SAFETY: a zeroed msghdr is valid, and it points to buffers on this stack that outlive the call. The name was
    // zeroed, so it is initialised whether the kernel wrote it or not.
    let (received, header, name) = unsafe {
        let mut header: libc::msghdr = zeroed();
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        (libc::recvmsg(socket.as_raw_fd(), &mut header, flags), header, name.assume_init())
    };
    if received < 0 {
        return None;
    }
    // SAFETY: the kernel filled `control` with well-formed control messages up to msg_controllen.
    let errno = unsafe {
        let mut errno = 0;
        let mut at = libc::CMSG_FIRSTHDR(&header);
        while !at.is_null() {
            let kind = ((*at).cmsg_level, (*at).cmsg_type);
            if kind == (libc::IPPROTO_IP, libc::IP_RECVERR) || kind == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) {
                let error = libc::CMSG_DATA(at).cast::<libc::sock_extended_err>().read_unaligned();
                errno = error.ee_errno as i32;
            }
            at = libc::CMSG_NXTHDR(&header, at);
        }
        errno
    };
    Some((read_name(&name), io::Error::from_raw_os_error(errno)))
}

/// How many datagrams the kernel has dropped on this socket for want of buffer (SO_MEMINFO, a wrapping 32-bit count).
pub fn kernel_drops(socket: BorrowedFd<'_>) -> Option<u32> {
    const SO_MEMINFO: libc::c_int = 55;
    const DROPS: usize = 8;
    let mut meminfo = [0u32; DROPS + 1];
    let mut len = size_of_val(&meminfo) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into the array.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, meminfo.as_mut_ptr().cast(), &mut len)
    };
    (result == 0 && len as usize == size_of_val(&meminfo)).then_some(meminfo[DROPS])
}

/// The same since it was asked last, which `before` remembers; nothing where the kernel does not say.
pub fn more_kernel_drops(socket: BorrowedFd<'_>, before: &mut u32) -> u64 {
    let drops = kernel_drops(socket).unwrap_or(*before);
    u64::from(drops.wrapping_sub(std::mem::replace(before, drops)))
}

/// Turns path MTU discovery off, so that a message larger than the path's MTU is fragmented instead of lost: the kernel's
/// default sets DF.
///
/// # Errors
/// Those of setsockopt(2).
pub fn allow_fragments(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, option, value) = match v6 {
        false => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        true => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
    };
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of the integer.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Registers a socket, or an epoll instance of sockets, with the runtime for what can be read, errors included. Not for room to write: every datagram
/// that leaves would make the kernel report room, and wake us for nothing.
///
/// # Errors
/// Where the runtime's poller refuses the descriptor.
pub fn watch<T: AsRawFd + Into<OwnedFd>>(socket: Rc<T>) -> io::Result<AsyncFd<Rc<T>>> {
    // SAFETY: what can become an `OwnedFd` keeps its descriptor open until it is dropped, and always names the same one;
    // the `AsyncFd` owns a share of it.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::ERROR).map_err(io::Error::from) }
}

fn read_name(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_storage is large and aligned enough for every sockaddr, and the family says which.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(name.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            // The scope is left out: a link-local peer cannot be named in a Via, so it could not be answered elsewhere.
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, 0)))
        }
        _ => None,
    }
}

/// Writes an address and says how long it is.
fn write_name(name: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: as in `read_name`; every field is written.
            let name = unsafe { &mut *ptr::from_mut(name).cast::<libc::sockaddr_in>() };
            name.sin_family = libc::AF_INET as libc::sa_family_t;
            name.sin_port = address.port().to_be();
            name.sin_addr.s_addr = u32::from(*address.ip()).to_be();
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let name = unsafe { &mut *ptr::from_mut(name).cast::<libc::sockaddr_in6>() };
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = address.port().to_be();
            name.sin6_flowinfo = 0;
            name.sin6_addr.s6_addr = address.ip().octets();
            name.sin6_scope_id = 0;
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

fn read_pktinfo(header: &libc::msghdr) -> Option<IpAddr> {
    if header.msg_controllen == 0 {
        return None;
    }
    // SAFETY: the kernel filled the control buffer that the header points to, up to msg_controllen.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            match ((*at).cmsg_level, (*at).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = libc::CMSG_DATA(at).cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = libc::CMSG_DATA(at).cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                }
                _ => at = libc::CMSG_NXTHDR(header, at),
            }
        }
    }
    None
}

/// Writes the source address of one datagram and says how long the control message is.
fn write_pktinfo(control: &mut Control, source: IpAddr) -> usize {
    // SAFETY: a zeroed header and structs are valid; CONTROL has room for the larger of the two, and its alignment is
    // that of cmsghdr.
    unsafe {
        let header = control.0.as_mut_ptr().cast::<libc::cmsghdr>();
        let (level, kind, len) = match source {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>()),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>()),
        };
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(len as u32) as usize;
        match source {
            IpAddr::V4(ip) => {
                let mut info: libc::in_pktinfo = zeroed();
                info.ipi_spec_dst.s_addr = u32::from(ip).to_be();
                libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().write_unaligned(info);
            }
            IpAddr::V6(ip) => {
                let mut info: libc::in6_pktinfo = zeroed();
                info.ipi6_addr.s6_addr = ip.octets();
                libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().write_unaligned(info);
            }
        }
        libc::CMSG_SPACE(len as u32) as usize
    }
}

#[cfg(test)]
mod tests;
