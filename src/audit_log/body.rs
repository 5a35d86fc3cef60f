//! [`AuditBody`]: a response body that makes the call's record when it ends.

use std::any::Any;
use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tower::BoxError;

use super::call::{Call, Recorded};

/// The response body of [`AuditLog`](super::AuditLog): the inner body's frames, trailers and size
/// hint.
///
/// The record of the call is made when the end is read (`poll_frame` returns `None`), with an error,
/// or when the body is dropped. The outcome is then
/// [`BodyDropped`](super::Outcome::BodyDropped), unless the inner body said with its last frame
/// that nothing follows.
///
/// ```
/// use http::{Request, Response};
/// use http_body::Body;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_ews::audit_log::{AuditLogLayer, MemorySink, Outcome};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// let sink = MemorySink::new();
/// let service = ServiceBuilder::new().layer(AuditLogLayer::new(sink.clone())).service(service_fn(
///     async |_: Request<String>| Ok::<_, tower::BoxError>(Response::new(String::from("hello"))),
/// ));
/// let response = service.oneshot(Request::new(String::new())).await?;
/// assert_eq!(response.body().size_hint().exact(), Some(5));
/// drop(response);
/// assert_eq!(sink.records()[0].outcome, Outcome::BodyDropped);
/// # Ok(()) }
/// ```
#[pin_project]
#[must_use = "bodies do nothing unless they are polled"]
pub struct AuditBody<B: Body> {
    #[pin]
    inner: B,
    call: Recorded,
    into_box: IntoBox<B::Error>,
}

/// Boxes an error.
///
/// It is a value and not a bound `Into<BoxError>` of the impls, because they could then not be used
/// in a spawned task where the error is a `BoxError`: the compiler checks the bounds of the types
/// that a task holds over an `.await` for any lifetime of the trait object, but a `BoxError` is
/// made of `'static` ones alone ("implementation of `From` is not general enough").
pub(super) type IntoBox<E> = fn(E) -> BoxError;

impl<B: Body> AuditBody<B> {
    #[inline]
    pub(super) fn unrecorded(inner: B, into_box: IntoBox<B::Error>) -> Self {
        Self {
            inner,
            call: Recorded::new(None),
            into_box,
        }
    }

    pub(super) fn recorded(
        inner: B,
        mut call: Option<Box<Call>>,
        into_box: IntoBox<B::Error>,
    ) -> Self {
        if let Some(call) = call.as_mut().filter(|_| inner.is_end_stream()) {
            call.complete();
        }
        Self {
            inner,
            call: Recorded::new(call),
            into_box,
        }
    }
}

impl<B> Body for AuditBody<B>
where
    B: Body,
    B::Data: 'static,
{
    type Data = B::Data;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        if self.call.is_some() {
            return recorded(self, cx);
        }
        let this = self.project();
        match this.inner.poll_frame(cx) {
            // Arm by arm: a map of the whole is a copy more of a frame.
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err((this.into_box)(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// By itself, the inner poll included: what is not recorded is then never moved to where it can be looked at.
#[inline(never)]
fn recorded<B>(
    body: Pin<&mut AuditBody<B>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<B::Data>, BoxError>>>
where
    B: Body,
    B::Data: 'static,
{
    let mut this = body.project();
    let frame = ready!(match &**this.call {
        Some(call) => call.span.in_scope(|| this.inner.as_mut().poll_frame(cx)),
        None => this.inner.as_mut().poll_frame(cx),
    });
    Poll::Ready(match frame {
        Some(Ok(frame)) => {
            if let Some(call) = this.call.as_mut() {
                if let Some(data) = frame.data_ref() {
                    pass(call, data);
                }
                // Some readers stop once they know that nothing more comes.
                if this.inner.is_end_stream() {
                    call.complete();
                }
            }
            Some(Ok(frame))
        }
        Some(Err(error)) => {
            let error = (this.into_box)(error);
            if let Some(call) = this.call.take() {
                call.fail(&*error);
            }
            Some(Err(error))
        }
        None => {
            if let Some(mut call) = this.call.take() {
                call.complete();
            }
            None
        }
    })
}

/// Shows the data of a frame to the call.
fn pass<D: Buf + 'static>(call: &mut Call, data: &D) {
    if let Some(bytes) = (data as &dyn Any).downcast_ref::<Bytes>() {
        call.pass(bytes, Some(bytes));
        return;
    }
    let mut slices = [IoSlice::new(&[]); 16];
    let filled = data.chunks_vectored(&mut slices);
    let mut seen = 0;
    for slice in slices.iter().take(filled) {
        seen += slice.len();
        call.pass(slice, None);
    }
    call.pass_unseen(data.remaining().saturating_sub(seen));
}

impl<B: Body> fmt::Debug for AuditBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditBody")
            .field("recorded", &self.call.is_some())
            .finish_non_exhaustive()
    }
}
