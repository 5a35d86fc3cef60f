//! What a ledger is told: [`Signal`]s of responses, and the [`End`] of a permit.

use tokio::time::Instant;

use crate::principal::Budget;

/// What a response says about a budget.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use tower_ews::ledger::{Ledger, LocalLedger, Permit, AcquireRequest, Signal};
/// use tower_ews::principal::Principal;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let ledger = std::sync::Arc::new(LocalLedger::in_flight(4));
/// let permit = Permit::try_acquire(ledger.clone(), &AcquireRequest::new(Principal::new("a"))).unwrap();
/// permit.report(Signal::Busy { until: Instant::now() + Duration::from_secs(60) });
/// assert!(ledger.snapshot().principals[0].gated.is_some());
/// # });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// The charged principals are locked out until then. Never shortens an earlier one.
    Busy {
        /// When the gate opens.
        until: Instant,
    },
    /// The whole endpoint is overloaded until then: everybody's calls to it wait. Never shortens an earlier one.
    EndpointBusy {
        /// When the gate opens.
        until: Instant,
    },
    /// The response is a good one, though its body may go on for long.
    Accepted,
    /// Too much was drawn on that budget.
    ///
    /// Servers do not always say which allowance a call exceeded. `Exceeded(Budget::Concurrency)` means "too many at the same
    /// time": of the call's budgets that count what is in flight, the one that is nearest to its limit is meant. The rows of
    /// [`Budget::FindCount`] and the values of [`Budget::OpenMailboxes`] are always told by name.
    Exceeded(Budget),
    /// The server names the number of its limit of what is in flight, in a refusal for example. A smaller one than the configured one is
    /// where its limit begins, once; a larger one is no news.
    Limit {
        /// Which of the call's budgets.
        budget: Budget,
        /// The number that the server names.
        number: u32,
    },
    /// The call cost so much of a [`Limit::PerWindow`](super::Limit::PerWindow) budget, on top of what it was charged when it was
    /// admitted. The bucket may go into debt by it. Reports add up; other limits count nothing by it.
    Spent {
        /// Which of the call's budgets.
        budget: Budget,
        /// How much, in the budget's unit.
        amount: u32,
    },
    /// The server did nothing of what the call was charged so much for on a [`Limit::PerWindow`](super::Limit::PerWindow) budget: it
    /// refused the call, say, and sent none of its messages. It comes back.
    Unspent {
        /// Which of the call's budgets.
        budget: Budget,
        /// How much, in the budget's unit.
        amount: u32,
    },
    /// The server says how much of a [`Limit::PerWindow`](super::Limit::PerWindow) budget is left until all of it comes back, as in
    /// `RateLimit` fields. It only ever holds calls back: the configured bucket counts besides.
    Remaining {
        /// Which of the call's budgets.
        budget: Budget,
        /// How much is left, in the budget's unit.
        amount: u32,
        /// When all of it comes back.
        until: Instant,
    },
}

/// How a permit ended.
///
/// ```
/// use tower_ews::ledger::End;
///
/// /// Whether a ledger may take it for a sign that the server has room.
/// fn is_good(end: End) -> bool {
///     end == End::Complete
/// }
///
/// assert!(is_good(End::Complete) && !is_good(End::NotSent));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The response ended. If no refusal was reported for it, it counts as a success.
    Complete,
    /// The call ended otherwise. It tells nothing about its budgets.
    Dropped,
    /// The call was never sent.
    NotSent,
    /// The call was sent and given up before a response came. The server may still be at work on it.
    NoResponse,
}
