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

#[cfg(test)]
#[cfg(feature = "redis")]
mod tests {
    use super::*;
    use crate::principal::Charge;

    const IDLE: Duration = Duration::from_secs(300);

    struct Lent {
        meter: Values,
        now: Instant,
    }

    impl Lent {
        fn with<T>(
            &mut self,
            value: &str,
            what: impl FnOnce(&mut Values, Ask<'_>, &mut Clock) -> T,
        ) -> T {
            let charge = Charge::of_value(name("svc"), Budget::OpenMailboxes, name(value));
            let ask = Ask {
                charges: &[charge],
                position: super::super::Position {
                    priority: crate::extensions::Priority::default(),
                    ticket: 1,
                    key: 0,
                },
                sequence: 1,
                reserve: 0,
            };
            what(&mut self.meter, ask, &mut Clock::at(self.now))
        }

        fn is_open(&mut self, value: &str) -> bool {
            let says = self.with(value, |meter, ask, clock| meter.admit(ask, clock));
            says == Verdict::Overtakes
        }

        fn take(&mut self, value: &str) {
            let early = self.with(value, |meter, ask, clock| meter.take(ask, clock));
            assert!(!early);
        }

        fn end(&mut self, value: &str, end: End) {
            self.with(value, |meter, ask, clock| meter.give_back(ask, end, clock));
        }

        fn usage(&mut self) -> Vec<(Principal, Option<Duration>)> {
            let mut usage = self.meter.usage(self.now);
            usage.sort_by_key(|one| one.0.key());
            usage
        }
    }

    fn name(name: &str) -> Principal {
        Principal::new(name)
    }

    fn two() -> Lent {
        let (mut meter, now) = (Values::new(IDLE), Instant::now());
        meter.lend(&name("a"), now);
        meter.lend(&name("b"), now);
        Lent { meter, now }
    }

    #[test]
    fn what_is_lent_is_open_until_it_was_idle() {
        let mut lent = two();
        assert!(lent.is_open("a") && lent.is_open("b") && !lent.is_open("c"));
        lent.take("a");
        lent.take("a");
        lent.now += IDLE / 2;
        lent.end("a", End::Complete);
        lent.take("b");
        lent.end("b", End::NotSent);
        assert_eq!(
            lent.usage(),
            [(name("a"), None), (name("b"), Some(Duration::ZERO))]
        );
        lent.now += IDLE / 4;
        // What was never sent has not opened it anew.
        lent.end("a", End::NotSent);
        let unused = Some(IDLE / 4);
        assert_eq!(lent.usage(), [(name("a"), unused), (name("b"), unused)]);
        lent.take("a");
        // A call may take longer than that.
        lent.now += 2 * IDLE;
        assert_eq!(lent.usage(), [(name("a"), None)]);
        lent.end("a", End::Complete);
        lent.now += IDLE - Duration::from_nanos(1);
        assert_eq!(lent.usage().len(), 1);
        lent.now += Duration::from_nanos(1);
        assert_eq!(lent.usage(), []);
        assert_eq!(lent.meter.tidy(lent.now), Keep::Nothing);
    }

    #[test]
    fn what_is_taken_back_is_used_up_by_those_that_have_it() {
        let mut lent = two();
        lent.take("a");
        lent.meter.take_back(&name("a"));
        lent.meter.take_back(&name("b"));
        assert_eq!(lent.usage(), [(name("a"), None)]);
        assert!(!lent.is_open("a"));
        lent.end("a", End::Complete);
        assert_eq!(lent.usage(), []);
    }

    #[test]
    fn what_the_server_did_not_open_is_told_once() {
        let mut lent = two();
        lent.take("a");
        lent.with("a", |meter, ask, clock| meter.exceeded(ask, 1, clock));
        assert!(!lent.is_open("a") && lent.is_open("b"));
        assert_eq!(lent.usage(), [(name("b"), Some(Duration::ZERO))]);
        assert_eq!(lent.meter.take_refused(), [name("a")]);
        assert_eq!(lent.meter.take_refused(), []);
        lent.meter.lend(&name("a"), lent.now);
        assert!(lent.is_open("a"));
        assert_eq!(lent.usage()[0], (name("a"), None));
    }
}
