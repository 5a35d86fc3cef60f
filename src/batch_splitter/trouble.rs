//! [`Trouble`]: what parts that failed as a whole say about the parts that were not sent yet.

/// How many parts that could not be smaller have to fail before all others are taken to fail alike. They come from the
/// beginning, the end and the middle of the batch: a few members that are to blame are hardly in all three places.
const SMALL_PARTS: u32 = 3;

/// The parts that failed as a whole, one after another, and what is in doubt.
///
/// A part can fail because of one of its members, because of its size, or because the server fails whatever is asked. The
/// first two are found by sending less at a time. The third is recognised, so that a batch costs no more requests than a
/// single call would: after two failures in a row the parts are as small as can be, and after [`SMALL_PARTS`] of those
/// the rest is not sent, if a single call would have been given up as well.
///
/// If what was lost may have been executed and must not be executed twice, the next part waits, is as small as can be, and
/// goes alone. If its outcome is lost as well, the rest is not sent: doubt does not spread.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// The parts that failed since a member was last settled.
    in_a_row: u32,
    /// How many different ones of them were sent to look, as small as can be.
    small: u32,
    /// How many parts were sent to look since then.
    turns: u32,
    doubt: Doubt,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Doubt {
    #[default]
    None,
    /// The outcome of a part was lost.
    Lost,
    /// The part that went alone afterwards is in flight.
    Testing,
}

impl Trouble {
    /// A part failed. `is_new_small` if it could not be smaller, and did not come back before.
    pub(super) fn part_failed(&mut self, is_new_small: bool) {
        // One that is small because there was not more to send, or for its size, says nothing about other places.
        let looked = self.wants_small();
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.small = self.small.saturating_add(u32::from(is_new_small && looked));
    }

    /// The outcome of a part was lost, and none of its members may be sent again. Returns whether the rest may be sent.
    pub(super) fn outcome_lost(&mut self) -> bool {
        let may_go_on = self.doubt != Doubt::Testing;
        self.doubt = Doubt::Lost;
        may_go_on
    }

    /// The server has said something about single members.
    pub(super) fn messages_came(&mut self) {
        self.in_a_row = 0;
        self.small = 0;
        self.turns = 0;
    }

    /// The server has responded to a part, whatever it said.
    pub(super) fn response_came(&mut self) {
        if self.doubt == Doubt::Testing {
            self.doubt = Doubt::None;
        }
    }

    /// Returns whether the next part is to be as small as can be.
    pub(super) fn wants_small(&self) -> bool {
        self.in_a_row >= 2 || self.doubt != Doubt::None
    }

    /// Returns whether the next part has to go alone.
    pub(super) fn wants_alone(&self) -> bool {
        self.doubt != Doubt::None
    }

    /// Returns how many parts were sent to look, as small as can be.
    pub(super) fn turns(&self) -> u32 {
        self.turns
    }

    /// A part is sent.
    pub(super) fn part_sent(&mut self) {
        self.turns = self.turns.wrapping_add(u32::from(self.wants_small()));
        if self.doubt == Doubt::Lost {
            self.doubt = Doubt::Testing;
        }
    }

    /// Returns whether as many parts in a row failed as are worth trying, for a failure that is worth `max_retries` retries.
    pub(super) fn lasts(&self, max_retries: u32) -> bool {
        self.in_a_row > max_retries
    }

    /// Returns whether every part fails like this.
    pub(super) fn is_general(&self, max_retries: u32) -> bool {
        self.small >= SMALL_PARTS && self.lasts(max_retries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_speak_for_the_rest_if_small_parts_are_among_them() {
        // Whether each part was as small as can be, for the first time, and whether they speak for the rest with 0 and with 6 retries.
        for (parts, without, with) in [
            (vec![], false, false),
            (vec![false; 9], false, false),
            // The first two are small, but for another reason.
            (vec![true; 4], false, false),
            (vec![true; 5], true, false),
            (vec![false, false, true, true], false, false),
            (vec![false, false, true, true, true], true, false),
            (vec![true; 6], true, false),
            (vec![true; 7], true, true),
            (
                vec![false, true, false, true, false, true, true],
                true,
                true,
            ),
        ] {
            let mut trouble = Trouble::default();
            for part in &parts {
                trouble.part_failed(*part);
            }
            assert_eq!(trouble.wants_small(), parts.len() >= 2, "{parts:?}");
            assert!(!trouble.wants_alone());
            assert_eq!(trouble.is_general(0), without, "{parts:?}");
            assert_eq!(trouble.is_general(6), with, "{parts:?}");
            // A response does not help, messages do.
            trouble.response_came();
            assert_eq!(trouble.is_general(0), without, "{parts:?}");
            trouble.messages_came();
            assert!(!trouble.wants_small() && !trouble.is_general(0));
        }
    }

    #[test]
    fn a_second_loss_ends_the_batch_unless_a_response_came_between() {
        let mut trouble = Trouble::default();
        assert!(trouble.outcome_lost());
        // Of a part that was in flight already.
        assert!(trouble.outcome_lost());
        assert!(trouble.wants_small() && trouble.wants_alone());
        trouble.response_came();
        assert!(trouble.wants_alone(), "it was no test");
        trouble.part_sent();
        assert!(trouble.wants_alone(), "it is in flight");
        trouble.response_came();
        assert!(!trouble.wants_small() && !trouble.wants_alone());

        assert!(trouble.outcome_lost());
        trouble.part_sent();
        assert!(!trouble.outcome_lost());
    }

    #[test]
    fn small_parts_take_turns() {
        let mut trouble = Trouble::default();
        let fail = |trouble: &mut Trouble| {
            trouble.part_sent();
            trouble.part_failed(false);
            trouble.turns()
        };
        // The first two were not sent to look.
        assert_eq!([(); 4].map(|()| fail(&mut trouble)), [0, 0, 1, 2]);
        trouble.messages_came();
        assert_eq!([(); 3].map(|()| fail(&mut trouble)), [0, 0, 1]);
    }
}
