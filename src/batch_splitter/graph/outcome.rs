//! What follows from the status of one request, and of a batch as a whole.

use std::time::Duration;

use http::StatusCode;

use crate::batch_splitter::format::{Idempotency, MemberOutcome, PartOutcome, Retry};
use crate::retry::{MAX_LOSS_RETRIES, StatusMeaning};

/// What a status means, as for a call of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusClass {
    /// It was executed.
    Done,
    /// It was not executed, and will be when there is room again.
    Throttled,
    /// It was not executed, and is worth a few more tries.
    TooEarly,
    /// It is not known whether it was executed.
    Unknown,
    /// It was not executed, and will not be.
    Refused,
}

pub(super) fn status_class(status: u16) -> StatusClass {
    // Graph's bandwidth limit.
    if status == 509 {
        return StatusClass::Throttled;
    }
    let status = StatusCode::from_u16(status);
    match status.map_or(StatusMeaning::Unclear, StatusMeaning::of) {
        StatusMeaning::Success | StatusMeaning::Redirect => StatusClass::Done,
        StatusMeaning::Throttled => StatusClass::Throttled,
        StatusMeaning::TooEarly => StatusClass::TooEarly,
        StatusMeaning::TooLarge
        | StatusMeaning::OfCaller
        | StatusMeaning::OfRequest
        | StatusMeaning::Unable => StatusClass::Refused,
        StatusMeaning::Unclear => StatusClass::Unknown,
    }
}

/// Returns what follows for one request from its status, but for 424.
pub(super) fn of_member(
    status: Option<u16>,
    idempotency: Idempotency,
    retry_after: Option<Duration>,
) -> MemberOutcome {
    let retry = Retry::new(retry_after).max_retries(MAX_LOSS_RETRIES);
    match status.map_or(StatusClass::Unknown, status_class) {
        StatusClass::Done => MemberOutcome::Done,
        StatusClass::Throttled => MemberOutcome::retry(retry_after),
        StatusClass::TooEarly => MemberOutcome::Retry(retry),
        StatusClass::Refused => MemberOutcome::Failed,
        StatusClass::Unknown => match idempotency {
            Idempotency::Safe => MemberOutcome::Retry(retry),
            Idempotency::Idempotent => MemberOutcome::Retry(retry.maybe_executed()),
            Idempotency::NonIdempotent => MemberOutcome::Unknown,
        },
    }
}

/// Returns what follows for a whole part from a response that says nothing of its requests, and whether it was too large.
pub(super) fn of_part(
    status: StatusCode,
    members: usize,
    idempotency: Idempotency,
    retry_after: Option<Duration>,
) -> (PartOutcome, bool) {
    let retry = Retry::new(retry_after).max_retries(MAX_LOSS_RETRIES);
    let several = members > 1;
    let meaning = StatusMeaning::of(status);
    let status = status.as_u16();
    match status_class(status) {
        // To a login page, or to another server.
        StatusClass::Done if status >= 300 => (PartOutcome::FailedForAll, false),
        // What is no response to a batch is none the next time either, unless one request is to blame.
        StatusClass::Done if idempotency == Idempotency::Safe => (PartOutcome::Failed, false),
        StatusClass::Done => (PartOutcome::Unknown, false),
        StatusClass::Throttled => (PartOutcome::retry(retry_after), false),
        StatusClass::TooEarly => (PartOutcome::Retry(retry), status == 408 && several),
        StatusClass::Refused => match meaning {
            StatusMeaning::TooLarge => (PartOutcome::Failed, several),
            // There is one path for all batches.
            StatusMeaning::OfRequest if status != 404 => (PartOutcome::Failed, false),
            _ => (PartOutcome::FailedForAll, false),
        },
        // One request may cause a crash, and their number a time-out: fewer at a time find out.
        StatusClass::Unknown => {
            let outcome = match idempotency {
                Idempotency::Safe => PartOutcome::Retry(retry),
                Idempotency::Idempotent => PartOutcome::Retry(retry.maybe_executed()),
                Idempotency::NonIdempotent => PartOutcome::Unknown,
            };
            (outcome, several)
        }
    }
}
