//! [`PerWindow`]: amounts per time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::clock::{Clock, after};
use super::bucket::{Bucket, Rate};
use super::cost::Cost;
use super::learnt_rate::{FORGET, LearntRate};
use super::measure::{Ask, Keep, Measure, Verdict};
use super::window::{Sliding, Window};
use crate::ledger::learnt::{Known, KnownRate};
use crate::ledger::{BudgetSnapshot, End, Limit};
use crate::principal::Budget;

/// The bucket or the window of the policy, and what the server tells besides.
///
/// Amounts are kept times the period in nanoseconds: then what comes back in a time is a whole number, and nothing is lost or gained
/// by rounding, however often somebody looks.
#[derive(Debug)]
pub(in super::super) struct PerWindow {
    limit: u32,
    period: Duration,
    set: bool,
    window: Window,
    /// The calls in flight, by their numbers: those before it was full last have nothing to give back.
    taken: HashMap<u64, Taken>,
    /// How many are in flight, those included.
    in_flight: u32,
    /// What calls have cost that told it afterwards, in the budget's unit.
    cost: Cost,
    /// Until when that is kept.
    cost_until: Option<Instant>,
    told: Option<Told>,
    /// Since when it is not full, and what was drawn since.
    begun: Option<(Instant, u128)>,
    /// From the first lock-out until it is not used any more.
    learnt: Option<Box<LearntRate>>,
}

/// What a call in flight has drawn of it, and when.
#[derive(Clone, Copy, Debug)]
struct Taken {
    amount: u128,
    since: Instant,
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
/// A rate at which one comes back in more than this was not measured: what is learnt is forgotten in an hour without calls.
const SLOWEST: Duration = Duration::from_secs(24 * 3600);

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

/// As [`scaled`], of a part of an amount. What is no number is nothing.
fn scaled_part(amount: f64, period: Duration) -> u128 {
    (amount * period.as_nanos() as f64) as u128
}

/// An amount of a budget with that period.
fn scaled(amount: u32, period: Duration) -> u128 {
    u128::from(amount) * period.as_nanos()
}

impl PerWindow {
    /// A bucket that fills up again steadily.
    pub(super) fn new(limit: u32, refill: u32, period: Duration) -> Self {
        let bucket = Bucket::new(scaled(limit, period), Rate::new(refill.into(), 1));
        Self::of(Window::Steady(bucket), limit, period)
    }

    /// What was drawn within the last `period`.
    pub(super) fn sliding(limit: u32, period: Duration) -> Self {
        let sliding = Sliding::new(scaled(limit, period), period);
        Self::of(Window::Sliding(sliding), limit, period)
    }

    fn of(window: Window, limit: u32, period: Duration) -> Self {
        Self {
            limit,
            period,
            set: false,
            window,
            taken: HashMap::new(),
            in_flight: 0,
            cost: Cost::default(),
            cost_until: None,
            told: None,
            begun: None,
            learnt: None,
        }
    }

    /// What one more call and those in flight may cost besides what they have drawn. All of it has to be there: a server may lock out as
    /// soon as it is below zero.
    fn to_come(&self) -> u128 {
        let calls = self.in_flight.saturating_add(1);
        scaled_part(self.cost.most(calls), self.period)
    }

    /// Whether calls are in flight that will tell what they have cost.
    fn is_awaited(&self) -> bool {
        self.in_flight > 0 && !self.cost.is_unknown()
    }

    /// Whether the calls in flight and one more may have cost all of it.
    fn is_spent(&self, now: Instant) -> bool {
        let spent = self.window.missing(now).saturating_add(self.to_come());
        spent >= scaled(self.limit, self.period)
    }

    fn fill(&mut self, now: Instant) {
        self.window.fill(now);
        if self.window.is_full() {
            self.taken = HashMap::new();
            self.begun = None;
        }
    }

    fn draw(&mut self, amount: u32, now: Instant) {
        self.fill(now);
        let scaled = scaled(amount, self.period);
        self.window.draw(scaled, now);
        let (_, drawn) = self.begun.get_or_insert((now, 0));
        *drawn = drawn.saturating_add(scaled);
        if let Some(learnt) = &mut self.learnt {
            learnt.draw(scaled, now);
        }
        if let Some(told) = &mut self.told {
            told.left = told.left.saturating_sub(amount);
        }
    }

    /// Takes back what a call drew, of which `rest` is still missing. `open`: the call has not ended.
    fn undraw(&mut self, amount: u32, rest: u128, open: bool, now: Instant) {
        self.window.give_back(rest, open, now);
        if let Some((_, drawn)) = &mut self.begun {
            *drawn = drawn.saturating_sub(scaled(amount, self.period));
        }
        if let Some(learnt) = &mut self.learnt {
            learnt.give_back(rest, now);
        }
        if let Some(told) = &mut self.told {
            told.left = told.left.saturating_add(amount);
        }
        self.fill(now);
    }

    /// When the server's own window has `amount` left. None: it does now.
    fn left_at(&mut self, amount: u32, now: Instant) -> Option<Instant> {
        self.told.take_if(|told| told.until <= now);
        let wanted = amount.min(self.limit);
        let told = self.told.filter(|told| told.left < wanted)?;
        Some(told.until)
    }

    /// What is learnt of the server's bucket.
    fn learnt(&self) -> Option<&Bucket> {
        self.learnt.as_ref()?.bucket()
    }

    /// In the budget's unit.
    fn part(&self, scaled: u128) -> f64 {
        scaled as f64 / self.period.as_nanos().max(1) as f64
    }

    /// In the budget's unit, rounded up.
    fn amount(&self, scaled: u128) -> u32 {
        let amount = scaled.div_ceil(self.period.as_nanos().max(1));
        u32::try_from(amount).unwrap_or(u32::MAX)
    }
}

impl Measure for PerWindow {
    fn admit(&mut self, ask: Ask<'_>, clock: &mut Clock) -> Verdict {
        let is_known = self.told.is_some() || self.learnt.is_some() || !self.cost.is_unknown();
        if self.window.is_full() && !is_known {
            return Verdict::Room { value: None };
        }
        let (amount, now) = (ask.needed(), clock.now());
        self.fill(now);
        let scaled = scaled(amount, self.period);
        let with_costs = scaled.saturating_add(self.to_come());
        let learnt = self.learnt();
        let learnt = learnt.and_then(|bucket| bucket.holds_at(with_costs, now));
        let until = self.window.holds_at(with_costs, now).max(learnt);
        let until = until.max(self.left_at(amount, now));
        // Not even when it is full: one of those in flight has to end first.
        let is_beyond = self.is_awaited() && with_costs > self.window.capacity();
        match until {
            None if !is_beyond => Verdict::Room { value: None },
            _ => Verdict::Full { until, value: None },
        }
    }

    fn take(&mut self, ask: Ask<'_>, clock: &mut Clock) -> bool {
        let now = clock.now();
        let is_awaited = self.is_awaited();
        if let Some(learnt) = self.learnt.as_mut().filter(|_| !is_awaited) {
            learnt.at_rest(now);
        }
        self.draw(ask.amount(), now);
        let amount = scaled(ask.amount(), self.period);
        let taken = Taken { amount, since: now };
        self.taken.insert(ask.sequence, taken);
        self.in_flight = self.in_flight.saturating_add(1);
        false
    }

    fn give_back(&mut self, ask: Ask<'_>, end: End, clock: &mut Clock) {
        let taken = self.taken.remove(&ask.sequence);
        self.in_flight = self.in_flight.saturating_sub(1);
        if end == End::NotSent {
            let now = clock.now();
            let rest = taken.map(|taken| self.window.rest(taken.amount, taken.since, now));
            self.undraw(ask.amount(), rest.unwrap_or_default(), true, now);
        } else if let Some(taken) = taken {
            self.window.ended(taken.amount, clock.now());
        }
        if let Some(learnt) = self.learnt.as_mut().filter(|_| end == End::Complete) {
            learnt.good(ask.sequence);
        }
    }

    /// A response takes no time to speak of, and may have ended before this is told: what has come back since counts twice.
    fn unspent(&mut self, sequence: u64, amount: u32, now: Instant) {
        let rest = scaled(amount, self.period);
        let open = self.taken.get_mut(&sequence).map(|taken| {
            taken.amount = taken.amount.saturating_sub(rest);
        });
        self.undraw(amount, rest, open.is_some(), now);
    }

    fn spent(&mut self, amount: u32, clock: &mut Clock) {
        let now = clock.now();
        self.cost.add(amount.into());
        self.cost_until = Some(after(now, FORGET));
        self.draw(amount, now);
        self.window.ended(scaled(amount, self.period), now);
    }

    fn export(&self, now: Instant) -> Option<Known> {
        let rate = self.learnt.as_ref().and_then(|learnt| {
            let (bucket, rate, holds) = (learnt.bucket()?, learnt.sure_rate()?, learnt.holds()?);
            Some(KnownRate {
                capacity: self.part(bucket.capacity()),
                per_second: self.part(rate.back(Duration::from_secs(1))),
                missing: self.part(bucket.missing(now)),
                holds,
            })
        });
        let missing = self.part(self.window.missing(now));
        let some = missing > 0.0 || rate.is_some() || !self.cost.is_unknown();
        some.then_some(Known::Window {
            missing,
            cost: self.cost.parts(),
            rate,
        })
    }

    fn import(&mut self, known: &Known, age: Duration, now: Instant) {
        let Known::Window {
            missing,
            cost,
            rate,
        } = known
        else {
            return;
        };
        if let Some(left) = FORGET.checked_sub(age) {
            self.cost = Cost::of(*cost);
            self.cost_until = Some(after(now, left));
        }
        let amount = scaled_part(*missing, self.period);
        let most = self.window.rate().map_or(amount, |rate| rate.back(SLOWEST));
        let amount = amount.min(self.window.capacity().saturating_add(most));
        let amount = self.window.rest_after(amount, age);
        if amount > 0 {
            self.window.draw(amount, now);
            self.window.ended(amount, now);
            self.begun = Some((now, amount));
        }
        // With a rate of next to nothing, as in a damaged file, calls would wait for as long as they may.
        let slowest = SLOWEST.as_secs_f64().recip();
        if let Some(rate) = rate.filter(|rate| rate.per_second >= slowest) {
            let scaled = |amount: f64| scaled_part(amount, self.period);
            let second = Duration::from_secs(1).as_nanos();
            let mut bucket = Bucket::new(
                scaled(rate.capacity),
                Rate::new(scaled(rate.per_second), second),
            );
            let most = bucket
                .capacity()
                .saturating_add(bucket.rate().back(SLOWEST));
            bucket.draw(scaled(rate.missing).min(most), now);
            bucket.give_back(bucket.rate().back(age), now);
            self.learnt = Some(Box::new(LearntRate::known(bucket, rate.holds, now)));
        }
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
        self.limit = limit.number();
        let capacity = scaled(self.limit, self.period);
        match (&mut self.window, limit) {
            (Window::Steady(bucket), Limit::PerWindow { refill, .. }) => {
                bucket.change(capacity, Rate::new(refill.into(), 1));
            }
            (Window::Steady(bucket), _) => bucket.change(capacity, bucket.rate()),
            (Window::Sliding(sliding), _) => sliding.change(capacity),
        }
        // What was learnt below another number says nothing about this one.
        self.learnt = None;
    }

    fn exceeded(&mut self, ask: Ask<'_>, last: u64, clock: &mut Clock) {
        let now = clock.now();
        self.locked_out(ask, now, last, now);
    }

    fn locked_out(&mut self, ask: Ask<'_>, until: Instant, last: u64, now: Instant) {
        // Before it was full last a call has drawn nothing that is missing in what is measured.
        let in_flight = u32::try_from(self.taken.len().max(1)).unwrap_or(u32::MAX);
        let doubt = scaled_part(self.cost.most(in_flight), self.period);
        let rate = self.window.rate().filter(|_| self.is_spent(now));
        let policy = rate.map(|rate| (rate, self.to_come()));
        match &mut self.learnt {
            Some(learnt) => {
                let sequence = ask.sequence;
                learnt.locked_out(sequence, doubt, until, last, policy, now);
            }
            None => {
                let (begun, drawn) = self.begun.unwrap_or((now, 0));
                let time = now.saturating_duration_since(begun);
                self.learnt = Some(Box::new(LearntRate::new(drawn, time, last, now)));
            }
        }
    }

    fn tidy(&mut self, now: Instant) -> Keep {
        self.fill(now);
        self.told.take_if(|told| told.until <= now);
        self.learnt.take_if(|learnt| learnt.keep_until() <= now);
        if self.cost_until.take_if(|until| *until <= now).is_some() {
            self.cost = Cost::default();
        }
        let told = self.told.map(|told| told.until);
        let learnt = self.learnt.as_ref().map(|learnt| learnt.keep_until());
        let known = told.max(learnt).max(self.cost_until);
        match self.window.full_at(now).max(known) {
            _ if self.set || self.is_awaited() => Keep::InUse,
            Some(until) => Keep::Until(until),
            None => Keep::Nothing,
        }
    }

    fn snapshot(&self, budget: Budget, now: Instant) -> BudgetSnapshot {
        let told = self.told.filter(|told| told.until > now);
        let gone = told.map_or(0, |told| self.limit.saturating_sub(told.left));
        let drawn = self.amount(self.window.missing(now)).max(gone);
        let (drawn, limit) = match self.learnt() {
            Some(learnt) => {
                let limit = self.amount(learnt.capacity()).min(self.limit);
                (drawn.max(self.amount(learnt.missing(now))), limit)
            }
            None => (drawn, self.limit),
        };
        BudgetSnapshot::new(budget, drawn, limit.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Position;
    use super::*;
    use crate::extensions::Priority;
    use crate::principal::{Charge, Principal};

    const SECOND: Duration = Duration::from_secs(1);

    fn with_ask<T>(sequence: u64, amount: u32, then: impl FnOnce(Ask<'_>) -> T) -> T {
        let charges = [Charge::new(Principal::new("a"), Budget::Requests, amount)];
        then(Ask {
            charges: &charges,
            position: Position {
                priority: Priority::default(),
                ticket: 1,
                key: 0,
            },
            sequence,
            reserve: 0,
        })
    }

    /// A call of no time.
    fn call(window: &mut PerWindow, sequence: u64, amount: u32, end: End, now: Instant) {
        let mut clock = Clock::at(now);
        with_ask(sequence, amount, |ask| {
            window.take(ask, &mut clock);
            window.give_back(ask, end, &mut clock);
        });
    }

    /// Whether a rate is learnt from two lock-outs with four calls between them, of a bucket of 100 that holds one more each second.
    fn is_learnt(amount: u32, end: End) -> bool {
        let start = Instant::now();
        let mut window = PerWindow::new(100, 1, SECOND);
        with_ask(1, 1, |ask| window.locked_out(ask, start, 0, start));
        let now = start + SECOND * 50;
        (1..=4).for_each(|sequence| call(&mut window, sequence, amount, end, now));
        with_ask(1, 1, |ask| window.locked_out(ask, now, 4, now));
        matches!(
            window.export(now),
            Some(Known::Window { rate: Some(_), .. })
        )
    }

    #[test]
    fn a_rate_is_learnt_where_the_bucket_of_the_policy_is_not_empty() {
        assert!(is_learnt(12, End::Complete));
        assert!(!is_learnt(25, End::Complete), "all of it is missing");
        assert!(!is_learnt(12, End::Dropped), "no call has worked");
    }

    /// All that it holds is enough.
    #[test]
    fn calls_that_may_cost_more_than_it_holds_wait_for_one_to_end() {
        let now = Instant::now();
        let mut window = PerWindow::new(10, 1, SECOND);
        let knows = Known::Window {
            missing: 0.0,
            cost: [2.0, 0.0],
            rate: None,
        };
        window.import(&knows, Duration::ZERO, now);
        let mut clock = Clock::at(now);
        with_ask(1, 0, |ask| window.take(ask, &mut clock));
        let mut admit = |amount| with_ask(2, amount, |ask| window.admit(ask, &mut clock));
        assert_eq!(admit(6), Verdict::Room { value: None });
        assert_ne!(admit(7), Verdict::Room { value: None });
    }
}
