//! [`Reporter`]: tells the ledger, or the layer's own gates, what one response says about the budgets of its call.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::classify::{Outcome, Refusal, RefusalScope};
use super::decide::{HeldBy, Waits};
use super::gate::Gates;
use crate::ledger::{Admission, AdmissionSlot, Ledger, Signal};
use crate::principal::{Budget, Charge};
use crate::retry::rate_limit;

/// The longest time that a gate is closed for. No documented lock-out lasts an hour: a longer wait than a day is a broken
/// number, and must not lock the process out for good.
const LONGEST_GATE: Duration = Duration::from_secs(86_400);

/// Who is told, and what the call was admitted with.
pub(super) enum Listener {
    /// The ledger that the call was charged to.
    Ledger(Arc<dyn Ledger>, Admission),
    /// The layer's own gates.
    Gates(Arc<Gates>, Admission),
}

impl Listener {
    fn admission(&self) -> &Admission {
        match self {
            Self::Ledger(_, admission) | Self::Gates(_, admission) => admission,
        }
    }

    fn report(&self, signal: Signal) {
        match self {
            Self::Ledger(ledger, admission) => ledger.report(admission, signal),
            Self::Gates(gates, admission) => gates.report(admission, signal),
        }
    }
}

/// Tells `ledger` how many requests a response says are left, if its call drew on them.
pub(super) fn report_rate_limit(
    ledger: &Arc<dyn Ledger>,
    slot: &AdmissionSlot,
    headers: &HeaderMap,
) {
    let draws = |admission: &Admission| {
        let mut budgets = admission.charges().iter().map(Charge::budget);
        budgets.any(|budget| budget == Budget::Requests)
    };
    if !slot.admission().is_some_and(|admission| draws(&admission)) {
        return;
    }
    let Some(limit) = rate_limit(headers) else {
        return;
    };
    if let Some(admission) = slot.admission_of(ledger) {
        let signal = Signal::Remaining {
            budget: Budget::Requests,
            amount: limit.remaining,
            until: Instant::now() + limit.reset.min(LONGEST_GATE),
        };
        ledger.report(&admission, signal);
    }
}

/// Reports the refusals of one response: each kind once, and again only with a longer wait.
pub(super) struct Reporter {
    listener: Option<Listener>,
    waits: Waits,
    /// The reason of the first refusal.
    reason: Option<Cow<'static, str>>,
    /// Some refusal has set a wait.
    server_waits: bool,
    /// Until when the principal is locked out.
    principal: Option<Instant>,
    /// Until when the endpoint is overloaded.
    endpoint: Option<Instant>,
    concurrency: bool,
    find_count: bool,
    open_mailboxes: bool,
}

impl Reporter {
    pub(super) fn new(listener: Option<Listener>, waits: Waits) -> Self {
        Self {
            listener,
            waits,
            reason: None,
            server_waits: false,
            principal: None,
            endpoint: None,
            concurrency: false,
            find_count: false,
            open_mailboxes: false,
        }
    }

    /// Returns the waits that can follow the response.
    pub(super) fn waits(&self) -> Waits {
        self.waits
    }

    /// Returns whether anybody listens.
    pub(super) fn listens(&self) -> bool {
        self.listener.is_some()
    }

    /// Makes `gates` listen if nobody does, and tells them what was found before.
    pub(super) fn listen_with(&mut self, gates: impl FnOnce() -> Listener) {
        if self.listener.is_some() {
            return;
        }
        let listener = self.listener.insert(gates());
        if let Some(until) = self.principal {
            listener.report(Signal::Busy { until });
        }
        if let Some(until) = self.endpoint {
            listener.report(Signal::EndpointBusy { until });
        }
    }

    /// Returns the reason of the first refusal.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Returns whether a refusal set a wait.
    pub(super) fn server_waits(&self) -> bool {
        self.server_waits
    }

    /// Reports that the response is no refusal, if other calls wait in the ledger for that.
    pub(super) fn report_accepted(&self) {
        if let Some(Listener::Ledger(ledger, admission)) = &self.listener {
            if admission.is_watched() {
                ledger.report(admission, Signal::Accepted);
            }
        }
    }

    pub(super) fn report(&mut self, refusal: &Refusal) {
        if self.reason.is_none() {
            self.reason = Some(refusal.reason.clone());
        }
        self.server_waits |= refusal.server_wait().is_some();
        let until = Instant::now() + self.waits.after(refusal).min(LONGEST_GATE);
        let extends = |known: &mut Option<Instant>| {
            let later = known.is_none_or(|known| until > known);
            if later {
                *known = Some(until);
            }
            later
        };
        let first = |known: &mut bool| !std::mem::replace(known, true);
        let (is_new, signal) = match refusal.scope {
            RefusalScope::Call => return,
            RefusalScope::Principal => (extends(&mut self.principal), Signal::Busy { until }),
            RefusalScope::Endpoint => (extends(&mut self.endpoint), Signal::EndpointBusy { until }),
            RefusalScope::Concurrency => (
                first(&mut self.concurrency),
                Signal::Exceeded(Budget::Concurrency),
            ),
            RefusalScope::FindCount => (
                first(&mut self.find_count),
                Signal::Exceeded(Budget::FindCount),
            ),
            RefusalScope::OpenMailboxes => (
                first(&mut self.open_mailboxes),
                Signal::Exceeded(Budget::OpenMailboxes),
            ),
        };
        if let Some(listener) = self.listener.as_ref().filter(|_| is_new) {
            listener.report(signal);
            if let Some((budget, number)) = refusal.limit {
                listener.report(Signal::Limit { budget, number });
            }
        }
    }

    /// Reports what the call was charged for what the server did not do, since it refused the whole call.
    pub(super) fn report_unspent(&self, refusal: &Refusal) {
        let Some(Listener::Ledger(ledger, admission)) = &self.listener else {
            return;
        };
        if refusal.outcome != Outcome::NotExecuted {
            return;
        }
        let mut known = None;
        let mut charges = admission.charges().iter();
        for charge in charges
            .by_ref()
            .filter(|charge| charge.budget().counts_what_was_done())
        {
            // All payers of a budget are told at once.
            let (budget, amount) = (charge.budget(), charge.amount());
            if known.replace(budget) != Some(budget) {
                ledger.report(admission, Signal::Unspent { budget, amount });
            }
        }
    }

    /// Returns who holds a retry back after `refusal`, which was reported.
    pub(super) fn held_by(&self, refusal: &Refusal) -> HeldBy {
        if self.lowers_limit(refusal) {
            return HeldBy::LedgerQueue;
        }
        match self.gate(refusal.scope) {
            Some(until) => HeldBy::Gate(until),
            None => HeldBy::Nobody,
        }
    }

    /// Whether the ledger lowers the limit that `refusal` met.
    fn lowers_limit(&self, refusal: &Refusal) -> bool {
        let Some(Listener::Ledger(_, admission)) = &self.listener else {
            return false;
        };
        if refusal.server_wait().is_some() {
            return false;
        }
        let charges = |budget| admission.charges().iter().any(|c| c.budget() == budget);
        match refusal.scope {
            RefusalScope::Concurrency => !admission.charges().is_empty(),
            RefusalScope::FindCount => charges(Budget::FindCount),
            RefusalScope::OpenMailboxes => charges(Budget::OpenMailboxes),
            RefusalScope::Call | RefusalScope::Principal | RefusalScope::Endpoint => false,
        }
    }

    /// Until when the gate that was reported is closed.
    fn gate(&self, scope: RefusalScope) -> Option<Instant> {
        let admission = self.listener.as_ref()?.admission();
        match scope {
            RefusalScope::Principal if !admission.charges().is_empty() => self.principal,
            RefusalScope::Endpoint if admission.endpoint().is_some() => self.endpoint,
            _ => None,
        }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter")
            .field("listens", &self.listens())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AcquireRequest, LocalLedger};
    use crate::principal::{Charges, Principal};

    /// Who holds a retry back after a refusal of this scope.
    fn held_by(
        charged: &[Budget],
        endpoint: bool,
        scope: RefusalScope,
        retry_after: Option<Duration>,
    ) -> HeldBy {
        let charge = |budget: &Budget| Charge::new(Principal::new("svc"), *budget, 1);
        let mut request = AcquireRequest::new(charged.iter().map(charge).collect::<Charges>());
        if endpoint {
            request = request.with_endpoint(http::uri::Authority::from_static("mail.contoso.com"));
        }
        let ledger = Arc::new(LocalLedger::in_flight(4));
        let listener = Listener::Ledger(ledger, Admission::new(request, 1, 1));
        let waits = Waits {
            drawn: Duration::from_secs(1),
            shortest: Duration::ZERO,
        };
        let mut reporter = Reporter::new(Some(listener), waits);
        let refusal = Refusal::new("busy").scope(scope).retry_after(retry_after);
        reporter.report(&refusal);
        reporter.held_by(&refusal)
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_a_retry_back() {
        use RefusalScope as Of;
        let gate = HeldBy::Gate(Instant::now() + Duration::from_secs(1));
        let (calls, found) = (Budget::Concurrency, Budget::FindCount);
        for (charged, endpoint, scope, expected) in [
            (&[calls][..], true, Of::Call, HeldBy::Nobody),
            (&[calls], true, Of::Principal, gate),
            (&[], true, Of::Principal, HeldBy::Nobody),
            (&[calls], true, Of::Endpoint, gate),
            (&[calls], false, Of::Endpoint, HeldBy::Nobody),
            (&[calls], true, Of::Concurrency, HeldBy::LedgerQueue),
            // Whatever the call draws on is too much.
            (&[found], true, Of::Concurrency, HeldBy::LedgerQueue),
            (&[], true, Of::Concurrency, HeldBy::Nobody),
            (&[calls, found], true, Of::FindCount, HeldBy::LedgerQueue),
            (&[calls], true, Of::FindCount, HeldBy::Nobody),
            (&[calls], true, Of::OpenMailboxes, HeldBy::Nobody),
            (
                &[Budget::OpenMailboxes],
                true,
                Of::OpenMailboxes,
                HeldBy::LedgerQueue,
            ),
        ] {
            let case = format!("{charged:?} {endpoint} {scope:?}");
            assert_eq!(held_by(charged, endpoint, scope, None), expected, "{case}");
        }
        // The call waits by itself as long as the server asks it to.
        let wait = Some(Duration::from_secs(9));
        let named = held_by(&[calls], true, Of::Concurrency, wait);
        assert_eq!(named, HeldBy::Nobody);
    }
}
