//! The operator's door: commands come in by a unix socket, in the words of HAProxy's runtime API, so that its tools and
//! its people's habits work here.
//!
//! ```text
//! runtime_socket   lines in, answers out            one task for each connection
//! command          what a line asks for             and what there is to ask for
//! answer           what is said to it               from a View, or by a Request
//! view             what can be shown                read where it lives: snapshot, counters, pins
//! client           the other end: `trunkline status`
//! ```
//! Who shows something reads it from a [`View`]; who changes something sends a [`Request`] to the one who writes
//! snapshots, and waits for its answer.

mod answer;
pub mod client;
mod command;
pub mod runtime_socket;
mod view;

pub use view::View;

use std::fmt;

use tokio::sync::oneshot;

use crate::sip::token::NameHash;
use crate::state::server::Admin;

/// Something that somebody wants changed.
#[derive(Debug)]
pub struct Request {
    pub who: Who,
    pub wish: Wish,
    /// What is said to them: words to print, or why it was not done.
    pub answer: oneshot::Sender<Result<String, String>>,
}

/// What can be wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    CloseBreaker {
        server: NameHash,
    },
}

/// Who wishes: the log says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Signal(&'static str),
    /// The other end of the socket, as the kernel knows it.
    Peer {
        uid: u32,
        pid: i32,
    },
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => f.write_str(name),
            Self::Peer { uid, pid } => write!(f, "uid {uid} pid {pid}"),
        }
    }
}
