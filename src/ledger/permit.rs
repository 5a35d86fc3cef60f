//! [`Permit`]: what was acquired from a ledger, given back exactly once.

use std::fmt;
use std::sync::Arc;

use super::unread::Unread;
use super::{AcquireError, AcquireRequest, Admission, Ledger, Signal};
use crate::principal::Budget;

/// How a permit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The response ended. If no refusal was reported for it, it counts as a success.
    Complete,
    /// The call ended otherwise. It tells nothing about its budgets.
    Dropped,
    /// The call was never sent.
    NotSent,
    /// The call was sent and given up before a response came. The server may still be at work on it.
    Unanswered,
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
    end: End,
    /// From its response on.
    unread: Option<Unread>,
}

impl Permit {
    /// Creates the permit for what `ledger` has admitted. The ledger gets it back exactly once.
    pub fn new(ledger: Arc<dyn Ledger>, admission: Admission) -> Self {
        Self {
            ledger,
            admission,
            end: End::Dropped,
            unread: None,
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
        self.admission = rest;
        Some(Self::new(Arc::clone(&self.ledger), taken))
    }

    /// Sets what the ledger is told when the permit is dropped. Default: [`End::Dropped`].
    ///
    /// A call that was sent sets [`End::Unanswered`] first, and another end once its response has come. From then on the permit counts
    /// as held by a body that is not read, which the log tells calls that wait for long.
    #[inline]
    pub fn set_end(&mut self, end: End) {
        if self.end == End::Unanswered {
            self.unread = Unread::of(self.admission.charges());
        }
        self.end = end;
    }

    /// Gives it back because the response has ended.
    pub fn complete(mut self) {
        self.end = End::Complete;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.ledger.release(&self.admission, self.end);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.admission).finish()
    }
}
