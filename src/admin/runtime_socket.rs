//! The unix socket of HAProxy's runtime API: a line comes in, its answer goes out with an empty line behind it, the
//! connection is closed; `prompt` keeps it open.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, interval, sleep_until, timeout, timeout_at};

use super::answer::Answerer;
use super::command::{Command, Level, Severity, UNKNOWN, parse, split};
use super::follow::{FOLLOWS, LONGEST};
use super::{OpenError, Request, View, Who};

/// Connections at a time; HAProxy's has ten. Others wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// HAProxy's `tune.bufsize`: a longer line is no command.
const LONGEST_LINE: usize = 16_384;
/// HAProxy's default: so long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// A prompt that somebody forgot must not stay for ever.
const LONGEST_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// A delay as HAProxy reads it: seconds, or another unit behind the number; not nothing.
fn delay_of(written: &str) -> Option<Duration> {
    let unit = written.find(|c: char| !c.is_ascii_digit()).unwrap_or(written.len());
    let (number, unit) = written.split_at(unit);
    let micros = match unit {
        "us" => 1,
        "ms" => 1_000,
        "" | "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    let delay = Duration::from_micros(number.parse::<u64>().ok()?.checked_mul(micros)?);
    (!delay.is_zero()).then_some(delay)
}

/// How often it is looked whether who traces a call is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Whoever may write to it commands: its owner and its group.
const MODE: u32 = 0o660;

/// An open door: nobody is heard before [`RuntimeSocket::serve`]. The file goes when it is dropped.
pub struct RuntimeSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl RuntimeSocket {
    /// Makes the socket. A file that a dead process left is replaced.
    ///
    /// # Errors
    /// Where another process listens there, where something else stands there, or the directory refuses it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let cannot = |error: io::Error| {
            let folder = path.parent().unwrap_or(path).display();
            OpenError(format!("{}: {error}; {folder} must be a directory that this user may write to", path.display()))
        };
        vacant(path)?;
        // Made under another name, so that nobody finds it before it has its permissions, and put in place in one step.
        let before = path.with_extension(format!("{}", std::process::id()));
        let _ = std::fs::remove_file(&before);
        let made = make(&before).and_then(|listener| {
            std::fs::rename(&before, path)?;
            UnixListener::from_std(listener)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&before);
        }
        Ok(Self { listener: made.map_err(cannot)?, path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next who comes.
    ///
    /// # Errors
    /// Those of accept(2).
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Answers whoever comes, for ever.
    pub async fn serve(self, view: View, requests: mpsc::Sender<Request>) {
        let (answerer, room) = (Answerer { view, requests }, Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match self.accept().await {
                Ok(stream) => {
                    let answerer = answerer.clone();
                    tokio::spawn(async move {
                        Connection::new(stream, answerer).serve().await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the runtime socket accepts nobody for a second");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for RuntimeSocket {
    fn drop(&mut self) {
        // Where it is gone already there is nothing to do.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Looks whether a path is free, or only a dead process's.
fn vacant(path: &Path) -> Result<(), OpenError> {
    let name = path.display();
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            Err(OpenError(format!("{name}: something else stands there; remove it, or write another `runtime_socket`")))
        }
        Ok(_) if StdUnixStream::connect(path).is_ok() => Err(OpenError(format!(
            "{name}: another process listens there: stop it, or give each its own `runtime_socket` in [global]; \
             `ss -lxp src {name}` tells which"
        ))),
        _ => Ok(()),
    }
}

fn make(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before anybody can connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    socket.listen(CONNECTIONS as i32)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// One connection.
struct Connection {
    stream: UnixStream,
    answerer: Answerer,
    who: Who,
    interactive: bool,
    severity: Severity,
    level: Level,
    idle: Duration,
}

/// What comes after an answer.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
}

/// Whether the other end is closed wholly: where nothing is written, nobody else says so.
fn is_gone(stream: &UnixStream) -> bool {
    let mut asked = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut asked, PollTimeout::ZERO).is_ok()
        && asked[0].revents().is_some_and(|found| found.contains(PollFlags::POLLHUP))
}

/// How grave a message is, in syslog's numbers.
#[derive(Clone, Copy)]
enum Grade {
    Error = 3,
    Information = 6,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "err",
            Self::Information => "info",
        }
    }
}

impl Connection {
    fn new(stream: UnixStream, answerer: Answerer) -> Self {
        let who = match stream.peer_cred() {
            Ok(peer) => Who::Peer { uid: peer.uid(), pid: peer.pid().unwrap_or_default() },
            Err(_) => Who::Peer { uid: u32::MAX, pid: 0 },
        };
        Self { stream, answerer, who, interactive: false, severity: Severity::None, level: Level::Admin, idle: IDLE }
    }

    /// Until it is closed from either side, or nothing comes for too long.
    async fn serve(&mut self) {
        let mut input = Vec::new();
        loop {
            while let Some(end) = memchr::memchr(b'\n', &input) {
                let line: Vec<_> = input.drain(..=end).collect();
                if self.line(&String::from_utf8_lossy(&line)).await == Then::Close {
                    return;
                }
                // Several lines that came in one piece are all answered.
                if !self.interactive && memchr::memchr(b'\n', &input).is_none() {
                    return;
                }
            }
            if input.len() > LONGEST_LINE {
                let _ = self.say("The line is too long.\n\n").await;
                return;
            }
            match timeout(self.idle, self.stream.read_buf(&mut input)).await {
                Ok(Ok(read)) if read > 0 => {}
                _ => return,
            }
        }
    }

    /// Answers each command of a line.
    async fn line(&mut self, line: &str) -> Then {
        for words in split(line) {
            let parsed = parse(&words);
            let is_notice = matches!(parsed, Ok(Command::Help(_) | Command::ShowVersion | Command::ShowLevel));
            let answered = match parsed {
                Ok(Command::Quit) => return Then::Close,
                Ok(Command::Trace(call_id)) if self.level >= Level::Operator => match self.trace(&call_id).await {
                    Ok(Then::GoOn) => Ok(String::new()),
                    Ok(Then::Close) => return Then::Close,
                    Err(error) => Err(error),
                },
                Ok(command) => self.command(command).await,
                Err(error) => Err(error),
            };
            let mut text = match answered {
                Ok(text) if is_notice => self.graded(Grade::Information, &text),
                Ok(text) => text,
                Err(error) if error.starts_with(UNKNOWN) => self.graded(Grade::Information, &error),
                Err(error) => self.graded(Grade::Error, &error),
            };
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text += if self.interactive { "\n> " } else { "\n" };
            if self.say(&text).await == Then::Close {
                return Then::Close;
            }
        }
        Then::GoOn
    }

    async fn command(&mut self, command: Command) -> Result<String, String> {
        if command.level() > self.level {
            return Err("Permission denied".to_owned());
        }
        match &command {
            Command::ShowLevel => return Ok(format!("{}\n", self.level.word())),
            Command::Lower(level) => self.level = self.level.min(*level),
            Command::Prompt => self.interactive = !self.interactive,
            Command::SetSeverity(severity) => self.severity = *severity,
            Command::SetTimeout(delay) => {
                self.idle = delay_of(delay).ok_or("Invalid timeout value.")?.min(LONGEST_IDLE)
            }
            _ => {}
        }
        self.answerer.answer(command, self.who.clone()).await
    }

    /// A line for each message of a call, until somebody says anything, goes, or forgot it.
    async fn trace(&mut self, call_id: &str) -> Result<Then, String> {
        let mut trace = self.answerer.view.trace(call_id).await?;
        let (end, mut look, mut hears) = (Instant::now() + LONGEST, interval(LOOK), true);
        let mut line = format!("{}; {FOLLOWS}\n", trace.known);
        loop {
            if timeout_at(end, self.say(&line)).await != Ok(Then::GoOn) {
                return Ok(Then::Close);
            }
            line = loop {
                let mut key = [0; 64];
                tokio::select! {
                    Some(line) = trace.lines.recv() => break line,
                    read = self.stream.read(&mut key), if hears => match read {
                        // Whoever has said all may read on, as socat does.
                        Ok(0) => hears = false,
                        Ok(_) => return Ok(Then::GoOn),
                        Err(_) => return Ok(Then::Close),
                    },
                    _ = look.tick() => if is_gone(&self.stream) { return Ok(Then::Close) },
                    () = sleep_until(end) => return Ok(Then::GoOn),
                }
            };
        }
    }

    /// A message with its severity in front, where that was asked for.
    fn graded(&self, grade: Grade, text: &str) -> String {
        match self.severity {
            Severity::None => text.to_owned(),
            Severity::Number => format!("[{}]: {text}", grade as u8),
            Severity::String => format!("[{}]: {text}", grade.word()),
        }
    }

    /// Whoever does not read what they asked for is left alone.
    async fn say(&mut self, text: &str) -> Then {
        match timeout(self.idle, self.stream.write_all(text.as_bytes())).await {
            Ok(Ok(())) => Then::GoOn,
            _ => Then::Close,
        }
    }
}
