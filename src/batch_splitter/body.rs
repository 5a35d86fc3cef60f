//! [`MergedBody`]: the one body that the responses to parts make.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project::pin_project;
use tower::BoxError;

use crate::body::boxed_errors::PolledFrame;
use crate::body::either::EitherBody;
use crate::body::{Rope, RopeIntoIter};

/// Where the bytes of a merged response come from.
pub(super) trait Source: Send {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>>;

    fn is_at_end(&self) -> bool;

    /// Returns how many bytes are still to come, if that is known.
    fn bytes_left(&self) -> Option<u64>;
}

/// The response body of [`BatchSplitter`](super::BatchSplitter): the inner body unchanged, or the messages of all parts.
///
/// Its size hint is exact as soon as all parts came in: from the beginning, unless the batch only reads. The body of a
/// batch that only reads sends the remaining parts while it is read.
///
/// # Cancellation
///
/// Dropping it drops the parts in flight of a batch that only reads. Batches that change something are complete when
/// their response future is.
///
/// ```
/// use http_body::Body;
/// use tower_ews::batch_splitter::MergedBody;
///
/// async fn collect<B: Body>(response: http::Response<MergedBody<B>>) -> Result<bytes::Bytes, tower::BoxError> {
///     Ok(http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes())
/// }
/// ```
#[must_use = "bodies do nothing unless they are polled"]
#[pin_project]
pub struct MergedBody<B>(#[pin] pub(super) EitherBody<B, JoinedBody>);

/// The body of a response to a batch that was split.
pub(super) enum JoinedBody {
    /// The response of one part, which stands for the batch.
    OnePart {
        pieces: RopeIntoIter,
        left: u64,
        trailers: Option<HeaderMap>,
    },
    /// Never locked: the mutex makes the body `Sync`, as bodies of HTTP clients are.
    Merged(Mutex<Box<dyn Source>>),
    Ended,
}

impl JoinedBody {
    pub(super) fn one_part(body: Rope, trailers: Option<HeaderMap>) -> Self {
        let left = body.len();
        let pieces = body.into_iter();
        Self::OnePart {
            pieces,
            left,
            trailers,
        }
    }

    pub(super) fn merged(source: impl Source + 'static) -> Self {
        Self::Merged(Mutex::new(Box::new(source)))
    }
}

impl Body for JoinedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        match &mut *self {
            Self::OnePart {
                pieces,
                left,
                trailers,
            } => Poll::Ready(match pieces.next() {
                Some(piece) => {
                    *left = left.saturating_sub(piece.len() as u64);
                    Some(Ok(Frame::data(piece)))
                }
                None => trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Self::Merged(source) => source.get_mut().poll_bytes(cx).map(|polled| {
                if !matches!(polled, Some(Ok(_))) {
                    *self = Self::Ended;
                }
                polled.map(|bytes| bytes.map(Frame::data))
            }),
            Self::Ended => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::OnePart { left, trailers, .. } => *left == 0 && trailers.is_none(),
            Self::Merged(source) => source.lock().is_at_end(),
            Self::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::OnePart { left, .. } => SizeHint::with_exact(*left),
            Self::Merged(source) => {
                let left = source.lock().bytes_left();
                left.map_or_else(SizeHint::new, SizeHint::with_exact)
            }
            Self::Ended => SizeHint::with_exact(0),
        }
    }
}

body_of_inner!(MergedBody, Body);

impl<B> fmt::Debug for MergedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            EitherBody::Inner(..) => "unchanged",
            EitherBody::Made(JoinedBody::OnePart { .. }) => "response of one part",
            EitherBody::Made(JoinedBody::Merged(_)) => "merged",
            EitherBody::Made(JoinedBody::Ended) => "ended",
        };
        f.debug_tuple("MergedBody").field(&kind).finish()
    }
}
