//! What a ledger learns: lower limits, and the careful way back after a gate.

use std::time::Duration;

use tokio::time::Instant;

use crate::principal::Budget;

/// A learnt limit that nobody has tested for so long is forgotten.
pub(super) const FORGET: Duration = Duration::from_secs(15 * 60);
/// Between two raises at least so many quiet answers, so that refused raises stay below one call in a hundred.
pub(super) const QUIET_PER_RAISE: u32 = 100;
/// And at most so many, however often a raise was refused.
const QUIET_PER_RAISE_MAX: u32 = 6_400;

/// After a refusal of a call that was alone, the next is tried after this, then twice this, and so on up to 64 times.
const ALONE: Duration = Duration::from_millis(100);

/// A limit below the configured one.
#[derive(Debug)]
pub(super) struct Learnt {
    pub(super) budget: Budget,
    pub(super) limit: u32,
    /// Calls granted up to here were sent before the limit was lowered: they belong to the same round trip.
    round: u64,
    quiet: u32,
    quiet_needed: u32,
    /// How often a call was refused that had nothing of ours beside it, since the last good answer.
    alone: u32,
    touched: Instant,
}

impl Learnt {
    pub(super) fn new(budget: Budget, limit: u32, now: Instant) -> Self {
        Self {
            budget,
            limit,
            round: 0,
            quiet: 0,
            quiet_needed: QUIET_PER_RAISE,
            alone: 0,
            touched: now,
        }
    }

    /// A call was refused that was grant number `grant`, sent when `others` were in flight besides it.
    ///
    /// Returns until when to try no other, if there were none: somebody else uses the budget up, and no end of a call of
    /// ours will tell when that is over.
    pub(super) fn refused(
        &mut self,
        grant: u64,
        others: u32,
        last_grant: u64,
        now: Instant,
    ) -> Option<Instant> {
        self.touched = now;
        self.quiet = 0;
        if grant > self.round {
            // Another round trip: even one less than before is too many.
            if self.round != 0 {
                self.quiet_needed = (self.quiet_needed * 2).min(QUIET_PER_RAISE_MAX);
            }
            self.round = last_grant;
            self.limit = self.limit.saturating_sub(1);
        }
        self.limit = self.limit.min(others).max(1);
        if others > 0 {
            return None;
        }
        self.alone += 1;
        Some(now + ALONE * 2_u32.pow(self.alone.min(7) - 1))
    }

    /// An answer came without complaint: after enough of them the limit is raised, up to `configured`.
    pub(super) fn quiet(&mut self, grant: u64, configured: u32, now: Instant) {
        self.alone = 0;
        if grant <= self.round || self.limit >= configured {
            return;
        }
        self.quiet += 1;
        if self.quiet >= self.quiet_needed.max(self.limit.saturating_mul(4)) {
            self.quiet = 0;
            self.limit += 1;
            self.touched = now;
        }
    }

    pub(super) fn keep_until(&self) -> Instant {
        self.touched + FORGET
    }
}

/// A closed gate, or the way back after it: one call first, then one more for each good answer.
#[derive(Debug)]
pub(super) enum Gate {
    Closed {
        until: Instant,
    },
    Ramp {
        window: u32,
        in_flight: u32,
        /// Calls granted before this one were sent before the gate closed: they do not count.
        since: u64,
        opened: Instant,
    },
}

/// At so many calls at a time the way back is over.
const RAMPED: u32 = 64;
/// So long after a gate opened without a call, the next ones need no probe any more.
const FRESH: Duration = Duration::from_secs(60);

/// What a gate says about one more call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Open,
    /// Closed until then.
    Closed(Instant),
    /// Open, but the calls that test it are not back.
    Probing,
}

/// An optional gate: none is an open one.
#[derive(Debug, Default)]
pub(super) struct Gates(Option<Gate>);

impl Gates {
    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Closes the gate, or keeps it closed for longer; never opens it sooner.
    pub(super) fn close(&mut self, until: Instant) {
        match &mut self.0 {
            Some(Gate::Closed { until: known }) => *known = until.max(*known),
            _ => self.0 = Some(Gate::Closed { until }),
        }
    }

    pub(super) fn pass(&mut self, now: Instant, next_grant: u64) -> Pass {
        if let Some(Gate::Closed { until }) = self.0 {
            if until > now {
                return Pass::Closed(until);
            }
            self.0 = Some(Gate::Ramp {
                window: 1,
                in_flight: 0,
                since: next_grant,
                opened: until,
            });
        }
        match &self.0 {
            Some(Gate::Ramp {
                in_flight: 0,
                opened,
                ..
            }) if now.duration_since(*opened) > FRESH => {
                self.0 = None;
                Pass::Open
            }
            Some(Gate::Ramp {
                window, in_flight, ..
            }) if in_flight >= window => Pass::Probing,
            _ => Pass::Open,
        }
    }

    /// One more call goes. Returns whether it tests the gate.
    pub(super) fn granted(&mut self) -> bool {
        match &mut self.0 {
            Some(Gate::Ramp { in_flight, .. }) => {
                *in_flight += 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn released(&mut self, grant: u64, complete: bool) {
        match &mut self.0 {
            Some(Gate::Ramp {
                in_flight, since, ..
            }) if grant >= *since => *in_flight = in_flight.saturating_sub(1),
            _ => return,
        }
        if complete {
            self.accepted(grant);
        }
    }

    /// A call was answered well: one more may go at the same time.
    pub(super) fn accepted(&mut self, grant: u64) {
        if let Some(Gate::Ramp { window, since, .. }) = &mut self.0 {
            if grant >= *since {
                *window += 1;
                if *window >= RAMPED {
                    self.0 = None;
                }
            }
        }
    }

    /// How long it stays closed.
    pub(super) fn closed_for(&self, now: Instant) -> Option<Duration> {
        match self.0 {
            Some(Gate::Closed { until }) if until > now => Some(until - now),
            _ => None,
        }
    }

    pub(super) fn keep_until(&self) -> Option<Instant> {
        match self.0 {
            None => None,
            Some(Gate::Closed { until }) => Some(until + FRESH),
            Some(Gate::Ramp { opened, .. }) => Some(opened + FRESH),
        }
    }
}
