//! The operator's door: commands come in by a unix socket, in the words of HAProxy's runtime API, so that its tools and
//! its people's habits work here.
//!
//! ```text
//! http             the same for browsers            and for tools that speak HTTP
//! runtime_socket   lines in, answers out            one task for each connection
//! command          what a line asks for             and what there is to ask for
//! answer           what is said to it               from a View, or by a Request
//! view             what can be shown                read where it lives: snapshot, counters, pins
//! client           the other end: `trunkline status`
//! follow           calls that somebody follows      log lines, HEP, `sip trace`
//! local            whether this process is well     for keepalived and the watchdog
//! roles            what this node is in its pair    as keepalived's notify says
//! journal          what happened                    in memory; what somebody changed also in audit
//! state_dir        what outlives the process        history: configurations; audit: who changed what; backup: all of it
//! ```
//! Who shows something reads it from a [`View`]; who changes something sends a [`Request`] to the one who writes
//! snapshots, and waits for its answer.

mod answer;
pub mod audit;
pub mod backup;
pub mod client;
mod command;
pub mod follow;
mod haproxy;
pub mod history;
pub mod http;
pub mod journal;
mod json;
pub mod local;
mod metrics;
mod page;
mod people;
mod picture;
pub mod roles;
pub mod runtime_socket;
mod sip;
pub mod state_dir;
mod view;

pub use view::View;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::sip::token::NameHash;
use crate::state::server::{Admin, Health};

/// Seconds since 1970, for people; nothing is decided by it.
pub(crate) fn unix_now() -> f64 {
    #[allow(clippy::disallowed_methods, reason = "people want to know when")]
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Seconds since 1970 as RFC 3339 has them, as in the log.
pub fn time_text(at: f64) -> String {
    let since = Duration::try_from_secs_f64(at).unwrap_or_default();
    x509_cert::der::DateTime::from_unix_duration(since).map_or_else(|_| at.to_string(), |time| time.to_string())
}

/// A socket, a listener or a folder that could not be had, with what to do.
#[derive(Debug)]
pub struct OpenError(String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

/// Something that somebody wants changed.
#[derive(Debug)]
pub struct Request {
    pub who: Who,
    pub wish: Wish,
    /// What is said to them: words to print, or why it was not done.
    pub answer: oneshot::Sender<Result<String, String>>,
}

/// What can be wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Read the configuration again.
    Reload,
    Admin {
        server: NameHash,
        admin: Admin,
    },
    Weight {
        server: NameHash,
        /// `None`: as configured.
        weight: Option<u32>,
    },
    /// `None`: as configured; 0: as many as come.
    MaxCalls {
        server: NameHash,
        most: Option<u32>,
    },
    /// Forget what sticks in a backend's table, or one key of it.
    ClearTable {
        backend: String,
        key: Option<u64>,
    },
    /// A source may open something new again.
    Unban {
        source: IpAddr,
    },
    CloseBreaker {
        server: NameHash,
    },
    /// Whether it is checked.
    Check {
        server: NameHash,
        on: bool,
    },
    /// As if a check had found it so; the next one may find otherwise.
    Health {
        server: NameHash,
        health: Health,
    },
}

/// Who wishes: the log says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    Signal(&'static str),
    /// Nobody: Trunkline itself, at its start or when it looks at files.
    Own(&'static str),
    /// The other end of the socket, as the kernel knows it.
    Peer {
        uid: u32,
        pid: i32,
    },
    /// Somebody who logged in, and from where.
    Http {
        user: Arc<str>,
        from: SocketAddr,
    },
}

impl Who {
    /// For programs.
    pub fn json(&self) -> Value {
        match self {
            Self::Signal(signal) => json!({"signal": signal}),
            Self::Own(why) => json!({"own": why}),
            Self::Peer { uid, pid } => json!({"uid": uid, "pid": pid}),
            Self::Http { user, from } => json!({"user": &**user, "from": from.ip()}),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) | Self::Own(name) => f.write_str(name),
            Self::Peer { uid, pid } => write!(f, "uid {uid} pid {pid}"),
            Self::Http { user, from } => write!(f, "{user} from {} (page)", from.ip()),
        }
    }
}
