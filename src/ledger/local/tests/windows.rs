//! Buckets: amounts per time.

use parking_lot::Mutex;

use super::*;

/// A ledger with a bucket of requests beside a limit of concurrent calls.
fn windows(limit: u32, refill: u32, period: Duration, concurrency: u32) -> Arc<LocalLedger> {
    let bucket = Limit::PerWindow {
        limit,
        refill,
        period,
    };
    Arc::new(
        LocalLedger::builder()
            .budget(Budget::Requests, bucket)
            .budget(Budget::Concurrency, Limit::InFlight(concurrency))
            .max_wait(secs(24 * 3600))
            .build(),
    )
}

fn requests(name: &'static str, amount: u32) -> AcquireRequest {
    several([(name, Budget::Requests, amount)])
}

/// One request that is a concurrent call as well.
fn both(name: &'static str, amount: u32) -> AcquireRequest {
    several([
        (name, Budget::Requests, amount),
        (name, Budget::Concurrency, 1),
    ])
}

fn drawn(ledger: &LocalLedger) -> u32 {
    let snapshot = ledger.snapshot();
    let budgets = snapshot.principals.iter().flat_map(|one| &one.budgets);
    let of_requests = budgets.filter(|one| one.budget == Budget::Requests);
    of_requests.map(|one| one.held).sum()
}

async fn seconds_until(
    waiting: tokio::task::JoinHandle<Result<Instant, AcquireError>>,
    from: Instant,
) -> f64 {
    (waiting.await.unwrap().unwrap() - from).as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn a_burst_goes_at_once_and_the_rest_as_it_comes_back() {
    let ledger = windows(3, 2, secs(10), 100);
    let start = Instant::now();
    let calls: Vec<_> = (0..6)
        .map(|_| call(&ledger, requests("a", 1), Duration::ZERO))
        .collect();
    let mut began = Vec::new();
    for waiting in calls {
        began.push(seconds_until(waiting, start).await);
    }
    assert_eq!(began, [0.0, 0.0, 0.0, 5.0, 10.0, 15.0]);
    // Another principal has a bucket of its own.
    assert!(try_now(&ledger, &requests("b", 3)).is_some());
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_is_not_rounded() {
    // A third of a second each, which no clock can name, and no timer: each call is a little late.
    let ledger = windows(2, 3, secs(1), 100);
    let start = Instant::now();
    for _ in 0..30_000 {
        let permit = ledger.clone().acquire(requests("a", 1)).await.unwrap();
        permit.complete();
    }
    let took = start.elapsed();
    let least = Duration::from_secs_f64(29_998.0 / 3.0);
    assert!(
        took >= least && took < least + Duration::from_millis(2),
        "{took:?}"
    );
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn more_than_the_bucket_holds_runs_when_it_is_full() {
    let ledger = windows(10, 10, secs(10), 100);
    let start = Instant::now();
    try_now(&ledger, &requests("a", 4)).unwrap().complete();
    let large = call(&ledger, requests("a", 25), Duration::ZERO);
    let next = call(&ledger, requests("a", 1), Duration::ZERO);
    assert_eq!(seconds_until(large, start).await, 4.0);
    // In debt by 15, and one more that has to come back.
    assert_eq!(drawn(&ledger), 25);
    assert_eq!(seconds_until(next, start).await, 4.0 + 16.0);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_cost_that_is_known_later_leaves_a_debt() {
    let ledger = windows(1000, 100, secs(1), 100);
    let start = Instant::now();
    let permit = try_now(&ledger, &requests("a", 0)).unwrap();
    let spent = Signal::Spent {
        budget: Budget::Requests,
        amount: 1500,
    };
    permit.report(spent);
    let admission = permit.admission().clone();
    permit.complete();
    let waiting = call(&ledger, requests("a", 0), Duration::ZERO);
    // After the release as well.
    ledger.report(&admission, spent);
    assert_eq!(drawn(&ledger), 3000);
    // Budgets that the call was not charged on, or that are no buckets, count nothing.
    for budget in [Budget::Concurrency, Budget::BusyTime] {
        ledger.report(&admission, Signal::Spent { budget, amount: 9 });
    }
    // The next one may cost as much, which is more than it holds: all of it has to be there.
    assert_eq!(seconds_until(waiting, start).await, 30.0);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_are_expected_to_cost_what_others_did() {
    let ledger = windows(1000, 100, secs(1), 100);
    let spend = |permit: Permit, amount| {
        let budget = Budget::Requests;
        permit.report(Signal::Spent { budget, amount });
        permit.complete();
    };
    // Nothing is known of the first ones.
    let first: Vec<_> = (0..3)
        .map(|_| try_now(&ledger, &requests("a", 0)).unwrap())
        .collect();
    for permit in first {
        spend(permit, 100);
    }
    assert_eq!(drawn(&ledger), 300);
    let mut running = Vec::new();
    while let Some(permit) = try_now(&ledger, &requests("a", 0)) {
        running.push(permit);
    }
    // Three that cost 100 say little of what the next ones may cost.
    assert_eq!(running.len(), 4);
    spend(running.pop().unwrap(), 100);
    assert!(try_now(&ledger, &requests("a", 0)).is_none());
    running.into_iter().for_each(|permit| spend(permit, 100));
    for _ in 0..30 {
        let permit = ledger.clone().acquire(requests("a", 0)).await.unwrap();
        spend(permit, 100);
    }
    sleep(secs(20)).await;
    // They cost 100 each, and hardly anything more.
    for _ in 0..3 {
        let permit = try_now(&ledger, &requests("a", 0)).unwrap();
        spend(permit, 100);
    }
    for _ in 0..30 {
        sleep(secs(1)).await;
        let permit = try_now(&ledger, &requests("a", 0)).unwrap();
        spend(permit, 100);
    }
    assert_eq!(drawn(&ledger), 300);
    let mut running = Vec::new();
    while let Some(permit) = try_now(&ledger, &requests("a", 0)) {
        running.push(permit);
    }
    assert_eq!(running.len(), 6);
    running.into_iter().for_each(|permit| spend(permit, 100));
    // More than the bucket holds: the next goes when it is full.
    let permit = ledger.clone().acquire(requests("a", 0)).await.unwrap();
    spend(permit, 100_000);
    let permit = ledger.clone().acquire(requests("a", 0)).await.unwrap();
    spend(permit, 0);
    nothing_left(&ledger).await;
}

/// A full bucket holds no more than it does, and was full before somebody asks again.
#[tokio::test(start_paused = true)]
async fn a_full_bucket_is_not_overdrawn_by_calls_whose_cost_is_known() {
    let ledger = windows(1000, 100, secs(1), 100);
    let spend = |permit: Permit| {
        let (budget, amount) = (Budget::Requests, 200);
        permit.report(Signal::Spent { budget, amount });
        permit.complete();
    };
    for _ in 0..200 {
        spend(ledger.clone().acquire(requests("a", 0)).await.unwrap());
    }
    for idle in [10, 60, 3500] {
        sleep(secs(idle)).await;
        let begin = || try_now(&ledger, &requests("a", 0));
        let running: Vec<_> = std::iter::from_fn(begin).take(20).collect();
        assert_eq!(running.len(), 4, "after {idle} s");
        assert!(begin().is_none());
        // Time alone does not make more of it than full.
        let waiting = parked(&ledger, requests("a", 0));
        sleep(secs(1)).await;
        assert!(begin().is_none());
        let mut running = running.into_iter();
        running.next().map(spend);
        drop(waiting);
        running.for_each(spend);
    }
    // Another process knows it too.
    sleep(secs(60)).await;
    let second = windows(1000, 100, secs(1), 100);
    second.import(&ledger.export());
    let begin = || try_now(&second, &requests("a", 0));
    let running: Vec<_> = std::iter::from_fn(begin).take(20).collect();
    assert_eq!(running.len(), 4);
    running.into_iter().for_each(drop);
    nothing_left(&second).await;
    nothing_left(&ledger).await;
}

/// One in twenty costs fifty times what the others do, and takes as much longer: of those in flight most are of that kind.
#[tokio::test(start_paused = true)]
async fn few_calls_that_cost_many_times_more_are_reckoned_with() {
    let ledger = windows(30_000, 500, secs(1), 27);
    let (start, server) = (Instant::now(), Arc::new(Mutex::new((30_000.0, 0_u32))));
    let calls: Vec<_> = (0..2_000_u32)
        .map(|call| {
            let (ledger, server) = (ledger.clone(), server.clone());
            let amount = if call % 20 == 0 { 5_000 } else { 100 };
            tokio::spawn(async move {
                let permit = ledger.acquire(both("a", 0)).await.unwrap();
                sleep(Duration::from_millis(amount.into())).await;
                let budget = Budget::Requests;
                permit.report(Signal::Spent { budget, amount });
                permit.complete();
                let mut server = server.lock();
                server.0 -= f64::from(amount);
                let back = start.elapsed().as_secs_f64() * 500.0;
                // Those that began before anything was known are left out.
                server.1 += u32::from(call >= 500 && server.0 + back < 0.0);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let (left, below) = *server.lock();
    let best = (-left) / 500.0;
    let took = start.elapsed().as_secs_f64();
    assert_eq!(below, 0);
    assert!(took < best * 1.02 + 60.0, "{took} s, {best} s at best");
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn only_what_was_never_sent_comes_back() {
    let ledger = windows(10, 1, secs(1), 100);
    for (end, left) in [
        (End::Complete, 10),
        (End::Dropped, 10),
        (End::NoResponse, 10),
        (End::NotSent, 0),
    ] {
        let mut permit = try_now(&ledger, &requests("a", 10)).unwrap();
        let waiting = call(&ledger, requests("a", 10), Duration::ZERO);
        tokio::task::yield_now().await;
        let from = Instant::now();
        permit.set_end(end);
        drop(permit);
        assert_eq!(seconds_until(waiting, from).await, f64::from(left));
        sleep(secs(60)).await;
    }
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_bucket_holds_nothing_else() {
    let ledger = Arc::new(
        LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(1))
            .budget(
                Budget::OpenMailboxes,
                Limit::Distinct {
                    limit: 1,
                    idle: secs(300),
                },
            )
            .budget(Budget::MessageRate, Limit::per_window(1, secs(60)))
            .build(),
    );
    let send = |mailbox: &str| {
        let svc = of("svc");
        let charges = [
            Charge::new(svc.clone(), Budget::Concurrency, 1),
            Charge::of_value(
                svc.clone(),
                Budget::OpenMailboxes,
                Principal::mailbox(mailbox),
            ),
            Charge::new(svc, Budget::MessageRate, 1),
        ];
        AcquireRequest::new(charges.into_iter().collect::<Charges>())
    };
    let start = Instant::now();
    try_now(&ledger, &several([("svc", Budget::MessageRate, 1)]))
        .unwrap()
        .complete();
    let waiting = call(&ledger, send("amy"), secs(1));
    tokio::task::yield_now().await;
    // The mailbox slot and the place are free for others.
    try_now(&ledger, &opens("svc", "bob")).unwrap().complete();
    assert!(try_now(&ledger, &draw("svc")).is_some());
    // From the minute on it waits for the slot, which closes five minutes after its last use.
    assert_eq!(seconds_until(waiting, start).await, 300.0);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn smaller_calls_do_not_starve_a_larger_one() {
    let ledger = windows(10, 1, secs(1), 100);
    let start = Instant::now();
    try_now(&ledger, &requests("a", 10)).unwrap().complete();
    let large = call(&ledger, requests("a", 10), Duration::ZERO);
    tokio::task::yield_now().await;
    let small: Vec<_> = (0..5)
        .map(|_| call(&ledger, requests("a", 1), Duration::ZERO))
        .collect();
    sleep(secs(5)).await;
    assert!(try_now(&ledger, &requests("a", 1)).is_none());
    assert_eq!(seconds_until(large, start).await, 10.0);
    for (behind, small) in (1..).zip(small) {
        assert_eq!(seconds_until(small, start).await, 10.0 + f64::from(behind));
    }
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_need_nothing_of_the_bucket_go_on() {
    let ledger = windows(1, 1, secs(3600), 2);
    try_now(&ledger, &both("a", 1)).unwrap().complete();
    let start = Instant::now();
    let waiting = call(&ledger, both("a", 1), secs(1));
    for _ in 0..1000 {
        // Also once the first one has waited for long.
        let other = call(&ledger, draw("a"), secs(3));
        assert!(seconds_until(other, Instant::now()).await < 0.001);
    }
    assert_eq!(seconds_until(waiting, start).await, 3600.0);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_needs_both_is_not_overtaken_for_ever() {
    let ledger = Arc::new(
        LocalLedger::builder()
            .budget(Budget::Requests, Limit::per_window(2, secs(2)))
            .budget(Budget::Concurrency, Limit::InFlight(2))
            .max_overtake(secs(30))
            .build(),
    );
    // Others use up the bucket without a place, and the places without the bucket.
    let others = tokio::spawn({
        let ledger = ledger.clone();
        async move {
            loop {
                call(&ledger, requests("a", 1), Duration::ZERO);
                call(&ledger, draw("a"), secs(3));
                sleep(secs(1)).await;
            }
        }
    });
    sleep(secs(10)).await;
    let start = Instant::now();
    let needs_both = call(&ledger, both("a", 2), secs(1));
    assert!(seconds_until(needs_both, start).await < 60.0);
    others.abort();
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gives_up_makes_room_for_the_next() {
    let ledger = windows(10, 1, secs(1), 100);
    let start = Instant::now();
    try_now(&ledger, &requests("a", 10)).unwrap().complete();
    let large = parked(&ledger, requests("a", 10));
    let small = call(&ledger, requests("a", 2), Duration::ZERO);
    sleep(secs(3)).await;
    assert!(!small.is_finished());
    drop(large);
    assert_eq!(seconds_until(small, start).await, 3.0);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_number_that_is_set_changes_the_rate_too() {
    let ledger = windows(10, 10, secs(10), 100);
    ledger.set_limit(&of("a"), Budget::Requests, 2).unwrap();
    let start = Instant::now();
    try_now(&ledger, &requests("a", 2)).unwrap().complete();
    let waiting = call(&ledger, requests("a", 2), Duration::ZERO);
    assert_eq!(seconds_until(waiting, start).await, 10.0);
    let waiting = call(&ledger, requests("a", 2), Duration::ZERO);
    tokio::task::yield_now().await;
    ledger.set_limit(&of("a"), Budget::Requests, None).unwrap();
    assert_eq!(seconds_until(waiting, start).await, 10.0);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_gets_nothing_back_admits_nobody() {
    let ledger = windows(1, 0, secs(1), 1);
    assert!(try_now(&ledger, &requests("a", 1)).is_none());
    let refused = ledger.clone().acquire(requests("a", 1)).await;
    assert!(matches!(refused, Err(AcquireError::ZeroLimit)));
    // And one whose period is zero everybody.
    let ledger = windows(1, 1, Duration::ZERO, 1);
    assert!((0..100).all(|_| try_now(&ledger, &requests("a", 7)).is_some()));
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn the_largest_numbers_do_not_overflow() {
    for (limit, refill, period) in [
        (u32::MAX, 1, Duration::MAX),
        (1, 1, Duration::MAX),
        (u32::MAX, u32::MAX, Duration::from_nanos(1)),
        (u32::MAX, u32::MAX, Duration::MAX),
    ] {
        let ledger = windows(limit, refill, period, 100);
        let permit = try_now(&ledger, &requests("a", u32::MAX)).unwrap();
        for _ in 0..1000 {
            permit.report(Signal::Spent {
                budget: Budget::Requests,
                amount: u32::MAX,
            });
        }
        drop(permit);
        let waiting = parked(&ledger, requests("a", u32::MAX));
        let snapshot = ledger.snapshot();
        assert!(snapshot.principals.len() <= 1);
        drop(waiting);
    }
}

#[tokio::test(start_paused = true)]
async fn any_number_of_principals_leaves_nothing() {
    let ledger = windows(2, 2, secs(60), 100);
    for n in 0..50_000_u32 {
        let request = AcquireRequest::new(Charge::new(of(&n.to_string()), Budget::Requests, 1));
        try_now(&ledger, &request).unwrap().complete();
    }
    sleep(secs(60)).await;
    nothing_left_now(&ledger);
}

fn remaining(amount: u32, until: Instant) -> Signal {
    Signal::Remaining {
        budget: Budget::Requests,
        amount,
        until,
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_is_left_holds_calls_back() {
    let ledger = windows(100, 100, secs(1), 100);
    let start = Instant::now();
    let permit = try_now(&ledger, &requests("a", 1)).unwrap();
    permit.report(remaining(2, start + secs(60)));
    // It counts down with the calls, and what was never sent comes back.
    let mut unsent = try_now(&ledger, &requests("a", 1)).unwrap();
    unsent.set_end(End::NotSent);
    drop(unsent);
    assert!((0..2).all(|_| try_now(&ledger, &requests("a", 1)).is_some()));
    sleep(secs(10)).await;
    assert!(try_now(&ledger, &requests("a", 1)).is_none());
    assert_eq!(drawn(&ledger), 100);
    // Once it is over the bucket counts alone, more than the server has ever left included.
    let waiting = call(&ledger, requests("a", 250), Duration::ZERO);
    assert_eq!(seconds_until(waiting, start).await, 60.0);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn late_news_of_a_window_do_not_count() {
    let ledger = windows(100, 100, secs(1), 100);
    let start = Instant::now();
    let permit = try_now(&ledger, &requests("a", 1)).unwrap();
    let left = |amount, until| {
        permit.report(remaining(amount, start + Duration::from_millis(until)));
        100 - drawn(&ledger)
    };
    // As much as the bucket holds is no news, and neither is the past.
    assert_eq!(left(100, 60_000), 99);
    assert_eq!(left(0, 0), 99);
    assert_eq!(left(50, 60_000), 50);
    // In the same window the least counts, whatever the order.
    assert_eq!(left(40, 61_000), 40);
    assert_eq!(left(45, 60_500), 40);
    assert_eq!(left(45, 62_000), 40);
    // A later window has begun on the server.
    assert_eq!(left(90, 120_000), 90);
    assert_eq!(left(95, 60_000), 90);
    drop(permit);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_used_comes_back_and_wakes_who_waits() {
    let ledger = windows(3, 1, secs(60), 100);
    let start = Instant::now();
    let permit = Permit::try_acquire(ledger.clone(), &both("a", 3)).unwrap();
    let waiting = call(&ledger, both("a", 2), Duration::ZERO);
    tokio::time::sleep(secs(5)).await;
    // Before the release or after it: the same.
    let admission = permit.admission().clone();
    permit.complete();
    let signal = Signal::Unspent {
        budget: Budget::Requests,
        amount: 3,
    };
    ledger.report(&admission, signal);
    assert_eq!(seconds_until(waiting, start).await, 5.0);
    assert_eq!(drawn(&ledger), 2);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn what_slides_comes_back_a_period_after_the_end() {
    let sliding = Limit::Sliding {
        limit: 3,
        period: secs(10),
    };
    let ledger = LocalLedger::builder().budget(Budget::Requests, sliding);
    let ledger = Arc::new(ledger.max_wait(secs(24 * 3600)).build());
    let start = Instant::now();
    let calls: Vec<_> = (0..8)
        .map(|_| call(&ledger, requests("a", 1), secs(1)))
        .collect();
    let mut began = Vec::new();
    for waiting in calls {
        began.push(seconds_until(waiting, start).await);
    }
    assert_eq!(began, [0.0, 0.0, 0.0, 11.0, 11.0, 11.0, 22.0, 22.0]);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_used_slides_back_at_once() {
    for late in [false, true] {
        let sliding = Limit::Sliding {
            limit: 3,
            period: secs(10),
        };
        let ledger = LocalLedger::builder().budget(Budget::Requests, sliding);
        let ledger = Arc::new(ledger.build());
        let refused = try_now(&ledger, &requests("a", 2)).unwrap();
        let mut unsent = try_now(&ledger, &requests("a", 1)).unwrap();
        unsent.set_end(End::NotSent);
        drop(unsent);
        let admission = refused.admission().clone();
        let mut refused = Some(refused).filter(|_| !late);
        let signal = Signal::Unspent {
            budget: Budget::Requests,
            amount: 2,
        };
        ledger.report(&admission, signal);
        assert_eq!(drawn(&ledger), 0, "{late}");
        drop(refused.take());
        assert_eq!(drawn(&ledger), 0, "{late}");
        assert!(try_now(&ledger, &requests("a", 3)).is_some());
        nothing_left(&ledger).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_that_is_set_holds_for_what_slides_too() {
    let sliding = Limit::Sliding {
        limit: 3,
        period: secs(10),
    };
    let ledger = LocalLedger::builder().budget(Budget::Requests, sliding);
    let ledger = Arc::new(ledger.build());
    for (number, most) in [(Some(2), 2), (Some(5), 5), (None, 3)] {
        ledger
            .set_limit(&of("a"), Budget::Requests, number)
            .unwrap();
        let all = std::iter::from_fn(|| try_now(&ledger, &requests("a", 1)));
        assert_eq!(all.take(10).count(), most);
        sleep(secs(11)).await;
    }
    nothing_left(&ledger).await;
}

/// It does not wait until the window that it stood before would have ended.
#[tokio::test(start_paused = true)]
async fn a_later_window_with_more_left_wakes_who_waits() {
    let ledger = windows(100, 100, secs(1), 100);
    let start = Instant::now();
    let permit = try_now(&ledger, &requests("a", 1)).unwrap();
    permit.report(remaining(0, start + secs(10)));
    let waiting = call(&ledger, requests("a", 4), Duration::ZERO);
    sleep(secs(5)).await;
    permit.report(remaining(4, start + secs(15)));
    assert_eq!(seconds_until(waiting, start).await, 5.0);
    drop(permit);
    nothing_left(&ledger).await;
}

/// Of a window that ends within two seconds of the known one only less is news, and not when it ends.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_window_is_the_one_that_was_named_first() {
    for (later, ends) in [(1_000, 10.0), (2_000, 10.0), (2_001, 12.001)] {
        let ledger = windows(100, 100, secs(1), 100);
        let start = Instant::now();
        let permit = try_now(&ledger, &requests("a", 1)).unwrap();
        permit.report(remaining(0, start + secs(10)));
        permit.report(remaining(0, start + Duration::from_millis(10_000 + later)));
        let waiting = call(&ledger, requests("a", 1), Duration::ZERO);
        assert_eq!(seconds_until(waiting, start).await, ends);
        drop(permit);
        nothing_left(&ledger).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_of_which_all_is_left_holds_back_nobody() {
    let ledger = windows(2, 2, secs(1), 100);
    let permit = try_now(&ledger, &requests("a", 1)).unwrap();
    permit.report(remaining(2, Instant::now() + secs(60)));
    for _ in 0..3 {
        sleep(secs(2)).await;
        assert!((0..2).all(|_| try_now(&ledger, &requests("a", 1)).is_some()));
    }
    drop(permit);
    nothing_left(&ledger).await;
}

/// "Too many at the same time" says nothing of a bucket.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_another_budget_teaches_nothing() {
    let ledger = windows(2, 2, secs(1), 100);
    let permit = try_now(&ledger, &requests("a", 1)).unwrap();
    permit.report(Signal::Exceeded(Budget::Concurrency));
    permit.complete();
    sleep(secs(2)).await;
    nothing_left_now(&ledger);
}

/// The next process would find out nothing.
#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_full_again_is_not_saved() {
    let ledger = windows(2, 2, secs(1), 100);
    let permit = try_now(&ledger, &both("a", 1)).unwrap();
    let saved = || ledger.export().budgets.len();
    assert_eq!(saved(), 1);
    sleep(secs(2)).await;
    assert_eq!(saved(), 0);
    drop(permit);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_out_of_calls_without_time_is_about_requests() {
    let limit = Limit::PerWindow {
        limit: 100,
        refill: 1,
        period: secs(1),
    };
    let ledger = LocalLedger::builder().budget(Budget::Requests, limit);
    let ledger = Arc::new(ledger.build());
    let lock_out = |permit: Permit| {
        permit.report(Signal::Busy {
            until: Instant::now() + secs(1),
        });
    };
    let request = several([("a", Budget::Requests, 12)]);
    lock_out(try_now(&ledger, &request).unwrap());
    sleep(secs(50)).await;
    for _ in 0..5 {
        try_now(&ledger, &request).unwrap().complete();
    }
    lock_out(try_now(&ledger, &request).unwrap());
    let learnt = format!("{:?}", ledger.export());
    assert!(learnt.contains("per_second"), "{learnt}");
}
