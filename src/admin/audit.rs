//! The audit log: a line of JSON for each thing that somebody changed, for whoever must prove it years later. Lines are only
//! ever added. A thread of its own writes them, so that a slow disk holds nobody; what could not be written is counted, and
//! the next line says how many are missing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use nix::libc::O_NOFOLLOW;
use serde_json::{Value, json};

use super::journal::Change;
use super::state_dir::owner;
use super::view::node_name;
use super::{Who, time_text, unix_now};

const NAME: &str = "audit.jsonl";

/// Lines that may wait for the disk: many minutes of people, seconds of a program that changes weights.
const QUEUE: usize = 1024;

/// Where it is that large it becomes `audit.jsonl.1`, unless somebody took it away before. Some hundred thousand lines.
const LARGEST: u64 = 64 << 20;

/// What a reload said may name every server of 65,000. More of it is in the log.
const LONGEST_TEXT: usize = 16_384;

/// Who stops does not wait longer for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// Its group may read it: whoever ships it elsewhere.
const MODE: u32 = 0o640;

/// Where lines go in.
#[derive(Debug)]
pub struct Audit {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    node: String,
}

#[derive(Debug)]
enum Message {
    Line(Value),
    /// Everything before it is written.
    Written(SyncSender<()>),
}

impl Audit {
    /// Starts to write `audit.jsonl` in this folder. Where no thread can be had every line counts as lost.
    pub fn start(folder: &Path) -> Self {
        let (queue, lines) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let mut log = Log::new(folder.join(NAME), LARGEST, Arc::clone(&lost));
        let started = std::thread::Builder::new().name("audit".into()).spawn(move || log.write_all_of(&lines));
        if let Err(error) = started {
            tracing::warn!("there is no audit log: {error}");
        }
        Self { queue, lost, node: node_name() }
    }

    /// Somebody changed something, or tried to; `said` is what became of it.
    pub fn note(&self, who: &Who, change: &Change<'_>, ok: bool, said: &str) {
        if self.queue.try_send(Message::Line(line(&self.node, who, change, ok, said))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything is written, for two seconds at most.
    pub fn flush(&self) {
        let (written, heard) = sync_channel(1);
        if self.queue.try_send(Message::Written(written)).is_ok() {
            let _ = heard.recv_timeout(PATIENCE);
        }
    }
}

/// A line of somebody who changes files by a command, whether a Trunkline runs or not.
///
/// # Errors
/// Where it cannot be written.
pub fn add(folder: &Path, who: &Who, change: &Change<'_>, said: &str) -> io::Result<()> {
    let line = line(&node_name(), who, change, true, said);
    // In one write: the thread of a Trunkline that runs adds lines too.
    Log::new(folder.join(NAME), LARGEST, Arc::default()).append(format!("{line}\n").as_bytes())
}

fn line(node: &str, who: &Who, change: &Change<'_>, ok: bool, said: &str) -> Value {
    let mut said = said.trim_end();
    if said.len() > LONGEST_TEXT {
        said = &said[..said.floor_char_boundary(LONGEST_TEXT)];
    }
    let Change { kind, of, what, from, to } = change;
    json!({
        "at": time_text(unix_now()), "node": node, "kind": kind, "who": who.json(), "of": of, "what": what,
        "from": from, "to": to, "ok": ok, "said": said,
    })
}

/// The file, from the side of the thread that writes it.
struct Log {
    path: PathBuf,
    largest: u64,
    lost: Arc<AtomicU64>,
    /// `None` before the first line, and where the last could not be written.
    file: Option<File>,
    failing: bool,
}

impl Log {
    fn new(path: PathBuf, largest: u64, lost: Arc<AtomicU64>) -> Self {
        Self { path, largest, lost, file: None, failing: false }
    }

    /// Until nobody can send any more.
    fn write_all_of(&mut self, lines: &Receiver<Message>) {
        while let Ok(message) = lines.recv() {
            match message {
                Message::Line(line) => self.line(&line),
                Message::Written(tell) => {
                    let _ = tell.send(());
                }
            }
        }
    }

    /// Writes a line, and before it how many are missing. The log has one warning for each time that the disk fails.
    fn line(&mut self, line: &Value) {
        let missing = self.lost.swap(0, Ordering::Relaxed);
        let mut text = String::new();
        if missing > 0 {
            let at = &line["at"];
            text += &format!("{}\n", json!({"at": at, "node": line["node"], "kind": "lost", "lines": missing}));
        }
        text += &format!("{line}\n");
        match self.append(text.as_bytes()) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(missing, "the audit log is written again");
                }
            }
            Err(error) => {
                self.file = None;
                self.lost.fetch_add(missing + 1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    let file = self.path.display();
                    tracing::warn!(%file, "the audit log cannot be written: {error}; it will say how many lines are missing");
                }
            }
        }
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let taken = self.file.take().filter(|file| is_at(file, &self.path));
        let mut file = taken.map_or_else(|| open(&self.path), Ok)?;
        if file.metadata()?.len() >= self.largest {
            let older = self.path.with_extension("jsonl.1");
            match fs::rename(&self.path, &older).and_then(|()| open(&self.path)) {
                Ok(new) => file = new,
                // Where nothing but adding is allowed (chattr +a) a log that is too large is better than none.
                Err(error) if !self.failing => tracing::debug!(%error, "the audit log stays as large as it is"),
                Err(_) => {}
            }
        }
        file.write_all(text)?;
        // A line counts when it outlives a power cut.
        file.sync_data()?;
        self.file = Some(file);
        Ok(())
    }
}

/// Whether an open file is still the one of this name: logrotate may have taken it.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |one: &fs::Metadata, other: &fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    file.metadata().ok().zip(fs::metadata(path).ok()).is_some_and(|(open, named)| same(&open, &named))
}

/// Opens it to add lines. A line that was broken off stays, and the next begins a new one.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).read(true).mode(MODE).custom_flags(O_NOFOLLOW);
    let mut file = match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path)?,
        made => {
            // The unit's mask takes the group's right away. What somebody else made has the mode that he gave it.
            let file = made?;
            file.set_permissions(fs::Permissions::from_mode(MODE))?;
            file
        }
    };
    // Whoever starts it as root by hand leaves the service what is its own.
    if let Some((user, group)) = path.parent().and_then(owner) {
        fchown(&file, Some(user), Some(group))?;
    }
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::journal::Kind;

    fn log(largest: u64) -> (tempfile::TempDir, Log) {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("audit.jsonl");
        (folder, Log::new(path, largest, Arc::default()))
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect()
    }

    #[test]
    fn a_large_one_moves_aside_and_one_that_was_taken_begins_anew() {
        let (_folder, mut log) = log(100);
        let (path, older) = (log.path.clone(), log.path.with_extension("jsonl.1"));
        for n in 0..20 {
            log.line(&json!({"n": n, "text": "some words"}));
        }
        let (before, now) = (lines(&older), lines(&path));
        assert!(before.len() > 1 && now.len() <= 4, "{before:?} {now:?}");
        let all: Vec<_> = before.iter().chain(&now).map(|line| line["n"].as_u64().unwrap()).collect();
        assert_eq!(all, (20 - all.len() as u64..20).collect::<Vec<_>>(), "none is missing in between");
        // As logrotate does.
        fs::rename(&path, path.with_extension("jsonl-20261122")).unwrap();
        log.line(&json!({"n": 20}));
        assert_eq!(lines(&path), [json!({"n": 20})]);
    }

    #[test]
    fn what_could_not_be_written_is_counted_and_said() {
        let (folder, mut log) = log(LARGEST);
        log.line(&json!({"n": 1}));
        let path = log.path.clone();
        fs::rename(&path, folder.path().join("away")).unwrap();
        // No file can be where a folder is.
        fs::create_dir(&path).unwrap();
        log.line(&json!({"n": 2}));
        log.line(&json!({"n": 3}));
        assert!(log.failing);
        fs::remove_dir(&path).unwrap();
        log.line(&json!({"n": 4, "at": "then"}));
        let found = lines(&path);
        assert_eq!((found.len(), &found[0]["lines"], &found[1]["n"]), (2, &json!(2), &json!(4)), "{found:?}");
        assert!(!log.failing);
    }

    #[test]
    fn a_line_that_was_broken_off_stays_and_the_next_is_whole() {
        let (_folder, mut log) = log(LARGEST);
        fs::write(&log.path, "{\"n\":1}\n{\"n\":").unwrap();
        log.line(&json!({"n": 2}));
        assert_eq!(lines(&log.path), [json!({"n": 1}), Value::Null, json!({"n": 2})]);
    }

    #[test]
    fn a_full_queue_holds_nobody() {
        let (queue, lines) = sync_channel(QUEUE);
        let audit = Audit { queue, lost: Arc::default(), node: "n".into() };
        let change = Change { kind: Kind::Weight, of: "pbx/one", what: "weight", from: "1".into(), to: "2".into() };
        for _ in 0..QUEUE + 5 {
            audit.note(&Who::Signal("test"), &change, true, "");
        }
        assert_eq!((audit.lost.load(Ordering::Relaxed), lines.try_iter().count()), (5, QUEUE));
    }
}
