//! Tests of the request bodies.

use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::soap::{Operation, Outline};

const REQUEST: &str = "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body>\
    <GetFolder xmlns='http://schemas.microsoft.com/exchange/services/2006/messages'><FolderIds>\
    <FolderId Id='a'/></FolderIds></GetFolder></s:Body></s:Envelope>";

#[tokio::test]
async fn a_rope_reads_like_its_whole() {
    let pieces: Vec<Bytes> = ["he", "", "l", "lo"].into_iter().map(Bytes::from).collect();
    let mut body = ReplayBody::from_pieces(pieces);
    assert_eq!((body.len(), body.pieces().len()), (5, 3));
    assert!(!body.is_end_stream());
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "he");
    assert_eq!(body.size_hint().exact(), Some(3));
    assert_eq!(
        body.clone().collect().await.unwrap().to_bytes(),
        "llo",
        "a clone goes on"
    );
    assert_eq!(
        Full::from(body.clone()).collect().await.unwrap().to_bytes(),
        "llo"
    );
    assert_eq!(body.rewind().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!((body.to_bytes(), body.len()), (Bytes::from("hello"), 5));
    while body.frame().await.is_some() {}
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
    assert!(ReplayBody::from(()).is_end_stream() && ReplayBody::default().is_empty());
}

#[test]
fn bytes_are_shared() {
    let bytes = Bytes::from(REQUEST.to_owned());
    let body = ReplayBody::from(bytes.clone());
    assert_eq!(body.to_bytes().as_ptr(), bytes.as_ptr());
    assert_eq!(body.clone().rewind().pieces()[0].as_ptr(), bytes.as_ptr());
}

#[test]
fn the_outline_is_found_once() {
    let body = ReplayBody::from(REQUEST);
    let clone = body.clone();
    assert_eq!(
        body.outline().unwrap().operation(),
        Some(Operation::GET_FOLDER)
    );
    assert!(std::ptr::eq(
        body.outline().unwrap(),
        clone.outline().unwrap()
    ));
    assert!(std::ptr::eq(
        body.targets().unwrap(),
        clone.targets().unwrap()
    ));
    let (a, b) = REQUEST.split_at(100);
    let rope = ReplayBody::from_pieces([Bytes::from(a), Bytes::from(b)]);
    let members = |body: &ReplayBody| body.outline().unwrap().array().unwrap().members().to_vec();
    assert_eq!(members(&rope), members(&body));
    assert!(ReplayBody::from("{}").targets().is_none());
}

#[test]
fn debug_shows_no_content() {
    let shown = format!("{:?}", ReplayBody::from("a password"));
    assert_eq!(shown, "ReplayBody { len: 10, pieces: 1 }");
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn reqwest_takes_it() {
    let rope = ReplayBody::from_pieces([Bytes::from("he"), Bytes::from("llo")]);
    let body = reqwest::Body::from(rope);
    assert_eq!(body.size_hint().exact(), Some(5));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(
        reqwest::Body::from(ReplayBody::from("hello")).as_bytes(),
        Some(&b"hello"[..])
    );
}

/// Responds with the request that came.
fn echo()
-> impl Service<Request<ReplayBody>, Response = Request<ReplayBody>, Error = BoxError, Future: Send>
+ Clone {
    service_fn(async |request: Request<ReplayBody>| Ok::<_, BoxError>(request))
}

fn frames(
    frames: Vec<Result<Frame<Bytes>, &'static str>>,
) -> impl Body<Data = Bytes, Error = &'static str> {
    StreamBody::new(futures_util::stream::iter(frames))
}

#[tokio::test]
async fn bodies_are_taken_without_a_copy() {
    let bytes = Bytes::from(REQUEST.to_owned());
    let layer = BufferRequestLayer::default();
    let full = layer
        .layer(echo())
        .oneshot(Request::new(Full::new(bytes.clone())))
        .await
        .unwrap();
    assert_eq!(full.body().pieces()[0].as_ptr(), bytes.as_ptr());
    let replay = ReplayBody::from(bytes);
    let outline: *const Outline = replay.outline().unwrap();
    let same = layer
        .layer(echo())
        .oneshot(Request::new(replay))
        .await
        .unwrap();
    assert!(std::ptr::eq(same.body().outline().unwrap(), outline));
}

#[tokio::test]
async fn whoever_watches_a_body_is_shown_the_one_that_is_sent() {
    let frames = || {
        let text = REQUEST.split_at(20);
        let text = [text.0, text.1].map(|text| Ok(Frame::data(Bytes::from(text))));
        frames(text.into())
    };
    async fn sent<B>(body: B)
    where
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut request = Request::new(body);
        for number in 0..2 {
            let seen = Arc::clone(&seen);
            let watch = BodyWatch::new(move |body| {
                let outline: *const Outline = body.outline().unwrap();
                seen.lock().push((number, outline as usize));
            });
            watch.insert(request.extensions_mut());
        }
        let buffer = BufferRequestLayer::default().layer(echo());
        let request = buffer.oneshot(request).await.unwrap();
        assert_eq!(request.body().to_bytes(), REQUEST);
        // Found once for all layers.
        let outline: *const Outline = request.body().outline().unwrap();
        let outline = outline as usize;
        assert_eq!(*seen.lock(), [(0, outline), (1, outline)]);
        assert!(request.extensions().get::<BodyWatch>().is_none());
    }
    sent(ReplayBody::from(REQUEST)).await;
    sent(Full::new(Bytes::from(REQUEST))).await;
    sent(String::from(REQUEST)).await;
    sent(frames()).await;
}

#[tokio::test]
async fn frames_are_joined_and_headers_put_right() {
    let trailers = Frame::trailers(HeaderMap::new());
    let body = frames(vec![
        Ok(Frame::data("he".into())),
        Ok(Frame::data("llo".into())),
        Ok(trailers),
    ]);
    let mut request = Request::new(body);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("mail"));
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    headers.insert(TRAILER, HeaderValue::from_static("x"));
    let request = BufferRequestLayer::new(5)
        .layer(echo())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(request.body().pieces(), ["hello"]);
    assert_eq!(request.headers().len(), 1, "only Host is left");
    let mut request = Request::new(ReplayBody::from("hello"));
    request
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from_static("7"));
    let request = BufferRequestLayer::new(5)
        .layer(echo())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(request.headers()[CONTENT_LENGTH], "5");
}

#[tokio::test]
async fn what_is_too_large_or_broken_is_not_sent() {
    let none =
        service_fn(async |_: Request<ReplayBody>| -> Result<(), BoxError> { unreachable!() });
    let layer = BufferRequestLayer::new(4);
    let large = |error: BoxError| {
        matches!(
            error.downcast_ref(),
            Some(BufferRequestError::TooLarge { limit: 4 })
        )
    };
    assert!(large(
        layer
            .layer(none)
            .oneshot(Request::new(ReplayBody::from("hello")))
            .await
            .unwrap_err()
    ));
    assert!(large(
        layer
            .layer(none)
            .oneshot(Request::new(Full::<Bytes>::from("hello")))
            .await
            .unwrap_err()
    ));
    let parts = vec![
        Ok(Frame::data("hel".into())),
        Ok(Frame::data("lo".into())),
        Err("not read so far"),
    ];
    assert!(large(
        layer
            .layer(none)
            .oneshot(Request::new(frames(parts)))
            .await
            .unwrap_err()
    ));
    let broken = frames(vec![Ok(Frame::data("h".into())), Err("torn")]);
    let error = layer
        .layer(none)
        .oneshot(Request::new(broken))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the request body could not be read");
    assert_eq!(
        std::error::Error::source(&*error).unwrap().to_string(),
        "torn"
    );
}

#[tokio::test]
async fn waits_for_the_inner_service_in_the_future() {
    let (inner, mut handle) = tower_test::mock::pair::<Request<ReplayBody>, ()>();
    handle.allow(0);
    let mut service = BufferRequestLayer::default().layer(inner);
    assert!(matches!(
        futures_util::poll!(std::future::poll_fn(|cx| {
            Service::<Request<Full<Bytes>>>::poll_ready(&mut service, cx)
        })),
        Poll::Ready(Ok(()))
    ));
    let mut call = tokio_test::task::spawn(service.call(Request::new(Full::<Bytes>::from("a"))));
    assert!(call.poll().is_pending());
    handle.allow(1);
    assert!(call.is_woken());
    assert!(call.poll().is_pending());
    let (_, response) = handle.next_request().await.unwrap();
    response.send_response(());
    assert!(matches!(call.poll(), Poll::Ready(Ok(()))));
}

/// A peer decides how it cuts a body; memory follows the bytes.
#[test]
fn a_body_of_tiny_frames_costs_its_bytes() {
    const BYTES: usize = 1 << 20;
    for (frame, count, bytes) in [("x", BYTES, BYTES), ("", 1 << 20, 0)] {
        let stream =
            futures_util::stream::iter((0..count).map(move |_| {
                Ok::<_, BoxError>(Frame::data(Bytes::from_static(frame.as_bytes())))
            }));
        let service = BufferRequestLayer::default().layer(service_fn(
            async |request: Request<ReplayBody>| Ok::<_, BoxError>(request.body().pieces().len()),
        ));
        let mut pieces = 0;
        let info = allocation_counter::measure(|| {
            let call = service.oneshot(Request::new(StreamBody::new(stream)));
            let mut call = tokio_test::task::spawn(call);
            pieces = loop {
                if let Poll::Ready(pieces) = call.poll() {
                    break pieces.unwrap();
                }
                assert!(call.is_woken());
            };
        });
        assert!(pieces <= 1);
        // The frames, and the one piece that they become.
        assert!(info.bytes_max <= 3 * bytes as u64 + 300_000, "{info:?}");
    }
}

#[test]
fn a_body_of_empty_frames_lets_others_run() {
    let endless =
        futures_util::stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::new())));
    let service = BufferRequestLayer::default().layer(echo());
    let mut call = tokio_test::task::spawn(service.oneshot(Request::new(StreamBody::new(endless))));
    for _ in 0..3 {
        assert!(call.poll().is_pending());
        assert!(call.is_woken());
    }
}

/// A body that does not come, or is empty for ever, ends at the deadline of its call, and nothing is sent.
#[tokio::test(start_paused = true)]
async fn an_upload_has_the_deadline_of_its_call() {
    use crate::errors::DeadlineElapsed;
    use crate::extensions::Deadline;

    type Frames = futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, BoxError>>;
    let minute = std::time::Duration::from_secs(60);
    let hanging: fn() -> Frames = || {
        let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from("<s:")))]);
        first.chain(futures_util::stream::pending()).boxed()
    };
    let empty: fn() -> Frames = || {
        let frames = futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::new())));
        frames
            .then(|frame| async {
                tokio::time::sleep(std::time::Duration::from_millis(7)).await;
                frame
            })
            .boxed()
    };
    for frames in [hanging, empty] {
        let service = BufferRequest::new(
            service_fn(async |_: Request<ReplayBody>| -> Result<(), BoxError> { panic!("sent") }),
            1024,
        );
        let mut request = Request::new(StreamBody::new(frames()));
        request.extensions_mut().insert(Deadline::within(minute));
        let begin = tokio::time::Instant::now();
        let error = service.oneshot(request).await.unwrap_err();
        assert!(error.is::<DeadlineElapsed>(), "{error}");
        assert_eq!(begin.elapsed(), minute);
    }
}
