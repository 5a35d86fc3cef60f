//! [`Bucket`]: amounts that are drawn at once and come back steadily.

use std::time::Duration;

use tokio::time::Instant;

use super::super::clock::after;

/// An amount in a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    amount: u128,
    nanos: u128,
}

impl Rate {
    /// Neither is zero then. Both are made small enough to be multiplied by any time.
    pub(super) fn new(amount: u128, nanos: u128) -> Self {
        let large = (128 - amount.leading_zeros()).saturating_sub(64);
        Self {
            amount: (amount >> large).max(1),
            nanos: (nanos >> large).max(1),
        }
    }

    /// What comes back in a time.
    pub(super) fn back(self, time: Duration) -> u128 {
        time.as_nanos().saturating_mul(self.amount) / self.nanos
    }

    /// The time in which `amount` comes back.
    fn time(self, amount: u128) -> Duration {
        // The amount of a rate fits into 64 bits: a product that overflows is longer than any time.
        let nanos = amount
            .checked_mul(self.nanos)
            .map_or(u128::MAX, |product| product.div_ceil(self.amount));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// An eighth more.
    pub(super) fn raised(self) -> Self {
        Self::new(self.amount + (self.amount / 8).max(1), self.nanos)
    }
}

/// A bucket. A new one is full, which is no state at all.
#[derive(Debug)]
pub(super) struct Bucket {
    capacity: u128,
    rate: Rate,
    /// What was drawn and has not come back. More than it holds: it is in debt.
    drawn: u128,
    /// When that was so. None: it is full.
    at: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(capacity: u128, rate: Rate) -> Self {
        Self {
            capacity,
            rate,
            drawn: 0,
            at: None,
        }
    }

    pub(super) fn capacity(&self) -> u128 {
        self.capacity
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Sets other numbers, the rate for all time since it was filled last.
    pub(super) fn change(&mut self, capacity: u128, rate: Rate) {
        (self.capacity, self.rate) = (capacity, rate);
    }

    pub(super) fn is_full(&self) -> bool {
        self.at.is_none()
    }

    /// What is missing now.
    pub(super) fn missing(&self, now: Instant) -> u128 {
        let Some(at) = self.at else { return 0 };
        let back = self.rate.back(now.saturating_duration_since(at));
        self.drawn.saturating_sub(back)
    }

    pub(super) fn fill(&mut self, now: Instant) {
        let missing = self.missing(now);
        self.set(missing, now);
    }

    fn set(&mut self, drawn: u128, now: Instant) {
        self.drawn = drawn;
        self.at = (drawn > 0).then_some(now);
    }

    pub(super) fn empty(&mut self, now: Instant) {
        self.set(self.capacity, now);
    }

    pub(super) fn draw(&mut self, amount: u128, now: Instant) {
        let drawn = self.missing(now).saturating_add(amount);
        self.set(drawn, now);
    }

    pub(super) fn give_back(&mut self, amount: u128, now: Instant) {
        let drawn = self.missing(now).saturating_sub(amount);
        self.set(drawn, now);
    }

    /// When it holds `amount`; all of it, where it cannot hold so much. None: it does now.
    pub(super) fn holds_at(&self, amount: u128, now: Instant) -> Option<Instant> {
        let wanted = amount.min(self.capacity);
        let above = self.missing(now).saturating_add(wanted);
        match above.saturating_sub(self.capacity) {
            0 => None,
            above => Some(after(now, self.rate.time(above))),
        }
    }

    /// When it is full. None: it is now.
    pub(super) fn full_at(&self, now: Instant) -> Option<Instant> {
        self.at
            .map(|_| after(now, self.rate.time(self.missing(now))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    #[test]
    fn what_comes_back_and_how_long_it_takes() {
        let rate = Rate::new(3, 2);
        assert_eq!(rate.back(nanos(10)), 15);
        assert_eq!(
            (rate.time(15), rate.time(16)),
            (nanos(10), nanos(11)),
            "rounded up"
        );
        assert_eq!(Rate::new(1, 4).time(u128::MAX), nanos(u64::MAX));
        assert_eq!(Rate::new(800, 1).raised().back(nanos(1)), 900);
        assert_eq!(
            Rate::new(3, 1).raised().back(nanos(1)),
            4,
            "by one at least"
        );
    }

    #[test]
    fn it_is_drawn_from_and_fills_up() {
        let start = Instant::now();
        let at = |time| start + nanos(time);
        let mut bucket = Bucket::new(100, Rate::new(2, 1));
        assert!(bucket.is_full() && bucket.full_at(start).is_none());
        bucket.draw(60, start);
        assert!(!bucket.is_full());
        assert_eq!(bucket.missing(at(10)), 40);
        assert_eq!(bucket.holds_at(60, at(10)), None);
        assert_eq!(bucket.holds_at(61, at(10)), Some(at(11)));
        assert_eq!(bucket.holds_at(999, at(10)), Some(at(30)), "all of it");
        assert_eq!(bucket.full_at(at(10)), Some(at(30)));
        bucket.give_back(10, at(10));
        assert_eq!(bucket.missing(at(10)), 30);
        bucket.fill(at(15));
        bucket.change(200, Rate::new(4, 1));
        // The new rate counts from when it was filled last.
        assert_eq!((bucket.capacity(), bucket.missing(at(16))), (200, 16));
        bucket.empty(at(16));
        bucket.draw(40, at(16));
        assert_eq!(bucket.missing(at(16)), 240, "it is in debt");
        bucket.fill(at(76));
        assert!(bucket.is_full());
    }
}
