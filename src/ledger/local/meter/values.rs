//! [`Values`]: the values that a fleet's ledger lets a process use.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::clock::Clock;
#[cfg(feature = "redis")]
use super::super::clock::after;
use super::measure::{Ask, Keep, Measure, Verdict};
use crate::ledger::{BudgetSnapshot, End, Limit};
use crate::principal::{Budget, Principal};

/// The values in use, and those that may be. The fleet's ledger counts them.
#[derive(Debug)]
pub(in super::super) struct Values {
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    idle: Duration,
    values: HashMap<Principal, Value>,
    /// What the server did not open since the last look.
    refused: Vec<Principal>,
}

#[derive(Debug)]
struct Value {
    /// Whether new calls may use it.
    lent: bool,
    in_use: u32,
    last_used: Instant,
    /// The server did not open it.
    refused: bool,
}

impl Values {
    pub(super) fn new(idle: Duration) -> Self {
        Self {
            idle,
            values: HashMap::new(),
            refused: Vec::new(),
        }
    }

    #[cfg(feature = "redis")]
    pub(in super::super) fn lend(&mut self, value: &Principal, now: Instant) {
        let new = Value {
            lent: true,
            in_use: 0,
            last_used: now,
            refused: false,
        };
        let value = self.values.entry(value.clone()).or_insert(new);
        (value.lent, value.refused) = (true, false);
    }

    /// New calls may not use it any more.
    #[cfg(feature = "redis")]
    pub(in super::super) fn take_back(&mut self, value: &Principal) {
        if let Some(known) = self.values.get_mut(value) {
            known.lent = false;
            if known.in_use == 0 {
                self.values.remove(value);
            }
        }
    }

    /// Forgets what was not used for the idle time. Returns the rest, each with how long it was not used; `None` is in use.
    #[cfg(feature = "redis")]
    pub(in super::super) fn usage(&mut self, now: Instant) -> Vec<(Principal, Option<Duration>)> {
        let idle = self.idle;
        self.values
            .retain(|_, value| value.in_use > 0 || after(value.last_used, idle) > now);
        let open = self.values.iter();
        let open = open.filter(|(_, value)| !value.refused);
        let usage = open.map(|(name, value)| {
            let unused = now.saturating_duration_since(value.last_used);
            (name.clone(), (value.in_use == 0).then_some(unused))
        });
        usage.collect()
    }
}

#[cfg(feature = "redis")]
impl Values {
    /// What the server did not open since the last look.
    pub(in super::super) fn take_refused(&mut self) -> Vec<Principal> {
        std::mem::take(&mut self.refused)
    }
}

impl Measure for Values {
    fn admit(&mut self, ask: Ask<'_>, _: &mut Clock) -> Verdict {
        let lent = |value: &Principal| self.values.get(value).is_some_and(|known| known.lent);
        match ask.values().find(|value| !lent(value)) {
            None => Verdict::Overtakes,
            Some(missing) => Verdict::Full {
                until: None,
                value: Some(missing.clone()),
            },
        }
    }

    fn take(&mut self, ask: Ask<'_>, clock: &mut Clock) -> bool {
        for value in ask.values() {
            if let Some(known) = self.values.get_mut(value) {
                known.in_use += 1;
                known.last_used = clock.now();
            }
        }
        false
    }

    fn give_back(&mut self, ask: Ask<'_>, end: End, clock: &mut Clock) {
        for value in ask.values() {
            let Some(known) = self.values.get_mut(value) else {
                continue;
            };
            known.in_use = known.in_use.saturating_sub(1);
            if end != End::NotSent {
                known.last_used = clock.now();
            }
            if known.in_use == 0 && !known.lent {
                self.values.remove(value);
            }
        }
    }

    fn exceeded(&mut self, ask: Ask<'_>, _: u64, _: &mut Clock) {
        // The server has not opened it: other calls ask anew.
        for value in ask.values() {
            if let Some(known) = self.values.get_mut(value) {
                (known.lent, known.refused) = (false, true);
                self.refused.push(value.clone());
            }
        }
    }

    fn set_limit(&mut self, _: Option<u32>, _: Limit) {}

    fn tidy(&mut self, _: Instant) -> Keep {
        match self.values.is_empty() {
            true => Keep::Nothing,
            false => Keep::InUse,
        }
    }

    fn snapshot(&self, budget: Budget, _: Instant) -> BudgetSnapshot {
        let many = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        BudgetSnapshot::new(budget, many, many)
    }
}
