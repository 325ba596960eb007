//! Every configuration that was accepted, as it was to the byte. A number has two files: `000012.toml` is the text, and
//! `000012.json` says of whom, when and which; it is written last, so that a text without it counts for nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state_dir::{New, give, make_folder, owner, put_file};
use super::unix_now;
use crate::config::fingerprint;

/// So many are kept: months of a quiet site, a day of one that reloads by a program.
const MOST: usize = 100;

/// Bytes of all texts together. The newest is kept whatever it has.
const MOST_BYTES: u64 = 64 << 20;

/// What is known of one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 1 on; never given twice.
    pub number: u64,
    /// Seconds since 1970.
    pub at: f64,
    pub who: String,
    /// [`fingerprint`] of the text, in hexadecimal.
    pub configuration: String,
    pub bytes: u64,
    /// Of the Trunkline that accepted it.
    pub version: String,
}

/// The folder of them.
#[derive(Clone, Debug)]
pub struct History(PathBuf);

impl History {
    /// That of a state folder.
    pub fn of(state_dir: &Path) -> Self {
        Self(state_dir.join("history"))
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Makes its folder, which holds what hashes of passwords are in: nobody else may look.
    ///
    /// # Errors
    /// Where that cannot be.
    pub fn make(&self) -> io::Result<()> {
        make_folder(&self.0, 0o700)?;
        give(&self.0, self.owner())
    }

    /// Whoever starts it as root by hand leaves the service what is its own.
    fn owner(&self) -> Option<(u32, u32)> {
        self.0.parent().and_then(owner)
    }

    /// What there is, oldest first. Nothing where nothing was ever accepted.
    ///
    /// # Errors
    /// Where this user may not look.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let read = |number: u64| {
            let text = fs::read(self.file(number, "json")).ok()?;
            serde_json::from_slice(&text).ok().filter(|entry: &Entry| entry.number == number)
        };
        Ok(self.numbers("json")?.into_iter().filter_map(read).collect())
    }

    /// The text of a number.
    ///
    /// # Errors
    /// Where there is none, or it is not the one any more that was accepted.
    pub fn text(&self, number: u64) -> Result<String, String> {
        let entries = self.entries().map_err(|error| self.unreadable(&error))?;
        let Some(entry) = entries.iter().find(|entry| entry.number == number) else {
            let kept = match (entries.first(), entries.last()) {
                (Some(first), Some(last)) => format!("kept are {} to {}", first.number, last.number),
                _ => "none was accepted yet".to_owned(),
            };
            return Err(format!("there is no number {number} in {}: {kept}", self.0.display()));
        };
        let file = self.file(number, "toml");
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        match format!("{:016x}", fingerprint(&text)) == entry.configuration {
            true => Ok(text),
            false => {
                Err(format!("{}: it is not the text any more that was accepted; take another number", file.display()))
            }
        }
    }

    /// Keeps a text where it is another one than the newest, and lets the oldest go. The number of the text.
    ///
    /// # Errors
    /// Where it cannot be written; then what was kept is kept.
    pub fn keep(&self, text: &str, who: &str) -> io::Result<u64> {
        let entries = self.entries()?;
        let configuration = format!("{:016x}", fingerprint(text));
        if let Some(newest) = entries.last().filter(|newest| newest.configuration == configuration) {
            return Ok(newest.number);
        }
        let number = self.numbers("toml")?.last().copied().max(entries.last().map(|newest| newest.number));
        let entry = Entry {
            number: number.unwrap_or(0) + 1,
            at: unix_now(),
            who: who.to_owned(),
            configuration,
            bytes: text.len() as u64,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let new = New { mode: 0o600, owner: self.owner() };
        put_file(&self.file(entry.number, "toml"), text.as_bytes(), new)?;
        put_file(&self.file(entry.number, "json"), &serde_json::to_vec(&entry)?, new)?;
        self.let_go(&entry, &entries);
        Ok(entry.number)
    }

    /// Removes what is too old or too much, and texts without a word about them.
    fn let_go(&self, newest: &Entry, older: &[Entry]) {
        let mut bytes = newest.bytes;
        let mut kept = vec![newest.number];
        for entry in older.iter().rev() {
            bytes += entry.bytes;
            if kept.len() == MOST || bytes > MOST_BYTES {
                break;
            }
            kept.push(entry.number);
        }
        // What cannot be removed now is tried again with the next one.
        for kind in ["json", "toml"] {
            let numbers = self.numbers(kind).unwrap_or_default().into_iter();
            numbers.filter(|number| !kept.contains(number)).for_each(|number| {
                let _ = fs::remove_file(self.file(number, kind));
            });
        }
    }

    /// The numbers that have a file of this kind, in order.
    fn numbers(&self, kind: &str) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let number = |name: &str| name.strip_suffix(kind)?.strip_suffix('.')?.parse().ok();
        let mut numbers: Vec<_> = entries.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn file(&self, number: u64, kind: &str) -> PathBuf {
        self.0.join(format!("{number:06}.{kind}"))
    }

    /// What to do where this user may not look.
    pub fn unreadable(&self, error: &io::Error) -> String {
        format!("{}: {error}; its owner and root may look", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> (tempfile::TempDir, History) {
        let folder = tempfile::TempDir::new().unwrap();
        let history = History::of(folder.path());
        history.make().unwrap();
        (folder, history)
    }

    #[test]
    fn the_newest_hundred_are_kept_and_numbers_go_on() {
        let (_folder, history) = history();
        for n in 1..=MOST as u64 + 7 {
            assert_eq!(history.keep(&format!("text {n}"), "SIGHUP").unwrap(), n);
        }
        // The same again is no other one.
        assert_eq!(history.keep(&format!("text {}", MOST + 7), "start").unwrap(), MOST as u64 + 7);
        let entries = history.entries().unwrap();
        assert_eq!((entries.len(), entries[0].number), (MOST, 8));
        assert_eq!(fs::read_dir(history.folder()).unwrap().count(), 2 * MOST, "and nothing of the others");
        assert_eq!(history.text(8).unwrap(), "text 8");
        assert!(history.text(7).unwrap_err().ends_with(": kept are 8 to 107"));
    }

    #[test]
    fn together_they_have_a_limit_and_the_newest_stays() {
        let (_folder, history) = history();
        let text = |n: char| n.to_string().repeat((MOST_BYTES / 3) as usize);
        for n in ['a', 'b', 'c', 'd'] {
            history.keep(&text(n), "start").unwrap();
        }
        assert_eq!(history.entries().unwrap().iter().map(|entry| entry.number).collect::<Vec<_>>(), [2, 3, 4]);
        history.keep(&"e".repeat(MOST_BYTES as usize + 1), "start").unwrap();
        assert_eq!(history.entries().unwrap().iter().map(|entry| entry.number).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn what_was_broken_off_or_changed_counts_for_nothing() {
        let (_folder, history) = history();
        history.keep("one", "start").unwrap();
        // The power went between the two files.
        fs::write(history.file(2, "toml"), "two").unwrap();
        assert_eq!(history.entries().unwrap().len(), 1);
        assert!(history.text(2).is_err());
        assert_eq!(history.keep("three", "start").unwrap(), 3, "its number is not given to another");
        assert!(!history.file(2, "toml").exists());
        fs::write(history.file(1, "toml"), "someone").unwrap();
        assert!(history.text(1).unwrap_err().contains("not the text any more"));
    }
}
