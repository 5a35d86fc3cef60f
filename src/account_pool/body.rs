//! [`PoolBody`]: a response body that counts as a call of its account until it has ended.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::timeout;

use super::member::InFlight;
use super::shared::Visit;
use crate::ledger::{End, Permit};

/// What a call holds until its response has ended.
#[derive(Debug)]
pub(super) struct Held {
    /// If no layer further in has taken it over.
    pub(super) permit: Option<Permit>,
    #[expect(dead_code, reason = "counts until it is dropped")]
    pub(super) in_flight: InFlight,
    #[expect(
        dead_code,
        reason = "keeps the mailbox with the account until it is dropped"
    )]
    pub(super) visit: Option<Visit>,
}

/// The response body of [`AccountPool`](super::AccountPool): that of the inner service.
///
/// Until its end was read, or it is dropped, the call counts as one of its account.
///
/// ```
/// use http_body::Body;
/// use tower_ews::account_pool::PoolBody;
///
/// fn length<B: Body<Data = bytes::Bytes>>(response: &http::Response<PoolBody<B>>) -> Option<u64> {
///     response.body().size_hint().exact()
/// }
/// ```
#[pin_project]
#[must_use = "bodies do nothing unless they are polled"]
pub struct PoolBody<B: Body>(#[pin] Inner<B>);

#[pin_project(project = InnerProject)]
enum Inner<B: Body> {
    Untouched(#[pin] B),
    Pooled(Pooled<B>),
}

/// A body whose beginning may have been read.
pub(super) struct Pooled<B: Body> {
    read: VecDeque<Result<Frame<Bytes>, B::Error>>,
    rest: Option<Pin<Box<B>>>,
    held: Option<Held>,
}

impl<B: Body<Data = Bytes>> Pooled<B> {
    pub(super) fn new(body: B) -> Self {
        Self {
            read: VecDeque::new(),
            rest: Some(Box::pin(body)),
            held: None,
        }
    }

    /// Reads the next frame, and keeps it for whoever reads the body. Returns its data; none at the end, or after an error.
    pub(super) async fn look_ahead(&mut self) -> Option<Bytes> {
        let rest = self.rest.as_mut()?;
        let frame = poll_fn(|cx| rest.as_mut().poll_frame(cx)).await;
        let data = match &frame {
            Some(Ok(frame)) => Some(frame.data_ref().cloned().unwrap_or_default()),
            Some(Err(_)) => None,
            None => {
                self.rest = None;
                None
            }
        };
        self.read.extend(frame);
        data
    }

    /// Reads as much as that in that time, and drops the rest, with all that it holds.
    pub(super) async fn let_go(&mut self, max: usize, time: Duration) {
        let read = async {
            let mut left = max;
            while let Some(data) = self.look_ahead().await {
                match left.checked_sub(data.len()) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        let _ = timeout(time, read).await;
        self.rest = None;
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = match (self.read.pop_front(), &mut self.rest) {
            (Some(frame), _) => Some(frame),
            (None, Some(rest)) => {
                let polled = rest.as_mut().poll_frame(cx);
                if let Some(permit) = self.held.as_mut().and_then(|held| held.permit.as_mut()) {
                    permit.set_unread(polled.is_ready());
                }
                ready!(polled)
            }
            (None, None) => None,
        };
        match &frame {
            Some(Ok(frame)) => {
                if frame.is_trailers() || self.is_end_stream() {
                    self.complete();
                }
            }
            Some(Err(_)) => self.held = None,
            None => {
                self.complete();
                self.held = None;
            }
        }
        Poll::Ready(frame)
    }

    /// All of it has come. It is held on until the end is read: whoever reads the frames can first report what they say.
    fn complete(&mut self) {
        let permit = self.held.as_mut().and_then(|held| held.permit.as_mut());
        if let Some(permit) = permit {
            permit.set_end(End::Complete);
        }
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref();
        self.read.is_empty() && rest.is_none_or(|rest| rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref();
        let mut hint = rest.map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint());
        let frames = self.read.iter().flatten();
        let read: u64 = frames
            .filter_map(Frame::data_ref)
            .map(|data| data.len() as u64)
            .sum();
        let upper = hint.upper().map(|upper| upper.saturating_add(read));
        let lower = hint.lower().saturating_add(read);
        hint = SizeHint::new();
        hint.set_lower(lower);
        if let Some(upper) = upper {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B: Body<Data = Bytes>> PoolBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self(Inner::Untouched(body))
    }

    pub(super) fn pooled(mut body: Pooled<B>, held: Held) -> Self {
        body.held = Some(held);
        if body.is_end_stream() {
            body.complete();
        }
        Self(Inner::Pooled(body))
    }

    /// The response of an account that is not used.
    pub(super) fn released(body: Pooled<B>) -> Self {
        Self(Inner::Pooled(body))
    }
}

impl<B: Body<Data = Bytes>> Body for PoolBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().0.project() {
            InnerProject::Untouched(body) => body.poll_frame(cx),
            InnerProject::Pooled(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Untouched(body) => body.is_end_stream(),
            Inner::Pooled(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Untouched(body) => body.size_hint(),
            Inner::Pooled(body) => body.size_hint(),
        }
    }
}

impl<B: Body> fmt::Debug for PoolBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pooled = matches!(self.0, Inner::Pooled(_));
        f.debug_struct("PoolBody")
            .field("pooled", &pooled)
            .finish_non_exhaustive()
    }
}
