//! A ledger that somebody else wrote, whose back end is reached by messages and not always there.

mod remote_ledger;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use remote_ledger::{Backend, Limits, ONE_WAY, RemoteLedger};
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Deadline;
use tower_ews::ledger::{AcquireError, AcquireRequest, Contended, Ledger, Limit, Permit, Signal};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::{Budget, Charge, Charges, Principal};
use tower_ews::simulator::{Exchange, Fault};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn in_flight(limit: u32) -> Backend {
    Backend::spawn(Limits::new([(Budget::Concurrency, Limit::InFlight(limit))]))
}

fn amy() -> AcquireRequest {
    AcquireRequest::new(Principal::account("amy@contoso.com"))
}

async fn acquire(
    ledger: &Arc<RemoteLedger>,
    request: AcquireRequest,
) -> Result<Permit, AcquireError> {
    Permit::acquire(Arc::clone(ledger) as Arc<dyn Ledger>, request).await
}

/// Long enough for what was said to arrive.
async fn settle() {
    sleep(ONE_WAY * 4).await;
}

/// A call that the stack sends on as it is.
fn call() -> Request<String> {
    let text = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><m:GetFolder xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape><m:FolderIds><t:DistinguishedFolderId Id="inbox"/></m:FolderIds></m:GetFolder></s:Body></s:Envelope>"#;
    Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .body(text.into())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn calls_queue_by_ticket_and_each_message_takes_its_time() {
    let backend = in_flight(1);
    let ledger = backend.connect();
    let begin = Instant::now();
    let first = acquire(&ledger, amy()).await.unwrap();
    assert_eq!(begin.elapsed(), ONE_WAY * 2);
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let ticket = first.admission().ticket();
    let mut calls = Vec::new();
    for (number, ticket) in [(1, None), (2, None), (0, Some(ticket))] {
        let (ledger, order) = (Arc::clone(&ledger), Arc::clone(&order));
        calls.push(tokio::spawn(async move {
            let permit = acquire(&ledger, amy().with_ticket(ticket)).await.unwrap();
            order.lock().push((number, permit.admission().sequence()));
        }));
        settle().await;
    }
    assert_eq!(ledger.snapshot().queued, 3);
    drop(first);
    for call in calls {
        call.await.unwrap();
    }
    // The one that had been admitted before goes first.
    assert_eq!(*order.lock(), [(0, 1), (1, 2), (2, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_gate_is_opened_by_one_call_and_too_late_for_some() {
    let backend = in_flight(4);
    // What one process is told, the other goes by.
    let (ledger, other) = (backend.connect(), backend.connect());
    let endpoint: http::uri::Authority = "mail.contoso.com".parse().unwrap();
    for to_endpoint in [false, true] {
        let request = || amy().with_endpoint(endpoint.clone());
        let permit = acquire(&ledger, request()).await.unwrap();
        let until = Instant::now() + ms(10_000);
        permit.report(match to_endpoint {
            true => Signal::EndpointBusy { until },
            false => Signal::Busy { until },
        });
        drop(permit);
        settle().await;
        let early = request().with_deadline(until - ms(1_000));
        let error = acquire(&other, early).await.unwrap_err();
        let AcquireError::GateTooLate { contended, .. } = error else {
            panic!("{error}")
        };
        match to_endpoint {
            true => assert_eq!(contended, Contended::Endpoint(endpoint.clone())),
            false => assert_eq!(contended.principal().unwrap().name(), "amy@contoso.com"),
        }
        let snapshot = other.snapshot();
        assert_eq!(snapshot.gated_endpoints.len(), usize::from(to_endpoint));
        assert_eq!(snapshot.principals[0].gated.is_some(), !to_endpoint);

        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let (other, request) = (Arc::clone(&other), request());
                tokio::spawn(async move { acquire(&other, request).await.unwrap() })
            })
            .collect();
        sleep(ms(20_000)).await;
        assert_eq!(backend.look().await.admissions, 1, "one probe");
        let mut waiting = futures_util::stream::FuturesUnordered::from_iter(waiting);
        use futures_util::StreamExt;
        let probe = waiting.next().await.unwrap().unwrap();
        assert!(probe.admission().is_watched());
        probe.report(Signal::Accepted);
        settle().await;
        assert_eq!(backend.look().await.admissions, 3, "the probe and two more");
        drop(probe);
        while let Some(permit) = waiting.next().await {
            permit.unwrap().complete();
        }
        settle().await;
        assert_eq!(backend.look().await.admissions, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn waits_end_in_time_and_begin_in_time() {
    let backend = in_flight(1);
    let ledger = backend.connect();
    let held = acquire(&ledger, amy()).await.unwrap();
    let begin = Instant::now();
    let error = acquire(&ledger, amy().with_deadline(begin + ms(500))).await;
    let AcquireError::TimedOut { contended, waited } = error.unwrap_err() else {
        panic!("it waits for a budget")
    };
    assert_eq!(contended.budget(), Some(Budget::Concurrency));
    assert_eq!(begin.elapsed(), ms(500));
    assert!(waited <= ms(500) && waited >= ms(490));
    held.complete();
    let time = Instant::now() + ms(3_000);
    let late = amy().with_not_before(time);
    let in_vain = late.clone().with_deadline(time - ms(1));
    let error = acquire(&ledger, in_vain).await.unwrap_err();
    assert!(matches!(
        error,
        AcquireError::GateTooLate {
            contended: Contended::Time,
            ..
        }
    ));
    let permit = acquire(&ledger, late).await.unwrap();
    assert_eq!(Instant::now(), time + ONE_WAY);
    drop(permit);
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_split() {
    let kept = Budget::Custom(1);
    let backend = Backend::spawn(Limits::new([
        (Budget::Concurrency, Limit::InFlight(2)),
        (kept, Limit::InFlight(20)),
    ]));
    let ledger = backend.connect();
    let svc = Principal::account("svc");
    let charges: Charges = [
        Charge::new(svc.clone(), Budget::Concurrency, 1),
        Charge::new(svc, kept, 3),
    ]
    .into_iter()
    .collect();
    let mut call = acquire(&ledger, AcquireRequest::new(charges))
        .await
        .unwrap();
    let subscription = call.split(kept).unwrap();
    call.complete();
    settle().await;
    let held = |counts: remote_ledger::Counts| {
        let mut budgets = counts.accounts[0].1.budgets.clone();
        budgets.sort();
        budgets
            .into_iter()
            .map(|(_, used, _)| used)
            .collect::<Vec<_>>()
    };
    assert_eq!(held(backend.look().await), [0, 3]);
    drop(subscription);
    settle().await;
    assert_eq!(held(backend.look().await), [0, 0]);
    assert_eq!(backend.look().await.admissions, 0);
}

#[tokio::test(start_paused = true)]
async fn without_its_back_end_nothing_is_sent_and_with_it_things_go_on() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let client = tower::service_fn(move |_: Request<ReplayBody>| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok::<_, Infallible>(Response::new(String::from(
            "<Envelope><Body><GetFolderResponse><ResponseMessages>\
             <GetFolderResponseMessage ResponseClass='Success'><ResponseCode>NoError</ResponseCode></GetFolderResponseMessage>\
             </ResponseMessages></GetFolderResponse></Body></Envelope>",
        ))))
    });
    let policy = ThrottlingPolicy::exchange_online();
    let backend = Backend::spawn(Limits::of(&policy));
    let ledger = backend.connect();
    let service = EwsStack::new(policy).ledger(ledger.clone()).layer(client);
    drop(service.clone().oneshot(call()).await.unwrap());
    assert_eq!(sent.load(Ordering::Relaxed), 1);

    ledger.set_reachable(false);
    let error: BoxError = service.clone().oneshot(call()).await.unwrap_err();
    let mut causes = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| {
        error.source()
    });
    let unavailable = causes.find_map(|error| error.downcast_ref::<AcquireError>());
    let Some(AcquireError::Unavailable { source }) = unavailable else {
        panic!("{error}")
    };
    assert!(source.is::<std::io::Error>(), "{source}");
    assert_eq!(sent.load(Ordering::Relaxed), 1);

    ledger.set_reachable(true);
    drop(service.oneshot(call()).await.unwrap());
    assert_eq!(sent.load(Ordering::Relaxed), 2);
    settle().await;
    assert_eq!(backend.look().await.admissions, 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_when_the_back_end_goes_away_is_told_so_at_once() {
    let backend = in_flight(1);
    let ledger = backend.connect();
    let permit = acquire(&ledger, amy()).await.unwrap();
    let waiting = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move { acquire(&ledger, amy()).await }
    });
    settle().await;
    let begin = Instant::now();
    ledger.set_reachable(false);
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable { .. }), "{error}");
    // Neither blocks, and neither is lost.
    permit.report(Signal::Exceeded(Budget::Concurrency));
    drop(permit);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    sleep(ms(60_000)).await;
    let counts = backend.look().await;
    assert_eq!(
        (counts.held(), counts.queued),
        (1, 1),
        "it knows nothing yet"
    );

    ledger.set_reachable(true);
    settle().await;
    let counts = backend.look().await;
    assert_eq!((counts.held(), counts.queued, counts.admissions), (0, 0, 0));
    assert!(acquire(&ledger, amy()).await.is_ok());
}

/// One call through the stack, given up at a random moment.
async fn given_up(
    service: tower_ews::EwsService<Exchange>,
    stall_timeout: Duration,
    deadline: Duration,
) {
    let mut request = call();
    request.extensions_mut().insert(Deadline::within(deadline));
    let response = tokio::time::timeout(stall_timeout, service.oneshot(request)).await;
    if let Ok(Ok(response)) = response {
        let body = http_body_util::BodyExt::collect(response.into_body());
        drop(tokio::time::timeout(stall_timeout / 2, body).await);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_given_up_when_the_back_end_is_left_with_nothing() {
    let seed = std::env::var("EWS_TEST_SEED").ok();
    let first = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    for round in 0..30 {
        let seed = first.wrapping_add(round);
        println!("EWS_TEST_SEED={seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut policy = ThrottlingPolicy::exchange_online();
        policy
            .set_in_flight(Budget::Concurrency, rng.u32(1..5))
            .unwrap();
        let backend = Backend::spawn(Limits::of(&policy));
        let exchange = Exchange::builder().seed(seed).build();
        for _ in 0..rng.u8(0..4) {
            exchange.inject(Fault::ServerBusy {
                back_off: Some(ms(rng.u64(0..2_000))),
            });
        }
        let ledgers: Vec<_> = (0..2).map(|_| backend.connect()).collect();
        let services: Vec<_> = ledgers
            .iter()
            .map(|ledger| {
                let stack = EwsStack::new(policy.clone()).ledger(ledger.clone());
                stack.layer(exchange.clone())
            })
            .collect();
        let calls: Vec<_> = (0..60)
            .map(|_| {
                let service = services[rng.usize(0..2)].clone();
                let begin = ms(rng.u64(0..1_000));
                let stall_timeout = Duration::from_micros(rng.u64(0..3_000_000));
                let deadline = ms(rng.u64(0..10_000));
                tokio::spawn(async move {
                    sleep(begin).await;
                    given_up(service, stall_timeout, deadline).await;
                })
            })
            .collect();
        for _ in 0..rng.u8(0..4) {
            sleep(ms(rng.u64(0..400))).await;
            let ledger = &ledgers[rng.usize(0..2)];
            ledger.set_reachable(false);
            sleep(ms(rng.u64(0..400))).await;
            ledger.set_reachable(true);
        }
        for call in calls {
            call.await.unwrap();
        }
        settle().await;
        let counts = backend.look().await;
        assert_eq!(
            (counts.held(), counts.queued, counts.admissions),
            (0, 0, 0),
            "{counts:?}"
        );
        // All of it can be had again.
        let ledger = ledgers[0].clone();
        let mut permits = Vec::new();
        let limit = policy.in_flight(Budget::Concurrency).unwrap();
        let bob = || AcquireRequest::new(Principal::account("bob@contoso.com"));
        for _ in 0..limit {
            permits.push(acquire(&ledger, bob()).await.unwrap());
        }
        let one_more = bob().with_deadline(Instant::now() + ms(100));
        assert!(acquire(&ledger, one_more).await.is_err());
    }
}
