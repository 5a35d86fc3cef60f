//! What a [`ServerBusyBackoffLayer`](super::ServerBusyBackoffLayer) can be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::backoff::Backoff;
use crate::ledger::Ledger;

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) ledger: Option<Arc<dyn Ledger>>,
    pub(super) deadline: Duration,
    pub(super) backoff: Backoff,
    pub(super) max_prefix: usize,
    pub(super) max_buffered: usize,
    pub(super) seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ledger: None,
            deadline: Duration::from_secs(15 * 60),
            backoff: Backoff {
                base: Duration::from_millis(500),
                cap: Duration::from_secs(60),
            },
            max_prefix: 64 * 1024,
            max_buffered: 1024 * 1024,
            seed: None,
        }
    }
}

/// What all clones of a service share.
#[derive(Debug)]
pub(super) struct Shared<C> {
    pub(super) classifier: Arc<C>,
    pub(super) config: Config,
    calls: AtomicU64,
}

impl<C> Shared<C> {
    pub(super) fn new(classifier: Arc<C>, config: Config) -> Self {
        Self {
            classifier,
            config,
            calls: AtomicU64::new(0),
        }
    }

    /// Random numbers for one call: with a seed, the n-th call has the same ones in each run.
    pub(super) fn rng(&self) -> fastrand::Rng {
        match self.config.seed {
            Some(seed) => {
                let call = self.calls.fetch_add(1, Ordering::Relaxed);
                fastrand::Rng::with_seed(seed ^ call.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            }
            None => fastrand::Rng::new(),
        }
    }
}
