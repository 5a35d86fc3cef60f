//! [`Config`]: the budgets and bounds that a ledger was built with.

use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::clock::after;
use super::meter::Stage;
use crate::extensions::Priority;
use crate::ledger::{AcquireError, Contended, Limit};
use crate::principal::{Budget, Charge};

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) budgets: SmallVec<[(Budget, Limit); 4]>,
    /// Budgets that no call can draw on, since they were configured wrongly. Not among the others.
    pub(super) wrong: Vec<(Budget, AcquireError)>,
    /// What less urgent calls leave of a budget.
    pub(super) reserves: Vec<(Budget, u32)>,
    pub(super) max_queued: usize,
    pub(super) max_wait: Duration,
    pub(super) max_overtake: Duration,
    /// Budgets allow what a fleet's ledger lends, and nothing else.
    pub(super) leased: bool,
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

    /// Adds a budget. A limit of 0, or a second one of the same budget, lets no call draw on it.
    pub(super) fn add(&mut self, budget: Budget, limit: Limit) {
        let is_known = self.limit(budget).is_some() || self.wrong.iter().any(|(b, _)| *b == budget);
        let error = match limit.is_zero() {
            _ if is_known => AcquireError::DuplicateBudget { budget },
            true => AcquireError::ZeroLimit,
            false => return self.budgets.push((budget, limit)),
        };
        self.budgets.retain(|(known, _)| *known != budget);
        self.wrong.push((budget, error));
    }

    // On the hot path, as `limit` is.
    #[inline]
    pub(super) fn has_reserves(&self) -> bool {
        !self.reserves.is_empty()
    }

    /// What a call of that priority has to leave of a budget.
    pub(super) fn reserve(&self, budget: Budget, priority: Priority) -> u32 {
        let mut reserves = self.reserves.iter();
        let found =
            reserves.find(|(known, _)| *known == budget && priority != Priority::Interactive);
        found.map_or(0, |(_, amount)| *amount)
    }

    /// Why no call with these charges can ever run, if that is so.
    pub(super) fn refusal(&self, charges: &[Charge]) -> Option<AcquireError> {
        let drawn = |budget| charges.iter().any(|charge| charge.budget() == budget);
        let wrong = self.wrong.iter().find(|(budget, _)| drawn(*budget));
        wrong.map(|(_, error)| error.clone())
    }

    /// The stage in which calls wait for `contended`, if it is a budget.
    pub(super) fn stage(&self, contended: &Contended) -> Option<Stage> {
        let limit = contended.budget().and_then(|budget| self.limit(budget));
        limit.map(Stage::of)
    }

    /// Whether calls that wait for `contended` need a value that is not in use.
    pub(super) fn waits_for_value(&self, contended: &Contended) -> bool {
        self.stage(contended) == Some(Stage::Values)
    }

    /// Whether a call that waits since then was overtaken for long enough.
    pub(super) fn is_aged(&self, since: Instant, now: Instant) -> bool {
        after(since, self.max_overtake) <= now
    }
}
