//! What the ledger keeps of one principal.

use smallvec::SmallVec;
use tokio::time::Instant;

use super::Config;
use super::adapt::{Gates, Learnt};
use super::distinct::Distinct;
use super::words::{Clock, Plain, Position, Queue};
use crate::ledger::Shape;
use crate::principal::{Budget, Principal};

/// One principal. Small, since a job has one for each mailbox; what few of them need is behind `more`.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) principal: Principal,
    /// What is held of the first budget that was drawn on; nothing, if the amount is 0.
    first: (Budget, u32),
    /// What is held of others.
    others: Vec<(Budget, u32)>,
    pub(super) more: Option<Box<More>>,
}

/// What only principals with a queue, a gate, something learnt or open mailboxes have.
#[derive(Debug, Default)]
pub(super) struct More {
    pub(super) gate: Gates,
    pub(super) learnt: SmallVec<[Learnt; 1]>,
    pub(super) distinct: SmallVec<[Distinct; 1]>,
    /// Calls that wait for the gate, or for the calls that test it.
    pub(super) gated: Queue,
    /// Calls that wait for a budget.
    pub(super) queues: SmallVec<[(Budget, Queue); 1]>,
    /// Whether a later look at this principal is scheduled.
    pub(super) scheduled: bool,
}

impl Account {
    pub(super) fn new(principal: Principal) -> Self {
        Self {
            principal,
            first: (Budget::Concurrency, 0),
            others: Vec::new(),
            more: None,
        }
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    pub(super) fn held(&self, budget: Budget) -> u32 {
        if self.first.0 == budget {
            return self.first.1;
        }
        self.others
            .iter()
            .find(|(known, _)| *known == budget)
            .map_or(0, |(_, held)| *held)
    }

    /// Takes `amount` and returns what is held then.
    pub(super) fn take(&mut self, budget: Budget, amount: u32) -> u32 {
        if self.first.1 == 0 && !self.others.iter().any(|(known, _)| *known == budget) {
            self.first = (budget, amount);
            return amount;
        }
        let held = match self.held_mut(budget) {
            Some(held) => held,
            None => {
                self.others.push((budget, amount));
                return amount;
            }
        };
        *held = held.saturating_add(amount);
        *held
    }

    fn held_mut(&mut self, budget: Budget) -> Option<&mut u32> {
        if self.first.0 == budget && self.first.1 > 0 {
            return Some(&mut self.first.1);
        }
        self.others
            .iter_mut()
            .find(|(known, _)| *known == budget)
            .map(|(_, held)| held)
    }

    /// Takes `amount` if `limit` allows it and nothing but what is held has a say.
    pub(super) fn take_plain(&mut self, budget: Budget, amount: u32, limit: u32) -> Plain {
        if self.more.is_some() {
            return Plain::Other;
        }
        let held = self.held(budget);
        if held > 0 && held.saturating_add(amount) > limit {
            return Plain::Full;
        }
        Plain::Taken(self.take(budget, amount))
    }

    pub(super) fn give_back(&mut self, budget: Budget, amount: u32) {
        let Some(held) = self.held_mut(budget) else {
            return;
        };
        *held = held.saturating_sub(amount);
        if *held == 0 {
            self.others.retain(|(_, held)| *held > 0);
        }
    }

    /// Whether a call with an earlier place waits for `budget`.
    pub(super) fn has_before(&self, budget: Budget, position: Position) -> bool {
        self.more
            .as_ref()
            .and_then(|more| more.first_in_queue(budget))
            .is_some_and(|first| first < position)
    }

    pub(super) fn held_budgets(&self) -> impl Iterator<Item = Budget> {
        let all = std::iter::once(&self.first).chain(&self.others);
        all.filter(|(_, held)| *held > 0).map(|(budget, _)| *budget)
    }

    /// The limit of `budget` now; none if it is unlimited.
    pub(super) fn limit(&self, budget: Budget, config: &Config) -> Option<u32> {
        let Some(Shape::InFlight(configured)) = config.shape(budget) else {
            return None;
        };
        let learnt = self
            .more
            .as_ref()
            .and_then(|more| more.learnt.iter().find(|learnt| learnt.budget == budget));
        Some(learnt.map_or(configured, |learnt| learnt.limit))
    }

    /// Whether nothing at all is known of it any more.
    pub(super) fn is_vacant(&self) -> bool {
        self.is_idle() && self.more.is_none()
    }

    /// Whether nothing is held of it.
    fn is_idle(&self) -> bool {
        self.first.1 == 0 && self.others.is_empty()
    }

    /// Drops what has passed. Returns when to look again, if only time keeps the rest.
    pub(super) fn tidy(&mut self, now: Instant, config: &Config) -> Option<Instant> {
        let idle = self.is_idle();
        let more = self.more.as_mut()?;
        for distinct in &mut more.distinct {
            distinct.close_idle(now, config);
        }
        let waits = !more.gated.is_empty()
            || more.queues.iter().any(|(_, queue)| !queue.is_empty())
            || more.distinct.iter().any(Distinct::has_waiters);
        if waits || !idle {
            return None;
        }
        if more.gate.keep_until().is_some_and(|until| until <= now) {
            more.gate = Gates::default();
        }
        more.learnt.retain(|learnt| learnt.keep_until() > now);
        more.distinct.retain(|distinct| !distinct.is_vacant(now));
        more.queues.retain(|(_, queue)| !queue.is_empty());
        let until = more
            .gate
            .keep_until()
            .into_iter()
            .chain(more.learnt.iter().map(Learnt::keep_until))
            .chain(
                more.distinct
                    .iter()
                    .filter_map(|distinct| distinct.keep_until(config)),
            )
            .max();
        if until.is_none() {
            self.more = None;
        }
        // In the past where a waiting call keeps a value open: its own end looks here again.
        until.filter(|until| *until > now)
    }
}

impl More {
    pub(super) fn queue_mut(&mut self, budget: Budget) -> Option<&mut Queue> {
        self.queues
            .iter_mut()
            .find(|(known, _)| *known == budget)
            .map(|(_, queue)| queue)
    }

    pub(super) fn queue_or_new(&mut self, budget: Budget) -> &mut Queue {
        let at = self.queues.iter().position(|(known, _)| *known == budget);
        let at = at.unwrap_or_else(|| {
            self.queues.push((budget, Queue::new()));
            self.queues.len() - 1
        });
        &mut self.queues[at].1
    }

    pub(super) fn first_in_queue(&self, budget: Budget) -> Option<Position> {
        self.queues
            .iter()
            .find(|(known, _)| *known == budget)
            .and_then(|(_, queue)| queue.first().copied())
    }

    pub(super) fn distinct(&self, budget: Budget) -> Option<&Distinct> {
        self.distinct
            .iter()
            .find(|distinct| distinct.budget == budget)
    }

    pub(super) fn distinct_mut(&mut self, budget: Budget) -> Option<&mut Distinct> {
        self.distinct
            .iter_mut()
            .find(|distinct| distinct.budget == budget)
    }

    pub(super) fn distinct_or_new(&mut self, budget: Budget) -> &mut Distinct {
        let known = self
            .distinct
            .iter()
            .position(|distinct| distinct.budget == budget);
        let at = known.unwrap_or_else(|| {
            self.distinct.push(Distinct::new(budget));
            self.distinct.len() - 1
        });
        &mut self.distinct[at]
    }

    /// An answer of grant number `grant` came without complaint.
    pub(super) fn quiet(&mut self, budget: Budget, grant: u64, configured: u32, clock: &mut Clock) {
        if let Some(learnt) = self.learnt.iter_mut().find(|known| known.budget == budget) {
            learnt.quiet(grant, configured, clock.now());
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.gated.len()
            + self
                .queues
                .iter()
                .map(|(_, queue)| queue.len())
                .sum::<usize>()
            + self
                .distinct
                .iter()
                .map(|distinct| distinct.parked.len())
                .sum::<usize>()
    }
}
