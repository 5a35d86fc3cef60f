//! What answers tell the ledger, what it forgets with time, and what it shows.

use std::cmp::Reverse;

use tokio::time::Instant;

use super::Config;
use super::adapt::Learnt;
use super::endpoint::Endpoint;
use super::state::State;
use super::words::{Block, Clock, Work};
use crate::ledger::{BudgetSnapshot, PrincipalSnapshot, Receipt, Shape, Signal, Snapshot};
use crate::principal::{Budget, Charge, Principal};

impl State {
    pub(super) fn report(
        &mut self,
        receipt: &Receipt,
        signal: Signal,
        now: Instant,
        config: &Config,
    ) {
        let mut clock = Clock::at(now);
        match signal {
            Signal::Busy { until } => {
                for charge in receipt.charges.iter() {
                    let more = self.account_or_new(charge.principal()).more();
                    more.gate.close(until);
                    self.todo
                        .push_back(Work::Pump(Block::Gate(charge.principal().clone())));
                }
            }
            Signal::EndpointBusy { until } => self.close_endpoint(receipt, until, now),
            Signal::Accepted => self.accepted(receipt),
            Signal::TooManyConnections => {
                let fullest = self.fullest(receipt, config, |budget| budget != Budget::FindCount);
                self.refused(receipt, fullest, now, config);
            }
            Signal::TooManyFound => {
                let fullest = self.fullest(receipt, config, |budget| budget == Budget::FindCount);
                self.refused(receipt, fullest, now, config);
            }
            Signal::TooManyOpenMailboxes => self.refused_to_open(receipt, now, config),
        }
        self.settle(&mut clock, config);
        self.sweep(now, config);
    }

    fn refused_to_open(&mut self, receipt: &Receipt, now: Instant, config: &Config) {
        for (at, charge) in receipt.charges.iter().enumerate() {
            let same = |other: &&Charge| {
                other.value().is_some()
                    && other.budget() == charge.budget()
                    && other.principal() == charge.principal()
            };
            if !same(&charge) || receipt.charges[..at].iter().any(|other| same(&other)) {
                continue;
            }
            let values = receipt.charges.iter().filter(same);
            let more = self.account_or_new(charge.principal()).more();
            let distinct = more.distinct_or_new(charge.budget());
            distinct.refuse(values.filter_map(Charge::value), now, config);
            let block = Block::Place(charge.principal().clone(), charge.budget());
            self.todo.push_back(Work::Pump(block));
        }
    }

    fn accepted(&mut self, receipt: &Receipt) {
        for charge in receipt.charges.iter() {
            if let Some(more) = self
                .account_mut(charge.principal())
                .and_then(|account| account.more.as_mut())
            {
                more.gate.accepted(receipt.grant);
                self.todo
                    .push_back(Work::Pump(Block::Gate(charge.principal().clone())));
            }
        }
        if let Some(authority) = &receipt.endpoint {
            for endpoint in &mut self.endpoints {
                if endpoint.authority == *authority {
                    endpoint.gate.accepted(receipt.grant);
                }
            }
            self.todo
                .push_back(Work::Pump(Block::Endpoint(authority.clone())));
        }
    }

    fn close_endpoint(&mut self, receipt: &Receipt, until: Instant, now: Instant) {
        let Some(authority) = &receipt.endpoint else {
            return;
        };
        let last_grant = self.last_grant;
        let known = self
            .endpoints
            .iter()
            .position(|endpoint| endpoint.authority == *authority);
        let at = known.unwrap_or_else(|| {
            let endpoint = Endpoint::new(authority.clone(), last_grant, now);
            self.endpoints.push(endpoint);
            self.endpoints.len() - 1
        });
        self.endpoints[at].overloaded(receipt.grant, until, last_grant, now);
        self.todo
            .push_back(Work::Pump(Block::Endpoint(authority.clone())));
    }

    /// Which of a refused call's charges (by position) was nearest to its limit.
    fn fullest(
        &mut self,
        receipt: &Receipt,
        config: &Config,
        candidate: impl Fn(Budget) -> bool,
    ) -> Option<usize> {
        receipt
            .charges
            .iter()
            .enumerate()
            .filter(|(_, charge)| {
                candidate(charge.budget())
                    && matches!(config.shape(charge.budget()), Some(Shape::InFlight(_)))
            })
            .max_by_key(|(at, charge)| {
                let limit = self
                    .account_mut(charge.principal())
                    .and_then(|account| account.limit(charge.budget(), config))
                    .unwrap_or(u32::MAX);
                let in_flight = receipt.in_flight.get(*at).unwrap_or(0);
                u64::from(in_flight) * 1_000_000 / u64::from(limit.max(1))
            })
            .map(|(at, _)| at)
    }

    /// Lowers the limit that a refused call met.
    fn refused(
        &mut self,
        receipt: &Receipt,
        fullest: Option<usize>,
        now: Instant,
        config: &Config,
    ) {
        let Some((at, charge)) = fullest.and_then(|at| Some((at, receipt.charges.get(at)?))) else {
            return;
        };
        let Some(Shape::InFlight(configured)) = config.shape(charge.budget()) else {
            return;
        };
        let in_flight = receipt.in_flight.get(at).unwrap_or(0);
        let others = in_flight.saturating_sub(charge.amount());
        let last_grant = self.last_grant;
        let more = self.account_or_new(charge.principal()).more();
        let learnt = match more
            .learnt
            .iter()
            .position(|learnt| learnt.budget == charge.budget())
        {
            Some(at) => &mut more.learnt[at],
            None => {
                more.learnt
                    .push(Learnt::new(charge.budget(), configured, now));
                let last = more.learnt.len() - 1;
                &mut more.learnt[last]
            }
        };
        if let Some(until) = learnt.refused(receipt.grant, others, last_grant, now) {
            more.gate.close(until);
            self.todo
                .push_back(Work::Pump(Block::Gate(charge.principal().clone())));
        }
        self.tidy(charge.principal(), now, config);
    }

    /// Drops a principal of which nothing is known any more, or schedules a later look at it.
    pub(super) fn tidy(&mut self, principal: &Principal, now: Instant, config: &Config) {
        let Some(account) = self.account_mut(principal) else {
            return;
        };
        let keep = account.tidy(now, config);
        if account.is_vacant() {
            self.drop_account(principal);
        } else if let (Some(until), Some(more)) = (keep, account.more.as_mut()) {
            if !more.scheduled {
                more.scheduled = true;
                self.schedule.push(Reverse((until, principal.hash64())));
            }
        }
    }

    pub(super) fn drop_account(&mut self, principal: &Principal) {
        let found = self.accounts.find_entry(principal.hash64(), |account| {
            account.principal == *principal
        });
        if let Ok(entry) = found {
            entry.remove();
            self.shrink();
        }
    }

    pub(super) fn shrink(&mut self) {
        let room = self.accounts.capacity();
        if room > 1024 && self.accounts.len() < room / 8 {
            let keep = self.accounts.len() * 2;
            self.accounts
                .shrink_to(keep, |account| account.principal.hash64());
        }
    }

    /// Looks at the principals whose time has come.
    pub(super) fn sweep(&mut self, now: Instant, config: &Config) {
        while let Some(Reverse((at, hash))) = self.schedule.peek().copied() {
            if at > now {
                break;
            }
            self.schedule.pop();
            let due = self
                .accounts
                .find_mut(hash, |account| account.principal.hash64() == hash);
            if let Some(account) = due {
                let principal = account.principal.clone();
                if let Some(more) = account.more.as_mut() {
                    more.scheduled = false;
                }
                self.tidy(&principal, now, config);
            }
        }
        if self.schedule.is_empty() {
            self.schedule.shrink_to(64);
        }
        self.endpoints
            .retain(|endpoint| !endpoint.is_forgotten(now));
    }

    pub(super) fn snapshot(&mut self, now: Instant, config: &Config) -> Snapshot {
        self.sweep(now, config);
        let principals = self
            .accounts
            .iter()
            .filter(|account| !account.is_vacant())
            .map(|account| {
                let more = account.more.as_deref();
                let learnt = more.into_iter().flat_map(|more| &more.learnt);
                let mut budgets: Vec<Budget> = account.held_budgets().collect();
                for learnt in learnt {
                    if !budgets.contains(&learnt.budget) {
                        budgets.push(learnt.budget);
                    }
                }
                let counted = budgets.into_iter().map(|budget| BudgetSnapshot {
                    budget,
                    held: account.held(budget),
                    limit: account.limit(budget, config).unwrap_or(u32::MAX),
                });
                let open = more.into_iter().flat_map(|more| &more.distinct);
                let open = open.map(|distinct| BudgetSnapshot {
                    budget: distinct.budget,
                    held: distinct.open_at(now, config),
                    limit: match config.shape(distinct.budget) {
                        Some(Shape::Distinct { limit, .. }) => limit,
                        _ => u32::MAX,
                    },
                });
                PrincipalSnapshot {
                    principal: account.principal.clone(),
                    gated: more.and_then(|more| more.gate.closed_for(now)),
                    budgets: counted.chain(open).collect(),
                    queued: more.map_or(0, |more| more.queued()),
                }
            })
            .collect();
        Snapshot {
            principals,
            queued: self.queued,
            gated_endpoints: self
                .endpoints
                .iter()
                .filter_map(|endpoint| {
                    let time = endpoint.gate.closed_for(now)?;
                    Some((endpoint.authority.clone(), time))
                })
                .collect(),
        }
    }
}
