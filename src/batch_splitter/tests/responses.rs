//! What the one response looks like, and what goes through untouched.

use super::*;

#[tokio::test(start_paused = true)]
async fn one_response_in_the_callers_order() {
    for format in [Lines::writes(), Lines::reads()] {
        let server = Server::new(Call::ok);
        let response = send(&layer(format), &server, 35).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-call"], "1");
        assert!(!response.headers().contains_key("transfer-encoding"));
        assert_eq!(lines(response).await, ok(35));
        // Fast parts let the size grow.
        assert_eq!(server.lengths(), [10, 20, 5]);
        let resends: Vec<bool> = server.calls().iter().map(|call| call.resend).collect();
        assert_eq!(resends, [false, true, true]);
    }
}

#[tokio::test(start_paused = true)]
async fn sizes_are_exact_once_all_is_there() {
    for separator in ["", ","] {
        let mut format = Lines::writes();
        format.separator = separator;
        let server = Server::new(move |call| {
            let lines: Vec<_> = call.members.iter().map(|m| format!("{m} ok")).collect();
            let lines = match separator {
                "" => lines.iter().map(|line| format!("{line}\n")).collect(),
                _ => lines.join(separator),
            };
            text(format!("RESPONSE\n{lines}END\n"))
        });
        let response = send(&layer(format), &server, 25).await.unwrap();
        let length = response.body().size_hint().exact().unwrap();
        assert_eq!(response.headers()["content-length"], length.to_string());
        let mut body = response.into_body();
        let mut read = 0;
        let mut all = String::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            read += data.len() as u64;
            all += std::str::from_utf8(&data).unwrap();
            assert_eq!(body.size_hint().exact(), Some(length - read));
        }
        assert!(body.is_end_stream());
        assert_eq!(read, length);
        if separator == "," {
            let expected: Vec<_> = (0..25).map(|member| format!("{member} ok")).collect();
            assert_eq!(all, format!("RESPONSE\n{}END\n", expected.join(",")));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_batch_goes_through_as_it_is() {
    #[derive(Clone)]
    struct Echo;
    impl Service<Request<ReplayBody>> for Echo {
        type Response = Response<http_body_util::Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
            assert_eq!(request.headers()["content-length"], "7");
            assert!(request.extensions().get::<CallTrail>().is_none());
            std::future::ready(Ok(Response::new(request.into_body().into())))
        }
    }
    for (body, header) in [
        ("no batch", "7"),
        ("BATCH\n0 alone\nEND\n", "7"),
        ("BATCH\nEND\n", "7"),
    ] {
        let mut service = layer(Lines::writes()).layer(Echo);
        let request = Request::post("/")
            .header("content-length", header)
            .body(body.into())
            .unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert!(response.extensions().get::<BatchReport>().is_none());
        assert_eq!(response.body().size_hint().exact(), Some(body.len() as u64));
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            body
        );
    }
}

#[tokio::test(start_paused = true)]
async fn if_no_part_gives_messages_the_first_response_is_the_response() {
    for format in [Lines::writes(), Lines::reads()] {
        for fault in ["failed", "failed each", "forall"] {
            let server = Server::new(move |call| text(format!("FAULT {fault} {}", call.number)));
            let response = send(&layer(format.clone()), &server, 25).await.unwrap();
            assert_eq!(response.status(), 500);
            let body = format!("FAULT {fault} 0");
            assert_eq!(response.headers()["content-length"], body.len().to_string());
            assert_eq!(response.body().size_hint().exact(), Some(body.len() as u64));
            assert_eq!(
                response.into_body().collect().await.unwrap().to_bytes(),
                body
            );
            // Two parts, and three small ones: drawn where order makes no difference.
            match (fault, format.order) {
                ("forall", _) => assert_eq!(server.lengths(), [10]),
                (_, Order::Kept) => {
                    assert_eq!(server.lengths(), [10, 5, 1, 1, 1]);
                    assert_eq!(server.parts()[2..], [[0], [1], [2]]);
                }
                (_, Order::Free) => {
                    assert_eq!(server.lengths(), [10, 10, 1, 1, 1]);
                    let mut small = server.parts().split_off(2).concat();
                    small.sort_unstable();
                    small.dedup();
                    assert_eq!(small.len(), 3);
                }
            }
            assert!(server.calls().iter().all(|call| call.at.is_zero()));
        }
    }
    let server = Server::new(|_| reset());
    let error = send(&layer(Lines::writes()), &server, 25)
        .await
        .unwrap_err();
    assert!(error.downcast_ref::<std::io::Error>().is_some(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_not_hidden_by_a_fault() {
    let server = Server::new(|call| match call.number {
        0 => text("FAULT failed"),
        _ => reset(),
    });
    // Part 0 was not executed, but part 1 may have been.
    let error = send(&layer(Lines::writes()), &server, 20)
        .await
        .unwrap_err();
    assert!(error.downcast_ref::<std::io::Error>().is_some(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_faults_hides_nothing() {
    // What refuses member 13 refuses each part with it. What leaves open whether it was executed leaves that of all of its part.
    for (fault, affected, message) in [
        ("FAULT failed", 13..14, Some("unsent ErrorWhole")),
        ("FAULT failed each", 13..14, None),
        ("FAULT unknown", 10..20, Some("unknown")),
    ] {
        for format in [
            Lines::writes(),
            Lines::new(Order::Free, Idempotency::NonIdempotent),
        ] {
            let server = Server::new(move |call| match call.members.contains(&13) {
                true => text(fault),
                false => call.ok(),
            });
            let layer = layer(format).max_members(10);
            let response = send(&layer, &server, 30).await.unwrap();
            let stats = stats(&response);
            assert_eq!((stats.done, stats.complete), (30 - affected.len(), true));
            let calls = if message == Some("unknown") { 5 } else { 10 };
            assert!(server.calls().len() <= calls, "{:?}", server.parts());
            let lines = lines(response).await;
            for (member, line) in lines.iter().enumerate() {
                match affected.contains(&member) {
                    false => assert_eq!(*line, format!("{member} ok")),
                    true => match message {
                        Some(message) => assert_eq!(*line, format!("{member} {message}")),
                        None => assert_eq!(*line, "server's own"),
                    },
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reading_batch_begins_with_the_first_part_that_gives_messages() {
    let server = Server::new(|call| match call.members[0] {
        0 => text("FAULT failed"),
        _ => call.ok(),
    });
    let layer = layer(Lines::reads()).max_members(10);
    let response = send(&layer, &server, 30).await.unwrap();
    assert_eq!(response.headers()["x-call"], "2");
    let expected = expected(30, |member| match member {
        0 => "unsent ErrorWhole".to_owned(),
        _ => "ok".to_owned(),
    });
    assert_eq!(lines(response).await, expected);
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_all_stops_the_batch() {
    let server = Server::new(|call| match call.number {
        1 => text("FAULT forall each"),
        _ => call.ok(),
    });
    let layer = layer(Lines::writes()).max_members(10);
    let response = send(&layer, &server, 40).await.unwrap();
    assert_eq!(server.calls().len(), 2);
    let lines = lines(response).await;
    assert_eq!(lines[..10], ok(10));
    assert!(lines[10..20].iter().all(|line| line == "server's own"));
    assert_eq!(lines[20], "20 unsent ErrorWhole");
    assert_eq!(lines.len(), 40);
}

#[tokio::test(start_paused = true)]
async fn lists_are_put_behind_each_other() {
    let list = |call: &Call| {
        let ids = |mark: &str| {
            call.members
                .iter()
                .map(|m| format!("{mark}{m} "))
                .collect::<String>()
        };
        text(format!("LISTS\n{}|{}", ids("a"), ids("b")))
    };
    for format in [Lines::reads(), Lines::writes()] {
        let server = Server::new(list);
        let response = send(&layer(format.clone()).parallel(3), &server, 12)
            .await
            .unwrap();
        let length = response.body().size_hint().exact().unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let ids = |mark: &str| (0..12).map(|m| format!("{mark}{m} ")).collect::<String>();
        assert_eq!(body, format!("LISTS\n{}|{}", ids("a"), ids("b")));
        assert_eq!(body.len() as u64, length);

        // Part of it fails: what only reads fails with it, since a list cannot say that it is not complete.
        let server = Server::new(move |call| match call.members.contains(&7) {
            true => text("FAULT failed"),
            false => list(call),
        });
        let response = send(&layer(format.clone()).max_members(5), &server, 12)
            .await
            .unwrap();
        let stats = stats(&response);
        assert_eq!((stats.done, stats.not_executed), (11, 1));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        match format.idempotency {
            Idempotency::Safe => assert_eq!(body, "FAULT failed"),
            _ => assert!(body.starts_with(b"LISTS\na0 a1 a2 a3 a4 a5 a6 a8 a9 a10 a11 |b0 ")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_response_that_does_not_fit_is_not_the_response_to_all() {
    let server = Server::new(|call| match call.members.contains(&8) {
        true => text("LISTS\na8 "),
        false => text("LISTS\na|b"),
    });
    let layer = layer(Lines::reads()).max_members(5);
    let error = send(&layer, &server, 12).await.unwrap_err();
    let Some(BatchError::Incomplete { missing, cause, .. }) = error.downcast_ref() else {
        panic!("{error}");
    };
    assert_eq!(
        (*missing, &**cause),
        (1, "the response does not match the members that were sent")
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_words_for_errors_breaks_off() {
    let mut format = Lines::reads();
    format.explains = false;
    let server = Server::new(|call| match call.members.contains(&12) {
        true => text("FAULT failed"),
        false => call.ok(),
    });
    let response = send(&layer(format), &server, 30).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    let Some(BatchError::Incomplete { missing: 1, .. }) = error.downcast_ref() else {
        panic!("{error}");
    };
}

#[tokio::test(start_paused = true)]
async fn services_and_bodies_go_between_threads() {
    fn shared<T: Clone + Send + Sync>(_: &T) {}
    fn sent<T: Send>(_: &T) {}
    fn shareable<T: Send + Sync>(_: &T) {}
    let mut service = layer(Lines::reads()).layer(Server::new(Call::ok));
    shared(&service);
    let future = service.call(batch(3));
    sent(&future);
    shareable(future.await.unwrap().body());
}
