//! [`HttpsClient`]: hyper-util's client over rustls, with time-outs that fit Exchange.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use pin_project::pin_project;
use rustls::ClientConfig;
use rustls::crypto::ring;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tower::BoxError;
use tower::timeout::Timeout;
use tower::util::BoxCloneSyncService;
use tower_service::Service;

use crate::body::ReplayBody;
use crate::seconds::Seconds;

type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;

/// A client over HTTPS, HTTP/2 where the server has it, with defaults that fit Exchange.
///
/// hyper-util's client over rustls, which trusts what the operating system trusts. Cloning is cheap, and clones share their
/// connections. It needs a Tokio runtime.
///
/// ```no_run
/// use tower_ews::EwsStack;
/// use tower_ews::http_client::HttpsClient;
/// use tower_ews::policy::ThrottlingPolicy;
///
/// let ews = EwsStack::new(ThrottlingPolicy::exchange_online()).service(HttpsClient::new()?);
/// # let _ = ews;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// It does not follow redirects, and does not decode responses: the stack does that beneath its layers.
///
/// # Errors
///
/// Calls end with those of hyper-util, as a [`BoxError`], and with [`ReadTimeout`]. A connection that cannot be made in time is an
/// error of hyper-util's for which `is_connect` holds: nothing was sent.
pub struct HttpsClient<B = ReplayBody> {
    client: Client<Connector, Upload<B>>,
    read_timeout: Duration,
}

impl HttpsClient {
    /// Creates a client with the defaults of [`HttpsClientBuilder`].
    ///
    /// # Errors
    ///
    /// If the certificates that the operating system trusts cannot be loaded.
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// Creates a builder.
    pub fn builder() -> HttpsClientBuilder {
        HttpsClientBuilder::default()
    }
}

impl<B> Clone for HttpsClient<B> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            read_timeout: self.read_timeout,
        }
    }
}

impl<B> fmt::Debug for HttpsClient<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("HttpsClient");
        debug.field("read_timeout", &self.read_timeout);
        debug.finish_non_exhaustive()
    }
}

/// Builds an [`HttpsClient`].
///
/// ```
/// use std::time::Duration;
/// use tower_ews::http_client::HttpsClient;
///
/// let client: HttpsClient = HttpsClient::builder()
///     .connect_timeout(Duration::from_secs(3))
///     .read_timeout(Duration::from_secs(120))
///     .build()?;
/// # let _ = client;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "builders do nothing until they are built"]
pub struct HttpsClientBuilder {
    connect_timeout: Duration,
    read_timeout: Duration,
    pool_idle_timeout: Duration,
    tls: Option<ClientConfig>,
    allow_http: bool,
}

impl Default for HttpsClientBuilder {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(100),
            pool_idle_timeout: Duration::from_secs(30),
            tls: None,
            allow_http: false,
        }
    }
}

impl HttpsClientBuilder {
    /// Sets how long the name look-up, the TCP connection and the TLS handshake may take together. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long nothing may come from the server, until the head of a response or between two frames of its body. Default:
    /// 100 s, as in the EWS Managed API. That is more than the minute that Exchange gives a batch (EWS throttling in Exchange) and
    /// than the 90 s in which the EWS Managed API expects a sign of life on a stream.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// Sets how long a connection is kept that no call uses. Default: 30 s, which is shorter than firewalls and load balancers
    /// commonly keep one: a call over a connection that they have dropped is lost, and nobody knows whether it was executed.
    pub fn pool_idle_timeout(mut self, timeout: Duration) -> Self {
        self.pool_idle_timeout = timeout;
        self
    }

    /// Sets how TLS works: other roots, a client's certificate, another provider. The client sets `alpn_protocols`; leave it empty.
    /// Default: ring, and the certificates that the operating system trusts.
    pub fn tls_config(mut self, config: ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// Allows `http:` URLs, as for a simulator on the same machine. Default: they are an error, since the credentials would be read
    /// by everybody on the way.
    pub fn allow_http(mut self) -> Self {
        self.allow_http = true;
        self
    }

    /// Creates the client, for request bodies of type `B`.
    ///
    /// # Errors
    ///
    /// If the certificates that the operating system trusts cannot be loaded, and no [`tls_config`](Self::tls_config) is set.
    pub fn build<B>(self) -> io::Result<HttpsClient<B>>
    where
        B: Body<Data: Send> + Send,
    {
        let https = HttpsConnectorBuilder::new();
        let https = match self.tls {
            Some(config) => https.with_tls_config(config),
            None => https.with_provider_and_platform_verifier(ring::default_provider())?,
        };
        let https = match self.allow_http {
            true => https.https_or_http(),
            false => https.https_only(),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        let https = https.enable_all_versions().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.pool_idle_timeout)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .build(Connector::new(Timeout::new(https, self.connect_timeout)));
        Ok(HttpsClient {
            client,
            read_timeout: self.read_timeout,
        })
    }
}

/// A connection on which nothing moves is asked that often whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

impl<B> Service<Request<B>> for HttpsClient<B>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let uploaded = Arc::new(Mutex::new(Instant::now()));
        let request = request.map(|body| Upload {
            body,
            last: Arc::clone(&uploaded),
        });
        ResponseFuture {
            response: self.client.request(request),
            uploaded,
            timeout: self.read_timeout,
            sleep: sleep(self.read_timeout),
        }
    }
}

/// A request body that notes when the connection last took something of it: time that an upload takes is not the server's.
#[pin_project]
struct Upload<B> {
    #[pin]
    body: B,
    last: Arc<Mutex<Instant>>,
}

impl<B: Body> Body for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        *this.last.lock() = Instant::now();
        this.body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Response future of [`HttpsClient`]. Dropping it gives the call up; what was sent may be executed all the same.
#[pin_project]
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture {
    #[pin]
    response: legacy::ResponseFuture,
    uploaded: Arc<Mutex<Instant>>,
    timeout: Duration,
    #[pin]
    sleep: Sleep,
}

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let timeout = *this.timeout;
        if let Poll::Ready(response) = this.response.poll(cx) {
            return Poll::Ready(Ok(response?.map(|body| ResponseBody {
                body,
                timeout,
                sleep: None,
            })));
        }
        while this.sleep.as_mut().poll(cx).is_ready() {
            let until = *this.uploaded.lock() + timeout;
            if until <= Instant::now() {
                return Poll::Ready(Err(ReadTimeout::new(timeout).into()));
            }
            this.sleep.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Response body of [`HttpsClient`]. It ends with an error if nothing comes for the client's
/// [`read_timeout`](HttpsClientBuilder::read_timeout) while somebody waits for it.
#[pin_project]
pub struct ResponseBody {
    #[pin]
    body: Incoming,
    timeout: Duration,
    /// Runs while somebody waits for a frame.
    #[pin]
    sleep: Option<Sleep>,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            this.sleep.set(None);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep(*this.timeout)));
        }
        if let Some(sleep) = this.sleep.as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        let timeout = *this.timeout;
        Poll::Ready(Some(Err(ReadTimeout::new(timeout).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

/// Nothing came from the server in time: no head of a response, or no more of its body. The call may have been executed.
///
/// ```no_run
/// # async fn call(client: tower_ews::http_client::HttpsClient, request: http::Request<tower_ews::body::ReplayBody>) {
/// use tower::ServiceExt;
/// use tower_ews::http_client::ReadTimeout;
///
/// let error = client.oneshot(request).await.unwrap_err();
/// if let Some(error) = error.downcast_ref::<ReadTimeout>() {
///     println!("nothing for {:?}", error.timeout());
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[error(
    "nothing came from the server for {}, and the call may have been executed: look before you send it again, or raise `read_timeout`",
    Seconds(*timeout)
)]
pub struct ReadTimeout {
    timeout: Duration,
    /// What classifiers know.
    source: io::Error,
}

impl ReadTimeout {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            source: io::ErrorKind::TimedOut.into(),
        }
    }

    /// Returns how long nothing came.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}
