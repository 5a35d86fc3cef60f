//! Reads Graph's response to a part, and the responses to the requests in it.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use http::header::DATE;
use http::response;

use super::json::{self, Object};
use super::lenient;
use super::outcome::{StatusClass, status_class};
use crate::retry::{retry_after as read_retry_after, retry_after_among};

/// The longest link that is told of.
const MAX_LINK: usize = 4 * 1024;

/// The response to a part.
#[derive(Debug)]
pub(super) struct BatchResponse {
    /// The end of the bracket that opens the array of responses.
    pub(super) begin: usize,
    /// Where the bracket that closes it stands. `None` if what follows cannot be read.
    pub(super) end: Option<usize>,
    pub(super) responses: Vec<MemberResponse>,
    /// Whether it is valid as a whole.
    pub(super) is_valid: bool,
    /// Where the server has more responses.
    pub(super) next_link: Option<Box<str>>,
}

/// The response to one request of a batch.
#[derive(Debug)]
pub(super) struct MemberResponse {
    pub(super) range: Range<usize>,
    /// In lower case. `None` if it cannot be told which request it belongs to.
    pub(super) id: Option<String>,
    /// `None` if there is none that can be read.
    pub(super) status: Option<u16>,
    pub(super) retry_after: Option<Duration>,
}

impl BatchResponse {
    /// Returns `None` if it is no response to a batch. Of one that is broken the responses count that can be read.
    pub(super) fn read(whole: &str, head: &response::Parts) -> Option<BatchResponse> {
        let Some(object) = Object::read(whole.strip_prefix('\u{feff}').unwrap_or(whole)) else {
            let found = lenient::array(whole, "responses")?;
            return Some(BatchResponse {
                begin: found.begin,
                end: found.end,
                responses: responses(whole, found.elements, head)?,
                is_valid: false,
                next_link: None,
            });
        };
        let array = object.get("responses").ok()??;
        let range = json::range_of(whole, array)?;
        let next_link = object.get("@odata.nextLink").ok().flatten();
        let next_link = next_link.and_then(json::string);
        Some(BatchResponse {
            begin: range.start + 1,
            end: Some(range.end.saturating_sub(1)),
            responses: responses(whole, json::array(array)?, head)?,
            is_valid: true,
            next_link: next_link.map(|link| link.chars().take(MAX_LINK).collect()),
        })
    }
}

fn responses(
    whole: &str,
    elements: Vec<&str>,
    head: &response::Parts,
) -> Option<Vec<MemberResponse>> {
    let elements = elements.into_iter().map(|text| {
        let range = json::range_of(whole, text)?;
        Some(MemberResponse::read(text, range, head))
    });
    elements.collect()
}

impl MemberResponse {
    fn read(text: &str, range: Range<usize>, head: &response::Parts) -> MemberResponse {
        let object = Object::read(text);
        let get = |name| object.as_ref()?.get(name).ok()?;
        let status = get("status").and_then(|status| status.parse().ok());
        let own = || get("headers").and_then(|headers| own_retry_after(headers, head));
        let retry_after = match status.map(status_class) {
            Some(StatusClass::Throttled) => own().or_else(|| read_retry_after(&head.headers)),
            Some(StatusClass::TooEarly | StatusClass::Unknown) => own(),
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
