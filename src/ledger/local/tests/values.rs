//! Distinct values: the open mailboxes of a delegate account.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::*;

/// `calls` round robin over `mailboxes`, all asked for at once. Checks what the server would: never more than 16 open.
async fn round_robin(calls: usize, mailboxes: usize, time: Duration, overtake: Duration) -> f64 {
    let ledger = delegate(16, overtake);
    let used: Arc<Mutex<HashMap<usize, Instant>>> = Arc::default();
    let start = Instant::now();
    let tasks: Vec<_> = (0..calls)
        .map(|n| {
            let (ledger, used) = (ledger.clone(), used.clone());
            let mailbox = n % mailboxes;
            tokio::spawn(async move {
                let draw = opens("svc", &format!("m{mailbox}@contoso.com"));
                let permit = ledger.acquire(draw).await.unwrap();
                let open = {
                    let mut used = used.lock();
                    used.insert(mailbox, Instant::now() + time);
                    used.values()
                        .filter(|last| **last + secs(300) > Instant::now())
                        .count()
                };
                assert!(open <= 16, "{open} mailboxes open");
                sleep(time).await;
                permit.complete();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let took = start.elapsed();
    nothing_left(&ledger).await;
    took.as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn delegate_calls_are_grouped_by_mailbox() {
    let took = round_robin(4_800, 48, secs(1), secs(300)).await;
    // Three groups of 16 mailboxes with 100 calls each: with 27 at a time, each group takes 1,600 / 27 s at least, and
    // between two groups the mailboxes of the first have to stay unused for 300 s.
    let least = 2.0 * 300.0 + 3.0 * (1_600.0_f64 / 27.0);
    println!("{took:.0} s, at least {least:.0} s");
    assert!(took <= least * 1.1);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_new_mailbox_is_not_overtaken_for_ever() {
    let ledger = delegate(1, secs(60));
    let start = Instant::now();
    let busy = ledger.clone();
    tokio::spawn(async move {
        loop {
            let Ok(permit) = busy.clone().acquire(opens("svc", "a")).await else {
                return;
            };
            sleep(secs(1)).await;
            permit.complete();
        }
    });
    sleep(secs(1)).await;
    let began = call(&ledger, opens("svc", "b"), secs(1))
        .await
        .unwrap()
        .unwrap();
    // 60 s of being overtaken, the last call to a, then 300 s until a is closed.
    let waited = began - start;
    assert!(waited >= secs(360) && waited <= secs(364), "{waited:?}");
}

/// Two hours of steady calls to more mailboxes than may be open: how many timed out, and how long the others waited.
async fn steady(mailboxes: usize, overtake: Duration) -> (usize, usize, f64) {
    let open = Limit::Distinct {
        limit: 16,
        idle: secs(300),
    };
    let ledger = Arc::new(
        LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(27))
            .budget(Budget::OpenMailboxes, open)
            .max_overtake(overtake)
            .build(),
    );
    let mut rng = fastrand::Rng::with_seed(7);
    let calls: Vec<_> = (0..7_200)
        .map(|_| {
            let ledger = ledger.clone();
            let mailbox = format!("m{}", rng.usize(..mailboxes));
            let begin = Duration::from_millis(rng.u64(..7_200_000));
            tokio::spawn(async move {
                sleep(begin).await;
                let start = Instant::now();
                let permit = ledger.acquire(opens("svc", &mailbox)).await.ok()?;
                let waited = start.elapsed();
                sleep(Duration::from_millis(500)).await;
                permit.complete();
                Some(waited.as_secs_f64())
            })
        })
        .collect();
    let (mut timed_out, mut waited) = (0, Vec::new());
    for call in calls {
        match call.await.unwrap() {
            Some(time) => waited.push(time),
            None => timed_out += 1,
        }
    }
    let mean = waited.iter().sum::<f64>() / waited.len() as f64;
    (timed_out, waited.len(), mean)
}

/// What the default of `max_overtake` rests on: half and twice as long are no better.
#[tokio::test(start_paused = true)]
async fn the_default_for_overtaking_is_the_best() {
    let default = LocalLedger::builder().config.max_overtake;
    for mailboxes in [24, 40] {
        let (timed_out, done, mean) = steady(mailboxes, default).await;
        println!("{mailboxes} mailboxes, {default:?}: {done} waited {mean:.0} s on average");
        assert_eq!(timed_out, 0);
        for other in [default / 2, default * 2] {
            let (timed_out, done, others) = steady(mailboxes, other).await;
            println!("{other:?}: {timed_out} timed out, {done} waited {others:.0} s");
            assert!(timed_out > 0 || others > mean);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_mailbox_is_tried_again_by_one_call() {
    let ledger = delegate(16, secs(300));
    // The server has 2 places only, for mailboxes that have worked before.
    for name in ["m0", "m1"] {
        Permit::try_acquire(ledger.clone(), &opens("svc", name))
            .unwrap()
            .complete();
    }
    let held: Vec<_> = (0..2)
        .map(|n| Permit::try_acquire(ledger.clone(), &opens("svc", &format!("m{n}"))).unwrap())
        .collect();
    let refused = Permit::try_acquire(ledger.clone(), &opens("svc", "m9")).unwrap();
    refused.report(Signal::Exceeded(Budget::OpenMailboxes));
    drop(refused);
    let start = Instant::now();
    let open = |ledger: &LocalLedger| {
        let budgets = &ledger.snapshot().principals[0].budgets;
        let open = budgets.iter().find(|b| b.budget == Budget::OpenMailboxes);
        open.map(|open| (open.held, open.limit))
    };
    assert_eq!(open(&ledger), Some((2, 2)));
    // Open mailboxes go on, a new one waits for an eighth of the time that one takes to close.
    assert!(Permit::try_acquire(ledger.clone(), &opens("svc", "m1")).is_some());
    let first = tokio::spawn(ledger.clone().acquire(opens("svc", "m9")));
    tokio::task::yield_now().await;
    let second = tokio::spawn(ledger.clone().acquire(opens("svc", "m8")));
    let probe = first.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(37_500));
    assert!(!second.is_finished());
    probe.report(Signal::Exceeded(Budget::OpenMailboxes));
    probe.complete();
    let probe = second.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), secs(75));
    probe.complete();
    drop(held);
    // It was let in: so are the next ones.
    sleep(Duration::from_millis(100)).await;
    assert!(Permit::try_acquire(ledger.clone(), &opens("svc", "m7")).is_some());
    assert_eq!(open(&ledger), Some((4, 5)));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_value_the_probe_opened_goes_with_the_next() {
    let ledger = delegate(1, secs(3600));
    let held = try_now(&ledger, &opens("svc", "x")).unwrap();
    let probe = call(&ledger, opens("svc", "y"), secs(1));
    let another = call(&ledger, opens("svc", "u"), secs(1));
    let same = call(&ledger, opens("svc", "y"), secs(1));
    tokio::task::yield_now().await;
    held.complete();
    let start = Instant::now();
    sleep(secs(299)).await;
    ledger.close_gate(&of("svc"), Instant::now() + Duration::from_millis(500));
    sleep(Duration::from_millis(1_500)).await;
    let others: Vec<_> = (0..2)
        .map(|_| call(&ledger, draw("svc"), secs(1)))
        .collect();
    assert_eq!(probe.await.unwrap().unwrap() - start, secs(300));
    // Not behind the one that came before it, whose mailbox is not open.
    assert_eq!(same.await.unwrap().unwrap() - start, secs(301));
    assert_eq!(another.await.unwrap().unwrap() - start, secs(602));
    for other in others {
        assert!(other.await.unwrap().unwrap() - start <= secs(302));
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_another_call_was_refused_is_open_once_a_call_has_used_it() {
    let ledger = delegate(1, secs(3600));
    let calls: Vec<_> = (0..3)
        .map(|_| try_now(&ledger, &opens("svc", "x")).unwrap())
        .collect();
    calls[0].report(Signal::Exceeded(Budget::OpenMailboxes));
    calls[1].report(Signal::Exceeded(Budget::OpenMailboxes));
    let start = Instant::now();
    let mut calls = calls.into_iter();
    for refused in calls.by_ref().take(2) {
        refused.complete();
    }
    // It was admitted before the others were refused, and sent after that.
    sleep(secs(1)).await;
    calls.next().unwrap().complete();
    let other = call(&ledger, opens("svc", "y"), secs(1));
    assert_eq!(other.await.unwrap().unwrap() - start, secs(301));
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_closes_no_value_that_works_if_another_one_is_gone() {
    let ledger = delegate(2, secs(3600));
    let both: Charges = ["x", "y"]
        .map(|name| Charge::of_value(of("svc"), Budget::OpenMailboxes, Principal::mailbox(name)))
        .into_iter()
        .collect();
    let refused = try_now(&ledger, &AcquireRequest::new(both)).unwrap();
    let admission = refused.admission().clone();
    refused.complete();
    sleep(secs(301)).await;
    try_now(&ledger, &opens("svc", "y")).unwrap().complete();
    ledger.report(&admission, Signal::Exceeded(Budget::OpenMailboxes));
    let budgets = &ledger.snapshot().principals[0].budgets;
    let open = budgets.iter().find(|b| b.budget == Budget::OpenMailboxes);
    assert_eq!(open.map(|open| open.held), Some(1));
}

/// Calls to a mailbox one after the other, each before the last one has ended, for ever.
fn keep_busy(ledger: &Arc<LocalLedger>, mailbox: &'static str) {
    for offset in [0, 500] {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(offset)).await;
            while let Ok(permit) = ledger.clone().acquire(opens("svc", mailbox)).await {
                sleep(secs(1)).await;
                permit.complete();
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_ages_though_nothing_else_happens_and_many_others_wait() {
    let ledger = delegate(1, secs(60));
    ledger.set_limit(&of("z"), Budget::Concurrency, 1).unwrap();
    let _held = try_now(&ledger, &draw("z")).unwrap();
    let _others: Vec<_> = (0..5).map(|_| parked(&ledger, draw("z"))).collect();
    let held = try_now(&ledger, &opens("svc", "a")).unwrap();
    let waiting = call(&ledger, opens("svc", "b"), secs(1));
    sleep(secs(50)).await;
    try_now(&ledger, &opens("svc", "a")).unwrap().complete();
    sleep(secs(20)).await;
    assert!(try_now(&ledger, &opens("svc", "a")).is_none());
    held.complete();
    let now = Instant::now();
    assert_eq!(waiting.await.unwrap().unwrap(), now + secs(300));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_moves_to_the_head_of_a_list_ages_from_when_it_came() {
    let ledger = delegate(1, secs(60));
    keep_busy(&ledger, "a");
    sleep(secs(1)).await;
    let start = Instant::now();
    let older = opens("svc", "b").with_not_before(start + secs(50));
    let older = call(&ledger, older, secs(1));
    sleep(secs(40)).await;
    let younger = call(&ledger, opens("svc", "b"), secs(1));
    let waited = older.await.unwrap().unwrap() - start;
    assert!(waited >= secs(360) && waited <= secs(362), "{waited:?}");
    younger.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_value_is_open_goes_as_soon_as_the_gate_lets_it() {
    let ledger = delegate(1, secs(3600));
    let held = try_now(&ledger, &opens("svc", "x")).unwrap();
    let probe = tokio::spawn(ledger.clone().acquire(opens("svc", "y")));
    tokio::task::yield_now().await;
    let another = call(&ledger, opens("svc", "u"), secs(1));
    let same = call(&ledger, opens("svc", "y"), secs(1));
    tokio::task::yield_now().await;
    held.complete();
    let start = Instant::now();
    sleep(secs(299)).await;
    ledger.close_gate(&of("svc"), Instant::now() + Duration::from_millis(500));
    let probe = probe.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), secs(300));
    sleep(secs(5)).await;
    // The response has come, its body goes on.
    probe.report(Signal::Accepted);
    assert_eq!(same.await.unwrap().unwrap() - start, secs(305));
    another.abort();
}

#[tokio::test(start_paused = true)]
async fn for_ever_is_long() {
    let open = Limit::Distinct {
        limit: 1,
        idle: Duration::MAX,
    };
    let ledger = LocalLedger::builder()
        .budget(Budget::OpenMailboxes, open)
        .build();
    let ledger = Arc::new(ledger);
    try_now(&ledger, &opens("svc", "m")).unwrap().complete();
    tokio::time::advance(secs(29 * 365 * 86_400)).await;
    assert!(try_now(&ledger, &opens("svc", "n")).is_none());
    assert!(try_now(&ledger, &opens("svc", "m")).is_some());
}

/// One mailbox at a time and one call, and the call is held. Mailbox `x` was just used.
fn one_of_each() -> (Arc<LocalLedger>, Permit) {
    let ledger = delegate(1, secs(3600));
    ledger
        .set_limit(&of("svc"), Budget::Concurrency, 1)
        .unwrap();
    try_now(&ledger, &opens("svc", "x")).unwrap().complete();
    let held = try_now(&ledger, &draw("svc")).unwrap();
    (ledger, held)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_needs_another_value_by_now_holds_up_nobody() {
    let ledger = delegate(2, secs(3600));
    let [one, other] = ["one", "other"].map(|open| try_now(&ledger, &opens("svc", open)).unwrap());
    let account = of("svc");
    let of_both = ["x", "y"].map(|mailbox| {
        Charge::of_value(
            account.clone(),
            Budget::OpenMailboxes,
            Principal::mailbox(mailbox),
        )
    });
    let mut both = parked(
        &ledger,
        AcquireRequest::new(of_both.into_iter().collect::<Charges>()),
    );
    let mut behind = parked(&ledger, opens("svc", "x"));
    let urgent = opens("svc", "x").with_priority(crate::extensions::Priority::Interactive);
    let urgent = call(&ledger, urgent, secs(1));
    tokio::task::yield_now().await;
    one.complete();
    sleep(Duration::from_millis(300_500)).await;
    assert!(poll_once(&mut behind).is_ready(), "its value is open");
    assert!(poll_once(&mut both).is_pending());
    drop((both, behind, other, urgent));
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_is_kept_for_a_call_that_waits_for_something_else() {
    let (ledger, held) = one_of_each();
    let older = call(&ledger, opens("svc", "y"), secs(1));
    tokio::task::yield_now().await;
    let waiting = call(&ledger, opens("svc", "x"), secs(1));
    sleep(secs(400)).await;
    held.complete();
    let now = Instant::now();
    assert_eq!(waiting.await.unwrap().unwrap(), now);
    assert_eq!(older.await.unwrap().unwrap(), now + secs(301));
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_is_kept_is_open_to_those_that_wait_for_it() {
    let (ledger, _held) = one_of_each();
    let _calls = ["y", "z"].map(|value| parked(&ledger, opens("svc", value)));
    let hurried = opens("svc", "y").with_deadline(Instant::now() + secs(310));
    let error = ledger.clone().acquire(hurried).await.unwrap_err();
    // After 300 seconds the first one has its place, and so has this one.
    let AcquireError::TimedOut { contended, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(contended.budget(), Some(Budget::Concurrency));
}

#[tokio::test(start_paused = true)]
async fn calls_hope_for_as_many_values_as_there_are_places() {
    let ledger = delegate(5, secs(30));
    let _held = try_now(&ledger, &opens("svc", "x")).unwrap();
    let list = crate::ledger::Contended::Budget(of("svc"), Budget::OpenMailboxes);
    assert_eq!(ledger.state.lock().places(&list), 5);
}
