//! What the page shows, as JSON.

use std::time::Duration;

use serde::Serialize;
use tower_ews::ledger::{Ledger, PrincipalSnapshot};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::{Budget, PrincipalKind};

use crate::monitor::{Monitor, Totals};
use crate::proxy::Proxy;

/// How many principals and calls are listed: those that wait first.
const LISTED: usize = 100;

#[derive(Debug, Serialize)]
pub(crate) struct Status {
    upstream: String,
    policy: String,
    /// Calls under way, waiting ones included.
    pub(crate) calls: usize,
    queued: usize,
    /// How many principals are held back.
    gated: usize,
    /// How many limits are lower than the policy's.
    lowered: usize,
    principals: Vec<PrincipalStatus>,
    principals_left_out: usize,
    /// Endpoints that nobody calls, and for how many seconds still.
    endpoints: Vec<(String, f64)>,
    oldest_calls: Vec<CallStatus>,
    totals: Totals,
}

#[derive(Debug, Serialize)]
struct PrincipalStatus {
    name: String,
    kind: &'static str,
    queued: usize,
    /// For how many seconds it is held back.
    gated: Option<f64>,
    budgets: Vec<BudgetStatus>,
}

#[derive(Debug, Serialize)]
struct BudgetStatus {
    budget: String,
    held: u32,
    limit: u32,
    /// The policy's, if the server was found to allow less.
    lowered_from: Option<u32>,
}

#[derive(Debug, Serialize)]
struct CallStatus {
    caller: String,
    operation: &'static str,
    members: usize,
    seconds: f64,
}

impl Status {
    pub(crate) fn of(proxy: &Proxy, monitor: &Monitor) -> Self {
        let stack = proxy.stacks.current();
        let snapshot = stack.ledger.snapshot();
        let mut principals: Vec<_> = snapshot
            .principals
            .iter()
            .map(|known| principal(known, &stack.policy))
            .collect();
        let budgets = principals.iter().flat_map(|known| &known.budgets);
        let lowered = budgets
            .filter(|budget| budget.lowered_from.is_some())
            .count();
        let gated = principals
            .iter()
            .filter(|known| known.gated.is_some())
            .count();
        principals.sort_by_cached_key(PrincipalStatus::rank);
        let principals_left_out = principals.len().saturating_sub(LISTED);
        principals.truncate(LISTED);
        let (calls, oldest) = proxy.running.oldest(LISTED);
        let seconds = |time: &Duration| time.as_secs_f64();
        Self {
            upstream: proxy.upstream.to_string(),
            policy: stack.policy.name.clone(),
            calls,
            queued: snapshot.queued,
            gated,
            lowered,
            principals,
            principals_left_out,
            endpoints: snapshot
                .gated_endpoints
                .iter()
                .map(|(at, time)| (at.to_string(), seconds(time)))
                .collect(),
            oldest_calls: oldest
                .into_iter()
                .map(|call| CallStatus {
                    caller: call.caller.name().to_owned(),
                    operation: call.operation,
                    members: call.members,
                    seconds: call.since.elapsed().as_secs_f64(),
                })
                .collect(),
            totals: monitor.totals(),
        }
    }

    pub(crate) fn json(&self) -> String {
        // Numbers and texts: they can all be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl PrincipalStatus {
    /// Whoever waits longest first, then the busiest, then by name.
    fn rank(&self) -> impl Ord + use<> {
        let gated = self.gated.map_or(0, |time| (time * 1000.0) as u64);
        let held: u32 = self.budgets.iter().map(|budget| budget.held).sum();
        (
            std::cmp::Reverse((gated, self.queued, held)),
            self.name.clone(),
        )
    }
}

fn principal(known: &PrincipalSnapshot, policy: &ThrottlingPolicy) -> PrincipalStatus {
    let budgets = known.budgets.iter().map(|budget| {
        let allowed = allowed(policy, budget.budget);
        BudgetStatus {
            budget: budget.budget.to_string(),
            held: budget.held,
            limit: budget.limit,
            lowered_from: allowed.filter(|allowed| budget.limit < *allowed),
        }
    });
    PrincipalStatus {
        name: known.principal.name().to_owned(),
        kind: match known.principal.kind() {
            PrincipalKind::Account => "account",
            PrincipalKind::Impersonation => "impersonated",
            PrincipalKind::Mailbox => "mailbox",
            _ => "other",
        },
        queued: known.queued,
        gated: known.gated.map(|time| time.as_secs_f64()),
        budgets: budgets.collect(),
    }
}

fn allowed(policy: &ThrottlingPolicy, budget: Budget) -> Option<u32> {
    let row = policy.budgets.iter().find(|row| row.budget == budget)?;
    Some(row.limit.number())
}
