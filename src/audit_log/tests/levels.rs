//! What is recorded at which level, and how levels change while calls go on.

use super::*;
use crate::audit_log::levels::Look;
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use crate::principal::Principal;
use crate::trail::CallTrail;

async fn call<S, B>(service: &S, body: ReplayBody)
where
    S: Service<Request<ReplayBody>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: Body,
    B::Error: std::fmt::Debug,
{
    let answered = service.clone().oneshot(request(body)).await.unwrap();
    answered.into_body().collect().await.unwrap();
}

fn level_of(record: &Record) -> Level {
    let headers = record.request_headers.is_some();
    assert_eq!(headers, record.response_headers.is_some());
    let bodies = record.request_body.is_some();
    assert_eq!(bodies, record.response_body.is_some());
    match (headers, bodies) {
        (false, false) => Level::Summary,
        (true, false) => Level::Headers,
        (true, true) => Level::Full,
        (false, true) => panic!("{record:?}"),
    }
}

/// The levels of the records since the last look.
fn levels(sink: &MemorySink) -> Vec<Level> {
    sink.take().iter().map(level_of).collect()
}

#[tokio::test(start_paused = true)]
async fn each_level_tells_more() {
    let sink = MemorySink::new();
    let layer = ews(&sink);
    let handle = layer.handle();
    let service = layer.layer(server(1, |request| {
        let wanted = CallTrail::of(request.extensions()).is_some();
        let answer = Response::builder().header("x-wanted", wanted.to_string());
        let cookie = answer.header("set-cookie", "secret");
        Ok(cookie.body(Script::text(answer_text())).unwrap())
    }));
    fn answer_text() -> String {
        answer(&["NoError"])
    }
    for level in [Level::Summary, Level::Headers, Level::Full] {
        handle.set(Scope::All, level);
        assert_eq!(handle.level(), level);
        let body = create("amy");
        call(&service, body.clone()).await;
        let record = only(&sink);
        assert_eq!(level_of(&record), level);
        if let Some(headers) = &record.request_headers {
            let authorization = headers.iter().find(|(name, _)| &**name == "authorization");
            assert!(!authorization.unwrap().1.contains("c2VjcmV0"));
            let headers = record.response_headers.as_ref().unwrap();
            assert!(headers.contains(&("x-wanted".into(), "true".into())));
            assert!(headers.iter().all(|(_, value)| &**value != "secret"));
        }
        if let (Some(sent), Some(read)) = (&record.request_body, &record.response_body) {
            assert_eq!((&sent.bytes, sent.total), (&body.to_bytes(), body.len()));
            assert_eq!(
                (&read.bytes[..], read.truncated),
                (answer_text().as_bytes(), false)
            );
        }
    }
    handle.set(Scope::All, Level::Off);
    let answered = service
        .clone()
        .oneshot(request(create("amy")))
        .await
        .unwrap();
    assert_eq!(
        answered.headers()["x-wanted"],
        "false",
        "nobody pays for a trail"
    );
    drop(answered);
    assert_eq!((sink.seen(), handle.recorded(), handle.lost()), (3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_level_for_one_principal_operation_or_time() {
    let sink = MemorySink::new();
    let layer = ews(&sink).level(Level::Off);
    let handle = layer.handle();
    let service = layer.layer(server(1_000, |_| {
        Ok(Response::new(Script::text(answer(&["NoError"]))))
    }));
    let (amy, bob) = (|| create("amy@contoso.com"), || create("bob@contoso.com"));
    let both = async || {
        call(&service, amy()).await;
        call(&service, bob()).await;
        levels(&sink)
    };

    let until = Instant::now() + ms(10_000);
    handle.set_until(Scope::Principal("Amy@Contoso.com"), Level::Full, until);
    assert_eq!(both().await, [Level::Full]);
    // The principal counts before the operation, whatever it says.
    handle.set(Scope::Operation("CreateItem"), Level::Headers);
    assert_eq!(both().await, [Level::Full, Level::Headers]);
    handle.set(Scope::Operation("CreateItem"), Level::Off);
    assert_eq!(both().await, [Level::Full]);
    handle.set(Scope::All, Level::Summary);
    assert_eq!(
        both().await,
        [Level::Full],
        "the operation counts before all"
    );
    handle.clear(Scope::Operation("CreateItem"));
    assert_eq!(both().await, [Level::Full, Level::Summary]);
    tokio::time::sleep_until(until).await;
    assert_eq!(both().await, [Level::Summary, Level::Summary]);
    // What has ended is forgotten.
    assert!(matches!(handle.control.look(), Look::Plain(Level::Summary)));

    let until = Instant::now() + ms(3_000);
    handle.set_until(Scope::All, Level::Headers, until);
    assert_eq!(handle.level(), Level::Headers);
    assert_eq!(both().await, [Level::Headers, Level::Headers]);
    call(&service, amy()).await;
    assert_eq!(
        (handle.level(), levels(&sink)),
        (Level::Summary, vec![Level::Headers]),
        "it began before the end"
    );
    assert_eq!(both().await, [Level::Summary, Level::Summary]);
    handle.set(Scope::Principal("amy@contoso.com"), Level::Off);
    assert_eq!(both().await, [Level::Summary]);
    handle.clear(Scope::Principal("amy@contoso.com"));
    assert_eq!(both().await, [Level::Summary, Level::Summary]);
    handle.set(Scope::All, Level::Off);
    assert!(matches!(handle.control.look(), Look::Off));
}

#[tokio::test(start_paused = true)]
async fn a_principal_that_only_the_charges_tell() {
    let sink = MemorySink::new();
    let layer = AuditLogLayer::new(sink.clone()).level(Level::Off);
    layer
        .handle()
        .set(Scope::Principal("Tenant-7"), Level::Full);
    let by_length =
        |request: &Request<ReplayBody>| Principal::new(format!("Tenant-{}", request.body().len()));
    let inner = ConcurrencyByPrincipalLayer::in_flight(1, by_length)
        .layer(server(1, |_| Ok(Response::new(Script::text("hello")))));
    let service = layer.layer(inner);
    call(&service, "seven77".into()).await;
    call(&service, "six666".into()).await;
    let record = only(&sink);
    assert_eq!(
        (level_of(&record), record.principal.as_deref()),
        (Level::Full, Some("Tenant-7"))
    );
    assert_eq!(record.request_body.unwrap().bytes, "seven77");
    assert_eq!(record.charges[0].budget.as_ref(), "Concurrency");
}
