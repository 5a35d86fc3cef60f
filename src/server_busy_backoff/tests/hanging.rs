//! Attempts that hang: how long they may, and what follows.

use std::pin::pin;

use super::*;
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use crate::ledger::LocalLedger;
use crate::retry::Failure;
use crate::trail::PartOfBatch;

const TIMEOUT: Duration = Duration::from_secs(100);

impl Server {
    /// No response comes.
    fn hang(self) -> Self {
        self.step(|_| std::future::pending())
    }

    /// A response begins, and nothing more of it comes.
    fn stall(self, status: u16, text: &str) -> Self {
        let body = TestBody::new(&self.log, [text.to_owned()]).endless();
        let response = http_response(status, &[XML], body);
        self.step(move |_| async move { Ok(response) })
    }
}

fn chain(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_once_is_sent_again() {
    for stalls in [false, true] {
        for operation in ["GetItem", "DeleteItem"] {
            let log = Log::new();
            let server = match stalls {
                false => Server::new(&log).hang(),
                true => Server::new(&log).stall(200, &success()[..100]),
            };
            let server = server.xml(200, &success());
            let response = send(ServerBusyBackoffLayer::ews(), &server, ews(operation))
                .await
                .unwrap();
            let [first, second] = log.calls()[..] else {
                panic!("{:?}", log.calls());
            };
            assert_eq!(first, Duration::ZERO);
            assert!(second >= TIMEOUT && second <= TIMEOUT + millis(500));
            let info = info(&response);
            assert_eq!(info.signal.as_deref(), Some("attempt timed out"));
            assert_eq!(info.maybe_repeated, operation == "DeleteItem");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_on_to_hang_is_asked_three_times() {
    let log = Log::new();
    let server = Server::new(&log).hang().hang().hang();
    let begin = Instant::now();
    let error = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
        .await
        .unwrap_err();
    let exhausted: &BackoffError = error.downcast_ref().unwrap();
    assert!(matches!(
        exhausted,
        BackoffError::RetriesExhausted { attempts: 3, .. }
    ));
    assert!(chain(&error).contains("no response came within 1 min 40 s"));
    assert!(begin.elapsed() < 3 * TIMEOUT + Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_create_that_hangs_is_in_doubt_and_not_sent_again() {
    for (stalls, known) in [
        (false, "no response came within 1 min 40 s"),
        (
            true,
            "a response (HTTP 200) began and did not end within 1 min 40 s",
        ),
    ] {
        let log = Log::new();
        // What the server said before is known, too: it did not execute that attempt.
        let server = Server::new(&log).xml(500, &busy_fault("1000"));
        let server = match stalls {
            false => server.hang(),
            true => server.stall(200, &success()[..100]),
        };
        let begin = Instant::now();
        let error = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
            .await
            .unwrap_err();
        assert_eq!(log.calls().len(), 2);
        assert_eq!(begin.elapsed(), Duration::from_secs(101));
        let unknown: &BackoffError = error.downcast_ref().unwrap();
        assert!(matches!(unknown, BackoffError::OutcomeUnknown { .. }));
        assert!(chain(&error).contains(known), "{}", chain(&error));
        assert_eq!(Failure::of(&*error), Failure::Lost);
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_comes_first_if_it_is_nearer() {
    let log = Log::new();
    let server = Server::new(&log).hang().hang();
    let mut request = ews("GetItem");
    let deadline = Deadline::within(Duration::from_secs(150));
    request.extensions_mut().insert(deadline);
    let error = send(ServerBusyBackoffLayer::ews(), &server, request)
        .await
        .unwrap_err();
    assert_eq!(Instant::now(), deadline.0);
    assert!(matches!(
        error.downcast_ref(),
        Some(BackoffError::DeadlinePassed { attempts: 2, .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_whose_page_stalls_is_still_one() {
    let log = Log::new();
    let server = Server::new(&log).stall(503, "<html>").xml(200, &success());
    let layer = ServerBusyBackoffLayer::ews().attempt_timeout(Duration::from_secs(3));
    let response = send(layer, &server, ews("CreateItem")).await.unwrap();
    assert_eq!(text(response).await, success());
    assert!(log.calls()[1] < Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn large_uploads_and_streams_have_more_time() {
    // 100 s at 1 Mbit/s.
    let large = "x".repeat(100 * 128 * 1024);
    let slow = |log: &Log, seconds| {
        let body = TestBody::new(log, [success()]);
        let response = http_response(200, &[XML], body);
        Server::new(log).step(move |_| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(response)
        })
    };
    let log = Log::new();
    let mut upload = ews("CreateItem");
    *upload.body_mut() = ReplayBody::from(large);
    send(ServerBusyBackoffLayer::ews(), &slow(&log, 199), upload)
        .await
        .unwrap();
    let mut upload = ews("CreateItem");
    let length = (100 * 128 * 1024).into();
    upload.headers_mut().insert("content-length", length);
    send(ServerBusyBackoffLayer::http(), &slow(&log, 199), upload)
        .await
        .unwrap();
    let stream = ews("GetStreamingEvents");
    send(ServerBusyBackoffLayer::ews(), &slow(&log, 890), stream)
        .await
        .unwrap();
    // As long as the call may take.
    let layer = ServerBusyBackoffLayer::ews().attempt_timeout(Duration::MAX);
    send(layer, &slow(&log, 890), ews("CreateItem"))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_part_that_hangs_is_given_up_in_time() {
    for operation in ["GetItem", "CreateItem"] {
        let log = Log::new();
        let server = Server::new(&log).hang();
        let mut request = ews(operation);
        request.extensions_mut().insert(PartOfBatch);
        let error = send(ServerBusyBackoffLayer::ews(), &server, request)
            .await
            .unwrap_err();
        assert_eq!(elapsed(), TIMEOUT);
        assert_eq!(Failure::of(&*error), Failure::Lost);
    }
}

/// The time in the queue of the ledger does not count, with and without a ledger that both layers share.
#[tokio::test(start_paused = true)]
async fn an_attempt_begins_when_it_has_its_permit() {
    for shared in [false, true] {
        let ledger = Arc::new(LocalLedger::in_flight(1));
        let log = Log::new();
        let server = Server::new(&log).hang();
        let who = |_: &Request<ReplayBody>| Principal::account("svc@contoso.com");
        let charged = ConcurrencyByPrincipalLayer::new(ledger.clone(), who).layer(server);
        let layer = ServerBusyBackoffLayer::ews();
        let layer = match shared {
            true => layer.ledger(ledger.clone()),
            false => layer,
        };
        let service = layer.layer(charged);

        let request = AcquireRequest::new(Principal::account("svc@contoso.com"));
        let held = Permit::try_acquire(ledger.clone(), &request).unwrap();
        let begin = Instant::now();
        let call = tokio::spawn(service.oneshot(ews("CreateItem")));
        tokio::time::sleep(Duration::from_secs(500)).await;
        assert!(!call.is_finished());
        held.complete();
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(begin.elapsed(), Duration::from_secs(600), "{error:?}");
        assert!(matches!(
            error.downcast_ref(),
            Some(BackoffError::OutcomeUnknown { attempts: 1, .. })
        ));
    }
}

/// A ledger that admits everything, and writes down how it ends.
#[derive(Debug, Default)]
struct Ends(Mutex<Vec<End>>);

impl Ledger for Ends {
    fn acquire(self: Arc<Self>, request: AcquireRequest) -> Acquire {
        Box::pin(async move { Ok(Permit::new(self, Admission::new(request, 7, 9))) })
    }

    fn report(&self, _: &Admission, _: Signal) {}

    fn release(&self, _: &Admission, end: End) {
        self.0.lock().push(end);
    }
}

/// The server may still be at work on it, so its place is not free at once.
#[tokio::test(start_paused = true)]
async fn the_ledger_is_told_that_no_response_came() {
    let log = Log::new();
    let server = Server::new(&log).hang().xml(200, &success());
    let ledger = Arc::new(Ends::default());
    let who = |_: &Request<ReplayBody>| Principal::account("svc@contoso.com");
    let charged = ConcurrencyByPrincipalLayer::new(ledger.clone(), who).layer(server);
    let layer = ServerBusyBackoffLayer::ews().ledger(ledger.clone());
    let service = layer.layer(charged);
    let mut call = pin!(service.oneshot(ews("GetItem")));
    let at_the_end = tokio::time::timeout(TIMEOUT, call.as_mut()).await;
    assert!(at_the_end.is_err());
    assert_eq!(*ledger.0.lock(), [End::NoResponse]);
    drop(call.await.unwrap());
    assert_eq!(*ledger.0.lock(), [End::NoResponse, End::Complete]);
}

/// A client that does not get ready was sent nothing, however long that takes.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_slow_to_be_ready_has_its_time_afterwards() {
    #[derive(Clone)]
    struct Slow(Server, Instant);
    impl Service<Request<ReplayBody>> for Slow {
        type Response = Response<TestBody>;
        type Error = BoxError;
        type Future = Responding;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            if Instant::now() >= self.1 {
                return Poll::Ready(Ok(()));
            }
            let (waker, ready) = (cx.waker().clone(), self.1);
            tokio::spawn(async move {
                tokio::time::sleep_until(ready).await;
                waker.wake();
            });
            Poll::Pending
        }

        fn call(&mut self, request: Request<ReplayBody>) -> Responding {
            self.0.call(request)
        }
    }
    let log = Log::new();
    let ready = Instant::now() + Duration::from_secs(300);
    let client = Slow(Server::new(&log).xml(200, &success()), ready);
    let who = |_: &Request<ReplayBody>| Principal::account("svc@contoso.com");
    let charged = ConcurrencyByPrincipalLayer::in_flight(1, who).layer(client);
    let service = ServerBusyBackoffLayer::ews().layer(charged);
    service.oneshot(ews("CreateItem")).await.unwrap();
    assert_eq!(log.calls(), [Duration::from_secs(300)]);
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_response_has_settled_it_is_handed_on_though_the_rest_is_slow() {
    let log = Log::new();
    let whole = success();
    let (begun, _) = whole.rsplit_once("</s:Body>").unwrap();
    let server = Server::new(&log).stall(200, begun);
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"));
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(elapsed(), TIMEOUT);
}

/// Read by this layer or not.
#[tokio::test(start_paused = true)]
async fn a_stream_may_pause_for_as_long_as_it_likes() {
    for headers in [vec![XML], vec![XML, ("content-encoding", "br")]] {
        let log = Log::new();
        let body = TestBody::new(&log, [success()]).endless();
        let response = http_response(200, &headers, body);
        let server = Server::new(&log).step(move |_| async move { Ok(response) });
        // The caller decodes it.
        let mut request = ews("GetStreamingEvents");
        let br = ::http::HeaderValue::from_static("br");
        request.headers_mut().insert("accept-encoding", br);
        let call = send(ServerBusyBackoffLayer::ews(), &server, request);
        let mut body = call.await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        let more = tokio::time::timeout(Duration::from_secs(3_600), body.frame()).await;
        assert!(more.is_err(), "{headers:?}: {more:?}");
    }
}
