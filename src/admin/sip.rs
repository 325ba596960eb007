//! What HAProxy has no words for, or other things behind its words: calls, the split, breakers, stick tables, events.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::View;
use super::command::Compared;
use super::people::{columns, short};
use super::picture::Picture;
use crate::net::udp::clock;
use crate::proxy::stick_key_of;
use crate::state::bad_messages::BadMessage;
use crate::state::bans;
use crate::state::refused::Refused;

/// `sip show calls`, `show sess`: how many calls each server has.
pub fn calls(picture: &Picture) -> String {
    let mut lines = vec![["server", "calls", "max", "calls/s", "total"].map(str::to_owned)];
    for server in picture.servers() {
        lines.push([
            server.full_name(),
            server.calls.to_string(),
            if server.max_calls == 0 { "-".to_owned() } else { server.max_calls.to_string() },
            format!("{:.1}", server.rates.calls.now),
            server.tally[super::picture::Count::Calls].to_string(),
        ]);
    }
    columns(&lines)
}

/// `sip show split`: each region's part of what opened something in the last minute.
pub fn split(picture: &Picture) -> String {
    let percent = |part: f64| format!("{:.1} %", part * 100.0);
    let heads = ["backend", "region", "target", "now due", "last minute", "opened", "servers", ""];
    let mut lines = vec![heads.map(str::to_owned)];
    for backend in &picture.backends {
        for region in &backend.regions {
            lines.push([
                backend.name.clone(),
                region.name.clone(),
                percent(region.target),
                percent(region.expected),
                region.actual().map_or_else(|| "-".to_owned(), percent),
                region.opened.to_string(),
                format!("{} of {}", region.up, region.servers),
                match region.deviates() {
                    None => "too few to judge",
                    Some(true) => "deviates",
                    Some(false) => "as it should be",
                }
                .to_owned(),
            ]);
        }
    }
    columns(&lines)
}

/// `sip show breakers`
pub fn breakers(picture: &Picture) -> String {
    let heads = ["server", "breaker", "requests", "failed", "rejected"];
    let mut lines = vec![heads.map(str::to_owned)];
    for server in picture.servers() {
        let Some(breaker) = server.breaker else { continue };
        let counts = breaker.counts;
        let [total, failed, rejected] = [counts.total, counts.failed, counts.rejected].map(|n| n.to_string());
        lines.push([server.full_name(), breaker.circuit.word().to_owned(), total, failed, rejected]);
    }
    columns(&lines)
}

/// `show events N json`: what happened after this one, an object a line.
pub fn events_json(view: &View, after: u64) -> String {
    let events = view.journal().events_after(after);
    events
        .iter()
        .filter_map(|event| serde_json::to_string(event).ok())
        .fold(String::new(), |text, line| text + &line + "\n")
}

/// `show events`: what happened after this one.
pub fn events(view: &View, after: u64) -> String {
    let now = super::unix_now();
    let mut text = String::new();
    for event in view.journal().events_after(after) {
        let who = event.who.as_ref().map_or_else(String::new, |who| format!(" by {who}"));
        let server: Vec<_> = [&event.backend, &event.server].into_iter().flatten().map(String::as_str).collect();
        let ago = short((now - event.at).max(0.0) as u64);
        let _ = writeln!(text, "{} {ago} ago {} {} {}{who}", event.id, event.kind.word(), server.join("/"), event.text);
    }
    text
}

/// The most entries of a table that are shown at once.
const SHOWN: usize = 1000;

/// `show table`: the stick tables, or one with what is in it. Keys are hashed before they are kept: HAProxy's `key=` shows
/// the hash.
///
/// # Errors
/// Where there is none of this name.
pub fn table(
    view: &View,
    picture: &Picture,
    table: Option<&str>,
    (key, server): (Option<&str>, Option<Result<Compared, &str>>),
) -> Result<String, String> {
    let tables = picture.backends.iter().filter_map(|backend| Some((backend, backend.stick.as_ref()?)));
    let wanted: Vec<_> = tables.filter(|(backend, _)| table.is_none_or(|table| table == backend.name)).collect();
    if table.is_some() && wanted.is_empty() {
        return Err("No such table".to_owned());
    }
    let server = server.transpose()?;
    let (snapshot, now, mut text) = (view.snapshot(), clock(), String::new());
    for (backend, stick) in wanted {
        let _ =
            writeln!(text, "# table: {}, type: {}, size:{}, used:{}", backend.name, stick.on, stick.size, stick.used);
        let of = snapshot.backends.iter().find(|of| of.config.name == backend.name);
        let Some((entries, _)) = of.and_then(|of| of.stick()).filter(|_| table.is_some()) else { continue };
        let wanted = key.map(|key| self::key(view, &backend.name, key)).transpose()?;
        let numbers: HashMap<_, _> = backend.servers.iter().map(|server| (server.id, server.sid)).collect();
        let number = |id| numbers.get(&id).copied().unwrap_or_default();
        let mut found = entries.entries(now).filter(|entry| {
            wanted.is_none_or(|key| key == entry.key) && server.is_none_or(|server| server.fits(number(entry.server)))
        });
        for entry in found.by_ref().take(SHOWN) {
            let (name, number) = (format!("{:016x}", entry.key), number(entry.server));
            let rest = entry.until.since(now).as_millis();
            let _ = writeln!(text, "0x{name}: key={name} use=0 exp={rest} server_id={number}");
        }
        if found.next().is_some() {
            let _ = writeln!(text, "# there are more: ask for one by `key`, or for some by `data.server_id eq`");
        }
    }
    Ok(text)
}

/// The key of what somebody typed: what calls stick by, or its hash as `show table` has it.
///
/// # Errors
/// Where there is no such table, or its keys are addresses and this is none.
pub fn key(view: &View, backend: &str, typed: &str) -> Result<u64, String> {
    let snapshot = view.snapshot();
    let of = snapshot.backends.iter().find(|of| of.config.name == backend);
    let (_, stick) = of.and_then(|of| of.stick()).ok_or("No such table")?;
    let hash = typed.strip_prefix("0x").unwrap_or(typed);
    match u64::from_str_radix(hash, 16).ok().filter(|_| hash.len() == 16) {
        Some(hash) => Ok(hash),
        None => stick_key_of(stick, typed, &snapshot).ok_or_else(|| "Invalid key: an address is expected.".to_owned()),
    }
}

/// `sip show bans`: who is banned, or was refused lately.
pub fn bans(view: &View) -> String {
    let (snapshot, now) = (view.snapshot(), clock());
    let name = |id| snapshot.frontend_name(id).unwrap_or("-").to_owned();
    let ago = |at| format!("{} ago", short(now.since(at).as_secs()));
    let banned = view.shared().bans.all(now);
    let refused = view.shared().refused_sources();
    let mut lines = vec![["source", "frontend", "why", "messages", "last", "banned"].map(str::to_owned)];
    for (frontend, source, ban) in &banned {
        let of = |one: &&Refused| one.frontend == *frontend && bans::who(one.source) == *source;
        let messages = refused.iter().filter(of).map(|one| one.messages).sum::<u64>();
        let last = refused.iter().filter(of).map(|one| one.last).max().unwrap_or(ban.since);
        let (why, left) = (ban.why.word().to_owned(), format!("for {}", short(ban.until.since(now).as_secs())));
        lines.push([source.to_string(), name(*frontend), why, messages.to_string(), ago(last), left]);
    }
    let is_banned =
        |one: &Refused| banned.iter().any(|(at, who, _)| (*at, *who) == (one.frontend, bans::who(one.source)));
    for one in refused.iter().filter(|one| !is_banned(one)) {
        let why = one.reason.word().to_owned();
        let (messages, last) = (one.messages.to_string(), ago(one.last));
        lines.push([one.source.to_string(), name(one.frontend), why, messages, last, "-".to_owned()]);
    }
    columns(&lines)
}

/// What could not be read, for the page: the newest first.
pub fn bad_messages(view: &View) -> Vec<Value> {
    /// As many as a page shows.
    const MOST: usize = 32;
    let (now, at) = (clock(), super::unix_now());
    let snapshot = view.snapshot();
    let shown = |BadMessage { about, bytes }: BadMessage| {
        json!({
            // The moment is worked out anew each time; what it is called stays.
            "id": format!("{:x}-{}", about.at.0, about.source),
            "at": at - now.since(about.at).as_secs_f64(),
            "frontend": snapshot.frontend_name(about.frontend),
            "source": about.source.to_string(), "reason": about.reason.word(), "bytes": about.len,
            "text": String::from_utf8_lossy(&bytes),
        })
    };
    view.shared().bad_messages().into_iter().rev().take(MOST).map(shown).collect()
}

/// `show errors`: the same for a terminal, where nothing of it can steer the screen.
pub fn errors(view: &View) -> String {
    let all = view.shared().bad_messages();
    let (now, mut text) = (clock(), format!("Total events captured : {}\n", all.len()));
    for BadMessage { about, bytes } in all {
        let ago = short(now.since(about.at).as_secs());
        let (reason, source, len) = (about.reason.word(), about.source, about.len);
        let _ = write!(text, "\n{ago} ago from {source}: {reason}, {len} bytes:\n  ");
        text += &bytes.escape_ascii().to_string().replace("\\n", "\\n\n  ");
        text.push('\n');
    }
    text
}

/// `show activity`
pub fn activity(picture: &Picture) -> String {
    let sums = &picture.sums;
    format!(
        "thread_id: 1 (1..{})\nrecvmmsg: {}\nsendmmsg: {}\nicmp: {}\nkernel_drops: {}\npins_evicted: {}\n",
        picture.node.workers, sums.receives, sums.sends, sums.icmp, sums.kernel_drops, picture.pins.evicted
    )
}
