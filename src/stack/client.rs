//! [`EwsClient`]: what a client has to be for the stack to go around it.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::BoxError;
use tower_service::Service;

use crate::body::ReplayBody;

/// A client that [`EwsStack`](super::EwsStack) goes around.
///
/// Implemented for every service that takes `http::Request<ReplayBody>`, returns an `http::Response` whose body yields
/// `Bytes`, and is `Clone + Send + 'static`. Its errors and those of its response body are of any type that converts to a
/// [`BoxError`]. This trait is sealed.
///
/// A client that takes another request body is adapted with `map_request`:
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::ServiceExt;
/// use tower_ews::EwsStack;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::policy::ThrottlingPolicy;
///
/// let client = tower::service_fn(async |_: Request<Full<Bytes>>| {
///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
/// });
/// let client = client.map_request(|request: Request<ReplayBody>| request.map(Full::from));
/// let ews = EwsStack::new(ThrottlingPolicy::exchange_online()).service(client);
/// # let _ = ews;
/// ```
///
/// A client that is none does not compile at [`EwsStack::service`](super::EwsStack::service):
///
/// ```compile_fail,E0277
/// # use tower_ews::{EwsStack, policy::ThrottlingPolicy};
/// let ews = EwsStack::new(ThrottlingPolicy::exchange_online()).service("https://outlook.office365.com");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be used as a client of `EwsStack`",
    label = "no `Service<http::Request<ReplayBody>>` that is `Clone + Send + 'static`",
    note = "a client is a `tower::Service<http::Request<ReplayBody>, Response = http::Response<B>>` with `B: Body<Data = Bytes>`",
    note = "a client of hyper-util: `Client::builder(..).build::<_, tower_ews::body::ReplayBody>(connector)`",
    note = "one that takes `Full<Bytes>`, with `tower::ServiceExt`: `client.map_request(|request: http::Request<ReplayBody>| request.map(Full::from))`"
)]
pub trait EwsClient:
    Service<
        Request<ReplayBody>,
        Response = Response<Self::ResponseBody>,
        Error: Into<BoxError>,
        Future: Send,
    > + sealed::Sealed
    + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type ResponseBody: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> EwsClient for S
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type ResponseBody = B;
}

mod sealed {
    pub trait Sealed {}

    impl<S> Sealed for S {}
}
