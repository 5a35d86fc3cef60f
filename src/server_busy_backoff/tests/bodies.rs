//! Response bodies: what is read before they are handed over, and what passes through.

use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::HeaderMap;

use super::*;

/// Pieces of a success whose items hold a number of bytes of text.
fn long_success(bytes: usize) -> (Bytes, Vec<Bytes>) {
    let item = format!(
        "<t:Message><t:Body>{}</t:Body></t:Message>",
        "x".repeat(bytes)
    );
    let whole = Bytes::from(messages("GetItem", &[("Success", "NoError", &item)]));
    let pieces = (0..whole.len())
        .step_by(8_000)
        .map(|at| whole.slice(at..whole.len().min(at + 8_000)));
    let pieces = pieces.collect();
    (whole, pieces)
}

fn serve(server: Server, body: TestBody) -> Server {
    let response = http_response(200, &[XML], body);
    server.step(move |_| async move { Ok(response) })
}

/// A body of 50 MB that is made as it is polled, and knows how much of it is alive.
struct Huge {
    left: usize,
    began: bool,
    ended: bool,
    alive: Arc<AtomicUsize>,
}

struct Piece(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), Ordering::SeqCst);
    }
}

const PIECE: usize = 16 * 1024;
const HUGE: usize = 50 * 1024 * 1024;

impl Body for Huge {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let opening = messages(
            "GetItem",
            &[("Success", "NoError", "<m:Items><t:Message><t:Body>")],
        );
        let (opening, closing) = opening.split_once("</m:GetItemResponseMessage>").unwrap();
        let closing =
            format!("</t:Body></t:Message></m:Items></m:GetItemResponseMessage>{closing}");
        let piece = match (self.began, self.left) {
            (false, _) => opening.as_bytes().to_vec(),
            (true, 0) if self.ended => return Poll::Ready(None),
            (true, 0) => {
                self.ended = true;
                closing.into_bytes()
            }
            (true, left) => vec![b'x'; left.min(PIECE)],
        };
        if std::mem::replace(&mut self.began, true) && !self.ended {
            self.left -= piece.len();
        }
        self.alive.fetch_add(piece.len(), Ordering::SeqCst);
        let piece = Bytes::from_owner(Piece(piece, self.alive.clone()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_megabytes_are_not_collected() {
    let alive = Arc::new(AtomicUsize::new(0));
    let counter = alive.clone();
    let log = Log::new();
    for operation in ["GetItem", "CreateItem"] {
        let counter = counter.clone();
        let server = tower::service_fn(move |_: Request<ReplayBody>| {
            let body = Huge {
                left: HUGE,
                began: false,
                ended: false,
                alive: counter.clone(),
            };
            let response = Response::builder().header(XML.0, XML.1).body(body).unwrap();
            async move { Ok::<_, BoxError>(response) }
        });
        let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log));
        let response = layer.layer(server).oneshot(ews(operation)).await.unwrap();
        let mut peak = alive.load(Ordering::SeqCst);
        let mut body = response.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().into_data().unwrap().len();
            peak = peak.max(alive.load(Ordering::SeqCst));
        }
        assert!(read > HUGE);
        assert!(
            peak < 64 * 1024 + 2 * PIECE,
            "{peak} bytes were held at once"
        );
        println!("{operation}: {read} bytes passed, {peak} held at most");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_trailers_and_size_hint_are_the_servers() {
    for bytes in [0, 100, 60_000, 64_000, 70_000, 300_000] {
        let (whole, pieces) = long_success(bytes);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "12".parse().unwrap());
        let log = Log::new();
        let body = TestBody::new(&log, pieces).then(Ok(Frame::trailers(trailers.clone())));
        let server = serve(Server::new(&log), body);
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
            .await
            .unwrap();
        let body = response.into_body();
        assert!(!body.is_end_stream());
        // The inner hint does not shrink in this test.
        if bytes < 60_000 {
            assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        }
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers), "{bytes}");
        assert!(collected.to_bytes() == whole, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_size_hint_counts_what_was_read() {
    let (whole, _) = long_success(300_000);
    let full = http_body_util::Full::new(whole.clone());
    let server = tower::service_fn(move |_: Request<ReplayBody>| {
        let response = Response::new(full.clone());
        async move { Ok::<_, BoxError>(response) }
    });
    let mut response = ServerBusyBackoffLayer::ews()
        .layer(server)
        .oneshot(ews("GetItem"))
        .await
        .unwrap();
    assert_eq!(
        response.body().size_hint().exact(),
        Some(whole.len() as u64)
    );
    assert!(!response.body().is_end_stream());
    assert!(
        response
            .body_mut()
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap()
            == whole
    );
    assert!(response.body().is_end_stream());
    assert_eq!(response.body().size_hint().exact(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_short_response_is_read_to_its_end_first() {
    let whole = success();
    let (first, second) = whole.split_at(whole.len() / 2);
    for (name, clean) in [("broken off", false), ("ended too early", true)] {
        for operation in ["GetItem", "CreateItem"] {
            let log = Log::new();
            let mut cut = TestBody::new(&log, [first.to_owned()]);
            if !clean {
                cut = cut.then(Err(reset().into()));
            }
            let good = TestBody::new(&log, [first.to_owned(), second.to_owned()]);
            let server = serve(serve(Server::new(&log), cut), good);
            let outcome = send(ServerBusyBackoffLayer::ews(), &server, ews(operation)).await;
            if operation == "GetItem" {
                assert_eq!(text(outcome.unwrap()).await, whole, "{name}");
                assert_eq!(log.calls().len(), 2, "{name}");
            } else {
                let error = outcome.unwrap_err();
                let unknown = matches!(
                    error.downcast_ref(),
                    Some(BackoffError::OutcomeUnknown { .. })
                );
                assert!(unknown && log.calls().len() == 1, "{name}: {error:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_breaks_off_is_still_a_refusal() {
    let log = Log::new();
    let cut = TestBody::new(&log, ["<html>"]).then(Err(reset().into()));
    let response = http_response(503, &[("retry-after", "2")], cut);
    let server = Server::new(&log)
        .step(move |_| async move { Ok(response) })
        .xml(200, &success());
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), log.calls()[1]),
        (200, millis(2_000))
    );

    // With its head as the last word, the body is handed over as it came.
    let log = Log::new();
    let cut = TestBody::new(&log, ["<a>"]).then(Err(reset().into()));
    let response = http_response(503, &[XML], cut);
    let server = Server::new(&log).step(move |_| async move { Ok(response) });
    let layer = ServerBusyBackoffLayer::ews().deadline(Duration::ZERO);
    let mut response = send(layer, &server, ews("CreateItem")).await.unwrap();
    assert_eq!(
        response
            .body_mut()
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap(),
        "<a>"
    );
    assert!(
        response
            .body_mut()
            .frame()
            .await
            .unwrap()
            .unwrap_err()
            .is::<std::io::Error>()
    );
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_later_leaves_the_outcome_unknown() {
    for operation in ["GetItem", "DeleteItem", "CreateItem"] {
        let (_, pieces) = long_success(200_000);
        let log = Log::new();
        let body = TestBody::new(&log, pieces).then(Err(reset().into()));
        let server = serve(Server::new(&log), body);
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews(operation))
            .await
            .unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        let unknown = matches!(
            error.downcast_ref(),
            Some(BackoffError::OutcomeUnknown { .. })
        );
        assert_eq!(unknown, operation != "GetItem", "{error:?}");
        assert_eq!(error.is::<std::io::Error>(), operation == "GetItem");
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_signal_is_reported_as_it_passes() {
    let item = format!("<t:Body>{}</t:Body>", "x".repeat(200_000));
    let late = messages(
        "GetItem",
        &[
            ("Success", "NoError", &item),
            ("Error", "ErrorServerBusy", &back_off("5000")),
            ("Error", "ErrorServerBusy", &back_off("4000")),
            ("Error", "ErrorServerBusy", &back_off("9000")),
            ("Error", "ErrorTooManyObjectsOpened", ""),
            ("Error", "ErrorTooManyObjectsOpened", ""),
        ],
    );
    let log = Log::new();
    let pieces: Vec<_> = late.as_bytes().chunks(10_000).map(<[u8]>::to_vec).collect();
    let server = serve(Server::new(&log).charged(), TestBody::new(&log, pieces));
    let layer = ServerBusyBackoffLayer::ews().ledger(recorder(&log));
    let begin = Instant::now();
    let response = send(layer, &server, ews("GetItem")).await.unwrap();
    assert_eq!(log.signals(), []);
    assert_eq!(text(response).await, late);
    // Each kind once; again only when it got longer.
    let busy = |wait| Signal::Busy {
        until: begin + millis(wait),
    };
    assert_eq!(
        log.signals(),
        [
            busy(5_000),
            busy(9_000),
            Signal::Exceeded(Budget::OpenMailboxes)
        ]
    );
    let events = log.events();
    let last = events
        .iter()
        .rposition(|event| matches!(event, Event::Reported(_)))
        .unwrap();
    let end = events
        .iter()
        .position(|event| *event == Event::EndPolled)
        .unwrap();
    assert!(last < end, "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_understood_however_it_is_cut() {
    let whole = busy_fault("1234");
    for at in 0..=whole.len() {
        let log = Log::new();
        let (first, second) = whole.split_at(at);
        let body = TestBody::new(&log, [first.to_owned(), second.to_owned()]);
        let response = http_response(500, &[XML], body);
        let server = Server::new(&log)
            .step(move |_| async move { Ok(response) })
            .xml(200, &success());
        let response = send(ServerBusyBackoffLayer::ews(), &server, ews("CreateItem"))
            .await
            .unwrap();
        assert_eq!(
            (response.status().as_u16(), elapsed()),
            (200, millis(1_234)),
            "cut at {at}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_handed_over_after_its_first_message() {
    let opening = messages(
        "GetStreamingEvents",
        &[(
            "Success",
            "NoError",
            "<m:ConnectionStatus>OK</m:ConnectionStatus>",
        )],
    );
    let log = Log::new();
    let server = serve(
        Server::new(&log),
        TestBody::new(&log, [opening.clone()]).endless(),
    );
    let layer = ServerBusyBackoffLayer::ews;
    let call = send(layer(), &server, ews("GetStreamingEvents"));
    let response = tokio::time::timeout(millis(10), call)
        .await
        .expect("it is not kept back")
        .unwrap();
    let mut body = response.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        opening
    );
    assert!(
        tokio::time::timeout(millis(10), body.frame())
            .await
            .is_err()
    );

    // Nothing was delivered before a refusal: it is sent again. After events, it is not.
    let busy = ("Error", "ErrorServerBusy", &*back_off("800"));
    let events = ("Success", "NoError", "<m:Notifications/>");
    for (list, calls) in [(vec![busy], 2), (vec![events, busy], 1)] {
        let log = Log::new();
        let body = TestBody::new(&log, [messages("GetStreamingEvents", &list)]).endless();
        let server = serve(
            serve(Server::new(&log), body),
            TestBody::new(&log, [opening.clone()]),
        );
        send(layer(), &server, ews("GetStreamingEvents"))
            .await
            .unwrap();
        assert_eq!(log.calls().len(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_last_response_that_is_longer_than_the_buffer_streams() {
    let page = "y".repeat(5_000_000);
    let log = Log::new();
    let pieces: Vec<_> = page
        .as_bytes()
        .chunks(100_000)
        .map(<[u8]>::to_vec)
        .collect();
    let response = http_response(503, &[("retry-after", "9999")], TestBody::new(&log, pieces));
    let server = Server::new(&log).step(move |_| async move { Ok(response) });
    let response = send(ServerBusyBackoffLayer::ews(), &server, ews("GetItem"))
        .await
        .unwrap();
    assert!(info(&response).gave_up);
    assert!(
        !log.events().contains(&Event::Frame),
        "nothing was read yet"
    );
    assert!(text(response).await == page);
}
