//! [`PermitBody`]: a response body that holds its call's permit.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::followed::Followed;
use crate::ledger::{End, Permit};

/// A response body that gives the call's permit back when it has ended, failed or is dropped.
///
/// Frames, trailers and size hints are the inner body's. The permit is given back when the end is *read* (`poll_frame` returns
/// `None`), not with the last data frame: whoever reads the frames can first report to the ledger what they say.
///
/// ```
/// use http_body_util::BodyExt;
/// use tower::{Service, ServiceBuilder, ServiceExt};
/// use tower_ews::concurrency_by_principal::{ConcurrencyByPrincipalLayer, PermitBody};
/// use tower_ews::principal::Principal;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use bytes::Bytes;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let mut service = ServiceBuilder::new()
///     .layer(ConcurrencyByPrincipalLayer::in_flight(1, |_: &Request<()>| Principal::new("contoso")))
///     .service_fn(|_: Request<()>| async { Ok::<_, tower::BoxError>(Response::new(Full::<Bytes>::from("hello"))) });
///
/// let response = service.ready().await?.call(Request::new(())).await?;
/// let body: PermitBody<Full<Bytes>> = response.into_body();
/// // The permit is given back here, so that the next call can go.
/// assert_eq!(body.collect().await?.to_bytes(), "hello");
/// service.ready().await?.call(Request::new(())).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[pin_project]
#[must_use = "bodies do nothing unless they are polled"]
pub struct PermitBody<B: Body> {
    #[pin]
    inner: B,
    permit: Option<Permit>,
    /// Until the body has ended.
    followed: Option<Box<Followed>>,
}

impl<B: Body> PermitBody<B> {
    #[inline]
    pub(super) fn new(
        inner: B,
        mut permit: Option<Permit>,
        followed: Option<Box<Followed>>,
    ) -> Self {
        if let Some(permit) = permit.as_mut().filter(|_| inner.is_end_stream()) {
            permit.set_end(End::Complete);
        }
        Self {
            inner,
            permit,
            followed,
        }
    }
}

impl<B: Body> Body for PermitBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    // Watched by `benches/overhead`, `concurrency_by_principal/1`.
    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Poll::Ready(next) = this.inner.as_mut().poll_frame(cx) else {
            // Its reader waits for it.
            if let Some(permit) = this.permit {
                permit.set_unread(false);
            }
            return Poll::Pending;
        };
        Poll::Ready(match next {
            Some(Ok(frame)) => {
                // Some readers stop once they know that nothing more comes, in whatever way they are told.
                let body = this.inner.as_ref();
                let ends = || {
                    frame.is_trailers()
                        || body.is_end_stream()
                        || body.size_hint().exact() == Some(0)
                };
                if let Some(permit) = this.permit {
                    permit.set_unread(true);
                    if ends() {
                        permit.set_end(End::Complete);
                    }
                }
                if this.followed.is_some() {
                    Followed::read(this.followed, &frame, ends());
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                *this.permit = None;
                *this.followed = None;
                Some(Err(error))
            }
            None => {
                if this.followed.is_some() {
                    Followed::end(this.followed);
                }
                if let Some(permit) = this.permit.take() {
                    permit.complete();
                }
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::ledger::{AcquireRequest, LocalLedger};
    use crate::principal::Principal;

    #[tokio::test]
    async fn a_body_counts_as_unread_while_it_waits_for_its_reader() {
        let ledger = Arc::new(LocalLedger::in_flight(1));
        let request = AcquireRequest::new(Principal::new("amy"));
        let mut permit = Permit::try_acquire(ledger, &request).unwrap();
        permit.set_responded();
        let frames = [Frame::data(Bytes::from("one"))].map(Ok::<_, Infallible>);
        let body = StreamBody::new(stream::iter(frames).chain(stream::pending()));
        let mut body = PermitBody::new(body, Some(permit), None);
        let is_unread = |body: &PermitBody<_>| body.permit.as_ref().unwrap().is_unread();
        assert!(is_unread(&body));
        // It has a frame, and nobody asks for the next one yet.
        assert!(assert_ready!(task::spawn(body.frame()).poll()).is_some());
        assert!(is_unread(&body));
        assert_pending!(task::spawn(body.frame()).poll());
        assert!(!is_unread(&body));
    }
}
