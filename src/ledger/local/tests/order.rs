//! Who goes first, and what bounds a wait.

use super::*;

#[tokio::test(start_paused = true)]
async fn first_come_first_served() {
    let ledger = ledger(1);
    let start = Instant::now();
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(call(&ledger, draw("a"), secs(1)));
        tokio::task::yield_now().await;
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap() - start, secs(n as u64));
    }
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn principals_do_not_wait_for_each_other() {
    let ledger = ledger(1);
    let start = Instant::now();
    let slow = call(&ledger, draw("a"), secs(100));
    let other = call(&ledger, draw("b"), secs(1));
    assert_eq!(other.await.unwrap().unwrap(), start);
    slow.await.unwrap().unwrap();
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn amounts_above_the_limit_run_alone() {
    let ledger = ledger(10);
    let small = Permit::try_acquire(ledger.clone(), &weighted("a", 4)).unwrap();
    let big = call(&ledger, weighted("a", 25), secs(1));
    tokio::task::yield_now().await;
    // Nobody overtakes it on its own budget, or it would starve.
    let later = call(&ledger, weighted("a", 1), secs(1));
    sleep(secs(5)).await;
    drop(small);
    let began = big.await.unwrap().unwrap();
    assert_eq!(later.await.unwrap().unwrap(), began + secs(1));
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn crossed_charges_never_deadlock_and_block_nobody_else() {
    let ledger = ledger(1);
    let both = |x: &str, y: &str| {
        AcquireRequest::new(
            [x, y]
                .into_iter()
                .map(|name| Charge::new(of(name), Budget::Concurrency, 1))
                .collect::<Charges>(),
        )
    };
    let holder = Permit::try_acquire(ledger.clone(), &draw("b")).unwrap();
    let crossed = call(&ledger, both("a", "b"), secs(1));
    tokio::task::yield_now().await;
    let opposite = call(&ledger, both("b", "a"), secs(1));
    tokio::task::yield_now().await;
    // The crossed calls wait for b and hold nothing of a.
    let start = Instant::now();
    assert_eq!(
        call(&ledger, draw("a"), secs(1)).await.unwrap().unwrap(),
        start
    );
    drop(holder);
    crossed.await.unwrap().unwrap();
    opposite.await.unwrap().unwrap();
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_crossed_call_is_not_overtaken_for_ever() {
    let ledger = Arc::new(
        LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(1))
            .max_overtake(secs(60))
            .build(),
    );
    // Two endless streams of calls that never leave a and b free at the same moment.
    for (name, offset) in [("a", 0), ("b", 500)] {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(offset)).await;
            for _ in 0..1000 {
                let next = ledger.clone().acquire(draw(name));
                let permit = next.await.unwrap();
                // The successor stands in line before this one ends.
                let successor = tokio::spawn(ledger.clone().acquire(draw(name)));
                sleep(secs(1)).await;
                permit.complete();
                let permit = successor.await.unwrap().unwrap();
                sleep(secs(1)).await;
                permit.complete();
            }
        });
    }
    sleep(secs(1)).await;
    let start = Instant::now();
    let both: Charges = ["a", "b"]
        .into_iter()
        .map(|name| Charge::new(of(name), Budget::Concurrency, 1))
        .collect();
    let began = call(&ledger, AcquireRequest::new(both), secs(1))
        .await
        .unwrap()
        .unwrap();
    assert!(began - start <= secs(70), "{:?}", began - start);
}

#[tokio::test(start_paused = true)]
async fn bounds_end_in_typed_errors() {
    let ledger = Arc::new(
        LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(1))
            .max_queued(1)
            .max_wait(secs(30))
            .build(),
    );
    let start = Instant::now();
    let permit = Permit::try_acquire(ledger.clone(), &draw("a")).unwrap();
    let waits = tokio::spawn(ledger.clone().acquire(draw("a")));
    tokio::task::yield_now().await;
    let full = ledger.clone().acquire(draw("a")).await.unwrap_err();
    assert!(matches!(full, AcquireError::QueueFull { queued: 1 }));
    assert_eq!(Instant::now(), start);
    let timed_out = waits.await.unwrap().unwrap_err();
    assert!(matches!(timed_out, AcquireError::TimedOut { waited, .. } if waited == secs(30)));
    let hurried = draw("a").with_deadline(Instant::now() + secs(2));
    let timed_out = ledger.clone().acquire(hurried).await.unwrap_err();
    assert!(matches!(timed_out, AcquireError::TimedOut { waited, .. } if waited == secs(2)));
    // A gate that opens too late is known at once.
    let until = Instant::now() + secs(31);
    permit.report(Signal::Busy { until });
    let now = Instant::now();
    let too_late = ledger.clone().acquire(draw("a")).await.unwrap_err();
    assert!(matches!(too_late, AcquireError::GateTooLate { wait, .. } if wait == secs(31)));
    assert_eq!(Instant::now(), now);
    drop(permit);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_resent_call_keeps_its_place() {
    let ledger = ledger(1);
    let first = Permit::try_acquire(ledger.clone(), &draw("a")).unwrap();
    let ticket = first.admission().ticket();
    let later = call(&ledger, draw("a"), secs(1));
    tokio::task::yield_now().await;
    let again = call(&ledger, draw("a").with_ticket(ticket), secs(1));
    tokio::task::yield_now().await;
    drop(first);
    let again = again.await.unwrap().unwrap();
    assert_eq!(later.await.unwrap().unwrap(), again + secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_million_principals_leave_nothing_behind() {
    let ledger = ledger(4);
    for n in 0..1_000_000 {
        let permit = Permit::try_acquire(
            ledger.clone(),
            &AcquireRequest::new(Principal::new(n.to_string())),
        )
        .unwrap();
        permit.complete();
    }
    let held: Vec<_> = (0..100_000)
        .map(|n| {
            let draw = AcquireRequest::new(Principal::new(n.to_string()));
            Permit::try_acquire(ledger.clone(), &draw).unwrap()
        })
        .collect();
    assert_eq!(ledger.snapshot().principals.len(), 100_000);
    for permit in &held {
        let until = Instant::now() + secs(5);
        permit.report(Signal::Busy { until });
    }
    drop(held);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn tickets_that_the_ledger_never_gave_are_new() {
    let ledger = ledger(1);
    let held = try_now(&ledger, &draw("a")).unwrap();
    assert_eq!(held.admission().ticket(), 1);
    let mut calls = Vec::new();
    // The foreign ones stand where they came, before and after others.
    for ticket in [None, Some(0), Some(u64::MAX), Some(1_000), None] {
        calls.push(call(&ledger, draw("a").with_ticket(ticket), secs(1)));
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    drop(held);
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap() - start, secs(n as u64));
    }
    // Nothing has wrapped, and nothing was used up.
    let next = try_now(&ledger, &draw("a").with_ticket(u64::MAX)).unwrap();
    assert_eq!(next.admission().ticket(), 7);
    drop(next);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_starved_call_behind_a_gate_holds_back_no_other_principal() {
    let ledger = Arc::new(
        LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(1))
            .max_overtake(secs(60))
            .build(),
    );
    let a = try_now(&ledger, &draw("a")).unwrap();
    let b = try_now(&ledger, &draw("b")).unwrap();
    let both = several([("a", Budget::Concurrency, 1), ("b", Budget::Concurrency, 1)]);
    let crossed = call(&ledger, both, secs(1));
    sleep(secs(61)).await;
    // It is moved from a to b, and is starved from now on.
    drop(a);
    let start = Instant::now();
    let later = call(&ledger, draw("a"), secs(1));
    sleep(secs(1)).await;
    assert!(!later.is_finished());
    // While b is locked out, nothing can come of keeping a free.
    let until = start + secs(600);
    ledger.close_gate(&of("b"), until);
    assert_eq!(later.await.unwrap().unwrap(), start + secs(1));
    let later = call(&ledger, draw("a"), secs(1));
    assert_eq!(later.await.unwrap().unwrap(), start + secs(2));
    drop(b);
    assert_eq!(crossed.await.unwrap().unwrap(), until);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_timed_out_call_names_the_budget() {
    let ledger = Arc::new(
        LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(9))
            .budget(Budget::SyncCalls, Limit::InFlight(1))
            .build(),
    );
    let sync = several([("a", Budget::Concurrency, 1), ("a", Budget::SyncCalls, 1)]);
    let held = try_now(&ledger, &sync).unwrap();
    let hurried = sync.with_deadline(Instant::now() + secs(5));
    let error = ledger.clone().acquire(hurried).await.unwrap_err();
    let AcquireError::TimedOut { waited, contended } = &error else {
        panic!("{error}");
    };
    assert_eq!(*waited, secs(5));
    assert_eq!(contended.principal(), Some(&of("a")));
    assert_eq!(contended.budget(), Some(Budget::SyncCalls));
    assert!(error.to_string().contains("SyncCalls"), "{error}");
    drop(held);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_starved_call_holds_back_nobody_on_unlimited_budgets() {
    let ledger = Arc::new(
        LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(1))
            .max_overtake(secs(60))
            .build(),
    );
    let a = try_now(&ledger, &draw("a")).unwrap();
    let b = try_now(&ledger, &draw("b")).unwrap();
    let unlimited = several([("a", Budget::SyncCalls, 1)]);
    let both = several([
        ("a", Budget::Concurrency, 1),
        ("a", Budget::SyncCalls, 1),
        ("b", Budget::Concurrency, 1),
    ]);
    let crossed = call(&ledger, both, secs(1));
    sleep(secs(61)).await;
    drop(a);
    let now = Instant::now();
    let other = call(&ledger, unlimited, secs(1));
    assert_eq!(other.await.unwrap().unwrap(), now);
    drop(b);
    crossed.await.unwrap().unwrap();
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_large_call_hands_on_leaves_room_for_a_small_one() {
    let ledger = ledger(5);
    let held = try_now(&ledger, &weighted("a", 4)).unwrap();
    let calls: Vec<_> = [4, 1, 1, 1, 1, 1]
        .map(|amount| call(&ledger, weighted("a", amount), secs(1)))
        .into();
    tokio::task::yield_now().await;
    let start = Instant::now();
    held.complete();
    let mut began = Vec::new();
    for call in calls {
        began.push((call.await.unwrap().unwrap() - start).as_secs());
    }
    assert_eq!(began, [0, 0, 1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_not_enough_for_a_larger_call() {
    let ledger = ledger(3);
    let mut held = Vec::from(hold(&ledger, ["a"; 3]));
    // So many that a release would be handed on, if it fitted.
    let mut waits: Vec<_> = (0..9).map(|_| parked(&ledger, weighted("a", 3))).collect();
    for _ in 0..3 {
        assert!(poll_once(&mut waits[0]).is_pending());
        held.pop().unwrap().complete();
        tokio::task::yield_now().await;
    }
    assert!(poll_once(&mut waits[0]).is_ready());
    drop(waits);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_a_large_call_that_waits() {
    let ledger = ledger(2);
    let held = try_now(&ledger, &draw("a")).unwrap();
    assert_eq!(ledger.snapshot().principals[0].queued, 0);
    let mut large = parked(&ledger, weighted("a", 2));
    assert_eq!(ledger.snapshot().principals[0].queued, 1);
    assert!(try_now(&ledger, &draw("a")).is_none());
    held.complete();
    assert!(poll_once(&mut large).is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_charges_are_a_guess_waits_for_what_is_known_by_then() {
    let ledger = ledger(3);
    let mut held = Vec::from(hold(&ledger, ["a"; 3]));
    let now_less: Charges = Charge::new(of("a"), Budget::Concurrency, 2).into();
    let estimate = Arc::new(move |guess: &Charges| (*guess != now_less).then(|| now_less.clone()));
    let mut waits = parked(&ledger, weighted("a", 3).with_estimate(estimate));
    held.pop();
    assert!(poll_once(&mut waits).is_pending());
    held.pop();
    let Poll::Ready(Ok(permit)) = poll_once(&mut waits) else {
        panic!("two are enough by now");
    };
    assert_eq!(permit.admission().charges()[0].amount(), 2);
    drop((permit, held));
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn later_admissions_have_larger_numbers() {
    let ledger = ledger(2);
    let first = try_now(&ledger, &draw("a")).unwrap();
    let second = try_now(&ledger, &draw("a")).unwrap();
    let mut waiting: Vec<_> = (0..6).map(|_| parked(&ledger, draw("a"))).collect();
    let mut numbers: Vec<_> = [&first, &second].map(|p| p.admission().sequence()).into();
    let mut held = vec![first, second];
    for acquire in &mut waiting {
        held.remove(0).complete();
        let Poll::Ready(Ok(permit)) = poll_once(acquire) else {
            panic!("it is its turn")
        };
        numbers.push(permit.admission().sequence());
        held.push(permit);
    }
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}

/// Calls on several budgets may wait for a minute before others stay behind them.
fn a_minute_at_most(limit: u32) -> Arc<LocalLedger> {
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(limit))
        .max_overtake(secs(60));
    Arc::new(ledger.build())
}

fn both(one: &'static str, other: &'static str) -> AcquireRequest {
    several([one, other].map(|name| (name, Budget::Concurrency, 1)))
}

fn hold<const N: usize>(ledger: &Arc<LocalLedger>, names: [&str; N]) -> [Permit; N] {
    names.map(|name| try_now(ledger, &draw(name)).unwrap())
}

#[tokio::test(start_paused = true)]
async fn younger_calls_stay_behind_the_first_call_that_starves() {
    let ledger = a_minute_at_most(1);
    let [a, b, c, _d] = hold(&ledger, ["a", "b", "c", "d"]);
    let crossed = call(&ledger, both("a", "b"), secs(1));
    let another = call(&ledger, both("c", "d"), secs(1000));
    sleep(secs(61)).await;
    // Each moves on to what it waits for now. One of them is starved, and the other one has its turn after it.
    drop(a);
    assert!(try_now(&ledger, &draw("a")).is_none());
    drop(c);
    assert!(try_now(&ledger, &draw("a")).is_none());
    try_now(&ledger, &draw("c")).unwrap().complete();
    let now = Instant::now();
    drop(b);
    assert_eq!(crossed.await.unwrap().unwrap(), now);
    assert!(try_now(&ledger, &draw("a")).is_some());
    another.abort();
}

#[tokio::test(start_paused = true)]
async fn a_call_on_one_budget_does_not_starve() {
    let ledger = a_minute_at_most(1);
    let [a, _b, _z] = hold(&ledger, ["a", "b", "z"]);
    let crossed = call(&ledger, both("a", "b"), secs(1));
    ledger.close_gate(&of("z"), Instant::now() + secs(61));
    let single = call(&ledger, draw("z"), secs(1));
    // It moves from the gate to the budget.
    sleep(secs(62)).await;
    drop(a);
    assert!(try_now(&ledger, &draw("a")).is_none());
    single.abort();
    crossed.abort();
}

/// What is given back is handed on to the first call of a list, but not past one that is starved.
#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_kept_for_a_starved_call() {
    let ledger = a_minute_at_most(2);
    let [a1, a2, b1, _b2] = hold(&ledger, ["a", "a", "b", "b"]);
    let crossed = call(&ledger, both("a", "b"), secs(1));
    tokio::task::yield_now().await;
    let younger: Vec<_> = (0..6).map(|_| call(&ledger, draw("a"), secs(1))).collect();
    sleep(secs(61)).await;
    drop(a1);
    // One is held of one.
    ledger.set_limit(&of("a"), Budget::Concurrency, 1).unwrap();
    drop(a2);
    sleep(secs(1)).await;
    assert!(!younger.iter().any(|younger| younger.is_finished()));
    let now = Instant::now();
    drop(b1);
    assert_eq!(crossed.await.unwrap().unwrap(), now);
    for (n, younger) in younger.into_iter().enumerate() {
        assert_eq!(younger.await.unwrap().unwrap(), now + secs(1 + n as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_is_open_for_good_is_not_in_the_way_of_a_starved_call() {
    let ledger = a_minute_at_most(1);
    let [b] = hold(&ledger, ["b"]);
    ledger.close_gate(&of("b"), Instant::now() + secs(1));
    sleep(secs(62)).await;
    assert!(try_now(&ledger, &draw("b")).is_none());
    let [a] = hold(&ledger, ["a"]);
    let crossed = call(&ledger, both("a", "b"), secs(1));
    sleep(secs(61)).await;
    drop(a);
    assert!(try_now(&ledger, &draw("a")).is_none());
    drop(b);
    crossed.await.unwrap().unwrap();
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_value_is_waited_for_before_an_amount() {
    let ledger = delegate(1, secs(300));
    ledger
        .set_limit(&of("svc"), Budget::Concurrency, 1)
        .unwrap();
    let _held = try_now(&ledger, &opens("svc", "m")).unwrap();
    for (value, waits_for) in [("m", Budget::Concurrency), ("n", Budget::OpenMailboxes)] {
        let hurried = opens("svc", value).with_deadline(Instant::now() + secs(5));
        let error = ledger.clone().acquire(hurried).await.unwrap_err();
        let AcquireError::TimedOut { contended, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(contended.budget(), Some(waits_for));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_is_the_next_one() {
    let ledger = ledger(1);
    let _held = try_now(&ledger, &draw("a")).unwrap();
    let next = ledger.state.lock().next_ticket();
    let _waits = parked(&ledger, draw("a"));
    assert_eq!(ledger.state.lock().next_ticket(), next + 1);
}
