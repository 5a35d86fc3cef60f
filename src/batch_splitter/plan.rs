//! Which members go into the next part.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;

use super::format::{Batch, Order};
use crate::body::rope::Rope;

/// How many different groups a part touches at most. Exchange lets an account have so many mailboxes open.
const MOST_GROUPS: usize = 16;

/// What is remembered of each member.
#[derive(Debug)]
pub(super) struct Member {
    state: State,
    /// The part that it was put in last.
    part: u32,
    /// The most members that a part with this one may have.
    pub(super) cap: usize,
    /// How often it failed to get through although its part could not be made smaller.
    pub(super) alone: u8,
    /// An earlier part that it was in may have been executed.
    pub(super) maybe: bool,
    /// What the server or the wire said last.
    pub(super) last: Option<Last>,
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
pub(super) enum Last {
    /// Its own message.
    Message(Rope),
    /// What its part suffered.
    Part(Arc<PartError>),
}

/// What a part suffered as a whole.
#[derive(Clone, Debug, Default)]
pub(super) struct PartError {
    pub(super) message: Option<Rope>,
    pub(super) code: Option<Box<str>>,
    pub(super) text: Box<str>,
    /// It may have been executed.
    pub(super) unknown: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// These members are sent. They are in flight from now on.
    Part(Vec<usize>),
    /// Members are not sent, since another one did not succeed. They count as failed.
    Doomed(Vec<(usize, usize)>),
    /// Nothing can be sent before something else has come back.
    Nothing,
}

/// The bounds of a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) members: usize,
    pub(super) bytes: u64,
    /// Members from here on are not sent yet.
    pub(super) end: usize,
    /// A part that could be larger but for that is not made yet, either.
    pub(super) patient: bool,
}

/// The members of one batch, and where each of them is.
#[derive(Debug)]
pub(super) struct Plan {
    members: Vec<Member>,
    /// In the order in which they are sent.
    waiting: BTreeSet<(u32, usize)>,
    /// The place of each member's group in that order, if they go group by group.
    ranks: Option<Vec<u32>>,
    settled: usize,
    /// No member before this one is unsettled.
    first_open: usize,
    parts: u32,
}

impl Plan {
    pub(super) fn new(batch: &impl Batch) -> Self {
        let count = batch.members();
        let ranks = ranks(batch);
        let rank = |member: usize| rank_of(ranks.as_deref(), member);
        let waiting = (0..count).map(|member| (rank(member), member)).collect();
        let member = |_| Member {
            state: State::Waiting,
            part: u32::MAX,
            cap: usize::MAX,
            alone: 0,
            maybe: false,
            last: None,
        };
        Self {
            members: (0..count).map(member).collect(),
            waiting,
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

    /// Whether members are taken group by group, so that the first ones may be sent last.
    pub(super) fn is_by_group(&self) -> bool {
        self.ranks.is_some()
    }

    /// The first member that is not settled.
    pub(super) fn first_open(&self) -> usize {
        self.first_open
    }

    /// How many parts were made.
    pub(super) fn parts(&self) -> u32 {
        self.parts
    }

    pub(super) fn member(&mut self, member: usize) -> Option<&mut Member> {
        self.members.get_mut(member)
    }

    pub(super) fn nothing_waits(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The members that wait, in order.
    pub(super) fn waiting(&self) -> Vec<usize> {
        let mut waiting: Vec<_> = self.waiting.iter().map(|(_, member)| *member).collect();
        waiting.sort_unstable();
        waiting
    }

    /// The member has its message. Says whether it had none before.
    pub(super) fn settle(&mut self, member: usize, done: bool) -> bool {
        let open = !self.is_settled(member);
        if let Some(known) = self.members.get_mut(member).filter(|_| open) {
            if known.state == State::Waiting {
                let rank = rank_of(self.ranks.as_deref(), member);
                self.waiting.remove(&(rank, member));
            }
            known.state = if done { State::Done } else { State::Failed };
            known.last = None;
            self.settled += 1;
            while self.first_open < self.members.len() && self.is_settled(self.first_open) {
                self.first_open += 1;
            }
        }
        open
    }

    /// The member is to be sent again.
    pub(super) fn again(&mut self, member: usize, last: Last) {
        let rank = rank_of(self.ranks.as_deref(), member);
        if let Some(known) = self.members.get_mut(member) {
            if known.state == State::InFlight {
                known.state = State::Waiting;
                known.last = Some(last);
                self.waiting.insert((rank, member));
            }
        }
    }

    /// Whether no other member may be cut off from these.
    pub(super) fn is_one_piece(&self, batch: &impl Batch, part: &[usize]) -> bool {
        let joined = |pair: &[usize]| match pair {
            [one, next] => (*one..*next).all(|member| batch.joined(member)),
            _ => true,
        };
        part.windows(2).all(joined)
    }

    /// Makes the next part.
    pub(super) fn next(&mut self, batch: &impl Batch, bounds: Bounds) -> Next {
        let mut part: Vec<usize> = Vec::new();
        let mut doomed = Vec::new();
        let mut groups: SmallVec<[u64; MOST_GROUPS]> = SmallVec::new();
        let mut bytes = batch.shared_bytes();
        let mut most = bounds.members.max(1);
        let mut from = (0, 0);
        'units: while let Some(&(rank, first)) = self.waiting.range(from..).next() {
            let unit = self.unit(batch, first);
            // All members of a unit have one rank.
            from = (rank, unit.last().map_or(first, |last| *last) + 1);
            if first >= bounds.end {
                if self.ranks.is_some() {
                    continue;
                }
                if bounds.patient && doomed.is_empty() {
                    self.put_back(part);
                    return Next::Nothing;
                }
                break;
            }

            let mut cap = usize::MAX;
            let mut unit_bytes = 0u64;
            let mut new_groups = groups.clone();
            let mut waits = false;
            let mut fails = None;
            for &member in &unit {
                for &need in batch.needs(member) {
                    match self.members.get(need) {
                        Some(known) if known.state == State::Done => {}
                        Some(known) if known.state != State::Failed => {
                            let beside = known.part == self.parts || unit.contains(&need);
                            waits |= !(beside && need < member);
                        }
                        _ => fails = fails.or(Some(need)),
                    }
                }
                let known = self.members.get(member);
                cap = cap.min(known.map_or(1, |known| known.cap));
                unit_bytes = unit_bytes.saturating_add(batch.member_bytes(member));
                if let Some(group) = batch.group(member) {
                    if !new_groups.contains(&group) {
                        new_groups.push(group);
                    }
                }
            }
            if let Some(need) = fails {
                for member in unit {
                    self.settle(member, false);
                    doomed.push((member, need));
                }
                continue;
            }
            if waits {
                continue;
            }
            let full = part.len() + unit.len() > most.min(cap)
                || bytes.saturating_add(unit_bytes) > bounds.bytes
                || new_groups.len() > MOST_GROUPS;
            if full && !part.is_empty() {
                break 'units;
            }
            bytes = bytes.saturating_add(unit_bytes);
            groups = new_groups;
            most = most.min(cap);
            for member in unit {
                if let Some(known) = self.members.get_mut(member) {
                    known.part = self.parts;
                }
                part.push(member);
            }
            if full || part.len() >= most {
                break;
            }
        }
        if part.is_empty() {
            return match doomed.is_empty() {
                true => Next::Nothing,
                false => Next::Doomed(doomed),
            };
        }
        if !doomed.is_empty() {
            // What was taken is taken once more, with the next call.
            self.put_back(part);
            return Next::Doomed(doomed);
        }
        for &member in &part {
            let rank = rank_of(self.ranks.as_deref(), member);
            self.waiting.remove(&(rank, member));
            if let Some(known) = self.members.get_mut(member) {
                known.state = State::InFlight;
            }
        }
        self.parts = self.parts.saturating_add(1);
        part.sort_unstable();
        Next::Part(part)
    }

    fn put_back(&mut self, part: Vec<usize>) {
        for member in part {
            if let Some(known) = self.members.get_mut(member) {
                known.part = u32::MAX;
            }
        }
    }

    /// The waiting members that have to be in one part with the waiting member `first`, which is the first of them.
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

/// The places of the members' groups, by first appearance, if there are too many of them for one part and order does not
/// matter. Members that are joined have the place of the first of them.
fn ranks(batch: &impl Batch) -> Option<Vec<u32>> {
    if batch.order() != Order::Free {
        return None;
    }
    let mut places = HashMap::new();
    let mut ranks: Vec<u32> = Vec::new();
    for member in 0..batch.members() {
        let place = batch.group(member).map(|group| {
            let next = u32::try_from(places.len()).unwrap_or(u32::MAX);
            *places.entry(group).or_insert(next)
        });
        let before = ranks.last().copied().unwrap_or(0);
        let joined = member
            .checked_sub(1)
            .is_some_and(|before| batch.joined(before));
        ranks.push(match place {
            Some(place) if !joined => place,
            _ => before,
        });
    }
    (places.len() > MOST_GROUPS).then_some(ranks)
}
