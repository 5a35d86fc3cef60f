//! Limits and gates that are set from outside.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_raised_limit_wakes_those_that_wait() {
    let ledger = ledger(1);
    let start = Instant::now();
    let first = call(&ledger, draw("a"), secs(100));
    tokio::task::yield_now().await;
    // More than one operation hands out.
    let calls: Vec<_> = (0..300)
        .map(|_| call(&ledger, draw("a"), secs(100)))
        .collect();
    sleep(secs(5)).await;
    ledger
        .set_limit(&of("a"), Budget::Concurrency, 201)
        .unwrap();
    sleep(secs(1)).await;
    let snapshot = ledger.snapshot();
    assert_eq!(
        (snapshot.queued, snapshot.principals[0].budgets[0].held),
        (100, 201)
    );
    first.await.unwrap().unwrap();
    let mut began: Vec<_> = Vec::new();
    for call in calls {
        began.push((call.await.unwrap().unwrap() - start).as_secs());
    }
    began.sort_unstable();
    assert_eq!(
        (began[0], began[199], began[200], began[299]),
        (5, 5, 100, 105)
    );
    ledger
        .set_limit(&of("a"), Budget::Concurrency, None)
        .unwrap();
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_lowered_limit_lets_what_is_held_run_to_its_end() {
    let ledger = ledger(4);
    let mut held: Vec<_> = (0..4)
        .map(|_| try_now(&ledger, &draw("a")).unwrap())
        .collect();
    let zero = ledger.set_limit(&of("a"), Budget::Concurrency, 0);
    let budget = Budget::Concurrency;
    assert_eq!(zero, Err(SetLimitError::Zero { budget }));
    assert_eq!(ledger.snapshot().principals[0].budgets[0].limit, 4);
    ledger.set_limit(&of("a"), Budget::Concurrency, 1).unwrap();
    assert_eq!(ledger.snapshot().principals[0].budgets[0].limit, 1);
    // Others keep the configured number.
    let others: Vec<_> = std::iter::from_fn(|| try_now(&ledger, &draw("b"))).collect();
    assert_eq!(others.len(), 4);
    drop(others);
    while let Some(permit) = held.pop() {
        assert!(try_now(&ledger, &draw("a")).is_none());
        permit.complete();
    }
    let one = try_now(&ledger, &draw("a")).unwrap();
    assert!(try_now(&ledger, &draw("a")).is_none());
    ledger
        .set_limit(&of("a"), Budget::Concurrency, None)
        .unwrap();
    let all: Vec<_> = std::iter::from_fn(|| try_now(&ledger, &draw("a"))).collect();
    assert_eq!(all.len(), 3);
    drop((one, all));
    nothing_left_now(&ledger);
}

#[tokio::test(start_paused = true)]
async fn a_number_is_kept_until_it_is_the_configured_one_again() {
    let ledger = delegate(16, secs(300));
    let (svc, open) = (of("svc"), Budget::OpenMailboxes);
    let budget = Budget::SyncCalls;
    let unknown = ledger.set_limit(&svc, budget, 2);
    assert_eq!(unknown, Err(SetLimitError::UnknownBudget { budget }));
    nothing_left_now(&ledger);
    ledger.set_limit(&svc, open, 1).unwrap();
    ledger.set_limit(&svc, Budget::Concurrency, 3).unwrap();
    sleep(secs(30 * 86_400)).await;
    let permit = try_now(&ledger, &opens("svc", "m0")).unwrap();
    assert!(try_now(&ledger, &opens("svc", "m1")).is_none());
    let waiting = call(&ledger, opens("svc", "m1"), secs(1));
    sleep(secs(1)).await;
    let now = Instant::now();
    ledger.set_limit(&svc, open, 2).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), now);
    permit.complete();
    ledger.set_limit(&svc, open, None).unwrap();
    ledger.set_limit(&svc, Budget::Concurrency, None).unwrap();
    nothing_left(&ledger).await;
    // Of one that the ledger has never heard of, too.
    ledger.set_limit(&of("x"), open, None).unwrap();
    ledger.set_limit(&of("x"), Budget::Concurrency, 3).unwrap();
    ledger
        .set_limit(&of("x"), Budget::Concurrency, None)
        .unwrap();
    nothing_left_now(&ledger);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_number_that_the_server_names_is_where_the_limit_begins() {
    for (number, limit) in [(13, 13), (27, 27), (30, 27)] {
        let ledger = ledger(27);
        let permit = try_now(&ledger, &draw("a")).unwrap();
        let budget = Budget::Concurrency;
        permit.report(Signal::Limit { budget, number });
        let snapshot = ledger.snapshot();
        assert_eq!(snapshot.principals[0].budgets[0].limit, limit);
        permit.complete();
        if limit == 27 {
            nothing_left_now(&ledger);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn gates_can_be_closed_from_outside() {
    let ledger = ledger(4);
    let until = Instant::now() + secs(60);
    ledger.close_gate(&of("a"), until);
    ledger.close_gate(&of("a"), until - secs(30));
    ledger.close_endpoint_gate(&host(), until + secs(60));
    ledger.close_endpoint_gate(&host(), until);
    let a = call(&ledger, draw("a"), secs(1));
    let b = call(&ledger, draw("b").with_endpoint(host()), secs(1));
    assert_eq!(a.await.unwrap().unwrap(), until);
    assert_eq!(b.await.unwrap().unwrap(), until + secs(60));
    // A gate whose time is over already is none.
    ledger.close_gate(&of("c"), until);
    assert!(try_now(&ledger, &draw("c")).is_some());
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_printed_says_what_is_kept_and_held() {
    let ledger = ledger(4);
    let permit = try_now(&ledger, &draw("a")).unwrap();
    let printed = format!("{ledger:?} {permit:?}");
    let told = ["Concurrency, InFlight(4)", "Other(a)"];
    assert!(told.iter().all(|word| printed.contains(word)), "{printed}");
}

/// How calls end that draw on a budget with a wrong limit. Others are not concerned.
#[tokio::test(start_paused = true)]
async fn a_budget_that_is_configured_wrongly_is_an_error_of_each_call() {
    const ZERO: Budget = Budget::Custom(0);
    const CLOSED: Budget = Budget::Custom(1);
    const TWICE: Budget = Budget::Custom(2);
    let none = Limit::Distinct {
        limit: 0,
        idle: secs(1),
    };
    let ledger = LocalLedger::builder()
        .budget(TWICE, Limit::InFlight(2))
        .budget(ZERO, Limit::InFlight(0))
        .budget(CLOSED, none)
        .budget(Budget::Concurrency, Limit::InFlight(1))
        .budget(TWICE, Limit::InFlight(2))
        .budget(TWICE, Limit::InFlight(2))
        .build();
    let ledger = Arc::new(ledger);
    for budget in [ZERO, CLOSED, TWICE] {
        for charges in [vec![budget], vec![Budget::Concurrency, budget]] {
            let request = several(charges.into_iter().map(|budget| ("a", budget, 1)));
            assert!(try_now(&ledger, &request).is_none());
            let error = ledger.clone().acquire(request).await.unwrap_err();
            let expected = match budget {
                TWICE => matches!(error, AcquireError::DuplicateBudget { budget: TWICE }),
                _ => matches!(error, AcquireError::ZeroLimit),
            };
            assert!(expected, "{budget}: {error}");
        }
        assert!(ledger.set_limit(&of("a"), budget, 2).is_err());
    }
    assert!(try_now(&ledger, &draw("a")).is_some());
    nothing_left_now(&ledger);
    let error = LocalLedger::in_flight(0);
    let error = Arc::new(error).acquire(draw("a")).await.unwrap_err();
    assert!(error.to_string().contains("allow at least 1"), "{error}");
}
