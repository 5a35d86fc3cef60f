//! [`HttpClassifier`]: what the responses of plain HTTP APIs mean.

use super::classify::Classify;

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

impl<B> Classify<B> for HttpClassifier {}
