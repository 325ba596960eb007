//! The trial calls of a half-open breaker: a few places, shared by all workers. Who finds one free may go; what became
//! of it is written there.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
    places: [Place; PLACES],
}

#[derive(Debug, Default)]
struct Place {
    call: AtomicU64,
    sent: AtomicU64,
    /// The highest status that came; 0 before any.
    status: AtomicU32,
}

/// One trial call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pub sent: Time,
    /// The highest status that came.
    pub status: Option<u16>,
}

impl Trials {
    /// Lets a call through if a place is free: then it has that place.
    pub fn let_through(&self, call: u64, now: Time) -> Option<usize> {
        let open = self.places_open.load(Ordering::Acquire) as usize;
        let free = |place: &Place| {
            // A plain load first: once all are taken the lines stay shared.
            place.call.load(Ordering::Relaxed) == FREE
                && place.call.compare_exchange(FREE, call.max(1), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let at = self.places.iter().take(open).position(free)?;
        self.places[at].sent.store(now.0, Ordering::Release);
        Some(at)
    }

    /// The call was not sent after all.
    pub fn take_back(&self, place: usize) {
        self.places[place].sent.store(0, Ordering::Relaxed);
        self.places[place].call.store(FREE, Ordering::Release);
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

    /// Half-open: so many calls may go.
    pub fn begin(&self, calls: u32) {
        self.end();
        for place in &self.places {
            place.status.store(0, Ordering::Relaxed);
            place.sent.store(0, Ordering::Relaxed);
            place.call.store(FREE, Ordering::Relaxed);
        }
        self.allow(calls);
    }

    /// While half-open: so many may go in all, with those that went.
    pub fn allow(&self, calls: u32) {
        self.places_open.store(calls.min(PLACES as u32), Ordering::Release);
    }

    /// Not half-open any more: nobody may go.
    pub fn end(&self) {
        self.places_open.store(0, Ordering::Release);
    }

    /// The calls that were let through.
    pub fn calls(&self) -> impl Iterator<Item = Trial> {
        self.places.iter().filter_map(|place| {
            let sent = place.sent.load(Ordering::Acquire);
            let status = place.status.load(Ordering::Relaxed) as u16;
            (sent != 0).then_some(Trial { sent: Time(sent), status: (status != 0).then_some(status) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_go_and_no_more_until_it_begins_anew() {
        let trials = Trials::default();
        assert_eq!(trials.let_through(7, Time(1)), None, "not half-open");
        trials.begin(2);
        assert_eq!([7, 0, 9].map(|call| trials.let_through(call, Time(5)).is_some()), [true, true, false]);
        assert!(
            trials.answered(0, 100) && trials.answered(7, 180) && trials.answered(7, 100) && !trials.answered(9, 200)
        );
        let seen = |status| Trial { sent: Time(5), status: Some(status) };
        assert_eq!(trials.calls().collect::<Vec<_>>(), [seen(180), seen(100)]);
        trials.take_back(1);
        assert_eq!(trials.calls().count(), 1);
        assert!(trials.let_through(11, Time(6)).is_some(), "its place is free again");
        trials.allow(3);
        assert_eq!([13, 14].map(|call| trials.let_through(call, Time(6)).is_some()), [true, false], "one more");
        trials.end();
        assert_eq!(trials.let_through(12, Time(7)), None);
        trials.begin(1);
        assert_eq!((trials.calls().count(), trials.let_through(12, Time(8))), (0, Some(0)));
    }

    #[test]
    fn workers_share_the_places() {
        let trials = Trials::default();
        trials.begin(3);
        let let_through: usize = std::thread::scope(|scope| {
            let worker = |first: u64| {
                let trials = &trials;
                scope.spawn(move || (first..first + 1000).filter(|n| trials.let_through(*n, Time(1)).is_some()).count())
            };
            [1, 2001, 4001, 6001].map(worker).into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(let_through, 3);
    }
}
