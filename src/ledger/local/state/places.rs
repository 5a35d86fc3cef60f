//! What a call that waits keeps, and what the lists of waiting calls hang on.

use smallvec::SmallVec;
use tokio::time::Instant;

use super::super::blocked::by_budget;
use super::super::clock::Clock;
use super::super::config::Config;
use super::super::meter::{Ask, Meter, Position, Stage};
use super::State;
use crate::ledger::{AcquireRequest, BudgetSnapshot, Contended};
use crate::principal::Principal;

impl State {
    /// Counts a call that waits among those of `contended`, and keeps for it what it has elsewhere.
    pub(in super::super) fn parked(
        &mut self,
        request: &AcquireRequest,
        position: Position,
        contended: &Contended,
        clock: &mut Clock,
        config: &Config,
    ) {
        let mut stage = None;
        match contended {
            Contended::Budget(principal, budget) => {
                let account = self.accounts.get_or_new(principal);
                account.joined();
                if let Some(limit) = config.limit(*budget) {
                    account.meter_or_new(*budget, limit);
                    stage = Some(Stage::of(limit));
                    if config.leased {
                        self.news.wanted(principal);
                    }
                }
            }
            Contended::Gate(principal) => self.accounts.get_or_new(principal).joined(),
            Contended::Endpoint(authority) => {
                if let Some(endpoint) = self.endpoints.get_mut(authority) {
                    endpoint.queued += 1;
                }
            }
            Contended::Time => {}
        }
        // A call that waits for a time or a gate keeps nothing from others.
        if stage != Some(Stage::Amounts) {
            return;
        }
        if let (true, Some(principal)) = (config.leased, contended.principal()) {
            self.news.crosses(request, position, principal);
        }
        for (principal, budget, charges) in by_budget(request.charges()) {
            let Some(limit) = config
                .limit(budget)
                .filter(|l| Stage::of(*l) == Stage::Values)
            else {
                continue;
            };
            let ask = Ask {
                charges,
                position,
                sequence: self.last + 1,
                reserve: 0,
            };
            let account = self.accounts.get_or_new(principal);
            account.meter_or_new(budget, limit).keep_place(ask, clock);
            if account.queued() > 0 {
                self.agenda.opened(principal, budget, charges, &self.queue);
            }
        }
    }

    /// The opposite of `parked`.
    pub(in super::super) fn unparked(
        &mut self,
        request: &AcquireRequest,
        position: Position,
        contended: &Contended,
        keep_places: bool,
    ) {
        match contended {
            Contended::Budget(principal, _) | Contended::Gate(principal) => {
                if let Some(account) = self.accounts.get_mut(principal) {
                    account.left();
                }
            }
            Contended::Endpoint(authority) => {
                if let Some(endpoint) = self.endpoints.get_mut(authority) {
                    endpoint.queued = endpoint.queued.saturating_sub(1);
                }
            }
            Contended::Time => {}
        }
        self.news.crossed(request, position);
        if keep_places {
            return;
        }
        for (principal, budget, charges) in by_budget(request.charges()) {
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            let left = account
                .meter_mut(budget)
                .is_some_and(|meter| meter.leave_place(position));
            if left {
                // Somebody else may go on now; or the call itself, if it waits here next: what it kept was the last use of a value
                // that was refused.
                self.agenda.opened(principal, budget, charges, &self.queue);
                self.agenda.principal(principal);
            }
        }
    }

    /// The lists in which calls of a principal wait.
    pub(in super::super) fn lists_of(&mut self, principal: &Principal) -> SmallVec<[Contended; 4]> {
        let Some(account) = self.accounts.get_mut(principal).filter(|a| a.queued() > 0) else {
            return SmallVec::new();
        };
        let budgets = account.budgets();
        let lists = budgets.map(|budget| Contended::Budget(principal.clone(), budget));
        let gate = std::iter::once(Contended::Gate(principal.clone()));
        let all = gate.chain(lists);
        all.filter(|contended| self.queue.has(contended)).collect()
    }

    /// Makes room for calls that have waited too long for a value.
    pub(in super::super) fn make_room_for_aged(
        &mut self,
        contended: &Contended,
        clock: &mut Clock,
        config: &Config,
    ) {
        let places = self.places(contended);
        if places == 0 {
            return;
        }
        let (now, next) = (clock.now(), self.next_ticket());
        let aged = |since| config.is_aged(since, now);
        let wanted = self.queue.values_since(contended, aged, places);
        if let (1.., Some(meter)) = (wanted, self.meter_of(contended)) {
            meter.starved(wanted, next);
        }
    }

    pub(super) fn meter_of(&mut self, contended: &Contended) -> Option<&mut Meter> {
        let Contended::Budget(principal, budget) = contended else {
            return None;
        };
        self.accounts.get_mut(principal)?.meter_mut(*budget)
    }

    /// How many values the calls that wait for `contended` can hope for at a time.
    pub(in super::super) fn places(&mut self, contended: &Contended) -> usize {
        self.meter_of(contended).map_or(0, |meter| meter.places())
    }

    /// When the gate opens that holds back calls which wait for `contended`.
    pub(in super::super) fn gate_until(
        &mut self,
        contended: &Contended,
        now: Instant,
    ) -> Option<Instant> {
        match contended {
            Contended::Endpoint(authority) => self.endpoints.get(authority)?.closed_until(now),
            Contended::Gate(principal) | Contended::Budget(principal, _) => {
                self.accounts.get_mut(principal)?.closed_until(now)
            }
            Contended::Time => None,
        }
    }

    /// What is held of a budget, and its limit.
    pub(in super::super) fn usage(
        &mut self,
        contended: &Contended,
        now: Instant,
    ) -> Option<BudgetSnapshot> {
        let budget = contended.budget()?;
        Some(self.meter_of(contended)?.snapshot(budget, now))
    }
}
