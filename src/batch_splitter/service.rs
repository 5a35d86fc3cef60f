//! The service, and its response future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower::BoxError;
use tower_service::Service;

use super::body::{JoinedBody, MergedBody};
use super::config::Config;
use super::format::{Batch, BatchFormat};
use super::job::Job;
use super::shared::Shared;
use crate::body::ReplayBody;
use crate::body::client::client;
use crate::body::either::EitherCall;
use crate::body::forward::Forward;

/// Splits a batch into parts that a server can take, and merges their responses. See the [module](super).
///
/// # Deadline
///
/// A caller's [`Deadline`](crate::extensions::Deadline) is one moment for a whole batch: its waits, its parts and their
/// responses. A batch without one has the [`stall_timeout`](super::BatchSplitterLayer::stall_timeout) since the server last
/// settled one of its members, so that it goes on for as long as it gets on.
///
/// What the deadline ends is told as what it is: the server's last word where there was one, an unknown outcome where a part
/// was in flight that may have been executed, and not executed otherwise. Layers further in are given the deadline of each part.
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{Service, ServiceExt, service_fn};
/// use tower_ews::batch_splitter::{BatchSplitter, EwsBatchFormat};
/// use tower_ews::body::ReplayBody;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let client = service_fn(|request: Request<ReplayBody>| async move {
///     Ok::<_, std::convert::Infallible>(Response::new(Full::from(request.into_body())))
/// });
/// let mut service = BatchSplitter::new(client, EwsBatchFormat::new());
///
/// // Requests that are no batches are forwarded unchanged.
/// let response = service.ready().await.unwrap().call(Request::new("ping".into())).await.unwrap();
/// assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(4));
/// # });
/// ```
#[must_use = "services do nothing until they are called"]
pub struct BatchSplitter<S, F> {
    inner: S,
    format: Arc<F>,
    shared: Arc<Shared>,
    inner_is_always_ready: bool,
}

impl<S, F> BatchSplitter<S, F> {
    /// Creates a new service that splits the batches of `format`, with the default settings of
    /// [`BatchSplitterLayer`](super::BatchSplitterLayer).
    pub fn new(inner: S, format: F) -> Self {
        let shared = Shared::new(Config::default(), Arc::default());
        Self::with_shared(inner, Arc::new(format), Arc::new(shared))
    }

    pub(super) fn with_shared(inner: S, format: Arc<F>, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            format,
            shared,
            inner_is_always_ready: false,
        }
    }

    /// Says that the inner service is always ready, so that requests that are forwarded unchanged need no clone of it:
    /// `benches/overhead`, `stack`.
    #[cfg(feature = "ews")]
    pub(crate) fn inner_is_always_ready(mut self) -> Self {
        self.inner_is_always_ready = true;
        self
    }

    inner_accessors!();
}

impl<S: Clone, F> Clone for BatchSplitter<S, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            format: Arc::clone(&self.format),
            shared: Arc::clone(&self.shared),
            inner_is_always_ready: self.inner_is_always_ready,
        }
    }
}

impl<S, F> fmt::Debug for BatchSplitter<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The inner service may hold credentials.
        f.debug_struct("BatchSplitter")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl<S, F, B> Service<Request<ReplayBody>> for BatchSplitter<S, F>
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    F: BatchFormat,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<MergedBody<B>>;
    type Error = BoxError;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // A clone of the inner service is made ready for each part: what an idle clone reserves here would be missing
        // elsewhere.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
        let batch = self.format.batch(&request);
        ResponseFuture(match batch.filter(|batch| batch.members() > 1) {
            None => {
                let ready = self.inner_is_always_ready;
                EitherCall::Forwarded(Forward::new(&mut self.inner, ready, request))
            }
            Some(batch) => {
                let shared = Arc::clone(&self.shared);
                let client = client(self.inner.clone());
                let job = Job::new(client, shared, batch, request);
                EitherCall::Made(Box::pin(job.respond()))
            }
        })
    }
}

/// The parts of one batch, or a call that is no batch.
///
/// # Cancellation
///
/// Dropping it drops the parts that are in flight, and the waits. Nothing goes on in the background. Parts in flight may
/// have been executed, those before them were. A [`CallTrail`](crate::trail::CallTrail) in the request's extensions tells
/// how far the batch got.
///
/// ```
/// use std::time::Duration;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{Service, service_fn};
/// use tower_ews::batch_splitter::{BatchSplitter, EwsBatchFormat, ResponseFuture};
/// use tower_ews::body::ReplayBody;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let client = service_fn(|_: Request<ReplayBody>| std::future::pending::<Result<Response<Full<&[u8]>>, tower::BoxError>>());
/// let call: ResponseFuture<_> = BatchSplitter::new(client, EwsBatchFormat::new()).call(Request::new("ping".into()));
/// assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
/// # });
/// ```
#[must_use = "futures do nothing unless they are polled"]
#[pin_project]
pub struct ResponseFuture<S: Service<Request<ReplayBody>>>(#[pin] EitherCall<S, JoinedBody>);

impl<S, B> Future for ResponseFuture<S>
where
    S: Service<Request<ReplayBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<MergedBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().0.poll(cx))?;
        Poll::Ready(Ok(response.map(MergedBody)))
    }
}

impl<S: Service<Request<ReplayBody>>> fmt::Debug for ResponseFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("split", &self.0.is_made())
            .finish()
    }
}
