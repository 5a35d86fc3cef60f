//! Counts the work of tests: comparisons and hashes of principals, and looks at rules, of this thread.

use std::cell::Cell;

thread_local! {
    static WORK: Cell<u64> = const { Cell::new(0) };
}

/// Counts one step.
pub(crate) fn add() {
    WORK.set(WORK.get() + 1);
}

/// How many steps `work` takes, and what it returns.
pub(crate) fn during<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = WORK.get();
    let out = work();
    (WORK.get() - before, out)
}
