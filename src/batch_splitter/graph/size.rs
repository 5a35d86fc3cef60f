//! [`PartSize`]: how many requests a part has, learned from those that Graph throttles.

/// The most requests in one batch of Microsoft Graph (microsoft-graph-docs, "json-batching").
pub(super) const MAX_MEMBERS: usize = 20;

/// After how many parts without a refusal one more request is tried, at most.
const MAX_GOOD_PARTS: u32 = 16;

/// The size of the next part.
///
/// Graph executes what it has room for and throttles the rest: as many as were not throttled is what it takes. From there one
/// more is tried after a part that went well, and after twice as many parts each time that this was too much. Where a whole part
/// was throttled, nothing is known but that the mailbox or the application is closed for a while: one request goes first, and
/// half of what was sent is reached again quickly.
#[derive(Debug)]
pub(super) struct PartSize {
    now: usize,
    /// Up to here it doubles.
    known: usize,
    /// How many parts of this size went well.
    went_well: u32,
    /// How many have to.
    good_parts_needed: u32,
    /// Whether no part of this size has come back.
    is_trial: bool,
}

impl Default for PartSize {
    fn default() -> Self {
        Self {
            now: MAX_MEMBERS,
            known: MAX_MEMBERS,
            went_well: 0,
            good_parts_needed: 1,
            is_trial: false,
        }
    }
}

impl PartSize {
    pub(super) fn members(&self) -> usize {
        self.now
    }

    /// Records that the server throttled `throttled` of the `members` of a part.
    pub(super) fn part_ended(&mut self, members: usize, throttled: usize) {
        let passed = members.saturating_sub(throttled);
        if throttled > 0 {
            if self.is_trial {
                self.good_parts_needed = (self.good_parts_needed * 2).min(MAX_GOOD_PARTS);
            }
            // A part that was sent when more was allowed says nothing new if it was refused for that.
            self.known = self
                .known
                .min(if passed > 0 { passed } else { members / 2 })
                .max(1);
            self.now = self.now.min(passed).max(1);
            self.went_well = 0;
            self.is_trial = false;
        } else if members >= self.now {
            self.went_well += 1;
            if std::mem::take(&mut self.is_trial) {
                self.good_parts_needed = (self.good_parts_needed / 2).max(1);
            }
            self.grow();
        }
    }

    fn grow(&mut self) {
        if self.now < self.known {
            self.now = (self.now * 2).min(self.known);
            self.went_well = 0;
        } else if self.went_well >= self.good_parts_needed && self.now < MAX_MEMBERS {
            self.now += 1;
            self.known = self.now;
            self.went_well = 0;
            self.is_trial = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of the parts where that many requests pass at a time.
    fn sizes(size: &mut PartSize, parts: usize, passing: usize) -> Vec<usize> {
        let part = |_| {
            let members = size.members();
            size.part_ended(members, members.saturating_sub(passing));
            members
        };
        (0..parts).map(part).collect()
    }

    #[test]
    fn what_passes_is_found_and_kept() {
        let mut size = PartSize::default();
        assert_eq!(sizes(&mut size, 8, 4), [20, 4, 5, 4, 4, 5, 4, 4]);
        let sent: usize = sizes(&mut size, 1_000, 4).iter().sum();
        assert!(sent < 4_100, "{sent}");
        // More is found again, and all of it.
        let grown = sizes(&mut size, 100, 20);
        assert_eq!(grown.last(), Some(&20), "{grown:?}");
        assert_eq!(sizes(&mut size, 3, 20), [20, 20, 20]);
    }

    #[test]
    fn a_closed_mailbox_is_asked_for_one_and_opens_quickly() {
        let mut size = PartSize::default();
        assert_eq!(sizes(&mut size, 3, 0), [20, 1, 1]);
        let mut size = PartSize::default();
        sizes(&mut size, 1, 0);
        assert_eq!(sizes(&mut size, 7, 20), [1, 2, 4, 8, 10, 11, 12]);
    }

    #[test]
    fn parts_that_say_nothing_change_nothing() {
        let mut size = PartSize::default();
        size.part_ended(20, 16);
        // One that was smaller, and two that were sent before the first one came back.
        size.part_ended(3, 0);
        size.part_ended(20, 10);
        assert_eq!((size.members(), size.known), (4, 4));
        size.part_ended(20, 20);
        assert_eq!(size.members(), 1);
    }
}
