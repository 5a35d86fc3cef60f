//! [`Member`]: one mailbox, its subscription, and since when its events were told.

use std::sync::Arc;

use tokio::time::Instant;

use super::step::GroupId;

/// One mailbox.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) mailbox: Arc<str>,
    pub(super) group: Option<GroupId>,
    pub(super) state: State,
    /// Refusals in a row.
    pub(super) failures: u32,
    /// How often in a row its subscription was lost soon after its connection had begun.
    pub(super) losses: u32,
    /// The last refusal was for want of room.
    pub(super) starved: bool,
    /// What has happened before was told, or lies in a gap that was.
    covered: Instant,
    /// Something since then may have got lost, which was not told.
    owes_gap: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has no subscription.
    Without,
    Subscribing,
    Live {
        id: Arc<str>,
        /// A connection has it.
        connected: bool,
    },
    /// It is given up.
    Lost,
}

impl Member {
    pub(super) fn new(mailbox: Arc<str>, now: Instant) -> Self {
        Self {
            mailbox,
            group: None,
            state: State::Without,
            failures: 0,
            losses: 0,
            starved: false,
            covered: now,
            owes_gap: true,
        }
    }

    pub(super) fn id(&self) -> Option<&Arc<str>> {
        match &self.state {
            State::Live { id, .. } => Some(id),
            _ => None,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(
            self.state,
            State::Live {
                connected: true,
                ..
            }
        )
    }

    pub(super) fn set_connected(&mut self, to: bool) {
        if let State::Live { connected, .. } = &mut self.state {
            *connected = to;
        }
    }

    /// Its connection has ended, and what came by it was told up to `covered`.
    pub(super) fn disconnect(&mut self, covered: Option<Instant>, lossy: bool, brief: bool) {
        if self.is_connected() {
            self.losses *= u32::from(brief);
            self.covered = self.covered.max(covered.unwrap_or(self.covered));
            self.owes_gap |= lossy;
            self.set_connected(false);
        }
    }

    /// It has no subscription any more, and events without one are lost.
    pub(super) fn lose(&mut self) -> Option<Arc<str>> {
        self.owes_gap = true;
        match std::mem::replace(&mut self.state, State::Without) {
            State::Live { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Returns since when events may have got lost, if they may: it is told now.
    pub(super) fn gap(&mut self, now: Instant) -> Option<Instant> {
        let since = std::mem::take(&mut self.owes_gap).then_some(self.covered)?;
        self.covered = now;
        Some(since)
    }
}
