//! [`NoCalls`]: the ledger of a limit of 0.

use std::sync::Arc;

use crate::ledger::{Acquire, AcquireError, AcquireRequest, Admission, End, Ledger, Signal};

/// Refuses every call, so that a limit of 0 is an error and not a call that waits for ever.
#[derive(Debug)]
pub(super) struct NoCalls;

impl Ledger for NoCalls {
    fn acquire(self: Arc<Self>, _: AcquireRequest) -> Acquire {
        Box::pin(std::future::ready(Err(AcquireError::ZeroLimit)))
    }

    fn report(&self, _: &Admission, _: Signal) {}

    fn release(&self, _: &Admission, _: End) {}
}
