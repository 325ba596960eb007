//! `trunkline cluster-key`: what the nodes of a pair share, and how it changes. It works on the file; a reload takes it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::door::{finish, put};
use super::kept::{Folder, note};
use super::{CONFIG_FILE, ConfigFile};
use crate::admin::state_dir::{New, owner, put_file};
use crate::config::cluster_key_file;
use crate::config::key::{KeyFile, fingerprint};
use crate::run::random;

/// A key file with all the seals that it may have is a tenth of it.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Show the fingerprints by which two nodes can be compared, and never a secret.
    Show {
        #[command(flatten)]
        place: Place,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Add a seal that is accepted and not used yet: the first of two steps to a new one.
    Rotate {
        #[command(flatten)]
        place: Place,
        /// The second step, when every node accepts it: use the newest seal.
        #[arg(long = "use")]
        used: bool,
        /// The end, when no call and no registration is left that began before the second step: remove the seals from before.
        #[arg(long, conflicts_with = "used")]
        prune: bool,
    },
    /// Take the key file of the other node.
    Import {
        #[command(flatten)]
        place: Place,
        /// The file, or - for stdin.
        #[arg(value_name = "FILE")]
        from: PathBuf,
        /// Also where calls that run here would be lost by it.
        #[arg(long)]
        force: bool,
    },
}

/// Where the key file is.
#[derive(Debug, clap::Args)]
pub struct Place {
    #[command(flatten)]
    config: ConfigFile,
    /// The key file [default: what the configuration says].
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    folder: Folder,
}

impl Place {
    /// As the configuration says, however faulty the rest of it is. Without any at the usual place it is the usual file.
    fn path(&self) -> Result<PathBuf, String> {
        let file = &self.config.file;
        match (&self.key_file, fs::read_to_string(file)) {
            (Some(key_file), _) => Ok(key_file.clone()),
            (None, Ok(text)) => Ok(cluster_key_file(&text)),
            (None, Err(_)) if file == Path::new(CONFIG_FILE) => Ok(cluster_key_file("")),
            (None, Err(error)) => Err(format!("{}: {error}; --key-file names the key file itself", file.display())),
        }
    }

    /// The file's path and what it holds.
    fn read(&self) -> Result<(PathBuf, KeyFile), String> {
        let path = self.path()?;
        let text = fs::read_to_string(&path).map_err(|error| {
            format!(
                "{}: {error}; `trunkline run` makes a key, `cluster-key import` takes the other node's",
                path.display()
            )
        })?;
        parse(&path, &text).map(|key| (path, key))
    }

    /// Nobody but its owner may read it; as root a new one is given to whom the state folder belongs: the service reads it.
    /// The audit log has it: `said`, and by its fingerprint which key was there before.
    fn write(&self, path: &Path, key: &KeyFile, before: Option<u64>, said: &str) -> Result<(), String> {
        let state_dir = self.folder.path(&self.config);
        let new = New { mode: 0o600, owner: owner(&state_dir) };
        put_file(path, key.text().as_bytes(), new)
            .map_err(|error| format!("{}: cannot write it: {error}", path.display()))?;
        let names = [before, Some(key.fingerprint())];
        note(&state_dir, "cluster key", names.map(|name| name.map_or_else(String::new, |n| format!("{n:016x}"))), said);
        Ok(())
    }
}

fn parse(path: &Path, text: &str) -> Result<KeyFile, String> {
    KeyFile::parse(text).map_err(|faults| faults.render_secret(&path.to_string_lossy(), text).to_string())
}

/// `trunkline cluster-key`
pub fn run(command: &KeyCommand) -> ExitCode {
    finish(match command {
        KeyCommand::Show { place, json } => show(place, *json).map(|text| {
            // Whoever closes the pipe has read enough.
            let _ = put(&text);
        }),
        KeyCommand::Rotate { place, used: true, .. } => use_newest(place).map(|done| eprint!("{done}")),
        KeyCommand::Rotate { place, prune: true, .. } => prune(place).map(|done| eprint!("{done}")),
        KeyCommand::Rotate { place, .. } => add(place).map(|done| eprint!("{done}")),
        KeyCommand::Import { place, from, force } => import(place, from, *force).map(|done| eprint!("{done}")),
    })
}

fn show(place: &Place, as_json: bool) -> Result<String, String> {
    let (path, key) = place.read()?;
    let (whole, route) = (key.fingerprint(), fingerprint(&key.route));
    if as_json {
        let seal = |(id, of, is): (u8, u64, &str)| json!({"id": id, "fingerprint": format!("{of:016x}"), "is": is});
        let seals: Vec<_> = seals(&key).map(seal).collect();
        let whole = format!("{whole:016x}");
        let value = json!({"file": path, "key": whole, "route": format!("{route:016x}"), "seals": seals});
        return Ok(format!("{value}\n"));
    }
    let mut text = format!(
        "{}\nkey     {whole:016x}  in the log of a start\nroute   {route:016x}  never changes\n",
        path.display()
    );
    for (id, of, is) in seals(&key) {
        text += &format!("{:<7} {of:016x}  {is}\n", format!("seal {id}"));
    }
    Ok(text)
}

/// Number, fingerprint, and what it is for.
fn seals(key: &KeyFile) -> impl Iterator<Item = (u8, u64, &'static str)> {
    let used = key.used();
    key.seals.iter().enumerate().map(move |(at, seal)| {
        let is = match at.cmp(&used) {
            std::cmp::Ordering::Less => "accepted, was used before",
            std::cmp::Ordering::Equal => "used",
            std::cmp::Ordering::Greater => "accepted, not used yet",
        };
        (seal.id, fingerprint(&seal.secret), is)
    })
}

fn add(place: &Place) -> Result<String, String> {
    let (path, mut key) = place.read()?;
    let (before, secret) =
        (key.fingerprint(), random().map_err(|error| format!("no chance can be had for a secret: {error}"))?);
    let id = key.add(secret)?;
    place.write(&path, &key, Some(before), &format!("seal {id} is accepted"))?;
    let (name, of) = (path.display(), fingerprint(&secret));
    Ok(format!(
        "{name}: seal {id} ({of:016x}) is there, to be accepted and not used yet. Now:\n\
         1. `trunkline reload` here;\n\
         2. copy {name} to every other node: `trunkline cluster-key import FILE`, `trunkline reload` there;\n\
            no `rotate` there, which would make another seal {id};\n\
         3. when `trunkline cluster-key show` has seal {id} as {of:016x} on all of them:\n\
            `trunkline cluster-key rotate --use` and `trunkline reload` on each\n"
    ))
}

fn use_newest(place: &Place) -> Result<String, String> {
    let (path, mut key) = place.read()?;
    let before = key.fingerprint();
    let id = key.use_newest()?;
    place.write(&path, &key, Some(before), &format!("seal {id} is used"))?;
    let of = key.seals.last().map_or(0, |seal| fingerprint(&seal.secret));
    Ok(format!(
        "{}: seal {id} ({of:016x}) is the one to use: `trunkline reload` here, and both on every other node.\n\
         Calls and registrations from before need the old one: when the last of them has ended or was renewed,\n\
         `trunkline cluster-key rotate --prune` removes it\n",
        path.display()
    ))
}

fn prune(place: &Place) -> Result<String, String> {
    let (path, mut key) = place.read()?;
    let before = key.fingerprint();
    let gone = key.prune()?.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    place.write(&path, &key, Some(before), &format!("gone is seal {gone}"))?;
    Ok(format!("{}: gone is seal {gone}: `trunkline reload` here, and both on every other node\n", path.display()))
}

fn import(place: &Place, from: &Path, force: bool) -> Result<String, String> {
    let text = match from.to_str() {
        Some("-") => read_limited(&mut std::io::stdin()),
        _ => fs::File::open(from).and_then(|mut file| read_limited(&mut file)),
    };
    let text = text.map_err(|error| format!("{}: {error}", from.display()))?;
    let key = parse(from, &text)?;
    let path = place.path()?;
    let name = path.display();
    let before = match fs::read_to_string(&path) {
        Ok(text) => Some(parse(&path, &text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{name}: {error}")),
    };
    let same_route = before.iter().flatten().all(|before| before.route == key.route);
    let was = before.iter().flatten().map(KeyFile::fingerprint).next();
    match before {
        Some(Ok(before)) if before == key => return Ok(format!("{name}: it is this key already\n")),
        Some(before) if !force => key
            .may_follow(&before?)
            .map_err(|why| format!("{name}: {why}; nothing was changed; --force takes it all the same"))?,
        _ => {}
    }
    place.write(&path, &key, was, if force { "imported, by force" } else { "imported" })?;
    // A running Trunkline keeps the `route` that its calls hang on.
    let takes = if same_route { "`trunkline reload`" } else { "a restart" };
    Ok(format!("{name}: key {:016x}; {takes} takes it\n", key.fingerprint()))
}

fn read_limited(from: &mut dyn Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(LARGEST).read_to_string(&mut text).map(|_| text)
}
