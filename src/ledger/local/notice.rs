//! [`Notice`]: what the log is told once the lock is given back.

use std::time::Duration;

use tokio::time::Instant;
use tracing::field::display;

use crate::ledger::Contended;
use crate::seconds::Seconds;

/// A gate has closed or opened.
#[derive(Debug)]
pub(super) struct Notice {
    gate: Contended,
    /// How long it is closed. None: it has opened.
    closed_for: Option<Duration>,
}

impl Notice {
    pub(super) fn closed(gate: Contended, until: Instant, now: Instant) -> Self {
        Self {
            gate,
            closed_for: Some(until.saturating_duration_since(now)),
        }
    }

    pub(super) fn opened(gate: Contended) -> Self {
        Self {
            gate,
            closed_for: None,
        }
    }

    pub(super) fn log(&self) {
        let principal = self.gate.principal().map(display);
        let endpoint = match &self.gate {
            Contended::Endpoint(authority) => Some(display(authority)),
            _ => None,
        };
        match self.closed_for {
            Some(time) => tracing::warn!(
                principal,
                endpoint,
                closed_for = %Seconds(time),
                "the gate has closed: calls wait until the pause that the server asks for is over"
            ),
            None => tracing::info!(
                principal,
                endpoint,
                "the gate has opened: one call goes first"
            ),
        }
    }
}
