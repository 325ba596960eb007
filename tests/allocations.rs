//! The real workers, real sockets: a million distinct INVITEs, more than the tables hold, and their answers. No worker
//! allocates for a message, and the process does not grow.

#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use support::media::free_range;
use support::workers::{bound, free_port, prepare};
use trunkline::net::inherit::Inherited;
use trunkline::net::socket::open_relay;
use trunkline::net::worker::Workers;
use trunkline::state::counters::{Counter, FrontendCounters};

const WORKERS: usize = 2;
const CALLS: u64 = 1_000_000;
/// Outstanding at once: the kernel's buffers hold them all, so none is lost and every call can be waited for.
const WINDOW: u64 = 256;
/// Before counting: runtimes, sockets and lazily made tables are set up.
const WARM_UP: u64 = 20_000;

static WORKER_THREADS: [AtomicI32; WORKERS] = [const { AtomicI32::new(0) }; WORKERS];
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Counts what the worker threads allocate.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let thread = nix::unistd::gettid().as_raw();
        if WORKER_THREADS.iter().any(|worker| worker.load(Ordering::Relaxed) == thread) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The thread ids of the workers, by their names.
fn find_workers() {
    let deadline = Instant::now() + Duration::from_secs(5);
    for (worker, id) in WORKER_THREADS.iter().enumerate() {
        while id.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "worker {worker} did not start");
            for task in std::fs::read_dir("/proc/self/task").unwrap() {
                let task = task.unwrap();
                let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                if name.trim() == format!("worker-{worker}") {
                    id.store(task.file_name().to_str().unwrap().parse().unwrap(), Ordering::Relaxed);
                }
            }
        }
    }
}

/// Resident memory, bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Allocates on a thread that stands in for a worker.
fn the_count_counts() {
    WORKER_THREADS[0].store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
    drop(std::hint::black_box(vec![0u8; 100]));
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0);
    WORKER_THREADS[0].store(0, Ordering::Relaxed);
}

/// Sends INVITEs `from..to` with a window, answers each with 200 in the server's place, and waits for it at the client.
fn drive(client: &[UdpSocket], server: &UdpSocket, balancer: SocketAddr, from: u64, to: u64) {
    let (mut datagram, mut answer) = ([0; 4096], Vec::with_capacity(4096));
    let (mut sent, mut home) = (from, from);
    while home < to {
        while sent < to && sent < home + WINDOW {
            let socket = &client[sent as usize % client.len()];
            socket.send_to(invite(sent).as_bytes(), balancer).unwrap();
            sent += 1;
        }
        for _ in home..sent {
            let (length, via) = server.recv_from(&mut datagram).expect("the INVITE reached the server");
            response(&datagram[..length], &mut answer);
            server.send_to(&answer, via).unwrap();
        }
        for number in home..sent {
            let length = client[number as usize % client.len()].recv(&mut datagram).expect("the 200 came home");
            let text = String::from_utf8_lossy(&datagram[..length]);
            assert!(text.starts_with("SIP/2.0 200 OK\r\n") && text.matches("Via:").count() == 1, "{text}");
        }
        home = sent;
    }
}

fn invite(number: u64) -> String {
    format!(
        "INVITE sip:100@sim.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.2:5060;branch=z9hG4bK{number:x};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:a@sim.example>;tag={number:x}\r\nTo: <sip:100@sim.example>\r\nCall-ID: {number:016x}@flood\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:a@192.168.1.2>\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n"
    )
}

fn response(request: &[u8], answer: &mut Vec<u8>) {
    answer.clear();
    answer.extend_from_slice(b"SIP/2.0 200 OK\r\n");
    let head = request.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 2;
    for line in request[..head].split_inclusive(|b| *b == b'\n').skip(1) {
        if [&b"Via:"[..], b"Record-Route:", b"From:", b"To:", b"Call-ID:", b"CSeq:"]
            .iter()
            .any(|name| line.starts_with(name))
        {
            answer.extend_from_slice(line);
        }
    }
    answer.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// Worker threads are found by their names: two tests at once would count each other's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Streams of media through a relay; its books balance, to the byte.
#[test]
fn a_relay_allocates_nothing_for_a_datagram() {
    const PORTS: u16 = 16;
    const DATAGRAMS: u64 = 200_000;
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (front, back) = ("127.0.2.43", "127.0.3.43");
    let first = free_range(&[front, back], PORTS);
    let last = first + PORTS - 1;
    let text = format!(
        "[[frontend]]\nname = \"f\"\nmode = \"relay\"\nbind = \"udp://{front}:{first}-{last}\"\nbackend = \"b\"\n\
         [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"udp://{back}\"\nports = \"{first}-{last}\"\n"
    );
    let (setup, sockets) = prepare(&support::core::config(&text), WORKERS, 1_000);
    let snapshot = setup.snapshot.load_full();
    let workers = Workers::start(&setup, sockets).unwrap();
    workers.give(open_relay(&snapshot.relays[0], WORKERS, |_| false, &mut Inherited::default()).unwrap());
    let servers: Vec<_> = (first..=last).map(|port| bound(&format!("{back}:{port}"))).collect();
    let clients: Vec<_> = (first..=last).map(|_| bound("127.0.1.43:0")).collect();
    find_workers();
    let mut datagram = [7; 200];
    let mut pass = |rounds: u64| {
        for _ in 0..rounds {
            for (client, port) in clients.iter().zip(first..) {
                client.send_to(&datagram[..172], (front, port)).unwrap();
            }
            for server in &servers {
                let (length, flow) = server.recv_from(&mut datagram).expect("it reached the server");
                server.send_to(&datagram[..length / 2], flow).unwrap();
            }
            clients.iter().for_each(|client| assert_eq!(client.recv(&mut datagram).expect("it came home"), 86));
        }
    };
    pass(100);
    let (allocations, memory) = (ALLOCATIONS.load(Ordering::Relaxed), resident());
    pass(DATAGRAMS / u64::from(PORTS));
    let (allocated, grown) = (ALLOCATIONS.load(Ordering::Relaxed) - allocations, resident() as i64 - memory as i64);
    workers.stop();
    WORKER_THREADS.iter().for_each(|worker| worker.store(0, Ordering::Relaxed));
    println!("{DATAGRAMS} datagrams each way: {allocated} allocations on the workers, {grown} bytes more resident");
    assert_eq!(allocated, 0);
    assert!(grown < 1 << 20, "{grown} bytes more resident");
    let all = DATAGRAMS + 100 * u64::from(PORTS);
    let count = |counter: fn(&FrontendCounters) -> &Counter| snapshot.frontends[0].live.sum(counter);
    assert_eq!((count(|c| &c.received), count(|c| &c.flows_opened)), (2 * all, u64::from(PORTS)));
    assert_eq!((count(|c| &c.relayed_to_servers), count(|c| &c.bytes_to_servers)), (all, 172 * all));
    assert_eq!((count(|c| &c.relayed_to_clients), count(|c| &c.bytes_to_clients)), (all, 86 * all));
    let live = &snapshot.servers[0].live.counters;
    assert_eq!((live.sum(|c| &c.relayed_to), live.sum(|c| &c.relayed_from)), (all, all));
    assert_eq!((live.sum(|c| &c.bytes_to), live.sum(|c| &c.bytes_from)), (172 * all, 86 * all));
    assert_eq!(count(|c| &c.bytes_from_clients), 172 * all);
    // RTP and RTCP of a stream are on one worker, streams on all.
    let by_worker: Vec<_> = (0..WORKERS).map(|worker| snapshot.frontends[0].live.of(worker).received.get()).collect();
    assert_eq!(by_worker, [all; WORKERS], "half of the ports each");
}

#[test]
fn a_million_calls_past_the_tables_allocate_nothing() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let server = bound("127.0.3.41:0");
    let clients: Vec<_> = (0..32).map(|_| bound("127.0.1.41:0")).collect();
    let (outside, inside) = ("127.0.2.41", "127.0.2.42");
    let port = free_port(outside);
    let text = format!(
        "[[frontend]]\nname = \"f\"\nbind = \"udp://{outside}:{port}\"\ninside = \"{inside}\"\nbackend = \"b\"\n\
         source_header = \"X-Source\"\n[frontend.limits]\nper_source_rate = \"1000000/s\"\n\
         [[backend]]\nname = \"b\"\npin = {{ size = 1000 }}\nstick = {{ on = \"header:X-Key\", size = 1000 }}\n\
         [[backend.server]]\nname = \"s\"\naddress = \"udp://{}\"\n",
        server.local_addr().unwrap()
    );
    let (setup, sockets) = prepare(&support::core::config(&text), WORKERS, 1_000);
    let workers = Workers::start(&setup, sockets).unwrap();
    the_count_counts();
    find_workers();
    let balancer = SocketAddr::new(outside.parse().unwrap(), port);
    drive(&clients, &server, balancer, 0, WARM_UP);
    let (allocations, memory) = (ALLOCATIONS.load(Ordering::Relaxed), resident());
    drive(&clients, &server, balancer, WARM_UP, WARM_UP + CALLS);
    let (allocated, grown) = (ALLOCATIONS.load(Ordering::Relaxed) - allocations, resident() as i64 - memory as i64);
    workers.stop();
    WORKER_THREADS.iter().for_each(|worker| worker.store(0, Ordering::Relaxed));
    println!("{CALLS} calls: {allocated} allocations on the workers, {grown} bytes more resident");
    assert_eq!(allocated, 0);
    assert!(grown < 1 << 20, "{grown} bytes more resident after {CALLS} calls");
}
