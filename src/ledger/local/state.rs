//! The state behind a [`LocalLedger`](super::LocalLedger)'s lock: what is held, and what may go now.
//!
//! What blocks a call decides in which queue it waits: see `line`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::mem;
use std::task::Waker;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use slab::Slab;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::Config;
use super::account::Account;
use super::adapt::Pass;
use super::distinct::Distinct;
use super::distinct::Place;
use super::endpoint::Endpoint;
use super::words::{Block, Blocked, Clock, Plain, Position, Waiter, Work};
use crate::ledger::{Draw, Grant, InFlight, Receipt, Shape};
use crate::principal::{Budget, Charge, Principal};

#[derive(Default)]
pub(super) struct State {
    pub(super) accounts: HashTable<Account>,
    /// The principal, by its hash, of which nothing was left last. It stays until there is another: its next call, which is the
    /// usual one of a job in one account, finds it in place.
    pub(super) spare: Option<u64>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) waiters: Slab<Waiter>,
    /// What is granted now. Kept here, so that permits are small.
    pub(super) granted: Slab<Receipt>,
    /// How many of the waiters still wait.
    pub(super) queued: usize,
    pub(super) next_place: u64,
    pub(super) last_grant: u64,
    /// A call that needs several budgets and was overtaken for too long: younger ones stay behind it on all of them.
    pub(super) elder: Option<Position>,
    /// What a change has brought up, done before the lock is given back.
    pub(super) todo: VecDeque<Work>,
    /// When to look again at principals that only time keeps, by their hash.
    pub(super) schedule: BinaryHeap<Reverse<(Instant, u64)>>,
    pub(super) wakers: Vec<Waker>,
}

/// What a call was granted: its receipt but for what the draw says.
pub(super) struct Granted {
    place: u64,
    number: u64,
    in_flight: InFlight,
    probe: bool,
}

impl Granted {
    pub(super) fn receipt(self, draw: &mut Draw) -> Receipt {
        Receipt {
            charges: mem::take(&mut draw.charges),
            endpoint: draw.endpoint.take(),
            place: self.place,
            grant: self.number,
            in_flight: self.in_flight,
            probe: self.probe,
        }
    }
}

/// Whether the charge at `at` is the first of its principal.
pub(super) fn is_first(charges: &[Charge], at: usize) -> bool {
    let principal = charges[at].principal();
    !charges[..at]
        .iter()
        .any(|charge| charge.principal() == principal)
}

impl State {
    pub(super) fn account_mut(&mut self, principal: &Principal) -> Option<&mut Account> {
        self.accounts.find_mut(principal.hash64(), |account| {
            account.principal == *principal
        })
    }

    pub(super) fn distinct_mut(
        &mut self,
        principal: &Principal,
        budget: Budget,
    ) -> Option<&mut Distinct> {
        self.account_mut(principal)?
            .more
            .as_mut()?
            .distinct_mut(budget)
    }

    pub(super) fn account_or_new(&mut self, principal: &Principal) -> &mut Account {
        let entry = self.accounts.entry(
            principal.hash64(),
            |account| account.principal == *principal,
            |account| account.principal.hash64(),
        );
        match entry {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Account::new(principal.clone())).into_mut(),
        }
    }

    // On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
    #[inline]
    pub(super) fn try_acquire(&mut self, draw: &mut Draw, config: &Config) -> Option<Grant> {
        let place = draw.place.unwrap_or(self.next_place + 1);
        let in_flight = match self.take_plain(&draw.charges, config) {
            Plain::Taken(in_flight) => in_flight,
            Plain::Full => return None,
            Plain::Other => return self.try_acquire_anyhow(draw, place, config),
        };
        self.next_place = self.next_place.max(place);
        self.last_grant += 1;
        let grant = Granted {
            place,
            number: self.last_grant,
            in_flight: InFlight::one(in_flight),
            probe: false,
        };
        Some(self.keep(grant.receipt(draw)))
    }

    /// The long way, for what is not plain.
    #[inline(never)]
    fn try_acquire_anyhow(
        &mut self,
        draw: &mut Draw,
        place: u64,
        config: &Config,
    ) -> Option<Grant> {
        let mut clock = Clock::default();
        let position = (place, usize::MAX);
        let blocked = self.blocked(draw, &[], position, &mut clock, config);
        if blocked.is_some() {
            return None;
        }
        self.next_place = self.next_place.max(place);
        let grant = self.grant(draw, place, &mut clock, config);
        let grant = self.keep(grant.receipt(draw));
        self.settle(&mut clock, config);
        Some(grant)
    }

    #[inline(always)]
    pub(super) fn keep(&mut self, receipt: Receipt) -> Grant {
        Grant(self.granted.insert(receipt) as u64)
    }

    pub(super) fn receipt(&self, grant: Grant) -> Option<&Receipt> {
        self.granted.get(usize::try_from(grant.0).ok()?)
    }

    /// The usual case in one look at the table: a call with one charge, of a principal without queue, gate and the like.
    fn take_plain(&mut self, charges: &[Charge], config: &Config) -> Plain {
        let [charge] = charges else {
            return Plain::Other;
        };
        let shape = config.shape(charge.budget());
        let (Some(Shape::InFlight(limit)), None) = (shape, charge.value()) else {
            return Plain::Other;
        };
        if !self.endpoints.is_empty() || self.elder.is_some() {
            return Plain::Other;
        }
        let principal = charge.principal();
        let (budget, amount) = (charge.budget(), charge.amount());
        let entry = self.accounts.entry(
            principal.hash64(),
            |account| account.principal == *principal,
            |account| account.principal.hash64(),
        );
        match entry {
            Entry::Occupied(entry) => entry.into_mut().take_plain(budget, amount, limit),
            Entry::Vacant(entry) => {
                let mut account = Account::new(principal.clone());
                let in_flight = account.take(budget, amount);
                entry.insert(account);
                Plain::Taken(in_flight)
            }
        }
    }

    /// What holds back a call at `position`, if anything does. It has the places of the values of its `claimed` charges.
    pub(super) fn blocked(
        &mut self,
        draw: &Draw,
        claimed: &[usize],
        position: Position,
        clock: &mut Clock,
        config: &Config,
    ) -> Option<Blocked> {
        if !self.endpoints.is_empty() {
            let blocked = self.blocked_by_endpoint(draw, position, clock);
            if blocked.is_some() {
                return blocked;
            }
        }
        let next_grant = self.last_grant + 1;
        let mut values = false;
        for (at, charge) in draw.charges.iter().enumerate() {
            values |= charge.value().is_some();
            let Some(more) = self
                .account_mut(charge.principal())
                .and_then(|account| account.more.as_mut())
            else {
                continue;
            };
            if more.gate.is_none() || !is_first(&draw.charges, at) {
                continue;
            }
            let behind = more.gated.first().is_some_and(|first| *first < position);
            let until = match more.gate.pass(clock.now(), next_grant) {
                Pass::Closed(until) => Some(until),
                Pass::Open if !behind => continue,
                _ => None,
            };
            return Some((Block::Gate(charge.principal().clone()), until));
        }
        if values {
            let blocked = self.blocked_by_place(draw, claimed, position, clock, config);
            if blocked.is_some() {
                return blocked;
            }
        }
        if self.elder.is_some() {
            let blocked = self.blocked_by_elder(draw, position);
            if blocked.is_some() {
                return blocked;
            }
        }
        for charge in draw.charges.iter() {
            let Some(account) = self.account_mut(charge.principal()) else {
                continue;
            };
            let Some(limit) = account.limit(charge.budget(), config) else {
                continue;
            };
            let held = account.held(charge.budget());
            let full = held > 0 && held.saturating_add(charge.amount()) > limit;
            if full || account.has_before(charge.budget(), position) {
                let block = Block::Budget(charge.principal().clone(), charge.budget());
                return Some((block, None));
            }
        }
        None
    }

    fn blocked_by_endpoint(
        &mut self,
        draw: &Draw,
        position: Position,
        clock: &mut Clock,
    ) -> Option<Blocked> {
        let authority = draw.endpoint.as_ref()?;
        let next_grant = self.last_grant + 1;
        let endpoint = self
            .endpoints
            .iter_mut()
            .find(|endpoint| endpoint.authority == *authority)?;
        let behind = endpoint
            .gated
            .first()
            .is_some_and(|first| *first < position);
        let until = match endpoint.pass(clock.now(), next_grant) {
            Pass::Closed(until) => Some(until),
            Pass::Open if !behind => return None,
            _ => None,
        };
        Some((Block::Endpoint(authority.clone()), until))
    }

    fn blocked_by_elder(&self, draw: &Draw, position: Position) -> Option<Blocked> {
        let (elder, wanted) = self.active_elder()?;
        if elder >= position {
            return None;
        }
        let shared = draw.charges.iter().find(|charge| {
            charge.value().is_none()
                && wanted.iter().any(|wanted| {
                    wanted.budget() == charge.budget() && wanted.principal() == charge.principal()
                })
        })?;
        let block = Block::Budget(shared.principal().clone(), shared.budget());
        Some((block, None))
    }

    fn blocked_by_place(
        &mut self,
        draw: &Draw,
        claimed: &[usize],
        position: Position,
        clock: &mut Clock,
        config: &Config,
    ) -> Option<Blocked> {
        for charge in draw.charges.iter() {
            if charge.value().is_none() {
                continue;
            }
            let Some(distinct) = self.distinct_mut(charge.principal(), charge.budget()) else {
                continue;
            };
            let wanted: SmallVec<[&Principal; 2]> = draw
                .charges
                .iter()
                .enumerate()
                .filter(|(_, other)| {
                    other.budget() == charge.budget() && other.principal() == charge.principal()
                })
                .filter_map(|(at, other)| Some((at, other.value()?)))
                .filter(|(at, value)| !(claimed.contains(at) && distinct.keeps(value)))
                .map(|(_, value)| value)
                .collect();
            let room = distinct.room(wanted.iter().copied(), position, clock.now(), config);
            if let Place::Full(until) = room {
                let block = Block::Place(charge.principal().clone(), charge.budget());
                return Some((block, until));
            }
        }
        None
    }

    // On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
    pub(super) fn grant(
        &mut self,
        draw: &Draw,
        place: u64,
        clock: &mut Clock,
        config: &Config,
    ) -> Granted {
        self.last_grant += 1;
        let mut grant = Granted {
            place,
            number: self.last_grant,
            in_flight: InFlight::default(),
            probe: false,
        };
        if let Some(authority) = &draw.endpoint {
            for endpoint in &mut self.endpoints {
                if endpoint.authority == *authority {
                    grant.probe |= endpoint.granted();
                }
            }
        }
        let mut amounts = SmallVec::<[u32; 4]>::new();
        for (at, charge) in draw.charges.iter().enumerate() {
            let mut in_flight = 0;
            match (config.shape(charge.budget()), charge.value()) {
                (Some(Shape::InFlight(_)), _) => {
                    let account = self.account_or_new(charge.principal());
                    in_flight = account.take(charge.budget(), charge.amount());
                    if let Some(more) = &mut account.more {
                        if is_first(&draw.charges, at) {
                            grant.probe |= more.gate.granted();
                        }
                    }
                }
                (Some(Shape::Distinct { .. }), Some(value)) => {
                    let now = clock.now();
                    let more = self.account_or_new(charge.principal()).more();
                    let distinct = more.distinct_or_new(charge.budget());
                    if distinct.acquire(value, now) && distinct.has_waiters() {
                        self.todo.push_back(Work::Opened(
                            charge.principal().clone(),
                            charge.budget(),
                            value.clone(),
                        ));
                    }
                }
                _ => {}
            }
            amounts.push(in_flight);
        }
        grant.in_flight = amounts.into_iter().collect();
        grant
    }
}
