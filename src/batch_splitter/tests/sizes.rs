//! How large parts are, and how they are learned.

use super::*;
use crate::batch_splitter::config::Config;
use crate::batch_splitter::sizing::{PartSizes, Sizing};
use crate::retry::backoff::Backoff;

#[tokio::test(start_paused = true)]
async fn part_sizes_follow_the_time_that_parts_take() {
    // 300 ms for each member: 66 of them in 20 seconds.
    let server = Server::new(|call| call.ok().after(300 * call.members.len() as u64));
    let layer = BatchSplitterLayer::new(Lines::writes()).max_in_doubt(100);
    let response = send(&layer, &server, 300).await.unwrap();
    assert_eq!(lines(response).await, ok(300));
    assert_eq!(server.lengths(), [100, 50, 50, 50, 50]);
    // The next job starts with it, by another service of the same layer, too.
    send(&layer.clone(), &server, 60).await.unwrap();
    assert_eq!(server.lengths()[5..], [50, 10]);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_one_minute_halves() {
    // 1 s for each member; past a minute the connection dies.
    let server = Server::new(|call| match call.members.len() as u64 {
        members @ 0..=60 => call.ok().after(members * 1000),
        _ => reset().after(60_000),
    });
    let layer = BatchSplitterLayer::new(Lines::reads());
    let response = send(&layer, &server, 100).await.unwrap();
    assert_eq!(lines(response).await, ok(100));
    assert_eq!(server.lengths(), [100, 50, 25, 12, 12, 1]);
    send(&layer, &server, 40).await.unwrap();
    assert_eq!(server.lengths()[6], 12, "the next job starts smaller");

    // An accident says nothing about sizes.
    let mut first = true;
    let server = Server::new(move |call| match std::mem::take(&mut first) {
        true => reset().after(2_000),
        false => call.ok().after(15_000),
    });
    let layer = BatchSplitterLayer::new(Lines::writes()).max_in_doubt(100);
    send(&layer, &server, 300).await.unwrap();
    // One goes alone afterwards, and half of what was lost is the most that may be lost again.
    assert_eq!(server.lengths(), [100, 1, 50, 50, 50, 49]);
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_executed_twice_goes_in_parts_that_somebody_can_look_through() {
    let idempotencies = [
        (Idempotency::NonIdempotent, None, 50),
        (Idempotency::NonIdempotent, Some(7), 7),
        (Idempotency::NonIdempotent, Some(0), 1),
        (Idempotency::Idempotent, Some(7), 1000),
        (Idempotency::Safe, Some(7), 1000),
    ];
    for (idempotency, max_in_doubt, longest) in idempotencies {
        let server = Server::new(Call::ok);
        let mut layer = BatchSplitterLayer::new(Lines::new(Order::Free, idempotency));
        if let Some(max_in_doubt) = max_in_doubt {
            layer = layer.max_in_doubt(max_in_doubt);
        }
        let response = send(&layer, &server, 5_000).await.unwrap();
        assert_eq!(lines(response).await, ok(5_000));
        assert_eq!(
            server.lengths().into_iter().max(),
            Some(longest),
            "{idempotency:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn parts_that_are_too_large_are_halved_at_once() {
    let server = Server::new(|call| match call.members.len() {
        0..=3 => call.ok().after(15_000),
        _ => text("FAULT large"),
    });
    let layer = layer(Lines::writes());
    let response = send(&layer, &server, 10).await.unwrap();
    assert_eq!(lines(response).await, ok(10));
    assert_eq!(server.lengths(), [10, 5, 2, 2, 2, 2, 2]);

    let server = Server::new(|_| text("FAULT large"));
    let response = send(&layer, &server, 10).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "FAULT large"
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_and_the_formats_bound_count() {
    let server = Server::new(|call| call.ok().after(15_000));
    // "0 payload\n" has 10 bytes, and so have the lines around.
    send(&layer(Lines::writes()).max_bytes(45), &server, 9)
        .await
        .unwrap();
    assert_eq!(server.lengths(), [3, 3, 3]);
    // A member that is too large goes alone.
    let server = Server::new(|call| call.ok().after(15_000));
    send(&layer(Lines::writes()).max_bytes(1), &server, 3)
        .await
        .unwrap();
    assert_eq!(server.lengths(), [1, 1, 1]);
    let mut format = Lines::writes();
    format.max_members = 4;
    let server = Server::new(|call| call.ok());
    send(&layer(format), &server, 10).await.unwrap();
    assert_eq!(server.lengths(), [4, 4, 2]);
}

#[tokio::test(start_paused = true)]
async fn queueing_is_not_counted_as_work() {
    let server = Server::new(|call| {
        // It gets its permit 55 seconds after it came.
        let slot = call.slot.clone();
        tokio::spawn(async move {
            tokio::time::sleep(seconds(55)).await;
            let request = AcquireRequest::new(Principal::new("x"));
            let ledger = Arc::new(LocalLedger::in_flight(1));
            slot.fill(&Permit::try_acquire(ledger, &request).unwrap());
        });
        call.ok().after(60_000)
    });
    let layer = layer(Lines::writes());
    send(&layer, &server, 40).await.unwrap();
    assert_eq!(server.lengths(), [10, 20, 10]);
}

fn config() -> Config {
    Config {
        backoff: Backoff {
            base: seconds(1),
            cap: seconds(1),
        },
        ..Config::default()
    }
}

#[test]
fn the_table_is_bounded() {
    let (sizing, config) = (Sizing::default(), config());
    let known = |n| {
        sizing.shrink(&format!("key {n}"), &config, 10);
        sizing.known()
    };
    let counts: Vec<usize> = (0..25_000).map(known).collect();
    assert_eq!(counts.iter().max(), Some(&10_000));
    // A tenth is forgotten at once, with the oldest of those that stay.
    assert_eq!(counts[9_999..10_002], [10_000, 9_000, 9_001]);
    // The newest ones are known, the oldest are not.
    assert_eq!(sizing.members("key 24999", &config), 5);
    assert_eq!(sizing.members("key 0", &config), 100);
}

#[test]
fn a_small_part_that_was_late_makes_no_larger_ones() {
    let (sizing, config) = (Arc::new(Sizing::default()), config());
    let sizes = PartSizes::new(Arc::clone(&sizing), config.clone(), "x");
    sizes.shrink(1);
    assert_eq!(sizes.members(), 100, "one member says nothing about sizes");
    sizes.record_loss(100, seconds(45));
    assert_eq!(sizes.members(), 100);
    sizes.record_loss(100, seconds(46));
    assert_eq!(sizes.members(), 50);
    sizes.shrink(400);
    assert_eq!(sizes.members(), 50);
    sizes.shrink(3);
    assert_eq!(sizes.members(), 1);
}

#[test]
fn what_is_learned_stays_in_its_bounds() {
    let (sizing, config) = (Sizing::default(), config());
    for _ in 0..10 {
        let size = sizing.members("x", &config);
        sizing.record_response("x", &config, size, seconds(1), true);
    }
    assert_eq!(sizing.members("x", &config), 1000);
    // A part that was begun when parts were smaller.
    sizing.record_response("x", &config, 100, seconds(1), true);
    assert_eq!(sizing.members("x", &config), 1000);
    for _ in 0..20 {
        let size = sizing.members("x", &config);
        sizing.record_response("x", &config, size, seconds(25), true);
    }
    assert_eq!(sizing.members("x", &config), 1);
    // Back where it began: forgotten.
    sizing.shrink("x", &config, 2);
    for _ in 0..3 {
        let size = sizing.members("y", &config);
        sizing.record_response("y", &config, size, seconds(15), true);
    }
    assert_eq!(sizing.known(), 1);
    sizing.record_loss("y", &config, 100, seconds(44));
    assert_eq!(sizing.members("y", &config), 100);
    sizing.record_loss("y", &config, 100, seconds(46));
    assert_eq!(sizing.members("y", &config), 50);
    sizing.record_response("y", &config, 50, seconds(1), false);
    assert_eq!(sizing.members("y", &config), 50, "it did not go smoothly");
    sizing.record_response("y", &config, 50, seconds(1), true);
    assert_eq!((sizing.members("y", &config), sizing.known()), (100, 1));
}
