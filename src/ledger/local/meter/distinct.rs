//! [`Distinct`]: different values in use, such as the mailboxes that a delegate account has open.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::super::clock::{Clock, after};
use super::{Ask, Keep, Position, Verdict};
use crate::ledger::{BudgetSnapshot, End};
use crate::principal::{Budget, Principal};

/// After the server refused to open one more, the next try comes after this part of the time that an idle value takes to close,
/// then after twice as long, and so on up to the whole time.
const FIRST_HOLD: u32 = 10;

/// The values that are in use.
///
/// A value that is in use stays so until `idle` after its last call. After a refusal new values are tried one at a time, and a
/// value is open to a second call once its first one has worked.
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
    /// The values that are kept for waiting calls.
    kept: HashMap<Position, SmallVec<[Principal; 1]>>,
    hold: Option<Hold>,
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
    /// Whether any call has used it yet: a place that was only kept is free at once.
    used: bool,
    last_used: Instant,
    /// Calls with this ticket or a later one may not keep it open any longer.
    closing: Option<u64>,
    state: SlotState,
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

/// After a refusal: no new values for some time, then one at a time.
#[derive(Debug)]
struct Hold {
    until: Instant,
    step: Duration,
    /// When the server refused last.
    refused: Instant,
    /// The one value that tests whether there is room again.
    probe: Option<Principal>,
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
            kept: HashMap::new(),
            hold: None,
            opened: 0,
            closing: 0,
        }
    }

    pub(super) fn set_limit(&mut self, number: Option<u32>, policy: u32) {
        self.set = number.is_some();
        self.limit = number.unwrap_or(policy).max(1);
    }

    pub(super) fn places(&self) -> usize {
        self.limit as usize
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
        if !open.is_busy() {
            // A place that was refused, or only kept, is free at once.
            if open.state == SlotState::Refused || !open.used {
                self.close(value);
            } else {
                let key = (open.last_used, open.number);
                self.unused.insert(key, value.clone());
            }
        }
        Some(out)
    }

    fn is_kept_for(&self, position: Position, value: &Principal) -> bool {
        let kept = self
            .kept
            .get(&position)
            .is_some_and(|kept| kept.contains(value));
        let refused = |open: &Open| open.state == SlotState::Refused;
        kept && self.open.get(value).is_some_and(|open| !refused(open))
    }

    pub(super) fn admit(&mut self, ask: Ask<'_>, clock: &mut Clock) -> Verdict {
        let (ticket, _) = ask.position;
        // After a refusal a value is open to a second call once its first one has worked.
        let careful = self.hold.is_some();
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
            !is_open(value) && !(keeps && self.is_kept_for(ask.position, value))
        };
        let Some(first) = ask.values().find(missing) else {
            return Verdict::Overtakes;
        };
        let first = first.clone();
        let now = clock.now();
        self.close_unused(now);
        let closes = |open: &Open| open.closing.is_some_and(|from| ticket >= from);
        let (mut mine, mut present) = (0_usize, 0_usize);
        // A value that is still open but closing has to close first; one that is being tried has to work first; and the
        // calls of one that was refused have to end.
        let mut waits = false;
        for value in ask.values() {
            let kept = keeps && self.is_kept_for(ask.position, value);
            mine += usize::from(!kept);
            let Some(open) = self.open.get(value) else {
                continue;
            };
            present += usize::from(!kept);
            let tried = open.is_busy()
                && match open.state {
                    SlotState::Refused => true,
                    SlotState::New => careful,
                    SlotState::Confirmed => false,
                };
            waits |= !kept && (closes(open) || tried);
        }
        let others = self.open.len() - present;
        let held = self.hold.as_ref().is_some_and(|hold| {
            let probing = hold
                .probe
                .as_ref()
                .filter(|probe| self.open.contains_key(*probe));
            hold.until > now || probing.is_some_and(|probe| !ask.values().any(|v| v == probe))
        });
        let fits = others == 0 || others.saturating_add(mine) <= self.places();
        if !held && !waits && fits {
            Verdict::Room { value: Some(first) }
        } else {
            Verdict::Full {
                until: self.next_change(now),
                value: Some(first),
            }
        }
    }

    /// When time alone may free a place.
    fn next_change(&self, now: Instant) -> Option<Instant> {
        let first = self.unused.first_key_value();
        let closes = first.map(|((last_used, _), _)| after(*last_used, self.idle));
        let held = self
            .hold
            .as_ref()
            .map(|hold| hold.until)
            .filter(|until| *until > now);
        match held {
            // With room behind the hold, its end is the change; else both are needed.
            Some(until) if self.open.len() < self.places() => Some(until),
            Some(until) => closes.map(|closes| closes.max(until)),
            None => closes,
        }
    }

    pub(super) fn take(&mut self, ask: Ask<'_>, clock: &mut Clock) -> bool {
        let now = clock.now();
        for value in ask.values() {
            if !self.open.contains_key(value) {
                self.open_new(value, now);
            }
            self.change(value, |open| {
                open.in_use += 1;
                open.used = true;
            });
        }
        false
    }

    fn open_new(&mut self, value: &Principal, now: Instant) {
        if let Some(hold) = &mut self.hold {
            let probe = hold.probe.as_ref();
            let probing = probe.is_some_and(|probe| self.open.contains_key(probe));
            if hold.until <= now && !probing {
                hold.probe = Some(value.clone());
            }
        }
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
            },
        );
    }

    pub(super) fn give_back(&mut self, ask: Ask<'_>, end: End, clock: &mut Clock) {
        let now = clock.now();
        for value in ask.values() {
            self.give_back_value(value, end == End::Complete, now);
        }
    }

    fn give_back_value(&mut self, value: &Principal, complete: bool, now: Instant) {
        let changed = self.change(value, |open| {
            open.in_use = open.in_use.saturating_sub(1);
            open.last_used = now;
            if complete && open.state == SlotState::New {
                open.state = SlotState::Confirmed;
            }
            (open.in_use == 0, open.state == SlotState::Refused)
        });
        let Some((idle, refused)) = changed else {
            return;
        };
        let Some(mut hold) = self.hold.take() else {
            return;
        };
        if hold.probe.as_ref() == Some(value) && (idle || complete) {
            hold.probe = None;
            if complete && !refused {
                hold.until = now;
                hold.step = self.idle / FIRST_HOLD;
            }
        }
        // One at a time until all places are taken, or until the refusal is no news any more.
        let news = after(hold.refused, self.idle.saturating_mul(2));
        if self.open.len() < self.places() && now < news {
            self.hold = Some(hold);
        }
    }

    pub(super) fn exceeded(&mut self, ask: Ask<'_>, clock: &mut Clock) {
        let now = clock.now();
        // Of several values it is one of those that never worked, if there is one.
        let is_new = |value: &&Principal| {
            self.open
                .get(*value)
                .is_some_and(|open| open.state != SlotState::Confirmed)
        };
        let new: SmallVec<[&Principal; 4]> = ask.values().filter(is_new).collect();
        let all = || ask.values().collect();
        let refused = if new.is_empty() { all() } else { new };
        for value in refused {
            self.change(value, |open| open.state = SlotState::Refused);
        }
        let first = self.idle / FIRST_HOLD;
        let hold = self.hold.get_or_insert(Hold {
            until: now,
            step: first,
            refused: now,
            probe: None,
        });
        hold.refused = now;
        if hold.until <= now {
            // Refusals of calls that left before the hold began do not make it longer.
            hold.until = after(now, hold.step);
            hold.step = hold.step.saturating_mul(2).min(self.idle);
            hold.probe = None;
        }
    }

    pub(super) fn keep_place(&mut self, ask: Ask<'_>, new: bool, clock: &mut Clock) {
        let (ticket, _) = ask.position;
        let mut kept = SmallVec::new();
        for value in ask.values() {
            match self.open.get(value) {
                Some(open) => {
                    let closes = open.closing.is_some_and(|from| ticket >= from);
                    if open.state == SlotState::Refused || closes {
                        continue;
                    }
                }
                None if new => self.open_new(value, clock.now()),
                None => continue,
            }
            self.change(value, |open| open.kept += 1);
            kept.push(value.clone());
        }
        if !kept.is_empty() {
            self.kept.insert(ask.position, kept);
        }
    }

    pub(super) fn leave_place(&mut self, position: Position) -> bool {
        let Some(kept) = self.kept.remove(&position) else {
            return false;
        };
        for value in &kept {
            self.change(value, |open| open.kept = open.kept.saturating_sub(1));
        }
        true
    }

    pub(super) fn starved(&mut self, wanted: usize, next: u64) {
        for _ in self.closing..wanted {
            let Some((_, value)) = self.lasting.pop_first() else {
                return;
            };
            self.closing += 1;
            self.change(&value, |open| open.closing = Some(next));
        }
    }

    pub(super) fn tidy(&mut self, now: Instant) -> Keep {
        self.close_unused(now);
        if self.set || self.unused.len() < self.open.len() {
            return Keep::InUse;
        }
        let last = self.unused.last_key_value();
        let closes = last.map(|((last_used, _), _)| after(*last_used, self.idle));
        let held = self
            .hold
            .as_ref()
            .map(|hold| hold.until)
            .filter(|until| *until > now);
        closes.max(held).map_or(Keep::Nothing, Keep::Until)
    }

    pub(super) fn snapshot(&self, budget: Budget, now: Instant) -> BudgetSnapshot {
        let closed = self
            .unused
            .keys()
            .take_while(|(last_used, _)| after(*last_used, self.idle) <= now);
        let open = self.open.len() - closed.count();
        BudgetSnapshot::new(budget, u32::try_from(open).unwrap_or(u32::MAX), self.limit)
    }
}
