//! What a person or a script sees of a running Trunkline in a terminal: status, verdict, events.

mod support;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::process::{Balancer, Process, output, program, spawn, wait_for};
use support::workers::free_port;

/// Two servers, nobody checked.
fn start(net: u8) -> Balancer {
    let at = SocketAddr::from(([127, 0, 2, net], free_port(&format!("127.0.2.{net}"))));
    let server = |name: &str, port: u16| {
        format!("[[backend.server]]\nname = \"{name}\"\naddress = \"udp://127.0.3.{net}:{port}\"\n")
    };
    Balancer::start(
        2,
        &format!(
            "[[frontend]]\nname = \"f\"\nbind = \"udp://{at}\"\nbackend = \"pbx\"\n[[backend]]\nname = \"pbx\"\n\
             check = {{ type = \"none\" }}\n{}{}",
            server("one", 9),
            server("two", 19)
        ),
    )
}

fn file(balancer: &Balancer) -> PathBuf {
    balancer.folder.path().join("trunkline.toml")
}

fn command(arguments: &[&str], balancer: &Balancer) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).arg("-c").arg(file(balancer)).env_remove("NO_COLOR");
    command
}

fn run(arguments: &[&str], balancer: &Balancer) -> (Option<i32>, String, String) {
    let output = output(&mut command(arguments, balancer));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The same file, another process.
fn start_again(folder: &Balancer) -> Process {
    let mut process = Process::start(Command::new(program()).arg("run").arg("-c").arg(file(folder)));
    process.line_with("started");
    process
}

fn stop(process: &mut Process) {
    process.signal(Signal::SIGTERM);
    process.child.wait().unwrap();
}

/// A command that goes on, and what it has shown so far.
struct Shown {
    child: Child,
    text: Arc<Mutex<String>>,
}

impl Shown {
    fn by_pipe(mut command: Command) -> Self {
        let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
        let stdout = child.stdout.take().unwrap();
        Self::reading(child, stdout)
    }

    fn on_terminal(mut command: Command) -> Self {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let child = spawn(command.stdout(terminal.slave).stderr(Stdio::null())).unwrap();
        // It holds the other end too.
        drop(command);
        Self::reading(child, File::from(terminal.master))
    }

    fn reading(child: Child, mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&text);
        std::thread::spawn(move || {
            let mut bytes = [0; 65_536];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Self { child, text }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    fn wait_for(&self, what: &str) {
        wait_for(&format!("{what:?}"), || self.text().contains(what));
    }

    fn count(&self, what: &str) -> usize {
        self.text().matches(what).count()
    }

    /// ^C, and the exit code.
    fn interrupt(&mut self) -> Option<i32> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn status_says_how_it_is_and_check_says_it_by_its_exit_code() {
    let balancer = start(131);
    let second = |text: &str| text.lines().nth(1).unwrap_or_default().to_owned();
    let (code, table, _) = run(&["status"], &balancer);
    assert_eq!((code, second(&table).as_str()), (Some(0), "good: All 2 servers take calls"), "{table}");
    let (_, json, _) = run(&["status", "--json"], &balancer);
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status["verdict"]["level"], "good", "{json}");
    let check = || run(&["status", "--check"], &balancer);
    assert_eq!(check(), (Some(0), "good: All 2 servers take calls\n".into(), String::new()));
    let text = std::fs::read_to_string(file(&balancer)).unwrap();
    std::fs::write(file(&balancer), text.clone() + "[globl]\n").unwrap();
    assert_eq!(run(&["reload"], &balancer).0, Some(1));
    let refused = "warning: All 2 servers take calls; the last reload was refused\n".to_owned();
    assert_eq!(check(), (Some(1), refused, String::new()));
    std::fs::write(file(&balancer), text).unwrap();
    assert_eq!(run(&["reload"], &balancer).0, Some(0));
    for name in ["pbx/one", "pbx/two"] {
        assert_eq!(run(&["maint", name], &balancer).0, Some(0));
    }
    let bad = "bad: No server of pbx takes new calls: new calls get 503; 0 of 2 servers take calls\n".to_owned();
    assert_eq!(check(), (Some(2), bad, String::new()));
    assert_eq!(run(&["status"], &balancer).0, Some(0), "it answered: scripts that read the table go on");
    let socket = balancer.folder.path().join("admin.sock").display().to_string();
    balancer.stop();
    let output = output(Command::new(program()).args(["status", "--check", "--socket", &socket]));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(3) && said.starts_with("no answer: "), "{said}");
}

#[test]
fn a_watch_without_a_terminal_is_blocks_and_outlasts_the_node() {
    let mut balancer = start(132);
    let mut watch = Shown::by_pipe(command(&["status", "--watch"], &balancer));
    let good = "\ngood: All 2 servers take calls\n\nserver";
    wait_for("three blocks", || watch.count(good) >= 3);
    stop(&mut balancer.process);
    watch.wait_for("no answer for 0s, trying again every second: ");
    let blocks = watch.count(good);
    let mut again = start_again(&balancer);
    wait_for("two blocks more", || watch.count(good) >= blocks + 2);
    assert_eq!(watch.count("no answer"), 1, "once for each time: {}", watch.text());
    // One that hangs holds nobody up.
    again.signal(Signal::SIGSTOP);
    wait_for("a second silence", || watch.count("no answer") == 2);
    assert_eq!(watch.interrupt(), Some(0));
    assert!(!watch.text().contains('\x1b'), "{}", watch.text());
    again.signal(Signal::SIGCONT);
    stop(&mut again);
}

#[test]
fn a_watch_on_a_terminal_renews_itself_and_marks_what_changed() {
    let balancer = start(133);
    let mut plain = command(&["status", "--watch"], &balancer);
    plain.env("NO_COLOR", "1");
    let mut watches = [Shown::on_terminal(command(&["status", "--watch"], &balancer)), Shown::on_terminal(plain)];
    watches.iter().for_each(|watch| watch.wait_for("pbx/two"));
    watches[0].wait_for("\x1b[1;32mgood: All 2 servers take calls\x1b[0m");
    watches[0].wait_for("\x1b[32mno check\x1b[0m");
    run(&["maint", "pbx/one"], &balancer);
    watches[0].wait_for("\x1b[7;36mno check, maint\x1b[0m");
    watches[1].wait_for("\x1b[7mno check, maint\x1b[0m");
    balancer.stop();
    watches[0].wait_for("\x1b[1;31mno answer for 0s, ");
    for watch in &mut watches {
        assert_eq!(watch.interrupt(), Some(0));
        watch.wait_for("\x1b[?1049l");
        let text = watch.text();
        assert!(text.starts_with("\x1b[?1049h") && text.ends_with("\x1b[?1049l"), "the screen is as it was: {text:?}");
        assert!(!text.contains('\n'), "nothing scrolls: {text:?}");
    }
    assert!(!watches[1].text().contains("\x1b[3"), "no colour: {:?}", watches[1].text());
}

#[test]
fn events_come_as_they_happen_also_from_a_node_that_was_restarted() {
    let mut balancer = start(134);
    run(&["drain", "pbx/one"], &balancer);
    let (code, text, _) = run(&["events"], &balancer);
    assert_eq!(code, Some(0));
    let line = text.lines().find(|line| line.contains(" admin pbx/one ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains(&format!(" by uid {} pid ", nix::unistd::getuid())), "{line}");
    let (date, clock) = line.split_once('T').unwrap();
    assert!(date.len() == 10 && clock[8..].starts_with("Z admin"), "{line}");
    let (mut people, mut json) = (
        Shown::by_pipe(command(&["events", "--follow"], &balancer)),
        Shown::by_pipe(command(&["events", "--follow", "--json"], &balancer)),
    );
    people.wait_for(" admin pbx/one ");
    json.wait_for("\"server\":\"one\"");
    run(&["drain", "pbx/two"], &balancer);
    people.wait_for(" admin pbx/two ");
    json.wait_for("\"server\":\"two\"");
    stop(&mut balancer.process);
    let mut again = start_again(&balancer);
    run(&["maint", "pbx/two"], &balancer);
    wait_for("the event of the second process", || people.count(" admin pbx/two ") == 2);
    wait_for("the same for programs", || json.count("\"server\":\"two\"") == 2);
    assert_eq!(people.count(" admin pbx/one "), 1, "each once: {}", people.text());
    assert_eq!((people.interrupt(), json.interrupt()), (Some(0), Some(0)));
    for line in json.text().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(event["at"].as_f64() > Some(1e9) && event["kind"].is_string(), "{line}");
    }
    // Whoever has read enough ends it, though nothing happens any more.
    let mut child = spawn(command(&["events", "--follow"], &balancer).stdout(Stdio::piped())).unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    wait_for("its end", || child.try_wait().unwrap().is_some_and(|status| status.code() == Some(0)));
    stop(&mut again);
}
