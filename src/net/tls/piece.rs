//! What is made of files: made again where they changed, and kept as it was where the new ones are broken.

use std::fmt;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;

/// The most that one file may have: all authorities of the web have 220 KB, chain and key of a name 10.
const LONGEST: u64 = 4 << 20;

/// What is wrong with a file, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub file: PathBuf,
    pub what: String,
    pub remedy: String,
}

impl Fault {
    pub fn new(file: &Path, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), what: what.into(), remedy: remedy.into() }
    }

    /// A file or folder that cannot be read; `whose` says where the configuration names it.
    pub fn unread(file: &Path, error: &io::Error, whose: &str) -> Self {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "is not there".to_owned(),
            io::ErrorKind::PermissionDenied => "may not be read".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => format!("{whose} needs it: let the user that Trunkline runs as read it"),
            _ => format!("{whose} needs it"),
        };
        Self::new(file, what, remedy)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: error: {}\n    = {}\n", self.file.display(), self.what, self.remedy)
    }
}

/// A file that was read.
pub struct Text {
    pub file: PathBuf,
    pub bytes: Vec<u8>,
    /// Whether every user of this host may read it.
    pub open: bool,
}

/// Something that is made of one file or two.
pub struct Piece<T> {
    stamps: Vec<(PathBuf, Option<Stamp>)>,
    /// Of what was read last: a file that was only touched is no new one.
    hash: Option<u64>,
    /// The last that was good.
    good: Option<Arc<T>>,
    fault: Option<Fault>,
}

impl<T> Piece<T> {
    /// Reads the files, unless they are as they were `before`. Where they are broken now, the last that was good stays.
    pub fn read(
        files: &[PathBuf],
        whose: &str,
        before: Option<&Arc<Self>>,
        make: impl FnOnce(&[Text]) -> Result<T, Fault>,
    ) -> Arc<Self> {
        // Before they are read: what changes meanwhile is seen the next time.
        let stamps: Vec<_> = files.iter().map(|file| (file.clone(), Stamp::of(file))).collect();
        if let Some(before) = before.filter(|before| before.stamps == stamps) {
            return Arc::clone(before);
        }
        let good = before.and_then(|before| before.good.clone());
        let read: Result<Vec<_>, _> = files.iter().map(|file| read(file, whose)).collect();
        let (hash, made) = match read {
            Err(fault) => (None, Err(fault)),
            Ok(texts) => {
                let hash = Some(hash(&texts));
                match before.filter(|before| before.hash == hash) {
                    Some(before) => {
                        return Arc::new(Self { stamps, hash, good, fault: before.fault.clone() });
                    }
                    None => (hash, make(&texts)),
                }
            }
        };
        Arc::new(match made {
            Ok(made) => Self { stamps, hash, good: Some(Arc::new(made)), fault: None },
            Err(fault) => Self { stamps, hash, good, fault: Some(fault) },
        })
    }

    /// The file that it is named by.
    pub fn file(&self) -> &Path {
        self.stamps.first().map_or(Path::new(""), |(file, _)| file)
    }

    pub fn good(&self) -> Option<&Arc<T>> {
        self.good.as_ref()
    }

    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Whether both stand for the same thing.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.good, &other.good) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

/// What tells one version of a file from the next without reading it.
#[derive(PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Of the inode: whoever sets the time of modification back cannot set this one.
    changed: (i64, i64),
}

impl Stamp {
    /// `None` where there is no such file, or nobody may know.
    fn of(file: &Path) -> Option<Self> {
        let of = fs::metadata(file).ok()?;
        Some(Self {
            device: of.dev(),
            inode: of.ino(),
            size: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        })
    }
}

fn read(file: &Path, whose: &str) -> Result<Text, Fault> {
    let unread = |error: io::Error| Fault::unread(file, &error, whose);
    // What waits for a writer, as a FIFO does, would be waited for as long.
    let opened = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(file).map_err(unread)?;
    let known = opened.metadata().map_err(unread)?;
    if !known.is_file() {
        return Err(Fault::new(file, "is no file", format!("{whose} wants certificates in PEM")));
    }
    let open = known.mode() & 0o004 != 0;
    let mut bytes = Vec::new();
    opened.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > LONGEST {
        let what = format!("is longer than {} MB", LONGEST >> 20);
        return Err(Fault::new(file, what, format!("{whose} wants certificates in PEM")));
    }
    Ok(Text { file: file.to_owned(), bytes, open })
}

fn hash(texts: &[Text]) -> u64 {
    let mut hasher = siphasher::sip::SipHasher13::new();
    for text in texts {
        hasher.write_u64(text.bytes.len() as u64);
        hasher.write(&text.bytes);
        hasher.write_u8(text.open.into());
    }
    hasher.finish()
}
