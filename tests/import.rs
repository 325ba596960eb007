//! What people have in haproxy.cfg, run by HAProxy and, imported, by us: clients cannot tell them apart.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use support::pki::Pki;
use support::process::{Balancer, DEADLINE, Process, output, program, wait_for};
use support::regions::Net;
use support::streams::{Messages, connect_from, invite, serve_tcp};
use support::workers::free_port;

/// Both before the same servers.
struct Sides {
    /// Ours, theirs.
    at: [IpAddr; 2],
    ours: Balancer,
    _theirs: Process,
    /// What `import` left to do by hand.
    left: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Sides {
    /// This haproxy.cfg, whose proxies listen at HERE, with HAProxy and, imported, with us. `by_hand`: what a person does to the
    /// file then.
    fn start(net: &Net, cfg: &str, by_hand: impl Fn(String) -> String) -> Self {
        let at = [1, 4].map(|host| IpAddr::from(net.ip(host)));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        let write = |of: IpAddr| std::fs::write(&file, cfg.replace("HERE", &of.to_string())).unwrap();
        write(at[0]);
        let imported = output(Command::new(program()).arg("import").arg(&file));
        let report = String::from_utf8(imported.stderr).unwrap();
        let told = |word: &str| report.lines().filter(|line| line.contains(&format!(": {word}: "))).count();
        let said = cfg.lines().filter(|line| !line.trim().is_empty()).count();
        assert_eq!(told("translated") + told("not needed") + told("by hand"), said, "{report}");
        let left: Vec<_> = report.lines().filter(|line| line.contains(": by hand: ")).map(str::to_owned).collect();
        assert_eq!(imported.status.code(), Some(if left.is_empty() { 0 } else { 3 }), "{report}");
        let text = by_hand(String::from_utf8(imported.stdout).unwrap());
        write(at[1]);
        let theirs = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(&file));
        // As `check` wants it, which a start does first.
        let ours = Balancer::start(4, &text);
        Self { at, ours, _theirs: theirs, left, _folder: folder }
    }

    /// Where a port of both is, once both let clients in.
    fn both(&self, port: u16) -> [SocketAddr; 2] {
        let at = self.at.map(|ip| SocketAddr::new(ip, port));
        wait_for("both listen", || at.iter().all(|at| TcpStream::connect(at).is_ok()));
        at
    }
}

fn connect(source: IpAddr, at: SocketAddr) -> TcpStream {
    let stream = connect_from(source, at);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Who was asked since the last time, without what checks ask.
fn asked(seen: &Receiver<(usize, String)>) -> Vec<usize> {
    seen.try_iter().filter(|(_, request)| request.starts_with("INVITE")).map(|(server, _)| server).collect()
}

#[test]
fn a_pool_of_sip_over_tcp_with_checks_and_a_stick_table() {
    let net = Net(182);
    let (sender, seen) = channel();
    let servers = net.servers();
    // The last one is dead: nothing may go there.
    for (n, at) in servers.iter().enumerate().take(4) {
        serve_tcp(TcpListener::bind(at).unwrap(), sender.clone(), n);
    }
    let lines: String = servers.iter().enumerate().map(|(n, at)| format!("    server pbx-{n} {at} check\n")).collect();
    let cfg = format!(
        "defaults\n    mode tcp\n    timeout connect 2s\n    timeout client 2m\n    timeout server 2m\n\
         frontend sip\n    bind HERE:5060\n    tcp-request connection reject if {{ src {} }}\n    default_backend pbx\n\
         backend pbx\n    balance roundrobin\n    stick-table type ip size 10k expire 60m\n    stick on src\n    option redispatch 1\n    option tcp-check\n    \
         tcp-check connect\n    tcp-check send \"OPTIONS sip:check@pbx SIP/2.0\\r\\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKc\\r\\n\
         From: <sip:c@pbx>;tag=1\\r\\nTo: <sip:check@pbx>\\r\\nCall-ID: check\\r\\nCSeq: 1 OPTIONS\\r\\nContent-Length: 0\\r\\n\\r\\n\"\n    \
         tcp-check expect string SIP/2.0\\ 200\n    default-server inter 500ms fastinter 200ms rise 1 fall 2\n{lines}",
        net.ip(140)
    );
    let sides = Sides::start(&net, &cfg, |text| text);
    assert_eq!(sides.left, [""; 0]);
    for (side, at) in sides.both(5060).into_iter().enumerate() {
        let call = |host: u8, call: usize| {
            let stream = connect(net.ip(host).into(), at);
            (&stream).write_all(invite(call, "TCP").as_bytes()).unwrap();
            let answer = Messages::of(&stream).next().unwrap_or_default();
            assert!(answer.starts_with("SIP/2.0 200 "), "{side}: {answer}");
        };
        // Until a check has found the dead one a call may go there, and is tried elsewhere.
        let mut homes = Vec::new();
        for round in 0..3 {
            (150..190).for_each(|host| call(host, side * 1000 + round * 100 + usize::from(host)));
            homes.push(asked(&seen));
        }
        assert_eq!(homes[0].len(), 40, "{side}: each once");
        assert!(homes[0] == homes[1] && homes[1] == homes[2], "{side}: each source has its server: {homes:?}");
        let all: BTreeSet<_> = homes[0].iter().copied().collect();
        assert_eq!(all, (0..4).collect(), "{side}: each living server has some");
        let mut denied = connect(net.ip(140).into(), at);
        let _ = denied.write_all(invite(1, "TCP").as_bytes());
        let mut heard = String::new();
        let _ = denied.read_to_string(&mut heard);
        assert_eq!((heard.as_str(), asked(&seen).len()), ("", 0), "{side}: who is rejected hears nothing");
    }
    sides.ours.stop();
}

/// Answers each connection's request line by line: health by what it is told, all else with its number.
fn web(at: SocketAddr, number: usize, well: &Arc<Mutex<bool>>) {
    let (listener, well) = (TcpListener::bind(at).unwrap(), Arc::clone(well));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let well = Arc::clone(&well);
            thread::spawn(move || answer(stream, number, &well).ok());
        }
    });
}

fn answer(mut stream: TcpStream, number: usize, well: &Mutex<bool>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let (mut request, mut byte) = (String::new(), [0]);
    while !request.ends_with("\r\n\r\n") && stream.read(&mut byte)? == 1 {
        request.push(char::from(byte[0]));
    }
    let ok = !request.contains("/health") || *well.lock().unwrap();
    let status = if ok { "200 OK" } else { "503 Service Unavailable" };
    let text = number.to_string();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
}

/// Who answers a request over TLS.
fn get_over_tls(pki: &Pki, source: IpAddr, at: SocketAddr) -> String {
    let client = rustls::ClientConnection::new(pki.trusting(), "api.example.ng".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(client, connect(source, at));
    stream.write_all(b"GET /v1/calls HTTP/1.1\r\nHost: api.example.ng\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8(heard).unwrap().rsplit("\r\n").next().unwrap().to_owned()
}

#[test]
fn an_https_api_with_checks_of_http() {
    let (net, pki) = (Net(183), Pki::new());
    let folder = pki.path("certs");
    std::fs::create_dir(&folder).unwrap();
    pki.put(&folder.join("api.pem"), &pki.pem("api", "DNS:api.example.ng"));
    let wells: Vec<_> = (0..5).map(|_| Arc::new(Mutex::new(true))).collect();
    let servers = net.servers();
    servers.iter().zip(&wells).enumerate().for_each(|(n, (at, well))| web(*at, n, well));
    *wells[3].lock().unwrap() = false;
    let port = free_port(&net.ip(1).to_string());
    let lines: String = servers.iter().enumerate().map(|(n, at)| format!("    server api-{n} {at} check\n")).collect();
    let cfg = format!(
        "defaults\n    mode tcp\n    timeout connect 2s\n    timeout client 1m\n    timeout server 1m\n\
         frontend api\n    bind HERE:{port} ssl crt {}/\n    maxconn 500\n    default_backend api\n\
         backend api\n    balance leastconn\n    option httpchk GET /health\n    http-check expect status 200\n    \
         default-server inter 300ms rise 1 fall 1\n{lines}",
        folder.display()
    );
    let sides = Sides::start(&net, &cfg, |text| text);
    assert_eq!(sides.left, [""; 0]);
    for at in sides.both(port) {
        let who = || -> BTreeSet<String> { (0..30).map(|n| get_over_tls(&pki, net.ip(150 + n).into(), at)).collect() };
        let expected = |gone: &[usize]| (0..5).filter(|n| !gone.contains(n)).map(|n| n.to_string()).collect();
        wait_for("who fails its check to be left alone", || who() == expected(&[3]));
        *wells[1].lock().unwrap() = false;
        wait_for("another one, too", || who() == expected(&[1, 3]));
        *wells[1].lock().unwrap() = true;
        wait_for("it to come back", || who() == expected(&[3]));
    }
    sides.ours.stop();
}

/// A server that says its number, or resets whoever comes, as it is told.
fn engine(at: SocketAddr, number: usize, well: &Arc<Mutex<bool>>) {
    let (listener, well) = (TcpListener::bind(at).unwrap(), Arc::clone(well));
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            match *well.lock().unwrap() {
                true => drop(stream.write_all(&[b'0' + number as u8])),
                false => {
                    let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
                }
            }
        }
    });
}

#[test]
fn a_pool_of_engines_with_a_spare_that_watches_live_connections() {
    let net = Net(184);
    let wells: Vec<_> = (0..5).map(|_| Arc::new(Mutex::new(true))).collect();
    let servers = net.servers();
    servers.iter().zip(&wells).enumerate().for_each(|(n, (at, well))| engine(*at, n, well));
    let port = free_port(&net.ip(1).to_string());
    let own: String = (0..4).map(|n| format!("    server engine-{n} {} check\n", servers[n])).collect();
    let cfg = format!(
        "defaults\n    mode tcp\n    retries 3\n    option redispatch\n    timeout connect 2s\n    timeout client 1m\n    timeout server 1m\n\
         listen engine\n    bind HERE:{port}\n    balance roundrobin\n    option tcp-check\n    \
         stick-table type ip size 1k expire 10s store conn_rate(10s),conn_cur\n    tcp-request connection track-sc0 src\n    \
         tcp-request connection reject if {{ sc0_conn_rate gt 1000 }}\n    \
         default-server inter 1s rise 1 fall 3 observe layer4 error-limit 3 on-error mark-down\n{own}    \
         server spare {} check backup\n",
        servers[4]
    );
    let sides = Sides::start(&net, &cfg, |text| text);
    assert_eq!(sides.left, [""; 0]);
    for at in sides.both(port) {
        let ask = |host: u8| {
            let mut stream = connect(net.ip(host).into(), at);
            let mut heard = String::new();
            let _ = stream.read_to_string(&mut heard);
            heard
        };
        let who = || -> BTreeSet<String> { (130..170).map(ask).collect() };
        let all = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        wait_for("each engine, and not the spare", || who() == all(&["0", "1", "2", "3"]));
        // It lets everybody in, so its checks pass, and breaks off: live connections tell.
        *wells[2].lock().unwrap() = false;
        wait_for("who breaks off to be left alone", || who() == all(&["0", "1", "3"]));
        *wells[2].lock().unwrap() = true;
    }
    sides.ours.stop();
}

#[test]
fn statistics_with_a_login() {
    let net = Net(185);
    let servers = net.servers();
    let (stats, port) = (free_port(&net.ip(1).to_string()), free_port(&net.ip(1).to_string()));
    let lines: String = servers.iter().enumerate().map(|(n, at)| format!("    server s{n} {at}\n")).collect();
    let cfg = format!(
        "defaults\n    mode http\n    timeout connect 2s\n    timeout client 1m\n    timeout server 1m\n\
         listen stats\n    bind HERE:{stats}\n    stats enable\n    stats uri /stats\n    stats auth ada:a good password\n    \
         stats admin if TRUE\n\
         listen api\n    mode tcp\n    bind HERE:{port}\n    balance roundrobin\n{lines}"
    )
    .replace("a good password", "secret");
    let hash = hashed("secret");
    let mark = "# password_hash = what `trunkline hash-password` prints";
    let sides = Sides::start(&net, &cfg, |text| {
        assert!(text.contains(mark), "{text}");
        text.replace(mark, &format!("password_hash = \"{hash}\""))
    });
    let [right, wrong] = ["YWRhOnNlY3JldA==", "YWRhOndyb25n"];
    // The password, which nobody can read; and `mode http` of the defaults, which nothing here is.
    assert!(sides.left.iter().any(|line| line.contains("stats auth")), "{:?}", sides.left);
    for at in sides.both(stats) {
        let get = |path: &str, login: Option<&str>| {
            let login = login.map_or(String::new(), |login| format!("Authorization: Basic {login}\r\n"));
            let mut stream = connect(net.ip(150).into(), at);
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\n{login}Connection: close\r\n\r\n").unwrap();
            let mut heard = String::new();
            let _ = stream.read_to_string(&mut heard);
            heard
        };
        assert!(get("/stats", None).starts_with("HTTP/1.1 401 "));
        assert!(get("/stats", Some(wrong)).starts_with("HTTP/1.1 401 "));
        assert!(get("/stats", Some(right)).starts_with("HTTP/1.1 200 "));
        let table = get("/stats;csv", Some(right));
        for n in 0..5 {
            assert!(table.contains(&format!("api,s{n},")), "{table}");
        }
    }
    sides.ours.stop();
}

/// As a person has it made.
fn hashed(password: &str) -> String {
    let mut command = Command::new(program());
    command.arg("hash-password").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = support::process::spawn(&mut command).unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
