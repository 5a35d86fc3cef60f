//! The service.

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

use super::attempts::run;
use super::classify::Classify;
use super::config::Shared;
use super::peek::PeekBody;

/// Waits and resends what the server did not execute. See the [module](super).
#[must_use = "a service does nothing until it is called"]
pub struct ServerBusyBackoff<S, C> {
    inner: S,
    shared: Arc<Shared<C>>,
}

impl<S, C> ServerBusyBackoff<S, C> {
    pub(super) fn new(inner: S, shared: Arc<Shared<C>>) -> Self {
        Self { inner, shared }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
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
        // A clone of the inner service is made ready for each attempt: what an idle clone reserves here would be
        // missing elsewhere.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let attempts = run(self.inner.clone(), request, Arc::clone(&self.shared));
        ResponseFuture(Box::pin(attempts))
    }
}

/// The attempts of one call.
///
/// # Cancellation
///
/// Dropping it drops the attempt that is on its way, or the wait. Nothing goes on in the background.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<ResB>(Pin<Box<dyn Future<Output = Outcome<ResB>> + Send>>);

type Outcome<ResB> = Result<Response<PeekBody<ResB>>, BoxError>;

impl<ResB> Future for ResponseFuture<ResB> {
    type Output = Outcome<ResB>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<ResB> fmt::Debug for ResponseFuture<ResB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
