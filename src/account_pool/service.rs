//! The service, and its response future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower::BoxError;
use tower::util::Oneshot;
use tower_service::Service;

use super::account::Account;
use super::body::PoolBody;
use super::call::Call;
use super::refusal::Api;
use super::shared::Shared;
use crate::extensions::Caller;
use crate::ledger::Ledger;
use crate::principal::MakeCharges;

/// Makes each attempt with one of several accounts. See the [module](super).
///
/// ```
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_ews::account_pool::{Account, AccountPoolLayer};
/// use tower_ews::extensions::Caller;
/// use tower_ews::principal::Principal;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// // The pool tells who calls. What is beneath it can put the credentials on.
/// let client = service_fn(async |request: Request<()>| {
///     let caller: &Caller = request.extensions().get().unwrap();
///     Ok::<_, std::convert::Infallible>(Response::new(caller.name().to_owned()))
/// });
/// let pool = AccountPoolLayer::in_flight(4, |_: &Request<()>| None::<Principal>)
///     .account(Account::new("svc1@contoso.com"))
///     .layer(client);
/// let response = pool.oneshot(Request::new(())).await.unwrap();
/// # let _ = response;
/// # });
/// ```
#[must_use = "services do nothing until they are called"]
pub struct AccountPool<S, M> {
    inner: S,
    shared: Arc<Shared<M>>,
    inner_is_always_ready: bool,
}

impl<S: Clone, M> Clone for AccountPool<S, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
            inner_is_always_ready: self.inner_is_always_ready,
        }
    }
}

impl<S, M> AccountPool<S, M> {
    /// Creates a new service with a pool of its own for any HTTP API, with the defaults of
    /// [`AccountPoolLayer::http`](super::AccountPoolLayer::http).
    pub fn new(
        inner: S,
        ledger: Arc<dyn Ledger>,
        make_charges: M,
        accounts: impl IntoIterator<Item = Account>,
    ) -> Self {
        let mut shared = Shared::new(ledger, make_charges, Api::Http);
        accounts.into_iter().for_each(|account| shared.add(account));
        Self::with_shared(inner, Arc::new(shared))
    }

    pub(super) fn with_shared(inner: S, shared: Arc<Shared<M>>) -> Self {
        Self {
            inner,
            shared,
            inner_is_always_ready: false,
        }
    }

    /// Says that the inner service is always ready, so that requests that are forwarded unchanged need no clone of it:
    /// `benches/overhead`, `stack`.
    #[cfg(feature = "ews")]
    pub(crate) fn inner_is_always_ready(mut self) -> Self {
        self.inner_is_always_ready = true;
        self
    }

    inner_accessors!();

    /// Returns the accounts, by number, with which a request may be made. None if it passes untouched.
    fn accounts_of<B>(&self, request: &Request<B>) -> Option<std::ops::Range<usize>> {
        let members = &self.shared.members;
        if members.is_empty() {
            return None;
        }
        let Some(caller) = request.extensions().get::<Caller>() else {
            return Some(0..self.shared.shared_members);
        };
        let number = members
            .iter()
            .position(|member| member.caller() == caller)?;
        Some(number..number + 1)
    }
}

impl<S, M> fmt::Debug for AccountPool<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The inner service may hold credentials.
        f.debug_struct("AccountPool")
            .field("accounts", &self.shared.members)
            .finish_non_exhaustive()
    }
}

impl<S, M, B, ResB> Service<Request<B>> for AccountPool<S, M>
where
    S: Service<Request<B>, Response = Response<ResB>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    M: MakeCharges<B> + Send + Sync + 'static,
    B: Clone + Send + 'static,
    ResB: Body<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError> + Send,
{
    type Response = Response<PoolBody<ResB>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B, ResB>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Each attempt makes a clone of the inner service ready, once it has an account.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture(match self.accounts_of(&request) {
            Some(accounts) => {
                let call = Call::new(self.inner.clone(), request, Arc::clone(&self.shared));
                Step::Pooled(Box::pin(call.run(accounts)))
            }
            None if self.inner_is_always_ready => Step::Direct(self.inner.call(request)),
            None => Step::Untouched(Oneshot::new(self.inner.clone(), request)),
        })
    }
}

type Pooled<ResB> =
    Pin<Box<dyn Future<Output = Result<Response<PoolBody<ResB>>, BoxError>> + Send>>;

/// The response future of [`AccountPool`].
#[must_use = "futures do nothing unless they are polled"]
#[pin_project]
pub struct ResponseFuture<S: Service<Request<B>>, B, ResB: Body>(#[pin] Step<S, B, ResB>);

#[pin_project(project = StepProject)]
#[expect(
    clippy::large_enum_variant,
    reason = "requests that are forwarded unchanged do not pay for a box"
)]
enum Step<S: Service<Request<B>>, B, ResB: Body> {
    Untouched(#[pin] Oneshot<S, Request<B>>),
    Direct(#[pin] S::Future),
    Pooled(Pooled<ResB>),
}

impl<S, B, ResB> Future for ResponseFuture<S, B, ResB>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    ResB: Body<Data = Bytes>,
{
    type Output = Result<Response<PoolBody<ResB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match self.project().0.project() {
            StepProject::Untouched(call) => ready!(call.poll(cx)),
            StepProject::Direct(call) => ready!(call.poll(cx)),
            StepProject::Pooled(call) => return call.as_mut().poll(cx),
        };
        Poll::Ready(match response {
            Ok(response) => Ok(response.map(PoolBody::untouched)),
            Err(error) => Err(error.into()),
        })
    }
}

impl<S: Service<Request<B>>, B, ResB: Body> fmt::Debug for ResponseFuture<S, B, ResB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("pooled", &matches!(self.0, Step::Pooled(_)))
            .finish()
    }
}
