//! A request body that can be sent again, and the layer that makes one from any body.
use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project::pin_project;
use smallvec::{SmallVec, smallvec};
use tower::BoxError;
use tower::util::Oneshot;
use tower_layer::Layer;
use tower_service::Service;

use crate::rope::Rope;
use crate::soap::{Outline, OutlineError, Targets};

/// A request body as a rope of [`Bytes`]: a clone shares them, its length is known, and it can be sent again.
///
/// What EWS-aware layers want to know about it, its [outline](ReplayBody::outline), is found when the first of them asks, once for
/// all clones. As a [`Body`] it gives one frame per piece and never fails.
///
/// A clone of a body that was partly read goes on where that one stood; [`ReplayBody::rewind`] starts anew.
///
/// ```
/// use http_body::Body;
/// use tower_ews::body::ReplayBody;
///
/// let body = ReplayBody::from("hello");
/// assert_eq!(body.len(), 5);
/// assert_eq!(body.size_hint().exact(), Some(5));
/// assert!(body.outline().is_err(), "not SOAP");
///
/// let rope = ReplayBody::from_pieces(["he".into(), "llo".into()]);
/// assert_eq!(rope.to_bytes(), "hello");
/// assert_eq!(format!("{rope:?}"), "ReplayBody { len: 5, pieces: 2 }");
/// ```
#[derive(Clone)]
pub struct ReplayBody {
    shared: Arc<Shared>,
    /// The next piece to be read.
    next: usize,
    /// Bytes that were not read yet.
    left: u64,
}

struct Shared {
    pieces: SmallVec<[Bytes; 1]>,
    len: u64,
    outline: OnceLock<Result<Outline, OutlineError>>,
    targets: OnceLock<Targets>,
}

impl ReplayBody {
    /// A body of one piece.
    pub fn new(bytes: impl Into<Bytes>) -> ReplayBody {
        ReplayBody::of(smallvec![bytes.into()])
    }

    /// A body of several pieces, none of which is copied. Empty ones are left out.
    pub fn from_pieces(pieces: impl IntoIterator<Item = Bytes>) -> ReplayBody {
        ReplayBody::of(pieces.into_iter().collect())
    }

    /// A body whose outline is known already: that of exactly these bytes.
    pub(crate) fn with_outline(rope: Rope, outline: Outline) -> ReplayBody {
        let mut body = ReplayBody::from(rope);
        if let Some(shared) = Arc::get_mut(&mut body.shared) {
            shared.outline = OnceLock::from(Ok(outline));
        }
        body
    }

    /// The whole body as a rope, uncopied.
    pub fn rope(&self) -> Rope {
        self.shared.pieces.iter().cloned().collect()
    }

    /// A body of no bytes.
    pub fn empty() -> ReplayBody {
        ReplayBody::of(SmallVec::new())
    }

    fn of(mut pieces: SmallVec<[Bytes; 1]>) -> ReplayBody {
        pieces.retain(|piece| !piece.is_empty());
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        let shared = Shared {
            pieces,
            len,
            outline: OnceLock::new(),
            targets: OnceLock::new(),
        };
        ReplayBody {
            shared: Arc::new(shared),
            next: 0,
            left: len,
        }
    }

    /// Bytes in the whole body, read or not.
    pub fn len(&self) -> u64 {
        self.shared.len
    }

    /// Whether the whole body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.shared.len == 0
    }

    /// The pieces of the whole body.
    pub fn pieces(&self) -> &[Bytes] {
        &self.shared.pieces
    }

    /// The whole body in one piece: a shared one if it has one, else a copy.
    pub fn to_bytes(&self) -> Bytes {
        join(&self.shared.pieces)
    }

    /// The body from its beginning, even where this one was read already.
    #[must_use = "the body itself stays where it is"]
    pub fn rewind(&self) -> ReplayBody {
        ReplayBody {
            shared: Arc::clone(&self.shared),
            next: 0,
            left: self.shared.len,
        }
    }

    /// The outline of the whole body, as far as it is EWS. Found at the first call and kept for all clones; a body of several
    /// pieces is copied for it, which lasts no longer than that call.
    ///
    /// # Errors
    ///
    /// Why it has none; see [`Outline::parse`].
    pub fn outline(&self) -> Result<&Outline, &OutlineError> {
        self.shared
            .outline
            .get_or_init(|| Outline::parse(&self.to_bytes()))
            .as_ref()
    }

    /// The mailboxes that the body touches. Found at the first call and kept for all clones, like the outline; none if there is
    /// no outline.
    pub fn targets(&self) -> Option<&Targets> {
        let outline = self.outline().ok()?;
        Some(
            self.shared
                .targets
                .get_or_init(|| outline.targets(&self.to_bytes())),
        )
    }

    fn rest(&self) -> Bytes {
        join(self.shared.pieces.get(self.next..).unwrap_or_default())
    }
}

fn join(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [] => Bytes::new(),
        [piece] => piece.clone(),
        pieces => {
            let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            for piece in pieces {
                whole.extend_from_slice(piece);
            }
            whole.freeze()
        }
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(piece) = self.shared.pieces.get(self.next).cloned() else {
            return Poll::Ready(None);
        };
        self.next += 1;
        self.left = self.left.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Default for ReplayBody {
    fn default() -> ReplayBody {
        ReplayBody::empty()
    }
}

/// Lengths alone: a body can hold passwords.
impl fmt::Debug for ReplayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("len", &self.len())
            .field("pieces", &self.pieces().len())
            .finish()
    }
}

impl From<Rope> for ReplayBody {
    fn from(rope: Rope) -> ReplayBody {
        ReplayBody::from_pieces(rope)
    }
}

impl From<Bytes> for ReplayBody {
    fn from(bytes: Bytes) -> ReplayBody {
        ReplayBody::new(bytes)
    }
}

impl From<Vec<u8>> for ReplayBody {
    fn from(bytes: Vec<u8>) -> ReplayBody {
        ReplayBody::new(bytes)
    }
}

impl From<String> for ReplayBody {
    fn from(text: String) -> ReplayBody {
        ReplayBody::new(text)
    }
}

impl From<&'static str> for ReplayBody {
    fn from(text: &'static str) -> ReplayBody {
        ReplayBody::new(text)
    }
}

impl From<()> for ReplayBody {
    fn from((): ()) -> ReplayBody {
        ReplayBody::empty()
    }
}

/// What was not read yet; a body of several pieces is copied into one.
impl From<ReplayBody> for Full<Bytes> {
    fn from(body: ReplayBody) -> Full<Bytes> {
        Full::new(body.rest())
    }
}

/// What was not read yet. In one piece it is a body that reqwest itself can send again; in several it is streamed, uncopied.
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
impl From<ReplayBody> for reqwest::Body {
    fn from(body: ReplayBody) -> reqwest::Body {
        match body.shared.pieces.get(body.next..) {
            None | Some([]) => reqwest::Body::from(Bytes::new()),
            Some([piece]) => reqwest::Body::from(piece.clone()),
            Some(_) => reqwest::Body::wrap(body),
        }
    }
}

/// Makes a [`ReplayBody`] from any request body, by reading it up to a size.
///
/// A [`ReplayBody`] passes as it is, and a body of one frame is taken without a copy; more frames are joined into one piece.
/// Trailers are dropped, and with them the headers `Trailer` and `Transfer-Encoding`; a `Content-Length` is put right where there is
/// one. Dropping the future drops body and call.
///
/// ```
/// use http::Request;
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_ews::body::{BufferRequestLayer, ReplayBody};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// let service = ServiceBuilder::new().layer(BufferRequestLayer::new(1024)).service(service_fn(
///     async |request: Request<ReplayBody>| Ok::<_, tower::BoxError>(request.body().len()),
/// ));
/// let length = service.oneshot(Request::new(Full::new(bytes::Bytes::from("hello")))).await?;
/// assert_eq!(length, 5);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct BufferRequestLayer {
    limit: u64,
}

impl BufferRequestLayer {
    /// What Exchange takes at most by default: 64 MiB (67,108,864 bytes, "client-specific message size limits").
    pub const DEFAULT_LIMIT: u64 = 64 * 1024 * 1024;

    /// A layer that takes bodies of at most so many bytes.
    pub const fn new(limit: u64) -> BufferRequestLayer {
        BufferRequestLayer { limit }
    }
}

impl Default for BufferRequestLayer {
    fn default() -> BufferRequestLayer {
        BufferRequestLayer::new(BufferRequestLayer::DEFAULT_LIMIT)
    }
}

impl<S> Layer<S> for BufferRequestLayer {
    type Service = BufferRequest<S>;

    fn layer(&self, inner: S) -> BufferRequest<S> {
        BufferRequest {
            inner,
            limit: self.limit,
            always_ready: false,
        }
    }
}

/// The service of [`BufferRequestLayer`]. It is always ready; it waits for the inner service in the future, once the body is
/// there.
///
/// ```
/// use tower_ews::body::BufferRequestLayer;
/// use tower_layer::Layer;
///
/// let service = BufferRequestLayer::default().layer("any service");
/// assert_eq!(service.into_inner(), "any service");
/// ```
#[derive(Clone, Debug)]
pub struct BufferRequest<S> {
    inner: S,
    limit: u64,
    always_ready: bool,
}

impl<S> BufferRequest<S> {
    /// Says that the inner service is always ready, so that a body that is there needs no clone of it: `benches/overhead`, `stack`.
    pub(crate) fn inner_is_always_ready(mut self) -> Self {
        self.always_ready = true;
        self
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// Why a request body was not taken; nothing was sent.
///
/// ```
/// use tower_ews::body::BufferRequestError;
///
/// let error = BufferRequestError::TooLarge { limit: 10 };
/// assert_eq!(error.to_string(), "the request body has more than 10 bytes: send less, or raise BufferRequestLayer's limit");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BufferRequestError {
    /// Larger than the layer takes.
    #[error(
        "the request body has more than {limit} bytes: send less, or raise BufferRequestLayer's limit"
    )]
    TooLarge {
        /// The layer's limit in bytes.
        limit: u64,
    },
    /// The body itself failed.
    #[error("the request body could not be read")]
    Body(#[source] BoxError),
}

impl<S, B> Service<Request<B>> for BufferRequest<S>
where
    S: Service<Request<ReplayBody>> + Clone,
    S::Error: Into<BoxError>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BufferRequestFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> BufferRequestFuture<S, B> {
        let (parts, mut body) = request.into_parts();
        let limit = self.limit;
        let state = match in_one_piece(&mut body) {
            Some(body) if body.len() > limit => State::TooLarge,
            Some(body) => {
                let request = buffered(parts, body);
                match self.always_ready {
                    true => State::Called(self.inner.call(request)),
                    false => State::Call(Oneshot::new(self.inner.clone(), request)),
                }
            }
            None => State::Read {
                body,
                taken: Some((self.inner.clone(), parts)),
                frames: SmallVec::new(),
                len: 0,
            },
        };
        BufferRequestFuture { limit, state }
    }
}

/// The future of [`BufferRequest`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct BufferRequestFuture<S, B>
where
    S: Service<Request<ReplayBody>>,
{
    limit: u64,
    #[pin]
    state: State<S, B>,
}

#[pin_project(project = StateProj)]
enum State<S, B>
where
    S: Service<Request<ReplayBody>>,
{
    Read {
        #[pin]
        body: B,
        taken: Option<(S, http::request::Parts)>,
        frames: SmallVec<[Bytes; 1]>,
        len: u64,
    },
    Call(#[pin] Oneshot<S, Request<ReplayBody>>),
    Called(#[pin] S::Future),
    TooLarge,
}

/// Takes a body whose bytes are there already.
fn in_one_piece<B: Body + 'static>(body: &mut B) -> Option<ReplayBody> {
    let body = body as &mut dyn Any;
    if let Some(body) = body.downcast_mut::<ReplayBody>() {
        return Some(mem::take(body));
    }
    let full = mem::take(body.downcast_mut::<Full<Bytes>>()?);
    // A `Full` shows its bytes to whoever polls it, and it is ready at once.
    let mut cx = Context::from_waker(Waker::noop());
    Some(match pin!(full).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => ReplayBody::new(frame.into_data().unwrap_or_default()),
        _ => ReplayBody::empty(),
    })
}

/// A request extension: what a layer above has made of the body to look at its outline.
#[derive(Clone)]
pub(crate) struct LookedAt(pub(crate) ReplayBody);

fn buffered(mut parts: http::request::Parts, mut body: ReplayBody) -> Request<ReplayBody> {
    put_right(&mut parts.headers, body.len());
    if let Some(LookedAt(known)) = parts.extensions.remove() {
        // Another layer may have changed the body in between.
        let same = |(one, other): (&Bytes, &Bytes)| one.as_ptr() == other.as_ptr() || one == other;
        let pairs = || known.pieces().iter().zip(body.pieces());
        if known.len() == body.len()
            && known.pieces().len() == body.pieces().len()
            && pairs().all(same)
        {
            body = known.rewind();
        }
    }
    Request::from_parts(parts, body)
}

/// The encoding that a body still has: what is compressed is not read.
pub(crate) fn encoding(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get_all(CONTENT_ENCODING).iter().find(|value| {
        let value = value.as_bytes().trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    })
}

/// The body's length is known now, so that it is not sent in chunks.
fn put_right(headers: &mut HeaderMap, len: u64) {
    headers.remove(TRANSFER_ENCODING);
    headers.remove(TRAILER);
    if headers.contains_key(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
}

impl<S, B> Future for BufferRequestFuture<S, B>
where
    S: Service<Request<ReplayBody>>,
    S::Error: Into<BoxError>,
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let limit = *this.limit;
        let too_large = || Poll::Ready(Err(BufferRequestError::TooLarge { limit }.into()));
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Call(call) => return call.poll(cx).map_err(Into::into),
                StateProj::Called(call) => return call.poll(cx).map_err(Into::into),
                StateProj::TooLarge => return too_large(),
                StateProj::Read {
                    mut body,
                    taken,
                    frames,
                    len,
                } => {
                    if len.saturating_add(body.size_hint().lower()) > limit {
                        return too_large();
                    }
                    match ready!(body.as_mut().poll_frame(cx)) {
                        Some(Ok(frame)) => {
                            let Ok(mut data) = frame.into_data() else {
                                continue;
                            };
                            *len = len.saturating_add(data.remaining() as u64);
                            if *len > limit {
                                return too_large();
                            }
                            frames.push(data.copy_to_bytes(data.remaining()));
                            continue;
                        }
                        Some(Err(error)) => {
                            return Poll::Ready(Err(BufferRequestError::Body(error.into()).into()));
                        }
                        None => {
                            let Some((inner, parts)) = taken.take() else {
                                return Poll::Pending;
                            };
                            let whole = ReplayBody::new(join(&mem::take(frames)));
                            State::Call(Oneshot::new(inner, buffered(parts, whole)))
                        }
                    }
                }
            };
            this.state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for BufferRequestFuture<S, B>
where
    S: Service<Request<ReplayBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferRequestFuture")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::header::HOST;
    use http_body_util::{BodyExt, StreamBody};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::soap::Operation;

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
        let members =
            |body: &ReplayBody| body.outline().unwrap().array().unwrap().members().to_vec();
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

    /// Answers with the request that came.
    fn echo()
    -> impl Service<
        Request<ReplayBody>,
        Response = Request<ReplayBody>,
        Error = BoxError,
        Future: Send,
    > + Clone {
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
    async fn an_outline_that_a_layer_above_has_found_is_not_found_again() {
        let bytes = Bytes::from(REQUEST);
        let known = ReplayBody::from(bytes.clone());
        let outline: *const Outline = known.outline().unwrap();
        let other = Bytes::from(REQUEST.replace("'a'", "'b'"));
        // The same bytes, the same text at another place, and another text.
        let bodies = [
            (bytes, true),
            (Bytes::copy_from_slice(REQUEST.as_bytes()), true),
            (other, false),
        ];
        for (body, same) in bodies {
            let mut request = Request::new(Full::new(body.clone()));
            request.extensions_mut().insert(LookedAt(known.clone()));
            let buffer = BufferRequestLayer::default().layer(echo());
            let request = buffer.oneshot(request).await.unwrap();
            assert_eq!(request.body().to_bytes(), body);
            assert_eq!(
                std::ptr::eq(request.body().outline().unwrap(), outline),
                same
            );
            assert!(request.extensions().get::<LookedAt>().is_none());
        }
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
        let mut call =
            tokio_test::task::spawn(service.call(Request::new(Full::<Bytes>::from("a"))));
        assert!(call.poll().is_pending());
        handle.allow(1);
        assert!(call.is_woken());
        assert!(call.poll().is_pending());
        let (_, answer) = handle.next_request().await.unwrap();
        answer.send_response(());
        assert!(matches!(call.poll(), Poll::Ready(Ok(()))));
    }
}
