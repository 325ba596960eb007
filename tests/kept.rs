//! What outlives the process, with real processes: the history of configurations and the way back, and the audit log.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::http::{admin, user};
use support::process::{Balancer, DEADLINE, Process, global, output, program, wait_for};
use support::regions::{Net, SERVERS, answer, stop};
use trunkline::admin::client::ask;
use trunkline::config::fingerprint;
use trunkline::load::{Answerer, Generator, Timers};

const WORKERS: usize = 4;

/// A balancer with five servers, and its file.
struct Node {
    balancer: Balancer,
    at: SocketAddr,
    servers: Answerer,
    net: Net,
}

impl Node {
    fn start(net: Net, frontend: &str) -> Self {
        let addresses = net.servers();
        let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
        let servers = answer(&named, Timers::default());
        let backend = "check = { interval = \"60s\" }\nstick = { on = \"source\" }";
        let (balancer, at) = net.balance_by(["udp", "udp"], &addresses, [frontend, backend, ""]);
        Self { balancer, at, servers, net }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.balancer.folder.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("trunkline.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn ask(&self, command: &str) -> String {
        ask(&self.path("admin.sock"), command).unwrap()
    }

    /// A command of the command line: exit code, stdout and stderr.
    fn command(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(program());
        let output = output(command.args(arguments).arg("-c").arg(self.file()));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Writes the file, to the byte, and reloads it.
    fn reload(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
        let said = self.ask("reload");
        assert!(said.starts_with("Success=1\n"), "{said}");
    }

    fn history(&self) -> Vec<Value> {
        let (code, stdout, stderr) = self.command(&["history", "--json"]);
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap().as_array().unwrap().clone()
    }

    fn in_force(&self) -> Value {
        let status: Value = serde_json::from_str(&self.ask("status json")).unwrap();
        status["configuration"].clone()
    }

    /// Waits until the audit log has so many lines: another thread writes it.
    fn wait_for_audit(&self, count: usize) {
        let file = self.path("state/audit.jsonl");
        wait_for("the audit log", || fs::read_to_string(&file).is_ok_and(|text| text.lines().count() == count));
    }

    /// Starts another process with the same file.
    fn start_again(&self) -> Process {
        let mut process = Process::start(Command::new(program()).arg("run").arg("-c").arg(self.file()));
        process.line_with("configuration kept");
        process
    }
}

fn name(text: &str) -> Value {
    format!("{:016x}", fingerprint(text)).into()
}

/// Ends a process in order.
fn end(process: Process) {
    process.signal(Signal::SIGTERM);
    assert_eq!(process.end().0, Some(0));
}

/// Comments, line ends of two kinds, a blank at the end: all of it comes back, while calls go on.
#[test]
fn rollback_restores_to_the_byte_and_calls_go_on() {
    let mut node = Node::start(Net(92), "");
    node.balancer.process.line_with("configuration kept");
    let first = node.text().replace("[[backend]]", "# Lagos is slow today.\r\n[[backend]]\r\n") + "\n# the end \t ";
    let callers = Generator::start(node.net.callers(node.at, 240, 100.0)).unwrap();
    wait_for("calls to run", || callers.report().total().started > 24);
    node.reload(&first);
    let second = first.replacen("weight = 70", "weight = 50", 1);
    fs::set_permissions(node.file(), fs::Permissions::from_mode(0o604)).unwrap();
    std::os::unix::fs::chown(node.file(), Some(12), Some(34)).unwrap();
    node.reload(&second);
    let known: Vec<_> = node.history().iter().map(|entry| entry["configuration"].clone()).collect();
    assert_eq!(known[1..], [name(&first), name(&second)]);

    let (code, stdout, _) = node.command(&["diff"]);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "the newest is the file");
    let (code, stdout, _) = node.command(&["diff", "2"]);
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with("--- number 2\n+++ /") && stdout.contains("\n-weight = 70\n+weight = 50\n"), "{stdout}");
    let (code, back, _) = node.command(&["diff", "3", "2"]);
    assert!(code == Some(1) && back.contains("\n-weight = 50\n+weight = 70\n"), "{back}");
    assert_eq!(node.command(&["diff", "9"]).0, Some(2));

    let (code, stdout, stderr) = node.command(&["rollback", "2"]);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    assert!(stderr.contains("region pbx/lagos") || stderr.contains("weight 50 -> 70"), "{stderr}");
    assert_eq!(fs::read(node.file()).unwrap(), first.as_bytes(), "to the byte");
    let found = fs::metadata(node.file()).unwrap();
    assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o604, 12, 34));
    assert_eq!(node.in_force(), name(&first));
    let kept = node.history();
    let last = kept.last().unwrap();
    assert_eq!((kept.len(), &last["number"], &last["configuration"]), (4, &json!(4), &name(&first)));
    assert!(last["who"].as_str().unwrap().starts_with("uid 0 pid "), "{last}");
    let modes = |name: &str| fs::metadata(node.path("state").join(name)).unwrap().mode() & 0o777;
    let modes = [modes("history"), modes("history/000004.toml"), modes("history/000004.json")];
    assert_eq!(modes, [0o700, 0o600, 0o600]);

    let report = callers.finish().unwrap();
    let answered = stop(node.servers);
    assert!(report.succeeded() && report.total().lost == 0, "{report}\n{answered}");
    assert!(answered.succeeded() && answered.misdirected() == 0, "{answered}");
    node.balancer.stop();
}

/// Whatever refuses a way back, the file is what it was, and so is what is in force.
#[test]
fn a_rollback_that_is_refused_leaves_everything_as_it_was() {
    let mut node = Node::start(Net(93), "");
    node.balancer.process.line_with("configuration kept");
    let text = node.text();
    let unchanged = |node: &Node, arguments: &[&str], words: &[&str]| {
        let before = fs::read(node.file()).unwrap();
        let (code, stdout, stderr) = node.command(arguments);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}: {stderr}");
        words.iter().for_each(|words| assert!(stderr.contains(words), "no \"{words}\": {stderr}"));
        assert_eq!(fs::read(node.file()).unwrap(), before, "{arguments:?}");
    };
    // As a relay it would need another process.
    let relay = format!(
        "{}[[frontend]]\nname = \"sip\"\nmode = \"relay\"\nbind = \"udp://{}\"\nbackend = \"media\"\n\
         [[backend]]\nname = \"media\"\n[[backend.server]]\nname = \"m\"\naddress = \"udp://{}:5060\"\n",
        global(&node.balancer.folder, WORKERS),
        node.at,
        node.net.ip(11),
    );
    node.balancer.process.signal(Signal::SIGTERM);
    wait_for("its end", || node.balancer.process.child.try_wait().unwrap().is_some());
    fs::write(node.file(), &relay).unwrap();
    end(node.start_again());
    fs::write(node.file(), &text).unwrap();
    // Nobody runs.
    unchanged(&node, &["rollback", "2"], &["no Trunkline listens there", "nothing was changed; --no-reload"]);
    node.balancer.process = node.start_again();
    assert_eq!(node.history().len(), 3);
    unchanged(&node, &["rollback", "2"], &["number 2 was refused; what was there is there again"]);
    assert_eq!((node.in_force(), node.history().len()), (name(&text), 3));
    unchanged(&node, &["rollback", "7"], &["there is no number 7", "kept are 1 to 3"]);
    let key = fs::read(node.path("cluster.key")).unwrap();
    fs::write(node.path("cluster.key"), "nonsense").unwrap();
    unchanged(&node, &["rollback", "1"], &["number 1 is not good today; nothing was changed"]);
    fs::write(node.path("cluster.key"), key).unwrap();
    let kept = node.path("state/history/000002.toml");
    fs::write(&kept, relay.clone() + "\n").unwrap();
    unchanged(&node, &["rollback", "2", "--no-reload"], &["it is not the text any more that was accepted"]);
    fs::write(&kept, &relay).unwrap();
    let (code, _, stderr) = node.command(&["rollback", "2", "--no-reload"]);
    assert!(code == Some(0) && node.text() == relay && node.in_force() == name(&text), "{stderr}");
    node.balancer.stop();
}

/// A folder that the file names must be had; a disk that fails later refuses no reload.
#[test]
fn a_state_folder_that_cannot_be_had_is_told() {
    let mut node = Node::start(Net(92), "");
    node.balancer.process.line_with("configuration kept");
    let text = node.text();
    let state = format!("\"{}\"", node.path("state").display());
    assert!(text.contains(&state));
    let start = |state: &str| {
        let file = node.path("other.toml");
        let socket = text.replace("admin.sock", "other.sock");
        fs::write(&file, socket.replace(&format!("{}\"", node.path("state").display()), &format!("{state}\"")))
            .unwrap();
        let output = output(Command::new(program()).arg("run").arg("-c").arg(file));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // It goes on without one, as far as the addresses that the first one has.
    let (code, stderr) = start("/proc/nowhere/trunkline");
    assert!(code == Some(1) && stderr.contains("it must be a directory that this user may write to"), "{stderr}");
    let (code, stderr) = start(&node.path("state").display().to_string());
    assert!(code == Some(1) && stderr.contains("a running Trunkline keeps its history there"), "{stderr}");
    fs::write(node.file(), text.replace("/state\"", "/elsewhere\"")).unwrap();
    assert!(node.ask("reload").contains("warning: state_dir stays where it is: a restart moves it"));
    assert!(!node.path("elsewhere").exists());

    let history = node.path("state/history");
    fs::rename(&history, node.path("away")).unwrap();
    fs::write(&history, "").unwrap();
    let other = text.replacen("weight = 70", "weight = 60", 1);
    node.reload(&other);
    assert_eq!(node.in_force(), name(&other));
    node.balancer.process.line_with("the configuration is in force and not kept");
    node.balancer.stop();
}

/// What came of a form that is posted to the page.
fn post(at: SocketAddr, login: &str, form: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!(
        "POST /stats HTTP/1.1\r\nHost: edge\r\nAuthorization: Basic {login}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn lines(file: &Path) -> Vec<Value> {
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One line for each thing that somebody did, with who, and none for anything else.
#[test]
fn the_audit_log_has_each_change_once_with_who_made_it() {
    let net = Net(93);
    let looked_at = net.free(3);
    let mut node = Node::start(net, &format!("{}{}", admin(looked_at), user("ada", "admin")));
    node.balancer.process.line_with("configuration kept");
    let first = node.text();
    let second = first.replacen("weight = 70", "weight = 60", 1);
    for command in [
        "set server pbx/lagos-1 weight 50",
        "set maxconn server pbx/lagos-1 7",
        "sip drain pbx/lagos-2",
        // Nothing changes by it.
        "sip drain pbx/lagos-2",
        "sip drain pbx/nobody",
        "sip reset breaker pbx/lagos-1",
        "set server pbx/lagos-3 health down",
        "clear table pbx",
        "clear counters all",
        "show stat",
    ] {
        node.ask(command);
    }
    assert_eq!(node.command(&["ready", "pbx/lagos-2"]).0, Some(0));
    let answer = post(looked_at, "YWRhOnNlY3JldA==", "s=abuja-1&action=maint&b=pbx");
    assert!(answer.contains("st=DONE"), "{answer}");
    node.reload(&second);
    fs::write(node.file(), "nonsense").unwrap();
    node.balancer.process.signal(Signal::SIGHUP);
    node.balancer.process.line_with("reload refused");
    node.balancer.process.signal(Signal::SIGTERM);
    wait_for("its end", || node.balancer.process.child.try_wait().unwrap().is_some());

    let file = node.path("state/audit.jsonl");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    let (peer, signal) = (|line: &Value| line["who"]["uid"] == 0 && line["who"]["pid"].as_u64() > Some(1), "signal");
    let (none, first, second) = (json!(""), name(&first), name(&second));
    let expected = [
        ("start", "", "process", none.clone(), first.clone()),
        ("weight", "pbx/lagos-1", "weight", json!("100"), json!("50")),
        ("limit", "pbx/lagos-1", "max_calls", json!("0"), json!("7")),
        ("admin", "pbx/lagos-2", "state", json!("ready"), json!("drain")),
        ("admin", "pbx/lagos-3", "health", json!("up"), json!("down")),
        ("admin", "", "counters", json!("all counters"), json!("cleared")),
        ("admin", "pbx/lagos-2", "state", json!("drain"), json!("ready")),
        ("admin", "pbx/abuja-1", "state", json!("ready"), json!("maint")),
        ("reload", "", "configuration", first, second.clone()),
        ("reload", "", "configuration", second.clone(), name("nonsense")),
        ("stop", "", "process", second, none),
    ];
    let found = lines(&file);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (line, (kind, of, what, from, to)) in found.iter().zip(expected) {
        assert_eq!((&line["kind"], &line["of"], &line["what"]), (&kind.into(), &of.into(), &what.into()), "{line}");
        assert_eq!((&line["from"], &line["to"]), (&from, &to), "{line}");
        let at = line["at"].as_str().unwrap();
        assert!(at.starts_with("20") && at.ends_with('Z') && line["node"].as_str() != Some(""), "{line}");
        match kind {
            "start" => assert_eq!(line["who"], json!({"own": "start"})),
            "stop" => assert_eq!(line["who"], json!({signal: "SIGTERM"})),
            "reload" if line["ok"] == false => assert_eq!(line["who"], json!({signal: "SIGHUP"})),
            _ if of == "pbx/abuja-1" => assert_eq!(line["who"], json!({"user": "ada", "from": "127.0.0.1"})),
            _ => assert!(peer(line), "{line}"),
        }
        assert_eq!(line["ok"], json!(line["to"] != name("nonsense")), "{line}");
    }
    assert!(found[8]["said"].as_str().unwrap().contains("1 change"), "what changed: {}", found[8]);
    assert!(found[9]["said"].as_str().unwrap().contains("not TOML"), "why: {}", found[9]);
}

/// Commands that change files beside the one that runs, or while nobody does, write their own lines.
#[test]
fn what_commands_change_in_files_is_in_the_audit_log() {
    let mut node = Node::start(Net(104), "");
    node.balancer.process.line_with("configuration kept");
    node.wait_for_audit(1);
    let first = node.text();
    let other = first.replacen("weight = 70", "weight = 60", 1);
    fs::write(node.file(), &other).unwrap();
    let key = || node.command(&["cluster-key", "show", "--json"]).1;
    let key = || serde_json::from_str::<Value>(&key()).unwrap()["key"].clone();
    let before = key();
    assert_eq!(node.command(&["rollback", "1", "--no-reload"]).0, Some(0));
    let (code, _, stderr) = node.command(&["cluster-key", "rotate"]);
    assert!(code == Some(0) && stderr.contains("no `rotate` there"), "{stderr}");
    let rotated = key();
    assert_eq!(node.command(&["cluster-key", "rotate", "--use"]).0, Some(0));
    let used = key();
    // Refused: nothing changes.
    assert_eq!(node.command(&["cluster-key", "rotate", "--use"]).0, Some(1));
    let outside = tempfile::TempDir::new().unwrap();
    let tar = outside.path().join("edge.tar").to_str().unwrap().to_owned();
    fs::set_permissions(node.path("cluster.key"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(node.command(&["backup", &tar]).0, Some(0));
    node.balancer.process.signal(Signal::SIGTERM);
    wait_for("its end", || node.balancer.process.child.try_wait().unwrap().is_some());
    // Modes come back too.
    fs::set_permissions(node.path("cluster.key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(trunkline(&["restore", "--force", &tar]).0, Some(0));
    assert_eq!(fs::metadata(node.path("cluster.key")).unwrap().mode() & 0o777, 0o600);
    let found = lines(&node.path("state/audit.jsonl"));
    let said: Vec<_> = found.iter().map(|line| [&line["what"], &line["from"], &line["to"]]).collect();
    let (first, other, none) = (name(&first), name(&other), json!(""));
    let word = |word: &str| json!(word);
    assert_eq!(
        said,
        [
            [&word("process"), &none, &first],
            [&word("configuration file"), &other, &first],
            [&word("cluster key"), &before, &rotated],
            [&word("cluster key"), &rotated, &used],
            [&word("process"), &first, &none],
            [&word("files of a backup"), &none, &first],
        ]
    );
    let commands = found.iter().filter(|line| line["what"] != "process");
    assert!(commands.clone().all(|line| line["who"]["uid"] == 0 && line["node"] != ""), "{found:#?}");
}

/// Everything below a folder: names, modes and contents.
fn tree(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let mode = fs::metadata(&path).unwrap().mode() & 0o777;
                    found.push((path.strip_prefix(folder).unwrap().to_owned(), mode, fs::read(&path).unwrap()));
                }
            }
        }
    }
    found.sort();
    found
}

fn trunkline(arguments: &[&str]) -> (Option<i32>, String) {
    let output = output(Command::new(program()).args(arguments));
    assert_eq!(output.stdout, b"", "what is for people goes to stderr");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A node is lost with all its files, and a backup makes an empty one go on with what it had begun.
#[test]
fn restore_on_an_empty_node_goes_on_where_the_first_one_was() {
    let mut node = Node::start(Net(94), "");
    node.balancer.process.line_with("configuration kept");
    let text = node.text().replacen("weight = 70", "weight = 71", 1);
    node.reload(&text);
    node.wait_for_audit(2);
    let outside = tempfile::TempDir::new().unwrap();
    let tar = outside.path().join("edge.tar").to_str().unwrap().to_owned();
    let (code, _, stderr) = node.command(&["backup", &tar]);
    assert!(code == Some(0) && stderr.contains("it holds secrets"), "{stderr}");
    assert_eq!(fs::metadata(&tar).unwrap().mode() & 0o777, 0o600);
    assert!(node.command(&["backup", &tar]).2.contains("it is there already"), "nothing is written over");
    let (code, said) = trunkline(&["restore", &tar]);
    assert!(code == Some(1) && said.contains("a running Trunkline keeps its history there"), "{said}");

    // Calls of two seconds, half of which the second node ends.
    let mut options = node.net.callers(node.at, 60, 60.0);
    options.habits.mix = trunkline::load::Mix::parse("call=1").unwrap();
    options.habits.hold = std::time::Duration::from_secs(4);
    let callers = Generator::start(options).unwrap();
    wait_for("all calls to be there", || {
        node.servers.servers().iter().map(|s| s.counters.dialogs.get()).sum::<u64>() == 60
    });
    let folder = node.balancer.folder.path().to_owned();
    node.balancer.process.signal(Signal::SIGKILL);
    wait_for("its end", || node.balancer.process.child.try_wait().unwrap().is_some());
    for socket in ["admin.sock", "admin.check"] {
        fs::remove_file(node.path(socket)).unwrap();
    }
    let before = tree(&folder);
    assert_eq!(before.len(), 2 + 4 + 1, "configuration, key, two accepted ones, audit: {before:?}");
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    let (code, said) = trunkline(&["restore", &tar]);
    assert!(code == Some(0) && said.contains("cluster key ") && said.starts_with("7 files"), "{said}");
    let mut after = tree(&folder);
    // It says itself that files were put back.
    let (_, _, audit) = &mut after[1];
    let whole = before[1].2.len();
    assert!(String::from_utf8_lossy(&audit[whole..]).contains("files of a backup"));
    audit.truncate(whole);
    assert!(after == before, "the files are those of the first node");
    node.balancer.process = node.start_again();
    assert_eq!(node.in_force(), name(&text));
    let report = callers.finish().unwrap();
    let more = Generator::start(node.net.callers(node.at, 24, 100.0)).unwrap().finish().unwrap();
    let answered = stop(node.servers);
    assert!(report.succeeded() && report.total().answered == 60 && report.misdirected == 0, "{report}\n{answered}");
    assert!(more.succeeded() && answered.succeeded() && answered.misdirected() == 0, "{more}\n{answered}");
    node.balancer.stop();
}

/// What does not belong where it would go, what broke, and what stands in the way: nothing is written.
#[test]
fn a_restore_that_is_refused_writes_nothing() {
    let mut node = Node::start(Net(95), "");
    node.balancer.process.line_with("configuration kept");
    let outside = tempfile::TempDir::new().unwrap();
    let path = |name: &str| outside.path().join(name).to_str().unwrap().to_owned();
    node.wait_for_audit(1);
    assert_eq!(node.command(&["backup", &path("edge.tar")]).0, Some(0));
    node.balancer.process.signal(Signal::SIGTERM);
    wait_for("its end", || node.balancer.process.child.try_wait().unwrap().is_some());
    let good = fs::read(path("edge.tar")).unwrap();
    let root = path("root");
    fs::create_dir(&root).unwrap();
    let refused = |bytes: &[u8], words: &str| {
        fs::write(path("bad.tar"), bytes).unwrap();
        let (code, said) = trunkline(&["restore", "--root", &root, &path("bad.tar")]);
        assert!(code == Some(1) && said.contains(words), "no \"{words}\": {said}");
        assert_eq!(tree(Path::new(&root)).len(), 0, "{words}");
    };
    refused(b"nonsense", "this is no");
    refused(&good[..good.len() / 2], "");
    let swapped = |from: &str, to: &str| {
        let at = good.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat()
    };
    refused(&swapped("weight = 70", "weight = 99"), "it is not what the backup's manifest says");
    refused(&swapped("\"format\": 1", "\"format\": 2"), "it is of format 2");
    // Its manifest leads elsewhere.
    let mut archive = tar::Archive::new(&good[..]);
    let mut forged = tar::Builder::new(Vec::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (name, mut bytes) = (entry.path().unwrap().into_owned(), Vec::new());
        entry.read_to_end(&mut bytes).unwrap();
        let to_shadow = |text: String| text.replace("state/audit.jsonl", "../../etc/shadow");
        let mut header = entry.header().clone();
        if name == Path::new("manifest.json") {
            bytes = to_shadow(String::from_utf8(bytes).unwrap()).into_bytes();
        }
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        // Whoever forges writes what a library would not.
        if name.ends_with("audit.jsonl") {
            let name = to_shadow(name.to_str().unwrap().to_owned());
            header.as_old_mut().name = [0; 100];
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            forged.append(&header, &bytes[..]).unwrap();
        } else {
            forged.append_data(&mut header, name, &bytes[..]).unwrap();
        }
    }
    refused(&forged.into_inner().unwrap(), "../../etc/shadow: the configuration in the backup names no such place");

    fs::write(node.file(), "mine").unwrap();
    let before = tree(node.balancer.folder.path());
    let (code, said) = trunkline(&["restore", &path("edge.tar")]);
    let named = node.file().to_str().unwrap().to_owned();
    assert!(code == Some(1) && said.contains("files that are others stand") && said.contains(&named), "{said}");
    assert_eq!(tree(node.balancer.folder.path()), before);
    let (code, said) = trunkline(&["restore", "--force", &path("edge.tar")]);
    assert!(code == Some(0) && node.text().contains("[[frontend]]"), "{said}");
    // To look at it first.
    assert_eq!(trunkline(&["restore", "--root", &root, &path("edge.tar")]).0, Some(0));
    assert_eq!(fs::read_to_string(format!("{root}{named}")).unwrap(), node.text());
}

/// The folder is the service's, who may put a link there: root does not follow it, nor gives away what it leads to.
#[test]
fn a_restore_follows_no_link_of_the_service() {
    let mut node = Node::start(Net(116), "");
    node.balancer.process.line_with("configuration kept");
    let outside = tempfile::TempDir::new().unwrap();
    let path = |name: &str| outside.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(node.command(&["backup", &path("edge.tar")]).0, Some(0));
    let root = path("root");
    fs::create_dir(&root).unwrap();
    assert_eq!(trunkline(&["restore", "--root", &root, &path("edge.tar")]).0, Some(0));
    let (state, victim) = (format!("{root}{}", node.path("state").display()), path("victim"));
    fs::create_dir(&victim).unwrap();
    fs::remove_dir_all(format!("{state}/history")).unwrap();
    std::os::unix::fs::symlink(&victim, format!("{state}/history")).unwrap();
    for place in [&state, &format!("{state}/history")] {
        std::os::unix::fs::lchown(place, Some(901), Some(901)).unwrap();
    }
    let (code, said) = trunkline(&["restore", "--force", "--root", &root, &path("edge.tar")]);
    assert!(
        code == Some(1) && said.contains("history: a link that somebody else made; remove it; nothing was written"),
        "{said}"
    );
    assert_eq!((fs::metadata(&victim).unwrap().uid(), tree(Path::new(&victim)).len()), (0, 0));
    // Its own link root follows, and what it leads to is the service's, as the folder would be.
    fs::remove_file(format!("{state}/history")).unwrap();
    std::os::unix::fs::symlink(&victim, format!("{state}/history")).unwrap();
    let (code, said) = trunkline(&["restore", "--force", "--root", &root, &path("edge.tar")]);
    assert!(code == Some(0), "{said}");
    assert_eq!((fs::metadata(&victim).unwrap().uid(), tree(Path::new(&victim)).len()), (901, 2));
    assert_eq!(fs::symlink_metadata(format!("{state}/history")).unwrap().uid(), 0);
    node.balancer.stop();
}
