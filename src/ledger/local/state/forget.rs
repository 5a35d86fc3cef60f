//! What is forgotten with time, and what is shown.

use http::uri::Authority;
use tokio::time::Instant;

use super::super::blocked::by_principal;
use super::super::clock::{Clock, after};
use super::super::meter::Keep;
use super::super::notice::Notice;
#[cfg(test)]
use super::Left;
use super::{Due, RETRY, State};
use crate::ledger::{AcquireRequest, Contended, PrincipalSnapshot, Snapshot};
use crate::principal::{Charge, Principal};

/// How many things are forgotten in one operation.
const PORTION: usize = 64;

impl State {
    /// Forgets what has passed of the principals of `charges`, or schedules a later look.
    pub(in super::super) fn tidy_all(&mut self, charges: &[Charge], clock: &mut Clock) {
        for (principal, _) in by_principal(charges) {
            self.tidy(principal, clock.now());
        }
    }

    pub(in super::super) fn tidy(&mut self, principal: &Principal, now: Instant) {
        match self.forget(principal, now) {
            None | Some(Keep::InUse) => {}
            Some(Keep::Nothing) => self.accounts.remove(principal),
            Some(Keep::Until(until)) => {
                let account = self.accounts.get_mut(principal);
                if account.is_some_and(|account| !account.schedule()) {
                    let due = Due::Principal(principal.hash64());
                    self.expiry.schedule(until, due);
                }
            }
        }
    }

    /// Forgets what has passed of a principal, but not that there is one. Says until when the rest has to be kept.
    fn forget(&mut self, principal: &Principal, now: Instant) -> Option<Keep> {
        let account = self.accounts.get_mut(principal)?;
        if account
            .gate_mut()
            .is_some_and(|gate| gate.open_if_due(now, self.last + 1))
        {
            let contended = Contended::Gate(principal.clone());
            self.notices.push(Notice::opened(contended));
        }
        Some(account.tidy(now))
    }

    pub(super) fn tidy_endpoint(&mut self, authority: &Authority, now: Instant) {
        let Some(endpoint) = self.endpoints.get_mut(authority) else {
            return;
        };
        if endpoint.open_if_due(now, self.last + 1) {
            let contended = Contended::Endpoint(authority.clone());
            self.notices.push(Notice::opened(contended));
        }
        let until = endpoint.keep_until(now);
        if !endpoint.is_in_use() && until.is_none_or(|until| until <= now) {
            self.endpoints.remove(authority);
            if self.endpoints.is_empty() {
                self.endpoints.shrink_to(64);
            }
        } else if !std::mem::replace(&mut endpoint.scheduled, true) {
            // Somebody waits there or tests it: later, as often as it takes.
            let until = until.unwrap_or(now).max(after(now, RETRY));
            self.expiry
                .schedule(until, Due::Endpoint(authority.as_str().into()));
        }
    }

    /// Forgets what has passed, in portions: much may pass at the same time.
    pub(super) fn sweep_if_any(&mut self, clock: &mut Clock) {
        if !self.expiry.is_empty() {
            self.sweep(clock.now());
        }
    }

    /// As `sweep_if_any`, before a call: what has passed must not hold it back, though others are forgotten first.
    pub(in super::super) fn sweep_for(&mut self, request: &AcquireRequest, clock: &mut Clock) {
        self.sweep_if_any(clock);
        if !self.behind {
            return;
        }
        let now = clock.now();
        for (principal, _) in by_principal(request.charges()) {
            self.forget(principal, now);
        }
        if let Some(endpoint) = request.endpoint().and_then(|e| self.endpoints.get_mut(e)) {
            endpoint.forget(now);
        }
    }

    /// Forgets some of what has passed. Returns whether more is left.
    pub(in super::super) fn sweep(&mut self, now: Instant) -> bool {
        for _ in 0..PORTION {
            let Some(due) = self.expiry.pop_due(now) else {
                self.behind = false;
                return false;
            };
            match due {
                Due::Principal(hash) => {
                    let Some(account) = self.accounts.by_hash(hash) else {
                        continue;
                    };
                    account.unschedule();
                    let principal = account.principal.clone();
                    self.tidy(&principal, now);
                }
                Due::Endpoint(name) => {
                    let Ok(authority) = name.parse::<Authority>() else {
                        continue;
                    };
                    if let Some(endpoint) = self.endpoints.get_mut(&authority) {
                        endpoint.scheduled = false;
                    }
                    self.tidy_endpoint(&authority, now);
                }
            }
        }
        self.behind = self.expiry.is_due(now);
        self.behind
    }

    /// The number of the last admission, for tests.
    #[cfg(test)]
    pub(in super::super) fn last(&self) -> u64 {
        self.last
    }

    /// What is in memory, for tests.
    #[cfg(test)]
    pub(in super::super) fn left(&self) -> Left {
        let (waiters, lists, alarms) = self.queue.left();
        Left {
            principals: self.accounts.iter().count(),
            room: self.accounts.room(),
            endpoints: self.endpoints.len(),
            waiters,
            lists,
            alarms,
            expiries: self.expiry.len(),
            work: self.agenda.looked_and_left().1,
            misses: self.agenda.missed_lists(),
        }
    }

    /// What has passed is forgotten before.
    pub(in super::super) fn snapshot(&self, now: Instant) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for account in self.accounts.iter().filter(|account| !account.is_vacant()) {
            let mut principal = PrincipalSnapshot::new(account.principal.clone());
            principal.gated = account.closed_until(now).map(|until| until - now);
            principal.budgets = account.snapshot(now);
            principal.queued = account.queued() as usize;
            snapshot.principals.push(principal);
        }
        snapshot.queued = self.queue.len();
        let gated = self.endpoints.iter().filter_map(|(authority, endpoint)| {
            let until = endpoint.closed_until(now)?;
            Some((authority.clone(), until - now))
        });
        snapshot.gated_endpoints = gated.collect();
        snapshot
    }
}
