//! The little grammar that header values share, as plainly as it can be said.

/// Splits at commas that stand outside of quoted strings and angle brackets.
pub fn comma_separated(text: &str) -> Vec<String> {
    let (mut values, mut value, mut angle, mut rest) = (Vec::new(), String::new(), false, text);
    while let Some(c) = rest.chars().next() {
        let piece = match c {
            '"' if !angle => quoted(rest).unwrap_or(rest),
            _ => &rest[..c.len_utf8()],
        };
        rest = &rest[piece.len()..];
        angle = (angle || piece == "<") && piece != ">";
        match piece {
            "," if !angle => values.push(std::mem::take(&mut value)),
            _ => value.push_str(piece),
        }
    }
    values.push(value);
    values.iter().map(|v| v.trim_matches([' ', '\t']).to_owned()).filter(|v| !v.is_empty()).collect()
}

/// The quoted string at the front, with its quotes.
pub fn quoted(text: &str) -> Option<&str> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some(&text[..=at]),
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    None
}

pub fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-.!%*_+`'~".contains(c)
}

/// Digits only, at most 2^32 - 1.
pub fn number(text: &str) -> Option<u32> {
    let significant = text.trim_start_matches('0');
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && significant.len() <= 10;
    match significant {
        _ if !digits => None,
        "" => Some(0),
        _ => significant.parse().ok(),
    }
}

/// What each semicolon outside of quotes begins, whatever else stands there.
pub fn params_of(text: &str) -> Vec<(String, Option<String>)> {
    let (mut params, mut rest) = (Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        if c == ';' {
            params.extend(Cursor::new(rest).params().into_iter().next());
        }
        let len = if c == '"' { quoted(rest).map_or(rest.len(), str::len) } else { c.len_utf8() };
        rest = &rest[len..];
    }
    params
}

/// The URI of a name-addr or addr-spec, and the text of its parameters, whose quotes are closed.
pub fn address(value: &str) -> Option<(String, String)> {
    plain_address(value).filter(|(_, params)| closes_its_quotes(params))
}

pub fn closes_its_quotes(text: &str) -> bool {
    match text.split_once('"') {
        Some((before, _)) => match quoted(&text[before.len()..]) {
            Some(string) => closes_its_quotes(&text[before.len() + string.len()..]),
            None => false,
        },
        None => true,
    }
}

pub fn plain_address(value: &str) -> Option<(String, String)> {
    let rest = if value.starts_with('"') { &value[quoted(value)?.len()..] } else { value };
    let trim = |text: &str| text.trim_matches([' ', '\t']).to_owned();
    match rest.split_once('<') {
        Some((_, behind)) => behind.split_once('>').map(|(uri, params)| (trim(uri), params.to_owned())),
        None => {
            let at = rest.find(';').unwrap_or(rest.len());
            Some((trim(&rest[..at]), rest[at..].to_owned()))
        }
    }
}

/// A place in an unfolded text.
#[derive(Clone)]
pub struct Cursor<'a> {
    pub rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub fn new(rest: &'a str) -> Self {
        Self { rest }
    }

    pub fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken.to_owned()
    }

    pub fn at_blank(&self) -> bool {
        self.rest.starts_with([' ', '\t'])
    }

    pub fn blanks(&mut self) -> &mut Self {
        self.take_while(|c| c == ' ' || c == '\t');
        self
    }

    pub fn eat(&mut self, wanted: char) -> Option<&mut Self> {
        self.rest = self.rest.strip_prefix(wanted)?;
        Some(self)
    }

    pub fn token(&mut self) -> String {
        self.take_while(is_token)
    }

    /// Up to what structures a value: a separator, a quote, a blank or a control character.
    pub fn up_to_mark(&mut self) -> String {
        self.take_while(|c| c > ' ' && !";,=\"".contains(c))
    }

    /// A name, an IPv4 address, or something in brackets.
    pub fn host(&mut self) -> Option<String> {
        let text = self.clone().up_to_mark();
        let end = match text.starts_with('[') {
            true => text.find(']')? + 1,
            false => text.find(':').unwrap_or(text.len()),
        };
        let (host, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(host.to_owned()).filter(|host| !host.is_empty())
    }

    /// The `;name` and `;name=value` from here on; stops in front of whatever is none.
    pub fn params(&mut self) -> Vec<(String, Option<String>)> {
        let mut params = Vec::new();
        loop {
            let mut ahead = self.clone();
            if ahead.blanks().eat(';').is_none() {
                return params;
            }
            let name = ahead.blanks().up_to_mark();
            *self = ahead.clone();
            if ahead.blanks().eat('=').is_none() {
                params.push((name, None));
                continue;
            }
            ahead.blanks();
            let value = match ahead.rest.starts_with('"') {
                true => match quoted(ahead.rest) {
                    Some(string) => {
                        ahead.rest = &ahead.rest[string.len()..];
                        string.to_owned()
                    }
                    None => return params,
                },
                // A value may hold `=`, as base64 does.
                false => ahead.take_while(|c| c > ' ' && !";,\"".contains(c)),
            };
            *self = ahead;
            params.push((name, Some(value)));
        }
    }
}
