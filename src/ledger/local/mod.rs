//! [`LocalLedger`]: the budgets of one process, behind one lock.

mod account;
mod adapt;
mod distinct;
mod endpoint;
mod line;
mod release;
mod report;
mod state;
#[cfg(test)]
mod tests;
mod wait;
mod words;

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use self::state::State;
use self::wait::Waiting;
use super::{Acquire, Draw, End, Grant, Ledger, Receipt, Shape, Signal, Snapshot};
use crate::principal::Budget;

/// Keeps the budgets of one process.
///
/// Budgets that the ledger was not told of are unlimited. A principal costs memory only as long as something of it is
/// held, queued, gated, learnt or open.
///
/// # Fairness
///
/// First come, first served among the calls that can run now. A call that needs a new value of a
/// [`Shape::Distinct`] budget waits until a place is free, and calls whose value is open overtake it, for
/// [`max_overtake`](LocalLedgerBuilder::max_overtake) at most: then an open value takes in no new calls, so that its
/// place comes free.
///
/// # Adaptive limits
///
/// A report of [`Signal::TooManyConnections`] lowers the limit to what was in flight when the refused call was sent,
/// minus one. Quiet answers raise it again, one at a time, up to the
/// configured number; the further apart, the oftener a raise was refused. An endpoint that is overloaded again and again
/// gets half as many calls at a time, and then one more for each hundred good answers. After a gate has opened one call goes first,
/// and each good answer lets one more go at the same time.
///
/// ```
/// use std::sync::Arc;
/// use tower_ews::ledger::{Draw, Ledger, LocalLedger, Permit, Shape};
/// use tower_ews::principal::{Budget, Principal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let ledger = Arc::new(LocalLedger::builder().budget(Budget::Concurrency, Shape::InFlight(1)).build());
///
/// let first = Permit::try_acquire(ledger.clone(), Draw::new(Principal::new("contoso"))).unwrap();
/// // A second call of the same principal has to wait, another principal has not.
/// assert!(Permit::try_acquire(ledger.clone(), Draw::new(Principal::new("contoso"))).is_err());
/// assert!(Permit::try_acquire(ledger.clone(), Draw::new(Principal::new("fabrikam"))).is_ok());
///
/// drop(first);
/// let second = ledger.clone().acquire(Draw::new(Principal::new("contoso"))).await.unwrap();
/// # drop(second);
/// # }
/// ```
pub struct LocalLedger {
    config: Config,
    state: Mutex<State>,
}

/// As good as for ever, and still a time that can be added to now.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 86_400);

#[derive(Clone, Debug)]
struct Config {
    budgets: SmallVec<[(Budget, Shape); 4]>,
    max_queued: usize,
    max_wait: Duration,
    max_overtake: Duration,
}

impl Config {
    // On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
    fn shape(&self, budget: Budget) -> Option<Shape> {
        self.budgets
            .iter()
            .find(|(known, _)| *known == budget)
            .map(|(_, shape)| *shape)
    }
}

/// Configures a [`LocalLedger`].
///
/// ```
/// use std::time::Duration;
/// use tower_ews::ledger::{LocalLedger, Shape};
/// use tower_ews::principal::Budget;
///
/// let ledger = LocalLedger::builder()
///     .budget(Budget::Concurrency, Shape::InFlight(27))
///     .max_queued(10_000)
///     .max_wait(Duration::from_secs(60))
///     .build();
/// # let _ = ledger;
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct LocalLedgerBuilder {
    config: Config,
}

impl LocalLedgerBuilder {
    /// Sets a budget, the same for each principal. A limit of 0 counts as 1: otherwise no call would ever run.
    pub fn budget(mut self, budget: Budget, shape: Shape) -> Self {
        let shape = match shape {
            Shape::InFlight(limit) => Shape::InFlight(limit.max(1)),
            Shape::Distinct { limit, idle } => Shape::Distinct {
                limit: limit.max(1),
                idle: idle.min(LONGEST),
            },
        };
        self.config.budgets.retain(|(known, _)| *known != budget);
        self.config.budgets.push((budget, shape));
        self
    }

    /// How many calls may wait in this ledger. Default: 100,000.
    pub fn max_queued(mut self, calls: usize) -> Self {
        self.config.max_queued = calls;
        self
    }

    /// How long one call may wait, gates included. Default: 15 minutes. A call's own deadline may be sooner.
    pub fn max_wait(mut self, time: Duration) -> Self {
        self.config.max_wait = time.min(LONGEST);
        self
    }

    /// How long calls may be overtaken by others that came later. Default: 5 minutes.
    ///
    /// It bounds two things: calls to open mailboxes overtaking one that needs a new mailbox, and calls that draw on
    /// one budget overtaking one that needs several. The default was measured, with steady calls to 20 to 40 mailboxes
    /// of which 16 may be open until five minutes after their last use: shorter, and calls wait longer on average, since
    /// places stand idle more often; twice as long, and some wait in vain.
    pub fn max_overtake(mut self, time: Duration) -> Self {
        self.config.max_overtake = time.min(LONGEST);
        self
    }

    /// Builds the ledger.
    #[must_use]
    pub fn build(self) -> LocalLedger {
        LocalLedger {
            config: self.config,
            state: Mutex::new(State::default()),
        }
    }
}

impl LocalLedger {
    /// Starts to configure a ledger without budgets.
    pub fn builder() -> LocalLedgerBuilder {
        LocalLedgerBuilder {
            config: Config {
                budgets: SmallVec::new(),
                max_queued: 100_000,
                max_wait: Duration::from_secs(15 * 60),
                max_overtake: Duration::from_secs(5 * 60),
            },
        }
    }

    /// A ledger with one limit: so many calls of each principal at the same time.
    #[must_use]
    pub fn in_flight(limit: u32) -> Self {
        Self::builder()
            .budget(Budget::Concurrency, Shape::InFlight(limit))
            .build()
    }

    /// Runs `change` on the state, then wakes whom it granted or armed, outside the lock.
    fn with<T>(&self, change: impl FnOnce(&mut State, &Config) -> T) -> T {
        let mut state = self.state.lock();
        let out = change(&mut state, &self.config);
        if state.wakers.is_empty() {
            return out;
        }
        let wakers: SmallVec<[Waker; 4]> = state.wakers.drain(..).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        out
    }
}

impl Ledger for LocalLedger {
    fn try_acquire(&self, draw: &mut Draw) -> Option<Grant> {
        self.with(|state, config| state.try_acquire(draw, config))
    }

    fn acquire(self: Arc<Self>, draw: Draw) -> Acquire {
        Box::pin(Waiting::new(self, draw))
    }

    fn receipt(&self, grant: Grant) -> Option<Receipt> {
        self.state.lock().receipt(grant).cloned()
    }

    fn report(&self, receipt: &Receipt, signal: Signal) {
        self.with(|state, config| state.report(receipt, signal, Instant::now(), config));
    }

    fn release(&self, grant: Grant, end: End) {
        self.with(|state, config| state.release(grant, end, config));
    }

    fn snapshot(&self) -> Snapshot {
        self.with(|state, config| state.snapshot(Instant::now(), config))
    }
}

impl fmt::Debug for LocalLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLedger")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
