//! Which addresses of a pair this node has, as keepalived says.
//!
//! `trunkline role`, its notify command, writes a file for each VRRP instance, and the balancer reads them: so a role is known
//! that was told while nobody ran, and two instances that change at once do not write over each other. They are in the
//! runtime directory, which a reboot empties.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Instances that are shown; a node has one, or one for each address of an active-active pair.
const MOST: usize = 16;
/// Of keepalived's own names.
const LONGEST_NAME: usize = 64;

/// What VRRP says of an instance (RFC 5798 §6.4), and keepalived of one that may not run or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Master,
    Backup,
    Fault,
    Stop,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Master, Self::Backup, Self::Fault, Self::Stop];

    pub fn word(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Backup => "backup",
            Self::Fault => "fault",
            Self::Stop => "stop",
        }
    }

    /// keepalived writes them large.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| word.eq_ignore_ascii_case(state.word()))
    }
}

/// One instance on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub instance: String,
    pub state: State,
    /// Seconds since 1970.
    pub since: u64,
}

/// Where roles are kept: beside the runtime socket.
pub fn folder(runtime_socket: &Path) -> PathBuf {
    runtime_socket.with_extension("roles")
}

/// All roles, by name. What is no role is left out.
pub fn read(folder: &Path) -> Vec<Role> {
    let role = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let instance = entry.file_name().into_string().ok().filter(|name| is_name(name))?;
        let since = entry.metadata().ok()?.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let state = State::of(fs::read_to_string(entry.path()).ok()?.trim())?;
        Some(Role { instance, state, since })
    };
    let mut roles: Vec<_> = fs::read_dir(folder).into_iter().flatten().filter_map(role).take(MOST).collect();
    roles.sort_by(|one, other| one.instance.cmp(&other.instance));
    roles
}

/// Writes down the role of an instance.
///
/// # Errors
/// Where the name is none, or the folder cannot be written to.
pub fn write(folder: &Path, instance: &str, state: State) -> Result<(), String> {
    if !is_name(instance) {
        return Err(format!(
            "\"{instance}\" is no name of an instance: up to {LONGEST_NAME} letters, digits, `_`, `-` and `.`"
        ));
    }
    let new = folder.join(format!(".{instance}.{}", std::process::id()));
    let _ = fs::remove_file(&new);
    // As root too nothing is written through a link that somebody put there.
    let written = make(folder)
        .and_then(|()| fs::OpenOptions::new().write(true).create_new(true).open(&new))
        .and_then(|mut file| writeln!(file, "{}", state.word()))
        .and_then(|()| fs::rename(&new, folder.join(instance)));
    written.map_err(|error| format!("{}: {error}; who runs keepalived's notify must write there", folder.display()))
}

/// Makes the folder, or mends it: keepalived 2.2.7 runs its scripts with a umask of 0177, and a folder that is made so nobody but
/// root can write into.
fn make(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let can_enter = fs::metadata(folder)?.permissions().mode() & 0o100 != 0;
    if can_enter { Ok(()) } else { fs::set_permissions(folder, fs::Permissions::from_mode(0o755)) }
}

/// An instance is none of this node any more.
///
/// # Errors
/// Where it cannot be removed.
pub fn forget(folder: &Path, instance: &str) -> Result<(), String> {
    if !is_name(instance) {
        return Ok(());
    }
    match fs::remove_file(folder.join(instance)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display())),
        _ => Ok(()),
    }
}

/// Names that begin with a dot are files on their way.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_nobody_could_enter_is_mended() {
        let folder = tempfile::TempDir::new().unwrap();
        let roles = folder.path().join("admin.roles");
        let mode = || fs::metadata(&roles).unwrap().permissions().mode() & 0o777;
        fs::create_dir(&roles).unwrap();
        fs::set_permissions(&roles, fs::Permissions::from_mode(0o600)).unwrap();
        write(&roles, "VI_1", State::Master).unwrap();
        assert_eq!(mode(), 0o755);
        fs::set_permissions(&roles, fs::Permissions::from_mode(0o700)).unwrap();
        write(&roles, "VI_1", State::Backup).unwrap();
        assert_eq!((mode(), read(&roles)[0].state), (0o700, State::Backup), "what works stays");
    }

    #[test]
    fn roles_are_read_as_written_and_nothing_else() {
        let folder = tempfile::TempDir::new().unwrap();
        let roles = folder.path().join("admin.roles");
        assert!(read(&roles).is_empty());
        write(&roles, "VI_2", State::Backup).unwrap();
        write(&roles, "VI_1", State::Master).unwrap();
        write(&roles, "VI_1", State::Fault).unwrap();
        for bad in ["", ".hidden", "../x", "a b", &"x".repeat(65)] {
            assert!(write(&roles, bad, State::Master).is_err(), "{bad}");
        }
        fs::write(roles.join("VI_3"), "maestro\n").unwrap();
        fs::create_dir(roles.join("VI_4")).unwrap();
        let read: Vec<_> = read(&roles).into_iter().map(|role| (role.instance, role.state)).collect();
        assert_eq!(read, [("VI_1".to_owned(), State::Fault), ("VI_2".to_owned(), State::Backup)]);
        assert_eq!(State::of("MASTER"), Some(State::Master));
        forget(&roles, "VI_1").unwrap();
        forget(&roles, "VI_1").unwrap();
        assert_eq!(self::read(&roles).len(), 1);
    }
}
