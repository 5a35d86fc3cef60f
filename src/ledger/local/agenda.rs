//! [`Agenda`]: what a change has brought up, to be looked at before the lock is given back.

use std::collections::{HashMap, HashSet, VecDeque};

use http::uri::Authority;

use super::blocked::{Blocked, by_budget, by_principal};
use super::config::Config;
use super::meter::{Position, Stage};
use super::queue::Queue;
use crate::ledger::{AcquireRequest, Admission, Contended};
use crate::principal::{Budget, Charge, Principal};

/// What has come up, and the call that others must not overtake any more.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    pub(super) work: VecDeque<Work>,
    /// The values among the work, each of which stands there once: a long list that moves on opens the same one with each call.
    pub(super) values: HashSet<(Contended, Principal)>,
    starved: Option<Starved>,
    /// How many turns of a list in a row were not picked up in time.
    misses: HashMap<Contended, u32>,
    /// The calls that were looked at and the work that was taken up, for tests.
    #[cfg(test)]
    pub(super) looked: usize,
}

/// Something to look at before the lock is given back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The lists of that principal.
    Principal(Principal),
    /// The list of that endpoint.
    Endpoint(Authority),
    /// The calls that wait for a value of that budget, which may be in use now.
    Value(Contended, Principal),
}

/// A call that needs several budgets and was overtaken for too long: younger ones stay behind it on all of them.
#[derive(Debug)]
struct Starved {
    position: Position,
    budgets: HashSet<(Principal, Budget)>,
}

impl Agenda {
    pub(super) fn principal(&mut self, principal: &Principal) {
        self.push(Work::Principal(principal.clone()));
    }

    pub(super) fn endpoint(&mut self, authority: &Authority) {
        self.push(Work::Endpoint(authority.clone()));
    }

    /// The values of `charges` may be in use now.
    pub(super) fn opened(
        &mut self,
        principal: &Principal,
        budget: Budget,
        charges: &[Charge],
        queue: &Queue,
    ) {
        if charges.iter().all(|charge| charge.value().is_none()) {
            return;
        }
        let contended = Contended::Budget(principal.clone(), budget);
        if !queue.has(&contended) {
            return;
        }
        for value in charges.iter().filter_map(Charge::value) {
            if queue.first_of(&contended, value).is_some()
                && self.values.insert((contended.clone(), value.clone()))
            {
                self.work
                    .push_back(Work::Value(contended.clone(), value.clone()));
            }
        }
    }

    pub(super) fn push(&mut self, work: Work) {
        // The same again and again while a long list is worked off.
        if !self.work.iter().rev().take(4).any(|known| *known == work) {
            self.work.push_back(work);
        }
    }

    /// What was looked at so far, and how much work is left.
    #[cfg(test)]
    pub(super) fn looked_and_left(&self) -> (usize, usize) {
        (self.looked, self.work.len())
    }

    /// The lists of which turns were missed, for tests.
    #[cfg(test)]
    pub(super) fn missed_lists(&self) -> usize {
        self.misses.len()
    }

    /// Whether nothing is left to do, and nobody is starved.
    pub(super) fn is_idle(&self) -> bool {
        self.work.is_empty() && !self.has_starved()
    }

    pub(super) fn has_starved(&self) -> bool {
        self.starved.is_some()
    }

    /// What a younger call shares with the starved one, as long as that waits for what is in flight.
    pub(super) fn blocked_by_starved<'a>(
        &self,
        request: &AcquireRequest,
        position: Position,
        queue: &'a Queue,
    ) -> Option<BlockedByStarved<'a>> {
        let starved = self.starved.as_ref()?;
        if starved.position >= position {
            return None;
        }
        let (contended, _) = queue.waits_for(starved.position)?;
        let principal = contended.principal()?;
        let waited_for = (principal.clone(), contended.budget()?);
        if !starved.budgets.contains(&waited_for) {
            return None;
        }
        let (shared, budget, _) = by_budget(request.charges()).find(|(principal, budget, _)| {
            starved.budgets.contains(&((*principal).clone(), *budget))
        })?;
        let by = Blocked {
            contended: Contended::Budget(shared.clone(), budget),
            until: None,
            value: None,
        };
        Some(BlockedByStarved {
            by,
            waits_for: principal,
        })
    }

    pub(super) fn is_starved(&self, position: Position) -> bool {
        self.starved
            .as_ref()
            .is_some_and(|starved| starved.position == position)
    }

    /// Others look again at what the starved call kept from them.
    pub(super) fn look_past_starved(&mut self) {
        let Some(starved) = &self.starved else { return };
        let principals: HashSet<&Principal> = starved.budgets.iter().map(|(p, _)| p).collect();
        let work = principals.into_iter().cloned().map(Work::Principal);
        self.work.extend(work);
    }

    pub(super) fn starve(&mut self, position: Position, request: &AcquireRequest, config: &Config) {
        let is_amount = |charge: &&Charge| {
            let limit = config.limit(charge.budget());
            limit.is_some_and(|limit| Stage::of(limit) != Stage::Values)
        };
        let amounts = request.charges().iter().filter(is_amount);
        let budgets = amounts.map(|charge| (charge.principal().clone(), charge.budget()));
        self.starved = Some(Starved {
            position,
            budgets: budgets.collect(),
        });
    }

    /// Nobody picked up `admission` in time.
    pub(super) fn missed(&mut self, admission: &Admission, queue: &Queue) {
        for list in lists_of(admission).filter(|list| queue.has(list)) {
            let misses = self.misses.entry(list).or_default();
            *misses = misses.saturating_add(1);
        }
    }

    /// How many turns of that list in a row were not picked up.
    pub(super) fn misses(&self, list: &Contended) -> u32 {
        match self.misses.is_empty() {
            true => 0,
            false => self.misses.get(list).copied().unwrap_or_default(),
        }
    }

    /// A call that waited was polled, and took its turn.
    pub(super) fn picked_up(&mut self, admission: &Admission) {
        if !self.misses.is_empty() {
            for list in lists_of(admission) {
                self.misses.remove(&list);
            }
        }
    }

    /// Nobody waits there any more.
    pub(super) fn emptied(&mut self, list: &Contended) {
        if !self.misses.is_empty() {
            self.misses.remove(list);
        }
    }

    /// The call does not wait any more.
    pub(super) fn not_starved(&mut self, position: Position) {
        if self.is_starved(position) {
            self.look_past_starved();
            self.starved = None;
        }
    }
}

/// The lists in which calls can have waited behind that one.
fn lists_of(admission: &Admission) -> impl Iterator<Item = Contended> {
    let charges = admission.charges();
    let endpoint = admission.endpoint().cloned().map(Contended::Endpoint);
    let gates = by_principal(charges).map(|(principal, _)| Contended::Gate(principal.clone()));
    let budgets = by_budget(charges)
        .map(|(principal, budget, _)| Contended::Budget(principal.clone(), budget));
    endpoint.into_iter().chain(gates).chain(budgets)
}

/// What holds a call back behind the starved one, and the principal that the starved one waits for.
#[derive(Debug)]
pub(super) struct BlockedByStarved<'a> {
    pub(super) by: Blocked,
    pub(super) waits_for: &'a Principal,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extensions::Priority;

    #[test]
    fn one_call_is_starved_and_no_other() {
        let [starved, other] = [1, 2].map(|ticket| Position {
            priority: Priority::default(),
            ticket,
            key: 0,
        });
        let mut agenda = Agenda {
            starved: Some(Starved {
                position: starved,
                budgets: Default::default(),
            }),
            ..Agenda::default()
        };
        assert!(agenda.is_starved(starved) && !agenda.is_starved(other));
        agenda.not_starved(other);
        assert!(agenda.has_starved());
        agenda.not_starved(starved);
        assert!(!agenda.has_starved());
    }
}
