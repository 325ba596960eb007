//! How a faulty configuration speaks: file, line, column, what is wrong, what to write instead.

use std::fmt;

/// One thing that is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Offset in the text.
    pub at: usize,
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

/// Everything that is wrong with a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Notes one.
    pub fn push(&mut self, at: usize, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Fault { at, what: what.into(), remedy: remedy.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    /// In order of position, each once.
    pub fn in_order(mut self) -> Self {
        self.0.sort_by_key(|fault| fault.at);
        self.0.dedup();
        self
    }

    /// One paragraph for each fault, with the line it is about: what `check` prints.
    pub fn render<'a>(&'a self, file: &'a str, text: &'a str) -> impl fmt::Display + 'a {
        self.paragraphs(file, text, true)
    }

    /// The same for a file that holds secrets: without its lines.
    pub fn render_secret<'a>(&'a self, file: &'a str, text: &'a str) -> impl fmt::Display + 'a {
        self.paragraphs(file, text, false)
    }

    fn paragraphs<'a>(&'a self, file: &'a str, text: &'a str, quote: bool) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            for fault in &self.0 {
                let (line, column) = position(text, fault.at);
                writeln!(f, "{file}:{line}:{column}: error: {}", fault.what)?;
                let source = text
                    .lines()
                    .nth(line - 1)
                    .filter(|source| quote && !source.trim().is_empty() && !holds_secret(source));
                if let Some(source) = source {
                    writeln!(f, "    | {}", source.trim_end())?;
                }
                if !fault.remedy.is_empty() {
                    writeln!(f, "    = {}", fault.remedy)?;
                }
            }
            Ok(())
        })
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Whether a line may hold a password, or what one was made to: what is shown of it ends in logs and tickets.
pub fn holds_secret(line: &str) -> bool {
    line.contains("password") || line.contains("$argon2")
}

/// Line and column of an offset, both from 1; the column counts characters.
pub fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The candidate that was probably meant, if one is close.
pub fn suggestion<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &&str| distance(written, candidate) <= 1 + candidate.len().min(written.len()) / 4;
    candidates.into_iter().filter(near).min_by_key(|candidate| distance(written, candidate))
}

/// How many single letters to add, remove or change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.chars().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}
