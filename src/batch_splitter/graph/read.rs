//! Reads Graph's answers: to a batch, and to the requests in it.

use std::ops::Range;
use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode, response};

use super::json::{self, Object};
use crate::retry::retry_after;

/// The answer to a batch.
#[derive(Debug)]
pub(super) struct Answer {
    /// Where the array of responses stands, with its brackets.
    pub(super) array: Range<usize>,
    pub(super) responses: Vec<Response>,
}

/// The answer to one request of a batch.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) place: Range<usize>,
    /// None: nobody can say whose it is.
    pub(super) id: Option<String>,
    /// None: it has none that can be read.
    pub(super) status: Option<u16>,
    pub(super) hint: Option<Duration>,
}

/// What a status says, of one request or of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It was not executed, and will be when there is room again.
    Throttled,
    /// Nobody knows.
    Open,
    /// As the rest of the answer says.
    Answered,
}

pub(super) fn meaning(status: u16) -> Meaning {
    match status {
        429 | 503 | 509 => Meaning::Throttled,
        408 | 500 | 502 | 504 => Meaning::Open,
        _ => Meaning::Answered,
    }
}

impl Answer {
    /// None if it is no answer to a batch.
    pub(super) fn read(whole: &str, head: &response::Parts) -> Option<Answer> {
        let object = Object::read(whole.strip_prefix('\u{feff}').unwrap_or(whole))?;
        let array = object.get("responses").ok()??;
        let responses = json::array(array)?
            .into_iter()
            .map(|text| {
                let place = json::place(whole, text)?;
                Some(Response::read(text, place, head))
            })
            .collect::<Option<_>>()?;
        Some(Answer {
            array: json::place(whole, array)?,
            responses,
        })
    }
}

impl Response {
    fn read(text: &str, place: Range<usize>, head: &response::Parts) -> Response {
        let object = Object::read(text);
        let get = |name| object.as_ref()?.get(name).ok()?;
        let status = get("status").and_then(|status| status.parse().ok());
        let hint = match status.map(meaning) {
            Some(Meaning::Throttled) => get("headers")
                .and_then(|headers| own_hint(headers, head))
                .or_else(|| retry_after(&head.headers)),
            _ => None,
        };
        Response {
            place,
            id: get("id").and_then(json::string).map(|id| id.to_lowercase()),
            status,
            hint,
        }
    }
}

/// The `Retry-After` among the headers of one response. A date counts from its own `Date`, or else from that of the batch.
fn own_hint(headers: &str, head: &response::Parts) -> Option<Duration> {
    let object = Object::read(headers)?;
    let value = |name| {
        let text = object.get_in_any_case(name)?;
        // A number without quotes is no header's value, but is clear enough.
        let value = json::string(text).unwrap_or(text.into());
        HeaderValue::from_str(&value).ok()
    };
    let mut own = HeaderMap::new();
    own.insert(RETRY_AFTER, value("Retry-After")?);
    if let Some(date) = value("Date").or_else(|| head.headers.get(DATE).cloned()) {
        own.insert(DATE, date);
    }
    retry_after(&own)
}

/// What an error says of itself: `{"error":{"code":...,"message":...}}`.
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

/// Whether no part of this batch would be answered otherwise: not these credentials, not this place, not this way.
pub(super) fn refuses_all(status: StatusCode) -> bool {
    status.is_redirection() || matches!(status.as_u16(), 401 | 403 | 404 | 405 | 407)
}
