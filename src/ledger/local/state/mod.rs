//! [`State`]: what is behind a [`LocalLedger`](super::LocalLedger)'s lock, and what may be admitted now.
//!
//! A call asks each thing that may hold it back, in this order: time, endpoint, gates, meters. It waits in the list of the first
//! that does. Whatever changes one of them looks at the heads of the lists that may go on then (`schedule`).

mod export;
mod forget;
mod places;
mod release;
mod signals;

use std::collections::HashMap;
use std::time::Duration;

use http::uri::Authority;
use tokio::time::Instant;

#[cfg(feature = "redis")]
use super::account::Account;
use super::account::Fast;
use super::accounts::Accounts;
use super::agenda::Agenda;
use super::blocked::{Blocked, by_budget, by_principal, hangs};
use super::clock::Clock;
use super::config::Config;
use super::endpoint::Endpoint;
use super::expiry::Expiry;
use super::gate::Pass;
use super::meter::{Ask, Position, Stage, Verdict};
use super::news::News;
use super::notice::Notice;
use super::queue::Queue;
use crate::ledger::{AcquireRequest, Admission, Contended, Limit};
use crate::principal::Charge;
#[cfg(feature = "redis")]
use crate::principal::Principal;

/// When an endpoint is looked at again for which calls still wait.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct State {
    accounts: Accounts,
    /// The endpoints that were overloaded and not forgotten yet.
    endpoints: HashMap<Authority, Endpoint>,
    pub(super) queue: Queue,
    pub(super) agenda: Agenda,
    /// When the keeper looks again, if there is one.
    pub(super) keeper: Option<Instant>,
    expiry: Expiry<Due>,
    /// More has passed than the last look forgot.
    behind: bool,
    last_ticket: u64,
    /// The number of the last admission.
    last: u64,
    pub(super) notices: Vec<Notice>,
    pub(super) news: News,
}

/// What may be forgotten at some time: a principal by its hash, an endpoint by its name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Principal(u64),
    Endpoint(Box<str>),
}

/// What is in memory.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Left {
    pub(super) principals: usize,
    pub(super) room: usize,
    pub(super) endpoints: usize,
    pub(super) waiters: usize,
    pub(super) lists: usize,
    pub(super) alarms: usize,
    pub(super) expiries: usize,
    pub(super) work: usize,
    pub(super) misses: usize,
}

/// The place of a call that does not wait: behind all.
fn not_queued(request: &AcquireRequest, ticket: u64) -> Position {
    Position {
        priority: request.priority(),
        ticket,
        key: usize::MAX,
    }
}

impl State {
    pub(super) fn new(leased: bool) -> Self {
        let mut state = Self::default();
        state.accounts.leased = leased;
        state
    }

    #[cfg(feature = "redis")]
    pub(super) fn account_mut(&mut self, principal: &Principal) -> &mut Account {
        self.accounts.get_or_new(principal)
    }

    /// The place in the queue of a call: the one that an earlier attempt had, if this ledger gave it. The first is 1.
    pub(super) fn ticket(&self, request: &AcquireRequest) -> u64 {
        request
            .ticket()
            .filter(|ticket| (1..=self.last_ticket).contains(ticket))
            .unwrap_or(self.last_ticket.saturating_add(1))
    }

    /// How many calls were admitted.
    pub(super) fn admitted(&self) -> u64 {
        self.last
    }

    pub(super) fn next_ticket(&self) -> u64 {
        self.last_ticket.saturating_add(1)
    }

    pub(super) fn came(&mut self, ticket: u64) {
        self.last_ticket = self.last_ticket.max(ticket);
    }

    // The fast path: one charge, an account without gate and queue, nothing learnt, no clock. Watched by `benches/overhead`,
    // `concurrency_by_principal/1`. Everything else is `admit` and `release_slow`.
    #[inline]
    pub(super) fn try_acquire(
        &mut self,
        request: AcquireRequest,
        config: &Config,
    ) -> Result<Admission, AcquireRequest> {
        match self.take_fast(&request, config) {
            Fast::Taken => {
                let ticket = self.ticket(&request);
                self.came(ticket);
                self.last += 1;
                Ok(Admission::new(request, ticket, self.last))
            }
            Fast::Full => {
                // Nothing is lent to it perhaps, and then nothing keeps it.
                if let (true, [charge]) = (config.leased, &**request.charges()) {
                    self.accounts.keep_spare(charge.principal().hash64());
                }
                Err(request)
            }
            Fast::Slow => self.try_acquire_slow(request, config),
        }
    }

    #[inline]
    fn take_fast(&mut self, request: &AcquireRequest, config: &Config) -> Fast {
        let [charge] = &**request.charges() else {
            return Fast::Slow;
        };
        let (Some(Limit::InFlight(limit)), None) = (config.limit(charge.budget()), charge.value())
        else {
            return Fast::Slow;
        };
        if request.not_before().is_some() || self.is_overloaded(request.endpoint()) {
            return Fast::Slow;
        }
        if self.agenda.has_starved() || config.has_reserves() {
            return Fast::Slow;
        }
        self.accounts.get_or_new(charge.principal()).take_fast(
            charge.budget(),
            charge.amount(),
            limit,
        )
    }

    #[inline]
    fn is_overloaded(&self, endpoint: Option<&Authority>) -> bool {
        !self.endpoints.is_empty()
            && endpoint.is_some_and(|endpoint| self.endpoints.contains_key(endpoint))
    }

    #[inline(never)]
    fn try_acquire_slow(
        &mut self,
        request: AcquireRequest,
        config: &Config,
    ) -> Result<Admission, AcquireRequest> {
        if config.refusal(request.charges()).is_some() {
            return Err(request);
        }
        let mut clock = Clock::default();
        self.sweep_for(&request, &mut clock);
        let ticket = self.ticket(&request);
        let position = not_queued(&request, ticket);
        let blocked = self.blocked(&request, position, &mut clock, config);
        if blocked.is_some() {
            self.tidy_all(request.charges(), &mut clock);
            return Err(request);
        }
        self.came(ticket);
        let admission = self.admit(request, position, &mut clock, config);
        self.settle(&mut clock, config);
        Ok(admission)
    }

    /// Returns what holds a call back, if anything does.
    pub(super) fn blocked(
        &mut self,
        request: &AcquireRequest,
        position: Position,
        clock: &mut Clock,
        config: &Config,
    ) -> Option<Blocked> {
        if let Some(time) = request.not_before() {
            if time > clock.now() {
                return Some(Blocked::by(Contended::Time, Some(time)));
            }
        }
        self.blocked_by_endpoint(request, position, clock)
            .or_else(|| self.blocked_by_gate(request.charges(), position, clock))
            .or_else(|| self.blocked_by(Stage::Windows, request, position, clock, config))
            .or_else(|| self.blocked_by(Stage::Values, request, position, clock, config))
            .or_else(|| self.blocked_by_starved(request, position))
            .or_else(|| self.blocked_by(Stage::Amounts, request, position, clock, config))
    }

    fn blocked_by_endpoint(
        &mut self,
        request: &AcquireRequest,
        position: Position,
        clock: &mut Clock,
    ) -> Option<Blocked> {
        if self.endpoints.is_empty() {
            return None;
        }
        let authority = request.endpoint()?;
        let endpoint = self.endpoints.get_mut(authority)?;
        let now = clock.now();
        if endpoint.open_if_due(now, self.last + 1) {
            self.notices
                .push(Notice::opened(Contended::Endpoint(authority.clone())));
        }
        let contended = Contended::Endpoint(authority.clone());
        let behind = endpoint.queued > 0
            && self
                .queue
                .first(&contended)
                .is_some_and(|first| first < position);
        let until = match endpoint.pass(hangs(request.charges()), now) {
            (Pass::Closed(until), _) => Some(until),
            (Pass::Open, _) if !behind => return None,
            (_, until) => until,
        };
        Some(Blocked::by(contended, until))
    }

    fn blocked_by_gate(
        &mut self,
        charges: &[Charge],
        position: Position,
        clock: &mut Clock,
    ) -> Option<Blocked> {
        for (principal, _) in by_principal(charges) {
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            let queued = account.queued() > 0;
            let pass = account.gate_mut().map(|gate| {
                let now = clock.now();
                if gate.open_if_due(now, self.last + 1) {
                    self.notices
                        .push(Notice::opened(Contended::Gate(principal.clone())));
                }
                gate.pass(now)
            });
            account.settle_gate();
            if pass.is_none() && !queued {
                continue;
            }
            let contended = Contended::Gate(principal.clone());
            let until = match pass.unwrap_or(Pass::Open) {
                Pass::Closed(until) => Some(until),
                Pass::Probing => None,
                Pass::Open => match self.queue.first(&contended) {
                    Some(first) if queued && first < position => None,
                    _ => continue,
                },
            };
            return Some(Blocked::by(contended, until));
        }
        None
    }

    /// A starved call holds back younger ones on all its budgets, but not while it waits for a gate: that would close the gate
    /// for other principals too.
    fn blocked_by_starved(
        &mut self,
        request: &AcquireRequest,
        position: Position,
    ) -> Option<Blocked> {
        let blocked = self
            .agenda
            .blocked_by_starved(request, position, &self.queue)?;
        let account = self.accounts.get_mut(blocked.waits_for)?;
        account.gate_mut().is_none().then_some(blocked.by)
    }

    /// What the meters of one stage say.
    fn blocked_by(
        &mut self,
        stage: Stage,
        request: &AcquireRequest,
        position: Position,
        clock: &mut Clock,
        config: &Config,
    ) -> Option<Blocked> {
        let sequence = self.last + 1;
        for (principal, budget, charges) in by_budget(request.charges()) {
            let Some(limit) = config.limit(budget).filter(|l| Stage::of(*l) == stage) else {
                continue;
            };
            // Nothing is held by who is not known. Nothing is lent to them either.
            let account = match config.leased {
                true => Some(self.accounts.get_or_new(principal)),
                false => self.accounts.get_mut(principal),
            };
            let Some(account) = account else {
                continue;
            };
            let ask = Ask {
                charges,
                position,
                sequence,
                reserve: config.reserve(budget, request.priority()),
            };
            let queued = account.queued() > 0;
            let (until, value) = match account.meter_or_new(budget, limit).admit(ask, clock) {
                Verdict::Overtakes => continue,
                Verdict::Room { .. } if !queued => continue,
                Verdict::Room { value } => {
                    let first = self
                        .queue
                        .first(&Contended::Budget(principal.clone(), budget));
                    match first {
                        Some(first) if first < position => (None, value),
                        _ => continue,
                    }
                }
                Verdict::Full { until, value } => (until, value),
            };
            return Some(Blocked {
                contended: Contended::Budget(principal.clone(), budget),
                until,
                value,
            });
        }
        None
    }

    /// Takes everything that a call asks for. Nothing holds it back.
    pub(super) fn admit(
        &mut self,
        request: AcquireRequest,
        position: Position,
        clock: &mut Clock,
        config: &Config,
    ) -> Admission {
        self.last += 1;
        let sequence = self.last;
        let mut watched = false;
        if !self.endpoints.is_empty() {
            let endpoint = request.endpoint().and_then(|e| self.endpoints.get_mut(e));
            if let Some(endpoint) = endpoint {
                watched |= endpoint.admitted(sequence, hangs(request.charges()), clock.now());
            }
        }
        for (principal, of_one) in by_principal(request.charges()) {
            if let Some(gate) = self
                .accounts
                .get_mut(principal)
                .and_then(|account| account.gate_mut())
            {
                watched |= gate.admitted();
            }
            for (_, budget, charges) in by_budget(of_one) {
                let Some(limit) = config.limit(budget) else {
                    continue;
                };
                let ask = Ask {
                    charges,
                    position,
                    sequence,
                    reserve: 0,
                };
                let account = self.accounts.get_or_new(principal);
                let meter = account.meter_or_new(budget, limit);
                watched |= meter.take(ask, clock);
                meter.leave_place(position);
                if account.queued() > 0 && Stage::of(limit) == Stage::Values {
                    self.agenda.opened(principal, budget, charges, &self.queue);
                }
            }
        }
        Admission::new(request, position.ticket, sequence).watched(watched)
    }
}
