//! The request body is buffered further in, after the call has begun: what the record says of it.

use http_body_util::{Full, StreamBody};

use super::*;
use crate::body::{BufferRequestError, BufferRequestLayer};
use crate::extensions::Caller;
use crate::trail::RetryAttempt;

const LIMIT: u64 = 4096;

/// A log around a [`BufferRequest`](crate::body::BufferRequest).
fn buffered(
    layer: &AuditLogLayer<EwsFacts>,
) -> AuditLog<
    crate::body::BufferRequest<
        impl Service<Request<ReplayBody>, Response = Response<Script>, Error = BoxError, Future: Send>
        + Clone
        + use<>,
    >,
    EwsFacts,
> {
    let server = server(1, |_| {
        Ok(Response::new(Script::text(soap_response(&["NoError"]))))
    });
    layer.layer(BufferRequestLayer::new(LIMIT).layer(server))
}

fn with_body<B>(body: B) -> Request<B> {
    let (mut head, _) = request(ReplayBody::empty()).into_parts();
    head.extensions.insert(Caller::new("svc@contoso.com"));
    Request::from_parts(head, body)
}

/// The bytes in frames of 100, one each millisecond.
fn frames(text: &[u8]) -> Script {
    let frames = text.chunks(100).map(Bytes::copy_from_slice);
    Script::new(frames.flat_map(|frame| [Piece::Wait(1), Piece::Data(frame)]))
}

fn tells_all(record: &Record, body: &ReplayBody) {
    assert_eq!(record.outcome, Outcome::Ok);
    assert_eq!(record.operation.as_deref(), Some("CreateItem"));
    assert_eq!(record.members, Some(2));
    assert_eq!(record.caller.as_deref(), Some("svc@contoso.com"));
    assert_eq!(record.mailbox.as_deref(), Some("amy"));
    assert_eq!(record.access, Some("impersonation"));
    assert_eq!(record.request_bytes, Some(body.len()));
    let kept = record.request_body.as_ref().unwrap();
    assert_eq!((&kept.bytes, kept.total), (&body.to_bytes(), body.len()));
    assert!(!kept.truncated);
}

#[tokio::test(start_paused = true)]
async fn any_body_that_is_buffered_further_in_is_told_of() {
    async fn check<B>(make: impl Fn(Bytes) -> B)
    where
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let sink = MemorySink::new();
        let body = create("amy");
        let service = buffered(&ews(&sink).level(Level::Full));
        let request = with_body(make(body.to_bytes()));
        let response = service.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        tells_all(&only(&sink), &body);
    }
    check(ReplayBody::from).await;
    check(Full::new).await;
    check(|bytes| String::from_utf8(bytes.into()).unwrap()).await;
    check(axum::body::Body::from).await;
    check(|bytes| frames(&bytes)).await;
    check(|bytes| axum::body::Body::new(frames(&bytes))).await;
    check(|bytes| {
        let frames = bytes.chunks(7).map(Bytes::copy_from_slice);
        let frames: Vec<_> = frames
            .map(|frame| Ok::<_, BoxError>(Frame::data(frame)))
            .collect();
        StreamBody::new(futures_util::stream::iter(frames))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_too_large_is_recorded() {
    let sink = MemorySink::new();
    let service = buffered(&ews(&sink).level(Level::Full));
    let large = vec![b' '; 10 * LIMIT as usize];
    let error = service
        .oneshot(with_body(frames(&large)))
        .await
        .unwrap_err();
    assert!(error.is::<BufferRequestError>());
    let record = only(&sink);
    add_up(&record);
    assert_eq!(record.outcome, Outcome::NotSent);
    assert_eq!(record.error_type.as_deref(), Some("request_body"));
    assert!(record.error[0].contains("more than 4096 bytes"));
    // It is recorded with the time that the upload took.
    assert_eq!(record.duration, ms(41));
    assert_eq!(record.caller.as_deref(), Some("svc@contoso.com"));
    assert_eq!((record.operation, record.request_bytes), (None, None));
    assert!(record.request_body.unwrap().bytes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_cancelled_or_breaks_off_is_recorded() {
    let sink = MemorySink::new();
    let service = buffered(&ews(&sink));
    let body = create("amy").to_bytes();
    let call = service.clone().oneshot(with_body(frames(&body)));
    assert!(tokio::time::timeout(ms(3), call).await.is_err());
    let record = only(&sink);
    assert_eq!(
        (record.outcome, record.duration, record.operation),
        (Outcome::Cancelled, ms(3), None)
    );
    let broken = Script::new([
        Piece::Data(body.slice(..100)),
        Piece::Fail(std::io::ErrorKind::ConnectionReset),
    ]);
    service.oneshot(with_body(broken)).await.unwrap_err();
    let record = only(&sink);
    assert_eq!(
        (record.outcome, record.error_type.as_deref()),
        (Outcome::NotSent, Some("request_body"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cancelled_after_its_upload_knows_its_operation() {
    let sink = MemorySink::new();
    let service = buffered(&ews(&sink).level(Level::Full));
    let body = create("amy");
    let upload = frames(&body.to_bytes());
    let call = service.oneshot(with_body(upload));
    let time = ms(body.len().div_ceil(100));
    assert!(tokio::time::timeout(time, call).await.is_err());
    let record = only(&sink);
    assert_eq!(record.outcome, Outcome::Cancelled);
    assert_eq!(record.operation.as_deref(), Some("CreateItem"));
    assert_eq!(record.request_body.unwrap().bytes, body.to_bytes());
}

#[tokio::test(start_paused = true)]
async fn levels_of_operations_and_mailboxes_wait_for_the_body() {
    let sink = MemorySink::new();
    let layer = ews(&sink).level(Level::Off);
    let handle = layer.handle();
    let service = buffered(&layer);
    let body = create("amy");
    let bytes = async || {
        let call = service.clone().oneshot(with_body(frames(&body.to_bytes())));
        call.await.unwrap().into_body().collect().await.unwrap();
        let kept = sink.take().pop().map(|record| record.request_body);
        kept.map(|body| body.map_or(0, |body| body.total))
    };
    assert_eq!(bytes().await, None);
    handle.set(Scope::Operation("GetItem"), Level::Full);
    assert_eq!(bytes().await, None);
    handle.set(Scope::Operation("CreateItem"), Level::Full);
    assert_eq!(bytes().await, Some(body.len()));
    handle.set(Scope::Operation("CreateItem"), Level::Summary);
    assert_eq!(bytes().await, Some(0));
    handle.set(Scope::Principal("amy"), Level::Full);
    assert_eq!(bytes().await, Some(body.len()));
    handle.set(Scope::Principal("amy"), Level::Off);
    assert_eq!(bytes().await, None);
    // With every call recorded, an operation can be left out.
    handle.clear(Scope::Principal("amy"));
    handle.set(Scope::All, Level::Full);
    handle.set(Scope::Operation("CreateItem"), Level::Off);
    assert_eq!(bytes().await, None);
    handle.clear(Scope::Operation("CreateItem"));
    assert_eq!(bytes().await, Some(body.len()));
}

#[tokio::test(start_paused = true)]
async fn without_a_buffer_the_bodies_that_are_in_memory_are_told_of() {
    async fn check<B: Body + Send + 'static>(body: B, operation: Option<&str>) {
        let sink = MemorySink::new();
        let client = tower::service_fn(async |_: Request<B>| {
            Ok::<_, BoxError>(Response::new(Script::text(soap_response(&["NoError"]))))
        });
        let service = ews(&sink).level(Level::Full).layer(client);
        let response = service.oneshot(with_body(body)).await.unwrap();
        response.into_body().collect().await.unwrap();
        let record = only(&sink);
        assert_eq!(record.operation.as_deref(), operation);
        let kept = record.request_body.unwrap();
        assert_eq!(kept.bytes.is_empty(), operation.is_none());
    }
    let body = create("amy").to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    check(Full::new(body.clone()), Some("CreateItem")).await;
    check(text, Some("CreateItem")).await;
    check(frames(&body), None).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_logs_around_one_buffer_both_see_the_body() {
    let (outer, inner) = (MemorySink::new(), MemorySink::new());
    let service = ews(&outer).layer(buffered(&ews(&inner)));
    let body = create("amy").to_bytes();
    let response = service.oneshot(with_body(frames(&body))).await.unwrap();
    response.into_body().collect().await.unwrap();
    for sink in [outer, inner] {
        assert_eq!(only(&sink).operation.as_deref(), Some("CreateItem"));
    }
}

#[tokio::test(start_paused = true)]
async fn facts_that_panic_at_the_body_fail_no_call() {
    struct Broken;
    impl Facts for Broken {
        fn request(&self, _: &http::request::Parts) -> RequestFacts {
            RequestFacts::new()
        }
        fn body(&self, _: &ReplayBody, facts: &mut RequestFacts) {
            facts.operation = Some("told before".into());
            panic!("these facts are broken")
        }
    }
    let sink = MemorySink::new();
    let layer = AuditLogLayer::new(sink.clone()).facts(Broken);
    let server = server(1, |_| Ok(Response::new(Script::text("hello"))));
    let service = layer.layer(BufferRequestLayer::new(LIMIT).layer(server));
    let body = create("amy").to_bytes();
    let response = service.oneshot(with_body(frames(&body))).await.unwrap();
    response.into_body().collect().await.unwrap();
    let record = only(&sink);
    assert_eq!(record.operation.as_deref(), Some("told before"));
    assert_eq!(record.request_bytes, Some(body.len() as u64));
}

#[tokio::test(start_paused = true)]
async fn what_happens_in_a_call_is_told_in_a_span_with_its_operation() {
    let lines = spans::Lines::default();
    let _subscribed = lines.subscribe();
    let client = tower::service_fn(async |_: Request<ReplayBody>| {
        tracing::info!("on the wire");
        Ok::<_, BoxError>(Response::new(Script::text("<Envelope/>")))
    });
    let layer = ews(&MemorySink::new());
    let service = layer.layer(BufferRequestLayer::new(LIMIT).layer(client));
    let body = create("amy").to_bytes();
    let response = service.oneshot(with_body(frames(&body))).await.unwrap();
    drop(response);
    let told = lines.events();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["fields"]["message"], "on the wire");
    assert_eq!(told[0]["span"]["operation"], "CreateItem");
}

#[tokio::test(start_paused = true)]
async fn a_log_inside_of_a_layer_that_sends_again_says_so_once() {
    let lines = spans::Lines::default();
    let _subscribed = lines.subscribe();
    let layer = ews(&MemorySink::new());
    for round in 0..2 {
        let service = layer.layer(server(1, |_| Ok(Response::new(Script::text("hello")))));
        let mut request = request(create("amy"));
        drop(service.clone().oneshot(request.clone()).await.unwrap());
        assert_eq!(lines.events().len(), round);
        request.extensions_mut().insert(RetryAttempt);
        drop(service.oneshot(request).await.unwrap());
        let told = lines.events();
        assert_eq!(told.len(), 1);
        let text = told[0]["fields"]["message"].as_str().unwrap();
        assert!(
            text.contains("put it outside of ServerBusyBackoff"),
            "{text}"
        );
    }
}
