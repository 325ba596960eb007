//! `trunkline cluster-key` and two real nodes that share a key and five servers: what one begins the other goes on with, at
//! every step of a rotation, under load.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::process::{Balancer, output, program, wait_for};
use support::regions::{DOMAIN, Net, REGIONS, SERVERS, answer, stop};
use support::workers::free_port;
use trunkline::admin::client::ask;
use trunkline::load::{CallReport, Generator, Mix, Timers};

const WORKERS: usize = 4;

/// `trunkline cluster-key` with these arguments, for a node's configuration: exit code, stdout and stderr.
fn cluster_key(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let file = folder.join("trunkline.toml");
    let mut command = Command::new(program());
    let output = output(command.arg("cluster-key").args(arguments).arg("-c").arg(file));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn done(folder: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = cluster_key(folder, arguments);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{arguments:?}: {stderr}");
    stderr
}

fn refused(folder: &Path, arguments: &[&str], words: &str) {
    let before = fs::read(folder.join("cluster.key")).unwrap();
    let (code, stdout, stderr) = cluster_key(folder, arguments);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}: {stderr}");
    assert!(stderr.contains(words), "no \"{words}\": {stderr}");
    assert_eq!(fs::read(folder.join("cluster.key")).unwrap(), before, "{arguments:?}");
}

fn show(folder: &Path) -> Value {
    let (code, stdout, stderr) = cluster_key(folder, &["show", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let mut shown: Value = serde_json::from_str(&stdout).unwrap();
    shown["file"] = Value::Null;
    shown
}

/// A node at `own` that tells its clients the other one's address: what follows in a call that it begins comes to the other.
/// Turn by turn, so that nothing but the token tells that one which server has the call: a hash would find it again.
fn node(net: &Net, [own, other]: [SocketAddr; 2], inside: u8, servers: &[SocketAddr; 5]) -> Balancer {
    let mut config = format!(
        "[[frontend]]\nname = \"sip\"\nbind = \"udp://{own}\"\nadvertise = \"{}\"\ninside = \"{}\"\n\
         aliases = [\"{DOMAIN}\"]\nsend_to = [\"{}\"]\nbackend = \"pbx\"\n[[backend]]\nname = \"pbx\"\nbalance = \"roundrobin\"\n",
        other.ip(),
        net.ip(inside),
        net.clients(),
    );
    for (name, weight) in REGIONS {
        config += &format!("[[backend.region]]\nname = \"{name}\"\nweight = {weight}\n");
    }
    for ((name, region), address) in SERVERS.iter().zip(servers) {
        config +=
            &format!("[[backend.server]]\nname = \"{name}\"\nregion = \"{region}\"\naddress = \"udp://{address}\"\n");
    }
    Balancer::start(WORKERS, &config)
}

fn reload(node: &Balancer) -> String {
    let said = ask(&node.folder.path().join("admin.sock"), "reload").unwrap();
    assert!(said.starts_with("Success=1\n"), "{said}");
    said
}

/// Both nodes have calls that began before a step and end after it, and each takes the tokens of the other.
#[test]
fn seals_rotate_in_two_steps_on_two_nodes_and_no_call_is_lost() {
    let net = Net(94);
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let servers = answer(&named, Timers::default());
    let port = free_port(&net.ip(1).to_string());
    let at = [1, 3].map(|host| SocketAddr::new(net.ip(host).into(), port));
    let nodes = [node(&net, at, 2, &addresses), node(&net, [at[1], at[0]], 4, &addresses)];
    let [first, second] = [0, 1].map(|at: usize| nodes[at].folder.path());
    let callers = at.map(|at| {
        let mut options = net.callers(at, 1_000_000, 200.0);
        options.habits.mix = Mix::parse("call=4,reinvite=2,server-bye=1,server-reinvite=1").unwrap();
        options.habits.hold = Duration::from_secs(2);
        Generator::start(options).unwrap()
    });
    let started = || callers.iter().map(|callers| callers.report().total().started).min().unwrap();
    // So many more at each node: calls of before the step have come to their second request, and calls of after it began.
    let calls_go_on = || {
        let before = started();
        wait_for("calls to go on", || started() >= before + 600);
    };
    calls_go_on();
    assert!(done(first, &["rotate"]).contains(" is there, to be accepted and not used yet"));
    assert!(reload(&nodes[0]).contains("cluster key: seals changed: 1, 2 accepted, 1 used"));
    calls_go_on();
    let key = first.join("cluster.key").to_str().unwrap().to_owned();
    done(second, &["import", &key]);
    assert!(reload(&nodes[1]).contains("cluster key: seals changed: 1, 2 accepted, 1 used"));
    assert_eq!(show(first), show(second));
    calls_go_on();
    done(first, &["rotate", "--use"]);
    // One of them uses it, the other does not yet.
    assert!(reload(&nodes[0]).contains("cluster key: seals changed: 1, 2 accepted, 2 used"));
    calls_go_on();
    done(second, &["rotate", "--use"]);
    assert!(reload(&nodes[1]).contains("cluster key: seals changed: 1, 2 accepted, 2 used"));
    assert_eq!(show(first), show(second));
    calls_go_on();
    callers.iter().for_each(Generator::stop_starting);
    let reports = callers.map(|callers| callers.finish().unwrap());
    for folder in [first, second] {
        done(folder, &["rotate", "--prune"]);
    }
    nodes.iter().for_each(|node| assert!(reload(node).contains("cluster key: seals changed: 2 accepted, 2 used")));
    // Without the old one, too, each takes the other's.
    let last = at.map(|at| Generator::start(net.callers(at, 120, 100.0)).unwrap());
    let last = last.map(|callers| callers.finish().unwrap());
    let answered = stop(servers);
    let lost = |report: &CallReport| {
        let total = report.total();
        assert_eq!((total.lost, total.refused_total(), report.misdirected, report.moved), (0, 0, 0, 0), "{report}");
        assert!(report.succeeded() && total.answered == total.started, "{report}\n{answered}");
    };
    reports.iter().chain(&last).for_each(lost);
    assert!(answered.succeeded() && answered.misdirected() == 0, "{answered}");
    nodes.into_iter().for_each(Balancer::stop);
}

/// No step can be taken twice or before its turn, no secret is shown, and another pair's key is not taken by mistake.
#[test]
fn what_would_lose_calls_is_refused_and_nothing_secret_is_shown() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = folder.path();
    let key = at.join("cluster.key");
    fs::write(at.join("trunkline.toml"), format!("[global]\ncluster_key_file = \"{}\"\nfaulty\n", key.display()))
        .unwrap();
    let (code, _, stderr) = cluster_key(at, &["show"]);
    assert!(code == Some(1) && stderr.contains("`cluster-key import` takes the other node's"), "{stderr}");
    let secrets = ["11".repeat(16), hex(b"golden route key")];
    fs::write(&key, trunkline::config::key::generate(*b"golden route key", [0x11; 16])).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&key, Some(12), Some(34)).unwrap();
    refused(at, &["rotate", "--use"], "seal 1 is the newest and used already");
    refused(at, &["rotate", "--prune"], "there is no seal from before the one in use");
    done(at, &["rotate"]);
    refused(at, &["rotate"], "seal 2 is not used yet");
    let found = fs::metadata(&key).unwrap();
    assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o640, 12, 34));
    let both = fs::read_to_string(&key).unwrap();
    done(at, &["rotate", "--use"]);
    let (code, shown, _) = cluster_key(at, &["show"]);
    assert!(code == Some(0) && shown.contains("seal 1 ") && shown.contains("accepted, was used before"), "{shown}");
    assert!(!secrets.iter().any(|secret| shown.contains(secret)), "{shown}");
    done(at, &["rotate", "--prune"]);

    let other = at.join("other.key");
    let import = ["import", other.to_str().unwrap()];
    for (text, words) in [
        (trunkline::config::key::generate(*b"another route ke", [0x22; 16]), "its `route` secret is another one"),
        (trunkline::config::key::generate(*b"golden route key", [0x11; 16]), "it has not seal 2 of the one here"),
        (format!("route = \"{}x\"", secrets[1]), "`route` is not 32 hexadecimal digits"),
    ] {
        fs::write(&other, text).unwrap();
        refused(at, &import, words);
        assert!(!cluster_key(at, &import).2.contains(&secrets[1]), "no secret is quoted");
    }
    // Of stdin, over nothing: its owner alone may read it.
    fs::remove_file(&key).unwrap();
    let mut command = Command::new(program());
    command.args(["cluster-key", "import", "-", "-c"]).arg(at.join("trunkline.toml")).stdin(Stdio::piped());
    let mut child = support::process::spawn(&mut command).unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), both.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!((fs::read_to_string(&key).unwrap(), fs::metadata(&key).unwrap().mode() & 0o777), (both, 0o600));
    fs::write(&other, trunkline::config::key::generate(*b"another route ke", [0x22; 16])).unwrap();
    done(at, &[&import[..], &["--force"]].concat());
    assert_eq!(fs::read(&key).unwrap(), fs::read(&other).unwrap());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
