//! Configurations that were accepted: `trunkline history`, `diff` and `rollback`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use similar::TextDiff;

use nix::unistd::getuid;

use super::door::{Door, ask_reload, finish, put};
use super::{ConfigFile, words};
use crate::admin::client::ask;
use crate::admin::history::{Entry, History};
use crate::admin::journal::{Change, Kind};
use crate::admin::state_dir::{New, owner, put_file};
use crate::admin::{Who, audit, time_text};
use crate::config::{STATE_DIR, fingerprint, state_dir};
use crate::run::{Source, StartError, read_keys, read_tls};

/// Two texts that have nothing in common are told apart for so long; then what differs is told more coarsely.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a configuration file gets where none stands: root's, and the service may read it.
fn new_file(state_dir: &Path) -> New {
    New { mode: 0o640, owner: owner(state_dir).map(|(_, group)| (0, group)) }
}

/// Where the configurations are that were accepted.
#[derive(Debug, clap::Args)]
pub struct Place {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, clap::Args)]
pub struct Folder {
    /// The folder of the history [default: what the configuration says].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Folder {
    /// As the configuration says, however faulty the rest of it is; else the usual one.
    pub(super) fn path(&self, config: &ConfigFile) -> PathBuf {
        let named = || state_dir(&fs::read_to_string(&config.file).ok()?);
        self.state_dir.clone().or_else(named).unwrap_or_else(|| STATE_DIR.into())
    }
}

/// A change of a file by a command: the audit log has it too, where there is one.
pub(super) fn note(state_dir: &Path, what: &str, [from, to]: [String; 2], said: &str) {
    if !state_dir.is_dir() {
        return;
    }
    let who = Who::Peer { uid: getuid().as_raw(), pid: std::process::id().cast_signed() };
    if let Err(error) = audit::add(state_dir, &who, &Change { kind: Kind::Admin, of: "", what, from, to }, said) {
        eprintln!("{}: the audit log has no line of this: {error}", state_dir.display());
    }
}

/// As an audit line names a text.
fn name_of(text: &[u8]) -> String {
    format!("{:016x}", fingerprint(text))
}

impl Place {
    fn history(&self) -> History {
        History::of(&self.folder.path(&self.config))
    }
}

/// `trunkline history`
pub fn history(place: &Place, json: bool) -> ExitCode {
    let history = place.history();
    let listed = history.entries().map_err(|error| history.unreadable(&error)).and_then(|entries| {
        let on_disk = fs::read(&place.config.file).map(|text| name_of(&text)).ok();
        match json {
            true => serde_json::to_string_pretty(&entries).map(|text| text + "\n").map_err(|error| error.to_string()),
            false if entries.is_empty() => Err(format!("{}: nothing was accepted yet", history.folder().display())),
            false => Ok(table(&entries, on_disk.as_deref())),
        }
    });
    finish(listed.map(|text| {
        // Whoever closes the pipe has read enough.
        let _ = put(&text);
    }))
}

/// A line for each.
fn table(entries: &[Entry], on_disk: Option<&str>) -> String {
    let mut text = String::new();
    for entry in entries {
        let Entry { number, at, who, configuration, bytes, .. } = entry;
        let same = if on_disk == Some(configuration) { "  = the file" } else { "" };
        text += &format!("{number:>6}  {}  {configuration}  {bytes:>8} bytes  {who}{same}\n", time_text(*at));
    }
    text
}

/// `trunkline diff`
pub fn diff(place: &Place, from: Option<u64>, to: Option<u64>) -> ExitCode {
    /// As diff(1) has it.
    const TROUBLE: u8 = 2;
    match differences(place, from, to) {
        Ok(text) => {
            let _ = put(&text);
            ExitCode::from(u8::from(!text.is_empty()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn differences(place: &Place, from: Option<u64>, to: Option<u64>) -> Result<String, String> {
    let history = place.history();
    let entries = history.entries().map_err(|error| history.unreadable(&error))?;
    let newest = || entries.last().map(|entry| entry.number);
    let nothing = || format!("{}: nothing was accepted yet", history.folder().display());
    let number = from.or_else(newest).ok_or_else(nothing)?;
    let before = history.text(number)?;
    let file = place.config.file.display();
    let (name, after) = match to {
        Some(to) => (format!("number {to}"), history.text(to)?),
        None => (file.to_string(), fs::read_to_string(&place.config.file).map_err(|error| format!("{file}: {error}"))?),
    };
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&before, &after);
    Ok(diff.unified_diff().header(&format!("number {number}"), &name).to_string())
}

/// `trunkline rollback`
pub fn rollback(door: &Door, folder: &Folder, number: u64, no_reload: bool) -> ExitCode {
    finish(try_rollback(door, folder, number, no_reload).map(|done| eprint!("{done}")))
}

fn try_rollback(door: &Door, folder: &Folder, number: u64, no_reload: bool) -> Result<String, String> {
    let file = &door.config.file;
    let name = file.display();
    let text = History::of(&folder.path(&door.config)).text(number)?;
    valid(file, &text)
        .map_err(|error| format!("{}\nnumber {number} is not good today; nothing was changed", words(&error)))?;
    // What stands there says by which socket the running one is found; afterwards it may say another.
    let socket = door.socket();
    let before = fs::read(file).ok();
    let new = new_file(&folder.path(&door.config));
    let write = |bytes: &[u8]| put_file(file, bytes, new).map_err(|error| format!("{name}: cannot write it: {error}"));
    if no_reload {
        write(text.as_bytes())?;
        let done = format!("{name}: number {number}, to the byte; the next reload or start takes it\n");
        let names = [before.map_or_else(String::new, |before| name_of(&before)), name_of(text.as_bytes())];
        note(&folder.path(&door.config), "configuration file", names, &done);
        return Ok(done);
    }
    let listens = socket.and_then(|socket| ask(&socket, "show version").map(|_| socket));
    let socket = listens
        .map_err(|error| format!("{error}\nnothing was changed; --no-reload writes the file without a reload"))?;
    write(text.as_bytes())?;
    match ask_reload(&socket) {
        Ok(Ok(done)) => Ok(format!("{name}: number {number}, to the byte\n{done}")),
        Ok(Err(faults)) => {
            let back = match before {
                Some(before) => write(&before),
                None => fs::remove_file(file).map_err(|error| format!("{name}: {error}")),
            };
            let back = back.map_or_else(
                |error| format!("and what was there cannot be put back: {error}"),
                |()| "what was there is there again".to_owned(),
            );
            Err(format!("{faults}\n{name}: number {number} was refused; {back}"))
        }
        Err(error) => Err(format!(
            "{error}\n{name}: it is number {number} now, and nobody said whether it is in force: `trunkline status` tells"
        )),
    }
}

/// Whether a start with this text in the place of this file would succeed, as far as `check` sees it.
fn valid(file: &Path, text: &str) -> Result<(), StartError> {
    let (config, _) = Source::of(file, text.to_owned())?;
    read_keys(&config.cluster_key_file)?;
    read_tls(&config).map(|_| ())
}
