//! What checks ask: `option httpchk`, `option tcp-check`, and the rules of both.

use super::Fate;
use super::gather::{translated_but, without_equal};
use super::lines::Line;

/// What checks ask: as there, the last `option` says which rules count.
#[derive(Clone, Debug, Default)]
pub struct Asks {
    pub is_http: bool,
    pub http: Rules<Request>,
    /// What `tcp-check` sends or expects is SIP.
    pub options: Rules<bool>,
}

/// A section that has some of its own takes none of its `defaults`.
#[derive(Clone, Debug, Default)]
pub struct Rules<T> {
    pub said: T,
    are_of_defaults: bool,
}

impl<T: Default> Rules<T> {
    fn own(&mut self) -> &mut T {
        if std::mem::take(&mut self.are_of_defaults) {
            self.said = T::default();
        }
        &mut self.said
    }
}

/// Without a word it is "OPTIONS /".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: Option<String>,
    pub path: Option<String>,
    pub host: Option<String>,
    pub status: Option<String>,
    pub text: Option<String>,
}

impl Asks {
    /// For a section that has these `defaults`.
    pub fn inherited(mut self) -> Self {
        (self.http.are_of_defaults, self.options.are_of_defaults) = (true, true);
        self
    }

    /// `option httpchk [METHOD] [URI] [VERSION, and headers behind it]`
    pub fn httpchk(&mut self, line: &Line) -> Fate {
        self.is_http = true;
        let http = self.http.own();
        match line.words.len() {
            0..=2 => {}
            3 => http.path = Some(line.word(2).to_owned()),
            _ => {
                http.method = Some(line.word(2).to_owned());
                http.path = Some(line.word(3).to_owned());
            }
        }
        let behind = line.words.get(4..).unwrap_or_default().join(" ");
        let headers = behind.split(['\r', '\n']).skip(1).filter(|header| !header.is_empty());
        let mut unknown = Vec::new();
        for header in headers {
            match header.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("host") => {
                    http.host = Some(value.trim().to_owned());
                }
                _ => unknown.push(header.to_owned()),
            }
        }
        translated_but(without_equal(&unknown).into_iter())
    }

    /// `option tcp-check`, and options of checks that only connect here.
    pub fn connects(&mut self) {
        self.is_http = false;
        self.options.own();
    }

    /// `http-check`, `tcp-check`
    pub fn rule(&mut self, line: &Line) -> Fate {
        let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["http-check", "expect", what @ ("status" | "string"), wanted] => {
                let http = self.http.own();
                let place = if *what == "status" { &mut http.status } else { &mut http.text };
                if place.is_some() {
                    return Fate::ByHand(format!("one `expect` of a {what} counts here, and it was the first"));
                }
                *place = Some((*wanted).to_owned());
            }
            ["http-check", "send", rest @ ..] => {
                let unknown = self.http.own().send(rest);
                return translated_but(without_equal(&unknown).into_iter());
            }
            ["http-check" | "tcp-check", "connect"] => {}
            ["http-check" | "tcp-check", "connect", rest @ ..] => {
                return Fate::ByHand(format!("checks go where calls go: `{}` has no equal here", rest.join(" ")));
            }
            ["tcp-check", "send" | "expect" | "send-binary", ..] if line.text.contains("OPTIONS") => {
                *self.options.own() = true;
            }
            ["tcp-check", "expect", ..] if line.text.contains("SIP/2.0") => *self.options.own() = true,
            _ => {
                return Fate::ByHand(
                    "checks ask with OPTIONS, with HTTP, or connect: `check` in docs/configuration.md".to_owned(),
                );
            }
        }
        Fate::Translated
    }
}

impl Request {
    /// What stands behind `http-check send`; returns what nobody knows. `host` is the one header that is ours to write.
    fn send(&mut self, words: &[&str]) -> Vec<String> {
        let (mut unknown, mut words) = (Vec::new(), words.iter());
        while let Some(word) = words.next() {
            let mut next = || words.next().map_or("", |word| *word).to_owned();
            match *word {
                "meth" => self.method = Some(next()),
                "uri" => self.path = Some(next()),
                "hdr" => match (next(), next()) {
                    (name, host) if name.eq_ignore_ascii_case("host") => self.host = Some(host),
                    (name, value) => unknown.push(format!("hdr {name} {value}")),
                },
                // It is 1.1, whatever is asked for.
                "ver" | "comment" => drop(next()),
                other => unknown.push(format!("{other} {}", next())),
            }
        }
        unknown
    }
}
