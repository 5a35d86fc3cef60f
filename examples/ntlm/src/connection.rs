//! [`Connection`]: one connection, and the login that it needs once.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sspi::AuthIdentity;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service, ServiceExt};
use tower_ews::body::ReplayBody;

use crate::binding::server_end_point;
use crate::login::{Login, challenge};
use crate::target::Target;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Of the page that comes with a challenge.
const MAX_PAGE: usize = 64 * 1024;

/// A connection of one identity.
pub(crate) struct Connection {
    wire: SendRequest<ReplayBody>,
    host: HeaderValue,
    identity: AuthIdentity,
    /// What a login is bound to, over TLS.
    binding: Option<Vec<u8>>,
    is_logged_in: bool,
}

impl Connection {
    pub(crate) async fn open(target: Target, tls: Arc<ClientConfig>) -> Result<Self, BoxError> {
        let identity = target.identity()?;
        let opened = timeout(CONNECT_TIMEOUT, open(&target, tls)).await;
        let (wire, binding) = opened.map_err(unsent)?.map_err(unsent)?;
        Ok(Self {
            wire,
            host: HeaderValue::from_str(target.authority.as_str())?,
            identity,
            binding,
            is_logged_in: false,
        })
    }

    /// Returns whether a call has been made over it. The server may have closed it since.
    pub(crate) fn is_used(&self) -> bool {
        self.is_logged_in
    }

    /// Makes a call, with a login before it where there is none. One that the server has forgotten is made again, once.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<ReplayBody>,
    ) -> Result<Response<Incoming>, BoxError> {
        if self.is_logged_in {
            let response = self.message(request.clone()).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            self.is_logged_in = false;
            drain(response).await.map_err(unsent)?;
        }
        let mut login = Login::new(&self.identity, self.binding.as_deref())?;
        let first = first_leg(&request, login.step(Vec::new())?);
        let offered = self.message(first).await.map_err(unsent)?;
        let Some(challenge) = challenge(offered.headers()) else {
            // Whatever it says instead stands for the call, which it has not seen: it may be busy.
            return match offered.status().is_success() {
                true => Err("the server does not ask for NTLM".into()),
                false => Ok(offered),
            };
        };
        drain(offered).await.map_err(unsent)?;
        let value = login.step(challenge)?;
        request.headers_mut().insert(AUTHORIZATION, value);
        let response = self.message(request).await?;
        self.is_logged_in = response.status() != StatusCode::UNAUTHORIZED;
        Ok(response)
    }

    /// Sends one request.
    async fn message(
        &mut self,
        mut request: Request<ReplayBody>,
    ) -> Result<Response<Incoming>, BoxError> {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        request.headers_mut().insert(HOST, self.host.clone());
        Ok(self.ready().await?.call(request).await?)
    }
}

/// What the pool sees: whether the connection is still open.
impl Service<Request<ReplayBody>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, hyper::Result<Response<Incoming>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.wire.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
        Box::pin(self.wire.send_request(request))
    }
}

/// Connects, and returns what a login is bound to.
async fn open(
    target: &Target,
    tls: Arc<ClientConfig>,
) -> Result<(SendRequest<ReplayBody>, Option<Vec<u8>>), BoxError> {
    let host = target.authority.host();
    let port = target.authority.port_u16();
    let port = port.unwrap_or(if target.is_tls { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    if !target.is_tls {
        return Ok((handshake(tcp).await?, None));
    }
    let name = ServerName::try_from(host.to_owned())?;
    let tls = TlsConnector::from(tls).connect(name, tcp).await?;
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let binding = server_end_point(certificate.ok_or("no certificate")?)?;
    Ok((handshake(tls).await?, Some(binding)))
}

async fn handshake<T>(socket: T) -> Result<SendRequest<ReplayBody>, BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (wire, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // Whoever waits for a response gets its error.
    tokio::spawn(connection);
    Ok(wire)
}

/// The same request without its body, which only goes out once the server has asked for the login. It keeps its request id, and
/// the headers by which a load balancer picks a server.
fn first_leg(request: &Request<ReplayBody>, authorization: HeaderValue) -> Request<ReplayBody> {
    let mut leg = request.clone().map(|_| ReplayBody::empty());
    let headers = leg.headers_mut();
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.insert(AUTHORIZATION, authorization);
    leg
}

/// Reads a page to its end: the connection is free again only then.
async fn drain(response: Response<Incoming>) -> Result<(), BoxError> {
    let page = Limited::new(response.into_body(), MAX_PAGE).collect();
    page.await.map(drop)
}

/// An error before the call was sent: nothing can have been executed, so the stack may send it again.
fn unsent(error: impl Into<BoxError>) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, error)
}
