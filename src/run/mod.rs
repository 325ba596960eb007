//! The wiring: configuration and key to a snapshot, sockets, workers, checks; and the one who writes new snapshots.
//!
//! `start` reads files and opens what a balancer needs; `control` is its loop: health, signs, commands; `breakers` looks at
//! what servers answer; `reload` takes a new configuration, `leaving` lets go what it removed; `names` asks the DNS; `checks` keeps the checks like
//! the configuration; `certificates` looks after the files of TLS; `service` is what systemd
//! hears of us; `kept` has what outlives the process; `warnings` says what may be a slip.

mod bans;
mod breakers;
mod certificates;
mod checks;
mod control;
mod kept;
mod leaving;
mod names;
mod reload;
mod service;
mod start;
mod told;
mod warnings;

pub use certificates::read_tls;
pub use names::with_addresses;
pub use service::leave;
pub use start::{Source, random, read_config, read_keys, read_or_make_keys, room_for_servers, too_few_files};

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::admin::follow;
use crate::admin::http::Doors;
use crate::admin::journal::Journal;
use crate::admin::{Request, View};
use crate::config::Config;
use crate::net::check::News;
use crate::net::tls::{Look, Tls};
use crate::net::worker::{Setup, Workers};
use crate::sip::token::{Keys, NameHash};
use crate::state::binds::Host;
use crate::state::pins::Held;
use crate::state::server::ServerState;
use crate::state::slow_start::SlowStarts;
use crate::state::watch::Watch;
use crate::state::{Snapshot, Time};
use checks::Checks;
use leaving::Leaving;
use names::Names;

/// Why the balancer could not start, with what to do.
#[derive(Debug)]
pub enum StartError {
    /// The configuration or the key file is faulty: exit code 78.
    Config(String),
    /// The host refused something: exit code 1.
    Host(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Config(text) | Self::Host(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for StartError {}

/// A running balancer. Lives in a tokio runtime, which carries checks and control; messages have threads of their own.
pub struct Balancer {
    basis: Basis,
    /// As it was at the start: threads and tables are made once.
    first: Config,
    /// Where the configuration was read; `None` where it came from no file.
    source: Option<Source>,
    /// [`crate::config::fingerprint`] of the text that is in force.
    text: Arc<AtomicU64>,
    setup: Setup,
    /// Snapshots that a worker may still hold: the last drop of one must not fall on a worker.
    retired: Vec<Arc<Snapshot>>,
    workers: Workers,
    worker_count: usize,
    checks: Checks,
    names: Names,
    /// Handshakes take what they need from here.
    tls: Arc<Tls>,
    /// The look at their files that is under way: one, or none.
    looks: JoinSet<Look>,
    /// A walk of the calls, for how many hang on whom: when it began, and what it found.
    walks: JoinSet<(Time, HashMap<NameHash, Held>)>,
    news: mpsc::Receiver<News>,
    requests: mpsc::Receiver<Request>,
    door: mpsc::Sender<Request>,
    watch: Watch,
    slow_starts: SlowStarts,
    shown: View,
    /// Who writes down the messages of calls that somebody follows.
    follower: follow::Handle,
    /// What happened, for whoever looks later.
    journal: Arc<Journal>,
    /// Where people look in over HTTP.
    http: Doors,
    /// What the log has said of drops and of connections.
    told: told::Told,
    /// Where keepalived's notify says what this node is.
    roles: Option<PathBuf>,
    /// What systemd heard last of how it is.
    sentence: String,
    /// `None` where no folder could be had for it.
    kept: Option<kept::Kept>,
}

/// What a snapshot is made of.
struct Basis {
    /// What the file says.
    file: Config,
    /// The same with the addresses of names.
    wanted: Config,
    /// The same with what a reload removed and what is not gone yet.
    config: Config,
    leaving: Leaving,
    keys: Keys,
    host: Host,
    states: HashMap<NameHash, ServerState>,
    /// Addresses that the last answer for their name had not, and of which something was asked.
    away: HashMap<NameHash, Away>,
}

/// What was asked of an address that is not there now.
#[derive(Clone)]
struct Away {
    /// With the weight and the limit that were asked for at run time, and what the file had for them then.
    state: ServerState,
    weight: u32,
    max_calls: u32,
    backend: String,
    /// The name whose address it was.
    name: String,
}
