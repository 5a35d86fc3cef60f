//! What a ledger may and may not do, written down as plainly as possible.

use std::collections::{HashMap, HashSet};

use super::super::*;
use crate::extensions::Priority;
use crate::ledger::Contended;
use crate::ledger::local::meter::Position;
use crate::ledger::local::queue::Stands;

/// What a limit was set to, and from when on. None is the policy's number.
type Numbers = Vec<(Instant, Option<u32>)>;

/// The limits, what is held as far as the callers know, and what was closed.
pub(super) struct Model {
    policy: HashMap<Budget, Limit>,
    /// What less urgent calls leave of each budget.
    pub(super) reserves: HashMap<Budget, u32>,
    max_overtake: Duration,
    /// Numbers set from outside, with the time from which they hold.
    numbers: HashMap<(Principal, Budget), Numbers>,
    held: HashMap<(Principal, Budget), u32>,
    /// What is drawn from buckets, times the period in nanoseconds, and when that was so. Never more than in truth: when exactly a
    /// call was admitted is not known.
    drawn: HashMap<(Principal, Budget), (u128, Instant)>,
    /// Calls in flight of a principal, and to the endpoint.
    in_flight: HashMap<Contended, u32>,
    values: HashMap<Principal, HashMap<Principal, Value>>,
    /// Since when and until when a gate is closed. What was closed once is tested for some time.
    gates: HashMap<Contended, (Instant, Instant)>,
    /// Budgets whose limit was learnt, and endpoints: time and responses decide there.
    learnt: HashSet<(Principal, Budget)>,
    /// When calls told last that they cost more.
    spent: HashMap<(Principal, Budget), Instant>,
    /// Accounts where a call has waited for a value for too long.
    aged: HashSet<Principal>,
}

#[derive(Default)]
struct Value {
    in_use: u32,
    last_used: Option<Instant>,
    given_back: Option<Instant>,
    /// The server refused it: its place is free once its calls have ended.
    refused: bool,
    /// A call has used it to the end.
    worked: bool,
    /// The calls in use of it that were refused, by their deadlines.
    refusers: HashSet<Option<Instant>>,
}

/// A call that waits.
pub(super) type Waits = (Position, AcquireRequest, Stands);

impl Model {
    pub(super) fn new(policy: &[(Budget, Limit)], max_overtake: Duration) -> Self {
        Self {
            policy: policy.iter().copied().collect(),
            reserves: HashMap::new(),
            max_overtake,
            numbers: HashMap::new(),
            held: HashMap::new(),
            drawn: HashMap::new(),
            in_flight: HashMap::new(),
            values: HashMap::new(),
            gates: HashMap::new(),
            learnt: HashSet::new(),
            spent: HashMap::new(),
            aged: HashSet::new(),
        }
    }

    pub(super) fn set_limit(&mut self, key: (Principal, Budget), number: Option<u32>) {
        let numbers = self.numbers.entry(key).or_default();
        numbers.push((Instant::now(), number));
    }

    pub(super) fn close(&mut self, gate: Contended, until: Instant) {
        let now = Instant::now();
        let (since, known) = self.gates.entry(gate).or_insert((now, until));
        if *known <= now {
            *since = now;
        }
        *known = until.max(*known);
    }

    pub(super) fn reported(&mut self, request: &AcquireRequest, signal: Signal) {
        match signal {
            Signal::Busy { until } => {
                for charge in request.charges().iter() {
                    self.close(Contended::Gate(charge.principal().clone()), until);
                }
            }
            Signal::EndpointBusy { until } => {
                if let Some(endpoint) = request.endpoint() {
                    self.close(Contended::Endpoint(endpoint.clone()), until);
                }
            }
            Signal::Exceeded(named) => {
                for charge in request.charges().iter() {
                    if charge.budget() == named || named == Budget::Concurrency {
                        let key = (charge.principal().clone(), charge.budget());
                        self.learnt.insert(key);
                    }
                }
                for (principal, budget, _, values) in by_budget(request) {
                    if budget == named {
                        self.refused(&principal, &values, request.deadline());
                    }
                }
            }
            Signal::Spent { budget, amount } => {
                for (principal, charged, ..) in by_budget(request) {
                    if charged == budget {
                        // What calls are expected to cost on top may hold others back from now on.
                        self.learnt.insert((principal.clone(), budget));
                        self.spent
                            .insert((principal.clone(), budget), Instant::now());
                        self.draw((principal, budget), amount, Instant::now());
                    }
                }
            }
            // It only holds calls back.
            Signal::Accepted | Signal::Remaining { .. } => {}
            Signal::Unspent { .. } | Signal::Limit { .. } => {
                unreachable!("no report of these tests")
            }
        }
    }

    /// Of several values it was one of those that are not known to work, if there is one.
    fn refused(&mut self, account: &Principal, values: &HashSet<Principal>, call: Option<Instant>) {
        let open = self.open(account);
        let known = self.values.entry(account.clone()).or_default();
        let is_new = |name: &&Principal| !open.contains(*name) || !known[*name].worked;
        let new: HashSet<Principal> = values.iter().filter(is_new).cloned().collect();
        for name in if new.is_empty() { values } else { &new } {
            if let Some(value) = known.get_mut(name) {
                value.refused = true;
                value.worked = false;
                if value.refusers.len() < value.in_use as usize {
                    value.refusers.insert(call);
                }
            }
        }
    }

    /// The limit now.
    fn limit(&self, principal: &Principal, budget: Budget) -> Option<u32> {
        let policy = self.policy.get(&budget)?.number();
        let numbers = self.numbers.get(&(principal.clone(), budget));
        let last = numbers.and_then(|numbers| numbers.last());
        last.and_then(|(_, number)| *number).or(Some(policy))
    }

    /// The highest limit since then.
    fn highest_limit(&self, principal: &Principal, budget: Budget, since: Instant) -> Option<u32> {
        let policy = self.policy.get(&budget)?.number();
        let numbers = self.numbers.get(&(principal.clone(), budget));
        let numbers = numbers.map_or(&[][..], |numbers| numbers);
        let before = numbers.iter().rfind(|(from, _)| *from < since);
        let later = numbers.iter().filter(|(from, _)| *from >= since);
        let first = numbers.is_empty() || before.is_none();
        let all = before.into_iter().chain(later);
        let number = all.map(|(_, number)| number.unwrap_or(policy)).max();
        // At the same moment as the last change: either may hold.
        match first {
            true => Some(number.unwrap_or(policy).max(policy)),
            false => number,
        }
    }

    /// How fast the bucket fills at the most, for any number that was set, and its period in nanoseconds.
    fn refill(&self, (principal, budget): &(Principal, Budget)) -> Option<(u128, u128)> {
        let policy = *self.policy.get(budget)?;
        let numbers = self.numbers.get(&(principal.clone(), *budget));
        let set = numbers
            .into_iter()
            .flatten()
            .filter_map(|(_, number)| *number);
        let most = set.chain([policy.number()]).max()?;
        match policy.with_number(most) {
            Limit::PerWindow { refill, period, .. } => Some((refill.into(), period.as_nanos())),
            _ => None,
        }
    }

    /// What is drawn now.
    fn drawn(&self, key: &(Principal, Budget)) -> u128 {
        let Some(((drawn, at), (refill, _))) = self.drawn.get(key).zip(self.refill(key)) else {
            return 0;
        };
        drawn.saturating_sub(at.elapsed().as_nanos() * refill)
    }

    /// Draws `amount` at `then`.
    fn draw(&mut self, key: (Principal, Budget), amount: u32, then: Instant) {
        let Some((refill, period)) = self.refill(&key) else {
            return;
        };
        let left = u128::from(amount) * period;
        let left = left.saturating_sub(then.elapsed().as_nanos() * refill);
        let drawn = self.drawn(&key) + left;
        self.drawn.insert(key, (drawn, Instant::now()));
    }

    fn idle(&self) -> Duration {
        let limits = self.policy.values();
        let idle = limits.filter_map(|limit| match limit {
            Limit::Distinct { idle, .. } => Some(*idle),
            _ => None,
        });
        idle.sum()
    }

    fn open(&self, account: &Principal) -> HashSet<Principal> {
        let (now, idle) = (Instant::now(), self.idle());
        let open = |value: &Value| {
            let lasts = value.last_used.is_some_and(|last| last + idle > now);
            value.in_use > 0 || lasts && !value.refused
        };
        let values = self.values.get(account).into_iter().flatten();
        values
            .filter(|(_, value)| open(value))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// A call was admitted that was polled then the last time. `unclaimed` were admitted before it, and do not know it. `late`: calls
    /// that were admitted after it are known already.
    pub(super) fn admitted(
        &mut self,
        request: &AcquireRequest,
        last_poll: Instant,
        unclaimed: &[&AcquireRequest],
        late: bool,
    ) {
        let now = Instant::now();
        assert!(request.not_before().is_none_or(|time| time <= now));
        let closed = |gate: Contended| {
            let gate = self.gates.get(&gate);
            gate.is_some_and(|(since, until)| *since < last_poll && *until > now)
        };
        if let Some(endpoint) = request.endpoint() {
            assert!(
                !closed(Contended::Endpoint(endpoint.clone())),
                "{request:?}"
            );
        }
        let mut drawn_now = Vec::new();
        for (principal, budget, amount, values) in by_budget(request) {
            assert!(
                !closed(Contended::Gate(principal.clone())),
                "{}",
                text(request)
            );
            let Some(limit) = self.highest_limit(&principal, budget, last_poll) else {
                continue;
            };
            let key = (principal.clone(), budget);
            if let Some((_, period)) = self.refill(&key) {
                let needed = amount + reserve(&self.reserves, budget, request);
                let (drawn, limit) = (self.drawn(&key), u128::from(limit) * period);
                // It may have been admitted before another one told that it cost more.
                let late = late || self.spent.get(&key) >= Some(&last_poll);
                let fits = late || drawn == 0 || drawn + u128::from(needed) * period <= limit;
                assert!(fits, "{drawn} of {limit} drawn, granted {}", text(request));
                drawn_now.push((key, amount));
                continue;
            }
            if values.is_empty() {
                let held = self.held.entry((principal.clone(), budget)).or_default();
                // An urgent call that was admitted after it may have taken of what it had to leave.
                let left = if late {
                    0
                } else {
                    reserve(&self.reserves, budget, request)
                };
                let needed = amount + left;
                let fits = *held == 0 || *held + needed <= limit;
                assert!(fits, "{held} of {limit} held, granted {}", text(request));
                *held += amount;
                continue;
            }
            let open = self.open(&principal);
            let others = open.difference(&values).count();
            let mut in_use = open.clone();
            for other in unclaimed {
                let of_account = other.charges().iter();
                let of_account = of_account.filter(|charge| *charge.principal() == principal);
                in_use.extend(of_account.filter_map(|charge| charge.value().cloned()));
            }
            // Admitted with a value that somebody had then, and gave back since without having used it.
            let known = self.values.get(&principal).into_iter().flatten();
            let had = known.filter(|(_, value)| value.given_back >= Some(last_poll));
            in_use.extend(had.map(|(name, _)| name.clone()));
            let opens = !values.is_subset(&in_use);
            let fits = !opens || others == 0 || others + values.len() <= limit as usize;
            assert!(fits, "{open:?} of {limit} open, granted {}", text(request));
            let known = self.values.entry(principal).or_default();
            for name in values {
                let was_open = open.contains(&name);
                let value = known.entry(name).or_default();
                if !was_open {
                    // What it was before the server closed or refused it says nothing about it now.
                    *value = Value {
                        in_use: value.in_use,
                        given_back: value.given_back,
                        ..Value::default()
                    };
                }
                value.in_use += 1;
            }
        }
        for (key, amount) in drawn_now {
            self.draw(key, amount, last_poll);
        }
        for gate in gates(request) {
            *self.in_flight.entry(gate).or_default() += 1;
        }
    }

    /// Charges were given back; `call`: unless they were split off.
    pub(super) fn released(&mut self, part: &Admission, end: End, call: Option<&AcquireRequest>) {
        for (principal, budget, amount, values) in by_budget(part.request()) {
            if !self.policy.contains_key(&budget) {
                continue;
            }
            let key = (principal.clone(), budget);
            if let Some((_, period)) = self.refill(&key) {
                if end == End::NotSent {
                    let drawn = self.drawn(&key).saturating_sub(u128::from(amount) * period);
                    self.drawn.insert(key, (drawn, Instant::now()));
                }
                continue;
            }
            if values.is_empty() {
                *self.held.get_mut(&(principal, budget)).unwrap() -= amount;
                continue;
            }
            let known = self.values.get_mut(&principal).unwrap();
            for name in values {
                let value = known.get_mut(&name).unwrap();
                value.in_use -= 1;
                value.given_back = Some(Instant::now());
                let was_refused = value.refusers.remove(&part.request().deadline());
                if end != End::NotSent {
                    value.last_used = Some(Instant::now());
                    // Another one was refused, and this one may have opened it after that.
                    value.refused &= was_refused;
                    value.worked |= end == End::Complete && !value.refused;
                }
            }
        }
        for gate in call.into_iter().flat_map(gates) {
            *self.in_flight.get_mut(&gate).unwrap() -= 1;
        }
    }

    /// A call does not wait any more. What was closed for its sake while it waited stays so.
    pub(super) fn left(&mut self, request: &AcquireRequest, since: Instant) {
        if since + self.max_overtake <= Instant::now() {
            let values = request.charges().iter().filter(|c| c.value().is_some());
            self.aged.extend(values.map(|c| c.principal().clone()));
        }
    }

    /// Nothing is to wait without being held back.
    pub(super) fn check(
        &mut self,
        calls: &[Waits],
        since: impl Fn(&AcquireRequest) -> Instant,
        is_lively: impl Fn(&AcquireRequest) -> bool,
        in_buckets: &HashMap<(Principal, Budget), (u32, u32)>,
    ) {
        let now = Instant::now();
        for (_, request, _) in calls {
            self.left(request, since(request));
        }
        let mut first: HashMap<&Contended, Position> = HashMap::new();
        for (ticket, _, stands) in calls {
            if let Stands::In(contended) = stands {
                let known = first.entry(contended).or_insert(*ticket);
                *known = *ticket.min(known);
            }
        }
        // Admitted, and not picked up by somebody who is not polled.
        let unclaimed: Vec<_> = calls
            .iter()
            .filter(|(_, _, stands)| matches!(stands, Stands::Admitted(_)))
            .map(|(_, request, _)| request)
            .collect();
        for (ticket, request, stands) in calls {
            let Stands::In(contended) = stands else {
                continue;
            };
            // Calls that nobody polls may miss what they could have, but not for those behind them.
            let matters = is_lively(request)
                || calls
                    .iter()
                    .any(|(_, other, at)| at == stands && is_lively(other));
            if !matters {
                continue;
            }
            let is_first = first[contended] == *ticket;
            let held_back = match contended {
                Contended::Time => {
                    !is_lively(request) || request.not_before().is_some_and(|time| time > now)
                }
                Contended::Endpoint(_) | Contended::Gate(_) => {
                    self.is_gated(contended, &unclaimed) || !is_first
                }
                Contended::Budget(principal, budget) => {
                    let gate = Contended::Gate(principal.clone());
                    self.is_gated(&gate, &unclaimed)
                        || self.is_full(principal, *budget, request, calls, &unclaimed, in_buckets)
                        || !is_first && !self.overtakes(principal, *budget, request)
                        || self.is_behind_starved(*ticket, request, calls, &since)
                        || self
                            .has_no_place(principal, *budget, *ticket, request, calls, &unclaimed)
                }
            };
            let others = || {
                let others = calls.iter().map(|(ticket, request, stands)| {
                    format!("{ticket:?} {} {stands:?}\n", text(request))
                });
                others.collect::<String>()
            };
            assert!(
                held_back,
                "nothing holds back {ticket:?} {} in {contended:?}; held: {:?}, closed: {:?}, waiting:\n{}",
                text(request),
                self.held,
                self.gates,
                others()
            );
        }
    }

    /// Whether a gate is closed, or tested by a call that is not back.
    fn is_gated(&self, gate: &Contended, unclaimed: &[&AcquireRequest]) -> bool {
        let Some((_, until)) = self.gates.get(gate) else {
            return false;
        };
        let in_flight = self.in_flight.get(gate).is_some_and(|calls| *calls > 0);
        let tested = unclaimed
            .iter()
            .any(|request| gates(request).contains(gate));
        *until > Instant::now() || in_flight || tested
    }

    fn is_full(
        &self,
        principal: &Principal,
        budget: Budget,
        request: &AcquireRequest,
        calls: &[Waits],
        unclaimed: &[&AcquireRequest],
        in_buckets: &HashMap<(Principal, Budget), (u32, u32)>,
    ) -> bool {
        let key = (principal.clone(), budget);
        let limit = self.limit(principal, budget).unwrap();
        if self.learnt.contains(&key) {
            return true;
        }
        let of_key = |request: &AcquireRequest| {
            by_budget(request)
                .into_iter()
                .find(|(p, b, ..)| (p, *b) == (principal, budget))
        };
        let Some((_, _, amount, values)) = of_key(request) else {
            panic!("{request:?} waits for what it does not need");
        };
        if let Some((_, period)) = self.refill(&key) {
            let needed = amount + reserve(&self.reserves, budget, request);
            // The server's own bucket may be the smaller one: a lock-out has told of it.
            let (drawn, known) = in_buckets.get(&key).copied().unwrap_or((0, limit));
            // What is left of a unit is not told. Of the configured bucket it is known here.
            let exact = self.drawn(&key).div_ceil(period);
            let drawn = match known < limit {
                true => drawn.saturating_add(1),
                false => drawn.max(u32::try_from(exact).unwrap_or(u32::MAX)),
            };
            let limit = limit.min(known);
            return drawn.saturating_add(needed.min(limit)) > limit;
        }
        if values.is_empty() {
            let unclaimed = unclaimed.iter().filter_map(|request| of_key(request));
            let unclaimed: u32 = unclaimed.map(|(_, _, amount, _)| amount).sum();
            let held = self.held.get(&key).copied().unwrap_or_default() + unclaimed;
            let needed = amount + reserve(&self.reserves, budget, request);
            return held > 0 && held + needed > limit;
        }
        // Waiting calls may keep what they need here.
        let mut open = self.open(principal);
        for (_, other, stands) in calls {
            let keeps = match stands {
                Stands::In(Contended::Budget(_, waits_for)) => *waits_for != budget,
                Stands::In(_) | Stands::Nowhere => false,
                Stands::Admitted(_) => true,
            };
            if let Some((.., values)) = of_key(other).filter(|_| keeps) {
                open.extend(values);
            }
        }
        let others = open.difference(&values).count();
        self.aged.contains(principal) || others > 0 && others + values.len() > limit as usize
    }

    /// Whether a call that stands at a bucket waits for a place in flight of the same principal, or for those before it there.
    fn has_no_place(
        &self,
        principal: &Principal,
        bucket: Budget,
        ticket: Position,
        request: &AcquireRequest,
        calls: &[Waits],
        unclaimed: &[&AcquireRequest],
    ) -> bool {
        let at_bucket = self.refill(&(principal.clone(), bucket)).is_some();
        at_bucket
            && by_budget(request).into_iter().any(|(p, budget, ..)| {
                let in_flight = matches!(self.policy.get(&budget), Some(Limit::InFlight(_)));
                let list = Stands::In(Contended::Budget(p.clone(), budget));
                let behind = || {
                    calls
                        .iter()
                        .any(|(at, _, in_list)| *at < ticket && *in_list == list)
                };
                let full = || self.is_full(&p, budget, request, calls, unclaimed, &HashMap::new());
                p == *principal && in_flight && (behind() || full())
            })
    }

    /// Whether all that a call needs of this budget is open.
    fn overtakes(&self, principal: &Principal, budget: Budget, request: &AcquireRequest) -> bool {
        let open = self.open(principal);
        by_budget(request).into_iter().any(|(p, b, _, values)| {
            (&p, b) == (principal, budget) && !values.is_empty() && values.is_subset(&open)
        })
    }

    /// Whether an older call of several budgets has waited for too long, so that this one may have to stay behind it.
    fn is_behind_starved(
        &self,
        ticket: Position,
        request: &AcquireRequest,
        calls: &[Waits],
        since: impl Fn(&AcquireRequest) -> Instant,
    ) -> bool {
        let mine: HashSet<_> = by_budget(request)
            .into_iter()
            .map(|(p, b, ..)| (p, b))
            .collect();
        calls.iter().any(|(older, other, stands)| {
            let shared = by_budget(other)
                .into_iter()
                .any(|(p, b, ..)| mine.contains(&(p, b)));
            *older < ticket
                && shared
                && other.charges().len() > 1
                && matches!(stands, Stands::In(Contended::Budget(..)))
                && since(other) + self.max_overtake <= Instant::now()
        })
    }
}

/// What a call leaves of a budget.
fn reserve(reserves: &HashMap<Budget, u32>, budget: Budget, request: &AcquireRequest) -> u32 {
    let kept = reserves.get(&budget).copied().unwrap_or_default();
    match request.priority() {
        Priority::Interactive => 0,
        Priority::Normal | Priority::Bulk => kept,
    }
}

/// A call in one line.
pub(super) fn text(request: &AcquireRequest) -> String {
    let charges = request.charges().iter().map(|charge| {
        let what = charge
            .value()
            .map_or(charge.amount().to_string(), |v| v.name().to_owned());
        format!("{} {:?} {what}", charge.principal().name(), charge.budget())
    });
    let charges: Vec<_> = charges.collect();
    let host = request.endpoint().map_or("", |_| " to the endpoint");
    let priority = match request.priority() {
        Priority::Interactive => "interactive ",
        Priority::Normal => "",
        Priority::Bulk => "bulk ",
    };
    format!("{priority}[{}]{host}", charges.join(", "))
}

/// What a call draws on each budget: an amount, or values.
fn by_budget(request: &AcquireRequest) -> Vec<(Principal, Budget, u32, HashSet<Principal>)> {
    let mut all: Vec<(Principal, Budget, u32, HashSet<Principal>)> = Vec::new();
    for charge in request.charges().iter() {
        let key = (charge.principal(), charge.budget());
        let known = all.iter().position(|(p, b, ..)| (p, *b) == key);
        let at = known.unwrap_or_else(|| {
            all.push((key.0.clone(), key.1, 0, HashSet::new()));
            all.len() - 1
        });
        match charge.value() {
            Some(value) => drop(all[at].3.insert(value.clone())),
            None => all[at].2 += charge.amount(),
        }
    }
    all
}

/// The gates that a call passes.
fn gates(request: &AcquireRequest) -> HashSet<Contended> {
    let principals = request.charges().iter().map(|charge| charge.principal());
    let endpoint = request.endpoint().cloned().map(Contended::Endpoint);
    principals
        .map(|principal| Contended::Gate(principal.clone()))
        .chain(endpoint)
        .collect()
}
