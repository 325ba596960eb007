//! `trunkline backup` and `trunkline restore`: a node as one file.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use super::door::finish;
use super::kept::note;
use super::{ConfigFile, words};
use crate::admin::backup::Backup;
use crate::config::{STATE_DIR, key};
use crate::run::Source;

/// `trunkline backup`
pub fn backup(config: &ConfigFile, to: &Path) -> ExitCode {
    finish(try_backup(&config.file, to).map(|done| eprint!("{done}")))
}

fn try_backup(file: &Path, to: &Path) -> Result<String, String> {
    let (config, _) = Source::read(file).map_err(|error| words(&error))?;
    let backup = Backup::of(file, &config)?;
    let name = to.display();
    let written = match to.to_str() {
        Some("-") if io::stdout().is_terminal() => return Err("a backup is no text: give a file, or a pipe".to_owned()),
        Some("-") => backup.write(io::stdout().lock()),
        // Whoever may read it may steer calls.
        _ => OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).and_then(|file| {
            let written = backup.write(io::BufWriter::new(&file)).and_then(|()| file.sync_all());
            if written.is_err() {
                let _ = fs::remove_file(to);
            }
            written
        }),
    };
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{name}: it is there already, and no backup is written over: name another")
        }
        _ => format!("{name}: {error}"),
    })?;
    Ok(format!(
        "{name}: {} files; it holds secrets: keep it as you keep the cluster key\n",
        backup.manifest.files.len()
    ))
}

/// `trunkline restore`
pub fn restore(from: &Path, root: &Path, force: bool) -> ExitCode {
    finish(try_restore(from, root, force).map(|done| eprint!("{done}")))
}

fn try_restore(from: &Path, root: &Path, force: bool) -> Result<String, String> {
    let name = from.display();
    let said = |error: String| format!("{name}: {error}");
    let backup = match from.to_str() {
        Some("-") => Backup::read(io::stdin().lock()),
        _ => Backup::read(io::BufReader::new(fs::File::open(from).map_err(|error| said(error.to_string()))?)),
    };
    let backup = backup.map_err(said)?;
    let file = &backup.manifest.configuration;
    let (config, source) = Source::of(file, backup.configuration().map_err(said)?).map_err(|error| words(&error))?;
    let key = std::path::absolute(&config.cluster_key_file).ok().and_then(|path| backup.content(&path));
    let key = key.and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| key::parse(text).ok());
    let key = key.ok_or_else(|| said("there is no good cluster key in it".to_owned()))?;
    let root = std::path::absolute(root).map_err(|error| said(error.to_string()))?;
    let files = backup.restore(&config, &root, force).map_err(said)?;
    let made = &backup.manifest;
    let done = format!("{files} files of {} at {}, by trunkline {}", made.node, made.at, made.version);
    if root == Path::new("/") {
        let state_dir = config.state_dir.as_deref().unwrap_or(Path::new(STATE_DIR));
        note(state_dir, "files of a backup", [String::new(), format!("{:016x}", source.text)], &done);
    }
    Ok(format!(
        "{done}; cluster key {:016x}\n{}\n",
        key.fingerprint(),
        match root == Path::new("/") {
            true => format!("`trunkline check -c {}` looks at them, a start takes them", file.display()),
            false => format!("they are below {}, to look at: paths in them lead to where they belong", root.display()),
        }
    ))
}
