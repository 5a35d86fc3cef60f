//! Reads the beginning of a response body, to decide whether the response is a refusal.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::response;
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::classify::{BodyClassifier, Idempotency, Reading, Refusal, RequestClass};
use super::peek::{Prefix, Rest, Scan};
use super::report::Reporter;
use crate::extensions::Deadline;

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

/// What a response is whose beginning is not complete.
pub(super) enum Broken {
    Off(BoxError),
    /// It had not come when its attempt had to be over.
    TooSlow,
}

/// The beginning of a body, as far as it was read.
struct Beginning<ResB> {
    prefix: Prefix,
    rest: Rest<ResB>,
    /// Whether what was read speaks for the whole response.
    complete: bool,
}

/// Decides by the beginning of the body. `by_head` is the refusal that the head told. `end` is when the attempt has to be over.
pub(super) async fn examine<ResB>(
    class: &RequestClass,
    by_head: Option<Refusal>,
    classifier: Box<dyn BodyClassifier>,
    body: ResB,
    reporter: Reporter,
    limits: ReadLimits,
    end: Instant,
) -> Result<Examined<ResB>, Broken>
where
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    let mut scan = Scan {
        classifier,
        reporter,
    };
    let refused = by_head.is_some();
    let Beginning {
        prefix,
        rest,
        complete,
    } = read_beginning(class, refused, &mut scan, body, limits, end).await?;
    let refusal = verdict(scan.classifier.so_far(), by_head, complete);
    Ok(match refusal {
        None => Examined::Accepted(prefix, rest, scan),
        Some(refusal) => Examined::Refused(RefusedResponse {
            refusal,
            prefix,
            rest,
            classifier: Some(scan.classifier),
            reporter: scan.reporter,
        }),
    })
}

/// Reads as much of the body as the verdict needs. A response that its head has `refused` stays so, even if its body fails or
/// does not end.
async fn read_beginning<ResB>(
    class: &RequestClass,
    refused: bool,
    scan: &mut Scan,
    body: ResB,
    limits: ReadLimits,
    end: Instant,
) -> Result<Beginning<ResB>, Broken>
where
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    let Scan {
        classifier,
        reporter,
    } = scan;
    let mut prefix = Prefix::default();
    let mut body = Box::pin(body);
    let is_handed_on = class.streaming || class.idempotency == Idempotency::NonIdempotent;
    let timeout = Deadline(match refused {
        true => end.min(Instant::now() + READ_TIMEOUT),
        false => end,
    });
    let (complete, rest) = loop {
        let next = poll_fn(|cx| body.as_mut().poll_frame(cx));
        match timeout.bound(next).await {
            None if refused => break (classifier.end().is_ok(), Rest::Begun(body)),
            // The rest of a response that is handed on in any case has no deadline. What may be repeated is asked for again.
            None if is_handed_on && matches!(classifier.so_far(), Reading::Final) => {
                break (false, Rest::Begun(body));
            }
            None => return Err(Broken::TooSlow),
            Some(None) => match classifier.end() {
                Err(error) if !refused => return Err(Broken::Off(error)),
                ended => break (ended.is_ok(), Rest::Ended),
            },
            Some(Some(Err(error))) if !refused => return Err(Broken::Off(error.into())),
            Some(Some(Err(error))) => {
                let rest = Rest::Failed(Some(error.into()));
                break (classifier.end().is_ok(), rest);
            }
            Some(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    // Reported before the body is read on: at its end the permit is released, and the next call would
                    // be sent into the lock-out.
                    classifier.read(data, &mut |refusal| reporter.report(refusal));
                }
                prefix.push(frame);
            }
        }
        if is_enough(class, &classifier.so_far(), prefix.bytes(), limits) {
            break (class.streaming, Rest::Begun(body));
        }
    };
    Ok(Beginning {
        prefix,
        rest,
        complete,
    })
}

/// Whether no more than these bytes has to be read.
fn is_enough(class: &RequestClass, reading: &Reading, bytes: usize, limits: ReadLimits) -> bool {
    match reading {
        // The refusals of many members can fill a long response.
        Reading::Refused(_) => class.streaming || bytes >= limits.max_buffered,
        Reading::Final => class.streaming || bytes >= limits.max_prefix,
        Reading::Open => bytes >= limits.max_prefix,
    }
}

/// Returns the refusal that a response is, by its body and by its head. `complete` if what was read of the body speaks for all
/// of it.
fn verdict(by_body: Reading, by_head: Option<Refusal>, complete: bool) -> Option<Refusal> {
    match (by_body, by_head) {
        (Reading::Refused(by_body), by_head) if complete => {
            Some(with_longer_wait(by_body, by_head.as_ref()))
        }
        // The members that were not read may have been executed, so the head alone speaks for all.
        (Reading::Refused(by_body), Some(by_head)) => {
            Some(with_longer_wait(by_head, Some(&by_body)))
        }
        (Reading::Refused(_) | Reading::Final, _) => None,
        (Reading::Open, by_head) => by_head,
    }
}

/// A refusal with the longer wait of its own and of `other`.
fn with_longer_wait(refusal: Refusal, other: Option<&Refusal>) -> Refusal {
    let other_wait = other.and_then(|other| other.retry_after);
    Refusal {
        retry_after: refusal.retry_after.max(other_wait),
        ..refusal
    }
}

/// Reads a refusal to its end, so that it can be handed on later, and releases its connection and permit.
pub(super) async fn keep<ResB>(
    head: response::Parts,
    mut prefix: Prefix,
    rest: Rest<ResB>,
    max_buffered: usize,
    deadline: Deadline,
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
    let deadline = deadline.min(Deadline::within(KEEP_TIMEOUT));
    deadline.bound(read_on).await??;
    Some((head, prefix))
}
