//! [`BudgetPolicy`]: one row of a policy, and how Exchange charges each budget.

use super::error::SetLimitError;
use crate::ledger::Limit;
use crate::principal::{Budget, ChargeRule, Payer};

/// One row of a [`ThrottlingPolicy`](super::ThrottlingPolicy).
///
/// ```
/// use tower_ews::ledger::Limit;
/// use tower_ews::policy::BudgetPolicy;
/// use tower_ews::principal::{Budget, ChargeRule, Payer};
///
/// let row = BudgetPolicy::new(Budget::Concurrency, Limit::InFlight(16), Payer::Effective, ChargeRule::Calls);
/// assert_eq!(row.limit, Limit::InFlight(16));
/// assert_eq!(BudgetPolicy::of(Budget::Concurrency, Limit::InFlight(16)), Ok(row));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields)
)]
#[non_exhaustive]
pub struct BudgetPolicy {
    /// Which budget.
    pub budget: Budget,
    /// How it is counted, and its number.
    pub limit: Limit,
    /// Who pays.
    pub payer: Payer,
    /// What draws on it.
    pub rule: ChargeRule,
}

impl BudgetPolicy {
    /// Creates a row.
    pub fn new(budget: Budget, limit: Limit, payer: Payer, rule: ChargeRule) -> Self {
        Self {
            budget,
            limit,
            payer,
            rule,
        }
    }

    /// Creates the row of a budget that Exchange or Graph documents: charged as they charge it.
    ///
    /// # Errors
    ///
    /// [`SetLimitError`] if nobody can be charged so: a [`Budget::Custom`] has no rule of its own, a limit of 0 lets no call run, and
    /// different values are counted by [`Limit::Distinct`] alone.
    pub fn of(budget: Budget, limit: Limit) -> Result<Self, SetLimitError> {
        let (payer, rule) = charged(budget).ok_or(SetLimitError::NoRule { budget })?;
        let row = Self::new(budget, limit, payer, rule);
        row.check().map(|()| row)
    }

    /// Whether calls can run under it.
    pub(super) fn check(&self) -> Result<(), SetLimitError> {
        let budget = self.budget;
        let counts_values = matches!(
            self.rule,
            ChargeRule::Mailboxes | ChargeRule::MailboxesWritten
        );
        let is_distinct = matches!(self.limit, Limit::Distinct { .. });
        match () {
            () if self.limit.is_zero() => Err(SetLimitError::Zero { budget }),
            () if counts_values && !is_distinct => Err(SetLimitError::CountsValues { budget }),
            () if is_distinct && !counts_values => Err(SetLimitError::CountsAmounts { budget }),
            () => Ok(()),
        }
    }
}

/// Who pays for a documented budget, and what draws on it.
fn charged(budget: Budget) -> Option<(Payer, ChargeRule)> {
    let only = |name: &str| ChargeRule::Only(vec![name.to_owned()]);
    Some(match budget {
        Budget::Concurrency => (Payer::Effective, ChargeRule::Calls),
        Budget::HangingConnections => (Payer::Effective, ChargeRule::HangingCalls),
        Budget::SyncCalls => (Payer::Effective, ChargeRule::Syncs),
        Budget::FindCount => (Payer::Effective, ChargeRule::FoundRows),
        Budget::OpenMailboxes => (Payer::Caller, ChargeRule::Mailboxes),
        Budget::MessageRate => (Payer::Effective, ChargeRule::Messages),
        Budget::RecipientRate => (Payer::Effective, ChargeRule::Recipients),
        Budget::BusyTime | Budget::PercentTime => (Payer::Effective, ChargeRule::WireTime),
        Budget::Subscriptions => (Payer::Mailbox, only("Subscribe")),
        Budget::Discovery => (Payer::Caller, only("SearchMailboxes")),
        Budget::Requests | Budget::Spacing => (Payer::Effective, ChargeRule::AllCalls),
        Budget::UploadBytes => (Payer::Effective, ChargeRule::UploadedBytes),
        Budget::Custom(_) => return None,
    })
}
