//! The calls that are under way, for the page.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use tower_ews::extensions::Caller;

/// The calls between their request's last byte and the head of their response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running(Arc<Mutex<Calls>>);

#[derive(Debug, Default)]
struct Calls {
    next: u64,
    by_age: BTreeMap<u64, Call>,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) operation: &'static str,
    pub(crate) members: usize,
    pub(crate) since: Instant,
}

/// Takes its call out when it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    running: Running,
    number: u64,
}

impl Running {
    pub(crate) fn begin(&self, caller: &Caller, operation: &'static str, members: usize) -> Entry {
        let call = Call {
            caller: caller.clone(),
            operation,
            members,
            since: Instant::now(),
        };
        let calls = &mut *self.0.lock();
        let number = calls.next;
        calls.next += 1;
        calls.by_age.insert(number, call);
        Entry {
            running: self.clone(),
            number,
        }
    }

    /// How many there are, and the oldest of them.
    pub(crate) fn oldest(&self, most: usize) -> (usize, Vec<Call>) {
        let calls = self.0.lock();
        (
            calls.by_age.len(),
            calls.by_age.values().take(most).cloned().collect(),
        )
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.0.lock().by_age.remove(&self.number);
    }
}
