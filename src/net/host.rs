//! What only this host can tell: its addresses, and which of them it uses towards whom.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Addresses, Config};
use crate::state::binds::Host;

/// Addresses of documentation (RFC 5737, RFC 3849): nobody is there, but the routing table has an answer.
const ANYBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const ANYBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Asks the host, for every server of a configuration. `node` tells this process from another.
pub fn ask(config: &Config, node: u16) -> Host {
    let servers = config.backends.iter().flat_map(|backend| &backend.servers).map(|server| server.address.ip());
    Host {
        interfaces: interfaces(),
        routes: servers.filter_map(|server| Some((server, towards(server)?))).collect(),
        outside: Addresses { v4: towards(ANYBODY_V4), v6: towards(ANYBODY_V6) },
        node,
    }
}

/// The addresses of this machine.
pub fn interfaces() -> Vec<IpAddr> {
    let Ok(addresses) = getifaddrs() else { return Vec::new() };
    let ip = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    addresses.filter_map(ip).collect()
}

/// The source address of the host's route to somebody. Connecting a datagram socket sends nothing.
fn towards(ip: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(ip, crate::sip::DEFAULT_PORT)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Whether an address is one of this node's now: a VIP may be elsewhere.
pub fn has(ip: IpAddr) -> bool {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => ip.is_unspecified() || ip.is_loopback() || !lends_addresses(ip) || interfaces().contains(&ip),
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

/// Whether the host lets anybody have an address that is not its own (`ip_nonlocal_bind`).
fn lends_addresses(like: IpAddr) -> bool {
    let family = if like.is_ipv4() { "ipv4" } else { "ipv6" };
    let set = std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    set.is_ok_and(|set| set.trim() != "0")
}

/// How many files this process may have open at most.
pub fn most_open_files() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(_, hard)| hard as usize)
}

/// How many ports the kernel has for whoever asks for any; nothing where it does not say.
pub fn ephemeral_ports() -> Option<usize> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_whitespace().map_while(|end| end.parse::<usize>().ok());
    let (first, last) = (ends.next()?, ends.next()?);
    Some((last + 1).saturating_sub(first))
}

/// Whether this says that this process, or the host, has no open file left: nothing about the other end.
pub fn has_no_file(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Whether a datagram was refused for this node's own sake: its source is an address that has left (a VIP), or a network that
/// it is in is gone. Nobody that it was for is to blame.
pub fn lost_its_place(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EINVAL | Errno::EADDRNOTAVAIL | Errno::ENETDOWN | Errno::ENETUNREACH))
}

/// Whether there was no port or no memory left on this host to ask somebody from: nothing about the other end.
pub fn had_no_port(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL)) || had_no_room(error)
}

/// Whether the kernel lost a datagram on its way out: memory was short, or a queue was full, of which it tells only those who ask
/// for ICMP errors (`udp_send_skb`).
pub fn had_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOBUFS | Errno::ENOMEM))
}

/// Lets this process have so many files open, and so many more where the host allows them. Says how many more.
///
/// # Errors
/// Where the host does not allow those that are needed.
pub fn allow_open_files(needed: usize, more: usize) -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let allow = |files: u64| {
        let files = files.max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, files, hard.max(files)).map(|()| files)
    };
    // Who may not raise the hard limit has what it is.
    let files = allow((needed + more) as u64).or_else(|_| allow(hard.max(needed as u64)))?;
    Ok((files as usize - needed).min(more))
}
