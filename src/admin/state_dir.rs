//! The folder of what must outlive the process: the history of configurations, and the audit log.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, User, access, geteuid};

use super::OpenError;

/// Its group may look into it.
const MODE: u32 = 0o750;

/// The folder, held by one process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// It is locked: two processes would give two configurations one number. The kernel frees it when the process is gone.
    _held: File,
}

impl StateDir {
    /// Holds the folder; where only the last part of its path is missing it is made.
    ///
    /// # Errors
    /// Where it cannot be made or written to, or another process holds it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let name = path.display();
        let cannot = |error: io::Error| {
            OpenError(format!("{name}: {error}; it must be a directory that this user may write to"))
        };
        make_folder(path, MODE).map_err(cannot)?;
        access(path, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| cannot(error.into()))?;
        let held = File::open(path).map_err(cannot)?;
        match held.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _held: held }),
            Err(TryLockError::WouldBlock) => Err(OpenError(format!(
                "{name}: a running Trunkline keeps its history there: stop it, or give each its own `state_dir` in [global]"
            ))),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a folder where there is none.
///
/// # Errors
/// Where it cannot be made, or something else stands there.
pub(super) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        // A link may be somebody else's, and lead anywhere.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_folder(path) => Ok(()),
        made => made,
    }
}

fn is_folder(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_dir()) && !is_foreign_link(path)
}

/// Whether this is a link that root must not follow, for somebody else made it: in a folder of the service's it may lead
/// to what is root's.
pub fn is_foreign_link(path: &Path) -> bool {
    geteuid().is_root() && fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink() && found.uid() != 0)
}

/// Gives a folder to whom it should belong: what a link of root's own leads to, not what another's does.
///
/// # Errors
/// Where that cannot be.
pub(super) fn give(folder: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    // Not asked for nothing: the unit's filter refuses the call itself.
    let Some((user, group)) = owner else { return Ok(()) };
    let is_own_link = fs::symlink_metadata(folder)?.is_symlink() && !is_foreign_link(folder);
    let follow = if is_own_link { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    let flags = (OFlag::O_DIRECTORY | follow).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
    fchown(&opened, Some(user), Some(group))
}

/// What a file gets where none stood before.
#[derive(Clone, Copy, Debug)]
pub struct New {
    pub mode: u32,
    /// User and group; `None`: those of this process.
    pub owner: Option<(u32, u32)>,
}

/// To whom a file belongs that only the service may read: to whom the state folder belongs, which the package made for it.
/// `None` where there is none, or this process may give files to nobody.
pub fn owner(state_dir: &Path) -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let of_folder = || fs::metadata(state_dir).ok().map(|found| (found.uid(), found.gid()));
    // The package's user, where the service never ran.
    let of_service = || User::from_name("trunkline").ok()?.map(|user| (user.uid.as_raw(), user.gid.as_raw()));
    of_folder().or_else(of_service)
}

/// Puts a file in its place in one step: whoever reads finds the old one or the new one, whole, after a power cut too. What
/// stood there lends its mode and its owner. A link stays a link; root follows none but its own.
///
/// # Errors
/// Where the folder refuses it, or the disk is full; then what was there is untouched.
pub fn put_file(path: &Path, bytes: &[u8], new: New) -> io::Result<()> {
    if is_foreign_link(path) {
        return Err(io::Error::other("it is a link that somebody else made; remove it, or name what it leads to"));
    }
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = fs::metadata(path).ok();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy();
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&beside);
    let owner = before.as_ref().map(|before| (before.uid(), before.gid())).or(new.owner);
    let mode = before.as_ref().map_or(new.mode, |before| before.mode() & 0o7777);
    let written = (|| {
        // Whoever may not read it must not read it while it is made either.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}
