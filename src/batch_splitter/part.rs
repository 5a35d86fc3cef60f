//! One part on its way: the request, and the whole answer to it.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Buf;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response, request, response};
use http_body::Body;
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::body::ReplayBody;
use crate::body::rope::Rope;
use crate::errors::CredentialsError;
use crate::ledger::{AdmissionSlot, Requeue};
use crate::retry::Failure;
use crate::trail::{CallTrail, CanShrink, RetryAttempt};

/// What became of a part.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered(Box<Answer>),
    /// Nothing was sent, and it is worth another try.
    NotSent(BoxError),
    /// Nothing was sent, and nothing will be.
    Unsendable(BoxError),
    /// It may have been executed.
    Lost(BoxError),
    /// It may have been executed, and nothing is known about the error.
    Failed(BoxError),
    /// Its answer has more bytes than are taken in.
    TooLong,
}

/// The whole answer to a part.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: response::Parts,
    pub(super) body: Rope,
    pub(super) trailers: Option<HeaderMap>,
}

/// A part that has come back.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) members: Vec<usize>,
    pub(super) outcome: Outcome,
    /// What its last attempt was charged, and when.
    pub(super) slot: AdmissionSlot,
    pub(super) began: Instant,
}

/// What is said of the bytes of a body: of no other one.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Takes out what was true of one body alone: how long it is, how it is transferred, what it adds up to.
pub(super) fn forget_body(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER]
        .into_iter()
        .chain(DIGESTS)
    {
        headers.remove(name);
    }
}

/// What all parts' requests have in common.
pub(super) fn shared_head(mut head: request::Parts) -> request::Parts {
    forget_body(&mut head.headers);
    // Answers that are compressed cannot be put together.
    head.headers.remove(ACCEPT_ENCODING);
    head
}

/// The request of one part.
pub(super) fn request(
    head: &request::Parts,
    body: ReplayBody,
    trail: Option<&CallTrail>,
    slot: &AdmissionSlot,
    ticket: Option<u64>,
    first: bool,
    can_shrink: bool,
) -> Request<ReplayBody> {
    let mut request = Request::from_parts(head.clone(), body);
    let extensions = request.extensions_mut();
    if let Some(trail) = trail {
        extensions.insert(trail.clone());
    }
    extensions.insert(slot.clone());
    if let Some(ticket) = ticket {
        extensions.insert(Requeue::new().ticket(ticket));
    }
    if !first {
        extensions.insert(RetryAttempt);
    }
    if can_shrink {
        extensions.insert(CanShrink);
    }
    request
}

/// Sends a part, and reads its answer at once: whoever holds something for it lets go of it then.
pub(super) async fn send<S, B>(
    service: S,
    request: Request<ReplayBody>,
    max_response: u64,
) -> Outcome
where
    S: Service<Request<ReplayBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut service = service;
    let trail = CallTrail::of(request.extensions()).cloned();
    let calling = match service.ready().await {
        Ok(service) => service.call(request),
        Err(error) => {
            let error = error.into();
            return match Failure::of(&*error) {
                Failure::Permanent => Outcome::Unsendable(error),
                Failure::NotSent | Failure::Lost => Outcome::NotSent(error),
            };
        }
    };
    let answer = match calling.await {
        Ok(answer) => answer,
        Err(error) => {
            let error = error.into();
            return match Failure::of(&*error) {
                // Who could not fetch them knows best what is worth another try.
                Failure::NotSent if error.is::<CredentialsError>() => Outcome::Unsendable(error),
                Failure::NotSent => Outcome::NotSent(error),
                Failure::Lost => Outcome::Lost(error),
                Failure::Permanent => Outcome::Failed(error),
            };
        }
    };
    let (head, body) = answer.into_parts();
    if let Some(trail) = trail {
        trail.record(|attempt| {
            attempt.status.get_or_insert(head.status);
            attempt.responded.get_or_insert_with(Instant::now);
        });
    }
    let mut body = pin!(body);
    let mut rope = Rope::new();
    let mut trailers = None;
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = match frame {
            Ok(frame) => frame,
            // An answer had begun, whatever the error proves.
            Err(error) => return Outcome::Lost(error.into()),
        };
        match frame.into_data() {
            Ok(mut data) => {
                let bytes = data.copy_to_bytes(data.remaining());
                if rope.len().saturating_add(bytes.len() as u64) > max_response {
                    return Outcome::TooLong;
                }
                rope.push(bytes);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Outcome::Answered(Box::new(Answer {
        head,
        body: rope,
        trailers,
    }))
}
