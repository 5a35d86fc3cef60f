//! What is sent again, when, and how a call ends.

use super::*;
use crate::ledger::AcquireError;

fn outcome_unknown(error: &BoxError) -> bool {
    matches!(
        error.downcast_ref(),
        Some(BackoffError::OutcomeUnknown { .. })
    )
}

fn queue_full() -> AcquireError {
    AcquireError::QueueFull { queued: 5 }
}

/// An error of a layer that knows about the ledger.
#[derive(Debug, thiserror::Error)]
#[error("no permit")]
struct NoPermit(#[source] AcquireError);

#[tokio::test(start_paused = true)]
async fn a_create_whose_connection_dies_is_not_sent_again() {
    let log = Log::new();
    let server = Server::new(&log).fail(reset());
    let error = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
        .await
        .unwrap_err();
    assert_eq!(log.calls().len(), 1);
    let Some(BackoffError::OutcomeUnknown {
        operation,
        attempts,
        source,
    }) = error.downcast_ref()
    else {
        panic!("{error:?}");
    };
    assert_eq!((&**operation, *attempts), ("CreateItem", 1));
    assert!(source.is::<std::io::Error>());
    assert!(error.to_string().starts_with("outcome unknown"), "{error}");
    assert_eq!(error.source().unwrap().to_string(), reset().to_string());
}

#[tokio::test(start_paused = true)]
async fn whether_a_lost_response_is_asked_for_again_goes_by_operation() {
    for (operation, resent) in [
        ("EmptyFolder", false),
        ("MarkAllItemsAsRead", false),
        ("CopyFolder", false),
        ("ReportMessage", false),
        ("UploadItems", false),
        ("MoveFolder", true),
        ("MarkAsJunk", true),
        ("DeleteItem", true),
    ] {
        let log = Log::new();
        let server = Server::new(&log).fail(reset()).xml(200, &success());
        let sent = send(ServerBusyBackoffLayer::ews(), &server, ews(operation)).await;
        assert_eq!(log.calls().len(), 1 + usize::from(resent), "{operation}");
        match sent {
            Ok(response) => assert!(resent && info(&response).maybe_repeated, "{operation}"),
            Err(error) => assert!(!resent && outcome_unknown(&error), "{operation}: {error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_whose_connection_dies_is_sent_again() {
    let log = Log::new();
    let server = Server::new(&log)
        .fail(reset())
        .fail(reset())
        .xml(200, &success());
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
        .await
        .unwrap();
    assert_eq!(log.calls().len(), 3);
    let info = info(&response);
    assert_eq!(
        (info.attempts, info.gave_up, info.outcome_unknown),
        (3, false, false)
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_may_be_a_second_execution_is_marked() {
    let log = Log::new();
    let gone = messages("DeleteItem", &[("Error", "ErrorItemNotFound", "")]);
    let server = Server::new(&log).xml(503, "").fail(reset()).xml(200, &gone);
    let trail = CallTrail::new();
    let mut request = ews("DeleteItem");
    request.extensions_mut().insert(trail.clone());
    let response = send(ServerBusyBackoffLayer::ews(), &server, request)
        .await
        .unwrap();
    assert!(info(&response).maybe_repeated && !info(&response).outcome_unknown);
    assert_eq!(text(response).await, gone);
    let attempts = trail.attempts();
    let resends: Vec<_> = attempts.iter().map(|attempt| attempt.resend).collect();
    assert_eq!(resends, [false, false, true]);
    let signals: Vec<_> = attempts
        .iter()
        .map(|attempt| attempt.signal.as_deref())
        .collect();
    assert_eq!(signals, [Some("503"), Some("response lost"), None]);
    assert_eq!(attempts[0].status.map(|status| status.as_u16()), Some(503));
    assert_eq!(attempts[0].backed_off, Duration::ZERO);
    assert!(attempts[1].backed_off > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_is_tried_again_for_all() {
    for operation in ["CreateItem", "GetItem"] {
        let log = Log::new();
        let server = Server::new(&log)
            .fail(refused())
            .fail(refused())
            .xml(200, &success());
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews(operation))
            .await
            .unwrap();
        assert_eq!(log.calls().len(), 3, "{operation}");
        assert!(!info(&response).outcome_unknown && !info(&response).maybe_repeated);
    }
}

#[tokio::test(start_paused = true)]
async fn waits_grow_until_the_deadline_where_the_server_sets_none() {
    for operation in ["CreateItem", "GetItem"] {
        let log = Log::new();
        let mut server = Server::new(&log);
        for _ in 0..1_000 {
            server = server.fail(refused());
        }
        let error = send(
            ServerBusyBackoffLayer::ews().seed(3),
            &server,
            ews(operation),
        )
        .await
        .unwrap_err();
        let Some(BackoffError::DeadlinePassed {
            attempts, source, ..
        }) = error.downcast_ref()
        else {
            panic!("{error:?}");
        };
        assert!(source.is::<std::io::Error>());
        assert_eq!(*attempts as usize, log.calls().len());
        let end = log.0.lock().last().unwrap().0;
        assert!(
            end <= Duration::from_secs(15 * 60) && end > Duration::from_secs(13 * 60),
            "{end:?}"
        );
        assert!(log.calls().len() < 100);
        let waits: Vec<_> = log.calls().windows(2).map(|two| two[1] - two[0]).collect();
        assert!(waits.iter().max().unwrap() > &Duration::from_secs(30));
        assert!(waits.iter().max().unwrap() <= &Duration::from_secs(60));
        assert!(waits[0] <= millis(500) && waits[1] <= millis(1_000) && waits[2] <= millis(2_000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_too_little_is_asked_seldom() {
    for (milliseconds, attempts) in [("1", 66), ("1000", 66), ("30000", 30)] {
        let log = Log::new();
        let mut server = Server::new(&log);
        for _ in 0..200 {
            server = server.xml(500, &busy_fault(milliseconds));
        }
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem")).await;
        let response = response.unwrap();
        let info = info(&response);
        assert_eq!((response.status().as_u16(), info.gave_up), (500, true));
        assert_eq!(info.attempts, attempts, "{milliseconds} ms");
        // The last wait would end behind the deadline of 15 minutes.
        assert!(
            info.backed_off > Duration::from_secs(870),
            "{milliseconds} ms"
        );
    }
}

/// However short the waits are set.
#[tokio::test(start_paused = true)]
async fn there_is_a_cap_on_attempts() {
    for repeats in [fail_all as fn(Server) -> Server, busy_all] {
        let log = Log::new();
        let server = repeats(Server::new(&log));
        let layer = ServerBusyBackoffLayer::ews().backoff(millis(1), millis(1));
        let _ = send(layer, &server, ews("GetItem")).await;
        assert_eq!(log.calls().len(), 100);
    }

    fn fail_all(server: Server) -> Server {
        (0..200).fold(server, |server, _| server.fail(refused()))
    }

    fn busy_all(server: Server) -> Server {
        (0..200).fold(server, |server, _| server.xml(503, ""))
    }
}

/// What may have been executed is sent a handful of times, what changes something not at all.
#[tokio::test(start_paused = true)]
async fn what_goes_on_to_fail_is_given_up_within_a_minute() {
    let transient = messages("GetItem", &[("Error", "ErrorMailboxStoreUnavailable", "")]);
    type Step<'a> = (&'a str, fn(Server, &str) -> Server, &'a str);
    let steps: [Step<'_>; 6] = [
        ("a reset", |server, _| server.fail(reset()), ""),
        ("a 500", |server, _| server.respond(500, &[], "<html/>"), ""),
        ("a 502", |server, _| server.respond(502, &[], ""), ""),
        ("a 520", |server, _| server.respond(520, &[], ""), ""),
        ("an empty success", |server, _| server.xml(200, ""), ""),
        ("a code", |server, body| server.xml(200, body), &transient),
    ];
    for (name, step, body) in steps {
        let log = Log::new();
        let server = (0..50).fold(Server::new(&log), |server, _| step(server, body));
        let result = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem")).await;
        assert_eq!(log.calls().len(), 7, "{name}");
        assert!(*log.calls().last().unwrap() < Duration::from_secs(32));
        match result {
            Ok(response) => {
                let info = info(&response);
                assert_eq!((info.attempts, info.gave_up), (7, false), "{name}");
            }
            Err(error) => {
                let error = error.downcast_ref();
                let Some(BackoffError::RetriesExhausted { attempts: 7, .. }) = error else {
                    panic!("{name}: {error:?}");
                };
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_ends_at_the_deadline() {
    for (first, operation) in [
        (None, "GetItem"),
        (None, "CreateItem"),
        (Some(503), "GetItem"),
        (Some(503), "DeleteItem"),
    ] {
        let case = format!("{first:?}, {operation}");
        let log = Log::new();
        let mut server = Server::new(&log);
        if let Some(status) = first {
            server = server.respond(status, &[], "busy");
        }
        let server = server.step(|_| std::future::pending());
        let mut request = ews(operation);
        let deadline = Deadline::within(Duration::from_secs(60));
        request.extensions_mut().insert(deadline);
        let begin = elapsed();
        let result = send(ServerBusyBackoffLayer::ews(), &server, request).await;
        assert_eq!(elapsed() - begin, Duration::from_secs(60), "{case}");
        match (first, operation) {
            // The server's last word.
            (Some(503), "GetItem") => {
                let response = result.unwrap();
                assert_eq!(response.status(), 503);
                assert!(info(&response).gave_up);
                assert_eq!(text(response).await, "busy");
            }
            (_, "GetItem") => {
                let error = result.unwrap_err();
                let passed = matches!(
                    error.downcast_ref(),
                    Some(BackoffError::DeadlinePassed { attempts: 1, .. })
                );
                assert!(passed, "{case}: {error:?}");
            }
            _ => assert!(outcome_unknown(&result.unwrap_err()), "{case}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_stalls_ends_at_the_deadline() {
    let whole = success();
    for (name, begun, status) in [
        ("nothing", "", 200),
        ("a head", &whole[..60], 200),
        ("a refusal", "<html>", 500),
    ] {
        for (operation, seconds) in [("GetItem", 60), ("CreateItem", 60), ("GetItem", 5)] {
            let case = format!("{name}, {operation}, {seconds}");
            let log = Log::new();
            let body = TestBody::new(&log, [Bytes::from(begun.to_owned())]).endless();
            let response = http_response(status, &[XML], body);
            let server = Server::new(&log).step(move |_| async move { Ok(response) });
            let server = (0..9).fold(server, |server, _| server.step(|_| std::future::pending()));
            let mut request = ews(operation);
            let deadline = Deadline::within(Duration::from_secs(seconds));
            request.extensions_mut().insert(deadline);
            let begin = elapsed();
            let result = send(ServerBusyBackoffLayer::ews(), &server, request).await;
            let took = elapsed() - begin;
            match (status, operation) {
                (200, "GetItem") => {
                    assert_eq!(took, Duration::from_secs(seconds), "{case}");
                    let error = result.unwrap_err();
                    let error = error.downcast_ref();
                    assert!(matches!(error, Some(BackoffError::DeadlinePassed { .. })));
                }
                (200, _) => assert!(outcome_unknown(&result.unwrap_err()), "{case}"),
                // The head has told already that it is a refusal.
                (_, "GetItem") => {
                    assert_eq!(took, Duration::from_secs(seconds), "{case}");
                    // It is the server's last word, if there is no time for another attempt.
                    assert_eq!(result.is_ok(), seconds < 10, "{case}");
                }
                _ => {
                    assert_eq!(took, Duration::from_secs(10), "{case}");
                    assert!(info(&result.unwrap()).outcome_unknown, "{case}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_past_the_deadline_is_not_begun() {
    for (name, server_says) in [
        ("long", "300001"),
        ("absurd", "99999999999999999999999999999999"),
    ] {
        let log = Log::new();
        let fault = busy_fault(server_says);
        let server = Server::new(&log)
            .xml(500, &busy_fault("700"))
            .xml(500, &fault);
        let mut request = ews("CreateItem");
        request
            .extensions_mut()
            .insert(Deadline::within(millis(300_000)));
        let response = send(ServerBusyBackoffLayer::ews(), &server, request)
            .await
            .unwrap();
        assert_eq!(elapsed(), millis(700), "{name}: at once");
        assert_eq!(response.status(), 500);
        let info = info(&response);
        assert_eq!(
            (info.attempts, info.backed_off, info.gave_up),
            (2, millis(700), true),
            "{name}"
        );
        assert_eq!(info.signal.as_deref(), Some("ErrorServerBusy"));
        assert!(!info.outcome_unknown);
        assert_eq!(text(response).await, fault, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_exactly_the_time_left_is_waited_for() {
    let log = Log::new();
    let server = Server::new(&log)
        .xml(500, &busy_fault("60000"))
        .xml(200, &success());
    let layer = ServerBusyBackoffLayer::ews().deadline(millis(60_600));
    let response = send(layer, &server, ews("CreateItem")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), elapsed()),
        (200, with_margin(Duration::from_secs(60)))
    );
}

#[tokio::test(start_paused = true)]
async fn an_absurd_gate_is_a_day_at_most() {
    let log = Log::new();
    let server = Server::new(&log)
        .charged()
        .xml(500, &busy_fault("99999999999999999999"));
    let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log));
    let begin = Instant::now();
    send(layer, &server, ews("CreateItem")).await.unwrap();
    let until = begin + Duration::from_secs(86_400);
    assert_eq!(log.signals(), [Signal::Busy { until }]);
}

#[tokio::test(start_paused = true)]
async fn the_last_response_stands_when_nothing_better_comes() {
    let busy = "<html>503 with some text</html>";
    // The server cannot be reached any more.
    let log = Log::new();
    let mut server = Server::new(&log).respond(503, &[("retry-after", "1")], busy);
    for _ in 0..1_000 {
        server = server.fail(refused());
    }
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
        .await
        .unwrap();
    assert_eq!(response.status(), 503);
    assert!(info(&response).gave_up && info(&response).attempts > 10);
    assert_eq!(text(response).await, busy);

    // The ledger lets the call wait no longer.
    for error in [BoxError::from(queue_full()), NoPermit(queue_full()).into()] {
        let log = Log::new();
        let server = Server::new(&log)
            .respond(503, &[("retry-after", "1")], busy)
            .fail(error);
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
            .await
            .unwrap();
        assert_eq!(
            (response.status().as_u16(), info(&response).gave_up),
            (503, true)
        );
        assert_eq!(text(response).await, busy);
    }

    // A response that is too long to be kept, or does not end, is not handed over in parts.
    let log = Log::new();
    let endless = http_response(
        503,
        &[("retry-after", "1")],
        TestBody::new(&log, ["a"]).endless(),
    );
    let server = Server::new(&log)
        .step(move |_| async move { Ok(endless) })
        .fail(queue_full());
    let error = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
        .await
        .unwrap_err();
    assert!(error.is::<AcquireError>());
    let log = Log::new();
    let server = Server::new(&log).respond(503, &[], busy).fail(queue_full());
    let layer = ServerBusyBackoffLayer::ews().max_buffered(10);
    let error = send(layer, &server, ews("CreateItem")).await.unwrap_err();
    assert!(error.is::<AcquireError>());
}

#[tokio::test(start_paused = true)]
async fn a_lost_response_outdates_an_earlier_one() {
    let log = Log::new();
    let server = Server::new(&log)
        .xml(503, "")
        .fail(reset())
        .fail(queue_full());
    let error = send(ServerBusyBackoffLayer::ews(), &server, ews("DeleteItem"))
        .await
        .unwrap_err();
    assert!(outcome_unknown(&error), "{error:?}");
    let log = Log::new();
    let server = Server::new(&log)
        .xml(503, "")
        .fail(reset())
        .fail(queue_full());
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
        .await
        .unwrap();
    assert_eq!(response.status(), 503, "it only reads");
    assert!(info(&response).gave_up);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_before_it_is_sent_goes_on_to_the_caller() {
    let log = Log::new();
    let server = Server::new(&log).fail(queue_full());
    let error = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
        .await
        .unwrap_err();
    assert!(error.is::<AcquireError>());
    let log = Log::new();
    let server = Server::new(&log).fail("some layer's own error");
    let error = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
        .await
        .unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), log.calls().len()),
        ("some layer's own error", 1)
    );
}

#[tokio::test(start_paused = true)]
async fn some_refusals_are_retried_once() {
    for code in ["ErrorInternalServerError", "ErrorTimeoutExpired"] {
        let log = Log::new();
        let failed = messages("GetItem", &[("Error", code, "")]);
        let server = Server::new(&log).xml(200, &failed).xml(200, &failed);
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
            .await
            .unwrap();
        assert_eq!(log.calls().len(), 2, "{code}");
        assert!(!info(&response).gave_up);
        assert_eq!(text(response).await, failed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_batch_that_was_refused_as_a_whole_is_sent_again() {
    let member = ("Error", "ErrorServerBusy", &*back_off("100"));
    let refused = messages("CreateItem", &vec![member; 1_000]);
    assert!(refused.len() > 2 * 64 * 1024);
    let log = Log::new();
    let pieces: Vec<_> = refused
        .as_bytes()
        .chunks(1_000)
        .map(<[u8]>::to_vec)
        .collect();
    let response = http_response(200, &[XML], TestBody::new(&log, pieces));
    let server = Server::new(&log)
        .step(move |_| async move { Ok(response) })
        .xml(200, &success());
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
        .await
        .unwrap();
    assert_eq!(text(response).await, success());
}

#[tokio::test(start_paused = true)]
async fn the_ledger_holds_a_busy_call_back() {
    let log = Log::new();
    let ledger = recorder(&log);
    let mut server = Server::new(&log)
        .charged()
        .xml(500, &busy_fault("300000"))
        .xml(200, &success());
    server.gate = Some(ledger.clone());
    let layer = ServerBusyBackoffLayer::ews().ledger(ledger);
    let (trail, slot) = (CallTrail::new(), AdmissionSlot::new());
    let mut request = ews("CreateItem");
    request.extensions_mut().insert(trail.clone());
    request.extensions_mut().insert(slot.clone());
    let response = send(layer, &server, request).await.unwrap();
    // It waited there, not here.
    assert_eq!(info(&response).backed_off, Duration::ZERO);
    // With the margin of a long wait.
    assert_eq!(log.calls(), [Duration::ZERO, millis(303_000)]);
    assert_eq!(trail.attempts().len(), 2);
    assert_eq!(slot.ticket(), Some(7));
}

#[tokio::test(start_paused = true)]
async fn the_permit_is_free_before_the_wait_and_the_signal_out_before_the_permit() {
    for status in [500, 503] {
        let log = Log::new();
        let server = Server::new(&log)
            .charged()
            .xml(status, &busy_fault("1000"))
            .xml(200, &success());
        let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log));
        send(layer, &server, ews("CreateItem")).await.unwrap();
        let events = log.events();
        let first = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted).unwrap();
        let reported = first(&|event| matches!(event, Event::Reported(_)));
        let ended = first(&|event| *event == Event::EndPolled);
        let dropped = first(&|event| *event == Event::BodyDropped);
        let again = events
            .iter()
            .rposition(|event| *event == Event::Called)
            .unwrap();
        assert!(
            reported < ended && ended <= dropped && dropped < again,
            "{events:?}"
        );
        if status == 503 {
            assert!(
                reported < first(&|event| *event == Event::Frame),
                "with the head: {events:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_does_not_hold_makes_no_hot_loop() {
    let log = Log::new();
    let mut server = Server::new(&log).charged();
    for _ in 0..5 {
        server = server.xml(500, &busy_fault("1000"));
    }
    let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log));
    let response = send(layer, &server.xml(200, &success()), ews("CreateItem"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let calls = log.calls();
    assert_eq!(calls[1], Duration::ZERO);
    assert!(
        calls[1..]
            .windows(2)
            .all(|two| two[1] - two[0] >= millis(1_000)),
        "{calls:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_gate_the_call_waits_by_itself() {
    let connections = fault("ErrorExceededConnectionCount", "");
    let mailboxes = messages("GetItem", &[("Error", "ErrorTooManyObjectsOpened", "")]);
    for (status, body) in [(500, connections), (200, mailboxes)] {
        let log = Log::new();
        let mut server = Server::new(&log).charged();
        server.holds = true;
        for _ in 0..6 {
            server = server.xml(status, &body);
        }
        let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log));
        let response = send(layer, &server.xml(200, &success()), ews("CreateItem"))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(log.signals().len(), 6);
        assert!(
            log.calls().windows(2).all(|two| two[1] > two[0]),
            "{:?}",
            log.calls()
        );
    }
    // No receipt, nobody to be charged: the ledger cannot hold the call.
    let log = Log::new();
    let server = Server::new(&log)
        .xml(500, &busy_fault("1000"))
        .xml(200, &success());
    let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log));
    send(layer, &server, ews("CreateItem")).await.unwrap();
    assert_eq!((log.signals().len(), log.calls()[1]), (0, millis(1_000)));
}

#[tokio::test(start_paused = true)]
async fn layers_further_in_see_the_deadline_and_the_attempt() {
    let log = Log::new();
    let deadline = Deadline::within(Duration::from_secs(100));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut server = Server::new(&log);
    for _ in 0..2 {
        let (seen, busy) = (
            seen.clone(),
            http_response(503, &[], TestBody::new(&log, ["x"])),
        );
        server = server.step(move |request| async move {
            let trail = CallTrail::of(request.extensions()).cloned();
            trail
                .unwrap()
                .record(|attempt| attempt.be_server = Some("BE1".into()));
            seen.lock()
                .push(*request.extensions().get::<Deadline>().unwrap());
            Ok(busy)
        });
    }
    let trail = CallTrail::new();
    let mut request = ews("GetItem");
    request.extensions_mut().insert(trail.clone());
    let layer = ServerBusyBackoffLayer::ews().deadline(Duration::from_secs(100));
    send(layer, &server.xml(200, &success()), request)
        .await
        .unwrap();
    assert_eq!(*seen.lock(), [deadline, deadline]);
    let servers: Vec<_> = trail
        .attempts()
        .into_iter()
        .map(|attempt| attempt.be_server.is_some())
        .collect();
    assert_eq!(servers, [true, true, false]);
}

#[tokio::test(start_paused = true)]
async fn plain_http() {
    let post = || {
        Request::post("https://contoso.com/")
            .body(ReplayBody::empty())
            .unwrap()
    };
    let put = || {
        Request::put("https://contoso.com/")
            .body(ReplayBody::empty())
            .unwrap()
    };
    let log = Log::new();
    let server = Server::new(&log)
        .respond(429, &[("retry-after", "1.5")], "")
        .xml(200, &busy_fault("5"));
    let response = send(ServerBusyBackoffLayer::http(), &server, post())
        .await
        .unwrap();
    assert_eq!(
        (elapsed(), text(response).await),
        (millis(1_500), busy_fault("5"))
    );

    let log = Log::new();
    let server = Server::new(&log).fail(reset());
    let error = send(ServerBusyBackoffLayer::http(), &server, post())
        .await
        .unwrap_err();
    assert!(outcome_unknown(&error));
    let log = Log::new();
    let server = Server::new(&log).fail(reset()).respond(201, &[], "");
    let response = send(ServerBusyBackoffLayer::http(), &server, put())
        .await
        .unwrap();
    assert_eq!(response.status(), 201);
}

#[tokio::test(start_paused = true)]
async fn a_response_to_the_first_attempt_is_not_marked() {
    let log = Log::new();
    let server = Server::new(&log).xml(200, &success());
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
        .await
        .unwrap();
    assert!(response.extensions().get::<RetryInfo>().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_get_ready_was_sent_nothing() {
    #[derive(Clone)]
    struct Broken(Arc<Mutex<u32>>, Server);
    impl Service<Request<ReplayBody>> for Broken {
        type Response = Response<TestBody>;
        type Error = BoxError;
        type Future = Responding;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            let mut left = self.0.lock();
            if *left == 0 {
                return Poll::Ready(Ok(()));
            }
            *left -= 1;
            Poll::Ready(Err(reset().into()))
        }
        fn call(&mut self, request: Request<ReplayBody>) -> Responding {
            self.1.call(request)
        }
    }
    let log = Log::new();
    let broken = Broken(
        Arc::new(Mutex::new(2)),
        Server::new(&log).xml(200, &success()),
    );
    let response = ServerBusyBackoffLayer::ews()
        .layer(broken)
        .oneshot(ews("CreateItem"))
        .await
        .unwrap();
    assert_eq!(
        (info(&response).attempts, info(&response).outcome_unknown),
        (3, false)
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_on_after_a_call_was_dropped() {
    fn hang() -> impl Future<Output = Result<Response<TestBody>, BoxError>> {
        std::future::pending()
    }
    let log = Log::new();
    let endless = |status, piece: String| {
        http_response(status, &[XML], TestBody::new(&log, [piece]).endless())
    };
    let half = success()[..100].to_owned();
    let reading = endless(200, half);
    let draining = endless(503, String::new());
    let servers: [(&str, Server); 4] = [
        ("on its way", Server::new(&log).step(move |_| hang())),
        (
            "reading",
            Server::new(&log).step(move |_| async move { Ok(reading) }),
        ),
        (
            "keeping the refusal",
            Server::new(&log).step(move |_| async move { Ok(draining) }),
        ),
        ("waiting", Server::new(&log).xml(500, &busy_fault("60000"))),
    ];
    for (name, server) in servers {
        log.0.lock().clear();
        let layer =
            ServerBusyBackoffLayer::ews().backoff(Duration::from_secs(60), Duration::from_secs(60));
        let call = send(layer, &server, ews("CreateItem"));
        assert!(
            tokio::time::timeout(millis(200), call).await.is_err(),
            "{name}"
        );
        let events = log.events();
        let freed = |event| matches!(event, &Event::BodyDropped | &Event::CallDropped);
        assert_eq!(
            events.iter().filter(|event| freed(event)).count(),
            1,
            "{name}: {events:?}"
        );
        // One call too many would panic, here or in a task of its own.
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(log.events(), events, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn debug_output_has_no_secrets() {
    const CANARY: &str = "canary-5f1d";
    #[derive(Clone)]
    struct Secretive(Server, #[allow(dead_code)] &'static str);
    impl Service<Request<ReplayBody>> for Secretive {
        type Response = Response<TestBody>;
        type Error = BoxError;
        type Future = Responding;
        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            self.0.poll_ready(cx)
        }
        fn call(&mut self, request: Request<ReplayBody>) -> Responding {
            self.0.call(request)
        }
    }
    let mut printed = String::new();
    for server in [
        |log: &Log| Server::new(log).fail(reset()),
        |log: &Log| Server::new(log).fail(refused()),
        |log: &Log| Server::new(log).xml(200, &success()),
    ] {
        let log = Log::new();
        let layer = ServerBusyBackoffLayer::ews()
            .deadline(Duration::ZERO)
            .ledger(recorder(&log));
        let mut service = layer.layer(Secretive(server(&log), CANARY));
        printed += &format!("{layer:?}{service:?}");
        let mut request = ews(&format!("CreateItem Password='{CANARY}'"));
        request
            .headers_mut()
            .insert("authorization", CANARY.parse().unwrap());
        let call = service.call(request);
        printed += &format!("{call:?}");
        match call.await {
            Ok(response) => printed += &format!("{response:?}"),
            Err(error) => {
                printed += &format!("{error:?}{error}");
                let mut next = error.source();
                while let Some(error) = next {
                    printed += &format!("{error:?}{error}");
                    next = error.source();
                }
            }
        }
    }
    assert!(
        printed.contains("OutcomeUnknown") && printed.contains("DeadlinePassed"),
        "{printed}"
    );
    assert!(!printed.contains(CANARY), "{printed}");
}

#[test]
fn fits_into_applications() {
    fn check<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn future<T: Send + 'static>(_: &T) {}
    let log = Log::default();
    let mut service = ServerBusyBackoffLayer::ews().layer(Server::new(&log));
    check(&service);
    future(&service.call(ews("GetItem")));
    let boxed = tower::util::BoxCloneSyncService::new(service);
    check(&boxed);
    fn body<T: Send + Sync + 'static>() {}
    body::<PeekBody<http_body_util::Full<Bytes>>>();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_delays_no_refusal_for_long() {
    // The fault is read, though its connection stays open.
    let log = Log::new();
    let response = http_response(
        500,
        &[XML],
        TestBody::new(&log, [busy_fault("20000")]).endless(),
    );
    let server = Server::new(&log)
        .step(move |_| async move { Ok(response) })
        .xml(200, &success());
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem")).await;
    assert_eq!(response.unwrap().status(), 200);
    assert!(elapsed() < Duration::from_secs(32), "{:?}", elapsed());

    // A page that is only kept does not prolong the wait.
    let log = Log::new();
    let response = http_response(
        503,
        &[("retry-after", "5")],
        TestBody::new(&log, ["a"]).endless(),
    );
    let server = Server::new(&log)
        .step(move |_| async move { Ok(response) })
        .xml(200, &success());
    send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
        .await
        .unwrap();
    assert_eq!(elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn unknown_outcomes_of_earlier_attempts_stay_with_the_last_response() {
    for (operation, doubtful) in [("DeleteItem", true), ("GetItem", false)] {
        let log = Log::new();
        let server =
            Server::new(&log)
                .respond(502, &[], "")
                .respond(503, &[("retry-after", "9999")], "");
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews(operation))
            .await
            .unwrap();
        let info = info(&response);
        assert_eq!(
            (info.outcome_unknown, info.maybe_repeated),
            (doubtful, doubtful),
            "{operation}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_trail_tells_what_every_response_said() {
    let partly = [("Success", "NoError", ""), ("Error", "ErrorServerBusy", "")];
    type Script = fn(Server) -> Server;
    let steps: [(Script, &str); 4] = [
        (
            |server| server.respond(503, &[("retry-after", "9999")], ""),
            "503",
        ),
        (|server| server.fail(reset()), "response lost"),
        (|server| server.respond(502, &[], ""), "502"),
        (|server| server, "ErrorServerBusy"),
    ];
    for (step, signal) in steps {
        let log = Log::new();
        let server = step(Server::new(&log)).xml(200, &messages("CreateItem", &partly));
        let trail = CallTrail::new();
        let mut request = ews("CreateItem");
        request.extensions_mut().insert(trail.clone());
        let _ = send(ServerBusyBackoffLayer::ews(), &server, request).await;
        assert_eq!(trail.attempts()[0].signal.as_deref(), Some(signal));
        assert_eq!(log.calls().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn waits_after_refusals_grow_where_the_server_sets_none() {
    let log = Log::new();
    let mut server = Server::new(&log);
    for _ in 0..12 {
        server = server.xml(503, "");
    }
    let server = server.xml(200, &success());
    send(
        ServerBusyBackoffLayer::ews().seed(4),
        &server,
        ews("CreateItem"),
    )
    .await
    .unwrap();
    let calls = log.calls();
    let waits: Vec<_> = calls.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(
        waits[..3].iter().all(|wait| *wait <= millis(2_000)),
        "{waits:?}"
    );
    assert!(
        waits[7..].iter().any(|wait| *wait > millis(20_000)),
        "{waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn members_that_may_follow_a_refusal_are_not_created_twice() {
    let busy = ("Error", "ErrorServerBusy", &*back_off("100"));
    let mut all = vec![busy; 8_000];
    all.push(("Success", "NoError", ""));
    let partly = messages("CreateItem", &all);
    assert!(partly.len() > 2 * 1024 * 1024);
    let log = Log::new();
    let pieces: Vec<_> = partly
        .as_bytes()
        .chunks(9_000)
        .map(<[u8]>::to_vec)
        .collect();
    let response = http_response(200, &[XML], TestBody::new(&log, pieces));
    let server = Server::new(&log).step(move |_| async move { Ok(response) });
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
        .await
        .unwrap();
    assert!(text(response).await == partly);
}

#[tokio::test(start_paused = true)]
async fn the_ledger_holds_a_call_to_an_overloaded_endpoint_back() {
    let log = Log::new();
    let ledger = recorder(&log);
    let mut server = Server::new(&log)
        .charged()
        .respond(503, &[("retry-after", "30")], "")
        .xml(200, &success());
    server.gate = Some(ledger.clone());
    let layer = ServerBusyBackoffLayer::ews().ledger(ledger);
    let response = send(layer, &server, ews("CreateItem")).await.unwrap();
    assert_eq!(info(&response).backed_off, Duration::ZERO);
    assert_eq!(log.calls(), [Duration::ZERO, millis(30_300)]);
}

#[tokio::test(start_paused = true)]
async fn of_several_members_the_longest_wait_and_the_fewest_retries_count() {
    let waits = ["3000", "8000", "1000"].map(back_off);
    let members = waits
        .each_ref()
        .map(|wait| ("Error", "ErrorServerBusy", wait.as_str()));
    let log = Log::new();
    let server = Server::new(&log)
        .xml(200, &messages("CreateItem", &members))
        .xml(200, &success());
    send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
        .await
        .unwrap();
    assert_eq!(log.calls(), [Duration::ZERO, millis(8_000)]);

    let failed = [
        ("Error", "ErrorTimeoutExpired", ""),
        ("Error", "ErrorServerBusy", ""),
    ];
    let failed = messages("GetItem", &failed);
    let log = Log::new();
    let server = Server::new(&log).xml(200, &failed).xml(200, &failed);
    send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
        .await
        .unwrap();
    assert_eq!(log.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_front_end_is_retried_once() {
    let log = Log::new();
    let cas = [("x-caserrorcode", "CAS error: X")];
    let server = Server::new(&log)
        .respond(500, &cas, "")
        .respond(500, &cas, "");
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
        .await
        .unwrap();
    assert_eq!((response.status().as_u16(), log.calls().len()), (500, 2));
}

/// What is drawn is cut to what is left, at gates as well; what the server sets is not.
#[tokio::test(start_paused = true)]
async fn a_wait_that_was_drawn_gives_way_to_the_deadline() {
    let long = (Duration::from_secs(3600), Duration::from_secs(3600));
    let until = Duration::from_secs(30);
    type Case = (&'static str, fn(&Log) -> Server);
    let cases: [Case; 4] = [
        ("lost", |log| Server::new(log).fail(reset())),
        ("not sent", |log| Server::new(log).fail(refused())),
        ("503", |log| Server::new(log).xml(503, "")),
        ("busy", |log| Server::new(log).xml(500, &busy_fault("0"))),
    ];
    for (name, server) in cases {
        for with_ledger in [false, true] {
            let log = Log::new();
            let mut server = server(&log).xml(200, &success());
            let mut layer = ServerBusyBackoffLayer::ews()
                .backoff(long.0, long.1)
                .seed(7);
            if with_ledger {
                let ledger = recorder(&log);
                server.gate = Some(ledger.clone());
                server = server.charged();
                layer = layer.ledger(ledger);
            }
            let mut request = ews("GetItem");
            request.extensions_mut().insert(Deadline::within(until));
            let response = send(layer, &server, request).await.unwrap();
            assert_eq!(response.status(), 200, "{name}");
            assert_eq!(log.calls()[1], Duration::from_secs(29), "{name}");
        }
    }
    // The call ends at once, and says what the server said.
    let log = Log::new();
    let server = Server::new(&log).respond(503, &[("retry-after", "31")], "");
    let mut request = ews("GetItem");
    request.extensions_mut().insert(Deadline::within(until));
    let response = send(ServerBusyBackoffLayer::ews(), &server, request)
        .await
        .unwrap();
    assert_eq!((response.status().as_u16(), log.calls().len()), (503, 1));
    assert_eq!(elapsed(), Duration::ZERO);
    let info = info(&response);
    assert!(info.gave_up && info.retry_after == Some(Duration::from_secs(31)));
}
