//! The words of the ledger's inside: places and queues, what blocks a call, and what becomes of it.

use std::collections::BTreeSet;
use std::task::Waker;

use http::uri::Authority;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::ledger::{Draw, Grant};
use crate::principal::{Budget, Principal};

/// A call's place in line and its key among the waiters.
pub(super) type Position = (u64, usize);

/// Waiting calls in the order of their places.
pub(super) type Queue = BTreeSet<Position>;

/// The time, looked up at most once: it costs more than the rest of an uncontended grant.
#[derive(Default)]
pub(super) struct Clock(Option<Instant>);

impl Clock {
    pub(super) fn at(now: Instant) -> Self {
        Self(Some(now))
    }

    pub(super) fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }

    pub(super) fn is_known(&self) -> bool {
        self.0.is_some()
    }
}

/// What holds a call back, and so the queue that it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Endpoint(Authority),
    Gate(Principal),
    Budget(Principal, Budget),
    Place(Principal, Budget),
}

/// A block, and when it may end by time alone.
pub(super) type Blocked = (Block, Option<Instant>);

/// A call that waits, or that was granted and does not know it yet.
pub(super) struct Waiter {
    pub(super) draw: Draw,
    pub(super) since: Instant,
    pub(super) waker: Option<Waker>,
    /// The charges (by position) whose values are kept open for this call.
    pub(super) claimed: SmallVec<[usize; 1]>,
    pub(super) outcome: Outcome,
}

/// What has become of it.
pub(super) enum Outcome {
    /// In that queue; time alone may change that then.
    Parked(Block, Option<Instant>),
    Granted(Grant),
}

/// What comes of a call that asks for a permit.
pub(super) enum Join {
    Granted(Grant),
    Waits(Position),
    /// So many calls wait already.
    Full(usize),
}

/// Something to do before the lock is given back.
pub(super) enum Work {
    /// The head of that queue may be able to go on.
    Pump(Block),
    /// The calls that wait for a value may be able to go on: it is open now.
    Opened(Principal, Budget, Principal),
}

/// What came of a look at a waiting call.
pub(super) enum Tried {
    /// Granted, or moved to another queue.
    Went,
    /// Blocked by the same thing still.
    Stays(Option<Instant>),
}

/// What has become of a waiting call.
pub(super) enum Look {
    Granted(Grant),
    Waits {
        block: Block,
        /// When to look again.
        until: Option<Instant>,
        /// Until when a gate is closed.
        gate: Option<Instant>,
    },
    /// Nobody waits there. Cannot be for a call that has joined and not left.
    Gone,
}

/// What the short way to a grant has come to.
pub(super) enum Plain {
    /// So much is in flight now.
    Taken(u32),
    Full,
    /// It has to go the long way.
    Other,
}
