//! [`RetryInfo`]: what it took to get a response.

use std::time::Duration;

/// A response extension: what it took to get this answer. Absent when the first attempt was answered and nothing is to be
/// said about it.
///
/// ```
/// use tower_ews::server_busy_backoff::RetryInfo;
///
/// fn is_certain<B>(answer: &http::Response<B>) -> bool {
///     !answer
///         .extensions()
///         .get()
///         .is_some_and(|tried: &RetryInfo| tried.outcome_unknown)
/// }
///
/// assert!(is_certain(&http::Response::new(())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryInfo {
    /// How often the request was sent.
    pub attempts: u32,
    /// How long the call slept between them, or waited at the layer's own gates. Waits in the ledger's queue are not
    /// counted in.
    pub backed_off: Duration,
    /// How long the server asked to wait with its last refusal, if it did. Counted from when that came.
    pub retry_after: Option<Duration>,
    /// What the last refusal or failure was, if there was one.
    pub signal: Option<Box<str>>,
    /// This is the server's last answer because the deadline left no time for another attempt, or the ledger refused one.
    pub gave_up: bool,
    /// This answer is a refusal that does not tell whether the request was executed, now or by an earlier attempt. Never set
    /// for what only reads.
    pub outcome_unknown: bool,
    /// An earlier attempt may have been executed: "not found" or "exists" can mean success. Never set for what only
    /// reads.
    pub maybe_repeated: bool,
}
