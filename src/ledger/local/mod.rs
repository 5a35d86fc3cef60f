//! [`LocalLedger`]: the budgets of one process, behind one lock.
//!
//! ```text
//! ledger, config   what was configured, and the lock
//! wait             the future of a call that waits
//! schedule, agenda who goes next, and what has come up
//! state            what is held, and what may be admitted now
//! queue            the calls that wait; knows no limits
//! accounts, account, endpoint
//! meter/           how much of one budget one principal uses; know no queues
//! gate   adapt   expiry   notice   clock
//! keeper           looks at the queue in time, for calls that are not polled
//! leased, news     what a fleet's ledger lends, and what it is told
//! ```

mod account;
mod accounts;
mod adapt;
mod agenda;
mod blocked;
mod clock;
mod config;
mod endpoint;
mod expiry;
mod gate;
mod keeper;
#[cfg(feature = "redis")]
mod leased;
mod ledger;
mod list;
mod meter;
mod news;
mod notice;
mod queue;
mod schedule;
mod state;
#[cfg(test)]
mod tests;
mod wait;

use std::sync::Arc;

use tokio::time::Instant;

#[cfg(feature = "redis")]
pub(super) use self::leased::{BudgetDemand, Demand, Head, Lease, Usage};
pub use self::ledger::{LocalLedger, LocalLedgerBuilder, SetLimitError};
#[cfg(feature = "redis")]
pub(super) use self::news::Told;
use self::state::State;
use self::wait::Waiting;
use super::{Acquire, AcquireRequest, Admission, End, Ledger, Signal, Snapshot};

impl Ledger for LocalLedger {
    fn try_acquire(&self, request: AcquireRequest) -> Result<Admission, AcquireRequest> {
        self.with(|state, config| state.try_acquire(request, config))
    }

    fn acquire(self: Arc<Self>, request: AcquireRequest) -> Acquire {
        Box::pin(Waiting::new(self, request))
    }

    fn report(&self, admission: &Admission, signal: Signal) {
        self.with(|state, config| state.report(admission, signal, Instant::now(), config));
    }

    fn release(&self, admission: &Admission, end: End) {
        self.with(|state, config| state.release(admission, end, config));
    }

    fn snapshot(&self) -> Snapshot {
        self.swept(State::snapshot)
    }
}
