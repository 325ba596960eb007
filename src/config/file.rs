//! The file as written: every key, its default and its limit with the reason. Names are still text here;
//! [`super::resolve`] ties them together.

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeTable;

use super::admin::{self, Http};
use super::check::{Check, check, statuses};
use super::dns::{Dns, dns};
use super::fault::{Faults, holds_secret};
use super::follow::{self, Follow};
use super::limits::{Limits, judge_handshakes, limits};
use super::read::{At, Section};
use super::streams::{self, Connections, Timeout};
use super::tls::{self, BackendTls, FrontendTls};
use super::value::{Dscp, Percent, Rate, ServerAddress, Source};
use super::{Bind, Breaker, ForceRport, Mode, Path, Pin, Ports, Stick, StickOn, Suspect, WhenAllDown, relay};
use crate::balance::Algorithm;
use crate::sip::proxy_protocol::Version;

/// More workers than any machine that balances SIP has cores; each costs sockets and buffers.
const WORKERS: RangeInclusive<u64> = 0..=256;
/// HAProxy's range, which its tools expect.
const SERVER_WEIGHT: RangeInclusive<u64> = 0..=256;
const REGION_WEIGHT: RangeInclusive<u64> = 0..=1000;
/// Calls in one pin table; 16 million are 256 MB.
const PIN_SIZE: RangeInclusive<u64> = 1_000..=16_000_000;
const STICK_SIZE: RangeInclusive<u64> = 1_000..=16_000_000;
/// Of one server; 0 is no limit. No more than the largest pin table holds.
const MAX_CALLS: RangeInclusive<u64> = 0..=16_000_000;
/// A server that needs longer than an hour to warm up has another ailment.
const LONGEST_SLOW_START: Duration = Duration::from_secs(60 * 60);
/// A 2xx is nobody's failure.
const FAILURE: RangeInclusive<u64> = 300..=699;
/// The trial calls of a half-open breaker: each has a place of its own that workers look through.
pub const TRIALS: RangeInclusive<u64> = 1..=16;
/// Silence shorter than a retransmission (RFC 3261's T1) is none; longer than a transaction's life, nobody waits for.
const SILENCE: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(32);
/// Below a tenth of a second a breaker would flap faster than it is looked at; above a day it is maintenance.
const OPEN_FOR: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);

const DEFAULT_CLUSTER_KEY_FILE: &str = "/etc/trunkline/cluster.key";
/// Longer than nearly all calls, and each use begins it anew (a re-INVITE of the session timer, RFC 4028).
const DEFAULT_PIN_EXPIRE: Duration = Duration::from_secs(2 * 60 * 60);
const DEFAULT_PIN_SIZE: u64 = 1_000_000;
/// An entry that lives shorter is gone before anybody asks for it; a year is the longest time of all.
const EXPIRE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 60 * 60);
/// HAProxy operators' usual stick-table expiry for SIP; longer than a registration interval.
const DEFAULT_STICK_EXPIRE: Duration = Duration::from_secs(60 * 60);
const DEFAULT_STICK_SIZE: u64 = 100_000;
/// Half of a region must be gone before its callers travel.
const DEFAULT_SPILL_BELOW: Percent = Percent(50);
/// As sticky as possible by default: each IPv6 address is a source of its own.
const DEFAULT_IPV6_PREFIX: u64 = 128;

/// The keys that later versions bring, by section. They are refused with a word that says so.
mod later {
    pub const TOP: &[&str] = &["peers"];
}

/// Where the syntax is broken so many places are told; the first is the one to mend.
const BREAKS: usize = 3;

/// Everything that one file says.
#[derive(Debug, Default)]
pub struct File {
    pub workers: usize,
    pub cluster_key_file: String,
    pub runtime_socket: Option<At<String>>,
    pub state_dir: Option<At<String>>,
    pub http: Option<At<Http>>,
    pub follow: Follow,
    pub dns: Dns,
    pub frontends: Vec<FrontendSection>,
    pub backends: Vec<BackendSection>,
}

#[derive(Debug)]
pub struct FrontendSection {
    pub at: usize,
    pub name: At<String>,
    pub mode: Mode,
    pub binds: Vec<At<Bind>>,
    /// One of them could not be read, which was told: what is missing now may be there then.
    pub unread_bind: bool,
    pub advertise: Vec<At<IpAddr>>,
    pub inside: Vec<At<IpAddr>>,
    pub aliases: Vec<At<String>>,
    pub backend: Option<At<String>>,
    pub routes: Vec<RouteSection>,
    pub record_route: bool,
    pub path: Path,
    pub force_rport: ForceRport,
    pub send_to: Vec<IpNet>,
    pub source_header: Option<At<String>>,
    pub dscp: Option<u8>,
    pub limits: Limits,
    pub connections: Connections,
    pub tls: Option<At<FrontendTls>>,
    pub accept_proxy: Vec<IpNet>,
}

#[derive(Debug)]
pub struct RouteSection {
    pub at: usize,
    pub methods: Vec<String>,
    pub clients: Vec<IpNet>,
    pub hosts: Vec<String>,
    pub backend: Option<At<String>>,
}

#[derive(Debug)]
pub struct BackendSection {
    pub at: usize,
    pub name: At<String>,
    pub balance: Algorithm,
    pub pin: Pin,
    pub stick: Option<Stick>,
    pub check: Option<Check>,
    /// Nobody wrote what the check asks.
    pub check_unsaid: bool,
    pub suspect: Suspect,
    pub breaker: Option<Breaker>,
    pub when_all_down: WhenAllDown,
    pub spill_below: u32,
    pub in_dialog_failover: bool,
    pub pass_503: bool,
    pub tls: Option<At<BackendTls>>,
    pub timeout: Option<At<Timeout>>,
    pub send_proxy: Option<At<Version>>,
    pub regions: Vec<RegionSection>,
    pub servers: Vec<ServerSection>,
    /// One of them could not be read, which was told.
    pub unread_server: bool,
}

#[derive(Debug)]
pub struct RegionSection {
    pub name: At<String>,
    pub weight: u32,
    pub clients: Vec<IpNet>,
}

#[derive(Debug)]
pub struct ServerSection {
    pub name: At<String>,
    pub region: Option<At<String>>,
    pub address: At<ServerAddress>,
    pub ports: Option<At<Ports>>,
    pub sources: Vec<At<Source>>,
    pub tls_name: Option<At<String>>,
    pub weight: u32,
    pub max_calls: u32,
    pub max_rate: Option<Rate>,
    pub slow_start: Duration,
    pub backup: bool,
}

impl File {
    /// Reads the text as far as it can be read, and notes everything that cannot.
    pub fn parse(text: &str) -> (Self, Faults) {
        let mut faults = Faults::default();
        let (table, errors) = DeTable::parse_recoverable(text);
        // What stands behind a break is read as something else: one missing quote would be two hundred faults.
        let broken = errors.iter().any(|error| error.message() != "duplicate key");
        let most = if broken { BREAKS } else { usize::MAX };
        for error in errors.into_iter().take(most) {
            let at = error.span().map_or(text.len(), |span| span.start);
            match unquoted(text, at).filter(|word| !is_secret(text, word)) {
                Some(word) => faults.push(at, "not TOML: a text without quotes", format!("write `\"{word}\"`")),
                None => faults.push(at, format!("not TOML: {}", error.message()), "see https://toml.io for the syntax"),
            }
        }
        let of_syntax = faults.clone();
        let faults = RefCell::new(faults);
        let top = Section::new(&faults, &table, "the file");
        let mut file = Self { cluster_key_file: DEFAULT_CLUSTER_KEY_FILE.into(), ..Self::default() };
        if let Some(global) = top.section("global", "[global]") {
            file.workers = global.number("workers", 0, WORKERS) as usize;
            file.cluster_key_file = global.or("cluster_key_file", file.cluster_key_file);
            file.runtime_socket = global.optional("runtime_socket");
            file.state_dir = global.optional("state_dir");
            global.finish(&[]);
        }
        file.http = top.section("admin", "[admin]").map(admin::http);
        file.follow = follow::follow(&top);
        file.dns = top.section("dns", "[dns]").map_or_else(Dns::default, dns);
        file.frontends = top.sections("frontend", "[[frontend]]").into_iter().filter_map(frontend).collect();
        file.backends = top.sections("backend", "[[backend]]").into_iter().filter_map(backend).collect();
        top.finish(later::TOP);
        (file, if broken { of_syntax } else { faults.into_inner() })
    }
}

/// Whether a word stands on a line that no message shows.
fn is_secret(text: &str, word: &str) -> bool {
    text.lines().any(|line| line.contains(word) && holds_secret(line))
}

/// The text that stands without quotes where the syntax breaks.
fn unquoted(text: &str, at: usize) -> Option<&str> {
    let line = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    // Where the break is at the sign before it, the value follows.
    let before = text[line..at].rfind(['=', '[', ',']).map(|sign| line + sign + 1);
    let value = text.get(before.unwrap_or(at)..)?.lines().next()?.trim_start_matches(['=', ' ', '\t']);
    let value = value.split([',', ']', '}', '#']).next()?.trim();
    // A number with something behind it: a duration, an address.
    let measured = |value: &str| !value.contains(char::is_whitespace) && value.contains(|c: char| !c.is_ascii_digit());
    let begins = value.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        || value.starts_with(|first: char| first.is_ascii_digit()) && measured(value);
    (before.is_some() && begins && !value.contains(['"', '\'', '='])).then_some(value)
}

fn frontend(section: Section<'_, '_>) -> Option<FrontendSection> {
    let name = section.name("\"sip\"");
    let limits_section = section.section("limits", "[frontend.limits]");
    let binds = section.list("bind");
    let mode = relay::mode(&section, limits_section.as_ref(), &binds);
    let is_relay = mode != Mode::Proxy;
    limits_section.iter().for_each(|limits| judge_handshakes(limits, &binds));
    let connections = match mode {
        Mode::Relay(_) => Connections::default(),
        Mode::RelayStreams => streams::relay(limits_section.as_ref()),
        Mode::Proxy => streams::frontend(&section, limits_section.as_ref(), &binds),
    };
    let routes = section.sections("route", "[[frontend.route]]").into_iter();
    let read = FrontendSection {
        at: section.at(),
        mode,
        unread_bind: section.count("bind") > binds.len(),
        binds,
        advertise: section.list("advertise"),
        inside: section.list("inside"),
        aliases: section.list("aliases"),
        backend: section.required("backend", "\"opensips\""),
        routes: routes.map(|section| route(section, is_relay)).collect(),
        record_route: section.or("record_route", true),
        path: section.word(
            "path",
            Path::Always,
            &[("off", Path::Off), ("supported", Path::Supported), ("always", Path::Always)],
        ),
        force_rport: section.word(
            "force_rport",
            ForceRport::Auto,
            &[("auto", ForceRport::Auto), ("always", ForceRport::Always), ("never", ForceRport::Never)],
        ),
        send_to: section.values("send_to"),
        source_header: section.optional("source_header"),
        dscp: section.optional::<Dscp>("dscp").map(|dscp| dscp.value.0),
        limits: limits_section.map_or_else(Limits::default, limits),
        connections,
        tls: section.section("tls", "[frontend.tls]").map(tls::frontend),
        accept_proxy: section.values("accept_proxy"),
        name: name.unwrap_or_else(|| At { value: String::new(), at: section.at() }),
    };
    section.finish(&[]);
    Some(read)
}

fn route(section: Section<'_, '_>, is_relay: bool) -> RouteSection {
    if is_relay {
        relay::refuse(&section, relay::ROUTE_KEYS);
    }
    let read = RouteSection {
        at: section.at(),
        methods: section.values("methods"),
        clients: section.values("clients"),
        hosts: section.values("hosts"),
        backend: section.required("backend", "\"opensips\""),
    };
    if read.methods.is_empty() && read.clients.is_empty() && read.hosts.is_empty() {
        section.fault(
            section.at(),
            "this route has no condition",
            "add `methods`, `clients` or `hosts`, or change the frontend's `backend`",
        );
    }
    section.finish(&[]);
    read
}

fn backend(section: Section<'_, '_>) -> Option<BackendSection> {
    let name = section.name("\"opensips\"");
    let servers: Vec<_> = section.sections("server", "[[backend.server]]").into_iter().filter_map(server).collect();
    let unread_server = section.count("server") > servers.len();
    let checks = section.section("check", "[backend.check]");
    let check_unsaid = checks.as_ref().is_none_or(|check| check.place("type").is_none());
    let has_parts = servers.iter().any(|server| server.ports.is_some());
    let read = BackendSection {
        at: section.at(),
        balance: section.word("balance", Algorithm::Hash, &Algorithm::ALL),
        pin: pin(section.section("pin", "[backend.pin]")),
        stick: section.section("stick", "[backend.stick]").and_then(stick),
        check: if has_parts { relay::no_check(checks) } else { check(checks) },
        check_unsaid,
        suspect: suspect(section.section("suspect", "[backend.suspect]")),
        breaker: section.section("breaker", "[backend.breaker]").map(breaker),
        when_all_down: section.word(
            "when_all_down",
            WhenAllDown::Reject,
            &[("reject", WhenAllDown::Reject), ("forward", WhenAllDown::Forward)],
        ),
        spill_below: section.or("spill_below", DEFAULT_SPILL_BELOW).0,
        in_dialog_failover: section.or("in_dialog_failover", false),
        pass_503: section.or("pass_503", false),
        tls: section.section("tls", "[backend.tls]").map(tls::backend),
        timeout: section.section("timeout", "timeout").map(streams::timeout),
        send_proxy: streams::send_proxy(&section),
        regions: section.sections("region", "[[backend.region]]").into_iter().filter_map(region).collect(),
        servers,
        unread_server,
        name: name.unwrap_or_else(|| At { value: String::new(), at: section.at() }),
    };
    section.finish(&[]);
    Some(read)
}

fn pin(section: Option<Section<'_, '_>>) -> Pin {
    let Some(section) = section else { return Pin { expire: DEFAULT_PIN_EXPIRE, size: DEFAULT_PIN_SIZE as usize } };
    let pin = Pin {
        expire: duration(&section, "expire", DEFAULT_PIN_EXPIRE, &EXPIRE),
        size: section.number("size", DEFAULT_PIN_SIZE, PIN_SIZE) as usize,
    };
    section.finish(&[]);
    pin
}

/// `None` for Call-ID: then the pin is all there is.
fn stick(section: Section<'_, '_>) -> Option<Stick> {
    let on = section.required::<String>("on", "\"source\"");
    let v6_prefix = section.number("ipv6_prefix", DEFAULT_IPV6_PREFIX, 32..=128) as u8;
    let stick = match on.as_ref().map(|on| on.value.as_str()) {
        None | Some("call-id") => {
            let expire = section.optional::<Duration>("expire").map(|expire| expire.at);
            let size = section.optional::<u64>("size").map(|size| size.at);
            for at in [expire, size].into_iter().flatten() {
                section.fault(at, "stickiness by Call-ID has no table of its own", "set `expire` and `size` in `pin`");
            }
            None
        }
        Some("source") => Some(StickOn::Source { v6_prefix }),
        Some("from-user") => Some(StickOn::FromUser),
        Some("to-user") => Some(StickOn::ToUser),
        Some(other) => match other.strip_prefix("header:").filter(|name| is_header_name(name)) {
            Some(name) => Some(StickOn::Header(name.to_owned())),
            None => {
                let at = on.as_ref().map_or(section.at(), |on| on.at);
                let words = "write \"call-id\", \"source\", \"from-user\", \"to-user\" or \"header:X-Key\"";
                section.fault(at, format!("`on` cannot be \"{other}\""), words);
                None
            }
        },
    };
    let stick = stick.map(|on| Stick {
        on,
        expire: duration(&section, "expire", DEFAULT_STICK_EXPIRE, &EXPIRE),
        size: section.number("size", DEFAULT_STICK_SIZE, STICK_SIZE) as usize,
    });
    section.finish(&[]);
    stick
}

/// Whether a text is a header's name: a token (RFC 3261 §25.1).
pub fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A duration in a range.
pub fn duration(
    section: &Section<'_, '_>,
    key: &'static str,
    default: Duration,
    range: &RangeInclusive<Duration>,
) -> Duration {
    let Some(At { value, at }) = section.optional::<Duration>(key) else { return default };
    if range.contains(&value) {
        return value;
    }
    section.fault(
        at,
        format!("`{key}` is {value:?}"),
        format!("write a duration from {:?} to {:?}", range.start(), range.end()),
    );
    default
}

fn suspect(section: Option<Section<'_, '_>>) -> Suspect {
    let default = Suspect { unanswered: 5, after: Duration::from_secs(2) };
    let Some(section) = section else { return default };
    let suspect = Suspect {
        unanswered: section.number("unanswered", default.unanswered.into(), 1..=10_000) as u32,
        after: duration(&section, "after", default.after, &SILENCE),
    };
    section.finish(&[]);
    suspect
}

fn breaker(section: Section<'_, '_>) -> Breaker {
    let half_open_max = section.number("half_open_max", 3, TRIALS) as u32;
    let successes = section.optional::<u64>("successes");
    let read = Breaker {
        failures: section.number("failures", 5, 1..=1_000) as u32,
        successes: section.number("successes", 2.min(half_open_max.into()), TRIALS) as u32,
        open_for: duration(&section, "open_for", Duration::from_secs(30), &OPEN_FOR),
        half_open_max,
        answer_within: duration(&section, "answer_within", Duration::from_secs(5), &SILENCE),
        codes: statuses(&section, "codes", Vec::new(), FAILURE),
        checks: section.or("checks", false),
        max_open: section.or("max_open", Percent(50)).0,
    };
    if let Some(never) = section.optional::<Percent>("max_open").filter(|percent| percent.value.0 == 0) {
        section.fault(never.at, "a breaker that may take away 0% never opens", "write \"50%\", or remove `breaker`");
    }
    if let Some(successes) = successes.filter(|successes| successes.value > half_open_max.into()) {
        section.fault(
            successes.at,
            format!("{} successes cannot come from {half_open_max} trial calls", successes.value),
            "write a `half_open_max` that is not less than `successes`",
        );
    }
    section.finish(&[]);
    read
}

fn region(section: Section<'_, '_>) -> Option<RegionSection> {
    let name = section.name("\"lagos\"");
    let read = RegionSection {
        name: name.unwrap_or_else(|| At { value: String::new(), at: section.at() }),
        weight: section.number("weight", 1, REGION_WEIGHT) as u32,
        clients: section.values("clients"),
    };
    section.finish(&[]);
    Some(read)
}

fn server(section: Section<'_, '_>) -> Option<ServerSection> {
    let (name, address) = (section.name("\"pbx-1\""), section.required("address", "\"udp://10.0.10.11:5060\""));
    let (region, sources, ports) = (section.optional("region"), section.list("sources"), section.optional("ports"));
    let tls_name = section.optional("tls_name");
    let weight = section.number("weight", 100, SERVER_WEIGHT) as u32;
    let max_calls = section.number("max_calls", 0, MAX_CALLS) as u32;
    let max_rate = section.optional::<Rate>("max_rate").map(|rate| rate.value);
    let slow_start = section.optional::<Duration>("slow_start");
    if let Some(long) = slow_start.as_ref().filter(|written| written.value > LONGEST_SLOW_START) {
        section.fault(long.at, "`slow_start` is longer than an hour", "write a duration up to \"1h\"");
    }
    let slow_start = slow_start.map_or(Duration::ZERO, |written| written.value);
    let backup = section.or("backup", false);
    let unread_ports = section.count("ports") > ports.iter().count();
    section.finish(&[]);
    let (name, address) = (name?, address?);
    if unread_ports {
        return None;
    }
    Some(ServerSection {
        name,
        address,
        ports,
        region,
        sources,
        tls_name,
        weight,
        max_calls,
        max_rate,
        slow_start,
        backup,
    })
}
