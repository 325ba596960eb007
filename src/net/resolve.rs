//! Names of servers: asked of the DNS again and again, each by its time to live, never twice at a time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::config::Dns;
use crate::config::names::{MOST_ADDRESSES, Member, Query, Srv, Target, members, port_of};

/// A lost datagram is sent once more within the timeout.
const TRIES: u32 = 2;

/// After a failure it is asked again within this time (or `ttl_min`, where that is longer), whatever `ttl_max` says of
/// answers: an outage of the DNS should not last a day longer than it lasts.
const LONGEST_AGAIN: Duration = Duration::from_secs(300);

/// One name, and how it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub query: Query,
    pub dns: Dns,
    /// Whether IPv4 and IPv6 addresses are wanted.
    pub families: (bool, bool),
}

/// What came of asking.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub query: Query,
    /// `None`: nothing that can be used; the log has why.
    pub members: Option<Vec<Member>>,
}

/// A name that is being asked for.
pub struct Watch {
    question: Question,
    task: JoinHandle<()>,
}

impl Watch {
    /// Begins asking; each answer goes to `resolved`, and so does each failure. `known` are the addresses so far.
    pub fn start(question: Question, known: Vec<Member>, seed: u64, resolved: mpsc::Sender<Resolved>) -> Self {
        let task = tokio::spawn(watch(question.clone(), known, seed, resolved));
        Self { question, task }
    }

    pub fn question(&self) -> &Question {
        &self.question
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(question: Question, mut known: Vec<Member>, mut seed: u64, resolved: mpsc::Sender<Resolved>) {
    let Question { query, dns, .. } = &question;
    let (mut failures, mut troubled) = (0_u32, false);
    loop {
        let (members, ttl, trouble) = match ask(&question, &known).await {
            Ok(Answer { members, ttl, trouble }) => {
                failures = 0;
                known.clone_from(&members);
                (Some(members), ttl, trouble)
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                (None, again_after(failures, dns), Some(error))
            }
        };
        match (trouble, troubled) {
            (Some(error), false) => {
                let kept = known.len();
                tracing::warn!(name = %query, error, kept, "the name does not resolve; what was known of it stays");
                troubled = true;
            }
            (None, true) => {
                tracing::info!(name = %query, "the name resolves again");
                troubled = false;
            }
            _ => {}
        }
        if resolved.send(Resolved { query: query.clone(), members }).await.is_err() {
            return;
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wait = ttl.clamp(dns.ttl_min, dns.ttl_max);
        // Up to a tenth later: many names, and both nodes of a pair, do not ask at one moment.
        sleep(wait + wait.mul_f64((seed >> 40) as f64 / (1 << 24) as f64 / 10.0)).await;
    }
}

/// How long it is waited after so many failures in a row: twice as long after each.
fn again_after(failures: u32, dns: &Dns) -> Duration {
    dns.ttl_min.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_AGAIN)
}

struct Answer {
    members: Vec<Member>,
    ttl: Duration,
    /// Of hosts that nobody could say anything about: theirs are the addresses of before.
    trouble: Option<String>,
}

/// Records and the shortest of their times to live.
struct Records {
    data: Vec<RData>,
    ttl: u32,
}

/// One look-up: of the service, if no port is written, then of its hosts.
async fn ask(question: &Question, before: &[Member]) -> Result<Answer, String> {
    let Question { query, dns, families } = question;
    let resolver = Arc::new(resolver(dns)?);
    let service = match query.service() {
        Some(service) => records(&resolver, &service, RecordType::SRV, dns.timeout).await?,
        None => None,
    };
    let mut ttl = service.as_ref().map_or(u32::MAX, |records| records.ttl);
    let hosts = match service {
        Some(records) => hosts(records),
        // RFC 3263 §4.2: no SRV record, then its own addresses.
        None => vec![(query.host.clone(), port_of(query), None)],
    };
    let mut asked = JoinSet::new();
    for (host, port, srv) in hosts {
        for (kind, _) in [(RecordType::A, families.0), (RecordType::AAAA, families.1)].into_iter().filter(|of| of.1) {
            let (resolver, host, limit) = (Arc::clone(&resolver), host.clone(), dns.timeout);
            asked.spawn(async move {
                let found = records(&resolver, &host, kind, limit).await;
                (Target { host, port, srv, v6: kind == RecordType::AAAA, addresses: None }, found)
            });
        }
    }
    let (mut targets, mut trouble) = (Vec::new(), None);
    for (mut target, found) in asked.join_all().await {
        match found {
            Ok(found) => {
                ttl = found.as_ref().map_or(ttl, |records| ttl.min(records.ttl));
                target.addresses = Some(found.map_or_else(Vec::new, addresses));
            }
            Err(error) => trouble = Some(error),
        }
        targets.push(target);
    }
    if targets.iter().all(|target| target.addresses.as_ref().is_none_or(Vec::is_empty)) {
        return Err(trouble.unwrap_or_else(|| "there is no such name, or it has no address".to_owned()));
    }
    // What could not be asked is asked again soon.
    let ttl = if trouble.is_some() { dns.ttl_min } else { Duration::from_secs(ttl.into()) };
    Ok(Answer { members: members(&targets, before), ttl, trouble })
}

/// The hosts of SRV records, the first ones first. The root means that there is no such service (RFC 2782).
fn hosts(records: Records) -> Vec<(String, u16, Option<Srv>)> {
    let host = |data: RData| match data {
        RData::SRV(srv) if !srv.target.is_root() => {
            let host = srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            Some((host, srv.port, Some(Srv { priority: srv.priority, weight: srv.weight })))
        }
        _ => None,
    };
    let mut hosts: Vec<_> = records.data.into_iter().filter_map(host).collect();
    hosts.sort_by_key(|(host, port, srv)| (srv.map(|srv| srv.priority), host.clone(), *port));
    hosts.truncate(MOST_ADDRESSES);
    hosts
}

fn addresses(records: Records) -> Vec<IpAddr> {
    let ip = |data: RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    records.data.into_iter().filter_map(ip).collect()
}

/// The records of one kind; `None` where the DNS says that there are none.
async fn records(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
    limit: Duration,
) -> Result<Option<Records>, String> {
    // With a dot at its end: no search list is tried.
    let name = Name::from_ascii(format!("{name}.")).map_err(|error| format!("{name}: {error}"))?;
    let found = timeout(limit, resolver.lookup(name.clone(), kind)).await.unwrap_or(Err(NetError::Timeout));
    match found {
        Ok(lookup) => {
            let answers = || lookup.answers().iter();
            let ttl = answers().map(|record| record.ttl).min().unwrap_or_default();
            let data: Vec<_> =
                answers().filter(|r| r.record_type() == kind).map(|record| record.data.clone()).collect();
            Ok((!data.is_empty()).then_some(Records { data, ttl }))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            Ok(None)
        }
        Err(error) => Err(format!("{kind} of {name} {error}")),
    }
}

/// Made anew for each look-up: a changed resolv.conf counts at once, and nothing is cached but here.
fn resolver(dns: &Dns) -> Result<TokioResolver, String> {
    let config = match dns.nameservers.is_empty() {
        true => {
            let (config, _) = read_system_conf()
                .map_err(|error| format!("/etc/resolv.conf: {error}; write `nameservers` in [dns]"))?;
            ResolverConfig::from_name_servers(config.name_servers().to_vec())
        }
        false => ResolverConfig::from_name_servers(dns.nameservers.iter().map(nameserver).collect()),
    };
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = dns.timeout / TRIES;
    options.attempts = TRIES as usize - 1;
    options.cache_size = 0;
    options.edns0 = true;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(|error| error.to_string())
}

fn nameserver(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.into_iter().map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_it_is_asked_again_soon_whatever_answers_live() {
        let seconds = Duration::from_secs;
        let dns = Dns { ttl_min: seconds(5), ttl_max: seconds(86_400), ..Dns::default() };
        let waits: Vec<_> = [1, 2, 3, 6, 7, 1_000].map(|failures| again_after(failures, &dns).as_secs()).into();
        assert_eq!(waits, [5, 10, 20, 160, 300, 300]);
    }
}
