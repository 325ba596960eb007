//! The trial calls of a half-open breaker: a few places, shared by all workers. Who finds one free may go; what became
//! of it is written there.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::Time;
use crate::config::file::TRIALS;

const PLACES: usize = *TRIALS.end() as usize;

/// No call's name.
const FREE: u64 = 0;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Trials {
    /// So many places may be taken; none unless the breaker is half-open.
    places_open: AtomicU32,
    /// Not for INVITEs only.
    for_all: AtomicBool,
    places: [Place; PLACES],
}

#[derive(Debug, Default)]
struct Place {
    call: AtomicU64,
    invite: AtomicBool,
    sent: AtomicU64,
    /// The highest status that came; 0 before any.
    status: AtomicU32,
}

/// One trial call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Of anything else silence tells nothing.
    pub invite: bool,
    pub sent: Time,
    /// The highest status that came.
    pub status: Option<u16>,
}

impl Trials {
    /// Lets a call through if a place is free: then it has that place. `invite`: an INVITE opens it.
    pub fn let_through(&self, call: u64, invite: bool, now: Time) -> Option<usize> {
        if !invite && !self.for_all.load(Ordering::Relaxed) {
            return None;
        }
        let open = self.places_open.load(Ordering::Acquire) as usize;
        let free = |place: &Place| {
            // A plain load first: once all are taken the lines stay shared.
            place.call.load(Ordering::Relaxed) == FREE
                && place.call.compare_exchange(FREE, call.max(1), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let at = self.places.iter().take(open).position(free)?;
        self.places[at].invite.store(invite, Ordering::Relaxed);
        self.places[at].sent.store(now.0, Ordering::Release);
        Some(at)
    }

    /// The call was not sent after all.
    pub fn take_back(&self, place: usize) {
        self.places[place].clear();
    }

    /// Frees the places of what is no INVITE and has waited so long for an answer: that proves nothing.
    pub fn give_up_silent(&self, now: Time, waited: Duration) {
        let waits = |trial: Trial| !trial.invite && trial.status.is_none() && now.since(trial.sent) >= waited;
        let is_silent = |place: &&Place| place.trial().is_some_and(waits);
        self.places.iter().filter(is_silent).for_each(Place::clear);
    }

    /// The server said something to a call that may be one of them. True where it is.
    pub fn answered(&self, call: u64, status: u16) -> bool {
        let of_call = |place: &&Place| place.call.load(Ordering::Relaxed) == call.max(1);
        let place = self.places.iter().find(of_call);
        place.is_some_and(|place| {
            place.status.fetch_max(status.into(), Ordering::Relaxed);
            true
        })
    }

    /// Half-open: so many calls may go, of INVITEs only or of all that opens something.
    pub fn begin(&self, calls: u32, for_all: bool) {
        self.end();
        self.places.iter().for_each(Place::clear);
        self.allow(calls, for_all);
    }

    /// While half-open: so many may go in all, with those that went.
    pub fn allow(&self, calls: u32, for_all: bool) {
        self.for_all.store(for_all, Ordering::Relaxed);
        self.places_open.store(calls.min(PLACES as u32), Ordering::Release);
    }

    /// Not half-open any more: nobody may go.
    pub fn end(&self) {
        self.places_open.store(0, Ordering::Release);
    }

    /// The calls that were let through.
    pub fn calls(&self) -> impl Iterator<Item = Trial> {
        self.places.iter().filter_map(Place::trial)
    }
}

impl Place {
    fn trial(&self) -> Option<Trial> {
        let sent = self.sent.load(Ordering::Acquire);
        let (invite, status) = (self.invite.load(Ordering::Relaxed), self.status.load(Ordering::Relaxed) as u16);
        (sent != 0).then_some(Trial { invite, sent: Time(sent), status: (status != 0).then_some(status) })
    }

    fn clear(&self) {
        self.sent.store(0, Ordering::Relaxed);
        self.status.store(0, Ordering::Relaxed);
        self.call.store(FREE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_go_and_no_more_until_it_begins_anew() {
        let trials = Trials::default();
        assert_eq!(trials.let_through(7, true, Time(1)), None, "not half-open");
        trials.begin(2, true);
        assert_eq!([7, 0, 9].map(|call| trials.let_through(call, true, Time(5)).is_some()), [true, true, false]);
        assert!(
            trials.answered(0, 100) && trials.answered(7, 180) && trials.answered(7, 100) && !trials.answered(9, 200)
        );
        let seen = |status| Trial { invite: true, sent: Time(5), status: Some(status) };
        assert_eq!(trials.calls().collect::<Vec<_>>(), [seen(180), seen(100)]);
        trials.take_back(1);
        assert_eq!(trials.calls().count(), 1);
        assert!(trials.let_through(11, true, Time(6)).is_some(), "its place is free again");
        trials.allow(3, true);
        assert_eq!([13, 14].map(|call| trials.let_through(call, true, Time(6)).is_some()), [true, false], "one more");
        trials.end();
        assert_eq!(trials.let_through(12, true, Time(7)), None);
        trials.begin(1, true);
        assert_eq!((trials.calls().count(), trials.let_through(12, true, Time(8))), (0, Some(0)));
    }

    #[test]
    fn what_is_no_invite_goes_where_all_may_and_has_its_place_for_a_while() {
        let trials = Trials::default();
        trials.begin(3, false);
        assert_eq!((trials.let_through(7, false, Time(1)), trials.let_through(8, true, Time(1))), (None, Some(0)));
        trials.allow(3, true);
        assert_eq!([9, 10, 11].map(|call| trials.let_through(call, false, Time(5))), [Some(1), Some(2), None]);
        assert!(trials.answered(10, 200));
        let waited = Duration::from_nanos(5);
        trials.give_up_silent(Time(9), waited);
        assert_eq!(trials.calls().count(), 3);
        trials.give_up_silent(Time(10), waited);
        assert_eq!(trials.calls().count(), 2, "neither the INVITE's nor that of what was answered");
        assert!(!trials.answered(9, 200));
        assert_eq!(trials.let_through(12, false, Time(7)), Some(1));
        assert!(trials.calls().any(|trial| trial == Trial { invite: false, sent: Time(7), status: None }));
    }

    #[test]
    fn workers_share_the_places() {
        let trials = Trials::default();
        trials.begin(3, false);
        let let_through: usize = std::thread::scope(|scope| {
            let worker = |first: u64| {
                let trials = &trials;
                scope.spawn(move || {
                    (first..first + 1000).filter(|n| trials.let_through(*n, true, Time(1)).is_some()).count()
                })
            };
            [1, 2001, 4001, 6001].map(worker).into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(let_through, 3);
    }
}
