//! Parts of which it is not known whether they were executed.

use super::*;
use crate::server_busy_backoff::ServerBusyBackoffLayer;

fn converges() -> Lines {
    Lines::new(Order::Kept, Idempotency::Idempotent)
}

#[tokio::test(start_paused = true)]
async fn a_lost_write_is_not_sent_again() {
    for lost in [
        || reset(),
        || Reply {
            after: Duration::ZERO,
            what: What::Cut,
        },
        || Reply {
            after: Duration::ZERO,
            what: What::Error("no idea".into()),
        },
    ] {
        let server = Server::new(move |call| match call.members[0] {
            10 => lost(),
            _ => call.ok(),
        });
        let layer = layer(Lines::writes()).max_members(10);
        let response = send(&layer, &server, 30).await.unwrap();
        assert_eq!((stats(&response).unknown, stats(&response).done), (10, 20));
        // After a pause, one member goes alone.
        assert_eq!(server.lengths(), [10, 10, 1, 5, 4]);
        let at: Vec<_> = server.calls().iter().map(|call| call.at).collect();
        assert!(
            (seconds(10)..=seconds(20)).contains(&(at[2] - at[1])),
            "{at:?}"
        );
        assert_eq!(at[3], at[2]);
        let expected = expected(30, |m| match m {
            10..20 => "unknown".to_owned(),
            _ => "ok".to_owned(),
        });
        assert_eq!(lines(response).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_be_repeated_is_sent_again_in_halves() {
    // It makes no difference to a read whether it was executed.
    for (format, word) in [(Lines::reads(), "unsent -"), (converges(), "unknown")] {
        // Member 5 kills each part that it is in.
        let server = Server::new(|call| match call.members.contains(&5) {
            true => reset(),
            false => call.ok(),
        });
        let order = format.order;
        let layer = layer(format).max_members(10);
        let response = send(&layer, &server, 20).await.unwrap();
        let expected = expected(20, |m| if m == 5 { word } else { "ok" }.to_owned());
        assert_eq!(lines(response).await, expected);
        let with: Vec<_> = server
            .parts()
            .into_iter()
            .filter(|part| part.contains(&5))
            .collect();
        let sizes: Vec<_> = with.iter().map(Vec::len).collect();
        // As often as a single call that is lost: where nothing else is sent meanwhile, larger parts are tries, too.
        match order {
            Order::Free => assert_eq!(sizes, [10, 5, 2, 1, 1, 1, 1, 1, 1, 1]),
            Order::Kept => assert_eq!(sizes, [10, 5, 2, 1, 1, 1, 1, 1, 1, 1]),
        }
        // Others go on meanwhile, where they may.
        let last = server.parts().pop().unwrap();
        assert_eq!(last.contains(&5), order == Order::Free);
        // The trail says that it may have been executed before.
        let attempts = server.calls()[0].trail.attempts();
        assert!(attempts.iter().any(|attempt| attempt.resend));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_once_is_never_called_refused() {
    // Lost at first, throttled from then on.
    let server = Server::new(|call| match call.number {
        0 => call.ok(),
        1 => reset(),
        _ => call.each(|_| "busy 30000".to_owned()),
    });
    for (format, word) in [(converges(), "unknown"), (Lines::reads(), "busy 30000")] {
        server.0.lock().calls.clear();
        let layer = layer(format).max_members(10).stall_timeout(seconds(100));
        let response = send(&layer, &server, 20).await.unwrap();
        assert_eq!(lines(response).await[10], format!("10 {word}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_too_long_is_asked_for_in_smaller_parts() {
    let server = Server::new(Call::ok);
    let layer = layer(Lines::reads()).max_response(50).max_members(10);
    let response = send(&layer, &server, 20).await.unwrap();
    assert_eq!(lines(response).await, ok(20));
    assert!(server.lengths().contains(&5));

    let response = send(&layer.clone().max_response(3), &server, 2).await;
    let error = response.unwrap_err();
    assert!(
        matches!(
            error.downcast_ref(),
            Some(BatchError::ResponseTooLong { max_response: 3 })
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_unknown_outcome_is_like_a_lost_part() {
    for (format, word) in [(Lines::writes(), "unknown"), (converges(), "ok")] {
        let server = Server::new(|call| match call.number {
            1 => text("FAULT unknown"),
            _ => call.ok(),
        });
        let response = send(&layer(format).max_members(10), &server, 20)
            .await
            .unwrap();
        assert_eq!(lines(response).await[15], format!("15 {word}"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_once_is_never_called_stopped_or_not_sent() {
    // Both members are executed, but the response is lost; then the first one fails.
    let server = Server::new(|call| match call.number {
        0 => reset(),
        1 => call.each(|_| "failed".to_owned()),
        _ => call.ok(),
    });
    let mut format = converges();
    format.needs = [(1, vec![0])].into();
    let response = send(&layer(format), &server, 2).await.unwrap();
    assert_eq!(lines(response).await, ["0 failed", "1 unknown"]);

    let server = Server::new(|call| match call.number {
        0 => reset(),
        _ => call.each(|m| {
            if m == call.members[0] {
                "failed"
            } else {
                "stopped"
            }
            .to_owned()
        }),
    });
    let response = send(&layer(converges()), &server, 4).await.unwrap();
    assert_eq!(
        lines(response).await,
        ["0 failed", "1 failed", "2 unknown", "3 failed"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_response_is_not_hidden_by_a_later_fault() {
    let server = Server::new(|call| match call.number {
        0 => reset(),
        _ => text("FAULT failed"),
    });
    let error = send(&layer(converges()), &server, 6).await.unwrap_err();
    assert!(error.downcast_ref::<std::io::Error>().is_some(), "{error}");
    // Of what only reads, the last word is as good as any.
    let response = send(&layer(Lines::reads()), &server, 6).await.unwrap();
    assert_eq!(response.status(), 500);
}

#[tokio::test(start_paused = true)]
async fn what_the_layers_below_know_is_understood() {
    // POST is not sent again by the layer below when its response was lost; what is not sent is.
    let server = Server::new(|call| match call.number {
        0 | 2 => refused(),
        3 => reset(),
        _ => call.ok(),
    });
    let below = ServerBusyBackoffLayer::http().layer(server.clone());
    let response = layer(Lines::writes())
        .max_members(10)
        .layer(below)
        .oneshot(traced(batch(30)))
        .await
        .unwrap();
    let stats = response.extensions().get::<BatchReport>().unwrap().stats();
    // The resends below are none of its own.
    assert_eq!((stats.parts, stats.resent, stats.unknown), (5, 0, 10));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let expected: String = (0..30)
        .map(|m| match m {
            10..20 => format!("{m} unknown\n"),
            _ => format!("{m} ok\n"),
        })
        .collect();
    assert_eq!(body, format!("RESPONSE\n{expected}END\n"));
    // Each part has its own attempts in the trail.
    let attempts: Vec<_> = server.calls()[0].trail.attempts();
    let parts: Vec<_> = attempts.iter().map(|attempt| attempt.part).collect();
    assert_eq!(parts, [0, 0, 1, 1, 2, 3, 4].map(Some));
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_executed_stays_in_doubt_when_it_is_refused_later() {
    for doubt in ["FAULT repeat", "members"] {
        for refusal in ["FAULT failed", "FAULT forall", "busy"] {
            let server = Server::new(move |call| match call.number {
                0 => call.ok(),
                1 if doubt == "members" => call.each(|_| "maybe".to_owned()),
                1 => text(doubt),
                2.. if refusal == "busy" => call.each(|_| "busy 90000".to_owned()),
                _ => text(refusal),
            });
            let layer = layer(converges()).max_members(5);
            let response = send(&layer, &server, 15).await.unwrap();
            let what = format!("{doubt}, then {refusal}");
            assert_eq!(stats(&response).unknown, 5, "{what}");
            let lines = lines(response).await;
            for (member, line) in lines.iter().enumerate() {
                let doubtful = line.contains("unknown");
                assert_eq!(doubtful, (5..10).contains(&member), "{what}: {line}");
            }
        }
    }
}
