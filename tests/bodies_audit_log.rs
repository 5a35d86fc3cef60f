//! AuditLog over each usual kind of request and response body, in a spawned task.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_ews::audit_log::{AuditLogLayer, EwsFacts, MemorySink, Outcome};
use tower_ews::body::ReplayBody;

fn boxed() -> BoxBody<Bytes, BoxError> {
    Full::from("hello").map_err(Into::into).boxed()
}

fn boxed_hyper() -> BoxBody<Bytes, hyper::Error> {
    let never = |never: Infallible| -> hyper::Error { match never {} };
    Full::from("hello").map_err(never).boxed()
}

macro_rules! spawned {
    ($name:ident, $body:ty, $make:expr) => {
        #[tokio::test]
        async fn $name() {
            #[derive(Clone)]
            struct Client;
            impl Service<Request<ReplayBody>> for Client {
                type Response = Response<$body>;
                type Error = BoxError;
                type Future = Ready<Result<Response<$body>, BoxError>>;
                fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
                    Poll::Ready(Ok(()))
                }
                fn call(&mut self, _: Request<ReplayBody>) -> Self::Future {
                    ready(Ok(Response::new($make)))
                }
            }
            let sink = MemorySink::new();
            let layer = AuditLogLayer::new(sink.clone()).facts(EwsFacts::new());
            let service = layer.layer(Client);
            let task = tokio::spawn(async move {
                let request = Request::new(ReplayBody::from("<a/>"));
                let response = service.clone().oneshot(request).await.unwrap();
                let text = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(text, "hello");
                let mut service = service;
                let request = Request::new(ReplayBody::from("<a/>"));
                let response = service.ready().await.unwrap().call(request).await.unwrap();
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    assert_eq!(frame.unwrap().into_data().unwrap(), "hello");
                }
            });
            task.await.unwrap();
            let outcomes: Vec<_> = sink.records().iter().map(|record| record.outcome).collect();
            assert_eq!(outcomes, [Outcome::Ok, Outcome::Ok]);
        }
    };
}

spawned!(full, Full<Bytes>, Full::from("hello"));
spawned!(box_body, BoxBody<Bytes, BoxError>, boxed());
spawned!(box_body_of_hyper, BoxBody<Bytes, hyper::Error>, boxed_hyper());
spawned!(axum_body, axum::body::Body, axum::body::Body::from("hello"));
spawned!(reqwest_body, reqwest::Body, reqwest::Body::from("hello"));

/// Where the client's type spells out a `BoxError`, as that of a closure does.
#[tokio::test]
async fn a_client_without_a_name() {
    let sink = MemorySink::new();
    let client =
        service_fn(async |_: Request<Full<Bytes>>| Ok::<_, BoxError>(Response::new(boxed())));
    let service = AuditLogLayer::new(sink.clone()).layer(client);
    let request = || Request::new(Full::default());
    let mut called = service.clone();
    let called = tokio::spawn(async move {
        let response = called.ready().await.unwrap().call(request()).await.unwrap();
        response.into_body().collect().await.unwrap();
    });
    // `oneshot` is for services that are boxed.
    let boxed = service.boxed_clone();
    let boxed = tokio::spawn(async move {
        let response = boxed.oneshot(request()).await.unwrap();
        response.into_body().collect().await.unwrap();
    });
    called.await.unwrap();
    boxed.await.unwrap();
    assert_eq!(sink.seen(), 2);
}

macro_rules! requests {
    ($name:ident, $body:ty, $make:expr) => {
        #[tokio::test]
        async fn $name() {
            #[derive(Clone)]
            struct Client;
            impl Service<Request<$body>> for Client {
                type Response = Response<Full<Bytes>>;
                type Error = BoxError;
                type Future = Ready<Result<Response<Full<Bytes>>, BoxError>>;
                fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
                    Poll::Ready(Ok(()))
                }
                fn call(&mut self, _: Request<$body>) -> Self::Future {
                    ready(Ok(Response::new(Full::from("hello"))))
                }
            }
            let sink = MemorySink::new();
            let layer = AuditLogLayer::new(sink.clone()).facts(EwsFacts::new());
            let service = layer.layer(Client);
            let task = tokio::spawn(async move {
                // Not `oneshot`: the compiler refuses it over a `BoxBody` of `BoxError`, also
                // without a layer.
                let mut service = service;
                let service = service.ready().await.unwrap();
                let response = service.call(Request::new($make)).await.unwrap();
                response.into_body().collect().await.unwrap();
            });
            task.await.unwrap();
            assert_eq!(sink.records()[0].outcome, Outcome::Ok);
        }
    };
}

requests!(request_of_replay_body, ReplayBody, ReplayBody::from("<a/>"));
requests!(request_of_full, Full<Bytes>, Full::from("<a/>"));
requests!(request_of_string, String, String::from("<a/>"));
requests!(
    request_of_axum_body,
    axum::body::Body,
    axum::body::Body::from("<a/>")
);
requests!(
    request_of_reqwest_body,
    reqwest::Body,
    reqwest::Body::from("<a/>")
);
requests!(request_of_box_body_of_hyper, BoxBody<Bytes, hyper::Error>, boxed_hyper());
requests!(request_of_box_body, BoxBody<Bytes, BoxError>, boxed());
