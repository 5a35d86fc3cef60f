//! [`PollFrame`]: a body of any data and errors, read as one of `Bytes` and boxed errors.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use tower::BoxError;

/// What such a body yields.
pub(crate) type PolledFrame = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// Polls an inner body, and converts its data and its errors.
///
/// A pointer instead of a bound on the body's error: inside a spawned task the compiler has to prove such a bound for an
/// error of any lifetime, which it cannot for boxed errors (rust-lang/rust#102211).
pub(crate) type PollFrame<B> = fn(Pin<&mut B>, &mut Context<'_>) -> PolledFrame;

/// See [`PollFrame`].
pub(crate) fn poll_frame<B>(body: Pin<&mut B>, cx: &mut Context<'_>) -> PolledFrame
where
    B: Body,
    B::Error: Into<BoxError>,
{
    body.poll_frame(cx).map(|polled| {
        polled.map(|frame| match frame {
            // Nothing is copied if the data are `Bytes` already.
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(error.into()),
        })
    })
}
