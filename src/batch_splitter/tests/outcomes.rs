//! Members that are sent again: which, when, and until when.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_throttled_members_are_sent_again_and_only_they() {
    for format in [Lines::writes(), Lines::reads()] {
        let mut seen = BTreeMap::new();
        let server = Server::new(move |call| {
            let busy: Vec<_> = call
                .members
                .iter()
                .copied()
                .filter(|m| m % 7 == 3 && *seen.entry(*m).and_modify(|n| *n += 1).or_insert(1) == 1)
                .collect();
            call.each(|m| {
                if busy.contains(&m) {
                    "busy 1234".to_owned()
                } else {
                    "ok".to_owned()
                }
            })
        });
        let layer = layer(format).max_members(10);
        let response = send(&layer, &server, 30).await.unwrap();
        let merged: BatchReport = response.extensions().get::<BatchReport>().unwrap().clone();
        assert_eq!(lines(response).await, ok(30));
        let parts = server.parts();
        // First those that wait, in their order, together with those that were not sent yet.
        assert_eq!(parts[0], (0..10).collect::<Vec<_>>());
        assert_eq!(parts[1], [3, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
        let mut times = BTreeMap::new();
        for member in parts.iter().flatten() {
            *times.entry(*member).or_insert(0) += 1;
        }
        assert!(
            times
                .iter()
                .all(|(member, times)| *times == if member % 7 == 3 { 2 } else { 1 })
        );
        // The wait is honoured to the millisecond.
        let at: Vec<_> = server
            .calls()
            .iter()
            .map(|call| call.at.as_millis())
            .collect();
        assert_eq!(at[..2], [0, 1234]);
        let stats = merged.stats();
        assert_eq!((stats.resent, stats.done, stats.complete), (4, 30, true));
        assert_eq!(stats.waited.as_millis(), at[at.len() - 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_hint_waits_grow_while_nothing_is_achieved() {
    let server = Server::new(|call| match call.number {
        0 => text("FAULT again 0"),
        1..=6 => call.each(|_| "busy".to_owned()),
        _ => call.ok(),
    });
    let base = Duration::from_secs(1);
    let layer = layer(Lines::writes()).backoff(base, seconds(20));
    let response = send(&layer, &server, 8).await.unwrap();
    assert_eq!(lines(response).await, ok(8));
    let calls = server.calls();
    for (n, pair) in calls.windows(2).enumerate() {
        let wait = pair[1].at - pair[0].at;
        assert!(
            !wait.is_zero() && wait <= (base * (1 << n)).min(seconds(20)),
            "{n}: {wait:?}"
        );
    }
    assert_eq!(calls.len(), 8);
}

#[tokio::test(start_paused = true)]
async fn waits_of_a_batch_that_goes_on_stay_short() {
    // Each part has a throttled member, and gets it through the next time.
    let mut before = None;
    let server = Server::new(move |call| {
        let busy = call
            .members
            .iter()
            .copied()
            .rev()
            .find(|m| Some(*m) != before);
        let last = call.members.len() == 1;
        before = busy;
        call.each(|m| {
            if Some(m) == busy && !last {
                "busy".to_owned()
            } else {
                "ok".to_owned()
            }
        })
    });
    let layer = layer(Lines::writes()).max_members(10);
    let response = send(&layer, &server, 400).await.unwrap();
    assert!(stats(&response).waited < seconds(30));
    assert_eq!(lines(response).await, ok(400));
}

#[tokio::test(start_paused = true)]
async fn what_stays_throttled_keeps_its_last_error() {
    for (format, retry_after) in [(Lines::writes(), ""), (Lines::reads(), " 90000")] {
        let server = Server::new(move |call| {
            call.each(|m| match m {
                4 => format!("busy{retry_after}"),
                _ => "ok".to_owned(),
            })
        });
        let layer = layer(format).stall_timeout(seconds(600));
        let begin = Instant::now();
        let response = send(&layer, &server, 20).await.unwrap();
        let lines = lines(response).await;
        assert!(lines[4].starts_with("4 busy"), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.ends_with("ok")).count(), 19);
        let took = begin.elapsed();
        assert!(took <= seconds(900) && took > seconds(500), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_the_call_bounds_it() {
    let server = Server::new(|call| match call.number {
        0 => call.each(|m| {
            if m < 5 {
                "ok".to_owned()
            } else {
                "busy 60000".to_owned()
            }
        }),
        _ => call.ok(),
    });
    let service = layer(Lines::writes()).layer(server.clone());
    let mut request = batch(12);
    request
        .extensions_mut()
        .insert(Deadline::within(seconds(30)));
    let begin = Instant::now();
    let response = service.oneshot(request).await.unwrap();
    // The others were not refused, so there is no reason to believe that they would be.
    let expected = expected(12, |m| match m {
        5..10 => "busy 60000".to_owned(),
        _ => "ok".to_owned(),
    });
    assert_eq!(lines(response).await, expected);
    assert_eq!(begin.elapsed(), Duration::ZERO);

    // A deadline that has passed already.
    let server = Server::new(Call::ok);
    let mut request = batch(12);
    request.extensions_mut().insert(Deadline(Instant::now()));
    let error = layer(Lines::writes())
        .layer(server.clone())
        .oneshot(request)
        .await
        .unwrap_err();
    assert!(
        matches!(error.downcast_ref(), Some(BatchError::NotBegun { .. })),
        "{error}"
    );
    assert!(server.calls().is_empty());

    // It passes when a part comes back.
    let server = Server::new(|call| call.ok().after(2_000));
    let mut request = batch(12);
    request
        .extensions_mut()
        .insert(Deadline::within(seconds(2)));
    let begin = Instant::now();
    let service = layer(Lines::writes()).layer(server.clone());
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(
        lines(response).await[9..],
        ["9 ok", "10 unsent -", "11 unsent -"]
    );
    assert_eq!(begin.elapsed(), seconds(2));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_cuts_a_part_that_hangs() {
    // The first part comes in time, the second one does not.
    for (format, word) in [
        (Lines::writes(), "unknown"),
        (Lines::new(Order::Free, Idempotency::Idempotent), "unknown"),
        (Lines::reads(), "unsent -"),
    ] {
        let server = Server::new(|call| match call.number {
            0 => call.ok().after(1_000),
            _ => call.ok().after(60_000),
        });
        let mut request = batch(12);
        request
            .extensions_mut()
            .insert(Deadline::within(seconds(3)));
        let begin = Instant::now();
        let service = layer(format).layer(server.clone());
        let response = service.oneshot(request).await.unwrap();
        let expected = expected(12, |m| if m < 10 { "ok" } else { word }.to_owned());
        assert_eq!(lines(response).await, expected);
        assert_eq!(begin.elapsed(), seconds(3));
        assert_eq!(server.running(), 0, "nobody waits for it any more");
        // Layers further in know when it ends.
        let deadlines: Vec<_> = server.calls().iter().map(|call| call.deadline).collect();
        assert_eq!(deadlines, [Some(begin + seconds(3)); 2]);
        assert!(server.calls().iter().all(|call| call.part_of_batch));
    }
    // Without a deadline, the time without progress bounds it.
    let server = Server::new(|call| call.ok().after(1_000_000));
    let layer = layer(Lines::writes()).stall_timeout(seconds(100));
    let begin = Instant::now();
    let error = send(&layer, &server, 12).await.unwrap_err();
    assert_eq!(
        crate::retry::Failure::of(&*error),
        crate::retry::Failure::Lost
    );
    assert_eq!((begin.elapsed(), server.calls().len()), (seconds(100), 1));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_during_refusals_ends_with_the_last_one() {
    let server = Server::new(|call| text(format!("FAULT again 100 {}", call.number)).after(400));
    let mut request = batch(5);
    request
        .extensions_mut()
        .insert(Deadline::within(seconds(2)));
    let service = layer(Lines::writes()).layer(server.clone());
    let response = service.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    // The waits grow, although the server asks for short ones: 125, 250, and 500 ms would be too long.
    assert_eq!(body, "FAULT again 100 2");
    // None is begun at the deadline.
    let server = Server::new(|_| text("FAULT again 1000").after(1_000));
    let mut request = batch(5);
    request
        .extensions_mut()
        .insert(Deadline::within(seconds(2)));
    let service = layer(Lines::writes()).layer(server.clone());
    let response = service.oneshot(request).await.unwrap();
    assert_eq!((response.status().as_u16(), server.calls().len()), (500, 1));
}

#[tokio::test(start_paused = true)]
async fn a_whole_part_that_is_refused_to_the_end_is_the_response() {
    let server = Server::new(|call| text(format!("FAULT again 60000 {}", call.number)));
    let layer = layer(Lines::writes()).stall_timeout(seconds(200));
    let response = send(&layer, &server, 25).await.unwrap();
    // The last one; the rest would have been refused, too.
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "FAULT again 60000 3");
    assert_eq!(server.lengths(), [10; 4]);
}

#[tokio::test(start_paused = true)]
async fn stopped_members_are_sent_again_as_long_as_that_achieves_something() {
    // Members 3 and 6 fail, and stop what comes after them.
    let server = Server::new(|call| {
        let stop = call.members.iter().position(|m| [3, 6, 7].contains(m));
        let members = call.members.clone();
        call.each(|m| {
            let at = members.iter().position(|member| *member == m);
            match stop {
                Some(stop) if at == Some(stop) => "failed".to_owned(),
                Some(stop) if at > Some(stop) => "stopped".to_owned(),
                _ => "ok".to_owned(),
            }
        })
    });
    let response = send(&layer(Lines::writes()), &server, 10).await.unwrap();
    let parts: Vec<_> = server.parts().iter().map(|part| part[0]).collect();
    // The third round achieves nothing: its first member fails.
    assert_eq!(parts, [0, 4, 7]);
    let expected = expected(10, |m| match m {
        3 | 6 | 7 => "failed".to_owned(),
        8 | 9 => "stopped".to_owned(),
        _ => "ok".to_owned(),
    });
    assert_eq!(stats(&response).not_executed, 2);
    assert_eq!(lines(response).await, expected);
    assert!(
        server.calls().iter().all(|call| call.at.is_zero()),
        "nobody was throttled"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_sent_again() {
    let server = Server::new(|call| match call.number {
        0..5 => refused(),
        5 => Reply {
            what: What::Error(crate::ledger::AcquireError::QueueFull { queued: 1 }.into()),
            after: Duration::ZERO,
        },
        _ => call.ok(),
    });
    let response = send(&layer(Lines::writes()), &server, 12).await.unwrap();
    assert!(!stats(&response).waited.is_zero());
    assert_eq!(lines(response).await, ok(12));

    let server = Server::new(|call| match call.number {
        0 => call.ok(),
        _ => refused(),
    });
    let layer = layer(Lines::writes()).stall_timeout(seconds(100));
    let response = send(&layer, &server, 12).await.unwrap();
    assert_eq!(
        lines(response).await[9..],
        ["9 ok", "10 unsent -", "11 unsent -"]
    );
}

#[tokio::test(start_paused = true)]
async fn members_go_after_those_that_they_need() {
    let mut format = Lines::new(Order::Free, Idempotency::NonIdempotent);
    // 2 needs a later one; 5 and 6 a chain; 7 one that fails, 8 what fails with it; 9 itself; 10 nobody's.
    format.needs = [
        (2, vec![30]),
        (5, vec![4]),
        (6, vec![5]),
        (7, vec![1]),
        (8, vec![7]),
        (9, vec![9]),
        (10, vec![99]),
    ]
    .into();
    let mut busy = vec![5, 6];
    let server = Server::new(move |call| {
        let now = busy.clone();
        busy.retain(|member| !call.members.contains(member));
        call.each(|m| match m {
            1 => "failed".to_owned(),
            _ if now.contains(&m) => "busy 100".to_owned(),
            _ => "ok".to_owned(),
        })
    });
    let response = send(&layer(format).max_members(4), &server, 31)
        .await
        .unwrap();
    let expected = expected(31, |m| match m {
        1 => "failed".to_owned(),
        7 => "needs 1".to_owned(),
        8 => "needs 7".to_owned(),
        9 => "unsent -".to_owned(),
        10 => "needs 99".to_owned(),
        _ => "ok".to_owned(),
    });
    assert_eq!(lines(response).await, expected);
    let part_of = |m: usize| {
        server
            .parts()
            .iter()
            .rposition(|part| part.contains(&m))
            .unwrap()
    };
    assert!(part_of(2) > part_of(30));
    assert!(
        server
            .parts()
            .iter()
            .all(|part| !part.contains(&8) && !part.contains(&9))
    );
}

#[tokio::test(start_paused = true)]
async fn joined_members_stay_together() {
    let mut format = Lines::writes();
    format.joined = vec![8, 9, 10, 12, 15, 16];
    let server = Server::new(Call::ok);
    let response = send(&layer(format).max_members(10), &server, 40)
        .await
        .unwrap();
    assert_eq!(lines(response).await, ok(40));
    let first: Vec<_> = server.parts().iter().map(|part| part[0]).collect();
    assert_eq!(first, [0, 8, 18, 28, 38]);

    let mut format = Lines::writes();
    format.joined = (0..39).collect();
    let server = Server::new(Call::ok);
    send(&layer(format), &server, 40).await.unwrap();
    assert_eq!(server.lengths(), [40], "whatever its size");
}

#[tokio::test(start_paused = true)]
async fn a_part_touches_sixteen_groups_at_most() {
    for (groups, parts) in [(16, 4), (20, 5), (48, 6)] {
        for format in [
            Lines::reads(),
            Lines::new(Order::Free, Idempotency::NonIdempotent),
        ] {
            let mut format = format;
            format.groups = Some(groups);
            let server = Server::new(Call::ok);
            let response = send(&layer(format).start_members(50), &server, 200)
                .await
                .unwrap();
            assert_eq!(lines(response).await, ok(200));
            let mut seen = std::collections::BTreeSet::new();
            let mut last = std::collections::BTreeSet::new();
            for part in server.parts() {
                let now: std::collections::BTreeSet<_> =
                    part.iter().map(|m| m % groups as usize).collect();
                assert!(now.len() <= 16);
                if groups > 16 {
                    // Group by group: none comes back once it was left.
                    assert!(
                        now.iter()
                            .all(|group| last.contains(group) || seen.insert(*group))
                    );
                }
                last = now;
            }
            assert!(server.calls().len() <= parts, "{}", server.calls().len());
        }
    }
    let mut format = Lines::writes();
    format.groups = Some(20);
    let server = Server::new(Call::ok);
    send(&layer(format).start_members(100), &server, 40)
        .await
        .unwrap();
    assert_eq!(server.lengths(), [16, 16, 8], "in their order");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_members_of_which_one_in_twenty_is_throttled() {
    for format in [Lines::writes(), Lines::reads()] {
        let mut rng = fastrand::Rng::with_seed(7);
        let server = Server::new(move |call| {
            let busy: Vec<_> = call
                .members
                .iter()
                .copied()
                .filter(|_| rng.u8(0..20) == 0)
                .collect();
            call.each(|m| match busy.binary_search(&m) {
                Ok(_) => "busy 200".to_owned(),
                Err(_) => "ok".to_owned(),
            })
            .after(50 * call.members.len() as u64)
        });
        let begin = Instant::now();
        let response = send(&layer(format), &server, 10_000).await.unwrap();
        let merged = response.extensions().get::<BatchReport>().unwrap().clone();
        assert_eq!(lines(response).await, ok(10_000));
        let stats = merged.stats();
        println!("{stats:?} in {:?}", begin.elapsed());
        assert!((400..700).contains(&stats.resent), "{stats:?}");
        // 500 s of work, and the waits.
        assert!(begin.elapsed() < seconds(620));
    }
}
