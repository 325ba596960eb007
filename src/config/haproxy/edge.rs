//! What of haproxy.cfg is translated.

use super::asks::Asks;

/// Ports on which SIP is spoken by habit: what listens there becomes a proxy, everything else a relay.
const SIP_PORTS: std::ops::RangeInclusive<u16> = 5060..=5069;

/// What HAProxy does where nothing is said of checks: their interval, `rise` and `fall`.
pub const USUAL: (&str, u32, u32) = ("2s", 2, 3);

/// And how many live errors in a row it waits for.
pub const USUAL_ERRORS: u32 = 10;

/// Everything that is translated.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    pub workers: Option<u32>,
    pub stats: Option<Stats>,
    pub proxies: Vec<Proxy>,
    /// Those that are there for the stats page alone.
    pub pages: Vec<Proxy>,
}

#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub bind: Option<String>,
    pub users: Vec<String>,
    pub may_change: bool,
}

impl Edge {
    /// Proxies with binds of which a backend's connections may come.
    pub fn frontends_of<'a>(&'a self, backend: &'a str) -> impl Iterator<Item = &'a Proxy> {
        let leads_there =
            move |other: &&Proxy| other.leads_to() == backend || other.routes.iter().any(|(_, to)| to == backend);
        self.proxies.iter().filter(|other| !other.binds.is_empty()).filter(leads_there)
    }

    pub fn has_servers(&self, backend: &str) -> bool {
        self.proxies.iter().any(|proxy| proxy.name == backend && !proxy.servers.is_empty())
    }

    /// Whether calls come to this backend.
    pub fn is_sip(&self, backend: &str) -> bool {
        self.frontends_of(backend).any(Proxy::is_sip)
    }
}

/// A frontend, a backend, or both.
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    pub name: String,
    /// The number of its first line.
    pub line: usize,
    pub says: Says,
    pub binds: Vec<Bind>,
    pub routes: Vec<(String, String)>,
    pub servers: Vec<Server>,
    /// It shows the page.
    pub is_stats: bool,
}

/// What a proxy says, or its `defaults` for it.
#[derive(Clone, Debug, Default)]
pub struct Says {
    pub connect: Option<String>,
    pub client: Option<String>,
    pub server: Option<String>,
    pub tunnel: Option<String>,
    pub check_timeout: Option<String>,
    pub maxconn: Option<u64>,
    pub balance: Option<&'static str>,
    pub default_backend: Option<String>,
    pub stick: Option<(Option<u64>, Option<String>)>,
    /// By `stick on src`, and by `balance source`, which another balance ends.
    pub sticks: bool,
    pub sticks_by_balance: bool,
    pub deny: Vec<String>,
    /// Milliseconds that the table counts connections over; and more of one source than this are rejected.
    pub counted_over: Option<u64>,
    pub tracks_elsewhere: bool,
    pub most_in_time: Option<u64>,
    pub most_at_once: Option<u64>,
    pub asks: Asks,
    /// Backups serve together, and not the first living one alone.
    pub all_backups: bool,
    /// Words of `default-server`.
    pub each: Vec<String>,
}

impl Says {
    /// For a section that has these `defaults`.
    pub fn inherited(&self) -> Self {
        let says = self.clone();
        Self { asks: says.asks.inherited(), ..says }
    }
}

#[derive(Clone, Debug)]
pub struct Bind {
    /// The number of its line.
    pub line: usize,
    pub address: String,
    pub port: u16,
    pub certificates: Option<String>,
    /// Whom clients' certificates must be from, and whether they must show one: "required" or "optional".
    pub client_ca: Option<(String, String)>,
    pub min_version: Option<&'static str>,
    pub accept_proxy: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Server {
    /// The number of its line.
    pub line: usize,
    pub name: String,
    pub address: String,
    pub tls: bool,
    pub ca: Option<String>,
    pub tls_name: Option<String>,
    pub anybody: bool,
    pub weight: Option<u32>,
    pub disabled: bool,
    pub max_calls: Option<u64>,
    pub slow_start: Option<String>,
    pub backup: bool,
    pub checked: bool,
    pub interval: Option<String>,
    pub fast_interval: Option<String>,
    pub rise: Option<u32>,
    pub fall: Option<u32>,
    pub send_proxy: Option<&'static str>,
    /// Live connections count against it, and so do their answers.
    pub observed: bool,
    pub observed_by_answers: bool,
    pub error_limit: Option<u32>,
    /// Its checks speak TLS.
    pub check_ssl: bool,
}

impl Server {
    /// Whether it says otherwise than another of its backend what servers say together here.
    pub fn is_unlike(&self, other: &Self) -> bool {
        // What it does not say is what HAProxy does then.
        let checks = |server: &Self| {
            let interval = server.interval.clone().unwrap_or_else(|| USUAL.0.to_owned());
            let fast = server.fast_interval.clone().unwrap_or_else(|| interval.clone());
            (interval, fast, server.rise.unwrap_or(USUAL.1), server.fall.unwrap_or(USUAL.2))
        };
        let breaker = |server: &Self| (server.observed_by_answers, server.error_limit.unwrap_or(USUAL_ERRORS));
        self.checked != other.checked
            || self.send_proxy != other.send_proxy
            || self.observed != other.observed
            || self.checked && checks(self) != checks(other)
            || self.observed && breaker(self) != breaker(other)
    }
}

impl Proxy {
    /// The backend of what no rule sends elsewhere.
    pub fn leads_to(&self) -> &str {
        self.says.default_backend.as_deref().unwrap_or(&self.name)
    }

    pub fn is_sip(&self) -> bool {
        self.binds.iter().any(|bind| SIP_PORTS.contains(&bind.port))
    }
}
