//! [`Snapshot`]: what a ledger holds at one moment.

use std::time::Duration;

use http::uri::Authority;

use crate::principal::{Budget, Principal};

/// What a ledger holds at one moment.
///
/// ```
/// use tower_ews::ledger::{Ledger, LocalLedger, Snapshot};
///
/// let snapshot: Snapshot = LocalLedger::in_flight(4).snapshot();
/// assert_eq!((snapshot.queued, snapshot.principals.len()), (0, 0));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The principals that it knows something about, in no particular order.
    pub principals: Vec<PrincipalSnapshot>,
    /// How many calls wait, over all principals.
    pub queued: usize,
    /// The endpoints that are gated, and for how long still.
    pub gated_endpoints: Vec<(Authority, Duration)>,
}

/// What a ledger knows about one principal.
///
/// ```
/// use tower_ews::ledger::PrincipalSnapshot;
/// use tower_ews::principal::Principal;
///
/// let principal = PrincipalSnapshot::new(Principal::new("contoso"));
/// assert!(principal.gated.is_none() && principal.budgets.is_empty());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PrincipalSnapshot {
    /// Who.
    pub principal: Principal,
    /// How long its gate stays closed, if it is.
    pub gated: Option<Duration>,
    /// Its budgets.
    pub budgets: Vec<BudgetSnapshot>,
    /// How many calls wait for it.
    pub queued: usize,
}

impl PrincipalSnapshot {
    /// Nothing but who.
    pub fn new(principal: Principal) -> Self {
        Self {
            principal,
            gated: None,
            budgets: Vec::new(),
            queued: 0,
        }
    }
}

/// What a ledger knows about one budget.
///
/// ```
/// use tower_ews::ledger::BudgetSnapshot;
/// use tower_ews::principal::Budget;
///
/// let budget = BudgetSnapshot::new(Budget::Concurrency, 3, 27);
/// assert!(budget.held < budget.limit);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BudgetSnapshot {
    /// Which one.
    pub budget: Budget,
    /// How much is held, or how many different values are open.
    pub held: u32,
    /// The limit as it is now: the policy's, or a lower one that was learnt.
    pub limit: u32,
}

impl BudgetSnapshot {
    /// `held` of `limit`.
    pub fn new(budget: Budget, held: u32, limit: u32) -> Self {
        Self {
            budget,
            held,
            limit,
        }
    }
}
