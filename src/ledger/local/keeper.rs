//! [`keep`]: looks after a queue in time, whether or not the calls at its head are polled.
//!
//! The first calls of each list have timers of their own, and that is enough as long as one of them is polled. A whole batch of calls
//! may stand at the head while nobody polls them, such as those of a `buffer_unordered` whose consumer is busy. Then this task
//! does what is due for those behind them.

use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::LocalLedger;

/// Starts the keeper of `ledger`, which has asked for one.
pub(super) fn start(ledger: &Arc<LocalLedger>) {
    let keeper = Keeper {
        ledger: Arc::downgrade(ledger),
        on: true,
    };
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(keep(keeper, Arc::clone(&ledger.hurry)));
    }
}

/// The keeper of a ledger. Once it is dropped, with its runtime for example, the next call that waits starts another.
struct Keeper {
    ledger: Weak<LocalLedger>,
    /// Whether it is on duty. There may be another once it is not.
    on: bool,
}

impl Keeper {
    /// Does what is due. Returns when to look again, if there is anything left to look after.
    fn look(&mut self) -> Option<Instant> {
        let ledger = self.ledger.upgrade()?;
        let next = ledger.with(|state, config| state.keep(Instant::now(), config));
        self.on = next.is_some();
        next
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.upgrade().filter(|_| self.on) {
            ledger.state.lock().keeper = None;
        }
    }
}

async fn keep(mut keeper: Keeper, hurry: Arc<Notify>) {
    while let Some(next) = keeper.look() {
        if next <= Instant::now() {
            tokio::task::yield_now().await;
        } else {
            // Either is a reason to look.
            let _ = timeout_at(next, hurry.notified()).await;
        }
    }
}
