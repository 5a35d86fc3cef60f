//! The HTTP client below both runs: hyper-util's, over TCP or TLS.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tower::limit::{ConcurrencyLimit, GlobalConcurrencyLimitLayer};
use tower::{BoxError, Layer};
use tower_ews::body::ReplayBody;

use crate::job::CONNECTIONS;

pub(crate) type Http<B> = Client<HttpsConnector<HttpConnector>, B>;

/// A client that trusts the public roots, and those in the file.
pub(crate) fn client<B>(roots: Option<&str>) -> Result<Http<B>, BoxError>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions()?;
    let tls = match roots {
        None => tls.with_webpki_roots(),
        Some(file) => {
            let mut trusted =
                RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            let public = trusted.len();
            for root in CertificateDer::pem_file_iter(file)? {
                trusted.add(root?)?;
            }
            if trusted.len() == public {
                return Err("there is no certificate in it".into());
            }
            tls.with_root_certificates(trusted)
        }
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.with_no_client_auth())
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// What the stack is put on: a client that opens no more than a given number of connections, whatever the policy allows.
///
/// Only with more mailboxes than connections does a call ever wait here: see [`Job::policy`](crate::job::Job::policy).
pub(crate) fn bounded_client(
    roots: Option<&str>,
) -> Result<ConcurrencyLimit<Http<ReplayBody>>, BoxError> {
    Ok(GlobalConcurrencyLimitLayer::new(CONNECTIONS).layer(client(roots)?))
}
