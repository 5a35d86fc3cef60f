//! [`Accounts`]: notices that calls without a caller come from several accounts.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::wiring::Warning;

/// Calls with several `Authorization` values, none of which says whose it is.
static SEVERAL_ACCOUNTS: Warning = Warning::new(
    "calls carry different `Authorization` values and no `Caller`, so all are charged to one account: if they are several \
     accounts', put a `tower_ews::extensions::Caller` into the extensions of each request; if they are one account's, name it \
     with `EwsStack::caller` or `EwsCharges::caller`",
);

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
        if SEVERAL_ACCOUNTS.was_said() {
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
