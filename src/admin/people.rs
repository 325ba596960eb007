//! `status`: the picture as a table for people, and as JSON for programs.

use std::fmt::Write;

use serde_json::json;

use super::json::roles;
use super::picture::verdict::verdict;
use super::picture::{Count, Picture, Server};

/// A table for people, under a line that says what runs and one with the verdict.
pub fn table(picture: &Picture) -> String {
    let heads = ["server", "region", "address", "state", "for", "weight", "calls", "opened", "failed"];
    let mut lines = vec![heads.map(str::to_owned)];
    for row in picture.servers() {
        let weight = match row.weight == row.initial {
            true => row.weight.to_string(),
            false => format!("{} (file: {})", row.weight, row.initial),
        };
        let why = row.why().map_or_else(String::new, |why| format!(": {why}"));
        lines.push([
            row.full_name(),
            row.region.clone(),
            row.uri(),
            row.word() + &why,
            short(row.unchanged.as_secs()),
            weight,
            row.calls.to_string(),
            row.tally[Count::Opened].to_string(),
            row.tally[Count::Failed].to_string(),
        ]);
    }
    for backend in &picture.backends {
        lines.extend(backend.nameless.iter().map(|named| {
            let name = format!("{}/{}", backend.name, named.name);
            let [none, weight] = ["-".to_owned(), named.weight.to_string()];
            let (region, query) = (named.region.clone(), named.query.clone());
            [name, region, query, "no address".into(), none.clone(), weight, none.clone(), none.clone(), none]
        }));
    }
    let verdict = verdict(picture);
    format!(
        "trunkline {}, pid {}, up {}, {} workers, configuration {:016x}{}\n{}: {}\n\n{}",
        env!("CARGO_PKG_VERSION"),
        picture.node.pid,
        short(picture.node.uptime.as_secs()),
        picture.node.workers,
        picture.node.configuration,
        picture.node.roles.iter().map(|role| format!(", {} {}", role.instance, role.state.word())).collect::<String>(),
        verdict.level.word(),
        verdict.text,
        columns(&lines),
    )
}

/// The same for programs. Names and addresses need no quoting: the configuration allows plain letters only.
pub fn json(picture: &Picture) -> String {
    let row = |row: &Server| {
        format!(
            "{{\"backend\":\"{}\",\"server\":\"{}\",\"region\":\"{}\",\"address\":\"{}\",\
             \"health\":\"{}\",\"admin\":\"{}\",\"breaker\":\"{}\",\"why\":{},\"since_seconds\":{},\"weight\":{},\
             \"initial_weight\":{},\"calls\":{},\"checked\":{},\"transport\":\"{}\",{}}}",
            row.backend,
            row.name,
            row.region,
            row.address,
            row.state.health.word(),
            row.state.admin.word(),
            row.state.breaker.word(),
            row.why().map_or_else(|| "null".to_owned(), |why| format!("\"{why}\"")),
            row.unchanged.as_secs(),
            row.weight,
            row.initial,
            row.calls,
            row.check.is_some(),
            row.transport.name(),
            totals(row),
        )
    };
    let rows: Vec<_> = picture.servers().map(row).collect();
    let verdict = verdict(picture);
    format!(
        "{{\"version\":\"{}\",\"pid\":{},\"uptime_seconds\":{},\"workers\":{},\"configuration\":\"{:016x}\",\
         \"roles\":{},\"verdict\":{},\"servers\":[{}]}}\n",
        env!("CARGO_PKG_VERSION"),
        picture.node.pid,
        picture.node.uptime.as_secs(),
        picture.node.workers,
        picture.node.configuration,
        roles(picture),
        json!({"level": verdict.level.word(), "text": verdict.text}),
        rows.join(","),
    )
}

/// What was counted of a server, as members of a JSON object.
fn totals(row: &Server) -> String {
    let of = |count: Count| row.tally[count];
    let mut classes = String::new();
    for (class, count) in (1..).zip(row.tally.responses()) {
        let _ = write!(classes, "\"{class}xx\":{count},");
    }
    format!(
        "\"requests\":{},\"opened\":{},\"new_calls\":{},\"responses\":{{{}}},\
         \"requests_from\":{},\"failed\":{},\"unreachable\":{},\"moved_on\":{}",
        of(Count::Requests),
        of(Count::Opened),
        of(Count::Calls),
        classes.trim_end_matches(','),
        of(Count::Sent),
        of(Count::Failed),
        of(Count::Unreachable),
        of(Count::Rejected),
    )
}

/// The lines of a table, each column as wide as its widest cell.
pub(super) fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let cells: String = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        let _ = writeln!(text, "{}", cells.trim_end());
    }
    text
}

/// The two largest units: `3s`, `2m 3s`, `1h 2m`, `4d 1h`.
pub(super) fn short(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!([3, 123, 3_723, 349_200].map(short), ["3s", "2m 3s", "1h 2m", "4d 1h"]);
    }
}
