//! [`EwsService`]: the layers of the stack as one service, and the future of its calls.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower::BoxError;
use tower_service::Service;

use super::body::{EwsBody, Unlogged};
use super::client::EwsClient;
use super::credentials::Authorize;
use crate::account_pool::AccountPool;
use crate::anchor_headers::{AnchorHeaders, EwsAnchor};
use crate::audit_log::{self, AuditLog, EwsFacts};
use crate::batch_splitter::{BatchSplitter, EwsBatchFormat};
use crate::body::{BufferRequest, BufferRequestFuture};
use crate::client_request_id::ClientRequestId;
use crate::concurrency_by_principal::ConcurrencyByPrincipal;
use crate::find_paging::FindPaging;
use crate::principal::EwsCharges;
use crate::server_busy_backoff::{EwsClassifier, ServerBusyBackoff};

/// The layers from the caller inwards. Nobody outside of the stack can name them.
pub(super) type Layers<S> = AuditLog<BufferRequest<Paged<S>>, EwsFacts>;

type Paged<S> = FindPaging<Batches<S>>;

type Batches<S> = BatchSplitter<ServerBusyBackoff<Pooled<S>, EwsClassifier>, EwsBatchFormat>;

type Pooled<S> = AccountPool<Charged<S>, EwsCharges>;

type Charged<S> =
    ConcurrencyByPrincipal<AnchorHeaders<ClientRequestId<Authorize<S>>, EwsAnchor>, EwsCharges>;

/// A client with the layers of [`EwsStack`](super::EwsStack) around it.
///
/// A `Service<http::Request<B>>` for every request body `B` whose error converts to a [`BoxError`]. Clones share the ledger.
/// It is always ready and takes nothing in `poll_ready`. See [`EwsStack`](super::EwsStack) for its errors.
///
/// ```
/// use http::{Request, Response};
/// use tower_ews::body::ReplayBody;
/// use tower_ews::policy::ThrottlingPolicy;
/// use tower_ews::{EwsService, EwsStack};
///
/// #[derive(Clone)]
/// struct App<C> {
///     ews: EwsService<C>,
/// }
///
/// let client = tower::service_fn(async |_: Request<ReplayBody>| {
///     Ok::<_, std::convert::Infallible>(Response::new(String::new()))
/// });
/// let app = App { ews: EwsStack::new(ThrottlingPolicy::exchange_online()).service(client) };
/// # let _ = app;
/// ```
#[derive(Clone)]
#[must_use = "services do nothing until they are called"]
pub struct EwsService<S>(Layers<S>);

impl<S> EwsService<S> {
    pub(super) fn new(layers: Layers<S>) -> Self {
        Self(layers)
    }

    /// Returns a reference to the client.
    pub fn get_ref(&self) -> &S {
        let batches = self.0.get_ref().get_ref().get_ref();
        let charged = batches.get_ref().get_ref().get_ref();
        charged.get_ref().get_ref().get_ref().get_ref()
    }

    /// Returns a mutable reference to the client.
    pub fn get_mut(&mut self) -> &mut S {
        let batches = self.0.get_mut().get_mut().get_mut();
        let charged = batches.get_mut().get_mut().get_mut();
        charged.get_mut().get_mut().get_mut().get_mut()
    }

    /// Returns the client.
    pub fn into_inner(self) -> S {
        let batches = self.0.into_inner().into_inner().into_inner();
        let charged = batches.into_inner().into_inner().into_inner();
        charged.into_inner().into_inner().into_inner().into_inner()
    }
}

impl<S> fmt::Debug for EwsService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client may hold credentials.
        f.debug_struct("EwsService").finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for EwsService<S>
where
    S: EwsClient,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<EwsBody<S::ResponseBody>>;
    type Error = BoxError;
    type Future = EwsFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Every layer down to ConcurrencyByPrincipal is always ready. That one waits for the client in its future.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        EwsFuture(self.0.call(request))
    }
}

/// The response future of [`EwsService`].
///
/// # Cancellation
///
/// Dropping it drops the attempt that is on its way, or leaves the queue; nothing goes on in the background. The audit log,
/// where it is on, records the call as cancelled.
// Its inside is spelt out: a projection of the layers' `Service` would have to be proved wherever the future is held over an
// await, and cannot be in a spawned task if the request body's error is a `BoxError`.
#[pin_project]
#[must_use = "futures do nothing unless they are polled"]
pub struct EwsFuture<S: EwsClient, B>(
    #[pin]
    audit_log::ResponseFuture<
        BufferRequestFuture<Paged<S>, B>,
        Unlogged<S::ResponseBody>,
        BoxError,
    >,
);

impl<S, B> Future for EwsFuture<S, B>
where
    S: EwsClient,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<EwsBody<S::ResponseBody>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().0.poll(cx))?;
        Poll::Ready(Ok(response.map(EwsBody::new)))
    }
}

impl<S: EwsClient, B> fmt::Debug for EwsFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EwsFuture").finish_non_exhaustive()
    }
}
