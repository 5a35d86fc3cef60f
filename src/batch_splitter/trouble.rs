//! [`Trouble`]: what parts that failed as a whole say about the parts that were not sent yet.

use std::time::Duration;

use tokio::time::Instant;

/// How many parts that could not be smaller have to fail before all others are taken to fail alike. Where order makes no
/// difference they are drawn from the whole batch: a few members that are to blame are hardly drawn three times.
const SMALL_PARTS: u32 = 3;

/// How long every part of a batch has to fail after some members were done: a server that worked before is more likely away for a
/// while.
const OUTAGE: Duration = Duration::from_secs(60);

/// After this long the server is given up, whatever it has done before.
const LONG_OUTAGE: Duration = Duration::from_secs(5 * 60);

/// For this many members that were done one small part more has to fail, and how many at most: what is refused beside many
/// successes is more likely to blame itself.
const DONE_FOR_ONE: usize = 10;
const MOST_SMALL_PARTS: usize = 50;

/// How often a failure is tried then, whatever it is.
const OUTAGE_RETRIES: u32 = 6;

/// How many parts in a row have to get a response, for each one that was lost so far, before the doubt that one part may leave grows
/// again: after one outage it is soon as large as before, and where single members break the connection it stays small.
const GOOD_PARTS: u32 = 8;

/// The parts that failed as a whole, one after another, and what is in doubt.
///
/// A part can fail because of one of its members, because of its size, or because the server fails whatever is asked. The
/// first two are found by sending less at a time. The third is recognised, so that a batch costs no more requests than a
/// single call would: after two failures in a row the parts are as small as can be, and after [`SMALL_PARTS`] of those
/// the rest is not sent, if a single call would have been given up as well.
///
/// If what was lost may have been executed and must not be executed twice, the next part waits, is as small as can be, and
/// goes alone. If its outcome is lost as well, the rest is not sent: doubt does not spread. Once the server has gone on after a
/// loss, single members are to blame rather than an outage, and one more is tried.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    /// The parts that failed since a member was last settled.
    in_a_row: u32,
    /// How many different ones of them were sent to look, as small as can be.
    small: u32,
    /// When the first of them failed.
    since: Option<Instant>,
    /// Parts before this one were sent before the last failure was known.
    next_part: u32,
    /// Whether a member was ever settled.
    settled_some: bool,
    /// What may have been executed is sent again: little at a time.
    careful: bool,
    doubt: Doubt,
    /// Whether members were settled by parts that were sent after a loss.
    recovered: bool,
    /// How many parts that went alone were lost since.
    lost_tests: u32,
    /// How many members a part may leave in doubt, since a larger one was lost.
    max_in_doubt: Option<usize>,
    /// How many were lost.
    losses: u32,
    /// How many parts in a row got a response since that was changed.
    good_parts: u32,
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
    /// A part failed. `is_new_small` if it could not be smaller, and did not come back before. `next_part` is the number of
    /// the next one.
    pub(super) fn part_failed(
        &mut self,
        part: u32,
        next_part: u32,
        is_new_small: bool,
        now: Instant,
    ) {
        self.since.get_or_insert(now);
        if part < self.next_part {
            return;
        }
        self.next_part = next_part;
        // One that is small because there was not more to send, or for its size, says nothing about other places.
        let looked = self.wants_small();
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.small = self.small.saturating_add(u32::from(is_new_small && looked));
    }

    /// The outcome of a part of `members` was lost, and none of them may be sent again. Returns whether the rest may be sent.
    pub(super) fn outcome_lost(&mut self, members: usize) -> bool {
        self.lost_tests += u32::from(self.doubt == Doubt::Testing);
        let may_go_on = self.lost_tests <= u32::from(self.recovered);
        self.doubt = Doubt::Lost;
        let half = (members / 2).max(1);
        self.max_in_doubt = Some(self.max_in_doubt.map_or(half, |max| max.min(half)));
        self.good_parts = 0;
        self.losses = self.losses.saturating_add(1);
        may_go_on
    }

    /// The outcome of a part was lost whose members are sent again, though they may have been executed.
    pub(super) fn be_careful(&mut self) {
        self.careful = true;
    }

    /// Returns how many members a part may leave in doubt, if that was learnt.
    pub(super) fn max_in_doubt(&self) -> usize {
        self.max_in_doubt.unwrap_or(usize::MAX)
    }

    /// The server has said something about single members.
    pub(super) fn messages_came(&mut self) {
        self.in_a_row = 0;
        self.small = 0;
        self.since = None;
        self.careful = false;
        self.good_parts = self.good_parts.saturating_add(1);
        if self.good_parts >= GOOD_PARTS.saturating_mul(self.losses) {
            self.good_parts = 0;
            self.max_in_doubt = self.max_in_doubt.map(|max| max.saturating_mul(2));
        }
    }

    /// Members were settled by the server.
    pub(super) fn members_settled(&mut self) {
        self.settled_some = true;
        // Others were on their way before the loss.
        if self.losses > 0 && self.doubt == Doubt::None {
            self.recovered = true;
            self.lost_tests = 0;
        }
    }

    /// The server has responded to a part, whatever it said.
    pub(super) fn response_came(&mut self) {
        if self.doubt == Doubt::Testing {
            self.doubt = Doubt::None;
        }
    }

    /// Returns whether the next part is to be as small as can be.
    pub(super) fn wants_small(&self) -> bool {
        self.in_a_row >= 2 || self.careful || self.doubt != Doubt::None
    }

    /// Returns whether the next part has to go alone.
    pub(super) fn wants_alone(&self) -> bool {
        self.doubt != Doubt::None
    }

    /// A part is sent.
    pub(super) fn part_sent(&mut self) {
        if self.doubt == Doubt::Lost {
            self.doubt = Doubt::Testing;
        }
    }

    /// Whether a member was ever settled.
    pub(super) fn settled_some(&self) -> bool {
        self.settled_some
    }

    /// Whether the server may be away, after it has done some of the batch.
    pub(super) fn is_suspect(&self) -> bool {
        self.settled_some && self.in_a_row >= 3
    }

    /// Returns how often a failure is tried that is worth `max_retries` retries: longer if it is probably an outage.
    pub(super) fn retries(&self, max_retries: u32) -> u32 {
        match self.settled_some && self.in_a_row >= 2 {
            true => max_retries.max(OUTAGE_RETRIES),
            false => max_retries,
        }
    }

    /// Returns whether as many parts in a row failed as are worth trying, for a failure that is worth `max_retries` retries.
    pub(super) fn lasts(&self, max_retries: u32, now: Instant) -> bool {
        // Each failure can take as long as an outage.
        match self.lasted(now) >= OUTAGE {
            true => self.in_a_row > max_retries,
            false => !self.settled_some && self.in_a_row > self.retries(max_retries),
        }
    }

    /// Returns whether every part fails like this, after `done` members were done.
    pub(super) fn is_general(&self, max_retries: u32, done: usize, now: Instant) -> bool {
        let more = u32::try_from((done / DONE_FOR_ONE).min(MOST_SMALL_PARTS)).unwrap_or_default();
        let needed = match self.lasted(now) >= LONG_OUTAGE {
            true => SMALL_PARTS,
            false => SMALL_PARTS.max(more),
        };
        self.small >= needed && self.lasts(max_retries, now)
    }

    /// Returns whether nothing is sent for a while after a failure that is worth `max_retries` retries. What has lasted longer
    /// than an outage is not waited for.
    pub(super) fn is_waited_for(&self, max_retries: u32, now: Instant) -> bool {
        self.retries(max_retries) > 0 && !(self.settled_some && self.lasted(now) >= OUTAGE)
    }

    fn lasted(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now - since)
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
            let (mut trouble, now) = (Trouble::default(), Instant::now());
            for (number, part) in (0..).zip(&parts) {
                trouble.part_failed(number, number + 1, *part, now);
            }
            assert_eq!(trouble.wants_small(), parts.len() >= 2, "{parts:?}");
            assert!(!trouble.wants_alone());
            assert_eq!(trouble.is_general(0, 0, now), without, "{parts:?}");
            assert_eq!(trouble.is_general(6, 0, now), with, "{parts:?}");
            // A response does not help, messages do.
            trouble.response_came();
            assert_eq!(trouble.is_general(0, 0, now), without, "{parts:?}");
            trouble.messages_came();
            assert!(!trouble.wants_small() && !trouble.is_general(0, 0, now));
        }
    }

    #[test]
    fn the_more_often_parts_are_lost_the_slower_they_grow_again() {
        let mut trouble = Trouble::default();
        assert_eq!(trouble.max_in_doubt(), usize::MAX);
        for (losses, members) in [(1, 50), (2, 25), (3, 13), (4, 1), (5, 1)] {
            trouble.outcome_lost(members);
            trouble.part_sent();
            trouble.response_came();
            let half = (members / 2).max(1);
            for doubled in [half, 2 * half, 4 * half] {
                for _ in 0..8 * losses {
                    assert_eq!(trouble.max_in_doubt(), doubled, "{losses}, {members}");
                    trouble.messages_came();
                }
            }
            assert_eq!(trouble.max_in_doubt(), 8 * half);
            // A small part that is lost is not forgotten for a larger one.
            trouble.outcome_lost(1000);
            assert_eq!(trouble.max_in_doubt(), 8 * half);
            trouble = Trouble {
                losses,
                doubt: Doubt::None,
                max_in_doubt: None,
                ..trouble
            };
        }
    }

    #[test]
    fn a_second_loss_ends_the_batch_unless_a_response_came_between() {
        let mut trouble = Trouble::default();
        assert!(trouble.outcome_lost(50));
        // Of a part that was in flight already.
        assert!(trouble.outcome_lost(50));
        assert!(trouble.wants_small() && trouble.wants_alone());
        trouble.response_came();
        assert!(trouble.wants_alone(), "it was no test");
        trouble.part_sent();
        assert!(trouble.wants_alone(), "it is in flight");
        trouble.response_came();
        assert!(!trouble.wants_small() && !trouble.wants_alone());

        assert!(trouble.outcome_lost(50));
        trouble.part_sent();
        assert!(!trouble.outcome_lost(50));
    }

    #[test]
    fn after_a_loss_that_was_one_members_a_lost_test_is_followed_by_another() {
        let lose = |trouble: &mut Trouble| {
            trouble.part_sent();
            trouble.outcome_lost(1)
        };
        let settle = |trouble: &mut Trouble| {
            trouble.part_sent();
            trouble.response_came();
            trouble.members_settled();
        };
        let mut trouble = Trouble::default();
        settle(&mut trouble);
        assert!(lose(&mut trouble));
        // A part that was on its way says nothing about what follows.
        trouble.members_settled();
        let mut outage = trouble.clone();
        assert!(!lose(&mut outage));
        settle(&mut trouble);
        for _ in 0..3 {
            assert!(lose(&mut trouble) && lose(&mut trouble));
            settle(&mut trouble);
        }
        assert!(lose(&mut trouble) && lose(&mut trouble) && !lose(&mut trouble));
    }
}
