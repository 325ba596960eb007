//! Children that end with the measurement, and what the system says about them.

use std::error::Error;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, killpg};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Set by SIGINT and SIGTERM: everything that waits gives up.
pub static STOPPED: AtomicBool = AtomicBool::new(false);

/// How long a program may take to open its sockets, and to end.
const START: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(3);

/// How often a condition is looked at: seldom enough to cost the generator's core nothing.
const LOOK: Duration = Duration::from_millis(20);

/// Waits for a condition; false where it did not come true in time.
///
/// # Errors
/// When the measurement is stopped.
fn wait_for(longest: Duration, mut condition: impl FnMut() -> bool) -> Result<bool, Box<dyn Error>> {
    let deadline = Instant::now() + longest;
    while !condition() {
        if STOPPED.load(Ordering::Relaxed) {
            return Err("stopped by a signal".into());
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
    Ok(true)
}

/// Before a program: its session goes before all others, where root may say so. Linux shares the cores among sessions,
/// so a priority within one (nice) would not keep a compiler in another away.
const FIRST: &str = r#"(echo -20 >/proc/self/autogroup) 2>/dev/null; exec "$@""#;

/// A program and whatever it starts, in a session of its own: killed together when this is dropped.
pub struct Program {
    child: Child,
    name: String,
    log: std::path::PathBuf,
}

impl Program {
    /// Starts a command on one core. What it says goes to a file in `folder`, what it prints to `output`.
    pub fn start(
        name: &str,
        command: &Command,
        output: impl Into<Stdio>,
        core: usize,
        folder: &Path,
    ) -> Result<Self, Box<dyn Error>> {
        let log = folder.join(format!("{}.log", name.replace([' ', '/'], "-")));
        let file = File::create(&log)?;
        let mut first = Command::new("setsid");
        first.args(["sh", "-c", FIRST, "sh"]).arg(command.get_program()).args(command.get_args());
        first.stdin(Stdio::null()).stdout(output).stderr(file);
        // A child inherits the core of the thread that starts it.
        pin(core)?;
        let spawned = first.spawn();
        pin(super::LOAD_CORE)?;
        let child = spawned.map_err(|error| format!("setsid: {error}; it is part of util-linux"))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its sockets are there.
    pub fn listens_on(&mut self, address: SocketAddr) -> Result<(), Box<dyn Error>> {
        let child = &mut self.child;
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)));
        let open = wait_for(START, || is_bound(address) || ended(child))? && !ended(child);
        if open {
            Ok(())
        } else {
            Err(format!(
                "{} does not listen on {address} (tests/setup installs what is needed):\n{}",
                self.name,
                self.said()
            )
            .into())
        }
    }

    /// Waits until it has ended by itself.
    pub fn ended(&mut self, longest: Duration) -> Result<ExitStatus, Box<dyn Error>> {
        let mut status = None;
        let child = &mut self.child;
        wait_for(longest, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        })?;
        status.ok_or_else(|| format!("{} did not end in {longest:?}", self.name).into())
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Every process of the group.
    fn members(&self) -> Vec<Pid> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| stat_field(*pid, 5) == Some(i64::from(self.group().as_raw()))).map(Pid::from_raw).collect()
    }

    /// Processor time of all its processes, user and system, to the nanosecond.
    pub fn cpu_time(&self) -> Duration {
        let of = |pid: Pid| clock_getcpuclockid(pid).and_then(clock_gettime).map(Duration::from).unwrap_or_default();
        self.members().into_iter().map(of).sum()
    }

    /// The most memory that its processes had resident, kB; shared pages count for each of them.
    pub fn peak_memory(&self) -> u64 {
        let of = |pid: Pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        self.members().into_iter().map(of).sum()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = killpg(self.group(), Signal::SIGTERM);
        // Also after a signal: an orderly end is waited for, but not for long.
        let deadline = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Field `number` of /proc/PID/stat, counted from 1 as in proc_pid_stat(5), behind the name.
fn stat_field(pid: i32, number: usize) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3)?.parse().ok()
}

/// Puts this thread, and the children that it starts from now on, on one core.
pub fn pin(core: usize) -> Result<(), Box<dyn Error>> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|error| format!("core {core} cannot be used: {error}; two cores are needed").into())
}

/// Whether somebody has a UDP socket on this address, or listens there for TCP.
fn is_bound(address: SocketAddr) -> bool {
    let IpAddr::V4(ip) = address.ip() else { return false };
    let entry = format!(" {:08X}:{:04X} ", u32::from_ne_bytes(ip.octets()), address.port());
    let holds = |table: &str, entry: &str| fs::read_to_string(table).is_ok_and(|table| table.contains(entry));
    // 0A is LISTEN.
    holds("/proc/net/udp", &entry) || holds("/proc/net/tcp", &format!("{entry}00000000:0000 0A "))
}

/// This address with a port that is free there now, for UDP and for TCP.
pub fn free(ip: Ipv4Addr) -> Result<SocketAddr, Box<dyn Error>> {
    loop {
        let address = UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr())?;
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
}
