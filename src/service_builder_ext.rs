//! The layers as methods of [`tower::ServiceBuilder`]: see [`ServiceBuilderExt`].

use tower::ServiceBuilder;
use tower::layer::util::Stack;

use crate::anchor_headers::AnchorHeadersLayer;
use crate::audit_log::{AuditLogLayer, Sink};
use crate::batch_splitter::BatchSplitterLayer;
use crate::body::BufferRequestLayer;
use crate::client_request_id::ClientRequestIdLayer;
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use crate::server_busy_backoff::ServerBusyBackoffLayer;

/// Adds this crate's layers, with their defaults, to [`tower::ServiceBuilder`].
///
/// A layer with settings of its own goes through [`ServiceBuilder::layer`]. This trait is sealed.
///
/// ```
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_ews::ServiceBuilderExt;
/// use tower_ews::anchor_headers::EwsAnchor;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::principal::Principal;
/// use tower_ews::server_busy_backoff::EwsClassifier;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let who = |request: &Request<ReplayBody>| Principal::new(request.uri().path());
/// let service = ServiceBuilder::new()
///     .buffer_request(1024 * 1024)
///     .server_busy_backoff(EwsClassifier)
///     .concurrency_by_principal(4, who)
///     .anchor_headers(EwsAnchor::new())
///     .client_request_id()
///     .service(service_fn(|request: Request<ReplayBody>| async move {
///         assert!(request.headers().contains_key("client-request-id"));
///         Ok::<_, std::convert::Infallible>(Response::new(String::new()))
///     }));
/// service.oneshot(Request::new(String::from("<any body/>"))).await.unwrap();
/// # });
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// One record of each call: see [`audit_log`](crate::audit_log).
    fn audit_log(self, sink: impl Sink) -> ServiceBuilder<Stack<AuditLogLayer, L>>;

    /// Request bodies that can be sent again, of at most `max` bytes: see [`body`](crate::body).
    fn buffer_request(self, max: u64) -> ServiceBuilder<Stack<BufferRequestLayer, L>>;

    /// Cuts batches into parts, and makes one answer of theirs: see [`batch_splitter`](crate::batch_splitter).
    fn batch_splitter<F>(self, format: F) -> ServiceBuilder<Stack<BatchSplitterLayer<F>, L>>;

    /// Waits and resends what the server did not execute: see [`server_busy_backoff`](crate::server_busy_backoff).
    fn server_busy_backoff<C>(
        self,
        classifier: C,
    ) -> ServiceBuilder<Stack<ServerBusyBackoffLayer<C>, L>>;

    /// So many calls at a time for each principal: see [`concurrency_by_principal`](crate::concurrency_by_principal).
    fn concurrency_by_principal<M>(
        self,
        limit: u32,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<M>, L>>;

    /// A new id for each attempt: see [`client_request_id`](crate::client_request_id).
    fn client_request_id(self) -> ServiceBuilder<Stack<ClientRequestIdLayer, L>>;

    /// `X-AnchorMailbox` with the mailbox that `find` finds: see [`anchor_headers`](crate::anchor_headers).
    fn anchor_headers<F>(self, find: F) -> ServiceBuilder<Stack<AnchorHeadersLayer<F>, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    fn audit_log(self, sink: impl Sink) -> ServiceBuilder<Stack<AuditLogLayer, L>> {
        self.layer(AuditLogLayer::new(sink))
    }

    fn buffer_request(self, max: u64) -> ServiceBuilder<Stack<BufferRequestLayer, L>> {
        self.layer(BufferRequestLayer::new(max))
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

    fn concurrency_by_principal<M>(
        self,
        limit: u32,
        make_charges: M,
    ) -> ServiceBuilder<Stack<ConcurrencyByPrincipalLayer<M>, L>> {
        self.layer(ConcurrencyByPrincipalLayer::in_flight(limit, make_charges))
    }

    fn client_request_id(self) -> ServiceBuilder<Stack<ClientRequestIdLayer, L>> {
        self.layer(ClientRequestIdLayer::new())
    }

    fn anchor_headers<F>(self, find: F) -> ServiceBuilder<Stack<AnchorHeadersLayer<F>, L>> {
        self.layer(AnchorHeadersLayer::new(find))
    }
}

mod sealed {
    pub trait Sealed {}

    impl<L> Sealed for tower::ServiceBuilder<L> {}
}
