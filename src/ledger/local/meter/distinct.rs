//! [`Distinct`]: different values in use, such as the mailboxes that a delegate account has open.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::super::adapt::{AdaptiveLimit, Room};
use super::super::clock::{Clock, after};
use super::measure::{Ask, Keep, Measure, Position, Verdict};
use crate::ledger::learnt::{Known, OpenValue};
use crate::ledger::{BudgetSnapshot, End, Limit};
use crate::principal::{Budget, Principal};

/// After the server refused to open one more, none is tried before this part of the time that an idle value takes to close: places
/// do not come free faster than that.
const PACE: u32 = 8;

/// The values that are in use.
///
/// A value that is in use stays so until `idle` after its last call. A refusal lowers the limit to what the server had open, so that
/// the next value waits until one of them has closed. While the limit is lower than configured a value is open to a second call
/// once its first one has worked.
#[derive(Debug)]
pub(in super::super) struct Distinct {
    limit: u32,
    set: bool,
    idle: Duration,
    open: HashMap<Principal, Open>,
    /// The values that no call uses or keeps, by their last use: the first closes next.
    unused: BTreeMap<(Instant, u64), Principal>,
    /// The values that take in new calls, longest open first.
    lasting: BTreeMap<u64, Principal>,
    /// The values that are kept for waiting calls, by their numbers: one that was opened anew since is not kept. Of as many as
    /// wait: a table would stand still for long to grow.
    kept: BTreeMap<Position, SmallVec<[(Principal, u64); 1]>>,
    /// From the first refusal until the limit holds again.
    adaptive: Option<Box<AdaptiveLimit>>,
    opened: u64,
    /// How many of the values take in no new calls since others have waited too long.
    closing: usize,
}

/// A value in use.
#[derive(Debug)]
struct Open {
    /// Its number among those that were opened.
    number: u64,
    in_use: u32,
    /// Calls that wait for something else with this value open: its place is not given away before they ran.
    kept: u32,
    /// Whether any call that used it was sent: a place that was only kept is free at once.
    used: bool,
    last_used: Instant,
    /// Calls with this ticket or a later one may not keep it open any longer.
    closing: Option<u64>,
    state: SlotState,
    /// The calls in use of it that were refused, by the numbers of their admissions.
    refused: SmallVec<[u64; 1]>,
}

/// What is known of a value's place on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// No call that used it has ended yet.
    New,
    /// Some call has used it without being refused.
    Confirmed,
    /// The server refused to open it: it is not open to others, and no place is lost to it once its calls have ended.
    Refused,
}

impl Open {
    fn is_busy(&self) -> bool {
        self.in_use > 0 || self.kept > 0
    }
}

impl Distinct {
    pub(super) fn new(limit: u32, idle: Duration) -> Self {
        Self {
            limit,
            set: false,
            idle,
            open: HashMap::new(),
            unused: BTreeMap::new(),
            lasting: BTreeMap::new(),
            kept: BTreeMap::new(),
            adaptive: None,
            opened: 0,
            closing: 0,
        }
    }

    fn limit_now(&self) -> u32 {
        let learnt = self.adaptive.as_ref().map(|adaptive| adaptive.limit());
        learnt.map_or(self.limit, |learnt| learnt.min(self.limit))
    }

    /// How many values are in use.
    fn held(&self) -> u32 {
        u32::try_from(self.open.len()).unwrap_or(u32::MAX)
    }

    /// Forgets the values that the server has closed by now.
    fn close_unused(&mut self, now: Instant) {
        while let Some(entry) = self.unused.first_entry() {
            if after(entry.key().0, self.idle) > now {
                break;
            }
            let value = entry.remove();
            self.close(&value);
        }
    }

    fn close(&mut self, value: &Principal) {
        if let Some(open) = self.open.remove(value) {
            if let Some(adaptive) = &mut self.adaptive {
                adaptive.released(open.number);
            }
            self.lasting.remove(&open.number);
            self.closing -= usize::from(open.closing.is_some());
        }
    }

    /// Changes an open value, and puts it where it belongs then.
    fn change<T>(&mut self, value: &Principal, change: impl FnOnce(&mut Open) -> T) -> Option<T> {
        let open = self.open.get_mut(value)?;
        self.unused.remove(&(open.last_used, open.number));
        let out = change(open);
        if open.closing.is_some() || open.state == SlotState::Refused {
            self.lasting.remove(&open.number);
        }
        // A place that was refused, or only kept, is free at once.
        let refused = open.state == SlotState::Refused;
        if refused && open.in_use == 0 || !open.is_busy() && !open.used {
            self.close(value);
        } else if !open.is_busy() {
            let key = (open.last_used, open.number);
            self.unused.insert(key, value.clone());
        }
        Some(out)
    }

    /// More values may be open than the limit, after a call that needs more or since a lower one was set: those that are not open
    /// on the server have to go then. Within the limit it does no harm to keep them, since nobody else has their places.
    fn close_if_above_limit(&mut self, now: Instant) {
        if self.open.len() <= self.places() {
            return;
        }
        self.close_unused(now);
        let only_kept = |open: &Open| {
            open.in_use == 0 && !(open.used && after(open.last_used, self.idle) > now)
        };
        let open = self.open.iter().filter(|(_, open)| only_kept(open));
        let only_kept: SmallVec<[Principal; 4]> = open.map(|(value, _)| value.clone()).collect();
        for value in &only_kept {
            self.close(value);
        }
    }

    /// Whether a value is kept for a call, and was not refused since.
    fn is_kept_for(&self, position: Position, value: &Principal) -> bool {
        let mut kept = self.kept.get(&position).into_iter().flatten();
        let open = self.open.get(value);
        open.filter(|open| open.state != SlotState::Refused)
            .is_some_and(|open| kept.any(|(kept, number)| kept == value && *number == open.number))
    }

    /// Whether a call waits for `value`, however much room there is: one that is still open but closing has to close first, one
    /// that is being tried has to work first, and the calls of one that was refused have to end.
    fn has_to_wait(&self, position: Position, value: &Principal) -> bool {
        let Some(open) = self.open.get(value) else {
            return false;
        };
        let kept = self.is_kept_for(position, value);
        let closes = open.closing.is_some_and(|from| position.ticket >= from);
        let tried = match open.state {
            SlotState::Refused => open.in_use > 0,
            SlotState::New => {
                self.adaptive.is_some() && (open.in_use > 0 || open.kept > u32::from(kept))
            }
            SlotState::Confirmed => false,
        };
        !kept && (closes || tried)
    }

    fn room(&mut self, others: u32, mine: u32, now: Instant) -> Room {
        match &mut self.adaptive {
            Some(adaptive) => adaptive.room(others, mine, self.limit, now),
            None if others == 0 || others.saturating_add(mine) <= self.limit => Room::Free,
            None => Room::Full(None),
        }
    }

    /// When time alone frees a place.
    fn next_closes(&self) -> Option<Instant> {
        let first = self.unused.first_key_value();
        first.map(|((last_used, _), _)| after(*last_used, self.idle))
    }

    fn open_new(&mut self, value: &Principal, now: Instant) {
        self.opened += 1;
        self.lasting.insert(self.opened, value.clone());
        self.open.insert(
            value.clone(),
            Open {
                number: self.opened,
                in_use: 0,
                kept: 0,
                used: false,
                last_used: now,
                closing: None,
                state: SlotState::New,
                refused: SmallVec::new(),
            },
        );
        let (held, limit) = (self.held(), self.limit);
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.admitted(self.opened, held, 1, limit, now);
        }
    }

    fn give_back_value(&mut self, value: &Principal, sequence: u64, end: End, now: Instant) {
        let complete = end == End::Complete;
        let mut reopened = None;
        let worked = self.change(value, |open| {
            open.in_use = open.in_use.saturating_sub(1);
            let known = open.refused.iter().position(|known| *known == sequence);
            let was_refused = known.map(|at| open.refused.swap_remove(at)).is_some();
            if end == End::NotSent {
                return None;
            }
            open.used = true;
            open.last_used = now;
            if open.state == SlotState::Refused && !was_refused {
                // Another call was refused, before this one was sent perhaps: it may be open by now.
                open.state = SlotState::New;
                reopened = open.closing.is_none().then_some(open.number);
            }
            let worked = complete && open.state == SlotState::New;
            if worked {
                open.state = SlotState::Confirmed;
            }
            worked.then_some(open.number)
        });
        if let Some(number) = reopened {
            self.lasting.insert(number, value.clone());
        }
        if let (Some(Some(number)), Some(adaptive)) = (worked, &mut self.adaptive) {
            adaptive.accepted(number, now);
        }
        let limit = self.limit;
        self.adaptive
            .take_if(|adaptive| adaptive.keep_until(limit, now).is_none());
    }
}

impl Measure for Distinct {
    fn export(&self, now: Instant) -> Option<Known> {
        let open = self
            .open
            .iter()
            .filter(|(_, open)| open.used || open.in_use > 0);
        let values = open.filter_map(|(value, open)| {
            // What is in use may be in use until now.
            let last = if open.in_use > 0 { now } else { open.last_used };
            let closes = after(last, self.idle);
            let stays = closes.checked_duration_since(now)?;
            Some(OpenValue {
                value: value.key(),
                stays,
            })
        });
        let values: Vec<_> = values.collect();
        let limit = Some(self.limit_now()).filter(|limit| *limit < self.limit);
        let is_known = !values.is_empty() || limit.is_some();
        is_known.then_some(Known::Open { values, limit })
    }

    fn import(&mut self, known: &Known, age: Duration, now: Instant) {
        let Known::Open { values, limit } = known else {
            return;
        };
        for open in values {
            let (Ok(value), Some(stays)) = (
                Principal::from_key(&open.value),
                open.stays.checked_sub(age),
            ) else {
                continue;
            };
            if self.open.contains_key(&value) {
                continue;
            }
            // A clock that does not go back so far: it stays longer.
            let used = self.idle.saturating_sub(stays);
            let last_used = now.checked_sub(used).unwrap_or(now);
            self.open_new(&value, last_used);
            self.change(&value, |open| {
                (open.used, open.state) = (true, SlotState::Confirmed);
            });
        }
        if let Some(level) = limit {
            let pace = self.idle / PACE;
            let top = self.limit;
            self.adaptive
                .get_or_insert_with(|| Box::new(AdaptiveLimit::new(top, true, pace, now)))
                .cut(*level, now);
        }
    }

    fn set_limit(&mut self, number: Option<u32>, policy: Limit) {
        self.set = number.is_some();
        self.limit = number.unwrap_or(policy.number());
        // What was learnt below another number says nothing about this one.
        self.adaptive = None;
    }

    fn places(&self) -> usize {
        self.limit_now() as usize
    }

    fn admit(&mut self, ask: Ask<'_>, clock: &mut Clock) -> Verdict {
        let ticket = ask.position.ticket;
        let now = clock.now();
        self.close_if_above_limit(now);
        // After a refusal a value is open to a second call once its first one has worked.
        let careful = self.adaptive.is_some();
        let closes = |open: &Open| open.closing.is_some_and(|from| ticket >= from);
        let is_open = |value: &Principal| {
            self.open.get(value).is_some_and(|open| {
                let works = match open.state {
                    SlotState::Confirmed => true,
                    SlotState::New => !careful,
                    SlotState::Refused => false,
                };
                works && !closes(open)
            })
        };
        // Usually nothing is kept for a call, or all that it needs.
        let keeps = self.kept.contains_key(&ask.position);
        let missing = |value: &&Principal| {
            let kept = || keeps && self.is_kept_for(ask.position, value);
            !is_open(value) && !kept()
        };
        let Some(first) = ask.values().find(missing) else {
            return Verdict::Overtakes;
        };
        let first = first.clone();
        self.close_unused(now);
        let values = ask.values().count();
        let present = ask.values().filter(|value| self.open.contains_key(*value));
        let others = self.open.len() - present.count();
        let amount = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let room = self.room(amount(others), amount(values), now);
        let waits = ask
            .values()
            .any(|value| self.has_to_wait(ask.position, value));
        match room {
            Room::Free if !waits => Verdict::Room { value: Some(first) },
            Room::Free => Verdict::Full {
                until: self.next_closes(),
                value: Some(first),
            },
            Room::Full(until) => Verdict::Full {
                until: until.into_iter().chain(self.next_closes()).min(),
                value: Some(first),
            },
        }
    }

    fn take(&mut self, ask: Ask<'_>, clock: &mut Clock) -> bool {
        let now = clock.now();
        for value in ask.values() {
            if !self.open.contains_key(value) {
                self.open_new(value, now);
            }
            self.change(value, |open| open.in_use += 1);
        }
        false
    }

    fn give_back(&mut self, ask: Ask<'_>, end: End, clock: &mut Clock) {
        let now = clock.now();
        for value in ask.values() {
            self.give_back_value(value, ask.sequence, end, now);
        }
    }

    fn exceeded(&mut self, ask: Ask<'_>, _: u64, clock: &mut Clock) {
        let now = clock.now();
        // Of several values it is one of those that are not known to work, if there is one.
        let is_new = |value: &&Principal| {
            let open = self.open.get(*value);
            open.is_none_or(|open| open.state != SlotState::Confirmed)
        };
        let new: SmallVec<[&Principal; 4]> = ask.values().filter(is_new).collect();
        let all = || ask.values().collect();
        let refused = if new.is_empty() { all() } else { new };
        let mut first = None;
        for value in refused {
            let news = self.change(value, |open| {
                // One that has ended already is not given back any more: the latest refusals count.
                if !open.refused.contains(&ask.sequence) {
                    open.refused.push(ask.sequence);
                }
                if open.refused.len() > open.in_use as usize {
                    open.refused.remove(0);
                }
                let before = std::mem::replace(&mut open.state, SlotState::Refused);
                (before != SlotState::Refused).then_some(open.number)
            });
            first = first.or(news.flatten());
        }
        // Other calls to a value that was refused are told the same.
        let Some(number) = first else { return };
        let (held, limit, pace) = (self.held(), self.limit, self.idle / PACE);
        self.adaptive
            .get_or_insert_with(|| Box::new(AdaptiveLimit::new(limit, true, pace, now)))
            .refused(number, held, 1, self.opened, now);
    }

    fn keep_place(&mut self, ask: Ask<'_>, clock: &mut Clock) {
        let ticket = ask.position.ticket;
        // A call that needs more places than there are runs alone: what is kept for it would last longer than the call, and would
        // be in the way of those that it waits for.
        self.close_if_above_limit(clock.now());
        let missing = ask.values().filter(|v| !self.open.contains_key(*v)).count();
        if self.open.len() + missing > self.places() {
            return;
        }
        let mut kept = SmallVec::new();
        for value in ask.values() {
            match self.open.get(value) {
                Some(open) => {
                    let closes = open.closing.is_some_and(|from| ticket >= from);
                    if open.state == SlotState::Refused || closes {
                        continue;
                    }
                }
                None => self.open_new(value, clock.now()),
            }
            let number = self.change(value, |open| {
                open.kept += 1;
                open.number
            });
            kept.extend(number.map(|number| (value.clone(), number)));
        }
        if !kept.is_empty() {
            self.kept.insert(ask.position, kept);
        }
    }

    fn leave_place(&mut self, position: Position) -> bool {
        let Some(kept) = self.kept.remove(&position) else {
            return false;
        };
        for (value, number) in &kept {
            let same = |open: &Open| open.number == *number;
            if self.open.get(value).is_some_and(same) {
                self.change(value, |open| open.kept = open.kept.saturating_sub(1));
            }
        }
        true
    }

    fn starved(&mut self, wanted: usize, next: u64) {
        for _ in self.closing..wanted {
            let Some((_, value)) = self.lasting.pop_first() else {
                return;
            };
            self.closing += 1;
            self.change(&value, |open| open.closing = Some(next));
        }
    }

    fn tidy(&mut self, now: Instant) -> Keep {
        self.close_unused(now);
        if self.set || self.unused.len() < self.open.len() {
            return Keep::InUse;
        }
        let last = self.unused.last_key_value();
        let closes = last.map(|((last_used, _), _)| after(*last_used, self.idle));
        let learnt = self
            .adaptive
            .as_ref()
            .and_then(|adaptive| adaptive.keep_until(self.limit, now))
            .filter(|until| *until > now);
        if learnt.is_none() {
            self.adaptive = None;
        }
        closes.max(learnt).map_or(Keep::Nothing, Keep::Until)
    }

    fn snapshot(&self, budget: Budget, now: Instant) -> BudgetSnapshot {
        let closed = self
            .unused
            .keys()
            .take_while(|(last_used, _)| after(*last_used, self.idle) <= now);
        let open = self.open.len() - closed.count();
        BudgetSnapshot::new(
            budget,
            u32::try_from(open).unwrap_or(u32::MAX),
            self.limit_now(),
        )
    }
}

#[cfg(test)]
mod tests;
