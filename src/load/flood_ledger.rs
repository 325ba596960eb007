//! The books of a flood: which requests are out, which came back, how often and when.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::json::Object;
use super::ledger::Statuses;
use super::report::Quantiles;
use crate::state::Time;

/// Requests that are remembered: at 300,000 a second, those of three seconds. A power of two.
const REMEMBERED: usize = 1 << 20;

/// The most outstanding requests of a closed loop: a small part of what is remembered.
pub const OUTSTANDING: u32 = 65_536;

/// A request without answer for so long no longer holds up a closed loop; its answer still counts when it comes.
const WRITE_OFF: Duration = Duration::from_secs(1);

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not in use, or the system did not take it.
    Free,
    Out,
    /// Without answer for longer than [`WRITE_OFF`].
    WrittenOff,
    Answered,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// When it was meant to be sent.
    meant: Time,
    /// When it was sent.
    sent: Time,
    state: State,
}

/// The requests of the last seconds, by number.
pub struct Pending {
    entries: Box<[Entry]>,
    /// The half of every number that names this run.
    run: u32,
    begun: u64,
    /// Before this one none is out.
    oldest: u64,
    outstanding: u64,
    not_sent: u64,
    /// Forgotten without answer because newer ones took their place.
    forgotten: u64,
}

/// What came back.
#[derive(Debug)]
pub struct Tally {
    pub answered: u64,
    pub refused: Statuses,
    pub duplicates: u64,
    /// Those of `answered` and `refused` that came after they had been written off.
    pub late: u64,
    pub provisional: u64,
    /// Datagrams that answer nothing that is remembered.
    pub stray: u64,
    /// Requests that the system did not take.
    pub not_sent: u64,
    pub elapsed: Duration,
    pub latency: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            answered: 0,
            refused: Statuses::new(),
            duplicates: 0,
            late: 0,
            provisional: 0,
            stray: 0,
            not_sent: 0,
            elapsed: Duration::ZERO,
            latency: super::flood::histogram(),
        }
    }
}

impl Pending {
    /// None yet, for the run with this number.
    pub fn new(run: u32) -> Self {
        let free = Entry { meant: Time(0), sent: Time(0), state: State::Free };
        let entries = vec![free; REMEMBERED].into_boxed_slice();
        Self { entries, run, begun: 0, oldest: 0, outstanding: 0, not_sent: 0, forgotten: 0 }
    }

    /// Requests so far, those that the system did not take included.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Requests without answer that are still waited for.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Notes the next request and says its number.
    #[inline]
    pub fn begin(&mut self, meant: Time, now: Time) -> u64 {
        let number = self.begun;
        self.begun += 1;
        self.outstanding += 1;
        let entry = &mut self.entries[number as usize % REMEMBERED];
        match entry.state {
            State::Out => {
                self.outstanding -= 1;
                self.forgotten += 1;
            }
            State::WrittenOff => self.forgotten += 1,
            State::Free | State::Answered => {}
        }
        *entry = Entry { meant, sent: now, state: State::Out };
        u64::from(self.run) << 32 | (number & u64::from(u32::MAX))
    }

    /// The system did not take the n-th request.
    pub fn take_back(&mut self, number: u64) {
        self.entries[number as usize % REMEMBERED].state = State::Free;
        self.outstanding -= 1;
        self.not_sent += 1;
    }

    /// An answer came.
    #[inline]
    pub fn answered(&mut self, id: u64, status: u16, now: Time, tally: &mut Tally) {
        // Numbers are 32 bits on the wire: those of the remembered requests are unlike each other.
        let number = self.begun - (self.begun.wrapping_sub(id) & u64::from(u32::MAX)).min(self.begun);
        let remembered = (id >> 32) as u32 == self.run && self.begun - number <= REMEMBERED as u64;
        if !remembered || number == self.begun {
            tally.stray += 1;
            return;
        }
        if status < 200 {
            tally.provisional += 1;
            return;
        }
        let entry = &mut self.entries[number as usize % REMEMBERED];
        match entry.state {
            State::Free => tally.stray += 1,
            State::Answered => tally.duplicates += 1,
            before => {
                entry.state = State::Answered;
                match before {
                    State::WrittenOff => tally.late += 1,
                    _ => self.outstanding -= 1,
                }
                tally.latency.saturating_record(now.since(entry.meant).as_micros() as u64);
                match status {
                    200..300 => tally.answered += 1,
                    _ => *tally.refused.entry(status).or_default() += 1,
                }
            }
        }
    }

    /// Waits no longer for requests that were sent too long ago.
    pub fn write_off(&mut self, now: Time) {
        self.oldest = self.oldest.max(self.begun.saturating_sub(REMEMBERED as u64));
        while self.oldest < self.begun {
            let entry = &mut self.entries[self.oldest as usize % REMEMBERED];
            if entry.state == State::Out {
                if now.since(entry.sent) < WRITE_OFF {
                    return;
                }
                entry.state = State::WrittenOff;
                self.outstanding -= 1;
            }
            self.oldest += 1;
        }
    }

    /// Requests without any answer, counted one by one.
    pub fn lost(&self) -> u64 {
        let open = |entry: &&Entry| matches!(entry.state, State::Out | State::WrittenOff);
        self.forgotten + self.entries.iter().filter(open).count() as u64
    }
}

/// What a flood reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FloodReport {
    /// While requests were sent.
    pub elapsed: Duration,
    /// Requests that the system took.
    pub sent: u64,
    /// Requests that got a 2xx, each counted once.
    pub answered: u64,
    /// Requests that got another final answer, by status.
    pub refused: Statuses,
    /// Requests without answer two seconds after the last was sent.
    pub lost: u64,
    /// Further answers to requests that had one.
    pub duplicates: u64,
    /// Those of `answered` and `refused` whose answer took more than a second.
    pub late: u64,
    pub provisional: u64,
    /// Datagrams that answer nothing.
    pub stray: u64,
    /// Requests that the system did not take.
    pub not_sent: u64,
    /// Requests that the sinks answered, and answers of theirs that the system did not take.
    pub echoed: u64,
    pub echoes_not_sent: u64,
    pub latency: Quantiles,
}

impl FloodReport {
    pub(super) fn of(pending: &Pending, tally: Tally, echoed: u64, echoes_not_sent: u64) -> Self {
        Self {
            elapsed: tally.elapsed,
            sent: pending.begun - pending.not_sent,
            answered: tally.answered,
            lost: pending.lost(),
            duplicates: tally.duplicates,
            late: tally.late,
            provisional: tally.provisional,
            stray: tally.stray,
            not_sent: tally.not_sent,
            echoed,
            echoes_not_sent,
            latency: Quantiles::of(&tally.latency),
            refused: tally.refused,
        }
    }

    /// Requests that were answered, per second.
    pub fn rate(&self) -> f64 {
        match self.elapsed.as_secs_f64() {
            seconds if seconds > 0.0 => self.answered as f64 / seconds,
            _ => 0.0,
        }
    }

    /// Requests that got another final answer than 2xx.
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Whether every request is in exactly one column.
    pub fn balances(&self) -> bool {
        self.sent == self.answered + self.refused_total() + self.lost
    }

    /// Whether every request was answered; one that only echoes has none.
    pub fn succeeded(&self) -> bool {
        self.balances() && self.answered == self.sent && self.not_sent == 0 && self.sent + self.echoed > 0
    }

    pub(super) fn write(&self, object: &mut Object) {
        object.text("kind", "flood").decimal("elapsed_s", self.elapsed.as_secs_f64()).decimal("rate", self.rate());
        object.number("sent", self.sent).number("answered", self.answered).number("refused", self.refused_total());
        object.counts("refused_by_status", &self.refused);
        object.number("lost", self.lost).number("duplicates", self.duplicates).number("late", self.late);
        object.number("provisional", self.provisional).number("stray", self.stray).number("not_sent", self.not_sent);
        object.number("echoed", self.echoed).number("echoes_not_sent", self.echoes_not_sent);
        object.truth("balances", self.balances());
        self.latency.write("latency", object);
    }
}

impl fmt::Display for FloodReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, answered, lost, duplicates, late, stray, not_sent, .. } = self;
        writeln!(f, "{:.0} answered per second, {:.2} s", self.rate(), self.elapsed.as_secs_f64())?;
        writeln!(f, "sent {sent} = answered {answered} + refused {} + lost {lost}", self.refused_total())?;
        for (status, count) in &self.refused {
            writeln!(f, "  refused with {status}: {count}")?;
        }
        writeln!(f, "{duplicates} duplicates, {late} late, {stray} stray, {not_sent} not sent")?;
        writeln!(f, "sinks answered {}, {} answers not sent", self.echoed, self.echoes_not_sent)?;
        writeln!(f, "latency  {}", self.latency)?;
        super::report::write_verdict(f, self.balances(), self.succeeded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Time = Time(5_000_000_000);

    fn at(millis: u64) -> Time {
        T0 + Duration::from_millis(millis)
    }

    #[test]
    fn the_books_of_a_flood_count_each_request_once() {
        let mut pending = Pending::new(9);
        let mut tally = Tally::default();
        let ids: Vec<u64> = (0..6).map(|_| pending.begin(T0, T0)).collect();
        pending.take_back(5);
        pending.answered(ids[0], 100, at(1), &mut tally);
        pending.answered(ids[0], 200, at(1), &mut tally);
        pending.answered(ids[0], 200, at(2), &mut tally);
        pending.answered(ids[1], 503, at(3), &mut tally);
        pending.answered(ids[5], 200, at(3), &mut tally);
        pending.answered(ids[0] + 6, 200, at(3), &mut tally);
        pending.answered(1 << 40, 200, at(3), &mut tally);
        assert_eq!(pending.outstanding(), 3);
        pending.write_off(at(999));
        assert_eq!(pending.outstanding(), 3);
        pending.write_off(at(1000));
        assert_eq!((pending.outstanding(), pending.lost()), (0, 3));
        pending.answered(ids[2], 200, at(1500), &mut tally);
        assert_eq!((tally.provisional, tally.duplicates, tally.late, tally.stray), (1, 1, 1, 3));
        let report = FloodReport::of(&pending, tally, 0, 0);
        assert_eq!((report.sent, report.answered, report.refused_total(), report.lost), (5, 2, 1, 2));
        assert!(report.balances() && !report.succeeded());
    }

    #[test]
    fn a_flood_longer_than_its_memory_still_balances() {
        let mut pending = Pending::new(9);
        let mut tally = Tally::default();
        // More than are remembered; every third is never answered, and half of those are written off at some time.
        for n in 0..2_500_000u64 {
            if n == 1_000_000 {
                pending.write_off(at(2000));
            }
            let id = pending.begin(T0, T0);
            if n % 3 != 0 {
                pending.answered(id, 200, at(1), &mut tally);
            }
        }
        assert_eq!(tally.stray, 0);
        let report = FloodReport::of(&pending, tally, 0, 0);
        assert_eq!((report.lost, report.answered), (833_334, 1_666_666));
        assert!(report.balances());
    }
}
