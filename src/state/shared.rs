//! What all workers share and no reload replaces.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Time;
use super::bad_messages::BadMessages;
use super::bans::Bans;
use super::connections::Connections;
use super::counters::{Counter, PerWorker, WorkerCounters};
use super::limits::Limits;
use super::pins::Pins;
use super::refused::RefusedSources;
use super::tap::Taps;

/// Allocated once at start; every part may be used by all workers at once.
pub struct Shared {
    pub pins: Pins,
    /// Requests that open something new, connections and handshakes, per source.
    pub sources: Limits,
    pub bans: Bans,
    /// Error answers of our own, per source.
    pub answers: Limits,
    pub connections: Connections,
    pub workers: PerWorker<WorkerCounters>,
    /// When servers were looked at last, which no worker does: nanoseconds of [`Time`], and its end where nobody has to any more.
    pub looked: Counter,
    /// [`Shared::bad_messages`] reads them.
    pub bad: PerWorker<BadMessages>,
    /// [`Shared::refused_sources`] reads them.
    pub refused: PerWorker<RefusedSources>,
    /// Copies of the messages of calls that somebody follows.
    pub taps: Taps,
    /// This process's number: connections of another one are not ours.
    pub instance: NonZeroU32,
}

impl Shared {
    /// For so many pins and workers.
    pub fn new(pins: usize, workers: usize) -> Self {
        Self {
            pins: Pins::new(pins),
            sources: Limits::default(),
            bans: Bans::default(),
            answers: Limits::default(),
            connections: Connections::default(),
            workers: PerWorker::new(workers),
            looked: Counter::default(),
            bad: PerWorker::new(workers),
            refused: PerWorker::new(workers),
            taps: Taps::new(workers),
            instance: NonZeroU32::MIN,
        }
    }

    /// How long ago the event loop of each worker turned last, a second at most where all is well: they do it by their timers,
    /// whether anything comes or not.
    pub fn since_turns(&self, now: Time) -> impl Iterator<Item = Duration> {
        self.workers.each().map(move |of| now.since(Time(of.turned.get())))
    }
}
