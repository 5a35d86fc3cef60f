//! Errors that say what became of a call; the layers that make them hand them out.

use tower::BoxError;

/// An error of [`ServerBusyBackoff`](crate::server_busy_backoff::ServerBusyBackoff) itself. Other errors are the inner service's own, boxed.
///
/// ```
/// use tower_ews::server_busy_backoff::BackoffError;
///
/// fn must_look_before_resending(error: &tower::BoxError) -> bool {
///     matches!(
///         error.downcast_ref(),
///         Some(BackoffError::OutcomeUnknown { .. })
///     )
/// }
///
/// assert!(!must_look_before_resending(&"some other error".into()));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackoffError {
    /// The request was sent, no (whole) answer came back, and sending it again could do its work twice.
    ///
    /// Also the error of a response body that breaks off, when the operation is not idempotent.
    #[error(
        "outcome unknown: {operation} was sent, but its answer was lost (attempt {attempts}): \
         the server may have executed it; look before sending it again"
    )]
    OutcomeUnknown {
        /// What was sent.
        operation: Box<str>,
        /// How often, the last one included.
        attempts: u32,
        /// What happened to the connection.
        source: BoxError,
    },
    /// The call's deadline came before the server gave an answer that could be handed over. The call has changed
    /// nothing on the server.
    #[error(
        "no answer to {operation} before its deadline, after {attempts} attempts: \
         allow a longer one, or see the source for what stands in the way"
    )]
    DeadlinePassed {
        /// What was to be done.
        operation: Box<str>,
        /// How often it was tried.
        attempts: u32,
        /// How the last attempt failed.
        source: BoxError,
    },
}

/// The body ended, but what it holds has no end.
#[derive(Debug, thiserror::Error)]
#[error("the answer is cut short")]
pub(crate) struct CutShort;
