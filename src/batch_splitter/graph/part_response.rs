//! Reads Graph's response to a part, and the responses to the requests in it.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use http::header::DATE;
use http::{StatusCode, response};

use super::json::{self, Object};
use crate::retry::{retry_after as read_retry_after, retry_after_among};

/// The response to a part.
#[derive(Debug)]
pub(super) struct BatchResponse {
    /// Where the array of responses stands, with its brackets.
    pub(super) array: Range<usize>,
    pub(super) responses: Vec<MemberResponse>,
}

/// The response to one request of a batch.
#[derive(Debug)]
pub(super) struct MemberResponse {
    pub(super) range: Range<usize>,
    /// `None` if it cannot be told which request it belongs to.
    pub(super) id: Option<String>,
    /// `None` if there is none that can be read.
    pub(super) status: Option<u16>,
    pub(super) retry_after: Option<Duration>,
}

/// What the status of one request or of a batch means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusClass {
    /// It was not executed, and will be when there is room again.
    Throttled,
    /// It is not known what was executed.
    Unknown,
    /// As the rest of the response says.
    Final,
}

pub(super) fn status_class(status: u16) -> StatusClass {
    match status {
        429 | 503 | 509 => StatusClass::Throttled,
        408 | 500 | 502 | 504 => StatusClass::Unknown,
        _ => StatusClass::Final,
    }
}

impl BatchResponse {
    /// Returns `None` if it is no response to a batch.
    pub(super) fn read(whole: &str, head: &response::Parts) -> Option<BatchResponse> {
        let object = Object::read(whole.strip_prefix('\u{feff}').unwrap_or(whole))?;
        let array = object.get("responses").ok()??;
        let responses = json::array(array)?
            .into_iter()
            .map(|text| {
                let range = json::range_of(whole, text)?;
                Some(MemberResponse::read(text, range, head))
            })
            .collect::<Option<_>>()?;
        Some(BatchResponse {
            array: json::range_of(whole, array)?,
            responses,
        })
    }
}

impl MemberResponse {
    fn read(text: &str, range: Range<usize>, head: &response::Parts) -> MemberResponse {
        let object = Object::read(text);
        let get = |name| object.as_ref()?.get(name).ok()?;
        let status = get("status").and_then(|status| status.parse().ok());
        let retry_after = match status.map(status_class) {
            Some(StatusClass::Throttled) => get("headers")
                .and_then(|headers| own_retry_after(headers, head))
                .or_else(|| read_retry_after(&head.headers)),
            _ => None,
        };
        MemberResponse {
            range,
            id: get("id").and_then(json::string).map(|id| id.to_lowercase()),
            status,
            retry_after,
        }
    }
}

/// Returns how long the headers of one response ask to wait. A date counts from its own `Date`, or else from that of the
/// batch.
fn own_retry_after(headers: &str, head: &response::Parts) -> Option<Duration> {
    let object = Object::read(headers)?;
    let own = object.iter().map(|(name, text)| {
        // A number without quotes is no header value, but is clear enough; a list in brackets too.
        let value = json::string(text).unwrap_or(text.into());
        (name, Cow::Owned(value.into_owned().into_bytes()))
    });
    let date = head.headers.get(DATE);
    let date = date.map(|date| (Cow::Borrowed("date"), Cow::Borrowed(date.as_bytes())));
    retry_after_among(own.chain(date))
}

/// The code and the message of an error: `{"error":{"code":...,"message":...}}`.
#[derive(Debug, Default)]
pub(super) struct ErrorText {
    pub(super) code: Option<Box<str>>,
    pub(super) message: Option<Box<str>>,
}

impl ErrorText {
    pub(super) fn read(body: &str) -> ErrorText {
        let error = Object::read(body)
            .and_then(|object| object.get("error").ok()?)
            .and_then(Object::read);
        let text = |name| {
            let text = json::string(error.as_ref()?.get(name).ok()??)?;
            (!text.is_empty()).then(|| text.into())
        };
        ErrorText {
            code: text("code"),
            message: text("message"),
        }
    }
}

/// Whether every part of the batch would be refused like this: because of the credentials, the path or the method.
pub(super) fn refuses_all(status: StatusCode) -> bool {
    status.is_redirection() || matches!(status.as_u16(), 401 | 403 | 404 | 405 | 407)
}
