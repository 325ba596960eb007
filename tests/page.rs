//! The stats page in a real browser: what is committed is what its sources make, and it works before a real balancer with
//! calls, users, a server that dies and messages that want to be scripts. What only a mock can be made to do is tried there.

mod support;

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::http::{admin, user};
use support::process::{Process, output, program};
use support::regions::{Net, SERVERS};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/page")
}

/// Runs it in the folder of the page; what it says is shown where it fails.
fn succeeds(command: &mut Command) {
    let output = output(command.current_dir(folder()));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
}

/// One after the other: they share the folder's node_modules, and a browser needs a core of its own.
#[test]
fn the_page() {
    succeeds(Command::new("./build").arg("--check"));
    succeeds(Command::new("node").args(["--test", "page.test.mjs"]));
    before_a_real_balancer();
}

fn before_a_real_balancer() {
    let net = Net(81);
    let addresses = net.servers();
    let at = net.free(3);
    let frontend = admin(at) + &user("ada", "admin") + &user("tv", "viewer");
    let check = "check = { type = \"options\", interval = \"300ms\", timeout = \"300ms\" }\nbreaker = {}";
    // Each is a process of its own, so that one can die.
    let servers: Vec<_> = SERVERS
        .iter()
        .zip(addresses)
        .map(|((name, _), address)| {
            let server = format!("{name}={address}");
            Process::start(Command::new(program()).args(["load", "answer", "--trying", "--server", &server]))
        })
        .collect();
    let (balancer, to) = net.balance_by(["udp", "udp"], &addresses, [&frontend, check, ""]);
    let (clients, to_text) = (net.clients(), to.to_string());
    let arguments = ["load", "call", "--rate", "100", "--for", "10m", "--to", &to_text, "--clients", &clients];
    let callers = Process::start(Command::new(program()).args(arguments));
    let hostile = UdpSocket::bind((net.ip(120), 0)).unwrap();
    let text = "INVITE sip:a@sim.example SIP/2.0\r\nVia: <script>alert(1)</script>\r\n<img src=x>: y\r\n\r\n";
    hostile.send_to(text.as_bytes(), to).unwrap();
    let victim = servers.last().unwrap().child.id();
    succeeds(
        Command::new("node")
            .args(["--test", "page.test.mjs"])
            .env("PAGE_BASE", format!("http://{at}"))
            .env("PAGE_ADMIN", "ada:secret")
            .env("PAGE_VIEWER", "tv:secret")
            .env("PAGE_KILL", format!("kill -9 {victim}")),
    );
    drop(callers);
    balancer.stop();
}
