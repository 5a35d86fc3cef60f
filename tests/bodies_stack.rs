//! Each layer and the stack with every usual body, inside of `tokio::spawn(async move { .. })`.
//!
//! It is enough that this compiles: no task is ever polled. In there the compiler forgets lifetimes, also the `'static` of a
//! `BoxError`, so a bound such as `Error: Into<BoxError>` on what is held over an await is one that it cannot prove
//! ("implementation of `From` is not general enough").

use std::future::Pending;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt};
use tower_ews::account_pool::AccountPoolLayer;
use tower_ews::anchor_headers::{
    AnchorError, AnchorHeadersLayer, AnchorMailbox, EwsAnchor, FindAnchor,
};
use tower_ews::audit_log::{AuditLogLayer, TracingSink};
use tower_ews::batch_splitter::{BatchSplitterLayer, EwsBatchFormat, GraphBatchFormat};
use tower_ews::body::ReplayBody;
use tower_ews::client_request_id::ClientRequestIdLayer;
use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use tower_ews::find_paging::FindPagingLayer;
use tower_ews::http_span::HttpSpanLayer;
use tower_ews::job::Journal;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::{Charges, MakeCharges, Principal};
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;
use tower_ews::{EwsStack, ServiceBuilderExt};

/// Who is charged, and which mailbox it is. A closure names the body that it is for, so it would be another thing to test.
#[derive(Clone, Copy)]
struct Amy;

impl<B> MakeCharges<B> for Amy {
    fn make_charges(&self, _: &Request<B>) -> Charges {
        Principal::account("amy@contoso.com").into()
    }
}

impl<B> FindAnchor<B> for Amy {
    fn find_anchor(&self, _: &Request<B>) -> Result<Option<AnchorMailbox>, AnchorError> {
        AnchorMailbox::new("amy@contoso.com").map(Some)
    }
}

fn body<B>() -> B {
    unreachable!("no task is polled")
}

/// Spawns calls of the service `$make` with each of the request bodies, and reads their responses.
macro_rules! spawns {
    ($make:expr, oneshot [$($once:ty),*], call [$($call:ty),*]) => {
        $(
            let service = $make;
            drop(tokio::spawn(async move {
                let response = service.oneshot(Request::new(body::<$once>())).await?;
                Ok::<_, BoxError>(response.into_body().collect().await.map_err(BoxError::from)?.to_bytes())
            }));
        )*
        $(
            let mut service = $make;
            drop(tokio::spawn(async move {
                let ready = Service::<Request<$call>>::poll_ready;
                std::future::poll_fn(|cx| ready(&mut service, cx)).await?;
                let response = service.call(Request::new(body::<$call>())).await?;
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    drop(frame.map_err(BoxError::from)?);
                }
                Ok::<_, BoxError>(())
            }));
        )*
    };
}

/// With every usual request body. tower's own `Oneshot` cannot be spawned with a request body whose type spells out a
/// `BoxError`, with or without a layer.
macro_rules! each_request {
    ($make:expr) => {
        spawns!(
            $make,
            oneshot [
                String,
                Full<Bytes>,
                BoxBody<Bytes, hyper::Error>,
                axum::body::Body,
                reqwest::Body,
                hyper::body::Incoming,
                ReplayBody
            ],
            call [String, BoxBody<Bytes, BoxError>, BoxBody<Bytes, hyper::Error>, axum::body::Body]
        );
    };
}

/// With the request bodies that can be sent again.
macro_rules! each_clone_request {
    ($make:expr) => {
        spawns!(
            $make,
            oneshot [String, Full<Bytes>, ReplayBody],
            call [String, Full<Bytes>, ReplayBody]
        );
    };
}

/// With the body of `BufferRequest`.
macro_rules! replay_request {
    ($make:expr) => {
        spawns!($make, oneshot[ReplayBody], call[ReplayBody]);
    };
}

/// A module for each response body.
macro_rules! responses {
    ($($name:ident: $body:ty,)*) => {$(
        mod $name {
            use super::*;

            /// Its type names no body and no error, as those of HTTP clients do not.
            #[derive(Clone)]
            pub(super) struct Client;

            impl<B> Service<Request<B>> for Client {
                type Response = Response<$body>;
                type Error = BoxError;
                type Future = Pending<Result<Self::Response, BoxError>>;

                fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
                    Poll::Ready(Ok(()))
                }

                fn call(&mut self, _: Request<B>) -> Self::Future {
                    std::future::pending()
                }
            }

            #[tokio::test]
            async fn each_small_layer() {
                each_request!(ConcurrencyByPrincipalLayer::in_flight(4, Amy).layer(Client));
                each_request!(AnchorHeadersLayer::new(Amy).layer(Client));
                each_request!(ClientRequestIdLayer::new().layer(Client));
                each_request!(HttpSpanLayer::new().layer(Client));
            }

            #[tokio::test]
            async fn the_audit_log_and_the_journal() {
                each_request!(AuditLogLayer::new(TracingSink::new()).layer(Client));
                each_request!(Journal::new(Vec::new()).layer().layer(Client));
            }

            #[tokio::test]
            async fn each_layer_that_resends() {
                each_clone_request!(ServerBusyBackoffLayer::http().layer(Client));
                each_clone_request!(AccountPoolLayer::in_flight(4, Amy).layer(Client));
                replay_request!(ServerBusyBackoffLayer::ews().layer(Client));
                replay_request!(BatchSplitterLayer::new(EwsBatchFormat::new()).layer(Client));
                replay_request!(BatchSplitterLayer::new(GraphBatchFormat::new()).layer(Client));
                replay_request!(FindPagingLayer::new().layer(Client));
            }

            #[tokio::test]
            async fn behind_buffer_request() {
                each_request!(
                    ServiceBuilder::new()
                        .buffer_request(1024)
                        .layer(FindPagingLayer::new())
                        .layer(BatchSplitterLayer::new(EwsBatchFormat::new()))
                        .layer(ServerBusyBackoffLayer::ews())
                        .layer(AccountPoolLayer::in_flight(4, Amy))
                        .concurrency_by_principal(4, Amy)
                        .anchor_headers(EwsAnchor::new())
                        .client_request_id()
                        .http_span()
                        .service(Client)
                );
            }
        }
    )*};
}

responses! {
    full: Full<Bytes>,
    box_body_of_box_error: BoxBody<Bytes, BoxError>,
    box_body_of_hyper_error: BoxBody<Bytes, hyper::Error>,
    axum_body: axum::body::Body,
    reqwest_body: reqwest::Body,
    incoming: hyper::body::Incoming,
}

/// A test of the stack around each of these clients.
macro_rules! stacks {
    ($($name:ident: $client:ident,)*) => {$(
        #[tokio::test]
        async fn $name() {
            let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
            each_request!(stack.service($client::Client));
        }
    )*};
}

stacks! {
    the_stack_over_full: full,
    the_stack_over_box_body_of_box_error: box_body_of_box_error,
    the_stack_over_box_body_of_hyper_error: box_body_of_hyper_error,
    the_stack_over_axum_body: axum_body,
    the_stack_over_reqwest_body: reqwest_body,
    the_stack_over_incoming: incoming,
}
