//! Times: not before one, and those at the end of what a clock can name.

use super::*;

#[tokio::test(start_paused = true)]
async fn for_ever_is_a_bound_too() {
    let open = Limit::Distinct {
        limit: 1,
        idle: Duration::MAX,
    };
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(27))
        .budget(Budget::OpenMailboxes, open)
        .max_wait(Duration::MAX)
        .max_overtake(Duration::MAX)
        .build();
    let ledger = Arc::new(ledger);
    let first = ledger.clone().acquire(opens("svc", "a")).await.unwrap();
    let second = opens("svc", "b").with_deadline(Instant::now() + secs(10));
    first.report(Signal::Exceeded(Budget::OpenMailboxes));
    first.complete();
    assert!(ledger.clone().acquire(second).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn hints_at_the_end_of_time_harm_nothing() {
    for until in [end_of_time(), end_of_time() - Duration::from_micros(1)] {
        let open = Limit::Distinct {
            limit: 2,
            idle: Duration::MAX,
        };
        let ledger = LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(2))
            .budget(Budget::OpenMailboxes, open)
            .max_wait(Duration::MAX)
            .max_overtake(Duration::MAX)
            .build();
        let ledger = Arc::new(ledger);
        let request = opens("svc", "m").with_endpoint(host());
        let held = try_now(&ledger, &request).unwrap();
        held.report(Signal::Exceeded(Budget::Concurrency));
        held.report(Signal::Exceeded(Budget::OpenMailboxes));
        let admission = held.admission().clone();
        let patient = request.clone().with_deadline(until);
        // One waits for what is held when the gates close, one is to wait for ever, two more come later.
        let mut waiting = vec![parked(&ledger, opens("svc", "n").with_deadline(until))];
        let late = ledger
            .clone()
            .acquire(patient.clone().with_not_before(until))
            .await;
        assert!(matches!(late, Err(AcquireError::GateTooLate { .. })));
        held.report(Signal::Busy { until });
        held.report(Signal::EndpointBusy { until });
        held.complete();
        ledger.report(&admission, Signal::Busy { until });
        ledger.close_gate(&of("a"), until);
        ledger.close_endpoint_gate(&Authority::from_static("elsewhere"), until);
        for request in [patient.clone(), patient, draw("a")] {
            let late = ledger.clone().acquire(request).await;
            assert!(
                matches!(late, Err(AcquireError::GateTooLate { .. })),
                "{late:?}"
            );
        }
        assert!(poll_once(&mut waiting[0]).is_ready());
        waiting.clear();
        let snapshot = ledger.snapshot();
        assert_eq!(snapshot.gated_endpoints.len(), 2);
        sleep(secs(30 * 86_400)).await;
        assert!(try_now(&ledger, &draw("a")).is_none());
        assert!(try_now(&ledger, &draw("b")).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_its_time_with_its_ticket() {
    let ledger = ledger(1);
    let start = Instant::now();
    let first = try_now(&ledger, &draw("a")).unwrap();
    let ticket = first.admission().ticket();
    drop(first);
    let again = draw("a")
        .with_ticket(ticket)
        .with_not_before(start + secs(10));
    assert!(try_now(&ledger, &again).is_none());
    let again = call(&ledger, again, secs(1));
    tokio::task::yield_now().await;
    // It holds back nobody.
    let others: Vec<_> = (0..20).map(|_| call(&ledger, draw("a"), secs(1))).collect();
    assert_eq!(again.await.unwrap().unwrap(), start + secs(10));
    let mut began: Vec<_> = Vec::new();
    for other in others {
        began.push((other.await.unwrap().unwrap() - start).as_secs());
    }
    assert!(began.iter().copied().eq((0..10).chain(11..21)), "{began:?}");
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_before_its_time_is_an_error_at_once() {
    let ledger = ledger(1);
    let now = Instant::now();
    let hurried = draw("a")
        .with_not_before(now + secs(10))
        .with_deadline(now + secs(9));
    let error = ledger.clone().acquire(hurried).await.unwrap_err();
    assert!(
        matches!(&error, AcquireError::GateTooLate { wait, .. } if *wait == secs(10)),
        "{error:?}"
    );
    assert_eq!(Instant::now(), now);
    nothing_left_now(&ledger);
    // One that is not polled while it waits for its time holds back nobody either.
    let idle = parked(&ledger, draw("a").with_not_before(now + secs(10)));
    sleep(secs(20)).await;
    assert!(try_now(&ledger, &draw("a")).is_some());
    drop(idle);
    nothing_left(&ledger).await;
}

/// Neither does it keep a mailbox open while it waits.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_time_keeps_no_value() {
    let ledger = delegate(1, secs(3600));
    let start = Instant::now();
    try_now(&ledger, &opens("svc", "m")).unwrap().complete();
    let later = opens("svc", "m").with_not_before(start + secs(3000));
    let later = call(&ledger, later, secs(1));
    let other = call(&ledger, opens("svc", "n"), secs(1));
    assert_eq!(other.await.unwrap().unwrap(), start + secs(300));
    assert_eq!(later.await.unwrap().unwrap(), start + secs(3000));
    nothing_left(&ledger).await;
}
