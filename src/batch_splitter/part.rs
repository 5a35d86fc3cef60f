//! One part on its way: the request, and the complete response to it.

use std::future::poll_fn;
use std::io;
use std::pin::pin;

use bytes::Buf;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response, request, response};
use http_body::Body;
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::body::ReplayBody;
use crate::body::frame_buffer::FrameBuffer;
#[cfg(any(feature = "ews", feature = "graph"))]
use crate::body::inflate::Inflate;
use crate::body::rope::Rope;
use crate::errors::{AccessDenied, CredentialsError, CutShort};
use crate::retry::Failure;
use crate::trail::CallTrail;

/// How the exchange with the server ended.
#[derive(Debug)]
pub(super) enum SendResult {
    Response(Box<CollectedResponse>),
    /// Nothing was sent, and it is worth another try.
    NotSent(BoxError),
    /// Nothing was sent, and nothing will be.
    Unsendable(BoxError),
    /// The connection or the response was lost, so that the part may have been executed.
    Lost(BoxError),
    /// An error of a kind that is not known: the part may have been executed.
    Unclassified(BoxError),
    /// The response is longer than is accepted.
    TooLong,
    /// The time of the call was over before the response was complete.
    TooLate,
}

/// A response whose body was read to its end.
#[derive(Debug)]
pub(super) struct CollectedResponse {
    pub(super) head: response::Parts,
    pub(super) body: Rope,
    pub(super) trailers: Option<HeaderMap>,
}

/// After so many frames other tasks have their turn.
const FRAMES_PER_TURN: usize = 1024;

/// Headers that describe the bytes of one body.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Removes the headers that describe one body alone: its length, its transfer, its digest.
pub(super) fn remove_body_headers(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER]
        .into_iter()
        .chain(DIGESTS)
    {
        headers.remove(name);
    }
}

/// Returns what the requests of all parts have in common.
pub(super) fn shared_head(mut head: request::Parts) -> request::Parts {
    remove_body_headers(&mut head.headers);
    // Compressed responses cannot be merged.
    head.headers.remove(ACCEPT_ENCODING);
    head
}

/// Sends a part, and reads its response at once, so that whatever is held for it is released.
pub(super) async fn send<S, B>(
    mut service: S,
    request: Request<ReplayBody>,
    max_response: u64,
) -> SendResult
where
    S: Service<Request<ReplayBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    let trail = CallTrail::of(request.extensions()).cloned();
    let calling = match service.ready().await {
        Ok(service) => service.call(request),
        Err(error) => {
            let error = error.into();
            return match Failure::of(&*error) {
                Failure::Permanent => SendResult::Unsendable(error),
                Failure::NotSent | Failure::Lost => SendResult::NotSent(error),
            };
        }
    };
    let response = match calling.await {
        Ok(response) => response,
        Err(error) => {
            let error = error.into();
            return match Failure::of(&*error) {
                // Who could not fetch them knows best what is worth another try.
                Failure::NotSent
                    if error.is::<CredentialsError>() || error.is::<AccessDenied>() =>
                {
                    SendResult::Unsendable(error)
                }
                Failure::NotSent => SendResult::NotSent(error),
                Failure::Lost => SendResult::Lost(error),
                Failure::Permanent => SendResult::Unclassified(error),
            };
        }
    };
    if let Some(trail) = trail {
        let status = response.status();
        trail.record(|attempt| {
            attempt.status.get_or_insert(status);
            attempt.responded.get_or_insert_with(Instant::now);
        });
    }
    collect(response, max_response).await
}

async fn collect<B>(response: Response<B>, max_response: u64) -> SendResult
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
        let frame = match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            None => break,
            Some(Ok(frame)) => frame,
            // A response had begun, whatever the error proves.
            Some(Err(error)) => return SendResult::Lost(error.into()),
        };
        match frame.into_data() {
            Ok(mut data) => {
                let bytes = data.copy_to_bytes(data.remaining());
                if frames.len().saturating_add(bytes.len() as u64) > max_response {
                    return SendResult::TooLong;
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
    match response.inflated(max_response) {
        Ok(response) => SendResult::Response(Box::new(response)),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => SendResult::TooLong,
        Err(_) => SendResult::Lost(CutShort.into()),
    }
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
