//! [`NtlmBody`]: a response body that keeps its connection from other calls.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// A response body. Its connection goes back to the others of its credential once the body has ended. A body that is dropped before
/// closes it.
pub struct NtlmBody {
    body: Incoming,
    lease: Option<Box<dyn Send + Sync>>,
}

impl NtlmBody {
    pub(crate) fn new(body: Incoming, lease: impl Send + Sync + 'static) -> Self {
        Self {
            body,
            lease: Some(Box::new(lease)),
        }
    }
}

impl Body for NtlmBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.lease = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for NtlmBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NtlmBody").finish_non_exhaustive()
    }
}
