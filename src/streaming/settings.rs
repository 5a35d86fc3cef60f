//! [`Settings`]: what does not change while mailboxes are listened to.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, Uri};

use crate::extensions::Caller;
use crate::soap::notification_request::Watched;

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
