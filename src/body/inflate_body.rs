//! [`InflateBody`]: a response body that is decompressed while it is read.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::response;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tower::BoxError;

use super::inflate::{Inflate, STEP};
use crate::errors::CutShort;

/// A response body as its server sent it, or decompressed.
#[pin_project]
pub(crate) struct InflateBody<B: Body> {
    #[pin]
    inner: B,
    coded: Option<Box<Coded>>,
    /// See `PeekBody`, which cannot have a bound `B::Error: Into<BoxError>` either.
    into_box_error: fn(B::Error) -> BoxError,
}

struct Coded {
    inflate: Inflate,
    /// Compressed bytes that came and were not read yet, so that little comes out at a time.
    pending: Bytes,
    ended: bool,
}

impl<B> InflateBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Wraps a body as it is.
    pub(crate) fn plain(inner: B) -> Self {
        Self {
            inner,
            coded: None,
            into_box_error: B::Error::into,
        }
    }

    /// Wraps a body that is decompressed if `head` says that it is compressed. The head then no longer says so.
    pub(crate) fn inflated(head: &mut response::Parts, inner: B) -> Self {
        let coded = Inflate::of(&head.headers, u64::MAX).map(|inflate| {
            head.headers.remove(CONTENT_ENCODING);
            head.headers.remove(CONTENT_LENGTH);
            Box::new(Coded {
                inflate,
                pending: Bytes::new(),
                ended: false,
            })
        });
        Self {
            coded,
            ..Self::plain(inner)
        }
    }
}

impl Coded {
    /// Decompresses some of what came. Returns nothing if nothing comes out of it.
    fn step(&mut self) -> Result<Option<Bytes>, BoxError> {
        let step = self.pending.split_to(self.pending.len().min(STEP));
        let mut plain = Vec::new();
        let read = self
            .inflate
            .push(&step, |bytes| plain.extend_from_slice(bytes));
        read.map_err(|_| CutShort)?;
        Ok((!plain.is_empty()).then(|| plain.into()))
    }

    fn finish(&mut self) -> Result<Option<Bytes>, BoxError> {
        self.ended = true;
        let mut plain = Vec::new();
        let read = self.inflate.finish(|bytes| plain.extend_from_slice(bytes));
        read.map_err(|_| CutShort)?;
        Ok((!plain.is_empty()).then(|| plain.into()))
    }
}

impl<B: Body<Data = Bytes>> Body for InflateBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(coded) = this.coded else {
            let frame = ready!(this.inner.poll_frame(cx));
            return Poll::Ready(frame.map(|frame| frame.map_err(this.into_box_error)));
        };
        loop {
            while coded.pending.has_remaining() {
                if let Some(plain) = coded.step()? {
                    return Poll::Ready(Some(Ok(Frame::data(plain))));
                }
            }
            if coded.ended {
                return Poll::Ready(None);
            }
            match ready!(this.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => coded.pending = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err((this.into_box_error)(error)))),
                None => {
                    let rest = coded.finish()?;
                    return Poll::Ready(rest.map(|plain| Ok(Frame::data(plain))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.coded {
            None => self.inner.is_end_stream(),
            Some(coded) => coded.ended && coded.pending.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.coded {
            None => self.inner.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

impl<B: Body> fmt::Debug for InflateBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InflateBody")
            .field("compressed", &self.coded.is_some())
            .finish_non_exhaustive()
    }
}
