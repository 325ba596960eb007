//! Connections of a worker that are being told apart: those that shake hands, and those whose PROXY header is awaited. Each
//! handshake costs a millisecond of the processor and some 50 kilobytes, so there is a bound.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use crate::state::bans::who;
use crate::state::connections::End;

/// How many may be under way at once.
const MOST: usize = 1000;

/// Of each the source, where one is held to its share.
#[derive(Default)]
pub(super) struct UnderWay(Rc<RefCell<Vec<Option<IpAddr>>>>);

/// One of them, until it is dropped.
pub struct Place {
    all: Rc<RefCell<Vec<Option<IpAddr>>>>,
    source: Option<IpAddr>,
}

impl UnderWay {
    /// One more. A source may have as many as there are left for all others: one that has half of them, however slow it is,
    /// keeps nobody out. Who speaks for others (`None`) is held to the bound of all.
    ///
    /// # Errors
    /// [`End::TooManyHandshakes`].
    pub fn begin(&self, source: Option<IpAddr>) -> Result<Place, End> {
        let source = source.map(who);
        let mut all = self.0.borrow_mut();
        let own = source.map_or(0, |_| all.iter().filter(|other| **other == source).count());
        if own >= MOST - all.len() {
            return Err(End::TooManyHandshakes);
        }
        all.push(source);
        Ok(Place { all: Rc::clone(&self.0), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.all.borrow_mut();
        if let Some(at) = all.iter().position(|source| *source == self.source) {
            all.swap_remove(at);
        }
    }
}
