//! Calls that are more urgent than others.

use super::*;
use crate::extensions::Priority;

fn urgent(name: &str, priority: Priority) -> AcquireRequest {
    draw(name).with_priority(priority)
}

async fn waited(
    call: tokio::task::JoinHandle<Result<Instant, AcquireError>>,
    from: Instant,
) -> Duration {
    call.await.unwrap().unwrap() - from
}

#[tokio::test(start_paused = true)]
async fn one_interactive_call_waits_for_a_service_time_behind_any_number_of_others() {
    let ledger = ledger(27);
    let time = Duration::from_millis(400);
    for _ in 0..60_000 {
        call(&ledger, urgent("svc", Priority::Bulk), time);
    }
    sleep(secs(10)).await;
    for _ in 0..20 {
        sleep(Duration::from_millis(170)).await;
        let now = Instant::now();
        let interactive = call(&ledger, urgent("svc", Priority::Interactive), time);
        let waited = waited(interactive, now).await;
        assert!(waited <= time, "{waited:?}");
    }
    let queued = ledger.snapshot().queued;
    assert!((57_000..60_000).contains(&queued), "{queued}");
}

#[tokio::test(start_paused = true)]
async fn the_more_urgent_goes_first() {
    use Priority::{Bulk, Interactive, Normal};
    let ledger = ledger(1);
    let start = Instant::now();
    let first = call(&ledger, urgent("a", Bulk), secs(1));
    tokio::task::yield_now().await;
    let mut calls = Vec::new();
    for (priority, turn) in [
        (Bulk, 5),
        (Normal, 3),
        (Interactive, 1),
        (Bulk, 6),
        (Normal, 4),
        (Interactive, 2),
    ] {
        calls.push((call(&ledger, urgent("a", priority), secs(1)), turn));
        tokio::task::yield_now().await;
    }
    assert_eq!(waited(first, start).await, secs(0));
    for (call, turn) in calls {
        assert_eq!(waited(call, start).await, secs(turn));
    }
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_free_place_goes_to_the_urgent_call_though_others_wait() {
    let ledger = ledger(4);
    let held = try_now(&ledger, &weighted("a", 3)).unwrap();
    let large = call(
        &ledger,
        weighted("a", 2).with_priority(Priority::Bulk),
        secs(1),
    );
    tokio::task::yield_now().await;
    assert!(try_now(&ledger, &draw("a").with_priority(Priority::Bulk)).is_none());
    drop(try_now(&ledger, &urgent("a", Priority::Interactive)).unwrap());
    let now = Instant::now();
    drop(held);
    assert_eq!(waited(large, now).await, secs(0));
    nothing_left(&ledger).await;
}

/// More urgent calls come than can run, for an hour: each five minutes one other call goes, the one that came first.
#[tokio::test(start_paused = true)]
async fn the_less_urgent_ones_do_not_starve() {
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(1))
        .max_wait(secs(3600))
        .build();
    let ledger = Arc::new(ledger);
    let start = Instant::now();
    let urgent_ones = tokio::spawn({
        let ledger = ledger.clone();
        async move {
            for _ in 0..3_600 {
                call(
                    &ledger,
                    urgent("a", Priority::Interactive),
                    Duration::from_millis(1_100),
                );
                sleep(secs(1)).await;
            }
        }
    });
    sleep(secs(1)).await;
    let mut others = Vec::new();
    for priority in [Priority::Bulk, Priority::Normal, Priority::Bulk] {
        others.push(call(&ledger, urgent("a", priority), secs(1)));
        tokio::task::yield_now().await;
    }
    for (turn, call) in (1..).zip(others) {
        let waited = waited(call, start).await;
        let bound = secs(300 * turn)..secs(300 * turn + 5);
        assert!(bound.contains(&waited), "{waited:?}");
    }
    urgent_ones.abort();
    nothing_left(&ledger).await;
}

/// Time alone counts, and not which of them came first.
#[tokio::test(start_paused = true)]
async fn a_less_urgent_call_has_its_turn_though_a_more_urgent_one_waits_for_longer() {
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(1))
        .max_wait(secs(3600))
        .build();
    let ledger = Arc::new(ledger);
    let start = Instant::now();
    let held = try_now(&ledger, &draw("a")).unwrap();
    let mut calls = Vec::new();
    for priority in [Priority::Normal, Priority::Bulk, Priority::Normal] {
        calls.push(call(&ledger, urgent("a", priority), secs(1)));
        sleep(secs(1)).await;
    }
    sleep(secs(300)).await;
    drop(held);
    for (call, turn) in calls.into_iter().zip([1, 0, 2]) {
        assert_eq!(waited(call, start).await, secs(303 + turn), "{turn}");
    }
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_reserve_is_left_to_interactive_calls() {
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(4))
        .budget(Budget::Requests, Limit::per_window(10, secs(10)))
        .reserve(Budget::Concurrency, 9)
        .reserve(Budget::Concurrency, 1)
        .reserve(Budget::Requests, 4)
        .build();
    let ledger = Arc::new(ledger);
    let bulk = urgent("a", Priority::Bulk);
    let mut held: Vec<_> = (0..4).filter_map(|_| try_now(&ledger, &bulk)).collect();
    assert_eq!(held.len(), 3);
    assert!(try_now(&ledger, &draw("a")).is_none());
    let waiting = call(&ledger, bulk.clone(), secs(1));
    tokio::task::yield_now().await;
    let interactive = try_now(&ledger, &urgent("a", Priority::Interactive)).unwrap();
    // What an interactive call gives back is for the next one of its kind.
    drop(interactive);
    sleep(secs(1)).await;
    assert!(!waiting.is_finished());
    held.pop();
    waiting.await.unwrap().unwrap();
    drop(held);
    // Where there is no more than the reserve, others run alone.
    ledger.set_limit(&of("a"), Budget::Concurrency, 1).unwrap();
    drop(try_now(&ledger, &bulk).unwrap());
    ledger
        .set_limit(&of("a"), Budget::Concurrency, None)
        .unwrap();

    let start = Instant::now();
    let requests = |amount| several([("b", Budget::Requests, amount)]);
    drop(try_now(&ledger, &requests(6)).unwrap());
    assert!(try_now(&ledger, &requests(1)).is_none());
    drop(try_now(&ledger, &requests(4).with_priority(Priority::Interactive)).unwrap());
    let waiting = call(&ledger, requests(1), Duration::ZERO);
    assert_eq!(waited(waiting, start).await, secs(5));
    // More than can ever be beside the reserve goes when the bucket is full.
    let waiting = call(&ledger, requests(10), Duration::ZERO);
    assert_eq!(waited(waiting, start).await, secs(11));
    nothing_left(&ledger).await;
}
