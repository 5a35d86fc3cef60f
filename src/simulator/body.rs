//! The body of a response, which keeps the call counted as in flight until it has been sent, and the
//! loss of a connection.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::engine::InFlight;
use super::stream::{Next, Stream};

/// The connection was lost. Its source is an [`io::Error`] of the kind that a real client would see
/// (`ConnectionRefused`, `ConnectionReset`, `UnexpectedEof`), so that a classifier which knows
/// nothing of the simulator recognises it.
///
/// ```
/// use std::error::Error;
/// use std::io;
/// use tower_ews::simulator::ConnectionLost;
/// let error = ConnectionLost::refused();
/// assert!(error.nothing_sent());
/// let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
/// assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the connection to the simulated server was lost")]
pub struct ConnectionLost {
    #[source]
    source: io::Error,
}

impl ConnectionLost {
    /// The connection was refused.
    pub fn refused() -> Self {
        Self {
            source: io::ErrorKind::ConnectionRefused.into(),
        }
    }

    /// The connection was reset after the request had been sent.
    pub fn reset() -> Self {
        Self {
            source: io::ErrorKind::ConnectionReset.into(),
        }
    }

    /// The response broke off.
    pub(super) fn cut() -> Self {
        Self {
            source: io::ErrorKind::UnexpectedEof.into(),
        }
    }

    /// What a client on a socket would see.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether it proves that the server saw nothing of the request.
    pub fn nothing_sent(&self) -> bool {
        self.kind() == io::ErrorKind::ConnectionRefused
    }
}

/// The body of a response. The call counts as open at the server until its last frame has been
/// taken or the body is dropped.
///
/// ```
/// use http_body_util::BodyExt;
/// use tower::ServiceExt;
/// use tower_ews::simulator::Exchange;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// let exchange = Exchange::builder().build();
/// let response = exchange.oneshot(http::Request::new(String::new())).await?;
/// assert!(response.into_body().collect().await?.to_bytes().is_empty());
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "bodies do nothing unless they are polled"]
pub struct Body {
    frames: VecDeque<Bytes>,
    /// Bytes that the response promises and that were not sent yet.
    promised: u64,
    /// Real time before each frame, and before the loss of the connection.
    pause: Duration,
    /// Boxed, so that the body can be moved: the bodies of real clients can.
    sleep: Option<Pin<Box<Sleep>>>,
    lost: Option<ConnectionLost>,
    /// What comes after the frames, for as long as it hangs.
    stream: Option<Stream>,
    in_flight: Option<InFlight>,
}

impl Body {
    pub(super) fn whole(bytes: impl Into<Bytes>, in_flight: Option<InFlight>) -> Self {
        let bytes = bytes.into();
        let promised = bytes.len() as u64;
        // An empty body is at its end: nobody will poll it.
        let (frames, in_flight) = if bytes.is_empty() {
            (VecDeque::new(), None)
        } else {
            (VecDeque::from([bytes]), in_flight)
        };
        Self {
            frames,
            promised,
            pause: Duration::ZERO,
            sleep: None,
            lost: None,
            stream: None,
            in_flight,
        }
    }

    /// The same bytes, and then what the stream sends.
    pub(super) fn hanging(mut self, stream: Stream) -> Self {
        self.stream = Some(stream);
        self
    }

    /// The same bytes in several frames, with a pause before each.
    pub(super) fn slow(mut self, frames: usize, pause: Duration) -> Self {
        let bytes = self.frames.pop_front().unwrap_or_default();
        let size = bytes.len().div_ceil(frames.max(1)).max(1);
        self.frames = (0..bytes.len())
            .step_by(size)
            .map(|at| bytes.slice(at..bytes.len().min(at + size)))
            .collect();
        self.pause = pause;
        self
    }

    /// Half of the bytes, then a lost connection.
    pub(super) fn cut(mut self) -> Self {
        let bytes = self.frames.pop_front().unwrap_or_default();
        self.frames.push_back(bytes.slice(..bytes.len() / 2));
        // Without a pause a server would drop the half that it has not flushed yet.
        self.pause = Duration::from_millis(5);
        self.lost = Some(ConnectionLost::cut());
        self
    }

    /// Nothing but a lost connection: a server that streams it closes the connection before it has
    /// sent anything.
    pub(super) fn lost(error: ConnectionLost) -> Self {
        Self {
            frames: VecDeque::new(),
            promised: 1,
            pause: Duration::ZERO,
            sleep: None,
            lost: Some(error),
            stream: None,
            in_flight: None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = ConnectionLost;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionLost>>> {
        let this = self.get_mut();
        if this.is_end_stream() {
            return Poll::Ready(None);
        }
        while let Some(stream) = this.stream.as_ref().filter(|_| this.frames.is_empty()) {
            let sleep = this
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(stream.pause())));
            ready!(sleep.as_mut().poll(cx));
            this.sleep = None;
            let polled = match stream.next() {
                Next::Lost => continue,
                Next::Frame(frame) if !frame.last => {
                    return Poll::Ready(Some(Ok(Frame::data(frame.bytes))));
                }
                Next::Frame(frame) => Ok(Frame::data(frame.bytes)),
                Next::Reset => Err(ConnectionLost::reset()),
            };
            (this.stream, this.in_flight) = (None, None);
            return Poll::Ready(Some(polled));
        }
        let pause = this.pause;
        if this.sleep.is_some() || !pause.is_zero() {
            let sleep = this
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            ready!(sleep.as_mut().poll(cx));
            this.sleep = None;
        }
        let Some(bytes) = this.frames.pop_front() else {
            this.in_flight = None;
            return Poll::Ready(this.lost.take().map(Err));
        };
        this.promised = this.promised.saturating_sub(bytes.len() as u64);
        // With the last frame the response is sent: whoever takes it may call again at once.
        if this.is_end_stream() {
            this.in_flight = None;
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.lost.is_none() && self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.stream {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.promised),
        }
    }
}

/// A response with this head.
pub(super) fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
