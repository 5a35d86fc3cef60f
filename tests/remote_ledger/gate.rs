//! A gate of the remote ledger: closed until a time, then tested by one call, and by more with each good response.

use tokio::time::Instant;

/// Calls at a time at which the way back is over.
const OPEN: u32 = 32;

#[derive(Debug, Default)]
pub(crate) enum Gate {
    #[default]
    Open,
    Closed {
        until: Instant,
    },
    /// How many calls go at a time.
    Tested {
        window: u32,
        tests: Vec<u64>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Open,
    Closed(Instant),
    /// The calls that test it are not back.
    Tested,
}

impl Gate {
    /// Never opens it sooner.
    pub(crate) fn close(&mut self, until: Instant) {
        let known = self.closed_until().unwrap_or(until);
        *self = Gate::Closed {
            until: until.max(known),
        };
    }

    pub(crate) fn pass(&mut self, now: Instant) -> Pass {
        match self {
            Gate::Closed { until } if *until > now => Pass::Closed(*until),
            Gate::Closed { .. } => {
                *self = Gate::Tested {
                    window: 1,
                    tests: Vec::new(),
                };
                Pass::Open
            }
            Gate::Tested { window, tests } if tests.len() >= *window as usize => Pass::Tested,
            Gate::Open | Gate::Tested { .. } => Pass::Open,
        }
    }

    /// A call has passed. Says whether it tests the gate.
    pub(crate) fn admitted(&mut self, sequence: u64) -> bool {
        let Gate::Tested { tests, .. } = self else {
            return false;
        };
        if !tests.contains(&sequence) {
            tests.push(sequence);
        }
        true
    }

    /// The call had a good response, or it is over without one.
    pub(crate) fn tested(&mut self, sequence: u64, good: bool) {
        let Gate::Tested { window, tests } = self else {
            return;
        };
        let Some(at) = tests.iter().position(|test| *test == sequence) else {
            return;
        };
        tests.swap_remove(at);
        *window += u32::from(good);
        if *window >= OPEN {
            *self = Gate::Open;
        }
    }

    pub(crate) fn closed_until(&self) -> Option<Instant> {
        match self {
            Gate::Closed { until } => Some(*until),
            _ => None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Gate::Open)
    }
}
