//! What streams ask of a configuration: how many connections there may be, and how long they may take and last.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::fault::Faults;
use super::names::Named;
use super::read::{At, Section};
use super::{Bind, Server};
use crate::sip::Transport;
use crate::sip::proxy_protocol::Version;

/// Each is an open file and some kilobytes.
pub(super) const DEFAULT_MAX_CONNECTIONS: u64 = 100_000;
const MAX_CONNECTIONS: RangeInclusive<u64> = 1..=10_000_000;
const DEFAULT_MAX_OF_SOURCE: u64 = 1_000;

/// Clients that want to be called keep their flow alive every two minutes (RFC 5626 §4.4.1), and those of a trunk may be
/// silent between two calls.
const DEFAULT_IDLE: Duration = Duration::from_secs(60 * 60);
const IDLE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(7 * 24 * 60 * 60);

const DEFAULT_CONNECT: Duration = Duration::from_secs(5);
const CONNECT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const DEFAULT_CLIENT: Duration = Duration::from_secs(2 * 60);
const DEFAULT_SERVER: Duration = Duration::from_secs(5 * 60);
/// A protocol that passes unread may be quick.
const SILENCE: RangeInclusive<Duration> = Duration::from_secs(1)..=*IDLE.end();

/// The bounds of a frontend's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Those that clients may have open at once, all of them and from one address.
    pub most: u64,
    pub most_of_source: u32,
    /// One that nothing was heard of for this long is closed.
    pub idle: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self { most: DEFAULT_MAX_CONNECTIONS, most_of_source: DEFAULT_MAX_OF_SOURCE as u32, idle: DEFAULT_IDLE }
    }
}

/// The times of connections to servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// Until it is open, the handshake of TLS included.
    pub connect: Duration,
    /// One that nothing was heard of for this long is closed; the next request opens another.
    pub server: Duration,
    /// Of a relay: its connections are closed when neither side sends for the shorter of both.
    pub client: Duration,
}

impl Default for Timeout {
    fn default() -> Self {
        Self { connect: DEFAULT_CONNECT, server: DEFAULT_SERVER, client: DEFAULT_CLIENT }
    }
}

fn time(section: &Section<'_, '_>, key: &'static str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
    let Some(time) = section.optional::<Duration>(key) else { return default };
    if !range.contains(&time.value) {
        let (least, most) = (range.start(), range.end());
        section.fault(time.at, format!("`{key}` is too short or too long"), format!("write {least:?} to {most:?}"));
    }
    time.value
}

/// How many connections a relay may have; how long they may be silent is its backend's.
pub fn relay(limits: Option<&Section<'_, '_>>) -> Connections {
    let number = |key, default| limits.map_or(default, |limits| limits.number(key, default, MAX_CONNECTIONS));
    let most = number("max_connections", DEFAULT_MAX_CONNECTIONS);
    let most_of_source = number("max_connections_per_source", DEFAULT_MAX_OF_SOURCE) as u32;
    Connections { most, most_of_source, ..Connections::default() }
}

/// The keys of a frontend in mode `proxy` that are about connections.
pub fn frontend(section: &Section<'_, '_>, limits: Option<&Section<'_, '_>>, binds: &[At<Bind>]) -> Connections {
    let idle = time(section, "idle", DEFAULT_IDLE, IDLE);
    // One that could not be read might be the one.
    if section.count("bind") == binds.len() && binds.iter().all(|bind| bind.value.transport == Transport::Udp) {
        for (section, key) in [
            (Some(section), "idle"),
            (Some(section), "accept_proxy"),
            (limits, "max_connections"),
            (limits, "max_connections_per_source"),
            (limits, "per_source_connection_rate"),
            (limits, "per_source_handshake_rate"),
        ] {
            if let Some((section, at)) = section.and_then(|section| Some((section, section.place(key)?))) {
                let what = format!("`{key}` is about connections, and every bind of this frontend is udp://");
                section.fault(at, what, "remove it, or add a tcp:// or tls:// address to `bind`");
            }
        }
    }
    Connections { idle, ..relay(limits) }
}

/// Reads `send_proxy` of a backend.
pub fn send_proxy(section: &Section<'_, '_>) -> Option<At<Version>> {
    let versions = [("off", None), ("v1", Some(Version::V1)), ("v2", Some(Version::V2))];
    let version = section.word("send_proxy", None, &versions);
    version.map(|value| At { value, at: section.place("send_proxy").unwrap_or(section.at()) })
}

/// Reads `timeout` of a backend.
pub fn timeout(section: Section<'_, '_>) -> At<Timeout> {
    let read = Timeout {
        connect: time(&section, "connect", DEFAULT_CONNECT, CONNECT),
        server: time(&section, "server", DEFAULT_SERVER, SILENCE),
        client: time(&section, "client", DEFAULT_CLIENT, SILENCE),
    };
    let at = section.at();
    section.finish(&[]);
    At { value: read, at }
}

/// Times of connections mean nothing where every server is asked by datagrams.
pub fn judge_backend(
    name: &str,
    section: Option<&At<Timeout>>,
    (servers, named): (&[Server], &[Named]),
    faults: &mut Faults,
) {
    let mut transports = servers.iter().map(|s| s.transport).chain(named.iter().map(|n| n.query.transport));
    if let Some(timeout) = section.filter(|_| transports.all(|one| one == Transport::Udp)) {
        let what = format!("`timeout` is about connections, and every server of \"{name}\" is udp://");
        faults.push(timeout.at, what, "remove it, or write `address = \"tcp://...\"`");
    }
}
