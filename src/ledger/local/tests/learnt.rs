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

/// It is not the one with the lowest limit. Of equal ones it is the first.
#[tokio::test(start_paused = true)]
async fn a_low_limit_is_not_the_nearest_one() {
    const OWN: Budget = Budget::Custom(0);
    for (own, others, calls, expected) in [(4, 8, 1, [8, 4]), (10, 0, 2, [1, 10])] {
        let ledger = LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(10))
            .budget(OWN, Limit::InFlight(own))
            .build();
        let ledger = Arc::new(ledger);
        let mut held: Vec<_> = (0..others)
            .map(|_| try_now(&ledger, &draw("a")).unwrap())
            .collect();
        let both = several([("a", Budget::Concurrency, 1), ("a", OWN, 1)]);
        held.extend((0..calls).map(|_| try_now(&ledger, &both).unwrap()));
        let refused = held.last().unwrap();
        refused.report(Signal::Exceeded(Budget::Concurrency));
        let principals = ledger.snapshot().principals;
        let limits = principals[0].budgets.iter().map(|of_one| of_one.limit);
        assert_eq!(limits.collect::<Vec<_>>(), expected);
    }
}

fn limit_of(ledger: &LocalLedger) -> u32 {
    ledger.snapshot().principals[0].budgets[0].limit
}

/// Four calls, one of which is refused: three go.
async fn three_of_ten() -> Arc<LocalLedger> {
    let ledger = ledger(10);
    let held: Vec<_> = (0..4)
        .map(|_| try_now(&ledger, &draw("a")).unwrap())
        .collect();
    held[3].report(Signal::Exceeded(Budget::Concurrency));
    drop(held);
    assert_eq!(limit_of(&ledger), 3);
    ledger
}

#[tokio::test(start_paused = true)]
async fn calls_whose_response_has_begun_do_not_count_for_a_refusal() {
    let ledger = three_of_ten().await;
    let held: Vec<_> = (0..3)
        .map(|_| try_now(&ledger, &draw("a")).unwrap())
        .collect();
    held[..2]
        .iter()
        .for_each(|call| call.report(Signal::Accepted));
    sleep(secs(1)).await;
    let refused = try_now(&ledger, &draw("a")).unwrap();
    assert_eq!(limit_of(&ledger), 4);
    refused.report(Signal::Exceeded(Budget::Concurrency));
    assert_eq!(limit_of(&ledger), 1);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_holds_again_is_not_watched_any_more() {
    let ledger = three_of_ten().await;
    let _held = try_now(&ledger, &draw("a")).unwrap();
    let mut calls = Vec::new();
    for _ in 0..100 {
        let more = std::iter::from_fn(|| try_now(&ledger, &draw("a")));
        calls.extend(more);
        sleep(secs(1)).await;
        calls.drain(..).for_each(Permit::complete);
    }
    assert_eq!(limit_of(&ledger), 10);
    let call = try_now(&ledger, &draw("a")).unwrap();
    assert!(!call.admission().is_watched());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_nobody_tries_is_forgotten_after_a_quarter_of_an_hour() {
    let quarter = secs(15 * 60);
    let ledger = three_of_ten().await;
    sleep(quarter + Duration::from_millis(49)).await;
    assert_eq!(limit_of(&ledger), 3);
    sleep(Duration::from_millis(1)).await;
    nothing_left_now(&ledger);

    let ledger = delegate(16, secs(300));
    let refused = try_now(&ledger, &opens("svc", "m")).unwrap();
    refused.report(Signal::Exceeded(Budget::OpenMailboxes));
    drop(refused);
    // An eighth of the time in which a mailbox closes, until it might have been tried.
    sleep(quarter + secs(300) / 8).await;
    nothing_left_now(&ledger);
}

/// A ledger with one budget of each kind.
fn of_all_kinds() -> Arc<LocalLedger> {
    let open = Limit::Distinct {
        limit: 2,
        idle: secs(300),
    };
    let sliding = Limit::Sliding {
        limit: 30,
        period: secs(60),
    };
    let builder = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(27))
        .budget(Budget::OpenMailboxes, open)
        .budget(Budget::MessageRate, sliding)
        .budget(Budget::Requests, Limit::per_window(60, secs(60)));
    Arc::new(builder.build())
}

/// What is left of each after a time: calls at a time, messages, requests; whether a mailbox can be opened, and how long the gate is
/// closed.
fn left(ledger: &Arc<LocalLedger>) -> (u32, u32, u32, bool, Option<u64>) {
    let now = |request: &AcquireRequest| try_now(ledger, request).is_some();
    let most = |budget, most: u32| {
        (1..=most)
            .rev()
            .find(|amount| now(&several([("b", budget, *amount)])))
    };
    let gate = ledger.snapshot();
    let gate = gate.principals.iter().find_map(|one| one.gated);
    let mut held = Vec::new();
    while let Some(permit) = try_now(ledger, &draw("a")) {
        held.push(permit);
    }
    (
        held.len() as u32,
        most(Budget::MessageRate, 30).unwrap_or(0),
        most(Budget::Requests, 60).unwrap_or(0),
        now(&opens("svc", "new@contoso.com")),
        gate.map(|gate| gate.as_secs_f64().round() as u64),
    )
}

#[tokio::test(start_paused = true)]
async fn another_ledger_takes_in_what_one_knows() {
    let first = of_all_kinds();
    let calls: Vec<_> = (0..20)
        .filter_map(|_| try_now(&first, &draw("a")))
        .collect();
    calls[19].report(Signal::Exceeded(Budget::Concurrency));
    drop(calls);
    try_now(&first, &opens("svc", "amy@contoso.com"))
        .unwrap()
        .complete();
    sleep(secs(200)).await;
    let bo = try_now(&first, &opens("svc", "bo@contoso.com")).unwrap();
    try_now(&first, &several([("b", Budget::MessageRate, 20)]))
        .unwrap()
        .complete();
    try_now(&first, &several([("b", Budget::Requests, 40)]))
        .unwrap()
        .complete();
    first.close_gate(&of("gated"), Instant::now() + secs(50));
    let saved = first.export();

    let second = of_all_kinds();
    second.import(&saved);
    assert_eq!(left(&second), (19, 10, 20, false, Some(50)));
    // It is tidied up as if it had been learnt here.
    nothing_left(&second).await;
    // Amy's mailbox closes at the time at which it would have closed.
    let third = of_all_kinds();
    third.import(&saved);
    sleep(secs(99)).await;
    assert!(try_now(&third, &opens("svc", "new@contoso.com")).is_none());
    sleep(secs(2)).await;
    assert!(try_now(&third, &opens("svc", "new@contoso.com")).is_some());
    // What is not kept, or is kept otherwise, is left out.
    let other = LocalLedger::builder().budget(Budget::Requests, Limit::InFlight(3));
    let other = Arc::new(other.build());
    other.import(&saved);
    assert!(try_now(&other, &several([("b", Budget::Requests, 3)])).is_some());
    drop(bo);
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn what_has_passed_since_is_not_taken_in() {
    let first = of_all_kinds();
    try_now(&first, &several([("b", Budget::MessageRate, 20)]))
        .unwrap()
        .complete();
    try_now(&first, &several([("b", Budget::Requests, 40)]))
        .unwrap()
        .complete();
    try_now(&first, &opens("svc", "amy@contoso.com"))
        .unwrap()
        .complete();
    try_now(&first, &opens("svc", "bo@contoso.com"))
        .unwrap()
        .complete();
    first.close_gate(&of("gated"), Instant::now() + secs(50));
    let saved = serde_json::to_value(first.export()).unwrap();
    for (age, expected) in [
        (10.0, (27, 10, 30, false, Some(40))),
        (59.0, (27, 10, 60, false, None)),
        (61.0, (27, 30, 60, false, None)),
        (301.0, (27, 30, 60, true, None)),
        // Another clock, and none.
        (-1e6, (27, 10, 20, false, Some(50))),
        (f64::MIN, (27, 10, 20, false, Some(50))),
    ] {
        let mut saved = saved.clone();
        saved["at"] = serde_json::json!(saved["at"].as_f64().unwrap() - age);
        let second = of_all_kinds();
        second.import(&serde_json::from_value(saved).unwrap());
        assert_eq!(left(&second), expected, "{age}");
    }
    // Numbers that nobody has written.
    let strange = r#"{"at": 1e308, "gates": [{"principal": "x", "closed": 1e9}, {"principal": "account:x", "closed": 1e15}], "budgets": [
        {"principal": "other:b", "budget": "Requests", "known": {"Window": {"missing": -1e308, "cost": [1e308, -1.0], "rate":
            {"capacity": 1e308, "per_second": 0.0, "missing": 1e308, "holds": 0.0}}}},
        {"principal": "other:b", "budget": "Concurrency", "known": {"Limit": 0}},
        {"principal": "other:b", "budget": "OpenMailboxes", "known": {"Open": {"values": [{"value": "x", "stays": 1.0},
            {"value": "mailbox:x", "stays": 1e15}], "limit": 0}}}]}"#;
    let second = of_all_kinds();
    second.import(&serde_json::from_str(strange).unwrap());
    drop(second.export());
    assert_eq!(left(&second).2, 60);
    // A rate of nothing is not believed: what is drawn comes back.
    tokio::time::sleep(secs(3000)).await;
    assert!(try_now(&second, &several([("b", Budget::Requests, 1)])).is_some());
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn a_rate_that_nobody_can_have_measured_is_not_believed() {
    // Requests a second, as in a damaged file; the last one is slow, but may have been measured.
    for (per_second, is_believed) in [("1e-12", false), ("-1.0", false), ("1e-4", true)] {
        let saved = format!(
            r#"{{"at": 1e308, "gates": [], "budgets": [{{"principal": "other:b", "budget": "Requests", "known":
                {{"Window": {{"missing": 0.0, "cost": [0.0, 0.0], "rate": {{"capacity": 1.0, "per_second": {per_second},
                "missing": 1.0, "holds": 1e6}}}}}}}}]}}"#
        );
        let ledger = of_all_kinds();
        ledger.import(&serde_json::from_str(&saved).unwrap());
        let now = try_now(&ledger, &several([("b", Budget::Requests, 1)]));
        assert_eq!(now.is_none(), is_believed, "{per_second}");
        drop(now);
        tokio::time::sleep(secs(10_001)).await;
        let later = try_now(&ledger, &several([("b", Budget::Requests, 1)]));
        assert!(later.is_some(), "{per_second}");
    }
}

/// As in a damaged file: calls would wait for as long as they may, after each restart again.
#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn nothing_that_is_taken_in_holds_calls_back_for_more_than_a_day() {
    for (gate, missing) in [("1e12", "0.0"), ("1.0", "1e30")] {
        let saved = format!(
            r#"{{"at": 1e308, "gates": [{{"principal": "other:b", "closed": {gate}}}], "budgets": [{{"principal": "other:b",
                "budget": "Requests", "known": {{"Window": {{"missing": {missing}, "cost": [0.0, 0.0], "rate": null}}}}}}]}}"#
        );
        let ledger = of_all_kinds();
        ledger.import(&serde_json::from_str(&saved).unwrap());
        let one = || several([("b", Budget::Requests, 1)]);
        assert!(try_now(&ledger, &one()).is_none(), "{saved}");
        tokio::time::sleep(secs(86_400 + 3_600)).await;
        assert!(try_now(&ledger, &one()).is_some(), "{saved}");
    }
}
