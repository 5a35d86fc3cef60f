//! [`List`]: the calls that wait for one thing, in order, and by the value that each needs first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use tokio::time::Instant;

use super::meter::Position;
use crate::extensions::Priority;
use crate::principal::Principal;

/// How long after it was told of calls that wait for something the log is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(600);

/// The calls that wait for one thing, in order, and those that need the same value first.
#[derive(Debug, Default)]
pub(super) struct List {
    order: BTreeSet<Position>,
    /// How many there are of each priority.
    counts: [usize; 3],
    groups: HashMap<Principal, Group>,
    /// The groups by their first call.
    heads: BTreeMap<Position, Principal>,
    /// When it has to be looked at, whoever does it.
    pub(super) alarm: Option<(Instant, u64)>,
    /// When a call was promoted last.
    pub(super) promoted: Option<Instant>,
    /// When the log was told last that calls wait here for long, and that they wait for bodies that nobody reads.
    told: Option<Instant>,
    told_unread: Option<Instant>,
}

impl List {
    /// The less urgent call that came first, if calls of several priorities wait.
    pub(super) fn overtaken(&self) -> Option<Position> {
        if self.is_of_one_priority() {
            return None;
        }
        let first = self.order.first()?;
        let lower = [Priority::Normal, Priority::Bulk].into_iter();
        let heads = lower
            .filter(|lower| *lower > first.priority)
            .filter_map(|priority| {
                let from = Position {
                    priority,
                    ticket: 0,
                    key: 0,
                };
                let next = self.order.range(from..).next()?;
                (next.priority == priority).then_some(*next)
            });
        heads.min_by_key(|head| head.ticket)
    }

    /// Whether the log is to be told now that a call waits here for long: not for each of thousands that wait their turn.
    pub(super) fn tell(&mut self, unread: bool, now: Instant) -> bool {
        let told = match unread {
            true => &mut self.told_unread,
            false => &mut self.told,
        };
        let tells = told.is_none_or(|last| now.saturating_duration_since(last) >= TOLD_AGAIN);
        if tells {
            *told = Some(now);
        }
        tells
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The calls in order.
    pub(super) fn calls(&self) -> impl Iterator<Item = Position> {
        self.order.iter().copied()
    }

    pub(super) fn first(&self) -> Option<Position> {
        self.order.first().copied()
    }

    /// Whether all calls have one priority.
    pub(super) fn is_of_one_priority(&self) -> bool {
        self.counts.iter().filter(|count| **count > 0).count() < 2
    }

    /// How many calls there are of each priority, the most urgent first.
    #[cfg(feature = "redis")]
    pub(super) fn counts(&self) -> [usize; 3] {
        self.counts
    }

    /// The first call of those that need `value` first.
    pub(super) fn first_of(&self, value: &Principal) -> Option<Position> {
        Some(self.groups.get(value)?.head)
    }

    /// The first call for each value that calls need first, in order.
    pub(super) fn heads(&self) -> impl Iterator<Item = (Position, &Principal)> {
        self.heads.iter().map(|(head, value)| (*head, value))
    }

    pub(super) fn insert(&mut self, position: Position, value: Option<&Principal>) {
        if self.order.insert(position) {
            self.counts[position.priority as usize] += 1;
        }
        let Some(value) = value else { return };
        match self.groups.entry(value.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Group::of(position));
                self.heads.insert(position, value.clone());
            }
            Entry::Occupied(mut entry) => {
                if let Some(head) = entry.get_mut().insert(position) {
                    self.heads.remove(&head);
                    self.heads.insert(position, value.clone());
                }
            }
        }
    }

    pub(super) fn remove(&mut self, position: Position, value: Option<&Principal>) {
        if self.order.remove(&position) {
            self.counts[position.priority as usize] -= 1;
        }
        let Some(value) = value else { return };
        let Some(group) = self.groups.get_mut(value) else {
            return;
        };
        if group.head != position {
            group.rest.remove(&position);
            return;
        }
        self.heads.remove(&position);
        match group.rest.pop_first() {
            Some(next) => {
                group.head = next;
                self.heads.insert(next, value.clone());
            }
            None => {
                self.groups.remove(value);
            }
        }
    }
}

/// The calls that need the same value first. Where each call needs its own there are as many groups as calls, and a set takes
/// room for eleven.
#[derive(Debug)]
struct Group {
    head: Position,
    rest: BTreeSet<Position>,
}

impl Group {
    fn of(head: Position) -> Self {
        Self {
            head,
            rest: BTreeSet::new(),
        }
    }

    /// Adds a call. Returns the head before, if the call comes in front of it.
    fn insert(&mut self, position: Position) -> Option<Position> {
        if position >= self.head {
            self.rest.insert(position);
            return None;
        }
        let head = std::mem::replace(&mut self.head, position);
        self.rest.insert(head);
        Some(head)
    }
}
