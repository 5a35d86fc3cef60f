//! [`Warnings`]: says what is wired wrongly, once for each layer.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::errors::describe;

/// What a layer and all its services have warned of.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    no_ledger: AtomicBool,
    compressed: AtomicBool,
    not_sent: AtomicBool,
}

impl Warnings {
    /// The server set a wait, but the layer has no ledger to report it to.
    pub(super) fn no_ledger(&self, operation: &str) {
        if is_first(&self.no_ledger) {
            tracing::warn!(
                target: "tower_ews::wiring",
                operation,
                "the server asks to wait, but this layer has no ledger, so calls that wait for a permit further in are \
                 still sent: pass the ledger of ConcurrencyByPrincipal to ServerBusyBackoffLayer::ledger"
            );
        }
    }

    /// Nothing could be sent. A server that is away for a time is waited for, and so is a URL that is wrong.
    pub(super) fn not_sent(&self, operation: &str, error: &(dyn Error + 'static)) {
        if is_first(&self.not_sent) {
            tracing::warn!(
                operation,
                error = &*describe(error),
                "a request could not be sent, and is tried again until its deadline: check the URL and the client if this \
                 goes on, and set a Deadline for calls that must not wait for the server"
            );
        }
    }

    /// The body of a response had to be read, but is compressed.
    pub(super) fn compressed(&self, operation: &str) {
        if is_first(&self.compressed) {
            tracing::warn!(
                target: "tower_ews::wiring",
                operation,
                "a response cannot be read because it is compressed, so what it says goes unnoticed: put a \
                 decompressing layer inside of ServerBusyBackoff, such as tower-http's DecompressionLayer"
            );
        }
    }
}

fn is_first(warned: &AtomicBool) -> bool {
    !warned.load(Ordering::Relaxed) && !warned.swap(true, Ordering::Relaxed)
}
