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

#[cfg(test)]
#[cfg(feature = "redis")]
mod tests {
    use super::*;
    use crate::principal::{Charge, Principal};

    #[test]
    fn what_is_drawn_is_told_once_and_comes_back_if_it_was_not_sent() {
        let mut stock = Stock::default();
        let now = Instant::now();
        let mut clock = Clock::at(now);
        let charges = [Charge::new(Principal::new("svc"), Budget::Requests, 3)];
        let ask = || Ask {
            charges: &charges,
            position: super::super::Position {
                priority: crate::extensions::Priority::default(),
                ticket: 1,
                key: 0,
            },
            sequence: 1,
            reserve: 0,
        };
        let has_room = |stock: &mut Stock| {
            stock.admit(ask(), &mut Clock::at(now)) == Verdict::Room { value: None }
        };
        stock.add(2);
        assert!(!has_room(&mut stock));
        stock.add(1);
        assert!(has_room(&mut stock));
        assert!(!stock.take(ask(), &mut clock));
        assert_eq!((stock.usage(), stock.usage()), ((0, 3), (0, 0)));
        assert_eq!(stock.tidy(now), Keep::Nothing);
        stock.give_back(ask(), End::Complete, &mut clock);
        assert_eq!(stock.usage(), (0, 0));
        stock.give_back(ask(), End::NotSent, &mut clock);
        assert_eq!((stock.usage(), stock.tidy(now)), ((3, 0), Keep::InUse));
        stock.take_back(1);
        assert_eq!(stock.usage(), (2, 0));
    }
}
