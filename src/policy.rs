//! [`ThrottlingPolicy`]: what a server allows, as a table of budgets with presets.
//!
//! The numbers are Microsoft's where it publishes any. They cannot be discovered at run time ("Throttling parameter
//! values cannot be discovered programmatically", EWS throttling in Exchange). Documents disagree, so each number is a
//! setting. The [`LocalLedger`] finds lower limits than the policy's from the server's refusals.

use std::time::Duration;

#[cfg(feature = "redis")]
use crate::ledger::redis::{RedisLedger, RedisLedgerBuilder};
use crate::ledger::{Limit, LocalLedger};
use crate::principal::{Budget, ChargeRule, Payer};
#[cfg(feature = "ews")]
use crate::principal::{BudgetRule, EwsCharges};

/// One row of a [`ThrottlingPolicy`].
///
/// ```
/// use tower_ews::ledger::Limit;
/// use tower_ews::policy::BudgetPolicy;
/// use tower_ews::principal::{Budget, ChargeRule, Payer};
///
/// let row = BudgetPolicy::new(Budget::Concurrency, Limit::InFlight(16), Payer::Effective, ChargeRule::Calls);
/// assert_eq!(row.limit, Limit::InFlight(16));
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
}

/// What a server allows, and how long this client waits for it.
///
/// Start from a preset and change what you know better:
///
/// ```
/// use tower_ews::policy::ThrottlingPolicy;
/// use tower_ews::principal::Budget;
///
/// let mut policy = ThrottlingPolicy::exchange_online();
/// policy.set_in_flight(Budget::Concurrency, 10)?;
/// assert_eq!(policy.in_flight(Budget::Concurrency), Some(10));
/// # Ok::<(), tower_ews::policy::SetLimitError>(())
/// ```
///
/// With the feature `serde` a policy is read from a file; what the file leaves out is Exchange Online's:
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use std::time::Duration;
/// use tower_ews::policy::ThrottlingPolicy;
///
/// let policy: ThrottlingPolicy = toml::from_str("name = 'ours'\ndeadline = 3600.0").unwrap();
/// assert_eq!(policy.deadline, Duration::from_secs(3600));
/// assert_eq!(policy.budgets, ThrottlingPolicy::exchange_online().budgets);
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct ThrottlingPolicy {
    /// Its name.
    pub name: String,
    /// The budgets, each once and with a limit of at least 1. A file in which it is otherwise is not read; calls that draw on
    /// such a budget end with [`AcquireError::DuplicateBudget`](crate::ledger::AcquireError::DuplicateBudget) or
    /// [`AcquireError::ZeroLimit`](crate::ledger::AcquireError::ZeroLimit).
    #[cfg_attr(feature = "serde", serde(deserialize_with = "file::budgets"))]
    pub budgets: Vec<BudgetPolicy>,
    /// Whether impersonation draws on a copy of the mailbox owner's budgets: since Exchange 2010 SP2 RU4.
    pub impersonation_copy: bool,
    /// How long one call may take, all waits and attempts included. Default: 15 minutes.
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub deadline: Duration,
    /// How long one attempt may wait for its permit. Default: 15 minutes.
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub max_wait: Duration,
    /// How many calls may wait. Default: 100,000.
    pub max_queued: usize,
    /// How long a call may be overtaken by later ones. Default: 5 minutes, see
    /// [`max_overtake`](crate::ledger::LocalLedgerBuilder::max_overtake).
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub max_overtake: Duration,
    /// The first wait after a refusal without `Retry-After`. Each further one is twice as long at most. Default: 0.5 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub backoff_base: Duration,
    /// The longest wait after a refusal without `Retry-After`. Default: 60 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub backoff_cap: Duration,
    /// How long the server is to work on one part of a batch. Default: 20 s, a third of the minute that Exchange gives a
    /// batch (EWS throttling in Exchange, "Throttling implications for EWS batch requests").
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub batch_time: Duration,
    /// The largest request body, in bytes. Default: 64 MiB, what Exchange 2016 and 2019 take (Message size limits in
    /// Exchange Server, web.config of EWS).
    pub max_request: u64,
}

impl Default for ThrottlingPolicy {
    fn default() -> Self {
        Self::exchange_online()
    }
}

/// Why a limit of a policy cannot be set.
///
/// ```
/// use tower_ews::policy::{SetLimitError, ThrottlingPolicy};
/// use tower_ews::principal::Budget;
///
/// let mut policy = ThrottlingPolicy::exchange_2019();
/// let error = policy.set_in_flight(Budget::SyncCalls, 5).unwrap_err();
/// assert!(matches!(error, SetLimitError::NoSuchBudget { .. }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetLimitError {
    /// The policy has no such budget that counts amounts in flight.
    #[error(
        "the policy {policy} has no in-flight limit for {budget}: push a `BudgetPolicy` to its `budgets`"
    )]
    NoSuchBudget {
        /// The name of the policy.
        policy: String,
        /// Which budget.
        budget: Budget,
    },
    /// A limit of 0 would let no call run.
    #[error("a limit of 0 for {budget} would let no call run: allow at least 1")]
    Zero {
        /// Which budget.
        budget: Budget,
    },
}

/// A preset by its name.
type Preset = (&'static str, fn() -> ThrottlingPolicy);

const PRESETS: &[Preset] = &[
    ("exchange_online", ThrottlingPolicy::exchange_online),
    ("exchange_se", ThrottlingPolicy::exchange_se),
    ("exchange_2019", ThrottlingPolicy::exchange_2019),
    ("exchange_2016", ThrottlingPolicy::exchange_2016),
    ("exchange_2013", ThrottlingPolicy::exchange_2013),
    ("exchange_2010", ThrottlingPolicy::exchange_2010),
    ("exchange_2010_sp1", ThrottlingPolicy::exchange_2010_sp1),
    ("graph_outlook", ThrottlingPolicy::graph_outlook),
];

impl ThrottlingPolicy {
    /// Creates a policy without any budget, with the default bounds.
    pub fn unlimited(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            budgets: Vec::new(),
            impersonation_copy: true,
            deadline: Duration::from_secs(15 * 60),
            max_wait: Duration::from_secs(15 * 60),
            max_queued: 100_000,
            max_overtake: Duration::from_secs(5 * 60),
            backoff_base: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(60),
            batch_time: Duration::from_secs(20),
            max_request: 67_108_864,
        }
    }

    fn exchange(name: &str, concurrency: u32, hanging: u32, opens: ChargeRule) -> Self {
        let mut policy = Self::unlimited(name);
        let row = |budget, limit, rule| {
            BudgetPolicy::new(budget, Limit::InFlight(limit), Payer::Effective, rule)
        };
        policy.budgets = vec![
            row(Budget::Concurrency, concurrency, ChargeRule::Calls),
            row(
                Budget::HangingConnections,
                hanging,
                ChargeRule::HangingCalls,
            ),
            row(Budget::FindCount, 1000, ChargeRule::FoundRows),
            BudgetPolicy::new(
                Budget::OpenMailboxes,
                Limit::Distinct {
                    limit: 16,
                    idle: Duration::from_secs(5 * 60),
                },
                Payer::Delegate,
                opens,
            ),
        ];
        policy
    }

    /// Exchange Online: `EWSMaxConcurrency` 27, `HangingConnectionLimit` 10, `EWSFindCountLimit` 1000 (EWS throttling
    /// in Exchange, Table 1), `ConcurrentSyncCalls` 5 (seen in a response), 16 mailboxes open to one delegate account
    /// for about 5 minutes by operations that write (seen, not documented).
    pub fn exchange_online() -> Self {
        let mut policy = Self::exchange("exchange_online", 27, 10, ChargeRule::MailboxesWritten);
        policy.budgets.push(BudgetPolicy::new(
            Budget::SyncCalls,
            Limit::InFlight(5),
            Payer::Effective,
            ChargeRule::Syncs,
        ));
        policy
    }

    /// Exchange Server Subscription Edition: no numbers are published, so those of 2019.
    pub fn exchange_se() -> Self {
        Self::exchange("exchange_se", 27, 10, ChargeRule::Mailboxes)
    }

    /// Exchange Server 2019: 27 as in 2013 by inheritance (the cmdlet's page says 10), `HangingConnectionLimit` 10.
    /// Any access opens a mailbox.
    pub fn exchange_2019() -> Self {
        Self::exchange("exchange_2019", 27, 10, ChargeRule::Mailboxes)
    }

    /// Exchange Server 2016: as 2019.
    pub fn exchange_2016() -> Self {
        Self::exchange("exchange_2016", 27, 10, ChargeRule::Mailboxes)
    }

    /// Exchange Server 2013: `EWSMaxConcurrency` 27, `HangingConnectionLimit` 3 (EWS throttling in Exchange, Table 1).
    pub fn exchange_2013() -> Self {
        Self::exchange("exchange_2013", 27, 3, ChargeRule::Mailboxes)
    }

    /// Exchange Server 2010 since SP2 RU4: `EWSMaxConcurrency` 10, streaming with a budget of the same size.
    pub fn exchange_2010() -> Self {
        Self::exchange("exchange_2010", 10, 10, ChargeRule::Mailboxes)
    }

    /// Exchange Server 2010 before SP2 RU4: impersonation draws on the mailbox owner's own budget.
    pub fn exchange_2010_sp1() -> Self {
        let mut policy = Self::exchange("exchange_2010_sp1", 10, 10, ChargeRule::Mailboxes);
        policy.impersonation_copy = false;
        policy
    }

    /// The Outlook service of Microsoft Graph: 4 requests at a time per application and mailbox (Outlook service
    /// limits). `GraphCharges` (feature `graph`) or a closure over the request gives the key.
    pub fn graph_outlook() -> Self {
        let mut policy = Self::unlimited("graph_outlook");
        policy.budgets = vec![BudgetPolicy::new(
            Budget::Concurrency,
            Limit::InFlight(4),
            Payer::Effective,
            ChargeRule::Calls,
        )];
        policy
    }

    /// Returns the preset of that name.
    pub fn named(name: &str) -> Option<Self> {
        let preset = PRESETS.iter().find(|(known, _)| *known == name);
        preset.map(|(_, preset)| preset())
    }

    /// Returns the names of the presets.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// Returns the limit of a budget that counts amounts in flight.
    pub fn in_flight(&self, budget: Budget) -> Option<u32> {
        self.budgets.iter().find_map(|row| match row.limit {
            Limit::InFlight(limit) if row.budget == budget => Some(limit),
            _ => None,
        })
    }

    /// Sets the limit of a budget that counts amounts in flight.
    ///
    /// # Errors
    ///
    /// [`SetLimitError`] if the policy has no such budget, or if `limit` is 0. The policy is unchanged then.
    pub fn set_in_flight(&mut self, budget: Budget, limit: u32) -> Result<(), SetLimitError> {
        if limit == 0 {
            return Err(SetLimitError::Zero { budget });
        }
        let mut found = false;
        for row in &mut self.budgets {
            if row.budget == budget && matches!(row.limit, Limit::InFlight(_)) {
                row.limit = Limit::InFlight(limit);
                found = true;
            }
        }
        match found {
            true => Ok(()),
            false => Err(SetLimitError::NoSuchBudget {
                policy: self.name.clone(),
                budget,
            }),
        }
    }

    /// Divides all times by `factor`: for a server whose time runs that much faster, such as the simulator's. A factor that is
    /// not a positive number changes nothing.
    #[must_use]
    pub fn faster(mut self, factor: f64) -> Self {
        if !(factor.is_finite() && factor > 0.0) {
            return self;
        }
        let scale = |time: &mut Duration| {
            *time = Duration::try_from_secs_f64(time.as_secs_f64() / factor).unwrap_or(*time);
        };
        for row in &mut self.budgets {
            match &mut row.limit {
                Limit::InFlight(_) => {}
                Limit::Distinct { idle: time, .. } | Limit::PerWindow { period: time, .. } => {
                    scale(time);
                }
            }
        }
        scale(&mut self.deadline);
        scale(&mut self.max_wait);
        scale(&mut self.max_overtake);
        scale(&mut self.backoff_base);
        scale(&mut self.backoff_cap);
        scale(&mut self.batch_time);
        self
    }

    /// Returns the charges of EWS calls under this policy.
    #[cfg(feature = "ews")]
    #[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
    pub fn charges(&self) -> EwsCharges {
        let rules = self
            .budgets
            .iter()
            .map(|row| BudgetRule::new(row.budget, row.payer, row.rule.clone()));
        EwsCharges::new(rules).impersonation_copy(self.impersonation_copy)
    }

    /// Creates a ledger for one process that keeps this policy's budgets.
    pub fn ledger(&self) -> LocalLedger {
        let ledger = LocalLedger::builder()
            .max_queued(self.max_queued)
            .max_wait(self.max_wait)
            .max_overtake(self.max_overtake);
        let ledger = self
            .budgets
            .iter()
            .fold(ledger, |ledger, row| ledger.budget(row.budget, row.limit));
        ledger.build()
    }

    /// Starts to configure a ledger for a fleet of processes that keeps this policy's budgets.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis_ledger(&self) -> RedisLedgerBuilder {
        let ledger = RedisLedger::builder()
            .max_queued(self.max_queued)
            .max_wait(self.max_wait)
            .max_overtake(self.max_overtake);
        let rows = self.budgets.iter();
        rows.fold(ledger, |ledger, row| ledger.budget(row.budget, row.limit))
    }
}

/// How a policy is read from a file.
#[cfg(feature = "serde")]
mod file {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    use super::BudgetPolicy;

    pub(super) fn budgets<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<BudgetPolicy>, D::Error> {
        let rows = Vec::<BudgetPolicy>::deserialize(from)?;
        for (at, row) in rows.iter().enumerate() {
            let budget = row.budget;
            if row.limit.is_zero() {
                let text =
                    format!("a limit of 0 for {budget} would let no call run: allow at least 1");
                return Err(D::Error::custom(text));
            }
            if rows[..at].iter().any(|other| other.budget == budget) {
                let text = format!("the budget {budget} has several rows: leave one of them");
                return Err(D::Error::custom(text));
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::{AcquireError, AcquireRequest, Permit};
    use crate::principal::Principal;

    #[test]
    fn presets_are_found_by_their_names() {
        for name in ThrottlingPolicy::names() {
            let policy = ThrottlingPolicy::named(name).unwrap();
            assert_eq!(policy.name, name);
            assert!(policy.in_flight(Budget::Concurrency).unwrap() >= 4);
        }
        assert!(ThrottlingPolicy::named("exchange_95").is_none());
    }

    #[test]
    fn faster_scales_times_and_nothing_else() {
        let policy = ThrottlingPolicy::exchange_online().faster(60.0);
        assert_eq!(policy.deadline, Duration::from_secs(15));
        let idle = policy.budgets.iter().find_map(|row| match row.limit {
            Limit::Distinct { idle, limit: 16 } => Some(idle),
            _ => None,
        });
        assert_eq!(idle, Some(Duration::from_secs(5)));
        assert_eq!(policy.in_flight(Budget::Concurrency), Some(27));
        let same = ThrottlingPolicy::exchange_online();
        assert_eq!(same.clone().faster(0.0), same);
        assert_eq!(same.clone().faster(f64::NAN), same);
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_that_cannot_be_kept_is_an_error_of_each_call() {
        let error = async |change: fn(&mut Vec<BudgetPolicy>)| {
            let mut policy = ThrottlingPolicy::graph_outlook();
            change(&mut policy.budgets);
            let request = AcquireRequest::new(Principal::new("contoso"));
            Permit::acquire(Arc::new(policy.ledger()), request)
                .await
                .err()
        };
        assert!(error(|_| {}).await.is_none());
        let twice = error(|rows| rows.extend_from_within(..)).await;
        assert!(matches!(twice, Some(AcquireError::DuplicateBudget { .. })));
        let zero = error(|rows| rows[0].limit = Limit::InFlight(0)).await;
        assert!(matches!(zero, Some(AcquireError::ZeroLimit)));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_policy_survives_a_file() {
        for name in ThrottlingPolicy::names() {
            let policy = ThrottlingPolicy::named(name).unwrap();
            let text = toml::to_string(&policy).unwrap();
            assert_eq!(toml::from_str::<ThrottlingPolicy>(&text).unwrap(), policy);
        }
        let wrong = toml::from_str::<ThrottlingPolicy>("deadline = -1.0").unwrap_err();
        assert!(
            wrong.to_string().contains("no number of seconds"),
            "{wrong}"
        );
        let row = "budget='Concurrency', limit={InFlight=3}, payer='Effective', rule='Calls'";
        let rows = |row: &str| {
            let text = format!("budgets = [{{{row}}}]");
            toml::from_str::<ThrottlingPolicy>(&text)
        };
        assert!(rows(row).is_ok());
        let other = row.replace("Concurrency", "SyncCalls");
        assert!(rows(&format!("{row}}}, {{{other}")).is_ok());
        for (wrong, word) in [
            (format!("{row}}}, {{{row}"), "concurrency has several rows"),
            (row.replace('3', "0"), "a limit of 0 for concurrency"),
            (
                row.replace("InFlight=3", "Distinct={limit=0, idle=1.0}"),
                "a limit of 0 for concurrency",
            ),
        ] {
            let error = rows(&wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(rows(&format!("{row}, ruel=1")).is_err());
        assert!(toml::from_str::<ThrottlingPolicy>("dedline = 1.0").is_err());
    }
}
