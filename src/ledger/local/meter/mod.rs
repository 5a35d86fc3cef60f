//! [`Meter`]: how much of one budget one principal uses. Meters know no queues.
//!
//! A new kind of limit is a file here, a variant of [`Limit`] and of [`Meter`], and an arm in each `match` of this file, which the
//! compiler asks for.

mod distinct;
mod in_flight;

use tokio::time::Instant;

use self::distinct::Distinct;
use self::in_flight::InFlight;
use super::clock::Clock;
use crate::ledger::{BudgetSnapshot, End, Limit};
use crate::principal::{Budget, Charge, Principal};

/// A call's place in the queue and its key there: what orders the calls that wait.
pub(super) type Position = (u64, usize);

/// What one call asks of one meter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// All charges of the call on this budget of this principal. Never empty.
    pub(super) charges: &'a [Charge],
    pub(super) position: Position,
    /// The number that the call has among the admissions, or would have if it were the next one.
    pub(super) sequence: u64,
}

impl<'a> Ask<'a> {
    fn amount(&self) -> u32 {
        let amounts = self.charges.iter().map(Charge::amount);
        amounts.fold(0, u32::saturating_add)
    }

    fn values(&self) -> impl Iterator<Item = &'a Principal> + Clone + use<'a> {
        self.charges.iter().filter_map(Charge::value)
    }
}

/// What a meter says about one more call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
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

/// The order in which the meters of a call are asked: a call that waits for one of a later stage keeps its place in those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Values that stay in use for long after a call.
    Values,
    /// What is in flight.
    Amounts,
}

impl Stage {
    pub(super) fn of(limit: Limit) -> Self {
        match limit {
            Limit::Distinct { .. } => Self::Values,
            Limit::InFlight(_) => Self::Amounts,
        }
    }
}

/// How much of one budget one principal uses.
#[derive(Debug)]
pub(super) enum Meter {
    InFlight(InFlight),
    Distinct(Box<Distinct>),
}

impl Meter {
    pub(super) fn new(limit: Limit, budget: Budget) -> Self {
        match limit {
            Limit::InFlight(limit) => Self::InFlight(InFlight::new(limit, budget)),
            Limit::Distinct { limit, idle } => Self::Distinct(Box::new(Distinct::new(limit, idle))),
        }
    }

    /// Says whether the call may be admitted.
    pub(super) fn admit(&mut self, ask: Ask<'_>, clock: &mut Clock) -> Verdict {
        match self {
            Self::InFlight(meter) => meter.admit(ask, clock),
            Self::Distinct(meter) => meter.admit(ask, clock),
        }
    }

    /// Takes what the call asks for. Returns whether a good response is to be told early.
    pub(super) fn take(&mut self, ask: Ask<'_>, clock: &mut Clock) -> bool {
        match self {
            Self::InFlight(meter) => meter.take(ask, clock),
            Self::Distinct(meter) => meter.take(ask, clock),
        }
    }

    pub(super) fn give_back(&mut self, ask: Ask<'_>, end: End, clock: &mut Clock) {
        match self {
            Self::InFlight(meter) => meter.give_back(ask, end, clock),
            Self::Distinct(meter) => meter.give_back(ask, end, clock),
        }
    }

    /// Keeps the values of a call that waits for amounts: nothing else is missing.
    pub(super) fn keep_place(&mut self, ask: Ask<'_>, clock: &mut Clock) {
        match self {
            Self::InFlight(_) => {}
            Self::Distinct(meter) => meter.keep_place(ask, clock),
        }
    }

    /// Lets go of the place that was kept for a waiting call. Returns whether there was one.
    pub(super) fn leave_place(&mut self, position: Position) -> bool {
        match self {
            Self::InFlight(_) => false,
            Self::Distinct(meter) => meter.leave_place(position),
        }
    }

    /// Calls have waited too long here: they need `wanted` values that are not in use. Calls with the ticket `next` or a later one
    /// must not keep others from them.
    pub(super) fn starved(&mut self, wanted: usize, next: u64) {
        match self {
            Self::InFlight(_) => {}
            Self::Distinct(meter) => meter.starved(wanted, next),
        }
    }

    /// How many values waiting calls can hope for at a time.
    pub(super) fn places(&self) -> usize {
        match self {
            Self::InFlight(_) => 0,
            Self::Distinct(meter) => meter.places(),
        }
    }

    /// A good response to the call has begun.
    pub(super) fn accepted(&mut self, ask: Ask<'_>, clock: &mut Clock) {
        match self {
            Self::InFlight(meter) => meter.accepted(ask, clock),
            Self::Distinct(_) => {}
        }
    }

    /// The server refused the call because too much was drawn on this budget. `last` is the last number among the admissions.
    pub(super) fn exceeded(&mut self, ask: Ask<'_>, last: u64, clock: &mut Clock) {
        match self {
            Self::InFlight(meter) => meter.exceeded(ask, last, clock),
            Self::Distinct(meter) => meter.exceeded(ask, clock),
        }
    }

    /// How full it is, in parts of a million, if it counts what is in flight.
    pub(super) fn fill(&self) -> Option<u64> {
        match self {
            Self::InFlight(meter) => Some(meter.fill()),
            Self::Distinct(_) => None,
        }
    }

    /// Sets another number; `None` is the policy's again.
    pub(super) fn set_limit(&mut self, number: Option<u32>, policy: Limit) {
        match (self, policy) {
            (Self::InFlight(meter), Limit::InFlight(limit)) => meter.set_limit(number, limit),
            (Self::Distinct(meter), Limit::Distinct { limit, .. }) => {
                meter.set_limit(number, limit);
            }
            (Self::InFlight(_), Limit::Distinct { .. })
            | (Self::Distinct(_), Limit::InFlight(_)) => {
                debug_assert!(false, "a meter of another kind than its limit");
            }
        }
    }

    /// Forgets what has passed. Says until when the rest has to be kept.
    pub(super) fn tidy(&mut self, now: Instant) -> Keep {
        match self {
            Self::InFlight(meter) => meter.tidy(now),
            Self::Distinct(meter) => meter.tidy(now),
        }
    }

    pub(super) fn snapshot(&self, budget: Budget, now: Instant) -> BudgetSnapshot {
        match self {
            Self::InFlight(meter) => meter.snapshot(budget),
            Self::Distinct(meter) => meter.snapshot(budget, now),
        }
    }

    /// The count, if it is no more than that: what the fast path works on.
    #[inline]
    pub(super) fn plain(&mut self) -> Option<&mut InFlight> {
        match self {
            Self::InFlight(meter) if meter.is_plain() => Some(meter),
            _ => None,
        }
    }
}

/// Until when something has to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Keep {
    /// Nothing is left of it.
    Nothing,
    /// Time alone keeps it.
    Until(Instant),
    /// It is in use, or set from outside.
    InUse,
}
