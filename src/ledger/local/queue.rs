//! [`Queue`]: the calls that wait, each in the list of the one thing that holds it back. It knows no limits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;
use std::time::Duration;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::clock::after;
use super::list::List;
use super::meter::Position;
use crate::extensions::Priority;
use crate::ledger::{AcquireRequest, Admission, Contended};
use crate::principal::Principal;

/// The number of calls at the head of a list that have a timer each, so that one that is not polled holds up nobody.
const ARMED: usize = 4;

/// An admission that is not picked up for this long goes to somebody else, or sooner after others that were not.
pub(super) const CLAIM: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiters: Slab<Waiter>,
    lists: HashMap<Contended, List>,
    /// How many of the waiters still wait.
    len: usize,
    /// Admissions that were handed over, by when they go to somebody else. Those that were picked up go once they are first.
    unclaimed: VecDeque<(Instant, Position)>,
    /// Those among them that are held for less than a second.
    hurried: BTreeSet<(Instant, Position)>,
    /// When lists have to be looked at, whoever does it.
    alarms: BTreeMap<(Instant, u64), Contended>,
    alarms_set: u64,
    wakers: Vec<Waker>,
    /// Wakers that nobody needs any more. Dropping one can run code of its executor, so it happens outside the lock.
    spent: Vec<Waker>,
}

/// A call that waits, or that was admitted and does not know it yet.
#[derive(Debug)]
struct Waiter {
    /// None while an admission has it.
    request: Option<AcquireRequest>,
    position: Position,
    since: Instant,
    waker: Option<Waker>,
    state: WaiterState,
}

#[derive(Debug)]
enum WaiterState {
    Waits {
        contended: Contended,
        /// The value that it needs first, where it waits for one.
        value: Option<Principal>,
        /// When to look again.
        until: Option<Instant>,
    },
    /// Until then, if it is not picked up.
    Admitted(Instant, Admission),
    /// It was admitted and not polled in time, or it was woken to ask. It asks again when it is polled.
    Absent,
}

/// What has become of a waiting call.
#[derive(Debug)]
pub(super) enum Look {
    Admitted(Admission),
    Waits {
        contended: Contended,
        /// When to look again.
        until: Option<Instant>,
    },
    /// It has to ask again.
    Absent,
}

/// Where a call stands, for tests.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stands {
    In(Contended),
    /// Admitted by that number, and not picked up.
    Admitted(u64),
    Nowhere,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether the first calls of its lists are all that wait: there is no keeper.
    pub(super) fn is_short(&self) -> bool {
        self.len <= ARMED
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// The key that the next call to join gets.
    pub(super) fn next_key(&self) -> usize {
        self.waiters.vacant_key()
    }

    /// Adds a call. It stands in no list yet.
    pub(super) fn join(&mut self, request: AcquireRequest, position: Position, since: Instant) {
        self.len += 1;
        let key = self.waiters.insert(Waiter {
            request: Some(request),
            position,
            since,
            waker: None,
            state: WaiterState::Absent,
        });
        debug_assert_eq!(key, position.key);
    }

    /// Puts a call into the list of `contended`. It stands in none.
    pub(super) fn park(
        &mut self,
        position: Position,
        contended: Contended,
        value: Option<Principal>,
    ) {
        let Some(waiter) = self.waiters.get_mut(position.key) else {
            return;
        };
        // Time holds back each call by itself.
        if contended != Contended::Time {
            let list = self.lists.entry(contended.clone()).or_default();
            list.insert(position, value.as_ref());
        }
        waiter.state = WaiterState::Waits {
            contended,
            value,
            until: None,
        };
    }

    /// Takes a call out of its list. Returns what it waited for.
    pub(super) fn unpark(&mut self, position: Position) -> Option<Contended> {
        let waiter = self.waiters.get_mut(position.key)?;
        let state = std::mem::replace(&mut waiter.state, WaiterState::Absent);
        let WaiterState::Waits {
            contended, value, ..
        } = state
        else {
            waiter.state = state;
            return None;
        };
        if let Some(list) = self.lists.get_mut(&contended) {
            list.remove(position, value.as_ref());
            if list.is_empty() {
                if let Some(alarm) = list.alarm {
                    self.alarms.remove(&alarm);
                }
                self.lists.remove(&contended);
                if self.lists.is_empty() {
                    self.lists.shrink_to(64);
                }
            }
        }
        Some(contended)
    }

    /// Removes a call for good. It stands in no list.
    pub(super) fn remove(&mut self, position: Position) -> Option<Admission> {
        let waiter = self.waiters.try_remove(position.key)?;
        self.spent.extend(waiter.waker);
        if self.waiters.is_empty() {
            self.waiters.shrink_to_fit();
            self.unclaimed = VecDeque::new();
            self.hurried = BTreeSet::new();
        }
        match waiter.state {
            WaiterState::Admitted(_, admission) => Some(admission),
            WaiterState::Waits { .. } | WaiterState::Absent => {
                self.len -= 1;
                None
            }
        }
    }

    /// Hands an admission to a call that stands in no list, for so long, and wakes it.
    pub(super) fn hand_over(
        &mut self,
        position: Position,
        admission: Admission,
        now: Instant,
        hold: Duration,
    ) {
        if let Some(waiter) = self.waiters.get_mut(position.key) {
            self.len -= 1;
            let until = after(now, hold);
            waiter.state = WaiterState::Admitted(until, admission);
            self.wakers.extend(waiter.waker.take());
            if hold < CLAIM {
                self.hurried.insert((until, position));
            } else {
                self.unclaimed.push_back((until, position));
            }
        }
    }

    /// Wakes a call that stands in no list: it may go if it asks.
    pub(super) fn call_out(&mut self, position: Position) {
        if let Some(waiter) = self.waiters.get_mut(position.key) {
            self.wakers.extend(waiter.waker.take());
        }
    }

    /// Picks up what a call was admitted to, if it was.
    pub(super) fn claim(&mut self, position: Position) -> Option<Admission> {
        match &self.waiters.get(position.key)?.state {
            WaiterState::Admitted(..) => self.remove(position),
            WaiterState::Waits { .. } | WaiterState::Absent => None,
        }
    }

    /// Takes the first admission off those that were handed over, if it is due or was picked up.
    pub(super) fn pop_unclaimed(&mut self, now: Instant) -> Option<(Instant, Position)> {
        let first = self.first_unclaimed()?;
        if first.0 > now && self.is_unclaimed(first) {
            return None;
        }
        if self.unclaimed.front() == Some(&first) {
            self.unclaimed.pop_front();
        } else {
            self.hurried.pop_first();
        }
        Some(first)
    }

    /// Takes back an admission that was to be picked up by then, if it was not.
    pub(super) fn revoke(&mut self, handed_over: (Instant, Position)) -> Option<Admission> {
        if !self.is_unclaimed(handed_over) {
            return None;
        }
        let waiter = self.waiters.get_mut(handed_over.1.key)?;
        match std::mem::replace(&mut waiter.state, WaiterState::Absent) {
            WaiterState::Admitted(_, admission) => {
                self.len += 1;
                waiter.request = Some(admission.request().clone());
                Some(admission)
            }
            WaiterState::Waits { .. } | WaiterState::Absent => None,
        }
    }

    fn is_unclaimed(&self, (until, position): (Instant, Position)) -> bool {
        let state = self.waiters.get(position.key).map(|waiter| &waiter.state);
        matches!(state, Some(WaiterState::Admitted(known, _)) if *known == until)
    }

    /// The admission that goes to somebody else first. It may have been picked up: then there is one look more than needed.
    fn first_unclaimed(&self) -> Option<(Instant, Position)> {
        let first = self.unclaimed.front().into_iter();
        first.chain(self.hurried.first()).min().copied()
    }

    pub(super) fn request(&self, position: Position) -> Option<&AcquireRequest> {
        let waiter = self.waiters.get(position.key)?;
        match &waiter.state {
            WaiterState::Admitted(_, admission) => Some(admission.request()),
            WaiterState::Waits { .. } | WaiterState::Absent => waiter.request.as_ref(),
        }
    }

    /// What a call that waits asks for by what is known now.
    pub(super) fn request_now(&mut self, position: Position) -> Option<AcquireRequest> {
        let request = self.waiters.get_mut(position.key)?.request.as_mut()?;
        if let Some(estimated) = request.estimated() {
            *request = estimated;
        }
        Some(request.clone())
    }

    /// Takes the request of a call that is handed its admission next.
    pub(super) fn take_request(&mut self, position: Position) -> Option<AcquireRequest> {
        self.waiters.get_mut(position.key)?.request.take()
    }

    /// The first call of a list in which there are `calls`, all of one priority.
    pub(super) fn first_of_all(&self, contended: &Contended, calls: u32) -> Option<Position> {
        let list = self.lists.get(contended)?;
        let all = list.len() == calls as usize && list.is_of_one_priority();
        list.first().filter(|_| all)
    }

    /// The call that others overtake, by their priority, and since when it has been its turn.
    pub(super) fn overtaken(&self, contended: &Contended) -> Option<(Position, Instant)> {
        let list = self.lists.get(contended)?;
        let position = list.overtaken()?;
        let since = self.since(position)?;
        Some((
            position,
            list.promoted.map_or(since, |last| last.max(since)),
        ))
    }

    /// Puts a call of a list, which it has left, among the most urgent ones there. Returns where it stands now.
    pub(super) fn promote(
        &mut self,
        position: Position,
        contended: &Contended,
        now: Instant,
    ) -> Position {
        let promoted = Position {
            priority: Priority::Interactive,
            ..position
        };
        if let Some(waiter) = self.waiters.get_mut(position.key) {
            waiter.position = promoted;
        }
        if let Some(list) = self.lists.get_mut(contended) {
            list.promoted = Some(now);
        }
        promoted
    }

    /// Where the call stands that joined at `position`.
    pub(super) fn current(&self, position: Position) -> Position {
        let waiter = self.waiters.get(position.key);
        waiter.map_or(position, |waiter| waiter.position)
    }

    pub(super) fn since(&self, position: Position) -> Option<Instant> {
        Some(self.waiters.get(position.key)?.since)
    }

    /// The value that the call needs first, if it waits for one.
    pub(super) fn value(&self, position: Position) -> Option<&Principal> {
        match &self.waiters.get(position.key)?.state {
            WaiterState::Waits { value, .. } => value.as_ref(),
            WaiterState::Admitted(..) | WaiterState::Absent => None,
        }
    }

    /// What the call waits for, and when it was to look again.
    pub(super) fn waits_for(&self, position: Position) -> Option<(&Contended, Option<Instant>)> {
        match &self.waiters.get(position.key)?.state {
            WaiterState::Waits {
                contended, until, ..
            } => Some((contended, *until)),
            WaiterState::Admitted(..) | WaiterState::Absent => None,
        }
    }

    pub(super) fn first(&self, contended: &Contended) -> Option<Position> {
        self.lists.get(contended)?.first()
    }

    /// The values that the calls of a list need first, in the order of the calls.
    #[cfg(feature = "redis")]
    pub(super) fn values_of(&self, contended: &Contended) -> impl Iterator<Item = &Principal> {
        let list = self.lists.get(contended);
        list.into_iter()
            .flat_map(List::heads)
            .map(|(_, value)| value)
    }

    /// The first call of those that need `value` first.
    pub(super) fn first_of(&self, contended: &Contended, value: &Principal) -> Option<Position> {
        self.lists.get(contended)?.first_of(value)
    }

    /// How many wait for `contended`, of each priority.
    #[cfg(feature = "redis")]
    pub(super) fn counts(&self, contended: &Contended) -> [usize; 3] {
        self.lists.get(contended).map_or([0; 3], List::counts)
    }

    /// How many wait for `contended`.
    pub(super) fn count(&self, contended: &Contended) -> usize {
        self.lists.get(contended).map_or(0, List::len)
    }

    /// Whether the log is to be told that a call waits for long, for bodies that nobody reads or for its turn.
    pub(super) fn tell(&mut self, contended: &Contended, unread: bool, now: Instant) -> bool {
        let list = self.lists.get_mut(contended);
        list.is_none_or(|list| list.tell(unread, now))
    }

    /// Whether anybody waits for `contended`.
    pub(super) fn has(&self, contended: &Contended) -> bool {
        !self.lists.is_empty() && self.lists.contains_key(contended)
    }

    /// How many of the first `most` different values that calls need here have been waited for since `before` or longer.
    pub(super) fn values_since(
        &self,
        contended: &Contended,
        before: impl Fn(Instant) -> bool,
        most: usize,
    ) -> usize {
        let heads = self.lists.get(contended).into_iter();
        heads
            .flat_map(List::heads)
            .take(most)
            .take_while(|(head, _)| self.since(*head).is_some_and(&before))
            .count()
    }

    /// The list is looked at then at the latest, whether or not its calls are polled.
    fn set_alarm(&mut self, contended: &Contended, at: Instant) {
        let Some(list) = self.lists.get_mut(contended) else {
            return;
        };
        // One that is earlier than needed looks again and is set anew then.
        if list.alarm.is_none_or(|(known, _)| at < known) {
            self.alarms_set += 1;
            let alarm = (at, self.alarms_set);
            if let Some(known) = list.alarm.replace(alarm) {
                self.alarms.remove(&known);
            }
            self.alarms.insert(alarm, contended.clone());
        }
    }

    /// A list that has to be looked at by now.
    pub(super) fn alarm_due(&mut self, now: Instant) -> Option<Contended> {
        let first = self.alarms.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let contended = first.remove();
        if let Some(list) = self.lists.get_mut(&contended) {
            list.alarm = None;
        }
        Some(contended)
    }

    /// When a list has to be looked at next, or an admission that is held for less than a second.
    pub(super) fn next_alarm(&self) -> Option<Instant> {
        let alarm = self.alarms.keys().next().map(|(at, _)| *at);
        let hurried = self.hurried.first().map(|(until, _)| *until);
        alarm.into_iter().chain(hurried).min()
    }

    /// When the keeper looks next: an admission that comes later and is held for a second is not due before that.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        let first = self.first_unclaimed();
        let claim = first.map_or(after(now, CLAIM), |(until, _)| until);
        self.next_alarm().map_or(claim, |alarm| alarm.min(claim))
    }

    /// Gives the first calls of a list the time at which they look again.
    pub(super) fn arm(&mut self, contended: &Contended, until: Option<Instant>) {
        if let Some(until) = until {
            self.set_alarm(contended, until);
        }
        // Somebody has to see to it that what is due goes on, and what is not picked up: the keeper, if there is one.
        let short = self.is_short();
        let claim = self.first_unclaimed().filter(|_| short);
        let claim = claim.map(|(until, _)| until);
        let list = self.lists.get(contended).filter(|_| short);
        let alarm = list.and_then(|list| list.alarm).map(|(at, _)| at);
        let until = [until, claim, alarm].into_iter().flatten().min();
        let Some(until) = until else { return };
        let Some(list) = self.lists.get(contended) else {
            return;
        };
        let heads: SmallVec<[Position; ARMED]> = list.calls().take(ARMED).collect();
        for head in heads {
            self.look_at(head, until);
        }
    }

    /// The call looks again then at the latest.
    pub(super) fn look_at(&mut self, position: Position, at: Instant) {
        let Some(waiter) = self.waiters.get_mut(position.key) else {
            return;
        };
        if let WaiterState::Waits { until, .. } = &mut waiter.state {
            // A timer that is set earlier looks again and is set anew then.
            if until.is_none_or(|known| at < known) {
                *until = Some(at);
                self.wakers.extend(waiter.waker.take());
            }
        }
    }

    /// The time at which the call was to look again has come and brought nothing.
    pub(super) fn disarm(&mut self, position: Position) {
        if let Some(Waiter {
            state: WaiterState::Waits { until, .. },
            ..
        }) = self.waiters.get_mut(position.key)
        {
            *until = None;
        }
    }

    /// Wakes the first calls of a list, to go on with what was left to do.
    pub(super) fn wake_first(&mut self, contended: &Contended) {
        let Some(list) = self.lists.get(contended) else {
            return;
        };
        for head in list.calls().take(ARMED) {
            if let Some(waiter) = self.waiters.get_mut(head.key) {
                self.wakers.extend(waiter.waker.take());
            }
        }
    }

    /// What has become of a call. It is woken by `waker` when that changes.
    pub(super) fn look(&mut self, position: Position, waker: &Waker) -> Look {
        let Some(waiter) = self.waiters.get_mut(position.key) else {
            return Look::Absent;
        };
        match &waiter.state {
            WaiterState::Waits {
                contended, until, ..
            } => {
                let (contended, until) = (contended.clone(), *until);
                let known = waiter.waker.as_ref();
                if !known.is_some_and(|known| known.will_wake(waker)) {
                    let replaced = waiter.waker.replace(waker.clone());
                    self.spent.extend(replaced);
                }
                Look::Waits { contended, until }
            }
            WaiterState::Absent => Look::Absent,
            WaiterState::Admitted(..) => match self.remove(position) {
                Some(admission) => Look::Admitted(admission),
                None => Look::Absent,
            },
        }
    }

    /// The calls to wake and the wakers to drop, once the lock is given back.
    pub(super) fn take_wakers(&mut self) -> [SmallVec<[Waker; 4]>; 2] {
        [
            self.wakers.drain(..).collect(),
            self.spent.drain(..).collect(),
        ]
    }

    /// Every call in the queue, and its position where it stands in a list.
    #[cfg(test)]
    pub(super) fn calls(&self) -> Vec<(Position, AcquireRequest, Stands)> {
        let listed = self.lists.values().flat_map(List::calls);
        let positions: HashMap<_, _> = listed.map(|position| (position.key, position)).collect();
        let calls = self.waiters.iter().map(|(key, waiter)| {
            let stands = match &waiter.state {
                WaiterState::Waits { contended, .. } => Stands::In(contended.clone()),
                WaiterState::Admitted(_, admission) => Stands::Admitted(admission.sequence()),
                WaiterState::Absent => Stands::Nowhere,
            };
            let position = positions.get(&key).copied().unwrap_or(waiter.position);
            let request = self.request(waiter.position).cloned();
            (position, request.unwrap_or_default(), stands)
        });
        calls.collect()
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> (usize, usize, usize) {
        let alarms = self.alarms.len() + self.unclaimed.len() + self.hurried.len();
        (self.waiters.len(), self.lists.len(), alarms)
    }

    pub(super) fn has_wakers(&self) -> bool {
        !self.wakers.is_empty() || !self.spent.is_empty()
    }
}
