//! What came of a run: a table for people, one JSON object on one line for programs.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::books::Books;
use super::connections::Connected;
use super::json::Object;
use super::ledger::Ledger;
use super::lossy::Damage;
use super::outgoing::Traffic;
use super::plan::Scenario;

/// What one of the three parts reports.
#[derive(Clone, Debug)]
pub enum Report {
    Call(Box<CallReport>),
    Answer(super::answerer::AnswerReport),
    Flood(super::flood::FloodReport),
}

impl Report {
    /// Whether the books balance and nothing failed.
    pub fn succeeded(&self) -> bool {
        match self {
            Self::Call(report) => report.succeeded(),
            Self::Answer(report) => report.succeeded(),
            Self::Flood(report) => report.succeeded(),
        }
    }

    /// One JSON object on one line.
    pub fn json(&self) -> String {
        let mut object = Object::default();
        match self {
            Self::Call(report) => report.write(&mut object),
            Self::Answer(report) => report.write(&mut object),
            Self::Flood(report) => report.write(&mut object),
        }
        object.truth("succeeded", self.succeeded());
        object.finish()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(report) => report.fmt(f),
            Self::Answer(report) => report.fmt(f),
            Self::Flood(report) => report.fmt(f),
        }
    }
}

/// How long answers took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    pub count: u64,
    pub p50: u64,
    pub p95: u64,
    pub p99: u64,
    pub max: u64,
}

impl Quantiles {
    /// Those of a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.50),
            p95: histogram.value_at_quantile(0.95),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
        }
    }

    /// Writes them as an object.
    pub fn write(&self, name: &str, object: &mut Object) {
        object.object(name, |object| {
            object.number("count", self.count).number("p50_us", self.p50).number("p95_us", self.p95);
            object.number("p99_us", self.p99).number("max_us", self.max);
        });
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p95, p99, max] = [self.p50, self.p95, self.p99, self.max].map(|micros| micros as f64 / 1000.0);
        write!(f, "p50 {p50:.2} ms, p95 {p95:.2}, p99 {p99:.2}, max {max:.2}")
    }
}

/// What the generator reports, live and at the end.
#[derive(Clone, Debug, Default)]
pub struct CallReport {
    /// Since the first start.
    pub elapsed: Duration,
    /// From the first start to just behind the last one.
    pub starting: Duration,
    /// The asked rate, starts per second.
    pub rate: f64,
    /// By scenario, in the order of [`Scenario::ALL`].
    pub scenarios: [Ledger; Scenario::ALL.len()],
    /// Calls that came to phones.
    pub incoming: Ledger,
    pub traffic: Traffic,
    /// What the injected bad network did.
    pub damage: Damage,
    /// Starts that did not happen because the table of calls was full, or no connection took them.
    pub not_started: u64,
    /// What became of connections; over TCP and TLS.
    pub connected: Option<Connected>,
    /// Datagrams that the system did not take, or messages that no connection took.
    pub not_sent: u64,
    /// See [`Books`] for these five.
    pub stray: u64,
    pub foreign: u64,
    pub misdirected: u64,
    pub moved: u64,
    pub malformed: u64,
    /// Calls that have not ended.
    pub open: u64,
    /// From INVITE to the first answer that is no 100.
    pub setup: Quantiles,
    /// From a request to its final answer.
    pub response: Quantiles,
    /// First requests by the server that answered, by name.
    pub servers: Vec<(String, u64)>,
}

impl CallReport {
    /// What the books say.
    pub fn of(books: &Books) -> Self {
        let mut servers = books.servers.clone();
        servers.sort();
        Self {
            scenarios: books.scenarios.clone(),
            incoming: books.incoming.clone(),
            not_started: books.not_started,
            stray: books.stray,
            foreign: books.foreign,
            misdirected: books.misdirected,
            moved: books.moved,
            malformed: books.malformed,
            setup: Quantiles::of(&books.setup),
            response: Quantiles::of(&books.response),
            servers,
            ..Self::default()
        }
    }

    /// The books of all scenarios together, calls to phones apart.
    pub fn total(&self) -> Ledger {
        let mut total = Ledger::default();
        self.scenarios.iter().for_each(|ledger| total.add(ledger));
        total
    }

    /// Starts per second while there were starts.
    pub fn achieved(&self) -> f64 {
        match self.starting.as_secs_f64() {
            seconds if seconds > 0.0 => self.total().started as f64 / seconds,
            _ => 0.0,
        }
    }

    /// The books of one scenario.
    pub fn scenario(&self, scenario: Scenario) -> &Ledger {
        &self.scenarios[scenario as usize]
    }

    /// Whether something was started, all of it was answered, and nothing came to the wrong place.
    pub fn succeeded(&self) -> bool {
        let total = self.total();
        let nothing_astray = self.misdirected + self.moved + self.foreign + self.malformed == 0;
        total.started > 0 && total.is_clean() && self.incoming.is_clean() && self.not_started == 0 && nothing_astray
    }

    fn write(&self, object: &mut Object) {
        object.text("kind", "call").decimal("elapsed_s", self.elapsed.as_secs_f64()).decimal("rate", self.rate);
        object.decimal("achieved", self.achieved());
        self.total().write(object);
        object.number("open", self.open).number("not_started", self.not_started).truth("balances", self.balances());
        object.object("scenarios", |object| {
            for scenario in Scenario::ALL.into_iter().filter(|scenario| self.scenario(*scenario).started > 0) {
                object.object(scenario.word(), |object| self.scenario(scenario).write(object));
            }
        });
        object.object("incoming", |object| self.incoming.write(object));
        object.number("messages_sent", self.traffic.sent).number("messages_received", self.traffic.received);
        object.number("retransmitted", self.traffic.retransmitted).number("not_sent", self.not_sent);
        object.number("stray", self.stray).number("foreign", self.foreign).number("misdirected", self.misdirected);
        object.number("moved", self.moved).number("malformed", self.malformed);
        let Damage { lost, duplicated, delayed } = self.damage;
        object.number("injected_lost", lost).number("injected_duplicated", duplicated);
        object.number("injected_delayed", delayed);
        if let Some(Connected { opened, reopened, failed, broken }) = self.connected {
            object.object("connections", |object| {
                object.number("opened", opened).number("reopened", reopened);
                object.number("failed", failed).number("broken", broken);
            });
        }
        self.setup.write("setup", object);
        self.response.write("response", object);
        object.object("servers", |object| {
            for (name, count) in &self.servers {
                object.number(name, *count);
            }
        });
    }

    /// Whether everything that was started is in exactly one column.
    pub fn balances(&self) -> bool {
        self.scenarios.iter().chain([&self.incoming]).all(Ledger::balances)
    }
}

impl fmt::Display for CallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let (started, seconds, asked) = (total.started, self.elapsed.as_secs_f64(), self.rate);
        writeln!(
            f,
            "{started} started at {:.0}/s (asked {asked:.0}/s), all over after {seconds:.1} s",
            self.achieved()
        )?;
        write_header(f)?;
        for scenario in Scenario::ALL.into_iter().filter(|scenario| self.scenario(*scenario).started > 0) {
            write_row(f, scenario.word(), self.scenario(scenario))?;
        }
        if self.incoming.started > 0 {
            write_row(f, "(to phones)", &self.incoming)?;
        }
        write_row(f, "total", &total)?;
        write_reasons(f, &total)?;
        writeln!(f, "setup     {} (INVITE to the first answer but 100)", self.setup)?;
        writeln!(f, "response  {} (request to final answer)", self.response)?;
        let Traffic { sent, retransmitted, received, .. } = self.traffic;
        writeln!(f, "messages  {sent} sent ({retransmitted} again), {received} received, {} not sent", self.not_sent)?;
        if self.damage != Damage::default() {
            let Damage { lost, duplicated, delayed } = self.damage;
            writeln!(f, "injected  {lost} lost, {duplicated} duplicated, {delayed} delayed")?;
        }
        if let Some(Connected { opened, reopened, failed, broken }) = self.connected {
            writeln!(f, "connected {opened} opened ({reopened} again), {failed} failed, {broken} broken")?;
        }
        let Self { stray, foreign, misdirected, moved, malformed, not_started, .. } = self;
        writeln!(
            f,
            "astray    {misdirected} misdirected, {moved} moved to another server, {foreign} from strangers, {malformed} \
             malformed, {stray} late, {not_started} not started"
        )?;
        let answered: u64 = self.servers.iter().map(|(_, count)| count).sum();
        for (name, count) in &self.servers {
            writeln!(f, "  {name:<16} {count:>9}  {:>5.1} %", *count as f64 * 100.0 / answered.max(1) as f64)?;
        }
        write_verdict(f, self.balances(), self.succeeded())
    }
}

/// The last line of a table.
pub(super) fn write_verdict(f: &mut fmt::Formatter<'_>, balances: bool, succeeded: bool) -> fmt::Result {
    match (balances, succeeded) {
        (false, _) => write!(f, "FAILED: the books do not balance; this is a bug of the generator, please report it"),
        (true, false) => write!(f, "FAILED: not everything was answered, see above"),
        (true, true) => write!(f, "ok: everything that was started was answered"),
    }
}

/// The heads of the columns of [`write_row`].
pub(super) fn write_header(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [started, answered, refused, lost, stranded, open] =
        ["started", "answered", "refused", "lost", "stranded", "unfinished"];
    writeln!(f, "{:<18}{started:>10}{answered:>10}{refused:>10}{lost:>10}{stranded:>10}{open:>11}", "")
}

/// One line of a ledger.
pub(super) fn write_row(f: &mut fmt::Formatter<'_>, name: &str, ledger: &Ledger) -> fmt::Result {
    let Ledger { started, answered, lost, unfinished, .. } = ledger;
    let (refused, stranded) = (ledger.refused_total(), ledger.stranded_total());
    writeln!(f, "{name:<18}{started:>10}{answered:>10}{refused:>10}{lost:>10}{stranded:>10}{unfinished:>11}")
}

/// Why calls were lost, refused or stranded, where some were.
pub(super) fn write_reasons(f: &mut fmt::Formatter<'_>, ledger: &Ledger) -> fmt::Result {
    if ledger.disconnected > 0 {
        writeln!(f, "lost      {} with their connection", ledger.disconnected)?;
    }
    for (status, count) in &ledger.refused {
        writeln!(f, "refused   {count} with {status}")?;
    }
    for (reason, count) in &ledger.stranded {
        writeln!(f, "stranded  {count} by {reason}")?;
    }
    for (status, count) in &ledger.stranded_by_status {
        writeln!(f, "          {count} of them with {status}")?;
    }
    Ok(())
}
