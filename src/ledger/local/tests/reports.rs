//! Reports that come after the release, as with `release_on_headers`.

use super::*;

fn signals() -> [Signal; 7] {
    let until = Instant::now() + secs(300);
    [
        Signal::Busy { until },
        Signal::EndpointBusy { until },
        Signal::Accepted,
        Signal::Exceeded(Budget::Concurrency),
        Signal::Exceeded(Budget::OpenMailboxes),
        Signal::Exceeded(Budget::FindCount),
        Signal::Exceeded(Budget::SyncCalls),
    ]
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_an_hour_after_a_late_report() {
    for n in 0..signals().len() {
        let signal = signals()[n];
        let ledger = delegate(16, secs(300));
        for end in [End::Complete, End::Dropped, End::NotSent, End::NoResponse] {
            let request = opens("svc", "m").with_endpoint(host());
            let permit = try_now(&ledger, &request).unwrap();
            let admission = permit.admission().clone();
            let mut permit = permit;
            permit.set_end(end);
            drop(permit);
            // While something is known, and long after all is forgotten.
            ledger.report(&admission, signal);
            sleep(secs(7200)).await;
            ledger.report(&admission, signal);
            nothing_left(&ledger).await;
            ledger.report(&admission, signals()[n]);
            nothing_left(&ledger).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_report_counts() {
    let ledger = ledger(4);
    let request = draw("a").with_endpoint(host());
    let admission = try_now(&ledger, &request).unwrap().admission().clone();
    let until = Instant::now() + secs(300);
    ledger.report(&admission, Signal::Busy { until });
    assert!(try_now(&ledger, &draw("a")).is_none());
    let waiting = call(&ledger, draw("a"), secs(1));
    assert_eq!(waiting.await.unwrap().unwrap(), until);

    let until = Instant::now() + secs(300);
    ledger.report(&admission, Signal::EndpointBusy { until });
    assert!(try_now(&ledger, &draw("b").with_endpoint(host())).is_none());
    let waiting = call(&ledger, draw("b").with_endpoint(host()), secs(1));
    assert_eq!(waiting.await.unwrap().unwrap(), until);
    nothing_left(&ledger).await;
}

/// The fast path holds no clock: it must not keep what time alone has to end.
#[tokio::test(start_paused = true)]
async fn fast_calls_of_others_let_late_reports_be_forgotten() {
    let ledger = ledger(4);
    for n in 0..1_000 {
        let permit = try_now(&ledger, &draw(&n.to_string())).unwrap();
        let admission = permit.admission().clone();
        permit.complete();
        let until = Instant::now() + secs(1);
        ledger.report(&admission, Signal::Busy { until });
    }
    assert_eq!(ledger.state.lock().left().principals, 1_000);
    sleep(secs(3600)).await;
    for _ in 0..64 {
        try_now(&ledger, &draw("a")).unwrap().complete();
    }
    assert!(ledger.state.lock().left().principals <= 2);
}
