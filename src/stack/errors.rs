//! What an error of the stack means: how long the server is busy, and which HTTP status and SOAP fault stand for it.

use std::error::Error as StdError;
use std::iter;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use tower::BoxError;

use crate::anchor_headers::AnchorError;
use crate::batch_splitter::BatchError;
use crate::body::BufferRequestError;
use crate::errors::{AccessDenied, BackoffError, DeadlineElapsed};
use crate::find_paging::PageFailure;
use crate::ledger::AcquireError;
use crate::retry::source;
use crate::server_busy_backoff::Failure;
use crate::soap::ResponseCode;

/// Returns for how long the server is still busy, if that is why the call failed and the server has said it.
///
/// A call that ended with the server's own response has it in
/// [`RetryInfo::retry_after`](crate::server_busy_backoff::RetryInfo::retry_after).
///
/// ```
/// use std::time::Duration;
/// use tower_ews::ledger::{AcquireError, Contended};
/// use tower_ews::principal::Principal;
/// use tower_ews::stack::busy_for;
///
/// let error = AcquireError::GateTooLate {
///     wait: Duration::from_secs(300),
///     contended: Contended::Gate(Principal::account("svc@contoso.com")),
/// };
/// assert_eq!(busy_for(&error.into()), Some(Duration::from_secs(300)));
/// assert_eq!(busy_for(&"connection reset".into()), None);
/// ```
pub fn busy_for(error: &BoxError) -> Option<Duration> {
    chain(error).find_map(|error| {
        if let Some(AcquireError::GateTooLate { wait, .. }) = error.downcast_ref() {
            return Some(*wait);
        }
        match error.downcast_ref()? {
            BackoffError::NotSent {
                closed_until: Some(until),
                ..
            } => Some(until.saturating_duration_since(Instant::now())),
            _ => None,
        }
    })
}

/// Returns the HTTP status that stands for an error of the stack.
///
/// | status | when |
/// | --- | --- |
/// | 400 | the request body failed or has a character that XML does not allow, or its mailbox makes no header |
/// | 401, 403 | the server has refused access a short time ago |
/// | 413 | the request body is too large |
/// | 503 | nothing was sent: the server or the ledger is busy, or there are no credentials |
/// | 504 | the deadline passed, and nothing was changed on the server; also if it could not be reached until then |
/// | 502 | anything else: the response was lost or cannot be read, or an error of the client is unknown, and the request may have been executed |
///
/// ```
/// use http::{Response, StatusCode};
/// use tower::BoxError;
/// use tower_ews::stack::{busy_for, status_of};
///
/// /// The response of a gateway.
/// fn respond(error: &BoxError) -> Response<String> {
///     let mut response = Response::new(error.to_string());
///     *response.status_mut() = status_of(error);
///     if let Some(time) = busy_for(error) {
///         response.headers_mut().insert("retry-after", time.as_secs().max(1).into());
///     }
///     response
/// }
///
/// assert_eq!(respond(&"connection reset".into()).status(), StatusCode::BAD_GATEWAY);
/// ```
pub fn status_of(error: &BoxError) -> StatusCode {
    match Meaning::of(error) {
        Meaning::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Meaning::BadBody | Meaning::BadMailbox => StatusCode::BAD_REQUEST,
        Meaning::Denied(status) => status,
        Meaning::NotSent => StatusCode::SERVICE_UNAVAILABLE,
        Meaning::TooLate => StatusCode::GATEWAY_TIMEOUT,
        Meaning::Unknown => StatusCode::BAD_GATEWAY,
    }
}

/// Returns the response code of the SOAP fault that stands for an error of the stack.
///
/// It says the same about the outcome as the error does: `ErrorServerBusy` where nothing was executed and the request may be
/// sent again, `ErrorInternalServerError` where it may have been executed.
///
/// ```
/// use tower_ews::ledger::AcquireError;
/// use tower_ews::soap::ResponseCode;
/// use tower_ews::stack::fault_of;
///
/// let error = AcquireError::QueueFull { queued: 100_000 };
/// assert_eq!(fault_of(&error.into()), ResponseCode::SERVER_BUSY);
/// ```
pub fn fault_of(error: &BoxError) -> ResponseCode {
    match Meaning::of(error) {
        Meaning::TooLarge => ResponseCode::from_text("ErrorRequestStreamTooBig"),
        Meaning::BadBody => ResponseCode::from_text("ErrorInvalidRequest"),
        Meaning::BadMailbox => ResponseCode::from_text("ErrorInvalidSmtpAddress"),
        Meaning::Denied(_) => ResponseCode::from_text("ErrorAccessDenied"),
        Meaning::NotSent | Meaning::TooLate => ResponseCode::SERVER_BUSY,
        Meaning::Unknown => ResponseCode::INTERNAL_SERVER_ERROR,
    }
}

/// What an error says to whoever made the request.
enum Meaning {
    TooLarge,
    BadBody,
    BadMailbox,
    /// Nothing was sent.
    NotSent,
    /// Access is refused, with this status.
    Denied(StatusCode),
    /// The deadline passed, and nothing was changed.
    TooLate,
    /// The request may have been executed.
    Unknown,
}

impl Meaning {
    fn of(error: &BoxError) -> Self {
        let known = chain(error).find_map(Self::of_one);
        known.unwrap_or_else(|| match Failure::of(&**error) {
            Failure::NotSent => Self::NotSent,
            _ => Self::Unknown,
        })
    }

    /// None where the type does not decide it.
    fn of_one(error: &(dyn StdError + 'static)) -> Option<Self> {
        if error.is::<AnchorError>() {
            return Some(Self::BadMailbox);
        }
        if error.is::<DeadlineElapsed>() {
            return Some(Self::TooLate);
        }
        if let Some(denied) = error.downcast_ref::<AccessDenied>() {
            return Some(Self::Denied(denied.status()));
        }
        if let Some(error) = error.downcast_ref() {
            return Some(match error {
                BufferRequestError::TooLarge { .. } => Self::TooLarge,
                BufferRequestError::Body(_) | BufferRequestError::InvalidCharacter(_) => {
                    Self::BadBody
                }
            });
        }
        if let Some(error) = error.downcast_ref() {
            return Some(match error {
                BatchError::NotBegun { .. } => Self::TooLate,
                _ => Self::Unknown,
            });
        }
        if let Some(PageFailure::TimedOut) = error.downcast_ref() {
            return Some(Self::TooLate);
        }
        match error.downcast_ref()? {
            BackoffError::DeadlinePassed { .. } => Some(Self::TooLate),
            BackoffError::NotSent { .. } => None,
            _ => Some(Self::Unknown),
        }
    }
}

/// The error and its sources.
fn chain(error: &BoxError) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let first: &(dyn StdError + 'static) = &**error;
    iter::successors(Some(first), |&error| source(error))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::errors::CredentialsError;
    use crate::extensions::{Caller, Deadline};
    use crate::ledger::Contended;
    use crate::principal::Principal;

    fn not_sent(closed_for: Option<Duration>, source: BoxError) -> BoxError {
        let at = Instant::now();
        BackoffError::NotSent {
            operation: "GetItem".into(),
            at,
            closed_until: closed_for.map(|time| at + time),
            source,
        }
        .into()
    }

    #[tokio::test(start_paused = true)]
    async fn each_error_has_a_status_and_a_fault() {
        const BUSY: (u16, &str) = (503, "ErrorServerBusy");
        const LATE: (u16, &str) = (504, "ErrorServerBusy");
        const UNKNOWN: (u16, &str) = (502, "ErrorInternalServerError");
        let late = || {
            let past = Deadline(Instant::now() - Duration::from_secs(1));
            BoxError::from(DeadlineElapsed::of(Some(past)).unwrap())
        };
        let gate = AcquireError::GateTooLate {
            wait: Duration::from_secs(60),
            contended: Contended::Gate(Principal::account("svc")),
        };
        let reset = || BoxError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let operation = || Box::<str>::from("CreateItem");
        let cases: Vec<(BoxError, (u16, &str))> = vec![
            (
                BufferRequestError::TooLarge { limit: 1 }.into(),
                (413, "ErrorRequestStreamTooBig"),
            ),
            (
                BufferRequestError::Body(reset()).into(),
                (400, "ErrorInvalidRequest"),
            ),
            (
                AnchorError::NotAscii {
                    mailbox: "é".into(),
                }
                .into(),
                (400, "ErrorInvalidSmtpAddress"),
            ),
            (AcquireError::QueueFull { queued: 7 }.into(), BUSY),
            (gate.clone().into(), BUSY),
            (AcquireError::unavailable(reset()).into(), BUSY),
            (
                CredentialsError::new(Caller::new("svc"), reset()).into(),
                BUSY,
            ),
            (late(), LATE),
            (not_sent(None, late()), LATE),
            (not_sent(None, gate.into()), BUSY),
            (
                io::Error::from(io::ErrorKind::ConnectionRefused).into(),
                BUSY,
            ),
            (reset(), UNKNOWN),
            ("no idea".into(), UNKNOWN),
            (
                BackoffError::OutcomeUnknown {
                    operation: operation(),
                    attempts: 2,
                    source: late(),
                }
                .into(),
                UNKNOWN,
            ),
            (
                BackoffError::DeadlinePassed {
                    operation: operation(),
                    attempts: 2,
                    source: reset(),
                }
                .into(),
                LATE,
            ),
            (
                BatchError::NotBegun {
                    operation: operation(),
                    cause: "too late".into(),
                }
                .into(),
                LATE,
            ),
            (
                BatchError::ResponseTooLong { max_response: 1 }.into(),
                UNKNOWN,
            ),
            (PageFailure::TimedOut.into(), LATE),
            (PageFailure::Call(late()).into(), LATE),
            (PageFailure::NoProgress { pages: 7 }.into(), UNKNOWN),
        ];
        for (error, (status, fault)) in cases {
            assert_eq!(status_of(&error), status, "{error:?}");
            let code = fault_of(&error);
            assert_eq!(code.as_str(), fault, "{error:?}");
            assert!(code.is_known());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_the_server_is_busy_counts_down() {
        let gate = AcquireError::GateTooLate {
            wait: Duration::from_secs(60),
            contended: Contended::Gate(Principal::account("svc")),
        };
        let error = not_sent(Some(Duration::from_secs(60)), gate.into());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(busy_for(&error), Some(Duration::from_secs(40)));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(busy_for(&error), Some(Duration::ZERO));
        assert_eq!(busy_for(&"no idea".into()), None);
    }
}
