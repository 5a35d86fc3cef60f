//! Compiles `AccountPool` over the usual response bodies inside spawned tasks, and reads them there.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_ews::account_pool::{Account, AccountPoolLayer, PoolBody};
use tower_ews::body::ReplayBody;
use tower_ews::principal::Principal;

const RESPONSE: &[u8] = b"<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><R><ResponseMessages>\
    <M ResponseClass=\"Success\"><RootFolder IncludesLastItemInRange=\"true\"/></M></ResponseMessages></R></s:Body></s:Envelope>";

fn full() -> Full<Bytes> {
    Full::new(Bytes::from_static(RESPONSE))
}

fn with_box_error() -> BoxBody<Bytes, BoxError> {
    full().map_err(BoxError::from).boxed()
}

fn with_hyper_error() -> BoxBody<Bytes, hyper::Error> {
    full().map_err(|never| match never {}).boxed()
}

fn of_axum() -> AxumBody {
    AxumBody::new(full())
}

fn pool() -> AccountPoolLayer<fn(&Request<ReplayBody>) -> Principal> {
    let who = |_: &Request<ReplayBody>| Principal::new("all");
    AccountPoolLayer::in_flight(1, who)
}

fn request() -> Request<ReplayBody> {
    Request::new("a request".into())
}

/// A client that has a type of its own, as HTTP clients do.
#[derive(Clone)]
struct Client<F>(F);

impl<F, B> Service<Request<ReplayBody>> for Client<F>
where
    F: Fn() -> B,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<ReplayBody>) -> Self::Future {
        std::future::ready(Ok(Response::new((self.0)())))
    }
}

macro_rules! spawned {
    ($($name:ident: $body:ty = $make:expr;)*) => {$(
        mod $name {
            use super::*;

            fn make() -> $body {
                $make
            }

            async fn respond(_: Request<ReplayBody>) -> Result<Response<$body>, Infallible> {
                Ok(Response::new(make()))
            }

            async fn respond_or_fail(_: Request<ReplayBody>) -> Result<Response<$body>, BoxError> {
                Ok(Response::new(make()))
            }

            async fn read(response: Response<PoolBody<$body>>) {
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), RESPONSE);
            }

            #[tokio::test]
            async fn a_oneshot() {
                tokio::spawn(async move {
                    for layer in [pool(), pool().account(Account::new("svc"))] {
                        let service = ServiceBuilder::new()
                            .layer(layer)
                            .service(service_fn(respond));
                        for _ in 0..2 {
                            read(service.clone().oneshot(request()).await.unwrap()).await;
                        }
                    }
                })
                .await
                .unwrap();
            }

            #[tokio::test]
            async fn a_call() {
                tokio::spawn(async move {
                    let layer = pool().account(Account::new("svc"));
                    let mut service = layer.layer(service_fn(respond_or_fail));
                    for _ in 0..2 {
                        let response = service.ready().await.unwrap().call(request()).await.unwrap();
                        read(response).await;
                    }
                })
                .await
                .unwrap();
            }

            #[tokio::test]
            async fn frame_by_frame() {
                tokio::spawn(async move {
                    let layer = pool().account(Account::new("svc"));
                    let service = layer.layer(Client(make));
                    let response = service.oneshot(request()).await.unwrap();
                    let mut body = response.into_body();
                    assert_eq!(body.size_hint().exact(), Some(RESPONSE.len() as u64));
                    while let Some(frame) = body.frame().await {
                        assert_eq!(frame.unwrap().into_data().unwrap(), RESPONSE);
                    }
                })
                .await
                .unwrap();
            }
        }
    )*};
}

spawned! {
    full_body: Full<Bytes> = full();
    box_body_with_box_error: BoxBody<Bytes, BoxError> = with_box_error();
    box_body_with_hyper_error: BoxBody<Bytes, hyper::Error> = with_hyper_error();
    axum_body: AxumBody = of_axum();
}
