//! The door for browsers and tools, as they use it: raw requests to the real process.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};
use support::process::{Balancer, Process, global, wait_for};
use support::workers::free_port;

const WORKERS: usize = 4;

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Reads one; `None` where the connection ended before.
    fn read(from: &mut impl BufRead, has_body: bool) -> Option<Self> {
        let mut line = String::new();
        from.read_line(&mut line).ok().filter(|octets| *octets > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            from.read_line(&mut line).ok().filter(|octets| *octets > 0)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut answer = Self { status, headers, body: String::new() };
        if has_body {
            let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            from.read_exact(&mut body).ok()?;
            answer.body = String::from_utf8(body).unwrap();
        }
        Some(answer)
    }
}

/// A connection from an address of loopback.
fn connect_from(ip: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((ip, 0)).into())?;
    socket.connect(&to.into())?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(socket.into())
}

fn connect(to: SocketAddr) -> BufReader<TcpStream> {
    BufReader::new(connect_from([127, 0, 0, 1], to).unwrap())
}

fn say(stream: &mut BufReader<TcpStream>, request: &str) -> Answer {
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    Answer::read(stream, !request.starts_with("HEAD")).unwrap_or_else(|| panic!("no answer to {request}"))
}

fn ask(to: SocketAddr, request: &str) -> Answer {
    say(&mut connect(to), request)
}

/// A request with a log-in, if there is one.
fn request(method: &str, uri: &str, login: Option<&str>, body: &str) -> String {
    let login = login.map_or(String::new(), |login| format!("Authorization: Basic {login}\r\n"));
    let length = if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    format!("{method} {uri} HTTP/1.1\r\nHost: edge\r\n{login}{length}\r\n{body}")
}

fn hash(password: &str) -> String {
    let cheap = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    cheap.hash_password(password.as_bytes()).unwrap().to_string()
}

/// `ada:secret`, `oscar:secret`, `tv:secret`, and `ada:guess`.
const ADA: &str = "YWRhOnNlY3JldA==";
const OSCAR: &str = "b3NjYXI6c2VjcmV0";
const TV: &str = "dHY6c2VjcmV0";
const GUESS: &str = "YWRhOmd1ZXNz";

fn users() -> String {
    let user = |name: &str, role: &str| {
        format!("[[admin.users]]\nname = \"{name}\"\npassword_hash = \"{}\"\nrole = \"{role}\"\n", hash("secret"))
    };
    user("ada", "admin") + &user("oscar", "operator") + &user("tv", "viewer")
}

/// A balancer with two servers that nobody checks.
struct Edge {
    balancer: Balancer,
    stats: SocketAddr,
    health: SocketAddr,
    sip: SocketAddr,
    rest: String,
}

impl Edge {
    /// On an address of its own.
    fn start(net: u8, users: &str) -> Self {
        Self::start_checked(net, users, "type = \"none\"")
    }

    fn start_checked(net: u8, users: &str, check: &str) -> Self {
        let ip = format!("127.0.5.{net}");
        let at = || SocketAddr::new(ip.parse::<IpAddr>().unwrap(), free_port(&ip));
        let (stats, health, sip) = (at(), at(), at());
        let rest = format!(
            "{users}[[frontend]]\nname = \"f\"\nbind = \"udp://{sip}\"\nbackend = \"pbx\"\n\
             [[backend]]\nname = \"pbx\"\ncheck = {{ {check} }}\n\
             [[backend.server]]\nname = \"one\"\naddress = \"udp://127.0.3.{net}:5060\"\n\
             [[backend.server]]\nname = \"two\"\naddress = \"udp://127.0.3.{net}:5070\"\n"
        );
        let admin = Self::admin(stats, &format!("\"{health}\""));
        Self { balancer: Balancer::start(WORKERS, &(admin + &rest)), stats, health, sip, rest }
    }

    fn admin(stats: SocketAddr, health: &str) -> String {
        format!("[admin]\nstats = \"{stats}\"\nhealth = {health}\nmetrics = \"off\"\n")
    }

    /// Writes another configuration, and says what a reload makes of it.
    fn reload(&mut self, admin: &str, rest: &str) -> String {
        let text = global(&self.balancer.folder, WORKERS) + admin + rest;
        std::fs::write(self.balancer.folder.path().join("trunkline.toml"), text).unwrap();
        self.balancer.process.signal(Signal::SIGHUP);
        self.balancer.process.line_with("reload")
    }

    fn form(&self, login: Option<&str>, body: &str) -> String {
        let answer = ask(self.stats, &request("POST", "/stats", login, body));
        answer.header("location").unwrap_or_else(|| panic!("{answer:?}")).to_owned()
    }
}

#[test]
fn who_may_do_what() {
    let edge = Edge::start(1, &users());
    let (none, wrong) = (None, Some(GUESS));
    for (method, uri, expected) in [
        ("GET", "/stats", [401, 401, 200, 200, 200]),
        ("GET", "/stats/;csv", [401, 401, 200, 200, 200]),
        ("GET", "/", [401, 401, 303, 303, 303]),
        ("GET", "/nowhere", [401, 401, 404, 404, 404]),
        ("GET", "/metrics", [401, 401, 200, 200, 200]),
        ("GET", "/health", [401, 401, 200, 200, 200]),
        ("HEAD", "/ready", [401, 401, 200, 200, 200]),
        ("PUT", "/stats", [401, 401, 405, 405, 405]),
        ("POST", "/health", [401, 401, 405, 405, 405]),
        ("POST", "/stats", [401, 401, 303, 303, 303]),
    ] {
        let logins = [none, wrong, Some(TV), Some(OSCAR), Some(ADA)];
        // The wrong one last: its source is not known yet then.
        let answers = [0, 2, 3, 4, 1].map(|at| {
            let from = if at == 1 { [127, 0, 9, 1] } else { [127, 0, 0, 1] };
            let mut stream = BufReader::new(connect_from(from, edge.stats).unwrap());
            (at, say(&mut stream, &request(method, uri, logins[at], "s=one&action=ready&b=pbx")))
        });
        for (at, answer) in &answers {
            assert_eq!(answer.status, expected[*at], "{method} {uri} of {:?}: {answer:?}", logins[*at]);
            let realm = (answer.status == 401).then_some("Basic realm=\"HAProxy Statistics\"");
            assert_eq!(answer.header("www-authenticate"), realm);
            assert!(answer.status != 405 || answer.header("allow").is_some(), "{answer:?}");
        }
        // What a wrong password costs is forgotten with the next that is right.
        let mut stream = BufReader::new(connect_from([127, 0, 9, 1], edge.stats).unwrap());
        say(&mut stream, &request("GET", "/stats", Some(TV), ""));
    }
    for (uri, status) in [("/health", 200), ("/ready", 200), ("/stats", 404), ("/metrics", 404), ("/", 404)] {
        assert_eq!(
            ask(edge.health, &request("GET", uri, None, "")).status,
            status,
            "{uri} where only health is served"
        );
    }
    let drain = "s=one&action=drain&b=pbx";
    assert_eq!(edge.form(Some(TV), drain), "/stats;st=DENY");
    assert_eq!(edge.form(Some(OSCAR), drain), "/stats;st=DONE");
    let other =
        request("POST", "/stats", Some(ADA), drain).replace("Host: edge", "Host: edge\r\nOrigin: http://evil.example");
    assert_eq!(ask(edge.stats, &other).status, 403, "a page of another site");
    let mut balancer = edge.balancer;
    let line = balancer.process.line_with("from=\"ready\" to=\"drain\"");
    assert!(line.contains("who=oscar from 127.0.0.1 (page)") && line.contains("pbx/one"), "{line}");
    balancer.stop();
}

#[test]
fn without_users_everybody_may_look_and_nobody_may_change_anything() {
    let edge = Edge::start(2, "");
    assert_eq!(ask(edge.stats, &request("GET", "/stats", None, "")).status, 200);
    assert_eq!(edge.form(None, "s=one&action=drain&b=pbx"), "/stats;st=DENY");
    assert_eq!(edge.form(Some(ADA), "s=one&action=drain&b=pbx"), "/stats;st=DENY");
    edge.balancer.stop();
}

#[test]
fn guesses_are_slowed_and_who_is_known_is_not() {
    let mut edge = Edge::start(3, &users());
    assert_eq!(ask(edge.stats, &request("GET", "/stats", Some(ADA), "")).status, 200);
    // All at once, from the same source.
    let mut guesses: Vec<_> = (0..40).map(|_| connect(edge.stats)).collect();
    for stream in &mut guesses {
        stream.get_mut().write_all(request("GET", "/stats", Some(GUESS), "").as_bytes()).unwrap();
    }
    assert_eq!(ask(edge.stats, &request("GET", "/stats", Some(ADA), "")).status, 200, "who is known does not wait");
    let answers: Vec<_> = guesses.iter_mut().map(|stream| Answer::read(stream, true).unwrap()).collect();
    let of = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    let busy = answers.iter().filter(|answer| answer.header("retry-after") == Some("10")).count();
    assert_eq!((of(401), of(503), busy), (6, 34, 34));
    edge.balancer.process.line_with("log-in refused");
    wait_for("each guess in the log", || {
        edge.balancer.process.said().matches("log-in refused user=\"ada\"").count() == 6
    });
    edge.balancer.stop();
}

#[test]
fn slow_clients_keep_nobody_from_asking_for_health_and_are_let_go() {
    let edge = Edge::start(4, &users());
    let half = "GET /stats HTTP/1.1\r\nHost: edge\r\nX-Slow";
    // 500 from ten sources; each has half a head and then nothing to say.
    let mut slow: Vec<_> =
        (0..500u32).map(|n| connect_from([127, 0, 8, (n / 50) as u8 + 1], edge.stats).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(half.as_bytes()).unwrap();
    }
    for _ in 0..20 {
        assert_eq!(ask(edge.health, &request("GET", "/health", None, "")).status, 200);
    }
    assert_eq!(ask(edge.stats, &request("GET", "/stats", Some(ADA), "")).status, 200, "there are twelve places left");
    // One source has 64 places, and no more.
    let many: Vec<_> = (0..70).map(|_| connect_from([127, 0, 8, 100], edge.health).unwrap()).collect();
    many.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let is_open =
        |stream: &&TcpStream| stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    wait_for("those that are too many are closed", || many.iter().filter(is_open).count() <= 64);
    assert_eq!(ask(edge.health, &request("GET", "/health", None, "")).status, 200, "another source has its own");
    assert_eq!(many.iter().filter(is_open).count(), 64);
    drop(many);
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    }
    let again: Vec<_> = (0..60).map(|_| connect_from([127, 0, 8, 1], edge.stats).unwrap()).collect();
    for stream in again {
        let answer = say(&mut BufReader::new(stream), &request("GET", "/health", Some(ADA), ""));
        assert_eq!(answer.status, 200, "their places are free again");
    }
    edge.balancer.stop();
}

#[test]
fn what_is_too_large_or_no_http_is_refused_and_what_is_pipelined_is_answered_in_order() {
    let edge = Edge::start(5, &users());
    let headers = |count: usize| (0..count).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    let with = |more: &str| format!("GET /health HTTP/1.1\r\nHost: edge\r\n{more}\r\n");
    for (sent, status) in [
        (with(&headers(60)), 200),
        (with(&headers(70)), 431),
        (with(&format!("X: {}\r\n", "y".repeat(12_000))), 200),
        (with(&format!("X: {}\r\n", "y".repeat(40_000))), 431),
        ("HELLO\r\n\r\n".to_owned(), 400),
        (with("Content-Length: x\r\n"), 400),
    ] {
        let mut stream = connect(edge.health);
        // It may be cut off while the rest is being sent.
        let _ = stream.get_mut().write_all(sent.as_bytes());
        let answer = Answer::read(&mut stream, true);
        let begin = &sent[..sent.len().min(80)];
        assert!(answer.as_ref().is_none_or(|answer| answer.status == status), "{begin}: {answer:?}");
        // Only who has more to say than is read may find the connection reset before it has read the answer.
        assert!(answer.is_some() || sent.len() > 16_384, "{begin}");
    }
    let mut stream = connect(edge.health);
    let two = with("").replace("/health", "/ready") + &with("") + &with("").replace("GET", "HEAD");
    stream.get_mut().write_all(two.as_bytes()).unwrap();
    let [first, second] = [(); 2].map(|()| Answer::read(&mut stream, true).unwrap());
    let third = Answer::read(&mut stream, false).unwrap();
    assert_eq!([first.status, second.status, third.status], [200; 3]);
    assert_eq!(first.body, second.body);
    assert_eq!(third.header("content-length"), second.header("content-length"), "HEAD has the headers of GET");
    let end = say(&mut stream, &with("Connection: close\r\n"));
    assert_eq!(
        (end.status, stream.read(&mut [0; 1]).unwrap()),
        (200, 0),
        "and no body: what follows is the next answer"
    );
    // A body that never comes.
    let mut stream = connect(edge.stats);
    let cut = request("POST", "/stats", Some(ADA), "s=one").replace("Content-Length: 5", "Content-Length: 50");
    assert_eq!(say(&mut stream, &cut).status, 408);
    edge.balancer.stop();
}

#[test]
fn a_reload_changes_users_and_listeners_and_drops_no_connection() {
    let mut edge = Edge::start(6, &users());
    let (stats, health, rest) = (edge.stats, edge.health, edge.rest.clone());
    let mut open = connect(stats);
    let get = |uri: &str| request("GET", uri, Some(ADA), "");
    assert_eq!(say(&mut open, &get("/health")).status, 200);
    let mut stream = connect(stats);
    stream.get_mut().write_all(get("/api/v1/stream").as_bytes()).unwrap();
    let mut line = String::new();
    while !line.starts_with("event: picture") {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "it was let in");
    }
    // Another user with the same name and another password.
    let said = edge.reload(
        &Edge::admin(stats, &format!("\"{health}\"")),
        &rest.replacen(
            &rest[..rest.find("role").unwrap()],
            &format!("[[admin.users]]\nname = \"ada\"\npassword_hash = \"{}\"\n", hash("other")),
            1,
        ),
    );
    assert!(said.contains("reloaded"), "{said}");
    edge.balancer.process.line_with("changed: admin: users changed");
    assert_eq!(say(&mut open, &get("/health")).status, 401, "at once, on the same connection");
    while !line.starts_with("event: bye") {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "who looks on is told that it must ask again");
    }
    assert!(!edge.balancer.process.said().contains("$argon2id"), "no hash is in the log");
    // Health moves to the listener of stats, where it needs no log-in then, and the other closes.
    let said = edge.reload(&Edge::admin(stats, &format!("\"{stats}\"")), &rest);
    assert!(said.contains("reloaded"), "{said}");
    wait_for("the listener closed", || TcpStream::connect(health).is_err());
    assert_eq!(say(&mut open, &request("GET", "/health", None, "")).status, 200, "the same connection");
    assert_eq!(say(&mut open, &get("/stats")).status, 200);
    // An address that somebody has.
    let taken = std::net::TcpListener::bind(health).unwrap();
    let said = edge.reload(&Edge::admin(stats, &format!("\"{health}\"")), &rest);
    assert!(said.contains("reload refused, nothing was changed"), "{said}");
    let why = edge.balancer.process.line_with("[admin]");
    assert!(why.contains(&health.to_string()) && why.contains("in use"), "{why}");
    drop(taken);
    assert_eq!(say(&mut open, &request("GET", "/health", None, "")).status, 200);
    // Nothing at all.
    let said = edge
        .reload("", rest.split_once("[[frontend]]").map(|(_, rest)| format!("[[frontend]]{rest}")).as_deref().unwrap());
    assert!(said.contains("reloaded"), "{said}");
    wait_for("no listener is left", || TcpStream::connect(stats).is_err());
    edge.balancer.stop();
}

#[test]
fn not_ready_without_servers_and_from_the_signal_on() {
    let edge = Edge::start(7, &users());
    let becomes = |status: u16, start: &str, words: &[&str]| {
        wait_for(&format!("{status} {start} {words:?}"), || {
            let answer = ask(edge.health, &request("GET", "/ready", None, ""));
            let body = answer.body.as_str();
            answer.status == status && body.starts_with(start) && words.iter().all(|word| body.contains(word))
        });
    };
    let healthy = "{\"status\":\"healthy\",\"components\":{\"backend/pbx\":{\"status\":\"healthy\"";
    let workers: Vec<_> = (0..WORKERS).map(|worker| format!("\"worker-{worker}\":")).collect();
    becomes(200, healthy, &workers.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(edge.form(Some(ADA), "s=one&action=drain&b=pbx"), "/stats;st=DONE");
    becomes(200, "", &["\"status\":\"degraded\"", "1 of 2 servers take new calls"]);
    assert_eq!(edge.form(Some(ADA), "s=two&action=maint&b=pbx"), "/stats;st=DONE");
    becomes(503, "{\"status\":\"unhealthy\"", &[]);
    assert_eq!(ask(edge.health, &request("GET", "/health", None, "")).status, 200, "it is alive");
    assert_eq!(edge.form(Some(ADA), "s=one&s=two&action=ready&b=pbx"), "/stats;st=DONE");
    becomes(200, "", &[]);
    // What is in flight keeps it from stopping at once.
    let (client, mut stream) = (UdpSocket::bind("127.0.1.90:0").unwrap(), connect(edge.health));
    let get = request("GET", "/ready", None, "");
    assert_eq!(say(&mut stream, &get).status, 200);
    edge.balancer.process.signal(Signal::SIGTERM);
    let mut answers = Vec::new();
    loop {
        let _ = client.send_to(b"\r\n\r\n", edge.sip);
        let _ = stream.get_mut().write_all(get.as_bytes());
        match Answer::read(&mut stream, true) {
            Some(answer) => answers.push(answer),
            None => break,
        }
    }
    let stopping = answers.iter().skip_while(|answer| answer.status == 200).count();
    assert!(stopping > 0, "{} answers", answers.len());
    let late = &answers[answers.len() - stopping..];
    assert!(late.iter().all(|answer| answer.status == 503 && answer.body.contains("stopping: send calls elsewhere")));
    let (code, _) = edge.balancer.process.end();
    assert_eq!(code, Some(0));
}

/// HAProxy with the same servers.
struct Oracle {
    _process: Process,
    at: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Oracle {
    fn start(net: u8) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let ip = format!("127.0.5.{net}");
        let at = SocketAddr::new(ip.parse().unwrap(), free_port(&ip));
        let config = format!(
            "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
             frontend f\n  id 2\n  bind {at}\n  stats enable\n  stats uri /stats\n  stats admin if TRUE\n\
             backend pbx\n  id 3\n  server one 127.0.3.{net}:5060\n  server two 127.0.3.{net}:5070\n"
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(file));
        wait_for("HAProxy listens", || TcpStream::connect(at).is_ok());
        Self { _process: process, at, _folder: folder }
    }
}

/// What of an answer must be the same.
fn normal(answer: &Answer) -> (u16, [Option<&str>; 4]) {
    (answer.status, ["location", "cache-control", "content-type", "content-length"].map(|name| answer.header(name)))
}

/// Forms as people, browsers and tools send them, and as none of them should, in this order.
const FORMS: &[&str] = &[
    "s=one&action=ready&b=pbx",
    "s=one&action=ready&b=%233",
    "s=one&action=ready&b=#3",
    "s=one&action=ready&b=#2",
    "s=one&action=ready&b=#4",
    "s=one&action=ready&b=#",
    "s=one&s=two&action=drain&b=pbx",
    "s=one&s=three&action=drain&b=pbx",
    "s=three&action=drain&b=pbx",
    "s=&action=drain&b=pbx",
    "s=ONE&action=drain&b=pbx",
    "action=drain&b=pbx",
    "s=one&b=pbx",
    "s=one&action=drain",
    "s=one",
    "",
    "&",
    "&&s=one&&action=ready&&b=pbx&&",
    "b=pbx&action=ready&s=one",
    "action=ready&s=one&b=pbx&s=two",
    "b=nobody&action=ready&s=one",
    "s=one&action=bogus&b=pbx",
    "s=one&action=READY&b=pbx",
    "s=one&action=bogus&action=ready&b=pbx",
    "s=one&action=ready&action=bogus&b=pbx",
    "s=one&action=ready&b=nobody&b=pbx",
    "s=%6fne&action=ready&b=pbx",
    "s=one%&action=ready&b=pbx",
    "s=one&s=%zz&s=two&action=ready&b=pbx",
    "s=one%00x&action=ready&b=pbx",
    "s=on+e&action=ready&b=pbx",
    // From one to the other and back, as the words of old do it.
    "s=one&action=maint&b=pbx",
    "s=one&action=disable&b=pbx",
    "s=one&action=enable&b=pbx",
    "s=one&action=enable&b=pbx",
    "s=one&s=two&action=disable&b=pbx",
    "s=one&s=two&action=ready&b=pbx",
    "s=one&action=stop&b=pbx",
    "s=one&action=stop&b=pbx",
    "s=one&s=two&action=start&b=pbx",
    "s=one&action=start&b=pbx",
    // Nothing of the kind is there.
    "s=one&action=dagent&b=pbx",
    "s=one&action=eagent&b=pbx",
    "s=one&action=arunn&b=pbx",
    "s=one&action=adown&b=pbx",
    "s=one&action=dhlth&b=pbx",
    "s=one&action=ehlth&b=pbx",
    "s=nobody&action=dagent&b=pbx",
    // As if a check had found it.
    "s=one&s=two&action=hnolb&b=pbx",
    "s=one&s=nobody&action=hrunn&b=pbx",
    "s=one&s=two&action=hdown&b=pbx",
];

#[test]
fn the_form_is_answered_as_haproxy_answers_it() {
    let (edge, oracle) = (Edge::start_checked(8, &users(), "interval = \"60s\""), Oracle::start(9));
    let long = |octets: usize| format!("s={}&action=ready&b=pbx", "x".repeat(octets));
    let many = (0..400).map(|n| format!("s=server-{n}&")).collect::<String>() + "s=one&action=ready&b=pbx";
    let longer = [long(2_045), long(2_046), long(5_000), many, long(20_000)];
    let post = |to: SocketAddr, uri: &str, body: &str| ask(to, &request("POST", uri, Some(ADA), body));
    for body in FORMS.iter().copied().chain(longer.iter().map(String::as_str)) {
        let (ours, theirs) = (post(edge.stats, "/stats", body), post(oracle.at, "/stats", body));
        assert_eq!(normal(&ours), normal(&theirs), "{} octets: {}", body.len(), &body[..body.len().min(80)]);
    }
    let ready = "s=one&action=ready&b=pbx";
    for uri in [
        "/stats;up",
        "/stats/;csv",
        "/stats?scope=pb",
        "/stats;up?scope=a_b.c:d-e;norefresh",
        "/statsXYZ;st=NONE",
        "/stats?scope=%3Cscript%3E",
        "/stats?scope=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa&x",
        "/stats?scope=",
    ] {
        let (ours, theirs) = (post(edge.stats, uri, ready), post(oracle.at, uri, ready));
        assert_eq!(normal(&ours), normal(&theirs), "{uri}");
    }
    let chunked = |to: SocketAddr| {
        let head = request("POST", "/stats", Some(ADA), "").replace("Content-Length: 0", "Transfer-Encoding: chunked");
        ask(to, &format!("{head}6\r\ns=one&\r\n12\r\naction=ready&b=pbx\r\n0\r\n\r\n"))
    };
    assert_eq!(normal(&chunked(edge.stats)), normal(&chunked(oracle.at)), "chunked");
    // There is no session to shut down, so nothing was done.
    let shutdown = "s=one&action=shutdown&b=pbx";
    let words = [edge.stats, oracle.at].map(|at| post(at, "/stats", shutdown).header("location").map(str::to_owned));
    assert_eq!(words.map(Option::unwrap), ["/stats;st=NONE", "/stats;st=DONE"]);
    let health = ask(edge.health, &request("GET", "/ready", None, ""));
    assert!(health.body.contains("of 2 servers take new calls"), "{}", health.body);
    edge.balancer.stop();
    // Nor does anybody force the health of a server that nobody checks, for nobody would take it back.
    let edge = Edge::start(10, &users());
    assert_eq!(edge.form(Some(ADA), "s=one&action=hdown&b=pbx"), "/stats;st=NONE");
    edge.balancer.stop();
}
