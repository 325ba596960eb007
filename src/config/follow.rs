//! What is followed of calls: a line in the log for each, and copies of their messages for a Homer collector. Both are off
//! until they are asked for.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::read::Section;
use super::value::{Percent, Rate, is_one_host};

/// A log that somebody reads; more is what HEP is for.
const LINES: Rate = Rate { events: 50, per: Duration::from_secs(1) };

/// `[call_log]` and `[hep]`; `None`: off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follow {
    pub log: Option<CallLog>,
    pub hep: Option<Hep>,
}

/// One line for each call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallLog {
    pub sample: Sample,
    /// Lines at most; what is beyond is counted.
    pub rate: Rate,
}

/// Copies of messages, as HEPv3 over UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hep {
    pub collector: SocketAddr,
    /// The capture agent's number, by which the collector tells its senders apart.
    pub agent_id: u32,
    pub sample: Sample,
}

/// Which calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Percent of them, by Call-ID: all messages of a call or none, and the same calls at both nodes of a pair.
    pub percent: u32,
    /// Of these clients; empty: of all.
    pub clients: Vec<IpNet>,
}

impl Sample {
    /// Whether it has a call of this hash and client.
    pub fn has(&self, call: u64, client: Option<IpAddr>) -> bool {
        let of_client = || client.is_some_and(|ip| self.clients.iter().any(|net| net.contains(&ip)));
        // By the upper half of the hash: `call / 2^64 < percent / 100`.
        (call >> 32) * 100 < u64::from(self.percent) << 32 && (self.clients.is_empty() || of_client())
    }
}

pub(super) fn follow(top: &Section<'_, '_>) -> Follow {
    Follow { log: top.section("call_log", "[call_log]").map(call_log), hep: top.section("hep", "[hep]").and_then(hep) }
}

fn call_log(section: Section<'_, '_>) -> CallLog {
    let read = CallLog { sample: sample(&section), rate: section.or("rate", LINES) };
    section.finish(&[]);
    read
}

fn hep(section: Section<'_, '_>) -> Option<Hep> {
    let collector = section.required::<SocketAddr>("collector", "\"192.0.2.9:9060\"");
    let (sample, agent_id) = (sample(&section), section.number("agent_id", 1, 1..=u32::MAX.into()) as u32);
    let refused = collector.as_ref().filter(|to| to.value.port() == 0 || !is_one_host(to.value.ip()));
    if let Some(refused) = refused {
        section.fault(refused.at, format!("`collector` cannot be {}", refused.value), "write one host and its port");
    }
    section.finish(&[]);
    Some(Hep { collector: collector?.value, agent_id, sample })
}

fn sample(section: &Section<'_, '_>) -> Sample {
    let percent = section.optional::<Percent>("sample");
    if let Some(nothing) = percent.as_ref().filter(|percent| percent.value.0 == 0) {
        section.fault(nothing.at, "`sample` is nothing", "write \"1%\" or more, or remove the section");
    }
    Sample { percent: percent.map_or(100, |percent| percent.value.0), clients: section.values("clients") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_part_of_all_hashes_and_of_some_clients() {
        let sample = |percent, clients: &[&str]| Sample {
            percent,
            clients: clients.iter().map(|net| net.parse().unwrap()).collect(),
        };
        let hashes = || (0..10_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for percent in [1, 25, 50, 99] {
            let has = hashes().filter(|hash| sample(percent, &[]).has(*hash, None)).count();
            assert!(has.abs_diff(percent as usize * 100) <= 20, "{has} of 10,000 at {percent} %");
        }
        assert!(hashes().chain([0, u64::MAX]).all(|hash| sample(100, &[]).has(hash, None)));
        let some = sample(100, &["192.0.2.0/24", "2001:db8::/32"]);
        assert!(some.has(1, Some([192, 0, 2, 9].into())) && some.has(1, "2001:db8::1".parse().ok()));
        assert!(!some.has(1, Some([192, 0, 3, 9].into())) && !some.has(1, None));
    }
}
