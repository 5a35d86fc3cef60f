//! The service, and its response future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower::BoxError;
use tower_service::Service;

use super::body::{PagedBody, Pages};
use super::calls::Calls;
use super::config::{Config, Shared};
use super::find::FindPages;
use super::paging::{Mode, Paging};
use super::sync::SyncPages;
use crate::body::ReplayBody;
use crate::body::client::{Client, client};
use crate::body::collected::remove_body_headers;
use crate::body::either::{EitherCall, MadeCall};
use crate::body::forward::Forward;
use crate::soap::page_request::{FindRequest, PageRequest};

/// Adds page views to searches, and follows pages. See the [module](super).
///
/// ```
/// use http::{Request, Response};
/// use tower::{Service, ServiceExt, service_fn};
/// use tower_ews::body::ReplayBody;
/// use tower_ews::find_paging::FindPaging;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let client = service_fn(|request: Request<ReplayBody>| async move {
///     Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::from(request.into_body())))
/// });
/// let mut service = FindPaging::new(client);
///
/// // Requests without pages are forwarded unchanged.
/// let response = service.ready().await.unwrap().call(Request::new("ping".into())).await.unwrap();
/// assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(4));
/// # });
/// ```
#[derive(Clone)]
#[must_use = "services do nothing until they are called"]
pub struct FindPaging<S> {
    inner: S,
    shared: Arc<Shared>,
    inner_is_always_ready: bool,
}

impl<S> FindPaging<S> {
    /// Creates a new service with the default settings of [`FindPagingLayer`](super::FindPagingLayer).
    pub fn new(inner: S) -> Self {
        Self::with_shared(inner, Arc::new(Shared::new(Config::default())))
    }

    pub(super) fn with_shared(inner: S, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            shared,
            inner_is_always_ready: false,
        }
    }

    /// Says that the inner service is always ready, so that requests that are forwarded unchanged need no clone of it:
    /// `benches/overhead`, `stack`.
    pub(crate) fn inner_is_always_ready(mut self) -> Self {
        self.inner_is_always_ready = true;
        self
    }

    inner_accessors!();
}

impl<S> fmt::Debug for FindPaging<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The inner service may hold credentials.
        f.debug_struct("FindPaging")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

/// What is done with one request.
enum Plan {
    /// A view is added.
    View(FindRequest),
    Follow(PageRequest),
}

impl Plan {
    fn of(body: &ReplayBody, mode: Mode) -> Option<Plan> {
        if mode == Mode::Off {
            return None;
        }
        let outline = body.outline().ok()?;
        if !PageRequest::may_be(outline) {
            return None;
        }
        match PageRequest::of(outline, &body.to_bytes())? {
            request if mode == Mode::AllPages => Some(Plan::Follow(request)),
            PageRequest::Find(request) => Some(Plan::View(request)),
            PageRequest::Sync(_) => None,
        }
    }
}

impl Shared {
    /// Begins a call whose pages are followed, or returns the request that is forwarded.
    fn begin(
        self: &Arc<Self>,
        client: impl FnOnce() -> Client,
        request: Request<ReplayBody>,
    ) -> Result<MadeCall<Pages>, Request<ReplayBody>> {
        let config = &self.config;
        let asked = request.extensions().get().copied();
        let paging: Paging = asked.unwrap_or(config.paging);
        let size = |find: &FindRequest| match find.is_restricted {
            true => config.restricted_page_size,
            false => config.page_size,
        };
        match Plan::of(request.body(), paging.mode) {
            None => Err(request),
            Some(Plan::View(find)) => {
                let (mut head, body) = request.into_parts();
                remove_body_headers(&mut head.headers);
                let pieces = find.page(&body.to_bytes(), None, paging.offset, size(&find));
                Err(Request::from_parts(head, ReplayBody::from_pieces(pieces)))
            }
            Some(Plan::Follow(follow)) => {
                let calls = Calls::new(client(), Arc::clone(self), request);
                Ok(match follow {
                    PageRequest::Find(find) => {
                        let size = size(&find);
                        Box::pin(FindPages::new(calls, find, size, paging.offset).respond())
                    }
                    PageRequest::Sync(sync) => Box::pin(SyncPages::new(calls, sync).respond()),
                })
            }
        }
    }
}

impl<S, B> Service<Request<ReplayBody>> for FindPaging<S>
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<PagedBody<B>>;
    type Error = BoxError;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // A clone of the inner service is made ready for each page: what an idle clone reserves here would be missing
        // elsewhere.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
        let begun = self.shared.begin(|| client(self.inner.clone()), request);
        ResponseFuture(match begun {
            Ok(call) => EitherCall::Made(call),
            Err(request) => {
                let ready = self.inner_is_always_ready;
                EitherCall::Forwarded(Forward::new(&mut self.inner, ready, request))
            }
        })
    }
}

/// The first page of a request, or a call that is forwarded.
///
/// # Cancellation
///
/// Dropping it drops the page that is on its way, and the waits. Nothing goes on in the background.
///
/// ```
/// use std::time::Duration;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{Service, service_fn};
/// use tower_ews::body::ReplayBody;
/// use tower_ews::find_paging::{FindPaging, ResponseFuture};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let client = service_fn(|_: Request<ReplayBody>| std::future::pending::<Result<Response<Full<&[u8]>>, tower::BoxError>>());
/// let call: ResponseFuture<_> = FindPaging::new(client).call(Request::new("ping".into()));
/// assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
/// # });
/// ```
#[must_use = "futures do nothing unless they are polled"]
#[pin_project]
pub struct ResponseFuture<S: Service<Request<ReplayBody>>>(#[pin] EitherCall<S, Pages>);

impl<S, B> Future for ResponseFuture<S>
where
    S: Service<Request<ReplayBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<PagedBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().0.poll(cx))?;
        Poll::Ready(Ok(response.map(PagedBody)))
    }
}

impl<S: Service<Request<ReplayBody>>> fmt::Debug for ResponseFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("paged", &self.0.is_made())
            .finish()
    }
}
