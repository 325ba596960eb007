//! Real processes: the balancer as an operator starts it.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take that should take milliseconds, on a shared machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The program that is tested.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_trunkline"))
}

/// Waits for a condition.
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(DEADLINE, condition), "{what}: not within {DEADLINE:?}");
}

/// Whether a condition comes true in this time.
pub fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        // Who only yields takes the time of those that are waited for.
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Waits for what takes half a minute by design: 64*T1, or the longest time of a message.
pub fn wait_longer(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + 3 * DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Held while a port is tried and while a process begins: until it is another program it has the sockets that are open now,
/// and a port that was tried would be taken for that moment.
static BEGINNING: Mutex<()> = Mutex::new(());

/// Keeps other threads of the test from starting processes.
pub fn nobody_begins() -> MutexGuard<'static, ()> {
    BEGINNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process while nobody tries ports.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _alone = nobody_begins();
    command.spawn()
}

/// What a command says until it ends, of which nothing else is to be heard. It begins as others do here.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(command).unwrap().wait_with_output().unwrap()
}

/// Whether somebody has a UDP socket on this address, or listens there over TCP.
pub fn is_bound(address: SocketAddr) -> bool {
    let local = as_listed(address);
    !sockets("udp", |socket| socket.local == local).is_empty()
        || !sockets("tcp", |socket| socket.local == local && socket.state == LISTENING).is_empty()
}

/// Waits until whoever has this UDP socket has read everything, and says how many datagrams found no room there.
pub fn read_and_dropped(address: SocketAddr) -> u64 {
    let local = as_listed(address);
    let mut dropped = 0;
    wait_for("everything to be read", || {
        let sockets = sockets("udp", |socket| socket.local == local);
        dropped = sockets.iter().map(|socket| socket.drops.parse::<u64>().unwrap()).sum();
        sockets.iter().all(|socket| socket.queues.ends_with(":00000000"))
    });
    dropped
}

/// Where the connections come from that are open at this address.
pub fn connections_to(address: SocketAddr) -> Vec<String> {
    let local = as_listed(address);
    let open = sockets("tcp", |socket| socket.local == local && socket.state == ESTABLISHED);
    open.into_iter().map(|socket| socket.remote).collect()
}

/// States of a connection (the kernel's tcp_states.h).
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

/// A socket as the kernel lists it.
struct Listed {
    local: String,
    remote: String,
    state: String,
    /// What waits to be sent and to be read, and how many datagrams found no room; over UDP.
    queues: String,
    drops: String,
}

/// Asked of the kernel: a trial bind would take the port from whoever is about to.
fn sockets(transport: &str, wanted: impl Fn(&Listed) -> bool) -> Vec<Listed> {
    // Of the thread's own namespace.
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{transport}")).unwrap();
    let listed = text.lines().skip(1).map(|line| {
        let mut fields = line.split_whitespace().skip(1).map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let (local, remote, state, queues) = (next(), next(), next(), next());
        Listed { local, remote, state, queues, drops: fields.last().unwrap_or_default() }
    });
    listed.filter(wanted).collect()
}

fn as_listed(address: SocketAddr) -> String {
    let IpAddr::V4(ip) = address.ip() else { panic!("{address}: only IPv4 is looked for") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
}

/// Whether a process has stopped, all of its threads.
pub fn has_stopped(pid: i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.filter_map(Result::ok).all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| matches!(rest.trim_start().chars().next(), Some('T' | 't')))
    })
}

/// A child that ends with the test.
pub struct Process {
    pub child: Child,
    name: String,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Starts a command; its stderr is read as lines.
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = spawn(command.stderr(Stdio::piped()))
            .unwrap_or_else(|error| panic!("{name}: {error}; tests/setup installs it"));
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, name, lines, seen: Vec::new() }
    }

    /// Waits for a line that holds this text, and returns it.
    pub fn line_with(&mut self, text: &str) -> String {
        self.line_with_all(&[text])
    }

    /// The next line that says of a server that its state is now this one.
    pub fn turns(&mut self, server: &str, state: &str) -> String {
        self.line_with_all(&[&format!("server=\"{server}\""), &format!("to=\"{state}\"")])
    }

    fn line_with_all(&mut self, texts: &[&str]) -> String {
        let deadline = Instant::now() + DEADLINE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            if texts.iter().all(|text| line.contains(text)) {
                return line;
            }
        }
        panic!("{}: no line with {texts:?}; it said:\n{}", self.name, self.seen.join("\n"));
    }

    /// Everything that it has said so far.
    pub fn said(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits until it has ended, and returns its exit code and what it wrote to stdout.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut stdout = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_string(&mut stdout).unwrap();
        }
        (self.child.wait().unwrap().code(), stdout)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running balancer with a configuration and a key of its own.
pub struct Balancer {
    pub process: Process,
    pub folder: TempDir,
}

/// The configuration's head: workers, and a key file, a runtime socket and a state folder beside it.
pub fn global(folder: &TempDir, workers: usize) -> String {
    let [key, socket, state] =
        ["cluster.key", "admin.sock", "state"].map(|name| folder.path().join(name).display().to_string());
    format!(
        "[global]\nworkers = {workers}\ncluster_key_file = \"{key}\"\nruntime_socket = \"{socket}\"\nstate_dir = \"{state}\"\n"
    )
}

impl Balancer {
    /// Starts it and waits until it listens. The golden key is in the folder.
    pub fn start(workers: usize, config: &str) -> Self {
        Self::start_under(Command::new(program()), workers, config)
    }

    /// The same under another program, strace for instance: `command` is that one and its arguments.
    pub fn start_under(mut command: Command, workers: usize, config: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let key = trunkline::config::key::generate(*b"golden route key", [0x11; 16]);
        std::fs::write(folder.path().join("cluster.key"), key).unwrap();
        let file = folder.path().join("trunkline.toml");
        std::fs::write(&file, global(&folder, workers) + config).unwrap();
        let mut process = Process::start(command.arg("run").arg("-c").arg(&file));
        process.line_with("started");
        Self { process, folder }
    }

    /// Tells it to stop, and checks that it does so in order.
    pub fn stop(self) {
        self.process.signal(nix::sys::signal::Signal::SIGTERM);
        let (code, _) = self.process.end();
        assert_eq!(code, Some(0), "SIGTERM ends it in order");
    }
}
