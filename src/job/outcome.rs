//! [`JobOutcome`]: what became of a call, as far as its response or error says.

use bytes::Bytes;
use http::Response;
use tower::BoxError;

use crate::retry::{Failure, RetryInfo};

/// What became of a call of a job.
///
/// ```
/// use tower_ews::job::JobOutcome;
///
/// assert_ne!(JobOutcome::Done, JobOutcome::InDoubt);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobOutcome {
    /// The server has responded to it: it is not made again. Members of a batch may have failed.
    Done,
    /// It was not executed: another run makes it again.
    NotExecuted,
    /// Nobody knows whether it was executed. It is listed, and not made again by itself.
    InDoubt,
}

/// What a response or an error says, where the user of the job does not say it.
pub(super) fn outcome(result: &Result<Response<Bytes>, BoxError>) -> JobOutcome {
    let response = match result {
        Ok(response) => response,
        Err(error) => {
            return match Failure::of(&**error) {
                Failure::NotSent => JobOutcome::NotExecuted,
                Failure::Lost | Failure::Permanent => JobOutcome::InDoubt,
            };
        }
    };
    let status = response.status();
    match response.extensions().get::<RetryInfo>() {
        Some(info) if info.outcome_unknown => JobOutcome::InDoubt,
        Some(info) if info.gave_up => JobOutcome::NotExecuted,
        _ if status.is_success() => JobOutcome::Done,
        _ if status.is_server_error() => of_fault(response.body()),
        _ => JobOutcome::NotExecuted,
    }
}

#[cfg(feature = "ews")]
fn of_fault(body: &[u8]) -> JobOutcome {
    use crate::soap::{Outcome, SoapResponse};

    let response = SoapResponse::parse(body).ok();
    let fault = response.as_ref().and_then(SoapResponse::fault);
    match fault.map(|fault| fault.code.outcome()) {
        Some(Outcome::NotExecuted) => JobOutcome::NotExecuted,
        _ => JobOutcome::InDoubt,
    }
}

#[cfg(not(feature = "ews"))]
fn of_fault(_: &[u8]) -> JobOutcome {
    JobOutcome::InDoubt
}
