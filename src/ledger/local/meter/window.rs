//! [`Window`]: what is missing of a limit per time, and when it comes back.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::super::clock::after;
use super::bucket::{Bucket, Rate};

/// How amounts come back.
#[derive(Debug)]
pub(super) enum Window {
    /// Bit by bit, from when they were drawn.
    Steady(Bucket),
    /// All at once, a period after their calls have ended.
    Sliding(Sliding),
}

impl Window {
    pub(super) fn capacity(&self) -> u128 {
        match self {
            Self::Steady(bucket) => bucket.capacity(),
            Self::Sliding(sliding) => sliding.capacity,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Steady(bucket) => bucket.is_full(),
            Self::Sliding(sliding) => sliding.missing == 0,
        }
    }

    /// What is missing now.
    pub(super) fn missing(&self, now: Instant) -> u128 {
        match self {
            Self::Steady(bucket) => bucket.missing(now),
            Self::Sliding(sliding) => sliding.missing.saturating_sub(sliding.back_by(now)),
        }
    }

    /// At which rate it comes back, if bit by bit.
    pub(super) fn rate(&self) -> Option<Rate> {
        match self {
            Self::Steady(bucket) => Some(bucket.rate()),
            Self::Sliding(_) => None,
        }
    }

    pub(super) fn fill(&mut self, now: Instant) {
        match self {
            Self::Steady(bucket) => bucket.fill(now),
            Self::Sliding(sliding) => sliding.fill(now),
        }
    }

    pub(super) fn draw(&mut self, amount: u128, now: Instant) {
        match self {
            Self::Steady(bucket) => bucket.draw(amount, now),
            Self::Sliding(sliding) => sliding.missing = sliding.missing.saturating_add(amount),
        }
    }

    /// What was drawn will come back: the call has ended, and the server has counted it by now.
    pub(super) fn ended(&mut self, amount: u128, now: Instant) {
        if let Self::Sliding(sliding) = self {
            sliding.ended(amount, now);
        }
    }

    /// Nothing was done for an amount that was drawn by a call. `open`: it has not ended yet.
    pub(super) fn give_back(&mut self, amount: u128, open: bool, now: Instant) {
        match self {
            Self::Steady(bucket) => bucket.give_back(amount, now),
            Self::Sliding(sliding) => sliding.give_back(amount, open),
        }
    }

    /// What of an amount that was drawn at `since` is missing still.
    pub(super) fn rest(&self, amount: u128, since: Instant, now: Instant) -> u128 {
        match self {
            // What has come back since then would have been lost if the bucket had been fuller.
            Self::Steady(bucket) => {
                let back = bucket.rate().back(now.saturating_duration_since(since));
                amount.saturating_sub(back)
            }
            Self::Sliding(_) => amount,
        }
    }

    /// What of an amount that was missing an `age` ago is missing still, if nothing was drawn since.
    pub(super) fn rest_after(&self, amount: u128, age: Duration) -> u128 {
        match self {
            Self::Steady(bucket) => amount.saturating_sub(bucket.rate().back(age)),
            Self::Sliding(sliding) if age >= sliding.period => 0,
            Self::Sliding(_) => amount,
        }
    }

    /// When it holds `amount`; all of it, where it cannot hold so much. None: it does now.
    pub(super) fn holds_at(&self, amount: u128, now: Instant) -> Option<Instant> {
        match self {
            Self::Steady(bucket) => bucket.holds_at(amount, now),
            Self::Sliding(sliding) => sliding.holds_at(amount, now),
        }
    }

    /// When it is full. None: it is now.
    pub(super) fn full_at(&self, now: Instant) -> Option<Instant> {
        match self {
            Self::Steady(bucket) => bucket.full_at(now),
            Self::Sliding(sliding) => sliding.holds_at(u128::MAX, now),
        }
    }
}

/// What comes back at the same time may have been drawn within this part of the period. Each waits for the last of them.
const PARTS: u32 = 256;

/// A limit within any time of some length. The server counts a call at some moment between its admission and its end, so it counts
/// from the one until a period after the other.
#[derive(Debug)]
pub(super) struct Sliding {
    capacity: u128,
    period: Duration,
    /// What was drawn and has not come back.
    missing: u128,
    /// What comes back, and when: of calls that have ended.
    ended: VecDeque<Part>,
}

/// What comes back at `until`, of calls the first of which ended at `first`.
#[derive(Debug)]
struct Part {
    first: Instant,
    until: Instant,
    amount: u128,
}

impl Sliding {
    pub(super) fn new(capacity: u128, period: Duration) -> Self {
        Self {
            capacity,
            period,
            missing: 0,
            ended: VecDeque::new(),
        }
    }

    pub(super) fn change(&mut self, capacity: u128) {
        self.capacity = capacity;
    }

    fn back_by(&self, now: Instant) -> u128 {
        let back = self.ended.iter().take_while(|part| part.until <= now);
        back.map(|part| part.amount).sum()
    }

    fn fill(&mut self, now: Instant) {
        while let Some(part) = self.ended.front().filter(|part| part.until <= now) {
            self.missing = self.missing.saturating_sub(part.amount);
            self.ended.pop_front();
        }
        if self.ended.is_empty() {
            self.ended = VecDeque::new();
        }
    }

    fn ended(&mut self, amount: u128, now: Instant) {
        let until = after(now, self.period);
        let part = self.period / PARTS;
        match self.ended.back_mut() {
            Some(last) if now <= after(last.first, part) => {
                (last.until, last.amount) = (until, last.amount.saturating_add(amount));
            }
            _ => self.ended.push_back(Part {
                first: now,
                until,
                amount,
            }),
        }
    }

    fn give_back(&mut self, amount: u128, open: bool) {
        let mut left = if open { 0 } else { amount };
        // Those that ended last: nothing comes back too soon.
        while let Some(part) = self.ended.back_mut().filter(|_| left > 0) {
            let taken = part.amount.min(left);
            (part.amount, left) = (part.amount - taken, left - taken);
            if part.amount == 0 {
                self.ended.pop_back();
            }
        }
        self.missing = self.missing.saturating_sub(amount - left);
    }

    fn holds_at(&self, amount: u128, now: Instant) -> Option<Instant> {
        let wanted = amount.min(self.capacity);
        let mut above = self.missing.saturating_add(wanted);
        above = above.saturating_sub(self.capacity);
        let mut at = None;
        for part in &self.ended {
            if above == 0 {
                break;
            }
            at = Some(part.until);
            above = above.saturating_sub(part.amount);
        }
        match above {
            0 => at.filter(|at| *at > now),
            // A call has to end first.
            _ => Some(after(now, self.period)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(2_560);
    const CAPACITY: u128 = 20;

    /// Calls that draw as soon as it holds what they need, and end later. The server counts each somewhere in between.
    fn random(seed: u64) {
        println!("EWS_TEST_SEED={seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut window = Window::Sliding(Sliding::new(CAPACITY, PERIOD));
        let mut now = Instant::now();
        let mut open: Vec<(Instant, u128)> = Vec::new();
        let mut counted: Vec<(Instant, u128)> = Vec::new();
        for _ in 0..300 {
            now += Duration::from_millis(rng.u64(0..=60));
            window.fill(now);
            let amount = rng.u128(1..=5);
            match window.holds_at(amount, now) {
                None => {
                    window.draw(amount, now);
                    open.push((now, amount));
                }
                Some(until) => assert!(until > now && until <= now + PERIOD * 2),
            }
            while !open.is_empty() && rng.bool() {
                let (since, amount) = open.swap_remove(rng.usize(..open.len()));
                if rng.u8(..5) == 0 {
                    window.give_back(amount, true, now);
                    continue;
                }
                let took = (now - since).as_millis() as u64;
                counted.push((since + Duration::from_millis(rng.u64(0..=took)), amount));
                window.ended(amount, now);
                if rng.u8(..5) == 0 {
                    // The response said that nothing was done, and was read late.
                    counted.pop();
                    window.give_back(amount, false, now);
                }
            }
        }
        for (_, amount) in open.drain(..) {
            window.ended(amount, now);
        }
        let full = window
            .full_at(now)
            .is_none_or(|full| full <= now + PERIOD + PERIOD / PARTS);
        assert!(full, "{window:?}");
        window.fill(now + PERIOD + PERIOD / PARTS);
        assert!(window.is_full());
        counted.sort();
        for (at, (first, _)) in counted.iter().enumerate() {
            let within = counted[at..]
                .iter()
                .take_while(|(at, _)| *at < *first + PERIOD);
            assert!(within.map(|(_, amount)| amount).sum::<u128>() <= CAPACITY);
        }
    }

    #[test]
    fn no_more_than_the_number_is_within_any_period() {
        match std::env::var("EWS_TEST_SEED") {
            Ok(seed) => random(seed.parse().unwrap()),
            Err(_) => (0..500).for_each(random),
        }
    }

    #[test]
    fn any_number_of_calls_is_kept_in_few_parts() {
        let start = Instant::now();
        let mut sliding = Sliding::new(u128::MAX, PERIOD);
        for call in 0..25_600 {
            let now = start + PERIOD / 25_600 * call;
            sliding.missing += 1;
            sliding.ended(1, now);
            assert!(sliding.ended.len() <= PARTS as usize, "{call}");
        }
    }

    #[test]
    fn it_comes_back_a_period_after_the_end() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut window = Window::Sliding(Sliding::new(CAPACITY, PERIOD));
        window.draw(15, start);
        assert_eq!(window.holds_at(5, start), None);
        // Nothing has ended: not before a period is over.
        assert_eq!(window.holds_at(6, start), Some(at(2_560)));
        window.ended(10, at(100));
        window.ended(5, at(500));
        assert_eq!(window.holds_at(15, at(500)), Some(at(2_660)));
        assert_eq!(window.holds_at(16, at(500)), Some(at(3_060)));
        // More than it holds needs all of it.
        assert_eq!(window.holds_at(99, at(500)), Some(at(3_060)));
        assert_eq!(window.missing(at(2_660)), 5);
        // What the process before has exported.
        assert_eq!(window.rest_after(5, PERIOD - Duration::from_millis(1)), 5);
        assert_eq!(window.rest_after(5, PERIOD), 0);
        assert_eq!(window.holds_at(15, at(2_660)), None);
    }

    #[test]
    fn what_has_come_back_is_not_given_back_again() {
        let start = Instant::now();
        let mut window = Window::Sliding(Sliding::new(CAPACITY, PERIOD));
        window.draw(5, start);
        window.ended(5, start);
        let now = start + PERIOD;
        window.fill(now);
        window.draw(8, now);
        // The response to the first call is read late, and says that nothing was done.
        window.give_back(5, false, now);
        assert_eq!(window.missing(now), 8);
    }
}
