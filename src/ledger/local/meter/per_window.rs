//! [`PerWindow`]: amounts per time, drawn from a bucket that fills up again steadily.

use std::time::Duration;

use tokio::time::Instant;

use super::super::clock::{Clock, after};
use super::measure::{Ask, Keep, Measure, Verdict};
use crate::ledger::{BudgetSnapshot, End, Limit};
use crate::principal::Budget;

/// A bucket.
///
/// What was drawn is kept times the period in nanoseconds: then what comes back in a time is a whole number, and nothing is lost
/// or gained by rounding, however often somebody looks.
#[derive(Debug)]
pub(in super::super) struct PerWindow {
    limit: u32,
    refill: u32,
    period: Duration,
    set: bool,
    /// What was drawn and has not come back. More than the bucket holds: it is in debt.
    drawn: u128,
    /// When that was so. None: it is full.
    at: Option<Instant>,
    told: Option<Told>,
}

/// What the server says is left of its own window.
#[derive(Clone, Copy, Debug)]
struct Told {
    left: u32,
    /// When all of it comes back.
    until: Instant,
}

/// Times that differ by no more name the same end of a window: servers count in whole seconds, and responses take their time.
const SAME_WINDOW: Duration = Duration::from_secs(2);

impl Told {
    /// What is known after the server says `new`.
    ///
    /// Responses come late and in any order, and do not count the calls that are on their way: in the same window the least counts.
    fn update(self, new: Self) -> Self {
        let is_later = new.until > after(self.until, SAME_WINDOW);
        match new.left < self.left || is_later {
            true => new,
            false => self,
        }
    }
}

impl PerWindow {
    pub(super) fn new(limit: u32, refill: u32, period: Duration) -> Self {
        Self {
            limit,
            refill,
            period,
            set: false,
            drawn: 0,
            at: None,
            told: None,
        }
    }

    fn scaled(&self, amount: u32) -> u128 {
        u128::from(amount) * self.period.as_nanos()
    }

    /// What is missing now.
    fn missing(&self, now: Instant) -> u128 {
        let Some(at) = self.at else { return 0 };
        let back = now.saturating_duration_since(at).as_nanos() * u128::from(self.refill);
        self.drawn.saturating_sub(back)
    }

    fn fill(&mut self, now: Instant) {
        self.drawn = self.missing(now);
        self.at = (self.drawn > 0).then_some(now);
    }

    /// When so much has come back.
    fn back_at(&self, amount: u128, now: Instant) -> Instant {
        let nanos = amount.div_ceil(u128::from(self.refill.max(1)));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        after(now, Duration::from_nanos(nanos))
    }

    fn draw(&mut self, amount: u32, now: Instant) {
        self.fill(now);
        self.drawn = self.drawn.saturating_add(self.scaled(amount));
        self.at = (self.drawn > 0).then_some(now);
        if let Some(told) = &mut self.told {
            told.left = told.left.saturating_sub(amount);
        }
    }

    /// When the bucket holds `amount`. None: it does now.
    fn holds_at(&mut self, amount: u32, now: Instant) -> Option<Instant> {
        self.fill(now);
        // More than it holds needs a full one.
        let wanted = self.scaled(amount.min(self.limit));
        let drawn = self.drawn.saturating_add(wanted);
        match drawn.saturating_sub(self.scaled(self.limit)) {
            0 => None,
            above => Some(self.back_at(above, now)),
        }
    }

    /// When the server's own window has `amount` left. None: it does now.
    fn left_at(&mut self, amount: u32, now: Instant) -> Option<Instant> {
        self.told.take_if(|told| told.until <= now);
        let wanted = amount.min(self.limit);
        let told = self.told.filter(|told| told.left < wanted)?;
        Some(told.until)
    }
}

impl Measure for PerWindow {
    fn admit(&mut self, ask: Ask<'_>, clock: &mut Clock) -> Verdict {
        if self.at.is_none() && self.told.is_none() {
            return Verdict::Room { value: None };
        }
        let (amount, now) = (ask.needed(), clock.now());
        let until = self.holds_at(amount, now).max(self.left_at(amount, now));
        match until {
            None => Verdict::Room { value: None },
            until => Verdict::Full { until, value: None },
        }
    }

    fn take(&mut self, ask: Ask<'_>, clock: &mut Clock) -> bool {
        self.draw(ask.amount(), clock.now());
        false
    }

    fn give_back(&mut self, ask: Ask<'_>, end: End, clock: &mut Clock) {
        if end == End::NotSent {
            self.unspent(ask.amount(), clock.now());
        }
    }

    fn unspent(&mut self, amount: u32, now: Instant) {
        self.fill(now);
        self.drawn = self.drawn.saturating_sub(self.scaled(amount));
        self.fill(now);
        if let Some(told) = &mut self.told {
            told.left = told.left.saturating_add(amount);
        }
    }

    fn spent(&mut self, amount: u32, clock: &mut Clock) {
        self.draw(amount, clock.now());
    }

    fn remains(&mut self, amount: u32, until: Instant, now: Instant) {
        let new = Told {
            left: amount,
            until,
        };
        // As much as the bucket holds is no news.
        if until > now && (amount < self.limit || self.told.is_some()) {
            self.told = Some(self.told.map_or(new, |known| known.update(new)));
        }
    }

    fn set_limit(&mut self, number: Option<u32>, policy: Limit) {
        self.set = number.is_some();
        let limit = number.map_or(policy, |number| policy.with_number(number));
        if let Limit::PerWindow { limit, refill, .. } = limit {
            (self.limit, self.refill) = (limit, refill);
        }
    }

    fn tidy(&mut self, now: Instant) -> Keep {
        self.fill(now);
        self.told.take_if(|told| told.until <= now);
        let full = self.at.map(|_| self.back_at(self.drawn, now));
        match full.max(self.told.map(|told| told.until)) {
            _ if self.set => Keep::InUse,
            Some(until) => Keep::Until(until),
            None => Keep::Nothing,
        }
    }

    fn snapshot(&self, budget: Budget, now: Instant) -> BudgetSnapshot {
        let drawn = self.missing(now).div_ceil(self.period.as_nanos().max(1));
        let drawn = u32::try_from(drawn).unwrap_or(u32::MAX);
        let told = self.told.filter(|told| told.until > now);
        let gone = told.map_or(0, |told| self.limit.saturating_sub(told.left));
        let drawn = drawn.max(gone);
        BudgetSnapshot::new(budget, drawn, self.limit)
    }
}
