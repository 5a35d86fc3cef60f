//! [`Expiry`]: when to look again at what only time keeps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

/// Things and the times at which they may be forgotten.
#[derive(Debug)]
pub(super) struct Expiry<T>(BinaryHeap<Reverse<(Instant, T)>>);

impl<T: Ord> Default for Expiry<T> {
    fn default() -> Self {
        Self(BinaryHeap::new())
    }
}

impl<T: Ord> Expiry<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn schedule(&mut self, at: Instant, thing: T) {
        self.0.push(Reverse((at, thing)));
    }

    /// Whether the time of something has come.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let next = self.0.peek();
        next.is_some_and(|Reverse((at, _))| *at <= now)
    }

    /// The next thing whose time has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        if !self.is_due(now) {
            return None;
        }
        let due = self.0.pop().map(|Reverse((_, thing))| thing);
        if self.0.is_empty() {
            self.0.shrink_to(64);
        }
        due
    }
}
