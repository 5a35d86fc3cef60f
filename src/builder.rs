//! The layers as methods of [`tower::ServiceBuilder`]: see [`ServiceBuilderExt`].

use tower::ServiceBuilder;
use tower::layer::util::Stack;

use crate::anchor_headers::AnchorHeadersLayer;
use crate::client_request_id::ClientRequestIdLayer;

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
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let service = ServiceBuilder::new()
///     .anchor_headers(EwsAnchor::new())
///     .client_request_id()
///     .service(service_fn(|request: Request<ReplayBody>| async move {
///         assert!(request.headers().contains_key("client-request-id"));
///         Ok::<_, std::convert::Infallible>(Response::new(()))
///     }));
/// service.oneshot(Request::new(ReplayBody::empty())).await.unwrap();
/// # });
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// A new id for each attempt: see [`client_request_id`](crate::client_request_id).
    fn client_request_id(self) -> ServiceBuilder<Stack<ClientRequestIdLayer, L>>;

    /// `X-AnchorMailbox` with the mailbox that `find` finds: see [`anchor_headers`](crate::anchor_headers).
    fn anchor_headers<F>(self, find: F) -> ServiceBuilder<Stack<AnchorHeadersLayer<F>, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
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
