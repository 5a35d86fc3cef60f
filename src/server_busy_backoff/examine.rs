//! Decides on an answer by its head and, if need be, the beginning of its body.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::response;
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use super::classify::{BodyClassifier, ClassifiedResponse, Reading, Refusal, RequestClass};
use super::peek::{Prefix, Rest};
use super::report::Reporter;

/// How long the body of a refusal may take to come, when its head has said enough.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// The same, when it is only read to be kept.
const KEEP_PATIENCE: Duration = Duration::from_secs(1);

/// Reads what is still to come, and tells what it finds.
pub(super) type Scan = (Box<dyn BodyClassifier>, Reporter);

/// What becomes of an answer.
pub(super) enum Examined<ResB> {
    PassOn(Prefix, Rest<ResB>, Option<Scan>),
    Refused(Refused<ResB>),
}

pub(super) struct Refused<ResB> {
    pub(super) refusal: Refusal,
    pub(super) prefix: Prefix,
    pub(super) rest: Rest<ResB>,
    pub(super) reader: Option<Box<dyn BodyClassifier>>,
    pub(super) reporter: Reporter,
}

/// Decides on an answer by its head and, if need be, the beginning of its body. An error is an answer that broke off.
pub(super) async fn examine<ResB>(
    call: &RequestClass,
    said: ClassifiedResponse,
    body: ResB,
    mut reporter: Reporter,
    (max_prefix, max_buffered): (usize, usize),
) -> Result<Examined<ResB>, BoxError>
where
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    if let Some(refusal) = &said.refusal {
        reporter.report(refusal);
    }
    let mut prefix = Prefix::default();
    let Some(mut reader) = said.reader else {
        let rest = Rest::Untouched(body);
        return Ok(match said.refusal {
            None => Examined::PassOn(prefix, rest, None),
            Some(refusal) => Examined::Refused(Refused {
                refusal,
                prefix,
                rest,
                reader: None,
                reporter,
            }),
        });
    };

    let mut body = Box::pin(body);
    // Where the head has said enough, the body has the time to say more, but not to fail.
    let stall_timeout = said
        .refusal
        .as_ref()
        .map(|_| Instant::now() + READ_PATIENCE);
    let (whole, rest) = loop {
        let next = poll_fn(|cx| body.as_mut().poll_frame(cx));
        let next = match stall_timeout {
            None => next.await,
            Some(stall_timeout) => match tokio::time::timeout_at(stall_timeout, next).await {
                Ok(next) => next,
                Err(_) => break (true, Rest::Begun(body)),
            },
        };
        match next {
            None => match reader.end() {
                Err(error) if stall_timeout.is_none() => return Err(error),
                _ => break (true, Rest::Ended),
            },
            Some(Err(error)) if stall_timeout.is_none() => return Err(error.into()),
            Some(Err(error)) => break (true, Rest::Failed(Some(error.into()))),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    // Reported before the body is read on: at its end the permit is given back, and the next call
                    // would be sent into the lock-out.
                    reader.read(data, &mut |refusal| reporter.report(refusal));
                }
                prefix.push(frame);
            }
        }
        let enough = match reader.so_far() {
            // So many members can be refused that they fill a long answer.
            Reading::Refused(_) => call.streaming || prefix.bytes() >= max_buffered,
            Reading::Final => call.streaming || prefix.bytes() >= max_prefix,
            Reading::Open => prefix.bytes() >= max_prefix,
        };
        if enough {
            break (call.streaming, Rest::Begun(body));
        }
    };

    let refusal = match reader.so_far() {
        Reading::Refused(refusal) if whole => Some(longer(refusal, said.refusal)),
        // The members not seen yet may have been executed.
        Reading::Refused(_) | Reading::Final => None,
        Reading::Open => said.refusal,
    };
    Ok(match refusal {
        None => Examined::PassOn(prefix, rest, Some((reader, reporter))),
        Some(refusal) => Examined::Refused(Refused {
            refusal,
            prefix,
            rest,
            reader: Some(reader),
            reporter,
        }),
    })
}

/// The body's word, with the longer hint of both.
fn longer(body: Refusal, head: Option<Refusal>) -> Refusal {
    let hint = body.hint.max(head.and_then(|head| head.hint));
    Refusal { hint, ..body }
}

/// Reads a refusal to its end, so that it can be handed over later, and lets go of its connection and permit.
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
    tokio::time::timeout(KEEP_PATIENCE, read_on).await.ok()??;
    Some((head, prefix))
}
