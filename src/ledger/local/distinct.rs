//! A budget of different values, such as the mailboxes that a delegate account has open.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::Config;
use super::words::{Position, Queue};
use crate::ledger::Shape;
use crate::principal::{Budget, Principal};

/// After the server refused to open one more, the next try comes after this, then after twice as long, and so on up
/// to the time that an idle value takes to close.
const FIRST_HOLD: Duration = Duration::from_secs(30);

/// The values of one budget that are open, and the calls that wait for a place among them.
#[derive(Debug)]
pub(super) struct Distinct {
    pub(super) budget: Budget,
    open: Vec<Open>,
    /// Calls that wait for a place, with the value that each needs first.
    pub(super) parked: BTreeMap<Position, Principal>,
    groups: HashMap<Principal, Queue>,
    hold: Option<Hold>,
}

/// An open value.
#[derive(Debug)]
struct Open {
    value: Principal,
    in_use: u32,
    /// Calls that wait for something else with this value open: its place is not given away before they ran.
    claims: u32,
    /// Whether any call has used it yet: a place that was only kept is free at once.
    used: bool,
    opened: Instant,
    last_used: Instant,
    /// Calls behind this place in line may not keep it open any longer.
    closing: Option<u64>,
    /// Some call has used it without being refused.
    confirmed: bool,
    /// The server refused to open it: it is not open to others, and no place is lost to it once its calls have ended.
    refused: bool,
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

/// What a value's state means for a call at some place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Open, or room for it.
    Free,
    /// No room; until then nothing changes by time alone.
    Full(Option<Instant>),
}

impl Distinct {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            budget,
            open: Vec::new(),
            parked: BTreeMap::new(),
            groups: HashMap::new(),
            hold: None,
        }
    }

    fn numbers(&self, config: &Config) -> (usize, Duration) {
        match config.shape(self.budget) {
            Some(Shape::Distinct { limit, idle }) => (limit as usize, idle),
            _ => (usize::MAX, Duration::ZERO),
        }
    }

    fn find(&mut self, value: &Principal) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.value == *value)
    }

    /// Forgets the values that the server has closed by now.
    pub(super) fn close_idle(&mut self, now: Instant, config: &Config) {
        let (_, idle) = self.numbers(config);
        self.open.retain(|open| {
            open.in_use > 0 || open.claims > 0 || (!open.refused && open.last_used + idle > now)
        });
    }

    /// Whether a call at `place` that uses `values` can have them all open.
    pub(super) fn room<'a>(
        &mut self,
        values: impl Iterator<Item = &'a Principal> + Clone,
        place: Position,
        now: Instant,
        config: &Config,
    ) -> Place {
        // After a refusal a value is open to a second call once its first one has worked.
        let careful = self.hold.is_some();
        let fits = |open: &Open| {
            !open.refused
                && (open.confirmed || !careful)
                && open.closing.is_none_or(|from| place.0 < from)
        };
        let is_open = |value: &Principal| {
            self.open
                .iter()
                .any(|open| open.value == *value && fits(open))
        };
        let new = values.clone().filter(|value| !is_open(value)).count();
        if new == 0 {
            return Place::Free;
        }
        self.close_idle(now, config);
        let (limit, _) = self.numbers(config);
        let others = self
            .open
            .iter()
            .filter(|open| !values.clone().any(|value| *value == open.value))
            .count();
        let mine = values.clone().count();
        // A value that is still open but closing has to close first; one that is being tried has to work first; and the
        // calls of one that was refused have to end.
        let waits = values.clone().any(|value| {
            self.open.iter().any(|open| {
                let closing = open.closing.is_some_and(|from| place.0 >= from);
                let busy = open.in_use > 0 || open.claims > 0;
                let tried = busy && (open.refused || (careful && !open.confirmed));
                open.value == *value && (closing || tried)
            })
        });
        let first = self
            .parked
            .first_key_value()
            .is_none_or(|(first, _)| *first >= place);
        let held = self.hold.as_ref().is_some_and(|hold| {
            let probing = hold.probe.as_ref().filter(|probe| self.is_open(probe));
            hold.until > now || probing.is_some_and(|probe| !values.clone().any(|v| v == probe))
        });
        if first && !held && !waits && (others == 0 || others.saturating_add(mine) <= limit) {
            Place::Free
        } else {
            Place::Full(self.next_change(now, config))
        }
    }

    /// When time alone may free a place.
    pub(super) fn next_change(&self, now: Instant, config: &Config) -> Option<Instant> {
        let (limit, idle) = self.numbers(config);
        let closes = self
            .open
            .iter()
            .filter(|open| open.in_use == 0 && open.claims == 0)
            .map(|open| open.last_used + idle)
            .min();
        let held = self
            .hold
            .as_ref()
            .map(|hold| hold.until)
            .filter(|until| *until > now);
        match held {
            // With room behind the hold, its end is the change; else both are needed.
            Some(until) if self.open.len() < limit => Some(until),
            Some(until) => closes.map(|closes| closes.max(until)),
            None => closes,
        }
    }

    /// Opens (or uses again) `value` for one call. Returns whether it is newly open.
    pub(super) fn acquire(&mut self, value: &Principal, now: Instant) -> bool {
        let new = !self.is_open(value);
        if new {
            self.open_new(value, now);
        }
        if let Some(open) = self.find(value) {
            open.in_use += 1;
            open.used = true;
        }
        new
    }

    fn open_new(&mut self, value: &Principal, now: Instant) {
        if let Some(mut hold) = self.hold.take() {
            let probing = hold.probe.as_ref().is_some_and(|probe| self.is_open(probe));
            if hold.until <= now && !probing {
                hold.probe = Some(value.clone());
            }
            self.hold = Some(hold);
        }
        self.open.push(Open {
            value: value.clone(),
            in_use: 0,
            claims: 0,
            used: false,
            opened: now,
            last_used: now,
            closing: None,
            confirmed: false,
            refused: false,
        });
    }

    /// One call that used `value` has ended. Returns whether others, which waited for it to work, can use it now.
    pub(super) fn release(
        &mut self,
        value: &Principal,
        complete: bool,
        now: Instant,
        config: &Config,
    ) -> bool {
        let Some(open) = self.find(value) else {
            return false;
        };
        open.in_use = open.in_use.saturating_sub(1);
        open.last_used = now;
        let refused = open.refused;
        let idle = open.in_use == 0;
        let works = complete && !refused && !open.confirmed;
        open.confirmed |= works;
        if refused && idle && open.claims == 0 {
            self.open.retain(|open| open.value != *value);
        }
        let Some(mut hold) = self.hold.take() else {
            return false;
        };
        if hold.probe.as_ref() == Some(value) && (idle || complete) {
            hold.probe = None;
            if complete && !refused {
                hold.until = now;
                hold.step = FIRST_HOLD;
            }
        }
        // One at a time until all places are taken, or until the refusal is no news any more.
        let (limit, closes) = self.numbers(config);
        if self.open.len() < limit && now < hold.refused + closes * 2 {
            self.hold = Some(hold);
        }
        works
    }

    /// The server refused a call that used `values`.
    pub(super) fn refuse<'a>(
        &mut self,
        values: impl Iterator<Item = &'a Principal> + Clone,
        now: Instant,
        config: &Config,
    ) {
        let (_, idle) = self.numbers(config);
        let first = FIRST_HOLD.min(idle);
        // Of several mailboxes it is one of those that never worked, if there is one.
        let mut new = false;
        for value in values.clone() {
            if let Some(open) = self.find(value).filter(|open| !open.confirmed) {
                open.refused = true;
                new = true;
            }
        }
        for value in values.filter(|_| !new) {
            if let Some(open) = self.find(value) {
                open.refused = true;
            }
        }
        let hold = self.hold.get_or_insert(Hold {
            until: now,
            step: first,
            refused: now,
            probe: None,
        });
        hold.refused = now;
        if hold.until <= now {
            // Refusals of calls that left before the hold began do not make it longer.
            hold.until = now + hold.step;
            hold.step = (hold.step * 2).min(idle.max(first));
            hold.probe = None;
        }
    }

    /// A call that has these values open waits for something else: their places are kept for it.
    pub(super) fn claim(&mut self, value: &Principal, place: u64) -> bool {
        match self.find(value) {
            Some(open) if !open.refused && open.closing.is_none_or(|from| place < from) => {
                open.claims += 1;
                true
            }
            _ => false,
        }
    }

    /// Gives a place to `value` for a call that waits for something else. Returns false if it has one already.
    pub(super) fn reserve(&mut self, value: &Principal, now: Instant) -> bool {
        if self.is_open(value) {
            return false;
        }
        self.open_new(value, now);
        if let Some(open) = self.find(value) {
            open.claims = 1;
        }
        true
    }

    /// Whether the place that a waiting call claimed is still one.
    pub(super) fn keeps(&self, value: &Principal) -> bool {
        self.open
            .iter()
            .any(|open| open.value == *value && open.claims > 0 && !open.refused)
    }

    pub(super) fn unclaim(&mut self, value: &Principal) {
        if let Some(open) = self.find(value) {
            open.claims = open.claims.saturating_sub(1);
            if open.claims == 0 && open.in_use == 0 && (open.refused || !open.used) {
                self.open.retain(|open| open.value != *value);
            }
        }
    }

    pub(super) fn park(&mut self, place: Position, value: &Principal) {
        self.parked.insert(place, value.clone());
        self.groups.entry(value.clone()).or_default().insert(place);
    }

    pub(super) fn unpark(&mut self, place: Position) {
        if let Some(value) = self.parked.remove(&place) {
            if let Some(group) = self.groups.get_mut(&value) {
                group.remove(&place);
                if group.is_empty() {
                    self.groups.remove(&value);
                }
            }
            if self.groups.is_empty() {
                self.groups = HashMap::new();
            }
        }
    }

    /// The calls that wait for `value`, in order.
    pub(super) fn group(&self, value: &Principal) -> Vec<Position> {
        self.groups
            .get(value)
            .map(|group| group.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Lets go of as many open values as there are values wanted by calls that waited too long.
    pub(super) fn close_for(&mut self, aged: impl Fn(Position) -> bool, next_place: u64) {
        let mut closing = self
            .open
            .iter()
            .filter(|open| open.closing.is_some())
            .count();
        let mut wanted: Vec<&Principal> = Vec::new();
        for (position, value) in &self.parked {
            if wanted.len() == self.open.len() || closing == self.open.len() || !aged(*position) {
                break;
            }
            if !wanted.contains(&value) {
                wanted.push(value);
            }
        }
        let wanted = wanted.len();
        while closing < wanted {
            let longest = self
                .open
                .iter_mut()
                .filter(|open| open.closing.is_none())
                .min_by_key(|open| open.opened);
            let Some(open) = longest else { return };
            open.closing = Some(next_place);
            closing += 1;
        }
    }

    /// How many values are open.
    pub(super) fn open_at(&self, now: Instant, config: &Config) -> u32 {
        let (_, idle) = self.numbers(config);
        let open = self
            .open
            .iter()
            .filter(|open| open.in_use > 0 || open.claims > 0 || open.last_used + idle > now);
        u32::try_from(open.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn has_waiters(&self) -> bool {
        !self.parked.is_empty()
    }

    pub(super) fn is_open(&self, value: &Principal) -> bool {
        self.open.iter().any(|open| open.value == *value)
    }

    pub(super) fn is_vacant(&self, now: Instant) -> bool {
        self.open.is_empty()
            && self.parked.is_empty()
            && self.hold.as_ref().is_none_or(|hold| hold.until <= now)
    }

    pub(super) fn keep_until(&self, config: &Config) -> Option<Instant> {
        let (_, idle) = self.numbers(config);
        self.open
            .iter()
            .map(|open| open.last_used + idle)
            .chain(self.hold.as_ref().map(|hold| hold.until))
            .max()
    }
}
