//! [`Ledger`]: hands out permits and takes in signals. [`Permit`]: what was acquired from one, given back exactly once.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::error::AcquireError;
use super::request::{AcquireRequest, Admission};
use super::signal::{End, Signal};
use super::snapshot::Snapshot;
use super::unread;
use crate::principal::Budget;

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
/// /// Four calls at a time of each principal. A call counts for that of its first charge.
/// #[derive(Debug, Default)]
/// struct FourEach {
///     principals: Mutex<HashMap<String, Arc<Semaphore>>>,
///     admitted: AtomicU64,
/// }
///
/// impl FourEach {
///     fn of(&self, request: &AcquireRequest) -> Arc<Semaphore> {
///         let key = request.charges().first().map(|charge| charge.principal().to_string());
///         let mut principals = self.principals.lock().unwrap();
///         principals.entry(key.unwrap_or_default()).or_insert_with(|| Arc::new(Semaphore::new(4))).clone()
///     }
/// }
///
/// impl Ledger for FourEach {
///     fn acquire(self: Arc<Self>, request: AcquireRequest) -> Acquire {
///         Box::pin(async move {
///             self.of(&request).acquire().await.map_err(AcquireError::unavailable)?.forget();
///             let sequence = self.admitted.fetch_add(1, Relaxed);
///             let ticket = request.ticket().unwrap_or(sequence);
///             Ok(Permit::new(self, Admission::new(request, ticket, sequence)))
///         })
///     }
///
///     fn report(&self, _: &Admission, _: Signal) {}
///
///     fn release(&self, admission: &Admission, _: End) {
///         self.of(admission.request()).add_permits(1);
///     }
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let ledger: Arc<dyn Ledger> = Arc::new(FourEach::default());
/// # let permit = ledger.acquire(AcquireRequest::new(tower_ews::principal::Principal::new("a"))).await.unwrap();
/// # permit.complete();
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

/// What was acquired from a ledger. It is given back when it is completed or dropped.
///
/// ```
/// use std::sync::Arc;
/// use tower_ews::ledger::{AcquireRequest, LocalLedger, Permit};
/// use tower_ews::principal::Principal;
///
/// let ledger = Arc::new(LocalLedger::in_flight(1));
/// let request = AcquireRequest::new(Principal::new("contoso"));
/// let permit = Permit::try_acquire(ledger.clone(), &request).unwrap();
/// assert_eq!(permit.admission().charges().len(), 1);
/// permit.complete();
/// assert!(Permit::try_acquire(ledger, &request).is_some());
/// ```
#[must_use = "dropping the permit gives it back at once"]
pub struct Permit {
    ledger: Arc<dyn Ledger>,
    admission: Admission,
    /// Its response has come, and nobody reads it now.
    unread: bool,
    end: End,
}

impl Permit {
    /// Creates the permit for what `ledger` has admitted. The ledger gets it back exactly once.
    pub fn new(ledger: Arc<dyn Ledger>, admission: Admission) -> Self {
        Self {
            ledger,
            admission,
            unread: false,
            end: End::Dropped,
        }
    }

    /// Acquires every charge immediately, or returns `None`.
    pub fn try_acquire(ledger: Arc<dyn Ledger>, request: &AcquireRequest) -> Option<Self> {
        let admission = ledger.try_acquire(request.clone()).ok()?;
        Some(Self::new(ledger, admission))
    }

    /// Waits until every charge can be acquired at once.
    ///
    /// # Errors
    ///
    /// Says why the call did not get its permit. Nothing is held then.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the queue.
    pub async fn acquire(
        ledger: Arc<dyn Ledger>,
        request: AcquireRequest,
    ) -> Result<Self, AcquireError> {
        match ledger.try_acquire(request) {
            Ok(admission) => Ok(Self::new(ledger, admission)),
            Err(request) => ledger.acquire(request).await,
        }
    }

    /// The same permit, given back to `ledger`.
    #[cfg(feature = "redis")]
    pub(super) fn of_ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.ledger = ledger;
        self
    }

    /// The ledger that it is given back to.
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.ledger
    }

    /// What was acquired.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Tells the ledger what a response said.
    pub fn report(&self, signal: Signal) {
        self.ledger.report(&self.admission, signal);
    }

    /// Splits off the charges on `budget`, to be kept longer than the call. None if it has no such charges.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tower_ews::ledger::{AcquireRequest, Limit, LocalLedger, Permit};
    /// use tower_ews::principal::{Budget, Charge, Charges, Principal};
    ///
    /// let subscriptions = Budget::Custom(1);
    /// let ledger = LocalLedger::builder()
    ///     .budget(Budget::Concurrency, Limit::InFlight(1))
    ///     .budget(subscriptions, Limit::InFlight(20))
    ///     .build();
    /// let amy = Principal::account("amy@contoso.com");
    /// let charges: Charges = [
    ///     Charge::new(amy.clone(), Budget::Concurrency, 1),
    ///     Charge::new(amy, subscriptions, 1),
    /// ]
    /// .into_iter()
    /// .collect();
    ///
    /// let mut call = Permit::try_acquire(Arc::new(ledger), &AcquireRequest::new(charges)).unwrap();
    /// let subscription = call.split(subscriptions).unwrap();
    /// call.complete();
    /// // The subscription lasts until it is dropped.
    /// assert_eq!(subscription.admission().charges().len(), 1);
    /// ```
    #[must_use = "dropping the permit that was split off gives it back at once"]
    pub fn split(&mut self, budget: Budget) -> Option<Self> {
        let (rest, taken) = self.ledger.split(&self.admission, budget)?;
        // It is counted for the principals that are left.
        let unread = self.unread;
        self.set_unread(false);
        self.admission = rest;
        self.set_unread(unread);
        Some(Self::new(Arc::clone(&self.ledger), taken))
    }

    /// Sets what the ledger is told when the permit is dropped. Default: [`End::Dropped`].
    #[inline]
    pub fn set_end(&mut self, end: End) {
        self.end = end;
    }

    /// The response of its call has come: dropped now, the permit ends as [`End::Dropped`]. From here on it counts as held by a body
    /// that is not read, which the log tells calls that wait for long.
    #[inline]
    pub fn set_responded(&mut self) {
        self.end = End::Dropped;
        self.set_unread(true);
    }

    /// Whether the body waits for its reader, and not the reader for the body.
    #[inline]
    pub(crate) fn set_unread(&mut self, unread: bool) {
        if self.unread != unread {
            self.unread = unread;
            unread::count(self.admission.charges(), unread);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_unread(&self) -> bool {
        self.unread
    }

    /// Gives it back because the response has ended.
    pub fn complete(mut self) {
        self.end = End::Complete;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.set_unread(false);
        self.ledger.release(&self.admission, self.end);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.admission).finish()
    }
}
