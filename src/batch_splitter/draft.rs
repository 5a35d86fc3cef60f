//! [`Draft`]: a part that is being filled, within its bounds.

use std::collections::HashSet;

use smallvec::SmallVec;

use super::format::Batch;

/// How many different groups a part touches at most: Exchange limits how many mailboxes an account has open.
pub(super) const MAX_GROUPS: usize = 16;

/// The bounds of a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) members: usize,
    pub(super) bytes: u64,
    /// Members from here on are not sent yet.
    pub(super) end: usize,
    /// Whether to make no part rather than one that is cut short by `end`.
    pub(super) whole_only: bool,
}

/// A part that is being filled.
pub(super) struct Draft {
    members: Vec<usize>,
    groups: SmallVec<[u64; MAX_GROUPS]>,
    exclusive: HashSet<u64>,
    bytes: u64,
    max_members: usize,
    max_bytes: u64,
}

/// Whether the members fit into a draft that were to be added.
pub(super) enum Fit {
    /// They were not added.
    TooMuch,
    /// They were added, and nothing else fits.
    Full,
    Room,
}

impl Draft {
    pub(super) fn new(batch: &impl Batch, bounds: Bounds) -> Self {
        Self {
            members: Vec::new(),
            groups: SmallVec::new(),
            exclusive: HashSet::new(),
            bytes: batch.shared_bytes(),
            max_members: bounds.members.max(1),
            max_bytes: bounds.bytes,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn members(&self) -> &[usize] {
        &self.members
    }

    pub(super) fn into_members(self) -> Vec<usize> {
        self.members
    }

    /// Adds members that have to stay together, in a part of at most `cap`. An empty draft takes them whatever their size.
    pub(super) fn add(&mut self, batch: &impl Batch, unit: &[usize], cap: usize) -> Fit {
        let max_members = self.max_members.min(cap);
        let bytes = unit.iter().fold(self.bytes, |bytes, member| {
            bytes.saturating_add(batch.member_bytes(*member))
        });
        let mut groups = self.groups.clone();
        for group in unit.iter().filter_map(|member| batch.group(*member)) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let mut exclusive = unit.iter().filter_map(|member| batch.exclusive(*member));
        let exceeds = self.members.len() + unit.len() > max_members
            || bytes > self.max_bytes
            || groups.len() > MAX_GROUPS
            || exclusive.any(|number| !self.exclusive.insert(number));
        if exceeds && !self.members.is_empty() {
            return Fit::TooMuch;
        }
        self.members.extend_from_slice(unit);
        (self.bytes, self.groups, self.max_members) = (bytes, groups, max_members);
        match exceeds || self.members.len() >= max_members {
            true => Fit::Full,
            false => Fit::Room,
        }
    }
}
