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
        /// From where a pull subscription goes on.
        watermark: Box<str>,
        /// When it is asked for its events. None while it is, and where connections tell them.
        poll_at: Option<Instant>,
    },
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

    /// Whether its Subscribe is under way there.
    pub(super) fn subscribes_in(&self, group: GroupId) -> bool {
        self.group == Some(group) && self.state == State::Subscribing
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

    /// It was asked for its events, and all up to `asked` were told.
    pub(super) fn polled(&mut self, asked: Instant, to: Option<Box<str>>) {
        self.covered = self.covered.max(asked);
        if let (State::Live { watermark, .. }, Some(to)) = (&mut self.state, to) {
            *watermark = to;
        }
    }

    /// It is to be asked for its events then.
    pub(super) fn poll_at(&mut self, then: Instant) {
        if let State::Live { poll_at, .. } = &mut self.state {
            *poll_at = Some(then);
        }
    }

    /// Whether it is to be asked for its events now: it is told once.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let State::Live { poll_at, .. } = &mut self.state else {
            return false;
        };
        poll_at.take_if(|at| *at <= now).is_some()
    }

    /// A response with events was lost.
    pub(super) fn miss(&mut self) {
        self.owes_gap = true;
    }

    /// A connection in whose place there is another has lost events, after those up to `covered`.
    pub(super) fn miss_since(&mut self, covered: Option<Instant>) {
        self.covered = self.covered.max(covered.unwrap_or(self.covered));
        self.miss();
    }

    /// Whether it has a subscription that no connection has.
    pub(super) fn is_unheard(&self) -> bool {
        self.id().is_some() && !self.is_connected()
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
