//! What the next process would have to find out again, saved and taken in.

use tokio::time::Instant;

use super::super::clock::Clock;
use super::super::config::Config;
use super::State;
use crate::ledger::learnt::{Learnt, LearntBudget, LearntGate};
use crate::principal::Principal;

impl State {
    /// What has passed is forgotten before.
    pub(in super::super) fn export(&self, now: Instant) -> Learnt {
        let (mut budgets, mut gates) = (Vec::new(), Vec::new());
        for account in self.accounts.iter() {
            let principal = || account.principal.key();
            let known = account.meters().filter_map(|(budget, meter)| {
                Some(LearntBudget {
                    principal: principal(),
                    budget: *budget,
                    known: meter.export(now)?,
                })
            });
            budgets.extend(known);
            gates.extend(account.closed_until(now).map(|until| LearntGate {
                principal: principal(),
                closed: until - now,
            }));
        }
        Learnt::new(budgets, gates)
    }

    pub(in super::super) fn import(&mut self, learnt: &Learnt, now: Instant, config: &Config) {
        let age = learnt.age();
        for one in &learnt.budgets {
            let principal = Principal::from_key(&one.principal);
            let (Ok(principal), Some(limit)) = (principal, config.limit(one.budget)) else {
                continue;
            };
            let account = self.accounts.get_or_new(&principal);
            account
                .meter_or_new(one.budget, limit)
                .import(&one.known, age, now);
            self.agenda.principal(&principal);
            self.tidy(&principal, now);
        }
        for gate in &learnt.gates {
            let left = gate.closed.checked_sub(age);
            let principal = Principal::from_key(&gate.principal);
            if let (Ok(principal), Some(until)) =
                (principal, left.and_then(|left| now.checked_add(left)))
            {
                self.close_gate(&principal, until, now);
                self.tidy(&principal, now);
            }
        }
        self.settle(&mut Clock::at(now), config);
    }
}
