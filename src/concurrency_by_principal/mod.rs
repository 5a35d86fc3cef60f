//! Limits the concurrent calls of each principal, and counts a call until its response body has ended.
//!
//! Servers that throttle count per identity, and they count a call until its response is sent. [`ConcurrencyByPrincipal`]
//! acquires each call's charges from a [`Ledger`] before it sends the call, and gives them back when the response body has
//! ended, failed or was dropped. A [`MakeCharges`] says which budgets a call draws on. In the simplest case it is a closure:
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use bytes::Bytes;
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
//! use tower_ews::principal::Principal;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! // Four concurrent requests of each tenant. Another tenant's calls do not wait for them.
//! let by_tenant = |request: &Request<()>| {
//!     let tenant = request.headers().get("x-tenant")?.to_str().ok()?;
//!     Some(Principal::new(tenant))
//! };
//! let mut service = ServiceBuilder::new()
//!     .layer(ConcurrencyByPrincipalLayer::in_flight(4, by_tenant))
//!     .service_fn(|_: Request<()>| async { Ok::<_, tower::BoxError>(Response::new(Empty::<Bytes>::new())) });
//!
//! let request = Request::builder().header("x-tenant", "contoso").body(())?;
//! let response = service.ready().await?.call(request).await?;
//! # drop(response);
//! # Ok(())
//! # }
//! ```
//!
//! # Readiness
//!
//! `poll_ready` is always ready and takes nothing. The wait is in the response future: first for the permit, then for
//! a clone of the inner service to be ready. A permit that was acquired in `poll_ready` would be held by a clone that is
//! never called, and starve the others.
//!
//! # Until the body ends
//!
//! **Do not call again for the same principal while you read a body**, unless its limit allows for both: the second call
//! waits for a permit that the first one holds until its body is read. Collect or drop the body first. Use
//! [`release_on_headers`](ConcurrencyByPrincipalLayer::release_on_headers) where the server counts only until the headers.
//!
//! # What outlives its call
//!
//! A subscription counts from Subscribe to Unsubscribe. [`MakeCharges::lease`] says which charges last longer than their call, and
//! reads in the response under which id: what was drawn on that budget is kept until a call ends it, a response says that it is lost,
//! or it has expired. `EwsCharges` does so for [`Budget::Subscriptions`]. The kept
//! permits belong to the layer and its clones, 100,000 at most. A call that is given up, or whose response breaks off, keeps
//! nothing. A response that is compressed here cannot be read, and keeps nothing either.
//!
//! In the same way charges learn from responses what later calls may cost ([`Lease::of_nothing`](crate::principal::Lease::of_nothing)):
//! `EwsCharges` does so for [`Budget::FindCount`].
//!
//! # Cancellation
//!
//! Dropping the response future at any point leaves the queue or gives the permit back.
//!
//! # Errors
//!
//! All as [`BoxError`]:
//!
//! - [`AcquireError`](crate::ledger::AcquireError), if too many calls wait, this one waited too long, or
//!   its budget is configured wrongly. Nothing was sent.
//! - [`DeadlineElapsed`], if the call's [`Deadline`](crate::extensions::Deadline) had passed before. Nothing was sent.
//! - The inner service's own error.

mod body;
mod followed;
mod future;
mod leased;
mod timed;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::PermitBody;
use self::followed::Followed;
pub use self::future::ResponseFuture;
use self::future::Step;
pub use crate::errors::DeadlineElapsed;
use crate::ledger::{AcquiredPermit, Leases, Ledger, Limit, LocalLedger};
use crate::principal::{Budget, Lease, MakeCharges, RequestCharges};

/// Layer that applies [`ConcurrencyByPrincipal`].
///
/// ```
/// use std::sync::Arc;
/// use http::Request;
/// use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
/// use tower_ews::ledger::LocalLedger;
/// use tower_ews::principal::Principal;
///
/// // A ledger that other layers can share.
/// let ledger = Arc::new(LocalLedger::in_flight(4));
/// let layer = ConcurrencyByPrincipalLayer::new(ledger, |_: &Request<()>| Principal::new("contoso"));
/// # let _ = layer;
/// ```
#[derive(Clone)]
#[must_use = "layers do nothing until they are applied to a service"]
pub struct ConcurrencyByPrincipalLayer<M> {
    ledger: Arc<dyn Ledger>,
    make_charges: M,
    release_on_headers: bool,
    /// What outlives calls, of all services that this layer and its clones make.
    leases: Arc<Leases>,
}

impl<M> ConcurrencyByPrincipalLayer<M> {
    /// Creates a new layer, whose calls acquire what `make_charges` says from `ledger`. Other layers may share the ledger.
    pub fn new(ledger: Arc<dyn Ledger>, make_charges: M) -> Self {
        Self {
            ledger,
            make_charges,
            release_on_headers: false,
            leases: Arc::default(),
        }
    }

    /// Allows `limit` concurrent calls of each principal, in a [`LocalLedger`] of its own.
    ///
    /// With a limit of 0 each call that is charged ends with
    /// [`AcquireError::ZeroLimit`](crate::ledger::AcquireError::ZeroLimit).
    pub fn in_flight(limit: u32, make_charges: M) -> Self {
        Self::new(Arc::new(LocalLedger::in_flight(limit)), make_charges)
    }

    /// Allows `number` requests of each principal in each `period`, in a [`LocalLedger`] of its own: see
    /// [`Limit::PerWindow`]. The first `number` may go at once.
    ///
    /// With a number of 0 each call that is charged ends with
    /// [`AcquireError::ZeroLimit`](crate::ledger::AcquireError::ZeroLimit).
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Request;
    /// use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
    /// use tower_ews::principal::Principal;
    ///
    /// let by_tenant = |request: &Request<()>| {
    ///     let tenant = request.headers().get("x-tenant")?.to_str().ok()?;
    ///     Some(Principal::new(tenant))
    /// };
    /// let layer = ConcurrencyByPrincipalLayer::per_window(100, Duration::from_secs(60), by_tenant);
    /// # let _ = layer;
    /// ```
    pub fn per_window(
        number: u32,
        period: Duration,
        make_charges: M,
    ) -> ConcurrencyByPrincipalLayer<RequestCharges<M>> {
        let ledger = LocalLedger::builder()
            .budget(Budget::Requests, Limit::per_window(number, period))
            .build();
        let make_charges = RequestCharges::new(make_charges);
        ConcurrencyByPrincipalLayer::new(Arc::new(ledger), make_charges)
    }

    /// Gives the permit back as soon as the response headers have come. Default: when the response body has ended.
    pub fn release_on_headers(mut self, release: bool) -> Self {
        self.release_on_headers = release;
        self
    }
}

impl<M> fmt::Debug for ConcurrencyByPrincipalLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyByPrincipalLayer")
            .field("ledger", &self.ledger)
            .field("release_on_headers", &self.release_on_headers)
            .finish_non_exhaustive()
    }
}

impl<S, M: Clone> Layer<S> for ConcurrencyByPrincipalLayer<M> {
    type Service = ConcurrencyByPrincipal<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        ConcurrencyByPrincipal {
            inner,
            layer: Arc::new(self.clone()),
        }
    }
}

/// Holds a permit for each call until its response body has ended.
///
/// See the [module docs](self) for an example.
#[must_use = "services do nothing until they are called"]
pub struct ConcurrencyByPrincipal<S, M> {
    inner: S,
    layer: Arc<ConcurrencyByPrincipalLayer<M>>,
}

impl<S: Clone, M> Clone for ConcurrencyByPrincipal<S, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: Arc::clone(&self.layer),
        }
    }
}

impl<S, M: Clone> ConcurrencyByPrincipal<S, M> {
    /// Wraps `inner`: its calls acquire what `make_charges` says from `ledger`.
    pub fn new(inner: S, ledger: Arc<dyn Ledger>, make_charges: M) -> Self {
        ConcurrencyByPrincipalLayer::new(ledger, make_charges).layer(inner)
    }
}

impl<S, M> ConcurrencyByPrincipal<S, M> {
    /// Returns the ledger that calls acquire from.
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.layer.ledger
    }

    inner_accessors!();
}

impl<S: fmt::Debug, M> fmt::Debug for ConcurrencyByPrincipal<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyByPrincipal")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, M, ReqB, ResB> Service<Request<ReqB>> for ConcurrencyByPrincipal<S, M>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    S::Error: Into<BoxError>,
    M: MakeCharges<ReqB>,
    ResB: Body,
{
    type Response = Response<PermitBody<ResB>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, ReqB>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let layer = &*self.layer;
        let mut acquired = None;
        if !request.extensions().is_empty() {
            acquired = AcquiredPermit::take_over(request.extensions_mut(), &layer.ledger);
        }
        // In this order: all of it is moved into the future at the end, and what has just been written is slow to read.
        let lease = layer.make_charges.lease(&request);
        let (step, followed) = match &acquired {
            Some(permit) => {
                let charges = permit.admission().charges();
                (Step::Ready, Followed::of(charges, lease, &layer.leases))
            }
            None => {
                let charges = layer.make_charges.make_charges(&request);
                let estimate = lease.as_ref().and_then(Lease::estimate).cloned();
                let followed = Followed::of(&charges, lease, &layer.leases);
                let ask = future::ask(charges, estimate, &request);
                (Step::New(Some(ask)), followed)
            }
        };
        ResponseFuture {
            inner: self.inner.clone(),
            ledger: Some(Arc::clone(&layer.ledger)),
            step,
            followed,
            permit: acquired,
            release_on_headers: layer.release_on_headers,
            request: Some(request),
        }
    }
}

#[cfg(test)]
mod tests;
