//! What is given back: the way out of a [`LocalLedger`](super::LocalLedger), and who may go on then.

use super::Config;
use super::state::{State, is_first};
use super::words::{Block, Clock, Work};
use crate::ledger::{End, Grant, Receipt, Shape};
use crate::principal::Charge;

impl State {
    // On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
    #[inline]
    pub(super) fn release(&mut self, grant: Grant, end: End, config: &Config) {
        let Ok(key) = usize::try_from(grant.0) else {
            return;
        };
        match self.give_back_plain(key, config) {
            Some(number) => {
                self.granted.remove(key);
                self.sweep_at_times(number, &mut Clock::default(), config);
            }
            None => self.release_anyhow(key, end, config),
        }
        if self.granted.is_empty() && self.granted.capacity() > 64 {
            self.granted.shrink_to_fit();
        }
    }

    /// The long way, for what is not plain.
    #[inline(never)]
    fn release_anyhow(&mut self, key: usize, end: End, config: &Config) {
        if let Some(receipt) = self.granted.try_remove(key) {
            self.give_back(&receipt, end, config);
        }
    }

    fn give_back(&mut self, receipt: &Receipt, end: End, config: &Config) {
        let mut clock = Clock::default();
        let complete = end == End::Complete;
        let mut plain = self.endpoints.is_empty();
        for (at, charge) in receipt.charges.iter().enumerate() {
            let Some(account) = self.account_mut(charge.principal()) else {
                continue;
            };
            let shape = config.shape(charge.budget());
            if matches!(shape, Some(Shape::InFlight(_))) {
                account.give_back(charge.budget(), charge.amount());
            }
            let Some(more) = &mut account.more else {
                if account.is_vacant() {
                    self.drop_account(charge.principal());
                }
                continue;
            };
            plain = false;
            if is_first(&receipt.charges, at) {
                more.gate.released(receipt.grant, complete);
            }
            if complete {
                if let Some(Shape::InFlight(configured)) = shape {
                    more.quiet(charge.budget(), receipt.grant, configured, &mut clock);
                }
            }
            if let (Some(value), Some(distinct)) =
                (charge.value(), more.distinct_mut(charge.budget()))
            {
                if distinct.release(value, complete, clock.now(), config) {
                    let principal = charge.principal().clone();
                    let works = Work::Opened(principal, charge.budget(), value.clone());
                    self.todo.push_back(works);
                }
            }
        }
        if !plain {
            self.after_release(receipt, complete, &mut clock, config);
        }
        self.sweep_at_times(receipt.grant, &mut clock, config);
    }

    /// As `take_plain`, the receipt still in its place, since moving it costs as much as the rest. The number of the
    /// grant, if it was the usual case.
    fn give_back_plain(&mut self, key: usize, config: &Config) -> Option<u64> {
        let receipt = self.granted.get(key)?;
        let [charge] = &*receipt.charges else {
            return None;
        };
        let budget = charge.budget();
        let counted = matches!(config.shape(budget), Some(Shape::InFlight(_)));
        if !counted || !self.endpoints.is_empty() {
            return None;
        }
        let principal = charge.principal();
        let hash = principal.hash64();
        let account = self
            .accounts
            .find_mut(hash, |account| account.principal == *principal)?;
        if account.more.is_some() {
            return None;
        }
        account.give_back(budget, charge.amount());
        let (number, vacant) = (receipt.grant, account.is_vacant());
        if vacant && self.spare != Some(hash) {
            self.keep_spare(hash);
        }
        Some(number)
    }

    fn keep_spare(&mut self, hash: u64) {
        let Some(old) = self.spare.replace(hash) else {
            return;
        };
        let found = self.accounts.find_entry(old, |account| {
            account.principal.hash64() == old && account.is_vacant()
        });
        if let Ok(entry) = found {
            entry.remove();
            self.shrink();
        }
    }

    fn sweep_at_times(&mut self, grant: u64, clock: &mut Clock, config: &Config) {
        if !self.schedule.is_empty() && (clock.is_known() || grant & 63 == 0) {
            self.sweep(clock.now(), config);
        }
    }

    /// Lets others go on after `receipt` was given back.
    fn after_release(
        &mut self,
        receipt: &Receipt,
        complete: bool,
        clock: &mut Clock,
        config: &Config,
    ) {
        self.release_endpoint(receipt, complete);
        for (at, charge) in receipt.charges.iter().enumerate() {
            self.pump_after(charge, is_first(&receipt.charges, at));
        }
        self.settle(clock, config);
        for charge in receipt.charges.iter() {
            self.tidy(charge.principal(), clock.now(), config);
        }
    }

    fn release_endpoint(&mut self, receipt: &Receipt, complete: bool) {
        let Some(authority) = &receipt.endpoint else {
            return;
        };
        for endpoint in &mut self.endpoints {
            if endpoint.authority == *authority {
                endpoint.released(receipt.grant, complete);
                let block = Block::Endpoint(authority.clone());
                self.todo.push_back(Work::Pump(block));
            }
        }
    }

    /// Looks at the queues that `charge` may have held up.
    fn pump_after(&mut self, charge: &Charge, first: bool) {
        let principal = charge.principal();
        let budget = charge.budget();
        let Some(more) = self
            .account_mut(principal)
            .and_then(|account| account.more.as_ref())
        else {
            return;
        };
        let gated = first && !more.gated.is_empty();
        let queued = more.first_in_queue(budget).is_some();
        let parked = charge.value().is_some()
            && more
                .distinct(budget)
                .is_some_and(|distinct| distinct.has_waiters());
        if gated {
            let block = Block::Gate(principal.clone());
            self.todo.push_back(Work::Pump(block));
        }
        if queued {
            let block = Block::Budget(principal.clone(), budget);
            self.todo.push_back(Work::Pump(block));
        }
        if parked {
            let block = Block::Place(principal.clone(), budget);
            self.todo.push_back(Work::Pump(block));
        }
    }
}
