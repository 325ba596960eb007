//! Buffers of connections, whose bytes are counted: those of one worker have a bound together.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, RangeInclusive};
use std::rc::Rc;

/// What the connections of one worker may hold together of one kind, in bytes. Beyond it nothing more is taken than the share
/// that each has: those who are slow take nothing from those who are not.
const MOST_BUFFERED: usize = 128 << 20;
pub(super) const SHARE: usize = 16 << 10;

/// Memory of buffers that became empty is kept for those that fill: what a few messages need, and what a connection to a
/// server gathers in a turn. By capacity, and so many of each. Nearly every message fills a buffer; to ask the allocator each
/// time, and to copy what is there while it grows, cost 6 % of the instructions of a message.
const KEPT: [(RangeInclusive<usize>, usize); 2] = [(1..=8 << 10, 256), (64 << 10..=512 << 10, 8)];

/// What of one kind one worker holds for its connections.
#[derive(Clone, Debug, Default)]
pub struct Held(Rc<Store>);

#[derive(Debug, Default)]
struct Store {
    /// In all buffers.
    bytes: Cell<usize>,
    /// Of each kind in [`KEPT`].
    free: [RefCell<Vec<Vec<u8>>>; KEPT.len()],
}

impl Held {
    /// Memory for so many bytes, where some is free.
    fn lend(&self, len: usize) -> Option<Vec<u8>> {
        let kind = KEPT.iter().position(|(sizes, _)| len <= *sizes.end())?;
        self.0.free[kind].borrow_mut().pop_if(|memory| memory.capacity() >= len)
    }

    /// Keeps it for the next, where that pays.
    fn give_back(&self, mut memory: Vec<u8>) {
        let Some(kind) = KEPT.iter().position(|(sizes, _)| sizes.contains(&memory.capacity())) else { return };
        let mut free = self.0.free[kind].borrow_mut();
        if free.len() < KEPT[kind].1 {
            memory.clear();
            free.push(memory);
        }
    }
}

/// Bytes of one connection. Empty, it holds no memory.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    held: Held,
}

impl Buffer {
    pub fn new(held: Held) -> Self {
        Self { bytes: Vec::new(), held }
    }

    /// Puts bytes behind. False, and nothing is put, where the worker holds too much and this more than its share.
    #[must_use]
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        let len = self.bytes.len() + bytes.len();
        let held = self.held.0.bytes.get() + bytes.len();
        if held > MOST_BUFFERED && len > SHARE {
            return false;
        }
        self.held.0.bytes.set(held);
        if len > self.bytes.capacity()
            && let Some(mut larger) = self.held.lend(len)
        {
            larger.extend_from_slice(&self.bytes);
            self.held.give_back(std::mem::replace(&mut self.bytes, larger));
        }
        self.bytes.extend_from_slice(bytes);
        true
    }

    /// Whether the worker has room for so many bytes more.
    pub fn has_room(&self, len: usize) -> bool {
        self.held.0.bytes.get() + len <= MOST_BUFFERED
    }

    /// Takes so many bytes off the front.
    pub fn take(&mut self, len: usize) {
        let len = len.min(self.bytes.len());
        if len == 0 {
            return;
        }
        self.held.0.bytes.set(self.held.0.bytes.get() - len);
        self.bytes.drain(..len);
        if self.bytes.is_empty() {
            self.held.give_back(std::mem::take(&mut self.bytes));
        }
    }

    pub fn clear(&mut self) {
        self.take(self.bytes.len());
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffers_of_a_worker_are_bounded_together_and_give_back_what_they_held() {
        let held = Held::default();
        let (mut one, mut other) = (Buffer::new(held.clone()), Buffer::new(held.clone()));
        let half = vec![1; MOST_BUFFERED / 2];
        assert!(one.put(&half) && other.put(&half) && !other.put(b"."));
        one.take(10);
        assert_eq!((one.len(), held.0.bytes.get()), (half.len() - 10, MOST_BUFFERED - 10));
        assert!(other.put(b"0123456789") && !one.put(b"."));
        drop(other);
        one.clear();
        assert_eq!((one.bytes.capacity(), held.0.bytes.get()), (0, 0));
    }

    #[test]
    fn memory_of_empty_buffers_serves_those_that_fill_and_is_bounded() {
        let held = Held::default();
        let free = || KEPT.iter().enumerate().map(|(kind, _)| held.0.free[kind].borrow().len()).collect::<Vec<_>>();
        let [few, many] = KEPT.map(|(_, most)| most);
        for (len, count, kept) in [
            (1000, few + 10, [few, 0]),
            (100_000, many + 10, [few, many]),
            (600_000, many + 10, [few, many]),
            (20_000, many + 10, [few, many]),
        ] {
            let mut buffers: Vec<_> = (0..count).map(|_| Buffer::new(held.clone())).collect();
            assert!(buffers.iter_mut().all(|buffer| buffer.put(&vec![1; len])));
            drop(buffers);
            assert_eq!((free(), held.0.bytes.get()), (kept.to_vec(), 0), "{len}");
        }
        let mut one = Buffer::new(held.clone());
        assert!(one.put(b"") && free() == [few, many]);
        let [small, large] = [0, 1].map(|kind| held.0.free[kind].borrow().last().unwrap().as_ptr());
        assert!(one.put(&[2; 900]) && one.bytes.as_ptr() == small && free() == [few - 1, many]);
        // What is there moves to the larger memory, and the smaller serves others again.
        assert!(one.put(&[3; 50_000]) && one.bytes.as_ptr() == large && free() == [few, many - 1]);
        assert!(one[..900] == [2; 900] && one[900..] == [3; 50_000]);
        let mut other = Buffer::new(held.clone());
        assert!(other.put(b"other") && other.bytes.as_ptr() == small && *other == *b"other");
        drop((one, other));
        assert_eq!((free(), held.0.bytes.get()), (vec![few, many], 0));
    }
}
