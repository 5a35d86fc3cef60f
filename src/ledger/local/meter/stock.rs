//! [`Stock`]: what is leased of a bucket that a fleet shares.

use tokio::time::Instant;

use super::super::clock::Clock;
use super::measure::{Ask, Keep, Measure, Verdict};
use crate::ledger::{BudgetSnapshot, End, Limit};
use crate::principal::Budget;

/// An amount that may be drawn. It does not fill up by itself.
#[derive(Debug, Default)]
pub(in super::super) struct Stock {
    left: u32,
    /// What was drawn since the fleet's ledger last asked.
    drawn: u32,
}

impl Stock {
    /// What is left, and what was drawn since the last look.
    #[cfg(feature = "redis")]
    pub(in super::super) fn usage(&mut self) -> (u32, u32) {
        (self.left, std::mem::take(&mut self.drawn))
    }

    pub(in super::super) fn add(&mut self, amount: u32) {
        self.left = self.left.saturating_add(amount);
    }

    #[cfg(feature = "redis")]
    pub(in super::super) fn take_back(&mut self, amount: u32) {
        self.left = self.left.saturating_sub(amount);
    }
}

impl Measure for Stock {
    fn admit(&mut self, ask: Ask<'_>, _: &mut Clock) -> Verdict {
        match ask.amount() <= self.left {
            true => Verdict::Room { value: None },
            false => Verdict::Full {
                until: None,
                value: None,
            },
        }
    }

    fn take(&mut self, ask: Ask<'_>, _: &mut Clock) -> bool {
        self.left = self.left.saturating_sub(ask.amount());
        self.drawn = self.drawn.saturating_add(ask.amount());
        false
    }

    fn give_back(&mut self, ask: Ask<'_>, end: End, _: &mut Clock) {
        if end == End::NotSent {
            self.add(ask.amount());
        }
    }

    fn set_limit(&mut self, _: Option<u32>, _: Limit) {}

    fn tidy(&mut self, _: Instant) -> Keep {
        match self.left {
            0 => Keep::Nothing,
            _ => Keep::InUse,
        }
    }

    fn snapshot(&self, budget: Budget, _: Instant) -> BudgetSnapshot {
        BudgetSnapshot::new(budget, 0, self.left)
    }
}
