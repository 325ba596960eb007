//! `sip trace call-id X`: each message of a call as a line, as it passes.

use std::fmt::Write;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Following, name};
use crate::admin::View;
use crate::net::udp::clock;
use crate::sip::Message;
use crate::state::Snapshot;
use crate::state::tap::{Ends, Fate, Step, What};

/// Calls that are traced at once: people do that.
const TRACES: usize = 8;
/// Lines that wait for who reads slowly; what is more is left out.
const LINES: usize = 1024;
/// How long it may take until messages are copied.
const LONGEST_BEGIN: Duration = Duration::from_secs(5);
/// A trace that somebody forgot ends.
pub const LONGEST: Duration = Duration::from_secs(600);
/// How the line ends that says that others follow.
pub const FOLLOWS: &str = "its messages follow as they pass.";
/// Of a start-line so much is shown.
const LONGEST_START: usize = 120;

/// Who asked for a call.
#[derive(Debug)]
pub(super) struct Asked {
    pub call: u64,
    to: mpsc::Sender<String>,
    /// Lines that it could not take.
    missed: u64,
    /// Who waits until its messages are copied.
    begun: Option<oneshot::Sender<()>>,
}

impl Asked {
    pub fn listens(&self) -> bool {
        !self.to.is_closed()
    }

    /// Its messages are copied from now on.
    pub fn begin(&mut self) {
        if let Some(begun) = self.begun.take() {
            let _ = begun.send(());
        }
    }

    /// False where it reads too slowly.
    fn say(&mut self, line: &str) -> bool {
        let missed = match self.missed {
            0 => String::new(),
            missed => format!("... {missed} messages missed: they came more quickly than they were read\n"),
        };
        let said = self.to.try_send(missed + line).is_ok();
        self.missed = if said { 0 } else { self.missed };
        said
    }
}

/// A call that is traced.
pub struct Trace {
    /// What is known of it now.
    pub known: String,
    /// A line for each message.
    pub lines: mpsc::Receiver<String>,
}

impl View {
    /// Follows a call; what passes from the moment on in which this returns is in it.
    ///
    /// # Errors
    /// Where too many are traced already, or nobody copies messages.
    pub async fn trace(&self, call_id: &str) -> Result<Trace, String> {
        let (snapshot, (to, lines), (begun, begins)) = (self.snapshot(), mpsc::channel(LINES), oneshot::channel());
        let call = snapshot.keys.call(call_id.as_bytes());
        self.following().ask(Asked { call, to, missed: 0, begun: Some(begun) })?;
        // Who follows looks ten times a second.
        timeout(LONGEST_BEGIN, begins).await.map_err(|_| "Nobody copies messages now: see the log.")?.ok();
        let known = match self.shared().pins.find(call, clock()) {
            None => "no server knows it yet".to_owned(),
            Some(pin) if pin.confirmed => format!("its server is {}", name(pin.server, &snapshot)),
            Some(pin) => format!("its server is {}, which has not answered yet", name(pin.server, &snapshot)),
        };
        Ok(Trace { known, lines })
    }
}

impl Following {
    fn ask(&self, asked: Asked) -> Result<(), String> {
        let mut wish = self.wish();
        wish.traces.retain(Asked::listens);
        if wish.traces.len() == TRACES {
            return Err(format!("{TRACES} calls are traced already: end one of them first."));
        }
        wish.traces.push(asked);
        self.wished.notify_one();
        Ok(())
    }

    /// A line for who traces this call.
    pub(super) fn tell(&self, call: u64, line: &str) {
        let mut wish = self.wish();
        for trace in wish.traces.iter_mut().filter(|trace| trace.call == call) {
            trace.missed += u64::from(!trace.say(line));
        }
    }

    /// Copies found no room: nobody knows of which calls.
    pub(super) fn tell_lost(&self, lost: u64) {
        let line = format!("... {lost} messages missed, of this call or of others that are followed\n");
        for trace in &mut self.wish().traces {
            trace.say(&line);
        }
    }
}

/// When, from where to where, what, and what became of it.
pub(super) fn line(step: &Step, bytes: &[u8], message: &Message, at: f64, snapshot: &Snapshot) -> String {
    let Ends { transport, from, to } = step.ends;
    let start = bytes[..usize::from(message.head).min(bytes.len())].trim_ascii();
    let start = start[..start.len().min(LONGEST_START)].escape_ascii();
    let second = at as u64 % 86_400;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (second, micro) = (second % 60, (at.fract() * 1e6) as u32);
    let mut line = format!("{hour:02}:{minute:02}:{second:02}.{micro:06}Z {} ", transport.name());
    let cseq = message.cseq.map_or(0, |cseq| cseq.number);
    let _ = match step.what {
        What::Came { .. } => write!(line, "in  {from} > {to}  {start} (CSeq {cseq})"),
        What::Left { .. } => write!(line, "out {from} > {to}  {start}"),
    };
    if let What::Came { fate, again } = step.what {
        let again = if again { "decided anew: " } else { "" };
        let _ = match fate {
            Fate::ToServer { server, why } => write!(line, "  {again}to {} ({})", name(server, snapshot), why.word()),
            Fate::BackToServer { server } => write!(line, "  {again}to {}", name(server, snapshot)),
            Fate::ToClient { server } => write!(line, "  {again}of {}", name(server, snapshot)),
            Fate::Answered { status, reason } => {
                write!(line, "  {again}answered {status} {}", reason.map_or("here", |reason| reason.word()))
            }
            Fate::Dropped(reason) => write!(line, "  {again}dropped: {}", reason.word()),
        };
    }
    line.push('\n');
    line
}
