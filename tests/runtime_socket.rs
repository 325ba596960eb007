//! The runtime socket as HAProxy's tools and people use it.

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::process::{Balancer, Process, global, output, program, wait_for};
use support::workers::{bound, free_port};

/// Two servers behind one frontend, nobody checked.
struct Pair {
    balancer: Balancer,
    config: String,
    at: SocketAddr,
    servers: [UdpSocket; 2],
    client: UdpSocket,
}

impl Pair {
    fn start(net: u8) -> Self {
        let at = SocketAddr::from(([127, 0, 2, net], free_port(&format!("127.0.2.{net}"))));
        let servers = [(); 2].map(|()| bound(&format!("127.0.3.{net}:0")));
        servers.iter().for_each(|server| server.set_nonblocking(true).unwrap());
        let mut config = format!(
            "[[frontend]]\nname = \"f\"\nbind = \"udp://{at}\"\nbackend = \"pbx\"\n\
             [[backend]]\nname = \"pbx\"\ncheck = {{ type = \"none\" }}\n"
        );
        for (name, server) in ["one", "two"].iter().zip(&servers) {
            let address = server.local_addr().unwrap();
            config += &format!("[[backend.server]]\nname = \"{name}\"\naddress = \"udp://{address}\"\nweight = 70\n");
        }
        let client = bound(&format!("127.0.1.{net}:0"));
        Self { balancer: Balancer::start(2, &config), config, at, servers, client }
    }

    fn socket(&self) -> PathBuf {
        self.balancer.folder.path().join("admin.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Writes all of it at once, and reads until the other side closes.
    fn say(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn reload(&self, config: &str) -> String {
        let text = global(&self.balancer.folder, 2) + config;
        std::fs::write(self.balancer.folder.path().join("trunkline.toml"), text).unwrap();
        self.say("reload\n")
    }

    /// Which servers 60 new calls reach, by position.
    fn reached(&self) -> HashSet<usize> {
        let mut reached = HashSet::new();
        for n in 0..60 {
            let request = format!(
                "OPTIONS sip:100@sim.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.2:5060;branch=z9hG4bK{n};rport\r\n\
                 From: <sip:a@sim.example>;tag={n}\r\nTo: <sip:100@sim.example>\r\nCall-ID: {}-{n}@door\r\n\
                 CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
                number()
            );
            self.client.send_to(request.as_bytes(), self.at).unwrap();
            let mut datagram = [0; 2048];
            wait_for("the request at a server", || {
                let at = self.servers.iter().position(|server| server.recv(&mut datagram).is_ok());
                reached.extend(at);
                at.is_some()
            });
        }
        reached
    }
}

impl Pair {
    /// So many new calls that are answered with 200, and nothing after that.
    fn call(&self, calls: usize) {
        for _ in 0..calls {
            let n = number();
            let invite = format!(
                "INVITE sip:100@sim.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.2:5060;branch=z9hG4bKi{n};rport\r\n\
                 From: <sip:a@sim.example>;tag={n}\r\nTo: <sip:100@sim.example>\r\nCall-ID: i{n}@door\r\n\
                 CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
            );
            self.client.send_to(invite.as_bytes(), self.at).unwrap();
            wait_for("the INVITE at a server", || self.servers.iter().any(accept));
            let mut datagram = [0; 2048];
            let got = self.client.recv(&mut datagram).unwrap();
            assert!(datagram[..got].starts_with(b"SIP/2.0 200"), "{}", String::from_utf8_lossy(&datagram[..got]));
        }
    }

    /// What `status json` says of a server.
    fn json(&self, server: &str, key: &str) -> i64 {
        let status = self.say("status json\n");
        let (_, row) = status.split_once(&format!("\"server\":\"{server}\"")).unwrap_or_else(|| panic!("{status}"));
        number_of(row, key)
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let file = self.balancer.folder.path().join("trunkline.toml");
        let output = output(Command::new(program()).args(arguments).arg("-c").arg(file));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

/// The number behind a key.
fn number_of(json: &str, key: &str) -> i64 {
    let (_, rest) = json.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key}: {json}"));
    let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().unwrap_or_else(|_| panic!("{key}: {json}"))
}

/// Answers a request with 200, if one has come.
fn accept(server: &UdpSocket) -> bool {
    let mut datagram = [0; 2048];
    let Ok((got, from)) = server.recv_from(&mut datagram) else { return false };
    let request = String::from_utf8_lossy(&datagram[..got]).into_owned();
    let (_, head) = request.split_once("\r\n").unwrap();
    let answer =
        format!("SIP/2.0 200 OK\r\n{head}").replace("To: <sip:100@sim.example>", "To: <sip:100@sim.example>;tag=s");
    server.send_to(answer.as_bytes(), from).unwrap();
    true
}

/// Another one each time.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn answers_are_those_of_haproxy() {
    let pair = Pair::start(101);
    for (line, answer) in [
        ("set server pbx/one state drain\n", "\n"),
        ("set server pbx/one state maint\n", "\n"),
        ("set server pbx/one state ready\n", "\n"),
        ("set server pbx/one weight 50%\n", "\n"),
        ("get weight pbx/one\n", "35 (initial 70)\n\n"),
        ("set weight pbx/one 100%\n", "\n"),
        ("get weight pbx/one\n", "70 (initial 70)\n\n"),
        ("set server pbx/one weight 300\n", "Absolute weight can only be between 0 and 256 inclusive.\n\n"),
        ("set server pbx/nosuch state drain\n", "No such server.\n\n"),
        ("set server nobe/nosuch state drain\n", "No such backend.\n\n"),
        ("set server pbx/one state bogus\n", "'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n\n"),
        ("set server pbx/one breaker closed\n", "This server's breaker is closed.\n\n"),
        ("set server pbx/one breaker open\n", "'set server <srv> breaker' expects 'closed'.\n\n"),
        ("get weight pbx/zz\n", "No such server.\n\n"),
        ("disable server pbx\n", "Require 'backend/server'.\n\n"),
        ("disable server pbx/two\n", "\n"),
        ("enable server pbx/two\n", "\n"),
        ("show servers state nosuch\n", "Can't find backend.\n\n"),
        ("show backend\n", "# name\npbx\n\n"),
        ("show cli level\n", "admin\n\n"),
        ("show calls pbx/one\n", "0\n\n"),
        ("   get    weight   pbx/one  \r\n", "70 (initial 70)\n\n"),
        ("get weight pbx/one;get weight pbx/zz\n", "70 (initial 70)\n\nNo such server.\n\n"),
        ("get weight pbx/one\nget weight pbx/two\n", "70 (initial 70)\n\n70 (initial 70)\n\n"),
        ("set severity-output number;get weight pbx/zz\n", "\n[3]: No such server.\n\n"),
        ("set severity-output string;get weight pbx/zz\n", "\n[err]: No such server.\n\n"),
        ("quit\n", ""),
    ] {
        assert_eq!(pair.say(line), answer, "{line}");
    }
    for line in ["\n", "sh ver\n", "SHOW VERSION\n"] {
        assert!(pair.say(line).starts_with("Unknown command"));
    }
    let half = pair.connect();
    (&half).write_all(b"show version").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut nothing = String::new();
    (&half).read_to_string(&mut nothing).unwrap();
    assert_eq!(nothing, "", "a line without its end is no command");
    pair.balancer.stop();
}

#[test]
fn a_prompt_stays_until_it_is_left() {
    let pair = Pair::start(102);
    let mut stream = pair.connect();
    let mut exchange = |line: &str| {
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n> ") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&answer));
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(exchange("prompt\n"), "\n> ");
    assert_eq!(exchange("set timeout cli 60\n"), "\n> ");
    assert_eq!(exchange("show cli level\n"), "admin\n\n> ");
    assert_eq!(exchange("get weight pbx/zz\n"), "No such server.\n\n> ");
    stream.write_all(b"quit\n").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    pair.balancer.stop();
}

/// The tools of HAProxy split these.
#[test]
fn show_info_and_show_servers_state_have_haproxy_s_shape() {
    let pair = Pair::start(103);
    let info = pair.say("show info\n");
    let lines: Vec<_> = info.trim_end().lines().map(|line| line.split(": ").collect::<Vec<_>>()).collect();
    assert!(lines.iter().all(|parts| parts.len() == 2), "{info}");
    let names: Vec<_> = lines.iter().map(|parts| parts[0]).take(9).collect();
    let wanted =
        ["Name", "Version", "Release_date", "Nbthread", "Nbproc", "Process_num", "Pid", "Uptime", "Uptime_sec"];
    assert_eq!(names, wanted);
    assert_eq!(
        (lines[0][1], lines[3][1], lines[6][1]),
        ("HAProxy", "2", &*pair.balancer.process.child.id().to_string())
    );
    pair.say("set server pbx/two state drain;set server pbx/one weight 0\n");
    let state = pair.say("show servers state pbx\n");
    let rows: Vec<Vec<_>> = state.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!((rows[0][0], rows[1].len(), rows[2].len(), rows[3].len()), ("1", 26, 25, 25), "{state}");
    let column = |name: &str| rows[1].iter().position(|column| *column == name).unwrap() - 1;
    let cell = |row: usize, name: &str| rows[row][column(name)];
    let cells = |row| {
        ["be_name", "srv_name", "srv_op_state", "srv_admin_state", "srv_uweight", "srv_iweight"]
            .map(|name| cell(row, name))
    };
    assert_eq!(cells(2), ["pbx", "one", "2", "0", "0", "70"]);
    assert_eq!(cells(3), ["pbx", "two", "2", "8", "70", "70"]);
    assert_eq!(cell(2, "srv_port"), pair.servers[0].local_addr().unwrap().port().to_string());
    pair.balancer.stop();
}

#[test]
fn states_and_weights_steer_new_calls_and_survive_a_reload() {
    let pair = Pair::start(104);
    let both = HashSet::from([0, 1]);
    assert_eq!(pair.reached(), both);
    pair.say("set server pbx/one state drain\n");
    assert_eq!(pair.reached(), [1].into());
    assert!(pair.reload(&pair.config).contains("nothing differs"));
    assert_eq!(pair.reached(), [1].into(), "a drain survives");
    pair.say("set server pbx/one state ready;set weight pbx/two 0\n");
    assert_eq!(pair.reached(), [0].into());
    assert_eq!(pair.say("get weight pbx/two\n"), "0 (initial 70)\n\n");
    pair.reload(&pair.config.replacen("weight = 70", "weight = 60", 1));
    assert_eq!(pair.reached(), [0].into(), "a weight survives that the file has not changed");
    pair.reload(&pair.config.replace("weight = 70", "weight = 60"));
    assert_eq!(pair.say("get weight pbx/two\n"), "60 (initial 60)\n\n", "one that the file changed is the file's");
    assert_eq!(pair.reached(), both);
    pair.balancer.stop();
}

#[test]
fn who_did_what_is_in_the_log() {
    let mut pair = Pair::start(105);
    let me = format!("who=uid {} pid {}", nix::unistd::getuid(), std::process::id());
    pair.say("set server pbx/one state drain\n");
    let line = pair.balancer.process.line_with("administrative state");
    assert!(line.contains(&me) && line.contains("pbx/one") && line.contains("to=\"drain\""), "{line}");
    pair.say("set weight pbx/one 5\n");
    assert!(pair.balancer.process.line_with("weight at run time").contains(&me));
    pair.reload(&pair.config.replacen("weight = 70", "weight = 60", 1));
    let line = pair.balancer.process.line_with("reloaded");
    let name = |key: &str| line.split(&format!("{key}=\"")).nth(1).unwrap()[..16].to_owned();
    assert!(line.contains(&me) && name("was") != name("is"), "{line}");
    let status = pair.say("status json\n");
    assert!(status.contains(&format!("\"configuration\":\"{}\"", name("is"))), "{status}");
    pair.balancer.stop();
}

#[test]
fn the_command_line_speaks_to_the_one_that_runs() {
    let pair = Pair::start(106);
    let file = pair.balancer.folder.path().join("trunkline.toml");
    let run = |arguments: &[&str]| {
        let output = output(Command::new(program()).args(arguments));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let file = file.to_str().unwrap();
    let (code, _, said) = run(&["drain", "-c", file, "pbx/one"]);
    assert_eq!((code, said.as_str()), (Some(0), "pbx/one gets no new calls; 0 calls remain\n"));
    let (code, _, said) = run(&["drain", "--wait", "-c", file, "pbx/one"]);
    assert_eq!((code, said.as_str()), (Some(0), "pbx/one gets no new calls; 0 calls remain\n"));
    let (code, table, _) = run(&["status", "--socket", pair.socket().to_str().unwrap()]);
    assert!(
        code == Some(0) && table.lines().any(|line| line.starts_with("pbx/one ") && line.contains("no check, drain")),
        "{table}"
    );
    let (_, json, _) = run(&["status", "--json", "-c", file]);
    assert!(
        json.starts_with('{') && json.contains("\"server\":\"one\"") && json.contains("\"admin\":\"drain\""),
        "{json}"
    );
    assert_eq!(run(&["maint", "-c", file, "pbx/one"]).0, Some(0));
    assert_eq!(run(&["ready", "-c", file, "pbx/one"]).0, Some(0));
    let (code, _, said) = run(&["ready", "-c", file, "pbx/three"]);
    assert!(code == Some(1) && said.contains("No such server. `trunkline status` lists"), "{said}");
    let (code, _, said) = run(&["maint", "-c", file, "pbx/one state ready;quit"]);
    assert!(code == Some(2) && said.contains("is no server's name"), "{said}");
    let (code, _, said) = run(&["status", "-c", "/nowhere/trunkline.toml"]);
    assert!(code == Some(1) && said.contains("/nowhere/trunkline.toml: No such file"), "{said}");
    let socket = pair.socket();
    pair.balancer.stop();
    assert!(!socket.exists(), "it takes its socket with it");
    let (code, _, said) = run(&["status", "--socket", socket.to_str().unwrap()]);
    assert!(code == Some(1) && said.contains("no Trunkline listens there; is it running?"), "{said}");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_left_alone() {
    let pair = Pair::start(107);
    assert_eq!(std::fs::metadata(pair.socket()).unwrap().permissions().mode() & 0o777, 0o660);
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("trunkline.toml");
    let port = free_port("127.0.2.107");
    let config = pair.config.replace(&pair.at.to_string(), &format!("127.0.2.107:{port}"));
    let own = folder.path().join("admin.sock").to_str().unwrap().to_owned();
    let live = global(&folder, 1).replace(&own, pair.socket().to_str().unwrap());
    let start = |text: &str| {
        std::fs::write(&file, text.to_owned() + &config).unwrap();
        let mut command = Command::new(program());
        command.args(["run", "-c", file.to_str().unwrap()]);
        command
    };
    let second = output(&mut start(&live));
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another process listens there") && said.contains("`runtime_socket`"), "{said}");
    assert_eq!(pair.say("show cli level\n"), "admin\n\n", "the first one's door is open as before");
    // Nobody listens at a socket whose listener is gone.
    drop(UnixListener::bind(&own).unwrap());
    let mut process = Process::start(&mut start(&global(&folder, 1)));
    process.line_with("started");
    assert!(UnixStream::connect(&own).is_ok());
    process.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(process.end().0, Some(0));
    std::fs::write(&own, "a file of somebody's").unwrap();
    let refused = output(&mut start(&global(&folder, 1)));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("something else stands there"));
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "a file of somebody's");
    let nowhere = global(&folder, 1).replace(&own, "/nowhere/admin.sock");
    let said = String::from_utf8(output(&mut start(&nowhere)).stderr).unwrap();
    assert!(said.contains("/nowhere must be a directory that this user may write to"), "{said}");
    pair.balancer.stop();
}

#[test]
fn nobody_can_fill_it_up() {
    let pair = Pair::start(108);
    // A line without an end.
    let mut stream = pair.connect();
    let _ = stream.write_all(&[b'x'; 40_000]);
    let mut said = String::new();
    let _ = stream.read_to_string(&mut said);
    assert!(said.is_empty() || said == "The line is too long.\n\n", "{said}");
    // Those who connect and say nothing are gone in a while; until then others wait.
    let idle: Vec<_> = (0..16).map(|_| pair.connect()).collect();
    let mut waiting = pair.connect();
    waiting.write_all(b"show cli level\n").unwrap();
    waiting.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "admin\n\n");
    for mut stream in idle {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    pair.balancer.stop();
}

#[test]
fn whoever_takes_the_last_server_away_is_told_and_so_is_the_log() {
    let mut pair = Pair::start(109);
    let warning = "warning: no server of pbx takes new calls now\n\n";
    assert_eq!(pair.say("set server pbx/one state drain\n"), "\n");
    assert_eq!(pair.say("sip maint pbx/two\n"), warning);
    let line = pair.balancer.process.line_with("no server takes new calls");
    assert!(line.contains("ERROR") && line.contains("pbx"), "{line}");
    assert_eq!(pair.say("set server pbx/two state drain\n"), "\n", "it was so before");
    assert_eq!(pair.say("enable server pbx/one\n"), "\n");
    pair.balancer.process.line_with("new calls are taken again");
    assert_eq!(pair.say("set weight pbx/one 0\n"), "\n", "HAProxy's tools take any word for a failure");
    pair.balancer.process.line_with("no server takes new calls");
    assert_eq!(pair.run(&["ready", "pbx/two"]), (Some(0), "pbx/two is ready\n".to_owned()));
    let (code, said) = pair.run(&["drain", "pbx/two"]);
    let told = "warning: no server of pbx takes new calls now\npbx/two gets no new calls; 0 calls remain\n";
    assert_eq!((code, said.as_str()), (Some(0), told));
    // A reload says it too, and so does a start whose names have no address.
    pair.say("set server pbx/two state ready\n");
    let only = pair.config.split("[[backend.server]]").take(2).collect::<Vec<_>>().join("[[backend.server]]");
    let lost = only.replace("address = \"udp://", "address = \"udp://nowhere.example:5060\" #");
    assert!(
        pair.reload(&("[dns]\nnameservers = \"127.0.3.109:9\"\ntimeout = \"100ms\"\n".to_owned() + &lost))
            .contains("Success=1")
    );
    assert!(pair.balancer.process.line_with("no server takes new calls").contains("ERROR"));
    pair.balancer.stop();
}

#[test]
fn a_start_without_any_address_is_told() {
    let at = SocketAddr::from(([127, 0, 2, 114], free_port("127.0.2.114")));
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("trunkline.toml");
    let config = format!(
        "[dns]\nnameservers = \"127.0.3.114:9\"\ntimeout = \"100ms\"\n[[frontend]]\nname = \"f\"\nbind = \"udp://{at}\"\n\
         backend = \"pbx\"\n[[backend]]\nname = \"pbx\"\n[[backend.server]]\nname = \"p\"\naddress = \"udp://nowhere.example\"\n"
    );
    std::fs::write(&file, global(&folder, 1) + &config).unwrap();
    let mut process = Process::start(Command::new(program()).args(["run", "-c"]).arg(&file));
    let line = process.line_with("no server takes new calls");
    assert!(line.contains("ERROR") && line.contains("pbx"), "{line}");
    process.line_with("started");
    let said =
        trunkline::admin::client::ask(&folder.path().join("admin.sock"), "set server pbx/p state drain").unwrap();
    assert_eq!(said, "No such server: pbx/p is a name, and has no address.\n");
}

#[test]
fn maintenance_says_how_many_calls_lose_their_server() {
    let pair = Pair::start(110);
    pair.say("set server pbx/two state drain\n");
    pair.call(3);
    wait_for("three calls", || pair.say("show calls pbx/one\n") == "3\n\n");
    pair.say("set server pbx/two state ready\n");
    let (code, said) = pair.run(&["maint", "pbx/one"]);
    let told = "warning: 3 calls lose their server; a drain first would have kept them\npbx/one is maint\n";
    assert_eq!((code, said.as_str()), (Some(0), told));
    assert_eq!(pair.say("set server pbx/one state maint\n"), "\n", "they are lost already");
    pair.balancer.stop();
}

#[test]
fn what_servers_did_is_counted_and_shown() {
    let pair = Pair::start(111);
    pair.say("set server pbx/two state drain\n");
    pair.call(4);
    let keys = ["requests", "opened", "new_calls", "failed", "unreachable", "moved_on", "1xx", "2xx", "5xx"];
    let counted = || keys.map(|key| pair.json("one", key));
    wait_for("four calls", || counted() == [4, 4, 4, 0, 0, 0, 0, 4, 0]);
    assert_eq!(pair.json("two", "opened"), 0);
    let table = pair.say("status\n");
    let row = |start: &str| {
        let line = table.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{table}"));
        line.split("  ").filter(|cell| !cell.is_empty()).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(row("server")[5..], ["weight", "calls", "opened", "failed"], "{table}");
    assert_eq!(row("pbx/one").last_chunk(), Some(&["4".to_owned(), "4".to_owned(), "0".to_owned()]), "{table}");
    pair.balancer.stop();
}

#[test]
fn a_server_that_a_reload_adds_is_as_old_as_that() {
    let pair = Pair::start(112);
    wait_for("two seconds of life", || number_of(&pair.say("status json\n"), "uptime_seconds") >= 2);
    let added = "[[backend.server]]\nname = \"three\"\naddress = \"udp://127.0.3.112:9\"\n";
    assert!(pair.reload(&(pair.config.clone() + added)).contains("server pbx/three added"));
    let (one, three) = (pair.json("one", "since_seconds"), pair.json("three", "since_seconds"));
    assert!(three < one, "{three} s, and {one} s for one that was there at the start");
    pair.balancer.stop();
}

#[test]
fn the_log_of_a_change_is_plain() {
    let mut pair = Pair::start(113);
    pair.say("set weight pbx/one 50\n");
    let line = pair.balancer.process.line_with("weight at run time");
    assert!(line.contains("from=70 to=50"), "{line}");
    pair.say("set weight pbx/one 100%\n");
    let line = pair.balancer.process.line_with("weight at run time");
    assert!(line.contains("from=50 to=70"), "{line}");
    // The file may have been changed since it was read.
    let socket = pair.socket();
    let text = global(&pair.balancer.folder, 2).replace("admin.sock", "other.sock") + &pair.config;
    std::fs::write(pair.balancer.folder.path().join("trunkline.toml"), text).unwrap();
    let (code, said) = pair.run(&["reload"]);
    assert!(code == Some(1) && said.contains("was `runtime_socket` changed"), "{said}");
    let (code, said) = pair.run(&["reload", "--socket", socket.to_str().unwrap()]);
    assert!(code == Some(0) && said.contains("runtime_socket stays where it is"), "{said}");
    pair.balancer.stop();
}
