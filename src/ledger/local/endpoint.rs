//! [`Endpoint`]: what the ledger keeps of an endpoint that was overloaded.
//!
//! Calls that hang wait at its gate, and do not count for its limit: the endpoint has done its work once they have begun, and they
//! hold their places for half an hour.

use std::time::Duration;

use tokio::time::Instant;

use super::adapt::{AdaptiveLimit, Room};
use super::gate::{Gate, Pass};

/// An endpoint that said that it is overloaded, until that is forgotten.
#[derive(Debug)]
pub(super) struct Endpoint {
    gate: Gate,
    /// Calls in flight that do not hang and were admitted since this is kept, and the most of them since the gate opened.
    in_flight: u32,
    peak: u32,
    since: u64,
    /// From the second time on that it was overloaded by several calls.
    limit: Option<AdaptiveLimit>,
    /// Calls admitted up to here were sent before the last report.
    epoch: u64,
    pub(super) queued: u32,
    pub(super) scheduled: bool,
}

impl Endpoint {
    /// `last`: the last number among the admissions.
    pub(super) fn new(last: u64) -> Self {
        Self {
            gate: Gate::default(),
            in_flight: 0,
            peak: 0,
            since: last + 1,
            limit: None,
            epoch: last,
            queued: 0,
            scheduled: false,
        }
    }

    /// Opens its gate if the time has come. Returns whether it did.
    pub(super) fn open_if_due(&mut self, now: Instant, next: u64) -> bool {
        self.gate.open_if_due(now, next)
    }

    /// Says whether one more call may go, and when to look again if its own limit holds it back.
    pub(super) fn pass(&mut self, hangs: bool, now: Instant) -> (Pass, Option<Instant>) {
        let pass = self.gate.pass(now);
        let (Pass::Open, false, Some(limit)) = (pass, hangs, &mut self.limit) else {
            return (pass, None);
        };
        match limit.room(self.in_flight, 1, u32::MAX, now) {
            Room::Free => (Pass::Open, None),
            Room::Full(until) => (Pass::Probing, until),
        }
    }

    /// One more call goes. Returns whether it tests the gate or the limit.
    pub(super) fn admitted(&mut self, sequence: u64, hangs: bool, now: Instant) -> bool {
        let probe = self.gate.admitted();
        if hangs {
            return probe;
        }
        self.in_flight += 1;
        self.peak = self.peak.max(self.in_flight);
        match &mut self.limit {
            Some(limit) => {
                limit.admitted(sequence, self.in_flight, 1, u32::MAX, now);
                true
            }
            None => probe,
        }
    }

    pub(super) fn accepted(&mut self, sequence: u64, now: Instant) {
        self.gate.accepted(sequence);
        if let Some(limit) = &mut self.limit {
            limit.accepted(sequence, now);
        }
    }

    pub(super) fn released(&mut self, sequence: u64, hangs: bool, complete: bool, now: Instant) {
        self.gate.released(sequence, complete);
        if hangs {
            return;
        }
        if sequence >= self.since {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        if let Some(limit) = &mut self.limit {
            if complete {
                limit.accepted(sequence, now);
            }
            limit.released(sequence);
        }
    }

    pub(super) fn close_gate(&mut self, until: Instant) {
        self.gate.close(until);
    }

    /// It is overloaded until then. What the calls at a time were is too many, unless it was one that tested the gate.
    pub(super) fn overloaded(&mut self, sequence: u64, until: Instant, last: u64, now: Instant) {
        self.gate.close(until);
        if sequence <= self.epoch {
            return;
        }
        self.epoch = last;
        if self.peak > 1 {
            self.limit
                .get_or_insert_with(|| AdaptiveLimit::new(self.peak, false, Duration::ZERO, now))
                .cut(self.peak / 2, now);
        }
        self.peak = 0;
    }

    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.gate.closed_until(now)
    }

    /// Whether calls wait for it, or test its gate.
    pub(super) fn is_in_use(&self) -> bool {
        self.queued > 0 || self.gate.is_probed()
    }

    /// Forgets the limit if that has passed.
    pub(super) fn forget(&mut self, now: Instant) {
        self.limit
            .take_if(|limit| limit.keep_until(u32::MAX, now) <= Some(now));
    }

    /// Until when it has to be kept.
    pub(super) fn keep_until(&self, now: Instant) -> Option<Instant> {
        let learnt = self
            .limit
            .as_ref()
            .and_then(|limit| limit.keep_until(u32::MAX, now));
        self.gate.keep_until().max(learnt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_forgotten_when_it_has_passed() {
        let now = Instant::now();
        let mut endpoint = Endpoint::new(0);
        for sequence in 1..=4 {
            endpoint.admitted(sequence, false, now);
        }
        endpoint.overloaded(1, now, 4, now);
        endpoint.forget(now);
        assert!(endpoint.limit.is_some());
        endpoint.forget(now + Duration::from_secs(86_400));
        assert!(endpoint.limit.is_none());
    }
}
