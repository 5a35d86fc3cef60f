//! The layers as methods of [`tower::ServiceBuilder`]: see [`ServiceBuilderExt`].

use std::sync::Arc;
use std::time::Duration;

use tower::ServiceBuilder;
use tower::layer::util::Stack;

use crate::account_pool::AccountPoolLayer;
use crate::anchor_headers::AnchorHeadersLayer;
use crate::audit_log::{AuditLogLayer, Sink};
use crate::batch_splitter::BatchSplitterLayer;
use crate::body::BufferRequestLayer;
use crate::client_request_id::ClientRequestIdLayer;
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
#[cfg(feature = "ews")]
use crate::find_paging::FindPagingLayer;
use crate::http_span::HttpSpanLayer;
use crate::ledger::Ledger;
use crate::principal::RequestCharges;
use crate::server_busy_backoff::ServerBusyBackoffLayer;

/// Adds this crate's layers, with their defaults, to [`tower::ServiceBuilder`].
///
/// A layer with settings of its own goes through [`ServiceBuilder::layer`]. This trait is sealed.
///
/// `ServerBusyBackoff` and `ConcurrencyByPrincipal` share a ledger, so that a refusal holds back the calls that wait:
///
/// ```
/// use std::sync::Arc;
///
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_ews::ServiceBuilderExt;
/// use tower_ews::anchor_headers::EwsAnchor;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::ledger::LocalLedger;
/// use tower_ews::principal::Principal;
/// use tower_ews::server_busy_backoff::EwsClassifier;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let ledger = Arc::new(LocalLedger::in_flight(4));
/// let who = |request: &Request<ReplayBody>| Principal::new(request.uri().path());
/// let service = ServiceBuilder::new()
///     .buffer_request(1024 * 1024)
///     .server_busy_backoff_with_ledger(ledger.clone(), EwsClassifier)
///     .concurrency_by_principal_with_ledger(ledger, who)
///     .anchor_headers(EwsAnchor::new())
///     .client_request_id()
///     .service(service_fn(async |request: Request<ReplayBody>| {
///         assert!(request.headers().contains_key("client-request-id"));
///         Ok::<_, std::convert::Infallible>(Response::new(String::new()))
///     }));
/// service.oneshot(Request::new(String::from("<any body/>"))).await.unwrap();
/// # });
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// Makes one record of each call: see [`audit_log`](crate::audit_log).
    fn audit_log(self, sink: impl Sink) -> ServiceBuilder<Stack<AuditLogLayer, L>>;

    /// Reads request bodies of at most `max` bytes, so that they can be sent again: see [`body`](crate::body).
    fn buffer_request(self, max: u64) -> ServiceBuilder<Stack<BufferRequestLayer, L>>;

    /// Adds page views to searches that have none: see [`find_paging`](crate::find_paging).
    #[cfg(feature = "ews")]
    #[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
    fn find_paging(self) -> ServiceBuilder<Stack<FindPagingLayer, L>>;

    /// Cuts batches into parts, and merges their responses: see [`batch_splitter`](crate::batch_splitter).
    fn batch_splitter<F>(self, format: F) -> ServiceBuilder<Stack<BatchSplitterLayer<F>, L>>;

    /// Waits and resends what the server did not execute: see [`server_busy_backoff`](crate::server_busy_backoff).
    ///
    /// The layer holds back calls by itself. With a ConcurrencyByPrincipal further in, use
    /// [`server_busy_backoff_with_ledger`](Self::server_busy_backoff_with_ledger).
    fn server_busy_backoff<C>(
        self,
        classifier: C,
    ) -> ServiceBuilder<Stack<ServerBusyBackoffLayer<C>, L>>;

    /// Waits and resends what the server did not execute, and reports refusals to `ledger`: see
    /// [`server_busy_backoff`](crate::server_busy_backoff#with-a-ledger).
    ///
    /// It has to be the ledger of the ConcurrencyByPrincipal further in.
    fn server_busy_backoff_with_ledger<C>(
        self,
        ledger: Arc<dyn Ledger>,
        classifier: C,
    ) -> ServiceBuilder<Stack<ServerBusyBackoffLayer<C>, L>>;

    /// Makes each attempt with one of several accounts: see [`account_pool`](crate::account_pool).
    ///
    /// It has to have the ledger of the ServerBusyBackoff and the ConcurrencyByPrincipal around it.
    fn account_pool<M>(
        self,
        pool: AccountPoolLayer<M>,
    ) -> ServiceBuilder<Stack<AccountPoolLayer<M>, L>>;

    /// Allows `limit` concurrent calls of each principal: see [`concurrency_by_principal`](crate::concurrency_by_principal).
    ///
    /// The ledger is the layer's own. With a limit of 0 each call that is charged ends with
    /// [`AcquireError::ZeroLimit`](crate::ledger::AcquireError::ZeroLimit).
    fn concurrency_by_principal<M>(
        self,
        limit: u32,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<M>, L>>;

    /// Acquires what `make_charges` says from `ledger` before each call: see
    /// [`concurrency_by_principal`](crate::concurrency_by_principal).
    fn concurrency_by_principal_with_ledger<M>(
        self,
        ledger: Arc<dyn Ledger>,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<M>, L>>;

    /// Allows `number` requests of each principal in each `period`: see
    /// [`ConcurrencyByPrincipalLayer::per_window`].
    ///
    /// The ledger is the layer's own, with a bucket for each principal. Requests above the rate wait; nobody else waits with them.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use http::{Request, Response};
    /// use tokio::time::Instant;
    /// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
    /// use tower_ews::ServiceBuilderExt;
    /// use tower_ews::principal::Principal;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let by_path = |request: &Request<()>| Principal::new(request.uri().path());
    /// let mut service = ServiceBuilder::new()
    ///     .rate_by_principal(2, Duration::from_secs(60), by_path)
    ///     .service(service_fn(async |_: Request<()>| {
    ///         Ok::<_, std::convert::Infallible>(Response::new(String::new()))
    ///     }));
    ///
    /// let begin = Instant::now();
    /// for _ in 0..3 {
    ///     service.ready().await?.call(Request::new(())).await?;
    /// }
    /// assert_eq!(begin.elapsed(), Duration::from_secs(30));
    /// # Ok::<(), tower::BoxError>(())
    /// # }).unwrap();
    /// ```
    fn rate_by_principal<M>(
        self,
        number: u32,
        period: Duration,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<RequestCharges<M>>, L>>;

    /// Acquires one of [`Budget::Requests`](crate::principal::Budget::Requests) from `ledger` before each call, for whom
    /// `make_charges` names: see [`RequestCharges`].
    ///
    /// With the ledger of the ServerBusyBackoff further out, the `RateLimit` fields of responses hold back requests too.
    fn rate_by_principal_with_ledger<M>(
        self,
        ledger: Arc<dyn Ledger>,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<RequestCharges<M>>, L>>;

    /// Sets a new id for each attempt: see [`client_request_id`](crate::client_request_id).
    fn client_request_id(self) -> ServiceBuilder<Stack<ClientRequestIdLayer, L>>;

    /// Makes a `tracing` span of each attempt: see [`http_span`](crate::http_span).
    fn http_span(self) -> ServiceBuilder<Stack<HttpSpanLayer, L>>;

    /// Sets `X-AnchorMailbox` to the mailbox that `find` finds: see [`anchor_headers`](crate::anchor_headers).
    fn anchor_headers<F>(self, find: F) -> ServiceBuilder<Stack<AnchorHeadersLayer<F>, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    fn audit_log(self, sink: impl Sink) -> ServiceBuilder<Stack<AuditLogLayer, L>> {
        self.layer(AuditLogLayer::new(sink))
    }

    fn buffer_request(self, max: u64) -> ServiceBuilder<Stack<BufferRequestLayer, L>> {
        self.layer(BufferRequestLayer::new(max))
    }

    #[cfg(feature = "ews")]
    fn find_paging(self) -> ServiceBuilder<Stack<FindPagingLayer, L>> {
        self.layer(FindPagingLayer::new())
    }

    fn batch_splitter<F>(self, format: F) -> ServiceBuilder<Stack<BatchSplitterLayer<F>, L>> {
        self.layer(BatchSplitterLayer::new(format))
    }

    fn server_busy_backoff<C>(
        self,
        classifier: C,
    ) -> ServiceBuilder<Stack<ServerBusyBackoffLayer<C>, L>> {
        self.layer(ServerBusyBackoffLayer::new(classifier))
    }

    fn server_busy_backoff_with_ledger<C>(
        self,
        ledger: Arc<dyn Ledger>,
        classifier: C,
    ) -> ServiceBuilder<Stack<ServerBusyBackoffLayer<C>, L>> {
        self.layer(ServerBusyBackoffLayer::new(classifier).ledger(ledger))
    }

    fn account_pool<M>(
        self,
        pool: AccountPoolLayer<M>,
    ) -> ServiceBuilder<Stack<AccountPoolLayer<M>, L>> {
        self.layer(pool)
    }

    fn concurrency_by_principal<M>(
        self,
        limit: u32,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<M>, L>> {
        self.layer(ConcurrencyByPrincipalLayer::in_flight(limit, make_charges))
    }

    fn concurrency_by_principal_with_ledger<M>(
        self,
        ledger: Arc<dyn Ledger>,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<M>, L>> {
        self.layer(ConcurrencyByPrincipalLayer::new(ledger, make_charges))
    }

    fn rate_by_principal<M>(
        self,
        number: u32,
        period: Duration,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<RequestCharges<M>>, L>> {
        let layer = ConcurrencyByPrincipalLayer::per_window(number, period, make_charges);
        self.layer(layer)
    }

    fn rate_by_principal_with_ledger<M>(
        self,
        ledger: Arc<dyn Ledger>,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<RequestCharges<M>>, L>> {
        let make_charges = RequestCharges::new(make_charges);
        self.layer(ConcurrencyByPrincipalLayer::new(ledger, make_charges))
    }

    fn client_request_id(self) -> ServiceBuilder<Stack<ClientRequestIdLayer, L>> {
        self.layer(ClientRequestIdLayer::new())
    }

    fn http_span(self) -> ServiceBuilder<Stack<HttpSpanLayer, L>> {
        self.layer(HttpSpanLayer::new())
    }

    fn anchor_headers<F>(self, find: F) -> ServiceBuilder<Stack<AnchorHeadersLayer<F>, L>> {
        self.layer(AnchorHeadersLayer::new(find))
    }
}

mod sealed {
    pub trait Sealed {}

    impl<L> Sealed for tower::ServiceBuilder<L> {}
}
