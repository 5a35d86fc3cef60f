//! [`GrantedMemory`]: whom the server has let in before, so that a refusal can be told from a mishap.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Request;

use super::endpoint::endpoint_of;
use crate::extensions::Caller;

/// How many are remembered: 64 KiB of them.
const KNOWN: usize = 8 * 1024;

/// The principals of one layer that have succeeded, as hashes. A place is used anew by whoever comes later, so that what is
/// kept is bounded and nobody waits for a lock.
#[derive(Debug, Default)]
pub(super) struct GrantedMemory {
    table: OnceLock<Box<[AtomicU64]>>,
    hasher: RandomState,
}

impl GrantedMemory {
    /// Returns the key of the account that makes `request` for the principal `who`.
    pub(super) fn key<B>(&self, request: &Request<B>, who: u64) -> u64 {
        let account = request.extensions().get::<Caller>().map(Caller::name);
        let endpoint = endpoint_of(request);
        // An empty place is zero.
        self.hasher
            .hash_one((endpoint.as_str(), account, who))
            .max(1)
    }

    fn place(&self, key: u64) -> Option<&AtomicU64> {
        let at = usize::try_from(key % KNOWN as u64).unwrap_or_default();
        self.table
            .get_or_init(|| (0..KNOWN).map(|_| AtomicU64::new(0)).collect())
            .get(at)
    }

    /// Remembers that it was let in.
    pub(super) fn note(&self, key: u64) {
        if let Some(place) = self.place(key) {
            // On the hot path of calls that impersonate: a place that is right already is only read.
            if place.load(Ordering::Relaxed) != key {
                place.store(key, Ordering::Relaxed);
            }
        }
    }

    /// Returns whether it was let in before.
    pub(super) fn knows(&self, key: u64) -> bool {
        self.place(key)
            .is_some_and(|place| place.load(Ordering::Relaxed) == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_from_another() {
        let memory = GrantedMemory::default();
        let request = |host: &str, account: &str| {
            let mut request = Request::post(format!("https://{host}/EWS/Exchange.asmx"));
            let extensions = request.extensions_mut().unwrap();
            extensions.insert(Caller::new(account));
            request.body(()).unwrap()
        };
        let key = |host, account, who| memory.key(&request(host, account), who);
        let amy = key("a", "svc", 7);
        assert!(!memory.knows(amy));
        memory.note(amy);
        assert!(memory.knows(amy) && memory.knows(key("a", "svc", 7)));
        for other in [key("b", "svc", 7), key("a", "other", 7), key("a", "svc", 8)] {
            assert!(!memory.knows(other));
        }
        // Whoever comes later takes the place.
        let same_place = amy.wrapping_add(KNOWN as u64);
        memory.note(same_place);
        assert!(memory.knows(same_place) && !memory.knows(amy));
    }
}
