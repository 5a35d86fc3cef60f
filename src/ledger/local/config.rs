//! [`Config`]: the budgets and bounds that a ledger was built with.

use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::clock::after;
use super::meter::Stage;
use crate::ledger::{Contended, Limit};
use crate::principal::Budget;

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) budgets: SmallVec<[(Budget, Limit); 4]>,
    pub(super) max_queued: usize,
    pub(super) max_wait: Duration,
    pub(super) max_overtake: Duration,
}

impl Config {
    // On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
    #[inline]
    pub(super) fn limit(&self, budget: Budget) -> Option<Limit> {
        self.budgets
            .iter()
            .find(|(known, _)| *known == budget)
            .map(|(_, limit)| *limit)
    }

    /// Whether calls that wait for `contended` need a value that is not in use.
    pub(super) fn waits_for_value(&self, contended: &Contended) -> bool {
        let limit = contended.budget().and_then(|budget| self.limit(budget));
        limit.is_some_and(|limit| Stage::of(limit) == Stage::Values)
    }

    /// Whether a call that waits since then was overtaken for long enough.
    pub(super) fn is_aged(&self, since: Instant, now: Instant) -> bool {
        after(since, self.max_overtake) <= now
    }
}
