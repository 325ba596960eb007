//! As many requests as possible from one core: OPTIONS that a balancer forwards, and servers that echo them.
//!
//! A request is rendered once for each place in a batch and patched in place; an answer is found by its branch; nothing
//! is allocated per message. Clients and [`Sink`]s take turns in one thread, so that one core carries both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use ipnet::IpNet;
use memchr::memmem::Finder;

use super::compose::{Local, Request};
use super::flood_ledger::{Pending, Tally};
use super::ids::{BRANCH_MARK, Ids, hex};
use super::sink::Sink;
use super::socket::{Port, wait};
use crate::net::mmsg::{BATCH, Inbox, Outbox};
use crate::net::udp::clock;
use crate::sip::{Method, Transport};
use crate::state::Time;

pub use super::flood_ledger::FloodReport;

/// How to flood.
#[derive(Clone, Debug)]
pub struct FloodOptions {
    /// Addresses of the echo servers in the same thread; port 0 takes a free one.
    pub sinks: Vec<SocketAddr>,
    /// Client sockets, each on a port of its own.
    pub sockets: usize,
    /// Addresses that the client sockets are bound to, in turn.
    pub clients: IpNet,
    /// Requests per second, their times fixed in advance; `None` for a closed loop.
    pub rate: Option<f64>,
    /// In a closed loop: requests without answer at any time.
    pub outstanding: u32,
    /// The size of a request, bytes, so far as its headers allow.
    pub size: usize,
    /// How long to send.
    pub duration: Duration,
}

impl Default for FloodOptions {
    fn default() -> Self {
        Self {
            sinks: Vec::new(),
            sockets: 16,
            clients: IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            rate: None,
            outstanding: 256,
            size: 600,
            duration: Duration::from_secs(5),
        }
    }
}

/// The most sockets of a flood, clients and sinks each.
pub const MAX_SOCKETS: usize = 256;

/// The sizes of a request: below the least its headers do not fit, above the most its path may not carry it whole.
pub const SIZES: Range<usize> = 450..1400;

/// The room for one arrival: a request and what proxies add to it.
pub(super) const SLOT: usize = 4096;

/// How long answers are waited for after the last request.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest wait: so fast is an order to stop obeyed.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// A flood with open sinks, ready to run.
pub struct Flood {
    options: FloodOptions,
    sinks: Vec<Sink>,
}

impl Flood {
    /// Checks the options and opens the sinks.
    ///
    /// # Errors
    /// What is wrong with the options, or what the system refused.
    pub fn open(options: FloodOptions) -> Result<Self, String> {
        let FloodOptions { sockets, outstanding, size, rate, .. } = options;
        if !(1..=MAX_SOCKETS).contains(&sockets) || options.sinks.len() > MAX_SOCKETS {
            return Err(format!("{sockets} sockets, {} sinks: both go up to {MAX_SOCKETS}", options.sinks.len()));
        }
        if !SIZES.contains(&size) {
            return Err(format!("requests of {size} bytes: write a size from {} to {}", SIZES.start, SIZES.end - 1));
        }
        if !(1..=super::flood_ledger::OUTSTANDING).contains(&outstanding) {
            let most = super::flood_ledger::OUTSTANDING;
            return Err(format!("{outstanding} outstanding requests: write a number from 1 to {most}"));
        }
        if rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e7)) {
            return Err("the rate must be above 0 and at most 10000000 requests per second".into());
        }
        let open = |address: &SocketAddr| Port::open(*address).map(Sink::new).map_err(|e| format!("sink: {e}"));
        let sinks = options.sinks.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { options, sinks })
    }

    /// Where the sinks listen, ports resolved.
    pub fn sinks(&self) -> Vec<SocketAddr> {
        self.sinks.iter().map(|sink| sink.port.address).collect()
    }

    /// Floods `to`, or only echoes where there is no such address, until the time is over or `stop` says so.
    ///
    /// # Errors
    /// Where a client's socket cannot be opened.
    pub fn run(self, to: Option<SocketAddr>, stop: &AtomicBool) -> Result<FloodReport, String> {
        let Self { options, sinks } = self;
        let ids = Ids::new()?;
        let addresses: Vec<IpAddr> = options.clients.hosts().take(options.sockets).collect();
        let lane = |n: usize, to| {
            let port = Port::open(SocketAddr::new(addresses[n % addresses.len()], 0))?;
            Ok::<_, String>(Lane::new(port, to, options.size))
        };
        let lanes = match to {
            Some(to) => (0..options.sockets).map(|n| lane(n, to)).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let mut run = Run {
            lanes,
            sinks,
            next_lane: 0,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            memory: vec![0; BATCH * SLOT],
            finder: Finder::new(BRANCH_MARK).into_owned(),
            pending: Pending::new(ids.run()),
            tally: Tally::default(),
            begin: clock(),
            options,
        };
        run.serve(stop);
        Ok(run.report())
    }
}

/// One client socket and its requests, rendered once for every place in a batch.
struct Lane {
    port: Port,
    to: SocketAddr,
    requests: Vec<u8>,
    /// The length of one request.
    len: usize,
    /// Where a request carries its number: branch, tag and Call-ID.
    marks: [usize; 3],
}

/// The number that a request is rendered with, to be found and replaced; not a text that a request has elsewhere.
const PLACEHOLDER: u64 = 0xfeed_face_cafe_d00d;

impl Lane {
    fn new(port: Port, to: SocketAddr, size: usize) -> Self {
        let request = render(port.address, to, size);
        let mark = format!("{PLACEHOLDER:016x}");
        let mut found = memchr::memmem::find_iter(&request, mark.as_bytes());
        let marks = std::array::from_fn(|_| found.next().expect("a request carries its number three times"));
        Self { port, to, len: request.len(), requests: request.repeat(BATCH), marks }
    }

    /// Writes a number into the n-th request.
    fn patch(&mut self, n: usize, id: u64) -> Range<usize> {
        let start = n * self.len;
        let text = super::dialog::tag_text(id);
        for mark in self.marks {
            self.requests[start + mark..start + mark + text.len()].copy_from_slice(&text);
        }
        start..start + self.len
    }
}

/// One request, padded to its size. The Request-URI has a user part: it is for a server, not for the balancer.
fn render(local: SocketAddr, to: SocketAddr, size: usize) -> Vec<u8> {
    let write = |pad: usize| {
        let pad = format!("Accept: application/sdp\r\nX-Pad: {}\r\n", "x".repeat(pad));
        let (own, service) = (format!("<sip:flood@{local}>"), format!("sip:service@{to}"));
        Request {
            method: Method::Options,
            uri: service.as_bytes(),
            branch: PLACEHOLDER,
            routes: &[],
            from: format!("{own};tag={PLACEHOLDER:016x}").as_bytes(),
            to: format!("<{service}>").as_bytes(),
            call_id: format!("{PLACEHOLDER:016x}@{}", local.ip()).as_bytes(),
            cseq: 1,
            extra: pad.as_bytes(),
            body: &[],
        }
        .bytes(&Local {
            transport: Transport::Udp,
            sent_by: local,
            rport: false,
            user: "flood".into(),
            server: None,
        })
    };
    let bare = write(0).len();
    write(size.saturating_sub(bare))
}

/// What the thread owns.
struct Run {
    options: FloodOptions,
    lanes: Vec<Lane>,
    sinks: Vec<Sink>,
    /// Whose turn it is to send.
    next_lane: usize,
    inbox: Inbox,
    outbox: Outbox,
    memory: Vec<u8>,
    finder: Finder<'static>,
    pending: Pending,
    tally: Tally,
    begin: Time,
}

impl Run {
    fn serve(&mut self, stop: &AtomicBool) {
        let mut ready = Vec::new();
        self.begin = clock();
        let mut end = self.begin + self.options.duration;
        loop {
            let now = clock();
            if stop.load(Ordering::Relaxed) {
                end = end.min(now);
            }
            self.pending.write_off(now);
            if now < end {
                self.send_due(now);
            } else if self.is_complete() || now >= end + PATIENCE {
                break;
            }
            let ports = self.lanes.iter().map(|lane| &lane.port).chain(self.sinks.iter().map(|sink| &sink.port));
            let pause = if now < end { self.pause(now).min(end.since(now)) } else { LONGEST_WAIT };
            wait(ports.map(|port| Some(port.socket().as_fd())), pause, &mut ready);
            for &at in &ready {
                match at.checked_sub(self.lanes.len()) {
                    None => self.collect(at),
                    Some(sink) => self.sinks[sink].echo(&mut self.inbox, &mut self.outbox, &mut self.memory),
                }
            }
        }
        self.tally.elapsed = end.min(clock()).since(self.begin);
    }

    /// Whether nothing is missing any more.
    fn is_complete(&self) -> bool {
        let Tally { answered, refused, not_sent, .. } = &self.tally;
        self.pending.begun() == answered + refused.values().sum::<u64>() + not_sent
    }

    /// How many requests may leave now.
    fn room(&self, now: Time) -> u64 {
        if self.lanes.is_empty() {
            return 0;
        }
        match self.options.rate {
            None => u64::from(self.options.outstanding).saturating_sub(self.pending.outstanding()),
            Some(rate) => {
                let due = (now.since(self.begin).as_secs_f64() * rate) as u64 + 1;
                due.saturating_sub(self.pending.begun())
            }
        }
    }

    /// How long nothing is to be sent.
    fn pause(&self, now: Time) -> Duration {
        match self.options.rate {
            _ if self.room(now) > 0 => Duration::ZERO,
            Some(rate) if !self.lanes.is_empty() => {
                let next = self.begin + Duration::from_secs_f64(self.pending.begun() as f64 / rate);
                next.since(now).min(LONGEST_WAIT)
            }
            _ => LONGEST_WAIT,
        }
    }

    /// Sends what may leave, at most one batch by each socket.
    fn send_due(&mut self, now: Time) {
        let mut room = self.room(now);
        for _ in 0..self.lanes.len() {
            if room == 0 {
                return;
            }
            let count = room.min(BATCH as u64) as usize;
            self.send(count, now);
            room -= count as u64;
        }
    }

    /// Sends a batch by the socket whose turn it is.
    fn send(&mut self, count: usize, now: Time) {
        let Self { lanes, next_lane, outbox, pending, tally, options, begin, .. } = self;
        let lane = &mut lanes[*next_lane];
        *next_lane = (*next_lane + 1) % options.sockets;
        let first = pending.begun();
        outbox.clear();
        for n in 0..count {
            // In an open loop the time counts from when the request was meant to leave.
            let meant = match options.rate {
                None => now,
                Some(rate) => *begin + Duration::from_secs_f64((first + n as u64) as f64 / rate),
            };
            let range = lane.patch(n, pending.begin(meant, now));
            outbox.push(range, lane.to, None);
        }
        let mut at = 0;
        while at < count {
            match outbox.send(lane.port.socket().as_fd(), &lane.requests, at) {
                Ok(sent) => at += sent,
                Err(_) => {
                    pending.take_back(first + at as u64);
                    tally.not_sent += 1;
                    at += 1;
                }
            }
        }
    }

    /// Takes the answers that came to a client socket.
    fn collect(&mut self, lane: usize) {
        let Self { lanes, inbox, memory, finder, pending, tally, .. } = self;
        let slot = |n: usize| n * SLOT..(n + 1) * SLOT;
        let count = inbox.receive(lanes[lane].port.socket().as_fd(), false, memory, slot).unwrap_or(0);
        let now = clock();
        for n in 0..count {
            let Some(arrival) = inbox.arrival(n) else { continue };
            let bytes = &memory[n * SLOT..n * SLOT + arrival.len];
            match read_answer(bytes, finder) {
                Some((status, id)) => pending.answered(id, status, now, tally),
                None => tally.stray += 1,
            }
        }
    }

    fn report(self) -> FloodReport {
        let echoed = self.sinks.iter().map(|sink| sink.echoed).sum();
        let sink_refused: u64 = self.sinks.iter().map(|sink| sink.not_sent).sum();
        FloodReport::of(&self.pending, self.tally, echoed, sink_refused)
    }
}

/// The status and the number of a response; `None` for what is none of ours. Reads two places, nothing else.
#[inline]
fn read_answer(bytes: &[u8], finder: &Finder<'_>) -> Option<(u16, u64)> {
    let digits = bytes.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
    let status = digits
        .iter()
        .try_fold(0u16, |status, digit| digit.is_ascii_digit().then(|| status * 10 + u16::from(digit - b'0')))?;
    let at = finder.find(bytes)? + BRANCH_MARK.len();
    Some((status, hex(bytes.get(at..at + 16)?)?))
}

/// A histogram of microseconds up to a minute, two digits exact: small enough to stay in the cache.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("one to a minute with two digits is valid")
}
