//! The layer's own gates, where no ledger that it knows holds calls back.

use super::*;
use crate::extensions::Caller;
use crate::ledger::{AcquireError, Contended};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A call of that account.
fn of(caller: &str) -> Request<ReplayBody> {
    let mut request = ews("CreateItem");
    request.extensions_mut().insert(Caller::new(caller));
    request
}

impl Server {
    /// Good responses that take a second each.
    fn good(mut self, calls: usize) -> Self {
        for _ in 0..calls {
            let response = http_response(200, &[XML], TestBody::new(&self.log, [success()]));
            self = self.step(move |_| async move {
                tokio::time::sleep(secs(1)).await;
                Ok(response)
            });
        }
        self
    }

    /// A response that comes after a delay in seconds.
    fn late(self, seconds: u64, status: u16, body: &str) -> Self {
        let response = http_response(status, &[XML], TestBody::new(&self.log, [body.to_owned()]));
        self.step(move |_| async move {
            tokio::time::sleep(secs(seconds)).await;
            Ok(response)
        })
    }
}

type Service = ServerBusyBackoff<Server, EwsClassifier>;

fn service(server: &Server) -> Service {
    ServerBusyBackoffLayer::ews().layer(server.clone())
}

fn spawn(service: &Service, request: Request<ReplayBody>) -> tokio::task::JoinHandle<Outcome> {
    tokio::spawn(service.clone().oneshot(request))
}

/// Makes a call that is refused at once. The server asks to wait that many seconds.
async fn lock_out(
    service: &Service,
    request: Request<ReplayBody>,
) -> tokio::task::JoinHandle<Outcome> {
    let call = spawn(service, request);
    tokio::time::sleep(millis(1)).await;
    call
}

/// The seconds at which calls were sent.
fn sent(log: &Log) -> Vec<u64> {
    log.calls().iter().map(Duration::as_secs).collect()
}

#[tokio::test(start_paused = true)]
async fn behind_a_closed_gate_calls_wait_and_one_goes_first() {
    let log = Log::new();
    let server = Server::new(&log).xml(500, &busy_fault("10000")).good(8);
    let service = service(&server);
    let first = lock_out(&service, of("amy")).await;
    let others: Vec<_> = (0..6).map(|_| spawn(&service, of("amy"))).collect();
    // Somebody else does not wait.
    service.clone().oneshot(of("bob")).await.unwrap();
    assert_eq!(elapsed(), millis(1_001));
    let response = first.await.unwrap().unwrap();
    assert_eq!(info(&response).backed_off, secs(10));
    for call in others {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(sent(&log), [0, 0, 10, 11, 11, 12, 12, 12, 12]);
}

#[tokio::test(start_paused = true)]
async fn a_longer_wait_is_never_shortened() {
    let log = Log::new();
    let server = Server::new(&log)
        .late(1, 500, &busy_fault("60000"))
        .late(2, 500, &busy_fault("10000"))
        .good(2);
    let service = service(&server);
    let calls = [of("amy"), of("amy")].map(|request| spawn(&service, request));
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(sent(&log), [0, 0, 61, 62]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_holds_up_nobody() {
    let log = Log::new();
    let server = Server::new(&log)
        .xml(500, &busy_fault("10000"))
        .step(|_| std::future::pending())
        .good(1);
    let service = service(&server);
    let refused = lock_out(&service, of("amy")).await;
    let [probe, patient] = [of("amy"), of("amy")].map(|request| spawn(&service, request));
    tokio::time::sleep(secs(5)).await;
    // It waits: the next one goes first instead.
    refused.abort();
    tokio::time::sleep(secs(15)).await;
    assert_eq!(sent(&log), [0, 10]);
    probe.abort();
    patient.await.unwrap().unwrap();
    assert_eq!(sent(&log), [0, 10, 20]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_refused_closes_the_gate_again() {
    let log = Log::new();
    let server = Server::new(&log)
        .xml(500, &busy_fault("10000"))
        .xml(
            200,
            &messages(
                "CreateItem",
                &[("Error", "ErrorServerBusy", &back_off("20000"))],
            ),
        )
        .good(3);
    let service = service(&server);
    let refused = lock_out(&service, of("amy")).await;
    let others = [of("amy"), of("amy")].map(|request| spawn(&service, request));
    refused.await.unwrap().unwrap();
    for call in others {
        call.await.unwrap().unwrap();
    }
    // The call that came first goes first again.
    assert_eq!(sent(&log), [0, 10, 30, 31, 31]);
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_endpoint_holds_everybody_back_from_it() {
    let log = Log::new();
    let server = Server::new(&log)
        .respond(503, &[("retry-after", "30")], "")
        .good(3);
    let service = service(&server);
    let refused = lock_out(&service, of("amy")).await;
    let bob = spawn(&service, of("bob"));
    let mut elsewhere = of("bob");
    *elsewhere.uri_mut() = "https://mail.fabrikam.com/EWS/Exchange.asmx"
        .parse()
        .unwrap();
    spawn(&service, elsewhere).await.unwrap().unwrap();
    refused.await.unwrap().unwrap();
    bob.await.unwrap().unwrap();
    assert_eq!(sent(&log), [0, 0, 30, 31]);
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_opens_too_late_ends_a_call_at_once() {
    let log = Log::new();
    let busy = busy_fault("10000");
    let again = busy_fault("60000");
    let server = Server::new(&log).xml(500, &busy).late(1, 500, &again);
    let service = service(&server);
    let mut first = of("amy");
    first.extensions_mut().insert(Deadline::within(secs(20)));
    let first = lock_out(&service, first).await;
    let patient = spawn(&service, of("amy"));
    // Of what was sent, the server's last response is the end.
    let response = first.await.unwrap().unwrap();
    assert_eq!(elapsed(), secs(11));
    assert!(info(&response).gave_up);
    assert_eq!(text(response).await, again);
    // Nothing was sent of this one.
    let mut late = of("amy");
    late.extensions_mut().insert(Deadline::within(secs(20)));
    let error = service.clone().oneshot(late).await.unwrap_err();
    assert_eq!(elapsed(), secs(11));
    let Some(BackoffError::NotSent {
        operation,
        at,
        closed_until: Some(until),
        source,
    }) = error.downcast_ref()
    else {
        panic!("{error:?}");
    };
    assert_eq!((&**operation, *at), ("CreateItem", Instant::now()));
    assert_eq!(*until - *at, with_margin(secs(60)));
    assert!(matches!(
        source.downcast_ref(),
        Some(AcquireError::GateTooLate { contended: Contended::Gate(who), .. }) if who.name() == "amy"
    ));
    assert_eq!(Failure::of(&*error), Failure::NotSent);
    assert_eq!(
        error.to_string(),
        "CreateItem was not sent, since the server asks to wait 1 min: see the source for the cause"
    );
    patient.abort();
    assert_eq!(sent(&log), [0, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_the_probe_waits_until_its_deadline() {
    let log = Log::new();
    let server = Server::new(&log)
        .xml(500, &busy_fault("10000"))
        .late(100, 200, &success());
    let service = service(&server);
    let probe = lock_out(&service, of("amy")).await;
    let mut next = of("amy");
    next.extensions_mut().insert(Deadline::within(secs(20)));
    let error = service.clone().oneshot(next).await.unwrap_err();
    assert_eq!(elapsed(), millis(20_001));
    let Some(BackoffError::NotSent {
        closed_until: None,
        source,
        ..
    }) = error.downcast_ref()
    else {
        panic!("{error:?}");
    };
    assert!(matches!(
        source.downcast_ref(),
        Some(AcquireError::TimedOut { .. })
    ));
    probe.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_by_itself_waits_at_a_gate_afterwards() {
    let log = Log::new();
    let connections = fault("ErrorExceededConnectionCount", "");
    let server = Server::new(&log)
        .xml(500, &connections)
        .late(1, 500, &busy_fault("100000"))
        .good(2);
    let layer = ServerBusyBackoffLayer::ews().backoff(secs(20), secs(20));
    let service = layer.seed(1).layer(server);
    let first = lock_out(&service, of("amy")).await;
    // Too many calls are no lock-out: nobody else waits for that.
    let second = spawn(&service, of("amy"));
    for call in [first, second] {
        call.await.unwrap().unwrap();
    }
    assert_eq!(sent(&log), [0, 0, 102, 103]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_end_of_a_long_body() {
    let log = Log::new();
    let long = format!("{}{}", success(), " ".repeat(100_000));
    let endless = http_response(200, &[XML], TestBody::new(&log, [long]).endless());
    let server = Server::new(&log)
        .xml(500, &busy_fault("10000"))
        .step(move |_| async move { Ok(endless) })
        .good(1);
    let service = service(&server);
    let long = lock_out(&service, of("amy")).await;
    let next = spawn(&service, of("amy"));
    let _unread = long.await.unwrap().unwrap();
    next.await.unwrap().unwrap();
    assert_eq!(sent(&log), [0, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn what_a_long_body_says_late_closes_the_gate() {
    let log = Log::new();
    let busy = back_off("30000");
    let mut all = vec![("Success", "NoError", "<m:Items/>"); 2_000];
    all.push(("Error", "ErrorServerBusy", &busy));
    let whole = messages("CreateItem", &all);
    let pieces: Vec<_> = whole.as_bytes().chunks(9_000).map(<[u8]>::to_vec).collect();
    let long = http_response(200, &[XML], TestBody::new(&log, pieces));
    let server = Server::new(&log)
        .step(move |_| async move { Ok(long) })
        .good(2);
    let service = service(&server);
    let response = service.clone().oneshot(of("amy")).await.unwrap();
    service.clone().oneshot(of("amy")).await.unwrap();
    assert_eq!(text(response).await, whole);
    service.clone().oneshot(of("amy")).await.unwrap();
    assert_eq!(sent(&log), [0, 0, 31]);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_the_call_was_not_charged_to_holds_nothing_back() {
    let log = Log::new();
    let other = recorder(&Log::default());
    // Its calls are charged, but to a ledger of its own.
    let server = Server::new(&log)
        .charged()
        .xml(500, &busy_fault("10000"))
        .good(3);
    let service = ServerBusyBackoffLayer::ews()
        .ledger(other.clone())
        .layer(server);
    let ledger: Arc<dyn Ledger> = other.clone();
    assert!(!Arc::ptr_eq(&ledger, &(recorder(&log) as Arc<dyn Ledger>)));
    let first = lock_out(&service, of("amy")).await;
    let next = spawn(&service, of("amy"));
    for call in [first, next] {
        call.await.unwrap().unwrap();
    }
    assert_eq!(sent(&log), [0, 10, 11]);
    assert_eq!((other.log.signals(), log.signals()), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn all_services_of_a_layer_share_its_gates() {
    let log = Log::new();
    let server = Server::new(&log).xml(500, &busy_fault("10000")).good(2);
    let layer = ServerBusyBackoffLayer::ews();
    let one = lock_out(&layer.layer(server.clone()), of("amy")).await;
    let trail = CallTrail::new();
    let mut waits = of("amy");
    waits.extensions_mut().insert(trail.clone());
    let other = spawn(&layer.clone().layer(server), waits);
    for call in [one, other] {
        call.await.unwrap().unwrap();
    }
    // Nothing of it had been sent: it was in a queue.
    let attempt = trail.attempts().remove(0);
    assert_eq!(
        (attempt.queued, attempt.backed_off),
        (millis(10_999), Duration::ZERO)
    );
    assert_eq!(attempt.waiting_since, None);
    assert_eq!(sent(&log), [0, 10, 11]);
}

#[tokio::test(start_paused = true)]
async fn plain_http_is_gated_by_authority() {
    let log = Log::new();
    let server = Server::new(&log)
        .respond(429, &[("retry-after", "5")], "")
        .good(3);
    let service = ServerBusyBackoffLayer::http().layer(server);
    let get = |uri: &str| {
        let request = Request::get(uri).body(ReplayBody::empty()).unwrap();
        tokio::spawn(service.clone().oneshot(request))
    };
    let refused = get("https://graph.microsoft.com/v1.0/me");
    tokio::time::sleep(millis(1)).await;
    let same = get("https://graph.microsoft.com/v1.0/users");
    let other = get("https://api.contoso.com/");
    for call in [refused, same, other] {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(sent(&log), [0, 0, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_past_sends_nothing() {
    let log = Log::new();
    let deadline = Deadline::within(secs(1));
    tokio::time::sleep(secs(3)).await;
    for ledger in [false, true] {
        let mut layer = ServerBusyBackoffLayer::ews();
        if ledger {
            layer = layer.ledger(recorder(&log));
        }
        let mut request = of("amy");
        request.extensions_mut().insert(deadline);
        let error = send(layer, &Server::new(&log), request).await.unwrap_err();
        let Some(BackoffError::NotSent {
            at,
            closed_until: None,
            source,
            ..
        }) = error.downcast_ref()
        else {
            panic!("{error:?}");
        };
        assert_eq!(*at, Instant::now());
        assert_eq!(
            source.downcast_ref::<DeadlineElapsed>().unwrap().late(),
            secs(2)
        );
        assert_eq!(Failure::of(&*error), Failure::NotSent);
    }
    assert_eq!(log.events(), []);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_rest_of_a_refusal() {
    let log = Log::new();
    let endless = TestBody::new(&log, ["a"]).endless();
    let endless = http_response(429, &[("retry-after", "0.5")], endless);
    let server = Server::new(&log)
        .xml(500, &busy_fault("10000"))
        .step(move |_| async move { Ok(endless) })
        .good(3);
    let service = service(&server);
    let refused = lock_out(&service, of("amy")).await;
    let others = [of("amy"), of("amy")].map(|request| spawn(&service, request));
    refused.await.unwrap().unwrap();
    for call in others {
        call.await.unwrap().unwrap();
    }
    // The refused call still reads when the gate opens.
    assert_eq!(log.calls()[2], secs(10) + millis(500));
}
