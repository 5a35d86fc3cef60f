//! [`LedgerGauges`]: what a ledger holds at the moment, as gauges of the `metrics` facade.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::{SharedString, Unit, describe_gauge, gauge};

use crate::ledger::Ledger;
use crate::policy::ThrottlingPolicy;
use crate::principal::Budget;

/// Sets gauges of the installed recorder of the `metrics` facade to what a ledger holds, whenever it is asked to: before each
/// scrape, or every few seconds. The counters and histograms of calls are those of
/// [`MetricsSink`](crate::audit_log::MetricsSink). Labels name no principal: gauges are sums over all of them.
///
/// | metric | unit | what it is |
/// | --- | --- | --- |
/// | `ews_calls_queued` | calls | those that wait for a permit |
/// | `ews_principals_gated`, `ews_endpoints_gated` | principals, endpoints | those that the server has told to wait |
/// | `ews_gate_seconds` | seconds | how long the last of them still waits |
/// | `ews_budget_held{budget}` | amounts | held of a budget: calls in flight for `concurrency`, open mailboxes for `open-mailboxes` |
/// | `ews_budget_limit{budget}` | amounts | the lowest limit of a principal, or the policy's where none is known |
/// | `ews_limits_lowered{budget}` | principals | those whose server was found to allow less than the policy says |
///
/// ```
/// use tower_ews::EwsStack;
/// use tower_ews::gauges::LedgerGauges;
/// use tower_ews::policy::ThrottlingPolicy;
///
/// let policy = ThrottlingPolicy::exchange_online();
/// let stack = EwsStack::new(policy.clone());
/// let gauges = LedgerGauges::new(stack.shared_ledger().clone(), &policy).prefix("calendar_ews");
/// // In the handler of `/metrics`, or in a task that wakes up now and then:
/// gauges.record();
/// ```
///
/// A record takes a [`Snapshot`](crate::ledger::Snapshot), which walks all principals that are in use.
#[derive(Clone)]
pub struct LedgerGauges {
    ledger: Arc<dyn Ledger>,
    /// What the policy allows.
    limits: Vec<(Budget, u32)>,
    prefix: SharedString,
}

impl LedgerGauges {
    /// Creates the gauges of `ledger`, which keeps the budgets of `policy`. Install your recorder before: they are described to it.
    pub fn new(ledger: Arc<dyn Ledger>, policy: &ThrottlingPolicy) -> Self {
        let rows = policy.budgets.iter();
        let limits = rows.map(|row| (row.budget, row.limit.number()));
        let gauges = Self {
            ledger,
            limits: limits.collect(),
            prefix: SharedString::const_str("ews"),
        };
        gauges.describe();
        gauges
    }

    /// Sets what the names begin with. Default: `ews`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<SharedString>) -> Self {
        self.prefix = prefix.into();
        self.describe();
        self
    }

    fn name(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }

    fn describe(&self) {
        for (name, unit, what) in [
            ("calls_queued", Unit::Count, "Calls that wait for a permit."),
            (
                "principals_gated",
                Unit::Count,
                "Principals that the server has told to wait.",
            ),
            (
                "endpoints_gated",
                Unit::Count,
                "Endpoints that have told to wait.",
            ),
            (
                "gate_seconds",
                Unit::Seconds,
                "How long the last of them still waits.",
            ),
            (
                "budget_held",
                Unit::Count,
                "Amounts held of a budget, over all principals.",
            ),
            (
                "budget_limit",
                Unit::Count,
                "The lowest limit of a principal.",
            ),
            (
                "limits_lowered",
                Unit::Count,
                "Limits that were found to be lower than the policy's.",
            ),
        ] {
            describe_gauge!(self.name(name), unit, what);
        }
    }

    /// Sets the gauges to what the ledger holds now.
    pub fn record(&self) {
        let snapshot = self.ledger.snapshot();
        let gates = snapshot.principals.iter().filter_map(|one| one.gated);
        let endpoints = snapshot.gated_endpoints.iter().map(|(_, time)| *time);
        let longest: Option<Duration> = gates.clone().chain(endpoints).max();
        for (name, value) in [
            ("calls_queued", snapshot.queued as f64),
            ("principals_gated", gates.count() as f64),
            ("endpoints_gated", snapshot.gated_endpoints.len() as f64),
            ("gate_seconds", longest.unwrap_or_default().as_secs_f64()),
        ] {
            gauge!(self.name(name)).set(value);
        }
        for (budget, limit) in &self.limits {
            let known = snapshot.principals.iter().flat_map(|one| &one.budgets);
            let known = known.filter(|known| known.budget == *budget);
            let held: u64 = known.clone().map(|known| u64::from(known.held)).sum();
            let lowest = known.clone().map(|known| known.limit).min();
            let lowered = known.filter(|known| known.limit < *limit).count();
            for (name, value) in [
                ("budget_held", held as f64),
                ("budget_limit", f64::from(lowest.unwrap_or(*limit))),
                ("limits_lowered", lowered as f64),
            ] {
                gauge!(self.name(name), "budget" => budget.to_string()).set(value);
            }
        }
    }
}

impl fmt::Debug for LedgerGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerGauges")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use tokio::time::Instant;

    use super::*;
    use crate::ledger::{
        Acquire, AcquireRequest, Admission, BudgetSnapshot, End, Limit, LocalLedger, Permit,
        PrincipalSnapshot, Signal, Snapshot,
    };
    use crate::principal::Principal;

    /// A ledger that has found lower limits.
    #[derive(Debug)]
    struct Lowered;

    impl Ledger for Lowered {
        fn acquire(self: Arc<Self>, _: AcquireRequest) -> Acquire {
            Box::pin(std::future::pending())
        }

        fn report(&self, _: &Admission, _: Signal) {}

        fn release(&self, _: &Admission, _: End) {}

        fn snapshot(&self) -> Snapshot {
            let limits = [("a", 27), ("b", 9), ("c", 12)].into_iter();
            let principals = limits.map(|(name, limit)| {
                let mut principal = PrincipalSnapshot::new(Principal::new(name));
                principal.budgets = vec![BudgetSnapshot::new(Budget::Concurrency, 2, limit)];
                principal
            });
            let mut snapshot = Snapshot::default();
            snapshot.principals.extend(principals);
            snapshot
        }
    }

    /// What is recorded, by name and labels.
    fn recorded(record: impl FnOnce()) -> BTreeMap<String, f64> {
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, record);
        let all = recorder.snapshotter().snapshot().into_vec().into_iter();
        let all = all.map(|(key, unit, description, value)| {
            assert!(unit.is_some() && description.is_some(), "{key:?}");
            let (_, key) = key.into_parts();
            let labels = key.labels().map(|label| format!("{{{}}}", label.value()));
            let DebugValue::Gauge(value) = value else {
                panic!("{key} is no gauge");
            };
            (key.name().to_owned() + &labels.collect::<String>(), *value)
        });
        all.collect()
    }

    fn policy() -> ThrottlingPolicy {
        let mut policy = ThrottlingPolicy::graph_outlook();
        policy.set_in_flight(Budget::Concurrency, 27).unwrap();
        policy
    }

    #[test]
    fn lower_limits_are_counted() {
        let seen = recorded(|| LedgerGauges::new(Arc::new(Lowered), &policy()).record());
        for (name, value) in [
            ("ews_budget_held{concurrency}", 6.0),
            ("ews_budget_limit{concurrency}", 9.0),
            ("ews_limits_lowered{concurrency}", 2.0),
            ("ews_budget_held{requests}", 0.0),
            ("ews_budget_limit{requests}", 10_000.0),
            ("ews_limits_lowered{requests}", 0.0),
        ] {
            assert_eq!(seen.get(name), Some(&value), "{name} of {seen:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_queued_and_gated_is_shown_and_gone_again() {
        let ledger = LocalLedger::builder().budget(Budget::Concurrency, Limit::InFlight(1));
        let ledger = Arc::new(ledger.build());
        let (amy, bob) = (Principal::new("amy"), Principal::new("bob"));
        let request = AcquireRequest::new(amy);
        let permit = Permit::try_acquire(ledger.clone(), &request).unwrap();
        let waiting = tokio::spawn(Arc::clone(&ledger).acquire(request));
        tokio::task::yield_now().await;
        ledger.close_gate(&bob, Instant::now() + Duration::from_secs(300));
        let gauges = LedgerGauges::new(ledger, &policy());
        let seen = recorded(|| gauges.clone().prefix("calendar").record());
        for (name, value) in [
            ("calendar_calls_queued", 1.0),
            ("calendar_principals_gated", 1.0),
            ("calendar_endpoints_gated", 0.0),
            ("calendar_gate_seconds", 300.0),
            ("calendar_budget_held{concurrency}", 1.0),
        ] {
            assert_eq!(seen.get(name), Some(&value), "{name} of {seen:?}");
        }
        waiting.abort();
        permit.complete();
        tokio::time::sleep(Duration::from_secs(301)).await;
        let seen = recorded(|| gauges.prefix("calendar").record());
        for name in ["calls_queued", "gate_seconds", "budget_held{concurrency}"] {
            assert_eq!(
                seen.get(&format!("calendar_{name}")),
                Some(&0.0),
                "{seen:?}"
            );
        }
    }
}
