//! [`ServerBusyBackoffLayer`]: the layer and its settings.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tower_layer::Layer;

use super::config::{Config, Shared};
#[cfg(feature = "ews")]
use super::ews::EwsClassifier;
use super::http::HttpClassifier;
use super::moved::{FindEndpoint, MailboxMoved};
use super::service::ServerBusyBackoff;
use crate::ledger::Ledger;

/// Wraps a service in [`ServerBusyBackoff`].
///
/// ```
/// use std::time::Duration;
/// use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;
///
/// let layer = ServerBusyBackoffLayer::ews()
///     .deadline(Duration::from_secs(120))
///     .max_buffered(256 * 1024);
/// # let _ = layer;
/// ```
#[must_use = "layers do nothing until they are applied to a service"]
pub struct ServerBusyBackoffLayer<C> {
    classifier: Arc<C>,
    config: Config,
}

#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
impl ServerBusyBackoffLayer<EwsClassifier> {
    /// Creates a layer for Exchange Web Services.
    pub fn ews() -> Self {
        Self::new(EwsClassifier)
    }
}

impl ServerBusyBackoffLayer<HttpClassifier> {
    /// Creates a layer for plain HTTP: see [`ClassifiedResponse::by_status`](super::ClassifiedResponse::by_status).
    pub fn http() -> Self {
        Self::new(HttpClassifier)
    }
}

impl<C> ServerBusyBackoffLayer<C> {
    /// Creates a layer with a classifier of your own.
    pub fn new(classifier: C) -> Self {
        Self {
            classifier: Arc::new(classifier),
            config: Config::default(),
        }
    }

    /// Sets the ledger that signals are reported to. It then holds back all calls of the principal. Default: none. The
    /// layer then holds them back itself, at gates that all its services and their clones share.
    ///
    /// It must be the ledger of the `ConcurrencyByPrincipal` further in: a call that has to wait for a gate of the
    /// ledger is sent on at once, to wait there.
    pub fn ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.config.ledger = Some(ledger);
        self
    }

    /// Sets how long a call may take, waits and retries included. Default: 15 minutes. The request extension
    /// [`Deadline`](crate::extensions::Deadline) overrides it for one call.
    ///
    /// It bounds attempts and waits until a response is handed on. One that is handed on has no deadline but that of its
    /// reader; it ends if nothing more of it comes for five minutes, unless it streams notifications.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = deadline;
        self
    }

    /// Sets how long one attempt may take until its response begins: its head, and what is read of its body to decide on it.
    /// Default: 100 s. Exchange ends a batch after a minute (EWS throttling in Exchange, "Throttling implications for EWS
    /// batch requests"), and Microsoft's own client, the EWS Managed API, waits as long by default.
    ///
    /// What an attempt waits for before it is sent does not count: a permit of `ConcurrencyByPrincipal`, its client, the
    /// credentials of the stack. A request body has a second more for each 128 KiB, for lines of 1 Mbit/s. Calls that stream
    /// notifications are exempt: they last for minutes, and follow their heartbeat.
    ///
    /// An attempt that is given up counts as lost: safe and idempotent requests are sent again, twice at most, over another
    /// connection where the client is hyper-util's. Others end in
    /// [`BackoffError::OutcomeUnknown`](super::BackoffError::OutcomeUnknown). [`Duration::MAX`] leaves the
    /// [deadline](Self::deadline) as the only bound.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = timeout;
        self
    }

    /// Asks `find` where a mailbox is that another server has. Default: nobody is asked, and the response goes on with
    /// [`MailboxMoved`] in its extensions.
    ///
    /// That is what `ErrorCrossSiteRequest`, `ErrorWrongServerVersion`, `ErrorWrongServerVersionDelegate` and
    /// `ErrorMailboxMoveInProgress` say, if they are all that a response says, and a redirect to the EWS of another server: after
    /// a mailbox was moved, Autodiscover has to be asked again (the reference of ResponseCode). `find` is asked once for
    /// each call; a part of a batch is one. It holds no permit meanwhile, and is dropped at the deadline of the call. The next
    /// attempt goes to the URI that it returns, as the request is, credentials and all. With none, or a URI without an authority,
    /// the call goes on as without it. It should remember what it has found: a call begins at the URI that its caller has set.
    ///
    /// ```
    /// use tower_ews::server_busy_backoff::{MailboxMoved, ServerBusyBackoffLayer};
    ///
    /// # async fn autodiscover(mailbox: &str) -> Option<http::Uri> { mailbox.parse().ok() }
    /// let layer = ServerBusyBackoffLayer::ews().find_endpoint(async |moved: MailboxMoved| {
    ///     autodiscover(moved.mailbox.as_deref()?).await
    /// });
    /// # let _ = layer;
    /// ```
    pub fn find_endpoint<F, Fut>(mut self, find: F) -> Self
    where
        F: Fn(MailboxMoved) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Uri>> + Send + 'static,
    {
        self.config.find_endpoint = Some(FindEndpoint::new(find));
        self
    }

    /// Sets how many bytes of a response are read to decide on it before it is handed on. Default: 64 KiB. A response
    /// that is shorter is first read to its end.
    pub fn max_prefix(mut self, bytes: usize) -> Self {
        self.config.read_limits.max_prefix = bytes;
        self
    }

    /// Sets how many bytes of a refusal are kept, to be the response if nothing better comes. Default: 1 MiB.
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.config.read_limits.max_buffered = bytes;
        self
    }

    backoff_setters!();
}

impl<S, C> Layer<S> for ServerBusyBackoffLayer<C> {
    type Service = ServerBusyBackoff<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Shared::new(Arc::clone(&self.classifier), self.config.clone());
        ServerBusyBackoff::with_shared(inner, Arc::new(shared))
    }
}

impl<C> Clone for ServerBusyBackoffLayer<C> {
    fn clone(&self) -> Self {
        Self {
            classifier: Arc::clone(&self.classifier),
            config: self.config.clone(),
        }
    }
}

impl<C> fmt::Debug for ServerBusyBackoffLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBusyBackoffLayer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
