//! `trunkline import`: haproxy.cfg as a configuration of ours, on stdout; what became of each line, on stderr.

use std::path::Path;
use std::process::ExitCode;

use super::door::put;
use crate::config::haproxy::{Fate, Imported, import};

/// Something is left to do by hand.
const LEFT: u8 = 3;

pub fn run(file: &Path) -> ExitCode {
    let read = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(file),
    };
    let text = match read {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    };
    let imported = import(&text);
    let _ = put(&imported.text);
    let left = report(&imported, &file.display().to_string());
    if left == 0 { ExitCode::SUCCESS } else { ExitCode::from(LEFT) }
}

/// Says what became of each line, and the sums; returns how many are left to do.
fn report(imported: &Imported, name: &str) -> usize {
    for told in &imported.lines {
        let (word, why) = match &told.fate {
            Fate::Translated => ("translated", ""),
            Fate::NotNeeded(why) => ("not needed", *why),
            Fate::ByHand(what) => ("by hand", what.as_str()),
        };
        eprintln!("{name}:{}: {word}: {}", told.number, told.line);
        if !why.is_empty() {
            eprintln!("    {why}");
        }
    }
    let [all, translated, not_needed, left] = imported.count();
    eprintln!("{translated} of {all} lines translated, {not_needed} not needed, {left} to do by hand");
    left
}
