//! [`SetLimitError`]: why a row of a policy cannot be kept.

use crate::principal::Budget;

/// Why a limit of a policy cannot be set.
///
/// ```
/// use tower_ews::policy::{SetLimitError, ThrottlingPolicy};
/// use tower_ews::principal::Budget;
///
/// let mut policy = ThrottlingPolicy::exchange_2019();
/// let error = policy.set_in_flight(Budget::SyncCalls, 0).unwrap_err();
/// assert_eq!(error, SetLimitError::Zero { budget: Budget::SyncCalls });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetLimitError {
    /// The policy has no such budget, and Exchange and Graph document none that says who is charged.
    #[error(
        "nothing says what draws on {budget}: push a `BudgetPolicy` with a payer and a rule to the `budgets` of the policy"
    )]
    NoRule {
        /// Which budget.
        budget: Budget,
    },
    /// A limit of 0 would let no call run.
    #[error("a limit of 0 for {budget} would let no call run: allow at least 1")]
    Zero {
        /// Which budget.
        budget: Budget,
    },
    /// The budget counts different values, and the limit counts amounts.
    #[error("{budget} counts different mailboxes: its limit has to be `Distinct`")]
    CountsValues {
        /// Which budget.
        budget: Budget,
    },
    /// The budget counts amounts, and the limit counts different values.
    #[error("{budget} counts amounts: its limit has to be `InFlight` or `PerWindow`")]
    CountsAmounts {
        /// Which budget.
        budget: Budget,
    },
}
