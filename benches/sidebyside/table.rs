//! What was measured, as a table for people: on the terminal and in docs/performance.md.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::process::Command;

use super::contestant::{ALL, Contestant};
use super::load::{Load, SIZE, Sample};
use super::{LOADS, Round};

/// The bars, in the closed loop: the most that a transaction may cost Trunkline, in those of others.
const BARS: [(Contestant, f64); 2] = [(Contestant::Bare, 1.3), (Contestant::Kamailio, 0.35)];

/// In the closed loop the balancer is the limit; where it had less of its core, something else was.
pub const LEAST_BUSY: f64 = 0.9;

/// A part of docs/performance.md that a measurement writes, by its name.
pub struct Mark(pub &'static str);

pub const MARK: Mark = Mark("side by side");

/// The middle of several values, and the least and the most of them.
pub struct Spread {
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, least: values[0], most: values[values.len() - 1] }
    }

    pub fn show(&self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.least, self.most)
    }
}

/// The rounds of one load.
struct Column<'a> {
    rounds: Vec<&'a [Sample; ALL.len()]>,
}

fn position(who: Contestant) -> usize {
    ALL.iter().position(|other| *other == who).expect("everybody is in the list")
}

impl Column<'_> {
    fn spread(&self, of: impl Fn(&[Sample; ALL.len()]) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|round| of(round)))
    }

    /// What `who` costs in costs of `other`, round by round: what slows both down cancels out.
    fn ratio(&self, who: Contestant, other: Contestant) -> Spread {
        self.spread(|round| round[position(who)].micros / round[position(other)].micros)
    }

    /// The same for both Trunklines together.
    fn trunkline_to(&self, other: Contestant) -> Spread {
        let both = |round: &[Sample; ALL.len()]| {
            [Contestant::Trunkline, Contestant::TrunklineAgain]
                .map(|who| round[position(who)].micros)
                .iter()
                .sum::<f64>()
        };
        self.spread(|round| both(round) / 2.0 / round[position(other)].micros)
    }

    /// A warning where somebody did not get the whole core.
    fn disturbance(&self) -> String {
        let busy = |who: Contestant| self.spread(|round| round[position(who)].busy).median;
        let idle: Vec<_> = ALL.into_iter().filter(|who| busy(*who) < LEAST_BUSY).map(Contestant::name).collect();
        disturbed(&idle)
    }

    fn row(&self, who: Contestant) -> String {
        let at = position(who);
        let median = |of: fn(&Sample) -> f64| self.spread(|round| of(&round[at])).median;
        let missing: u64 = self.rounds.iter().map(|round| round[at].missing).sum();
        let missing = if missing == 0 { "none".to_owned() } else { format!("**{missing}**") };
        format!(
            "| {} | {} | {} | {} | {:.0} | {:.0} % | {:.0} / {:.0} | {missing} | {:.0} |\n",
            who.name(),
            self.spread(|round| round[at].micros).show(),
            self.ratio(who, Contestant::Bare).show(),
            self.ratio(who, Contestant::Kamailio).show(),
            median(|sample| sample.rate),
            median(|sample| sample.busy * 100.0),
            median(|sample| sample.p50 as f64),
            median(|sample| sample.p99 as f64),
            median(|sample| sample.memory as f64 / 1024.0),
        )
    }
}

/// Says who did not have a whole core, if anybody.
pub fn disturbed(idle: &[&str]) -> String {
    match idle {
        [] => String::new(),
        idle => format!(
            "**Disturbed:** {} did not have a whole core, because other programs ran or the generator was the limit. \
             Take the figures again on a quiet machine.\n",
            idle.join(", ")
        ),
    }
}

/// Writes the whole result, and says which bars are missed.
pub fn write(rounds: &[Round]) -> Result<(String, Vec<String>), Box<dyn Error>> {
    let mut text = machine()?;
    let column = |n: usize| Column { rounds: rounds.iter().map(|round| &round[n]).collect() };
    let mut missed = Vec::new();
    for (n, load) in LOADS.into_iter().enumerate() {
        let column = column(n);
        write!(text, "\n### {}\n\n", load.title())?;
        text += "| | CPU per transaction, µs | × bare | × Kamailio | answered/s | core busy | p50 / p99, µs | missing | memory, MB |\n";
        text += "|---|---|---|---|---|---|---|---|---|\n";
        for who in ALL {
            text += &column.row(who);
        }
        text += "| HAProxy | cannot balance UDP | | | | | | | |\n\n";
        let [bare, nginx, kamailio] =
            [Contestant::Bare, Contestant::Nginx, Contestant::Kamailio].map(|other| column.trunkline_to(other).show());
        writeln!(text, "Both Trunklines: {bare} × bare, {nginx} × nginx, {kamailio} × Kamailio.")?;
        if load == Load::Closed {
            text += &column.disturbance();
        }
        let control = column.ratio(Contestant::TrunklineAgain, Contestant::Trunkline);
        writeln!(text, "Control, Trunkline again ÷ Trunkline: {}.", control.show())?;
        if load == Load::Closed {
            text.push('\n');
            for (other, bar) in BARS {
                let ratio = column.trunkline_to(other).median;
                let verdict = if ratio <= bar { "met" } else { "**missed**" };
                let name = other.name();
                let percent = (ratio / bar - 1.0) * 100.0;
                writeln!(text, "- bar of {bar} × {name}: {verdict}, {ratio:.3} ({percent:+.0} %)")?;
                if ratio > bar {
                    missed.push(format!(
                        "a transaction costs {ratio:.3} × {name} instead of at most {bar}, {percent:.0} % too much"
                    ));
                }
            }
        }
    }
    Ok((text, missed))
}

/// The kind of machine, and who was measured.
fn machine() -> Result<String, Box<dyn Error>> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, m)| m);
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kind = if cpus.contains(" hypervisor") { "virtual machine" } else { "machine" };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    // What comes behind the number names a build, not a kernel.
    let kernel = kernel.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default();
    let (nginx, kamailio) = (version("/usr/sbin/nginx")?, version("/usr/sbin/kamailio")?);
    let servers = super::SERVERS.len();
    Ok(format!(
        "{kind}, {cores} cores, {model}, Linux {kernel}; {nginx}, {kamailio}; OPTIONS of {SIZE} bytes, {servers} servers\n"
    ))
}

/// Its name, and the number in what `-v` says.
pub fn version(program: &str) -> Result<String, Box<dyn Error>> {
    let output = Command::new(program).arg("-v").output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let number = said.split([' ', '/', '-', '\n']).find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let name = program.rsplit('/').next().unwrap_or(program);
    Ok(format!("{name} {}", number.unwrap_or_default()))
}

impl Mark {
    /// Puts a result between its marks in docs/performance.md.
    pub fn keep(&self, result: &str) -> Result<(), Box<dyn Error>> {
        let Self(name) = self;
        let begin = format!("<!-- {name}: written by benches/run, from here -->\n");
        let end = format!("<!-- {name}: to here -->\n");
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
        let text = fs::read_to_string(file)?;
        let parts = text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
        let (before, after) = parts.ok_or_else(|| format!("docs/performance.md has lost its marks: {begin}{end}"))?;
        fs::write(file, format!("{before}{begin}\n{result}\n{end}{after}"))?;
        Ok(())
    }
}
