//! The simulator on a real socket, through hyper-util's client.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower_ews::simulator::{Exchange, Fault, Policy};

type Http = Client<HttpConnector, Full<Bytes>>;

fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

fn create(url: &str, subject: &str) -> Request<Full<Bytes>> {
    let body = format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
         xmlns='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body>\
         <CreateItem MessageDisposition='SaveOnly'><Items><t:Message><t:Subject>{subject}</t:Subject></t:Message></Items>\
         </CreateItem></s:Body></s:Envelope>"
    );
    Request::post(url)
        .header("authorization", "Bearer secret")
        .body(Full::from(body))
        .unwrap()
}

fn quick() -> Exchange {
    Exchange::builder().policy(Policy::unlimited()).build()
}

async fn faults_show_on(exchange: &Exchange, url: &str) {
    let client = client();
    let send = |subject: &'static str| client.request(create(url, subject));

    let response = send("plain").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["content-type"],
        "text/xml; charset=utf-8"
    );
    let promised: usize = response.headers()["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), promised);

    for (fault, subject, executed) in [
        (Fault::ResetBefore, "before", false),
        (Fault::ResetAfter, "after", true),
        (Fault::Refused, "refused", false),
    ] {
        exchange.inject(fault);
        send(subject).await.expect_err("the connection is lost");
        assert_eq!(
            exchange.report().created.contains_key(subject),
            executed,
            "{subject}"
        );
    }

    exchange.inject(Fault::CutBody);
    let response = send("cut").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response
        .into_body()
        .collect()
        .await
        .expect_err("the body breaks off");
    assert_eq!(exchange.report().created["cut"], 1);

    exchange.inject(Fault::SlowBody {
        frames: 5,
        pause: Duration::from_millis(2),
    });
    let response = send("slow").await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"</s:Envelope>"));

    let response = send("again").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(exchange.report().created_twice().is_empty());
}

#[tokio::test]
async fn faults_show_on_its_own_server() {
    let exchange = quick();
    let server = exchange.serve_on_loopback().await.unwrap();
    faults_show_on(&exchange, &server.url()).await;
}

#[tokio::test]
async fn faults_show_on_an_axum_router() {
    let exchange = quick();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let url = format!(
        "http://{}/EWS/Exchange.asmx",
        listener.local_addr().unwrap()
    );
    let router = exchange.router();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    faults_show_on(&exchange, &url).await;
    server.abort();
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let exchange = quick();
    let server = exchange.serve_on_loopback().await.unwrap();
    let url = server.url();
    let client = client();
    client
        .request(create(&url, "one"))
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    drop(server);
    // The kept connection and a new one both fail; the task ends a moment after the handle.
    let mut refused = false;
    for _ in 0..200 {
        if let Err(error) = client.request(create(&url, "two")).await {
            let mut source: Option<&dyn Error> = Some(&error);
            while let Some(error) = source {
                refused |= error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
                source = error.source();
            }
        }
        if refused {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(refused);
}

#[tokio::test]
async fn a_client_that_hangs_up_is_executed() {
    let mut policy = Policy::unlimited();
    policy.member_time = Duration::from_millis(50);
    let exchange = Exchange::builder().policy(policy).build();
    let server = exchange.serve_on_loopback().await.unwrap();
    let call = tokio::spawn(client().request(create(&server.url(), "left")));
    while exchange.report().calls == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    call.abort();
    while exchange.report().items_created == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(exchange.report().created["left"], 1);
}
