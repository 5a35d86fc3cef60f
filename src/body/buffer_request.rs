//! [`BufferRequest`]: makes a [`ReplayBody`] of any request body.
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Request};
use http_body::Body;
use http_body_util::Full;
use pin_project::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use super::forward::Forward;
use super::frame_buffer::FrameBuffer;
#[cfg(feature = "ews")]
use super::invalid_characters::InvalidCharacters;
use super::replay::ReplayBody;
use super::watch::BodyWatch;
use crate::errors::DeadlineElapsed;
use crate::extensions::Deadline;
#[cfg(feature = "ews")]
use crate::soap::InvalidCharacter;

/// After this many frames the runtime has its turn: a body of empty frames can go on for ever.
const FRAMES_PER_POLL: usize = 1024;

/// Makes a [`ReplayBody`] from any request body, by reading it up to a size.
///
/// A [`ReplayBody`] passes as it is, and a body of one frame is taken without a copy; more frames
/// are joined into one piece. Trailers are dropped, and with them the headers `Trailer` and
/// `Transfer-Encoding`; a `Content-Length` is put right where there is one. Dropping the future
/// drops body and call. A body that is not there at the [`Deadline`] of its call ends in
/// [`DeadlineElapsed`](crate::concurrency_by_principal::DeadlineElapsed): nothing was sent.
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
#[must_use = "layers do nothing until they are applied to a service"]
pub struct BufferRequestLayer {
    rules: Rules,
}

/// What may go on.
#[derive(Clone, Copy, Debug)]
struct Rules {
    limit: u64,
    #[cfg(feature = "ews")]
    characters: InvalidCharacters,
}

impl Rules {
    const fn new(limit: u64) -> Rules {
        Rules {
            limit,
            #[cfg(feature = "ews")]
            characters: InvalidCharacters::Pass,
        }
    }

    fn check(self, body: ReplayBody) -> Result<ReplayBody, BufferRequestError> {
        #[cfg(feature = "ews")]
        let body = self.characters.check(body)?;
        let limit = self.limit;
        match body.len() > limit {
            true => Err(BufferRequestError::TooLarge { limit }),
            false => Ok(body),
        }
    }
}

impl BufferRequestLayer {
    /// What Exchange takes at most by default: 64 MiB (67,108,864 bytes, "client-specific message
    /// size limits").
    pub const DEFAULT_LIMIT: u64 = 64 * 1024 * 1024;

    /// Creates a new layer that takes bodies of at most `limit` bytes.
    pub const fn new(limit: u64) -> BufferRequestLayer {
        BufferRequestLayer {
            rules: Rules::new(limit),
        }
    }

    /// Sets what happens to a SOAP request with characters that XML does not allow. Default:
    /// [`InvalidCharacters::Pass`].
    #[cfg(feature = "ews")]
    #[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
    pub const fn invalid_characters(mut self, characters: InvalidCharacters) -> BufferRequestLayer {
        self.rules.characters = characters;
        self
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
            rules: self.rules,
            always_ready: false,
        }
    }
}

/// The service of [`BufferRequestLayer`]. It is always ready; it waits for the inner service in the
/// future, once the body is there.
///
/// ```
/// use tower_ews::body::BufferRequest;
///
/// let service = BufferRequest::new("any service", 64 * 1024);
/// assert_eq!(*service.get_ref(), "any service");
/// assert_eq!(service.into_inner(), "any service");
/// ```
#[derive(Clone, Debug)]
#[must_use = "services do nothing until they are called"]
pub struct BufferRequest<S> {
    inner: S,
    rules: Rules,
    always_ready: bool,
}

impl<S> BufferRequest<S> {
    /// Creates a new service around `inner` that takes bodies of at most `limit` bytes.
    pub const fn new(inner: S, limit: u64) -> BufferRequest<S> {
        BufferRequest {
            inner,
            rules: Rules::new(limit),
            always_ready: false,
        }
    }

    /// Says that the inner service is always ready, so that a body that is there needs no clone of
    /// it: `benches/overhead`, `stack`.
    #[cfg(feature = "ews")]
    pub(crate) fn inner_is_always_ready(mut self) -> Self {
        self.always_ready = true;
        self
    }

    inner_accessors!();
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
    /// It has a character that XML does not allow, for which the server would refuse all of it.
    #[cfg(feature = "ews")]
    #[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
    #[error(transparent)]
    InvalidCharacter(#[from] InvalidCharacter),
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
        let rules = self.rules;
        let state = match in_one_piece(&mut body).map(|body| rules.check(body)) {
            Some(Err(error)) => State::Refused(Some(error)),
            Some(Ok(body)) => {
                let request = buffered(parts, body);
                State::Call(Forward::new(&mut self.inner, self.always_ready, request))
            }
            None => State::Read {
                body,
                taken: Some((self.inner.clone(), parts)),
                frames: FrameBuffer::default(),
                timer: None,
            },
        };
        BufferRequestFuture { rules, state }
    }
}

/// The future of [`BufferRequest`].
///
/// ```
/// use http::Request;
/// use tower::{Service, ServiceExt, service_fn};
/// use tower_ews::body::{BufferRequest, ReplayBody};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// let mut service = BufferRequest::new(
///     service_fn(async |request: Request<ReplayBody>| Ok::<_, tower::BoxError>(request.body().len())),
///     1024,
/// );
/// let length = service.call(Request::new(String::from("hello"))).await?;
/// assert_eq!(length, 5);
/// # Ok(()) }
/// ```
#[pin_project]
#[must_use = "futures do nothing unless they are polled"]
pub struct BufferRequestFuture<S, B>
where
    S: Service<Request<ReplayBody>>,
{
    rules: Rules,
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
        frames: FrameBuffer,
        /// Ends the call at its deadline. Set once the body has nothing ready.
        timer: Option<Pin<Box<Sleep>>>,
    },
    Call(#[pin] Forward<S>),
    Refused(Option<BufferRequestError>),
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

fn buffered(mut parts: http::request::Parts, body: ReplayBody) -> Request<ReplayBody> {
    put_right(&mut parts.headers, body.len());
    BodyWatch::show(&mut parts.extensions, &body);
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
        let limit = this.rules.limit;
        let too_large = || Poll::Ready(Err(BufferRequestError::TooLarge { limit }.into()));
        let mut frames_left = FRAMES_PER_POLL;
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Call(call) => return call.poll(cx).map_err(Into::into),
                StateProj::Refused(error) => {
                    return error
                        .take()
                        .map_or(Poll::Pending, |error| Poll::Ready(Err(error.into())));
                }
                StateProj::Read {
                    mut body,
                    taken,
                    frames,
                    timer,
                } => {
                    if frames.len().saturating_add(body.size_hint().lower()) > limit {
                        return too_large();
                    }
                    if frames_left == 0 {
                        cx.waker().wake_by_ref();
                        return in_time(taken, timer, cx);
                    }
                    frames_left -= 1;
                    let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
                        return in_time(taken, timer, cx);
                    };
                    match frame {
                        Some(Ok(frame)) => {
                            let Ok(mut data) = frame.into_data() else {
                                continue;
                            };
                            let len = frames.len().saturating_add(data.remaining() as u64);
                            if len > limit {
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
                            let whole = ReplayBody::new(mem::take(frames).into_rope().to_bytes());
                            match this.rules.check(whole) {
                                Ok(body) => {
                                    State::Call(Forward::when_ready(inner, buffered(parts, body)))
                                }
                                Err(error) => State::Refused(Some(error)),
                            }
                        }
                    }
                }
            };
            this.state.set(next);
        }
    }
}

/// Waits for more of a body until the deadline of its call.
fn in_time<S, T>(
    taken: &Option<(S, http::request::Parts)>,
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Poll<Result<T, BoxError>> {
    let parts = taken.as_ref().map(|(_, parts)| parts);
    let Some(deadline) = parts.and_then(|parts| parts.extensions.get::<Deadline>()) else {
        return Poll::Pending;
    };
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.0)));
    ready!(timer.as_mut().poll(cx));
    Poll::Ready(Err(DeadlineElapsed::at(*deadline).into()))
}

impl<S, B> fmt::Debug for BufferRequestFuture<S, B>
where
    S: Service<Request<ReplayBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferRequestFuture")
            .field("limit", &self.rules.limit)
            .finish_non_exhaustive()
    }
}
