//! [`MailboxMoved`]: another server has the mailbox, and [`FindEndpoint`]: who knows which one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::Uri;

use crate::extensions::Caller;

/// A response extension: another server has the mailbox, so no retry helps that goes to this one. Also what the hook of
/// [`ServerBusyBackoffLayer::find_endpoint`](super::ServerBusyBackoffLayer::find_endpoint) is asked with.
///
/// ```
/// use tower_ews::server_busy_backoff::MailboxMoved;
///
/// fn needs_autodiscover<B>(response: &http::Response<B>) -> bool {
///     response.extensions().get::<MailboxMoved>().is_some()
/// }
///
/// assert!(!needs_autodiscover(&http::Response::new(())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the mailbox is on another server ({reason}): ask Autodiscover for the URL of its EWS, or set \
     ServerBusyBackoffLayer::find_endpoint"
)]
#[non_exhaustive]
pub struct MailboxMoved {
    /// The server's own name for it: `ErrorWrongServerVersion`, `302`.
    pub reason: Box<str>,
    /// The mailbox, if the request is for one alone. Empty for the account's own.
    pub mailbox: Option<Box<str>>,
    /// The account in the request's extensions.
    pub caller: Option<Caller>,
    /// Where the request was sent.
    pub endpoint: Uri,
    /// Where the server says that the mailbox is. Requests carry credentials, so check whose server it is.
    pub location: Option<Uri>,
}

type Finding = Pin<Box<dyn Future<Output = Option<Uri>> + Send>>;

/// Finds the endpoint of a mailbox that has moved.
#[derive(Clone)]
pub(super) struct FindEndpoint(Arc<dyn Fn(MailboxMoved) -> Finding + Send + Sync>);

impl FindEndpoint {
    pub(super) fn new<F, Fut>(find: F) -> Self
    where
        F: Fn(MailboxMoved) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Uri>> + Send + 'static,
    {
        Self(Arc::new(move |moved| Box::pin(find(moved))))
    }

    pub(super) fn find(&self, moved: MailboxMoved) -> Finding {
        (self.0)(moved)
    }
}

impl fmt::Debug for FindEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FindEndpoint").finish_non_exhaustive()
    }
}
