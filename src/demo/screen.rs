//! What the demo shows: a picture that renews itself in a terminal (of 80 columns and 24 lines or more), lines elsewhere.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use super::stage::{REGIONS, Stage, own_name, region_of};
use crate::load::CallReport;
use crate::state::server::Health;

/// How many events stay in the picture.
const EVENTS: usize = 6;
/// "Now" is the last two seconds, in ticks of [`super::TICK`].
const NOW: usize = 20;
/// Width of a bar that means 100 %.
const BAR: usize = 40;

/// The other screen, without cursor; what is too wide is cut off, not wrapped.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Where and how it is shown.
pub struct Screen {
    terminal: bool,
    color: bool,
    events: VecDeque<String>,
    /// Health by server, as it was last seen.
    health: Vec<Health>,
    /// Balanced calls by region, tick by tick.
    samples: VecDeque<[u64; REGIONS.len()]>,
    said: Option<u64>,
}

impl Screen {
    /// On stderr, for it is for people. Honours `NO_COLOR`.
    pub fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if terminal {
            say(ENTER);
        }
        Self { terminal, color, events: VecDeque::new(), health: Vec::new(), samples: VecDeque::new(), said: None }
    }

    /// Something happened that somebody did.
    pub fn event(&mut self, elapsed: Duration, what: &str) {
        let line = format!("{:>5.1} s  {what}", elapsed.as_secs_f64());
        if !self.terminal {
            say(&format!("{line}\n"));
        }
        self.events.push_back(line);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// Looks at the stage and shows it: in a terminal each time, elsewhere once a second.
    pub fn show(&mut self, stage: &Stage, elapsed: Duration, note: &str) {
        self.note_health(stage, elapsed);
        self.samples.push_back(balanced(stage));
        if self.samples.len() > NOW {
            self.samples.pop_front();
        }
        if self.terminal {
            let picture = self.picture(stage, elapsed, note);
            self.draw(&picture);
        } else if self.said != Some(elapsed.as_secs()) && elapsed.as_secs() > 0 {
            self.said = Some(elapsed.as_secs());
            say(&self.line(stage, elapsed));
        }
    }

    /// Health as the balancer sees it: that is what the demo is about.
    fn note_health(&mut self, stage: &Stage, elapsed: Duration) {
        let snapshot = stage.snapshot.load();
        self.health.resize(snapshot.servers.len(), Health::Up);
        for (at, server) in snapshot.servers.iter().enumerate() {
            let now = server.state.health;
            let before = std::mem::replace(&mut self.health[at], now);
            if before != now {
                self.event(elapsed, &format!("{} is {}, was {}", own_name(&server.name), now.word(), before.word()));
            }
        }
    }

    /// The shares of the calls of the last two seconds, in percent.
    fn shares(&self) -> [f64; REGIONS.len()] {
        match (self.samples.front(), self.samples.back()) {
            (Some(from), Some(to)) => percent(std::array::from_fn(|at| to[at] - from[at])),
            _ => [0.0; REGIONS.len()],
        }
    }

    fn line(&self, stage: &Stage, elapsed: Duration) -> String {
        let mut line = format!("{:>5.1} s ", elapsed.as_secs_f64());
        for (region, share) in REGIONS.iter().zip(self.shares()) {
            let _ = write!(line, " {} {share:>4.1} %", region.name);
        }
        let report = stage.report();
        let total = report.total();
        let (refused, stranded) = (total.refused_total(), total.stranded_total());
        let open = total.started - total.ended();
        let _ = writeln!(
            line,
            "  {} calls: {} answered, {open} going on, {stranded} stranded, {refused} refused, {} lost",
            total.started, total.answered, total.lost
        );
        line
    }

    fn picture(&self, stage: &Stage, elapsed: Duration, note: &str) -> String {
        let (bold, dim, plain) = (self.ink("1"), self.ink("2"), self.ink("0"));
        let mut out = format!(
            "{bold}Trunkline{plain}  five servers in three regions behind {}{dim}{:>13.1} s{plain}\n\
             {dim}stats page{plain} http://{}/stats\n\n",
            stage.address,
            elapsed.as_secs_f64(),
            stage.stats
        );
        let snapshot = stage.snapshot.load();
        let overall = percent(balanced(stage));
        let heads = ["region", "wanted", "new calls of the last two seconds", "since start"];
        let _ = writeln!(out, "{dim}{:<8}{:>6}  {:<49}{:>11}{plain}", heads[0], heads[1], heads[2], heads[3]);
        for (at, (region, share)) in REGIONS.iter().zip(self.shares()).enumerate() {
            let filled = (share / 100.0 * BAR as f64).round() as usize;
            let ink = self.ink(if stage.killed[at] { "31" } else { "32" });
            let bar = format!("{}{}", "█".repeat(filled), "·".repeat(BAR.saturating_sub(filled)));
            let (name, weight) = (region.name, region.weight);
            let _ = writeln!(out, "{name:<8}{weight:>4} %  {ink}{bar}{plain} {share:>5.1} %{:>12.1} %", overall[at]);
            let _ = write!(out, "{:<16}", "");
            for server in snapshot.servers.iter().filter(|server| region_of(&server.name) == at) {
                let health = server.state.health;
                let ink = self.ink(if health == Health::Up { "32" } else { "31" });
                let calls = server.live.counters.sum(|counters| &counters.balanced);
                let _ = write!(out, "{} {ink}{}{plain} {dim}{calls}{plain}   ", own_name(&server.name), health.word());
            }
            out.push('\n');
        }
        out.push('\n');
        out += &self.books(&stage.report());
        out.push('\n');
        self.events.iter().for_each(|event| out += &format!("{event}\n"));
        let _ = writeln!(out, "{}{bold}{note}{plain}", if self.events.is_empty() { "" } else { "\n" });
        out
    }

    fn books(&self, report: &CallReport) -> String {
        let total = report.total();
        let open = total.started - total.ended();
        let (bold, plain) = (self.ink("1"), self.ink("0"));
        let setup = report.setup;
        let [p50, p99] = [setup.p50, setup.p99].map(|micros| micros as f64 / 1000.0);
        format!(
            "{} calls: {} answered, {open} going on, {bold}{} lost{plain}, {} refused, {} stranded\n\
             {:.0} calls/s; from INVITE to the first answer p50 {p50:.2} ms, p99 {p99:.2} ms\n",
            total.started,
            total.answered,
            total.lost,
            total.refused_total(),
            total.stranded_total(),
            report.achieved(),
        )
    }

    fn ink(&self, code: &str) -> String {
        if self.color { format!("\x1b[{code}m") } else { String::new() }
    }

    /// Over the last picture, line by line.
    fn draw(&mut self, picture: &str) {
        let mut out = String::from("\x1b[H");
        for (n, line) in picture.lines().enumerate() {
            let _ = write!(out, "{}{line}\x1b[K", if n > 0 { "\r\n" } else { "" });
        }
        out += "\x1b[J";
        say(&out);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            say(LEAVE);
        }
    }
}

/// To stderr. Whoever went away need not hear it.
pub fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The new calls that each region got, by the balancer's own count.
pub fn balanced(stage: &Stage) -> [u64; REGIONS.len()] {
    let mut calls = [0; REGIONS.len()];
    for server in &stage.snapshot.load().servers {
        calls[region_of(&server.name)] += server.live.counters.sum(|counters| &counters.balanced);
    }
    calls
}

fn percent(calls: [u64; REGIONS.len()]) -> [f64; REGIONS.len()] {
    let all = calls.iter().sum::<u64>().max(1);
    calls.map(|calls| calls as f64 * 100.0 / all as f64)
}

/// The last words: what came of it.
pub fn summary(report: &CallReport, chosen: [u64; REGIONS.len()]) -> String {
    let total = report.total();
    let mut out = format!("\n{} calls in {:.1} s\n", total.started, report.elapsed.as_secs_f64());
    // More than there were calls, where some were sent on to another region.
    for ((region, times), share) in REGIONS.iter().zip(chosen).zip(percent(chosen)) {
        let _ =
            writeln!(out, "  {:<10}{times:>9} times chosen {share:>5.1} %  (weight {})", region.name, region.weight);
    }
    let rows = [
        ("answered", total.answered, ""),
        (
            "stranded",
            total.stranded_total(),
            "   established on a server that was killed and did not come back in time",
        ),
        ("refused", total.refused_total(), "   nobody could take them"),
        ("lost", total.lost, "   no final answer"),
        ("cut off", total.unfinished, "   by the end of the demo"),
    ];
    for (name, count, what) in rows.into_iter().filter(|(name, count, _)| *count > 0 || *name != "cut off") {
        let _ = writeln!(out, "  {name:<10}{count:>9}{}", if count > 0 { what } else { "" });
    }
    out += match (total.started, super::lost_nothing(&total), total.stranded_total() + total.unfinished) {
        (0, ..) => "FAILED: nothing was called\n",
        (_, false, _) => "FAILED: calls were lost\n",
        (_, true, 0) => "ok: no call was lost\n",
        (_, true, _) => "ok: no call was lost that could have been kept\n",
    };
    out
}
