//! A response of the simulated Graph, before it is put into HTTP or into a batch.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(&'static str, String)>,
    body: Value,
}

impl Reply {
    pub(super) fn new(status: u16, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"error": {"code": code, "message": message}});
        Self::new(status, body)
    }

    /// One too many for a limit.
    pub(super) fn throttled(wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1_000).max(1);
        let message = "Application is over its MailboxConcurrency limit.";
        Self::error(429, "ApplicationThrottled", message).header("Retry-After", seconds.to_string())
    }

    pub(super) fn not_found() -> Self {
        let message = "The specified object was not found in the store.";
        Self::error(404, "ErrorItemNotFound", message)
    }

    pub(super) fn bad_request(message: &str) -> Self {
        Self::error(400, "BadRequest", message)
    }

    /// As one of the responses of a batch.
    pub(super) fn in_batch(self, id: &str) -> Value {
        let mut headers = json!({"Content-Type": "application/json"});
        for (name, value) in self.headers {
            headers[name] = value.into();
        }
        json!({"id": id, "status": self.status, "headers": headers, "body": self.body})
    }

    pub(super) fn http(self) -> Response<Full<Bytes>> {
        let body = match self.body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = http::StatusCode::from_u16(self.status).unwrap_or_default();
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert("content-type", json);
        for (name, value) in self.headers {
            let name = http::HeaderName::try_from(name);
            if let (Ok(name), Ok(value)) = (name, http::HeaderValue::try_from(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
