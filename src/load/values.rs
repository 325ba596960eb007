//! Single values of the command line: what people write, and what to write instead.

use std::time::Duration;

use super::answerer::Listen;
use super::connections::Sharing;
use super::streams::MAX_STREAMS;
use crate::sip::Transport;

/// Reads "500ms", "10s", "2m" or "1h".
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || format!("`{text}` is no time; write 500ms, 10s, 2m or 1h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wanted)?;
    let number: u64 = text[..digits].parse().map_err(|_| wanted())?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wanted()),
    };
    let total = number.checked_mul(millis).filter(|total| *total <= 366 * 24 * 3_600_000).ok_or_else(wanted)?;
    Ok(Duration::from_millis(total))
}

/// Reads a percentage as a share.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim_end_matches('%').parse().ok();
    let share = number.filter(|number| (0.0..=100.0).contains(number)).map(|number| number / 100.0);
    share.ok_or_else(|| format!("`{text}` is no percentage; write a number from 0 to 100"))
}

/// Reads calls per second.
pub(crate) fn call_rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (0.0..=100_000.0).contains(rate))
        .ok_or_else(|| format!("`{text}` is no rate; write calls per second, from 0 to 100000"))
}

/// Reads the name of a transport.
pub(super) fn transport(text: &str) -> Result<Transport, String> {
    let all = [Transport::Udp, Transport::Tcp, Transport::Tls];
    let found = all.into_iter().find(|transport| transport.name() == text);
    found.ok_or_else(|| format!("`{text}` is no transport; write udp, tcp or tls"))
}

/// Reads how calls share connections.
pub(super) fn sharing(text: &str) -> Result<Sharing, String> {
    match (text, text.parse()) {
        ("per-call", _) => Ok(Sharing::PerCall),
        (_, Ok(number @ 1..=MAX_STREAMS)) => Ok(Sharing::Shared(number)),
        _ => Err(format!("`{text}` is no number of connections; write 1 to {MAX_STREAMS}, or per-call")),
    }
}

/// Reads a server's name and where it listens.
pub(super) fn server(text: &str) -> Result<(String, Listen), String> {
    let wanted = || {
        format!(
            "`{text}` is no server; write NAME=ADDRESS:PORT such as lagos-1=127.0.3.1:5060 or lagos-1=tcp://127.0.3.1:5060"
        )
    };
    let (name, address) = text.split_once('=').ok_or_else(wanted)?;
    // The name stands in a header and in a URI's user part.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(format!("`{name}` is no server name; use letters, digits, - _ and ., at most 64"));
    }
    let (over, address) = address.split_once("://").unwrap_or(("udp", address));
    Ok((name.to_owned(), Listen { transport: transport(over)?, address: address.parse().map_err(|_| wanted())? }))
}
