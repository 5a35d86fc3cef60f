//! How many members a part may have: learned from the time that parts took, for each kind of batch.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::config::Config;

/// How many kinds of batches are remembered.
const MAX_KEYS: usize = 10_000;

/// Connections that break after this time were probably cut by the server's limit of one minute.
const SUSPICIOUSLY_LONG: Duration = Duration::from_secs(45);

/// The sizes that were learned. A size equal to the initial one is forgotten, and so are the oldest ones when there are
/// too many.
#[derive(Debug, Default)]
pub(super) struct Sizing(Mutex<Table>);

/// The sizes of the parts of one batch.
#[derive(Clone, Debug)]
pub(super) struct PartSizes {
    sizing: Arc<Sizing>,
    config: Config,
    key: Box<str>,
}

impl PartSizes {
    pub(super) fn new(sizing: Arc<Sizing>, config: Config, key: &str) -> Self {
        Self {
            sizing,
            config,
            key: key.into(),
        }
    }

    /// Returns how many members a part may have.
    pub(super) fn members(&self) -> usize {
        self.sizing.members(&self.key, &self.config)
    }

    pub(super) fn record_response(&self, members: usize, took: Duration, smoothly: bool) {
        self.sizing
            .record_response(&self.key, &self.config, members, took, smoothly);
    }

    pub(super) fn record_loss(&self, members: usize, took: Duration) {
        self.sizing
            .record_loss(&self.key, &self.config, members, took);
    }

    /// Makes parts smaller than one of `members`. A single member says nothing about sizes.
    pub(super) fn shrink(&self, members: usize) {
        if members > 1 {
            self.sizing.shrink(&self.key, &self.config, members);
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    sizes: HashMap<Box<str>, AdaptiveSize>,
    clock: u64,
}

#[derive(Debug)]
struct AdaptiveSize {
    members: usize,
    /// When it was learned.
    at: u64,
}

impl Sizing {
    /// Returns how many members a part of the kind `key` may have.
    pub(super) fn members(&self, key: &str, config: &Config) -> usize {
        let table = self.0.lock();
        let size = table.sizes.get(key).map(|size| size.members);
        size.unwrap_or(config.start_members)
            .clamp(1, config.max_members)
    }

    /// Records that the response to a part of `members` came after `took`; `smoothly` if it refused no member.
    pub(super) fn record_response(
        &self,
        key: &str,
        config: &Config,
        members: usize,
        took: Duration,
        smoothly: bool,
    ) {
        let known = self.members(key, config);
        if took > config.target_time {
            self.shrink(key, config, members);
        } else if smoothly && took <= config.target_time / 2 && members >= known {
            // Parts that were begun with a smaller size say nothing about this one.
            self.set(key, config, known.saturating_mul(2));
        }
    }

    /// Records that the response to a part of `members` was lost, `took` after the part was begun.
    pub(super) fn record_loss(&self, key: &str, config: &Config, members: usize, took: Duration) {
        if took > SUSPICIOUSLY_LONG {
            self.shrink(key, config, members);
        }
    }

    /// Makes parts smaller than one of `members`, which was too large.
    pub(super) fn shrink(&self, key: &str, config: &Config, members: usize) {
        if members / 2 < self.members(key, config) {
            self.set(key, config, members / 2);
        }
    }

    fn set(&self, key: &str, config: &Config, members: usize) {
        let members = members.clamp(1, config.max_members);
        let table = &mut *self.0.lock();
        table.clock += 1;
        let at = table.clock;
        if members == config.start_members {
            table.sizes.remove(key);
        } else if let Some(size) = table.sizes.get_mut(key) {
            *size = AdaptiveSize { members, at };
        } else {
            table.sizes.insert(key.into(), AdaptiveSize { members, at });
        }
        if table.sizes.len() > MAX_KEYS {
            // A tenth at once, so that the oldest are not searched for each time.
            let mut ages: Vec<u64> = table.sizes.values().map(|size| size.at).collect();
            let (_, &mut tenth, _) = ages.select_nth_unstable(MAX_KEYS / 10);
            table.sizes.retain(|_, size| size.at > tenth);
        }
        if table.sizes.capacity() > 64 && table.sizes.len() * 4 < table.sizes.capacity() {
            table.sizes.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.0.lock().sizes.len()
    }
}
