//! [`Account`]: what the ledger keeps of one principal.

use smallvec::SmallVec;
use tokio::time::Instant;

use super::gate::Gate;
use super::meter::{Keep, Measure, Meter};
use crate::ledger::{BudgetSnapshot, Limit};
use crate::principal::{Budget, Principal};

/// One principal: its meters, and its gate where that is not open. Small, since a job has one for each mailbox.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) principal: Principal,
    meters: SmallVec<[(Budget, Meter); 1]>,
    gate: Option<Box<Gate>>,
    /// How many calls wait in the queues of this principal.
    queued: u32,
    /// A later look at this principal is scheduled.
    scheduled: bool,
    /// Its budgets allow what a fleet's ledger lends, and nothing else.
    leased: bool,
    /// The fleet's ledger is told of each release: somebody waits for what is not used.
    pub(super) wanted: bool,
}

/// What the fast path comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fast {
    Taken,
    Full,
    /// More has a say than what is held: the slow path decides.
    Slow,
}

impl Account {
    pub(super) fn new(principal: Principal, leased: bool) -> Self {
        Self {
            principal,
            meters: SmallVec::new(),
            gate: None,
            queued: 0,
            scheduled: false,
            leased,
            wanted: false,
        }
    }

    /// Takes `amount` if nothing but what is held has a say.
    #[inline]
    pub(super) fn take_fast(&mut self, budget: Budget, amount: u32, limit: u32) -> Fast {
        if self.gate.is_some() {
            return Fast::Slow;
        }
        let queued = self.queued > 0;
        let meter = self.meter_or_new(budget, Limit::InFlight(limit));
        match meter.plain() {
            Some(meter) if !meter.fits_plain(amount) => Fast::Full,
            Some(meter) if !queued => {
                meter.take_plain(amount);
                Fast::Taken
            }
            _ => Fast::Slow,
        }
    }

    /// Gives `amount` back if nobody else has to hear of it. Says whether nothing is left then; `None` is the slow path.
    #[inline]
    pub(super) fn give_back_fast(&mut self, budget: Budget, amount: u32) -> Option<bool> {
        if self.gate.is_some() || self.queued > 0 || self.wanted {
            return None;
        }
        let [(known, meter)] = &mut *self.meters else {
            return None;
        };
        if *known != budget {
            return None;
        }
        let meter = meter.plain()?;
        meter.give_back_plain(amount);
        Some(meter.is_idle())
    }

    #[inline]
    pub(super) fn meter_mut(&mut self, budget: Budget) -> Option<&mut Meter> {
        self.meters
            .iter_mut()
            .find(|(known, _)| *known == budget)
            .map(|(_, meter)| meter)
    }

    #[inline]
    pub(super) fn meter_or_new(&mut self, budget: Budget, limit: Limit) -> &mut Meter {
        let known = self.meters.iter().position(|(known, _)| *known == budget);
        let at = known.unwrap_or_else(|| {
            let meter = Meter::new(limit, budget, self.leased);
            self.meters.push((budget, meter));
            self.meters.len() - 1
        });
        &mut self.meters[at].1
    }

    /// The budgets of which something is known.
    pub(super) fn budgets(&self) -> impl Iterator<Item = Budget> + '_ {
        self.meters.iter().map(|(budget, _)| *budget)
    }

    /// The gate, unless it is open.
    pub(super) fn gate_mut(&mut self) -> Option<&mut Gate> {
        self.gate.as_deref_mut()
    }

    pub(super) fn close_gate(&mut self, until: Instant) {
        self.gate.get_or_insert_default().close(until);
    }

    /// Forgets the gate if it has opened for good.
    pub(super) fn settle_gate(&mut self) {
        self.gate.take_if(|gate| gate.is_open());
    }

    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.gate.as_ref()?.closed_until(now)
    }

    pub(super) fn queued(&self) -> u32 {
        self.queued
    }

    pub(super) fn joined(&mut self) {
        self.queued += 1;
    }

    pub(super) fn left(&mut self) {
        self.queued = self.queued.saturating_sub(1);
    }

    /// Forgets what has passed. Says until when the rest has to be kept.
    pub(super) fn tidy(&mut self, now: Instant) -> Keep {
        if self.queued > 0 {
            return Keep::InUse;
        }
        let probed = self.gate.as_ref().is_some_and(|gate| gate.is_probed());
        let mut keep = match probed {
            true => Keep::InUse,
            false => Keep::Nothing,
        };
        self.meters.retain(|(_, meter)| {
            let kept = meter.tidy(now);
            keep = keep.max(kept);
            kept != Keep::Nothing
        });
        if keep != Keep::InUse {
            self.gate.take_if(|gate| gate.keep_until() <= Some(now));
        }
        let gate = self.gate.as_ref().and_then(|gate| gate.keep_until());
        keep.max(gate.map_or(Keep::Nothing, Keep::Until))
    }

    /// Whether a later look is scheduled; it is from now on.
    pub(super) fn schedule(&mut self) -> bool {
        std::mem::replace(&mut self.scheduled, true)
    }

    /// The time of the scheduled look has come.
    pub(super) fn unschedule(&mut self) {
        self.scheduled = false;
    }

    /// Whether nothing is known of it but who it is, or an idle count that the next call finds in place.
    pub(super) fn is_vacant(&self) -> bool {
        let idle = |(_, meter): &(Budget, Meter)| meter.is_idle();
        self.gate.is_none() && self.queued == 0 && self.meters.iter().all(idle)
    }

    /// The meters, with what they count.
    pub(super) fn meters(&self) -> impl Iterator<Item = &(Budget, Meter)> {
        self.meters.iter()
    }

    pub(super) fn snapshot(&self, now: Instant) -> Vec<BudgetSnapshot> {
        let meters = self.meters.iter();
        meters
            .map(|(budget, meter)| meter.snapshot(*budget, now))
            .collect()
    }
}
