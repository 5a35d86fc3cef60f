//! Neighbours of the responses in the table: statuses that one member causes, codings and encodings that nobody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use tower::{Layer, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::body::ReplayBody;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;

use super::server::{Ask, Reply, good, request, respond, send};

/// Refused for what was asked: one member costs itself alone, and what refuses all alike is recognised after a few parts.
#[tokio::test(start_paused = true)]
async fn a_status_of_one_member_costs_that_one_alone() {
    for status in [
        402, 404, 406, 409, 410, 414, 415, 422, 423, 424, 431, 451, 499, 506, 508, 510,
    ] {
        for operation in ["GetItem", "CreateItem"] {
            for (members, culprit) in [(20, "ID0007"), (20, "ID0000"), (300, "ID0155")] {
                let of_one = move |ask: &Ask| match ask.ids.iter().any(|id| id == culprit) {
                    true => Reply::status(status),
                    false => good(ask),
                };
                let outcome = send(request(operation, members), None, of_one).await;
                let case = format!("{status}, {operation} of {members}: {outcome:?}");
                assert_eq!(outcome.done(), members - 1, "{case}");
                assert_eq!(outcome.unknown, 0, "{case}");
                assert!(outcome.requests() <= 30, "{case}");
                assert!(outcome.took < Duration::from_secs(60), "{case}");
                let told = format!("HTTP {status}");
                assert_eq!(outcome.body.matches(&told).count(), 1, "{case}");
            }
            let outcome = send(request(operation, 1000), None, move |_| {
                Reply::status(status)
            })
            .await;
            assert!(outcome.requests() <= 5, "{status}: {outcome:?}");
            assert_eq!(outcome.status, Some(status), "{outcome:?}");
        }
    }
}

/// A response in a coding that nobody asked for, or in an encoding that is not read: a read has failed, a write is in doubt, alone
/// and in batches.
#[tokio::test(start_paused = true)]
async fn what_nobody_can_read_is_no_success() {
    type Response = fn() -> Reply;
    let responses: [(&str, Response); 5] = [
        ("br", || Reply::xml(200, "x").with("content-encoding", "br")),
        ("zstd", || {
            Reply::xml(200, "x").with("content-encoding", "zstd")
        }),
        ("br, 500", || {
            Reply::xml(500, "x").with("content-encoding", "br")
        }),
        ("zeros", || Reply::xml(200, "\0\0\0\0")),
        ("UTF-16", || Reply::xml(200, "<\0s\0:\0E\0")),
    ];
    for (what, response) in responses {
        for members in [1, 20, 300] {
            for operation in ["GetItem", "CreateItem"] {
                let outcome = send(request(operation, members), None, move |_| response()).await;
                let case = format!("{what}, {operation} of {members}: {outcome:?}");
                assert_eq!(outcome.done(), 0, "{case}");
                assert!(outcome.requests() <= 11, "{case}");
                assert!(outcome.took < Duration::from_secs(60), "{case}");
                let write = operation == "CreateItem";
                assert_eq!(outcome.says_unknown(), write, "{case}");
                if what == "br" || what == "zstd" {
                    assert!(outcome.error.contains("compressed"), "{case}");
                }
            }
        }
    }
}

/// What is no SOAP goes by its method, and by the key with which a server does it once: in the layer for plain HTTP, in that for EWS, and
/// through the stack.
#[tokio::test(start_paused = true)]
async fn what_is_no_soap_goes_by_its_method_and_its_key() {
    fn lost(number: usize) -> Reply {
        [
            Reply::status(502),
            Reply::Reset,
            Reply::page(201, "text/plain", "done"),
        ]
        .get(number)
        .cloned()
        .unwrap()
    }
    for (method, key, again) in [
        ("GET", false, true),
        ("HEAD", false, true),
        ("OPTIONS", false, true),
        ("PUT", false, true),
        ("DELETE", false, true),
        ("POST", false, false),
        ("POST", true, true),
        ("PATCH", false, false),
        ("PATCH", true, true),
        ("MKCOL", false, false),
    ] {
        for layer in ["http", "ews", "stack"] {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let server = tower::service_fn(move |_: Request<ReplayBody>| {
                respond(lost(counted.fetch_add(1, Ordering::Relaxed)))
            });
            let mut request = Request::builder()
                .method(method)
                .uri("https://mail.contoso.com/api/things/1");
            if key {
                request = request.header("idempotency-key", "8e03978e");
            }
            let body = if ["POST", "PUT", "PATCH"].contains(&method) {
                r#"{"a":1}"#
            } else {
                ""
            };
            let request = request.body(ReplayBody::from(body)).unwrap();
            let status = match layer {
                "http" => ServerBusyBackoffLayer::http()
                    .layer(server)
                    .oneshot(request)
                    .await
                    .map(|response| response.status()),
                "ews" => ServerBusyBackoffLayer::ews()
                    .layer(server)
                    .oneshot(request)
                    .await
                    .map(|response| response.status()),
                _ => {
                    let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
                    stack
                        .service(server)
                        .oneshot(request)
                        .await
                        .map(|response| response.status())
                }
            };
            let case = format!("{method}, {key}, {layer}: {status:?}");
            assert_eq!(
                count.load(Ordering::Relaxed),
                if again { 3 } else { 1 },
                "{case}"
            );
            assert_eq!(status.unwrap(), if again { 201 } else { 502 }, "{case}");
        }
    }
}
