//! [`Leases`]: permits that outlive their calls, by the ids of what they stand for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::permit::Permit;
use super::signal::Signal;
use crate::principal::{Charge, LeaseChange};

/// How many are kept. The one that expires first is given back for another.
const MAX_KEPT: usize = 100_000;

/// Keeps permits until what they stand for has ended or expired.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    kept: Mutex<Kept>,
    /// Wakes the task that gives back what has expired.
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Kept {
    leases: HashMap<Box<str>, Entry>,
    /// By the time at which they expire.
    expiries: BTreeMap<(Instant, u64), Box<str>>,
    count: u64,
    /// Whether a task looks after them.
    watched: bool,
}

#[derive(Debug)]
struct Entry {
    permit: Permit,
    lasts: Duration,
    expires: (Instant, u64),
}

impl Kept {
    fn insert(&mut self, id: Box<str>, permit: Permit, lasts: Duration) -> Vec<Permit> {
        let mut ended: Vec<Permit> = self.remove(&id).into_iter().collect();
        if self.leases.len() >= MAX_KEPT {
            let first = self.expiries.first_key_value().map(|(_, id)| id.clone());
            ended.extend(first.and_then(|first| self.remove(&first)));
        }
        let expires = self.expire(&id, lasts);
        let lease = Entry {
            permit,
            lasts,
            expires,
        };
        self.leases.insert(id, lease);
        ended
    }

    fn expire(&mut self, id: &str, lasts: Duration) -> (Instant, u64) {
        self.count += 1;
        let now = Instant::now();
        let expires = (now.checked_add(lasts).unwrap_or(now), self.count);
        self.expiries.insert(expires, id.into());
        expires
    }

    fn renew(&mut self, id: &str) {
        let Some(lease) = self.leases.get(id) else {
            return;
        };
        let (lasts, old) = (lease.lasts, lease.expires);
        self.expiries.remove(&old);
        let expires = self.expire(id, lasts);
        if let Some(lease) = self.leases.get_mut(id) {
            lease.expires = expires;
        }
    }

    fn remove(&mut self, id: &str) -> Option<Permit> {
        let lease = self.leases.remove(id)?;
        self.expiries.remove(&lease.expires);
        Some(lease.permit)
    }

    fn expired(&mut self, now: Instant) -> Vec<Permit> {
        let mut ended = Vec::new();
        while let Some((&(at, _), id)) = self.expiries.first_key_value() {
            if at > now {
                break;
            }
            let id = id.clone();
            ended.extend(self.remove(&id));
        }
        ended
    }

    fn next(&mut self) -> Option<Instant> {
        let next = self.expiries.keys().next().map(|(at, _)| *at);
        self.watched = next.is_some();
        next
    }
}

impl Leases {
    /// Does what a response says. `permit` is what its call drew on the budget, if it did.
    pub(crate) fn apply(self: &Arc<Self>, change: LeaseChange, permit: Option<Permit>) {
        if let (LeaseChange::Begin { .. }, Some(permit)) = (&change, &permit) {
            // Its response was a good one, however long it is kept.
            permit.report(Signal::Accepted);
        }
        if let (LeaseChange::Refused, Some(permit)) = (&change, &permit) {
            let mut budgets = permit.admission().charges().iter().map(Charge::budget);
            if let Some(budget) = budgets.next() {
                permit.report(Signal::Exceeded(budget));
            }
        }
        let mut kept = self.kept.lock();
        let ended = match (change, permit) {
            (LeaseChange::Begin { id, lasts }, Some(permit)) => kept.insert(id, permit, lasts),
            (LeaseChange::Renew(ids), _) => {
                ids.iter().for_each(|id| kept.renew(id));
                Vec::new()
            }
            (LeaseChange::End(ids), _) => ids.iter().filter_map(|id| kept.remove(id)).collect(),
            (LeaseChange::None | LeaseChange::Refused | LeaseChange::Begin { .. }, _) => return,
        };
        let unwatched = !kept.watched && kept.next().is_some();
        drop(kept);
        // Outside the lock: each goes back to its ledger.
        ended.into_iter().for_each(Permit::complete);
        if unwatched {
            self.watch();
        }
        self.changed.notify_one();
    }

    /// Starts the task that gives back what expires. It ends when nothing is left.
    fn watch(self: &Arc<Self>) {
        // Made before the task runs: a runtime may be dropped before it does.
        let (watch, changed) = (OnWatch(Arc::downgrade(self)), Arc::clone(&self.changed));
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(look_after(watch, changed))),
            // The next change, in a runtime, starts it.
            Err(_) => drop(watch),
        }
    }

    fn look(&self) -> Option<Instant> {
        let (ended, next) = {
            let mut kept = self.kept.lock();
            (kept.expired(Instant::now()), kept.next())
        };
        ended.into_iter().for_each(Permit::complete);
        next
    }

    /// How many are kept, and whether somebody looks after them.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> (usize, bool) {
        let kept = self.kept.lock();
        assert_eq!(kept.leases.len(), kept.expiries.len());
        (kept.leases.len(), kept.watched)
    }
}

/// Marks that nobody looks after the leases once it is dropped, with its runtime for example.
struct OnWatch(Weak<Leases>);

impl Drop for OnWatch {
    fn drop(&mut self) {
        if let Some(leases) = self.0.upgrade() {
            leases.kept.lock().watched = false;
        }
    }
}

async fn look_after(watch: OnWatch, changed: Arc<Notify>) {
    while let Some(next) = watch.0.upgrade().and_then(|leases| leases.look()) {
        // Either is a reason to look.
        let _ = timeout_at(next, changed.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AcquireRequest, Ledger, LocalLedger};
    use crate::principal::{Budget, Principal};

    const LASTS: Duration = Duration::from_secs(60);

    fn begin(leases: &Arc<Leases>, ledger: &Arc<LocalLedger>, id: &str) {
        let request = AcquireRequest::new(Charge::new(of_svc(), Budget::Concurrency, 1));
        let permit = Permit::try_acquire(ledger.clone(), &request).expect("a free permit");
        let id = id.into();
        leases.apply(LeaseChange::Begin { id, lasts: LASTS }, Some(permit));
    }

    fn of_svc() -> Principal {
        Principal::account("svc")
    }

    fn paused() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_task_looks_after_all() {
        let (leases, ledger) = (
            Arc::<Leases>::default(),
            Arc::new(LocalLedger::in_flight(9)),
        );
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        for (id, kept) in [("a", 1), ("b", 2), ("c", 3), ("b", 3)] {
            begin(&leases, &ledger, id);
            assert_eq!((leases.kept(), tasks() - before), ((kept, true), 1));
        }
        tokio::time::sleep(LASTS + Duration::from_millis(1)).await;
        assert_eq!((leases.kept(), tasks()), ((0, false), before));
        assert!(ledger.snapshot().principals.is_empty());
    }

    #[test]
    fn what_another_runtime_has_left_expires() {
        let (leases, ledger) = (
            Arc::<Leases>::default(),
            Arc::new(LocalLedger::in_flight(9)),
        );
        paused().block_on(async { begin(&leases, &ledger, "a") });
        assert_eq!(leases.kept(), (1, false));
        paused().block_on(async {
            begin(&leases, &ledger, "b");
            tokio::time::sleep(2 * LASTS).await;
        });
        assert_eq!(leases.kept(), (0, false));
    }
}
