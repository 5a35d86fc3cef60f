//! What the ledger keeps of an endpoint that was overloaded.

use http::uri::Authority;
use tokio::time::Instant;

use super::adapt::{FORGET, Gates, Pass, QUIET_PER_RAISE};
use super::words::Queue;

/// An endpoint that answered that it is overloaded, until that is forgotten.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) authority: Authority,
    pub(super) gate: Gates,
    /// Calls that wait for the gate, or for others to end.
    pub(super) gated: Queue,
    /// Calls in flight that were granted since this is kept, and the most of them since the gate opened.
    in_flight: u32,
    peak: u32,
    since: u64,
    /// So many at a time, once more were too many.
    limit: Option<u32>,
    /// Calls granted up to here were sent before the limit was lowered.
    round: u64,
    quiet: u32,
    touched: Instant,
}

impl Endpoint {
    pub(super) fn new(authority: Authority, last_grant: u64, now: Instant) -> Self {
        Self {
            authority,
            gate: Gates::default(),
            gated: Queue::new(),
            in_flight: 0,
            peak: 0,
            since: last_grant + 1,
            limit: None,
            round: last_grant,
            quiet: 0,
            touched: now,
        }
    }

    pub(super) fn pass(&mut self, now: Instant, next_grant: u64) -> Pass {
        match self.gate.pass(now, next_grant) {
            Pass::Open if self.limit.is_some_and(|limit| self.in_flight >= limit) => Pass::Probing,
            pass => pass,
        }
    }

    /// One more call goes. Returns whether it tests the gate.
    pub(super) fn granted(&mut self) -> bool {
        self.in_flight += 1;
        self.peak = self.peak.max(self.in_flight);
        self.gate.granted()
    }

    pub(super) fn released(&mut self, grant: u64, complete: bool) {
        if grant >= self.since {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        self.gate.released(grant, complete);
        let Some(limit) = self.limit.filter(|_| complete && grant > self.round) else {
            return;
        };
        self.quiet += 1;
        if self.quiet >= QUIET_PER_RAISE.max(limit.saturating_mul(4)) {
            self.quiet = 0;
            self.limit = Some(limit + 1);
        }
    }

    /// It is overloaded until then. What the calls at a time were is too many, unless it was one that tested the gate.
    pub(super) fn overloaded(&mut self, grant: u64, until: Instant, last_grant: u64, now: Instant) {
        self.gate.close(until);
        self.touched = now;
        if grant <= self.round {
            return;
        }
        self.round = last_grant;
        self.quiet = 0;
        if self.peak > 1 {
            let half = (self.peak / 2).max(1);
            self.limit = Some(self.limit.map_or(half, |limit| limit.min(half)));
        }
        self.peak = 0;
    }

    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        let kept = self.gate.keep_until();
        let learnt = self.limit.map(|_| self.touched + FORGET);
        self.gated.is_empty() && kept.max(learnt).is_none_or(|until| until <= now)
    }
}
