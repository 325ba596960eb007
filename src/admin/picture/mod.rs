//! One picture of the whole balancer: read at one moment, for everybody who shows something. Two renderers cannot disagree,
//! for they read the same picture; and however many look, it is made at most four times a second.
//!
//! [`look`] makes it, [`second`] remembers what a single look cannot know: rates, largest values, the last minutes.

mod gone;
pub mod look;
pub mod second;
pub mod verdict;

use std::net::SocketAddr;
use std::ops::{AddAssign, Index, IndexMut};
use std::sync::Arc;
use std::time::Duration;

use self::second::Second;
use super::journal::Reloads;
use super::roles::Role;
use crate::net::tls::Certificate;
use crate::sip::Transport;
use crate::sip::token::NameHash;
use crate::state::connections::End;
use crate::state::counters::{FrontendCounters, PerWorker};
use crate::state::methods::{ByMethod, MethodClass, Responses};
use crate::state::records::ServerRecord;
use crate::state::response_times::{ResponseTimes, Timed};
use crate::state::server::{Admin, BreakerCounts, Circuit, Health, ServerState};
use crate::state::{Reason, Time};

/// Defines what is counted, and how many such numbers there are.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a [`Tally`] counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $($(#[$doc])* $name,)* }

        impl Count {
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

counts! {
    /// Requests: of a frontend those that came, of a server those that went to it.
    Requests,
    /// New calls, and whatever else opened something and was balanced.
    Calls,
    Opened,
    /// Responses that came from servers, or that went to clients, by first digit.
    Responses1xx,
    Responses2xx,
    Responses3xx,
    Responses4xx,
    Responses5xx,
    Responses6xx,
    /// Requests by method, the rest together.
    Invite,
    Register,
    Options,
    Bye,
    OtherMethods,
    /// Requests that had been sent on before.
    Retransmissions,
    /// Requests that servers sent through us.
    Sent,
    BytesIn,
    BytesOut,
    /// Connections of clients and flows of relays, ever.
    Connections,
    /// What came: datagrams and stream messages.
    Received,
    Refused,
    /// Of those the ones for want of a server: no server's failure, and a caller's all the same.
    Unserved,
    Dropped,
    /// Refused or dropped because of who sent it, and because of how it is written.
    Denied,
    Malformed,
    Failed,
    /// Of those the answers with a 5xx of `codes`.
    Failing5xx,
    Unreachable,
    /// Went elsewhere because a breaker was half-open.
    Rejected,
}

/// In the order of [`MethodClass::ALL`].
const METHODS: [Count; MethodClass::ALL.len()] =
    [Count::Invite, Count::Register, Count::Options, Count::Bye, Count::OtherMethods];

/// Numbers that only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally([u64; Count::ALL.len()]);

impl Default for Tally {
    fn default() -> Self {
        Self([0; Count::ALL.len()])
    }
}

impl Index<Count> for Tally {
    type Output = u64;

    fn index(&self, count: Count) -> &u64 {
        &self.0[count as usize]
    }
}

impl IndexMut<Count> for Tally {
    fn index_mut(&mut self, count: Count) -> &mut u64 {
        &mut self.0[count as usize]
    }
}

impl AddAssign<&Self> for Tally {
    fn add_assign(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, n)| *sum += n);
    }
}

impl Tally {
    /// What came since an earlier one.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut more = *self;
        more.0.iter_mut().zip(earlier.0).for_each(|(now, before)| *now = now.saturating_sub(before));
        more
    }

    /// Requests by method.
    pub(super) fn set_methods(&mut self, by_method: &ByMethod) {
        for (class, count) in MethodClass::ALL.into_iter().zip(METHODS) {
            self[count] = by_method.of(class);
        }
        self[Count::Requests] = by_method.all();
    }

    /// Requests by the name of their method.
    pub fn methods(&self) -> impl Iterator<Item = (&'static str, u64)> {
        MethodClass::ALL.into_iter().zip(METHODS).map(|(class, count)| (class.word(), self[count]))
    }

    fn set_responses(&mut self, responses: [u64; 6]) {
        self.0[Count::Responses1xx as usize..][..6].copy_from_slice(&responses);
    }

    /// By first digit, 1xx first.
    pub fn responses(&self) -> [u64; 6] {
        let first = Count::Responses1xx as usize;
        std::array::from_fn(|class| self.0[first + class])
    }
}

/// Why a frontend dropped and refused messages, and why its connections ended, in the order of [`Reason::ALL`] and [`End::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Causes {
    pub reasons: [u64; Reason::ALL.len()],
    pub ends: [u64; End::ALL.len()],
}

impl Default for Causes {
    fn default() -> Self {
        Self { reasons: [0; Reason::ALL.len()], ends: [0; End::ALL.len()] }
    }
}

impl Causes {
    pub fn of(live: &PerWorker<FrontendCounters>) -> Self {
        Self {
            reasons: std::array::from_fn(|n| live.sum(|live| live.reasons.of(Reason::ALL[n]))),
            ends: std::array::from_fn(|n| live.sum(|live| live.connection_ends.of(End::ALL[n]))),
        }
    }

    /// What came since an earlier one.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            reasons: std::array::from_fn(|n| self.reasons[n].saturating_sub(earlier.reasons[n])),
            ends: std::array::from_fn(|n| self.ends[n].saturating_sub(earlier.ends[n])),
        }
    }
}

/// Of the last whole second, and of the second that had most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    pub now: f64,
    pub most: f64,
}

/// What is watched second by second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub calls: Rate,
    pub opened: Rate,
    pub requests: Rate,
    pub connections: Rate,
    /// Calls at once; a gauge, not a rate.
    pub active: Rate,
}

/// The whole.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Counts from 1 on.
    pub number: u64,
    /// Seconds since 1970, and the same moment as the workers know it.
    pub made_at: f64,
    pub made: Time,
    pub node: Node,
    pub reloads: Reloads,
    pub certificates: Vec<Certificate>,
    pub pins: PinsUsed,
    pub sums: Sums,
    /// What frontends counted that a reload has removed.
    pub left: Tally,
    /// Of all frontends.
    pub reasons: [u64; Reason::ALL.len()],
    pub frontends: Vec<Frontend>,
    pub backends: Vec<Backend>,
    /// Of all of it.
    pub rates: Rates,
    pub last_second: Second,
    /// Of the last half minute or so, of all servers; longer where nobody looks for longer.
    pub times: Percentiles,
}

/// This process.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub pid: u32,
    pub uptime: Duration,
    /// Seconds since 1970.
    pub started_at: u64,
    pub workers: usize,
    /// [`crate::config::fingerprint`] of the text in force.
    pub configuration: u64,
    pub stopping: bool,
    /// What it is in its pair.
    pub roles: Arc<Vec<Role>>,
}

/// The table of calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct PinsUsed {
    pub used: u64,
    pub size: u64,
    pub evicted: u64,
}

/// What the workers count for themselves, summed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    pub receives: u64,
    pub sends: u64,
    pub kernel_drops: u64,
    pub icmp: u64,
    /// Copies of followed calls that found no room, packets for a collector that left, and that could not.
    pub copies_lost: u64,
    pub hep_sent: u64,
    pub hep_failed: u64,
    /// Sources that may open nothing new.
    pub banned: u64,
}

/// How quickly servers answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    pub p50: Option<Duration>,
    pub p95: Option<Duration>,
    pub p99: Option<Duration>,
}

impl Percentiles {
    pub fn of(times: &ResponseTimes) -> Self {
        let [p50, p95, p99] = [50, 95, 99].map(|percent| times.percentile(percent));
        Self { p50, p95, p99 }
    }
}

/// A frontend as it is shown.
#[derive(Clone, Debug)]
pub struct Frontend {
    pub id: NameHash,
    /// HAProxy's number of a proxy, see [`look::numbers`].
    pub iid: usize,
    pub name: String,
    pub mode: &'static str,
    pub binds: Vec<String>,
    /// Connections of clients and flows of relays that are open, and how many may be.
    pub open: u64,
    pub most_open: u64,
    pub tally: Tally,
    pub causes: Causes,
    /// The same ever, whatever was cleared: our own counters at Prometheus never fall.
    pub ever: Tally,
    pub causes_ever: Causes,
    pub rates: Rates,
}

/// A backend as it is shown.
#[derive(Clone, Debug)]
pub struct Backend {
    pub id: NameHash,
    pub iid: usize,
    pub name: String,
    /// As the frontends that use it.
    pub mode: &'static str,
    pub balance: &'static str,
    pub forwards_when_down: bool,
    /// Percent of a region's server weight.
    pub spill_below: u32,
    /// Whether somebody takes new calls.
    pub up: bool,
    pub unchanged: Duration,
    pub downs: u64,
    pub downtime: Duration,
    pub calls: u64,
    pub tally: Tally,
    pub rates: Rates,
    pub regions: Vec<Region>,
    pub servers: Vec<Server>,
    /// Servers that are names, and have no address.
    pub nameless: Vec<Nameless>,
    pub stick: Option<StickUsed>,
}

/// A stick table.
#[derive(Clone, Debug)]
pub struct StickUsed {
    pub on: &'static str,
    pub size: u64,
    pub used: u64,
}

/// A server whose name has no address.
#[derive(Clone, Debug)]
pub struct Nameless {
    pub name: String,
    pub region: String,
    pub query: String,
    pub weight: u32,
}

/// A region of a backend as it is shown.
#[derive(Clone, Debug)]
pub struct Region {
    pub id: NameHash,
    pub name: String,
    pub weight: u32,
    /// The part of the calls that the configuration gives it, and the part that it should have with those who are usable
    /// now; from 0 to 1.
    pub target: f64,
    pub expected: f64,
    /// Whether that was so for the whole of the last minute.
    pub settled: bool,
    /// What opened something in the last minute here and in the whole backend.
    pub opened: u64,
    pub opened_in_all: u64,
    /// Servers that do their part, and all, backups apart that only stand in, and without those that leave; names without an address
    /// are among these.
    pub up: usize,
    pub servers: usize,
    pub availability: f64,
    pub tally: Tally,
}

impl Region {
    /// Its part of what opened something in the last minute.
    pub fn actual(&self) -> Option<f64> {
        (self.opened_in_all > 0).then(|| self.opened as f64 / self.opened_in_all as f64)
    }

    /// Whether its part is another than it should be, and chance alone would hardly do that: over one point, and over four
    /// standard deviations of so many draws. `None` where too few came to say anything, or it should be so only since a moment.
    pub fn deviates(&self) -> Option<bool> {
        /// Fewer than this say nothing about a point.
        const FEW: u64 = 500;
        let actual = self.actual().filter(|_| self.settled && self.opened_in_all >= FEW)?;
        let sigma = (self.expected * (1.0 - self.expected) / self.opened_in_all as f64).sqrt();
        Some((actual - self.expected).abs() > 0.01_f64.max(4.0 * sigma))
    }
}

/// A server as it is shown.
#[derive(Clone, Debug)]
pub struct Server {
    pub id: NameHash,
    /// By position in its backend, from 1 on.
    pub sid: usize,
    pub backend: String,
    pub backend_iid: usize,
    pub name: String,
    pub region: String,
    pub transport: Transport,
    pub address: SocketAddr,
    /// The name that the DNS has this address for.
    pub host: Option<String>,
    pub backup: bool,
    pub state: ServerState,
    /// `rise` and `fall` of its check; `None`: nobody asks.
    pub check: Option<(u32, u32)>,
    pub breaker: Option<BreakerShown>,
    pub weight: u32,
    /// The weight of the file.
    pub initial: u32,
    pub calls: u64,
    pub max_calls: u32,
    /// New calls a second; 0 is no limit.
    pub max_rate: f64,
    pub tally: Tally,
    /// The same ever, whatever was cleared.
    pub ever: Tally,
    pub rates: Rates,
    pub times: Percentiles,
    /// How long its answers took, by [`Timed`], since the start.
    pub histograms: [ResponseTimes; Timed::ALL.len()],
    /// Its responses by method and code.
    pub responses: Responses,
    pub record: Option<ServerRecord>,
    pub unchanged: Duration,
    pub downtime: Duration,
    /// Whether it takes new calls, some or all.
    pub takes_new: bool,
}

/// A breaker as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct BreakerShown {
    pub circuit: Circuit,
    /// How long it has been so.
    pub unchanged: Duration,
    pub counts: BreakerCounts,
    pub failures: u32,
    pub half_open_max: u32,
    /// Trial calls that have a final answer.
    pub trials_done: usize,
    pub open_for: Duration,
}

impl Server {
    /// How it is in words: `up`, or `up, drain`, or `up, breaker open`. Of who is not asked nobody knows.
    pub fn word(&self) -> String {
        let ServerState { admin, health, breaker, .. } = self.state;
        let is_known = self.check.is_some() || health != Health::Up;
        let mut word = if is_known { health.word() } else { "no check" }.to_owned();
        if admin != Admin::Ready {
            word += &format!(", {}", admin.word());
        }
        if breaker != Circuit::Closed {
            word += &format!(", breaker {}", breaker.word());
        }
        word
    }

    /// Why it does not take new calls, where its health says so.
    pub fn why(&self) -> Option<String> {
        let last = self.record.as_ref()?.last?;
        (self.state.health != Health::Up && last.to == self.state.health).then(|| last.why.to_string())
    }

    /// The address as it is written in the configuration.
    pub fn uri(&self) -> String {
        format!("{}://{}", self.transport.name(), self.address)
    }

    /// Until its open breaker lets trial calls through.
    pub fn breaker_rests(&self) -> Option<Duration> {
        let breaker = self.breaker.filter(|breaker| breaker.circuit == Circuit::Open)?;
        Some(breaker.open_for.saturating_sub(breaker.unchanged))
    }

    /// "backend/server".
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.backend, self.name)
    }
}

impl Backend {
    /// How long the last checks of its servers took that were answered, one with another.
    pub fn check_time(&self) -> Option<Duration> {
        let last = self.servers.iter().filter_map(|server| server.record.as_ref()?.checks.back());
        let answered: Vec<_> = last.filter(|checked| checked.passed).map(|checked| checked.took).collect();
        let count = u32::try_from(answered.len()).ok().filter(|count| *count > 0)?;
        Some(answered.iter().sum::<Duration>() / count)
    }
}

impl Picture {
    /// All servers, by backend.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.backends.iter().flat_map(|backend| &backend.servers)
    }

    pub fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.name == name || numbered(name) == Some(backend.iid))
    }

    /// HAProxy's number of the proxy of this name.
    pub fn proxy(&self, name: &str) -> Option<usize> {
        let frontends = self.frontends.iter().map(|frontend| (&frontend.name, frontend.iid));
        let mut all = frontends.chain(self.backends.iter().map(|backend| (&backend.name, backend.iid)));
        all.find(|(proxy, _)| *proxy == name).map(|(_, iid)| iid)
    }

    /// Connections of clients and flows of relays that are open, and how many may be.
    pub fn open(&self) -> (u64, u64) {
        let each = self.frontends.iter().map(|frontend| (frontend.open, frontend.most_open));
        each.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    }

    /// What all frontends counted, those that are gone too.
    pub fn counted(&self, count: Count) -> u64 {
        self.frontends.iter().map(|frontend| frontend.tally[count]).sum::<u64>() + self.left[count]
    }

    /// Calls at once.
    pub fn calls(&self) -> u64 {
        self.backends.iter().map(|backend| backend.calls).sum()
    }
}

/// What HAProxy's `#3` stands for where a name could stand: the number of a backend or of a server.
pub fn numbered(name: &str) -> Option<usize> {
    name.strip_prefix('#')?.parse().ok()
}
