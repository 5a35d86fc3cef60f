//! The errors of [`BatchSplitter`](super::BatchSplitter).

/// An error of [`BatchSplitter`](super::BatchSplitter) itself. Other errors are the inner service's own, boxed: a batch
/// without any response ends with the first of them.
///
/// ```
/// use tower_ews::batch_splitter::BatchError;
///
/// fn nothing_was_sent(error: &tower::BoxError) -> bool {
///     matches!(error.downcast_ref(), Some(BatchError::NotBegun { .. }))
/// }
///
/// assert!(!nothing_was_sent(&"some other error".into()));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// No part was sent: the call's deadline had passed already, or its members depend on each other in a cycle.
    #[error("no part of {operation} was sent: {cause}")]
    NotBegun {
        /// What was to be done.
        operation: Box<str>,
        /// Why no part was sent.
        cause: Box<str>,
    },
    /// The response to a part is longer than [`max_response`](super::BatchSplitterLayer::max_response). The part was
    /// executed.
    #[error(
        "the response to a part of the batch exceeds {max_response} bytes, the limit that max_response sets"
    )]
    ResponseTooLong {
        /// The limit, in bytes.
        max_response: u64,
    },
    /// Some members have no response, and no response that came has a place for their errors. The batch only reads, or
    /// nothing of it was executed, so nothing was changed.
    ///
    /// This is the error of the response body if the beginning of the response was handed out already.
    #[error("the response to {operation} is incomplete: {missing} members are missing: {cause}")]
    Incomplete {
        /// What was to be done.
        operation: Box<str>,
        /// How many members are missing.
        missing: usize,
        /// What happened to the first of them.
        cause: Box<str>,
    },
}
