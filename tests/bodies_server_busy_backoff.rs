//! ServerBusyBackoff compiles inside `tokio::spawn(async move { .. })`, whatever the response body and its error are.
//!
//! In there the compiler forgets lifetimes, also the `'static` of a `BoxError`, so that a bound such as
//! `Error: Into<BoxError>` on a type that is held over an await can become one that it cannot prove.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_ews::body::ReplayBody;
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;

fn full() -> Full<Bytes> {
    Full::from("hello")
}

/// Calls the layer in a spawned task, and reads the body there frame by frame and as a whole.
macro_rules! spawned {
    (oneshot $client:expr, $layer:expr, $body:expr) => {
        spawned!(
            service,
            service.clone().oneshot(Request::new($body)),
            $client,
            $layer
        )
    };
    (call $client:expr, $layer:expr, $body:expr) => {
        spawned!(
            service,
            service.ready().await.unwrap().call(Request::new($body)),
            $client,
            $layer
        )
    };
    ($service:ident, $called:expr, $client:expr, $layer:expr) => {{
        let client = $client;
        let task = tokio::spawn(async move {
            #[allow(unused_mut, reason = "`oneshot` needs no `mut`")]
            let mut $service = $layer.layer(client);
            let response = $called.await.unwrap();
            let whole = response.into_body().collect().await.unwrap().to_bytes();
            let mut body = $called.await.unwrap().into_body();
            let mut frames = Vec::new();
            while let Some(frame) = body.frame().await {
                frames.extend_from_slice(&frame.unwrap().into_data().unwrap());
            }
            assert_eq!(whole, frames);
            whole
        });
        assert_eq!(task.await.unwrap(), "hello");
    }};
}

/// A module for each response body, with clients that respond with it.
macro_rules! clients {
    ($($name:ident, $body:ty, $make:expr;)*) => {$(
        mod $name {
            use super::*;

            /// Its type names no body and no error, as those of HTTP clients do not. `oneshot` needs that: tower's own
            /// layers do not compile in here otherwise, either.
            #[derive(Clone)]
            struct Client;

            impl<B> Service<Request<B>> for Client {
                type Response = Response<$body>;
                type Error = BoxError;
                type Future = Ready<Result<Self::Response, BoxError>>;

                fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
                    Poll::Ready(Ok(()))
                }

                fn call(&mut self, _: Request<B>) -> Self::Future {
                    ready(Ok(Response::new($make)))
                }
            }

            #[tokio::test]
            async fn compiles() {
                spawned!(oneshot Client, ServerBusyBackoffLayer::ews(), ReplayBody::from("x"));
                spawned!(oneshot Client, ServerBusyBackoffLayer::ews(), full());
                spawned!(oneshot Client, ServerBusyBackoffLayer::http(), full());
                spawned!(oneshot Client, ServerBusyBackoffLayer::http(), String::from("x"));
                spawned!(call service_fn(|_: Request<ReplayBody>| async {
                    Ok::<_, BoxError>(Response::new($make))
                }), ServerBusyBackoffLayer::ews(), ReplayBody::from("x"));
                spawned!(call service_fn(|_: Request<Full<Bytes>>| async {
                    Ok::<_, BoxError>(Response::new($make))
                }), ServerBusyBackoffLayer::http(), full());
                spawned!(call service_fn(|_: Request<Full<Bytes>>| async {
                    Ok::<_, Infallible>(Response::new($make))
                }), ServerBusyBackoffLayer::http(), full());
            }
        }
    )*};
}

clients! {
    full_body, Full<Bytes>, full();
    boxed_with_box_error, BoxBody<Bytes, BoxError>, full().map_err(BoxError::from).boxed();
    unsync_with_box_error, UnsyncBoxBody<Bytes, BoxError>, full().map_err(BoxError::from).boxed_unsync();
    boxed_with_hyper_error, BoxBody<Bytes, hyper::Error>,
        full().map_err(|never| -> hyper::Error { match never {} }).boxed();
    boxed_with_http_error, BoxBody<Bytes, http::Error>,
        full().map_err(|never| -> http::Error { match never {} }).boxed();
    boxed_with_io_error, BoxBody<Bytes, std::io::Error>,
        full().map_err(|never| -> std::io::Error { match never {} }).boxed();
    axum_body, axum::body::Body, axum::body::Body::new(full());
    reqwest_body, reqwest::Body, reqwest::Body::from("hello");
}

/// The body of hyper's clients. It cannot be made without a connection.
#[test]
fn incoming_body() {
    fn sendable<T: Send>(_: T) {}

    #[derive(Clone)]
    struct Client;

    impl Service<Request<Full<Bytes>>> for Client {
        type Response = Response<hyper::body::Incoming>;
        type Error = BoxError;
        type Future = Ready<Result<Self::Response, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            ready(Err("not connected".into()))
        }
    }

    let service = ServerBusyBackoffLayer::http().layer(Client);
    sendable(async move {
        let response = service.oneshot(Request::new(full())).await?;
        response.into_body().collect().await
    });
}
