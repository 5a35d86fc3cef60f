//! [`GraphPolicy`]: what the simulated Graph allows.

use std::time::Duration;

/// What one application may do in one mailbox, and how long it takes.
///
/// ```
/// use tower_ews::simulator::GraphPolicy;
///
/// // A server that allows less than its documents say.
/// let policy = GraphPolicy::outlook().with(|policy| policy.at_a_time = 2);
/// assert_eq!(policy.requests.0, 10_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphPolicy {
    /// Requests in flight.
    pub at_a_time: u32,
    /// Requests within any such time.
    pub requests: (u64, Duration),
    /// Bytes of the bodies of PATCH, POST and PUT within any such time.
    pub uploads: (u64, Duration),
    /// Requests of one batch.
    pub batch: usize,
    /// Messages of one page, of a list and of a delta.
    pub page: usize,
    /// How long a request takes.
    pub request_time: Duration,
}

impl GraphPolicy {
    /// The Outlook service limits of Microsoft Graph: 4 requests at a time, 10,000 in 10 minutes, 150 MB of
    /// uploads in 5 minutes, 20 requests in a batch. Pages of 10 messages; a request takes 100 ms.
    pub fn outlook() -> Self {
        Self {
            at_a_time: 4,
            requests: (10_000, Duration::from_secs(600)),
            uploads: (150_000_000, Duration::from_secs(300)),
            batch: 20,
            page: 10,
            request_time: Duration::from_millis(100),
        }
    }

    /// Changes it.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}
