//! [`Warnings`]: says what is wired wrongly, once for each layer.

use std::sync::atomic::{AtomicBool, Ordering};

/// What a layer and all its services have warned of.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    no_ledger: AtomicBool,
    compressed: AtomicBool,
}

impl Warnings {
    /// The server set a wait, but the layer has no ledger to report it to.
    pub(super) fn no_ledger(&self, operation: &str) {
        if is_first(&self.no_ledger) {
            tracing::warn!(
                operation,
                "the server asks to wait, but this layer has no ledger, so calls that wait for a permit further in are \
                 still sent: pass the ledger of ConcurrencyByPrincipal to ServerBusyBackoffLayer::ledger"
            );
        }
    }

    /// The body of a response had to be read, but is compressed.
    pub(super) fn compressed(&self, operation: &str) {
        if is_first(&self.compressed) {
            tracing::warn!(
                operation,
                "a response cannot be read because it is compressed, so a refusal in it goes unnoticed: put a \
                 decompressing layer inside of ServerBusyBackoff, such as tower-http's DecompressionLayer"
            );
        }
    }
}

fn is_first(warned: &AtomicBool) -> bool {
    !warned.load(Ordering::Relaxed) && !warned.swap(true, Ordering::Relaxed)
}
