//! What a URL below `/stats` asks for. HAProxy compares the beginning, and finds words anywhere behind it: `/stats;csv`,
//! `/stats/;csv`, `/stats?a;csv` and `/statistics;csv` ask for the same, and tools write each of them.

/// Where HAProxy's stats page may be asked for: ours, its own default, and those that tools come with.
const BEGINNINGS: [&str; 4] = ["/stats", "/haproxy?stats", "/haproxy-status", "/;"];

/// HAProxy's `STAT_SCOPE_TXT_MAXLEN`.
const LONGEST_SCOPE: usize = 20;

/// How the statistics are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Html,
    Csv,
    Typed,
    Json,
    JsonSchema,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub format: Format,
    /// Only what is up.
    pub up: bool,
    /// Without what is in maintenance.
    pub no_maint: bool,
    pub no_refresh: bool,
    /// What came of a form: the page says it.
    pub status: Option<&'static str>,
    /// Only proxies whose name has this in it; letters, digits, `_`, `:`, `.`, `-`.
    pub scope: String,
}

/// What can come of a form, in HAProxy's words.
pub const STATUSES: [&str; 8] = ["DENY", "DONE", "ERRP", "EXCD", "NONE", "PART", "UNKN", "IVAL"];

impl Options {
    /// Those of a path with its query; `None` where it is not the stats page's.
    pub fn of(uri: &str) -> Option<Self> {
        let beginning = BEGINNINGS.iter().find(|beginning| uri.starts_with(**beginning))?;
        // The sign that begins an option may be the last one compared.
        Some(Self::parse(&uri[beginning.trim_end_matches(';').len()..]))
    }

    /// Those of what stands behind the beginning. Of several formats the last in this list counts, wherever they stand.
    fn parse(rest: &str) -> Self {
        let has = |word: &str| rest.contains(word);
        let formats = [
            (";csv", Format::Csv),
            (";typed", Format::Typed),
            (";json", Format::Json),
            (";json-schema", Format::JsonSchema),
        ];
        let format = formats.iter().rev().find(|(word, _)| has(word)).map_or(Format::Html, |(_, format)| *format);
        let after = |word: &str| rest.split_once(word).map(|(_, after)| after);
        // HAProxy compares four letters, whatever follows.
        let status = after(";st=").filter(|code| code.len() >= 4);
        let status = status.map(|code| STATUSES.into_iter().find(|known| code.starts_with(known)).unwrap_or("UNKN"));
        let scope = after("scope=").and_then(|scope| scope.split([';', '&', ' ']).next()).unwrap_or_default();
        let scope: String = scope.chars().take(LONGEST_SCOPE).collect();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.' | '-');
        Self {
            format,
            up: has(";up"),
            no_maint: has(";no-maint"),
            no_refresh: has(";norefresh"),
            status,
            scope: if scope.chars().all(plain) { scope } else { String::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// HAProxy's loops, letter by letter (http_handle_stats of 2.6).
    fn naive(uri: &[u8], begins: usize) -> (Format, [bool; 3], String) {
        let find = |word: &[u8], most: usize| {
            (begins..uri.len()).find(|at| at + most <= uri.len() && uri[*at..].starts_with(word))
        };
        let has = |word: &[u8]| find(word, word.len()).is_some();
        let mut format = Format::Html;
        for (word, means) in [
            (&b";csv"[..], Format::Csv),
            (b";typed", Format::Typed),
            (b";json", Format::Json),
            (b";json-schema", Format::JsonSchema),
        ] {
            if has(word) {
                format = means;
            }
        }
        let mut scope = Vec::new();
        // The loop ends eight octets before the end.
        if let Some(at) = find(b"scope=", 8) {
            for letter in &uri[at + 6..] {
                if b";& ".contains(letter) {
                    break;
                }
                scope.push(*letter);
            }
            scope.truncate(20);
            if scope.iter().any(|b| !b.is_ascii_alphanumeric() && !b"_:.-".contains(b)) {
                scope.clear();
            }
        }
        (format, [has(b";up"), has(b";no-maint"), has(b";norefresh")], String::from_utf8(scope).unwrap())
    }

    fn part() -> impl Strategy<Value = String> {
        let words = [
            ";csv",
            ";typed",
            ";json",
            ";json-schema",
            ";up",
            ";no-maint",
            ";norefresh",
            ";",
            "?",
            "/",
            "&",
            "scope=",
            "?scope=pbx",
            ";scope=a_b:c.d-e",
            "scope=%3C",
            "XYZ",
            "csv",
            "-schema",
            ";st=DONE",
            "aaaaaaaaaaaaaaaaaaaaaaaa",
        ];
        proptest::sample::select(words.to_vec()).prop_map(str::to_owned)
    }

    proptest! {
        #[test]
        fn options_are_found_where_haproxy_finds_them(parts in proptest::collection::vec(part(), 0..6)) {
            let uri = format!("/stats{}", parts.concat());
            let (format, [up, no_maint, no_refresh], mut scope) = naive(uri.as_bytes(), 6);
            let options = Options::of(&uri).unwrap();
            prop_assert_eq!(options.format, format);
            prop_assert_eq!([options.up, options.no_maint, options.no_refresh], [up, no_maint, no_refresh]);
            // HAProxy overlooks a scope of one letter at the very end; we do not.
            if scope.is_empty() && options.scope.len() == 1 && uri.ends_with(&format!("scope={}", options.scope)) {
                scope.clone_from(&options.scope);
            }
            prop_assert_eq!(options.scope, scope);
        }
    }

    #[test]
    fn all_the_places_that_tools_ask_at() {
        for uri in [
            "/stats;csv",
            "/stats/;csv",
            "/stats?;csv",
            "/stats?stats;csv",
            "/statsXYZ;csv;norefresh",
            "/haproxy?stats;csv",
            "/haproxy-status;csv",
            "/;csv;norefresh",
        ] {
            assert_eq!(Options::of(uri).map(|options| options.format), Some(Format::Csv), "{uri}");
        }
        for uri in ["/", "/stat", "/csv", "/haproxy", "/api/v1/stats;csv"] {
            assert_eq!(Options::of(uri), None, "{uri}");
        }
        let status = |uri| Options::of(uri).unwrap().status;
        assert_eq!(
            ["/stats;st=PART", "/stats;st=PARTY", "/stats;st=<b>x", "/stats;st=", "/stats"].map(status),
            [Some("PART"), Some("PART"), Some("UNKN"), None, None]
        );
    }
}
