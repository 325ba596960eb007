//! Lines and words of haproxy.cfg: quotes, escapes and comments as its configuration manual has them (chapter 2).

/// Words that begin a section.
const SECTIONS: &[&str] = &[
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "userlist",
    "resolvers",
    "mailers",
    "program",
    "cache",
    "ring",
    "http-errors",
    "log-forward",
    "fcgi-app",
    "crt-list",
];

/// A line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counts from 1 on.
    pub number: usize,
    pub text: String,
    pub words: Vec<String>,
}

impl Line {
    pub fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    /// What stands behind a word of it.
    pub fn after(&self, word: &str) -> Option<&str> {
        let at = self.words.iter().position(|other| other == word)?;
        self.words.get(at + 1).map(String::as_str)
    }

    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|other| other == word)
    }
}

/// A section, its first line apart. What stands before every section is one without a kind.
#[derive(Clone, Debug)]
pub struct Section {
    pub head: Line,
    pub lines: Vec<Line>,
}

impl Section {
    pub fn kind(&self) -> &str {
        self.head.word(0)
    }
}

pub fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for (text, number) in text.lines().zip(1..) {
        let line = Line { number, text: text.trim().to_owned(), words: words(text) };
        match line.words.first() {
            None => {}
            Some(word) if SECTIONS.contains(&word.as_str()) => sections.push(Section { head: line, lines: Vec::new() }),
            Some(_) => match sections.last_mut() {
                Some(section) => section.lines.push(line),
                None => sections.push(Section { head: line, lines: Vec::new() }),
            },
        }
    }
    sections
}

/// The words of a line.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('#', None) => break,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next().map(escaped)),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What a character behind `\` is.
fn escaped(c: char) -> char {
    match c {
        'r' => '\r',
        'n' => '\n',
        't' => '\t',
        other => other,
    }
}

/// A time in milliseconds, which a number alone is.
pub fn millis(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let times = match &text[digits..] {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(times).filter(|millis| *millis > 0)
}

/// A time in our words: a number alone is milliseconds there.
pub fn duration(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    match &text[digits..] {
        "us" => Some(format!("{}ms", number.div_ceil(1000))),
        "" | "ms" if number.is_multiple_of(1000) && number > 0 => Some(format!("{}s", number / 1000)),
        "" | "ms" => Some(format!("{number}ms")),
        unit @ ("s" | "m" | "h" | "d") => Some(format!("{number}{unit}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_haproxy_reads_them() {
        for (line, expected) in [
            ("  server a 10.0.0.1:443 check # the first", &["server", "a", "10.0.0.1:443", "check"][..]),
            ("http-check expect string \"all is well\"", &["http-check", "expect", "string", "all is well"]),
            ("http-check expect string all\\ is\\ well", &["http-check", "expect", "string", "all is well"]),
            ("option httpchk GET / HTTP/1.1\\r\\nHost:\\ a", &["option", "httpchk", "GET", "/", "HTTP/1.1\r\nHost: a"]),
            ("stats realm 'a \\ b'\"c\"", &["stats", "realm", "a \\ bc"]),
            ("   # nothing", &[]),
            ("a \"\" b", &["a", "", "b"]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn sections_have_their_lines() {
        let found = sections("global\n  daemon\n\nfrontend a\n# no\n  bind :80\nbackend b\n");
        let found: Vec<_> = found.iter().map(|of| (of.kind().to_owned(), of.head.number, of.lines.len())).collect();
        assert_eq!(found, [("global".into(), 1, 1), ("frontend".into(), 4, 1), ("backend".into(), 7, 0)]);
    }
}
