//! The picture in one sentence, for somebody who was woken by it.

use super::{Backend, Picture, Server};
use crate::admin::people::short;
use crate::state::server::{Admin, Circuit, Health};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Good,
    /// Somebody chose it, or it is too early to say: no alarm.
    Idle,
    Warning,
    Bad,
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Idle => "idle",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

/// What is to be said, and how loud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    pub text: String,
}

impl Server {
    /// How loud its state is.
    pub fn level(&self) -> Level {
        match (self.state.admin, self.state.health, self.state.breaker) {
            (Admin::Maint | Admin::Drain | Admin::Leaving, ..) => Level::Idle,
            (_, Health::Down | Health::Dead, _) | (.., Circuit::Open) => Level::Bad,
            (_, Health::Suspect | Health::Resting(_), _) | (.., Circuit::HalfOpen) => Level::Warning,
            _ if self.weight == 0 => Level::Idle,
            _ => Level::Good,
        }
    }

    /// Its state in one word or two: the gravest thing that is true of it.
    pub fn state_word(&self) -> &'static str {
        let state = self.state;
        match (state.admin, state.health, state.breaker) {
            (Admin::Maint | Admin::Leaving, ..) => state.admin.word(),
            (_, Health::Down | Health::Dead, _) => state.health.word(),
            (Admin::Drain, ..) => "drain",
            (.., Circuit::Open) => "breaker open",
            (.., Circuit::HalfOpen) => "breaker half-open",
            (_, Health::Suspect | Health::Resting(_), _) => state.health.word(),
            _ if self.check.is_none() => "no check",
            _ => "up",
        }
    }
}

/// Of more than so many servers not each is named.
const NAMED: usize = 3;

/// The sentence.
pub fn verdict(picture: &Picture) -> Verdict {
    let mut level = Level::Good;
    let mut parts = Vec::new();
    for backend in &picture.backends {
        if !backend.up {
            let instead =
                if backend.forwards_when_down { "calls are sent on all the same" } else { "new calls get 503" };
            parts.push(format!("no server of {} takes new calls: {instead}", backend.name));
            level = Level::Bad;
        }
    }
    let nameless = || picture.backends.iter().flat_map(|of| of.nameless.iter().map(move |named| (of, named)));
    let there = picture.servers().filter(|server| server.state.admin != Admin::Leaving).count();
    let all = there + nameless().count();
    let taking = picture.servers().filter(|server| server.takes_new).count();
    parts.push(match taking == all {
        true if all == 1 => "the only server takes calls".to_owned(),
        true => format!("all {all} servers take calls"),
        false => format!("{taking} of {all} servers take calls"),
    });
    let troubled: Vec<_> = picture.servers().filter(|server| server.level() >= Level::Warning).collect();
    level = troubled.iter().map(|server| server.level()).fold(level, Level::max);
    parts.extend(troubled.iter().take(NAMED).map(|server| trouble(server)));
    if troubled.len() > NAMED {
        parts.push(format!("{} more are in trouble", troubled.len() - NAMED));
    }
    for (backend, named) in nameless().take(NAMED) {
        parts.push(format!("{}/{} has no address ({})", backend.name, named.name, named.query));
        level = level.max(Level::Warning);
    }
    for region in picture.backends.iter().flat_map(lost_regions) {
        parts.push(region);
        level = level.max(Level::Bad);
    }
    let deviating: Vec<_> = picture.backends.iter().flat_map(deviations).collect();
    if !deviating.is_empty() {
        level = level.max(Level::Warning);
    }
    let judged = picture.backends.iter().flat_map(|backend| &backend.regions).any(|r| r.deviates() == Some(false));
    if deviating.is_empty() && judged && picture.backends.iter().any(|backend| backend.regions.len() > 1) {
        parts.push("the split is as it should be".to_owned());
    }
    parts.extend(deviating);
    if picture.reloads.last.as_ref().is_some_and(|last| !last.ok) {
        parts.push("the last reload was refused".to_owned());
        level = level.max(Level::Warning);
    }
    let mut text = parts.join("; ");
    if let Some(first) = text.get(..1) {
        text = first.to_uppercase() + &text[1..];
    }
    Verdict { level, text }
}

fn trouble(server: &Server) -> String {
    let why = server.why().map_or_else(String::new, |why| format!(" ({why})"));
    let since = short(server.unchanged.as_secs());
    format!("{} has been {} for {since}{why}", server.full_name(), server.state_word())
}

/// Regions without anybody who takes calls, where others have somebody.
fn lost_regions(backend: &Backend) -> Vec<String> {
    let lost = backend.regions.iter().filter(|region| backend.up && region.up == 0 && region.servers > 0);
    lost.map(|region| format!("{} has no server left, its calls go to the other regions", region.name)).collect()
}

fn deviations(backend: &Backend) -> Vec<String> {
    let deviating = backend.regions.iter().filter(|region| region.deviates() == Some(true));
    let words = deviating.filter_map(|region| {
        let (actual, due) = (region.actual()? * 100.0, region.expected * 100.0);
        Some(format!("{} has {actual:.1} % of the calls instead of {due:.1} %", region.name))
    });
    words.collect()
}
