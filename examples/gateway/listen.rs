//! Connections: TLS, limits, and an end that finishes what was begun.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::writes::TimedWrites;

/// For a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// For the head of a request, and for the next request on a connection. Longer than the minute for which clients keep one.
const HEAD: Duration = Duration::from_secs(75);

const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_STREAMS: u32 = 128;

/// What connections are accepted with. Certificates can be read anew while it listens.
#[derive(Clone)]
pub(crate) struct Listen {
    tls: Option<Arc<Tls>>,
    places: Arc<Semaphore>,
    read_timeout: Duration,
}

/// Certificates, and the files that they come from.
struct Tls {
    certificates: Box<Path>,
    key: Box<Path>,
    acceptor: RwLock<TlsAcceptor>,
}

impl Listen {
    pub(crate) fn new(
        tls: Option<(&Path, &Path)>,
        max_connections: usize,
        read_timeout: Duration,
    ) -> Result<Self, String> {
        let tls = tls.map(|(certificates, key)| {
            Ok::<_, String>(Arc::new(Tls {
                acceptor: RwLock::new(acceptor(certificates, key)?),
                certificates: certificates.into(),
                key: key.into(),
            }))
        });
        Ok(Self {
            tls: tls.transpose()?,
            places: Arc::new(Semaphore::new(max_connections)),
            read_timeout,
        })
    }

    /// Reads the certificates again, for new connections.
    pub(crate) fn reload(&self) -> Result<(), String> {
        if let Some(tls) = &self.tls {
            *tls.acceptor.write() = acceptor(&tls.certificates, &tls.key)?;
        }
        Ok(())
    }

    /// Serves connections until `stop` changes, then lets those that are there finish what they have begun.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        router: Router,
        mut stop: watch::Receiver<bool>,
    ) {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&listener) => accepted,
                _ = stop.changed() => break,
            };
            let (stream, peer, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, for example: some connection will end.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let stream = TimedWrites::new(stream, self.read_timeout);
            let (router, watcher) = (router.clone(), graceful.watcher());
            let acceptor = self.tls.as_ref().map(|tls| tls.acceptor.read().clone());
            tokio::spawn(async move {
                let _place = place;
                match acceptor {
                    None => connection(Box::pin(stream), peer, router, watcher).await,
                    Some(acceptor) => {
                        let handshake = timeout(HANDSHAKE, acceptor.accept(Box::pin(stream))).await;
                        if let Ok(Ok(stream)) = handshake {
                            connection(stream, peer, router, watcher).await;
                        }
                    }
                }
            });
        }
        drop(listener);
        graceful.shutdown().await;
    }

    /// The next connection, once there is a place for it: until then the system queues it.
    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(tokio::net::TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, place))
    }
}

async fn connection<S>(stream: S, peer: SocketAddr, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, error = &*error, "a connection ended with an error");
    }
}

fn acceptor(certificates: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let because =
        |file: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| because(certificates, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| because(key, &error))?;
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(ring).with_safe_default_protocol_versions();
    let config = config.and_then(|config| {
        config
            .with_no_client_auth()
            .with_single_cert(chain, private)
    });
    let mut config = config.map_err(|error| because(certificates, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
