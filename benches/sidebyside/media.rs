//! Media: streams of datagrams like RTP's, sent through a relay to servers that echo them. One process is all clients and
//! all servers, so that it has one core and the relay the other.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};
use trunkline::net::mmsg::{BATCH, Inbox, Outbox};

/// Streams, each on a port of its own.
pub const STREAMS: u16 = 200;

/// A datagram of 20 ms of G.711: 12 bytes of RTP header, 160 of voice.
pub const SIZE: usize = 172;

/// What each stream sends in a second.
const PACE: u32 = 50;

/// How long echoes are waited for at the end.
const PATIENCE: Duration = Duration::from_millis(500);

/// The word on the command line that makes this program the media.
pub const WORD: &str = "media";

const SLOT: usize = 2048 + 64;

/// The event of the client's socket; servers' sockets are named by their streams.
const CLIENT: u64 = u64::MAX;

struct Media {
    client: Socket,
    /// One for each stream.
    servers: Vec<Socket>,
    /// The relay's port of each stream.
    fronts: Vec<SocketAddr>,
    inbox: Inbox,
    outbox: Outbox,
    memory: Vec<u8>,
    sent: u64,
    echoed: u64,
    /// In the closed loop each echo is followed by the stream's next datagram.
    follow: bool,
}

/// Arguments: the client's address, the relay's address with its first port, milliseconds, datagrams in flight for each
/// stream (0: at its pace), then the servers' addresses, which share the streams evenly.
pub fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [client, front, time, flight, servers @ ..] = arguments else { return Err("too few arguments".into()) };
    let (front, time) = (front.parse::<SocketAddr>()?, Duration::from_millis(time.parse()?));
    let flight: u32 = flight.parse()?;
    let fronts: Vec<_> = (0..STREAMS).map(|n| SocketAddr::new(front.ip(), front.port() + n)).collect();
    let part = usize::from(STREAMS).div_ceil(servers.len());
    let server = |(n, front): (usize, &SocketAddr)| open(SocketAddr::new(servers[n / part].parse()?, front.port()));
    let mut media = Media {
        client: open(SocketAddr::new(client.parse()?, 0))?,
        servers: fronts.iter().enumerate().map(server).collect::<Result<_, _>>()?,
        fronts,
        inbox: Inbox::default(),
        outbox: Outbox::default(),
        memory: vec![0x80; BATCH * SLOT],
        sent: 0,
        echoed: 0,
        follow: flight > 0,
    };
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&media.client, EpollEvent::new(EpollFlags::EPOLLIN, CLIENT))?;
    for (stream, server) in (0u64..).zip(&media.servers) {
        epoll.add(server, EpollEvent::new(EpollFlags::EPOLLIN, stream))?;
    }
    media.drive(&epoll, time, flight)?;
    println!("{{\"sent\":{},\"echoed\":{}}}", media.sent, media.echoed);
    Ok(())
}

fn open(address: SocketAddr) -> Result<Socket, Box<dyn Error>> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.bind(&address.into()).map_err(|error| format!("{address}: {error}"))?;
    Ok(socket)
}

impl Media {
    fn drive(&mut self, epoll: &Epoll, time: Duration, flight: u32) -> Result<(), Box<dyn Error>> {
        for _ in 0..flight {
            (0..usize::from(STREAMS)).for_each(|stream| self.send(stream));
        }
        self.flush();
        let (start, gap) = (Instant::now(), Duration::from_secs(1) / PACE / u32::from(STREAMS));
        let mut events = vec![EpollEvent::empty(); 256];
        loop {
            let passed = start.elapsed();
            if passed >= time {
                self.follow = false;
                if self.sent == self.echoed || passed >= time + PATIENCE {
                    return Ok(());
                }
            } else if flight == 0 {
                // Streams are spread evenly, as those of strangers are.
                while gap * (self.sent as u32) <= passed {
                    self.send(self.sent as usize % usize::from(STREAMS));
                    self.flush();
                }
            }
            let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
            for event in &events[..count] {
                match event.data() {
                    CLIENT => self.hear(),
                    stream => self.echo(stream as usize),
                }
            }
        }
    }

    /// Queues the next datagram of a stream.
    fn send(&mut self, stream: usize) {
        if self.outbox.len() == BATCH {
            self.flush();
        }
        self.outbox.push(0..SIZE, self.fronts[stream], None);
        self.sent += 1;
    }

    fn flush(&mut self) {
        send_all(&mut self.outbox, &self.client, &self.memory);
    }

    /// Counts echoes.
    fn hear(&mut self) {
        let count = self.receive(None);
        let mut streams = HashMap::new();
        for n in 0..count {
            let Some(arrival) = self.inbox.arrival(n).filter(|arrival| arrival.len == SIZE) else { continue };
            *streams.entry(arrival.remote.port() - self.fronts[0].port()).or_insert(0) += 1;
            self.echoed += 1;
        }
        if self.follow {
            streams.into_iter().for_each(|(stream, count)| (0..count).for_each(|_| self.send(usize::from(stream))));
            self.flush();
        }
    }

    /// Sends back what a server got.
    fn echo(&mut self, stream: usize) {
        let count = self.receive(Some(stream));
        for n in 0..count {
            if let Some(arrival) = self.inbox.arrival(n) {
                self.outbox.push(n * SLOT..n * SLOT + arrival.len, arrival.remote, None);
            }
        }
        send_all(&mut self.outbox, &self.servers[stream], &self.memory);
    }

    fn receive(&mut self, server: Option<usize>) -> usize {
        let (socket, most) = server.map_or((&self.client, BATCH), |stream| (&self.servers[stream], 4));
        let slot = |n: usize| n * SLOT..(n + 1) * SLOT;
        self.inbox.receive_some(socket.as_fd(), false, &mut self.memory, most, slot).unwrap_or(0)
    }
}

fn send_all(outbox: &mut Outbox, socket: &Socket, memory: &[u8]) {
    let mut at = 0;
    while at < outbox.len() {
        at += outbox.send(socket.as_fd(), memory, at).unwrap_or(1);
    }
    outbox.clear();
}
