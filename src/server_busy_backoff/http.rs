//! [`HttpClassifier`]: what the responses of plain HTTP APIs mean.

use http::Request;

use super::classify::{Classify, RequestClass};
use crate::wiring::UNREAD_SOAP;

/// Plain HTTP: statuses as [`ClassifiedResponse::by_status`](super::ClassifiedResponse::by_status) has them, and methods as RFC
/// 9110 defines them. For bodies of any type.
///
/// It is the defaults of [`Classify`]. See [`ServerBusyBackoffLayer::http`](super::ServerBusyBackoffLayer::http).
///
/// ```
/// use http::Request;
/// use tower_ews::server_busy_backoff::{Classify, HttpClassifier, Idempotency};
///
/// let request = Request::put("https://graph.microsoft.com/").body(()).unwrap();
/// assert_eq!(HttpClassifier.request(&request).idempotency, Idempotency::Idempotent);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpClassifier;

impl<B> Classify<B> for HttpClassifier {
    fn request(&self, request: &Request<B>) -> RequestClass {
        if is_ews(request.uri().path()) {
            UNREAD_SOAP.say();
        }
        RequestClass::by_head(request)
    }
}

/// Whether this is the path of an EWS endpoint.
fn is_ews(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.eq_ignore_ascii_case("Exchange.asmx")
}
