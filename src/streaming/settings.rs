//! [`Settings`]: what does not change while mailboxes are listened to.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, Uri};

use crate::extensions::Caller;
use crate::soap::notification_request::Watched;
use crate::soap::notifications::EventKind;

/// Calls of one kind that are made at once, by each account: "no more than ten open requests" is the advice of "EWS throttling in Exchange".
pub(super) const MAX_CALLS: usize = 10;

/// Subscriptions per GetStreamingEvents, and mailboxes per affinity group ("How to: Maintain affinity between a group of
/// subscriptions and the Mailbox server", steps 2 and 7).
pub(super) const MAX_GROUP: usize = 200;

/// What [`Subscriptions`](super::Subscriptions) were told.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) endpoint: Uri,
    pub(super) callers: Vec<Caller>,
    pub(super) hanging_connections: usize,
    pub(super) group_size: usize,
    pub(super) connection_minutes: u64,
    pub(super) heartbeat: Duration,
    /// How often each mailbox is asked for its events, instead of connections.
    pub(super) poll: Option<Duration>,
    pub(super) watched: Watched,
    pub(super) version: String,
    pub(super) headers: HeaderMap,
    pub(super) seed: Option<u64>,
}

impl Settings {
    pub(super) fn new(endpoint: Uri) -> Self {
        Self {
            endpoint,
            callers: Vec::new(),
            hanging_connections: 10,
            group_size: MAX_GROUP,
            connection_minutes: 10,
            heartbeat: Duration::from_secs(45),
            poll: None,
            watched: Watched {
                folders: Vec::new(),
                events: EventKind::ALL.to_vec(),
            },
            version: "Exchange2013".to_owned(),
            headers: HeaderMap::new(),
            seed: None,
        }
    }

    /// Calls of one kind that are made at once.
    pub(super) fn max_calls(&self) -> usize {
        MAX_CALLS * self.callers.len().max(1)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriptions")
            .field("endpoint", &self.endpoint)
            .field("callers", &self.callers)
            .field("hanging_connections", &self.hanging_connections)
            .field("group_size", &self.group_size)
            .field("connection_minutes", &self.connection_minutes)
            .field("heartbeat", &self.heartbeat)
            .field("watched", &self.watched)
            .finish_non_exhaustive()
    }
}
