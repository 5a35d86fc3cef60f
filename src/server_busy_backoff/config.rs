//! [`Config`]: the settings of a [`ServerBusyBackoffLayer`](super::ServerBusyBackoffLayer), and what its services share.

use std::sync::Arc;
use std::time::Duration;

use super::access::AccessMemory;
use super::examine::ReadLimits;
use super::gate::Gates;
use super::moved::FindEndpoint;
use super::retry_budget::RetryBudget;
use super::warnings::Warnings;
use crate::ledger::Ledger;
use crate::retry::backoff::{Backoff, Jitter};
use crate::retry::{CredentialMemory, Recent};

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) ledger: Option<Arc<dyn Ledger>>,
    pub(super) gates: Arc<Gates>,
    pub(super) warnings: Arc<Warnings>,
    pub(super) retry_budget: Arc<RetryBudget>,
    pub(super) access: Arc<AccessMemory>,
    pub(super) credentials: Arc<CredentialMemory>,
    /// The principals that were let in.
    pub(super) granted: Arc<Recent>,
    pub(super) find_endpoint: Option<FindEndpoint>,
    pub(super) deadline: Duration,
    pub(super) attempt_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) read_limits: ReadLimits,
    pub(super) seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ledger: None,
            gates: Arc::default(),
            warnings: Arc::default(),
            retry_budget: Arc::default(),
            access: Arc::default(),
            credentials: Arc::default(),
            granted: Arc::default(),
            find_endpoint: None,
            deadline: Duration::from_secs(15 * 60),
            attempt_timeout: Duration::from_secs(100),
            backoff: Backoff::default(),
            read_limits: ReadLimits {
                max_prefix: 64 * 1024,
                max_buffered: 1024 * 1024,
            },
            seed: None,
        }
    }
}

/// What all clones of a service share.
#[derive(Debug)]
pub(super) struct Shared<C> {
    pub(super) classifier: Arc<C>,
    pub(super) config: Config,
    jitter: Jitter,
}

impl<C> Shared<C> {
    pub(super) fn new(classifier: Arc<C>, config: Config) -> Self {
        Self {
            classifier,
            jitter: Jitter::new(config.seed),
            config,
        }
    }

    pub(super) fn rng(&self) -> fastrand::Rng {
        self.jitter.rng()
    }
}
