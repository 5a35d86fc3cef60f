//! [`End`]: how a connection has ended, and what follows from it.

use std::time::Duration;

use super::notification::{Advice, SubscriptionError};

/// How a connection has ended.
#[derive(Debug)]
pub(super) enum End {
    /// The server has closed it, as it was to.
    Closed,
    /// The server has ended it with an error, about these subscriptions.
    Refused(SubscriptionError, Vec<Box<str>>),
    /// It broke, or nothing came for too long.
    Broken,
}

impl End {
    /// What follows; None if the next connection is made at once. `brief`: it was shorter than any that goes well.
    pub(super) fn advice(&self, brief: bool) -> Option<Advice> {
        match self {
            Self::Closed => brief.then_some(Advice::Retry),
            Self::Refused(error, _) => Some(error.advice()),
            Self::Broken => Some(Advice::Retry),
        }
    }

    /// Whether events may have been under way that are told to nobody.
    pub(super) fn is_lossy(&self) -> bool {
        match self {
            Self::Closed => false,
            // Those of the subscriptions that are gone are lost with them.
            Self::Refused(..) => !self.is_about_subscriptions(),
            Self::Broken => true,
        }
    }

    /// Whether it says that subscriptions are of no use any more: those that it names, if it names any.
    pub(super) fn is_about_subscriptions(&self) -> bool {
        match self {
            Self::Refused(error, ids) => match error.advice() {
                Advice::Resubscribe => true,
                // Without ids it can be the connection's own.
                Advice::Relocate | Advice::GiveUp => !ids.is_empty(),
                Advice::Retry | Advice::Starved(_) => false,
            },
            Self::Closed | Self::Broken => false,
        }
    }

    /// Whether another connection has taken its place.
    pub(super) fn is_replaced(&self) -> bool {
        matches!(self, Self::Refused(error, _) if error.is_replaced())
    }

    /// Of a connection of which nothing was read: whether the server may have sent events by it.
    pub(super) fn may_have_begun(&self) -> bool {
        match self {
            Self::Closed => false,
            Self::Refused(error, _) => error.may_be_executed(),
            Self::Broken => true,
        }
    }

    /// The subscriptions that an error names.
    pub(super) fn ids(&self) -> &[Box<str>] {
        match self {
            Self::Refused(_, ids) => ids,
            Self::Closed | Self::Broken => &[],
        }
    }

    pub(super) fn retry_after(&self) -> Duration {
        match self {
            Self::Refused(error, _) => error.retry_after(),
            Self::Closed | Self::Broken => Duration::ZERO,
        }
    }
}
