//! [`Leaving`]: subscriptions that nobody wants any more, until the server is told.

use std::collections::VecDeque;
use std::sync::Arc;

use super::step::{Route, Step};

/// A subscription: its mailbox, its id, and where calls about it go.
pub(super) type Held = (Arc<str>, Arc<str>, Route);

/// The calls of Unsubscribe.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    queue: VecDeque<Held>,
    /// Calls under way.
    calls: usize,
}

impl Leaving {
    pub(super) fn push(&mut self, subscription: Held) {
        self.queue.push_back(subscription);
    }

    /// Returns a call that is to be made now.
    pub(super) fn next(&mut self, max_calls: usize) -> Option<Step> {
        if self.calls >= max_calls {
            return None;
        }
        let (mailbox, id, route) = self.queue.pop_front()?;
        self.calls += 1;
        Some(Step::Unsubscribe { mailbox, id, route })
    }

    /// A call has ended. What has failed expires by itself.
    pub(super) fn call_ended(&mut self) {
        self.calls -= 1;
    }

    /// Those whose call was not made.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.queue.iter()
    }

    /// How many calls are under way.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.calls == 0
    }
}
