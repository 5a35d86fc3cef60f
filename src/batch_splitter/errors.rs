//! How a batch can end without an answer.

use std::error::Error as StdError;
use std::fmt::Write;

use tower::BoxError;

/// An error of [`BatchSplitter`](super::BatchSplitter) itself. Other errors are the inner service's own, boxed: a batch
/// of which no part was answered ends with the first of them.
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
    /// No part was sent: the call's deadline had passed already, or its members need each other in a circle.
    #[error("nothing of {operation} was sent: {cause}")]
    NotBegun {
        /// What was to be done.
        operation: Box<str>,
        /// Why not.
        cause: Box<str>,
    },
    /// The answer to a part is longer than [`max_response`](super::BatchSplitterLayer::max_response). The part was executed.
    #[error(
        "the answer to a part of the batch is longer than {most} bytes, which is the bound of the layer"
    )]
    AnswerTooLong {
        /// The bound, in bytes.
        most: u64,
    },
    /// Answers of this format have no place for errors of single members, and some were not answered. Nothing was
    /// changed by the batch, which only reads.
    ///
    /// The error of the response body, if the beginning of the answer was handed over already.
    #[error("{operation} is incomplete: {missing} members were not answered: {cause}")]
    Incomplete {
        /// What was to be done.
        operation: Box<str>,
        /// How many members are missing.
        missing: usize,
        /// What happened to the first of them.
        cause: Box<str>,
    },
}

/// An error with its sources, in one line.
pub(super) fn describe(error: &BoxError) -> Box<str> {
    const LONGEST: usize = 1000;
    let mut text = error.to_string();
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        // Many errors repeat their source.
        if !text.contains(&more) {
            // Writing to a string does not fail.
            let _ = write!(text, ": {more}");
        }
        if text.len() > LONGEST {
            break;
        }
        next = source.source();
    }
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text.into()
}
