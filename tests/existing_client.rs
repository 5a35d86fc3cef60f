//! A plain hyper-util client with `Full<Bytes>` bodies gains one layer at a time, over real sockets.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_ews::anchor_headers::{AnchorError, AnchorMailbox, EwsAnchor};
use tower_ews::body::ReplayBody;
use tower_ews::client_request_id::RequestIds;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Principal;
use tower_ews::server_busy_backoff::{EwsClassifier, RetryInfo, ServerBusyBackoffLayer};
use tower_ews::simulator::{Exchange, Fault, Server};
use tower_ews::{EwsStack, ServiceBuilderExt};

const PASSWORD: &str = "c3ZjQGNvbnRvc28uY29tOnNlY3JldA==";

fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn server() -> (Exchange, Server) {
    let exchange = Exchange::builder().speed(100.0).build();
    let server = exchange.serve_on_loopback().await.unwrap();
    (exchange, server)
}

fn request(server: &Server) -> Request<Full<Bytes>> {
    let body = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header><t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>amy@contoso.com</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header><s:Body><GetFolder><FolderShape><t:BaseShape>IdOnly</t:BaseShape></FolderShape><FolderIds><t:DistinguishedFolderId Id="inbox"/></FolderIds></GetFolder></s:Body></s:Envelope>"#;
    Request::post(server.url())
        .header("content-type", "text/xml; charset=utf-8")
        .header("authorization", format!("Basic {PASSWORD}"))
        .body(Full::from(body))
        .unwrap()
}

/// One call; returns the response, read to its end.
async fn call<S, B>(service: S, request: Request<Full<Bytes>>) -> Response<Bytes>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let response = service.oneshot(request).await.map_err(Into::into).unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(Into::into).unwrap().to_bytes();
    assert_eq!(head.status, StatusCode::OK);
    assert!(body.windows(7).any(|word| word == b"NoError"));
    Response::from_parts(head, body)
}

#[tokio::test]
async fn one_layer_at_a_time() {
    let (exchange, server) = server().await;

    call(client(), request(&server)).await;

    let traced = ServiceBuilder::new().client_request_id().service(client());
    let response = call(traced, request(&server)).await;
    assert!(RequestIds::of(&response).unwrap().sent().is_some());

    let amy = |_: &Request<Full<Bytes>>| -> Result<_, AnchorError> {
        AnchorMailbox::new("amy@contoso.com").map(Some)
    };
    let anchored = ServiceBuilder::new().anchor_headers(amy).service(client());
    call(anchored, request(&server)).await;
    assert_eq!(
        exchange.calls().last().unwrap().anchor.as_deref(),
        Some("amy@contoso.com")
    );

    let limited = ServiceBuilder::new()
        .concurrency_by_principal(4, |_: &Request<Full<Bytes>>| Principal::account("svc"))
        .service(client());
    call(limited, request(&server)).await;

    // The EWS classifier reads the operation out of a `Full` too.
    exchange.inject(Fault::ServerBusy { back_off: None });
    let patient = ServiceBuilder::new()
        .server_busy_backoff(EwsClassifier)
        .service(client());
    let response = call(patient, request(&server)).await;
    assert_eq!(
        response.extensions().get::<RetryInfo>().unwrap().attempts,
        2
    );

    // What the layers find in the SOAP text needs a body that keeps its outline; the client stays as it is.
    let anchored = ServiceBuilder::new()
        .buffer_request(1024 * 1024)
        .anchor_headers(EwsAnchor::new())
        .map_request(|request: Request<ReplayBody>| request.map(Full::from))
        .service(client());
    call(anchored, request(&server)).await;
    assert_eq!(
        exchange.calls().last().unwrap().anchor.as_deref(),
        Some("amy@contoso.com")
    );

    let all = ServiceBuilder::new()
        .layer(EwsStack::new(ThrottlingPolicy::exchange_online()))
        .map_request(|request: Request<ReplayBody>| request.map(Full::from))
        .service(client());
    call(all, request(&server)).await;
    assert_eq!(exchange.report().calls, 8);
}

#[tokio::test]
async fn a_refused_connection_is_told_from_a_lost_response() {
    // Nothing listens there any more.
    let (_, server) = server().await;
    let gone = request(&server);
    drop(server);
    let layer = ServerBusyBackoffLayer::ews()
        .deadline(std::time::Duration::from_millis(300))
        .backoff(
            std::time::Duration::from_millis(20),
            std::time::Duration::from_millis(50),
        );
    let service = ServiceBuilder::new().layer(layer).service(client());
    let error = service.oneshot(gone).await.unwrap_err();
    // Sent again until the deadline, since nothing was sent.
    assert!(error.to_string().contains("attempts"), "{error}");
}

/// No Authorization value in anything that can be printed.
#[tokio::test]
async fn credentials_are_never_printed() {
    let (exchange, server) = server().await;
    let policy = ThrottlingPolicy::exchange_online();
    let stack = EwsStack::new(policy).caller(Caller::new("svc@contoso.com"));
    let ledger = stack.shared_ledger().clone();
    let service = ServiceBuilder::new()
        .layer(stack.clone())
        .map_request(|request: Request<ReplayBody>| request.map(Full::from))
        .service(client());
    let trail = tower_ews::trail::CallTrail::new();
    let mut printed = vec![format!("{stack:?} {:?}", stack.charges())];
    for fault in [
        None,
        Some(Fault::ResetAfter),
        Some(Fault::WrongXml),
        Some(Fault::ServerBusy { back_off: None }),
    ] {
        if let Some(fault) = fault {
            exchange.inject(fault);
        }
        let mut request = request(&server);
        request
            .headers_mut()
            .insert("cookie", PASSWORD.parse().unwrap());
        request.extensions_mut().insert(trail.clone());
        let future = service.clone().oneshot(request);
        match future.await {
            Ok(response) => {
                printed.push(format!("{:?}", response.extensions().get::<RetryInfo>()));
                printed.push(format!("{:?}", response.into_body()));
            }
            Err(error) => {
                let mut next: Option<&dyn Error> = Some(&*error);
                while let Some(error) = next {
                    printed.push(format!("{error} {error:?}"));
                    next = error.source();
                }
            }
        }
    }
    printed.push(format!("{:?} {:?}", ledger, ledger.snapshot()));
    printed.push(format!("{:?}", trail.attempts()));
    let mut direct = tower::Layer::layer(
        &stack,
        Client::builder(TokioExecutor::new()).build_http::<ReplayBody>(),
    );
    printed.push(format!("{direct:?}"));
    let future = direct.call(request(&server));
    printed.push(format!("{future:?}"));
    drop(future);
    for text in printed {
        assert!(!text.contains(PASSWORD), "{text}");
        assert!(!text.contains("Basic"), "{text}");
    }
}

/// One server of several behind a load balancer is overloaded: the next attempt does not go over the same connection.
#[tokio::test]
async fn a_503_is_sent_again_over_a_new_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/EWS/Exchange.asmx",
        listener.local_addr().unwrap()
    );
    let served = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = served.clone();
    tokio::spawn(async move {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let log = log.clone();
            let respond = hyper::service::service_fn(move |_| {
                let mut log = log.lock().unwrap();
                log.push(connection);
                let status = if log.len() == 2 { 503 } else { 200 };
                let response = Response::builder().status(status);
                let response = response.body(Full::<Bytes>::from("")).unwrap();
                async { Ok::<_, std::convert::Infallible>(response) }
            });
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(async move {
                let serving = hyper::server::conn::http1::Builder::new();
                let _ = serving.serve_connection(stream, respond).await;
            });
        }
    });
    let layer = ServerBusyBackoffLayer::http().backoff(
        std::time::Duration::from_millis(1),
        std::time::Duration::from_millis(1),
    );
    let service = ServiceBuilder::new().layer(layer).service(client());
    for _ in 0..3 {
        let request = Request::get(&url).body(Full::<Bytes>::default()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
        // The connection goes back to the pool in a task of its own.
        tokio::task::yield_now().await;
    }
    let served = served.lock().unwrap();
    assert_eq!(served.len(), 4);
    assert_ne!(served[2], served[1], "{served:?}");
}

/// What a server does with the first request.
#[derive(Clone, Copy, Debug)]
enum First {
    /// It is busy, and says so for this account alone.
    Fault,
    Hangs,
    /// The body stops in the middle.
    Stalls,
}

/// Serves two requests over HTTP/2. Returns the address, and the number of the connection that each comes over.
async fn numbering(first: First) -> (String, Arc<Mutex<Vec<usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/EWS/Exchange.asmx",
        listener.local_addr().unwrap()
    );
    let seen = Arc::new(Mutex::new(Vec::new()));
    let connections = Arc::clone(&seen);
    tokio::spawn(async move {
        for connection in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            let seen = Arc::clone(&connections);
            let service = service_fn(move |_: Request<hyper::body::Incoming>| {
                let mut seen = seen.lock().unwrap();
                seen.push(connection);
                respond((seen.len() == 1).then_some(first))
            });
            tokio::spawn(async move {
                let service = hyper_util::service::TowerToHyperService::new(service);
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
        }
    });
    (url, seen)
}

type Respond =
    Pin<Box<dyn Future<Output = Result<Response<BoxBody<Bytes, Infallible>>, Infallible>> + Send>>;

fn respond(first: Option<First>) -> Respond {
    const ENVELOPE: &str = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
        xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body>"#;
    let fault = "<s:Fault><faultstring>Busy.</faultstring><detail><e:ResponseCode \
        xmlns:e=\"http://schemas.microsoft.com/exchange/services/2006/errors\">ErrorServerBusy</e:ResponseCode></detail></s:Fault>";
    let good = r#"<m:GetFolderResponse><m:ResponseMessages><m:GetFolderResponseMessage ResponseClass="Success"
        ><m:ResponseCode>NoError</m:ResponseCode></m:GetFolderResponseMessage></m:ResponseMessages></m:GetFolderResponse>"#;
    let whole = |content: &str| format!("{ENVELOPE}{content}</s:Body></s:Envelope>");
    let (status, text) = match first {
        Some(First::Fault) => (500, whole(fault)),
        Some(First::Stalls) => (200, ENVELOPE.to_owned()),
        Some(First::Hangs) | None => (200, whole(good)),
    };
    let frames = stream::iter([Ok(Frame::data(Bytes::from(text)))]);
    let body: BoxBody<Bytes, Infallible> = match first {
        Some(First::Stalls) => BoxBody::new(StreamBody::new(frames.chain(stream::pending()))),
        _ => BoxBody::new(StreamBody::new(frames)),
    };
    let response = Response::builder().status(status);
    let response = response
        .header("content-type", "text/xml; charset=utf-8")
        .body(body);
    Box::pin(async move {
        if let Some(First::Hangs) = first {
            std::future::pending::<()>().await;
        }
        Ok(response.unwrap())
    })
}

/// HTTP/2 keeps a connection whose calls are given up, and all others would be sent over it.
#[tokio::test]
async fn a_silent_server_is_asked_again_over_another_connection() {
    for (first, expected) in [
        (First::Fault, [0, 0]),
        (First::Hangs, [0, 1]),
        (First::Stalls, [0, 1]),
    ] {
        let (url, seen) = numbering(first).await;
        let mut builder = Client::builder(TokioExecutor::new());
        let client: Client<_, Full<Bytes>> = builder.http2_only(true).build_http();
        let millis = Duration::from_millis;
        let layer = ServerBusyBackoffLayer::ews()
            .attempt_timeout(millis(500))
            .backoff(millis(1), millis(1));
        let (_, server) = server().await;
        let mut request = request(&server);
        *request.uri_mut() = url.parse().unwrap();
        call(layer.layer(client), request).await;
        // A slow machine may give up another one.
        assert_eq!(seen.lock().unwrap()[..2], expected, "{first:?}");
    }
}
