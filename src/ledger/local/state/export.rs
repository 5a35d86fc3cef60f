//! What the next process would have to find out again, saved and taken in.

use std::time::Duration;

use tokio::time::Instant;

use super::super::clock::{Clock, after};
use super::super::config::Config;
use super::State;
use crate::ledger::learnt::{Learnt, LearntBudget, LearntGate};
use crate::principal::{Budget, Principal};

/// No gate stays closed for longer for what another process knew: it may be a damaged file that says so.
const LONGEST_LOCK_OUT: Duration = Duration::from_secs(24 * 3600);

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

    /// Returns what could not be taken in: of each its budget, if it is one, and the key of its principal.
    pub(in super::super) fn import<'a>(
        &mut self,
        learnt: &'a Learnt,
        now: Instant,
        config: &Config,
    ) -> Vec<(Option<Budget>, &'a str)> {
        let age = learnt.age();
        let mut left_out = Vec::new();
        for one in &learnt.budgets {
            let principal = Principal::from_key(&one.principal);
            let (Ok(principal), Some(limit)) = (principal, config.limit(one.budget)) else {
                left_out.push((Some(one.budget), &*one.principal));
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
            let Ok(principal) = Principal::from_key(&gate.principal) else {
                left_out.push((None, &*gate.principal));
                continue;
            };
            if let Some(left) = gate.closed.min(LONGEST_LOCK_OUT).checked_sub(age) {
                self.close_gate(&principal, after(now, left), now);
                self.tidy(&principal, now);
            }
        }
        self.settle(&mut Clock::at(now), config);
        left_out
    }
}
