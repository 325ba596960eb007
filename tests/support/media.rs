//! Media servers and clients with real sockets: each port of a server echoes, and writes down who it heard.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline, and media is sent by the clock")]

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

/// A first port such that so many from it on are free on each of these addresses.
pub fn free_range(ips: &[&str], count: u16) -> u16 {
    // Below the ports that the kernel gives away.
    let begins = (10_000..32_000 - count).step_by(usize::from(count));
    let free = |first: &u16| {
        let ports = *first..*first + count;
        ips.iter().all(|ip| ports.clone().all(|port| UdpSocket::bind((*ip, port)).is_ok()))
    };
    begins.into_iter().find(free).expect("a range of free ports")
}

/// A socket with room for a burst.
pub fn open(address: impl Into<SocketAddr>) -> UdpSocket {
    let socket = UdpSocket::bind(address.into()).unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(1 << 20).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Passes on every datagram that waits on a socket.
pub fn drain(socket: &UdpSocket, mut took: impl FnMut(&[u8], SocketAddr)) {
    let mut datagram = [0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut datagram) {
        took(&datagram[..length], from);
    }
}

/// Waits until one of the sockets can be read, at most for `longest`; says which can.
pub fn wait_readable(sockets: &[UdpSocket], longest: Duration) -> Vec<usize> {
    let mut fds: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
    poll(&mut fds, longest.as_millis() as u16).unwrap();
    (0..fds.len()).filter(|at| fds[*at].any() == Some(true)).collect()
}

/// What a port of a media server heard: how many datagrams from whom.
pub type Heard = Vec<HashMap<SocketAddr, u64>>;

/// A media server: a thread, and a socket for each of its ports. An echo has the server's name in front.
pub struct MediaServer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Heard>,
}

impl MediaServer {
    pub fn start(name: u8, addresses: Vec<SocketAddr>) -> Self {
        let sockets: Vec<_> = addresses.into_iter().map(open).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut heard: Heard = vec![HashMap::new(); sockets.len()];
            while !stopped.load(Ordering::Relaxed) {
                for at in wait_readable(&sockets, Duration::from_millis(20)) {
                    drain(&sockets[at], |datagram, from| {
                        *heard[at].entry(from).or_default() += 1;
                        let echo = [&[name], datagram].concat();
                        let _ = sockets[at].send_to(&echo, from);
                    });
                }
            }
            heard
        });
        Self { stop, thread }
    }

    /// Ends it, and says what each port heard.
    pub fn stop(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Calls `send` at a fixed pace and `receive` in between.
pub fn at_pace(times: u32, every: Duration, mut send: impl FnMut(u32), mut receive: impl FnMut(Duration)) {
    let start = Instant::now();
    for n in 0..times {
        while let Some(left) = (start + every * n).checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            receive(left);
        }
        send(n);
    }
}
