//! What shall happen in a call: who rings off, when, and what comes before; and how one end tells the other.

use std::io::Write;
use std::time::Duration;

use crate::sip::Message;

/// The timers of RFC 3261 §17 and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// The first interval of a retransmission; 500 ms in RFC 3261, less where a test shall be quick.
    pub t1: Duration,
    /// The longest interval of a retransmission.
    pub t2: Duration,
    /// How long an INVITE may ring after a provisional answer.
    pub patience: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self::from_t1(Duration::from_millis(500))
    }
}

impl Timers {
    /// The timers that belong to a T1: T2 eight times as long, patience 64 times.
    pub fn from_t1(t1: Duration) -> Self {
        Self { t1, t2: t1 * 8, patience: t1 * 64 }
    }

    /// Timers B, F, H: how long an answer or an ACK is waited for.
    pub fn give_up(&self) -> Duration {
        self.t1 * 64
    }

    /// How long a call is remembered after its end: while the other end may still repeat itself, and five seconds (T4)
    /// for what the network holds back.
    pub fn linger(&self) -> Duration {
        self.give_up() + Duration::from_secs(5)
    }
}

/// An end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Caller,
    Callee,
}

/// What the caller wants to happen once the call is established. Travels in a header of the INVITE, so the called end
/// knows its part; a REGISTER carries it for the call that shall come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Who sends BYE.
    pub bye: Side,
    /// Who sends a re-INVITE at half time, if anybody.
    pub reinvite: Option<Side>,
    /// From the ACK to the BYE.
    pub hold: Duration,
    /// From the INVITE to its answer, where the called end shall not do as it likes.
    pub answer_after: Option<Duration>,
    /// In a REGISTER: call me back after this time.
    pub call_back: Option<Duration>,
}

/// The header that carries a [`Wish`].
const HEADER: &[u8] = b"X-Load";

/// The longest time that a wish may name: what a stranger writes must not occupy a server for ever.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Wish {
    /// The caller rings off at once.
    fn default() -> Self {
        Self { bye: Side::Caller, reinvite: None, hold: Duration::ZERO, answer_after: None, call_back: None }
    }
}

impl Wish {
    /// The header line.
    pub fn line(&self) -> Vec<u8> {
        let side = |side| if side == Side::Caller { "caller" } else { "callee" };
        let mut line = HEADER.to_vec();
        // Writing to memory cannot fail.
        let _ = write!(line, ": bye={};hold={}", side(self.bye), self.hold.as_millis());
        if let Some(reinvite) = self.reinvite {
            let _ = write!(line, ";reinvite={}", side(reinvite));
        }
        if let Some(answer_after) = self.answer_after {
            let _ = write!(line, ";answer={}", answer_after.as_millis());
        }
        if let Some(call_back) = self.call_back {
            let _ = write!(line, ";call-back={}", call_back.as_millis());
        }
        line.extend_from_slice(b"\r\n");
        line
    }

    /// Reads the header of a request; `None` where there is none, or not a word of it is known.
    pub fn read(bytes: &[u8], message: &Message) -> Option<Self> {
        let line = message.lines_named(bytes, HEADER).next()?;
        let text = std::str::from_utf8(line.value(bytes).of(bytes)).ok()?;
        let mut wish = Self::default();
        let mut known = false;
        for (name, value) in text.split(';').filter_map(|part| part.trim().split_once('=')) {
            let side = if value == "callee" { Side::Callee } else { Side::Caller };
            let time = || value.parse().ok().map(|millis| Duration::from_millis(millis).min(LONGEST));
            match name {
                "bye" => wish.bye = side,
                "reinvite" => wish.reinvite = Some(side),
                "hold" => wish.hold = time()?,
                "answer" => wish.answer_after = Some(time()?),
                "call-back" => wish.call_back = Some(time()?),
                _ => continue,
            }
            known = true;
        }
        known.then_some(wish)
    }
}

/// What one end does in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// From the establishment to the BYE.
    pub hold: Duration,
    /// We send BYE; else the other end does.
    pub bye: bool,
    /// We send a re-INVITE at half of `hold`.
    pub reinvite: bool,
    /// The other end must have sent a re-INVITE before its BYE, else the call is stranded.
    pub awaits_reinvite: bool,
    /// We cancel as soon as it rings.
    pub cancel: bool,
    /// Where the other end sends BYE: how long after `hold` it is waited for.
    pub bye_within: Duration,
    /// Called: from the INVITE to the 180; `None` never rings.
    pub ring_after: Option<Duration>,
    /// Called: from the INVITE to the 200, not before the 180; `None` never answers.
    pub answer_after: Option<Duration>,
    /// Called: a 100 is sent at once.
    pub trying: bool,
}

impl Plan {
    /// The part of one end in a wish. A BYE from the other end may have waited for an ACK, a re-INVITE and itself.
    pub fn of(wish: &Wish, side: Side, timers: &Timers) -> Self {
        Self {
            hold: wish.hold,
            bye: wish.bye == side,
            reinvite: wish.reinvite == Some(side),
            awaits_reinvite: wish.reinvite.is_some_and(|other| other != side),
            cancel: false,
            bye_within: timers.give_up() * 3,
            ring_after: Some(Duration::ZERO),
            answer_after: Some(wish.answer_after.unwrap_or_default()),
            trying: false,
        }
    }
}

/// What a client does from its start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// INVITE, ACK, hold, BYE from the client.
    Call,
    /// The server rings off.
    ServerBye,
    /// A re-INVITE from the client in the middle.
    Reinvite,
    /// A re-INVITE and the BYE from the server.
    ServerReinvite,
    /// INVITE, ringing, CANCEL, 487, ACK.
    Cancel,
    Options,
    Message,
    Register,
    /// REGISTER, then to be called back: ring, answer, BYE from either end.
    Phone,
}

impl Scenario {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 9] = [
        Self::Call,
        Self::ServerBye,
        Self::Reinvite,
        Self::ServerReinvite,
        Self::Cancel,
        Self::Options,
        Self::Message,
        Self::Register,
        Self::Phone,
    ];

    /// The word for it in `--mix` and in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::ServerBye => "server-bye",
            Self::Reinvite => "reinvite",
            Self::ServerReinvite => "server-reinvite",
            Self::Cancel => "cancel",
            Self::Options => "options",
            Self::Message => "message",
            Self::Register => "register",
            Self::Phone => "phone",
        }
    }

    /// What an INVITE of this scenario, or the call back to a phone, asks for. Every second phone rings off itself.
    pub fn wish(self, hold: Duration, number: u64) -> Wish {
        let (bye, reinvite) = match self {
            Self::ServerBye => (Side::Callee, None),
            Self::Reinvite => (Side::Caller, Some(Side::Caller)),
            Self::ServerReinvite => (Side::Callee, Some(Side::Callee)),
            Self::Phone if number % 2 == 1 => (Side::Callee, None),
            _ => (Side::Caller, None),
        };
        Wish { bye, reinvite, hold, ..Wish::default() }
    }
}

/// Scenarios and their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    weights: [u32; Scenario::ALL.len()],
    /// The sum of the weights.
    total: u64,
    /// How far one start's place among `total` is from the next one's.
    stride: u64,
}

impl Mix {
    /// One scenario alone.
    pub fn only(scenario: Scenario) -> Self {
        let mut weights = [0; Scenario::ALL.len()];
        weights[scenario as usize] = 1;
        Self::new(weights)
    }

    fn new(weights: [u32; Scenario::ALL.len()]) -> Self {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        // About the golden section, without a divisor in common with the total: so every place is visited.
        let stride = ((total * 618 / 1000).max(1)..).find(|step| gcd(*step, total) == 1).unwrap_or(1);
        Self { weights, total, stride }
    }

    /// Reads `call=60,cancel=5`; a word without number weighs 1. Weights go up to 1,000,000.
    ///
    /// # Errors
    /// What is wrong and which words there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut weights = [0; Scenario::ALL.len()];
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (word, weight) = part.split_once('=').unwrap_or((part, "1"));
            let scenario = Scenario::ALL.into_iter().find(|scenario| scenario.word() == word).ok_or_else(|| {
                let words = Scenario::ALL.map(Scenario::word).join(", ");
                format!("`{word}` is no scenario; there are {words}")
            })?;
            let weight = weight.parse().ok().filter(|weight| *weight <= 1_000_000);
            weights[scenario as usize] =
                weight.ok_or_else(|| format!("the weight of `{word}` must be a number up to 1000000"))?;
        }
        match weights.iter().any(|weight| *weight > 0) {
            true => Ok(Self::new(weights)),
            false => Err("no scenario has a weight; write call=1".into()),
        }
    }

    /// The scenario of the n-th start. Weights are kept exactly over each `total` starts, and within those the
    /// scenarios take turns: no run is without the rare ones.
    pub fn pick(&self, n: u64) -> Scenario {
        let mut at = n % self.total * self.stride % self.total;
        for scenario in Scenario::ALL {
            let weight = u64::from(self.weights[scenario as usize]);
            if at < weight {
                return scenario;
            }
            at -= weight;
        }
        unreachable!("`at` is less than the sum of the weights")
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_keeps_its_weights_exactly_and_mixes() {
        let mix = Mix::parse("call=70, cancel=25,phone=5").unwrap();
        for round in 0..3 {
            let picks: Vec<_> = (round * 100..(round + 1) * 100).map(|n| mix.pick(n)).collect();
            let count = |scenario| picks.iter().filter(|pick| **pick == scenario).count();
            assert_eq!((count(Scenario::Call), count(Scenario::Cancel), count(Scenario::Phone)), (70, 25, 5));
            assert!(picks[..40].contains(&Scenario::Phone), "the rare ones do not come last");
        }
        for (wrong, taught) in
            [("", "no scenario has a weight"), ("call=0", "no scenario"), ("ring", "there are"), ("call=x", "a number")]
        {
            assert!(Mix::parse(wrong).unwrap_err().contains(taught), "{wrong}");
        }
    }
}
