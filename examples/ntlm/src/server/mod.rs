//! [`Server`]: a simulated Exchange that takes NTLM only, over TLS, and counts what a client does wrong.

mod check;
mod conversation;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::BoxError;
use tower_ews::simulator::Exchange;

use self::conversation::Conversation;
use crate::binding::server_end_point;

/// For `localhost`; it signs itself.
const CERTIFICATE: &[u8] = include_bytes!("../../../../tests/http_client/certificate.der");
const KEY: &[u8] = include_bytes!("../../../../tests/http_client/key.der");

/// The header in which a caller says who it means to be, so that the server can tell a mix-up.
pub const MEANS: &str = "x-means";

/// What the server has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Connections.
    pub connections: usize,
    /// First legs that were challenged.
    pub challenges: usize,
    /// Logins that were right.
    pub logins: usize,
    /// Logins that were refused.
    pub refused: usize,
    /// Requests without a login on a connection that had none.
    pub strays: usize,
    /// First legs with a body.
    pub full_first_legs: usize,
    /// Second legs with another `client-request-id` than the first one.
    pub other_ids: usize,
    /// Calls that came as somebody else than the caller meant.
    pub mixed: usize,
    /// Calls of each account.
    pub calls: HashMap<String, usize>,
    /// Requests of any leg in flight.
    pub in_flight: usize,
    /// The most of them.
    pub peak: usize,
}

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// User, as in `CONTOSO\svc`, and password.
    pub accounts: HashMap<String, String>,
    /// Calls after which a connection's login is forgotten.
    pub calls_per_login: usize,
    /// Calls after which a connection is closed.
    pub calls_per_connection: usize,
    /// Where the calls go, with `Authorization: Basic` as the simulator wants it.
    pub exchange: Exchange,
}

/// A server on a socket.
#[derive(Debug)]
pub struct Server {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    /// What a login has to be bound to.
    binding: Vec<u8>,
    report: Mutex<Report>,
}

impl Shared {
    fn count<T>(&self, change: impl FnOnce(&mut Report) -> T) -> T {
        change(&mut self.report.lock().expect("the report"))
    }
}

impl Server {
    /// Serves on a port of this machine.
    pub async fn start(options: Options) -> Result<Self, BoxError> {
        let key = PrivatePkcs8KeyDer::from(KEY.to_vec()).into();
        let tls = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key)?;
        let tls = TlsAcceptor::from(Arc::new(tls));
        let shared = Arc::new(Shared {
            options,
            binding: server_end_point(CERTIFICATE)?,
            report: Mutex::default(),
        });
        let listener = TcpListener::bind(("localhost", 0)).await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Ok(Self {
            url: format!("https://localhost:{port}/EWS/Exchange.asmx"),
            shared,
        })
    }

    /// Where EWS is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The Exchange behind it.
    pub fn exchange(&self) -> &Exchange {
        &self.shared.options.exchange
    }

    /// What it has seen so far.
    pub fn report(&self) -> Report {
        self.shared.count(|report| report.clone())
    }

    /// TLS for a client that trusts it.
    pub fn trusting(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(CERTIFICATE))
            .expect("a root");
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) -> io::Result<()> {
    loop {
        let (tcp, _) = listener.accept().await?;
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let Ok(socket) = tls.accept(tcp).await else {
                return;
            };
            shared.count(|report| report.connections += 1);
            let conversation = Arc::new(Conversation::new(shared));
            let service = service_fn(move |request| {
                let conversation = Arc::clone(&conversation);
                async move { Ok::<_, Infallible>(conversation.respond(request).await) }
            });
            // Clients leave when they like.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}
