//! [`PeekBody`]: a response body whose beginning was already read.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Sleep, sleep};
use tower::BoxError;

use super::classify::BodyClassifier;
use super::report::Reporter;
use crate::errors::{BackoffError, Stalled};

/// How long the next bytes of a response are waited for that was handed on, unless it streams notifications. Servers and
/// proxies give a connection up sooner.
const STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The response body of [`ServerBusyBackoff`](super::ServerBusyBackoff): yields the frames that were read to decide on
/// the response, then the remaining frames of the inner body as they arrive.
///
/// Bytes, trailers and the size hint are those of the inner body. What passes is scanned for refusals and not kept.
///
/// ```
/// use http_body::Body;
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
/// use tower_ews::server_busy_backoff::ServerBusyBackoffLayer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let server = service_fn(|_: http::Request<()>| async {
///     Ok::<_, tower::BoxError>(http::Response::new(String::from("hello")))
/// });
/// let mut service = ServiceBuilder::new().layer(ServerBusyBackoffLayer::http()).service(server);
/// let response = service.ready().await.unwrap().call(http::Request::new(())).await.unwrap();
/// assert_eq!(response.body().size_hint().exact(), Some(5));
/// # });
/// ```
#[must_use = "bodies do nothing unless they are polled"]
#[pin_project]
pub struct PeekBody<B: Body> {
    prefix: Prefix,
    #[pin]
    rest: Rest<B>,
    tail: Option<Box<Tail>>,
    /// How long the next frame is waited for.
    stall: Option<Pin<Box<Sleep>>>,
    /// A bound `B::Error: Into<BoxError>` on [`Body`] would do. But inside a spawned task the compiler cannot prove it for
    /// bodies whose error is a `BoxError` itself, since it forgets the lifetime in there.
    into_box_error: fn(B::Error) -> BoxError,
}

/// The frames that were already read.
#[derive(Default)]
pub(super) struct Prefix {
    /// The first data. Most bodies are one frame, and data alone is a third of a frame in size.
    first: Option<Bytes>,
    more: VecDeque<Frame<Bytes>>,
    bytes: usize,
}

impl Prefix {
    pub(super) fn push(&mut self, frame: Frame<Bytes>) {
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        if !self.is_empty() {
            self.more.push_back(frame);
            return;
        }
        match frame.into_data() {
            Ok(data) => self.first = Some(data),
            Err(frame) => self.more.push_back(frame),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty()
    }

    fn pop(&mut self) -> Option<Frame<Bytes>> {
        let first = self.first.take().map(Frame::data);
        let frame = first.or_else(|| self.more.pop_front())?;
        self.bytes -= frame.data_ref().map_or(0, Bytes::len);
        Some(frame)
    }
}

/// The part of a body that has not been read yet.
#[pin_project(project = RestProject)]
pub(super) enum Rest<B> {
    Untouched(#[pin] B),
    /// It was polled, so it must not move.
    Begun(Pin<Box<B>>),
    /// It failed while it was read.
    Failed(Option<BoxError>),
    Ended,
}

impl<B: Body> Rest<B> {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Untouched(body) => body.is_end_stream(),
            Self::Begun(body) => body.is_end_stream(),
            Self::Failed(error) => error.is_none(),
            Self::Ended => true,
        }
    }
}

/// Reads the frames that pass, and reports the refusals in them.
pub(super) struct Scan {
    pub(super) classifier: Box<dyn BodyClassifier>,
    pub(super) reporter: Reporter,
}

/// What happens with the rest of a body.
#[derive(Default)]
pub(super) struct Tail {
    pub(super) scan: Option<Scan>,
    /// The operation and the number of its attempts, if the outcome is unknown when the body breaks off.
    pub(super) unless_complete: Option<(Cow<'static, str>, u32)>,
    /// Whether it goes on for minutes, with pauses.
    pub(super) streams: bool,
}

impl<B: Body> PeekBody<B> {
    pub(super) fn new(prefix: Prefix, rest: Rest<B>) -> Self
    where
        B::Error: Into<BoxError>,
    {
        Self {
            prefix,
            rest,
            tail: None,
            stall: None,
            into_box_error: B::Error::into,
        }
    }

    pub(super) fn with_tail(mut self, tail: Tail) -> Self {
        let needed = tail.scan.is_some() || tail.unless_complete.is_some() || tail.streams;
        self.tail = needed.then(|| Box::new(tail));
        self
    }
}

impl<B> Body for PeekBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if let Some(frame) = this.prefix.pop() {
            if this.prefix.is_empty() && this.rest.is_end_stream() {
                end_early(this.rest, this.tail);
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = match this.rest.as_mut().project() {
            RestProject::Untouched(body) => body.poll_frame(cx),
            RestProject::Begun(body) => body.as_mut().poll_frame(cx),
            RestProject::Failed(error) => return Poll::Ready(error.take().map(Err)),
            RestProject::Ended => return Poll::Ready(None),
        };
        let Poll::Ready(polled) = polled else {
            if this.tail.as_ref().is_some_and(|tail| tail.streams) {
                return Poll::Pending;
            }
            let stall = this
                .stall
                .get_or_insert_with(|| Box::pin(sleep(STALL_TIMEOUT)));
            ready!(stall.as_mut().poll(cx));
            this.rest.set(Rest::Ended);
            let error = broken_off(this.tail.take(), Stalled(STALL_TIMEOUT).into());
            return Poll::Ready(Some(Err(error)));
        };
        *this.stall = None;
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                let scan = this.tail.as_mut().and_then(|tail| tail.scan.as_mut());
                if let (Some(scan), Some(data)) = (scan, frame.data_ref()) {
                    let reporter = &mut scan.reporter;
                    scan.classifier
                        .read(data, &mut |refusal| reporter.report(refusal));
                }
                if this.rest.is_end_stream() {
                    end_early(this.rest, this.tail);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let error = (this.into_box_error)(error);
                Some(Err(broken_off(this.tail.take(), error)))
            }
            None => {
                this.rest.set(Rest::Ended);
                end(this.tail).err().map(Err)
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        // Only the end of the body shows whether what was read of it is complete.
        let is_scanned = self.tail.as_ref().is_some_and(|tail| tail.scan.is_some());
        !is_scanned && self.prefix.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &self.rest {
            Rest::Untouched(body) => body.size_hint(),
            Rest::Begun(body) => body.size_hint(),
            Rest::Failed(_) => SizeHint::new(),
            Rest::Ended => SizeHint::with_exact(0),
        };
        let read = u64::try_from(self.prefix.bytes).unwrap_or(u64::MAX);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

/// Judges what was read, since nothing more comes.
fn end(tail: &mut Option<Box<Tail>>) -> Result<(), BoxError> {
    let mut tail = tail.take();
    let scan = tail.as_mut().and_then(|tail| tail.scan.as_mut());
    match scan.map_or(Ok(()), |scan| scan.classifier.end()) {
        Ok(()) => Ok(()),
        Err(error) => Err(broken_off(tail, error)),
    }
}

/// A reader need not ask for the end of a body that says that it has ended.
fn end_early<B>(mut rest: Pin<&mut Rest<B>>, tail: &mut Option<Box<Tail>>) {
    if let Err(error) = end(tail) {
        rest.set(Rest::Failed(Some(error)));
    }
}

/// The error of a body that is not complete.
fn broken_off(tail: Option<Box<Tail>>, error: BoxError) -> BoxError {
    match tail.and_then(|tail| tail.unless_complete) {
        Some((operation, attempts)) => BackoffError::OutcomeUnknown {
            operation: operation.into(),
            attempts,
            source: error,
        }
        .into(),
        None => error,
    }
}

impl<B: Body> fmt::Debug for PeekBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekBody")
            .field("read_already", &self.prefix.bytes)
            .field("ended", &matches!(self.rest, Rest::Ended))
            .finish_non_exhaustive()
    }
}
