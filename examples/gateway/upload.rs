//! A request body that ends with an error if its client is too slow.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::BoxError;

/// The client did not send its request in time. Nothing was sent to the server.
#[derive(Debug, thiserror::Error)]
#[error("the request did not come in time: nothing of it was sent to the server")]
pub(crate) struct TooSlow;

/// A request body whose frames come in time, and whose end does.
#[pin_project]
pub(crate) struct Upload<B> {
    #[pin]
    body: B,
    idle: Duration,
    until: Instant,
    #[pin]
    sleep: Sleep,
}

impl<B> Upload<B> {
    /// At most `idle` between two frames, and the end before `until`.
    pub(crate) fn new(body: B, idle: Duration, until: Instant) -> Self {
        let sleep = sleep_until(until.min(Instant::now() + idle));
        Self {
            body,
            idle,
            until,
            sleep,
        }
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for Upload<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        if Instant::now() < *this.until {
            if let Poll::Ready(frame) = this.body.poll_frame(cx) {
                let next = (*this.until).min(Instant::now() + *this.idle);
                this.sleep.reset(next);
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
        }
        this.sleep
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(TooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
