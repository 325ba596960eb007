//! What is counted. Each counter has one writing worker; whoever reads sums over the workers.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::connections::EndCounters;
use super::methods::{ByMethod, MethodCounters, ResponseCounters};
use super::response_times::{Histogram, Timed};

/// A number that one thread adds to and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds without a locked instruction: there is one writer.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// For what is no count, or one that somebody else keeps, such as the kernel.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}

/// A number that goes up and down, and that every worker must see as it is: how many calls a server has decides where the
/// next one goes, and no limit holds that four workers each know a quarter of. So there is one for all of them, unlike a
/// [`Counter`]; it costs a locked instruction when a call begins and when it ends, not for every message.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds; less than nothing is taken off.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one if it is below `max` and stays there.
    #[inline]
    pub fn add_below(&self, max: i64) -> bool {
        let one_more = |now| (now < max).then_some(now + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Takes off, but never below nothing.
    #[inline]
    pub fn take(&self, n: i64) {
        let less = |now: i64| Some((now - n).max(0));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    #[inline]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One value per worker, two cache lines apart: neighbours must not slow each other.
#[derive(Debug)]
pub struct PerWorker<T> {
    cells: Box<[Padded<T>]>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> PerWorker<T> {
    pub fn new(workers: usize) -> Self {
        Self { cells: (0..workers).map(|_| Padded::default()).collect() }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.cells.len()
    }

    /// What this worker writes to.
    #[inline]
    pub fn of(&self, worker: usize) -> &T {
        &self.cells[worker].0
    }

    /// What each worker writes to.
    pub fn each(&self) -> impl Iterator<Item = &T> {
        self.cells.iter().map(|cell| &cell.0)
    }

    /// The sum of one counter over all workers.
    pub fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.cells.iter().map(|cell| counter(&cell.0).get()).sum()
    }
}

/// Defines [`Reason`] with its word and, where a request is refused rather than dropped, its answer.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal $(, $status:literal $phrase:literal)?;)*) => {
        /// Why a message was dropped or refused: the same word in the metric, on the stats page and in the log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The answer to a request that is refused for this reason; a drop has none.
            pub fn answer(self) -> Option<(u16, &'static str)> {
                match self { $(Self::$name => None $(.or(Some(($status, $phrase))))?,)* }
            }
        }
    };
}

reasons! {
    // Before anybody reads SIP in it.
    /// SigComp, unknown STUN, or too short for SIP.
    Junk = "junk";
    /// The first line is not SIP's.
    NotSip = "not_sip";
    /// A response longer than the frontend's `max_message`, or a datagram longer than any.
    TooLong = "too_long";
    /// From an address that nothing can be sent to, or our own; or to a group or everybody, which is never answered.
    BadSource = "bad_source";
    /// From a network in `deny`.
    Denied = "denied";
    /// A User-Agent in `deny_user_agent`: no answer, for an answer is what it looks for.
    Scanner = "scanner";
    /// Over `per_source_rate`.
    RateLimited = "rate_limited";
    /// It opens something new, and its source is banned.
    Banned = "banned";
    /// Something is wrong with it, and it cannot be answered: a response, an ACK, or one that lacks what an answer copies.
    Unanswerable = "unanswerable";
    /// The ACK to an answer of our own.
    AckAbsorbed = "ack_absorbed";
    /// An answer of our own that would have been one too many for its source.
    AnswerLimited = "answer_limited";

    // Requests that are refused (docs/rules.md 4-6, 20, 22, 28-30).
    Malformed = "malformed", 400 "Bad Request";
    ForgedToken = "forged_token", 403 "Forbidden";
    ForbiddenTarget = "forbidden_target", 403 "Forbidden";
    UnknownTarget = "unknown_target", 404 "Not Found";
    UnknownScheme = "unknown_scheme", 416 "Unsupported URI Scheme";
    UnknownExtension = "unknown_extension", 420 "Bad Extension";
    /// The client's connection is gone (RFC 5626 §5.3.1).
    FlowGone = "flow_gone", 430 "Flow Failed";
    TooManyHops = "too_many_hops", 483 "Too Many Hops";
    NoServer = "no_server", 503 "Service Unavailable";
    /// Every server that could take the call has its `max_calls` or its `max_rate`.
    ServersFull = "servers_full", 503 "Service Unavailable";
    Version = "version", 505 "Version Not Supported";
    /// Longer than the frontend's `max_message`, or than a datagram with what must be added.
    TooLarge = "too_large", 513 "Message Too Large";

    // Responses that go nowhere (docs/rules.md 13-17).
    /// The top Via is not ours.
    ForeignResponse = "foreign_response";
    /// The top Via looks like ours, and its MAC is wrong.
    ForgedResponse = "forged_response";
    /// The top Via is ours, and the sender is not the server that the request went to.
    StrangerResponse = "stranger_response";
    /// Only our Via is in it: an answer to us, and we asked nothing there.
    OwnResponse = "own_response";
    /// Its server is not in the configuration any more.
    GoneServer = "gone_server";
    /// Nothing in it says where it should go.
    NoWayBack = "no_way_back";

    // Sending.
    /// To broadcast, multicast, nowhere, or ourselves. A server's request is answered.
    BadDestination = "bad_destination", 404 "Not Found";
    /// A relay's client would be one more than `max_flows`.
    FlowsFull = "flows_full";
    /// The host gave no socket for a relay's new flow: no open file or no port was left, or no route.
    FlowRefused = "flow_refused";
    /// No socket of ours has the address that it must leave from. A server's request is answered.
    NoSocket = "no_socket", 503 "Service Unavailable";
    /// The kernel had no room for it.
    SendBlocked = "send_blocked";
    /// The kernel refused to send it, twice.
    SendFailed = "send_failed";
}

/// What one worker counts for one frontend.
#[derive(Debug, Default)]
pub struct FrontendCounters {
    /// Datagrams that came in; each ends as exactly one of the following, down to `reasons`.
    pub received: Counter,
    pub keepalives: Counter,
    pub stun: Counter,
    /// Requests to servers, and responses to those.
    pub requests_to_servers: Counter,
    pub responses_to_clients: Counter,
    /// Requests from servers to clients, and responses to those.
    pub requests_to_clients: Counter,
    pub responses_to_servers: Counter,
    /// Answers of our own that are no refusal: 200 to OPTIONS.
    pub answered: Counter,
    /// Datagrams of a relay that left, and their bytes.
    pub relayed_to_servers: Counter,
    pub relayed_to_clients: Counter,
    /// Dropped or refused, by [`Reason`].
    pub reasons: ReasonCounters,

    /// Requests that clients sent, whatever became of them.
    pub requests_from_clients: MethodCounters,
    /// Requests to servers that this worker had sent to some server before: retransmissions, whatever their method. What a
    /// worker remembers is bounded ([`Repeats`](super::repeats::Repeats)), so it is a little less than there were.
    pub retransmissions: Counter,
    /// Requests to servers that opened something and were balanced, and the INVITEs among them: new calls.
    pub balanced: Counter,
    pub calls: Counter,
    /// Responses that left to its clients by first digit, 1xx first: those of servers, whatever frontend they came to, and
    /// our own answers.
    pub to_clients: [Counter; 6],

    /// What clients sent that could be read: messages as they came, whatever became of them, and a relay's datagrams.
    pub bytes_from_clients: Counter,
    /// What left, as it left.
    pub bytes_to_servers: Counter,
    pub bytes_to_clients: Counter,
    /// A relay's flows: the difference is open now.
    pub flows_opened: Counter,
    pub flows_closed: Counter,
    /// Of those closed: idle, and made to give way.
    pub flows_expired: Counter,
    pub flows_evicted: Counter,
    /// Connections of clients that were let in: the difference is open now.
    pub connections: Counter,
    pub connections_closed: Counter,
    /// Why connections ended, by [`End`](super::connections::End); those that were not let in and our own are here alone.
    pub connection_ends: EndCounters,
}

/// What was counted of a frontend since the start, for whoever shows it. What its `received` ended as is in the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrontendCounted {
    /// Requests that clients sent.
    pub requests: ByMethod,
    /// Requests to servers that had been sent on before.
    pub retransmissions: u64,
    /// Responses that left to its clients, by first digit, 1xx first.
    pub responses: [u64; 6],
    /// What clients sent, and what left to them.
    pub bytes_from_clients: u64,
    pub bytes_to_clients: u64,
}

impl PerWorker<FrontendCounters> {
    pub fn counted(&self) -> FrontendCounted {
        FrontendCounted {
            requests: ByMethod::sum(self.each().map(|of| &of.requests_from_clients)),
            retransmissions: self.sum(|of| &of.retransmissions),
            responses: std::array::from_fn(|class| self.sum(|of| &of.to_clients[class])),
            bytes_from_clients: self.sum(|of| &of.bytes_from_clients),
            bytes_to_clients: self.sum(|of| &of.bytes_to_clients),
        }
    }
}

/// One counter per [`Reason`].
#[derive(Debug)]
pub struct ReasonCounters([Counter; Reason::ALL.len()]);

impl Default for ReasonCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl ReasonCounters {
    #[inline]
    pub fn of(&self, reason: Reason) -> &Counter {
        &self.0[reason as usize]
    }
}

/// What one worker counts for one server.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Requests that were sent to it, and those of them that opened something and were balanced.
    pub requests: MethodCounters,
    pub balanced: Counter,
    /// Those of them that this worker had sent to some server before ([`FrontendCounters::retransmissions`]).
    pub retransmissions: Counter,
    /// Requests that want an answer: all but ACK.
    pub asked: Counter,
    /// INVITEs among the balanced ones: new calls.
    pub calls: Counter,
    /// Responses by first digit, 1xx first, for who looks at all servers several times a second; and in detail.
    pub responses: [Counter; 6],
    pub responses_by_code: ResponseCounters,
    /// 100s to INVITEs among them.
    pub trying: Counter,
    /// Requests that it sent through us.
    pub sent: Counter,
    /// Datagrams that a relay sent to it and had from it.
    pub relayed_to: Counter,
    pub relayed_from: Counter,
    /// Messages and datagrams of relays: what left to it, and what came from it.
    pub bytes_to: Counter,
    pub bytes_from: Counter,
    /// A relay's flows that it got: the difference is open now.
    pub flows_opened: Counter,
    pub flows_closed: Counter,
    /// A relay's connections by which it said something, or that ended in order.
    pub flows_good: Counter,
    /// Requests to it that the kernel could not send; ICMP errors about it, and connections that it did not let in or reset
    /// with something unanswered.
    pub failed: Counter,
    pub unreachable: Counter,
    /// When the newest INVITE without To tag left that it has answered in any way; microseconds.
    pub answered: Counter,
    /// Answers to what opens something: those with one of the breaker's `codes`.
    pub failing: Counter,
    /// Those of them since the last other one: how many, the calls of the newest, and the
    /// [`rows_begun`](super::server::ServerLive::rows_begun) that they belong to; and how often they were `failures`.
    pub failing_now: Counter,
    pub failing_calls: [Counter; 16],
    pub failing_since: Counter,
    pub failing_rows: Counter,
    /// Those of `failing` that are 5xx.
    pub failing_5xx: Counter,
    /// New requests that went elsewhere because its breaker is half-open: they were no trial calls.
    pub rejected: Counter,
    /// By [`Timed`].
    pub response_times: [Histogram; Timed::ALL.len()],
}

/// What one worker counts for itself.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// recvmmsg and sendmmsg calls.
    pub receives: Counter,
    pub sends: Counter,
    /// Datagrams that the kernel dropped for want of buffer, as it says once a second.
    pub kernel_drops: Counter,
    /// ICMP errors taken from the error queues.
    pub icmp: Counter,
    /// Live pins that had to give way.
    pub pins_evicted: Counter,
    /// The snapshot's generation that this worker works with.
    pub generation: Counter,
    /// When its event loop turned last, by its timer: nanoseconds of [`Time`](super::Time). A second ago at most, while it lives and is not
    /// about to stop; nothing before its first turn.
    pub turned: Counter,
    /// What it had received in all when it looked last whether it can stop; nothing before it was told to.
    pub stopping: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }

    #[test]
    fn no_two_threads_take_the_last_place_of_a_gauge() {
        const MAX: i64 = 3;
        let gauge = Gauge::default();
        let take = || {
            for _ in 0..500_000 {
                if gauge.add_below(MAX) {
                    let now = gauge.get();
                    gauge.add(-1);
                    assert!(now <= MAX, "{now} are in");
                }
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(take))));
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn workers_count_apart_and_are_summed() {
        let counters: PerWorker<ServerCounters> = PerWorker::new(3);
        counters.of(0).asked.add(2);
        counters.of(2).asked.add(5);
        assert_eq!(counters.sum(|c| &c.asked), 7);
    }
}
