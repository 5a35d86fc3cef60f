//! [`ServerBusyBackoff`]: the service and its future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::BoxError;
use tower_service::Service;

use super::call::{CallResult, run};
use super::classify::Classify;
use super::config::{Config, Shared};
use super::peek::PeekBody;

/// Retries what the server did not execute. See the [module](super).
///
/// ```
/// use http::{Request, Response};
/// use tower::{ServiceExt, service_fn};
/// use tower_ews::server_busy_backoff::{HttpClassifier, ServerBusyBackoff};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let server = service_fn(|_: Request<()>| async {
///     Ok::<_, tower::BoxError>(Response::new(String::from("hello")))
/// });
/// let service = ServerBusyBackoff::new(server, HttpClassifier);
/// let response = service.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.status(), 200);
/// # });
/// ```
#[must_use = "services do nothing until they are called"]
pub struct ServerBusyBackoff<S, C> {
    inner: S,
    shared: Arc<Shared<C>>,
}

impl<S, C> ServerBusyBackoff<S, C> {
    /// Creates a new service with the default settings. See [`ServerBusyBackoffLayer`](super::ServerBusyBackoffLayer)
    /// for others.
    pub fn new(inner: S, classifier: C) -> Self {
        let shared = Shared::new(Arc::new(classifier), Config::default());
        Self::with_shared(inner, Arc::new(shared))
    }

    pub(super) fn with_shared(inner: S, shared: Arc<Shared<C>>) -> Self {
        Self { inner, shared }
    }

    inner_accessors!();
}

impl<S: Clone, C> Clone for ServerBusyBackoff<S, C> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S, C> fmt::Debug for ServerBusyBackoff<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The inner service may hold credentials.
        f.debug_struct("ServerBusyBackoff")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl<S, C, B, ResB> Service<Request<B>> for ServerBusyBackoff<S, C>
where
    S: Service<Request<B>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    C: Classify<B>,
    B: Clone + Send + 'static,
    ResB: Body<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<PeekBody<ResB>>;
    type Error = BoxError;
    type Future = ResponseFuture<ResB>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Each attempt makes a clone of the inner service ready. A permit that an idle clone reserves here would be
        // missing elsewhere.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let attempts = run(self.inner.clone(), request, Arc::clone(&self.shared));
        ResponseFuture(Box::pin(attempts))
    }
}

/// The response future of [`ServerBusyBackoff`]: all attempts of one call.
///
/// # Cancellation
///
/// Dropping it drops the attempt in flight, or the wait. Nothing goes on in the background.
///
/// ```
/// use std::time::Duration;
/// use http::{Request, Response};
/// use tower::{Service, service_fn};
/// use tower_ews::server_busy_backoff::{HttpClassifier, ServerBusyBackoff};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let server = service_fn(|_: Request<()>| async {
///     std::future::pending::<Result<Response<String>, tower::BoxError>>().await
/// });
/// let mut service = ServerBusyBackoff::new(server, HttpClassifier);
/// let call = service.call(Request::new(()));
/// assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err());
/// # });
/// ```
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture<ResB: Body>(Pin<Box<dyn Future<Output = CallResult<ResB>> + Send>>);

impl<ResB: Body> Future for ResponseFuture<ResB> {
    type Output = CallResult<ResB>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<ResB: Body> fmt::Debug for ResponseFuture<ResB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
