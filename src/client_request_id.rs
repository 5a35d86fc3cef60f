//! Sets a new id for each attempt of a call, and keeps the ids that the server gave it.
//!
//! [`ClientRequestId`] sets `client-request-id`, `return-client-request-id: true` and, where there is none, a `User-Agent` on
//! each request. It puts [`RequestIds`] into the extensions of each response: the id that was sent, whether the server's echo
//! is the same, and the names of the servers that worked on the call. Support asks for them. Nothing here is about SOAP:
//! Microsoft Graph reads the same headers.
//!
//! ```
//! use http::{Request, Response};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::client_request_id::{ClientRequestIdLayer, Echo, RequestIds};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! // Stands for an HTTP client and a server that echoes the id.
//! let client = service_fn(|request: Request<()>| async move {
//!     let mut response = Response::new(());
//!     let id = request.headers()["client-request-id"].clone();
//!     response.headers_mut().insert("client-request-id", id);
//!     response.headers_mut().insert("x-feserver", "AM6PR01CA0041".parse().unwrap());
//!     Ok::<_, std::convert::Infallible>(response)
//! });
//!
//! let service = ServiceBuilder::new().layer(ClientRequestIdLayer::new()).service(client);
//!
//! let response = service.oneshot(Request::new(())).await.unwrap();
//! let ids = RequestIds::of(&response).unwrap();
//! assert_eq!(ids.sent().unwrap().len(), 36);
//! assert_eq!(ids.echo(), Echo::Same);
//! assert_eq!(ids.fe_server(), Some("AM6PR01CA0041"));
//! # });
//! ```
//!
//! # The caller's own id
//!
//! A `client-request-id` that the caller has set, or else a [`tower_http::request_id::RequestId`] in the request's
//! extensions, is the id of the first attempt. (The extension of another version of tower-http than this crate's is another type,
//! and not seen: the log says so once, if `x-request-id` is there.) The server wants a different id for each request, so a resend gets a
//! new one. A request is a resend if it has the extension [`RetryAttempt`]:
//! [`ServerBusyBackoff`](crate::server_busy_backoff) and [`BatchSplitter`](crate::batch_splitter) insert it into every attempt
//! and part but the first. So this layer belongs inside of them: outside, all attempts have one id, and the log warns once.
//! Other retry layers, such as tower's own, send the same request again, with the caller's id in it. Above those, set no id
//! and leave it to this layer, or insert [`RetryAttempt`] into what is sent again:
//!
//! ```
//! use std::future::{Ready, ready};
//!
//! use http::{Request, Response};
//! use tower::retry::Policy;
//! use tower_ews::trail::RetryAttempt;
//!
//! /// Sends each request up to three times.
//! #[derive(Clone)]
//! struct UpToThree(u8);
//!
//! impl<E> Policy<Request<String>, Response<String>, E> for UpToThree {
//!     type Future = Ready<()>;
//!
//!     fn retry(&mut self, request: &mut Request<String>, result: &mut Result<Response<String>, E>) -> Option<Self::Future> {
//!         self.0 = self.0.checked_sub(1).filter(|_| result.is_err())?;
//!         request.extensions_mut().insert(RetryAttempt);
//!         Some(ready(()))
//!     }
//!
//!     fn clone_request(&mut self, request: &Request<String>) -> Option<Request<String>> {
//!         Some(request.clone())
//!     }
//! }
//! # use tower::{Layer, Service, ServiceExt};
//! # use tower_ews::client_request_id::ClientRequestIdLayer;
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # let ids = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
//! # let log = ids.clone();
//! # let client = tower::service_fn(move |request: Request<String>| {
//! #     log.lock().unwrap().push(request.headers()["client-request-id"].clone());
//! #     ready(Err::<Response<String>, _>("reset"))
//! # });
//! # let service = tower::retry::RetryLayer::new(UpToThree(2)).layer(ClientRequestIdLayer::new().layer(client));
//! # let request = Request::builder().header("client-request-id", "mine").body(String::new()).unwrap();
//! # service.oneshot(request).await.unwrap_err();
//! # let ids = ids.lock().unwrap();
//! # assert_eq!((ids.len(), &ids[0]), (3, &http::HeaderValue::from_static("mine")));
//! # assert!(ids[0] != ids[1] && ids[1] != ids[2]);
//! # });
//! ```
//!
//! A [`CallTrail`] in the request's extensions records the id of each attempt. Nothing is decided by it.
//!
//! # The user agent
//!
//! Administrators allow and block applications by `User-Agent`, so one that is there is never changed. If the inner client
//! adds its own (reqwest can), switch this layer's off: `.user_agent(None)`.

use std::cell::Cell;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{Entry, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::Instant;
use tower_http::request_id::{MakeRequestId, RequestId};
use tower_layer::Layer;
use tower_service::Service;
use uuid::{Builder, Uuid};

use crate::retry::RetryInfo;
use crate::trail::{CallTrail, RetryAttempt};
use crate::wiring::{ONE_ID_FOR_ALL_ATTEMPTS, UNSEEN_REQUEST_ID};

const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");
const RETURN_CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("return-client-request-id");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const DEFAULT_USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tower-ews/", env!("CARGO_PKG_VERSION")));

/// Makes random GUIDs (version 4), at a fraction of what a call to the system costs for each.
///
/// The ids are unique, but not secret: do not use them as tokens.
///
/// ```
/// use http::Request;
/// use tower_ews::client_request_id::MakeGuid;
/// use tower_http::request_id::MakeRequestId;
///
/// let id = MakeGuid.make_request_id(&Request::new(())).unwrap();
/// assert_eq!(id.header_value().len(), 36);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct MakeGuid;

thread_local! {
    // A keyed hash of a counter: each thread has 128 random bits of the system as its key. Asking the system for each
    // id costs more than the rest of this layer (benches/overhead, `client_request_id`).
    static GUIDS: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
}

fn guid() -> Uuid {
    let random = GUIDS.try_with(|(key, counter)| {
        let count = counter.get();
        counter.set(count.wrapping_add(1));
        (u128::from(key.hash_one((0_u8, count))) << 64) | u128::from(key.hash_one((1_u8, count)))
    });
    match random {
        Ok(random) => Builder::from_random_bytes(random.to_ne_bytes()).into_uuid(),
        // The thread is ending.
        Err(_) => Uuid::new_v4(),
    }
}

impl MakeRequestId for MakeGuid {
    fn make_request_id<B>(&mut self, _request: &Request<B>) -> Option<RequestId> {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        guid().hyphenated().encode_lower(&mut text);
        // An owner is shared by a count; bytes that were copied would be boxed again by the first clone.
        let value = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
        Some(RequestId::new(value))
    }
}

/// Layer that applies [`ClientRequestId`]. The [module docs](self) have an example with a service.
///
/// ```
/// use http::HeaderValue;
/// use tower_ews::client_request_id::ClientRequestIdLayer;
///
/// let layer = ClientRequestIdLayer::new().user_agent(HeaderValue::from_static("contoso-sync/1.0"));
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
#[must_use = "layers do nothing until they are applied to a service"]
pub struct ClientRequestIdLayer<M = MakeGuid> {
    make: M,
    user_agent: Option<HeaderValue>,
}

impl ClientRequestIdLayer {
    /// Creates a new layer: GUIDs of [`MakeGuid`], and `tower-ews/<version>` as the user agent of requests that have none.
    pub const fn new() -> Self {
        Self::with_make(MakeGuid)
    }
}

impl Default for ClientRequestIdLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> ClientRequestIdLayer<M> {
    /// Creates a new layer with the ids of `make`, such as tower-http's `MakeRequestUuid`. It should make GUIDs, each only once.
    ///
    /// A request for which it makes none is sent without an id, and without asking for an echo.
    pub const fn with_make(make: M) -> Self {
        Self {
            make,
            user_agent: Some(DEFAULT_USER_AGENT),
        }
    }

    /// Sets the user agent of requests that have none. `None` leaves them without. Default: `tower-ews/<version>`.
    pub fn user_agent(mut self, value: impl Into<Option<HeaderValue>>) -> Self {
        self.user_agent = value.into();
        self
    }
}

impl<S, M: Clone> Layer<S> for ClientRequestIdLayer<M> {
    type Service = ClientRequestId<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientRequestId {
            inner,
            make: self.make.clone(),
            user_agent: self.user_agent.clone(),
        }
    }
}

/// Gives each attempt an id, and its response [`RequestIds`].
///
/// Works with any bodies and any error, and adds no error of its own. See the [module docs](self) for an example.
#[derive(Clone, Debug)]
#[must_use = "services do nothing until they are called"]
pub struct ClientRequestId<S, M = MakeGuid> {
    inner: S,
    make: M,
    user_agent: Option<HeaderValue>,
}

impl<S> ClientRequestId<S> {
    /// Creates a new service around `inner`, with the settings of [`ClientRequestIdLayer::new`].
    pub fn new(inner: S) -> Self {
        ClientRequestIdLayer::new().layer(inner)
    }
}

impl<S, M> ClientRequestId<S, M> {
    inner_accessors!();
}

impl<S, ReqBody, ResBody, M> Service<Request<ReqBody>> for ClientRequestId<S, M>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    M: MakeRequestId,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let own = request.headers().get(CLIENT_REQUEST_ID).or_else(|| {
            let id = request.extensions().get::<RequestId>();
            id.map(RequestId::header_value)
        });
        let resent = request.extensions().get::<RetryAttempt>().is_some();
        let sent = match own.filter(|_| !resent) {
            Some(own) => Some(own.clone()),
            None => {
                // Another version of tower-http leaves the header alone.
                if !resent
                    && !UNSEEN_REQUEST_ID.was_said()
                    && request.headers().contains_key(X_REQUEST_ID)
                {
                    UNSEEN_REQUEST_ID.say();
                }
                let made = self.make.make_request_id(&request);
                made.map(RequestId::into_header_value)
            }
        };
        let trail = CallTrail::of(request.extensions());
        let trail = trail.map(|trail| {
            let id = sent.as_ref().map(HeaderValue::as_bytes);
            trail.record_id(id.map(String::from_utf8_lossy).as_deref())
        });

        let headers = request.headers_mut();
        match &sent {
            Some(id) => {
                headers.insert(CLIENT_REQUEST_ID, id.clone());
                if let Entry::Vacant(entry) = headers.entry(RETURN_CLIENT_REQUEST_ID) {
                    entry.insert(TRUE);
                }
            }
            // A resend never carries the id of another attempt.
            None => drop(headers.remove(CLIENT_REQUEST_ID)),
        }
        if let Some(user_agent) = &self.user_agent {
            if let Entry::Vacant(entry) = headers.entry(USER_AGENT) {
                entry.insert(user_agent.clone());
            }
        }

        ResponseFuture {
            inner: self.inner.call(request),
            sent,
            trail,
        }
    }
}

/// Response future of [`ClientRequestId`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    sent: Option<HeaderValue>,
    trail: Option<CallTrail>,
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let sent = this.sent.is_some();
        let ids = RequestIds::new(this.sent.take(), response.headers());
        if let Some(trail) = this.trail.take() {
            ids.record(&trail);
            let status = response.status();
            trail.record(|attempt| {
                attempt.status.get_or_insert(status);
                attempt.responded.get_or_insert_with(Instant::now);
            });
        }
        // Attempts further in that had an id of their own have left it there.
        let extensions = response.extensions_mut();
        let known = extensions.insert(ids).is_some();
        if !known
            && sent
            && extensions
                .get::<RetryInfo>()
                .is_some_and(|info| info.attempts > 1)
        {
            ONE_ID_FOR_ALL_ATTEMPTS.say();
        }
        Poll::Ready(Ok(response))
    }
}

/// A response extension: the ids of one attempt, and the servers that worked on it.
///
/// The first of several headers of one name counts. Values that are not visible ASCII are read as absent.
///
/// ```
/// use http::Response;
/// use tower_ews::client_request_id::{Echo, RequestIds};
///
/// fn log<B>(response: &Response<B>) {
///     let Some(ids) = RequestIds::of(response) else { return };
///     println!("{:?} is {:?} on {:?}", ids.sent(), ids.request_id(), ids.be_server());
///     if let Echo::Different(other) = ids.echo() {
///         println!("the response belongs to {other:?}");
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct RequestIds {
    sent: Option<HeaderValue>,
    echo: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    fe_server: Option<HeaderValue>,
    be_server: Option<HeaderValue>,
    calculated_be_target: Option<HeaderValue>,
    diag_info: Option<HeaderValue>,
}

/// How the id in the server's response compares with the one that was sent: see [`RequestIds::echo`].
///
/// ```
/// use tower_ews::client_request_id::Echo;
///
/// let echo = Echo::Different("7d1c9a1e-5b0f-4c59-9d0e-3c3d7f6f7a10");
/// assert_ne!(echo, Echo::Same);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Echo<'a> {
    /// The response has no `client-request-id`, or no readable one.
    Missing,
    /// The response has the id that was sent. The case of letters makes no difference.
    Same,
    /// The response has another id, or one where none was sent: a proxy has mixed up responses, or made an id of its own.
    Different(&'a str),
}

impl RequestIds {
    /// Returns the ids in a response's extensions, if it came through [`ClientRequestId`].
    pub fn of<B>(response: &Response<B>) -> Option<&Self> {
        response.extensions().get::<Self>()
    }

    // One walk over the headers costs less than a lookup for each name, and nothing is parsed here.
    fn new(sent: Option<HeaderValue>, headers: &HeaderMap) -> Self {
        let mut ids = Self {
            sent,
            ..Self::default()
        };
        for (name, value) in headers {
            let slot = match name.as_str() {
                "client-request-id" => &mut ids.echo,
                "request-id" | "requestid" => &mut ids.request_id,
                "x-feserver" => &mut ids.fe_server,
                "x-beserver" | "x-targetbeserver" => &mut ids.be_server,
                "x-calculatedbetarget" => &mut ids.calculated_be_target,
                "x-diaginfo" => &mut ids.diag_info,
                _ => continue,
            };
            slot.get_or_insert_with(|| value.clone());
        }
        ids
    }

    fn record(&self, trail: &CallTrail) {
        let echo = match self.echo() {
            Echo::Different(other) => Some(other.into()),
            _ => None,
        };
        trail.record(|attempt| {
            attempt.different_echo = echo;
            attempt.request_id = self.request_id().map(Into::into);
            attempt.fe_server = self.fe_server().map(Into::into);
            attempt.be_server = self
                .be_server()
                .or(self.calculated_be_target())
                .map(Into::into);
            attempt.diag_info = self.diag_info().map(Into::into);
        });
    }

    /// The `client-request-id` that was sent.
    pub fn sent(&self) -> Option<&str> {
        text(&self.sent)
    }

    /// Returns whether the response's `client-request-id` is the one that was sent.
    pub fn echo(&self) -> Echo<'_> {
        match (self.sent(), text(&self.echo)) {
            (_, None) => Echo::Missing,
            (Some(sent), Some(echo)) if sent.eq_ignore_ascii_case(echo) => Echo::Same,
            (_, Some(echo)) => Echo::Different(echo),
        }
    }

    /// Returns the server's own id of the request: `request-id` or `RequestId`.
    pub fn request_id(&self) -> Option<&str> {
        text(&self.request_id)
    }

    /// Returns the front end: `X-FEServer`. May be a list, separated by commas.
    pub fn fe_server(&self) -> Option<&str> {
        text(&self.fe_server)
    }

    /// Returns the back end: `X-BEServer` or `X-TargetBEServer`.
    pub fn be_server(&self) -> Option<&str> {
        text(&self.be_server)
    }

    /// Returns where the front end sent the request to: `X-CalculatedBETarget`.
    pub fn calculated_be_target(&self) -> Option<&str> {
        text(&self.calculated_be_target)
    }

    /// Returns the back end's diagnostic text: `X-DiagInfo`.
    pub fn diag_info(&self) -> Option<&str> {
        text(&self.diag_info)
    }
}

fn text(value: &Option<HeaderValue>) -> Option<&str> {
    value.as_ref()?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::convert::Infallible;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
    use tower_http::request_id::{MakeRequestUuid, SetRequestIdLayer};

    use super::*;

    const OWN: &str = "5e7c2f0a-36e1-4a5e-8f9b-0d1f6a1c2b3d";

    type Seen = Arc<Mutex<Vec<HeaderMap>>>;

    /// A client that responds with these headers, and the headers that it was sent.
    fn client(
        response_headers: &'static [(&'static str, &'static str)],
    ) -> (
        impl Service<Request<()>, Response = Response<()>, Error = Infallible> + Clone,
        Seen,
    ) {
        let seen = Seen::default();
        let log = Arc::clone(&seen);
        let client = service_fn(move |request: Request<()>| {
            log.lock().push(request.headers().clone());
            let mut response = Response::new(());
            for (name, value) in response_headers {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                let value = HeaderValue::from_str(value).unwrap();
                response.headers_mut().append(name, value);
            }
            std::future::ready(Ok(response))
        });
        (client, seen)
    }

    fn id(headers: &HeaderMap) -> &str {
        headers["client-request-id"].to_str().unwrap()
    }

    #[tokio::test]
    async fn each_request_gets_a_guid_of_its_own() {
        let (client, seen) = client(&[]);
        let mut service = ClientRequestId::new(client);
        for _ in 0..100 {
            let response = service.call(Request::new(())).await.unwrap();
            let sent = RequestIds::of(&response).unwrap().sent().unwrap();
            assert_eq!(sent, id(seen.lock().last().unwrap()));
        }
        let seen = seen.lock();
        let ids: HashSet<_> = seen.iter().map(id).collect();
        assert_eq!(ids.len(), 100);
        for id in ids {
            let uuid = Uuid::parse_str(id).unwrap();
            assert_eq!(uuid.get_version_num(), 4);
            assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(uuid.to_string(), id);
        }
        for headers in seen.iter() {
            assert_eq!(headers["return-client-request-id"], "true");
            assert_eq!(headers["user-agent"], DEFAULT_USER_AGENT);
            assert_eq!(headers.len(), 3);
        }
    }

    #[test]
    fn threads_share_no_guids() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..1000).map(|_| guid()).collect::<Vec<_>>()))
            .collect();
        let ids: HashSet<_> = threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect();
        assert_eq!(ids.len(), 4000);
    }

    #[tokio::test]
    async fn the_callers_headers_stay() {
        let (client, seen) = client(&[]);
        let request = Request::builder()
            .header("client-request-id", OWN)
            .header("return-client-request-id", "false")
            .header("user-agent", "archiver/7")
            .body(())
            .unwrap();
        let response = ClientRequestId::new(client).oneshot(request).await.unwrap();
        let seen = seen.lock();
        assert_eq!(id(&seen[0]), OWN);
        assert_eq!(seen[0]["return-client-request-id"], "false");
        assert_eq!(seen[0]["user-agent"], "archiver/7");
        assert_eq!(RequestIds::of(&response).unwrap().sent(), Some(OWN));
    }

    #[tokio::test]
    async fn the_user_agent_is_configurable() {
        for (value, expected) in [
            (
                Some(HeaderValue::from_static("archiver/7")),
                Some("archiver/7"),
            ),
            (None, None),
        ] {
            let (client, seen) = client(&[]);
            let layer = ClientRequestIdLayer::new().user_agent(value);
            layer.layer(client).oneshot(Request::new(())).await.unwrap();
            let seen = seen.lock();
            let sent = seen[0].get("user-agent").map(|v| v.to_str().unwrap());
            assert_eq!(sent, expected);
        }
    }

    fn with_own_id() -> Request<()> {
        Request::builder()
            .header("client-request-id", OWN)
            .body(())
            .unwrap()
    }

    #[tokio::test]
    async fn a_marked_resend_gets_a_new_id() {
        let (client, seen) = client(&[]);
        let mut request = with_own_id();
        request.extensions_mut().insert(RetryAttempt);
        ClientRequestId::new(client).oneshot(request).await.unwrap();
        let seen = seen.lock();
        assert_ne!(id(&seen[0]), OWN);
        assert_eq!(seen[0].get_all("client-request-id").iter().count(), 1);
    }

    #[tokio::test]
    async fn the_trail_records_the_attempts_and_decides_nothing() {
        // `begun`: whether the layer that sends again begins a new attempt in the trail, as ours do.
        for (begun, marked) in [(true, true), (false, true), (true, false), (false, false)] {
            let (client, seen) = client(&[("request-id", "srv-1"), ("x-feserver", "FE1")]);
            let mut service = ClientRequestId::new(client);
            let trail = CallTrail::new();
            for number in 0..3 {
                let mut request = with_own_id();
                let attempt = if begun {
                    trail.begin_attempt()
                } else {
                    trail.clone()
                };
                request.extensions_mut().insert(attempt);
                if marked && number > 0 {
                    request.extensions_mut().insert(RetryAttempt);
                }
                service.call(request).await.unwrap();
            }
            let seen = seen.lock();
            assert_eq!(id(&seen[0]), OWN);
            let ids: HashSet<_> = seen.iter().map(id).collect();
            // The caller's own id goes out again where nobody says that it was sent before.
            assert_eq!(ids.len(), if marked { 3 } else { 1 }, "begun: {begun}");
            let attempts = trail.attempts();
            let written: Vec<_> = attempts
                .iter()
                .map(|a| a.client_request_id.as_deref().unwrap())
                .collect();
            assert_eq!(written, seen.iter().map(id).collect::<Vec<_>>());
            for attempt in &attempts {
                assert_eq!(attempt.request_id.as_deref(), Some("srv-1"));
                assert_eq!(attempt.fe_server.as_deref(), Some("FE1"));
                assert_eq!(attempt.different_echo, None);
            }
        }
    }

    #[tokio::test]
    async fn a_failed_attempt_leaves_its_id_in_the_trail() {
        let client = service_fn(|_: Request<()>| async { Err::<Response<()>, _>("reset") });
        let trail = CallTrail::new();
        let mut request = with_own_id();
        request.extensions_mut().insert(trail.clone());
        // The client's own error type comes back.
        let error: &str = ClientRequestId::new(client)
            .oneshot(request)
            .await
            .unwrap_err();
        assert_eq!(error, "reset");
        assert_eq!(trail.attempts()[0].client_request_id.as_deref(), Some(OWN));
        assert_eq!(trail.attempts()[0].request_id, None);
    }

    #[test]
    fn echoes() {
        const UPPER: &str = "5E7C2F0A-36E1-4A5E-8F9B-0D1F6A1C2B3D";
        const OTHER: &str = "00000000-0000-4000-8000-000000000000";
        type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], Echo<'a>);
        let cases: [Case<'_>; 7] = [
            (Some(OWN), &[], Echo::Missing),
            (Some(OWN), &[("client-request-id", OWN)], Echo::Same),
            (Some(OWN), &[("client-request-id", UPPER)], Echo::Same),
            (
                Some(OWN),
                &[("client-request-id", OTHER)],
                Echo::Different(OTHER),
            ),
            (Some(OWN), &[("client-request-id", "")], Echo::Different("")),
            (
                None,
                &[("client-request-id", OTHER)],
                Echo::Different(OTHER),
            ),
            (
                Some(OWN),
                &[("client-request-id", "caf\u{e9}")],
                Echo::Missing,
            ),
        ];
        for (sent, response_headers, echo) in cases {
            let ids = RequestIds::new(sent.map(|s| s.parse().unwrap()), &headers(response_headers));
            assert_eq!(ids.echo(), echo, "{response_headers:?}");
            let trail = CallTrail::new();
            ids.record(&trail);
            let written = trail.attempts()[0].different_echo.clone();
            match echo {
                Echo::Different(other) => assert_eq!(written.as_deref(), Some(other)),
                _ => assert_eq!(written, None),
            }
        }
    }

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn servers() {
        let ids = RequestIds::new(
            None,
            &headers(&[
                ("Date", "Thu, 01 Oct 2026 10:00:00 GMT"),
                ("RequestId", "r-1"),
                ("X-FEServer", "FE1,FE2"),
                ("X-FEServer", "FE3"),
                ("X-BEServer", "BE1"),
                ("X-CalculatedBETarget", "be1.example"),
                ("X-DiagInfo", "BE1-diag"),
            ]),
        );
        assert_eq!(ids.request_id(), Some("r-1"));
        assert_eq!(ids.fe_server(), Some("FE1,FE2"));
        assert_eq!(ids.be_server(), Some("BE1"));
        assert_eq!(ids.calculated_be_target(), Some("be1.example"));
        assert_eq!(ids.diag_info(), Some("BE1-diag"));
        let ids = RequestIds::new(
            None,
            &headers(&[("request-id", "r-2"), ("X-TargetBEServer", "BE2")]),
        );
        assert_eq!(ids.request_id(), Some("r-2"));
        assert_eq!(ids.be_server(), Some("BE2"));
        // With no back end's own name, the trail has the one that the front end chose.
        let trail = CallTrail::new();
        RequestIds::new(None, &headers(&[("X-CalculatedBETarget", "be3.example")])).record(&trail);
        assert_eq!(
            trail.attempts()[0].be_server.as_deref(),
            Some("be3.example")
        );
    }

    #[derive(Clone, Default)]
    struct Counter(u32);

    impl MakeRequestId for Counter {
        fn make_request_id<B>(&mut self, request: &Request<B>) -> Option<RequestId> {
            if request.headers().contains_key("x-none") {
                return None;
            }
            self.0 += 1;
            Some(RequestId::new(self.0.into()))
        }
    }

    #[tokio::test]
    async fn any_make_request_id_will_do() {
        let (client, seen) = client(&[]);
        let mut service = ClientRequestIdLayer::with_make(Counter::default()).layer(client.clone());
        service.call(Request::new(())).await.unwrap();
        service.call(Request::new(())).await.unwrap();
        // One that makes no id: none is sent, and a resend does not keep the one it had.
        let mut none = with_own_id();
        none.headers_mut().insert("x-none", TRUE);
        none.extensions_mut().insert(RetryAttempt);
        let response = service.call(none).await.unwrap();
        assert_eq!(RequestIds::of(&response).unwrap().sent(), None);
        let uuid = ClientRequestIdLayer::with_make(MakeRequestUuid).layer(client);
        uuid.oneshot(Request::new(())).await.unwrap();

        let seen = seen.lock();
        assert_eq!(id(&seen[0]), "1");
        assert_eq!(id(&seen[1]), "2");
        assert!(!seen[2].contains_key("client-request-id"));
        assert!(!seen[2].contains_key("return-client-request-id"));
        assert!(Uuid::parse_str(id(&seen[3])).is_ok());
    }

    #[tokio::test]
    async fn tower_https_request_id_is_the_first_attempts() {
        let (client, seen) = client(&[]);
        let service = ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(Counter::default()))
            .layer(ClientRequestIdLayer::new())
            .service(client);
        service.clone().oneshot(Request::new(())).await.unwrap();
        let mut resend = Request::new(());
        resend.extensions_mut().insert(RetryAttempt);
        service.clone().oneshot(resend).await.unwrap();
        // A header of the caller's comes first.
        service.oneshot(with_own_id()).await.unwrap();
        let seen = seen.lock();
        assert_eq!(id(&seen[0]), "1");
        assert!(Uuid::parse_str(id(&seen[1])).is_ok());
        assert_eq!(id(&seen[2]), OWN);
    }

    #[tokio::test]
    async fn readiness_is_the_inner_services() {
        let (mock, mut handle) = tower_test::mock::pair::<Request<()>, Response<()>>();
        handle.allow(0);
        let mut service = tokio_test::task::spawn(ClientRequestId::new(mock));
        let mut poll =
            || service.enter(|cx, mut service| Service::poll_ready(&mut *service, cx).is_ready());
        assert!(!poll());
        handle.allow(1);
        assert!(poll());
    }

    #[tokio::test]
    async fn debug_prints_no_credentials() {
        let (client, _) = client(&[("set-cookie", "canary")]);
        let request = Request::builder()
            .header("authorization", "Basic canary")
            .body(())
            .unwrap();
        let trail = CallTrail::new();
        let mut request = request;
        request.extensions_mut().insert(trail.clone());
        let response = ClientRequestId::new(client).oneshot(request).await.unwrap();
        let ids = RequestIds::of(&response).unwrap();
        let text = format!("{ids:?} {trail:?} {:?}", ClientRequestIdLayer::new());
        assert!(text.contains(ids.sent().unwrap()));
        assert!(!text.contains("canary"));
    }
}
