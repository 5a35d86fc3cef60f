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
use crate::ledger::{Draw, End, Grant, InFlight, Receipt, Shape};
use crate::principal::{Budget, Charge, Principal};

#[derive(Default)]
pub(super) struct State {
    pub(super) accounts: HashTable<Account>,
    /// The principal, by its hash, of which nothing was left last. It stays until there is another: its next call, which is the
    /// usual one of a job in one account, finds it in place.
    spare: Option<u64>,
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
fn is_first(charges: &[Charge], at: usize) -> bool {
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

    /// As [`take_plain`](Self::take_plain), the receipt still in its place, since moving it costs as much as the rest. The number of the
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
