//! `/metrics`: Prometheus' text format, version 0.0.4, from one picture.
//!
//! `haproxy` has HAProxy's families under its names and labels, so that its dashboards and alerts go on; `own` has what
//! HAProxy cannot know.

mod haproxy;
mod own;

use std::fmt::Write;

use super::picture::Picture;

/// What the answer calls itself.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything.
pub fn render(picture: &Picture, version: &str) -> String {
    let mut text = Exposition(String::with_capacity(64 << 10));
    haproxy::render(&mut text, picture, version);
    own::render(&mut text, picture);
    text.0
}

/// Text in the making. A family's samples stand together behind its head, as the format wants it.
struct Exposition(String);

/// The values of a family's labels in the order of their names.
type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    fn counter(&mut self, name: &str, help: &str) {
        self.family(name, "counter", help);
    }

    fn gauge(&mut self, name: &str, help: &str) {
        self.family(name, "gauge", help);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(value));
        }
        let end = if labels.is_empty() { " " } else { "} " };
        let _ = match value.is_nan() {
            true => writeln!(self.0, "{end}NaN"),
            false => writeln!(self.0, "{end}{value}"),
        };
    }

    /// A family of one sample.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// Backslash, quote and line's end may not stand in a label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_written_as_prometheus_reads_it() {
        let mut text = Exposition(String::new());
        text.gauge("a", "What it is.");
        text.sample("a", &[("b", "c\"d\\e\nf"), ("g", "")], 1.5);
        text.sample("a", &[], f64::NAN);
        assert_eq!(text.0, "# HELP a What it is.\n# TYPE a gauge\na{b=\"c\\\"d\\\\e\\nf\",g=\"\"} 1.5\na NaN\n");
    }
}
