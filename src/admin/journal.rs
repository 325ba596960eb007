//! What happened, for whoever looks later: the roof writes it, everything that shows something reads it. All of it is bounded.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use super::audit::Audit;
use super::{Who, unix_now};
use crate::state::records::Records;

/// So many events are kept: some days of a quiet cluster, an hour of a bad one.
const EVENTS: usize = 500;

/// What kind of event it is; the word is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Start,
    Stop,
    Health,
    Breaker,
    Ban,
    Admin,
    Weight,
    Limit,
    Reload,
    Certificate,
    Role,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Health => "health",
            Self::Breaker => "breaker",
            Self::Ban => "ban",
            Self::Admin => "admin",
            Self::Weight => "weight",
            Self::Limit => "limit",
            Self::Reload => "reload",
            Self::Certificate => "certificate",
            Self::Role => "role",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 on.
    pub id: u64,
    /// Seconds since 1970.
    pub at: f64,
    pub kind: Kind,
    pub text: String,
    /// Who did it, where somebody did.
    pub who: Option<String>,
    pub backend: Option<String>,
    pub server: Option<String>,
}

/// How reloads went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reloads {
    pub done: u64,
    pub failed: u64,
    pub last: Option<Reload>,
}

/// One reload.
#[derive(Clone, Debug, Serialize)]
pub struct Reload {
    pub at: f64,
    pub who: String,
    pub ok: bool,
    /// Its first line. The rest may quote the file, which is for who asked and for the audit log: viewers see this.
    pub said: String,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Journal {
    records: Mutex<Records>,
    events: Mutex<Events>,
    reloads: Mutex<Reloads>,
    /// What somebody changed goes there too, where there is a folder for it.
    audit: OnceLock<Audit>,
}

/// What somebody changed.
#[derive(Debug)]
pub struct Change<'a> {
    pub kind: Kind,
    /// "backend/server", or a backend, or nothing.
    pub of: &'a str,
    /// Which of its values.
    pub what: &'a str,
    pub from: String,
    pub to: String,
}

#[derive(Debug, Default)]
struct Events {
    newest: u64,
    kept: VecDeque<Event>,
}

impl Journal {
    /// What is remembered of servers; held only while it is read or written.
    pub fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened; `server` is "backend/server", or a backend, or nothing.
    pub fn note(&self, kind: Kind, server: &str, who: Option<&Who>, text: String) {
        let (backend, server) = server.split_once('/').unwrap_or((server, ""));
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.newest += 1;
        let id = events.newest;
        if events.kept.len() == EVENTS {
            events.kept.pop_front();
        }
        events.kept.push_back(Event {
            id,
            at: unix_now(),
            kind,
            text,
            who: who.map(|who| who.to_string()),
            backend: named(backend),
            server: named(server),
        });
    }

    /// Those events that came after this one, oldest first.
    pub fn events_after(&self, id: u64) -> Vec<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.kept.iter().filter(|event| event.id > id).cloned().collect()
    }

    /// From now on the audit log has what somebody changes. The first one stays.
    pub fn audit(&self, audit: Audit) {
        let _ = self.audit.set(audit);
    }

    /// Waits until the audit log is written, for two seconds at most.
    pub fn flush(&self) {
        self.audit.get().into_iter().for_each(Audit::flush);
    }

    fn note_audit(&self, who: &Who, change: &Change<'_>, ok: bool, said: &str) {
        self.audit.get().into_iter().for_each(|audit| audit.note(who, change, ok, said));
    }

    /// Somebody changed something; `text` says it to people.
    pub fn changed(&self, who: &Who, change: &Change<'_>, text: String) {
        self.note_audit(who, change, true, &text);
        self.note(change.kind, change.of, Some(who), text);
    }

    /// A process began with this configuration.
    pub fn began(&self, who: &Who, configuration: String, said: &str) {
        let change = Change { kind: Kind::Start, of: "", what: "process", from: String::new(), to: configuration };
        self.note_audit(who, &change, true, said);
    }

    /// Somebody ends the process, which has this configuration.
    pub fn ended(&self, who: &Who, configuration: String) {
        let change = Change { kind: Kind::Stop, of: "", what: "process", from: configuration, to: String::new() };
        self.note_audit(who, &change, true, "");
    }

    /// A reload ended; it was to lead from one configuration to another.
    pub fn reloaded(&self, who: &Who, [from, to]: [String; 2], outcome: &Result<String, String>) {
        let (ok, said) = match outcome {
            Ok(said) => (true, said),
            Err(said) => (false, said),
        };
        let change = Change { kind: Kind::Reload, of: "", what: "configuration", from, to };
        self.note_audit(who, &change, ok, said);
        let first = said.lines().next().unwrap_or_default();
        self.note(Kind::Reload, "", Some(who), format!("{}{first}", if ok { "" } else { "refused: " }));
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        if ok {
            reloads.done += 1;
        } else {
            reloads.failed += 1;
        }
        reloads.last = Some(Reload { at: unix_now(), who: who.to_string(), ok, said: first.to_owned() });
    }

    pub fn reloads(&self) -> Reloads {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_kept_and_known_by_their_numbers() {
        let journal = Journal::default();
        for n in 0..EVENTS + 20 {
            journal.note(Kind::Health, "pbx/one", None, format!("{n}"));
        }
        let all = journal.events_after(0);
        assert_eq!((all.len(), all[0].id, all[0].text.as_str()), (EVENTS, 21, "20"));
        assert_eq!(all[0].backend.as_deref().zip(all[0].server.as_deref()), Some(("pbx", "one")));
        assert_eq!(journal.events_after(EVENTS as u64 + 18).len(), 2);
        journal.note(Kind::Start, "", None, String::new());
        assert_eq!(journal.events_after(EVENTS as u64 + 20)[0].backend, None);
    }

    #[test]
    fn a_refused_reload_is_remembered_by_its_first_fault() {
        let journal = Journal::default();
        journal.reloaded(&Who::Signal("SIGHUP"), Default::default(), &Ok("x: reloaded\n  a\n".into()));
        journal.reloaded(
            &Who::Signal("SIGHUP"),
            Default::default(),
            &Err("line 3: no such key\nline 4: nor this\n".into()),
        );
        let reloads = journal.reloads();
        assert_eq!((reloads.done, reloads.failed), (1, 1));
        assert!(reloads.last.is_some_and(|last| !last.ok && last.said == "line 3: no such key"));
        assert_eq!(journal.events_after(1)[0].text, "refused: line 3: no such key");
    }
}
