//! The process as systemd and keepalived run it: sockets that outlive it, the watchdog, an ordered stop, local checks. A
//! stand-in plays systemd: it takes what sd_notify(3) sends, keeps the descriptors, and hands them to whom it starts.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::io::{IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal::{SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use support::calls::request;
use support::process::{Balancer, DEADLINE, Process, global, output, program, wait_for, within};
use support::regions::{Edge, Net, answer, named, stop};
use support::workers::bound;
use tempfile::TempDir;
use trunkline::load::{Generator, Mix, Timers};

const WORKERS: usize = 4;

/// So many sockets the stand-in says that it keeps.
const MOST_KEPT: usize = 40;

/// What systemd has of one service.
struct Systemd {
    folder: TempDir,
    notify: UnixDatagram,
    store: Vec<(String, OwnedFd)>,
    said: Vec<String>,
}

impl Systemd {
    fn new(config: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let key = trunkline::config::key::generate(*b"golden route key", [0x11; 16]);
        std::fs::write(folder.path().join("cluster.key"), key).unwrap();
        std::fs::write(folder.path().join("trunkline.toml"), global(&folder, WORKERS) + config).unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notify.set_nonblocking(true).unwrap();
        Self { folder, notify, store: Vec::new(), said: Vec::new() }
    }

    /// Starts the service with what is in the store, as from 3 on.
    fn start(&mut self) -> Process {
        // Out of the way of the numbers that they get.
        let high: Vec<RawFd> =
            self.store.iter().map(|(_, fd)| fcntl(fd, FcntlArg::F_DUPFD(300)).expect("a descriptor")).collect();
        // One by one: bash keeps copies of its own while it does several.
        let moves: String = high.iter().zip(3..).map(|(from, to)| format!("exec {to}<&{from} {from}<&-; ")).collect();
        let names: Vec<_> = self.store.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new("bash");
        command
            .arg("-c")
            .arg(format!("{moves} LISTEN_PID=$$ exec \"$@\""))
            .args(["bash".as_ref(), program().as_os_str(), "run".as_ref(), "-c".as_ref()])
            .arg(self.folder.path().join("trunkline.toml"))
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("FDSTORE", MOST_KEPT.to_string())
            .env("LISTEN_FDS", high.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env("WATCHDOG_USEC", "400000");
        let process = Process::start(&mut command);
        high.into_iter().for_each(|fd| nix::unistd::close(fd).unwrap());
        process
    }

    /// Starts it, and waits until it says that it is ready.
    fn start_ready(&mut self) -> Process {
        self.said.clear();
        let mut process = self.start();
        process.line_with("started");
        wait_for("READY=1", || self.heard("READY=1"));
        process
    }

    /// Whether this was said.
    fn heard(&mut self, line: &str) -> bool {
        self.listen();
        self.said.iter().any(|said| said.starts_with(line))
    }

    /// Takes what was sent. A descriptor that is in the store already is not put there twice.
    fn listen(&mut self) {
        loop {
            let (mut text, mut room) = ([0; 4096], nix::cmsg_space!([RawFd; 253]));
            let mut parts = [IoSliceMut::new(&mut text)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let Ok(message) = recvmsg::<()>(self.notify.as_raw_fd(), &mut parts, Some(&mut room), flags) else {
                return;
            };
            let fds: Vec<RawFd> = message
                .cmsgs()
                .unwrap()
                .flat_map(|part| if let ControlMessageOwned::ScmRights(fds) = part { fds } else { Vec::new() })
                .collect();
            let length = message.bytes;
            let text = String::from_utf8(text[..length].to_vec()).unwrap();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
            for fd in fds {
                assert!(text.contains("FDSTORE=1\n") && text.contains("FDPOLL=0\n"), "{text}");
                let fd = owned(fd);
                if !self.store.iter().any(|(_, kept)| socket(kept) == socket(&fd)) {
                    self.store.push((name.clone(), fd));
                }
            }
            if text.contains("FDSTOREREMOVE=1\n") {
                self.store.retain(|(kept, _)| *kept != name);
            }
            self.said.extend(text.lines().map(str::to_owned));
        }
    }

    fn kept(&mut self, name: &str) -> usize {
        self.listen();
        self.store.iter().filter(|(kept, _)| kept == name).count()
    }

    /// Waits for its end, and hears what it says meanwhile: who tells a full socket waits. Its exit code.
    fn end(&mut self, mut process: Process) -> Option<i32> {
        let mut status = None;
        wait_for("the end of the process", || {
            self.listen();
            status = process.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// What keepalived runs.
    fn keepalived(&self, command: &[&str]) -> Output {
        let socket = self.folder.path().join("admin.sock");
        output(Command::new(program()).args(command).arg("--socket").arg(socket))
    }

    /// Runs a command of the same configuration.
    fn run(&self, command: &[&str]) -> Output {
        let config = self.folder.path().join("trunkline.toml");
        output(Command::new(program()).args(command).arg("-c").arg(config))
    }

    /// What a local check says: its exit code, and why.
    fn check(&self) -> (Option<i32>, String) {
        let output = self.keepalived(&["check-local", "--for", "10ms", "--patience", "10s"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[allow(unsafe_code, reason = "recvmsg gives raw numbers")]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: a message brought it a moment ago, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Which socket it is.
fn socket(fd: &OwnedFd) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
}

fn options(number: usize) -> Vec<u8> {
    let lines =
        [format!("Call-ID: {number}@service"), format!("Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK{number};rport")];
    request("OPTIONS", "sip:100@sip.example.ng", &[&lines[0], &lines[1]])
}

/// A server that sends back whatever it gets, until it is told to end.
fn echo(at: SocketAddr, end: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let (socket, end) = (UdpSocket::bind(at).unwrap(), Arc::clone(end));
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    std::thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            let mut datagram = [0; 100];
            if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                socket.send_to(&datagram[..length], from).unwrap();
            }
        }
    })
}

/// SIGKILL, then a time with nobody: what came meanwhile over UDP, TCP and a relay is answered, each of it once and by the
/// same sockets. What a reload closes, and what a configuration does not know any more, is let go.
#[test]
fn what_comes_while_nobody_runs_is_answered() {
    const DATAGRAMS: usize = 300;
    const CONNECTIONS: usize = 20;
    let net = Net(100);
    let servers = net.servers();
    let (config, at) = net.config(&servers, &Edge { outside: &["udp", "tcp"], ..Edge::default() });
    let (media, relayed) = (net.free(16), net.free(3));
    let relay = format!(
        "[[frontend]]\nname = \"rtp\"\nmode = \"relay\"\nbind = \"udp://{relayed}\"\nbackend = \"media\"\n\
         [[backend]]\nname = \"media\"\ncheck = {{ type = \"none\" }}\n[[backend.server]]\nname = \"m\"\naddress = \"udp://{media}\"\n"
    );
    let answerer = answer(&named(&servers), Timers::default());
    let end = Arc::new(AtomicBool::new(false));
    let echoes = echo(media, &end);
    let mut systemd = Systemd::new(&(config.clone() + &relay));
    let process = systemd.start_ready();
    let [udp, tcp, rtp] =
        [("udp", at), ("tcp", at), ("udp", relayed)].map(|(kind, at)| format!("{kind}-{at}").replace(':', "_"));
    for name in [&udp, &tcp, &rtp] {
        wait_for(name, || systemd.kept(name) == WORKERS);
    }
    wait_for("servers that are up", || systemd.heard("STATUS=good: All 6 servers"));
    process.signal(SIGKILL);
    systemd.end(process);

    let clients: Vec<_> = (0..DATAGRAMS).map(|n| bound(&format!("127.0.100.{}:0", 130 + n % 100))).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send_to(&options(number), at).unwrap();
    }
    let talker = bound("127.0.100.129:0");
    talker.send_to(b"rtp", relayed).unwrap();
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(at).unwrap()).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let text = String::from_utf8(options(DATAGRAMS + number)).unwrap().replace("SIP/2.0/UDP", "SIP/2.0/TCP");
        stream.write_all(text.as_bytes()).unwrap();
    }
    let process = systemd.start_ready();
    let mut datagram = [0; 2000];
    for client in &clients {
        let (length, _) = client.recv_from(&mut datagram).expect("an answer to what came while nobody ran");
        assert!(datagram[..length].starts_with(b"SIP/2.0 200"), "{}", String::from_utf8_lossy(&datagram[..length]));
    }
    assert_eq!(talker.recv_from(&mut datagram).expect("what the relay had waiting").0, 3);
    for stream in &mut streams {
        let length = stream.read(&mut datagram).unwrap();
        assert!(datagram[..length].starts_with(b"SIP/2.0 200"), "{}", String::from_utf8_lossy(&datagram[..length]));
    }
    // Not one more.
    clients.iter().for_each(|client| client.set_nonblocking(true).unwrap());
    assert!(clients.iter().all(|client| client.recv(&mut datagram).is_err()), "answered twice");
    let kept: Vec<_> = [&udp, &tcp, &rtp].map(|name| systemd.kept(name)).into();
    assert_eq!(kept, [WORKERS; 3], "the same sockets: none was opened beside them");

    // The relay goes at run time, TCP while nobody runs.
    let file = systemd.folder.path().join("trunkline.toml");
    let without = |text: &str| global(&systemd.folder, WORKERS) + text;
    let (without_relay, without_tcp) = (without(&config), without(&config.replace(&format!(", \"tcp://{at}\""), "")));
    assert_ne!(without_relay, without_tcp);
    std::fs::write(&file, without_relay).unwrap();
    assert!(systemd.run(&["reload"]).status.success());
    wait_for("the relay's sockets to be let go", || systemd.kept(&rtp) == 0);
    process.signal(SIGKILL);
    systemd.end(process);
    std::fs::write(&file, without_tcp).unwrap();
    let process = systemd.start_ready();
    wait_for("TCP's sockets to be let go", || systemd.kept(&tcp) == 0);
    assert_eq!(systemd.kept(&udp), WORKERS);
    wait_for("a refused connection", || TcpStream::connect(at).is_err());
    process.signal(SIGTERM);
    assert_eq!(systemd.end(process), Some(0));
    end.store(true, Ordering::Relaxed);
    echoes.join().unwrap();
    stop(answerer);
}

/// A proxy's sockets, which its responses are spread over, become a relay's by a restart: what one client sends is one flow.
#[test]
fn a_relay_that_inherits_a_proxy_s_sockets_spreads_by_client() {
    let net = Net(101);
    let (at, server) = (net.free(1), bound("127.0.101.11:0"));
    let text = |mode: &str| {
        let to = server.local_addr().unwrap();
        format!(
            "[[frontend]]\nname = \"f\"\nmode = \"{mode}\"\nbind = \"udp://{at}\"\nbackend = \"b\"\n{}[[backend]]\n\
             name = \"b\"\ncheck = {{ type = \"none\" }}\n[[backend.server]]\nname = \"s\"\naddress = \"udp://{to}\"\n",
            if mode == "proxy" { "inside = \"127.0.101.2\"\n" } else { "" }
        )
    };
    let mut systemd = Systemd::new(&text("proxy"));
    let process = systemd.start_ready();
    let name = format!("udp-{at}").replace(':', "_");
    wait_for(&name, || systemd.kept(&name) == WORKERS);
    process.signal(SIGTERM);
    assert_eq!(systemd.end(process), Some(0));
    assert_eq!(systemd.kept(&name), WORKERS);
    let file = systemd.folder.path().join("trunkline.toml");
    std::fs::write(file, global(&systemd.folder, WORKERS) + &text("relay")).unwrap();
    let process = systemd.start_ready();
    let client = bound("127.0.101.130:0");
    let mut ports = std::collections::HashSet::new();
    for letter in 'a'..='x' {
        let via = format!("Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK{}", letter.to_string().repeat(80));
        client.send_to(format!("SIP/2.0 200 OK\r\n{via}\r\n\r\n").as_bytes(), at).unwrap();
        ports.insert(server.recv_from(&mut [0; 500]).expect("what was relayed").1);
    }
    assert_eq!(ports.len(), 1, "{ports:?}");
    process.signal(SIGTERM);
    assert_eq!(systemd.end(process), Some(0));
}

/// `systemctl restart`, four times under 200 calls/s: no datagram is lost, for nobody sends one again.
#[test]
fn a_restart_loses_no_datagram() {
    const CALLS: u64 = 1600;
    let net = Net(101);
    let servers = net.servers();
    let patient = Timers { t1: Duration::from_secs(15), ..Timers::default() };
    let answerer = answer(&named(&servers), patient);
    let (config, at) = net.config(&servers, &Edge::default());
    let mut systemd = Systemd::new(&config);
    let mut process = systemd.start_ready();
    wait_for("servers that are up", || systemd.heard("STATUS=good"));
    let mut options = net.callers(at, CALLS, 200.0);
    options.habits.mix = Mix::parse("call=2,server-bye=1,reinvite=1,server-reinvite=1").unwrap();
    options.timers = patient;
    let calls = Generator::start(options).unwrap();
    for round in 1..=4 {
        wait_for("calls between two restarts", || calls.report().total().started >= round * CALLS / 5);
        process.signal(SIGTERM);
        assert_eq!(systemd.end(process), Some(0));
        process = systemd.start_ready();
    }
    let report = calls.finish().unwrap();
    assert!(report.succeeded() && report.total().answered == CALLS, "{report}");
    assert_eq!((report.traffic.retransmitted, report.misdirected, report.not_sent), (0, 0, 0), "{report}");
    let answered = stop(answerer);
    assert!(answered.succeeded() && answered.misdirected() == 0, "{answered}");
}

/// What systemd hears while all is well, and what it hears at the end: first that it ends, then the addresses of the pair
/// leave, and only then does it.
#[test]
fn it_serves_until_the_addresses_of_the_pair_have_left() {
    let net = Net(102);
    let servers = net.servers();
    let answerer = answer(&named(&servers), Timers::default());
    let (config, at) = net.config(&servers, &Edge::default());
    let mut systemd = Systemd::new(&config);
    // It is told while nobody runs, too.
    assert!(systemd.keepalived(&["role", "INSTANCE", "VI_1", "MASTER", "100"]).status.success());
    let process = systemd.start_ready();
    let fed = |systemd: &mut Systemd| {
        systemd.listen();
        systemd.said.iter().filter(|said| *said == "WATCHDOG=1").count()
    };
    wait_for("the watchdog to be fed again and again", || fed(&mut systemd) >= 5);
    wait_for("its sentence", || systemd.heard("STATUS=good: All 5 servers take calls"));
    let status = String::from_utf8(systemd.run(&["status"]).stdout).unwrap();
    assert!(status.lines().next().unwrap().ends_with(", VI_1 master"), "{status}");
    let events = String::from_utf8(systemd.run(&["events"]).stdout).unwrap();
    assert!(events.contains("VI_1 is master"), "{events}");
    assert_eq!(systemd.check(), (Some(0), String::new()));
    process.signal(SIGTERM);
    wait_for("STOPPING=1", || systemd.heard("STOPPING=1"));
    assert_eq!(systemd.check(), (Some(1), "stopping\n".to_owned()));
    let client = bound("127.0.102.130:0");
    client.send_to(&options(1), at).unwrap();
    assert!(client.recv(&mut [0; 2000]).is_ok(), "served until the address has left");
    assert!(systemd.keepalived(&["role", "INSTANCE", "VI_1", "FAULT", "100"]).status.success());
    assert_eq!(systemd.end(process), Some(0));
    stop(answerer);
}

/// A nameserver that does not answer holds a reload, and nothing else: the watchdog is fed, and whoever ends the process
/// is obeyed; the audit log says that the reload was not done.
#[test]
fn a_reload_that_waits_for_the_dns_holds_neither_the_watchdog_nor_the_end() {
    let net = Net(105);
    let (config, _) = net.config(&net.servers(), &Edge::default());
    let mut systemd = Systemd::new(&config);
    let process = systemd.start_ready();
    let silent = UdpSocket::bind(net.free(17)).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let dns = format!("[dns]\nnameservers = \"{}\"\ntimeout = \"30s\"\n", silent.local_addr().unwrap());
    let named = "[[backend.server]]\nname = \"named\"\nregion = \"lagos\"\naddress = \"udp://pbx.example.ng:5060\"\n";
    std::fs::write(
        systemd.folder.path().join("trunkline.toml"),
        global(&systemd.folder, WORKERS) + &dns + &config + named,
    )
    .unwrap();
    process.signal(SIGHUP);
    silent.recv(&mut [0; 600]).expect("a question");
    systemd.said.clear();
    wait_for("the watchdog to be fed", || {
        systemd.listen();
        systemd.said.iter().filter(|said| *said == "WATCHDOG=1").count() >= 5
    });
    process.signal(SIGTERM);
    assert_eq!(systemd.end(process), Some(0));
    let audit = std::fs::read_to_string(systemd.folder.path().join("state/audit.jsonl")).unwrap();
    let [_, reload, stop] = audit.lines().collect::<Vec<_>>()[..] else { panic!("{audit}") };
    assert!(reload.contains("it ended before the reload was done") && reload.contains("\"ok\":false"), "{reload}");
    assert!(reload.contains("SIGHUP") && stop.contains("\"kind\":\"stop\""), "{audit}");
}

/// What systemd does not keep a restart loses, and nobody else would say so.
#[test]
fn more_sockets_than_systemd_keeps_are_told() {
    let net = Net(106);
    let ([at, media], last) = ([net.free(3), net.free(4)], 20_000 + MOST_KEPT);
    let relay = format!(
        "[[frontend]]\nname = \"rtp\"\nmode = \"relay\"\nbind = \"udp://{}:20000-{last}\"\nbackend = \"media\"\n\
         [[backend]]\nname = \"media\"\ncheck = {{ type = \"none\" }}\n[[backend.server]]\nname = \"m\"\naddress = \"udp://{}\"\nports = \"20000-{last}\"\n",
        at.ip(),
        media.ip(),
    );
    let mut systemd = Systemd::new(&relay);
    let mut process = systemd.start();
    let told = process.line_with("systemd keeps no more than");
    assert!(told.contains(&format!("sockets={} most={MOST_KEPT}", MOST_KEPT + 1)), "{told}");
    wait_for("READY=1", || systemd.heard("READY=1"));
    process.signal(SIGTERM);
    assert_eq!(systemd.end(process), Some(0));
}

/// A local check fails for what is wrong with the process, and for nothing else.
#[test]
fn a_local_check_is_about_this_process_alone() {
    let net = Net(103);
    let (config, _) = net.config(&net.servers(), &Edge::default());
    let balancer = Balancer::start(WORKERS, &config);
    let socket = balancer.folder.path().join("admin.sock");
    let check = |more: &[&str]| {
        let mut command = Command::new(program());
        let output = output(command.arg("check-local").args(more).arg("--socket").arg(&socket));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let status = |wanted: &str| {
        let output = output(Command::new(program()).args(["status", "--socket"]).arg(&socket));
        String::from_utf8(output.stdout).unwrap().contains(wanted)
    };
    wait_for("servers that are down", || status("bad: "));
    // Whoever forgot a prompt takes nothing from it.
    let prompts: Vec<_> = (0..40)
        .map_while(|_| {
            let stream = UnixStream::connect(&socket).ok()?;
            (&stream).write_all(b"prompt\n").ok()?;
            Some(stream)
        })
        .take(30)
        .collect();
    assert_eq!(
        check(&["--for", "1s", "--patience", "10s"]),
        (Some(0), String::new()),
        "with {} prompts",
        prompts.len()
    );
    drop(prompts);
    balancer.process.signal(SIGSTOP);
    let (code, why) = check(&["--patience", "300ms"]);
    assert!(code == Some(1) && why.contains("no answer within 300 ms"), "{code:?} {why}");
    let monitored = output(Command::new(program()).args(["status", "--check", "--socket"]).arg(&socket));
    let said = String::from_utf8(monitored.stdout).unwrap();
    assert!(monitored.status.code() == Some(3) && said.contains("no answer within 3 s"), "{said}");
    balancer.process.signal(SIGCONT);
    assert!(within(DEADLINE, || check(&["--for", "1ms"]).0 == Some(0)), "it is well again");
    // It is seen while the check runs.
    let watching = std::thread::spawn({
        let socket = socket.clone();
        move || output(Command::new(program()).args(["check-local", "--for", "20s", "--socket"]).arg(socket))
    });
    wait_for("the check to run", || check(&["--for", "1ms"]).0 == Some(0));
    balancer.process.signal(SIGKILL);
    assert_eq!(watching.join().unwrap().status.code(), Some(1));
    let (code, why) = check(&[]);
    assert!(code == Some(1) && why.contains("admin.check: nobody listens there"), "{code:?} {why}");
}
