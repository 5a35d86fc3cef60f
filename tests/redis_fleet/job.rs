//! Processes of a fleet, and the server that counts what they do at the same time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tower_ews::ledger::redis::{RedisLedger, RedisLedgerBuilder};
use tower_ews::ledger::{AcquireError, AcquireRequest, Ledger, Limit, Permit};
use tower_ews::principal::{Budget, Charge, Principal};

use super::fake::Fake;

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn in_flight(limit: u32) -> RedisLedgerBuilder {
    RedisLedger::builder().budget(Budget::Concurrency, Limit::InFlight(limit))
}

pub(crate) fn process(fake: &Fake, builder: &RedisLedgerBuilder) -> Arc<RedisLedger> {
    Arc::new(builder.clone().build(fake.clone()))
}

pub(crate) fn svc() -> AcquireRequest {
    AcquireRequest::new(Principal::account("svc"))
}

pub(crate) async fn acquire(
    ledger: &Arc<RedisLedger>,
    request: AcquireRequest,
) -> Result<Permit, AcquireError> {
    Permit::acquire(Arc::clone(ledger) as Arc<dyn Ledger>, request).await
}

/// What is in flight, as the server sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    calls: HashMap<u64, Call>,
    next: u64,
    peak: HashMap<(Principal, Budget), u32>,
}

#[derive(Debug)]
struct Call {
    process: String,
    charges: Vec<Charge>,
    /// Its process has lost its lease since: it is what was lost.
    lost: bool,
}

impl Server {
    /// A call of `process` begins. It ends when what is returned is dropped.
    pub(crate) fn begin(&self, process: &str, permit: &Permit) -> Running {
        let mut counts = self.0.lock();
        counts.next += 1;
        let number = counts.next;
        let call = Call {
            process: process.to_owned(),
            charges: permit.admission().charges().to_vec(),
            lost: false,
        };
        let charges = call.charges.clone();
        counts.calls.insert(number, call);
        for charge in charges {
            let key = (charge.principal().clone(), charge.budget());
            let all = counts.calls.values().filter(|call| !call.lost);
            let of_key = all.flat_map(|call| &call.charges);
            let of_key = of_key.filter(|c| (c.principal(), c.budget()) == (&key.0, key.1));
            let now: u32 = of_key.map(Charge::amount).sum();
            let peak = counts.peak.entry(key).or_default();
            *peak = now.max(*peak);
        }
        Running(self.clone(), number)
    }

    /// Calls of other processes than these do not count any more.
    pub(crate) fn living(&self, processes: &std::collections::HashSet<String>) {
        for call in self.0.lock().calls.values_mut() {
            call.lost |= !processes.contains(&call.process);
        }
    }

    pub(crate) fn peak(&self, principal: &Principal, budget: Budget) -> u32 {
        let counts = self.0.lock();
        let key = (principal.clone(), budget);
        counts.peak.get(&key).copied().unwrap_or(0)
    }

    pub(crate) fn begun(&self) -> u64 {
        self.0.lock().next
    }
}

pub(crate) struct Running(Server, u64);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.lock().calls.remove(&self.1);
    }
}
