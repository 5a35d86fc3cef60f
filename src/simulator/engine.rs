//! The server's state and its clock, and the place of a call in flight.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use std::collections::HashMap;

use super::account::{Account, AccountRefusal};
use super::affinity::Affinity;
use super::budget::{Budgets, CallKind, Payer};
use super::faults::Faults;
use super::mailbox::Store;
use super::policy::Policy;
use super::report::Counters;
use super::subscription::Subscriptions;

/// The server.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) policy: Policy,
    pub(super) speed: f64,
    pub(super) accounts: Vec<Account>,
    pub(super) anonymous: Option<String>,
    pub(super) threads: Option<Semaphore>,
    pub(super) epoch: OnceLock<Instant>,
    pub(super) state: Mutex<State>,
}

/// All that changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) store: Store,
    pub(super) budgets: Budgets,
    pub(super) subscriptions: Subscriptions,
    pub(super) affinity: Affinity,
    /// The accounts that do not work any more.
    pub(super) refused: HashMap<String, AccountRefusal>,
    pub(super) faults: Faults,
    pub(super) counters: Counters,
    pub(super) rng: fastrand::Rng,
    /// Calls at the server, queue included.
    pub(super) present: u32,
    pub(super) number: u64,
}

/// A call's place at the server. It leaves when this is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    engine: Arc<Engine>,
    pub(super) payers: Vec<Payer>,
    kind: CallKind,
    pub(super) rows: u32,
}

impl InFlight {
    /// The place of a call that the budgets have let in.
    pub(super) fn new(engine: Arc<Engine>, payers: Vec<Payer>, kind: CallKind) -> Self {
        Self {
            engine,
            payers,
            kind,
            rows: 0,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.engine.state.lock();
        state.present = state.present.saturating_sub(1);
        state.budgets.leave(&self.payers, self.kind, self.rows);
    }
}

impl Engine {
    pub(super) fn now(&self) -> Instant {
        let now = Instant::now();
        now.max(*self.epoch.get_or_init(|| now))
    }

    pub(super) fn since_start(&self, at: Instant) -> Duration {
        self.epoch
            .get()
            .map_or(Duration::ZERO, |epoch| at.saturating_duration_since(*epoch))
    }

    /// Policy time since the start.
    pub(super) fn policy_time(&self, at: Instant) -> Duration {
        scaled(self.since_start(at), self.speed)
    }

    /// A time of the policy as it is lived.
    pub(super) fn real(&self, time: Duration) -> Duration {
        scaled(time, 1.0 / self.speed)
    }

    pub(super) async fn pause_until(&self, due: Instant) {
        if due > Instant::now() {
            sleep_until(due).await;
        }
    }
}

/// No time is longer than this, whatever a policy says: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

pub(super) fn scaled(time: Duration, factor: f64) -> Duration {
    // Rounded, so that whole milliseconds stay whole under a speed that divides them.
    let nanos = (time.min(LONGEST).as_secs_f64() * factor.max(0.0) * 1e9).round();
    Duration::try_from_secs_f64(nanos / 1e9)
        .unwrap_or(LONGEST)
        .min(LONGEST)
}

pub(super) fn later(at: Instant, time: Duration) -> Instant {
    at.checked_add(time).unwrap_or(at)
}
