//! What a run of clients counts.

use hdrhistogram::Histogram;

use super::call::Call;
use super::ledger::Ledger;
use super::plan::Scenario;

/// Servers that are told apart in the books; more are counted as one.
const SERVERS: usize = 1024;

/// The longest response time that is told from longer ones, in microseconds.
const LONGEST_MICROS: u64 = 120_000_000;

/// What was counted.
#[derive(Clone, Debug)]
pub struct Books {
    /// By scenario, in the order of [`Scenario::ALL`].
    pub scenarios: [Ledger; Scenario::ALL.len()],
    /// Calls that came to phones.
    pub incoming: Ledger,
    /// Starts that did not happen because the table of calls was full, or no connection took them.
    pub not_started: u64,
    /// Responses to nothing that we know.
    pub stray: u64,
    /// Datagrams from an address that nothing was sent to: a NAT would have dropped them, so they are.
    pub foreign: u64,
    /// Messages of a call that came to another client's socket or connection, and in-dialog requests of dialogs that we do not have.
    pub misdirected: u64,
    /// Calls that a second server answered for.
    pub moved: u64,
    /// Datagrams that are no SIP, faulty, or responses with a Via that is not ours.
    pub malformed: u64,
    /// Microseconds from the meant start to the first answer to INVITE that is no 100.
    pub setup: Histogram<u64>,
    /// Microseconds from a request to its final answer.
    pub response: Histogram<u64>,
    /// First requests by the X-Server of their final answer, in order of appearance.
    pub servers: Vec<(String, u64)>,
}

impl Default for Books {
    fn default() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("one to two minutes with three digits is valid");
        Self {
            scenarios: Default::default(),
            incoming: Ledger::default(),
            not_started: 0,
            stray: 0,
            foreign: 0,
            misdirected: 0,
            moved: 0,
            malformed: 0,
            setup: histogram(),
            response: histogram(),
            servers: Vec::new(),
        }
    }
}

impl Books {
    /// Where a server stands in the list; a new one is added.
    pub fn server(&mut self, name: &str) -> usize {
        if let Some(at) = self.servers.iter().position(|(known, _)| known == name) {
            return at;
        }
        if self.servers.len() < SERVERS {
            let name = if self.servers.len() + 1 < SERVERS { name } else { "others" };
            self.servers.push((name.to_owned(), 0));
        }
        self.servers.len() - 1
    }

    /// Takes the times that a call has measured.
    pub fn time(&mut self, call: &mut Call) {
        for (took, histogram) in
            [(call.timing.first.take(), &mut self.setup), (call.timing.last.take(), &mut self.response)]
        {
            if let Some(took) = took {
                histogram.saturating_record(took.as_micros() as u64);
            }
        }
    }
}
