//! How many responses have come whose bodies hold a permit and are not being read: what a call that waits for long is told of.
//!
//! Each thread counts for itself, so that a call pays for no locked operation. Who asks adds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::principal::Charge;

/// Principals share a counter by their hash: a log line may count another one's.
const COUNTERS: usize = 1024;

/// What one thread has counted. A response may come on one and be read on another: each of them may be off, their sum is not.
#[derive(Debug)]
struct Counts([AtomicU32; COUNTERS]);

/// What threads have counted that are gone.
static GONE: Counts = Counts::new();
static THREADS: Mutex<Vec<Arc<Counts>>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: Mine = Mine::new();
}

/// What this thread has counted, until it is gone.
#[derive(Debug)]
struct Mine(Arc<Counts>);

impl Counts {
    const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; COUNTERS])
    }

    /// Which counter. Tables use the low and the highest bits of the hash.
    fn of_hash(&self, hash: u64) -> &AtomicU32 {
        &self.0[index(hash)]
    }
}

impl Mine {
    fn new() -> Self {
        let mine = Arc::new(Counts::new());
        THREADS.lock().push(Arc::clone(&mine));
        Self(mine)
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        let mut threads = THREADS.lock();
        threads.retain(|counts| !Arc::ptr_eq(counts, &self.0));
        for (gone, mine) in GONE.0.iter().zip(&self.0.0) {
            gone.fetch_add(mine.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

fn index(hash: u64) -> usize {
    (hash >> 16) as usize % COUNTERS
}

/// Counts one response more or less for each principal of `charges`, whose charges stand together.
// On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
#[inline]
pub(super) fn count(charges: &[Charge], unread: bool) {
    let by = if unread { 1 } else { u32::MAX };
    match charges {
        [charge] => add(charge.principal().hash64(), by),
        charges => charges
            .chunk_by(|one, other| one.principal() == other.principal())
            .filter_map(|of_one| of_one.first())
            .for_each(|charge| add(charge.principal().hash64(), by)),
    }
}

#[inline]
fn add(hash: u64, by: u32) {
    let counted = MINE.try_with(|mine| {
        // No other thread writes here.
        let counter = mine.0.of_hash(hash);
        let count = counter.load(Ordering::Relaxed).wrapping_add(by);
        counter.store(count, Ordering::Relaxed);
    });
    if counted.is_err() {
        GONE.of_hash(hash).fetch_add(by, Ordering::Relaxed);
    }
}

/// The responses of a principal, by its hash, that nobody reads now.
pub(super) fn of_hash(hash: u64) -> u32 {
    let threads = THREADS.lock();
    let counts = threads.iter().map(|counts| &**counts).chain([&GONE]);
    let counts = counts.map(|counts| counts.of_hash(hash).load(Ordering::Relaxed));
    let sum = counts.fold(0, u32::wrapping_add);
    // One that is read on another thread just now may be missing twice.
    u32::try_from(sum as i32).unwrap_or_default()
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

    #[test]
    fn threads_that_are_gone_leave_one_sum() {
        let before = THREADS.lock().len();
        let ends = || {
            let counts = || add(Principal::new("passer-by").hash64(), 0);
            thread::spawn(counts).join().unwrap();
        };
        (0..1_000).for_each(|_| ends());
        assert!(THREADS.lock().len() < before + 500);
    }
}
