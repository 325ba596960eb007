//! `trunkline events`: what happened, one event a line.

use std::path::Path;
use std::process::ExitCode;

use super::door::{Door, each_second, finish, put};
use crate::admin::client::{ask_soon, hear};
use crate::admin::journal::Event;
use crate::admin::{time_text, unix_now};

/// Whoever follows is shown so many that were before.
const BEFORE: usize = 10;

/// `trunkline events`
pub fn show(door: &Door, json: bool) -> ExitCode {
    let events = door.ask(&command(0)).and_then(|answer| parse(&answer));
    finish(events.map(|events| {
        // Whoever closes the pipe has read enough.
        let _ = events.iter().try_for_each(|event| put(&line(event, json)));
    }))
}

/// `trunkline events --follow`
pub fn follow(door: &Door, json: bool) -> ExitCode {
    let followed = door.socket().and_then(|socket| {
        let (mut last, mut silent) = (None::<Event>, false);
        each_second(async || {
            let events = match since(&socket, last.as_ref()).await {
                Ok(events) => events,
                Err(error) => {
                    if !std::mem::replace(&mut silent, true) {
                        eprintln!("{} no answer, trying again every second: {error}", time_text(unix_now()));
                    }
                    return Ok(());
                }
            };
            if std::mem::take(&mut silent) {
                eprintln!("{} it answers", time_text(unix_now()));
            }
            let skipped = if last.is_none() { events.len().saturating_sub(BEFORE) } else { 0 };
            events.iter().skip(skipped).try_for_each(|event| put(&line(event, json)))?;
            last = events.into_iter().next_back().or(last.take());
            Ok(())
        })
    });
    finish(followed)
}

/// `trunkline trace`: the call's messages on stdout.
pub fn trace(door: &Door, call_id: &str) -> ExitCode {
    // In a line of commands `\` takes the meaning from what stands there.
    let escaped: String =
        call_id.chars().flat_map(|c| [Some('\\').filter(|_| " \t;\\".contains(c)), Some(c)]).flatten().collect();
    finish(match call_id.contains(['\r', '\n']) || call_id.is_empty() {
        true => Err("that is no Call-ID".to_owned()),
        false => door.socket().and_then(|socket| hear(&socket, &format!("sip trace call-id {escaped}"), put)),
    })
}

fn command(after: u64) -> String {
    format!("show events {after} json")
}

fn parse(answer: &str) -> Result<Vec<Event>, String> {
    let older = |error| format!("the Trunkline that runs is of another version: its events cannot be read: {error}");
    answer.lines().map(|line| serde_json::from_str(line).map_err(older)).collect()
}

/// What came after the last one that was seen. That one is asked for too: whoever does not have it was started again and
/// counts anew, or has forgotten it over so many others.
async fn since(socket: &Path, last: Option<&Event>) -> Result<Vec<Event>, String> {
    let after = last.map_or(0, |last| last.id - 1);
    let mut events = parse(&ask_soon(socket, &command(after)).await?)?;
    let Some(last) = last else { return Ok(events) };
    if events.first() == Some(last) {
        events.remove(0);
        return Ok(events);
    }
    let mut events = parse(&ask_soon(socket, &command(0)).await?)?;
    events.retain(|event| event.at > last.at);
    Ok(events)
}

/// What it says of itself cannot steer a terminal.
fn line(event: &Event, json: bool) -> String {
    if json {
        return serde_json::to_string(event).map_or_else(|_| String::new(), |object| object + "\n");
    }
    let named: Vec<_> = [&event.backend, &event.server].into_iter().flatten().map(String::as_str).collect();
    let who = event.who.as_ref().map_or_else(String::new, |who| format!(" by {who}"));
    let words = [time_text(event.at), event.kind.word().to_owned(), named.join("/"), event.text.clone() + &who];
    let words: Vec<_> = words.iter().filter(|word| !word.is_empty()).map(String::as_str).collect();
    let plain: String = words.join(" ").chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    plain + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::journal::Kind;

    #[test]
    fn an_event_is_one_line_with_date_and_time_and_steers_no_terminal() {
        let (backend, server) = (Some("pbx".to_owned()), Some("one".to_owned()));
        let text = "up,\n\x1b[2Jwas down".to_owned();
        let event = Event { id: 7, at: 1_795_300_865.9, kind: Kind::Health, text, who: None, backend, server };
        assert_eq!(line(&event, false), "2026-11-21T22:41:05Z health pbx/one up,  [2Jwas down\n");
        assert_eq!(parse(&line(&event, true)), Ok(vec![event.clone()]), "what is printed for programs can be read");
        let who = Some("uid 0 pid 5".to_owned());
        let event = Event { kind: Kind::Reload, text: "reloaded".into(), who, backend: None, server: None, ..event };
        assert_eq!(line(&event, false), "2026-11-21T22:41:05Z reload reloaded by uid 0 pid 5\n");
    }
}
