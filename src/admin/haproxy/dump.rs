//! How rows are written: CSV, typed lines, JSON. Any of them ends with a line's end.

use std::fmt::Write;

use serde_json::json;

use super::fields::Field;
use super::stat::{Kind, Row, Value};

/// How it is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Plain,
    Typed,
    Json,
}

/// What the JSON looks like, for who reads it by program.
pub const SCHEMA: &str = concat!(
    r#"{"$schema":"http://json-schema.org/draft-04/schema#","oneOf":[{"title":"Stats","type":"array","items":{"type":"array","#,
    r#""items":{"type":"object","properties":{"objType":{"enum":["Frontend","Backend","Server"]},"proxyId":{"type":"integer"},"#,
    r#""id":{"type":"integer"},"field":{"type":"object"},"processNum":{"type":"integer"},"tags":{"type":"object"},"#,
    r#""value":{"type":"object"}}}}},{"title":"Info","type":"array","items":{"type":"object"}}]}"#,
    "\n"
);

/// The rows of `show stat`.
pub fn stat(rows: &[Row], format: Format) -> String {
    match format {
        Format::Plain => csv(rows),
        Format::Typed => rows.iter().flat_map(typed).collect(),
        Format::Json => json_of(rows.iter().map(|row| row.cells().map(|cell| json_cell(row, cell)).collect())),
    }
}

/// The first line is a comment that names the columns; every line ends with a comma, as HAProxy's do.
fn csv(rows: &[Row]) -> String {
    let mut text = "# ".to_owned();
    for field in Field::ALL {
        let _ = write!(text, "{},", field.name());
    }
    text.push('\n');
    for row in rows {
        for (field, cell) in Field::ALL.iter().zip(row.all_cells()) {
            match cell {
                Some(Value::Number(n)) => drop(write!(text, "{n}")),
                Some(Value::Text(words)) => quoted(&mut text, words),
                None if *field == Field::end_of_static => text.push('-'),
                None => {}
            }
            text.push(',');
        }
        text.push('\n');
    }
    text
}

/// RFC 4180: quotes only where they are needed.
fn quoted(text: &mut String, words: &str) {
    if words.contains(['"', ',', '\n', '\r']) {
        let _ = write!(text, "\"{}\"", words.replace('"', "\"\"").replace(['\n', '\r'], " "));
    } else {
        text.push_str(words);
    }
}

/// A backend's numbers of servers are measured, and its rate is a gauge, as HAProxy has it.
fn tags(kind: Kind, field: Field) -> &'static str {
    match (kind, field) {
        (Kind::Backend, Field::act | Field::bck | Field::rate | Field::rate_max) => "MGP",
        _ => field.tags(),
    }
}

fn typed(row: &Row) -> Vec<String> {
    let letter = match row.kind {
        Kind::Frontend => 'F',
        Kind::Backend => 'B',
        Kind::Server => 'S',
    };
    let line = |(field, value): (Field, &Value)| {
        let value = match value {
            Value::Number(n) => n.to_string(),
            Value::Text(words) => words.replace(['\n', '\r'], " "),
        };
        let (position, name, tags, kind) = (field as usize, field.name(), tags(row.kind, field), field.kind());
        format!("{letter}.{}.{}.{position}.{name}.1:{tags}:{kind}:{value}\n", row.iid, row.sid)
    };
    row.cells().map(line).collect()
}

fn json_cell(row: &Row, (field, value): (Field, &Value)) -> serde_json::Value {
    let object = match row.kind {
        Kind::Frontend => "Frontend",
        Kind::Backend => "Backend",
        Kind::Server => "Server",
    };
    let value = match value {
        Value::Number(n) => json!({"type": field.kind(), "value": n}),
        Value::Text(words) => json!({"type": field.kind(), "value": words}),
    };
    json!({
        "objType": object, "proxyId": row.iid, "id": row.sid,
        "field": {"pos": field as usize, "name": field.name()}, "processNum": 1,
        "tags": tags_in_words(tags(row.kind, field)), "value": value,
    })
}

/// HAProxy's three letters, in its words.
pub(super) fn tags_in_words(tags: &str) -> serde_json::Value {
    let letters: Vec<_> = tags.chars().collect();
    let origin = match letters[0] {
        'M' => "Metric",
        'S' => "Status",
        'K' => "Key",
        'C' => "Config",
        _ => "Product",
    };
    let nature = match letters[1] {
        'A' => "Age",
        'a' => "Avg",
        'C' => "Counter",
        'D' => "Duration",
        'G' => "Gauge",
        'L' => "Limit",
        'M' => "Max",
        'N' => "Name",
        'O' => "Output",
        'R' => "Rate",
        _ => "Min",
    };
    let scope = match letters[2] {
        'P' => "Process",
        _ => "Service",
    };
    json!({"origin": origin, "nature": nature, "scope": scope})
}

/// One array of arrays, on one line.
fn json_of(rows: impl Iterator<Item = Vec<serde_json::Value>>) -> String {
    serde_json::Value::Array(rows.map(serde_json::Value::Array).collect()).to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a name is, a reader of CSV gets it back, and as many cells as there are columns.
        #[test]
        fn a_cell_is_read_as_it_was_written(words in "[ -~]{0,20}") {
            let mut text = String::new();
            quoted(&mut text, &words);
            let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            let read = inner.map_or(text.clone(), |inner| inner.replace("\"\"", "\""));
            prop_assert_eq!(read, words);
        }
    }
}
