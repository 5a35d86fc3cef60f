//! [`Lent`]: what is lent of one budget, and what a request says of it.

use std::time::Duration;

use super::wire::Say;
use crate::extensions::Priority;
use crate::ledger::local::{BudgetDemand, Lease};
use crate::principal::Principal;

/// What is lent of one budget.
#[derive(Debug, Default)]
pub(super) struct Lent {
    /// What Redis counts for this process, at least.
    pub(super) share: u32,
    /// Others are short: no more than so much is to be kept.
    pub(super) target: Option<u32>,
    /// What the process allows itself once the lease has run out.
    pub(super) local: u32,
    /// The most that was held, and what was drawn, since the last renewal.
    pub(super) peak: u32,
    pub(super) drawn: u32,
    /// What of the share came by messages, after the last reply.
    pub(super) pushed: u32,
    /// What calls cost on top, not told yet.
    pub(super) spent: u32,
    pub(super) refused: u32,
}

/// When a request is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// A call that Redis is told of waits for the budget.
    pub(super) head: bool,
    /// The request renews the lease.
    pub(super) renews: bool,
    /// The lease has run out.
    pub(super) lapsed: bool,
    /// The last request came to nothing.
    pub(super) failed: bool,
    /// How long a lease is good for.
    pub(super) ttl: Duration,
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What may be in flight while others are short: the target, but what is kept for a call that waits for a later principal is kept. It
/// would never get both otherwise.
pub(super) fn at_most(target: u32, held: u32, kept: u32) -> u32 {
    match kept {
        0 => target,
        kept => target.max(held.saturating_add(kept)),
    }
}

impl Lent {
    /// How much may be in flight when `more` has just come: what came is for the calls that wait, and what others are short of goes back.
    pub(super) fn usable(&self, held: u32, kept: u32, more: u32) -> u32 {
        let target = self.target.map(|target| at_most(target, held, kept));
        let usable = target.map(|target| target.max(held.saturating_add(more)));
        usable.map_or(self.share, |usable| usable.min(self.share))
    }

    /// Says how much of what may be in flight is kept, and how much is wanted.
    pub(super) fn say_in_flight(
        &mut self,
        of: &BudgetDemand,
        held: u32,
        kept: u32,
        moment: Moment,
        lease: &mut impl FnMut(Lease),
    ) -> Say {
        let mut say = of_kind("f", of);
        let used = held.saturating_add(kept);
        let at_hand = match self.target {
            // Others may have it by now.
            _ if moment.lapsed => 0,
            // Nobody takes what is given back, as far as known.
            _ if moment.failed => self.share,
            _ if moment.head => 0,
            Some(_) => 0,
            None if moment.renews && self.peak == 0 => 0,
            None if moment.renews => self.peak.saturating_mul(2).saturating_add(1),
            None => self.share,
        };
        let keep = self.share.min(used.max(at_hand)).max(held);
        (say.keep, say.got) = (keep, self.pushed);
        let now = used.saturating_add(waiting(of));
        say.want = now.max(if self.target.is_some() { 0 } else { self.peak });
        say.like = say.want.saturating_mul(2).min(say.l);
        let target = self.target.map(|target| at_most(target, held, kept));
        lease(Lease::Share(target.map_or(keep, |target| target.min(keep))));
        self.share = keep;
        say
    }

    /// Says how much of a budget per time is left, and given back. `rate`: how much comes back in which time.
    pub(super) fn say_stock(
        &mut self,
        of: &BudgetDemand,
        left: u32,
        rate: (u32, Duration),
        moment: Moment,
        lease: &mut impl FnMut(Lease),
    ) -> Say {
        let mut say = of_kind("w", of);
        (say.r, say.t) = (rate.0, millis(rate.1).max(1));
        let idle = moment.renews && self.drawn == 0;
        if moment.head || idle || self.target.is_some() {
            say.back = left;
            lease(Lease::TakeBack(left));
        }
        (say.keep, say.got) = (left - say.back, self.pushed);
        say.want = say.keep.saturating_add(waiting(of));
        say.like = say.want.saturating_add(self.drawn);
        say.spent = std::mem::take(&mut self.spent);
        say
    }
}

/// The values that are in use, each with how long it has not been used; those that are wanted, and how urgently; those that were
/// refused.
type Values<'a> = (
    &'a [(Principal, Option<Duration>)],
    (&'a [Principal], Priority),
    &'a [Principal],
);

/// Says which values are in use, wanted and refused.
pub(super) fn say_values(
    of: &BudgetDemand,
    (used, (wanted, priority), refused): Values<'_>,
    idle: Duration,
    moment: Moment,
    lease: &mut impl FnMut(Lease),
) -> Say {
    let mut say = of_kind("d", of);
    say.i = millis(idle);
    say.used = used
        .iter()
        .map(|(value, unused)| {
            let unused = unused.map(|unused| i64::try_from(millis(unused)));
            (value.key(), unused.map_or(-1, |ms| ms.unwrap_or(i64::MAX)))
        })
        .collect();
    // What is open is known there; it is asked for again when it is needed.
    let unused = used.iter().filter(|_| moment.renews);
    let unused = unused.filter(|(_, unused)| unused.is_some_and(|time| time > moment.ttl));
    unused.for_each(|(value, _)| lease(Lease::Close(value.clone())));
    say.values = wanted.iter().map(Principal::key).collect();
    say.c = priority as u8;
    say.refused = refused.iter().map(Principal::key).collect();
    say
}

fn of_kind(kind: &str, of: &BudgetDemand) -> Say {
    Say {
        k: kind.to_owned(),
        l: of.limit.number(),
        q: of.waiting,
        ..Say::default()
    }
}

fn waiting(of: &BudgetDemand) -> u32 {
    of.waiting.into_iter().fold(0, u32::saturating_add)
}

/// Whether it need not be said.
pub(super) fn says_nothing(say: &Say) -> bool {
    say.keep == 0
        && say.want == 0
        && say.spent + say.back == 0
        && say.used.is_empty()
        && say.values.is_empty()
        && say.refused.is_empty()
}
