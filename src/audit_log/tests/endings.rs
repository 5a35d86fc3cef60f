//! One record for each call, however it ends.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_success_tells_who_what_and_how_long() {
    let sink = MemorySink::new();
    let service = ews(&sink).layer(server(30, |_| {
        let body = Script::new([
            Piece::Wait(20),
            Piece::Data(soap_response(&["NoError", "NoError"]).into()),
            Piece::Wait(5),
        ]);
        let response = Response::builder()
            .header("request-id", "r-1")
            .header("x-feserver", "FE1");
        Ok(response.body(body).unwrap())
    }));
    let mut request = request(create("amy@contoso.com"));
    let caller = crate::extensions::Caller::new("svc@contoso.com");
    request.extensions_mut().insert(caller);
    let size = request.body().len();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(sink.seen(), 0);
    let read = response.into_body().collect().await.unwrap().to_bytes();
    let record = only(&sink);
    add_up(&record);
    assert_eq!(record.outcome, Outcome::Ok);
    assert_eq!(record.code.as_deref(), Some("NoError"));
    assert_eq!(record.operation.as_deref(), Some("CreateItem"));
    assert_eq!(record.members, Some(2));
    assert_eq!(record.caller.as_deref(), Some("svc@contoso.com"));
    assert_eq!(record.mailbox.as_deref(), Some("amy@contoso.com"));
    assert_eq!(record.access, Some("impersonation"));
    assert_eq!(
        (record.duration, record.wire, record.body),
        (ms(55), ms(30), ms(25))
    );
    assert_eq!(&*record.method, "POST");
    assert_eq!(record.server_address.as_deref(), Some("mail.contoso.com"));
    assert_eq!(record.server_port, Some(443));
    assert_eq!(&*record.url_path, "/EWS/Exchange.asmx");
    assert_eq!(record.user_agent.as_deref(), Some("test/1"));
    assert_eq!(
        (record.request_bytes, record.response_bytes),
        (Some(size), read.len() as u64)
    );
    assert_eq!((record.status, &record.error_type), (Some(200), &None));
    assert!(record.time.is_some() && record.error.is_empty() && record.parts.is_none());
    assert!(record.request_headers.is_none() && record.response_body.is_none());
    let [attempt] = &record.attempts[..] else {
        panic!("{record:?}")
    };
    assert_eq!(
        (attempt.wire, attempt.body, attempt.total),
        (ms(30), ms(25), ms(55))
    );
    assert_eq!(attempt.request_id.as_deref(), Some("r-1"));
    assert_eq!(attempt.fe_server.as_deref(), Some("FE1"));
    assert_eq!(attempt.status, Some(200));
}

#[tokio::test(start_paused = true)]
async fn responses_that_say_that_the_call_failed() {
    let cases = [
        (200, soap_response(&["NoError", "ErrorItemNotFound"]), "ErrorItemNotFound", "ErrorItemNotFound"),
        (500, "<html/>".into(), "Internal Server Error", "500"),
        (
            500,
            "<Envelope><Body><Fault><faultcode>a:ErrorSchemaValidation</faultcode><faultstring>x</faultstring></Fault></Body></Envelope>".into(),
            "ErrorSchemaValidation",
            "500",
        ),
        (401, String::new(), "Unauthorized", "401"),
    ];
    for (status, text, code, kind) in cases {
        let sink = MemorySink::new();
        let service = ews(&sink).layer(server(1, move |_| {
            let response = Response::builder().status(status);
            Ok(response.body(Script::text(text.clone())).unwrap())
        }));
        let response = service.oneshot(request(create("amy"))).await.unwrap();
        response.into_body().collect().await.unwrap();
        let record = only(&sink);
        assert_eq!(record.outcome, Outcome::Failed);
        assert_eq!(
            (record.code.as_deref(), record.error_type.as_deref()),
            (Some(code), Some(kind))
        );
    }
    // A response that ends in the middle of its text.
    let sink = MemorySink::new();
    let service = ews(&sink).layer(server(1, |_| {
        Ok(Response::new(Script::text(
            soap_response(&[]).split_off(0)[..120].to_owned(),
        )))
    }));
    let response = service.oneshot(request(create("amy"))).await.unwrap();
    response.into_body().collect().await.unwrap();
    let record = only(&sink);
    assert_eq!(record.outcome, Outcome::Failed);
    assert!(record.error[0].contains("cut off"), "{record:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_is_recorded_when_it_is_dropped() {
    let sink = MemorySink::new();
    let service = ews(&sink).layer(server(1_000, |_| Ok(Response::new(Script::default()))));
    let call = service.clone().oneshot(request(create("amy")));
    assert!(tokio::time::timeout(ms(40), call).await.is_err());
    let record = only(&sink);
    assert_eq!(
        (record.outcome, record.duration),
        (Outcome::Cancelled, ms(40))
    );
    assert_eq!(record.error_type.as_deref(), Some("cancelled"));
    add_up(&record);
    // Never polled.
    let mut service = service;
    drop(service.ready().await.unwrap().call(request(create("amy"))));
    assert_eq!(only(&sink).outcome, Outcome::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_half_read() {
    let sink = MemorySink::new();
    let service = ews(&sink).layer(server(1, |_| {
        let text = soap_response(&["NoError"]);
        let (one, other) = text.split_at(text.len() - 5);
        Ok(Response::new(Script::new([
            Piece::Data(one.to_owned().into()),
            Piece::Data(other.to_owned().into()),
        ])))
    }));
    let response = service
        .clone()
        .oneshot(request(create("amy")))
        .await
        .unwrap();
    let mut body = response.into_body();
    let seen = body
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap()
        .len();
    drop(body);
    let record = only(&sink);
    assert_eq!(
        (record.outcome, record.response_bytes),
        (Outcome::BodyDropped, seen as u64)
    );
    assert_eq!(record.code.as_deref(), Some("NoError"));
    // Unread.
    drop(
        service
            .clone()
            .oneshot(request(create("amy")))
            .await
            .unwrap(),
    );
    assert_eq!(only(&sink).outcome, Outcome::BodyDropped);
    // All data read, but not the end.
    let response = service.oneshot(request(create("amy"))).await.unwrap();
    let mut body = response.into_body();
    while body.frame().await.is_some() {}
    assert_eq!(sink.seen(), 3, "before it is dropped");
    drop(body);
    assert_eq!(only(&sink).outcome, Outcome::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_known_to_have_ended_need_not_be_polled_to_its_end() {
    let sink = MemorySink::new();
    let service = ews(&sink).layer(server(1, |_| {
        let body = Script {
            hint: Some(0),
            ..Script::default()
        };
        Ok(Response::new(body))
    }));
    drop(service.oneshot(request(create("amy"))).await.unwrap());
    assert_eq!(only(&sink).outcome, Outcome::Ok);
}

#[tokio::test(start_paused = true)]
async fn errors_with_their_sources() {
    #[derive(Debug, thiserror::Error)]
    #[error("the client failed")]
    struct Outer(#[source] io::Error);

    let cases = [
        (
            io::ErrorKind::ConnectionRefused,
            Outcome::NotSent,
            "ConnectionRefused",
        ),
        (
            io::ErrorKind::ConnectionReset,
            Outcome::Unknown,
            "ConnectionReset",
        ),
    ];
    for (kind, outcome, name) in cases {
        let sink = MemorySink::new();
        let service = ews(&sink).layer(server(7, move |_| Err(Outer(kind.into()).into())));
        let error = service.oneshot(request(create("amy"))).await.unwrap_err();
        assert!(error.is::<Outer>(), "the inner service's own");
        let record = only(&sink);
        add_up(&record);
        assert_eq!(
            (record.outcome, record.error_type.as_deref()),
            (outcome, Some(name))
        );
        assert_eq!(
            record.error[..],
            [
                Box::from("the client failed"),
                io::Error::from(kind).to_string().into()
            ]
        );
        assert_eq!((record.wire, record.status), (ms(7), None));
    }
    let sink = MemorySink::new();
    let service = ews(&sink).layer(server(7, |_| Err("no idea".into())));
    service.oneshot(request(create("amy"))).await.unwrap_err();
    let record = only(&sink);
    assert_eq!(
        (record.outcome, record.error_type.as_deref()),
        (Outcome::Error, Some("_OTHER"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off() {
    let sink = MemorySink::new();
    let service = ews(&sink).layer(server(1, |_| {
        let kind = io::ErrorKind::ConnectionReset;
        Ok(Response::new(Script::new([
            Piece::Data("<Envelope>".into()),
            Piece::Wait(9),
            Piece::Fail(kind),
        ])))
    }));
    let response = service.oneshot(request(create("amy"))).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(error.is::<io::Error>());
    let record = only(&sink);
    assert_eq!(
        (record.outcome, record.status),
        (Outcome::Unknown, Some(200))
    );
    assert_eq!((record.response_bytes, record.body), (10, ms(9)));
    assert_eq!(record.error.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_poll_ready_is_no_call() {
    #[derive(Clone)]
    struct NeverReady;
    impl Service<Request<ReplayBody>> for NeverReady {
        type Response = Response<Script>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Response<Script>, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err("closed".into()))
        }
        fn call(&mut self, _: Request<ReplayBody>) -> Self::Future {
            panic!("not ready")
        }
    }
    let sink = MemorySink::new();
    let service = ews(&sink).layer(NeverReady);
    let error = service
        .clone()
        .oneshot(request(create("amy")))
        .await
        .unwrap_err();
    assert_eq!((error.to_string().as_str(), sink.seen()), ("closed", 0));
    // A call that panics has been made.
    let panicked = tokio::spawn(async move {
        let mut service = service;
        service.call(request(create("amy"))).await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(only(&sink).outcome, Outcome::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_panics_is_counted_and_fails_no_call() {
    struct Panics(AtomicU32);
    impl Sink for Panics {
        fn record(&self, _: &Record) {
            let before = self.0.fetch_add(1, Ordering::Relaxed);
            assert!(before % 2 == 0, "this sink is broken");
        }
    }
    let layer = AuditLogLayer::new(Panics(AtomicU32::new(0)));
    let handle = layer.handle();
    let service = layer.layer(server(1, |_| Ok(Response::new(Script::text("hello")))));
    for _ in 0..6 {
        let response = service
            .clone()
            .oneshot(request(create("amy")))
            .await
            .unwrap();
        let read = response.into_body().collect().await.unwrap();
        assert_eq!(read.to_bytes(), "hello");
    }
    drop(service.oneshot(request(create("amy"))));
    assert_eq!((handle.recorded(), handle.lost()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn facts_that_panic_fail_no_call() {
    struct Broken(bool);
    struct BrokenReader;
    impl Facts for Broken {
        fn request(&self, _: &http::request::Parts) -> RequestFacts {
            assert!(!self.0, "these facts are broken");
            RequestFacts {
                inspector: Some(Box::new(BrokenReader)),
                ..RequestFacts::default()
            }
        }
    }
    impl ResponseInspector for BrokenReader {
        fn head(&mut self, _: StatusCode, _: &HeaderMap) -> bool {
            true
        }
        fn read(&mut self, _: &[u8]) {
            panic!("this reader is broken")
        }
        fn end(&mut self, _: bool) -> ResponseFacts {
            ResponseFacts::default()
        }
    }
    for (at_once, counts) in [(true, (0, 1)), (false, (1, 0))] {
        let layer = AuditLogLayer::new(MemorySink::new()).facts(Broken(at_once));
        let handle = layer.handle();
        let service = layer.layer(server(1, |_| Ok(Response::new(Script::text("hello")))));
        let response = service.oneshot(request(create("amy"))).await.unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "hello"
        );
        assert_eq!((handle.recorded(), handle.lost()), counts);
    }
}

#[test]
fn what_is_made_is_send_and_sync() {
    fn check<T: Send + Sync + 'static>(_: &T) {}
    let service = AuditLogLayer::new(MemorySink::new()).layer(());
    check(&service);
    fn body<B: Send + Sync>() {}
    body::<AuditBody<http_body_util::Full<Bytes>>>();
    body::<ResponseFuture<std::future::Ready<()>, http_body_util::Full<Bytes>, BoxError>>();
}
