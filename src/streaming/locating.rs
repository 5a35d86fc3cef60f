//! [`Locating`]: the mailboxes whose server is looked for, and those that were found.

use std::collections::VecDeque;

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
    /// Calls under way.
    calls: usize,
    found: Vec<(MemberId, Location)>,
}

impl Locating {
    pub(super) fn push(&mut self, member: MemberId, fresh: bool) {
        match fresh {
            true => self.fresh.push_back(member),
            false => self.known.push_back(member),
        }
    }

    /// Returns some that are to be asked for, and whether anew. `exists`: whether a mailbox is still wanted.
    pub(super) fn next(
        &mut self,
        exists: impl Fn(&MemberId) -> bool,
    ) -> Option<(Vec<MemberId>, bool)> {
        loop {
            let fresh = self.known.is_empty();
            let queue = match fresh {
                true => &mut self.fresh,
                false => &mut self.known,
            };
            let mut members: Vec<MemberId> = queue.drain(..queue.len().min(MAX_LOCATED)).collect();
            if members.is_empty() {
                return None;
            }
            members.retain(&exists);
            if !members.is_empty() {
                self.calls += 1;
                return Some((members, fresh));
            }
        }
    }

    pub(super) fn found(&mut self, member: MemberId, location: Location) {
        self.found.push((member, location));
    }

    /// A call has ended. Returns all that were found once none is under way: groups are made in the order of names.
    pub(super) fn end(&mut self) -> Vec<(MemberId, Location)> {
        self.calls -= 1;
        match self.calls == 0 && self.known.is_empty() && self.fresh.is_empty() {
            true => std::mem::take(&mut self.found),
            false => Vec::new(),
        }
    }
}
