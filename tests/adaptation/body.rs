//! The bodies of the scripted server's responses.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc::UnboundedReceiver;

/// A body that is there as a whole, or one whose frames come with time.
#[derive(Debug)]
pub(crate) enum ServerBody {
    Whole {
        frames: VecDeque<Bytes>,
        /// Whether it says that it has ended before one more frame is asked for.
        tells_end: bool,
    },
    Stream(UnboundedReceiver<Bytes>),
}

impl ServerBody {
    pub(crate) fn empty() -> Self {
        Self::whole(Vec::new(), true)
    }

    pub(crate) fn whole(frames: Vec<Bytes>, tells_end: bool) -> Self {
        Self::Whole {
            frames: frames.into(),
            tells_end,
        }
    }

    pub(crate) fn stream(frames: UnboundedReceiver<Bytes>) -> Self {
        Self::Stream(frames)
    }
}

impl Body for ServerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Whole { frames, .. } => Poll::Ready(frames.pop_front()),
            Self::Stream(frames) => frames.poll_recv(cx),
        };
        next.map(|data| data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { frames, tells_end } => *tells_end && frames.is_empty(),
            Self::Stream(_) => false,
        }
    }
}
