//! Reading tables of TOML so that every fault is found in one run: a value that cannot be read is noted and replaced by
//! nothing, and reading goes on.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Faults, suggestion};
use super::habits;

/// A value and where it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    pub value: T,
    pub at: usize,
}

/// A type that a value of the file can be read as.
pub trait Read: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What to write instead, as a noun: "a duration such as \"10s\"".
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
}

impl Read for String {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| "a string".into())
    }
}

impl Read for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "true or false".into())
    }
}

impl Read for u64 {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let number = value.as_integer().and_then(|n| Self::from_str_radix(n.as_str(), n.radix()).ok());
        number.ok_or_else(|| "a whole number".into())
    }
}

/// The table of one section while it is read.
pub struct Section<'r, 't> {
    faults: &'r RefCell<Faults>,
    table: &'t DeTable<'t>,
    /// How the section is called in messages: `[global]`, `[[frontend]]`.
    title: &'static str,
    at: usize,
    known: RefCell<Vec<&'static str>>,
}

impl<'r, 't> Section<'r, 't> {
    pub fn new(faults: &'r RefCell<Faults>, table: &'t Spanned<DeTable<'t>>, title: &'static str) -> Self {
        Self::of(faults, table.get_ref(), table.span().start, title)
    }

    fn of(faults: &'r RefCell<Faults>, table: &'t DeTable<'t>, at: usize, title: &'static str) -> Self {
        Self { faults, table, title, at, known: RefCell::default() }
    }

    /// Where the section begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Where the value of a key stands, if it is there.
    pub fn place(&self, key: &str) -> Option<usize> {
        self.table.get(key).map(|value| value.span().start)
    }

    pub fn fault(&self, at: usize, what: impl Into<String>, remedy: impl Into<String>) {
        self.faults.borrow_mut().push(at, what, remedy);
    }

    fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.note(key);
        self.table.get(key)
    }

    /// A key may be asked for twice: as it is written, and within its limits.
    fn note(&self, key: &'static str) {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
    }

    /// A value that may be absent.
    pub fn optional<T: Read>(&self, key: &'static str) -> Option<At<T>> {
        let value = self.value(key)?;
        self.read(&format!("`{key}`"), value)
    }

    /// `name` is what the value is called where it cannot be read.
    fn read<T: Read>(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Option<At<T>> {
        match T::read(value.get_ref()) {
            Ok(read) => Some(At { value: read, at: value.span().start }),
            Err(wanted) => {
                self.fault(value.span().start, format!("{name} is not {wanted}"), format!("write {wanted}"));
                None
            }
        }
    }

    /// A value that must be there; `None` has been reported.
    pub fn required<T: Read>(&self, key: &'static str, example: &str) -> Option<At<T>> {
        self.required_or(key, &format!("add `{key} = {example}`"))
    }

    /// What a section is called: something.
    pub fn name(&self, example: &str) -> Option<At<String>> {
        let name: At<String> = self.required("name", example)?;
        if name.value.is_empty() {
            self.fault(name.at, format!("{} has an empty `name`", self.title), format!("write `name = {example}`"));
        }
        Some(name)
    }

    /// The same with words of its own for what to do where it is not there.
    pub fn required_or<T: Read>(&self, key: &'static str, remedy: &str) -> Option<At<T>> {
        if self.table.get(key).is_none() {
            self.note(key);
            self.fault(self.at, format!("{} has no `{key}`", self.title), remedy);
            return None;
        }
        self.optional(key)
    }

    /// A value with a default.
    pub fn or<T: Read>(&self, key: &'static str, default: T) -> T {
        self.optional(key).map_or(default, |read| read.value)
    }

    /// A number in a range.
    pub fn number(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        match self.optional::<u64>(key) {
            Some(number) if !range.contains(&number.value) => {
                let (low, high) = (range.start(), range.end());
                self.fault(
                    number.at,
                    format!("`{key}` is {}", number.value),
                    format!("write a number from {low} to {high}"),
                );
                default
            }
            Some(number) => number.value,
            None => default,
        }
    }

    /// One of some words.
    pub fn word<T: Copy>(&self, key: &'static str, default: T, words: &[(&str, T)]) -> T {
        let Some(written) = self.optional::<String>(key) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == written.value) {
            return *value;
        }
        let all: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let meant = suggestion(&written.value, words.iter().map(|(word, _)| *word));
        let remedy = match (habits::of_word(key, &written.value), meant) {
            (Some(hint), _) => hint.to_owned(),
            (None, Some(meant)) => format!("did you mean \"{meant}\"?"),
            (None, None) => format!("write one of {}", all.join(", ")),
        };
        self.fault(written.at, format!("`{key}` cannot be \"{}\"", written.value), remedy);
        default
    }

    /// A list; a single value counts as a list of one.
    pub fn list<T: Read>(&self, key: &'static str) -> Vec<At<T>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        match value.get_ref().as_array() {
            Some(items) => items.iter().filter_map(|item| self.read(&one_of(key, item.get_ref()), item)).collect(),
            None => self.read(&format!("`{key}`"), value).into_iter().collect(),
        }
    }

    /// How many values a list has as it is written, those that cannot be read too.
    pub fn count(&self, key: &str) -> usize {
        self.table.get(key).map_or(0, |value| value.get_ref().as_array().map_or(1, |items| items.len()))
    }

    /// A list without the positions.
    pub fn values<T: Read>(&self, key: &'static str) -> Vec<T> {
        self.list(key).into_iter().map(|item| item.value).collect()
    }

    /// A table inside this one.
    pub fn section(&self, key: &'static str, title: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Self::of(self.faults, table, value.span().start, title)),
            None => {
                self.fault(
                    value.span().start,
                    format!("`{key}` is not a table"),
                    format!("write {title} or `{key} = {{ ... }}`"),
                );
                None
            }
        }
    }

    /// The tables of an array inside this one.
    pub fn sections(&self, key: &'static str, title: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.fault(value.span().start, format!("`{key}` is not a list of tables"), format!("write {title}"));
            return Vec::new();
        };
        let table = |item: &'t Spanned<DeValue<'t>>| match item.get_ref().as_table() {
            Some(table) => Some(Self::of(self.faults, table, item.span().start, title)),
            None => {
                self.fault(item.span().start, format!("an item of `{key}` is not a table"), format!("write {title}"));
                None
            }
        };
        items.iter().filter_map(table).collect()
    }

    /// Ends the section: every key that nobody asked for is a fault. `later` are keys of this product that this
    /// version has not yet.
    pub fn finish(self, later: &[&'static str]) {
        self.finish_with(later, true);
    }

    /// Ends a section of a file with secrets: what stands where a key should be may be one, and is not shown.
    pub fn finish_unquoted(self) {
        self.finish_with(&[], false);
    }

    fn finish_with(&self, later: &[&'static str], quote: bool) {
        let known = self.known.borrow();
        for (key, _) in self.table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            if later.contains(&name) {
                self.fault(
                    at,
                    format!("this version has no `{name}` in {} yet", self.title),
                    "remove it; it comes with a later version",
                );
                continue;
            }
            let remedy = match (habits::of_key(self.title, name), suggestion(name, known.iter().copied())) {
                (Some(hint), _) => hint.to_owned(),
                (None, Some(meant)) => format!("did you mean `{meant}`?"),
                (None, None) => format!("remove it; {} knows {}", self.title, known.join(", ")),
            };
            let name = if quote { format!(" `{name}`") } else { String::new() };
            self.fault(at, format!("unknown key{name} in {}", self.title), remedy);
        }
    }
}

/// How a value of a list is called where it cannot be read: whoever wrote twenty wants to know which.
fn one_of(key: &str, value: &DeValue<'_>) -> String {
    value.as_str().map_or_else(|| format!("`{key}`"), |text| format!("\"{text}\" in `{key}`"))
}
