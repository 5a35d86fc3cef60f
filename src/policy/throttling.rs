//! [`ThrottlingPolicy`]: the budgets, the times and the sizes that a client keeps to.

use std::time::Duration;

use super::error::SetLimitError;
use super::row::BudgetPolicy;
#[cfg(feature = "redis")]
use crate::ledger::redis::{RedisLedger, RedisLedgerBuilder};
use crate::ledger::{Limit, LocalLedger};
use crate::principal::Budget;
#[cfg(feature = "graph")]
use crate::principal::GraphCharges;
#[cfg(feature = "ews")]
use crate::principal::{BudgetRule, EwsCharges};

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
/// # Files
///
/// With the feature `serde` a policy is read from a file, in TOML, JSON or whatever else serde reads. `preset` names the policy to
/// start from: Exchange Online, if it is left out. `limits` changes single limits of it, as [`set_limit`](Self::set_limit) does. All
/// fields of the policy can be given besides, under their names; durations are seconds. `budgets` replaces all budgets.
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use std::time::Duration;
/// use tower_ews::policy::ThrottlingPolicy;
/// use tower_ews::principal::Budget;
///
/// let policy: ThrottlingPolicy = toml::from_str("
///     preset = 'exchange_2019'
///     name = 'ours'
///     deadline = 3600.0
///     [limits]
///     Concurrency = { InFlight = 10 }
///     MessageRate = { Sliding = { limit = 30, period = 60.0 } }
/// ").unwrap();
/// assert_eq!(policy.deadline, Duration::from_secs(3600));
/// assert_eq!(policy.in_flight(Budget::Concurrency), Some(10));
/// # }
/// ```
///
/// Errors begin with the key that is wrong:
///
/// ```
/// # #[cfg(feature = "serde")] {
/// # use tower_ews::policy::ThrottlingPolicy;
/// let json = r#"{"preset": "exchange_2019", "limits": {"Concurrency": {"InFlight": "ten"}}}"#;
/// let error = serde_json::from_str::<ThrottlingPolicy>(json).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"limits.Concurrency.InFlight: invalid type: string "ten", expected u32 at line 1 column 72"#
/// );
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThrottlingPolicy {
    /// Its name.
    pub name: String,
    /// The budgets, each once and with a limit of at least 1. A file in which it is otherwise is not read; calls that draw on
    /// such a budget end with [`AcquireError::DuplicateBudget`](crate::ledger::AcquireError::DuplicateBudget) or
    /// [`AcquireError::ZeroLimit`](crate::ledger::AcquireError::ZeroLimit).
    pub budgets: Vec<BudgetPolicy>,
    /// Whether impersonation draws on a copy of the mailbox owner's budgets: since Exchange 2010 SP2 RU4.
    pub impersonation_copy: bool,
    /// How long one call may take, all waits and attempts included. Default: 15 minutes.
    ///
    /// A caller's [`Deadline`](crate::extensions::Deadline) is one moment for a whole batch: its waits, its parts and their
    /// responses. A batch without one has this time since the server last settled one of its members, so that it goes on for as
    /// long as it gets on.
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub deadline: Duration,
    /// How long one attempt may take from when it is sent until its response begins. Default: 100 s, see
    /// [`attempt_timeout`](crate::server_busy_backoff::ServerBusyBackoffLayer::attempt_timeout).
    #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
    pub attempt_timeout: Duration,
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
    /// The largest request body, in bytes. A larger one ends with
    /// [`BufferRequestError::TooLarge`](crate::body::BufferRequestError::TooLarge) before anything is sent. Default: 64 MiB, what
    /// Exchange 2016 and 2019 take (Message size limits in Exchange Server, web.config of EWS). The presets of 2010 have 35,000,000
    /// bytes.
    pub max_request: u64,
}

impl ThrottlingPolicy {
    /// Creates a policy without any budget, with the default bounds.
    pub fn unlimited(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            budgets: Vec::new(),
            impersonation_copy: true,
            deadline: Duration::from_secs(15 * 60),
            attempt_timeout: Duration::from_secs(100),
            max_wait: Duration::from_secs(15 * 60),
            max_queued: 100_000,
            max_overtake: Duration::from_secs(5 * 60),
            backoff_base: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(60),
            batch_time: Duration::from_secs(20),
            max_request: 67_108_864,
        }
    }

    /// Returns the limit of a budget that counts amounts in flight.
    pub fn in_flight(&self, budget: Budget) -> Option<u32> {
        self.budgets.iter().find_map(|row| match row.limit {
            Limit::InFlight(limit) if row.budget == budget => Some(limit),
            _ => None,
        })
    }

    /// Returns the limit of a budget.
    pub fn limit(&self, budget: Budget) -> Option<Limit> {
        let row = self.budgets.iter().find(|row| row.budget == budget)?;
        Some(row.limit)
    }

    /// Sets the limit of a budget. A row that the policy has keeps its payer and its rule; else one is added, with those that Exchange
    /// or Graph documents: see [`BudgetPolicy::of`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_ews::ledger::Limit;
    /// use tower_ews::policy::ThrottlingPolicy;
    /// use tower_ews::principal::Budget;
    ///
    /// let mut policy = ThrottlingPolicy::exchange_2019();
    /// // Thirty messages in any minute.
    /// policy.set_limit(Budget::MessageRate, Limit::Sliding { limit: 30, period: Duration::from_secs(60) })?;
    /// // Half a second between one call of an account and its next.
    /// policy.set_limit(Budget::Spacing, Limit::per_window(1, Duration::from_millis(500)))?;
    /// # Ok::<(), tower_ews::policy::SetLimitError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`SetLimitError`] if no call could run under the limit, if it counts another thing than the budget, or if nothing says who is
    /// charged. The policy is unchanged then.
    pub fn set_limit(&mut self, budget: Budget, limit: Limit) -> Result<(), SetLimitError> {
        match self.budgets.iter_mut().find(|row| row.budget == budget) {
            Some(row) => {
                let changed = BudgetPolicy {
                    limit,
                    ..row.clone()
                };
                changed.check()?;
                *row = changed;
            }
            None => self.budgets.push(BudgetPolicy::of(budget, limit)?),
        }
        Ok(())
    }

    /// Sets a limit of amounts in flight: [`set_limit`](Self::set_limit) with [`Limit::InFlight`].
    ///
    /// # Errors
    ///
    /// As [`set_limit`](Self::set_limit).
    pub fn set_in_flight(&mut self, budget: Budget, limit: u32) -> Result<(), SetLimitError> {
        self.set_limit(budget, Limit::InFlight(limit))
    }

    /// Sets `EwsMaxBurst`, `EwsRechargeRate` and `EwsCutoffBalance` of Exchange 2013 and later, in the units of
    /// `Get-ThrottlingPolicy`: milliseconds, milliseconds in an hour, milliseconds.
    ///
    /// Each account has a balance of execution time, `burst` at most, that grows by `recharge` in an hour. Exchange slows an
    /// account's calls down when its balance is below zero, and locks it out when it has fallen to `-cutoff`. So `burst + cutoff` can be
    /// used before the first lock-out: [`Budget::BusyTime`] is a bucket of that. What calls cost is known when they have ended. Those
    /// on their way are expected to cost what earlier ones did.
    ///
    /// The client knows the time on the wire only, which is more than the time that the server works.
    ///
    /// # Errors
    ///
    /// [`SetLimitError::Zero`] if `recharge` is 0, or both others are.
    pub fn set_busy_time(
        &mut self,
        burst: u32,
        recharge: u32,
        cutoff: u32,
    ) -> Result<(), SetLimitError> {
        let bucket = Limit::PerWindow {
            limit: burst.saturating_add(cutoff),
            refill: recharge,
            period: Duration::from_secs(3600),
        };
        self.set_limit(Budget::BusyTime, bucket)
    }

    /// Sets `EWSPercentTimeInCAS` of Exchange 2010, or the smallest of it, `EWSPercentTimeInAD` and `EWSPercentTimeInMailboxRPC`: the
    /// percentage of each minute that the server works for an account. The client knows the time on the wire only, which is their sum
    /// and more.
    ///
    /// # Errors
    ///
    /// [`SetLimitError::Zero`] if it is 0.
    pub fn set_percent_time(&mut self, percent: u32) -> Result<(), SetLimitError> {
        let a_minute = Duration::from_secs(60);
        let bucket = Limit::per_window(percent.saturating_mul(600), a_minute);
        self.set_limit(Budget::PercentTime, bucket)
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
                Limit::Distinct { idle: time, .. }
                | Limit::PerWindow { period: time, .. }
                | Limit::Sliding { period: time, .. } => {
                    scale(time);
                }
            }
        }
        scale(&mut self.deadline);
        scale(&mut self.attempt_timeout);
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
        let rows = self.budgets.iter();
        let rules = rows.map(|row| BudgetRule::new(row.budget, row.payer, row.rule.clone()));
        EwsCharges::new(rules).impersonation_copy(self.impersonation_copy)
    }

    /// Returns the charges of the calls of this application to Microsoft Graph, on the budgets of this policy.
    #[cfg(feature = "graph")]
    #[cfg_attr(docsrs, doc(cfg(feature = "graph")))]
    pub fn graph_charges(&self, application: impl Into<Box<str>>) -> GraphCharges {
        GraphCharges::new(application).only(self.budgets.iter().map(|row| row.budget))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::{AcquireError, AcquireRequest, Permit};
    use crate::principal::{ChargeRule, Payer, Principal};

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
        assert_eq!(policy.attempt_timeout.as_millis(), 1_666);
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

    #[test]
    fn a_limit_changes_a_row_or_adds_one() {
        let mut policy = ThrottlingPolicy::exchange_2019();
        let rows = policy.budgets.len();
        policy.set_in_flight(Budget::Concurrency, 3).unwrap();
        assert_eq!(policy.budgets.len(), rows);
        policy.set_in_flight(Budget::SyncCalls, 5).unwrap();
        let sync = policy.budgets.last().unwrap();
        assert_eq!(
            (sync.budget, &sync.rule),
            (Budget::SyncCalls, &ChargeRule::Syncs)
        );
        // A row keeps its payer and its rule.
        let mut own = ThrottlingPolicy::unlimited("ours");
        let tenth = Limit::InFlight(10);
        own.budgets.push(BudgetPolicy::new(
            Budget::Custom(1),
            tenth,
            Payer::Caller,
            ChargeRule::AllCalls,
        ));
        own.set_limit(Budget::Custom(1), Limit::InFlight(3))
            .unwrap();
        assert_eq!(own.budgets[0].payer, Payer::Caller);
        assert_eq!(own.limit(Budget::Custom(1)), Some(Limit::InFlight(3)));
        let before = own.clone();
        let values = Limit::Distinct {
            limit: 1,
            idle: Duration::ZERO,
        };
        for (budget, limit, error) in [
            (
                Budget::Custom(1),
                Limit::InFlight(0),
                SetLimitError::Zero {
                    budget: Budget::Custom(1),
                },
            ),
            (
                Budget::Custom(2),
                tenth,
                SetLimitError::NoRule {
                    budget: Budget::Custom(2),
                },
            ),
            (
                Budget::Concurrency,
                values,
                SetLimitError::CountsAmounts {
                    budget: Budget::Concurrency,
                },
            ),
            (
                Budget::OpenMailboxes,
                tenth,
                SetLimitError::CountsValues {
                    budget: Budget::OpenMailboxes,
                },
            ),
        ] {
            assert_eq!(own.set_limit(budget, limit), Err(error));
            assert_eq!(own, before);
        }
    }

    #[test]
    fn busy_time_is_a_bucket_of_milliseconds() {
        let bucket = |limit, refill, seconds| {
            Some(Limit::PerWindow {
                limit,
                refill,
                period: Duration::from_secs(seconds),
            })
        };
        let mut policy = ThrottlingPolicy::exchange_2019();
        for (burst, cutoff) in [(300, 3_000), (3_300, 0), (0, 3_300)] {
            policy.set_busy_time(burst, 900, cutoff).unwrap();
            assert_eq!(policy.limit(Budget::BusyTime), bucket(3_300, 900, 3600));
        }
        assert!(policy.set_busy_time(0, 900, 0).is_err());
        assert!(policy.set_busy_time(300, 0, 300).is_err());
        policy.set_percent_time(90).unwrap();
        assert_eq!(
            policy.limit(Budget::PercentTime),
            bucket(54_000, 54_000, 60)
        );
        assert!(policy.set_percent_time(0).is_err());
    }
}
