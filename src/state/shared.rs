//! What all workers share and no reload replaces.

use super::counters::{PerWorker, WorkerCounters};
use super::limits::Limits;
use super::pins::Pins;

/// Allocated once at start; every part may be used by all workers at once.
pub struct Shared {
    pub pins: Pins,
    /// Requests that open something new, per source.
    pub sources: Limits,
    /// Error answers of our own, per source.
    pub answers: Limits,
    pub workers: PerWorker<WorkerCounters>,
}

impl Shared {
    /// For so many pins and workers.
    pub fn new(pins: usize, workers: usize) -> Self {
        Self {
            pins: Pins::new(pins),
            sources: Limits::default(),
            answers: Limits::default(),
            workers: PerWorker::new(workers),
        }
    }
}
