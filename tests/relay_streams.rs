//! Mode `relay` over TCP and TLS: what clients and servers see of it, beside HAProxy with the same configuration.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::SockRef;
use support::http::{admin, get};
use support::pki::Pki;
use support::process::{Balancer, DEADLINE, Process, wait_for, wait_longer};
use support::regions::Net;
use support::streams::connect_from;
use support::tls_peers::{Client, Server};
use trunkline::admin::client::ask;
use trunkline::net::udp::clock;

const WORKERS: usize = 4;
/// Shorter than a deadline, longer than a slow machine pauses.
const IDLE: Duration = Duration::from_secs(3);

/// What a server has seen of connections that it was told to hold.
#[derive(Default)]
struct Seen {
    closed: AtomicUsize,
    reset: AtomicUsize,
    /// What becomes of who asks for it.
    mood: AtomicUsize,
}

const RESETS: usize = 1;
const SILENT: usize = 2;

/// A server that does what the first line of a connection says.
fn serve(at: SocketAddr, name: usize, seen: &Arc<Seen>) {
    let (listener, seen) = (TcpListener::bind(at).unwrap(), Arc::clone(seen));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let seen = Arc::clone(&seen);
            // Whoever breaks off what it asked for is no fault.
            thread::spawn(move || obey(stream, name, &seen).ok());
        }
    });
}

fn obey(mut stream: TcpStream, name: usize, seen: &Seen) -> std::io::Result<()> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).unwrap();
    let (word, number) = line.split_once(' ').unwrap_or((&line, "0"));
    let number: usize = number.parse().unwrap();
    match word {
        "name" => stream.write_all(&[b'0' + name as u8])?,
        "echo" => {
            std::io::copy(&mut stream.try_clone()?, &mut stream)?;
        }
        // Everything is read before anything is said.
        "count" => {
            let count = std::io::copy(&mut stream, &mut std::io::sink())?;
            stream.write_all(format!("{count}").as_bytes())?;
        }
        "slowly" => {
            let (mut room, mut count) = (vec![0; 65_536], 0);
            loop {
                let got = stream.read(&mut room)?;
                if got == 0 {
                    break;
                }
                count += got;
                thread::sleep(Duration::from_millis(1));
            }
            stream.write_all(format!("{count}").as_bytes())?;
        }
        // A request is read to its end, then the connection is reset where that is the mood.
        "moody" => {
            stream.read_exact(&mut byte)?;
            match seen.mood.load(Ordering::Relaxed) {
                RESETS => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
                SILENT => drop(stream.read(&mut byte)),
                _ => stream.write_all(&[b'0' + name as u8])?,
            }
        }
        "push" => (0..number).step_by(PIECE).try_for_each(|at| stream.write_all(&pattern(at)))?,
        // Half of what it was to say, then a reset when the client has it.
        "break" => {
            stream.write_all(b"half")?;
            stream.read_exact(&mut byte)?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        _ => {
            stream.write_all(b".")?;
            let ended = if stream.read(&mut byte).is_ok() { &seen.closed } else { &seen.reset };
            ended.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

const PIECE: usize = 50_000;

/// Bytes that tell where they belong.
fn pattern(at: usize) -> Vec<u8> {
    (at..at + PIECE).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect()
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Asks for something, and says what came and how it ended.
fn tell(at: SocketAddr, line: &str, body: &[u8]) -> String {
    let mut stream = connect(at);
    let sent = stream.write_all(format!("{line}\n").as_bytes()).and_then(|()| stream.write_all(body));
    let _ = sent.and_then(|()| stream.shutdown(Shutdown::Write));
    rest(&mut stream)
}

/// The same, a byte at a time.
fn tell_slowly(at: SocketAddr, line: &str, body: &[u8]) -> String {
    let mut stream = connect(at);
    for byte in line.as_bytes().iter().chain(b"\n").chain(body) {
        stream.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    stream.shutdown(Shutdown::Write).unwrap();
    rest(&mut stream)
}

/// 1 GB from a server, and how many of its pieces are what they should be.
fn huge_transfer(at: SocketAddr) -> String {
    const HUGE: usize = 1_000_000_000;
    let mut stream = connect(at);
    stream.write_all(format!("push {HUGE}\n").as_bytes()).unwrap();
    let (mut piece, mut right) = (vec![0; PIECE], 0);
    for at in (0..HUGE).step_by(PIECE) {
        stream.read_exact(&mut piece).unwrap();
        right += usize::from(piece == pattern(at));
    }
    format!("{right} pieces of {}, {}", HUGE / PIECE, rest(&mut stream))
}

fn rest(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let ended = match stream.read_to_end(&mut heard) {
        Ok(_) => "closed",
        Err(error) if error.kind() == ErrorKind::ConnectionReset => "reset",
        Err(error) => panic!("{error}"),
    };
    format!("{}, {ended}", String::from_utf8_lossy(&heard[..heard.len().min(100)]))
}

/// Where the three frontends of one contestant are: five servers; one that is dead and one that is not; one that is dead.
#[derive(Clone, Copy)]
struct At {
    main: SocketAddr,
    lame: SocketAddr,
    dead: SocketAddr,
}

/// The same questions to either. Each answer is what the client and the servers saw.
fn battery(At { main, lame, dead }: At, seen: &Seen) -> BTreeMap<&'static str, String> {
    const LARGE: usize = 64_000_000;
    let mut found = BTreeMap::new();
    let body = vec![7; 300_000];
    found.insert("half-close: an answer to the whole of it", tell(main, "count", &body));
    found.insert("a server that reads slowly", tell(main, "slowly", &vec![7; 20_000_000]));
    let echoed = tell(main, "echo", b"a word");
    found.insert("echo until the end", echoed);
    found.insert("a client that writes slowly", tell_slowly(main, "count", &[7; 300]));
    found.insert("1 GB, every byte in its place", huge_transfer(main));
    found.insert("a large transfer, every byte in its place, to one that reads slowly", {
        let mut stream = connect(main);
        stream.write_all(format!("push {LARGE}\n").as_bytes()).unwrap();
        let mut piece = vec![0; PIECE];
        let right = (0..LARGE).step_by(PIECE).all(|at| {
            if at < LARGE / 8 {
                thread::sleep(Duration::from_millis(1));
            }
            stream.read_exact(&mut piece).is_ok() && piece == pattern(at)
        });
        format!("{right} {}", rest(&mut stream))
    });
    found.insert("a server that breaks off", {
        let mut stream = connect(main);
        stream.write_all(b"break\n").unwrap();
        let mut half = [0; 4];
        stream.read_exact(&mut half).unwrap();
        stream.write_all(b".").unwrap();
        rest(&mut stream)
    });
    let (closed, reset) = (seen.closed.load(Ordering::Relaxed), seen.reset.load(Ordering::Relaxed));
    let ended = || seen.closed.load(Ordering::Relaxed) + seen.reset.load(Ordering::Relaxed);
    let mut breaks_off = connect(main);
    breaks_off.write_all(b"hold\n").unwrap();
    breaks_off.read_exact(&mut [0]).unwrap();
    SockRef::from(&breaks_off).set_linger(Some(Duration::ZERO)).unwrap();
    drop(breaks_off);
    wait_for("the server to know", || ended() == closed + reset + 1);
    let was_reset = seen.reset.load(Ordering::Relaxed) > reset;
    found.insert("a client that breaks off: its server", if was_reset { "reset" } else { "closed" }.to_owned());
    found.insert("nothing either way for too long", {
        let mut stream = connect(main);
        stream.write_all(b"hold\n").unwrap();
        rest(&mut stream)
    });
    wait_for("its server to know", || ended() == closed + reset + 2);
    let names: Vec<_> = (0..5000).map(|_| tell(main, "name", b"")).collect();
    let each: Vec<_> = (0..5).map(|n| names.iter().filter(|name| **name == format!("{n}, closed")).count()).collect();
    let even = each.iter().all(|count| (980..=1020).contains(count));
    found.insert("5,000 short connections, a fifth each", format!("{} {even}", each.iter().sum::<usize>()));
    let lame: Vec<_> = (0..100).map(|_| tell(lame, "name", b"")).collect();
    let answered = lame.iter().filter(|name| *name == "5, closed").count();
    found.insert("one of two servers is dead", format!("{answered} of 100 are answered"));
    found.insert("the only server is dead", tell(dead, "name", b""));
    found
}

#[test]
fn clients_and_servers_see_what_they_see_of_haproxy() {
    let net = Net(107);
    let seen = Arc::new(Seen::default());
    let servers = net.servers();
    servers.iter().enumerate().for_each(|(n, at)| serve(*at, n, &seen));
    let [well, dead, other] = [16, 17, 18].map(|host| net.free(host));
    serve(well, 5, &seen);
    let at = |host| At { main: net.free(host), lame: net.free(host), dead: net.free(host) };
    let (ours, theirs) = (at(1), at(2));

    let timeout = format!("timeout = {{ connect = \"5s\", client = \"{0}s\", server = \"{0}s\" }}", IDLE.as_secs());
    let section = |name: &str, at: SocketAddr, servers: &[SocketAddr]| {
        let mut text = format!(
            "[[frontend]]\nname = \"{name}\"\nmode = \"relay\"\nbind = \"tcp://{at}\"\nbackend = \"{name}\"\n\
             [[backend]]\nname = \"{name}\"\nbalance = \"roundrobin\"\ncheck = {{ type = \"none\" }}\n{timeout}\n"
        );
        for (n, server) in servers.iter().enumerate() {
            text += &format!("[[backend.server]]\nname = \"{name}-{n}\"\naddress = \"tcp://{server}\"\n");
        }
        text
    };
    let config = section("main", ours.main, &servers)
        + &section("lame", ours.lame, &[well, dead])
        + &section("dead", ours.dead, &[other]);
    let balancer = Balancer::start(WORKERS, &config);
    let listen = |name: &str, at: SocketAddr, servers: &[SocketAddr]| {
        let lines: String = servers.iter().enumerate().map(|(n, at)| format!("  server {name}-{n} {at}\n")).collect();
        format!("listen {name}\n  bind {at}\n  balance roundrobin\n{lines}")
    };
    let idle = IDLE.as_secs();
    let theirs_text = format!(
        "global\n  nbthread 1\n  maxconn 2000\ndefaults\n  mode tcp\n  retries 3\n  option redispatch 1\n  timeout connect 5s\n  \
         timeout client {idle}s\n  timeout server {idle}s\n{}{}{}",
        listen("main", theirs.main, &servers),
        listen("lame", theirs.lame, &[well, dead]),
        listen("dead", theirs.dead, &[other])
    );
    let file = balancer.folder.path().join("haproxy.cfg");
    std::fs::write(&file, theirs_text).unwrap();
    let haproxy = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(file));
    wait_for("HAProxy listens", || TcpStream::connect(theirs.main).is_ok());

    let (of_ours, of_theirs) = (battery(ours, &seen), battery(theirs, &seen));
    assert_eq!(of_ours, of_theirs);
    assert_eq!(of_ours["half-close: an answer to the whole of it"], "300000, closed");
    assert_eq!(of_ours["one of two servers is dead"], "100 of 100 are answered");
    drop(haproxy);
    balancer.stop();
}

/// A relay frontend before these servers, with these lines of its own and of its backend.
fn relay(bind: &str, servers: &[SocketAddr], frontend: &str, backend: &str) -> String {
    let mut text = format!(
        "[[frontend]]\nname = \"api\"\nmode = \"relay\"\nbind = \"{bind}\"\nbackend = \"pool\"\n{frontend}\n\
         [[backend]]\nname = \"pool\"\n{backend}\n"
    );
    for (n, server) in servers.iter().enumerate() {
        text += &format!("[[backend.server]]\nname = \"s{n}\"\naddress = \"tcp://{server}\"\n");
    }
    text
}

/// Where a source's connections go, from many sources.
fn homes(net: &Net, at: SocketAddr) -> Vec<String> {
    let home = |host: u8| {
        let mut stream = connect_from(net.ip(host).into(), at);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"name\n").unwrap();
        rest(&mut stream)
    };
    (130..190).map(home).collect()
}

/// A source keeps its server, also when others are added; a server that drains keeps its connections and gets no new ones;
/// a reload that takes the frontend away takes no connection.
#[test]
fn sources_stick_and_connections_outlive_what_made_them() {
    let net = Net(108);
    let seen = Arc::new(Seen::default());
    let servers = net.servers();
    servers.iter().enumerate().for_each(|(n, at)| serve(*at, n, &seen));
    let (at, looked_at) = (net.free(1), net.free(3));
    let backend =
        "balance = \"roundrobin\"\nstick = { on = \"source\", expire = \"60m\" }\ncheck = { interval = \"1s\" }";
    let text = relay(&format!("tcp://{at}"), &servers, "", backend);
    let balancer = Balancer::start(WORKERS, &format!("{}{text}", admin(looked_at)));
    let socket = balancer.folder.path().join("admin.sock");
    let say = |command: &str| ask(&socket, command).unwrap();
    wait_for("checks that connect", || say("show stat").matches(",L4OK,").count() == 5);
    let first = homes(&net, at);
    assert!(first.iter().all(|home| home.ends_with(", closed")), "{first:?}");
    assert_eq!(homes(&net, at), first, "each source has its server");
    assert_eq!(first.iter().collect::<std::collections::BTreeSet<_>>().len(), 5, "and not all the same");

    let mut held = connect_from(net.ip(130).into(), at);
    held.set_read_timeout(Some(DEADLINE)).unwrap();
    held.write_all(b"echo\n").unwrap();
    let mut echoes = |word: &[u8]| {
        held.write_all(word).unwrap();
        let mut heard = vec![0; word.len()];
        held.read_exact(&mut heard).is_ok_and(|()| heard == word)
    };
    assert!(echoes(b"before"));
    let home: usize = first[0][..1].parse().unwrap();
    wait_for("an open connection to count", || say(&format!("show calls pool/s{home}")).trim() == "1");
    assert_eq!(say(&format!("sip drain pool/s{home}")), "");
    assert!(echoes(b"while it drains"));
    let moved = homes(&net, at);
    let left = |homes: &[String]| homes.iter().filter(|name| name.starts_with(&home.to_string())).count();
    assert_eq!((left(&moved), left(&first) > 0), (0, true), "new ones go elsewhere");
    let stays = |n: usize| first[n] == moved[n] || first[n].starts_with(&home.to_string());
    assert!((0..first.len()).all(stays), "who was elsewhere stays there");

    let file = balancer.folder.path().join("trunkline.toml");
    let whole = std::fs::read_to_string(&file).unwrap();
    let other = relay(&format!("tcp://{}", net.free(1)), &servers[..1], "", "").replace("\"api\"", "\"other\"");
    std::fs::write(&file, whole.replace(&text, &other.replace("pool", "pool-2"))).unwrap();
    let reloaded = say("reload");
    assert!(reloaded.starts_with("Success=1"), "{reloaded}");
    wait_for("the address to be closed", || TcpStream::connect(at).is_err());
    assert!(echoes(b"when nothing of it is in the file any more"));
    drop(held);
    balancer.stop();
}

/// Who takes nothing for longer than the kernel waits by our leave, and then takes all of it, loses none of it.
#[test]
fn a_reader_that_pauses_is_waited_for() {
    const LARGE: usize = 20_000_000;
    let net = Net(188);
    let seen = Arc::new(Seen::default());
    let servers = &net.servers()[..1];
    serve(servers[0], 0, &seen);
    let at = net.free(1);
    let timeouts = "timeout = { client = \"2m\", server = \"2m\" }\ncheck = { type = \"none\" }";
    let balancer = Balancer::start(WORKERS, &relay(&format!("tcp://{at}"), servers, "", timeouts));
    let mut stream = connect(at);
    stream.write_all(format!("push {LARGE}\n").as_bytes()).unwrap();
    let begun = clock();
    wait_longer("the pause", || clock().since(begun) > Duration::from_secs(40));
    let mut piece = vec![0; PIECE];
    assert!((0..LARGE).step_by(PIECE).all(|at| stream.read_exact(&mut piece).is_ok() && piece == pattern(at)));
    assert_eq!(rest(&mut stream), ", closed");
    balancer.stop();
}

/// Who may not come in is turned away by name, and a server that is full is waited for.
#[test]
fn limits_have_names() {
    let net = Net(109);
    let seen = Arc::new(Seen::default());
    let servers = &net.servers()[..1];
    serve(servers[0], 0, &seen);
    let (at, looked_at) = (net.free(1), net.free(3));
    let limits = format!(
        "[frontend.limits]\nmax_connections = 4\nmax_connections_per_source = 2\nper_source_rate = \"1/m\"\nper_source_burst = 4\n\
         deny = [\"{}\"]\n",
        net.ip(140)
    );
    let backend = "check = { type = \"none\" }\ntimeout = { connect = \"300ms\" }";
    let text = relay(&format!("tcp://{at}"), servers, &limits, backend) + "max_calls = 3\n";
    let balancer = Balancer::start(WORKERS, &format!("{}{text}", admin(looked_at)));
    let hold = |host: u8| {
        let mut stream = connect_from(net.ip(host).into(), at);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"echo\nx").unwrap();
        let held = stream.read_exact(&mut [0]).is_ok();
        (stream, held)
    };
    let ends = |name: &str| {
        let name = format!("reason=\"{name}\"}} ");
        let metrics = get(looked_at, "/metrics");
        let line =
            metrics.lines().find(|line| line.starts_with("trunkline_connections_ended_total{") && line.contains(&name));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    assert!(!hold(140).1);
    let both: Vec<_> = (0..2).map(|_| hold(130)).collect();
    assert!(both.iter().all(|(_, held)| *held) && !hold(130).1, "a third of one source");
    let (_third, held) = hold(131);
    assert!(held && !hold(132).1, "the server takes three");
    // Until it is counted it is one of four.
    wait_for("it to be gone", || ends("servers_full") == 1);
    assert!(!hold(130).1 && !hold(130).1, "and this one came too often");
    for (name, count) in [("denied", 1), ("too_many_of_source", 2), ("servers_full", 1), ("rate_limited", 1)] {
        wait_for(name, || ends(name) == count);
    }
    drop(both);
    wait_for("room", || hold(133).1);
    drop(_third);
    let open = || -> Vec<String> {
        let stat = ask(&balancer.folder.path().join("admin.sock"), "show stat").unwrap();
        stat.lines()
            .skip(1)
            .filter_map(|row| row.split(',').nth(4).map(str::to_owned))
            .filter(|open| open != "0")
            .collect()
    };
    assert!(support::process::within(DEADLINE, || open().is_empty()), "nobody is there any more: {:?}", open());
    balancer.stop();
}

/// What [`Circuit::word`](trunkline::state::server::Circuit) says of a server.
fn circuit(say: &impl Fn(&str) -> String, server: &str) -> String {
    let shown = say("sip show breakers");
    let row = shown.lines().map(|row| row.split_whitespace().collect::<Vec<_>>()).find(|row| row[0] == server);
    row.unwrap_or_else(|| panic!("no {server} in {shown}"))[1].to_owned()
}

/// A server that resets whoever asks it loses its new connections, though it lets everybody in; they come back by a few. One
/// whose checks fail goes the same way where that was chosen, before its health says so.
#[test]
fn a_breaker_sees_what_checks_do_not() {
    let net = Net(176);
    let (servers, at, looked_at) = (net.servers(), net.free(1), net.free(3));
    let seen: Vec<_> = (0..5).map(|_| Arc::new(Seen::default())).collect();
    servers.iter().zip(&seen).enumerate().for_each(|(n, (at, seen))| serve(*at, n, seen));
    let breaker =
        "breaker = { failures = 3, open_for = \"2s\", half_open_max = 2, successes = 2, answer_within = \"30s\" }";
    let backend =
        format!("balance = \"roundrobin\"\ncheck = {{ type = \"none\" }}\n{breaker}\ntimeout = {{ client = \"20s\" }}");
    let text = relay(&format!("tcp://{at}"), &servers, "", &backend);
    let balancer = Balancer::start(WORKERS, &format!("{}{text}", admin(looked_at)));
    let socket = balancer.folder.path().join("admin.sock");
    let say = |command: &str| ask(&socket, command).unwrap();
    // A connection that waits for what becomes of it.
    let ask_one = || {
        let mut stream = connect(at);
        stream.write_all(b"moody\n.").unwrap();
        stream
    };
    let told = |mut stream: TcpStream| rest(&mut stream);

    seen[2].mood.store(RESETS, Ordering::Relaxed);
    let mut unanswered = 0;
    wait_for("the breaker to open", || {
        unanswered += (0..5).filter(|_| told(ask_one()).starts_with(',')).count();
        circuit(&say, "pool/s2") == "open"
    });
    assert!(unanswered >= 3, "{unanswered}");
    let all: Vec<_> = (0..100).map(|_| told(ask_one())).collect();
    assert!(
        all.iter().all(|one| ["0, closed", "1, closed", "3, closed", "4, closed"].contains(&one.as_str())),
        "{all:?}"
    );

    // Half-open it gets two at a time, whatever they come to.
    seen[2].mood.store(SILENT, Ordering::Relaxed);
    let is_silent = |stream: &TcpStream, patience: u64| {
        stream.set_read_timeout(Some(Duration::from_millis(patience))).unwrap();
        stream.peek(&mut [0]).is_err()
    };
    let mut held = Vec::new();
    wait_for("trial connections", || {
        held.extend((0..5).map(|_| ask_one()).filter(|stream| is_silent(stream, 100)));
        // Who was only slow has answered by now.
        held.len() >= 2 && {
            held.retain(|stream| is_silent(stream, 2_000));
            held.len() >= 2
        }
    });
    assert!((0..50).all(|_| told(ask_one()).ends_with(", closed")));
    assert_eq!(held.len(), 2);
    wait_for("a half-open breaker to be shown", || circuit(&say, "pool/s2") == "half-open");
    seen[2].mood.store(0, Ordering::Relaxed);
    drop(held);
    wait_for("the breaker to close", || circuit(&say, "pool/s2") == "closed");
    let all: Vec<_> = (0..100).map(|_| told(ask_one())).collect();
    assert_eq!(all.iter().filter(|one| *one == "2, closed").count(), 20, "{all:?}");
    balancer.stop();
}

/// Where nobody listens connections go elsewhere, and after a few nobody is asked in vain; and a server whose checks fail has
/// its breaker opened where that was chosen, long before its health says so.
#[test]
fn a_breaker_counts_connects_and_checks_where_that_is_chosen() {
    let net = Net(177);
    let (servers, at, looked_at) = (net.servers(), net.free(1), net.free(3));
    let seen = Arc::new(Seen::default());
    // The first is not there at all.
    servers.iter().enumerate().skip(1).for_each(|(n, at)| serve(*at, n, &seen));
    let backend =
        "balance = \"roundrobin\"\ncheck = { type = \"none\" }\nbreaker = { failures = 3, open_for = \"1h\" }";
    let folder = tempfile::tempdir().unwrap();
    let [well, ill] = [16, 17].map(|host| net.free(host));
    let _nginx = nginx(folder.path(), &[(well, "return 200 fine;"), (ill, "return 500 ill;")]);
    let checked = "check = { type = \"http\", path = \"/health\", interval = \"500ms\", fast_interval = \"200ms\", fall = 100 }\n\
         breaker = { failures = 3, open_for = \"1h\", checks = true }";
    let web = relay(&format!("tcp://{}", net.free(2)), &[well, ill], "", checked).replace("\"api\"", "\"web\"");
    let text = relay(&format!("tcp://{at}"), &servers, "", backend) + &web.replace("\"pool\"", "\"web\"");
    let balancer = Balancer::start(WORKERS, &format!("{}{text}", admin(looked_at)));
    let socket = balancer.folder.path().join("admin.sock");
    let say = |command: &str| ask(&socket, command).unwrap();
    wait_for("the breaker to open", || {
        assert!((0..5).all(|_| tell(at, "name", b"").ends_with(", closed")));
        circuit(&say, "pool/s0") == "open"
    });
    assert!((0..100).all(|_| !tell(at, "name", b"").starts_with('0')));
    wait_for("the breaker of who fails its checks", || circuit(&say, "web/s1") == "open");
    let stat = say("show servers state web");
    assert!(circuit(&say, "web/s0") == "closed" && stat.lines().count() >= 4, "{stat}");
    balancer.stop();
}

/// nginx answers as each line says, on a port of its own.
fn nginx(folder: &Path, answers: &[(SocketAddr, &str)]) -> Process {
    let sections: String = answers
        .iter()
        .map(|(at, answer)| format!("server {{ listen {at}; location = /health {{ {answer} }} }}\n"))
        .collect();
    let text = format!(
        "daemon off;\nmaster_process off;\nuser root;\nerror_log {0}/error;\npid {0}/pid;\nevents {{}}\n\
         http {{ access_log off; {sections} }}\n",
        folder.display()
    );
    std::fs::write(folder.join("nginx.conf"), text).unwrap();
    let process = Process::start(Command::new("nginx").arg("-c").arg(folder.join("nginx.conf")));
    for (at, _) in answers {
        wait_for("nginx listens", || TcpStream::connect(at).is_ok());
    }
    process
}

/// Status, text, nobody: each check says what it found, in HAProxy's words too; and who is well again is up again.
#[test]
fn checks_of_http_say_what_is_wrong() {
    let net = Net(112);
    let folder = tempfile::TempDir::new().unwrap();
    let servers = net.servers();
    let well = "return 200 'all well';";
    let answers = [well, "return 200 'not quite';", "return 500 'all well';", "return 444;"];
    let answers: Vec<_> = servers.iter().copied().zip(answers).collect();
    let first = nginx(folder.path(), &answers);
    let (at, looked_at) = (net.free(1), net.free(3));
    let check = "check = { type = \"http\", path = \"/health\", expect = \"200\", body = \"all well\", host = \"api.example.ng\", \
                 interval = \"500ms\", fast_interval = \"200ms\", fall = 1, rise = 1 }";
    let text = relay(&format!("tcp://{at}"), &servers, "", check);
    let balancer = Balancer::start(WORKERS, &format!("{}{text}", admin(looked_at)));
    let socket = balancer.folder.path().join("admin.sock");
    let found = || -> Vec<String> {
        let stat = ask(&socket, "show stat").unwrap();
        let rows = stat.lines().filter(|row| row.starts_with("api,s") || row.starts_with("pool,s"));
        let cell = |row: &str, at: usize| row.split(',').nth(at).unwrap_or_default().to_owned();
        rows.map(|row| format!("{} {} {}", cell(row, 17), cell(row, 36), cell(row, 37))).collect()
    };
    let expected = ["UP L7OK 200", "DOWN L7RSP 200", "DOWN L7STS 500", "DOWN L4CON ", "DOWN L4CON "];
    let deadline = support::process::within(DEADLINE, || found() == expected);
    assert!(deadline, "{:?}", found());
    drop(first);
    let all: Vec<_> = servers.iter().map(|at| (*at, well)).collect();
    let _second = nginx(folder.path(), &all);
    wait_for("all to be well", || found().iter().all(|row| row == "UP L7OK 200"));
    balancer.stop();
}

/// TLS goes through, ends here, or ends here and begins anew.
#[test]
fn tls_goes_through_or_ends_here() {
    let net = Net(110);
    let pki = Pki::new();
    let certs = pki.folder.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    pki.put(&certs.join("edge.pem"), &pki.pem("edge", "DNS:edge.example.ng"));
    let of_server = pki.pem("server", "DNS:pbx.example.ng");
    pki.put(&pki.path("server.pem"), &of_server);
    let speaks_tls = Server::start(&pki.path("server.pem"), &pki.path("server.key"), &[]);
    let seen = Arc::new(Seen::default());
    let plain = net.free(11);
    serve(plain, 0, &seen);
    let ats = [0; 3].map(|_| net.free(1));
    let section = |name: &str, bind: String, tls: bool, server: String, backend: &str| {
        let tls = if tls { format!("[frontend.tls]\ncertificates = \"{}\"\n", certs.display()) } else { String::new() };
        format!(
            "[[frontend]]\nname = \"{name}\"\nmode = \"relay\"\nbind = \"{bind}\"\nbackend = \"{name}\"\n{tls}\
             [[backend]]\nname = \"{name}\"\n{backend}\n[[backend.server]]\nname = \"s\"\naddress = \"{server}\"\n"
        )
    };
    let other = net.free(12);
    // One server, under two addresses: a server stands in one backend only.
    let forward = TcpListener::bind(other).unwrap();
    let to = speaks_tls.address;
    thread::spawn(move || {
        for stream in forward.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(to).unwrap();
            for (mut from, mut to) in [(stream.try_clone().unwrap(), server.try_clone().unwrap()), (server, stream)] {
                thread::spawn(move || {
                    // However it ended: `s_server` serves one at a time, and a check's reset must not hold it.
                    let _ = std::io::copy(&mut from, &mut to);
                    to.shutdown(Shutdown::Write)
                });
            }
        }
    });
    let config = section("through", format!("tcp://{}", ats[0]), false, format!("tcp://{to}"), "")
        + &section("ends", format!("tls://{}", ats[1]), true, format!("tcp://{plain}"), "")
        + &section(
            "anew",
            format!("tls://{}", ats[2]),
            true,
            format!("tls://{other}\"\ntls_name = \"pbx.example.ng"),
            &format!("tls = {{ ca = \"{}\" }}", pki.path("root.ca").display()),
        );
    let mut balancer = Balancer::start(WORKERS, &config);
    let root = pki.path("root.ca");
    let root = root.to_str().unwrap();
    for (at, name, say, hear) in [
        (ats[0], "pbx.example.ng", "abc", "cba"),
        (ats[1], "edge.example.ng", "echo\nabc", "abc"),
        (ats[2], "edge.example.ng", "abc", "cba"),
    ] {
        let mut client = Client::start(
            at,
            &[
                "-CAfile",
                root,
                "-verify_hostname",
                name,
                "-verify_return_error",
                "-quiet",
                "-servername",
                name,
                // As a browser does.
                "-alpn",
                "h2,http/1.1",
            ],
        );
        client.say(say);
        client.hear(hear);
    }
    balancer.process.signal(Signal::SIGTERM);
    wait_for("its end", || balancer.process.child.try_wait().unwrap().is_some());
}
