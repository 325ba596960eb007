//! The door to what is shown: whoever wants to see something asks it for a [`Picture`].

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::follow::Following;
use super::haproxy::info;
use super::journal::Journal;
use super::picture::look::Scene;
use super::picture::second::Seconds;
use super::picture::verdict::verdict;
use super::picture::{Picture, Server, numbered};
use super::roles::Role;
use super::{json, metrics, unix_now};
use crate::config::admin::Identity;
use crate::net::tls::Tls;
use crate::net::udp::clock;
use crate::state::{Shared, Snapshot, Time};

/// A picture is shown for so long before another one is made.
const FRESH: Duration = Duration::from_millis(250);

/// What does not change while the process runs, but for the text's fingerprint.
pub struct Place {
    pub workers: usize,
    pub started: Time,
    /// Seconds since 1970.
    pub started_at: u64,
    /// This machine's name.
    pub node: String,
    pub tls: Arc<Tls>,
    text: Arc<AtomicU64>,
}

impl Place {
    /// [`crate::config::fingerprint`] of the text in force.
    pub fn configuration(&self) -> u64 {
        self.text.load(Ordering::Relaxed)
    }
}

/// The door to what is shown.
#[derive(Clone)]
pub struct View(Arc<Seen>);

struct Seen {
    place: Place,
    snapshot: Arc<ArcSwap<Snapshot>>,
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    seconds: Mutex<Seconds>,
    newest: Mutex<Option<Arc<Picture>>>,
    made: AtomicU64,
    stopping: AtomicBool,
    /// The picture of this number as JSON, for all who look on, and as Prometheus reads it.
    written: Mutex<(u64, Arc<str>)>,
    scraped: Mutex<(u64, Bytes)>,
    told: ArcSwap<Told>,
    following: Following,
    roles: ArcSwap<Vec<Role>>,
}

/// What the configuration says of what is shown.
#[derive(Debug, Default)]
struct Told {
    identity: Identity,
    text: String,
}

impl View {
    /// What `workers` threads see; `text` names the configuration.
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        shared: Arc<Shared>,
        workers: usize,
        text: Arc<AtomicU64>,
        journal: Arc<Journal>,
        tls: Arc<Tls>,
    ) -> Self {
        let (started, started_at) = (clock(), unix_now() as u64);
        let place = Place { workers, started, started_at, node: node_name(), tls, text };
        let (seconds, newest) = Default::default();
        let written = Mutex::new((0, Arc::from("{}")));
        Self(Arc::new(Seen {
            place,
            snapshot,
            shared,
            journal,
            seconds,
            newest,
            made: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            written,
            scraped: Mutex::default(),
            told: ArcSwap::default(),
            following: Following::default(),
            roles: ArcSwap::default(),
        }))
    }

    /// How it is now, or was a quarter of a second ago.
    pub fn picture(&self) -> Arc<Picture> {
        let mut newest = self.0.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock();
        match &*newest {
            Some(picture) if now.since(picture.made) < FRESH => Arc::clone(picture),
            _ => Arc::clone(newest.insert(Arc::new(self.make(now)))),
        }
    }

    /// How it is after what was just done: the next picture is a new one.
    pub fn is_stale(&self) {
        *self.0.newest.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn make(&self, now: Time) -> Picture {
        let Seen { place, snapshot, shared, journal, following, made, roles, .. } = &*self.0;
        let number = made.fetch_add(1, Ordering::Relaxed) + 1;
        let (snapshot, mut seconds) = (snapshot.load(), self.seconds());
        seconds.look(&snapshot);
        let (stopping, roles) = (self.is_stopping(), roles.load_full());
        Scene {
            stopping,
            roles,
            place,
            snapshot: &snapshot,
            shared,
            journal,
            following,
            seconds: &seconds,
            now,
            number,
        }
        .picture()
    }

    /// From now on it is shown that this process is about to end.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Whoever asks whether we are ready should send no more.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// How it is, in one sentence.
    pub fn sentence(&self) -> String {
        let verdict = verdict(&self.picture());
        format!("{}: {}", verdict.level.word(), verdict.text)
    }

    /// What this node is in its pair, as keepalived said last.
    pub fn roles(&self) -> Arc<Vec<Role>> {
        self.0.roles.load_full()
    }

    /// keepalived said something else.
    pub fn set_roles(&self, roles: Vec<Role>) {
        self.0.roles.store(Arc::new(roles));
    }

    /// When this process began.
    pub fn started(&self) -> Time {
        self.0.place.started
    }

    /// A second has gone by.
    pub fn tick(&self) {
        let snapshot = self.0.snapshot.load();
        self.seconds().tick(&snapshot, &self.0.shared, clock());
    }

    /// `clear counters`, of all where it is asked for.
    pub fn clear_counters(&self, all: bool) {
        let snapshot = self.0.snapshot.load();
        self.seconds().clear(all, &snapshot);
        self.is_stale();
    }

    /// The last minutes.
    pub fn seconds(&self) -> MutexGuard<'_, Seconds> {
        self.0.seconds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest picture as the page reads it: one object.
    pub fn json(&self) -> Arc<str> {
        let picture = self.picture();
        let mut written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.0 != picture.number {
            *written = (picture.number, json::picture(&picture).to_string().into());
        }
        Arc::clone(&written.1)
    }

    /// The newest picture as Prometheus reads it, written once however many ask: this thread does the checks, too.
    pub fn metrics(&self) -> Bytes {
        let picture = self.picture();
        let mut scraped = self.0.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        if scraped.0 != picture.number {
            let version = info::version(self.identity());
            *scraped = (picture.number, metrics::render(&picture, &version).into());
        }
        scraped.1.clone()
    }

    /// Another configuration is in force: whose name it says, and its text, of which no secret is kept.
    pub fn tell(&self, identity: Identity, text: &str) {
        self.0.told.store(Arc::new(Told { identity, text: without_secrets(text) }));
    }

    /// Whose name it says.
    pub fn identity(&self) -> Identity {
        self.0.told.load().identity
    }

    /// The text in force, without secrets.
    pub fn configuration(&self) -> String {
        self.0.told.load().text.clone()
    }

    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// Calls that somebody follows.
    pub fn following(&self) -> &Following {
        &self.0.following
    }

    pub fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// The routing state of this moment, for questions that a picture does not answer.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot.load_full()
    }
}

impl Picture {
    /// The server of a name such as `backend/server`.
    ///
    /// # Errors
    /// In HAProxy's words.
    pub fn server(&self, name: &str) -> Result<&Server, String> {
        let (backend, server) = name.split_once('/').ok_or("Require 'backend/server'.")?;
        if backend.is_empty() || server.is_empty() {
            return Err("Require 'backend/server'.".to_owned());
        }
        let backend = self.backend(backend).ok_or("No such backend.")?;
        let is_it = |row: &&Server| row.name == server || numbered(server) == Some(row.sid);
        if let Some(found) = backend.servers.iter().find(is_it) {
            return Ok(found);
        }
        let is_address = |row: &&Server| row.name.split_once('@').is_some_and(|(name, _)| name == server);
        let own: Vec<_> = backend.servers.iter().filter(is_address).map(Server::full_name).collect();
        Err(match own.is_empty() {
            true if backend.nameless.iter().any(|named| named.name == server) => {
                format!("No such server: {name} is a name, and has no address.")
            }
            true => "No such server.".to_owned(),
            false => format!("No such server: {name} is a name; its servers are {}.", own.join(", ")),
        })
    }
}

/// The text with dots for each value of a key `password_hash`, however both are written, and for what else may be a hash:
/// in a comment, say.
fn without_secrets(text: &str) -> String {
    let Ok(table) = DeTable::parse(text) else { return String::new() };
    let mut spans = Vec::new();
    table.get_ref().values().for_each(|value| secrets(value, &mut spans));
    hashes(table.get_ref(), &mut spans);
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    let mut shown = text.to_owned();
    spans.into_iter().for_each(|span| shown.replace_range(span, "\"...\""));
    let mut parts = shown.split("$argon2");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'')).unwrap_or(part.len());
        out = out + "..." + &part[end..];
    }
    out
}

/// Where the hashes in a table itself stand.
fn hashes(table: &DeTable<'_>, spans: &mut Vec<Range<usize>>) {
    let of_key = table.iter().filter(|(key, _)| key.get_ref() == "password_hash");
    spans.extend(of_key.map(|(_, value)| value.span()));
}

/// Where those in a value stand.
fn secrets(value: &Spanned<DeValue<'_>>, spans: &mut Vec<Range<usize>>) {
    if let Some(table) = value.get_ref().as_table() {
        hashes(table, spans);
        table.values().for_each(|value| secrets(value, spans));
    }
    value.get_ref().as_array().into_iter().flat_map(|items| items.iter()).for_each(|value| secrets(value, spans));
}

/// This machine's name.
pub(super) fn node_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hash_of_a_password_is_shown() {
        let text = "users = [{ name = \"a\", password_hash = \"$argon2id$x\", role = \"admin\" },\n{ name = 'b', password_hash = '$argon2id$y' }]\n";
        let shown = without_secrets(text);
        assert!(!shown.contains("argon2id"), "{shown}");
        assert!(shown.contains("password_hash = \"...\", role = \"admin\"") && shown.contains("\"...\" }]"), "{shown}");
        for written in [
            r#"[[admin.users]]
password_hash = '''$argon2id$x'''"#,
            r#"[[admin.users]]
"password\u005fhash" = '$argon2id$x'"#,
            r#"[[admin.users]]
"password\u005fhash" = "\u0024argon2id$x""#,
            r#"admin = { users = [{ password_hash = """
$argon2id$x""" }] }"#,
            r#"# before: password_hash = "$argon2id$x"
[global]"#,
        ] {
            let shown = without_secrets(written);
            assert!(!shown.contains("argon2") && !shown.contains("$x") && shown.contains("..."), "{written}: {shown}");
        }
        assert_eq!(without_secrets("[global]\n"), "[global]\n");
    }
}
