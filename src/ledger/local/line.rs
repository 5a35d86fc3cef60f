//! The calls that wait: who stands in which queue, and who is next.
//!
//! A waiting call holds nothing and stands in one queue: that of the first thing that blocks it. Whatever may end a
//! block looks at the head of its queue (`pump`): the head is granted, or moves to the queue of what blocks it now, or
//! stays, and then so do those behind it.

use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::Config;
use super::distinct::Distinct;
use super::state::State;
use super::words::{Block, Clock, Join, Look, Outcome, Position, Queue, Tried, Waiter, Work};
use crate::ledger::{Draw, End, Shape};
use crate::principal::{Budget, Charge, Principal};

/// So many calls at the head of a queue have a timer each, so that one that is not polled holds up nobody.
const ARMED: usize = 4;

/// If so much came up at once that it was put off.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl State {
    /// Does what has come up, until nothing is left to do. Each way into the state ends with it.
    pub(super) fn settle(&mut self, clock: &mut Clock, config: &Config) {
        // Far more looks than calls: they cannot go round in circles here, under the lock, for ever.
        let mut looks = 64 + 16 * self.queued;
        while let Some(work) = self.todo.pop_front() {
            let block = match work {
                Work::Pump(block) => block,
                Work::Opened(principal, budget, value) => {
                    let group = self
                        .distinct_mut(&principal, budget)
                        .map(|distinct| distinct.group(&value))
                        .unwrap_or_default();
                    let block = Block::Place(principal, budget);
                    for position in group {
                        looks = looks.saturating_sub(1);
                        self.try_waiter(position, &block, clock, config);
                    }
                    block
                }
            };
            self.pump(&block, &mut looks, clock, config);
        }
    }

    /// Grants what can be granted at the head of a queue.
    fn pump(&mut self, block: &Block, looks: &mut usize, clock: &mut Clock, config: &Config) {
        if let Block::Place(principal, budget) = block {
            self.close_for_aged(principal, *budget, clock, config);
        }
        while let Some(position) = self.queue_mut(block).and_then(|queue| queue.first()) {
            if *looks == 0 {
                let later = clock.now() + LOOK_AGAIN;
                self.arm(block, Some(later), clock, config);
                return;
            }
            *looks -= 1;
            if let Tried::Stays(until) = self.try_waiter(position, block, clock, config) {
                self.arm(block, until, clock, config);
                return;
            }
        }
    }

    /// Grants the waiter at `position` of `block`'s queue, or moves it to the queue where it belongs now.
    fn try_waiter(
        &mut self,
        position: Position,
        block: &Block,
        clock: &mut Clock,
        config: &Config,
    ) -> Tried {
        let Some(waiter) = self.waiters.get_mut(position.1) else {
            self.unqueue(block, position);
            return Tried::Went;
        };
        let draw = std::mem::take(&mut waiter.draw);
        let claimed = std::mem::take(&mut waiter.claimed);
        let blocked = self.blocked(&draw, &claimed, position, clock, config);
        let crossed = draw.charges.len() > 1;
        if let Some(waiter) = self.waiters.get_mut(position.1) {
            waiter.draw = draw;
            waiter.claimed = claimed;
        }
        match blocked {
            Some((same, until)) if same == *block => return Tried::Stays(until),
            Some((other, until)) => {
                self.leave_queue(block, position);
                self.enqueue(other, until, position, clock, config);
                if self.elder == Some(position) {
                    self.pump_elders_budgets();
                } else if crossed && self.elder.is_none() && self.is_aged(position, clock, config) {
                    self.elder = Some(position);
                }
            }
            None => {
                self.leave_queue(block, position);
                self.grant_waiter(position, clock, config);
            }
        }
        Tried::Went
    }

    fn grant_waiter(&mut self, position: Position, clock: &mut Clock, config: &Config) {
        if self.elder == Some(position) {
            self.pump_elders_budgets();
            self.elder = None;
        }
        let Some(waiter) = self.waiters.get_mut(position.1) else {
            return;
        };
        let mut draw = std::mem::take(&mut waiter.draw);
        let grant = self.grant(&draw, position.0, clock, config);
        self.queued -= 1;
        let grant = self.keep(grant.receipt(&mut draw));
        if let Some(waiter) = self.waiters.get_mut(position.1) {
            waiter.outcome = Outcome::Granted(grant);
            self.wakers.extend(waiter.waker.take());
        }
    }

    /// Others look again at the budgets that the elder kept from them.
    fn pump_elders_budgets(&mut self) {
        let Some(elder) = self.elder.and_then(|elder| self.waiters.get(elder.1)) else {
            return;
        };
        let blocks =
            elder.draw.charges.iter().map(|charge| {
                Work::Pump(Block::Budget(charge.principal().clone(), charge.budget()))
            });
        self.todo.extend(blocks);
    }

    /// The elder as far as it keeps others back: one that waits for a gate or a place itself does not.
    pub(super) fn active_elder(&self) -> Option<(Position, &[Charge])> {
        let elder = self.elder?;
        let waiter = self.waiters.get(elder.1)?;
        match waiter.outcome {
            Outcome::Parked(Block::Budget(..), _) => Some((elder, &waiter.draw.charges)),
            _ => None,
        }
    }

    fn close_for_aged(
        &mut self,
        principal: &Principal,
        budget: Budget,
        clock: &mut Clock,
        config: &Config,
    ) {
        let next_place = self.next_place + 1;
        let waiters = &self.waiters;
        let since = |position: Position| waiters.get(position.1).map(|waiter| waiter.since);
        let distinct = self
            .accounts
            .find_mut(principal.hash64(), |account| {
                account.principal == *principal
            })
            .and_then(|account| account.more.as_mut())
            .and_then(|more| more.distinct_mut(budget));
        if let Some(distinct) = distinct {
            let now = clock.now();
            distinct.close_for(
                |position| since(position).is_some_and(|since| since + config.max_overtake <= now),
                next_place,
            );
        }
    }

    fn is_aged(&self, position: Position, clock: &mut Clock, config: &Config) -> bool {
        self.waiters
            .get(position.1)
            .is_some_and(|waiter| waiter.since + config.max_overtake <= clock.now())
    }

    /// Gives the first calls of a queue the time at which they look again.
    pub(super) fn arm(
        &mut self,
        block: &Block,
        until: Option<Instant>,
        clock: &mut Clock,
        config: &Config,
    ) {
        let heads: SmallVec<[Position; ARMED]> = match self.queue_mut(block) {
            Some(queue) => queue.heads(),
            None => return,
        };
        let mut until = until;
        if let (Block::Place(..), Some(head)) = (block, heads.first()) {
            if let Some(waiter) = self.waiters.get(head.1) {
                let aged = waiter.since + config.max_overtake;
                if aged > clock.now() {
                    until = Some(until.map_or(aged, |until| until.min(aged)));
                }
            }
        }
        for head in heads {
            if let Some(waiter) = self.waiters.get_mut(head.1) {
                if let Outcome::Parked(_, known) = &mut waiter.outcome {
                    if *known != until {
                        *known = until;
                        self.wakers.extend(waiter.waker.take());
                    }
                }
            }
        }
    }

    /// Puts a call in line. The caller has found it blocked.
    fn enqueue(
        &mut self,
        block: Block,
        until: Option<Instant>,
        position: Position,
        clock: &mut Clock,
        config: &Config,
    ) {
        let Some(waiter) = self.waiters.get_mut(position.1) else {
            return;
        };
        let draw = std::mem::take(&mut waiter.draw);
        waiter.outcome = Outcome::Parked(block.clone(), None);
        let mut claimed = SmallVec::new();
        match &block {
            Block::Place(principal, budget) => {
                let distinct = self
                    .account_or_new(principal)
                    .more()
                    .distinct_or_new(*budget);
                let wanted = draw
                    .charges
                    .iter()
                    .filter(|charge| charge.budget() == *budget && charge.principal() == principal)
                    .filter_map(Charge::value);
                let missing = wanted.clone().find(|value| !distinct.is_open(value));
                if let Some(value) = missing.or_else(|| wanted.clone().next()) {
                    distinct.park(position, value);
                }
            }
            _ => {
                // A call that has its place keeps it; one that waits for a gate keeps what is open, no more.
                let reserve = matches!(block, Block::Budget(..));
                for (at, charge) in draw.charges.iter().enumerate() {
                    if self.keep_open(charge, position, reserve, clock, config) {
                        claimed.push(at);
                    }
                }
                self.insert(&block, position);
            }
        }
        if let Some(waiter) = self.waiters.get_mut(position.1) {
            waiter.draw = draw;
            waiter.claimed = claimed;
        }
        self.arm(&block, until, clock, config);
        // Behind a head whose block has ended just now, and whose timer has yet to say so.
        if !matches!(block, Block::Budget(..)) {
            self.todo.push_back(Work::Pump(block));
        }
    }

    /// Keeps the value of `charge` open for a waiting call, if it is open or `reserve` says that it may be opened.
    fn keep_open(
        &mut self,
        charge: &Charge,
        position: Position,
        reserve: bool,
        clock: &mut Clock,
        config: &Config,
    ) -> bool {
        let (Some(value), Some(Shape::Distinct { .. })) =
            (charge.value(), config.shape(charge.budget()))
        else {
            return false;
        };
        let now = clock.now();
        let distinct = self
            .account_or_new(charge.principal())
            .more()
            .distinct_or_new(charge.budget());
        if distinct.claim(value, position.0) {
            return true;
        }
        if reserve && distinct.reserve(value, now) {
            if distinct.has_waiters() {
                self.todo.push_back(Work::Opened(
                    charge.principal().clone(),
                    charge.budget(),
                    value.clone(),
                ));
            }
            return true;
        }
        false
    }

    fn insert(&mut self, block: &Block, position: Position) {
        match block {
            Block::Endpoint(authority) => {
                for endpoint in &mut self.endpoints {
                    if endpoint.authority == *authority {
                        endpoint.gated.insert(position);
                    }
                }
            }
            Block::Gate(principal) => {
                self.account_or_new(principal).more().gated.insert(position);
            }
            Block::Budget(principal, budget) => {
                let more = self.account_or_new(principal).more();
                more.queue_or_new(*budget).insert(position);
            }
            Block::Place(..) => {}
        }
    }

    fn queue_mut(&mut self, block: &Block) -> Option<QueueRef<'_>> {
        match block {
            Block::Endpoint(authority) => self
                .endpoints
                .iter_mut()
                .find(|endpoint| endpoint.authority == *authority)
                .map(|endpoint| QueueRef::Plain(&mut endpoint.gated)),
            Block::Gate(principal) => self
                .account_mut(principal)?
                .more
                .as_mut()
                .map(|more| QueueRef::Plain(&mut more.gated)),
            Block::Budget(principal, budget) => self
                .account_mut(principal)?
                .more
                .as_mut()?
                .queue_mut(*budget)
                .map(QueueRef::Plain),
            Block::Place(principal, budget) => self
                .account_mut(principal)?
                .more
                .as_mut()?
                .distinct_mut(*budget)
                .map(QueueRef::Distinct),
        }
    }

    fn unqueue(&mut self, block: &Block, position: Position) {
        match self.queue_mut(block) {
            Some(QueueRef::Plain(queue)) => {
                queue.remove(&position);
            }
            Some(QueueRef::Distinct(distinct)) => distinct.unpark(position),
            None => {}
        }
    }

    /// Takes a call out of its queue and lets go of the values that were kept open for it.
    fn leave_queue(&mut self, block: &Block, position: Position) {
        self.unqueue(block, position);
        let Some(waiter) = self.waiters.get_mut(position.1) else {
            return;
        };
        let claimed = std::mem::take(&mut waiter.claimed);
        let claims: SmallVec<[Charge; 1]> = claimed
            .iter()
            .filter_map(|at| waiter.draw.charges.get(*at).cloned())
            .collect();
        for charge in claims {
            let distinct = self.distinct_mut(charge.principal(), charge.budget());
            if let (Some(distinct), Some(value)) = (distinct, charge.value()) {
                distinct.unclaim(value);
                if distinct.has_waiters() {
                    let block = Block::Place(charge.principal().clone(), charge.budget());
                    self.todo.push_back(Work::Pump(block));
                }
            }
        }
    }

    /// Puts a new call in line, or grants it at once.
    pub(super) fn join(&mut self, mut draw: Draw, now: Instant, config: &Config) -> Join {
        let mut clock = Clock::at(now);
        let place = draw.place.unwrap_or(self.next_place + 1);
        let position = (place, self.waiters.vacant_key());
        match self.blocked(&draw, &[], position, &mut clock, config) {
            None => {
                self.next_place = self.next_place.max(place);
                let grant = self.grant(&draw, place, &mut clock, config);
                self.settle(&mut clock, config);
                Join::Granted(self.keep(grant.receipt(&mut draw)))
            }
            Some(_) if self.queued >= config.max_queued => Join::Full(self.queued),
            Some((block, until)) => {
                self.next_place = self.next_place.max(place);
                self.queued += 1;
                self.waiters.insert(Waiter {
                    draw,
                    since: now,
                    waker: None,
                    claimed: SmallVec::new(),
                    outcome: Outcome::Parked(block.clone(), None),
                });
                self.enqueue(block, until, position, &mut clock, config);
                self.settle(&mut clock, config);
                Join::Waits(position)
            }
        }
    }

    /// What has become of the call at `position`; looks again at its queue when its time has come.
    pub(super) fn look(
        &mut self,
        position: Position,
        waker: &Waker,
        now: Instant,
        config: &Config,
    ) -> Look {
        let block = match self.waiters.get(position.1).map(|waiter| &waiter.outcome) {
            Some(Outcome::Parked(block, Some(until))) if *until <= now => Some(block.clone()),
            _ => None,
        };
        if let Some(block) = block {
            self.todo.push_back(Work::Pump(block));
            self.settle(&mut Clock::at(now), config);
            if let Some(Outcome::Parked(_, until)) = self.outcome_mut(position) {
                // Behind the heads of its queue by now: others look at the time.
                *until = until.filter(|until| *until > now);
            }
        }
        let Some(waiter) = self.waiters.get_mut(position.1) else {
            return Look::Gone;
        };
        match &waiter.outcome {
            Outcome::Parked(block, until) => {
                let (block, until) = (block.clone(), *until);
                waiter.waker = Some(waker.clone());
                let gate = self.gate_until(&block, now);
                Look::Waits { block, until, gate }
            }
            Outcome::Granted(_) => match self.remove_waiter(position).outcome {
                Outcome::Granted(grant) => Look::Granted(grant),
                Outcome::Parked(..) => Look::Gone,
            },
        }
    }

    fn outcome_mut(&mut self, position: Position) -> Option<&mut Outcome> {
        self.waiters
            .get_mut(position.1)
            .map(|waiter| &mut waiter.outcome)
    }

    /// Until when the gate is closed that `block` stands for, if it is one.
    fn gate_until(&self, block: &Block, now: Instant) -> Option<Instant> {
        let time = match block {
            Block::Endpoint(authority) => self
                .endpoints
                .iter()
                .find(|endpoint| endpoint.authority == *authority)
                .and_then(|endpoint| endpoint.gate.closed_for(now)),
            Block::Gate(principal) => self
                .accounts
                .find(principal.hash64(), |account| {
                    account.principal == *principal
                })
                .and_then(|account| account.more.as_ref())
                .and_then(|more| more.gate.closed_for(now)),
            _ => None,
        };
        time.map(|time| now + time)
    }

    fn remove_waiter(&mut self, position: Position) -> Waiter {
        let waiter = self.waiters.remove(position.1);
        if self.waiters.is_empty() {
            self.waiters.shrink_to_fit();
        }
        waiter
    }

    /// Takes a call out of the line, or gives back what it was granted meanwhile.
    pub(super) fn leave(&mut self, position: Position, now: Instant, config: &Config) {
        if !self.waiters.contains(position.1) {
            return;
        }
        let mut clock = Clock::at(now);
        if let Some(Outcome::Parked(block, _)) =
            self.waiters.get(position.1).map(|waiter| &waiter.outcome)
        {
            let block = block.clone();
            if self.elder == Some(position) {
                self.pump_elders_budgets();
                self.elder = None;
            }
            self.leave_queue(&block, position);
            let waiter = self.remove_waiter(position);
            self.queued -= 1;
            self.todo.push_back(Work::Pump(block));
            self.settle(&mut clock, config);
            for charge in waiter.draw.charges.iter() {
                self.tidy(charge.principal(), now, config);
            }
        } else if let Outcome::Granted(grant) = self.remove_waiter(position).outcome {
            self.release(grant, End::Dropped, config);
        }
    }
}

/// A queue, whatever it hangs on.
enum QueueRef<'a> {
    Plain(&'a mut Queue),
    Distinct(&'a mut Distinct),
}

impl QueueRef<'_> {
    fn first(&self) -> Option<Position> {
        match self {
            Self::Plain(queue) => queue.first().copied(),
            Self::Distinct(distinct) => distinct.parked.keys().next().copied(),
        }
    }

    fn heads(&self) -> SmallVec<[Position; ARMED]> {
        match self {
            Self::Plain(queue) => queue.iter().take(ARMED).copied().collect(),
            Self::Distinct(distinct) => distinct.parked.keys().take(ARMED).copied().collect(),
        }
    }
}
