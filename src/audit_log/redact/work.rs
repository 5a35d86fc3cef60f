//! How much is read in tests: bytes that a reader passed over, each time.

use std::cell::Cell;

thread_local! {
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn add(bytes: usize) {
    BYTES.set(BYTES.get() + bytes as u64);
}

/// Returns how many bytes were read while that ran.
pub(super) fn during(run: impl FnOnce()) -> u64 {
    let before = BYTES.get();
    run();
    BYTES.get() - before
}
