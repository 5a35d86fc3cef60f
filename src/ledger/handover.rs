//! [`AcquiredPermit`]: a permit that a layer further out has acquired for an attempt.

use std::fmt;
use std::sync::Arc;

use http::Extensions;
use parking_lot::Mutex;

use super::permit::{Ledger, Permit};
use super::signal::End;
use crate::wiring::POOL_LEDGER;

/// A request extension: the permit of this attempt, which a layer further out has acquired already.
///
/// Whoever acquires permits takes it over, instead of asking the ledger once more. Clones share one permit: it is taken once.
#[derive(Clone)]
pub(crate) struct AcquiredPermit(Arc<Mutex<Option<Permit>>>);

impl AcquiredPermit {
    pub(crate) fn new(permit: Permit) -> Self {
        Self(Arc::new(Mutex::new(Some(permit))))
    }

    /// Takes the permit, unless it was taken.
    pub(crate) fn take(&self) -> Option<Permit> {
        self.0.lock().take()
    }

    /// Takes the permit of an attempt over, if it has one of `ledger`. One of another ledger is given back.
    pub(crate) fn take_over(
        extensions: &mut Extensions,
        ledger: &Arc<dyn Ledger>,
    ) -> Option<Permit> {
        let acquired = extensions.remove::<Self>()?;
        let mut permit = acquired.take()?;
        // Nothing was sent with it yet.
        permit.set_end(End::NotSent);
        if !Arc::ptr_eq(permit.ledger(), ledger) {
            POOL_LEDGER.say();
            return None;
        }
        Some(permit)
    }
}

impl fmt::Debug for AcquiredPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AcquiredPermit")
            .field(&*self.0.lock())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AcquireRequest, LocalLedger};
    use crate::principal::Principal;

    #[test]
    fn a_permit_is_taken_over_by_its_own_ledger_once() {
        let ours = Arc::new(LocalLedger::in_flight(1));
        let as_ledger = |ledger: &Arc<LocalLedger>| -> Arc<dyn Ledger> { ledger.clone() };
        let acquire = || {
            let request = AcquireRequest::new(Principal::account("svc"));
            Permit::try_acquire(ours.clone(), &request)
        };
        let mut extensions = Extensions::new();
        assert!(AcquiredPermit::take_over(&mut extensions, &as_ledger(&ours)).is_none());

        extensions.insert(AcquiredPermit::new(acquire().expect("a free permit")));
        let taken = AcquiredPermit::take_over(&mut extensions, &as_ledger(&ours));
        assert!(taken.is_some() && acquire().is_none());
        assert!(AcquiredPermit::take_over(&mut extensions, &as_ledger(&ours)).is_none());
        drop(taken);

        extensions.insert(AcquiredPermit::new(acquire().expect("it was given back")));
        let other = Arc::new(LocalLedger::in_flight(1));
        assert!(AcquiredPermit::take_over(&mut extensions, &as_ledger(&other)).is_none());
        assert!(acquire().is_some(), "one of another ledger is given back");
    }
}
