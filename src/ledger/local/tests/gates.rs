//! Gates, and the calls that test them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_gate_holds_back_one_principal_and_lets_one_probe_go_first() {
    let ledger = ledger(10);
    let permit = Permit::try_acquire(ledger.clone(), &draw("a")).unwrap();
    let until = Instant::now() + secs(300);
    permit.report(Signal::Busy { until });
    // A shorter `retry_after` that comes later shortens nothing.
    permit.report(Signal::Busy {
        until: Instant::now() + secs(1),
    });
    permit.complete();

    let others: Vec<_> = (0..20).map(|_| call(&ledger, draw("b"), secs(1))).collect();
    let held: Vec<_> = (0..20).map(|_| call(&ledger, draw("a"), secs(1))).collect();
    let start = Instant::now();
    for other in others {
        assert!(other.await.unwrap().unwrap() - start <= secs(1));
    }
    let mut began = Vec::new();
    for call in held {
        began.push(call.await.unwrap().unwrap() - until);
    }
    began.sort();
    let at = |n: u64| began.iter().filter(|time| **time == secs(n)).count();
    // One probe, then two, four, ...
    assert_eq!([at(0), at(1), at(2), at(3), at(4)], [1, 2, 4, 8, 5]);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_when_the_gate_closes_does_not_leave_either() {
    let ledger = ledger(1);
    let permit = Permit::try_acquire(ledger.clone(), &draw("a")).unwrap();
    let waiting = call(&ledger, draw("a"), secs(1));
    tokio::task::yield_now().await;
    let until = Instant::now() + secs(300);
    permit.report(Signal::Busy { until });
    permit.complete();
    assert_eq!(waiting.await.unwrap().unwrap(), until);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_keeps_the_others_back() {
    let ledger = ledger(10);
    let permit = Permit::try_acquire(ledger.clone(), &draw("a")).unwrap();
    let first = Instant::now() + secs(10);
    permit.report(Signal::Busy { until: first });
    drop(permit);
    let waiting = tokio::spawn(ledger.clone().acquire(draw("a")));
    tokio::task::yield_now().await;
    let others: Vec<_> = (0..5).map(|_| call(&ledger, draw("a"), secs(1))).collect();
    let probe = waiting.await.unwrap().unwrap();
    assert!(probe.admission().is_watched());
    assert_eq!(Instant::now(), first);
    sleep(secs(2)).await;
    let second = Instant::now() + secs(60);
    probe.report(Signal::Busy { until: second });
    probe.complete();
    for other in others {
        assert!(other.await.unwrap().unwrap() >= second);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_is_followed_by_the_next() {
    let ledger = ledger(10);
    let permit = Permit::try_acquire(ledger.clone(), &draw("a")).unwrap();
    let until = Instant::now() + secs(10);
    permit.report(Signal::Busy { until });
    drop(permit);
    let probe = ledger.clone().acquire(draw("a")).await.unwrap();
    let next = call(&ledger, draw("a"), secs(1));
    sleep(secs(5)).await;
    drop(probe);
    assert_eq!(next.await.unwrap().unwrap(), until + secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_good_response_opens_the_gate_before_its_long_body_has_ended() {
    let ledger = ledger(10);
    let permit = Permit::try_acquire(ledger.clone(), &draw("a")).unwrap();
    let until = Instant::now() + secs(10);
    permit.report(Signal::Busy { until });
    drop(permit);
    let probe = ledger.clone().acquire(draw("a")).await.unwrap();
    let next = call(&ledger, draw("a"), secs(1));
    sleep(secs(1)).await;
    probe.report(Signal::Accepted);
    assert_eq!(next.await.unwrap().unwrap(), until + secs(1));
    drop(probe);
}

#[tokio::test(start_paused = true)]
async fn a_gated_endpoint_holds_back_everybody() {
    let ledger = ledger(10);
    let to = |name: &str, host: &'static str| {
        draw(name).with_endpoint(http::uri::Authority::from_static(host))
    };
    let permit = Permit::try_acquire(ledger.clone(), &to("a", "one")).unwrap();
    let until = Instant::now() + secs(3);
    permit.report(Signal::EndpointBusy { until });
    permit.complete();
    assert_eq!(ledger.snapshot().gated_endpoints.len(), 1);
    let elsewhere = call(&ledger, to("a", "two"), secs(1));
    assert_eq!(elsewhere.await.unwrap().unwrap() + secs(3), until);
    let here = call(&ledger, to("b", "one"), secs(1));
    assert_eq!(here.await.unwrap().unwrap(), until);
    nothing_left(&ledger).await;
}

/// How many of `calls` begin together after the gate of "a" has opened, round trip by round trip.
async fn rounds(ledger: &Arc<LocalLedger>, request: AcquireRequest, calls: usize) -> Vec<usize> {
    let until = Instant::now() + secs(30);
    ledger.close_gate(&of("a"), until);
    let calls: Vec<_> = (0..calls)
        .map(|_| call(ledger, request.clone(), secs(1)))
        .collect();
    let mut began = Vec::new();
    for call in calls {
        let round = (call.await.unwrap().unwrap() - until).as_secs() as usize;
        began.resize(began.len().max(round + 1), 0);
        began[round] += 1;
    }
    began
}

#[tokio::test(start_paused = true)]
async fn one_probe_leaves_whatever_the_kind_of_its_first_charge() {
    let unlimited = several([("a", Budget::SyncCalls, 1)]);
    let both = several([("a", Budget::SyncCalls, 1), ("a", Budget::Concurrency, 1)]);
    let value = Charge::of_value(of("a"), Budget::OpenMailboxes, Principal::mailbox("m"));
    let values = [value, Charge::new(of("a"), Budget::Concurrency, 1)];
    let values = AcquireRequest::new(values.into_iter().collect::<Charges>());
    let elsewhere = several([("0", Budget::Concurrency, 1), ("a", Budget::SyncCalls, 1)]);
    for request in [
        draw("a"),
        unlimited,
        both,
        values,
        opens("a", "m"),
        elsewhere,
    ] {
        let ledger = delegate(16, secs(300));
        let began = rounds(&ledger, request.clone(), 20).await;
        assert_eq!(began, [1, 2, 4, 8, 5], "{request:?}");
        nothing_left(&ledger).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_response_counts_once() {
    let ledger = ledger(100);
    ledger.close_gate(&of("a"), Instant::now() + secs(1));
    sleep(secs(1)).await;
    let mut began = Vec::new();
    for _ in 0..4 {
        let round: Vec<_> = std::iter::from_fn(|| try_now(&ledger, &draw("a"))).collect();
        began.push(round.len());
        for permit in round {
            // Told early, told again, ended, and told once more.
            permit.report(Signal::Accepted);
            permit.report(Signal::Accepted);
            let admission = permit.admission().clone();
            permit.complete();
            ledger.report(&admission, Signal::Accepted);
        }
    }
    assert_eq!(began, [1, 2, 4, 8]);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_forgotten_by_time_alone() {
    let ledger = ledger(100);
    let to = draw("a").with_endpoint(host());
    // Two 503s, each to several calls at a time: the endpoint has a limit of its own then.
    for _ in 0..2 {
        let calls: Vec<_> = std::iter::from_fn(|| try_now(&ledger, &to))
            .take(8)
            .collect();
        let until = Instant::now() + secs(2);
        for permit in calls {
            permit.report(Signal::EndpointBusy { until });
        }
        sleep(secs(70)).await;
    }
    assert_eq!(ledger.state.lock().left().endpoints, 1);
    sleep(secs(30 * 86_400)).await;
    // The first call finds nothing in its way, and the second the fast path.
    let all: Vec<_> = std::iter::from_fn(|| try_now(&ledger, &to))
        .take(200)
        .collect();
    assert_eq!(all.len(), 100);
    assert_eq!(ledger.state.lock().left().endpoints, 0);
    drop(all);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn other_endpoints_let_one_be_forgotten() {
    let ledger = ledger(100);
    ledger.close_endpoint_gate(&host(), Instant::now() + secs(2));
    sleep(secs(30 * 86_400)).await;
    // The fast path looks now and then.
    for _ in 0..64 {
        try_now(&ledger, &draw("a")).unwrap().complete();
    }
    assert_eq!(ledger.state.lock().left().endpoints, 0);
}

/// All calls that go at the same time.
fn at_a_time(ledger: &Arc<LocalLedger>, request: &AcquireRequest) -> Vec<Permit> {
    std::iter::from_fn(|| try_now(ledger, request)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_call_from_before_the_gate_closed_says_nothing_of_the_probe() {
    let ledger = ledger(10);
    let to = draw("a").with_endpoint(host());
    for close in [
        |ledger: &LocalLedger, until| ledger.close_gate(&of("a"), until),
        |ledger: &LocalLedger, until| ledger.close_endpoint_gate(&host(), until),
    ] {
        // Among them the last one that was admitted before the probe.
        let older: Vec<_> = (0..3).map(|_| try_now(&ledger, &to).unwrap()).collect();
        assert!(!older[0].admission().is_watched());
        close(&ledger, Instant::now() + secs(1));
        sleep(secs(1)).await;
        let probe = try_now(&ledger, &to).unwrap();
        assert!(probe.admission().is_watched());
        for call in older {
            assert!(try_now(&ledger, &to).is_none());
            call.complete();
        }
        assert!(try_now(&ledger, &to).is_none());
        probe.report(Signal::Accepted);
        assert!(try_now(&ledger, &to).is_some());
        drop(probe);
        nothing_left(&ledger).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_63_good_calls_the_gate_is_open() {
    let ledger = ledger(100);
    ledger.close_gate(&of("a"), Instant::now() + secs(1));
    sleep(secs(1)).await;
    for _ in 0..62 {
        try_now(&ledger, &draw("a")).unwrap().complete();
    }
    assert_eq!(at_a_time(&ledger, &draw("a")).len(), 63);
    try_now(&ledger, &draw("a")).unwrap().complete();
    assert_eq!(at_a_time(&ledger, &draw("a")).len(), 100);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_opened_a_minute_ago_needs_no_probe() {
    let ledger = ledger(10);
    let held = try_now(&ledger, &draw("a")).unwrap();
    ledger.close_gate(&of("a"), Instant::now() + secs(1));
    sleep(secs(61)).await;
    let probe = try_now(&ledger, &draw("a")).unwrap();
    assert!(try_now(&ledger, &draw("a")).is_none());
    drop(probe);
    sleep(secs(1)).await;
    assert_eq!(at_a_time(&ledger, &draw("a")).len(), 9);
    drop(held);
    nothing_left(&ledger).await;
}

/// A probe that takes longer than a gate is kept without one, and holds nothing else that would keep its principal.
#[tokio::test(start_paused = true)]
async fn a_long_probe_is_waited_for_whatever_its_charges() {
    let unlimited = several([("a", Budget::SyncCalls, 1)]);
    let window = several([("a", Budget::Requests, 1)]);
    let nothing = weighted("a", 0);
    for request in [unlimited, window, nothing, draw("a")] {
        let ledger = LocalLedger::builder()
            .budget(Budget::Concurrency, Limit::InFlight(27))
            .budget(Budget::Requests, Limit::per_window(100, secs(10)))
            .build();
        let ledger = Arc::new(ledger);
        let to = request.with_endpoint(host());
        ledger.close_gate(&of("a"), Instant::now() + secs(1));
        ledger.close_endpoint_gate(&host(), Instant::now() + secs(1));
        sleep(secs(1)).await;
        let probe = try_now(&ledger, &to).unwrap();
        for _ in 0..10 {
            sleep(secs(50)).await;
            // Something is released now and then, and looks for what has passed.
            try_now(&ledger, &draw("b")).unwrap().complete();
            assert!(try_now(&ledger, &to).is_none(), "{to:?}");
            assert!(try_now(&ledger, &draw("a")).is_none(), "{to:?}");
            assert!(try_now(&ledger, &draw("c").with_endpoint(host())).is_none());
        }
        probe.complete();
        assert!(try_now(&ledger, &to).is_some());
        nothing_left(&ledger).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_is_open_at_the_time_that_was_named_and_forgotten_a_minute_later() {
    let ledger = ledger(10);
    ledger.close_gate(&of("a"), Instant::now() + secs(5));
    sleep(secs(4)).await;
    assert_eq!(ledger.snapshot().principals[0].gated, Some(secs(1)));
    sleep(secs(1)).await;
    assert_eq!(ledger.snapshot().principals[0].gated, None);
    sleep(secs(59)).await;
    assert_eq!(ledger.snapshot().principals.len(), 1);
    sleep(secs(1)).await;
    nothing_left_now(&ledger);
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_a_call_that_waits_behind_an_opened_gate() {
    // Right after the opening, and when no probe is needed any more.
    for opened_for in [0, 61] {
        let ledger = ledger(10);
        ledger.close_gate(&of("a"), Instant::now() + secs(1));
        ledger.close_endpoint_gate(&host(), Instant::now() + secs(1));
        let mut to_a = parked(&ledger, draw("a"));
        let mut to_host = parked(&ledger, draw("b").with_endpoint(host()));
        sleep(secs(1 + opened_for)).await;
        for _ in 0..2 {
            assert!(try_now(&ledger, &draw("a")).is_none());
            assert!(try_now(&ledger, &draw("c").with_endpoint(host())).is_none());
        }
        let probes = [poll_once(&mut to_a), poll_once(&mut to_host)];
        assert!(probes.iter().all(Poll::is_ready));
        drop(probes);
        assert!(try_now(&ledger, &draw("a")).is_some());
        assert!(try_now(&ledger, &draw("c").with_endpoint(host())).is_some());
        nothing_left(&ledger).await;
    }
}

/// Overloads the endpoint by eight calls at a time, again and again, until four may go, and one more to find out.
async fn overload(ledger: &Arc<LocalLedger>, to: &AcquireRequest) {
    let busy = || Signal::EndpointBusy {
        until: Instant::now() + secs(1),
    };
    // The first time nothing was counted yet; then one call alone tests the gate.
    for calls in [8, 1] {
        let sent: Vec<_> = at_a_time(ledger, to).into_iter().take(calls).collect();
        sent[0].report(busy());
        drop(sent);
        sleep(secs(1)).await;
    }
    sleep(secs(61)).await;
    assert_eq!(at_a_time(ledger, to).len(), 100);
    // Eight at a time. All are told so, and it counts once.
    let mut sent = at_a_time(ledger, to);
    sent.truncate(8);
    sent[0].report(busy());
    drop(sent);
    sleep(secs(1)).await;
    for expected in [1, 2, 4, 8] {
        let sent = at_a_time(ledger, to);
        assert_eq!(sent.len(), expected);
        if expected == 8 {
            sent.iter().for_each(|call| call.report(busy()));
        }
        sent.into_iter().for_each(Permit::complete);
    }
    sleep(secs(62)).await;
    assert_eq!(at_a_time(ledger, to).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_overloaded_again_gets_half_as_many_calls() {
    let ledger = ledger(100);
    let to = draw("a").with_endpoint(host());
    overload(&ledger, &to).await;
    sleep(secs(30 * 86_400)).await;
    assert_eq!(at_a_time(&ledger, &to).len(), 100);
    nothing_left(&ledger).await;
}

/// They hold their places for half an hour, so that the number of calls at a time would be none for as long.
#[tokio::test(start_paused = true)]
async fn calls_that_hang_do_not_count_for_an_endpoint_that_is_overloaded() {
    let ledger = LocalLedger::builder()
        .budget(Budget::Concurrency, Limit::InFlight(100))
        .budget(Budget::HangingConnections, Limit::InFlight(10));
    let ledger = Arc::new(ledger.build());
    let to = draw("a").with_endpoint(host());
    let hanging = Charge::new(of("a"), Budget::HangingConnections, 1);
    let hanging = AcquireRequest::new(hanging).with_endpoint(host());
    overload(&ledger, &to).await;
    // Neither do they take the places of others, nor do others take theirs.
    let open: Vec<_> = (0..6).filter_map(|_| try_now(&ledger, &hanging)).collect();
    let others = at_a_time(&ledger, &to);
    let more: Vec<_> = (0..6).filter_map(|_| try_now(&ledger, &hanging)).collect();
    assert_eq!((open.len(), others.len(), more.len()), (6, 5, 4));
    for hanging in open.into_iter().chain(more) {
        hanging.report(Signal::Accepted);
        hanging.complete();
    }
    assert_eq!(at_a_time(&ledger, &to).len(), 0);
    drop(others);
    // Their gate they wait for.
    ledger.close_endpoint_gate(&host(), Instant::now() + secs(1));
    assert!(try_now(&ledger, &hanging).is_none());
    nothing_left(&ledger).await;
}

/// An endpoint's number has passed, and so has what more principals had learnt than one operation forgets.
#[tokio::test(start_paused = true)]
async fn a_number_that_has_passed_holds_nobody_back_though_others_are_forgotten_first() {
    let ledger = ledger(100);
    for number in 0..1_000 {
        let permit = try_now(&ledger, &draw(&number.to_string())).unwrap();
        permit.report(Signal::Exceeded(Budget::Concurrency));
    }
    let to = draw("a").with_endpoint(host());
    overload(&ledger, &to).await;
    sleep(secs(30 * 86_400)).await;
    let first = try_now(&ledger, &to);
    assert!(ledger.state.lock().left().expiries > 64, "others are left");
    assert_eq!(at_a_time(&ledger, &to).len(), 99);
    drop(first);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_with_time_is_noted_once() {
    let ledger = ledger(10);
    for n in 1..50 {
        ledger.close_gate(&of("a"), Instant::now() + secs(n));
        ledger.close_endpoint_gate(&host(), Instant::now() + secs(n));
        assert_eq!(ledger.state.lock().left().expiries, 2);
    }
    nothing_left(&ledger).await;
}

/// A release that is handed on to the first of many waiting calls tells the endpoint too.
#[tokio::test(start_paused = true)]
async fn an_endpoint_hears_of_a_call_for_whose_permit_many_wait() {
    let ledger = ledger(1);
    ledger.close_endpoint_gate(&host(), Instant::now() + secs(1));
    sleep(secs(1)).await;
    let probe = try_now(&ledger, &draw("a").with_endpoint(host())).unwrap();
    let waiting: Vec<_> = (0..6).map(|_| call(&ledger, draw("a"), secs(1))).collect();
    tokio::task::yield_now().await;
    assert!(try_now(&ledger, &draw("b").with_endpoint(host())).is_none());
    probe.complete();
    assert!(try_now(&ledger, &draw("b").with_endpoint(host())).is_some());
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_opens_at_the_deadline_opens_in_time() {
    let ledger = ledger(1);
    let until = Instant::now() + secs(10);
    ledger.close_gate(&of("a"), until);
    let in_time = ledger.clone().acquire(draw("a").with_deadline(until));
    assert!(in_time.await.is_ok());
    assert_eq!(Instant::now(), until);
    nothing_left(&ledger).await;
}

/// The call that was told of it was sent before, however short the pause.
#[tokio::test(start_paused = true)]
async fn a_gate_that_closes_for_no_time_is_tested_too() {
    let ledger = ledger(10);
    let to = draw("a").with_endpoint(host());
    for of_endpoint in [false, true] {
        let refused = try_now(&ledger, &to).unwrap();
        let until = Instant::now();
        refused.report(match of_endpoint {
            true => Signal::EndpointBusy { until },
            false => Signal::Busy { until },
        });
        let probe = try_now(&ledger, &to).unwrap();
        assert!(try_now(&ledger, &to).is_none());
        refused.complete();
        assert!(try_now(&ledger, &to).is_none());
        probe.complete();
        assert!(try_now(&ledger, &to).is_some());
        sleep(secs(61)).await;
    }
    nothing_left(&ledger).await;
}
