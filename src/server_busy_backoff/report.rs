//! Tells the ledger, or the layer's own gates, what one response says about the budgets of its call.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::classify::{Refusal, RefusalScope};
use super::gate::Gates;
use crate::ledger::{Admission, Ledger, Signal};
use crate::principal::Budget;

/// No lock-out that Exchange documents lasts an hour: a gate of more than a day is a broken number, and the process must
/// not be locked out by it for good.
const LONGEST_GATE: Duration = Duration::from_secs(86_400);

/// Who is told, and what the call was given there.
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

/// Reports the refusals of one response, each kind once, or again if it got longer.
pub(super) struct Reporter {
    to: Option<Listener>,
    /// The wait of a refusal without a hint.
    fallback: Duration,
    reason: Option<Cow<'static, str>>,
    principal: Option<Instant>,
    endpoint: Option<Instant>,
    connections: bool,
    found: bool,
    mailboxes: bool,
}

impl Reporter {
    pub(super) fn new(to: Option<Listener>, fallback: Duration) -> Self {
        Self {
            to,
            fallback,
            reason: None,
            principal: None,
            endpoint: None,
            connections: false,
            found: false,
            mailboxes: false,
        }
    }

    /// Whether anybody listens.
    pub(super) fn listens(&self) -> bool {
        self.to.is_some()
    }

    /// Has `gates` listen, if nobody does, and tells them what was found before.
    pub(super) fn listen_with(&mut self, gates: impl FnOnce() -> Listener) {
        if self.to.is_some() {
            return;
        }
        let to = self.to.insert(gates());
        if let Some(until) = self.principal {
            to.report(Signal::Busy { until });
        }
        if let Some(until) = self.endpoint {
            to.report(Signal::EndpointBusy { until });
        }
    }

    /// How long to wait after `refusal`, from when it came.
    pub(super) fn wait(&self, refusal: &Refusal) -> Duration {
        refusal
            .hint
            .filter(|hint| !hint.is_zero())
            .unwrap_or(self.fallback)
    }

    /// What was found first.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(super) fn report(&mut self, refusal: &Refusal) {
        if self.reason.is_none() {
            self.reason = Some(refusal.reason.clone());
        }
        let until = Instant::now() + self.wait(refusal).min(LONGEST_GATE);
        let later = |known: &mut Option<Instant>| {
            let later = known.is_none_or(|known| until > known);
            if later {
                *known = Some(until);
            }
            later
        };
        let first = |known: &mut bool| !std::mem::replace(known, true);
        let (news, signal) = match refusal.scope {
            RefusalScope::Call => return,
            RefusalScope::Principal => (later(&mut self.principal), Signal::Busy { until }),
            RefusalScope::Endpoint => (later(&mut self.endpoint), Signal::EndpointBusy { until }),
            RefusalScope::Connections => (
                first(&mut self.connections),
                Signal::Exceeded(Budget::Concurrency),
            ),
            RefusalScope::Found => (first(&mut self.found), Signal::Exceeded(Budget::FindCount)),
            RefusalScope::OpenMailboxes => (
                first(&mut self.mailboxes),
                Signal::Exceeded(Budget::OpenMailboxes),
            ),
        };
        if let Some(to) = self.to.as_ref().filter(|_| news) {
            to.report(signal);
        }
    }

    /// Whether the ledger lowers the limit that `refusal` met, so that its queue is where to wait.
    pub(super) fn limits(&self, refusal: &Refusal) -> bool {
        let hinted = refusal.hint.is_some_and(|hint| !hint.is_zero());
        let Some(Listener::Ledger(_, admission)) = self.to.as_ref().filter(|_| !hinted) else {
            return false;
        };
        let draws_on = |budget| admission.charges().iter().any(|c| c.budget() == budget);
        match refusal.scope {
            RefusalScope::Connections => !admission.charges().is_empty(),
            RefusalScope::Found => draws_on(Budget::FindCount),
            RefusalScope::OpenMailboxes => draws_on(Budget::OpenMailboxes),
            RefusalScope::Call | RefusalScope::Principal | RefusalScope::Endpoint => false,
        }
    }

    /// Until when the gate that was reported holds a resend back. `None` if there is none.
    pub(super) fn gate(&self, scope: RefusalScope) -> Option<Instant> {
        let admission = self.to.as_ref()?.admission();
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
