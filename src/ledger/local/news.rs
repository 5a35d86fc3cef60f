//! [`News`]: what a fleet's ledger is told of a process's.

use std::collections::{BTreeMap, HashMap};

use super::blocked::by_principal;
use super::meter::Position;
use crate::ledger::AcquireRequest;
use crate::principal::{Budget, Principal};

/// What has come up since the fleet's ledger last asked.
#[derive(Debug, Default)]
pub(super) struct News {
    fresh: bool,
    wanted: Vec<Principal>,
    told: Vec<(Principal, Budget, Told)>,
    /// The calls that wait for a later principal of their charges, and so have what they need of this one.
    crossing: HashMap<Principal, BTreeMap<Position, AcquireRequest>>,
}

/// What a response said of a leased budget. Nothing is leased without a fleet's ledger.
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A call that draws so much was refused.
    Exceeded(u32),
    /// A call cost so much more than it was charged.
    Spent(u32),
}

impl News {
    /// A call has begun to wait there, or something was given back that others wait for.
    pub(super) fn wanted(&mut self, principal: &Principal) {
        // The same again and again while calls come in.
        if !self.wanted.iter().rev().take(4).any(|p| p == principal) {
            self.wanted.push(principal.clone());
            self.fresh = true;
        }
    }

    pub(super) fn told(&mut self, principal: &Principal, budget: Budget, told: Told) {
        self.told.push((principal.clone(), budget, told));
        self.fresh = true;
    }

    /// A call of several principals waits for what is in flight of `at`.
    pub(super) fn crosses(&mut self, request: &AcquireRequest, position: Position, at: &Principal) {
        let all = by_principal(request.charges()).map(|(principal, _)| principal);
        for principal in all.take_while(|principal| *principal != at) {
            let calls = self.crossing.entry(principal.clone()).or_default();
            calls.insert(position, request.clone());
        }
    }

    /// It does not wait there any more.
    pub(super) fn crossed(&mut self, request: &AcquireRequest, position: Position) {
        if self.crossing.is_empty() {
            return;
        }
        for (principal, _) in by_principal(request.charges()) {
            if let Some(calls) = self.crossing.get_mut(principal) {
                calls.remove(&position);
                if calls.is_empty() {
                    self.crossing.remove(principal);
                }
            }
        }
    }

    #[cfg(feature = "redis")]
    pub(super) fn first_crossing(&self, principal: &Principal) -> Option<&AcquireRequest> {
        self.crossing.get(principal)?.values().next()
    }

    /// Whether there is news that nobody was woken for. It is told once.
    pub(super) fn is_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    #[cfg(feature = "redis")]
    pub(super) fn take(&mut self) -> (Vec<Principal>, Vec<(Principal, Budget, Told)>) {
        (
            std::mem::take(&mut self.wanted),
            std::mem::take(&mut self.told),
        )
    }
}
