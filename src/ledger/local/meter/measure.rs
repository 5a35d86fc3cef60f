//! [`Measure`]: what every meter does, and what is asked of it and said by it.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::super::clock::Clock;
use crate::extensions::Priority;
use crate::ledger::learnt::Known;
use crate::ledger::{BudgetSnapshot, End, Limit};
use crate::principal::{Budget, Charge, Principal};

/// What orders the calls that wait: the more urgent first, then those that came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct Position {
    /// The call's own, or the highest for one that was overtaken for too long.
    pub(in super::super) priority: Priority,
    pub(in super::super) ticket: u64,
    /// Its key in the queue.
    pub(in super::super) key: usize,
}

/// What one call asks of one meter.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Ask<'a> {
    /// All charges of the call on this budget of this principal. Never empty.
    pub(in super::super) charges: &'a [Charge],
    pub(in super::super) position: Position,
    /// The number that the call has among the admissions, or would have if it were the next one.
    pub(in super::super) sequence: u64,
    /// How much the call has to leave for others.
    pub(in super::super) reserve: u32,
}

impl<'a> Ask<'a> {
    pub(in super::super) fn amount(&self) -> u32 {
        let amounts = self.charges.iter().map(Charge::amount);
        amounts.fold(0, u32::saturating_add)
    }

    /// What has to be free for the call, with what it leaves for others.
    pub(super) fn needed(&self) -> u32 {
        self.amount().saturating_add(self.reserve)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &'a Principal> + Clone + use<'a> {
        self.charges.iter().filter_map(Charge::value)
    }
}

/// What a meter says about one more call.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    /// It has all that it needs already: it does not stand behind calls that wait here.
    Overtakes,
    /// It may be admitted if nobody waits before it.
    Room {
        /// The value that it would bring into use first.
        value: Option<Principal>,
    },
    Full {
        /// When time alone may change that.
        until: Option<Instant>,
        /// The value that the call needs first: it may go as soon as that is in use.
        value: Option<Principal>,
    },
}

/// The order in which the meters of a call are asked. A call that waits for what is in flight keeps its values; one that waits for
/// a bucket keeps nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Stage {
    /// Buckets, which time alone fills.
    Windows,
    /// Values that stay in use for long after a call.
    Values,
    /// What is in flight.
    Amounts,
}

impl Stage {
    pub(in super::super) fn of(limit: Limit) -> Self {
        match limit {
            Limit::PerWindow { .. } | Limit::Sliding { .. } => Self::Windows,
            Limit::Distinct { .. } => Self::Values,
            Limit::InFlight(_) => Self::Amounts,
        }
    }
}

/// What every meter does. What only some limits need has a default that does nothing.
pub(in super::super) trait Measure: fmt::Debug {
    /// Says whether the call may be admitted.
    fn admit(&mut self, ask: Ask<'_>, clock: &mut Clock) -> Verdict;

    /// Takes what the call asks for. Returns whether a good response is to be told early.
    fn take(&mut self, ask: Ask<'_>, clock: &mut Clock) -> bool;

    /// Takes back what the call had.
    fn give_back(&mut self, ask: Ask<'_>, end: End, clock: &mut Clock);

    /// Sets another number; `None` is the policy's again.
    fn set_limit(&mut self, number: Option<u32>, policy: Limit);

    /// Forgets what has passed. Says until when the rest has to be kept.
    fn tidy(&mut self, now: Instant) -> Keep;

    /// Says what is used, and of how much.
    fn snapshot(&self, budget: Budget, now: Instant) -> BudgetSnapshot;

    /// Says what the next process would have to find out again.
    fn export(&self, _now: Instant) -> Option<Known> {
        None
    }

    /// Takes in what another process knew, so long ago. What is of another kind is left alone.
    fn import(&mut self, _known: &Known, _age: Duration, _now: Instant) {}

    /// A good response to the call has begun.
    fn accepted(&mut self, _ask: Ask<'_>, _clock: &mut Clock) {}

    /// The server refused the call because too much was drawn on this budget. `last` is the last number among the admissions.
    fn exceeded(&mut self, _ask: Ask<'_>, _last: u64, _clock: &mut Clock) {}

    /// The server has locked the principal out until then because this bucket is empty.
    fn locked_out(&mut self, _ask: Ask<'_>, _until: Instant, _last: u64, _now: Instant) {}

    /// The server says that this is its number.
    fn named(&mut self, _number: u32, _now: Instant) {}

    /// The call cost so much more than it was charged.
    fn spent(&mut self, _amount: u32, _clock: &mut Clock) {}

    /// So much of what the call was charged was not used.
    fn unspent(&mut self, _sequence: u64, _amount: u32, _now: Instant) {}

    /// The server says that so much is left until then, when all of it comes back.
    fn remains(&mut self, _amount: u32, _until: Instant, _now: Instant) {}

    /// How full it is, in parts of a million, if it counts what is in flight.
    fn fill(&self) -> Option<u64> {
        None
    }

    /// Whether it is an idle count and nothing else, which may stay for the next call.
    fn is_idle(&self) -> bool {
        false
    }

    /// Keeps the values of a call that waits for amounts: nothing else is missing.
    fn keep_place(&mut self, _ask: Ask<'_>, _clock: &mut Clock) {}

    /// Lets go of the place that was kept for a waiting call. Returns whether there was one.
    fn leave_place(&mut self, _position: Position) -> bool {
        false
    }

    /// How many values waiting calls can hope for at a time.
    fn places(&self) -> usize {
        0
    }

    /// Calls have waited too long here: they need `wanted` values that are not in use. Calls with the ticket `next` or a later one
    /// must not keep others from them.
    fn starved(&mut self, _wanted: usize, _next: u64) {}
}

/// Until when something has to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Keep {
    /// Nothing is left of it.
    Nothing,
    /// Time alone keeps it.
    Until(Instant),
    /// It is in use, or set from outside.
    InUse,
}
