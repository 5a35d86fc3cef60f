//! Reads the beginning of a response body, to decide whether the response is a refusal.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::response;
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::classify::{BodyClassifier, Reading, Refusal, RequestClass};
use super::peek::{Prefix, Rest, Scan};
use super::report::Reporter;

/// How long the body of a refusal is read that the head has already told.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the body of a refusal is read that is only kept.
const KEEP_TIMEOUT: Duration = Duration::from_secs(1);

/// What is read and kept of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadLimits {
    /// Bytes that are read before a response is handed on.
    pub(super) max_prefix: usize,
    /// Bytes of a refusal that are kept.
    pub(super) max_buffered: usize,
}

/// What a response is.
pub(super) enum Examined<ResB> {
    Accepted(Prefix, Rest<ResB>, Scan),
    Refused(RefusedResponse<ResB>),
}

/// The body of a refusal, as far as it was read.
pub(super) struct RefusedResponse<ResB> {
    pub(super) refusal: Refusal,
    pub(super) prefix: Prefix,
    pub(super) rest: Rest<ResB>,
    pub(super) classifier: Option<Box<dyn BodyClassifier>>,
    pub(super) reporter: Reporter,
}

impl<ResB> RefusedResponse<ResB> {
    /// A refusal whose head tells all.
    pub(super) fn untouched(refusal: Refusal, body: ResB, reporter: Reporter) -> Self {
        Self {
            refusal,
            prefix: Prefix::default(),
            rest: Rest::Untouched(body),
            classifier: None,
            reporter,
        }
    }
}

/// Decides by the beginning of the body. `by_head` is the refusal that the head told. An error means that the response
/// broke off.
pub(super) async fn examine<ResB>(
    class: &RequestClass,
    by_head: Option<Refusal>,
    mut classifier: Box<dyn BodyClassifier>,
    body: ResB,
    mut reporter: Reporter,
    limits: ReadLimits,
) -> Result<Examined<ResB>, BoxError>
where
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    let mut prefix = Prefix::default();
    let mut body = Box::pin(body);
    // A refusal that the head told stays one, even if its body fails or does not end.
    let timeout = by_head.as_ref().map(|_| Instant::now() + READ_TIMEOUT);
    let (complete, rest) = loop {
        let next = poll_fn(|cx| body.as_mut().poll_frame(cx));
        let next = match timeout {
            None => next.await,
            Some(timeout) => match tokio::time::timeout_at(timeout, next).await {
                Ok(next) => next,
                Err(_) => break (true, Rest::Begun(body)),
            },
        };
        match next {
            None => match classifier.end() {
                Err(error) if timeout.is_none() => return Err(error),
                _ => break (true, Rest::Ended),
            },
            Some(Err(error)) if timeout.is_none() => return Err(error.into()),
            Some(Err(error)) => break (true, Rest::Failed(Some(error.into()))),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    // Reported before the body is read on: at its end the permit is released, and the next call would
                    // be sent into the lock-out.
                    classifier.read(data, &mut |refusal| reporter.report(refusal));
                }
                prefix.push(frame);
            }
        }
        let enough = match classifier.so_far() {
            // The refusals of many members can fill a long response.
            Reading::Refused(_) => class.streaming || prefix.bytes() >= limits.max_buffered,
            Reading::Final => class.streaming || prefix.bytes() >= limits.max_prefix,
            Reading::Open => prefix.bytes() >= limits.max_prefix,
        };
        if enough {
            break (class.streaming, Rest::Begun(body));
        }
    };

    let refusal = match classifier.so_far() {
        Reading::Refused(refusal) if complete => Some(with_longer_wait(refusal, by_head)),
        // The members that were not read yet may have been executed.
        Reading::Refused(_) | Reading::Final => None,
        Reading::Open => by_head,
    };
    Ok(match refusal {
        None => Examined::Accepted(
            prefix,
            rest,
            Scan {
                classifier,
                reporter,
            },
        ),
        Some(refusal) => Examined::Refused(RefusedResponse {
            refusal,
            prefix,
            rest,
            classifier: Some(classifier),
            reporter,
        }),
    })
}

/// The refusal that the body told, with the longer wait of body and head.
fn with_longer_wait(by_body: Refusal, by_head: Option<Refusal>) -> Refusal {
    let head_wait = by_head.and_then(|refusal| refusal.retry_after);
    Refusal {
        retry_after: by_body.retry_after.max(head_wait),
        ..by_body
    }
}

/// Reads a refusal to its end, so that it can be handed on later, and releases its connection and permit.
pub(super) async fn keep<ResB>(
    head: response::Parts,
    mut prefix: Prefix,
    rest: Rest<ResB>,
    max_buffered: usize,
) -> Option<(response::Parts, Prefix)>
where
    ResB: Body<Data = Bytes>,
{
    let mut body = match rest {
        Rest::Ended => return Some((head, prefix)),
        Rest::Failed(_) => return None,
        Rest::Untouched(body) => Box::pin(body),
        Rest::Begun(body) => body,
    };
    let read_on = async {
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            prefix.push(frame.ok()?);
            if prefix.bytes() > max_buffered {
                return None;
            }
        }
        Some(())
    };
    tokio::time::timeout(KEEP_TIMEOUT, read_on).await.ok()??;
    Some((head, prefix))
}
