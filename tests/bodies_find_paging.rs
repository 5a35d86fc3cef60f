//! Compiles `FindPaging` over the usual response bodies inside spawned tasks, and reads them there.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_ews::body::ReplayBody;
use tower_ews::find_paging::{FindPaging, FindPagingLayer, PagedBody, Paging, PagingReport};

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

fn other() -> Request<ReplayBody> {
    Request::new("no search".into())
}

fn search() -> Request<ReplayBody> {
    let body = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
        <FindItem xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><ItemShape/>
        <ParentFolderIds><FolderId xmlns="http://schemas.microsoft.com/exchange/services/2006/types" Id="a"/></ParentFolderIds>
        </FindItem></s:Body></s:Envelope>"#;
    let mut request = Request::new(body.into());
    request.extensions_mut().insert(Paging::all_pages());
    request
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

            async fn read(response: Response<PagedBody<$body>>, is_followed: bool) {
                let report = response.extensions().get::<PagingReport>().cloned();
                assert_eq!(report.is_some(), is_followed);
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), RESPONSE);
            }

            #[tokio::test]
            async fn a_oneshot() {
                tokio::spawn(async move {
                    for (request, is_followed) in [(other(), false), (search(), true)] {
                        let service = ServiceBuilder::new()
                            .layer(FindPagingLayer::new())
                            .service(service_fn(respond));
                        let response = service.oneshot(request).await.unwrap();
                        read(response, is_followed).await;
                    }
                })
                .await
                .unwrap();
            }

            #[tokio::test]
            async fn a_call() {
                tokio::spawn(async move {
                    let mut service =
                        FindPaging::new(service_fn(respond_or_fail));
                    for (request, is_followed) in [(other(), false), (search(), true)] {
                        let response = service.ready().await.unwrap().call(request).await.unwrap();
                        let collected = response.into_body().collect().await.unwrap();
                        assert_eq!(collected.to_bytes(), RESPONSE, "{is_followed}");
                    }
                })
                .await
                .unwrap();
            }

            #[tokio::test]
            async fn frame_by_frame() {
                tokio::spawn(async move {
                    let service = FindPagingLayer::new().layer(Client(make));
                    let response = service.oneshot(other()).await.unwrap();
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
