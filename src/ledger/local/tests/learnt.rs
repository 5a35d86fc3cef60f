//! Limits that are learnt.

use parking_lot::Mutex;

use super::*;

/// A server that takes `real` calls at a time, behind a policy of 27: how many of `calls` it refused.
async fn refused_by_a_lower_limit(real: usize, calls: usize) -> (usize, usize) {
    let ledger = ledger(27);
    let busy = Arc::new(Mutex::new(0_usize));
    let refused = Arc::new(Mutex::new(0_usize));
    let tasks: Vec<_> = (0..calls)
        .map(|_| {
            let (ledger, busy, refused) = (ledger.clone(), busy.clone(), refused.clone());
            tokio::spawn(async move {
                let mut ticket = None;
                loop {
                    let again = draw("a").with_ticket(ticket);
                    let permit = ledger.clone().acquire(again).await;
                    let Ok(permit) = permit else {
                        panic!("{permit:?}")
                    };
                    ticket = Some(permit.admission().ticket());
                    let fits = {
                        let mut busy = busy.lock();
                        let fits = *busy < real;
                        *busy += usize::from(fits);
                        fits
                    };
                    sleep(Duration::from_millis(100)).await;
                    if fits {
                        *busy.lock() -= 1;
                        permit.complete();
                        return;
                    }
                    *refused.lock() += 1;
                    permit.report(Signal::Exceeded(Budget::Concurrency));
                    permit.complete();
                }
            })
        })
        .collect();
    tokio::task::yield_now().await;
    let mut first_round = 0;
    for (n, task) in tasks.into_iter().enumerate() {
        task.await.unwrap();
        if n == 30 {
            first_round = *refused.lock();
        }
    }
    let refused = *refused.lock();
    let limit = {
        let snapshot = ledger.snapshot();
        snapshot.principals[0].budgets[0].limit
    };
    assert!(limit as usize <= real + 1, "learnt {limit} for {real}");
    nothing_left(&ledger).await;
    (first_round, refused - first_round)
}

#[tokio::test(start_paused = true)]
async fn a_lower_limit_is_learnt_and_tested_seldom() {
    for real in [1, 3, 10, 16, 26] {
        let calls = 5_000;
        let (first, later) = refused_by_a_lower_limit(real, calls).await;
        println!("limit {real}: {first} refused at first, {later} of {calls} later");
        assert!(first <= 60, "{first} refused at first with {real}");
        assert!(
            later * 100 <= calls,
            "{later} of {calls} refused with {real}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn quiet_responses_raise_a_learnt_limit_to_the_configured_one_and_no_further() {
    let ledger = ledger(3);
    let held: Vec<_> = (0..3)
        .map(|_| Permit::try_acquire(ledger.clone(), &draw("a")).unwrap())
        .collect();
    held[1].report(Signal::Exceeded(Budget::Concurrency));
    // Two others are held when the refusal is read.
    assert_eq!(ledger.snapshot().principals[0].budgets[0].limit, 2);
    drop(held);
    for _ in 0..1_000 {
        ledger.clone().acquire(draw("a")).await.unwrap().complete();
    }
    let _all: Vec<_> = (0..3)
        .map(|_| Permit::try_acquire(ledger.clone(), &draw("a")).unwrap())
        .collect();
    assert!(Permit::try_acquire(ledger.clone(), &draw("a")).is_none());
}

/// Which budget a refusal is about that does not say so.
#[tokio::test(start_paused = true)]
async fn too_many_at_the_same_time_means_the_budget_that_is_nearest_to_its_limit() {
    const OWN: Budget = Budget::Custom(0);
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(10))
        .budget(OWN, Limit::InFlight(4))
        .budget(Budget::FindCount, Limit::InFlight(3))
        .build();
    let ledger = Arc::new(ledger);
    let request = several([
        ("a", Budget::Concurrency, 1),
        ("a", OWN, 1),
        ("a", Budget::FindCount, 1),
    ]);
    let limits = || -> Vec<_> {
        let principals = ledger.snapshot().principals;
        let budgets = principals[0].budgets.iter();
        budgets.map(|of_one| of_one.limit).collect()
    };
    let held: Vec<_> = (0..3)
        .map(|_| try_now(&ledger, &request).unwrap())
        .collect();
    // Three of three rows are no refusal for too many calls.
    held[0].report(Signal::Exceeded(Budget::Concurrency));
    assert_eq!(limits(), [10, 2, 3]);
    held[1].report(Signal::Exceeded(Budget::FindCount));
    assert_eq!(limits(), [10, 2, 2]);
}
