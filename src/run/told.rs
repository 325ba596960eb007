//! What the log says once a minute: what was dropped and refused, and which connections ended otherwise than by being closed.

use crate::state::connections::End;
use crate::state::counters::{Counter, FrontendCounters};
use crate::state::{Reason, Snapshot};

/// What the log has said of drops and of connections that ended.
#[derive(Debug)]
pub(super) struct Told {
    reasons: [u64; Reason::ALL.len()],
    ends: [u64; End::ALL.len()],
    /// Bans of this minute.
    pub bans: usize,
}

impl Default for Told {
    fn default() -> Self {
        Self { reasons: [0; Reason::ALL.len()], ends: [0; End::ALL.len()], bans: 0 }
    }
}

impl Told {
    /// Says what was dropped and refused since the last time, by reason, and why connections ended that nobody closed. A
    /// counter that nobody reads is no help to who wonders why a carrier's calls do not arrive.
    pub fn tell(&mut self, snapshot: &Snapshot) {
        let sum = |of: &dyn Fn(&FrontendCounters) -> &Counter| -> u64 {
            snapshot.frontends.iter().map(|frontend| frontend.live.sum(of)).sum()
        };
        let mut words = String::new();
        for (reason, told) in Reason::ALL.iter().zip(&mut self.reasons) {
            let more = more(told, sum(&|counters| counters.reasons.of(*reason)));
            if more > 0 && *reason != Reason::AckAbsorbed {
                words += &format!(" {}={more}", reason.word());
            }
        }
        if !words.is_empty() {
            tracing::warn!("dropped or refused:{words}");
        }
        words.clear();
        for (end, told) in End::ALL.iter().zip(&mut self.ends) {
            let more = more(told, sum(&|counters| counters.connection_ends.of(*end)));
            if more > 0 && *end != End::Closed {
                words += &format!(" {}={more}", end.word());
            }
        }
        if !words.is_empty() {
            tracing::warn!("connections ended or not let in:{words}");
        }
    }
}

/// How much it has grown.
fn more(told: &mut u64, now: u64) -> u64 {
    let more = now.saturating_sub(*told);
    *told = now;
    more
}
