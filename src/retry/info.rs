//! [`RetryInfo`]: what a response says about the attempts before it.

use std::time::Duration;

/// A response extension: the attempts that were made for this response. Absent if the first attempt succeeded.
///
/// ```
/// use tower_ews::server_busy_backoff::RetryInfo;
///
/// fn is_certain<B>(response: &http::Response<B>) -> bool {
///     !response
///         .extensions()
///         .get()
///         .is_some_and(|info: &RetryInfo| info.outcome_unknown)
/// }
///
/// assert!(is_certain(&http::Response::new(())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryInfo {
    /// The number of times that the request was sent.
    pub attempts: u32,
    /// How long the call slept between attempts or waited at the layer's own gates. Waits in the ledger's queue are
    /// not included.
    pub backed_off: Duration,
    /// How long the server asked to wait with its last refusal, if it did. Counts from when that came.
    pub retry_after: Option<Duration>,
    /// The last refusal or failure, if there was one.
    pub signal: Option<Box<str>>,
    /// Whether this is the server's last response because the deadline left no time for another attempt, or because
    /// the ledger refused one.
    pub gave_up: bool,
    /// Whether this response is a refusal that does not say if the request was executed, by this attempt or an earlier
    /// one. Never set for safe requests.
    pub outcome_unknown: bool,
    /// Whether an earlier attempt may have been executed, so that "not found" or "exists" can mean success. Never set
    /// for safe requests.
    pub maybe_repeated: bool,
}
