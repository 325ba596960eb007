//! `trunkline status --watch`: the status again every second, in place on a terminal, as blocks of lines elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use super::door::{Door, each_second, finish, put};
use crate::admin::client::ask_soon;
use crate::admin::{time_text, unix_now};
use crate::net::udp::clock;
use crate::state::Time;

/// The other screen, without cursor; what is too wide is cut off, not wrapped.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Shown when it is complete, by terminals that know this.
const BEGIN: &str = "\x1b[?2026h\x1b[H\x1b[J";
const COMPLETE: &str = "\x1b[?2026l";
/// To the next line, which is empty then. Below the last one there is none, and nothing scrolls. What is cut off leaves its last
/// letter at the edge, where it would be read as a number: a blank goes over it.
const NEXT: &str = " \x1b[E\x1b[2K";
/// Sentences may be longer than a line.
const WRAP: &str = "\x1b[?7h";
const CUT: &str = "\x1b[?7l";
/// So many looks long a cell that changed is marked.
const MARKED: u32 = 10;

/// `trunkline status --watch`
pub fn watch(door: &Door) -> ExitCode {
    finish(door.socket().and_then(|socket| {
        let mut screen = Screen::new();
        each_second(async || screen.show(ask_soon(&socket, "status").await))
    }))
}

/// What is shown, and what was shown before.
struct Screen {
    terminal: bool,
    color: bool,
    /// The last answer.
    answer: String,
    /// Since when there is none.
    silent: Option<Time>,
    rows: HashMap<String, Vec<Cell>>,
}

/// A cell of the table: what it says, and how many looks ago it said something else.
#[derive(Clone)]
struct Cell {
    text: String,
    age: u32,
}

impl Screen {
    fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        if terminal {
            let _ = put(ENTER);
        }
        let color = terminal && !super::no_color();
        Self { terminal, color, answer: String::new(), silent: None, rows: HashMap::new() }
    }

    fn show(&mut self, answer: Result<String, String>) -> io::Result<()> {
        let now = time_text(unix_now());
        let was_silent = self.silent.is_some();
        let sentence = match answer {
            Ok(answer) => {
                (self.answer, self.silent) = (answer, None);
                None
            }
            Err(error) => {
                let since = *self.silent.get_or_insert_with(clock);
                let seconds = clock().since(since).as_secs();
                Some(format!("no answer for {seconds}s, trying again every second: {error}"))
            }
        };
        match (self.terminal, sentence) {
            (true, sentence) => {
                let picture = self.picture(&now, sentence);
                put(&picture)
            }
            (false, None) => put(&format!("{now} {}\n", self.answer)),
            // Once: it is long.
            (false, Some(sentence)) if !was_silent => put(&format!("{now} {sentence}\n\n")),
            (false, Some(_)) => Ok(()),
        }
    }

    /// The head, the sentence, and the table; one without an answer is that of before, and pale.
    fn picture(&mut self, now: &str, silent: Option<String>) -> String {
        let answer = std::mem::take(&mut self.answer);
        let mut lines = answer.lines();
        let (head, verdict) = (lines.next().unwrap_or("trunkline"), lines.next().unwrap_or_default());
        let table: Vec<_> = lines.skip(1).collect();
        let level = verdict.split_once(':').map_or("", |(level, _)| level);
        let ink = if silent.is_some() { "bad" } else { level };
        let sentence = self.ink("1", ink_of(ink), silent.as_deref().unwrap_or(verdict));
        let table = match (&silent, table.split_first()) {
            (None, Some((heads, rows))) => self.table(heads, rows),
            _ => table.iter().map(|line| self.ink("2", "", line)).collect(),
        };
        let foot = self.ink("2", "", "what changed is marked; ^C ends it");
        let head = [format!("{head}  {}", self.ink("2", "", now)), format!("{WRAP}{sentence}{CUT}"), String::new()];
        let lines: Vec<_> = head.into_iter().chain(table).chain([String::new(), foot]).collect();
        self.answer = answer;
        format!("{BEGIN}{}{COMPLETE}", lines.join(NEXT))
    }

    /// The table's lines, with how each server is in colour, and what changed marked.
    fn table(&mut self, heads: &str, rows: &[&str]) -> Vec<String> {
        let (starts, names) = (starts(heads), heads.split_whitespace().collect::<Vec<_>>());
        let mut lines = vec![self.ink("1", "", heads)];
        let before = std::mem::take(&mut self.rows);
        for line in rows {
            let texts = cells(line, &starts);
            let old = before.get(texts[0].trim_end());
            let mut cells = Vec::new();
            for (at, text) in texts.iter().enumerate() {
                let age = match old.and_then(|old| old.get(at)) {
                    Some(old) if old.text == text.trim_end() => old.age.saturating_add(1),
                    None if before.is_empty() => MARKED,
                    _ => 0,
                };
                cells.push(Cell { text: text.trim_end().to_owned(), age });
            }
            let inked = texts.iter().zip(&cells).zip(&names).map(|((text, cell), name)| {
                let mark = match *name {
                    "for" => "",
                    // They change whenever calls come.
                    "calls" | "opened" | "failed" => {
                        if cell.age == 0 {
                            "1"
                        } else {
                            ""
                        }
                    }
                    _ => {
                        if cell.age < MARKED {
                            "7"
                        } else {
                            ""
                        }
                    }
                };
                let color = if *name == "state" { ink_of(level_of(&cell.text)) } else { "" };
                self.ink(mark, color, &cell.text) + &text[cell.text.len()..]
            });
            lines.push(inked.collect());
            self.rows.insert(texts[0].trim_end().to_owned(), cells);
        }
        lines
    }

    fn ink(&self, weight: &str, color: &str, text: &str) -> String {
        let color = if self.color { color } else { "" };
        match (weight, color) {
            _ if text.is_empty() => String::new(),
            ("", "") => text.to_owned(),
            ("", one) | (one, "") => format!("\x1b[{one}m{text}\x1b[0m"),
            (weight, color) => format!("\x1b[{weight};{color}m{text}\x1b[0m"),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            let _ = put(LEAVE);
        }
    }
}

/// Where each column begins: heads are single words.
fn starts(heads: &str) -> Vec<usize> {
    let letters = heads.as_bytes();
    (0..letters.len()).filter(|at| letters[*at] != b' ' && (*at == 0 || letters[at - 1] == b' ')).collect()
}

/// A line's cells, with the blanks behind them. The last column has what is left.
fn cells<'a>(line: &'a str, starts: &[usize]) -> Vec<&'a str> {
    let ends = starts.iter().skip(1).copied().chain([line.len()]);
    let cell = |(start, end): (&usize, usize)| line.get(*start..end.min(line.len())).unwrap_or_default();
    starts.iter().zip(ends).map(cell).collect()
}

/// How loud a state is, by its words.
fn level_of(state: &str) -> &'static str {
    let words = state.split(": ").next().unwrap_or_default();
    let has = |any: &[&str]| words.split(", ").any(|word| any.contains(&word));
    if has(&["drain", "maint", "leaving"]) {
        "idle"
    } else if has(&["down", "dead", "breaker open", "no address"]) {
        "bad"
    } else if has(&["suspect", "resting", "breaker half-open"]) {
        "warning"
    } else {
        "good"
    }
}

fn ink_of(level: &str) -> &'static str {
    match level {
        "good" => "32",
        "warning" => "33",
        "bad" => "31",
        _ => "36",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        Screen { terminal: false, color: true, answer: String::new(), silent: None, rows: HashMap::new() }
    }

    const HEADS: &str = "server   region  state            for  calls";

    #[test]
    fn what_changed_is_marked_for_a_while_and_clocks_are_not() {
        let mut screen = screen();
        let up = "pbx/one          up               1s   4";
        let down = "pbx/one          down: timeout    0s   5";
        assert_eq!(screen.table(HEADS, &[up])[1], "pbx/one          \x1b[32mup\x1b[0m               1s   4");
        let marked = "pbx/one          \x1b[7;31mdown: timeout\x1b[0m    0s   \x1b[1m5\x1b[0m";
        assert_eq!(screen.table(HEADS, &[down])[1], marked);
        let later: Vec<_> = (0..MARKED).map(|_| screen.table(HEADS, &[down]).remove(1)).collect();
        assert!(later[..MARKED as usize - 1].iter().all(|line| line.contains("\x1b[7;31m")), "{later:?}");
        assert!(later[MARKED as usize - 1].contains("\x1b[31m"), "{later:?}");
        let new = screen.table(HEADS, &[down, "pbx/two          up               0s   0"]).remove(2);
        assert!(new.starts_with("\x1b[7mpbx/two\x1b[0m"), "one that comes is marked: {new:?}");
    }

    #[test]
    fn without_colour_marks_are_left() {
        let mut screen = screen();
        screen.color = false;
        screen.table(HEADS, &["pbx/one          up               1s   4"]);
        let line = screen.table(HEADS, &["pbx/one          down             1s   4"]).remove(1);
        assert_eq!(line, "pbx/one          \x1b[7mdown\x1b[0m             1s   4");
    }

    #[test]
    fn states_are_as_loud_as_the_verdict_has_them() {
        let all = ["up", "no check", "up, drain", "down, maint", "down: x", "up, breaker open", "resting: 503"];
        assert_eq!(all.map(level_of), ["good", "good", "idle", "idle", "bad", "bad", "warning"]);
    }
}
