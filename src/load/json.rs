//! Writes one JSON object on one line.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// An object that is being written: members in the order they are added.
#[derive(Debug)]
pub struct Object {
    text: String,
}

impl Default for Object {
    fn default() -> Self {
        Self { text: "{".to_owned() }
    }
}

impl Object {
    /// A whole number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.raw(name, value)
    }

    /// A number with three digits behind the point. It must be finite.
    pub fn decimal(&mut self, name: &str, value: f64) -> &mut Self {
        self.raw(name, format_args!("{value:.3}"))
    }

    /// A truth value.
    pub fn truth(&mut self, name: &str, value: bool) -> &mut Self {
        self.raw(name, value)
    }

    /// A text.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.raw(name, quoted(value))
    }

    /// An object inside.
    pub fn object(&mut self, name: &str, write: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        write(&mut inner);
        self.raw(name, inner.finish())
    }

    /// An object of counts.
    pub fn counts<K: Display>(&mut self, name: &str, counts: &BTreeMap<K, u64>) -> &mut Self {
        self.object(name, |inner| {
            for (key, count) in counts {
                inner.number(&key.to_string(), *count);
            }
        })
    }

    /// The whole object.
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }

    fn raw(&mut self, name: &str, value: impl Display) -> &mut Self {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{}:{value}", quoted(name));
        self
    }
}

/// A JSON string (RFC 8259 §7).
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
