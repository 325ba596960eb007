//! How names of servers are resolved: the keys of `[dns]`, their defaults and limits.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::read::Section;
use super::value::Nameserver;

/// A nameserver that is asked more often than once a second is attacked.
const LEAST_TTL: Duration = Duration::from_secs(1);
/// Beyond a day, an address that moved would be missed for longer than anybody waits.
const MOST_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Start and reload wait so long for new names.
const DNS_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
/// The system's resolver reads three (resolv.conf(5)).
const NAMESERVERS: usize = 8;

/// The least and the most that the time to live of an answer counts: a change is seen within five minutes, and an answer of
/// 0 seconds does not make a storm of questions.
const DEFAULT_TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5 * 60));
/// Two tries with a second and a half for each.
const DEFAULT_DNS_TIMEOUT: Duration = Duration::from_secs(3);

/// How names of servers are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Who is asked; empty: those of the system's resolv.conf.
    pub nameservers: Vec<SocketAddr>,
    /// An answer is used at least so long, and what failed is asked again after it.
    pub ttl_min: Duration,
    pub ttl_max: Duration,
    /// How long one look-up may take, retransmissions included.
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        let (ttl_min, ttl_max) = DEFAULT_TTL;
        Self { nameservers: Vec::new(), ttl_min, ttl_max, timeout: DEFAULT_DNS_TIMEOUT }
    }
}

/// Reads `[dns]`.
pub fn dns(section: Section<'_, '_>) -> Dns {
    let default = Dns::default();
    let nameservers = section.list::<Nameserver>("nameservers");
    if let Some(more) = nameservers.get(NAMESERVERS) {
        section.fault(more.at, format!("more than {NAMESERVERS} nameservers"), "write those that are near");
    }
    let ttl_min = section.or("ttl_min", default.ttl_min);
    let read = Dns {
        nameservers: nameservers.into_iter().map(|nameserver| nameserver.value.0).collect(),
        ttl_min,
        ttl_max: section.or("ttl_max", default.ttl_max.max(ttl_min)),
        timeout: section.or("timeout", default.timeout),
    };
    let outside = |key| section.optional::<Duration>(key).filter(|ttl| !(LEAST_TTL..=MOST_TTL).contains(&ttl.value));
    for (key, ttl) in ["ttl_min", "ttl_max"].into_iter().filter_map(|key| Some((key, outside(key)?))) {
        section.fault(ttl.at, format!("`{key}` is {:?}", ttl.value), "write a duration from \"1s\" to \"1d\"");
    }
    if read.ttl_max < read.ttl_min {
        let at = section.optional::<Duration>("ttl_max").map_or(section.at(), |ttl| ttl.at);
        section.fault(at, "`ttl_max` is shorter than `ttl_min`", "write a longer one");
    }
    if let Some(timeout) = section.optional::<Duration>("timeout").filter(|t| !DNS_TIMEOUT.contains(&t.value)) {
        let what = format!("`timeout` is {:?}", timeout.value);
        section.fault(timeout.at, what, "write a duration from \"100ms\" to \"30s\"");
    }
    section.finish(&[]);
    read
}
