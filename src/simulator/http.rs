//! The exchange as a tower service, as an axum router and as a server on a socket.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tower::BoxError;
use tower_service::Service;

use super::body::{Body, ConnectionLost};
use super::exchange::Exchange;

type Outcome = Result<Response<Body>, ConnectionLost>;

/// The response to come. When it is dropped after the request has arrived, the server goes on
/// executing it all the same, as Exchange does, and the call keeps its place until then.
///
/// ```
/// use tower::Service;
/// use tower_ews::simulator::Exchange;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// let mut exchange = Exchange::builder().build();
/// let response = exchange.call(http::Request::new(String::new())).await?;
/// assert_eq!(response.status(), 401);
/// # Ok(()) }
/// ```
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture {
    response: Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>,
    arrived: Arc<AtomicBool>,
    exchange: Exchange,
}

impl std::fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("arrived", &self.arrived)
            .finish_non_exhaustive()
    }
}

impl Future for ResponseFuture {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(response) = self.response.as_mut() else {
            return Poll::Ready(Err(ConnectionLost::reset()));
        };
        let polled = response.as_mut().poll(cx);
        if polled.is_ready() {
            self.response = None;
        }
        polled
    }
}

impl Drop for ResponseFuture {
    fn drop(&mut self) {
        let Some(response) = self.response.take() else {
            return;
        };
        if !self.arrived.load(Ordering::Relaxed) {
            return;
        }
        self.exchange.engine.state.lock().counters.report.abandoned += 1;
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(response);
        }
    }
}

impl<B> Service<Request<B>> for Exchange
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = ConnectionLost;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectionLost>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let engine = self.engine.clone();
        let arrived = Arc::new(AtomicBool::new(false));
        let flag = arrived.clone();
        let response = async move {
            let (head, body) = request.into_parts();
            let largest = usize::try_from(engine.policy.max_request).unwrap_or(usize::MAX);
            let bytes: Result<Bytes, StatusCode> = match Limited::new(body, largest).collect().await
            {
                Ok(collected) => Ok(collected.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
                // The client broke off: there is nobody to respond to.
                Err(_) => return Err(ConnectionLost::reset()),
            };
            flag.store(true, Ordering::Relaxed);
            engine.handle(head, bytes).await
        };
        ResponseFuture {
            response: Some(Box::pin(response)),
            arrived,
            exchange: self.clone(),
        }
    }
}

impl Exchange {
    /// An axum router that serves every path, `/EWS/Exchange.asmx` among them. A lost connection
    /// becomes a body that fails before its first byte, upon which hyper closes the connection
    /// without having sent anything.
    pub fn router(&self) -> axum::Router {
        let exchange = self.clone();
        axum::Router::new().fallback(move |request: axum::extract::Request| {
            let response = exchange.clone().call(request);
            async move {
                let response = response
                    .await
                    .unwrap_or_else(|error| Response::new(Body::lost(error)));
                Ok::<_, Infallible>(response.map(axum::body::Body::new))
            }
        })
    }

    /// Serves it on a listener, HTTP/1.1 and HTTP/2, until the handle is dropped.
    ///
    /// # Errors
    ///
    /// When the listener has no local address.
    pub fn serve(&self, listener: TcpListener) -> io::Result<Server> {
        serve(listener, self.clone())
    }

    /// Binds a port of the loopback interface and serves it.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub async fn serve_on_loopback(&self) -> io::Result<Server> {
        self.serve(TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?)
    }
}

/// Serves `service` on a listener, HTTP/1.1 and HTTP/2, until the handle is dropped.
pub(super) fn serve<S, B>(listener: TcpListener, service: S) -> io::Result<Server>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        // The connections end with this task: a set aborts what it holds when it is dropped.
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, for example: some connection will end.
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(service.clone());
            connections.spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(Server { address, task })
}

/// A running server. It stops, with all its connections, when this is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use tower_ews::simulator::Exchange;
/// let server = Exchange::builder().build().serve_on_loopback().await?;
/// assert!(server.url().ends_with("/EWS/Exchange.asmx"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the server stops when its handle is dropped"]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its EWS endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/EWS/Exchange.asmx", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
