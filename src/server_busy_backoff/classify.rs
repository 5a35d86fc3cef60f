//! What an answer or an error means: the [`Classify`] trait and the words that it speaks in.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::{Method, Request, StatusCode, response};
use tower::BoxError;

use crate::extensions::Caller;
use crate::principal::Principal;
use crate::retry::Failure;
pub use crate::retry::Idempotency;
use crate::retry::retry_after;

/// Answers two questions that are not the same: *was it executed?* ([`Refusal::executed`], [`Failure`]) and *may it be
/// sent again?* ([`RequestClass::idempotency`]).
///
/// `B` is the request's body. Every method has a default that is right for plain HTTP, so that another API writes down
/// only in what it differs:
///
/// ```
/// use http::{Request, response};
/// use tower_ews::server_busy_backoff::{RefusalScope, ClassifiedResponse, RequestClass, Classify, Refusal, Idempotency};
///
/// /// An API that reads through POST, and is busy with 420.
/// struct Search;
///
/// impl<B> Classify<B> for Search {
///     fn request(&self, request: &Request<B>) -> RequestClass {
///         match request.uri().path() {
///             "/search" => RequestClass::new("search", Idempotency::Safe),
///             _ => RequestClass::by_method(request.method()),
///         }
///     }
///
///     fn answer(&self, _: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
///         match head.status.as_u16() {
///             420 => Refusal::new("enhance your calm").scope(RefusalScope::Principal).into(),
///             _ => ClassifiedResponse::by_status(head),
///         }
///     }
/// }
///
/// # let request = Request::post("/search").body(()).unwrap();
/// # assert_eq!(Search.request(&request).idempotency, Idempotency::Safe);
/// # let (mut head, ()) = http::Response::new(()).into_parts();
/// # assert!(Classify::<()>::answer(&Search, &Search.request(&request), &head).refusal.is_none());
/// # head.status = http::StatusCode::from_u16(420).unwrap();
/// # assert!(Classify::<()>::answer(&Search, &Search.request(&request), &head).refusal.is_some());
/// ```
pub trait Classify<B>: Send + Sync + 'static {
    /// What is asked for, and whether it may be asked for twice. By the method, by default.
    fn request(&self, request: &Request<B>) -> RequestClass {
        RequestClass::by_method(request.method())
    }

    /// What the head of an answer says, and who reads the body if that is needed. 429 and 503, by default.
    fn answer(&self, call: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
        let _ = call;
        ClassifiedResponse::by_status(head)
    }

    /// What an error of the inner service proves. [`Failure::of`], by default.
    fn error(&self, call: &RequestClass, error: &(dyn StdError + 'static)) -> Failure {
        let _ = call;
        Failure::of(error)
    }

    /// Returns whom the server locks out when it refuses `request`: all requests of the same principal wait together
    /// for the end of the lock-out.
    ///
    /// Asked where no shared ledger holds the calls back, and not before anything was refused. By default, it is the
    /// [`Caller`] in the request's extensions, else the authority of its URI. An API that can tell more holds fewer
    /// calls back:
    ///
    /// ```
    /// use http::Request;
    /// use tower_ews::principal::Principal;
    /// use tower_ews::server_busy_backoff::Classify;
    ///
    /// /// An API that counts by tenant.
    /// struct ByTenant;
    ///
    /// impl<B> Classify<B> for ByTenant {
    ///     fn principal(&self, request: &Request<B>) -> Principal {
    ///         let tenant = request.headers().get("x-tenant");
    ///         Principal::new(tenant.and_then(|tenant| tenant.to_str().ok()).unwrap_or_default())
    ///     }
    /// }
    ///
    /// # let request = Request::builder().header("x-tenant", "contoso").body(()).unwrap();
    /// # assert_eq!(ByTenant.principal(&request), Principal::new("contoso"));
    /// ```
    fn principal(&self, request: &Request<B>) -> Principal {
        caller_or_authority(request)
    }
}

/// The calling account, or where the request goes to if that is not known.
pub(super) fn caller_or_authority<B>(request: &Request<B>) -> Principal {
    match request.extensions().get::<Caller>() {
        Some(caller) => Principal::account(caller.name()),
        None => Principal::new(
            request
                .uri()
                .authority()
                .map_or(UNNAMED, |host| host.as_str()),
        ),
    }
}

/// Where requests go whose URI names no server: all of them to the same one.
pub(super) const UNNAMED: &str = "unnamed-server";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestClass {
    /// Its name, for errors and logs.
    pub operation: Cow<'static, str>,
    /// Whether it may be sent again although it may have been executed.
    pub idempotency: Idempotency,
    /// The answer goes on for minutes: it is handed over as soon as its beginning is understood.
    pub streaming: bool,
}

impl RequestClass {
    /// A call that is answered at once.
    pub fn new(operation: impl Into<Cow<'static, str>>, idempotency: Idempotency) -> Self {
        Self {
            operation: operation.into(),
            idempotency,
            streaming: false,
        }
    }

    /// By RFC 9110, section 9.2: safe methods are resent freely, PUT and DELETE converge, others are not idempotent.
    pub fn by_method(method: &Method) -> Self {
        let (name, idempotency) = match *method {
            Method::GET => ("GET", Idempotency::Safe),
            Method::HEAD => ("HEAD", Idempotency::Safe),
            Method::OPTIONS => ("OPTIONS", Idempotency::Safe),
            Method::TRACE => ("TRACE", Idempotency::Safe),
            Method::PUT => ("PUT", Idempotency::Idempotent),
            Method::DELETE => ("DELETE", Idempotency::Idempotent),
            Method::POST => ("POST", Idempotency::NonIdempotent),
            Method::PATCH => ("PATCH", Idempotency::NonIdempotent),
            _ => return Self::new(method.to_string(), Idempotency::NonIdempotent),
        };
        Self::new(name, idempotency)
    }
}

/// Whether a refused request was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// No: every request may be sent again.
    NotExecuted,
    /// Perhaps: [`RequestClass::idempotency`] decides.
    Unknown,
}

/// Whom a refusal concerns. What concerns more than the call itself is reported to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalScope {
    /// This call alone.
    Call,
    /// The charged principals are locked out: [`Signal::Busy`](crate::ledger::Signal::Busy).
    Principal,
    /// The server is overloaded: [`Signal::EndpointBusy`](crate::ledger::Signal::EndpointBusy).
    Endpoint,
    /// Too many calls at the same time: [`Signal::Exceeded(Budget::Concurrency)`](crate::ledger::Signal::Exceeded(Budget::Concurrency)).
    Connections,
    /// Too many rows at the same time: [`Signal::Exceeded(Budget::FindCount)`](crate::ledger::Signal::Exceeded(Budget::FindCount)).
    Found,
    /// Too many mailboxes open: [`Signal::Exceeded(Budget::OpenMailboxes)`](crate::ledger::Signal::Exceeded(Budget::OpenMailboxes)).
    OpenMailboxes,
}

/// An answer that waiting may cure.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::server_busy_backoff::{RefusalScope, Outcome, Refusal};
///
/// let busy = Refusal::new("QuotaExceeded").scope(RefusalScope::Principal).hint(Some(Duration::from_secs(3)));
/// assert_eq!(busy.outcome, Outcome::NotExecuted);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What the server said, in a word: `ErrorServerBusy`, `503`.
    pub reason: Cow<'static, str>,
    /// Whether the request was executed all the same.
    pub outcome: Outcome,
    /// How long the server asks to wait from now. Never shortened; none or nothing is a back-off of our own.
    pub hint: Option<Duration>,
    /// Whom it concerns.
    pub scope: RefusalScope,
    /// How often such refusals of one call are answered by a resend; `None` is as often as its deadline allows.
    pub resends: Option<u32>,
}

impl Refusal {
    /// The request was not executed; it concerns this call alone and gives no hint.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            outcome: Outcome::NotExecuted,
            hint: None,
            scope: RefusalScope::Call,
            resends: None,
        }
    }

    /// The request may have been executed.
    #[must_use]
    pub fn outcome_unknown(mut self) -> Self {
        self.outcome = Outcome::Unknown;
        self
    }

    /// How long the server asks to wait.
    #[must_use]
    pub fn hint(mut self, hint: Option<Duration>) -> Self {
        self.hint = hint;
        self
    }

    /// Whom it concerns.
    #[must_use]
    pub fn scope(mut self, scope: RefusalScope) -> Self {
        self.scope = scope;
        self
    }

    /// Such refusals of one call are answered by a resend so often at most.
    #[must_use]
    pub fn resends(mut self, at_most: u32) -> Self {
        self.resends = Some(at_most);
        self
    }
}

/// What the head of an answer says.
#[derive(Default)]
#[non_exhaustive]
pub struct ClassifiedResponse {
    /// The server refused the request already with the head. `None` and no reader: the answer goes on to the caller.
    pub refusal: Option<Refusal>,
    /// Reads the body, where the head does not tell (all). What it finds out in the end outweighs `refusal`.
    pub reader: Option<Box<dyn BodyClassifier>>,
}

impl ClassifiedResponse {
    /// By the status alone: 429 is the principal's, 503 the endpoint's; both mean "not executed", and `Retry-After`
    /// is their hint. Everything else goes on to the caller.
    pub fn by_status(head: &response::Parts) -> Self {
        let (reason, scope) = match head.status {
            StatusCode::TOO_MANY_REQUESTS => ("429", RefusalScope::Principal),
            StatusCode::SERVICE_UNAVAILABLE => ("503", RefusalScope::Endpoint),
            _ => return Self::default(),
        };
        Refusal::new(reason)
            .scope(scope)
            .hint(retry_after(&head.headers))
            .into()
    }
}

impl From<Refusal> for ClassifiedResponse {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal: Some(refusal),
            reader: None,
        }
    }
}

impl From<Box<dyn BodyClassifier>> for ClassifiedResponse {
    fn from(reader: Box<dyn BodyClassifier>) -> Self {
        Self {
            refusal: None,
            reader: Some(reader),
        }
    }
}

impl fmt::Debug for ClassifiedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClassifiedResponse")
            .field("refusal", &self.refusal)
            .field("reads_body", &self.reader.is_some())
            .finish()
    }
}

/// Reads the body of one answer as it comes.
///
/// The beginning of the body is kept back until it has ended or has grown long enough, then [`so_far`](Self::so_far)
/// decides. What comes later passes through, and is read for its signals only.
///
/// ```
/// use tower_ews::server_busy_backoff::{RefusalScope, BodyClassifier, Reading, Refusal};
///
/// /// Answers that begin with "BUSY" are refusals.
/// #[derive(Default)]
/// struct Busy {
///     seen: usize,
///     matches: bool,
/// }
///
/// impl BodyClassifier for Busy {
///     fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(&Refusal)) {
///         for byte in bytes.iter().take(4usize.saturating_sub(self.seen)) {
///             self.matches = (self.seen == 0 || self.matches) && b"BUSY".get(self.seen) == Some(byte);
///             self.seen += 1;
///             if self.matches && self.seen == 4 {
///                 found(&Refusal::new("BUSY").scope(RefusalScope::Principal));
///             }
///         }
///     }
///
///     fn so_far(&self) -> Reading {
///         match self.seen {
///             4 if self.matches => Reading::Refused(Refusal::new("BUSY").scope(RefusalScope::Principal)),
///             0..4 => Reading::Open,
///             _ => Reading::Final,
///         }
///     }
/// }
///
/// let mut answer = Busy::default();
/// answer.read(b"BU", &mut |_| unreachable!());
/// assert_eq!(answer.so_far(), Reading::Open);
/// let mut found = 0;
/// answer.read(b"SY\n", &mut |_| found += 1);
/// assert_eq!(found, 1);
/// ```
pub trait BodyClassifier: Send + Sync {
    /// Takes the next bytes. Calls `found` for each refusal in them at once: it is reported before the body is read on.
    fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(&Refusal));

    /// What the answer is, if nothing else comes.
    fn so_far(&self) -> Reading;

    /// The body has ended. An error means that it is cut short: the answer counts as lost.
    fn end(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// What a body is, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// It is not known yet. An answer that ends like this goes on to the caller.
    Open,
    /// It goes on to the caller, whatever follows.
    Final,
    /// It is refused as a whole, if nothing else follows.
    Refused(Refusal),
}

/// Plain HTTP: 429 and 503 with `Retry-After`, methods as RFC 9110 has them. For bodies of any type.
///
/// See [`ServerBusyBackoffLayer::http`](super::ServerBusyBackoffLayer::http).
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

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, headers: &[(&str, &str)]) -> response::Parts {
        let mut answer = http::Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        answer.body(()).unwrap().into_parts().0
    }

    #[test]
    fn methods() {
        for (method, idempotency) in [
            (Method::GET, Idempotency::Safe),
            (Method::HEAD, Idempotency::Safe),
            (Method::OPTIONS, Idempotency::Safe),
            (Method::PUT, Idempotency::Idempotent),
            (Method::DELETE, Idempotency::Idempotent),
            (Method::POST, Idempotency::NonIdempotent),
            (Method::PATCH, Idempotency::NonIdempotent),
            (
                Method::from_bytes(b"MERGE").unwrap(),
                Idempotency::NonIdempotent,
            ),
        ] {
            let call = RequestClass::by_method(&method);
            assert_eq!(call.idempotency, idempotency, "{method}");
            assert_eq!(call.operation, method.as_str());
        }
    }

    #[test]
    fn statuses() {
        let refusal =
            |status, headers: &[_]| ClassifiedResponse::by_status(&head(status, headers)).refusal;
        let busy = refusal(429, &[("retry-after", "10")]).unwrap();
        assert_eq!(busy.hint, Some(Duration::from_secs(10)));
        assert_eq!(
            (busy.scope, busy.outcome),
            (RefusalScope::Principal, Outcome::NotExecuted)
        );
        let overloaded = refusal(503, &[]).unwrap();
        assert_eq!(
            (overloaded.scope, overloaded.hint),
            (RefusalScope::Endpoint, None)
        );
        for status in [200, 302, 401, 403, 404, 413, 456, 500, 502] {
            assert_eq!(refusal(status, &[("retry-after", "10")]), None, "{status}");
        }
    }
}
