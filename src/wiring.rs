//! Warnings about layers that are put together in a way that cannot work as meant. Each is logged once, and names the cure.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// A warning that one process logs once.
pub(crate) struct Warning {
    text: &'static str,
    said: AtomicBool,
}

/// Calls with several `Authorization` values, none of which says whose it is.
pub(crate) static SEVERAL_ACCOUNTS: Warning = Warning::new(
    "calls carry different `Authorization` values and no `Caller`, so all are charged to one account: if they are several \
     accounts', put a `tower_ews::extensions::Caller` into the extensions of each request; if they are one account's, name it \
     with `EwsStack::caller` or `EwsCharges::caller`",
);

/// A layer reports to one ledger, and a layer further in acquires from another one.
pub(crate) static TWO_LEDGERS: Warning = Warning::new(
    "a response was to be reported to one ledger, but its call was admitted by another one, so refusals hold back nobody who \
     waits: give `ServerBusyBackoffLayer::ledger` and `ConcurrencyByPrincipalLayer::new` clones of one `Arc<dyn Ledger>`",
);

/// A layer reports to a ledger, and nothing further in acquires from any.
pub(crate) static IDLE_LEDGER: Warning = Warning::new(
    "a response was to be reported to a ledger from which its call has acquired nothing, so refusals hold back nobody who \
     waits: put `ConcurrencyByPrincipal` with the same ledger inside of `ServerBusyBackoff`",
);

/// `ClientRequestId` stands outside of a layer that sends again.
pub(crate) static ONE_ID_FOR_ALL_ATTEMPTS: Warning = Warning::new(
    "several attempts of a call were sent with one `client-request-id`: put `ClientRequestId` inside of the layer that sends \
     again, such as `ServerBusyBackoff`",
);

impl Warning {
    const fn new(text: &'static str) -> Self {
        Self {
            text,
            said: AtomicBool::new(false),
        }
    }

    /// Logs it, unless that was done before.
    #[cold]
    #[inline(never)]
    pub(crate) fn say(&self) {
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "tower_ews::wiring", "{}", self.text);
        }
    }
}

/// Tells whether calls without a [`Caller`](crate::extensions::Caller) look like those of several accounts.
///
/// It keeps a keyed hash of the first `Authorization` value that it saw, never the value.
pub(crate) struct Accounts {
    key: RandomState,
    /// Zero as long as none was seen.
    first: AtomicU64,
}

impl Accounts {
    pub(crate) fn new() -> Self {
        Self {
            key: RandomState::new(),
            first: AtomicU64::new(0),
        }
    }

    /// Takes note of a call that does not say whose it is.
    pub(crate) fn see(&self, headers: &HeaderMap) {
        if SEVERAL_ACCOUNTS.said.load(Ordering::Relaxed) {
            return;
        }
        let Some(value) = headers.get(AUTHORIZATION) else {
            return;
        };
        let hash = self.key.hash_one(value.as_bytes()).max(1);
        let seen = self
            .first
            .compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed);
        if seen.is_err_and(|first| first != hash) {
            SEVERAL_ACCOUNTS.say();
        }
    }
}
