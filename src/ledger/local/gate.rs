//! [`Gate`]: closed until a time that the server named, then opened by one call first.

use std::time::Duration;

use tokio::time::Instant;

use super::clock::after;

/// Calls at a time at which the way back is over.
const RAMPED: usize = 64;
/// This long after a gate opened without a call, the next ones need no probe any more.
const FRESH: Duration = Duration::from_secs(60);

/// The gate of a principal or an endpoint. A new one is open.
///
/// After it opens one call goes first, the probe; each good response lets one more go at the same time. So the way back
/// doubles with each round trip, and a server that is still busy meets one call and not all that wait.
#[derive(Debug, Default)]
pub(super) struct Gate(Step);

#[derive(Debug, Default)]
enum Step {
    #[default]
    Open,
    Closed {
        until: Instant,
    },
    Ramp {
        /// The calls that got a good response, each counted once: that many and one more may go at the same time.
        accepted: Vec<u64>,
        in_flight: u32,
        /// Calls admitted before this one were sent before the gate closed: they do not count.
        since: u64,
        opened: Instant,
    },
}

/// What a gate says about one more call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Open,
    /// Closed until then.
    Closed(Instant),
    /// Open, but the calls that test it are not back.
    Probing,
}

impl Gate {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.0, Step::Open)
    }

    /// Closes the gate, or keeps it closed for longer; never opens it sooner.
    pub(super) fn close(&mut self, until: Instant) {
        match &mut self.0 {
            Step::Closed { until: known } => *known = until.max(*known),
            _ => self.0 = Step::Closed { until },
        }
    }

    /// Opens it if its time has come: the call with the number `next` or a later one tests it. Returns whether it did.
    pub(super) fn open_if_due(&mut self, now: Instant, next: u64) -> bool {
        match self.0 {
            Step::Closed { until } if until <= now => {
                self.0 = Step::Ramp {
                    accepted: Vec::new(),
                    in_flight: 0,
                    since: next,
                    opened: until,
                };
                true
            }
            _ => false,
        }
    }

    /// Says whether one more call may go.
    pub(super) fn pass(&mut self, now: Instant) -> Pass {
        match &self.0 {
            Step::Ramp {
                in_flight: 0,
                opened,
                ..
            } if now.duration_since(*opened) > FRESH => {
                self.0 = Step::Open;
                Pass::Open
            }
            Step::Ramp {
                accepted,
                in_flight,
                ..
            } if *in_flight as usize > accepted.len() => Pass::Probing,
            Step::Closed { until } => Pass::Closed(*until),
            _ => Pass::Open,
        }
    }

    /// One more call goes. Returns whether it tests the gate.
    pub(super) fn admitted(&mut self) -> bool {
        match &mut self.0 {
            Step::Ramp { in_flight, .. } => {
                *in_flight += 1;
                true
            }
            _ => false,
        }
    }

    /// A call has ended, with a good response or not.
    pub(super) fn released(&mut self, sequence: u64, complete: bool) {
        match &mut self.0 {
            Step::Ramp {
                in_flight, since, ..
            } if sequence >= *since => *in_flight = in_flight.saturating_sub(1),
            _ => return,
        }
        if complete {
            self.accepted(sequence);
        }
    }

    /// A call got a good response: one more may go at the same time.
    pub(super) fn accepted(&mut self, sequence: u64) {
        if let Step::Ramp {
            accepted, since, ..
        } = &mut self.0
        {
            if sequence >= *since && !accepted.contains(&sequence) {
                accepted.push(sequence);
                if accepted.len() + 1 >= RAMPED {
                    self.0 = Step::Open;
                }
            }
        }
    }

    /// Whether calls that test it are under way: they may take longer than it is kept without them.
    pub(super) fn is_probed(&self) -> bool {
        matches!(self.0, Step::Ramp { in_flight: 1.., .. })
    }

    /// When it opens, if it is closed.
    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        match self.0 {
            Step::Closed { until } if until > now => Some(until),
            _ => None,
        }
    }

    /// Until when it has to be kept. None if it is open.
    pub(super) fn keep_until(&self) -> Option<Instant> {
        match self.0 {
            Step::Open => None,
            Step::Closed { until } => Some(after(until, FRESH)),
            Step::Ramp { opened, .. } => Some(after(opened, FRESH)),
        }
    }
}
