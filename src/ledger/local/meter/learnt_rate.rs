//! [`LearntRate`]: what refusals tell of a bucket that the server keeps, and that the policy does not know.
//!
//! - *Between two lock-outs* the server's bucket was as empty as before, so what was drawn between them is what came back between
//!   them, whatever its size is and however late it locks out and opens again. That is its rate.
//! - *The first lock-out* ends what began with a full bucket: what was drawn by then, less what came back, is its size. Where the
//!   policy's bucket is never empty that says little; but what comes back during a lock-out fits in as well.
//! - Amounts count as they were reported, whatever share of the server's own they are: rate and size are in the same unit.
//! - Calls that are in flight when the bucket runs empty may cost more than it holds: so much of it is not used.
//! - A lock-out that begins before calls have worked again is the last one still.
//! - Where the policy's bucket is empty too, and was drawn from at the policy's rate, its numbers are the server's, and a call cost more than
//!   others do: nothing is learnt.
//!
//! So two lock-outs are met, and the third is not, unless a lock-out is not much longer than the calls that are in flight: then it
//! measures again. Calls keep a little below the rate. Where none comes for long, the rate rises by an
//! eighth, since somebody else may have left the account.

use std::time::Duration;

use tokio::time::Instant;

use super::super::clock::after;
use super::bucket::{Bucket, Rate};

/// What was learnt is forgotten when nothing was drawn for so long.
pub(super) const FORGET: Duration = Duration::from_secs(3600);
/// Good responses after a lock-out without which the next one is the same.
const FEW: u32 = 4;
/// A rate that has held for this many times the time between two lock-outs is raised by an eighth.
const HELD: u32 = 8;
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
    /// When that was.
    since: Instant,
    /// Good responses since.
    good: u32,
    /// What was drawn until the first lock-out, and in which time.
    first: (u128, Duration),
    /// From the second one on.
    bucket: Option<Bucket>,
    /// What was drawn since the last one.
    drawn: u128,
    /// When the rate is raised.
    raise: Option<(Instant, Duration)>,
    used: Instant,
}

impl LearntRate {
    /// The first lock-out, after so much was drawn from a full bucket. `last` is the last number among the admissions.
    pub(super) fn new(drawn: u128, time: Duration, last: u64, now: Instant) -> Self {
        Self {
            epoch: last,
            since: now,
            good: 0,
            first: (drawn, time),
            bucket: None,
            drawn: 0,
            raise: None,
            used: now,
        }
    }

    /// A bucket that another process has found, and for how long it has to hold before more is tried.
    pub(super) fn known(bucket: Bucket, holds: Duration, now: Instant) -> Self {
        Self {
            epoch: 0,
            since: now,
            good: 0,
            first: (bucket.capacity(), Duration::ZERO),
            bucket: Some(bucket),
            drawn: 0,
            raise: Some((after(now, holds.max(LEAST)), holds.max(LEAST))),
            used: now,
        }
    }

    /// For how long the rate has to hold before a higher one is tried.
    pub(super) fn holds(&self) -> Option<Duration> {
        self.raise.map(|(_, holds)| holds)
    }

    /// Another refusal, with this many calls in flight: the server opens at `until`. `policy`: what comes back by the policy, if its
    /// bucket may be empty too, and by how much it may be so.
    pub(super) fn locked_out(
        &mut self,
        sequence: u64,
        in_flight: usize,
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
        let time = now.saturating_duration_since(self.since);
        let explains = |(rate, beyond): (Rate, u128)| {
            self.drawn.saturating_add(beyond) >= rate.back(time) / 100 * EXPLAINED
        };
        if self.bucket.is_none() && policy.is_some_and(explains) {
            (self.since, self.drawn, self.good) = (now, 0, 0);
            return;
        }
        // What the calls that are admitted last cost on top, where that is known after the fact: it may be missing in what was drawn
        // after the last lock-out, or be too much.
        let mean = self.drawn / u128::from(self.good);
        let reserve = mean.saturating_mul(in_flight as u128);
        let surely = self.drawn.saturating_sub(reserve / 2).max(self.drawn / 2);
        let rate = Rate::new(surely / 100 * KEPT, time.as_nanos());
        let (first, took) = self.first;
        let least = rate.back(LEAST);
        let until_open = rate.back(until.saturating_duration_since(now));
        let size = first.saturating_sub(rate.back(took));
        let size = size.max(until_open).max(least);
        let mut bucket = Bucket::new(size.saturating_sub(reserve).max(least), rate);
        // It is as empty as the server's.
        bucket.draw(size, now);
        self.bucket = Some(bucket);
        (self.since, self.drawn, self.good) = (now, 0, 0);
        let held = time.saturating_mul(HELD);
        self.raise = Some((after(now, held), held));
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

    pub(super) fn keep_until(&self) -> Instant {
        after(self.used, FORGET)
    }
}
