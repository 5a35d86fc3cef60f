//! [`Shared`]: what all batches of a service and its clones share.

use std::sync::Arc;

use super::config::Config;
use super::sizing::Sizing;
use crate::retry::backoff::Jitter;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) sizing: Arc<Sizing>,
    jitter: Jitter,
}

impl Shared {
    pub(super) fn new(config: Config, sizing: Arc<Sizing>) -> Self {
        Self {
            jitter: Jitter::new(config.seed),
            config,
            sizing,
        }
    }

    /// Returns a new source of random numbers.
    pub(super) fn rng(&self) -> fastrand::Rng {
        self.jitter.rng()
    }
}
