//! What responses and operators say: gates that close, limits that are met or set.

use http::uri::Authority;
use tokio::time::Instant;

use super::super::blocked::{by_budget, by_principal};
use super::super::clock::Clock;
use super::super::config::Config;
use super::super::endpoint::Endpoint;
use super::super::meter::{Ask, Meter, Stage};
use super::super::news::Told;
use super::super::notice::Notice;
use super::{State, not_queued};
use crate::ledger::{Admission, Contended, Limit, Signal};
use crate::principal::{Budget, Principal};

impl State {
    pub(in super::super) fn report(
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
                self.overspent(admission, until, now, config);
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
            Signal::Spent { budget, amount } => {
                self.spent(admission, budget, amount, &mut clock, config);
            }
            Signal::Limit { budget, number } => {
                let named = |meter: &mut Meter| meter.named(number, now);
                self.tell_meters(admission, budget, named, config);
            }
            Signal::Unspent { budget, amount } => {
                self.unspent(admission, budget, amount, now, config);
            }
            Signal::Remaining {
                budget,
                amount,
                until,
            } => {
                let remains = |meter: &mut Meter| meter.remains(amount, until, now);
                self.tell_meters(admission, budget, remains, config);
                // A later window may have begun, with more left than calls wait for.
                for (principal, _) in by_principal(admission.charges()) {
                    self.agenda.principal(principal);
                }
            }
        }
        self.settle(&mut clock, config);
        self.tidy_all(admission.call_charges(), &mut clock);
        self.tidy_all(admission.charges(), &mut clock);
        self.sweep(now);
    }

    /// Closes the gate of a principal, or keeps it closed for longer.
    pub(super) fn close_gate(&mut self, principal: &Principal, until: Instant, now: Instant) {
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
    pub(in super::super) fn lock_out(
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
    pub(in super::super) fn close_endpoint(
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

    pub(super) fn endpoint_or_new(&mut self, authority: &Authority) -> &mut Endpoint {
        let last = self.last;
        self.endpoints
            .entry(authority.clone())
            .or_insert_with(|| Endpoint::new(last))
    }

    pub(super) fn endpoint_closed(
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
    pub(in super::super) fn set_limit(
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

    pub(super) fn accepted(&mut self, admission: &Admission, clock: &mut Clock) {
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
                    position: not_queued(admission.request(), admission.ticket()),
                    sequence,
                    reserve: 0,
                };
                if let Some(meter) = account.meter_mut(budget) {
                    meter.accepted(ask, clock);
                }
            }
            self.agenda.principal(principal);
        }
    }

    /// What a call has cost, known once it was done.
    fn spent(
        &mut self,
        admission: &Admission,
        budget: Budget,
        amount: u32,
        clock: &mut Clock,
        config: &Config,
    ) {
        let spent = |meter: &mut Meter| meter.spent(amount, clock);
        self.tell_meters(admission, budget, spent, config);
        if config.leased {
            for (principal, charged, _) in by_budget(admission.charges()) {
                if charged == budget {
                    self.news.told(principal, budget, Told::Spent(amount));
                }
            }
        }
    }

    /// What a call was charged too much: those that wait may go.
    fn unspent(
        &mut self,
        admission: &Admission,
        budget: Budget,
        amount: u32,
        now: Instant,
        config: &Config,
    ) {
        let sequence = admission.sequence();
        let unspent = |meter: &mut Meter| meter.unspent(sequence, amount, now);
        self.tell_meters(admission, budget, unspent, config);
        for (principal, _) in by_principal(admission.charges()) {
            self.agenda.principal(principal);
        }
    }

    /// Tells the meters of one budget of a call.
    fn tell_meters(
        &mut self,
        admission: &Admission,
        named: Budget,
        mut tell: impl FnMut(&mut Meter),
        config: &Config,
    ) {
        let Some(limit) = config.limit(named) else {
            return;
        };
        for (principal, budget, _) in by_budget(admission.charges()) {
            if budget == named {
                let account = self.accounts.get_or_new(principal);
                tell(account.meter_or_new(budget, limit));
            }
        }
    }

    /// A lock-out says that the bucket is empty which the server locks out by: that of its time, or of requests.
    fn overspent(&mut self, admission: &Admission, until: Instant, now: Instant, config: &Config) {
        let last = self.last;
        let of_time = |budget| matches!(budget, Budget::BusyTime | Budget::PercentTime);
        let any_of_time = admission
            .charges()
            .iter()
            .any(|charge| of_time(charge.budget()));
        for (principal, budget, charges) in by_budget(admission.charges()) {
            let meant = match budget {
                Budget::Requests | Budget::Custom(_) => !any_of_time,
                other => of_time(other),
            };
            let limit = config
                .limit(budget)
                .filter(|limit| Stage::of(*limit) == Stage::Windows);
            let Some(limit) = limit.filter(|_| meant) else {
                continue;
            };
            let ask = Ask {
                charges,
                position: not_queued(admission.request(), admission.ticket()),
                sequence: admission.sequence(),
                reserve: 0,
            };
            let account = self.accounts.get_or_new(principal);
            account
                .meter_or_new(budget, limit)
                .locked_out(ask, until, last, now);
        }
    }

    pub(super) fn exceeded(
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
                position: not_queued(admission.request(), admission.ticket()),
                sequence: admission.sequence(),
                reserve: 0,
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
                    if config.leased {
                        self.news.told(principal, budget, Told::Exceeded(1));
                    }
                    self.agenda.principal(principal);
                }
                Some(_) | None => {}
            }
        }
        if let Some((_, ask, principal, budget)) = fullest {
            if let Some(meter) = self.accounts.get_or_new(principal).meter_mut(budget) {
                meter.exceeded(ask, last, clock);
            }
            if config.leased {
                let amount = ask.amount();
                self.news.told(principal, budget, Told::Exceeded(amount));
            }
            self.agenda.principal(principal);
        }
    }
}
