//! [`InFlight`]: amounts held at the same time.

use std::time::Duration;

use tokio::time::Instant;

use super::super::adapt::{AdaptiveLimit, Room};
use super::super::clock::Clock;
use super::measure::{Ask, Keep, Measure, Verdict};
use crate::ledger::learnt::Known;
use crate::ledger::{BudgetSnapshot, End, Limit};
use crate::principal::Budget;

/// What is held of a budget, and how much may be. Small: a job has one for each mailbox.
#[derive(Debug)]
pub(in super::super) struct InFlight {
    held: u32,
    /// The most that was held since a fleet's ledger last asked.
    peak: u32,
    /// The policy's limit, or the one that was set from outside.
    limit: u32,
    set: bool,
    hanging: bool,
    /// The limit is what a fleet's ledger lends, and holds for single amounts too.
    leased: bool,
    /// From the first refusal until the limit holds again.
    adaptive: Option<Box<AdaptiveLimit>>,
}

impl InFlight {
    pub(super) fn new(limit: u32, budget: Budget) -> Self {
        Self {
            held: 0,
            peak: 0,
            limit,
            set: false,
            hanging: matches!(budget, Budget::HangingConnections | Budget::Subscriptions),
            leased: false,
            adaptive: None,
        }
    }

    /// Nothing is lent yet.
    pub(super) fn leased() -> Self {
        Self {
            leased: true,
            ..Self::new(0, Budget::Concurrency)
        }
    }

    #[cfg(feature = "redis")]
    pub(in super::super) fn lend(&mut self, share: u32) {
        self.limit = share;
        self.set = share > 0;
    }

    /// What is held, the most that was held since the last look, and what is lent.
    #[cfg(feature = "redis")]
    pub(in super::super) fn usage(&mut self) -> [u32; 3] {
        let peak = std::mem::replace(&mut self.peak, self.held);
        [self.held, peak, self.limit]
    }

    /// Whether it is a count and nothing else.
    #[inline]
    pub(in super::super) fn is_plain(&self) -> bool {
        self.adaptive.is_none()
    }

    /// Whether the limit allows `amount` more. An amount above the limit fits when nothing else is held.
    #[inline]
    pub(in super::super) fn fits_plain(&self, amount: u32) -> bool {
        self.held == 0 && !self.leased || self.held.saturating_add(amount) <= self.limit
    }

    /// Whether exactly as much is held as the limit allows: who takes over an amount leaves no room for others.
    #[inline]
    pub(in super::super) fn is_at_limit(&self) -> bool {
        self.held == self.limit
    }

    #[inline]
    pub(in super::super) fn take_plain(&mut self, amount: u32) {
        self.held = self.held.saturating_add(amount);
        self.peak = self.peak.max(self.held);
    }

    #[inline]
    pub(in super::super) fn give_back_plain(&mut self, amount: u32) {
        self.held = self.held.saturating_sub(amount);
    }

    /// Back to the plain limit once it holds.
    fn settle(&mut self, now: Instant) {
        let limit = self.limit;
        self.adaptive
            .take_if(|adaptive| adaptive.keep_until(limit, now).is_none());
    }

    fn limit_now(&self) -> u32 {
        let learnt = self.adaptive.as_ref().map(|adaptive| adaptive.limit());
        learnt.map_or(self.limit, |learnt| learnt.min(self.limit))
    }
}

impl Measure for InFlight {
    fn is_idle(&self) -> bool {
        self.held == 0 && !self.set && self.adaptive.is_none()
    }

    fn admit(&mut self, ask: Ask<'_>, clock: &mut Clock) -> Verdict {
        let amount = ask.needed();
        let (held, limit, fits) = (self.held, self.limit, self.fits_plain(amount));
        let room = match &mut self.adaptive {
            Some(adaptive) => adaptive.room(held, amount, limit, clock.now()),
            None if fits => Room::Free,
            None => Room::Full(None),
        };
        match room {
            Room::Free => Verdict::Room { value: None },
            Room::Full(until) => Verdict::Full { until, value: None },
        }
    }

    fn take(&mut self, ask: Ask<'_>, clock: &mut Clock) -> bool {
        let amount = ask.amount();
        self.take_plain(amount);
        let Some(adaptive) = &mut self.adaptive else {
            return false;
        };
        let (held, limit) = (self.held, self.limit);
        adaptive.admitted(ask.sequence, held, amount, limit, clock.now());
        true
    }

    fn give_back(&mut self, ask: Ask<'_>, end: End, clock: &mut Clock) {
        let amount = ask.amount();
        self.give_back_plain(amount);
        let Some(adaptive) = &mut self.adaptive else {
            return;
        };
        let now = clock.now();
        match end {
            End::Complete => {
                adaptive.accepted(ask.sequence, now);
                adaptive.released(ask.sequence);
            }
            End::NoResponse => adaptive.given_up(ask.sequence, now),
            End::Dropped | End::NotSent => adaptive.released(ask.sequence),
        }
        self.settle(now);
    }

    fn accepted(&mut self, ask: Ask<'_>, clock: &mut Clock) {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.accepted(ask.sequence, clock.now());
            self.settle(clock.now());
        }
    }

    fn exceeded(&mut self, ask: Ask<'_>, last: u64, clock: &mut Clock) {
        if self.leased {
            // The fleet learns, not one process.
            return;
        }
        let now = clock.now();
        let (held, limit, hanging) = (self.held, self.limit, self.hanging);
        self.adaptive
            .get_or_insert_with(|| {
                Box::new(AdaptiveLimit::new(limit, hanging, Duration::ZERO, now))
            })
            .refused(ask.sequence, held, ask.amount(), last, now);
    }

    fn export(&self, _: Instant) -> Option<Known> {
        let limit = self.limit_now();
        (limit < self.limit && !self.leased).then_some(Known::Limit(limit))
    }

    fn import(&mut self, known: &Known, _: Duration, now: Instant) {
        if let (Known::Limit(level), false) = (known, self.leased) {
            let (limit, hanging) = (self.limit, self.hanging);
            self.adaptive
                .get_or_insert_with(|| {
                    Box::new(AdaptiveLimit::new(limit, hanging, Duration::ZERO, now))
                })
                .cut(*level, now);
        }
    }

    fn named(&mut self, number: u32, now: Instant) {
        if number >= self.limit || self.leased {
            return;
        }
        let (limit, hanging) = (self.limit, self.hanging);
        self.adaptive
            .get_or_insert_with(|| {
                Box::new(AdaptiveLimit::new(limit, hanging, Duration::ZERO, now))
            })
            .named(number);
    }

    fn set_limit(&mut self, number: Option<u32>, policy: Limit) {
        self.set = number.is_some();
        self.limit = number.unwrap_or(policy.number());
        // What was learnt below another number says nothing about this one.
        self.adaptive = None;
    }

    fn fill(&self) -> Option<u64> {
        Some(u64::from(self.held) * 1_000_000 / u64::from(self.limit_now().max(1)))
    }

    fn tidy(&mut self, now: Instant) -> Keep {
        if self.held > 0 || self.set {
            return Keep::InUse;
        }
        let limit = self.limit;
        let until = self
            .adaptive
            .as_ref()
            .and_then(|adaptive| adaptive.keep_until(limit, now));
        match until {
            Some(until) if until > now => Keep::Until(until),
            _ => {
                self.adaptive = None;
                Keep::Nothing
            }
        }
    }

    fn snapshot(&self, budget: Budget, _: Instant) -> BudgetSnapshot {
        BudgetSnapshot::new(budget, self.held, self.limit_now())
    }
}
