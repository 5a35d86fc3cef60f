//! [`Forward`]: the future of a request that a layer forwards.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Request;
use pin_project::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use super::replay::ReplayBody;

/// A request on its way to the inner service: at once, or when that is ready.
#[pin_project(project = ForwardProject)]
#[expect(
    clippy::large_enum_variant,
    reason = "requests that are forwarded do not pay for a box"
)]
pub(crate) enum Forward<S: Service<Request<ReplayBody>>> {
    Direct(#[pin] S::Future),
    WhenReady(#[pin] Oneshot<S, Request<ReplayBody>>),
}

impl<S: Service<Request<ReplayBody>>> Forward<S> {
    /// A service that is always ready need not be cloned to become so.
    pub(crate) fn new(inner: &mut S, is_always_ready: bool, request: Request<ReplayBody>) -> Self
    where
        S: Clone,
    {
        match is_always_ready {
            true => Self::Direct(inner.call(request)),
            false => Self::when_ready(inner.clone(), request),
        }
    }

    pub(crate) fn when_ready(inner: S, request: Request<ReplayBody>) -> Self {
        Self::WhenReady(Oneshot::new(inner, request))
    }
}

impl<S: Service<Request<ReplayBody>>> Future for Forward<S> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ForwardProject::Direct(call) => call.poll(cx),
            ForwardProject::WhenReady(call) => call.poll(cx),
        }
    }
}
