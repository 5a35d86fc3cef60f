//! Permits that are divided.

use super::*;

const KEPT: Budget = Budget::Custom(1);

fn with_kept(concurrency: u32) -> Arc<LocalLedger> {
    Arc::new(
        LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(concurrency))
            .budget(KEPT, Limit::InFlight(2))
            .build(),
    )
}

fn held(ledger: &LocalLedger, name: &str, budget: Budget) -> u32 {
    let snapshot = ledger.snapshot();
    let principals = snapshot.principals.iter();
    let budgets = principals
        .filter(|of_one| of_one.principal == of(name))
        .flat_map(|of_one| &of_one.budgets);
    budgets
        .filter(|of_one| of_one.budget == budget)
        .map(|of_one| of_one.held)
        .sum()
}

#[tokio::test(start_paused = true)]
async fn the_parts_are_released_separately() {
    let ledger = with_kept(1);
    let request = several([("a", Budget::Concurrency, 1), ("a", KEPT, 1)]);
    let mut permit = try_now(&ledger, &request).unwrap();
    assert!(permit.split(Budget::FindCount).is_none());
    let kept = permit.split(KEPT).unwrap();
    assert!(permit.split(KEPT).is_none());
    assert_eq!(
        (
            held(&ledger, "a", Budget::Concurrency),
            held(&ledger, "a", KEPT)
        ),
        (1, 1)
    );
    permit.complete();
    assert_eq!(
        (
            held(&ledger, "a", Budget::Concurrency),
            held(&ledger, "a", KEPT)
        ),
        (0, 1)
    );

    let mut permit = try_now(&ledger, &request).unwrap();
    let second = permit.split(KEPT).unwrap();
    drop(permit);
    // Whoever waits for what is kept is woken by its release.
    let waiting = call(&ledger, request.clone(), secs(1));
    sleep(secs(5)).await;
    let now = Instant::now();
    second.complete();
    assert_eq!(waiting.await.unwrap().unwrap(), now);
    drop(kept);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_divided_probe_counts_once() {
    let ledger = with_kept(10);
    let request = several([("a", Budget::Concurrency, 1), ("a", KEPT, 1)]);
    for kept_first in [false, true] {
        ledger.close_gate(&of("a"), Instant::now() + secs(1));
        sleep(secs(1)).await;
        let mut probe = try_now(&ledger, &request).unwrap();
        let kept = probe.split(KEPT).unwrap();
        let (first, second) = match kept_first {
            true => (kept, probe),
            false => (probe, kept),
        };
        first.report(Signal::Accepted);
        first.complete();
        second.report(Signal::Accepted);
        second.complete();
        let next: Vec<_> = std::iter::from_fn(|| try_now(&ledger, &draw("a"))).collect();
        assert_eq!(next.len(), 2);
        drop(next);
        sleep(secs(3600)).await;
    }
    nothing_left(&ledger).await;
}

/// What is left of the call stands for it, also towards a principal whose charges were all split off.
#[tokio::test(start_paused = true)]
async fn a_gate_hears_of_a_call_whose_charges_there_are_kept() {
    let ledger = with_kept(10);
    let request = several([("a", KEPT, 1), ("svc", Budget::Concurrency, 1)]);
    ledger.close_gate(&of("a"), Instant::now() + secs(1));
    sleep(secs(1)).await;
    let mut probe = try_now(&ledger, &request).unwrap();
    let kept = probe.split(KEPT).unwrap();
    let waiting = call(&ledger, draw("a"), secs(1));
    sleep(secs(5)).await;
    assert!(!waiting.is_finished());
    let now = Instant::now();
    probe.complete();
    assert_eq!(waiting.await.unwrap().unwrap(), now);
    drop(kept);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_but_what_is_kept() {
    let ledger = with_kept(10);
    let request = several([("a", KEPT, 1)]).with_endpoint(host());
    ledger.close_gate(&of("a"), Instant::now() + secs(1));
    ledger.close_endpoint_gate(&host(), Instant::now() + secs(1));
    sleep(secs(1)).await;
    let mut probe = try_now(&ledger, &request).unwrap();
    let kept = probe.split(KEPT).unwrap();
    assert!(probe.admission().charges().is_empty());
    assert!(try_now(&ledger, &request).is_none());
    drop(probe);
    assert!(try_now(&ledger, &request).is_some());
    // What is reported of the call speaks for those that it was charged to.
    let admission = kept.admission().clone();
    drop(kept);
    let until = Instant::now() + secs(5);
    ledger.report(&admission, Signal::Busy { until });
    assert!(try_now(&ledger, &draw("a")).is_none());
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_may_end_before_a_call_that_tests_gates() {
    let ledger = with_kept(10);
    let request = several([("a", Budget::Concurrency, 1), ("a", KEPT, 1)]).with_endpoint(host());
    ledger.close_gate(&of("a"), Instant::now() + secs(1));
    ledger.close_endpoint_gate(&host(), Instant::now() + secs(1));
    sleep(secs(1)).await;
    let mut probe = try_now(&ledger, &request).unwrap();
    probe.split(KEPT).unwrap().complete();
    assert!(try_now(&ledger, &draw("a")).is_none());
    assert!(try_now(&ledger, &draw("b").with_endpoint(host())).is_none());
    probe.complete();
    let next = [draw("a"), draw("b").with_endpoint(host())];
    assert!(next.iter().all(|next| try_now(&ledger, next).is_some()));
    nothing_left(&ledger).await;
}
