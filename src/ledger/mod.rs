//! Who keeps the budgets: the [`Ledger`] trait, what goes in and out of it, and [`LocalLedger`] for one process.
//!
//! Layers hold an `Arc<dyn Ledger>`. Two layers that share one act together:
//! [`ServerBusyBackoff`](crate::server_busy_backoff) reports what responses say about a budget, and
//! [`ConcurrencyByPrincipal`](crate::concurrency_by_principal) gets no permit for that principal before its gate opens.
//!
//! | term | meaning |
//! | --- | --- |
//! | [`AcquireRequest`] | what a call asks for: charges, endpoint, deadline, its place in the queue |
//! | [`Admission`] | what it was given; a [`Permit`] carries it and gives it back exactly once |
//! | [`Signal`] | what a response says about a budget |
//! | [`Limit`] | how a budget is counted, and its number |

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::Instant;

use crate::principal::Budget;

mod error;
mod limit;
mod local;
mod permit;
mod request;
mod snapshot;
mod unread;

pub use error::{AcquireError, Contended};
pub use limit::Limit;
pub use local::{LocalLedger, LocalLedgerBuilder, UnknownBudget};
pub use permit::{End, Permit};
pub use request::{AcquireRequest, Admission, AdmissionSlot, Requeue};
pub use snapshot::{BudgetSnapshot, PrincipalSnapshot, Snapshot};

/// A permit that is waited for: what [`Ledger::acquire`] returns.
pub type Acquire = Pin<Box<dyn Future<Output = Result<Permit, AcquireError>> + Send>>;

/// Keeps budgets: hands out permits, takes in signals.
///
/// Object safe; implementations are shared as `Arc<dyn Ledger>`. Three methods have to be written, and an implementation that
/// learns nothing from responses can leave [`report`](Self::report) empty:
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use std::sync::{Arc, Mutex};
///
/// use tokio::sync::Semaphore;
/// use tower_ews::ledger::{Acquire, AcquireError, AcquireRequest, Admission, End, Ledger, Permit, Signal};
///
/// /// Four calls of each principal at a time; the principal with the most calls pays for a call of several.
/// #[derive(Debug, Default)]
/// struct FourEach {
///     principals: Mutex<HashMap<String, Arc<Semaphore>>>,
///     admitted: AtomicU64,
/// }
///
/// impl FourEach {
///     fn of(&self, request: &AcquireRequest) -> Option<Arc<Semaphore>> {
///         let key = request.charges().first()?.principal().to_string();
///         let mut principals = self.principals.lock().ok()?;
///         Some(Arc::clone(principals.entry(key).or_insert_with(|| Arc::new(Semaphore::new(4)))))
///     }
/// }
///
/// impl Ledger for FourEach {
///     fn acquire(self: Arc<Self>, request: AcquireRequest) -> Acquire {
///         Box::pin(async move {
///             if let Some(semaphore) = self.of(&request) {
///                 semaphore.acquire().await.map_err(AcquireError::unavailable)?.forget();
///             }
///             let sequence = self.admitted.fetch_add(1, Relaxed);
///             let ticket = request.ticket().unwrap_or(sequence);
///             Ok(Permit::new(self, Admission::new(request, ticket, sequence)))
///         })
///     }
///
///     fn report(&self, _: &Admission, _: Signal) {}
///
///     fn release(&self, admission: &Admission, _: End) {
///         if let Some(semaphore) = self.of(admission.request()) {
///             semaphore.add_permits(1);
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let ledger: Arc<dyn Ledger> = Arc::new(FourEach::default());
/// let permit = ledger.acquire(AcquireRequest::new(tower_ews::principal::Principal::new("a"))).await.unwrap();
/// permit.complete();
/// # }
/// ```
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// Acquires every charge of `request` immediately, or none. [`Permit::new`] makes a permit of the admission.
    ///
    /// # Errors
    ///
    /// Gives the request back if its call has to wait. A ledger that cannot say without waiting does so always, which is the
    /// default.
    fn try_acquire(&self, request: AcquireRequest) -> Result<Admission, AcquireRequest> {
        Err(request)
    }

    /// Waits until every charge of `request` can be acquired at once.
    ///
    /// # Cancellation
    ///
    /// A waiting call holds nothing. Dropping the future leaves the queue; what was admitted meanwhile is given back.
    fn acquire(self: Arc<Self>, request: AcquireRequest) -> Acquire;

    /// Tells what a response said about a budget that `admission` drew on. Accepted after the release as well.
    fn report(&self, admission: &Admission, signal: Signal);

    /// Gives `admission` back. [`Permit`] calls it exactly once.
    fn release(&self, admission: &Admission, end: End);

    /// Divides `admission` into what stays with the call and the charges on `budget`, which are released by themselves. None if
    /// there are no such charges.
    ///
    /// The default is right for a ledger that keeps nothing of an admission but its charges.
    fn split(&self, admission: &Admission, budget: Budget) -> Option<(Admission, Admission)> {
        admission.split(budget)
    }

    /// What is held, queued, gated and learnt now. Default: nothing.
    fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }
}

/// What a response says about a budget.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use tower_ews::ledger::{Ledger, LocalLedger, Permit, AcquireRequest, Signal};
/// use tower_ews::principal::Principal;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let ledger = std::sync::Arc::new(LocalLedger::in_flight(4));
/// let permit = Permit::try_acquire(ledger.clone(), &AcquireRequest::new(Principal::new("a"))).unwrap();
/// permit.report(Signal::Busy { until: Instant::now() + Duration::from_secs(60) });
/// assert!(ledger.snapshot().principals[0].gated.is_some());
/// # });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// The charged principals are locked out until then. Never shortens an earlier one.
    Busy {
        /// When the gate opens.
        until: Instant,
    },
    /// The whole endpoint is overloaded until then: everybody's calls to it wait. Never shortens an earlier one.
    EndpointBusy {
        /// When the gate opens.
        until: Instant,
    },
    /// The response is a good one, though its body may go on for long.
    Accepted,
    /// Too much was drawn on that budget.
    ///
    /// Servers do not always say which allowance a call exceeded. `Exceeded(Budget::Concurrency)` means "too many at the same
    /// time": of the call's budgets that count what is in flight, the one that is nearest to its limit is meant. The rows of
    /// [`Budget::FindCount`] and the values of [`Budget::OpenMailboxes`] are always told by name.
    Exceeded(Budget),
}
