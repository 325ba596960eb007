//! Rounds: several programs that have their turns under several loads, and the table of what that cost them.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use super::table::{LEAST_BUSY, Mark, Spread};
use super::{Plan, WARM_UP};

/// A part of the measurement.
pub struct Part {
    pub mark: Mark,
    /// In the order of a round. The first and the last are Trunkline: what they differ by is noise. The others are what
    /// it is compared with.
    pub who: &'static [&'static str],
    pub loads: &'static [Load],
}

pub struct Load {
    pub title: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// Whether the balancer is to be the limit.
    pub closed: bool,
    /// Of each of [`Part::who`] the most that a unit may cost Trunkline, in those of it; 0: no bar.
    pub bars: &'static [f64],
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Processor time of the program for each unit that went through, microseconds.
    pub micros: f64,
    /// The part of its core that it used.
    pub busy: f64,
    /// Units a second.
    pub rate: f64,
    /// What was sent and did not go through.
    pub lost: u64,
    /// kB
    pub memory: u64,
}

/// For each load the samples of everybody.
type Round = Vec<Vec<Sample>>;

impl Part {
    /// Measures, shows and keeps; says which bars were missed. `start` starts one of [`Part::who`], and `measure` has it
    /// under one of [`Part::loads`] for a while. `about` says what the loads have in common.
    pub fn run<R>(
        &self,
        plan: &Plan,
        about: impl FnOnce() -> String,
        start: impl Fn(usize) -> Result<R, Box<dyn Error>>,
        measure: impl Fn(&R, usize, Duration) -> Result<Sample, Box<dyn Error>>,
    ) -> Result<Vec<String>, Box<dyn Error>> {
        let mut rounds = Vec::new();
        for number in 0..plan.rounds {
            eprintln!("{}, round {} of {}", self.mark.0, number + 1, plan.rounds);
            let round = self.round(plan, number % 2 == 1, &start, &measure)?;
            if number > 0 {
                rounds.push(round);
            }
        }
        let (mut text, mut missed) = (about(), Vec::new());
        for at in 0..self.loads.len() {
            Column { part: self, load: &self.loads[at], rounds: rounds.iter().map(|round| &round[at][..]).collect() }
                .write(&mut text, &mut missed)?;
        }
        println!("{text}");
        if plan.keep {
            self.mark.keep(&text)?;
        }
        Ok(missed)
    }

    /// Everybody is started anew, and under each load they have their turns close to each other; every other round in the
    /// opposite order.
    fn round<R>(
        &self,
        plan: &Plan,
        backwards: bool,
        start: &impl Fn(usize) -> Result<R, Box<dyn Error>>,
        measure: &impl Fn(&R, usize, Duration) -> Result<Sample, Box<dyn Error>>,
    ) -> Result<Round, Box<dyn Error>> {
        let running: Vec<R> = (0..self.who.len()).map(start).collect::<Result<_, _>>()?;
        for who in &running {
            measure(who, 0, WARM_UP)?;
        }
        let mut round = Vec::new();
        for (load, Load { title, closed, .. }) in self.loads.iter().enumerate() {
            let mut samples = vec![None; running.len()];
            for turn in 0..running.len() {
                let turn = if backwards { running.len() - 1 - turn } else { turn };
                let time = if *closed { plan.closed } else { plan.open * 2 };
                let sample = measure(&running[turn], load, time)?;
                eprintln!("  {title:<69}{:<16}{:7.2} us{:9.0}/s", self.who[turn], sample.micros, sample.rate);
                samples[turn] = Some(sample);
            }
            round.push(samples.into_iter().flatten().collect());
        }
        Ok(round)
    }
}

/// The rounds of one load.
struct Column<'a> {
    part: &'a Part,
    load: &'a Load,
    rounds: Vec<&'a [Sample]>,
}

impl Column<'_> {
    fn spread(&self, of: impl Fn(&[Sample]) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|round| of(round)))
    }

    /// What one costs in costs of the other, round by round: what slows both down cancels out.
    fn ratio(&self, who: usize, other: usize) -> Spread {
        self.spread(|round| round[who].micros / round[other].micros)
    }

    /// The same for both Trunklines together.
    fn trunkline_to(&self, other: usize) -> Spread {
        self.spread(|round| (round[0].micros + round[round.len() - 1].micros) / 2.0 / round[other].micros)
    }

    fn write(&self, text: &mut String, missed: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
        let (who, Load { title, unit, closed, bars }) = (self.part.who, self.load);
        let others = 1..who.len() - 1;
        writeln!(text, "\n### {title}\n")?;
        let heads: String = others.clone().map(|other| format!(" × {} |", who[other])).collect();
        writeln!(text, "| | CPU per {unit}, µs |{heads} {unit}s/s | core busy | lost | memory, MB |")?;
        writeln!(text, "|---|---|{}---|---|---|---|", "---|".repeat(others.len()))?;
        for at in 0..who.len() {
            self.write_row(at, text)?;
        }
        let both = others.clone().map(|other| format!("{} × {}", self.trunkline_to(other).show(), who[other]));
        writeln!(text, "\nBoth Trunklines: {}.", both.collect::<Vec<_>>().join(", "))?;
        if *closed {
            *text += &self.disturbance();
        }
        writeln!(text, "Control, Trunkline again ÷ Trunkline: {}.", self.ratio(who.len() - 1, 0).show())?;
        let bars = others.filter_map(|other| Some((other, *bars.get(other)?))).filter(|(_, bar)| *bar > 0.0);
        for (n, (other, bar)) in bars.enumerate() {
            let ratio = self.trunkline_to(other).median;
            let verdict = if ratio <= bar { "met" } else { "**missed**" };
            let (name, percent) = (who[other], (ratio / bar - 1.0) * 100.0);
            let gap = if n == 0 { "\n" } else { "" };
            writeln!(text, "{gap}- bar of {bar} × {name}: {verdict}, {ratio:.3} ({percent:+.0} %)")?;
            if ratio > bar {
                missed.push(format!(
                    "{}: a {unit} costs {ratio:.3} × {name} instead of at most {bar}, {percent:.0} % too much",
                    self.part.mark.0
                ));
            }
        }
        Ok(())
    }

    fn write_row(&self, at: usize, text: &mut String) -> Result<(), Box<dyn Error>> {
        let (who, median) = (self.part.who, |of: fn(&Sample) -> f64| self.spread(|round| of(&round[at])).median);
        let lost: u64 = self.rounds.iter().map(|round| round[at].lost).sum();
        let lost = if lost == 0 { "none".to_owned() } else { format!("**{lost}**") };
        let ratios: String = (1..who.len() - 1).map(|other| format!(" {} |", self.ratio(at, other).show())).collect();
        writeln!(
            text,
            "| {} | {} |{ratios} {:.0} | {:.0} % | {lost} | {:.0} |",
            who[at],
            self.spread(|round| round[at].micros).show(),
            median(|sample| sample.rate),
            median(|sample| sample.busy * 100.0),
            median(|sample| sample.memory as f64 / 1024.0),
        )?;
        Ok(())
    }

    /// A warning where somebody did not get the whole core.
    fn disturbance(&self) -> String {
        let busy = |at: usize| self.spread(|round| round[at].busy).median;
        let idle = (0..self.part.who.len()).filter(|at| busy(*at) < LEAST_BUSY).map(|at| self.part.who[at]);
        super::table::disturbed(&idle.collect::<Vec<_>>())
    }
}
