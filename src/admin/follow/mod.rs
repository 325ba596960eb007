//! Calls that somebody follows. Workers leave copies of their messages ([`Taps`](crate::state::tap::Taps)); here they are
//! read a hundred times a second, put in order of time, and written down: as a line of the log for each call ([`log`]), as
//! packets for a Homer collector ([`hep`]), as lines for who asked for one call ([`trace`]).

mod hep;
mod log;
mod trace;

pub use trace::{FOLLOWS, LONGEST};

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, timeout};

use super::{View, unix_now};
use crate::config::follow::{Follow, Hep};
use crate::net::udp::clock;
use crate::sip::Message;
use crate::state::counters::Counter;
use crate::state::tap::{Filter, Step, Steps, Wanted};
use crate::state::{Snapshot, Time};
use hep::Mirror;
use log::CallLog;

/// How often copies are read: a collector has room for a moment's packets (a hundred, where 1,000 calls come in a second).
const READ: Duration = Duration::from_millis(10);
/// How often it is looked whether somebody wants any.
const IDLE: Duration = Duration::from_millis(100);

/// After which time a collector that could not be reached is tried again: a host may start before its network does.
const AGAIN: Duration = Duration::from_secs(3);
/// So many messages are written down at once before others of this thread have their turn: checks, people.
const AT_ONCE: usize = 256;
/// How long who stops waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What is to be followed, and what came of it.
#[derive(Debug, Default)]
pub struct Following {
    wish: Mutex<Wish>,
    /// It has changed, and somebody waits.
    wished: Notify,
    /// No message comes any more.
    ended: AtomicBool,
    /// Packets for the collector that left, and that could not.
    pub hep_sent: Counter,
    pub hep_failed: Counter,
}

#[derive(Debug, Default)]
struct Wish {
    settings: Follow,
    traces: Vec<trace::Asked>,
}

impl Following {
    /// Another configuration is in force.
    pub fn set(&self, settings: &Follow) {
        self.wish().settings = settings.clone();
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was wished for until now is copied.
    fn begin(&self, filter: &Filter) {
        self.wish().traces.iter_mut().filter(|trace| filter.traced.contains(&trace.call)).for_each(trace::Asked::begin);
    }

    /// What is wished for now. Who traced and has gone is forgotten.
    fn wanted(&self) -> (Follow, Filter) {
        let mut wish = self.wish();
        wish.traces.retain(trace::Asked::listens);
        let settings = wish.settings.clone();
        let filter = Filter {
            log: settings.log.as_ref().map(|log| log.sample.clone()),
            hep: settings.hep.as_ref().map(|hep| hep.sample.clone()),
            traced: wish.traces.iter().map(|trace| trace.call).collect(),
        };
        (settings, filter)
    }
}

/// A moment as the workers and as people know it.
#[derive(Clone, Copy)]
struct Now {
    at: Time,
    unix: f64,
}

impl Now {
    /// Seconds since 1970 of another moment.
    fn unix_of(&self, at: Time) -> f64 {
        self.unix - self.at.since(at).as_secs_f64() + at.since(self.at).as_secs_f64()
    }
}

/// Who reads the copies.
pub struct Follower {
    view: View,
    settings: Follow,
    filter: Filter,
    /// Of each worker what it left.
    read: Vec<Steps>,
    /// What came while it was read: it goes behind what another worker left meanwhile.
    later: Steps,
    message: Box<Message>,
    log: CallLog,
    hep: Option<Mirror>,
    /// When the collector was tried last.
    tried: Option<Instant>,
    /// It could not be reached at first, and the log says so.
    unreached: bool,
    /// Copies that had found no room when it was looked last.
    lost: u64,
}

/// A follower at work.
pub struct Handle {
    view: View,
    task: JoinHandle<()>,
}

impl Handle {
    /// Waits until what has passed is written down. Call it when no message comes any more.
    pub async fn end(self) {
        self.view.following().ended.store(true, Ordering::Relaxed);
        let _ = timeout(LAST_LINES, self.task).await;
    }
}

impl Follower {
    /// Follows what is wished for from now on. Call it inside a tokio runtime.
    pub fn start(view: &View, settings: &Follow) -> Handle {
        view.following().set(settings);
        let own = view.clone();
        let (settings, filter, read, later, message, log) = Default::default();
        let mut follower = Self {
            view: own,
            settings,
            filter,
            read,
            later,
            message,
            log,
            hep: None,
            tried: None,
            unreached: false,
            lost: 0,
        };
        // Before the first call.
        follower.take_wishes();
        Handle { view: view.clone(), task: tokio::spawn(follower.serve()) }
    }

    /// Until no message comes any more.
    async fn serve(mut self) {
        while !self.view.following().ended.load(Ordering::Relaxed) {
            let next = if self.filter.is_off() { IDLE } else { READ };
            let _ = timeout(next, self.view.following().wished.notified()).await;
            self.take_wishes();
            self.look().await;
        }
        self.look().await;
        self.log.end(clock(), &self.view.snapshot());
    }

    fn take_wishes(&mut self) {
        let (settings, filter) = self.view.following().wanted();
        let taps = &self.view.shared().taps;
        if filter != self.filter {
            taps.set(filter.clone());
            self.read.resize_with(self.view.shared().workers.workers(), Steps::default);
            let room = || if taps.is_on() { Steps::with_room() } else { Steps::default() };
            self.read.iter_mut().filter(|_| taps.is_on() == self.filter.is_off()).for_each(|read| *read = room());
            self.filter = filter;
        }
        self.view.following().begin(&self.filter);
        if settings.hep != self.settings.hep {
            (self.hep, self.tried) = (None, None);
        }
        if let Some(hep) = settings.hep.as_ref().filter(|_| self.hep.is_none()) {
            self.reach(hep);
        }
        self.log.set(settings.log.as_ref().map(|log| log.rate));
        self.settings = settings;
    }

    /// Tries to reach the collector, now and again.
    fn reach(&mut self, hep: &Hep) {
        let first = self.tried.is_none();
        if self.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return;
        }
        self.tried = Some(Instant::now());
        match Mirror::open(hep) {
            Ok(mirror) => {
                if first || self.unreached {
                    tracing::info!(collector = %hep.collector, "mirroring messages");
                }
                (self.hep, self.unreached) = (Some(mirror), false);
            }
            Err(error) if first => {
                tracing::warn!(collector = %hep.collector, %error, "messages are not mirrored; it is tried again");
                self.unreached = true;
            }
            Err(_) => {}
        }
    }

    /// Reads what was left and writes it down.
    async fn look(&mut self) {
        let now = Now { at: clock(), unix: unix_now() };
        let taps = &self.view.shared().taps;
        taps.take(&mut self.read);
        let lost = taps.lost();
        if lost > self.lost {
            self.view.following().tell_lost(lost - self.lost);
            self.lost = lost;
        }
        let (snapshot, later) = (self.view.snapshot(), std::mem::take(&mut self.later));
        let read = std::mem::take(&mut self.read);
        let mut all: Vec<_> = later.each().chain(read.iter().flat_map(Steps::each)).collect();
        all.sort_by_key(|(step, _)| step.at);
        let (whole, rest) = all.split_at(all.partition_point(|(step, _)| step.at <= now.at));
        self.log.look(now.at, &snapshot);
        for (n, (step, bytes)) in whole.iter().enumerate() {
            self.step(step, bytes, now, &snapshot);
            if n % AT_ONCE == AT_ONCE - 1 {
                yield_now().await;
            }
        }
        rest.iter().for_each(|(step, bytes)| self.later.push(step, bytes));
        self.read = read;
        self.read.iter_mut().for_each(Steps::clear);
    }

    fn step(&mut self, step: &Step, bytes: &[u8], now: Now, snapshot: &Snapshot) {
        if step.wanted.by(Wanted::HEP) && !step.is_repeated() {
            let sent = self.hep.as_mut().map(|mirror| mirror.send(step, bytes, now.unix_of(step.at)));
            let following = self.view.following();
            let count = if matches!(sent, Some(Ok(()))) { &following.hep_sent } else { &following.hep_failed };
            count.add(1);
            if let Some(Err(error)) = sent
                && !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused)
            {
                // Its address or its way is gone: a new socket finds another, when there is one.
                self.hep = None;
            }
        }
        if !step.wanted.by(Wanted::LOG | Wanted::TRACE) || self.message.read(bytes).is_err() {
            return;
        }
        if step.wanted.by(Wanted::LOG) {
            self.log.step(step, bytes, &self.message, snapshot);
        }
        if step.wanted.by(Wanted::TRACE) {
            let line = trace::line(step, bytes, &self.message, now.unix_of(step.at), snapshot);
            self.view.following().tell(step.call, &line);
        }
    }
}

/// The name of a server, as the log and the page have it.
fn name(server: crate::sip::token::NameHash, snapshot: &Snapshot) -> &str {
    snapshot.server_name(server).unwrap_or("a server that is gone")
}
