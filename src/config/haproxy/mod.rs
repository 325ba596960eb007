//! haproxy.cfg as a configuration of ours: what `trunkline import` prints. Each line is translated, not needed here, or somebody's
//! to do by hand; none is passed over in silence.
//!
//! `lines` reads the file as HAProxy does, `gather` what each proxy says (`asks` of its checks; `edge` is all of it), `whole` sees what
//! takes more than one line to see, and `write` says it in our words.

mod asks;
mod edge;
mod gather;
mod lines;
mod whole;
mod write;

use lines::Line;

/// What became of a file.
#[derive(Debug)]
pub struct Imported {
    /// The configuration.
    pub text: String,
    /// One for each line that says something, in their order.
    pub lines: Vec<Told>,
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Counts from 1 on.
    pub number: usize,
    pub line: String,
    pub fate: Fate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Translated,
    /// Why it has no equal and nobody misses it.
    NotNeeded(&'static str),
    /// What somebody must do.
    ByHand(String),
}

impl Imported {
    /// How many lines there are, and how many of them are translated, not needed, and left to somebody.
    pub fn count(&self) -> [usize; 4] {
        let of = |is: fn(&Fate) -> bool| self.lines.iter().filter(|told| is(&told.fate)).count();
        let translated = of(|fate| *fate == Fate::Translated);
        let not_needed = of(|fate| matches!(fate, Fate::NotNeeded(_)));
        [self.lines.len(), translated, not_needed, self.lines.len() - translated - not_needed]
    }
}

/// Translates a file.
pub fn import(text: &str) -> Imported {
    let sections = lines::sections(text);
    let (edge, mut lines) = gather::gather(&sections);
    lines.sort_by_key(|told| told.number);
    Imported { text: write::write(&edge), lines }
}

fn told(line: &Line, fate: Fate) -> Told {
    Told { number: line.number, line: line.text.clone(), fate }
}

#[cfg(test)]
mod tests;
