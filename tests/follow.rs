//! Following calls: the log's line for each, copies for a Homer collector as sngrep and tshark read them, and `trunkline trace`.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::http::{admin, get};
use support::netns::Namespace;
use support::process::{Balancer, DEADLINE, Process, program, spawn, wait_for, within};
use support::regions::{Net, ROUND, SERVERS, answer, stop};
use support::workers::bound;
use trunkline::admin::client::ask;
use trunkline::load::{Generator, Timers};

/// The words of a line of the log by their keys.
fn fields(line: &str) -> HashMap<&str, &str> {
    let (mut fields, mut rest) = (HashMap::new(), line.split_once(" call call_id=").map_or("", |(_, rest)| rest));
    let mut key = "call_id";
    loop {
        let (value, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap(),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        fields.insert(key, value);
        match behind.trim_start().split_once('=') {
            Some((next, behind)) => (key, rest) = (next, behind),
            None => return fields,
        }
    }
}

/// The lines about calls that a balancer has written, without colours.
fn lines(balancer: &mut Balancer) -> Vec<String> {
    let said = balancer.process.said();
    said.lines().filter(|line| line.contains(" call call_id=")).map(str::to_owned).collect()
}

/// Five servers, a balancer with these lines in its configuration, and so many rounds of calls; what the servers saw.
fn stage(
    net: &Net,
    config: &str,
    rounds: u64,
) -> (Balancer, trunkline::load::CallReport, trunkline::load::AnswerReport) {
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let servers = answer(&named, Timers::default());
    let backend = format!("check = {{ type = \"none\" }}\n{config}");
    let (balancer, at) = net.balance_by(["udp", "udp"], &addresses, ["", &backend, ""]);
    let calls = Generator::start(net.callers(at, rounds * ROUND, 200.0)).unwrap().finish().unwrap();
    assert!(calls.succeeded(), "{calls}");
    (balancer, calls, stop(servers))
}

#[test]
fn each_call_has_one_line_with_its_server_and_its_outcome() {
    const ROUNDS: u64 = 20;
    let (mut balancer, _, answered) = stage(&Net(83), "[call_log]\nrate = \"10000/s\"\n", ROUNDS);
    // Eight calls of a round are of clients, one of them cancelled; two are of servers.
    within(DEADLINE, || lines(&mut balancer).len() as u64 >= ROUNDS * 10);
    let lines = lines(&mut balancer);
    let lines: Vec<_> = lines.iter().map(|line| fields(line)).collect();
    let mut seen = BTreeMap::new();
    for line in &lines {
        *seen.entry((line["why"], line["outcome"])).or_insert(0) += 1;
        assert!(line["after_ms"].parse::<f64>().is_ok(), "{line:?}");
    }
    let expected = [
        (("balance", "200 OK"), ROUNDS * 7),
        (("balance", "487 Request Terminated"), ROUNDS),
        (("it called", "200 OK"), ROUNDS * 2),
    ];
    assert_eq!(seen, BTreeMap::from(expected));
    for server in &answered.servers {
        let own = lines.iter().filter(|line| line["server"] == format!("pbx/{}", server.name));
        let (mut came, mut made) = (0, 0);
        for line in own {
            let from: SocketAddr = line["from"].parse().unwrap();
            if line["why"] == "it called" {
                made += 1;
            } else {
                came += u64::from(line["outcome"] == "200 OK");
                assert!(from.ip() >= IpAddr::from(Net(83).ip(128)), "a client: {from}");
            }
        }
        let books = server.books();
        assert_eq!((came, made), (books.incoming.answered, books.call_backs.answered), "{}", server.name);
    }
    let mut ids: Vec<_> = lines.iter().map(|line| line["call_id"]).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), lines.len(), "no call has two lines");
    balancer.stop();
}

#[test]
fn lines_are_of_whom_was_asked_for_and_no_more_than_the_rate() {
    const ROUNDS: u64 = 40;
    let net = Net(84);
    let clients = format!("{}/26", net.ip(128));
    let config = format!("[call_log]\nrate = \"6/m\"\nclients = [\"{clients}\"]\n");
    let (mut balancer, ..) = stage(&net, &config, ROUNDS);
    balancer.process.signal(Signal::SIGTERM);
    balancer.process.line_with("INFO stopped");
    let (lines, said) = (lines(&mut balancer), balancer.process.said());
    assert_eq!(lines.len(), 6, "{said}");
    // 64 of 100 clients have addresses in the network; each calls as often as another.
    let left_out: Vec<_> = said.lines().filter(|line| line.contains("calls that have no line")).collect();
    let number = |line: &&str| line.rsplit_once("calls=").unwrap().1.parse::<u64>().unwrap();
    let all = left_out.iter().map(number).sum::<u64>() + 6;
    assert!((ROUNDS * 58 / 10..=ROUNDS * 7).contains(&all), "{all} of {}: {said}", ROUNDS * 10);
    for line in lines.iter().map(|line| fields(line)).filter(|line| line["why"] != "it called") {
        let from: SocketAddr = line["from"].parse().unwrap();
        assert!(from.ip() < IpAddr::from(net.ip(192)), "{line:?}");
    }
}

/// sngrep unwraps the packets and writes what was in them, each with its own addresses; tshark reads that.
#[test]
fn a_collector_gets_every_message_with_its_addresses() {
    let (net, at) = (Net(85), Net(85).free(3));
    let collector = net.free(4);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls.pcap");
    let mut sngrep = Command::new("sngrep");
    sngrep.args(["-N", "-F", "-q", "-L", &format!("udp:{collector}"), "-O"]).arg(&file);
    let mut sngrep = Process::start(sngrep.stdin(Stdio::null()).stdout(Stdio::null()));
    wait_for("the collector", || support::process::is_bound(collector));
    let config = format!("[hep]\ncollector = \"{collector}\"\nagent_id = 2001\n{}", admin(at));
    let (balancer, calls, answered) = stage(&net, &config, 10);
    let metric = |name: &str| -> u64 {
        let text = get(at, "/metrics");
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64
    };
    let of_servers =
        |of: &dyn Fn(&trunkline::load::ServerView) -> u64| answered.servers.iter().map(|s| of(s)).sum::<u64>();
    let came_to_servers = of_servers(&|server| {
        server.counters.requests.iter().map(|n| n.get()).sum::<u64>() + server.counters.answers.get()
    });
    let all = 2 * (calls.traffic.sent + calls.traffic.received);
    wait_for("all copies", || metric("trunkline_hep_sent_total") + 2 * metric("trunkline_copies_lost_total") >= all);
    assert_eq!(metric("trunkline_hep_failed_total"), 0);
    let lost = metric("trunkline_copies_lost_total") + support::process::read_and_dropped(collector);
    sngrep.signal(Signal::SIGINT);
    wait_for("the collector's end", || sngrep.child.try_wait().unwrap().is_some());
    let fields = ["ip.src", "ip.dst", "sip.Call-ID", "sip.CSeq.method"];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&file).args([
        "--enable-heuristic",
        "sip_udp",
        "-o",
        "udp.try_heuristic_first:TRUE",
        "-T",
        "fields",
    ]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let read = spawn(tshark.stdout(Stdio::piped()).stderr(Stdio::null())).unwrap().wait_with_output().unwrap();
    let read = String::from_utf8(read.stdout).unwrap();
    let mut ways = BTreeMap::new();
    for line in read.lines() {
        let [from, to, call, method] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(call.contains('@') && !method.is_empty(), "{line}");
        let whose = |ip: &str| match ip.parse::<std::net::Ipv4Addr>().unwrap().octets()[3] {
            1 | 2 => "us",
            11..=15 => "server",
            128.. => "client",
            _ => "nobody",
        };
        *ways.entry((whose(from), whose(to))).or_insert(0) += 1;
    }
    let expected = BTreeMap::from([
        (("client", "us"), calls.traffic.sent),
        (("us", "client"), calls.traffic.received),
        (("us", "server"), came_to_servers),
        (("server", "us"), all - calls.traffic.sent - calls.traffic.received - came_to_servers),
    ]);
    println!("{ways:?}, {lost} lost");
    // Its receive buffer holds what comes in a moment; where others hold it up for longer, a part is lost.
    assert!(lost <= all / 4, "{lost} of {all} lost");
    assert_eq!(ways.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{calls}");
    for (way, expected) in &expected {
        assert!(
            (expected.saturating_sub(lost)..=*expected).contains(&ways[way]),
            "{way:?}: {ways:?}, {lost} lost: {calls}"
        );
    }
    balancer.stop();
}

/// What a person sees who follows one call while others pass.
#[test]
fn a_call_is_followed_as_it_passes() {
    let net = Net(86);
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let servers = answer(&named, Timers::default());
    let (balancer, at) = net.balance_by(["udp", "udp"], &addresses, ["", "check = { type = \"none\" }", ""]);
    let socket = balancer.folder.path().join("admin.sock");
    let mut trace = Command::new(program());
    trace.args(["trace", "a b;c@phone", "--socket"]).arg(&socket).stdout(Stdio::piped());
    let mut trace = Process::start(&mut trace);
    let mut seen = BufReader::new(trace.child.stdout.take().unwrap());
    let mut line = String::new();
    seen.read_line(&mut line).unwrap();
    assert_eq!(line, "no server knows it yet; its messages follow as they pass.\n");
    let client = bound(&format!("{}:0", net.ip(130)));
    let here = client.local_addr().unwrap();
    let ask = |call: &str, n: u32| {
        let request = format!(
            "OPTIONS sip:100@sip.example.ng SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{n};rport\r\n\
             From: <sip:a@sip.example.ng>;tag=1\r\nTo: <sip:100@sip.example.ng>\r\nCall-ID: {call}\r\n\
             CSeq: {n} OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        client.send_to(request.as_bytes(), at).unwrap();
        let mut datagram = [0; 2048];
        let (len, _) = client.recv_from(&mut datagram).unwrap();
        assert!(datagram[..len].starts_with(b"SIP/2.0 200 "), "{}", datagram[..len].escape_ascii());
    };
    let (lines, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || seen.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok()));
    let mut got = Vec::<String>::new();
    ask("another@phone", 1000);
    ask("a b;c@phone", 1);
    wait_for("the call to be followed, from its first message on", || {
        got.extend(heard.try_iter());
        got.len() >= 4
    });
    let first = got[0].split("CSeq ").nth(1).and_then(|rest| rest.split(')').next()).unwrap().to_owned();
    let why = got[0].rsplit_once(' ').unwrap().1;
    assert!(["(balance)", "(call)"].contains(&why), "{got:?}");
    let server = got[0].rsplit_once(" to ").unwrap().1.split_once(" (").unwrap().0.to_owned();
    assert!(server.starts_with("pbx/"), "{got:?}");
    let of_server = addresses[SERVERS.iter().position(|(name, _)| server.ends_with(name)).unwrap()];
    let inside = format!("{}:{}", net.ip(2), at.port());
    let expected = [
        format!("udp in  {here} > {at}  OPTIONS sip:100@sip.example.ng SIP/2.0 (CSeq {first})  to {server} {why}"),
        format!("udp out {inside} > {of_server}  OPTIONS sip:100@sip.example.ng SIP/2.0"),
        format!("udp in  {of_server} > {inside}  SIP/2.0 200 OK (CSeq {first})  of {server}"),
        format!("udp out {at} > {here}  SIP/2.0 200 OK"),
    ];
    for (line, expected) in got.iter().zip(&expected) {
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!((time.len(), rest), ("12:00:00.000000Z".len(), expected.as_str()));
    }
    trace.signal(Signal::SIGINT);
    drop(trace);
    balancer.stop();
    stop(servers);
}

#[test]
fn few_may_follow_and_whoever_goes_makes_room() {
    let net = Net(87);
    let (balancer, _) = net.balance_by(["udp", "udp"], &net.servers(), ["", "check = { type = \"none\" }", ""]);
    let socket = balancer.folder.path().join("admin.sock");
    let follow = |lines: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(lines.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        (stream, line)
    };
    let mut followers: Vec<_> = (0..8).map(|n| follow(&format!("sip trace call-id {n}\n"))).collect();
    assert!(followers.iter().all(|(_, line)| line.ends_with("its messages follow as they pass.\n")), "{followers:?}");
    let refused = follow("sip trace call-id 9\n").1;
    assert_eq!(refused, "8 calls are traced already: end one of them first.\n");
    assert_eq!(follow("user; sip trace call-id 9\n").1, "\n");
    // A word ends one, and its answer ends as any other does.
    let (mut stream, _) = followers.pop().unwrap();
    stream.write_all(b"\n").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "\n");
    followers.push(follow("sip trace call-id 9\n"));
    assert!(followers[7].1.starts_with("no server knows it yet"), "{followers:?}");
    // So does whoever goes without a word.
    followers.clear();
    wait_for("room", || follow("sip trace call-id 10\n").1.starts_with("no server knows"));
    balancer.stop();
}

/// A client, a server and a stranger whose messages are written by hand.
struct Scene {
    balancer: Balancer,
    net: Net,
    at: SocketAddr,
    inside: SocketAddr,
    server: std::net::UdpSocket,
    client: std::net::UdpSocket,
}

impl Scene {
    fn new(net: Net) -> Self {
        let (at, server, client) =
            (net.free(1), bound(&format!("{}:0", net.ip(11))), bound(&format!("{}:0", net.ip(130))));
        let config = format!(
            "[call_log]\n[[frontend]]\nname = \"sip\"\nbind = \"udp://{at}\"\ninside = \"{}\"\nbackend = \"pbx\"\n\
             send_to = [\"{}\"]\n[frontend.limits]\nper_source_rate = \"1/m\"\nper_source_burst = 2\ntrusted = [\"{}\"]\n\
             deny = [\"{}\"]\n[[backend]]\nname = \"pbx\"\ncheck = {{ type = \"none\" }}\n[[backend.server]]\n\
             name = \"one\"\naddress = \"udp://{}\"\n",
            net.ip(2),
            net.clients(),
            net.ip(130),
            net.ip(140),
            server.local_addr().unwrap()
        );
        let inside = (net.ip(2), at.port()).into();
        Self { balancer: Balancer::start(4, &config), net, at, inside, server, client }
    }

    fn invite(&self, from: &std::net::UdpSocket, call: &str, cseq: u32) {
        let text = invite(from.local_addr().unwrap(), "100@sip.example.ng", call, cseq);
        from.send_to(text.as_bytes(), self.at).unwrap();
    }

    /// The next request that the server gets.
    fn asked(&self) -> String {
        let text = hear(&self.server);
        assert!(text.starts_with("INVITE "), "{text}");
        text
    }

    fn answer(&self, request: &str, status: &str) {
        self.server.send_to(response(request, status).as_bytes(), self.inside).unwrap();
    }

    /// The line about a call, when it is there.
    fn line(&mut self, call: &str) -> String {
        self.balancer.process.line_with(&format!("call_id=\"{call}\""))
    }
}

fn invite(from: SocketAddr, to: &str, call: &str, cseq: u32) -> String {
    format!(
        "INVITE sip:{to} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{cseq}x{};rport\r\n\
         From: <sip:a@sip.example.ng>;tag=1\r\nTo: <sip:100@sip.example.ng>\r\nCall-ID: {call}\r\nCSeq: {cseq} INVITE\r\n\
         Contact: <sip:a@{from}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        call.len()
    )
}

fn response(request: &str, status: &str) -> String {
    let copied = ["Via", "From", "To", "Call-ID", "CSeq", "Record-Route"];
    let lines = request.lines().filter(|line| copied.iter().any(|name| line.starts_with(&format!("{name}:"))));
    let tagged = lines.map(|line| if line.starts_with("To:") { format!("{line};tag=srv") } else { line.to_owned() });
    let lines: Vec<_> = tagged.collect();
    format!("SIP/2.0 {status}\r\n{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n"))
}

fn hear(socket: &std::net::UdpSocket) -> String {
    let mut datagram = [0; 65_535];
    let len = socket.recv(&mut datagram).unwrap();
    String::from_utf8_lossy(&datagram[..len]).into_owned()
}

fn assert_line(line: &str, why: &str, outcome: &str) {
    let fields = fields(line);
    assert_eq!((fields["server"], fields["why"], fields["outcome"]), ("pbx/one", why, outcome), "{line}");
}

/// It comes with its password, and is beyond the rate of its source.
#[test]
fn a_phone_whose_second_try_is_dropped_did_not_give_up() {
    let mut scene = Scene::new(Net(117));
    let locked = bound(&format!("{}:0", scene.net.ip(133)));
    scene.invite(&locked, "locked@x", 1);
    let asked = scene.asked();
    scene.answer(&asked, "401 Unauthorized");
    assert!(hear(&locked).starts_with("SIP/2.0 401 "));
    scene.invite(&locked, "filler@x", 1);
    scene.asked();
    scene.invite(&locked, "locked@x", 2);
    assert_line(&scene.line("locked@x"), "balance", "dropped: rate_limited");
    scene.balancer.stop();
}

#[test]
fn a_line_tells_what_its_client_heard_and_nothing_that_others_sent() {
    let mut scene = Scene::new(Net(91));
    let net = Net(scene.net.0);
    let client = scene.client.try_clone().unwrap();
    // A password was asked for; that answer comes once more while the second try rings.
    scene.invite(&client, "late@x", 1);
    let first = scene.asked();
    scene.answer(&first, "407 Proxy Authentication Required");
    assert!(hear(&client).starts_with("SIP/2.0 407 "));
    scene.invite(&client, "late@x", 2);
    let second = scene.asked();
    scene.answer(&first, "407 Proxy Authentication Required");
    assert!(hear(&client).starts_with("SIP/2.0 407 "));
    scene.answer(&second, "200 OK");
    assert_line(&scene.line("late@x"), "balance", "200 OK");
    // It is repeated, beyond the rate of its source.
    let hasty = bound(&format!("{}:0", net.ip(131)));
    scene.invite(&hasty, "hasty@x", 1);
    let asked = scene.asked();
    scene.invite(&hasty, "other@x", 1);
    scene.asked();
    scene.invite(&hasty, "hasty@x", 1);
    // Somebody else sends the same, who is not let in; and somebody answers in the server's place.
    let denied = bound(&format!("{}:0", net.ip(140)));
    scene.invite(&denied, "hasty@x", 1);
    let forged = response(&asked, "486 Busy Here");
    denied.send_to(forged.as_bytes(), scene.inside).unwrap();
    // Once the call is answered its repetition is no new one: that must be refused before, by whatever worker has it.
    let socket = scene.balancer.folder.path().join("admin.sock");
    let refused = |host| ask(&socket, "sip show bans").unwrap().contains(&format!("{} ", net.ip(host)));
    wait_for("both to be refused", || refused(131) && refused(140));
    scene.invite(&client, "behind@x", 1);
    scene.asked();
    scene.answer(&asked, "200 OK");
    assert_line(&scene.line("hasty@x"), "balance", "200 OK");
    // A client hears 500 of a server's 503 (docs/rules.md 18).
    scene.invite(&client, "overload@x", 1);
    let asked = scene.asked();
    scene.answer(&asked, "503 Overload");
    assert_line(&scene.line("overload@x"), "balance", "500 Server Internal Error");
    // The server calls on with the same Call-ID: first somebody who is busy.
    scene.invite(&client, "fork@x", 1);
    let asked = scene.asked();
    let callee = bound(&format!("{}:0", net.ip(132)));
    let to = format!("b@{}", callee.local_addr().unwrap());
    let leg = invite(scene.server.local_addr().unwrap(), &to, "fork@x", 1).replace("z9hG4bK", "z9hG4bKleg");
    scene.server.send_to(leg.as_bytes(), scene.inside).unwrap();
    let heard = hear(&callee);
    assert!(heard.starts_with("INVITE "), "{heard}");
    callee.send_to(response(&heard, "486 Busy Here").as_bytes(), scene.at).unwrap();
    assert!(hear(&scene.server).starts_with("SIP/2.0 486 "));
    scene.answer(&asked, "200 OK");
    assert_line(&scene.line("fork@x"), "balance", "200 OK");
    // As long as its Call-ID is the line is not.
    let long = "x".repeat(5000);
    scene.invite(&client, &long, 1);
    let asked = scene.asked();
    scene.answer(&asked, "200 OK");
    let line = scene.line(&long[..128]);
    assert!(line.len() < 400, "{line}");
    // Some still ring when it stops.
    scene.balancer.process.signal(Signal::SIGTERM);
    scene.balancer.process.line_with("INFO stopped");
    let said = scene.balancer.process.said();
    for call in ["other@x", "behind@x"] {
        let line = said.lines().find(|line| line.contains(&format!("call_id=\"{call}\"")));
        let line = line.unwrap_or_else(|| panic!("{call}: {said}"));
        assert_line(line, "balance", "still ringing when this process stopped");
    }
    for (call, lines) in [("late@x", 1), ("hasty@x", 1), ("overload@x", 1), ("fork@x", 1)] {
        assert_eq!(said.matches(&format!("call_id=\"{call}\"")).count(), lines, "{said}");
    }
}

/// A host that starts before its network does.
#[test]
fn a_collector_that_cannot_be_reached_at_first_is_tried_again() {
    let namespace = Namespace::new("hep", &[]);
    let config = "[hep]\ncollector = \"192.0.2.9:9060\"\n[[frontend]]\nname = \"sip\"\nbind = \"udp://127.0.0.1:5060\"\n\
                  backend = \"pbx\"\n[[backend]]\nname = \"pbx\"\n[[backend.server]]\nname = \"one\"\naddress = \"udp://127.0.0.9\"\n";
    let mut balancer = Balancer::start_under(namespace.command(program()), 1, config);
    let said = balancer.process.said();
    assert!(said.contains("messages are not mirrored"), "before the first call: {said}");
    namespace.ip("addr add 192.0.2.9/32 dev lo");
    balancer.process.line_with("mirroring messages");
    balancer.stop();
}
