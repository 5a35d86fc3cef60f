//! [`Member`]: the lease of one principal, as this process knows it. No I/O.
//!
//! What keeps the sum of all leases within the limit: a process never uses more than it last said that it keeps, or was told in a
//! reply to its latest request. So it lowers its share before it says so, under the lock of its ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::lent::{Lent, Moment, at_most, millis, say_values, says_nothing};
use super::wire::{Ask, HeadSay, Push, Reply, Say};
use crate::ledger::Limit;
use crate::ledger::local::{BudgetDemand, Demand, Head, Lease, Told, Usage};
use crate::principal::{Budget, Principal};

/// What all members of a process have in common.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) process: String,
    pub(super) prefix: String,
    /// How long a lease is good for.
    pub(super) ttl: Duration,
    pub(super) overtake: Duration,
}

impl Terms {
    /// How often a lease is renewed.
    pub(super) fn renewal(&self) -> Duration {
        self.ttl / 3
    }

    /// The hash of a principal. Its braces are the hash tag of a cluster.
    pub(super) fn key(&self, principal: &Principal) -> String {
        let mut name = String::new();
        for c in principal.key().chars() {
            match c {
                '{' => name.push_str("%7B"),
                '}' => name.push_str("%7D"),
                '%' => name.push_str("%25"),
                c => name.push(c),
            }
        }
        format!("{}:{{{name}}}", self.prefix)
    }

    pub(super) fn channel(&self, of: &str) -> String {
        format!("{}:p:{of}", self.prefix)
    }
}

/// The lease of one principal.
#[derive(Debug, Default)]
pub(super) struct Member {
    budgets: BTreeMap<Budget, Lent>,
    /// Until when what is lent may be used. None: nothing is.
    until: Option<Instant>,
    /// When to renew.
    renew: Option<Instant>,
    /// When to ask again for calls that wait.
    again: Option<Instant>,
    /// The calls that Redis knows to wait, and the values that it was asked for.
    heads: Vec<HeadSay>,
    values: BTreeMap<Budget, Vec<String>>,
    gate: Option<Instant>,
    /// Something says that asking is worth it, whatever is known here.
    pub(super) woken: bool,
    /// The last request that got a reply.
    replied: u64,
    /// The request under way, and when it was sent.
    sent: Option<(Instant, Ask)>,
    /// When to ask again after a failure.
    retry: Option<Instant>,
    /// The last request came to nothing.
    failed: bool,
    /// The request under way says nothing, to find out whether Redis is back: the process goes on with its own share meanwhile.
    probing: bool,
    /// How many processes have a lease, as far as known.
    procs: u32,
}

fn head_say(head: &Head) -> HeadSay {
    HeadSay {
        list: head.list.to_string(),
        v: head
            .amounts
            .iter()
            .map(|(budget, amount)| (budget.to_string(), *amount))
            .collect(),
        c: head.priority as u8,
        t: millis(head.waited),
    }
}

impl Member {
    pub(super) fn is_asking(&self) -> bool {
        self.sent.is_some()
    }

    /// Whether each release is news: others are short.
    pub(super) fn is_wanted(&self) -> bool {
        self.budgets.values().any(|lent| lent.target.is_some())
    }

    pub(super) fn told(&mut self, budget: Budget, told: Told) {
        let lent = self.budgets.entry(budget).or_default();
        match told {
            Told::Exceeded(amount) => lent.refused = lent.refused.saturating_add(amount),
            Told::Spent(amount) => lent.spent = lent.spent.saturating_add(amount),
        }
    }

    /// The budgets of which something is lent, or to be told.
    pub(super) fn named(&self) -> Vec<Budget> {
        let named = self.budgets.iter();
        let named =
            named.filter(|(_, lent)| lent.spent + lent.refused + lent.share + lent.local > 0);
        named.map(|(budget, _)| *budget).collect()
    }

    pub(super) fn close_gate(&mut self, until: Instant) {
        self.gate = self.gate.max(Some(until));
    }

    /// When to look at it next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let again = self.again.filter(|_| !self.is_asking());
        let renew = self.renew.filter(|_| !self.is_asking());
        let retry = self.retry.filter(|_| !self.is_asking());
        let asks = again.into_iter().chain(renew).min();
        // Not before the next try, but a lease ends when it ends.
        let asks = match (asks, retry) {
            (Some(at), Some(retry)) => Some(at.max(retry)),
            (at, retry) => at.or(retry),
        };
        asks.into_iter().chain(self.until).min()
    }

    /// Whether nothing is lent, known or waited for.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_none()
            && !self.is_asking()
            && !self.woken
            && self.gate.is_none()
            && self.retry.is_none()
            && self
                .budgets
                .values()
                .all(|lent| lent.spent + lent.refused + lent.share + lent.local == 0)
    }

    /// Decides whether to ask, and what to lower before that.
    pub(super) fn plan(
        &mut self,
        demand: &Demand,
        principal: &Principal,
        number: u64,
        terms: &Terms,
        now: Instant,
    ) -> (Option<Ask>, Vec<(Budget, Lease)>) {
        self.note(demand);
        if self.is_asking() {
            return (None, self.hold(demand));
        }
        if self.retry.is_some_and(|retry| retry > now) {
            return (None, self.hold(demand));
        }
        let heads: Vec<HeadSay> = demand.heads.iter().map(head_say).collect();
        if !self.has_reason(demand, &heads, now) {
            self.forget_passed(now);
            return (None, self.hold(demand));
        }
        let renews = self.renew.is_none_or(|renew| renew <= now);
        let mut leases = Vec::new();
        let alone = self.failed && self.until.is_none();
        self.probing = alone && self.budgets.values().any(|lent| lent.local > 0);
        let (budgets, heads) = match self.probing {
            true => (&[][..], Vec::new()),
            false => (&demand.budgets[..], heads),
        };
        let says = self.says(budgets, &demand.heads, renews, terms.ttl, &mut leases);
        let refusals = self.take_refusals(renews);
        let gate = self.gate.take();
        let gate = gate.map_or(0, |gate| millis(gate.saturating_duration_since(now)));
        self.woken = false;
        (self.again, self.retry) = (None, None);
        let ask = Ask {
            p: terms.process.clone(),
            n: number,
            ttl: millis(terms.ttl),
            ch: terms.channel(""),
            name: principal.key(),
            gate,
            overtake: millis(terms.overtake),
            b: says,
            h: heads,
            ex: refusals,
            gn: self.replied,
        };
        self.sent = Some((now, ask.clone()));
        (Some(ask), leases)
    }

    /// Returns what the request says of each budget, and adds what is lowered before.
    fn says(
        &mut self,
        budgets: &[BudgetDemand],
        heads: &[Head],
        renews: bool,
        ttl: Duration,
        leases: &mut Vec<(Budget, Lease)>,
    ) -> BTreeMap<String, Say> {
        self.values.clear();
        let (lapsed, failed) = (self.until.is_none(), self.failed);
        let mut says = BTreeMap::new();
        for of in budgets {
            let head = heads.iter().any(|head| {
                let mut amounts = head.amounts.iter();
                amounts.any(|(budget, amount)| *budget == of.budget && *amount > 0)
            });
            let moment = Moment {
                head,
                renews,
                lapsed,
                failed,
                ttl,
            };
            if let Some(say) = self.say(of, moment, leases) {
                says.insert(of.budget.to_string(), say);
            }
        }
        says
    }

    /// Takes the refusals that are to be told, and begins to count anew if the request renews the lease.
    fn take_refusals(&mut self, renews: bool) -> BTreeMap<String, u32> {
        let mut refusals = BTreeMap::new();
        for (budget, lent) in &mut self.budgets {
            if lent.refused > 0 {
                refusals.insert(budget.to_string(), std::mem::take(&mut lent.refused));
            }
            if renews && !self.failed {
                (lent.peak, lent.drawn) = (0, 0);
            }
        }
        refusals
    }

    /// What was to be looked at by now came to nothing.
    fn forget_passed(&mut self, now: Instant) {
        self.again.take_if(|again| *again <= now);
        self.retry.take_if(|retry| *retry <= now);
        if self.until.is_none() {
            self.renew = None;
        }
    }

    /// As `plan`, for the last time.
    pub(super) fn leave(
        &mut self,
        demand: &Demand,
        principal: &Principal,
        number: u64,
        terms: &Terms,
        now: Instant,
    ) -> Option<Ask> {
        (self.woken, self.sent, self.retry) = (true, None, None);
        self.plan(demand, principal, number, terms, now).0
    }

    fn note(&mut self, demand: &Demand) {
        for of in &demand.budgets {
            let lent = self.budgets.entry(of.budget).or_default();
            match &of.usage {
                Usage::InFlight { peak, .. } => lent.peak = lent.peak.max(*peak),
                Usage::Stock { drawn, .. } => lent.drawn = lent.drawn.saturating_add(*drawn),
                Usage::Values { .. } => {}
            }
        }
    }

    fn has_reason(&self, demand: &Demand, heads: &[HeadSay], now: Instant) -> bool {
        let leased = self.until.is_some();
        let waits = !heads.is_empty()
            || demand
                .budgets
                .iter()
                .any(|of| matches!(&of.usage, Usage::Values { wanted, .. } if !wanted.is_empty()));
        let told = self
            .budgets
            .values()
            .any(|lent| lent.spent + lent.refused > 0);
        self.woken
            || told
            || self.gate.is_some()
            || leased && self.renew.is_none_or(|renew| renew <= now)
            || waits && self.again.is_some_and(|again| again <= now)
            || heads.iter().any(|head| !self.knows(head))
            || demand.budgets.iter().any(|of| self.has_more(of))
    }

    /// Whether Redis knows that calls like this one wait.
    fn knows(&self, head: &HeadSay) -> bool {
        self.heads.iter().any(|known| known.is_like(head))
    }

    /// Whether others are short of what is not used here, or values are waited for that were not asked for.
    fn has_more(&self, of: &BudgetDemand) -> bool {
        let lent = self.budgets.get(&of.budget);
        match &of.usage {
            Usage::InFlight { held, kept, .. } => lent.is_some_and(|lent| {
                lent.target.is_some() && lent.share > held.saturating_add(*kept)
            }),
            Usage::Stock { left, .. } => {
                lent.is_some_and(|lent| lent.target.is_some() && *left > 0)
            }
            Usage::Values {
                wanted, refused, ..
            } => {
                let asked = self.values.get(&of.budget);
                let asked =
                    |value: &Principal| asked.is_some_and(|asked| asked.contains(&value.key()));
                !refused.is_empty() || wanted.iter().any(|value| !asked(value))
            }
        }
    }

    /// Lowers to the target what others are short of, until there is something to give back.
    fn hold(&mut self, demand: &Demand) -> Vec<(Budget, Lease)> {
        let mut leases = Vec::new();
        let alone = self.until.is_none() && !self.is_asking();
        for of in &demand.budgets {
            let Usage::InFlight {
                share, held, kept, ..
            } = of.usage
            else {
                continue;
            };
            let lent = self.budgets.entry(of.budget).or_default();
            if alone && lent.local > lent.share {
                // Its request failed while that was in use.
                lent.share = lent.local;
                leases.push((of.budget, Lease::Share(lent.local)));
            }
            let target = lent.target.map(|target| at_most(target, held, kept));
            if let Some(target) = target.filter(|target| *target < share) {
                leases.push((of.budget, Lease::Share(target)));
            }
        }
        leases
    }

    /// Returns what the request says of one budget, and adds what is lowered before.
    fn say(
        &mut self,
        of: &BudgetDemand,
        moment: Moment,
        leases: &mut Vec<(Budget, Lease)>,
    ) -> Option<Say> {
        let lent = self.budgets.entry(of.budget).or_default();
        let mut lease = |lease| leases.push((of.budget, lease));
        let say = match (&of.usage, of.limit) {
            (Usage::InFlight { held, kept, .. }, _) => {
                lent.say_in_flight(of, *held, *kept, moment, &mut lease)
            }
            (
                Usage::Stock { left, .. },
                Limit::PerWindow { refill, period, .. }
                | Limit::Sliding {
                    limit: refill,
                    period,
                },
            ) => lent.say_stock(of, *left, (refill, period), moment, &mut lease),
            (
                Usage::Values {
                    lent: used,
                    wanted,
                    refused,
                    priority,
                },
                Limit::Distinct { idle, .. },
            ) => {
                let values = (&used[..], (&wanted[..], *priority), &refused[..]);
                let say = say_values(of, values, idle, moment, &mut lease);
                self.values.insert(of.budget, say.values.clone());
                say
            }
            _ => return None,
        };
        (!says_nothing(&say)).then_some(say)
    }

    /// Takes in a reply. Returns what is lent from now on; None if it says nothing of that.
    pub(super) fn replied(
        &mut self,
        number: u64,
        reply: &Reply,
        demand: &Demand,
        terms: &Terms,
    ) -> Option<Vec<(Budget, Lease)>> {
        let (at, ask) = self.sent.take_if(|(_, ask)| ask.n == number)?;
        let (says, heads) = (ask.b, ask.h);
        self.replied = number;
        self.budgets.values_mut().for_each(|lent| lent.pushed = 0);
        if std::mem::take(&mut self.probing) {
            (self.failed, self.woken) = (false, true);
            return None;
        }
        let mut leases = Vec::new();
        for of in &demand.budgets {
            let name = of.budget.to_string();
            let lent = self.budgets.entry(of.budget).or_default();
            let share = Reply::of(&reply.share, &name).unwrap_or(0);
            lent.local = 0;
            lent.target = Reply::of(&reply.target, &name);
            let more = share.saturating_sub(says.get(&name).map_or(0, |say| say.keep));
            match of.usage {
                Usage::InFlight { held, kept, .. } => {
                    lent.share = share;
                    leases.push((of.budget, Lease::Share(lent.usable(held, kept, more))));
                }
                Usage::Stock { .. } => leases.push((of.budget, Lease::Add(more))),
                Usage::Values { .. } => {}
            }
        }
        for (name, value) in &reply.lent {
            if let (Ok(budget), Ok(value)) = (name.parse(), Principal::from_key(value)) {
                leases.push((budget, Lease::Open(value)));
            }
        }
        for (name, value) in &reply.closed {
            if let (Ok(budget), Ok(value)) = (name.parse(), Principal::from_key(value)) {
                leases.push((budget, Lease::Close(value)));
            }
        }
        self.heads = match reply.waits {
            0 => Vec::new(),
            _ => heads,
        };
        self.failed = false;
        self.procs = reply.procs.max(1);
        let has_lease = says.values().any(|say| say.k == "d")
            || reply.share.iter().any(|(_, share)| *share > 0)
            || reply.waits > 0;
        (self.until, self.renew) = match has_lease {
            true => (Some(at + terms.ttl), Some(at + terms.renewal())),
            false => (None, None),
        };
        let again = reply.again.map(|ms| at + Duration::from_millis(ms));
        self.again = again;
        Some(leases)
    }

    /// Takes in what a message brings for calls that wait. It counts only if Redis has replied to all that was asked, and as long as
    /// the lease does: otherwise the reply to the next request says it again.
    pub(super) fn pushed(
        &mut self,
        push: &Push,
        demand: &Demand,
        now: Instant,
    ) -> Vec<(Budget, Lease)> {
        self.woken = true;
        let current = push.n == self.replied && !self.is_asking() && !self.failed;
        if !current || self.until.is_none_or(|until| until <= now) {
            return Vec::new();
        }
        let mut leases = Vec::new();
        for of in &demand.budgets {
            let of_budget = push
                .g
                .iter()
                .filter(|(name, _)| *name == of.budget.to_string());
            let amount = of_budget
                .map(|(_, amount)| *amount)
                .fold(0, u32::saturating_add);
            let lent = self.budgets.entry(of.budget).or_default();
            match of.usage {
                _ if amount == 0 => {}
                Usage::InFlight { held, kept, .. } => {
                    lent.share = lent.share.saturating_add(amount);
                    lent.pushed = lent.pushed.saturating_add(amount);
                    leases.push((of.budget, Lease::Share(lent.usable(held, kept, amount))));
                }
                Usage::Stock { .. } => {
                    lent.pushed = lent.pushed.saturating_add(amount);
                    leases.push((of.budget, Lease::Add(amount)));
                }
                Usage::Values { .. } => {}
            }
        }
        // Those behind them begin to wait.
        self.heads.clear();
        leases
    }

    /// The request under way came to nothing, as far as known.
    pub(super) fn failed(&mut self, number: u64, retry: Instant) {
        let Some((at, ask)) = self.sent.take_if(|(_, ask)| ask.n == number) else {
            return;
        };
        // What was said may have been lost. Said twice it costs a little; never said, more.
        for (name, say) in ask.b {
            if let Ok(budget) = name.parse() {
                self.told(budget, Told::Spent(say.spent));
            }
        }
        for (name, amount) in ask.ex {
            if let Ok(budget) = name.parse() {
                self.told(budget, Told::Exceeded(amount));
            }
        }
        if ask.gate > 0 {
            self.close_gate(at + Duration::from_millis(ask.gate));
        }
        // Whether Redis knows what waits is not known.
        self.heads.clear();
        self.retry = Some(retry);
        self.failed = true;
        // Whatever comes up: somebody has to find out that Redis is back.
        self.woken = true;
    }

    /// Whether the lease has run out.
    pub(super) fn has_lapsed(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// The lease has run out: what is left, by `rest` of each limit and the number of processes.
    pub(super) fn lapse(
        &mut self,
        demand: &Demand,
        rest: impl Fn(u32, Limit, u32) -> u32,
    ) -> Vec<(Budget, Lease)> {
        (self.until, self.renew) = (None, None);
        self.heads.clear();
        self.values.clear();
        let mut leases = Vec::new();
        for of in &demand.budgets {
            let lent = self.budgets.entry(of.budget).or_default();
            (lent.target, lent.pushed) = (None, 0);
            match &of.usage {
                Usage::InFlight { .. } => {
                    lent.share = rest(lent.share, of.limit, self.procs.max(1));
                    lent.local = lent.share;
                    leases.push((of.budget, Lease::Share(lent.share)));
                }
                Usage::Stock { left, .. } => leases.push((of.budget, Lease::TakeBack(*left))),
                Usage::Values { lent, .. } => {
                    let closed = lent.iter().map(|(value, _)| Lease::Close(value.clone()));
                    leases.extend(closed.map(|lease| (of.budget, lease)));
                }
            }
        }
        leases
    }
}
