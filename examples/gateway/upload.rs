//! A request body that ends with an error if its client is too slow, or if there is no room for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::BoxError;

/// The client did not send its request in time. Nothing was sent to the server.
#[derive(Debug, thiserror::Error)]
#[error("the request did not come in time: nothing of it was sent to the server")]
pub(crate) struct TooSlow;

/// All requests together are too large. Nothing was sent to the server.
#[derive(Debug, thiserror::Error)]
#[error(
    "the gateway holds as many bytes of requests as it may: nothing of this one was sent to the server"
)]
pub(crate) struct NoRoom;

/// How many bytes of requests the gateway holds. Each call keeps its own until it has ended, to send it again.
#[derive(Debug)]
pub(crate) struct Room {
    held: AtomicU64,
    most: u64,
}

/// What one call holds. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    room: Arc<Room>,
    bytes: AtomicU64,
}

impl Room {
    pub(crate) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicU64::new(0),
            most,
        })
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Arc<Held> {
        Arc::new(Held {
            room: Arc::clone(self),
            bytes: AtomicU64::new(0),
        })
    }
}

impl Held {
    fn take(&self, bytes: u64) -> Result<(), NoRoom> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let held = self.room.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match held > self.room.most {
            true => Err(NoRoom),
            false => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room
            .held
            .fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// A request body whose frames come in time, and whose end does.
#[pin_project]
pub(crate) struct Upload<B> {
    #[pin]
    body: B,
    held: Arc<Held>,
    idle: Duration,
    until: Instant,
    #[pin]
    sleep: Sleep,
}

impl<B> Upload<B> {
    /// At most `idle` between two frames, and the end before `until`.
    pub(crate) fn new(body: B, held: Arc<Held>, idle: Duration, until: Instant) -> Self {
        let sleep = sleep_until(until.min(Instant::now() + idle));
        Self {
            body,
            held,
            idle,
            until,
            sleep,
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Body for Upload<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if Instant::now() < *this.until {
            if let Poll::Ready(frame) = this.body.poll_frame(cx) {
                let next = (*this.until).min(Instant::now() + *this.idle);
                this.sleep.reset(next);
                let Some(Ok(frame)) = frame else {
                    return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
                };
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let taken = this.held.take(bytes);
                return Poll::Ready(Some(taken.map(|()| frame).map_err(Into::into)));
            }
        }
        this.sleep
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(TooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
