//! [`Notice`]: what the log is told once the lock is given back.

use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::Contended;

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
        match self.closed_for {
            Some(time) => tracing::warn!(
                gate = %self.gate,
                seconds = time.as_secs_f64(),
                "the gate has closed: the server asks for a pause"
            ),
            None => tracing::info!(gate = %self.gate, "the gate has opened: one call goes first"),
        }
    }
}
