//! [`Locating`]: the mailboxes whose server is looked for, and those that were found.

use std::collections::{BTreeMap, VecDeque};

use super::locate::Location;
use super::step::MemberId;

/// Mailboxes that are asked for at once.
const MAX_LOCATED: usize = 90;

/// Whose server is not known yet.
#[derive(Debug, Default)]
pub(super) struct Locating {
    known: VecDeque<MemberId>,
    /// Those of whom what is remembered was wrong.
    fresh: VecDeque<MemberId>,
    /// Which one the next calls belong to: those that are begun at once.
    round: u64,
    /// Calls under way, by their rounds.
    calls: BTreeMap<u64, usize>,
    found: BTreeMap<u64, Vec<(MemberId, Location)>>,
}

impl Locating {
    pub(super) fn push(&mut self, member: MemberId, fresh: bool) {
        match fresh {
            true => self.fresh.push_back(member),
            false => self.known.push_back(member),
        }
    }

    /// Returns some that are to be asked for, whether anew, and the round of the call. `exists`: whether a mailbox is still wanted.
    pub(super) fn next(
        &mut self,
        exists: impl Fn(&MemberId) -> bool,
    ) -> Option<(Vec<MemberId>, bool, u64)> {
        loop {
            let fresh = self.known.is_empty();
            let queue = match fresh {
                true => &mut self.fresh,
                false => &mut self.known,
            };
            let mut members: Vec<MemberId> = queue.drain(..queue.len().min(MAX_LOCATED)).collect();
            if members.is_empty() {
                self.round += u64::from(self.calls.contains_key(&self.round));
                return None;
            }
            members.retain(&exists);
            if !members.is_empty() {
                *self.calls.entry(self.round).or_default() += 1;
                return Some((members, fresh, self.round));
            }
        }
    }

    pub(super) fn found(&mut self, member: MemberId, round: u64, location: Location) {
        let found = self.found.entry(round).or_default();
        found.push((member, location));
    }

    /// A call of that round has ended. Returns what was found once all of its round have, and of those before: groups are made in
    /// the order of names. Later ones are not waited for: where mailboxes are asked for again and again, there is always one.
    pub(super) fn end(&mut self, round: u64) -> Vec<(MemberId, Location)> {
        if let Some(calls) = self.calls.get_mut(&round) {
            *calls -= 1;
        }
        self.calls.retain(|_, calls| *calls > 0);
        let open = self.calls.keys().next().copied();
        let later = open.map(|open| self.found.split_off(&open));
        let found = std::mem::replace(&mut self.found, later.unwrap_or_default());
        found.into_values().flatten().collect()
    }
}
