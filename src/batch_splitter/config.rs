//! The settings of a [`BatchSplitterLayer`](super::BatchSplitterLayer).

use std::time::Duration;

use crate::retry::backoff::Backoff;

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) start_members: usize,
    pub(super) max_members: usize,
    pub(super) max_in_doubt: usize,
    pub(super) max_bytes: u64,
    pub(super) max_response: u64,
    pub(super) target_time: Duration,
    pub(super) parallel: usize,
    pub(super) stall_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            start_members: 100,
            max_members: 1000,
            max_in_doubt: 50,
            max_bytes: 16 * 1024 * 1024,
            max_response: 256 * 1024 * 1024,
            target_time: Duration::from_secs(20),
            parallel: 1,
            stall_timeout: Duration::from_secs(15 * 60),
            backoff: Backoff::default(),
            seed: None,
        }
    }
}
