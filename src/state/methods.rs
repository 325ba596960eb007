//! Messages by what they ask and say: methods in five classes, and every status code that is registered. All of it is
//! fixed in size, for what a peer writes must not make us remember more.

use std::fmt;

use super::counters::Counter;
use crate::sip::Method;

/// Methods, as far as they are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodClass {
    Invite,
    Register,
    Options,
    Bye,
    Other,
}

impl MethodClass {
    /// In the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Invite, Self::Register, Self::Options, Self::Bye, Self::Other];

    #[inline]
    pub fn of(method: Method) -> Self {
        match method {
            Method::Invite => Self::Invite,
            Method::Register => Self::Register,
            Method::Options => Self::Options,
            Method::Bye => Self::Bye,
            _ => Self::Other,
        }
    }

    /// The method's name; `other` for the rest.
    pub fn word(self) -> &'static str {
        match self {
            Self::Invite => "INVITE",
            Self::Register => "REGISTER",
            Self::Options => "OPTIONS",
            Self::Bye => "BYE",
            Self::Other => "other",
        }
    }
}

/// One number for each class of methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByMethod([u64; MethodClass::ALL.len()]);

impl ByMethod {
    pub fn of(&self, class: MethodClass) -> u64 {
        self.0[class as usize]
    }

    pub fn all(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn sum<'a>(of_workers: impl Iterator<Item = &'a MethodCounters>) -> Self {
        let mut sum = Self::default();
        for MethodCounters(counters) in of_workers {
            sum.0.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += counter.get());
        }
        sum
    }
}

/// One counter for each class of methods.
#[derive(Debug, Default)]
pub struct MethodCounters([Counter; MethodClass::ALL.len()]);

impl MethodCounters {
    #[inline]
    pub fn of(&self, method: Method) -> &Counter {
        &self.0[MethodClass::of(method) as usize]
    }

    pub fn all(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
}

/// What IANA has registered as SIP's response codes (RFC 3261 §21 and what came later), in order.
const CODES: [u16; 75] = [
    100, 180, 181, 182, 183, 199, 200, 202, 204, 300, 301, 302, 305, 380, 400, 401, 402, 403, 404, 405, 406, 407, 408,
    410, 412, 413, 414, 415, 416, 417, 420, 421, 422, 423, 424, 425, 428, 429, 430, 433, 436, 437, 438, 439, 440, 469,
    470, 480, 481, 482, 483, 484, 485, 486, 487, 488, 489, 491, 493, 494, 500, 501, 502, 503, 504, 505, 513, 555, 580,
    600, 603, 604, 606, 607, 608,
];

/// A slot for each of them, and behind those one for the other codes of each hundred.
const SLOTS: usize = CODES.len() + 6;

/// The slot of each code, from 100 to 699: what is registered is found by its place, as is the rest.
const SLOT_OF: [u8; 600] = {
    let mut slots = [0; 600];
    let mut at = 0;
    while at < slots.len() {
        slots[at] = (CODES.len() + at / 100) as u8;
        at += 1;
    }
    let mut known = 0;
    while known < CODES.len() {
        slots[CODES[known] as usize - 100] = known as u8;
        known += 1;
    }
    slots
};

#[inline]
fn slot_of(status: u16) -> Option<usize> {
    SLOT_OF.get(usize::from(status).wrapping_sub(100)).map(|slot| usize::from(*slot))
}

/// A status code as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    Registered(u16),
    /// Any other code that begins with this digit.
    OtherOf(u8),
}

impl Code {
    fn of_slot(slot: usize) -> Self {
        match CODES.get(slot) {
            Some(code) => Self::Registered(*code),
            None => Self::OtherOf((slot - CODES.len()) as u8 + 1),
        }
    }

    /// The first digit.
    pub fn digit(self) -> u8 {
        match self {
            Self::Registered(code) => (code / 100) as u8,
            Self::OtherOf(digit) => digit,
        }
    }
}

/// `486`, or `4xx` where it is none that is registered.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered(code) => write!(f, "{code}"),
            Self::OtherOf(digit) => write!(f, "{digit}xx"),
        }
    }
}

/// Responses of one server to one worker, by the class of the method that they answer and by code: 3.2 KB.
#[derive(Debug)]
pub struct ResponseCounters([[Counter; SLOTS]; MethodClass::ALL.len()]);

impl Default for ResponseCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())))
    }
}

impl ResponseCounters {
    /// The counter of a status; `None` outside of 100 to 699, which no response has.
    #[inline]
    pub fn of(&self, method: Method, status: u16) -> Option<&Counter> {
        Some(&self.0[MethodClass::of(method) as usize][slot_of(status)?])
    }
}

/// The responses of all workers, summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responses(Box<[[u64; SLOTS]; MethodClass::ALL.len()]>);

impl Responses {
    pub(super) fn sum<'a>(of_workers: impl Iterator<Item = &'a ResponseCounters>) -> Self {
        let mut sum = Box::new([[0; SLOTS]; MethodClass::ALL.len()]);
        for ResponseCounters(classes) in of_workers {
            for (sum, counters) in sum.iter_mut().zip(classes) {
                sum.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += counter.get());
            }
        }
        Self(sum)
    }

    /// What was counted at all: class, code, how many. In the order of classes, then of codes.
    pub fn each(&self) -> impl Iterator<Item = (MethodClass, Code, u64)> {
        MethodClass::ALL.iter().zip(self.0.iter()).flat_map(|(class, counts)| {
            let counted = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            counted.map(|(slot, count)| (*class, Code::of_slot(slot), *count))
        })
    }

    /// How many of these there were.
    pub fn of(&self, class: MethodClass, code: Code) -> u64 {
        self.each().find(|(other, at, _)| (*other, *at) == (class, code)).map_or(0, |(_, _, count)| count)
    }

    pub fn all(&self) -> u64 {
        self.0.iter().flatten().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    const METHODS: [(Method, &str); 7] = [
        (Method::Invite, "INVITE"),
        (Method::Register, "REGISTER"),
        (Method::Options, "OPTIONS"),
        (Method::Bye, "BYE"),
        (Method::Cancel, "other"),
        (Method::Message, "other"),
        (Method::Other, "other"),
    ];

    /// What a person would write.
    fn code(status: u16) -> String {
        if CODES.contains(&status) { status.to_string() } else { format!("{}xx", status / 100) }
    }

    #[test]
    fn every_code_has_one_slot() {
        assert!(CODES.windows(2).all(|pair| pair[0] < pair[1]));
        assert!((100..700).all(|status| Code::of_slot(slot_of(status).unwrap()).to_string() == code(status)));
        let slots: BTreeSet<_> = (100..700).map(|status| slot_of(status).unwrap()).collect();
        assert_eq!(slots, (0..SLOTS).collect(), "no slot is there for nothing");
        assert_eq!((slot_of(99), slot_of(700), slot_of(0)), (None, None, None));
        assert!((100..700).all(|status| u16::from(Code::of_slot(slot_of(status).unwrap()).digit()) == status / 100));
    }

    /// A thousand servers and eight workers: tens of megabytes.
    #[test]
    fn a_server_s_counters_are_small() {
        assert!(size_of::<super::super::counters::ServerCounters>() <= 6 * 1024);
    }

    proptest! {
        #[test]
        fn responses_are_those_of_a_map(said in proptest::collection::vec((0..METHODS.len(), 100u16..700, 0usize..3), 0..200)) {
            let workers: [ResponseCounters; 3] = std::array::from_fn(|_| ResponseCounters::default());
            let requests: [MethodCounters; 3] = std::array::from_fn(|_| MethodCounters::default());
            let (mut model, mut asked) = (BTreeMap::new(), BTreeMap::new());
            for (at, status, worker) in said {
                let (method, word) = METHODS[at];
                workers[worker].of(method, status).unwrap().add(1);
                requests[worker].of(method).add(1);
                *model.entry((word, code(status))).or_insert(0) += 1;
                *asked.entry(word).or_insert(0) += 1;
            }
            let sum = Responses::sum(workers.iter());
            let found: BTreeMap<_, _> = sum.each().map(|(class, code, n)| ((class.word(), code.to_string()), n)).collect();
            prop_assert_eq!(&found, &model);
            prop_assert_eq!(sum.all(), model.values().sum::<u64>());
            prop_assert!(sum.each().all(|(class, code, n)| sum.of(class, code) == n));
            let by_method = ByMethod::sum(requests.iter());
            for class in MethodClass::ALL {
                prop_assert_eq!(by_method.of(class), asked.get(class.word()).copied().unwrap_or(0));
            }
            prop_assert_eq!(by_method.all(), asked.values().sum::<u64>());
        }
    }
}
