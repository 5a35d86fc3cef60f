//! The clients of `http_client`, beneath the stack and alone, over real sockets.
#![cfg(any(feature = "https", feature = "reqwest"))]

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::{BoxError, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::Exchange;
use tower_ews::stack::EwsClient;

const GET_INBOX: &str = "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
    xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
    xmlns='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body><GetFolder>\
    <FolderShape><t:BaseShape>IdOnly</t:BaseShape></FolderShape>\
    <FolderIds><t:DistinguishedFolderId Id='inbox'/></FolderIds></GetFolder></s:Body></s:Envelope>";

fn get_inbox(url: &str) -> Request<String> {
    Request::post(url)
        .header("authorization", "Bearer secret")
        .header("content-type", "text/xml; charset=utf-8")
        .body(GET_INBOX.to_owned())
        .unwrap()
}

/// One call through the whole stack.
async fn call(client: impl EwsClient, url: &str) -> Result<String, BoxError> {
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online().faster(20.0)).service(client);
    let response = stack.oneshot(get_inbox(url)).await?;
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn reqwest_beneath_the_stack() {
    use tower_ews::http_client::ReqwestClient;

    let exchange = Exchange::builder().build();
    let server = exchange.serve_on_loopback().await.unwrap();
    let client = ReqwestClient::new(reqwest::Client::new());
    let body = call(client.clone(), &server.url()).await.unwrap();
    assert!(body.contains("NoError"), "{body}");

    // A URL that reqwest cannot use: nothing is sent.
    let error = call(client, "mailto:amy").await.unwrap_err();
    assert!(error.downcast_ref::<reqwest::Error>().unwrap().is_builder());
}

#[cfg(feature = "https")]
mod https {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::stream;
    use http::Version;
    use http_body::{Body, Frame};
    use http_body_util::StreamBody;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto;
    use hyper_util::service::TowerToHyperService;
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tower_ews::http_client::{HttpsClient, ReadTimeout};
    use tower_ews::server_busy_backoff::{BackoffError, Failure};

    use super::*;

    /// For `localhost`, until 2126; it signs itself.
    const CERTIFICATE: &[u8] = include_bytes!("http_client/certificate.der");
    const KEY: &[u8] = include_bytes!("http_client/key.der");

    async fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// The simulator over TLS, with these protocols. Returns its URL.
    async fn serve_tls(protocols: &[&str]) -> String {
        let key = PrivatePkcs8KeyDer::from(KEY.to_vec()).into();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(CERTIFICATE)], key)
            .unwrap();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let router = Exchange::builder().build().router();
        let (listener, port) = listener().await;
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(socket) = acceptor.accept(socket).await else {
                        return;
                    };
                    let service = TowerToHyperService::new(router);
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        format!("https://localhost:{port}/EWS/Exchange.asmx")
    }

    fn trusting() -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(CERTIFICATE)).unwrap();
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    #[tokio::test]
    async fn over_tls_with_the_newest_protocol_that_the_server_has() {
        for (protocols, version) in [
            (&["h2", "http/1.1"][..], Version::HTTP_2),
            (&["http/1.1"], Version::HTTP_11),
            (&[], Version::HTTP_11),
        ] {
            let url = serve_tls(protocols).await;
            let client: HttpsClient = HttpsClient::builder()
                .tls_config(trusting())
                .build()
                .unwrap();
            let body = call(client, &url).await.unwrap();
            assert!(body.contains("NoError"), "{body}");

            let client: HttpsClient<String> = HttpsClient::builder()
                .tls_config(trusting())
                .build()
                .unwrap();
            let response = client.oneshot(get_inbox(&url)).await.unwrap();
            assert_eq!(response.version(), version, "{protocols:?}");
        }
    }

    /// Nothing is sent to a server that nobody vouches for.
    #[tokio::test]
    async fn a_certificate_that_nobody_trusts() {
        let url = serve_tls(&[]).await;
        let error = call(HttpsClient::new().unwrap(), &url).await.unwrap_err();
        assert_eq!(Failure::of(&*error), Failure::NotSent, "{error}");
        // Tried again, it would be the error of the layer that does that.
        assert!(!error.is::<BackoffError>(), "{error}");
        let text = format!("{error:?}");
        assert!(
            text.contains("certificate") || text.contains("Certificate"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn credentials_are_not_sent_in_the_clear_by_accident() {
        let exchange = Exchange::builder().build();
        let server = exchange.serve_on_loopback().await.unwrap();
        let error = call(HttpsClient::new().unwrap(), &server.url())
            .await
            .unwrap_err();
        assert_eq!(Failure::of(&*error), Failure::NotSent, "{error}");
        assert!(!error.is::<BackoffError>(), "{error}");
        assert_eq!(exchange.report().calls, 0);

        let client: HttpsClient = HttpsClient::builder().allow_http().build().unwrap();
        call(client, &server.url()).await.unwrap();
        assert_eq!(exchange.report().calls, 1);
    }

    /// A server that takes connections and says nothing.
    #[tokio::test]
    async fn a_handshake_that_never_ends_sends_nothing() {
        let (_listener, port) = listener().await;
        let client: HttpsClient<String> = HttpsClient::builder()
            .connect_timeout(Duration::from_millis(50))
            .build()
            .unwrap();
        let error = client
            .oneshot(get_inbox(&format!("https://localhost:{port}/")))
            .await;
        let error = error.unwrap_err();
        assert_eq!(Failure::of(&*error), Failure::NotSent, "{error}");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_may_have_executed_the_call() {
        let (_listener, port) = listener().await;
        let client: HttpsClient<String> = HttpsClient::builder()
            .allow_http()
            .read_timeout(Duration::from_millis(50))
            .build()
            .unwrap();
        let error = client
            .oneshot(get_inbox(&format!("http://localhost:{port}/")))
            .await;
        let error = error.unwrap_err();
        assert_eq!(Failure::of(&*error), Failure::Lost, "{error}");
        let error = error.downcast_ref::<ReadTimeout>().unwrap();
        assert_eq!(error.timeout(), Duration::from_millis(50));
        assert!(error.to_string().contains("for 50 ms"), "{error}");
    }

    /// The time that the request takes on its way is not the server's, and a body that goes on is read.
    #[tokio::test]
    async fn slow_bodies_are_no_silence() {
        let (listener, port) = listener().await;
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"0\r\n\r\n") {
                assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0);
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
            socket.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(60)).await;
                socket.write_all(b"x").await.unwrap();
            }
            // It stays open, and says no more.
            socket.read_buf(&mut request).await.unwrap();
        });
        let upload = Box::pin(stream::unfold(0, async |sent| {
            tokio::time::sleep(Duration::from_millis(60)).await;
            let frame = Frame::data(Bytes::from_static(b"y"));
            (sent < 10).then_some((Ok::<_, Infallible>(frame), sent + 1))
        }));
        let client = HttpsClient::builder()
            .allow_http()
            .read_timeout(Duration::from_millis(500))
            .build()
            .unwrap();
        let request = Request::post(format!("http://localhost:{port}/"))
            .body(StreamBody::new(upload))
            .unwrap();
        let response = client.oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "xxxxxxxxxx");
    }

    #[tokio::test]
    async fn a_body_that_stops_is_an_error() {
        let (listener, port) = listener().await;
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"Envelope>") {
                assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0);
            }
            let response = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nxxx";
            socket.write_all(response.as_bytes()).await.unwrap();
            socket.read_to_end(&mut request).await.unwrap();
        });
        let client: HttpsClient<String> = HttpsClient::builder()
            .allow_http()
            .read_timeout(Duration::from_millis(50))
            .build()
            .unwrap();
        let request = get_inbox(&format!("http://localhost:{port}/"));
        let response = client.oneshot(request).await.unwrap();
        assert_eq!(response.body().size_hint().exact(), Some(10));
        let error = response.into_body().collect().await.unwrap_err();
        assert!(error.is::<ReadTimeout>(), "{error}");
    }
}
