//! Responses of the gateway's own: plain text, and SOAP faults that EWS clients read.

use std::error::Error;
use std::iter;
use std::time::Duration;

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use tower::BoxError;
use tower_ews::body::BufferRequestError;
use tower_ews::soap::ResponseCode;
use tower_ews::stack::{busy_for, fault_of, status_of};

use crate::first_try::Refused;
use crate::upload::{NoRoom, TooSlow};

/// A busy server that has not said for how long.
const USUAL_PAUSE: Duration = Duration::from_secs(5);

pub(crate) const FAULT: &str = include_str!("fault.xml");

pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into() + "\n"));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A 401 that offers what can be passed on.
pub(crate) fn unauthorized(message: impl Into<String>) -> Response<Body> {
    let mut response = text(StatusCode::UNAUTHORIZED, message);
    for scheme in ["Basic realm=\"Exchange\", charset=\"UTF-8\"", "Bearer"] {
        response
            .headers_mut()
            .append(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
    }
    response
}

pub(crate) fn fault(
    status: StatusCode,
    code: &str,
    message: &str,
    pause: Option<Duration>,
) -> Response<Body> {
    let values = pause.map_or_else(String::new, |pause| {
        let ms = pause.as_millis();
        format!("<t:MessageXml xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\"><t:Value Name=\"BackOffMilliseconds\">{ms}</t:Value></t:MessageXml>")
    });
    let message: String = message
        .chars()
        .filter(|c| !c.is_control())
        .take(2_000)
        .collect();
    let body = FAULT
        .replace("{code}", code)
        .replace("{values}", &values)
        .replace("{message}", &quick_xml::escape::escape(&message));
    let mut response = text(status, body);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/xml; charset=utf-8"),
    );
    if let Some(pause) = pause {
        headers.insert(RETRY_AFTER, seconds(pause));
    }
    response
}

/// Whole seconds, never too few.
fn seconds(time: Duration) -> HeaderValue {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    seconds.max(1).into()
}

/// What stands for an error of the stack.
///
/// A call that may have been executed is an HTTP 500 with a fault, as Exchange sends it: clients read the fault, and do not send
/// the call again. They do so after a 502 whose connection closes (exchangelib), and a gateway that is shut down closes them.
/// What was not executed is a 503 with `Retry-After`.
pub(crate) fn of_error(error: &BoxError) -> Response<Body> {
    if let Some(response) = refused_upload(error) {
        return response;
    }
    if let Some(refused) = error.downcast_ref::<Refused>() {
        let mut response = unauthorized(refused.to_string());
        response
            .headers_mut()
            .insert(RETRY_AFTER, seconds(refused.0));
        return response;
    }
    let message = message(error);
    let code = fault_of(error);
    match status_of(error) {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            let pause = busy_for(error).unwrap_or(USUAL_PAUSE);
            fault(
                StatusCode::SERVICE_UNAVAILABLE,
                code.as_str(),
                &message,
                Some(pause),
            )
        }
        StatusCode::BAD_GATEWAY => fault(
            StatusCode::INTERNAL_SERVER_ERROR,
            code.as_str(),
            &message,
            None,
        ),
        StatusCode::UNAUTHORIZED => unauthorized(message),
        StatusCode::FORBIDDEN => text(StatusCode::FORBIDDEN, message),
        status => fault(status, code.as_str(), &message, None),
    }
}

/// The same response for whoever has not sent SOAP, and reads no fault.
pub(crate) fn without_fault(mut response: Response<Body>, error: &BoxError) -> Response<Body> {
    let plain = text(response.status(), message(error));
    let is_fault = response.headers().get(CONTENT_TYPE) != plain.headers().get(CONTENT_TYPE);
    if is_fault {
        let (head, body) = plain.into_parts();
        response.headers_mut().extend(head.headers);
        *response.body_mut() = body;
    }
    response
}

/// What is wrong with a body that never became a call. There may be no SOAP in it, so it gets none back.
pub(crate) fn refused_upload(error: &BoxError) -> Option<Response<Body>> {
    if chain(error).any(|error| error.is::<TooSlow>()) {
        return Some(text(StatusCode::REQUEST_TIMEOUT, TooSlow.to_string()));
    }
    if chain(error).any(|error| error.is::<NoRoom>()) {
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, ResponseCode::SERVER_BUSY);
        return Some(fault(
            status,
            code.as_str(),
            &NoRoom.to_string(),
            Some(USUAL_PAUSE),
        ));
    }
    match chain(error).find_map(|error| error.downcast_ref())? {
        BufferRequestError::TooLarge { limit } => Some(too_large(*limit)),
        BufferRequestError::Body(_) => Some(text(
            StatusCode::BAD_REQUEST,
            "the request broke off: nothing of it was sent to the server",
        )),
        _ => None,
    }
}

pub(crate) fn too_large(limit: u64) -> Response<Body> {
    text(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!(
            "the request has more than {limit} bytes, the most that this gateway takes (`max_request` of its policy)"
        ),
    )
}

fn message(error: &BoxError) -> String {
    let mut text = String::new();
    for error in chain(error) {
        let more = error.to_string();
        if !text.contains(&more) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&more);
        }
    }
    text
}

pub(crate) fn chain(error: &BoxError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = &**error;
    iter::successors(Some(first), |&error| error.source())
}
