//! The bare forwarder: what the kernel's socket path costs where nothing is read of a message.
//!
//! Two sockets, as Trunkline has them: one that the client sends to, one that the servers know. A batch that comes in by
//! one goes out by the other; requests go to the servers in turn, answers to the client that sent last. It stands for
//! the least that a forwarder in user space can cost, and could serve nobody but one client.

use std::error::Error;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use trunkline::load::socket::Port;
use trunkline::net::mmsg::{BATCH, Inbox, Outbox};

/// The room for one datagram: more than any message of the measurement, and no part of a page, so that the first lines
/// of a batch do not all fall into one set of the cache.
const SLOT: usize = 2048 + 64;

/// Batches from one socket before the other has its turn.
const BATCHES_IN_A_ROW: usize = 8;

/// The word on the command line that makes this program the forwarder.
pub const WORD: &str = "forward";

struct Forwarder {
    inbox: Inbox,
    outbox: Outbox,
    memory: Vec<u8>,
}

/// Forwards until it is killed. Arguments: the address for clients, the address for servers, the servers.
pub fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let addresses: Vec<SocketAddr> = arguments.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [outside, inside, servers @ ..] = addresses.as_slice() else { return Err("too few addresses".into()) };
    let (outside, inside) = (Port::open(*outside)?, Port::open(*inside)?);
    let mut forwarder = Forwarder { inbox: Inbox::default(), outbox: Outbox::default(), memory: vec![0; BATCH * SLOT] };
    let mut client = None;
    loop {
        let mut fds = [&outside, &inside].map(|port| PollFd::new(port.socket().as_fd(), PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::NONE)?;
        let [requests, answers] = fds.map(|fd| fd.any().unwrap_or(false));
        if requests {
            client = forwarder.batch(&outside, &inside, |n| Some(servers[n % servers.len()])).or(client);
        }
        if answers {
            forwarder.batch(&inside, &outside, |_| client);
        }
    }
}

impl Forwarder {
    /// Takes what is queued on one socket, batch by batch until it is empty, and sends it by the other; says where the
    /// last came from.
    fn batch(&mut self, from: &Port, by: &Port, to: impl Fn(usize) -> Option<SocketAddr>) -> Option<SocketAddr> {
        let Self { inbox, outbox, memory } = self;
        let mut last = None;
        for _ in 0..BATCHES_IN_A_ROW {
            let slot = |n: usize| n * SLOT..(n + 1) * SLOT;
            let count = inbox.receive(from.socket().as_fd(), false, memory, slot).unwrap_or(0);
            outbox.clear();
            for n in 0..count {
                let Some(arrival) = inbox.arrival(n) else { continue };
                last = Some(arrival.remote);
                if let Some(to) = to(n) {
                    outbox.push(n * SLOT..n * SLOT + arrival.len, to, None);
                }
            }
            let mut at = 0;
            while at < outbox.len() {
                at += outbox.send(by.socket().as_fd(), memory, at).unwrap_or(1);
            }
            if count < BATCH {
                break;
            }
        }
        last
    }
}
