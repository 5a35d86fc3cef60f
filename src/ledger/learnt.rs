//! [`Learnt`]: what a ledger knows and the next process would have to find out again.

use std::time::{Duration, SystemTime};

use crate::principal::Budget;

/// What a ledger knows of the server: limits that it found, what is left of amounts per time, values that are open, gates that are
/// closed. [`LocalLedger::export`](super::LocalLedger::export) makes one, and [`import`](super::LocalLedger::import) takes it in.
///
/// With the feature `serde` it is written to a file and read back in. It remembers when it was made: what has come back since then, by
/// the clock of the system, is not missing when it is imported. Principals are written by their [keys](crate::principal::Principal::key).
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tower_ews::ledger::{AcquireRequest, Limit, LocalLedger, Permit};
/// use tower_ews::principal::{Budget, Charge, Charges, Principal};
///
/// let hour = Limit::per_window(10, Duration::from_secs(3600));
/// let ledger = || Arc::new(LocalLedger::builder().budget(Budget::Requests, hour).build());
/// let requests = |amount| {
///     AcquireRequest::new(Charges::from(Charge::new(Principal::new("contoso"), Budget::Requests, amount)))
/// };
///
/// let first = ledger();
/// Permit::try_acquire(first.clone(), &requests(9)).unwrap().complete();
/// # #[cfg(feature = "serde")] {
/// let file = serde_json::to_string(&first.export()).unwrap();
///
/// // The next process knows what the first one has used up.
/// let second = ledger();
/// second.import(&serde_json::from_str(&file).unwrap());
/// assert!(Permit::try_acquire(second, &requests(2)).is_none());
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
pub struct Learnt {
    /// When it was made: seconds since 1970.
    at: f64,
    pub(super) budgets: Vec<LearntBudget>,
    pub(super) gates: Vec<LearntGate>,
}

/// What is known of one budget of one principal.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct LearntBudget {
    /// The principal's key.
    pub(super) principal: String,
    pub(super) budget: Budget,
    pub(super) known: Known,
}

/// A gate that is closed.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct LearntGate {
    /// The principal's key.
    pub(super) principal: String,
    /// For how long still.
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub(super) closed: Duration,
}

/// What a meter knows.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum Known {
    /// A lower limit than the configured one.
    Limit(u32),
    /// The values that are open, and for how long each stays so; how many can be, if that is less than configured.
    Open {
        values: Vec<OpenValue>,
        limit: Option<u32>,
    },
    /// What is missing of an amount per time, the mean and the standard deviation of what calls cost that told it afterwards, and the
    /// server's own bucket if it has locked the principal out.
    Window {
        missing: f64,
        cost: [f64; 2],
        rate: Option<KnownRate>,
    },
}

/// A value that is open.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct OpenValue {
    /// The value's key.
    pub(super) value: String,
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub(super) stays: Duration,
}

/// A bucket of the server, in the budget's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct KnownRate {
    pub(super) capacity: f64,
    pub(super) per_second: f64,
    pub(super) missing: f64,
    /// How long it has to hold before a higher rate is tried.
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub(super) holds: Duration,
}

impl Learnt {
    pub(super) fn new(budgets: Vec<LearntBudget>, gates: Vec<LearntGate>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            at: now.unwrap_or_default().as_secs_f64(),
            budgets,
            gates,
        }
    }

    /// How many budgets and gates it speaks of.
    pub(super) fn len(&self) -> usize {
        self.budgets.len() + self.gates.len()
    }

    /// How long ago it was made. A clock that was set back makes it new.
    pub(super) fn age(&self) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let age = now.unwrap_or_default().as_secs_f64() - self.at;
        Duration::try_from_secs_f64(age).unwrap_or_default()
    }
}
