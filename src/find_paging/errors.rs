//! The errors of [`FindPaging`](super::FindPaging).

use std::fmt;

use http::StatusCode;
use tower::BoxError;

use crate::soap::ResponseCode;

/// A page did not come: all pages before it did.
///
/// It is the error of the response body, behind everything that came, or of the call if nothing came. A
/// synchronisation has it in its [`PagingReport`](super::PagingReport). Errors of the inner service that end the call
/// itself are not wrapped.
///
/// ```
/// use tower::BoxError;
/// use tower_ews::find_paging::{NextPage, PagingError};
///
/// fn offset(error: &BoxError) -> Option<u32> {
///     match error.downcast_ref::<PagingError>()?.next() {
///         NextPage::Offset { offset, .. } => Some(*offset),
///         _ => None,
///     }
/// }
///
/// assert_eq!(offset(&"some other error".into()), None);
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the response to {operation} is incomplete: {cause}; go on {next}")]
pub struct PagingError {
    pub(super) operation: Box<str>,
    pub(super) next: NextPage,
    #[source]
    pub(super) cause: PageFailure,
}

impl PagingError {
    /// Returns the operation.
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// Returns where to go on.
    pub fn next(&self) -> &NextPage {
        &self.next
    }

    /// Returns why the page did not come.
    pub fn cause(&self) -> &PageFailure {
        &self.cause
    }
}

/// Where to go on behind the last page that came. See [`PagingError`].
///
/// ```
/// use tower_ews::find_paging::NextPage;
///
/// let next = NextPage::Offset { folder: 0, offset: 3000 };
/// assert_eq!(next.to_string(), "at offset 3000 of folder 0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NextPage {
    /// At this offset of a folder. The folders before it are complete, those behind it were not asked for.
    Offset {
        /// The folder's place among the `ParentFolderIds` of the request, from 0.
        folder: usize,
        /// The offset of the first entry that did not come:
        /// [`Paging::from_offset`](super::Paging::from_offset).
        offset: u32,
    },
    /// With this `SyncState`, as it stands in a response.
    SyncState(Box<str>),
}

impl fmt::Display for NextPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset { folder, offset } => write!(f, "at offset {offset} of folder {folder}"),
            Self::SyncState(_) => f.write_str("with the SyncState of the response"),
        }
    }
}

/// Why a page did not come. See [`PagingError`].
///
/// ```
/// use tower_ews::find_paging::PageFailure;
///
/// fn is_busy(failure: &PageFailure) -> bool {
///     matches!(failure, PageFailure::NotAPage { code, .. } if code.as_str() == "ErrorServerBusy")
/// }
///
/// assert!(!is_busy(&PageFailure::Call("connection reset".into())));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageFailure {
    /// The inner service failed, or the deadline had passed before the call.
    #[error("the call for the next page failed")]
    Call(#[source] BoxError),
    /// The server responded with an error, or with something that is no page.
    #[error("the server responded with HTTP {} and {:?} instead of the next page: {text}", status.as_u16(), code.as_str())]
    NotAPage {
        /// The HTTP status.
        status: StatusCode,
        /// The response code. Empty if there is none.
        code: ResponseCode,
        /// The text of the error.
        text: Box<str>,
    },
    /// The response broke off or was incomplete, each time that it was asked for.
    #[error("the next page broke off in {tries} attempts")]
    Incomplete {
        /// The number of attempts.
        tries: u32,
        /// The error of the last attempt, if there was one.
        source: BoxError,
    },
    /// The page is longer than [`max_page`](super::FindPagingLayer::max_page).
    #[error(
        "the next page exceeds {max_page} bytes, the limit that max_page sets: use smaller pages"
    )]
    TooLong {
        /// The limit, in bytes.
        max_page: u64,
    },
    /// The page was not complete before the call's deadline, or within
    /// [`stall_timeout`](super::FindPagingLayer::stall_timeout).
    #[error("the next page did not come in time")]
    TimedOut,
    /// The page declares more namespaces than can be put into another response.
    #[error("the next page declares too many namespaces")]
    Namespaces,
    /// The server goes on to say that there is more, and does not give it.
    #[error("{pages} pages in a row led no further, and none of them was the last one")]
    NoProgress {
        /// The number of pages.
        pages: u32,
    },
}
