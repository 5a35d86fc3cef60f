//! Which members go into the next part.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::draft::{Bounds, Draft, Fit, MAX_GROUPS};
use super::format::{Batch, Order};
use crate::body::rope::Rope;

/// The part of a member that was in none yet.
const NO_PART: u32 = u32::MAX;

/// What is remembered of each member.
#[derive(Debug)]
pub(super) struct Member {
    state: State,
    /// The last part that it was in.
    part: u32,
    /// The most members that a part with this one may have.
    pub(super) cap: usize,
    /// How many parts with it failed as a whole.
    failures: u32,
    /// How often it failed by itself: by its own message, or as a part that could not be made smaller.
    pub(super) tries: u32,
    /// How often a refusal of it did not count, since others were refused as well.
    pub(super) spared: u8,
    /// How often the server has throttled it by a message of its own.
    pub(super) throttled: u32,
    /// Whether it came back from a part that could not be made smaller.
    pub(super) was_alone: bool,
    /// It is not sent before this time.
    not_before: Option<Instant>,
    /// Whether an earlier part that it was in may have been executed.
    pub(super) maybe_executed: bool,
    /// The last error of the server or the connection.
    pub(super) last_error: Option<LastError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    InFlight,
    Done,
    Failed,
}

/// Why a member has to be sent again.
#[derive(Clone, Debug)]
pub(super) enum LastError {
    /// Its own message.
    Message(Rope),
    /// The failure of its part.
    Part(Arc<PartError>),
}

/// The failure of a whole part.
#[derive(Clone, Debug, Default)]
pub(super) struct PartError {
    pub(super) message: Option<Rope>,
    pub(super) code: Option<Box<str>>,
    pub(super) text: Box<str>,
    /// Whether the part may have been executed.
    pub(super) maybe_executed: bool,
    /// Whether the server has not seen it.
    pub(super) unsent: bool,
}

impl PartError {
    pub(super) fn not_executed(text: impl Into<Box<str>>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }
}

/// What is sent next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextPart {
    /// These members. They are in flight from now on.
    Members(Vec<usize>),
    /// The members on the left are never sent, since the ones on the right failed, which they need. They count as failed.
    Blocked(Vec<(usize, usize)>),
    /// Nothing, before this time.
    NotBefore(Instant),
    /// Nothing, before a part has come back.
    Nothing,
}

/// Where a member stands among those that wait: the rank of its group, the parts with it that failed, its number.
type WaitingKey = (u32, u32, usize);

/// The members of one batch, and where each of them is.
#[derive(Debug)]
pub(super) struct Plan {
    members: Vec<Member>,
    /// In the order in which they are sent.
    waiting: BTreeSet<WaitingKey>,
    /// Whether members that failed go behind the others.
    defers_failed: bool,
    /// The rank of each member's group in that order, if members are sent group by group.
    ranks: Option<Vec<u32>>,
    settled: usize,
    /// The first member that is not settled.
    first_open: usize,
    parts: u32,
}

/// Whether the members that others need have succeeded.
enum Needs {
    Met,
    Pending,
    Failed(usize),
}

impl Plan {
    pub(super) fn new(batch: &impl Batch) -> Self {
        let count = batch.members();
        let ranks = ranks(batch);
        let rank = |member: usize| rank_of(ranks.as_deref(), member);
        let waiting = (0..count).map(|member| (rank(member), 0, member)).collect();
        let member = |_| Member {
            state: State::Waiting,
            part: NO_PART,
            cap: usize::MAX,
            failures: 0,
            tries: 0,
            spared: 0,
            throttled: 0,
            was_alone: false,
            not_before: None,
            maybe_executed: false,
            last_error: None,
        };
        Self {
            members: (0..count).map(member).collect(),
            waiting,
            defers_failed: batch.order() == Order::Free,
            ranks,
            settled: 0,
            first_open: 0,
            parts: 0,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.settled == self.members.len()
    }

    pub(super) fn is_settled(&self, member: usize) -> bool {
        let member = self.members.get(member);
        member.is_none_or(|member| matches!(member.state, State::Done | State::Failed))
    }

    /// Whether members are sent group by group, so that the first ones may be sent last.
    pub(super) fn is_by_group(&self) -> bool {
        self.ranks.is_some()
    }

    /// Returns the first member that is not settled.
    pub(super) fn first_open(&self) -> usize {
        self.first_open
    }

    /// Returns how many parts were made.
    pub(super) fn parts(&self) -> u32 {
        self.parts
    }

    pub(super) fn member(&mut self, member: usize) -> Option<&mut Member> {
        self.members.get_mut(member)
    }

    pub(super) fn nothing_waits(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the members that wait to be sent, in order.
    pub(super) fn waiting(&self) -> Vec<usize> {
        let mut waiting: Vec<_> = self.waiting.iter().map(|(.., member)| *member).collect();
        waiting.sort_unstable();
        waiting
    }

    /// Gives a member its final state. Returns whether it had none before.
    pub(super) fn settle(&mut self, member: usize, done: bool) -> bool {
        let open = !self.is_settled(member);
        let key = self.waiting_key(member);
        if let Some(known) = self.members.get_mut(member).filter(|_| open) {
            if known.state == State::Waiting {
                self.waiting.remove(&key);
            }
            known.state = if done { State::Done } else { State::Failed };
            known.last_error = None;
            self.settled += 1;
            while self.first_open < self.members.len() && self.is_settled(self.first_open) {
                self.first_open += 1;
            }
        }
        open
    }

    /// Puts a member that is in flight back among those that wait.
    pub(super) fn send_again(&mut self, member: usize, error: LastError) {
        let key = self.waiting_key(member);
        if let Some(known) = self.members.get_mut(member) {
            if known.state == State::InFlight {
                known.state = State::Waiting;
                known.last_error = Some(error);
                self.waiting.insert(key);
            }
        }
    }

    /// Counts a part with these members, which are in flight, that failed as a whole.
    pub(super) fn count_failure(&mut self, part: &[usize]) {
        for &member in part {
            if let Some(known) = self.members.get_mut(member) {
                known.failures = known.failures.saturating_add(1);
            }
        }
    }

    /// Puts members that wait behind those that failed less often.
    pub(super) fn defer(&mut self, members: &[usize]) {
        for &member in members {
            let key = self.waiting_key(member);
            if self.waiting.remove(&key) {
                self.count_failure(&[member]);
                self.waiting.insert(self.waiting_key(member));
            }
        }
    }

    /// Returns how often the server has throttled the first member that is not settled.
    pub(super) fn first_open_throttled(&self) -> usize {
        let first = self.members.get(self.first_open);
        first.map_or(0, |first| first.throttled as usize)
    }

    /// Sets when a member may be sent again, at the earliest.
    pub(super) fn hold(&mut self, member: usize, until: Instant) {
        if let Some(known) = self.members.get_mut(member) {
            known.not_before = Some(until);
        }
    }

    fn waiting_key(&self, member: usize) -> WaitingKey {
        let failures = self.members.get(member).map_or(0, |known| known.failures);
        let failures = if self.defers_failed { failures } else { 0 };
        (rank_of(self.ranks.as_deref(), member), failures, member)
    }

    /// Puts one waiting member in flight, together with those that have to be in its part: any one, of those that never failed by
    /// themselves if there are any. Order has to make no difference.
    ///
    /// It is drawn, so that there are no places where a few members that are to blame look like all.
    pub(super) fn next_alone(
        &mut self,
        batch: &impl Batch,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> NextPart {
        let ready = |plan: &Self, member: usize| {
            let known = plan.members.get(member);
            let due = known.is_some_and(|known| known.not_before.is_none_or(|until| until <= now));
            due && matches!(plan.needs(batch, &plan.unit_of(batch, member)), Needs::Met)
        };
        let mut all = self.waiting();
        all.retain(|member| ready(self, *member));
        let never_failed = |known: &Member| known.tries == 0 && !known.was_alone;
        let untried = |member: &usize| self.members.get(*member).is_some_and(never_failed);
        let fresh: Vec<usize> = all.iter().copied().filter(untried).collect();
        let from = if fresh.is_empty() { all } else { fresh };
        let Some(&chosen) = rng.choice(&from) else {
            return self.nothing(now);
        };
        let unit = self.unit_of(batch, chosen);
        self.set_part(&unit, self.parts);
        NextPart::Members(self.begin(unit.to_vec()))
    }

    /// What comes next if nothing can be sent now.
    fn nothing(&self, now: Instant) -> NextPart {
        let held = self.waiting.iter().filter_map(|(.., member)| {
            let until = self.members.get(*member)?.not_before?;
            (until > now).then_some(until)
        });
        held.min().map_or(NextPart::Nothing, NextPart::NotBefore)
    }

    /// Whether these members cannot be sent in smaller parts.
    pub(super) fn is_one_piece(&self, batch: &impl Batch, part: &[usize]) -> bool {
        let joined = |pair: &[usize]| match pair {
            [one, next] => (*one..*next).all(|member| batch.joined(member)),
            _ => true,
        };
        part.windows(2).all(joined)
    }

    /// Makes the next part.
    pub(super) fn next(&mut self, batch: &impl Batch, bounds: Bounds, now: Instant) -> NextPart {
        let mut draft = Draft::new(batch, bounds);
        let mut blocked = Vec::new();
        let mut from = (0, 0, 0);
        let mut failures_of_draft = 0;
        while let Some(&(rank, failures, first)) = self.waiting.range(from..).next() {
            // Members that failed would take the others with them.
            if !draft.is_empty() && failures != failures_of_draft {
                break;
            }
            let unit = self.unit(batch, first);
            // All members of a unit have one rank and failed together.
            from = (rank, failures, unit.last().map_or(first, |last| *last) + 1);
            if first >= bounds.end {
                if self.ranks.is_some() {
                    continue;
                }
                if bounds.whole_only && blocked.is_empty() {
                    self.put_back(draft.members());
                    return NextPart::Nothing;
                }
                from = (rank, failures.saturating_add(1), 0);
                continue;
            }
            if draft.is_empty() {
                failures_of_draft = failures;
            }
            if self
                .take(batch, &unit, now, &mut draft, &mut blocked)
                .is_break()
            {
                break;
            }
        }
        if !blocked.is_empty() {
            // The draft is made again by the next call.
            self.put_back(draft.members());
            return NextPart::Blocked(blocked);
        }
        match draft.is_empty() {
            true => self.nothing(now),
            false => NextPart::Members(self.begin(draft.into_members())),
        }
    }

    /// Adds a unit to the draft, or to what is blocked for good, if it is its turn. Breaks if nothing else is to be added.
    fn take(
        &mut self,
        batch: &impl Batch,
        unit: &[usize],
        now: Instant,
        draft: &mut Draft,
        blocked: &mut Vec<(usize, usize)>,
    ) -> ControlFlow<()> {
        if self.is_held(unit, now) {
            return match self.defers_failed {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            };
        }
        match self.needs(batch, unit) {
            Needs::Met => {}
            Needs::Pending => return ControlFlow::Continue(()),
            Needs::Failed(need) => {
                for &member in unit {
                    self.settle(member, false);
                    blocked.push((member, need));
                }
                return ControlFlow::Continue(());
            }
        }
        let caps = unit.iter().map(|member| self.cap(*member));
        let fit = draft.add(batch, unit, caps.min().unwrap_or(1));
        if !matches!(fit, Fit::TooMuch) {
            self.set_part(unit, self.parts);
        }
        match fit {
            Fit::TooMuch | Fit::Full => ControlFlow::Break(()),
            Fit::Room => ControlFlow::Continue(()),
        }
    }

    /// Puts the members of a part in flight. Returns them in order.
    fn begin(&mut self, mut part: Vec<usize>) -> Vec<usize> {
        for &member in &part {
            let key = self.waiting_key(member);
            self.waiting.remove(&key);
            if let Some(known) = self.members.get_mut(member) {
                known.state = State::InFlight;
            }
        }
        self.parts = self.parts.saturating_add(1);
        part.sort_unstable();
        part
    }

    /// Whether the members of `unit` can be sent, as far as the members that they need go.
    fn needs(&self, batch: &impl Batch, unit: &[usize]) -> Needs {
        let mut pending = false;
        let mut failed = None;
        for &member in unit {
            for &need in batch.needs(member) {
                match self.members.get(need) {
                    Some(known) if known.state == State::Done => {}
                    Some(known) if known.state != State::Failed => {
                        let beside = known.part == self.parts || unit.contains(&need);
                        pending |= !(beside && need < member);
                    }
                    _ => failed = failed.or(Some(need)),
                }
            }
        }
        match failed {
            Some(need) => Needs::Failed(need),
            None if pending => Needs::Pending,
            None => Needs::Met,
        }
    }

    fn is_held(&self, unit: &[usize], now: Instant) -> bool {
        unit.iter().any(|member| {
            let known = self.members.get(*member);
            known.is_some_and(|known| known.not_before.is_some_and(|until| now < until))
        })
    }

    fn cap(&self, member: usize) -> usize {
        self.members.get(member).map_or(1, |known| known.cap)
    }

    fn put_back(&mut self, members: &[usize]) {
        self.set_part(members, NO_PART);
    }

    fn set_part(&mut self, members: &[usize], part: u32) {
        for &member in members {
            if let Some(known) = self.members.get_mut(member) {
                known.part = part;
            }
        }
    }

    /// Returns the waiting members that have to be in one part with the waiting member `member`.
    fn unit_of(&self, batch: &impl Batch, member: usize) -> SmallVec<[usize; 4]> {
        let mut first = member;
        while first > 0 && batch.joined(first - 1) {
            first -= 1;
        }
        let waits = |member: &usize| {
            let known = self.members.get(*member);
            known.is_some_and(|known| known.state == State::Waiting)
        };
        let first = (first..=member).find(waits).unwrap_or(member);
        self.unit(batch, first)
    }

    /// Returns the waiting members that have to be in one part with the waiting member `first`, the first of them.
    fn unit(&self, batch: &impl Batch, first: usize) -> SmallVec<[usize; 4]> {
        let mut unit = smallvec::smallvec![first];
        let mut member = first;
        while member + 1 < self.members.len() && batch.joined(member) {
            member += 1;
            let known = self.members.get(member);
            if known.is_some_and(|known| known.state == State::Waiting) {
                unit.push(member);
            }
        }
        unit
    }
}

fn rank_of(ranks: Option<&[u32]>, member: usize) -> u32 {
    ranks
        .and_then(|ranks| ranks.get(member))
        .copied()
        .unwrap_or(0)
}

/// Returns the ranks of the members' groups by first appearance, if there are too many groups for one part and order does
/// not matter. Joined members have the rank of the first of them.
fn ranks(batch: &impl Batch) -> Option<Vec<u32>> {
    if batch.order() != Order::Free {
        return None;
    }
    let mut seen = HashMap::new();
    let mut ranks: Vec<u32> = Vec::new();
    for member in 0..batch.members() {
        let rank = batch.group(member).map(|group| {
            let next = u32::try_from(seen.len()).unwrap_or(u32::MAX);
            *seen.entry(group).or_insert(next)
        });
        let before = ranks.last().copied().unwrap_or(0);
        let joined = member
            .checked_sub(1)
            .is_some_and(|before| batch.joined(before));
        ranks.push(match rank {
            Some(rank) if !joined => rank,
            _ => before,
        });
    }
    (seen.len() > MAX_GROUPS).then_some(ranks)
}

#[cfg(test)]
mod tests;
