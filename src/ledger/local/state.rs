//! [`State`]: what is behind a [`LocalLedger`](super::LocalLedger)'s lock, and what may be admitted now.
//!
//! A call asks each thing that may hold it back, in this order: time, endpoint, gates, meters. It waits in the list of the first
//! that does. Whatever changes one of them looks at the heads of the lists that may go on then (`schedule`).

use std::collections::HashMap;
use std::time::Duration;

use http::uri::Authority;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::Config;
use super::account::Fast;
use super::accounts::Accounts;
use super::clock::{Clock, after};
use super::endpoint::Endpoint;
use super::expiry::Expiry;
use super::gate::Pass;
use super::meter::{Ask, Keep, Meter, Position, Stage, Verdict};
use super::notice::Notice;
use super::queue::Queue;
use super::schedule::Agenda;
use crate::ledger::{
    AcquireRequest, Admission, BudgetSnapshot, Contended, End, Limit, PrincipalSnapshot, Signal,
    Snapshot,
};
use crate::principal::{Budget, Charge, Principal};

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
    last_ticket: u64,
    /// The number of the last admission.
    last: u64,
    pub(super) notices: Vec<Notice>,
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
    pub(super) work: usize,
}

/// What holds a call back.
#[derive(Debug)]
pub(super) struct Blocked {
    pub(super) contended: Contended,
    /// When time alone may change that.
    pub(super) until: Option<Instant>,
    /// The value that it needs first.
    pub(super) value: Option<Principal>,
}

impl Blocked {
    fn by(contended: Contended, until: Option<Instant>) -> Self {
        Self {
            contended,
            until,
            value: None,
        }
    }
}

/// The charges of each principal.
pub(super) fn by_principal(charges: &[Charge]) -> impl Iterator<Item = (&Principal, &[Charge])> {
    charges
        .chunk_by(|one, other| one.principal() == other.principal())
        .filter_map(|of_one| Some((of_one.first()?.principal(), of_one)))
}

/// The charges of each budget of each principal.
pub(super) fn by_budget(
    charges: &[Charge],
) -> impl Iterator<Item = (&Principal, Budget, &[Charge])> {
    by_principal(charges).flat_map(|(principal, of_one)| {
        of_one
            .chunk_by(|one, other| one.budget() == other.budget())
            .filter_map(move |run| Some((principal, run.first()?.budget(), run)))
    })
}

/// The place of a call that does not wait: behind all.
fn not_queued(ticket: u64) -> Position {
    (ticket, usize::MAX)
}

impl State {
    /// The place in the queue of a call: the one that an earlier attempt had, if this ledger gave it. The first is 1.
    pub(super) fn ticket(&self, request: &AcquireRequest) -> u64 {
        request
            .ticket()
            .filter(|ticket| (1..=self.last_ticket).contains(ticket))
            .unwrap_or(self.last_ticket.saturating_add(1))
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
            Fast::Full => Err(request),
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
        if self.agenda.has_starved() {
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
        let mut clock = Clock::default();
        self.sweep_if_any(&mut clock);
        let ticket = self.ticket(&request);
        let position = not_queued(ticket);
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
        let until = match endpoint.pass(now) {
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
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            let ask = Ask {
                charges,
                position,
                sequence,
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
                watched |= endpoint.admitted(sequence, clock.now());
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
        Admission::new(request, position.0, sequence).watched(watched)
    }

    #[inline]
    pub(super) fn release(&mut self, admission: &Admission, end: End, config: &Config) {
        match self.give_back_fast(admission, config) {
            Some(hash) => {
                if let Some(hash) = hash {
                    self.accounts.keep_spare(hash);
                }
                if !self.expiry.is_empty() && admission.sequence() & 63 == 0 {
                    self.sweep(Instant::now());
                }
            }
            None => self.release_slow(admission, end, config),
        }
    }

    /// As `take_fast`. The hash of the principal, if nothing is left of it.
    #[inline]
    fn give_back_fast(&mut self, admission: &Admission, config: &Config) -> Option<Option<u64>> {
        let [charge] = &**admission.charges() else {
            return None;
        };
        if admission.is_divided() {
            return None;
        }
        let budget = charge.budget();
        if !matches!(config.limit(budget), Some(Limit::InFlight(_)))
            || self.is_overloaded(admission.endpoint())
        {
            return None;
        }
        let account = self.accounts.get_mut(charge.principal())?;
        let vacant = account.give_back_fast(budget, charge.amount())?;
        Some(vacant.then(|| charge.principal().hash64()))
    }

    #[inline(never)]
    fn release_slow(&mut self, admission: &Admission, end: End, config: &Config) {
        let mut clock = Clock::default();
        self.give_back(admission, end, &mut clock, config);
        self.settle(&mut clock, config);
        self.tidy_all(admission.call_charges(), &mut clock);
        self.tidy_all(admission.charges(), &mut clock);
        self.sweep_if_any(&mut clock);
    }

    /// Gives back what was admitted, and notes who may go on now.
    pub(super) fn give_back(
        &mut self,
        admission: &Admission,
        end: End,
        clock: &mut Clock,
        config: &Config,
    ) {
        let complete = end == End::Complete;
        let sequence = admission.sequence();
        let whole = !admission.is_split_off();
        if let Some(authority) = admission.endpoint().filter(|_| whole) {
            if let Some(endpoint) = self.endpoints.get_mut(authority) {
                endpoint.released(sequence, complete, clock.now());
                self.agenda.endpoint(authority);
            }
        }
        for (principal, _) in by_principal(admission.call_charges()) {
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            if let Some(gate) = account.gate_mut() {
                gate.released(sequence, complete);
                account.settle_gate();
                self.agenda.principal(principal);
            }
        }
        for (principal, of_one) in by_principal(admission.charges()) {
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            for (_, budget, charges) in by_budget(of_one) {
                let ask = Ask {
                    charges,
                    position: not_queued(admission.ticket()),
                    sequence,
                };
                if let (Some(_), Some(meter)) = (config.limit(budget), account.meter_mut(budget)) {
                    meter.give_back(ask, end, clock);
                }
            }
            if account.queued() > 0 {
                for (_, budget, charges) in by_budget(of_one) {
                    self.agenda.opened(principal, budget, charges, &self.queue);
                }
                self.agenda.principal(principal);
            }
        }
    }

    pub(super) fn report(
        &mut self,
        admission: &Admission,
        signal: Signal,
        now: Instant,
        config: &Config,
    ) {
        let mut clock = Clock::at(now);
        match signal {
            Signal::Busy { until } => {
                let charged = match admission.is_split_off() {
                    true => admission.charges(),
                    false => admission.call_charges(),
                };
                for (principal, _) in by_principal(charged) {
                    self.close_gate(principal, until, now);
                }
            }
            Signal::EndpointBusy { until } => {
                if let Some(authority) = admission.endpoint() {
                    let (sequence, last) = (admission.sequence(), self.last);
                    let endpoint = self.endpoint_or_new(authority);
                    let known = endpoint.closed_until(now);
                    endpoint.overloaded(sequence, until, last, now);
                    self.endpoint_closed(authority, known, until, now);
                }
            }
            Signal::Accepted => self.accepted(admission, &mut clock),
            Signal::Exceeded(budget) => self.exceeded(admission, budget, &mut clock, config),
        }
        self.settle(&mut clock, config);
        self.tidy_all(admission.call_charges(), &mut clock);
        self.tidy_all(admission.charges(), &mut clock);
        self.sweep(now);
    }

    /// Closes the gate of a principal, or keeps it closed for longer.
    fn close_gate(&mut self, principal: &Principal, until: Instant, now: Instant) {
        let account = self.accounts.get_or_new(principal);
        let known = account.closed_until(now);
        account.close_gate(until);
        if known.is_none() {
            let contended = Contended::Gate(principal.clone());
            self.notices.push(Notice::closed(contended, until, now));
        }
        self.agenda.principal(principal);
        self.agenda.look_past_starved();
    }

    /// Closes the gate of a principal from outside.
    pub(super) fn lock_out(
        &mut self,
        principal: &Principal,
        until: Instant,
        now: Instant,
        config: &Config,
    ) {
        self.close_gate(principal, until, now);
        self.settle(&mut Clock::at(now), config);
        self.tidy(principal, now);
    }

    /// Closes the gate of an endpoint from outside.
    pub(super) fn close_endpoint(
        &mut self,
        authority: &Authority,
        until: Instant,
        now: Instant,
        config: &Config,
    ) {
        let endpoint = self.endpoint_or_new(authority);
        let known = endpoint.closed_until(now);
        endpoint.close_gate(until);
        self.endpoint_closed(authority, known, until, now);
        self.settle(&mut Clock::at(now), config);
    }

    fn endpoint_or_new(&mut self, authority: &Authority) -> &mut Endpoint {
        let last = self.last;
        self.endpoints
            .entry(authority.clone())
            .or_insert_with(|| Endpoint::new(last))
    }

    fn endpoint_closed(
        &mut self,
        authority: &Authority,
        known: Option<Instant>,
        until: Instant,
        now: Instant,
    ) {
        if known.is_none() {
            let contended = Contended::Endpoint(authority.clone());
            self.notices.push(Notice::closed(contended, until, now));
        }
        self.agenda.endpoint(authority);
        self.tidy_endpoint(authority, now);
    }

    /// Sets the limit of one budget of a principal; `None` is the policy's again.
    pub(super) fn set_limit(
        &mut self,
        principal: &Principal,
        budget: Budget,
        number: Option<u32>,
        policy: Limit,
        now: Instant,
        config: &Config,
    ) {
        let account = self.accounts.get_or_new(principal);
        account
            .meter_or_new(budget, policy)
            .set_limit(number, policy);
        self.agenda.principal(principal);
        self.settle(&mut Clock::at(now), config);
        self.tidy(principal, now);
    }

    fn accepted(&mut self, admission: &Admission, clock: &mut Clock) {
        let sequence = admission.sequence();
        let whole = !admission.is_split_off();
        if let Some(authority) = admission.endpoint().filter(|_| whole) {
            if let Some(endpoint) = self.endpoints.get_mut(authority) {
                endpoint.accepted(sequence, clock.now());
                self.agenda.endpoint(authority);
            }
        }
        for (principal, _) in by_principal(admission.call_charges()) {
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            if let Some(gate) = account.gate_mut() {
                gate.accepted(sequence);
                account.settle_gate();
                self.agenda.principal(principal);
            }
        }
        for (principal, of_one) in by_principal(admission.charges()) {
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            for (_, budget, charges) in by_budget(of_one) {
                let ask = Ask {
                    charges,
                    position: not_queued(admission.ticket()),
                    sequence,
                };
                if let Some(meter) = account.meter_mut(budget) {
                    meter.accepted(ask, clock);
                }
            }
            self.agenda.principal(principal);
        }
    }

    fn exceeded(
        &mut self,
        admission: &Admission,
        named: Budget,
        clock: &mut Clock,
        config: &Config,
    ) {
        let mut fullest: Option<(u64, Ask<'_>, &Principal, Budget)> = None;
        let last = self.last;
        for (principal, budget, charges) in by_budget(admission.charges()) {
            // "Too many at the same time" can be any budget of what is in flight but the one whose refusals have a name.
            let meant =
                budget == named || (named == Budget::Concurrency && budget != Budget::FindCount);
            let Some(limit) = config.limit(budget).filter(|_| meant) else {
                continue;
            };
            let ask = Ask {
                charges,
                position: not_queued(admission.ticket()),
                sequence: admission.sequence(),
            };
            let meter = self
                .accounts
                .get_or_new(principal)
                .meter_or_new(budget, limit);
            match meter.fill() {
                Some(fill) if fullest.as_ref().is_none_or(|(most, ..)| fill > *most) => {
                    fullest = Some((fill, ask, principal, budget));
                }
                None if budget == named => {
                    meter.exceeded(ask, last, clock);
                    self.agenda.principal(principal);
                }
                Some(_) | None => {}
            }
        }
        if let Some((_, ask, principal, budget)) = fullest {
            if let Some(meter) = self.accounts.get_or_new(principal).meter_mut(budget) {
                meter.exceeded(ask, last, clock);
            }
            self.agenda.principal(principal);
        }
    }

    /// Counts a call that waits among those of `contended`, and keeps for it what it has elsewhere.
    pub(super) fn parked(
        &mut self,
        request: &AcquireRequest,
        position: Position,
        contended: &Contended,
        clock: &mut Clock,
        config: &Config,
    ) {
        let mut stage = None;
        match contended {
            Contended::Budget(principal, budget) => {
                let account = self.accounts.get_or_new(principal);
                account.joined();
                if let Some(limit) = config.limit(*budget) {
                    account.meter_or_new(*budget, limit);
                    stage = Some(Stage::of(limit));
                }
            }
            Contended::Gate(principal) => self.accounts.get_or_new(principal).joined(),
            Contended::Endpoint(authority) => {
                if let Some(endpoint) = self.endpoints.get_mut(authority) {
                    endpoint.queued += 1;
                }
            }
            Contended::Time => {}
        }
        // A call that waits for a time or a gate keeps nothing from others.
        if stage != Some(Stage::Amounts) {
            return;
        }
        for (principal, budget, charges) in by_budget(request.charges()) {
            let Some(limit) = config
                .limit(budget)
                .filter(|l| Stage::of(*l) == Stage::Values)
            else {
                continue;
            };
            let ask = Ask {
                charges,
                position,
                sequence: self.last + 1,
            };
            let account = self.accounts.get_or_new(principal);
            account.meter_or_new(budget, limit).keep_place(ask, clock);
            if account.queued() > 0 {
                self.agenda.opened(principal, budget, charges, &self.queue);
            }
        }
    }

    /// The opposite of `parked`.
    pub(super) fn unparked(
        &mut self,
        request: &AcquireRequest,
        position: Position,
        contended: &Contended,
        keep_places: bool,
    ) {
        match contended {
            Contended::Budget(principal, _) | Contended::Gate(principal) => {
                if let Some(account) = self.accounts.get_mut(principal) {
                    account.left();
                }
            }
            Contended::Endpoint(authority) => {
                if let Some(endpoint) = self.endpoints.get_mut(authority) {
                    endpoint.queued = endpoint.queued.saturating_sub(1);
                }
            }
            Contended::Time => {}
        }
        if keep_places {
            return;
        }
        for (principal, budget, charges) in by_budget(request.charges()) {
            let Some(account) = self.accounts.get_mut(principal) else {
                continue;
            };
            let left = account
                .meter_mut(budget)
                .is_some_and(|meter| meter.leave_place(position));
            if left {
                // Somebody else may go on now; or the call itself, if it waits here next: what it kept was the last use of a value
                // that was refused.
                self.agenda.opened(principal, budget, charges, &self.queue);
                self.agenda.principal(principal);
            }
        }
    }

    /// The lists in which calls of a principal wait.
    pub(super) fn lists_of(&mut self, principal: &Principal) -> SmallVec<[Contended; 4]> {
        let Some(account) = self.accounts.get_mut(principal).filter(|a| a.queued() > 0) else {
            return SmallVec::new();
        };
        let budgets = account.budgets();
        let lists = budgets.map(|budget| Contended::Budget(principal.clone(), budget));
        let gate = std::iter::once(Contended::Gate(principal.clone()));
        let all = gate.chain(lists);
        all.filter(|contended| self.queue.has(contended)).collect()
    }

    /// Makes room for calls that have waited too long for a value.
    pub(super) fn make_room_for_aged(
        &mut self,
        contended: &Contended,
        clock: &mut Clock,
        config: &Config,
    ) {
        let places = self.places(contended);
        if places == 0 {
            return;
        }
        let (now, next) = (clock.now(), self.next_ticket());
        let aged = |since| config.is_aged(since, now);
        let wanted = self.queue.values_since(contended, aged, places);
        if let (1.., Some(meter)) = (wanted, self.meter_of(contended)) {
            meter.starved(wanted, next);
        }
    }

    fn meter_of(&mut self, contended: &Contended) -> Option<&mut Meter> {
        let Contended::Budget(principal, budget) = contended else {
            return None;
        };
        self.accounts.get_mut(principal)?.meter_mut(*budget)
    }

    /// How many values the calls that wait for `contended` can hope for at a time.
    pub(super) fn places(&mut self, contended: &Contended) -> usize {
        self.meter_of(contended).map_or(0, |meter| meter.places())
    }

    /// When the gate opens that holds back calls which wait for `contended`.
    pub(super) fn gate_until(&mut self, contended: &Contended, now: Instant) -> Option<Instant> {
        match contended {
            Contended::Endpoint(authority) => self.endpoints.get(authority)?.closed_until(now),
            Contended::Gate(principal) | Contended::Budget(principal, _) => {
                self.accounts.get_mut(principal)?.closed_until(now)
            }
            Contended::Time => None,
        }
    }

    /// What is held of a budget, and its limit.
    pub(super) fn usage(&mut self, contended: &Contended, now: Instant) -> Option<BudgetSnapshot> {
        let budget = contended.budget()?;
        Some(self.meter_of(contended)?.snapshot(budget, now))
    }

    /// Forgets what has passed of the principals of `charges`, or schedules a later look.
    pub(super) fn tidy_all(&mut self, charges: &[Charge], clock: &mut Clock) {
        for (principal, _) in by_principal(charges) {
            self.tidy(principal, clock.now());
        }
    }

    pub(super) fn tidy(&mut self, principal: &Principal, now: Instant) {
        let Some(account) = self.accounts.get_mut(principal) else {
            return;
        };
        if account
            .gate_mut()
            .is_some_and(|gate| gate.open_if_due(now, self.last + 1))
        {
            let contended = Contended::Gate(principal.clone());
            self.notices.push(Notice::opened(contended));
        }
        match account.tidy(now) {
            Keep::Nothing => self.accounts.remove(principal),
            Keep::Until(until) => {
                if !account.schedule() {
                    let due = Due::Principal(principal.hash64());
                    self.expiry.schedule(until, due);
                }
            }
            Keep::InUse => {}
        }
    }

    fn tidy_endpoint(&mut self, authority: &Authority, now: Instant) {
        let Some(endpoint) = self.endpoints.get_mut(authority) else {
            return;
        };
        if endpoint.open_if_due(now, self.last + 1) {
            let contended = Contended::Endpoint(authority.clone());
            self.notices.push(Notice::opened(contended));
        }
        let until = endpoint.keep_until(now);
        if endpoint.queued == 0 && until.is_none_or(|until| until <= now) {
            self.endpoints.remove(authority);
            if self.endpoints.is_empty() {
                self.endpoints.shrink_to(64);
            }
        } else if !std::mem::replace(&mut endpoint.scheduled, true) {
            // Somebody waits there: later, as often as it takes.
            let until = until.unwrap_or(now).max(after(now, RETRY));
            self.expiry
                .schedule(until, Due::Endpoint(authority.as_str().into()));
        }
    }

    fn sweep_if_any(&mut self, clock: &mut Clock) {
        if !self.expiry.is_empty() {
            self.sweep(clock.now());
        }
    }

    /// Forgets what has passed.
    pub(super) fn sweep(&mut self, now: Instant) {
        while let Some(due) = self.expiry.pop_due(now) {
            match due {
                Due::Principal(hash) => {
                    let Some(account) = self.accounts.by_hash(hash) else {
                        continue;
                    };
                    account.unschedule();
                    let principal = account.principal.clone();
                    self.tidy(&principal, now);
                }
                Due::Endpoint(name) => {
                    let Ok(authority) = name.parse::<Authority>() else {
                        continue;
                    };
                    if let Some(endpoint) = self.endpoints.get_mut(&authority) {
                        endpoint.scheduled = false;
                    }
                    self.tidy_endpoint(&authority, now);
                }
            }
        }
    }

    /// The number of the last admission, for tests.
    #[cfg(test)]
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// What is in memory, for tests.
    #[cfg(test)]
    pub(super) fn left(&self) -> Left {
        let (waiters, lists, alarms) = self.queue.left();
        Left {
            principals: self.accounts.iter().count(),
            room: self.accounts.room(),
            endpoints: self.endpoints.len(),
            waiters,
            lists,
            alarms,
            work: self.agenda.looked_and_left().1,
        }
    }

    pub(super) fn snapshot(&mut self, now: Instant) -> Snapshot {
        self.sweep(now);
        let mut snapshot = Snapshot::default();
        for account in self.accounts.iter().filter(|account| !account.is_vacant()) {
            let mut principal = PrincipalSnapshot::new(account.principal.clone());
            principal.gated = account.closed_until(now).map(|until| until - now);
            principal.budgets = account.snapshot(now);
            principal.queued = account.queued() as usize;
            snapshot.principals.push(principal);
        }
        snapshot.queued = self.queue.len();
        let gated = self.endpoints.iter().filter_map(|(authority, endpoint)| {
            let until = endpoint.closed_until(now)?;
            Some((authority.clone(), until - now))
        });
        snapshot.gated_endpoints = gated.collect();
        snapshot
    }
}
