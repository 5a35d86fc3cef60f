//! The settings of a [`FindPagingLayer`](super::FindPagingLayer).

use std::time::Duration;

use super::paging::Paging;
use crate::retry::backoff::{Backoff, Jitter};

#[derive(Clone, Debug)]
pub(super) struct Config {
    /// Of requests without a word of their own.
    pub(super) paging: Paging,
    pub(super) page_size: u32,
    pub(super) restricted_page_size: u32,
    pub(super) max_page: u64,
    pub(super) max_sync: u64,
    pub(super) stall_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            paging: Paging::one_page(),
            page_size: 1000,
            restricted_page_size: 250,
            max_page: 256 * 1024 * 1024,
            max_sync: 64 * 1024 * 1024,
            stall_timeout: Duration::from_secs(15 * 60),
            backoff: Backoff::default(),
            seed: None,
        }
    }
}

/// What the clones of a service share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) jitter: Jitter,
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        Self {
            jitter: Jitter::new(config.seed),
            config,
        }
    }
}
