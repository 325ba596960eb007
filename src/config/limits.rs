//! What a frontend lets in: from whom, how often of one source, and who is shut out for a while.

use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::Bind;
use super::file::duration;
use super::read::{At, Read, Section};
use super::value::Rate;
use crate::sip::Transport;

/// From the shortest message that carries a call to the most that UDP carries.
const MAX_MESSAGE: RangeInclusive<u64> = 1_024..=65_535;
const BURST: RangeInclusive<u64> = 1..=1_000_000;
/// What comes after silence: phones that register anew together, behind one NAT.
const DEFAULT_BURST_SECONDS: u32 = 2;

/// One slip is nobody's offence.
const AFTER: RangeInclusive<u64> = 2..=10_000;
const WITHIN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60 * 60);
/// Who is to be shut out for longer belongs into `deny`.
const LASTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 60 * 60);

/// What a frontend lets in.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Requests that open something new, per source address; flows, or connections, of a relay.
    pub per_source: Option<PerSource>,
    /// Connections, and handshakes of TLS, per source address.
    pub connections: Option<PerSource>,
    pub handshakes: Option<PerSource>,
    pub ban: Option<Ban>,
    /// Networks that are not limited per source.
    pub trusted: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    /// Parts of User-Agent values that are dropped in silence, lower case.
    pub deny_user_agent: Vec<String>,
    pub max_message: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_source: None,
            connections: None,
            handshakes: None,
            ban: None,
            trusted: Vec::new(),
            deny: Vec::new(),
            deny_user_agent: Vec::new(),
            max_message: *MAX_MESSAGE.end() as usize,
        }
    }
}

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSource {
    pub rate: Rate,
    pub burst: u32,
}

/// Who opens nothing new for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// So many offences of one source within this time.
    pub after: u32,
    pub within: Duration,
    /// How long.
    pub lasts: Duration,
    pub offences: Vec<Offence>,
}

/// What may be held against a source: the words of drops and of connections' ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Offence {
    Scanner,
    NotSip,
    Malformed,
    ForgedToken,
    ForgedProxyHeader,
    BadHandshake,
    RateLimited,
}

impl Offence {
    const ALL: [(&str, Self); 7] = [
        ("scanner", Self::Scanner),
        ("not_sip", Self::NotSip),
        ("malformed", Self::Malformed),
        ("forged_token", Self::ForgedToken),
        ("forged_proxy_header", Self::ForgedProxyHeader),
        ("bad_handshake", Self::BadHandshake),
        ("rate_limited", Self::RateLimited),
    ];

    /// What no honest phone does. The others may be one phone's fault in an office behind one address; and tokens of a key
    /// that somebody lost are every phone's.
    const DEFAULT: [Self; 3] = [Self::Scanner, Self::NotSip, Self::ForgedProxyHeader];

    pub fn word(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

impl Read for Offence {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let words = || Self::ALL.map(|(word, _)| format!("\"{word}\"")).join(", ");
        let found = value.as_str().and_then(|text| Self::ALL.iter().find(|(word, _)| *word == text));
        found.map(|(_, offence)| *offence).ok_or_else(|| format!("one of {}", words()))
    }
}

/// A pace of handshakes is of no use where nobody shakes hands.
pub fn judge_handshakes(limits: &Section<'_, '_>, binds: &[At<Bind>]) {
    let Some(at) = limits.place("per_source_handshake_rate") else { return };
    if !binds.is_empty() && binds.iter().all(|bind| bind.value.transport == Transport::Tcp) {
        let what = "`per_source_handshake_rate` is about TLS, and no bind of this frontend is tls://";
        limits.fault(at, what, "remove it, or add a tls:// address to `bind`");
    }
}

/// Reads `[frontend.limits]`.
pub fn limits(section: Section<'_, '_>) -> Limits {
    for empty in section.list::<String>("deny_user_agent").iter().filter(|part| part.value.is_empty()) {
        section.fault(empty.at, "an empty text is in every User-Agent", "remove it");
    }
    let agents = section.values::<String>("deny_user_agent").into_iter();
    let read = Limits {
        per_source: pace(&section, "per_source_rate", Some("per_source_burst"), "200/s"),
        connections: pace(&section, "per_source_connection_rate", Some("per_source_connection_burst"), "20/s"),
        handshakes: pace(&section, "per_source_handshake_rate", None, "10/s"),
        ban: section.section("ban", "[frontend.limits.ban]").map(ban),
        trusted: section.values("trusted"),
        deny: section.values("deny"),
        deny_user_agent: agents.map(|part| part.to_ascii_lowercase()).collect(),
        max_message: section.number("max_message", *MAX_MESSAGE.end(), MAX_MESSAGE) as usize,
    };
    section.finish(&[]);
    read
}

/// A rate of one source, and how many may come at once after silence; a burst alone means nothing.
fn pace(
    section: &Section<'_, '_>,
    rate_key: &'static str,
    burst_key: Option<&'static str>,
    example: &str,
) -> Option<PerSource> {
    let burst = burst_key.and_then(|key| {
        section.number(key, 1, BURST);
        Some((key, section.optional::<u64>(key)?))
    });
    let rate = section.optional::<Rate>(rate_key).map(|rate| rate.value);
    match (rate, burst) {
        (Some(rate), Some((_, burst))) => {
            Some(PerSource { rate, burst: burst.value.clamp(1, u64::from(u32::MAX)) as u32 })
        }
        (Some(rate), None) => Some(PerSource { rate, burst: rate.events.saturating_mul(DEFAULT_BURST_SECONDS) }),
        (None, Some((key, burst))) => {
            section.fault(
                burst.at,
                format!("`{key}` without `{rate_key}`"),
                format!("add `{rate_key} = \"{example}\"`"),
            );
            None
        }
        (None, None) => None,
    }
}

fn ban(section: Section<'_, '_>) -> Ban {
    let offences = section.list::<Offence>("offences");
    if section.place("offences").is_some() && section.count("offences") == 0 {
        section.fault(section.at(), "a ban for no offence", "name some, or remove `offences`");
    }
    let read = Ban {
        after: section.number("after", 10, AFTER) as u32,
        within: duration(&section, "within", Duration::from_secs(60), &WITHIN),
        lasts: duration(&section, "for", Duration::from_secs(10 * 60), &LASTS),
        offences: match offences.is_empty() {
            true => Offence::DEFAULT.to_vec(),
            false => offences.into_iter().map(|offence| offence.value).collect(),
        },
    };
    section.finish(&[]);
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frontend with these limits: what is read, or the faults.
    fn read(transport: &str, mode: &str, limits: &str) -> Result<Limits, String> {
        let text = format!(
            "[[frontend]]\nname = \"f\"\n{mode}\nbind = \"{transport}://10.0.0.1:5060\"\nbackend = \"b\"\n[frontend.limits]\n{limits}\n\
             [[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"{transport}://10.0.0.9:5060\"\n"
        );
        let read = crate::config::Config::parse(&text);
        read.map(|config| config.frontends[0].limits.clone()).map_err(|faults| faults.render("F", &text).to_string())
    }

    #[test]
    fn bans_and_paces_are_read_and_wrong_ones_taught() {
        let limits = read("tcp", "", "ban = {}\nper_source_connection_rate = \"20/s\"").unwrap();
        let pace = limits.connections.unwrap();
        assert_eq!((pace.rate.events, pace.burst, limits.handshakes), (20, 40, None));
        let usual = Ban {
            after: 10,
            within: Duration::from_secs(60),
            lasts: Duration::from_secs(600),
            offences: Offence::DEFAULT.to_vec(),
        };
        assert_eq!(limits.ban, Some(usual.clone()));
        let own = "ban = { after = 5, within = \"10s\", for = \"1h\", offences = [\"scanner\", \"rate_limited\"] }";
        let [within, lasts] = [10, 3600].map(Duration::from_secs);
        let offences = vec![Offence::Scanner, Offence::RateLimited];
        assert_eq!(read("udp", "", own).unwrap().ban, Some(Ban { after: 5, within, lasts, offences }));
        for (transport, mode, faulty, what) in [
            ("udp", "", "ban = { after = 1 }", "from 2 to 10000"),
            ("udp", "", "ban = { for = \"8d\" }", "`for` is 691200s"),
            ("udp", "", "ban = { within = \"10ms\" }", "`within` is 10ms"),
            ("udp", "", "ban = { offences = [\"insolence\"] }", "one of \"scanner\", \"not_sip\""),
            ("udp", "", "ban = { offences = [] }", "a ban for no offence"),
            ("udp", "", "per_source_connection_rate = \"1/s\"", "is about connections, and every bind"),
            ("udp", "", "per_source_handshake_rate = \"1/s\"", "is about connections, and every bind"),
            ("tcp", "mode = \"relay\"", "per_source_connection_rate = \"1/s\"", "write `per_source_rate`"),
            ("tcp", "", "per_source_connection_burst = 5", "without `per_source_connection_rate`"),
            ("udp", "mode = \"relay\"", "per_source_handshake_rate = \"1/s\"", "about connections"),
            ("udp", "mode = \"relay\"", "ban = {}", "about connections"),
            ("tcp", "", "per_source_handshake_rate = \"1/s\"", "no bind of this frontend is tls://"),
            ("tcp", "mode = \"relay\"", "per_source_handshake_rate = \"1/s\"", "no bind of this frontend is tls://"),
        ] {
            let found = read(transport, mode, faulty).unwrap_err();
            assert!(found.contains(what) && found.matches("F:").count() == 1, "{faulty}: {found}");
        }
    }

    #[test]
    fn every_offence_has_its_word() {
        for (at, (word, offence)) in Offence::ALL.into_iter().enumerate() {
            assert_eq!((offence as usize, offence.word()), (at, word));
        }
    }
}
