//! How many responses have come whose bodies hold a permit and are not being read: what a call that waits for long is told of.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::principal::Charge;

/// Principals share a counter by their hash: a log line may count another one's, and a call pays two additions.
const COUNTERS: usize = 1024;

static UNREAD: [AtomicU32; COUNTERS] = [const { AtomicU32::new(0) }; COUNTERS];

/// Tables use the low and the highest bits of the hash.
fn index(hash: u64) -> usize {
    (hash >> 16) as usize % COUNTERS
}

/// Counts one response more or less for each principal of `charges`, whose charges stand together.
// On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
#[inline]
pub(super) fn count(charges: &[Charge], unread: bool) {
    match charges {
        [charge] => add(charge, unread),
        charges => count_each(charges, unread),
    }
}

#[cold]
fn count_each(charges: &[Charge], unread: bool) {
    charges
        .chunk_by(|one, other| one.principal() == other.principal())
        .filter_map(|of_one| of_one.first())
        .for_each(|charge| add(charge, unread));
}

#[inline]
fn add(charge: &Charge, unread: bool) {
    let by = if unread { 1 } else { u32::MAX };
    UNREAD[index(charge.principal().hash64())].fetch_add(by, Ordering::Relaxed);
}

/// The responses of a principal, by its hash, that nobody reads now.
pub(super) fn of_hash(hash: u64) -> u32 {
    UNREAD[index(hash)].load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::principal::{Budget, Principal};

    #[test]
    fn few_principals_share_a_counter() {
        let counters = (0..1000).map(|n| {
            let hash = Principal::new(n.to_string()).hash64();
            index(hash)
        });
        let counters: std::collections::HashSet<_> = counters.collect();
        assert!(counters.len() > 400, "{}", counters.len());
    }

    /// More than all other tests have at a time.
    const MANY: u32 = 10_000;

    #[test]
    fn a_response_that_ends_on_another_thread_is_counted_once() {
        let amy = Principal::new("amy");
        let charges = [Charge::new(amy.clone(), Budget::Concurrency, 1)];
        let of_amy = || of_hash(amy.hash64());
        let all = |unread| {
            let charges = charges.clone();
            let counts = move || (0..MANY).for_each(|_| count(&charges, unread));
            // As it runs, and once it is gone.
            thread::spawn(counts).join().unwrap();
        };
        all(true);
        assert!(of_amy() >= MANY);
        all(false);
        assert!(of_amy() < MANY);
        (0..MANY).for_each(|_| count(&charges, true));
        assert!(of_amy() >= MANY);
        all(false);
        assert!(of_amy() < MANY);
    }

    #[test]
    fn each_principal_of_a_call_is_counted_once() {
        let of = |name: &str, budget| Charge::new(Principal::new(name), budget, 1);
        let charges = [
            of("one", Budget::Concurrency),
            of("one", Budget::SyncCalls),
            of("two", Budget::Concurrency),
        ];
        let counted = |name: &str| of_hash(Principal::new(name).hash64()) / MANY;
        (0..MANY).for_each(|_| count(&charges, true));
        assert_eq!((counted("one"), counted("two")), (1, 1));
        (0..MANY).for_each(|_| count(&charges, false));
        assert_eq!((counted("one"), counted("two")), (0, 0));
    }
}
