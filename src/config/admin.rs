//! Where people and their tools look in over HTTP, and who they are: the keys of `[admin]`, their defaults and limits.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use toml::de::DeValue;

use super::Frontend;
use super::fault::Faults;
use super::read::{At, Read, Section};
use crate::sip::Transport;

/// The usual places: HAProxy's stats page, its neighbour for health, and HAProxy's exporter. Nobody from outside reaches them.
const STATS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8404);
const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8405);
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9101);

/// People who look after one balancer, and their tools. More of them belong behind a proxy that knows them.
const USERS: usize = 100;
/// A longer one fits on no line of the log.
const LONGEST_NAME: usize = 64;

/// Connections at a time, of each listener; a stats page has a few. What asks for health has a listener of its own, which a
/// crowd at the stats page does not fill.
pub const CONNECTIONS: usize = 512;

/// What one guess at a password may take, in KiB and in passes: a log-in must not starve the calls beside it.
const MEMORY: std::ops::RangeInclusive<u32> = 8..=262_144;
const PASSES: std::ops::RangeInclusive<u32> = 1..=16;
const LANES: std::ops::RangeInclusive<u32> = 1..=16;

/// What `[admin]` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// The stats page and all that belongs to it; `None`: nowhere.
    pub stats: Option<SocketAddr>,
    pub health: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// Nobody: then everybody may look, and nobody may change anything.
    pub users: Vec<User>,
    pub identity: Identity,
}

/// Who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// Argon2id, as a PHC string.
    pub password_hash: String,
    pub role: Role,
}

/// What somebody may do; each may do what the one before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Change what servers get: drain, maintenance, weights.
    Operator,
    /// Everything, a reload among it.
    Admin,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Whose name is told to tools that ask for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Tools that were written for HAProxy look for it and do not work without.
    #[default]
    Haproxy,
    Native,
}

/// What one listener serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serves {
    pub stats: bool,
    pub health: bool,
    pub metrics: bool,
}

impl Http {
    /// The addresses, and what is served at each.
    pub fn listeners(&self) -> BTreeMap<SocketAddr, Serves> {
        let mut all = BTreeMap::<_, Serves>::new();
        self.stats.into_iter().for_each(|at| all.entry(at).or_default().stats = true);
        self.health.into_iter().for_each(|at| all.entry(at).or_default().health = true);
        self.metrics.into_iter().for_each(|at| all.entry(at).or_default().metrics = true);
        all
    }

    /// What is accepted and may be a slip all the same.
    pub(super) fn warnings(&self) -> Option<String> {
        let open = self.stats.filter(|at| !at.ip().is_loopback() && self.users.is_empty())?;
        Some(format!(
            "[admin]: whoever reaches {open} sees the stats page, and nobody may change anything there: add `users`, or \
             write `stats = \"127.0.0.1:{}\"` and reach it through ssh",
            open.port()
        ))
    }
}

/// An address to listen on, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listen(Option<SocketAddr>);

impl Read for Listen {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wanted = "an address with its port such as \"127.0.0.1:8404\", or \"off\"";
        match value.as_str() {
            Some("" | "off") => Ok(Self(None)),
            Some(text) => {
                let at = text.parse().ok().filter(|at: &SocketAddr| at.port() != 0);
                at.map(|at| Self(Some(at))).ok_or_else(|| wanted.into())
            }
            None => Err(wanted.into()),
        }
    }
}

/// Reads `[admin]`.
pub(super) fn http(section: Section<'_, '_>) -> At<Http> {
    let listen = |key, usual| section.or(key, Listen(Some(usual))).0;
    let (stats, health, metrics) = (listen("stats", STATS), listen("health", HEALTH), listen("metrics", METRICS));
    let places = [("stats", stats), ("health", health), ("metrics", metrics)];
    for (at, (key, own)) in places.iter().enumerate() {
        let meets = |other: &&(&str, Option<SocketAddr>)| {
            own.zip(other.1).is_some_and(|(own, other)| own != other && overlap(own, other))
        };
        if let Some((other, _)) = places[..at].iter().find(meets) {
            section.fault(
                section.place(key).or(section.place(other)).unwrap_or(section.at()),
                format!("`{other}` and `{key}` have one port at addresses that meet"),
                "write the same address for both, and one listener serves both, or another port",
            );
        }
    }
    let read = Http {
        stats,
        health,
        metrics,
        users: users(&section),
        identity: section.section("compat", "[admin.compat]").map_or(Identity::default(), compat),
    };
    let at = section.at();
    section.finish(&[]);
    At { value: read, at }
}

/// Two sockets cannot listen at both.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let meet = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && meet
}

fn compat(section: Section<'_, '_>) -> Identity {
    let words = [("haproxy", Identity::Haproxy), ("native", Identity::Native)];
    let identity = section.word("identity", Identity::default(), &words);
    section.finish(&[]);
    identity
}

fn users(section: &Section<'_, '_>) -> Vec<User> {
    let mut names = HashSet::new();
    let mut users = Vec::new();
    for written in section.sections("users", "[[admin.users]]") {
        let name = written.required::<String>("name", "\"admin\"");
        let hash = written.required_or::<String>("password_hash", HASH_REMEDY);
        let words = [Role::Viewer, Role::Operator, Role::Admin].map(|role| (role.word(), role));
        let role = written.word("role", Role::Viewer, &words);
        if let Some(name) = &name {
            // A colon ends the name where a browser sends it (RFC 7617 §2).
            if name.value.is_empty()
                || name.value.len() > LONGEST_NAME
                || name.value.contains(|c: char| c == ':' || c.is_control())
            {
                let remedy = format!("write up to {LONGEST_NAME} octets without `:`");
                written.fault(name.at, "this is no name for a user", remedy);
            }
            if !names.insert(name.value.clone()) {
                let what = format!("there are two users \"{}\"", name.value);
                written.fault(name.at, what, "remove one of them");
            }
        }
        if let Some(hash) = hash.as_ref().filter(|hash| !is_hash(&hash.value)) {
            written.fault(hash.at, "`password_hash` is not the argon2id hash of a password", HASH_REMEDY);
        }
        if users.len() == USERS {
            written.fault(written.at(), format!("more than {USERS} users"), "let several share one");
        }
        written.finish(&[]);
        if let (Some(name), Some(hash)) = (name, hash) {
            users.push(User { name: name.value, password_hash: hash.value, role });
        }
    }
    users
}

const HASH_REMEDY: &str = "run `trunkline hash-password` and write what it prints: `password_hash = \"$argon2id$...\"`";

/// Whether this is what `trunkline hash-password` or another's argon2id prints, within limits.
fn is_hash(text: &str) -> bool {
    let ["", "argon2id", "v=19", costs, salt, hash] = text.split('$').collect::<Vec<_>>()[..] else { return false };
    let [m, t, p] = costs.split(',').collect::<Vec<_>>()[..] else { return false };
    let cost = |written: &str, key: &str| written.strip_prefix(key)?.parse::<u32>().ok();
    let (Some(m), Some(t), Some(p)) = (cost(m, "m="), cost(t, "t="), cost(p, "p=")) else { return false };
    let within = MEMORY.contains(&m) && PASSES.contains(&t) && LANES.contains(&p) && m >= 8 * p;
    let long =
        |text: &str, range: std::ops::RangeInclusive<usize>| base64(text).is_some_and(|of| range.contains(&of.len()));
    within && long(salt, 8..=48) && long(hash, 16..=64)
}

/// What base64 without padding stands for (RFC 4648 §4); `None` where it is none.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut held, mut octets) = (0u32, 0, Vec::with_capacity(text.len() * 3 / 4));
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, held) = (bits << 6 | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            octets.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // What the last letter has and no octet needs must be nothing.
    (held < 6 && bits == 0).then_some(octets)
}

/// A port of TCP is one port, whatever is spoken there.
pub(super) fn distinct(http: &At<Http>, frontends: &[Frontend], faults: &mut Faults) {
    for at in http.value.listeners().keys() {
        let meets = |frontend: &&Frontend| {
            let streams = frontend.binds.iter().filter(|bind| bind.transport != Transport::Udp);
            streams.map(|bind| bind.address).any(|bind| overlap(*at, bind))
        };
        if let Some(frontend) = frontends.iter().find(meets) {
            let what = format!("{at} of [admin] is bound by frontend \"{}\" too", frontend.name);
            faults.push(http.at, what, "give it another port");
        }
    }
}
