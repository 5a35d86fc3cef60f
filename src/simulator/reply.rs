//! [`Reply`]: the response to a call that is not executed, and the headers that every response has.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, HeaderName, StatusCode, request};

use super::engine::State;
use super::failure::Failure;

pub(super) const PAGE_503: &str = "<!DOCTYPE html><html><head><title>Service Unavailable</title></head>\
                        <body><h2>Service Unavailable</h2><p>HTTP Error 503. Try again later.</p></body></html>";

/// The response to a call that is not executed.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) outcome: String,
}

impl Reply {
    pub(super) fn new(status: StatusCode, body: impl Into<Bytes>, outcome: &str) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
            outcome: outcome.to_owned(),
        }
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.append(name, value.into());
        self
    }

    pub(super) fn xml(status: StatusCode, body: String, outcome: &str) -> Self {
        Self::new(status, body, outcome).with(
            CONTENT_TYPE,
            HeaderValue::from_static("text/xml; charset=utf-8"),
        )
    }

    pub(super) fn fault(failure: &Failure) -> Self {
        Self::xml(
            StatusCode::INTERNAL_SERVER_ERROR,
            failure.fault(),
            &failure.code,
        )
    }
}

/// Headers that every response has.
pub(super) fn common_headers(head: &request::Parts, state: &mut State) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let id = uuid::Builder::from_random_bytes(state.rng.u128(..).to_le_bytes()).into_uuid();
    if let Ok(id) = HeaderValue::from_str(&id.hyphenated().to_string()) {
        headers.insert("request-id", id);
    }
    headers.insert("x-feserver", HeaderValue::from_static("SIMFE01"));
    headers.insert(
        "x-calculatedbetarget",
        HeaderValue::from_static("simbe01.simulator.invalid"),
    );
    let echo = head
        .headers
        .get("return-client-request-id")
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    if let Some(id) = head.headers.get("client-request-id").filter(|_| echo) {
        headers.insert("client-request-id", id.clone());
    }
    headers
}
