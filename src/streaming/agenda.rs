//! [`Agenda`]: the groups that may have something to do now, and what is to be done at which time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::step::{GroupId, MemberId};

/// What has a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    Locate(MemberId),
    Subscribe(MemberId),
    /// A Subscribe there has had the time that the others wait for it.
    GiveWay(MemberId, GroupId),
    Poll(MemberId),
    Connect(GroupId),
    /// Replaces a connection by one with all subscriptions.
    Renew(GroupId),
}

/// What comes next.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    groups: VecDeque<GroupId>,
    /// The same, so that each is there once.
    queued: BTreeSet<GroupId>,
    timers: BTreeMap<(Instant, u64), Due>,
    count: u64,
}

impl Agenda {
    /// How many groups there are.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn push(&mut self, group: GroupId) {
        if self.queued.insert(group) {
            self.groups.push_back(group);
        }
    }

    pub(super) fn pop(&mut self) -> Option<GroupId> {
        let group = self.groups.pop_front()?;
        self.queued.remove(&group);
        Some(group)
    }

    /// Does something after a time.
    pub(super) fn after(&mut self, wait: Duration, due: Due, now: Instant) {
        self.at(now.checked_add(wait).unwrap_or(now), due);
    }

    /// Does something at a time.
    pub(super) fn at(&mut self, at: Instant, due: Due) {
        self.count += 1;
        self.timers.insert((at, self.count), due);
    }

    /// Returns what is due, what came first before the rest.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let first = self.timers.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.timers.keys().next().map(|(at, _)| *at)
    }
}
