//! What a fleet's ledger lends to the ledger of one process, and what it asks of it: [`Demand`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::agenda::Work;
use super::blocked::by_budget;
use super::clock::Clock;
use super::config::Config;
use super::ledger::{LocalLedger, LocalLedgerBuilder};
use super::meter::Meter;
use super::news::Told;
use super::state::State;
use crate::extensions::Priority;
use crate::ledger::{Contended, Limit};
use crate::principal::{Budget, Principal};

/// What one principal has and waits for in this process.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    pub(crate) budgets: Vec<BudgetDemand>,
    /// The first call of each list in which calls wait for amounts.
    pub(crate) heads: Vec<Head>,
}

/// One budget of it.
#[derive(Debug)]
pub(crate) struct BudgetDemand {
    pub(crate) budget: Budget,
    pub(crate) limit: Limit,
    pub(crate) usage: Usage,
    /// What the calls that wait draw on it, as if all of a list were like its first one, by priority.
    pub(crate) waiting: [u32; 3],
}

/// What is lent of a budget, and used.
#[derive(Debug)]
pub(crate) enum Usage {
    InFlight {
        share: u32,
        held: u32,
        /// The most that was held since the last look.
        peak: u32,
        /// Unused, but meant for a call that waits for a later principal of its charges.
        kept: u32,
    },
    Stock {
        left: u32,
        /// What was drawn since the last look.
        drawn: u32,
    },
    Values {
        /// How long each was not used; `None` is in use.
        lent: Vec<(Principal, Option<Duration>)>,
        /// What the server did not open since the last look.
        refused: Vec<Principal>,
        /// What calls wait for, the first one first.
        wanted: Vec<Principal>,
        /// The priority of the first one.
        priority: Priority,
    },
}

/// The first call of a list, and what it draws on the principal's budgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) list: Budget,
    pub(crate) amounts: Vec<(Budget, u32)>,
    /// Its own, or the highest if it was overtaken for too long.
    pub(crate) priority: Priority,
    /// How long it has waited.
    pub(crate) waited: Duration,
}

/// What changes for one budget.
#[derive(Debug)]
pub(crate) enum Lease {
    /// So much may be in flight.
    Share(u32),
    /// So much more may be drawn.
    Add(u32),
    /// So much may not be drawn any more.
    TakeBack(u32),
    /// New calls may use the value.
    Open(Principal),
    /// New calls may not use it any more.
    Close(Principal),
}

/// How many values calls ask for at a time.
const WANTED: usize = 64;

impl LocalLedgerBuilder {
    /// Lets calls draw on what is lent, and on nothing else.
    pub(crate) fn leased(mut self) -> Self {
        self.config.leased = true;
        self
    }
}

impl LocalLedger {
    /// Wakes whoever lends: there is news.
    pub(crate) fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// The principals of which calls wait for more, and what responses said of leased budgets.
    pub(crate) fn take_news(&self) -> (Vec<Principal>, Vec<(Principal, Budget, Told)>) {
        self.state.lock().news.take()
    }

    /// Looks at the demand of a principal and changes what it is lent, with no call in between. `plan` says what comes of it, what changes,
    /// and whether each release is news from now on. `named` budgets are among the demand, though nothing is known of them.
    pub(crate) fn lend<T>(
        &self,
        principal: &Principal,
        named: &[Budget],
        plan: impl FnOnce(&Demand) -> (T, Vec<(Budget, Lease)>, bool),
    ) -> T {
        let now = Instant::now();
        self.with(|state, config| {
            let demand = state.demand(principal, named, now, config);
            let (out, leases, wanted) = plan(&demand);
            state.account_mut(principal).wanted = wanted;
            for (budget, lease) in &leases {
                state.apply(principal, *budget, lease, now, config);
            }
            if !leases.is_empty() {
                state.agenda.principal(principal);
                state.settle(&mut Clock::at(now), config);
            }
            state.tidy(principal, now);
            out
        })
    }
}

impl State {
    fn demand(
        &mut self,
        principal: &Principal,
        named: &[Budget],
        now: Instant,
        config: &Config,
    ) -> Demand {
        let mut demand = Demand::default();
        // A call behind a closed gate needs nothing; after that one goes first, for which enough is kept.
        let account = self.account_mut(principal);
        let tested = account.gate_mut().is_some();
        let closed = account.closed_until(now).is_some();
        if !closed {
            demand.heads = self.heads(principal, now, config);
        }
        let kept = self.news.first_crossing(principal).cloned();
        let kept = kept.map(|request| amounts(&request, principal));
        let first = demand.heads.first().map(|head| head.amounts.clone());
        let kept = kept.or(first.filter(|_| tested));
        for (budget, limit) in &config.budgets {
            let list = Contended::Budget(principal.clone(), *budget);
            let waiting = self.waiting_for(*budget, &demand.heads, principal);
            let values = self.queue.values_of(&list).take(WANTED);
            let wanted: Vec<Principal> = values.cloned().collect();
            let first = self.queue.first(&list).map(|first| first.priority);
            let account = self.account_mut(principal);
            if waiting != [0; 3] || named.contains(budget) {
                // The first call of a list was not asked for all of its budgets yet.
                account.meter_or_new(*budget, *limit);
            }
            let usage = match account.meter_mut(*budget) {
                Some(Meter::InFlight(meter)) => {
                    let [held, peak, share] = meter.usage();
                    let kept = kept.as_ref().map_or(0, |kept| amount(kept, *budget));
                    Usage::InFlight {
                        share,
                        held,
                        peak,
                        kept,
                    }
                }
                Some(Meter::Stock(meter)) => {
                    let (left, drawn) = meter.usage();
                    Usage::Stock { left, drawn }
                }
                Some(Meter::Values(meter)) => Usage::Values {
                    lent: meter.usage(now),
                    refused: meter.take_refused(),
                    wanted,
                    priority: first.unwrap_or_default(),
                },
                _ => continue,
            };
            demand.budgets.push(BudgetDemand {
                budget: *budget,
                limit: *limit,
                usage,
                waiting,
            });
        }
        demand
    }

    /// The first call of each list of the principal that amounts would move.
    fn heads(&mut self, principal: &Principal, now: Instant, config: &Config) -> Vec<Head> {
        let lists = self.lists_of(principal);
        let heads = lists.into_iter().filter_map(|list| {
            let budget = list.budget()?;
            if config.waits_for_value(&list) {
                return None;
            }
            let first = self.queue.first(&list)?;
            let request = self.queue.request(first)?;
            let since = self.queue.since(first)?;
            Some(Head {
                list: budget,
                amounts: amounts(request, principal),
                priority: first.priority,
                waited: now.saturating_duration_since(since),
            })
        });
        heads.collect()
    }

    /// How much of `budget` all calls need that wait behind `heads`, if each needs what its head does, by priority.
    fn waiting_for(&self, budget: Budget, heads: &[Head], principal: &Principal) -> [u32; 3] {
        let mut waiting = [0_u32; 3];
        for head in heads {
            let of_list = Contended::Budget(principal.clone(), head.list);
            let each = amount(&head.amounts, budget);
            for (all, calls) in waiting.iter_mut().zip(self.queue.counts(&of_list)) {
                let calls = u32::try_from(calls).unwrap_or(u32::MAX);
                *all = all.saturating_add(calls.saturating_mul(each));
            }
        }
        waiting
    }

    fn apply(
        &mut self,
        principal: &Principal,
        budget: Budget,
        lease: &Lease,
        now: Instant,
        config: &Config,
    ) {
        let Some(limit) = config.limit(budget) else {
            return;
        };
        let account = self.account_mut(principal);
        match (account.meter_or_new(budget, limit), lease) {
            (Meter::InFlight(meter), Lease::Share(share)) => meter.lend(*share),
            (Meter::Stock(meter), Lease::Add(amount)) => meter.add(*amount),
            (Meter::Stock(meter), Lease::TakeBack(amount)) => meter.take_back(*amount),
            (Meter::Values(meter), Lease::Close(value)) => meter.take_back(value),
            (Meter::Values(meter), Lease::Open(value)) => {
                meter.lend(value, now);
                let list = Contended::Budget(principal.clone(), budget);
                if self.queue.first_of(&list, value).is_some()
                    && self.agenda.values.insert((list.clone(), value.clone()))
                {
                    self.agenda.work.push_back(Work::Value(list, value.clone()));
                }
            }
            (meter, lease) => debug_assert!(false, "{lease:?} for {meter:?}"),
        }
    }
}

/// What a call draws on each budget of one principal.
fn amounts(request: &crate::ledger::AcquireRequest, principal: &Principal) -> Vec<(Budget, u32)> {
    by_budget(request.charges())
        .filter(|(paying, ..)| *paying == principal)
        .map(|(_, budget, charges)| {
            let amounts = charges.iter().map(crate::principal::Charge::amount);
            (budget, amounts.fold(0, u32::saturating_add))
        })
        .collect()
}

fn amount(amounts: &[(Budget, u32)], budget: Budget) -> u32 {
    let of_budget = amounts.iter().find(|(known, _)| *known == budget);
    of_budget.map_or(0, |(_, amount)| *amount)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::super::tests::{of, parked, poll_once, several, try_now};
    use super::*;
    use crate::ledger::{AcquireRequest, Ledger};

    const BUDGETS: [Budget; 2] = [Budget::Concurrency, Budget::SyncCalls];

    fn leased() -> Arc<LocalLedger> {
        let builder = LocalLedger::builder();
        let ledger = BUDGETS.iter().fold(builder, |builder, budget| {
            builder.budget(*budget, Limit::InFlight(9))
        });
        Arc::new(ledger.leased().build())
    }

    /// Lends so much of the first budget, and says what there is of each afterwards.
    fn lend(ledger: &LocalLedger, name: &str, share: u32) -> Vec<[u32; 5]> {
        let lease = (Budget::Concurrency, Lease::Share(share));
        ledger.lend(&of(name), &[], |_| ((), vec![lease], false));
        look(ledger, name)
    }

    /// What waits for each budget, and its share, what is held, its peak and what is kept.
    fn look(ledger: &LocalLedger, name: &str) -> Vec<[u32; 5]> {
        ledger.lend(&of(name), &[], |demand| {
            let usage = demand.budgets.iter().map(|budget| match budget.usage {
                Usage::InFlight {
                    share,
                    held,
                    peak,
                    kept,
                } => [budget.waiting.iter().sum(), share, held, peak, kept],
                _ => panic!("{budget:?}"),
            });
            (usage.collect(), Vec::new(), false)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_asked_for_on_all_budgets_of_the_first_call() {
        let ledger = leased();
        let both = || several(BUDGETS.map(|budget| ("a", budget, 2)));
        let mut calls = [(); 3].map(|()| parked(&ledger, both()));
        // Too little for one: it is asked for all the same.
        assert_eq!(lend(&ledger, "a", 1), [[6, 1, 0, 0, 0], [6, 0, 0, 0, 0]]);
        assert_eq!(lend(&ledger, "a", 3), [[6, 3, 0, 0, 0], [6, 0, 0, 0, 0]]);
        for _ in 0..2 {
            let lease = (Budget::SyncCalls, Lease::Share(2));
            ledger.lend(&of("a"), &[], |_| ((), vec![lease], false));
        }
        let Poll::Ready(Ok(permit)) = poll_once(&mut calls[0]) else {
            panic!("enough is lent for one");
        };
        drop(calls);
        permit.complete();
        // The call is over, and was there since the last look.
        assert_eq!(look(&ledger, "a")[0], [0, 3, 0, 2, 0]);
        assert_eq!(look(&ledger, "a")[0], [0, 3, 0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_call_has_where_it_does_not_wait_is_kept_for_it() {
        let ledger = leased();
        let crosses = several(["a", "b"].map(|name| (name, Budget::Concurrency, 2)));
        let call = parked(&ledger, crosses);
        assert_eq!(lend(&ledger, "a", 3), [[0, 3, 0, 0, 2]]);
        assert_eq!(lend(&ledger, "b", 1), [[2, 1, 0, 0, 0]]);
        drop(call);
        assert_eq!(lend(&ledger, "a", 3), [[0, 3, 0, 0, 0]]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lent_to_a_single_call_either() {
        let ledger = leased();
        let request = AcquireRequest::new(of("a"));
        assert!(try_now(&ledger, &request).is_none());
        assert_eq!(lend(&ledger, "a", 1), [[0, 1, 0, 0, 0]]);
        let permit = try_now(&ledger, &request).expect("one is lent");
        assert!(try_now(&ledger, &request).is_none());
        permit.complete();
        // What is not lent any more is forgotten with the call.
        ledger.lend(&of("a"), &[], |_| {
            ((), vec![(Budget::Concurrency, Lease::Share(0))], false)
        });
        assert!(ledger.snapshot().principals.is_empty());
    }
}
