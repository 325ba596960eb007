//! What the runtime socket shows and changes of sources, stick tables and limits, while calls pass.

mod support;

use std::net::{SocketAddr, UdpSocket};

use serde_json::Value;
use support::http::{admin, get};
use support::process::wait_for;
use support::regions::{Net, SERVERS, answer, stop};
use support::workers::bound;
use trunkline::admin::client::ask;
use trunkline::load::Timers;

fn options(client: &UdpSocket, at: SocketAddr, call: &str) {
    let here = client.local_addr().unwrap();
    let request = format!(
        "OPTIONS sip:100@sip.example.ng SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{call};rport\r\n\
         From: <sip:a@sip.example.ng>;tag=1\r\nTo: <sip:100@sip.example.ng>\r\nCall-ID: {call}\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    );
    client.send_to(request.as_bytes(), at).unwrap();
}

fn answered(client: &UdpSocket) {
    let mut datagram = [0; 2048];
    let len = client.recv(&mut datagram).unwrap();
    assert!(datagram[..len].starts_with(b"SIP/2.0 200 "), "{}", datagram[..len].escape_ascii());
}

#[test]
fn whom_a_source_sticks_to_is_found_and_forgotten_and_who_is_refused_is_known() {
    let (net, looked_at) = (Net(88), Net(88).free(3));
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let servers = answer(&named, Timers::default());
    let frontend = format!(
        "[frontend.limits]\nper_source_rate = \"1/m\"\nper_source_burst = 3\ndeny = [\"{}\"]\n{}",
        net.ip(140),
        admin(looked_at)
    );
    let backend = "check = { type = \"none\" }\nstick = { on = \"source\", expire = \"1h\", size = 1000 }";
    let (balancer, at) = net.balance_by(["udp", "udp"], &addresses, [&frontend, backend, ""]);
    let socket = balancer.folder.path().join("admin.sock");
    let say = |command: &str| ask(&socket, command).unwrap();
    let [patient, hasty, denied] = [130, 131, 140].map(|host| bound(&format!("{}:0", net.ip(host))));
    options(&patient, at, "patient");
    answered(&patient);
    (0..3).for_each(|n| options(&hasty, at, &format!("hasty-{n}")));
    (0..3).for_each(|_| answered(&hasty));
    assert_eq!(say("sip show bans").lines().count(), 1, "nobody is refused yet");

    let key = net.ip(130).to_string();
    let entry = say(&format!("show table pbx key {key}"));
    let line = entry.lines().nth(1).unwrap_or_else(|| panic!("{entry}"));
    let hash = line.split_whitespace().find_map(|word| word.strip_prefix("key=")).unwrap().to_owned();
    assert_eq!(say(&format!("show table pbx key {hash}")).lines().count(), 2);
    let found: Value = serde_json::from_str(&get(looked_at, &format!("/api/v1/pins?find={key}"))).unwrap();
    assert_eq!((&found["stuck"][0]["backend"], &found["stuck"][0]["confirmed"]), (&"pbx".into(), &true.into()));
    assert!(found["stuck"][0]["server"].as_str().unwrap().starts_with("pbx/") && found["found"].is_null(), "{found}");
    assert_eq!(say(&format!("clear table pbx key {key}")), "");
    assert_eq!(say(&format!("show table pbx key {key}")).lines().count(), 1, "it is forgotten");
    assert_eq!(say("show table pbx").lines().count(), 2, "the other one is not");
    assert_eq!(say("clear table pbx"), "");
    assert_eq!(say("show table pbx").lines().count(), 1);
    assert_eq!(say("clear table pbx key nobody"), "Invalid key: an address is expected.\n");
    assert_eq!(say("clear table nosuch"), "No such table\n");
    let events = say("show events");
    assert!(events.contains("pbx 1 entries of the stick table cleared by "), "{events}");

    (0..5).for_each(|n| options(&hasty, at, &format!("again-{n}")));
    (0..2).for_each(|n| options(&denied, at, &format!("denied-{n}")));
    let row = |host: u8| {
        let bans = say("sip show bans");
        let row = bans.lines().find(|line| line.starts_with(&format!("{} ", net.ip(host)))).map(str::to_owned);
        row.map(|row| row.split_whitespace().skip(1).take(3).map(str::to_owned).collect::<Vec<_>>())
    };
    wait_for("both to be known", || {
        row(131) == Some(vec!["sip".into(), "rate_limited".into(), "5".into()])
            && row(140) == Some(vec!["sip".into(), "denied".into(), "2".into()])
    });
    balancer.stop();
    stop(servers);
}

#[test]
fn a_limit_of_calls_is_set_at_run_time_and_stays_over_a_reload() {
    let (net, looked_at) = (Net(89), Net(89).free(3));
    let frontend = admin(looked_at);
    let (balancer, _) = net.balance_by(["udp", "udp"], &net.servers(), [&frontend, "check = { type = \"none\" }", ""]);
    let socket = balancer.folder.path().join("admin.sock");
    let say = |command: &str| ask(&socket, command).unwrap();
    let most = || {
        let calls = say("sip show calls");
        let line = calls.lines().find(|line| line.starts_with("pbx/lagos-1 ")).unwrap().to_owned();
        line.split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!(most(), "-");
    assert_eq!(say("set maxconn server pbx/lagos-1 7"), "");
    assert_eq!(most(), "7");
    assert!(say("reload").starts_with("Success=1"));
    assert_eq!(most(), "7", "the file says nothing else of it");
    let file = balancer.folder.path().join("trunkline.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("name = \"lagos-1\"", "name = \"lagos-1\"\nmax_calls = 9", 1)).unwrap();
    assert!(say("reload").starts_with("Success=1"));
    assert_eq!(most(), "9", "what is written newly counts");
    assert_eq!(say("set maxconn server pbx/lagos-1 0"), "");
    assert_eq!(most(), "-");
    assert_eq!(say("set maxconn server pbx/lagos-1 many"), "maxconn string empty or preceded by garbage\n");
    assert!(say("show events").contains("limit pbx/lagos-1 max_calls 9 -> 0 by "), "{}", say("show events"));
    balancer.stop();
}

/// Checks that found the server dead go on to find it so, until nobody checks it any more; then again.
#[test]
fn a_server_is_checked_or_not() {
    let net = Net(90);
    let addresses = net.servers();
    let check = "check = { type = \"options\", interval = \"1s\", fast_interval = \"100ms\", timeout = \"100ms\", rise = 1, fall = 2 }";
    let (mut balancer, _) = net.balance_by(["udp", "udp"], &addresses, ["", check, ""]);
    let socket = balancer.folder.path().join("admin.sock");
    let say = |command: &str| ask(&socket, command).unwrap();
    balancer.process.turns("pbx/lagos-1", "dead");
    assert_eq!(say("disable health pbx/lagos-1"), "");
    // In words and for HAProxy's tools it is what it was found to be, and what is said of it by hand.
    let status = || {
        let stat = say("show stat");
        let line = stat.lines().find(|line| line.starts_with("pbx,lagos-1,")).unwrap();
        line.split(',').nth(17).unwrap().to_owned()
    };
    wait_for("it to be shown as down", || status() == "DOWN");
    assert_eq!(say("set server pbx/lagos-1 health stopping"), "");
    wait_for("it to be shown as stopping", || status() == "NOLB" && say("status").contains("resting"));
    assert_eq!(say("set server pbx/lagos-1 health down"), "");
    assert_eq!(say("set server pbx/lagos-1 state ready"), "");
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let servers = answer(&named, Timers::default());
    let is_up = |name: &str| {
        let state = say("show servers state pbx");
        let line = state.lines().find(|line| line.contains(&format!(" {name} "))).unwrap();
        line.split(' ').nth(5).unwrap() == "2"
    };
    wait_for("the checked ones to be up", || SERVERS[1..].iter().all(|(name, _)| is_up(name)));
    assert!(!is_up("lagos-1"), "nobody looked");
    assert!(say("reload").starts_with("Success=1"));
    assert!(!is_up("lagos-1"), "nor after a reload");
    assert_eq!(say("enable health pbx/lagos-1"), "");
    wait_for("it to be up", || is_up("lagos-1"));
    balancer.stop();
    stop(servers);
}
