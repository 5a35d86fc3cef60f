//! What is given back: the way out of the state.

use tokio::time::Instant;

use super::super::blocked::{by_budget, by_principal, hangs};
use super::super::clock::Clock;
use super::super::config::Config;
use super::super::meter::Ask;
use super::super::queue::CLAIM;
use super::{State, not_queued};
use crate::ledger::{Admission, Contended, End, Limit};

impl State {
    #[inline]
    pub(in super::super) fn release(&mut self, admission: &Admission, end: End, config: &Config) {
        match self.give_back_fast(admission, config) {
            Some(hash) => {
                if let Some(hash) = hash {
                    self.accounts.keep_spare(hash);
                }
                if !self.expiry.is_empty() && (self.behind || admission.sequence() & 63 == 0) {
                    self.sweep(Instant::now());
                }
            }
            None if self.hand_on(admission, config).is_some() => {}
            None => self.release_slow(admission, end, config),
        }
    }

    /// What most releases come to while calls wait: the first of them takes over what is given back, and nothing changes for
    /// the others. None if more has a say. Watched by `benches/overhead`, `contended`.
    fn hand_on(&mut self, admission: &Admission, config: &Config) -> Option<()> {
        let [charge] = &**admission.charges() else {
            return None;
        };
        // Without a keeper the calls themselves watch whether an admission is picked up: they have to be told.
        let watched = self.keeper.is_some() && !self.queue.is_short();
        if !watched
            || admission.is_divided()
            || !self.endpoints.is_empty()
            || !self.agenda.is_idle()
            || config.has_reserves()
        {
            return None;
        }
        config.limit(charge.budget())?;
        let account = self.accounts.get_mut(charge.principal())?;
        let meter = account.meter_mut(charge.budget())?.plain()?;
        if !meter.is_at_limit() || account.gate_mut().is_some() {
            return None;
        }
        let contended = Contended::Budget(charge.principal().clone(), charge.budget());
        if self.agenda.misses(&contended) > 0 {
            return None;
        }
        let next = self.queue.first_of_all(&contended, account.queued())?;
        let request = self.queue.request(next)?;
        let [wanted] = &**request.charges() else {
            return None;
        };
        // The time before which it was not to go has passed: it would wait for that still.
        if wanted != charge {
            return None;
        }
        account.left();
        self.queue.unpark(next);
        let request = self.queue.take_request(next)?;
        self.last += 1;
        let admission = Admission::new(request, next.ticket, self.last);
        self.queue.hand_over(next, admission, Instant::now(), CLAIM);
        Some(())
    }

    /// As `take_fast`. The hash of the principal, if nothing is left of it.
    #[inline]
    pub(super) fn give_back_fast(
        &mut self,
        admission: &Admission,
        config: &Config,
    ) -> Option<Option<u64>> {
        let [charge] = &**admission.charges() else {
            return None;
        };
        if admission.is_divided() {
            return None;
        }
        let budget = charge.budget();
        if !matches!(config.limit(budget), Some(Limit::InFlight(_)))
            || self.is_overloaded(admission.endpoint())
        {
            return None;
        }
        let account = self.accounts.get_mut(charge.principal())?;
        let vacant = account.give_back_fast(budget, charge.amount())?;
        Some(vacant.then(|| charge.principal().hash64()))
    }

    #[inline(never)]
    pub(super) fn release_slow(&mut self, admission: &Admission, end: End, config: &Config) {
        let mut clock = Clock::default();
        self.give_back(admission, end, &mut clock, config);
        self.settle(&mut clock, config);
        self.tidy_all(admission.call_charges(), &mut clock);
        self.tidy_all(admission.charges(), &mut clock);
        self.sweep_if_any(&mut clock);
    }

    /// Gives back what was admitted, and notes who may go on now.
    pub(in super::super) fn give_back(
        &mut self,
        admission: &Admission,
        end: End,
        clock: &mut Clock,
        config: &Config,
    ) {
        let complete = end == End::Complete;
        let sequence = admission.sequence();
        let whole = !admission.is_split_off();
        if let Some(authority) = admission.endpoint().filter(|_| whole) {
            if let Some(endpoint) = self.endpoints.get_mut(authority) {
                let hangs = hangs(admission.call_charges());
                endpoint.released(sequence, hangs, complete, clock.now());
                self.agenda.endpoint(authority);
            }
        }
        for (principal, _) in by_principal(admission.call_charges()) {
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            if let Some(gate) = account.gate_mut() {
                gate.released(sequence, complete);
                account.settle_gate();
                self.agenda.principal(principal);
            }
        }
        for (principal, of_one) in by_principal(admission.charges()) {
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            for (_, budget, charges) in by_budget(of_one) {
                let ask = Ask {
                    charges,
                    position: not_queued(admission.request(), admission.ticket()),
                    sequence,
                    reserve: 0,
                };
                if let (Some(_), Some(meter)) = (config.limit(budget), account.meter_mut(budget)) {
                    meter.give_back(ask, end, clock);
                }
            }
            if account.wanted {
                self.news.wanted(principal);
            }
            if account.queued() > 0 {
                for (_, budget, charges) in by_budget(of_one) {
                    self.agenda.opened(principal, budget, charges, &self.queue);
                }
                self.agenda.principal(principal);
            }
        }
    }
}
