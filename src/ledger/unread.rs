//! How many responses have come whose bodies still hold a permit: what a call that waits for long is told of.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::principal::Charges;

/// Principals share a counter by their hash: a log line may count another one's, and a call pays two additions.
const COUNTERS: usize = 1024;

static UNREAD: [AtomicU32; COUNTERS] = [const { AtomicU32::new(0) }; COUNTERS];

/// Which counter. Tables use the low and the highest bits of the hash.
fn index(hash: u64) -> u16 {
    (hash >> 16) as u16 % COUNTERS as u16
}

fn counter(index: u16) -> &'static AtomicU32 {
    &UNREAD[usize::from(index) % COUNTERS]
}

/// Counts one response of the call's first principal until it is dropped. By its index, so that a permit is small.
#[derive(Debug)]
pub(super) struct Unread(u16);

impl Unread {
    #[inline]
    pub(super) fn of(charges: &Charges) -> Option<Self> {
        let index = index(charges.first()?.principal().hash64());
        counter(index).fetch_add(1, Ordering::Relaxed);
        Some(Self(index))
    }
}

impl Drop for Unread {
    #[inline]
    fn drop(&mut self) {
        counter(self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The responses of a principal, by its hash, that are not read to their end.
pub(super) fn of_hash(hash: u64) -> u32 {
    counter(index(hash)).load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::principal::Principal;

    #[test]
    fn few_principals_share_a_counter() {
        let counters = (0..1000).map(|n| {
            let hash = Principal::new(n.to_string()).hash64();
            index(hash)
        });
        let counters: std::collections::HashSet<_> = counters.collect();
        assert!(counters.len() > 400, "{}", counters.len());
    }

    #[test]
    fn a_response_that_ends_on_another_thread_is_counted_once() {
        // More than all other tests have at a time.
        const MANY: u32 = 10_000;
        let amy = Principal::new("amy");
        let charges = Charges::from(amy.clone());
        let hash = amy.hash64();
        let comes = move || -> Vec<_> { (0..MANY).filter_map(|_| Unread::of(&charges)).collect() };
        let held = thread::spawn(comes).join().unwrap();
        assert!(of_hash(hash) >= MANY);
        thread::spawn(move || drop(held)).join().unwrap();
        assert!(of_hash(hash) < MANY);
    }
}
