//! [`Snapshot`]: what a ledger holds at one moment.
//!
//! With the feature `serde` it serialises: principals by their [keys](Principal::key), times in seconds.

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
///
/// With the feature `serde` it is what a status page shows:
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use std::sync::Arc;
/// use tower_ews::ledger::{AcquireRequest, Ledger, LocalLedger, Permit};
/// use tower_ews::principal::Principal;
///
/// let ledger = Arc::new(LocalLedger::in_flight(4));
/// let permit = Permit::try_acquire(ledger.clone(), &AcquireRequest::new(Principal::account("svc")));
/// assert_eq!(
///     serde_json::to_value(ledger.snapshot()).unwrap(),
///     serde_json::json!({
///         "principals": [{
///             "principal": "account:svc",
///             "gated": null,
///             "budgets": [{ "budget": "Concurrency", "held": 1, "limit": 4 }],
///             "queued": 0,
///         }],
///         "queued": 0,
///         "gated_endpoints": {},
///     })
/// );
/// # drop(permit);
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// The principals that it knows something about, in no particular order.
    pub principals: Vec<PrincipalSnapshot>,
    /// How many calls wait, over all principals.
    pub queued: usize,
    /// The endpoints that are gated, and for how long still.
    #[cfg_attr(feature = "serde", serde(serialize_with = "texts::endpoints"))]
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
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PrincipalSnapshot {
    /// Who.
    #[cfg_attr(feature = "serde", serde(serialize_with = "texts::principal"))]
    pub principal: Principal,
    /// How long its gate stays closed, if it is.
    #[cfg_attr(feature = "serde", serde(serialize_with = "texts::seconds"))]
    pub gated: Option<Duration>,
    /// Its budgets.
    pub budgets: Vec<BudgetSnapshot>,
    /// How many calls wait for it.
    pub queued: usize,
}

impl PrincipalSnapshot {
    /// Creates the snapshot of a principal that has nothing else to show.
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
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BudgetSnapshot {
    /// Which one.
    pub budget: Budget,
    /// How much is held, or how many different values are open.
    pub held: u32,
    /// The limit as it is now: the policy's, or a lower one that the ledger has found.
    pub limit: u32,
}

impl BudgetSnapshot {
    /// Creates the snapshot of a budget with `held` of `limit` in use.
    pub fn new(budget: Budget, held: u32, limit: u32) -> Self {
        Self {
            budget,
            held,
            limit,
        }
    }
}

/// How the parts of a snapshot are written.
#[cfg(feature = "serde")]
mod texts {
    use super::{Authority, Duration, Principal};
    use serde::{Serialize, Serializer};

    pub(super) fn principal<S: Serializer>(
        principal: &Principal,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        principal.key().serialize(to)
    }

    pub(super) fn seconds<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64()).serialize(to)
    }

    pub(super) fn endpoints<S: Serializer>(
        gated: &[(Authority, Duration)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let gated = gated.iter();
        to.collect_map(gated.map(|(endpoint, time)| (endpoint.as_str(), time.as_secs_f64())))
    }
}
