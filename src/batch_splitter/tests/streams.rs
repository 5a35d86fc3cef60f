//! Reading batches response while they go on; others are through before they response. Parts at the same time, and cancellation.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_reading_batch_responds_with_its_first_part() {
    let server = Server::new(|call| call.ok().after(15_000));
    let response = send(&layer(Lines::reads()), &server, 30).await.unwrap();
    assert_eq!(server.calls().len(), 1);
    assert_eq!(response.body().size_hint().exact(), None);
    assert!(!response.headers().contains_key("content-length"));
    let merged = response.extensions().get::<BatchReport>().unwrap().clone();
    assert!(!merged.stats().complete);

    let mut body = response.into_body();
    let mut text = String::new();
    // Nothing is on its way while there is something to read.
    while !text.contains("9 ok\n") {
        let frame = body.frame().await.unwrap().unwrap();
        text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        assert_eq!((server.calls().len(), server.running()), (1, 0));
    }
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.starts_with(b"10 ok\n") && rest.ends_with(b"29 ok\nEND\n"));
    assert_eq!(server.calls().len(), 3);
    assert!(merged.stats().complete);
}

#[tokio::test(start_paused = true)]
async fn a_reading_batch_keeps_no_more_than_a_part_ahead() {
    for parallel in [1, 3] {
        // The first member does not get through for long.
        let server = Server::new(|call| {
            let number = call.number;
            call.each(|m| {
                if m == 0 && number < 12 {
                    "busy 10".to_owned()
                } else {
                    "ok".to_owned()
                }
            })
            .after(15_000)
        });
        let layer = layer(Lines::reads()).parallel(parallel);
        let response = send(&layer, &server, 1000).await.unwrap();
        let body = tokio::spawn(response.into_body().collect());
        tokio::time::sleep(seconds(60)).await;
        // One part more than are in flight, and as much again for each time that it was refused.
        let parts = server.parts();
        let seen = parts.iter().flatten().max().unwrap();
        let refused = parts.iter().filter(|part| part.contains(&0)).count();
        assert!(*seen < 10 * (parallel + 1) * (1 + refused), "{seen}");
        assert!(refused <= 5, "{refused}");
        let body = body.await.unwrap().unwrap().to_bytes();
        assert!(body.starts_with(b"RESPONSE\n0 ok\n1 ok\n") && body.ends_with(b"\n999 ok\nEND\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn several_parts_at_a_time_on_request() {
    for (format, parallel, peak) in [
        (Lines::reads(), 1, 1),
        (Lines::reads(), 4, 4),
        (Lines::new(Order::Free, Idempotency::NonIdempotent), 4, 4),
        (Lines::writes(), 4, 1),
    ] {
        // Later parts come back first.
        let server = Server::new(|call| call.ok().after(20_000 - (call.number as u64 % 4) * 3_000));
        let layer = layer(format).parallel(parallel).max_members(10);
        let response = send(&layer, &server, 100).await.unwrap();
        assert_eq!(lines(response).await, ok(100));
        assert_eq!(server.peak(), peak);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_holds_back_all_parts() {
    let server = Server::new(|call| match call.number {
        0 => call.each(|_| "busy 30000".to_owned()).after(1_000),
        _ => call.ok().after(5_000),
    });
    let layer = layer(Lines::new(Order::Free, Idempotency::NonIdempotent))
        .parallel(3)
        .max_members(10);
    let response = send(&layer, &server, 60).await.unwrap();
    assert_eq!(lines(response).await, ok(60));
    let at: Vec<_> = server
        .calls()
        .iter()
        .map(|call| call.at.as_secs())
        .collect();
    assert_eq!(at, [0, 0, 0, 31, 31, 31, 36]);
    assert_eq!(server.parts()[3], (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_write_is_through_before_it_responds() {
    let server = Server::new(|call| call.ok().after(1_000));
    let response = send(&layer(Lines::writes()), &server, 60).await.unwrap();
    assert!(stats(&response).complete);
    drop(response);
    assert_eq!(server.parts().concat(), (0..60).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn dropping_drops_what_is_on_its_way() {
    let slow = |call: &Call| call.ok().after(10_000);
    for parallel in [1, 3] {
        let format = Lines::new(Order::Free, Idempotency::NonIdempotent);
        let server = Server::new(slow);
        let layer = layer(format).parallel(parallel);
        let sending = send(&layer, &server, 100);
        assert!(tokio::time::timeout(seconds(15), sending).await.is_err());
        let calls = server.calls().len();
        assert_eq!(server.running(), 0);
        tokio::time::sleep(seconds(100)).await;
        assert_eq!(
            server.calls().len(),
            calls,
            "nothing goes on in the background"
        );
    }
    let server = Server::new(slow);
    let response = send(&layer(Lines::reads()).parallel(3), &server, 100)
        .await
        .unwrap();
    let reading = response.into_body().collect();
    assert!(tokio::time::timeout(seconds(15), reading).await.is_err());
    assert_eq!(server.running(), 0);
    // Dropped unread.
    let server = Server::new(slow);
    drop(
        send(&layer(Lines::reads()).parallel(3), &server, 100)
            .await
            .unwrap(),
    );
    assert_eq!(server.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_callers_trail_tells_the_parts() {
    let server = Server::new(|call| {
        call.trail
            .record(|attempt| attempt.signal = Some(format!("{}", call.members[0]).into()));
        call.ok()
    });
    let trail = CallTrail::new();
    let mut request = batch(30);
    request.extensions_mut().insert(trail.clone());
    let layer = layer(Lines::new(Order::Free, Idempotency::NonIdempotent))
        .parallel(3)
        .max_members(10);
    layer.layer(server).oneshot(request).await.unwrap();
    let attempts: Vec<_> = trail
        .attempts()
        .into_iter()
        .map(|attempt| (attempt.part, attempt.signal.unwrap().into_string()))
        .collect();
    let expected = ["0", "10", "20"].map(str::to_owned).into_iter().enumerate();
    let expected: Vec<_> = expected
        .map(|(part, first)| (Some(part as u32), first))
        .collect();
    assert_eq!(attempts, expected);
}
