//! [`Idempotency`]: whether a request may be sent again although it may have been executed.

/// Whether a request may be sent again although it may have been executed. The words are those of RFC 9110, section 9.2.
///
/// ```
/// use tower_ews::server_busy_backoff::{Idempotency, RequestClass};
///
/// let put = RequestClass::by_method(&http::Method::PUT);
/// assert_eq!(put.idempotency, Idempotency::Idempotent);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Idempotency {
    /// It only reads: nothing changes, however often it is sent.
    Safe,
    /// Sent twice it leaves the same state as once, but the second response may be an error ("not found", "exists") that means
    /// success.
    Idempotent,
    /// Sent twice it is executed twice, or reads what the first one took away. Only what was not executed is sent again.
    NonIdempotent,
}
