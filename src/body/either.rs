//! [`EitherCall`] and [`EitherBody`]: of layers that forward most requests, and make the responses to others themselves.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, SizeHint};
use pin_project::pin_project;
use tower::BoxError;
use tower_service::Service;

use super::boxed_errors::{PollFrame, PolledFrame, poll_frame};
use super::forward::Forward;
use super::replay::ReplayBody;

pub(crate) type MadeCall<M> = Pin<Box<dyn Future<Output = Result<Response<M>, BoxError>> + Send>>;

/// A call that is forwarded, or one whose response the layer makes.
#[pin_project(project = EitherCallProject)]
#[expect(
    clippy::large_enum_variant,
    reason = "requests that are forwarded unchanged do not pay for a box"
)]
pub(crate) enum EitherCall<S: Service<Request<ReplayBody>>, M> {
    Forwarded(#[pin] Forward<S>),
    Made(MadeCall<M>),
}

impl<S: Service<Request<ReplayBody>>, M> EitherCall<S, M> {
    pub(crate) fn is_made(&self) -> bool {
        matches!(self, Self::Made(_))
    }
}

impl<S, B, M> Future for EitherCall<S, M>
where
    S: Service<Request<ReplayBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<EitherBody<B, M>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            EitherCallProject::Forwarded(call) => match ready!(call.poll(cx)) {
                Ok(response) => Ok(response.map(|body| EitherBody::Inner(body, poll_frame))),
                Err(error) => Err(error.into()),
            },
            EitherCallProject::Made(call) => {
                let response = ready!(call.as_mut().poll(cx))?;
                Ok(response.map(EitherBody::Made))
            }
        })
    }
}

/// The body of the inner service, unchanged, or one that the layer makes.
#[pin_project(project = EitherBodyProject)]
pub(crate) enum EitherBody<B, M> {
    Inner(#[pin] B, PollFrame<B>),
    Made(M),
}

impl<B: Body, M: Body<Data = Bytes, Error = BoxError> + Unpin> Body for EitherBody<B, M> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match self.project() {
            EitherBodyProject::Inner(body, poll_frame) => poll_frame(body, cx),
            EitherBodyProject::Made(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner(body, _) => body.is_end_stream(),
            Self::Made(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner(body, _) => body.size_hint(),
            Self::Made(body) => body.size_hint(),
        }
    }
}
