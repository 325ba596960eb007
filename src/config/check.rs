//! How servers are asked whether they live.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::read::{Read, Section};

const THRESHOLD: RangeInclusive<u64> = 1..=100;
const STATUS: RangeInclusive<u64> = 200..=699;

/// What HAProxy takes for good where nothing is written.
const GOOD: StatusRange = StatusRange(200, 399);
/// Of a path, a host, a text that must be in the answer.
const LONGEST: usize = 1000;

/// What a check asks a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// OPTIONS, as somebody who speaks SIP.
    Options,
    /// Whether it lets a connection in; with TLS where its address is tls://.
    Tcp,
    /// A request of HTTP/1.1; over TLS where its address is tls://.
    Http(HttpCheck),
}

/// What is asked, and what must be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    pub method: String,
    pub path: String,
    /// `None`: the server's address.
    pub host: Option<String>,
    /// Statuses of which the answer must have one.
    pub expect: Vec<StatusRange>,
    /// A text that the answer must hold.
    pub body: Option<String>,
}

/// From one status to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange(u16, u16);

impl HttpCheck {
    pub fn expects(&self, status: u16) -> bool {
        self.expect.iter().any(|StatusRange(first, last)| (*first..=*last).contains(&status))
    }
}

/// How a server's health is asked for, in the server's own transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub kind: CheckKind,
    pub interval: Duration,
    pub timeout: Duration,
    pub fast_interval: Duration,
    pub rise: u32,
    pub fall: u32,
    pub max_forwards: u8,
    /// Final statuses that mean "not alive".
    pub down_codes: Vec<u16>,
    /// Final statuses that mean "alive, but no new calls".
    pub resting_codes: Vec<u16>,
}

impl Read for StatusRange {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "a status or some, such as \"200\" or \"200-299\"";
        let text = value.as_str().ok_or(wanted)?;
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| text.parse().ok().filter(|status| (100..=599).contains(status));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first, last)),
            _ => Err(wanted.into()),
        }
    }
}

/// Checks are on unless they are turned off: a balancer that does not know who is alive loses calls.
pub fn check(section: Option<Section<'_, '_>>) -> Option<Check> {
    let default = Check {
        kind: CheckKind::Options,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        fast_interval: Duration::from_secs(1),
        rise: 2,
        fall: 5,
        max_forwards: 70,
        // Any other final answer is a sign of life: 501 and 505 were at least read by somebody.
        down_codes: std::iter::once(408).chain((500..600).filter(|code| ![501, 503, 505].contains(code))).collect(),
        resting_codes: vec![503],
    };
    let Some(section) = section else { return Some(default) };
    let kind = kind(&section);
    let interval = section.or("interval", default.interval);
    let (down_codes, resting_codes) = codes(&section, &default);
    let check = Check {
        kind: kind.clone().unwrap_or(CheckKind::Options),
        interval,
        timeout: section.or("timeout", default.timeout),
        fast_interval: section.or("fast_interval", default.fast_interval.min(interval)),
        rise: section.number("rise", u64::from(default.rise), THRESHOLD) as u32,
        fall: section.number("fall", u64::from(default.fall), THRESHOLD) as u32,
        max_forwards: section.number("max_forwards", u64::from(default.max_forwards), 0..=255) as u8,
        down_codes,
        resting_codes,
    };
    if check.interval < Duration::from_millis(100) || check.fast_interval < Duration::from_millis(100) {
        section.fault(
            section.at(),
            "checks more often than every 100 ms are an attack on the server",
            "write a longer interval",
        );
    }
    if let Some(fast) = section.optional::<Duration>("fast_interval").filter(|fast| fast.value > check.interval) {
        section.fault(
            fast.at,
            "`fast_interval` is longer than `interval`",
            "a server that changes its state is looked at more often, not less: write a shorter one",
        );
    }
    if check.timeout.is_zero() {
        section.fault(section.at(), "a check's timeout cannot be nothing", "write `timeout = \"5s\"`");
    }
    section.finish(&[]);
    kind.is_some().then_some(check)
}

/// Which answers make a server down, and which let it rest. What is written in one list is taken out of the other's default.
fn codes(section: &Section<'_, '_>, default: &Check) -> (Vec<u16>, Vec<u16>) {
    let [down, resting] = ["down_codes", "resting_codes"].map(|key| section.place(key));
    let mut down_codes = statuses(section, "down_codes", default.down_codes.clone(), STATUS);
    let mut resting_codes = statuses(section, "resting_codes", default.resting_codes.clone(), STATUS);
    match (down, resting) {
        (Some(_), None) => resting_codes.retain(|code| !down_codes.contains(code)),
        (None, Some(_)) => down_codes.retain(|code| !resting_codes.contains(code)),
        (Some(_), Some(at)) => {
            for code in resting_codes.iter().filter(|code| down_codes.contains(code)) {
                let what = format!("{code} is in `down_codes` and in `resting_codes`");
                section.fault(at, what, "a server that answers with it is down, or it rests: write it once");
            }
        }
        (None, None) => {}
    }
    (down_codes, resting_codes)
}

/// Statuses that are written; the default where the key is not.
pub fn statuses(
    section: &Section<'_, '_>,
    key: &'static str,
    default: Vec<u16>,
    range: RangeInclusive<u64>,
) -> Vec<u16> {
    let written = section.list::<u64>(key);
    if section.place(key).is_none() {
        return default;
    }
    for status in written.iter().filter(|status| !range.contains(&status.value)) {
        let (low, high) = (range.start(), range.end());
        let what = if status.value < *STATUS.start() { "is no final status" } else { "cannot stand here" };
        section.fault(status.at, format!("{} {what}", status.value), format!("write statuses from {low} to {high}"));
    }
    written.iter().filter(|status| range.contains(&status.value)).map(|status| status.value as u16).collect()
}

/// What is asked; `None`: nothing. Keys of another kind are faults.
fn kind(section: &Section<'_, '_>) -> Option<CheckKind> {
    const OF_OPTIONS: &[&str] = &["max_forwards", "down_codes", "resting_codes"];
    const OF_HTTP: &[&str] = &["path", "host", "method", "expect", "body"];
    let kind =
        section.word("type", "options", &[("options", "options"), ("tcp", "tcp"), ("http", "http"), ("none", "none")]);
    let foreign =
        [(OF_OPTIONS, "options"), (OF_HTTP, "http")].into_iter().filter(|(_, of)| *of != kind && kind != "none");
    for (key, of) in foreign.flat_map(|(keys, of)| keys.iter().map(move |key| (*key, of))) {
        if let Some(at) = section.place(key) {
            let what = format!("`{key}` is about checks of type \"{of}\", and this one is \"{kind}\"");
            section.fault(at, what, "remove it, or write another `type`");
        }
    }
    let http = http(section);
    match kind {
        "options" => Some(CheckKind::Options),
        "tcp" => Some(CheckKind::Tcp),
        "http" => Some(CheckKind::Http(http)),
        _ => None,
    }
}

fn http(section: &Section<'_, '_>) -> HttpCheck {
    // What stands in the head of a request must not end it.
    let plain = |key, wanted: &str, good: &dyn Fn(&str) -> bool| {
        let written = section.optional::<String>(key)?;
        if written.value.len() > LONGEST || !good(&written.value) {
            section.fault(written.at, format!("`{key}` cannot be {:?}", written.value), format!("write {wanted}"));
        }
        Some(written.value)
    };
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let path = plain("path", "a path from / on", &|path| path.starts_with('/') && visible(path));
    let host = plain("host", "a host name", &|host| !host.is_empty() && visible(host));
    let method = plain("method", "a method such as \"GET\"", &|method| {
        !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase())
    });
    let body = plain("body", "a text that the answer must hold", &|body| !body.is_empty());
    let expect: Vec<_> = section.list("expect").into_iter().map(|range| range.value).collect();
    HttpCheck {
        method: method.unwrap_or_else(|| "GET".to_owned()),
        path: path.unwrap_or_else(|| "/".to_owned()),
        host,
        expect: if expect.is_empty() { vec![GOOD] } else { expect },
        body,
    }
}
