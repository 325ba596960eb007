//! Messages as their lines, byte by byte: what an edit must not touch, and the naive way to make each edit.

use std::net::SocketAddr;

use super::model::{logical_lines, text};

/// A message in pieces that, joined, are the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// The start line, what stands before it, and its line end.
    pub start: Vec<u8>,
    /// Header lines with their continuations and line ends.
    pub lines: Vec<Vec<u8>>,
    /// The empty line and all behind it.
    pub rest: Vec<u8>,
}

impl Pieces {
    pub fn of(bytes: &[u8]) -> Self {
        let begin = bytes.iter().position(|b| !b"\r\n".contains(b)).expect("a start line");
        let head = begin + bytes[begin..].iter().position(|b| *b == b'\n').expect("its end") + 1;
        let (lines, _) = logical_lines(bytes, head);
        let end = lines.last().map_or(head, |line| line.end);
        Self {
            start: bytes[..head].to_vec(),
            lines: lines.iter().map(|line| bytes[line.start..line.end].to_vec()).collect(),
            rest: bytes[end..].to_vec(),
        }
    }

    pub fn joined(&self) -> Vec<u8> {
        [self.start.clone(), self.lines.concat(), self.rest.clone()].concat()
    }

    /// Position of the first line of this name.
    pub fn find(&self, spellings: &[&str]) -> Option<usize> {
        self.lines.iter().position(|line| is_named(line, spellings))
    }

    /// The lines of this name.
    pub fn named(&self, spellings: &[&str]) -> Vec<&Vec<u8>> {
        self.lines.iter().filter(|line| is_named(line, spellings)).collect()
    }
}

pub const VIA: &[&str] = &["via", "v"];
pub const TO: &[&str] = &["to", "t"];

/// Whether a header line has one of these names; lower case.
pub fn is_named(line: &[u8], spellings: &[&str]) -> bool {
    let name = text(line).split(':').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    spellings.contains(&name.as_str())
}

/// A header line as name with colon, value, and the blanks and line end behind it.
pub fn parts(line: &[u8]) -> (String, String, String) {
    let line = text(line);
    let colon = line.find(':').expect("a header line") + 1;
    let value = line[colon..].trim_start();
    let start = line.len() - value.len();
    let end = start + value.trim_end().len();
    (line[..start].to_owned(), line[start..end].to_owned(), line[end..].to_owned())
}

/// Latin-1 text back to bytes.
pub fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect()
}

/// Splits at a character that stands outside of quoted strings.
pub fn split_outside_quotes(text: &str, at: char) -> Vec<String> {
    let (mut pieces, mut quoted, mut escaped) = (vec![String::new()], false, false);
    for c in text.chars() {
        match c {
            _ if c == at && !quoted => pieces.push(String::new()),
            _ => pieces.last_mut().expect("never empty").push(c),
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
    }
    pieces
}

/// The Via line with `received` and, where it is there or forced, `rport` in its first via-parm (RFC 3581 §4).
pub fn stamped(line: &[u8], source: SocketAddr, force: bool) -> Vec<u8> {
    let (name, value, line_end) = parts(line);
    let mut parms = split_outside_quotes(&value, ',');
    let mut params = split_outside_quotes(&parms[0], ';');
    let (received, rport) = (format!("received={}", source.ip()), format!("rport={}", source.port()));
    let (mut has_received, mut has_rport) = (false, false);
    for param in params.iter_mut().skip(1) {
        let core = param.trim().to_owned();
        let with = match core.split('=').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "received" => {
                has_received = true;
                &received
            }
            "rport" => {
                has_rport = true;
                &rport
            }
            _ => continue,
        };
        *param = param.replacen(&core, with, 1);
    }
    let last = params.last_mut().expect("never empty");
    let blanks = last[last.trim_end().len()..].to_owned();
    last.truncate(last.trim_end().len());
    if !has_received {
        *last += &format!(";{received}");
    }
    if force && !has_rport {
        *last += &format!(";{rport}");
    }
    *last += &blanks;
    parms[0] = params.join(";");
    bytes_of(&format!("{name}{}{line_end}", parms.join(",")))
}

/// The line with its value changed.
pub fn with_value(line: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    let (name, value, line_end) = parts(line);
    bytes_of(&format!("{name}{}{line_end}", change(&value)))
}

/// The value of the first header of a name in a text with canonical spelling.
pub fn header<'a>(text: &'a str, name: &str) -> &'a str {
    headers(text, name).next().unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// The values of all headers of a name, line by line.
pub fn headers<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    text.trim_start()
        .split("\r\n")
        .take_while(|line| !line.is_empty())
        .filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A parameter of a header value.
pub fn param<'a>(value: &'a str, name: &str) -> &'a str {
    value
        .split([';', '>'])
        .find_map(|param| param.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// The user part of `<sip:user@...>`.
pub fn user(uri: &str) -> &str {
    uri.trim_start_matches('<').trim_start_matches("sip:").split('@').next().unwrap_or_default()
}
