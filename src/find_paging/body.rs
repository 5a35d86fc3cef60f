//! [`PagedBody`]: the one body that the pages make.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::Stream;
use http::{HeaderMap, Response, response};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project::pin_project;
use tower::BoxError;

use super::calls::Fetched;
use super::report::PagingReport;
use crate::body::boxed_errors::PolledFrame;
use crate::body::collected::remove_body_headers;
use crate::body::either::EitherBody;

/// The response body of [`FindPaging`](super::FindPaging): the inner body unchanged, or the entries of all pages.
///
/// It asks for the next page when all bytes of the page before were read.
///
/// # Errors
///
/// Those of the inner body, or a [`PagingError`](super::PagingError) that says where to go on.
///
/// # Cancellation
///
/// Dropping it drops the page that is on its way. No other one is asked for.
///
/// ```
/// use http_body::Body;
/// use tower_ews::find_paging::PagedBody;
///
/// async fn collect<B: Body>(response: http::Response<PagedBody<B>>) -> Result<bytes::Bytes, tower::BoxError> {
///     Ok(http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes())
/// }
/// ```
#[must_use = "bodies do nothing unless they are polled"]
#[pin_project]
pub struct PagedBody<B>(#[pin] pub(super) EitherBody<B, Pages>);

/// A body of bytes that came, and perhaps of pages that are still to come.
pub(super) struct Pages {
    pieces: VecDeque<Bytes>,
    left: u64,
    trailers: Option<HeaderMap>,
    /// Never locked: the mutex makes the body `Sync`, as bodies of HTTP clients are.
    more: Option<Mutex<MorePages>>,
}

/// Pages that are still to come. It asks for them as it is polled.
pub(super) type MorePages = Pin<Box<dyn Stream<Item = Result<Chunk, BoxError>> + Send>>;

/// What one page adds to the body.
pub(super) struct Chunk {
    pub(super) pieces: Vec<Bytes>,
    /// Nothing comes behind it.
    pub(super) is_last: bool,
}

impl Pages {
    /// One response, unchanged.
    pub(super) fn one<P>(fetched: Fetched<P>, report: PagingReport) -> Response<Pages> {
        let mut response = Self::whole(fetched.head, vec![fetched.bytes], report);
        response.body_mut().trailers = fetched.trailers;
        response
    }

    /// A response that is complete.
    pub(super) fn whole(
        mut head: response::Parts,
        pieces: Vec<Bytes>,
        report: PagingReport,
    ) -> Response<Pages> {
        head.extensions.insert(report);
        let mut pages = Pages {
            pieces: VecDeque::new(),
            left: 0,
            trailers: None,
            more: None,
        };
        pages.push(pieces);
        Response::from_parts(head, pages)
    }

    /// The beginning of a response whose pages are followed.
    pub(super) fn followed(
        mut head: response::Parts,
        opening: Vec<Bytes>,
        more: MorePages,
        report: PagingReport,
    ) -> Response<Pages> {
        remove_body_headers(&mut head.headers);
        let mut response = Self::whole(head, opening, report);
        response.body_mut().more = Some(Mutex::new(more));
        response
    }

    fn push(&mut self, pieces: Vec<Bytes>) {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        for piece in pieces {
            self.left += piece.len() as u64;
            self.pieces.push_back(piece);
        }
    }
}

impl Body for Pages {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                self.left = self.left.saturating_sub(piece.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(more) = &mut self.more else {
                let trailers = self.trailers.take();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            };
            match ready!(more.get_mut().as_mut().poll_next(cx)) {
                Some(Ok(chunk)) => {
                    self.push(chunk.pieces);
                    if chunk.is_last {
                        self.more = None;
                    }
                }
                Some(Err(error)) => {
                    self.more = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.more = None,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.trailers.is_none() && self.more.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::with_exact(self.left);
        if self.more.is_some() {
            hint = SizeHint::new();
            hint.set_lower(self.left);
        }
        hint
    }
}

body_of_inner!(PagedBody, Body);

impl<B> fmt::Debug for PagedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            EitherBody::Inner(..) => "unchanged",
            EitherBody::Made(Pages { more: None, .. }) => "all pages came",
            EitherBody::Made(_) => "pages are followed",
        };
        f.debug_tuple("PagedBody").field(&kind).finish()
    }
}
