//! [`MergedBody`]: the one body that the answers to parts make.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project::pin_project;
use tower::BoxError;

use crate::body::{Rope, RopeIntoIter};

/// Where the bytes of a merged answer come from.
pub(super) trait Source: Send {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>>;

    fn is_at_end(&self) -> bool;

    /// How many bytes are still to come, if that is known.
    fn left(&self) -> Option<u64>;
}

/// The response body of [`BatchSplitter`](super::BatchSplitter): the inner body as it is, or the messages of all parts.
///
/// Its size hint is exact as soon as all parts are in: from the beginning, unless the batch only reads. The body of a
/// batch that only reads sends the remaining parts while it is read.
///
/// # Cancellation
///
/// Dropping it drops the parts of a reading batch that are on their way. Batches that change something are through when
/// their response future is.
///
/// ```
/// use http_body::Body;
/// use tower_ews::batch_splitter::MergedBody;
///
/// async fn whole<B>(answer: http::Response<MergedBody<B>>) -> Result<bytes::Bytes, tower::BoxError>
/// where
///     B: Body,
///     B::Error: Into<tower::BoxError>,
/// {
///     Ok(http_body_util::BodyExt::collect(answer.into_body()).await?.to_bytes())
/// }
/// ```
#[must_use = "bodies do nothing unless polled"]
#[pin_project]
pub struct MergedBody<B>(#[pin] Kind<B>);

#[pin_project(project = KindProject)]
enum Kind<B> {
    Untouched(#[pin] B),
    /// The answer of one part, which stands for all.
    PartFailure {
        pieces: RopeIntoIter,
        left: u64,
        trailers: Option<HeaderMap>,
    },
    /// Never locked: it is there so that the body is `Sync` as bodies of HTTP clients are.
    BatchReport(Mutex<Box<dyn Source>>),
    Ended,
}

impl<B> MergedBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self(Kind::Untouched(body))
    }

    pub(super) fn whole(body: Rope, trailers: Option<HeaderMap>) -> Self {
        let left = body.len();
        let pieces = body.into_iter();
        Self(Kind::PartFailure {
            pieces,
            left,
            trailers,
        })
    }

    pub(super) fn merged(source: impl Source + 'static) -> Self {
        Self(Kind::BatchReport(Mutex::new(Box::new(source))))
    }
}

impl<B> Body for MergedBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut kind = self.project().0;
        let polled = match kind.as_mut().project() {
            KindProject::Untouched(body) => {
                return body.poll_frame(cx).map(|polled| {
                    polled.map(|frame| match frame {
                        // Nothing is copied where the data are `Bytes` already.
                        Ok(frame) => {
                            Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
                        }
                        Err(error) => Err(error.into()),
                    })
                });
            }
            KindProject::PartFailure {
                pieces,
                left,
                trailers,
            } => {
                if let Some(piece) = pieces.next() {
                    *left = left.saturating_sub(piece.len() as u64);
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                return Poll::Ready(
                    trailers
                        .take()
                        .map(|trailers| Ok(Frame::trailers(trailers))),
                );
            }
            KindProject::BatchReport(source) => source.get_mut().poll_bytes(cx),
            KindProject::Ended => return Poll::Ready(None),
        };
        polled.map(|polled| match polled {
            Some(Ok(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Err(error)) => {
                kind.set(Kind::Ended);
                Some(Err(error))
            }
            None => {
                kind.set(Kind::Ended);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Untouched(body) => body.is_end_stream(),
            Kind::PartFailure { left, trailers, .. } => *left == 0 && trailers.is_none(),
            Kind::BatchReport(source) => source.lock().is_at_end(),
            Kind::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Untouched(body) => body.size_hint(),
            Kind::PartFailure { left, .. } => SizeHint::with_exact(*left),
            Kind::BatchReport(source) => source
                .lock()
                .left()
                .map_or_else(SizeHint::new, SizeHint::with_exact),
            Kind::Ended => SizeHint::with_exact(0),
        }
    }
}

impl<B> fmt::Debug for MergedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            Kind::Untouched(_) => "untouched",
            Kind::PartFailure { .. } => "answer of one part",
            Kind::BatchReport(_) => "merged",
            Kind::Ended => "ended",
        };
        f.debug_tuple("MergedBody").field(&kind).finish()
    }
}
