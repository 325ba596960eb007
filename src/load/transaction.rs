//! Requests without final answer and answers without ACK: what is sent again, when, and for how long (RFC 3261 §17).

use std::net::SocketAddr;
use std::time::Duration;

use super::outgoing::Turn;
use super::plan::Timers;
use crate::sip::Method;
use crate::state::Time;

/// A time that never comes.
pub const NEVER: Time = Time(u64::MAX);

/// When something is sent again, at growing intervals, and when it is given up.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    next: Time,
    interval: Duration,
    longest: Duration,
    deadline: Time,
}

/// What a schedule says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    SendAgain,
    GiveUp,
}

impl Schedule {
    /// Sends again after T1, then after twice as long each time but never longer than `longest`; gives up at 64*T1.
    fn new(now: Time, timers: &Timers, longest: Duration) -> Self {
        let interval = timers.t1;
        Self { next: now + interval, interval, longest, deadline: now + timers.give_up() }
    }

    /// The same, or over a stream only the deadline: what it carries is not sent again (timers A, E and G).
    fn of(turn: &Turn<'_>, reliable: bool, longest: Duration) -> Self {
        let schedule = Self::new(turn.now, turn.timers, longest);
        if reliable { Self { next: NEVER, ..schedule } } else { schedule }
    }

    /// When to ask again.
    pub fn due(&self) -> Time {
        self.next.min(self.deadline)
    }

    /// What is to be done now; steps on to the next interval.
    pub fn check(&mut self, now: Time) -> Due {
        if now >= self.deadline {
            return Due::GiveUp;
        }
        if now < self.next {
            return Due::Nothing;
        }
        self.interval = (self.interval * 2).min(self.longest);
        self.next = now + self.interval;
        Due::SendAgain
    }
}

/// A request of ours that has no final answer yet.
#[derive(Clone, Debug)]
pub struct Pending {
    pub method: Method,
    pub cseq: u32,
    /// The number in its branch.
    pub branch: u64,
    bytes: Vec<u8>,
    to: SocketAddr,
    /// When it was meant to be sent: response times count from here, so that a late generator hides nothing.
    pub meant: Time,
    /// An answer other than 100 came.
    heard: bool,
    schedule: Schedule,
}

impl Pending {
    /// Sends a request for the first time. It lies in the turn's scratch memory.
    pub fn send(method: Method, cseq: u32, branch: u64, to: SocketAddr, meant: Time, turn: &mut Turn<'_>) -> Self {
        let bytes = turn.scratch.clone();
        turn.send(to, &bytes);
        // Timer A doubles without end, timer E up to T2 (RFC 3261 §17.1.1.2, §17.1.2.2).
        let longest = if method == Method::Invite { Duration::MAX } else { turn.timers.t2 };
        Self {
            method,
            cseq,
            branch,
            bytes,
            to,
            meant,
            heard: false,
            schedule: Schedule::of(turn, turn.reliable, longest),
        }
    }

    /// Where it was sent: a CANCEL and the ACK to a refusal go there too.
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// Whether a response with this branch and this method in CSeq is an answer to it (RFC 3261 §17.1.3).
    pub fn is_answered_by(&self, branch: u64, method: Method) -> bool {
        self.branch == branch && self.method == method
    }

    /// Whether it is an INVITE.
    pub fn is_invite(&self) -> bool {
        self.method == Method::Invite
    }

    /// Whether this status is the first that says more than "wait".
    pub fn is_first_news(&mut self, status: u16) -> bool {
        status > 100 && !std::mem::replace(&mut self.heard, true)
    }

    /// A provisional answer came: an INVITE is not sent again and may take its time, others are sent again at T2.
    pub fn provisional(&mut self, now: Time, timers: &Timers) {
        match self.method {
            Method::Invite => {
                self.schedule.next = NEVER;
                self.schedule.deadline = now + timers.patience;
            }
            _ if self.schedule.next == NEVER => {}
            _ => {
                self.schedule.interval = timers.t2;
                self.schedule.next = now + timers.t2;
            }
        }
    }

    /// After a CANCEL the final answer must come within 64*T1 (RFC 3261 §9.1).
    pub fn cancelled(&mut self, now: Time, timers: &Timers) {
        self.schedule.deadline = now + timers.give_up();
    }

    /// When to look after it again.
    pub fn due(&self) -> Time {
        self.schedule.due()
    }

    /// Sends it again if it is time; says whether it is given up.
    pub fn on_time(&mut self, turn: &mut Turn<'_>) -> bool {
        match self.schedule.check(turn.now) {
            Due::Nothing => false,
            Due::SendAgain => {
                turn.send_again(self.to, &self.bytes);
                false
            }
            Due::GiveUp => true,
        }
    }
}

/// A final answer to an INVITE that waits for its ACK: the server side sends it again until then (RFC 3261 §13.3.1.4,
/// §17.2.1 timers G and H).
#[derive(Clone, Debug)]
pub struct Unacknowledged {
    pub status: u16,
    /// The number of the INVITE, which its ACK repeats.
    pub cseq: u32,
    bytes: Vec<u8>,
    to: SocketAddr,
    schedule: Schedule,
}

impl Unacknowledged {
    /// Sends the answer for the first time. It lies in the turn's scratch memory.
    pub fn send(status: u16, cseq: u32, to: SocketAddr, turn: &mut Turn<'_>) -> Self {
        let bytes = turn.scratch.clone();
        turn.respond(to);
        // A 2xx is sent again whatever the transport: it goes from end to end, and others may carry it further.
        let schedule = Schedule::of(turn, turn.reliable && status >= 300, turn.timers.t2);
        Self { status, cseq, bytes, to, schedule }
    }

    /// The INVITE came again: so goes the answer.
    pub fn repeat(&self, turn: &mut Turn<'_>) {
        turn.traffic.responses += 1;
        turn.send_again(self.to, &self.bytes);
    }

    /// When to look after it again.
    pub fn due(&self) -> Time {
        self.schedule.due()
    }

    /// Sends it again if it is time; says whether it is given up.
    pub fn on_time(&mut self, turn: &mut Turn<'_>) -> bool {
        match self.schedule.check(turn.now) {
            Due::Nothing => false,
            Due::SendAgain => {
                self.repeat(turn);
                false
            }
            Due::GiveUp => true,
        }
    }
}
