//! What passes is untouched, and what is kept of it is bounded.

use std::io::IoSlice;

use bytes::Buf;
use http_body_util::{Full, StreamBody};

use super::*;

fn full(sink: &MemorySink) -> AuditLogLayer<EwsFacts> {
    ews(sink).level(Level::Full)
}

#[tokio::test(start_paused = true)]
async fn frames_trailers_and_size_hint_are_the_inner_body_s() {
    let sink = MemorySink::new();
    let one = Bytes::from_static(b"hello ");
    let first = one.clone();
    let service = full(&sink).layer(server(1, move |_| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let pieces = [
            Piece::Data(first.clone()),
            Piece::Data("world".into()),
            Piece::Trailers(trailers),
        ];
        let body = Script {
            hint: Some(11),
            ..Script::new(pieces)
        };
        Ok(Response::new(body))
    }));
    let response = service.oneshot(request(create("amy"))).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.size_hint().exact(), Some(11));
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(frame.as_ptr(), one.as_ptr(), "not copied");
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "world"
    );
    let trailers = body
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_trailers()
        .unwrap();
    assert_eq!(trailers["x-sum"], "7");
    assert!(body.frame().await.is_none());
    let record = only(&sink);
    assert_eq!(record.response_bytes, 11);
    assert_eq!(record.response_body.unwrap().bytes, "hello world");
}

#[tokio::test(start_paused = true)]
async fn of_fifty_megabytes_the_first_are_kept() {
    const FRAME: usize = 100_000;
    const FRAMES: usize = 500;
    let sink = MemorySink::new();
    let layer = full(&sink);
    let frames = futures_util::stream::iter(0..FRAMES)
        .map(|n| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'a' + (n % 26) as u8; FRAME]))));
    let body = parking_lot::Mutex::new(Some(StreamBody::new(frames)));
    let service = layer.layer(tower::service_fn(move |_: Request<ReplayBody>| {
        let response = body.lock().take().ok_or("once only");
        async move { response.map(Response::new).map_err(BoxError::from) }
    }));
    let response = service.oneshot(request(create("amy"))).await.unwrap();
    let mut body = response.into_body();
    // What the whole stream leaves behind is what is kept, and little else.
    let mut most = 0;
    let info = allocation_counter::measure(|| {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut cx) {
            drop(frame.unwrap());
            most += 1;
        }
    });
    assert_eq!(most, FRAMES);
    assert!(
        info.bytes_max < (FRAME + 4 * AuditLogLayer::DEFAULT_BODY_LIMIT) as u64,
        "{info:?}"
    );
    let record = only(&sink);
    assert_eq!(record.response_bytes, (FRAME * FRAMES) as u64);
    let kept = record.response_body.unwrap();
    assert_eq!(
        (kept.bytes.len(), kept.truncated),
        (AuditLogLayer::DEFAULT_BODY_LIMIT, true)
    );
    assert_eq!(kept.total, (FRAME * FRAMES) as u64);
}

use futures_util::StreamExt;

#[tokio::test(start_paused = true)]
async fn bodies_are_cut_at_the_limit_on_both_sides() {
    for limit in [0, 1, 5, 6, 7, 11, 12, 100] {
        let sink = MemorySink::new();
        let service = full(&sink).body_limit(limit).layer(server(1, |_| {
            Ok(Response::new(Script::new(
                ["hello ", "", "world", "!"].map(|text| Piece::Data(text.into())),
            )))
        }));
        let sent = ReplayBody::from_pieces(["hello ".into(), "world".into(), "!".into()]);
        let response = service.oneshot(request(sent)).await.unwrap();
        response.into_body().collect().await.unwrap();
        let record = only(&sink);
        for kept in [record.request_body.unwrap(), record.response_body.unwrap()] {
            assert_eq!(kept.bytes, "hello world!"[..limit.min(12)]);
            assert_eq!((kept.total, kept.truncated), (12, limit < 12));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn compressed_bodies_are_marked_and_not_kept() {
    for (encoding, kept) in [("gzip", false), ("identity", true)] {
        let sink = MemorySink::new();
        let service = full(&sink).layer(server(1, move |_| {
            let response = Response::builder().header("content-encoding", encoding);
            Ok(response.body(Script::text(response_in_error())).unwrap())
        }));
        let mut request = request("sent".into());
        request
            .headers_mut()
            .insert("content-encoding", encoding.parse().unwrap());
        let response = service.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        let record = only(&sink);
        assert_eq!(record.code.is_some(), kept, "it is not read either");
        for body in [record.request_body.unwrap(), record.response_body.unwrap()] {
            assert_eq!(body.bytes.is_empty(), !kept);
            assert_eq!(body.encoding.as_deref(), (!kept).then_some("gzip"));
            assert!(body.total > 0 && body.truncated != kept);
        }
    }
}

fn response_in_error() -> String {
    soap_response(&["ErrorItemNotFound"])
}

#[tokio::test(start_paused = true)]
async fn data_other_than_bytes() {
    /// Two slices in one frame.
    struct Two(bytes::buf::Chain<Bytes, Bytes>);
    impl Buf for Two {
        fn remaining(&self) -> usize {
            self.0.remaining()
        }
        fn chunk(&self) -> &[u8] {
            self.0.chunk()
        }
        fn chunks_vectored<'a>(&'a self, to: &mut [IoSlice<'a>]) -> usize {
            self.0.chunks_vectored(to)
        }
        fn advance(&mut self, by: usize) {
            self.0.advance(by);
        }
    }
    /// Shows its first chunk alone.
    struct Shy(Two);
    impl Buf for Shy {
        fn remaining(&self) -> usize {
            self.0.remaining()
        }
        fn chunk(&self) -> &[u8] {
            self.0.chunk()
        }
        fn advance(&mut self, by: usize) {
            self.0.advance(by);
        }
    }
    async fn run<D: Buf + Send + 'static>(data: D) -> Record {
        let sink = MemorySink::new();
        let layer = AuditLogLayer::new(sink.clone()).level(Level::Full);
        let data = parking_lot::Mutex::new(Some(data));
        let service = layer.layer(tower::service_fn(move |_: Request<Full<Bytes>>| {
            let data = data.lock().take().unwrap();
            async move { Ok::<_, BoxError>(Response::new(Full::new(data))) }
        }));
        let request = Request::new(Full::new(Bytes::from("sent")));
        let response = service.oneshot(request).await.unwrap();
        let read = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(read, "hello world");
        only(&sink)
    }
    let two = || Two(Bytes::from("hello ").chain(Bytes::from("world")));
    let record = run(two()).await;
    assert_eq!(record.request_body.unwrap().bytes, "sent");
    assert_eq!(record.response_body.unwrap().bytes, "hello world");
    let record = run(Shy(two())).await;
    assert_eq!(record.response_bytes, 11);
    let kept = record.response_body.unwrap();
    assert_eq!(
        (&kept.bytes[..], kept.total, kept.truncated),
        (&b"hello "[..], 11, true)
    );
}
