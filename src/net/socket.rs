//! Opening the sockets of a bind, with every option that SIP over UDP needs.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_B, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MEM,
    BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_W, BPF_X, EMFILE, SKF_AD_OFF, SKF_AD_RANDOM, sock_filter,
    sock_fprog,
};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::inherit::Inherited;
use super::mmsg;
use crate::sip::Transport;
use crate::state::binds::{Bind, RelayBind};

/// What is asked for as receive buffer. At full rate it holds some milliseconds: long enough for a worker that was
/// descheduled once.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;
const SEND_BUFFER: usize = 4 * 1024 * 1024;
/// The same for sockets that carry one stream: several hundred datagrams of voice, seconds of it. There are thousands of
/// these sockets, and what they all may hold is memory.
const FLOW_BUFFER: usize = 512 * 1024;

/// How long the other end of a connection may leave unheard what it is sent. Without it the kernel would try for a quarter of
/// an hour (`tcp_retries2`, RFC 5482), and nobody were told. Longer than we wait for a slow reader, which has a name.
const LONGEST_UNHEARD: Duration = Duration::from_secs(30);

/// When nothing was heard of a server for so long it is asked whether it is still there, and when it is asked again. The
/// kernel gives up as soon as nothing was heard for [`LONGEST_UNHEARD`] and one question is open: three fit in before.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(5);

/// A socket that could not be opened.
#[derive(Debug)]
pub struct OpenError {
    transport: Transport,
    address: SocketAddr,
    step: &'static str,
    error: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, address, step, error } = self;
        write!(f, "{}://{address}: {step}: {error}", transport.name())?;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                let kind = if *transport == Transport::Udp { 'u' } else { 't' };
                write!(f, "; another process listens there: `ss -lnp{kind} 'sport = :{}'` tells which", address.port())
            }
            io::ErrorKind::PermissionDenied => write!(f, "; ports below 1024 need CAP_NET_BIND_SERVICE"),
            // std has no stable name for it.
            _ if error.raw_os_error() == Some(EMFILE) => write!(f, "; raise LimitNOFILE= in the unit"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for OpenError {}

/// The sockets of one bind, one for each worker.
#[derive(Debug)]
pub struct Opened {
    pub sockets: Vec<Socket>,
    /// What the kernel granted as receive buffer, bytes; it counts its own overhead in it.
    pub receive_buffer: usize,
}

/// Opens one socket for each worker on the address of a bind. `own` are binds that this process has sockets on: a
/// wildcard and an address of one port may stand side by side. `inherited` are those of the process before, which are taken
/// first.
///
/// # Errors
/// Where an option or the address is refused, or another process has the address.
pub fn open(bind: &Bind, workers: usize, own: &[Bind], inherited: &mut Inherited) -> Result<Opened, OpenError> {
    let at = |step| move |error: io::Error| OpenError { transport: bind.transport, address: bind.address, step, error };
    let is_stream = |bind: &Bind| bind.transport != Transport::Udp;
    let overlaps = |other: &Bind| {
        let same_kind = is_stream(bind) == is_stream(other);
        let (one, other) = (bind.address, other.address);
        same_kind && one.port() == other.port() && one.is_ipv4() == other.is_ipv4()
    };
    let mut inherited = inherited.of(bind.transport, bind.address, workers).into_iter();
    // SO_REUSEPORT would let a second Trunkline take half of the calls in silence; a socket without it finds the first. Who
    // inherits has the address.
    if inherited.len() == 0 && !own.iter().any(|other| overlaps(other) && (bind.is_wildcard() || other.is_wildcard())) {
        let alone = if is_stream(bind) { bare_stream(bind.address) } else { bare(bind.address) };
        alone.and_then(|socket| socket.bind(&bind.address.into())).map_err(at("bind"))?;
    }
    let one = if is_stream(bind) { one_listener } else { one };
    let sockets: Vec<_> = (0..workers).map(|_| one(bind, inherited.next())).collect::<Result<_, _>>()?;
    if workers > 1 && !is_stream(bind) {
        steer(&sockets[0], workers).map_err(at("SO_ATTACH_REUSEPORT_CBPF"))?;
    }
    let receive_buffer = sockets[0].recv_buffer_size().map_err(at("SO_RCVBUF"))?;
    Ok(Opened { sockets, receive_buffer })
}

/// A socket that may be bound to an address that this node does not have (yet): a VIP on the standby.
fn bare(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    free_bind(&socket, address)?;
    Ok(socket)
}

/// Connections that wait to be let in, on each worker. The kernel's net.core.somaxconn is a limit of its own.
const BACKLOG: i32 = 4096;

/// The same for streams. Who waits for the end of an old connection's TIME_WAIT does not keep the address from us.
fn bare_stream(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    free_bind(&socket, address)?;
    Ok(socket)
}

/// A listening socket. The kernel's hash gives each connection to one worker.
fn one_listener(bind: &Bind, inherited: Option<Socket>) -> Result<Socket, OpenError> {
    let at = |step| move |error: io::Error| OpenError { transport: bind.transport, address: bind.address, step, error };
    let is_bound = inherited.is_some();
    let socket = inherited.map_or_else(|| bare_stream(bind.address), Ok).map_err(at("socket"))?;
    socket.set_nonblocking(true).map_err(at("O_NONBLOCK"))?;
    socket.set_reuse_port(true).map_err(at("SO_REUSEPORT"))?;
    if is_bound || bind.dscp.is_some() {
        mark(&socket, bind).map_err(at("IP_TOS"))?;
    }
    // Those that are let in inherit it.
    socket.set_tcp_user_timeout(Some(LONGEST_UNHEARD)).map_err(at("TCP_USER_TIMEOUT"))?;
    if !is_bound {
        socket.bind(&bind.address.into()).map_err(at("bind"))?;
    }
    socket.listen(BACKLOG).map_err(at("listen"))?;
    Ok(socket)
}

/// Prepares a socket for a connection that we open: from the address that the other end knows us by, and any port. On a
/// node that does not have the address (yet) the kernel refuses to connect.
///
/// # Errors
/// Where an option or the address is refused.
pub fn prepare_stream(socket: &impl AsFd, local: SocketAddr, dscp: Option<u8>) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if !local.ip().is_unspecified() {
        free_bind(&socket, local)?;
        // Without it the port would be chosen before it is known whom it is for, and 28,000 connections were the end.
        setsockopt(&socket.as_fd(), sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(local.ip(), 0).into())?;
    }
    if let Some(dscp) = dscp {
        mark_as(&socket, local, dscp)?;
    }
    socket.set_tcp_user_timeout(Some(LONGEST_UNHEARD))
}

/// Who reads slowly from a connection of a relay is waited for, as long as that may be silent: the kernel would end it when a
/// window has been shut for [`LONGEST_UNHEARD`], though each of its probes is answered (tcp(7)).
///
/// # Errors
/// Where the option is refused.
pub fn wait_for_reader(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(None)
}

/// Whoever is behind a server's connection of SIP sends nothing while nobody calls: the kernel asks whether he is there.
///
/// # Errors
/// Where an option is refused.
pub fn keep_asking(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_AGAIN).with_retries(3);
    socket.set_tcp_keepalive(&probes)
}

fn free_bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true),
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)
        }
    }
}

fn one(bind: &Bind, inherited: Option<Socket>) -> Result<Socket, OpenError> {
    let at = |step| move |error: io::Error| OpenError { transport: bind.transport, address: bind.address, step, error };
    let is_bound = inherited.is_some();
    let socket = prepared(inherited, bind.address, bind.dscp, RECEIVE_BUFFER)?;
    socket.set_reuse_port(true).map_err(at("SO_REUSEPORT"))?;
    socket.set_send_buffer_size(SEND_BUFFER).map_err(at("SO_SNDBUF"))?;
    match bind.address {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    }
    .map_err(io::Error::from)
    .map_err(at("IP_RECVERR"))?;
    if !is_bound {
        socket.bind(&bind.address.into()).map_err(at("bind"))?;
    }
    Ok(socket)
}

/// What every socket for messages has: a buffer, fragments, a traffic class, and on a wildcard the address a datagram
/// came to. One that another version of us opened gets what this one wants.
fn prepared(
    inherited: Option<Socket>,
    address: SocketAddr,
    dscp: Option<u8>,
    receive_buffer: usize,
) -> Result<Socket, OpenError> {
    let at = |step| move |error: io::Error| OpenError { transport: Transport::Udp, address, step, error };
    let is_bound = inherited.is_some();
    let socket = inherited.map_or_else(|| bare(address), Ok).map_err(at("socket"))?;
    socket.set_nonblocking(true).map_err(at("O_NONBLOCK"))?;
    if setsockopt(&socket, sockopt::RcvBufForce, &receive_buffer).is_err() {
        // Without CAP_NET_ADMIN net.core.rmem_max is the limit.
        socket.set_recv_buffer_size(receive_buffer).map_err(at("SO_RCVBUF"))?;
    }
    mmsg::allow_fragments(socket.as_fd(), address.is_ipv6()).map_err(at("IP_MTU_DISCOVER"))?;
    let is_wildcard = address.ip().is_unspecified();
    match address {
        SocketAddr::V4(_) => {
            if is_wildcard {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
                    .map_err(io::Error::from)
                    .map_err(at("IP_PKTINFO"))?;
            }
        }
        SocketAddr::V6(_) => {
            if is_wildcard {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
                    .map_err(io::Error::from)
                    .map_err(at("IPV6_RECVPKTINFO"))?;
            }
        }
    }
    if is_bound || dscp.is_some() {
        mark_as(&socket, address, dscp.unwrap_or_default()).map_err(at("IP_TOS"))?;
    }
    Ok(socket)
}

/// One socket of a relay and the address that it is bound to.
#[derive(Debug)]
pub struct Port {
    pub socket: Socket,
    pub bound: SocketAddr,
    /// What the kernel had dropped of it when it was asked last.
    pub drops: u32,
}

/// Opens the sockets of a relay, for each worker a list. A single port has a socket on every worker, and the kernel's
/// hash gives each client to one of them. Of a range each port has one socket: a thousand ports on eight workers would
/// else be eight thousand. Two neighbours, RTP and its RTCP, are on one worker.
///
/// IP_RECVERR is off: without it an ICMP error that a client causes is nobody's.
///
/// `is_open` says which addresses have their sockets already; `inherited` are those of the process before.
///
/// # Errors
/// Where an option or an address is refused, or another process has it.
pub fn open_relay(
    relay: &RelayBind,
    workers: usize,
    is_open: impl Fn(SocketAddr) -> bool,
    inherited: &mut Inherited,
) -> Result<Vec<Vec<Port>>, OpenError> {
    let mut all: Vec<Vec<Port>> = (0..workers).map(|_| Vec::new()).collect();
    let shared = relay.ports.count() == 1;
    for bound in relay.ports.iter().map(|port| SocketAddr::new(relay.ip, port)).filter(|bound| !is_open(*bound)) {
        let at = |step| move |error: io::Error| OpenError { transport: Transport::Udp, address: bound, step, error };
        let mut inherited = inherited.of(Transport::Udp, bound, if shared { workers } else { 1 }).into_iter();
        if shared && inherited.len() == 0 {
            bare(bound).and_then(|socket| socket.bind(&bound.into())).map_err(at("bind"))?;
        }
        let turn = usize::from(bound.port() / 2) % workers;
        for (_, ports) in all.iter_mut().enumerate().filter(|(worker, _)| shared || *worker == turn) {
            let (buffer, inherited) = (if shared { RECEIVE_BUFFER } else { FLOW_BUFFER }, inherited.next());
            let is_bound = inherited.is_some();
            let socket = prepared(inherited, bound, relay.dscp, buffer)?;
            socket.set_reuse_port(shared).map_err(at("SO_REUSEPORT"))?;
            match is_bound {
                true => forget_errors(&socket, bound).map_err(at("IP_RECVERR"))?,
                false => socket.bind(&bound.into()).map_err(at("bind"))?,
            }
            if is_bound && shared {
                // A proxy had the group, perhaps: its responses went by transaction, a relay's flows must not.
                spread(&socket, vec![BY_FLOW]).map_err(at("SO_ATTACH_REUSEPORT_CBPF"))?;
            }
            ports.push(Port { socket, bound, drops: 0 });
        }
    }
    Ok(all)
}

/// A proxy had this socket, perhaps: errors in its queue, which a relay never empties, would fill its receive buffer for good.
fn forget_errors(socket: &Socket, bound: SocketAddr) -> io::Result<()> {
    match bound {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &false),
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &false),
    }?;
    while mmsg::take_error(socket.as_fd()).is_some() {}
    Ok(())
}

/// Opens the socket of a relay's flow: towards one server, from `inside` or what the host's route says, from a port of
/// its own. Connected: the kernel lets nobody else's datagrams in.
///
/// # Errors
/// Where no open file or port is left, or there is no route.
pub fn open_flow(inside: Option<IpAddr>, server: SocketAddr, dscp: Option<u8>) -> io::Result<Socket> {
    let socket = prepared(None, server, dscp, FLOW_BUFFER).map_err(|refused| refused.error)?;
    if let Some(inside) = inside {
        socket.bind(&SocketAddr::new(inside, 0).into())?;
    }
    socket.connect(&server.into())?;
    Ok(socket)
}

/// Lets a socket hear nobody any more; what is queued stays, and it can send as before. Datagrams that were queued between
/// the last look and the closing would be lost; now they find a wildcard's socket, or the sender hears that nobody is
/// there.
///
/// # Errors
/// Those of connect(2).
pub fn shut(socket: &Socket, bind: &Bind) -> io::Result<()> {
    if bind.transport != Transport::Udp {
        // Who is in the queue of a listener finds nobody when it is closed; there is no way to empty it first.
        return Ok(());
    }
    /// A connected socket hears its peer alone, and from the discard port nothing is sent (RFC 863).
    const DISCARD: u16 = 9;
    let nobody: SocketAddr = match bind.address {
        SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, DISCARD).into(),
        SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, DISCARD).into(),
    };
    socket.connect(&nobody.into())
}

/// Gives what leaves by a socket the traffic class of its bind.
///
/// # Errors
/// Those of setsockopt(2).
pub fn mark(socket: &Socket, bind: &Bind) -> io::Result<()> {
    mark_as(socket, bind.address, bind.dscp.unwrap_or_default())
}

fn mark_as(socket: &Socket, address: SocketAddr, dscp: u8) -> io::Result<()> {
    let class = u32::from(dscp) << 2;
    match address {
        SocketAddr::V4(_) => socket.set_tos_v4(class),
        SocketAddr::V6(_) => socket.set_tclass_v6(class),
    }
}

/// Spreads responses over the group, those of one transaction to one worker: else a 200 could overtake its 180. All
/// responses of a server share one 4-tuple, so the kernel's flow hash would pile them on one worker. Requests keep the
/// flow hash: a client's stay in order.
fn steer(socket: &Socket, workers: usize) -> io::Result<()> {
    spread(socket, steering(workers as u32))
}

/// Lets a program choose among the sockets of a group, in place of the one before.
fn spread(socket: &Socket, mut program: Vec<sock_filter>) -> io::Result<()> {
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    setsockopt(socket, sockopt::AttachReusePortCbpf, &program).map_err(io::Error::from)
}

/// No socket has this number, and for that the kernel's answer is its flow hash.
const BY_FLOW: sock_filter = sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: u32::MAX };

/// Where the start line of a response may end: from that without a reason phrase to longer than any that is usual.
const LINE_ENDS: RangeInclusive<u32> = 13..=64;

/// Where words are taken from in the line behind the start line, our Via: with any sent-by at least one of them is in
/// what the branch has of the transaction, and none in the time of sending, which a CANCEL does not share.
const WORDS: [u32; 3] = [64, 76, 88];

/// The program of [`steer`]. It sees the payload from its first byte on; there are no loops. Finding the end of the start
/// line costs 10 to 30 ns a response, by the length of the reason phrase, where sending one costs the kernel 600.
fn steering(workers: u32) -> Vec<sock_filter> {
    const RET_A: u32 = 0x10;
    let op = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, u32::from_be_bytes(*b"SIP/")),
        BY_FLOW,
    ];
    let otherwise = [
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, (SKF_AD_OFF + SKF_AD_RANDOM) as u32),
        op(BPF_ALU | BPF_MOD | BPF_K, 0, 0, workers),
        op(BPF_RET | RET_A, 0, 0, 0),
    ];
    for end in LINE_ENDS {
        let tests_to_come = LINE_ENDS.end() - end;
        program.extend([
            op(BPF_LD | BPF_B | BPF_ABS, 0, 0, end),
            op(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, u32::from(b'\n')),
            op(BPF_LDX | BPF_W | BPF_IMM, 0, 0, end + 1),
            op(BPF_JMP | BPF_JA, 0, 0, tests_to_come * 4 + otherwise.len() as u32),
        ]);
    }
    program.extend(otherwise);
    // The next line begins at X, and X is also what words are added with: they wait in memory.
    let word = |at| op(BPF_LD | BPF_W | BPF_IND, 0, 0, at);
    program.extend([word(WORDS[0]), op(BPF_ST, 0, 0, 0), word(WORDS[1]), op(BPF_ST, 0, 0, 1), word(WORDS[2])]);
    for kept in [0, 1] {
        program.extend([op(BPF_LDX | BPF_MEM, 0, 0, kept), op(BPF_ALU | BPF_ADD | BPF_X, 0, 0, 0)]);
    }
    program.extend([
        // Letters differ in their low bits: a large odd factor brings those to where they decide.
        op(BPF_ALU | BPF_MUL | BPF_K, 0, 0, 0x9e37_79b1),
        op(BPF_ALU | BPF_RSH | BPF_K, 0, 0, 16),
        op(BPF_ALU | BPF_MOD | BPF_K, 0, 0, workers),
        op(BPF_RET | RET_A, 0, 0, 0),
    ]);
    program
}
