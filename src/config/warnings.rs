//! What is accepted and may be a slip all the same.

use std::fmt::Display;

use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::admin::Http;
use super::fault::position;

/// Methods of RFC 3261, 3262, 3265, 3311, 3428, 3515, 3903 and 6086.
const METHODS: &[&str] = &[
    "ACK",
    "BYE",
    "CANCEL",
    "INFO",
    "INVITE",
    "MESSAGE",
    "NOTIFY",
    "OPTIONS",
    "PRACK",
    "PUBLISH",
    "REFER",
    "REGISTER",
    "SUBSCRIBE",
    "UPDATE",
];

/// Networks whose address is not their first one, with their lines: host bits are cleared in silence.
pub fn of_text(file: &dyn Display, text: &str) -> Vec<String> {
    let (table, _) = DeTable::parse_recoverable(text);
    let mut lines = Vec::new();
    each_text(table.get_ref(), &mut |written, at| {
        let Ok(net) = written.parse::<IpNet>() else { return };
        if net.addr() != net.network() {
            let (line, column) = position(text, at);
            lines.push(format!(
                "{file}:{line}:{column}: {written} has bits behind its prefix: {} is meant by it",
                net.trunc()
            ));
        }
    });
    lines
}

/// Every text in a table, however deep.
fn each_text(table: &DeTable<'_>, seen: &mut dyn FnMut(&str, usize)) {
    fn value(of: &toml::Spanned<DeValue<'_>>, seen: &mut dyn FnMut(&str, usize)) {
        match of.get_ref() {
            DeValue::String(text) => seen(text, of.span().start),
            DeValue::Array(items) => items.iter().for_each(|item| value(item, seen)),
            DeValue::Table(table) => each_text(table, seen),
            _ => {}
        }
    }
    table.iter().for_each(|(_, of)| value(of, seen));
}

/// What shows in values.
pub fn of_config(config: &Config) -> Vec<String> {
    let mut lines: Vec<_> = config.http.iter().filter_map(Http::warnings).collect();
    for frontend in &config.frontends {
        let methods = frontend.routes.iter().flat_map(|route| &route.methods);
        lines.extend(methods.filter(|method| !METHODS.contains(&method.as_str())).map(|method| {
            format!("a route of frontend \"{}\" waits for the method \"{method}\", which no RFC has", frontend.name)
        }));
    }
    for backend in &config.backends {
        if let Some(check) = backend.check.as_ref().filter(|check| check.timeout > check.interval) {
            let (name, timeout, interval) = (&backend.name, check.timeout, check.interval);
            lines.push(format!(
                "a check of \"{name}\" may take longer ({timeout:?}) than until the next ({interval:?})"
            ));
        }
    }
    lines
}
