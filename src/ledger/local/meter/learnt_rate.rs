//! [`LearntRate`]: what refusals tell of a bucket that the server keeps, and that the policy does not know.
//!
//! - *Between two lock-outs* the server's bucket was as empty as before, so what was drawn between them is what came back between
//!   them, whatever its size is and however late it locks out and opens again. That is its rate.
//! - How empty it was is in doubt by what the calls in flight cost. Over several lock-outs in a row the doubt stays the same while what
//!   was drawn adds up, so they are taken together, unless the last one differs by more: then somebody else has come or left.
//! - A server may lock out for other reasons than a bucket. Then what was drawn in between is any amount, and as much is in doubt.
//! - *The first lock-out* ends what began with a full bucket: what was drawn by then, less what came back, is its size. Where the
//!   policy's bucket is never empty that says little; but what comes back during a lock-out fits in as well.
//! - Amounts count as they were reported, whatever share of the server's own they are: rate and size are in the same unit.
//! - A lock-out that begins before calls have worked again is the last one still.
//! - Where the policy's bucket is empty too, and was drawn from at the policy's rate, its numbers are the server's, and a call cost more than
//!   others do: nothing is learnt.
//! - Who draws less than comes back finds the bucket full. The server's may have been so for long, so the next lock-out says nothing of
//!   the rate.
//!
//! So two lock-outs are met, and one more where what was drawn between them is not much more than the doubt. Calls keep a little below
//! the rate. Where no lock-out comes, the rate rises by an eighth at a time: soon while it is in doubt, and seldom when it is well known,
//! since somebody else may have left the account. A lock-out costs a few refusals and no time, as the bucket fills up meanwhile; a rate
//! that is too low costs time.

use std::time::Duration;

use tokio::time::Instant;

use super::super::clock::after;
use super::bucket::{Bucket, Rate};

/// What was learnt is forgotten when nothing was drawn for so long.
pub(super) const FORGET: Duration = Duration::from_secs(3600);
/// Good responses after a lock-out without which the next one is the same.
const FEW: u32 = 4;
/// A rate that has held for this many times the time in which it was measured is raised by an eighth.
const HELD: f64 = 8.0;
/// A rate is raised sooner if less than `HELD` times this many times the doubt was drawn in that time.
const SURE: f64 = 16.0;
/// A bucket holds what comes back in this time at the least.
const LEAST: Duration = Duration::from_secs(1);
/// Parts of a hundred of the policy's rate: who is locked out after so much was drawn, and has an empty bucket by the policy, was told the
/// server's numbers, and overdrew them.
const EXPLAINED: u128 = 90;
/// Parts of a hundred of the measured rate that are kept to.
const KEPT: u128 = 97;

/// What is known since the first lock-out.
#[derive(Debug)]
pub(super) struct LearntRate {
    /// Admissions up to this one belong to the last lock-out.
    epoch: u64,
    /// When that was. None: the bucket was full since, or it was in another process.
    since: Option<Instant>,
    /// Good responses since.
    good: u32,
    /// What was drawn until the first lock-out, and in which time.
    first: (u128, Duration),
    /// From the second one on.
    bucket: Option<Bucket>,
    /// What was drawn since the last one.
    drawn: u128,
    /// What was drawn between those before, and in which time.
    measured: Option<(u128, Duration)>,
    /// By how much the last of them was off what the others said.
    scatter: u128,
    /// When the rate is raised.
    raise: Option<(Instant, Duration)>,
    /// The rate before it was raised, which has held.
    held: Option<Rate>,
    used: Instant,
}

impl LearntRate {
    /// The first lock-out, after so much was drawn from a full bucket. `last` is the last number among the admissions.
    pub(super) fn new(drawn: u128, time: Duration, last: u64, now: Instant) -> Self {
        Self {
            epoch: last,
            since: Some(now),
            good: 0,
            first: (drawn, time),
            bucket: None,
            drawn: 0,
            measured: None,
            scatter: 0,
            raise: None,
            held: None,
            used: now,
        }
    }

    /// A bucket that another process has found, and for how long it has to hold before more is tried.
    pub(super) fn known(bucket: Bucket, holds: Duration, now: Instant) -> Self {
        Self {
            epoch: 0,
            since: None,
            good: 0,
            first: (bucket.capacity(), Duration::ZERO),
            bucket: Some(bucket),
            drawn: 0,
            measured: None,
            scatter: 0,
            raise: Some((after(now, holds.max(LEAST)), holds.max(LEAST))),
            held: None,
            used: now,
        }
    }

    /// For how long the rate has to hold before a higher one is tried.
    pub(super) fn holds(&self) -> Option<Duration> {
        self.raise.map(|(_, holds)| holds)
    }

    /// Another refusal, while the calls in flight may cost as much as `doubt`: the server opens at `until`. `policy`: what comes back
    /// by the policy, if its bucket may be empty too, and by how much it may be so.
    pub(super) fn locked_out(
        &mut self,
        sequence: u64,
        doubt: u128,
        until: Instant,
        last: u64,
        policy: Option<(Rate, u128)>,
        now: Instant,
    ) {
        if sequence <= self.epoch {
            return;
        }
        self.epoch = last;
        if self.good < FEW || self.drawn == 0 {
            return;
        }
        if let Some(since) = self.since {
            let time = now.saturating_duration_since(since);
            let is_first = self.bucket.is_none();
            let is_explained =
                is_first && policy.is_some_and(|policy| self.is_explained(policy, time));
            if is_first && !is_explained && self.drawn < doubt {
                self.good = 0;
                return;
            }
            if !is_explained {
                self.measure(time, doubt, until, now);
            }
        }
        if let Some(bucket) = &mut self.bucket {
            // As the server's is.
            bucket.empty(now);
        }
        (self.since, self.drawn, self.good) = (Some(now), 0, 0);
    }

    /// Whether so much would have emptied the policy's bucket, too.
    fn is_explained(&self, (rate, beyond): (Rate, u128), time: Duration) -> bool {
        self.drawn.saturating_add(beyond) >= rate.back(time) / 100 * EXPLAINED
    }

    /// Learns from what was drawn in the `time` between two lock-outs, which is in doubt by this much at the least.
    fn measure(&mut self, time: Duration, doubt: u128, until: Instant, now: Instant) {
        let new = self.drawn;
        let off = self.measured.map_or(0, |(drawn, took)| {
            new.abs_diff(Rate::new(drawn, took.as_nanos()).back(time))
        });
        let doubt = doubt.max(self.scatter);
        let (drawn, time) = match self.measured {
            Some((drawn, took)) if off <= doubt.saturating_mul(2) => {
                (drawn.saturating_add(new), took.saturating_add(time))
            }
            _ => (new, time),
        };
        self.measured = Some((drawn, time));
        self.scatter = off.max(self.scatter / 2);
        let rate = Rate::new(drawn / 100 * KEPT, time.as_nanos());
        let (first, took) = self.first;
        let size = first.saturating_sub(rate.back(took));
        let until_open = rate.back(until.saturating_duration_since(now));
        let size = size.max(until_open).max(rate.back(LEAST));
        self.bucket = Some(Bucket::new(size, rate));
        let doubt = doubt.max(self.scatter).max(1);
        let sure = drawn as f64 / doubt as f64 / SURE;
        let holds = Duration::try_from_secs_f64(time.as_secs_f64() * sure.min(HELD));
        let holds = holds.unwrap_or(time).max(LEAST);
        self.raise = Some((after(now, holds), holds));
        self.held = None;
    }

    /// Nothing is in flight that has yet to tell what it costs. Where the bucket is full, and not just now, the server's may have been so
    /// for longer.
    pub(super) fn at_rest(&mut self, now: Instant) {
        let before = now.checked_sub(LEAST);
        let Some((bucket, before)) = self.bucket.as_ref().zip(before) else {
            return;
        };
        if bucket.missing(before) == 0 {
            self.since = None;
        }
    }

    /// A good response.
    pub(super) fn good(&mut self, sequence: u64) {
        if sequence > self.epoch {
            self.good = self.good.saturating_add(1);
        }
    }

    pub(super) fn draw(&mut self, amount: u128, now: Instant) {
        self.used = now;
        self.drawn = self.drawn.saturating_add(amount);
        let Some(bucket) = &mut self.bucket else {
            return;
        };
        if let Some((at, held)) = self.raise.filter(|(at, _)| *at <= now) {
            self.raise = Some((after(at, held).max(now), held));
            bucket.fill(now);
            self.held = Some(bucket.rate());
            bucket.change(bucket.capacity(), bucket.rate().raised());
        }
        bucket.draw(amount, now);
    }

    pub(super) fn give_back(&mut self, amount: u128, now: Instant) {
        self.drawn = self.drawn.saturating_sub(amount);
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back(amount, now);
        }
    }

    /// What is learnt of the server's bucket.
    pub(super) fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// The rate that another process can rely on: not one that is being tried.
    pub(super) fn sure_rate(&self) -> Option<Rate> {
        self.held.or(Some(self.bucket.as_ref()?.rate()))
    }

    pub(super) fn keep_until(&self) -> Instant {
        after(self.used, FORGET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A million was drawn in ten seconds until the first lock-out, which the admissions up to 5 belong to.
    struct Learning {
        start: Instant,
        learnt: LearntRate,
        policy: Option<(Rate, u128)>,
    }

    impl Learning {
        fn new() -> Self {
            let start = Instant::now();
            Self {
                start,
                learnt: LearntRate::new(1_000_000, SECOND * 10, 5, start),
                policy: None,
            }
        }

        fn at(&self, secs: u32) -> Instant {
            self.start + SECOND * secs
        }

        /// `good` calls draw so much, and the next one is refused for two seconds.
        fn locked_out(&mut self, good: u64, drawn: u128, doubt: u128, secs: u32) {
            let (epoch, now) = (self.learnt.epoch, self.at(secs));
            // One that was admitted before says nothing.
            (epoch..=epoch + good).for_each(|sequence| self.learnt.good(sequence));
            self.learnt.draw(drawn, now);
            let until = now + SECOND * 2;
            let last = epoch + 10;
            self.learnt
                .locked_out(epoch + 1, doubt, until, last, self.policy, now);
        }

        fn per_second(&self) -> Option<u128> {
            let bucket = self.learnt.bucket()?;
            Some(bucket.rate().back(SECOND))
        }

        fn holds(&self) -> Option<f64> {
            self.learnt.holds().map(|holds| holds.as_secs_f64())
        }
    }

    #[test]
    fn two_lock_outs_tell_the_rate_and_the_size() {
        let mut of = Learning::new();
        let (now, until) = (of.at(100), of.at(102));
        (6..=9).for_each(|sequence| of.learnt.good(sequence));
        of.learnt.draw(210_000, now);
        of.learnt.give_back(10_000, now);
        of.learnt.locked_out(5, 5_000, until, 20, None, now);
        assert_eq!(of.per_second(), None, "it belongs to the first one");
        of.learnt.locked_out(6, 5_000, until, 20, None, now);
        assert_eq!(of.per_second(), Some(1_940));
        let bucket = of.learnt.bucket().unwrap();
        let size = 1_000_000 - 19_400;
        assert_eq!((bucket.capacity(), bucket.missing(now)), (size, size));
        assert_eq!(of.holds(), Some(250.0));
        of.learnt.draw(100, now);
        of.learnt.give_back(40, now);
        assert_eq!(of.learnt.bucket().unwrap().missing(now), size + 60);
        assert_eq!(of.learnt.keep_until(), now + FORGET);
    }

    #[test]
    fn a_lock_out_before_calls_have_worked_is_the_last_one_still() {
        let mut of = Learning::new();
        of.locked_out(3, 200_000, 5_000, 100);
        assert_eq!(of.per_second(), None);
        of.locked_out(1, 100_000, 5_000, 150);
        assert_eq!(of.per_second(), Some(1_940));
    }

    #[test]
    fn nothing_is_learnt_before_more_is_drawn_than_is_in_doubt() {
        let mut of = Learning::new();
        of.locked_out(4, 200_000, 200_001, 100);
        assert_eq!(of.per_second(), None);
        of.locked_out(3, 0, 5_000, 120);
        assert_eq!(of.per_second(), None, "it counts good responses anew");
        of.locked_out(4, 100_000, 300_000, 150);
        assert_eq!(of.per_second(), Some(1_940));
        // Later ones are taken with those before.
        of.locked_out(4, 100_000, 300_000, 200);
        assert_eq!(of.per_second(), Some(1_940));
        assert_eq!(of.learnt.measured, Some((400_000, SECOND * 200)));
    }

    #[test]
    fn what_empties_the_bucket_of_the_policy_says_nothing() {
        for (beyond, learnt) in [(10_000, None), (9_999, Some(776))] {
            let mut of = Learning::new();
            of.policy = Some((Rate::new(1_000, SECOND.as_nanos()), beyond));
            of.locked_out(4, 80_000, 5_000, 100);
            assert_eq!(of.per_second(), learnt);
        }
    }

    #[test]
    fn lock_outs_are_taken_together_unless_one_differs() {
        let mut of = Learning::new();
        for (secs, drawn, per_second, holds) in [
            (100, 200_000, 1_940, 250.0),
            (200, 208_000, 1_978, 637.5),
            // Somebody else has left.
            (300, 300_000, 2_910, 19.531_25),
            (400, 300_000, 2_910, 78.125),
            (500, 300_000, 2_910, 351.562_5),
            (600, 300_000, 2_910, 1_250.0),
        ] {
            // Each is measured at the moment before a higher rate is tried.
            of.learnt.raise = None;
            of.locked_out(4, drawn, 5_000, secs);
            assert_eq!(of.per_second(), Some(per_second), "{secs}");
            assert_eq!(of.holds(), Some(holds), "{secs}");
        }
    }

    #[test]
    fn a_rate_that_has_held_is_raised() {
        let mut of = Learning::new();
        of.locked_out(4, 200_000, 5_000, 100);
        of.learnt.draw(1, of.at(349));
        assert_eq!(of.per_second(), Some(1_940));
        of.learnt.draw(1, of.at(350));
        assert_eq!(of.per_second(), Some(2_182));
        let sure = of.learnt.sure_rate().unwrap();
        assert_eq!(sure.back(SECOND), 1_940, "the higher one is being tried");
    }

    #[test]
    fn a_bucket_that_was_full_for_long_says_nothing_of_the_rate() {
        let mut of = Learning::new();
        of.locked_out(4, 200_000, 5_000, 100);
        of.learnt.raise = None;
        of.learnt.at_rest(of.at(200));
        assert!(of.learnt.since.is_some(), "it is not full");
        of.learnt.at_rest(of.at(700));
        of.locked_out(4, 500_000, 5_000, 750);
        assert_eq!(of.per_second(), Some(1_940));
        let bucket = of.learnt.bucket().unwrap();
        assert_eq!(bucket.missing(of.at(750)), bucket.capacity());
        assert!(of.learnt.since.is_some());
    }

    #[test]
    fn what_another_process_has_found_is_raised_after_a_second_at_the_soonest() {
        let start = Instant::now();
        let bucket = Bucket::new(1_000, Rate::new(10, SECOND.as_nanos()));
        let learnt = LearntRate::known(bucket, Duration::ZERO, start);
        assert_eq!(learnt.holds(), Some(SECOND));
    }
}
