//! [`AcquireError`]: why a call did not get its permit.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use tower::BoxError;

use crate::principal::{Budget, Principal};
use crate::seconds::Seconds;

/// Why a call did not get its permit. In each case nothing was sent.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::ledger::{AcquireError, Contended};
/// use tower_ews::principal::{Budget, Principal};
///
/// let error = AcquireError::TimedOut {
///     waited: Duration::from_secs(30),
///     contended: Contended::Budget(Principal::account("svc"), Budget::Concurrency),
/// };
/// assert!(error.to_string().contains("account svc"));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Too many calls wait already.
    #[error(
        "the ledger's queue is full, {queued} calls are waiting: \
         send fewer calls at once or raise `max_queued`"
    )]
    QueueFull {
        /// How many wait.
        queued: usize,
    },
    /// The call waited as long as it may.
    #[error(
        "timed out waiting {} for {contended}: \
         send fewer calls, read or drop the bodies of earlier responses, or allow a longer wait",
        Seconds(*waited)
    )]
    TimedOut {
        /// How long it waited.
        waited: Duration,
        /// What it waited for.
        contended: Contended,
    },
    /// A gate opens too late for this call.
    #[error("{contended} opens in {}, which is later than this call may wait", Seconds(*wait))]
    GateTooLate {
        /// How long the gate stays closed.
        wait: Duration,
        /// Which gate.
        contended: Contended,
    },
    /// The limit of a budget that the call draws on is 0.
    #[error("the limit is 0, so no call can ever run: allow at least 1")]
    ZeroLimit,
    /// A budget that the call draws on was configured more than once.
    #[error(
        "the budget {budget} has several limits, so no call that draws on it can run: configure it once"
    )]
    DuplicateBudget {
        /// Which budget.
        budget: Budget,
    },
    /// The back end of the ledger cannot be reached.
    #[error("the ledger's back end is unavailable: {source}")]
    Unavailable {
        /// Why.
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl AcquireError {
    /// The back end of a ledger cannot be reached because of `source`.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable {
            source: source.into().into(),
        }
    }
}

/// What a call waits for.
///
/// ```
/// use tower_ews::ledger::Contended;
/// use tower_ews::principal::{Budget, Principal};
///
/// let contended = Contended::Budget(Principal::account("svc"), Budget::OpenMailboxes);
/// assert_eq!(contended.principal().unwrap().name(), "svc");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Contended {
    /// That budget of the principal.
    Budget(Principal, Budget),
    /// The gate of the principal, or the calls that test it.
    Gate(Principal),
    /// The gate of the endpoint, or the calls that test it.
    Endpoint(Authority),
    /// The time before which the call may not be admitted.
    Time,
}

impl Contended {
    /// The principal that it belongs to.
    pub fn principal(&self) -> Option<&Principal> {
        match self {
            Self::Budget(principal, _) | Self::Gate(principal) => Some(principal),
            Self::Endpoint(_) | Self::Time => None,
        }
    }

    /// The budget, if it is one.
    pub fn budget(&self) -> Option<Budget> {
        match self {
            Self::Budget(_, budget) => Some(*budget),
            _ => None,
        }
    }
}

impl fmt::Display for Contended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(principal, budget) => write!(f, "the budget {budget:?} of {principal}"),
            Self::Gate(principal) => write!(f, "the gate of {principal}"),
            Self::Endpoint(authority) => write!(f, "the gate of endpoint {authority}"),
            Self::Time => f.write_str("the time from which it may be sent again"),
        }
    }
}
