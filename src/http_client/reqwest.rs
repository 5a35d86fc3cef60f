//! [`ReqwestClient`]: a client of reqwest as a service over `http`'s types.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

/// A `reqwest::Client` that takes an [`http::Request`] and returns an [`http::Response`]. Bodies are streamed both ways.
///
/// The request body is anything that becomes a `reqwest::Body`: a [`ReplayBody`](crate::body::ReplayBody), `Bytes`, a `String`;
/// `request.map(reqwest::Body::wrap)` makes one of any other body.
///
/// Let reqwest follow no redirects: it makes a GET of the POST, and the layers no longer see where the server pointed to.
///
/// ```
/// use std::time::Duration;
///
/// use tower_ews::EwsStack;
/// use tower_ews::http_client::ReqwestClient;
/// use tower_ews::policy::ThrottlingPolicy;
///
/// let client = reqwest::Client::builder()
///     .redirect(reqwest::redirect::Policy::none())
///     .connect_timeout(Duration::from_secs(10))
///     // A batch has a minute on the server, and a stream sends something every 45 seconds.
///     .read_timeout(Duration::from_secs(100))
///     .build()?;
/// let ews = EwsStack::new(ThrottlingPolicy::exchange_online()).service(ReqwestClient::new(client));
/// # let _ = ews;
/// # Ok::<(), reqwest::Error>(())
/// ```
///
/// # Errors
///
/// Those of reqwest, for a URL that it cannot use as well.
#[derive(Clone, Debug)]
pub struct ReqwestClient {
    client: reqwest::Client,
}

impl ReqwestClient {
    /// Creates a service that sends through `client`.
    pub fn new(client: reqwest::Client) -> Self {
        Self { client }
    }
}

impl<B> Service<Request<B>> for ReqwestClient
where
    reqwest::Body: From<B>,
{
    type Response = Response<reqwest::Body>;
    type Error = reqwest::Error;
    type Future = ReqwestFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let client = self.client.clone();
        let request = reqwest::Request::try_from(request.map(reqwest::Body::from));
        ReqwestFuture(Box::pin(async move {
            let response = client.execute(request?).await?;
            Ok(Response::from(response))
        }))
    }
}

/// Response future of [`ReqwestClient`].
#[must_use = "futures do nothing unless they are polled"]
pub struct ReqwestFuture(
    Pin<Box<dyn Future<Output = reqwest::Result<Response<reqwest::Body>>> + Send>>,
);

impl Future for ReqwestFuture {
    type Output = reqwest::Result<Response<reqwest::Body>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ReqwestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestFuture").finish_non_exhaustive()
    }
}
