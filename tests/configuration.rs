//! docs/configuration.md says what is true: every key is there, every default is the default, every limit the limit, and
//! every example is accepted.

use std::collections::{BTreeMap, BTreeSet};

use trunkline::config::Config;

const PAGE: &str = include_str!("../docs/configuration.md");

/// A whole configuration; a key of a section is put in the place of its mark.
const BASE: &str = r#"
[global]
#global#
[admin]
#admin#
[[admin.users]]
name = "grace"
password_hash = "$argon2id$v=19$m=19456,t=2,p=1$eIyjyZD2/ybQ5VcO2KkLmw$9PGnQxH1g2h0J1p7k4kE1oOR7BlJ6mHN3AStn2HQ1nE"
#admin.users#
[admin.compat]
#admin.compat#
[call_log]
#call_log#
[hep]
collector = "192.0.2.9:9060"
#hep#
[dns]
#dns#
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "tls://203.0.113.10:5061"]
backend = "pbx"
#frontend#
[frontend.limits]
#frontend.limits#
[frontend.limits.ban]
#frontend.limits.ban#
[frontend.tls]
certificates = "/etc/trunkline/certs"
#frontend.tls#
[[frontend.route]]
methods = ["REGISTER"]
backend = "pbx"
#frontend.route#
[[backend]]
name = "pbx"
#backend#
[backend.pin]
#backend.pin#
[backend.stick]
on = "source"
#backend.stick#
[backend.check]
#backend.check#
[backend.suspect]
#backend.suspect#
[backend.breaker]
#backend.breaker#
[backend.tls]
#backend.tls#
[backend.timeout]
#backend.timeout#
[[backend.region]]
name = "lagos"
#backend.region#
[[backend.server]]
name = "lagos-1"
region = "lagos"
address = "udp://10.0.10.11:5060"
#backend.server#
[[backend.region]]
name = "abuja"
[[backend.server]]
name = "abuja-1"
region = "abuja"
address = "tls://10.1.10.11:5061"
"#;

/// The same for the keys of mode `relay`.
const RELAY: &str = r#"
[[frontend]]
name = "rtp"
mode = "relay"
bind = "udp://203.0.113.10:10000-10199"
backend = "media"
#frontend#
[frontend.limits]
#frontend.limits#
[[backend]]
name = "media"
[[backend.server]]
name = "media-1"
address = "udp://10.0.10.21"
ports = "10000-10099"
#backend.server#
[[backend.server]]
name = "media-2"
address = "udp://10.0.10.22"
ports = "10100-10199"
"#;

/// The same for those of a relay of connections.
const RELAY_OF_CONNECTIONS: &str = r#"
[[frontend]]
name = "api"
mode = "relay"
bind = "tcp://203.0.113.10:8443"
backend = "api"
[[backend]]
name = "api"
#backend#
[backend.check]
#backend.check#
[backend.timeout]
#backend.timeout#
[[backend.server]]
name = "api-1"
address = "tcp://10.0.10.31:8443"
"#;

/// The configuration that a key of a section belongs to.
fn base(section: &str, key: &str) -> &'static str {
    match (section, key) {
        (_, "idle" | "max_flows" | "ports") => RELAY,
        (_, "send_proxy" | "client") | ("backend.check", "path" | "host" | "method" | "expect" | "body") => {
            RELAY_OF_CONNECTIONS
        }
        _ => BASE,
    }
}

/// The base with lines of one section, which take the place of what it says there about the same keys.
fn with(section: &str, lines: &[&str]) -> String {
    let mark = format!("#{section}#");
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let keys: BTreeSet<_> = lines.iter().map(|line| key(line)).collect();
    let base = lines.first().map_or(BASE, |line| base(section, &key(line)));
    let (before, after) = base.split_once(&mark).unwrap_or_else(|| panic!("the base has no {mark}"));
    let head = before.rfind("\n[").map_or(0, |at| at + 1);
    let kept: Vec<_> = before[head..].lines().filter(|line| !keys.contains(&key(line))).collect();
    format!("{}{}\n{}\n{after}", &before[..head], kept.join("\n"), lines.join("\n"))
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text).map_err(|faults| faults.render("page", text).to_string())
}

/// One line of a table.
struct Row<'a> {
    section: &'a str,
    key: &'a str,
    default: &'a str,
    limits: &'a str,
    example: &'a str,
}

impl Row<'_> {
    fn line(&self, value: &str) -> String {
        format!("{} = {value}", self.key)
    }
}

/// What stands between backticks, if nothing else does.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|code| !code.contains('`'))
}

fn rows() -> Vec<Row<'static>> {
    let (mut rows, mut section) = (Vec::new(), "");
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim_matches(['[', ']']);
        }
        let Some(cells) = line.strip_prefix("| `").and_then(|line| line.strip_suffix('|')) else { continue };
        let cells: Vec<_> = cells.split(" |").map(str::trim).collect();
        let [key, _, default, limits, example] = cells[..] else { panic!("five cells: {line}") };
        let (key, example) = (key.trim_end_matches('`'), code(example).unwrap_or_else(|| panic!("an example: {line}")));
        rows.push(Row { section, key, default, limits, example });
    }
    rows
}

/// The keys that the program knows in a section: it says so when it meets one that it does not know.
fn known(section: &str) -> BTreeSet<String> {
    let fault = parse(&with(section, &["qqqqqqqqqqqqqqqqqqqqqqqqqqqq = 1"])).unwrap_err();
    let (_, known) = fault.split_once(" knows ").unwrap_or_else(|| panic!("no list of keys: {fault}"));
    known.lines().next().unwrap_or_default().split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_stands_on_the_page_and_no_other() {
    let mut written = BTreeMap::<&str, BTreeSet<String>>::new();
    for row in rows() {
        assert!(written.entry(row.section).or_default().insert(row.key.to_owned()), "{} twice", row.key);
    }
    let sections: Vec<_> = BASE.lines().filter_map(|line| line.strip_prefix('#')?.strip_suffix('#')).collect();
    assert_eq!(written.keys().copied().collect::<BTreeSet<_>>(), sections.iter().copied().collect());
    for section in &sections {
        let inner = |key: &String| !sections.contains(&format!("{section}.{key}").as_str());
        let known: BTreeSet<_> = known(section).into_iter().filter(inner).collect();
        assert_eq!(written[section], known, "[{section}]");
    }
}

#[test]
fn every_example_is_accepted() {
    for row in rows() {
        let lines: Vec<_> = row.example.split("; ").collect();
        assert!(lines.iter().any(|line| line.starts_with(&format!("{} = ", row.key))), "{}: {}", row.key, row.example);
        let Err(fault) = parse(&with(row.section, &lines)) else { continue };
        // Whoever is called otherwise is missed where the base names it.
        assert!(row.key == "name" && fault.contains("there is no "), "[{}] {}: {fault}", row.section, row.example);
    }
}

#[test]
fn every_default_is_the_default() {
    let plain = |row: &Row<'_>| parse(base(row.section, row.key)).unwrap();
    let mut compared = 0;
    for row in rows() {
        let Some(default) = code(row.default) else { continue };
        let written = parse(&with(row.section, &[&row.line(default)]));
        assert_eq!(written, Ok(plain(&row)), "[{}] {} = {default}", row.section, row.key);
        compared += 1;
    }
    assert!(compared > 15, "{compared} defaults were compared");
}

#[test]
fn every_limit_is_the_limit() {
    let mut compared = 0;
    for row in rows() {
        let number = |cell: &str| code(cell)?.parse::<u64>().ok();
        let Some((low, high)) = row.limits.split_once('–').and_then(|(low, high)| Some((number(low)?, number(high)?)))
        else {
            continue;
        };
        let others: Vec<_> = row.example.split("; ").filter(|line| !line.starts_with(row.key)).collect();
        let try_value = |value: u64| {
            let line = row.line(&value.to_string());
            parse(&with(row.section, &[&others[..], &[&line]].concat())).map(|_| ())
        };
        for good in [low, high] {
            assert_eq!(try_value(good), Ok(()), "[{}] {} = {good}", row.section, row.key);
        }
        for bad in [low.checked_sub(1), Some(high + 1)].into_iter().flatten() {
            assert!(try_value(bad).is_err(), "[{}] {} = {bad} is accepted", row.section, row.key);
        }
        compared += 1;
    }
    assert!(compared > 8, "{compared} limits were tried");
}
