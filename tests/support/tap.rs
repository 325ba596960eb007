//! What was sent to a server, whether it was there or not: a packet socket beside the loopback.
#![allow(clippy::disallowed_methods, reason = "a test says when something happened")]

use std::collections::HashSet;
use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::libc::{BPF_ABS, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, ETH_P_IP, IPPROTO_UDP};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// New calls that were sent to an address, in order: when each was sent first.
pub struct Tap {
    calls: Arc<Mutex<Vec<Instant>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Listens to what goes to any port of this address.
    pub fn start(to: Ipv4Addr) -> Self {
        let all_ip = i32::from((ETH_P_IP as u16).to_be());
        let mut socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(all_ip)))
            .expect("a packet socket; this test needs root, as those with namespaces do");
        let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
        let filter = [
            op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 9),
            op(BPF_JMP | BPF_JEQ | BPF_K, 0, 3, IPPROTO_UDP as u32),
            op(BPF_LD | BPF_W | BPF_ABS, 0, 0, 16),
            op(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, to.into()),
            op(BPF_RET | BPF_K, 0, 0, u32::MAX),
            op(BPF_RET | BPF_K, 0, 0, 0),
        ];
        socket.attach_filter(&filter).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket.set_recv_buffer_size(4 << 20).unwrap();
        let (calls, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, ends) = (Arc::clone(&calls), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let (mut packet, mut known) = (vec![0; 65_536], HashSet::new());
            while !ends.load(Ordering::Relaxed) {
                let Ok(len) = socket.read(&mut packet) else { continue };
                // Each packet is seen twice, as it goes and as it comes, and a call as often as it is repeated.
                if let Some(call) = new_call(&packet[..len])
                    && known.insert(call)
                {
                    seen.lock().unwrap().push(Instant::now());
                }
            }
        });
        Self { calls, over, thread: Some(thread) }
    }

    /// How many calls there were.
    pub fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// The calls from one moment to another.
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Instant> {
        self.calls.lock().unwrap().iter().copied().filter(|at| (from..to).contains(at)).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The Call-ID of an INVITE without To tag in an IP packet.
fn new_call(packet: &[u8]) -> Option<String> {
    let head = usize::from(packet.first()? & 15) * 4 + 8;
    let text = String::from_utf8_lossy(packet.get(head..)?);
    let line = |name: &str| text.lines().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix(name));
    (text.starts_with("INVITE ") && !line("To:")?.contains("tag=")).then(|| line("Call-ID:").map(str::to_owned))?
}
