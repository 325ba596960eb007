//! Who offends again and again opens nothing new for a while, by datagrams or by connections; what is up goes on, and nobody
//! else is touched.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use support::http::{admin, get};
use support::pki::Pki;
use support::process::{Balancer, DEADLINE, wait_for};
use support::regions::{Edge, Net, answer, named, stop};
use support::streams::{Messages, connect_from, header};
use support::workers::bound;
use trunkline::admin::client::ask;
use trunkline::load::Timers;

/// A client that speaks from one port.
struct Phone {
    socket: UdpSocket,
    at: SocketAddr,
}

impl Phone {
    fn new(ip: Ipv4Addr, at: SocketAddr) -> Self {
        let socket = bound(&format!("{ip}:0"));
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        Self { socket, at }
    }

    fn send(&self, method: &str, call: &str, lines: &[&str]) {
        let here = self.socket.local_addr().unwrap();
        let branch = format!("{:x}", call.bytes().fold(7_u64, |all, byte| all.wrapping_mul(31) + u64::from(byte)));
        let to =
            if lines.iter().any(|line| line.starts_with("To: ")) { "" } else { "To: <sip:100@sip.example.ng>\r\n" };
        let own: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!(
            "{method} sip:100@sip.example.ng SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{method}{branch};rport\r\n\
             From: <sip:a@sip.example.ng>;tag=1\r\n{to}Call-ID: {call}\r\nCSeq: 1 {method}\r\nContact: <sip:a@{here}>\r\n\
             Max-Forwards: 70\r\n{own}Content-Length: 0\r\n\r\n"
        );
        self.socket.send_to(request.as_bytes(), self.at).unwrap();
    }

    /// The next final answer to this request, if one comes soon.
    fn answer(&self, method: &str, call: &str) -> Option<String> {
        let mut datagram = [0; 4096];
        while let Ok(len) = self.socket.recv(&mut datagram) {
            let text = String::from_utf8_lossy(&datagram[..len]).into_owned();
            let is_to = header(&text, "Call-ID") == call && header(&text, "CSeq") == format!("1 {method}");
            if is_to && !text.starts_with("SIP/2.0 1") {
                return Some(text);
            }
        }
        None
    }

    /// The final answer to this request, which comes.
    fn hear(&self, method: &str, call: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        let heard = std::iter::repeat_with(|| self.answer(method, call)).take_while(|_| Instant::now() < deadline);
        heard.flatten().next().unwrap_or_else(|| panic!("no answer to {method} {call}"))
    }

    /// Whether something new is answered within a deadline: what is lost by chance is sent again.
    fn is_served(&self, call: &str) -> bool {
        (0..40).any(|_| {
            self.send("OPTIONS", call, &[]);
            self.answer("OPTIONS", call).is_some_and(|answer| answer.starts_with("SIP/2.0 200 "))
        })
    }

    /// Whether something new is dropped for a ban, and not answered.
    fn is_shut_out(&self, call: &str, looked_at: SocketAddr) -> bool {
        let (before, mut answered) = (banned(looked_at), false);
        self.send("OPTIONS", call, &[]);
        wait_for("an answer, or a drop that is counted", || {
            answered = self.answer("OPTIONS", call).is_some();
            answered || banned(looked_at) > before
        });
        !answered
    }
}

/// What was dropped for bans.
fn banned(looked_at: SocketAddr) -> u64 {
    metric(looked_at, "trunkline_dropped_total{proxy=\"sip\",reason=\"banned\"}")
}

fn metric(at: SocketAddr, line: &str) -> u64 {
    let all = get(at, "/metrics");
    let value = all.lines().find_map(|of| of.strip_prefix(line)).unwrap_or_else(|| panic!("no {line}"));
    value.trim().parse::<f64>().unwrap() as u64
}

#[test]
fn a_scanner_opens_nothing_new_and_its_call_goes_on() {
    let (net, looked_at) = (Net(178), Net(178).free(3));
    let addresses = net.servers();
    let servers = answer(&named(&addresses), Timers::default());
    let frontend = format!(
        "limits = {{ deny_user_agent = [\"scan\"], trusted = [\"{}\"], ban = {{ after = 5, for = \"1h\" }} }}\n{}",
        net.ip(140),
        admin(looked_at)
    );
    let edge = Edge {
        outside: &["udp", "tcp"],
        inside: "udp",
        frontend: &frontend,
        backend: "check = { type = \"none\" }",
        each: "",
    };
    let (balancer, at) = net.balance_as(&addresses, &edge);
    let socket = balancer.folder.path().join("admin.sock");
    let say = |command: &str| ask(&socket, command).unwrap();
    let [bad, trusted, other] = [130, 140, 141].map(|host| Phone::new(net.ip(host), at));

    bad.send("INVITE", "up", &[]);
    let up = bad.hear("INVITE", "up");
    let (to, route) = (header(&up, "To").to_owned(), header(&up, "Record-Route").to_owned());
    let in_dialog = [format!("To: {to}"), format!("Route: {route}")];
    let in_dialog: Vec<_> = in_dialog.iter().map(String::as_str).collect();
    bad.send("ACK", "up", &in_dialog);
    let scan = |phone: &Phone, many: usize| {
        (0..many).for_each(|n| phone.send("OPTIONS", &format!("scan-{n}"), &["User-Agent: a scanner"]));
    };
    scan(&bad, 4);
    assert!(bad.is_served("after four"), "four are not five");
    scan(&bad, 1);
    scan(&trusted, 20);
    let line = format!("{} ", net.ip(130));
    wait_for("the ban", || say("sip show bans").lines().any(|row| row.starts_with(&line) && row.contains("for 59m")));
    let of_trusted = || {
        let (shown, ip) = (say("sip show bans"), net.ip(140).to_string());
        shown.lines().find(|row| row.starts_with(&ip)).map(str::to_owned)
    };
    wait_for("another worker's row", || of_trusted().is_some());
    assert!(of_trusted().unwrap().trim_end().ends_with('-'), "who is trusted is not banned");
    assert!(bad.is_shut_out("after five", looked_at) && bad.is_shut_out("and again", looked_at));
    assert!(trusted.is_served("trusted") && other.is_served("other"), "nobody else is banned");
    // Anybody could have written those datagrams: by a connection he is who he says, and let in.
    assert!(is_served_by_connection(net.ip(130).into(), at, "tcp"), "datagrams shut out datagrams");
    // Its call goes on, and ends as calls do.
    bad.send("BYE", "up", &in_dialog);
    assert!(bad.hear("BYE", "up").starts_with("SIP/2.0 200 "));
    wait_for("drops to be counted", || banned(looked_at) == 2 && metric(looked_at, "trunkline_banned_sources") == 1);
    let events = say("show events");
    assert!(events.contains(&format!("ban sip {} banned for 3600 s: scanner", net.ip(130))), "{events}");

    assert_eq!(say("sip unban nobody"), "\"nobody\" is no IP address.\n");
    assert_eq!(say(&format!("sip unban {}", net.ip(141))), format!("{} is not banned.\n", net.ip(141)));
    assert_eq!(say(&format!("sip unban {}", net.ip(130))), "");
    assert!(bad.is_served("forgiven"));
    assert_eq!(metric(looked_at, "trunkline_banned_sources"), 0);
    balancer.stop();
    stop(servers);
}

/// Over TCP a source is who it says: what it did is held against all that it opens, while its call goes on by a new connection.
#[test]
fn who_offends_by_connections_is_shut_out_but_for_its_calls() {
    let (net, looked_at) = (Net(186), Net(186).free(3));
    let addresses = net.servers();
    let servers = answer(&named(&addresses), Timers::default());
    let limits = "limits = { deny_user_agent = [\"scan\"], ban = { after = 3, for = \"1h\" } }";
    let (frontend, backend) = (format!("{limits}\n{}", admin(looked_at)), "check = { type = \"none\" }");
    let edge = Edge { outside: &["udp", "tcp"], inside: "udp", frontend: &frontend, backend, each: "" };
    let (balancer, at) = net.balance_as(&addresses, &edge);
    let bad = net.ip(130).into();
    let stream = connect(bad, at);
    (&stream).write_all(by_tcp("INVITE", "up", "").as_bytes()).unwrap();
    let mut messages = Messages::of(&stream);
    let up = std::iter::from_fn(|| messages.next()).find(|answer| answer.starts_with("SIP/2.0 200 ")).unwrap();
    let routes: String = up
        .lines()
        .filter(|line| line.starts_with("Record-Route: "))
        .map(|line| format!("Route: {}\r\n", line.split_once(": ").unwrap().1))
        .collect();
    let in_dialog = format!("To: {}\r\n{routes}", header(&up, "To"));
    (&stream).write_all(by_tcp("ACK", "up", &in_dialog).as_bytes()).unwrap();
    (0..3).for_each(|n| {
        (&stream).write_all(by_tcp("OPTIONS", &format!("scan-{n}"), "User-Agent: a scanner\r\n").as_bytes()).unwrap();
    });
    let socket = balancer.folder.path().join("admin.sock");
    wait_for("the ban", || ask(&socket, "sip show bans").unwrap().contains("for 59m"));
    drop((stream, messages));
    assert!(!is_served_by_connection(bad, at, "new"), "nothing new");
    wait_for("it to be counted", || banned(looked_at) == 1);
    assert!(Phone::new(net.ip(130), at).is_shut_out("by datagrams, too", looked_at));
    // It comes back by another connection, and rings off.
    let again = connect(bad, at);
    (&again).write_all(by_tcp("BYE", "up", &in_dialog).as_bytes()).unwrap();
    let answer = Messages::of(&again).next().unwrap_or_default();
    assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
    balancer.stop();
    stop(servers);
}

fn connect(source: IpAddr, at: SocketAddr) -> TcpStream {
    let stream = connect_from(source, at);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn by_tcp(method: &str, call: &str, lines: &str) -> String {
    let to = if lines.contains("To: ") { "" } else { "To: <sip:100@sip.example.ng>\r\n" };
    format!(
        "{method} sip:100@sip.example.ng SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK{method}{call}\r\n\
         From: <sip:a@sip.example.ng>;tag=1\r\n{to}Call-ID: {call}\r\nCSeq: 1 {method}\r\nContact: <sip:a@192.0.2.9>\r\n\
         Max-Forwards: 70\r\n{lines}Content-Length: 0\r\n\r\n"
    )
}

/// Whether something new is answered that is asked by a connection.
fn is_served_by_connection(source: IpAddr, at: SocketAddr, call: &str) -> bool {
    let stream = connect(source, at);
    (&stream).write_all(by_tcp("OPTIONS", call, "").as_bytes()).unwrap();
    Messages::of(&stream).next().is_some_and(|answer| answer.starts_with("SIP/2.0 200 "))
}

/// A ban is over by itself, and a reload ends none.
#[test]
fn a_ban_ends_in_time_and_outlives_a_reload() {
    const LASTS: Duration = Duration::from_secs(4);
    let (net, looked_at) = (Net(179), Net(179).free(3));
    let addresses = net.servers();
    let servers = answer(&named(&addresses), Timers::default());
    let limits =
        format!("limits = {{ ban = {{ after = 3, for = \"{}s\", offences = [\"not_sip\"] }} }}", LASTS.as_secs());
    let frontend = format!("{limits}\n{}", admin(looked_at));
    let (balancer, at) = net.balance_by(["udp", "udp"], &addresses, [&frontend, "check = { type = \"none\" }", ""]);
    let socket = balancer.folder.path().join("admin.sock");
    let phone = Phone::new(net.ip(130), at);
    assert!(phone.is_served("before"));
    let begun = Instant::now();
    for _ in 0..3 {
        phone.socket.send_to(b"GET / HTTP/1.1\r\nHost: example.ng\r\n\r\n", at).unwrap();
    }
    wait_for("the ban", || ask(&socket, "sip show bans").unwrap().contains("not_sip"));
    let shut_out = phone.is_shut_out("banned", looked_at);
    assert!(shut_out || begun.elapsed() > LASTS, "it is banned");
    let reloaded = ask(&socket, "reload").unwrap();
    assert!(reloaded.starts_with("Success=1"), "{reloaded}");
    let shut_out = phone.is_shut_out("after a reload", looked_at);
    assert!(shut_out || begun.elapsed() > LASTS, "a reload ends no ban");
    assert!(phone.is_served("when it is over"));
    balancer.stop();
    stop(servers);
}

/// Forged headers of the PROXY protocol before a relay: after a few the source is not let in at all, whatever it says.
#[test]
fn a_relay_lets_nobody_in_who_forges() {
    let (net, looked_at) = (Net(180), Net(180).free(3));
    let at = net.free(1);
    let mut text = format!(
        "[[frontend]]\nname = \"api\"\nmode = \"relay\"\nbind = \"tcp://{at}\"\nbackend = \"pool\"\naccept_proxy = [\"{}/32\"]\n\
         limits = {{ ban = {{ after = 3 }} }}\n[[backend]]\nname = \"pool\"\ncheck = {{ type = \"none\" }}\n",
        net.ip(150)
    );
    for (n, address) in net.servers().into_iter().enumerate() {
        let listener = TcpListener::bind(address).unwrap();
        std::thread::spawn(move || {
            listener.incoming().map_while(Result::ok).for_each(|mut stream| drop(stream.write_all(b"hello")));
        });
        text += &format!("[[backend.server]]\nname = \"s{n}\"\naddress = \"tcp://{address}\"\n");
    }
    let balancer = Balancer::start(4, &format!("{}{text}", admin(looked_at)));
    let come = |host: u8, words: &str| {
        let mut stream = connect(net.ip(host).into(), at);
        let _ = stream.write_all(words.as_bytes());
        let mut heard = String::new();
        let _ = stream.read_to_string(&mut heard);
        heard
    };
    let ended =
        |end: &str| metric(looked_at, &format!("trunkline_connections_ended_total{{proxy=\"api\",reason=\"{end}\"}}"));
    let forged = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\nhello";
    assert_eq!(come(130, "hello"), "hello");
    (0..3).for_each(|_| drop(come(130, forged)));
    wait_for("the ban", || metric(looked_at, "trunkline_banned_sources") == 1);
    assert_eq!((come(130, "hello"), come(131, "hello")), (String::new(), "hello".to_owned()));
    wait_for("it to be counted", || (ended("banned"), ended("forged_proxy_header")) == (1, 3));
    balancer.stop();
}

/// Connections and handshakes of one source have their pace; others are let in meanwhile.
#[test]
fn connections_and_handshakes_have_a_pace() {
    let (net, looked_at) = (Net(181), Net(181).free(3));
    let pki = Pki::new();
    let folder = pki.path("certs");
    std::fs::create_dir(&folder).unwrap();
    pki.put(&folder.join("sip.pem"), &pki.pem("sip", "DNS:sip.example.ng"));
    let addresses = net.servers();
    let servers = answer(&named(&addresses), Timers::default());
    let (tcp, tls) = (net.free(1), net.free(1));
    let (text, _) = net.config(&addresses, &Edge { backend: "check = { type = \"none\" }", ..Edge::default() });
    let bind = |name: &str, bind: String, limits: &str| {
        format!(
            "[[frontend]]\nname = \"{name}\"\nbind = \"{bind}\"\ninside = \"{}\"\nbackend = \"pbx\"\n{limits}\n",
            net.ip(2)
        )
    };
    let text = text
        + &bind("paced", format!("tcp://{tcp}"), "limits = { per_source_connection_rate = \"2/m\" }")
        + &bind(
            "hands",
            format!("tls://{tls}"),
            &format!("limits = {{ per_source_handshake_rate = \"1/m\" }}\ntls = {{ certificates = {folder:?} }}"),
        );
    let balancer = Balancer::start(4, &format!("{}{text}", admin(looked_at)));
    let options = |at: SocketAddr, call: u8| {
        format!(
            "OPTIONS sip:{at} SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK{call}\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:{at}>\r\nCall-ID: {call}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let is_let_in = |host: u8, call: u8| {
        let stream = connect(net.ip(host).into(), tcp);
        let _ = (&stream).write_all(options(tcp, call).as_bytes());
        Messages::of(&stream).next().is_some_and(|answer| answer.starts_with("SIP/2.0 200 "))
    };
    // Twice as many as in a minute, at once.
    assert_eq!([0, 1, 2, 3, 4, 5].map(|call| is_let_in(130, call)), [true, true, true, true, false, false]);
    assert!(is_let_in(131, 9), "others are");
    let hands = |host: u8| shakes(&pki, net.ip(host).into(), tls);
    assert_eq!([hands(130), hands(130), hands(130), hands(131)], [true, true, false, true]);
    let ended = |proxy: &str, end: &str| {
        metric(looked_at, &format!("trunkline_connections_ended_total{{proxy=\"{proxy}\",reason=\"{end}\"}}"))
    };
    wait_for("all to be counted", || {
        (ended("paced", "rate_limited"), ended("hands", "too_many_handshakes_of_source")) == (2, 1)
    });
    balancer.stop();
    stop(servers);
}

/// Whether a client that believes us gets through its handshake.
fn shakes(pki: &Pki, source: IpAddr, at: SocketAddr) -> bool {
    let mut client = rustls::ClientConnection::new(pki.trusting(), "sip.example.ng".try_into().unwrap()).unwrap();
    let mut stream = connect(source, at);
    while client.is_handshaking() {
        if let Err(error) = client.complete_io(&mut stream) {
            println!("{error}");
            return false;
        }
    }
    true
}
