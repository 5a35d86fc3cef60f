//! What the layers further in tell: attempts, queues, back-offs, parts.

use parking_lot::Mutex;

use super::*;
use crate::client_request_id::ClientRequestIdLayer;
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use crate::ledger::{Ledger, LocalLedger};
use crate::principal::Principal;
use crate::server_busy_backoff::ServerBusyBackoffLayer;
use crate::trail::CallTrail;

fn by_mailbox(request: &Request<ReplayBody>) -> Option<Principal> {
    let sid = request.body().outline().ok()?.impersonation().first()?;
    Some(Principal::impersonation(&sid.value))
}

#[tokio::test(start_paused = true)]
async fn attempts_queue_back_off_and_are_told_apart() {
    let sink = MemorySink::new();
    let busy = Arc::new(Mutex::new(2));
    let client = server(100, move |_| {
        let mut left = busy.lock();
        if *left > 0 {
            *left -= 1;
            let response = Response::builder()
                .status(503)
                .header("x-feserver", format!("FE{left}"));
            let body = Script::new([Piece::Wait(10), Piece::Data("busy".into())]);
            return Ok(response.body(body).unwrap());
        }
        let body = Script::new([
            Piece::Wait(30),
            Piece::Data(soap_response(&["NoError"]).into()),
        ]);
        Ok(Response::builder()
            .header("request-id", "last")
            .body(body)
            .unwrap())
    });
    let ledger: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(1));
    let backoff = ServerBusyBackoffLayer::ews()
        .backoff(ms(1_000), ms(1_000))
        .seed(7);
    let inner = ConcurrencyByPrincipalLayer::new(Arc::clone(&ledger), by_mailbox)
        .layer(ClientRequestIdLayer::new().layer(client));
    let service = ews(&sink).layer(backoff.layer(inner));
    // Another call holds the permit for a while.
    let ask = crate::ledger::AcquireRequest::new(Principal::impersonation("amy@contoso.com"));
    let permit = crate::ledger::Permit::try_acquire(ledger, &ask).unwrap();
    let hold = async move {
        tokio::time::sleep(ms(50)).await;
        drop(permit);
    };
    let call = async {
        let response = service
            .oneshot(request(create("amy@contoso.com")))
            .await
            .unwrap();
        response.into_body().collect().await.unwrap();
    };
    tokio::join!(hold, call);
    let record = only(&sink);
    add_up(&record);
    assert_eq!(record.outcome, Outcome::Ok);
    let [one, two, three] = &record.attempts[..] else {
        panic!("{record:#?}")
    };
    assert_eq!(
        (one.queued, one.wire, one.backed_off),
        (ms(50), ms(100), ms(0))
    );
    assert_eq!(
        (one.status, two.status, three.status),
        (Some(503), Some(503), Some(200))
    );
    assert_eq!(
        (one.signal.as_deref(), three.signal.as_deref()),
        (Some("503"), None)
    );
    assert_eq!(
        (two.queued, two.wire, three.wire, three.body),
        (ms(0), ms(100), ms(100), ms(30))
    );
    assert!(two.backed_off > ms(0) && three.backed_off > ms(0));
    assert_eq!(one.total, ms(50) + one.wire + one.body);
    assert_eq!(one.fe_server.as_deref(), Some("FE1"));
    assert_eq!(three.request_id.as_deref(), Some("last"));
    assert!(one.client_request_id != two.client_request_id && one.client_request_id.is_some());
    assert_eq!((record.queued, record.wire), (ms(50), ms(300)));
    assert_eq!(
        record.duration,
        record.queued + record.wire + record.body + record.backed_off
    );
    assert_eq!(
        record.principal.as_deref(),
        Some("impersonation:amy@contoso.com")
    );
    assert_eq!(
        (record.signal.as_deref(), record.parts),
        (Some("503"), None)
    );
}

#[tokio::test(start_paused = true)]
async fn given_up_in_the_queue_and_while_backing_off() {
    let sink = MemorySink::new();
    let client = server(100, |_| {
        let response = Response::builder().status(503).header("retry-after", "60");
        Ok(response.body(Script::default()).unwrap())
    });
    let ledger: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(1));
    let inner = ConcurrencyByPrincipalLayer::new(Arc::clone(&ledger), by_mailbox).layer(client);
    let service = ews(&sink).layer(ServerBusyBackoffLayer::ews().layer(inner));
    let call = || service.clone().oneshot(request(create("amy@contoso.com")));
    assert!(tokio::time::timeout(ms(5_000), call()).await.is_err());
    let record = only(&sink);
    add_up(&record);
    assert_eq!(
        (record.outcome, record.attempts.len()),
        (Outcome::Cancelled, 1)
    );
    assert_eq!((record.wire, record.backed_off), (ms(100), ms(4_900)));

    // What comes after it waits behind the gate, and is not sent.
    assert!(tokio::time::timeout(ms(5_000), call()).await.is_err());
    let record = only(&sink);
    add_up(&record);
    assert_eq!((record.queued, record.wire), (ms(5_000), ms(0)));
    let mut late = request(create("amy@contoso.com"));
    let deadline = crate::extensions::Deadline::within(ms(700));
    late.extensions_mut().insert(deadline);
    service.clone().oneshot(late).await.unwrap_err();
    let record = only(&sink);
    assert_eq!((record.outcome, record.duration), (Outcome::NotSent, ms(0)));
    assert_eq!(record.error_type.as_deref(), Some("gate_too_late"));

    tokio::time::sleep(ms(120_000)).await;
    let ask = crate::ledger::AcquireRequest::new(Principal::impersonation("amy@contoso.com"));
    let _permit = crate::ledger::Permit::try_acquire(ledger, &ask).unwrap();
    assert!(tokio::time::timeout(ms(5_000), call()).await.is_err());
    let record = only(&sink);
    add_up(&record);
    assert_eq!((record.queued, record.wire), (ms(5_000), ms(0)));
    // In vain: the deadline of the call comes first.
    let mut late = request(create("amy@contoso.com"));
    let deadline = crate::extensions::Deadline::within(ms(700));
    late.extensions_mut().insert(deadline);
    service.clone().oneshot(late).await.unwrap_err();
    let record = only(&sink);
    add_up(&record);
    assert_eq!((record.outcome, record.queued), (Outcome::NotSent, ms(700)));
    assert_eq!(record.error_type.as_deref(), Some("queue_timeout"));
    // The deadline had passed before.
    let mut late = request(create("amy@contoso.com"));
    let deadline = crate::extensions::Deadline(tokio::time::Instant::now() - ms(1));
    late.extensions_mut().insert(deadline);
    service.clone().oneshot(late).await.unwrap_err();
    let record = only(&sink);
    add_up(&record);
    assert_eq!((record.outcome, record.queued), (Outcome::NotSent, ms(0)));
    assert_eq!(record.error_type.as_deref(), Some("deadline_passed"));
}

#[tokio::test(start_paused = true)]
async fn alone_and_with_the_ids_alone() {
    let sink = MemorySink::new();
    let client = server(10, |_| {
        let body = Script::new([Piece::Wait(4), Piece::Data("hello".into())]);
        Ok(Response::builder()
            .header("x-feserver", "FE1")
            .body(body)
            .unwrap())
    });
    let alone = AuditLogLayer::new(sink.clone()).layer(client.clone());
    let with_ids =
        AuditLogLayer::new(sink.clone()).layer(ClientRequestIdLayer::new().layer(client));
    let mut own = request("x".into());
    own.headers_mut()
        .insert("client-request-id", "mine".parse().unwrap());
    let response = alone.oneshot(own).await.unwrap();
    response.into_body().collect().await.unwrap();
    let response = with_ids.oneshot(request("x".into())).await.unwrap();
    response.into_body().collect().await.unwrap();
    let records = sink.take();
    for record in &records {
        add_up(record);
        let [attempt] = &record.attempts[..] else {
            panic!("{record:?}")
        };
        assert_eq!(
            (attempt.wire, attempt.body, attempt.total),
            (ms(10), ms(4), ms(14))
        );
        assert_eq!(attempt.fe_server.as_deref(), Some("FE1"));
        assert_eq!((attempt.status, attempt.started), (Some(200), ms(0)));
        assert_eq!(record.operation, None);
    }
    assert_eq!(
        records[0].attempts[0].client_request_id.as_deref(),
        Some("mine")
    );
    assert_eq!(
        records[1].attempts[0]
            .client_request_id
            .as_ref()
            .unwrap()
            .len(),
        36
    );
}

#[tokio::test(start_paused = true)]
async fn a_trail_that_is_there_is_used_and_one_of_a_retry_layer_is_understood() {
    /// Sends everything twice.
    #[derive(Clone)]
    struct Twice<S>(S);
    impl<S> Service<Request<ReplayBody>> for Twice<S>
    where
        S: Service<Request<ReplayBody>, Response: Send, Error: Send, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        type Response = S::Response;
        type Error = S::Error;
        type Future = futures_util::future::BoxFuture<'static, Result<S::Response, S::Error>>;
        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
            self.0.poll_ready(cx)
        }
        fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
            let mut inner = self.0.clone();
            Box::pin(async move {
                drop(inner.call(request.clone()).await?);
                tokio::time::sleep(ms(500)).await;
                inner.call(request).await
            })
        }
    }
    let sink = MemorySink::new();
    let client = server(10, |_| Ok(Response::new(Script::text("hello"))));
    let service = ews(&sink).layer(Twice(ClientRequestIdLayer::new().layer(client)));
    let mut request = request("x".into());
    let trail = CallTrail::new();
    request.extensions_mut().insert(trail.clone());
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(trail.attempts().len(), 2);
    let record = only(&sink);
    add_up(&record);
    let [one, two] = &record.attempts[..] else {
        panic!("{record:?}")
    };
    assert_eq!((one.total, one.wire, one.body), (ms(10), ms(10), ms(0)));
    assert_eq!(
        (two.started, two.total, two.wire),
        (ms(510), ms(10), ms(10))
    );
    assert_eq!(record.duration, ms(520));
}

#[cfg(feature = "graph")]
#[tokio::test(start_paused = true)]
async fn the_parts_of_a_batch_stand_in_the_one_record_of_it() {
    use crate::batch_splitter::{BatchSplitterLayer, GraphBatchFormat};

    let sink = MemorySink::new();
    let calls = Arc::new(Mutex::new(0));
    let client = server(100, move |request| {
        *calls.lock() += 1;
        let call = *calls.lock();
        if call == 1 {
            return Ok(Response::builder()
                .status(503)
                .header("retry-after", "1")
                .body(Script::text("{}"))
                .unwrap());
        }
        let asked: serde_json::Value = serde_json::from_slice(&request.body().to_bytes())?;
        let responses: Vec<String> = asked["requests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|asked| match &asked["id"] {
                // One is throttled at first.
                id if id == "30" && call <= 3 => {
                    format!(
                        r#"{{"id":{id},"status":429,"headers":{{"Retry-After":"2"}},"body":{{}}}}"#
                    )
                }
                id => format!(r#"{{"id":{id},"status":200,"body":{{}}}}"#),
            })
            .collect();
        let text = format!(r#"{{"responses":[{}]}}"#, responses.join(","));
        let body = Script::new([Piece::Wait(30), Piece::Data(text.into())]);
        let response = Response::builder().header("content-type", "application/json");
        Ok(response.body(body).unwrap())
    });
    let inner = ServerBusyBackoffLayer::http().layer(ClientRequestIdLayer::new().layer(client));
    let splitter = BatchSplitterLayer::new(GraphBatchFormat::new());
    let service = AuditLogLayer::new(sink.clone()).layer(splitter.layer(inner));
    let requests: Vec<String> = (1..=50)
        .map(|id| format!(r#"{{"id":"{id}","method":"PATCH","url":"/users/{id}"}}"#))
        .collect();
    let request = Request::post("https://graph.microsoft.com/v1.0/$batch")
        .header("content-type", "application/json")
        .body(ReplayBody::from(format!(
            r#"{{"requests":[{}]}}"#,
            requests.join(",")
        )))
        .unwrap();
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    let record = only(&sink);
    add_up(&record);
    // What is refused as a whole goes back to the splitter, which reads its body.
    assert_eq!((record.outcome, record.parts), (Outcome::Ok, Some(4)));
    let parts: Vec<_> = record.attempts.iter().map(|a| a.part).collect();
    assert_eq!(parts, [0, 1, 2, 3].map(Some), "{record:#?}");
    let waits: Vec<_> = record.attempts.iter().map(|a| a.backed_off).collect();
    let [ms0, again] = [ms(0), ms(1_000)];
    assert_eq!(waits[..3], [ms0, again, ms0]);
    assert!(waits[3] >= ms(2_000), "{record:#?}");
    for attempt in &record.attempts[1..] {
        assert_eq!((attempt.wire, attempt.body), (ms(100), ms(30)));
        assert_eq!(attempt.total, attempt.backed_off + ms(130));
        assert_eq!(attempt.status, Some(200));
    }
}

#[tokio::test(start_paused = true)]
async fn parts_whose_ends_nobody_tells_end_with_the_next_attempt_of_theirs() {
    const PARTS: u32 = 200;
    let sink = MemorySink::new();
    let service = ews(&sink).layer(tower::service_fn(
        |request: Request<ReplayBody>| async move {
            let trail = CallTrail::of(request.extensions()).unwrap();
            let parts: Vec<_> = (0..PARTS).map(|part| trail.part(part, false)).collect();
            for wait in [7, 993] {
                for part in &parts {
                    part.begin_attempt();
                }
                tokio::time::sleep(ms(wait)).await;
            }
            Ok::<_, BoxError>(Response::new(Script::text(soap_response(&["NoError"]))))
        },
    ));
    let response = service.oneshot(request(create("amy"))).await.unwrap();
    response.into_body().collect().await.unwrap();
    let record = only(&sink);
    add_up(&record);
    assert_eq!(record.parts, Some(PARTS));
    let each = record.attempts.iter();
    let told: Vec<_> = each.map(|one| (one.part, one.started, one.total)).collect();
    let expected =
        |begin: u64, total: u64| (0..PARTS).map(move |part| (Some(part), ms(begin), ms(total)));
    let expected: Vec<_> = expected(0, 7).chain(expected(7, 993)).collect();
    assert_eq!(told, expected);
}

/// Waits for a permit, backs off and is resent so often that not all of it is listed.
#[tokio::test(start_paused = true)]
async fn a_call_of_very_many_attempts_has_a_small_record_that_adds_up() {
    const BUSY: u32 = 2_000;
    let sink = MemorySink::new();
    let busy = Arc::new(Mutex::new(0));
    let client = server(100, move |_| {
        *busy.lock() += 1;
        if *busy.lock() <= BUSY {
            let response = Response::builder().status(503).header("retry-after", "1");
            let body = Script::new([Piece::Wait(10), Piece::Data("busy".into())]);
            return Ok(response.body(body).unwrap());
        }
        Ok(Response::new(Script::text(soap_response(&["NoError"]))))
    });
    let ledger: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(1));
    let inner = ConcurrencyByPrincipalLayer::new(Arc::clone(&ledger), by_mailbox)
        .layer(ClientRequestIdLayer::new().layer(client));
    let backoff = ServerBusyBackoffLayer::ews().layer(inner);
    // It gives up after a number of attempts, and somebody does not.
    let again = tower::service_fn(move |request: Request<ReplayBody>| {
        let backoff = backoff.clone();
        async move {
            loop {
                let response = backoff.clone().oneshot(request.clone()).await?;
                if response.status() == 200 {
                    return Ok::<_, BoxError>(response);
                }
            }
        }
    });
    let inside = AuditLogLayer::new(sink.clone()).layer(again);
    let service = ews(&sink).layer(inside);
    let mut request = request(create("amy@contoso.com"));
    let deadline = crate::extensions::Deadline::within(ms(1 << 40));
    request.extensions_mut().insert(deadline);
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    // Of the layer inside, and of the one around it.
    for record in sink.take() {
        add_up(&record);
        assert_eq!(record.attempts.len(), 64 + 448 + 1);
        let attempts = record.attempts.len() as u64 + record.attempts_left_out;
        assert_eq!(attempts, u64::from(BUSY) + 1);
        assert_eq!(record.wire, ms(100) * (BUSY + 1));
        assert_eq!(
            record.duration,
            record.queued + record.wire + record.body + record.backed_off
        );
        let [(signal, count)] = &record.left_out.signals[..] else {
            panic!("{:?}", record.left_out)
        };
        assert_eq!((&**signal, *count), ("503", record.attempts_left_out));
        assert_eq!(
            (record.signal.as_deref(), record.parts),
            (Some("503"), None)
        );
        assert_eq!(
            record.principal.as_deref(),
            Some("impersonation:amy@contoso.com")
        );
        let [.., last] = &record.attempts[..] else {
            panic!("no attempts")
        };
        assert_eq!((last.status, last.wire), (Some(200), ms(100)));
    }
}
