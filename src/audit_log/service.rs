//! [`AuditLog`]: the service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower::BoxError;
use tower_service::Service;

use super::body::AuditBody;
use super::call::Call;
use super::facts::{Facts, HttpFacts};
use super::future::ResponseFuture;
use super::shared::Shared;
use super::sink::Sink;

/// Makes one record of each call. See the [module](super).
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::BodyExt;
/// use tower::{ServiceExt, service_fn};
/// use tower_ews::audit_log::{AuditLog, MemorySink};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// let client = service_fn(async |_: Request<String>| {
///     Ok::<_, tower::BoxError>(Response::new(String::from("hello")))
/// });
/// let sink = MemorySink::new();
/// let service = AuditLog::new(client, sink.clone());
/// service.oneshot(Request::new(String::new())).await?.into_body().collect().await?;
/// assert_eq!(sink.records()[0].status, Some(200));
/// # Ok(()) }
/// ```
#[must_use = "services do nothing until they are called"]
pub struct AuditLog<S, F = HttpFacts> {
    inner: S,
    shared: Arc<Shared>,
    facts: Arc<F>,
}

impl<S> AuditLog<S> {
    /// Creates a service that sends records to `sink`, with the defaults of
    /// [`AuditLogLayer::new`](super::AuditLogLayer::new).
    pub fn new(inner: S, sink: impl Sink) -> Self {
        Self::with(inner, Arc::new(Shared::new(sink)), Arc::new(HttpFacts))
    }
}

impl<S, F> AuditLog<S, F> {
    pub(super) fn with(inner: S, shared: Arc<Shared>, facts: Arc<F>) -> Self {
        Self {
            inner,
            shared,
            facts,
        }
    }

    inner_accessors!();

    // By itself, so that the request of a call that is not recorded need not be moved to where it can be looked at.
    #[inline(never)]
    fn recorded<ReqB, ResB>(
        &mut self,
        request: Request<ReqB>,
    ) -> ResponseFuture<S::Future, ResB, S::Error>
    where
        S: Service<Request<ReqB>>,
        S::Error: Into<BoxError>,
        F: Facts,
        ReqB: Body + 'static,
        ResB: Body,
        ResB::Error: Into<BoxError>,
    {
        let (mut head, body) = request.into_parts();
        let call = Call::begin(&self.shared, &self.facts, &mut head, &body);
        let request = Request::from_parts(head, body);
        let inner = match &call {
            Some(call) => call.span.in_scope(|| self.inner.call(request)),
            None => self.inner.call(request),
        };
        ResponseFuture::new(inner, call)
    }
}

impl<S: Clone, F> Clone for AuditLog<S, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
            facts: Arc::clone(&self.facts),
        }
    }
}

impl<S, F> fmt::Debug for AuditLog<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The inner service may hold credentials.
        f.debug_struct("AuditLog")
            .field("body_limit", &self.shared.body_limit)
            .finish_non_exhaustive()
    }
}

impl<S, F, ReqB, ResB> Service<Request<ReqB>> for AuditLog<S, F>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    F: Facts,
    ReqB: Body + 'static,
    ResB: Body,
    ResB::Data: 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<AuditBody<ResB>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, ResB, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        // What is switched off costs no more than this look: `benches/audit`, `off`.
        if self.shared.control.is_off() {
            return ResponseFuture::new(self.inner.call(request), None);
        }
        self.recorded(request)
    }
}
