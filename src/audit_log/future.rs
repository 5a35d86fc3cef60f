//! [`ResponseFuture`]: the response future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project::pin_project;
use tower::BoxError;

use super::body::{AuditBody, IntoBox};
use super::call::{Call, Recorded};

/// The response future of [`AuditLog`](super::AuditLog).
///
/// # Cancellation
///
/// Dropping the future drops the inner call, and makes the record of the call with the outcome
/// [`Cancelled`](super::Outcome::Cancelled).
#[pin_project]
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture<Fut, B: Body, E> {
    // Before the call: what is further in has written down how it ended when the record is made.
    #[pin]
    inner: Fut,
    call: Recorded,
    into_box: IntoBox<E>,
    body_into_box: IntoBox<B::Error>,
}

impl<Fut, B, E> ResponseFuture<Fut, B, E>
where
    B: Body,
    B::Error: Into<BoxError>,
    E: Into<BoxError>,
{
    #[inline]
    pub(super) fn new(inner: Fut, call: Option<Box<Call>>) -> Self {
        Self {
            inner,
            call: Recorded::new(call),
            into_box: Into::into,
            body_into_box: Into::into,
        }
    }
}

impl<Fut, B, E> Future for ResponseFuture<Fut, B, E>
where
    Fut: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<AuditBody<B>>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.call.is_some() {
            return recorded(self, cx).map_ok(|response| *response);
        }
        let this = self.project();
        match this.inner.poll(cx) {
            Poll::Ready(Ok(response)) => {
                let into_box = *this.body_into_box;
                Poll::Ready(Ok(
                    response.map(|body| AuditBody::unrecorded(body, into_box))
                ))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err((this.into_box)(error))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The result of a call that is recorded. It is small, so that a response that is not recorded need
/// not be where this one would be put.
type RecordedResult<B> = Result<Box<Response<AuditBody<B>>>, BoxError>;

// By itself, the inner poll included: what is not recorded is then never moved to where it can be looked at.
#[inline(never)]
fn recorded<Fut, B, E>(
    future: Pin<&mut ResponseFuture<Fut, B, E>>,
    cx: &mut Context<'_>,
) -> Poll<RecordedResult<B>>
where
    Fut: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    let this = future.project();
    let poll = match &**this.call {
        Some(call) => call.span.in_scope(|| this.inner.poll(cx)),
        None => this.inner.poll(cx),
    };
    if let Some(call) = this.call.as_mut() {
        call.request.see_unbuffered();
    }
    let result = ready!(poll);
    let mut call = this.call.take();
    Poll::Ready(match result {
        Ok(response) => {
            if let Some(call) = &mut call {
                call.respond(response.status(), response.headers());
            }
            let into_box = *this.body_into_box;
            let response = response.map(|body| AuditBody::recorded(body, call, into_box));
            Ok(Box::new(response))
        }
        Err(error) => {
            let error = (this.into_box)(error);
            if let Some(call) = call {
                call.fail(&*error);
            }
            Err(error)
        }
    })
}

impl<Fut, B: Body, E> fmt::Debug for ResponseFuture<Fut, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("recorded", &self.call.is_some())
            .finish_non_exhaustive()
    }
}
