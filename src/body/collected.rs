//! [`collect`]: a response whose body is read to its end, for a layer that makes one response of several.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Buf;
use http::header::{CONTENT_LENGTH, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Response, response};
use http_body::Body;
use tokio::time::timeout;
use tower::BoxError;

use super::frame_buffer::FrameBuffer;
#[cfg(any(feature = "ews", feature = "graph"))]
use super::inflate::Inflate;
use super::rope::Rope;
use crate::errors::{CutShort, Stalled};

/// A response whose body was read to its end.
#[derive(Debug)]
pub(crate) struct CollectedResponse {
    pub(crate) head: response::Parts,
    pub(crate) body: Rope,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Why a response was not read to its end.
#[derive(Debug)]
pub(crate) enum CollectError {
    /// It broke off, or cannot be decompressed.
    Lost(BoxError),
    /// It is longer than is accepted.
    TooLong,
}

/// How long a response may pause. Exchange works on a batch for a minute at most ("Throttling implications for EWS batch
/// requests"), so nothing comes after a longer pause.
const MAX_PAUSE: Duration = Duration::from_secs(100);

/// After this many frames other tasks have their turn.
const FRAMES_PER_TURN: usize = 1024;

/// Headers that describe the bytes of one body.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Removes the headers that describe one body alone: its length, its transfer, its digest.
pub(crate) fn remove_body_headers(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER]
        .into_iter()
        .chain(DIGESTS)
    {
        headers.remove(name);
    }
}

/// Reads a response of at most `max_response` bytes to its end, and decompresses it.
pub(crate) async fn collect<B>(
    response: Response<B>,
    max_response: u64,
) -> Result<CollectedResponse, CollectError>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let mut body = pin!(body);
    let mut frames = FrameBuffer::default();
    let mut trailers = None;
    for count in 1_usize.. {
        // A body of empty frames can go on for ever, and would let no timer run.
        if count % FRAMES_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
        // Only a body that has nothing ready sets a timer.
        let next = timeout(MAX_PAUSE, poll_fn(|cx| body.as_mut().poll_frame(cx)));
        let next = next
            .await
            .map_err(|_| CollectError::Lost(Stalled(MAX_PAUSE).into()))?;
        let frame = match next {
            None => break,
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(CollectError::Lost(error.into())),
        };
        match frame.into_data() {
            Ok(mut data) => {
                let bytes = data.copy_to_bytes(data.remaining());
                if frames.len().saturating_add(bytes.len() as u64) > max_response {
                    return Err(CollectError::TooLong);
                }
                frames.push(bytes);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let response = CollectedResponse {
        head,
        body: frames.into_rope(),
        trailers,
    };
    response
        .inflated(max_response)
        .map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => CollectError::TooLong,
            _ => CollectError::Lost(CutShort.into()),
        })
}

impl CollectedResponse {
    /// Decompresses the body, if the server has compressed it though it was not asked to.
    #[cfg(any(feature = "ews", feature = "graph"))]
    fn inflated(mut self, max_response: u64) -> io::Result<Self> {
        let Some(mut inflate) = Inflate::of(&self.head.headers, max_response) else {
            return Ok(self);
        };
        let mut plain = FrameBuffer::default();
        let mut keep = |bytes: &[u8]| plain.push(bytes::Bytes::copy_from_slice(bytes));
        for piece in self.body.pieces() {
            inflate.push(piece, &mut keep)?;
        }
        inflate.finish(&mut keep)?;
        self.body = plain.into_rope();
        self.head.headers.remove(http::header::CONTENT_ENCODING);
        remove_body_headers(&mut self.head.headers);
        Ok(self)
    }

    #[cfg(not(any(feature = "ews", feature = "graph")))]
    fn inflated(self, _: u64) -> io::Result<Self> {
        Ok(self)
    }
}
