//! Network namespaces of the test's own: hosts that reach nobody but each other.

use std::process::Command;

use super::process::{output, spawn};

/// A namespace that is gone when the test is over.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// Makes a namespace with loopback up, and runs `ip` commands in it.
    pub fn new(name: &str, commands: &[&str]) -> Self {
        let name = format!("tl-{name}-{}", std::process::id());
        run(&format!("ip netns add {name}"));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        for command in commands {
            namespace.ip(command);
        }
        namespace
    }

    /// Runs `ip` with these arguments inside.
    pub fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.name));
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` on a thread inside: sockets that it opens belong here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = spawn(Command::new("ip").args(["netns", "delete", &self.name])).and_then(|mut child| child.wait());
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let done = output(Command::new(words.next().unwrap()).args(words));
    assert!(done.status.success(), "{command}: {done:?}; network namespaces need root, and what tests/setup installs");
}
