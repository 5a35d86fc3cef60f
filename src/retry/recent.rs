//! [`Recent`]: a bounded set of what was seen lately.

use std::hash::{BuildHasher, Hash};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::DefaultHashBuilder;

/// How many are remembered: 64 KiB of them.
const KNOWN: usize = 8 * 1024;

/// A set of keys, as hashes. A place is used anew by whoever comes later, so that what is kept is bounded and nobody waits for
/// a lock.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    table: OnceLock<Box<[AtomicU64]>>,
    hasher: DefaultHashBuilder,
}

impl Recent {
    /// Returns the hash of `key`, which is worth as much as the key.
    pub(crate) fn key(&self, key: impl Hash) -> u64 {
        // An empty place is zero.
        self.hasher.hash_one(key).max(1)
    }

    fn place(&self, key: u64) -> Option<&AtomicU64> {
        let at = usize::try_from(key % KNOWN as u64).unwrap_or_default();
        self.table
            .get_or_init(|| (0..KNOWN).map(|_| AtomicU64::new(0)).collect())
            .get(at)
    }

    /// Adds a key.
    pub(crate) fn note(&self, key: u64) {
        if let Some(place) = self.place(key) {
            // On the hot path: a place that is right already is only read.
            if place.load(Ordering::Relaxed) != key {
                place.store(key, Ordering::Relaxed);
            }
        }
    }

    /// Returns whether the key is in the set.
    pub(crate) fn knows(&self, key: u64) -> bool {
        self.place(key)
            .is_some_and(|place| place.load(Ordering::Relaxed) == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_from_another() {
        let recent = Recent::default();
        let key = recent.key(("a", Some("svc"), 7));
        assert!(!recent.knows(key));
        recent.note(key);
        assert!(recent.knows(key) && recent.knows(recent.key(("a", Some("svc"), 7))));
        for other in [
            ("b", Some("svc"), 7),
            ("a", Some("other"), 7),
            ("a", Some("svc"), 8),
            ("a", None, 7),
        ] {
            assert!(!recent.knows(recent.key(other)), "{other:?}");
        }
        // Whoever comes later takes the place.
        let same_place = key.wrapping_add(KNOWN as u64);
        recent.note(same_place);
        assert!(recent.knows(same_place) && !recent.knows(key));
    }
}
