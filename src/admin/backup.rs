//! One file that makes an empty node the one that it was: a tar archive with `manifest.json` first, which names everything
//! else. It holds secrets.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state_dir::{New, StateDir, give, is_foreign_link, owner, put_file};
use super::view::node_name;
use super::{time_text, unix_now};
use crate::config::{Config, STATE_DIR, fingerprint};

/// Bytes of all files together: the history and the audit log have less than half of it.
const LARGEST: u64 = 512 << 20;

/// Certificates of a large carrier, and the history, several times over.
const MOST_FILES: usize = 20_000;

/// Of what is written here, and what is read.
const FORMAT: u32 = 1;

const MANIFEST: &str = "manifest.json";

/// What the archive says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Of the Trunkline that made it.
    pub version: String,
    pub node: String,
    /// RFC 3339.
    pub at: String,
    /// The path of the configuration.
    pub configuration: PathBuf,
    pub files: Vec<Item>,
}

/// One file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    /// From / on.
    pub path: PathBuf,
    pub mode: u32,
    /// [`fingerprint`] of what it holds, in hexadecimal: it finds what broke, not what somebody forged.
    pub fingerprint: String,
}

/// An archive, whole and in memory.
#[derive(Debug)]
pub struct Backup {
    pub manifest: Manifest,
    contents: Vec<Vec<u8>>,
}

/// Where files may come from and go to: what the configuration names, and its state folder.
struct Places {
    configuration: PathBuf,
    state_dir: PathBuf,
    named: Vec<PathBuf>,
}

impl Places {
    fn new(configuration: &Path, config: &Config) -> io::Result<Self> {
        let named = config.files().into_iter().map(std::path::absolute).collect::<io::Result<_>>()?;
        let state_dir = config.state_dir.clone().unwrap_or_else(|| STATE_DIR.into());
        Ok(Self { configuration: std::path::absolute(configuration)?, state_dir, named })
    }

    /// The history and the audit log.
    fn kept(&self) -> [PathBuf; 3] {
        ["history", "audit.jsonl", "audit.jsonl.1"].map(|name| self.state_dir.join(name))
    }

    fn has(&self, path: &Path) -> bool {
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let kept = self.kept();
        let mut places = self.named.iter().chain(&kept).chain([&self.configuration]);
        plain && path.is_absolute() && places.any(|place| path.starts_with(place))
    }
}

impl Backup {
    /// Reads what belongs to this configuration. What may be absent and is absent is left out.
    ///
    /// # Errors
    /// What cannot be read, or that it is too much.
    pub fn of(configuration: &Path, config: &Config) -> Result<Self, String> {
        let places = Places::new(configuration, config).map_err(|error| error.to_string())?;
        let mut found = BTreeMap::new();
        let mut left = LARGEST;
        for place in places.named.iter().chain(&places.kept()).chain([&places.configuration]) {
            collect(place, &mut found, &mut left)?;
        }
        let key = std::path::absolute(&config.cluster_key_file).map_err(|error| error.to_string())?;
        for needed in [&key, &places.configuration] {
            if !found.contains_key(needed) {
                return Err(format!("{}: it is not there, and nothing works without it", needed.display()));
            }
        }
        let item = |(path, (mode, bytes)): (&PathBuf, &(u32, Vec<u8>))| Item {
            path: path.clone(),
            mode: *mode,
            fingerprint: format!("{:016x}", fingerprint(bytes)),
        };
        let manifest = Manifest {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: node_name(),
            at: time_text(unix_now()),
            configuration: places.configuration,
            files: found.iter().map(item).collect(),
        };
        Ok(Self { manifest, contents: found.into_values().map(|(_, bytes)| bytes).collect() })
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        let mut append = |name: &Path, mode: u32, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(mode);
            archive.append_data(&mut header, name, bytes)
        };
        append(Path::new(MANIFEST), 0o600, &serde_json::to_vec_pretty(&self.manifest)?)?;
        for (item, bytes) in self.manifest.files.iter().zip(&self.contents) {
            append(&inside(&item.path), item.mode, bytes)?;
        }
        archive.into_inner()?.flush()
    }

    /// Reads an archive and looks whether all of it is what its manifest says. Nothing is written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(from: impl Read) -> Result<Self, String> {
        let broken = |error: io::Error| format!("this is no backup of Trunkline, or not all of it: {error}");
        let mut archive = tar::Archive::new(from.take(2 * LARGEST));
        let mut entries = archive.entries().map_err(broken)?;
        let mut next = |left: &mut u64| -> Result<Option<(PathBuf, Vec<u8>)>, String> {
            let Some(entry) = entries.next() else { return Ok(None) };
            let mut entry = entry.map_err(broken)?;
            let path = entry.path().map_err(broken)?.into_owned();
            if !entry.header().entry_type().is_file() || entry.size() > *left {
                return Err(format!("{}: a backup has no such entry, nor one so large", path.display()));
            }
            *left -= entry.size();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(broken)?;
            Ok(Some((path, bytes)))
        };
        let mut left = LARGEST;
        let first = next(&mut left)?.filter(|(path, _)| path == Path::new(MANIFEST));
        let (_, text) = first.ok_or("this is no backup of Trunkline: it does not begin with manifest.json")?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST}: {error}"))?;
        if manifest.format != FORMAT || manifest.files.len() > MOST_FILES {
            let Manifest { format, version, .. } = &manifest;
            return Err(format!("it is of format {format}, by trunkline {version}: this one reads format {FORMAT}"));
        }
        let mut contents = Vec::new();
        for item in &manifest.files {
            let name = item.path.display();
            let (path, bytes) = next(&mut left)?.ok_or_else(|| format!("{name}: it is missing in the backup"))?;
            if path != inside(&item.path) || format!("{:016x}", fingerprint(&bytes)) != item.fingerprint {
                return Err(format!("{name}: it is not what the backup's manifest says"));
            }
            contents.push(bytes);
        }
        match next(&mut left)? {
            Some((path, _)) => Err(format!("{}: the backup's manifest does not name it", path.display())),
            None => Ok(Self { manifest, contents }),
        }
    }

    /// The text of the configuration in it.
    ///
    /// # Errors
    /// Where there is none.
    pub fn configuration(&self) -> Result<String, String> {
        let at = self.manifest.files.iter().position(|item| item.path == self.manifest.configuration);
        let text = at.and_then(|at| String::from_utf8(self.contents[at].clone()).ok());
        text.ok_or_else(|| "there is no configuration in it".to_owned())
    }

    /// What it holds of a path.
    pub fn content(&self, path: &Path) -> Option<&[u8]> {
        let at = self.manifest.files.iter().position(|item| item.path == path)?;
        Some(&self.contents[at])
    }

    /// Writes everything to its place below `root`, the configuration last. `config` is what its configuration says. Says how
    /// many files were written.
    ///
    /// # Errors
    /// Where something goes to a place that the configuration does not name, a Trunkline runs on these files, other files
    /// stand there and `force` is not asked for (then nothing was written), or the disk refuses it.
    pub fn restore(&self, config: &Config, root: &Path, force: bool) -> Result<usize, String> {
        let places = Places::new(&self.manifest.configuration, config).map_err(|error| error.to_string())?;
        // A node's audit log is only ever added to: the one that is there stays.
        let [_, audit @ ..] = places.kept();
        let stays = |item: &Item| audit.contains(&item.path) && below(root, &item.path).exists();
        let files = || self.manifest.files.iter().zip(&self.contents).filter(|(item, _)| !stays(item));
        if let Some((foreign, _)) = files().find(|(item, _)| !places.has(&item.path)) {
            let path = foreign.path.display();
            return Err(format!("{path}: the configuration in the backup names no such place; nothing was written"));
        }
        let state_dir = below(root, &places.state_dir);
        if let Some(link) = files().find_map(|(item, _)| foreign_link(&below(root, &item.path), &state_dir)) {
            return Err(format!("{}: a link that somebody else made; remove it; nothing was written", link.display()));
        }
        let differs = |to: &Path, bytes: &[u8]| fs::read(to).map_or_else(|_| to.exists(), |there| there != bytes);
        let others =
            files().map(|(item, bytes)| (below(root, &item.path), bytes)).filter(|(to, bytes)| differs(to, bytes));
        let others: Vec<_> = others.map(|(to, _)| format!("  {}\n", to.display())).collect();
        if !others.is_empty() && !force {
            return Err(format!(
                "files that are others stand where these go; nothing was written; --force writes over them:\n{}",
                others.concat().trim_end()
            ));
        }
        // Asked for before it is made: then it is root's.
        let (owner, is_there) = (owner(&state_dir), state_dir.exists());
        let made = make_folders(state_dir.parent().unwrap_or(root), 0o755);
        made.map_err(|error| format!("{}: {error}", state_dir.display()))?;
        // Nobody may write his history while it is put back.
        let _held = StateDir::open(&state_dir).map_err(|error| error.to_string())?;
        let given = if is_there { Ok(()) } else { give(&state_dir, owner) };
        given.map_err(|error| format!("{}: {error}", state_dir.display()))?;
        // Before they are written: an audit log that is there now is counted.
        let count = files().count();
        let is_last = |item: &Item| item.path == self.manifest.configuration;
        let in_order = files().filter(|(item, _)| !is_last(item)).chain(files().filter(|(item, _)| is_last(item)));
        for (item, bytes) in in_order {
            let to = below(root, &item.path);
            put_back(&to, item.mode, bytes, (&state_dir, owner))
                .map_err(|error| format!("{}: {error}", to.display()))?;
        }
        Ok(count)
    }
}

/// The link that would lead a file of the state folder elsewhere: the service may put one there, to where root alone may
/// write.
fn foreign_link(to: &Path, state_dir: &Path) -> Option<PathBuf> {
    let mut folders = to.ancestors().skip(1).take_while(|part| part.starts_with(state_dir) && *part != state_dir);
    folders.find(|part| is_foreign_link(part)).map(Path::to_owned)
}

/// What others may not read belongs to whom the state folder belongs: the service reads it.
fn put_back(to: &Path, mode: u32, bytes: &[u8], (state_dir, service): (&Path, Option<(u32, u32)>)) -> io::Result<()> {
    let (mode, is_secret) = (mode & 0o777, mode & 0o004 == 0);
    let owner = service.filter(|_| is_secret);
    let folder = to.parent().unwrap_or(to);
    // The history is for its owner alone.
    let is_kept = folder.starts_with(state_dir) && folder != state_dir;
    make_folders(folder, if is_kept { 0o700 } else { 0o755 })?;
    if is_kept {
        give(folder, owner)?;
    }
    put_file(to, bytes, New { mode, owner })?;
    // What stood there lent its own.
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}

/// Makes the folders that are missing, whatever the mask of who calls it: the service must get through.
fn make_folders(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), |parent| make_folders(parent, mode))?;
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The name of a file in the archive.
fn inside(path: &Path) -> PathBuf {
    below(Path::new("files"), path)
}

/// A path from / on, from somewhere else on.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Reads a file, or those of a folder and of the folders in it. A link counts as what it leads to, but for root one that is
/// not root's.
fn collect(path: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>, left: &mut u64) -> Result<(), String> {
    let name = path.display();
    let cannot = |error: io::Error| format!("{name}: {error}");
    if is_foreign_link(path) {
        return Ok(());
    }
    let known = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        known => known.map_err(cannot)?,
    };
    if known.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).and_then(Iterator::collect::<io::Result<_>>).map_err(cannot)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        return entries.iter().try_for_each(|entry| collect(&entry.path(), found, left));
    }
    // What is no file may never end, and a link of the service's own may lead to what is root's alone.
    if !known.is_file() {
        return Ok(());
    }
    if found.len() == MOST_FILES || known.len() > *left {
        return Err(format!("{name}: more than {MOST_FILES} files or {} MB are too much for a backup", LARGEST >> 20));
    }
    let mut bytes = Vec::new();
    // What grows meanwhile is the audit log: as much as there was is taken.
    fs::File::open(path).and_then(|file| file.take(known.len()).read_to_end(&mut bytes)).map_err(cannot)?;
    *left -= bytes.len() as u64;
    found.insert(path.to_owned(), (known.permissions().mode() & 0o777, bytes));
    Ok(())
}
