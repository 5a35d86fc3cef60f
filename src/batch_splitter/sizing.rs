//! How many members a part may have: learnt from the time that parts took, for each kind of batch.

use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::config::Config;

/// How many kinds of batches are remembered.
const MOST_KEYS: usize = 10_000;

/// Connections that die after this long were probably cut by the server's limit of one minute, not by an accident.
const SUSPICIOUSLY_LONG: Duration = Duration::from_secs(45);

/// The sizes that were learnt. What equals the size to begin with is forgotten, and the oldest when there are too many.
#[derive(Debug, Default)]
pub(super) struct Sizing(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    learnt: HashMap<Box<str>, Learnt>,
    clock: u64,
}

#[derive(Debug)]
struct Learnt {
    members: usize,
    /// When it was learnt.
    at: u64,
}

impl Sizing {
    /// How many members a part of the kind `key` may have.
    pub(super) fn members(&self, key: &str, config: &Config) -> usize {
        let table = self.0.lock();
        let learnt = table.learnt.get(key).map(|learnt| learnt.members);
        learnt
            .unwrap_or(config.start_members)
            .clamp(1, config.max_members)
    }

    /// A part of `members` was answered after `took`; `smoothly` if nothing of it was refused.
    pub(super) fn answered(
        &self,
        key: &str,
        config: &Config,
        members: usize,
        took: Duration,
        smoothly: bool,
    ) {
        let known = self.members(key, config);
        if took > config.target_time {
            self.too_large(key, config, members);
        } else if smoothly && took <= config.target_time / 2 && members >= known {
            // Parts that were begun with a smaller size tell nothing about this one.
            self.learn(key, config, known.saturating_mul(2));
        }
    }

    /// A part of `members` was lost `after` it was begun.
    pub(super) fn lost(&self, key: &str, config: &Config, members: usize, after: Duration) {
        if after > SUSPICIOUSLY_LONG {
            self.too_large(key, config, members);
        }
    }

    /// A part of `members` was too large.
    pub(super) fn too_large(&self, key: &str, config: &Config, members: usize) {
        if members / 2 < self.members(key, config) {
            self.learn(key, config, members / 2);
        }
    }

    fn learn(&self, key: &str, config: &Config, members: usize) {
        let members = members.clamp(1, config.max_members);
        let table = &mut *self.0.lock();
        table.clock += 1;
        let at = table.clock;
        if members == config.start_members {
            table.learnt.remove(key);
        } else if let Some(learnt) = table.learnt.get_mut(key) {
            *learnt = Learnt { members, at };
        } else {
            table.learnt.insert(key.into(), Learnt { members, at });
        }
        if table.learnt.len() > MOST_KEYS {
            // A tenth at once, so that it is not looked for each time.
            let mut ages: Vec<u64> = table.learnt.values().map(|learnt| learnt.at).collect();
            let (_, &mut tenth, _) = ages.select_nth_unstable(MOST_KEYS / 10);
            table.learnt.retain(|_, learnt| learnt.at > tenth);
        }
        if table.learnt.capacity() > 64 && table.learnt.len() * 4 < table.learnt.capacity() {
            table.learnt.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.0.lock().learnt.len()
    }
}
