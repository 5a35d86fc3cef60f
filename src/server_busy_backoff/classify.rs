//! [`Classify`]: what a request, a response or an error means, and the types that it returns.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::{Method, Request, StatusCode, Uri, response};
use tower::BoxError;

use super::access::Access;
use super::endpoint::UNNAMED;
use crate::extensions::Caller;
use crate::principal::{Budget, Principal};
use crate::retry::Failure;
pub use crate::retry::Idempotency;
use crate::retry::{MAX_LOSS_RETRIES, StatusMeaning, retry_after};

/// Tells what requests, responses and errors of an API mean.
///
/// Keeps two questions apart: *was the request executed?* ([`Refusal::outcome`], [`Failure`]) and *may it be sent
/// again?* ([`RequestClass::idempotency`]).
///
/// `B` is the body of the request. Every method has a default that is right for plain HTTP, so a classifier for another
/// API overrides only what differs:
///
/// ```
/// use http::{Request, response};
/// use tower_ews::server_busy_backoff::{
///     ClassifiedResponse, Classify, Idempotency, Refusal, RefusalScope, RequestClass,
/// };
///
/// /// An API that reads through POST and responds with 420 when it is busy.
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
///     fn response(&self, _: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
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
/// # let class = Search.request(&request);
/// # assert!(Classify::<()>::response(&Search, &class, &head).refusal.is_none());
/// # head.status = http::StatusCode::from_u16(420).unwrap();
/// # assert!(Classify::<()>::response(&Search, &class, &head).refusal.is_some());
/// ```
pub trait Classify<B>: Send + Sync + 'static {
    /// Returns the operation of a request, and whether it may be repeated. Default: [`RequestClass::by_method`].
    fn request(&self, request: &Request<B>) -> RequestClass {
        RequestClass::by_head(request)
    }

    /// Returns what the head of a response says, and a classifier for its body if the head is not enough. Default:
    /// [`ClassifiedResponse::by_status`].
    fn response(&self, class: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
        let _ = class;
        ClassifiedResponse::by_status(head)
    }

    /// Returns what an error of the inner service proves. Default: [`Failure::of`].
    fn error(&self, class: &RequestClass, error: &(dyn StdError + 'static)) -> Failure {
        let _ = class;
        Failure::of(error)
    }

    /// Returns the principal that the server locks out when it refuses `request`. All requests of a principal wait
    /// for the end of its lock-out together.
    ///
    /// Called only where no shared ledger holds requests back, and only after a refusal. Default: the [`Caller`] in
    /// the request's extensions, else the authority of its URI. A classifier that knows the principal better holds
    /// fewer requests back:
    ///
    /// ```
    /// use http::Request;
    /// use tower_ews::principal::Principal;
    /// use tower_ews::server_busy_backoff::Classify;
    ///
    /// /// An API that throttles by tenant.
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

    /// Returns the access that `request` needs, if a 401 or a 403 speaks of that and not of what was asked for. The layer
    /// then remembers for a while who was refused, and sends nothing more like it: [`AccessDenied`].
    ///
    /// Default: none. A plain HTTP API refuses one resource and grants the next.
    ///
    /// [`AccessDenied`]: super::AccessDenied
    fn access(&self, request: &Request<B>) -> Option<Access> {
        let _ = request;
        None
    }
}

/// The calling account, or the server that the request goes to if the account is not known.
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

/// What a request asks for.
///
/// ```
/// use http::Method;
/// use tower_ews::server_busy_backoff::{Idempotency, RequestClass};
///
/// let class = RequestClass::by_method(&Method::PATCH);
/// assert_eq!((&*class.operation, class.idempotency), ("PATCH", Idempotency::NonIdempotent));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestClass {
    /// The name of the operation, for errors and logs.
    pub operation: Cow<'static, str>,
    /// Whether the request may be sent again although it may have been executed.
    pub idempotency: Idempotency,
    /// Whether the response goes on for minutes. It is handed on as soon as its beginning is understood.
    pub streaming: bool,
    /// Whether a success without a SOAP body is incomplete.
    pub(super) expects_soap: bool,
    /// Whether the caller asks for a coding itself, and so decodes what comes.
    pub(super) decodes: bool,
    /// The bytes of the request body, as far as they are known.
    pub(super) upload: u64,
    /// The hash of the mailbox that is impersonated.
    pub(super) impersonates: Option<u64>,
}

impl RequestClass {
    /// Creates the class of a request whose response does not stream.
    pub fn new(operation: impl Into<Cow<'static, str>>, idempotency: Idempotency) -> Self {
        Self {
            operation: operation.into(),
            idempotency,
            streaming: false,
            expects_soap: false,
            decodes: false,
            upload: 0,
            impersonates: None,
        }
    }

    /// Classifies by the method, as RFC 9110, section 9.2 does, and by the header `Idempotency-Key`, with which a server
    /// executes a request once, however often it comes.
    ///
    /// ```
    /// use http::Request;
    /// use tower_ews::server_busy_backoff::{Idempotency, RequestClass};
    ///
    /// let payment = Request::post("/payments").header("idempotency-key", "8e03978e").body(()).unwrap();
    /// assert_eq!(RequestClass::by_head(&payment).idempotency, Idempotency::Idempotent);
    /// ```
    pub fn by_head<B>(request: &Request<B>) -> Self {
        let mut class = Self::by_method(request.method());
        let length = request.headers().get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        class.upload = length.unwrap_or_default();
        let has_key = request.headers().contains_key("idempotency-key");
        if has_key && class.idempotency == Idempotency::NonIdempotent {
            class.idempotency = Idempotency::Idempotent;
        }
        class
    }

    /// Classifies by the method alone. Methods that RFC 9110 does not define are not idempotent.
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
///
/// ```
/// use tower_ews::server_busy_backoff::{Outcome, Refusal};
///
/// let gateway = Refusal::new("502").outcome_unknown();
/// assert_eq!(gateway.outcome, Outcome::Unknown);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was not executed: any request may be sent again.
    NotExecuted,
    /// It may have been executed: [`RequestClass::idempotency`] decides.
    Unknown,
}

/// Whom a refusal concerns. Refusals that concern more than their own call are reported to the ledger.
///
/// ```
/// use tower_ews::server_busy_backoff::{Refusal, RefusalScope};
///
/// let overloaded = Refusal::new("503").scope(RefusalScope::Endpoint);
/// assert_ne!(overloaded.scope, Refusal::new("404").scope);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalScope {
    /// This call alone.
    Call,
    /// The charged principals, which are locked out: [`Signal::Busy`](crate::ledger::Signal::Busy).
    Principal,
    /// The endpoint, which is overloaded: [`Signal::EndpointBusy`](crate::ledger::Signal::EndpointBusy).
    Endpoint,
    /// The budget of concurrent calls:
    /// [`Signal::Exceeded(Budget::Concurrency)`](crate::ledger::Signal::Exceeded(Budget::Concurrency)).
    Concurrency,
    /// The budget of rows found at the same time:
    /// [`Signal::Exceeded(Budget::FindCount)`](crate::ledger::Signal::Exceeded(Budget::FindCount)).
    FindCount,
    /// The budget of open mailboxes:
    /// [`Signal::Exceeded(Budget::OpenMailboxes)`](crate::ledger::Signal::Exceeded(Budget::OpenMailboxes)).
    OpenMailboxes,
}

/// A refusal that a wait may cure.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::server_busy_backoff::{Outcome, Refusal, RefusalScope};
///
/// let busy = Refusal::new("QuotaExceeded")
///     .scope(RefusalScope::Principal)
///     .retry_after(Some(Duration::from_secs(3)));
/// assert_eq!(busy.outcome, Outcome::NotExecuted);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The server's own name for it: `ErrorServerBusy`, `503`.
    pub reason: Cow<'static, str>,
    /// Whether the request was executed nevertheless.
    pub outcome: Outcome,
    /// How long the server asks to wait from now. It is never shortened. Without it, or if it is zero, the layer backs
    /// off exponentially.
    pub retry_after: Option<Duration>,
    /// Whom it concerns.
    pub scope: RefusalScope,
    /// Maximum number of retries of one call after refusals that set it. `None`, for throttling: the deadline is the bound.
    pub max_retries: Option<u32>,
    /// Whether it is said of single members of a batch, not of the request.
    pub(super) of_members: bool,
    /// Another server has to be asked. Inside is the one that it names.
    pub(super) moved: Option<Option<Box<Uri>>>,
    /// It is about who asks. What is said of a part's mailbox or credentials is not cured by smaller parts, so parts are sent
    /// again as well. Where no retry is worth it, one is if the principal was let in before.
    pub(super) about_caller: bool,
    /// A limit of what is in flight whose number the server names.
    pub(super) limit: Option<(Budget, u32)>,
}

impl Refusal {
    /// Creates a refusal of a request that was not executed. It concerns this call alone and sets no wait.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            outcome: Outcome::NotExecuted,
            retry_after: None,
            scope: RefusalScope::Call,
            max_retries: None,
            of_members: false,
            moved: None,
            about_caller: false,
            limit: None,
        }
    }

    /// Says that the request may have been executed.
    #[must_use]
    pub fn outcome_unknown(mut self) -> Self {
        self.outcome = Outcome::Unknown;
        self
    }

    /// Sets how long the server asks to wait.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// Sets whom it concerns.
    #[must_use]
    pub fn scope(mut self, scope: RefusalScope) -> Self {
        self.scope = scope;
        self
    }

    /// Sets the maximum number of retries for refusals of this kind.
    #[must_use]
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = Some(max_retries);
        self
    }

    /// Says that another server has what was asked for, and which one if that is known: see
    /// [`ServerBusyBackoffLayer::find_endpoint`](super::ServerBusyBackoffLayer::find_endpoint).
    #[must_use]
    pub fn moved(mut self, location: Option<Uri>) -> Self {
        self.moved = Some(location.map(Box::new));
        self
    }

    /// Returns the wait that the server asks for. A wait of zero is none.
    pub(super) fn server_wait(&self) -> Option<Duration> {
        self.retry_after.filter(|wait| !wait.is_zero())
    }
}

/// What the head of a response says.
///
/// ```
/// use tower_ews::server_busy_backoff::ClassifiedResponse;
///
/// let (head, ()) = http::Response::builder().status(503).body(()).unwrap().into_parts();
/// assert_eq!(ClassifiedResponse::by_status(&head).refusal.unwrap().reason, "503");
/// ```
#[derive(Default)]
#[non_exhaustive]
pub struct ClassifiedResponse {
    /// The refusal that the head already says. Without one and without a body classifier, the response goes on to the
    /// caller.
    pub refusal: Option<Refusal>,
    /// Reads the body, where the head is not enough. What it finds outweighs `refusal`.
    pub body_classifier: Option<Box<dyn BodyClassifier>>,
    /// Whether the body would have to be read, but is compressed. The layer warns of the first such response.
    pub compressed: bool,
    /// Whether nobody can read the body, so that the response counts as lost.
    pub(super) is_lost: bool,
}

impl ClassifiedResponse {
    /// Classifies by the status alone:
    ///
    /// | status | executed | retried |
    /// | --- | --- | --- |
    /// | 429, which concerns the principal; 503, which concerns the endpoint | no | until the deadline |
    /// | 408, 425 | no | up to 6 times |
    /// | 501, 505, 506, 507, 508, 510, 511 | no | never: goes on to the caller |
    /// | every other 5xx | perhaps | up to 6 times, if that does no harm |
    ///
    /// A retry waits as long as `Retry-After` says. Every other status goes on to the caller.
    pub fn by_status(head: &response::Parts) -> Self {
        // Nothing is read or allocated for a response that goes on.
        let refusal = || {
            let reason = head.status.as_str().to_owned();
            Refusal::new(reason).retry_after(retry_after(&head.headers))
        };
        match StatusMeaning::of(head.status) {
            StatusMeaning::Throttled => refusal().scope(match head.status {
                StatusCode::SERVICE_UNAVAILABLE => RefusalScope::Endpoint,
                _ => RefusalScope::Principal,
            }),
            StatusMeaning::TooEarly => refusal().max_retries(MAX_LOSS_RETRIES),
            StatusMeaning::Unclear if head.status.is_server_error() => {
                refusal().outcome_unknown().max_retries(MAX_LOSS_RETRIES)
            }
            _ => return Self::default(),
        }
        .into()
    }
}

impl From<Refusal> for ClassifiedResponse {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal: Some(refusal),
            ..Self::default()
        }
    }
}

impl From<Box<dyn BodyClassifier>> for ClassifiedResponse {
    fn from(classifier: Box<dyn BodyClassifier>) -> Self {
        Self {
            body_classifier: Some(classifier),
            ..Self::default()
        }
    }
}

impl fmt::Debug for ClassifiedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClassifiedResponse")
            .field("refusal", &self.refusal)
            .field("reads_body", &self.body_classifier.is_some())
            .field("compressed", &self.compressed)
            .finish()
    }
}

/// Classifies one response by its body, as it arrives.
///
/// The beginning of the body is kept back until it has ended or is long enough. Then [`so_far`](Self::so_far) decides.
/// The rest passes through and is read only for the refusals in it.
///
/// ```
/// use tower_ews::server_busy_backoff::{BodyClassifier, Reading, Refusal, RefusalScope};
///
/// /// Responses that begin with "BUSY" are refusals.
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
/// let mut body = Busy::default();
/// body.read(b"BU", &mut |_| unreachable!());
/// assert_eq!(body.so_far(), Reading::Open);
/// let mut found = 0;
/// body.read(b"SY\n", &mut |_| found += 1);
/// assert_eq!(found, 1);
/// ```
pub trait BodyClassifier: Send + Sync {
    /// Reads the next bytes. Calls `found` at once for each refusal in them, so that it is reported before the body is
    /// read on.
    fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(&Refusal));

    /// Returns what the response is if nothing else follows.
    fn so_far(&self) -> Reading;

    /// Called when the body has ended. An error means that it is incomplete: the response counts as lost.
    fn end(&mut self) -> Result<(), BoxError> {
        Ok(())
    }
}

/// What a body is, as far as it was read.
///
/// ```
/// use tower_ews::server_busy_backoff::{Reading, Refusal};
///
/// fn read(body: &str) -> Reading {
///     match body {
///         "BUSY" => Reading::Refused(Refusal::new("BUSY")),
///         body if "BUSY".starts_with(body) => Reading::Open,
///         _ => Reading::Final,
///     }
/// }
///
/// assert_eq!([read("BU"), read("BULK")], [Reading::Open, Reading::Final]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// Not known yet. A response that ends like this goes on to the caller.
    Open,
    /// The response goes on to the caller, whatever follows.
    Final,
    /// The response is a refusal as a whole, unless something else follows.
    Refused(Refusal),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, headers: &[(&str, &str)]) -> response::Parts {
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap().into_parts().0
    }

    #[test]
    fn methods() {
        for (method, idempotency) in [
            (Method::GET, Idempotency::Safe),
            (Method::HEAD, Idempotency::Safe),
            (Method::OPTIONS, Idempotency::Safe),
            (Method::TRACE, Idempotency::Safe),
            (Method::PUT, Idempotency::Idempotent),
            (Method::DELETE, Idempotency::Idempotent),
            (Method::POST, Idempotency::NonIdempotent),
            (Method::PATCH, Idempotency::NonIdempotent),
            (
                Method::from_bytes(b"MERGE").unwrap(),
                Idempotency::NonIdempotent,
            ),
        ] {
            let class = RequestClass::by_method(&method);
            assert_eq!(class.idempotency, idempotency, "{method}");
            assert_eq!(class.operation, method.as_str());
        }
    }

    #[test]
    fn a_key_makes_a_request_idempotent_that_is_not() {
        for (method, keyed) in [
            (Method::GET, Idempotency::Safe),
            (Method::PUT, Idempotency::Idempotent),
            (Method::POST, Idempotency::Idempotent),
        ] {
            let mut request = Request::new(());
            *request.method_mut() = method;
            let plain = RequestClass::by_method(request.method()).idempotency;
            assert_eq!(RequestClass::by_head(&request).idempotency, plain);
            let key = http::HeaderValue::from_static("8e03978e");
            request.headers_mut().insert("idempotency-key", key);
            assert_eq!(RequestClass::by_head(&request).idempotency, keyed);
        }
    }

    /// Finds nothing.
    struct Nothing;

    impl BodyClassifier for Nothing {
        fn read(&mut self, _: &[u8], _: &mut dyn FnMut(&Refusal)) {}

        fn so_far(&self) -> Reading {
            Reading::Open
        }
    }

    #[test]
    fn a_body_is_read_by_what_is_given_for_it() {
        let classified = ClassifiedResponse::from(Box::new(Nothing) as Box<dyn BodyClassifier>);
        assert!(classified.body_classifier.is_some());
        assert!(format!("{classified:?}").contains("reads_body: true"));
    }

    #[test]
    fn statuses() {
        let refusal =
            |status, headers: &[_]| ClassifiedResponse::by_status(&head(status, headers)).refusal;
        let busy = refusal(429, &[("retry-after", "10")]).unwrap();
        assert_eq!(busy.retry_after, Some(Duration::from_secs(10)));
        assert_eq!(
            (busy.scope, busy.outcome),
            (RefusalScope::Principal, Outcome::NotExecuted)
        );
        let overloaded = refusal(503, &[]).unwrap();
        assert_eq!(
            (overloaded.scope, overloaded.retry_after),
            (RefusalScope::Endpoint, None)
        );
        for status in [
            100, 200, 202, 302, 401, 403, 404, 413, 421, 456, 501, 505, 507, 511, 600, 999,
        ] {
            assert_eq!(refusal(status, &[("retry-after", "10")]), None, "{status}");
        }
        for (status, outcome) in [
            (408, Outcome::NotExecuted),
            (425, Outcome::NotExecuted),
            (500, Outcome::Unknown),
            (502, Outcome::Unknown),
            (504, Outcome::Unknown),
            (509, Outcome::Unknown),
            // Of a proxy that has its own.
            (520, Outcome::Unknown),
            (599, Outcome::Unknown),
        ] {
            let refusal = refusal(status, &[("retry-after", "10")]).unwrap();
            assert_eq!(refusal.outcome, outcome, "{status}");
            assert_eq!(refusal.scope, RefusalScope::Call, "{status}");
            assert_eq!(refusal.retry_after, Some(Duration::from_secs(10)));
            assert_eq!(refusal.max_retries, Some(6), "{status}");
        }
    }
}
