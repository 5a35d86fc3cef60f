//! Calls that stand in the queue and are not polled: they hold up nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::*;

/// `unpolled` calls, each polled once and never again, and one behind them. How long that waits once the place is free.
async fn behind(unpolled: usize, request: AcquireRequest, ledger: &Arc<LocalLedger>) -> Duration {
    let held = try_now(ledger, &request).unwrap();
    let idle: Vec<_> = (0..unpolled)
        .map(|_| parked(ledger, request.clone()))
        .collect();
    let last = call(ledger, request, secs(1));
    sleep(secs(1)).await;
    let now = Instant::now();
    held.complete();
    let began = last.await.unwrap().unwrap();
    drop(idle);
    began - now
}

/// Whether a call waited no longer than a second for the first that is not polled, and half as long for each that follows.
fn in_time(waited: Duration, unpolled: usize) -> Result<(), String> {
    let halves = (0..unpolled.min(10)).map(|n| secs(1) / (1 << n));
    let most = halves.sum::<Duration>() + Duration::from_millis(2 * unpolled.min(64) as u64);
    match waited <= most {
        true => Ok(()),
        false => Err(format!("{waited:?} behind {unpolled}")),
    }
}

#[tokio::test(start_paused = true)]
async fn all_of_them_hold_up_the_one_behind_them_for_two_seconds() {
    for unpolled in [1, 2, 4, 5, 20, 100, 3_000] {
        let ledger = ledger(1);
        let waited = behind(unpolled, draw("a"), &ledger).await;
        assert_eq!(in_time(waited, unpolled), Ok(()));
        nothing_left(&ledger).await;
    }
}

/// The runtime was busy when the gate opened.
#[tokio::test(start_paused = true)]
async fn behind_a_gate_that_opened_a_while_ago_too() {
    let ledger = ledger(1);
    ledger.close_gate(&of("a"), Instant::now() + secs(60));
    let idle: Vec<_> = (0..6).map(|_| parked(&ledger, draw("a"))).collect();
    let last = call(&ledger, draw("a"), secs(1));
    tokio::task::yield_now().await;
    tokio::time::advance(secs(61)).await;
    let now = Instant::now();
    let waited = last.await.unwrap().unwrap() - now;
    assert_eq!(in_time(waited, idle.len()), Ok(()));
    drop(idle);
    nothing_left(&ledger).await;
}

/// Where turns were missed, what another call gives back is not held for a second again.
#[tokio::test(start_paused = true)]
async fn what_is_given_back_meanwhile_goes_on_as_fast() {
    let ledger = ledger(2);
    let [one, other] = [(); 2].map(|()| try_now(&ledger, &draw("a")).unwrap());
    let idle: Vec<_> = (0..40).map(|_| parked(&ledger, draw("a"))).collect();
    let last = [(); 2].map(|()| call(&ledger, draw("a"), secs(60)));
    sleep(secs(1)).await;
    let now = Instant::now();
    one.complete();
    sleep(Duration::from_millis(1_900)).await;
    other.complete();
    for call in last {
        let waited = call.await.unwrap().unwrap() - now;
        assert_eq!(in_time(waited, idle.len()), Ok(()));
    }
    drop(idle);
    nothing_left(&ledger).await;
}

/// So many principals that what is due at the same time is taken back in portions, and never enough calls that wait for a keeper.
#[tokio::test(start_paused = true)]
async fn those_of_other_principals_hold_up_nobody() {
    let ledger = ledger(1);
    let mut idle = Vec::new();
    for number in 0..300 {
        let request = draw(&number.to_string());
        let held = try_now(&ledger, &request).unwrap();
        idle.push(parked(&ledger, request));
        held.complete();
    }
    let now = Instant::now();
    let last = call(&ledger, draw("299"), secs(1));
    let waited = last.await.unwrap().unwrap() - now;
    assert_eq!(in_time(waited, 1), Ok(()));
    drop(idle);
    nothing_left(&ledger).await;
}

/// A value that an unpolled call would have opened is not open.
#[tokio::test(start_paused = true)]
async fn values_of_calls_that_were_never_sent_are_free_at_once() {
    let ledger = delegate(1, secs(300));
    let held = try_now(&ledger, &opens("svc", "m")).unwrap();
    let idle = parked(&ledger, opens("svc", "n"));
    let last = call(&ledger, opens("svc", "o"), secs(1));
    held.complete();
    let now = Instant::now();
    let began = last.await.unwrap().unwrap();
    // Until m has closed, and a second.
    assert_eq!(began - now, secs(301));
    drop(idle);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn behind_a_gate_too() {
    for unpolled in [1, 4, 5, 20, 3_000] {
        let ledger = ledger(10);
        // Not in whole seconds, in which the keeper looks anyway.
        let until = Instant::now() + Duration::from_millis(10_300);
        ledger.close_gate(&of("a"), until);
        let idle: Vec<_> = (0..unpolled).map(|_| parked(&ledger, draw("a"))).collect();
        let last = call(&ledger, draw("a"), secs(1));
        let waited = last.await.unwrap().unwrap() - until;
        assert_eq!(in_time(waited, unpolled), Ok(()));
        drop(idle);
        nothing_left(&ledger).await;
    }
}

#[tokio::test(start_paused = true)]
async fn and_behind_the_gate_of_an_endpoint() {
    let ledger = ledger(10);
    let until = Instant::now() + secs(10);
    ledger.close_endpoint_gate(&host(), until);
    let to = |name: &str| draw(name).with_endpoint(host());
    let idle: Vec<_> = (0..20)
        .map(|n| parked(&ledger, to(&n.to_string())))
        .collect();
    let last = call(&ledger, to("a"), secs(1));
    let waited = last.await.unwrap().unwrap() - until;
    assert_eq!(in_time(waited, 20), Ok(()));
    drop(idle);
    nothing_left(&ledger).await;
}

/// Behind an opened gate one call goes first, also once nobody's turn is held any more.
#[tokio::test(start_paused = true)]
async fn one_probe_leaves_behind_those_that_are_not_polled() {
    let ledger = ledger(10);
    let until = Instant::now() + secs(10);
    ledger.close_gate(&of("a"), until);
    let idle: Vec<_> = (0..20).map(|_| parked(&ledger, draw("a"))).collect();
    let calls: Vec<_> = (0..15).map(|_| call(&ledger, draw("a"), secs(5))).collect();
    let mut began = Vec::new();
    for call in calls {
        began.push((call.await.unwrap().unwrap() - until).as_secs());
    }
    // In the order in which they came, a probe, and two more with each good response.
    let rounds = [2, 7, 7, 12, 12, 12, 12, 17, 17, 17, 17, 17, 17, 17, 17];
    assert_eq!(began, rounds);
    drop(idle);
    nothing_left(&ledger).await;
}

/// A turn that is held for a shorter time goes on before one that was handed out earlier and is held for longer.
#[tokio::test(start_paused = true)]
async fn each_turn_goes_on_when_its_own_time_is_over() {
    let ledger = ledger(1);
    let begin = |name: &str, unpolled: usize| {
        let held = try_now(&ledger, &draw(name)).unwrap();
        let idle: Vec<_> = (0..unpolled).map(|_| parked(&ledger, draw(name))).collect();
        (held, idle, call(&ledger, draw(name), secs(1)))
    };
    let (held_a, _idle_a, last_a) = begin("a", 3);
    let (held_b, _idle_b, last_b) = begin("b", 2);
    tokio::task::yield_now().await;
    let start = Instant::now();
    held_a.complete();
    sleep(Duration::from_millis(300)).await;
    held_b.complete();
    let waited = [last_a, last_b].map(|last| async { last.await.unwrap().unwrap() - start });
    for (waited, millis) in waited.into_iter().zip([1_750, 1_800]) {
        let over = waited.await.checked_sub(Duration::from_millis(millis));
        assert!(
            over.is_some_and(|over| over <= Duration::from_millis(5)),
            "{over:?} after {millis}"
        );
    }
}

/// Somebody is polled: from there on each turn is held for a second again.
#[tokio::test(start_paused = true)]
async fn a_turn_is_held_again_once_somebody_is_polled() {
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    let idle = parked(&ledger, draw("a"));
    let second = call(&ledger, draw("a"), secs(10));
    tokio::task::yield_now().await;
    let mut late = parked(&ledger, draw("a"));
    let last = call(&ledger, draw("a"), secs(10));
    tokio::task::yield_now().await;
    let start = Instant::now();
    held.complete();
    assert_eq!(second.await.unwrap().unwrap(), start + secs(1));
    // Longer than after one that was missed.
    sleep(Duration::from_millis(700)).await;
    assert!(poll_once(&mut late).is_ready());
    assert!(last.await.unwrap().is_ok());
    drop(idle);
    nothing_left(&ledger).await;
}

/// A call is woken for a turn that it does not get: it keeps its place, and nobody's bound is passed.
#[tokio::test(start_paused = true)]
async fn those_that_come_too_late_stand_where_they_stood() {
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    let idle = parked(&ledger, draw("a"));
    let calls: Vec<_> = (0..200)
        .map(|_| call(&ledger, draw("a"), secs(1)))
        .collect();
    tokio::task::yield_now().await;
    let start = Instant::now();
    held.complete();
    for (at, call) in calls.into_iter().enumerate() {
        let began = call.await.unwrap().unwrap();
        assert_eq!(began - start, secs(1 + at as u64));
    }
    drop(idle);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_gets_its_turn_back_when_it_is_polled() {
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    let mut idle = parked(&ledger, draw("a"));
    let second = call(&ledger, draw("a"), secs(10));
    tokio::task::yield_now().await;
    let third = call(&ledger, draw("a"), secs(10));
    tokio::task::yield_now().await;
    let start = Instant::now();
    held.complete();
    assert_eq!(ledger.snapshot().queued, 2);
    sleep(secs(3)).await;
    // The second one runs. The first is before the third again, once it is polled.
    assert_eq!(ledger.snapshot().queued, 2);
    assert!(poll_once(&mut idle).is_pending());
    let first = tokio::spawn(async move {
        let permit = idle.await.unwrap();
        (Instant::now(), permit.admission().ticket())
    });
    assert_eq!(second.await.unwrap().unwrap(), start + secs(1));
    assert_eq!(first.await.unwrap(), (start + secs(11), 2));
    assert_eq!(third.await.unwrap().unwrap(), start + secs(11));
    nothing_left(&ledger).await;
}

/// A busy runtime polls everybody late: what was not given on meanwhile is still theirs.
#[tokio::test(start_paused = true)]
async fn a_late_call_is_admitted_if_nobody_else_was() {
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    let mut first = parked(&ledger, draw("a"));
    let mut second = parked(&ledger, draw("a"));
    held.complete();
    tokio::time::advance(secs(5)).await;
    let Poll::Ready(Ok(permit)) = poll_once(&mut first) else {
        panic!("its turn was lost")
    };
    assert!(poll_once(&mut second).is_pending());
    permit.complete();
    assert!(poll_once(&mut second).is_ready());
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn dropped_unpolled_ones_leak_nothing() {
    for wait in [0, 5] {
        let ledger = delegate(2, secs(300));
        ledger
            .set_limit(&of("svc"), Budget::Concurrency, 1)
            .unwrap();
        let held = try_now(&ledger, &opens("svc", "m")).unwrap();
        // Admitted, taken back and in the queue.
        let idle: Vec<_> = ["m", "n", "o", "m", "p"]
            .into_iter()
            .map(|value| parked(&ledger, opens("svc", value)))
            .collect();
        held.complete();
        sleep(secs(wait)).await;
        drop(idle);
        assert_eq!(ledger.snapshot().queued, 0);
        ledger
            .set_limit(&of("svc"), Budget::Concurrency, None)
            .unwrap();
        nothing_left(&ledger).await;
    }
}

/// Thousands that are handed out to and not polled: taking it all back is one loop, not a tower of calls.
#[tokio::test(start_paused = true)]
async fn thousands_can_be_taken_back_at_once() {
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    let idle: Vec<_> = (0..30_000).map(|_| parked(&ledger, draw("a"))).collect();
    let last = call(&ledger, draw("a"), secs(1));
    sleep(secs(1)).await;
    ledger
        .set_limit(&of("a"), Budget::Concurrency, 30_000)
        .unwrap();
    let now = Instant::now();
    assert!(last.await.unwrap().unwrap() - now <= secs(1));
    drop((held, idle));
    ledger
        .set_limit(&of("a"), Budget::Concurrency, None)
        .unwrap();
    nothing_left(&ledger).await;
}

/// The keeper goes with its runtime, and another one comes.
#[test]
fn another_runtime_looks_after_the_queue() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    let first = runtime();
    let gone: Vec<_> =
        first.block_on(async { (0..6).map(|_| parked(&ledger, draw("a"))).collect() });
    drop(first);
    assert!(ledger.state.lock().keeper.is_none());
    drop(gone);
    drop(held);
    runtime().block_on(async {
        let waited = behind(20, draw("a"), &ledger).await;
        assert_eq!(in_time(waited, 20), Ok(()));
        nothing_left(&ledger).await;
        assert!(ledger.state.lock().keeper.is_none());
    });
}

/// A waker whose executor runs code when it is dropped, which may well ask the ledger.
struct Nosy(Arc<LocalLedger>, Arc<AtomicBool>);

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let free = self.0.state.try_lock().is_some();
        self.1.fetch_and(free, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn no_waker_is_dropped_under_the_lock() {
    let ledger = ledger(1);
    let free = Arc::new(AtomicBool::new(true));
    let poll = |acquire: &mut Acquire| {
        let waker = Waker::from(Arc::new(Nosy(ledger.clone(), free.clone())));
        Pin::new(acquire)
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
    };
    let held = try_now(&ledger, &draw("a")).unwrap();
    let mut calls: Vec<_> = (0..4).map(|_| ledger.clone().acquire(draw("a"))).collect();
    for acquire in calls.iter_mut().chain([]) {
        assert!(!poll(acquire));
        // With another waker.
        assert!(!poll(acquire));
    }
    held.complete();
    assert!(poll(&mut calls[0]));
    calls.pop();
    sleep(secs(5)).await;
    drop(calls);
    assert!(free.load(Ordering::Relaxed));
    nothing_left(&ledger).await;
}

/// What comes up sooner than the keeper would look.
#[tokio::test(start_paused = true)]
async fn and_behind_a_gate_that_is_closed_for_a_moment() {
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    let idle: Vec<_> = (0..5).map(|_| parked(&ledger, draw("a"))).collect();
    let last = call(&ledger, draw("a"), secs(1));
    sleep(Duration::from_millis(3_100)).await;
    let until = Instant::now() + Duration::from_millis(300);
    ledger.close_gate(&of("a"), until);
    held.complete();
    let waited = last.await.unwrap().unwrap() - until;
    assert_eq!(in_time(waited, 5), Ok(()));
    drop(idle);
    nothing_left(&ledger).await;
}

/// The same where nobody is woken by what they do, and nothing is told to the log.
#[tokio::test(start_paused = true)]
async fn and_behind_a_gate_that_was_closed_for_a_moment_when_they_came() {
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    let others: Vec<_> = (0..5).map(|_| parked(&ledger, draw("a"))).collect();
    sleep(Duration::from_millis(3_100)).await;
    let until = Instant::now() + Duration::from_millis(300);
    ledger.close_gate(&of("b"), until);
    let idle: Vec<_> = (0..4).map(|_| parked(&ledger, draw("b"))).collect();
    let last = call(&ledger, draw("b"), secs(1));
    let waited = last.await.unwrap().unwrap() - until;
    assert_eq!(in_time(waited, 4), Ok(()));
    drop((held, others, idle));
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn and_behind_gates_that_open_at_the_same_moment() {
    let ledger = ledger(10);
    let until = Instant::now() + secs(10);
    let names = ["a", "b", "c"];
    let calls = names.map(|name| {
        ledger.close_gate(&of(name), until);
        let idle: Vec<_> = (0..5).map(|_| parked(&ledger, draw(name))).collect();
        (idle, call(&ledger, draw(name), secs(1)))
    });
    for (_idle, last) in calls {
        let waited = last.await.unwrap().unwrap() - until;
        assert_eq!(in_time(waited, 5), Ok(()));
    }
    nothing_left(&ledger).await;
}

/// What they wait for comes free sooner than it seemed when they came.
#[tokio::test(start_paused = true)]
async fn and_behind_a_value_that_is_given_back() {
    let ledger = LocalLedger::builder()
        .budget(
            Budget::OpenMailboxes,
            Limit::Distinct {
                limit: 1,
                idle: secs(10),
            },
        )
        .build();
    let ledger = Arc::new(ledger);
    let held = try_now(&ledger, &opens("svc", "m")).unwrap();
    let idle: Vec<_> = ["n", "o", "p", "q", "r"]
        .map(|value| parked(&ledger, opens("svc", value)))
        .into();
    let last = call(&ledger, opens("svc", "s"), secs(1));
    sleep(secs(1)).await;
    held.complete();
    let closes = Instant::now() + secs(10);
    let waited = last.await.unwrap().unwrap() - closes;
    assert_eq!(in_time(waited, 5), Ok(()));
    drop(idle);
    nothing_left(&ledger).await;
}

/// With its runtime the keeper is gone, and there is more to do than one operation does.
#[test]
fn without_a_keeper_the_first_calls_go_on_with_what_is_left() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    let (first, second) = (runtime(), runtime());
    let gone: Vec<_> =
        first.block_on(async { (0..6).map(|_| parked(&ledger, draw("a"))).collect() });
    // One operation admits those that are not polled.
    let (idle, calls): (Vec<_>, Vec<_>) = second.block_on(async {
        let idle = (0..64).map(|_| parked(&ledger, draw("a"))).collect();
        let calls = (0..200).map(|_| tokio::spawn(ledger.clone().acquire(draw("a"))));
        let calls = calls.collect();
        // Until each has asked.
        sleep(secs(1)).await;
        (idle, calls)
    });
    drop(gone);
    drop(first);
    assert!(ledger.state.lock().keeper.is_none());
    second.block_on(async {
        let start = Instant::now();
        ledger
            .set_limit(&of("a"), Budget::Concurrency, 1_000)
            .unwrap();
        let mut permits = Vec::new();
        for call in calls {
            permits.push(call.await.unwrap().unwrap());
        }
        assert_eq!(Instant::now(), start);
        drop((permits, idle, held));
    });
}

#[tokio::test(start_paused = true)]
async fn the_waker_of_a_call_that_left_is_dropped_at_once() {
    let ledger = ledger(1);
    let _held = try_now(&ledger, &draw("a")).unwrap();
    let listener = Arc::new(Nosy(ledger.clone(), Arc::default()));
    let mut acquire = ledger.clone().acquire(draw("a"));
    let waker = Waker::from(listener.clone());
    let polled = Pin::new(&mut acquire).poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    drop(waker);
    drop(acquire);
    assert_eq!(Arc::strong_count(&listener), 1);
}

/// They come from a gate one after the other, and only the first one of them knew when the bucket holds enough for it.
#[tokio::test(start_paused = true)]
async fn and_behind_a_bucket_to_which_they_come_from_a_gate() {
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(5))
        .budget(Budget::Requests, Limit::per_window(3, secs(6)));
    let ledger = Arc::new(ledger.build());
    let requests = |amount| Charge::new(of("c"), Budget::Requests, amount);
    let first = try_now(&ledger, &AcquireRequest::new(requests(1))).unwrap();
    first.complete();
    ledger.close_gate(&of("b"), Instant::now() + secs(1));
    let gated = |amount| {
        let charges = [
            Charge::new(of("b"), Budget::Concurrency, 1),
            requests(amount),
        ];
        AcquireRequest::new(charges.into_iter().collect::<Charges>())
    };
    let idle = parked(&ledger, gated(3));
    let last = call(&ledger, gated(1), secs(1));
    let now = Instant::now();
    let waited = last.await.unwrap().unwrap() - now;
    // The bucket is full after two seconds, and the turn of the first one is over after one more.
    assert!(waited <= secs(3), "{waited:?}");
    drop(idle);
    nothing_left(&ledger).await;
}
